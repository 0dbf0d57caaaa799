/*
 * The server of `sealane bench rdma` answers; what, is said in bench_rdma.c. What it does for the client is bounded: it writes into memory that the client
 * exported, keeps one record, and spins only while a phase lasts.
 */
#include "cli/bench_serve.h"

struct bench_server {
	struct bench_side *s;
	uint64_t n_answered;	/* immediates */
	uint32_t poll_size;
	uint8_t count;
	uint8_t *record[BENCH_RINGS]; /* room for any */
	uint32_t record_max;
	bool pending[BENCH_RINGS]; /* a record of pending_size is to be sent back */
	uint32_t pending_size[BENCH_RINGS];
	uint64_t spin_ns;
};

/* A WRITE of @size bytes to the client. Return: 0, REMOTE_E_FULL or negative errno. */
static int answer_write(struct bench_server *v, enum remote_op_kind kind, uint32_t size)
{
	struct remote_op op = { .kind = kind, .region = v->s->scratch_region, .size = size, .key = v->s->keys.u.keys.inbox, .imm = size };

	return remote_post(v->s->conn[BENCH_OPS], &op, 1);
}

static int serve_imms(struct bench_server *v)
{
	uint32_t size = v->s->imm <= BENCH_MEMORY_SIZE ? v->s->imm : 0;
	int r = 0;

	while (r == 0 && v->n_answered != v->s->n_imms) {
		r = answer_write(v, REMOTE_WRITE_IMM, size);
		v->n_answered += r == 0;
	}
	return r < 0 ? r : 0;
}

static int serve_poll(struct bench_server *v)
{
	const volatile uint8_t *last;
	int r;

	if (v->poll_size == 0)
		return 0;
	last = v->s->inbox + v->poll_size - 1; /* the client's device writes it */
	if (*last != (uint8_t)(v->count + 1))
		return 0;
	v->s->scratch[v->poll_size - 1] = (uint8_t)(v->count + 1);
	r = answer_write(v, REMOTE_WRITE, v->poll_size);
	v->count = (uint8_t)(v->count + (r == 0));
	return r < 0 ? r : 0;
}

static int serve_ring(struct bench_server *v, unsigned i)
{
#ifdef HAVE_SEAL
	struct ring_remote_record record;
	int r = 0;

	for (;;) {
		if (v->pending[i]) {
			r = ring_remote_send(v->s->ring[i], 0, BENCH_TAG_ECHO, v->record[i], v->pending_size[i]);
			if (r == 0)
				r = ring_remote_flush(v->s->ring[i]);
			if (r != 0)
				return r < 0 ? r : 0;
			v->pending[i] = false;
		}
		r = ring_remote_receive(v->s->ring[i], v->record[i], v->record_max, &record);
		if (r != 0)
			break;
		v->pending[i] = record.tag == BENCH_TAG_ECHO;
		v->pending_size[i] = record.size;
	}
	if (r == RING_E_EMPTY)
		r = ring_remote_flush(v->s->ring[i]);
	return r < 0 ? r : 0;
#else
	return 0;
#endif
}

static int serve_phase(struct bench_server *v)
{
	const struct bench_msg m = v->s->msg;

	if (!v->s->has_msg)
		return 0;
	v->s->has_msg = false;
	if (m.kind != BENCH_PHASE)
		return -EPROTO;
	v->poll_size = m.u.poll_size;
	v->count = 0;
	if (v->poll_size > 0)
		v->s->inbox[v->poll_size - 1] = 0;
	v->s->spin_ns = v->poll_size > 0 ? BENCH_SPIN_FOR_EVER : v->spin_ns;
	return bench_side_put(v->s, &m);
}

/* Until the client goes. Return: 0, or what it did wrong. */
int bench_serve(struct bench_side *s)
{
	struct bench_server v = { .s = s, .spin_ns = s->spin_ns, .record_max = BENCH_MEMORY_SIZE };
	int r = 0;

	for (unsigned i = 0; i < BENCH_RINGS; i++) {
		v.record[i] = malloc(v.record_max);
		r = v.record[i] ? r : -ENOMEM;
	}
	while (r == 0) {
		r = bench_side_run(s);
		if (r == 0)
			r = serve_phase(&v);
		if (r == 0)
			r = serve_imms(&v);
		if (r == 0)
			r = serve_poll(&v);
		for (unsigned i = 0; r == 0 && i < BENCH_RINGS; i++)
			r = serve_ring(&v, i);
	}
	for (unsigned i = 0; i < BENCH_RINGS; i++)
		free(v.record[i]);
	return r == -ECONNRESET && (!s->over || s->status == REMOTE_PEER_GONE || s->status == REMOTE_BROKEN) ? 0 : r;
}
