/*
 * Theory of operation: how sessions come to be.
 *
 * A route is the way from one of our identities (kid) to one host (hid): the session that takes new lanes, and the ticket with which the next
 * one is cheaper. BL_CARRY finds its route's session or has one dialled: the broker has the socket made (LB_DIAL, BL_DIALED), as this process
 * cannot make one. Routes between hosts (kid 0, `keep`) are dialled without a lane, and again when they break, later and later.
 *
 * Accepting stops while there is no room for another session or descriptor, so an EMFILE can never spin. Sessions of which nobody has proven
 * anything make room for newer ones (linker_source.c), so that those who say nothing keep nobody out.
 */
#include "daemon/linker_int.h"

#include "base/address.h"
#include "base/log.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>

enum {
	ACCEPTS_PER_TURN = 16,
	/* One for each lane and session; and beside them channels, epoll, standard streams, messages' descriptors. */
	FDS_RESERVED = 64,
	CHAN_QUEUE_HIGH = 1024,
};
#define ACCEPT_PAUSE_NS (100 * MS_NS)
#define FULL_WARN_NS UINT64_C(60000000000)
#define RETRY_MIN_NS (100 * MS_NS)
#define RETRY_MAX_NS (5000 * MS_NS)

static struct route *route_get(struct linker *k, uint32_t kid, uint32_t hid)
{
	struct route *r = NULL, key = { .key = { kid, hid } };

	HASH_FIND(hh, k->routes, &key.key, sizeof(key.key), r);
	if (r)
		return r;
	r = calloc(1, sizeof(*r));
	if (!r)
		return NULL;
	r->key.kid = kid;
	r->key.hid = hid;
	HASH_ADD(hh, k->routes, key, sizeof(r->key), r);
	return r;
}

static void route_free(struct linker *k, struct route *r)
{
	HASH_DEL(k->routes, r);
	SSL_SESSION_free(r->ticket);
	free(r);
}

static struct host *host_find(const struct linker *k, uint32_t hid)
{
	struct host *h = NULL;

	HASH_FIND(hh, k->hosts, &hid, sizeof(hid), h);
	return h;
}

void peer_detach(struct session *s)
{
	if (s->route && s->route->session == s)
		s->route->session = NULL;
}

static void session_dial(struct linker *k, struct session *s)
{
	struct role_msg m = { .type = LB_DIAL, .u.dial_ask = { .session = session_cid(k, s), .hid = s->hid, .req = s->req } };

	s->is_client = true;
	s->phase = PHASE_DIALING;
	s->deadline_ns = k->now_ns + CONNECT_NS;
	linker_wake_at(k, s->deadline_ns);
	linker_send(k, &m, -1);
}

static struct session *route_dial(struct linker *k, struct route *r)
{
	const struct host *h = host_find(k, r->key.hid);
	struct session *s = h ? session_take(k) : NULL;

	if (!s)
		return NULL;
	s->kid = r->key.kid;
	s->hid = r->key.hid;
	s->route = r;
	memcpy(s->address, h->role.address, sizeof(s->address));
	r->session = s;
	session_dial(k, s);
	return s;
}

void peer_dial_ca(struct linker *k, const struct role_ca *m)
{
	struct role_msg answer = { .type = LB_CA_ANSWER, .u.ca = { .req = m->req, .error = -ENOMEM, .why = "no room for another session" } };
	struct session *s = session_take(k);

	if (s)
		s->ca = malloc(sizeof(*s->ca));
	if (!s || !s->ca) {
		linker_send(k, &answer, -1);
		if (s)
			session_give(k, s);
		return;
	}
	*s->ca = *m;
	s->req = m->req;
	memcpy(s->address, m->address, sizeof(s->address));
	session_dial(k, s);
}

void peer_dialed(struct linker *k, const struct role_dialed *m, int *fd)
{
	struct session *s = session_find(k, m->session);
	int r;

	if (!s || s->phase != PHASE_DIALING)
		return;
	if (m->error || *fd < 0) {
		session_over(k, s, SESSION_LOST, m->why[0] ? m->why : "no socket could be made");
		return;
	}
	s->fd = take_fd(fd);
	fcntl(s->fd, F_SETFL, O_RDWR | O_NONBLOCK);
	s->phase = PHASE_CONNECTING;
	s->source = source_of_text(k, s->address);
	r = s->source ? session_watch(k, s) : -ENOMEM;
	if (r < 0)
		session_over(k, s, SESSION_LOST, log_errno_name(r));
}

