/* Calls without a daemon: both ends in one thread, in two, or one of them in a child that may be killed; and peers that lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "client/call.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>

#define MS INT64_C(1000000)
#define SECOND (1000 * MS)

enum { SMALL = 12, MEDIUM = 16 };
enum { ECHO = 1, SUM, FAIL, LATER, BACK, STOP, DEAF };

static void make_pair_as(struct sealane_lane *ret[2], enum sealane_wait wait, uint32_t cap_log2)
{
	const enum sealane_wait both[2] = { wait, wait };

	assert_int_equal(lane_pair(ret, SEALANE_MESSAGES, both, cap_log2, UINT64_C(65534) * shm_n_descs(cap_log2) - 3), 0);
}

static void make_pair(struct sealane_lane *ret[2], uint32_t cap_log2)
{
	make_pair_as(ret, SEALANE_WAIT_ADAPTIVE, cap_log2);
}

static void close_pair(struct sealane_lane *l[2])
{
	sealane_close(l[0]);
	sealane_close(l[1]);
}

/* --- a server --- */

struct server {
	struct sealane_lane *lane;
	uint64_t later[SEALANE_CALLS_MAX];
	unsigned n_later;
	unsigned depth, deepest;
	int64_t time_left;
	bool stop;
	int last; /* sealane_serve()'s */
};

static int on_echo(struct sealane_request *q, void *arg)
{
	size_t size = sealane_request_size(q);
	AUTO_FREE(char) buf = malloc(size + 1);
	ssize_t n = sealane_request_read(q, buf, size + 1);

	if (n != (ssize_t)size)
		return n < 0 ? (int)n : -EBADMSG;
	return sealane_request_reply(q, buf, size);
}

static int on_sum(struct sealane_request *q, void *arg)
{
	uint64_t sum = 0;
	const void *data;
	size_t n;
	int r;

	while ((r = sealane_request_peek(q, &data, &n)) == 0 && n > 0) {
		for (size_t i = 0; i < n; i++)
			sum += ((const uint8_t *)data)[i];
		(void)!sealane_request_read(q, NULL, n);
	}
	return r < 0 ? r : sealane_request_reply(q, &sum, sizeof(sum));
}

static int on_fail(struct sealane_request *q, void *arg)
{
	char text[64] = "";

	if (sealane_request_read(q, text, sizeof(text) - 1) == 0)
		return -EACCES;
	return sealane_request_fail(q, 42, text);
}

static int on_later(struct sealane_request *q, void *arg)
{
	struct server *s = arg;

	s->time_left = sealane_request_time_left(q);
	s->later[s->n_later++ % SEALANE_CALLS_MAX] = sealane_request_id(q);
	return SEALANE_REPLY_LATER;
}

/* Calls the caller back, with one less. */
static int on_back(struct sealane_request *q, void *arg)
{
	struct server *s = arg;
	uint32_t n = 0;
	ssize_t r;

	if (sealane_request_read(q, &n, sizeof(n)) != sizeof(n))
		return -EBADMSG;
	s->depth++;
	s->deepest = s->depth > s->deepest ? s->depth : s->deepest;
	if (n > 0) {
		n--;
		r = sealane_call(sealane_request_lane(q), BACK, &n, sizeof(n), &n, sizeof(n), SEALANE_FOREVER);
		if (r < 0) {
			int status;

			sealane_call_error(sealane_request_lane(q), &status);
			s->depth--;
			return r == -SEALANE_E_REMOTE ? status : (int)r;
		}
	}
	s->depth--;
	n++;
	return sealane_request_reply(q, &n, sizeof(n));
}

static int on_stop(struct sealane_request *q, void *arg)
{
	((struct server *)arg)->stop = true;
	return 0;
}

static int on_deaf(struct sealane_request *q, void *arg)
{
	return 0; /* reads nothing of it */
}

static const struct sealane_method methods[] = {
	{ ECHO, "echo", on_echo }, { SUM, "sum", on_sum },    { FAIL, "fail", on_fail }, { LATER, "later", on_later },
	{ BACK, "back", on_back }, { STOP, "stop", on_stop }, { DEAF, "deaf", on_deaf },
};

static void serve_with(struct server *s, struct sealane_lane *lane)
{
	*s = (struct server){ .lane = lane };
	assert_int_equal(sealane_methods(lane, methods, ARRAY_SIZE(methods), s), 0);
}

