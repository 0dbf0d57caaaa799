/* Lanes without a daemon: both ends here, or one of them in a child that may be killed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "client/lane.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define MS INT64_C(1000000)

enum { SMALL = 12, MEDIUM = 16 };

static void make_pair(struct sealane_lane *ret[2], enum sealane_kind kind, enum sealane_wait wait, uint32_t cap_log2)
{
	const enum sealane_wait both[2] = { wait, wait };
	/* descriptor numbers that come round their 16 bits of lap within the test */
	uint64_t start = UINT64_C(65534) * shm_n_descs(cap_log2) - 3;

	assert_int_equal(lane_pair(ret, kind, both, cap_log2, start), 0);
}

static void close_pair(struct sealane_lane *l[2])
{
	sealane_close(l[0]);
	sealane_close(l[1]);
}

static uint8_t byte_at(uint64_t i)
{
	return (uint8_t)((i * 0x9e3779b97f4a7c15u) >> 56);
}

static void fill(uint8_t *buf, size_t n, uint64_t at)
{
	for (size_t i = 0; i < n; i++)
		buf[i] = byte_at(at + i);
}

static bool is_filled(const uint8_t *buf, size_t n, uint64_t at)
{
	for (size_t i = 0; i < n; i++)
		if (buf[i] != byte_at(at + i))
			return false;
	return true;
}

/* --- streams ---------------------------------------------------------------------------------------------------------------- */

enum { STREAM_BYTES = 3 << 20 };

struct stream_job {
	struct sealane_lane *lane;
	bool ok;
};

static void *stream_out(void *arg)
{
	struct stream_job *job = arg;
	static __thread uint8_t buf[70000];
	uint64_t at = 0, seed = 1;

	while (at < STREAM_BYTES) {
		size_t n = 1 + (seed = seed * 6364136223846793005u + 1442695040888963407u, (seed >> 33) % sizeof(buf));

		n = n < STREAM_BYTES - at ? n : STREAM_BYTES - at;
		fill(buf, n, at);
		if (sealane_write(job->lane, buf, n, SEALANE_FOREVER) != (ssize_t)n)
			return NULL;
		at += n;
	}
	job->ok = sealane_shutdown(job->lane) == 0;
	return NULL;
}

static void *stream_in(void *arg)
{
	struct stream_job *job = arg;
	static __thread uint8_t buf[50000];
	uint64_t at = 0, seed = 7;
	ssize_t n;

	do {
		size_t want = 1 + (seed = seed * 6364136223846793005u + 1442695040888963407u, (seed >> 33) % sizeof(buf));

		n = sealane_read(job->lane, buf, want, SEALANE_FOREVER);
		if (n > 0 && !is_filled(buf, (size_t)n, at))
			return NULL;
		at += n > 0 ? (uint64_t)n : 0;
	} while (n > 0);
	job->ok = n == 0 && at == STREAM_BYTES;
	return NULL;
}

/* Four threads: each end sends and receives at the same time. */
static void streams_both_ways(enum sealane_wait wait, uint32_t cap_log2)
{
	struct sealane_lane *l[2];
	struct stream_job jobs[4];
	pthread_t threads[4];

	make_pair(l, SEALANE_STREAM, wait, cap_log2);
	for (int i = 0; i < 4; i++) {
		jobs[i] = (struct stream_job){ .lane = l[i / 2] };
		assert_int_equal(pthread_create(&threads[i], NULL, i % 2 ? stream_in : stream_out, &jobs[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		assert_true(jobs[i].ok);
	}
	close_pair(l);
}

static void test_streams(void **state)
{
	streams_both_ways(SEALANE_WAIT_ADAPTIVE, SMALL);
	streams_both_ways(SEALANE_WAIT_BLOCK, SMALL);
	streams_both_ways(SEALANE_WAIT_BLOCK, MEDIUM);
	streams_both_ways(SEALANE_WAIT_SPIN, MEDIUM);
}

/* --- messages --------------------------------------------------------------------------------------------------------------- */

static void *send_sizes(void *arg)
{
	struct stream_job *job = arg;
	static uint8_t buf[300000];

	for (size_t n = 0; n < sizeof(buf); n = n < 200 ? n + 1 : n * 9 / 8) {
		fill(buf, n, n);
		if (sealane_send(job->lane, buf, n, SEALANE_FOREVER) < 0)
			return NULL;
	}
	job->ok = sealane_shutdown(job->lane) == 0;
	return NULL;
}

static void messages_of_all_sizes(enum sealane_wait wait)
{
	static uint8_t buf[300000];
	struct sealane_lane *l[2];
	struct stream_job job;
	pthread_t thread;

	make_pair(l, SEALANE_MESSAGES, wait, SMALL);
	job = (struct stream_job){ .lane = l[0] };
	assert_int_equal(pthread_create(&thread, NULL, send_sizes, &job), 0);
	for (size_t n = 0; n < sizeof(buf); n = n < 200 ? n + 1 : n * 9 / 8) {
		assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), 10000 * MS), n);
		assert_true(is_filled(buf, n, n));
	}
	assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), SEALANE_FOREVER), -ENODATA);
	pthread_join(thread, NULL);
	assert_true(job.ok);
	close_pair(l);
}

static void test_messages(void **state)
{
	messages_of_all_sizes(SEALANE_WAIT_ADAPTIVE);
	messages_of_all_sizes(SEALANE_WAIT_BLOCK);
	messages_of_all_sizes(SEALANE_WAIT_SPIN);
}

static void test_too_large_is_dropped_whole(void **state)
{
	static uint8_t big[3000];
	struct sealane_lane *l[2];
	char buf[100];

	make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, SMALL);
	assert_int_equal(sealane_send(l[0], big, 101, 0), 0);
	assert_int_equal(sealane_send(l[0], big, sizeof(big), 0), 0); /* three pieces */
	assert_int_equal(sealane_send(l[0], "next", 4, 0), 0);
	assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), 0), -EMSGSIZE);
	assert_non_null(strstr(sealane_last_error(), "101 bytes"));
	assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), 0), -EMSGSIZE);
	assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), 0), 4);
	assert_memory_equal(buf, "next", 4);
	assert_int_equal(sealane_send(l[0], big, SEALANE_MESSAGE_MAX + 1, 0), -EMSGSIZE);
	close_pair(l);
}

