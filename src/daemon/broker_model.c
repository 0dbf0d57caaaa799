/*
 * Theory of operation: the configuration as tables, and what every socket file leads to.
 *
 * A configuration is taken by comparing it with what stands: workloads by name, services by name, upstreams by workload
 * and path. What is the same stays untouched, open lanes included; so a reload that changes one intention touches one
 * route. Ids (wid, sid, lid) are positions in growing tables and are not used again while the daemon runs, so a late
 * answer about something removed can never hit something new.
 *
 * What a socket file leads to (core/lane.h: route_choose) is decided again whenever policy, server or workload change,
 * never when a connection comes: model_refresh().
 *
 * Before it: broker.c. After it: broker_lane.c for connections, warden_files.c for links.
 */
#include "daemon/broker_int.h"

#include "base/foreign.h"
#include <stdio.h>

/* Events of one workload; more are counted and told with the next one, so that a container cannot fill the host's disk. */
enum { REFUSALS_LOGGED_PER_S = 10, LANES_LOGGED_PER_S = 1000 };

/* ------------------------------------------------------------------ tables */

static void *table_grow(void *table, size_t *n, size_t limit, size_t item_size)
{
	/* Doubling at powers of two; the tables are small and live as long as the daemon. */
	size_t cap = 8;

	if (*n >= limit)
		return NULL;
	while (cap < *n)
		cap *= 2;
	if (*n == 0 || *n == cap) {
		void *bigger = reallocarray(table, *n == 0 ? cap : cap * 2, item_size);

		if (!bigger)
			return NULL;
		table = bigger;
	}
	memset((char *)table + *n * item_size, 0, item_size);
	(*n)++;
	return table;
}

