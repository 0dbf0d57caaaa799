/*
 * A malicious peer, one test a rule of docs/design/ring.md ("range, and what a reader does with anything else"). It made its region
 * and writes there what it likes; end 0, the victim, sees that through its own read-only mapping, as in real life. Each rule
 * is tried against the side that reads the word. The victim may say -EPROTO, or go on unharmed; it may not crash (ASan and UBSan
 * watch), leave the two regions, or make more system calls than it published.
 *
 * One thing after the other; ring_races.c has what changes while the victim looks.
 */
#include "shm/test_pair.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <cmocka.h>

enum { CAP_LOG2 = 12, CAP = 1 << CAP_LOG2, N_DESCS = CAP / 64, MAX = CAP / 4 };

#define ROUNDS 1000

static struct pair_end g_end[2];
static struct pair_end *const victim = &g_end[0];

/* What the peer may write: all of its own region. */
static struct ring_control *evil(void)
{
	return g_end[1].own.base;
}

static _Atomic uint64_t *evil_desc(uint64_t index)
{
	return (_Atomic uint64_t *)((uint8_t *)evil() + SHM_PAGE) + index % N_DESCS;
}

static uint64_t word(uint64_t size, uint64_t flags, uint64_t tag, uint64_t lap)
{
	return size | flags << 32 | tag << 40 | lap << 48;
}

static int set_up(void **state)
{
	pair_make(g_end, CAP_LOG2, 0, false);
	return 0;
}

static int tear_down(void **state)
{
	pair_drop(g_end);
	return 0;
}

/* The library's system calls, counted: the linker puts these in their place (--wrap). */
long __real_syscall(long number, ...);
long __wrap_syscall(long number, void *word, long op, long value, void *timeout, void *word2, long value3);
ssize_t __real_send(int fd, const void *bytes, size_t n, int flags);
ssize_t __wrap_send(int fd, const void *bytes, size_t n, int flags);
static uint64_t g_n_calls;

long __wrap_syscall(long number, void *futex, long op, long value, void *timeout, void *futex2, long value3)
{
	g_n_calls++;
	return __real_syscall(number, futex, op, value, timeout, futex2, value3);
}

ssize_t __wrap_send(int fd, const void *bytes, size_t n, int flags)
{
	g_n_calls++;
	assert_int_equal(flags & MSG_DONTWAIT, MSG_DONTWAIT);
	return __real_send(fd, bytes, n, flags);
}

static int stage(uint32_t size)
{
	void *place;
	int r = ring_tx_reserve(&victim->tx, size, &place);

	if (r == 0) {
		memset(place, 0xab, size);
		ring_tx_stage(&victim->tx, size, 0, 0);
	}
	return r;
}

/* Publishes n records and does as it is told. Return: system calls that it took. */
static uint64_t publish(uint32_t n)
{
	uint64_t before = g_n_calls;

	for (uint32_t i = 0; i < n; i++)
		if (stage(8) != 0)
			break;
	ring_wake_data(&victim->tx, ring_tx_publish(&victim->tx), victim->bell);
	return g_n_calls - before;
}

/* The victim's ring as full as it gets. */
static void fill(void)
{
	while (stage(64) == 0)
		;
	ring_wake_data(&victim->tx, ring_tx_publish(&victim->tx), victim->bell);
}

static int peek(struct ring_record *record)
{
	int r = ring_rx_peek(&victim->rx, record);

	if (r == 0) {
		const uint8_t *data = victim->rx.data, *at = record->data;
		volatile uint8_t sink = 0;

		assert_true(at >= data && record->size <= MAX && at + record->size <= data + CAP);
		for (uint32_t i = 0; i < record->size; i++)
			sink = (uint8_t)(sink ^ at[i]);
	}
	return r;
}

/* --- the control page --- */

static void magic_version_and_size_mean_nothing_later(void **state)
{
	struct ring_record record;

	for (uint32_t i = 0; i < ROUNDS; i++) {
		evil()->magic = i;
		evil()->version = i * 7;
		evil()->cap_log2 = i;
		atomic_store(&evil()->n_records, UINT64_MAX - i);
		atomic_store(&evil()->n_bytes, UINT64_MAX - i);
		atomic_store(&evil()->claim, (uint64_t)i << 40);
		atomic_store(evil_desc(i), word(i % 100, 0, 0, i / N_DESCS + 1));
		assert_int_equal(peek(&record), 0);
		assert_int_equal(record.size, i % 100);
		assert_int_equal(ring_rx_release(&victim->rx), RING_AWAKE);
	}
}

