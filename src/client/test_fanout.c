/* Fan-out without a daemon: readers in this thread, in others, in children that are slow, die, or lie; and publishers that lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "client/fanout.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define MS INT64_C(1000000)
#define SECOND (1000 * MS)

enum { SMALL = 12, MEDIUM = 16, MESSAGE = 1024 };

/* A message says its number and is filled with what follows from it, so that a torn one is seen. */
static size_t fill(uint8_t *buf, uint64_t number, size_t size)
{
	memcpy(buf, &number, sizeof(number));
	for (size_t i = sizeof(number); i < size; i++)
		buf[i] = (uint8_t)(number * 31 + i);
	return size;
}

static bool is_whole(const uint8_t *buf, ssize_t size, uint64_t *ret_number)
{
	*ret_number = 0;
	if (size < (ssize_t)sizeof(*ret_number))
		return false;
	memcpy(ret_number, buf, sizeof(*ret_number));
	for (size_t i = sizeof(*ret_number); i < (size_t)size; i++)
		if (buf[i] != (uint8_t)(*ret_number * 31 + i))
			return false;
	return true;
}

static size_t size_of(uint64_t number)
{
	return 8 + (number * 2654435761u >> 7) % (MESSAGE - 8 + 1);
}

static void publish(struct sealane_publisher *p, uint64_t number)
{
	uint8_t buf[MESSAGE];

	assert_int_equal(sealane_publish(p, buf, fill(buf, number, size_of(number))), 0);
}

static void expect(struct sealane_subscriber *s, uint64_t number, uint64_t missed)
{
	uint64_t got_missed, got;
	uint8_t buf[MESSAGE];
	ssize_t n = sealane_next(s, buf, sizeof(buf), &got_missed, SEALANE_NOWAIT);

	assert_true(is_whole(buf, n, &got));
	assert_int_equal(got, number);
	assert_int_equal(n, size_of(number));
	assert_int_equal(got_missed, missed);
}

static void expect_nothing(struct sealane_subscriber *s, int error)
{
	uint64_t missed = 77;
	uint8_t buf[MESSAGE];

	assert_int_equal(sealane_next(s, buf, sizeof(buf), &missed, SEALANE_NOWAIT), error);
	assert_int_equal(missed, 0);
}

static struct sealane_publisher *make(uint32_t cap_log2, uint64_t start)
{
	struct sealane_publisher *p;

	assert_int_equal(publisher_make(&p, cap_log2, start), 0);
	return p;
}

static struct sealane_subscriber *join(struct sealane_publisher *p, enum sealane_wait wait)
{
	struct sealane_subscriber *s;

	assert_int_equal(publisher_join(p, &s, wait), 0);
	return s;
}

static struct sealane_subscriber *join_any(struct sealane_publisher *p)
{
	return join(p, SEALANE_WAIT_ADAPTIVE);
}

/* --- in order --- */

static void test_each_gets_all(void **state)
{
	static const uint64_t starts[] = { 0, UINT64_C(65534) * 64 - 3, (UINT64_C(1) << 38) - 100 };

	for (size_t k = 0; k < ARRAY_SIZE(starts); k++) {
		struct sealane_publisher *p = make(SMALL, starts[k]);
		struct sealane_subscriber *a = join_any(p), *b = join_any(p);

		expect_nothing(a, -EAGAIN);
		for (uint64_t i = 0; i < 5000; i++) {
			publish(p, i);
			expect(a, i, 0);
			expect(b, i, 0);
			expect_nothing(a, -EAGAIN);
		}
		sealane_subscriber_close(a);
		assert_int_equal(sealane_publisher_poll(p), 1);
		sealane_publisher_close(p);
		expect_nothing(b, -ENODATA);
		expect_nothing(b, -ENODATA);
		sealane_subscriber_close(b);
	}
}

