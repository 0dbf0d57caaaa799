/*
 * Theory of operation: one lane, between an application and a session. What is different for an application behind a socket and one that
 * has the library is in linker_socket.c and linker_ring.c (struct app_ops).
 *
 * From the application: linker_out.c asks in turns (llane_fill()), as long as there is something to read, credit and tokens. Bytes are put straight
 * behind frame headers, several frames at a time.
 *
 * To the application: DATA that follow each other in one batch for one lane are a run, given in one call (llane_deliver()). What does
 * not fit is kept, at most a window, which credit sees to: so a slow reader stops its own lane and no other. Credit is owed for
 * what the application took, not for what came.
 *
 * Ends, as two applications on one host would see them:
 *   the application's end of stream    FIN; its bytes went before
 *   FIN                                what is kept is given, then the application learns that there is no more
 *   nothing can reach the application  what comes is dropped, what it sent before is still carried; then RESET peer, so that the far side's
 *                                      application is told as well
 *   RESET after FIN                    what is kept is still given (DRAINING): it was all committed before the other side went
 *   RESET without FIN                  the application's socket, or bell, is closed at once
 *
 * A lane ends exactly once for the broker: LB_FAILED (ours, not opened), LB_GONE (a peer's, not answered), else LB_CLOSED.
 */
#include "daemon/linker_int.h"

#include "base/log.h"

#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>

/* A library that was asked whether it takes a lane. The other host gives up after 4 s (broker_carry.c), and is to hear why before that. */
#define JOIN_NS (3000 * MS_NS)
/* For the porter to pass it on to the library, on a busy machine. */
#define LINGER_NS (1000 * MS_NS)
#define FAULT_WARN_NS (1000 * MS_NS)

/* Which side of the lane is the application here, and which is the far one. */

enum lane_end llane_here(const struct llane *l)
{
	return l->outbound ? LANE_END_CLIENT : LANE_END_SERVER;
}

static enum lane_end end_there(const struct llane *l)
{
	return l->outbound ? LANE_END_SERVER : LANE_END_CLIENT;
}

void llane_blame(struct llane *l, enum lane_end end, int error)
{
	if (l->end != LANE_END_EOF)
		return;
	l->end = end;
	l->error = error;
}

struct role_stats llane_stats(const struct llane *l)
{
	struct role_stats s = { .lane_id = l->id, .end = l->end, .error = l->error };

	s.bytes_up = l->outbound ? l->bytes_out : l->bytes_in;
	s.reads_up = l->outbound ? l->reads_out : l->reads_in;
	s.bytes_down = l->outbound ? l->bytes_in : l->bytes_out;
	s.reads_down = l->outbound ? l->reads_in : l->reads_out;
	return s;
}

/* Queues and epoll. */

static void lane_dequeue(struct linker *k, struct llane *l)
{
	if (l->in_ready)
		TAILQ_REMOVE(&l->session->ready, l, queue);
	if (l->in_paused)
		TAILQ_REMOVE(&k->paused, l, queue);
	l->in_ready = l->in_paused = false;
}

/*
 * Not a byte for a host that has not proven to be the one for it. And none for a session that may be dead without anybody knowing: until it has
 * answered OPEN the client can still be tried at another host (llane_recall()). Of a library's none at all: it has no answer yet.
 */
static bool lane_may_send_ahead(const struct linker *k, const struct llane *l)
{
	return l->kind == LINK_SOCKET && session_has_proof(l->session, l->destination) && k->now_ns - l->session->heard_ns < QUIET_NS;
}

void llane_offer(struct linker *k, struct llane *l)
{
	if (l->in_ready || l->in_paused || !l->ready || l->fin_sent || l->flow.send < l->wants)
		return;
	if (l->state != LANE_OPENING && l->state != LANE_OPEN)
		return;
	if (l->state == LANE_OPENING && !lane_may_send_ahead(k, l))
		return;
	l->in_ready = true;
	TAILQ_INSERT_TAIL(&l->session->ready, l, queue);
	session_dirty(k, l->session);
}