/* A head beyond what was sent, or before what it was: each value in turn, as the producer reads it when it needs room. */
static void a_head_out_of_range_is_refused(void **state)
{
	uint64_t tail;
	uint32_t seq;

	fill();
	tail = victim->tx.tail;
	atomic_store(&evil()->head, 2048);
	assert_int_equal(stage(64), 0); /* the honest one */
	tail += 64;
	assert_int_equal(victim->tx.head, 2048);
	fill();
	tail = victim->tx.tail;
	const uint64_t bad[] = { 0, 64, 2047, tail + 1, tail + 64, tail + CAP, UINT64_C(1) << 32, UINT64_C(1) << 63, UINT64_MAX, UINT64_MAX - 63 };
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		atomic_store(&evil()->head, bad[i]);
		assert_int_equal(stage(64), -EPROTO);
		assert_int_equal(ring_tx_sleep(&victim->tx, 64, RING_ON_FUTEX, &seq), -EPROTO);
		assert_int_equal(atomic_load(&victim->own.base->space_waiter), RING_AWAKE);
		assert_int_equal(victim->tx.head, 2048);
		assert_int_equal(victim->tx.tail, tail);
	}
}

/* Inside the range any value is the peer's to say, also one that is no record's end; it only harms what it reads itself. */
static void a_head_in_the_middle_of_a_record_is_survived(void **state)
{
	fill();
	for (uint64_t head = 0; head < 20 * CAP && head <= victim->tx.tail; head += 61) {
		atomic_store(&evil()->head, head);
		for (int r = 0; r == 0;) {
			r = stage((uint32_t)(head % (MAX + 1)));
			assert_true(r == 0 || r == RING_E_FULL);
		}
		ring_wake_data(&victim->tx, ring_tx_publish(&victim->tx), victim->bell);
		assert_true(victim->tx.tail - victim->tx.head <= CAP);
	}
}

/* Staged and not yet published is "sent" for this check: such a head is a lie that harms nobody. */
static void a_head_that_releases_what_is_not_published_is_survived(void **state)
{
	for (int i = 0; i < ROUNDS; i++) {
		while (stage(100) == 0)
			;
		atomic_store(&evil()->head, victim->tx.tail);
	}
	ring_wake_data(&victim->tx, ring_tx_publish(&victim->tx), victim->bell);
}

static void read_shut_is_only_a_word(void **state)
{
	for (uint32_t i = 0; i < ROUNDS; i++) {
		atomic_store(&evil()->read_shut, i * 0x01010101u);
		(void)publish(1);
		atomic_store(&evil()->head, victim->tx.tail);
	}
}

/* Every "how", a new number each time: a wake-up for each publish at most, whatever is in the batch. */
static void a_waiter_that_always_changes_costs_one_call_a_publish(void **state)
{
	uint64_t n_publishes = 0;

	for (uint32_t i = 0; i < ROUNDS; i++) {
		uint64_t before = g_n_calls;

		atomic_store(&evil()->data_waiter, i << 2 | (i % 4));
		n_publishes++;
		assert_true(publish(1 + i % 5) <= 1);
		if (i % 4 == RING_AWAKE)
			assert_int_equal(g_n_calls, before);
		atomic_store(&evil()->head, victim->tx.tail);
	}
	assert_true(g_n_calls <= n_publishes + 1);
}

static void a_waiter_that_never_changes_costs_one_call(void **state)
{
	static const uint32_t words[] = { 1, 2, 3, UINT32_MAX, 0x80000001u };

	for (size_t w = 0; w < ARRAY_SIZE(words); w++) {
		uint64_t n_calls = 0;

		atomic_store(&evil()->data_waiter, words[w]);
		for (int i = 0; i < ROUNDS; i++) {
			n_calls += publish(1);
			atomic_store(&evil()->head, victim->tx.tail);
		}
		assert_int_equal(n_calls, 1);
	}
}

/* "Asleep, in no known way" is the bell's. */
static void an_unknown_way_to_sleep_is_the_bell(void **state)
{
	struct pollfd p = { .fd = g_end[1].bell, .events = POLLIN };

	atomic_store(&evil()->data_waiter, 5u << 2 | 3);
	assert_int_equal(publish(1), 1);
	assert_int_equal(poll(&p, 1, 0), 1);
}

