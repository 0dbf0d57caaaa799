/*
 * Theory of operation
 *
 * An OpenSSL provider is a table of functions. libssl fetches "AES-128-GCM" with the property query of its SSL_CTX, finds ours, and
 * from then on does, for each record (tls13_enc() in OpenSSL 3.0):
 *
 *   init     a nonce, the old key                     gcm_start()
 *   set tag  the record's, when it decrypts           gcm_set_params()
 *   update   the record's header, no output: AAD      gcm_update() -> gcm_take_aad()
 *   update   the record itself, mostly in place       gcm_update() -> gcm_crypt()
 *   final    nothing comes out; compares the tag      gcm_final()
 *   get tag  when it encrypts                         gcm_get_params()
 *
 * The key's schedule and its powers for GHASH are made once a key. The library wants nonce and AAD in one call, so the few bytes of
 * AAD are kept until the first data come. Nothing is allocated after gcm_new(). Plaintext comes out before its tag was compared,
 * as with every streaming GCM: libssl throws it away when final fails.
 *
 * A message's states, and what may be done in each:
 *   IDLE  no nonce: nothing. Reading the tag, if a message was just encrypted.
 *   AAD   there is a nonce: AAD, data, final.
 *   DATA  data have come: more data, final. A key, or the other direction, ends the message.
 * gcm_start() with a nonce leads to AAD from anywhere; gcm_final() leads to IDLE, so that no nonce serves twice by oversight.
 *
 * What must never happen: a tag compared in other than constant time, keys left in freed memory, a nonce made up here.
 * The library's manager holds function pointers only: it is asked for them once, at load, and given back.
 */
#include "link/gcm.h"

#include "base/limits.h"

#include <intel-ipsec-mb.h>
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/proverr.h>
#include <openssl/provider.h>

enum { NONCE_SIZE = 12, TAG_SIZE = 16, ALIGNMENT = 64 /* of a key's powers: loaded 64 bytes at a time */ };

/* What one key may encrypt under one nonce: 2^32 - 2 blocks (SP 800-38D, 5.2.1.1). */
#define MESSAGE_SIZE_MAX (((UINT64_C(1) << 32) - 2) * 16)

struct gcm_kind {
	size_t key_size;
	aes_gcm_pre_t expand;
	aes_gcm_init_t begin;
	aes_gcm_enc_dec_update_t encrypt, decrypt;
	aes_gcm_enc_dec_finalize_t encrypt_end, decrypt_end;
};

enum gcm_state { GCM_IDLE, GCM_AAD, GCM_DATA };

struct gcm {
	_Alignas(ALIGNMENT) struct gcm_key_data key;
	struct gcm_context_data message; /* from GCM_DATA on */
	const struct gcm_kind *kind;
	enum gcm_state state;
	bool has_key, encrypts;
	bool has_tag; /* @tag: what to compare with, or what the last message got */
	size_t aad_size;
	uint64_t data_size;
	uint8_t nonce[NONCE_SIZE], tag[TAG_SIZE], aad[LIMIT_GCM_AAD_SIZE];
};

/* The same for every OSSL_LIB_CTX; filled under g_once, constant from then on. */
static struct gcm_kind g_kinds[2];
static const char *g_why_not;
static CRYPTO_ONCE g_once = CRYPTO_ONCE_STATIC_INIT;

/* -- one message */

static void message_begin(struct gcm *g)
{
	g->kind->begin(&g->key, &g->message, g->nonce, g->aad, g->aad_size);
	g->state = GCM_DATA;
	g->data_size = 0;
}

static int gcm_take_aad(struct gcm *g, const uint8_t *in, size_t size)
{
	if (g->state != GCM_AAD || size > sizeof(g->aad) - g->aad_size) {
		ERR_raise(ERR_LIB_PROV, PROV_R_INVALID_AAD);
		return 0;
	}
	memcpy(g->aad + g->aad_size, in, size);
	g->aad_size += size;
	return 1;
}

