/*
 * What lies in a region: docs/design/ring.md as structs. Fixed for a version of the format; no pointer, no length that a
 * reader relies on. Everything that the peer wrote is hostile until checked (ring.h does that, once, on a private copy).
 */
#ifndef SHM_LAYOUT_H
#define SHM_LAYOUT_H

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define SHM_MAGIC UINT64_C(0x31454e414c414553) /* "SEALANE1" */

enum {
	SHM_VERSION = 1,
	SHM_LINE = 64,
	SHM_PAGE = 4096,
	SHM_CAP_LOG2_MIN = 12, /* 4 KiB: what 10,000 idle lanes can afford */
	SHM_CAP_LOG2_MAX = 28, /* 256 MiB: beyond any bandwidth-delay product between two cores */
};

enum ring_flag {
	RING_MORE = 1 << 0,
	RING_FIN = 1 << 1,
	RING_FLAGS_KNOWN = RING_MORE | RING_FIN,
};

enum ring_waiter {
	RING_AWAKE,
	RING_ON_FUTEX,
	RING_ON_BELL,
	RING_HOW_MASK = 3,
};

struct ring_control {
	uint64_t magic;
	uint32_t version;
	uint32_t cap_log2;
	uint8_t pad0_[112];
	_Atomic uint64_t head;
	uint8_t pad1_[120];
	_Atomic uint32_t data_waiter;
	_Atomic uint32_t space_seq;
	_Atomic uint32_t read_shut;
	uint8_t pad2_[116];
	_Atomic uint32_t space_waiter;
	_Atomic uint32_t data_seq;
	uint8_t pad3_[120];
	_Atomic uint64_t n_records;
	_Atomic uint64_t n_bytes;
	uint8_t pad4_[112];
	_Atomic uint64_t claim;
	_Atomic uint64_t newest;
	uint8_t pad5_[SHM_PAGE - 656];
};
static_assert(offsetof(struct ring_control, head) == 128, "fixed");
static_assert(offsetof(struct ring_control, data_waiter) == 256, "fixed");
static_assert(offsetof(struct ring_control, space_seq) == 260, "fixed");
static_assert(offsetof(struct ring_control, read_shut) == 264, "fixed");
static_assert(offsetof(struct ring_control, space_waiter) == 384, "fixed");
static_assert(offsetof(struct ring_control, data_seq) == 388, "fixed");
static_assert(offsetof(struct ring_control, n_records) == 512, "fixed");
static_assert(offsetof(struct ring_control, n_bytes) == 520, "fixed");
static_assert(offsetof(struct ring_control, claim) == 640, "fixed");
static_assert(offsetof(struct ring_control, newest) == 648, "fixed");
static_assert(sizeof(struct ring_control) == SHM_PAGE, "fixed");
static_assert(sizeof(_Atomic uint64_t) == 8 && ATOMIC_LLONG_LOCK_FREE == 2, "words are words");

static inline uint64_t shm_cap(uint32_t cap_log2)
{
	return UINT64_C(1) << cap_log2;
}

static inline uint64_t shm_n_descs(uint32_t cap_log2)
{
	return shm_cap(cap_log2) / SHM_LINE;
}

static inline uint64_t shm_desc_size(uint32_t cap_log2)
{
	uint64_t size = shm_n_descs(cap_log2) * sizeof(uint64_t);

	return size < SHM_PAGE ? SHM_PAGE : size;
}

/* shm_region_size() - bytes of a region with that much data. @cap_log2: checked by the caller. */
static inline uint64_t shm_region_size(uint32_t cap_log2)
{
	return SHM_PAGE + shm_desc_size(cap_log2) + shm_cap(cap_log2);
}

#endif
