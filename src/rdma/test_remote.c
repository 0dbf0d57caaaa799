/*
 * The interface's promises, the same for every backend: docs/design/rdma.md, rule by rule. Linked with one of the beds.
 *
 * Every test has two hosts of its own, joined by one connection unless it says otherwise. What they tell is kept in a log for each, in
 * order; a test takes out of it what it waits for, and fails when that does not come within WAIT_MS.
 */
#include "rdma/test_bed.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { MEMORY = 256 << 10, LOG_MAX = 4096, WAIT_MS = 30000, ALL_RIGHTS = REMOTE_MAY_READ | REMOTE_MAY_WRITE | REMOTE_MAY_ATOMIC };

struct host {
	struct remote *r;
	struct remote_domain *domain;
	struct remote_conn *conn;
	struct remote_region *region;
	_Alignas(4096) uint8_t memory[MEMORY];
	struct remote_done log[LOG_MAX];
	size_t n_log;
};

struct pair {
	struct bed bed;
	struct host a, b;
	struct remote_export *export; /* of b's memory, to a */
	struct remote_key key;
};

/* -- waiting */

static void host_poll(struct host *h)
{
	int n = remote_poll(h->r, h->log + h->n_log, LOG_MAX - h->n_log);

	assert_true(n >= 0);
	h->n_log += (size_t)n;
	assert_true(h->n_log < LOG_MAX);
}

static bool log_take(struct host *h, enum remote_done_kind kind, const struct remote_conn *conn, struct remote_done *ret)
{
	for (size_t i = 0; i < h->n_log; i++) {
		if (h->log[i].kind != kind || (conn && h->log[i].conn != conn))
			continue;
		*ret = h->log[i];
		memmove(h->log + i, h->log + i + 1, (h->n_log - i - 1) * sizeof(*h->log));
		h->n_log--;
		return true;
	}
	return false;
}

static struct remote_done await_of(struct pair *p, struct host *h, enum remote_done_kind kind, const struct remote_conn *conn)
{
	uint64_t until = remote_now_ns(h->r) + WAIT_MS * UINT64_C(1000000);
	struct remote_done d = {};

	for (;;) {
		size_t before = p->a.n_log + p->b.n_log;

		host_poll(&p->a);
		host_poll(&p->b);
		if (log_take(h, kind, conn, &d))
			return d;
		if (remote_now_ns(h->r) > until)
			fail_msg("host %s: nothing of kind %d came", h == &p->a ? "a" : "b", kind);
		if (p->a.n_log + p->b.n_log == before)
			bed_idle(&p->bed);
	}
}

static struct remote_done await(struct pair *p, struct host *h, enum remote_done_kind kind)
{
	return await_of(p, h, kind, NULL);
}

/* -- set-up */

static void token_make(uint8_t *token, uint8_t number)
{
	memset(token, 0x5a, REMOTE_TOKEN_SIZE);
	token[REMOTE_TOKEN_SIZE - 1] = number;
}

static void pair_connect(struct pair *p, struct host *a, struct remote_domain *da, struct host *b, struct remote_domain *db, uint8_t number)
{
	uint8_t token[REMOTE_TOKEN_SIZE];

	token_make(token, number);
	assert_int_equal(remote_expect(&b->conn, db, token), 0);
	assert_int_equal(remote_connect(&a->conn, da, p->bed.b_address, token), 0);
	assert_int_equal(await_of(p, a, REMOTE_DONE_UP, a->conn).status, REMOTE_OK);
	assert_int_equal(await_of(p, b, REMOTE_DONE_UP, b->conn).status, REMOTE_OK);
}

static struct remote_export *export_of(struct pair *p, struct host *h, uint64_t at, uint64_t size, uint32_t rights)
{
	struct remote_export *e = NULL;
	struct remote_done d;

	assert_int_equal(remote_export(&e, h->conn, h->region, at, size, rights), 0);
	d = await(p, h, REMOTE_DONE_EXPORTED);
	assert_int_equal(d.status, REMOTE_OK);
	assert_ptr_equal(d.export, e);
	assert_int_equal(remote_export_key(e)->size, size);
	return e;
}

/* The key, as it would travel. */
static struct remote_key key_of(const struct remote_export *e)
{
	uint8_t bytes[REMOTE_KEY_SIZE];
	struct remote_key key;

	remote_key_put(bytes, remote_export_key(e));
	assert_int_equal(remote_key_get(&key, bytes), 0);
	return key;
}

static void host_open(struct host *h, struct remote *r)
{
	h->r = r;
	assert_int_equal(remote_domain_new(&h->domain, r, 0), 0);
	assert_int_equal(remote_register(&h->region, h->domain, h->memory, MEMORY, ALL_RIGHTS), 0);
	for (unsigned i = 0; i < MEMORY; i++)
		h->memory[i] = (uint8_t)(i * 31 + (i >> 8));
}

static struct pair *pair_alloc(void)
{
	struct pair *p = aligned_alloc(4096, (sizeof(*p) + 4095) & ~(size_t)4095);

