/*
 * What survives a restart of the daemon: run-time intentions and enrolments, in one SQLite file (WAL, FULL) in the state
 * directory. The file's own intentions are not copied here.
 *
 * Blocks for one disk write (about 0.3 ms, research/mesh.md section 5); called only on a user's change.
 */
#ifndef DAEMON_STATE_H
#define DAEMON_STATE_H

#include "core/policy.h"

struct state_db;

struct state_enrolment {
	char workload[LIMIT_NAME_SIZE];
	struct service_name service; /* of a workload made at run time; empty name: the workload is configured */
	uint64_t cgroup_id;	     /* valid for boot_id only */
	char cgroup_path[LIMIT_PATH_SIZE];
	char container_id[128];
	char by[64];
};

/*
 * state_open() - open or make DIR/state.db, check and migrate its schema; forget enrolments of another boot.
 * @boot_id: /proc/sys/kernel/random/boot_id. @ret_why: 256 bytes, a line for people on failure.
 * Return: 0 or negative errno. A damaged file is -EBADMSG and is left alone (the daemon refuses to start and says so), one
 * of a newer sealane is -ENOTSUP, one that another daemon has open is -EBUSY (after 3 s). Trust: the file is hostile;
 * what state_each_*() hands out is checked.
 */
MUST_CHECK int state_open(struct state_db **ret_db, const char *dir, const char *boot_id, char *ret_why);
struct state_db *state_close(struct state_db *db);

/*
 * state_put_*() - add or replace. -EINVAL: it breaks the rules by which the file is read again; -ENOSPC: the disk or the
 * table (LIMIT_INTENTIONS, LIMIT_WORKLOADS) is full. state_delete_*() - 0 also when there was none. On failure nothing changed.
 */
MUST_CHECK int state_put_intention(struct state_db *db, const struct intention *i);
MUST_CHECK int state_delete_intention(struct state_db *db, const struct service_pattern *source,
				      const struct service_pattern *destination);
/* state_each_*() - stops at non-zero, returns it; negative errno on a database error. */
MUST_CHECK int state_each_intention(struct state_db *db, int (*fn)(void *arg, const struct intention *i), void *arg);

MUST_CHECK int state_put_enrolment(struct state_db *db, const struct state_enrolment *e);
MUST_CHECK int state_delete_enrolment(struct state_db *db, const char *workload);
MUST_CHECK int state_each_enrolment(struct state_db *db, int (*fn)(void *arg, const struct state_enrolment *e), void *arg);

#endif
