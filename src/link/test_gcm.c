/*
 * The AES-GCM provider against the published vectors, against OpenSSL's own in pieces of every kind, against misuse, and under TLS
 * with OpenSSL's own at the other end. Where the provider is not for this machine, that is all that can be seen, and it is skipped.
 */
#include "link/gcm.h"

#include "base/limits.h"
#include "link/test_pair.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { NONCE = 12, TAG = 16, SIZE_MAX_TRIED = 17000, TLS_SIZE = 100 << 20 };

struct ciphers {
	OSSL_LIB_CTX *libctx;
	EVP_CIPHER *ours[2], *theirs[2]; /* 128, 256 */
};

static const char *const names[2] = { "AES-128-GCM", "AES-256-GCM" };
static struct ciphers g_c;

/* -- random numbers that a failure can be repeated with */

static uint64_t g_random = 0x9e3779b97f4a7c15;

static uint64_t random_next(void)
{
	g_random ^= g_random << 13;
	g_random ^= g_random >> 7;
	g_random ^= g_random << 17;
	return g_random;
}

static size_t random_below(size_t n)
{
	return (size_t)(random_next() % n);
}

static void random_fill(uint8_t *p, size_t size)
{
	for (size_t i = 0; i < size; i++)
		p[i] = (uint8_t)(random_next() >> 32);
}

/* -- one message */

struct message {
	const uint8_t *key, *nonce, *aad;
	size_t aad_size, size;
};

static EVP_CIPHER_CTX *begin(const EVP_CIPHER *cipher, const struct message *m, bool encrypt)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int n = 0;

	assert_non_null(ctx);
	assert_int_equal(EVP_CipherInit_ex2(ctx, cipher, m->key, m->nonce, encrypt, NULL), 1);
	if (m->aad_size) {
		size_t first = random_below(m->aad_size + 1);

		assert_int_equal(EVP_CipherUpdate(ctx, NULL, &n, m->aad, (int)first), 1);
		assert_int_equal(EVP_CipherUpdate(ctx, NULL, &n, m->aad + first, (int)(m->aad_size - first)), 1);
	}
	return ctx;
}

/* In up to @n_pieces pieces. */
static void update(EVP_CIPHER_CTX *ctx, uint8_t *out, const uint8_t *in, size_t size, size_t n_pieces)
{
	size_t done = 0;

	while (done < size) {
		size_t n = n_pieces > 1 ? random_below(size - done + 1) : size - done;
		int got = -1;

		assert_int_equal(EVP_CipherUpdate(ctx, out + done, &got, in + done, (int)n), 1);
		assert_int_equal(got, n);
		done += n;
		n_pieces -= n_pieces > 1;
	}
}

static void seal(const EVP_CIPHER *cipher, const struct message *m, uint8_t *out, const uint8_t *in, uint8_t tag[TAG], size_t n_pieces)
{
	EVP_CIPHER_CTX *ctx = begin(cipher, m, true);
	int n = -1;

	update(ctx, out, in, m->size, n_pieces);
	assert_int_equal(EVP_CipherFinal_ex(ctx, out, &n), 1);
	assert_int_equal(n, 0);
	assert_int_equal(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG, tag), 1);
	EVP_CIPHER_CTX_free(ctx);
}

/* Return: whether the tag was right. */
static bool unseal(const EVP_CIPHER *cipher, const struct message *m, uint8_t *out, const uint8_t *in, const uint8_t tag[TAG], size_t n_pieces)
{
	EVP_CIPHER_CTX *ctx = begin(cipher, m, false);
	uint8_t copy[TAG];
	int n = -1;
	bool ok;

	memcpy(copy, tag, TAG);
	assert_int_equal(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG, copy), 1);
	update(ctx, out, in, m->size, n_pieces);
	ok = EVP_CipherFinal_ex(ctx, out, &n) == 1;
	EVP_CIPHER_CTX_free(ctx);
	ERR_clear_error();
	return ok;
}

/* -- published vectors: McGrew and Viega, "The Galois/Counter Mode of Operation", cases 1-4 and 13-16 (nonces of 96 bits) */

struct vector {
	const char *key, *nonce, *aad, *plain, *cipher, *tag;
};

