/*
 * The linker, twice, each under its own filter (test_linker_bed.h); this file plays the brokers and the applications. Every test ends with
 * bed_stop(), which checks that both were alive until then and ended cleanly.
 */
#include "daemon/test_linker_bed.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <dirent.h>
#include <linux/sockios.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static int setup(void **state)
{
	struct bed *b = malloc(sizeof(*b));

	bed_init(b);
	bed_start(b);
	*state = b;
	return 0;
}

/* Where nobody accepts, and that is to be noticed. */
static int setup_short(void **state)
{
	struct bed *b = malloc(sizeof(*b));

	bed_init(b);
	b->handshake_ms = 0;
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
	struct role_msg ask, opened;
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
	opened = bed_hear(b, BED_A, LB_OPENED, NULL);
	/* Both sides call it the same, and no other session would. */
	assert_true(opened.u.lane_ref.link_id == ask.u.link_ask.link_id);
	assert_int_equal((uint32_t)opened.u.lane_ref.link_id, 1);
	assert_int_not_equal(opened.u.lane_ref.link_id >> 32, 0);
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


/* Bytes. */

enum { BULK = 48 << 20, PIECE = 100000 };

struct pump {
	uint64_t sent, received, seed_out, seed_in;
	bool shut;
};

/* Byte @i of a stream: so that a byte in the wrong place is seen, not only one that is missing. */
static uint8_t byte_at(uint64_t seed, uint64_t i)
{
	return (uint8_t)((i * UINT64_C(0x9e3779b97f4a7c15) >> 56) + seed + (i >> 16));
}

static void pump_out(int fd, struct pump *p)
{
	static uint8_t buf[PIECE];
	size_t n = BULK - p->sent < PIECE ? (size_t)(BULK - p->sent) : PIECE;
	ssize_t r;

	for (size_t i = 0; i < n; i++)
		buf[i] = byte_at(p->seed_out, p->sent + i);
	r = send(fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	assert_true(r > 0 || errno == EAGAIN);
	p->sent += r > 0 ? (uint64_t)r : 0;
	if (p->sent < BULK || p->shut)
		return;
	shutdown(fd, SHUT_WR);
	p->shut = true;
}

static bool pump_in(int fd, struct pump *p)
{
	static uint8_t buf[PIECE];
	ssize_t r = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

	if (r < 0)
		assert_int_equal(errno, EAGAIN);
	for (ssize_t i = 0; i < r; i++)
		if (buf[i] != byte_at(p->seed_in, p->received + (uint64_t)i))
			fail_msg("byte %llu is wrong", (unsigned long long)p->received + (unsigned long long)i);
	p->received += r > 0 ? (uint64_t)r : 0;
	return r == 0;
}

static void test_bulk_both_ways(void **state)
{
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b);
	struct pump ends[2] = { { .seed_out = 1, .seed_in = 2 }, { .seed_out = 2, .seed_in = 1 } };
	int fds[2] = { l.client, l.server };
	bool done[2] = {};

	while (!done[0] || !done[1]) {
		struct pollfd p[2];

		for (int i = 0; i < 2; i++)
			p[i] = (struct pollfd){ .fd = fds[i], .events = (short)((done[i] ? 0 : POLLIN) | (ends[i].shut ? 0 : POLLOUT)) };
		assert_true(poll(p, 2, BED_WAIT_MS) > 0);
		for (int i = 0; i < 2; i++) {
			if (p[i].revents & POLLOUT)
				pump_out(fds[i], &ends[i]);
			if (!done[i] && (p[i].revents & (POLLIN | POLLHUP)))
				done[i] = pump_in(fds[i], &ends[i]);
		}
	}
	assert_int_equal(ends[0].received, BULK);
	assert_int_equal(ends[1].received, BULK);
	assert_int_equal(hear_closed(b, BED_A, l.a, LANE_END_EOF).bytes_up, BULK);
	assert_int_equal(hear_closed(b, BED_B, l.b, LANE_END_EOF).bytes_down, BULK);
	bed_lane_close(&l);
}

enum { MANY = 1000 };

static void test_many_lanes(void **state)
{
	struct bed *b = *state;
	static struct bed_lane lanes[MANY];
	char text[32];

	for (int i = 0; i < MANY; i++) {
		lanes[i].client = bed_carry(b, BED_REDIS, &lanes[i].a);
		snprintf(text, sizeof(text), "lane %5d", i);
		put(lanes[i].client, text, 10);
	}
	for (int i = 0; i < MANY; i++)
		lanes[i].server = bed_go(b, &lanes[i].b);
	for (int i = 0; i < MANY; i++)
		bed_hear(b, BED_A, LB_OPENED, NULL);
	/* Each has its own bytes, and only those, whichever way round they came. */
	for (int i = 0; i < MANY; i++) {
		assert_int_equal(get(lanes[i].server, text, 10), 10);
		text[10] = '\0';
		put(lanes[i].server, text, 10);
		put(lanes[i].server, " too", 4);
	}
	for (int i = 0; i < MANY; i++) {
		snprintf(text, sizeof(text), "lane %5d too", i);
		expect(lanes[i].client, text);
	}
	bed_hear_session(b, BED_A, SESSION_UP);
	assert_false(bed_has_heard(b, BED_A, LB_SESSION, 0)); /* one for all of them */
	for (int i = 0; i < MANY; i++)
		bed_lane_close(&lanes[i]);
	for (int i = 0; i < MANY; i++) {
		bed_hear(b, BED_A, LB_CLOSED, NULL);
		bed_hear(b, BED_B, LB_CLOSED, NULL);
	}
}

/* Refusals of lanes. */

static void say_no(struct bed *b, enum link_code code, const char *why)
{
	struct role_msg ask = bed_hear(b, BED_B, LB_ASK, NULL);
	struct role_msg m = { .type = BL_NO, .u.link_no = { .ask = ask.u.link_ask.ask, .code = code } };

	snprintf(m.u.link_no.why, sizeof(m.u.link_no.why), "%s", why);
	bed_tell(b, BED_B, &m, -1);
}

static size_t count_fds(pid_t pid)
{
	char path[64];
	struct dirent *e;
	size_t n = 0;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	d = opendir(path);
	assert_non_null(d);
	while ((e = readdir(d)))
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

static void test_nothing_is_left(void **state)
{
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b);
	size_t before[BED_N_SIDES];

	for (unsigned i = 0; i < BED_N_SIDES; i++)
		before[i] = count_fds(b->sides[i].pid);
	for (int i = 0; i < 200; i++) {
		struct bed_lane other;
		uint64_t id;
		int client = bed_carry(b, BED_REDIS, &id);

		/* One of each sort: refused, ended by one side, by the other, cut. */
		say_no(b, LINK_DENIED, "");
		bed_hear(b, BED_A, LB_FAILED, NULL);
		close(client);
		other = bed_lane(b);
		if (i % 3 == 0)
			close(take_fd(&other.client));
		else if (i % 3 == 1)
			close(take_fd(&other.server));
		else
			bed_tell(b, BED_A, &(struct role_msg){ .type = BL_CUT, .u.lane_ref.lane_id = other.a }, -1);
		bed_hear(b, BED_A, LB_CLOSED, NULL);
		bed_hear(b, BED_B, LB_CLOSED, NULL);
		bed_lane_close(&other);
	}
	for (unsigned i = 0; i < BED_N_SIDES; i++)
		assert_int_equal(count_fds(b->sides[i].pid), before[i]);
	bed_lane_close(&l);
}

/* Return: bytes that went in until nothing moved for a while. */
static size_t fill(int fd, uint64_t seed)
{
	static uint8_t buf[65536];
	size_t total = 0;

	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLOUT };
		ssize_t n;

		for (size_t i = 0; i < sizeof(buf); i++)
			buf[i] = byte_at(seed, total + i);
		n = send(fd, buf, sizeof(buf), MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n > 0)
			total += (size_t)n;
		else if (poll(&p, 1, 1000) == 0)
			return total;
	}
}

