/*
 * Theory of operation: who asks for a lane in shared memory, and whom they get.
 *
 * Each workload has a control socket (RUN/w/NAME/control.sock, made by the warden like a socket file, accepted on by the porter).
 * What is asked there (PB_ASK) is answered after the same questions as a connection to a socket file (broker_lane.c), in this
 * order, and each "no" is one event and one BP_REFUSE with a line for a person:
 *
 *   whose cgroup is that?      the cache, else the warden (BW_RESOLVE), no more than ASKED_MAX at a time
 *   to listen: as whom?        one of the workload's services, unless `offer = false`: struct port_listener
 *   to connect: may they?      policy_decide()
 *   is somebody here?          the listener with the fewest lanes, in turn among equals. An intention that counts bytes needs the socket
 *                              file then, since nobody can count what two processes write to each other's memory
 *   else elsewhere?            a host that has the service up for libraries; over a link it is the linker that counts
 *   is there room?             limits of the intention, of the workload (lanes, memory), of the host
 *
 * and then broker_shm.c offers the lane, or broker_carry.c takes it to the other host. Nobody waits here for a listener that is not there
 * yet: libraries try again themselves. But where the service is another host's, whoever asks waits for that host, or for the certificate
 * that a link needs, for connect_wait and no longer than a library waits itself.
 *
 * Before it: porter.c, broker.c. After it: broker_shm.c, broker_carry.c.
 * Must never: trust anything of an ask but its cgroup, which the kernel told the porter.
 */
#include "daemon/broker_port.h"

#include "base/foreign.h"
#include "shm/layout.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <utlist.h>

/* As for connections to socket files: what the warden is asked at a time. */
enum { ASKED_MAX = 64 };

struct ask {
	uint32_t cid;
	struct role_ask q;
	struct broker *b;
	uint32_t wid, generation; /* the control socket's workload, and its enrolment, when it was asked */
	unsigned refs;		  /* an outstanding reply, and one while in the table */
	bool dead, queued;
	bool waiting, timer_set; /* for another host, until deadline_ns */
	uint64_t deadline_ns;
	TAILQ_ENTRY(ask) turn;
	UT_hash_handle hh;
};

struct verdict {
	int error; /* 0: they may */
	const struct intention *intention;
	struct port_listener *listener;
	bool far;   /* no listener: it is another host's, */
	bool lacks; /* and not possible yet; why says what for */
	char why[256];
};

/* One broker per process; what only this file needs. */
static struct {
	struct ask *asks;
	TAILQ_HEAD(, ask) queued;
	unsigned n_asked;
	struct port_listener *listeners; /* by cid */
	uint64_t serial, picks;
} g_port = { .queued = TAILQ_HEAD_INITIALIZER(g_port.queued) };

/* Above every upstream's. */
static uint32_t control_lid(const struct workload *w)
{
	return LIMIT_UPSTREAMS + w->wid;
}

static const char *kind_name(uint32_t kind)
{
	static const char *const names[] = { "streams", "messages", "a fan-out" };
	static_assert(ARRAY_SIZE(names) == CONTROL_KIND_N, "a name for each");

	return kind < CONTROL_KIND_N ? names[kind] : "anything";
}

/* ------------------------------------------------------------------ control sockets */

static void hand_to_porter(struct broker *b, const struct workload *w)
{
	struct role_msg m = { .type = BP_LISTEN, .u.gate_listen = { .lid = control_lid(w), .identity = b->identity } };

	if (!w->removed && w->control_fd >= 0)
		broker_tell_porter(b, &m, w->control_fd);
}

static void on_control_socket(struct broker *b, void *arg, const struct role_reply *reply, int fd)
{
	struct workload *w = model_workload(b, (uint32_t)(uintptr_t)arg);
	AUTO_FD sock = fd;

	if (!w || w->control_seq != (uint32_t)((uintptr_t)arg >> 32))
		return;
	if (reply->error || sock < 0) {
		log_error("socket.failed", LOG_STR("workload", w->name), LOG_STR("path", "control.sock"),
			  LOG_STR("error", log_errno_name(reply->error)), LOG_STR("why", reply->why),
			  LOG_STR("then", "no lanes in shared memory for this workload until `sealane reload`"));
		w->control_wanted = false;
		return;
	}
	w->control_fd = take_fd(&sock);
	hand_to_porter(b, w);
}

