/*
 * What a certificate says of itself, as far as the broker has to know: whose it is, until when, its number, its key, and what of it is signed.
 * The first certificate of a PEM text, read without any library and without believing a word: signatures, chains and fitness for TLS are
 * the linker's and the signer's to check (link/pki.h). And the SPIFFE IDs of hosts.
 *
 * Trust: hostile; fuzzed (tests/fuzz/fuzz_pem.c). No I/O.
 */
#ifndef CORE_SVID_H
#define CORE_SVID_H

#include "core/name.h"

enum {
	SVID_SERIAL_SIZE = 2 * 20 + 1, /* RFC 5280: at most 20 bytes */
	SVID_POINT_SIZE = 65,	       /* an uncompressed P-256 point */
	SVID_SIGNATURE_SIZE = 80, /* of ECDSA on P-256, DER */
	SVID_DER_MAX = 16 << 10,
};

struct svid {
	char spiffe_id[LIMIT_SPIFFE_ID_SIZE]; /* the first URI of its subjectAltName; "" if there is none */
	char serial[SVID_SERIAL_SIZE];	      /* hexadecimal, lower case, without leading zero bytes */
	int64_t not_before, not_after;	      /* Unix seconds */
	uint8_t point[SVID_POINT_SIZE];	      /* all zero if its key is another kind */
	uint8_t digest[32];		      /* SHA-256 of what is signed */
	uint8_t signature[SVID_SIGNATURE_SIZE];
	uint8_t signature_size;		      /* 0: it has none, or one of another kind */
};

/* svid_read() - Return: 0 or -EINVAL: no certificate in form. */
MUST_CHECK int svid_read(struct svid *ret, const char *pem, size_t size);

/* svid_rest() - what follows the first certificate of @pem; NULL: it holds none. */
const char *svid_rest(const char *pem, size_t size);

/* svid_fingerprint() - SHA-256 of the first certificate's DER. Return: 0 or -EINVAL. */
MUST_CHECK int svid_fingerprint(uint8_t ret[32], const char *pem, size_t size);

/* host_id_format() - spiffe://TRUST-DOMAIN/host/NAME into @buf of LIMIT_SPIFFE_ID_SIZE. Returns @buf. */
char *host_id_format(char *buf, const char *trust_domain, const char *host);
/* host_id_parse() - back: @host of LIMIT_NAME_SIZE. Return: 0 or -EINVAL (a service's, another trust domain's, anything else). */
MUST_CHECK int host_id_parse(char *host, const char *spiffe_id, const char *trust_domain);
/* spiffe_id_parse() - a service's. Return: 0 or -EINVAL. */
MUST_CHECK int spiffe_id_parse(struct service_name *ret, const char *spiffe_id, const char *trust_domain);

#endif