static void test_slow_reader_stops_itself(void **state)
{
	struct bed *b = *state;
	struct bed_lane slow = bed_lane(b), quick = bed_lane(b);
	size_t stuck = fill(slow.client, 7);

	/* What the two sockets hold, what the far side keeps, and what waits on the way; never what the client would send. */
	assert_in_range(stuck, BED_WINDOW, 4 << 20);
	for (int i = 0; i < 100; i++) {
		put(quick.client, "ping", 4);
		expect(quick.server, "ping");
		put(quick.server, "pong", 4);
		expect(quick.client, "pong");
	}
	shutdown(slow.client, SHUT_WR);
	for (size_t at = 0; at < stuck; at++) {
		static uint8_t buf[4096];
		size_t n = get(slow.server, buf, stuck - at < sizeof(buf) ? stuck - at : sizeof(buf));

		assert_true(n > 0);
		for (size_t i = 0; i < n; i++)
			assert_int_equal(buf[i], byte_at(7, at + i));
		at += n - 1;
	}
	expect_end(slow.server);
	bed_lane_close(&slow);
	bed_lane_close(&quick);
}

static void test_client_that_leaves_at_once(void **state)
{
	struct bed *b = *state;
	uint64_t a_id, b_id;
	int client = bed_carry(b, BED_REDIS, &a_id), server;

	put(client, "do it", 5);
	close(client);
	server = bed_go(b, &b_id);
	expect(server, "do it");
	expect_end(server);
	bed_hear(b, BED_A, LB_OPENED, NULL);
	hear_closed(b, BED_A, a_id, LANE_END_EOF);
	hear_closed(b, BED_B, b_id, LANE_END_EOF);
	assert_int_equal(send(server, "x", 1, MSG_NOSIGNAL), -1); /* it learns that nobody is there */
	close(server);
}

static void test_server_that_leaves(void **state)
{
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b);

	put(l.server, "bye", 3);
	close(l.server);
	l.server = -1;
	expect(l.client, "bye");
	expect_end(l.client);
	hear_closed(b, BED_A, l.a, LANE_END_EOF);
	hear_closed(b, BED_B, l.b, LANE_END_EOF);
	assert_int_equal(send(l.client, "x", 1, MSG_NOSIGNAL), -1);
	bed_lane_close(&l);
}

static void test_refused_lanes(void **state)
{
	struct bed *b = *state;
	struct role_msg m;
	uint64_t id;
	int fd = -1, client = bed_carry(b, BED_REDIS, &id);

	say_no(b, LINK_DENIED, "no intention allows it");
	m = bed_hear(b, BED_A, LB_FAILED, &fd);
	assert_int_equal(m.u.link_failed.lane_id, id);
	assert_int_equal(m.u.link_failed.code, LINK_DENIED);
	assert_string_equal(m.u.link_failed.why, "no intention allows it");
	assert_true(fd >= 0); /* nothing was sent: it may be tried elsewhere, and is whole */
	put(fd, "still here", 10);
	expect(client, "still here");
	close(fd);
	close(client);

	/* What it says waits for the proof that the host is the one for it. */
	client = bed_carry(b, BED_REDIS, &id);
	put(client, "not for you", 11);
	bed_has_heard(b, BED_B, LB_ASK, BED_WAIT_MS);
	usleep(100000);
	say_no(b, LINK_DOWN, "");
	bed_hear(b, BED_A, LB_FAILED, &fd);
	expect(fd, "not for you");
	close(fd);
	close(client);
}