static void test_batch_is_seen_at_once(void **state)
{
	struct sealane_lane *l[2];
	char buf[8];

	make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, SMALL);
	for (int i = 0; i < 5; i++)
		assert_int_equal(sealane_stage(l[0], "batch", 5, 0), 0);
	assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), 0), -EAGAIN);
	assert_int_equal(sealane_flush(l[0]), 0);
	for (int i = 0; i < 5; i++)
		assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), 0), 5);
	assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), 0), -EAGAIN);
	close_pair(l);
}

/* Staged records fill the ring: waiting for room has to publish them, or nobody would ever move. */
static void test_waiting_for_room_publishes(void **state)
{
	struct sealane_lane *l[2];
	char buf[64] = "x";
	int n = 0;

	make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, SMALL);
	while (sealane_stage(l[0], buf, sizeof(buf), 0) == 0)
		n++;
	assert_true(n > 50);
	for (int i = 0; i < n; i++)
		assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), 0), sizeof(buf));
	assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), 0), -EAGAIN);
	assert_int_equal(sealane_stage(l[0], buf, sizeof(buf), 0), 0);
	close_pair(l);
}

static void test_zero_copy(void **state)
{
	struct sealane_lane *l[2];
	const void *seen;
	void *place, *again;
	size_t size;
	int more = 1;

	make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, SMALL);
	assert_int_equal(sealane_reserve(l[0], sealane_reserve_max(l[0]) + 1, &place, 0), -EMSGSIZE);
	assert_int_equal(sealane_commit(l[0], 1), -EINVAL);
	assert_int_equal(sealane_reserve(l[0], 300, &place, 0), 0);
	assert_int_equal((uintptr_t)place % 64, 0);
	assert_int_equal(sealane_reserve(l[0], 200, &again, 0), 0);
	assert_ptr_equal(place, again);
	memset(again, 'z', 200);
	assert_int_equal(sealane_commit(l[0], 201), -EINVAL);
	assert_int_equal(sealane_commit(l[0], 150), 0);
	assert_int_equal(sealane_peek(l[1], &seen, &size, &more, 0), 0);
	assert_int_equal(size, 150);
	assert_int_equal(more, 0);
	assert_int_equal(((const char *)seen)[149], 'z');
	assert_int_equal(sealane_recv(l[1], place, 0, 0), -EINVAL);
	sealane_release(l[1]);
	sealane_release(l[1]); /* without a peek: nothing */
	assert_int_equal(sealane_peek(l[1], &seen, &size, NULL, 0), -EAGAIN);
	assert_int_equal(sealane_reserve(l[0], 10, &place, 0), 0);
	assert_int_equal(sealane_shutdown(l[0]), 0);
	assert_int_equal(sealane_commit(l[0], 10), -EINVAL);
	assert_int_equal(sealane_peek(l[1], &seen, &size, NULL, 0), -ENODATA);
	close_pair(l);
}

static void test_kinds_are_told_apart(void **state)
{
	struct sealane_lane *l[2];
	char buf[4];

	make_pair(l, SEALANE_STREAM, SEALANE_WAIT_ADAPTIVE, SMALL);
	assert_int_equal(sealane_send(l[0], "x", 1, 0), -EPROTOTYPE);
	assert_int_equal(sealane_recv(l[0], buf, 4, 0), -EPROTOTYPE);
	close_pair(l);
	make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, SMALL);
	assert_int_equal(sealane_write(l[0], "x", 1, 0), -EPROTOTYPE);
	assert_int_equal(sealane_read(l[0], buf, 4, 0), -EPROTOTYPE);
	close_pair(l);
}

/* --- time ------------------------------------------------------------------------------------------------------------------- */

static void test_deadlines(void **state)
{
	const enum sealane_wait waits[] = { SEALANE_WAIT_ADAPTIVE, SEALANE_WAIT_SPIN, SEALANE_WAIT_BLOCK };

	for (size_t i = 0; i < ARRAY_SIZE(waits); i++) {
		struct sealane_lane *l[2];
		char buf[64];
		uint64_t t;

		make_pair(l, SEALANE_MESSAGES, waits[i], SMALL);
		t = clock_ns();
		assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), 30 * MS), -ETIMEDOUT);
		assert_true(clock_ns() - t >= 30 * (uint64_t)MS);
		while (sealane_send(l[0], buf, sizeof(buf), 0) == 0)
			;
		assert_int_equal(sealane_send(l[0], buf, sizeof(buf), 0), -EAGAIN);
		t = clock_ns();
		assert_int_equal(sealane_send(l[0], buf, sizeof(buf), 30 * MS), -ETIMEDOUT);
		assert_true(clock_ns() - t >= 30 * (uint64_t)MS);
		close_pair(l);
	}
}

/* Half of a message cannot be taken back. */
static void test_torn_message_ends_the_lane(void **state)
{
	static char big[100000];
	struct sealane_lane *l[2];

	make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, SMALL);
	assert_int_equal(sealane_send(l[0], big, sizeof(big), 20 * MS), -ETIMEDOUT);
	assert_int_equal(sealane_send(l[0], big, 1, 0), -ETIMEDOUT);
	assert_int_equal(sealane_recv(l[1], big, sizeof(big), 20 * MS), -ETIMEDOUT); /* the rest never comes */
	close_pair(l);
}

/* Records that bring nothing, without end: they must not keep a receiver beyond its time. */
static void *empty_records(void *arg)
{
	struct sealane_lane *lane = arg;
	void *place;

	assert(sealane_guard_open(lane) == 0); /* it writes from outside a call */
	while (lane_reserve(lane, 0, &place, 1000 * MS) == 0) {
		lane_stage(lane, 0, lane->kind == SEALANE_MESSAGES ? RING_MORE : 0, LANE_TAG_PLAIN);
		lane_flush(lane);
	}
	sealane_guard_close(lane);
	return NULL;
}

