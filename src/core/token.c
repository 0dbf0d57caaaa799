#include "core/token.h"

#include "base/address.h"
#include "core/base64.h"
#include "core/name.h"
#include "core/sha256.h"

static const char g_prefix[] = "sl1.";

char *token_format(char *ret, const struct token *t)
{
	uint8_t bytes[TOKEN_BYTES_MAX], check[SHA256_SIZE];
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
	sha256(check, bytes, used);
	memcpy(bytes + used, check, TOKEN_CHECK_SIZE);
	used += TOKEN_CHECK_SIZE;
	memcpy(ret, g_prefix, sizeof(g_prefix) - 1);
	base64_encode(ret + sizeof(g_prefix) - 1, bytes, used, BASE64_URL);
	return ret;
}

void token_known(struct token_known *ret, const uint8_t secret[TOKEN_SECRET_SIZE])
{
	uint8_t both[SHA256_SIZE];

	sha256_labelled(both, "sealane join token v1", secret, TOKEN_SECRET_SIZE);
	memcpy(ret->id, both, sizeof(ret->id));
	memcpy(ret->key, both + sizeof(ret->id), sizeof(ret->key));
}

bool address_is_valid(const char *s)
{
	struct sockaddr_storage unused;
	socklen_t size;

	return strlen(s) < LIMIT_ADDRESS_SIZE && address_parse(s, &unused, &size) == 0;
}

/* @bytes has room for TOKEN_BYTES_MAX and a NUL. Return: bytes before the check; -EBADMSG. */
static ssize_t decode_checked(uint8_t *bytes, const char *text, size_t n)
{
	ssize_t size = base64_decode(bytes, TOKEN_BYTES_MAX, text, n, BASE64_URL) - TOKEN_CHECK_SIZE;
	uint8_t check[SHA256_SIZE];

	if (size <= TOKEN_ROOT_SIZE + TOKEN_SECRET_SIZE)
		return -EBADMSG;
	sha256(check, bytes, (size_t)size);
	if (memcmp(check, bytes + size, TOKEN_CHECK_SIZE) != 0)
		return -EBADMSG;
	bytes[size] = '\0';
	return size;
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
	size = decode_checked(bytes, text + sizeof(g_prefix) - 1, n - (sizeof(g_prefix) - 1));
	if (size < 0)
		return (int)size;
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