static void lane_pause(struct linker *k, struct llane *l)
{
	lane_dequeue(k, l);
	l->due_ns = k->now_ns + bucket_wait_ns(&l->bucket, k->now_ns);
	if (TAILQ_EMPTY(&k->paused) || l->due_ns < k->paused_due_ns)
		k->paused_due_ns = l->due_ns;
	l->in_paused = true;
	TAILQ_INSERT_TAIL(&k->paused, l, queue);
}

int llane_watch(struct linker *k, struct llane *l)
{
	return l->kind == LINK_SOCKET ? socket_watch(k, l) : ring_watch_lent(k, l);
}

static void lane_owe(struct linker *k, struct llane *l, size_t n)
{
	if (!flow_taken(&l->flow, (uint32_t)n) || l->in_credits || l->fin_received || !l->session)
		return;
	l->in_credits = true;
	TAILQ_INSERT_TAIL(&l->session->credits, l, credits);
	session_dirty(k, l->session);
}

/* Ends. */

static void lane_leave_session(struct linker *k, struct llane *l)
{
	struct session *s = l->session;

	lane_dequeue(k, l);
	if (!s)
		return;
	if (l->in_credits)
		TAILQ_REMOVE(&s->credits, l, credits);
	l->in_credits = false;
	if (l->in_joining)
		TAILQ_REMOVE(&k->joining, l, queue);
	l->in_joining = false;
	llane_unset_number(k, l);
	TAILQ_REMOVE(&s->lanes, l, of_session);
	l->session = NULL;
	session_lane_gone(k, s);
}

static void lane_tell_far(struct linker *k, struct llane *l, enum link_code far)
{
	const char *why = l->state == LANE_JOINING && far == LINK_DOWN ? "its program has not taken the lane (sealane_accept())" : "";
	struct session *s = l->session;
	uint8_t *to;

	if (far == LINK_CODE_NONE || !s || l->number == 0 || s->phase == PHASE_OVER)
		return;
	to = session_control(k, s, FRAME_REFUSED_SIZE_MAX);
	if (to && (l->state == LANE_ASKED || l->state == LANE_JOINING))
		session_control_done(k, s, frame_put_refused(to, l->number, far, why));
	else if (to)
		session_control_done(k, s, frame_put_code(to, l->number, far));
}

static void lane_free(struct linker *k, struct llane *l)
{
	if (k->run.lane == l)
		k->run = (struct run){};
	if (l->in_lingering)
		TAILQ_REMOVE(&k->lingering, l, queue);
	lane_leave_session(k, l);
	if (l->fd >= 0) {
		/* Others may still hold the same open file; neither epoll nor the application may wait for them. */
		(void)!linker_epoll(k, EPOLL_CTL_DEL, l->fd, 0, 0);
		shutdown(l->fd, SHUT_RDWR);
	}
	llane_give(k, l);
}

static void lane_fail(struct linker *k, struct llane *l, struct role_link_failed f, const char *why, bool hand_back)
{
	struct role_msg m = { .type = LB_FAILED, .u.link_failed = f };
	bool whole = hand_back && l->fd >= 0 && l->bytes_out == 0;

	m.u.link_failed.lane_id = l->id;
	snprintf(m.u.link_failed.why, sizeof(m.u.link_failed.why), "%s", why);
	linker_send(k, &m, whole ? l->fd : -1);
	if (whole) {
		(void)!linker_epoll(k, EPOLL_CTL_DEL, l->fd, 0, 0);
		close(take_fd(&l->fd));
	}
	lane_free(k, l);
}

void llane_fail(struct linker *k, struct llane *l, enum link_code code, const char *why, bool hand_back)
{
	lane_fail(k, l, (struct role_link_failed){ .code = code }, why, hand_back);
}

static bool lingering_event(struct linker *k, struct llane *l, uint32_t events)
{
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		lane_free(k, l);
	return false;
}

static const struct app_ops app_lingering = { .event = lingering_event };

/*
 * A library cannot tell a peer that died from one that was cut off: both hang up. So when it has not all that was sent it must hear of it first, from the
 * porter; else it would look like an end of stream.
 */
