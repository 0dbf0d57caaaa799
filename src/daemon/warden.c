/*
 * Theory of operation: the warden is the daemon's hands. It is the only role with rights over other people's files and
 * processes, so it takes orders from nobody but the broker, in messages of fixed size, and never reads a byte that a
 * container, a network or a configuration file wrote (configuration it copies unread). Decisions are the broker's; what
 * the warden adds is that an order is carried out on the very inode, cgroup or process that was meant, or not at all.
 *
 *   launcher (warden_spawn.c)  starts roles, tells of their ends and of signals
 *   broker                     orders; each that asks for a reply gets exactly one
 *   keeper                     is given each listening socket
 *
 * If the broker ends, so does the warden: the launcher starts all of it again, and clients wait in the backlogs of sockets
 * that the keeper holds. A gate, the porter, the checker, the catalogue, a linker or the
 * signer alone is replaced.
 */
#include "daemon/warden.h"

#include "base/foreign.h"
#include "base/log.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum {
	MSGS_PER_TURN = 64,
	SWEEP_MS = 5000,      /* after the broker said the last of what there is */
	PLACE_MS = 1000,      /* between tries to place a socket's name where there was no room */
	STOP_MS = 3000,	      /* for the broker to end in order */
	BROKER_STATUS_MS = 500,
	KEEPER_RESTART_MS = 100,
	CHECKER_RESTART_MS = 500,
	GATE_DELAY_FIRST_MS = 20,
	GATE_DELAY_LAST_MS = 5000,
	GATE_STEADY_MS = 10000,
	GRACE_DEFAULT_MS = 30000,
};

static void warden_end(struct warden *w, int status)
{
	w->exit_status = status;
	event_base_loopbreak(w->base);
}

static void arm(struct event *e, unsigned ms)
{
	struct timeval tv = { .tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000) * 1000 };

	if (event_add(e, &tv) < 0)
		log_error("warden.timer_failed", LOG_STR("error", "ENOMEM"));
}

/* ------------------------------------------------------------------ channels */

static void on_port_readable(evutil_socket_t fd, short what, void *arg)
{
	struct port *p = arg;

	foreign_tick_start();
	p->on_readable(p->w);
}

static void on_port_writable(evutil_socket_t fd, short what, void *arg)
{
	struct port *p = arg;

	foreign_tick_start();
	if (chan_flush(p->chan) < 0)
		p->on_lost(p->w);
	else
		port_kick(p);
}

int port_open(struct port *p, struct warden *w, struct chan *c, void (*on_readable)(struct warden *),
	      void (*on_lost)(struct warden *))
{
	*p = (struct port){ .w = w, .chan = c, .on_readable = on_readable, .on_lost = on_lost };
	p->rd = event_new(w->base, c->fd, EV_READ | EV_PERSIST, on_port_readable, p);
	p->wr = event_new(w->base, c->fd, EV_WRITE, on_port_writable, p);
	if (!p->rd || !p->wr || event_add(p->rd, NULL) < 0)
		return -ENOMEM;
	port_kick(p);
	return 0;
}

void port_close(struct port *p)
{
	if (p->rd)
		event_free(p->rd);
	if (p->wr)
		event_free(p->wr);
	*p = (struct port){ 0 };
}

void port_kick(struct port *p)
{
	if (p->wr && chan_wants_write(p->chan) && event_add(p->wr, NULL) < 0)
		p->on_lost(p->w);
}

/* Its exit status tells whether to start again at all; the launcher reports it in a moment. */
static void on_broker_lost(struct warden *w)
{
	if (w->broker.fd < 0)
		return;
	port_close(&w->broker_port);
	chan_close(&w->broker);
	w->exit_status = w->stopping ? LAUNCH_EXIT_STOPPED : 1;
	arm(w->stop, BROKER_STATUS_MS);
}

static void on_launcher_lost(struct warden *w)
{
	warden_end(w, 1);
}

void warden_tell_broker(struct warden *w, const struct role_msg *m, int fd)
{
	if (role_send(&w->broker, m, fd) < 0)
		on_broker_lost(w);
	else if (w->broker_port.wr)
		port_kick(&w->broker_port);
}

