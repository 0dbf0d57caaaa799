/*
 * The ring between two hosts when things go wrong: losses and delays, bytes that come in pieces and backwards, a peer that dies at any
 * step, a peer that writes whatever it likes, somebody on the wire. ring_end_receive() aborts if a byte is not what was sent, so
 * every test here is first of all: never a wrong byte.
 */
#include "rdma/fake.h"
#include "rdma/test_ring_util.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

struct sea {
	struct fake_net *net;
	struct ring_end a, b;
	uint64_t random;
};

static uint64_t dice(struct sea *s)
{
	s->random = s->random * UINT64_C(6364136223846793005) + 1442695040888963407;
	return s->random >> 24;
}

static void sea_open_with(struct sea *s, uint64_t seed, bool ordered, bool polls, const struct fake_faults *faults)
{
	const struct fake_device device = { .atomics = true, .windows = true, .ordered = ordered, .tells_why = true };
	static const uint8_t token[REMOTE_TOKEN_SIZE] = { 3 };
	uint8_t key[REMOTE_KEY_SIZE];

	memset(s, 0, sizeof(*s));
	s->random = seed;
	RING_MUST(fake_net_new(&s->net, seed) == 0);
	RING_MUST(fake_open(&s->a.r, s->net, "a", &device) == 0 && fake_open(&s->b.r, s->net, "b", &device) == 0);
	ring_end_open(&s->a, s->a.r, 12);
	ring_end_open(&s->b, s->b.r, 12);
	RING_MUST(remote_expect(&s->b.conn, s->b.domain, token) == 0);
	RING_MUST(remote_connect(&s->a.conn, s->a.domain, "b", token) == 0);
	while (!s->a.up || !s->b.up) {
		RING_MUST(fake_net_step(s->net));
		(void)ring_end_look(&s->a);
		(void)ring_end_look(&s->b);
	}
	ring_end_new(&s->a, 12, true, polls, 0);
	ring_end_new(&s->b, 12, false, polls, 0);
	(void)ring_end_look(&s->a);
	(void)ring_end_look(&s->b);
	RING_MUST(s->a.ready && s->b.ready); /* the fake binds at once */
	ring_remote_key(s->a.ring, key);
	RING_MUST(remote_key_get(&s->a.key, key) == 0 && ring_remote_start(s->b.ring, key) == 0);
	ring_remote_key(s->b.ring, key);
	RING_MUST(remote_key_get(&s->b.key, key) == 0 && ring_remote_start(s->a.ring, key) == 0);
	if (faults)
		fake_net_set_faults(s->net, faults);
}

static void sea_open(struct sea *s, uint64_t seed, const struct fake_faults *faults)
{
	sea_open_with(s, seed, true, false, faults);
}

static void sea_close(struct sea *s)
{
	ring_end_close(&s->a);
	ring_end_close(&s->b);
	remote_free(s->a.r);
	remote_free(s->b.r);
	fake_net_free(s->net);
}

static void sea_step(struct sea *s)
{
	(void)ring_end_look(&s->a);
	(void)ring_end_look(&s->b);
	if (!fake_net_step(s->net))
		fake_net_advance(s->net, 1000000);
}

static void send_some(struct sea *s, struct ring_end *e, uint64_t n)
{
	uint8_t plain[4096];
	int r;

	for (uint64_t i = 0; i < n; i++) {
		uint32_t size = pattern_size(e->n_sent, ring_remote_record_max(e->ring));

		pattern_fill(plain, e->n_sent, size);
		if (ring_remote_send(e->ring, e->n_sent & 1, (uint8_t)(e->n_sent % 200), plain, size) != 0)
			break;
		e->n_sent++;
	}
	r = ring_remote_flush(e->ring);
	assert_true(r == 0 || r == RING_E_FULL || r == -ENOTCONN || r == -EPROTO);
}

/* @n records each way at random moments; every one of them has to come. */
static void exchange(struct sea *s, uint64_t n)
{
	for (unsigned i = 0; s->a.n_received < n || s->b.n_received < n; i++) {
		struct ring_end *e = dice(s) % 2 ? &s->a : &s->b;

		assert_true(i < 1000000);
		if (dice(s) % 2)
			send_some(s, e, e->n_sent < n ? 1 + dice(s) % (n - e->n_sent < 9 ? n - e->n_sent : 9) : 0);
		else
			assert_int_equal(ring_end_receive(e), RING_E_EMPTY);
		assert_int_equal(s->a.error + s->b.error, 0);
		assert_false(s->a.down || s->b.down);
		sea_step(s);
	}
}

