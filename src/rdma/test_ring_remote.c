/* The ring between two hosts, over any backend. */
#include "rdma/test_bed.h"
#include "rdma/test_ring_util.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { WAIT_MS = 30000 };

struct line {
	struct bed bed;
	struct ring_end a, b;
	bool expects_end;
};

static bool g_plain; /* of lines that are opened */

static void look(struct line *l)
{
	bool any = ring_end_look(&l->a);

	if (!ring_end_look(&l->b) && !any)
		bed_idle(&l->bed);
	if (!l->expects_end && (l->a.down || l->b.down))
		fail_msg("a connection went down: %s, %s", remote_status_name(l->a.why), remote_status_name(l->b.why));
}

#define AWAIT(l, what)                                                                              \
	for (uint64_t until_ = remote_now_ns((l)->a.r) + WAIT_MS * UINT64_C(1000000); !(what);) { \
		assert_true(remote_now_ns((l)->a.r) < until_);                                      \
		look(l);                                                                            \
	}

static void line_open(struct line *l, uint32_t cap_log2, bool polls, uint64_t start)
{
	static const uint8_t token[REMOTE_TOKEN_SIZE] = { 3 };
	uint8_t key[REMOTE_KEY_SIZE];

	memset(l, 0, sizeof(*l));
	bed_open(&l->bed);
	ring_end_open(&l->a, l->bed.a, cap_log2);
	ring_end_open(&l->b, l->bed.b, cap_log2);
	assert_int_equal(remote_expect(&l->b.conn, l->b.domain, token), 0);
	assert_int_equal(remote_connect(&l->a.conn, l->a.domain, l->bed.b_address, token), 0);
	AWAIT(l, l->a.up && l->b.up);
	l->a.plain = l->b.plain = g_plain;
	ring_end_new(&l->a, cap_log2, true, polls, start);
	ring_end_new(&l->b, cap_log2, false, polls, start);
	AWAIT(l, l->a.ready && l->b.ready);
	ring_remote_key(l->a.ring, key);
	assert_int_equal(ring_remote_start(l->b.ring, key), 0);
	ring_remote_key(l->b.ring, key);
	assert_int_equal(ring_remote_start(l->a.ring, key), 0);
}

static void line_close(struct line *l)
{
	ring_end_close(&l->a);
	ring_end_close(&l->b);
	bed_close(&l->bed);
}

static void both_ways(uint32_t cap_log2, bool polls, uint64_t start, uint64_t n)
{
	struct line l;

	line_open(&l, cap_log2, polls, start);
	for (uint64_t until = remote_now_ns(l.a.r) + WAIT_MS * UINT64_C(1000000); !(l.a.fin && l.b.fin);) {
		assert_true(remote_now_ns(l.a.r) < until);
		assert_int_equal(ring_end_send(&l.a, n), 0);
		assert_int_equal(ring_end_send(&l.b, n), 0);
		assert_int_equal(ring_end_receive(&l.a), RING_E_EMPTY);
		assert_int_equal(ring_end_receive(&l.b), RING_E_EMPTY);
		assert_int_equal(l.a.error, 0);
		assert_int_equal(l.b.error, 0);
		look(&l);
	}
	assert_int_equal(l.a.n_received, n);
	assert_int_equal(l.b.n_received, n);
	line_close(&l);
}

static void test_both_ways(void **state)
{
	both_ways(12, false, 0, 500);
	both_ways(16, false, 0, 1000);
}

static void test_numbers_wrap(void **state)
{
	both_ways(12, false, UINT64_C(0x7fffff80), 400); /* immediates' 31 bits */
	both_ways(12, false, UINT64_C(0xffffff80), 400);
	both_ways(12, false, UINT64_C(0x3fff80), 400); /* laps' 16 bits */
}

static void test_polling(void **state)
{
	struct line l = {};
	bool ordered;

	bed_open(&l.bed);
	ordered = remote_caps(l.bed.a)->ordered;
	bed_close(&l.bed);
	if (!ordered)
		skip();
	both_ways(12, true, 0, 500);
}

