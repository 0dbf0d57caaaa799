/*
 * Sealing: AES-GCM over what one-sided operations carry, so that a link over them promises what a TLS link does. docs/design/rdma.md,
 * "Sealing", is the contract: keys, nonces, associated data, layout.
 *
 * A stream is one direction of one connection, at one of its ends: records in order, each once. Objects change in place and are read
 * whenever somebody likes. Neither knows how bytes travel.
 *
 * Threads: each of these structs belongs to one thread at a time. Memory: none is taken after *_new(), but for a reader of objects when an
 * epoch is new to it.
 * Errors: SEAL_E_*: conditions that the caller handles; -EBADMSG: a record that does not open; -EIO: OpenSSL failed, the struct
 * must not be used again.
 */
#ifndef RDMA_SEAL_H
#define RDMA_SEAL_H

#include "base/limits.h"
#include "base/util.h"

#include <openssl/crypto.h>

enum { SEAL_E_TORN = 1, SEAL_E_OLD = 2 };
enum { SEAL_SECRET_SIZE = 32, SEAL_TAG_SIZE = 16, SEAL_OBJECT_HEADER_SIZE = 16, SEAL_OBJECT_OVERHEAD = SEAL_OBJECT_HEADER_SIZE + SEAL_TAG_SIZE };

enum seal_cipher { SEAL_AES_128_GCM, SEAL_AES_256_GCM };

/* Where AES-GCM comes from. @libctx, @query: borrowed for as long as what is made with it lives; NULL: OpenSSL's own. */
struct seal_crypto {
	OSSL_LIB_CTX *libctx;
	const char *query; /* "?provider=sealane" */
	enum seal_cipher cipher;
};

struct seal_stream;
struct seal_objects;

/* How new an object is; {} is older than all. */
struct seal_version {
	uint32_t epoch;
	uint64_t sequence;
};

/* seal_token() - the token of connection @number of a session with that @secret. @ret: SEAL_SECRET_SIZE bytes. Return: 0 or -EIO. */
MUST_CHECK int seal_token(uint8_t *ret, const struct seal_crypto *crypto, const uint8_t *secret, uint64_t number);

/*
 * seal_stream_new() - @secret: SEAL_SECRET_SIZE bytes of the session's exporter; copied. @number: of the connection, used once in a session.
 * @direction: 0: from the TLS client; 1: from the server. @seals: this end seals; false: it opens.
 * Return: 0, -ENOMEM or -EIO.
 */
MUST_CHECK int seal_stream_new(struct seal_stream **ret, const struct seal_crypto *crypto, const uint8_t *secret, uint64_t number,
			       unsigned direction, bool seals);
void seal_stream_free(struct seal_stream *s);

/*
 * seal_record() - the next record. @to: @size + SEAL_TAG_SIZE bytes, which may not overlap @plain. @kind, @offset: what the reader has to
 * know to open it. Return: 0; -EIO.
 */
MUST_CHECK int seal_record(struct seal_stream *s, uint64_t offset, uint16_t kind, const void *plain, uint32_t size, void *to);

/*
 * seal_record_open() - the next record, of @size bytes with its tag. @sealed: may be written by others meanwhile: it is copied first. @plain:
 * @size - SEAL_TAG_SIZE bytes, not overlapping; zeros if it does not open. Return: 0; -EBADMSG, from then on always; -EIO.
 */
MUST_CHECK int seal_record_open(struct seal_stream *s, uint64_t offset, uint16_t kind, const void *sealed, uint32_t size, void *plain);

/* seal_record_retry() - the last -EBADMSG may have been a record that was not whole yet: it may be tried again. For who knows why. */
void seal_record_retry(struct seal_stream *s);

/* seal_stream_epoch() - for metrics and tests. */
uint32_t seal_stream_epoch(const struct seal_stream *s);

/* seal_stream_skip() - for tests: as if so many records and bytes of this epoch had passed, on both ends. */
void seal_stream_skip(struct seal_stream *s, uint64_t n_records, uint64_t bytes);

/*
 * seal_objects_new_writer() - makes the region's secret: @ret_secret, SEAL_SECRET_SIZE bytes for those who may read. Never from outside, since a secret
 * that serves twice is a nonce that serves twice. seal_objects_new_reader() - with the secret that the owner told.
 * @region: the number that both sides know the region by. Return: 0, -ENOMEM or -EIO.
 */
MUST_CHECK int seal_objects_new_writer(struct seal_objects **ret, const struct seal_crypto *crypto, uint64_t region, uint8_t *ret_secret);
MUST_CHECK int seal_objects_new_reader(struct seal_objects **ret, const struct seal_crypto *crypto, uint64_t region, const uint8_t *secret);
void seal_objects_free(struct seal_objects *o);

/*
 * seal_object_write() - a new version of what lies at @offset of the region. @place: there, @size + SEAL_OBJECT_OVERHEAD bytes; whoever reads it
 * meanwhile finds it torn. Return: 0; -EMSGSIZE: over LIMIT_SEAL_OBJECT_SIZE; -EIO.
 */
MUST_CHECK int seal_object_write(struct seal_objects *o, uint64_t offset, const void *plain, uint32_t size, void *place);

/*
 * seal_object_open() - @bytes: @size bytes as they were read from @offset of the region; hostile, but not changing any more. @seen: the oldest
 * version to take; becomes the one that was read. @plain: room for @plain_cap.
 * Return: 0 and *ret_size; SEAL_E_TORN: not whole, or not sealed by who has the secret; SEAL_E_OLD: older than @seen; -EMSGSIZE: larger than
 * @plain_cap; -EIO.
 */
MUST_CHECK int seal_object_open(struct seal_objects *o, uint64_t offset, const void *bytes, uint64_t size, struct seal_version *seen,
				void *plain, uint32_t plain_cap, uint32_t *ret_size);

#endif
