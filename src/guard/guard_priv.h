/* What guard.c (life of the program) and guard_tables.c (what is told and heard) share. Nobody else includes this. */
#ifndef GUARD_GUARD_PRIV_H
#define GUARD_GUARD_PRIV_H

#include "guard/guard.h"

#include "guard_shared.h"

#include <sys/sysmacros.h>

/* The kernel's tables hold what the daemon may tell. */
static_assert((int)GUARD_MAX_SERVERS >= (int)LIMIT_SERVICES, "servers");
static_assert((int)GUARD_MAX_MEMBERS >= 2 * (int)LIMIT_WORKLOADS, "members");
static_assert((int)GUARD_MAX_GRANTS >= 2 * (int)LIMIT_UPSTREAMS, "grants");
static_assert((int)GUARD_MAX_DEPTH >= (int)LIMIT_CGROUP_DEPTH, "depth");
static_assert(GUARD_NO_WID == GUARD_NO_ID, "one way to say nobody");
static_assert((int)GUARD_RECORD_ALLOWED == (int)GUARD_VERDICT_ALLOWED &&
		      (int)GUARD_RECORD_DENIED == (int)GUARD_VERDICT_DENIED,
	      "verdicts cross over unchanged");

struct ring_buffer;
struct guard_bpf;

/* Which tables there are; their descriptors belong to the skeleton. */
struct guard_tables {
	int servers, members, grants, exempt, lanes, totals, events;
};

struct guard {
	struct guard_bpf *skel;
	struct guard_tables fd;
	struct ring_buffer *ring;
	int old_link; /* the predecessor's, until guard_settle() */
	/* The inode that each sid has in the kernel now (ino 0: none), so that a new one can replace it. */
	struct guard_inode_key servers[GUARD_MAX_SERVERS];
	uint64_t *totals_buf; /* one per possible CPU */
	size_t n_cpus;
	/* Of the guard_read_events() call in progress. */
	void (*event_fn)(void *arg, const struct guard_event *e);
	void *event_arg;
	size_t n_events;
};

/* guard_kernel_dev() - st_dev as the kernel keeps it in super_block.s_dev (include/linux/kdev_t.h: MKDEV). */
static inline uint32_t guard_kernel_dev(dev_t dev)
{
	return (uint32_t)major(dev) << 20 | ((uint32_t)minor(dev) & 0xfffff);
}

/* guard_tables_start() - make the ring's reader and the counters' buffer. */
MUST_CHECK int guard_tables_start(struct guard *g);
void guard_tables_stop(struct guard *g);

#endif
