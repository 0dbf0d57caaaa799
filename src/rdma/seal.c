/*
 * Theory of operation
 *
 *   secret --HKDF--> stream_0 -> key_0, iv_0, stream_1 -> key_1, ...       a stream: forwards only, the one before is wiped
 *   secret --HKDF--> object_e -> key_e, iv_e                               objects: any epoch, since old ones still lie about
 *
 * One message: nonce from iv, epoch and sequence; 40 bytes of associated data; then EVP as libssl uses it, so that the provider of
 * src/link/gcm.h, made for that, serves here too. Sequence numbers do not travel with records: both ends count, and so they agree on
 * when an epoch ends as well. With objects they stand before the ciphertext, in clear; the tag covers them by the associated data.
 *
 * What must never happen: one nonce twice under a key (every path from a count to a message goes through message(), and a failure there ends
 * the struct); plaintext that was not verified left where the caller sees it; ciphertext read from memory that others write.
 */
#include "rdma/seal.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>

enum { NONCE_SIZE = 12, AAD_SIZE = 40, INFO_MAX = 64, READER_EPOCHS = 2 };

/* One epoch's. */
struct keys {
	EVP_CIPHER_CTX *ctx; /* owned; NULL: none */
	uint8_t iv[NONCE_SIZE];
	uint32_t epoch;
};

struct sealer { /* what both kinds have */
	OSSL_LIB_CTX *libctx;
	EVP_CIPHER *cipher;
	int key_size;
	uint8_t secret[SEAL_SECRET_SIZE]; /* stream: of the next epoch; objects: the region's */
};

struct seal_stream {
	struct sealer sealer;
	struct keys keys;
	uint64_t number, sequence, bytes;
	bool seals, broken, retry;
};

struct seal_objects {
	struct sealer sealer;
	struct keys keys[READER_EPOCHS]; /* the writer has one; a reader the two that it used last */
	unsigned newest;
	uint64_t region, sequence, bytes;
	bool broken;
};

/* What a message is, apart from its bytes. */
struct about {
	uint64_t region, offset, sequence, kind;
	uint32_t size, epoch;
};

/* -- keys */

/* HKDF-Expand of @secret with the text @label and, if @n_more, so many bytes. Return: 0 or -EIO. */
static int expand(OSSL_LIB_CTX *libctx, const uint8_t *secret, const char *label, const uint8_t *more, size_t n_more, uint8_t *ret, size_t size)
{
	EVP_KDF *kdf = EVP_KDF_fetch(libctx, "HKDF", NULL);
	EVP_KDF_CTX *ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
	uint8_t info[INFO_MAX], key[SEAL_SECRET_SIZE];
	size_t n = strlen(label);
	int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY, done = 0;
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
		OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)(uintptr_t)"SHA256", 0),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, key, sizeof(key)),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, n + n_more),
		OSSL_PARAM_construct_end(),
	};

	assert(n + n_more <= sizeof(info));
	memcpy(info, label, n);
	if (n_more > 0)
		memcpy(info + n, more, n_more);
	memcpy(key, secret, sizeof(key));
	if (ctx)
		done = EVP_KDF_derive(ctx, ret, size, params);
	OPENSSL_cleanse(key, sizeof(key));
	EVP_KDF_CTX_free(ctx);
	EVP_KDF_free(kdf);
	return done == 1 ? 0 : -EIO;
}

int seal_token(uint8_t *ret, const struct seal_crypto *crypto, const uint8_t *secret, uint64_t number)
{
	uint8_t more[8];

	put_le(more, number, 8);
	return expand(crypto->libctx, secret, "sealane rdma v1 token", more, sizeof(more), ret, SEAL_SECRET_SIZE);
}

static int sealer_init(struct sealer *s, const struct seal_crypto *crypto)
{
	s->libctx = crypto->libctx;
	s->cipher = EVP_CIPHER_fetch(crypto->libctx, crypto->cipher == SEAL_AES_256_GCM ? "AES-256-GCM" : "AES-128-GCM", crypto->query);
	s->key_size = crypto->cipher == SEAL_AES_256_GCM ? 32 : 16;
	return s->cipher ? 0 : -EIO;
}

static void sealer_fini(struct sealer *s)
{
	EVP_CIPHER_free(s->cipher);
	OPENSSL_cleanse(s->secret, sizeof(s->secret));
}