static void on_keeper_lost(struct warden *w)
{
	port_close(&w->keeper_port);
	keeper_close(&w->keeper);
	if (w->stopping || event_pending(w->keeper_restart, EV_TIMEOUT, NULL))
		return;
	log_warn("warden.keeper_lost", LOG_STR("then", "another one is started"));
	arm(w->keeper_restart, KEEPER_RESTART_MS);
}

/* The keeper never speaks unasked: whatever makes its channel readable is its end. */
static void on_keeper_readable(struct warden *w)
{
	on_keeper_lost(w);
}

static void on_keeper_restart(evutil_socket_t fd, short what, void *arg)
{
	struct warden *w = arg;

	if (warden_keeper_start(w) < 0 || port_open(&w->keeper_port, w, &w->keeper.chan, on_keeper_readable, on_keeper_lost) < 0)
		arm(w->keeper_restart, SWEEP_MS);
	port_kick(&w->launcher_port);
}

static void keep(void *arg, const char *key, int fd)
{
	struct warden *w = arg;

	if (keeper_store(&w->keeper, key, fd) < 0 && w->keeper_port.rd)
		on_keeper_lost(w); /* the next one is given everything */
	port_kick(&w->keeper_port);
}

static int take_kept(void *arg, const char *key)
{
	struct warden *w = arg;

	return keeper_take(&w->keeper, key);
}

static void drop(void *arg, const char *key)
{
	struct warden *w = arg;

	if (keeper_drop(&w->keeper, key) < 0 && w->keeper_port.rd)
		on_keeper_lost(w);
	port_kick(&w->keeper_port);
}

/* ------------------------------------------------------------------ roles */

int warden_spawn(struct warden *w, uint32_t role, uint32_t index, int channel)
{
	struct launch_msg m = { .what = LAUNCH_SPAWN, .role = role, .index = index };
	int r = chan_send(&w->launcher, &m, sizeof(m), channel);

	port_kick(&w->launcher_port);
	return r;
}

/* A role whose channel leads to the broker: one end to the launcher, the other to the broker. */
int warden_spawn_for_broker(struct warden *w, uint32_t role, uint32_t index, uint32_t type)
{
	struct role_msg m = { .type = type, .u.gate = { .index = index } };
	AUTO_FD broker_end = -1, role_end = -1;
	int fds[2], r = chan_pair(fds);

	if (r < 0)
		return r;
	broker_end = fds[0];
	role_end = fds[1];
	r = warden_spawn(w, role, index, role_end);
	if (r == 0)
		warden_tell_broker(w, &m, broker_end);
	return r;
}

static void start_gate(struct gate_slot *g)
{
	g->started_ns = clock_ns();
	if (warden_spawn_for_broker(g->w, LAUNCH_GATE, g->index, WB_GATE) < 0)
		arm(g->restart, GATE_DELAY_LAST_MS);
}

static void on_gate_restart(evutil_socket_t fd, short what, void *arg)
{
	start_gate(arg);
}

static void on_gate_exit(struct warden *w, uint32_t index)
{
	struct gate_slot *g;

	if (index >= w->n_gates || w->stopping)
		return;
	g = &w->gates[index];
	if (clock_ns() - g->started_ns > GATE_STEADY_MS * 1000000ull)
		g->delay_ms = GATE_DELAY_FIRST_MS;
	arm(g->restart, g->delay_ms);
	g->delay_ms = g->delay_ms * 2 > GATE_DELAY_LAST_MS ? GATE_DELAY_LAST_MS : g->delay_ms * 2;
}

static void on_checker_restart(evutil_socket_t fd, short what, void *arg)
{
	struct warden *w = arg;

	if (w->stopping || w->broker.fd < 0)
		return;
	if (warden_spawn_for_broker(w, LAUNCH_CHECKER, 0, WB_CHECKER) < 0)
		arm(w->checker_restart, GATE_DELAY_LAST_MS);
}

/*
 * Leashes first: the broker hands them to the porter that comes after. The names alone tell it whose they are, also when it is
 * as new as the porter.
 */
static void start_porter(struct warden *w)
{
	struct kept *k, *next;

	w->porter_started_ns = clock_ns();
	HASH_ITER(hh, w->leashes, k, next) {
		struct role_msg m = { .type = WB_KEPT };

		if (str_copy(m.u.store.name, sizeof(m.u.store.name), k->name))
			warden_tell_broker(w, &m, k->fd);
	}
	if (warden_spawn_for_broker(w, LAUNCH_PORTER, 0, WB_PORTER) < 0)
		arm(w->porter_restart, GATE_DELAY_LAST_MS);
}