static bool lane_lingers(const struct llane *l)
{
	return l->app == &app_ring && !l->closing && (l->end == LANE_END_LINK || l->end == LANE_END_CUT || l->end == LANE_END_NOMEM);
}

static void lane_linger(struct linker *k, struct llane *l)
{
	if (k->run.lane == l)
		k->run = (struct run){};
	lane_leave_session(k, l);
	llane_unset_id(k, l);
	kept_drop(k, l);
	ring_tell_why(l);
	l->state = LANE_LINGERING;
	l->app = &app_lingering;
	l->due_ns = k->now_ns + LINGER_NS;
	l->in_lingering = true;
	TAILQ_INSERT_TAIL(&k->lingering, l, queue);
	linker_wake_at(k, l->due_ns);
}

static enum link_code code_of_end(enum lane_end end)
{
	return end == LANE_END_CUT ? LINK_CUT : end == LANE_END_EOF || end == LANE_END_CLIENT ? LINK_PEER : LINK_FAILED;
}

void llane_end(struct linker *k, struct llane *l, enum lane_end end, int error, enum link_code far)
{
	struct role_msg m = { .type = LB_CLOSED };

	lane_tell_far(k, l, far);
	llane_blame(l, end, error);
	if (l->state == LANE_WAITING || l->state == LANE_OPENING) {
		llane_fail(k, l, code_of_end(l->end), lane_end_name(l->end), false);
		return;
	}
	m.u.stats = llane_stats(l);
	if (l->state == LANE_ASKED)
		m = (struct role_msg){ .type = LB_GONE, .u.id.id = llane_cid(k, l) };
	if (lane_lingers(l))
		lane_linger(k, l);
	else
		lane_free(k, l); /* before it is told: then the application sees it too */
	linker_send(k, &m, -1);
}

void llane_session_over(struct linker *k, struct llane *l, enum lane_end end, const char *why)
{
	if (l->state == LANE_WAITING || l->state == LANE_OPENING)
		llane_fail(k, l, end == LANE_END_CUT ? LINK_CUT : LINK_FAILED, why, end != LANE_END_CUT);
	else
		llane_end(k, l, end, 0, LINK_CODE_NONE);
}

/* The number is done with, the bytes are not. */
static void lane_drain(struct linker *k, struct llane *l)
{
	lane_leave_session(k, l);
	l->state = LANE_DRAINING;
	l->fin_sent = l->fin_received = true;
	l->app->deafen(l);
}

/* Its library broke the format. Told at most once a second: a container can have as many lanes that do as it likes. */
static void lane_fault(struct linker *k, struct llane *l)
{
	if (k->now_ns >= k->fault_warn_at_ns) {
		log_warn("lane.fault", LOG_ID("lane", l->id), LOG_STR("destination", l->destination), LOG_STR("side", lane_end_name(llane_here(l))),
			 LOG_STR("why", l->fault), LOG_U64("untold", k->n_faults_untold), LOG_STR("then", "the lane is ended, no other is touched"));
		k->fault_warn_at_ns = k->now_ns + FAULT_WARN_NS;
		k->n_faults_untold = 0;
	} else {
		k->n_faults_untold++;
	}
	llane_end(k, l, llane_here(l), -EPROTO, LINK_FAILED);
}

void llane_check(struct linker *k, struct llane *l)
{
	bool empty = l->kept_size == 0;

	if (l->state != LANE_OPEN && l->state != LANE_DRAINING)
		return;
	if (l->fault) {
		lane_fault(k, l);
		return;
	}
	if (l->fin_received && empty && !l->ended && !l->broken) {
		l->ended = true;
		l->app->shut(l);
	}
	if (l->fin_sent && l->fin_received && empty)
		llane_end(k, l, LANE_END_EOF, 0, LINK_CODE_NONE);
	else if (l->fin_sent && l->broken && !l->fin_received)
		llane_end(k, l, LANE_END_EOF, 0, LINK_PEER);
	else if (l->fin_sent && l->fin_received && l->state == LANE_OPEN)
		lane_drain(k, l);
}

