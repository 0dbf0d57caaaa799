/*
 * The namespaces and mounts of `sealane run`: a small container without an engine.
 *
 * It is made in two steps, since the command must not run one instruction before the daemon knows its cgroup: jail_start()
 * makes a process inside the cgroup that waits; the caller enrols; jail_go() lets it on. If the caller dies in between,
 * the process ends.
 *
 * What it promises: pid, mount, ipc, uts, cgroup and (unless told otherwise) network namespaces of its own; only the
 * capabilities that engines give by default, less CAP_MKNOD; /sys and the dangerous parts of /proc read-only; sealane's
 * run directory out of sight. With a root file system of its own nothing else of the host is visible. Without one the
 * command sees the host's files: that is for programs that are trusted and only have to be kept apart.
 */
#ifndef CLI_JAIL_H
#define CLI_JAIL_H

#include "base/limits.h"
#include "base/util.h"

#include <signal.h>
#include <sys/types.h>

struct jail_options {
	const char *rootfs; /* NULL: the host's files */
	bool net_host;
	const char *hostname;
	char **argv; /* NULL-terminated */
};

struct jail {
	pid_t pid; /* 0: not started */
	int pidfd;
	int gate; /* write end of the pipe that holds it */
};

/* jail_start() - @cgroup_fd: the cgroup's directory. Signals that the caller blocks stay blocked until the command starts. */
MUST_CHECK int jail_start(struct jail *ret, const struct jail_options *o, int cgroup_fd);

/* jail_go() - let it on, with the workload's directory on the host (from the enrolment's answer). */
MUST_CHECK int jail_go(struct jail *j, const char *dir);

/* jail_end() - kill and reap whatever of it is left. Safe on one that never started. */
void jail_end(struct jail *j);

/* jail_forward() - pass a signal on to the command. One that a terminal sent has reached it already: same process group. */
void jail_forward(const struct jail *j, const siginfo_t *info);

enum { JAIL_EXIT_CANNOT_RUN = 126, JAIL_EXIT_NOT_FOUND = 127, JAIL_EXIT_SIGNAL = 128 };

#endif