static int gcm_crypt(struct gcm *g, uint8_t *out, const uint8_t *in, size_t size)
{
	if (g->state == GCM_AAD)
		message_begin(g);
	if (size > MESSAGE_SIZE_MAX - g->data_size) {
		ERR_raise(ERR_LIB_PROV, PROV_R_CIPHER_OPERATION_FAILED);
		return 0;
	}
	g->data_size += size;
	(g->encrypts ? g->kind->encrypt : g->kind->decrypt)(&g->key, &g->message, out, in, size);
	return 1;
}

static bool message_is_open(const struct gcm *g)
{
	if (g->has_key && g->state != GCM_IDLE)
		return true;
	ERR_raise(ERR_LIB_PROV, g->has_key ? PROV_R_INVALID_IV_LENGTH : PROV_R_NO_KEY_SET);
	return false;
}

static int gcm_update(void *ctx, unsigned char *out, size_t *ret_size, size_t out_size, const unsigned char *in, size_t size)
{
	struct gcm *g = ctx;
	int done;

	*ret_size = 0;
	if (size == 0)
		return 1;
	if (!message_is_open(g))
		return 0;
	if (out && out_size < size) {
		ERR_raise(ERR_LIB_PROV, PROV_R_OUTPUT_BUFFER_TOO_SMALL);
		return 0;
	}
	done = out ? gcm_crypt(g, out, in, size) : gcm_take_aad(g, in, size);
	if (done)
		*ret_size = size;
	return done;
}

static int gcm_final(void *ctx, unsigned char *out, size_t *ret_size, size_t out_size)
{
	struct gcm *g = ctx;
	uint8_t tag[TAG_SIZE];
	int same;

	*ret_size = 0;
	if (!message_is_open(g))
		return 0;
	if (!g->encrypts && !g->has_tag) {
		ERR_raise(ERR_LIB_PROV, PROV_R_TAG_NOT_SET);
		return 0;
	}
	if (g->state == GCM_AAD)
		message_begin(g);
	g->state = GCM_IDLE;
	if (g->encrypts) {
		g->kind->encrypt_end(&g->key, &g->message, g->tag, TAG_SIZE);
		g->has_tag = true;
		return 1;
	}
	g->kind->decrypt_end(&g->key, &g->message, tag, TAG_SIZE);
	same = CRYPTO_memcmp(tag, g->tag, TAG_SIZE) == 0;
	OPENSSL_cleanse(tag, sizeof(tag)); /* of a forged message, the right tag is a secret */
	g->has_tag = false;
	return same;
}

/* -- parameters */

static int gcm_set_tag(struct gcm *g, const OSSL_PARAM *p)
{
	if (g->encrypts || p->data_type != OSSL_PARAM_OCTET_STRING || !p->data || p->data_size != TAG_SIZE) {
		ERR_raise(ERR_LIB_PROV, g->encrypts ? PROV_R_TAG_NOT_NEEDED : PROV_R_INVALID_TAG_LENGTH);
		return 0;
	}
	memcpy(g->tag, p->data, TAG_SIZE);
	g->has_tag = true;
	return 1;
}

static int must_be(const OSSL_PARAM *p, size_t expected, int reason)
{
	size_t value;

	if (OSSL_PARAM_get_size_t(p, &value) && value == expected)
		return 1;
	ERR_raise(ERR_LIB_PROV, reason);
	return 0;
}

static int gcm_set_param(struct gcm *g, const OSSL_PARAM *p)
{
	if (strcmp(p->key, OSSL_CIPHER_PARAM_AEAD_TAG) == 0)
		return gcm_set_tag(g, p);
	if (strcmp(p->key, OSSL_CIPHER_PARAM_AEAD_IVLEN) == 0)
		return must_be(p, NONCE_SIZE, PROV_R_INVALID_IV_LENGTH);
	if (strcmp(p->key, OSSL_CIPHER_PARAM_KEYLEN) == 0)
		return must_be(p, g->kind->key_size, PROV_R_INVALID_KEY_LENGTH);
	if (strncmp(p->key, "tls", 3) == 0) { /* TLS 1.2: it must fail, not go on with another nonce than it asked for */
		ERR_raise(ERR_LIB_PROV, PROV_R_INVALID_MODE);
		return 0;
	}
	return 1; /* others are passed over, as all providers do */
}