static void *server_thread(void *arg)
{
	struct server *s = arg;

	while (!s->stop && (s->last = sealane_serve(s->lane, SEALANE_FOREVER)) >= 0)
		;
	return NULL;
}

static void serve_all(struct sealane_lane *lane)
{
	int r;

	while ((r = sealane_serve(lane, SEALANE_NOWAIT)) >= 0)
		;
	assert_int_equal(r, -EAGAIN);
}

static void start_server(pthread_t *ret, struct server *s, struct sealane_lane *lane)
{
	serve_with(s, lane);
	assert_int_equal(pthread_create(ret, NULL, server_thread, s), 0);
}

static void stop_server(pthread_t thread, struct sealane_lane *client)
{
	assert_int_equal(sealane_call(client, STOP, NULL, 0, NULL, 0, SECOND * 10), 0);
	pthread_join(thread, NULL);
}

/* --- calls that go well --- */

static void echo_sizes(enum sealane_wait wait, uint32_t cap_log2)
{
	static const size_t sizes[] = { 0, 1, 32, 64, 992, 993, 1024, 4096, 100000, 1 << 20 };
	struct sealane_lane *l[2];
	struct server s;
	pthread_t t;

	make_pair_as(l, wait, cap_log2);
	start_server(&t, &s, l[1]);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		/* Who only spins holds the CPU for a whole time slice; on a busy machine each piece of a large one may cost that. */
		size_t n = wait == SEALANE_WAIT_SPIN && sizes[i] > 4096 ? 4096 : sizes[i];
		AUTO_FREE(uint8_t) out = malloc(n + 1);
		AUTO_FREE(uint8_t) back = calloc(1, n + 1);

		for (size_t k = 0; k < n; k++)
			out[k] = (uint8_t)(k * 7 + k / 251 + i);
		for (int64_t timeout = SEALANE_FOREVER;; timeout = 10 * SECOND) {
			assert_int_equal(sealane_call(l[0], ECHO, out, n, back, n, timeout), n);
			assert_memory_equal(out, back, n);
			if (timeout > 0)
				break;
		}
	}
	stop_server(t, l[0]);
	assert_int_equal(l[0]->calls->n_pending, 0);
	assert_int_equal(sealane_call_dropped(l[0]), 0);
	close_pair(l);
}

static void test_echo(void **state)
{
	echo_sizes(SEALANE_WAIT_ADAPTIVE, SMALL);
	echo_sizes(SEALANE_WAIT_ADAPTIVE, MEDIUM);
	echo_sizes(SEALANE_WAIT_BLOCK, SMALL);
	echo_sizes(SEALANE_WAIT_SPIN, SMALL);
}

static void test_zero_copy_and_unread(void **state)
{
	static uint8_t big[300000];
	struct sealane_lane *l[2];
	struct server s;
	uint64_t sum = 0;
	pthread_t t;

	make_pair(l, SMALL);
	start_server(&t, &s, l[1]);
	memset(big, 3, sizeof(big));
	assert_int_equal(sealane_call(l[0], SUM, big, sizeof(big), &sum, sizeof(sum), SEALANE_FOREVER), sizeof(sum));
	assert_int_equal(sum, 3 * sizeof(big));
	/* what a handler does not read is dropped, and the next call is found behind it */
	assert_int_equal(sealane_call(l[0], DEAF, big, sizeof(big), NULL, 0, SEALANE_FOREVER), 0);
	assert_int_equal(sealane_call(l[0], SUM, big, 5, &sum, sizeof(sum), SEALANE_FOREVER), sizeof(sum));
	assert_int_equal(sum, 15);
	stop_server(t, l[0]);
	close_pair(l);
}

