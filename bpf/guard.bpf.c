/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 (the kernel takes LSM programs under the GPL only) */
/*
 * The kernel's check of direct lanes: runs inside every connect(2) to a Unix stream or seqpacket socket of the host, after
 * the kernel has found the listening socket and before the two are joined, under the listener's lock.
 *
 * It must stay out of everybody else's way: a listener whose inode is not in `servers` is left alone after one hash
 * lookup. For the others it finds the caller's workload, the nearest enrolled cgroup at or above the task's own, and asks
 * `grants`. It reads no byte of any path, so that links, mounts, descriptors of directories and O_PATH descriptors all lead
 * to the same answer: what counts is the inode that the listener was bound to, and the cgroup of who calls now.
 *
 * Kernel memory is read through typed pointers (no bpf_probe_read_kernel), which also works under
 * lockdown=confidentiality. Nothing here sleeps. Loops are bounded by GUARD_MAX_DEPTH and GUARD_MAX_GENERATIONS.
 *
 * The tables: guard_shared.h. Who fills them: src/guard/. What it promises: docs/design/guard.md.
 */
#include "vmlinux_min.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "guard_shared.h"

enum { EACCES = 13, NS_PER_S = 1000000000 };

char LICENSE[] SEC("license") = "GPL";

const volatile __u32 report_allowed = 0;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, GUARD_MAX_SERVERS);
	__type(key, struct guard_inode_key);
	__type(value, struct guard_server_value);
} servers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, GUARD_MAX_MEMBERS);
	__type(key, __u64);
	__type(value, struct guard_member_value);
} members SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, GUARD_MAX_GRANTS);
	__type(key, struct guard_grant_key);
	__type(value, struct guard_grant_value);
} grants SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} sealane_exmpt_1 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, GUARD_MAX_LANES);
	__type(key, __u64);
	__type(value, struct guard_lane_value);
} sealane_lanes_1 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, GUARD_MAX_BRAKES);
	__type(key, struct guard_brake_key);
	__type(value, struct guard_brake_value);
} brakes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, GUARD_TOTAL_N);
	__type(key, __u32);
	__type(value, __u64);
} totals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, GUARD_EVENTS_SIZE);
} sealane_event_1 SEC(".maps");

/* Why a connect passes; each is one way through judge(). */
enum verdict {
	DENIED,
	ALLOWED_GRANT,	/* the workload may: the only one that makes an event */
	ALLOWED_OWNER,	/* the workload that listens, talking to itself */
	ALLOWED_EXEMPT, /* the daemon */
	NOT_OURS,	/* the host's socket and one of the host's processes: as if we were not here */
};

/* One connect, as far as it is known. */
struct attempt {
	struct guard_inode_key server;
	__u64 workload_cgroup_id; /* 0: in no enrolled workload */
	__u32 wid;
	__u64 cookie;
};

static __always_inline void count(__u32 which)
{
	__u64 *n = bpf_map_lookup_elem(&totals, &which);

	if (n)
		(*n)++;
}

/* Abstract and unnamed listeners have no inode. The listener's lock is held, so its path cannot go away under us. */
static __always_inline int listener_inode(struct sock *listener, struct guard_inode_key *ret_key)
{
	struct unix_sock *u = bpf_skc_to_unix_sock(listener);
	struct dentry *dentry;
	struct inode *inode;

	if (!u)
		return 0;
	dentry = u->path.dentry;
	if (!dentry)
		return 0;
	inode = dentry->d_inode;
	if (!inode)
		return 0;
	ret_key->ino = inode->i_ino;
	ret_key->dev = inode->i_sb->s_dev;
	return 1;
}

/* From the root down, so that the last one found is the nearest to the task. */
static __always_inline void find_workload(struct attempt *a)
{
	for (int level = 1; level < GUARD_MAX_DEPTH; level++) {
		__u64 id = bpf_get_current_ancestor_cgroup_id(level);
		struct guard_member_value *m;

		if (!id)
			break; /* below the task's own level */
		m = bpf_map_lookup_elem(&members, &id);
		if (m) {
			a->wid = m->wid;
			a->workload_cgroup_id = id;
		}
	}
}

static __always_inline __u32 exempt_flags(struct task_struct *task)
{
	__u32 *flags = bpf_task_storage_get(&sealane_exmpt_1, task, 0, 0);

	return flags ? *flags : 0;
}

static __always_inline int is_exempt(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	if (exempt_flags(task) & GUARD_EXEMPT_SELF)
		return 1;
	for (int i = 0; i < GUARD_MAX_GENERATIONS; i++) {
		task = task->real_parent;
		if (!task)
			return 0;
		if (exempt_flags(task) & GUARD_EXEMPT_CHILDREN)
			return 1;
	}
	return 0;
}

