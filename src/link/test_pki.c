/* Certificates as sealane makes and reads them, and a handshake whose private key is somewhere else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/svid.h"
#include "link/remote_key.h"
#include "link/test_pki_util.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

enum { YEAR_S = 365 * 86400 };

static const uint8_t g_digest[32] = "0123456789abcdef0123456789abcde";
static struct test_root g_root;

static int setup(void **state)
{
	g_root = test_root_make();
	return 0;
}

static int teardown(void **state)
{
	test_root_free(&g_root);
	assert_int_equal(ERR_peek_error(), 0); /* nothing that a later TLS call could stumble over */
	return 0;
}

/* ------------------------------------------------------------------ names */

static void test_ids(void **state)
{
	static const char *const bad[] = {
		"", "spiffe://", "spiffe://example.org", "spiffe://example.org/", "spiffe://example.org/host/", "spiffe://example.org/host/a/",
		"spiffe://example.org/host/a/b", "spiffe://example.org/host/A", "spiffe://example.org/host/a.b", "spiffe://example.org/ns/x/svc/",
		"spiffe://example.org/ns//svc/y", "spiffe://example.org/ns/x/svc/y/", "spiffe://example.org/ns/x/svc/y/z",
		"spiffe://example.org/ns/x/svcs/y", "spiffe://example.org/ns/x", "spiffe://example.org/ns/x/y/svc/z",
		"spiffe://example.orgx/host/a", "spiffe://example.or/host/a", "spiffe://example.org//host/a", "SPIFFE://example.org/host/a",
		"https://example.org/host/a", "spiffe://example.org/host/a?x", "spiffe://example.org/host/a#x", "spiffe://u@example.org/host/a",
		"spiffe://example.org:1/host/a", " spiffe://example.org/host/a", "spiffe://example.org/host/a ", "spiffe://example.org/host/%61",
		"spiffe://example.org/host/-a", "spiffe://example.org/host/a-", "spiffe://example.org/ns/-/svc/y",
		"spiffe://example.org/host/aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff1234",
	};
	struct pki_identity i, before;
	char id[LIMIT_SPIFFE_ID_SIZE], longest[64], td[LIMIT_TRUST_DOMAIN_SIZE];

	assert_int_equal(pki_parse_id(&i, pki_host_id(id, "example.org", "a"), "example.org"), 0);
	assert_int_equal(i.kind, PKI_HOST);
	assert_string_equal(i.host, "a");
	assert_string_equal(i.spiffe_id, "spiffe://example.org/host/a");
	assert_int_equal(pki_parse_id(&i, "spiffe://example.org/ns/default/svc/redis-1", "example.org"), 0);
	assert_int_equal(i.kind, PKI_SERVICE);
	assert_string_equal(i.service.ns, "default");
	assert_string_equal(i.service.name, "redis-1");
	before = i;
	for (size_t n = 0; n < ARRAY_SIZE(bad); n++)
		if (pki_parse_id(&i, bad[n], "example.org") != -EINVAL)
			fail_msg("\"%s\" was taken", bad[n]);
	assert_memory_equal(&i, &before, sizeof(i)); /* untouched on failure */

	memset(longest, 'x', 63);
	longest[63] = '\0';
	memset(td, 't', sizeof(td) - 1);
	td[sizeof(td) - 1] = '\0';
	assert_int_equal(pki_parse_id(&i, pki_host_id(id, td, longest), td), 0);
	assert_string_equal(i.host, longest);
	assert_int_equal(pki_parse_id(&i, "spiffe:///host/a", ""), -EINVAL);
	assert_int_equal(pki_parse_id(&i, "spiffe://A/host/a", "A"), -EINVAL);
}

/* ------------------------------------------------------------------ keys */

