/*
 * The check that a device makes, where there is none: which export a key means, and whether an access by it is allowed. For served.c and fake.c.
 *
 * Threads: one. Trust: key, address and size are the peer's.
 */
#ifndef RDMA_ACCESS_H
#define RDMA_ACCESS_H

#include "rdma/remote_int.h"

enum { ACCESS_REVOKED_KEPT = 64 };

/* One export that is live. Lies in the backend's export. */
struct access_key {
	LIST_ENTRY(access_key) of_table;
	struct remote_export *export; /* its key and base are set; NULL: not in a table */
};

struct access_table {
	LIST_HEAD(, access_key) keys;
	uint32_t revoked[ACCESS_REVOKED_KEPT]; /* the last keys that were made void: only to tell why */
	unsigned n_revoked;
	bool windows; /* a key is good on its own connection only */
};

void access_add(struct access_table *t, struct access_key *k, struct remote_export *e);
/* access_remove() - harmless if it is not in. */
void access_remove(struct access_table *t, struct access_key *k);
bool access_has(const struct access_table *t, uint32_t key);

/*
 * access_check() - may the peer of @c do @kind to @size bytes at @address by @key?
 * Return: REMOTE_OK and where that is; or why not. A size of 0 needs no key and is not to be asked for.
 */
enum remote_status access_check(const struct access_table *t, const struct remote_conn *c, enum remote_op_kind kind, uint32_t key, uint64_t address,
				uint64_t size, uint8_t **ret);

#endif
