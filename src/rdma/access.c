#include "rdma/access.h"

void access_add(struct access_table *t, struct access_key *k, struct remote_export *e)
{
	k->export = e;
	LIST_INSERT_HEAD(&t->keys, k, of_table);
}

void access_remove(struct access_table *t, struct access_key *k)
{
	if (!k->export)
		return;
	LIST_REMOVE(k, of_table);
	t->revoked[t->n_revoked++ % ACCESS_REVOKED_KEPT] = k->export->key.key;
	k->export = NULL;
}

static const struct remote_export *by_key(const struct access_table *t, uint32_t key)
{
	const struct access_key *k;

	LIST_FOREACH(k, &t->keys, of_table)
		if (k->export->key.key == key)
			return k->export;
	return NULL;
}

bool access_has(const struct access_table *t, uint32_t key)
{
	return by_key(t, key) != NULL;
}

static bool was_revoked(const struct access_table *t, uint32_t key)
{
	for (unsigned i = 0; i < ACCESS_REVOKED_KEPT && i < t->n_revoked; i++)
		if (t->revoked[i] == key)
			return true;
	return false;
}

static uint32_t right_for(enum remote_op_kind kind)
{
	switch (kind) {
	case REMOTE_READ:
		return REMOTE_MAY_READ;
	case REMOTE_SWAP:
	case REMOTE_ADD:
		return REMOTE_MAY_ATOMIC;
	default:
		return REMOTE_MAY_WRITE;
	}
}

enum remote_status access_check(const struct access_table *t, const struct remote_conn *c, enum remote_op_kind kind, uint32_t key, uint64_t address,
				uint64_t size, uint8_t **ret)
{
	const struct remote_export *e = by_key(t, key);
	uint64_t at;

	if (!e)
		return was_revoked(t, key) ? REMOTE_REVOKED : REMOTE_BAD_KEY;
	if (e->conn->domain != c->domain)
		return REMOTE_OTHER_DOMAIN;
	if (t->windows && e->conn != c)
		return REMOTE_BAD_KEY;
	if (!(e->key.rights & right_for(kind)))
		return REMOTE_NO_RIGHT;
	at = address - e->key.base;
	if (at > e->key.size || size > e->key.size - at)
		return REMOTE_BOUNDS;
	*ret = e->region->memory + e->at + at;
	return REMOTE_OK;
}
