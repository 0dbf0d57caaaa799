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

static int start_plain(void **state, bool a, bool b)
{
	struct bed *bed = malloc(sizeof(*bed));

	bed_init(bed);
	bed->rdma = BED_RDMA_BOTH;
	bed->plain[BED_A] = a;
	bed->plain[BED_B] = b;
	bed_start(bed);
	*state = bed;
	return 0;
}

static int setup_one_plain(void **state)
{
	return start_plain(state, true, false);
}

static int setup_plain(void **state)
{
	return start_plain(state, true, true);
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

/* b says that its device is at another address than its own. */
static int start_elsewhere(void **state, const char *said)
{
	struct bed *b = malloc(sizeof(*b));

	bed_init(b);
	b->rdma = BED_RDMA_BOTH;
	b->rdma_at = "127.9.9.9:7444";
	b->rdma_said = said;
	bed_start(b);
	*state = b;
	return 0;
}

static int setup_elsewhere(void **state)
{
	return start_elsewhere(state, NULL);
}

static int setup_said_elsewhere(void **state)
{
	return start_elsewhere(state, "127.9.9.9:1");
}

static struct remote *g_device; /* of all liars of a test, one after the other */

static int teardown(void **state)
{
	remote_free(g_device);
	g_device = NULL;
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
	assert_string_equal(p.device, path != SESSION_PATH_RDMA ? "" : b->plain[BED_A] && b->plain[BED_B] ? "fabric0, plain" : "fabric0");
}

static void expect_both(struct bed *b)
{
	expect_path(b, BED_A, SESSION_PATH_RDMA, "");
	expect_path(b, BED_B, SESSION_PATH_RDMA, "");
}

/* What went by the rings is told, as a part of all. */
static void expect_counts(struct bed *b)
{
	struct role_msg ask = { .type = BL_STATS };
	struct role_session_stats s;

	bed_tell(b, BED_A, &ask, -1);
	s = bed_hear(b, BED_A, LB_SESSION_STATS, NULL).u.session_stats;
	assert_true(s.rdma_in >= strlen("and back") && s.rdma_out >= strlen("there"));
	assert_true(s.bytes_in > s.rdma_in && s.bytes_out > s.rdma_out);
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
	expect_counts(b);
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

/* Both hosts have to say that their network encrypts; then nothing is sealed here. */
static void says_clear(struct bed *b, bool is_seen)
{
	struct bed_lane l = bed_lane(b);

	expect_both(b);
	put(l.client, "clear, clear, clear", 19);
	expect(l.server, "clear, clear, clear");
	assert_int_equal(atomic_load(&b->faults[BED_A].n_clear) > 0, is_seen);
	expect_works(&l);
	bed_lane_close(&l);
}

static void test_one_says_plain(void **state)
{
	says_clear(*state, false);
}

static void test_both_say_plain(void **state)
{
	says_clear(*state, true);
}

static void tell_mode(struct bed *b, unsigned side, enum rdma_mode mode)
{
	struct role_msg m = { .type = BL_RDMA, .u.rdma.mode = mode }, stats = { .type = BL_STATS };

	b->plain[side] = mode == RDMA_PLAIN;
	bed_tell(b, side, &m, -1);
	bed_tell(b, side, &stats, -1);
	while (bed_hear(b, side, LB_STATS, NULL).u.stats.lane_id != 0) {
	} /* it has read both */
}

/* A session that stands goes on as it is until its lanes have ended; the next lane comes on one that keeps to what was said since. */
static void test_the_mode_changes(void **state)
{
	struct bed *b = *state;
	struct bed_lane old = bed_lane(b), l;

	expect_both(b);
	tell_mode(b, BED_B, RDMA_PLAIN); /* the server's side: the client hears of it by GOAWAY */
	tell_mode(b, BED_A, RDMA_PLAIN);
	put(old.client, "clear, clear, clear", 19);
	expect(old.server, "clear, clear, clear");
	assert_int_equal(atomic_load(&b->faults[BED_A].n_clear), 0);
	l = bed_lane(b);
	expect_both(b);
	put(l.client, "clear, clear, clear", 19);
	expect(l.server, "clear, clear, clear");
	assert_true(atomic_load(&b->faults[BED_A].n_clear) > 0);
	expect_works(&old);
	assert_false(bed_has_heard(b, BED_A, LB_CLOSED, 50));
	bed_lane_close(&old);
	assert_int_equal(bed_hear_session(b, BED_A, SESSION_DOWN).reason, SESSION_OK);
	assert_int_equal(bed_hear_session(b, BED_B, SESSION_DOWN).reason, SESSION_OK);
	tell_mode(b, BED_B, RDMA_OFF);
	old = bed_lane(b);
	while (!bed_has_heard(b, BED_A, LB_PATH, 200)) { /* GOAWAY had not come yet */
		bed_lane_close(&old);
		old = bed_lane(b);
	}
	expect_path(b, BED_A, SESSION_PATH_TLS, "the other host has no RDMA device");
	expect_works(&old);
	expect_works(&l);
	bed_lane_close(&l);
	bed_lane_close(&old);
}

/* Lanes that are opened while the other side says GOAWAY: each of them is taken. */
static void test_goaway_crosses(void **state)
{
	struct bed *b = *state;
	struct role_msg m = { .type = BL_GOAWAY };
	struct bed_lane first = bed_lane(b), l;

	expect_both(b);
	for (unsigned i = 0; i < 20; i++) {
		bed_tell(b, BED_B, &m, -1);
		l = bed_lane(b);
		expect_works(&l);
		bed_lane_close(&l);
	}
	expect_works(&first);
	bed_lane_close(&first);
	assert_false(bed_has_heard(b, BED_A, LB_FAILED, 50));
}

/* Bytes of a stream, each of which tells its place. */
/* What goes first, while no connection may come, is little: it has to be over before connecting is given up. */
enum { BULK = 24 << 20, FIRST = 512 << 10, PIECE = 65536 };

struct stream {
	int fd;
	uint32_t seed;
	size_t size, sent, read;
};

static uint8_t byte_at(uint32_t seed, size_t at)
{
	return (uint8_t)((at + seed) * UINT64_C(0x9e3779b97f4a7c15) >> 40);
}

static void step_out(struct stream *s)
{
	uint8_t buf[PIECE];
	size_t n = s->size - s->sent < PIECE ? s->size - s->sent : PIECE;
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
static void bulk(struct bed_lane *l, size_t size)
{
	struct stream a = { .fd = l->client, .seed = 1, .size = size }, b = { .fd = l->server, .seed = 2, .size = size };

	while (a.read < size || b.read < size) {
		struct pollfd p[] = { { a.fd, (short)(POLLIN | (a.sent < size ? POLLOUT : 0)), 0 }, { b.fd, (short)(POLLIN | (b.sent < size ? POLLOUT : 0)), 0 } };

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
	bulk(&l, FIRST); /* on TLS */
	atomic_store(&b->faults[BED_B].mute, false);
	bulk(&l, BULK);
	expect_both(b);
	bulk(&l, BULK);
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

/* A peer may send our device to its own host, and nowhere else. */
static void test_an_address_that_is_not_its_own(void **state)
{
	struct bed *b = *state;

	stays(b, "127.9.9.9:7444, where your device is said to be", "the other host: 127.9.9.9:7444, where your device is said to be, is no address of yours that this host knows");
	assert_int_equal(atomic_load(&b->faults[BED_A].n_connects), 0);
}

static void test_an_address_that_is_said_to_be_its_own(void **state)
{
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b);

	expect_both(b);
	expect_works(&l);
	assert_true(atomic_load(&b->faults[BED_A].n_connects) > 0);
	bed_lane_close(&l);
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
	struct role_msg m;

	do
		m = bed_hear(b, BED_A, LB_PATH, NULL);
	while (m.u.path.path == SESSION_PATH_LOST); /* of the session before */
	assert_int_equal(m.u.path.path, SESSION_PATH_TLS);
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

/* What applications say after the connection is gone is not told as delivered. */
static void test_words_after_the_connection_broke(void **state)
{
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b);
	uint64_t end_ns = clock_ns() + BED_WAIT_MS * UINT64_C(1000000);
	char byte;

	expect_both(b);
	expect_works(&l);
	shutdown(l.server, SHUT_WR);
	assert_int_equal(get(l.client, &byte, 1), 0);
	atomic_store(&b->faults[BED_A].breaks, true); /* at a, which waits a while for a word of why */
	while (atomic_load(&b->faults[BED_A].breaks) && clock_ns() < end_ns)
		usleep(1000);
	usleep(20000);
	(void)!send(l.client, "the last words", 14, MSG_NOSIGNAL); /* refused if the lane was cut already */
	close(l.client);
	expect_lost(b, &l);
	assert_true(recv(l.server, &byte, 1, MSG_DONTWAIT) <= 0);
	close(l.server);
}

/* A host that takes nothing from its ring any more. */
static void test_a_ring_that_stays_full(void **state)
{
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b);
	static uint8_t bytes[256 << 10];
	uint32_t reason;

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
	/* The other side hears nothing for as long, and may be the first to end it; to this one that is an end in order. */
	reason = bed_hear_session(b, BED_A, SESSION_DOWN).reason;
	if (reason == SESSION_OK)
		reason = bed_hear_session(b, BED_B, SESSION_DOWN).reason;
	assert_int_equal(reason, SESSION_TIMEOUT);
	bed_lane_close(&l);
}

/* A daemon that is killed is noticed at once, by its TCP connection. */
static void test_a_daemon_that_is_killed(void **state)
{
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b);

	expect_both(b);
	expect_works(&l);
	bed_kill(b, BED_B);
	assert_int_equal(bed_hear(b, BED_A, LB_CLOSED, NULL).u.stats.end, LANE_END_LINK);
	assert_int_equal(bed_hear_session(b, BED_A, SESSION_DOWN).reason, SESSION_LOST);
	bed_lane_close(&l);
}

/* What was said last, on a session that ends in order, has come: PING is answered before it ends. */
static void test_it_ends_in_order(void **state)
{
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b);
	struct role_msg drain = { .type = BL_DRAIN };
	static uint8_t bytes[300000];
	char byte;

	expect_both(b);
	put(l.client, "hello", 5);
	expect(l.server, "hello");
	bed_tell(b, BED_A, &drain, -1);
	put(l.server, bytes, 100000);
	assert_int_equal(get(l.client, bytes, 100000), 100000);
	close(l.server);
	assert_int_equal(get(l.client, &byte, 1), 0);
	close(l.client);
	assert_string_equal(lane_end_name(bed_hear(b, BED_A, LB_CLOSED, NULL).u.stats.end), "eof");
	assert_string_equal(lane_end_name(bed_hear(b, BED_B, LB_CLOSED, NULL).u.stats.end), "eof");
	assert_int_equal(bed_hear_session(b, BED_A, SESSION_DOWN).reason, SESSION_OK);
	assert_int_equal(bed_hear_session(b, BED_B, SESSION_DOWN).reason, SESSION_OK);
}

/* A peer that lies: the test is a client of b's, with a device of its own at the other end of b's. */

struct liar {
	struct bed *b;
	int fd;
	SSL_CTX *ctx;
	SSL *ssl;
	uint8_t in[4 * FRAME_SIZE_MAX];
	size_t in_size;
	struct frame got; /* what take() found */
	struct remote *remote;
	struct remote_domain *domain;
	struct remote_conn *conn;
	struct ring_remote *ring;
	void *memory;
	uint8_t secret[32];
	bool up, ready, has_data;
};

enum { CAP = 19, OTHER_SECRET = 1, RDMA_RECORD_MAX = 65536 };

static void say(struct liar *x, const uint8_t *bytes, size_t size)
{
	(void)!SSL_write(x->ssl, bytes, (int)size);
}

static struct liar *liar_new(struct bed *b, uint16_t has)
{
	static const uint8_t alpn[] = "\x0esealane-link/1";
	struct liar *x = calloc(1, sizeof(*x));
	struct timeval timeout = { .tv_sec = 10 };
	uint8_t hello[FRAME_HELLO_SIZE];
	EVP_PKEY *key = NULL;
	X509 *cert;

	*x = (struct liar){ .b = b, .fd = bed_dial(b, BED_B), .ctx = SSL_CTX_new(TLS_client_method()) };
	assert_int_equal(pki_new_key(&key), 0);
	cert = bed_certificate(b, key, "spiffe://" BED_DOMAIN "/ns/default/svc/web", -60, 600);
	assert_int_equal(setsockopt(x->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)), 0);
	assert_int_equal(SSL_CTX_use_certificate(x->ctx, cert), 1);
	assert_int_equal(SSL_CTX_use_PrivateKey(x->ctx, key), 1);
	X509_free(cert);
	EVP_PKEY_free(key);
	x->ssl = SSL_new(x->ctx);
	SSL_set_alpn_protos(x->ssl, alpn, sizeof(alpn) - 1);
	SSL_set_fd(x->ssl, x->fd);
	assert_int_equal(SSL_connect(x->ssl), 1);
	assert_int_equal(SSL_export_keying_material(x->ssl, x->secret, sizeof(x->secret), TLS_EXPORTER_RDMA, strlen(TLS_EXPORTER_RDMA), NULL, 0, 0), 1);
	say(x, hello, frame_put_hello(hello, 65536, has));
	return x;
}