/* The linker has read what was put there. */
static void await_taken(int sock)
{
	uint64_t end = clock_ns() + BED_WAIT_MS * UINT64_C(1000000);
	int unread;

	while (ioctl(sock, SIOCOUTQ, &unread) == 0 && unread > 0 && clock_ns() < end)
		usleep(1000);
	assert_int_equal(unread, 0);
}

static void test_refused_after_the_proof(void **state)
{
	struct bed *b = *state;
	struct bed_lane proven = bed_lane(b);
	struct role_msg m;
	uint64_t id;
	int fd = -1, client = bed_carry(b, BED_REDIS, &id);

	put(client, "too late", 8);
	bed_has_heard(b, BED_B, LB_ASK, BED_WAIT_MS);
	await_taken(client); /* its bytes are on their way */
	say_no(b, LINK_DOWN, "");
	m = bed_hear(b, BED_A, LB_FAILED, &fd);
	assert_int_equal(m.u.link_failed.lane_id, id);
	assert_int_equal(m.u.link_failed.code, LINK_DOWN);
	assert_int_equal(fd, -1); /* the far side may have them */
	expect_end(client);
	close(client);
	bed_lane_close(&proven);
}

static void test_nobody_listens(void **state)
{
	struct bed *b = *state;
	struct role_msg m;
	uint64_t id;
	struct role_session s;
	int fd = -1, client;

	b->sides[BED_A].dials.sin_port = htons(1);
	client = bed_carry(b, BED_REDIS, &id);
	put(client, "keep me", 7);
	m = bed_hear(b, BED_A, LB_FAILED, &fd);
	assert_int_equal(m.u.link_failed.code, LINK_FAILED);
	assert_non_null(strstr(m.u.link_failed.why, "ECONNREFUSED"));
	expect(fd, "keep me");
	s = bed_hear_session(b, BED_A, SESSION_REFUSED);
	assert_int_equal(s.reason, SESSION_LOST);
	assert_non_null(strstr(s.why, "ECONNREFUSED"));
	close(fd);
	close(client);
}

/* A session that nothing was heard from for a while may be dead: until it has answered, the client's bytes stay where they are. */
static void test_a_quiet_session_is_asked_first(void **state)
{
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b); /* from now on the host has proven the service */
	struct role_msg m = { .type = BL_RECALL };
	AUTO_FD back = -1;
	uint64_t id;
	int client;

	kill(b->sides[BED_B].pid, SIGSTOP);
	poll(NULL, 0, 2300);
	client = bed_carry(b, BED_REDIS, &id);
	put(client, "hello", 5);
	poll(NULL, 0, 200);
	m.u.lane_ref.lane_id = id;
	bed_tell(b, BED_A, &m, -1);
	m = bed_hear(b, BED_A, LB_FAILED, &back);
	assert_int_equal(m.u.link_failed.lane_id, id);
	assert_true(back >= 0);
	expect(back, "hello");
	kill(b->sides[BED_B].pid, SIGCONT);
	close(client);
	bed_lane_close(&l);
}

static void test_cut(void **state)
{
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b), other = bed_lane(b);
	struct role_msg m = { .type = BL_CUT, .u.lane_ref.lane_id = l.b };

	bed_tell(b, BED_B, &m, -1);
	hear_closed(b, BED_B, l.b, LANE_END_CUT);
	hear_closed(b, BED_A, l.a, LANE_END_CUT);
	expect_end(l.client);
	expect_end(l.server);
	put(other.client, "mine goes on", 12);
	expect(other.server, "mine goes on");
	bed_lane_close(&l);
	bed_lane_close(&other);
}

static void test_limit(void **state)
{
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b);
	struct role_msg m = { .type = BL_LIMIT, .u.lane_ref = { .lane_id = l.a, .bytes_per_s = 400000, .burst_bytes = 100000 } };
	static char buf[500000];
	uint64_t start;

	bed_tell(b, BED_A, &m, -1);
	bed_tell(b, BED_A, &(struct role_msg){ .type = BL_STATS, .seq = 1 }, -1);
	while (bed_hear(b, BED_A, LB_STATS, NULL).u.stats.lane_id != 0) /* the last one: the limit is there, too */
		continue;
	start = clock_ns();
	for (size_t at = 0; at < sizeof(buf); at += 100000) {
		put(l.client, buf, 100000);
		assert_int_equal(get(l.server, buf, 100000), 100000);
	}
	assert_true(clock_ns() - start > UINT64_C(900000000)); /* 100 k at once, 400 k at 400 k/s */
	bed_lane_close(&l);
}

static void test_stats(void **state)
{
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b);
	struct role_msg m = { .type = BL_STATS, .seq = 77 };

	put(l.client, "12345", 5);
	expect(l.server, "12345");
	bed_tell(b, BED_A, &m, -1);
	m = bed_hear(b, BED_A, LB_STATS, NULL);
	assert_int_equal(m.u.stats.lane_id, l.a);
	assert_int_equal(m.u.stats.bytes_up, 5);
	m = bed_hear(b, BED_A, LB_SESSION_STATS, NULL);
	assert_int_equal(m.u.session_stats.n_lanes, 1);
	assert_int_equal(m.u.session_stats.n_opened, 1);
	assert_in_range(m.u.session_stats.bytes_out, 500, 5000);
	assert_in_range(m.u.session_stats.rtt_us, 1, 1000000);
	m = bed_hear(b, BED_A, LB_STATS, NULL);
	assert_int_equal(m.u.stats.lane_id, 0);
	assert_int_equal(m.seq, 77);
	bed_lane_close(&l);
}

