/* The handshake step by step, in one thread; test_threads.c runs it with two, docs/design/ring.pml in every order there is. */
#include "shm/test_pair.h"

#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <cmocka.h>

enum { CAP_LOG2 = 12, CAP = 1 << CAP_LOG2 };

static int set_up(void **state)
{
	struct pair_end *e = calloc(2, sizeof(*e));

	PAIR_MUST(e != NULL);
	pair_make(e, CAP_LOG2, 0, false);
	*state = e;
	return 0;
}

static int tear_down(void **state)
{
	pair_drop(*state);
	free(*state);
	return 0;
}

static enum ring_waiter send_one(struct pair_end *e)
{
	void *place;

	assert_int_equal(ring_tx_reserve(&e->tx, 64, &place), 0);
	ring_tx_stage(&e->tx, 64, 0, 0);
	return ring_tx_publish(&e->tx);
}

static enum ring_waiter take_one(struct pair_end *e)
{
	struct ring_record record;

	assert_int_equal(ring_rx_peek(&e->rx, &record), 0);
	return ring_rx_release(&e->rx);
}

static void fill(struct pair_end *e)
{
	void *place;

	while (ring_tx_reserve(&e->tx, 64, &place) == 0)
		ring_tx_stage(&e->tx, 64, 0, 0);
	assert_int_equal(ring_tx_publish(&e->tx), RING_AWAKE);
}

static void a_sleeping_consumer_is_woken_once(void **state)
{
	static const enum ring_waiter hows[] = { RING_ON_FUTEX, RING_ON_BELL };
	struct pair_end *e = *state;
	uint32_t seq;

	for (int round = 0; round < 6; round++) {
		enum ring_waiter how = hows[round % 2];

		assert_int_equal(ring_rx_sleep(&e[1].rx, how, &seq), RING_E_EMPTY);
		assert_int_equal(send_one(&e[0]), how);
		assert_int_equal(send_one(&e[0]), RING_AWAKE);
		assert_int_equal(send_one(&e[0]), RING_AWAKE);
		ring_rx_awake(&e[1].rx);
		assert_int_equal(send_one(&e[0]), RING_AWAKE);
		for (int i = 0; i < 4; i++)
			assert_int_equal(take_one(&e[1]), RING_AWAKE);
	}
}

static void who_is_about_to_sleep_looks_again(void **state)
{
	struct pair_end *e = *state;
	uint32_t seq;

	assert_int_equal(send_one(&e[0]), RING_AWAKE);
	assert_int_equal(ring_rx_sleep(&e[1].rx, RING_ON_FUTEX, &seq), 0);
	assert_int_equal(atomic_load(&e[1].own.base->data_waiter), RING_AWAKE);
	assert_int_equal(send_one(&e[0]), RING_AWAKE);
	assert_int_equal(take_one(&e[1]), RING_AWAKE);
	assert_int_equal(take_one(&e[1]), RING_AWAKE);
	assert_int_equal(ring_rx_sleep(&e[1].rx, RING_ON_FUTEX, &seq), RING_E_EMPTY);
}

static void a_sleeping_producer_is_woken_once(void **state)
{
	struct pair_end *e = *state;
	struct ring_record record;
	uint32_t seq, n_woken = 0;

	fill(&e[0]);
	assert_int_equal(ring_tx_sleep(&e[0].tx, 64, RING_ON_FUTEX, &seq), RING_E_FULL);
	assert_int_equal(e[0].tx.n_staged, 0);
	for (int i = 0; i < CAP / 64 - 1; i++) {
		enum ring_waiter how = take_one(&e[1]);

		assert_true(how == RING_AWAKE || how == RING_ON_FUTEX);
		n_woken += how != RING_AWAKE;
	}
	assert_int_equal(n_woken, 1);
	assert_int_equal(ring_rx_peek(&e[1].rx, &record), RING_E_EMPTY);
	assert_int_equal(ring_rx_check_producer(&e[1].rx), RING_AWAKE); /* still the same sleep */
	assert_int_equal(ring_tx_sleep(&e[0].tx, 64, RING_ON_BELL, &seq), 0);
	assert_int_equal(atomic_load(&e[0].own.base->space_waiter), RING_AWAKE);
}

/* What is held back of the head never keeps a producer asleep, from wherever in the ring and whatever it waits for. */
static void releasing_all_wakes_whoever_waits_for_room(void **state)
{
	static const uint32_t sizes[] = { 1, 64, 500, 960, 1000, 1024 };

	for (uint32_t n = 0; n < 64 * ARRAY_SIZE(sizes) * ARRAY_SIZE(sizes); n++) {
		uint32_t size = sizes[n / 64 % ARRAY_SIZE(sizes)], wanted = sizes[n / 64 / ARRAY_SIZE(sizes)], n_sent = 0, seq;
		bool woken = false;
		struct pair_end e[2];
		void *place;

		pair_make(e, CAP_LOG2, 0, true);
		pair_move(e, (uint64_t)(n % 64) * 64);
		for (; ring_tx_reserve(&e[0].tx, size, &place) == 0; n_sent++)
			ring_tx_stage(&e[0].tx, size, 0, 0);
		assert_int_equal(ring_tx_publish(&e[0].tx), RING_AWAKE);
		if (ring_tx_sleep(&e[0].tx, wanted, RING_ON_BELL, &seq) == RING_E_FULL) {
			while (n_sent-- > 0)
				woken |= take_one(&e[1]) == RING_ON_BELL;
			assert_true(woken);
			assert_int_equal(ring_tx_reserve(&e[0].tx, wanted, &place), 0);
		}
		pair_drop(e);
	}
}

