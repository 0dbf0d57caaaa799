/*
 * The kernel's own check of direct lanes. Where a workload's socket file is the server's listening socket itself, the
 * kernel connects the two and the daemon is not asked; a BPF LSM program (bpf/guard.bpf.c) is, for each such connect:
 * does the connecting task's cgroup lie in a workload that may reach this server? docs/design/guard.md says what that
 * promises and what not, and how the warden drives it.
 *
 * What is told to the kernel here: servers (an inode each, with the workload that owns it), members (which cgroup is
 * which workload), grants (workload -> server). The nearest enrolled cgroup above the task is its workload, as in
 * BW_RESOLVE. A socket that is no server is let through untouched, whatever it is.
 *
 * Ownership: struct guard owns what it opened; the program stays attached as long as any process holds GUARD_FD_LINK.
 * Threads: one. Blocking: guard_open() some 50 ms (load, verify, probe), the others one or a few bpf(2) calls.
 * Privileges: guard_open() needs CAP_BPF and CAP_PERFMON; the rest none beyond the descriptors (kernel 5.19 and later).
 * Errors: 0 or negative errno.
 */
#ifndef GUARD_GUARD_H
#define GUARD_GUARD_H

#include "base/limits.h"
#include "base/util.h"

#include <sys/types.h>

enum {
	GUARD_WHY_SIZE = 256, /* as role_reply.why */
	/* guard_read_events() hands out at most so many per call, so that a flood of refusals cannot hold up the loop. */
	GUARD_EVENTS_PER_TURN = 64,
};

#define GUARD_NO_ID UINT32_MAX /* equals ROLE_NO_ID */

struct guard;

/* What must outlive the daemon for enforcement to go on without it; the keeper holds these by guard_fd_name(). */
enum guard_fd {
	GUARD_FD_LINK,	 /* holds the program attached, and through it its tables */
	GUARD_FD_LANES,	 /* who opened which lane; the successor goes on with it */
	GUARD_FD_EVENTS, /* decisions that nobody has read yet; likewise */
	GUARD_FD_EXEMPT, /* the daemon's own processes, so that the new one may connect under the old program, too */
	GUARD_FD_N
};

struct guard_options {
	bool report_allowed; /* also an event for each allowed connect (rate limited like refusals) */
	bool verbose;	     /* libbpf's and the verifier's own words on standard error */
	/* A predecessor's descriptors, -1 where there is none. Borrowed: the caller still closes them. */
	int inherited[GUARD_FD_N];
};

#define GUARD_OPTIONS_INIT ((struct guard_options){ .inherited = { -1, -1, -1, -1 } })

/*
 * guard_open() - load and attach the program with empty tables, and prove with a connect of our own that the kernel asks it.
 * With inherited descriptors the predecessor's program goes on enforcing beside this one until guard_settle() and until
 * all its GUARD_FD_LINK descriptors are closed; its lanes, unread events and exemptions are taken over.
 * @ret_why: GUARD_WHY_SIZE bytes; on failure a line for people that says what to change.
 * Return: 0; -ENOSYS: this build or this kernel has no such hook; -EPERM: not allowed here; other negative errno.
 */
MUST_CHECK int guard_open(struct guard **ret_g, const struct guard_options *o, char *ret_why);

/* guard_settle() - all servers, members and grants have been told: let go of the predecessor's link. Nothing without one. */
void guard_settle(struct guard *g);

/* guard_close() - enforcement ends with the last GUARD_FD_LINK, which the keeper may hold. NULL is fine. Return: NULL. */
struct guard *guard_close(struct guard *g);

/* guard_fd() - one of the descriptors to keep; borrowed. */
int guard_fd(const struct guard *g, enum guard_fd which);
/* guard_fd_name() - "guard.link": its name at the keeper. */
const char *guard_fd_name(enum guard_fd which);

/*
 * guard_set_server() - connects to this listening socket's inode are checked from now on; a new inode replaces the old one.
 * @owner_wid: the workload that listens: it may connect to itself. GUARD_NO_ID: the socket is the host's, and whoever is
 * in no enrolled workload may connect as before (the host's own users of a host service must not notice us).
 * @dev, @ino: as stat(2) tells. Only for file systems whose stat tells the inode's own numbers (tmpfs, ext4, xfs; not
 * overlayfs, not btrfs); the daemon's directories are on tmpfs.
 * Order: set the server, grant, then place the link; remove the link, revoke, then cut.
 */
