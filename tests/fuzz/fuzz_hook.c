/* The OCI state that `sealane hook` reads on standard input: what passes must keep every promise of cli/oci_state.h. */
#include "cli/oci_state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_printable(const char *s, size_t cap)
{
	assert(str_is_terminated(s, cap));
	for (; *s; s++)
		assert((unsigned char)*s >= 0x20 && *s != 0x7f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct oci_state s;
	char why[256] = "";

	if (oci_state_parse(&s, (const char *)data, size, why, sizeof(why)) < 0) {
		assert(why[0] != '\0');
		return 0;
	}
	assert(s.id[0] != '\0' && s.pid >= 0 && s.n_labels <= OCI_LABELS_MAX);
	check_printable(s.id, sizeof(s.id));
	check_printable(s.workload, sizeof(s.workload));
	assert(s.workload[0] == '\0' || name_is_label(s.workload));
	for (size_t i = 0; i < s.n_labels; i++) {
		check_printable(s.labels[i], OCI_LABEL_SIZE);
		assert(strchr(s.labels[i], '='));
	}
	return 0;
}
