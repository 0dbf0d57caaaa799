/*
 * Workloads' cgroups: which are enrolled, which workload a cgroup lies in, and when one is empty or gone.
 *
 * Ownership: struct cgroups owns its table and descriptors. Threads: one. Blocking: never (kernfs).
 * Errors: 0 or negative errno, with a line for people in @why (WARDEN_WHY_SIZE bytes).
 */
#ifndef DAEMON_WARDEN_CGROUP_H
#define DAEMON_WARDEN_CGROUP_H

#include "daemon/warden_path.h"
#include "wire/role.h"

#include <event2/event.h>
#include <uthash.h>

struct cgroup {
	uint64_t id;
	uint32_t wid;
	int fd; /* its directory: keeps the id from being given to another cgroup */
	int wd; /* inotify's number of its cgroup.events */
	bool was_populated;
	uint64_t empty_since_ns; /* 0: not empty */
	char *path;
	uint64_t *ancestors; /* ids of those above it, the root last; they cannot change: cgroups do not move */
	size_t n_ancestors;
	UT_hash_handle hh;
};

struct cgroups {
	int mount_fd;
	char mount[LIMIT_PATH_SIZE];
	struct cgroup *table; /* by id */
	struct event_base *base;
	int inotify_fd;
	struct event *on_change, *settle, *tick;
	/* A workload's cgroup is empty or removed; it is forgotten when this returns. */
	void (*on_gone)(void *arg, const struct cgroup *c);
	void *arg;
};

/* cgroups_open() - find where cgroup2 is mounted. -ENOENT: nowhere. */
MUST_CHECK int cgroups_open(struct cgroups *g, struct event_base *base);
void cgroups_close(struct cgroups *g);

/* cgroups_enrol() - @m by id, path, or container ("*ID": -ENOENT none yet, -ENOTUNIQ more than one). The same again is fine. On success fills *ret_c, borrowed. */
MUST_CHECK int cgroups_enrol(struct cgroups *g, const struct role_cgroup *m, const struct cgroup **ret_c, char *why);
MUST_CHECK int cgroups_unenrol(struct cgroups *g, const struct role_cgroup *m, char *why);
/* cgroups_is_empty() - it ran something and nothing runs there now, or it was removed, or it is not enrolled. */
bool cgroups_is_empty(struct cgroups *g, uint64_t id);
/* cgroups_forget_workload() - all of them. */
void cgroups_forget_workload(struct cgroups *g, uint32_t wid);

/*
 * cgroups_resolve() - the workload whose cgroup is @id or the nearest enrolled one above it. -ENOENT: none.
 * @ret_path: LIMIT_PATH_SIZE, of @id itself.
 */
MUST_CHECK int cgroups_resolve(struct cgroups *g, uint64_t id, uint32_t *ret_wid, char *ret_path, char *why);

bool cgroups_has_workload(const struct cgroups *g, uint32_t wid);

/*
 * cgroups_each_pid() - every process in the cgroup and all below it. Stops when @fn returns non-zero, and returns
 * that.
 */
int cgroups_each_pid(const struct cgroups *g, const struct cgroup *c, int (*fn)(void *arg, pid_t pid), void *arg);
/* cgroups_each_pid_of() - the same, by any cgroup's id. */
int cgroups_each_pid_of(const struct cgroups *g, uint64_t id, int (*fn)(void *arg, pid_t pid), void *arg);

#endif
