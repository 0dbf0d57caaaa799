/*
 * Theory of operation: a connection's way through the broker, and the lanes that are open.
 *
 * A gate accepted somebody and says which cgroup the kernel put them in (GB_ACCEPT). Four questions follow, each answered
 * by somebody else, so a connection is a small state machine:
 *
 *   OPENING_QUEUED    the warden is asked about no more than ASKED_MAX connections at a time; the others wait their turn,
 *                     so that a burst fills neither its channel nor its time
 *   OPENING_IDENTITY  whose cgroup is that?       the cache, else the warden (BW_RESOLVE)
 *   (at once)         may they?                   policy, limits (core/); a "no" is BG_REFUSE and one event
 *   OPENING_WAITING   is the server there?        wait for WB_SERVER_STATE, or for another host, at most connect_wait
 *   OPENING_CONNECT   its other end               the warden (BW_CONNECT), then BG_GO and the lane is open
 *   OPENING_HANDING   or: it goes to another host; the gate gives the client away (BG_HAND), and broker_carry.c goes on
 *
 * In each state only this file touches the opening; it is freed when the client is gone or answered and no reply is
 * outstanding (refs). A cgroup that was found to lie in a workload stays there for life (cgroups do not move, and ids are
 * not used twice in one boot), so the answer is cached until the workload's cgroup is given up.
 *
 * Before it: gate.c, broker.c. After it: warden_files.c (connect), gate_relay.c.
 */
#include "daemon/broker_int.h"

#include <stdio.h>
#include <sys/queue.h>
#include <sys/resource.h>
#include <sys/stat.h>

enum opening_state { OPENING_QUEUED, OPENING_IDENTITY, OPENING_WAITING, OPENING_CONNECT, OPENING_HANDING };

/* Some 20 us each in the warden: a millisecond or two until an order of another kind has its turn. */
enum { ASKED_MAX = 64 };

struct opening {
	uint64_t key; /* gate << 32 | cid */
	size_t gate;
	struct role_accept accept;
	enum opening_state state;
	struct broker *b;
	unsigned refs; /* outstanding replies and timers, and one while in the table */
	bool dead;     /* the client is gone or answered: late replies only drop their reference */
	bool admitted; /* counted in pair->quota */
	uint32_t wid, generation; /* the upstream's workload, and its enrolment, when it was accepted */
	TAILQ_ENTRY(opening) turn; /* OPENING_QUEUED */
	bool connect_next;	   /* what it waits its turn for: BW_CONNECT, else BW_RESOLVE */
	struct pair *pair;
	uint32_t sid;
	uint64_t deadline_ns;
	bool timer_set;
	UT_hash_handle hh;
};

struct cgroup_cache {
	uint64_t cgroup_id;
	uint32_t wid;
	UT_hash_handle hh;
};

struct refresh_waiter {
	struct refresh_waiter *next;
	broker_done_fn done;
	void *arg;
};

/* One broker per process; what only this file needs. */
static struct {
	struct opening *openings;
	struct cgroup_cache *cache;
	TAILQ_HEAD(, opening) queued;
	unsigned n_asked; /* BW_RESOLVE and BW_CONNECT that are not answered */
	uint64_t last_lane_id;
	size_t n_relayed;
	struct refresh_waiter *waiters;
	bool refreshing, scan_out, porter_out, linkers_out;
	bool gate_out[LIMIT_GATES];
	unsigned refresh_generation;
	struct lane *scanned; /* the scan that is arriving */
	size_t n_scanned;
} g_lanes = { .queued = TAILQ_HEAD_INITIALIZER(g_lanes.queued) };

const char *intention_where(const struct intention *i)
{
	return i ? i->where : "default deny";
}

const char *intention_text(char *buf, size_t size, const struct intention *i)
{
	char src[LIMIT_SERVICE_SIZE], dst[LIMIT_SERVICE_SIZE];

	if (!i)
		return "no intention (default deny)";
	snprintf(buf, size, "%s -> %s: %s", service_pattern_format(src, &i->source),
		 service_pattern_format(dst, &i->destination), i->action == INTENTION_ALLOW ? "allow" : "deny");
	return buf;
}

/* ------------------------------------------------------------------ direct lanes, as the kernel guard tells */

struct upstream *lane_upstream_between(struct broker *b, uint32_t wid, const struct service_name *destination)
{
	for (size_t i = 0; i < b->n_upstreams; i++) {
		struct upstream *u = &b->upstreams[i];

		if (!u->removed && u->wid == wid && service_name_equal(&u->destination, destination))
			return u;
	}
	return NULL;
}

static void count_guarded(struct broker *b, struct workload *w, struct upstream *u, bool allowed, uint64_t n)
{
	*(allowed ? &b->counters.lanes_opened : &b->counters.lanes_denied) += n;
	if (w)
		*(allowed ? &w->n_allowed : &w->n_denied) += n;
	if (u)
		*(allowed ? &u->n_allowed : &u->n_denied) += n;
}

static const char *guard_why(const struct workload *w, const struct service *s, const struct intention *i)
{
	if (!s)
		return "the kernel guard refused it: the server has been taken out of the configuration";
	if (!w)
		return "the kernel guard refused it: the process is in no enrolled workload";
	if (!i || i->action != INTENTION_ALLOW)
		return "the kernel guard refused it";
	return "the kernel guard refused it: the intention holds for the gate's socket, not for the server's own";
}

