/*
 * Lanes of the library through two linkers: what two libraries say to each other, how it ends, and what a container may write into its
 * region. This file plays the brokers, the porters and both programs (test_linker_lib.h); bed_stop() checks that both linkers were alive.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/test_linker_lib.h"
#include "link/frame.h"

#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>

#define MS INT64_C(1000000)
#define SECOND (1000 * MS)
#define PATIENCE (20 * SECOND)

enum { SMALL = 12, MEDIUM = 16, LARGE = 18 };

static const uint32_t g_usual[2] = { LARGE, LARGE };

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

static struct role_stats hear_closed(struct bed *b, unsigned side, uint64_t id, enum lane_end end)
{
	struct role_msg m = bed_hear(b, side, LB_CLOSED, NULL);

	assert_int_equal(m.u.stats.lane_id, id);
	assert_string_equal(lane_end_name(m.u.stats.end), lane_end_name(end));
	return m.u.stats;
}

static void ping_pong(struct lib_lane *l)
{
	char buf[8];

	assert_int_equal(sealane_send(l->client, "ping", 4, PATIENCE), 0);
	assert_int_equal(sealane_recv(l->server, buf, sizeof(buf), PATIENCE), 4);
	assert_memory_equal(buf, "ping", 4);
	assert_int_equal(sealane_send(l->server, "pong", 4, PATIENCE), 0);
	assert_int_equal(sealane_recv(l->client, buf, sizeof(buf), PATIENCE), 4);
	assert_memory_equal(buf, "pong", 4);
}

/* Bytes. */

static void fill(uint8_t *buf, size_t n, uint64_t at)
{
	for (size_t i = 0; i < n; i++)
		buf[i] = (uint8_t)(((at + i) * UINT64_C(0x9e3779b97f4a7c15)) >> 56);
}

static bool is_filled(const uint8_t *buf, size_t n, uint64_t at)
{
	for (size_t i = 0; i < n; i++)
		if (buf[i] != (uint8_t)(((at + i) * UINT64_C(0x9e3779b97f4a7c15)) >> 56))
			return false;
	return true;
}

enum { STREAM_BYTES = 8 << 20 };

struct job {
	struct sealane_lane *lane;
	bool ok;
};

static uint64_t dice(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005u + 1442695040888963407u;
	return *seed >> 33;
}

static void *stream_out(void *arg)
{
	static __thread uint8_t buf[70000];
	struct job *job = arg;
	uint64_t at = 0, seed = 1;

	while (at < STREAM_BYTES) {
		size_t n = 1 + dice(&seed) % sizeof(buf);

		n = n < STREAM_BYTES - at ? n : STREAM_BYTES - at;
		fill(buf, n, at);
		if (sealane_write(job->lane, buf, n, PATIENCE) != (ssize_t)n)
			return NULL;
		at += n;
	}
	job->ok = sealane_shutdown(job->lane) == 0;
	return NULL;
}

static void *stream_in(void *arg)
{
	static __thread uint8_t buf[50000];
	struct job *job = arg;
	uint64_t at = 0, seed = 7;
	ssize_t n;

	do {
		n = sealane_read(job->lane, buf, 1 + dice(&seed) % sizeof(buf), PATIENCE);
		if (n > 0 && !is_filled(buf, (size_t)n, at))
			return NULL;
		at += n > 0 ? (uint64_t)n : 0;
	} while (n > 0);
	job->ok = n == 0 && at == STREAM_BYTES;
	return NULL;
}

/* Each end sends and receives at the same time. */
static void both_ways(struct lib_lane *l, void *(*out)(void *), void *(*in)(void *))
{
	struct job jobs[4] = { { l->client }, { l->client }, { l->server }, { l->server } };
	pthread_t threads[4];

	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, i % 2 ? in : out, &jobs[i]), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < 4; i++)
		assert_true(jobs[i].ok);
}

static void test_streams(void **state)
{
	static const uint32_t caps[][2] = { { LARGE, LARGE }, { SMALL, MEDIUM } };
	struct bed *b = *state;

	for (size_t i = 0; i < ARRAY_SIZE(caps); i++) {
		struct lib_lane l = lib_lane(b, LINK_STREAM, caps[i]);

		both_ways(&l, stream_out, stream_in);
		lib_lane_close(&l);
		assert_int_equal(hear_closed(b, BED_A, l.a.id, LANE_END_EOF).bytes_up, STREAM_BYTES);
		assert_int_equal(hear_closed(b, BED_B, l.b.id, LANE_END_EOF).bytes_down, STREAM_BYTES);
	}
}

/* 0 B to 8 MiB; many small ones, few large ones. */
static size_t next_size(size_t n)
{
	return n < 70 ? n + 1 : n < 4000 ? n * 5 / 4 : n < 16000 ? n + 1365 : n * 3;
}

enum { MESSAGE_LARGEST = 8 << 20 };

static void *messages_out(void *arg)
{
	struct job *job = arg;
	uint8_t *buf = calloc(1, MESSAGE_LARGEST);

	job->ok = true;
	for (size_t n = 0; job->ok && n < MESSAGE_LARGEST; n = next_size(n)) {
		fill(buf, n, n);
		job->ok = sealane_send(job->lane, buf, n, PATIENCE) == 0;
	}
	fill(buf, MESSAGE_LARGEST, 1);
	job->ok = job->ok && sealane_send(job->lane, buf, MESSAGE_LARGEST, PATIENCE) == 0 && sealane_shutdown(job->lane) == 0;
	free(buf);
	return NULL;
}