/* Lanes. */

static int carry_refuse(struct linker *k, const struct role_carry *m, int fd, enum link_code code, const char *why)
{
	struct role_msg f = { .type = LB_FAILED, .u.link_failed = { .lane_id = m->lane_id, .code = code } };

	snprintf(f.u.link_failed.why, sizeof(f.u.link_failed.why), "%s", why);
	linker_send(k, &f, fd);
	return 0;
}

static void lane_join(struct linker *k, struct llane *l, struct session *s)
{
	l->session = s;
	TAILQ_INSERT_TAIL(&s->lanes, l, of_session);
	s->n_lanes++;
	if (s->phase == PHASE_GREETED || s->phase == PHASE_UP)
		llane_open(k, l);
}

int peer_carry(struct linker *k, const struct role_carry *m, int *fd)
{
	struct route *r;
	struct session *s;
	struct llane *l;
	int error;

	if (m->lane_id == 0 || llane_by_id(k, m->lane_id))
		return -EBADMSG;
	if (k->draining)
		return carry_refuse(k, m, *fd, LINK_DRAINING, "this host takes no new lanes");
	if (*fd < 0)
		return carry_refuse(k, m, -1, LINK_FAILED, "out of descriptors");
	if (!tls_credential(k->tls, m->kid) || !host_find(k, m->hid))
		return carry_refuse(k, m, *fd, LINK_FAILED, "there is no such host, or no certificate to show it");
	r = route_get(k, m->kid, m->hid);
	s = !r ? NULL : r->session ? r->session : route_dial(k, r);
	l = s ? llane_take(k, LANE_WAITING) : NULL;
	if (!l)
		return carry_refuse(k, m, *fd, LINK_LIMIT, "this host carries as many lanes, or has as many sessions, as it can");
	l->outbound = true;
	l->kind = (uint8_t)m->kind;
	l->wid = m->wid;
	memcpy(l->destination, m->destination, sizeof(l->destination));
	bucket_init(&l->bucket, m->bytes_per_s, 0, k->now_ns);
	l->fd = take_fd(fd);
	llane_set_id(k, l, m->lane_id);
	error = llane_watch(k, l);
	lane_join(k, l, s);
	if (error < 0)
		llane_end(k, l, LANE_END_NOMEM, error, LINK_FAILED);
	if (s->last_number >= UINT32_MAX - 1)
		peer_detach(s); /* numbers are never used twice */
	return 0;
}

/* Hosts. */

void peer_set_host(struct linker *k, const struct role_host *m)
{
	struct host *h = host_find(k, m->hid);
	struct route *r;

	if (!h) {
		h = calloc(1, sizeof(*h));
		if (!h) {
			linker_fail(k, -ENOMEM);
			return;
		}
		h->role.hid = m->hid;
		HASH_ADD(hh, k->hosts, role.hid, sizeof(h->role.hid), h);
	}
	h->role = *m;
	r = route_get(k, 0, m->hid);
	if (!r)
		return;
	r->keep = m->keep;
	r->dial_at_ns = k->now_ns;
	r->n_failures = 0;
	linker_wake_at(k, k->now_ns);
}

bool peer_is_of_host(const struct linker *k, const struct session *s, const char *address)
{
	const struct host *h;

	HASH_FIND(hh, k->hosts, &s->hid, sizeof(s->hid), h);
	return address_same_host(address, s->address) || (h && address_same_host(address, h->role.rdma));
}

void peer_host_gone(struct linker *k, uint32_t hid)
{
	struct host *h = host_find(k, hid);
	struct route *r, *next;

	for (uint32_t i = 0; i < LIMIT_LINK_SESSIONS; i++) {
		struct session *s = &k->sessions[i];

		if (s->phase == PHASE_FREE || s->hid != hid)
			continue;
		session_over(k, s, SESSION_OK, "the host is not configured any more");
		s->route = NULL;
	}
	HASH_ITER(hh, k->routes, r, next)
		if (r->key.hid == hid)
			route_free(k, r);
	if (h)
		HASH_DEL(k->hosts, h);
	free(h);
}

