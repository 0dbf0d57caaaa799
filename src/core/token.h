/*
 * A join token (docs/design/link.md, "Joining"): what a host needs to find its authority, to know it, and to be let in once.
 * `sl1.` and base64url of: SHA-256 of the root certificate (DER), the secret, the authority's address, a blank, its host name;
 * then the first bytes of SHA-256 of all that, so that one that was not copied whole is told from one that is not taken.
 * Trust: the text is a user's, perhaps not whole; fuzzed (tests/fuzz/fuzz_token.c). No I/O.
 */
#ifndef CORE_TOKEN_H
#define CORE_TOKEN_H

#include "base/limits.h"
#include "base/util.h"

enum {
	TOKEN_ROOT_SIZE = 32,
	TOKEN_SECRET_SIZE = 16,
	TOKEN_ID_SIZE = 16,
	TOKEN_KEY_SIZE = 16,
	TOKEN_CHECK_SIZE = 4,
	TOKEN_BYTES_MAX = TOKEN_ROOT_SIZE + TOKEN_SECRET_SIZE + LIMIT_ADDRESS_SIZE + LIMIT_NAME_SIZE + TOKEN_CHECK_SIZE,
	TOKEN_TEXT_SIZE = 4 + (TOKEN_BYTES_MAX + 2) / 3 * 4 + 1,
};

struct token {
	uint8_t root[TOKEN_ROOT_SIZE];
	uint8_t secret[TOKEN_SECRET_SIZE];
	char address[LIMIT_ADDRESS_SIZE]; /* "10.0.0.1:7443", "[fd00::1]:7443" */
	char host[LIMIT_NAME_SIZE];	  /* the authority's */
};

/* token_format() - into @ret of TOKEN_TEXT_SIZE. Returns @ret. */
char *token_format(char *ret, const struct token *t);

/* token_parse() - blanks around it are left out of account. Return: 0; -EBADMSG: a token, and damaged; -EINVAL: something else. */
MUST_CHECK int token_parse(struct token *ret, const char *text);

/*
 * What a secret is known by: the secret itself goes nowhere. The authority keeps both halves, so whoever reads its book may use what is open;
 * with an id alone nobody may.
 */
struct token_known {
	uint8_t id[TOKEN_ID_SIZE];   /* said in the open */
	uint8_t key[TOKEN_KEY_SIZE]; /* of the codes by which question and answer are proven (HMAC-SHA256) */
};
static_assert(sizeof(struct token_known) == 32, "a SHA-256, and nothing between");

/* token_known() - SHA-256 over a label and the secret. */
void token_known(struct token_known *ret, const uint8_t secret[TOKEN_SECRET_SIZE]);

/* address_is_valid() - as address_parse() takes it (base/address.h), and not too long. */
bool address_is_valid(const char *s);

#endif
