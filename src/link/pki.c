/*
 * Theory of operation: OpenSSL behind calls that know what sealane's certificates look like, so that nobody else has to.
 *
 * Making: a certificate is built from nothing, never from a request, so it holds exactly what stands here. What differs
 * between two certificates comes in a struct role_issue that is checked before a byte is signed.
 *
 * Reading: pki_identity() looks at certificates that anybody may have sent, some of them before a chain was built. It takes
 * from a certificate only what it has checked, and refuses what it does not expect to find: an identity must have one
 * reading. That the chain is good, and the time, is for whoever verifies (TLS); so is the list of what is revoked.
 *
 * It must never do I/O, ask a clock, or leave something in OpenSSL's error queue, where the next TLS call would find it.
 *
 * Before this on a handshake's way: TLS. After it: who the session belongs to. On an issue's way: the signer's BS_ISSUE.
 */
#include "link/pki.h"

#include "core/svid.h"

#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/decoder.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>

enum {
	/* Bytes of a serial number: RFC 5280, 4.1.2.2. */
	SERIAL_SIZE_MAX = 20,
	/* What a TLS certificate of ours must be good for. */
	TLS_USAGE = XKU_SSL_SERVER | XKU_SSL_CLIENT,
};

static const char g_group[] = SN_X9_62_prime256v1;

static void x509_cleanup(X509 **x)
{
	X509_free(*x);
}

static void names_cleanup(GENERAL_NAMES **names)
{
	GENERAL_NAMES_free(*names);
}

static void bio_cleanup(BIO **b)
{
	BIO_free(*b);
}

static void pkey_ctx_cleanup(EVP_PKEY_CTX **c)
{
	EVP_PKEY_CTX_free(*c);
}

static void pkey_cleanup(EVP_PKEY **k)
{
	EVP_PKEY_free(*k);
}

static void bn_cleanup(BIGNUM **n)
{
	BN_free(*n);
}

static void certs_cleanup(STACK_OF(X509) **certs)
{
	sk_X509_pop_free(*certs, X509_free);
}

/* OpenSSL failed; we say how. */
static int fail(int error)
{
	ERR_clear_error();
	return error;
}

/* ------------------------------------------------------------------ names */

char *pki_host_id(char *buf, const char *trust_domain, const char *host)
{
	return host_id_format(buf, trust_domain, host);
}

int pki_parse_id(struct pki_identity *ret, const char *spiffe_id, const char *trust_domain)
{
	struct pki_identity i = {};

	if (!trust_domain_is_valid(trust_domain) || !str_copy(i.spiffe_id, sizeof(i.spiffe_id), spiffe_id))
		return -EINVAL;
	if (host_id_parse(i.host, spiffe_id, trust_domain) == 0)
		i.kind = PKI_HOST;
	else if (spiffe_id_parse(&i.service, spiffe_id, trust_domain) == 0)
		i.kind = PKI_SERVICE;
	else
		return -EINVAL;
	*ret = i;
	return 0;
}

/* ------------------------------------------------------------------ who a certificate says that it is */

static int refuse(char *why, size_t size, const char *reason)
{
	snprintf(why, size, "%s", reason);
	return fail(-EINVAL);
}

/* The kind of certificate: what may be read in it at all, and what it may be used for. */
static const char *wrong_kind(X509 *cert)
{
	uint32_t flags = X509_get_extension_flags(cert);
	uint8_t point[KEY_POINT_SIZE];

	if (X509_get_version(cert) != X509_VERSION_3 || flags & EXFLAG_INVALID)
		return "it is no well-formed X.509 version 3 certificate";
	if (flags & EXFLAG_CRITICAL)
		return "it has a critical extension that is not known here";
	if (flags & EXFLAG_CA || !(flags & EXFLAG_KUSAGE) || X509_get_key_usage(cert) & (KU_KEY_CERT_SIGN | KU_CRL_SIGN))
		return "it is an authority's, not one of a host or a service";
	if (!(X509_get_key_usage(cert) & KU_DIGITAL_SIGNATURE))
		return "its key usage is not digitalSignature";
	if (!(flags & EXFLAG_XKUSAGE) || (X509_get_extended_key_usage(cert) & TLS_USAGE) != TLS_USAGE)
		return "it is not for both ends of TLS: extendedKeyUsage must name serverAuth and clientAuth";
	if (pki_point(point, X509_get0_pubkey(cert)) < 0)
		return "its key is not on the curve P-256";
	return NULL;
}

