/*
 * Theory of operation: session tickets, by which a session that comes back pays no signatures.
 *
 * A ticket is the server's own note, which the client keeps: encrypted and authenticated under keys that all linkers of a host have, since whoever
 * comes back finds any of them behind the same port. Each is derived from a secret that the broker draws, from the roots, and from this host's
 * certificate: so new roots or a new certificate make tickets from before worthless, and linkers that were told the same agree without a word. There
 * are two secrets, of now and of before. Who has one could come back as anybody, but not read what others say: each session has fresh keys (X25519).
 *
 * In the ticket, beside what OpenSSL puts there, is the anchor: the root that the client's chain ended at. A server asks before it takes a ticket
 * (judge_ticket()): whom it would refuse gets a whole handshake and so an alert that says why. A client keeps the anchor of the server's chain with the
 * ticket in the same way.
 */
#include "link/tls_int.h"

#include <openssl/core_names.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

enum { IV_SIZE = 16, DIGEST_SIZE = 32 };

/* Keys. */

/* What they are bound to: the same in each linker that was told the same. */
static bool ticket_ground(const struct tls *t, uint8_t ret[DIGEST_SIZE])
{
	const struct tls_credential *host = tls_credential(t, 0);
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	uint8_t leaf[EVP_MAX_MD_SIZE];
	unsigned n = 0;
	bool ok = md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1;

	for (int i = 0; ok && i < sk_X509_num(t->roots); i++)
		ok = EVP_DigestUpdate(md, t->anchors[i], PKI_ANCHOR_SIZE) == 1;
	if (ok && host)
		ok = X509_digest(host->leaf, EVP_sha256(), leaf, &n) == 1 && EVP_DigestUpdate(md, leaf, n) == 1;
	ok = ok && EVP_DigestUpdate(md, t->trust_domain, strlen(t->trust_domain)) == 1 && EVP_DigestFinal_ex(md, ret, NULL) == 1;
	EVP_MD_CTX_free(md);
	return ok;
}

static bool derive(const uint8_t secret[TLS_TICKET_SECRET_SIZE], char label, const uint8_t ground[DIGEST_SIZE], uint8_t *ret, size_t size)
{
	uint8_t text[1 + DIGEST_SIZE] = { (uint8_t)label }, out[EVP_MAX_MD_SIZE];
	unsigned n = 0;

	memcpy(text + 1, ground, DIGEST_SIZE);
	if (!HMAC(EVP_sha256(), secret, TLS_TICKET_SECRET_SIZE, text, sizeof(text), out, &n) || n < size)
		return false;
	memcpy(ret, out, size);
	return true;
}

void tls_tickets_derive(struct tls *t)
{
	uint8_t ground[DIGEST_SIZE];
	bool ok = ticket_ground(t, ground);

	for (unsigned i = 0; ok && i < t->n_ticket_keys; i++) {
		struct tls_ticket_key *k = &t->ticket_keys[i];

		ok = derive(t->ticket_secrets[i], 'n', ground, k->name, sizeof(k->name)) &&
		     derive(t->ticket_secrets[i], 'c', ground, k->cipher, sizeof(k->cipher)) &&
		     derive(t->ticket_secrets[i], 'm', ground, k->mac, sizeof(k->mac));
	}
	if (!ok)
		t->n_ticket_keys = 0; /* each session is then a whole handshake */
}

void tls_set_tickets(struct tls *t, const uint8_t (*secrets)[TLS_TICKET_SECRET_SIZE], unsigned n_secrets)
{
	t->n_ticket_keys = n_secrets < TLS_TICKET_SECRETS ? n_secrets : TLS_TICKET_SECRETS;
	memcpy(t->ticket_secrets, secrets, t->n_ticket_keys * sizeof(t->ticket_secrets[0]));
	tls_tickets_derive(t);
}

int tls_tickets_init(struct tls *t)
{
	t->ticket_cipher = EVP_CIPHER_fetch(t->lib, "AES-256-CBC", NULL);
	if (!t->ticket_cipher || RAND_bytes(t->ticket_secrets[0], TLS_TICKET_SECRET_SIZE) != 1)
		return -ENOMEM;
	t->n_ticket_keys = 1;
	return 0;
}