	assert_non_null(p);
	memset(p, 0, sizeof(*p));
	bed_open(&p->bed);
	host_open(&p->a, p->bed.a);
	host_open(&p->b, p->bed.b);
	return p;
}

static int set_up_alone(void **state)
{
	*state = pair_alloc();
	return 0;
}

static int set_up(void **state)
{
	struct pair *p = pair_alloc();

	pair_connect(p, &p->a, p->a.domain, &p->b, p->b.domain, 0);
	*state = p;
	return 0;
}

static int tear_down(void **state)
{
	struct pair *p = *state;

	bed_close(&p->bed);
	free(p);
	return 0;
}

static void export_b(struct pair *p, uint32_t rights)
{
	p->export = export_of(p, &p->b, 4096, 128 << 10, rights);
	p->key = key_of(p->export);
}

/* -- operations */

static struct remote_op op_of(const struct pair *p, enum remote_op_kind kind, uint64_t at, uint64_t offset, uint32_t size)
{
	return (struct remote_op){ .kind = kind, .flags = REMOTE_SIGNALLED, .region = p->a.region, .at = at, .offset = offset, .size = size, .key = p->key };
}

static enum remote_status run(struct pair *p, struct remote_op op)
{
	struct remote_done d;

	op.id = 0xabcdef0123456789;
	assert_int_equal(remote_post(p->a.conn, &op, 1), 0);
	d = await(p, &p->a, REMOTE_DONE_OP);
	assert_int_equal(d.id, op.id);
	assert_ptr_equal(d.conn, p->a.conn);
	return d.status;
}

/* All that was written before is in b's memory: a completion of ours is no promise of that, an immediate is. */
static void settle(struct pair *p)
{
	struct remote_op op = op_of(p, REMOTE_WRITE_IMM, 0, 0, 0);

	assert_int_equal(run(p, op), REMOTE_OK);
	(void)await(p, &p->b, REMOTE_DONE_IMM);
}

static void test_read(void **state)
{
	static const uint32_t sizes[] = { 1, 7, 64, 65, 1024, 4096, 4097, 65536 };
	struct pair *p = *state;

	export_b(p, REMOTE_MAY_READ);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		memset(p->a.memory, 0, MEMORY);
		assert_int_equal(run(p, op_of(p, REMOTE_READ, 100, 50, sizes[i])), REMOTE_OK);
		assert_memory_equal(p->a.memory + 100, p->b.memory + 4096 + 50, sizes[i]);
		assert_int_equal(p->a.memory[99], 0);
		assert_int_equal(p->a.memory[100 + sizes[i]], 0);
	}
}

static void test_write(void **state)
{
	static const uint32_t sizes[] = { 1, 7, 64, 65, 1024, 4096, 4097, 65536 };
	struct pair *p = *state;

	export_b(p, REMOTE_MAY_WRITE);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		memset(p->b.memory, 0, MEMORY);
		assert_int_equal(run(p, op_of(p, REMOTE_WRITE, 100, 50, sizes[i])), REMOTE_OK);
		settle(p);
		assert_memory_equal(p->b.memory + 4096 + 50, p->a.memory + 100, sizes[i]);
		assert_int_equal(p->b.memory[4096 + 49], 0);
		assert_int_equal(p->b.memory[4096 + 50 + sizes[i]], 0);
	}
}

static void test_inline_memory_is_free_at_once(void **state)
{
	struct pair *p = *state;
	struct remote_op op;

	export_b(p, REMOTE_MAY_WRITE);
	op = op_of(p, REMOTE_WRITE, 0, 0, remote_caps(p->a.r)->inline_max);
	if (op.size == 0)
		skip();
	op.flags = 0;
	memset(p->a.memory, 7, op.size);
	assert_int_equal(remote_post(p->a.conn, &op, 1), 0);
	memset(p->a.memory, 8, op.size);
	settle(p);
	for (uint32_t i = 0; i < op.size; i++)
		assert_int_equal(p->b.memory[4096 + i], 7);
}

/* An immediate tells that everything before it is there; they come in order, each once. */
static void test_immediates(void **state)
{
	struct pair *p = *state;

	export_b(p, REMOTE_MAY_WRITE);
	for (uint32_t i = 0; i < 20; i++) {
		struct remote_op ops[2] = { op_of(p, REMOTE_WRITE, 0, 0, 5000), op_of(p, REMOTE_WRITE_IMM, 5000, 5000, 8) };
		struct remote_done d;

		memset(p->a.memory, (int)i + 1, 5008);
		ops[0].flags = 0;
		ops[1].imm = 0xf0000000 + i;
		assert_int_equal(remote_post(p->a.conn, ops, 2), 0);
		d = await(p, &p->b, REMOTE_DONE_IMM);
		assert_int_equal(d.imm, 0xf0000000 + i);
		for (uint32_t k = 0; k < 5008; k++)
			assert_int_equal(p->b.memory[4096 + k], i + 1);
		assert_int_equal(await(p, &p->a, REMOTE_DONE_OP).status, REMOTE_OK);
	}
}

