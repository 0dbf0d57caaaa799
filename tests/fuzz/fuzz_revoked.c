/*
 * The list of what is revoked, as it comes from the authority and from the broker. The first byte says which: 'v' a version, anything else a
 * list. What was read is written and read again, and must be the same; every entry of a list means what it says.
 */
#include "core/revoked.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void one_version(const char *text)
{
	struct revoked_version v, again;
	char back[REVOKED_VERSION_SIZE];

	if (revoked_version_parse(&v, text) < 0)
		return;
	assert(strcmp(revoked_version_format(back, &v), text) == 0);
	assert(revoked_version_parse(&again, back) == 0 && !revoked_version_supersedes(&again, &v));
}

static int one_line(void *arg, const char *line)
{
	const struct revoked_list *l = arg;
	struct revocation e;
	char again[REVOKED_LINE_SIZE];

	assert(revocation_parse(&e, line) == 0);
	assert(strcmp(revocation_format(again, &e), line) == 0);
	if (e.kind == REVOKED_SERIAL)
		assert(revoked_list_find(l, "spiffe://x/host/other", e.what, INT64_MAX));
	else if (e.kind == REVOKED_ID)
		assert(revoked_list_has_id(l, e.what) && revoked_list_find(l, e.what, "01", INT64_MAX));
	else
		assert(revoked_list_before(l, e.what, e.host) >= e.before_unix_s);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	AUTO_FREE(char) text = malloc(size + 1);
	struct revoked_list *l;

	if (size == 0 || !text)
		return 0;
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	if (data[0] == 'v') {
		one_version(text);
	} else if (revoked_list_parse(&l, text, size - 1) == 0) {
		assert(revoked_list_each(l, one_line, l) == 0);
		revoked_list_free(l);
	}
	return 0;
}
