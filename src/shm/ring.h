/*
 * The ring: records from one producer to one consumer through a region that the producer made. docs/design/ring.md is the
 * format; this file is the only code that writes or reads it.
 *
 * Producer: ring_tx_reserve() a place, fill it, ring_tx_stage() it, any number of times; ring_tx_publish() makes all of them
 * visible and says whether the other side wants to be woken (wake.h does that). Consumer: ring_rx_peek() the next record, use
 * it in place or copy it, ring_rx_release() it.
 *
 * Threads: a struct ring_tx belongs to one thread at a time, a struct ring_rx too; the two of one lane may be different threads.
 * Memory: none is taken; both structs are private and never lie in a region.
 * Trust: the peer's region is hostile. Each of its words is loaded once, atomically, into a local, checked against private state,
 * and only the local is used. The payload is the peer's too: it can change while it is looked at.
 * Errors: RING_E_FULL and RING_E_EMPTY are the two states every caller handles; -EPROTO: the peer broke the format, and the
 * lane must not be used again; -EMSGSIZE: larger than ring_record_max().
 *
 * In the header, since a call per record costs a third of a record (measured: bench/ipc).
 */
#ifndef SHM_RING_H
#define SHM_RING_H

#include "base/util.h"
#include "shm/layout.h"

enum { RING_E_FULL = 1, RING_E_EMPTY = 2 };

enum {
	/*
	 * How far behind the record that is being written the line lies that is fetched for writing. The reader's CPU fetches ahead of
	 * what it reads, so it takes away the lines that are written next, and the stores then wait for them one after the other.
	 * Measured on an Intel server between two cores, records of one line, published one by one: without 18 M/s, 2 lines ahead 34, 4
	 * 62, 8 62, 24 44; the ring alone, medians of 8.
	 */
	RING_AHEAD = 3 * SHM_LINE,
	/* Longer ones are copied line after line, and the CPU fetches ahead by itself: a line of the next one is in its way (1 KiB: -20 %). */
	RING_AHEAD_STEP_MAX = 4 * SHM_LINE,
};

struct ring_record {
	const void *data; /* in the peer's region: hostile, may change until copied */
	uint32_t size;
	uint8_t flags; /* enum ring_flag */
	uint8_t tag;
};

struct ring_tx {
	/* where things are; set once */
	struct ring_control *own;
	const struct ring_control *peer;
	_Atomic uint64_t *descs;
	uint8_t *data;
	uint64_t cap;
	uint64_t desc_mask;
	uint32_t lap_shift;
	bool peer_sleeps; /* false: it said that it only ever spins */
	/* positions; 64 bits never come round */
	uint64_t tail;	  /* data position after all that was staged */
	uint64_t index;	  /* descriptors staged */
	uint64_t head;	  /* the peer's, when it was last looked at, checked */
	uint64_t at;	  /* where the reserved record lies */
	uint64_t first_index; /* of what is staged and not yet published */
	uint64_t first_word;
	uint64_t n_records, n_bytes;
	uint32_t n_staged;
	uint32_t woken; /* the value of data_waiter that was woken last */
	uint32_t epoch; /* of own sleeps for room */
};

struct ring_rx {
	struct ring_control *own;
	const struct ring_control *peer;
	const _Atomic uint64_t *descs;
	const uint8_t *data;
	uint64_t cap;
	uint64_t desc_mask;
	uint32_t lap_shift;
	bool peer_sleeps;
	uint64_t head;	    /* data position after all that was released */
	uint64_t published; /* what the peer knows of it */
	uint64_t index;	    /* of the next descriptor */
	uint64_t next;	    /* data position after the record that is peeked at */
	uint32_t woken;	    /* the value of space_waiter that was woken last */
	uint32_t epoch;
	bool unchecked; /* head was published and nobody has looked since whether the producer waits for it */
};

/*
 * ring_tx_init(), ring_rx_init() - @own and @peer: the two control pages, each at the start of its region.
 * @cap_log2: of the region that this ring lies in (own for tx, the peer's for rx), checked by region_check().
 * @start: number of the first descriptor; 0, and in tests a value shortly before something wraps (both sides the same).
 */
void ring_tx_init(struct ring_tx *tx, struct ring_control *own, const struct ring_control *peer, uint32_t cap_log2, uint64_t start);
void ring_rx_init(struct ring_rx *rx, struct ring_control *own, const struct ring_control *peer, uint32_t cap_log2, uint64_t start);

/* ring_format() - write the fixed words of a region that is all zeros. @start as above. */
void ring_format(struct ring_control *own, uint32_t cap_log2, uint64_t start);

/* ring_record_max() - bytes one record can carry: a quarter of the ring, so that two always have room after the skip at its end. */
static inline uint32_t ring_record_max(uint64_t cap)
{
	return (uint32_t)(cap / 4);
}

static inline uint64_t ring_step(uint32_t size)
{
	uint64_t step = ((uint64_t)size + SHM_LINE - 1) & ~(uint64_t)(SHM_LINE - 1);

	return step ? step : SHM_LINE;
}

