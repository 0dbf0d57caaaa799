/*
 * Theory of operation: a lane from another host to a service here.
 *
 * A linker holds a session whose other side has shown the certificate of a service, and that side wants a lane (LB_ASK). The other
 * host has decided already that it may; here it is decided again, by our own intentions and from the certificate's name alone:
 *
 *   (at once)    is it a name of ours, is it revoked, may it, is there such a service, is there room?   a "no" is BL_NO and an event
 *   WAITING      is the server up, has it a certificate?       at most connect_wait, and no more than WAIT_MAX_MS: the source's host
 *                                                              waits itself, where it has heard of that, and may know another instance
 *   QUEUED       no more than ASKED_MAX are asked of the warden at a time, whatever the other hosts send
 *   CONNECTING   the server's socket (BW_CONNECT), then BL_GO and the lane is open
 *
 * A lane for a library goes another way from there: to whom listens for its kind, as if a library here had asked.
 *
 *   LENDING      the lane is in the table, not open: the porter lends the linker the client's end (broker_lend.c), then BL_GO
 *   (its own)    the linker says CTL_CONNECT with it; when the listener has taken the lane (PB_OPEN) it is open, else LB_CLOSED ends it
 *
 * Policy is asked before existence, so whoever may not talk to a service does not learn whether there is one.
 *
 * Before this file: the linker. After it: broker_cross.c.
 * Must never: take a word of the other host for more than a name to look up.
 */
#include "daemon/broker_port.h"

#include "core/svid.h"

#include <stdio.h>
#include <sys/queue.h>

enum welcome_state { WELCOME_WAITING, WELCOME_QUEUED, WELCOME_CONNECTING, WELCOME_LENDING };
enum { ASKED_MAX = 64, REFUSALS_LOGGED_PER_S = 10, RETRY_MS = 50, WAIT_MAX_MS = 500 };

struct welcome {
	uint64_t key; /* linker << 32 | the linker's number */
	struct broker *b;
	enum welcome_state state;
	unsigned refs; /* outstanding replies and timers, and one while in the table */
	bool dead;     /* answered, or the other side has left */
	bool admitted, timer_set;
	struct service_name source, destination;
	char source_id[LIMIT_SPIFFE_ID_SIZE], peer[LIMIT_ADDRESS_SIZE], serial[ROLE_SERIAL_SIZE];
	uint64_t link_id;
	uint32_t kind; /* enum link_kind */
	const char *told;  /* NULL: what its code says is all that the other host is told */
	struct lane *lane; /* WELCOME_LENDING: in the table already, with the quota */
	struct pair *pair;
	uint64_t deadline_ns;
	TAILQ_ENTRY(welcome) turn; /* WELCOME_QUEUED */
	UT_hash_handle hh;
};

static struct {
	struct welcome *all;
	TAILQ_HEAD(, welcome) queued;
	unsigned n_asked; /* BW_CONNECT that are not answered */
	struct bucket refusals; /* to services that no workload here has */
	uint64_t n_unlogged;
} g_welcome = { .queued = TAILQ_HEAD_INITIALIZER(g_welcome.queued) };

/* ------------------------------------------------------------------ life */

static void welcome_unref(struct welcome *w)
{
	if (--w->refs == 0)
		free(w);
}

/* It was not told to a linker yet. */
static void drop_lane(struct welcome *w)
{
	struct lane *l = take_ptr(w->lane);

	l->link.welcome = NULL;
	lend_end(w->b, l, -ECONNABORTED, "the other host has given the lane up");
	cross_free(w->b, l);
}

static void welcome_end(struct welcome *w)
{
	if (w->dead)
		return;
	w->dead = true;
	if (w->state == WELCOME_QUEUED)
		TAILQ_REMOVE(&g_welcome.queued, w, turn);
	if (w->lane)
		drop_lane(w);
	if (w->admitted)
		lane_quota_release(&w->pair->quota);
	w->admitted = false;
	HASH_DEL(g_welcome.all, w);
	rdma_on_idle(w->b, (uint32_t)(w->key >> 32));
	welcome_unref(w);
}

