/*
 * Theory of operation: a session's life.
 *
 *   BL_CARRY -> LB_DIAL -> BL_DIALED -> connect -> handshake -> HELLO both ways -> UP -> ... -> OVER
 *   accept() --------------------------------------^
 *
 * A client says HELLO and OPEN, and what its applications have said so far, as soon as the handshake is done: one round trip less. The broker is
 * told that a session is up when the other side's HELLO has come: only then is it known that the other side accepted our certificate.
 *
 * Identities: what a session stands on (the peer's certificate, ours, the services that were proven on it) is judged again when time or
 * the list of what is revoked has moved on. PROOF brings a newer certificate for the same name; then nothing happens. Without it the
 * session ends with its identity, or the lanes with their service's: a service that is revoked takes nobody's lanes but its own with it.
 *
 * Ending: session_over() only marks a session, since whoever finds out is in the middle of it; session_reap() at the end of the turn ends its
 * lanes, tells the broker and frees it.
 */
#include "daemon/linker_int.h"

#include "base/log.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { REFUSALS_PER_S = 200 };

void session_dirty(struct linker *k, struct session *s)
{
	if (s->dirty || s->phase == PHASE_OVER)
		return;
	s->dirty = s->is_stranger ? &k->dirty_strangers : &k->dirty;
	s->dirty->n++;
	TAILQ_INSERT_TAIL(&s->dirty->list, s, queue);
}

void session_clean(struct session *s)
{
	if (!s->dirty)
		return;
	TAILQ_REMOVE(&s->dirty->list, s, queue);
	s->dirty->n--;
	s->dirty = NULL;
}

static void set_option(const struct session *s, int level, int name, int value)
{
	(void)!setsockopt(s->fd, level, name, &value, sizeof(value)); /* none is needed to be right, only to be fast */
}

int session_watch(struct linker *k, struct session *s)
{
	set_option(s, IPPROTO_TCP, TCP_NODELAY, 1);
	set_option(s, IPPROTO_TCP, TCP_NOTSENT_LOWAT, LINKER_BATCH_SIZE);
	set_option(s, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)k->trust.timeout_ms);
	/* TCP tells of room to write only after a write that did not find enough, so EPOLLOUT costs nothing until then. */
	return linker_epoll(k, EPOLL_CTL_ADD, s->fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, linker_ref(LINKER_EVENT_SESSION, session_cid(k, s)));
}

/* What the broker hears. */

static struct role_msg session_news(struct linker *k, const struct session *s, enum session_state state)
{
	struct role_msg m = { .type = LB_SESSION };
	struct role_session *n = &m.u.session;
	const struct tls_credential *c = tls_credential(k->tls, s->kid);

	*n = (struct role_session){ .session = session_cid(k, s), .state = state, .reason = s->reason, .hid = s->hid,
				    .inbound = !s->is_client, .resumed = s->tls.resumed,
				    .for_ca = s->ca || s->purpose == FRAME_FOR_CA };
	if (c && !(s->is_client && s->ca && s->ca->mode == CA_JOIN))
		snprintf(n->local, sizeof(n->local), "%s", tls_credential_identity(c)->spiffe_id);
	snprintf(n->peer, sizeof(n->peer), "%s", s->tls.peer.spiffe_id);
	snprintf(n->peer_serial, sizeof(n->peer_serial), "%s", s->tls.peer.serial);
	snprintf(n->address, sizeof(n->address), "%s", s->address);
	snprintf(n->why, sizeof(n->why), "%s", s->why);
	if (s->tls.is_up)
		snprintf(n->cipher, sizeof(n->cipher), "%s", tls_cipher_name(&s->tls));
	return m;
}

static bool is_refusal(const struct session *s)
{
	if (s->is_client)
		return !s->told_up && s->reason != SESSION_OK; /* also one that reached nobody */
	return !s->told_up && s->reason >= SESSION_NO_CERTIFICATE && s->reason <= SESSION_LIMIT;
}

/* Beginning. */

static void session_shake(struct linker *k, struct session *s)
{
	s->phase = PHASE_HANDSHAKE;
	s->deadline_ns = k->now_ns + k->handshake_ns;
	linker_wake_at(k, s->deadline_ns);
	session_dirty(k, s);
}