static void on_porter_restart(evutil_socket_t fd, short what, void *arg)
{
	struct warden *w = arg;

	if (!w->stopping && w->broker.fd >= 0)
		start_porter(w);
}

static void on_porter_exit(struct warden *w)
{
	if (clock_ns() - w->porter_started_ns > GATE_STEADY_MS * 1000000ull)
		w->porter_delay_ms = GATE_DELAY_FIRST_MS;
	arm(w->porter_restart, w->porter_delay_ms);
	w->porter_delay_ms = w->porter_delay_ms * 2 > GATE_DELAY_LAST_MS ? GATE_DELAY_LAST_MS : w->porter_delay_ms * 2;
}

static void on_role_exit(struct warden *w, const struct launch_msg *m)
{
	bool config = m->what == LAUNCH_EXITED && WIFEXITED(m->value) && WEXITSTATUS(m->value) == LAUNCH_EXIT_CONFIG;

	if (m->role == LAUNCH_GATE)
		on_gate_exit(w, m->index);
	else if (m->role == LAUNCH_PORTER)
		on_porter_exit(w);
	else if (m->role == LAUNCH_CHECKER)
		arm(w->checker_restart, CHECKER_RESTART_MS);
	else if (m->role == LAUNCH_CATALOGUE)
		warden_catalogue_exited(w, m->index);
	else if (m->role == LAUNCH_LINKER || m->role == LAUNCH_SIGNER)
		warden_link_exited(w, m->role, m->index);
	else if (m->role != LAUNCH_KEEPER)
		warden_end(w, w->stopping ? LAUNCH_EXIT_STOPPED : config ? LAUNCH_EXIT_CONFIG : 1);
}

static void begin_stop(struct warden *w)
{
	struct role_msg m = { .type = WB_STOP };

	if (w->stopping)
		return;
	w->stopping = true;
	log_info("daemon.stopping", LOG_U64("sockets_wait_ms", w->grace_ms));
	arm(w->stop, STOP_MS);
	warden_tell_broker(w, &m, -1);
}

static void on_launcher_msg(struct warden *w, const struct launch_msg *m)
{
	struct role_msg reload = { .type = WB_RELOAD_ASKED };

	switch (m->what) {
	case LAUNCH_STARTED:
		if (m->value < 0)
			on_role_exit(w, m);
		else if (m->role == LAUNCH_CHECKER)
			warden_guard_exempt(w, m->value, true); /* its commands are clients of the services */
		break;
	case LAUNCH_EXITED:
		on_role_exit(w, m);
		break;
	case LAUNCH_RELOAD:
		warden_tell_broker(w, &reload, -1);
		break;
	case LAUNCH_STOP:
		begin_stop(w);
		break;
	default:
		log_error("warden.unexpected_message", LOG_STR("from", "launcher"), LOG_U64("what", m->what));
	}
}

static void on_launcher_readable(struct warden *w)
{
	for (int i = 0; i < MSGS_PER_TURN; i++) {
		struct launch_msg m;
		AUTO_FD fd = -1;
		ssize_t n = chan_recv(&w->launcher, &m, sizeof(m), &fd);

		if (n == -EAGAIN || n == -EINTR)
			return;
		if (n != (ssize_t)sizeof(m)) {
			on_launcher_lost(w);
			return;
		}
		on_launcher_msg(w, &m);
	}
}

/* ------------------------------------------------------------------ the broker's orders */

struct answer {
	struct role_msg m;
	int fd; /* borrowed, or the same as owned_fd */
	int owned_fd;
};

/* How many gates there are is for the configuration to say, which the broker reads. */
static int do_gates(struct warden *w, uint32_t n)
{
	for (n = n > LIMIT_GATES ? LIMIT_GATES : n; w->n_gates < n; w->n_gates++)
		start_gate(&w->gates[w->n_gates]);
	return 0;
}

static void order_sweep(struct warden *w)
{
	if (!w->swept)
		arm(w->sweep, SWEEP_MS);
}

