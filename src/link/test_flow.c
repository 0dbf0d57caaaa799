#include "link/flow.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { WINDOW = 65536 };

static void test_sender(void **state)
{
	struct flow f;

	flow_init(&f, FRAME_WINDOW_MIN, WINDOW);
	flow_sent(&f, 16000);
	flow_raise(&f, 3 * FRAME_WINDOW_MIN); /* HELLO: what was sent before it counts */
	assert_int_equal(f.send, 3 * FRAME_WINDOW_MIN - 16000);
	assert_int_equal(flow_granted(&f, 16001, 3 * FRAME_WINDOW_MIN), -EPROTO);
	assert_int_equal(flow_granted(&f, 16000, 3 * FRAME_WINDOW_MIN), 0);
	assert_int_equal(flow_granted(&f, 1, 3 * FRAME_WINDOW_MIN), -EPROTO);
	assert_int_equal(flow_granted(&f, UINT32_MAX, 3 * FRAME_WINDOW_MIN), -EPROTO);
}

static void test_receiver(void **state)
{
	struct flow f;

	flow_init(&f, WINDOW, WINDOW);
	assert_int_equal(flow_received(&f, WINDOW + 1), -EPROTO);
	assert_int_equal(flow_received(&f, WINDOW), 0);
	assert_int_equal(flow_received(&f, 1), -EPROTO);
	assert_false(flow_taken(&f, WINDOW / 2 - 1));
	assert_true(flow_taken(&f, 1));
	assert_int_equal(flow_give(&f), WINDOW / 2);
	assert_int_equal(flow_give(&f), 0);
	assert_int_equal(flow_received(&f, WINDOW / 2 + 1), -EPROTO);
	assert_int_equal(flow_received(&f, WINDOW / 2), 0);
}

/* Two ends, at random: never stuck, never more on its way than the window. */
static void test_both(void **state)
{
	uint32_t seed = 1, on_way = 0, kept = 0;
	struct flow tx, rx;

	flow_init(&tx, WINDOW, WINDOW);
	flow_init(&rx, WINDOW, WINDOW);
	for (int i = 0; i < 100000; i++) {
		uint32_t n;

		seed = seed * 1664525 + 1013904223;
		n = (seed >> 8) % 20000;
		switch (seed >> 30) {
		case 0:
			n = n < tx.send ? n : tx.send;
			flow_sent(&tx, n);
			on_way += n;
			break;
		case 1:
			n = n < on_way ? n : on_way;
			assert_int_equal(flow_received(&rx, n), 0);
			on_way -= n;
			kept += n;
			break;
		default:
			n = n < kept ? n : kept;
			kept -= n;
			if (flow_taken(&rx, n))
				assert_int_equal(flow_granted(&tx, flow_give(&rx), WINDOW), 0);
		}
		assert_true(on_way + kept <= WINDOW);
		assert_true(tx.send > 0 || on_way > 0 || kept > 0); /* somebody can go on */
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sender),
		cmocka_unit_test(test_receiver),
		cmocka_unit_test(test_both),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