void llane_break(struct linker *k, struct llane *l, int error)
{
	if (l->broken)
		return;
	l->broken = true;
	l->blocked = false;
	if (l->kept_size > 0) {
		llane_blame(l, llane_here(l), error);
		lane_owe(k, l, l->kept_size);
	}
	kept_drop(k, l);
}

/* To the application. */

/* How much may go now, either way; 0: no token is there, and the lane is paused. */
static size_t lane_allowance(struct linker *k, struct llane *l, size_t size)
{
	uint64_t tokens, paid;

	if (l->bucket.rate_per_s == 0)
		return size;
	tokens = bucket_available(&l->bucket, k->now_ns);
	paid = tokens < l->debt ? tokens : l->debt;
	bucket_take(&l->bucket, paid);
	l->debt -= paid;
	tokens -= paid;
	if (tokens == 0)
		lane_pause(k, l);
	else if (l->kind != LINK_SOCKET && tokens < FRAME_SIZE_MAX)
		tokens = FRAME_SIZE_MAX; /* records go whole */
	return tokens < size ? (size_t)tokens : size;
}

void llane_spend(struct linker *k, struct llane *l, size_t n)
{
	uint64_t tokens = bucket_available(&l->bucket, k->now_ns);

	if (l->bucket.rate_per_s == 0)
		return;
	bucket_take(&l->bucket, n < tokens ? n : tokens);
	l->debt += n < tokens ? 0 : n - tokens;
}

/* Return: false: the lane has ended. */
static bool lane_keep(struct linker *k, struct llane *l, const uint8_t *bytes, size_t size)
{
	if (kept_add(k, l, bytes, size))
		return true;
	llane_end(k, l, LANE_END_NOMEM, -ENOMEM, LINK_FAILED);
	return false;
}

static void lane_flush(struct linker *k, struct llane *l)
{
	while (l->kept_size > 0 && !l->blocked && !l->broken && !l->in_paused) {
		size_t size = lane_allowance(k, l, l->kept_size), n;
		struct iovec iov[2];

		if (size == 0)
			break;
		n = l->app->give(k, l, iov, kept_parts(l, size, iov), size);
		if (l->broken || n == 0)
			break;
		kept_took(k, l, n);
		lane_owe(k, l, n);
	}
}

/* Skip what was written. Return: the parts that are left. */
static unsigned run_skip(struct run *r, size_t n, struct iovec **ret)
{
	unsigned i = 0;

	while (i < r->n && n >= r->iov[i].iov_len)
		n -= r->iov[i++].iov_len;
	if (i < r->n) {
		r->iov[i].iov_base = (uint8_t *)r->iov[i].iov_base + n;
		r->iov[i].iov_len -= n;
	}
	*ret = &r->iov[i];
	return r->n - i;
}

void llane_deliver(struct linker *k)
{
	struct run r = k->run;
	struct llane *l = r.lane;
	struct iovec *rest;
	size_t n = 0;
	unsigned left;

	if (!l)
		return;
	k->run.lane = NULL;
	k->run.n = 0;
	k->run.size = 0;
	/* With a limit on bytes all goes through what is kept, which knows how to wait for tokens. */
	if (l->bucket.rate_per_s == 0)
		n = l->app->give(k, l, r.iov, r.n, r.size);
	lane_owe(k, l, l->broken ? r.size : n);
	left = l->broken ? 0 : run_skip(&r, n, &rest);
	if (left > 0 && !kept_reserve(k, l, r.size - n)) {
		llane_end(k, l, LANE_END_NOMEM, -ENOMEM, LINK_FAILED);
		return;
	}
	for (unsigned i = 0; i < left; i++)
		if (!lane_keep(k, l, rest[i].iov_base, rest[i].iov_len))
			return;
	lane_flush(k, l);
	l->app->arm(k, l);
	llane_check(k, l);
}

/* From the application. */

size_t llane_finish(struct linker *k, struct llane *l, uint8_t *to)
{
	uint32_t number = l->number;

	l->fin_sent = true;
	l->ready = false;
	llane_check(k, l);
	return frame_put_empty(to, number, FRAME_FIN);
}

