/*
 * Theory of operation: a lane from here to a service on another host.
 *
 * The gate has accepted a client, asked the kernel who it is, and broker_lane.c has decided: it may, and no server here is up. As
 * soon as some host has the service and the source has a certificate (carry_lacks()), the gate gives the client's connection
 * away, and this file hands it to a linker (BL_CARRY). From then on:
 *
 *   opening   the linker asks the far host.       LB_OPENED -> open
 *                                                 no answer for ANSWER_MS, and another host has it: taken back (BL_RECALL)
 *                                                 LB_FAILED with the client back -> the next host that has it, each once;
 *                                                 then parked, or refused, with what the last one said
 *                                                 LB_FAILED without it (bytes were sent), LB_CLOSED -> refused
 *   parked    no linker has it, we hold its end.  every RETRY_MS all hosts again, until connect_wait is over; then refused
 *   open      broker_cross.c
 *
 * A library's client comes from broker_port.c instead, and what a linker gets is what the porter lent (broker_lend.c); until that is there
 * the lane is parked with no end. Nothing of it is sent before some host has taken it, so it can always be taken back; and since a library
 * gives up by itself (after 5 s unless told otherwise), it is told why before that, LIBRARY_MS after it asked.
 *
 * Which host: of those that have it up, the one with the fewest lanes to it, as it said itself, and our own since; among equals
 * any, by chance. Which linker: the one with the fewest lanes.
 *
 * Before this file: broker_lane.c. After it: the linker, and at the far host broker_welcome.c, which decides again.
 * Must never: hand on a client of which a byte may have been sent already.
 */
#include "daemon/broker_int.h"

#include "core/svid.h"
#include "shm/layout.h"

#include <fcntl.h>
#include <stdio.h>

enum { TRIES_MAX = 8, RETRY_MS = 200, ANSWER_MS = 1000, LIBRARY_MS = CARRY_LIBRARY_WAIT_MS };

struct carry {
	uint32_t pid, uid;
	int fd; /* owned, while it is parked; else -1 */
	uint64_t deadline_ns;
	uint32_t tried[TRIES_MAX];
	unsigned n_tried;
	bool taken, has_lane; /* a library's: the far host has said so; its client has the lane: open, when both */
	bool over;	      /* told to whoever has to know: it only waits for the linker */
	uint32_t code; /* enum link_code: what the last one said */
	char why[256 + LIMIT_NAME_SIZE + 8];
};

/* ------------------------------------------------------------------ which host, which linker */

/* xorshift64: chance among equals, nothing that anybody gains by guessing. */
static uint32_t chance(uint32_t below)
{
	static uint64_t x;

	if (!x)
		x = clock_ns() | 1;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return (uint32_t)(x % below);
}

static bool was_tried(const struct carry *c, uint32_t hid)
{
	for (unsigned i = 0; c && i < c->n_tried; i++)
		if (c->tried[i] == hid)
			return true;
	return false;
}

static struct link_host *choose_host(struct broker *b, const struct service_name *service, uint32_t kind, const struct carry *c)
{
	struct link_host *best = NULL;
	uint32_t least = UINT32_MAX, n_equal = 0;

	for (struct link_host *h = b->hosts; h; h = h->hh.next) {
		uint32_t lanes;

		if (link_host_has(h, service, (enum link_kind)kind, &lanes) != ELSEWHERE_UP || was_tried(c, h->hid))
			continue;
		if (lanes > least)
			continue;
		n_equal = lanes < least ? 1 : n_equal + 1;
		least = lanes;
		if (chance(n_equal) == 0)
			best = h;
	}
	return best;
}

/* One that is about to be replaced takes no new lanes. */
static uint32_t choose_linker(struct broker *b)
{
	uint32_t best = ROLE_NO_ID;

	for (uint32_t i = 0; i < b->n_linkers; i++)
		if (b->linkers[i].fd >= 0 && b->devices[i].stage == RENEW_NOT && (best == ROLE_NO_ID || cross_count(i) < cross_count(best)))
			best = i;
	return best;
}

