#include "rdma/object.h"

int object_read_begin(struct object_read *o)
{
	struct remote_op op = {
		.kind = REMOTE_READ,
		.flags = REMOTE_SIGNALLED,
		.region = o->region,
		.at = o->at,
		.size = o->size,
		.key = o->key,
		.offset = o->offset,
		.id = o->id,
	};

	return remote_post(o->conn, &op, 1);
}

int object_read_done(struct object_read *o, const struct remote_done *done, struct seal_version *seen, void *plain, uint32_t plain_cap,
		     uint32_t *ret_size)
{
	const uint8_t *bytes = (const uint8_t *)remote_region_memory(o->region) + o->at;
	int r;

	if (done->status != REMOTE_OK) {
		o->n_tries = 0; /* on another connection it begins anew */
		return -ENOTCONN;
	}
	o->n_tries++;
	r = seal_object_open(o->objects, o->offset, bytes, o->size, seen, plain, plain_cap, ret_size);
	/* A torn header may name any size. */
	if ((r == SEAL_E_TORN || r == -EMSGSIZE) && o->n_tries < LIMIT_RDMA_READ_TRIES) {
		r = object_read_begin(o);
		return r == 0 ? OBJECT_E_AGAIN : r;
	}
	if (r == SEAL_E_TORN)
		r = -EBADMSG;
	else if (r == SEAL_E_OLD)
		r = -ESTALE;
	o->n_tries = 0; /* ready for the next one */
	return r;
}