static void test_empty_records_poison(void **state)
{
	for (int kind = SEALANE_STREAM; kind <= SEALANE_MESSAGES; kind++) {
		struct sealane_lane *l[2];
		pthread_t thread;
		char buf[8];
		ssize_t n;

		make_pair(l, (enum sealane_kind)kind, SEALANE_WAIT_ADAPTIVE, SMALL);
		assert_int_equal(pthread_create(&thread, NULL, empty_records, l[0]), 0);
		n = kind == SEALANE_STREAM ? sealane_read(l[1], buf, sizeof(buf), 1000 * MS) : sealane_recv(l[1], buf, sizeof(buf), 1000 * MS);
		assert_int_equal(n, -SEALANE_E_PROTOCOL);
		sealane_close(l[1]);
		pthread_join(thread, NULL);
		sealane_close(l[0]);
	}
}

static void *one_byte_pieces(void *arg)
{
	struct sealane_lane *lane = arg;
	void *place;

	assert(sealane_guard_open(lane) == 0); /* as above */
	while (lane_reserve(lane, 1, &place, 1000 * MS) == 0) {
		lane_stage(lane, 1, RING_MORE, LANE_TAG_PLAIN);
		lane_flush(lane);
		poll(NULL, 0, 500);
	}
	sealane_guard_close(lane);
	return NULL;
}

static void test_drops_of_a_message_end(void **state)
{
	struct sealane_lane *l[2];
	pthread_t thread;
	uint64_t t;
	ssize_t r;
	char buf[8];

	make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, SMALL);
	assert_int_equal(pthread_create(&thread, NULL, one_byte_pieces, l[0]), 0);
	do { /* until its first piece is there */
		poll(NULL, 0, 10);
		t = clock_ns();
		r = sealane_recv(l[1], buf, sizeof(buf), SEALANE_NOWAIT);
	} while (r == -EAGAIN);
	assert_int_equal(r, -ETIMEDOUT);
	assert_true(clock_ns() - t >= 5000 * MS); /* else it never ends */
	sealane_close(l[1]);
	pthread_join(thread, NULL);
	sealane_close(l[0]);
}

static void *late_send(void *arg)
{
	struct stream_job *job = arg;

	poll(NULL, 0, 200);
	job->ok = sealane_send(job->lane, "late", 4, SEALANE_FOREVER) == 0;
	return NULL;
}

/* An idle receiver sleeps: on the futex for a moment, then on the bell. */
static void test_idle_costs_nothing(void **state)
{
	struct sealane_lane *l[2];
	struct rusage before, after;
	struct stream_job job;
	pthread_t thread;
	char buf[8];

	make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, SMALL);
	job = (struct stream_job){ .lane = l[0] };
	assert_int_equal(pthread_create(&thread, NULL, late_send, &job), 0);
	getrusage(RUSAGE_THREAD, &before);
	assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), SEALANE_FOREVER), 4);
	getrusage(RUSAGE_THREAD, &after);
	pthread_join(thread, NULL);
	assert_true(job.ok);
	assert_true(after.ru_nvcsw - before.ru_nvcsw <= 4);
	close_pair(l);
}

/* --- the end ---------------------------------------------------------------------------------------------------------------- */

static void test_shutdown_of_one_half(void **state)
{
	struct sealane_lane *l[2];
	char buf[8];

	make_pair(l, SEALANE_STREAM, SEALANE_WAIT_ADAPTIVE, SMALL);
	assert_int_equal(sealane_write(l[0], "end", 3, 0), 3);
	assert_int_equal(sealane_shutdown(l[0]), 0);
	assert_int_equal(sealane_shutdown(l[0]), 0);
	assert_int_equal(sealane_write(l[0], "more", 4, 0), -EPIPE);
	assert_int_equal(sealane_read(l[1], buf, sizeof(buf), 0), 3);
	assert_int_equal(sealane_read(l[1], buf, sizeof(buf), 0), 0);
	assert_int_equal(sealane_read(l[1], buf, sizeof(buf), 0), 0);
	assert_int_equal(sealane_write(l[1], "back", 4, 0), 4);
	assert_int_equal(sealane_read(l[0], buf, sizeof(buf), 0), 4);
	close_pair(l);
}

/* A full ring still has room to say goodbye. */
static void test_close_when_full(void **state)
{
	struct sealane_lane *l[2];
	char buf[64] = "f";
	int n = 0;

	make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, SMALL);
	while (sealane_send(l[0], buf, sizeof(buf), 0) == 0)
		n++;
	sealane_close(l[0]);
	while (sealane_recv(l[1], buf, sizeof(buf), 0) == sizeof(buf))
		n--;
	assert_int_equal(n, 0);
	assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), SEALANE_FOREVER), -ENODATA);
	assert_int_equal(sealane_send(l[1], buf, sizeof(buf), SEALANE_FOREVER), -EPIPE);
	sealane_close(l[1]);
}

static void *close_later(void *arg)
{
	poll(NULL, 0, 50);
	sealane_close(arg);
	return NULL;
}

static void test_close_wakes_who_waits(void **state)
{
	struct sealane_lane *l[2];
	pthread_t thread;
	char buf[64] = "";

	make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, SMALL);
	assert_int_equal(pthread_create(&thread, NULL, close_later, l[0]), 0);
	assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), SEALANE_FOREVER), -ENODATA);
	pthread_join(thread, NULL);
	sealane_close(l[1]);

	make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_BLOCK, SMALL);
	while (sealane_send(l[1], buf, sizeof(buf), 0) == 0)
		;
	assert_int_equal(pthread_create(&thread, NULL, close_later, l[0]), 0);
	assert_int_equal(sealane_send(l[1], buf, sizeof(buf), SEALANE_FOREVER), -EPIPE);
	pthread_join(thread, NULL);
	sealane_close(l[1]);
}