#define KEY4 "feffe9928665731c6d6a8f9467308308"
#define NONCE4 "cafebabefacedbaddecaf888"
#define AAD4 "feedfacedeadbeeffeedfacedeadbeefabaddad2"
#define PLAIN4 "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
#define CIPHER4 "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091"
#define CIPHER16 "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
#define ZERO16 "00000000000000000000000000000000"
#define ZERO12 "000000000000000000000000"

static const struct vector vectors[] = {
	{ ZERO16, ZERO12, "", "", "", "58e2fccefa7e3061367f1d57a4e7455a" },
	{ ZERO16, ZERO12, "", ZERO16, "0388dace60b6a392f328c2b971b2fe78", "ab6e47d42cec13bdf53a67b21257bddf" },
	{ KEY4, NONCE4, "", PLAIN4 "1aafd255", CIPHER4 "473f5985", "4d5c2af327cd64a62cf35abd2ba6fab4" },
	{ KEY4, NONCE4, AAD4, PLAIN4, CIPHER4, "5bc94fbc3221a5db94fae95ae7121a47" },
	{ ZERO16 ZERO16, ZERO12, "", "", "", "530f8afbc74536b9a963b4f1c4cb738b" },
	{ ZERO16 ZERO16, ZERO12, "", ZERO16, "cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919" },
	{ KEY4 KEY4, NONCE4, "", PLAIN4 "1aafd255", CIPHER16 "898015ad", "b094dac5d93471bdec1a502270e3cc6c" },
	{ KEY4 KEY4, NONCE4, AAD4, PLAIN4, CIPHER16, "76fc6ece0f4e1768cddf8853bb2d551b" },
};

static size_t from_hex(uint8_t *out, const char *hex)
{
	size_t n = strlen(hex) / 2;
	unsigned byte;

	for (size_t i = 0; i < n; i++) {
		assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
		out[i] = (uint8_t)byte;
	}
	return n;
}

static void test_vectors(void **unused)
{
	for (size_t i = 0; i < ARRAY_SIZE(vectors); i++) {
		uint8_t key[32], nonce[NONCE], aad[32], plain[64], cipher[64], tag[TAG], out[64], got[TAG];
		struct message m = { .key = key, .nonce = nonce, .aad = aad };
		const EVP_CIPHER *c = g_c.ours[from_hex(key, vectors[i].key) == 32];

		from_hex(nonce, vectors[i].nonce);
		from_hex(tag, vectors[i].tag);
		m.aad_size = from_hex(aad, vectors[i].aad);
		m.size = from_hex(plain, vectors[i].plain);
		assert_int_equal(from_hex(cipher, vectors[i].cipher), m.size);
		for (size_t pieces = 1; pieces < 6; pieces++) {
			seal(c, &m, out, plain, got, pieces);
			assert_memory_equal(out, cipher, m.size);
			assert_memory_equal(got, tag, TAG);
			assert_true(unseal(c, &m, out, cipher, tag, pieces));
			assert_memory_equal(out, plain, m.size);
		}
	}
}

/* -- against OpenSSL's own */

static void compare_at(size_t size)
{
	static uint8_t plain[SIZE_MAX_TRIED + 64], theirs[SIZE_MAX_TRIED], ours[SIZE_MAX_TRIED + 64];
	uint8_t key[32], nonce[NONCE], aad[LIMIT_GCM_AAD_SIZE], tag[TAG], our_tag[TAG];
	struct message m = { key, nonce, aad, random_below(sizeof(aad) + 1), size };
	size_t k = size & 1, from = random_below(64), to = random_below(64), n_pieces = 1 + random_below(8);

	random_fill(key, sizeof(key));
	random_fill(nonce, sizeof(nonce));
	random_fill(aad, sizeof(aad));
	random_fill(plain + from, size < 64 ? size : 64); /* the rest is what other sizes left there */
	seal(g_c.theirs[k], &m, theirs, plain + from, tag, 1);
	seal(g_c.ours[k], &m, ours + to, plain + from, our_tag, n_pieces);
	assert_memory_equal(ours + to, theirs, size);
	assert_memory_equal(our_tag, tag, TAG);
	assert_true(unseal(g_c.ours[k], &m, ours + to, ours + to, tag, n_pieces));
	assert_memory_equal(ours + to, plain + from, size);
	seal(g_c.ours[k], &m, ours + to, ours + to, our_tag, 1); /* in place this way too, and in one piece as TLS does */
	assert_memory_equal(ours + to, theirs, size);
	assert_memory_equal(our_tag, tag, TAG);
}

