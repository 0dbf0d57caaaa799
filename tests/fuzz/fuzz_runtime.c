/*
 * Targets: oci_config_add_hooks(). A container's config.json into which `sealane-runc` splices hooks: what comes out must be
 * JSON, and must not be changed a second time.
 */
#include "cli/oci_runtime.h"

#include <jansson.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1), *out = NULL, *again = NULL, why[256] = "";
	int r;

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	r = oci_config_add_hooks(&out, text, size, "/run/sealane", "/usr/bin/sealane", "/run/sealane/admin.sock", why, sizeof(why));
	assert(r == 0 || r == 1 || (r < 0 && why[0]));
	if (r == 1) {
		/* Numbers that jansson cannot hold are why the text is spliced and not written anew. */
		json_t *j = json_loads(out, JSON_DECODE_INT_AS_REAL, NULL);

		assert(j);
		json_decref(j);
		assert(oci_config_add_hooks(&again, out, strlen(out), "/run/sealane", "/usr/bin/sealane", "/run/sealane/admin.sock",
					    why, sizeof(why)) == 0);
	}
	free(again);
	free(out);
	free(text);
	return 0;
}
