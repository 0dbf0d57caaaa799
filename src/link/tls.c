/*
 * Theory of operation: who is trusted, with what we prove ourselves, and the table of docs/design/link.md ("What a certificate has to pass").
 *
 * OpenSSL verifies chains and signatures; which fault counts, and in which order, is decided here. Its verification is let run to the
 * end (collect_fault() always says "go on") and only notes what it found; verify_faults() then names the first row that failed.
 * A chain of which OpenSSL says nothing but "expired" is one of ours that has expired; one that has anything else against it is not.
 *
 * Rows from bad-identity on look at the leaf alone (tls_judge_peer()). They are asked again after a resumed handshake (tls_ticket.c), in which no
 * chain comes and OpenSSL calls nobody, with the leaf of the first handshake; so is the time. Of the chain what is remembered is the root that it ended
 * at (anchor): it is good for as long as that is one of ours, so that a root that is taken out ends what stands on it (tls_judge()).
 *
 * On a handshake's way before this: tls_conn.c, tls_handshake(). After it: linker_session.c.
 */
#include "link/tls_int.h"

#include "link/frame.h"
#include "link/gcm.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>

enum {
	FAULT_UNTRUSTED = 1 << 0,
	FAULT_EXPIRED = 1 << 1,
	FAULT_NOT_YET = 1 << 2,
	FAULT_PURPOSE = 1 << 3,
	/* Leaf, two intermediates, root. */
	CHAIN_DEPTH = 4,
};

const char *const tls_alpn[TLS_USE_N] = {
	[TLS_LINK] = "sealane-link/1",
	[TLS_CA] = "sealane-ca/1",
	[TLS_JOIN] = "sealane-join/1",
};

int tls_refuse(struct tls_conn *c, enum session_reason reason, const char *why)
{
	if (c->reason == SESSION_OK) {
		c->reason = reason;
		snprintf(c->why, sizeof(c->why), "%s", why);
	}
	return -EPROTO;
}

int tls_set_revoked(struct tls *t, const char *text, size_t size)
{
	struct revoked_list *list = NULL;
	int r = revoked_list_parse(&list, text, size);

	if (r < 0)
		return r;
	revoked_list_free(t->revoked);
	t->revoked = list;
	return 0;
}

static bool is_anchor(const struct tls *t, const uint8_t anchor[PKI_ANCHOR_SIZE])
{
	for (int i = 0; i < sk_X509_num(t->roots); i++)
		if (memcmp(t->anchors[i], anchor, PKI_ANCHOR_SIZE) == 0)
			return true;
	return false;
}

enum session_reason tls_judge(const struct tls *t, const struct pki_identity *who, char *why, size_t size)
{
	int64_t now = time(NULL);
	const char *line;

	if (now > who->not_after) {
		snprintf(why, size, "the certificate of %s has expired", who->spiffe_id);
		return SESSION_EXPIRED;
	}
	if (now < who->not_before) {
		snprintf(why, size, "the certificate of %s is not valid yet: compare the clocks", who->spiffe_id);
		return SESSION_NOT_YET_VALID;
	}
	line = t->revoked ? revoked_list_find(t->revoked, who->spiffe_id, who->serial, who->not_before) : NULL;
	if (line) {
		snprintf(why, size, "%s, serial %s, is on the list of what is revoked (%s)", who->spiffe_id, who->serial, line);
		return SESSION_REVOKED;
	}
	if (who->has_anchor && !is_anchor(t, who->anchor)) {
		snprintf(why, size, "the root that the certificate of %s ends at was taken out", who->spiffe_id);
		return SESSION_UNTRUSTED;
	}
	return SESSION_OK;
}

/* Whose certificate. */