/* Where a record of that step begins if all before @pos is taken. */
static inline uint64_t ring_place(uint64_t pos, uint64_t step, uint64_t cap)
{
	uint64_t offset = pos & (cap - 1);

	return step > cap - offset ? pos + (cap - offset) : pos;
}

static inline uint64_t ring_lap(uint64_t index, uint32_t lap_shift)
{
	return ((index >> lap_shift) + 1) & 0xffff;
}

/* This line will be written soon: have it here, and nobody else, by then. Fetches nothing that may not be touched. */
static inline void ring_prefetch_own(const void *line)
{
#if defined(__x86_64__)
	__asm__ volatile("prefetchw %0" : : "m"(*(const uint8_t *)line)); /* the builtin would fetch it to read, and so twice */
#else
	__builtin_prefetch(line, 1);
#endif
}

/* ring_tx_observe_head() - the partner of ring_rx_publish_head(). Return: 0 or -EPROTO. */
static inline MUST_CHECK int ring_tx_observe_head(struct ring_tx *tx)
{
	uint64_t head = atomic_load_explicit(&tx->peer->head, memory_order_acquire);

	if (head - tx->head > tx->tail - tx->head)
		return -EPROTO;
	tx->head = head;
	return 0;
}

/*
 * ring_tx_reserve() - room for one record of at most @size bytes. @ret: where to write it, 64-byte aligned, until stage.
 * Reserving again without staging moves the reservation. The last line of the ring is kept for RING_FIN.
 */
static inline MUST_CHECK int ring_tx_reserve(struct ring_tx *tx, uint32_t size, void **ret)
{
	uint64_t step = ring_step(size), at = ring_place(tx->tail, step, tx->cap);

	if (size > ring_record_max(tx->cap))
		return -EMSGSIZE;
	if (at + step + SHM_LINE - tx->head > tx->cap) {
		int r = ring_tx_observe_head(tx);

		if (r < 0)
			return r;
		if (at + step + SHM_LINE - tx->head > tx->cap)
			return RING_E_FULL;
	}
	tx->at = at;
	*ret = tx->data + (at & (tx->cap - 1));
	if (step <= RING_AHEAD_STEP_MAX)
		ring_prefetch_own(tx->data + ((at + step + RING_AHEAD) & (tx->cap - 1)));
	return 0;
}

/*
 * ring_tx_unskip() - the place skipped the ring's end, but the record became so small that it fits there, and the reader, who knows
 * only its size, looks there: move it. Rare, so not in the header.
 */
void ring_tx_unskip(struct ring_tx *tx, uint32_t size);

/*
 * ring_tx_stage() - what was reserved is a record of @size bytes (at most what was reserved); published with the next publish.
 * The place belongs to the ring from now on.
 */
static inline void ring_tx_stage(struct ring_tx *tx, uint32_t size, uint8_t flags, uint8_t tag)
{
	uint64_t word = size | (uint64_t)flags << 32 | (uint64_t)tag << 40 | ring_lap(tx->index, tx->lap_shift) << 48;

	if (__builtin_expect(tx->at != tx->tail, 0))
		ring_tx_unskip(tx, size);
	if (tx->n_staged++ == 0) {
		tx->first_word = word;
		tx->first_index = tx->index;
	} else {
		atomic_store_explicit(&tx->descs[tx->index & tx->desc_mask], word, memory_order_relaxed);
	}
	tx->tail = tx->at + ring_step(size);
	tx->index++;
	tx->n_bytes += size;
}

/* ring_tx_stage_fin() - the end of what this side sends: there is always room for it once. */
static inline void ring_tx_stage_fin(struct ring_tx *tx)
{
	tx->at = tx->tail;
	ring_tx_stage(tx, 0, RING_FIN, 0);
}

/*
 * ring_tx_publish() - all that is staged becomes visible, at once and in order.
 * Return: how to wake the consumer (ring_wake_data()), RING_AWAKE: not at all.
 */
static inline MUST_CHECK enum ring_waiter ring_tx_publish(struct ring_tx *tx)
{
	_Atomic uint64_t *desc = &tx->descs[tx->first_index & tx->desc_mask];
	uint32_t waiter;

	if (tx->n_staged == 0)
		return RING_AWAKE;
	tx->n_records += tx->n_staged;
	tx->n_staged = 0;
	atomic_store_explicit(&tx->own->n_records, tx->n_records, memory_order_relaxed);
	atomic_store_explicit(&tx->own->n_bytes, tx->n_bytes, memory_order_relaxed);
	if (!tx->peer_sleeps) {
		atomic_store_explicit(desc, tx->first_word, memory_order_release);
		return RING_AWAKE;
	}
	atomic_store_explicit(desc, tx->first_word, memory_order_seq_cst); /* pairs with ring_rx_sleep() */
	waiter = atomic_load_explicit(&tx->peer->data_waiter, memory_order_seq_cst);
	if (!(waiter & RING_HOW_MASK) || waiter == tx->woken)
		return RING_AWAKE;
	tx->woken = waiter;
	return (waiter & RING_HOW_MASK) == RING_ON_FUTEX ? RING_ON_FUTEX : RING_ON_BELL;
}