static void liar_free(struct liar *x)
{
	if (x->domain) {
		struct remote_done d;

		remote_close(x->conn);
		ring_remote_free(x->ring);
		remote_domain_free(x->domain);
		(void)!remote_poll(x->remote, &d, 1); /* b hears of it */
		free(x->memory);
	}
	SSL_free(x->ssl);
	SSL_CTX_free(x->ctx);
	close(x->fd);
	free(x);
	ERR_clear_error();
}

/* The next frame on TLS of that type; others are passed over. Return: false: TLS ended. */
static bool take(struct liar *x, unsigned type)
{
	const char *why;

	for (;;) {
		ssize_t n = x->in_size ? frame_parse(&x->got, x->in, x->in_size, false, FRAME_FOR_LANES, &why) : 0;

		assert_true(n >= 0);
		if (n > 0) {
			static uint8_t kept[FRAME_SIZE_MAX];

			memcpy(kept, x->in, (size_t)n);
			(void)!frame_parse(&x->got, kept, (size_t)n, false, FRAME_FOR_LANES, &why);
			memmove(x->in, x->in + n, x->in_size - (size_t)n);
			x->in_size -= (size_t)n;
			if (x->got.type == type)
				return true;
			continue;
		}
		n = SSL_read(x->ssl, x->in + x->in_size, (int)(sizeof(x->in) - x->in_size));
		if (n <= 0)
			return false;
		x->in_size += (size_t)n;
	}
}