/* As the events of relayed lanes, with what the kernel knows: who connected, and to which server. */
void lane_on_guard(struct broker *b, const struct role_guard *g)
{
	struct workload *w = model_workload(b, g->wid);
	const struct service *s = model_service(b, g->sid);
	struct upstream *u = w && s ? lane_upstream_between(b, g->wid, &s->name) : NULL;
	const struct service_name *source = u ? &u->source : w && w->n_services ? &w->services[0] : NULL;
	const struct intention *i = source && s ? policy_decide(b->policy, source, &s->name, unix_now_s()) : NULL;
	char src[LIMIT_SERVICE_SIZE], dst[LIMIT_SERVICE_SIZE], rule[INTENTION_TEXT_SIZE];
	bool allowed = g->verdict == 1;

	count_guarded(b, w, u, allowed, 1ull + g->n_suppressed);
	LOG_EVENT(allowed ? LOG_LEVEL_INFO : LOG_LEVEL_WARNING, allowed ? "lane.allow" : "lane.deny",
		  LOG_STR("source", source ? service_name_format(src, source) : NULL),
		  LOG_STR("destination", s ? service_name_format(dst, &s->name) : NULL), LOG_STR("path", "direct"),
		  LOG_STR("intention", source ? intention_text(rule, sizeof(rule), i) : NULL),
		  LOG_STR("where", source ? intention_where(i) : NULL), LOG_STR("why", allowed ? NULL : guard_why(w, s, i)),
		  LOG_STR("workload", w ? w->name : NULL), LOG_U64("pid", g->pid), LOG_U64("cgroup_id", g->cgroup_id),
		  LOG_U64("more", g->n_suppressed));
}

/* ------------------------------------------------------------------ openings: life */

static void opening_unref(struct opening *o)
{
	if (--o->refs == 0)
		free(o);
}

/* Out of the table; the quota goes back unless a lane took it over (then o->admitted was cleared). */
static void opening_end(struct opening *o)
{
	if (o->dead)
		return;
	o->dead = true;
	if (o->state == OPENING_QUEUED)
		TAILQ_REMOVE(&g_lanes.queued, o, turn);
	o->b->workloads[o->wid].n_openings--;
	if (o->admitted)
		lane_quota_release(&o->pair->quota);
	o->admitted = false;
	HASH_DEL(g_lanes.openings, o);
	opening_unref(o);
}

static void opening_refuse(struct opening *o)
{
	struct role_msg m = { .type = BG_REFUSE, .u.id.id = o->accept.cid };

	broker_tell_gate(o->b, o->gate, &m, -1);
	opening_end(o);
}

static struct opening *opening_new(struct broker *b, size_t gate, const struct role_accept *a, const struct upstream *u)
{
	struct opening *o = calloc(1, sizeof(*o)), *old;

	if (!o)
		return NULL;
	o->key = (uint64_t)gate << 32 | a->cid;
	o->gate = gate;
	o->accept = *a;
	o->b = b;
	o->refs = 1;
	o->state = OPENING_IDENTITY;
	o->wid = u->wid;
	o->generation = b->workloads[u->wid].generation;
	b->workloads[u->wid].n_openings++;
	HASH_FIND(hh, g_lanes.openings, &o->key, sizeof(o->key), old);
	if (old)
		opening_end(old); /* a gate that numbers two connections alike harms only its own */
	HASH_ADD(hh, g_lanes.openings, key, sizeof(o->key), o);
	return o;
}

/* ------------------------------------------------------------------ refusals */

/* Return: this event is told; *ret_unlogged: how many before it were not. */
static bool may_log(struct bucket *bucket, uint64_t *unlogged, uint64_t *ret_unlogged)
{
	if (bucket_available(bucket, clock_ns()) == 0) {
		(*unlogged)++;
		return false;
	}
	bucket_take(bucket, 1);
	*ret_unlogged = *unlogged;
	*unlogged = 0;
	return true;
}

bool lane_may_log_refusal(struct workload *w, uint64_t *ret_unlogged)
{
	return may_log(&w->log_refusals, &w->n_unlogged_refusals, ret_unlogged);
}

bool lane_may_log(struct workload *w, uint64_t *ret_unlogged)
{
	return may_log(&w->log_lanes, &w->n_unlogged_lanes, ret_unlogged);
}

static void refuse_identity(struct opening *o, const char *why, const char *cgroup)
{
	struct broker *b = o->b;
	const struct upstream *u = model_upstream(b, o->accept.lid);
	char dst[LIMIT_SERVICE_SIZE];
	uint64_t more;

	b->counters.lanes_refused_identity++;
	if (lane_may_log_refusal(&b->workloads[o->wid], &more))
		log_warn("lane.refuse", LOG_STR("workload", b->workloads[o->wid].name),
			 LOG_STR("destination", u ? service_name_format(dst, &u->destination) : NULL), LOG_STR("why", why),
			 LOG_STR("cgroup", cgroup), LOG_U64("pid", o->accept.pid), LOG_U64("uid", o->accept.uid),
			 LOG_STR("identity", identity_method_name(o->accept.method)), LOG_U64("more", more));
	opening_refuse(o);
}

static void deny(struct opening *o, struct upstream *u, const struct intention *i, const char *why)
{
	struct broker *b = o->b;
	char src[LIMIT_SERVICE_SIZE], dst[LIMIT_SERVICE_SIZE], rule[INTENTION_TEXT_SIZE];
	uint64_t more;

	b->counters.lanes_denied++;
	b->workloads[u->wid].n_denied++;
	u->n_denied++;
	if (lane_may_log_refusal(&b->workloads[u->wid], &more))
		log_warn("lane.deny", LOG_STR("source", service_name_format(src, &u->source)),
			 LOG_STR("destination", service_name_format(dst, &u->destination)),
			 LOG_STR("intention", intention_text(rule, sizeof(rule), i)), LOG_STR("where", intention_where(i)),
			 LOG_STR("why", why), LOG_STR("workload", b->workloads[u->wid].name), LOG_U64("pid", o->accept.pid),
			 LOG_U64("uid", o->accept.uid), LOG_U64("more", more));
	opening_refuse(o);
}