static int client_tls(struct linker *k, struct session *s)
{
	SSL_SESSION *ticket = s->route && s->route->ticket && tls_ticket_is_good(k->tls, s->route->ticket) ? s->route->ticket : NULL;
	const struct host *h = NULL;

	if (s->ca) {
		memcpy(s->tls.root, s->ca->root, sizeof(s->tls.root));
		return tls_conn_client(&s->tls, k->tls, s->ca->mode == CA_JOIN ? TLS_JOIN : TLS_CA, 0, s->ca->host, NULL);
	}
	HASH_FIND(hh, k->hosts, &s->hid, sizeof(s->hid), h);
	if (!h)
		return -EHOSTUNREACH;
	return tls_conn_client(&s->tls, k->tls, TLS_LINK, s->kid, h->role.name, ticket);
}

/* Its socket can be written to. */
static void session_connected(struct linker *k, struct session *s)
{
	char why[200];
	socklen_t size = sizeof(int);
	int error = 0, r;

	(void)!getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size);
	if (error) {
		snprintf(why, sizeof(why), "connect to %s: %s", s->address, log_errno_name(error));
		session_over(k, s, error == ETIMEDOUT ? SESSION_TIMEOUT : SESSION_LOST, why);
		return;
	}
	r = client_tls(k, s);
	if (r < 0) {
		session_over(k, s, SESSION_LOST, r == -ENOKEY ? "this host has no certificate to show" : log_errno_name(r));
		return;
	}
	session_shake(k, s);
	if (!session_lend_chunk(k, s)) {
		session_over(k, s, SESSION_LOST, "out of memory");
		return;
	}
	if (tls_handshake(&s->tls) < 0)
		session_over(k, s, s->tls.reason, s->tls.why);
	s->chunk_size = s->tls.out_size;
}

int session_start_server(struct linker *k, struct session *s)
{
	int r = session_watch(k, s);

	if (r < 0)
		return r;
	session_shake(k, s);
	s->readable = s->writable = true; /* most often its first bytes are there */
	return 0;
}

void session_event(struct linker *k, struct session *s, uint32_t events)
{
	if (s->phase == PHASE_OVER)
		return;
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		s->readable = true;
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		s->closing = true;
	if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
		s->writable = true;
	if (s->phase == PHASE_CONNECTING && s->writable)
		session_connected(k, s);
	session_dirty(k, s);
}

bool session_work(struct linker *k, struct session *s)
{
	bool more;

	if (s->phase >= PHASE_HANDSHAKE && s->phase != PHASE_OVER)
		session_receive(k, s);
	if (s->phase == PHASE_UP && rdma_work(k, s) == 0 && rdma_has_data(s))
		session_receive_ring(k, s, false);
	if (s->phase < PHASE_HANDSHAKE || s->phase == PHASE_OVER)
		return false;
	more = session_pump(k, s);
	if (s->phase != PHASE_OVER && source_is_over(k, s)) {
		session_over(k, s, SESSION_LIMIT, "that host does not read, and has as much waiting for it here as one host may have");
		return false;
	}
	/* Still readable: the turn was over, or the peer did not read what it made us say; if it has by now, it is read from again. */
	return more || (s->phase != PHASE_OVER && (s->readable || rdma_has_data(s)) && s->control_size == s->control_off && !k->stalled && source_is_heard(s));
}

static enum frame_purpose purpose_of(const struct linker *k, const struct session *s)
{
	const struct tls_credential *c = tls_credential(k->tls, s->kid);

	if (s->tls.use != TLS_LINK)
		return FRAME_FOR_CA;
	if (!s->is_client)
		return s->tls.peer.kind == PKI_HOST ? FRAME_FOR_HOSTS : FRAME_FOR_LANES;
	return c && tls_credential_identity(c)->kind == PKI_HOST ? FRAME_FOR_HOSTS : FRAME_FOR_LANES;
}

