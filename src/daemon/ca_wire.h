/*
 * What hosts and their authority say to each other, as JSON (docs/design/link.md, "Joining, certificates, revocation").
 * Pure; no I/O. Trust: whatever is read comes from another host, a question to join even from anybody; fuzzed
 * (tests/fuzz/fuzz_ca.c).
 */
#ifndef DAEMON_CA_WIRE_H
#define DAEMON_CA_WIRE_H

#include "core/token.h"
#include "daemon/state.h"
#include "wire/role.h"

#include <jansson.h>

enum ca_op { CA_OP_JOIN, CA_OP_HOST, CA_OP_SERVICE, CA_OP_REVOKED, CA_OP_N };

struct ca_question {
	enum ca_op op;
	uint8_t secret[TOKEN_SECRET_SIZE]; /* JOIN */
	char host[LIMIT_NAME_SIZE];	   /* JOIN */
	struct service_name service;	   /* SERVICE */
	struct revoked_version version;	   /* REVOKED: the list that the asker has */
	uint8_t key[KEY_POINT_SIZE];	   /* all but REVOKED; it may be no point of the curve */
	uint8_t proof[SIGNATURE_SIZE];
	uint8_t proof_size;
};

/* ca_op_name() - "join". */
const char *ca_op_name(enum ca_op op);

/* ca_proven() - what a question's proof signs: SHA-256 over the label and the session's exporter. */
void ca_proven(uint8_t ret[32], const uint8_t exporter[32]);

/* ca_question_read() - Return: 0, or -EINVAL with a line for people in @why. */
MUST_CHECK int ca_question_read(struct ca_question *ret, const char *text, size_t size, char *why, size_t why_size);
/* ca_question_text() - owned by the caller (free); NULL without memory. */
MUST_CHECK char *ca_question_text(const struct ca_question *q);

struct ca_answer {
	const char *certificate, *roots; /* PEM, as far as letters go; NULL: not there. Borrowed from @json */
	const char *trust_domain;	 /* JOIN and HOST only; checked for form */
	struct revoked_version version;	 /* REVOKED only: of the list that the authority has */
	const json_t *revoked;		 /* an array of texts, each checked; NULL: no list came, as the asker has it already */
	const char *error, *why;	 /* NULL, or the authority's "no": short, without control characters */
	json_t *json;			 /* owner of all that */
};

/* ca_answer_read() - to a question of @op. Return: 0 (also for a "no"); -EINVAL with a line in @why; -ENOMEM. End: ca_answer_free(). */
MUST_CHECK int ca_answer_read(struct ca_answer *ret, enum ca_op op, const char *text, size_t size, char *why, size_t why_size);
void ca_answer_free(struct ca_answer *a);

#endif