void port_listen(struct broker *b, struct workload *w)
{
	struct role_msg m = { .type = BW_LISTEN };

	if (w->control_wanted)
		return;
	w->control_wanted = true;
	/* As with socket files: whose directory it lies in decides who gets that far, so any user inside may connect. */
	m.u.listen = (struct role_listen){ .lid = control_lid(w), .wid = w->wid, .mode = 0666, .type = SOCK_SEQPACKET,
					   .uid = -1, .gid = -1, .path = "control.sock" };
	broker_ask(b, &m, -1, on_control_socket, (void *)((uintptr_t)++w->control_seq << 32 | w->wid));
}

void port_unlisten(struct broker *b, struct workload *w)
{
	struct role_msg porter = { .type = BP_UNLISTEN, .u.id.id = control_lid(w) };
	struct role_msg warden = { .type = BW_UNLISTEN, .u.id.id = control_lid(w) };

	if (!w->control_wanted)
		return;
	w->control_wanted = false;
	w->control_seq++;
	broker_tell_porter(b, &porter, -1);
	broker_ask(b, &warden, -1, NULL, NULL);
	foreign_tick_start(); /* clients that nobody accepted go with the last copy, and what they sent */
	fd_cleanup(&w->control_fd);
	w->control_fd = -1;
}

/* ------------------------------------------------------------------ asks: life, refusals */

static void ask_unref(struct ask *a)
{
	if (--a->refs == 0)
		free(a);
}

static void ask_end(struct ask *a)
{
	if (a->dead)
		return;
	a->dead = true;
	if (a->queued)
		TAILQ_REMOVE(&g_port.queued, a, turn);
	HASH_DEL(g_port.asks, a);
	ask_unref(a);
}

static void tell_refusal(struct broker *b, uint32_t cid, int error, const char *why)
{
	struct role_msg m = { .type = BP_REFUSE, .u.refuse = { .cid = cid, .error = error } };

	snprintf(m.u.refuse.why, sizeof(m.u.refuse.why), "%s", why);
	broker_tell_porter(b, &m, -1);
}

static void refuse(struct ask *a, int error, const char *why)
{
	tell_refusal(a->b, a->cid, error, why);
	ask_end(a);
}

static void refuse_identity(struct ask *a, const char *why, const char *cgroup)
{
	struct broker *b = a->b;
	uint64_t more;

	b->counters.lanes_refused_identity++;
	if (lane_may_log_refusal(&b->workloads[a->wid], &more))
		log_warn("lane.refuse", LOG_STR("workload", b->workloads[a->wid].name),
			 LOG_STR(a->q.listens ? "service" : "destination", a->q.service), LOG_STR("path", "shm"), LOG_STR("why", why),
			 LOG_STR("cgroup", cgroup), LOG_U64("pid", a->q.accept.pid), LOG_U64("uid", a->q.accept.uid),
			 LOG_STR("identity", identity_method_name(a->q.accept.method)), LOG_U64("more", more));
	refuse(a, -EACCES, why);
}

/* A "no" of policy or limits; as with socket files, one that found nobody there is a failure, not a denial. */
static void deny(struct ask *a, const struct service_name *source, const struct service_name *destination, const struct verdict *v)
{
	struct broker *b = a->b;
	struct workload *w = &b->workloads[a->wid];
	char src[LIMIT_SERVICE_SIZE], dst[LIMIT_SERVICE_SIZE], rule[INTENTION_TEXT_SIZE];
	bool failed = v->error == -ECONNREFUSED || v->error == -EPROTOTYPE || v->error == -EOPNOTSUPP || v->error == -ENOMEM;
	uint64_t more;

	*(failed ? &b->counters.lanes_failed : &b->counters.lanes_denied) += 1;
	w->n_denied += !failed;
	if (lane_may_log_refusal(w, &more))
		log_warn(failed ? "lane.fail" : "lane.deny", LOG_STR("source", source ? service_name_format(src, source) : NULL),
			 LOG_STR("destination", destination ? service_name_format(dst, destination) : a->q.service),
			 LOG_STR("path", v->far ? "link" : "shm"), LOG_STR("intention", source ? intention_text(rule, sizeof(rule), v->intention) : NULL),
			 LOG_STR("where", source ? intention_where(v->intention) : NULL), LOG_STR("why", v->why),
			 LOG_STR("error", log_errno_name(v->error)), LOG_STR("workload", w->name), LOG_U64("pid", a->q.accept.pid),
			 LOG_U64("uid", a->q.accept.uid), LOG_U64("more", more));
	refuse(a, v->error, v->why);
}