static void fail(struct opening *o, const char *why, int error)
{
	struct broker *b = o->b;
	const struct upstream *u = model_upstream(b, o->accept.lid);
	char src[LIMIT_SERVICE_SIZE], dst[LIMIT_SERVICE_SIZE];
	uint64_t more;

	b->counters.lanes_failed++;
	if (lane_may_log_refusal(&b->workloads[o->wid], &more))
		log_warn("lane.fail", LOG_STR("source", u ? service_name_format(src, &u->source) : NULL),
			 LOG_STR("destination", u ? service_name_format(dst, &u->destination) : NULL), LOG_STR("why", why),
			 LOG_STR("error", error ? log_errno_name(error) : NULL), LOG_U64("more", more));
	opening_refuse(o);
}

/* ------------------------------------------------------------------ asking the warden, in turn */

static void opening_try(struct opening *o);
static void on_resolved(struct broker *b, void *arg, const struct role_reply *reply, int fd);
static void on_connected(struct broker *b, void *arg, const struct role_reply *reply, int fd);

static void ask_now(struct opening *o)
{
	struct role_msg m = { .type = o->connect_next ? BW_CONNECT : BW_RESOLVE };

	o->refs++;
	g_lanes.n_asked++;
	if (o->connect_next) {
		o->state = OPENING_CONNECT;
		m.u.id.id = o->sid;
		broker_ask(o->b, &m, -1, on_connected, o);
		return;
	}
	o->state = OPENING_IDENTITY;
	m.u.resolve = (struct role_resolve){ .cgroup_id = o->accept.cgroup_id, .pid = o->accept.cgroup_id ? 0 : o->accept.pid };
	broker_ask(o->b, &m, -1, on_resolved, o);
}

static void ask_in_turn(struct opening *o, bool connect)
{
	o->connect_next = connect;
	if (g_lanes.n_asked < ASKED_MAX) {
		ask_now(o);
		return;
	}
	o->state = OPENING_QUEUED;
	TAILQ_INSERT_TAIL(&g_lanes.queued, o, turn);
}

/* An answer came: the next one's turn. */
static void answered(void)
{
	struct opening *next = TAILQ_FIRST(&g_lanes.queued);

	g_lanes.n_asked--;
	if (!next || g_lanes.n_asked >= ASKED_MAX)
		return;
	TAILQ_REMOVE(&g_lanes.queued, next, turn);
	ask_now(next);
}

/* Whoever was recognised under an enrolment that has ended since is nobody. */
static bool is_still_enrolled(const struct opening *o)
{
	const struct workload *w = &o->b->workloads[o->wid];

	return !w->removed && w->cgroup_id && w->generation == o->generation;
}

/* ------------------------------------------------------------------ the server's end */

static const char g_not_up[] = "the server is not up: nobody listens on its socket";

static void on_retry_time(struct broker *b, void *arg)
{
	struct opening *o = arg;

	o->timer_set = false;
	if (!o->dead && o->state == OPENING_WAITING)
		opening_try(o);
	opening_unref(o);
}

/*
 * Wait for the server, or for another host: woken by lane_on_server_up() and lane_retry_waiting(), at the latest when the time
 * is over. @what: why it is refused then.
 */
static void opening_wait(struct opening *o, unsigned retry_ms, const char *what)
{
	uint64_t now = clock_ns();

	o->state = OPENING_WAITING;
	if (now >= o->deadline_ns) {
		fail(o, what, 0);
		return;
	}
	if (o->timer_set)
		return;
	if (!retry_ms || (uint64_t)retry_ms * 1000000 > o->deadline_ns - now)
		retry_ms = (unsigned)((o->deadline_ns - now) / 1000000) + 1;
	o->timer_set = true;
	o->refs++;
	broker_after(o->b, retry_ms, on_retry_time, o);
}

/*
 * Lanes in shared memory outlive the daemon, and their ends know the id: so no daemon gives one that another gave. A million a
 * second since 1970 is more than any has given (and below 2^53, so that JSON's readers see it whole).
 */
uint64_t lane_next_id(struct broker *b)
{
	lane_id_seen(b, b->started_unix_s << 20);
	return ++g_lanes.last_lane_id;
}

void lane_id_seen(struct broker *b, uint64_t id)
{
	if (id > g_lanes.last_lane_id)
		g_lanes.last_lane_id = id;
}

static struct lane *lane_open(struct opening *o, const struct upstream *u, uint32_t server_pid)
{
	struct lane *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	*l = (struct lane){ .id = lane_next_id(o->b), .path = LANE_PATH_RELAY, .wid = u->wid, .lid = u->lid,
			    .sid = o->sid, .source = u->source, .destination = u->destination,
			    .gate = (uint32_t)o->gate, .client_pid = o->accept.pid, .server_pid = server_pid,
			    .opened_unix_s = (uint64_t)unix_now_s(), .pair = o->pair };
	HASH_ADD(hh, o->b->lanes, id, sizeof(l->id), l);
	g_lanes.n_relayed++;
	o->admitted = false; /* the lane holds the quota from here */
	return l;
}

static void open_lane(struct opening *o, struct upstream *u, const struct intention *i, const struct role_reply *reply, int fd)
{
	struct broker *b = o->b;
	struct lane *l = lane_open(o, u, reply->pid);
	struct role_msg m = { .type = BG_GO };
	char src[LIMIT_SERVICE_SIZE], dst[LIMIT_SERVICE_SIZE], rule[INTENTION_TEXT_SIZE];
	uint64_t more;

	if (!l) {
		fail(o, "no memory for the lane", -ENOMEM);
		return;
	}
	l->bytes_per_s = i ? i->limits.bytes_per_s : 0;
	m.u.go = (struct role_go){ .cid = o->accept.cid, .lane_id = l->id, .bytes_per_s = l->bytes_per_s };
	b->counters.lanes_opened++;
	b->workloads[u->wid].n_allowed++;
	b->workloads[u->wid].n_lanes++;
	u->n_allowed++;
	if (lane_may_log(&b->workloads[u->wid], &more))
		log_info("lane.allow", LOG_ID("lane", l->id), LOG_STR("source", service_name_format(src, &u->source)),
			 LOG_STR("destination", service_name_format(dst, &u->destination)), LOG_STR("path", "relay"),
			 LOG_STR("intention", intention_text(rule, sizeof(rule), i)), LOG_STR("where", intention_where(i)),
			 LOG_STR("workload", b->workloads[u->wid].name), LOG_U64("pid", o->accept.pid),
			 LOG_U64("uid", o->accept.uid), LOG_U64("more", more));
	broker_tell_gate(b, o->gate, &m, fd);
	opening_end(o);
}

