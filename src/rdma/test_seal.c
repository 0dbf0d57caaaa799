#include "rdma/seal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static const uint8_t g_secret[SEAL_SECRET_SIZE] = { 1, 2, 3 };
static const struct seal_crypto g_crypto[] = { { NULL, NULL, SEAL_AES_128_GCM }, { NULL, NULL, SEAL_AES_256_GCM } };

static struct seal_stream *stream(const struct seal_crypto *crypto, uint64_t number, unsigned direction, bool seals)
{
	struct seal_stream *s = NULL;

	assert_int_equal(seal_stream_new(&s, crypto, g_secret, number, direction, seals), 0);
	return s;
}

static void test_records_open_in_order(void **state)
{
	static const uint32_t sizes[] = { 0, 1, 15, 16, 17, 64, 1000, 65536 };
	uint8_t *plain = malloc(65536), *sealed = malloc(65536 + SEAL_TAG_SIZE), *out = malloc(65536);

	assert_true(plain && sealed && out);
	for (size_t k = 0; k < ARRAY_SIZE(g_crypto); k++) {
		struct seal_stream *tx = stream(&g_crypto[k], 1, 0, true), *rx = stream(&g_crypto[k], 1, 0, false);

		for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
			memset(plain, (int)i + 1, sizes[i]);
			assert_int_equal(seal_record(tx, i * 100, (uint16_t)i, plain, sizes[i], sealed), 0);
			if (sizes[i] >= 16)
				assert_memory_not_equal(sealed, plain, sizes[i]);
			assert_int_equal(seal_record_open(rx, i * 100, (uint16_t)i, sealed, sizes[i] + SEAL_TAG_SIZE, out), 0);
			assert_memory_equal(out, plain, sizes[i]);
		}
		seal_stream_free(tx);
		seal_stream_free(rx);
	}
	free(plain);
	free(sealed);
	free(out);
}

/* One record that is not as it was sealed, and how. Return: what opening it said. */
enum wrong { NOTHING, OFFSET, KIND, BYTE, TAG, SHORTER, EMPTY, CONNECTION, DIRECTION, SECOND, AGAIN };

static int open_wrong(enum wrong how)
{
	struct seal_stream *tx = stream(g_crypto, 1, 0, true), *rx = stream(g_crypto, how == CONNECTION ? 2 : 1, how == DIRECTION, false);
	uint8_t sealed[2][100 + SEAL_TAG_SIZE], out[100];
	uint32_t size = sizeof(sealed[0]);
	int r;

	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(seal_record(tx, 640, 3, "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
					     100, sealed[i]), 0);
	if (how == BYTE)
		sealed[0][99] ^= 1;
	if (how == TAG)
		sealed[0][115] ^= 0x80;
	if (how == SHORTER)
		size--;
	if (how == EMPTY)
		size = SEAL_TAG_SIZE - 1;
	if (how == AGAIN)
		assert_int_equal(seal_record_open(rx, 640, 3, sealed[0], size, out), 0);
	memset(out, 1, sizeof(out));
	r = seal_record_open(rx, how == OFFSET ? 704 : 640, how == KIND ? 2 : 3, sealed[how == SECOND], size, out);
	if (r != 0 && how != EMPTY)
		for (unsigned i = 0; i < size - SEAL_TAG_SIZE; i++)
			assert_int_equal(out[i], 0);
	if (r != 0) /* and it stays so, for the right one as well */
		assert_int_equal(seal_record_open(rx, 640, 3, sealed[0], sizeof(sealed[0]), out), -EBADMSG);
	seal_stream_free(tx);
	seal_stream_free(rx);
	return r;
}

static void test_what_is_wrong_does_not_open(void **state)
{
	assert_int_equal(open_wrong(NOTHING), 0);
	for (enum wrong how = OFFSET; how <= AGAIN; how++)
		assert_int_equal(open_wrong(how), -EBADMSG);
}

static void test_retry_is_for_who_asks_for_it(void **state)
{
	struct seal_stream *tx = stream(g_crypto, 1, 0, true), *rx = stream(g_crypto, 1, 0, false);
	uint8_t sealed[10 + SEAL_TAG_SIZE], out[10];

	assert_int_equal(seal_record(tx, 0, 0, "0123456789", 10, sealed), 0);
	sealed[0] ^= 1;
	assert_int_equal(seal_record_open(rx, 0, 0, sealed, sizeof(sealed), out), -EBADMSG);
	sealed[0] ^= 1;
	seal_record_retry(rx);
	assert_int_equal(seal_record_open(rx, 0, 0, sealed, sizeof(sealed), out), 0);
	assert_memory_equal(out, "0123456789", 10);
	seal_stream_free(tx);
	seal_stream_free(rx);
}

