/* A build without libbpf, clang or bpftool: guard_open() says so, and nothing else can be reached without what it gives. */
#include "guard/guard.h"

#include <stdio.h>

int guard_open(struct guard **ret_g, const struct guard_options *o, char *ret_why)
{
	snprintf(ret_why, GUARD_WHY_SIZE, "this build has no kernel hook: build with libbpf, clang and bpftool installed");
	return -ENOSYS;
}

void guard_settle(struct guard *g)
{
}

struct guard *guard_close(struct guard *g)
{
	return NULL;
}

int guard_fd(const struct guard *g, enum guard_fd which)
{
	return -ENOSYS;
}

const char *guard_fd_name(enum guard_fd which)
{
	return "guard.none";
}

int guard_set_server(struct guard *g, uint32_t sid, uint32_t owner_wid, dev_t dev, ino_t ino)
{
	return -ENOSYS;
}

int guard_drop_server(struct guard *g, uint32_t sid)
{
	return -ENOSYS;
}

int guard_enrol(struct guard *g, uint64_t cgroup_id, uint32_t wid)
{
	return -ENOSYS;
}

int guard_unenrol(struct guard *g, uint64_t cgroup_id)
{
	return -ENOSYS;
}

int guard_grant(struct guard *g, uint32_t sid, uint32_t wid)
{
	return -ENOSYS;
}

int guard_revoke(struct guard *g, uint32_t sid, uint32_t wid)
{
	return -ENOSYS;
}

int guard_exempt(struct guard *g, int pidfd, bool children)
{
	return -ENOSYS;
}

int guard_event_fd(const struct guard *g)
{
	return -1;
}

int guard_read_events(struct guard *g, void (*fn)(void *arg, const struct guard_event *e), void *arg)
{
	return -ENOSYS;
}

int guard_find_lane(struct guard *g, uint64_t cookie, struct guard_lane *ret_lane)
{
	return -ENOSYS;
}

int guard_read_totals(struct guard *g, struct guard_totals *ret_totals)
{
	return -ENOSYS;
}

int guard_count_grant(struct guard *g, uint32_t sid, uint32_t wid, uint64_t *ret_n)
{
	return -ENOSYS;
}