static void test_keys(void **state)
{
	uint8_t point[KEY_POINT_SIZE], again[KEY_POINT_SIZE], off[KEY_POINT_SIZE], signature[SIGNATURE_SIZE];
	EVP_PKEY *key, *public_key, *other, *none = NULL, *p384 = EVP_EC_gen("P-384"), *rsa = EVP_RSA_gen(2048);
	int n;

	assert_int_equal(pki_new_key(&key), 0);
	assert_int_equal(pki_new_key(&other), 0);
	assert_int_equal(pki_point(point, key), 0);
	assert_int_equal(point[0], 4);
	assert_int_equal(pki_public_key(&public_key, point), 0);
	assert_int_equal(pki_point(again, public_key), 0);
	assert_memory_equal(point, again, sizeof(point));
	assert_int_equal(pki_point(again, p384), -EINVAL);
	assert_int_equal(pki_point(again, rsa), -EINVAL);

	n = pki_sign(signature, key, g_digest);
	assert_in_range(n, 8, 72);
	assert_int_equal(pki_verify(public_key, g_digest, signature, (size_t)n), 0);
	assert_int_equal(pki_verify(other, g_digest, signature, (size_t)n), -EKEYREJECTED);
	assert_int_equal(pki_verify(public_key, g_digest, signature, (size_t)n - 1), -EKEYREJECTED);
	assert_int_equal(pki_verify(public_key, g_digest, signature, (size_t)n + 1), -EKEYREJECTED);
	assert_int_equal(pki_verify(public_key, g_digest, signature, 0), -EKEYREJECTED);
	signature[n - 1] ^= 1;
	assert_int_equal(pki_verify(public_key, g_digest, signature, (size_t)n), -EKEYREJECTED);
	assert_int_equal(pki_sign(signature, public_key, g_digest), -EIO); /* the half that cannot */

	/* not on the curve, at infinity, compressed, hybrid: none of them is a key */
	memcpy(off, point, sizeof(off));
	off[64] ^= 1;
	assert_int_equal(pki_public_key(&none, off), -EINVAL);
	assert_int_equal(pki_public_key(&none, (const uint8_t[KEY_POINT_SIZE]){}), -EINVAL);
	assert_int_equal(pki_public_key(&none, (const uint8_t[KEY_POINT_SIZE]){ 4 }), -EINVAL);
	for (uint8_t form = 2; form < 8; form++) {
		memcpy(off, point, sizeof(off));
		off[0] = form;
		assert_int_equal(pki_public_key(&none, off), form == 4 ? 0 : -EINVAL);
	}
	EVP_PKEY_free(none);
	memset(off + 1, 0xff, 64); /* beyond the field */
	off[0] = 4;
	assert_int_equal(pki_public_key(&none, off), -EINVAL);
	EVP_PKEY_free(key);
	EVP_PKEY_free(other);
	EVP_PKEY_free(public_key);
	EVP_PKEY_free(p384);
	EVP_PKEY_free(rsa);
}

/* PEM of other tools: both forms of private keys, and what is refused. */
static void test_key_pem(void **state)
{
	static const char sec1_with_parameters[] = "-----BEGIN EC PARAMETERS-----\n"
						   "BggqhkjOPQMBBw==\n"
						   "-----END EC PARAMETERS-----\n";
	BIO *b = BIO_new(BIO_s_mem());
	EVP_PKEY *key, *again, *p384 = EVP_EC_gen("P-384");
	char *pem, *bytes;
	uint8_t *der = NULL;
	long n;

	assert_int_equal(pki_new_key(&key), 0);
	assert_int_equal(pki_key_to_pem(&pem, key), 0);
	assert_int_equal(pki_key_from_pem(&again, pem, strlen(pem)), 0);
	assert_int_equal(EVP_PKEY_eq(key, again), 1);
	EVP_PKEY_free(again);
	assert_int_equal(pki_key_from_pem(&again, pem, strlen(pem) / 2), -EBADMSG);
	assert_int_equal(pki_key_from_pem(&again, pem, 0), -EBADMSG);
	assert_int_equal(pki_key_from_pem(&again, "key", 3), -EBADMSG);
	free(pem);

	BIO_puts(b, sec1_with_parameters);
	assert_int_equal(PEM_write_bio_PrivateKey_traditional(b, key, NULL, NULL, 0, NULL, NULL), 1);
	n = BIO_get_mem_data(b, &bytes);
	assert_int_equal(pki_key_from_pem(&again, bytes, (size_t)n), 0);
	assert_int_equal(EVP_PKEY_eq(key, again), 1);
	EVP_PKEY_free(again);

	BIO_reset(b);
	assert_int_equal(PEM_write_bio_PUBKEY(b, key), 1);
	n = BIO_get_mem_data(b, &bytes);
	assert_int_not_equal(pki_key_from_pem(&again, bytes, (size_t)n), 0);

	BIO_reset(b); /* the number of one key with the point of another: what it signs nobody could verify */
	n = i2d_PrivateKey(key, &der);
	assert_int_equal(pki_point(der + n - KEY_POINT_SIZE, g_root.key), 0);
	assert_true(PEM_write_bio(b, "EC PRIVATE KEY", "", der, n) > 0);
	OPENSSL_free(der);
	n = BIO_get_mem_data(b, &bytes);
	assert_int_equal(pki_key_from_pem(&again, bytes, (size_t)n), -EINVAL);

	BIO_reset(b);
	assert_int_equal(PEM_write_bio_PKCS8PrivateKey(b, key, EVP_aes_128_cbc(), "pass", 4, NULL, NULL), 1);
	n = BIO_get_mem_data(b, &bytes);
	assert_int_equal(pki_key_from_pem(&again, bytes, (size_t)n), -EBADMSG); /* and nobody is asked for the password */
	assert_int_equal(pki_key_to_pem(&pem, p384), 0);
	assert_int_equal(pki_key_from_pem(&again, pem, strlen(pem)), -EINVAL);
	free(pem);
	BIO_free(b);
	EVP_PKEY_free(key);
	EVP_PKEY_free(p384);
}