static void test_descriptors_are_refused(void **state)
{
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b);
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {};
	struct iovec iov = { "x", 1 };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes) };
	struct cmsghdr *cm = CMSG_FIRSTHDR(&mh);
	int fd = 0;

	cm->cmsg_level = SOL_SOCKET;
	cm->cmsg_type = SCM_RIGHTS;
	cm->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cm), &fd, sizeof(int));
	if (sendmsg(l.client, &mh, MSG_NOSIGNAL) == 1) { /* a kernel that cannot refuse it there */
		hear_closed(b, BED_A, l.a, LANE_END_FDS);
		hear_closed(b, BED_B, l.b, LANE_END_CLIENT);
	} else {
		assert_int_equal(errno, EPERM);
		put(l.client, "on", 2);
		expect(l.server, "on");
	}
	bed_lane_close(&l);
}

/* Sessions. */

static void test_resumption(void **state)
{
	struct bed *b = *state;
	struct role_session first, second;
	struct bed_lane l;
	unsigned n_signed;

	l = bed_lane(b);
	first = bed_hear_session(b, BED_A, SESSION_UP);
	bed_lane_close(&l);
	assert_int_equal(bed_hear_session(b, BED_A, SESSION_DOWN).reason, SESSION_OK); /* idle */
	bed_hear_session(b, BED_B, SESSION_DOWN);
	assert_int_equal(first.resumed, 0);
	n_signed = b->sides[BED_A].n_signed;
	l = bed_lane(b);
	second = bed_hear_session(b, BED_A, SESSION_UP);
	assert_int_equal(second.resumed, 1);
	assert_string_equal(second.peer, first.peer);
	assert_int_equal(b->sides[BED_A].n_signed, n_signed);
	bed_lane_close(&l);
}

static int setup_idle(void **state)
{
	struct bed *b = malloc(sizeof(*b));

	bed_init(b);
	b->idle_ms = 100;
	bed_start(b);
	*state = b;
	return 0;
}

static void ping_pong(struct bed_lane *l)
{
	put(l->client, "ping", 4);
	expect(l->server, "ping");
	put(l->server, "pong", 4);
	expect(l->client, "pong");
}

static void test_renewal_is_not_noticed(void **state)
{
	struct bed *b = *state;
	struct bed_lane l;
	uint64_t until;

	/* All three live for 3 s, and are renewed before that. */
	for (unsigned side = 0; side < BED_N_SIDES; side++) {
		bed_credential(b, side, BED_KID_HOST, NULL, 3);
		bed_credential(b, side, BED_KID_WEB, BED_WEB, 3);
		bed_credential(b, side, BED_KID_REDIS, BED_REDIS, 3);
	}
	l = bed_lane(b);
	bed_hear_session(b, BED_A, SESSION_UP);
	until = clock_ns() + UINT64_C(6000000000);
	while (clock_ns() < until) {
		ping_pong(&l);
		usleep(300000);
		for (unsigned side = 0; side < BED_N_SIDES; side++) {
			bed_credential(b, side, BED_KID_HOST, NULL, 3);
			bed_credential(b, side, BED_KID_WEB, BED_WEB, 3);
			bed_credential(b, side, BED_KID_REDIS, BED_REDIS, 3);
		}
	}
	assert_false(bed_has_heard(b, BED_A, LB_SESSION, 0));
	bed_lane_close(&l);
}

static void test_expiry_of_the_service(void **state)
{
	struct bed *b = *state;
	struct bed_lane l;

	bed_credential(b, BED_B, BED_KID_REDIS, BED_REDIS, 2);
	l = bed_lane(b);
	ping_pong(&l);
	hear_closed(b, BED_A, l.a, LANE_END_CUT);
	hear_closed(b, BED_B, l.b, LANE_END_CUT);
	expect_end(l.client);
	bed_lane_close(&l);
}

static void test_expiry_of_the_client(void **state)
{
	struct bed *b = *state;
	struct bed_lane l;

	bed_credential(b, BED_A, BED_KID_WEB, BED_WEB, 2);
	l = bed_lane(b);
	ping_pong(&l);
	bed_hear_session(b, BED_B, SESSION_UP);
	bed_hear_session(b, BED_B, SESSION_DOWN);
	bed_hear(b, BED_B, LB_CLOSED, NULL);
	expect_end(l.client);
	expect_end(l.server);
	bed_lane_close(&l);
}

static void test_revocation(void **state)
{
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b);
	struct role_session s;
	uint64_t id;
	int client;

	bed_hear_session(b, BED_A, SESSION_UP);
	bed_revoke(b, BED_B, "id:spiffe://" BED_DOMAIN "/ns/default/svc/other\nid:spiffe://" BED_DOMAIN "/ns/default/svc/web\n");
	s = bed_hear_session(b, BED_B, SESSION_DOWN);
	assert_string_equal(session_reason_name(s.reason), "revoked");
	hear_closed(b, BED_B, l.b, LANE_END_CUT);
	expect_end(l.server);
	bed_hear_session(b, BED_A, SESSION_DOWN);
	/* It does not come back either, resumed or not. */
	client = bed_carry(b, BED_REDIS, &id);
	s = bed_hear_session(b, BED_B, SESSION_REFUSED);
	assert_string_equal(session_reason_name(s.reason), "revoked");
	assert_string_equal(s.peer, "spiffe://" BED_DOMAIN "/ns/default/svc/web");
	bed_hear(b, BED_A, LB_FAILED, NULL);
	close(client);
	/* The list is what it is now: without the name all is well. */
	bed_revoke(b, BED_B, "");
	bed_lane_close(&l);
	l = bed_lane(b);
	ping_pong(&l);
	bed_lane_close(&l);
}