/* The one URI among @names, as a string that ends where it seems to. */
static const char *only_uri(const GENERAL_NAMES *names, char uri[LIMIT_SPIFFE_ID_SIZE])
{
	const ASN1_IA5STRING *found = NULL;
	int n;

	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *g = sk_GENERAL_NAME_value(names, i);

		if (g->type == GEN_DNS)
			continue;
		if (g->type != GEN_URI || found)
			return "its subjectAltName holds more than one URI, or something that is neither URI nor DNS name";
		found = g->d.uniformResourceIdentifier;
	}
	if (!found)
		return "its subjectAltName holds no URI";
	n = ASN1_STRING_length(found);
	if (n <= 0 || n >= LIMIT_SPIFFE_ID_SIZE || memchr(ASN1_STRING_get0_data(found), '\0', (size_t)n))
		return "its URI is too long or holds a NUL";
	memcpy(uri, ASN1_STRING_get0_data(found), (size_t)n);
	uri[n] = '\0';
	return NULL;
}

static const char *read_name(struct pki_identity *ret, X509 *cert, const char *trust_domain)
{
	AUTO(names_cleanup) GENERAL_NAMES *names = NULL;
	char uri[LIMIT_SPIFFE_ID_SIZE];
	const char *why;
	int critical; /* -1: there is none; -2: there are several */

	names = X509_get_ext_d2i(cert, NID_subject_alt_name, &critical, NULL);
	if (!names)
		return "it has no subjectAltName, several, or a malformed one";
	why = only_uri(names, uri);
	if (why)
		return why;
	if (pki_parse_id(ret, uri, trust_domain) < 0)
		return "its URI names no host or service of this trust domain";
	return NULL;
}

static const char *read_serial(struct pki_identity *ret, X509 *cert)
{
	const ASN1_INTEGER *serial = X509_get0_serialNumber(cert);
	const uint8_t *bytes = ASN1_STRING_get0_data(serial);
	int n = ASN1_STRING_length(serial);

	if (ASN1_STRING_type(serial) != V_ASN1_INTEGER || n < 1 || n > SERIAL_SIZE_MAX || (n == 1 && bytes[0] == 0))
		return "its serial number is negative, zero or longer than 20 bytes";
	for (int i = 0; i < n; i++)
		snprintf(ret->serial + 2 * i, sizeof(ret->serial) - (size_t)(2 * i), "%02x", bytes[i]);
	return NULL;
}
static_assert(sizeof(((struct pki_identity *)0)->serial) == 2 * SERIAL_SIZE_MAX + 1, "the longest serial number fits");

static bool read_time(int64_t *ret, const ASN1_TIME *t)
{
	struct tm tm;

	if (!t || ASN1_TIME_to_tm(t, &tm) != 1)
		return false;
	*ret = timegm(&tm);
	return true;
}

static const char *read_times(struct pki_identity *ret, X509 *cert)
{
	if (!read_time(&ret->not_before, X509_get0_notBefore(cert)) || !read_time(&ret->not_after, X509_get0_notAfter(cert)) ||
	    ret->not_before > ret->not_after)
		return "its times of validity are malformed or the wrong way round";
	return NULL;
}