static void keys_drop(struct keys *k)
{
	EVP_CIPHER_CTX_free(k->ctx);
	OPENSSL_cleanse(k, sizeof(*k));
	k->ctx = NULL;
}

/* The key and iv that follow from @secret. */
static int keys_make(struct keys *k, const struct sealer *s, const uint8_t *secret, uint32_t epoch, bool seals)
{
	uint8_t key[32];
	int r = -EIO;

	keys_drop(k);
	k->epoch = epoch;
	k->ctx = EVP_CIPHER_CTX_new();
	if (!k->ctx)
		return -ENOMEM;
	if (expand(s->libctx, secret, "key", NULL, 0, key, (size_t)s->key_size) == 0 &&
	    expand(s->libctx, secret, "iv", NULL, 0, k->iv, sizeof(k->iv)) == 0 &&
	    EVP_CipherInit_ex(k->ctx, s->cipher, NULL, key, NULL, seals) == 1)
		r = 0;
	OPENSSL_cleanse(key, sizeof(key));
	if (r < 0)
		keys_drop(k);
	return r;
}

static int stream_keys(struct seal_stream *s, uint32_t epoch)
{
	uint8_t next[SEAL_SECRET_SIZE];
	int r = keys_make(&s->keys, &s->sealer, s->sealer.secret, epoch, s->seals);

	if (r == 0)
		r = expand(s->sealer.libctx, s->sealer.secret, "next", NULL, 0, next, sizeof(next));
	if (r == 0)
		memcpy(s->sealer.secret, next, sizeof(next));
	OPENSSL_cleanse(next, sizeof(next));
	s->sequence = 0;
	s->bytes = 0;
	return r;
}

static int object_keys(struct seal_objects *o, struct keys *k, uint32_t epoch, bool seals)
{
	uint8_t more[4], secret[SEAL_SECRET_SIZE];
	int r;

	put_le(more, epoch, sizeof(more));
	r = expand(o->sealer.libctx, o->sealer.secret, "sealane rdma v1 object", more, sizeof(more), secret, sizeof(secret));
	if (r == 0)
		r = keys_make(k, &o->sealer, secret, epoch, seals);
	OPENSSL_cleanse(secret, sizeof(secret));
	return r;
}

/* Would one more of @size be too much for a key? */
static bool epoch_is_full(uint64_t n_records, uint64_t bytes, uint32_t size)
{
	return n_records >= LIMIT_SEAL_RECORDS || size > (UINT64_C(1) << LIMIT_SEAL_BYTES_LOG2) - bytes;
}

/* -- one message */

/*
 * Nonce, associated data and @about->size bytes; @tag is written or compared. In place where @from is @to. Return: 0; -EBADMSG: the tag does not
 * fit (opening); -EIO.
 */
static int message(const struct keys *k, const struct about *about, const uint8_t *from, uint8_t *to, uint8_t *tag, bool seals)
{
	uint8_t nonce[NONCE_SIZE], aad[AAD_SIZE], number[NONCE_SIZE];
	int n;

	put_le(number, about->epoch, 4);
	put_le(number + 4, about->sequence, 8);
	for (unsigned i = 0; i < NONCE_SIZE; i++)
		nonce[i] = k->iv[i] ^ number[i];
	put_le(aad, about->region, 8);
	put_le(aad + 8, about->offset, 8);
	put_le(aad + 16, about->size, 4);
	put_le(aad + 20, about->epoch, 4);
	put_le(aad + 24, about->sequence, 8);
	put_le(aad + 32, about->kind, 8);
	if (EVP_CipherInit_ex(k->ctx, NULL, NULL, NULL, nonce, seals) != 1 || EVP_CipherUpdate(k->ctx, NULL, &n, aad, AAD_SIZE) != 1)
		return -EIO;
	if (about->size > 0 && EVP_CipherUpdate(k->ctx, to, &n, from, (int)about->size) != 1)
		return -EIO;
	if (!seals && EVP_CIPHER_CTX_ctrl(k->ctx, EVP_CTRL_AEAD_SET_TAG, SEAL_TAG_SIZE, tag) != 1)
		return -EIO;
	if (EVP_CipherFinal_ex(k->ctx, nonce, &n) != 1) /* GCM has nothing left to write */
		return seals ? -EIO : -EBADMSG;
	return !seals || EVP_CIPHER_CTX_ctrl(k->ctx, EVP_CTRL_AEAD_GET_TAG, SEAL_TAG_SIZE, tag) == 1 ? 0 : -EIO;
}

