/*
 * Theory of operation
 *
 * Two regions in the format of docs/design/ring.md lie in this process: `own`, which it writes, and `copy`, which stands for the one that the
 * peer writes, and which the peer does write, by WRITE. ring_tx and ring_rx of src/shm/ring.h work on these two as they do between two
 * containers; nothing of the format is here. What is here is how `own` gets to the peer:
 *
 *   ring_remote_send()   plaintext -> sealed straight into own's data, staged
 *   ring_remote_flush()  publish; one remote_post() of: data that is new (one piece, two where the ring begins again), descriptors that
 *                        are new (in the same way), the last with an immediate that says how many records there are now
 *   peer: IMM            so many records are whole in `copy`; ring_remote_receive() opens them into memory of the caller's
 *   peer: head_send()    half a ring, or half of the batches it may have, later: its head -> our copy's control page; immediate ROOM
 *
 * Three positions of the sender: head (what the peer has taken, as it says, checked) <= sent <= tail. Bytes before head may be
 * written anew: the peer took them, so the device has read them, whatever completions say.
 *
 * What must never happen: a byte of `copy` used twice (it is copied, then opened); a record taken that no immediate told of, unless
 * the ring polls; the peer's head believed beyond what was sent; more batches under way than the peer has receives for.
 */
#include "rdma/ring_remote.h"

#define IMM_ROOM UINT32_C(0x80000000)
#define US_NS UINT64_C(1000)

enum { PIECES_MAX = 2, HEAD_OFFSET = offsetof(struct ring_control, head) };

/* A run of bytes of own's data, by offset, that has not been sent. */
struct piece {
	uint64_t at, size;
};

struct ring_remote {
	struct remote_conn *conn;
	struct remote_region *own_region, *copy_region;
	struct remote_export *export;
	struct ring_control *own, *copy;
	struct seal_stream *tx_seal, *rx_seal; /* NULL: plain */
	uint32_t overhead; /* of a record: its tag; plain: 0 */
	struct remote_key peer; /* the peer's copy of own */
	struct ring_tx tx;
	struct ring_rx rx;
	uint32_t cap_log2;
	bool started, polls, broken;
	/* Out. */
	struct piece pieces[PIECES_MAX];
	unsigned n_pieces;
	uint64_t sent_tail, sent_index;
	uint64_t ends[LIMIT_RDMA_IMMS]; /* positions after batches that were not taken */
	uint64_t ends_first, ends_next;
	/* In. */
	uint64_t told_index;		   /* records that immediates told of */
	uint64_t batches[LIMIT_RDMA_IMMS]; /* indices after batches that came and are not taken */
	uint64_t batches_first, batches_next;
	uint64_t batches_told;	/* batches_first when the head was sent last */
	uint64_t head_sent;	/* our head, as the peer knows it */
	uint64_t unsettled_ns;	/* polling: since when the next record does not open; 0: it was not tried */
};

uint64_t ring_remote_memory_size(uint32_t cap_log2)
{
	return 2 * shm_region_size(cap_log2);
}

uint32_t ring_remote_record_max(const struct ring_remote *g)
{
	return ring_record_max(g->tx.cap) - g->overhead;
}

static int poison(struct ring_remote *g)
{
	if (!g->broken)
		remote_domain_offence(remote_conn_domain(g->conn), REMOTE_BROKEN);
	g->broken = true;
	return -EPROTO;
}

/* -- set-up */

static int register_both(struct ring_remote *g, const struct ring_remote_options *o)
{
	uint64_t size = shm_region_size(o->cap_log2);
	int r = remote_register(&g->own_region, remote_conn_domain(o->conn), g->own, size, 0);

	if (r == 0)
		r = remote_register(&g->copy_region, remote_conn_domain(o->conn), g->copy, size, REMOTE_MAY_WRITE);
	if (r == 0)
		r = remote_export(&g->export, o->conn, g->copy_region, 0, size, REMOTE_MAY_WRITE);
	return r == REMOTE_E_FULL ? -EAGAIN : r;
}

static int seals_new(struct ring_remote *g, const struct ring_remote_options *o)
{
	int r = seal_stream_new(&g->tx_seal, &o->crypto, o->secret, o->number, o->is_client ? 0 : 1, true);

	g->overhead = SEAL_TAG_SIZE;
	return r == 0 ? seal_stream_new(&g->rx_seal, &o->crypto, o->secret, o->number, o->is_client ? 1 : 0, false) : r;
}

