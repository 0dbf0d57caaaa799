/*
 * Theory of operation: see the table "How the warden uses it" in docs/design/guard.md; each function here is a row.
 *
 * Two upstreams of one workload may lead to the same server, so a grant is counted: it is taken back when the last name
 * of the pair leads to the gate again.
 *
 * After a restart the new program stands beside the predecessor's, and a connect must pass both. The predecessor's knows
 * all that was allowed when it was left; ours learns it again, server by server and grant by grant, and would refuse in
 * between what both daemons allow. So until all has been told ours is given grants but no servers: it lets pass, and the
 * predecessor's decides alone. "All" is when the broker has been quiet for QUIET_MS after the daemon was ready; a cut does
 * not wait for that, since the predecessor's would still allow what is to be cut. Decisions are read from then on: before,
 * the servers and workloads that they speak of have no names here.
 */
#include "daemon/warden_guard.h"

#include "base/log.h"
#include "daemon/warden.h"

#include <stdio.h>
#include <sys/syscall.h>

enum {
	QUIET_MS = 200,	    /* routes follow the broker's other orders by one question and answer */
	SETTLE_BY_MS = 2000, /* a broker that is never quiet: what only the new configuration allows is refused until then */
};

struct direct_name {
	uint32_t lid, wid, sid;
	UT_hash_handle hh;
};

static void warn(const char *what, int r)
{
	if (r < 0)
		log_warn("guard.failed", LOG_STR("step", what), LOG_STR("error", log_errno_name(r)));
}

static int exempt(struct guard *g, pid_t pid, bool children)
{
	AUTO_FD pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

	return pidfd < 0 ? -errno : guard_exempt(g, pidfd, children);
}

void warden_guard_open(struct warden *w)
{
	struct warden_guard *wg = &w->guard;
	struct guard_options o = GUARD_OPTIONS_INIT;
	int r;

	for (unsigned i = 0; i < GUARD_FD_N; i++)
		o.inherited[i] = wg->inherited[i] = keeper_take(&w->keeper, guard_fd_name(i));
	o.report_allowed = true; /* every decision is an event */
	r = guard_open(&wg->g, &o, wg->why);
	if (r < 0) {
		wg->g = NULL;
		return;
	}
	/* A guard that refuses us as well would end every relayed lane. */
	r = exempt(wg->g, getpid(), false);
	if (r < 0) {
		wg->g = guard_close(wg->g);
		snprintf(wg->why, sizeof(wg->why), "the kernel cannot mark the daemon's own processes: %s", log_errno_name(r));
	}
}

static void on_decision(void *arg, const struct guard_event *e)
{
	struct role_msg m = { .type = WB_GUARD };

	m.u.guard = (struct role_guard){ .state = GUARD_LSM, .verdict = e->verdict, .sid = e->sid, .wid = e->wid,
					 .pid = e->pid, .cgroup_id = e->cgroup_id,
					 .n_suppressed = e->n_suppressed };
	warden_tell_broker(arg, &m, -1);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct warden *w = arg;
	int r = guard_read_events(w->guard.g, on_decision, w);

	warn("read its events", r);
}

static void on_quiet(evutil_socket_t fd, short what, void *arg)
{
	warden_guard_settle(arg);
}

void warden_guard_start(struct warden *w)
{
	struct warden_guard *wg = &w->guard;
	struct role_msg m = { .type = WB_GUARD, .u.guard = { .state = wg->g ? GUARD_LSM : GUARD_OFF } };

	if (!str_copy(m.u.guard.why, sizeof(m.u.guard.why), wg->why))
		memcpy(m.u.guard.why, wg->why, sizeof(m.u.guard.why) - 1);
	warden_tell_broker(w, &m, -1);
	wg->quiet = evtimer_new(w->base, on_quiet, w);
	if (!wg->quiet || wg->inherited[GUARD_FD_LINK] < 0)
		warden_guard_settle(w);
}

void warden_guard_await_quiet(struct warden *w)
{
	struct warden_guard *wg = &w->guard;
	struct timeval tv = { .tv_usec = QUIET_MS * 1000 };
	uint64_t now = clock_ns();

	if (wg->settled)
		return;
	if (!wg->settle_by_ns)
		wg->settle_by_ns = now + SETTLE_BY_MS * 1000000ull;
	if (now >= wg->settle_by_ns || event_add(wg->quiet, &tv) < 0)
		warden_guard_settle(w);
}