static void on_connected(struct broker *b, void *arg, const struct role_reply *reply, int fd)
{
	struct opening *o = arg;
	AUTO_FD server = fd;
	struct route_choice c;
	struct upstream *u;

	if (!o->dead) {
		u = model_upstream(b, o->accept.lid);
		if (!u || !is_still_enrolled(o))
			opening_refuse(o);
		else if (reply->error == -ECONNREFUSED || reply->error == -ENOENT || reply->error == -EAGAIN)
			opening_wait(o, 50, g_not_up);
		else if (reply->error || server < 0)
			fail(o, reply->why[0] ? reply->why : "the server could not be reached", reply->error);
		else if ((c = model_choose(b, u)).route == ROUTE_REFUSE)
			deny(o, u, c.intention, c.why); /* the policy changed while the warden connected */
		else
			open_lane(o, u, c.intention, reply, server);
	}
	opening_unref(o);
	answered();
}

struct pair *lane_pair(struct broker *b, const struct service_name *source, const struct service_name *destination)
{
	struct pair_key key = { .source = *source, .destination = *destination };
	struct pair *p;

	HASH_FIND(hh, b->pairs, &key, sizeof(key), p);
	if (p)
		return p;
	p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->key = key;
	HASH_ADD(hh, b->pairs, key, sizeof(p->key), p);
	return p;
}

/*
 * Slots and descriptors of the gates are the host's. A workload may hold as many as are left, so that whatever one (or n of
 * them) takes, newcomers find room: half, a quarter, an eighth ... (after dbus-broker's shares of a quota).
 */
static bool has_share(struct broker *b, const struct workload *w)
{
	uint64_t capacity = 0, used = g_lanes.n_relayed + HASH_COUNT(g_lanes.openings);
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur > b->n_upstreams + 64)
		capacity = (files.rlim_cur - b->n_upstreams - 64) / 2;
	if (capacity > LIMIT_GATE_LANES)
		capacity = LIMIT_GATE_LANES;
	capacity *= b->n_gates;
	return used < capacity && (uint64_t)w->n_lanes + w->n_openings <= capacity - used;
}

/* May one more be opened under the intention's limits? Return: 0, or a line that says which limit. */
static const char *admit(struct opening *o, struct upstream *u, const struct intention *i)
{
	if (o->admitted)
		return NULL;
	if (!has_share(o->b, &o->b->workloads[o->wid]) || !carry_has_share(o->b, &o->b->workloads[o->wid]))
		return "limit reached: the workload holds as many lanes as are left for all others together";
	o->pair = lane_pair(o->b, &u->source, &u->destination);
	if (!o->pair)
		return "no memory";
	switch (lane_quota_admit(&o->pair->quota, &i->limits, clock_ns())) {
	case 0:
		o->admitted = true;
		return NULL;
	case QUOTA_E_OPEN_LANES:
		return "limit reached: open_lanes";
	default:
		return "limit reached: connections_per_s";
	}
}

/* To another host. Until there is one the gate keeps the client, since it sees when that leaves. */
static void try_elsewhere(struct opening *o, const struct upstream *u)
{
	const char *lacks = carry_lacks(o->b, &u->source, &u->destination, LINK_SOCKET);
	struct role_msg m = { .type = BG_HAND, .u.id.id = o->accept.cid };

	if (lacks) {
		opening_wait(o, 0, lacks);
		return;
	}
	o->state = OPENING_HANDING;
	broker_tell_gate(o->b, o->gate, &m, -1);
}

void lane_on_handed(struct broker *b, size_t gate, uint32_t cid, int fd)
{
	uint64_t key = (uint64_t)gate << 32 | cid;
	struct carry_client c = { .wid = ROLE_NO_ID };
	struct route_choice choice;
	struct upstream *u;
	struct opening *o;

	HASH_FIND(hh, g_lanes.openings, &key, sizeof(key), o);
	if (!o || o->state != OPENING_HANDING || fd < 0)
		return; /* nobody's any more: closed by the caller */
	u = model_upstream(b, o->accept.lid);
	if (!u || !is_still_enrolled(o)) {
		opening_end(o);
		return;
	}
	choice = model_choose(b, u);
	if (choice.route == ROUTE_REFUSE) {
		deny(o, u, choice.intention, choice.why); /* the policy changed while the gate let it go */
		return;
	}
	c = (struct carry_client){ .source = u->source, .destination = u->destination, .wid = u->wid, .lid = u->lid,
				   .pid = o->accept.pid, .uid = o->accept.uid, .deadline_ns = o->deadline_ns, .pair = o->pair,
				   .intention = choice.intention };
	o->admitted = false; /* the lane holds the quota from here */
	opening_end(o);
	carry_begin(b, &c, fd);
}

void lane_retry_waiting(struct broker *b)
{
	struct opening *o, *tmp;

	HASH_ITER(hh, g_lanes.openings, o, tmp)
		if (o->state == OPENING_WAITING)
			opening_try(o);
}