static void test_late_starts_at_newest(void **state)
{
	struct sealane_publisher *p = make(SMALL, 5);
	struct sealane_subscriber *s;

	for (uint64_t i = 0; i < 1000; i++)
		publish(p, i);
	s = join_any(p);
	expect(s, 999, 0);
	expect_nothing(s, -EAGAIN);
	publish(p, 1000);
	expect(s, 1000, 0);
	/* also when it has ended; and one that was overtaken then */
	for (uint64_t i = 1001; i < 2000; i++)
		publish(p, i);
	assert_int_equal(fan_tx_stage(&p->tx, "", 0, RING_FIN), 0);
	sealane_publish_flush(p);
	expect(s, 1999, 998);
	expect_nothing(s, -ENODATA);
	sealane_subscriber_close(s);
	s = join_any(p);
	expect(s, 1999, 0);
	expect_nothing(s, -ENODATA);
	sealane_subscriber_close(s);
	publisher_drop(p);
}

static void test_sizes(void **state)
{
	struct sealane_publisher *p = make(SMALL, 0);
	struct sealane_subscriber *s = join_any(p);
	static uint8_t big[MESSAGE + 1], buf[MESSAGE];
	uint64_t missed;

	assert_int_equal(sealane_publish_max(p), MESSAGE);
	assert_int_equal(sealane_publish(p, big, MESSAGE + 1), -EMSGSIZE);
	for (size_t n = 0; n <= MESSAGE; n++) {
		for (size_t i = 0; i < n; i++)
			big[i] = (uint8_t)(i + n);
		assert_int_equal(sealane_publish(p, big, n), 0);
		memset(buf, 0xee, sizeof(buf));
		assert_int_equal(sealane_next(s, buf, n, &missed, 0), n);
		assert_memory_equal(buf, big, n);
		assert_true(n == MESSAGE || buf[n] == 0xee);
	}
	/* one too large for the buffer is skipped */
	assert_int_equal(sealane_publish(p, big, 100), 0);
	publish(p, 7);
	assert_int_equal(sealane_next(s, buf, 99, &missed, 0), -EMSGSIZE);
	expect(s, 7, 0);
	sealane_subscriber_close(s);
	sealane_publisher_close(p);
}

static void test_batches(void **state)
{
	struct sealane_publisher *p = make(SMALL, 0);
	struct sealane_subscriber *s = join_any(p);
	uint8_t buf[64];

	for (uint64_t i = 0; i < 16; i++)
		assert_int_equal(sealane_publish_stage(p, buf, fill(buf, i, 8)), 0);
	expect_nothing(s, -EAGAIN);
	sealane_publish_flush(p);
	for (uint64_t i = 0, got; i < 16; i++) {
		assert_int_equal(sealane_next(s, buf, sizeof(buf), NULL, 0), 8);
		assert_true(is_whole(buf, 8, &got) && got == i);
	}
	/* a quarter of the ring is 16 of them: the rest comes at the latest with the 17th */
	for (uint64_t i = 0; i < 17; i++)
		assert_int_equal(sealane_publish_stage(p, buf, fill(buf, i, 8)), 0);
	for (uint64_t i = 0; i < 16; i++)
		assert_int_equal(sealane_next(s, buf, sizeof(buf), NULL, 0), 8);
	expect_nothing(s, -EAGAIN);
	sealane_publisher_close(p);
	assert_int_equal(sealane_next(s, buf, sizeof(buf), NULL, 0), 8);
	expect_nothing(s, -ENODATA);
	sealane_subscriber_close(s);
}

/* --- too slow --- */

static void test_missed(void **state)
{
	struct sealane_publisher *p = make(SMALL, UINT64_C(65534) * 64 - 3);
	struct sealane_subscriber *s = join_any(p), *t = join_any(p);
	uint64_t number = 0, read = 0, missed, got;
	uint8_t buf[MESSAGE];

	for (int round = 0; round < 2000; round++) {
		for (int i = 0; i < round % 40 + 1; i++)
			publish(p, number++);
		assert_true(is_whole(buf, sealane_next(s, buf, sizeof(buf), &missed, 0), &got));
		assert_int_equal(got, read + missed);
		assert_true(missed == 0 || got == number - 1);
		read = got + 1;
	}
	/* who does not ask for the number is told in its own way, once */
	assert_int_equal(sealane_next(t, buf, sizeof(buf), NULL, 0), -SEALANE_E_MISSED);
	assert_true(is_whole(buf, sealane_next(t, buf, sizeof(buf), NULL, 0), &got));
	assert_int_equal(got, number - 1);
	sealane_subscriber_close(s);
	sealane_subscriber_close(t);
	sealane_publisher_close(p);
}