/* ------------------------------------------------------------------ certificates */

static bool is_trusted_at(X509 *cert, X509 *root, int64_t at)
{
	X509_STORE *store = X509_STORE_new();
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	bool good;

	assert_int_equal(X509_STORE_add_cert(store, root), 1);
	assert_int_equal(X509_STORE_CTX_init(ctx, store, cert, NULL), 1);
	X509_STORE_CTX_set_time(ctx, 0, at);
	X509_STORE_CTX_set_flags(ctx, X509_V_FLAG_X509_STRICT);
	X509_STORE_CTX_set_purpose(ctx, X509_PURPOSE_SSL_CLIENT);
	good = X509_verify_cert(ctx) == 1;
	X509_STORE_CTX_free(ctx);
	X509_STORE_free(store);
	ERR_clear_error();
	return good;
}

static void test_root(void **state)
{
	X509 *x, *other;
	int64_t now = time(NULL);
	EVP_PKEY *p = NULL;

	assert_int_equal(X509_check_ca(g_root.cert), 1);
	assert_int_equal(X509_get_pathlen(g_root.cert), 0);
	assert_int_equal(X509_get_key_usage(g_root.cert), KU_KEY_CERT_SIGN | KU_CRL_SIGN);
	assert_int_equal(X509_self_signed(g_root.cert, 1), 1);
	assert_non_null(X509_get0_subject_key_id(g_root.cert));
	assert_non_null(X509_get0_authority_key_id(g_root.cert));
	assert_int_equal(pki_check_root(g_root.cert, g_root.key, TEST_TRUST_DOMAIN), 0);
	assert_int_equal(pki_check_root(g_root.cert, g_root.key, "example.com"), -EINVAL);
	assert_int_equal(pki_new_key(&p), 0);
	assert_int_equal(pki_check_root(g_root.cert, p, TEST_TRUST_DOMAIN), -EKEYREJECTED);
	EVP_PKEY_free(p);
	assert_int_equal(pki_make_root(&x, g_root.key, "Example.org", now, now + YEAR_S), -EINVAL);
	assert_int_equal(pki_make_root(&x, g_root.key, "", now, now + YEAR_S), -EINVAL);
	assert_int_equal(pki_make_root(&x, g_root.key, TEST_TRUST_DOMAIN, now, now), -EINVAL);
	assert_int_equal(pki_make_root(&x, g_root.key, TEST_TRUST_DOMAIN, now, now + YEAR_S), 0);
	assert_int_equal(pki_make_root(&other, g_root.key, TEST_TRUST_DOMAIN, now, now + YEAR_S), 0);
	assert_int_not_equal(ASN1_INTEGER_cmp(X509_get0_serialNumber(x), X509_get0_serialNumber(other)), 0);
	X509_free(x);
	X509_free(other);
}

