/*
 * Two threads, one lane, every record checked: spinning, on the futex, on the bell, and all of these mixed; from starts where
 * numbers come round. Both threads use one mapping of each region, so that TSan (./test, build-tsan) sees what they share.
 * A wake-up that is lost shows as a sleep that nobody ended.
 */
#include "shm/test_pair.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

enum { CAP_LOG2 = 12, N_DESCS = 64, SLOW = 10 };
#define LOST_NS (60 * UINT64_C(1000000000))

#if defined(__SANITIZE_THREAD__)
enum { N_RECORDS = 150000 };
#elif defined(__SANITIZE_ADDRESS__)
enum { N_RECORDS = 60000 };
#else
enum { N_RECORDS = 200000 };
#endif

enum waiting { SPIN, FUTEX, BELL, MIXED };

struct job {
	struct pair_end *e;
	enum waiting waiting;
	uint64_t n;
	uint64_t seed;
	uint64_t n_sleeps, n_wakes;
	const char *fault; /* what went wrong, NULL: nothing */
};

static uint64_t next_random(uint64_t *seed)
{
	*seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return *seed >> 33;
}

static enum ring_waiter how_to_sleep(struct job *j)
{
	if (j->waiting == MIXED)
		return next_random(&j->seed) & 1 ? RING_ON_FUTEX : RING_ON_BELL;
	return j->waiting == BELL ? RING_ON_BELL : RING_ON_FUTEX;
}

/* Return: false: nobody woke us. */
static bool wait_for_wake(struct job *j, enum ring_waiter how, const _Atomic uint32_t *word, uint32_t seq)
{
	struct pollfd p = { .fd = j->e->bell, .events = POLLIN };
	uint64_t start = clock_ns();

	j->n_sleeps++;
	if (how == RING_ON_FUTEX) {
		ring_wait_futex(word, seq, LOST_NS);
		return clock_ns() - start < LOST_NS;
	}
	if (poll(&p, 1, (int)(LOST_NS / 1000000)) != 1)
		return false;
	return ring_drain_bell(j->e->bell);
}

/* A peer that only spins shares the core with whoever it waits for, on a machine with one. */
static void idle(void)
{
	static _Thread_local unsigned n;

	ring_pause();
	if (++n % 64 == 0)
		sched_yield();
}

static bool wait_data(struct job *j)
{
	enum ring_waiter how;
	bool woken = true;
	uint32_t seq;

	if (j->waiting == SPIN || (j->waiting == MIXED && next_random(&j->seed) % 4)) {
		idle();
		return true;
	}
	how = how_to_sleep(j);
	if (ring_rx_sleep(&j->e->rx, how, &seq) == RING_E_EMPTY) {
		woken = wait_for_wake(j, how, &j->e->rx.peer->data_seq, seq);
		ring_rx_awake(&j->e->rx);
	}
	return woken;
}

static bool wait_room(struct job *j, uint32_t size)
{
	enum ring_waiter how;
	bool woken = true;
	uint32_t seq;

	if (j->waiting == SPIN || (j->waiting == MIXED && next_random(&j->seed) % 4)) {
		idle();
		return true;
	}
	how = how_to_sleep(j);
	if (ring_tx_sleep(&j->e->tx, size, how, &seq) == RING_E_FULL) {
		woken = wait_for_wake(j, how, &j->e->tx.peer->space_seq, seq);
		ring_tx_awake(&j->e->tx);
	}
	return woken;
}

static void wake_consumer(struct job *j)
{
	enum ring_waiter how = ring_tx_publish(&j->e->tx);

	j->n_wakes += how != RING_AWAKE;
	ring_wake_data(&j->e->tx, how, j->e->bell);
}

static void wake_producer(struct job *j, enum ring_waiter how)
{
	j->n_wakes += how != RING_AWAKE;
	ring_wake_space(&j->e->rx, how, j->e->bell);
}

/* The size of a record follows from its number, for both sides. */
static uint32_t size_of(uint64_t number)
{
	uint64_t seed = number * UINT64_C(0x9e3779b97f4a7c15);

	return (uint32_t)(next_random(&seed) % (number % 7 ? 90 : 1025));
}

static bool send_record(struct job *j, uint64_t number)
{
	uint32_t size = size_of(number);
	void *place;
	int r;

	while ((r = ring_tx_reserve(&j->e->tx, size, &place)) == RING_E_FULL) {
		wake_consumer(j);
		if (!wait_room(j, size)) {
			j->fault = "the producer waited for room and nobody woke it";
			return false;
		}
	}
	if (r < 0) {
		j->fault = "the producer: a peer that is honest was called a liar";
		return false;
	}
	pair_fill(place, size, number);
	ring_tx_stage(&j->e->tx, size, number & RING_MORE, (uint8_t)number);
	return true;
}

static bool take_record(struct job *j, uint64_t number)
{
	struct ring_record record;
	int r;

	while ((r = ring_rx_peek(&j->e->rx, &record)) == RING_E_EMPTY) {
		wake_producer(j, ring_rx_check_producer(&j->e->rx));
		if (!wait_data(j)) {
			j->fault = "the consumer waited for a record and nobody woke it";
			return false;
		}
	}
	if (r < 0)
		j->fault = "the consumer: a peer that is honest was called a liar";
	else if (record.size != size_of(number) || record.tag != (uint8_t)number || record.flags != (number & RING_MORE))
		j->fault = "the consumer: another record than was sent";
	else if (!pair_same(record.data, record.size, number))
		j->fault = "the consumer: other bytes than were sent";
	if (j->fault)
		return false;
	wake_producer(j, ring_rx_release(&j->e->rx));
	return true;
}

