/*
 * Theory of operation: from the wire to lanes.
 *
 * A receive takes up to a batch of ciphertext, TLS turns it into plaintext record by record, and the frames in it are looked at when all
 * of it is decrypted, or the room for it is used up; so what belongs to one lane can be written to it in one call. A frame whose rest is still to
 * come is put by (session.partial) until the next record. Ciphertext is always used up: libssl itself keeps a record that is not whole.
 *
 * Nothing here stops a peer but what it was granted: DATA by credit, frames of the session by LINKER_CONTROL_SIZE_MAX, and those of all of a host's sessions by
 * source_is_heard(): a peer that makes us answer and does not read the answers is not read from either. Whatever no table allows ends the session (reason protocol).
 *
 * On a byte's way before this: the network. After it: linker_lane.c.
 */
#include "base/log.h"
#include "daemon/linker_int.h"

#include <sys/socket.h>

enum {
	/* A turn of one session: some 100 us, then others have theirs, and new events are looked at. */
	RECEIVES_PER_TURN = 2,
	/* Messages to the broker that may wait before peers are no longer read from. */
	CHAN_QUEUE_HIGH = 1024,
	PLAIN_SIZE = LINKER_BATCH_SIZE + FRAME_SIZE_MAX,
	/* What may lie in a ring when its session ends, and as much again of who does not stop. */
	RING_DRAIN_SIZE = 2 << 20,
};

static void on_ping(struct linker *k, struct session *s, uint64_t value)
{
	uint8_t *to = session_control(k, s, FRAME_PING_SIZE);

	if (to)
		session_control_done(k, s, frame_put_ping(to, FRAME_PONG, value));
}

static int on_hello(struct linker *k, struct session *s, const struct frame *f)
{
	if (s->phase != PHASE_GREETED)
		return session_over(k, s, SESSION_PROTOCOL, "HELLO for the second time");
	session_greeted(k, s, f->u.hello.window);
	rdma_greeted(k, s, f->u.hello.has);
	return 0;
}

static int session_on_frame(struct linker *k, struct session *s, const struct frame *f)
{
	switch ((enum frame_type)f->type) {
	case FRAME_HELLO:
		return on_hello(k, s, f);
	case FRAME_OPEN:
		return llane_on_open(k, s, f);
	case FRAME_DATA:
		return llane_on_data(k, s, f);
	case FRAME_PROOF:
		return session_on_proof(k, s, f);
	case FRAME_PING:
		on_ping(k, s, f->u.ping);
		return 0;
	case FRAME_PONG:
		session_on_pong(k, s, f->u.ping);
		return 0;
	case FRAME_RDMA:
		return rdma_on_frame(k, s, f);
	case FRAME_GOAWAY:
		s->goaway_received = true;
		peer_detach(s);
		return 0;
	case FRAME_ANNOUNCE:
	case FRAME_CA_ASK:
	case FRAME_CA_ANSWER:
		return linker_ca_on_text(k, s, f);
	default:
		return llane_on_frame(k, s, f);
	}
}

static int after_switch(struct linker *k, struct session *s)
{
	return session_over(k, s, SESSION_PROTOCOL, "more on TLS after RDMA SWITCH");
}

/* Return: how many of the bytes were whole frames; -EPROTO: the session is over. */
static ssize_t session_frames(struct linker *k, struct session *s, const uint8_t *bytes, size_t size)
{
	size_t at = 0;
	const char *why;
	struct frame f;
	int r = 0;

	while (r == 0 && at < size) {
		ssize_t n = frame_parse(&f, bytes + at, size - at, !s->is_client, s->purpose, &why);

		if (n == 0)
			break;
		if (n < 0)
			r = session_over(k, s, SESSION_PROTOCOL, why);
		else if (s->phase != PHASE_UP && f.type != FRAME_HELLO)
			r = session_over(k, s, SESSION_PROTOCOL, "something else before HELLO");
		if (r < 0)
			break;
		at += (size_t)n;
		if (f.type != FRAME_DATA)
			llane_deliver(k);
		r = session_on_frame(k, s, &f);
		if (s->phase == PHASE_OVER)
			r = -EPROTO;
		else if (f.type == FRAME_RDMA && s->rdma.switched_in && at < size)
			r = after_switch(k, s);
	}
	llane_deliver(k);
	return r < 0 ? r : (ssize_t)at;
}

