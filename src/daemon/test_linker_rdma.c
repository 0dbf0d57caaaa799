/*
 * Sessions over RDMA (docs/design/link.md): two linkers, each under its own filter, and a device for both that is served over a socket pair
 * (test_linker_fabric.h). What goes wrong does so at one of them, or the test is a peer that lies.
 */
#include "daemon/test_linker_bed.h"
#include "daemon/test_linker_fabric.h"
#include "link/frame.h"
#include "link/tls.h"
#include "rdma/ring_remote.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <openssl/err.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>

static int start(void **state, enum bed_rdma rdma, unsigned timeout_ms)
{
	struct bed *b = malloc(sizeof(*b));

	bed_init(b);
	b->rdma = rdma;
	b->timeout_ms = timeout_ms;
	bed_start(b);
	*state = b;
	return 0;
}

static int setup(void **state)
{
	return start(state, BED_RDMA_BOTH, 15000);
}

static int setup_short(void **state)
{
	return start(state, BED_RDMA_BOTH, 2000);
}

static int setup_b(void **state)
{
	return start(state, BED_RDMA_B, 15000);
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

/* Return: bytes read before the end of the stream, or the reset. */
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

static void expect_works(struct bed_lane *l)
{
	put(l->client, "there", 5);
	expect(l->server, "there");
	put(l->server, "and back", 8);
	expect(l->client, "and back");
}

static void expect_path(struct bed *b, unsigned side, enum session_path path, const char *part_of_why)
{
	struct role_path p = bed_hear(b, side, LB_PATH, NULL).u.path;

	if (p.path != path || !strstr(p.why, part_of_why))
		fail_msg("%s: path %u, %s", bed_host(side), p.path, p.why);
	assert_string_equal(p.device, path == SESSION_PATH_RDMA ? "fabric0" : "");
}

static void expect_both(struct bed *b)
{
	expect_path(b, BED_A, SESSION_PATH_RDMA, "");
	expect_path(b, BED_B, SESSION_PATH_RDMA, "");
}

static void test_it_goes_over(void **state)
{
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b), second;
	uint64_t before;

	expect_both(b);
	before = atomic_load(&b->faults[BED_A].bytes);
	expect_works(&l);
	assert_true(atomic_load(&b->faults[BED_A].bytes) > before);
	second = bed_lane(b); /* OPEN, PROOF and OPENED by the rings */
	expect_works(&second);
	bed_lane_close(&second);
	shutdown(l.client, SHUT_WR);
	assert_int_equal(get(l.server, &before, 1), 0);
	put(l.server, "late", 4);
	expect(l.client, "late");
	bed_lane_close(&l);
	assert_int_equal(bed_hear(b, BED_A, LB_CLOSED, NULL).u.stats.end, LANE_END_EOF);
}

/* Bytes of a stream, each of which tells its place. */
enum { BULK = 24 << 20, PIECE = 65536 };

struct stream {
	int fd;
	uint32_t seed;
	size_t sent, read;
};

static uint8_t byte_at(uint32_t seed, size_t at)
{
	return (uint8_t)((at + seed) * UINT64_C(0x9e3779b97f4a7c15) >> 40);
}

static void step_out(struct stream *s)
{
	uint8_t buf[PIECE];
	size_t n = BULK - s->sent < PIECE ? BULK - s->sent : PIECE;
	ssize_t done;

	for (size_t i = 0; i < n; i++)
		buf[i] = byte_at(s->seed, s->sent + i);
	done = send(s->fd, buf, n, MSG_NOSIGNAL | MSG_DONTWAIT);
	assert_true(done > 0 || errno == EAGAIN);
	s->sent += done > 0 ? (size_t)done : 0;
}

static void step_in(struct stream *s, uint32_t seed)
{
	uint8_t buf[PIECE];
	ssize_t n = recv(s->fd, buf, sizeof(buf), MSG_DONTWAIT);

	assert_true(n > 0 || (n < 0 && errno == EAGAIN));
	for (ssize_t i = 0; i < n; i++)
		if (buf[i] != byte_at(seed, s->read + (size_t)i))
			fail_msg("byte %zu is wrong", s->read + (size_t)i);
	s->read += n > 0 ? (size_t)n : 0;
}