static void *messages_in(void *arg)
{
	struct job *job = arg;
	uint8_t *buf = calloc(1, MESSAGE_LARGEST);

	job->ok = true;
	for (size_t n = 0; job->ok && n < MESSAGE_LARGEST; n = next_size(n))
		job->ok = sealane_recv(job->lane, buf, MESSAGE_LARGEST, PATIENCE) == (ssize_t)n && is_filled(buf, n, n);
	job->ok = job->ok && sealane_recv(job->lane, buf, MESSAGE_LARGEST, PATIENCE) == MESSAGE_LARGEST && is_filled(buf, MESSAGE_LARGEST, 1) &&
		  sealane_recv(job->lane, buf, MESSAGE_LARGEST, PATIENCE) == -ENODATA;
	free(buf);
	return NULL;
}

static void test_messages(void **state)
{
	static const uint32_t caps[][2] = { { LARGE, LARGE }, { MEDIUM, SMALL } };
	struct bed *b = *state;

	for (size_t i = 0; i < ARRAY_SIZE(caps); i++) {
		struct lib_lane l = lib_lane(b, LINK_MESSAGES, caps[i]);

		both_ways(&l, messages_out, messages_in);
		lib_lane_close(&l);
		hear_closed(b, BED_A, l.a.id, LANE_END_EOF);
		hear_closed(b, BED_B, l.b.id, LANE_END_EOF);
	}
}

/* The least window that a host may have. */
static int setup_narrow(void **state)
{
	struct bed *b = malloc(sizeof(*b));

	bed_init(b);
	b->window = 16 << 10;
	bed_start(b);
	*state = b;
	return 0;
}

static struct role_session_stats session_stats(struct bed *b, unsigned side)
{
	struct role_msg m = { .type = BL_STATS, .seq = 5 };

	bed_tell(b, side, &m, -1);
	m = bed_hear(b, side, LB_SESSION_STATS, NULL);
	while (bed_hear(b, side, LB_STATS, NULL).u.stats.lane_id != 0)
		;
	return m.u.session_stats;
}

enum { N_SMALL = 20000, BATCH = 100, SMALL_SIZE = 64 };

static void *small_in(void *arg)
{
	struct job *job = arg;
	uint8_t buf[SMALL_SIZE];

	job->ok = true;
	for (uint64_t i = 0; job->ok && i < N_SMALL; i++)
		job->ok = sealane_recv(job->lane, buf, sizeof(buf), PATIENCE) == SMALL_SIZE && is_filled(buf, sizeof(buf), i);
	return NULL;
}

/* Frames back to back, as far as a record takes them: not a record, a write, or a bell for each message. */
static void test_small_messages_go_together(void **state)
{
	struct bed *b = *state;
	struct lib_lane l = lib_lane(b, LINK_MESSAGES, g_usual);
	struct role_session_stats before = session_stats(b, BED_A), after;
	struct job job = { l.server };
	uint8_t buf[SMALL_SIZE];
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, small_in, &job), 0);
	for (uint64_t i = 0; i < N_SMALL; i++) {
		fill(buf, sizeof(buf), i);
		assert_int_equal(sealane_stage(l.client, buf, sizeof(buf), PATIENCE), 0);
		if (i % BATCH == BATCH - 1)
			assert_int_equal(sealane_flush(l.client), 0);
	}
	pthread_join(thread, NULL);
	assert_true(job.ok);
	after = session_stats(b, BED_A);
	assert_in_range(after.writes - before.writes, 1, 3 * N_SMALL / BATCH);
	/* With a record for each it would be 22 more. */
	assert_in_range(after.bytes_out - before.bytes_out, N_SMALL * (SMALL_SIZE + 8), N_SMALL * (SMALL_SIZE + 8 + 4));
	lib_lane_close(&l);
}

/* Calls: tags, and heads in first pieces. */

enum { METHOD_ECHO = 1, CALL_LARGEST = 300000 };

static int on_echo(struct sealane_request *q, void *arg)
{
	size_t size = sealane_request_size(q);
	AUTO_FREE(char) buf = malloc(size + 1);
	ssize_t n = sealane_request_read(q, buf, size + 1);

	return n != (ssize_t)size ? -EBADMSG : sealane_request_reply(q, buf, size);
}

static void *serve(void *arg)
{
	static const struct sealane_method methods[] = { { METHOD_ECHO, "echo", on_echo } };
	struct job *job = arg;
	int r = sealane_methods(job->lane, methods, ARRAY_SIZE(methods), NULL);

	while (r >= 0)
		r = sealane_serve(job->lane, PATIENCE);
	job->ok = r == -ENODATA;
	return NULL;
}

static void test_calls(void **state)
{
	static const size_t sizes[] = { 0, 1, 31, 100, 16344, 16345, 65535, 65536, CALL_LARGEST };
	static uint8_t request[CALL_LARGEST], reply[CALL_LARGEST];
	struct bed *b = *state;
	struct lib_lane l = lib_lane(b, LINK_MESSAGES, (const uint32_t[]){ LARGE, SMALL });
	struct job job = { l.server };
	pthread_t thread;
	uint64_t ids[50];

	assert_int_equal(pthread_create(&thread, NULL, serve, &job), 0);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		fill(request, sizes[i], i);
		assert_int_equal(sealane_call(l.client, METHOD_ECHO, request, sizes[i], reply, sizeof(reply), PATIENCE), sizes[i]);
		assert_true(is_filled(reply, sizes[i], i));
	}
	assert_int_equal(sealane_call(l.client, METHOD_ECHO + 1, "", 0, reply, sizeof(reply), PATIENCE), -SEALANE_E_REMOTE);
	for (size_t i = 0; i < ARRAY_SIZE(ids); i++)
		assert_int_equal(sealane_call_begin(l.client, METHOD_ECHO, request, i * 7, reply + i * 1000, 1000, PATIENCE, &ids[i]), 0);
	for (size_t i = 0; i < ARRAY_SIZE(ids); i++)
		assert_int_equal(sealane_call_finish(l.client, ids[i], PATIENCE), i * 7);
	assert_int_equal(sealane_shutdown(l.client), 0);
	pthread_join(thread, NULL);
	assert_true(job.ok);
	lib_lane_close(&l);
}