/* -- records */

int seal_stream_new(struct seal_stream **ret, const struct seal_crypto *crypto, const uint8_t *secret, uint64_t number, unsigned direction, bool seals)
{
	struct seal_stream *s = calloc(1, sizeof(*s));
	uint8_t more[9];
	int r;

	if (!s)
		return -ENOMEM;
	put_le(more, number, 8);
	more[8] = (uint8_t)direction;
	s->number = number;
	s->seals = seals;
	r = sealer_init(&s->sealer, crypto);
	if (r == 0)
		r = expand(s->sealer.libctx, secret, "sealane rdma v1 stream", more, sizeof(more), s->sealer.secret, SEAL_SECRET_SIZE);
	if (r == 0)
		r = stream_keys(s, 0);
	if (r < 0) {
		seal_stream_free(s);
		return r;
	}
	*ret = s;
	return 0;
}

void seal_stream_free(struct seal_stream *s)
{
	if (!s)
		return;
	keys_drop(&s->keys);
	sealer_fini(&s->sealer);
	free(s);
}

/* The next record's place in the count: 0 and @ret, or -EIO. */
static int stream_next(struct seal_stream *s, uint64_t offset, uint16_t kind, uint32_t size, struct about *ret)
{
	int r = epoch_is_full(s->sequence, s->bytes, size) ? stream_keys(s, s->keys.epoch + 1) : 0;

	if (r < 0)
		s->broken = true;
	*ret = (struct about){ s->number, offset, s->sequence, kind, size, s->keys.epoch };
	return r < 0 ? -EIO : 0;
}

int seal_record(struct seal_stream *s, uint64_t offset, uint16_t kind, const void *plain, uint32_t size, void *to)
{
	struct about about;

	assert(s->seals);
	if (s->broken || stream_next(s, offset, kind, size, &about) < 0)
		return -EIO;
	s->sequence++;
	s->bytes += size;
	if (message(&s->keys, &about, plain, to, (uint8_t *)to + size, true) == 0)
		return 0;
	s->broken = true;
	return -EIO;
}

int seal_record_open(struct seal_stream *s, uint64_t offset, uint16_t kind, const void *sealed, uint32_t size, void *plain)
{
	uint8_t tag[SEAL_TAG_SIZE];
	struct about about;
	int r;

	assert(!s->seals);
	if (s->broken || size < SEAL_TAG_SIZE)
		r = -EBADMSG;
	else
		r = stream_next(s, offset, kind, size - SEAL_TAG_SIZE, &about);
	if (r == 0) {
		memcpy(plain, sealed, about.size);
		memcpy(tag, (const uint8_t *)sealed + about.size, SEAL_TAG_SIZE);
		r = message(&s->keys, &about, plain, plain, tag, false);
		if (r < 0)
			OPENSSL_cleanse(plain, about.size);
	}
	s->retry = r == -EBADMSG && !s->broken;
	if (r < 0) {
		s->broken = true;
		return r;
	}
	s->sequence++;
	s->bytes += about.size;
	return 0;
}

void seal_record_retry(struct seal_stream *s)
{
	if (s->retry)
		s->broken = false;
}

uint32_t seal_stream_epoch(const struct seal_stream *s)
{
	return s->keys.epoch;
}

void seal_stream_skip(struct seal_stream *s, uint64_t n_records, uint64_t bytes)
{
	s->sequence += n_records;
	s->bytes += bytes;
}

/* -- objects */

static int objects_new(struct seal_objects **ret, const struct seal_crypto *crypto, uint64_t region, const uint8_t *secret, bool writes)
{
	struct seal_objects *o = calloc(1, sizeof(*o));
	int r;

	if (!o)
		return -ENOMEM;
	o->region = region;
	memcpy(o->sealer.secret, secret, SEAL_SECRET_SIZE);
	r = sealer_init(&o->sealer, crypto);
	if (r == 0)
		r = object_keys(o, &o->keys[0], 0, writes);
	if (r < 0) {
		seal_objects_free(o);
		return r;
	}
	*ret = o;
	return 0;
}