static void test_same_as_openssl(void **unused)
{
	for (size_t size = 0; size <= SIZE_MAX_TRIED; size++)
		compare_at(size);
}

/* Every way to cut a short message in three. */
static void test_every_split(void **unused)
{
	enum { N = 150 };
	uint8_t key[32] = { 1 }, nonce[NONCE] = { 2 }, aad[5] = { 3 }, plain[N], cipher[N], tag[TAG], out[N], got[TAG];
	struct message m = { key, nonce, aad, sizeof(aad), N };
	int n;

	random_fill(plain, N);
	seal(g_c.theirs[0], &m, cipher, plain, tag, 1);
	for (int a = 0; a <= N; a++)
		for (int b = a; b <= N; b++) {
			EVP_CIPHER_CTX *ctx = begin(g_c.ours[0], &m, true);

			assert_int_equal(EVP_CipherUpdate(ctx, out, &n, plain, a), 1);
			assert_int_equal(EVP_CipherUpdate(ctx, out + a, &n, plain + a, b - a), 1);
			assert_int_equal(EVP_CipherUpdate(ctx, out + b, &n, plain + b, N - b), 1);
			assert_int_equal(EVP_CipherFinal_ex(ctx, out, &n), 1);
			assert_int_equal(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG, got), 1);
			assert_memory_equal(out, cipher, N);
			assert_memory_equal(got, tag, TAG);
			EVP_CIPHER_CTX_free(ctx);
		}
}

static void test_forged(void **unused)
{
	enum { N = 100 };
	uint8_t key[32] = { 1 }, nonce[NONCE] = { 2 }, aad[5] = { 3 }, plain[N] = { 4 }, cipher[N], tag[TAG], out[N];
	struct message m = { key, nonce, aad, sizeof(aad), N };

	for (size_t k = 0; k < 2; k++) {
		seal(g_c.ours[k], &m, cipher, plain, tag, 1);
		assert_true(unseal(g_c.ours[k], &m, out, cipher, tag, 1));
		for (size_t bit = 0; bit < 8 * TAG; bit++) {
			tag[bit / 8] ^= (uint8_t)(1 << bit % 8);
			assert_false(unseal(g_c.ours[k], &m, out, cipher, tag, 1));
			tag[bit / 8] ^= (uint8_t)(1 << bit % 8);
		}
		for (size_t bit = 0; bit < 8 * N; bit++) {
			cipher[bit / 8] ^= (uint8_t)(1 << bit % 8);
			assert_false(unseal(g_c.ours[k], &m, out, cipher, tag, 1));
			cipher[bit / 8] ^= (uint8_t)(1 << bit % 8);
		}
		aad[4] ^= 1;
		assert_false(unseal(g_c.ours[k], &m, out, cipher, tag, 1));
		aad[4] ^= 1;
		nonce[11] ^= 1;
		assert_false(unseal(g_c.ours[k], &m, out, cipher, tag, 1));
		nonce[11] ^= 1;
	}
}

/* -- misuse */

static const struct message g_plain = { (const uint8_t *)"0123456789abcdef0123456789abcdef", (const uint8_t *)"nonce nonce ",
					(const uint8_t *)"aad", 3, 0 };

static void test_nonce_serves_once(void **unused)
{
	EVP_CIPHER_CTX *ctx = begin(g_c.ours[0], &g_plain, true);
	uint8_t buf[32] = {}, tag[TAG];
	int n;

	assert_int_not_equal(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG, tag), 1); /* before there is one */
	assert_int_equal(EVP_CipherUpdate(ctx, buf, &n, buf, 32), 1);
	assert_int_not_equal(EVP_CipherUpdate(ctx, NULL, &n, buf, 1), 1); /* AAD after data */
	assert_int_equal(EVP_CipherFinal_ex(ctx, buf, &n), 1);
	assert_int_not_equal(EVP_CipherUpdate(ctx, buf, &n, buf, 32), 1);
	assert_int_not_equal(EVP_CipherFinal_ex(ctx, buf, &n), 1);
	assert_int_equal(EVP_CipherInit_ex2(ctx, NULL, NULL, NULL, 1, NULL), 1); /* "again" without a nonce */
	assert_int_not_equal(EVP_CipherUpdate(ctx, buf, &n, buf, 32), 1);
	assert_int_equal(EVP_CipherInit_ex2(ctx, NULL, NULL, g_plain.nonce, 1, NULL), 1);
	assert_int_equal(EVP_CipherUpdate(ctx, buf, &n, buf, 16), 1);
	assert_int_equal(EVP_CipherInit_ex2(ctx, NULL, g_plain.key, NULL, 1, NULL), 1); /* a new key in the middle of a message */
	assert_int_not_equal(EVP_CipherUpdate(ctx, buf, &n, buf, 16), 1);
	EVP_CIPHER_CTX_free(ctx);
}