static void test_errors(void **state)
{
	struct sealane_lane *l[2];
	struct server s;
	char buf[8];
	pthread_t t;
	int status;

	make_pair(l, SMALL);
	start_server(&t, &s, l[1]);
	assert_int_equal(sealane_call(l[0], FAIL, "no\ncredit \x1b[m", 13, NULL, 0, SECOND), -SEALANE_E_REMOTE);
	assert_string_equal(sealane_call_error(l[0], &status), "no credit  [m");
	assert_int_equal(status, 42);
	assert_non_null(strstr(sealane_last_error(), "no credit"));
	assert_int_equal(sealane_call(l[0], FAIL, NULL, 0, buf, sizeof(buf), SECOND), -SEALANE_E_REMOTE);
	assert_string_equal(sealane_call_error(l[0], &status), sealane_strerror(-EACCES));
	assert_int_equal(status, -EACCES);
	assert_int_equal(sealane_call(l[0], 1000, NULL, 0, buf, sizeof(buf), SECOND), -SEALANE_E_REMOTE);
	sealane_call_error(l[0], &status);
	assert_int_equal(status, -ENOSYS);
	assert_int_equal(sealane_call(l[0], ECHO, "123456789", 9, buf, sizeof(buf), SECOND), -EMSGSIZE);
	assert_int_equal(sealane_call(l[0], ECHO, "12345678", 8, buf, sizeof(buf), SECOND), 8);
	assert_int_equal(sealane_call(l[0], ECHO, "x", 1, buf, sizeof(buf), SEALANE_NOWAIT), -EINVAL);
	stop_server(t, l[0]);
	close_pair(l);
}

/* A side that said nothing about methods answers all the same. */
static void test_no_methods(void **state)
{
	struct sealane_lane *l[2];
	uint64_t id;
	int status;

	make_pair(l, SMALL);
	assert_int_equal(sealane_call_begin(l[0], ECHO, "x", 1, NULL, 0, SECOND, &id), 0);
	serve_all(l[1]);
	assert_int_equal(sealane_call_finish(l[0], id, SEALANE_NOWAIT), -SEALANE_E_REMOTE);
	sealane_call_error(l[0], &status);
	assert_int_equal(status, -ENOSYS);
	assert_int_equal(sealane_call_finish(l[0], id, SEALANE_NOWAIT), -ENOENT);
	close_pair(l);
}

/* --- many at once, out of order, later --- */

static void test_many_out_of_order(void **state)
{
	static uint32_t replies[SEALANE_CALLS_MAX];
	static uint64_t ids[SEALANE_CALLS_MAX];
	struct sealane_lane *l[2];
	struct server s;
	uint64_t id;

	make_pair(l, 18);
	serve_with(&s, l[1]);
	for (int round = 0; round < 3; round++) {
		s.n_later = 0;
		for (uint32_t i = 0; i < SEALANE_CALLS_MAX; i++)
			assert_int_equal(sealane_call_begin(l[0], LATER, &i, sizeof(i), &replies[i], 4, SEALANE_FOREVER, &ids[i]), 0);
		assert_int_equal(sealane_call_begin(l[0], LATER, NULL, 0, NULL, 0, SEALANE_FOREVER, &id), -EAGAIN);
		serve_all(l[1]);
		assert_int_equal(s.n_later, SEALANE_CALLS_MAX);
		assert_int_equal(sealane_call_next(l[0], &id, SEALANE_NOWAIT), -EAGAIN);
		for (uint32_t i = 0; i < SEALANE_CALLS_MAX; i++) {
			uint32_t k = (i * 771 + 5) % SEALANE_CALLS_MAX; /* odd: each once */

			assert_int_equal(sealane_reply(l[1], s.later[k], &k, sizeof(k), SEALANE_NOWAIT), 0);
			assert_int_equal(sealane_reply(l[1], s.later[k], &k, sizeof(k), SEALANE_NOWAIT), -ENOENT);
		}
		/* half by name, half as they come */
		for (uint32_t i = 0; i < SEALANE_CALLS_MAX; i += 2)
			assert_int_equal(sealane_call_finish(l[0], ids[i], SEALANE_NOWAIT), 4);
		for (uint32_t i = 0; i < SEALANE_CALLS_MAX; i += 2)
			assert_int_equal(sealane_call_next(l[0], &id, SEALANE_NOWAIT), 4);
		assert_int_equal(sealane_call_next(l[0], &id, SEALANE_NOWAIT), -ENOENT);
		for (uint32_t i = 0; i < SEALANE_CALLS_MAX; i++)
			assert_int_equal(replies[i], i);
	}
	close_pair(l);
}

struct crowd {
	struct sealane_lane *lane;
	unsigned wrong;
	bool ok;
};

enum { CROWD_CALLS = 600, CROWD_BYTES = 1500 };