static int gcm_set_params(void *ctx, const OSSL_PARAM params[])
{
	for (const OSSL_PARAM *p = params; p && p->key; p++)
		if (!gcm_set_param(ctx, p))
			return 0;
	return 1;
}

static int gcm_get_tag(const struct gcm *g, OSSL_PARAM *p)
{
	if (!g->encrypts || !g->has_tag || g->state != GCM_IDLE || p->data_size != TAG_SIZE) {
		ERR_raise(ERR_LIB_PROV, g->has_tag ? PROV_R_INVALID_TAG_LENGTH : PROV_R_TAG_NOT_SET);
		return 0;
	}
	return OSSL_PARAM_set_octet_string(p, g->tag, TAG_SIZE);
}

static int gcm_get_param(const struct gcm *g, OSSL_PARAM *p)
{
	if (strcmp(p->key, OSSL_CIPHER_PARAM_IVLEN) == 0)
		return OSSL_PARAM_set_size_t(p, NONCE_SIZE);
	if (strcmp(p->key, OSSL_CIPHER_PARAM_AEAD_TAG) == 0)
		return gcm_get_tag(g, p);
	if (strcmp(p->key, OSSL_CIPHER_PARAM_KEYLEN) == 0)
		return OSSL_PARAM_set_size_t(p, g->kind->key_size);
	if (strcmp(p->key, OSSL_CIPHER_PARAM_AEAD_TAGLEN) == 0)
		return OSSL_PARAM_set_size_t(p, TAG_SIZE);
	return 1;
}

static int gcm_get_params(void *ctx, OSSL_PARAM params[])
{
	for (OSSL_PARAM *p = params; p && p->key; p++)
		if (!gcm_get_param(ctx, p))
			return 0;
	return 1;
}

static const OSSL_PARAM *gcm_settable(void *ctx, void *provider)
{
	static const OSSL_PARAM params[] = { OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, NULL, 0),
					     OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_AEAD_IVLEN, NULL),
					     OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_KEYLEN, NULL), OSSL_PARAM_END };

	return params;
}

static const OSSL_PARAM *gcm_gettable(void *ctx, void *provider)
{
	static const OSSL_PARAM params[] = { OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_IVLEN, NULL),
					     OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, NULL, 0),
					     OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_KEYLEN, NULL),
					     OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_AEAD_TAGLEN, NULL), OSSL_PARAM_END };

	return params;
}

/* What a cipher is, before there is a context of it. */
static int kind_get_params(OSSL_PARAM params[], size_t key_size)
{
	for (OSSL_PARAM *p = params; p->key; p++) {
		int done = 1;

		if (strcmp(p->key, OSSL_CIPHER_PARAM_MODE) == 0)
			done = OSSL_PARAM_set_uint(p, EVP_CIPH_GCM_MODE);
		else if (strcmp(p->key, OSSL_CIPHER_PARAM_KEYLEN) == 0)
			done = OSSL_PARAM_set_size_t(p, key_size);
		else if (strcmp(p->key, OSSL_CIPHER_PARAM_IVLEN) == 0)
			done = OSSL_PARAM_set_size_t(p, NONCE_SIZE);
		else if (strcmp(p->key, OSSL_CIPHER_PARAM_BLOCK_SIZE) == 0)
			done = OSSL_PARAM_set_size_t(p, 1); /* as a stream: what goes in comes out */
		else if (strcmp(p->key, OSSL_CIPHER_PARAM_AEAD) == 0 || strcmp(p->key, OSSL_CIPHER_PARAM_CUSTOM_IV) == 0)
			done = OSSL_PARAM_set_int(p, 1);
		if (!done)
			return 0;
	}
	return 1;
}

static int kind_get_params_128(OSSL_PARAM params[])
{
	return kind_get_params(params, IMB_GCM_128_KEY_LEN);
}

static int kind_get_params_256(OSSL_PARAM params[])
{
	return kind_get_params(params, IMB_GCM_256_KEY_LEN);
}

/* -- keys and nonces */

static struct gcm *gcm_new(const struct gcm_kind *kind)
{
	struct gcm *g = aligned_alloc(ALIGNMENT, sizeof(*g));