size_t llane_fill(struct linker *k, struct llane *l, uint8_t *to, size_t n_frames)
{
	size_t max = lane_allowance(k, l, l->flow.send);

	assert(n_frames <= LINKER_RECORDS);
	return max == 0 ? 0 : l->app->take(k, l, to, n_frames, max);
}

void llane_event(struct linker *k, struct llane *l, uint32_t events)
{
	if (!l->app->event(k, l, events))
		return;
	lane_flush(k, l);
	l->app->arm(k, l);
	llane_offer(k, l);
	llane_check(k, l);
}

void llane_unpause(struct linker *k)
{
	struct llane *l, *next;

	if (TAILQ_EMPTY(&k->paused) || k->now_ns < k->paused_due_ns)
		return;
	k->paused_due_ns = UINT64_MAX;
	for (l = TAILQ_FIRST(&k->paused); l; l = next) {
		next = TAILQ_NEXT(l, queue);
		if (l->due_ns <= k->now_ns) {
			lane_dequeue(k, l);
			llane_event(k, l, 0);
		} else if (l->due_ns < k->paused_due_ns) {
			k->paused_due_ns = l->due_ns;
		}
	}
}

/* What a peer says. */

void llane_open(struct linker *k, struct llane *l)
{
	struct session *s = l->session;
	uint8_t *to = session_control(k, s, FRAME_OPEN_SIZE_MAX);

	if (!to)
		return;
	l->state = LANE_OPENING;
	llane_set_number(k, l, ++s->last_number);
	flow_init(&l->flow, s->peer_window, k->trust.window);
	session_control_done(k, s, frame_put_open(to, l->number, l->kind, l->destination));
	l->ready = true;
	llane_offer(k, l);
}

static void open_refuse(struct linker *k, struct session *s, uint32_t number, enum link_code code, const char *why)
{
	uint8_t *to = session_control(k, s, FRAME_REFUSED_SIZE_MAX);

	s->n_refused++;
	if (to)
		session_control_done(k, s, frame_put_refused(to, number, code, why));
}

static uint64_t link_id(const struct session *s, uint32_t number)
{
	return s->tag ? (uint64_t)s->tag << 32 | number : 0;
}

int llane_on_open(struct linker *k, struct session *s, const struct frame *f)
{
	struct role_msg m = { .type = LB_ASK };
	struct llane *l;

	if (f->lane <= s->last_number)
		return session_over(k, s, SESSION_PROTOCOL, "OPEN of a lane number that was used before");
	s->last_number = f->lane;
	if (k->draining) { /* else it may have crossed our GOAWAY */
		open_refuse(k, s, f->lane, LINK_DRAINING, "this host takes no new lanes");
		return 0;
	}
	l = llane_take(k, LANE_ASKED);
	if (!l) {
		open_refuse(k, s, f->lane, LINK_LIMIT, "this host carries as many lanes as it can");
		return 0;
	}
	l->session = s;
	l->kind = f->u.open.kind;
	TAILQ_INSERT_TAIL(&s->lanes, l, of_session);
	s->n_lanes++;
	llane_set_number(k, l, f->lane);
	flow_init(&l->flow, s->peer_window, k->trust.window);
	memcpy(l->destination, f->u.open.destination, sizeof(l->destination));
	m.u.link_ask.ask = llane_cid(k, l);
	m.u.link_ask.kind = l->kind;
	memcpy(m.u.link_ask.source, s->tls.peer.spiffe_id, sizeof(m.u.link_ask.source));
	memcpy(m.u.link_ask.destination, l->destination, sizeof(m.u.link_ask.destination));
	memcpy(m.u.link_ask.peer, s->address, sizeof(m.u.link_ask.peer));
	snprintf(m.u.link_ask.serial, sizeof(m.u.link_ask.serial), "%s", s->tls.peer.serial);
	m.u.link_ask.link_id = link_id(s, l->number);
	linker_send(k, &m, -1);
	return 0;
}