static struct welcome *welcome_new(struct broker *b, uint32_t linker, const struct role_link_ask *q)
{
	struct welcome *w = calloc(1, sizeof(*w)), *old;

	if (!w)
		return NULL;
	*w = (struct welcome){ .key = (uint64_t)linker << 32 | q->ask, .b = b, .refs = 1 };
	memcpy(w->source_id, q->source, sizeof(w->source_id));
	memcpy(w->peer, q->peer, sizeof(w->peer));
	memcpy(w->serial, q->serial, sizeof(w->serial));
	w->link_id = q->link_id;
	w->kind = q->kind;
	w->deadline_ns = clock_ns() + (uint64_t)(b->config->connect_wait_s < WAIT_MAX_MS / 1e3 ? b->config->connect_wait_s * 1e9 : WAIT_MAX_MS * 1e6);
	HASH_FIND(hh, g_welcome.all, &w->key, sizeof(w->key), old);
	if (old)
		welcome_end(old); /* a linker that numbers two alike harms only its own */
	HASH_ADD(hh, g_welcome.all, key, sizeof(w->key), w);
	return w;
}

/* ------------------------------------------------------------------ no */

static struct workload *workload_of(struct broker *b, const struct service_name *name)
{
	const struct service *s = name->name[0] ? model_find_service(b, name) : NULL;

	return s ? model_workload(b, s->wid) : NULL;
}

/* As a workload's own refusals: ten a second, the rest is counted and told with the next one. */
static bool may_log(struct workload *at, uint64_t *ret_more)
{
	if (at)
		return lane_may_log_refusal(at, ret_more);
	if (g_welcome.refusals.rate_per_s == 0)
		bucket_init(&g_welcome.refusals, REFUSALS_LOGGED_PER_S, REFUSALS_LOGGED_PER_S, clock_ns());
	if (bucket_available(&g_welcome.refusals, clock_ns()) == 0) {
		g_welcome.n_unlogged++;
		return false;
	}
	bucket_take(&g_welcome.refusals, 1);
	*ret_more = g_welcome.n_unlogged;
	g_welcome.n_unlogged = 0;
	return true;
}

static void log_no(struct welcome *w, const struct intention *i, uint32_t code, const char *why)
{
	struct broker *b = w->b;
	struct workload *at = workload_of(b, &w->destination);
	char src[LIMIT_SERVICE_SIZE], dst[LIMIT_SERVICE_SIZE], id[LIMIT_SPIFFE_ID_SIZE], rule[INTENTION_TEXT_SIZE];
	bool denied = code != LINK_DOWN && code != LINK_FAILED, known = w->source.name[0] && w->destination.name[0];
	uint64_t more;

	*(denied ? &b->counters.lanes_denied : &b->counters.lanes_failed) += 1;
	if (at)
		at->n_denied += denied;
	if (!may_log(at, &more))
		return;
	log_warn(denied ? "lane.deny" : "lane.fail", LOG_STR("source", known ? service_name_format(src, &w->source) : NULL),
		 LOG_STR("destination", known ? service_name_format(dst, &w->destination) : NULL), LOG_STR("path", "link"),
		 LOG_STR("source_id", w->source_id),
		 LOG_STR("destination_id", known ? spiffe_id_format(id, b->config->trust_domain, &w->destination) : NULL),
		 LOG_STR("address", w->peer), LOG_STR("code", link_code_name(code)),
		 LOG_STR("intention", known ? intention_text(rule, sizeof(rule), i) : NULL), LOG_STR("where", known ? intention_where(i) : NULL),
		 LOG_STR("why", why), LOG_U64("more", more));
}