static void test_issue(void **state)
{
	struct test_svid s = test_service(&g_root, "default", "redis");
	struct test_root other = test_root_make();
	struct pki_identity i;
	int64_t now = time(NULL);
	char why[128] = "";

	assert_int_equal(pki_identity(&i, s.cert, TEST_TRUST_DOMAIN, why, sizeof(why)), 0);
	assert_int_equal(i.kind, PKI_SERVICE);
	assert_string_equal(i.spiffe_id, "spiffe://example.org/ns/default/svc/redis");
	assert_int_equal(strlen(i.serial), 32);
	assert_int_equal(strspn(i.serial, "0123456789abcdef"), 32);
	assert_in_range(i.not_after - i.not_before, 3899, 3901);
	assert_int_equal(X509_NAME_entry_count(X509_get_subject_name(s.cert)), 0);
	assert_int_equal(X509_get_ext_count(s.cert), 6);
	assert_true(is_trusted_at(s.cert, g_root.cert, now));
	assert_false(is_trusted_at(s.cert, other.cert, now));
	assert_false(is_trusted_at(s.cert, g_root.cert, now + 3700));
	assert_false(is_trusted_at(s.cert, g_root.cert, now - 400));
	assert_int_equal(pki_identity(&i, s.cert, "example.com", why, sizeof(why)), -EINVAL);
	assert_string_equal(why, "its URI names no host or service of this trust domain");
	assert_int_equal(pki_identity(&i, g_root.cert, TEST_TRUST_DOMAIN, why, sizeof(why)), -EINVAL);
	assert_string_equal(why, "it is an authority's, not one of a host or a service");
	test_svid_free(&s);
	s = test_host(&g_root, "a");
	assert_int_equal(pki_identity(&i, s.cert, TEST_TRUST_DOMAIN, why, sizeof(why)), 0);
	assert_int_equal(i.kind, PKI_HOST);
	assert_string_equal(i.host, "a");
	test_svid_free(&s);
	test_root_free(&other);
}

static bool is_signed_by(X509 *cert, EVP_PKEY *key)
{
	STACK_OF(X509) *one = sk_X509_new_null();
	struct svid s;
	char *pem;
	bool yes;

	sk_X509_push(one, cert);
	assert_int_equal(pki_to_pem(&pem, one), 0);
	assert_int_equal(svid_read(&s, pem, strlen(pem)), 0);
	assert_int_not_equal(s.signature_size, 0);
	yes = pki_verify(key, s.digest, s.signature, s.signature_size) == 0;
	sk_X509_free(one);
	free(pem);
	return yes;
}

/* What the reader without a library takes for signed is what OpenSSL signed. */
static void test_signed_parts(void **state)
{
	struct test_svid s = test_service(&g_root, "default", "redis");
	struct test_root other = test_root_make();

	assert_true(is_signed_by(s.cert, g_root.key));
	assert_true(is_signed_by(g_root.cert, g_root.key));
	assert_false(is_signed_by(s.cert, other.key));
	assert_false(is_signed_by(other.cert, g_root.key));
	test_root_free(&other);
	test_svid_free(&s);
}

static void test_issue_unsound(void **state)
{
	int64_t now = time(NULL);
	const struct role_issue good = { .not_before = now, .not_after = now + 60, .serial = { [15] = 1 }, .spiffe_id = "spiffe://example.org/host/a" };
	struct role_issue i = good;
	X509 *x = NULL;

	assert_int_equal(pki_issue(&x, g_root.key, g_root.cert, &i), -EINVAL); /* no key */
	assert_int_equal(pki_point(i.public_key, g_root.key), 0);
	assert_int_equal(pki_issue(&x, g_root.key, g_root.cert, &i), 0);
	X509_free(x);
	i.serial[0] = 0x80;
	assert_int_equal(pki_issue(&x, g_root.key, g_root.cert, &i), -EINVAL);
	memset(i.serial, 0, sizeof(i.serial));
	assert_int_equal(pki_issue(&x, g_root.key, g_root.cert, &i), -EINVAL);
	i.serial[15] = 1;
	i.not_after = now;
	assert_int_equal(pki_issue(&x, g_root.key, g_root.cert, &i), -EINVAL);
	i.not_after = now + 11 * INT64_C(365) * 86400; /* outlives the root */
	assert_int_equal(pki_issue(&x, g_root.key, g_root.cert, &i), -EINVAL);
	i.not_after = now + 60;
	i.not_before = INT64_MIN;
	assert_int_equal(pki_issue(&x, g_root.key, g_root.cert, &i), -EINVAL);
}