int seal_objects_new_writer(struct seal_objects **ret, const struct seal_crypto *crypto, uint64_t region, uint8_t *ret_secret)
{
	uint8_t secret[SEAL_SECRET_SIZE];
	int r = RAND_bytes_ex(crypto->libctx, secret, sizeof(secret), 256) == 1 ? 0 : -EIO;

	if (r == 0)
		r = objects_new(ret, crypto, region, secret, true);
	if (r == 0)
		memcpy(ret_secret, secret, sizeof(secret));
	OPENSSL_cleanse(secret, sizeof(secret));
	return r;
}

int seal_objects_new_reader(struct seal_objects **ret, const struct seal_crypto *crypto, uint64_t region, const uint8_t *secret)
{
	return objects_new(ret, crypto, region, secret, false);
}

void seal_objects_free(struct seal_objects *o)
{
	if (!o)
		return;
	for (unsigned i = 0; i < READER_EPOCHS; i++)
		keys_drop(&o->keys[i]);
	sealer_fini(&o->sealer);
	free(o);
}

static int writer_next(struct seal_objects *o, uint32_t size)
{
	if (!epoch_is_full(o->sequence, o->bytes, size))
		return 0;
	o->sequence = 0;
	o->bytes = 0;
	return object_keys(o, &o->keys[0], o->keys[0].epoch + 1, true);
}

int seal_object_write(struct seal_objects *o, uint64_t offset, const void *plain, uint32_t size, void *place)
{
	uint8_t *to = place;
	struct about about;

	if (size > LIMIT_SEAL_OBJECT_SIZE)
		return -EMSGSIZE;
	if (o->broken || writer_next(o, size) < 0) {
		o->broken = true;
		return -EIO;
	}
	about = (struct about){ o->region, offset, ++o->sequence, 0, size, o->keys[0].epoch };
	o->bytes += size;
	put_le(to, about.sequence, 8);
	put_le(to + 8, about.epoch, 4);
	put_le(to + 12, about.size, 4);
	if (message(&o->keys[0], &about, plain, to + SEAL_OBJECT_HEADER_SIZE, to + SEAL_OBJECT_HEADER_SIZE + size, true) == 0)
		return 0;
	o->broken = true;
	return -EIO;
}

/* The keys of @epoch; NULL: OpenSSL failed. What a hostile epoch costs is one derivation. */
static struct keys *reader_keys(struct seal_objects *o, uint32_t epoch)
{
	for (unsigned i = 0; i < READER_EPOCHS; i++)
		if (o->keys[i].ctx && o->keys[i].epoch == epoch)
			return &o->keys[o->newest = i];
	o->newest = (o->newest + 1) % READER_EPOCHS;
	return object_keys(o, &o->keys[o->newest], epoch, false) == 0 ? &o->keys[o->newest] : NULL;
}

static bool is_older(const struct about *a, const struct seal_version *than)
{
	return a->epoch < than->epoch || (a->epoch == than->epoch && a->sequence < than->sequence);
}

int seal_object_open(struct seal_objects *o, uint64_t offset, const void *bytes, uint64_t size, struct seal_version *seen, void *plain,
		     uint32_t plain_cap, uint32_t *ret_size)
{
	const uint8_t *from = bytes;
	uint8_t tag[SEAL_TAG_SIZE];
	struct about about;
	struct keys *k;
	int r;

	if (size < SEAL_OBJECT_OVERHEAD)
		return SEAL_E_TORN;
	about = (struct about){ o->region, offset, get_le(from, 8), 0, (uint32_t)get_le(from + 12, 4), (uint32_t)get_le(from + 8, 4) };
	if (about.size > LIMIT_SEAL_OBJECT_SIZE || about.size > size - SEAL_OBJECT_OVERHEAD)
		return SEAL_E_TORN;
	if (about.size > plain_cap)
		return -EMSGSIZE;
	k = reader_keys(o, about.epoch);
	if (!k)
		return -EIO;
	memcpy(tag, from + SEAL_OBJECT_HEADER_SIZE + about.size, SEAL_TAG_SIZE);
	r = message(k, &about, from + SEAL_OBJECT_HEADER_SIZE, plain, tag, false);
	if (r == 0 && is_older(&about, seen))
		r = SEAL_E_OLD;
	if (r != 0) {
		OPENSSL_cleanse(plain, about.size);
		return r == -EBADMSG ? SEAL_E_TORN : r;
	}
	*seen = (struct seal_version){ about.epoch, about.sequence };
	*ret_size = about.size;
	return 0;
}