static const struct tls_ticket_key *find_key(const struct tls *t, const uint8_t *name, int *ret_age)
{
	for (unsigned i = 0; i < t->n_ticket_keys; i++)
		if (memcmp(t->ticket_keys[i].name, name, sizeof(t->ticket_keys[i].name)) == 0) {
			*ret_age = (int)i;
			return &t->ticket_keys[i];
		}
	return NULL;
}

static bool use_mac(EVP_MAC_CTX *mac, const struct tls_ticket_key *k)
{
	char digest[] = "SHA256";
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, (void *)(uintptr_t)k->mac, sizeof(k->mac)),
		OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
		OSSL_PARAM_construct_end(),
	};

	return EVP_MAC_CTX_set_params(mac, params) == 1;
}

/* Return, as OpenSSL has it: -1: failed; 0: no ticket, or none that is known; 1: it is good; 2: it is good, and one under the newer key is due. */
static int ticket_key(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, int encrypt)
{
	const struct tls *t = tls_conn_of(ssl)->tls;
	const struct tls_ticket_key *k = t->n_ticket_keys > 0 ? &t->ticket_keys[0] : NULL;
	int age = 0;

	if (!encrypt)
		k = find_key(t, name, &age);
	if (!k)
		return 0;
	if (encrypt) {
		memcpy(name, k->name, sizeof(k->name));
		if (RAND_bytes(iv, IV_SIZE) != 1 || EVP_EncryptInit_ex(cipher, t->ticket_cipher, NULL, k->cipher, iv) != 1)
			return -1;
	} else if (EVP_DecryptInit_ex(cipher, t->ticket_cipher, NULL, k->cipher, iv) != 1) {
		return -1;
	}
	return !use_mac(mac, k) ? -1 : age == 0 ? 1 : 2;
}

/* Anchors. */

bool tls_ticket_anchor(SSL_SESSION *ticket, uint8_t ret[PKI_ANCHOR_SIZE])
{
	void *data = NULL;
	size_t size = 0;

	if (SSL_SESSION_get0_ticket_appdata(ticket, &data, &size) != 1 || !data || size != PKI_ANCHOR_SIZE)
		return false;
	memcpy(ret, data, PKI_ANCHOR_SIZE);
	return true;
}

static void put_anchor(const struct tls_conn *c, SSL_SESSION *ticket)
{
	if (c->has_anchor) /* else the ticket is not a good one, and that is all */
		(void)!SSL_SESSION_set1_ticket_appdata(ticket, c->anchor, sizeof(c->anchor));
}

static int fill_ticket(SSL *ssl, void *arg)
{
	put_anchor(tls_conn_of(ssl), SSL_get_session(ssl));
	return 1;
}

static int keep_ticket(SSL *ssl, SSL_SESSION *session)
{
	struct tls_conn *c = tls_conn_of(ssl);

	put_anchor(c, session);
	SSL_SESSION_free(c->ticket);
	c->ticket = session;
	return 1; /* ours from now on */
}

/* A ticket whose certificate would not pass now buys nothing: the handshake goes on in full, and says why not. */
static SSL_TICKET_RETURN judge_ticket(SSL *ssl, SSL_SESSION *session, const unsigned char *name, size_t name_size, SSL_TICKET_STATUS status, void *arg)
{
	struct tls_conn *c = tls_conn_of(ssl);

	if (status != SSL_TICKET_SUCCESS && status != SSL_TICKET_SUCCESS_RENEW)
		return status == SSL_TICKET_EMPTY || status == SSL_TICKET_NO_DECRYPT ? SSL_TICKET_RETURN_IGNORE_RENEW : SSL_TICKET_RETURN_ABORT;
	if (!tls_ticket_is_good(c->tls, session))
		return SSL_TICKET_RETURN_IGNORE_RENEW;
	c->has_anchor = tls_ticket_anchor(session, c->anchor); /* of the ticket that follows, too */
	return SSL_TICKET_RETURN_USE_RENEW;
}

void tls_context_tickets(SSL_CTX *ctx, bool is_client)
{
	SSL_CTX_set_session_cache_mode(ctx, is_client ? SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL : SSL_SESS_CACHE_OFF);
	if (is_client) {
		SSL_CTX_sess_set_new_cb(ctx, keep_ticket);
		return;
	}
	SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, ticket_key);
	SSL_CTX_set_session_ticket_cb(ctx, fill_ticket, judge_ticket, NULL);
}