/* The trust domain that a root speaks for; a host that joins learns it there. */
static bool root_domain(const struct tls_conn *c, char ret[LIMIT_TRUST_DOMAIN_SIZE])
{
	STACK_OF(X509) *chain = SSL_get0_verified_chain(c->ssl);
	X509 *root = sk_X509_num(chain) > 0 ? sk_X509_value(chain, sk_X509_num(chain) - 1) : NULL;
	GENERAL_NAMES *names = root ? X509_get_ext_d2i(root, NID_subject_alt_name, NULL, NULL) : NULL;
	static const char scheme[] = "spiffe://";
	bool found = false;

	for (int i = 0; !found && i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *n = sk_GENERAL_NAME_value(names, i);
		const char *uri = n->type == GEN_URI ? (const char *)ASN1_STRING_get0_data(n->d.ia5) : NULL;
		size_t size = uri ? (size_t)ASN1_STRING_length(n->d.ia5) : 0;

		if (size < sizeof(scheme) || size - (sizeof(scheme) - 1) >= LIMIT_TRUST_DOMAIN_SIZE || memcmp(uri, scheme, sizeof(scheme) - 1) != 0)
			continue;
		memcpy(ret, uri + sizeof(scheme) - 1, size - (sizeof(scheme) - 1));
		ret[size - (sizeof(scheme) - 1)] = '\0';
		found = trust_domain_is_valid(ret);
	}
	GENERAL_NAMES_free(names);
	return found;
}

int tls_judge_peer(struct tls_conn *c, X509 *leaf)
{
	char domain[LIMIT_TRUST_DOMAIN_SIZE], why[200];
	enum session_reason reason;

	snprintf(domain, sizeof(domain), "%s", c->tls->trust_domain);
	if (c->is_client && c->use == TLS_JOIN && !root_domain(c, domain))
		return tls_refuse(c, SESSION_BAD_IDENTITY, "the authority's root names no trust domain");
	if ((c->faults & FAULT_PURPOSE) || pki_identity(&c->peer, leaf, domain, why, sizeof(why)) < 0)
		return tls_refuse(c, SESSION_BAD_IDENTITY, c->faults & FAULT_PURPOSE ? "the certificate is not one for TLS" : why);
	c->peer.has_anchor = c->has_anchor;
	memcpy(c->peer.anchor, c->anchor, sizeof(c->peer.anchor));
	if (c->peer.kind != PKI_HOST && (c->is_client || c->use == TLS_CA))
		return tls_refuse(c, SESSION_BAD_IDENTITY, "a service's certificate where a host's is due");
	if (c->is_client && strcmp(c->peer.host, c->host) != 0) {
		snprintf(why, sizeof(why), "host %s answered where host %s was dialled", c->peer.host, c->host);
		return tls_refuse(c, SESSION_WRONG_HOST, why);
	}
	reason = tls_judge(c->tls, &c->peer, why, sizeof(why));
	return reason == SESSION_OK ? 0 : tls_refuse(c, reason, why);
}

/* Chains. */

static unsigned fault_of(int error)
{
	switch (error) {
	case X509_V_OK:
		return 0;
	case X509_V_ERR_CERT_HAS_EXPIRED:
		return FAULT_EXPIRED;
	case X509_V_ERR_CERT_NOT_YET_VALID:
		return FAULT_NOT_YET;
	case X509_V_ERR_INVALID_PURPOSE:
		return FAULT_PURPOSE;
	default:
		return FAULT_UNTRUSTED;
	}
}

static int collect_fault(int ok, X509_STORE_CTX *ctx)
{
	unsigned *faults = X509_STORE_CTX_get_app_data(ctx);

	if (!ok)
		*faults |= fault_of(X509_STORE_CTX_get_error(ctx));
	return 1;
}

/* The first row that failed, of those that the chain as a whole has to pass. */
static int verify_faults(struct tls_conn *c)
{
	if (c->faults & FAULT_UNTRUSTED)
		return tls_refuse(c, SESSION_UNTRUSTED, "the certificate's chain ends at none of our roots");
	if (c->faults & FAULT_EXPIRED)
		return tls_refuse(c, SESSION_EXPIRED, "a certificate of the chain has expired");
	if (c->faults & FAULT_NOT_YET)
		return tls_refuse(c, SESSION_NOT_YET_VALID, "a certificate of the chain is not valid yet: compare the clocks");
	return 0;
}