/* The far host has said yes: now the library's offer is read. */
static bool library_joins(struct linker *k, struct llane *l)
{
	int r = ring_accept(k, l);
	bool left = r == -EPIPE || r == -ECONNRESET;
	char why[128];

	if (r == 0)
		return true;
	snprintf(why, sizeof(why), "%s: %s", left ? "the client left" : "the memory of its lane could not be had", log_errno_name(r));
	lane_tell_far(k, l, left ? LINK_PEER : LINK_FAILED);
	llane_fail(k, l, left ? LINK_PEER : r == -EDQUOT ? LINK_LIMIT : LINK_FAILED, why, false);
	return false;
}

static int on_opened(struct linker *k, struct session *s, struct llane *l)
{
	struct role_msg m = { .type = LB_OPENED, .u.lane_ref = { .lane_id = l->id, .link_id = link_id(s, l->number) } };

	if (l->state != LANE_OPENING)
		return session_over(k, s, SESSION_PROTOCOL, "OPENED for a lane that was open");
	if (!session_has_proof(s, l->destination))
		return session_lacks_proof(k, s, l);
	if (l->kind != LINK_SOCKET && !library_joins(k, l))
		return 0;
	l->state = LANE_OPEN;
	s->n_opened++;
	linker_send(k, &m, -1);
	llane_offer(k, l);
	llane_check(k, l);
	return 0;
}

static int on_refused(struct linker *k, struct session *s, struct llane *l, const struct frame *f)
{
	if (l->state != LANE_OPENING)
		return session_over(k, s, SESSION_PROTOCOL, "REFUSED for a lane that was open");
	s->n_refused++;
	llane_fail(k, l, f->u.refused.code, f->u.refused.why, true);
	return 0;
}

static int on_fin(struct linker *k, struct session *s, struct llane *l)
{
	if (l->fin_received)
		return session_over(k, s, SESSION_PROTOCOL, "FIN for the second time");
	l->fin_received = true;
	llane_check(k, l);
	return 0;
}

static void on_reset(struct linker *k, struct llane *l, enum link_code code)
{
	enum lane_end end = code == LINK_CUT ? LANE_END_CUT : code == LINK_PEER ? end_there(l) : LANE_END_LINK;

	if (l->state == LANE_OPEN && l->fin_received && code == LINK_PEER) {
		l->fin_sent = true;
		llane_check(k, l);
		return;
	}
	llane_end(k, l, end, -ECONNRESET, LINK_CODE_NONE);
}

/* Return: the lane; NULL: it is done with, *ret is 0; or the number was never in use, *ret is -EPROTO. */
static struct llane *lane_meant(struct linker *k, struct session *s, const struct frame *f, int *ret)
{
	struct llane *l = llane_by_number(k, s, f->lane);

	*ret = 0;
	if (!l && f->lane > s->last_number)
		*ret = session_over(k, s, SESSION_PROTOCOL, "a frame for a lane that was never opened");
	return l;
}

/* Return: why it may not be; NULL: it may. */
static const char *data_fault(const struct llane *l, const struct frame *f)
{
	bool early = l->state == LANE_OPENING || (l->kind != LINK_SOCKET && l->state != LANE_OPEN);

	if (early || l->fin_received)
		return "DATA where it may not be";
	if (l->kind != LINK_MESSAGES && (f->flags != 0 || f->size == 0))
		return "DATA of messages on a lane of bytes";
	if (l->in_message && frame_tag(f->flags) != l->message_tag)
		return "DATA of another message before the one before it has ended";
	return NULL;
}

/* What of a frame is the application's: of a library's all of it. */
static struct iovec data_part(const struct llane *l, const struct frame *f)
{
	size_t head = l->kind == LINK_SOCKET ? 0 : FRAME_HEADER_SIZE;

	return (struct iovec){ (uint8_t *)(uintptr_t)f->payload - head, head + f->size };
}

static void run_add(struct run *run, struct llane *l, struct iovec part)
{
	struct iovec *last = run->n ? &run->iov[run->n - 1] : NULL;

	run->lane = l;
	run->size += part.iov_len;
	if (last && (uint8_t *)last->iov_base + last->iov_len == part.iov_base)
		last->iov_len += part.iov_len;
	else
		run->iov[run->n++] = part;
}