static uint64_t retry_ns(unsigned n_failures)
{
	uint64_t delay = n_failures == 0 ? 0 : RETRY_MIN_NS << (n_failures > 6 ? 6 : n_failures - 1);
	uint32_t dice = 0;

	if (delay > RETRY_MAX_NS)
		delay = RETRY_MAX_NS;
	(void)!getrandom(&dice, sizeof(dice), GRND_NONBLOCK);
	return delay - delay / 4 * (dice % 256) / 256; /* so that hosts that lost the same one do not come back in step */
}

void peer_session_over(struct linker *k, struct session *s)
{
	struct route *r = s->route;

	peer_detach(s);
	if (!r)
		return;
	if (s->tls.ticket) {
		SSL_SESSION_free(r->ticket);
		r->ticket = take_ptr(s->tls.ticket);
	} else if (!s->told_up) {
		SSL_SESSION_free(r->ticket); /* if it was that, the next one goes without */
		r->ticket = NULL;
	}
	if (!r->keep)
		return;
	/* One that breaks as soon as it is up is not better than one that does not come up. */
	r->n_failures = s->told_up && k->now_ns - s->up_ns > RETRY_MAX_NS ? 0 : r->n_failures + 1;
	r->dial_at_ns = k->now_ns + retry_ns(s->told_up ? r->n_failures - (r->n_failures > 0) : r->n_failures);
	linker_wake_at(k, r->dial_at_ns);
}

uint64_t peer_tick(struct linker *k)
{
	uint64_t due = UINT64_MAX;
	struct route *r, *next;

	if (k->draining || !k->have_trust || !tls_credential(k->tls, 0))
		return due;
	HASH_ITER(hh, k->routes, r, next)
	{
		if (!r->keep || r->session)
			continue;
		if (k->now_ns < r->dial_at_ns)
			due = r->dial_at_ns < due ? r->dial_at_ns : due;
		else if (!route_dial(k, r))
			due = k->now_ns + RETRY_MAX_NS;
	}
	return due;
}

void peer_drop_tickets(struct linker *k, uint32_t kid)
{
	struct route *r, *next;

	HASH_ITER(hh, k->routes, r, next)
	{
		if (kid != ROLE_NO_ID && r->key.kid != kid)
			continue;
		SSL_SESSION_free(r->ticket);
		r->ticket = NULL;
		if (r->session && r->session->tls.ticket) {
			SSL_SESSION_free(r->session->tls.ticket);
			r->session->tls.ticket = NULL;
		}
	}
}

void peer_forget(struct linker *k, uint32_t kid)
{
	struct route *r, *next;

	for (uint32_t i = 0; i < LIMIT_LINK_SESSIONS; i++) {
		struct session *s = &k->sessions[i];

		if (s->phase != PHASE_FREE && s->route && s->route->key.kid == kid && !s->route->keep) {
			peer_detach(s);
			s->route = NULL;
		}
	}
	peer_drop_tickets(k, kid);
	HASH_ITER(hh, k->routes, r, next)
		if (r->key.kid == kid && !r->keep) /* between hosts it is dialled again, when there is a certificate again */
			route_free(k, r);
}

void peer_free(struct linker *k)
{
	struct route *r, *next_route;
	struct host *h, *next_host;

	HASH_ITER(hh, k->routes, r, next_route)
		route_free(k, r);
	HASH_ITER(hh, k->hosts, h, next_host)
	{
		HASH_DEL(k->hosts, h);
		free(h);
	}
	peer_unlisten(k);
}

/* Accepting. */

static int listener_epoll(struct linker *k, uint32_t i, bool on)
{
	return linker_epoll(k, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, k->listeners[i], on ? EPOLLIN | EPOLLEXCLUSIVE : 0,
			    linker_ref(LINKER_EVENT_LISTENER, i));
}