/* A certificate that we would not make. NULL leaves an extension out. */
struct odd {
	const char *why; /* NULL: it passes */
	const char *san, *constraints, *usage, *extended, *more;
	int nid_more;
	long version;
};

static void put(X509 *x, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509_EXTENSION *e;

	if (!value)
		return;
	X509V3_set_ctx(&ctx, g_root.cert, x, NULL, NULL, 0);
	e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	assert_non_null(e);
	assert_int_equal(X509_add_ext(x, e, -1), 1);
	X509_EXTENSION_free(e);
}

static X509 *odd_make(const struct odd *o, EVP_PKEY *key)
{
	X509 *x = X509_new();

	assert_int_equal(X509_set_version(x, o->version ? o->version - 1 : X509_VERSION_3), 1);
	ASN1_INTEGER_set(X509_get_serialNumber(x), 77);
	X509_gmtime_adj(X509_getm_notBefore(x), -60);
	X509_gmtime_adj(X509_getm_notAfter(x), 60);
	assert_int_equal(X509_set_issuer_name(x, X509_get_subject_name(g_root.cert)), 1);
	assert_int_equal(X509_set_pubkey(x, key), 1);
	put(x, NID_subject_alt_name, o->san);
	put(x, NID_basic_constraints, o->constraints);
	put(x, NID_key_usage, o->usage);
	put(x, NID_ext_key_usage, o->extended);
	put(x, o->nid_more, o->more);
	assert_true(X509_sign(x, g_root.key, EVP_sha256()) > 0);
	return x;
}

#define GOOD_SAN "critical,URI:spiffe://example.org/host/a"
#define LEAF "critical,CA:FALSE"
#define SIGN "critical,digitalSignature"
#define TLS "serverAuth,clientAuth"

static const struct odd g_odd[] = {
	{ NULL, GOOD_SAN, LEAF, SIGN, TLS },
	{ NULL, GOOD_SAN ",DNS:a.example.org", LEAF, SIGN, TLS }, /* as other issuers add them */
	{ NULL, GOOD_SAN, NULL, SIGN, TLS },
	{ NULL, GOOD_SAN, LEAF, SIGN ",keyAgreement", TLS ",codeSigning" },
	{ "no subjectAltName", NULL, LEAF, SIGN, TLS },
	{ "no URI", "DNS:a.example.org", LEAF, SIGN, TLS },
	{ "more than one URI", GOOD_SAN ",URI:spiffe://example.org/host/b", LEAF, SIGN, TLS },
	{ "more than one URI", GOOD_SAN ",URI:spiffe://example.org/host/a", LEAF, SIGN, TLS },
	{ "more than one URI", GOOD_SAN ",email:a@example.org", LEAF, SIGN, TLS },
	{ "more than one URI", GOOD_SAN ",IP:10.0.0.1", LEAF, SIGN, TLS },
	{ "names no host or service", "URI:spiffe://example.com/host/a", LEAF, SIGN, TLS },
	{ "names no host or service", "URI:spiffe://example.org", LEAF, SIGN, TLS },
	{ "names no host or service", "URI:https://example.org/host/a", LEAF, SIGN, TLS },
	{ "authority's", GOOD_SAN, "critical,CA:TRUE", SIGN, TLS },
	{ "authority's", GOOD_SAN, LEAF, SIGN ",keyCertSign", TLS },
	{ "authority's", GOOD_SAN, LEAF, SIGN ",cRLSign", TLS },
	{ "authority's", GOOD_SAN, LEAF, NULL, TLS }, /* without key usage it may be anything */
	{ "not digitalSignature", GOOD_SAN, LEAF, "keyAgreement", TLS },
	{ "both ends of TLS", GOOD_SAN, LEAF, SIGN, NULL },
	{ "both ends of TLS", GOOD_SAN, LEAF, SIGN, "serverAuth" },
	{ "both ends of TLS", GOOD_SAN, LEAF, SIGN, "clientAuth" },
	{ "both ends of TLS", GOOD_SAN, LEAF, SIGN, "anyExtendedKeyUsage" },
	{ "critical extension", GOOD_SAN, LEAF, SIGN, TLS, "critical,ASN1:UTF8String:x", NID_netscape_comment },
	{ "no well-formed", GOOD_SAN, LEAF, SIGN, TLS, "URI:spiffe://example.org/host/b", NID_subject_alt_name },
	{ "no well-formed X.509 version 3", GOOD_SAN, LEAF, SIGN, TLS, .version = 1 },
};

