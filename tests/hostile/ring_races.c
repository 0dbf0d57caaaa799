/*
 * A malicious peer that changes its words while the victim looks at them: one thread writes without end, through the peer's own
 * mapping; the victim reads through its own, read-only. A word that were loaded twice, once to check it and once to use it, would
 * sooner or later differ between the two: then what is used is out of range, which is looked for here and by ASan.
 *
 * And the floods: a peer that always seems to sleep, or always wakes. They may cost the victim at most one system call for each
 * that it publishes, and must not keep it from its deadline.
 */
#include "shm/test_pair.h"

#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <cmocka.h>

enum { CAP_LOG2 = 12, CAP = 1 << CAP_LOG2, N_DESCS = CAP / 64, MAX = CAP / 4 };
#define RUN_NS (UINT64_C(400) * 1000000)

static struct pair_end g_end[2];
static struct pair_end *const victim = &g_end[0];
static _Atomic bool g_stop;
static _Atomic uint64_t g_victim_index, g_victim_tail;

static struct ring_control *evil(void)
{
	return g_end[1].own.base;
}

static _Atomic uint64_t *evil_desc(uint64_t index)
{
	return (_Atomic uint64_t *)((uint8_t *)evil() + SHM_PAGE) + index % N_DESCS;
}

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static pthread_t start(void *(*attack)(void *))
{
	pthread_t thread;

	pair_make(g_end, CAP_LOG2, 0, false);
	atomic_store(&g_stop, false);
	atomic_store(&g_victim_index, 0);
	atomic_store(&g_victim_tail, 0);
	assert_int_equal(pthread_create(&thread, NULL, attack, NULL), 0);
	return thread;
}

/* Until the time has passed, and what was to be tried was tried: the machine may be busy. */
static bool going_on(uint64_t since_ns, bool tried)
{
	static unsigned n;
	uint64_t now = clock_ns();

	if (++n % 64 == 0)
		sched_yield();
	return now < since_ns + RUN_NS || (!tried && now < since_ns + 50 * RUN_NS);
}

static void stop(pthread_t thread)
{
	atomic_store(&g_stop, true);
	pthread_join(thread, NULL);
	pair_drop(g_end);
}

/* --- descriptors --- */

/* The next descriptor: valid and small, valid and large, too large, not there, by turns. */
static void *flip_descriptor(void *arg)
{
	uint64_t seed = 88172645463325252u;

	while (!atomic_load_explicit(&g_stop, memory_order_relaxed)) {
		uint64_t index = atomic_load_explicit(&g_victim_index, memory_order_relaxed), lap = (index / N_DESCS + 1) & 0xffff;
		const uint64_t words[] = { 1, MAX, UINT32_MAX, MAX + 1, 0x80000000u, (uint64_t)RING_FIN << 32, UINT64_C(0xf0) << 32 };

		for (int i = 0; i < 64; i++) {
			uint64_t r = next_random(&seed);

			atomic_store_explicit(evil_desc(index), words[r % ARRAY_SIZE(words)] | (lap - (r >> 40 & 1)) << 48, memory_order_relaxed);
		}
	}
	return NULL;
}

static void check_record(const struct ring_record *record)
{
	const uint8_t *data = victim->rx.data, *at = record->data;
	uint64_t step = ring_step(record->size);
	volatile uint8_t sink;

	assert_true(record->size <= MAX && (record->flags & ~RING_FLAGS_KNOWN) == 0);
	assert_true(at >= data && step <= CAP && (uint64_t)(at - data) <= CAP - step);
	/* what will be released is what was given */
	assert_int_equal(victim->rx.next, ring_place(victim->rx.head, step, CAP) + step);
	for (uint32_t i = 0; i < record->size; i += 64)
		sink = at[i];
	(void)sink;
}

static void a_length_that_changes_between_looks(void **state)
{
	pthread_t thread = start(flip_descriptor);
	uint64_t since = clock_ns(), n[3] = { 0, 0, 0 };

	while (going_on(since, n[0] > 0 && n[1] + n[2] > 0)) {
		for (int i = 0; i < 256; i++) {
			struct ring_record record;
			int r = ring_rx_peek(&victim->rx, &record);

			assert_true(r == 0 || r == RING_E_EMPTY || r == -EPROTO);
			n[r == 0 ? 0 : r == RING_E_EMPTY ? 1 : 2]++;
			if (r != 0)
				continue;
			check_record(&record);
			if (i % 16 != 0)
				continue;
			ring_wake_space(&victim->rx, ring_rx_release(&victim->rx), victim->bell);
			atomic_store_explicit(&g_victim_index, victim->rx.index, memory_order_relaxed);
		}
	}
	print_message("%llu records, %llu times empty, %llu times refused\n", (unsigned long long)n[0], (unsigned long long)n[1],
		      (unsigned long long)n[2]);
	assert_true(n[0] > 0 && n[1] + n[2] > 0); /* or nothing was tried */
	stop(thread);
}