/* A service of one host, until a moment; and a host with all that was issued to it. */
static void test_revocation_of_a_hosts_services(void **state)
{
	/* 4000000000: later than each. */
	static const char spared[] = "before:4000000000:spiffe://" BED_DOMAIN "/ns/default/svc/web@b\n"
				     "before:4000000000:spiffe://" BED_DOMAIN "/ns/default/svc/api@a\nid:spiffe://" BED_DOMAIN "/host/c\n";
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b);
	char text[256];

	bed_hear_session(b, BED_A, SESSION_UP);
	bed_revoke(b, BED_B, spared);
	ping_pong(&l);
	snprintf(text, sizeof(text), "before:%lld:spiffe://" BED_DOMAIN "/ns/default/svc/web@a", (long long)time(NULL) - 3600);
	bed_revoke(b, BED_B, text);
	ping_pong(&l);
	snprintf(text, sizeof(text), "before:%lld:spiffe://" BED_DOMAIN "/ns/default/svc/web@a", (long long)time(NULL));
	bed_revoke(b, BED_B, text);
	assert_string_equal(session_reason_name(bed_hear_session(b, BED_B, SESSION_DOWN).reason), "revoked");
	expect_end(l.server);
	bed_hear_session(b, BED_A, SESSION_DOWN);
	bed_lane_close(&l);
	bed_revoke(b, BED_B, "");
	l = bed_lane(b);
	ping_pong(&l);
	bed_revoke(b, BED_B, "id:spiffe://" BED_DOMAIN "/host/a");
	assert_string_equal(session_reason_name(bed_hear_session(b, BED_B, SESSION_DOWN).reason), "revoked");
	expect_end(l.server);
	bed_lane_close(&l);
}

/* A lane to @service, which b proves with @kid. */
static struct bed_lane lane_to(struct bed *b, const char *service, uint32_t kid)
{
	struct bed_lane l;

	l.client = bed_carry(b, service, &l.a);
	l.server = bed_go_as(b, kid, &l.b);
	assert_int_equal(bed_hear(b, BED_A, LB_OPENED, NULL).u.lane_ref.lane_id, l.a);
	return l;
}

/* b does not know yet that @service is revoked, and says yes. Not a byte of the client's is lost by it. */
static void expect_revoked(struct bed *b, const char *service, uint32_t kid)
{
	struct role_msg m;
	uint64_t a_id, b_id;
	int client = bed_carry(b, service, &a_id), server, fd = -1;

	put(client, "mine", 4);
	server = bed_go_as(b, kid, &b_id);
	m = bed_hear(b, BED_A, LB_FAILED, &fd);
	assert_int_equal(m.u.link_failed.lane_id, a_id);
	assert_int_equal(m.u.link_failed.code, LINK_DENIED);
	assert_int_equal(m.u.link_failed.certificate, 1);
	assert_non_null(strstr(m.u.link_failed.why, "revoked"));
	expect(fd, "mine");
	assert_int_equal(bed_hear(b, BED_B, LB_CLOSED, NULL).u.stats.lane_id, b_id);
	expect_end(server);
	close(fd);
	close(client);
	close(server);
}

/* Whoever shares the session with a service that is revoked keeps its lanes. */
static void test_revoked_service_alone(void **state)
{
	enum { KID_THIRD = BED_KID_OTHER + 1 };
	struct bed *b = *state;
	struct bed_lane good = bed_lane(b), bad;

	bed_credential(b, BED_B, BED_KID_OTHER, "default/other", 3600);
	bed_credential(b, BED_B, KID_THIRD, "default/third", 3600);
	bed_hear_session(b, BED_A, SESSION_UP);
	bed_hear_session(b, BED_B, SESSION_UP);
	bad = lane_to(b, "default/other", BED_KID_OTHER);
	ping_pong(&bad);
	bed_revoke(b, BED_A, "id:spiffe://" BED_DOMAIN "/ns/default/svc/other\nid:spiffe://" BED_DOMAIN "/ns/default/svc/third\n");
	hear_closed(b, BED_A, bad.a, LANE_END_CUT);
	hear_closed(b, BED_B, bad.b, LANE_END_CUT);
	expect_end(bad.client);
	bed_lane_close(&bad);
	ping_pong(&good);
	expect_revoked(b, "default/other", BED_KID_OTHER); /* proven before */
	expect_revoked(b, "default/third", KID_THIRD);	   /* its PROOF is refused */
	ping_pong(&good);
	bed_revoke(b, BED_A, "");
	bad = lane_to(b, "default/other", BED_KID_OTHER);
	ping_pong(&bad);
	assert_false(bed_has_heard(b, BED_A, LB_SESSION, 0));
	assert_false(bed_has_heard(b, BED_B, LB_SESSION, 0));
	bed_lane_close(&bad);
	bed_lane_close(&good);
}

static char *new_root_pem(void)
{
	STACK_OF(X509) *stack = sk_X509_new_null();
	EVP_PKEY *key = NULL;
	X509 *root = NULL;
	char *pem = NULL;

	assert_int_equal(pki_new_key(&key), 0);
	assert_int_equal(pki_make_root(&root, key, BED_DOMAIN, time(NULL) - 60, time(NULL) + 86400), 0);
	assert_true(sk_X509_push(stack, root) > 0);
	assert_int_equal(pki_to_pem(&pem, stack), 0);
	sk_X509_pop_free(stack, X509_free);
	EVP_PKEY_free(key);
	return pem;
}

