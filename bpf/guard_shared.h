/*
 * The tables that the kernel program (guard.bpf.c) and src/guard/guard.c share, byte by byte.
 *
 *   map       kind                key                     value                  written by      read by
 *   servers   hash                guard_inode_key         guard_server_value     user            kernel, user
 *   members   hash                __u64 cgroup id         guard_member_value     user            kernel, user
 *   grants    hash                guard_grant_key         guard_grant_value      user, kernel+   kernel, user
 *   exempt    task storage        a pidfd                 __u32 GUARD_EXEMPT_*   user            kernel
 *   lanes     LRU hash            __u64 socket cookie     guard_lane_value       kernel, user++  user
 *   brakes    LRU hash            guard_brake_key         guard_brake_value      kernel          kernel
 *   totals    per-CPU array       __u32 GUARD_TOTAL_*     __u64                  kernel          user
 *   events    ring buffer         -                       guard_event_record     kernel          user
 *   + only its counter, by atomic add    ++ writes a value back unchanged, which keeps it from being forgotten
 *
 * Lanes, events and exempt outlive the daemon, and its numbering of servers and workloads. So they name a server by its
 * inode and a workload by its enrolled cgroup, which stay true until the next boot; user space translates. Their map names
 * (sealane_lanes_1, sealane_event_1, sealane_exmpt_1) end in the version of their layout: change both together, so that
 * no daemon reads its predecessor's records by the wrong layout.
 */
#ifndef BPF_GUARD_SHARED_H
#define BPF_GUARD_SHARED_H

#ifndef __bpf__
#include <assert.h>
#include <linux/types.h>
#else
#define static_assert _Static_assert
#endif

enum {
	GUARD_MAX_SERVERS = 8192,  /* LIMIT_SERVICES */
	GUARD_MAX_MEMBERS = 16384, /* LIMIT_WORKLOADS, and some cgroups for each */
	GUARD_MAX_GRANTS = 32768,  /* LIMIT_UPSTREAMS, twice: the old ones and the new ones during a reload */
	GUARD_MAX_LANES = 32768, /* three times the open connections that one host is built for; 3 MiB of kernel memory */
	GUARD_MAX_BRAKES = 4096,
	GUARD_EVENTS_SIZE = 256 << 10, /* some 2,700 events */
	/* Deepest cgroup that can be enrolled (LIMIT_CGROUP_DEPTH); tasks may sit deeper. */
	GUARD_MAX_DEPTH = 64,
	/* Generations between the checker and a command's last child: sh -c, env, timeout, the client; with room. */
	GUARD_MAX_GENERATIONS = 8,
	/* Reported events a second, for each workload and verdict: enough to see what goes on, too few to fill a log. */
	GUARD_EVENTS_PER_S = 10,
};

enum { GUARD_EXEMPT_SELF = 1, GUARD_EXEMPT_CHILDREN = 2 };
enum { GUARD_RECORD_ALLOWED = 1, GUARD_RECORD_DENIED = 2 };
enum { GUARD_TOTAL_SEEN, GUARD_TOTAL_ALLOWED, GUARD_TOTAL_DENIED, GUARD_TOTAL_LOST, GUARD_TOTAL_N };

#define GUARD_NO_WID 0xffffffffu

/* dev is the kernel's own encoding (MKDEV: major << 20 | minor), not st_dev; guard_kernel_dev() converts. */
struct guard_inode_key {
	__u64 ino;
	__u32 dev;
	__u32 zero; /* keys are compared byte by byte: no padding may hold anything */
};
static_assert(sizeof(struct guard_inode_key) == 16 && __builtin_offsetof(struct guard_inode_key, dev) == 8, "layout");

struct guard_server_value {
	__u32 sid;
	__u32 owner_wid; /* GUARD_NO_WID: the host's own socket, open to those in no workload */
};
static_assert(sizeof(struct guard_server_value) == 8, "layout");

struct guard_member_value {
	__u32 wid;
	__u32 zero;
};
static_assert(sizeof(struct guard_member_value) == 8, "layout");

struct guard_grant_key {
	__u32 sid;
	__u32 wid;
};
static_assert(sizeof(struct guard_grant_key) == 8, "layout");

struct guard_grant_value {
	__u64 n_allowed;
};
static_assert(sizeof(struct guard_grant_value) == 8, "layout");

struct guard_lane_value {
	struct guard_inode_key server;
	__u64 workload_cgroup_id; /* the enrolled cgroup; 0: none */
	__u64 time_ns;		  /* CLOCK_MONOTONIC */
	__u32 tgid;
	__u32 exempt;
};
static_assert(sizeof(struct guard_lane_value) == 40 && __builtin_offsetof(struct guard_lane_value, tgid) == 32, "layout");

struct guard_brake_key {
	__u64 cgroup_id; /* the workload's enrolled cgroup, else the task's own */
	__u64 verdict;
};
static_assert(sizeof(struct guard_brake_key) == 16, "layout");

struct guard_brake_value {
	__u64 second; /* CLOCK_MONOTONIC in s: the window that n_reported counts in */
	__u32 n_reported;
	__u32 n_suppressed;
};
static_assert(sizeof(struct guard_brake_value) == 16, "layout");

struct guard_event_record {
	struct guard_inode_key server;
	__u64 workload_cgroup_id; /* the enrolled cgroup; 0: none */
	__u64 task_cgroup_id;
	__u64 cookie;
	__u64 time_ns;
	__u32 verdict;
	__u32 tgid;
	__u32 n_suppressed;
	__u32 zero;
	char comm[16]; /* set by the task itself */
};
static_assert(sizeof(struct guard_event_record) == 80 && __builtin_offsetof(struct guard_event_record, comm) == 64, "layout");

#endif
