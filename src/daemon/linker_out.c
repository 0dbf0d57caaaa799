/*
 * Theory of operation: from lanes to the wire.
 *
 * What a session has to say is gathered as plaintext, up to a batch, in the order: frames of its own (control), credit, a part of a text,
 * then its lanes in turn, one frame of each, or several where there is only one (flow.h). Applications' bytes are read to where they are
 * encrypted from. The batch is encrypted, record by record, to the end of the session's chunk, and sent from there in one call.
 *
 * A session gathers nothing while a batch of ciphertext waits, or as many others of its host have a chunk as it may have (linker_source.c): what waits, waits in the applications' sockets, where it is scheduled,
 * and TCP_NOTSENT_LOWAT sees to it that little lies in the kernel's either. So a small message finds at most that, and a frame of each busy lane,
 * before it. Chunks come from a pool and go back to it as soon as they are empty, so idle sessions have none and a busy one
 * has one that is warm.
 *
 * On a byte's way before this: linker_lane.c, llane_fill(). After it: the network, and linker_in.c on the other host.
 */
#include "base/log.h"
#include "daemon/linker_int.h"

#include <sys/socket.h>

enum {
	/* A turn of one session: some 100 us, then others have theirs, and lanes that have had something to say since join in. */
	BATCHES_PER_TURN = 2,
	/* What TLS adds to each record: header, type, tag; and to a batch: a key update. */
	RECORD_OVERHEAD = 5 + 1 + 16,
	CONTROL_SIZE_MIN = 1024,
	CONTROL_SIZE_KEPT = 4096, /* while it is empty */
};

bool session_lend_chunk(struct linker *k, struct session *s)
{
	if (!s->chunk) {
		s->chunk = chunk_take(k);
		if (!s->chunk)
			return false;
		s->chunk_off = s->chunk_size = 0;
		source_counts_chunk(k, s, 1);
	}
	if (s->chunk_off > 0 && s->chunk_size - s->chunk_off <= LINKER_BATCH_SIZE && s->chunk_size > LINKER_CHUNK_SIZE / 2) {
		memmove(s->chunk->bytes, s->chunk->bytes + s->chunk_off, s->chunk_size - s->chunk_off);
		s->chunk_size -= s->chunk_off;
		s->chunk_off = 0;
	}
	s->tls.out = s->chunk->bytes;
	s->tls.out_size = s->chunk_size;
	s->tls.out_cap = LINKER_CHUNK_SIZE;
	return true;
}

void session_drop_chunk(struct linker *k, struct session *s)
{
	if (!s->chunk)
		return;
	chunk_give(k, s->chunk);
	s->chunk = NULL;
	s->chunk_off = s->chunk_size = 0;
	source_counts_chunk(k, s, -1);
}

void session_drop_control(struct linker *k, struct session *s)
{
	if (!s->control)
		return;
	free(s->control);
	s->control = NULL;
	s->control_off = s->control_size = 0;
	source_counts_answers(k, s, 0);
}

/* What was gathered makes room: a peer may always leave something, and control would grow with all that was ever said. */
static void control_pack(struct session *s)
{
	if (s->control_off < s->control_cap / 2 || s->control_off == 0)
		return;
	memmove(s->control, s->control + s->control_off, s->control_size - s->control_off);
	s->control_size -= s->control_off;
	s->control_off = 0;
}

uint8_t *session_control(struct linker *k, struct session *s, size_t size)
{
	size_t cap = s->control_cap ? s->control_cap : CONTROL_SIZE_MIN;
	uint8_t *grown;

	if (s->phase == PHASE_OVER)
		return NULL;
	if (cap - s->control_size < size)
		control_pack(s);
	while (cap - s->control_size < size)
		cap *= 2;
	if (cap != s->control_cap) {
		grown = realloc(s->control, cap);
		if (!grown) {
			session_over(k, s, SESSION_LOST, "out of memory");
			return NULL;
		}
		s->control = grown;
		source_counts_answers(k, s, cap);
	}
	return s->control + s->control_size;
}

void session_control_done(struct linker *k, struct session *s, size_t size)
{
	s->control_size += size;
	session_dirty(k, s);
}

/* Gathering: each returns how many bytes it put at @to, at most @room. */

static size_t gather_control(struct linker *k, struct session *s, uint8_t *to, size_t room)
{
	size_t n = s->control_size - s->control_off;

	if (n > room)
		n = room;
	if (n == 0)
		return 0; /* it may have no memory at all */
	memcpy(to, s->control + s->control_off, n);
	s->control_off += n;
	if (s->control_off < s->control_size)
		return n;
	s->control_off = s->control_size = 0;
	if (s->control_cap > CONTROL_SIZE_KEPT)
		session_drop_control(k, s);
	return n;
}

static size_t gather_credits(struct session *s, uint8_t *to, size_t room)
{
	struct llane *l;
	size_t at = 0;

	while ((l = TAILQ_FIRST(&s->credits)) && room - at >= FRAME_CREDIT_SIZE) {
		TAILQ_REMOVE(&s->credits, l, credits);
		l->in_credits = false;
		at += frame_put_credit(to + at, l->number, flow_give(&l->flow));
	}
	return at;
}

static size_t gather_text(struct session *s, uint8_t *to, size_t room)
{
	size_t left, n;
	bool more;

	if (!s->blob || room < FRAME_SIZE_MAX)
		return 0;
	left = s->blob->size - s->blob_off;
	n = left < FRAME_PAYLOAD_MAX ? left : FRAME_PAYLOAD_MAX;
	more = n < left;
	frame_put_header(to, 0, s->blob_type, more ? FRAME_MORE : 0, n);
	memcpy(to + FRAME_HEADER_SIZE, s->blob->bytes + s->blob_off, n);
	s->blob_off += n;
	if (!more) {
		blob_unref(s->blob);
		s->blob = s->next_blob;
		s->next_blob = NULL;
		s->blob_off = 0;
	}
	return FRAME_HEADER_SIZE + n;
}