static void on_sweep(evutil_socket_t fd, short what, void *arg)
{
	struct warden *w = arg;

	w->swept = true;
	warden_guard_settle(w);
	files_sweep(&w->files);
	keeper_drop_rest(&w->keeper);
	port_kick(&w->keeper_port);
}

static void on_place(evutil_socket_t fd, short what, void *arg)
{
	struct warden *w = arg;

	if (files_retry(&w->files))
		arm(w->place, PLACE_MS);
}

static void be_ready(struct warden *w)
{
	struct launch_msg m = { .what = LAUNCH_READY };

	if (w->ready)
		return;
	w->ready = true;
	log_info("daemon.ready", LOG_STR("run_dir", w->o->run_dir), LOG_U64("gates", w->n_gates));
	if (chan_send(&w->launcher, &m, sizeof(m), -1) < 0)
		on_launcher_lost(w);
	port_kick(&w->launcher_port);
}

static int do_listen(struct warden *w, const struct role_listen *l, struct answer *a)
{
	int r = files_listen(&w->files, l, &a->fd, a->m.u.reply.why);

	order_sweep(w);
	if (r == 0 && l->lid == ROLE_NO_ID)
		be_ready(w);
	return r;
}

static int do_enrol(struct warden *w, const struct role_cgroup *c, struct role_reply *reply)
{
	const struct cgroup *enrolled;
	int r = cgroups_enrol(&w->cgroups, c, &enrolled, reply->why);

	if (r < 0)
		return r;
	reply->wid = c->wid;
	reply->cgroup_id = enrolled->id;
	if (!str_copy(reply->path, sizeof(reply->path), enrolled->path))
		reply->path[0] = '\0';
	warden_guard_enrol(w, enrolled->id, c->wid);
	servers_recheck_workload(&w->servers, c->wid);
	return 0;
}

static int do_resolve(struct warden *w, const struct role_resolve *q, struct role_reply *reply)
{
	struct identity who = { .cgroup_id = q->cgroup_id };
	int r = 0;

	if (who.cgroup_id == 0)
		r = q->pid ? identity_of_pid(w->cgroups.mount_fd, (pid_t)q->pid, &who) : -EINVAL;
	if (r < 0)
		return why_fail(reply->why, r, "the kernel does not say in which cgroup the process that connected is");
	reply->cgroup_id = who.cgroup_id;
	return cgroups_resolve(&w->cgroups, who.cgroup_id, &reply->wid, reply->path, reply->why);
}

static int do_route(struct warden *w, const struct role_route_to *t, char *why)
{
	const struct server *s = servers_find(&w->servers, t->sid);
	struct listener *l;
	int r;

	if (t->route == ROLE_ROUTE_GATE) {
		r = files_route(&w->files, t->lid, -1, why);
		warden_guard_revoke(w, t->lid);
		if (r < 0)
			arm(w->place, PLACE_MS);
		return r;
	}
	if (!s || s->fd < 0 || !s->up || s->refused)
		return why_fail(why, -ENOTCONN, "the server does not listen");
	HASH_FIND_INT(w->files.listeners, &t->lid, l);
	if (!l)
		return why_fail(why, -ENOENT, "no such socket file");
	/* In this order: there is no moment in which the name is there and the kernel says no. */
	r = warden_guard_grant(w, t->lid, l->wid, t->sid);
	if (r < 0)
		return why_fail(why, r, "the kernel guard cannot take the grant");
	r = files_route(&w->files, t->lid, s->fd, why);
	if (r == 0)
		lanes_allow(&w->lanes, t->sid, l->wid);
	else
		warden_guard_revoke(w, t->lid);
	return r;
}

struct lane_list {
	struct role_lane *lanes;
	size_t n, cap;
	bool truncated;
};

static void add_lane(void *arg, const struct role_lane *l)
{
	struct lane_list *list = arg;

	if (list->n == list->cap) {
		size_t cap = list->cap ? list->cap * 2 : 64;
		struct role_lane *bigger = cap > LIMIT_LANES_SCANNED ? NULL : reallocarray(list->lanes, cap, sizeof(*bigger));

		if (!bigger) {
			list->truncated = true;
			return;
		}
		list->lanes = bigger;
		list->cap = cap;
	}
	list->lanes[list->n++] = *l;
}

static int count_or_error(int r, struct role_reply *reply)
{
	if (r < 0)
		return why_fail(reply->why, r, "cannot look at the sockets of the server's clients");
	reply->count = (uint32_t)r;
	return 0;
}

