/*
 * Theory of operation: one TLS connection over memory.
 *
 * libssl reads from and writes to a BIO of ours, which is the connection's `in` and `out`: the first is what the socket's owner has just
 * received, the second is where it sends from. Nothing waits in between: libssl itself keeps a record that has only partly come, so `in` is
 * always used up, and what comes out lies where it is sent from. Records are read one by one; libssl's own read-ahead would move all
 * that it has read to the front of its buffer once for each record.
 *
 * A handshake is done (is_up) only when the peer has also passed those rows of the table that OpenSSL does not ask about on resumption.
 *
 * One key encrypts at most KEY_BYTES; then SSL_key_update() changes it (RFC 8446, 5.5: 2^24.5 records).
 *
 * On a byte's way before this: session.c.
 */
#include "link/tls_int.h"

#include "link/frame.h"

#include <openssl/err.h>
#include <openssl/sha.h>
#include <stdio.h>

/* 2^22 full records. */
#define KEY_BYTES (UINT64_C(1) << 36)
#define EXPORTER_PROOF "EXPORTER-sealane-proof"

/* The BIO. */

static int bio_read(BIO *b, char *buf, int size)
{
	struct tls_conn *c = BIO_get_data(b);
	size_t n = (size_t)size < c->in_size ? (size_t)size : c->in_size;

	BIO_clear_retry_flags(b);
	if (n == 0) {
		BIO_set_retry_read(b);
		return -1;
	}
	memcpy(buf, c->in, n);
	c->in += n;
	c->in_size -= n;
	return (int)n;
}

static int bio_write(BIO *b, const char *bytes, int size)
{
	struct tls_conn *c = BIO_get_data(b);

	BIO_clear_retry_flags(b);
	if (c->out_cap - c->out_size < (size_t)size) {
		BIO_set_retry_write(b);
		return -1;
	}
	memcpy(c->out + c->out_size, bytes, (size_t)size);
	c->out_size += (size_t)size;
	return size;
}

static long bio_ctrl(BIO *b, int cmd, long larg, void *parg)
{
	return cmd == BIO_CTRL_FLUSH;
}

BIO_METHOD *tls_bio(void)
{
	BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "sealane");

	if (m && BIO_meth_set_read(m, bio_read) && BIO_meth_set_write(m, bio_write) && BIO_meth_set_ctrl(m, bio_ctrl))
		return m;
	BIO_meth_free(m);
	return NULL;
}

/* Making and ending. */

static int conn_init(struct tls_conn *c, const struct tls *t, SSL_CTX *ctx)
{
	BIO *b;

	c->tls = t;
	c->ssl = SSL_new(ctx);
	b = c->ssl ? BIO_new(t->bio) : NULL;
	if (!b) {
		tls_conn_close(c);
		ERR_clear_error();
		return -ENOMEM;
	}
	BIO_set_data(b, c);
	BIO_set_init(b, 1);
	SSL_set_bio(c->ssl, b, b);
	SSL_set_app_data(c->ssl, c);
	return 0;
}

static int client_show(struct tls_conn *c, uint32_t kid)
{
	const struct tls_credential *k = tls_credential(c->tls, kid);

	if (!k)
		return -ENOKEY;
	if (SSL_use_certificate(c->ssl, k->leaf) != 1 || SSL_use_PrivateKey(c->ssl, k->key) != 1 || SSL_set1_chain(c->ssl, k->chain) != 1)
		return -ENOMEM;
	return 0;
}