static void expect_end(struct liar *x, enum session_reason reason, const char *part_of_why)
{
	struct role_session s = bed_hear_session(x->b, BED_B, SESSION_DOWN);

	if (s.reason != reason || !strstr(s.why, part_of_why))
		fail_msg("%s: %s", session_reason_name(s.reason), s.why);
	liar_free(x);
}

static void ask(struct liar *x, uint64_t number, uint8_t cap_log2)
{
	uint8_t to[FRAME_RDMA_SIZE_MAX];

	say(x, to, frame_put_rdma_ask(to, number, cap_log2));
}

static void say_step(struct liar *x, enum rdma_step step)
{
	uint8_t to[FRAME_RDMA_SIZE_MAX], key[FRAME_RDMA_KEY_SIZE] = {};

	if (step == RDMA_KEY)
		say(x, to, frame_put_rdma_key(to, key));
	else if (step == RDMA_SWITCH)
		say(x, to, frame_put_rdma_switch(to));
	else
		say(x, to, frame_put_rdma_no(to, "no"));
}

static void test_steps_that_are_not_due(void **state)
{
	struct bed *b = *state;
	struct liar *x;

	for (enum rdma_step step = RDMA_KEY; step < RDMA_STEP_N; step++) {
		x = liar_new(b, FRAME_HAS_RDMA);
		say_step(x, step);
		expect_end(x, SESSION_PROTOCOL, "RDMA");
	}
	x = liar_new(b, 0); /* it said that it has none */
	ask(x, 1, CAP);
	expect_end(x, SESSION_PROTOCOL, "not due");
	x = liar_new(b, FRAME_HAS_RDMA);
	ask(x, 2, CAP);
	expect_end(x, SESSION_PROTOCOL, "number");
	x = liar_new(b, FRAME_HAS_RDMA);
	ask(x, 1, CAP);
	ask(x, 1, CAP);
	expect_end(x, SESSION_PROTOCOL, "second time");
	x = liar_new(b, FRAME_HAS_RDMA);
	ask(x, 1, CAP);
	say_step(x, RDMA_SWITCH);
	expect_end(x, SESSION_PROTOCOL, "before both keys");
	x = liar_new(b, FRAME_HAS_RDMA);
	ask(x, 1, CAP);
	say_step(x, RDMA_KEY); /* too early is no fault: it is held against the ring when that is there */
	say_step(x, RDMA_KEY);
	expect_end(x, SESSION_PROTOCOL, "second time");
	x = liar_new(b, FRAME_HAS_RDMA);
	ask(x, 1, CAP);
	say_step(x, RDMA_NO);
	say_step(x, RDMA_NO);
	expect_end(x, SESSION_PROTOCOL, "not due");
}

