/* Who counts as one, and who has to go when too many have proven nothing. The tables of a linker without its process. */
#include "daemon/linker_int.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <stdio.h>

static int setup(void **state)
{
	struct linker *k = calloc(1, sizeof(*k));

	assert_non_null(k);
	assert_int_equal(linker_tables_init(k), 0);
	k->strangers_at_ns = clock_ns();
	*state = k;
	return 0;
}

static int teardown(void **state)
{
	struct linker *k = *state;

	linker_tables_free(k);
	assert_null(k->sources);
	free(k);
	return 0;
}

static void test_who_is_one(void **state)
{
	static const struct {
		const char *a, *b;
		bool same;
	} pairs[] = {
		{ "10.0.0.1:1", "10.0.0.1:2", true },
		{ "10.0.0.1:1", "10.0.0.2:1", false },
		{ "[2001:db8::1]:1", "[2001:db8::ffff:2]:1", true },
		{ "[2001:db8::1]:1", "[2001:db8:0:1::1]:1", false },
		{ "[::1]:1", "0.0.0.0:1", false },
		{ "[::a00:1]:1", "10.0.0.1:1", false },
		{ "no address", "neither", true },
	};
	struct linker *k = *state;

	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		struct source *a = source_of_text(k, pairs[i].a), *b = source_of_text(k, pairs[i].b);

		if ((a == b) != pairs[i].same)
			fail_msg("%s, %s", pairs[i].a, pairs[i].b);
		source_unref(k, a);
		source_unref(k, b);
		assert_null(k->sources);
	}
}

static struct session *come(struct linker *k, const char *address)
{
	struct session *s = session_take(k);

	assert_non_null(s);
	s->source = source_of_text(k, address);
	stranger_add(k, s);
	return s;
}

/* More of one address than it may have: its own oldest goes, and nobody else. */
static void test_one_address(void **state)
{
	struct linker *k = *state;
	struct session *other = come(k, "10.0.0.2:1"), *first = come(k, "10.0.0.1:1"), *second = come(k, "10.0.0.1:1");

	for (int i = 2; i < LIMIT_LINK_STRANGERS_OF_ONE; i++)
		come(k, "10.0.0.1:1");
	assert_int_equal(k->n_strangers, LIMIT_LINK_STRANGERS_OF_ONE + 1);
	assert_int_equal(first->phase, PHASE_DIALING);
	come(k, "10.0.0.1:1");
	assert_int_equal(first->phase, PHASE_OVER);
	assert_true(first->dropped);
	assert_int_equal(second->phase, PHASE_DIALING);
	assert_int_equal(other->phase, PHASE_DIALING);
	assert_int_equal(k->n_strangers, LIMIT_LINK_STRANGERS_OF_ONE + 1);
}

/* More of all: the oldest of who has the most. Somebody who has been there for longer, but alone, stays. */
static void test_many_addresses(void **state)
{
	struct linker *k = *state;
	struct session *alone = come(k, "[2001:db8::1]:1"), *oldest = NULL;
	char address[LIMIT_ADDRESS_SIZE];

	for (int i = 1; i < LIMIT_LINK_STRANGERS; i++) {
		struct session *s;

		snprintf(address, sizeof(address), "10.0.0.%d:1", i % 4 < 2 ? i % 4 + 3 : 2);
		s = come(k, address);
		if (!oldest && i % 4 >= 2)
			oldest = s;
	}
	assert_int_equal(k->n_strangers, LIMIT_LINK_STRANGERS);
	assert_int_equal(oldest->phase, PHASE_DIALING);
	come(k, "10.0.0.9:1");
	assert_int_equal(k->n_strangers, LIMIT_LINK_STRANGERS);
	assert_int_equal(oldest->phase, PHASE_OVER);
	assert_int_equal(alone->phase, PHASE_DIALING);
	/* Who proves something is none any more, and cannot be dropped. */
	stranger_leave(k, alone);
	stranger_leave(k, alone);
	while (stranger_drop_any(k))
		continue;
	assert_int_equal(k->n_strangers, 0);
	assert_int_equal(alone->phase, PHASE_DIALING);
}

/* A quarter of the time while others have work; a part of each turn otherwise. */
static void test_time(void **state)
{
	struct linker *k = *state;

	k->strangers_at_ns = clock_ns() - 1000 * MS_NS;
	strangers_turn(k);
	k->busy = true;
	assert_true(stranger_may_work(k));
	stranger_worked(k, clock_ns() - 100 * MS_NS); /* more than was saved up */
	assert_false(stranger_may_work(k));
	assert_false(stranger_may_come(k));
	k->strangers_at_ns = clock_ns() - 100 * MS_NS;
	strangers_turn(k);
	assert_false(stranger_may_work(k));
	k->busy = false; /* nobody else is there */
	assert_true(stranger_may_work(k));
	stranger_worked(k, clock_ns() - MS_NS);
	assert_false(stranger_may_work(k));
	strangers_turn(k);
	assert_true(stranger_may_work(k));
	k->busy = true;
	k->strangers_at_ns = clock_ns() - 1000 * MS_NS;
	for (int i = 0; i < 100; i++) { /* each turn adds at most what is saved up */
		strangers_turn(k);
		k->strangers_at_ns = clock_ns() - 1000 * MS_NS;
	}
	assert_true(stranger_may_work(k));
}

/* Those who wait to be accepted and those who were take turns when there is no time for both. */
static void test_turns(void **state)
{
	struct linker *k = *state;

	assert_true(stranger_may_come(k));
	stranger_worked(k, clock_ns() - MS_NS);
	assert_false(stranger_may_work(k)); /* one has to wait */
	strangers_turn(k);
	assert_false(stranger_may_come(k));
	assert_true(stranger_may_work(k));
	assert_true(stranger_may_come(k));
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_who_is_one), TEST(test_one_address), TEST(test_many_addresses), TEST(test_time), TEST(test_turns),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