static void test_bad_weather(void **state)
{
	static const struct fake_faults weathers[] = {
		{ .delay_ns = 1000, .jitter_ns = 50000 },
		{ .delay_ns = 1000, .loss_permille = 20 },
		{ .delay_ns = 1000, .tear_ns = 50 },
		{ .delay_ns = 1000, .jitter_ns = 500, .loss_permille = 5, .tear_ns = 20, .backwards = true },
	};

	for (uint64_t seed = 1; seed <= 5; seed++)
		for (size_t i = 0; i < ARRAY_SIZE(weathers); i++) {
			struct sea s;

			sea_open_with(&s, seed, !weathers[i].backwards, false, &weathers[i]);
			exchange(&s, 300);
			sea_close(&s);
		}
}

/* Without immediates the receiver meets records that are not whole yet. */
static void test_polling_meets_torn_records(void **state)
{
	const struct fake_faults faults = { .delay_ns = 1000, .jitter_ns = 500, .tear_ns = 20 };

	for (uint64_t seed = 1; seed <= 5; seed++) {
		struct sea s;

		sea_open_with(&s, seed, true, true, &faults);
		exchange(&s, 300);
		sea_close(&s);
	}
}

/* b falls silent after so many steps, for each number of them: a is told, and what it got before was right. */
static void test_death_at_every_stage(void **state)
{
	const struct fake_faults faults = { .delay_ns = 1000, .jitter_ns = 500, .tear_ns = 100 };

	for (unsigned stage = 0; stage < 150; stage++) {
		struct sea s;
		unsigned i;

		sea_open(&s, stage + 1, &faults);
		for (i = 0; i < stage; i++) {
			send_some(&s, i % 3 ? &s.a : &s.b, 3);
			(void)ring_end_receive(i % 2 ? &s.a : &s.b);
			sea_step(&s);
		}
		fake_kill(s.b.r);
		for (i = 0; !s.a.down; i++) {
			assert_true(i < 100000);
			(void)ring_end_look(&s.a);
			(void)ring_end_receive(&s.a);
			if (!fake_net_step(s.net))
				fake_net_advance(s.net, 1000000);
		}
		assert_true(s.a.why == REMOTE_PEER_GONE || s.a.why == REMOTE_TIMEOUT);
		assert_int_equal(s.a.error, 0);
		assert_int_equal(remote_domain_offences(s.a.domain, REMOTE_STATUS_N), 0);
		sea_close(&s);
	}
}

/* -- a hostile peer: b, which writes into a's copy of its ring, and what it sends with it, whatever it likes */

static void hostile_write(struct sea *s, uint64_t at, const void *bytes, uint32_t size, bool with_imm, uint32_t imm)
{
	/* Through b's own region, which is b's to change. */
	struct remote_region *g = NULL;
	static _Alignas(4096) uint8_t scratch[65536];
	struct remote_op op = { .kind = with_imm ? REMOTE_WRITE_IMM : REMOTE_WRITE, .size = size, .key = s->a.key, .offset = at, .imm = imm };

	memcpy(scratch, bytes, size);
	assert_int_equal(remote_register(&g, s->b.domain, scratch, sizeof(scratch), 0), 0);
	op.region = g;
	op.flags = REMOTE_SIGNALLED;
	if (remote_post(s->b.conn, &op, 1) == 0)
		for (unsigned i = 0; i < 100 && remote_unregister(g) == -EBUSY; i++)
			sea_step(s);
	else
		assert_int_equal(remote_unregister(g), 0);
}

static bool a_is_poisoned(struct sea *s)
{
	int r = 0;

	for (unsigned i = 0; i < 20 && !s->a.error && r != -EPROTO; i++) {
		sea_step(s);
		r = ring_end_receive(&s->a);
	}
	return s->a.error == -EPROTO || r == -EPROTO;
}

static void expect_poison(struct sea *s)
{
	assert_true(a_is_poisoned(s));
	assert_int_equal(remote_domain_offences(s->a.domain, REMOTE_BROKEN), 1);
	assert_true(remote_domain_quarantine_ns(s->a.domain) > 0);
	assert_int_equal(ring_remote_send(s->a.ring, 0, 0, "x", 1), -EPROTO);
	assert_int_equal(ring_remote_flush(s->a.ring), -EPROTO);
	assert_int_equal(ring_end_receive(&s->a), -EPROTO);
	sea_close(s);
}