static void test_more_immediates_than_are_polled_wait(void **state)
{
	struct pair *p = *state;
	uint32_t n = LIMIT_RDMA_RECVS + 50, sent = 0, got = 0;

	/* Most of them come while b does not look. */
	while (sent < LIMIT_RDMA_RECVS - 1) {
		struct remote_op op = op_of(p, REMOTE_WRITE_IMM, 0, 0, 0);

		op.imm = sent;
		op.flags = sent % 16 == 15 ? REMOTE_SIGNALLED : 0;
		if (remote_post(p->a.conn, &op, 1) == 0)
			sent++;
		else
			bed_idle(&p->bed);
		host_poll(&p->a);
	}
	while (got < n) {
		struct remote_op op = op_of(p, REMOTE_WRITE_IMM, 0, 0, 0);

		op.imm = sent;
		if (sent < n && remote_post(p->a.conn, &op, 1) == 0)
			sent++;
		assert_int_equal(await(p, &p->b, REMOTE_DONE_IMM).imm, got);
		got++;
	}
}

static void test_atomics(void **state)
{
	struct pair *p = *state;
	uint64_t word = 41, old;
	struct remote_op op;

	export_b(p, REMOTE_MAY_READ | REMOTE_MAY_ATOMIC);
	op = op_of(p, REMOTE_ADD, 8, 64, 8);
	op.value = 1;
	if (!remote_caps(p->a.r)->atomics) {
		assert_int_equal(remote_post(p->a.conn, &op, 1), -EOPNOTSUPP);
		return;
	}
	memcpy(p->b.memory + 4096 + 64, &word, 8);
	assert_int_equal(run(p, op), REMOTE_OK);
	memcpy(&old, p->a.memory + 8, 8);
	memcpy(&word, p->b.memory + 4096 + 64, 8);
	assert_int_equal(old, 41);
	assert_int_equal(word, 42);

	op.kind = REMOTE_SWAP;
	op.compare = 41; /* is not so any more */
	op.value = 1000;
	assert_int_equal(run(p, op), REMOTE_OK);
	memcpy(&old, p->a.memory + 8, 8);
	memcpy(&word, p->b.memory + 4096 + 64, 8);
	assert_int_equal(old, 42);
	assert_int_equal(word, 42);

	op.compare = 42;
	op.value = UINT64_C(0x1122334455667788);
	assert_int_equal(run(p, op), REMOTE_OK);
	memcpy(&word, p->b.memory + 4096 + 64, 8);
	assert_true(word == op.value);
}

static void test_wrong_calls_are_refused_here(void **state)
{
	struct pair *p = *state;
	struct remote_export *e = NULL;
	struct remote_op op;

	export_b(p, REMOTE_MAY_WRITE);
	op = op_of(p, REMOTE_WRITE, MEMORY - 10, 0, 11);
	assert_int_equal(remote_post(p->a.conn, &op, 1), -EINVAL);
	op = op_of(p, REMOTE_WRITE, UINT64_MAX - 3, 0, 8);
	assert_int_equal(remote_post(p->a.conn, &op, 1), -EINVAL);
	op = op_of(p, REMOTE_READ, 0, 0, 0);
	assert_int_equal(remote_post(p->a.conn, &op, 1), -EINVAL);
	op = op_of(p, REMOTE_BEAT, 0, 0, 0);
	assert_int_equal(remote_post(p->a.conn, &op, 1), -EINVAL);
	op = op_of(p, REMOTE_WRITE, 0, 0, 8);
	op.region = p->b.region; /* of another domain */
	assert_int_equal(remote_post(p->a.conn, &op, 1), -EINVAL);
	if (remote_caps(p->a.r)->atomics) {
		op = op_of(p, REMOTE_ADD, 4, 0, 8);
		assert_int_equal(remote_post(p->a.conn, &op, 1), -EINVAL);
		op = op_of(p, REMOTE_ADD, 0, 4, 8);
		assert_int_equal(remote_post(p->a.conn, &op, 1), -EINVAL);
	}
	assert_int_equal(remote_export(&e, p->b.conn, p->b.region, 0, MEMORY + 1, REMOTE_MAY_READ), -EINVAL);
	assert_int_equal(remote_export(&e, p->b.conn, p->b.region, MEMORY, 1, REMOTE_MAY_READ), -EINVAL);
	assert_int_equal(remote_export(&e, p->b.conn, p->b.region, 0, 64, REMOTE_MAY_READ | REMOTE_MAY_WRITE), -EINVAL);
	assert_int_equal(remote_export(&e, p->b.conn, p->b.region, 0, 64, REMOTE_MAY_WRITE | REMOTE_MAY_ATOMIC), -EINVAL);
	assert_int_equal(remote_export(&e, p->b.conn, p->b.region, 0, 64, 0), -EINVAL);
	assert_int_equal(remote_export(&e, p->b.conn, p->a.region, 0, 64, REMOTE_MAY_READ), -EINVAL);
	assert_null(e);
	settle(p); /* and the connection lives */
}