int ring_remote_new(struct ring_remote **ret, const struct ring_remote_options *o)
{
	struct ring_remote *g;
	int r;

	if (o->cap_log2 < SHM_CAP_LOG2_MIN || o->cap_log2 > RING_REMOTE_CAP_LOG2_MAX || (o->plain && o->polls))
		return -EINVAL;
	g = calloc(1, sizeof(*g));
	if (!g)
		return -ENOMEM;
	g->conn = o->conn;
	g->polls = o->polls;
	g->cap_log2 = o->cap_log2;
	g->own = o->memory;
	g->copy = (struct ring_control *)((uint8_t *)o->memory + shm_region_size(o->cap_log2));
	ring_format(g->own, o->cap_log2, o->start);
	ring_format(g->copy, o->cap_log2, o->start);
	ring_tx_init(&g->tx, g->own, g->copy, o->cap_log2, o->start);
	ring_rx_init(&g->rx, g->own, g->copy, o->cap_log2, o->start);
	g->tx.peer_sleeps = g->rx.peer_sleeps = false; /* immediates wake, not words in a region */
	g->sent_index = g->told_index = o->start;
	r = o->plain ? 0 : seals_new(g, o);
	if (r == 0)
		r = register_both(g, o);
	if (r < 0) {
		ring_remote_free(g);
		return r;
	}
	*ret = g;
	return 0;
}

void ring_remote_free(struct ring_remote *g)
{
	int r = 0;

	if (!g)
		return;
	if (g->own_region)
		r = remote_unregister(g->own_region);
	if (r == 0 && g->copy_region)
		r = remote_unregister(g->copy_region);
	assert(r == 0); /* its connection is closed */
	seal_stream_free(g->tx_seal);
	seal_stream_free(g->rx_seal);
	free(g);
}

void ring_remote_key(const struct ring_remote *g, uint8_t *to)
{
	remote_key_put(to, remote_export_key(g->export));
}

int ring_remote_start(struct ring_remote *g, const uint8_t *key)
{
	if (remote_key_get(&g->peer, key) < 0 || g->peer.rights != REMOTE_MAY_WRITE || g->peer.size != shm_region_size(g->cap_log2))
		return -EPROTO;
	g->started = true;
	return 0;
}

/* -- out */

/* What the peer has taken, as far as it can be true. */
static int look_at_head(struct ring_remote *g)
{
	if (ring_tx_observe_head(&g->tx) < 0 || g->tx.head > g->sent_tail)
		return poison(g);
	while (g->ends_first != g->ends_next && g->ends[g->ends_first % LIMIT_RDMA_IMMS] <= g->tx.head)
		g->ends_first++;
	return 0;
}

/* The record that is about to be staged lies at tx.at, right behind the last one or at the ring's start. */
static void note_piece(struct ring_remote *g, uint32_t size)
{
	uint64_t at = g->tx.at & (g->tx.cap - 1);
	struct piece *last = g->n_pieces ? &g->pieces[g->n_pieces - 1] : NULL;

	if (last && last->at + last->size == at) {
		last->size += ring_step(size);
		return;
	}
	assert(g->n_pieces < PIECES_MAX); /* less than a whole ring can be under way */
	g->pieces[g->n_pieces++] = (struct piece){ at, ring_step(size) };
}

/* Where a record of @size bytes is to lie. */
static int reserve(struct ring_remote *g, uint32_t size, void **ret)
{
	int r;

	if (g->broken)
		return -EPROTO;
	if (size > ring_remote_record_max(g))
		return -EMSGSIZE;
	if (look_at_head(g) < 0)
		return -EPROTO;
	r = ring_tx_reserve(&g->tx, size + g->overhead, ret);
	if (r != 0)
		return r == RING_E_FULL ? r : poison(g);
	return g->tx.head > g->sent_tail ? poison(g) : 0; /* it looked again */
}

int ring_remote_has_room(struct ring_remote *g, uint32_t size)
{
	void *place;

	return reserve(g, size, &place);
}