/* Return: bytes that are left at the start of in_plain; -EPROTO. */
static ssize_t use_plain(struct linker *k, struct session *s, size_t size)
{
	ssize_t n = session_frames(k, s, k->in_plain, size);

	if (n < 0)
		return n;
	memmove(k->in_plain, k->in_plain + n, size - (size_t)n);
	return (ssize_t)(size - (size_t)n);
}

static int put_by(struct linker *k, struct session *s, size_t size)
{
	s->partial_size = size;
	if (size == 0)
		return 0;
	if (!s->partial)
		s->partial = malloc(FRAME_SIZE_MAX);
	if (!s->partial)
		return session_over(k, s, SESSION_LOST, "out of memory");
	memcpy(s->partial, k->in_plain, size);
	return 0;
}

/* What tls_read() said when it gave no more. */
static int read_ended(struct linker *k, struct session *s, ssize_t n)
{
	if (n == 0)
		return 0;
	rdma_drain(k, s);
	if (n == -EPIPE)
		return s->phase == PHASE_UP ? session_over(k, s, SESSION_OK, "the other side closed the session")
					    : session_over(k, s, SESSION_LOST, "the other side ended the session at once; its log says why (link.refuse)");
	return session_over(k, s, s->tls.reason, s->tls.why);
}

/* The peer's frames come by its ring: TLS has its own to say, and nothing else. */
static int session_decrypt_rest(struct linker *k, struct session *s)
{
	ssize_t n = tls_read(&s->tls, k->in_plain, PLAIN_SIZE);

	return n > 0 ? after_switch(k, s) : read_ended(k, s, n);
}

/* All plaintext that the ciphertext in tls.in makes. Return: 0; -EPROTO: the session is over. */
static int session_decrypt(struct linker *k, struct session *s)
{
	ssize_t fill = (ssize_t)s->partial_size, n;

	if (s->rdma.switched_in)
		return session_decrypt_rest(k, s);
	if (fill > 0)
		memcpy(k->in_plain, s->partial, (size_t)fill);
	for (;;) {
		n = tls_read(&s->tls, k->in_plain + fill, PLAIN_SIZE - (size_t)fill);
		if (n <= 0)
			break;
		if (s->rdma.switched_in)
			return after_switch(k, s);
		fill += n;
		if (PLAIN_SIZE - (size_t)fill < FRAME_SIZE_MAX)
			fill = use_plain(k, s, (size_t)fill);
		if (fill < 0)
			return -EPROTO;
	}
	fill = use_plain(k, s, (size_t)fill);
	if (fill < 0 || put_by(k, s, (size_t)fill) < 0)
		return -EPROTO;
	return read_ended(k, s, n);
}

/* Return: 1: it is done; 0: more bytes are needed; -EPROTO: the session is over. */
static int session_handshake(struct linker *k, struct session *s)
{
	int r = 0;

	/* A client that says nothing costs no TLS of its own. */
	if (!s->tls.ssl && !s->is_client)
		r = tls_conn_server(&s->tls, k->tls);
	if (r < 0)
		return session_over(k, s, SESSION_LOST, r == -ENOKEY ? "this host has no certificate any more" : log_errno_name(r));
	r = tls_handshake(&s->tls);
	s->chunk_size = s->tls.out_size;
	if (r < 0)
		return session_over(k, s, s->tls.reason, s->tls.why);
	if (r == 1)
		session_established(k, s);
	return r;
}