static void test_completions_are_in_order_and_only_those_asked_for(void **state)
{
	struct pair *p = *state;
	uint64_t expected = 2;

	export_b(p, REMOTE_MAY_WRITE);
	for (uint64_t id = 0; id < 30; id++) {
		struct remote_op op = op_of(p, REMOTE_WRITE, 64 * id, 64 * id, 64);

		op.id = id;
		op.flags = id % 3 == 2 ? REMOTE_SIGNALLED : 0;
		assert_int_equal(remote_post(p->a.conn, &op, 1), 0);
	}
	for (; expected < 30; expected += 3)
		assert_int_equal(await(p, &p->a, REMOTE_DONE_OP).id, expected);
	assert_int_equal(remote_room(p->a.conn), LIMIT_RDMA_OPS);
}

static void test_a_full_queue_says_so_and_never_stays_full(void **state)
{
	struct pair *p = *state;
	struct remote_op ops[LIMIT_RDMA_OPS + 1];
	unsigned n_full = 0;

	export_b(p, REMOTE_MAY_WRITE);
	for (unsigned i = 0; i <= LIMIT_RDMA_OPS; i++) {
		ops[i] = op_of(p, REMOTE_WRITE, 0, 0, 64);
		ops[i].flags = 0;
	}
	assert_int_equal(remote_post(p->a.conn, ops, LIMIT_RDMA_OPS + 1), REMOTE_E_FULL);
	assert_int_equal(remote_room(p->a.conn), LIMIT_RDMA_OPS);
	/* Nothing signalled, a thousand of them. */
	for (unsigned i = 0; i < 1000;) {
		int r = remote_post(p->a.conn, ops, 1);

		assert_true(r == 0 || r == REMOTE_E_FULL);
		i += r == 0;
		if (r == 0)
			continue;
		assert_true(++n_full < 1000000);
		host_poll(&p->a);
		host_poll(&p->b);
		bed_idle(&p->bed);
	}
	settle(p);
	assert_int_equal(p->a.n_log, 0);
}

/* Completions that nobody takes are kept, and keep their places. */
static void test_completions_that_nobody_takes(void **state)
{
	struct pair *p = *state;
	unsigned n_posted = 0;

	export_b(p, REMOTE_MAY_WRITE);
	for (unsigned i = 0; i < 3000; i++) {
		struct remote_op op = op_of(p, REMOTE_WRITE, 0, 0, 64);
		struct remote_done none[1];
		int r;

		op.id = n_posted;
		r = remote_post(p->a.conn, &op, 1);
		assert_true(r == 0 || r == REMOTE_E_FULL);
		n_posted += r == 0;
		assert_int_equal(remote_poll(p->a.r, none, 0), 0);
		host_poll(&p->b);
		if (r != 0 && i % 100 == 0)
			bed_idle(&p->bed);
	}
	assert_int_equal(n_posted, LIMIT_RDMA_OPS);
	/* Nor is there one more when the peer is asked for a sign of life meanwhile. */
	bed_pass(&p->bed, LIMIT_RDMA_BEAT_MS + 10);
	for (unsigned i = 0; i < 3; i++) {
		struct remote_op op = op_of(p, REMOTE_WRITE, 0, 0, 64);
		struct remote_done none[1];

		assert_int_equal(remote_poll(p->a.r, none, 0), 0);
		assert_int_equal(remote_room(p->a.conn), 0);
		assert_int_equal(remote_post(p->a.conn, &op, 1), REMOTE_E_FULL);
	}
	for (unsigned i = 0; i < n_posted; i++)
		assert_int_equal(await(p, &p->a, REMOTE_DONE_OP).id, i);
	for (uint64_t until = remote_now_ns(p->a.r) + WAIT_MS * UINT64_C(1000000); remote_room(p->a.conn) < LIMIT_RDMA_OPS;) {
		assert_true(remote_now_ns(p->a.r) < until);
		host_poll(&p->a);
		host_poll(&p->b);
		bed_idle(&p->bed);
	}
}

/* -- who may do what */

/*
 * One access of a's that b has to refuse: it and what was posted behind it fail in order, both ends go down, b counts it and makes no
 * connection for a while, and its memory is as it was.
 */