/* Calls, many at a time, with pieces among them, while it serves the other side's. */
static void *crowd_thread(void *arg)
{
	static __thread uint8_t in[16][CROWD_BYTES], out[CROWD_BYTES];
	struct crowd *c = arg;
	uint64_t ids[16] = { 0 }, id;
	unsigned n_busy = 0;
	int n_begun = 0, n_done = 0, status;

	while (n_done < CROWD_CALLS) {
		int free = -1;
		ssize_t r;

		for (int i = 0; i < 16; i++)
			free = ids[i] == 0 ? i : free;
		if (free >= 0 && n_begun < CROWD_CALLS) {
			memset(out, n_begun, sizeof(out));
			r = sealane_call_begin(c->lane, ECHO, out, n_begun % 7 ? (size_t)(n_begun % CROWD_BYTES) : CROWD_BYTES, in[free],
					       CROWD_BYTES, 20 * SECOND, &ids[free]);
			if (r == 0) {
				n_begun++;
				continue;
			}
			ids[free] = 0;
			if (r != -EAGAIN)
				return NULL;
		}
		r = sealane_call_next(c->lane, &id, 20 * SECOND);
		if (r == -SEALANE_E_REMOTE) {
			sealane_call_error(c->lane, &status);
			if (status != -EBUSY)
				return NULL;
			n_busy++;
		} else if (r == -ENOENT) { /* no room, and no call under way: our own replies are in the way */
			if (sealane_serve(c->lane, MS) < 0)
				continue;
		} else if (r < 0) {
			return NULL;
		}
		for (int i = 0; i < 16; i++)
			if (ids[i] == id && r != -ENOENT) {
				c->wrong += r > 0 && in[i][0] != in[i][r - 1];
				ids[i] = 0;
				n_done++;
			}
	}
	while (sealane_serve(c->lane, SECOND / 2) >= 0)
		;
	c->ok = n_busy < CROWD_CALLS; /* refusing is how a knot is undone, not how work is done */
	return NULL;
}

/* Both sides call each other through rings that are always full. */
static void test_crowd(void **state)
{
	struct sealane_lane *l[2];
	struct crowd c[2];
	struct server s[2];
	pthread_t t[2];

	make_pair(l, SMALL);
	for (int i = 0; i < 2; i++) {
		c[i] = (struct crowd){ .lane = l[i] };
		serve_with(&s[i], l[i]);
	}
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&t[i], NULL, crowd_thread, &c[i]), 0);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	assert_true(c[0].ok);
	assert_true(c[1].ok);
	assert_int_equal(c[0].wrong + c[1].wrong, 0);
	close_pair(l);
}

static void test_call_back(void **state)
{
	struct sealane_lane *l[2];
	struct server s[2];
	uint32_t n = 6;
	pthread_t t;
	int status;

	make_pair(l, SMALL);
	serve_with(&s[0], l[0]);
	start_server(&t, &s[1], l[1]);
	assert_int_equal(sealane_call(l[0], BACK, &n, sizeof(n), &n, sizeof(n), 10 * SECOND), sizeof(n));
	assert_int_equal(n, 7);
	assert_int_equal(s[0].deepest, 3);
	/* without end: refused at a depth that our stack bears */
	n = 1000;
	assert_int_equal(sealane_call(l[0], BACK, &n, sizeof(n), &n, sizeof(n), 10 * SECOND), -SEALANE_E_REMOTE);
	sealane_call_error(l[0], &status);
	assert_int_equal(status, -EBUSY);
	stop_server(t, l[0]);
	assert_true(s[0].deepest <= CALL_DEPTH_MAX && s[1].deepest <= CALL_DEPTH_MAX && s[1].deepest > 4);
	close_pair(l);
}

/* --- deadlines and cancels --- */

static void test_deadline(void **state)
{
	struct sealane_lane *l[2];
	struct server s;
	uint64_t since = clock_ns(), id, id2;
	char buf[16] = "untouched";

	make_pair(l, SMALL);
	serve_with(&s, l[1]);
	assert_int_equal(sealane_call(l[0], LATER, "x", 1, buf, sizeof(buf), 20 * MS), -ETIMEDOUT);
	assert_true(clock_ns() - since >= (uint64_t)(20 * MS) && clock_ns() - since < (uint64_t)(5 * SECOND));
	/* the server sees the call and, behind it, that nobody wants it any more */
	assert_int_equal(sealane_serve(l[1], SEALANE_NOWAIT), 1);
	assert_int_equal(s.time_left, 0);
	assert_int_equal(sealane_reply(l[1], s.later[0], "late", 4, SEALANE_NOWAIT), -ECANCELED);

	assert_int_equal(sealane_call_begin(l[0], LATER, "x", 1, buf, sizeof(buf), SECOND, &id), 0);
	assert_int_equal(sealane_call_begin(l[0], LATER, "x", 1, buf, sizeof(buf), 30 * MS, &id2), 0);
	serve_all(l[1]);
	assert_true(s.time_left > 0 && s.time_left <= 30 * MS);
	assert_int_equal(sealane_call_finish(l[0], id, 5 * MS), -EAGAIN); /* the wait is over, the call is not */
	assert_int_equal(sealane_call_next(l[0], &since, SEALANE_FOREVER), -ETIMEDOUT);
	assert_int_equal(since, id2);
	assert_int_equal(sealane_reply_time_left(l[1], s.later[2]), 0);
	assert_int_equal(sealane_reply(l[1], s.later[1], "in time", 8, SEALANE_NOWAIT), 0);
	assert_int_equal(sealane_call_finish(l[0], id, SEALANE_NOWAIT), 8);
	assert_string_equal(buf, "in time");
	close_pair(l);
}