static void test_narrow_window(void **state)
{
	struct bed *b = *state;
	struct lib_lane l = lib_lane(b, LINK_MESSAGES, g_usual);

	both_ways(&l, messages_out, messages_in);
	lib_lane_close(&l);
	l = lib_lane(b, LINK_STREAM, g_usual);
	both_ways(&l, stream_out, stream_in);
	lib_lane_close(&l);
}

static int no_bytes(struct sealane_lane *lane)
{
	char byte;

	return (int)sealane_recv(lane, &byte, 1, PATIENCE);
}

/* Ends. */

static void test_half_close(void **state)
{
	struct bed *b = *state;
	struct lib_lane l = lib_lane(b, LINK_MESSAGES, g_usual);
	char buf[16];

	assert_int_equal(sealane_send(l.client, "last", 4, PATIENCE), 0);
	assert_int_equal(sealane_shutdown(l.client), 0);
	assert_int_equal(sealane_recv(l.server, buf, sizeof(buf), PATIENCE), 4);
	assert_int_equal(no_bytes(l.server), -ENODATA);
	for (int i = 0; i < 1000; i++) {
		assert_int_equal(sealane_send(l.server, "still here", 10, PATIENCE), 0);
		assert_int_equal(sealane_recv(l.client, buf, sizeof(buf), PATIENCE), 10);
	}
	sealane_close(l.server);
	l.server = NULL;
	assert_int_equal(no_bytes(l.client), -ENODATA);
	hear_closed(b, BED_A, l.a.id, LANE_END_EOF);
	hear_closed(b, BED_B, l.b.id, LANE_END_EOF);
	lib_lane_close(&l);
}

static int send_until_told(struct sealane_lane *lane)
{
	uint64_t until = clock_ns() + PATIENCE;
	int r;

	do {
		r = sealane_send(lane, "x", 1, PATIENCE);
		usleep(1000);
	} while (r == 0 && clock_ns() < until);
	return r;
}

/* Its process is gone between two instructions: all that it published arrives, also what the other side has no room for yet. */
static void test_killed_client(void **state)
{
	static uint8_t buf[10000];
	struct bed *b = *state;
	struct lib_lane l = lib_lane(b, LINK_MESSAGES, (const uint32_t[]){ LARGE, SMALL });
	unsigned n = 0;

	for (int r = 0; r == 0; n += r == 0) {
		fill(buf, sizeof(buf), n);
		r = sealane_send(l.client, buf, sizeof(buf), 500 * MS);
		assert_true(r == 0 || r == -ETIMEDOUT);
	}
	assert_true(n > 20);
	lane_drop(l.client);
	l.client = NULL;
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(sealane_recv(l.server, buf, sizeof(buf), PATIENCE), sizeof(buf));
		assert_true(is_filled(buf, sizeof(buf), i));
	}
	assert_int_equal(no_bytes(l.server), -ENODATA);
	assert_int_equal(send_until_told(l.server), -EPIPE);
	hear_closed(b, BED_A, l.a.id, LANE_END_EOF);
	hear_closed(b, BED_B, l.b.id, LANE_END_EOF);
	lib_lane_close(&l);
}

static void test_server_closes(void **state)
{
	struct bed *b = *state;
	struct lib_lane l = lib_lane(b, LINK_MESSAGES, g_usual);
	char buf[8];

	assert_int_equal(sealane_send(l.server, "bye", 3, PATIENCE), 0);
	sealane_close(l.server);
	l.server = NULL;
	assert_int_equal(sealane_recv(l.client, buf, sizeof(buf), PATIENCE), 3);
	assert_int_equal(no_bytes(l.client), -ENODATA);
	assert_int_equal(send_until_told(l.client), -EPIPE);
	hear_closed(b, BED_A, l.a.id, LANE_END_EOF);
	hear_closed(b, BED_B, l.b.id, LANE_END_EOF);
	lib_lane_close(&l);
}

static void expect_cut(int leash, int error)
{
	struct pollfd p = { .fd = leash, .events = POLLIN };
	int fds[CONTROL_FDS];
	struct control_msg m;

	assert_int_equal(poll(&p, 1, BED_WAIT_MS), 1);
	assert_int_equal(control_recv(leash, &m, fds), 1);
	assert_int_equal(m.type, CTL_CUT);
	assert_int_equal(m.u.error.error, error);
}

static void test_cut(void **state)
{
	struct bed *b = *state;
	struct lib_lane l = lib_lane(b, LINK_MESSAGES, g_usual), other = lib_lane(b, LINK_MESSAGES, g_usual);

	bed_tell(b, BED_B, &(struct role_msg){ .type = BL_CUT, .u.lane_ref.lane_id = l.b.id }, -1);
	hear_closed(b, BED_B, l.b.id, LANE_END_CUT);
	hear_closed(b, BED_A, l.a.id, LANE_END_CUT);
	expect_cut(l.a.leash, -ECANCELED);
	/* Nobody passes it on here: they see a lane that hangs up without its end. */
	assert_int_equal(send_until_told(l.client), -SEALANE_E_CUT);
	assert_int_equal(no_bytes(l.client), -SEALANE_E_CUT);
	assert_int_equal(send_until_told(l.server), -SEALANE_E_CUT);
	assert_int_equal(no_bytes(l.server), -SEALANE_E_CUT);
	ping_pong(&other);
	lib_lane_close(&l);
	lib_lane_close(&other);
}