static void expect_pong(struct liar *x)
{
	uint8_t ping[FRAME_PING_SIZE];

	say(x, ping, frame_put_ping(ping, FRAME_PING, 77));
	assert_true(take(x, FRAME_PONG));
	assert_int_equal(x->got.u.ping, 77);
}

static void test_sizes_that_are_not_taken(void **state)
{
	struct bed *b = *state;
	static const uint8_t caps[] = { 0, 12, 18, 21, 63, 64, 255 };

	for (size_t i = 0; i < sizeof(caps); i++) {
		struct liar *x = liar_new(b, FRAME_HAS_RDMA);

		ask(x, 1, caps[i]);
		assert_true(take(x, FRAME_RDMA));
		assert_int_equal(x->got.u.rdma.step, RDMA_NO);
		expect_pong(x); /* and the session is as it was */
		liar_free(x);
		(void)bed_hear_session(b, BED_B, SESSION_DOWN);
	}
}

/* Until @flag is set by what the device tells. */
static void until(struct liar *x, const bool *flag)
{
	uint64_t end_ns = clock_ns() + BED_WAIT_MS * UINT64_C(1000000);
	struct remote_done dones[16];

	while (!*flag && clock_ns() < end_ns) {
		int n = remote_poll(x->remote, dones, 16);

		for (int i = 0; i < n; i++) {
			int r = x->ring ? ring_remote_on_done(x->ring, &dones[i]) : 0;

			x->up |= dones[i].kind == REMOTE_DONE_UP;
			x->ready |= r == RING_REMOTE_READY;
			x->has_data |= r == RING_REMOTE_DATA;
		}
		if (n == 0)
			usleep(1000);
	}
	assert_true(*flag);
}