/* Thousands of lanes are one file, not thousands of messages: a queue that they fill would cost the broker its warden. */
static int do_scan(struct warden *w, struct answer *a)
{
	struct lane_list list = { 0 };
	int r = lanes_scan(&w->lanes, add_lane, &list);
	size_t size = list.n * sizeof(*list.lanes);

	if (r >= 0) {
		a->fd = a->owned_fd = memfd_create("sealane-lanes", MFD_CLOEXEC);
		r = a->fd < 0 || (size && write(a->fd, list.lanes, size) != (ssize_t)size) ? -ENOMEM : (int)list.n;
	}
	if (list.truncated)
		log_warn("lanes.truncated", LOG_U64("told", list.n));
	free(list.lanes);
	return count_or_error(r, &a->m.u.reply);
}

static int do_remove_workload(struct warden *w, uint32_t wid, char *why)
{
	struct cgroup *c, *next;

	HASH_ITER(hh, w->cgroups.table, c, next)
		if (c->wid == wid)
			warden_guard_unenrol(w, c->id);
	cgroups_forget_workload(&w->cgroups, wid);
	lanes_forget(&w->lanes, ROLE_NO_ID, wid);
	return files_remove_workload(&w->files, wid, why);
}

static int do_add_workload(struct warden *w, const struct role_workload *m, char *why)
{
	order_sweep(w);
	return files_add_workload(&w->files, m, why);
}

static int do_unenrol(struct warden *w, const struct role_cgroup *c, char *why)
{
	int r = cgroups_unenrol(&w->cgroups, c, why);

	warden_guard_unenrol(w, c->cgroup_id);
	servers_recheck_workload(&w->servers, c->wid);
	return r;
}

static int do_forget_server(struct warden *w, uint32_t sid)
{
	servers_forget(&w->servers, sid);
	warden_guard_forget_server(w, sid);
	lanes_forget(&w->lanes, sid, ROLE_NO_ID);
	return 0;
}

/* From here on the kernel has to say no, and a predecessor's program would go on saying what it was told. */
static int do_cut(struct warden *w, const struct role_cut *c, struct role_reply *reply)
{
	if (w->ready)
		warden_guard_settle(w);
	return count_or_error(lanes_cut(&w->lanes, c), reply);
}

static int do_reload(struct warden *w, const struct role_msg *m, char *why)
{
	int r = warden_send_config(w, m->seq);

	return r < 0 ? why_fail(why, r, "cannot read the configuration files") : 0;
}

/* One leash of a lane: here for the next porter, in the keeper for the next daemon. */
static int do_keep(struct warden *w, const char *name, int fd)
{
	int copy, r;

	if (strncmp(name, WARDEN_LEASH_PREFIX, strlen(WARDEN_LEASH_PREFIX)) != 0 || fd < 0)
		return -EINVAL;
	if (HASH_COUNT(w->leashes) >= 2 * LIMIT_LANES)
		return -ENOSPC;
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (copy < 0)
		return -errno;
	r = kept_put(&w->leashes, name, copy);
	if (r == 0)
		keep(w, name, fd);
	return r;
}

static int do_unkeep(struct warden *w, const char *name)
{
	if (strncmp(name, WARDEN_LEASH_PREFIX, strlen(WARDEN_LEASH_PREFIX)) != 0)
		return -EINVAL;
	kept_remove(&w->leashes, name);
	drop(w, name);
	return 0;
}

static int do_linkers(struct warden *w, uint32_t n)
{
	warden_link_run(w, n);
	return 0;
}

static int do_dial(struct warden *w, const struct role_dial *d, struct answer *a)
{
	int r = tcp_dial(&w->link, d, &a->owned_fd, a->m.u.reply.why);

	a->fd = a->owned_fd;
	return r;
}

static int do_listen_tcp(struct warden *w, const struct role_dial *d, struct answer *a)
{
	char key[LIMIT_ADDRESS_SIZE + sizeof(WARDEN_TCP_PREFIX)];
	bool is_new;
	int r = tcp_listen(&w->link, d, keeper_take(&w->keeper, tcp_key(key, d->address)), &a->fd, &is_new, a->m.u.reply.why);

	if (r == -EADDRINUSE && tcp_release_port(&w->keeper, d->address)) {
		a->m.u.reply.why[0] = '\0';
		r = tcp_listen(&w->link, d, -1, &a->fd, &is_new, a->m.u.reply.why);
	}
	order_sweep(w);
	if (r == 0 && is_new)
		keep(w, key, a->fd);
	return r;
}

