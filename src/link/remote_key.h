/*
 * A private key that is somewhere else: an EVP_PKEY that OpenSSL takes for a certificate's own, and whose signatures are made
 * by a call of ours. So a linker speaks TLS for a service without ever having the service's key: the signer makes the
 * signature of each handshake (LS_SIGN).
 *
 * It goes wherever a private key does: SSL_CTX_use_PrivateKey(), after SSL_CTX_use_certificate() of the same key. It signs with
 * ECDSA over SHA-256 digests and does nothing else. Threads: as the call's.
 */
#ifndef LINK_REMOTE_KEY_H
#define LINK_REMOTE_KEY_H

#include "base/util.h"
#include "wire/role.h"

#include <openssl/evp.h>

/*
 * remote_key_sign - sign @digest with key @kid: DER into @ret. Called in the middle of a handshake, and answers at once: it may wait.
 * Return: the signature's size, or negative errno; then the handshake fails.
 */
typedef int remote_key_sign(void *arg, uint32_t kid, const uint8_t digest[32], uint8_t ret[SIGNATURE_SIZE]);

/*
 * remote_key_new() - the private key to @public_key (P-256; borrowed: it is copied), held by whoever @sign asks.
 * @arg: borrowed; must live as long as *ret and everything that refers to it (an SSL_CTX, an SSL).
 * @ret: owned by the caller, EVP_PKEY_free().
 * Return: 0; -EINVAL: no P-256 key; -ENOMEM.
 */
MUST_CHECK int remote_key_new(EVP_PKEY **ret, EVP_PKEY *public_key, remote_key_sign *sign, void *arg, uint32_t kid);

#endif
