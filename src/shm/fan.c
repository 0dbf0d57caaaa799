/*
 * Theory of operation: a seqlock over a ring. The producer raises `claim` past every record that it is about to overwrite, then writes;
 * a reader copies, then looks whether `claim` has passed the record it copied. If not, all it copied was from before.
 *
 * Without fences: payload words are stored with release and loaded with acquire order (plain moves on x86). A reader that saw a
 * single word of the new payload thereby sees the claim that was stored before it. `claim` counts 64 bits, so it also tells a reader that
 * slept until the 16 bits of lap in a descriptor came round to where it had left.
 *
 * Before it: ring.h. After it: client/fanout.c.
 */
#include "shm/fan.h"

enum {
	/* newest: an index and a data position in lines, one word, so that they belong together. */
	NEWEST_POS_BITS = 26,
	NEWEST_INDEX_BITS = 38,
};
static_assert(NEWEST_POS_BITS + NEWEST_INDEX_BITS == 64 && SHM_CAP_LOG2_MAX - 6 <= NEWEST_POS_BITS, "one word");
static_assert(SHM_CAP_LOG2_MAX - 6 + 16 <= NEWEST_INDEX_BITS, "all bits that make a lap");

static uint64_t newest_word(uint64_t index, uint64_t at)
{
	return index << NEWEST_POS_BITS | (at / SHM_LINE & ((UINT64_C(1) << NEWEST_POS_BITS) - 1));
}

/* --- the producer --- */

void fan_tx_init(struct fan_tx *tx, struct ring_control *own, uint32_t cap_log2, uint64_t start)
{
	uint8_t *base = (uint8_t *)own;

	*tx = (struct fan_tx){
		.own = own,
		.descs = (_Atomic uint64_t *)(base + SHM_PAGE),
		.data = base + SHM_PAGE + shm_desc_size(cap_log2),
		.cap = shm_cap(cap_log2),
		.desc_mask = shm_n_descs(cap_log2) - 1,
		.lap_shift = cap_log2 - 6,
		.index = start,
		.oldest = start,
		.newest = start,
	};
	atomic_store_explicit(&own->claim, start, memory_order_relaxed);
	/* nothing there yet: readers wait for the first */
	atomic_store_explicit(&own->newest, newest_word(start, 0), memory_order_release);
}

static uint64_t step_of(const struct fan_tx *tx, uint64_t index)
{
	return ring_step((uint32_t)atomic_load_explicit(&tx->descs[index & tx->desc_mask], memory_order_relaxed));
}

/*
 * Records that reach below @low will be overwritten. The newest published one never is: it, what is staged, a new one and a skip are a
 * quarter of the ring each, at most. So the descriptor that is looked at is always there.
 */
static void claim(struct fan_tx *tx, uint64_t low)
{
	uint64_t oldest = tx->oldest;

	while (tx->oldest < tx->index && tx->oldest_at < low) {
		uint64_t after = tx->oldest_at + step_of(tx, tx->oldest);

		tx->oldest++;
		tx->oldest_at = ring_place(after, step_of(tx, tx->oldest), tx->cap);
	}
	if (tx->oldest != oldest)
		atomic_store_explicit(&tx->own->claim, tx->oldest, memory_order_release); /* before the payload, which has release too */
}

static void put(uint8_t *place, const uint8_t *buf, size_t size)
{
	_Atomic uint64_t *words = (_Atomic uint64_t *)place;
	uint64_t word;
	size_t i;

	for (i = 0; size - i * 8 >= 8; i++) {
		memcpy(&word, buf + i * 8, 8);
		atomic_store_explicit(&words[i], word, memory_order_release);
	}
	if (size - i * 8 == 0)
		return;
	word = 0;
	memcpy(&word, buf + i * 8, size - i * 8);
	atomic_store_explicit(&words[i], word, memory_order_release);
}

