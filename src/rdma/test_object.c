/* Reads that verify themselves, while the owner writes, over the fake with bytes that move in pieces. */
#include "rdma/fake.h"
#include "rdma/object.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { SIZE = 8192, OBJECT = 1000, OFFSET = 128 };

struct shelf {
	struct fake_net *net;
	struct remote *a, *b;
	struct remote_domain *da, *db;
	struct remote_conn *ca, *cb;
	struct remote_region *ga;
	struct remote_export *export;
	struct seal_objects *writer;
	struct object_read read;
	struct seal_version seen;
	uint8_t number; /* of the version: each byte of it */
	_Alignas(4096) uint8_t here[SIZE];
	_Alignas(4096) uint8_t there[SIZE];
};

static struct remote_done step(struct shelf *s, enum remote_done_kind kind)
{
	struct remote_done d;

	for (;;) {
		assert_true(remote_poll(s->b, &d, 1) >= 0);
		if (remote_poll(s->a, &d, 1) == 1 && d.kind == kind)
			return d;
		assert_true(fake_net_step(s->net));
	}
}

static void put(struct shelf *s)
{
	uint8_t plain[OBJECT];

	memset(plain, ++s->number, sizeof(plain));
	assert_int_equal(seal_object_write(s->writer, OFFSET, plain, sizeof(plain), s->there + OFFSET), 0);
}

static int set_up(void **state)
{
	const struct fake_device device = { .windows = true, .tells_why = true };
	static const uint8_t token[REMOTE_TOKEN_SIZE] = { 3 };
	const struct seal_crypto crypto = { NULL, NULL, SEAL_AES_128_GCM };
	uint8_t secret[SEAL_SECRET_SIZE];
	struct shelf *s = aligned_alloc(4096, (sizeof(*s) + 4095) & ~(size_t)4095);
	struct remote_region *gb;

	assert_non_null(s);
	memset(s, 0, sizeof(*s));
	assert_int_equal(fake_net_new(&s->net, 1), 0);
	assert_int_equal(fake_open(&s->a, s->net, "a", &device) + fake_open(&s->b, s->net, "b", &device), 0);
	assert_int_equal(remote_domain_new(&s->da, s->a, 0) + remote_domain_new(&s->db, s->b, 0), 0);
	assert_int_equal(remote_register(&s->ga, s->da, s->here, SIZE, 0), 0);
	assert_int_equal(remote_register(&gb, s->db, s->there, SIZE, REMOTE_MAY_READ), 0);
	assert_int_equal(remote_expect(&s->cb, s->db, token) + remote_connect(&s->ca, s->da, "b", token), 0);
	(void)step(s, REMOTE_DONE_UP);
	assert_int_equal(remote_export(&s->export, s->cb, gb, 0, SIZE, REMOTE_MAY_READ), 0);
	assert_int_equal(seal_objects_new_writer(&s->writer, &crypto, 5, secret), 0);
	s->read = (struct object_read){ .conn = s->ca, .region = s->ga, .at = 64, .key = *remote_export_key(s->export),
					.offset = OFFSET, .size = OBJECT + SEAL_OBJECT_OVERHEAD, .id = 77 };
	assert_int_equal(seal_objects_new_reader(&s->read.objects, &crypto, 5, secret), 0);
	fake_net_set_faults(s->net, &(struct fake_faults){ .delay_ns = 1000, .tear_ns = 100 });
	put(s);
	*state = s;
	return 0;
}

static int tear_down(void **state)
{
	struct shelf *s = *state;

	seal_objects_free(s->writer);
	seal_objects_free(s->read.objects);
	remote_free(s->a);
	remote_free(s->b);
	fake_net_free(s->net);
	free(s);
	return 0;
}