/* 0, which nobody is shown, where there is no such value. */
static uint32_t tag_of(struct session *s)
{
	uint8_t value[TLS_EXPORTER_SIZE];

	if (s->purpose != FRAME_FOR_LANES || tls_export(&s->tls, TLS_EXPORTER_LANE, value) < 0)
		return 0;
	return (uint32_t)value[0] << 24 | (uint32_t)value[1] << 16 | (uint32_t)value[2] << 8 | value[3];
}

void session_established(struct linker *k, struct session *s)
{
	struct llane *l, *next;
	const char *why;
	uint8_t *to;

	if (s->tls.use != TLS_JOIN)
		stranger_leave(k, s);
	s->purpose = purpose_of(k, s);
	why = s->is_client || s->tls.use == TLS_JOIN ? NULL : proven_add(k, s);
	if (why) {
		session_over(k, s, SESSION_LIMIT, why);
		return;
	}
	s->tag = tag_of(s);
	s->phase = PHASE_GREETED;
	s->deadline_ns = k->now_ns + k->handshake_ns;
	to = session_control(k, s, FRAME_HELLO_SIZE);
	if (!to)
		return;
	session_control_done(k, s, frame_put_hello(to, k->trust.window, rdma_hello(k, s)));
	for (l = TAILQ_FIRST(&s->lanes); l && s->phase == PHASE_GREETED; l = next) {
		next = TAILQ_NEXT(l, of_session);
		llane_open(k, l);
	}
}

void session_greeted(struct linker *k, struct session *s, uint32_t window)
{
	struct role_msg m;
	struct llane *l;

	s->phase = PHASE_UP;
	s->peer_window = window;
	s->up_ns = s->idle_ns = s->heard_ns = k->now_ns;
	s->deadline_ns = k->now_ns + QUESTION_NS;
	TAILQ_FOREACH(l, &s->lanes, of_session)
	{
		flow_raise(&l->flow, window);
		llane_offer(k, l);
	}
	m = session_news(k, s, SESSION_UP);
	s->told_up = true;
	linker_send(k, &m, -1);
	linker_wake_at(k, k->now_ns);
	if (k->draining)
		session_goaway(k, s);
	if (s->purpose == FRAME_FOR_CA && s->is_client)
		linker_ca_ready(k, s);
	if (s->purpose == FRAME_FOR_HOSTS && !s->is_client)
		announce_to(k, s);
}

void session_goaway(struct linker *k, struct session *s)
{
	uint8_t *to;

	if (s->goaway_sent || (s->phase != PHASE_GREETED && s->phase != PHASE_UP))
		return;
	to = session_control(k, s, FRAME_HEADER_SIZE);
	if (!to)
		return;
	s->goaway_sent = true;
	s->asked_ns = 0;
	session_control_done(k, s, frame_put_empty(to, 0, FRAME_GOAWAY));
	peer_detach(s);
	linker_wake_at(k, k->now_ns);
}

void session_goaway_all(struct linker *k)
{
	for (uint32_t i = 0; i < LIMIT_LINK_SESSIONS; i++)
		if (k->sessions[i].phase != PHASE_FREE && k->sessions[i].purpose == FRAME_FOR_LANES)
			session_goaway(k, &k->sessions[i]);
}

void session_lane_gone(struct linker *k, struct session *s)
{
	s->n_lanes--;
	if (s->n_lanes > 0 || s->phase == PHASE_OVER)
		return;
	s->idle_ns = k->now_ns;
	linker_wake_at(k, s->goaway_sent || s->goaway_received ? k->now_ns : k->now_ns + k->trust.idle_ms * MS_NS);
}

/* Identities. */

/* Those that stand on @kid, or (@destination not NULL) on that service of the far host. @why: for the second. */
static void cut_lanes(struct linker *k, struct session *s, uint32_t kid, const char *destination, const char *why)
{
	struct llane *l, *next;

	for (l = TAILQ_FIRST(&s->lanes); l; l = next) {
		next = TAILQ_NEXT(l, of_session);
		if (!destination && l->kid == kid)
			llane_end(k, l, LANE_END_CUT, 0, LINK_CUT);
		else if (destination && strcmp(l->destination, destination) == 0)
			llane_disown(k, l, why);
	}
}

static struct proof *find_proof(const struct session *s, const char *service)
{
	struct proof *p;

