/* What only the fake can show: losses, tears, silence, and the same again with the same seed. */
#include "rdma/fake.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { SIZE = 4096 };

struct world {
	struct fake_net *net;
	struct remote *a, *b;
	struct remote_domain *da, *db;
	struct remote_conn *ca, *cb;
	struct remote_region *ga, *gb;
	struct remote_export *export;
	uint8_t here[SIZE], there[SIZE];
	struct remote_done last; /* that a was told, up to the kind that is wanted */
	enum remote_done_kind wanted;
	unsigned n_imms;	 /* that b was told */
};

static const struct fake_device g_device = { .atomics = true, .windows = true, .ordered = true, .tells_why = true };

static void look(struct world *w)
{
	struct remote_done d;

	while (w->last.kind != w->wanted && remote_poll(w->a, &d, 1) == 1)
		w->last = d;
	while (remote_poll(w->b, &d, 1) == 1)
		w->n_imms += d.kind == REMOTE_DONE_IMM;
}

/* Until a is told something of that kind, or @ms have passed. */
static bool told(struct world *w, enum remote_done_kind kind, unsigned ms)
{
	uint64_t until = fake_net_now_ns(w->net) + ms * UINT64_C(1000000);

	w->last = (struct remote_done){ .kind = (enum remote_done_kind)99 };
	w->wanted = kind;
	while (fake_net_now_ns(w->net) < until) {
		look(w);
		if (w->last.kind == kind)
			return true;
		if (!fake_net_step(w->net))
			fake_net_advance(w->net, 1000000);
	}
	return false;
}

static struct world *world_new(uint64_t seed, uint32_t rights)
{
	static const uint8_t token[REMOTE_TOKEN_SIZE] = { 1 };
	struct world *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	assert_int_equal(fake_net_new(&w->net, seed), 0);
	assert_int_equal(fake_open(&w->a, w->net, "a", &g_device), 0);
	assert_int_equal(fake_open(&w->b, w->net, "b", &g_device), 0);
	assert_int_equal(remote_domain_new(&w->da, w->a, 0), 0);
	assert_int_equal(remote_domain_new(&w->db, w->b, 0), 0);
	assert_int_equal(remote_register(&w->ga, w->da, w->here, SIZE, 0), 0);
	assert_int_equal(remote_register(&w->gb, w->db, w->there, SIZE, rights), 0);
	assert_int_equal(remote_expect(&w->cb, w->db, token), 0);
	assert_int_equal(remote_connect(&w->ca, w->da, "b", token), 0);
	assert_true(told(w, REMOTE_DONE_UP, 1000));
	assert_int_equal(remote_export(&w->export, w->cb, w->gb, 0, SIZE, rights), 0);
	return w;
}

static void world_free(struct world *w)
{
	remote_free(w->a);
	remote_free(w->b);
	fake_net_free(w->net);
	free(w);
}

static struct remote_op op_of(struct world *w, enum remote_op_kind kind, uint32_t size)
{
	return (struct remote_op){ .kind = kind, .flags = REMOTE_SIGNALLED, .region = w->ga, .size = size, .key = *remote_export_key(w->export) };
}

static void test_losses_cost_time_only(void **state)
{
	struct world *w = world_new(3, REMOTE_MAY_WRITE);
	uint64_t began = fake_net_now_ns(w->net);

	fake_net_set_faults(w->net, &(struct fake_faults){ .delay_ns = 1000, .jitter_ns = 5000, .loss_permille = 100 });
	for (unsigned i = 0; i < 200; i++) {
		struct remote_op op = op_of(w, REMOTE_WRITE_IMM, 100);

		memset(w->here, (int)i, 100);
		assert_int_equal(remote_post(w->ca, &op, 1), 0);
		assert_true(told(w, REMOTE_DONE_OP, 3000));
		assert_int_equal(w->last.status, REMOTE_OK);
		assert_int_equal(w->there[99], (uint8_t)i);
	}
	assert_int_equal(w->n_imms, 200);
	assert_true(fake_net_now_ns(w->net) - began > 10 * UINT64_C(67000000)); /* some were lost indeed */
	world_free(w);
}

static void test_too_many_losses_end_it(void **state)
{
	struct world *w = world_new(4, REMOTE_MAY_WRITE);
	struct remote_op op = op_of(w, REMOTE_WRITE, 100);

	fake_net_set_faults(w->net, &(struct fake_faults){ .delay_ns = 1000, .loss_permille = 1000 });
	assert_int_equal(remote_post(w->ca, &op, 1), 0);
	assert_true(told(w, REMOTE_DONE_DOWN, 3000));
	assert_int_equal(w->last.status, REMOTE_PEER_GONE);
	world_free(w);
}

