/*
 * An EC_KEY with a method table of its own, the one way that OpenSSL has had for this through all of 1.1 and 3. It is deprecated
 * in favour of providers; a provider for one key would be many times as long, and would offer its ECDSA to every other
 * key of the process as well. So the deprecated calls stay in this file.
 */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "link/remote_key.h"

#include "link/pki.h"

#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>

struct remote_key {
	remote_key_sign *sign;
	void *arg;
	uint32_t kid;
};

static CRYPTO_ONCE g_once = CRYPTO_ONCE_STATIC_INIT;
static EC_KEY_METHOD *g_method; /* for the life of the process, as OpenSSL's own tables */
static int g_index = -1;

static int remote_sign(int type, const unsigned char *digest, int size, unsigned char *ret, unsigned int *ret_size,
		       const BIGNUM *kinv, const BIGNUM *r, EC_KEY *key)
{
	const struct remote_key *k = EC_KEY_get_ex_data(key, g_index);
	uint8_t signature[SIGNATURE_SIZE];
	int n;

	if (!k || size != 32) { /* all that we sign is SHA-256 */
		ERR_raise(ERR_LIB_EC, EC_R_INVALID_DIGEST);
		return 0;
	}
	n = k->sign(k->arg, k->kid, digest, signature);
	if (n <= 0 || n > ECDSA_size(key)) {
		ERR_raise_data(ERR_LIB_EC, ERR_R_OPERATION_FAIL, "whoever holds the key did not sign: %d", n);
		return 0;
	}
	memcpy(ret, signature, (size_t)n);
	*ret_size = (unsigned)n;
	return 1;
}

static void remote_free(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
	free(ptr);
}

/* A copy would free what it shares with the first one. Nobody copies. */
static int remote_dup(CRYPTO_EX_DATA *to, const CRYPTO_EX_DATA *from, void **from_d, int idx, long argl, void *argp)
{
	return *from_d ? 0 : 1;
}

static void method_make(void)
{
	g_index = EC_KEY_get_ex_new_index(0, NULL, NULL, remote_dup, remote_free);
	g_method = EC_KEY_METHOD_new(EC_KEY_OpenSSL());
	if (g_method) /* no setup, no raw signature: those would need the private number */
		EC_KEY_METHOD_set_sign(g_method, remote_sign, NULL, NULL);
}

static EC_KEY *ec_key_at(const uint8_t point[KEY_POINT_SIZE])
{
	EC_KEY *key = EC_KEY_new_by_curve_name(NID_X9_62_prime256v1);

	if (key && EC_KEY_oct2key(key, point, KEY_POINT_SIZE, NULL) == 1 && EC_KEY_set_method(key, g_method) == 1)
		return key;
	EC_KEY_free(key);
	return NULL;
}

/* Takes @key in any case. */
static EVP_PKEY *wrap(EC_KEY *key)
{
	EVP_PKEY *pkey = EVP_PKEY_new();

	if (pkey && EVP_PKEY_assign_EC_KEY(pkey, key) == 1)
		return pkey;
	EC_KEY_free(key);
	EVP_PKEY_free(pkey);
	return NULL;
}

int remote_key_new(EVP_PKEY **ret, EVP_PKEY *public_key, remote_key_sign *sign, void *arg, uint32_t kid)
{
	AUTO_FREE(struct remote_key) k = malloc(sizeof(*k));
	uint8_t point[KEY_POINT_SIZE];
	EC_KEY *key = NULL;
	EVP_PKEY *pkey;
	int r = pki_point(point, public_key);

	if (r < 0)
		return r;
	if (k && CRYPTO_THREAD_run_once(&g_once, method_make) == 1 && g_method && g_index >= 0)
		key = ec_key_at(point);
	if (!key)
		return -ENOMEM;
	*k = (struct remote_key){ .sign = sign, .arg = arg, .kid = kid };
	if (EC_KEY_set_ex_data(key, g_index, k) != 1) {
		EC_KEY_free(key);
		return -ENOMEM;
	}
	take_ptr(k);
	pkey = wrap(key);
	if (!pkey)
		return -ENOMEM;
	*ret = pkey;
	return 0;
}