/* ring_rx_publish_head() - the producer may use again what was released. Its partner: ring_tx_observe_head(). */
static inline void ring_rx_publish_head(struct ring_rx *rx)
{
	if (rx->published == rx->head)
		return;
	atomic_store_explicit(&rx->own->head, rx->head, memory_order_release);
	rx->published = rx->head;
	rx->unchecked = true;
}

/*
 * ring_rx_check_producer() - after heads were published: does the producer sleep for room?
 * Return: how to wake it (ring_wake_space()).
 */
static inline MUST_CHECK enum ring_waiter ring_rx_check_producer(struct ring_rx *rx)
{
	uint32_t waiter;

	if (!rx->unchecked || !rx->peer_sleeps)
		return RING_AWAKE;
	rx->unchecked = false;
	atomic_store_explicit(&rx->own->head, rx->head, memory_order_seq_cst); /* pairs with ring_tx_sleep() */
	waiter = atomic_load_explicit(&rx->peer->space_waiter, memory_order_seq_cst);
	if (!(waiter & RING_HOW_MASK) || waiter == rx->woken)
		return RING_AWAKE;
	rx->woken = waiter;
	return (waiter & RING_HOW_MASK) == RING_ON_FUTEX ? RING_ON_FUTEX : RING_ON_BELL;
}

/* One load of the next descriptor, checked. Return: 0: @ret; RING_E_EMPTY; -EPROTO. */
static inline MUST_CHECK int ring_rx_look(struct ring_rx *rx, struct ring_record *ret, memory_order order)
{
	uint64_t word = atomic_load_explicit(&rx->descs[rx->index & rx->desc_mask], order);
	uint64_t lap = ring_lap(rx->index, rx->lap_shift), at;
	uint32_t size = (uint32_t)word;

	if (word >> 48 != lap)
		return word >> 48 == ((lap - 1) & 0xffff) ? RING_E_EMPTY : -EPROTO;
	if (size > ring_record_max(rx->cap) || ((word >> 32) & 0xff & ~(uint64_t)RING_FLAGS_KNOWN))
		return -EPROTO;
	if ((word & (uint64_t)RING_FIN << 32) && size > 0)
		return -EPROTO;
	at = ring_place(rx->head, ring_step(size), rx->cap);
	rx->next = at + ring_step(size);
	ret->data = rx->data + (at & (rx->cap - 1));
	ret->size = size;
	ret->flags = (uint8_t)(word >> 32);
	ret->tag = (uint8_t)(word >> 40);
	return 0;
}

/* ring_rx_n_published() - how many records there ever were, as the peer says: a hint, nothing is checked. */
static inline uint64_t ring_rx_n_published(const struct ring_rx *rx)
{
	return atomic_load_explicit(&rx->peer->n_records, memory_order_relaxed);
}

/*
 * ring_rx_has_fin() - is the last record that the peer published a RING_FIN, read or not? For any thread: nothing is looked at but what was set
 * once and the peer's words, so it is as good as the peer. @start: as ring_rx_init()'s.
 */
static inline bool ring_rx_has_fin(const struct ring_rx *rx, uint64_t start)
{
	uint64_t last = start + ring_rx_n_published(rx) - 1;
	uint64_t word = atomic_load_explicit(&rx->descs[last & rx->desc_mask], memory_order_acquire);

	return word >> 48 == ring_lap(last, rx->lap_shift) && (word & (uint64_t)RING_FIN << 32);
}

/*
 * ring_rx_peek() - the next record, which stays until ring_rx_release(); peeking again gives it again.
 * When there is none, all room goes back to the producer (ring_rx_check_producer() before sleeping), and the line where the next
 * payload will lie is asked for: it then travels together with its descriptor, not after it.
 */
static inline MUST_CHECK int ring_rx_peek(struct ring_rx *rx, struct ring_record *ret)
{
	int r = ring_rx_look(rx, ret, memory_order_acquire);

	if (r == RING_E_EMPTY) {
		ring_rx_publish_head(rx);
		__builtin_prefetch(rx->data + (rx->head & (rx->cap - 1)));
	}
	return r;
}

/* ring_rx_release() - done with the record that was peeked at. Return: how to wake the producer (ring_wake_space()). */
static inline MUST_CHECK enum ring_waiter ring_rx_release(struct ring_rx *rx)
{
	rx->head = rx->next;
	rx->index++;
	if (rx->head - rx->published < rx->cap / 4)
		return RING_AWAKE;
	ring_rx_publish_head(rx);
	return ring_rx_check_producer(rx);
}

static inline void ring_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield" ::: "memory");
#endif
}

#endif