	if (g) {
		memset(g, 0, sizeof(*g));
		g->kind = kind;
	}
	return g;
}

static void *gcm_new_128(void *provider)
{
	return gcm_new(&g_kinds[0]);
}

static void *gcm_new_256(void *provider)
{
	return gcm_new(&g_kinds[1]);
}

static void gcm_free(void *ctx)
{
	if (ctx)
		OPENSSL_cleanse(ctx, sizeof(struct gcm));
	free(ctx);
}

static int gcm_start(struct gcm *g, const uint8_t *key, size_t key_size, const uint8_t *nonce, size_t nonce_size)
{
	if (key && key_size != g->kind->key_size) {
		ERR_raise(ERR_LIB_PROV, PROV_R_INVALID_KEY_LENGTH);
		return 0;
	}
	if (nonce && nonce_size != NONCE_SIZE) {
		ERR_raise(ERR_LIB_PROV, PROV_R_INVALID_IV_LENGTH);
		return 0;
	}
	if (g->state == GCM_DATA)
		g->state = GCM_IDLE;
	if (key) {
		g->kind->expand(key, &g->key);
		g->has_key = true;
	}
	if (nonce) {
		memcpy(g->nonce, nonce, NONCE_SIZE);
		g->state = GCM_AAD;
		g->aad_size = 0;
	}
	g->has_tag = false;
	return 1;
}

static int gcm_encrypt_init(void *ctx, const unsigned char *key, size_t key_size, const unsigned char *nonce, size_t nonce_size,
			    const OSSL_PARAM params[])
{
	struct gcm *g = ctx;

	g->encrypts = true;
	return gcm_start(g, key, key_size, nonce, nonce_size) && gcm_set_params(g, params);
}

static int gcm_decrypt_init(void *ctx, const unsigned char *key, size_t key_size, const unsigned char *nonce, size_t nonce_size,
			    const OSSL_PARAM params[])
{
	struct gcm *g = ctx;

	g->encrypts = false;
	return gcm_start(g, key, key_size, nonce, nonce_size) && gcm_set_params(g, params);
}

/* -- the tables that OpenSSL reads */