/* --- the leash -------------------------------------------------------------------------------------------------------------- */

static int leash_for(struct sealane_lane *lane)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	lane->leash = pair[0];
	lane->leash_gone = false;
	return pair[1];
}

static void *cut_later(void *arg)
{
	struct control_msg m = { .type = CTL_CUT, .version = CONTROL_VERSION, .u.error = { .error = -ECANCELED, .why = "denied by a.conf:3" } };

	poll(NULL, 0, 50);
	if (control_send((int)(intptr_t)arg, &m, NULL) < 0)
		abort();
	return NULL;
}

/* One side is cut, and its peer is one that does not care: all it sends is taken at once, and there is always something to receive. */
static void test_cut_reaches_who_never_waits(void **state)
{
	for (int receives = 0; receives < 2; receives++) {
		struct sealane_lane *l[2];
		uint64_t end;
		char buf[8] = "";
		int r = 0;

		make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_BLOCK, SMALL);
		cut_later((void *)(intptr_t)leash_for(l[receives]));
		end = clock_ns() + 1000 * MS;
		while (r >= 0 && clock_ns() < end) {
			r = sealane_send(l[0], buf, sizeof(buf), SEALANE_NOWAIT);
			if (r == 0)
				r = (int)sealane_recv(l[1], buf, sizeof(buf), SEALANE_NOWAIT);
		}
		assert_int_equal(r, -SEALANE_E_CUT);
		close_pair(l);
	}
}

static void test_cut_wakes_who_waits(void **state)
{
	const enum sealane_wait waits[] = { SEALANE_WAIT_ADAPTIVE, SEALANE_WAIT_SPIN, SEALANE_WAIT_BLOCK };

	for (size_t i = 0; i < 2 * ARRAY_SIZE(waits); i++) {
		struct sealane_lane *l[2];
		pthread_t thread;
		char buf[64] = "";
		int daemon, r;

		make_pair(l, SEALANE_MESSAGES, waits[i / 2], SMALL);
		daemon = leash_for(l[0]);
		while (i % 2 && sealane_send(l[0], buf, sizeof(buf), 0) == 0)
			;
		assert_int_equal(pthread_create(&thread, NULL, cut_later, (void *)(intptr_t)daemon), 0);
		r = i % 2 ? sealane_send(l[0], buf, sizeof(buf), 1000 * MS) : (int)sealane_recv(l[0], buf, sizeof(buf), 1000 * MS);
		assert_int_equal(r, -SEALANE_E_CUT);
		assert_non_null(strstr(sealane_last_error(), "a.conf:3"));
		assert_int_equal(sealane_send(l[0], "x", 1, 0), -SEALANE_E_CUT);
		pthread_join(thread, NULL);
		close(daemon);
		close_pair(l);
	}
}

static void test_lane_outlives_the_daemon(void **state)
{
	struct sealane_lane *l[2];
	char buf[8];

	make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, SMALL);
	close(leash_for(l[0]));
	assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), 20 * MS), -ETIMEDOUT);
	assert_int_equal(sealane_send(l[1], "on", 2, 0), 0);
	assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), 0), 2);
	close_pair(l);
}

/* --- links ------------------------------------------------------------------------------------------------------------------ */

static void make_link(struct sealane_lane *ret[2], enum sealane_kind kind, enum sealane_wait wait)
{
	struct lane_parts parts[2];

	for (int i = 0; i < 2; i++)
		parts[i] = (struct lane_parts){ .kind = kind, .wait = wait, .start = UINT64_C(65535) * shm_n_descs(SMALL) - 2, .path = "link" };
	assert_int_equal(lane_pair_parts(ret, parts, SMALL), 0);
}

static const enum sealane_wait g_waits[] = { SEALANE_WAIT_ADAPTIVE, SEALANE_WAIT_SPIN, SEALANE_WAIT_BLOCK };

static _Thread_local unsigned g_n_yields;

/* The library's, in place of libc's. */
int sched_yield(void)
{
	g_n_yields++;
	return (int)syscall(SYS_sched_yield);
}

/* Waits that are in vain. Return: how often others were let run meanwhile. */
static unsigned yields_of(struct sealane_lane *l, bool sends, int n_waits)
{
	char buf[8];

	g_n_yields = 0;
	for (int i = 0; i < n_waits; i++)
		assert_int_equal(sends ? sealane_send(l, "x", 1, MS / 4) : sealane_recv(l, buf, sizeof(buf), MS / 4), -ETIMEDOUT);
	return g_n_yields;
}

/* The peer is a linker, maybe on our own CPU: it has to run before anything can come. A lane for one question and its answer sleeps at once. */
static void test_link_lets_others_run(void **state)
{
	for (int link = 0; link < 2; link++) {
		struct sealane_lane *l[2];

		if (link)
			make_link(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE);
		else
			make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, SMALL);
		assert_int_equal(yields_of(l[0], false, 2), 0);
		assert_true(link == (yields_of(l[0], false, 20) > 0));
		while (sealane_send(l[0], "x", 1, SEALANE_NOWAIT) == 0)
			;
		assert_true(link == (yields_of(l[0], true, 20) > 0));
		close_pair(l);
	}
}