static void refused(struct pair *p, struct remote_op bad, enum remote_status exactly)
{
	struct remote_op ops[3] = { op_of(p, bad.kind, 0, 0, 8), bad, op_of(p, REMOTE_WRITE_IMM, 0, 0, 0) };
	static uint8_t before[MEMORY];
	uint8_t token[REMOTE_TOKEN_SIZE];
	enum remote_status s;
	struct remote_conn *c;

	memcpy(before, p->b.memory, MEMORY);
	ops[1].id = 1;
	ops[2].id = 2;
	ops[2].flags = 0; /* flushed operations are told all the same */
	assert_int_equal(remote_post(p->a.conn, ops + 1, 2), 0);
	s = await(p, &p->a, REMOTE_DONE_OP).status;
	if (!remote_status_is_access(s))
		fail_msg("the access was not refused but said %s", remote_status_name(s));
	assert_int_equal(s, remote_caps(p->a.r)->tells_why ? exactly : REMOTE_ACCESS);
	s = await(p, &p->a, REMOTE_DONE_OP).status;
	assert_int_equal(s, REMOTE_FLUSHED);
	assert_true(remote_status_is_access(await(p, &p->a, REMOTE_DONE_DOWN).status));
	assert_int_equal(remote_post(p->a.conn, ops, 1), -ENOTCONN);
	assert_int_equal(await(p, &p->b, REMOTE_DONE_DOWN).status, REMOTE_OFFENCE);
	assert_int_equal(remote_domain_offences(p->b.domain, REMOTE_STATUS_N), 1);
	if (remote_caps(p->b.r)->tells_why)
		assert_int_equal(remote_domain_offences(p->b.domain, exactly), 1);
	assert_memory_equal(before, p->b.memory, MEMORY);
	assert_true(remote_domain_quarantine_ns(p->b.domain) > 0);
	assert_int_equal(remote_domain_quarantine_ns(p->a.domain), 0);
	token_make(token, 99);
	assert_int_equal(remote_expect(&c, p->b.domain, token), -EACCES);
	assert_int_equal(p->a.n_log + p->b.n_log, 0);
}

static void test_wrong_key(void **state)
{
	struct pair *p = *state;
	struct remote_op op;

	export_b(p, REMOTE_MAY_READ);
	op = op_of(p, REMOTE_READ, 0, 0, 8);
	op.key.key += 0x10000;
	refused(p, op, REMOTE_BAD_KEY);
}

static void test_read_past_the_end(void **state)
{
	struct pair *p = *state;

	export_b(p, REMOTE_MAY_READ);
	assert_int_equal(run(p, op_of(p, REMOTE_READ, 0, p->key.size - 64, 64)), REMOTE_OK);
	refused(p, op_of(p, REMOTE_READ, 0, p->key.size - 63, 64), REMOTE_BOUNDS);
}

static void test_write_before_the_start(void **state)
{
	struct pair *p = *state;

	export_b(p, REMOTE_MAY_WRITE);
	refused(p, op_of(p, REMOTE_WRITE, 0, (uint64_t)0 - 1, 64), REMOTE_BOUNDS);
}

static void test_write_where_reading_is_allowed(void **state)
{
	struct pair *p = *state;

	export_b(p, REMOTE_MAY_READ);
	refused(p, op_of(p, REMOTE_WRITE, 0, 0, 64), REMOTE_NO_RIGHT);
}

static void test_read_where_writing_is_allowed(void **state)
{
	struct pair *p = *state;

	export_b(p, REMOTE_MAY_WRITE);
	refused(p, op_of(p, REMOTE_READ, 0, 0, 64), REMOTE_NO_RIGHT);
}

static void test_atomic_where_reading_is_allowed(void **state)
{
	struct pair *p = *state;

	if (!remote_caps(p->a.r)->atomics)
		skip();
	export_b(p, REMOTE_MAY_READ);
	refused(p, op_of(p, REMOTE_ADD, 0, 0, 8), REMOTE_NO_RIGHT);
}

/* It is told to nobody as an immediate, and counts as the others do. */
static void test_immediate_by_a_wrong_key(void **state)
{
	struct pair *p = *state;
	struct remote_op op;

	export_b(p, REMOTE_MAY_WRITE);
	op = op_of(p, REMOTE_WRITE_IMM, 0, 0, 64);
	op.key.key += 0x10000;
	refused(p, op, REMOTE_BAD_KEY);
}

static void test_immediate_past_the_end(void **state)
{
	struct pair *p = *state;

	export_b(p, REMOTE_MAY_WRITE);
	refused(p, op_of(p, REMOTE_WRITE_IMM, 0, p->key.size - 63, 64), REMOTE_BOUNDS);
}

static void test_a_revoked_key(void **state)
{
	struct pair *p = *state;

	export_b(p, REMOTE_MAY_READ);
	assert_int_equal(run(p, op_of(p, REMOTE_READ, 0, 0, 64)), REMOTE_OK);
	assert_int_equal(remote_revoke(p->export), 0);
	assert_int_equal(remote_revoke(p->export), -EALREADY);
	assert_ptr_equal(await(p, &p->b, REMOTE_DONE_REVOKED).export, p->export);
	refused(p, op_of(p, REMOTE_READ, 0, 0, 64), REMOTE_REVOKED);
}

static void test_revoking_one_leaves_the_others(void **state)
{
	struct remote_export *other;
	struct pair *p = *state;

	export_b(p, REMOTE_MAY_READ);
	other = export_of(p, &p->b, 0, 4096, REMOTE_MAY_READ);
	assert_int_equal(remote_revoke(p->export), 0);
	(void)await(p, &p->b, REMOTE_DONE_REVOKED);
	p->key = key_of(other);
	assert_int_equal(run(p, op_of(p, REMOTE_READ, 0, 0, 64)), REMOTE_OK);
	assert_memory_equal(p->a.memory, p->b.memory, 64);
}

