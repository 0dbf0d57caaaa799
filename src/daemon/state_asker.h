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

/* state_has_askers() - has any host joined? Return: 0, 1 or negative errno. */
MUST_CHECK int state_has_askers(struct state_db *db);

enum state_time {
	STATE_TIME_LIST = 1,	/* a member: when the authority made the list that was taken last, by its clock */
	STATE_TIME_ROOT_SIGNS,	/* the authority: from when on the second root signs; the first one goes on to be trusted */
	STATE_TIME_ROOT_RETIRES, /* the authority: when the one that signed before is not trusted any more */
	STATE_TIME_END
};
/* state_put_time(), state_get_time() - Unix seconds; 0: never, or not known. */
MUST_CHECK int state_put_time(struct state_db *db, enum state_time which, int64_t unix_s);
MUST_CHECK int state_get_time(struct state_db *db, enum state_time which, int64_t *ret);

#endif