static void trust(struct bed *b, unsigned side, const char *pem)
{
	struct role_msg m = { .type = BL_TRUST, .u.trust = { .window = b->window, .idle_ms = b->idle_ms, .timeout_ms = b->timeout_ms, .trust_domain = BED_DOMAIN } };

	assert_true(str_copy(m.u.trust.host, sizeof(m.u.trust.host), bed_host(side)));
	bed_tell_text(b, side, &m, pem);
}

/* A root more is no news for what stands; a root less ends what stood on it. */
static void test_root_taken_out(void **state)
{
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b);
	char *other = new_root_pem(), *both = NULL;
	struct role_session s;

	assert_true(asprintf(&both, "%s%s", other, b->root_pem) > 0);
	bed_hear_session(b, BED_B, SESSION_UP);
	trust(b, BED_B, both);
	ping_pong(&l);
	assert_false(bed_has_heard(b, BED_B, LB_SESSION, 200));
	trust(b, BED_B, other);
	s = bed_hear_session(b, BED_B, SESSION_DOWN);
	assert_string_equal(session_reason_name(s.reason), "untrusted");
	hear_closed(b, BED_B, l.b, LANE_END_CUT);
	expect_end(l.server);
	bed_hear(b, BED_A, LB_CLOSED, NULL);
	bed_lane_close(&l);
	free(other);
	free(both);
}

/* The same for a service of the far side, on a session that came from a ticket. */
static void test_root_taken_out_after_resumption(void **state)
{
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b);
	char *other = new_root_pem();

	bed_hear_session(b, BED_A, SESSION_UP);
	bed_lane_close(&l);
	bed_hear_session(b, BED_A, SESSION_DOWN); /* idle */
	bed_hear_session(b, BED_B, SESSION_DOWN);
	bed_hear(b, BED_A, LB_CLOSED, NULL);
	bed_hear(b, BED_B, LB_CLOSED, NULL);
	l = bed_lane(b);
	assert_int_equal(bed_hear_session(b, BED_A, SESSION_UP).resumed, 1);
	ping_pong(&l);
	trust(b, BED_A, other);
	assert_string_equal(session_reason_name(bed_hear_session(b, BED_A, SESSION_DOWN).reason), "untrusted");
	hear_closed(b, BED_A, l.a, LANE_END_CUT);
	bed_lane_close(&l);
	free(other);
}

/* Two addresses: both are accepted at. */
static void test_two_listeners(void **state)
{
	struct bed *b = *state;
	struct role_msg listens = { .type = BL_LISTEN }, host = { .type = BL_HOST, .u.host = { .hid = 9, .name = "b", .address = "127.0.0.1:9" } };
	struct role_msg carry = { .type = BL_CARRY, .u.carry = { .hid = 9, .kid = BED_KID_WEB, .lane_id = 9, .destination = BED_REDIS } };
	struct bed_lane first = bed_lane(b), second = { .a = 9 };
	struct sockaddr_in *at = &b->sides[BED_A].dials;
	socklen_t size = sizeof(*at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), pair[2];

	*at = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	assert_int_equal(bind(fd, (struct sockaddr *)at, size), 0);
	assert_int_equal(listen(fd, 8), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)at, &size), 0);
	bed_tell(b, BED_B, &listens, fd);
	close(fd);
	bed_tell(b, BED_A, &host, -1);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	bed_tell(b, BED_A, &carry, pair[1]);
	close(pair[1]);
	second.client = pair[0];
	second.server = bed_go(b, &second.b);
	ping_pong(&second);
	/* And still at the first one. */
	*at = b->sides[BED_B].address;
	host.u.host.hid = carry.u.carry.hid = 10;
	carry.u.carry.lane_id = 10;
	bed_tell(b, BED_A, &host, -1);
	bed_lane_close(&first);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	bed_tell(b, BED_A, &carry, pair[1]);
	close(pair[1]);
	first.client = pair[0];
	first.server = bed_go(b, &first.b);
	ping_pong(&first);
	bed_lane_close(&first);
	bed_lane_close(&second);
}

static void test_wrong_host(void **state)
{
	struct bed *b = *state;
	struct role_msg host = { .type = BL_HOST, .u.host = { .hid = BED_HID, .name = "c", .address = "127.0.0.1:9" } };
	struct role_session s;
	uint64_t id;
	int client, fd = -1;

	bed_tell(b, BED_A, &host, -1);
	client = bed_carry(b, BED_REDIS, &id);
	s = bed_hear_session(b, BED_A, SESSION_REFUSED);
	assert_string_equal(session_reason_name(s.reason), "wrong-host");
	assert_string_equal(s.why, "host b answered where host c was dialled");
	bed_hear(b, BED_A, LB_FAILED, &fd);
	assert_true(fd >= 0);
	close(fd);
	close(client);
}

static void test_silent_signer(void **state)
{
	struct bed *b = *state;
	struct role_session s;
	uint64_t id;
	int client, fd = -1;

	b->sides[BED_A].signs = false;
	client = bed_carry(b, BED_REDIS, &id);
	s = bed_hear_session(b, BED_A, SESSION_REFUSED);
	assert_int_equal(s.reason, SESSION_PROTOCOL);
	bed_hear(b, BED_A, LB_FAILED, &fd);
	assert_true(fd >= 0);
	close(fd);
	close(client);
	pthread_mutex_lock(&b->lock);
	b->sides[BED_A].signs = true;
	pthread_mutex_unlock(&b->lock);
	struct bed_lane l = bed_lane(b); /* the late answer is nobody's */
	ping_pong(&l);
	bed_lane_close(&l);
}