int pki_identity(struct pki_identity *ret, X509 *cert, const char *trust_domain, char *why, size_t size)
{
	struct pki_identity i = {};
	const char *reason = wrong_kind(cert);

	if (!reason)
		reason = read_name(&i, cert, trust_domain);
	if (!reason)
		reason = read_serial(&i, cert);
	if (!reason)
		reason = read_times(&i, cert);
	if (reason)
		return refuse(why, size, reason);
	*ret = i;
	return fail(0);
}

/* @der: as i2d_*() has allocated it. */
static int digest_der(EVP_MD_CTX *md, uint8_t **der, int size)
{
	int ok = size > 0 && EVP_DigestUpdate(md, *der, (size_t)size) == 1;

	OPENSSL_free(*der);
	return ok;
}

int pki_anchor(uint8_t ret[PKI_ANCHOR_SIZE], X509 *root)
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	uint8_t *name = NULL, *key = NULL;
	int ok = md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1;

	ok = ok && digest_der(md, &name, i2d_X509_NAME(X509_get_subject_name(root), &name));
	ok = ok && digest_der(md, &key, i2d_X509_PUBKEY(X509_get_X509_PUBKEY(root), &key));
	ok = ok && EVP_DigestFinal_ex(md, ret, NULL) == 1;
	EVP_MD_CTX_free(md);
	return fail(ok ? 0 : -ENOMEM);
}

/* ------------------------------------------------------------------ keys */

int pki_new_key(EVP_PKEY **ret)
{
	EVP_PKEY *key = EVP_EC_gen(g_group);

	if (!key)
		return fail(-ENOMEM);
	*ret = key;
	return 0;
}

static bool read_coordinate(uint8_t ret[32], const EVP_PKEY *key, const char *name)
{
	AUTO(bn_cleanup) BIGNUM *n = NULL;

	return EVP_PKEY_get_bn_param(key, name, &n) == 1 && BN_bn2binpad(n, ret, 32) == 32;
}

/* By its coordinates, since a point that came compressed is told compressed. */
int pki_point(uint8_t ret[KEY_POINT_SIZE], EVP_PKEY *key)
{
	uint8_t point[KEY_POINT_SIZE] = { 4 };
	char group[32];
	size_t n;

	if (!key || !EVP_PKEY_is_a(key, "EC") || EVP_PKEY_get_group_name(key, group, sizeof(group), &n) != 1 || strcmp(group, g_group) != 0)
		return fail(-EINVAL);
	if (!read_coordinate(point + 1, key, OSSL_PKEY_PARAM_EC_PUB_X) || !read_coordinate(point + 33, key, OSSL_PKEY_PARAM_EC_PUB_Y))
		return fail(-EINVAL);
	memcpy(ret, point, sizeof(point));
	return 0;
}

int pki_public_key(EVP_PKEY **ret, const uint8_t point[KEY_POINT_SIZE])
{
	AUTO(pkey_ctx_cleanup) EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
	uint8_t copy[KEY_POINT_SIZE];
	char group[] = SN_X9_62_prime256v1;
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, group, 0),
		OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, copy, sizeof(copy)),
		OSSL_PARAM_construct_end(),
	};
	EVP_PKEY *key = NULL;

	if (!ctx || EVP_PKEY_fromdata_init(ctx) != 1)
		return fail(-ENOMEM);
	memcpy(copy, point, sizeof(copy));
	if (copy[0] != 4 || EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_PUBLIC_KEY, params) != 1)
		return fail(-EINVAL);
	*ret = key;
	return 0;
}

int pki_sign(uint8_t ret[SIGNATURE_SIZE], EVP_PKEY *key, const uint8_t digest[32])
{
	AUTO(pkey_ctx_cleanup) EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(key, NULL);
	size_t size = SIGNATURE_SIZE;

	if (!ctx || EVP_PKEY_sign_init(ctx) != 1 || EVP_PKEY_CTX_set_signature_md(ctx, EVP_sha256()) != 1 ||
	    EVP_PKEY_sign(ctx, ret, &size, digest, 32) != 1)
		return fail(-EIO);
	return (int)size;
}