	SLIST_FOREACH(p, &s->proofs, next)
		if (strcmp(p->service, service) == 0)
			return p;
	return NULL;
}

bool session_has_proof(const struct session *s, const char *service)
{
	const struct proof *p = find_proof(s, service);

	return p && !p->ended;
}

int session_lacks_proof(struct linker *k, struct session *s, struct llane *l)
{
	char why[LIMIT_SERVICE_SIZE + 64];

	if (!find_proof(s, l->destination))
		return session_over(k, s, SESSION_PROTOCOL, "OPENED for a service that the host did not prove to serve");
	snprintf(why, sizeof(why), "the certificate of %s at that host is revoked, or has expired", l->destination);
	llane_disown(k, l, why);
	return 0;
}

/* What @p stands on may not be taken any more, or never could. */
static void proof_end(struct linker *k, struct session *s, struct proof *p, const char *why)
{
	uint64_t more;

	if (!p->ended && source_may_tell(k, s->source, &more))
		log_warn("linker.service_ended", LOG_STR("service", p->service), LOG_STR("peer", s->tls.peer.spiffe_id), LOG_STR("why", why),
			 LOG_U64("more", more), LOG_STR("then", "its lanes to that host are cut; others go on"));
	p->ended = true;
	cut_lanes(k, s, ROLE_NO_ID, p->service, why);
}

/* @why: NULL: it is good. */
static int proof_add(struct linker *k, struct session *s, const struct pki_identity *who, const char *why)
{
	char service[LIMIT_SERVICE_SIZE];
	struct proof *p;

	service_name_format(service, &who->service);
	p = find_proof(s, service);
	if (!p && s->n_proofs == LINKER_PROOFS_MAX)
		return session_over(k, s, SESSION_PROTOCOL, "proofs for more services than a host has");
	if (!p) {
		p = calloc(1, sizeof(*p));
		if (!p)
			return session_over(k, s, SESSION_LOST, "out of memory");
		memcpy(p->service, service, sizeof(service));
		s->n_proofs++;
		SLIST_INSERT_HEAD(&s->proofs, p, next);
	}
	p->who = *who;
	if (why)
		proof_end(k, s, p, why);
	else
		p->ended = false;
	return 0;
}

/*
 * Each costs us two signatures' checks, some 200 us. A client proves its one name again when its certificate is renewed, every few
 * seconds at most; a server each service that it has, once, and again.
 */
static bool may_prove(struct linker *k, struct session *s)
{
	struct bucket *b = &s->new_proofs;

	if (b->rate_per_s == 0 && s->is_client)
		bucket_init(b, LINKER_PROOFS_MAX / 4, LINKER_PROOFS_MAX, k->now_ns);
	else if (b->rate_per_s == 0)
		bucket_init(b, 4, 16, k->now_ns);
	if (bucket_available(b, k->now_ns) == 0)
		return false;
	bucket_take(b, 1);
	return true;
}

int session_on_proof(struct linker *k, struct session *s, const struct frame *f)
{
	enum session_reason reason = SESSION_OK;
	struct pki_identity who;
	char why[256];
	int r;

	if (!may_prove(k, s))
		return session_over(k, s, SESSION_PROTOCOL, "PROOF more often than certificates are renewed");
	r = tls_check_proof(&s->tls, f->u.proof.signature, f->u.proof.signature_size, f->u.proof.certificates, f->u.proof.certificates_size, &who,
			    &reason, why, sizeof(why));
	if (r == -EPROTO)
		return session_over(k, s, s->tls.reason, s->tls.why);
	linker_wake_at(k, k->now_ns);
	if (s->is_client && who.kind == PKI_SERVICE)
		return s->purpose == FRAME_FOR_LANES ? proof_add(k, s, &who, r < 0 ? why : NULL)
						     : session_over(k, s, SESSION_PROTOCOL, "PROOF of a service between hosts");
	if (strcmp(who.spiffe_id, s->tls.peer.spiffe_id) != 0)
		return session_over(k, s, SESSION_PROTOCOL, "PROOF for another name than the session's");
	if (r < 0)
		return session_over(k, s, reason, why);
	s->tls.peer = who;
	return 0;
}