static void test_identity_odd(void **state)
{
	struct pki_identity i;
	EVP_PKEY *key;

	assert_int_equal(pki_new_key(&key), 0);
	for (size_t n = 0; n < ARRAY_SIZE(g_odd); n++) {
		X509 *x = odd_make(&g_odd[n], key);
		char why[128] = "";
		int r = pki_identity(&i, x, TEST_TRUST_DOMAIN, why, sizeof(why));

		if (r != (g_odd[n].why ? -EINVAL : 0) || !strstr(why, g_odd[n].why ? g_odd[n].why : ""))
			fail_msg("certificate %zu: %d, \"%s\"", n, r, why);
		if (r == 0)
			assert_string_equal(i.serial, "4d");
		X509_free(x);
	}
	EVP_PKEY_free(key);
}

/* Keys that are none of ours, names with a NUL, serials and times that say nothing. */
static void test_identity_values(void **state)
{
	static const char hidden[] = "spiffe://example.org/host/a\0.evil";
	GENERAL_NAMES *names = GENERAL_NAMES_new();
	GENERAL_NAME *name = GENERAL_NAME_new();
	ASN1_IA5STRING *s = ASN1_IA5STRING_new();
	EVP_PKEY *key, *p384 = EVP_EC_gen("P-384");
	struct pki_identity i;
	char why[128];
	X509 *x;

	assert_int_equal(pki_new_key(&key), 0);
	x = odd_make(&g_odd[0], p384);
	assert_int_equal(pki_identity(&i, x, TEST_TRUST_DOMAIN, why, sizeof(why)), -EINVAL);
	assert_string_equal(why, "its key is not on the curve P-256");
	X509_free(x);

	ASN1_STRING_set(s, hidden, sizeof(hidden) - 1);
	GENERAL_NAME_set0_value(name, GEN_URI, s);
	sk_GENERAL_NAME_push(names, name);
	x = odd_make(&(struct odd){ NULL, NULL, LEAF, SIGN, TLS }, key);
	assert_int_equal(X509_add1_ext_i2d(x, NID_subject_alt_name, names, 1, 0), 1);
	assert_true(X509_sign(x, g_root.key, EVP_sha256()) > 0);
	assert_int_equal(pki_identity(&i, x, TEST_TRUST_DOMAIN, why, sizeof(why)), -EINVAL);
	assert_string_equal(why, "its URI is too long or holds a NUL");
	X509_free(x);
	GENERAL_NAMES_free(names);

	x = odd_make(&g_odd[0], key);
	for (int n = 0; n < 2; n++) {
		ASN1_INTEGER_set(X509_get_serialNumber(x), n == 0 ? 0 : -5);
		assert_int_equal(pki_identity(&i, x, TEST_TRUST_DOMAIN, why, sizeof(why)), -EINVAL);
		assert_string_equal(why, "its serial number is negative, zero or longer than 20 bytes");
	}
	ASN1_INTEGER_set(X509_get_serialNumber(x), 255);
	X509_gmtime_adj(X509_getm_notAfter(x), -120);
	assert_int_equal(pki_identity(&i, x, TEST_TRUST_DOMAIN, why, sizeof(why)), -EINVAL);
	assert_string_equal(why, "its times of validity are malformed or the wrong way round");
	ASN1_TIME_set_string(X509_getm_notAfter(x), "99991231235959Z");
	assert_int_equal(pki_identity(&i, x, TEST_TRUST_DOMAIN, why, sizeof(why)), 0);
	assert_int_equal(i.not_after, INT64_C(253402300799));
	assert_string_equal(i.serial, "ff");
	X509_free(x);
	EVP_PKEY_free(key);
	EVP_PKEY_free(p384);
}