static void PRINTF_LIKE(3, 4) say_no(struct verdict *v, int error, const char *fmt, ...)
{
	va_list args;

	v->error = error;
	va_start(args, fmt);
	vsnprintf(v->why, sizeof(v->why), fmt, args);
	va_end(args);
}

/* ------------------------------------------------------------------ may they, and is somebody there */

bool port_needs_socket(const struct intention *i)
{
	return i->strict || i->limits.bytes_per_s != 0;
}

static void say_denied(struct verdict *v, const struct service_name *source, const struct service_name *destination)
{
	const struct intention *i = v->intention;
	char src[LIMIT_SERVICE_SIZE], dst[LIMIT_SERVICE_SIZE];

	service_name_format(src, source);
	service_name_format(dst, destination);
	if (i)
		say_no(v, -EACCES, "the intention %.90s denies %.70s -> %.70s", i->where, src, dst);
	else
		say_no(v, -EACCES, "no intention allows %.90s -> %.90s (default deny)", src, dst);
}

static void say_needs_socket(struct broker *b, const struct workload *w, const struct service_name *destination, struct verdict *v)
{
	const struct upstream *u = w ? lane_upstream_between(b, w->wid, destination) : NULL;
	char path[LIMIT_PATH_SIZE + 16];

	if (u)
		snprintf(path, sizeof(path), "%s%s", u->path[0] == '/' ? "" : "/run/sealane/", u->path);
	else
		snprintf(path, sizeof(path), "/run/sealane/%s.sock", destination->name);
	say_no(v, -EACCES, "intention %.90s %s: use the socket file %.80s, whose bytes the daemon can count", v->intention->where,
	       v->intention->strict ? "is strict" : "limits bytes", path);
}

/* The one with the fewest lanes, in turn among equals. @kind: CONTROL_KIND_N: any. */
static void pick_listener(struct broker *b, const struct service *s, uint32_t kind, struct verdict *v)
{
	struct port_listener *li, *best = NULL, *other = NULL;
	char dst[LIMIT_SERVICE_SIZE];
	bool drained = false;

	DL_FOREACH(s->listeners, li) {
		if (b->workloads[li->wid].draining)
			drained = true;
		else if (kind != CONTROL_KIND_N && li->kind != kind)
			other = li;
		else if (!best || li->n_lanes < best->n_lanes || (li->n_lanes == best->n_lanes && li->picked < best->picked))
			best = li;
	}
	service_name_format(dst, &s->name);
	v->listener = best;
	if (best)
		return;
	if (other)
		say_no(v, -EPROTOTYPE, "who listens for %s takes %s, not %s", dst, kind_name(other->kind), kind_name(kind));
	else if (drained)
		say_no(v, -EACCES, "allowed, but the workload that listens for %s is being drained", dst);
	else
		say_no(v, -ECONNREFUSED, "nobody listens for %s with libsealane: is its program running?", dst);
}

struct port_listener *port_pick(struct broker *b, const struct service *s, uint32_t kind, int *ret_error, char *why, size_t size)
{
	struct verdict v = {};

	pick_listener(b, s, kind, &v);
	*ret_error = v.error;
	snprintf(why, size, "%s", v.why);
	return v.listener;
}

void port_picked(struct port_listener *li)
{
	li->n_lanes++;
	li->picked = ++g_port.picks;
}

unsigned port_kinds(const struct broker *b, const struct service *s)
{
	const struct port_listener *li;
	unsigned kinds = 0;

	DL_FOREACH(s->listeners, li) {
		enum link_kind kind = link_kind_of(li->kind);

		if (kind != LINK_KIND_N && !b->workloads[li->wid].draining)
			kinds |= 1u << kind;
	}
	return kinds;
}

/* ------------------------------------------------------------------ on another host */