/* What was published is read; then comes no end, in either direction and again and again. */
static void test_link_that_goes_is_no_end(void **state)
{
	for (size_t i = 0; i < 2 * ARRAY_SIZE(g_waits); i++) {
		int64_t time = i % 2 ? SEALANE_NOWAIT : SEALANE_FOREVER;
		struct sealane_lane *l[2];
		char buf[8];

		make_link(l, SEALANE_STREAM, g_waits[i / 2]);
		assert_int_equal(sealane_write(l[0], "abc", 3, 0), 3);
		lane_drop(l[0]);
		assert_int_equal(sealane_read(l[1], buf, sizeof(buf), time), 3);
		assert_int_equal(sealane_read(l[1], buf, sizeof(buf), time), -SEALANE_E_CUT);
		assert_non_null(strstr(sealane_last_error(), "link"));
		assert_int_equal(sealane_write(l[1], "x", 1, time), -SEALANE_E_CUT);
		assert_int_equal(sealane_read(l[1], buf, sizeof(buf), time), -SEALANE_E_CUT);
		sealane_close(l[1]);

		make_link(l, SEALANE_MESSAGES, g_waits[i / 2]);
		assert_int_equal(sealane_send(l[0], "abc", 3, 0), 0);
		lane_drop(l[0]);
		while (sealane_send(l[1], "x", 1, 0) == 0) /* the ring takes some before anybody looks */
			;
		assert_int_equal(sealane_send(l[1], "x", 1, time), -SEALANE_E_CUT);
		assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), time), 3);
		assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), time), -SEALANE_E_CUT);
		sealane_close(l[1]);
	}
}

static void test_link_that_goes_during_a_call(void **state)
{
	struct sealane_lane *l[2];
	uint64_t id, seen;
	char buf[8];

	make_link(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE);
	assert_int_equal(sealane_call_begin(l[1], 7, "q", 1, buf, sizeof(buf), SEALANE_FOREVER, &id), 0);
	lane_drop(l[0]);
	assert_int_equal(sealane_call_finish(l[1], id, SEALANE_FOREVER), -SEALANE_E_CUT);
	assert_int_equal(sealane_call_next(l[1], &seen, SEALANE_NOWAIT), -ENOENT);
	assert_int_equal(sealane_serve(l[1], SEALANE_FOREVER), -SEALANE_E_CUT);
	sealane_close(l[1]);
}

static void send_piece(struct sealane_lane *lane)
{
	KEYS_SCOPE(lane->domain);
	void *place;

	assert_int_equal(lane_reserve(lane, 3, &place, 0), 0);
	memcpy(place, "abc", 3);
	lane_stage(lane, 3, RING_MORE, LANE_TAG_PLAIN);
	lane_flush(lane);
}

static void test_link_goes_amid_a_message(void **state)
{
	struct sealane_lane *l[2];
	char buf[8];

	make_link(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE);
	send_piece(l[0]);
	lane_drop(l[0]);
	assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), SEALANE_FOREVER), -SEALANE_E_CUT);
	sealane_close(l[1]);
}

static void *drop_later(void *arg)
{
	poll(NULL, 0, 50);
	lane_drop(arg);
	return NULL;
}

static void test_link_that_goes_wakes_who_waits(void **state)
{
	for (size_t i = 0; i < 2 * ARRAY_SIZE(g_waits); i++) {
		struct sealane_lane *l[2];
		pthread_t thread;
		char buf[64] = "";

		make_link(l, SEALANE_MESSAGES, g_waits[i / 2]);
		while (i % 2 && sealane_send(l[1], buf, sizeof(buf), 0) == 0)
			;
		assert_int_equal(pthread_create(&thread, NULL, drop_later, l[0]), 0);
		if (i % 2)
			assert_int_equal(sealane_send(l[1], buf, sizeof(buf), SEALANE_FOREVER), -SEALANE_E_CUT);
		else
			assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), SEALANE_FOREVER), -SEALANE_E_CUT);
		pthread_join(thread, NULL);
		sealane_close(l[1]);
	}
}

/* The end came: the link may go then, and be said to have gone. Sending is over too, and for the peer's reason if that is known. */
static void test_link_that_goes_after_the_end(void **state)
{
	for (int words = 0; words < 2; words++) {
		struct sealane_lane *l[2];
		char buf[8];
		int daemon;

		make_link(l, SEALANE_STREAM, SEALANE_WAIT_ADAPTIVE);
		daemon = leash_for(l[1]);
		assert_int_equal(sealane_write(l[0], "abc", 3, 0), 3);
		sealane_close(l[0]);
		if (!words)
			close(take_fd(&daemon));
		assert_int_equal(sealane_write(l[1], "x", 1, 0), -EPIPE); /* before it was read */
		assert_int_equal(sealane_read(l[1], buf, sizeof(buf), SEALANE_FOREVER), 3);
		assert_int_equal(sealane_read(l[1], buf, sizeof(buf), SEALANE_FOREVER), 0);
		if (words)
			cut_later((void *)(intptr_t)daemon);
		assert_int_equal(sealane_write(l[1], "x", 1, 0), words ? -SEALANE_E_CUT : -EPIPE);
		assert_int_equal(sealane_read(l[1], buf, sizeof(buf), SEALANE_NOWAIT), 0);
		assert_int_equal(sealane_read(l[1], buf, sizeof(buf), SEALANE_FOREVER), 0);
		sealane_close(l[1]);
		if (daemon >= 0)
			close(daemon);
	}
}

/* The daemon goes and its links stay: a porter that is started again. Then the link goes, and nobody says why. */
static void test_link_outlives_the_leash(void **state)
{
	struct sealane_lane *l[2];
	char buf[8];

	make_link(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE);
	close(leash_for(l[1]));
	assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), 20 * MS), -ETIMEDOUT);
	assert_int_equal(sealane_send(l[0], "on", 2, 0), 0);
	assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), 0), 2);
	lane_drop(l[0]);
	assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), SEALANE_FOREVER), -SEALANE_E_CUT);
	sealane_close(l[1]);
}

/* On one host a hang-up without a word is the peer's death, and an end as before. */
static void test_hang_up_on_one_host_is_an_end(void **state)
{
	struct sealane_lane *l[2];
	char buf[8];

	make_pair(l, SEALANE_STREAM, SEALANE_WAIT_ADAPTIVE, SMALL);
	lane_drop(l[0]);
	assert_int_equal(sealane_read(l[1], buf, sizeof(buf), SEALANE_FOREVER), 0);
	assert_int_equal(sealane_write(l[1], "x", 1, 0), -EPIPE);
	sealane_close(l[1]);
}

