/* For tests of the ring between two hosts: its two ends, and what they have told. */
#ifndef RDMA_TEST_RING_UTIL_H
#define RDMA_TEST_RING_UTIL_H

#include "rdma/ring_remote.h"

#include <stdio.h>

/* What fails here is no finding, so no test framework is asked for it. */
#define RING_MUST(what)                                               \
	do {                                                          \
		if (!(what)) {                                        \
			fprintf(stderr, "it is not so: %s\n", #what); \
			abort();                                      \
		}                                                     \
	} while (0)

struct ring_end {
	struct remote *r;
	struct remote_domain *domain;
	struct remote_conn *conn;
	struct ring_remote *ring;
	void *memory;
	struct remote_key key; /* of its copy, for the peer */
	uint64_t number;       /* of the connection; 0: 1 */
	bool plain;
	bool up, ready, down;
	enum remote_status why;
	int error;	/* the first -EPROTO of on_done() */
	unsigned n_rooms;
	/* A stream of numbered records, both ways: pattern_size() bytes each. */
	uint64_t n_sent, n_received;
	bool fin;
};

static const uint8_t ring_test_secret[SEAL_SECRET_SIZE] = { 7 };

static inline uint32_t pattern_size(uint64_t number, uint32_t max)
{
	uint64_t x = number * UINT64_C(2654435761);

	return number % 7 == 0 ? (uint32_t)(x % (max + 1)) : (uint32_t)(x % 200);
}

static inline void pattern_fill(uint8_t *to, uint64_t number, uint32_t size)
{
	for (uint32_t i = 0; i < size; i++)
		to[i] = (uint8_t)(number * 131 + i * 7 + (i >> 8));
}

static inline void ring_end_open(struct ring_end *e, struct remote *r, uint32_t cap_log2)
{
	e->r = r;
	RING_MUST(remote_domain_new(&e->domain, r, 0) == 0);
	e->memory = aligned_alloc(4096, ring_remote_memory_size(cap_log2));
	RING_MUST(e->memory);
	memset(e->memory, 0, ring_remote_memory_size(cap_log2));
}

static inline void ring_end_new(struct ring_end *e, uint32_t cap_log2, bool is_client, bool polls, uint64_t start)
{
	struct ring_remote_options o = {
		.conn = e->conn,
		.memory = e->memory,
		.cap_log2 = cap_log2,
		.crypto = { NULL, NULL, SEAL_AES_128_GCM },
		.secret = ring_test_secret,
		.number = e->number ? e->number : 1,
		.is_client = is_client,
		.polls = polls,
		.plain = e->plain,
		.start = start,
	};

	RING_MUST(ring_remote_new(&e->ring, &o) == 0);
}

static inline void ring_end_close(struct ring_end *e)
{
	remote_close(e->conn);
	ring_remote_free(e->ring);
	remote_domain_free(e->domain);
	free(e->memory);
}

/* Take what is told. */
static inline bool ring_end_look(struct ring_end *e)
{
	struct remote_done d;
	bool any = false;

	while (remote_poll(e->r, &d, 1) == 1) {
		int r;

		any = true;
		e->up |= d.kind == REMOTE_DONE_UP;
		if (d.kind == REMOTE_DONE_DOWN) {
			e->down = true;
			e->why = d.status;
		}
		r = e->ring ? ring_remote_on_done(e->ring, &d) : 0;
		e->ready |= r == RING_REMOTE_READY;
		e->n_rooms += r == RING_REMOTE_ROOM;
		if (r < 0 && e->error == 0)
			e->error = r;
	}
	return any;
}

/* Go on sending up to record @until, then FIN, as far as there is room. Return: 0, or what stops it for good. */
static inline int ring_end_send(struct ring_end *e, uint64_t until)
{
	static uint8_t plain[1 << RING_REMOTE_CAP_LOG2_MAX];
	int r = 0;

	while (r == 0 && e->n_sent <= until) {
		uint32_t size = pattern_size(e->n_sent, ring_remote_record_max(e->ring));

		pattern_fill(plain, e->n_sent, size);
		r = e->n_sent == until ? ring_remote_send_fin(e->ring) :
					 ring_remote_send(e->ring, e->n_sent & 1, (uint8_t)(e->n_sent % 200), plain, size);
		if (r == 0)
			e->n_sent++;
		if (r == RING_E_FULL || e->n_sent % 5 == 0) {
			int f = ring_remote_flush(e->ring);

			r = f < 0 ? f : r;
		}
	}
	if (r >= 0)
		r = ring_remote_flush(e->ring);
	return r < 0 ? r : 0;
}

/* Receive all there is; aborts if a byte of it is not what was sent. Return: RING_E_EMPTY, or what stops it for good. */
static inline int ring_end_receive(struct ring_end *e)
{
	static uint8_t plain[1 << RING_REMOTE_CAP_LOG2_MAX], expected[1 << RING_REMOTE_CAP_LOG2_MAX];
	struct ring_remote_record record;
	int r;

	while ((r = ring_remote_receive(e->ring, plain, sizeof(plain), &record)) == 0) {
		uint32_t size = pattern_size(e->n_received, ring_remote_record_max(e->ring));

		RING_MUST(!e->fin);
		if (record.flags & RING_FIN) {
			e->fin = true;
			continue;
		}
		pattern_fill(expected, e->n_received, size);
		RING_MUST(record.size == size && record.flags == (e->n_received & 1) && record.tag == e->n_received % 200);
		RING_MUST(memcmp(plain, expected, size) == 0);
		e->n_received++;
	}
	return r;
}

#endif