int llane_on_data(struct linker *k, struct session *s, const struct frame *f)
{
	const struct run *run = &k->run;
	struct iovec part;
	const char *why;
	struct llane *l;
	int r;

	if (run->lane && (run->n == RUN_MAX || run->lane->session != s || run->lane->number != f->lane))
		llane_deliver(k); /* which may end a lane, this one as well */
	l = lane_meant(k, s, f, &r);
	if (!l)
		return r;
	why = data_fault(l, f);
	if (why)
		return session_over(k, s, SESSION_PROTOCOL, why);
	part = data_part(l, f);
	if (flow_received(&l->flow, (uint32_t)part.iov_len) < 0)
		return session_over(k, s, SESSION_PROTOCOL, "DATA beyond the credit that was given");
	l->in_message = f->flags & FRAME_MORE;
	l->message_tag = frame_tag(f->flags);
	l->bytes_in += f->size;
	l->reads_in++;
	if (l->broken)
		lane_owe(k, l, part.iov_len);
	else if (l->state == LANE_ASKED || l->kept_size > 0)
		(void)!lane_keep(k, l, part.iov_base, part.iov_len);
	else
		run_add(&k->run, l, part);
	return 0;
}

int llane_on_frame(struct linker *k, struct session *s, const struct frame *f)
{
	int r;
	struct llane *l = lane_meant(k, s, f, &r);

	if (!l)
		return r;
	if (l->state == LANE_OPENING && f->type != FRAME_OPENED && f->type != FRAME_REFUSED && f->type != FRAME_CREDIT)
		return session_over(k, s, SESSION_PROTOCOL, "a frame for a lane that was not opened yet");
	if (l->kind != LINK_SOCKET && (l->state == LANE_ASKED || l->state == LANE_JOINING) && f->type == FRAME_FIN)
		return session_over(k, s, SESSION_PROTOCOL, "FIN for a lane that was not opened yet");
	switch (f->type) {
	case FRAME_OPENED:
		return on_opened(k, s, l);
	case FRAME_REFUSED:
		return on_refused(k, s, l, f);
	case FRAME_FIN:
		return on_fin(k, s, l);
	case FRAME_RESET:
		on_reset(k, l, f->u.code);
		return 0;
	default:
		if (flow_granted(&l->flow, f->u.credit, s->peer_window) < 0)
			return session_over(k, s, SESSION_PROTOCOL, "CREDIT for more than was taken");
		llane_offer(k, l);
		return 0;
	}
}

/* What the broker says. */

static void tell_closed(struct linker *k, uint64_t id, enum lane_end end, int error)
{
	struct role_msg m = { .type = LB_CLOSED, .u.stats = { .lane_id = id, .end = end, .error = error } };

	linker_send(k, &m, -1);
}

/* The lane is the broker's from here on, so whatever fails is told by LB_CLOSED. */
static void lane_refuse(struct linker *k, struct llane *l, enum lane_end end, int error, enum link_code far)
{
	l->session->n_refused++;
	lane_tell_far(k, l, far);
	l->state = LANE_OPEN;
	llane_end(k, l, end, error, LINK_CODE_NONE);
}

/* The application is there. */
static void lane_begin(struct linker *k, struct llane *l)
{
	struct session *s = l->session;
	int r = session_show(k, s, l->kid);
	uint8_t *to;

	if (r < 0) {
		lane_refuse(k, l, LANE_END_NOMEM, r, LINK_FAILED);
		return;
	}
	l->state = LANE_OPEN;
	s->n_opened++;
	to = session_control(k, s, FRAME_HEADER_SIZE);
	if (!to)
		return;
	session_control_done(k, s, frame_put_empty(to, l->number, FRAME_OPENED));
	llane_event(k, l, 0);
}