static void test_pem(void **state)
{
	struct test_svid s = test_host(&g_root, "a");
	STACK_OF(X509) *certs = sk_X509_new_null(), *again;
	char *pem, *big;
	size_t n;

	assert_int_equal(pki_to_pem(&pem, certs), -EBADMSG); /* none is no chain */
	sk_X509_push(certs, s.cert);
	sk_X509_push(certs, g_root.cert);
	assert_int_equal(pki_to_pem(&pem, certs), 0);
	n = strlen(pem);
	assert_int_equal(pki_from_pem(&again, pem, n), 0);
	assert_int_equal(sk_X509_num(again), 2);
	assert_int_equal(X509_cmp(sk_X509_value(again, 0), s.cert), 0);
	assert_int_equal(X509_cmp(sk_X509_value(again, 1), g_root.cert), 0);
	sk_X509_pop_free(again, X509_free);

	assert_int_equal(pki_from_pem(&again, pem, n - 40), -EBADMSG); /* not "the first one will do" */
	assert_int_equal(pki_from_pem(&again, pem, 0), -EBADMSG);
	assert_int_equal(pki_from_pem(&again, "nothing", 7), -EBADMSG);
	pem[n / 4] = pem[n / 4] == 'A' ? 'B' : 'A';
	pem[40] = '!';
	assert_int_equal(pki_from_pem(&again, pem, n), -EBADMSG);
	free(pem);

	big = calloc(1, LIMIT_CHAIN_SIZE + 1);
	memset(big, '\n', LIMIT_CHAIN_SIZE + 1);
	assert_int_equal(pki_to_pem(&pem, certs), 0);
	memcpy(big, pem, n);
	assert_int_equal(pki_from_pem(&again, big, LIMIT_CHAIN_SIZE), 0);
	sk_X509_pop_free(again, X509_free);
	assert_int_equal(pki_from_pem(&again, big, LIMIT_CHAIN_SIZE + 1), -EBADMSG);
	free(pem);
	free(big);
	while (sk_X509_num(certs) < 200)
		sk_X509_push(certs, s.cert);
	assert_int_equal(pki_to_pem(&pem, certs), -EBADMSG);
	sk_X509_free(certs);
	test_svid_free(&s);
}

/* ------------------------------------------------------------------ a handshake with keys that are somewhere else */

/* Plays the signer. */
struct holder {
	EVP_PKEY *key;
	uint32_t kid;
	int n_signed;
	int result; /* not 0: what it answers instead */
};

static int holder_sign(void *arg, uint32_t kid, const uint8_t digest[32], uint8_t ret[SIGNATURE_SIZE])
{
	struct holder *h = arg;

	assert_int_equal(kid, h->kid);
	h->n_signed++;
	return h->result ? h->result : pki_sign(ret, h->key, digest);
}

/* NULL: OpenSSL's own. A linker has one of its own, for its AES-GCM. */
static OSSL_LIB_CTX *g_lib;

static SSL_CTX *tls(const SSL_METHOD *method, const struct test_svid *s, struct holder *h)
{
	SSL_CTX *ctx = SSL_CTX_new_ex(g_lib, NULL, method);
	EVP_PKEY *key, *public_key = X509_get0_pubkey(s->cert);

	assert_int_equal(remote_key_new(&key, public_key, holder_sign, h, h->kid), 0);
	assert_int_equal(SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION), 1);
	assert_int_equal(SSL_CTX_set1_sigalgs_list(ctx, "ecdsa_secp256r1_sha256"), 1);
	assert_int_equal(SSL_CTX_use_certificate(ctx, s->cert), 1);
	assert_int_equal(SSL_CTX_use_PrivateKey(ctx, key), 1);
	assert_int_equal(SSL_CTX_check_private_key(ctx), 1);
	assert_int_equal(X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), g_root.cert), 1);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	EVP_PKEY_free(key);
	return ctx;
}

static SSL *over(SSL_CTX *ctx, BIO *b)
{
	SSL *ssl = SSL_new(ctx);

	SSL_set_bio(ssl, b, b);
	return ssl;
}

/* Return: did it succeed at both ends? */
static bool handshake(SSL *client, SSL *server)
{
	int c = 0, s = 0;

	for (int i = 0; i < 10 && (c != 1 || s != 1); i++) {
		c = SSL_connect(client);
		s = SSL_accept(server);
	}
	ERR_clear_error();
	return c == 1 && s == 1;
}

