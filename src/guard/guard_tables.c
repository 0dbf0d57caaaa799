/*
 * What is told to the kernel program and heard from it: each call is one or a few bpf(2) map operations on the tables of
 * bpf/guard_shared.h. The kernel reads the tables without a lock, so each single operation takes effect at once and whole;
 * where two are needed, their order is chosen so that the moment between them refuses too much, never too little.
 *
 * Before this file: the warden's decisions (BW_SERVER, BW_ROUTE, BW_ENROL). After it: bpf/guard.bpf.c.
 */
#include "guard/guard_priv.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

static bool key_equal(const struct guard_inode_key *a, const struct guard_inode_key *b)
{
	return a->ino == b->ino && a->dev == b->dev;
}

static int delete_elem(int fd, const void *key)
{
	int r = bpf_map_delete_elem(fd, key);

	return r == -ENOENT ? 0 : r;
}

/* The inode of another server of ours, or free? Two services on one socket cannot be told apart by the kernel. */
static int check_inode_free(struct guard *g, uint32_t sid, const struct guard_inode_key *key)
{
	struct guard_server_value v;
	int r = bpf_map_lookup_elem(g->fd.servers, key, &v);

	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	return v.sid == sid ? 0 : -EEXIST;
}

int guard_set_server(struct guard *g, uint32_t sid, uint32_t owner_wid, dev_t dev, ino_t ino)
{
	struct guard_inode_key key = { .ino = ino, .dev = guard_kernel_dev(dev) };
	struct guard_server_value v = { .sid = sid, .owner_wid = owner_wid };
	int r;

	if (sid >= GUARD_MAX_SERVERS || ino == 0)
		return -EINVAL;
	r = check_inode_free(g, sid, &key);
	if (r < 0)
		return r;
	r = bpf_map_update_elem(g->fd.servers, &key, &v, BPF_ANY);
	if (r < 0)
		return r;
	/* The old inode goes last: while it is listed, whoever still holds a link to it is checked. */
	if (!key_equal(&g->servers[sid], &key)) {
		r = guard_drop_server(g, sid);
		g->servers[sid] = key;
	}
	return r;
}

int guard_drop_server(struct guard *g, uint32_t sid)
{
	struct guard_inode_key old;

	if (sid >= GUARD_MAX_SERVERS)
		return -EINVAL;
	old = g->servers[sid];
	g->servers[sid] = (struct guard_inode_key){ 0 };
	return old.ino ? delete_elem(g->fd.servers, &old) : 0;
}

int guard_enrol(struct guard *g, uint64_t cgroup_id, uint32_t wid)
{
	struct guard_member_value v = { .wid = wid };

	if (cgroup_id <= 1 || wid == GUARD_NO_ID) /* 1: the root, which everybody is in */
		return -EINVAL;
	return bpf_map_update_elem(g->fd.members, &cgroup_id, &v, BPF_ANY);
}

int guard_unenrol(struct guard *g, uint64_t cgroup_id)
{
	return delete_elem(g->fd.members, &cgroup_id);
}

int guard_grant(struct guard *g, uint32_t sid, uint32_t wid)
{
	struct guard_grant_key key = { .sid = sid, .wid = wid };
	struct guard_grant_value v = { 0 };
	int r;

	if (sid >= GUARD_MAX_SERVERS || wid == GUARD_NO_ID)
		return -EINVAL;
	r = bpf_map_update_elem(g->fd.grants, &key, &v, BPF_NOEXIST); /* keeps the count of one that is there */
	return r == -EEXIST ? 0 : r;
}

int guard_revoke(struct guard *g, uint32_t sid, uint32_t wid)
{
	struct guard_grant_key key = { .sid = sid, .wid = wid };

	return delete_elem(g->fd.grants, &key);
}

int guard_exempt(struct guard *g, int pidfd, bool children)
{
	uint32_t flags = GUARD_EXEMPT_SELF | (children ? GUARD_EXEMPT_CHILDREN : 0);

	return bpf_map_update_elem(g->fd.exempt, &pidfd, &flags, BPF_ANY);
}

/* In our numbering as it is now; the records speak of inodes and cgroups (guard_shared.h says why). */
static uint32_t sid_of(struct guard *g, const struct guard_inode_key *key)
{
	struct guard_server_value v;

	return bpf_map_lookup_elem(g->fd.servers, key, &v) == 0 ? v.sid : GUARD_NO_ID;
}

static uint32_t wid_of(struct guard *g, uint64_t cgroup_id)
{
	struct guard_member_value v;

	return cgroup_id && bpf_map_lookup_elem(g->fd.members, &cgroup_id, &v) == 0 ? v.wid : GUARD_NO_ID;
}