/* The porter is told first, and the library that hears it from there may hang up before the linker is told. */
static void test_cut_by_the_porter(void **state)
{
	struct control_msg cut = { .type = CTL_CUT, .version = CONTROL_VERSION, .u.error = { .error = -ECANCELED, .why = "the intention is gone" } };
	struct bed *b = *state;
	struct lib_lane l = lib_lane(b, LINK_MESSAGES, g_usual);

	assert_int_equal(control_send(l.b.lent, &cut, NULL), 0);
	sealane_close(take_ptr(l.server));
	hear_closed(b, BED_B, l.b.id, LANE_END_CUT);
	hear_closed(b, BED_A, l.a.id, LANE_END_CUT);
	expect_cut(l.a.leash, -ECANCELED);
	lib_lane_close(&l);
}

static void test_the_other_linker_dies(void **state)
{
	struct bed *b = *state;
	struct lib_lane l = lib_lane(b, LINK_MESSAGES, g_usual);

	struct control_msg cut = { .type = CTL_CUT, .version = CONTROL_VERSION, .u.error = { .error = -ECONNABORTED, .why = "the link has ended" } };
	int leash[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, leash), 0);
	l.client->leash = leash[0];
	l.client->leash_gone = false;
	bed_kill(b, BED_B);
	hear_closed(b, BED_A, l.a.id, LANE_END_LINK);
	/* The linker says so to the porter, and the lane does not look like an end of stream before that one had time to pass it on. */
	expect_cut(l.a.leash, -ECONNABORTED);
	assert_int_equal(control_send(leash[1], &cut, NULL), 0);
	assert_int_equal(no_bytes(l.client), -SEALANE_E_CUT);
	close(leash[1]);
	assert_int_equal(no_bytes(l.server), -SEALANE_E_CUT);
	assert_int_equal(send_until_told(l.server), -SEALANE_E_CUT);
	lib_lane_close(&l);
}

/* Room and rates. */

static void test_slow_reader_stops_itself(void **state)
{
	static uint8_t buf[1000];
	struct bed *b = *state;
	struct lib_lane slow = lib_lane(b, LINK_MESSAGES, g_usual), quick = lib_lane(b, LINK_MESSAGES, g_usual);
	unsigned n = 0;

	for (int r = 0; r == 0; n += r == 0) {
		fill(buf, sizeof(buf), n);
		r = sealane_send(slow.client, buf, sizeof(buf), 500 * MS);
		assert_true(r == 0 || r == -ETIMEDOUT);
	}
	/* Three rings' worth at most: the client's, what the far linker keeps, the server's. */
	assert_in_range(n * sizeof(buf), BED_WINDOW / 2, 4 * BED_WINDOW);
	for (int i = 0; i < 100; i++)
		ping_pong(&quick);
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(sealane_recv(slow.server, buf, sizeof(buf), PATIENCE), sizeof(buf));
		assert_true(is_filled(buf, sizeof(buf), i));
	}
	ping_pong(&slow);
	lib_lane_close(&slow);
	lib_lane_close(&quick);
}

/* In an event loop: who was told -EAGAIN hears of room, and of the next message. */
static void test_event_loop(void **state)
{
	static uint8_t buf[5000];
	struct bed *b = *state;
	struct lib_lane l = lib_lane(b, LINK_MESSAGES, (const uint32_t[]){ MEDIUM, MEDIUM });
	struct pollfd p[2] = { { sealane_fd(l.client), POLLIN }, { sealane_fd(l.server), POLLIN } };
	unsigned n_out = 0, n_in = 0;

	assert_true(p[0].fd >= 0 && p[1].fd >= 0);
	while (n_in < 2000) {
		ssize_t r = 0;

		for (; n_out < 2000 && r == 0; n_out += r == 0) {
			fill(buf, sizeof(buf), n_out);
			r = sealane_send(l.client, buf, sizeof(buf), SEALANE_NOWAIT);
		}
		assert_true(r == 0 || r == -EAGAIN);
		while ((r = sealane_recv(l.server, buf, sizeof(buf), SEALANE_NOWAIT)) >= 0) {
			assert_int_equal(r, sizeof(buf));
			assert_true(is_filled(buf, sizeof(buf), n_in++));
		}
		assert_int_equal(r, -EAGAIN);
		assert_int_equal(sealane_recv(l.client, buf, sizeof(buf), SEALANE_NOWAIT), -EAGAIN);
		if (n_in < 2000)
			assert_true(poll(p, 2, BED_WAIT_MS) > 0);
	}
	lib_lane_close(&l);
}