/* The same for room: at most one call each time a head is published, which is at most once a record. */
static void a_space_waiter_that_always_changes_costs_one_call_a_release(void **state)
{
	struct ring_record record;
	uint64_t index = 0;

	for (uint32_t i = 0; i < ROUNDS; i++) {
		for (uint32_t k = 0; k < 1 + i % 9; k++, index++)
			atomic_store(evil_desc(index), word(i % (MAX + 1), 0, 0, (index / N_DESCS + 1) & 0xffff));
		while (peek(&record) == 0) {
			uint64_t before = g_n_calls;

			atomic_store(&evil()->space_waiter, i * 5 + 1);
			ring_wake_space(&victim->rx, ring_rx_release(&victim->rx), victim->bell);
			assert_true(g_n_calls - before <= 1);
			before = g_n_calls;
			ring_wake_space(&victim->rx, ring_rx_check_producer(&victim->rx), victim->bell);
			ring_wake_space(&victim->rx, ring_rx_check_producer(&victim->rx), victim->bell);
			assert_true(g_n_calls - before <= 1);
		}
	}
	assert_int_equal(victim->rx.index, index);
}

/* --- descriptors --- */

static void sizes_out_of_range_are_refused(void **state)
{
	static const uint64_t bad[] = { MAX + 1, MAX + 64, CAP, CAP + 1, 1 << 20, 0x7fffffff, 0x80000000, 0xffffffff, 0xffffffc1, 0xffffffc0 };
	struct ring_record record = { .data = NULL };
	uint32_t seq;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		atomic_store(evil_desc(0), word(bad[i], 0, 0, 1));
		assert_int_equal(peek(&record), -EPROTO);
		assert_null(record.data);
		assert_int_equal(ring_rx_sleep(&victim->rx, RING_ON_BELL, &seq), -EPROTO);
		assert_int_equal(atomic_load(&victim->own.base->data_waiter), RING_AWAKE);
	}
	atomic_store(evil_desc(0), word(MAX, 0, 0, 1));
	assert_int_equal(peek(&record), 0);
}

static void sizes_in_range_stay_inside_from_everywhere(void **state)
{
	struct ring_record record;
	uint64_t index = 0;

	/* each place in the ring, each size that could cross its end */
	for (uint64_t offset = 0; offset < CAP; offset += 64) {
		for (uint64_t size = 0; size <= MAX; size += 31) {
			victim->rx.head = victim->rx.published = offset;
			victim->rx.index = index;
			atomic_store(evil_desc(index), word(size, 0, 0, (index / N_DESCS + 1) & 0xffff));
			assert_int_equal(peek(&record), 0);
			index++;
		}
	}
}

static void unknown_flags_are_refused(void **state)
{
	struct ring_record record;

	for (uint64_t flags = 0; flags < 256; flags++) {
		atomic_store(evil_desc(0), word(0, flags, 0, 1));
		assert_int_equal(peek(&record), flags & ~(uint64_t)RING_FLAGS_KNOWN ? -EPROTO : 0);
	}
}

static void an_end_that_carries_something_is_refused(void **state)
{
	struct ring_record record;

	atomic_store(evil_desc(0), word(1, RING_FIN, 0, 1));
	assert_int_equal(peek(&record), -EPROTO);
	atomic_store(evil_desc(0), word(MAX, RING_FIN | RING_MORE, 0, 1));
	assert_int_equal(peek(&record), -EPROTO);
	atomic_store(evil_desc(0), word(0, RING_FIN, 0, 1));
	assert_int_equal(peek(&record), 0);
}

/* The ring hands on what follows; that nothing may is the rule of who reads it (client/lane.c). */
static void records_after_the_end_are_only_records(void **state)
{
	struct ring_record record;

	atomic_store(evil_desc(0), word(0, RING_FIN, 0, 1));
	atomic_store(evil_desc(1), word(5, 0, 0, 1));
	atomic_store(evil_desc(2), word(0, RING_FIN, 0, 1));
	for (int i = 0; i < 3; i++) {
		assert_int_equal(peek(&record), 0);
		assert_int_equal(record.flags, i == 1 ? 0 : RING_FIN);
		assert_int_equal(ring_rx_release(&victim->rx), RING_AWAKE);
	}
	assert_int_equal(peek(&record), RING_E_EMPTY);
}

