/*
 * The warden's side of the kernel hook (src/guard/, docs/design/guard.md): tells it which cgroup is which workload, which
 * inode is which server, and who may connect directly, in the order that the design note demands; passes its decisions on
 * to the broker. Where the kernel has no such hook every call here does nothing and says so by `g` being NULL.
 *
 * Threads: one, the warden's loop. Errors: 0 or negative errno.
 */
#ifndef DAEMON_WARDEN_GUARD_H
#define DAEMON_WARDEN_GUARD_H

#include "guard/guard.h"
#include "wire/role.h"

#include <event2/event.h>

struct warden;
struct server;
struct direct_name;

struct warden_guard {
	struct guard *g; /* NULL: none; `why` tells why */
	char why[GUARD_WHY_SIZE];
	struct event *on_event, *quiet;
	struct direct_name *names; /* upstreams that lead to a server now: a grant stands as long as one of the pair does */
	int inherited[GUARD_FD_N]; /* the predecessor's, until all has been told */
	uint64_t settle_by_ns;
	bool settled; /* no predecessor, or it was let go: from here on our own program decides, and tells what it decided */
};

/* warden_guard_open() - before capabilities are given up; the keeper's descriptors have been fetched. Never fails. */
void warden_guard_open(struct warden *w);

/* warden_guard_start() - the state is told to the broker; without a predecessor, all is settled. */
void warden_guard_start(struct warden *w);

/* warden_guard_await_quiet() - the broker gave an order after the daemon was ready: settle when no more come. */
void warden_guard_await_quiet(struct warden *w);

/* warden_guard_settle() - the broker has told everything: check the servers, let the predecessor go, read decisions. */
void warden_guard_settle(struct warden *w);

/* warden_guard_keep() - give (a new) keeper our descriptors. */
void warden_guard_keep(struct warden *w);

void warden_guard_enrol(struct warden *w, uint64_t cgroup_id, uint32_t wid);
void warden_guard_unenrol(struct warden *w, uint64_t cgroup_id);

/* warden_guard_server() - its socket came (checked from now on) or went. Return: 0; then direct lanes may be made. */
MUST_CHECK int warden_guard_server(struct warden *w, const struct server *s);
void warden_guard_forget_server(struct warden *w, uint32_t sid);

/* warden_guard_grant() - before the name leads to the server. warden_guard_revoke() - after it no longer does. */
MUST_CHECK int warden_guard_grant(struct warden *w, uint32_t lid, uint32_t wid, uint32_t sid);
void warden_guard_revoke(struct warden *w, uint32_t lid);

/* warden_guard_exempt() - a process of ours that connects to servers. */
void warden_guard_exempt(struct warden *w, pid_t pid, bool children);

#endif