/* --- payload --- */

static void *flip_payload(void *arg)
{
	uint64_t *data = (uint64_t *)((uint8_t *)evil() + SHM_PAGE + shm_desc_size(CAP_LOG2));

	atomic_store(evil_desc(0), 512 | UINT64_C(1) << 48);
	for (uint64_t v = 0; !atomic_load_explicit(&g_stop, memory_order_relaxed); v++)
		for (int i = 0; i < 64; i++)
			__atomic_store_n(&data[i], v, __ATOMIC_RELAXED);
	return NULL;
}

/* A copy, once made, stays as it is: a reader that looks at its copy is not fooled. */
static void payload_that_changes_does_not_change_the_copy(void **state)
{
	pthread_t thread = start(flip_payload);
	uint64_t until = clock_ns() + RUN_NS / 4;
	struct ring_record record;

	while (ring_rx_peek(&victim->rx, &record) != 0)
		ring_pause();
	while (clock_ns() < until) {
		uint8_t copy[512];
		uint64_t sum = 0, again = 0;

		memcpy(copy, record.data, sizeof(copy));
		for (size_t i = 0; i < sizeof(copy); i++)
			sum += copy[i];
		sched_yield();
		for (size_t i = 0; i < sizeof(copy); i++)
			again += copy[i];
		assert_int_equal(sum, again);
	}
	stop(thread);
}

/* --- head --- */

static void *flip_head(void *arg)
{
	uint64_t seed = 362436069;

	while (!atomic_load_explicit(&g_stop, memory_order_relaxed)) {
		uint64_t tail = atomic_load_explicit(&g_victim_tail, memory_order_relaxed), r = next_random(&seed);
		const uint64_t heads[] = { tail, tail - r % CAP, tail + r % CAP, r, 0, tail + 1 };

		for (int i = 0; i < 16; i++)
			atomic_store_explicit(&evil()->head, heads[next_random(&seed) % ARRAY_SIZE(heads)], memory_order_relaxed);
	}
	return NULL;
}

static void a_head_that_changes_between_looks(void **state)
{
	pthread_t thread = start(flip_head);
	uint64_t since = clock_ns(), n[3] = { 0, 0, 0 }, seed = 521288629;

	while (going_on(since, n[0] > 0 && n[1] + n[2] > 0)) {
		for (int i = 0; i < 256; i++) {
			uint32_t size = (uint32_t)(next_random(&seed) % (MAX + 1));
			const uint8_t *data = victim->tx.data;
			void *place;
			int r = ring_tx_reserve(&victim->tx, size, &place);

			assert_true(r == 0 || r == RING_E_FULL || r == -EPROTO);
			n[r == 0 ? 0 : r == RING_E_FULL ? 1 : 2]++;
			assert_true(victim->tx.tail - victim->tx.head <= CAP);
			if (r != 0)
				continue;
			assert_true((uint8_t *)place >= data && (uint64_t)((uint8_t *)place - data) <= CAP - ring_step(size));
			memset(place, 0xcd, size);
			ring_tx_stage(&victim->tx, size, 0, 0);
			ring_wake_data(&victim->tx, ring_tx_publish(&victim->tx), victim->bell);
			atomic_store_explicit(&g_victim_tail, victim->tx.tail, memory_order_relaxed);
		}
	}
	print_message("%llu records, %llu times full, %llu times refused\n", (unsigned long long)n[0], (unsigned long long)n[1],
		      (unsigned long long)n[2]);
	assert_true(n[0] > 0 && n[1] + n[2] > 0);
	stop(thread);
}

/* --- everything at once --- */

/* Random words all over its region, mostly near what the victim reads. */
static void *scribble(void *arg)
{
	uint64_t *words = (uint64_t *)evil(), n = shm_region_size(CAP_LOG2) / 8, seed = 2463534242;

	while (!atomic_load_explicit(&g_stop, memory_order_relaxed)) {
		uint64_t index = atomic_load_explicit(&g_victim_index, memory_order_relaxed), lap = (index / N_DESCS + 1) & 0xffff;
		uint64_t r = next_random(&seed), v = next_random(&seed);

		__atomic_store_n(&words[r % n], v, __ATOMIC_RELAXED);
		atomic_store_explicit(evil_desc(index + r % 3), (v & (MAX * 2 - 1)) | (lap - (r >> 20 & 1)) << 48, memory_order_relaxed);
		atomic_store_explicit(&evil()->head, atomic_load_explicit(&g_victim_tail, memory_order_relaxed) - (r >> 33) % CAP, memory_order_relaxed);
	}
	return NULL;
}

