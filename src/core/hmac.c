#include "core/hmac.h"

void hmac_init(struct hmac *h, const void *key, size_t size)
{
	uint8_t inner[SHA256_BLOCK_SIZE] = {}, outer[SHA256_BLOCK_SIZE];

	if (size > sizeof(inner))
		sha256(inner, key, size);
	else
		memcpy(inner, key, size);
	for (size_t i = 0; i < sizeof(inner); i++) {
		outer[i] = inner[i] ^ 0x5c;
		inner[i] ^= 0x36;
	}
	sha256_init(&h->inner);
	sha256_add(&h->inner, inner, sizeof(inner));
	sha256_init(&h->outer);
	sha256_add(&h->outer, outer, sizeof(outer));
	explicit_bzero(inner, sizeof(inner));
	explicit_bzero(outer, sizeof(outer));
}

void hmac_add(struct hmac *h, const void *data, size_t size)
{
	sha256_add(&h->inner, data, size);
}

void hmac_end(struct hmac *h, uint8_t ret[SHA256_SIZE])
{
	uint8_t inner[SHA256_SIZE];

	sha256_end(&h->inner, inner);
	sha256_add(&h->outer, inner, sizeof(inner));
	sha256_end(&h->outer, ret);
	explicit_bzero(h, sizeof(*h));
}

bool hmac_is_equal(const uint8_t a[SHA256_SIZE], const uint8_t b[SHA256_SIZE])
{
	unsigned differ = 0;

	for (size_t i = 0; i < SHA256_SIZE; i++)
		differ |= (unsigned)(a[i] ^ b[i]);
	return differ == 0;
}