MUST_CHECK int guard_set_server(struct guard *g, uint32_t sid, uint32_t owner_wid, dev_t dev, ino_t ino);
/* guard_drop_server() - forget its inode; grants stay for the next one. Unknown: 0. */
MUST_CHECK int guard_drop_server(struct guard *g, uint32_t sid);

/* guard_enrol() - processes in or below this cgroup (cgroup2 inode number) are the workload. Not the root: -EINVAL. */
MUST_CHECK int guard_enrol(struct guard *g, uint64_t cgroup_id, uint32_t wid);
MUST_CHECK int guard_unenrol(struct guard *g, uint64_t cgroup_id);

/* guard_grant() - the workload may connect to the server. Twice is fine. */
MUST_CHECK int guard_grant(struct guard *g, uint32_t sid, uint32_t wid);
/* guard_revoke() - new connects are refused from the moment this returns; open lanes are the caller's to cut. Unknown: 0. */
MUST_CHECK int guard_revoke(struct guard *g, uint32_t sid, uint32_t wid);

/*
 * guard_exempt() - this process of ours connects wherever it likes: the warden itself (BW_CONNECT).
 * @children: and so do the processes it starts, up to 8 generations: the checker, whose commands are clients.
 * @pidfd: of a thread group; only its main thread is exempt. Tied to the process itself, not to its number: ends with it.
 */
MUST_CHECK int guard_exempt(struct guard *g, int pidfd, bool children);

enum guard_verdict { GUARD_VERDICT_ALLOWED = 1, GUARD_VERDICT_DENIED = 2 }; /* as role_guard.verdict */

struct guard_event {
	enum guard_verdict verdict;
	uint32_t sid;	       /* GUARD_NO_ID: no longer a server of ours */
	uint32_t wid;	       /* GUARD_NO_ID: the task is in no enrolled workload */
	uint32_t pid;	       /* in the initial PID namespace; for people, never for a decision */
	uint64_t cgroup_id;    /* the task's own cgroup, perhaps below the workload's */
	uint64_t cookie;       /* the client socket's SO_COOKIE */
	uint64_t time_ns;      /* CLOCK_MONOTONIC */
	uint32_t n_suppressed; /* such events of this workload that were not reported since its last one */
	char comm[16];	       /* hostile text, terminated */
};

/* guard_event_fd() - readable when guard_read_events() has something; borrowed. */
int guard_event_fd(const struct guard *g);
/* guard_read_events() - call @fn for up to GUARD_EVENTS_PER_TURN events. Return: how many, or negative errno. */
MUST_CHECK int guard_read_events(struct guard *g, void (*fn)(void *arg, const struct guard_event *e), void *arg);

/* Who opened a lane, as the kernel saw it at connect: it stays true when the descriptor is passed on. */
struct guard_lane {
	uint32_t sid, wid;  /* GUARD_NO_ID as above */
	bool exempt;	    /* opened by the daemon itself (a relay's server end, a health check) */
	uint32_t pid;	    /* who connected; may be long gone */
	uint64_t cgroup_id; /* the workload's enrolled cgroup at that time; 0 if none */
	uint64_t time_ns;
};

/*
 * guard_find_lane() - by the cookie of the client's socket (SO_COOKIE, udiag_cookie).
 * Return: 0; -ENOENT: not opened under the guard's eyes, or forgotten: the table keeps the 32,768 lanes opened or found last.
 */
MUST_CHECK int guard_find_lane(struct guard *g, uint64_t cookie, struct guard_lane *ret_lane);

struct guard_totals {
	uint64_t n_seen; /* stream connects on the whole host, ours or not */
	uint64_t n_allowed, n_denied;
	uint64_t n_events_lost; /* the ring was full */
};

/* guard_read_totals() - since guard_open(). */
MUST_CHECK int guard_read_totals(struct guard *g, struct guard_totals *ret_totals);
/* guard_count_grant() - connects allowed under one grant since it was given. -ENOENT: no such grant. */
MUST_CHECK int guard_count_grant(struct guard *g, uint32_t sid, uint32_t wid, uint64_t *ret_n);

#endif