static void opening_try(struct opening *o)
{
	struct broker *b = o->b;
	struct upstream *u = model_upstream(b, o->accept.lid);
	struct route_choice c;
	struct service *s;
	const char *why;

	if (!u) {
		opening_refuse(o);
		return;
	}
	if (!is_still_enrolled(o)) {
		refuse_identity(o, "no container of this workload is enrolled now", NULL);
		return;
	}
	c = model_choose(b, u);
	if (c.route == ROUTE_REFUSE) {
		deny(o, u, c.intention, c.why);
		return;
	}
	why = admit(o, u, c.intention);
	if (why) {
		deny(o, u, c.intention, why);
		return;
	}
	if (c.route == ROUTE_LINK) {
		try_elsewhere(o, u);
		return;
	}
	s = model_find_service(b, &u->destination);
	if (!s->up) {
		opening_wait(o, 0, g_not_up);
		return;
	}
	o->sid = s->sid;
	ask_in_turn(o, true);
}

void lane_on_server_up(struct broker *b, uint32_t sid)
{
	struct opening *o, *tmp;
	const struct service_name *name = &b->services[sid].name;

	HASH_ITER(hh, g_lanes.openings, o, tmp) {
		const struct upstream *u = model_upstream(b, o->accept.lid);

		if (o->state == OPENING_WAITING && u && service_name_equal(&u->destination, name))
			opening_try(o);
	}
}

/* ------------------------------------------------------------------ identity */

void lane_cache_workload(uint64_t cgroup_id, uint32_t wid)
{
	struct cgroup_cache *c;

	HASH_FIND(hh, g_lanes.cache, &cgroup_id, sizeof(cgroup_id), c);
	if (c || cgroup_id == 0)
		return;
	c = calloc(1, sizeof(*c));
	if (!c)
		return;
	c->cgroup_id = cgroup_id;
	c->wid = wid;
	HASH_ADD(hh, g_lanes.cache, cgroup_id, sizeof(c->cgroup_id), c);
}

uint32_t lane_cached_workload(uint64_t cgroup_id)
{
	struct cgroup_cache *c = NULL;

	HASH_FIND(hh, g_lanes.cache, &cgroup_id, sizeof(cgroup_id), c);
	return c && cgroup_id ? c->wid : ROLE_NO_ID;
}

void lane_forget_workload_cgroups(struct broker *b, uint32_t wid)
{
	struct cgroup_cache *c, *tmp;

	HASH_ITER(hh, g_lanes.cache, c, tmp) {
		if (c->wid == wid) {
			HASH_DEL(g_lanes.cache, c);
			free(c);
		}
	}
}

static void opening_identified(struct opening *o, uint32_t wid, const char *cgroup)
{
	struct upstream *u = model_upstream(o->b, o->accept.lid);

	if (!u)
		opening_refuse(o);
	else if (u->wid != wid)
		refuse_identity(o, "the process that connected does not run in this workload's cgroup", cgroup);
	else
		opening_try(o);
}

static void on_resolved(struct broker *b, void *arg, const struct role_reply *reply, int fd)
{
	struct opening *o = arg;

	fd_cleanup(&fd);
	if (!o->dead) {
		if (reply->error)
			refuse_identity(o, reply->why, NULL);
		else {
			/* Only what holds for the enrolment that stands now may be remembered. */
			if (reply->wid == o->wid && is_still_enrolled(o))
				lane_cache_workload(o->accept.cgroup_id, reply->wid);
			opening_identified(o, reply->wid, reply->path);
		}
	}
	opening_unref(o);
	answered();
}

void lane_on_accept(struct broker *b, size_t gate, const struct role_accept *a)
{
	struct role_msg refuse = { .type = BG_REFUSE, .u.id.id = a->cid };
	uint32_t wid = lane_cached_workload(a->cgroup_id);
	const struct upstream *u = model_upstream(b, a->lid);
	struct opening *o = u ? opening_new(b, gate, a, u) : NULL;

	if (!o) {
		broker_tell_gate(b, gate, &refuse, -1);
		return;
	}
	o->deadline_ns = clock_ns() + (uint64_t)(b->config->connect_wait_s * 1e9);
	if (a->error) {
		refuse_identity(o, "the kernel could not say who connected", NULL);
		return;
	}
	if (wid != ROLE_NO_ID) {
		opening_identified(o, wid, NULL);
		return;
	}
	ask_in_turn(o, false);
}

void lane_on_gone(struct broker *b, size_t gate, uint32_t cid)
{
	uint64_t key = (uint64_t)gate << 32 | cid;
	struct opening *o;

	HASH_FIND(hh, g_lanes.openings, &key, sizeof(key), o);
	if (o)
		opening_end(o);
}

/* ------------------------------------------------------------------ open lanes */

static struct lane *lane_find(struct broker *b, size_t gate, uint64_t id)
{
	struct lane *l;

	HASH_FIND(hh, b->lanes, &id, sizeof(id), l);
	return l && l->path == LANE_PATH_RELAY && l->gate == gate ? l : NULL;
}

static void lane_count(struct lane *l, const struct role_stats *s)
{
	l->bytes_up = s->bytes_up;
	l->bytes_down = s->bytes_down;
	l->reads_up = s->reads_up;
	l->reads_down = s->reads_down;
}

static void lane_free(struct broker *b, struct lane *l)
{
	b->counters.bytes_up += l->bytes_up;
	b->counters.bytes_down += l->bytes_down;
	if (b->workloads[l->wid].n_lanes)
		b->workloads[l->wid].n_lanes--;
	lane_quota_release(&l->pair->quota);
	g_lanes.n_relayed--;
	HASH_DEL(b->lanes, l);
	free(l);
}