static void test_cancel(void **state)
{
	struct sealane_lane *l[2];
	char buf[16] = "untouched";
	struct server s;
	uint64_t id;

	make_pair(l, SMALL);
	serve_with(&s, l[1]);
	assert_int_equal(sealane_call_begin(l[0], LATER, "x", 1, buf, sizeof(buf), SEALANE_FOREVER, &id), 0);
	serve_all(l[1]);
	assert_int_equal(s.time_left, SEALANE_FOREVER);
	/* a reply that crosses the cancel is dropped, and the buffer is ours again */
	assert_int_equal(sealane_reply(l[1], s.later[0], "late", 5, SEALANE_NOWAIT), 0);
	assert_int_equal(sealane_call_cancel(l[0], id), 0);
	assert_int_equal(sealane_call_cancel(l[0], id), -ENOENT);
	assert_int_equal(sealane_serve(l[0], SEALANE_NOWAIT), 0);
	assert_int_equal(sealane_call_dropped(l[0]), 1);
	assert_string_equal(buf, "untouched");
	/* a slot that is used again: the call that had it before is over for the server, also if it has not seen the cancel */
	assert_int_equal(sealane_call_begin(l[0], LATER, "x", 1, buf, sizeof(buf), SEALANE_FOREVER, &id), 0);
	serve_all(l[1]);
	assert_int_equal(sealane_call_cancel(l[0], id), 0);
	assert_int_equal(sealane_reply_time_left(l[1], s.later[1]), 0);
	assert_int_equal(sealane_call_begin(l[0], LATER, "x", 1, buf, sizeof(buf), SEALANE_FOREVER, &id), 0);
	serve_all(l[1]);
	assert_int_equal(sealane_reply(l[1], s.later[1], "old", 4, SEALANE_NOWAIT), -ENOENT);
	assert_int_equal(sealane_reply(l[1], s.later[2], "new", 4, SEALANE_NOWAIT), 0);
	assert_int_equal(sealane_call_finish(l[0], id, SEALANE_NOWAIT), 4);
	assert_string_equal(buf, "new");
	close_pair(l);
}

/* Answers without room are owed, not waited for, and not lost. */
static void test_owed(void **state)
{
	static uint64_t ids[SEALANE_CALLS_MAX];
	struct sealane_lane *l[2];
	unsigned n = 0, n_served = 0;
	struct server s;

	make_pair(l, SMALL);
	serve_with(&s, l[1]);
	/* replies to l[0] find no room from the start: other calls fill the ring */
	for (uint64_t id; sealane_call_begin(l[1], ECHO, NULL, 0, NULL, 0, SEALANE_FOREVER, &id) == 0;)
		;
	for (; n < 40; n++)
		assert_int_equal(sealane_call_begin(l[0], FAIL, NULL, 0, NULL, 0, SEALANE_FOREVER, &ids[n]), 0);
	while (sealane_serve(l[1], SEALANE_NOWAIT) >= 0)
		n_served++;
	assert_int_equal(n_served, 1); /* and then it waits for room */
	assert_int_equal(l[1]->calls->n_owed, 1);
	for (unsigned i = 0; i < n; i++)
		for (int r = -EAGAIN; r == -EAGAIN;) {
			r = (int)sealane_call_finish(l[0], ids[i], SEALANE_NOWAIT);
			assert_true(r == -EAGAIN || r == -SEALANE_E_REMOTE);
			while (sealane_serve(l[1], SEALANE_NOWAIT) >= 0)
				;
		}
	assert_int_equal(l[1]->calls->n_owed, 0);
	close_pair(l);
}