static void one_who_spins_is_never_looked_at(void **state)
{
	struct pair_end *e = *state;
	uint32_t seq;

	e[0].tx.peer_sleeps = false;
	e[1].rx.peer_sleeps = false;
	assert_int_equal(ring_rx_sleep(&e[1].rx, RING_ON_FUTEX, &seq), RING_E_EMPTY);
	assert_int_equal(send_one(&e[0]), RING_AWAKE);
	fill(&e[0]);
	assert_int_equal(ring_tx_sleep(&e[0].tx, 64, RING_ON_FUTEX, &seq), RING_E_FULL);
	for (int i = 0; i < CAP / 64 - 1; i++)
		assert_int_equal(take_one(&e[1]), RING_AWAKE);
	assert_int_equal(ring_rx_check_producer(&e[1].rx), RING_AWAKE);
}

static void a_wake_between_look_and_wait_is_not_lost(void **state)
{
	struct pair_end *e = *state;
	uint64_t start;
	uint32_t seq;

	assert_int_equal(ring_rx_sleep(&e[1].rx, RING_ON_FUTEX, &seq), RING_E_EMPTY);
	ring_wake_data(&e[0].tx, send_one(&e[0]), e[0].bell);
	start = clock_ns();
	ring_wait_futex(&e[1].rx.peer->data_seq, seq, 30u * UINT64_C(1000000000));
	assert_true(clock_ns() - start < 20u * UINT64_C(1000000000));
}

static void a_wait_ends(void **state)
{
	struct pair_end *e = *state;
	uint64_t start = clock_ns();
	uint32_t seq;

	assert_int_equal(ring_rx_sleep(&e[1].rx, RING_ON_FUTEX, &seq), RING_E_EMPTY);
	ring_wait_futex(&e[1].rx.peer->data_seq, seq, RING_FUTEX_NS);
	assert_true(clock_ns() - start >= RING_FUTEX_NS);
}

/* The number of a sleep is never "awake", also when it comes round. */
static void epochs_may_wrap(void **state)
{
	struct pair_end *e = *state;
	uint32_t seq;

	e[1].rx.epoch = (1u << 30) - 3;
	for (int i = 0; i < 6; i++) {
		assert_int_equal(ring_rx_sleep(&e[1].rx, RING_ON_FUTEX, &seq), RING_E_EMPTY);
		assert_int_equal(send_one(&e[0]), RING_ON_FUTEX);
		assert_int_equal(take_one(&e[1]), RING_AWAKE);
	}
}

/* A full socket takes no more, but blocks nobody; what is in it is enough to wake up. */
static void a_bell_that_is_full_does_not_block(void **state)
{
	struct pair_end *e = *state;
	struct pollfd p = { .fd = e[1].bell, .events = POLLIN };
	int n = 0;

	for (int i = 0; i < 5000; i++)
		ring_wake_data(&e[0].tx, RING_ON_BELL, e[0].bell);
	assert_int_equal(poll(&p, 1, 0), 1);
	while (poll(&p, 1, 0) == 1 && n++ < 100000)
		assert_true(ring_drain_bell(e[1].bell));
	assert_true(ring_drain_bell(e[1].bell));
}

static void a_bell_without_a_peer_says_so(void **state)
{
	struct pair_end *e = *state;
	int bell[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, bell), 0);
	assert_true(ring_drain_bell(bell[0]));
	close(bell[1]);
	assert_false(ring_drain_bell(bell[0]));
	ring_wake_data(&e[0].tx, RING_ON_BELL, bell[0]); /* no SIGPIPE */
	close(bell[0]);
}

/* Another process, which sees our word read-only, sleeps on it. */
static void a_reader_in_another_process_is_woken(void **state)
{
	struct pair_end *e = *state;
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		uint64_t until = clock_ns() + 20u * UINT64_C(1000000000);
		struct ring_record record;
		uint32_t seq;

		while (clock_ns() < until) {
			if (ring_rx_peek(&e[1].rx, &record) == 0)
				_exit(0);
			if (ring_rx_sleep(&e[1].rx, RING_ON_FUTEX, &seq) != RING_E_EMPTY)
				continue;
			ring_wait_futex(&e[1].rx.peer->data_seq, seq, 30u * UINT64_C(1000000000));
			ring_rx_awake(&e[1].rx);
		}
		_exit(1);
	}
	while (atomic_load(&e[0].peer.base->data_waiter) == RING_AWAKE)
		usleep(1000);
	usleep(20000); /* it probably waits by now; if not, the value tells it */
	ring_wake_data(&e[0].tx, send_one(&e[0]), e[0].bell);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_sleeping_consumer_is_woken_once, set_up, tear_down),
		cmocka_unit_test_setup_teardown(who_is_about_to_sleep_looks_again, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_sleeping_producer_is_woken_once, set_up, tear_down),
		cmocka_unit_test(releasing_all_wakes_whoever_waits_for_room),
		cmocka_unit_test_setup_teardown(one_who_spins_is_never_looked_at, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_wake_between_look_and_wait_is_not_lost, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_wait_ends, set_up, tear_down),
		cmocka_unit_test_setup_teardown(epochs_may_wrap, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_bell_that_is_full_does_not_block, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_bell_without_a_peer_says_so, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_reader_in_another_process_is_woken, set_up, tear_down),
	};

	return cmocka_run_group_tests_name("wake", tests, NULL, NULL);
}
