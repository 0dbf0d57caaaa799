/*
 * The state that an OCI runtime gives a hook on standard input (runtime-spec, runtime.md "State").
 *
 * Trust: written by a runtime, but id and annotations come from whoever starts containers: hostile until checked. What
 * passes is bounded and holds no control characters. No I/O.
 */
#ifndef CLI_OCI_STATE_H
#define CLI_OCI_STATE_H

#include "base/limits.h"
#include "base/util.h"

#include <sys/types.h>

enum {
	OCI_STATE_SIZE_MAX = 1 << 20, /* Kubernetes bounds an object's annotations to 256 KiB; JSON may escape them */
	OCI_LABELS_MAX = 64,
	OCI_LABEL_SIZE = 256, /* "key=value" with the NUL; longer ones are left out, since nothing can be matched with them */
};

#define OCI_WORKLOAD_ANNOTATION "sealane.dev/workload"

struct oci_state {
	char id[128];
	pid_t pid;			/* 0: the container is stopped */
	char workload[LIMIT_NAME_SIZE]; /* from the annotation; "": not said */
	size_t n_labels;
	char labels[OCI_LABELS_MAX][OCI_LABEL_SIZE]; /* annotations as "key=value", those of sealane.dev/ first */
};

/* oci_state_parse() - @why: @why_size bytes, a line for people on failure. Return: 0 or -EINVAL. */
MUST_CHECK int oci_state_parse(struct oci_state *ret, const char *text, size_t size, char *why, size_t why_size);

/* name_is_label() - a name as sealane takes it: one DNS label. */
bool name_is_label(const char *s);

#endif