/* --- event loops --- */

static bool is_readable(struct sealane_lane *lane)
{
	struct pollfd p = { .fd = sealane_fd(lane), .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}

static void test_event_loop(void **state)
{
	struct sealane_lane *l[2];
	struct server s;
	uint64_t id, got;
	char buf[8];

	make_pair(l, SMALL);
	serve_with(&s, l[1]);
	for (int i = 0; i < 2; i++) {
		assert_true(sealane_fd(l[i]) >= 0);
		serve_all(i ? l[1] : l[0]);
		serve_all(i ? l[1] : l[0]);
		assert_false(is_readable(l[i]));
	}
	assert_int_equal(sealane_call_begin(l[0], ECHO, "hello", 6, buf, sizeof(buf), SECOND, &id), 0);
	assert_int_equal(sealane_call_next(l[0], &got, SEALANE_NOWAIT), -EAGAIN);
	assert_true(is_readable(l[1]));
	serve_all(l[1]);
	assert_false(is_readable(l[1]));
	assert_true(is_readable(l[0]));
	serve_all(l[0]); /* takes the reply */
	assert_int_equal(sealane_call_next(l[0], &got, SEALANE_NOWAIT), 6);
	assert_int_equal(got, id);
	assert_int_equal(sealane_call_next(l[0], &got, SEALANE_NOWAIT), -ENOENT);
	serve_all(l[0]);
	assert_false(is_readable(l[0]));
	close_pair(l);
}

/* --- death --- */

static void test_server_dies(void **state)
{
	struct sealane_lane *l[2];
	uint64_t ids[3], id;
	pid_t pid;
	int got[2];
	char c;

	make_pair(l, SMALL);
	assert_int_equal(pipe(got), 0);
	pid = fork();
	if (pid == 0) {
		struct server s;

		lane_drop(l[0]);
		serve_with(&s, l[1]);
		while (s.n_later < 3 && sealane_serve(l[1], SEALANE_FOREVER) >= 0)
			;
		(void)!sealane_reply(l[1], s.later[1], "b", 1, SEALANE_FOREVER);
		(void)!write(got[1], "", 1);
		pause();
		_exit(0);
	}
	lane_drop(l[1]);
	for (int i = 0; i < 3; i++)
		assert_int_equal(sealane_call_begin(l[0], LATER, "x", 1, &c, 1, SEALANE_FOREVER, &ids[i]), 0);
	assert_int_equal(read(got[0], &c, 1), 1);
	kill(pid, SIGKILL);
	/* what it said before it died counts */
	assert_int_equal(sealane_call_finish(l[0], ids[1], SEALANE_FOREVER), 1);
	assert_int_equal(sealane_call_finish(l[0], ids[2], SEALANE_FOREVER), -ENODATA);
	assert_int_equal(sealane_call_next(l[0], &id, SEALANE_FOREVER), -ENODATA);
	assert_int_equal(id, ids[0]);
	assert_true(sealane_call(l[0], ECHO, "x", 1, &c, 1, SEALANE_FOREVER) < 0);
	sealane_close(l[0]);
	waitpid(pid, NULL, 0);
	close(got[0]);
	close(got[1]);
}

/* --- peers that lie --- */

/* One record as a hostile peer would write it. */
static void inject(struct sealane_lane *lane, uint8_t tag, const struct call_head *head, size_t size, uint8_t flags)
{
	void *place;

	assert_int_equal(sealane_guard_open(lane), 0);
	assert_int_equal(lane_reserve(lane, size, &place, SEALANE_NOWAIT), 0);
	memset(place, 'x', size);
	memcpy(place, head, size < sizeof(*head) ? size : sizeof(*head));
	lane_stage(lane, (uint32_t)size, flags, tag);
	lane_flush(lane);
	sealane_guard_close(lane);
}

static void test_wrong_replies_are_dropped(void **state)
{
	struct sealane_lane *l[2];
	char buf[8] = "";
	uint64_t id;

	make_pair(l, SMALL);
	assert_int_equal(sealane_call_begin(l[0], ECHO, "x", 1, buf, sizeof(buf), SEALANE_FOREVER, &id), 0);
	const uint64_t wrong[] = { 0, id + 1, id + CALL_SLOTS, id - CALL_SLOTS, UINT64_MAX };

	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct call_head head = { .id = wrong[i], .size = 1 };

		inject(l[1], LANE_TAG_REPLY, &head, sizeof(head) + 1, 0);
		assert_int_equal(sealane_call_finish(l[0], id, SEALANE_NOWAIT), -EAGAIN);
	}
	assert_int_equal(sealane_call_dropped(l[0]), ARRAY_SIZE(wrong));
	/* cancels and replies of nothing, to one that never called */
	inject(l[0], LANE_TAG_CANCEL, &(struct call_head){ .id = 77 }, sizeof(struct call_head), 0);
	inject(l[0], LANE_TAG_REPLY, &(struct call_head){ .id = 77 }, sizeof(struct call_head), 0);
	struct server s;

	serve_with(&s, l[1]);
	serve_all(l[1]);
	assert_int_equal(sealane_call_finish(l[0], id, SEALANE_NOWAIT), 1);
	/* the same reply again */
	inject(l[1], LANE_TAG_REPLY, &(struct call_head){ .id = id, .size = 1 }, sizeof(struct call_head) + 1, 0);
	assert_int_equal(sealane_serve(l[0], SEALANE_NOWAIT), 0);
	assert_int_equal(sealane_call_dropped(l[0]), ARRAY_SIZE(wrong) + 1);
	close_pair(l);
}