void lane_on_closed(struct broker *b, size_t gate, const struct role_stats *s)
{
	struct lane *l = lane_find(b, gate, s->lane_id);
	char src[LIMIT_SERVICE_SIZE], dst[LIMIT_SERVICE_SIZE];
	uint64_t more;

	if (!l)
		return;
	lane_count(l, s);
	if (lane_may_log(&b->workloads[l->wid], &more))
		LOG_EVENT(s->end == LANE_END_FDS || s->end == LANE_END_NOMEM ? LOG_LEVEL_WARNING : LOG_LEVEL_INFO, "lane.close",
		  LOG_ID("lane", l->id), LOG_STR("source", service_name_format(src, &l->source)),
		  LOG_STR("destination", service_name_format(dst, &l->destination)), LOG_STR("end", lane_end_name(s->end)),
		  LOG_STR("error", s->error ? log_errno_name(s->error) : NULL), LOG_U64("bytes_up", l->bytes_up),
		  LOG_U64("bytes_down", l->bytes_down), LOG_U64("more", more));
	lane_free(b, l);
}

static void refresh_finish_if_all(struct broker *b);

void lane_on_gate_lost(struct broker *b, size_t gate)
{
	struct opening *o, *otmp;
	struct lane *l, *ltmp;
	size_t n = 0;

	HASH_ITER(hh, g_lanes.openings, o, otmp)
		if (o->gate == gate)
			opening_end(o);
	HASH_ITER(hh, b->lanes, l, ltmp)
		if (l->path == LANE_PATH_RELAY && l->gate == gate) {
			lane_free(b, l);
			n++;
		}
	log_warn("gate.lost", LOG_U64("gate", gate), LOG_U64("lanes", n));
	g_lanes.gate_out[gate] = false;
	refresh_finish_if_all(b);
}

static void cut_relayed(struct broker *b, struct lane *l, const struct intention *i, const char *why)
{
	struct role_msg m = { .type = BG_CUT, .u.lane_ref.lane_id = l->id };
	char src[LIMIT_SERVICE_SIZE], dst[LIMIT_SERVICE_SIZE], rule[INTENTION_TEXT_SIZE];

	if (l->cut)
		return;
	l->cut = true;
	b->counters.lanes_cut++;
	b->workloads[l->wid].n_cut++;
	if (!i)
		i = policy_decide(b->policy, &l->source, &l->destination, unix_now_s());
	log_warn("lane.cut", LOG_ID("lane", l->id), LOG_STR("source", service_name_format(src, &l->source)),
		 LOG_STR("destination", service_name_format(dst, &l->destination)), LOG_STR("path", "relay"),
		 LOG_STR("intention", intention_text(rule, sizeof(rule), i)), LOG_STR("where", intention_where(i)),
		 LOG_STR("why", why));
	broker_tell_gate(b, l->gate, &m, -1);
}

void lane_recheck_all(struct broker *b)
{
	int64_t now = unix_now_s();
	struct lane *l, *tmp;

	HASH_ITER(hh, b->lanes, l, tmp) {
		const struct intention *i = policy_decide(b->policy, &l->source, &l->destination, now);
		struct role_msg m = { .type = BG_LIMIT };

		if (l->path != LANE_PATH_RELAY)
			continue;
		if (!i || i->action != INTENTION_ALLOW) {
			cut_relayed(b, l, i, "no longer allowed");
			continue;
		}
		if (i->limits.bytes_per_s == l->bytes_per_s)
			continue;
		l->bytes_per_s = i->limits.bytes_per_s;
		m.u.lane_ref = (struct role_lane_ref){ .lane_id = l->id, .bytes_per_s = l->bytes_per_s };
		broker_tell_gate(b, l->gate, &m, -1);
	}
	link_recheck(b);
	port_recheck(b);
}

bool lane_may_be_direct(const struct intention *i)
{
	return i && i->action == INTENTION_ALLOW && !i->strict && !i->limits.bytes_per_s && !i->limits.open_lanes &&
	       !i->limits.connections_per_s;
}

struct direct_cut {
	struct service_name source, destination;
	uint32_t wid;
	char where[LIMIT_PATH_SIZE], rule[INTENTION_TEXT_SIZE];
	const char *why;
};

static void on_direct_cut(struct broker *b, void *arg, const struct role_reply *reply, int fd)
{
	struct direct_cut *d = arg;
	struct workload *w = model_workload(b, d->wid);
	char src[LIMIT_SERVICE_SIZE], dst[LIMIT_SERVICE_SIZE];

	fd_cleanup(&fd);
	if (reply->error || reply->count > 0)
		log_warn("lane.cut", LOG_STR("source", service_name_format(src, &d->source)),
			 LOG_STR("destination", service_name_format(dst, &d->destination)), LOG_STR("path", "direct"),
			 LOG_U64("lanes", reply->count), LOG_STR("intention", d->rule), LOG_STR("where", d->where),
			 LOG_STR("why", d->why), LOG_STR("error", reply->error ? log_errno_name(reply->error) : NULL));
	b->counters.lanes_cut += reply->count;
	if (w)
		w->n_cut += reply->count;
	free(d);
}

void lane_cut_direct(struct broker *b, const struct upstream *u, uint32_t sid, const struct intention *i,
		     const char *why, bool watch)
{
	struct role_msg m = { .type = BW_CUT, .u.cut = { .sid = sid, .wid = u->wid, .watch = watch } };
	struct direct_cut *d = calloc(1, sizeof(*d));
	char rule[INTENTION_TEXT_SIZE];

	if (!d) {
		broker_ask(b, &m, -1, NULL, NULL);
		return;
	}
	*d = (struct direct_cut){ .source = u->source, .destination = u->destination, .wid = u->wid, .why = why };
	snprintf(d->where, sizeof(d->where), "%s", intention_where(i));
	snprintf(d->rule, sizeof(d->rule), "%s", intention_text(rule, sizeof(rule), i));
	broker_ask(b, &m, -1, on_direct_cut, d);
}

void lane_cut_upstream(struct broker *b, uint32_t lid, const char *why)
{
	struct lane *l, *tmp;

	HASH_ITER(hh, b->lanes, l, tmp)
		if (l->left_ns)
			continue; /* only what was sent through it before is still on its way */
		else if (l->path == LANE_PATH_RELAY && l->lid == lid)
			cut_relayed(b, l, NULL, why);
		else if (l->path == LANE_PATH_LINK && !l->link.inbound && l->lid == lid)
			cross_cut(b, l, NULL, why);
}