/* As far as b's KEY; ours is made, and not said. */
static struct liar *liar_joins(struct bed *b, unsigned how)
{
	struct liar *x = liar_new(b, FRAME_HAS_RDMA);
	struct seal_crypto crypto = { .cipher = SEAL_AES_128_GCM };
	struct ring_remote_options o = { .cap_log2 = CAP, .crypto = crypto, .number = 1, .is_client = true };
	uint8_t token[32], other[32] = { 1 };

	if (strstr(SSL_get_cipher(x->ssl), "256"))
		crypto.cipher = o.crypto.cipher = SEAL_AES_256_GCM;
	if (!g_device)
		g_device = fabric_open(b->fabric[BED_A], &b->faults[BED_A]);
	x->remote = g_device;
	assert_int_equal(remote_domain_new(&x->domain, x->remote, 0), 0);
	ask(x, 1, CAP);
	assert_true(take(x, FRAME_RDMA));
	assert_int_equal(x->got.u.rdma.step, RDMA_HERE);
	assert_string_equal(x->got.u.rdma.address, "127.0.0.1:7444");
	assert_int_equal(seal_token(token, &crypto, x->secret, 1), 0);
	assert_int_equal(remote_connect(&x->conn, x->domain, x->got.u.rdma.address, token), 0);
	until(x, &x->up);
	x->memory = aligned_alloc(4096, ring_remote_memory_size(CAP));
	memset(x->memory, 0, ring_remote_memory_size(CAP));
	o.conn = x->conn;
	o.memory = x->memory;
	o.secret = how == OTHER_SECRET ? other : x->secret;
	assert_int_equal(ring_remote_new(&x->ring, &o), 0);
	until(x, &x->ready);
	assert_true(take(x, FRAME_RDMA));
	assert_int_equal(x->got.u.rdma.step, RDMA_KEY);
	assert_int_equal(ring_remote_start(x->ring, x->got.u.rdma.key), 0);
	return x;
}