/* Stopped for as long as it takes the lap in the descriptors to come round. */
static void test_laps_come_round(void **state)
{
	struct sealane_publisher *p = make(SMALL, 0);
	struct sealane_subscriber *s[3];
	uint64_t missed, got, n = UINT64_C(64) * 65536, at[3];
	uint8_t buf[64];

	for (uint64_t i = 0; i < n + 64; i++) {
		/* to meet: a descriptor that seems to be next; one that seems not to be there yet; one of another lap */
		if (i == 64 || i == 20 || i == 127) {
			size_t k = i == 64 ? 0 : i == 20 ? 1 : 2;

			s[k] = join_any(p);
			at[k] = i - 1;
		}
		assert_int_equal(sealane_publish(p, buf, fill(buf, i, 8)), 0);
	}
	for (int k = 0; k < 3; k++) {
		assert_int_equal(sealane_next(s[k], buf, sizeof(buf), &missed, 0), 8);
		assert_true(is_whole(buf, 8, &got));
		assert_int_equal(got, n + 63);
		assert_int_equal(missed, n + 63 - at[k]);
		sealane_subscriber_close(s[k]);
	}
	sealane_publisher_close(p);
}

/* --- threads: one writer as fast as it can, four readers --- */

enum { N_READERS = 4, N_FAST = 60000 };

struct reader {
	struct sealane_subscriber *s;
	unsigned nap_us;
	uint64_t n_read, n_missed;
	int end;
};

static void read_all(struct reader *r)
{
	uint64_t next = 0, missed, got;
	uint8_t buf[MESSAGE];

	for (;;) {
		ssize_t n = sealane_next(r->s, buf, sizeof(buf), &missed, 30 * SECOND);

		r->n_missed += missed;
		next += missed;
		if (n == -SEALANE_E_MISSED)
			continue;
		r->end = n < 0 ? (int)n : 0;
		if (n < 0)
			break;
		if (!is_whole(buf, n, &got) || got != next || n != (ssize_t)size_of(got)) {
			r->end = -EBADMSG;
			break;
		}
		next++;
		r->n_read++;
		if (r->nap_us)
			usleep(r->nap_us);
	}
}

static void *reader_thread(void *arg)
{
	read_all(arg);
	return NULL;
}

static void run_threads(uint32_t cap_log2, enum sealane_wait wait, uint64_t n)
{
	struct sealane_publisher *p = make(cap_log2, 0);
	struct reader readers[N_READERS];
	pthread_t threads[N_READERS];
	uint8_t buf[MESSAGE];

	for (unsigned i = 0; i < N_READERS; i++) {
		struct ring_rx *rx;

		readers[i] = (struct reader){ .s = join(p, wait), .nap_us = i == 0 ? 500 : 0 };
		/* through the publisher's own mapping, or TSan would see two memories */
		rx = &readers[i].s->lane->rx;
		if (!readers[i].s->lane->domain->key)
			ring_rx_init(rx, rx->own, p->region.base, cap_log2, 0);
		assert_int_equal(pthread_create(&threads[i], NULL, reader_thread, &readers[i]), 0);
	}
	for (uint64_t i = 0; i < n; i++) {
		assert_int_equal(sealane_publish_stage(p, buf, fill(buf, i, size_of(i))), 0);
		if (i % 3 == 0)
			sealane_publish_flush(p);
		if (i % 1000 == 0) /* now and then the readers get so far that they sleep */
			usleep(300);
	}
	/* not close: the mapping must stay until the readers have seen the end */
	sealane_publish_flush(p);
	assert_int_equal(sealane_guard_open(p->readers[0].lane), 0);
	assert_int_equal(fan_tx_stage(&p->tx, "", 0, RING_FIN), 0);
	sealane_publish_flush(p);
	sealane_guard_close(p->readers[0].lane);
	for (unsigned i = 0; i < N_READERS; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(readers[i].end, -ENODATA);
		assert_true(readers[i].n_read > 0);
		assert_true(readers[i].n_read + readers[i].n_missed == n);
		sealane_subscriber_close(readers[i].s);
	}
	sealane_publisher_close(p);
}