static bool is_root(const struct tls_conn *c, X509 *x)
{
	uint8_t digest[EVP_MAX_MD_SIZE];
	unsigned n = 0;

	return X509_digest(x, EVP_sha256(), digest, &n) == 1 && n == sizeof(c->root) && CRYPTO_memcmp(digest, c->root, n) == 0;
}

/* Who joins has no roots, but knows what the one has to look like. */
static STACK_OF(X509) *join_roots(const struct tls_conn *c, X509_STORE_CTX *ctx)
{
	STACK_OF(X509) *sent = X509_STORE_CTX_get0_untrusted(ctx), *roots = sk_X509_new_null();

	for (int i = 0; roots && i < sk_X509_num(sent); i++)
		if (is_root(c, sk_X509_value(sent, i)))
			sk_X509_push(roots, sk_X509_value(sent, i));
	return roots;
}

static void run_verification(struct tls_conn *c, X509_STORE_CTX *ctx)
{
	unsigned faults = 0;

	X509_STORE_CTX_set_app_data(ctx, &faults);
	X509_STORE_CTX_set_verify_cb(ctx, collect_fault);
	if (X509_verify_cert(ctx) <= 0 && faults == 0)
		faults = FAULT_UNTRUSTED; /* it did not come so far as to say what was wrong */
	c->faults |= faults;
}

/* Where what was verified ends. Return: 0; -ENOMEM. */
static int chain_anchor(X509_STORE_CTX *ctx, uint8_t ret[PKI_ANCHOR_SIZE])
{
	STACK_OF(X509) *chain = X509_STORE_CTX_get0_chain(ctx);

	return pki_anchor(ret, sk_X509_value(chain, sk_X509_num(chain) - 1));
}

static int alert_of(enum session_reason reason)
{
	switch (reason) {
	case SESSION_UNTRUSTED:
		return X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY; /* unknown_ca */
	case SESSION_EXPIRED:
	case SESSION_NOT_YET_VALID:
		return X509_V_ERR_CERT_HAS_EXPIRED;
	case SESSION_REVOKED:
		return X509_V_ERR_CERT_REVOKED;
	default:
		return X509_V_ERR_CERT_REJECTED; /* bad_certificate */
	}
}