/* Both ways at once, each byte compared. */
static void bulk(struct bed_lane *l)
{
	struct stream a = { .fd = l->client, .seed = 1 }, b = { .fd = l->server, .seed = 2 };

	while (a.read < BULK || b.read < BULK) {
		struct pollfd p[] = { { a.fd, (short)(POLLIN | (a.sent < BULK ? POLLOUT : 0)), 0 }, { b.fd, (short)(POLLIN | (b.sent < BULK ? POLLOUT : 0)), 0 } };

		assert_true(poll(p, 2, BED_WAIT_MS) > 0);
		if (p[0].revents & POLLOUT)
			step_out(&a);
		if (p[1].revents & POLLOUT)
			step_out(&b);
		if (p[0].revents & POLLIN)
			step_in(&a, 2);
		if (p[1].revents & POLLIN)
			step_in(&b, 1);
	}
}

static void test_it_goes_over_under_load(void **state)
{
	struct bed *b = *state;
	struct bed_lane l;

	atomic_store(&b->faults[BED_B].mute, true);
	l = bed_lane(b);
	bulk(&l); /* on TLS */
	atomic_store(&b->faults[BED_B].mute, false);
	bulk(&l);
	expect_both(b);
	bulk(&l);
	assert_true(atomic_load(&b->faults[BED_A].bytes) > BULK && atomic_load(&b->faults[BED_B].bytes) > BULK);
	bed_lane_close(&l);
}

enum { MANY = 1000 };

static void test_many_lanes(void **state)
{
	struct bed *b = *state;
	static struct bed_lane lanes[MANY];
	char text[32];

	for (unsigned i = 0; i < MANY; i++) {
		lanes[i].client = bed_carry(b, BED_REDIS, &lanes[i].a);
		snprintf(text, sizeof(text), "lane %05u", i);
		put(lanes[i].client, text, 10);
	}
	for (unsigned i = 0; i < MANY; i++)
		lanes[i].server = bed_go(b, &lanes[i].b);
	for (unsigned i = 0; i < MANY; i++) {
		assert_int_equal(get(lanes[i].server, text, 10), 10);
		put(lanes[i].server, text, 10);
	}
	for (unsigned i = 0; i < MANY; i++) {
		snprintf(text, sizeof(text), "lane %05u", i);
		expect(lanes[i].client, text);
	}
	expect_both(b);
	for (unsigned i = 0; i < MANY; i++)
		put(lanes[i].server, text, 10);
	for (unsigned i = 0; i < MANY; i++)
		expect(lanes[i].client, text);
	for (unsigned i = 0; i < MANY; i++)
		bed_lane_close(&lanes[i]);
}

/* What fails before SWITCH: the session stays where it is, and says why at both ends. */
static void stays(struct bed *b, const char *why_a, const char *why_b)
{
	struct bed_lane l = bed_lane(b);

	expect_path(b, BED_A, SESSION_PATH_TLS, why_a);
	expect_path(b, BED_B, SESSION_PATH_TLS, why_b);
	expect_works(&l);
	assert_int_equal(atomic_load(&b->faults[BED_A].bytes), 0);
	assert_false(bed_has_heard(b, BED_A, LB_PATH, 50)); /* not tried again */
	bed_lane_close(&l);
}

static void test_no_connection_there(void **state)
{
	struct bed *b = *state;

	atomic_store(&b->faults[BED_B].no_connection, true);
	stays(b, "the other host: a connection from the peer: EIO", "a connection from the peer: EIO");
}

static void test_no_connection_here(void **state)
{
	struct bed *b = *state;

	atomic_store(&b->faults[BED_A].no_connection, true);
	stays(b, "a connection to the peer: EIO", "the other host: a connection to the peer: EIO");
}

static void test_nobody_answers(void **state)
{
	struct bed *b = *state;

	atomic_store(&b->faults[BED_A].mute, true);
	stays(b, "timeout", "timeout");
}

static void test_no_memory_there(void **state)
{
	struct bed *b = *state;

	atomic_store(&b->faults[BED_B].no_memory, true);
	stays(b, "the other host: memory for the rings", "LimitMEMLOCK");
}

static void test_no_memory_here(void **state)
{
	struct bed *b = *state;

	atomic_store(&b->faults[BED_A].no_memory, true);
	stays(b, "LimitMEMLOCK", "the other host: memory for the rings");
}

static void test_no_export(void **state)
{
	struct bed *b = *state;

	atomic_store(&b->faults[BED_A].no_export, true);
	stays(b, "memory for the rings", "the other host: memory for the rings");
}