static void test_threads(void **state)
{
	run_threads(SMALL, SEALANE_WAIT_ADAPTIVE, N_FAST);
	run_threads(18, SEALANE_WAIT_ADAPTIVE, N_FAST);
	run_threads(MEDIUM, SEALANE_WAIT_BLOCK, N_FAST / 2);
}

/* --- processes: a good reader, a slow one, one that is killed, one that scribbles --- */

static void be_hostile(struct sealane_subscriber *s)
{
	struct ring_control *own = s->lane->own.base;
	uint32_t seed = 1;

	alarm(60);
	(void)!sealane_guard_open(s->lane);
	for (;;) {
		for (size_t i = 0; i < s->lane->own.size / 4; i++)
			((volatile uint32_t *)own)[i] = seed = seed * 1664525 + 1013904223;
		for (uint32_t i = 0; i < 10000; i++)
			atomic_store(&own->data_waiter, i);
	}
}

static void child(struct sealane_publisher *p, struct sealane_subscriber *s[N_READERS], unsigned me)
{
	struct reader r = { .s = s[me], .nap_us = me == 1 ? 2000 : 0 };

	publisher_drop(p);
	for (unsigned i = 0; i < N_READERS; i++)
		if (i != me)
			subscriber_drop(s[i]);
	alarm(60);
	if (me == 3)
		be_hostile(s[me]);
	read_all(&r);
	_exit(r.end == -ENODATA && r.n_read > 0 && r.n_read + r.n_missed == 20000 ? 0 : 1);
}

static void test_bad_readers(void **state)
{
	struct sealane_publisher *p = make(MEDIUM, 0);
	struct sealane_subscriber *s[N_READERS];
	pid_t pids[N_READERS];
	int status;

	for (unsigned i = 0; i < N_READERS; i++)
		s[i] = join(p, i == 2 ? SEALANE_WAIT_BLOCK : SEALANE_WAIT_ADAPTIVE);
	for (unsigned i = 0; i < N_READERS; i++) {
		pids[i] = fork();
		if (pids[i] == 0)
			child(p, s, i);
	}
	for (unsigned i = 0; i < N_READERS; i++)
		subscriber_drop(s[i]);
	for (uint64_t i = 0; i < 20000; i++) {
		uint64_t since = clock_ns();

		publish(p, i);
		assert_true(clock_ns() - since < (uint64_t)SECOND * 5); /* a loaded machine, not a reader */
		if (i == 10000)
			kill(pids[2], SIGKILL);
		if (i % 500 == 0)
			usleep(2000);
	}
	waitpid(pids[2], &status, 0);
	assert_int_equal(sealane_publisher_poll(p), 3);
	sealane_publisher_close(p);
	for (unsigned i = 0; i < 2; i++) {
		waitpid(pids[i], &status, 0);
		assert_int_equal(status, 0);
	}
	kill(pids[3], SIGKILL);
	waitpid(pids[3], &status, 0);
}

/* One that rings the publisher's bell breaks the rules: it is forgotten, and rings at nobody. */
static void test_ringing_reader(void **state)
{
	struct sealane_publisher *p = make(SMALL, 0);
	struct sealane_subscriber *s = join_any(p), *t = join_any(p);

	assert_int_equal(sealane_publisher_poll(p), 2);
	assert_int_equal(send(s->lane->bell, "xxxx", 4, 0), 4);
	assert_int_equal(sealane_publisher_poll(p), 1);
	publish(p, 1);
	expect(t, 1, 0);
	expect(s, 1, 0);
	expect_nothing(s, -ENODATA);
	sealane_subscriber_close(s);
	sealane_subscriber_close(t);
	assert_int_equal(sealane_publisher_poll(p), 0);
	sealane_publisher_close(p);
}