int tls_verify_chain(X509_STORE_CTX *ctx, void *arg)
{
	const SSL *ssl = X509_STORE_CTX_get_ex_data(ctx, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct tls_conn *c = tls_conn_of(ssl);
	STACK_OF(X509) *roots = NULL;
	bool joins = c->is_client && c->use == TLS_JOIN;

	if (joins) {
		roots = join_roots(c, ctx);
		X509_STORE_CTX_set0_trusted_stack(ctx, roots);
	}
	run_verification(c, ctx);
	sk_X509_free(roots);
	/* Who joins goes by the one root that it was told of, and only for this session. */
	c->has_anchor = !joins && !(c->faults & FAULT_UNTRUSTED) && chain_anchor(ctx, c->anchor) == 0;
	/* The rest of the table waits for the end of the handshake where the chain's root says what the trust domain is. */
	if (verify_faults(c) < 0 || (!joins && !c->has_anchor) || (!joins && tls_judge_peer(c, X509_STORE_CTX_get0_cert(ctx)) < 0)) {
		X509_STORE_CTX_set_error(ctx, alert_of(c->reason));
		return 0;
	}
	X509_STORE_CTX_set_error(ctx, X509_V_OK);
	return 1;
}

int tls_verify_proof(struct tls_conn *c, X509 *leaf, STACK_OF(X509) *chain, uint8_t ret_anchor[PKI_ANCHOR_SIZE])
{
	X509_STORE_CTX *ctx = X509_STORE_CTX_new_ex(c->tls->lib, NULL);
	int r = 0;

	c->faults = 0;
	if (!ctx || X509_STORE_CTX_init(ctx, c->tls->store, leaf, chain) != 1) {
		X509_STORE_CTX_free(ctx);
		return tls_refuse(c, SESSION_PROTOCOL, "out of memory");
	}
	X509_STORE_CTX_set_default(ctx, "ssl_server");
	run_verification(c, ctx);
	if (!(c->faults & FAULT_UNTRUSTED) && chain_anchor(ctx, ret_anchor) < 0)
		r = tls_refuse(c, SESSION_PROTOCOL, "out of memory");
	X509_STORE_CTX_free(ctx);
	return r < 0 ? r : verify_faults(c);
}

/* Contexts. */

static int select_alpn(SSL *ssl, const unsigned char **ret, unsigned char *ret_size, const unsigned char *in, unsigned in_size, void *arg)
{
	struct tls_conn *c = tls_conn_of(ssl);

	for (unsigned at = 0; at < in_size && in[at] < in_size - at; at += 1u + in[at])
		for (unsigned use = 0; use < TLS_USE_N; use++) {
			/* Whoever has no certificate gets no further than this where there is none to be had. */
			if ((use != TLS_LINK && !c->tls->is_authority) || strlen(tls_alpn[use]) != in[at] || memcmp(tls_alpn[use], in + at + 1, in[at]) != 0)
				continue;
			*ret = in + at + 1;
			*ret_size = in[at];
			c->use = use;
			if (use != TLS_JOIN)
				return SSL_TLSEXT_ERR_OK;
			/* Who joins has no certificate to show, and no root to check ours: it gets the roots in the chain. */
			SSL_set_verify(ssl, SSL_VERIFY_NONE, NULL);
			for (int i = 0; i < sk_X509_num(c->tls->roots); i++)
				SSL_add1_chain_cert(ssl, sk_X509_value(c->tls->roots, i));
			return SSL_TLSEXT_ERR_OK;
		}
	return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static int context_set(const struct tls *t, SSL_CTX *ctx, bool is_client)
{
	static const uint8_t id[] = "sealane";
	int ok = SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) && SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION);

	ok = ok && SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384");
	ok = ok && SSL_CTX_set1_groups_list(ctx, "X25519:P-256") && SSL_CTX_set1_sigalgs_list(ctx, "ECDSA+SHA256");
	ok = ok && SSL_CTX_set_num_tickets(ctx, 1) && SSL_CTX_set_session_id_context(ctx, id, sizeof(id) - 1);
	if (!ok)
		return -ENOMEM;
	if (t->store)
		SSL_CTX_set1_cert_store(ctx, t->store);
	SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
	SSL_CTX_set_mode(ctx, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_NO_AUTO_CHAIN);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | (is_client ? 0 : SSL_VERIFY_FAIL_IF_NO_PEER_CERT), NULL);
	SSL_CTX_set_verify_depth(ctx, CHAIN_DEPTH);
	SSL_CTX_set_max_cert_list(ctx, LIMIT_CHAIN_SIZE);
	SSL_CTX_set_cert_verify_callback(ctx, tls_verify_chain, NULL);
	tls_context_tickets(ctx, is_client);
	if (!is_client)
		SSL_CTX_set_alpn_select_cb(ctx, select_alpn, NULL);
	return 0;
}

SSL_CTX *tls_context(const struct tls *t, bool is_client)
{
	SSL_CTX *ctx = SSL_CTX_new_ex(t->lib, TLS_LIBRARY_QUERY, is_client ? TLS_client_method() : TLS_server_method());

	if (ctx && context_set(t, ctx, is_client) < 0) {
		SSL_CTX_free(ctx);
		ctx = NULL;
	}
	ERR_clear_error();
	return ctx;
}