static void test_limit(void **state)
{
	static uint8_t buf[25000];
	struct bed *b = *state;
	struct lib_lane l = lib_lane(b, LINK_MESSAGES, g_usual);
	struct role_msg m = { .type = BL_LIMIT, .u.lane_ref = { .lane_id = l.a.id, .bytes_per_s = 400000, .burst_bytes = 100000 } };
	uint64_t start;

	ping_pong(&l);
	bed_tell(b, BED_A, &m, -1);
	usleep(50000);
	start = clock_ns();
	for (unsigned i = 0; i < 20; i++) {
		fill(buf, sizeof(buf), i);
		assert_int_equal(sealane_send(l.client, buf, sizeof(buf), PATIENCE), 0);
		assert_int_equal(sealane_recv(l.server, buf, sizeof(buf), PATIENCE), sizeof(buf));
		assert_true(is_filled(buf, sizeof(buf), i));
	}
	assert_true(clock_ns() - start > UINT64_C(900000000)); /* 100 k at once, 400 k at 400 k/s; a piece goes whole and is paid for later */
	lib_lane_close(&l);

	/* The other way, and as little as there is: a message is never cut because tokens are few. */
	l = lib_lane(b, LINK_MESSAGES, g_usual);
	m.u.lane_ref = (struct role_lane_ref){ .lane_id = l.a.id, .bytes_per_s = 2000, .burst_bytes = 1 };
	bed_tell(b, BED_A, &m, -1);
	for (unsigned i = 0; i < 3; i++)
		ping_pong(&l);
	lib_lane_close(&l);
}

/* Beginnings. */

static void test_refused_and_handed_back(void **state)
{
	struct bed *b = *state;
	struct role_msg ask, m;
	int fds[CONTROL_FDS], fd = -1;
	struct control_msg offer;
	struct lib_end e;

	lib_end_new(&e, LINK_MESSAGES, LARGE);
	lib_carry(b, &e, LINK_MESSAGES, LARGE);
	ask = bed_hear(b, BED_B, LB_ASK, NULL);
	assert_int_equal(ask.u.link_ask.kind, LINK_MESSAGES);
	m = (struct role_msg){ .type = BL_NO, .u.link_no = { .ask = ask.u.link_ask.ask, .code = LINK_DOWN } };
	bed_tell(b, BED_B, &m, -1);
	m = bed_hear(b, BED_A, LB_FAILED, &fd);
	assert_int_equal(m.u.link_failed.code, LINK_DOWN);
	assert_int_equal(control_recv(fd, &offer, fds), 1); /* whole: it may be tried at another host */
	assert_int_equal(offer.type, CTL_OFFER);
	for (size_t i = 0; i < CONTROL_FDS; i++)
		close(fds[i]);
	close(fd);
	lib_end_close(&e);
}

static void test_client_that_leaves_before_the_answer(void **state)
{
	struct bed *b = *state;
	struct role_msg ask, go = { .type = BL_GO, .u.link_go = { .kid = BED_KID_REDIS, .lane_id = 77 } };
	struct lib_end e;
	int pair[2];

	lib_end_new(&e, LINK_STREAM, LARGE);
	lib_carry(b, &e, LINK_STREAM, LARGE);
	ask = bed_hear(b, BED_B, LB_ASK, NULL);
	lib_end_close(&e);
	assert_int_equal(bed_hear(b, BED_A, LB_FAILED, NULL).u.link_failed.code, LINK_PEER);
	assert_int_equal(bed_hear(b, BED_B, LB_GONE, NULL).u.id.id, ask.u.link_ask.ask);
	/* An answer that crosses it. */
	go.u.link_go.ask = ask.u.link_ask.ask;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	bed_tell(b, BED_B, &go, pair[1]);
	hear_closed(b, BED_B, 77, LANE_END_CLIENT);
	close(pair[0]);
	close(pair[1]);
}

static void test_server_that_refuses(void **state)
{
	static const struct {
		int error;
		enum link_code code;
	} tries[] = { { -ECONNREFUSED, LINK_DOWN }, { -ETIMEDOUT, LINK_DOWN }, { -EDQUOT, LINK_LIMIT }, { -ENOMEM, LINK_FAILED }, { 0, LINK_FAILED },
		    { 1, LINK_DOWN } };
	struct bed *b = *state;

	for (size_t i = 0; i < ARRAY_SIZE(tries); i++) {
		struct lib_end client, server;
		struct role_msg m;

		lib_end_new(&client, LINK_STREAM, LARGE);
		lib_end_new(&server, LINK_STREAM, LARGE);
		lib_carry(b, &client, LINK_STREAM, LARGE);
		lib_asked(b, &server);
		if (tries[i].error < 0)
			lib_refuse(&server, tries[i].error);
		else if (tries[i].error == 0)
			close(take_fd(&server.lent)); /* its porter has died */
		/* else it says nothing: for 3 s */
		assert_int_equal(bed_hear(b, BED_B, LB_CLOSED, NULL).u.stats.lane_id, server.id);
		m = bed_hear(b, BED_A, LB_FAILED, NULL);
		assert_int_equal(m.u.link_failed.code, tries[i].code);
		if (tries[i].code == LINK_DOWN)
			assert_non_null(strstr(m.u.link_failed.why, "has not taken the lane"));
		lib_end_close(&client);
		lib_end_close(&server);
	}
}

static size_t count_of(pid_t pid, const char *what)
{
	char path[64];
	struct dirent *e;
	size_t n = 0;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, what);
	d = opendir(path);
	assert_non_null(d);
	while ((e = readdir(d)))
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

/* A lane that was cut goes when its library has hung up. */
static void expect_fds(struct bed *b, unsigned side, size_t n)
{
	uint64_t until = clock_ns() + PATIENCE;

	while (count_of(b->sides[side].pid, "fd") != n && clock_ns() < until)
		usleep(10000);
	assert_int_equal(count_of(b->sides[side].pid, "fd"), n);
}

