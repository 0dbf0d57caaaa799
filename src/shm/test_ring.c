#include "shm/test_pair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

enum { CAP_LOG2 = 12, CAP = 1 << CAP_LOG2, N_DESCS = CAP / 64, MAX = CAP / 4 };

static int set_up(void **state)
{
	struct pair_end *e = calloc(2, sizeof(*e));

	PAIR_MUST(e != NULL);
	pair_make(e, CAP_LOG2, 0, false);
	*state = e;
	return 0;
}

static int tear_down(void **state)
{
	pair_drop(*state);
	free(*state);
	return 0;
}

/* Stages one record; returns what ring_tx_reserve() said. */
static int stage(struct ring_tx *tx, uint32_t size, uint64_t number)
{
	void *place;
	int r = ring_tx_reserve(tx, size, &place);

	if (r != 0)
		return r;
	assert_int_equal((uintptr_t)place & 63, 0);
	pair_fill(place, size, number);
	ring_tx_stage(tx, size, 0, (uint8_t)number);
	return 0;
}

static void publish(struct ring_tx *tx)
{
	assert_int_equal(ring_tx_publish(tx), RING_AWAKE);
}

static void expect_record(struct ring_rx *rx, uint32_t size, uint64_t number)
{
	struct ring_record record = { .data = NULL };

	assert_int_equal(ring_rx_peek(rx, &record), 0);
	assert_int_equal(record.size, size);
	assert_int_equal(record.flags, 0);
	assert_int_equal(record.tag, (uint8_t)number);
	assert_true(pair_same(record.data, size, number));
}

static void take(struct ring_rx *rx, uint32_t size, uint64_t number)
{
	expect_record(rx, size, number);
	assert_int_equal(ring_rx_release(rx), RING_AWAKE);
}

static void expect_empty(struct ring_rx *rx)
{
	struct ring_record record;

	assert_int_equal(ring_rx_peek(rx, &record), RING_E_EMPTY);
}

static void every_size_arrives(void **state)
{
	struct pair_end *e = *state;

	for (uint32_t size = 0; size <= MAX; size++) {
		assert_int_equal(stage(&e[0].tx, size, size), 0);
		expect_empty(&e[1].rx);
		publish(&e[0].tx);
		take(&e[1].rx, size, size);
		expect_empty(&e[1].rx);
	}
	assert_int_equal(e[0].own.base->n_records, MAX + 1);
	assert_int_equal(e[0].own.base->n_bytes, (uint64_t)MAX * (MAX + 1) / 2);
}

static void larger_than_a_quarter_is_refused(void **state)
{
	struct pair_end *e = *state;
	void *place = NULL;

	assert_int_equal(ring_tx_reserve(&e[0].tx, MAX + 1, &place), -EMSGSIZE);
	assert_int_equal(ring_tx_reserve(&e[0].tx, UINT32_MAX, &place), -EMSGSIZE);
	assert_null(place);
}

static void flags_and_tag_arrive(void **state)
{
	struct pair_end *e = *state;
	struct ring_record record;
	void *place;

	assert_int_equal(ring_tx_reserve(&e[0].tx, 5, &place), 0);
	memcpy(place, "hello", 5);
	ring_tx_stage(&e[0].tx, 5, RING_MORE, 0xee);
	ring_tx_stage_fin(&e[0].tx);
	publish(&e[0].tx);
	assert_int_equal(ring_rx_peek(&e[1].rx, &record), 0);
	assert_int_equal(record.flags, RING_MORE);
	assert_int_equal(record.tag, 0xee);
	assert_memory_equal(record.data, "hello", 5);
	assert_int_equal(ring_rx_release(&e[1].rx), RING_AWAKE);
	assert_int_equal(ring_rx_peek(&e[1].rx, &record), 0);
	assert_int_equal(record.flags, RING_FIN);
	assert_int_equal(record.size, 0);
}

/* Puts the next record @offset bytes into the ring, with nothing in it. */
static void go_to(struct pair_end *e, uint64_t offset)
{
	while ((e[0].tx.tail & (CAP - 1)) != offset) {
		assert_int_equal(stage(&e[0].tx, 1, 7), 0);
		publish(&e[0].tx);
		take(&e[1].rx, 1, 7);
		expect_empty(&e[1].rx);
	}
}

static void what_does_not_fit_at_the_end_begins_at_the_start(void **state)
{
	struct pair_end *e = *state;
	void *place;

	go_to(e, CAP - 128);
	assert_int_equal(ring_tx_reserve(&e[0].tx, 128, &place), 0);
	assert_ptr_equal(place, e[0].tx.data + CAP - 128); /* it fits exactly */
	assert_int_equal(ring_tx_reserve(&e[0].tx, 129, &place), 0);
	assert_ptr_equal(place, e[0].tx.data);
	assert_int_equal(stage(&e[0].tx, 129, 1), 0);
	assert_int_equal(stage(&e[0].tx, MAX, 2), 0);
	publish(&e[0].tx);
	take(&e[1].rx, 129, 1);
	take(&e[1].rx, MAX, 2);
	assert_int_equal(e[1].rx.head, e[0].tx.tail);
}