static void test_no_key_no_nonce(void **unused)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	uint8_t buf[16] = {};
	int n;

	assert_int_equal(EVP_CipherInit_ex2(ctx, g_c.ours[0], NULL, g_plain.nonce, 1, NULL), 1);
	assert_int_not_equal(EVP_CipherUpdate(ctx, buf, &n, buf, 16), 1);
	assert_int_not_equal(EVP_CipherFinal_ex(ctx, buf, &n), 1);
	EVP_CIPHER_CTX_reset(ctx);
	assert_int_equal(EVP_CipherInit_ex2(ctx, g_c.ours[0], g_plain.key, NULL, 1, NULL), 1);
	assert_int_not_equal(EVP_CipherUpdate(ctx, buf, &n, buf, 16), 1); /* OpenSSL's own would invent a nonce */
	assert_int_equal(EVP_CipherInit_ex2(ctx, NULL, NULL, g_plain.nonce, 1, NULL), 1);
	assert_int_equal(EVP_CipherUpdate(ctx, buf, &n, buf, 16), 1);
	EVP_CIPHER_CTX_free(ctx);
}

/* A tag belongs to one message, whichever way it goes. */
static void test_tag_serves_once(void **unused)
{
	EVP_CIPHER_CTX *ctx = begin(g_c.ours[0], &g_plain, true);
	uint8_t buf[16], tag[TAG];
	int n;

	assert_int_equal(EVP_CipherFinal_ex(ctx, buf, &n), 1);
	assert_int_equal(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG, tag), 1);
	assert_int_equal(EVP_CipherInit_ex2(ctx, NULL, NULL, g_plain.nonce, 1, NULL), 1);
	assert_int_not_equal(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG, buf), 1);
	assert_int_equal(EVP_CipherInit_ex2(ctx, NULL, NULL, g_plain.nonce, 0, NULL), 1);
	assert_int_not_equal(EVP_CipherFinal_ex(ctx, buf, &n), 1); /* the encrypted one's tag is none to compare with */
	assert_int_equal(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG, tag), 1);
	assert_int_equal(EVP_CipherUpdate(ctx, NULL, &n, g_plain.aad, (int)g_plain.aad_size), 1);
	assert_int_equal(EVP_CipherFinal_ex(ctx, buf, &n), 1);
	assert_int_equal(EVP_CipherInit_ex2(ctx, NULL, NULL, g_plain.nonce, 0, NULL), 1);
	assert_int_equal(EVP_CipherUpdate(ctx, NULL, &n, g_plain.aad, (int)g_plain.aad_size), 1);
	assert_int_not_equal(EVP_CipherFinal_ex(ctx, buf, &n), 1); /* the same message again, without one of its own */
	EVP_CIPHER_CTX_free(ctx);
}