/* What the other host is told is our people's business no further than the code: the reason stays in our log. */
static void no(struct welcome *w, const struct intention *i, uint32_t code, const char *why)
{
	static const char *const told[LINK_CODE_N] = {
		[LINK_DENIED] = "the destination's host does not allow it",  [LINK_UNKNOWN] = "no such service on this host, or it takes no lanes of this kind",
		[LINK_DOWN] = "its server does not listen",		      [LINK_LIMIT] = "a limit of the destination's host is reached",
		[LINK_DRAINING] = "the destination's host takes no new lanes", [LINK_FAILED] = "the destination's host could not connect it",
	};
	struct role_msg m = { .type = BL_NO, .u.link_no = { .ask = (uint32_t)w->key, .code = code } };

	const char *line = w->told && code == LINK_FAILED ? w->told : told[code];

	w->b->link.lanes_no[1][code]++;
	log_no(w, i, code, why);
	if (!line || !str_copy(m.u.link_no.why, sizeof(m.u.link_no.why), line))
		m.u.link_no.why[0] = '\0';
	link_tell(w->b, (uint32_t)(w->key >> 32), &m, -1);
	welcome_end(w);
}

/* ------------------------------------------------------------------ yes */

static void on_connected(struct broker *b, void *arg, const struct role_reply *reply, int fd);
static void welcome_try(struct welcome *w);

static void on_retry_time(struct broker *b, void *arg)
{
	struct welcome *w = arg;

	w->timer_set = false;
	if (!w->dead && w->state == WELCOME_WAITING)
		welcome_try(w);
	welcome_unref(w);
}

static void wait(struct welcome *w, const struct intention *i, unsigned retry_ms, uint32_t code, const char *what)
{
	uint64_t now = clock_ns();

	w->state = WELCOME_WAITING;
	if (now >= w->deadline_ns) {
		no(w, i, code, what);
		return;
	}
	if (w->timer_set)
		return;
	if (!retry_ms || (uint64_t)retry_ms * 1000000 > w->deadline_ns - now)
		retry_ms = (unsigned)((w->deadline_ns - now) / 1000000) + 1;
	w->timer_set = true;
	w->refs++;
	broker_after(w->b, retry_ms, on_retry_time, w);
}

static void ask_now(struct welcome *w, uint32_t sid)
{
	struct role_msg m = { .type = BW_CONNECT, .u.id.id = sid };

	w->state = WELCOME_CONNECTING;
	w->refs++;
	g_welcome.n_asked++;
	broker_ask(w->b, &m, -1, on_connected, w);
}

static void answered(void)
{
	struct welcome *next;

	g_welcome.n_asked--;
	while (g_welcome.n_asked < ASKED_MAX && (next = TAILQ_FIRST(&g_welcome.queued))) {
		TAILQ_REMOVE(&g_welcome.queued, next, turn);
		next->state = WELCOME_WAITING;
		welcome_try(next);
	}
}

static const char *admit(struct welcome *w, const struct intention *i)
{
	if (w->admitted)
		return NULL;
	w->pair = lane_pair(w->b, &w->source, &w->destination);
	if (!w->pair)
		return "no memory";
	switch (lane_quota_admit(&w->pair->quota, &i->limits, clock_ns())) {
	case 0:
		w->admitted = true;
		return NULL;
	case QUOTA_E_OPEN_LANES:
		return "limit reached: open_lanes";
	default:
		return "limit reached: connections_per_s";
	}
}

/* Everything that can say no. Return: the service, or NULL: answered. */
static struct service *check(struct welcome *w, const struct intention **ret_i)
{
	struct broker *b = w->b;
	const struct intention *i = policy_decide(b->policy, &w->source, &w->destination, unix_now_s());
	struct service *s = model_find_service(b, &w->destination);
	const struct workload *at = s ? model_workload(b, s->wid) : NULL;
	const char *why;