/* The reader knows the size only: a record that became small must not lie where only a large one would. */
static void staged_smaller_than_reserved_at_the_end(void **state)
{
	struct pair_end *e = *state;
	static const uint32_t sizes[] = { 0, 1, 64, 65, 128, 129, 500 };

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		void *place;

		go_to(e, CAP - 128);
		assert_int_equal(ring_tx_reserve(&e[0].tx, MAX, &place), 0);
		pair_fill(place, sizes[i], i);
		ring_tx_stage(&e[0].tx, sizes[i], 0, (uint8_t)i);
		assert_int_equal(stage(&e[0].tx, 77, 9), 0);
		publish(&e[0].tx);
		take(&e[1].rx, sizes[i], i);
		take(&e[1].rx, 77, 9);
		expect_empty(&e[1].rx);
		assert_int_equal(e[1].rx.head, e[0].tx.tail);
	}
}

static void full_keeps_a_line_for_the_end(void **state)
{
	struct pair_end *e = *state;
	struct ring_record record;
	uint32_t n = 0;

	while (stage(&e[0].tx, 1, n) == 0)
		n++;
	assert_int_equal(n, N_DESCS - 1);
	assert_int_equal(stage(&e[0].tx, 0, n), RING_E_FULL);
	ring_tx_stage_fin(&e[0].tx);
	assert_int_equal(stage(&e[0].tx, 0, n), RING_E_FULL);
	publish(&e[0].tx);
	for (uint32_t i = 0; i < n; i++)
		take(&e[1].rx, 1, i);
	assert_int_equal(ring_rx_peek(&e[1].rx, &record), 0);
	assert_int_equal(record.flags, RING_FIN);
	assert_int_equal(ring_rx_release(&e[1].rx), RING_AWAKE);
	expect_empty(&e[1].rx);
	assert_int_equal(e[0].own.base->n_records, N_DESCS);
}

/* From anywhere in the ring two largest records have room, or a producer of such would wait for ever. */
static void two_largest_always_have_room(void **state)
{
	struct pair_end *e = *state;

	for (uint64_t offset = 0; offset < CAP; offset += 64) {
		go_to(e, offset);
		assert_int_equal(stage(&e[0].tx, MAX, 1), 0);
		assert_int_equal(stage(&e[0].tx, MAX, 2), 0);
		publish(&e[0].tx);
		take(&e[1].rx, MAX, 1);
		take(&e[1].rx, MAX, 2);
		expect_empty(&e[1].rx);
	}
}

static void a_batch_is_seen_as_a_whole(void **state)
{
	struct pair_end *e = *state;

	publish(&e[0].tx); /* nothing is staged: nothing happens */
	for (uint32_t round = 0; round < 3 * N_DESCS; round++) {
		for (uint32_t i = 0; i < 5; i++) {
			assert_int_equal(stage(&e[0].tx, 60 + i, i), 0);
			expect_empty(&e[1].rx);
		}
		publish(&e[0].tx);
		for (uint32_t i = 0; i < 5; i++)
			take(&e[1].rx, 60 + i, i);
		expect_empty(&e[1].rx);
	}
}

static void peeking_again_gives_it_again(void **state)
{
	struct pair_end *e = *state;

	assert_int_equal(stage(&e[0].tx, 100, 1), 0);
	assert_int_equal(stage(&e[0].tx, 200, 2), 0);
	publish(&e[0].tx);
	expect_record(&e[1].rx, 100, 1);
	expect_record(&e[1].rx, 100, 1);
	take(&e[1].rx, 100, 1);
	take(&e[1].rx, 200, 2);
}

static void head_is_held_back_until_a_quarter_or_empty(void **state)
{
	struct pair_end *e = *state;
	_Atomic uint64_t *head = &e[1].own.base->head;

	for (uint32_t i = 0; i < 40; i++)
		assert_int_equal(stage(&e[0].tx, 64, i), 0);
	publish(&e[0].tx);
	for (uint32_t i = 0; i < 15; i++) {
		take(&e[1].rx, 64, i);
		assert_int_equal(atomic_load(head), 0);
	}
	take(&e[1].rx, 64, 15);
	assert_int_equal(atomic_load(head), CAP / 4);
	for (uint32_t i = 16; i < 40; i++)
		take(&e[1].rx, 64, i);
	assert_int_equal(atomic_load(head), CAP / 2);
	expect_empty(&e[1].rx);
	assert_int_equal(atomic_load(head), 40 * 64);
}

