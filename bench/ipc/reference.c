/*
 * Two rings to measure against, without an API, checks or any notion of a peer that lies: what they cost is what the memory costs.
 *
 * "ring": the small byte ring that most fast libraries come down to. Records with a header line, payload on its own lines, one index
 * line for each side, the other side's index cached, the tail given back lazily. Spinning, futex, or first one then the other.
 * Both processes map one segment read-write and believe every word of it.
 *
 * "limit": not even records, but slots of the message's size, and the head published for each batch. It only spins.
 */
#include "ipc.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	HEADER = 64,
	LAG_MAX = 65536, /* bytes that are read and not yet given back */
	SPINS = 2000,	 /* of the adaptive mode: about what one sleep and wake-up cost */
	SKIP = -1,
};

struct segment {
	_Alignas(128) _Atomic uint64_t head;
	_Alignas(128) _Atomic uint64_t tail;
	_Alignas(128) _Atomic uint32_t reader_sleeps;
	_Alignas(128) _Atomic uint32_t writer_sleeps;
	_Alignas(4096) char data[];
};

/* One direction as one side sees it. */
struct half {
	struct segment *s;
	uint64_t cap, lag;
	uint64_t pos;	    /* own index */
	uint64_t seen;	    /* the other side's, when it was last looked at */
	uint64_t published; /* of own index */
	enum ipc_mode mode;
};

struct ring {
	struct half in, out;
};

static struct segment *segment_new(uint64_t cap)
{
	void *p = mmap(NULL, sizeof(struct segment) + cap, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED)
		ipc_die("mmap: %s", strerror(errno));
	return p;
}

static void futex(_Atomic uint32_t *word, int op, uint32_t value)
{
	syscall(SYS_futex, word, op, value, NULL, NULL, 0);
}

/* Wait until @index has moved from what we saw, or until @least of it. */
static inline void half_wait(struct half *h, _Atomic uint64_t *index, uint64_t least, _Atomic uint32_t *sleeps)
{
	for (uint32_t n = 0; h->seen < least; n++) {
		h->seen = atomic_load_explicit(index, memory_order_acquire);
		if (h->seen >= least || h->mode == IPC_MODE_SPIN)
			continue;
		if (h->mode == IPC_MODE_ADAPTIVE && n < SPINS) {
			ipc_pause();
			continue;
		}
		atomic_store(sleeps, 1);
		h->seen = atomic_load(index);
		if (h->seen < least)
			futex(sleeps, FUTEX_WAIT, 1);
		atomic_store(sleeps, 0);
	}
}

static inline void half_publish(struct half *h, _Atomic uint64_t *index, _Atomic uint32_t *other_sleeps)
{
	h->published = h->pos;
	if (h->mode == IPC_MODE_SPIN) {
		atomic_store_explicit(index, h->pos, memory_order_release);
		return;
	}
	atomic_store(index, h->pos);
	if (atomic_load(other_sleeps) && atomic_exchange(other_sleeps, 0))
		futex(other_sleeps, FUTEX_WAKE, 1);
}

static inline void need_room(struct half *h, uint64_t bytes)
{
	if (h->pos + bytes > h->seen + h->cap)
		half_wait(h, &h->s->tail, h->pos + bytes - h->cap, &h->s->writer_sleeps);
}

static inline void ring_flush(struct ipc_run *run)
{
	struct half *h = &((struct ring *)run->ends[run->side])->out;

	half_publish(h, &h->s->head, &h->s->reader_sleeps);
}

static inline void ring_put(struct ipc_run *run, size_t copied)
{
	struct half *h = &((struct ring *)run->ends[run->side])->out;
	uint64_t step = HEADER + ((run->size + 63) & ~(uint64_t)63), at = h->pos & (h->cap - 1);

	if (at + step > h->cap) {
		need_room(h, h->cap - at);
		*(int64_t *)(h->s->data + at) = SKIP;
		h->pos += h->cap - at;
		at = 0;
		/* It may be all that is under way: the reader has to see it to give room back. */
		ring_flush(run);
	}
	need_room(h, step);
	*(int64_t *)(h->s->data + at) = (int64_t)run->size;
	memcpy(h->s->data + at + HEADER, run->buf, copied);
	h->pos += step;
}

/* The next record's header and what follows it. */
static inline const char *ring_front(struct half *h, uint64_t *ret_size)
{
	for (;;) {
		uint64_t at = h->pos & (h->cap - 1);
		int64_t size;

		if (h->seen == h->pos) {
			h->seen = atomic_load_explicit(&h->s->head, memory_order_acquire);
			if (h->seen == h->pos) {
				if (h->published != h->pos) /* the writer may wait for just this */
					half_publish(h, &h->s->tail, &h->s->writer_sleeps);
				half_wait(h, &h->s->head, h->pos + 1, &h->s->reader_sleeps);
			}
		}
		size = *(int64_t *)(h->s->data + at);
		if (size != SKIP) {
			*ret_size = (uint64_t)size;
			return h->s->data + at + HEADER;
		}
		h->pos += h->cap - at;
	}
}

static inline void ring_done(struct half *h, uint64_t size)
{
	h->pos += HEADER + ((size + 63) & ~(uint64_t)63);
	if (h->pos - h->published >= h->lag)
		half_publish(h, &h->s->tail, &h->s->writer_sleeps);
}