static void say_key(struct liar *x, uint64_t base, int64_t more)
{
	uint8_t bytes[REMOTE_KEY_SIZE], to[FRAME_RDMA_SIZE_MAX];
	struct remote_key key;

	ring_remote_key(x->ring, bytes);
	assert_int_equal(remote_key_get(&key, bytes), 0);
	key.base += base;
	key.size += (uint64_t)more;
	remote_key_put(bytes, &key);
	say(x, to, frame_put_rdma_key(to, bytes));
}

/* Both ends on rings. */
static struct liar *liar_switches(struct bed *b, unsigned how)
{
	struct liar *x = liar_joins(b, how);

	say_key(x, 0, 0);
	assert_true(take(x, FRAME_RDMA));
	assert_int_equal(x->got.u.rdma.step, RDMA_SWITCH);
	say_step(x, RDMA_SWITCH);
	return x;
}

static void send_record(struct liar *x, uint8_t flags, uint8_t tag, const void *bytes, uint32_t size)
{
	assert_int_equal(ring_remote_send(x->ring, flags, tag, bytes, size), 0);
	assert_int_equal(ring_remote_flush(x->ring), 0);
	for (unsigned i = 0; i < 5; i++) { /* on its way */
		struct remote_done d;

		if (remote_poll(x->remote, &d, 1) == 1)
			x->has_data |= ring_remote_on_done(x->ring, &d) == RING_REMOTE_DATA;
	}
}

static void test_a_peer_that_does_not_lie(void **state)
{
	struct bed *b = *state;
	struct liar *x = liar_switches(b, 0);
	uint8_t ping[FRAME_PING_SIZE], plain[RDMA_RECORD_MAX];
	struct ring_remote_record record;
	struct frame f;
	const char *why;

	expect_path(b, BED_B, SESSION_PATH_RDMA, "");
	send_record(x, 0, 0, ping, (uint32_t)frame_put_ping(ping, FRAME_PING, 99));
	until(x, &x->has_data);
	assert_int_equal(ring_remote_receive(x->ring, plain, sizeof(plain), &record), 0);
	assert_int_equal(frame_parse(&f, plain, record.size, false, FRAME_FOR_LANES, &why), FRAME_PING_SIZE);
	assert_int_equal(f.type, FRAME_PONG);
	assert_int_equal(f.u.ping, 99);
	liar_free(x);
	(void)bed_hear_session(b, BED_B, SESSION_DOWN);
}

static void test_keys_that_are_none(void **state)
{
	struct bed *b = *state;
	struct liar *x = liar_joins(b, 0);

	say_key(x, 0, 64); /* of a larger ring */
	expect_end(x, SESSION_PROTOCOL, "none of such a ring");
	x = liar_joins(b, 0);
	say_step(x, RDMA_KEY); /* zeros */
	expect_end(x, SESSION_PROTOCOL, "none of such a ring");
	x = liar_joins(b, 0);
	say_key(x, 1 << 20, 0); /* somewhere else: b's first WRITE is refused here, and that ends the connection */
	say_step(x, RDMA_SWITCH);
	x->up = false;
	assert_true(take(x, FRAME_RDMA));
	assert_int_equal(x->got.u.rdma.step, RDMA_SWITCH);
	for (unsigned i = 0; i < 20 && !bed_has_heard(b, BED_B, LB_SESSION, 10); i++) {
		uint8_t ping[FRAME_PING_SIZE];
		struct remote_done d;

		if (i == 0)
			send_record(x, 0, 0, ping, (uint32_t)frame_put_ping(ping, FRAME_PING, 1));
		(void)!remote_poll(x->remote, &d, 1);
	}
	expect_end(x, SESSION_LOST, "");
}

static void test_frames_where_they_are_not_due(void **state)
{
	struct bed *b = *state;
	struct liar *x = liar_switches(b, 0);
	uint8_t to[2 * FRAME_RDMA_SIZE_MAX];
	size_t n;

	say(x, to, frame_put_ping(to, FRAME_PING, 1));
	expect_end(x, SESSION_PROTOCOL, "more on TLS");
	x = liar_switches(b, 0);
	say_step(x, RDMA_SWITCH);
	expect_end(x, SESSION_PROTOCOL, "more on TLS");
	x = liar_switches(b, 0);
	say_step(x, RDMA_NO);
	expect_end(x, SESSION_PROTOCOL, "more on TLS");
	x = liar_joins(b, 0);
	say_key(x, 0, 0);
	n = frame_put_rdma_switch(to);
	say(x, to, n + frame_put_ping(to + n, FRAME_PING, 1)); /* in one record of TLS */
	expect_end(x, SESSION_PROTOCOL, "more on TLS");
	x = liar_switches(b, 0);
	send_record(x, 0, 0, to, (uint32_t)frame_put_rdma_switch(to)); /* by the ring */
	expect_end(x, SESSION_PROTOCOL, "not due");
	x = liar_joins(b, 0);
	say_key(x, 0, 0);
	assert_true(take(x, FRAME_RDMA)); /* b has gone over */
	say_step(x, RDMA_NO);
	expect_end(x, SESSION_LOST, "RDMA failed at the other side");
}