/* Which kind to look for: @kind, or for CONTROL_KIND_N what is there. */
static enum link_kind kind_elsewhere(struct broker *b, const struct service_name *destination, uint32_t kind)
{
	if (kind != CONTROL_KIND_N)
		return link_kind_of(kind);
	return link_elsewhere(b, destination, LINK_STREAM) == ELSEWHERE_UP ? LINK_STREAM : LINK_MESSAGES;
}

static bool is_up_elsewhere(struct broker *b, const struct service_name *destination, enum link_kind kind)
{
	return link_elsewhere(b, destination, kind) == ELSEWHERE_UP;
}

/* Nobody is here for it, which @v says. Is somebody on another host? Leaves @v as it is if that is not known. */
static void look_elsewhere(struct broker *b, const struct service_name *source, const struct service_name *destination, uint32_t kind,
			   struct verdict *v)
{
	enum link_kind k = kind_elsewhere(b, destination, kind), other = k == LINK_STREAM ? LINK_MESSAGES : LINK_STREAM;
	enum route_elsewhere has = k == LINK_KIND_N ? ELSEWHERE_NONE : link_elsewhere(b, destination, k);
	bool is_ours = v->error == -ECONNREFUSED;
	char dst[LIMIT_SERVICE_SIZE];
	const char *lacks;

	service_name_format(dst, destination);
	if (k == LINK_KIND_N && (is_up_elsewhere(b, destination, LINK_STREAM) || is_up_elsewhere(b, destination, LINK_MESSAGES))) {
		say_no(v, -EOPNOTSUPP, "%s is on another host, and %s stays on one host: use messages", dst, kind_name(kind));
	} else if (has == ELSEWHERE_MAYBE && is_up_elsewhere(b, destination, other)) {
		v->far = true;
		say_no(v, -EPROTOTYPE, "who listens for %s on another host takes %s, not %s", dst, kind_name(lend_kind(other)), kind_name(kind));
	} else if (has == ELSEWHERE_UP || (has == ELSEWHERE_MAYBE && !is_ours)) {
		lacks = carry_lacks(b, source, destination, k);
		v->far = true;
		v->error = 0;
		v->lacks = lacks != NULL;
		snprintf(v->why, sizeof(v->why), "%s", lacks ? lacks : "");
	}
}

/* ------------------------------------------------------------------ all of it */

/* Who takes it on this host. */
static void look_here(struct broker *b, const struct workload *w, const struct service_name *destination, uint32_t kind, struct verdict *v)
{
	const struct service *s = model_find_service(b, destination);
	char dst[LIMIT_SERVICE_SIZE];

	service_name_format(dst, destination);
	if (!s)
		say_no(v, -ENOENT, "no service %s on this host%s", dst, b->hosts ? ", nor on another one that is known" : "");
	else if (!s->takes_lanes)
		say_no(v, -ENOENT, "service %s is offered to nobody: its configuration says offer = false", dst);
	else
		pick_listener(b, s, kind, v);
	if (v->listener && port_needs_socket(v->intention)) {
		v->listener = NULL;
		say_needs_socket(b, w, destination, v);
	}
}

/* Everything but the limits on numbers. @w: of the client; NULL: none that is known. */
static void decide(struct broker *b, const struct workload *w, const struct service_name *source,
		   const struct service_name *destination, uint32_t kind, struct verdict *v)
{
	*v = (struct verdict){ .intention = policy_decide(b->policy, source, destination, unix_now_s()) };
	if (!v->intention || v->intention->action != INTENTION_ALLOW) {
		say_denied(v, source, destination);
		return;
	}
	if (w && w->draining) {
		say_no(v, -EACCES, "allowed, but workload %s is being drained", w->name);
		return;
	}
	look_here(b, w, destination, kind, v);
	if (v->listener || v->error == -EPROTOTYPE || (port_needs_socket(v->intention) && v->error == -EACCES))
		return;
	look_elsewhere(b, source, destination, kind, v);
	if (v->error && !v->far && port_needs_socket(v->intention))
		say_needs_socket(b, w, destination, v);
}

static bool is_allowed(struct broker *b, const struct service_name *source, const struct service_name *destination)
{
	const struct intention *i = policy_decide(b->policy, source, destination, unix_now_s());

	return i && i->action == INTENTION_ALLOW;
}