	*ret_i = i;
	if (ca_is_revoked(b, w->source_id))
		no(w, i, LINK_DENIED, "the source's identity is revoked");
	else if (!i)
		no(w, i, LINK_DENIED, "no intention allows it (default deny)");
	else if (i->action != INTENTION_ALLOW)
		no(w, i, LINK_DENIED, "an intention denies it");
	else if (!s || !(w->kind == LINK_SOCKET ? s->offered : s->takes_lanes))
		no(w, i, LINK_UNKNOWN, "no service of this name is offered on this host");
	else if (at && at->draining && w->kind == LINK_SOCKET)
		no(w, i, LINK_DRAINING, "allowed, but the service is being drained");
	else if ((why = admit(w, i)))
		no(w, i, LINK_LIMIT, why);
	else
		return s;
	return NULL;
}

static const char too_many[] = "limit reached: the source, or the workload here, has as many lanes from other hosts as are left for all others together";

static void try_library(struct welcome *w, const struct intention *i, struct service *s);

static void welcome_try(struct welcome *w)
{
	const struct intention *i;
	struct service *s = check(w, &i);
	const char *why = "";

	if (!s)
		return;
	w->told = NULL;
	if (ca_credential(w->b, &w->destination, &why) == ROLE_NO_ID) {
		w->told = "the destination's host has no certificate for the service; there, `sealane ls certificates` says why";
		wait(w, i, 0, LINK_FAILED, why);
		return;
	}
	if (w->kind != LINK_SOCKET) {
		try_library(w, i, s);
		return;
	}
	if (!s->up && s->n_listeners > 0) {
		no(w, i, LINK_UNKNOWN, "nobody listens on its socket, only programs that link libsealane");
		return;
	}
	if (!s->up) {
		wait(w, i, 0, LINK_DOWN, "the server is not up: nobody listens on its socket");
		return;
	}
	if (!share_has_room(w->b, &w->source, model_workload(w->b, s->wid), false)) {
		no(w, i, LINK_LIMIT, too_many);
		return;
	}
	if (g_welcome.n_asked < ASKED_MAX) {
		ask_now(w, s->sid);
		return;
	}
	w->state = WELCOME_QUEUED;
	TAILQ_INSERT_TAIL(&g_welcome.queued, w, turn);
}

static void log_allow(struct broker *b, const struct lane *l, struct workload *at)
{
	char src[LIMIT_SERVICE_SIZE], dst[LIMIT_SERVICE_SIZE], ids[2][LIMIT_SPIFFE_ID_SIZE], rule[INTENTION_TEXT_SIZE], path[CROSS_PATH_SIZE];
	const struct intention *i = policy_decide(b->policy, &l->source, &l->destination, unix_now_s());
	char link_lane[LINK_LANE_ID_SIZE];
	uint64_t more = 0;

	if (at && !lane_may_log(at, &more))
		return;
	link_lane_id(link_lane, l->link.id);
	log_info("lane.allow", LOG_ID("lane", l->id), LOG_STR("link_lane", link_lane[0] ? link_lane : NULL), LOG_STR("source", service_name_format(src, &l->source)),
		 LOG_STR("destination", service_name_format(dst, &l->destination)), LOG_STR("path", cross_path(b, l, path)),
		 LOG_STR("intention", intention_text(rule, sizeof(rule), i)), LOG_STR("where", intention_where(i)),
		 LOG_STR("source_id", spiffe_id_format(ids[0], b->config->trust_domain, &l->source)),
		 LOG_STR("destination_id", spiffe_id_format(ids[1], b->config->trust_domain, &l->destination)),
		 LOG_STR("kind", link_kind_name(l->link.kind)), LOG_STR("address", l->link.peer), LOG_STR("workload", at ? at->name : NULL), LOG_U64("more", more));
}

static void now_open(struct broker *b, struct lane *l, struct workload *at)
{
	l->shm.pending = false;
	b->counters.lanes_opened++;
	b->link.lanes_opened[1]++;
	if (at)
		at->n_allowed++;
	log_allow(b, l, at);
	link_announce_soon(b);
}