static bool meet(struct holder *hc, const struct test_svid *c, struct holder *hs, const struct test_svid *s)
{
	SSL_CTX *client_ctx = tls(TLS_client_method(), c, hc), *server_ctx = tls(TLS_server_method(), s, hs);
	SSL *client, *server;
	BIO *cb, *sb;
	bool good;

	assert_int_equal(BIO_new_bio_pair(&cb, 0, &sb, 0), 1);
	client = over(client_ctx, cb);
	server = over(server_ctx, sb);
	SSL_set_connect_state(client);
	SSL_set_accept_state(server);
	good = handshake(client, server);
	if (good) {
		assert_int_equal(X509_cmp(SSL_get0_peer_certificate(client), s->cert), 0);
		assert_int_equal(X509_cmp(SSL_get0_peer_certificate(server), c->cert), 0);
		assert_string_equal(SSL_get_version(client), "TLSv1.3");
	}
	SSL_free(client);
	SSL_free(server);
	SSL_CTX_free(client_ctx);
	SSL_CTX_free(server_ctx);
	return good;
}

static void test_remote_handshake(void **state)
{
	struct test_svid web = test_service(&g_root, "default", "web"), b = test_host(&g_root, "b");
	struct holder hc = { .key = web.key, .kid = 7 }, hs = { .key = b.key, .kid = 0 };

	for (int i = 0; i < 3; i++)
		assert_true(meet(&hc, &web, &hs, &b));
	g_lib = OSSL_LIB_CTX_new();
	assert_true(meet(&hc, &web, &hs, &b));
	OSSL_LIB_CTX_free(take_ptr(g_lib));
	assert_int_equal(hc.n_signed, 4);
	assert_int_equal(hs.n_signed, 4);

	hs.result = -ENOKEY; /* no signature */
	assert_false(meet(&hc, &web, &hs, &b));
	hs.result = 73; /* one that no P-256 key makes */
	assert_false(meet(&hc, &web, &hs, &b));
	hs.result = 0;
	hs.key = web.key; /* by another key */
	assert_false(meet(&hc, &web, &hs, &b));
	hs.key = b.key;
	hc.key = b.key;
	assert_false(meet(&hc, &web, &hs, &b));
	test_svid_free(&web);
	test_svid_free(&b);
}

static void test_remote_key(void **state)
{
	struct test_svid web = test_service(&g_root, "default", "web"), b = test_host(&g_root, "b");
	struct holder h = { .key = web.key, .kid = 9 };
	EVP_PKEY *remote, *p384 = EVP_EC_gen("P-384");
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	uint8_t signature[SIGNATURE_SIZE];
	char *pem;
	int n;

	assert_int_equal(remote_key_new(&remote, p384, holder_sign, &h, 9), -EINVAL);
	assert_int_equal(remote_key_new(&remote, X509_get0_pubkey(web.cert), holder_sign, &h, 9), 0);
	n = pki_sign(signature, remote, g_digest); /* the same call as with a key of one's own */
	assert_true(n > 0);
	assert_int_equal(pki_verify(web.key, g_digest, signature, (size_t)n), 0);
	for (size_t size = 31; size < 65; size++) {		   /* whoever holds the key is asked for SHA-256 and nothing else */
		uint8_t longer[64] = "", big[128];
		EVP_PKEY_CTX *c = EVP_PKEY_CTX_new(remote, NULL);
		size_t n_big = sizeof(big);

		assert_int_equal(EVP_PKEY_sign_init(c), 1);
		assert_int_equal(EVP_PKEY_sign(c, big, &n_big, longer, size) == 1, size == 32);
		EVP_PKEY_CTX_free(c);
	}
	assert_int_equal(h.n_signed, 2);
	ERR_clear_error();
	assert_int_equal(pki_key_to_pem(&pem, remote), -ENOMEM); /* there is nothing to write */
	assert_int_equal(SSL_CTX_use_certificate(ctx, b.cert), 1);
	assert_int_not_equal(SSL_CTX_use_PrivateKey(ctx, remote), 1); /* another one's certificate */
	ERR_clear_error();
	SSL_CTX_free(ctx);
	EVP_PKEY_free(remote);
	EVP_PKEY_free(p384);
	test_svid_free(&web);
	test_svid_free(&b);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_ids), TEST(test_keys), TEST(test_key_pem), TEST(test_root), TEST(test_issue), TEST(test_signed_parts), TEST(test_issue_unsound),
		TEST(test_identity_odd), TEST(test_identity_values), TEST(test_pem), TEST(test_remote_handshake), TEST(test_remote_key),
	};

	return cmocka_run_group_tests_name("pki", tests, NULL, NULL);
}
