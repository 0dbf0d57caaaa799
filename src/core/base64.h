/* base64 and base64url (RFC 4648), and hexadecimal. Strict: one text for each run of bytes. No I/O. */
#ifndef CORE_BASE64_H
#define CORE_BASE64_H

#include "base/util.h"

enum base64_kind {
	BASE64_STD, /* '+' and '/', padded */
	BASE64_URL, /* '-' and '_', without padding */
};

/* base64_text_size() - what @size bytes take as text of either kind, with the NUL. */
static inline size_t base64_text_size(size_t size)
{
	return (size + 2) / 3 * 4 + 1;
}

/* base64_encode() - @ret has room for base64_text_size(). Returns @ret. */
char *base64_encode(char *ret, const void *data, size_t size, enum base64_kind kind);

/*
 * base64_decode() - @n characters of @text, which may be anybody's. Blanks, wrong or missing padding, bits left over: -EINVAL.
 * Return: how many bytes; -EINVAL; -EMSGSIZE: more than @size.
 */
MUST_CHECK ssize_t base64_decode(void *ret, size_t size, const char *text, size_t n, enum base64_kind kind);

/* hex_encode() - lower case, into @ret of 2 * @size + 1. Returns @ret. */
char *hex_encode(char *ret, const void *data, size_t size);
/* hex_decode() - exactly @size bytes, lower case. Return: 0 or -EINVAL. */
MUST_CHECK int hex_decode(void *ret, size_t size, const char *text);

#endif