/*
 * As whom, and to whom: as the service that was named, or else the first that may, or else the first. A bare destination is in
 * the namespace of whoever asks.
 */
static void read_names(struct broker *b, const struct workload *w, const struct role_ask *q, const struct service_name **ret_source,
		       struct service_name *ret_destination, struct verdict *v)
{
	*ret_source = NULL;
	for (size_t i = 0; i < w->n_services; i++) {
		const struct service_name *s = &w->services[i];
		struct service_name n;

		if (q->as[0] && (service_name_parse(&n, q->as, s->ns) < 0 || !service_name_equal(&n, s)))
			continue;
		if (service_name_parse(&n, q->service, s->ns) < 0) {
			say_no(v, -ENOENT, "\"%.100s\" cannot be the name of a service; expected NAME or NAMESPACE/NAME", q->service);
			return;
		}
		if (*ret_source && !is_allowed(b, s, &n))
			continue;
		*ret_source = s;
		*ret_destination = n;
		if (is_allowed(b, s, &n))
			return;
	}
	if (!*ret_source)
		say_no(v, -EACCES, "workload %s does not speak as \"%.100s\"", w->name, q->as);
}

/* ------------------------------------------------------------------ is there room */

static bool has_room(struct broker *b, const struct workload *w)
{
	size_t used = shm_n_lanes() + lend_n_lanes();

	/* As many as are left for all others together, so that newcomers always find room (see has_share() in broker_lane.c). */
	return used < LIMIT_LANES && w->n_shm_lanes + w->n_lent_lanes < LIMIT_LANES - used;
}

static void admit(struct ask *a, struct workload *w, struct pair *pair, struct verdict *v)
{
	uint64_t cap = (uint64_t)LIMIT_WORKLOAD_SHM_MIB << 20;

	if (a->q.cap_log2 > SHM_CAP_LOG2_MAX)
		say_no(v, -EINVAL, "the ring is larger than this daemon allows");
	else if (!has_room(a->b, w) || (v->far && !carry_has_share(a->b, w)))
		say_no(v, -EDQUOT, "limit reached: the workload holds as many lanes as are left for all others together");
	else if (shm_region_size(a->q.cap_log2) > cap - w->shm_size)
		say_no(v, -EDQUOT, "limit reached: the workload's lanes would take more than %d MiB; use smaller rings", LIMIT_WORKLOAD_SHM_MIB);
	else if (!pair)
		say_no(v, -ENOMEM, "the daemon has no memory for the lane");
	else
		switch (lane_quota_admit(&pair->quota, &v->intention->limits, clock_ns())) {
		case 0:
			break;
		case QUOTA_E_OPEN_LANES:
			say_no(v, -EDQUOT, "limit reached: open_lanes of intention %.120s", v->intention->where);
			break;
		default:
			say_no(v, -EDQUOT, "limit reached: connections_per_s of intention %.120s", v->intention->where);
		}
}

static bool is_enrolled_as(const struct broker *b, uint32_t wid, uint32_t generation)
{
	const struct workload *w = &b->workloads[wid];

	return !w->removed && w->cgroup_id && w->generation == generation;
}

static void on_wait_over(struct broker *b, void *arg);

/* For another host. Woken by port_retry_waiting(), at the latest when the time is over. */
static void ask_wait(struct ask *a, const struct service_name *source, const struct service_name *destination, struct verdict *v)
{
	uint64_t now = clock_ns();

	a->waiting = true;
	if (now >= a->deadline_ns) {
		v->error = -ECONNREFUSED;
		deny(a, source, destination, v);
	} else if (!a->timer_set) {
		a->timer_set = true;
		a->refs++;
		broker_after(a->b, (unsigned)((a->deadline_ns - now) / 1000000) + 1, on_wait_over, a);
	}
}

/* Return: 0; -ENOMEM. */
static int make_lane(struct ask *a, struct workload *w, const struct service_name *source, const struct service_name *destination,
		     const struct verdict *v, struct pair *pair)
{
	const struct carry_client c = { .source = *source, .destination = *destination, .wid = w->wid, .lid = ROLE_NO_ID,
					.pid = a->q.accept.pid, .uid = a->q.accept.uid, .deadline_ns = a->deadline_ns, .pair = pair,
					.intention = v->intention };
	int r = v->far ? carry_begin_library(a->b, &c, &a->q) : shm_offer(a->b, &a->q, w, source, v->listener, v->intention, pair);

	if (r == 0 && v->listener)
		port_picked(v->listener);
	return r;
}