static void *producer(void *arg)
{
	struct job *j = arg;
	uint64_t batch = 1;

	for (uint64_t n = 0; n < j->n && send_record(j, n); n++) {
		if (--batch > 0)
			continue;
		batch = 1 + next_random(&j->seed) % 9;
		wake_consumer(j);
	}
	wake_consumer(j);
	return NULL;
}

static void *consumer(void *arg)
{
	struct job *j = arg;

	for (uint64_t n = 0; n < j->n && take_record(j, n); n++)
		;
	return NULL;
}

static void run_one_way(enum waiting tx_waits, enum waiting rx_waits, uint64_t start, uint64_t position, uint64_t n)
{
	struct pair_end e[2];
	struct job tx = { .e = &e[0], .waiting = tx_waits, .n = n, .seed = start + 1 };
	struct job rx = { .e = &e[1], .waiting = rx_waits, .n = n, .seed = start + 2 };
	pthread_t thread;

	pair_make(e, CAP_LOG2, start, true);
	pair_move(e, position);
	/* A side that only spins says so when the lane is made, and is then never looked at. */
	e[0].tx.peer_sleeps = rx_waits != SPIN;
	e[1].rx.peer_sleeps = tx_waits != SPIN;
	assert_int_equal(pthread_create(&thread, NULL, producer, &tx), 0);
	consumer(&rx);
	if (rx.fault) /* the producer may wait for ever now; the process ends with this test */
		fail_msg("start %llu: %s", (unsigned long long)start, rx.fault);
	pthread_join(thread, NULL);
	if (tx.fault)
		fail_msg("start %llu: %s", (unsigned long long)start, tx.fault);
	/* once for each sleep, and for each time that one was about to */
	print_message("consumer slept %llu times, producer %llu times; woken %llu and %llu times\n", (unsigned long long)rx.n_sleeps,
		      (unsigned long long)tx.n_sleeps, (unsigned long long)tx.n_wakes, (unsigned long long)rx.n_wakes);
	assert_true(tx.n_wakes <= e[1].rx.epoch);
	assert_true(rx.n_wakes <= e[0].tx.epoch);
	pair_drop(e);
}

static void both_spin(void **state)
{
	run_one_way(SPIN, SPIN, 0, 0, N_RECORDS);
}

static void both_on_the_futex(void **state)
{
	run_one_way(FUTEX, FUTEX, 0, 0, N_RECORDS / SLOW);
}

static void both_on_the_bell(void **state)
{
	run_one_way(BELL, BELL, 0, 0, N_RECORDS / SLOW);
}

static void now_so_now_otherwise(void **state)
{
	run_one_way(MIXED, MIXED, 0, 0, N_RECORDS / SLOW);
}

static void one_spins_the_other_sleeps(void **state)
{
	run_one_way(SPIN, FUTEX, 0, 0, N_RECORDS / SLOW);
	run_one_way(FUTEX, SPIN, 0, 0, N_RECORDS / SLOW);
	run_one_way(BELL, MIXED, 0, 0, N_RECORDS / SLOW);
}

static void from_where_numbers_come_round(void **state)
{
	static const uint64_t starts[] = { 65534u * N_DESCS - 3, (UINT64_C(1) << 32) - 3, (UINT64_C(1) << 63) - 3, UINT64_MAX - 3 };
	static const uint64_t positions[] = { 0, (UINT64_C(1) << 32) - 128, (UINT64_C(1) << 63) - 64, UINT64_MAX - 127 };

	for (size_t i = 0; i < ARRAY_SIZE(starts); i++) {
		run_one_way(SPIN, SPIN, starts[i], positions[i], N_RECORDS / 20);
		run_one_way(MIXED, MIXED, starts[i], positions[i], N_RECORDS / 20);
	}
}

/* Each end sends and takes in turn: both directions, and the bell that they share. */
static void *echo(void *arg)
{
	struct job *j = arg;

	for (uint64_t n = 0; n < j->n && take_record(j, n) && send_record(j, n); n++)
		wake_consumer(j);
	return NULL;
}

static void run_round_trips(enum waiting waiting, uint64_t n)
{
	struct pair_end e[2];
	struct job here = { .e = &e[0], .waiting = waiting, .n = n, .seed = 1 }, there = { .e = &e[1], .waiting = waiting, .n = n, .seed = 2 };
	pthread_t thread;

	pair_make(e, CAP_LOG2, 0, true);
	assert_int_equal(pthread_create(&thread, NULL, echo, &there), 0);
	for (uint64_t i = 0; i < n && send_record(&here, i); i++) {
		wake_consumer(&here);
		if (!take_record(&here, i))
			break;
	}
	if (here.fault)
		fail_msg("%s", here.fault);
	pthread_join(thread, NULL);
	if (there.fault)
		fail_msg("%s", there.fault);
	pair_drop(e);
}

static void round_trips(void **state)
{
	run_round_trips(SPIN, N_RECORDS / SLOW);
	run_round_trips(FUTEX, N_RECORDS / 20);
	run_round_trips(BELL, N_RECORDS / 20);
	run_round_trips(MIXED, N_RECORDS / 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_spin),
		cmocka_unit_test(both_on_the_futex),
		cmocka_unit_test(both_on_the_bell),
		cmocka_unit_test(now_so_now_otherwise),
		cmocka_unit_test(one_spins_the_other_sleeps),
		cmocka_unit_test(from_where_numbers_come_round),
		cmocka_unit_test(round_trips),
	};

	return cmocka_run_group_tests_name("threads", tests, NULL, NULL);
}