/* b's other domain, for another peer, with a connection and an export of its own: its key is worth nothing to a. */
static void test_a_key_of_another_domain(void **state)
{
	struct pair *p = *state;
	struct host *other = aligned_alloc(4096, (sizeof(*other) + 4095) & ~(size_t)4095);
	struct remote_conn *first_a = p->a.conn, *first_b = p->b.conn, *second_b;
	struct remote_region *region = NULL;
	struct remote_domain *domain = NULL;
	struct remote_export *e = NULL;

	assert_non_null(other);
	memset(other, 0, sizeof(*other));
	assert_int_equal(remote_domain_new(&domain, p->b.r, 0), 0);
	assert_int_equal(remote_register(&region, domain, other->memory, MEMORY, REMOTE_MAY_READ), 0);
	pair_connect(p, &p->a, p->a.domain, &p->b, domain, 1);
	second_b = p->b.conn;
	assert_int_equal(remote_export(&e, second_b, region, 0, 4096, REMOTE_MAY_READ), 0);
	assert_int_equal(await(p, &p->b, REMOTE_DONE_EXPORTED).status, REMOTE_OK);
	p->key = key_of(e);
	assert_int_equal(run(p, op_of(p, REMOTE_READ, 0, 0, 64)), REMOTE_OK); /* on its own connection */
	p->a.conn = first_a;
	p->b.conn = first_b;
	refused(p, op_of(p, REMOTE_READ, 0, 0, 64), REMOTE_OTHER_DOMAIN);
	assert_int_equal(remote_domain_offences(domain, REMOTE_STATUS_N), 0);
	remote_domain_free(domain);
	free(other);
}

static void test_quarantine_ends_and_doubles(void **state)
{
	struct pair *p = *state;
	uint64_t ns;

	remote_domain_offence(p->b.domain, REMOTE_BROKEN);
	ns = remote_domain_quarantine_ns(p->b.domain) - remote_now_ns(p->b.r);
	assert_true(ns <= LIMIT_RDMA_QUARANTINE_MS * UINT64_C(1000000));
	assert_int_equal(await(p, &p->b, REMOTE_DONE_DOWN).status, REMOTE_OFFENCE);
	(void)await(p, &p->a, REMOTE_DONE_DOWN);
	remote_close(p->a.conn);
	remote_close(p->b.conn);
	bed_pass(&p->bed, LIMIT_RDMA_QUARANTINE_MS + 10);
	assert_int_equal(remote_domain_quarantine_ns(p->b.domain), 0);
	pair_connect(p, &p->a, p->a.domain, &p->b, p->b.domain, 2);
	remote_domain_offence(p->b.domain, REMOTE_BROKEN);
	ns = remote_domain_quarantine_ns(p->b.domain) - remote_now_ns(p->b.r);
	assert_true(ns > LIMIT_RDMA_QUARANTINE_MS * UINT64_C(1500000));
	assert_int_equal(remote_domain_offences(p->b.domain, REMOTE_BROKEN), 2);
}

/* -- connections and their ends */

static void test_a_token_is_good_once(void **state)
{
	struct pair *p = *state;
	uint8_t token[REMOTE_TOKEN_SIZE], wrong[REMOTE_TOKEN_SIZE];
	struct remote_conn *expected, *again, *c;

	token_make(token, 1);
	token_make(wrong, 2);
	assert_int_equal(remote_expect(&expected, p->b.domain, token), 0);
	assert_int_equal(remote_expect(&again, p->b.domain, token), -EEXIST);
	assert_int_equal(remote_connect(&c, p->a.domain, p->bed.b_address, wrong), 0);
	assert_int_equal(await_of(p, &p->a, REMOTE_DONE_DOWN, c).status, REMOTE_REFUSED);
	remote_close(c);
	assert_int_equal(remote_connect(&c, p->a.domain, p->bed.b_address, token), 0);
	(void)await_of(p, &p->a, REMOTE_DONE_UP, c);
	/* What a used token is wiped to is none. */
	memset(wrong, 0, sizeof(wrong));
	assert_int_equal(remote_connect(&again, p->a.domain, p->bed.b_address, wrong), 0);
	assert_int_equal(await_of(p, &p->a, REMOTE_DONE_DOWN, again).status, REMOTE_REFUSED);
	remote_close(again);
	(void)await_of(p, &p->b, REMOTE_DONE_UP, expected);
	assert_int_equal(remote_connect(&again, p->a.domain, p->bed.b_address, token), 0);
	assert_int_equal(await_of(p, &p->a, REMOTE_DONE_DOWN, again).status, REMOTE_REFUSED);
}