static int session_feed(struct linker *k, struct session *s, size_t size)
{
	int r = 1;

	s->tls.in = k->in_cipher;
	s->tls.in_size = size;
	if (!session_lend_chunk(k, s)) /* for handshakes, alerts and key updates */
		return session_over(k, s, SESSION_LOST, "out of memory");
	if (s->phase == PHASE_HANDSHAKE)
		r = session_handshake(k, s);
	if (r == 1 && s->phase != PHASE_OVER) {
		r = session_decrypt(k, s);
		s->chunk_size = s->tls.out_size; /* also an alert */
	}
	return s->phase == PHASE_OVER ? -EPROTO : 0;
}

/* Whoever said GOAWAY and then goes has stopped in order; what lanes it still had are reset all the same. */
static void receive_failed(struct linker *k, struct session *s, ssize_t n)
{
	int error = n < 0 ? errno : 0;

	if (error == EAGAIN || error == EINTR) {
		s->readable = error == EINTR;
		return;
	}
	rdma_drain(k, s);
	if (!s->goaway_received)
		rdma_end(k, s);
	if (s->goaway_received && (n == 0 || error == ECONNRESET))
		session_over(k, s, SESSION_OK, "the other side has stopped");
	else if (n == 0)
		session_over(k, s, SESSION_LOST, "the other side closed the connection");
	else
		session_over(k, s, error == ETIMEDOUT ? SESSION_TIMEOUT : SESSION_LOST, log_errno_name(error));
}

/* Is it not to be read from now: the broker does not keep up, or the peer does not read what it made us say? */
static bool is_held_up(struct linker *k, const struct session *s)
{
	if (k->broker.n_queued > CHAN_QUEUE_HIGH)
		k->stalled = true;
	return k->broker.n_queued > CHAN_QUEUE_HIGH || s->control_size - s->control_off > LINKER_CONTROL_SIZE_MAX || !source_is_heard(s);
}

void session_receive(struct linker *k, struct session *s)
{
	for (unsigned i = 0; i < RECEIVES_PER_TURN && s->readable; i++) {
		ssize_t n;

		if (is_held_up(k, s))
			return;
		n = recv(s->fd, k->in_cipher, LINKER_BATCH_SIZE, MSG_DONTWAIT);
		s->n_reads++;
		if (n <= 0) {
			receive_failed(k, s, n);
			return;
		}
		s->bytes_in += (uint64_t)n;
		s->heard_ns = k->now_ns;
		s->ping_ns = 0;
		if (n < LINKER_BATCH_SIZE && !s->closing)
			s->readable = false;
		if (session_feed(k, s, (size_t)n) < 0)
			return;
	}
}

static void heard_by_ring(struct linker *k, struct session *s, uint32_t size)
{
	s->bytes_in += size;
	s->rdma_in += size;
	s->heard_ns = k->now_ns;
	s->ping_ns = 0;
}

void session_receive_ring(struct linker *k, struct session *s, bool all)
{
	ssize_t fill = (ssize_t)s->partial_size;
	size_t left = all ? RING_DRAIN_SIZE : RECEIVES_PER_TURN * LINKER_BATCH_SIZE;
	uint32_t size = 0;
	int r = 0;

	if (fill > 0)
		memcpy(k->in_plain, s->partial, (size_t)fill);
	while (left > 0 && (all || !is_held_up(k, s))) {
		r = rdma_receive(s, k->in_plain + fill, &size);
		if (r != 0)
			break;
		heard_by_ring(k, s, size);
		left -= size < left ? size : left;
		fill += size;
		if (PLAIN_SIZE - fill < RDMA_RECORD_SIZE)
			fill = use_plain(k, s, (size_t)fill);
		if (fill < 0)
			return;
	}
	fill = use_plain(k, s, (size_t)fill);
	if (fill < 0 || put_by(k, s, (size_t)fill) < 0)
		return;
	if (r < 0)
		(void)rdma_failed(k, s, r);
	else
		rdma_flush(k, s); /* it hears of the room */
}