/* Who receives nothing holds up the sender, and no byte is lost: what waits then comes. */
static void test_a_slow_reader_stops_the_sender(void **state)
{
	uint64_t stuck = 0;
	struct line l;

	line_open(&l, 12, false, 0);
	for (unsigned i = 0; i < 30; i++) {
		assert_int_equal(ring_end_send(&l.a, 1000), 0);
		stuck = l.a.n_sent;
		look(&l);
	}
	assert_true(stuck < 1000);
	assert_int_equal(ring_end_send(&l.a, 1000), 0);
	assert_int_equal(l.a.n_sent, stuck);
	for (uint64_t until = remote_now_ns(l.a.r) + WAIT_MS * UINT64_C(1000000); !l.b.fin;) {
		assert_true(remote_now_ns(l.a.r) < until);
		assert_int_equal(ring_end_receive(&l.b), RING_E_EMPTY);
		assert_int_equal(ring_end_send(&l.a, 1000), 0);
		look(&l);
	}
	assert_int_equal(l.b.n_received, 1000);
	assert_true(l.a.n_rooms > 0);
	line_close(&l);
}

/* Many records and one flush: two operations; and the head comes back now and then, not with each record. */
static void test_batches_and_lazy_heads(void **state)
{
	uint8_t plain[100] = {}, out[100];
	struct ring_remote_record record;
	struct line l;
	size_t room;

	line_open(&l, 16, false, 0);
	AWAIT(&l, remote_room(l.a.conn) == LIMIT_RDMA_OPS);
	for (unsigned i = 0; i < 50; i++)
		assert_int_equal(ring_remote_send(l.a.ring, 0, 1, plain, sizeof(plain)), 0);
	room = remote_room(l.a.conn);
	assert_int_equal(ring_remote_flush(l.a.ring), 0);
	assert_int_equal(room - remote_room(l.a.conn), 2);
	for (unsigned i = 0; i < 50; i++) {
		int r;

		AWAIT(&l, (r = ring_remote_receive(l.b.ring, out, sizeof(out), &record)) != RING_E_EMPTY);
		assert_int_equal(r, 0);
		assert_int_equal(record.size, sizeof(plain));
	}
	assert_int_equal(remote_room(l.b.conn), LIMIT_RDMA_OPS);
	line_close(&l);
}

/* A batch for each record, nobody takes any: as many as the peer has receives for, then it is full, with much of the ring left. */
static void test_batches_are_bounded(void **state)
{
	struct ring_remote_record record;
	unsigned n = 0, got = 0;
	uint8_t out[8];
	struct line l;
	int r = 0;

	line_open(&l, 16, false, 0);
	for (unsigned i = 0; r == 0; i++) {
		assert_true(i < 1000);
		AWAIT(&l, remote_room(l.a.conn) >= 4);
		assert_int_equal(ring_remote_send(l.a.ring, 0, 0, "x", 1), 0);
		r = ring_remote_flush(l.a.ring);
		n += r == 0;
	}
	assert_int_equal(r, RING_E_FULL);
	assert_int_equal(n, LIMIT_RDMA_IMMS);
	while (got < n + 1) {
		AWAIT(&l, (r = ring_remote_receive(l.b.ring, out, sizeof(out), &record)) == 0 || ring_remote_flush(l.a.ring) < 0);
		assert_int_equal(r, 0);
		got++;
	}
	line_close(&l);
}

static void test_wrong_calls(void **state)
{
	uint8_t key[REMOTE_KEY_SIZE], out[8];
	struct ring_remote_record record;
	struct remote_key k;
	struct line l;

	line_open(&l, 12, false, 0);
	assert_int_equal(ring_remote_send(l.a.ring, RING_FIN, 0, "x", 1), -EINVAL);
	assert_int_equal(ring_remote_send(l.a.ring, 0, RING_REMOTE_TAG_FIN, "x", 1), -EINVAL);
	assert_int_equal(ring_remote_send(l.a.ring, 0, 0, key, ring_remote_record_max(l.a.ring) + 1), -EMSGSIZE);
	ring_remote_key(l.b.ring, key);
	assert_int_equal(remote_key_get(&k, key), 0);
	k.size -= 64;
	remote_key_put(key, &k);
	assert_int_equal(ring_remote_start(l.a.ring, key), -EPROTO);
	memset(key, 0xff, sizeof(key));
	assert_int_equal(ring_remote_start(l.a.ring, key), -EPROTO);
	/* Too little room for a record: it stays, and comes when there is. */
	assert_int_equal(ring_remote_send(l.a.ring, 0, 9, "123456789", 9), 0);
	assert_int_equal(ring_remote_flush(l.a.ring), 0);
	AWAIT(&l, ring_remote_receive(l.b.ring, out, sizeof(out), &record) == -EMSGSIZE);
	{
		uint8_t more[9];

		assert_int_equal(ring_remote_receive(l.b.ring, more, sizeof(more), &record), 0);
		assert_memory_equal(more, "123456789", 9);
		assert_int_equal(record.tag, 9);
	}
	line_close(&l);
}