static bool is_renewed(const struct broker *b)
{
	for (uint32_t i = 0; i < b->n_linkers; i++)
		if (b->devices[i].stage != RENEW_NOT)
			return true;
	return false;
}

/* One that is reached and has it, but not up; else one that is not reached: rather one that is known to have it. NULL: neither. */
static const struct link_host *whose_fault(struct broker *b, const struct service_name *service)
{
	const struct link_host *away = NULL;
	bool known = false;

	for (const struct link_host *h = b->hosts; h; h = h->hh.next) {
		bool has = link_host_knows(h, service);

		if (link_host_has_down(h, service))
			return h;
		if (h->state != LINK_HOST_UP && (!away || (has && !known))) {
			away = h;
			known = has;
		}
	}
	return away;
}

/* Why does no host have it? The one is named that a person can do something about. */
static const char *lacks_host(struct broker *b, const struct service_name *service, enum link_kind kind, char *buf, size_t size)
{
	const struct link_host *h = whose_fault(b, service);

	if (!h)
		return kind == LINK_SOCKET ? "no other host has the service up" :
					     "on no other host does a program listen for it with libsealane";
	if (h->state == LINK_HOST_UP)
		snprintf(buf, size, "host %s (%s) has the service, but it is down there: %s, its health check fails, or it is drained", h->name, h->address,
			 kind == LINK_SOCKET ? "its server does not listen" : "no program listens for it with libsealane");
	else
		snprintf(buf, size, "no host that can be reached has the service up; host %s (%s)%s is not reached: %s%s%s", h->name, h->address,
			 link_host_knows(h, service) ? ", which has it," : "", h->reason == SESSION_OK ? "not yet" : session_reason_name(h->reason),
			 h->why[0] ? ", " : "", h->why);
	return buf;
}

const char *carry_lacks(struct broker *b, const struct service_name *source, const struct service_name *destination, enum link_kind kind)
{
	static char text[512 + LIMIT_SERVICE_SIZE];
	char name[LIMIT_SERVICE_SIZE], id[LIMIT_SPIFFE_ID_SIZE];
	const char *why = "";

	if (ca_credential(b, source, &why) == ROLE_NO_ID) {
		snprintf(text, sizeof(text), "%s has no certificate: %s", service_name_format(name, source), why);
		return text;
	}
	if (ca_is_revoked(b, spiffe_id_format(id, b->config->trust_domain, destination))) {
		snprintf(text, sizeof(text), "%s is revoked; `sealane ca unrevoke` takes it off the list", service_name_format(name, destination));
		return text;
	}
	if (choose_linker(b) == ROLE_NO_ID)
		return is_renewed(b) ? "the linker is being replaced by one that takes up what the configuration says of RDMA now" :
				       "no linker runs; see the log for linker.failed";
	if (!choose_host(b, destination, kind, NULL))
		return lacks_host(b, destination, kind, text, sizeof(text));
	return NULL;
}

/* As for the gates' slots (broker_lane.c): half of what is left, so that whatever one workload takes, newcomers find room. */
bool carry_has_share(struct broker *b, const struct workload *w)
{
	uint64_t capacity = (uint64_t)b->n_linkers * LIMIT_LINK_LANES, used = share_n_lanes();

	for (size_t i = 0; i < b->n_workloads; i++)
		used += b->workloads[i].n_link_lanes;
	return capacity == 0 || (used < capacity && w->n_link_lanes <= capacity - used);
}

/* ------------------------------------------------------------------ events */

struct texts {
	char source[LIMIT_SERVICE_SIZE], destination[LIMIT_SERVICE_SIZE], rule[INTENTION_TEXT_SIZE], path[CROSS_PATH_SIZE];
	char source_id[LIMIT_SPIFFE_ID_SIZE], destination_id[LIMIT_SPIFFE_ID_SIZE], link_lane[LINK_LANE_ID_SIZE];
	const struct intention *i;
};