int peer_listen(struct linker *k, int *fd)
{
	uint32_t i = k->n_listeners;

	if (*fd < 0 || i == LINKER_LISTENERS || fcntl(*fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
		return -EBADMSG;
	k->listeners[i] = take_fd(fd);
	k->n_listeners++;
	return k->listening ? listener_epoll(k, i, true) : 0;
}

void peer_unlisten(struct linker *k)
{
	for (uint32_t i = 0; i < k->n_listeners; i++) {
		if (k->listening)
			(void)!listener_epoll(k, i, false);
		close(take_fd(&k->listeners[i]));
	}
	k->listening = false;
	k->n_listeners = 0;
}

/* One descriptor for each lane and session. */
static bool peer_has_slot(const struct linker *k)
{
	return k->n_sessions < LIMIT_LINK_SESSIONS && (uint64_t)k->n_lanes + k->n_ring_fds + k->n_sessions + FDS_RESERVED < k->fd_limit;
}

static bool peer_is_full(const struct linker *k)
{
	return k->n_strangers == 0 && !peer_has_slot(k);
}

static bool peer_may_accept(const struct linker *k)
{
	return !peer_is_full(k) && k->broker.n_queued <= CHAN_QUEUE_HIGH && k->now_ns >= k->accept_at_ns && tls_can_serve(k->tls);
}

static void warn_full(struct linker *k)
{
	if (k->now_ns < k->full_warn_at_ns)
		return;
	log_warn("linker.full", LOG_U64("sessions", k->n_sessions), LOG_U64("lanes", k->n_lanes), LOG_U64("descriptor_limit", k->fd_limit),
		 LOG_STR("why", "no room for another session: other hosts wait; with more linkers (`links`) or descriptors there is more"));
	k->full_warn_at_ns = k->now_ns + FULL_WARN_NS;
}

void peer_rearm(struct linker *k)
{
	bool want = k->n_listeners > 0 && !k->draining && peer_may_accept(k);

	if (want == k->listening)
		return;
	if (!want && !k->draining && peer_is_full(k))
		warn_full(k);
	k->listening = want;
	for (uint32_t i = 0; i < k->n_listeners; i++) {
		int r = listener_epoll(k, i, want);

		if (r < 0)
			linker_fail(k, r);
	}
}

static void accept_one(struct linker *k, int fd, const struct sockaddr_storage *from)
{
	struct session *s = session_take(k);
	uint64_t more;
	int r;

	if (!s) { /* peer_has_room() */
		close(fd);
		return;
	}
	s->fd = fd;
	s->source = source_get(k, from);
	address_format(s->address, from);
	r = s->source ? 0 : -ENOMEM;
	if (r == 0) {
		stranger_add(k, s);
		r = session_start_server(k, s);
	}
	if (r < 0) {
		if (teller_may(k, &k->accept_teller, &more))
			log_warn("linker.not_accepted", LOG_STR("peer", s->address), LOG_STR("error", log_errno_name(r)), LOG_U64("more", more));
		stranger_leave(k, s);
		session_give(k, s);
	}
}

/* Return: false: nobody waits, or it failed. */
static bool accept_next(struct linker *k, int listener)
{
	struct sockaddr_storage from = {};
	socklen_t size = sizeof(from);
	int fd = accept4(listener, (struct sockaddr *)&from, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0 && (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR))
		return false;
	if (fd < 0) {
		k->accept_at_ns = k->now_ns + ACCEPT_PAUSE_NS;
		linker_wake_at(k, k->accept_at_ns);
		return false;
	}
	accept_one(k, fd, &from);
	return true;
}

void peer_accept(struct linker *k, uint32_t i)
{
	uint64_t began_ns = clock_ns();
	int n;

	for (n = 0; n < ACCEPTS_PER_TURN && i < k->n_listeners && peer_may_accept(k) && stranger_may_come(k); n++) {
		/* The slot of one that is dropped is free at the end of the turn; the listener tells again in the next one. */
		if (!peer_has_slot(k)) {
			(void)stranger_drop_any(k);
			break;
		}
		if (!accept_next(k, k->listeners[i]))
			break;
	}
	if (n > 0)
		k->accepts_next = false;
	stranger_worked(k, began_ns);
}