/* --- event loops ------------------------------------------------------------------------------------------------------------ */

static bool readable(struct sealane_lane *lane, int timeout_ms)
{
	struct pollfd p = { .fd = sealane_fd(lane), .events = POLLIN };

	assert_true(p.fd >= 0);
	return poll(&p, 1, timeout_ms) == 1;
}

static void test_descriptor_says_when_to_look(void **state)
{
	struct sealane_lane *l[2];
	char buf[64] = "";
	int n = 0;

	make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, SMALL);
	assert_true(readable(l[1], 0)); /* nobody has looked yet */
	assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), 0), -EAGAIN);
	assert_false(readable(l[1], 0));
	assert_int_equal(sealane_send(l[0], buf, 10, 0), 0);
	assert_true(readable(l[1], 1000));
	assert_true(readable(l[1], 0)); /* until somebody looks */
	assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), 0), 10);
	assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), 0), -EAGAIN);
	assert_false(readable(l[1], 0));

	/* room: full, then not */
	assert_true(readable(l[0], 0));
	assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), 0), -EAGAIN);
	while (sealane_send(l[0], buf, sizeof(buf), 0) == 0)
		n++;
	assert_false(readable(l[0], 0));
	while (sealane_recv(l[1], buf, sizeof(buf), 0) > 0)
		n--;
	assert_int_equal(n, 0);
	assert_true(readable(l[0], 1000));
	assert_int_equal(sealane_send(l[0], buf, sizeof(buf), 0), 0);

	/* the end */
	assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), 0), -EAGAIN);
	sealane_close(l[1]);
	assert_true(readable(l[0], 1000));
	assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), 0), -ENODATA);
	sealane_close(l[0]);
}

/* Both directions wait; a loop that only sends when woken must still be told that something came. */
static void test_one_direction_does_not_swallow_the_other(void **state)
{
	struct sealane_lane *l[2];
	char buf[64] = "";

	make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, SMALL);
	assert_true(sealane_fd(l[0]) >= 0);
	while (sealane_send(l[0], buf, sizeof(buf), 0) == 0)
		;
	assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), 0), -EAGAIN);
	assert_int_equal(sealane_send(l[0], buf, sizeof(buf), 0), -EAGAIN);
	assert_false(readable(l[0], 0));
	assert_int_equal(sealane_send(l[1], "data", 4, 0), 0);
	assert_true(readable(l[0], 1000));
	assert_int_equal(sealane_send(l[0], buf, sizeof(buf), 0), -EAGAIN); /* swallows the bell */
	assert_true(readable(l[0], 0));
	assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), 0), 4);
	assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), 0), -EAGAIN);
	assert_false(readable(l[0], 0));
	close_pair(l);
}

enum { LOOP_LANES = 40, LOOP_TRIPS = 500 };

static int watch_all(struct sealane_lane *l[][2], int side)
{
	int epoll_fd = epoll_create1(EPOLL_CLOEXEC);

	for (uint32_t i = 0; i < LOOP_LANES; i++) {
		struct epoll_event ev = { .events = EPOLLIN, .data.u32 = i };

		lane_drop(l[i][!side]);
		assert_int_equal(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, sealane_fd(l[i][side]), &ev), 0);
	}
	return epoll_fd;
}

/* One message for each event, then the next lane's turn; waits for the next event before anything is known to be empty. */
static void loop_one_by_one(struct sealane_lane *l[][2], int side, unsigned trips)
{
	int epoll_fd = watch_all(l, side), n = 0;
	struct epoll_event events[16];
	char buf[64] = "";

	for (int i = 0; side == 0 && i < LOOP_LANES; i++)
		assert_int_equal(sealane_send(l[i][0], buf, sizeof(buf), 0), 0);
	while (trips > 0) {
		n = epoll_wait(epoll_fd, events, ARRAY_SIZE(events), 2000);
		if (n <= 0)
			break;
		for (int k = 0; k < n; k++) {
			struct sealane_lane *lane = l[events[k].data.u32][side];

			if (sealane_recv(lane, buf, sizeof(buf), 0) < 0)
				continue;
			assert_int_equal(sealane_send(lane, buf, sizeof(buf), 1000 * MS), 0);
			trips -= trips > 0;
		}
	}
	close(epoll_fd);
	assert_int_not_equal(n, 0); /* stuck: messages were there, and no descriptor said so */
}

static void test_loop_may_take_one_message_at_a_time(void **state)
{
	static struct sealane_lane *l[LOOP_LANES][2];
	int status;
	pid_t pid;

	for (int i = 0; i < LOOP_LANES; i++)
		make_pair(l[i], SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, SMALL);
	pid = fork();
	if (pid == 0) {
		loop_one_by_one(l, 1, UINT32_MAX);
		_exit(0);
	}
	loop_one_by_one(l, 0, LOOP_LANES * LOOP_TRIPS);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	for (int i = 0; i < LOOP_LANES; i++)
		sealane_close(l[i][0]);
}

static void test_loop_learns_of_a_cut_and_of_a_daemon_that_left(void **state)
{
	struct sealane_lane *l[2];
	char buf[8];
	int daemon;

	make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, SMALL);
	daemon = leash_for(l[0]);
	assert_true(readable(l[0], 0));
	assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), 0), -EAGAIN);
	assert_false(readable(l[0], 0));
	cut_later((void *)(intptr_t)daemon);
	assert_true(readable(l[0], 1000));
	assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), 0), -SEALANE_E_CUT);
	close(daemon);
	close_pair(l);

	make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, SMALL);
	daemon = leash_for(l[0]);
	assert_true(readable(l[0], 0));
	close(daemon);
	assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), 0), -EAGAIN);
	assert_false(readable(l[0], 0)); /* not for ever readable because of it */
	close_pair(l);
}

/* --- death ------------------------------------------------------------------------------------------------------------------ */

