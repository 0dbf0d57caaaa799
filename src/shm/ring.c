#include "shm/ring.h"

static uint32_t lap_shift(uint32_t cap_log2)
{
	return cap_log2 - 6; /* log2 of shm_n_descs() */
}
static_assert(SHM_LINE == 1 << 6, "lap_shift()");

void ring_tx_init(struct ring_tx *tx, struct ring_control *own, const struct ring_control *peer, uint32_t cap_log2, uint64_t start)
{
	uint8_t *base = (uint8_t *)own;

	*tx = (struct ring_tx){
		.own = own,
		.peer = peer,
		.descs = (_Atomic uint64_t *)(base + SHM_PAGE),
		.data = base + SHM_PAGE + shm_desc_size(cap_log2),
		.cap = shm_cap(cap_log2),
		.desc_mask = shm_n_descs(cap_log2) - 1,
		.lap_shift = lap_shift(cap_log2),
		.peer_sleeps = true,
		.index = start,
	};
}

void ring_rx_init(struct ring_rx *rx, struct ring_control *own, const struct ring_control *peer, uint32_t cap_log2, uint64_t start)
{
	const uint8_t *base = (const uint8_t *)peer;

	*rx = (struct ring_rx){
		.own = own,
		.peer = peer,
		.descs = (const _Atomic uint64_t *)(base + SHM_PAGE),
		.data = base + SHM_PAGE + shm_desc_size(cap_log2),
		.cap = shm_cap(cap_log2),
		.desc_mask = shm_n_descs(cap_log2) - 1,
		.lap_shift = lap_shift(cap_log2),
		.peer_sleeps = true,
		.index = start,
	};
}

void ring_format(struct ring_control *own, uint32_t cap_log2, uint64_t start)
{
	_Atomic uint64_t *descs = (_Atomic uint64_t *)((uint8_t *)own + SHM_PAGE);
	uint64_t n = shm_n_descs(cap_log2);

	own->magic = SHM_MAGIC;
	own->version = SHM_VERSION;
	own->cap_log2 = cap_log2;
	/* From 0 on the zeros that memory starts with are lap 0; from elsewhere each slot needs the lap before its next one. */
	for (uint64_t i = 0; start != 0 && i < n; i++) {
		uint64_t before = (ring_lap(start + i, lap_shift(cap_log2)) - 1) << 48;

		atomic_store_explicit(&descs[(start + i) & (n - 1)], before, memory_order_relaxed);
	}
}

void ring_tx_unskip(struct ring_tx *tx, uint32_t size)
{
	uint64_t at = ring_place(tx->tail, ring_step(size), tx->cap);

	if (at == tx->at)
		return;
	/* The skipped bytes were reserved with it, and lie apart from it: it at the ring's start, they at its end. */
	memcpy(tx->data + (at & (tx->cap - 1)), tx->data + (tx->at & (tx->cap - 1)), size);
	tx->at = at;
}