static void send_something(uint64_t *seed)
{
	uint32_t size = (uint32_t)(next_random(seed) % (MAX + 1)), seq;
	void *place;
	int r = ring_tx_reserve(&victim->tx, size, &place);

	if (r == 0) {
		memset(place, 0xcd, size);
		ring_tx_stage(&victim->tx, size / 2, 0, 0);
	} else if (ring_tx_sleep(&victim->tx, size, RING_ON_FUTEX, &seq) == RING_E_FULL) {
		ring_wait_futex(&victim->tx.peer->space_seq, seq, 1000);
		ring_tx_awake(&victim->tx);
	}
	ring_wake_data(&victim->tx, ring_tx_publish(&victim->tx), victim->bell);
	atomic_store_explicit(&g_victim_tail, victim->tx.tail, memory_order_relaxed);
}

static void receive_something(void)
{
	struct ring_record record;
	uint32_t seq;
	int r = ring_rx_peek(&victim->rx, &record);

	if (r == 0) {
		check_record(&record);
		ring_wake_space(&victim->rx, ring_rx_release(&victim->rx), victim->bell);
		atomic_store_explicit(&g_victim_index, victim->rx.index, memory_order_relaxed);
	} else {
		ring_wake_space(&victim->rx, ring_rx_check_producer(&victim->rx), victim->bell);
		if (ring_rx_sleep(&victim->rx, RING_ON_FUTEX, &seq) == RING_E_EMPTY) {
			ring_wait_futex(&victim->rx.peer->data_seq, seq, 1000);
			ring_rx_awake(&victim->rx);
		}
	}
}

static void a_peer_that_scribbles_everywhere(void **state)
{
	pthread_t thread = start(scribble);
	uint64_t since = clock_ns(), seed = 521288629;

	while (going_on(since, victim->tx.index > 0 && victim->rx.index > 0)) {
		for (int i = 0; i < 64; i++) {
			send_something(&seed);
			receive_something();
		}
	}
	print_message("%llu records sent, %llu taken\n", (unsigned long long)victim->tx.index, (unsigned long long)victim->rx.index);
	assert_true(victim->tx.index > 0 && victim->rx.index > 0);
	stop(thread);
}

/* --- floods --- */

static _Atomic uint64_t g_n_calls;

/* The library's system calls, counted: the linker puts these in their place (--wrap). */
long __real_syscall(long number, ...);
long __wrap_syscall(long number, void *futex, long op, long value, void *timeout, void *futex2, long value3);
ssize_t __real_send(int fd, const void *bytes, size_t n, int flags);
ssize_t __wrap_send(int fd, const void *bytes, size_t n, int flags);

long __wrap_syscall(long number, void *futex, long op, long value, void *timeout, void *futex2, long value3)
{
	g_n_calls++;
	return __real_syscall(number, futex, op, value, timeout, futex2, value3);
}

ssize_t __wrap_send(int fd, const void *bytes, size_t n, int flags)
{
	g_n_calls++;
	return __real_send(fd, bytes, n, flags);
}

static void *always_asleep(void *arg)
{
	for (uint32_t v = 1; !atomic_load_explicit(&g_stop, memory_order_relaxed); v++) {
		atomic_store_explicit(&evil()->data_waiter, v, memory_order_relaxed);
		atomic_store_explicit(&evil()->space_waiter, ~v, memory_order_relaxed);
		atomic_store_explicit(&evil()->head, atomic_load_explicit(&g_victim_tail, memory_order_relaxed), memory_order_relaxed);
	}
	return NULL;
}

static void a_peer_that_always_seems_to_sleep(void **state)
{
	pthread_t thread = start(always_asleep);
	uint64_t until = clock_ns() + RUN_NS, n_publishes = 0, n_staged = 0;

	g_n_calls = 0;
	while (clock_ns() < until) {
		void *place;

		for (int i = 0; i < 8 && ring_tx_reserve(&victim->tx, 8, &place) == 0; i++, n_staged++)
			ring_tx_stage(&victim->tx, 8, 0, 0);
		ring_wake_data(&victim->tx, ring_tx_publish(&victim->tx), victim->bell);
		n_publishes++;
		atomic_store_explicit(&g_victim_tail, victim->tx.tail, memory_order_relaxed);
	}
	print_message("%llu publishes of %llu records: %llu calls\n", (unsigned long long)n_publishes, (unsigned long long)n_staged,
		      (unsigned long long)g_n_calls);
	assert_true(g_n_calls <= n_publishes);
	stop(thread);
}