static int do_unlisten_tcp(struct warden *w, const char *address)
{
	char key[LIMIT_ADDRESS_SIZE + sizeof(WARDEN_TCP_PREFIX)];

	tcp_unlisten(&w->link, address);
	drop(w, tcp_key(key, address));
	return 0;
}

static void tell_file(void *arg, const char *name, int fd)
{
	struct role_msg m = { .type = WB_FILE };

	if (str_copy(m.u.store.name, sizeof(m.u.store.name), name))
		warden_tell_broker(arg, &m, fd);
}

/* Everything that is answered at once. Return: 0 or negative errno for the reply; 1: no such order. */
static int carry_out(struct warden *w, const struct role_msg *m, int fd, struct answer *a)
{
	struct role_reply *reply = &a->m.u.reply;

	switch (m->type) {
	case BW_WORKLOAD_ADD:
		return do_add_workload(w, &m->u.workload, reply->why);
	case BW_WORKLOAD_REMOVE:
		return do_remove_workload(w, m->u.id.id, reply->why);
	case BW_ENROL:
		return do_enrol(w, &m->u.cgroup, reply);
	case BW_UNENROL:
		return do_unenrol(w, &m->u.cgroup, reply->why);
	case BW_IS_EMPTY:
		return cgroups_is_empty(&w->cgroups, m->u.cgroup.cgroup_id) ? 0 : -EBUSY;
	case BW_RESOLVE:
		return do_resolve(w, &m->u.resolve, reply);
	case BW_LISTEN:
		return do_listen(w, &m->u.listen, a);
	case BW_UNLISTEN:
		return files_unlisten(&w->files, m->u.id.id, reply->why);
	case BW_SERVER:
		return servers_watch(&w->servers, &m->u.server, reply->why);
	case BW_SERVER_REMOVE:
		return do_forget_server(w, m->u.id.id);
	case BW_ROUTE:
		return do_route(w, &m->u.route, reply->why);
	case BW_SCAN:
		return do_scan(w, a);
	case BW_CUT:
		return do_cut(w, &m->u.cut, reply);
	case BW_RELOAD:
		return do_reload(w, m, reply->why);
	case BW_GATES:
		return do_gates(w, m->u.id.id);
	case BW_KEEP:
		return do_keep(w, m->u.store.name, fd);
	case BW_UNKEEP:
		return do_unkeep(w, m->u.store.name);
	case BW_CATALOGUE_FILE:
		return warden_catalogue_set_file(w, &m->u.etcd_file);
	case BW_CATALOGUE:
		return warden_catalogue_want(w, m->u.id.id != 0, reply->why);
	case BW_LINKERS:
		return do_linkers(w, m->u.id.id);
	case BW_DIAL:
		return do_dial(w, &m->u.dial, a);
	case BW_LISTEN_TCP:
		return do_listen_tcp(w, &m->u.dial, a);
	case BW_UNLISTEN_TCP:
		return do_unlisten_tcp(w, m->u.dial.address);
	case BW_CERTIFICATES:
		return certificates_read(m->u.store.name, tell_file, w, reply->why);
	case BW_CDI:
		return warden_write_cdi(m->u.store.name, fd, reply->why);
	default:
		return 1;
	}
}

static void send_answer(struct warden *w, uint32_t seq, int error, struct answer *a)
{
	a->m.type = WB_REPLY;
	a->m.seq = seq;
	a->m.u.reply.error = error;
	if (error == 0)
		a->m.u.reply.why[0] = '\0';
	else if (a->m.u.reply.why[0] == '\0')
		why_fail(a->m.u.reply.why, 0, "%s", log_errno_name(error));
	if (seq)
		warden_tell_broker(w, &a->m, error == 0 ? a->fd : -1);
}

static void set_grace(struct warden *w, uint32_t ms)
{
	w->grace_ms = ms;
	if (keeper_set_grace(&w->keeper, ms) < 0 && w->keeper_port.rd)
		on_keeper_lost(w);
	port_kick(&w->keeper_port);
}