static void test_nothing_is_left(void **state)
{
	struct bed *b = *state;
	struct lib_lane l = lib_lane(b, LINK_MESSAGES, g_usual);
	size_t before[BED_N_SIDES];

	for (unsigned i = 0; i < BED_N_SIDES; i++)
		before[i] = count_of(b->sides[i].pid, "fd");
	for (int i = 0; i < 60; i++) {
		struct lib_lane other = lib_lane(b, i % 2 ? LINK_STREAM : LINK_MESSAGES, g_usual);

		if (i == 0)
			for (unsigned side = 0; side < BED_N_SIDES; side++) /* a bell and a leash */
				expect_fds(b, side, before[side] + 2);
		if (i % 3 == 0)
			sealane_close(take_ptr(other.client));
		else if (i % 3 == 1)
			lane_drop(take_ptr(other.server));
		else
			bed_tell(b, BED_A, &(struct role_msg){ .type = BL_CUT, .u.lane_ref.lane_id = other.a.id }, -1);
		if (i % 3 == 0)
			sealane_close(take_ptr(other.server));
		bed_hear(b, BED_A, LB_CLOSED, NULL);
		bed_hear(b, BED_B, LB_CLOSED, NULL);
		lib_lane_close(&other);
	}
	for (unsigned i = 0; i < BED_N_SIDES; i++)
		expect_fds(b, i, before[i]);
	ping_pong(&l);
	lib_lane_close(&l);
}

enum { MANY = 100 };

static void test_many_lanes(void **state)
{
	static struct lib_lane lanes[MANY];
	struct bed *b = *state;
	char text[32], buf[32];

	for (int i = 0; i < MANY; i++)
		lanes[i] = lib_lane(b, LINK_MESSAGES, (const uint32_t[]){ SMALL, SMALL });
	/* More than are watched, all at once; each has its own messages and no other's. */
	for (int round = 0; round < 10; round++) {
		for (int i = 0; i < MANY; i++) {
			snprintf(text, sizeof(text), "lane %d round %d", i, round);
			assert_int_equal(sealane_send(lanes[i].client, text, strlen(text), PATIENCE), 0);
			assert_int_equal(sealane_send(lanes[i].server, text, strlen(text), PATIENCE), 0);
		}
		for (int i = 0; i < MANY; i++) {
			int n = snprintf(text, sizeof(text), "lane %d round %d", i, round);

			assert_int_equal(sealane_recv(lanes[i].server, buf, sizeof(buf), PATIENCE), n);
			assert_memory_equal(buf, text, (size_t)n);
			assert_int_equal(sealane_recv(lanes[i].client, buf, sizeof(buf), PATIENCE), n);
			assert_memory_equal(buf, text, (size_t)n);
		}
	}
	for (int i = 0; i < MANY; i++)
		lib_lane_close(&lanes[i]);
}

/* Room for eight of the smallest. */
static int setup_little_memory(void **state)
{
	struct bed *b = malloc(sizeof(*b));

	bed_init(b);
	b->rings_max = 8 * shm_region_size(SHM_CAP_LOG2_MIN) + 1000;
	bed_start(b);
	*state = b;
	return 0;
}

/* No memory for a ring of linker b's: its own workload has its share. */
static void want_no_ring_there(struct bed *b, uint32_t wid)
{
	struct role_msg m = { .type = BL_GO, .u.link_go = { .kid = BED_KID_REDIS, .wid = wid, .lane_id = 77 } };
	struct lib_end e;
	int pair[2];

	lib_end_new(&e, LINK_MESSAGES, LARGE);
	lib_carry(b, &e, LINK_MESSAGES, LARGE);
	m.u.link_go.ask = bed_hear(b, BED_B, LB_ASK, NULL).u.link_ask.ask;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	bed_tell(b, BED_B, &m, pair[1]);
	hear_closed(b, BED_B, 77, LANE_END_NOMEM);
	assert_int_equal(bed_hear(b, BED_A, LB_FAILED, NULL).u.link_failed.code, LINK_LIMIT);
	close(pair[0]);
	close(pair[1]);
	lib_end_close(&e);
}

/* And none for one of linker a's, where the far host has said yes. */
static void want_no_ring_here(struct bed *b, uint32_t wid)
{
	struct lib_end client, server;

	b->wid = wid;
	lib_end_new(&client, LINK_MESSAGES, LARGE);
	lib_end_new(&server, LINK_MESSAGES, LARGE);
	lib_carry(b, &client, LINK_MESSAGES, LARGE);
	b->wid = LIMIT_WORKLOADS - 1; /* whose share there is whole */
	lib_asked(b, &server);
	lib_open(&server);
	assert_int_equal(bed_hear(b, BED_A, LB_FAILED, NULL).u.link_failed.code, LINK_LIMIT);
	hear_closed(b, BED_B, server.id, LANE_END_LINK);
	lib_end_close(&client);
	lib_end_close(&server);
}

/* Nobody has more than is left for all others: the first gets four of eight, whatever it does, the next one two of the rest. */
static void test_share_of_memory_for_rings(void **state)
{
	static const int shares[] = { 4, 2 };
	struct lib_lane lanes[2][4];
	struct bed *b = *state;

	for (uint32_t wid = 0; wid < 2; wid++) {
		for (int i = 0; i < shares[wid]; i++) {
			b->wid = wid;
			lanes[wid][i] = lib_lane(b, LINK_MESSAGES, g_usual);
		}
		want_no_ring_there(b, wid);
		want_no_ring_here(b, wid);
	}
	/* What a workload gives back it may have again, as far as others have not taken it. */
	for (int i = 0; i < 2; i++) {
		lib_lane_close(&lanes[0][i]);
		hear_closed(b, BED_A, lanes[0][i].a.id, LANE_END_EOF);
		hear_closed(b, BED_B, lanes[0][i].b.id, LANE_END_EOF);
	}
	b->wid = 0;
	lanes[0][1] = lib_lane(b, LINK_MESSAGES, g_usual);
	want_no_ring_there(b, 0);
	for (uint32_t wid = 0; wid < 2; wid++)
		for (int i = wid == 0; i < shares[wid]; i++) {
			ping_pong(&lanes[wid][i]);
			lib_lane_close(&lanes[wid][i]);
		}
}

