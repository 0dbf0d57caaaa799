/*
 * X.509 as sealane uses it: a root, the certificates (SVIDs) that it issues, and who a certificate says that it is
 * (docs/design/link.md, "Who is who"). No I/O. OpenSSL's objects are owned as OpenSSL's names say. A call that failed leaves nothing
 * in OpenSSL's error queue. Threads: any, each with its own objects.
 *
 * Trust: pki_identity() reads certificates that anybody may have sent; fuzzed (tests/fuzz/fuzz_svid.c).
 */
#ifndef LINK_PKI_H
#define LINK_PKI_H

#include "core/name.h"
#include "wire/role.h"

#include <openssl/evp.h>
#include <openssl/x509.h>

enum pki_kind { PKI_HOST, PKI_SERVICE };

/* What a root is for those whose chain ends at it: SHA-256 of its name and public key. A root that was made anew with the same two is the same. */
enum { PKI_ANCHOR_SIZE = 32 };

struct pki_identity {
	enum pki_kind kind;
	char host[LIMIT_NAME_SIZE];  /* PKI_HOST */
	struct service_name service; /* PKI_SERVICE */
	char spiffe_id[LIMIT_SPIFFE_ID_SIZE];
	char serial[2 * 20 + 1]; /* hexadecimal, lower case: as the list of what is revoked has it */
	int64_t not_before, not_after; /* Unix seconds */
	bool has_anchor;	       /* what follows was filled in by who verified the chain (tls.h) */
	uint8_t anchor[PKI_ANCHOR_SIZE];
};

/* pki_host_id() - spiffe://TRUST-DOMAIN/host/NAME into @buf of LIMIT_SPIFFE_ID_SIZE. Returns @buf. Services: spiffe_id_format(). */
char *pki_host_id(char *buf, const char *trust_domain, const char *host);

/* pki_parse_id() - which of the two is it, and whose? Return: 0 or -EINVAL: not of that form, or another trust domain. */
MUST_CHECK int pki_parse_id(struct pki_identity *ret, const char *spiffe_id, const char *trust_domain);

/*
 * pki_identity() - who @cert says that it is: exactly one URI in its subjectAltName and nothing else there but DNS names, of our
 * form and trust domain; a leaf; for both ends of TLS. Says nothing about signatures, time or revocation.
 * Return: 0, or -EINVAL with a line for people in @why.
 */
MUST_CHECK int pki_identity(struct pki_identity *ret, X509 *cert, const char *trust_domain, char *why, size_t size);

/* pki_anchor() - of a root. Return: 0 or -ENOMEM. */
MUST_CHECK int pki_anchor(uint8_t ret[PKI_ANCHOR_SIZE], X509 *root);

/* pki_new_key() - P-256. *ret: owned by the caller. Return: 0 or -ENOMEM. */
MUST_CHECK int pki_new_key(EVP_PKEY **ret);
/* pki_point() - its public half. Return: 0, or -EINVAL if it is no P-256 key. */
MUST_CHECK int pki_point(uint8_t ret[KEY_POINT_SIZE], EVP_PKEY *key);
/* pki_public_key() - back. @point may be anybody's. Return: 0, -EINVAL (not on the curve), -ENOMEM. */
MUST_CHECK int pki_public_key(EVP_PKEY **ret, const uint8_t point[KEY_POINT_SIZE]);

/* pki_sign() - ECDSA over a SHA-256 digest, DER. Return: its size, or negative errno. */
MUST_CHECK int pki_sign(uint8_t ret[SIGNATURE_SIZE], EVP_PKEY *key, const uint8_t digest[32]);
/* pki_verify() - Return: 0 or -EKEYREJECTED. */
MUST_CHECK int pki_verify(EVP_PKEY *key, const uint8_t digest[32], const uint8_t *signature, size_t size);

/* pki_make_root() - a self-signed authority for @trust_domain (its SPIFFE ID is spiffe://TRUST-DOMAIN). Return: 0 or negative errno. */
MUST_CHECK int pki_make_root(X509 **ret, EVP_PKEY *key, const char *trust_domain, int64_t not_before, int64_t not_after);
/* pki_check_root() - is it @key's, and @trust_domain's? Return: 0; -EKEYREJECTED: another key's, or no authority; -EINVAL: another domain's. */
MUST_CHECK int pki_check_root(X509 *root, EVP_PKEY *key, const char *trust_domain);
/* pki_issue() - a certificate for @i's public key and SPIFFE ID; does not look at its proof, nor at the form of the ID.
 * Return: 0; -EINVAL: the serial is not positive, the times are the wrong way round or end after the root's, the key is none; -ENOMEM. */
MUST_CHECK int pki_issue(X509 **ret, EVP_PKEY *root_key, X509 *root, const struct role_issue *i);

/* pki_to_pem(), pki_from_pem() - one certificate or several, one after another. *ret: free(). -EBADMSG: not PEM, or over LIMIT_CHAIN_SIZE. */
MUST_CHECK int pki_to_pem(char **ret, STACK_OF(X509) *certs);
MUST_CHECK int pki_from_pem(STACK_OF(X509) **ret, const char *pem, size_t size);

/* pki_key_to_pem(), pki_key_from_pem() - a private key, not encrypted. *ret of the first: free() after OPENSSL_cleanse().
 * Return: 0; -EBADMSG: not PEM, encrypted, or over LIMIT_CHAIN_SIZE; -EINVAL: not P-256, or its halves do not belong together; -ENOMEM. */
MUST_CHECK int pki_key_to_pem(char **ret, EVP_PKEY *key);
MUST_CHECK int pki_key_from_pem(EVP_PKEY **ret, const char *pem, size_t size);

#endif