static void on_order(struct warden *w, const struct role_msg *m, int fd)
{
	struct answer a = { .fd = -1, .owned_fd = -1 };
	int r;

	if (m->type == BW_CONNECT) {
		servers_connect(&w->servers, m->seq, m->u.id.id);
		return;
	}
	if (m->type == WK_GRACE) {
		set_grace(w, m->u.grace.grace_ms);
		return;
	}
	r = carry_out(w, m, fd, &a);
	if (r > 0)
		log_error("warden.unexpected_message", LOG_STR("from", "broker"), LOG_STR("type", role_msg_name(m->type)));
	else
		send_answer(w, m->seq, r, &a);
	fd_cleanup(&a.owned_fd);
	if (w->ready)
		warden_guard_await_quiet(w);
}

static void on_broker_readable(struct warden *w)
{
	for (int i = 0; i < MSGS_PER_TURN && w->broker.fd >= 0; i++) {
		struct role_msg m;
		AUTO_FD fd = -1;
		int r = role_recv(&w->broker, &m, &fd);

		if (r == -EAGAIN || r == -EINTR)
			return;
		if (r <= 0) {
			on_broker_lost(w);
			return;
		}
		on_order(w, &m, fd);
	}
}

/* ------------------------------------------------------------------ what happens by itself */

static void on_server_state(void *arg, const struct server *s)
{
	struct role_msg m = { .type = WB_SERVER_STATE };
	struct stat st;

	m.u.server_state = (struct role_server_state){ .sid = s->sid, .up = s->up, .linkable = s->linkable,
						       .dev = s->id.dev, .ino = s->id.ino };
	if (s->fd >= 0 && fstat(s->fd, &st) == 0)
		m.u.server_state.mode = st.st_mode & 07777;
	if (warden_guard_server(arg, s) < 0)
		m.u.server_state.linkable = 0; /* what the kernel does not check takes the relay */
	warden_tell_broker(arg, &m, -1);
}

static void on_connected(void *arg, uint32_t seq, const struct server *s, int error, int sock, const char *why)
{
	struct warden *w = arg;
	struct answer a = { .fd = sock };

	if (!str_copy(a.m.u.reply.why, sizeof(a.m.u.reply.why), why))
		a.m.u.reply.why[0] = '\0';
	if (sock >= 0) {
		lanes_note_own(&w->lanes, sock);
		a.m.u.reply.pid = s->pid;
		a.m.u.reply.cgroup_id = s->cgroup_id;
	}
	send_answer(w, seq, error, &a);
	fd_cleanup(&sock);
}

/* A workload whose cgroup is not known yet cannot prove anything, but another workload's process must not serve for it. */
static int check_owner(void *arg, uint32_t wid, struct identity *who, char *why)
{
	struct warden *w = arg;
	const struct workload_dir *d = files_workload(&w->files, wid);
	char path[LIMIT_PATH_SIZE] = "", reason[WARDEN_WHY_SIZE];
	uint32_t found = ROLE_NO_ID;

	if (wid == ROLE_NO_ID)
		return 0;
	if (who->cgroup_id == 0) {
		struct identity by_pid;

		if (identity_of_pid(w->cgroups.mount_fd, who->pid, &by_pid) == 0)
			who->cgroup_id = by_pid.cgroup_id;
	}
	if (who->cgroup_id && cgroups_resolve(&w->cgroups, who->cgroup_id, &found, path, reason) < 0)
		found = ROLE_NO_ID;
	if (found == wid)
		return 0;
	if (found == ROLE_NO_ID && !cgroups_has_workload(&w->cgroups, wid))
		return 1;
	return why_fail(why, -EPERM, "the socket belongs to a process (pid %d, cgroup %s) outside workload %s", who->pid,
			path[0] ? path : "unknown", d ? d->name : "?");
}

static void on_cgroup_gone(void *arg, const struct cgroup *c)
{
	struct role_msg m = { .type = WB_CGROUP_GONE, .u.cgroup = { .wid = c->wid, .cgroup_id = c->id } };

	warden_guard_unenrol(arg, c->id);
	if (!str_copy(m.u.cgroup.path, sizeof(m.u.cgroup.path), c->path))
		m.u.cgroup.path[0] = '\0';
	warden_tell_broker(arg, &m, -1);
}