#define ENTRY(id, function) { (id), (void (*)(void))(function) }
#define CIPHER_TABLE(bits)                                              \
	{                                                               \
		ENTRY(OSSL_FUNC_CIPHER_NEWCTX, gcm_new_##bits),         \
		ENTRY(OSSL_FUNC_CIPHER_FREECTX, gcm_free),              \
		ENTRY(OSSL_FUNC_CIPHER_ENCRYPT_INIT, gcm_encrypt_init), \
		ENTRY(OSSL_FUNC_CIPHER_DECRYPT_INIT, gcm_decrypt_init), \
		ENTRY(OSSL_FUNC_CIPHER_UPDATE, gcm_update),             \
		ENTRY(OSSL_FUNC_CIPHER_FINAL, gcm_final),               \
		ENTRY(OSSL_FUNC_CIPHER_GET_PARAMS, kind_get_params_##bits), \
		ENTRY(OSSL_FUNC_CIPHER_GET_CTX_PARAMS, gcm_get_params), \
		ENTRY(OSSL_FUNC_CIPHER_SET_CTX_PARAMS, gcm_set_params), \
		ENTRY(OSSL_FUNC_CIPHER_GETTABLE_CTX_PARAMS, gcm_gettable), \
		ENTRY(OSSL_FUNC_CIPHER_SETTABLE_CTX_PARAMS, gcm_settable), \
		{ 0, NULL },                                            \
	}

static const OSSL_DISPATCH aes_128_gcm[] = CIPHER_TABLE(128);
static const OSSL_DISPATCH aes_256_gcm[] = CIPHER_TABLE(256);

/* All three names that OpenSSL's own has: libssl asks by the second one, the short name of the cipher's NID. */
static const OSSL_ALGORITHM ciphers[] = {
	{ "AES-128-GCM:id-aes128-GCM:2.16.840.1.101.3.4.1.6", "provider=sealane", aes_128_gcm, "AES-128-GCM by ipsec-mb" },
	{ "AES-256-GCM:id-aes256-GCM:2.16.840.1.101.3.4.1.46", "provider=sealane", aes_256_gcm, "AES-256-GCM by ipsec-mb" },
	{ NULL, NULL, NULL, NULL },
};

static const OSSL_ALGORITHM *provider_query(void *provider, int operation, int *ret_no_cache)
{
	*ret_no_cache = 0;
	return operation == OSSL_OP_CIPHER ? ciphers : NULL;
}

static int provider_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in, const OSSL_DISPATCH **out, void **ret_provider)
{
	static const OSSL_DISPATCH table[] = { ENTRY(OSSL_FUNC_PROVIDER_QUERY_OPERATION, provider_query), { 0, NULL } };

	*out = table;
	*ret_provider = (void *)(uintptr_t)handle; /* there is no state: g_kinds is constant */
	return 1;
}

/* -- is it worth it here? */

static void kinds_take(const IMB_MGR *m)
{
	g_kinds[0] = (struct gcm_kind){ IMB_GCM_128_KEY_LEN,  m->gcm128_pre,	     m->gcm128_init,	     m->gcm128_enc_update,
					m->gcm128_dec_update, m->gcm128_enc_finalize, m->gcm128_dec_finalize };
	g_kinds[1] = (struct gcm_kind){ IMB_GCM_256_KEY_LEN,  m->gcm256_pre,	     m->gcm256_init,	     m->gcm256_enc_update,
					m->gcm256_dec_update, m->gcm256_enc_finalize, m->gcm256_dec_finalize };
}

/*
 * Without VAES the library is no faster than OpenSSL, and from 3.1 on OpenSSL has the same of its own. What the CPU has the kernel may
 * still not save at a task switch: that is what __builtin_cpu_supports() asks besides, and the library does not.
 */
static const char *why_not(void)
{
	const char *why = NULL;
	IMB_MGR *m;

	if (OPENSSL_version_major() != 3 || OPENSSL_version_minor() != 0)
		return "OpenSSL here is newer than 3.0 and as fast itself";
	m = alloc_mb_mgr(0);
	if (!m)
		return "out of memory for ipsec-mb";
	init_mb_mgr_auto(m, NULL);
	if ((m->features & IMB_CPUFLAGS_AVX512_T2) != IMB_CPUFLAGS_AVX512_T2 || !__builtin_cpu_supports("avx512vl"))
		why = "this CPU has no VAES with AVX-512: OpenSSL's own is as fast";
	else if (!(m->features & IMB_FEATURE_SELF_TEST_PASS))
		why = "the self-test of ipsec-mb failed on this machine";
	else
		kinds_take(m);
	free_mb_mgr(m);
	return why;
}

static void look_once(void)
{
	g_why_not = why_not();
}

int link_gcm_load(OSSL_LIB_CTX *ctx, const char **ret_why)
{
	if (CRYPTO_THREAD_run_once(&g_once, look_once) != 1)
		return -ENOMEM;
	*ret_why = g_why_not;
	if (g_why_not)
		return GCM_E_NOT_HERE;
	*ret_why = "ipsec-mb: VAES and AVX-512";
	/* A provider that is asked for by name keeps OpenSSL from loading its own unasked, but for the last argument. */
	if (OSSL_PROVIDER_add_builtin(ctx, "sealane", provider_init) != 1 || !OSSL_PROVIDER_try_load(ctx, "sealane", true)) {
		*ret_why = "OpenSSL did not take the provider";
		return -ENOMEM;
	}
	return 0;
}

static int take_ours(OSSL_PROVIDER *provider, void *ret)
{
	if (strcmp(OSSL_PROVIDER_get0_name(provider), "sealane") == 0)
		*(OSSL_PROVIDER **)ret = provider;
	return 1;
}

void link_gcm_unload(OSSL_LIB_CTX *ctx)
{
	OSSL_PROVIDER *ours = NULL;

	if (OSSL_PROVIDER_do_all(ctx, take_ours, &ours) == 1 && ours)
		OSSL_PROVIDER_unload(ours);
}
