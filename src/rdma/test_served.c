/* What only a channel has: windows that hold for who does not poll, and a peer that answers what it likes. (fuzz_served.c has the rest.) */
#include "rdma/served.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { SIZE = 8 << 20, DONE = 6, TOOK = 7, HEADER = 32 };

struct host {
	struct remote *r;
	struct remote_domain *domain;
	struct remote_region *region;
	struct remote_conn *conn;
	uint8_t *memory;
};

struct wire {
	struct host a, b;
	struct remote_key key; /* of b's memory */
};

static void host_open(struct host *h)
{
	assert_int_equal(served_open(&h->r, &(struct served_options){ NULL, NULL }), 0);
	assert_int_equal(remote_domain_new(&h->domain, h->r, 0), 0);
	h->memory = calloc(1, SIZE);
	assert_non_null(h->memory);
	assert_int_equal(remote_register(&h->region, h->domain, h->memory, SIZE, REMOTE_MAY_READ), 0);
}

/* Everything that @from has to say. Return: the most that waited at once. */
static size_t move(struct host *from, struct host *to)
{
	const uint8_t *out;
	const char *why;
	size_t n, most = 0;

	while ((n = served_output(from->r, &out)) > 0) {
		most = n > most ? n : most;
		assert_int_equal(served_input(to->r, out, n, &why), 0);
		served_sent(from->r, n);
	}
	return most;
}

static int set_up(void **state)
{
	static const uint8_t token[REMOTE_TOKEN_SIZE] = { 1 };
	struct wire *w = calloc(1, sizeof(*w));
	struct remote_export *e;
	struct remote_done d;

	assert_non_null(w);
	host_open(&w->a);
	host_open(&w->b);
	assert_int_equal(remote_expect(&w->b.conn, w->b.domain, token), 0);
	assert_int_equal(remote_connect(&w->a.conn, w->a.domain, "", token), 0);
	(void)move(&w->a, &w->b);
	(void)move(&w->b, &w->a);
	assert_int_equal(remote_export(&e, w->b.conn, w->b.region, 0, SIZE, REMOTE_MAY_READ), 0);
	w->key = *remote_export_key(e);
	assert_int_equal(remote_poll(w->a.r, &d, 1), 1);
	assert_int_equal(d.kind, REMOTE_DONE_UP);
	*state = w;
	return 0;
}

static int tear_down(void **state)
{
	struct wire *w = *state;

	remote_free(w->a.r);
	remote_free(w->b.r);
	free(w->a.memory);
	free(w->b.memory);
	free(w);
	return 0;
}

static void post(struct wire *w, enum remote_op_kind kind, uint32_t size)
{
	struct remote_op op = { .kind = kind, .flags = REMOTE_SIGNALLED, .region = w->a.region, .size = size, .key = w->key };

	assert_int_equal(remote_post(w->a.conn, &op, 1), 0);
}

/* b gets no more immediates than it has room for, however many are posted while it takes none. */
static void test_immediates_wait_here(void **state)
{
	struct wire *w = *state;
	struct remote_done d;
	unsigned n_sent = 0, n_got = 0;

	for (unsigned i = 0; i < 2000; i++) {
		if (n_sent < 1000 && remote_room(w->a.conn) > 0) {
			post(w, REMOTE_WRITE_IMM, 0);
			n_sent++;
		}
		(void)move(&w->a, &w->b);
		(void)move(&w->b, &w->a);
		while (remote_poll(w->a.r, &d, 1) == 1)
			assert_int_equal(d.kind, REMOTE_DONE_OP);
	}
	assert_int_equal(n_sent, LIMIT_RDMA_RECVS + LIMIT_RDMA_OPS);
	while (remote_poll(w->b.r, &d, 1) == 1) {
		n_got += d.kind == REMOTE_DONE_IMM;
		(void)move(&w->b, &w->a);
		(void)move(&w->a, &w->b);
	}
	assert_int_equal(n_got, n_sent);
}

/* a asks for 100 times 1 MiB; what b has to keep for it is about one of them. */
static void test_reads_wait_here(void **state)
{
	struct wire *w = *state;
	struct remote_done d;
	size_t most = 0, n;

	for (unsigned i = 0; i < 100; i++)
		post(w, REMOTE_READ, 1 << 20);
	for (unsigned i = 0; i < 100; i++) {
		(void)move(&w->a, &w->b);
		n = move(&w->b, &w->a);
		most = n > most ? n : most;
		assert_int_equal(remote_poll(w->a.r, &d, 1), 1);
		assert_int_equal(d.status, REMOTE_OK);
	}
	assert_true(most < 2 << 20);
}