static void answer_connect(struct ask *a)
{
	struct broker *b = a->b;
	struct workload *w = &b->workloads[a->wid];
	const struct service_name *source;
	struct service_name destination;
	struct verdict v = {};
	struct pair *pair;

	read_names(b, w, &a->q, &source, &destination, &v);
	if (v.error) {
		deny(a, NULL, NULL, &v);
		return;
	}
	decide(b, w, source, &destination, a->q.kind, &v);
	if (v.lacks && !v.error) {
		ask_wait(a, source, &destination, &v);
		return;
	}
	pair = v.error ? NULL : lane_pair(b, source, &destination);
	if (!v.error)
		admit(a, w, pair, &v);
	if (!v.error && make_lane(a, w, source, &destination, &v, pair) < 0) {
		lane_quota_release(&pair->quota);
		say_no(&v, -ENOMEM, "the daemon has no memory for the lane");
	}
	if (v.error) {
		deny(a, source, &destination, &v);
		return;
	}
	ask_end(a);
}

static void ask_again(struct ask *a)
{
	a->waiting = false;
	if (is_enrolled_as(a->b, a->wid, a->generation))
		answer_connect(a);
	else
		refuse_identity(a, "no container of this workload is enrolled now", NULL);
}

static void on_wait_over(struct broker *b, void *arg)
{
	struct ask *a = arg;

	a->timer_set = false;
	if (!a->dead && a->waiting)
		ask_again(a);
	ask_unref(a);
}

void port_retry_waiting(struct broker *b)
{
	struct ask *a, *tmp;

	HASH_ITER(hh, g_port.asks, a, tmp)
		if (a->waiting)
			ask_again(a);
}

const char *port_explain(struct broker *b, const struct service_name *source, const struct service_name *destination, char *why, size_t size)
{
	const struct workload *w = NULL;
	struct verdict v;

	for (size_t i = 0; i < b->n_workloads && !w; i++)
		if (!b->workloads[i].removed && model_speaks_as(&b->workloads[i], source))
			w = &b->workloads[i];
	decide(b, w, source, destination, CONTROL_KIND_N, &v);
	snprintf(why, size, "%s", v.why);
	return v.error || v.lacks ? NULL : v.far ? "link" : "shm";
}

/* ------------------------------------------------------------------ listeners */

static struct port_listener *find_listener(uint32_t cid)
{
	struct port_listener *li;

	HASH_FIND(hh, g_port.listeners, &cid, sizeof(cid), li);
	return li;
}

static void log_listener(struct broker *b, const struct port_listener *li, const char *event, const char *why)
{
	struct workload *w = &b->workloads[li->wid];
	char name[LIMIT_SERVICE_SIZE];
	uint64_t more;

	if (lane_may_log(w, &more))
		log_info(event, LOG_STR("service", service_name_format(name, &li->service)), LOG_STR("workload", w->name),
			 LOG_STR("takes", kind_name(li->kind)), LOG_STR("why", why), LOG_U64("pid", li->pid), LOG_U64("more", more));
}

static void listener_end(struct broker *b, struct port_listener *li, const char *why)
{
	struct service *s = &b->services[li->sid];

	log_listener(b, li, "listener.close", why);
	DL_DELETE(s->listeners, li);
	s->n_listeners--;
	link_announce(b);
	b->workloads[li->wid].n_listeners--;
	HASH_DEL(g_port.listeners, li);
	free(li);
}

static void listener_expel(struct broker *b, struct port_listener *li, const char *why)
{
	tell_refusal(b, li->cid, -EACCES, why);
	listener_end(b, li, why);
}

void port_lane_ended(const struct lane *l)
{
	struct port_listener *li = find_listener(l->shm.listener);

	if (li && li->serial == l->shm.listener_serial)
		li->n_lanes--;
}

static const struct service_name *own_service(const struct workload *w, const char *text)
{
	for (size_t i = 0; i < w->n_services; i++) {
		struct service_name n;

		if (service_name_parse(&n, text, w->services[i].ns) == 0 && service_name_equal(&n, &w->services[i]))
			return &w->services[i];
	}
	return NULL;
}

