/*
 * Two ends of TLS 1.3 in one process, over memory, for the test and the benchmark of the AES-GCM provider. Who they are is not looked
 * at: each server makes itself a certificate. Every failure ends the program.
 */
#ifndef LINK_TEST_PAIR_H
#define LINK_TEST_PAIR_H

#include "link/gcm.h"

#include <openssl/err.h>
#include <openssl/provider.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdio.h>

#define PAIR_QUERY "?provider=sealane"

static inline void pair_must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "%s failed\n", what);
	ERR_print_errors_fp(stderr);
	abort();
}

/* pair_libctx() - a context with the provider, or one with nothing but OpenSSL's own. */
static inline OSSL_LIB_CTX *pair_libctx(bool ours)
{
	OSSL_LIB_CTX *ctx = OSSL_LIB_CTX_new();
	const char *why;

	pair_must(ctx, "OSSL_LIB_CTX_new");
	if (ours)
		pair_must(link_gcm_load(ctx, &why) == 0, "link_gcm_load");
	return ctx;
}

static inline void pair_libctx_free(OSSL_LIB_CTX *ctx)
{
	link_gcm_unload(ctx);
	OSSL_LIB_CTX_free(ctx);
}

static inline void pair_certify(SSL_CTX *ctx, OSSL_LIB_CTX *libctx)
{
	EVP_PKEY *key = EVP_PKEY_Q_keygen(libctx, NULL, "EC", "P-256");
	X509 *cert = X509_new_ex(libctx, NULL);
	EVP_MD *sha256 = EVP_MD_fetch(libctx, "SHA256", NULL);

	pair_must(key && cert && sha256 && X509_set_version(cert, X509_VERSION_3) && X509_set_pubkey(cert, key) &&
			  X509_gmtime_adj(X509_getm_notBefore(cert), -60) && X509_gmtime_adj(X509_getm_notAfter(cert), 3600) &&
			  X509_sign(cert, key, sha256) > 0 && SSL_CTX_use_certificate(ctx, cert) == 1 &&
			  SSL_CTX_use_PrivateKey(ctx, key) == 1,
		  "the certificate");
	EVP_MD_free(sha256);
	X509_free(cert);
	EVP_PKEY_free(key);
}

static inline SSL *pair_end(OSSL_LIB_CTX *libctx, const char *suite, bool server)
{
	SSL_CTX *ctx = SSL_CTX_new_ex(libctx, PAIR_QUERY, server ? TLS_server_method() : TLS_client_method());
	SSL *ssl;

	pair_must(ctx && SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) == 1 && SSL_CTX_set_ciphersuites(ctx, suite) == 1, "SSL_CTX");
	SSL_CTX_set_verify(ctx, SSL_VERIFY_NONE, NULL);
	if (server)
		pair_certify(ctx, libctx);
	ssl = SSL_new(ctx);
	pair_must(ssl, "SSL_new");
	SSL_CTX_free(ctx);
	if (server)
		SSL_set_accept_state(ssl);
	else
		SSL_set_connect_state(ssl);
	return ssl;
}

/* pair_connect() - join @client and @server by buffers of @size bytes each way, and do the handshake. */
static inline void pair_connect(SSL *client, SSL *server, size_t size)
{
	BIO *a, *b;
	int done = 0;

	pair_must(BIO_new_bio_pair(&a, size, &b, size) == 1, "BIO_new_bio_pair");
	SSL_set_bio(client, a, a);
	SSL_set_bio(server, b, b);
	for (int i = 0; i < 20 && done != 2; i++)
		done = (SSL_do_handshake(client) == 1) + (SSL_do_handshake(server) == 1);
	pair_must(done == 2, "the handshake");
}

#endif