/* --- waking --- */

static void *late_publisher(void *arg)
{
	usleep(60000); /* longer than the futex's sleep: the reader is on the bell */
	publish(arg, 1);
	usleep(3000);
	publish(arg, 2);
	return NULL;
}

static void test_wakes(void **state)
{
	for (int wait = SEALANE_WAIT_ADAPTIVE; wait <= SEALANE_WAIT_BLOCK; wait++) {
		struct sealane_publisher *p = make(SMALL, 0);
		struct sealane_subscriber *s = join(p, (enum sealane_wait)wait);
		uint8_t buf[MESSAGE];
		uint64_t got, missed;
		pthread_t t;

		assert_int_equal(sealane_next(s, buf, sizeof(buf), &missed, 5 * MS), -ETIMEDOUT);
		assert_int_equal(pthread_create(&t, NULL, late_publisher, p), 0);
		for (uint64_t i = 1; i <= 2; i++) {
			assert_true(is_whole(buf, sealane_next(s, buf, sizeof(buf), &missed, 20 * SECOND), &got));
			assert_int_equal(got, i);
		}
		pthread_join(t, NULL);
		sealane_subscriber_close(s);
		sealane_publisher_close(p);
	}
}

static bool is_readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}

static void test_event_loop(void **state)
{
	struct sealane_publisher *p = make(SMALL, 0);
	struct sealane_subscriber *s = join_any(p);

	assert_true(sealane_subscriber_fd(s) >= 0);
	expect_nothing(s, -EAGAIN);
	expect_nothing(s, -EAGAIN);
	assert_false(is_readable(sealane_subscriber_fd(s)));
	assert_false(is_readable(sealane_publisher_fd(p)));
	publish(p, 0);
	assert_true(is_readable(sealane_subscriber_fd(s)));
	expect(s, 0, 0);
	expect_nothing(s, -EAGAIN);
	assert_false(is_readable(sealane_subscriber_fd(s)));
	/* one wake-up for each sleep, however much is published */
	for (uint64_t i = 1; i < 5; i++)
		publish(p, i);
	assert_int_equal(recv(s->lane->bell, (char[8]){ 0 }, 8, MSG_PEEK | MSG_DONTWAIT), 1);
	for (uint64_t i = 1; i < 5; i++)
		expect(s, i, 0);
	expect_nothing(s, -EAGAIN);
	sealane_publisher_close(p);
	assert_true(is_readable(sealane_subscriber_fd(s)));
	expect_nothing(s, -ENODATA);
	sealane_subscriber_close(s);

	p = make(SMALL, 0);
	s = join_any(p);
	sealane_subscriber_close(s);
	assert_true(is_readable(sealane_publisher_fd(p)));
	assert_int_equal(sealane_publisher_poll(p), 0);
	assert_false(is_readable(sealane_publisher_fd(p)));
	sealane_publisher_close(p);
}

/* --- publishers that die or lie --- */

static void test_publisher_dies(void **state)
{
	struct sealane_publisher *p = make(SMALL, 0);
	struct sealane_subscriber *s = join_any(p);
	uint8_t buf[MESSAGE];
	uint64_t missed, got;
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		subscriber_drop(s);
		for (uint64_t i = 0; i < 3; i++)
			publish(p, i);
		raise(SIGKILL);
	}
	publisher_drop(p);
	for (uint64_t i = 0; i < 3; i++) {
		assert_true(is_whole(buf, sealane_next(s, buf, sizeof(buf), &missed, SEALANE_FOREVER), &got));
		assert_int_equal(got, i);
	}
	assert_int_equal(sealane_next(s, buf, sizeof(buf), &missed, SEALANE_FOREVER), -ENODATA);
	waitpid(pid, &status, 0);
	sealane_subscriber_close(s);
}