/* Into the table, with @w's quota. Return: NULL: answered. */
static struct lane *lane_new(struct welcome *w, const struct service *s, const struct intention *i, const struct workload *at, uint32_t server_pid)
{
	struct lane from = { .wid = ROLE_NO_ID, .lid = ROLE_NO_ID, .sid = s->sid, .source = w->source, .destination = w->destination,
			     .server_pid = server_pid, .bytes_per_s = i->limits.bytes_per_s, .pair = w->pair,
			     .link = { .inbound = true, .linker = (uint32_t)(w->key >> 32), .hid = ROLE_NO_ID, .id = w->link_id, .kind = w->kind } };
	const struct link_host *h = link_host_of(w->b, w->peer, w->serial);
	struct lane *l;

	from.link.hid = h ? h->hid : ROLE_NO_ID;
	memcpy(from.link.peer, w->peer, sizeof(from.link.peer));
	l = share_take(&from, at) == 0 ? cross_open(w->b, &from) : NULL;
	if (!l)
		share_give_back(&from);
	if (l)
		w->admitted = false; /* the lane holds the quota from here */
	else
		no(w, i, LINK_FAILED, "no memory for the lane");
	return l;
}

/* From here on the lane is the linker's. Return: false: answered. */
static bool go(struct welcome *w, const struct intention *i, const struct lane *l, int fd)
{
	struct role_msg m = { .type = BL_GO, .u.link_go = { .ask = (uint32_t)w->key, .lane_id = l->id, .bytes_per_s = l->bytes_per_s } };
	const char *why = "";

	if (l->link.lent)
		m.u.link_go.wid = l->shm.server_wid;
	m.u.link_go.kid = ca_credential(w->b, &w->destination, &why);
	if (m.u.link_go.kid == ROLE_NO_ID) {
		no(w, i, LINK_FAILED, why);
		return false;
	}
	link_tell(w->b, l->link.linker, &m, fd);
	return true;
}

static void open_lane(struct welcome *w, const struct service *s, const struct intention *i, const struct role_reply *reply, int fd)
{
	struct lane *l = lane_new(w, s, i, model_workload(w->b, s->wid), reply->pid);

	if (!l)
		return;
	if (!go(w, i, l, fd)) {
		cross_free(w->b, l);
		return;
	}
	now_open(w->b, l, model_workload(w->b, s->wid));
	welcome_end(w);
}

/* ------------------------------------------------------------------ a library's */

static void lend(struct welcome *w, const struct intention *i, const struct service *s, struct port_listener *li)
{
	struct lane *l = lane_new(w, s, i, model_workload(w->b, li->wid), li->pid);

	if (!l)
		return;
	l->shm.server_wid = li->wid;
	l->shm.kind = lend_kind(w->kind);
	l->shm.listener = li->cid;
	l->shm.listener_serial = li->serial;
	port_picked(li);
	l->link.welcome = w;
	w->lane = l;
	w->state = WELCOME_LENDING;
	lend_begin(w->b, l, li->cid);
}

static void try_library(struct welcome *w, const struct intention *i, struct service *s)
{
	char why[256];
	int error = 0;
	struct port_listener *li = port_pick(w->b, s, lend_kind(w->kind), &error, why, sizeof(why));

	if (error == -EPROTOTYPE || (error == -ECONNREFUSED && s->up))
		no(w, i, LINK_UNKNOWN, why);
	else if (error == -ECONNREFUSED)
		wait(w, i, 0, LINK_DOWN, why);
	else if (error)
		no(w, i, LINK_DRAINING, why);
	else if (shm_n_lanes() + lend_n_lanes() >= LIMIT_LANES)
		no(w, i, LINK_LIMIT, "limit reached: this host's libraries hold as many lanes as they can");
	else if (!share_has_room(w->b, &w->source, model_workload(w->b, li->wid), true))
		no(w, i, LINK_LIMIT, too_many);
	else
		lend(w, i, s, li);
}

