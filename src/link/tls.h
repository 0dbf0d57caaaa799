/*
 * TLS 1.3 as links use it (docs/design/link.md, "Who is who" and "The session"): contexts, certificates, what a peer's certificate has to
 * pass, and one connection whose bytes come and go in memory. No I/O: who owns the socket moves the ciphertext.
 *
 * Threads: one. Blocks: only inside remote_key_sign, during a handshake and tls_prove().
 * Trust: ciphertext, certificates and proofs are a peer's; whatever they are, a call says why not and the connection ends.
 */
#ifndef LINK_TLS_H
#define LINK_TLS_H

#include "link/pki.h"
#include "link/remote_key.h"

#include <openssl/ssl.h>

enum tls_use {
	TLS_LINK, /* ALPN sealane-link/1 */
	TLS_CA,	  /* sealane-ca/1 */
	TLS_JOIN, /* sealane-join/1 */
	TLS_USE_N
};

enum { TLS_EXPORTER_SIZE = 32, TLS_TICKET_SECRETS = ROLE_TICKET_SECRETS, TLS_TICKET_SECRET_SIZE = ROLE_TICKET_SECRET_SIZE };
#define TLS_EXPORTER_CA "EXPORTER-sealane-ca"
#define TLS_EXPORTER_LANE "EXPORTER-sealane-lane"
#define TLS_EXPORTER_RDMA "EXPORTER-sealane-rdma"
/* With tls_library(): the AES-GCM that sessions have, for who seals with it as well. */
#define TLS_LIBRARY_QUERY "?provider=sealane"

struct tls;
struct tls_credential;

/*
 * tls_new() - everything that is fetched or read once, so it comes before isolate_calls(). Loads the faster AES-GCM where there is one.
 * @sign, @arg: who makes our keys' signatures; @arg borrowed. Return: 0 or -ENOMEM.
 */
MUST_CHECK int tls_new(struct tls **ret, remote_key_sign *sign, void *arg);
void tls_free(struct tls *t);

/* tls_cipher_source() - where AES-GCM comes from: a line for the log, a constant. */
const char *tls_cipher_source(const struct tls *t);

/* tls_library() - borrowed, for as long as @t is there. */
OSSL_LIB_CTX *tls_library(const struct tls *t);

/*
 * tls_set_trust() - the roots (PEM; may be empty for a host that has yet to join), our trust domain and our name. Connections that stand are not
 * touched, but tls_judge() goes by the new roots; tickets from before are good for nothing any more if these are others. Return: 0; -EBADMSG: @pem is none; -ENOMEM; then all is as it was.
 */
MUST_CHECK int tls_set_trust(struct tls *t, const char *pem, size_t size, const char *trust_domain, const char *host);

/* tls_set_authority() - does this host take sessions of TLS_CA and TLS_JOIN? Until it is told: no. */
void tls_set_authority(struct tls *t, bool is_authority);

/* tls_set_revoked() - the list that BL_REVOKED describes. Return: 0; -EBADMSG, -E2BIG: it is none; -ENOMEM; then the one before is in force. */
MUST_CHECK int tls_set_revoked(struct tls *t, const char *text, size_t size);

/*
 * tls_set_credential() - the certificates (PEM, leaf first) that are shown for @kid; 0: this host's, also what servers show.
 * Return: 0; -EBADMSG: not PEM, or no identity of ours; -ENOMEM; then all is as it was.
 */
MUST_CHECK int tls_set_credential(struct tls *t, uint32_t kid, const char *pem, size_t size);
void tls_forget(struct tls *t, uint32_t kid);

/* tls_credential() - NULL: there is none. Valid until the next call that sets or forgets @kid. */
const struct tls_credential *tls_credential(const struct tls *t, uint32_t kid);
const struct pki_identity *tls_credential_identity(const struct tls_credential *c);

/* tls_can_serve() - is there a certificate of this host's, to answer with? */
bool tls_can_serve(const struct tls *t);

/*
 * tls_set_tickets() - what this host's linkers make session tickets from, and open them with: the first @n_secrets of @secrets, the newest first. Until it
 * is called: random ones, so that nobody else opens them.
 */
void tls_set_tickets(struct tls *t, const uint8_t (*secrets)[TLS_TICKET_SECRET_SIZE], unsigned n_secrets);

