/*
 * What the two ends of `sealane bench rdma` say to each other on their TCP connection, besides the measurement itself.
 *
 * One message has BENCH_MSG_SIZE bytes, numbers little-endian, zeros behind what stands here:
 *
 *   0  u32 BENCH_MAGIC   4  u32 kind   8  by kind:
 *   HELLO  u16 port of the sender's RDMA listener, 0: it has no device; three tokens of 32, the ring's secret of 32 (the answer has zeros there)
 *   KEYS   four keys of 24: to read and to swap in, to write to, those of the two rings
 *   PHASE  u32 bytes: the far end is to poll its memory for WRITEs of that size; 0: it is not
 *
 * Trust: hostile; nothing is authenticated, so the far end may be anybody. Pure; no I/O.
 */
#ifndef CLI_BENCH_WIRE_H
#define CLI_BENCH_WIRE_H

#include "rdma/remote.h"

#define BENCH_MAGIC UINT32_C(0x31626c73) /* "slb1" */

enum {
	BENCH_MSG_SIZE = 160,
	BENCH_MEMORY_SIZE = 1 << 20, /* of each of the memories that operations go to */
	BENCH_SECRET_SIZE = 32,
};

/* The connections of a measurement: one for single operations, one for each ring, which wants all immediates for itself. */
enum { BENCH_OPS, BENCH_FIRST_RING, BENCH_RINGS = 2, BENCH_CONNS = BENCH_FIRST_RING + BENCH_RINGS };
enum bench_ring { BENCH_SEALED, BENCH_PLAIN };

enum bench_msg_kind { BENCH_HELLO = 1, BENCH_KEYS, BENCH_PHASE };

struct bench_msg {
	enum bench_msg_kind kind;
	union {
		struct {
			uint16_t port;
			uint8_t token[BENCH_CONNS][REMOTE_TOKEN_SIZE];
			uint8_t secret[BENCH_SECRET_SIZE];
		} hello;
		struct {
			struct remote_key table, inbox;
			uint8_t ring[BENCH_RINGS][REMOTE_KEY_SIZE]; /* unchecked: ring_remote_start() does that */
		} keys;
		uint32_t poll_size;
	} u;
};

/* bench_msg_put() - @to: BENCH_MSG_SIZE bytes. */
void bench_msg_put(uint8_t *to, const struct bench_msg *m);

/* bench_msg_get() - Return: 0; -EPROTO: not from a `sealane bench` of this version, or out of bounds. */
MUST_CHECK int bench_msg_get(struct bench_msg *ret, const uint8_t *from);

#endif
