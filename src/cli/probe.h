/* What `sealane doctor` looks at: one function for each thing, told in a struct finding. Nothing is changed on the machine. */
#ifndef CLI_PROBE_H
#define CLI_PROBE_H

#include "base/util.h"

enum finding_state {
	FINDING_OK,
	FINDING_WARN,	 /* sealane works, with less */
	FINDING_MISSING, /* sealane does not work, or not safely */
	FINDING_UNKNOWN, /* cannot be seen from here */
	FINDING_N
};

struct finding {
	enum finding_state state;
	char found[256];
	char advice[320]; /* what to change, or what it means; "" when all is well */
};

struct probe {
	const char *name;
	void (*run)(struct finding *f);
};

/*
 * Where the daemon that we talk to keeps its files; before it has told, and if there is none, where one keeps them by default.
 * Written by `sealane doctor` before the probes run.
 */
struct probe_dirs {
	char run[256];
	char cdi[256]; /* "": it writes no specification */
};
extern struct probe_dirs probe_dirs;

/* Ends with a NULL name. */
extern const struct probe probe_kernel[], probe_machine[], probe_engines[], probe_rdma[];

void finding_set(struct finding *f, enum finding_state state, const char *advice, const char *fmt, ...) PRINTF_LIKE(4, 5);

/*
 * probe_capture() - run a program and keep the start of what it prints on standard output, NUL-terminated.
 * Ended after 5 s. Return: 0; -ENOENT: there is no such program; -EIO: it failed; other negative errno.
 */
MUST_CHECK int probe_capture(char *buf, size_t size, const char *const *argv);

/* probe_kernel_at_least() - this kernel's release is MAJOR.MINOR or later. */
bool probe_kernel_at_least(unsigned major, unsigned minor);

#endif