static void make_texts(struct broker *b, const struct lane *l, struct texts *t)
{
	t->i = policy_decide(b->policy, &l->source, &l->destination, unix_now_s());
	service_name_format(t->source, &l->source);
	service_name_format(t->destination, &l->destination);
	intention_text(t->rule, sizeof(t->rule), t->i);
	if (!t->i)
		t->rule[0] = '\0';
	spiffe_id_format(t->source_id, b->config->trust_domain, &l->source);
	spiffe_id_format(t->destination_id, b->config->trust_domain, &l->destination);
	cross_path(b, l, t->path);
	link_lane_id(t->link_lane, l->link.id);
}

static void log_allow(struct broker *b, const struct lane *l, const struct carry *c)
{
	const struct link_host *h = link_host(b, l->link.hid);
	struct workload *w = &b->workloads[l->wid];
	struct texts t;
	uint64_t more;

	if (!lane_may_log(w, &more))
		return;
	make_texts(b, l, &t);
	log_info("lane.allow", LOG_ID("lane", l->id), LOG_STR("link_lane", t.link_lane[0] ? t.link_lane : NULL), LOG_STR("source", t.source), LOG_STR("destination", t.destination),
		 LOG_STR("path", t.path), LOG_STR("intention", t.rule), LOG_STR("where", intention_where(t.i)),
		 LOG_STR("source_id", t.source_id), LOG_STR("destination_id", t.destination_id),
		 LOG_STR("kind", link_kind_name(l->link.kind)), LOG_STR("address", h ? h->address : NULL), LOG_STR("workload", w->name), LOG_U64("pid", c->pid), LOG_U64("uid", c->uid),
		 LOG_U64("more", more));
}

void carry_free(struct carry *c)
{
	if (c)
		fd_cleanup(&c->fd);
	free(c);
}

bool carry_is_parked(const struct lane *l)
{
	return l->link.opening && l->link.linker == ROLE_NO_ID;
}

/* What a library is told for a link_code. */
static int error_of(uint32_t code)
{
	static const int errors[LINK_CODE_N] = {
		[LINK_DENIED] = -EACCES, [LINK_UNKNOWN] = -ENOENT,  [LINK_DOWN] = -ECONNREFUSED,
		[LINK_LIMIT] = -EDQUOT,	 [LINK_DRAINING] = -EACCES, [LINK_CUT] = -ECANCELED,
	};

	return code < LINK_CODE_N && errors[code] ? errors[code] : -EHOSTUNREACH;
}

/* Our people by an event, a library by its answer. */
static void tell_refused(struct broker *b, struct lane *l)
{
	const struct carry *c = l->link.opening;
	bool denied = c->code == LINK_DENIED;
	struct workload *w = &b->workloads[l->wid];
	struct upstream *u = model_upstream(b, l->lid);
	struct texts t;
	uint64_t more;

	*(denied ? &b->counters.lanes_denied : &b->counters.lanes_failed) += 1;
	w->n_denied += denied;
	if (u)
		u->n_denied += denied;
	if (!l->cut && lane_may_log_refusal(w, &more)) {
		make_texts(b, l, &t);
		log_warn(denied ? "lane.deny" : "lane.fail", LOG_STR("source", t.source), LOG_STR("destination", t.destination),
			 LOG_STR("path", t.path), LOG_STR("source_id", t.source_id), LOG_STR("destination_id", t.destination_id),
			 LOG_STR("code", link_code_name(c->code)), LOG_STR("why", c->why), LOG_U64("tried", c->n_tried),
			 LOG_STR("workload", w->name), LOG_U64("pid", c->pid), LOG_U64("uid", c->uid), LOG_U64("more", more));
	}
	if (l->link.lent)
		lend_end(b, l, error_of(c->code), c->why);
}

/* The client is gone with its descriptor; the lane with this. */
void carry_refuse(struct broker *b, struct lane *l)
{
	if (!l->link.opening->over)
		tell_refused(b, l);
	cross_free(b, l);
}

/* ------------------------------------------------------------------ the way */

