/* Who counts as one, and who has to go when too many have proven nothing. The tables of a linker without its process. */
#include "daemon/linker_int.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <stdio.h>

enum { CHUNKS_MAX = 3, ANSWERS_MAX = 1 << 20 };

static int setup(void **state)
{
	struct linker *k = calloc(1, sizeof(*k));

	assert_non_null(k);
	assert_int_equal(linker_tables_init(k), 0);
	k->strangers_at_ns = clock_ns();
	k->proven_max = LIMIT_LINK_SESSIONS_IN;
	k->joiners_max = LIMIT_LINK_JOINERS;
	k->chunks_max = CHUNKS_MAX;
	k->answers_max = ANSWERS_MAX;
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

/* Those who have proven whose they are. */

/* @host: hexadecimal, 16 digits: to whom its certificate was issued; NULL: it does not say. Return: NULL: there is no room. */
static struct session *prove(struct linker *k, const char *address, const char *host, enum frame_purpose purpose)
{
	struct session *s = come(k, address);
	static uint64_t n;

	stranger_leave(k, s);
	s->purpose = purpose;
	if (host)
		snprintf(s->tls.peer.serial, sizeof(s->tls.peer.serial), "4%015" PRIx64 "%s", ++n, host);
	if (!proven_add(k, s))
		return s;
	session_give(k, s);
	return NULL;
}

static const char g_bad[] = "bad0bad0bad0bad0", g_good[] = "7b8a725d1b752144";

/* A host that takes all that it can get, from one address: half. Each that comes after it has half of what is left; and they have its place when it goes. */
static void test_no_host_takes_all(void **state)
{
	struct linker *k = *state;
	struct session *taken[LIMIT_LINK_SESSIONS_IN];
	unsigned n = 0, left = LIMIT_LINK_SESSIONS_IN;
	char address[LIMIT_ADDRESS_SIZE];

	while ((taken[n] = prove(k, "10.0.0.1:1", g_bad, FRAME_FOR_LANES)))
		n++;
	assert_int_equal(n, LIMIT_LINK_SESSIONS_IN / 2);
	assert_null(prove(k, "10.0.0.1:2", g_bad, FRAME_FOR_HOSTS));
	for (unsigned i = 2; i < 6; i++) {
		unsigned before = k->n_proven;

		left = LIMIT_LINK_SESSIONS_IN - before;
		snprintf(address, sizeof(address), "10.0.0.%u:1", i);
		while (prove(k, address, NULL, FRAME_FOR_LANES))
			continue;
		assert_in_range(k->n_proven - before, left / 2, left / 2 + 1);
	}
	while (n > 0)
		session_give(k, taken[--n]);
	for (unsigned i = 0; i < left; i++)
		assert_non_null(prove(k, "10.0.0.9:1", g_good, FRAME_FOR_LANES));
}

/* From many addresses: it is one host. At one address: hosts of which nobody knows more. */
static void test_whose_it_is(void **state)
{
	struct linker *k = *state;
	char address[LIMIT_ADDRESS_SIZE];
	unsigned n = 0;

	do
		snprintf(address, sizeof(address), "[2001:db8:0:%x::1]:1", n++ & 0xfff);
	while (prove(k, address, g_bad, FRAME_FOR_LANES));
	assert_int_equal(k->n_proven, LIMIT_LINK_SESSIONS_IN / 2);
	assert_non_null(prove(k, address, g_good, FRAME_FOR_LANES));
	while (prove(k, "10.0.0.1:1", NULL, FRAME_FOR_LANES))
		continue;
	assert_non_null(prove(k, "10.0.0.2:1", NULL, FRAME_FOR_LANES));
}

/* Questions to the authority. Another one at the same address still has its own. */
static void test_questions(void **state)
{
	struct linker *k = *state;
	struct session *s = NULL;

	for (unsigned i = 0; i < LIMIT_LINK_QUESTIONS_OF_ONE; i++)
		assert_non_null(s = prove(k, "10.0.0.1:1", g_bad, FRAME_FOR_CA));
	assert_null(prove(k, "10.0.0.2:1", g_bad, FRAME_FOR_CA));
	assert_non_null(prove(k, "10.0.0.1:1", g_bad, FRAME_FOR_LANES));
	assert_non_null(prove(k, "10.0.0.1:1", g_good, FRAME_FOR_CA));
	session_give(k, s);
	assert_non_null(prove(k, "10.0.0.2:1", g_bad, FRAME_FOR_CA));
	assert_null(prove(k, "10.0.0.2:1", g_bad, FRAME_FOR_CA));
}

/* Those whose question is with the broker: half of one address; the others wait, as strangers, which others' do not. */
static void test_joiners(void **state)
{
	struct linker *k = *state;
	struct session *first = come(k, "10.0.0.1:1"), *s;
	unsigned n = 1;

	assert_true(joiner_add(k, first));
	assert_false(first->is_stranger);
	while (joiner_add(k, s = come(k, "10.0.0.1:1")))
		n++;
	assert_int_equal(n, LIMIT_LINK_JOINERS / 2);
	assert_true(s->is_stranger);
	assert_true(joiner_add(k, come(k, "10.0.0.2:1")));
	assert_false(joiner_add(k, s));
	assert_false(k->joiner_left);
	session_over(k, first, SESSION_LOST, "");
	joiner_leave(k, first);
	assert_true(k->joiner_left);
	assert_int_equal(k->n_joiners, n);
	assert_true(joiner_add(k, s));
	assert_false(joiner_add(k, come(k, "10.0.0.1:1")));
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

/* The log: some lines of each, also where it comes again and again; others' are not touched. */
static void test_lines(void **state)
{
	struct linker *k = *state;
	unsigned n_told = 0;
	struct source *other;
	uint64_t more;

	/* Two may share a place; with these numbers these two do not. */
	k->source_secret[0] = UINT64_C(0x9e3779b97f4a7c15);
	k->source_secret[1] = UINT64_C(0xbf58476d1ce4e5b9);
	k->now_ns = clock_ns();
	other = source_of_text(k, "10.0.0.2:1");
	for (int i = 0; i < 1000; i++) {
		struct source *s = source_of_text(k, "10.0.0.1:1");

		n_told += source_may_tell(k, s, &more);
		source_unref(k, s);
	}
	assert_in_range(n_told, 1, 20);
	assert_true(source_may_tell(k, other, &more));
	assert_int_equal(more, 0);
	source_unref(k, other);
	k->now_ns += 5000 * MS_NS;
	other = source_of_text(k, "10.0.0.1:1");
	assert_true(source_may_tell(k, other, &more));
	assert_int_equal(more, 1000 - n_told);
	source_unref(k, other);
}

/* What waits for them to read it. */

static struct session *session_of(struct linker *k, const char *address)
{
	struct session *s = come(k, address);

	stranger_leave(k, s);
	s->phase = PHASE_UP;
	return s;
}

static bool takes_chunk(struct linker *k, struct session *s)
{
	if (!source_grants_chunk(k, s))
		return false;
	assert_true(session_lend_chunk(k, s));
	s->chunk_granted = true;
	s->chunk_size = 10;
	assert_false(source_is_over(k, s));
	return true;
}

/* Of one host so many sessions have ciphertext that waits; others have their turn after them, in their order. */
static void test_chunks(void **state)
{
	struct linker *k = *state;
	struct session *has[CHUNKS_MAX], *first, *second, *lent;

	for (unsigned i = 0; i < CHUNKS_MAX; i++)
		assert_true(takes_chunk(k, has[i] = session_of(k, "10.0.0.1:1")));
	first = session_of(k, "10.0.0.1:2");
	second = session_of(k, "10.0.0.1:3");
	assert_false(takes_chunk(k, first));
	assert_false(takes_chunk(k, second));
	assert_false(takes_chunk(k, first));
	assert_true(takes_chunk(k, session_of(k, "10.0.0.2:1")));
	assert_true(takes_chunk(k, has[0])); /* it has it */
	session_drop_chunk(k, has[0]);
	assert_non_null(first->dirty);
	assert_null(second->dirty);
	assert_false(takes_chunk(k, has[0])); /* after those that waited */
	assert_false(takes_chunk(k, second));
	assert_true(takes_chunk(k, first));
	session_give(k, has[1]);
	assert_non_null(second->dirty);
	session_over(k, second, SESSION_LOST, "");
	assert_non_null(has[0]->dirty);
	assert_true(takes_chunk(k, has[0]));
	/* For what TLS itself may have to say there always is one, but not for long. */
	lent = session_of(k, "10.0.0.1:4");
	assert_true(session_lend_chunk(k, lent));
	assert_false(source_is_over(k, lent));
	assert_false(source_grants_chunk(k, lent));
	lent->chunk_size = 10;
	assert_true(source_is_over(k, lent));
	session_drop_chunk(k, lent);
	assert_int_equal(has[0]->source->n_chunks, CHUNKS_MAX);
}

/* One that needs none lets the next one have it. */
static void test_chunk_not_needed(void **state)
{
	struct linker *k = *state;
	struct session *has[CHUNKS_MAX], *first, *second;

	for (unsigned i = 0; i < CHUNKS_MAX; i++)
		assert_true(takes_chunk(k, has[i] = session_of(k, "10.0.0.1:1")));
	assert_false(takes_chunk(k, first = session_of(k, "10.0.0.1:2")));
	assert_false(takes_chunk(k, second = session_of(k, "10.0.0.1:3")));
	session_drop_chunk(k, has[0]);
	source_skips(k, first);
	source_skips(k, first);
	assert_non_null(second->dirty);
	assert_true(takes_chunk(k, second));
}

static void say(struct linker *k, struct session *s, size_t size)
{
	assert_non_null(session_control(k, s, size));
	session_control_done(k, s, size);
}

/* Answers that one host does not read, on however many sessions: none of them is read from until half is gone. */
static void test_answers(void **state)
{
	struct linker *k = *state;
	struct session *quiet = session_of(k, "10.0.0.1:1"), *other = session_of(k, "10.0.0.2:1"), *s[8];

	for (unsigned i = 0; i < ARRAY_SIZE(s); i++) {
		s[i] = session_of(k, "10.0.0.1:1");
		assert_true(source_is_heard(s[i]));
		say(k, s[i], ANSWERS_MAX / ARRAY_SIZE(s));
	}
	assert_true(source_is_heard(quiet));
	say(k, s[0], 1);
	assert_false(source_is_heard(quiet));
	assert_false(source_is_heard(s[0]));
	assert_true(source_is_heard(other));
	quiet->readable = true;
	session_give(k, s[0]);
	assert_null(quiet->dirty);
	for (unsigned i = 1; i < 5; i++)
		session_give(k, s[i]);
	assert_true(source_is_heard(quiet));
	assert_non_null(quiet->dirty);
}

/* A peer that always leaves something: what waits is little, and so is the memory for it. */
static void test_answers_left(void **state)
{
	struct linker *k = *state;
	struct session *s = session_of(k, "10.0.0.1:1");

	say(k, s, 1000);
	for (unsigned i = 0; i < 10000; i++) {
		say(k, s, 1000);
		s->control_off += 1000;
	}
	assert_in_range(s->control_cap, 2000, 8192);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_who_is_one), TEST(test_one_address), TEST(test_many_addresses), TEST(test_time), TEST(test_turns),
		TEST(test_lines), TEST(test_chunks), TEST(test_chunk_not_needed), TEST(test_answers), TEST(test_answers_left),
		TEST(test_no_host_takes_all), TEST(test_whose_it_is), TEST(test_questions), TEST(test_joiners),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