static void test_connecting_takes_a_bounded_time(void **state)
{
	struct pair *p = *state;
	uint8_t token[REMOTE_TOKEN_SIZE];
	struct remote_conn *from, *to;
	enum remote_status s;

	token_make(token, 1);
	assert_int_equal(remote_expect(&to, p->b.domain, token), 0);
	if (!p->bed.nobody)
		bed_kill_b(&p->bed);
	assert_int_equal(remote_connect(&from, p->a.domain, p->bed.nobody, token), 0);
	s = await_of(p, &p->a, REMOTE_DONE_DOWN, from).status;
	assert_true(s == REMOTE_TIMEOUT || s == REMOTE_REFUSED); /* some networks say at once that nobody is there */
	assert_int_equal(await_of(p, &p->b, REMOTE_DONE_DOWN, to).status, REMOTE_TIMEOUT);
}

static void test_closing_is_noticed(void **state)
{
	struct pair *p = *state;

	export_b(p, REMOTE_MAY_READ);
	remote_close(p->b.conn);
	assert_int_equal(await(p, &p->a, REMOTE_DONE_DOWN).status, REMOTE_PEER_GONE);
	remote_close(p->a.conn);
	assert_int_equal(p->a.n_log + p->b.n_log, 0);
	assert_int_equal(remote_domain_offences(p->b.domain, REMOTE_STATUS_N), 0);
	pair_connect(p, &p->a, p->a.domain, &p->b, p->b.domain, 3);
	export_b(p, REMOTE_MAY_READ);
	assert_int_equal(run(p, op_of(p, REMOTE_READ, 0, 0, 64)), REMOTE_OK);
}

static void test_a_dead_peer_is_noticed_by_who_waits(void **state)
{
	struct pair *p = *state;
	struct remote_op op;
	uint64_t began;

	if (!p->bed.can_kill)
		skip();
	export_b(p, REMOTE_MAY_WRITE);
	bed_kill_b(&p->bed);
	op = op_of(p, REMOTE_WRITE, 0, 0, 4096);
	began = remote_now_ns(p->a.r);
	assert_int_equal(remote_post(p->a.conn, &op, 1), 0);
	for (;;) {
		struct remote_done d[2];
		int n = remote_poll(p->a.r, d, 2);

		assert_true(remote_now_ns(p->a.r) - began < (LIMIT_RDMA_DEAD_MS + 5000) * UINT64_C(1000000));
		if (n > 0) {
			assert_int_equal(d[0].kind, REMOTE_DONE_OP);
			assert_true(d[0].status == REMOTE_PEER_GONE || d[0].status == REMOTE_FLUSHED);
			break;
		}
		bed_idle(&p->bed);
	}
}

static void test_a_dead_peer_is_noticed_in_silence(void **state)
{
	struct pair *p = *state;
	uint64_t began = remote_now_ns(p->a.r);

	if (!p->bed.can_kill)
		skip();
	bed_kill_b(&p->bed);
	for (;;) {
		struct remote_done d;
		int n = remote_poll(p->a.r, &d, 1);

		assert_true(remote_now_ns(p->a.r) - began < (LIMIT_RDMA_BEAT_MS + LIMIT_RDMA_DEAD_MS + 5000) * UINT64_C(1000000));
		if (n > 0) {
			assert_int_equal(d.kind, REMOTE_DONE_DOWN);
			assert_true(d.status == REMOTE_PEER_GONE || d.status == REMOTE_TIMEOUT);
			break;
		}
		bed_idle(&p->bed);
	}
}

/* Silence alone ends nothing: both are there. */
static void test_a_silent_connection_lives(void **state)
{
	struct pair *p = *state;

	for (unsigned ms = 0; ms < LIMIT_RDMA_BEAT_MS + LIMIT_RDMA_DEAD_MS + 500; ms += 50) {
		bed_pass(&p->bed, 50);
		host_poll(&p->a);
		host_poll(&p->b);
	}
	assert_int_equal(p->a.n_log + p->b.n_log, 0);
	settle(p);
}

/* Nothing of it asked to be told: that alone is no reason to give the peer up. */
static void test_unsignalled_operations_do_not_time_out(void **state)
{
	struct pair *p = *state;
	struct remote_op op;

	export_b(p, REMOTE_MAY_WRITE);
	op = op_of(p, REMOTE_WRITE, 0, 0, 64);
	op.flags = 0;
	assert_int_equal(remote_post(p->a.conn, &op, 1), 0);
	for (unsigned ms = 0; ms < LIMIT_RDMA_DEAD_MS + 500; ms += 50) {
		bed_pass(&p->bed, 50);
		host_poll(&p->a);
		host_poll(&p->b);
	}
	assert_int_equal(p->a.n_log + p->b.n_log, 0);
	assert_int_equal(remote_room(p->a.conn), LIMIT_RDMA_OPS);
}

/* -- resources */