/*
 * tls_judge() - time, the list of what is revoked and the roots, for an identity whose certificate was verified before.
 * Return: SESSION_OK, or why not; then a line for people in @why.
 */
enum session_reason tls_judge(const struct tls *t, const struct pki_identity *who, char *why, size_t size);

struct tls_conn {
	SSL *ssl; /* owned; NULL: none */
	const struct tls *tls;
	enum tls_use use;
	bool is_client, resumed, is_up;
	char host[LIMIT_NAME_SIZE]; /* client: who must answer */
	uint8_t root[32];	    /* client, TLS_JOIN: SHA-256 of the root that the chain must end at */
	struct pki_identity peer;   /* is_up; spiffe_id "" with TLS_JOIN on the server's side */
	uint8_t anchor[PKI_ANCHOR_SIZE]; /* where its chain ends */
	bool has_anchor;
	uint8_t proof_exporter[TLS_EXPORTER_SIZE];
	SSL_SESSION *ticket;  /* owned; client: for the next time; NULL: none (yet) */
	unsigned faults;      /* tls.c: what the chain's verification found */
	enum session_reason reason; /* after -EPROTO */
	char why[256];
	uint64_t written;     /* under this key */
	/* Ciphertext. Both are borrowed, and set by the caller before each call that may need them. */
	const uint8_t *in;
	size_t in_size;
	uint8_t *out;
	size_t out_size, out_cap;
};

/*
 * tls_conn_client(), tls_conn_server() - @c is all zero. @kid: what to show (TLS_JOIN: nothing). @ticket: borrowed or NULL.
 * Return: 0; -ENOKEY: there is no such credential; -ENOMEM.
 */
MUST_CHECK int tls_conn_client(struct tls_conn *c, const struct tls *t, enum tls_use use, uint32_t kid, const char *host, SSL_SESSION *ticket);
MUST_CHECK int tls_conn_server(struct tls_conn *c, const struct tls *t);
void tls_conn_close(struct tls_conn *c); /* idempotent */

/* tls_ticket_is_good() - would a session from @ticket pass tls_judge() now? */
bool tls_ticket_is_good(const struct tls *t, SSL_SESSION *ticket);

/*
 * tls_handshake() - go on with it. Once it returned 1 the peer has passed every row of the table, also on resumption.
 * Return: 1: is_up; 0: more bytes are needed; -EPROTO: reason and why say what was wrong (an alert may lie in out).
 */
MUST_CHECK int tls_handshake(struct tls_conn *c);

/* tls_read() - the plaintext of one record, or less. Return: bytes; 0: more bytes are needed; -EPIPE: the peer has said goodbye; -EPROTO. */
MUST_CHECK ssize_t tls_read(struct tls_conn *c, uint8_t *buf, size_t size);

/* tls_write() - all of @size, in records of up to 16 KiB. out must have room for it and 22 bytes for each record. Return: 0 or -EPROTO. */
MUST_CHECK int tls_write(struct tls_conn *c, const uint8_t *bytes, size_t size);

/* tls_goodbye() - close_notify into out, as far as there is room. */
void tls_goodbye(struct tls_conn *c);

const char *tls_cipher_name(const struct tls_conn *c);

/* tls_export() - @label's value of this session. Return: 0 or -EPROTO. */
MUST_CHECK int tls_export(struct tls_conn *c, const char *label, uint8_t ret[TLS_EXPORTER_SIZE]);

/* tls_prove() - a whole PROOF frame for @kid into @to of FRAME_SIZE_MAX. Return: its size; -ENOKEY; other negative errno: it was not signed. */
MUST_CHECK ssize_t tls_prove(struct tls_conn *c, uint32_t kid, uint8_t *to);

/*
 * tls_check_proof() - a PROOF frame's content: the chain, form, the signature, then time and the list.
 * Return: 0 and who it proves; -EKEYREVOKED: it proves *ret, which may not be taken: *ret_reason, and a line for people in @why; -EPROTO: reason
 * and why of @c say what was wrong.
 */
MUST_CHECK int tls_check_proof(struct tls_conn *c, const uint8_t *signature, size_t signature_size, const uint8_t *certificates,
			       size_t certificates_size, struct pki_identity *ret, enum session_reason *ret_reason, char *why, size_t size);

#endif