static void test_one_has_none(void **state)
{
	struct bed *b = *state; /* a has none */
	struct bed_lane l = bed_lane(b);

	expect_path(b, BED_B, SESSION_PATH_TLS, "the other host has no RDMA device");
	expect_works(&l);
	assert_false(bed_has_heard(b, BED_A, LB_PATH, 50));
	bed_lane_close(&l);
}

/* The lane is cut at both ends, not ended: the applications see no end of stream that nobody said. */
static void expect_lost(struct bed *b, const struct bed_lane *l)
{
	struct role_stats a = bed_hear(b, BED_A, LB_CLOSED, NULL).u.stats, s = bed_hear(b, BED_B, LB_CLOSED, NULL).u.stats;

	assert_int_equal(a.lane_id, l->a);
	assert_string_equal(lane_end_name(a.end), lane_end_name(LANE_END_LINK));
	assert_string_equal(lane_end_name(s.end), lane_end_name(LANE_END_LINK));
	assert_int_equal(bed_hear_session(b, BED_A, SESSION_DOWN).reason, SESSION_LOST);
	assert_int_equal(bed_hear_session(b, BED_B, SESSION_DOWN).reason, SESSION_LOST);
}

/* As much as goes, until nothing does. */
static void fill(int fd)
{
	static uint8_t bytes[PIECE];
	struct pollfd p = { .fd = fd, .events = POLLOUT };

	while (poll(&p, 1, 200) == 1 && send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL | MSG_DONTWAIT) > 0) {
	}
}

/* A lane opened now goes over TLS; after a while, sessions try again. */
static void expect_rest(struct bed *b)
{
	struct bed_lane l = bed_lane(b);

	expect_path(b, BED_A, SESSION_PATH_TLS, "");
	expect_works(&l);
	bed_lane_close(&l);
}

static void test_the_connection_breaks(void **state)
{
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b);

	expect_both(b);
	fill(l.client);
	atomic_store(&b->faults[BED_A].breaks, true);
	expect_lost(b, &l);
	expect_path(b, BED_A, SESSION_PATH_LOST, "peer-gone");
	bed_lane_close(&l);
	expect_rest(b);
}

static void test_a_record_that_does_not_open(void **state)
{
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b);
	static uint8_t bytes[1 << 20];

	expect_both(b);
	atomic_store(&b->faults[BED_A].tampers, true);
	fill(l.client);
	expect_lost(b, &l);
	expect_path(b, BED_B, SESSION_PATH_LOST, "does not keep to the rules");
	assert_true(get(l.server, bytes, sizeof(bytes)) < sizeof(bytes)); /* and an end, or a reset */
	bed_lane_close(&l);
	expect_rest(b);
}

/* A host that takes nothing from its ring any more. */
static void test_a_ring_that_stays_full(void **state)
{
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b);
	static uint8_t bytes[256 << 10];

	expect_both(b);
	atomic_store(&b->faults[BED_B].says_no_room, true);
	for (unsigned i = 0; i < 64 && !bed_has_heard(b, BED_A, LB_CLOSED, 0); i++) {
		struct pollfd p[] = { { l.client, POLLOUT, 0 }, { l.server, POLLIN, 0 } };

		if (poll(p, 2, 100) == 0)
			continue;
		if (p[0].revents)
			(void)!send(l.client, bytes, sizeof(bytes), MSG_NOSIGNAL | MSG_DONTWAIT);
		if (p[1].revents)
			(void)!recv(l.server, bytes, sizeof(bytes), MSG_DONTWAIT);
	}
	assert_int_equal(bed_hear(b, BED_A, LB_CLOSED, NULL).u.stats.end, LANE_END_LINK);
	assert_int_equal(bed_hear_session(b, BED_A, SESSION_DOWN).reason, SESSION_TIMEOUT);
	bed_lane_close(&l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_it_goes_over, setup, teardown),
		cmocka_unit_test_setup_teardown(test_it_goes_over_under_load, setup, teardown),
		cmocka_unit_test_setup_teardown(test_many_lanes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_connection_there, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_connection_here, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nobody_answers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_memory_there, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_memory_here, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_export, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_ring_that_stays_full, setup_short, teardown),
		cmocka_unit_test_setup_teardown(test_one_has_none, setup_b, teardown),
		cmocka_unit_test_setup_teardown(test_the_connection_breaks, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_record_that_does_not_open, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