/* The common cases first; the walk over parents only for those that would be refused otherwise. */
static __always_inline enum verdict judge(const struct guard_server_value *server, const struct attempt *a)
{
	if (a->wid != GUARD_NO_WID) {
		struct guard_grant_key key = { .sid = server->sid, .wid = a->wid };
		struct guard_grant_value *grant;

		if (a->wid == server->owner_wid)
			return ALLOWED_OWNER;
		grant = bpf_map_lookup_elem(&grants, &key);
		if (grant) {
			__sync_fetch_and_add(&grant->n_allowed, 1);
			return ALLOWED_GRANT;
		}
	} else if (server->owner_wid == GUARD_NO_WID) {
		return NOT_OURS;
	}
	return is_exempt() ? ALLOWED_EXEMPT : DENIED;
}

static __always_inline void record_lane(const struct attempt *a, enum verdict verdict)
{
	struct guard_lane_value lane = {
		.server = a->server,
		.workload_cgroup_id = a->workload_cgroup_id,
		.time_ns = bpf_ktime_get_ns(),
		.tgid = bpf_get_current_pid_tgid() >> 32,
		.exempt = verdict == ALLOWED_EXEMPT,
	};

	bpf_map_update_elem(&sealane_lanes_1, &a->cookie, &lane, BPF_ANY);
}

/*
 * One window a second for each workload and verdict. Two CPUs that race may let one event more through; the events say
 * how many were kept back before them, so none is lost from the sum unless the workload falls silent.
 */
static __always_inline int take_brake(const struct guard_brake_key *key, __u32 *ret_suppressed)
{
	struct guard_brake_value fresh = { .second = bpf_ktime_get_ns() / NS_PER_S, .n_reported = 1 };
	struct guard_brake_value *b = bpf_map_lookup_elem(&brakes, key);

	if (!b) {
		bpf_map_update_elem(&brakes, key, &fresh, BPF_ANY);
		return 1;
	}
	if (b->second != fresh.second) {
		b->second = fresh.second;
		b->n_reported = 0;
	}
	if (b->n_reported >= GUARD_EVENTS_PER_S) {
		__sync_fetch_and_add(&b->n_suppressed, 1);
		return 0;
	}
	__sync_fetch_and_add(&b->n_reported, 1);
	*ret_suppressed = __sync_lock_test_and_set(&b->n_suppressed, 0);
	return 1;
}

static __always_inline void report(const struct attempt *a, __u32 verdict)
{
	__u64 task_cgroup_id = bpf_get_current_cgroup_id();
	struct guard_brake_key key = { .cgroup_id = a->workload_cgroup_id ?: task_cgroup_id, .verdict = verdict };
	struct guard_event_record *e;
	__u32 n_suppressed = 0;

	if (!take_brake(&key, &n_suppressed))
		return;
	e = bpf_ringbuf_reserve(&sealane_event_1, sizeof(*e), 0);
	if (!e) {
		count(GUARD_TOTAL_LOST);
		return;
	}
	*e = (struct guard_event_record){
		.server = a->server,
		.workload_cgroup_id = a->workload_cgroup_id,
		.task_cgroup_id = task_cgroup_id,
		.cookie = a->cookie,
		.time_ns = bpf_ktime_get_ns(),
		.verdict = verdict,
		.tgid = bpf_get_current_pid_tgid() >> 32,
		.n_suppressed = n_suppressed,
	};
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	bpf_ringbuf_submit(e, 0);
}

static __always_inline int conclude(const struct attempt *a, enum verdict verdict)
{
	if (verdict == NOT_OURS)
		return 0;
	if (verdict == DENIED) {
		count(GUARD_TOTAL_DENIED);
		report(a, GUARD_RECORD_DENIED);
		return -EACCES;
	}
	count(GUARD_TOTAL_ALLOWED);
	record_lane(a, verdict);
	if (report_allowed && verdict == ALLOWED_GRANT)
		report(a, GUARD_RECORD_ALLOWED);
	return 0;
}

/* include/linux/lsm_hook_defs.h: unix_stream_connect(struct sock *sock, struct sock *other, struct sock *newsk) */
SEC("lsm/unix_stream_connect")
int BPF_PROG(guard_connect, struct sock *client, struct sock *listener, struct sock *newsk, int ret)
{
	struct attempt a = { .wid = GUARD_NO_WID };
	struct guard_server_value *server;

	if (ret)
		return ret; /* a program before us has refused */
	count(GUARD_TOTAL_SEEN);
	if (!listener_inode(listener, &a.server))
		return 0;
	server = bpf_map_lookup_elem(&servers, &a.server);
	if (!server)
		return 0;
	a.cookie = bpf_get_socket_cookie(client);
	find_workload(&a);
	return conclude(&a, judge(server, &a));
}