void warden_guard_keep(struct warden *w)
{
	if (!w->guard.g)
		return;
	for (unsigned i = 0; i < GUARD_FD_N; i++)
		warn("store at the keeper", keeper_store(&w->keeper, guard_fd_name(i), guard_fd(w->guard.g, i)));
	port_kick(&w->keeper_port);
}

/* The keeper has been given ours under the same names, or is told to drop them. */
static void let_predecessor_go(struct warden *w)
{
	struct warden_guard *wg = &w->guard;

	for (unsigned i = 0; i < GUARD_FD_N; i++) {
		/* Without a program of our own the predecessor's goes on, with grants that nobody changes any more: end it. */
		if (!wg->g && wg->inherited[i] >= 0)
			warn("drop at the keeper", keeper_drop(&w->keeper, guard_fd_name(i)));
		fd_cleanup(&wg->inherited[i]);
		wg->inherited[i] = -1;
	}
	port_kick(&w->keeper_port);
	if (wg->g)
		guard_settle(wg->g);
}

void warden_guard_settle(struct warden *w)
{
	struct warden_guard *wg = &w->guard;
	struct server *s, *next;

	if (wg->settled)
		return;
	wg->settled = true;
	HASH_ITER(hh, w->servers.table, s, next)
		if (s->up && warden_guard_server(w, s) < 0)
			w->servers.on_state(w->servers.arg, s); /* told again, without a direct lane */
	warden_guard_keep(w);
	let_predecessor_go(w);
	if (!wg->g)
		return;
	wg->on_event = event_new(w->base, guard_event_fd(wg->g), EV_READ | EV_PERSIST, on_readable, w);
	if (!wg->on_event || event_add(wg->on_event, NULL) < 0)
		warn("watch its events", -ENOMEM);
}

void warden_guard_enrol(struct warden *w, uint64_t cgroup_id, uint32_t wid)
{
	if (w->guard.g)
		warn("enrol", guard_enrol(w->guard.g, cgroup_id, wid));
}

void warden_guard_unenrol(struct warden *w, uint64_t cgroup_id)
{
	if (w->guard.g)
		warn("unenrol", guard_unenrol(w->guard.g, cgroup_id));
}

int warden_guard_server(struct warden *w, const struct server *s)
{
	uint32_t owner = s->path[0] == '/' ? GUARD_NO_ID : s->wid;
	int r;

	if (!w->guard.g || !w->guard.settled)
		return 0;
	if (!s->up) {
		warn("drop a server", guard_drop_server(w->guard.g, s->sid));
		return 0;
	}
	r = guard_set_server(w->guard.g, s->sid, owner, s->id.dev, s->id.ino);
	warn("set a server", r);
	return r;
}

void warden_guard_forget_server(struct warden *w, uint32_t sid)
{
	if (w->guard.g)
		warn("drop a server", guard_drop_server(w->guard.g, sid));
}

int warden_guard_grant(struct warden *w, uint32_t lid, uint32_t wid, uint32_t sid)
{
	struct direct_name *n;
	int r;

	if (!w->guard.g)
		return 0;
	r = guard_grant(w->guard.g, sid, wid);
	if (r < 0)
		return r;
	HASH_FIND_INT(w->guard.names, &lid, n);
	if (!n) {
		n = calloc(1, sizeof(*n));
		if (!n)
			return -ENOMEM;
		n->lid = lid;
		HASH_ADD_INT(w->guard.names, lid, n);
	}
	n->wid = wid;
	n->sid = sid;
	return 0;
}

void warden_guard_revoke(struct warden *w, uint32_t lid)
{
	struct direct_name *n, *o, *next;
	bool other = false;

	HASH_FIND_INT(w->guard.names, &lid, n);
	if (!n)
		return;
	HASH_DEL(w->guard.names, n);
	HASH_ITER(hh, w->guard.names, o, next)
		other |= o->wid == n->wid && o->sid == n->sid;
	if (!other)
		warn("revoke", guard_revoke(w->guard.g, n->sid, n->wid));
	free(n);
}

void warden_guard_exempt(struct warden *w, pid_t pid, bool children)
{
	if (w->guard.g)
		warn("exempt", exempt(w->guard.g, pid, children));
}