/* -- b says what it likes */

static int say(struct wire *w, uint8_t type, uint8_t kind, uint8_t flags, uint64_t address, uint32_t size)
{
	uint8_t frame[HEADER + 4096] = { type, kind, flags };
	const char *why;
	int r;

	memcpy(frame + 8, &size, sizeof(size));
	memcpy(frame + 16, &address, sizeof(address));
	r = served_input(w->a.r, frame, HEADER + size, &why);
	assert_true(r == 0 || why);
	return r;
}

enum lie { SKIPS, SHORT, LONG, NO_BYTES, BYTES_FOR_NONE, TWICE, NOT_ASKED, TOO_MUCH_TAKEN, NOT_OUT, LIE_N };

/* Of a READ of 64 bytes (number 0) and a WRITE of nothing (1). */
static int lie(struct wire *w, enum lie which)
{
	switch (which) {
	case SKIPS:
		return say(w, DONE, REMOTE_OK, 0, 1, 0);
	case SHORT:
		return say(w, DONE, REMOTE_OK, 0, 0, 63);
	case LONG:
		return say(w, DONE, REMOTE_OK, 0, 0, 65);
	case NO_BYTES:
		return say(w, DONE, REMOTE_OK, 0, 0, 0);
	case BYTES_FOR_NONE:
		assert_int_equal(say(w, DONE, REMOTE_OK, 0, 0, 64), 0);
		return say(w, DONE, REMOTE_OK, 0, 1, 1);
	case TWICE:
		assert_int_equal(say(w, DONE, REMOTE_OK, 0, 0, 64), 0);
		return say(w, DONE, REMOTE_OK, 0, 0, 64);
	case NOT_ASKED:
		return say(w, DONE, REMOTE_OK, 0, 3, 0);
	case TOO_MUCH_TAKEN:
		return say(w, TOOK, 0, 0, 2, 0);
	default:
		post(w, REMOTE_WRITE_IMM, 0); /* number 2, which has not gone out */
		assert_int_equal(say(w, DONE, REMOTE_OK, 0, 0, 64), 0);
		return say(w, DONE, REMOTE_OK, 0, 2, 0);
	}
}

static void test_answers_that_are_lies(void **state)
{
	for (enum lie which = 0; which < LIE_N; which++) {
		struct wire *w;
		struct remote_done d[4];

		(void)set_up((void **)&w);
		post(w, REMOTE_READ, 64);
		post(w, REMOTE_WRITE_IMM, 0);
		(void)move(&w->a, &w->b);
		assert_int_equal(lie(w, which), -EPROTO);
		for (int n = remote_poll(w->a.r, d, 4); n > 0; n--)
			if (d[n - 1].kind == REMOTE_DONE_DOWN)
				assert_int_equal(d[n - 1].status, REMOTE_BROKEN);
		for (unsigned i = 64; i < 128; i++)
			assert_int_equal(w->a.memory[i], 0);
		(void)tear_down((void **)&w);
	}
}

static void test_the_channel_goes(void **state)
{
	static const uint8_t token[REMOTE_TOKEN_SIZE] = { 2 };
	struct remote_conn *c = NULL;
	struct wire *w = *state;
	struct remote_done d;

	post(w, REMOTE_READ, 64);
	served_lost(w->a.r);
	assert_int_equal(remote_poll(w->a.r, &d, 1), 1);
	assert_int_equal(d.status, REMOTE_FLUSHED);
	assert_int_equal(remote_poll(w->a.r, &d, 1), 1);
	assert_int_equal(d.status, REMOTE_PEER_GONE);
	assert_int_equal(remote_connect(&c, w->a.domain, "", token), -EPIPE);
	assert_int_equal(remote_expect(&c, w->a.domain, token), -EPIPE);
}

int main(void)
{
#define ON_WIRE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		ON_WIRE(test_immediates_wait_here),
		ON_WIRE(test_reads_wait_here),
		cmocka_unit_test(test_answers_that_are_lies),
		ON_WIRE(test_the_channel_goes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
