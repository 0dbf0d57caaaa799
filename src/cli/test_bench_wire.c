#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cli/bench_wire.h"

static const struct remote_key g_table = { 1 << 20, BENCH_MEMORY_SIZE, 7, REMOTE_MAY_READ | REMOTE_MAY_ATOMIC };
static const struct remote_key g_inbox = { 4 << 20, BENCH_MEMORY_SIZE, 9, REMOTE_MAY_WRITE };

static int there_and_back(struct bench_msg *m)
{
	uint8_t bytes[BENCH_MSG_SIZE];

	bench_msg_put(bytes, m);
	memset(m, 0xee, sizeof(*m));
	return bench_msg_get(m, bytes);
}

static void test_there_and_back(void **state)
{
	struct bench_msg m = { .kind = BENCH_HELLO };

	m.u.hello.port = 7445;
	memset(m.u.hello.token[BENCH_OPS], 1, REMOTE_TOKEN_SIZE);
	memset(m.u.hello.token[BENCH_CONNS - 1], 2, REMOTE_TOKEN_SIZE);
	memset(m.u.hello.secret, 3, BENCH_SECRET_SIZE);
	assert_int_equal(there_and_back(&m), 0);
	assert_int_equal(m.u.hello.port, 7445);
	assert_int_equal(m.u.hello.token[BENCH_OPS][31], 1);
	assert_int_equal(m.u.hello.token[BENCH_CONNS - 1][31], 2);
	assert_int_equal(m.u.hello.secret[31], 3);
	m = (struct bench_msg){ .kind = BENCH_KEYS, .u.keys = { g_table, g_inbox, { { 5 }, { 6 } } } };
	assert_int_equal(there_and_back(&m), 0);
	assert_memory_equal(&m.u.keys.table, &g_table, sizeof(g_table));
	assert_memory_equal(&m.u.keys.inbox, &g_inbox, sizeof(g_inbox));
	assert_int_equal(m.u.keys.ring[BENCH_SEALED][0], 5);
	assert_int_equal(m.u.keys.ring[BENCH_PLAIN][0], 6);
	m = (struct bench_msg){ .kind = BENCH_PHASE, .u.poll_size = BENCH_MEMORY_SIZE };
	assert_int_equal(there_and_back(&m), 0);
	assert_int_equal(m.u.poll_size, BENCH_MEMORY_SIZE);
}

static void assert_bad_keys(struct remote_key table, struct remote_key inbox)
{
	struct bench_msg m = { .kind = BENCH_KEYS, .u.keys = { table, inbox, { { 0 } } } };

	assert_int_equal(there_and_back(&m), -EPROTO);
}

static void test_bad(void **state)
{
	struct bench_msg m = { .kind = BENCH_PHASE, .u.poll_size = BENCH_MEMORY_SIZE + 1 };
	struct remote_key small = g_table, write_only = g_table, readable = g_inbox, large = g_inbox;
	uint8_t bytes[BENCH_MSG_SIZE];

	assert_int_equal(there_and_back(&m), -EPROTO);
	for (unsigned kind = 0; kind < 6; kind++) {
		m = (struct bench_msg){ .kind = (enum bench_msg_kind)kind };
		assert_int_equal(there_and_back(&m), kind == BENCH_HELLO || kind == BENCH_PHASE ? 0 : -EPROTO);
	}
	m = (struct bench_msg){ .kind = BENCH_PHASE };
	bench_msg_put(bytes, &m);
	bytes[0] ^= 1;
	assert_int_equal(bench_msg_get(&m, bytes), -EPROTO);
	small.size--;
	assert_bad_keys(small, g_inbox);
	write_only.rights = REMOTE_MAY_WRITE;
	assert_bad_keys(write_only, g_inbox);
	readable.rights = REMOTE_MAY_READ;
	assert_bad_keys(g_table, readable);
	large.size++;
	assert_bad_keys(g_table, large);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_there_and_back), cmocka_unit_test(test_bad) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