static uint64_t desc_word(uint32_t size, uint8_t flags, uint8_t tag, uint16_t lap)
{
	return size | (uint64_t)flags << 32 | (uint64_t)tag << 40 | (uint64_t)lap << 48;
}

/* Each rule that a peer can break, one by one. */
static void test_a_peer_that_breaks_the_format(void **state)
{
	const struct {
		uint64_t word;
		uint32_t imm;
	} faults[] = {
		{ desc_word(64, 0, 0, 1), 1 },			  /* never sealed */
		{ desc_word(15, 0, 0, 1), 1 },			  /* too small for a tag */
		{ desc_word(1025, 0, 0, 1), 1 },		  /* more than a quarter of the ring */
		{ desc_word(0xffffffff, 0, 0, 1), 1 },
		{ desc_word(64, 4, 0, 1), 1 },			  /* a flag that there is not */
		{ desc_word(0, RING_FIN, 0, 1), 1 },		  /* an end that nobody sealed */
		{ desc_word(16, 0, RING_REMOTE_TAG_FIN, 1), 1 }, /* the same in our form */
		{ desc_word(64, 0, 0, 2), 1 },			  /* another lap */
		{ 0, 1 },					  /* told of, and not there */
		{ 0, 65 },					  /* more than there can be */
		{ 0, 0 },					  /* none more */
		{ 0, 0x7fffffff },
	};

	for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
		struct sea s;

		sea_open(&s, 1, NULL);
		hostile_write(&s, SHM_PAGE, &faults[i].word, sizeof(faults[i].word), true, faults[i].imm);
		expect_poison(&s);
	}
}

static void test_a_peer_that_says_too_much_was_taken(void **state)
{
	static const uint64_t heads[] = { 64, 4096, UINT64_MAX, UINT64_C(1) << 63 };

	for (size_t i = 0; i < ARRAY_SIZE(heads); i++) {
		struct sea s;

		sea_open(&s, 1, NULL);
		hostile_write(&s, offsetof(struct ring_control, head), &heads[i], sizeof(heads[i]), true, UINT32_C(0x80000000));
		expect_poison(&s);
	}
}

/* It says so before what is staged has gone, or goes back on what it said. */
static void test_a_peer_that_takes_what_was_not_sent(void **state)
{
	uint64_t head = 64;
	struct sea s;

	sea_open(&s, 1, NULL);
	assert_int_equal(ring_remote_send(s.a.ring, 0, 0, "x", 1), 0);
	hostile_write(&s, offsetof(struct ring_control, head), &head, sizeof(head), false, 0);
	assert_int_equal(ring_remote_send(s.a.ring, 0, 0, "x", 1), -EPROTO);
	expect_poison(&s);

	sea_open(&s, 1, NULL);
	send_some(&s, &s.a, 8);
	for (unsigned i = 0; i < 20; i++)
		sea_step(&s);
	hostile_write(&s, offsetof(struct ring_control, head), &head, sizeof(head), true, UINT32_C(0x80000000));
	head = 0;
	hostile_write(&s, offsetof(struct ring_control, head), &head, sizeof(head), true, UINT32_C(0x80000000));
	expect_poison(&s);
}

/* Polling, a record whose bytes never come is waited for, but not for long. */
static void test_a_record_that_never_settles(void **state)
{
	uint64_t word = desc_word(64, 0, 0, 1);
	struct sea s;

	sea_open_with(&s, 1, true, true, NULL);
	hostile_write(&s, SHM_PAGE, &word, sizeof(word), false, 0);
	assert_int_equal(ring_end_receive(&s.a), RING_E_EMPTY);
	fake_net_advance(s.net, LIMIT_RDMA_SETTLE_US * UINT64_C(500));
	assert_int_equal(ring_end_receive(&s.a), RING_E_EMPTY);
	assert_int_equal(remote_domain_offences(s.a.domain, REMOTE_BROKEN), 0);
	fake_net_advance(s.net, LIMIT_RDMA_SETTLE_US * UINT64_C(1100));
	expect_poison(&s);
}

static void test_a_peer_that_has_too_many_batches(void **state)
{
	struct sea s;

	sea_open(&s, 1, NULL);
	for (uint32_t i = 1; i <= 64 && !s.a.error; i++) /* as many as there are descriptors; no rule broken yet */
		hostile_write(&s, 2000, "", 1, true, i);
	assert_int_equal(s.a.error, 0);
	hostile_write(&s, 2000, "", 1, true, 65);
	expect_poison(&s);
}