void welcome_on_lent(struct broker *b, struct lane *l, int fd)
{
	struct welcome *w = l->link.welcome;
	const struct intention *i = policy_decide(b->policy, &w->source, &w->destination, unix_now_s());

	if (l->cut) { /* what was decided before does not hold any more */
		no(w, i, LINK_DENIED, "it was taken back while the lane was made");
		return;
	}
	if (!go(w, i, l, fd))
		return;
	l->link.welcome = NULL;
	w->lane = NULL;
	welcome_end(w);
}

void welcome_on_not_lent(struct broker *b, struct lane *l, const struct role_stats *s)
{
	struct welcome *w = l->link.welcome;
	const struct intention *i = policy_decide(b->policy, &w->source, &w->destination, unix_now_s());

	drop_lane(w);
	w->state = WELCOME_WAITING;
	if (s->end == LANE_END_SERVER) /* its listener has gone: another one's, or the next one's */
		welcome_try(w);
	else
		no(w, i, LINK_FAILED, "the porter could not make the lane");
}

void welcome_on_lane(struct broker *b, struct lane *l)
{
	now_open(b, l, model_workload(b, l->shm.server_wid));
}

static void on_connected(struct broker *b, void *arg, const struct role_reply *reply, int fd)
{
	const struct intention *i;
	struct welcome *w = arg;
	AUTO_FD server = fd;
	struct service *s;

	if (!w->dead && (s = check(w, &i))) { /* the policy may have changed while the warden connected */
		if (reply->error == -ECONNREFUSED || reply->error == -ENOENT || reply->error == -EAGAIN)
			wait(w, i, RETRY_MS, LINK_DOWN, "the server is not up: nobody listens on its socket");
		else if (reply->error || server < 0)
			no(w, i, LINK_FAILED, reply->why[0] ? reply->why : "the server could not be reached");
		else
			open_lane(w, s, i, reply, server);
	}
	welcome_unref(w);
	answered();
}

/* ------------------------------------------------------------------ from outside */

void welcome_on_ask(struct broker *b, uint32_t linker, const struct role_link_ask *q)
{
	struct welcome *w = b->config ? welcome_new(b, linker, q) : NULL;
	struct role_msg m = { .type = BL_NO, .u.link_no = { .ask = q->ask, .code = LINK_FAILED, .why = "out of memory" } };

	if (!w) {
		link_tell(b, linker, &m, -1);
		return;
	}
	if (spiffe_id_parse(&w->source, q->source, b->config->trust_domain) < 0) {
		memset(&w->source, 0, sizeof(w->source));
		no(w, NULL, LINK_DENIED, "the certificate is not a service's of our trust domain");
	} else if (!strchr(q->destination, '/') || service_name_parse(&w->destination, q->destination, "") < 0) {
		memset(&w->destination, 0, sizeof(w->destination));
		no(w, NULL, LINK_DENIED, "what it asks for cannot be the name of a service");
	} else {
		welcome_try(w);
	}
}

void welcome_on_gone(struct broker *b, uint32_t linker, uint32_t ask)
{
	uint64_t key = (uint64_t)linker << 32 | ask;
	struct welcome *w;

	HASH_FIND(hh, g_welcome.all, &key, sizeof(key), w);
	if (w)
		welcome_end(w);
}

void welcome_on_linker_lost(struct broker *b, uint32_t linker)
{
	struct welcome *w, *tmp;

	HASH_ITER(hh, g_welcome.all, w, tmp)
		if ((uint32_t)(w->key >> 32) == linker)
			welcome_end(w);
}

bool welcome_waits(uint32_t linker)
{
	for (const struct welcome *w = g_welcome.all; w; w = w->hh.next)
		if ((uint32_t)(w->key >> 32) == linker)
			return true;
	return false;
}

void welcome_retry(struct broker *b)
{
	struct welcome *w, *tmp;

	HASH_ITER(hh, g_welcome.all, w, tmp)
		if (w->state == WELCOME_WAITING)
			welcome_try(w);
}