static void tags_are_handed_on(void **state)
{
	struct ring_record record;

	for (uint64_t tag = 0; tag < 256; tag++) {
		atomic_store(evil_desc(0), word(0, 0, tag, 1));
		assert_int_equal(peek(&record), 0);
		assert_int_equal(record.tag, tag);
	}
}

static void only_two_laps_mean_something(void **state)
{
	static const uint64_t starts[] = { 0, 100 * N_DESCS, 65534 * N_DESCS, 65535 * N_DESCS, UINT64_C(1) << 40 };
	struct ring_record record;

	for (size_t s = 0; s < ARRAY_SIZE(starts); s++) {
		uint64_t expected = (starts[s] / N_DESCS + 1) & 0xffff;

		victim->rx.index = starts[s];
		for (uint64_t lap = 0; lap <= 0xffff; lap++) {
			int is;

			atomic_store(evil_desc(starts[s]), word(3, 0, 0, lap));
			is = lap == expected ? 0 : lap == ((expected - 1) & 0xffff) ? RING_E_EMPTY : -EPROTO;
			assert_int_equal(peek(&record), is);
		}
	}
}

/* The rest of a batch is there before its first record, or never comes. */
static void half_a_batch_waits_or_is_refused(void **state)
{
	struct ring_record record;

	atomic_store(evil_desc(1), word(5, 0, 0, 1));
	atomic_store(evil_desc(2), word(5, 0, 0, 1));
	assert_int_equal(peek(&record), RING_E_EMPTY);
	atomic_store(evil_desc(1), 0);
	atomic_store(evil_desc(0), word(5, 0, 0, 1));
	assert_int_equal(peek(&record), 0);
	assert_int_equal(ring_rx_release(&victim->rx), RING_AWAKE);
	assert_int_equal(peek(&record), RING_E_EMPTY);
	/* bytes of a descriptor without its lap: still not there */
	atomic_store(evil_desc(1), word(77, RING_MORE, 9, 0));
	assert_int_equal(peek(&record), RING_E_EMPTY);
	atomic_store(evil_desc(1), word(77, 0, 9, 2));
	assert_int_equal(peek(&record), -EPROTO);
}

/* A producer that does not wait for room overruns its own records: the reader gets others, or an error, never more than the ring. */
static void a_producer_that_overruns_harms_itself(void **state)
{
	struct ring_record record;
	uint64_t at = 0;
	int n_refused = 0;

	for (uint64_t i = 0; i < ROUNDS; i++) {
		uint64_t n = i % 3 == 0 ? N_DESCS + 1 : 3;

		for (uint64_t k = 0; k < n; k++, at++)
			atomic_store(evil_desc(at), word(at % (MAX + 1), 0, 0, (at / N_DESCS + 1) & 0xffff));
		while (peek(&record) == 0)
			ring_wake_space(&victim->rx, ring_rx_release(&victim->rx), victim->bell);
		n_refused += peek(&record) == -EPROTO;
		at = victim->rx.index;
		for (uint64_t k = 0; k < N_DESCS; k++)
			atomic_store(evil_desc(at + k), word(0, 0, 0, (((at + k) / N_DESCS + 1) - 1) & 0xffff));
	}
	assert_true(n_refused > 0);
}

/* --- the bell --- */

static size_t n_open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	size_t n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* Bytes without end, bytes out of band: each look swallows some and comes back, and when all are gone it is quiet again. */
static void a_bell_that_rings_without_end(void **state)
{
	struct pollfd p = { .fd = victim->bell, .events = POLLIN | POLLRDHUP };
	char much[4096] = { 0 };
	int n = 0;

	while (__real_send(g_end[1].bell, much, sizeof(much), MSG_DONTWAIT) > 0)
		;
	for (int i = 0; i < ROUNDS; i++)
		assert_true(ring_drain_bell(victim->bell));
	while (poll(&p, 1, 0) == 1 && n++ < ROUNDS)
		assert_true(ring_drain_bell(victim->bell));
	assert_int_equal(poll(&p, 1, 0), 0);
	if (__real_send(g_end[1].bell, "x", 1, MSG_OOB) < 0)
		return; /* this kernel has no such thing */
	for (n = 0; poll(&p, 1, 0) == 1 && n < 3; n++)
		assert_true(ring_drain_bell(victim->bell));
	assert_int_equal(poll(&p, 1, 0), 0);
}