/* Return: 0: *ret is a context that shows @host's certificate, or NULL if there is none. */
static int server_context(const struct tls *t, const struct tls_credential *host, SSL_CTX **ret)
{
	SSL_CTX *ctx = host ? tls_context(t, false) : NULL;

	*ret = NULL;
	if (!host)
		return 0;
	if (!ctx || SSL_CTX_use_certificate(ctx, host->leaf) != 1 || SSL_CTX_use_PrivateKey(ctx, host->key) != 1 ||
	    SSL_CTX_set1_chain(ctx, host->chain) != 1) {
		SSL_CTX_free(ctx);
		ERR_clear_error();
		return -ENOMEM;
	}
	*ret = ctx;
	return 0;
}

static int make_store(STACK_OF(X509) *roots, X509_STORE **ret)
{
	X509_STORE *store = X509_STORE_new();

	for (int i = 0; store && i < sk_X509_num(roots); i++)
		if (X509_STORE_add_cert(store, sk_X509_value(roots, i)) != 1) {
			X509_STORE_free(store);
			store = NULL;
		}
	*ret = store;
	return store ? 0 : -ENOMEM;
}

static int make_anchors(STACK_OF(X509) *roots, uint8_t (**ret)[PKI_ANCHOR_SIZE])
{
	int r = 0, n = sk_X509_num(roots);

	*ret = n > 0 ? calloc((size_t)n, sizeof(**ret)) : NULL;
	if (n > 0 && !*ret)
		return -ENOMEM;
	for (int i = 0; r == 0 && i < n; i++)
		r = pki_anchor((*ret)[i], sk_X509_value(roots, i));
	return r;
}

static void roots_free(STACK_OF(X509) *roots)
{
	sk_X509_pop_free(roots, X509_free);
}

/* Put @with into @t, and what was there into @with. */
static void swap_trust(struct tls *t, struct tls *with)
{
	struct tls old = *t;

	t->roots = with->roots;
	t->store = with->store;
	t->anchors = with->anchors;
	t->client = with->client;
	t->server = with->server;
	memcpy(t->trust_domain, with->trust_domain, sizeof(t->trust_domain));
	memcpy(t->host, with->host, sizeof(t->host));
	*with = old;
}

static void free_trust(struct tls *t)
{
	SSL_CTX_free(t->client);
	SSL_CTX_free(t->server);
	X509_STORE_free(t->store);
	roots_free(t->roots);
	free(t->anchors);
}

int tls_set_trust(struct tls *t, const char *pem, size_t size, const char *trust_domain, const char *host)
{
	struct tls new = *t;
	int r = 0;

	new.roots = NULL;
	new.store = NULL;
	new.anchors = NULL;
	new.client = new.server = NULL;
	if (!str_copy(new.trust_domain, sizeof(new.trust_domain), trust_domain) || !str_copy(new.host, sizeof(new.host), host))
		return -EBADMSG;
	if (size > 0)
		r = pki_from_pem(&new.roots, pem, size);
	if (r == 0)
		r = make_store(new.roots, &new.store);
	if (r == 0)
		r = make_anchors(new.roots, &new.anchors);
	if (r == 0 && !(new.client = tls_context(&new, true)))
		r = -ENOMEM;
	if (r == 0)
		r = server_context(&new, tls_credential(t, 0), &new.server);
	if (r == 0) {
		swap_trust(t, &new);
		tls_tickets_derive(t);
	}
	free_trust(&new);
	return r;
}

void tls_set_authority(struct tls *t, bool is_authority)
{
	t->is_authority = is_authority;
}

/* Credentials. */

static void credential_free(struct tls_credential *c)
{
	if (!c)
		return;
	X509_free(c->leaf);
	sk_X509_pop_free(c->chain, X509_free);
	EVP_PKEY_free(c->key);
	free(c);
}