static int send_proof(struct linker *k, struct session *s, uint32_t kid)
{
	uint8_t *to = session_control(k, s, FRAME_SIZE_MAX);
	ssize_t n = to ? tls_prove(&s->tls, kid, to) : -ENOMEM;
	uint64_t more;

	if (n < 0 && teller_may(k, &k->signer_teller, &more))
		log_warn("linker.not_proven", LOG_U64("kid", kid), LOG_STR("error", log_errno_name((int)n)), LOG_U64("more", more));
	if (n < 0)
		return (int)n;
	session_control_done(k, s, (size_t)n);
	return 0;
}

static struct shown *find_shown(const struct session *s, uint32_t kid)
{
	struct shown *h;

	SLIST_FOREACH(h, &s->shown, next)
		if (h->kid == kid)
			return h;
	return NULL;
}

int session_show(struct linker *k, struct session *s, uint32_t kid)
{
	const struct tls_credential *c = tls_credential(k->tls, kid);
	struct shown *h;
	int r;

	if (s->phase == PHASE_OVER || find_shown(s, kid))
		return 0;
	if (!c || tls_credential_identity(c)->kind != PKI_SERVICE)
		return -ENOKEY;
	h = calloc(1, sizeof(*h));
	if (!h)
		return -ENOMEM;
	r = send_proof(k, s, kid);
	if (r < 0) {
		free(h);
		return r;
	}
	h->kid = kid;
	SLIST_INSERT_HEAD(&s->shown, h, next);
	return 0;
}

static bool session_stands_on(const struct session *s, uint32_t kid)
{
	return s->purpose != FRAME_FOR_CA && (s->kid == kid || find_shown(s, kid));
}

void session_renew(struct linker *k, uint32_t kid)
{
	for (uint32_t i = 0; i < LIMIT_LINK_SESSIONS; i++) {
		struct session *s = &k->sessions[i];

		if ((s->phase == PHASE_GREETED || s->phase == PHASE_UP) && session_stands_on(s, kid))
			(void)!send_proof(k, s, kid); /* told; the lanes go on until the old one ends */
	}
}

static void unshow(struct session *s, struct shown *h)
{
	SLIST_REMOVE(&s->shown, h, shown, next);
	free(h);
}

void session_forget(struct linker *k, uint32_t kid)
{
	for (uint32_t i = 0; i < LIMIT_LINK_SESSIONS; i++) {
		struct session *s = &k->sessions[i];
		struct shown *h;

		if (s->phase == PHASE_FREE || s->phase == PHASE_OVER)
			continue;
		if (s->kid == kid && !(s->ca && s->ca->mode == CA_JOIN)) {
			session_over(k, s, SESSION_OK, "its certificate is not this host's any more");
			continue;
		}
		h = find_shown(s, kid);
		if (!h)
			continue;
		unshow(s, h);
		cut_lanes(k, s, kid, NULL, NULL);
	}
}

/* What was proven on a session, both ways. Return: the first end, Unix seconds. */
static int64_t judge_services(struct linker *k, struct session *s)
{
	int64_t end = INT64_MAX, now = time(NULL);
	struct shown *h, *next_shown;
	struct proof *p;
	char why[256];

	SLIST_FOREACH(p, &s->proofs, next)
	{
		if (tls_judge(k->tls, &p->who, why, sizeof(why)) != SESSION_OK) {
			proof_end(k, s, p, why);
			continue;
		}
		p->ended = false; /* the list is shorter again */
		end = p->who.not_after < end ? p->who.not_after : end;
	}
	for (h = SLIST_FIRST(&s->shown); h; h = next_shown) {
		const struct tls_credential *c = tls_credential(k->tls, h->kid);

		next_shown = SLIST_NEXT(h, next);
		if (c && tls_credential_identity(c)->not_after >= now) {
			end = tls_credential_identity(c)->not_after < end ? tls_credential_identity(c)->not_after : end;
			continue;
		}
		cut_lanes(k, s, h->kid, NULL, NULL);
		unshow(s, h);
	}
	return end;
}