/* The producer looks at the peer's head only when what it knows is not enough. */
static void head_is_looked_at_when_needed(void **state)
{
	struct pair_end *e = *state;

	for (uint32_t i = 0; i < 32; i++)
		assert_int_equal(stage(&e[0].tx, 64, i), 0);
	publish(&e[0].tx);
	for (uint32_t i = 0; i < 32; i++)
		take(&e[1].rx, 64, i);
	assert_int_equal(e[0].tx.head, 0);
	for (uint32_t i = 0; i < 40; i++)
		assert_int_equal(stage(&e[0].tx, 64, i), 0);
	assert_int_equal(e[0].tx.head, 32 * 64);
}

/* Wherever numbers come round: the lap (16 bits), 32 bits, 64 bits, of descriptors and of bytes. */
static void counters_may_wrap(void **state)
{
	static const uint64_t starts[] = {
		0, 65534u * N_DESCS - 3, 65535u * N_DESCS - 1, (UINT64_C(1) << 32) - 3, (UINT64_C(1) << 32) - N_DESCS,
		(UINT64_C(1) << 63) - 3, UINT64_MAX - 2, UINT64_MAX - 2 * N_DESCS,
	};
	static const uint64_t positions[] = { 0, (UINT64_C(1) << 32) - 128, (UINT64_C(1) << 63) - 64, UINT64_MAX - 127 };

	for (size_t s = 0; s < ARRAY_SIZE(starts) * ARRAY_SIZE(positions); s++) {
		struct pair_end e[2];
		uint64_t sent = 0, got = 0;

		pair_make(e, CAP_LOG2, starts[s % ARRAY_SIZE(starts)], false);
		pair_move(e, positions[s / ARRAY_SIZE(starts)]);
		expect_empty(&e[1].rx);
		while (got < 5 * N_DESCS) {
			while (sent < 5 * N_DESCS && stage(&e[0].tx, (uint32_t)(sent * 37 % 300), sent) == 0)
				sent++;
			publish(&e[0].tx);
			while (got < sent) {
				take(&e[1].rx, (uint32_t)(got * 37 % 300), got);
				got++;
			}
			expect_empty(&e[1].rx);
		}
		pair_drop(e);
	}
}

/* Every slot of a fresh ring says "not there yet", whatever number it starts with. */
static void a_fresh_ring_is_empty(void **state)
{
	struct pair_end e[2];

	for (uint64_t start = 65535u * N_DESCS - 2; start < 65535u * N_DESCS + 3; start++) {
		pair_make(e, CAP_LOG2, start, false);
		for (uint32_t i = 0; i < N_DESCS; i++) {
			expect_empty(&e[1].rx);
			e[1].rx.index++;
		}
		pair_drop(e);
	}
}

static void largest_and_smallest_rings(void **state)
{
	static const uint32_t caps[] = { SHM_CAP_LOG2_MIN, 15, 16, 22 };

	for (size_t i = 0; i < ARRAY_SIZE(caps); i++) {
		struct pair_end e[2];
		uint32_t max = ring_record_max(shm_cap(caps[i]));

		pair_make(e, caps[i], 0, false);
		for (uint32_t n = 0; n < 9; n++) {
			assert_int_equal(stage(&e[0].tx, max, n), 0);
			publish(&e[0].tx);
			take(&e[1].rx, max, n);
			expect_empty(&e[1].rx);
		}
		pair_drop(e);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(every_size_arrives, set_up, tear_down),
		cmocka_unit_test_setup_teardown(larger_than_a_quarter_is_refused, set_up, tear_down),
		cmocka_unit_test_setup_teardown(flags_and_tag_arrive, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_does_not_fit_at_the_end_begins_at_the_start, set_up, tear_down),
		cmocka_unit_test_setup_teardown(staged_smaller_than_reserved_at_the_end, set_up, tear_down),
		cmocka_unit_test_setup_teardown(full_keeps_a_line_for_the_end, set_up, tear_down),
		cmocka_unit_test_setup_teardown(two_largest_always_have_room, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_batch_is_seen_as_a_whole, set_up, tear_down),
		cmocka_unit_test_setup_teardown(peeking_again_gives_it_again, set_up, tear_down),
		cmocka_unit_test_setup_teardown(head_is_held_back_until_a_quarter_or_empty, set_up, tear_down),
		cmocka_unit_test_setup_teardown(head_is_looked_at_when_needed, set_up, tear_down),
		cmocka_unit_test(counters_may_wrap),
		cmocka_unit_test(a_fresh_ring_is_empty),
		cmocka_unit_test(largest_and_smallest_rings),
	};

	return cmocka_run_group_tests_name("ring", tests, NULL, NULL);
}
