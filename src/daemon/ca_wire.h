/*
 * What hosts and their authority say to each other, as JSON (docs/design/link.md, "Joining, certificates, revocation"), and what is signed and
 * what is proven by a token's key so that nobody on the way can make up or change it. Pure; no I/O. Trust: whatever is read comes from another
 * host, a question to join even from anybody; fuzzed (tests/fuzz/fuzz_ca.c).
 *
 * A question, the answer to one that joins, and the authority's list are each a text of their own (`body`) inside of an envelope that says
 * by what it is proven: so what is signed are exact bytes, and how JSON is written decides nothing.
 */
#ifndef DAEMON_CA_WIRE_H
#define DAEMON_CA_WIRE_H

#include "core/hmac.h"
#include "core/token.h"
#include "daemon/state.h"
#include "wire/role.h"

#include <jansson.h>

enum ca_op { CA_OP_JOIN, CA_OP_HOST, CA_OP_SERVICE, CA_OP_REVOKED, CA_OP_N };

struct ca_question {
	enum ca_op op;
	uint8_t token[TOKEN_ID_SIZE];	 /* JOIN: which one */
	char host[LIMIT_NAME_SIZE];	 /* JOIN */
	uint8_t ask[KEY_POINT_SIZE];	 /* JOIN: the key by which this host will sign its questions; it may be no point of the curve */
	struct service_name service;	 /* SERVICE */
	struct revoked_version version;	 /* REVOKED: the list that the asker has */
	uint8_t key[KEY_POINT_SIZE];	 /* all but REVOKED: to be certified; it may be no point of the curve */
	uint8_t proof[SIGNATURE_SIZE];	 /* by it */
	uint8_t proof_size;

	/* The envelope: which of them is there goes by `op`. Not checked when it is read. */
	uint8_t digest[SHA256_SIZE];	  /* of the body */
	uint8_t mac[SHA256_SIZE];	  /* JOIN: ca_join_mac() */
	uint8_t signature[SIGNATURE_SIZE]; /* HOST, SERVICE: over ca_question_signed() */
	uint8_t signature_size;
};

/* ca_op_name() - "join". */
const char *ca_op_name(enum ca_op op);

/* ca_proven() - what a question's proof signs: SHA-256 over a label and the session's exporter. */
void ca_proven(uint8_t ret[32], const uint8_t exporter[32]);
/* ca_question_signed() - what a host signs of its question: its digest, and in which session it is asked. */
void ca_question_signed(uint8_t ret[32], const uint8_t exporter[32], const uint8_t digest[32]);
/* ca_join_mac() - the same by a token's key; ca_joined_mac() - of the answer to it, whose body has the digest @answer. */
void ca_join_mac(uint8_t ret[32], const uint8_t key[TOKEN_KEY_SIZE], const uint8_t exporter[32], const uint8_t digest[32]);
void ca_joined_mac(uint8_t ret[32], const uint8_t key[TOKEN_KEY_SIZE], const uint8_t exporter[32], const uint8_t digest[32], const uint8_t answer[32]);

/* ca_question_read() - Return: 0, or -EINVAL with a line for people in @why. */
MUST_CHECK int ca_question_read(struct ca_question *ret, const char *text, size_t size, char *why, size_t why_size);
/* ca_question_body() - and its digest into @q->digest. ca_question_text() - the envelope. Owned by the caller (free); NULL without memory. */
MUST_CHECK char *ca_question_body(struct ca_question *q);
MUST_CHECK char *ca_question_text(const struct ca_question *q, const char *body);

/* A signature of a list: by the root whose certificate has that SHA-256. */
struct ca_list_signature {
	uint8_t root[SHA256_SIZE];
	uint8_t signature[SIGNATURE_SIZE];
	uint8_t signature_size;
};
enum { CA_ROOTS_MAX = 4 };

struct ca_answer {
	const char *certificate; /* PEM, as far as letters go; NULL: not there. Borrowed from @json or @body, as all here */
	const char *roots;	 /* JOIN and REVOKED: PEM likewise */
	const char *trust_domain; /* JOIN only; checked for form */
	uint8_t digest[SHA256_SIZE]; /* JOIN and REVOKED: of the body */
	uint8_t mac[SHA256_SIZE]; /* JOIN */

	/* REVOKED: what the body says, that some of the signatures may be for (ca_list_signed()) ... */
	struct revoked_version version;
	int64_t made_unix_s;
	struct ca_list_signature signatures[CA_ROOTS_MAX];
	size_t n_signatures;
	const json_t *revoked; /* ... and the entries, each checked, whose digest the body says; NULL: none came, as the asker has them already */

	const char *error, *why; /* NULL, or the authority's "no": short, without control characters. Nobody has signed it */
	json_t *json, *body;	 /* owners of all that */
};

/* ca_answer_read() - to a question of @op. Return: 0 (also for a "no"); -EINVAL with a line in @why; -ENOMEM. End: ca_answer_free(). */
MUST_CHECK int ca_answer_read(struct ca_answer *ret, enum ca_op op, const char *text, size_t size, char *why, size_t why_size);
/* ca_answer_hold() - another owner of the same, to be freed on its own. */
struct ca_answer ca_answer_hold(const struct ca_answer *a);
void ca_answer_free(struct ca_answer *a);

/* ca_list_signed() - what a root signs of a list: its label, then the body's digest (BS_SIGN_LIST does the same). */
void ca_list_signed(uint8_t ret[32], const uint8_t digest[32]);
/* ca_list_entries_digest() - begin with sha256_init(), add each entry in the order in which they are sent. */
void ca_list_entry_add(struct sha256 *s, const char *entry);
/* ca_list_body() - @entries: sha256_end() of all entries. Owned by the caller (free); NULL without memory. */
MUST_CHECK char *ca_list_body(const struct revoked_version *v, int64_t made_unix_s, const char *roots, const uint8_t entries[32]);
/* ca_list_json() - the answer, without `revoked`. New reference; NULL without memory. */
MUST_CHECK json_t *ca_list_json(const char *body, const struct ca_list_signature *signatures, size_t n);
/* ca_joined_json() - the answer to a host that joins. @mac: ca_joined_mac() over SHA-256 of @body. New reference; NULL without memory. */
MUST_CHECK json_t *ca_joined_json(const char *body, const uint8_t mac[32]);

#endif