/* Return: when to judge again, Unix seconds; the session may be over. */
static int64_t session_judge(struct linker *k, struct session *s)
{
	const struct tls_credential *c = tls_credential(k->tls, s->kid);
	enum session_reason reason = SESSION_OK;
	int64_t end = judge_services(k, s), now = time(NULL);
	bool joins = s->tls.use == TLS_JOIN;
	char why[256];

	if (!(joins && !s->is_client)) {
		reason = tls_judge(k->tls, &s->tls.peer, why, sizeof(why));
		end = s->tls.peer.not_after < end ? s->tls.peer.not_after : end;
	}
	if (reason == SESSION_OK && !(joins && s->is_client) && c) {
		int64_t ours = tls_credential_identity(c)->not_after;

		if (ours < now) {
			reason = SESSION_EXPIRED;
			snprintf(why, sizeof(why), "our own certificate, %.160s, has expired", tls_credential_identity(c)->spiffe_id);
		}
		end = ours < end ? ours : end;
	}
	if (reason != SESSION_OK)
		session_over(k, s, reason, why);
	return end;
}

void session_judge_all(struct linker *k)
{
	for (uint32_t i = 0; i < LIMIT_LINK_SESSIONS; i++)
		if (k->sessions[i].phase == PHASE_UP)
			session_judge(k, &k->sessions[i]);
}

/* Time. */