/* Of a lane from another host, the server is all there is here. */
static bool is_lane_of(struct broker *b, const struct lane *l, uint32_t wid)
{
	const struct service *s = model_service(b, l->sid);

	if (!l->link.inbound)
		return l->wid == wid;
	return l->link.lent ? l->shm.server_wid == wid : s && s->wid == wid;
}

static bool has_end_at(struct broker *b, const struct lane *l, uint32_t wid)
{
	switch (l->path) {
	case LANE_PATH_SHM:
		return l->wid == wid || l->shm.server_wid == wid;
	case LANE_PATH_RELAY:
		return l->wid == wid;
	case LANE_PATH_LINK:
		return is_lane_of(b, l, wid);
	default:
		return false;
	}
}

static void cut_any(struct broker *b, struct lane *l, const char *why)
{
	if (l->path == LANE_PATH_SHM)
		shm_cut(b, l, NULL, why);
	else if (l->path == LANE_PATH_RELAY)
		cut_relayed(b, l, NULL, why);
	else
		cross_cut(b, l, NULL, why);
}

static void cut_direct_of(struct broker *b, const struct workload *w, const char *why)
{
	for (size_t i = 0; i < b->n_upstreams; i++) {
		struct upstream *u = &b->upstreams[i];
		const struct service *s = model_find_service(b, &u->destination);

		if (u->removed || u->wid != w->wid || !u->may_have_direct || !s)
			continue;
		/* Watched, since the container may go on: until it may have direct lanes again, or the server is another. */
		u->may_have_direct = false;
		lane_cut_direct(b, u, s->sid, u->choice.intention, why, true);
	}
}

static void refuse_openings(struct broker *b, struct workload *w, const char *why)
{
	struct opening *o, *tmp;

	HASH_ITER(hh, g_lanes.openings, o, tmp)
		if (o->wid == w->wid)
			refuse_identity(o, why, NULL);
	port_leave_workload(b, w, why);
}

void lane_cut_workload(struct broker *b, struct workload *w, const char *why)
{
	struct lane *l, *tmp;

	refuse_openings(b, w, why);
	HASH_ITER(hh, b->lanes, l, tmp)
		if (!l->left_ns && has_end_at(b, l, w->wid))
			cut_any(b, l, why);
	cut_direct_of(b, w, why);
}

/* Is it open at both ends? Else nothing of it has arrived anywhere. */
static bool lane_is_open(const struct lane *l)
{
	return l->path == LANE_PATH_LINK ? !l->link.opening && !l->link.welcome : l->path == LANE_PATH_RELAY || !l->shm.pending;
}

static void on_left_time(struct broker *b, void *arg)
{
	uint64_t before = clock_ns() - LIMIT_LANE_LEFT_S * UINT64_C(1000000000);
	struct lane *l, *tmp;

	HASH_ITER(hh, b->lanes, l, tmp)
		if (l->left_ns && l->left_ns <= before)
			cut_any(b, l, "its container has ended, and what that had sent was not taken in time");
}

void lane_leave_workload(struct broker *b, struct workload *w, const char *why)
{
	uint64_t now = clock_ns();
	struct lane *l, *tmp;
	bool any = false;

	refuse_openings(b, w, why);
	HASH_ITER(hh, b->lanes, l, tmp) {
		if (l->left_ns || !has_end_at(b, l, w->wid))
			continue;
		if (lane_is_open(l))
			l->left_ns = now;
		else
			cut_any(b, l, why);
		any |= l->left_ns != 0;
	}
	if (any)
		broker_after(b, LIMIT_LANE_LEFT_S * 1000 + 1, on_left_time, NULL);
	cut_direct_of(b, w, why);
}

/* ------------------------------------------------------------------ what is open now */

static void refresh_done(struct broker *b)
{
	struct refresh_waiter *w = take_ptr(g_lanes.waiters);

	g_lanes.refreshing = false;
	free(b->direct_lanes);
	b->direct_lanes = take_ptr(g_lanes.scanned);
	b->n_direct_lanes = g_lanes.n_scanned;
	g_lanes.n_scanned = 0;
	while (w) {
		struct refresh_waiter *next = w->next;

		w->done(w->arg, 0, "");
		free(w);
		w = next;
	}
}

static void refresh_finish_if_all(struct broker *b)
{
	if (!g_lanes.refreshing || g_lanes.scan_out || g_lanes.porter_out || g_lanes.linkers_out)
		return;
	for (size_t i = 0; i < b->n_gates; i++)
		if (g_lanes.gate_out[i])
			return;
	refresh_done(b);
}

void lane_stats_of_porter_end(struct broker *b)
{
	g_lanes.porter_out = false;
	refresh_finish_if_all(b);
}

void lane_stats_of_linkers_end(struct broker *b)
{
	g_lanes.linkers_out = false;
	refresh_finish_if_all(b);
}

void lane_on_stats(struct broker *b, size_t gate, const struct role_stats *s)
{
	struct lane *l;

	if (s->lane_id == 0) {
		g_lanes.gate_out[gate] = false;
		refresh_finish_if_all(b);
		return;
	}
	l = lane_find(b, gate, s->lane_id);
	if (l)
		lane_count(l, s);
}

static void set_source(struct broker *b, struct lane *l, const struct service *s)
{
	const struct workload *w = model_workload(b, l->wid);
	const struct upstream *u = lane_upstream_between(b, l->wid, &s->name);

	l->destination = s->name;
	if (u) {
		l->source = u->source;
		l->lid = u->lid;
	} else if (w && w->n_services) {
		l->source = w->services[0];
	}
}