static int send_record(struct ring_remote *g, uint8_t flags, uint8_t tag, const void *plain, uint32_t size)
{
	void *place;
	int r = reserve(g, size, &place);

	if (r != 0)
		return r;
	if (g->tx_seal)
		r = seal_record(g->tx_seal, g->tx.at, (uint16_t)(flags | tag << 8), plain, size, place);
	else if (size > 0)
		memcpy(place, plain, size);
	if (r < 0)
		return r;
	note_piece(g, size + g->overhead);
	ring_tx_stage(&g->tx, size + g->overhead, flags, tag);
	return 0;
}

int ring_remote_send(struct ring_remote *g, uint8_t flags, uint8_t tag, const void *plain, uint32_t size)
{
	if ((flags & ~(unsigned)RING_MORE) || tag == RING_REMOTE_TAG_FIN)
		return -EINVAL;
	return send_record(g, flags, tag, plain, size);
}

int ring_remote_send_fin(struct ring_remote *g)
{
	return send_record(g, 0, RING_REMOTE_TAG_FIN, NULL, 0);
}

/* A WRITE of @size bytes at @at of own to the same place in the peer's copy. */
static struct remote_op write_op(const struct ring_remote *g, uint64_t at, uint64_t size)
{
	return (struct remote_op){
		.kind = REMOTE_WRITE,
		.region = g->own_region,
		.at = at,
		.size = (uint32_t)size,
		.key = g->peer,
		.offset = at,
	};
}

static void tell_with(struct ring_remote *g, struct remote_op *op, uint32_t imm)
{
	if (g->polls)
		return;
	op->kind = REMOTE_WRITE_IMM;
	op->imm = imm;
}

/* The WRITEs of what is new. Return: how many. */
static size_t batch_ops(const struct ring_remote *g, struct remote_op ops[2 * PIECES_MAX])
{
	uint64_t n_descs = shm_n_descs(g->cap_log2), first = g->sent_index & g->tx.desc_mask, left = g->tx.index - g->sent_index;
	uint64_t data_at = SHM_PAGE + shm_desc_size(g->cap_log2), run = left < n_descs - first ? left : n_descs - first;
	size_t n = 0;

	for (unsigned i = 0; i < g->n_pieces; i++)
		ops[n++] = write_op(g, data_at + g->pieces[i].at, g->pieces[i].size);
	ops[n++] = write_op(g, SHM_PAGE + first * sizeof(uint64_t), run * sizeof(uint64_t));
	if (left > run)
		ops[n++] = write_op(g, SHM_PAGE, (left - run) * sizeof(uint64_t));
	return n;
}

static int batch_send(struct ring_remote *g)
{
	struct remote_op ops[2 * PIECES_MAX];
	enum ring_waiter how;
	size_t n;
	int r;

	if (g->sent_index == g->tx.index)
		return 0;
	if (!g->polls && g->ends_next - g->ends_first == LIMIT_RDMA_IMMS)
		return RING_E_FULL;
	how = ring_tx_publish(&g->tx);
	assert(how == RING_AWAKE); /* nobody sleeps by words of a region here */
	n = batch_ops(g, ops);
	tell_with(g, &ops[n - 1], (uint32_t)g->tx.index & ~IMM_ROOM);
	r = remote_post(g->conn, ops, n);
	if (r != 0)
		return r == REMOTE_E_FULL ? RING_E_FULL : r;
	g->sent_index = g->tx.index;
	g->sent_tail = g->tx.tail;
	g->n_pieces = 0;
	if (!g->polls)
		g->ends[g->ends_next++ % LIMIT_RDMA_IMMS] = g->tx.tail;
	return 0;
}

/* -- our head */

static int head_send(struct ring_remote *g)
{
	struct remote_op op = write_op(g, HEAD_OFFSET, sizeof(uint64_t));
	int r;

	while (g->batches_first != g->batches_next && g->batches[g->batches_first % LIMIT_RDMA_IMMS] <= g->rx.index)
		g->batches_first++;
	if (g->rx.head - g->head_sent < g->rx.cap / 2 && g->batches_first - g->batches_told < LIMIT_RDMA_IMMS / 2)
		return 0;
	ring_rx_publish_head(&g->rx);
	tell_with(g, &op, IMM_ROOM);
	r = remote_post(g->conn, &op, 1);
	if (r != 0)
		return r == REMOTE_E_FULL ? RING_E_FULL : r;
	g->head_sent = g->rx.published;
	g->batches_told = g->batches_first;
	return 0;
}