/* Sends numbered messages of changing size until it is killed. */
static void send_until_killed(struct sealane_lane *lane)
{
	static uint8_t buf[3000];

	for (uint64_t i = 0;; i++) {
		size_t n = 8 + i * 37 % 2900;

		memcpy(buf, &i, 8);
		fill(buf + 8, n - 8, i);
		if (sealane_send(lane, buf, n, SEALANE_FOREVER) < 0)
			_exit(1);
	}
}

/* What was committed arrives whole and in order, then the end. */
static void survive_sender(struct sealane_lane *lane)
{
	static uint8_t buf[3000];
	uint64_t expect = 0, number;
	ssize_t n;

	while ((n = sealane_recv(lane, buf, sizeof(buf), 20000 * MS)) >= 8) {
		memcpy(&number, buf, 8);
		assert_int_equal(number, expect);
		assert_int_equal(n, 8 + number * 37 % 2900);
		assert_true(is_filled(buf + 8, (size_t)n - 8, number));
		expect++;
	}
	assert_int_equal(n, -ENODATA);
}

/* There is room, but nobody who would ever read: told by what was received, or by the bell soon after. */
static void test_sending_to_the_dead(void **state)
{
	for (int receives = 0; receives < 2; receives++) {
		struct sealane_lane *l[2];
		uint64_t end;
		char buf[8];
		int r = 0, status;
		pid_t pid;

		make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, MEDIUM);
		pid = fork();
		if (pid == 0) {
			lane_drop(l[0]);
			for (;;)
				pause();
		}
		lane_drop(l[1]);
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		if (receives) {
			assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), SEALANE_FOREVER), -ENODATA);
			assert_int_equal(sealane_send(l[0], "x", 1, 0), -EPIPE);
		}
		for (end = clock_ns() + 20000 * MS; r == 0 && clock_ns() < end; poll(NULL, 0, 1))
			r = sealane_send(l[0], "x", 1, 0);
		assert_int_equal(r, -EPIPE);
		assert_int_equal(sealane_send(l[0], "x", 1, 0), -EPIPE);
		sealane_close(l[0]);
	}
}

static void recv_until_killed(struct sealane_lane *lane)
{
	static uint8_t buf[3000];

	for (;;)
		if (sealane_recv(lane, buf, sizeof(buf), SEALANE_FOREVER) < 0)
			_exit(1);
}

static void survive_receiver(struct sealane_lane *lane)
{
	char buf[200] = "";
	int r;

	while ((r = sealane_send(lane, buf, sizeof(buf), 20000 * MS)) == 0)
		;
	assert_int_equal(r, -EPIPE);
}

static size_t open_descriptors(void)
{
	size_t n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void test_peer_killed_at_any_moment(void **state)
{
	const char *rounds_env = getenv("ROUNDS");
	int rounds = rounds_env ? atoi(rounds_env) : 60;
	size_t before = open_descriptors();
	unsigned seed = 42;

	for (int round = 0; round < rounds; round++) {
		const enum sealane_wait wait = (enum sealane_wait)(round % 3);
		struct sealane_lane *l[2];
		int status;
		pid_t pid;

		make_pair(l, SEALANE_MESSAGES, wait, SMALL);
		pid = fork();
		if (pid == 0) {
			lane_drop(l[0]);
			if (round % 2)
				send_until_killed(l[1]);
			else
				recv_until_killed(l[1]);
		}
		lane_drop(l[1]);
		if (fork() == 0) { /* whoever ends it knows nothing of what it is doing */
			poll(NULL, 0, 1);
			for (int i = rand_r(&seed) % 20000; i > 0; i--)
				ring_pause();
			kill(pid, SIGKILL);
			_exit(0);
		}
		seed = seed * 1103515245u + 12345u;
		if (round % 2)
			survive_sender(l[0]);
		else
			survive_receiver(l[0]);
		sealane_close(l[0]);
		while (waitpid(-1, &status, 0) > 0)
			;
	}
	assert_int_equal(open_descriptors(), before);
}

/* A peer whose memory says nonsense ends its own lane. */
static void test_nonsense_poisons(void **state)
{
	struct sealane_lane *l[2];
	char buf[8];

	make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, SMALL);
	assert_int_equal(sealane_guard_open(l[1]), 0);
	atomic_store(&l[1]->tx.descs[l[1]->tx.index & l[1]->tx.desc_mask], UINT64_MAX);
	sealane_guard_close(l[1]);
	assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), 0), -SEALANE_E_PROTOCOL);
	assert_int_equal(sealane_send(l[0], buf, sizeof(buf), 0), -SEALANE_E_PROTOCOL);
	close_pair(l);

	make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, SMALL);
	assert_int_equal(sealane_guard_open(l[1]), 0);
	atomic_store(&l[1]->own.base->head, 1 << 20);
	sealane_guard_close(l[1]);
	while (sealane_send(l[0], buf, sizeof(buf), 0) == 0)
		;
	assert_int_equal(sealane_send(l[0], buf, sizeof(buf), 0), -SEALANE_E_PROTOCOL);
	close_pair(l);
}

/* --- sealane_fd(): what the other direction swallowed ------------------------------------------------------------------------ */

static bool is_readable(struct sealane_lane *lane)
{
	struct pollfd p = { .fd = sealane_fd(lane), .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}

/* The peer has rung for room that is not enough, receiving swallows that; then it makes room in earnest. */
static void test_fd_room_rings_again(void **state)
{
	struct sealane_lane *l[2];
	char buf[1024] = "";

	make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, SMALL);
	assert_true(sealane_fd(l[0]) >= 0);
	while (sealane_send(l[0], buf, 1, SEALANE_NOWAIT) == 0)
		;
	assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), SEALANE_NOWAIT), -EAGAIN);
	assert_int_equal(sealane_send(l[0], buf, 1024, SEALANE_NOWAIT), -EAGAIN); /* the skipped end of the ring, too */
	assert_false(is_readable(l[0]));
	for (int i = 0; i < 16; i++)
		assert_int_equal(sealane_recv(l[1], buf, sizeof(buf), SEALANE_NOWAIT), 1);
	assert_true(is_readable(l[0]));
	assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), SEALANE_NOWAIT), -EAGAIN);
	while (sealane_recv(l[1], buf, sizeof(buf), SEALANE_NOWAIT) == 1)
		;
	assert_true(is_readable(l[0]));
	assert_int_equal(sealane_send(l[0], buf, 1024, SEALANE_NOWAIT), 0);
	close_pair(l);
}