static void test_memory_for_rings_is_out(void **state)
{
	struct bed *b = *state;
	struct lib_lane lanes[8];

	for (int i = 0; i < 8; i++) {
		b->wid = (uint32_t)i;
		lanes[i] = lib_lane(b, LINK_MESSAGES, g_usual);
	}
	want_no_ring_there(b, 8);
	/* Those that are there are small, and go on; and when one ends there is room again. */
	for (int i = 0; i < 8; i++)
		both_ways(&lanes[i], messages_out, messages_in);
	lib_lane_close(&lanes[0]);
	hear_closed(b, BED_A, lanes[0].a.id, LANE_END_EOF);
	hear_closed(b, BED_B, lanes[0].b.id, LANE_END_EOF);
	lanes[0] = lib_lane(b, LINK_MESSAGES, g_usual);
	ping_pong(&lanes[0]);
	for (int i = 0; i < 8; i++)
		lib_lane_close(&lanes[i]);
}

/* What is offered and is no offer. */
static void test_bad_offers(void **state)
{
	struct bed *b = *state;
	struct role_msg m = { .type = BL_CARRY, .u.carry = { .hid = BED_HID, .kid = BED_KID_WEB, .kind = LINK_STREAM, .destination = BED_REDIS } };
	struct lib_end client, server;
	int pair[2];

	/* A region that is shorter than it is said to be. */
	lib_end_new(&client, LINK_STREAM, SMALL);
	lib_end_new(&server, LINK_STREAM, LARGE);
	lib_carry(b, &client, LINK_STREAM, LARGE);
	lib_asked(b, &server);
	lib_open(&server);
	assert_int_equal(bed_hear(b, BED_A, LB_FAILED, NULL).u.link_failed.code, LINK_FAILED);
	hear_closed(b, BED_B, server.id, LANE_END_LINK);
	lib_end_close(&client);
	lib_end_close(&server);

	/* None at all. */
	lib_end_new(&server, LINK_STREAM, LARGE);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	m.u.carry.lane_id = ++b->next_lane;
	bed_tell(b, BED_A, &m, pair[1]);
	close(pair[1]);
	lib_asked(b, &server);
	lib_open(&server);
	assert_int_equal(bed_hear(b, BED_A, LB_FAILED, NULL).u.link_failed.code, LINK_FAILED);
	hear_closed(b, BED_B, server.id, LANE_END_LINK);
	close(pair[0]);
	lib_end_close(&server);

	/* The listener's answer brings another kind than was asked for. */
	lib_end_new(&client, LINK_STREAM, LARGE);
	lib_end_new(&server, LINK_STREAM, LARGE);
	lib_carry(b, &client, LINK_STREAM, LARGE);
	lib_asked(b, &server);
	server.parts.kind = SEALANE_MESSAGES;
	lib_open(&server);
	assert_int_equal(bed_hear(b, BED_A, LB_FAILED, NULL).u.link_failed.code, LINK_FAILED);
	bed_hear(b, BED_B, LB_CLOSED, NULL);
	lib_end_close(&client);
	lib_end_close(&server);
}

/* What a container can write. */

struct broken {
	const char *what;
	enum link_kind kind;
	void (*write)(struct lib_lane *l);
};

static void put_record(struct lib_lane *l, uint32_t size, uint8_t flags, uint8_t tag)
{
	void *place;

	assert_int_equal(lane_reserve(l->client, size, &place, PATIENCE), 0);
	lane_stage(l->client, size, flags, tag);
}

static void write_tag(struct lib_lane *l)
{
	put_record(l, 1, 0, FRAME_TAG_MAX + 1);
}

static void write_empty_piece(struct lib_lane *l)
{
	put_record(l, 0, RING_MORE, 0);
}

static void write_tags(struct lib_lane *l)
{
	put_record(l, 1, RING_MORE, 1);
	put_record(l, 1, 0, 2);
}

static void write_stream_empty(struct lib_lane *l)
{
	put_record(l, 0, 0, 0);
}

static void write_stream_more(struct lib_lane *l)
{
	put_record(l, 5, RING_MORE, 0);
}

static void write_stream_tag(struct lib_lane *l)
{
	put_record(l, 5, 0, 3);
}

static void write_word(struct lib_lane *l, uint64_t word)
{
	struct ring_tx *tx = &l->client->tx;

	atomic_store(&tx->descs[tx->index & tx->desc_mask], word | ring_lap(tx->index, tx->lap_shift) << 48);
	tx->first_word = word | ring_lap(tx->index, tx->lap_shift) << 48;
	tx->first_index = tx->index;
	tx->n_staged = 1; /* the flush rings */
}

static void write_too_long(struct lib_lane *l)
{
	write_word(l, ring_record_max(l->client->tx.cap) + 1);
}

static void write_flags(struct lib_lane *l)
{
	write_word(l, UINT64_C(4) << 32);
}

static void write_fin_with_bytes(struct lib_lane *l)
{
	write_word(l, 8 | (uint64_t)RING_FIN << 32);
}