static void move_to_host(struct broker *b, struct lane *l, struct link_host *h)
{
	struct link_host *old = link_host(b, l->link.hid);

	if (old)
		link_host_count(old, &l->destination, -1);
	l->link.hid = h->hid;
	link_host_count(h, &l->destination, 1);
}

/*
 * A host that went without a word is noticed after link_timeout only; a client that has sent nothing need not wait for that where
 * another host has the service. One that has sent something stays: the far end may have it.
 */
static void on_no_answer(struct broker *b, void *arg)
{
	struct role_msg m = { .type = BL_RECALL };
	uint64_t id = (uint64_t)(uintptr_t)arg;
	struct lane *l;

	HASH_FIND(hh, b->lanes, &id, sizeof(id), l); /* each attempt has an id of its own */
	if (!l || l->path != LANE_PATH_LINK || !l->link.opening || l->cut || carry_is_parked(l) ||
	    l->link.opening->taken || l->link.opening->over || !choose_host(b, &l->destination, l->link.kind, l->link.opening))
		return;
	m.u.lane_ref.lane_id = id;
	link_tell(b, l->link.linker, &m, -1);
}

/* Return: false: there is nobody (left) to carry it to; l->link.opening says why. */
static bool carry_on(struct broker *b, struct lane *l, int fd)
{
	struct carry *c = l->link.opening;
	struct link_host *h = c->n_tried < TRIES_MAX ? choose_host(b, &l->destination, l->link.kind, c) : NULL;
	struct role_msg m = { .type = BL_CARRY };
	const char *why = "";
	uint32_t kid = ca_credential(b, &l->source, &why), linker = choose_linker(b);

	if (!h || kid == ROLE_NO_ID || linker == ROLE_NO_ID) {
		if (!c->why[0]) /* else the last host's word stands */
			snprintf(c->why, sizeof(c->why), "%s",
				 kid == ROLE_NO_ID ? why : linker == ROLE_NO_ID ? "no linker runs" : "no host has it any more");
		return false;
	}
	c->tried[c->n_tried++] = h->hid;
	move_to_host(b, l, h);
	cross_set_linker(l, linker);
	m.u.carry = (struct role_carry){ .hid = h->hid, .kid = kid, .kind = l->link.kind, .wid = l->wid, .lane_id = l->id, .bytes_per_s = l->bytes_per_s };
	service_name_format(m.u.carry.destination, &l->destination);
	if (l->link.lent)
		lend_tell_host(b, l);
	link_tell(b, linker, &m, fd);
	broker_after(b, ANSWER_MS, on_no_answer, (void *)(uintptr_t)l->id);
	return true;
}

static void park(struct broker *b, struct lane *l);

/* @fd: borrowed. Where the linker has begun to leave since the client was asked for, the client waits for the next one. */
static void carry_first(struct broker *b, struct lane *l, int fd)
{
	if (carry_on(b, l, fd))
		return;
	if (is_renewed(b))
		l->link.opening->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (l->link.opening->fd >= 0)
		park(b, l);
	else
		carry_refuse(b, l);
}

void carry_begin(struct broker *b, const struct carry_client *client, int fd)
{
	struct lane from = { .wid = client->wid, .lid = client->lid, .sid = ROLE_NO_ID, .source = client->source,
			     .destination = client->destination, .client_pid = client->pid, .pair = client->pair,
			     .link = { .hid = ROLE_NO_ID, .linker = ROLE_NO_ID } };
	struct carry *c = calloc(1, sizeof(*c));
	struct lane *l;

	from.bytes_per_s = client->intention ? client->intention->limits.bytes_per_s : 0;
	from.link.opening = c;
	l = c ? cross_open(b, &from) : NULL;
	if (!l) {
		free(c);
		lane_quota_release(&client->pair->quota);
		b->counters.lanes_failed++;
		log_error("lane.fail", LOG_STR("workload", b->workloads[client->wid].name), LOG_STR("why", "no memory for the lane"));
		return;
	}
	*c = (struct carry){ .fd = -1, .pid = client->pid, .uid = client->uid, .deadline_ns = client->deadline_ns, .code = LINK_FAILED };
	carry_first(b, l, fd);
}