/* One read to its end; the owner writes in the middle of the first @n_disturbed tries. */
static int read_once(struct shelf *s, unsigned n_disturbed, unsigned *ret_tries)
{
	uint8_t plain[OBJECT];
	uint32_t size = 0;
	int r = object_read_begin(&s->read);

	assert_int_equal(r, 0);
	for (*ret_tries = 1;; ++*ret_tries) {
		struct remote_done d;

		if (*ret_tries <= n_disturbed) {
			fake_net_advance(s->net, 1000 + 7 * 100);
			put(s);
		}
		d = step(s, REMOTE_DONE_OP);
		assert_int_equal(d.id, 77);
		r = object_read_done(&s->read, &d, &s->seen, plain, sizeof(plain), &size);
		if (r != OBJECT_E_AGAIN)
			break;
	}
	if (r == 0) {
		assert_int_equal(size, OBJECT);
		for (unsigned i = 0; i < OBJECT; i++)
			assert_int_equal(plain[i], s->number);
	}
	return r;
}

static void test_a_quiet_object(void **state)
{
	unsigned n_tries;

	assert_int_equal(read_once(*state, 0, &n_tries), 0);
	assert_int_equal(n_tries, 1);
}

static void test_torn_ones_are_read_again(void **state)
{
	unsigned n_tries;

	for (unsigned n = 1; n < LIMIT_RDMA_READ_TRIES; n++) {
		assert_int_equal(read_once(*state, n, &n_tries), 0);
		assert_int_equal(n_tries, n + 1);
	}
}

static void test_there_is_an_end_to_it(void **state)
{
	unsigned n_tries;

	assert_int_equal(read_once(*state, 1000, &n_tries), -EBADMSG);
	assert_int_equal(n_tries, LIMIT_RDMA_READ_TRIES);
	assert_int_equal(read_once(*state, 0, &n_tries), 0); /* and the next one starts anew */
}

/* Somebody between the two gives out what was true before. */
static void test_an_old_version_is_stale(void **state)
{
	uint8_t before[OBJECT + SEAL_OBJECT_OVERHEAD];
	struct shelf *s = *state;
	unsigned n_tries;

	memcpy(before, s->there + OFFSET, sizeof(before));
	put(s);
	assert_int_equal(read_once(s, 0, &n_tries), 0);
	memcpy(s->there + OFFSET, before, sizeof(before));
	assert_int_equal(read_once(s, 0, &n_tries), -ESTALE);
}

static void test_a_refused_read(void **state)
{
	struct shelf *s = *state;
	unsigned n_tries;

	assert_int_equal(remote_revoke(s->export), 0);
	assert_int_equal(read_once(s, 0, &n_tries), -ENOTCONN);
	assert_int_equal(object_read_begin(&s->read), -ENOTCONN);
}

/* Torn tries of a read whose connection ended are not held against the next read, on another one. */
static void test_a_read_that_ends_in_the_middle(void **state)
{
	struct shelf *s = *state;
	uint8_t plain[OBJECT];
	struct remote_done d;
	uint32_t size;

	assert_int_equal(object_read_begin(&s->read), 0);
	fake_net_advance(s->net, 1000 + 7 * 100);
	put(s);
	d = step(s, REMOTE_DONE_OP);
	assert_int_equal(object_read_done(&s->read, &d, &s->seen, plain, sizeof(plain), &size), OBJECT_E_AGAIN);
	assert_int_equal(remote_revoke(s->export), 0);
	d = step(s, REMOTE_DONE_OP);
	assert_int_equal(object_read_done(&s->read, &d, &s->seen, plain, sizeof(plain), &size), -ENOTCONN);
	assert_int_equal(s->read.n_tries, 0);
}

int main(void)
{
#define ON_SHELF(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		ON_SHELF(test_a_quiet_object),
		ON_SHELF(test_torn_ones_are_read_again),
		ON_SHELF(test_there_is_an_end_to_it),
		ON_SHELF(test_an_old_version_is_stale),
		ON_SHELF(test_a_refused_read),
		ON_SHELF(test_a_read_that_ends_in_the_middle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
