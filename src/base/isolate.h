/*
 * How a role shuts itself in. Each role calls the stages in this order; each can only take rights away.
 *
 *   isolate_user()   Should: leave root for an ordinary user, without supplementary groups and capabilities.
 *                    Mustn't: run before everything that needs root was opened or was handed in on a channel.
 *   isolate_caps()   Should (the one privileged role only): keep the named capabilities, drop all others for good.
 *   isolate_paths()  Should: with Landlock (kernel 5.13+), leave only the given directories reachable.
 *                    Mustn't: fail where the kernel has no Landlock; file permissions still hold there.
 *   isolate_calls()  Should: allow only the listed system calls; any other one kills the process (and is logged by audit).
 *                    Mustn't: come before the others, since they need calls that no role may keep.
 *
 * Return: 0 or negative errno; a role that cannot shut itself in must not serve.
 */
#ifndef BASE_ISOLATE_H
#define BASE_ISOLATE_H

#include "base/util.h"

#include <sys/types.h>

MUST_CHECK int isolate_user(uid_t uid, gid_t gid);

/* @caps: CAP_* numbers that stay in the permitted, effective and bounding sets. */
MUST_CHECK int isolate_caps(const int *caps, size_t n_caps);

/* @dirs: directories that stay readable and writable beneath; none: no path can be opened any more. */
MUST_CHECK int isolate_paths(const char *const *dirs, size_t n_dirs);

/* A system call, by libseccomp's name, and optionally the one value its argument may have. */
struct isolate_call {
	const char *name;
	unsigned arg;       /* 1-based number of the argument that is checked; 0: any arguments */
	uint64_t arg_value; /* what it must equal */
	int error;	    /* not 0: the call is not allowed but fails with this errno instead of killing (for libc's tries) */
};

/* @calls: ends with a NULL name. What every program needs to go on (read, exit, mmap, ...) is added by itself. */
MUST_CHECK int isolate_calls(const struct isolate_call *calls);

#endif