static size_t gather_lanes(struct linker *k, struct session *s, uint8_t *to, size_t room)
{
	size_t at = 0;
	struct llane *l;

	while ((l = TAILQ_FIRST(&s->ready)) && room - at >= FRAME_SIZE_MAX) {
		uint32_t cid = llane_cid(k, l);
		size_t n_frames = TAILQ_NEXT(l, queue) ? 1 : (room - at) / FRAME_SIZE_MAX;

		TAILQ_REMOVE(&s->ready, l, queue);
		l->in_ready = false;
		at += llane_fill(k, l, to + at, n_frames);
		l = llane_find(k, cid); /* its end may have come */
		if (l)
			llane_offer(k, l);
	}
	return at;
}

/* The last frame on TLS, when all of the session's own that was said before has its place. */
static size_t gather_switch(struct linker *k, struct session *s, uint8_t *to, size_t room)
{
	if (!rdma_switch_is_due(s) || s->control_size > s->control_off || room < FRAME_RDMA_SIZE_MAX)
		return 0;
	rdma_switched(k, s);
	return frame_put_rdma_switch(to);
}

/* Into out_plain, at most @room bytes. */
static size_t session_gather(struct linker *k, struct session *s, size_t room)
{
	size_t at = gather_control(k, s, k->out_plain, room), n = gather_switch(k, s, k->out_plain + at, room - at);

	if (n > 0)
		return at + n;
	at += gather_credits(s, k->out_plain + at, room - at);
	at += gather_text(s, k->out_plain + at, room - at);
	return at + gather_lanes(k, s, k->out_plain + at, room - at);
}

/* Sending. */

void session_flush(struct linker *k, struct session *s)
{
	while (s->writable && s->chunk && s->chunk_off < s->chunk_size) {
		ssize_t n = send(s->fd, s->chunk->bytes + s->chunk_off, s->chunk_size - s->chunk_off, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno != EAGAIN && errno != EINTR) {
			session_over(k, s, errno == ETIMEDOUT ? SESSION_TIMEOUT : SESSION_LOST, log_errno_name(errno));
			return;
		}
		s->n_writes++;
		if (n < 0) {
			s->writable = errno == EINTR;
			continue;
		}
		s->chunk_off += (size_t)n;
		s->bytes_out += (uint64_t)n;
		if (s->chunk_off < s->chunk_size)
			s->writable = false; /* the kernel took what it wants; it tells when it wants more */
	}
	if (s->chunk && s->chunk_off == s->chunk_size)
		session_drop_chunk(k, s);
}

static bool session_encrypt(struct linker *k, struct session *s, size_t size)
{
	static_assert((int)LINKER_CHUNK_SIZE - 2 * (int)LINKER_BATCH_SIZE > (int)(2 * LINKER_RECORDS) * (int)RECORD_OVERHEAD, "a batch always fits");

	if (!session_lend_chunk(k, s)) {
		session_over(k, s, SESSION_LOST, "out of memory");
		return false;
	}
	s->chunk_granted = true;
	if (tls_write(&s->tls, k->out_plain, size) < 0) {
		session_over(k, s, s->tls.reason, s->tls.why);
		return false;
	}
	s->chunk_size = s->tls.out_size;
	return true;
}

/* The same by the ring: a record at a time, each batch handed over at once. */
static bool pump_ring(struct linker *k, struct session *s)
{
	size_t sent = 0, batch = 0, n;
	int r;

	while (s->phase == PHASE_UP && sent < BATCHES_PER_TURN * LINKER_BATCH_SIZE && rdma_has_room(k, s)) {
		n = session_gather(k, s, RDMA_RECORD_SIZE);
		if (n == 0 || s->phase == PHASE_OVER)
			break;
		r = rdma_send(s, k->out_plain, (uint32_t)n);
		if (r < 0) {
			(void)rdma_failed(k, s, r);
			return false;
		}
		s->bytes_out += n;
		s->rdma_out += n;
		sent += n;
		batch += n;
		if (batch < LINKER_BATCH_SIZE)
			continue;
		rdma_flush(k, s);
		batch = 0;
	}
	if (s->phase == PHASE_UP)
		rdma_flush(k, s); /* also room that the peer is to hear of */
	s->n_writes += sent > 0;
	return s->phase == PHASE_UP && sent >= BATCHES_PER_TURN * LINKER_BATCH_SIZE;
}

bool session_pump(struct linker *k, struct session *s)
{
	session_flush(k, s);
	for (unsigned i = 0; s->phase == PHASE_GREETED || s->phase == PHASE_UP; i++) {
		size_t n;

		if (s->rdma.switched_out) {
			source_skips(k, s);
			return pump_ring(k, s);
		}
		if (s->chunk && s->chunk_size - s->chunk_off >= LINKER_BATCH_SIZE)
			return false; /* EPOLLOUT goes on */
		if (i == BATCHES_PER_TURN)
			return true;
		if (!source_grants_chunk(k, s))
			return false;
		n = session_gather(k, s, LINKER_BATCH_SIZE);
		if (n == 0)
			source_skips(k, s);
		if (n == 0 || s->phase == PHASE_OVER || !session_encrypt(k, s, n))
			return false;
		session_flush(k, s);
	}
	return false;
}