int pki_verify(EVP_PKEY *key, const uint8_t digest[32], const uint8_t *signature, size_t size)
{
	AUTO(pkey_ctx_cleanup) EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(key, NULL);

	if (!ctx || size > SIGNATURE_SIZE || EVP_PKEY_verify_init(ctx) != 1 || EVP_PKEY_CTX_set_signature_md(ctx, EVP_sha256()) != 1 ||
	    EVP_PKEY_verify(ctx, signature, size, digest, 32) != 1)
		return fail(-EKEYREJECTED);
	return 0;
}

/* ------------------------------------------------------------------ making certificates */

static bool set_serial(X509 *x, const uint8_t *serial, int size)
{
	AUTO(bn_cleanup) BIGNUM *n = BN_bin2bn(serial, size, NULL);

	return n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(x));
}

static bool set_times(X509 *x, int64_t not_before, int64_t not_after)
{
	return ASN1_TIME_set(X509_getm_notBefore(x), not_before) && ASN1_TIME_set(X509_getm_notAfter(x), not_after);
}

/* @value: a literal of ours, in the words of openssl's x509v3_config. */
static bool add_extension(X509 *x, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509_EXTENSION *e;
	int r;

	X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
	e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	if (!e)
		return false;
	r = X509_add_ext(x, e, -1);
	X509_EXTENSION_free(e);
	return r == 1;
}

/* Built, not parsed from text: what is in the URI cannot become anything but that URI. */
static bool add_uri(X509 *x, const char *uri, bool critical)
{
	AUTO(names_cleanup) GENERAL_NAMES *names = GENERAL_NAMES_new();
	GENERAL_NAME *name = GENERAL_NAME_new();
	ASN1_IA5STRING *s = ASN1_IA5STRING_new();

	if (!names || !name || !s || !ASN1_STRING_set(s, uri, -1) || !sk_GENERAL_NAME_push(names, name)) {
		ASN1_IA5STRING_free(s);
		GENERAL_NAME_free(name);
		return false;
	}
	GENERAL_NAME_set0_value(name, GEN_URI, s);
	return X509_add1_ext_i2d(x, NID_subject_alt_name, names, critical, X509V3_ADD_DEFAULT) == 1;
}

static void root_id_format(char uri[LIMIT_SPIFFE_ID_SIZE], const char *trust_domain)
{
	snprintf(uri, LIMIT_SPIFFE_ID_SIZE, "spiffe://%s", trust_domain);
}