static int on_record(void *arg, void *data, size_t size)
{
	struct guard *g = arg;
	const struct guard_event_record *r = data;
	struct guard_event e;

	if (size != sizeof(*r) || (r->verdict != GUARD_RECORD_ALLOWED && r->verdict != GUARD_RECORD_DENIED))
		return 0; /* a predecessor of another version wrote it */
	e = (struct guard_event){
		.verdict = (enum guard_verdict)r->verdict,
		.sid = sid_of(g, &r->server),
		.wid = wid_of(g, r->workload_cgroup_id),
		.pid = r->tgid,
		.cgroup_id = r->task_cgroup_id,
		.cookie = r->cookie,
		.time_ns = r->time_ns,
		.n_suppressed = r->n_suppressed,
	};
	memcpy(e.comm, r->comm, sizeof(e.comm) - 1);
	g->event_fn(g->event_arg, &e);
	/* A negative return makes libbpf stop after this record, which counts as read. */
	return ++g->n_events < GUARD_EVENTS_PER_TURN ? 0 : -ECANCELED;
}

int guard_tables_start(struct guard *g)
{
	int n_cpus = libbpf_num_possible_cpus();

	if (n_cpus < 0)
		return n_cpus;
	g->n_cpus = (size_t)n_cpus;
	g->totals_buf = calloc(g->n_cpus, sizeof(*g->totals_buf));
	if (!g->totals_buf)
		return -ENOMEM;
	g->ring = ring_buffer__new(g->fd.events, on_record, g, NULL);
	return g->ring ? 0 : -errno;
}

void guard_tables_stop(struct guard *g)
{
	ring_buffer__free(g->ring);
	g->ring = NULL;
	free(take_ptr(g->totals_buf));
}

int guard_event_fd(const struct guard *g)
{
	return ring_buffer__epoll_fd(g->ring);
}

int guard_read_events(struct guard *g, void (*fn)(void *arg, const struct guard_event *e), void *arg)
{
	int r;

	g->event_fn = fn;
	g->event_arg = arg;
	g->n_events = 0;
	r = ring_buffer__consume(g->ring);
	return r < 0 && r != -ECANCELED ? r : (int)g->n_events;
}

int guard_find_lane(struct guard *g, uint64_t cookie, struct guard_lane *ret_lane)
{
	struct guard_lane_value v;
	int r = bpf_map_lookup_elem(g->fd.lanes, &cookie, &v);

	if (r < 0)
		return r;
	/* The kernel forgets what was written longest ago, and reading does not count: without this a long-lived lane would
	 * be pushed out by many short ones. Best effort: it may have been forgotten between the two calls. */
	r = bpf_map_update_elem(g->fd.lanes, &cookie, &v, BPF_EXIST);
	if (r < 0 && r != -ENOENT)
		return r;
	*ret_lane = (struct guard_lane){
		.sid = sid_of(g, &v.server),
		.wid = wid_of(g, v.workload_cgroup_id),
		.exempt = v.exempt != 0,
		.pid = v.tgid,
		.cgroup_id = v.workload_cgroup_id,
		.time_ns = v.time_ns,
	};
	return 0;
}

static int read_total(struct guard *g, uint32_t which, uint64_t *ret_n)
{
	uint64_t n = 0;
	int r = bpf_map_lookup_elem(g->fd.totals, &which, g->totals_buf);

	if (r < 0)
		return r;
	for (size_t i = 0; i < g->n_cpus; i++)
		n += g->totals_buf[i];
	*ret_n = n;
	return 0;
}

int guard_read_totals(struct guard *g, struct guard_totals *ret_totals)
{
	uint64_t n[GUARD_TOTAL_N];

	for (uint32_t i = 0; i < GUARD_TOTAL_N; i++) {
		int r = read_total(g, i, &n[i]);

		if (r < 0)
			return r;
	}
	*ret_totals = (struct guard_totals){
		.n_seen = n[GUARD_TOTAL_SEEN],
		.n_allowed = n[GUARD_TOTAL_ALLOWED],
		.n_denied = n[GUARD_TOTAL_DENIED],
		.n_events_lost = n[GUARD_TOTAL_LOST],
	};
	return 0;
}

int guard_count_grant(struct guard *g, uint32_t sid, uint32_t wid, uint64_t *ret_n)
{
	struct guard_grant_key key = { .sid = sid, .wid = wid };
	struct guard_grant_value v;
	int r = bpf_map_lookup_elem(g->fd.grants, &key, &v);

	if (r < 0)
		return r;
	*ret_n = v.n_allowed;
	return 0;
}
