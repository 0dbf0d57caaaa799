/* Join tokens, and what a certificate says of itself. The first byte says which: 't' a token, 'r' its bytes, 'd' DER, anything else PEM. */
#include "core/base64.h"
#include "core/sha256.h"
#include "core/svid.h"
#include "core/token.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void one_token(const char *text)
{
	struct token t, again;
	char back[TOKEN_TEXT_SIZE];

	if (token_parse(&t, text) < 0)
		return;
	assert(token_parse(&again, token_format(back, &t)) == 0);
	assert(memcmp(&t, &again, sizeof(t)) == 0);
}

/* So that the fuzzer need not find the check. */
static void one_checked(const void *bytes, size_t size)
{
	AUTO_FREE(char) text = malloc(4 + base64_text_size(size + TOKEN_CHECK_SIZE));
	AUTO_FREE(uint8_t) all = malloc(size + SHA256_SIZE);

	assert(text && all);
	memcpy(all, bytes, size);
	sha256(all + size, bytes, size);
	memcpy(text, "sl1.", 4);
	base64_encode(text + 4, all, size + TOKEN_CHECK_SIZE, BASE64_URL);
	one_token(text);
}

static void one_certificate(const char *pem, size_t size)
{
	struct svid s;
	uint8_t print[32];
	const char *rest = svid_rest(pem, size);

	assert(!rest || (rest > pem && rest <= pem + size));
	if (svid_read(&s, pem, size) < 0)
		return;
	assert(strlen(s.spiffe_id) < sizeof(s.spiffe_id) && strlen(s.serial) < sizeof(s.serial) && s.signature_size <= sizeof(s.signature));
	assert(rest);
	assert(svid_fingerprint(print, pem, size) == 0);
}

/* So that the fuzzer need not learn base64 first. */
static void one_der(const void *der, size_t size)
{
	AUTO_FREE(char) text = malloc(base64_text_size(size));
	AUTO_FREE(char) pem = NULL;
	int n;

	assert(text);
	n = asprintf(&pem, "-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n", base64_encode(text, der, size, BASE64_STD));
	assert(n > 0);
	one_certificate(pem, (size_t)n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	AUTO_FREE(char) text = malloc(size + 1);

	if (size == 0 || !text)
		return 0;
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	if (data[0] == 't')
		one_token(text);
	else if (data[0] == 'r')
		one_checked(text, size - 1);
	else if (data[0] == 'd')
		one_der(text, size - 1);
	else
		one_certificate(text, size - 1);
	return 0;
}
