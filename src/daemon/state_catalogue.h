/*
 * What was known last of the cluster's catalogue (docs/design/catalogue.md), for a start without etcd. Part of the state database:
 * state.h says how long a write takes and what the file may hold.
 */
#ifndef DAEMON_STATE_CATALOGUE_H
#define DAEMON_STATE_CATALOGUE_H

#include "catalogue/entry.h"
#include "daemon/state.h"

/* Of which data it was. */
struct state_known {
	char prefix[LIMIT_ETCD_PREFIX_SIZE];
	uint64_t cluster_id, revision;
	struct entry_epoch epoch;
	int64_t heard_unix_s; /* when etcd was heard of last */
	int64_t reset_unix_s; /* since when etcd has other data, that nobody has accepted; 0: it has not */
};

struct state_change {
	const char *key;   /* below the prefix */
	const char *value; /* NULL: delete */
};

/* state_catalogue_known() - Return: 0; -ENOENT: nothing was ever known; other negative errno. */
MUST_CHECK int state_catalogue_known(struct state_db *db, struct state_known *ret);
/* state_catalogue_each() - what is kept; stops at non-zero, returns it. */
MUST_CHECK int state_catalogue_each(struct state_db *db, int (*fn)(void *arg, const char *key, const char *value), void *arg);
/* state_catalogue_write() - all of it or, on failure, nothing. -EINVAL: it would not be read again. */
MUST_CHECK int state_catalogue_write(struct state_db *db, const struct state_known *known, const struct state_change *changes, size_t n);
/* state_catalogue_forget() - as if nothing had ever been known. */
MUST_CHECK int state_catalogue_forget(struct state_db *db);

#endif