/* That there is room is not forgotten when more is received before the next poll; nor told for ever to one who does not care. */
static void test_fd_room_is_told_again(void **state)
{
	struct sealane_lane *l[2];
	char buf[1024] = "";
	int n = 0;

	make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, SMALL);
	assert_true(sealane_fd(l[0]) >= 0);
	while (sealane_send(l[0], buf, 1000, SEALANE_NOWAIT) == 0)
		;
	while (sealane_recv(l[1], buf, sizeof(buf), SEALANE_NOWAIT) == 1000)
		;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), SEALANE_NOWAIT), -EAGAIN);
		assert_true(is_readable(l[0]));
	}
	while (is_readable(l[0]) && n++ < 100)
		assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), SEALANE_NOWAIT), -EAGAIN);
	assert_in_range(n, 1, 20);
	assert_int_equal(sealane_send(l[0], buf, 1000, SEALANE_NOWAIT), 0);
	assert_false(is_readable(l[0]));
	close_pair(l);
}

/* It stopped before -EAGAIN, with nothing left; sending swallowed the bell; then something comes. */
static void test_fd_data_rings_again(void **state)
{
	struct sealane_lane *l[2];
	char buf[1024] = "";

	make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, SMALL);
	assert_true(sealane_fd(l[0]) >= 0);
	assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), SEALANE_NOWAIT), -EAGAIN);
	assert_int_equal(sealane_send(l[1], buf, 1, SEALANE_NOWAIT), 0);
	assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), SEALANE_NOWAIT), 1);
	while (sealane_send(l[0], buf, 1024, SEALANE_NOWAIT) == 0)
		;
	assert_int_equal(sealane_send(l[1], buf, 1, SEALANE_NOWAIT), 0);
	assert_true(is_readable(l[0]));
	close_pair(l);
}

/* It has never received until -EAGAIN, and sending swallows the kick that a new descriptor begins with. */
static void test_fd_begins_with_a_full_ring(void **state)
{
	struct sealane_lane *l[2];
	char buf[1024] = "";

	make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_ADAPTIVE, SMALL);
	assert_true(sealane_fd(l[0]) >= 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(sealane_send(l[1], buf, 1, SEALANE_NOWAIT), 0);
	assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), SEALANE_NOWAIT), 1);
	while (sealane_send(l[0], buf, 1024, SEALANE_NOWAIT) == 0)
		;
	assert_true(is_readable(l[0]));
	assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), SEALANE_NOWAIT), 1);
	close_pair(l);
}

/* A call that waited takes the direction's arming with it. */
static void test_fd_after_waiting(void **state)
{
	struct sealane_lane *l[2];
	char buf[8] = "";

	make_pair(l, SEALANE_MESSAGES, SEALANE_WAIT_BLOCK, SMALL);
	assert_true(sealane_fd(l[0]) >= 0);
	assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), SEALANE_NOWAIT), -EAGAIN);
	assert_int_equal(sealane_recv(l[0], buf, sizeof(buf), 30 * MS), -ETIMEDOUT);
	assert_int_equal(sealane_send(l[1], buf, 1, SEALANE_NOWAIT), 0);
	assert_true(is_readable(l[0]));
	close_pair(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_streams), cmocka_unit_test(test_messages), cmocka_unit_test(test_too_large_is_dropped_whole),
		cmocka_unit_test(test_batch_is_seen_at_once), cmocka_unit_test(test_waiting_for_room_publishes),
		cmocka_unit_test(test_zero_copy), cmocka_unit_test(test_kinds_are_told_apart), cmocka_unit_test(test_deadlines),
		cmocka_unit_test(test_torn_message_ends_the_lane),
		cmocka_unit_test(test_empty_records_poison), cmocka_unit_test(test_drops_of_a_message_end), cmocka_unit_test(test_idle_costs_nothing),
		cmocka_unit_test(test_shutdown_of_one_half), cmocka_unit_test(test_close_when_full),
		cmocka_unit_test(test_close_wakes_who_waits), cmocka_unit_test(test_cut_wakes_who_waits),
		cmocka_unit_test(test_cut_reaches_who_never_waits),
		cmocka_unit_test(test_lane_outlives_the_daemon), cmocka_unit_test(test_descriptor_says_when_to_look),
		cmocka_unit_test(test_one_direction_does_not_swallow_the_other),
		cmocka_unit_test(test_loop_may_take_one_message_at_a_time),
		cmocka_unit_test(test_loop_learns_of_a_cut_and_of_a_daemon_that_left), cmocka_unit_test(test_peer_killed_at_any_moment), cmocka_unit_test(test_sending_to_the_dead),
		cmocka_unit_test(test_nonsense_poisons), cmocka_unit_test(test_fd_room_rings_again),
		cmocka_unit_test(test_fd_room_is_told_again),
		cmocka_unit_test(test_fd_data_rings_again), cmocka_unit_test(test_fd_after_waiting),
		cmocka_unit_test(test_fd_begins_with_a_full_ring),
		cmocka_unit_test(test_link_lets_others_run), cmocka_unit_test(test_link_that_goes_is_no_end), cmocka_unit_test(test_link_that_goes_during_a_call),
		cmocka_unit_test(test_link_goes_amid_a_message), cmocka_unit_test(test_link_that_goes_wakes_who_waits),
		cmocka_unit_test(test_link_that_goes_after_the_end), cmocka_unit_test(test_link_outlives_the_leash),
		cmocka_unit_test(test_hang_up_on_one_host_is_an_end),
	};

	signal(SIGPIPE, SIG_DFL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