static uint64_t time_of_ten(uint64_t seed)
{
	struct world *w = world_new(seed, REMOTE_MAY_WRITE);
	uint64_t ns;

	fake_net_set_faults(w->net, &(struct fake_faults){ .delay_ns = 1000, .jitter_ns = 100000, .loss_permille = 100 });
	for (unsigned i = 0; i < 10; i++) {
		struct remote_op op = op_of(w, REMOTE_WRITE, 100);

		assert_int_equal(remote_post(w->ca, &op, 1), 0);
		assert_true(told(w, REMOTE_DONE_OP, 3000));
	}
	ns = fake_net_now_ns(w->net);
	world_free(w);
	return ns;
}

static void test_the_same_seed_is_the_same_run(void **state)
{
	assert_true(time_of_ten(7) == time_of_ten(7));
	assert_true(time_of_ten(7) != time_of_ten(8));
}

/* A read while the owner writes gets some of both; a write is seen in parts, from either end. */
static void test_tears(void **state)
{
	struct world *w = world_new(5, REMOTE_MAY_READ);
	struct remote_op op = op_of(w, REMOTE_READ, 1024);

	fake_net_set_faults(w->net, &(struct fake_faults){ .delay_ns = 1000, .tear_ns = 100 });
	memset(w->there, 1, SIZE);
	assert_int_equal(remote_post(w->ca, &op, 1), 0);
	fake_net_advance(w->net, 1000 + 5 * 100);
	memset(w->there, 2, SIZE);
	assert_true(told(w, REMOTE_DONE_OP, 1000));
	assert_int_equal(w->here[0], 1);
	assert_int_equal(w->here[1023], 2);
	world_free(w);

	for (int backwards = 0; backwards < 2; backwards++) {
		w = world_new(5, REMOTE_MAY_WRITE);
		fake_net_set_faults(w->net, &(struct fake_faults){ .delay_ns = 1000, .tear_ns = 100, .backwards = backwards });
		memset(w->here, 3, SIZE);
		op = op_of(w, REMOTE_WRITE, 1000);
		assert_int_equal(remote_post(w->ca, &op, 1), 0);
		fake_net_advance(w->net, 1000 + 5 * 100);
		assert_int_equal(w->there[backwards ? 999 : 0], 3);
		assert_int_equal(w->there[backwards ? 0 : 999], 0);
		assert_true(told(w, REMOTE_DONE_OP, 1000));
		assert_memory_equal(w->there, w->here, 1000);
		world_free(w);
	}
}

/* Revoked while its bytes arrive: the rest of them does not. */
static void test_revoking_in_the_middle(void **state)
{
	struct world *w = world_new(6, REMOTE_MAY_WRITE);
	struct remote_op op = op_of(w, REMOTE_WRITE, 1024);

	fake_net_set_faults(w->net, &(struct fake_faults){ .delay_ns = 1000, .tear_ns = 100 });
	memset(w->here, 3, SIZE);
	assert_int_equal(remote_post(w->ca, &op, 1), 0);
	fake_net_advance(w->net, 1000 + 5 * 100);
	assert_int_equal(remote_revoke(w->export), 0);
	assert_true(told(w, REMOTE_DONE_OP, 1000));
	assert_int_equal(w->last.status, REMOTE_REVOKED);
	assert_int_equal(w->there[0], 3);
	assert_int_equal(w->there[1023], 0);
	assert_int_equal(remote_domain_offences(w->db, REMOTE_REVOKED), 1);
	world_free(w);
}

static void flip(void *arg, uint8_t *bytes, size_t n)
{
	bytes[n - 1] ^= 0x80;
	++*(unsigned *)arg;
}

static void test_somebody_on_the_wire(void **state)
{
	struct world *w = world_new(6, REMOTE_MAY_WRITE);
	struct remote_op op = op_of(w, REMOTE_WRITE, 128);
	unsigned n = 0;

	fake_net_set_tamper(w->net, flip, &n);
	assert_int_equal(remote_post(w->ca, &op, 1), 0);
	assert_true(told(w, REMOTE_DONE_OP, 1000));
	assert_int_equal(n, 2);
	assert_int_equal(w->there[63], 0x80);
	assert_int_equal(w->there[127], 0x80);
	world_free(w);
}

/* Memory that is not inline is read when it leaves, so whoever writes it too early sends that. */
static void test_late_reads_of_the_senders_memory(void **state)
{
	struct world *w = world_new(6, REMOTE_MAY_WRITE);
	struct remote_op op = op_of(w, REMOTE_WRITE, 128);

	assert_int_equal(remote_post(w->ca, &op, 1), 0);
	memset(w->here, 9, SIZE);
	assert_true(told(w, REMOTE_DONE_OP, 1000));
	assert_int_equal(w->there[0], 9);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_losses_cost_time_only),
		cmocka_unit_test(test_too_many_losses_end_it),
		cmocka_unit_test(test_the_same_seed_is_the_same_run),
		cmocka_unit_test(test_tears),
		cmocka_unit_test(test_revoking_in_the_middle),
		cmocka_unit_test(test_somebody_on_the_wire),
		cmocka_unit_test(test_late_reads_of_the_senders_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