/* Random bytes at random places, before, between and behind good records. */
static void test_a_peer_that_writes_anywhere(void **state)
{
	unsigned n_poisoned = 0;

	for (uint64_t seed = 1; seed <= 200; seed++) {
		bool poisoned = false;
		struct sea s;

		sea_open(&s, seed, NULL);
		for (unsigned i = 0; i < 40 && !poisoned; i++) {
			uint8_t junk[600];
			uint32_t size = 1 + (uint32_t)(dice(&s) % sizeof(junk));
			uint64_t at = dice(&s) % 3 ? dice(&s) % (s.a.key.size - size) : SHM_PAGE + dice(&s) % 512;

			for (uint32_t k = 0; k < size; k++)
				junk[k] = (uint8_t)dice(&s);
			send_some(&s, &s.b, dice(&s) % 4);
			send_some(&s, &s.a, dice(&s) % 4);
			hostile_write(&s, at, junk, size, dice(&s) % 8 == 0, (uint32_t)dice(&s));
			sea_step(&s);
			poisoned = ring_end_receive(&s.a) == -EPROTO || s.a.error;
			(void)ring_end_receive(&s.b);
		}
		n_poisoned += poisoned;
		sea_close(&s);
	}
	assert_true(n_poisoned > 150);
}

/* -- somebody on the wire, who has read every key */

static void flip_one(void *arg, uint8_t *bytes, size_t n)
{
	unsigned *countdown = arg;

	if (n > 8 && --*countdown == 0)
		bytes[0] ^= 1; /* behind a record comes what fills its last line, which means nothing */
}

static void test_a_bit_changes_under_way(void **state)
{
	for (unsigned which = 1; which <= 6; which++) {
		unsigned countdown = which;
		struct sea s;
		unsigned i;

		sea_open(&s, which, NULL);
		fake_net_set_tamper(s.net, flip_one, &countdown);
		for (i = 0; i < 100 && !s.a.error && ring_end_receive(&s.a) == RING_E_EMPTY; i++) {
			send_some(&s, &s.b, 1);
			sea_step(&s);
		}
		assert_true(i < 100);
		assert_int_equal(ring_end_receive(&s.a), -EPROTO);
		assert_int_equal(remote_domain_offences(s.a.domain, REMOTE_STATUS_N), 1);
		sea_close(&s);
	}
}

struct replay {
	uint8_t kept[64];
	unsigned n_seen;
};

/* The second piece of payload becomes the first one again. */
static void replay_first(void *arg, uint8_t *bytes, size_t n)
{
	struct replay *p = arg;

	if (n != sizeof(p->kept))
		return;
	if (p->n_seen++ == 0)
		memcpy(p->kept, bytes, n);
	else
		memcpy(bytes, p->kept, n);
}

static void test_a_record_comes_again(void **state)
{
	struct ring_remote_record record;
	struct replay replay = {};
	uint8_t plain[40] = { 1 }, out[64];
	struct sea s;

	sea_open(&s, 1, NULL);
	fake_net_set_tamper(s.net, replay_first, &replay);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(ring_remote_send(s.b.ring, 0, 0, plain, sizeof(plain)), 0);
		assert_int_equal(ring_remote_flush(s.b.ring), 0);
		for (unsigned k = 0; k < 10; k++)
			sea_step(&s);
	}
	assert_true(replay.n_seen >= 2);
	assert_int_equal(ring_remote_receive(s.a.ring, out, sizeof(out), &record), 0);
	assert_memory_equal(out, plain, sizeof(plain));
	assert_int_equal(ring_remote_receive(s.a.ring, out, sizeof(out), &record), -EPROTO);
	sea_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bad_weather),
		cmocka_unit_test(test_polling_meets_torn_records),
		cmocka_unit_test(test_death_at_every_stage),
		cmocka_unit_test(test_a_peer_that_breaks_the_format),
		cmocka_unit_test(test_a_peer_that_says_too_much_was_taken),
		cmocka_unit_test(test_a_peer_that_takes_what_was_not_sent),
		cmocka_unit_test(test_a_record_that_never_settles),
		cmocka_unit_test(test_a_peer_that_has_too_many_batches),
		cmocka_unit_test(test_a_peer_that_writes_anywhere),
		cmocka_unit_test(test_a_bit_changes_under_way),
		cmocka_unit_test(test_a_record_comes_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
