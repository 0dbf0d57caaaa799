/*
 * The linker, twice, each under its own filter (test_linker_bed.h); this file plays the brokers and the applications. Every test ends with
 * bed_stop(), which checks that both were alive until then and ended cleanly.
 */
#include "daemon/test_linker_bed.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <openssl/sha.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>

static int setup(void **state)
{
	struct bed *b = malloc(sizeof(*b));

	bed_init(b);
	bed_start(b);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	bed_stop(*state);
	free(*state);
	return 0;
}

static void put(int fd, const void *bytes, size_t size)
{
	for (size_t at = 0; at < size;) {
		ssize_t n = send(fd, (const char *)bytes + at, size - at, MSG_NOSIGNAL);

		assert_true(n > 0);
		at += (size_t)n;
	}
}

/* Return: bytes read before the end of the stream. */
static size_t get(int fd, void *ret, size_t size)
{
	size_t at = 0;

	while (at < size) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		ssize_t n;

		assert_int_equal(poll(&p, 1, BED_WAIT_MS), 1);
		n = read(fd, (char *)ret + at, size - at);
		if (n <= 0)
			break;
		at += (size_t)n;
	}
	return at;
}

static void expect(int fd, const char *text)
{
	char buf[256] = {};

	assert_int_equal(get(fd, buf, strlen(text)), strlen(text));
	assert_string_equal(buf, text);
}

static void expect_end(int fd)
{
	char byte;

	assert_int_equal(get(fd, &byte, 1), 0);
}

static struct role_stats hear_closed(struct bed *b, unsigned side, uint64_t id, enum lane_end end)
{
	struct role_msg m = bed_hear(b, side, LB_CLOSED, NULL);

	assert_int_equal(m.u.stats.lane_id, id);
	assert_string_equal(lane_end_name(m.u.stats.end), lane_end_name(end));
	return m.u.stats;
}

static void test_both_ways(void **state)
{
	struct bed *b = *state;
	uint64_t a_id, b_id;
	int client = bed_carry(b, BED_REDIS, &a_id), server;
	struct role_session up;
	struct role_msg ask;
	struct role_stats at_a, at_b;

	put(client, "hello", 5);
	up = bed_hear_session(b, BED_A, SESSION_UP);
	assert_string_equal(up.local, "spiffe://" BED_DOMAIN "/ns/default/svc/web");
	assert_string_equal(up.peer, "spiffe://" BED_DOMAIN "/host/b");
	assert_string_equal(up.cipher, "TLS_AES_128_GCM_SHA256");
	assert_int_equal(up.inbound, 0);
	assert_true(bed_has_heard(b, BED_B, LB_ASK, BED_WAIT_MS));
	ask = b->sides[BED_B].heard->m.type == LB_ASK ? b->sides[BED_B].heard->m : b->sides[BED_B].heard->next->m;
	assert_string_equal(ask.u.link_ask.source, "spiffe://" BED_DOMAIN "/ns/default/svc/web");
	assert_string_equal(ask.u.link_ask.destination, BED_REDIS);
	server = bed_go(b, &b_id);
	bed_hear(b, BED_A, LB_OPENED, NULL);
	expect(server, "hello");
	put(server, "world!", 6);
	expect(client, "world!");
	shutdown(client, SHUT_WR);
	expect_end(server);
	put(server, "late", 4);
	expect(client, "late");
	close(server);
	expect_end(client);
	at_a = hear_closed(b, BED_A, a_id, LANE_END_EOF);
	at_b = hear_closed(b, BED_B, b_id, LANE_END_EOF);
	assert_int_equal(at_a.bytes_up, 5);
	assert_int_equal(at_a.bytes_down, 10);
	assert_int_equal(at_b.bytes_up, 5);
	assert_int_equal(at_b.bytes_down, 10);
	close(client);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_both_ways, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
