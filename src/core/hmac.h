/*
 * HMAC-SHA256 (RFC 2104, FIPS 198-1), for the broker, which links no library for it. The time it takes tells sizes, never bytes: neither of the
 * key nor, in hmac_is_equal(), of where two values differ. No I/O.
 */
#ifndef CORE_HMAC_H
#define CORE_HMAC_H

#include "core/sha256.h"

struct hmac {
	struct sha256 inner, outer;
};

/* hmac_init() - @key: a longer one than a block is hashed first, as the RFC says. */
void hmac_init(struct hmac *h, const void *key, size_t size);
void hmac_add(struct hmac *h, const void *data, size_t size);
void hmac_end(struct hmac *h, uint8_t ret[SHA256_SIZE]);

MUST_CHECK bool hmac_is_equal(const uint8_t a[SHA256_SIZE], const uint8_t b[SHA256_SIZE]);

#endif
