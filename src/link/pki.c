#include "link/pki.h"

#include <openssl/ec.h>

int pki_point(uint8_t ret[KEY_POINT_SIZE], EVP_PKEY *key)
{
	uint8_t point[KEY_POINT_SIZE];
	char group[32];
	size_t n;

	if (!EVP_PKEY_is_a(key, "EC") || EVP_PKEY_get_group_name(key, group, sizeof(group), &n) != 1 ||
	    strcmp(group, SN_X9_62_prime256v1) != 0)
		return -EINVAL;
	if (EVP_PKEY_get_octet_string_param(key, "encoded-pub-key", point, sizeof(point), &n) != 1 || n != sizeof(point))
		return -EINVAL;
	memcpy(ret, point, sizeof(point));
	return 0;
}
