/*
 * The ring between two hosts: records of docs/design/ring.md, sealed, written into the peer's memory by one-sided WRITEs.
 * docs/design/rdma.md, "The ring over it", is the contract.
 *
 * Use, the same on both ends of a connection that is up: ring_remote_new(); when ring_remote_on_done() says RING_REMOTE_READY, ring_remote_key()
 * travels to the peer by other means, the peer's comes, ring_remote_start(). Then ring_remote_send() any number of times and ring_remote_flush()
 * once for all of them; ring_remote_receive() when on_done() says that there is something (or, polling, at any time).
 *
 * Threads: as the connection. Memory: none is taken after ring_remote_new().
 * Trust: the peer may write anything into its copy here, at any time; a forger on the network too. What is received was sealed by the
 * peer, is whole, and comes once and in order, or -EPROTO comes. With plain it is bytes that somebody wrote, of a size that a record can have.
 * Errors: RING_E_FULL, RING_E_EMPTY as ring.h; -EPROTO: the peer, or somebody on the way, broke the ring: its domain has an offence for it, the
 * connection is down; -ENOTCONN: the connection is over; -EIO: OpenSSL failed.
 */
#ifndef RDMA_RING_REMOTE_H
#define RDMA_RING_REMOTE_H

#include "rdma/remote.h"
#include "rdma/seal.h"
#include "shm/ring.h"

enum {
	RING_REMOTE_CAP_LOG2_MAX = 24, /* what one operation moves */
	RING_REMOTE_TAG_FIN = 255,     /* ours; users have the others */
};

enum ring_remote_event { RING_REMOTE_NOTHING, RING_REMOTE_READY, RING_REMOTE_DATA, RING_REMOTE_ROOM };

struct ring_remote;

struct ring_remote_options {
	struct remote_conn *conn; /* borrowed; up */
	/* ring_remote_memory_size() bytes, aligned to a page, all zeros; borrowed until ring_remote_free(). */
	void *memory;
	uint32_t cap_log2; /* SHM_CAP_LOG2_MIN to RING_REMOTE_CAP_LOG2_MAX; both ends say the same */
	struct seal_crypto crypto;
	const uint8_t *secret; /* of the session, and the connection's number in it: seal_stream_new() */
	uint64_t number;
	bool is_client; /* in the TLS session */
	/* Nothing is sealed: for a network that encrypts below. Who is on it may then write what is received, and read what is sent. Both ends say the same. */
	bool plain;
	bool polls;	/* neither end sends immediates; only where both have caps.ordered */
	uint64_t start; /* number of the first record: 0, and in tests something else, the same on both ends */
};

struct ring_remote_record {
	uint32_t size;
	uint8_t flags; /* RING_MORE; RING_FIN: the end, no bytes */
	uint8_t tag;
};

uint64_t ring_remote_memory_size(uint32_t cap_log2);

/* ring_remote_new() - Return: 0; -EINVAL: cap_log2, or polls where the device keeps no order, or with plain: nothing would tell a record that is not whole; else as remote_register(), remote_export(), seal_stream_new(). */
MUST_CHECK int ring_remote_new(struct ring_remote **ret, const struct ring_remote_options *o);

/* ring_remote_free() - after remote_close() of its connection. NULL is harmless. */
void ring_remote_free(struct ring_remote *g);

/*
 * ring_remote_on_done() - give it everything that is told of its connection. Return: what to do now, or -EPROTO.
 * READY: ring_remote_key(). DATA: receive until RING_E_EMPTY. ROOM: a flush or a send that was RING_E_FULL may go on; also flush then, once for
 * each, even if there is nothing to send.
 */
MUST_CHECK int ring_remote_on_done(struct ring_remote *g, const struct remote_done *done);

/* ring_remote_key() - what the peer's ring_remote_start() wants: REMOTE_KEY_SIZE bytes. */
void ring_remote_key(const struct ring_remote *g, uint8_t *to);

/* ring_remote_start() - @key: hostile. Return: 0; -EPROTO: no key for a ring of this size. */
MUST_CHECK int ring_remote_start(struct ring_remote *g, const uint8_t *key);

/* Bytes of one record's plaintext. */
uint32_t ring_remote_record_max(const struct ring_remote *g);

/*
 * ring_remote_send() - seal one record into the ring; it leaves with the next flush. @flags: 0 or RING_MORE. @tag: not RING_REMOTE_TAG_FIN.
 * Return: 0; RING_E_FULL; -EMSGSIZE; -EPROTO, -EIO.
 * ring_remote_send_fin() - the end of what this side sends; the last record.
 */
MUST_CHECK int ring_remote_send(struct ring_remote *g, uint8_t flags, uint8_t tag, const void *plain, uint32_t size);
MUST_CHECK int ring_remote_send_fin(struct ring_remote *g);

/* ring_remote_has_room() - would ring_remote_send() take @size bytes now? Return: 0; RING_E_FULL; -EMSGSIZE; -EPROTO. */
MUST_CHECK int ring_remote_has_room(struct ring_remote *g, uint32_t size);

/* ring_remote_flush() - hand everything over. Return: 0; RING_E_FULL: not all of it could go; again after ROOM or after completions; -ENOTCONN, -EPROTO. */
MUST_CHECK int ring_remote_flush(struct ring_remote *g);

/* ring_remote_receive() - the next record. @plain: room for @cap; ring_remote_record_max() is enough. Return: 0; RING_E_EMPTY; -EMSGSIZE: it stays; -EPROTO; -EIO. */
MUST_CHECK int ring_remote_receive(struct ring_remote *g, void *plain, uint32_t cap, struct ring_remote_record *ret);

#endif