static int credential_make(const struct tls *t, uint32_t kid, const char *pem, size_t size, struct tls_credential **ret)
{
	struct tls_credential *c = calloc(1, sizeof(*c));
	char why[200];
	int r;

	if (!c)
		return -ENOMEM;
	c->kid = kid;
	r = pki_from_pem(&c->chain, pem, size);
	if (r == 0) {
		c->leaf = sk_X509_shift(c->chain);
		r = c->leaf && sk_X509_num(c->chain) < FRAME_PROOF_CERTIFICATES &&
				    pki_identity(&c->identity, c->leaf, t->trust_domain, why, sizeof(why)) == 0
			    ? remote_key_new(&c->key, X509_get0_pubkey(c->leaf), t->sign, t->sign_arg, kid)
			    : -EBADMSG;
	}
	if (r < 0)
		credential_free(c);
	else
		*ret = c;
	return r;
}

const struct tls_credential *tls_credential(const struct tls *t, uint32_t kid)
{
	struct tls_credential *c = NULL;

	HASH_FIND(hh, t->credentials, &kid, sizeof(kid), c);
	return c;
}

const struct pki_identity *tls_credential_identity(const struct tls_credential *c)
{
	return &c->identity;
}

bool tls_can_serve(const struct tls *t)
{
	return t->server != NULL;
}

static void credential_drop(struct tls *t, uint32_t kid)
{
	struct tls_credential *c = NULL;

	HASH_FIND(hh, t->credentials, &kid, sizeof(kid), c);
	if (!c)
		return;
	HASH_DEL(t->credentials, c);
	credential_free(c);
}

int tls_set_credential(struct tls *t, uint32_t kid, const char *pem, size_t size)
{
	struct tls_credential *c = NULL;
	SSL_CTX *server = NULL;
	int r = credential_make(t, kid, pem, size, &c);

	if (r == 0 && kid == 0)
		r = server_context(t, c, &server);
	if (r < 0) {
		credential_free(c);
		return r;
	}
	if (kid == 0) {
		SSL_CTX_free(t->server);
		t->server = server;
	}
	credential_drop(t, kid);
	HASH_ADD(hh, t->credentials, kid, sizeof(c->kid), c);
	if (kid == 0)
		tls_tickets_derive(t);
	return 0;
}

void tls_forget(struct tls *t, uint32_t kid)
{
	credential_drop(t, kid);
	if (kid == 0) {
		SSL_CTX_free(t->server);
		t->server = NULL;
	}
}

/* A faster AES-GCM, where the CPU and the build have it (gcm.h). It failing is no fault: OpenSSL's own is there. */
static void tls_accelerate(struct tls *t)
{
	t->cipher_source = "OpenSSL";
	(void)!link_gcm_load(t->lib, &t->cipher_source);
}

int tls_new(struct tls **ret, remote_key_sign *sign, void *arg)
{
	struct tls *t;

	/* Its configuration file is nothing that a linker may need. */
	if (OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, NULL) != 1)
		return -ENOMEM;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	t->sign = sign;
	t->sign_arg = arg;
	t->lib = OSSL_LIB_CTX_new();
	t->bio = tls_bio();
	if (t->lib)
		tls_accelerate(t);
	/* Once, so that all that is fetched and seeded at first use is there. */
	if (!t->lib || !t->bio || tls_tickets_init(t) < 0 || tls_set_trust(t, "", 0, "", "") < 0) {
		tls_free(t);
		return -ENOMEM;
	}
	*ret = t;
	return 0;
}

OSSL_LIB_CTX *tls_library(const struct tls *t)
{
	return t->lib;
}

const char *tls_cipher_source(const struct tls *t)
{
	return t->cipher_source;
}

void tls_free(struct tls *t)
{
	struct tls_credential *c, *next;

	if (!t)
		return;
	HASH_ITER(hh, t->credentials, c, next)
	{
		HASH_DEL(t->credentials, c);
		credential_free(c);
	}
	revoked_list_free(t->revoked);
	free_trust(t);
	BIO_meth_free(t->bio);
	EVP_CIPHER_free(t->ticket_cipher);
	OPENSSL_cleanse(t->ticket_secrets, sizeof(t->ticket_secrets));
	OPENSSL_cleanse(t->ticket_keys, sizeof(t->ticket_keys));
	link_gcm_unload(t->lib);
	OSSL_LIB_CTX_free(t->lib);
	free(t);
}