int ring_remote_flush(struct ring_remote *g)
{
	int r;

	if (g->broken)
		return -EPROTO;
	if (!g->started)
		return -ENOTCONN;
	if (look_at_head(g) < 0)
		return -EPROTO;
	r = head_send(g);
	return r != 0 ? r : batch_send(g);
}

/* -- in */

static int on_imm(struct ring_remote *g, uint32_t imm)
{
	uint64_t more;

	if (g->polls)
		return poison(g); /* the two ends do not agree */
	if (imm & IMM_ROOM)
		return look_at_head(g) < 0 ? -EPROTO : RING_REMOTE_ROOM;
	more = (imm - (uint32_t)g->told_index) & ~IMM_ROOM;
	if (more == 0 || more > shm_n_descs(g->cap_log2) - (g->told_index - g->rx.index))
		return poison(g);
	while (g->batches_first != g->batches_next && g->batches[g->batches_first % LIMIT_RDMA_IMMS] <= g->rx.index)
		g->batches_first++;
	if (g->batches_next - g->batches_first == LIMIT_RDMA_IMMS)
		return poison(g);
	g->told_index += more;
	g->batches[g->batches_next++ % LIMIT_RDMA_IMMS] = g->told_index;
	return RING_REMOTE_DATA;
}

int ring_remote_on_done(struct ring_remote *g, const struct remote_done *done)
{
	if (g->broken)
		return -EPROTO;
	if (done->kind == REMOTE_DONE_IMM)
		return on_imm(g, done->imm);
	if (done->kind == REMOTE_DONE_EXPORTED && done->export == g->export)
		return done->status == REMOTE_OK ? RING_REMOTE_READY : RING_REMOTE_NOTHING;
	return RING_REMOTE_NOTHING;
}

/* Polling, a record that does not open may be one whose bytes are still coming, for a while. */
static int unsettled(struct ring_remote *g)
{
	uint64_t now = remote_now_ns(remote_conn_remote(g->conn));

	if (!g->polls)
		return poison(g);
	if (g->unsettled_ns == 0)
		g->unsettled_ns = now;
	if (now - g->unsettled_ns > LIMIT_RDMA_SETTLE_US * US_NS)
		return poison(g);
	seal_record_retry(g->rx_seal);
	return RING_E_EMPTY;
}

/* The next descriptor that may be taken. */
static int next_record(struct ring_remote *g, struct ring_record *ret)
{
	int r;

	if (!g->polls && g->rx.index == g->told_index)
		return RING_E_EMPTY;
	r = ring_rx_look(&g->rx, ret, memory_order_acquire);
	if (r == RING_E_EMPTY && g->polls)
		return r;
	if (r != 0 || ret->size < g->overhead || (ret->flags & RING_FIN))
		return poison(g);
	return 0;
}

/* Its bytes, copied once: whoever writes them may go on writing. Return: 0; -EBADMSG: it does not open; -EIO. */
static int copy_out(struct ring_remote *g, const struct ring_record *record, void *plain)
{
	uint64_t at = g->rx.next - ring_step(record->size);

	if (g->rx_seal)
		return seal_record_open(g->rx_seal, at, (uint16_t)(record->flags | record->tag << 8), record->data, record->size, plain);
	if (record->size > 0)
		memcpy(plain, record->data, record->size);
	return 0;
}

int ring_remote_receive(struct ring_remote *g, void *plain, uint32_t cap, struct ring_remote_record *ret)
{
	struct ring_record record;
	enum ring_waiter how;
	int r;

	if (g->broken)
		return -EPROTO;
	r = next_record(g, &record);
	if (r != 0)
		return r;
	if (record.size - g->overhead > cap)
		return -EMSGSIZE;
	r = copy_out(g, &record, plain);
	if (r == -EBADMSG)
		return unsettled(g);
	if (r < 0)
		return r;
	g->unsettled_ns = 0;
	how = ring_rx_release(&g->rx);
	assert(how == RING_AWAKE);
	*ret = (struct ring_remote_record){ record.size - g->overhead, record.flags, record.tag };
	if (record.tag == RING_REMOTE_TAG_FIN) {
		if (ret->size > 0 || ret->flags)
			return poison(g);
		ret->flags = RING_FIN;
		ret->tag = 0;
	}
	if (g->started)
		(void)head_send(g); /* what there is no room for goes with a later one, or with the next flush */
	return 0;
}