struct lie {
	uint8_t tag;
	uint64_t told; /* payload bytes in the head */
	size_t size;   /* of the record */
	uint8_t flags;
	uint8_t then;  /* tag of a second record, with no bytes and no flags; 0: none */
};

static const struct lie lies[] = {
	{ LANE_TAG_REPLY, 0, 31, 0, 0 },
	{ LANE_TAG_CALL, 0, 0, 0, 0 },
	{ LANE_TAG_CANCEL, 0, 8, 0, 0 },
	{ LANE_TAG_CANCEL, 4, 36, 0, 0 },
	{ LANE_TAG_REPLY, 3, 36, 0, 0 },	    /* more than told */
	{ LANE_TAG_REPLY, 5, 36, 0, 0 },	    /* less */
	{ LANE_TAG_CALL, UINT64_MAX, 36, RING_MORE, 0 },
	{ LANE_TAG_REPLY, SEALANE_MESSAGE_MAX + 1, 36, RING_MORE, 0 },
	{ LANE_TAG_REPLY, 100, 36, RING_MORE, LANE_TAG_REPLY }, /* ends early */
	{ LANE_TAG_REPLY, 100, 36, RING_MORE, LANE_TAG_CALL },
	{ LANE_TAG_CALL, 100, 36, RING_MORE, LANE_TAG_CANCEL },
	{ LANE_TAG_PLAIN, 0, 40, 0, 0 },
	{ LANE_TAG_N, 0, 40, 0, 0 },
	{ 255, 0, 40, 0, 0 },
};

static void test_lies_poison(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		struct sealane_lane *l[2];
		struct call_head head = { .method = DEAF, .size = lies[i].told, .left_ns = UINT64_MAX };
		struct server s;
		char buf[8];

		make_pair(l, SMALL);
		serve_with(&s, l[0]);
		assert_int_equal(sealane_call_begin(l[0], ECHO, "x", 1, buf, sizeof(buf), SEALANE_FOREVER, &head.id), 0);
		inject(l[1], lies[i].tag, &head, lies[i].size, lies[i].flags);
		if (lies[i].then)
			inject(l[1], lies[i].then, &head, 0, 0);
		assert_int_equal(sealane_call_finish(l[0], head.id, SECOND), -SEALANE_E_PROTOCOL);
		assert_int_equal(sealane_call(l[0], ECHO, "x", 1, buf, sizeof(buf), SECOND), -SEALANE_E_PROTOCOL);
		close_pair(l);
	}
}

/* Pieces that bring nothing, without end: the handler that reads them is not kept. */
static void test_empty_piece_poisons(void **state)
{
	struct call_head head = { .id = 1, .method = ECHO, .size = 100, .left_ns = UINT64_MAX };
	struct sealane_lane *l[2];
	struct server s;

	make_pair(l, SMALL);
	serve_with(&s, l[0]);
	inject(l[1], LANE_TAG_CALL, &head, sizeof(head) + 4, RING_MORE);
	for (int i = 0; i < 3; i++)
		inject(l[1], LANE_TAG_CALL, &head, 0, RING_MORE);
	(void)!sealane_serve(l[0], SECOND); /* the handler's own view of it */
	assert_int_equal(sealane_serve(l[0], SECOND), -SEALANE_E_PROTOCOL);
	close_pair(l);
}