/* Descriptors that come with it are never taken: they would fill the victim's table. */
static void a_bell_with_descriptors(void **state)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int) * 8)];
	} control = { .header = { .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int) * 8) } };
	struct iovec iov = { .iov_base = "x", .iov_len = 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes) };
	int fds[8] = { 0, 0, 0, 0, 0, 0, 0, 0 };
	size_t n = n_open_fds();

	memcpy(CMSG_DATA(&control.header), fds, sizeof(fds));
	for (int i = 0; i < 20; i++)
		assert_int_equal(sendmsg(g_end[1].bell, &m, MSG_DONTWAIT), 1);
	for (int i = 0; i < 40; i++)
		assert_true(ring_drain_bell(victim->bell));
	assert_int_equal(n_open_fds(), n);
}

static void a_bell_that_is_never_read_blocks_nobody(void **state)
{
	for (uint32_t i = 1; i < 5 * ROUNDS; i++) {
		atomic_store(&evil()->data_waiter, i << 2 | RING_ON_BELL);
		assert_true(publish(1) <= 1);
		atomic_store(&evil()->head, victim->tx.tail);
	}
}

/* --- silence --- */

/* As a caller with a deadline waits. Return: sleeps that it took. */
static uint64_t wait_until(uint64_t deadline_ns, bool for_data, enum ring_waiter how)
{
	struct pollfd p = { .fd = victim->bell, .events = POLLIN };
	uint64_t n = 0, now;
	uint32_t seq;

	while ((now = clock_ns()) < deadline_ns) {
		int r = for_data ? ring_rx_sleep(&victim->rx, how, &seq) : ring_tx_sleep(&victim->tx, MAX, how, &seq);

		assert_int_equal(r, for_data ? RING_E_EMPTY : RING_E_FULL);
		n++;
		if (how == RING_ON_BELL)
			poll(&p, 1, (int)((deadline_ns - now) / 1000000 + 1));
		else
			ring_wait_futex(for_data ? &victim->rx.peer->data_seq : &victim->tx.peer->space_seq, seq, deadline_ns - now);
	}
	return n;
}

static void a_silent_peer_costs_the_deadline_and_no_more(void **state)
{
	fill();
	for (int i = 0; i < 4; i++) {
		uint64_t deadline = clock_ns() + 30 * 1000000;

		assert_true(wait_until(deadline, i & 1, i & 2 ? RING_ON_FUTEX : RING_ON_BELL) <= 3);
		assert_true(clock_ns() >= deadline);
	}
}

/* Its end of the bell closed while we wait: not silence, and known at once. */
static void a_peer_that_closes_is_seen(void **state)
{
	struct pollfd p = { .fd = victim->bell, .events = POLLIN | POLLRDHUP };

	close(g_end[1].bell);
	assert_int_equal(poll(&p, 1, 0), 1);
	assert_false(ring_drain_bell(victim->bell));
	g_end[1].bell = dup(victim->bell);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define RULE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		RULE(magic_version_and_size_mean_nothing_later),
		RULE(a_head_out_of_range_is_refused),
		RULE(a_head_in_the_middle_of_a_record_is_survived),
		RULE(a_head_that_releases_what_is_not_published_is_survived),
		RULE(read_shut_is_only_a_word),
		RULE(a_waiter_that_always_changes_costs_one_call_a_publish),
		RULE(a_waiter_that_never_changes_costs_one_call),
		RULE(an_unknown_way_to_sleep_is_the_bell),
		RULE(a_space_waiter_that_always_changes_costs_one_call_a_release),
		RULE(sizes_out_of_range_are_refused),
		RULE(sizes_in_range_stay_inside_from_everywhere),
		RULE(unknown_flags_are_refused),
		RULE(an_end_that_carries_something_is_refused),
		RULE(records_after_the_end_are_only_records),
		RULE(tags_are_handed_on),
		RULE(only_two_laps_mean_something),
		RULE(half_a_batch_waits_or_is_refused),
		RULE(a_producer_that_overruns_harms_itself),
		RULE(a_bell_that_rings_without_end),
		RULE(a_bell_with_descriptors),
		RULE(a_bell_that_is_never_read_blocks_nobody),
		RULE(a_silent_peer_costs_the_deadline_and_no_more),
		RULE(a_peer_that_closes_is_seen),
	};

	return cmocka_run_group_tests_name("hostile words", tests, NULL, NULL);
}
