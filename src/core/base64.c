#include "core/base64.h"

static const char g_alphabets[2][65] = {
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
};

char *base64_encode(char *ret, const void *data, size_t size, enum base64_kind kind)
{
	const char *alphabet = g_alphabets[kind];
	const uint8_t *p = data;
	char *out = ret;

	for (size_t i = 0; i < size; i += 3) {
		size_t n = size - i < 3 ? size - i : 3;
		uint32_t v = (uint32_t)p[i] << 16 | (n > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (n > 2 ? p[i + 2] : 0);

		for (size_t k = 0; k <= n; k++)
			*out++ = alphabet[v >> (18 - 6 * k) & 63];
		for (size_t k = n; k < 3 && kind == BASE64_STD; k++)
			*out++ = '=';
	}
	*out = '\0';
	return ret;
}

static int digit(char c, enum base64_kind kind)
{
	const char *at = c ? strchr(g_alphabets[kind], c) : NULL;

	return at ? (int)(at - g_alphabets[kind]) : -1;
}

/* 2 to 4 digits into 1 to 3 bytes. */
static int decode_group(uint8_t ret[3], const char *text, size_t n, enum base64_kind kind)
{
	uint32_t v = 0;

	for (size_t k = 0; k < 4; k++) {
		int d = k < n ? digit(text[k], kind) : 0;

		if (d < 0)
			return -EINVAL;
		v = v << 6 | (uint32_t)d;
	}
	for (size_t k = 0; k < 3; k++)
		ret[k] = (uint8_t)(v >> (16 - 8 * k));
	/* What does not fill a byte must be zero, or there were two texts for the same bytes. */
	for (size_t k = n - 1; k < 3; k++)
		if (ret[k])
			return -EINVAL;
	return 0;
}

ssize_t base64_decode(void *ret, size_t size, const char *text, size_t n, enum base64_kind kind)
{
	uint8_t *out = ret, group[3];
	size_t used = 0;

	if (kind == BASE64_STD) {
		if (n % 4)
			return -EINVAL;
		for (int pads = 0; pads < 2 && n > 0 && text[n - 1] == '='; pads++)
			n--;
	}
	if (n % 4 == 1)
		return -EINVAL;
	for (size_t i = 0; i < n; i += 4) {
		size_t digits = n - i < 4 ? n - i : 4;

		if (decode_group(group, text + i, digits, kind) < 0)
			return -EINVAL;
		if (digits - 1 > size - used)
			return -EMSGSIZE;
		memcpy(out + used, group, digits - 1);
		used += digits - 1;
	}
	return (ssize_t)used;
}

char *hex_encode(char *ret, const void *data, size_t size)
{
	const uint8_t *p = data;

	for (size_t i = 0; i < size; i++) {
		ret[2 * i] = "0123456789abcdef"[p[i] >> 4];
		ret[2 * i + 1] = "0123456789abcdef"[p[i] & 15];
	}
	ret[2 * size] = '\0';
	return ret;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int hex_decode(void *ret, size_t size, const char *text)
{
	uint8_t *out = ret;

	if (strlen(text) != 2 * size)
		return -EINVAL;
	for (size_t i = 0; i < size; i++) {
		int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return -EINVAL;
		out[i] = (uint8_t)(high << 4 | low);
	}
	return 0;
}
