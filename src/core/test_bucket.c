/* The bucket against a reference that really ticks, every 10 ms, in whole fractions of a token. */
#include "core/bucket.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define S UINT64_C(1000000000)

static void take_all_every(struct bucket *b, uint64_t *now, uint64_t step_ns, uint64_t for_ns, uint64_t *ret_taken)
{
	for (uint64_t end = *now + for_ns; *now < end;) {
		uint64_t n;

		*now += step_ns;
		n = bucket_available(b, *now);
		bucket_take(b, n);
		*ret_taken += n;
	}
}

static void test_no_limit(void **unused)
{
	struct bucket b;

	(void)unused;
	bucket_init(&b, 0, 0, 5);
	assert_true(bucket_available(&b, 5) == UINT64_MAX);
	bucket_take(&b, UINT64_MAX);
	assert_true(bucket_available(&b, 6) == UINT64_MAX);
	assert_int_equal(bucket_wait_ns(&b, 6), 0);
}

static void test_rate_is_exact(void **unused)
{
	static const uint64_t rates[] = { 1, 3, 7, 99, 100, 101, 1000, 12345, 1000003, UINT64_C(10000000000) };
	static const uint64_t steps[] = { 1000000, 7000000, 10000000, 99999999 };

	(void)unused;
	for (size_t r = 0; r < ARRAY_SIZE(rates); r++)
		for (size_t k = 0; k < ARRAY_SIZE(steps); k++) {
			struct bucket b;
			uint64_t now = 123456789, taken = 0, start = now;

			bucket_init(&b, rates[r], 0, now);
			bucket_take(&b, bucket_available(&b, now));
			/* It asks at least once while the initial number gathers (100 ms), so no coarse tick takes anything. */
			take_all_every(&b, &now, steps[k], 21 * S, &taken);
			assert_int_equal(taken, (unsigned __int128)((now - start) / BUCKET_FINE_NS) * rates[r] / 100);
		}
}

static void test_silent_cannot_burst(void **unused)
{
	static const uint64_t silences[] = { 1, 2, 60, 86400, UINT64_C(10) * 365 * 86400 };

	(void)unused;
	for (size_t k = 0; k < ARRAY_SIZE(silences); k++) {
		struct bucket b;

		bucket_init(&b, 1000, 0, 77);
		assert_int_equal(bucket_available(&b, 77), 100);
		/* On a coarse tick: the initial number; just before the next one: never more than a second's worth. */
		assert_int_equal(bucket_available(&b, 77 + silences[k] * S), 100);
		assert_int_equal(bucket_available(&b, 77 + silences[k] * S + S - 1), 1000);
	}
}

static void test_initial_number(void **unused)
{
	struct bucket b;

	(void)unused;
	bucket_init(&b, 1, 0, 0);
	assert_int_equal(b.initial, 1);
	bucket_init(&b, 5, 0, 0);
	assert_int_equal(b.initial, 1);
	bucket_init(&b, 1000, 1, 0);
	assert_true(b.initial >= 10); /* a fine tick's worth, else a coarse tick would take from the rate */
	bucket_init(&b, 1000, 5000, 0);
	assert_int_equal(bucket_available(&b, 0), 5000);
	bucket_init(&b, UINT64_MAX, 0, 0);
	assert_true(bucket_available(&b, UINT64_MAX / 2) > 0);
}

static void test_wait(void **unused)
{
	static const uint64_t rates[] = { 1, 3, 50, 100, 777, 1000000 };

	(void)unused;
	for (size_t r = 0; r < ARRAY_SIZE(rates); r++) {
		uint64_t now = 42;
		struct bucket b;

		bucket_init(&b, rates[r], 0, now);
		for (int k = 0; k < 500; k++) {
			uint64_t wait;

			bucket_take(&b, bucket_available(&b, now));
			now += (uint64_t)random() % BUCKET_FINE_NS;
			if (bucket_available(&b, now) > 0) {
				assert_int_equal(bucket_wait_ns(&b, now), 0);
				continue;
			}
			wait = bucket_wait_ns(&b, now);
			assert_in_range(wait, 1, S);
			assert_int_equal(bucket_available(&b, now + wait - 1), 0);
			assert_true(bucket_available(&b, now + wait) > 0);
			now += wait;
		}
	}
}

static void test_new_rate(void **unused)
{
	struct bucket b;

	(void)unused;
	bucket_init(&b, 1000, 0, 0);
	assert_int_equal(bucket_available(&b, S / 2), 600);
	bucket_set_rate(&b, 100, 0, S / 2);
	assert_int_equal(bucket_available(&b, S / 2), 10); /* above the new initial: given up */
	assert_int_equal(bucket_available(&b, S / 2 + BUCKET_FINE_NS), 11);
	bucket_set_rate(&b, 0, 0, S);
	assert_true(bucket_available(&b, S) == UINT64_MAX);
	bucket_set_rate(&b, 10, 0, 2 * S);
	assert_int_equal(bucket_available(&b, 2 * S), 1);
}

static void test_clock_that_stands(void **unused)
{
	struct bucket b;

	(void)unused;
	bucket_init(&b, 1000, 0, 10 * S);
	bucket_take(&b, 100);
	assert_int_equal(bucket_available(&b, 10 * S), 0);
	assert_int_equal(bucket_available(&b, 9 * S), 0); /* and one that goes back gives nothing */
}

struct reference {
	uint64_t rate, initial, ceiling, tokens, fractions, ticks;
};

static void reference_run(struct reference *m, uint64_t until_ticks)
{
	while (m->ticks < until_ticks) {
		m->ticks++;
		m->fractions += m->rate;
		m->tokens += m->fractions / 100;
		m->fractions %= 100;
		if (m->tokens > m->ceiling)
			m->tokens = m->ceiling;
		if (m->ticks % 100 == 0 && m->tokens > m->initial)
			m->tokens = m->initial;
	}
}

static void test_random_schedules(void **unused)
{
	(void)unused;
	srandom(3);
	for (int round = 0; round < 300; round++) {
		uint64_t rate = 1 + (uint64_t)random() % (round % 3 ? 300 : 10000000), start = (uint64_t)random();
		uint64_t initial = round % 2 ? 0 : (uint64_t)random() % (2 * rate + 1), now = start;
		struct reference m;
		struct bucket b;

		bucket_init(&b, rate, initial, start);
		m = (struct reference){ .rate = rate, .initial = b.initial, .tokens = b.initial,
					.ceiling = b.initial > rate ? b.initial : rate };
		for (int k = 0; k < 100; k++) {
			uint64_t n, take;

			now += (uint64_t)random() % (k % 7 == 0 ? 5 * S : S / 20);
			reference_run(&m, (now - start) / BUCKET_FINE_NS);
			n = bucket_available(&b, now);
			assert_int_equal(n, m.tokens);
			take = n ? (uint64_t)random() % (n + 1) : 0;
			bucket_take(&b, take);
			m.tokens -= take;
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_limit),       cmocka_unit_test(test_rate_is_exact),
		cmocka_unit_test(test_silent_cannot_burst), cmocka_unit_test(test_initial_number),
		cmocka_unit_test(test_wait),	       cmocka_unit_test(test_new_rate),
		cmocka_unit_test(test_clock_that_stands), cmocka_unit_test(test_random_schedules),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
