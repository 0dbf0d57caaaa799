/* For tests: an authority and certificates by it, a line each. Whoever includes it has cmocka's headers before it. */
#ifndef LINK_TEST_PKI_UTIL_H
#define LINK_TEST_PKI_UTIL_H

#include "link/pki.h"

#include <openssl/rand.h>
#include <stdio.h>
#include <time.h>

#define TEST_TRUST_DOMAIN "example.org"

struct test_root {
	EVP_PKEY *key;
	X509 *cert;
};

struct test_svid {
	EVP_PKEY *key;
	X509 *cert;
};

/* Valid from an hour ago for ten years. */
static inline struct test_root test_root_of(const char *trust_domain)
{
	struct test_root r = {};
	int64_t now = time(NULL);

	assert_int_equal(pki_new_key(&r.key), 0);
	assert_int_equal(pki_make_root(&r.cert, r.key, trust_domain, now - 3600, now + 10 * 365 * INT64_C(86400)), 0);
	return r;
}

static inline struct test_root test_root_make(void)
{
	return test_root_of(TEST_TRUST_DOMAIN);
}

static inline void test_root_free(struct test_root *r)
{
	EVP_PKEY_free(r->key);
	X509_free(r->cert);
	*r = (struct test_root){};
}

/* From @from_s to @to_s, in seconds from now. */
static inline struct test_svid test_svid_at(const struct test_root *root, const char *spiffe_id, int64_t from_s, int64_t to_s)
{
	struct role_issue i = { .not_before = time(NULL) + from_s, .not_after = time(NULL) + to_s };
	struct test_svid s = {};

	assert_int_equal(RAND_bytes(i.serial, sizeof(i.serial)), 1);
	i.serial[0] = (uint8_t)((i.serial[0] & 0x7f) | 1);
	assert_true(str_copy(i.spiffe_id, sizeof(i.spiffe_id), spiffe_id));
	assert_int_equal(pki_new_key(&s.key), 0);
	assert_int_equal(pki_point(i.public_key, s.key), 0);
	assert_int_equal(pki_issue(&s.cert, root->key, root->cert, &i), 0);
	return s;
}

/* Valid from five minutes ago for an hour. */
static inline struct test_svid test_svid_of(const struct test_root *root, const char *spiffe_id)
{
	return test_svid_at(root, spiffe_id, -300, 3600);
}

/* test_service("default", "web"), test_host("a"): in TEST_TRUST_DOMAIN. */
static inline struct test_svid test_service(const struct test_root *root, const char *ns, const char *name)
{
	char id[LIMIT_SPIFFE_ID_SIZE];

	snprintf(id, sizeof(id), "spiffe://%s/ns/%s/svc/%s", TEST_TRUST_DOMAIN, ns, name);
	return test_svid_of(root, id);
}

static inline struct test_svid test_host(const struct test_root *root, const char *host)
{
	char id[LIMIT_SPIFFE_ID_SIZE];

	return test_svid_of(root, pki_host_id(id, TEST_TRUST_DOMAIN, host));
}

static inline void test_svid_free(struct test_svid *s)
{
	EVP_PKEY_free(s->key);
	X509_free(s->cert);
	*s = (struct test_svid){};
}

#endif