static void on_stop_timeout(evutil_socket_t fd, short what, void *arg)
{
	struct warden *w = arg;

	warden_end(w, w->exit_status);
}

/* ------------------------------------------------------------------ start and end */

static int start_roles(struct warden *w)
{
	AUTO_FD far = -1;
	int fds[2], r = chan_pair(fds);

	if (r < 0)
		return r;
	far = fds[1];
	chan_init(&w->broker, fds[0]);
	r = port_open(&w->broker_port, w, &w->broker, on_broker_readable, on_broker_lost);
	if (r == 0)
		r = warden_spawn(w, LAUNCH_BROKER, 0, far);
	if (r == 0) {
		start_porter(w);
		r = warden_spawn_for_broker(w, LAUNCH_CHECKER, 0, WB_CHECKER);
	}
	warden_guard_start(w);
	return r < 0 ? r : warden_send_config(w, 0);
}

static int warden_init(struct warden *w)
{
	w->base = event_base_new();
	if (!w->base)
		return -ENOMEM;
	w->sweep = evtimer_new(w->base, on_sweep, w);
	w->stop = evtimer_new(w->base, on_stop_timeout, w);
	w->place = evtimer_new(w->base, on_place, w);
	w->keeper_restart = evtimer_new(w->base, on_keeper_restart, w);
	w->checker_restart = evtimer_new(w->base, on_checker_restart, w);
	w->porter_restart = evtimer_new(w->base, on_porter_restart, w);
	w->porter_delay_ms = GATE_DELAY_FIRST_MS;
	if (!w->sweep || !w->stop || !w->place || !w->keeper_restart || !w->checker_restart || !w->porter_restart)
		return -ENOMEM;
	if (warden_catalogue_open(w) < 0 || warden_link_open(w) < 0)
		return -ENOMEM;
	for (uint32_t i = 0; i < LIMIT_GATES; i++) {
		w->gates[i] = (struct gate_slot){ .w = w, .index = i, .delay_ms = GATE_DELAY_FIRST_MS };
		w->gates[i].restart = evtimer_new(w->base, on_gate_restart, &w->gates[i]);
		if (!w->gates[i].restart)
			return -ENOMEM;
	}
	chan_init(&w->launcher, ROLE_CHANNEL_FD);
	return port_open(&w->launcher_port, w, &w->launcher, on_launcher_readable, on_launcher_lost);
}

static void set_callbacks(struct warden *w)
{
	w->files.keep = keep;
	w->files.take_kept = take_kept;
	w->files.drop = drop;
	w->files.keep_arg = w;
	w->cgroups.on_gone = on_cgroup_gone;
	w->cgroups.arg = w;
	w->servers.on_state = on_server_state;
	w->servers.check_owner = check_owner;
	w->servers.on_connected = on_connected;
	w->servers.arg = w;
}

int warden_role_main(const struct daemon_options *o)
{
	static struct warden w = {
		.launcher = { .fd = -1 }, .broker = { .fd = -1 }, .keeper = { .chan = { .fd = -1 } }, .grace_ms = GRACE_DEFAULT_MS,
	};
	int r;

	w.o = o;
	log_init("warden", o->verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO);
	signal(SIGPIPE, SIG_IGN);
	r = warden_init(&w);
	if (r == 0)
		r = warden_open(&w);
	if (r == 0)
		r = warden_isolate();
	if (r == 0)
		r = port_open(&w.keeper_port, &w, &w.keeper.chan, on_keeper_readable, on_keeper_lost);
	set_callbacks(&w);
	if (r == 0)
		r = foreign_tick_init();
	if (r == 0)
		r = warden_open_admin(&w);
	if (r == 0)
		r = start_roles(&w);
	if (r < 0) {
		log_error("warden.failed", LOG_STR("error", log_errno_name(r)));
		return 1;
	}
	/* A turn at a time: what it took from others, it has closed by its end. */
	while (event_base_loop(w.base, EVLOOP_ONCE) == 0 && !event_base_got_break(w.base))
		foreign_tick_stop();
	if (chan_flush(&w.keeper.chan) < 0)
		log_warn("warden.keeper_lost", LOG_STR("then", "the next daemon makes new sockets"));
	return w.exit_status;
}