static void now_open(struct broker *b, struct lane *l)
{
	struct upstream *u = model_upstream(b, l->lid);
	struct carry *c = take_ptr(l->link.opening);

	l->shm.pending = false;
	free(take_ptr(l->pair->refusal));
	b->counters.lanes_opened++;
	b->link.lanes_opened[0]++;
	b->workloads[l->wid].n_allowed++;
	if (u)
		u->n_allowed++;
	log_allow(b, l, c);
	carry_free(c);
}

void carry_on_opened(struct broker *b, uint32_t linker, const struct role_lane_ref *m)
{
	struct lane *l = cross_find(b, linker, m->lane_id);

	if (!l || !l->link.opening || l->link.opening->over)
		return; /* given up: the linker was told, and LB_FAILED or LB_CLOSED ends it */
	l->link.id = m->link_id;
	l->link.opening->taken = true;
	if (!l->link.lent || l->link.opening->has_lane)
		now_open(b, l);
}

static void on_retry_time(struct broker *b, void *arg)
{
	uint64_t id = (uint64_t)(uintptr_t)arg;
	struct lane *l;
	struct carry *c;

	HASH_FIND(hh, b->lanes, &id, sizeof(id), l);
	if (!l || l->path != LANE_PATH_LINK || !carry_is_parked(l) || l->link.opening->fd < 0)
		return;
	c = l->link.opening;
	if (clock_ns() >= c->deadline_ns) {
		carry_refuse(b, l);
		return;
	}
	c->n_tried = 0; /* a server may be up again that was not */
	if (carry_on(b, l, c->fd))
		close(take_fd(&c->fd));
	else
		park(b, l);
}

/* Under a number of its own, so that the timer of an earlier stay finds nothing. */
static void park(struct broker *b, struct lane *l)
{
	cross_set_linker(l, ROLE_NO_ID);
	cross_rename(b, l);
	broker_after(b, RETRY_MS, on_retry_time, (void *)(uintptr_t)l->id);
}

/* A word that may be another one soon; what is not allowed, or over a limit, is told at once. */
static bool may_pass(uint32_t code)
{
	return code == LINK_DOWN || code == LINK_UNKNOWN || code == LINK_DRAINING || code == LINK_FAILED;
}

/* For `sealane explain`; where there is no memory it has nothing to tell. */
static void note_refusal(struct lane *l, const struct link_host *h, const struct role_link_failed *f)
{
	struct pair *p = l->pair;

	if (!h || f->code == LINK_PEER || !p || (!p->refusal && !(p->refusal = calloc(1, sizeof(*p->refusal)))))
		return; /* PEER: the client left */
	p->refusal->code = f->code;
	p->refusal->certificate = f->certificate != 0;
	p->refusal->at_unix_s = unix_now_s();
	memcpy(p->refusal->host, h->name, sizeof(p->refusal->host));
	memcpy(p->refusal->why, f->why, sizeof(p->refusal->why));
}
static_assert(sizeof(((struct pair_refusal *)0)->why) == sizeof(((struct role_link_failed *)0)->why), "copied whole");

void carry_on_failed(struct broker *b, uint32_t linker, const struct role_link_failed *f, int fd)
{
	struct lane *l = cross_find(b, linker, f->lane_id);
	const struct link_host *h = l ? link_host(b, l->link.hid) : NULL;
	struct carry *c = l ? l->link.opening : NULL;

	if (!c)
		return;
	b->link.lanes_no[0][f->code]++;
	note_refusal(l, h, f);
	if (c->over) {
		carry_refuse(b, l);
		return;
	}
	c->code = f->code;
	snprintf(c->why, sizeof(c->why), "host %s: %s", h ? h->name : "?", f->why[0] ? f->why : link_code_name(f->code));
	if (fd < 0 || c->taken || l->cut || l->link.lent_over || clock_ns() >= c->deadline_ns) {
		carry_refuse(b, l);
		return;
	}
	cross_rename(b, l);
	if (carry_on(b, l, fd))
		return;
	c->fd = may_pass(f->code) ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
	if (c->fd >= 0)
		park(b, l);
	else
		carry_refuse(b, l);
}