static void test_the_other_linker_dies(void **state)
{
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b);
	uint64_t waiting;
	int client = bed_carry(b, BED_REDIS, &waiting);

	bed_hear(b, BED_B, LB_ASK, NULL);
	put(l.client, "into the void", 13);
	bed_kill(b, BED_B);
	hear_closed(b, BED_A, l.a, LANE_END_LINK);
	expect_end(l.client);
	assert_int_equal(bed_hear(b, BED_A, LB_FAILED, NULL).u.link_failed.lane_id, waiting);
	assert_int_equal(bed_hear_session(b, BED_A, SESSION_DOWN).reason, SESSION_LOST);
	close(client);
	bed_lane_close(&l);
}

/* A daemon that stops does not wait for ever for what is open. Its lanes are reset, and it was no fault of the connection. */
static void test_drain_with_lanes(void **state)
{
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b);
	struct role_msg m = { .type = BL_DRAIN };

	bed_tell(b, BED_B, &m, -1);
	usleep(100000);
	ping_pong(&l);
	bed_kill(b, BED_B);
	hear_closed(b, BED_A, l.a, LANE_END_LINK);
	expect_end(l.client);
	assert_int_equal(bed_hear_session(b, BED_A, SESSION_DOWN).reason, SESSION_OK);
	bed_lane_close(&l);
}

static void test_drain(void **state)
{
	struct bed *b = *state;
	struct bed_lane l = bed_lane(b);
	struct role_msg m = { .type = BL_DRAIN };
	uint64_t id;
	int client, fd = -1;

	bed_tell(b, BED_B, &m, -1);
	ping_pong(&l);
	usleep(100000);
	ping_pong(&l); /* what is open stays */
	client = bed_carry(b, BED_REDIS, &id);
	bed_hear(b, BED_A, LB_FAILED, &fd); /* a new session is not taken either */
	assert_true(fd >= 0);
	close(fd);
	close(client);
	bed_lane_close(&l);
	bed_hear_session(b, BED_B, SESSION_DOWN);
}

/* Between hosts, and with an authority. */

static char *text_of(int fd)
{
	static char buf[4 << 20];
	ssize_t n;

	assert_true(fd >= 0);
	n = pread(fd, buf, sizeof(buf) - 1, 0);
	assert_true(n >= 0);
	buf[n] = '\0';
	close(fd);
	return buf;
}

static void announce(struct bed *b, unsigned side, const char *text)
{
	struct role_msg m = { .type = BL_ANNOUNCE };

	bed_tell_text(b, side, &m, text);
}

static void keep_host(struct bed *b, unsigned side)
{
	struct role_msg m = { .type = BL_HOST, .u.host = { .hid = BED_HID, .keep = 1, .address = "127.0.0.1:1" } };

	snprintf(m.u.host.name, sizeof(m.u.host.name), "%s", bed_host(!side));
	bed_tell(b, side, &m, -1);
}

static void test_hosts_announce(void **state)
{
	struct bed *b = *state;
	static char large[200000];
	struct role_msg m;
	int fd;

	announce(b, BED_B, BED_REDIS " up 0\n");
	keep_host(b, BED_A);
	m = bed_hear(b, BED_A, LB_ANNOUNCE, &fd);
	assert_int_equal(m.u.id.id, BED_HID);
	assert_string_equal(text_of(fd), BED_REDIS " up 0\n");
	announce(b, BED_B, "");
	bed_hear(b, BED_A, LB_ANNOUNCE, &fd);
	assert_string_equal(text_of(fd), "");
	memset(large, 'x', sizeof(large) - 1); /* more than a frame, and than a batch */
	announce(b, BED_B, large);
	bed_hear(b, BED_A, LB_ANNOUNCE, &fd);
	assert_string_equal(text_of(fd), large);
}

static void test_hosts_come_back(void **state)
{
	struct bed *b = *state;
	struct role_msg unlisten = { .type = BL_HOST_GONE, .u.id.id = BED_HID };
	struct role_session s;

	keep_host(b, BED_A);
	s = bed_hear_session(b, BED_A, SESSION_UP);
	assert_string_equal(s.local, "spiffe://" BED_DOMAIN "/host/a");
	/* b throws the session out: its certificate is another one from now on, and a's is revoked for a moment. */
	bed_revoke(b, BED_B, "id:spiffe://" BED_DOMAIN "/host/a");
	bed_hear_session(b, BED_A, SESSION_DOWN);
	bed_hear_session(b, BED_A, SESSION_REFUSED); /* and tries again by itself */
	bed_revoke(b, BED_B, "");
	bed_hear_session(b, BED_A, SESSION_UP);
	bed_tell(b, BED_A, &unlisten, -1);
	assert_int_equal(bed_hear_session(b, BED_A, SESSION_DOWN).reason, SESSION_OK);
}