static bool fill_root(X509 *x, EVP_PKEY *key, const char *uri, int64_t not_before, int64_t not_after)
{
	X509_NAME *name = X509_get_subject_name(x);
	uint8_t serial[16];

	if (RAND_bytes(serial, sizeof(serial)) != 1)
		return false;
	serial[0] = (uint8_t)((serial[0] & 0x7f) | 0x40); /* positive, and of one length */
	return X509_set_version(x, X509_VERSION_3) == 1 && set_serial(x, serial, sizeof(serial)) && set_times(x, not_before, not_after) &&
	       X509_NAME_add_entry_by_NID(name, NID_organizationName, MBSTRING_UTF8, (const uint8_t *)"sealane", -1, -1, 0) == 1 &&
	       X509_set_issuer_name(x, name) == 1 && X509_set_pubkey(x, key) == 1 &&
	       add_extension(x, x, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
	       add_extension(x, x, NID_key_usage, "critical,keyCertSign,cRLSign") &&
	       add_extension(x, x, NID_subject_key_identifier, "hash") &&
	       add_extension(x, x, NID_authority_key_identifier, "keyid:always") && add_uri(x, uri, false);
}

int pki_make_root(X509 **ret, EVP_PKEY *key, const char *trust_domain, int64_t not_before, int64_t not_after)
{
	AUTO(x509_cleanup) X509 *x = X509_new();
	char uri[LIMIT_SPIFFE_ID_SIZE];

	if (!trust_domain_is_valid(trust_domain) || not_before >= not_after)
		return fail(-EINVAL);
	root_id_format(uri, trust_domain);
	if (!x || !fill_root(x, key, uri, not_before, not_after) || X509_sign(x, key, EVP_sha256()) <= 0)
		return fail(-ENOMEM);
	*ret = take_ptr(x);
	return 0;
}

int pki_check_root(X509 *root, EVP_PKEY *key, const char *trust_domain)
{
	AUTO(names_cleanup) GENERAL_NAMES *names = X509_get_ext_d2i(root, NID_subject_alt_name, NULL, NULL);
	char uri[LIMIT_SPIFFE_ID_SIZE], expected[LIMIT_SPIFFE_ID_SIZE];

	root_id_format(expected, trust_domain);
	if (EVP_PKEY_eq(X509_get0_pubkey(root), key) != 1 || X509_check_ca(root) != 1)
		return fail(-EKEYREJECTED);
	if (!names || only_uri(names, uri) || strcmp(uri, expected) != 0)
		return fail(-EINVAL);
	return fail(0);
}

static bool fill_leaf(X509 *x, X509 *root, EVP_PKEY *public_key, const struct role_issue *i)
{
	return X509_set_version(x, X509_VERSION_3) == 1 && set_serial(x, i->serial, sizeof(i->serial)) &&
	       set_times(x, i->not_before, i->not_after) && X509_set_issuer_name(x, X509_get_subject_name(root)) == 1 &&
	       X509_set_pubkey(x, public_key) == 1 && add_extension(x, root, NID_basic_constraints, "critical,CA:FALSE") &&
	       add_extension(x, root, NID_key_usage, "critical,digitalSignature") &&
	       add_extension(x, root, NID_ext_key_usage, "serverAuth,clientAuth") &&
	       add_extension(x, root, NID_subject_key_identifier, "hash") &&
	       add_extension(x, root, NID_authority_key_identifier, "keyid:always") &&
	       add_uri(x, i->spiffe_id, true); /* critical: the subject is empty (RFC 5280, 4.2.1.6) */
}

/* May this be asked for at all? */
static bool issue_is_sound(const struct role_issue *i, X509 *root)
{
	int64_t end;

	if (i->serial[0] & 0x80 || memcmp(i->serial, (const uint8_t[sizeof(i->serial)]){}, sizeof(i->serial)) == 0)
		return false;
	return i->not_before >= 0 && i->not_before < i->not_after && read_time(&end, X509_get0_notAfter(root)) && i->not_after <= end;
}

int pki_issue(X509 **ret, EVP_PKEY *root_key, X509 *root, const struct role_issue *i)
{
	AUTO(pkey_cleanup) EVP_PKEY *public_key = NULL;
	AUTO(x509_cleanup) X509 *x = X509_new();
	int r;

	if (!x)
		return fail(-ENOMEM);
	if (!issue_is_sound(i, root))
		return fail(-EINVAL);
	r = pki_public_key(&public_key, i->public_key);
	if (r < 0)
		return r;
	if (!fill_leaf(x, root, public_key, i) || X509_sign(x, root_key, EVP_sha256()) <= 0)
		return fail(-ENOMEM);
	*ret = take_ptr(x);
	return 0;
}

/* ------------------------------------------------------------------ PEM */

/* Nobody is there who could be asked; OpenSSL would ask the terminal. */
static int no_password(char *buf, int size, int rwflag, void *arg)
{
	return -1;
}

/* What was written into @b, as a string. */
static int take_text(char **ret, BIO *b)
{
	char *bytes, *text;
	long n = BIO_get_mem_data(b, &bytes);

	if (n <= 0 || n > LIMIT_CHAIN_SIZE)
		return -EBADMSG;
	text = malloc((size_t)n + 1);
	if (!text)
		return -ENOMEM;
	memcpy(text, bytes, (size_t)n);
	text[n] = '\0';
	*ret = text;
	return 0;
}

int pki_to_pem(char **ret, STACK_OF(X509) *certs)
{
	AUTO(bio_cleanup) BIO *b = BIO_new(BIO_s_mem());

	for (int i = 0; b && i < sk_X509_num(certs); i++)
		if (PEM_write_bio_X509(b, sk_X509_value(certs, i)) != 1)
			return fail(-ENOMEM);
	return b ? take_text(ret, b) : fail(-ENOMEM);
}

int pki_from_pem(STACK_OF(X509) **ret, const char *pem, size_t size)
{
	AUTO(bio_cleanup) BIO *b = NULL;
	AUTO(certs_cleanup) STACK_OF(X509) *certs = sk_X509_new_null();
	X509 *x;

	if (size > LIMIT_CHAIN_SIZE)
		return fail(-EBADMSG);
	b = BIO_new_mem_buf(pem, (int)size);
	if (!b || !certs)
		return fail(-ENOMEM);
	while ((x = PEM_read_bio_X509(b, NULL, no_password, NULL))) {
		if (!sk_X509_push(certs, x)) {
			X509_free(x);
			return fail(-ENOMEM);
		}
	}
	/* The end of the last one reads as "no more begins here"; everything else is a certificate that does not parse. */
	if (sk_X509_num(certs) == 0 || ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
		return fail(-EBADMSG);
	*ret = take_ptr(certs);
	return fail(0);
}

int pki_key_to_pem(char **ret, EVP_PKEY *key)
{
	AUTO(bio_cleanup) BIO *b = BIO_new(BIO_s_secmem());

	if (!b || PEM_write_bio_PKCS8PrivateKey(b, key, NULL, NULL, 0, NULL, NULL) != 1)
		return fail(-ENOMEM);
	return take_text(ret, b);
}

/*
 * The first key among whatever else the text holds ("EC PARAMETERS" before it). Said to be EC, since OpenSSL would otherwise set
 * up decoders for every kind of key that it knows, which takes three times as long as all the rest.
 */
static EVP_PKEY *decode_key(BIO *b)
{
	EVP_PKEY *key = NULL;
	OSSL_DECODER_CTX *ctx = OSSL_DECODER_CTX_new_for_pkey(&key, "PEM", NULL, "EC", EVP_PKEY_KEYPAIR, NULL, NULL);
	size_t left, before = SIZE_MAX;

	if (ctx && OSSL_DECODER_CTX_set_pem_password_cb(ctx, no_password, NULL) == 1)
		while (!key && (left = BIO_pending(b)) > 0 && left < before) {
			before = left;
			(void)!OSSL_DECODER_from_bio(ctx, b);
		}
	OSSL_DECODER_CTX_free(ctx);
	return key;
}

/* A file may hold the public half alone, or one that is another key's; what that signs nobody can verify. */
static bool has_both_halves(EVP_PKEY *key)
{
	AUTO(pkey_ctx_cleanup) EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(key, NULL);

	return ctx && EVP_PKEY_pairwise_check(ctx) == 1;
}

int pki_key_from_pem(EVP_PKEY **ret, const char *pem, size_t size)
{
	AUTO(bio_cleanup) BIO *b = NULL;
	AUTO(pkey_cleanup) EVP_PKEY *key = NULL;
	uint8_t point[KEY_POINT_SIZE];

	if (size > LIMIT_CHAIN_SIZE)
		return fail(-EBADMSG);
	b = BIO_new_mem_buf(pem, (int)size);
	if (!b)
		return fail(-ENOMEM);
	key = decode_key(b);
	if (!key)
		return fail(-EBADMSG);
	if (pki_point(point, key) < 0 || !has_both_halves(key))
		return fail(-EINVAL);
	*ret = take_ptr(key);
	return fail(0);
}
