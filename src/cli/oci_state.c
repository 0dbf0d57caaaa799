#include "cli/oci_state.h"

#include <jansson.h>
#include <stdio.h>

enum { PID_MAX = 4194304 }; /* the kernel's PID_MAX_LIMIT */

bool name_is_label(const char *s)
{
	size_t n = strlen(s);

	return n > 0 && n < LIMIT_NAME_SIZE && strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == n && s[0] != '-' && s[n - 1] != '-';
}

/* Engines use hex digits, Kubernetes and people more; runc and crun allow exactly these. */
static bool oci_id_is_valid(const char *s)
{
	return *s && strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-") == strlen(s);
}

static bool oci_text_is_printable(const char *s)
{
	for (; *s; s++) {
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			return false;
	}
	return true;
}

/* @ours: take those of sealane.dev/ or all others. Two passes, so that OCI_LABELS_MAX never pushes ours out. */
static void oci_take_labels(struct oci_state *s, const json_t *annotations, bool ours)
{
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)annotations, key, v) {
		const char *value = json_string_value(v);

		if (s->n_labels == OCI_LABELS_MAX)
			return;
		if (!value || (strncmp(key, "sealane.dev/", 12) == 0) != ours || strlen(key) + strlen(value) + 2 > OCI_LABEL_SIZE ||
		    !oci_text_is_printable(key) || !oci_text_is_printable(value))
			continue;
		snprintf(s->labels[s->n_labels++], OCI_LABEL_SIZE, "%s=%s", key, value);
	}
}

static const char *oci_take(struct oci_state *s, const json_t *root)
{
	const json_t *pid = json_object_get(root, "pid"), *annotations = json_object_get(root, "annotations");
	const char *id = json_string_value(json_object_get(root, "id")), *workload;

	if (!json_is_object(root))
		return "expected a JSON object";
	if (!id || !oci_id_is_valid(id) || !str_copy(s->id, sizeof(s->id), id))
		return "id: expected a container id of at most 127 characters";
	if (pid && (!json_is_integer(pid) || json_integer_value(pid) < 0 || json_integer_value(pid) > PID_MAX))
		return "pid: expected a process id";
	s->pid = (pid_t)json_integer_value(pid);
	if (annotations && !json_is_null(annotations) && !json_is_object(annotations))
		return "annotations: expected an object";
	oci_take_labels(s, annotations, true);
	oci_take_labels(s, annotations, false);
	if (!json_object_get(annotations, OCI_WORKLOAD_ANNOTATION))
		return NULL;
	workload = json_string_value(json_object_get(annotations, OCI_WORKLOAD_ANNOTATION));
	if (!workload || !name_is_label(workload) || !str_copy(s->workload, sizeof(s->workload), workload))
		return "annotation " OCI_WORKLOAD_ANNOTATION ": expected a workload's name (a-z, 0-9 and \"-\", at most 63)";
	return NULL;
}

int oci_state_parse(struct oci_state *ret, const char *text, size_t size, char *why, size_t why_size)
{
	AUTO_FREE(struct oci_state) s = calloc(1, sizeof(*s));
	json_error_t error;
	const char *wrong = "no memory";
	json_t *root;

	if (size > OCI_STATE_SIZE_MAX) {
		snprintf(why, why_size, "more than %d bytes", OCI_STATE_SIZE_MAX);
		return -EINVAL;
	}
	root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
	if (!root) {
		snprintf(why, why_size, "line %d: no JSON", error.line);
		return -EINVAL;
	}
	if (s)
		wrong = oci_take(s, root);
	json_decref(root);
	if (wrong) {
		snprintf(why, why_size, "%s", wrong);
		return -EINVAL;
	}
	*ret = *s;
	return 0;
}