static void lane_join(struct linker *k, struct llane *l)
{
	int r = ring_connect(k, l);

	if (r < 0) {
		lane_refuse(k, l, LANE_END_NOMEM, r, r == -EDQUOT ? LINK_LIMIT : LINK_FAILED);
		return;
	}
	l->state = LANE_JOINING;
	l->due_ns = k->now_ns + JOIN_NS;
	l->in_joining = true;
	TAILQ_INSERT_TAIL(&k->joining, l, queue);
	linker_wake_at(k, l->due_ns);
}

void llane_joined(struct linker *k, struct llane *l, int error, enum link_code far)
{
	TAILQ_REMOVE(&k->joining, l, queue);
	l->in_joining = false;
	if (error == 0)
		lane_begin(k, l);
	else
		lane_refuse(k, l, far == LINK_DOWN ? LANE_END_SERVER : LANE_END_NOMEM, error, far);
}

uint64_t llane_tick(struct linker *k)
{
	struct llane *l;
	uint64_t due;

	while ((l = TAILQ_FIRST(&k->joining)) && l->due_ns <= k->now_ns)
		llane_joined(k, l, -ETIMEDOUT, LINK_DOWN);
	due = l ? l->due_ns : UINT64_MAX;
	while ((l = TAILQ_FIRST(&k->lingering)) && l->due_ns <= k->now_ns)
		lane_free(k, l);
	return l && l->due_ns < due ? l->due_ns : due;
}

int llane_go(struct linker *k, const struct role_link_go *m, int *fd)
{
	struct llane *l = llane_find(k, m->ask);
	int r;

	if (m->lane_id == 0 || llane_by_id(k, m->lane_id))
		return -EBADMSG;
	if (!l || l->state != LANE_ASKED) {
		tell_closed(k, m->lane_id, LANE_END_CLIENT, -ECONNRESET);
		return 0;
	}
	llane_set_id(k, l, m->lane_id);
	l->fd = take_fd(fd);
	l->kid = m->kid;
	l->wid = m->wid;
	bucket_init(&l->bucket, m->bytes_per_s, 0, k->now_ns);
	r = l->fd < 0 ? -EMFILE : l->kind == LINK_SOCKET ? socket_watch(k, l) : 0;
	if (r < 0)
		lane_refuse(k, l, LANE_END_NOMEM, r, LINK_FAILED);
	else if (l->kind == LINK_SOCKET)
		lane_begin(k, l);
	else
		lane_join(k, l);
	return 0;
}

void llane_no(struct linker *k, const struct role_link_no *m)
{
	struct llane *l = llane_find(k, m->ask);

	if (!l || l->state != LANE_ASKED)
		return;
	open_refuse(k, l->session, l->number, m->code == LINK_CODE_NONE ? LINK_FAILED : m->code, m->why);
	lane_free(k, l);
}

void llane_cut(struct linker *k, uint64_t id)
{
	struct llane *l = llane_by_id(k, id);

	if (l)
		llane_end(k, l, LANE_END_CUT, 0, LINK_CUT);
}

void llane_disown(struct linker *k, struct llane *l, const char *why)
{
	if (l->state != LANE_WAITING && l->state != LANE_OPENING) {
		llane_end(k, l, LANE_END_CUT, 0, LINK_CUT);
		return;
	}
	lane_tell_far(k, l, LINK_CUT);
	lane_fail(k, l, (struct role_link_failed){ .code = LINK_DENIED, .certificate = 1 }, why, true);
}

void llane_recall(struct linker *k, uint64_t id)
{
	struct llane *l = llane_by_id(k, id);

	if (!l || (l->state != LANE_WAITING && l->state != LANE_OPENING) || l->bytes_out > 0)
		return;
	lane_tell_far(k, l, LINK_CUT);
	llane_fail(k, l, LINK_FAILED, "no answer yet", true);
}

void llane_limit(struct linker *k, const struct role_lane_ref *m)
{
	struct llane *l = llane_by_id(k, m->lane_id);

	if (!l)
		return;
	bucket_set_rate(&l->bucket, m->bytes_per_s, m->burst_bytes, k->now_ns);
	lane_dequeue(k, l);
	if (l->state == LANE_OPEN || l->state == LANE_DRAINING)
		llane_event(k, l, 0);
}
