/*
 * AES-GCM for TLS 1.3 where the CPU can do better than OpenSSL 3.0: an OpenSSL provider, "sealane", with AES-128-GCM and AES-256-GCM
 * made of Intel's multi-buffer library (VAES, AVX-512). Everything else stays with OpenSSL's own provider.
 *
 * Use: an OSSL_LIB_CTX of one's own, link_gcm_load(), then SSL_CTX_new_ex(ctx, "?provider=sealane", TLS_method()). The property
 * query is right in any case: where the provider is not loaded, OpenSSL's own cipher is taken.
 *
 * Only what TLS 1.3 does: a nonce of 12 bytes, a tag of 16, at most LIMIT_GCM_AAD_SIZE of associated data. TLS 1.2 does not work in
 * such a context. Nonces are the caller's (libssl counts records); the provider makes none, and refuses a second message under
 * one nonce. Nor does it count messages: who sends more than 2^24 full records under one key (RFC 8446, 5.5) has to say
 * SSL_key_update() in between; OpenSSL does not do it of itself.
 */
#ifndef LINK_GCM_H
#define LINK_GCM_H

#include "base/util.h"

#include <openssl/crypto.h>

enum { GCM_E_NOT_HERE = 1 };

/*
 * link_gcm_load() - load the provider into @ctx (borrowed), once; OpenSSL's own stays there beside it.
 * *ret_why: one line for people, a constant: what it is built on, or why it is not loaded.
 * Return: 0; GCM_E_NOT_HERE: it would not be faster here, or was not built, and @ctx is as it was; -ENOMEM: OpenSSL did not take it.
 * Threads: as OSSL_PROVIDER_load(); what it makes is used as any EVP_CIPHER_CTX.
 */
MUST_CHECK int link_gcm_load(OSSL_LIB_CTX *ctx, const char **ret_why);

/* link_gcm_unload() - after everything that uses @ctx, before OSSL_LIB_CTX_free(), which does not do it. Harmless if it is not loaded. */
void link_gcm_unload(OSSL_LIB_CTX *ctx);

#endif