static void test_questions_to_an_authority(void **state)
{
	struct bed *b = *state;
	struct role_msg open = { .type = BL_CA_OPEN, .u.ca = { .req = 42, .mode = CA_HOST, .address = "127.0.0.1:1", .host = "b" } };
	struct role_msg ready, asked, m;
	static char answer[100000];
	int fd;

	bed_tell(b, BED_A, &open, -1);
	ready = bed_hear(b, BED_A, LB_CA_READY, NULL);
	assert_int_equal(ready.u.ca.req, 42);
	m = (struct role_msg){ .type = BL_CA_ASK, .u.ca.req = 42 };
	bed_tell_text(b, BED_A, &m, "{\"op\":\"service\"}");
	asked = bed_hear(b, BED_B, LB_CA_ASK, &fd);
	assert_string_equal(text_of(fd), "{\"op\":\"service\"}");
	assert_string_equal(asked.u.ca.peer, "spiffe://" BED_DOMAIN "/host/a");
	assert_int_equal(asked.u.ca.mode, CA_HOST);
	assert_memory_equal(asked.u.ca.exporter, ready.u.ca.exporter, sizeof(asked.u.ca.exporter));
	memset(answer, 'y', sizeof(answer) - 1);
	m = (struct role_msg){ .type = BL_CA_ANSWER, .u.ca.req = asked.u.ca.req };
	bed_tell_text(b, BED_B, &m, answer);
	m = bed_hear(b, BED_A, LB_CA_ANSWER, &fd);
	assert_int_equal(m.u.ca.req, 42);
	assert_int_equal(m.u.ca.error, 0);
	assert_string_equal(text_of(fd), answer);
	assert_int_equal(bed_hear_session(b, BED_A, SESSION_DOWN).reason, SESSION_OK);
}

static void root_digest(X509 *root, uint8_t ret[32])
{
	unsigned n = 32;

	assert_int_equal(X509_digest(root, EVP_sha256(), ret, &n), 1);
}

/* A host without a certificate, and without roots: it knows an address, a name, and what the root looks like. */
static void test_joining(void **state)
{
	struct bed *b = *state;
	struct role_msg trust = { .type = BL_TRUST, .u.trust = { .window = BED_WINDOW, .idle_ms = 60000, .timeout_ms = 15000 } };
	struct role_msg forget = { .type = BL_FORGET };
	struct role_msg open = { .type = BL_CA_OPEN, .u.ca = { .req = 1, .mode = CA_JOIN, .address = "127.0.0.1:1", .host = "b" } };
	struct role_msg m;
	int fd;

	bed_tell_text(b, BED_A, &trust, "");
	bed_tell(b, BED_A, &forget, -1);
	root_digest(b->root, open.u.ca.root);
	bed_tell(b, BED_A, &open, -1);
	bed_hear(b, BED_A, LB_CA_READY, NULL);
	m = (struct role_msg){ .type = BL_CA_ASK, .u.ca.req = 1 };
	bed_tell_text(b, BED_A, &m, "{\"op\":\"join\"}");
	m = bed_hear(b, BED_B, LB_CA_ASK, &fd);
	assert_string_equal(text_of(fd), "{\"op\":\"join\"}");
	assert_int_equal(m.u.ca.mode, CA_JOIN);
	assert_string_equal(m.u.ca.peer, "");
	m = (struct role_msg){ .type = BL_CA_ANSWER, .u.ca.req = m.u.ca.req };
	bed_tell_text(b, BED_B, &m, "{}");
	bed_hear(b, BED_A, LB_CA_ANSWER, &fd);
	assert_string_equal(text_of(fd), "{}");

	/* Another root than the token's, another host than the token's. */
	open.u.ca.root[0] ^= 1;
	open.u.ca.req = 2;
	bed_tell(b, BED_A, &open, -1);
	m = bed_hear(b, BED_A, LB_CA_ANSWER, NULL);
	assert_int_equal(m.u.ca.req, 2);
	assert_true(m.u.ca.error < 0);
	assert_int_equal(bed_hear_session(b, BED_A, SESSION_REFUSED).reason, SESSION_UNTRUSTED);
	open.u.ca.root[0] ^= 1;
	open.u.ca.req = 3;
	snprintf(open.u.ca.host, sizeof(open.u.ca.host), "c");
	bed_tell(b, BED_A, &open, -1);
	bed_hear(b, BED_A, LB_CA_ANSWER, NULL);
	assert_int_equal(bed_hear_session(b, BED_A, SESSION_REFUSED).reason, SESSION_WRONG_HOST);
}

int main(int argc, char **argv)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_both_ways),
		TEST(test_bulk_both_ways),
		TEST(test_many_lanes),
		TEST(test_nothing_is_left),
		TEST(test_slow_reader_stops_itself),
		TEST(test_client_that_leaves_at_once),
		TEST(test_server_that_leaves),
		TEST(test_refused_lanes),
		TEST(test_refused_after_the_proof),
		TEST(test_nobody_listens),
		TEST(test_a_quiet_session_is_asked_first),
		TEST(test_cut),
		TEST(test_limit),
		TEST(test_stats),
		TEST(test_descriptors_are_refused),
		cmocka_unit_test_setup_teardown(test_resumption, setup_idle, teardown),
		TEST(test_renewal_is_not_noticed),
		TEST(test_expiry_of_the_service),
		TEST(test_expiry_of_the_client),
		TEST(test_revocation),
		TEST(test_revocation_of_a_hosts_services),
		TEST(test_revoked_service_alone),
		TEST(test_root_taken_out),
		cmocka_unit_test_setup_teardown(test_root_taken_out_after_resumption, setup_idle, teardown),
		TEST(test_two_listeners),
		TEST(test_wrong_host),
		TEST(test_silent_signer),
		TEST(test_the_other_linker_dies),
		cmocka_unit_test_setup_teardown(test_drain, setup_short, teardown), TEST(test_drain_with_lanes),
		TEST(test_hosts_announce),
		TEST(test_hosts_come_back),
		TEST(test_questions_to_an_authority),
		TEST(test_joining),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