static void test_pinned_bytes_are_bounded(void **state)
{
	struct pair *p = *state;
	struct remote_region *g, *h;
	struct remote_domain *d;
	uint8_t *memory = aligned_alloc(4096, 16384);

	assert_non_null(memory);
	assert_int_equal(remote_domain_new(&d, p->a.r, 12288), 0);
	assert_int_equal(remote_register(&g, d, memory, 8192, REMOTE_MAY_READ), 0);
	assert_int_equal(remote_register(&h, d, memory + 8192, 8192, REMOTE_MAY_READ), -EDQUOT);
	assert_int_equal(remote_register(&h, d, memory + 8192, 4096, REMOTE_MAY_READ), 0);
	assert_int_equal(remote_unregister(g), 0);
	assert_int_equal(remote_register(&g, d, memory, 8192, REMOTE_MAY_READ), 0);
	remote_domain_free(d);
	free(memory);
}

static void test_memory_in_use_stays(void **state)
{
	struct pair *p = *state;

	export_b(p, REMOTE_MAY_READ);
	assert_int_equal(remote_unregister(p->b.region), -EBUSY);
	assert_int_equal(remote_revoke(p->export), 0);
	(void)await(p, &p->b, REMOTE_DONE_REVOKED);
	assert_int_equal(remote_unregister(p->b.region), 0);
}

static void test_exports_are_bounded(void **state)
{
	struct pair *p = *state;
	struct remote_export *e;
	int r;

	for (unsigned i = 0; i < LIMIT_RDMA_EXPORTS; i++)
		(void)export_of(p, &p->b, i * 64, 64, REMOTE_MAY_READ);
	r = remote_export(&e, p->b.conn, p->b.region, 0, 64, REMOTE_MAY_READ);
	assert_int_equal(r, -EMFILE);
}

static void test_keys_from_outside(void **state)
{
	static const uint8_t good[REMOTE_KEY_SIZE] = { 0, 0x10, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0x78, 0x56, 0x34, 0x12, 2 };
	uint8_t bytes[REMOTE_KEY_SIZE], again[REMOTE_KEY_SIZE];
	struct remote_key key;

	assert_int_equal(remote_key_get(&key, good), 0);
	assert_int_equal(key.base, 4096);
	assert_int_equal(key.size, 64);
	assert_int_equal(key.key, 0x12345678);
	assert_int_equal(key.rights, REMOTE_MAY_WRITE);
	remote_key_put(again, &key);
	assert_memory_equal(again, good, sizeof(good));
	for (unsigned rights = 0; rights < 256; rights++) {
		bool is_good = rights == 1 || rights == 2 || rights == 5;

		memcpy(bytes, good, sizeof(bytes));
		bytes[20] = (uint8_t)rights;
		assert_int_equal(remote_key_get(&key, bytes), is_good ? 0 : -EPROTO);
	}
	memcpy(bytes, good, sizeof(bytes));
	bytes[8] = 0;
	assert_int_equal(remote_key_get(&key, bytes), -EPROTO);
	memset(bytes + 8, 0xff, 8);
	assert_int_equal(remote_key_get(&key, bytes), -EPROTO);
}

int main(void)
{
#define JOINED(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
#define ALONE(test) cmocka_unit_test_setup_teardown(test, set_up_alone, tear_down)
	const struct CMUnitTest tests[] = {
		JOINED(test_read),
		JOINED(test_write),
		JOINED(test_inline_memory_is_free_at_once),
		JOINED(test_immediates),
		JOINED(test_more_immediates_than_are_polled_wait),
		JOINED(test_atomics),
		JOINED(test_wrong_calls_are_refused_here),
		JOINED(test_completions_are_in_order_and_only_those_asked_for),
		JOINED(test_a_full_queue_says_so_and_never_stays_full),
		JOINED(test_completions_that_nobody_takes),
		JOINED(test_wrong_key),
		JOINED(test_read_past_the_end),
		JOINED(test_write_before_the_start),
		JOINED(test_write_where_reading_is_allowed),
		JOINED(test_read_where_writing_is_allowed),
		JOINED(test_atomic_where_reading_is_allowed),
		JOINED(test_immediate_by_a_wrong_key),
		JOINED(test_immediate_past_the_end),
		JOINED(test_a_revoked_key),
		JOINED(test_revoking_one_leaves_the_others),
		JOINED(test_a_key_of_another_domain),
		JOINED(test_quarantine_ends_and_doubles),
		ALONE(test_a_token_is_good_once),
		ALONE(test_connecting_takes_a_bounded_time),
		JOINED(test_closing_is_noticed),
		JOINED(test_a_dead_peer_is_noticed_by_who_waits),
		JOINED(test_a_dead_peer_is_noticed_in_silence),
		JOINED(test_a_silent_connection_lives),
		JOINED(test_unsignalled_operations_do_not_time_out),
		JOINED(test_pinned_bytes_are_bounded),
		JOINED(test_memory_in_use_stays),
		JOINED(test_exports_are_bounded),
		cmocka_unit_test(test_keys_from_outside),
	};

	if (getenv("SEALANE_TEST_FILTER"))
		cmocka_set_test_filter(getenv("SEALANE_TEST_FILTER"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
