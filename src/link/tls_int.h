/* Between tls.c (who is trusted, and with what we prove ourselves), tls_conn.c (one connection) and tls_ticket.c (how it comes back). */
#ifndef LINK_TLS_INT_H
#define LINK_TLS_INT_H

#include "core/revoked.h"
#include "link/tls.h"

#include <uthash.h>

struct tls_credential {
	UT_hash_handle hh;
	uint32_t kid;
	struct pki_identity identity;
	X509 *leaf;
	STACK_OF(X509) *chain; /* without the leaf */
	EVP_PKEY *key;
};

struct tls_ticket_key {
	uint8_t name[16], cipher[32], mac[32];
};

struct tls {
	OSSL_LIB_CTX *lib;
	EVP_CIPHER *ticket_cipher;
	uint8_t ticket_secrets[TLS_TICKET_SECRETS][TLS_TICKET_SECRET_SIZE];
	struct tls_ticket_key ticket_keys[TLS_TICKET_SECRETS]; /* of each secret, for the roots and the certificate of now */
	unsigned n_ticket_keys;
	const char *cipher_source;
	remote_key_sign *sign;
	void *sign_arg;
	BIO_METHOD *bio;
	STACK_OF(X509) *roots;
	X509_STORE *store; /* the same */
	uint8_t (*anchors)[PKI_ANCHOR_SIZE]; /* of each of them */
	SSL_CTX *client, *server; /* server: NULL while there is no credential 0 */
	struct tls_credential *credentials;
	struct revoked_list *revoked; /* NULL: none has come yet */
	char trust_domain[LIMIT_TRUST_DOMAIN_SIZE];
	char host[LIMIT_NAME_SIZE];
	bool is_authority; /* questions for certificates are taken, and hosts that join */
};

extern const char *const tls_alpn[TLS_USE_N];

/* tls_conn_of() - whose SSL it is. */
static inline struct tls_conn *tls_conn_of(const SSL *ssl)
{
	return SSL_get_app_data(ssl);
}

/* tls_refuse() - remember why, the first time. Return: -EPROTO. */
int tls_refuse(struct tls_conn *c, enum session_reason reason, const char *why);

/* tls_judge_peer() - all rows from bad-identity on, for the peer's leaf. Fills c->peer. Return: 0 or -EPROTO. */
MUST_CHECK int tls_judge_peer(struct tls_conn *c, X509 *leaf);

/* tls_verify_chain() - for SSL_CTX_set_cert_verify_callback(); the SSL's connection. Return: 1 or 0. */
int tls_verify_chain(X509_STORE_CTX *ctx, void *arg);

/* tls_verify_proof() - the rows untrusted, expired, not-yet-valid for a chain that came in PROOF, and where it ends. Return: 0 or -EPROTO. */
MUST_CHECK int tls_verify_proof(struct tls_conn *c, X509 *leaf, STACK_OF(X509) *chain, uint8_t ret_anchor[PKI_ANCHOR_SIZE]);

/* tls_context() - a context for either side, with all that is alike. NULL: out of memory. */
SSL_CTX *tls_context(const struct tls *t, bool is_client);

/* tls_tickets_init() - secrets of this process alone. tls_tickets_derive() - the secrets, the roots or this host's certificate are others now. */
MUST_CHECK int tls_tickets_init(struct tls *t);
void tls_tickets_derive(struct tls *t);

/* tls_context_tickets() - @ctx makes and takes tickets. */
void tls_context_tickets(SSL_CTX *ctx, bool is_client);

/* tls_ticket_anchor() - where the chain of the first handshake ended. Return: false: that is not known. */
bool tls_ticket_anchor(SSL_SESSION *ticket, uint8_t ret[PKI_ANCHOR_SIZE]);

/* tls_bio() - the method of the BIOs that connections stand on. NULL: out of memory. */
BIO_METHOD *tls_bio(void);

#endif