int tls_conn_client(struct tls_conn *c, const struct tls *t, enum tls_use use, uint32_t kid, const char *host, SSL_SESSION *ticket)
{
	uint8_t alpn[32];
	size_t n = strlen(tls_alpn[use]);
	int r = conn_init(c, t, t->client);

	if (r < 0)
		return r;
	c->is_client = true;
	c->use = use;
	snprintf(c->host, sizeof(c->host), "%s", host);
	alpn[0] = (uint8_t)n;
	memcpy(alpn + 1, tls_alpn[use], n);
	r = use == TLS_JOIN ? 0 : client_show(c, kid);
	if (r == 0 && SSL_set_alpn_protos(c->ssl, alpn, (unsigned)n + 1) != 0)
		r = -ENOMEM;
	if (r == 0 && ticket)
		SSL_set_session(c->ssl, ticket);
	if (r < 0)
		tls_conn_close(c);
	else
		SSL_set_connect_state(c->ssl);
	ERR_clear_error();
	return r;
}

int tls_conn_server(struct tls_conn *c, const struct tls *t)
{
	int r = t->server ? conn_init(c, t, t->server) : -ENOKEY;

	if (r < 0)
		return r;
	SSL_set_accept_state(c->ssl);
	return 0;
}

void tls_conn_close(struct tls_conn *c)
{
	SSL_free(c->ssl);
	SSL_SESSION_free(c->ticket);
	c->ssl = NULL;
	c->ticket = NULL;
	c->is_up = false;
}

bool tls_ticket_is_good(const struct tls *t, SSL_SESSION *ticket)
{
	X509 *leaf = SSL_SESSION_get0_peer(ticket);
	struct pki_identity who;
	char why[200];

	if (!SSL_SESSION_is_resumable(ticket) || !leaf || pki_identity(&who, leaf, t->trust_domain, why, sizeof(why)) < 0)
		return false;
	who.has_anchor = tls_ticket_anchor(ticket, who.anchor);
	return who.has_anchor && tls_judge(t, &who, why, sizeof(why)) == SESSION_OK;
}

/* What OpenSSL has against a peer. */

static enum session_reason reason_of_alert(int alert)
{
	switch (alert) {
	case SSL_AD_CERTIFICATE_REQUIRED:
		return SESSION_NO_CERTIFICATE;
	case SSL_AD_UNKNOWN_CA:
		return SESSION_UNTRUSTED;
	case SSL_AD_CERTIFICATE_EXPIRED:
		return SESSION_EXPIRED;
	case SSL_AD_BAD_CERTIFICATE:
		return SESSION_BAD_IDENTITY;
	case SSL_AD_CERTIFICATE_REVOKED:
		return SESSION_REVOKED;
	default:
		return SESSION_PROTOCOL;
	}
}

static int conn_failed(struct tls_conn *c)
{
	unsigned long error = ERR_peek_last_error();
	int code = ERR_GET_LIB(error) == ERR_LIB_SSL ? ERR_GET_REASON(error) : 0;
	const char *text = ERR_reason_error_string(error);
	enum session_reason reason = SESSION_PROTOCOL;
	char why[200];

	if (code == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE)
		reason = SESSION_NO_CERTIFICATE;
	else if (code >= SSL_AD_REASON_OFFSET)
		reason = reason_of_alert(code - SSL_AD_REASON_OFFSET);
	snprintf(why, sizeof(why), "%s: %s", code >= SSL_AD_REASON_OFFSET ? "the other side refused" : "TLS", text ? text : "no reason given");
	ERR_clear_error();
	return tls_refuse(c, reason, why);
}

/* Return: 0: more bytes are needed; -EPIPE; -EPROTO. */
static int conn_status(struct tls_conn *c, int r)
{
	switch (SSL_get_error(c->ssl, r)) {
	case SSL_ERROR_WANT_READ:
		return 0;
	case SSL_ERROR_ZERO_RETURN:
		return -EPIPE;
	default:
		return conn_failed(c);
	}
}

/* The handshake. */

static int check_alpn(struct tls_conn *c)
{
	const unsigned char *alpn;
	unsigned n;

	SSL_get0_alpn_selected(c->ssl, &alpn, &n);
	if (n == strlen(tls_alpn[c->use]) && memcmp(alpn, tls_alpn[c->use], n) == 0)
		return 0;
	return tls_refuse(c, SESSION_PROTOCOL, "the other side speaks no sealane protocol (ALPN)");
}