static void listener_add(struct ask *a, struct service *s)
{
	struct broker *b = a->b;
	struct role_msg m = { .type = BP_LISTENING, .u.id.id = a->cid };
	struct port_listener *li = calloc(1, sizeof(*li));

	if (!li) {
		refuse(a, -ENOMEM, "the daemon has no memory for the listener");
		return;
	}
	*li = (struct port_listener){ .cid = a->cid, .serial = ++g_port.serial, .wid = a->wid, .generation = a->generation,
				      .sid = s->sid, .service = s->name, .kind = a->q.kind, .pid = a->q.accept.pid };
	HASH_ADD(hh, g_port.listeners, cid, sizeof(li->cid), li);
	DL_APPEND(s->listeners, li);
	s->n_listeners++;
	s->was_listened = true;
	link_announce(b);
	b->workloads[a->wid].n_listeners++;
	log_listener(b, li, "listener.open", NULL);
	broker_tell_porter(b, &m, -1);
	welcome_retry(b); /* others may wait for it */
	ask_end(a);
}

static void answer_listen(struct ask *a)
{
	struct broker *b = a->b;
	struct workload *w = &b->workloads[a->wid];
	const struct service_name *name = own_service(w, a->q.service);
	struct service *s = name ? model_find_service(b, name) : NULL;
	size_t used = HASH_COUNT(g_port.listeners);
	struct verdict v = {};
	uint64_t more;

	if (!name)
		say_no(&v, -EACCES, "workload %s does not offer %.100s: it is none of its services", w->name, a->q.service);
	else if (!s || !s->takes_lanes)
		say_no(&v, -EACCES, "service %.100s is offered to nobody: its configuration says offer = false", a->q.service);
	else if (used >= LIMIT_SERVICES || w->n_listeners >= LIMIT_SERVICES - used)
		say_no(&v, -EDQUOT, "limit reached: the workload has as many listeners as are left for all others together");
	if (!v.error) {
		listener_add(a, s);
		return;
	}
	if (lane_may_log_refusal(w, &more))
		log_warn("listener.deny", LOG_STR("service", a->q.service), LOG_STR("workload", w->name), LOG_STR("why", v.why),
			 LOG_U64("pid", a->q.accept.pid), LOG_U64("uid", a->q.accept.uid), LOG_U64("more", more));
	refuse(a, v.error, v.why);
}

/* ------------------------------------------------------------------ identity */

static void identified(struct ask *a, uint32_t wid, const char *cgroup)
{
	if (wid != a->wid)
		refuse_identity(a, "the process that asked does not run in this workload's cgroup", cgroup);
	else if (!is_enrolled_as(a->b, a->wid, a->generation))
		refuse_identity(a, "no container of this workload is enrolled now", cgroup);
	else if (a->q.listens)
		answer_listen(a);
	else
		answer_connect(a);
}

static void on_resolved(struct broker *b, void *arg, const struct role_reply *reply, int fd);

static void resolve(struct ask *a)
{
	struct role_msg m = { .type = BW_RESOLVE };

	a->queued = false;
	a->refs++;
	g_port.n_asked++;
	m.u.resolve = (struct role_resolve){ .cgroup_id = a->q.accept.cgroup_id, .pid = a->q.accept.cgroup_id ? 0 : a->q.accept.pid };
	broker_ask(a->b, &m, -1, on_resolved, a);
}

static void on_resolved(struct broker *b, void *arg, const struct role_reply *reply, int fd)
{
	struct ask *a = arg, *next;

	fd_cleanup(&fd);
	if (!a->dead && reply->error) {
		refuse_identity(a, reply->why, NULL);
	} else if (!a->dead) {
		/* Only what holds for the enrolment that stands now may be remembered. */
		if (reply->wid == a->wid && is_enrolled_as(b, a->wid, a->generation))
			lane_cache_workload(a->q.accept.cgroup_id, reply->wid);
		identified(a, reply->wid, reply->path);
	}
	ask_unref(a);
	g_port.n_asked--;
	next = TAILQ_FIRST(&g_port.queued);
	if (next && g_port.n_asked < ASKED_MAX) {
		TAILQ_REMOVE(&g_port.queued, next, turn);
		resolve(next);
	}
}