/* What it was given is gone with it, so there is nothing to try elsewhere with. */
void carry_on_linker_lost(struct broker *b, struct lane *l)
{
	struct carry *c = l->link.opening;

	c->code = LINK_FAILED;
	snprintf(c->why, sizeof(c->why), "the linker process that carried it has ended; it is started again");
	carry_refuse(b, l);
}

/* ------------------------------------------------------------------ a library's */

/* Nothing more is to come of it. It leaves the table when no linker has it (any more). */
static void give_up(struct broker *b, struct lane *l)
{
	struct role_msg m = { .type = BL_CUT, .u.lane_ref.lane_id = l->id };

	if (carry_is_parked(l)) {
		carry_refuse(b, l);
		return;
	}
	tell_refused(b, l);
	l->link.opening->over = true;
	link_tell(b, l->link.linker, &m, -1);
}

/* By its number at the porter: the linker's is another one with each host that is tried. */
static void on_library_time(struct broker *b, void *arg)
{
	struct lane *l = lend_find((uint64_t)(uintptr_t)arg);
	struct carry *c = l ? l->link.opening : NULL;
	const struct link_host *h;

	if (!c || c->over || l->cut)
		return;
	h = link_host(b, l->link.hid);
	if (!c->why[0]) { /* else some host has answered, and that is what there is to say */
		c->code = LINK_FAILED;
		if (h)
			snprintf(c->why, sizeof(c->why), "host %s has not answered within %d s", h->name, LIBRARY_MS / 1000);
		else
			snprintf(c->why, sizeof(c->why), "the porter has not made the lane within %d s", LIBRARY_MS / 1000);
	}
	give_up(b, l);
}

int carry_begin_library(struct broker *b, const struct carry_client *client, const struct role_ask *q)
{
	struct workload *w = &b->workloads[client->wid];
	struct lane from = { .wid = client->wid, .lid = ROLE_NO_ID, .sid = ROLE_NO_ID, .source = client->source,
			     .destination = client->destination, .client_pid = client->pid, .pair = client->pair,
			     .bytes_per_s = client->intention->limits.bytes_per_s,
			     .link = { .hid = ROLE_NO_ID, .linker = ROLE_NO_ID, .kind = link_kind_of(q->kind) } };
	struct carry *c = calloc(1, sizeof(*c));
	struct lane *l;

	from.link.opening = c;
	from.shm.size = shm_region_size(q->cap_log2);
	from.shm.kind = q->kind;
	l = c ? cross_open(b, &from) : NULL;
	if (!l) {
		free(c);
		return -ENOMEM;
	}
	*c = (struct carry){ .fd = -1, .pid = client->pid, .uid = client->uid, .deadline_ns = client->deadline_ns, .code = LINK_FAILED };
	w->n_lent_lanes++;
	w->shm_size += l->shm.size;
	lend_begin(b, l, q->accept.cid);
	broker_after(b, LIBRARY_MS, on_library_time, (void *)(uintptr_t)l->link.lent);
	return 0;
}

void carry_on_lent(struct broker *b, struct lane *l, int fd)
{
	carry_first(b, l, fd);
}

void carry_on_lane(struct broker *b, struct lane *l)
{
	if (l->link.opening->over)
		return;
	l->link.opening->has_lane = true;
	if (l->link.opening->taken)
		now_open(b, l);
}

void carry_on_client_left(struct broker *b, struct lane *l, const char *why)
{
	struct carry *c = l->link.opening;

	if (c->over)
		return;
	c->code = LINK_PEER;
	snprintf(c->why, sizeof(c->why), "%s", why);
	give_up(b, l);
}
