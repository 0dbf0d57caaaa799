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
 * Policy is asked before existence, so whoever may not talk to a service does not learn whether there is one.
 *
 * Before this file: the linker. After it: broker_cross.c.
 * Must never: take a word of the other host for more than a name to look up.
 */
#include "daemon/broker_int.h"

#include "core/svid.h"

#include <stdio.h>
#include <sys/queue.h>

enum welcome_state { WELCOME_WAITING, WELCOME_QUEUED, WELCOME_CONNECTING };
enum { ASKED_MAX = 64, REFUSALS_LOGGED_PER_S = 10, RETRY_MS = 50, WAIT_MAX_MS = 500 };

struct welcome {
	uint64_t key; /* linker << 32 | the linker's number */
	struct broker *b;
	enum welcome_state state;
	unsigned refs; /* outstanding replies and timers, and one while in the table */
	bool dead;     /* answered, or the other side has left */
	bool admitted, timer_set;
	struct service_name source, destination;
	char source_id[LIMIT_SPIFFE_ID_SIZE], peer[LIMIT_ADDRESS_SIZE];
	uint64_t link_id;
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

static void welcome_end(struct welcome *w)
{
	if (w->dead)
		return;
	w->dead = true;
	if (w->state == WELCOME_QUEUED)
		TAILQ_REMOVE(&g_welcome.queued, w, turn);
	if (w->admitted)
		lane_quota_release(&w->pair->quota);
	w->admitted = false;
	HASH_DEL(g_welcome.all, w);
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
	w->link_id = q->link_id;
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
		[LINK_DENIED] = "the destination's host does not allow it",  [LINK_UNKNOWN] = "no such service on this host",
		[LINK_DOWN] = "its server does not listen",		      [LINK_LIMIT] = "a limit of the destination's host is reached",
		[LINK_DRAINING] = "the destination's host takes no new lanes", [LINK_FAILED] = "the destination's host could not connect it",
	};
	struct role_msg m = { .type = BL_NO, .u.link_no = { .ask = (uint32_t)w->key, .code = code } };

	w->b->link.lanes_no[1][code]++;
	log_no(w, i, code, why);
	if (!told[code] || !str_copy(m.u.link_no.why, sizeof(m.u.link_no.why), told[code]))
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
	else if (!s || !s->offered)
		no(w, i, LINK_UNKNOWN, "no service of this name is offered on this host");
	else if (at && at->draining)
		no(w, i, LINK_DRAINING, "allowed, but the service is being drained");
	else if ((why = admit(w, i)))
		no(w, i, LINK_LIMIT, why);
	else
		return s;
	return NULL;
}

static void welcome_try(struct welcome *w)
{
	const struct intention *i;
	struct service *s = check(w, &i);
	const char *why = "";

	if (!s)
		return;
	if (ca_credential(w->b, &w->destination, &why) == ROLE_NO_ID) {
		wait(w, i, 0, LINK_FAILED, why);
		return;
	}
	if (!s->up) {
		wait(w, i, 0, LINK_DOWN, "the server is not up: nobody listens on its socket");
		return;
	}
	if (g_welcome.n_asked < ASKED_MAX) {
		ask_now(w, s->sid);
		return;
	}
	w->state = WELCOME_QUEUED;
	TAILQ_INSERT_TAIL(&g_welcome.queued, w, turn);
}

static void log_allow(struct broker *b, const struct lane *l, const struct welcome *w, const struct intention *i)
{
	char src[LIMIT_SERVICE_SIZE], dst[LIMIT_SERVICE_SIZE], id[LIMIT_SPIFFE_ID_SIZE], rule[INTENTION_TEXT_SIZE], path[CROSS_PATH_SIZE];
	struct workload *at = workload_of(b, &l->destination);
	char link_lane[LINK_LANE_ID_SIZE];
	uint64_t more = 0;

	if (at && !lane_may_log(at, &more))
		return;
	link_lane_id(link_lane, l->link.id);
	log_info("lane.allow", LOG_ID("lane", l->id), LOG_STR("link_lane", link_lane[0] ? link_lane : NULL), LOG_STR("source", service_name_format(src, &l->source)),
		 LOG_STR("destination", service_name_format(dst, &l->destination)), LOG_STR("path", cross_path(b, l, path)),
		 LOG_STR("intention", intention_text(rule, sizeof(rule), i)), LOG_STR("where", intention_where(i)),
		 LOG_STR("source_id", w->source_id), LOG_STR("destination_id", spiffe_id_format(id, b->config->trust_domain, &l->destination)),
		 LOG_STR("address", w->peer), LOG_STR("workload", at ? at->name : NULL), LOG_U64("more", more));
}

static void open_lane(struct welcome *w, const struct service *s, const struct intention *i, const struct role_reply *reply, int fd)
{
	struct lane from = { .wid = ROLE_NO_ID, .lid = ROLE_NO_ID, .sid = s->sid, .source = w->source, .destination = w->destination,
			     .server_pid = reply->pid, .bytes_per_s = i->limits.bytes_per_s, .pair = w->pair,
			     .link = { .inbound = true, .linker = (uint32_t)(w->key >> 32), .hid = ROLE_NO_ID, .id = w->link_id } };
	struct role_msg m = { .type = BL_GO, .u.link_go = { .ask = (uint32_t)w->key, .bytes_per_s = from.bytes_per_s } };
	const struct link_host *h = link_host_at(w->b, w->peer);
	struct workload *at = model_workload(w->b, s->wid);
	const char *why = "";
	struct lane *l;

	from.link.hid = h ? h->hid : ROLE_NO_ID;
	m.u.link_go.kid = ca_credential(w->b, &w->destination, &why);
	memcpy(from.link.peer, w->peer, sizeof(from.link.peer));
	l = m.u.link_go.kid == ROLE_NO_ID ? NULL : cross_open(w->b, &from);
	if (!l) {
		no(w, i, LINK_FAILED, m.u.link_go.kid == ROLE_NO_ID ? why : "no memory for the lane");
		return;
	}
	w->admitted = false; /* the lane holds the quota from here */
	m.u.link_go.lane_id = l->id;
	w->b->counters.lanes_opened++;
	w->b->link.lanes_opened[1]++;
	if (at)
		at->n_allowed++;
	log_allow(w->b, l, w, i);
	link_tell(w->b, from.link.linker, &m, fd);
	link_announce_soon(w->b);
	welcome_end(w);
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
	} else if (q->kind != LINK_SOCKET) {
		no(w, NULL, LINK_UNKNOWN, "lanes of the library do not go to other hosts; use the socket file");
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

void welcome_retry(struct broker *b)
{
	struct welcome *w, *tmp;

	HASH_ITER(hh, g_welcome.all, w, tmp)
		if (w->state == WELCOME_WAITING)
			welcome_try(w);
}