static inline void ring_copy_in(struct ipc_run *run)
{
	ring_put(run, run->size);
}

static inline void ring_place_in(struct ipc_run *run)
{
	ring_put(run, 64);
}

static inline void ring_copy_out(struct ipc_run *run)
{
	struct half *h = &((struct ring *)run->ends[run->side])->in;
	uint64_t size;
	const char *data = ring_front(h, &size);

	memcpy(run->buf, data, size);
	ring_done(h, size);
}

static inline void ring_look(struct ipc_run *run)
{
	struct half *h = &((struct ring *)run->ends[run->side])->in;
	uint64_t size;
	const char *data = ring_front(h, &size);

	(void)*(const volatile uint64_t *)data;
	ring_done(h, size);
}

IPC_LOOPS(ring_copy, ring_copy_in, ring_flush, ring_copy_out)
IPC_LOOPS(ring_place, ring_place_in, ring_flush, ring_look)

static void ring_open(struct ipc_run *run)
{
	uint64_t cap = UINT64_C(1) << run->ring_log2, lag = cap / 4 < LAG_MAX ? cap / 4 : LAG_MAX;
	struct segment *s[2] = { segment_new(cap), segment_new(cap) };

	if (cap < 2 * (run->size + 2 * HEADER))
		ipc_skip("the ring is too small");
	for (int side = 0; side < 2; side++) {
		struct ring *r = aligned_alloc(128, 256);

		if (!r)
			ipc_die("out of memory");
		r->out = (struct half){ .s = s[side], .cap = cap, .lag = lag, .mode = run->mode };
		r->in = (struct half){ .s = s[!side], .cap = cap, .lag = lag, .mode = run->mode };
		run->ends[side] = r;
	}
}

static void ring_loops(const struct ipc_run *run, ipc_loop **client, ipc_loop **server)
{
	if (run->place)
		IPC_PICK(ring_place, run, client, server);
	else
		IPC_PICK(ring_copy, run, client, server);
}

/* --- limit --------------------------------------------------------------------------------------------------------------------- */

static inline uint64_t slots_mask(const struct ipc_run *run)
{
	uint64_t n = (UINT64_C(1) << run->ring_log2) / run->size;

	return (n < 4 ? 4 : n) - 1; /* sizes are powers of two */
}

static inline void slots_put(struct ipc_run *run, size_t copied)
{
	struct half *h = &((struct ring *)run->ends[run->side])->out;
	uint64_t mask = slots_mask(run);

	while (h->pos - h->seen > mask)
		h->seen = atomic_load_explicit(&h->s->tail, memory_order_acquire);
	memcpy(h->s->data + (h->pos++ & mask) * run->size, run->buf, copied);
}

static inline void slots_flush(struct ipc_run *run)
{
	struct half *h = &((struct ring *)run->ends[run->side])->out;

	atomic_store_explicit(&h->s->head, h->pos, memory_order_release);
}

static inline const char *slots_front(struct half *h, const struct ipc_run *run)
{
	while (h->pos == h->seen)
		h->seen = atomic_load_explicit(&h->s->head, memory_order_acquire);
	return h->s->data + (h->pos & slots_mask(run)) * run->size;
}

/* Given back for each batch of the writer's: when all that was seen is read. */
static inline void slots_done(struct half *h)
{
	if (++h->pos == h->seen)
		atomic_store_explicit(&h->s->tail, h->pos, memory_order_release);
}

static inline void slots_copy_in(struct ipc_run *run)
{
	slots_put(run, run->size);
}

static inline void slots_place_in(struct ipc_run *run)
{
	slots_put(run, 64);
}

static inline void slots_copy_out(struct ipc_run *run)
{
	struct half *h = &((struct ring *)run->ends[run->side])->in;

	memcpy(run->buf, slots_front(h, run), run->size);
	slots_done(h);
}

static inline void slots_look(struct ipc_run *run)
{
	struct half *h = &((struct ring *)run->ends[run->side])->in;

	(void)*(const volatile uint64_t *)slots_front(h, run);
	slots_done(h);
}

IPC_LOOPS(slots_copy, slots_copy_in, slots_flush, slots_copy_out)
IPC_LOOPS(slots_place, slots_place_in, slots_flush, slots_look)

static void slots_open(struct ipc_run *run)
{
	if (run->size & (run->size - 1))
		ipc_skip("limit: sizes are powers of two");
	if (run->ring_log2 < 21)
		run->ring_log2 = 21;
	ring_open(run);
}

static void slots_loops(const struct ipc_run *run, ipc_loop **client, ipc_loop **server)
{
	if (run->place)
		IPC_PICK(slots_place, run, client, server);
	else
		IPC_PICK(slots_copy, run, client, server);
}

const struct ipc_peer g_ipc_peers[] = {
	{ .name = "ring", .mode = { true, true, true }, .can_place = true, .can_batch = true, .open = ring_open, .loops = ring_loops },
	{ .name = "limit", .mode = { true }, .can_place = true, .can_batch = true, .open = slots_open, .loops = slots_loops },
	{ .name = NULL },
};