static void test_sizes(void **unused)
{
	static const uint8_t zeros[LIMIT_GCM_AAD_SIZE];
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	uint8_t buf[16] = {};
	size_t nonce_size = 16;
	OSSL_PARAM params[2] = { OSSL_PARAM_construct_size_t(OSSL_CIPHER_PARAM_IVLEN, &nonce_size), OSSL_PARAM_construct_end() };
	int n;

	assert_int_not_equal(EVP_CipherInit_ex2(ctx, g_c.ours[0], g_plain.key, g_plain.nonce, 1, params), 1);
	EVP_CIPHER_CTX_reset(ctx);
	assert_int_equal(EVP_CipherInit_ex2(ctx, g_c.ours[0], NULL, NULL, 0, NULL), 1);
	for (int size = 1; size <= 16; size++)
		assert_int_equal(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_IVLEN, size, NULL) == 1, size == NONCE);
	assert_int_equal(EVP_CIPHER_CTX_get_iv_length(ctx), NONCE);
	assert_int_equal(EVP_CIPHER_CTX_get_key_length(ctx), 16);
	assert_int_equal(EVP_CIPHER_CTX_get_tag_length(ctx), TAG);
	assert_int_equal(EVP_CIPHER_get_mode(g_c.ours[1]), EVP_CIPH_GCM_MODE);
	assert_int_equal(EVP_CIPHER_get_key_length(g_c.ours[1]), 32);
	assert_true(EVP_CIPHER_get_flags(g_c.ours[1]) & EVP_CIPH_FLAG_AEAD_CIPHER);
	assert_int_equal(EVP_CipherInit_ex2(ctx, NULL, g_plain.key, g_plain.nonce, 0, NULL), 1);
	for (int size = 1; size < TAG; size++) /* a short tag is one that can be guessed */
		assert_int_not_equal(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, size, buf), 1);
	assert_int_equal(EVP_CipherUpdate(ctx, NULL, &n, zeros, sizeof(zeros)), 1);
	assert_int_not_equal(EVP_CipherUpdate(ctx, NULL, &n, zeros, 1), 1); /* more AAD than there is room for */
	assert_int_not_equal(EVP_CipherFinal_ex(ctx, buf, &n), 1); /* no tag to compare with */
	EVP_CIPHER_CTX_free(ctx);
}

/* The ways in which libssl 3.0 prepares GCM for TLS 1.2: with them it would go on under nonces that are not what it asked for. */
static void test_tls12_is_refused(void **unused)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	uint8_t fixed[4] = {}, aad[EVP_AEAD_TLS1_AAD_LEN] = { [12] = 64 };

	assert_int_equal(EVP_CipherInit_ex2(ctx, g_c.ours[0], g_plain.key, NULL, 1, NULL), 1);
	assert_true(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_IV_FIXED, sizeof(fixed), fixed) <= 0);
	assert_true(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_TLS1_AAD, sizeof(aad), aad) <= 0);
	EVP_CIPHER_CTX_free(ctx);
}

/* -- TLS */

/* @size bytes from @from to @to, and a new key in both directions half-way. */
static void carry(SSL *from, SSL *to, size_t size)
{
	static uint8_t out[16384], in[16384];
	size_t sent = 0, got = 0, n;

	random_fill(out, 256);
	while (got < size) {
		if (sent < size && SSL_write_ex(from, out, sizeof(out), &n)) {
			sent += n;
			if (sent == size / 2)
				assert_int_equal(SSL_key_update(from, SSL_KEY_UPDATE_REQUESTED), 1);
		}
		while (SSL_read_ex(to, in, sizeof(in), &n)) { /* records come out whole */
			assert_int_equal(n, sizeof(in));
			assert_memory_equal(in, out, n);
			got += n;
		}
		assert_int_equal(SSL_get_error(to, 0), SSL_ERROR_WANT_READ);
	}
	assert_false(SSL_read_ex(from, in, sizeof(in), &n)); /* takes the other side's new key */
	assert_int_equal(SSL_get_error(from, 0), SSL_ERROR_WANT_READ);
}

static void tls_between(bool ours_is_server, const char *suite)
{
	OSSL_LIB_CTX *libctx[2] = { pair_libctx(!ours_is_server), pair_libctx(ours_is_server) };
	SSL *client = pair_end(libctx[0], suite, false), *server = pair_end(libctx[1], suite, true);

	pair_connect(client, server, 128 << 10);
	assert_string_equal(SSL_get_cipher_name(client), suite);
	carry(client, server, TLS_SIZE);
	carry(server, client, TLS_SIZE);
	carry(client, server, 1 << 20);
	SSL_free(client);
	SSL_free(server);
	pair_libctx_free(libctx[0]);
	pair_libctx_free(libctx[1]);
}

static void test_tls_client(void **unused)
{
	tls_between(false, "TLS_AES_128_GCM_SHA256");
}

static void test_tls_server(void **unused)
{
	tls_between(true, "TLS_AES_256_GCM_SHA384");
}