/* Replies and cancels without end: a call with a deadline still ends, and one that does not wait comes back. */
static void *flood_thread(void *arg)
{
	struct sealane_lane *lane = arg;
	void *place;

	assert(sealane_guard_open(lane) == 0); /* it writes from outside a call */
	while (lane_reserve(lane, sizeof(struct call_head), &place, SECOND) == 0) {
		*(struct call_head *)place = (struct call_head){ .id = 3 };
		lane_stage(lane, sizeof(struct call_head), 0, lane->tx.index % 2 ? LANE_TAG_REPLY : LANE_TAG_CANCEL);
		lane_flush(lane);
	}
	sealane_guard_close(lane);
	return NULL;
}

static void test_flood(void **state)
{
	struct sealane_lane *l[2];
	pthread_t t;
	uint64_t id;
	char c;

	make_pair(l, MEDIUM);
	assert_int_equal(pthread_create(&t, NULL, flood_thread, l[1]), 0);
	assert_int_equal(sealane_call(l[0], ECHO, "x", 1, &c, 1, 50 * MS), -ETIMEDOUT);
	assert_int_equal(sealane_call_begin(l[0], ECHO, "x", 1, &c, 1, SEALANE_FOREVER, &id), 0);
	assert_int_equal(sealane_call_finish(l[0], id, SEALANE_NOWAIT), -EAGAIN);
	assert_int_equal(sealane_call_next(l[0], &id, MS), -EAGAIN);
	assert_true(sealane_call_dropped(l[0]) > 0);
	sealane_close(l[0]);
	pthread_join(t, NULL);
	sealane_close(l[1]);
}

/* One id for all calls: the peer loses its own answers, nobody else anything. */
static void test_ids_collide(void **state)
{
	struct call_head head = { .id = 5, .method = LATER, .left_ns = 1 };
	struct sealane_lane *l[2];
	struct server s;

	make_pair(l, SMALL);
	serve_with(&s, l[1]);
	for (int i = 0; i < 3; i++) {
		inject(l[0], LANE_TAG_CALL, &head, sizeof(head), 0);
		head.id += i ? CALL_SLOTS : 0;
	}
	serve_all(l[1]);
	assert_int_equal(s.n_later, 3);
	assert_int_equal(sealane_reply(l[1], s.later[0], NULL, 0, SEALANE_NOWAIT), -ENOENT);
	assert_int_equal(sealane_reply(l[1], s.later[2], NULL, 0, SEALANE_NOWAIT), 0);
	assert_int_equal(sealane_reply(l[1], s.later[2], NULL, 0, SEALANE_NOWAIT), -ENOENT);
	close_pair(l);
}

static void test_wrong_kind(void **state)
{
	const enum sealane_wait both[2] = { SEALANE_WAIT_ADAPTIVE, SEALANE_WAIT_ADAPTIVE };
	struct sealane_lane *l[2];
	uint64_t id;

	assert_int_equal(lane_pair(l, SEALANE_STREAM, both, SMALL, 0), 0);
	assert_int_equal(sealane_call(l[0], 1, NULL, 0, NULL, 0, 1), -EPROTOTYPE);
	assert_int_equal(sealane_call_begin(l[0], 1, NULL, 0, NULL, 0, 1, &id), -EPROTOTYPE);
	assert_int_equal(sealane_call_next(l[0], &id, 0), -ENOENT);
	assert_int_equal(sealane_serve(l[0], 0), -EPROTOTYPE);
	close_pair(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_echo),	       cmocka_unit_test(test_zero_copy_and_unread),
		cmocka_unit_test(test_errors),	       cmocka_unit_test(test_no_methods),
		cmocka_unit_test(test_many_out_of_order), cmocka_unit_test(test_crowd),
		cmocka_unit_test(test_call_back),      cmocka_unit_test(test_deadline),
		cmocka_unit_test(test_cancel),	       cmocka_unit_test(test_owed),
		cmocka_unit_test(test_event_loop),     cmocka_unit_test(test_server_dies),
		cmocka_unit_test(test_wrong_replies_are_dropped), cmocka_unit_test(test_lies_poison), cmocka_unit_test(test_empty_piece_poisons),
		cmocka_unit_test(test_flood),	       cmocka_unit_test(test_ids_collide),
		cmocka_unit_test(test_wrong_kind),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