/* A peer that broke the rules at @since_ns, at the earliest, asks again. A slow machine may ask when it is not left alone any more. */
static void expect_left_alone(struct liar *x, uint64_t since_ns)
{
	ask(x, 1, CAP);
	assert_true(take(x, FRAME_RDMA));
	if (clock_ns() - since_ns < LIMIT_RDMA_QUARANTINE_MS * UINT64_C(1000000))
		assert_int_equal(x->got.u.rdma.step, RDMA_NO);
}

static void test_records_that_are_none(void **state)
{
	struct bed *b = *state;
	uint64_t since_ns;
	static uint8_t bytes[RDMA_RECORD_MAX + 1];
	struct liar *x = liar_switches(b, 0);

	send_record(x, RING_MORE, 0, bytes, 8);
	expect_end(x, SESSION_PROTOCOL, "no part of a stream");
	x = liar_switches(b, 0);
	send_record(x, 0, 7, bytes, 8);
	expect_end(x, SESSION_PROTOCOL, "no part of a stream");
	x = liar_switches(b, 0);
	send_record(x, 0, 0, bytes, 0);
	expect_end(x, SESSION_PROTOCOL, "no part of a stream");
	x = liar_switches(b, 0);
	send_record(x, 0, 0, bytes, sizeof(bytes)); /* one byte more than a record has */
	expect_end(x, SESSION_PROTOCOL, "no part of a stream");
	x = liar_switches(b, 0);
	send_record(x, 0, 0, bytes, 64); /* no frame */
	expect_end(x, SESSION_PROTOCOL, "unknown type");
	x = liar_switches(b, OTHER_SECRET);
	since_ns = clock_ns();
	send_record(x, 0, 0, bytes, 64); /* it does not open */
	expect_end(x, SESSION_LOST, "does not keep to the rules");
	x = liar_new(b, FRAME_HAS_RDMA);
	expect_left_alone(x, since_ns);
	expect_pong(x);
	liar_free(x);
	(void)bed_hear_session(b, BED_B, SESSION_DOWN);
}

/* b's device at our end has its turn; what b says of sessions that ended is counted. */
static unsigned downs_within(struct bed *b, unsigned ms)
{
	uint64_t end_ns = clock_ns() + ms * UINT64_C(1000000);
	struct remote_done d;
	unsigned n = 0;

	while (clock_ns() < end_ns) {
		(void)!remote_poll(g_device, &d, 1);
		while (bed_has_heard(b, BED_B, LB_SESSION, 5))
			n += bed_hear(b, BED_B, LB_SESSION, NULL).u.session.state == SESSION_DOWN;
	}
	return n;
}

/* Several hosts may come from one address: what one of them breaks is its own. */
static void test_another_host_at_its_address(void **state)
{
	struct bed *b = *state;
	static uint8_t bytes[64];
	struct liar *honest, *breaker, *again;
	uint64_t since_ns;

	b->issued_to = "honest";
	honest = liar_switches(b, 0);
	b->issued_to = "breaker";
	breaker = liar_switches(b, OTHER_SECRET);
	assert_int_equal(downs_within(b, 100), 0);
	since_ns = clock_ns();
	send_record(breaker, 0, 0, bytes, 64); /* it does not open */
	for (unsigned n = 0; n == 0;) {
		n = downs_within(b, 200);
		assert_true(n <= 1 && clock_ns() - since_ns < BED_WAIT_MS * UINT64_C(1000000));
	}
	assert_int_equal(downs_within(b, 100), 0);
	send_record(honest, 0, 0, bytes, (uint32_t)frame_put_ping(bytes, FRAME_PING, 5));
	until(honest, &honest->has_data);
	liar_free(breaker);
	again = liar_new(b, FRAME_HAS_RDMA);
	expect_left_alone(again, since_ns);
	liar_free(again);
	b->issued_to = "honest"; /* which is not */
	again = liar_new(b, FRAME_HAS_RDMA);
	ask(again, 1, CAP);
	assert_true(take(again, FRAME_RDMA));
	assert_int_equal(again->got.u.rdma.step, RDMA_HERE);
	liar_free(again);
	liar_free(honest);
}