static uint64_t sooner(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void session_ping(struct linker *k, struct session *s)
{
	uint8_t *to = session_control(k, s, FRAME_PING_SIZE);

	s->ping_ns = k->now_ns;
	if (to)
		session_control_done(k, s, frame_put_ping(to, FRAME_PING, k->now_ns));
}

/* Nothing was heard for a while? */
static uint64_t tick_silence(struct linker *k, struct session *s)
{
	uint64_t dead_ns = s->heard_ns + k->trust.timeout_ms * MS_NS;

	if (k->now_ns >= dead_ns) {
		session_over(k, s, SESSION_TIMEOUT, "nothing was heard for link_timeout");
		return dead_ns;
	}
	if (!s->ping_ns && k->now_ns >= s->heard_ns + SILENCE_NS)
		session_ping(k, s);
	return s->ping_ns ? dead_ns : sooner(dead_ns, s->heard_ns + SILENCE_NS);
}

/* Nobody needs it any more? */
/*
 * May it go, now that no more lanes begin on it? The server's side may have said so while an OPEN was on its way, which is still taken; and what is in
 * a ring of RDMA is lost with the connection. So the other side is asked whether it has read everything.
 */
static bool is_drained(struct linker *k, struct session *s)
{
	bool crosses = s->goaway_sent && !s->is_client && s->purpose == FRAME_FOR_LANES && !k->draining;
	uint8_t *to;

	if (!crosses && !(s->rdma.way && s->rdma.switched_out))
		return true;
	if (s->asked_ns > s->idle_ns)
		return s->answered_ns == s->asked_ns;
	to = session_control(k, s, FRAME_PING_SIZE);
	s->asked_ns = k->now_ns > s->idle_ns ? k->now_ns : s->idle_ns + 1;
	if (to)
		session_control_done(k, s, frame_put_ping(to, FRAME_PING, s->asked_ns));
	return false;
}

void session_on_pong(struct linker *k, struct session *s, uint64_t value)
{
	s->answered_ns = value;
	if (s->n_lanes == 0)
		linker_wake_at(k, k->now_ns);
}

static uint64_t tick_idle(struct linker *k, struct session *s)
{
	bool keep = s->route && s->route->keep && s->route->session == s;
	uint64_t due = s->idle_ns + k->trust.idle_ms * MS_NS;

	if (s->purpose == FRAME_FOR_CA) {
		if (k->now_ns >= s->deadline_ns)
			session_over(k, s, SESSION_TIMEOUT, "a question to an authority took too long");
		return s->deadline_ns;
	}
	if (s->n_lanes > 0)
		return UINT64_MAX;
	if ((s->goaway_sent || s->goaway_received) && !s->chunk && s->control_size == s->control_off && is_drained(k, s)) {
		session_over(k, s, SESSION_OK, "drained");
		return UINT64_MAX;
	}
	if (!s->is_client || keep)
		return UINT64_MAX;
	if (k->now_ns >= due)
		session_over(k, s, SESSION_OK, "idle");
	return due;
}

uint64_t session_tick(struct linker *k, struct session *s)
{
	static const char *const waits[] = {
		[PHASE_DIALING] = "no socket came", [PHASE_CONNECTING] = "connect took too long",
		[PHASE_HANDSHAKE] = "the handshake took too long", [PHASE_GREETED] = "no HELLO came",
	};
	int64_t end;
	uint64_t due;

	if (s->phase == PHASE_OVER)
		return UINT64_MAX;
	if (s->phase != PHASE_UP) {
		if (k->now_ns >= s->deadline_ns)
			session_over(k, s, SESSION_TIMEOUT, waits[s->phase]);
		return s->deadline_ns;
	}
	due = sooner(sooner(tick_silence(k, s), rdma_tick(k, s)), announced_tick(k, s));
	if (s->phase == PHASE_UP)
		due = sooner(due, tick_idle(k, s));
	if (s->phase != PHASE_UP)
		return UINT64_MAX;
	end = session_judge(k, s) - time(NULL);
	return end > 3600 ? due : sooner(due, k->now_ns + (uint64_t)(end < 0 ? 0 : end + 1) * 1000 * MS_NS);
}

/* The end. */

int session_over(struct linker *k, struct session *s, enum session_reason reason, const char *why)
{
	if (s->phase == PHASE_OVER)
		return -EPROTO;
	stranger_leave(k, s);
	joiner_leave(k, s);
	source_skips(k, s);
	s->reason = reason;
	snprintf(s->why, sizeof(s->why), "%s", why);
	session_clean(s);
	s->phase = PHASE_OVER;
	TAILQ_INSERT_TAIL(&k->over, s, queue);
	return -EPROTO;
}

static void say_goodbye(struct linker *k, struct session *s)
{
	if (s->fd < 0 || !s->source || !session_lend_chunk(k, s))
		return;
	tls_goodbye(&s->tls);
	s->chunk_size = s->tls.out_size;
	s->writable = true;
	session_flush(k, s);
}

/* Of strangers there may be more than the broker can hear of, and what it does not hear from lanes' sessions would wait behind them. */
static bool session_is_told(struct linker *k, const struct session *s)
{
	if (s->is_client || s->told_up)
		return true;
	if (s->dropped || s->reason == SESSION_LOST)
		return false; /* it came and went, and nobody is to be told why */
	if (k->refusals.rate_per_s == 0)
		bucket_init(&k->refusals, REFUSALS_PER_S, REFUSALS_PER_S, k->now_ns);
	if (bucket_available(&k->refusals, k->now_ns) == 0)
		return false;
	bucket_take(&k->refusals, 1);
	return true;
}

static void reap_one(struct linker *k, struct session *s)
{
	enum lane_end end = s->reason == SESSION_EXPIRED || s->reason == SESSION_REVOKED || s->reason == SESSION_UNTRUSTED ? LANE_END_CUT : LANE_END_LINK;
	struct role_msg m;
	struct llane *l;

	if (k->run.lane && k->run.lane->session == s)
		k->run = (struct run){};
	peer_session_over(k, s);
	while ((l = TAILQ_FIRST(&s->lanes)))
		llane_session_over(k, l, end, s->why);
	if (!s->rdma.lost) /* what it had sent may not have come: no end in order */
		say_goodbye(k, s);
	if (s->ca || s->purpose == FRAME_FOR_CA)
		linker_ca_session_over(k, s);
	m = session_news(k, s, is_refusal(s) ? SESSION_REFUSED : SESSION_DOWN);
	if (session_is_told(k, s))
		linker_send(k, &m, -1);
	if (s->fd >= 0) {
		(void)!linker_epoll(k, EPOLL_CTL_DEL, s->fd, 0, 0);
		shutdown(s->fd, SHUT_RDWR); /* the warden may hold the same open file for a moment */
	}
	session_give(k, s);
}

void session_reap(struct linker *k)
{
	struct session *s;

	while ((s = TAILQ_FIRST(&k->over))) {
		TAILQ_REMOVE(&k->over, s, queue);
		reap_one(k, s);
	}
	linker_ca_joiners(k);
}
