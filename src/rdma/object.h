/*
 * Reading a sealed object of a peer's by READ: one at a time for each struct object_read, again while it is torn, LIMIT_RDMA_READ_TRIES
 * times at most. Waiting is the caller's.
 *
 *   object_read_begin() -> REMOTE_DONE_OP with its id -> object_read_done(): 0, or again
 *
 * Threads: as the connection. Trust: what comes is hostile until it has opened.
 */
#ifndef RDMA_OBJECT_H
#define RDMA_OBJECT_H

#include "rdma/remote.h"
#include "rdma/seal.h"

enum { OBJECT_E_AGAIN = 16 }; /* none of the REMOTE_E_* */

struct object_read {
	/* By the caller; borrowed. */
	struct remote_conn *conn;
	struct seal_objects *objects;
	struct remote_region *region; /* where the sealed bytes go: @size bytes from @at, used by nobody else meanwhile */
	uint64_t at;
	struct remote_key key;
	uint64_t offset; /* of the object, from key.base; the same that it was sealed for */
	uint32_t size;	 /* that is read: at least the object with SEAL_OBJECT_OVERHEAD */
	uint64_t id;	 /* of its operations */
	/* Ours; zeros at first. */
	unsigned n_tries;
};

/* object_read_begin() - Return: 0: wait for REMOTE_DONE_OP; REMOTE_E_FULL: call it again when there is room; -EINVAL, -ENOTCONN: as remote_post(). */
MUST_CHECK int object_read_begin(struct object_read *o);

/*
 * object_read_done() - @done: of its operation. The other arguments are seal_object_open()'s.
 * Return: 0: @plain and *ret_size; OBJECT_E_AGAIN: it was torn, and was asked for again; REMOTE_E_FULL: it was torn, call object_read_begin();
 * -EBADMSG: torn each time; -ESTALE: older than @seen; -EMSGSIZE: larger than @plain_cap, each time; -ENOTCONN: the operation failed; -EIO: OpenSSL.
 */
MUST_CHECK int object_read_done(struct object_read *o, const struct remote_done *done, struct seal_version *seen, void *plain, uint32_t plain_cap,
				uint32_t *ret_size);

#endif
