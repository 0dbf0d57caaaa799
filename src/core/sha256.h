/* SHA-256 (FIPS 180-4), for roles that link no library for it. What is hashed here is no secret that time could tell. No I/O. */
#ifndef CORE_SHA256_H
#define CORE_SHA256_H

#include "base/util.h"

enum { SHA256_SIZE = 32, SHA256_BLOCK_SIZE = 64 };

struct sha256 {
	uint32_t state[8];
	uint64_t n_bytes;
	uint8_t block[SHA256_BLOCK_SIZE]; /* what of n_bytes is not in `state` yet */
};

void sha256_init(struct sha256 *s);
void sha256_add(struct sha256 *s, const void *data, size_t size);
void sha256_end(struct sha256 *s, uint8_t ret[SHA256_SIZE]);

/* sha256() - of one piece. */
void sha256(uint8_t ret[SHA256_SIZE], const void *data, size_t size);

/* sha256_labelled() - of @label with its NUL, then one piece: what is signed or kept for one end is never good for another. */
void sha256_labelled(uint8_t ret[SHA256_SIZE], const char *label, const void *data, size_t size);

#endif