static void write_lap(struct lib_lane *l)
{
	write_word(l, UINT64_C(0x5555) << 48);
}

static void test_broken_rings(void **state)
{
	static const struct broken tries[] = {
		{ "tag", LINK_MESSAGES, write_tag },	       { "empty piece", LINK_MESSAGES, write_empty_piece },
		{ "tags", LINK_MESSAGES, write_tags },	       { "empty", LINK_STREAM, write_stream_empty },
		{ "more", LINK_STREAM, write_stream_more },    { "tag", LINK_STREAM, write_stream_tag },
		{ "too long", LINK_MESSAGES, write_too_long }, { "flags", LINK_MESSAGES, write_flags },
		{ "fin", LINK_STREAM, write_fin_with_bytes },  { "lap", LINK_MESSAGES, write_lap },
	};
	struct bed *b = *state;
	struct lib_lane bystander = lib_lane(b, LINK_MESSAGES, g_usual);

	for (size_t i = 0; i < ARRAY_SIZE(tries); i++) {
		struct lib_lane l = lib_lane(b, tries[i].kind, g_usual);
		struct role_stats s;

		assert_int_equal(sealane_guard_open(l.client), 0);
		tries[i].write(&l);
		lane_flush(l.client);
		sealane_guard_close(l.client);
		s = hear_closed(b, BED_A, l.a.id, LANE_END_CLIENT);
		if (s.error != -EPROTO)
			fail_msg("%s: error %d", tries[i].what, s.error);
		hear_closed(b, BED_B, l.b.id, LANE_END_LINK);
		ping_pong(&bystander); /* on the same session */
		lib_lane_close(&l);
	}
	lib_lane_close(&bystander);
}

/* A head beyond what was ever written. */
static void test_broken_head(void **state)
{
	struct bed *b = *state;
	struct lib_lane l = lib_lane(b, LINK_MESSAGES, g_usual);
	char buf[1000] = "";

	assert_int_equal(sealane_guard_open(l.server), 0);
	atomic_store(&l.server->own.base->head, UINT64_MAX / 2);
	sealane_guard_close(l.server);
	for (int r = 0; r == 0;) /* until the linker needs room */
		r = sealane_send(l.client, buf, sizeof(buf), 5 * SECOND);
	assert_int_equal(hear_closed(b, BED_B, l.b.id, LANE_END_SERVER).error, -EPROTO);
	hear_closed(b, BED_A, l.a.id, LANE_END_LINK);
	lib_lane_close(&l);
}

/* Empty messages and rings of the bell, as fast as it goes: nobody else waits for long, and nothing is kept for ever. */
static void test_noise(void **state)
{
	struct bed *b = *state;
	struct lib_lane noisy = lib_lane(b, LINK_MESSAGES, g_usual), other = lib_lane(b, LINK_MESSAGES, g_usual);
	uint64_t until = clock_ns() + UINT64_C(500000000);
	unsigned n = 0;
	char byte;
	int r;

	while (clock_ns() < until) {
		for (int i = 0; i < 100; i++) {
			(void)!send(noisy.client->bell, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
			n += sealane_send(noisy.client, "", 0, SEALANE_NOWAIT) == 0;
		}
		ping_pong(&other);
	}
	for (unsigned i = 0; i < n; i++) {
		r = (int)sealane_recv(noisy.server, &byte, 1, PATIENCE);
		assert_int_equal(r, 0);
	}
	ping_pong(&noisy);
	lib_lane_close(&noisy);
	lib_lane_close(&other);
}

/* A library that closed its ring for reading and goes on sending. */
static void test_deaf_library(void **state)
{
	struct bed *b = *state;
	struct lib_lane l = lib_lane(b, LINK_MESSAGES, g_usual);
	char buf[8];

	assert_int_equal(sealane_guard_open(l.server), 0);
	atomic_store(&l.server->own.base->read_shut, 1);
	sealane_guard_close(l.server);
	for (int i = 0; i < 100; i++) {
		assert_int_equal(sealane_send(l.client, "lost", 4, PATIENCE), 0);
		assert_int_equal(sealane_send(l.server, "heard", 5, PATIENCE), 0);
		assert_int_equal(sealane_recv(l.client, buf, sizeof(buf), PATIENCE), 5);
	}
	sealane_close(take_ptr(l.server));
	assert_int_equal(send_until_told(l.client), -EPIPE);
	lib_lane_close(&l);
}

int main(int argc, char **argv)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_streams),
		TEST(test_messages),
		cmocka_unit_test_setup_teardown(test_narrow_window, setup_narrow, teardown),
		TEST(test_small_messages_go_together),
		TEST(test_calls),
		TEST(test_half_close),
		TEST(test_killed_client),
		TEST(test_server_closes),
		TEST(test_cut),
		TEST(test_cut_by_the_porter),
		TEST(test_the_other_linker_dies),
		TEST(test_slow_reader_stops_itself),
		TEST(test_event_loop),
		TEST(test_limit),
		TEST(test_refused_and_handed_back),
		TEST(test_client_that_leaves_before_the_answer),
		TEST(test_server_that_refuses),
		TEST(test_nothing_is_left),
		TEST(test_many_lanes),
		cmocka_unit_test_setup_teardown(test_memory_for_rings_is_out, setup_little_memory, teardown),
		cmocka_unit_test_setup_teardown(test_share_of_memory_for_rings, setup_little_memory, teardown),
		TEST(test_bad_offers),
		TEST(test_broken_rings),
		TEST(test_broken_head),
		TEST(test_noise),
		TEST(test_deaf_library),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
