/*
 * Who may ask: on the authority, the key by which each host that joined signs its questions; on a member, how old the list is that it took
 * last (docs/design/link.md, "Joining, certificates, revocation"). Part of the state database: state.h says how long a write takes and what
 * the file may hold.
 */
#ifndef DAEMON_STATE_ASKER_H
#define DAEMON_STATE_ASKER_H

#include "daemon/state.h"
#include "wire/role.h"

struct state_asker {
	char host[LIMIT_NAME_SIZE];
	uint8_t key[KEY_POINT_SIZE]; /* it may be no point of the curve: then nothing is signed by it */
	int64_t since_unix_s;	     /* when it joined */
};

/* state_put_asker() - in place of the host's earlier one. -EINVAL: no host's name; -ENOSPC: the disk, or LIMIT_CA_ASKERS. */
MUST_CHECK int state_put_asker(struct state_db *db, const struct state_asker *a);
/* state_find_asker() - Return: 0; -ENOENT: the host has not joined; other negative errno. */
MUST_CHECK int state_find_asker(struct state_db *db, const char *host, struct state_asker *ret);

/* state_put_list_time(), state_list_time() - when the authority made the list that was taken last, by its clock; 0: none was taken. */
MUST_CHECK int state_put_list_time(struct state_db *db, int64_t made_unix_s);
MUST_CHECK int state_list_time(struct state_db *db, int64_t *ret);

#endif