enum { ASKERS = LIMIT_RDMA_CONNS / 4 + 32 };

/* A host that asks, and does not come, holds a part of what there is, not all. */
static void test_a_host_that_asks_for_all(void **state)
{
	struct bed *b = *state;
	static struct liar *x[ASKERS];
	struct liar *honest;
	unsigned n_here = 0;

	b->issued_to = "asker";
	for (unsigned i = 0; i < ASKERS; i++) {
		x[i] = liar_new(b, FRAME_HAS_RDMA);
		(void)bed_has_heard(b, BED_B, LB_STATS, 0); /* its reports are read */
	}
	for (unsigned i = 0; i < ASKERS; i++)
		ask(x[i], 1, CAP);
	for (unsigned i = 0; i < ASKERS; i++) {
		assert_true(take(x[i], FRAME_RDMA));
		n_here += x[i]->got.u.rdma.step == RDMA_HERE;
	}
	assert_in_range(n_here, 1, LIMIT_RDMA_CONNS / 4);
	b->issued_to = "honest";
	honest = liar_new(b, FRAME_HAS_RDMA);
	ask(honest, 1, CAP);
	assert_true(take(honest, FRAME_RDMA));
	assert_int_equal(honest->got.u.rdma.step, RDMA_HERE);
	liar_free(honest);
	for (unsigned i = 0; i < ASKERS; i++) {
		liar_free(x[i]);
		(void)bed_has_heard(b, BED_B, LB_STATS, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_it_goes_over, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_says_plain, setup_one_plain, teardown),
		cmocka_unit_test_setup_teardown(test_both_say_plain, setup_plain, teardown),
		cmocka_unit_test_setup_teardown(test_the_mode_changes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_goaway_crosses, setup, teardown),
		cmocka_unit_test_setup_teardown(test_it_goes_over_under_load, setup, teardown),
		cmocka_unit_test_setup_teardown(test_it_goes_over_under_load, setup_plain, teardown),
		cmocka_unit_test_setup_teardown(test_many_lanes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_connection_there, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_connection_here, setup, teardown),
		cmocka_unit_test_setup_teardown(test_an_address_that_is_not_its_own, setup_elsewhere, teardown),
		cmocka_unit_test_setup_teardown(test_an_address_that_is_said_to_be_its_own, setup_said_elsewhere, teardown),
		cmocka_unit_test_setup_teardown(test_nobody_answers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_memory_there, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_memory_here, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_export, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_ring_that_stays_full, setup_short, teardown),
		cmocka_unit_test_setup_teardown(test_a_daemon_that_is_killed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_it_ends_in_order, setup, teardown),
		cmocka_unit_test_setup_teardown(test_steps_that_are_not_due, setup_b, teardown),
		cmocka_unit_test_setup_teardown(test_sizes_that_are_not_taken, setup_b, teardown),
		cmocka_unit_test_setup_teardown(test_a_peer_that_does_not_lie, setup_b, teardown),
		cmocka_unit_test_setup_teardown(test_keys_that_are_none, setup_b, teardown),
		cmocka_unit_test_setup_teardown(test_frames_where_they_are_not_due, setup_b, teardown),
		cmocka_unit_test_setup_teardown(test_records_that_are_none, setup_b, teardown),
		cmocka_unit_test_setup_teardown(test_another_host_at_its_address, setup_b, teardown),
		cmocka_unit_test_setup_teardown(test_a_host_that_asks_for_all, setup_b, teardown),
		cmocka_unit_test_setup_teardown(test_one_has_none, setup_b, teardown),
		cmocka_unit_test_setup_teardown(test_the_connection_breaks, setup, teardown),
		cmocka_unit_test_setup_teardown(test_words_after_the_connection_broke, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_record_that_does_not_open, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