/* At both limits, on both ends at the same record; the keys of before open nothing of after. */
static void test_epochs(void **state)
{
	struct seal_stream *tx = stream(g_crypto, 1, 0, true), *rx = stream(g_crypto, 1, 0, false), *old = stream(g_crypto, 1, 0, false);
	uint8_t sealed[64 + SEAL_TAG_SIZE], out[64], plain[64] = {};
	struct {
		uint64_t n_records, bytes;
	} skips[] = { { LIMIT_SEAL_RECORDS - 1, 0 }, { 0, (UINT64_C(1) << LIMIT_SEAL_BYTES_LOG2) - 138 } };

	for (size_t i = 0; i < ARRAY_SIZE(skips); i++) {
		seal_stream_skip(tx, skips[i].n_records, skips[i].bytes);
		seal_stream_skip(rx, skips[i].n_records, skips[i].bytes);
		assert_int_equal(seal_record(tx, 0, 0, plain, sizeof(plain), sealed), 0);
		assert_int_equal(seal_stream_epoch(tx), i); /* the last one that fits */
		assert_int_equal(seal_record_open(rx, 0, 0, sealed, sizeof(sealed), out), 0);
		assert_int_equal(seal_record(tx, 0, 0, plain, sizeof(plain), sealed), 0);
		assert_int_equal(seal_stream_epoch(tx), i + 1);
		assert_int_equal(seal_record_open(rx, 0, 0, sealed, sizeof(sealed), out), 0);
		assert_int_equal(seal_stream_epoch(rx), i + 1);
	}
	assert_int_equal(seal_record_open(old, 0, 0, sealed, sizeof(sealed), out), -EBADMSG);
	seal_stream_free(tx);
	seal_stream_free(rx);
	seal_stream_free(old);
}

static void test_tokens(void **state)
{
	uint8_t a[SEAL_SECRET_SIZE], b[SEAL_SECRET_SIZE], again[SEAL_SECRET_SIZE];

	assert_int_equal(seal_token(a, g_crypto, g_secret, 1), 0);
	assert_int_equal(seal_token(b, g_crypto, g_secret, 2), 0);
	assert_int_equal(seal_token(again, g_crypto, g_secret, 1), 0);
	assert_memory_equal(a, again, sizeof(a));
	assert_memory_not_equal(a, b, sizeof(a));
}

/* docs/design/rdma.md, "Sealing", by another implementation (Python: hmac, cryptography): secret 01 02 03 00...; connection 1 from the client. */
static void test_vectors(void **state)
{
#include "rdma/test_seal_vectors.h"
	struct seal_stream *tx = stream(g_crypto, 1, 0, true);
	uint8_t token[SEAL_SECRET_SIZE], sealed[5 + SEAL_TAG_SIZE];

	assert_int_equal(seal_token(token, g_crypto, g_secret, 1), 0);
	assert_memory_equal(token, token_1, sizeof(token));
	assert_int_equal(seal_record(tx, 0x40, 0x0102, "hello", 5, sealed), 0);
	assert_memory_equal(sealed, record_0, sizeof(sealed));
	assert_int_equal(seal_record(tx, 0x80, 0, "hello", 5, sealed), 0);
	assert_memory_equal(sealed, record_1, sizeof(sealed));
	seal_stream_skip(tx, LIMIT_SEAL_RECORDS - 2, 0);
	assert_int_equal(seal_record(tx, 0x80, 0, "hello", 5, sealed), 0);
	assert_memory_equal(sealed, record_next_epoch, sizeof(sealed));
	seal_stream_free(tx);
}

/* -- objects */

struct shelf { /* a region, its owner and a reader */
	struct seal_objects *writer, *reader;
	uint8_t secret[SEAL_SECRET_SIZE];
	uint8_t place[4096];
	uint8_t out[4096];
	struct seal_version seen;
	uint32_t size;
};

static int shelf_set_up(void **state)
{
	struct shelf *s = calloc(1, sizeof(*s));

	assert_non_null(s);
	assert_int_equal(seal_objects_new_writer(&s->writer, g_crypto, 9, s->secret), 0);
	assert_int_equal(seal_objects_new_reader(&s->reader, g_crypto, 9, s->secret), 0);
	*state = s;
	return 0;
}

static int shelf_tear_down(void **state)
{
	struct shelf *s = *state;

	seal_objects_free(s->writer);
	seal_objects_free(s->reader);
	free(s);
	return 0;
}

static int take(struct shelf *s, uint64_t offset, uint64_t size)
{
	return seal_object_open(s->reader, offset, s->place, size, &s->seen, s->out, sizeof(s->out), &s->size);
}

static void test_objects_open(void **state)
{
	static const uint32_t sizes[] = { 0, 1, 100, 4000 };
	struct shelf *s = *state;
	uint8_t plain[4000];

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		memset(plain, (int)i + 1, sizeof(plain));
		assert_int_equal(seal_object_write(s->writer, 128, plain, sizes[i], s->place), 0);
		assert_int_equal(take(s, 128, sizeof(s->place)), 0);
		assert_int_equal(s->size, sizes[i]);
		assert_memory_equal(s->out, plain, sizes[i]);
		assert_int_equal(s->seen.sequence, i + 1);
		assert_int_equal(take(s, 128, sizes[i] + SEAL_OBJECT_OVERHEAD), 0); /* the same again: as new as was seen */
		assert_int_equal(take(s, 128, sizes[i] + SEAL_OBJECT_OVERHEAD - 1), SEAL_E_TORN);
		assert_int_equal(take(s, 192, sizeof(s->place)), SEAL_E_TORN); /* moved */
	}
}

