/*
 * The launcher: the process that the user starts. It starts the warden, and every other role when the warden asks for it,
 * tells the warden when one ends, passes signals on, and starts a new warden when the old one ends unasked.
 *
 * Why it is not the warden itself: a system call filter is inherited by every child and cannot be taken off again, and
 * no filter fits the warden and, say, the commands that the checker runs. So somebody without a filter must fork; this
 * one touches nothing else.
 */
#ifndef DAEMON_WARDEN_SPAWN_H
#define DAEMON_WARDEN_SPAWN_H

#include "base/chan.h"
#include "daemon/roles.h"

enum launch_role {
	LAUNCH_WARDEN,
	LAUNCH_BROKER,
	LAUNCH_GATE,
	LAUNCH_PORTER,
	LAUNCH_CHECKER,
	LAUNCH_KEEPER,
	LAUNCH_CATALOGUE,
	LAUNCH_LINKER,
	LAUNCH_SIGNER,
	LAUNCH_ROLE_N
};

enum launch_what {
	LAUNCH_SPAWN,	/* warden -> launcher, + fd: start this role with that channel */
	LAUNCH_READY,	/* warden -> launcher: tell the service manager */
	LAUNCH_STARTED, /* launcher -> warden: value is the pid or a negative errno */
	LAUNCH_EXITED,	/* launcher -> warden: value is the wait status */
	LAUNCH_RELOAD,	/* launcher -> warden: SIGHUP came */
	LAUNCH_STOP,	/* launcher -> warden: SIGTERM or SIGINT came */
	LAUNCH_WHAT_N
};

struct launch_msg {
	uint32_t what; /* enum launch_what */
	uint32_t role; /* enum launch_role */
	uint32_t index; /* which gate, which linker; of catalogues: the how many-th */
	int32_t value;
};

enum {
	LAUNCH_LOCK_FD = 4,  /* the warden's copy of the lock: while it lives no other daemon starts */
	LAUNCH_EXIT_STOPPED = 0, /* the warden's exit status when it was asked to end */
	LAUNCH_EXIT_CONFIG = 78, /* EX_CONFIG: starting it again cannot help */
};

const char *launch_role_name(uint32_t role);

/* launch_main() - the daemon's first process. @lock_fd: the lock, held. Returns the exit status. */
int launch_main(const struct daemon_options *o, int lock_fd);

/* warden_role_main() - the warden proper, started by the launcher with its channel on descriptor 3. */
int warden_role_main(const struct daemon_options *o);

/* launch_lock() - hold RUN/sealaned.lock. Return: descriptor; -EBUSY: *ret_pid runs already; other negative errno. */
MUST_CHECK int launch_lock(const char *run_dir, pid_t *ret_pid);

#endif