/* Changes the words we would sleep on, wakes whoever sleeps there, and rings the bell. */
static void *always_wakes(void *arg)
{
	while (!atomic_load_explicit(&g_stop, memory_order_relaxed)) {
		atomic_fetch_add(&evil()->data_seq, 1);
		atomic_fetch_add(&evil()->space_seq, 0x10001);
		__real_syscall(SYS_futex, &evil()->data_seq, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
		__real_syscall(SYS_futex, &evil()->space_seq, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
		(void)!__real_send(g_end[1].bell, "!", 1, MSG_DONTWAIT);
	}
	return NULL;
}

/* Nothing ever comes: every wake-up is a look and another sleep, until the deadline, which is kept. */
static void a_peer_that_always_wakes(void **state)
{
	pthread_t thread = start(always_wakes);
	uint64_t n_sleeps = 0;
	void *place;

	while (ring_tx_reserve(&victim->tx, 64, &place) == 0)
		ring_tx_stage(&victim->tx, 64, 0, 0);
	ring_wake_data(&victim->tx, ring_tx_publish(&victim->tx), victim->bell);
	for (int kind = 0; kind < 3; kind++) {
		uint64_t start_ns = clock_ns(), deadline = start_ns + RUN_NS / 4, now, calls = g_n_calls;

		for (uint64_t n = 0; (now = clock_ns()) < deadline; n++, n_sleeps++) {
			struct pollfd p = { .fd = victim->bell, .events = POLLIN };
			uint32_t seq;

			if (kind == 0) {
				assert_int_equal(ring_tx_sleep(&victim->tx, 64, RING_ON_FUTEX, &seq), RING_E_FULL);
				ring_wait_futex(&victim->tx.peer->space_seq, seq, deadline - now);
				continue;
			}
			assert_int_equal(ring_rx_sleep(&victim->rx, kind == 1 ? RING_ON_FUTEX : RING_ON_BELL, &seq), RING_E_EMPTY);
			if (kind == 1) {
				ring_wait_futex(&victim->rx.peer->data_seq, seq, deadline - now);
			} else {
				poll(&p, 1, (int)((deadline - now) / 1000000 + 1));
				assert_true(ring_drain_bell(victim->bell));
			}
		}
		assert_true(clock_ns() - start_ns < RUN_NS * 50); /* generous: the machine may be busy */
		assert_true(g_n_calls - calls <= n_sleeps);
	}
	print_message("%llu sleeps until three deadlines\n", (unsigned long long)n_sleeps);
	stop(thread);
}

static _Atomic uint64_t g_n_moved;

/* Whoever sleeps on a word of the peer's is in a queue that the peer may move elsewhere, where it will never wake it. */
static void *moves_sleepers(void *arg)
{
	while (!atomic_load_explicit(&g_stop, memory_order_relaxed)) {
		long n = __real_syscall(SYS_futex, &evil()->data_seq, FUTEX_REQUEUE, 0, (void *)(intptr_t)INT32_MAX, &evil()->space_seq, 0);

		if (n > 0)
			g_n_moved += (uint64_t)n;
		usleep(100);
	}
	return NULL;
}

static void a_peer_that_moves_who_sleeps_does_not_keep_them(void **state)
{
	pthread_t thread = start(moves_sleepers);
	uint64_t n = 0;
	uint32_t seq;

	g_n_moved = 0;
	for (; n < 10 || (g_n_moved == 0 && n < 1000); n++) {
		uint64_t start_ns = clock_ns();

		assert_int_equal(ring_rx_sleep(&victim->rx, RING_ON_FUTEX, &seq), RING_E_EMPTY);
		ring_wait_futex(&victim->rx.peer->data_seq, seq, RING_FUTEX_NS);
		ring_rx_awake(&victim->rx);
		assert_true(clock_ns() - start_ns < 50 * RUN_NS);
	}
	print_message("%llu sleeps, %llu of them moved\n", (unsigned long long)n, (unsigned long long)g_n_moved);
	assert_true(g_n_moved > 0);
	stop(thread);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_length_that_changes_between_looks),
		cmocka_unit_test(payload_that_changes_does_not_change_the_copy),
		cmocka_unit_test(a_head_that_changes_between_looks),
		cmocka_unit_test(a_peer_that_scribbles_everywhere),
		cmocka_unit_test(a_peer_that_always_seems_to_sleep),
		cmocka_unit_test(a_peer_that_always_wakes),
		cmocka_unit_test(a_peer_that_moves_who_sleeps_does_not_keep_them),
	};

	return cmocka_run_group_tests_name("hostile races", tests, NULL, NULL);
}
