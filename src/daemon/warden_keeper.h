/*
 * The warden's side of the keeper: what it holds for us, and what it is given.
 * Threads: one. Errors: 0 or negative errno.
 */
#ifndef DAEMON_WARDEN_KEEPER_H
#define DAEMON_WARDEN_KEEPER_H

#include "base/chan.h"
#include "wire/role.h"

#include <uthash.h>

/* A descriptor by its name. */
struct kept {
	int fd;
	UT_hash_handle hh;
	char name[];
};

/* kept_put() - into a table, in the place of what had that name. @fd is taken. Return: 0; -ENOMEM. */
MUST_CHECK int kept_put(struct kept **table, const char *name, int fd);
/* kept_remove() - close it and forget its name; nothing happens if there is none. */
void kept_remove(struct kept **table, const char *name);

struct keeper_link {
	struct chan chan;
	struct kept *kept; /* what it held when we came, not yet taken */
};

/* keeper_connect() - to a keeper that runs already. -ECONNREFUSED, -ENOENT: there is none. */
MUST_CHECK int keeper_connect(struct keeper_link *k, int run_fd);

/* keeper_listen() - the listening socket for a new keeper, at RUN/keeper.sock, 0600. Owned by the caller. */
MUST_CHECK int keeper_listen(int run_fd);

/* keeper_fetch() - read all that it holds. Blocks for as long as that takes, at most 10 s. */
MUST_CHECK int keeper_fetch(struct keeper_link *k);

/* keeper_take() - a descriptor that was fetched, now the caller's; -1: there is none by that name. */
int keeper_take(struct keeper_link *k, const char *name);

/* keeper_claim() - move all whose names begin with @prefix to @table, where those already known win. Return: 0; -ENOMEM. */
MUST_CHECK int keeper_claim(struct keeper_link *k, const char *prefix, struct kept **table);

MUST_CHECK int keeper_store(struct keeper_link *k, const char *name, int fd);
MUST_CHECK int keeper_drop(struct keeper_link *k, const char *name);
MUST_CHECK int keeper_set_grace(struct keeper_link *k, uint32_t grace_ms);

/* keeper_drop_rest() - what nobody took is not needed any more. */
void keeper_drop_rest(struct keeper_link *k);
void keeper_close(struct keeper_link *k);

#endif