int fan_tx_stage(struct fan_tx *tx, const void *buf, size_t size, uint8_t flags)
{
	uint64_t word = size | (uint64_t)flags << 32 | ring_lap(tx->index, tx->lap_shift) << 48, step, at;

	if (size > ring_record_max(tx->cap))
		return -EMSGSIZE;
	step = ring_step((uint32_t)size);
	if (tx->n_staged > 0 && tx->tail + step - tx->staged_from > tx->cap / 4)
		return RING_E_FULL;
	at = ring_place(tx->tail, step, tx->cap);
	if (tx->n_staged == 0)
		tx->staged_from = tx->tail;
	if (tx->oldest == tx->index)
		tx->oldest_at = at; /* the first of all */
	if (at + step > tx->cap)
		claim(tx, at + step - tx->cap);
	put(tx->data + (at & (tx->cap - 1)), buf, size);
	if (tx->n_staged++ == 0) {
		tx->first_word = word;
		tx->first_index = tx->index;
	} else {
		atomic_store_explicit(&tx->descs[tx->index & tx->desc_mask], word, memory_order_release);
	}
	if (!(flags & RING_FIN)) { /* who starts late, or over again, gets a message before the end */
		tx->newest = tx->index;
		tx->newest_at = at;
	}
	tx->tail = at + step;
	tx->index++;
	tx->n_bytes += size;
	return 0;
}

void fan_tx_publish(struct fan_tx *tx)
{
	if (tx->n_staged == 0)
		return;
	tx->n_records += tx->n_staged;
	tx->n_staged = 0;
	atomic_store_explicit(&tx->own->n_records, tx->n_records, memory_order_relaxed);
	atomic_store_explicit(&tx->own->n_bytes, tx->n_bytes, memory_order_relaxed);
	/* seq_cst: pairs with ring_rx_sleep(). Before `newest`: who starts there finds the descriptor. */
	atomic_store_explicit(&tx->descs[tx->first_index & tx->desc_mask], tx->first_word, memory_order_seq_cst);
	atomic_store_explicit(&tx->own->newest, newest_word(tx->newest, tx->newest_at), memory_order_release);
}

/* --- a reader --- */

int fan_rx_start(struct ring_rx *rx)
{
	const uint64_t mask = (UINT64_C(1) << NEWEST_INDEX_BITS) - 1;
	uint64_t oldest = atomic_load_explicit(&rx->peer->claim, memory_order_acquire);
	uint64_t newest = atomic_load_explicit(&rx->peer->newest, memory_order_acquire);
	/* The newest is not far ahead of the oldest, so its low bits tell which it is. */
	uint64_t index = oldest + (((newest >> NEWEST_POS_BITS) - oldest) & mask);

	if (index < rx->index)
		return -EPROTO; /* they only grow */
	rx->index = index;
	rx->head = rx->published = (newest & ((UINT64_C(1) << NEWEST_POS_BITS) - 1)) * SHM_LINE;
	return 0;
}

bool fan_rx_overrun(const struct ring_rx *rx)
{
	return atomic_load_explicit(&rx->peer->claim, memory_order_acquire) > rx->index;
}

static void get(uint8_t *buf, const uint8_t *place, size_t size)
{
	const _Atomic uint64_t *words = (const _Atomic uint64_t *)place;
	uint64_t word;
	size_t i;

	for (i = 0; size - i * 8 >= 8; i++) {
		word = atomic_load_explicit(&words[i], memory_order_acquire);
		memcpy(buf + i * 8, &word, 8);
	}
	if (size - i * 8 == 0)
		return;
	word = atomic_load_explicit(&words[i], memory_order_acquire);
	memcpy(buf + i * 8, &word, size - i * 8);
}

int fan_rx_next(struct ring_rx *rx, void *buf, size_t size, size_t *ret_size)
{
	uint64_t word = atomic_load_explicit(&rx->descs[rx->index & rx->desc_mask], memory_order_acquire);
	uint64_t lap = ring_lap(rx->index, rx->lap_shift), n = (uint32_t)word, flags = (word >> 32) & 0xff, at;

	if (word >> 48 != lap)
		return word >> 48 == ((lap - 1) & 0xffff) ? RING_E_EMPTY : FAN_E_OVERRUN;
	if (n > ring_record_max(rx->cap) || flags & ~(uint64_t)RING_FIN)
		return -EPROTO;
	__builtin_prefetch(&rx->peer->claim);
	at = ring_place(rx->head, ring_step((uint32_t)n), rx->cap);
	if (n <= size)
		get(buf, rx->data + (at & (rx->cap - 1)), n);
	if (fan_rx_overrun(rx))
		return FAN_E_OVERRUN;
	if (flags & RING_FIN)
		return -ENODATA;
	rx->head = rx->published = at + ring_step((uint32_t)n);
	rx->index++;
	*ret_size = n;
	return n <= size ? 0 : -EMSGSIZE;
}