static void add_scanned(struct broker *b, const struct role_lane *sl)
{
	const struct service *s = model_service(b, sl->sid);

	if (!s)
		return;
	g_lanes.scanned[g_lanes.n_scanned] = (struct lane){
		.id = sl->client_ino << 32 | (sl->server_ino & UINT32_MAX), .path = LANE_PATH_DIRECT, .wid = sl->wid,
		.lid = ROLE_NO_ID, .sid = sl->sid, .client_pid = sl->client_pid, .server_pid = sl->server_pid,
	};
	set_source(b, &g_lanes.scanned[g_lanes.n_scanned++], s);
}

static int read_scan(struct broker *b, int fd, uint32_t n)
{
	AUTO_FREE(struct role_lane) lanes = NULL;
	struct stat st;

	if (n == 0)
		return 0;
	if (n > LIMIT_LANES_SCANNED || fstat(fd, &st) < 0 || st.st_size != (off_t)(n * sizeof(*lanes)))
		return -EBADMSG;
	lanes = calloc(n, sizeof(*lanes));
	g_lanes.scanned = calloc(n, sizeof(*g_lanes.scanned));
	if (!lanes || !g_lanes.scanned)
		return -ENOMEM;
	if (pread(fd, lanes, n * sizeof(*lanes), 0) != (ssize_t)(n * sizeof(*lanes)))
		return -EIO;
	for (uint32_t i = 0; i < n; i++)
		add_scanned(b, &lanes[i]);
	return 0;
}

static void on_scan_done(struct broker *b, void *arg, const struct role_reply *reply, int fd)
{
	AUTO_FD file = fd;
	int r = reply->error;

	if ((unsigned)(uintptr_t)arg != g_lanes.refresh_generation || !g_lanes.refreshing)
		return;
	if (r == 0)
		r = read_scan(b, file, reply->count);
	if (r < 0)
		log_warn("lanes.scan_failed", LOG_STR("error", log_errno_name(r)), LOG_STR("why", reply->why));
	g_lanes.scan_out = false;
	refresh_finish_if_all(b);
}

static void on_refresh_timeout(struct broker *b, void *arg)
{
	if ((unsigned)(uintptr_t)arg != g_lanes.refresh_generation || !g_lanes.refreshing)
		return;
	log_warn("lanes.refresh_timeout", LOG_BOOL("warden", g_lanes.scan_out), LOG_BOOL("porter", g_lanes.porter_out),
		 LOG_BOOL("linkers", g_lanes.linkers_out));
	refresh_done(b);
}

void broker_refresh_lanes(struct broker *b, broker_done_fn done, void *arg)
{
	struct role_msg scan = { .type = BW_SCAN }, stats = { .type = BG_STATS }, porter = { .type = BP_STATS };
	struct refresh_waiter *w = calloc(1, sizeof(*w));

	if (!w) {
		done(arg, -ENOMEM, "no memory");
		return;
	}
	*w = (struct refresh_waiter){ .next = g_lanes.waiters, .done = done, .arg = arg };
	g_lanes.waiters = w;
	if (g_lanes.refreshing)
		return;
	g_lanes.refreshing = g_lanes.scan_out = true;
	g_lanes.refresh_generation++;
	free(take_ptr(g_lanes.scanned));
	g_lanes.n_scanned = 0;
	for (size_t i = 0; i < b->n_gates; i++)
		g_lanes.gate_out[i] = b->gates[i].fd >= 0;
	broker_tell_all_gates(b, &stats, -1);
	g_lanes.porter_out = b->porter.fd >= 0;
	broker_tell_porter(b, &porter, -1);
	link_ask_stats(b);
	g_lanes.linkers_out = !link_has_stats(b);
	/* A gate that is stuck must not keep the admin interface waiting: two seconds, then what is known. */
	broker_after(b, 2000, on_refresh_timeout, (void *)(uintptr_t)g_lanes.refresh_generation);
	broker_ask(b, &scan, -1, on_scan_done, (void *)(uintptr_t)g_lanes.refresh_generation);
}

/* One cut ends all lanes of a pair. */
static void cut_pair(struct broker *b, struct lane *first, const struct intention *i)
{
	struct upstream u = { .wid = first->wid, .source = first->source, .destination = first->destination };

	for (struct lane *l = first; l < b->direct_lanes + b->n_direct_lanes; l++)
		l->cut |= l->wid == first->wid && l->sid == first->sid;
	lane_cut_direct(b, &u, first->sid, i, "an earlier daemon allowed it, this configuration does not", true);
}

static void on_inherited(void *arg, int error, const char *why)
{
	struct broker *b = arg;

	if (error)
		log_warn("lanes.inherited", LOG_STR("error", log_errno_name(error)), LOG_STR("why", why));
	for (size_t n = 0; !error && n < b->n_direct_lanes; n++) {
		struct lane *l = &b->direct_lanes[n];
		const struct intention *i = policy_decide(b->policy, &l->source, &l->destination, unix_now_s());
		bool known = lane_upstream_between(b, l->wid, &l->destination) != NULL;

		if (model_workload(b, l->wid) && !l->cut && !(known && lane_may_be_direct(i)))
			cut_pair(b, l, i);
	}
}

/* The scan is asked for after the servers and enrolments that it needs, and answered after what routes they make. */
void lane_cut_inherited(struct broker *b)
{
	broker_refresh_lanes(b, on_inherited, b);
}

int broker_each_lane(struct broker *b, int (*fn)(void *arg, const struct lane *l), void *arg)
{
	struct lane *l, *tmp;
	int r;

	HASH_ITER(hh, b->lanes, l, tmp) {
		r = l->shm.pending || l->link.opening ? 0 : fn(arg, l);
		if (r)
			return r;
	}
	for (size_t i = 0; i < b->n_direct_lanes; i++) {
		r = fn(arg, &b->direct_lanes[i]);
		if (r)
			return r;
	}
	return 0;
}
