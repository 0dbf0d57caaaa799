/*
 * What a peer, or somebody on the way, leaves where a sealed record or object is to be. The first byte says which; the rest are edits of
 * three bytes (place, place, what is xored in) of one that was sealed properly. Whatever they are: it opens exactly if nothing of it has
 * changed, and what does not open leaves no plaintext. Then the same bytes as they are, as an object: nobody without the secret makes one.
 */
#include "rdma/seal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PLAIN = 100, SEALED = PLAIN + SEAL_TAG_SIZE, OBJECT = PLAIN + SEAL_OBJECT_OVERHEAD };

static const uint8_t g_secret[SEAL_SECRET_SIZE] = { 1 };
static const struct seal_crypto g_crypto = { NULL, NULL, SEAL_AES_128_GCM };

static void require(bool good)
{
	if (!good)
		abort();
}

static void edit(uint8_t *bytes, size_t n, const uint8_t *data, size_t size)
{
	for (size_t i = 0; i + 3 <= size; i += 3)
		bytes[(data[i] | data[i + 1] << 8) % n] ^= data[i + 2];
}

static bool all_zero(const uint8_t *bytes, size_t n)
{
	uint8_t any = 0;

	for (size_t i = 0; i < n; i++)
		any |= bytes[i];
	return any == 0;
}

static void fuzz_record(const uint8_t *data, size_t size)
{
	uint8_t plain[PLAIN], sealed[SEALED], edited[SEALED], out[PLAIN];
	struct seal_stream *tx = NULL, *rx = NULL;
	uint16_t kind = 3;
	int r;

	memset(plain, 0x55, sizeof(plain));
	require(seal_stream_new(&tx, &g_crypto, g_secret, 1, 0, true) == 0);
	require(seal_stream_new(&rx, &g_crypto, g_secret, 1, 0, false) == 0);
	require(seal_record(tx, 64, kind, plain, PLAIN, sealed) == 0);
	memcpy(edited, sealed, SEALED);
	edit(edited, SEALED, data, size);
	r = seal_record_open(rx, 64, kind, edited, SEALED, out);
	if (memcmp(edited, sealed, SEALED) == 0)
		require(r == 0 && memcmp(out, plain, PLAIN) == 0);
	else
		require(r == -EBADMSG && all_zero(out, PLAIN));
	seal_stream_free(tx);
	seal_stream_free(rx);
}

static void fuzz_object(const uint8_t *data, size_t size)
{
	static struct seal_objects *writer, *reader; /* once: a secret is made of randomness, which is slow */
	static uint8_t secret[SEAL_SECRET_SIZE];
	uint8_t plain[PLAIN], place[OBJECT], edited[OBJECT], out[2 * PLAIN] = {}, *copy = malloc(size ? size : 1);
	struct seal_version seen = {};
	uint32_t n = 0;
	int r;

	require(copy != NULL);
	memset(plain, 0x55, sizeof(plain));
	if (!writer) {
		require(seal_objects_new_writer(&writer, &g_crypto, 1, secret) == 0);
		require(seal_objects_new_reader(&reader, &g_crypto, 1, secret) == 0);
	}
	require(seal_object_write(writer, 64, plain, PLAIN, place) == 0);
	memcpy(edited, place, OBJECT);
	edit(edited, OBJECT, data, size);
	r = seal_object_open(reader, 64, edited, OBJECT, &seen, out, sizeof(out), &n);
	if (memcmp(edited, place, OBJECT) == 0)
		require(r == 0 && n == PLAIN && memcmp(out, plain, PLAIN) == 0);
	else
		require((r == SEAL_E_TORN || r == -EMSGSIZE) && all_zero(out, sizeof(out)) && seen.sequence == 0);

	memcpy(copy, data, size); /* ends where the bytes end, for the sanitizer */
	r = seal_object_open(reader, 64, copy, size, &seen, out, sizeof(out), &n);
	require(r == SEAL_E_TORN || r == -EMSGSIZE);
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1)
		return 0;
	if (data[0] & 1)
		fuzz_object(data + 1, size - 1);
	else
		fuzz_record(data + 1, size - 1);
	return 0;
}