/* OpenSSL is content. Is the table? */
static int conn_accept(struct tls_conn *c)
{
	X509 *leaf = SSL_get0_peer_certificate(c->ssl);
	int r = check_alpn(c);

	c->resumed = SSL_session_reused(c->ssl);
	if (c->resumed)
		c->has_anchor = tls_ticket_anchor(SSL_get0_session(c->ssl), c->anchor);
	if (r == 0 && c->resumed && !c->has_anchor)
		r = tls_refuse(c, SESSION_UNTRUSTED, "the session that is resumed ends at no root that is known");
	if (r == 0 && !leaf && (c->is_client || c->use != TLS_JOIN))
		r = tls_refuse(c, SESSION_NO_CERTIFICATE, "the other side showed no certificate");
	if (r == 0 && leaf)
		r = tls_judge_peer(c, leaf);
	if (r == 0)
		r = tls_export(c, EXPORTER_PROOF, c->proof_exporter);
	c->is_up = r == 0;
	return r == 0 ? 1 : r;
}

int tls_handshake(struct tls_conn *c)
{
	int r;

	ERR_clear_error();
	r = SSL_do_handshake(c->ssl);
	if (r == 1)
		return conn_accept(c);
	r = conn_status(c, r);
	return r == -EPIPE ? tls_refuse(c, SESSION_PROTOCOL, "the other side ended the handshake") : r;
}

int tls_export(struct tls_conn *c, const char *label, uint8_t ret[TLS_EXPORTER_SIZE])
{
	if (SSL_export_keying_material(c->ssl, ret, TLS_EXPORTER_SIZE, label, strlen(label), NULL, 0, 0) == 1)
		return 0;
	return conn_failed(c);
}

const char *tls_cipher_name(const struct tls_conn *c)
{
	return SSL_get_cipher_name(c->ssl);
}

/* Bytes. */

/* SSL_get_error() would take somebody else's left-over for this call's. Most often there is none, and clearing costs more than looking. */
static void forget_errors(void)
{
	if (ERR_peek_error())
		ERR_clear_error();
}

ssize_t tls_read(struct tls_conn *c, uint8_t *buf, size_t size)
{
	size_t n = 0;

	forget_errors();
	if (SSL_read_ex(c->ssl, buf, size, &n) == 1)
		return (ssize_t)n;
	return conn_status(c, 0);
}

int tls_write(struct tls_conn *c, const uint8_t *bytes, size_t size)
{
	size_t n = 0;

	forget_errors();
	c->written += size;
	if (c->written >= KEY_BYTES) {
		c->written = 0;
		if (SSL_key_update(c->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) != 1)
			return conn_failed(c);
	}
	return SSL_write_ex(c->ssl, bytes, size, &n) == 1 ? 0 : conn_failed(c);
}

void tls_goodbye(struct tls_conn *c)
{
	if (c->ssl && c->is_up)
		SSL_shutdown(c->ssl);
	ERR_clear_error();
}

/* PROOF. */

static void proof_digest(const struct tls_conn *c, bool by_client, const char *spiffe_id, uint8_t ret[32])
{
	static const char label[24] = "sealane link proof v1";
	uint8_t text[sizeof(label) + 1 + TLS_EXPORTER_SIZE + LIMIT_SPIFFE_ID_SIZE];
	size_t n = strlen(spiffe_id);

	memcpy(text, label, sizeof(label));
	text[sizeof(label)] = by_client ? 0 : 1;
	memcpy(text + sizeof(label) + 1, c->proof_exporter, TLS_EXPORTER_SIZE);
	memcpy(text + sizeof(label) + 1 + TLS_EXPORTER_SIZE, spiffe_id, n);
	SHA256(text, sizeof(label) + 1 + TLS_EXPORTER_SIZE + n, ret);
}