/* Every bit of it counts, but for what lies behind it. */
static void test_a_changed_object_is_torn(void **state)
{
	struct shelf *s = *state;

	assert_int_equal(seal_object_write(s->writer, 0, "0123456789", 10, s->place), 0);
	for (unsigned bit = 0; bit < (10 + SEAL_OBJECT_OVERHEAD) * 8; bit++) {
		int r;

		s->place[bit / 8] ^= (uint8_t)(1u << bit % 8);
		r = take(s, 0, sizeof(s->place));
		assert_true(r == SEAL_E_TORN || r == -EMSGSIZE);
		s->place[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_int_equal(take(s, 0, sizeof(s->place)), 0);
}

static void test_half_old_half_new_is_torn(void **state)
{
	uint8_t plain[1000], before[1000 + SEAL_OBJECT_OVERHEAD];
	struct shelf *s = *state;

	memset(plain, 1, sizeof(plain));
	assert_int_equal(seal_object_write(s->writer, 0, plain, sizeof(plain), s->place), 0);
	memcpy(before, s->place, sizeof(before));
	assert_int_equal(seal_object_write(s->writer, 0, plain, sizeof(plain), s->place), 0);
	assert_memory_not_equal(before, s->place, sizeof(before)); /* the same bytes, sealed anew */
	for (size_t n = 64; n < sizeof(before); n += 64) {
		uint8_t mixed[sizeof(before)];

		memcpy(mixed, before, sizeof(mixed));
		memcpy(mixed, s->place, n);
		assert_int_equal(seal_object_open(s->reader, 0, mixed, sizeof(mixed), &s->seen, s->out, sizeof(s->out), &s->size), SEAL_E_TORN);
	}
}

static void test_an_old_version_is_refused(void **state)
{
	uint8_t before[10 + SEAL_OBJECT_OVERHEAD];
	struct seal_version nothing = {};
	struct shelf *s = *state;

	assert_int_equal(seal_object_write(s->writer, 0, "0123456789", 10, before), 0);
	assert_int_equal(seal_object_write(s->writer, 0, "abcdefghij", 10, s->place), 0);
	assert_int_equal(take(s, 0, sizeof(s->place)), 0);
	assert_int_equal(seal_object_open(s->reader, 0, before, sizeof(before), &s->seen, s->out, sizeof(s->out), &s->size), SEAL_E_OLD);
	assert_int_equal(s->out[0], 0);
	assert_int_equal(seal_object_open(s->reader, 0, before, sizeof(before), &nothing, s->out, sizeof(s->out), &s->size), 0);
}

static void test_another_regions_secret_opens_nothing(void **state)
{
	uint8_t secret[SEAL_SECRET_SIZE];
	struct seal_objects *other, *elsewhere;
	struct shelf *s = *state;

	assert_int_equal(seal_objects_new_writer(&other, g_crypto, 9, secret), 0);
	assert_memory_not_equal(secret, s->secret, sizeof(secret));
	assert_int_equal(seal_object_write(other, 0, "x", 1, s->place), 0);
	assert_int_equal(take(s, 0, sizeof(s->place)), SEAL_E_TORN);
	assert_int_equal(seal_object_write(s->writer, 0, "x", 1, s->place), 0);
	assert_int_equal(seal_objects_new_reader(&elsewhere, g_crypto, 10, s->secret), 0);
	assert_int_equal(seal_object_open(elsewhere, 0, s->place, sizeof(s->place), &s->seen, s->out, sizeof(s->out), &s->size), SEAL_E_TORN);
	seal_objects_free(other);
	seal_objects_free(elsewhere);
}

static void test_sizes_of_objects(void **state)
{
	struct shelf *s = *state;

	assert_int_equal(seal_object_write(s->writer, 0, s->out, LIMIT_SEAL_OBJECT_SIZE + 1, s->place), -EMSGSIZE);
	assert_int_equal(seal_object_write(s->writer, 0, s->out, 100, s->place), 0);
	assert_int_equal(seal_object_open(s->reader, 0, s->place, sizeof(s->place), &s->seen, s->out, 99, &s->size), -EMSGSIZE);
	assert_int_equal(take(s, 0, 0), SEAL_E_TORN);
}

int main(void)
{
#define ON_SHELF(test) cmocka_unit_test_setup_teardown(test, shelf_set_up, shelf_tear_down)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_records_open_in_order),
		cmocka_unit_test(test_what_is_wrong_does_not_open),
		cmocka_unit_test(test_retry_is_for_who_asks_for_it),
		cmocka_unit_test(test_epochs),
		cmocka_unit_test(test_tokens),
		cmocka_unit_test(test_vectors),
		ON_SHELF(test_objects_open),
		ON_SHELF(test_a_changed_object_is_torn),
		ON_SHELF(test_half_old_half_new_is_torn),
		ON_SHELF(test_an_old_version_is_refused),
		ON_SHELF(test_another_regions_secret_opens_nothing),
		ON_SHELF(test_sizes_of_objects),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