/* The peer goes: the records that came are there, then nothing; no FIN. */
static void test_the_peer_goes(void **state)
{
	struct line l;

	line_open(&l, 16, false, 0);
	assert_int_equal(ring_end_send(&l.a, 20), 0);
	AWAIT(&l, ring_end_receive(&l.b) == RING_E_EMPTY && l.b.n_received == 20 && l.b.fin);
	l.expects_end = true;
	remote_close(l.b.conn);
	l.b.conn = NULL;
	AWAIT(&l, l.a.down);
	assert_int_equal(l.a.why, REMOTE_PEER_GONE);
	assert_false(l.a.fin);
	assert_int_equal(ring_remote_send(l.a.ring, 0, 0, "x", 1), 0);
	assert_int_equal(ring_remote_flush(l.a.ring), -ENOTCONN);
	line_close(&l);
}

static void test_plain(void **state)
{
	struct ring_remote_options o = { .cap_log2 = 14, .plain = true, .polls = true };
	struct ring_remote_record record;
	struct ring_remote *none;
	uint8_t bytes[64];
	struct line l;

	g_plain = true;
	both_ways(14, false, 0, 2000);
	both_ways(12, false, UINT64_C(0xffffff00), 2000);
	line_open(&l, 14, false, 0);
	assert_int_equal(ring_remote_record_max(l.a.ring), (1 << 14) / 4);
	assert_int_equal(ring_remote_send(l.a.ring, 0, 5, "in clear", 8), 0);
	assert_non_null(memmem(l.a.memory, ring_remote_memory_size(14), "in clear", 8));
	assert_int_equal(ring_remote_send(l.a.ring, 0, 6, NULL, 0), 0);
	assert_int_equal(ring_remote_flush(l.a.ring), 0);
	for (int r = RING_E_EMPTY; r == RING_E_EMPTY; look(&l))
		r = ring_remote_receive(l.b.ring, bytes, sizeof(bytes), &record);
	assert_int_equal(record.size, 8);
	assert_int_equal(record.tag, 5);
	assert_memory_equal(bytes, "in clear", 8);
	assert_int_equal(ring_remote_receive(l.b.ring, bytes, sizeof(bytes), &record), 0);
	assert_int_equal(record.size, 0);
	assert_int_equal(record.tag, 6);
	line_close(&l);
	g_plain = false;
	assert_int_equal(ring_remote_new(&none, &o), -EINVAL); /* who polls cannot tell that it is whole */
}

/* Whoever writes into the copy of a plain ring can say what it likes, but not beyond it. */
static void test_plain_sizes_that_are_none(void **state)
{
	static const uint64_t sizes[] = { (1 << 14) / 4 + 1, 1 << 14, UINT32_MAX };

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct ring_remote_record record;
		uint8_t bytes[(1 << 14) / 4];
		_Atomic uint64_t *desc;
		struct line l;

		g_plain = true;
		line_open(&l, 14, false, 0);
		g_plain = false;
		l.expects_end = true;
		assert_int_equal(ring_remote_send(l.a.ring, 0, 0, "x", 1), 0);
		desc = (_Atomic uint64_t *)((uint8_t *)l.a.memory + SHM_PAGE); /* the first one; it is written when it is published */
		assert_int_equal(ring_remote_flush(l.a.ring), 0);
		assert_int_not_equal(atomic_load(desc), 0);
		desc = (_Atomic uint64_t *)((uint8_t *)l.b.memory + shm_region_size(14) + SHM_PAGE); /* in b's copy */
		AWAIT(&l, atomic_load(desc) != 0);
		atomic_store(desc, (atomic_load(desc) & ~UINT64_C(0xffffffff)) | sizes[i]);
		for (unsigned n = 0; n < 100; n++)
			look(&l);
		assert_int_equal(ring_remote_receive(l.b.ring, bytes, sizeof(bytes), &record), -EPROTO);
		line_close(&l);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_both_ways),
		cmocka_unit_test(test_numbers_wrap),
		cmocka_unit_test(test_polling),
		cmocka_unit_test(test_a_slow_reader_stops_the_sender),
		cmocka_unit_test(test_batches_and_lazy_heads),
		cmocka_unit_test(test_batches_are_bounded),
		cmocka_unit_test(test_wrong_calls),
		cmocka_unit_test(test_the_peer_goes),
		cmocka_unit_test(test_plain),
		cmocka_unit_test(test_plain_sizes_that_are_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