/* A record that was changed on its way ends the session. */
static void test_tls_corrupt(void **unused)
{
	OSSL_LIB_CTX *libctx = pair_libctx(true);
	SSL *client = pair_end(libctx, "TLS_AES_128_GCM_SHA256", false), *server = pair_end(libctx, "TLS_AES_128_GCM_SHA256", true);
	BIO *wire = BIO_new(BIO_s_mem()), *changed;
	uint8_t buf[256] = {};
	char *bytes;
	size_t n;

	pair_connect(client, server, 32 << 10);
	assert_false(SSL_read_ex(client, buf, sizeof(buf), &n)); /* tickets */
	SSL_set0_wbio(client, wire);
	assert_true(SSL_write_ex(client, "hello", 5, &n));
	n = (size_t)BIO_get_mem_data(wire, &bytes);
	assert_int_equal(n, 5 + 5 + 1 + TAG);
	bytes[7] ^= 0x10;
	changed = BIO_new_mem_buf(bytes, (int)n);
	SSL_set0_rbio(server, changed);
	assert_false(SSL_read_ex(server, buf, sizeof(buf), &n));
	assert_int_equal(SSL_get_error(server, 0), SSL_ERROR_SSL);
	assert_int_equal(ERR_GET_REASON(ERR_peek_last_error()), SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC);
	ERR_clear_error();
	SSL_free(client);
	SSL_free(server);
	pair_libctx_free(libctx);
}

/* -- the provider itself */

/* What tests above rely on: each cipher is whose it should be. libssl asks by the short name. */
static void test_whose(void **unused)
{
	EVP_CIPHER *c = EVP_CIPHER_fetch(g_c.libctx, "id-aes128-GCM", PAIR_QUERY);
	EVP_CIPHER *cbc = EVP_CIPHER_fetch(g_c.libctx, "AES-256-CBC", PAIR_QUERY);

	assert_string_equal(OSSL_PROVIDER_get0_name(EVP_CIPHER_get0_provider(c)), "sealane");
	assert_string_equal(OSSL_PROVIDER_get0_name(EVP_CIPHER_get0_provider(cbc)), "default");
	for (int k = 0; k < 2; k++) {
		assert_string_equal(OSSL_PROVIDER_get0_name(EVP_CIPHER_get0_provider(g_c.ours[k])), "sealane");
		assert_string_equal(OSSL_PROVIDER_get0_name(EVP_CIPHER_get0_provider(g_c.theirs[k])), "default");
	}
	EVP_CIPHER_free(c);
	EVP_CIPHER_free(cbc);
}

static int setup(void **unused)
{
	g_c.libctx = pair_libctx(true);
	for (int k = 0; k < 2; k++) {
		g_c.ours[k] = EVP_CIPHER_fetch(g_c.libctx, names[k], "provider=sealane");
		g_c.theirs[k] = EVP_CIPHER_fetch(g_c.libctx, names[k], "provider=default");
		if (!g_c.ours[k] || !g_c.theirs[k])
			return -1;
	}
	return 0;
}

static int teardown(void **unused)
{
	for (int k = 0; k < 2; k++) {
		EVP_CIPHER_free(g_c.ours[k]);
		EVP_CIPHER_free(g_c.theirs[k]);
	}
	pair_libctx_free(g_c.libctx);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whose),		cmocka_unit_test(test_vectors),
		cmocka_unit_test(test_same_as_openssl), cmocka_unit_test(test_every_split),
		cmocka_unit_test(test_forged),		cmocka_unit_test(test_nonce_serves_once),
		cmocka_unit_test(test_no_key_no_nonce), cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_tag_serves_once),
		cmocka_unit_test(test_tls12_is_refused), cmocka_unit_test(test_tls_client),
		cmocka_unit_test(test_tls_server),	cmocka_unit_test(test_tls_corrupt),
	};
	OSSL_LIB_CTX *libctx = OSSL_LIB_CTX_new();
	const char *why = NULL;
	int r = link_gcm_load(libctx, &why);

	pair_libctx_free(libctx);
	if (r == GCM_E_NOT_HERE) {
		printf("skipped: %s\n", why);
		return 77;
	}
	return r < 0 ? 1 : cmocka_run_group_tests(tests, setup, teardown);
}