#define TABLE_ADD(b, member, limit)                                                                            \
	({                                                                                                     \
		void *table_ = table_grow((b)->member, &(b)->n_##member, (limit), sizeof(*(b)->member));       \
		if (table_)                                                                                    \
			(b)->member = table_;                                                                  \
		table_ ? &(b)->member[(b)->n_##member - 1] : NULL;                                             \
	})

struct workload *model_workload(struct broker *b, uint32_t wid)
{
	return wid < b->n_workloads && !b->workloads[wid].removed ? &b->workloads[wid] : NULL;
}

struct service *model_service(struct broker *b, uint32_t sid)
{
	return sid < b->n_services && !b->services[sid].removed ? &b->services[sid] : NULL;
}

struct upstream *model_upstream(struct broker *b, uint32_t lid)
{
	return lid < b->n_upstreams && !b->upstreams[lid].removed ? &b->upstreams[lid] : NULL;
}

struct workload *model_find_workload(struct broker *b, const char *name)
{
	for (size_t i = 0; i < b->n_workloads; i++)
		if (!b->workloads[i].removed && strcmp(b->workloads[i].name, name) == 0)
			return &b->workloads[i];
	return NULL;
}

struct service *model_find_service(struct broker *b, const struct service_name *name)
{
	for (size_t i = 0; i < b->n_services; i++)
		if (!b->services[i].removed && service_name_equal(&b->services[i].name, name))
			return &b->services[i];
	return NULL;
}

static struct upstream *find_upstream(struct broker *b, uint32_t wid, const char *path)
{
	for (size_t i = 0; i < b->n_upstreams; i++)
		if (!b->upstreams[i].removed && b->upstreams[i].wid == wid && strcmp(b->upstreams[i].path, path) == 0)
			return &b->upstreams[i];
	return NULL;
}

/* ------------------------------------------------------------------ routes */

static bool mode_wanted(const struct upstream *u, const struct service *s)
{
	/* A link shares the server's inode, so a mode or owner of its own is possible only on the gate's socket. */
	if (u->access.uid >= 0 || u->access.gid >= 0)
		return true;
	return u->access.mode >= 0 && s && s->up && (uint32_t)u->access.mode != s->mode;
}

struct route_choice model_choose(struct broker *b, const struct upstream *u)
{
	const struct workload *w = &b->workloads[u->wid];
	struct service *s = model_find_service(b, &u->destination);
	const struct intention *i = policy_decide(b->policy, &u->source, &u->destination, unix_now_s());
	struct route_facts facts = {
		.server_known = s && s->offered,
		.server_up = s && s->up,
		.linkable = s && s->linkable,
		.mode_wanted = mode_wanted(u, s),
		.direct_disabled = b->config->direct == CONFIG_DIRECT_OFF,
		.draining = w->draining,
		.server_draining = s && model_workload(b, s->wid) && b->workloads[s->wid].draining,
		.elsewhere = link_elsewhere(b, &u->destination, LINK_SOCKET),
	};
	struct route_choice c = route_choose(i, &facts);

	if (c.route == ROUTE_DIRECT && w->cgroup_id == 0)
		c = (struct route_choice){ .route = ROUTE_RELAY, .intention = i,
					   .why = "allowed, but no container of this workload is enrolled now; the gate refuses whoever comes" };
	return c;
}

static void on_routed(struct broker *b, void *arg, const struct role_reply *reply, int fd)
{
	uint32_t lid = (uint32_t)(uintptr_t)arg, seq = (uint32_t)((uintptr_t)arg >> 32);
	struct upstream *u = model_upstream(b, lid);
	struct service *s = u ? model_find_service(b, &u->destination) : NULL;

	fd_cleanup(&fd);
	if (!reply->error || !u || u->route_seq != seq)
		return;
	if (u->choice.route != ROUTE_DIRECT) {
		log_error("route.failed", LOG_STR("workload", b->workloads[u->wid].name), LOG_STR("path", u->path),
			  LOG_STR("why", reply->why));
		return;
	}
	/* The link could not be made (the server went in between, other file system): the name still leads to the gate. */
	log_debug("route.fallback", LOG_STR("path", u->path), LOG_STR("why", reply->why));
	if (s && reply->error == -EXDEV)
		s->linkable = false;
	u->choice.route = ROUTE_RELAY;
	u->choice.why = "allowed, but the server's socket could not be linked";
}

static void tell_route(struct broker *b, struct upstream *u, uint32_t sid, enum role_route route)
{
	struct role_msg m = { .type = BW_ROUTE, .u.route = { .lid = u->lid, .sid = sid, .route = route } };

	u->route_seq++;
	u->may_have_direct |= route == ROLE_ROUTE_DIRECT;
	broker_ask(b, &m, -1, on_routed, (void *)((uintptr_t)u->route_seq << 32 | u->lid));
}

/* Another upstream of the same workload still goes directly to this server, so its lanes may not be watched away. */
static bool has_other_direct(struct broker *b, const struct upstream *u)
{
	for (size_t i = 0; i < b->n_upstreams; i++) {
		const struct upstream *o = &b->upstreams[i];

		if (!o->removed && o != u && o->wid == u->wid && o->choice.route == ROUTE_DIRECT &&
		    service_name_equal(&o->destination, &u->destination))
			return true;
	}
	return false;
}

/*
 * A server that went down, or draining, is no reason to end a lane; the policy is, whenever the name led to the server
 * since the last cut: also if the route changed for another reason first.
 */
static void cut_what_may_be_direct(struct broker *b, struct upstream *u, const struct route_choice *next)
{
	const struct service *s = model_find_service(b, &u->destination);

	if (!u->may_have_direct || !s || lane_may_be_direct(next->intention))
		return;
	u->may_have_direct = false;
	lane_cut_direct(b, u, s->sid, next->intention, next->why, !has_other_direct(b, u));
}

static void leave_direct(struct broker *b, struct upstream *u)
{
	const struct service *s = model_find_service(b, &u->destination);

	tell_route(b, u, s ? s->sid : ROLE_NO_ID, ROLE_ROUTE_GATE);
}

static void refresh_upstream(struct broker *b, struct upstream *u)
{
	enum route was = u->choice.route;
	struct route_choice next;

	if (!u->listening || u->removed)
		return;
	next = model_choose(b, u);
	u->choice = next;
	if (was == ROUTE_DIRECT && next.route != ROUTE_DIRECT)
		leave_direct(b, u);
	cut_what_may_be_direct(b, u, &next);
	if (was != ROUTE_DIRECT && next.route == ROUTE_DIRECT)
		tell_route(b, u, model_find_service(b, &u->destination)->sid, ROLE_ROUTE_DIRECT);
}

static int64_t g_expiry_armed; /* unix seconds of the earliest timer that runs; 0: none */

static void on_expiry(struct broker *b, void *arg)
{
	g_expiry_armed = 0;
	model_refresh(b);
}

/* An intention that expires is a change of policy like any other. An hour at most, since clocks are set now and then. */
static void arm_expiry(struct broker *b)
{
	int64_t now = unix_now_s(), next = policy_next_expiry(b->policy, now);

	if (!next)
		return;
	next = next - now > 3600 ? now + 3600 : next;
	if (g_expiry_armed && g_expiry_armed <= next)
		return; /* the earlier timer looks again */
	g_expiry_armed = next;
	broker_after(b, (unsigned)(next - now) * 1000u + 1u, on_expiry, NULL);
}

void model_refresh(struct broker *b)
{
	arm_expiry(b);
	model_refresh_routes(b);
	lane_recheck_all(b);
	link_announce(b);
}

void model_refresh_routes(struct broker *b)
{
	for (size_t i = 0; i < b->n_upstreams; i++)
		refresh_upstream(b, &b->upstreams[i]);
}

void model_refresh_workload(struct broker *b, uint32_t wid)
{
	for (size_t i = 0; i < b->n_upstreams; i++)
		if (b->upstreams[i].wid == wid)
			refresh_upstream(b, &b->upstreams[i]);
}

void model_refresh_service(struct broker *b, uint32_t sid)
{
	const struct service_name *name = &b->services[sid].name;

	for (size_t i = 0; i < b->n_upstreams; i++) {
		struct upstream *u = &b->upstreams[i];

		if (u->removed || !service_name_equal(&u->destination, name))
			continue;
		/* A server that came back has a new inode: what was linked before leads nowhere, so link again. */
		if (u->choice.route == ROUTE_DIRECT && b->services[sid].up)
			tell_route(b, u, sid, ROLE_ROUTE_DIRECT);
		refresh_upstream(b, u);
	}
}

/* ------------------------------------------------------------------ upstreams */

static void on_listening(struct broker *b, void *arg, const struct role_reply *reply, int fd)
{
	struct upstream *u = model_upstream(b, (uint32_t)(uintptr_t)arg);
	struct role_msg m = { .type = BG_LISTEN };

	if (reply->error || !u || fd < 0) {
		if (u)
			log_error("socket.failed", LOG_STR("workload", b->workloads[u->wid].name), LOG_STR("path", u->path),
				  LOG_STR("error", log_errno_name(reply->error)), LOG_STR("why", reply->why));
		fd_cleanup(&fd);
		return;
	}
	u->listen_fd = fd;
	u->listening = true;
	m.u.gate_listen = (struct role_gate_listen){ .lid = u->lid, .identity = b->identity };
	broker_tell_all_gates(b, &m, fd);
	/* The warden placed the gate's socket at the name. */
	u->choice = (struct route_choice){ .route = ROUTE_RELAY };
	refresh_upstream(b, u);
}

static void listen_upstream(struct broker *b, struct upstream *u)
{
	struct role_msg m = { .type = BW_LISTEN };

	m.u.listen = (struct role_listen){ .lid = u->lid, .wid = u->wid, .type = SOCK_STREAM, .uid = u->access.uid, .gid = u->access.gid };
	/* Who may reach the file is decided by whose directory it lies in; inside, any user may connect unless told otherwise. */
	m.u.listen.mode = u->access.mode >= 0 ? (uint32_t)u->access.mode : 0666;
	memcpy(m.u.listen.path, u->path, sizeof(u->path));
	broker_ask(b, &m, -1, on_listening, (void *)(uintptr_t)u->lid);
}

static void remove_upstream(struct broker *b, struct upstream *u)
{
	struct role_msg gate = { .type = BG_UNLISTEN, .u.id.id = u->lid };
	struct role_msg warden = { .type = BW_UNLISTEN, .u.id.id = u->lid };

	struct route_choice none = { .route = ROUTE_REFUSE, .why = "the upstream was taken out of the configuration" };

	if (u->choice.route == ROUTE_DIRECT)
		leave_direct(b, u);
	u->choice = none;
	cut_what_may_be_direct(b, u, &none);
	lane_cut_upstream(b, u->lid, "the upstream was taken out of the configuration");
	broker_tell_all_gates(b, &gate, -1);
	broker_ask(b, &warden, -1, NULL, NULL);
	foreign_tick_start(); /* clients that nobody accepted go with the last copy, and what they sent */
	if (u->listening)
		close(u->listen_fd);
	u->listening = false;
	u->removed = true;
}

static void add_upstream(struct broker *b, uint32_t wid, const struct config_upstream *cu)
{
	struct upstream *u = TABLE_ADD(b, upstreams, LIMIT_UPSTREAMS);

	if (!u) {
		log_error("socket.failed", LOG_STR("path", cu->path), LOG_STR("why", "too many upstreams"));
		return;
	}
	*u = (struct upstream){ .lid = (uint32_t)(b->n_upstreams - 1), .wid = wid, .listen_fd = -1 };
	u->source = b->config->services[cu->source].name;
	u->destination = cu->destination;
	u->access = cu->access;
	if (!str_copy(u->path, sizeof(u->path), cu->path)) {
		u->removed = true;
		return;
	}
	listen_upstream(b, u);
}

static bool access_equal(const struct config_access *a, const struct config_access *c)
{
	return a->mode == c->mode && a->uid == c->uid && a->gid == c->gid;
}

bool model_speaks_as(const struct workload *w, const struct service_name *s)
{
	for (size_t i = 0; i < w->n_services; i++)
		if (service_name_equal(&w->services[i], s))
			return true;
	return false;
}

static const struct config_upstream *config_upstream_of(struct broker *b, const struct upstream *u)
{
	const struct workload *w = &b->workloads[u->wid];

	for (size_t i = 0; i < b->config->n_upstreams; i++) {
		const struct config_upstream *cu = &b->config->upstreams[i];

		if (strcmp(cu->path, u->path) == 0 && model_speaks_as(w, &b->config->services[cu->source].name))
			return cu;
	}
	return NULL;
}

/* Upstreams that the new configuration does not have any more, or has with another owner or mode. */
static void drop_stale_upstreams(struct broker *b)
{
	for (size_t i = 0; i < b->n_upstreams; i++) {
		struct upstream *u = &b->upstreams[i];
		const struct config_upstream *cu;

		if (u->removed)
			continue;
		cu = model_workload(b, u->wid) ? config_upstream_of(b, u) : NULL;
		if (!cu || !access_equal(&u->access, &cu->access) ||
		    !service_name_equal(&u->destination, &cu->destination))
			remove_upstream(b, u);
		else
			u->source = b->config->services[cu->source].name;
	}
}

static void add_workload_upstreams(struct broker *b, const struct workload *w)
{
	for (size_t i = 0; i < b->config->n_upstreams; i++) {
		const struct config_upstream *cu = &b->config->upstreams[i];

		if (model_speaks_as(w, &b->config->services[cu->source].name) && !find_upstream(b, w->wid, cu->path))
			add_upstream(b, w->wid, cu);
	}
}

void model_hand_listeners_to_gate(struct broker *b, size_t gate)
{
	for (size_t i = 0; i < b->n_upstreams; i++) {
		const struct upstream *u = &b->upstreams[i];
		struct role_msg m = { .type = BG_LISTEN, .u.gate_listen = { .lid = u->lid, .identity = b->identity } };

		if (u->listening && !u->removed)
			broker_tell_gate(b, gate, &m, u->listen_fd);
	}
}

/* ------------------------------------------------------------------ workloads */

static void on_workload_added(struct broker *b, void *arg, const struct role_reply *reply, int fd)
{
	const struct workload *w = model_workload(b, (uint32_t)(uintptr_t)arg);

	fd_cleanup(&fd);
	if (reply->error)
		log_error("workload.failed", LOG_STR("workload", w ? w->name : NULL), LOG_STR("why", reply->why));
}

static void ask_for_directory(struct broker *b, const struct workload *w)
{
	struct role_msg m = { .type = BW_WORKLOAD_ADD, .u.workload = { .wid = w->wid, .offers = w->offers } };

	memcpy(m.u.workload.name, w->name, sizeof(w->name));
	broker_ask(b, &m, -1, on_workload_added, (void *)(uintptr_t)w->wid);
}

static struct workload *add_workload(struct broker *b, const char *name)
{
	struct workload *w = TABLE_ADD(b, workloads, LIMIT_WORKLOADS);

	if (!w) {
		log_error("workload.failed", LOG_STR("workload", name), LOG_STR("why", "too many workloads"));
		return NULL;
	}
	*w = (struct workload){ .wid = (uint32_t)(b->n_workloads - 1), .control_fd = -1 };
	bucket_init(&w->log_refusals, REFUSALS_LOGGED_PER_S, REFUSALS_LOGGED_PER_S, clock_ns());
	bucket_init(&w->log_lanes, LANES_LOGGED_PER_S, LANES_LOGGED_PER_S, clock_ns());
	if (!str_copy(w->name, sizeof(w->name), name))
		w->removed = true;
	return w;
}

static void set_workload(struct broker *b, const struct config_workload *cw)
{
	struct workload *w = model_find_workload(b, cw->name);
	bool is_new = !w, offered = w && w->offers;

	if (is_new && !(w = add_workload(b, cw->name)))
		return;
	w->configured = true;
	w->orphaned = false;
	w->offers = cw->offers;
	w->match = cw->match;
	w->n_services = cw->n_services;
	for (size_t i = 0; i < cw->n_services; i++)
		w->services[i] = b->config->services[cw->services[i]].name;
	if (is_new || offered != w->offers)
		ask_for_directory(b, w);
	port_listen(b, w);
}

void model_remove_workload(struct broker *b, struct workload *w)
{
	struct role_msg m = { .type = BW_WORKLOAD_REMOVE, .u.id.id = w->wid };

	lane_cut_workload(b, w, "the workload was removed");
	for (size_t i = 0; i < b->n_upstreams; i++)
		if (!b->upstreams[i].removed && b->upstreams[i].wid == w->wid)
			remove_upstream(b, &b->upstreams[i]);
	port_unlisten(b, w);
	lane_forget_workload_cgroups(b, w->wid);
	broker_ask(b, &m, -1, NULL, NULL);
	w->removed = true;
}

struct workload *model_add_runtime_workload(struct broker *b, const char *name, const struct service_name *service)
{
	struct workload *w = add_workload(b, name);

	if (!w || w->removed)
		return NULL;
	w->services[0] = *service;
	w->n_services = 1;
	ask_for_directory(b, w);
	port_listen(b, w);
	add_workload_upstreams(b, w);
	return w;
}

/*
 * Its container has the directory mounted: a directory made anew, should the workload come back, would not be seen there.
 * So it stays, without a socket file, until the container ends.
 */
static void orphan_workload(struct broker *b, struct workload *w)
{
	log_warn("workload.orphaned", LOG_STR("workload", w->name), LOG_STR("cgroup", w->cgroup_path),
		 LOG_STR("why", "it is not in the configuration any more; its container runs on without a socket file"));
	lane_cut_workload(b, w, "the workload was taken out of the configuration");
	port_unlisten(b, w);
	w->configured = false;
	w->orphaned = true;
	w->n_services = 0;
	w->match = (struct config_match){};
}

static void drop_stale_workloads(struct broker *b)
{
	for (size_t i = 0; i < b->n_workloads; i++) {
		struct workload *w = &b->workloads[i];

		if (w->removed || !w->configured || config_find_workload(b->config, w->name) != CONFIG_NONE)
			continue;
		if (w->cgroup_id)
			orphan_workload(b, w);
		else
			model_remove_workload(b, w);
	}
}

/* ------------------------------------------------------------------ services */

static void watch_server(struct broker *b, const struct service *s, int mode)
{
	struct role_msg m = { .type = BW_SERVER };

	m.u.server = (struct role_server){ .sid = s->sid, .wid = s->wid, .mode = mode, .uid = s->access.uid, .gid = s->access.gid };
	memcpy(m.u.server.path, s->path, sizeof(s->path));
	broker_ask(b, &m, -1, NULL, NULL);
}

static void forget_server(struct broker *b, struct service *s)
{
	struct role_msg m = { .type = BW_SERVER_REMOVE, .u.id.id = s->sid };

	if (s->offered)
		broker_ask(b, &m, -1, NULL, NULL);
	s->offered = s->up = false;
	health_stop(s);
}

static void set_service(struct broker *b, const struct config_service *cs)
{
	struct service *s = model_find_service(b, &cs->name);
	const struct workload *w = model_find_workload(b, b->config->workloads[cs->workload].name);
	const char *path = cs->socket_path ? cs->socket_path : "";
	bool same;

	if (!s) {
		s = TABLE_ADD(b, services, LIMIT_SERVICES);
		if (!s)
			return;
		*s = (struct service){ .sid = (uint32_t)(b->n_services - 1), .name = cs->name, .access = cs->access };
	}
	same = s->offered == cs->offered && strcmp(s->path, path) == 0 && w && s->wid == w->wid &&
	       access_equal(&s->access, &cs->access);
	health_stop(s); /* its timer holds the old configuration's check */
	s->check = cs->check;
	s->takes_lanes = cs->takes_lanes;
	if (!same) {
		forget_server(b, s);
		s->wid = w ? w->wid : ROLE_NO_ID;
		s->on_host = path[0] == '/';
		s->access = cs->access;
		s->offered = cs->offered && str_copy(s->path, sizeof(s->path), path);
		if (s->offered)
			watch_server(b, s, cs->access.mode >= 0 ? cs->access.mode : s->on_host ? -1 : 0666);
	}
	if (s->offered)
		health_start(b, s);
}

static void drop_stale_services(struct broker *b)
{
	for (size_t i = 0; i < b->n_services; i++) {
		struct service *s = &b->services[i];

		if (s->removed || config_find_service(b->config, &s->name) != CONFIG_NONE)
			continue;
		forget_server(b, s);
		s->removed = true;
	}
}

/* ------------------------------------------------------------------ policy */

static int add_runtime_intention(void *arg, const struct intention *i)
{
	struct broker *b = arg;
	const struct intention *other = NULL, *file;
	char src[LIMIT_SERVICE_SIZE], dst[LIMIT_SERVICE_SIZE];
	int r = policy_add(b->policy, i, &other);

	if (r != 0)
		log_error("intention.skipped", LOG_STR("where", i->where), LOG_STR("why", "out of room or doubled"));
	file = policy_find(b->policy, &i->source, &i->destination, INTENTION_FROM_FILE);
	if (file && file->action != i->action)
		log_warn("intention.conflict", LOG_STR("source", service_pattern_format(src, &i->source)),
			 LOG_STR("destination", service_pattern_format(dst, &i->destination)), LOG_STR("file", file->where),
			 LOG_STR("runtime", i->where),
			 LOG_STR("wins", "runtime; `sealane intention rm` gives the file its say again"));
	return 0;
}

/* @ret_old: still looked at by routes until the next model_refresh(). */
static int build_policy(struct broker *b, const struct config *c, struct policy **ret_old)
{
	struct policy *p = NULL;
	const struct intention *other = NULL;
	int r = policy_new(&p);

	if (r < 0)
		return r;
	for (size_t i = 0; i < c->n_intentions; i++)
		if ((r = policy_add(p, &c->intentions[i], &other)) != 0)
			log_error("intention.skipped", LOG_STR("where", c->intentions[i].where));
	*ret_old = b->policy;
	b->policy = p;
	r = state_each_intention(b->state, add_runtime_intention, b);
	catalogue_add_intentions(b);
	return r;
}

int model_check(struct broker *b, const struct config *c, char *why, size_t size)
{
	/* A run-time workload's name must not become a configured one's while its container runs under other services. */
	for (size_t i = 0; i < c->n_workloads; i++) {
		const struct workload *w = model_find_workload(b, c->workloads[i].name);

		if (w && !w->configured && !w->orphaned) {
			snprintf(why, size, "%s:%u: workload '%s': a workload of this name was started at run time; end it first (sealane unenrol %s)",
				 c->workloads[i].file, c->workloads[i].line, w->name, w->name);
			return -EINVAL;
		}
	}
	return 0;
}

void model_apply(struct broker *b, struct config *c)
{
	struct config *old = b->config;
	struct policy *old_policy = NULL;

	b->config = c;
	if (c->identity != CONFIG_IDENTITY_AUTO)
		b->identity = c->identity == CONFIG_IDENTITY_PIDFD ? IDENTITY_PIDFD : IDENTITY_PEERCRED;
	if (build_policy(b, c, &old_policy) != 0)
		log_error("policy.failed", LOG_STR("why", "run-time intentions could not be read from the state database"));
	drop_stale_workloads(b);
	for (size_t i = 0; i < c->n_workloads; i++)
		set_workload(b, &c->workloads[i]);
	drop_stale_services(b);
	for (size_t i = 0; i < c->n_services; i++)
		set_service(b, &c->services[i]);
	drop_stale_upstreams(b);
	for (size_t i = 0; i < b->n_workloads; i++)
		if (!b->workloads[i].removed)
			add_workload_upstreams(b, &b->workloads[i]);
	for (size_t i = 0; i < b->n_workloads; i++)
		if (!b->workloads[i].removed && b->workloads[i].configured)
			enrol_by_config(b, &b->workloads[i]);
	model_refresh(b);
	policy_free(old_policy);
	config_free(old);
}
