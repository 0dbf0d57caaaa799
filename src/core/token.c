#include "core/token.h"

#include "core/base64.h"
#include "core/name.h"

static const char g_prefix[] = "sl1.";

char *token_format(char *ret, const struct token *t)
{
	uint8_t bytes[TOKEN_BYTES_MAX];
	size_t n_address = strlen(t->address), n_host = strlen(t->host), used = 0;

	memcpy(bytes, t->root, TOKEN_ROOT_SIZE);
	used += TOKEN_ROOT_SIZE;
	memcpy(bytes + used, t->secret, TOKEN_SECRET_SIZE);
	used += TOKEN_SECRET_SIZE;
	memcpy(bytes + used, t->address, n_address);
	used += n_address;
	bytes[used++] = ' ';
	memcpy(bytes + used, t->host, n_host);
	used += n_host;
	memcpy(ret, g_prefix, sizeof(g_prefix) - 1);
	base64_encode(ret + sizeof(g_prefix) - 1, bytes, used, BASE64_URL);
	return ret;
}

/* Digits, '.' of an IPv4 address: four numbers up to 255. */
static bool is_ipv4(const char *s, size_t n)
{
	unsigned parts = 0, value = 0, digits = 0;

	for (size_t i = 0; i <= n; i++) {
		if (i == n || s[i] == '.') {
			if (!digits || value > 255)
				return false;
			parts++;
			value = digits = 0;
		} else if (s[i] >= '0' && s[i] <= '9' && digits < 3) {
			value = value * 10 + (unsigned)(s[i] - '0');
			digits++;
		} else {
			return false;
		}
	}
	return parts == 4;
}

/* Only its letters: what a kernel makes of them is found out when it is dialled. */
static bool is_ipv6(const char *s, size_t n)
{
	static const char letters[] = "0123456789abcdefABCDEF:.%";
	size_t colons = 0;

	for (size_t i = 0; i < n; i++) {
		if (!memchr(letters, s[i], sizeof(letters) - 1))
			return false;
		colons += s[i] == ':';
	}
	return colons >= 2;
}

bool address_is_valid(const char *s)
{
	const char *colon = strrchr(s, ':');
	size_t n = colon ? (size_t)(colon - s) : 0;
	unsigned long port = 0;

	if (!colon || strlen(s) >= LIMIT_ADDRESS_SIZE || strlen(colon + 1) > 5 || strlen(colon + 1) == 0)
		return false;
	for (const char *p = colon + 1; *p; p++) {
		if (*p < '0' || *p > '9')
			return false;
		port = port * 10 + (unsigned long)(*p - '0');
	}
	if (port == 0 || port > 65535)
		return false;
	if (s[0] == '[')
		return n > 2 && s[n - 1] == ']' && is_ipv6(s + 1, n - 2);
	return is_ipv4(s, n);
}

int token_parse(struct token *ret, const char *text)
{
	static const char blanks[] = " \t\r\n";
	uint8_t bytes[TOKEN_BYTES_MAX + 1];
	const char *rest = (const char *)bytes + TOKEN_ROOT_SIZE + TOKEN_SECRET_SIZE, *blank;
	struct token t = {};
	size_t n;
	ssize_t size;

	text += strspn(text, blanks);
	n = strcspn(text, blanks);
	if (text[n + strspn(text + n, blanks)] || strncmp(text, g_prefix, sizeof(g_prefix) - 1) != 0)
		return -EINVAL;
	n -= sizeof(g_prefix) - 1;
	size = base64_decode(bytes, TOKEN_BYTES_MAX, text + sizeof(g_prefix) - 1, n, BASE64_URL);
	if (size <= TOKEN_ROOT_SIZE + TOKEN_SECRET_SIZE)
		return -EINVAL;
	bytes[size] = '\0';
	if (memchr(rest, '\0', (size_t)size - TOKEN_ROOT_SIZE - TOKEN_SECRET_SIZE) || !(blank = strchr(rest, ' ')))
		return -EINVAL;
	if ((size_t)(blank - rest) >= sizeof(t.address) || !str_copy(t.host, sizeof(t.host), blank + 1))
		return -EINVAL;
	memcpy(t.root, bytes, TOKEN_ROOT_SIZE);
	memcpy(t.secret, bytes + TOKEN_ROOT_SIZE, TOKEN_SECRET_SIZE);
	memcpy(t.address, rest, (size_t)(blank - rest));
	if (!address_is_valid(t.address) || !label_is_valid(t.host))
		return -EINVAL;
	*ret = t;
	return 0;
}