static uint64_t wait_ns(const struct broker *b)
{
	double s = b->config ? b->config->connect_wait_s : 0;

	return s * 1e3 < CARRY_LIBRARY_WAIT_MS ? (uint64_t)(s * 1e9) : CARRY_LIBRARY_WAIT_MS * UINT64_C(1000000);
}

static struct ask *ask_new(struct broker *b, const struct workload *w, const struct role_ask *q)
{
	struct ask *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	*a = (struct ask){ .cid = q->accept.cid, .q = *q, .b = b, .wid = w->wid, .generation = w->generation, .refs = 1 };
	a->deadline_ns = clock_ns() + wait_ns(b);
	HASH_ADD(hh, g_port.asks, cid, sizeof(a->cid), a);
	return a;
}

void port_on_ask(struct broker *b, const struct role_ask *q)
{
	const struct workload *w = q->accept.lid >= LIMIT_UPSTREAMS ? model_workload(b, q->accept.lid - LIMIT_UPSTREAMS) : NULL;
	uint32_t wid = lane_cached_workload(q->accept.cgroup_id);
	struct ask *a;

	port_on_gone(b, q->accept.cid); /* a porter that numbers two connections alike harms only its own */
	a = w ? ask_new(b, w, q) : NULL;
	if (!a) {
		tell_refusal(b, q->accept.cid, w ? -ENOMEM : -EACCES, w ? "the daemon has no memory" : "this workload was removed");
		return;
	}
	if (q->accept.error) {
		refuse_identity(a, "the kernel could not say who connected", NULL);
	} else if (wid != ROLE_NO_ID) {
		identified(a, wid, NULL);
	} else if (g_port.n_asked < ASKED_MAX) {
		resolve(a);
	} else {
		a->queued = true;
		TAILQ_INSERT_TAIL(&g_port.queued, a, turn);
	}
}

void port_on_gone(struct broker *b, uint32_t cid)
{
	struct port_listener *li = find_listener(cid);
	struct ask *a;

	HASH_FIND(hh, g_port.asks, &cid, sizeof(cid), a);
	if (a)
		ask_end(a);
	if (li)
		listener_end(b, li, NULL);
}

/* ------------------------------------------------------------------ what changes */

static const char *why_not_listen(struct broker *b, const struct port_listener *li)
{
	const struct service *s = model_service(b, li->sid);

	if (!is_enrolled_as(b, li->wid, li->generation))
		return "no container of this workload is enrolled now";
	if (!s || !s->takes_lanes || !model_speaks_as(&b->workloads[li->wid], &li->service))
		return "the configuration does not let this workload offer the service any more";
	return NULL;
}

void port_recheck(struct broker *b)
{
	struct port_listener *li, *tmp;

	HASH_ITER(hh, g_port.listeners, li, tmp) {
		const char *why = why_not_listen(b, li);

		if (why)
			listener_expel(b, li, why);
	}
	shm_recheck(b);
}

void port_leave_workload(struct broker *b, struct workload *w, const char *why)
{
	struct port_listener *li, *tmp;
	struct ask *a, *atmp;

	HASH_ITER(hh, g_port.asks, a, atmp)
		if (a->wid == w->wid)
			refuse_identity(a, why, NULL);
	HASH_ITER(hh, g_port.listeners, li, tmp)
		if (li->wid == w->wid)
			listener_expel(b, li, why);
}

void port_on_porter(struct broker *b)
{
	for (size_t i = 0; i < b->n_workloads; i++)
		hand_to_porter(b, &b->workloads[i]);
	shm_adopt(b);
}

void port_on_porter_lost(struct broker *b)
{
	struct port_listener *li, *tmp;
	struct ask *a, *atmp;

	log_warn("porter.lost", LOG_U64("listeners", HASH_COUNT(g_port.listeners)), LOG_U64("lanes", shm_n_lanes()));
	HASH_ITER(hh, g_port.asks, a, atmp)
		ask_end(a);
	HASH_ITER(hh, g_port.listeners, li, tmp)
		listener_end(b, li, "the porter is gone");
	shm_on_porter_lost(b);
	lend_on_porter_lost(b);
	lane_stats_of_porter_end(b);
}