/* Return: the size of all certificates, one after another; 0: more than @cap. */
static size_t chain_der(const struct tls_credential *k, uint8_t *to, size_t cap)
{
	size_t at = 0;

	for (int i = -1; i < sk_X509_num(k->chain); i++) {
		X509 *x = i < 0 ? k->leaf : sk_X509_value(k->chain, i);
		int n = i2d_X509(x, NULL);
		uint8_t *p = to + at;

		if (n <= 0 || (size_t)n > cap - at)
			return 0;
		i2d_X509(x, &p);
		at += (size_t)n;
	}
	return at;
}

ssize_t tls_prove(struct tls_conn *c, uint32_t kid, uint8_t *to)
{
	const struct tls_credential *k = tls_credential(c->tls, kid);
	uint8_t digest[32], signature[SIGNATURE_SIZE], certificates[FRAME_PAYLOAD_MAX];
	size_t size, n;
	int r;

	if (!k)
		return -ENOKEY;
	proof_digest(c, c->is_client, k->identity.spiffe_id, digest);
	r = c->tls->sign(c->tls->sign_arg, kid, digest, signature);
	if (r <= 0)
		return r < 0 ? r : -EIO;
	size = chain_der(k, certificates, sizeof(certificates));
	n = size ? frame_put_proof(to, signature, (size_t)r, certificates, size) : 0;
	return n ? (ssize_t)n : -E2BIG;
}

static int read_chain(const uint8_t *der, size_t size, X509 **ret_leaf, STACK_OF(X509) *chain)
{
	const uint8_t *at = der, *end = der + size;

	for (int n = 0; at < end; n++) {
		X509 *x = n < FRAME_PROOF_CERTIFICATES ? d2i_X509(NULL, &at, (long)(end - at)) : NULL;

		if (!x)
			return -EBADMSG;
		if (n == 0)
			*ret_leaf = x;
		else if (sk_X509_push(chain, x) <= 0) {
			X509_free(x);
			return -ENOMEM;
		}
	}
	return *ret_leaf ? 0 : -EBADMSG;
}

static int judge_proof(struct tls_conn *c, X509 *leaf, const uint8_t *signature, size_t signature_size, struct pki_identity *ret)
{
	uint8_t digest[32];
	char why[200];

	if (c->faults || pki_identity(ret, leaf, c->tls->trust_domain, why, sizeof(why)) < 0)
		return tls_refuse(c, SESSION_BAD_IDENTITY, c->faults ? "PROOF with a certificate that is not one for TLS" : why);
	proof_digest(c, !c->is_client, ret->spiffe_id, digest);
	if (pki_verify(X509_get0_pubkey(leaf), digest, signature, signature_size) < 0)
		return tls_refuse(c, SESSION_PROTOCOL, "PROOF with a signature that is not its certificate's");
	return 0;
}

int tls_check_proof(struct tls_conn *c, const uint8_t *signature, size_t signature_size, const uint8_t *certificates,
		    size_t certificates_size, struct pki_identity *ret, enum session_reason *ret_reason, char *why, size_t size)
{
	STACK_OF(X509) *chain = sk_X509_new_null();
	uint8_t anchor[PKI_ANCHOR_SIZE];
	X509 *leaf = NULL;
	int r;

	if (!chain || read_chain(certificates, certificates_size, &leaf, chain) < 0)
		r = tls_refuse(c, SESSION_PROTOCOL, "PROOF with something else than certificates");
	else
		r = tls_verify_proof(c, leaf, chain, anchor);
	if (r == 0)
		r = judge_proof(c, leaf, signature, signature_size, ret);
	if (r == 0) {
		memcpy(ret->anchor, anchor, sizeof(ret->anchor));
		ret->has_anchor = true;
		*ret_reason = tls_judge(c->tls, ret, why, size);
		r = *ret_reason == SESSION_OK ? 0 : -EKEYREVOKED;
	}
	X509_free(leaf);
	sk_X509_pop_free(chain, X509_free);
	ERR_clear_error();
	return r;
}