/* The words that a reader looks at, one after the other and all together, with all that can be wrong in them. */
static void lie(struct sealane_publisher *p, unsigned which, uint64_t value)
{
	struct ring_control *own = p->region.base;
	size_t n = p->tx.desc_mask + 1;

	switch (which) {
	case 0:
		atomic_store(&own->claim, value);
		return;
	case 1:
		atomic_store(&own->newest, value);
		return;
	case 2:
		atomic_store(&p->tx.descs[value % n], value);
		return;
	case 3: /* what seems to be next, with a lap that fits */
		for (size_t i = 0; i < n; i++)
			atomic_store(&p->tx.descs[i], (value & 0xffffffffffff) | (atomic_load(&p->tx.descs[i]) >> 48) << 48);
		return;
	default:
		atomic_store(&own->data_seq, (uint32_t)value);
		atomic_store(&own->space_waiter, (uint32_t)value);
		atomic_store(&own->space_seq, (uint32_t)(value >> 32));
		atomic_store(&own->head, value);
		atomic_store(&own->read_shut, (uint32_t)value);
		own->cap_log2 = (uint32_t)value;
	}
}

static uint64_t random_word(uint64_t *seed)
{
	uint64_t x = *seed = *seed * 6364136223846793005u + 1442695040888963407u;

	x ^= x >> 29;
	switch (x % 5) {
	case 0:
		return 0;
	case 1:
		return UINT64_MAX;
	case 2:
		return UINT64_C(1) << (x >> 58);
	case 3:
		return x >> (x >> 58);
	default:
		return x;
	}
}

static void test_lying_publisher(void **state)
{
	unsigned n_poisoned = 0, n_got = 0;
	uint64_t seed = 42;

	for (unsigned round = 0; round < 3000; round++) {
		struct sealane_publisher *p = make(SMALL, 0);
		struct sealane_subscriber *s = join_any(p);
		uint8_t buf[MESSAGE + 16];
		bool over = false;

		for (unsigned i = 0; i < 40 && !over; i++) {
			uint64_t missed;
			ssize_t r;

			publish(p, i);
			if (i % 4 == 3) {
				assert_int_equal(sealane_guard_open(p->readers[0].lane), 0);
				lie(p, round % 6 == 5 ? (unsigned)(random_word(&seed) % 5) : round % 6, random_word(&seed));
				sealane_guard_close(p->readers[0].lane);
			}
			memset(buf + MESSAGE, 0x5a, 16);
			r = sealane_next(s, buf, MESSAGE, &missed, i % 2 ? SEALANE_NOWAIT : MS / 100);
			over = r == -SEALANE_E_PROTOCOL;
			n_poisoned += over;
			n_got += r >= 0;
			assert_true(r <= MESSAGE && buf[MESSAGE] == 0x5a);
			assert_true(r >= 0 || over || r == -EAGAIN || r == -ETIMEDOUT || r == -SEALANE_E_MISSED || r == -ENODATA);
		}
		assert_true(!over || sealane_next(s, buf, MESSAGE, NULL, 0) == -SEALANE_E_PROTOCOL);
		sealane_subscriber_close(s);
		publisher_drop(p);
	}
	assert_true(n_poisoned > 100 && n_got > 10000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_gets_all),  cmocka_unit_test(test_late_starts_at_newest),
		cmocka_unit_test(test_sizes),	       cmocka_unit_test(test_batches),
		cmocka_unit_test(test_missed),	       cmocka_unit_test(test_laps_come_round),
		cmocka_unit_test(test_threads),	       cmocka_unit_test(test_bad_readers),
		cmocka_unit_test(test_ringing_reader), cmocka_unit_test(test_wakes),
		cmocka_unit_test(test_event_loop),     cmocka_unit_test(test_publisher_dies),
		cmocka_unit_test(test_lying_publisher),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
