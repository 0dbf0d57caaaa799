/*
 * One-sided memory: read, write and change a peer's memory without waking it. docs/design/rdma.md is the contract; this is its
 * interface, the same over every backend (verbs.h, served.h, fake.h), each of which has a call of its own that makes a struct remote.
 *
 * Use: a domain for each peer; regions in it; a connection, made by both ends with the same token; exports on a connection, whose
 * keys travel to the peer by other means (the TLS session); operations with the keys that the peer sent. Whatever happens is told by
 * remote_poll().
 *
 * Threads: a struct remote and all that belongs to it are one thread's. Nothing here blocks, but registering and making void, which
 * ask the kernel.
 * Ownership: a remote owns its domains, a domain its regions and connections, a connection its exports. What is freed takes along what
 * it owns.
 * Memory: none is taken by remote_post() and remote_poll().
 * Trust: keys, immediates and the content of exported memory are the peer's: hostile.
 * Errors: negative errno for what is wrong with a call; REMOTE_E_*: conditions that the caller handles; enum remote_status: how
 * something ended that was under way.
 * Time: nanoseconds of the backend's clock (remote_now_ns()), CLOCK_MONOTONIC but for the fake's.
 */
#ifndef RDMA_REMOTE_H
#define RDMA_REMOTE_H

#include "base/limits.h"
#include "base/util.h"

enum { REMOTE_E_FULL = 1, REMOTE_E_READY = 2 };

enum remote_status {
	REMOTE_OK,
	/* The far side refused an access, told apart where caps.tells_why; REMOTE_ACCESS where not. */
	REMOTE_BAD_KEY,
	REMOTE_BOUNDS,
	REMOTE_NO_RIGHT,
	REMOTE_REVOKED,
	REMOTE_OTHER_DOMAIN,
	REMOTE_ACCESS,
	REMOTE_PEER_GONE, /* closed the connection, died, or stopped acknowledging */
	REMOTE_TIMEOUT,	  /* a time of ours ran out */
	REMOTE_FLUSHED,	  /* behind what failed: may have taken effect or not */
	REMOTE_REFUSED,	  /* a connection: nobody expected that token */
	REMOTE_OFFENCE,	  /* a connection: the peer tried an access here that was refused, or broke a rule of a layer above */
	REMOTE_BROKEN,	  /* anything else: the device failed, or frames broke the rules */
	REMOTE_STATUS_N,
};

/* Of an export. Read, read and atomic, or write: nothing else. */
enum remote_right { REMOTE_MAY_READ = 1 << 0, REMOTE_MAY_WRITE = 1 << 1, REMOTE_MAY_ATOMIC = 1 << 2 };

enum { REMOTE_TOKEN_SIZE = 32, REMOTE_KEY_SIZE = 24 };

struct remote;
struct remote_domain;
struct remote_region;
struct remote_conn;
struct remote_export;

/* What a backend on this machine can do. Constant while it is open. */
struct remote_caps {
	const char *backend; /* "verbs", "served", "fake" */
	char device[64];     /* for people: "rxe0"; "" if there is none */
	bool atomics;	     /* compare-and-swap, fetch-and-add */
	bool windows;	     /* exports cost no registration */
	bool ordered;	     /* a WRITE's bytes become visible in increasing order, and those of earlier operations before */
	bool tells_why;	     /* access errors come told apart */
	uint32_t inline_max; /* bytes of a WRITE that are copied when it is posted: its memory is free again at once */
};

/* A key as it travels, checked for nothing but its form: hostile. */
struct remote_key {
	uint64_t base;
	uint64_t size; /* bytes */
	uint32_t key;
	uint32_t rights;
};

enum remote_op_kind {
	REMOTE_READ,
	REMOTE_WRITE,
	REMOTE_WRITE_IMM,
	REMOTE_SWAP, /* if the 8 bytes are @compare, they become @value; the old ones come back either way */
	REMOTE_ADD,  /* @value is added; the old 8 bytes come back */
	REMOTE_BEAT, /* remote.c's own: a WRITE of nothing, to see whether the peer is there */
	REMOTE_OP_N,
};

enum { REMOTE_SIGNALLED = 1 << 0 };

struct remote_op {
	enum remote_op_kind kind;
	uint32_t flags;
	struct remote_region *region; /* local memory: borrowed until the operation has completed (or was inline) */
	uint64_t at;		      /* offset in it; 8-byte aligned for SWAP and ADD */
	uint32_t size;		      /* bytes; SWAP and ADD: 8; may be 0 for WRITE_IMM */
	struct remote_key key;	      /* the peer's */
	uint64_t offset;	      /* from key.base. Not held against key.size here: that is the far side's */
	uint32_t imm;
	uint64_t compare, value;
	uint64_t id; /* comes back with the completion */
};

enum remote_done_kind {
	REMOTE_DONE_OP,	      /* a signalled operation, or any that failed: id, status */
	REMOTE_DONE_IMM,      /* the peer's WRITE with immediate: imm. It and all before it are in memory */
	REMOTE_DONE_UP,	      /* the connection can be used */
	REMOTE_DONE_DOWN,     /* it is over, and why: status. The last of this connection, which remote_close() frees */
	REMOTE_DONE_EXPORTED, /* status; REMOTE_OK: remote_export_key() may be told to the peer */
	REMOTE_DONE_REVOKED,  /* no access by it takes effect any more. @export is freed when the next remote_poll() begins */
};

struct remote_done {
	enum remote_done_kind kind;
	enum remote_status status;
	struct remote_conn *conn;
	struct remote_export *export; /* EXPORTED, REVOKED */
	uint64_t id;
	uint32_t imm;
};

/* remote_free() - NULL is harmless. */
void remote_free(struct remote *r);
const struct remote_caps *remote_caps(const struct remote *r);
uint64_t remote_now_ns(const struct remote *r);

/* remote_tally() - of all domains together: what there is now, and offences since it was opened. */
struct remote_tally {
	uint32_t n_conns, n_quarantined; /* connections in any state; domains */
	uint64_t pinned;		 /* bytes */
	uint64_t offences;
};
struct remote_tally remote_tally(const struct remote *r);

/*
 * remote_poll() - what has happened, oldest first; time passes here too. @dones: room for @n.
 * Return: how many; 0: nothing; -EIO: the device is gone, every connection is down.
 */
MUST_CHECK int remote_poll(struct remote *r, struct remote_done *dones, size_t n);

/*
 * remote_fd() - one descriptor that poll() finds readable when remote_poll() has something to do. Borrowed. -1: this backend has
 * none (served.h, fake.h say what to wait for).
 * remote_arm() - before sleeping on it. Return: 0: sleep; REMOTE_E_READY: do not, poll again; negative errno.
 */
int remote_fd(const struct remote *r);
MUST_CHECK int remote_arm(struct remote *r);

/* remote_due_ns() - remote_poll() has to be called by then, whatever happens; UINT64_MAX: never. For backends without a descriptor. */
uint64_t remote_due_ns(const struct remote *r);

/*
 * remote_domain_new() - what one peer may touch. @pinned_max: bytes of its regions together; 0: LIMIT_RDMA_PINNED_MIB.
 * Return: 0; -EMFILE: LIMIT_RDMA_DOMAINS; -ENOMEM; other negative errno: the device's.
 */
MUST_CHECK int remote_domain_new(struct remote_domain **ret, struct remote *r, uint64_t pinned_max);
void remote_domain_free(struct remote_domain *d);

/*
 * remote_domain_offence() - the peer broke a rule that a layer above saw (a record that does not open): the same as an access that
 * was refused. All the domain's connections go down with REMOTE_OFFENCE.
 * remote_domain_offences() - how many there were, with @reason or (REMOTE_STATUS_N) of all reasons.
 * remote_domain_quarantine_ns() - until when no connection is made; 0: now.
 */
void remote_domain_offence(struct remote_domain *d, enum remote_status reason);
uint64_t remote_domain_offences(const struct remote_domain *d, enum remote_status reason);
uint64_t remote_domain_quarantine_ns(const struct remote_domain *d);

/*
 * remote_register() - @size bytes at @memory for use in operations and exports. Borrowed until remote_unregister() has returned 0.
 * @rights: what exports of it may allow, any of enum remote_right.
 * Return: 0; -EDQUOT: over the domain's pinned bytes; -EMFILE: LIMIT_RDMA_REGIONS; -EINVAL; other negative errno: the device's
 * (-ENOMEM may be RLIMIT_MEMLOCK).
 * remote_unregister() - Return: 0; -EBUSY: exports of it are alive, or operations on it under way.
 */
MUST_CHECK int remote_register(struct remote_region **ret, struct remote_domain *d, void *memory, uint64_t size, uint32_t rights);
MUST_CHECK int remote_unregister(struct remote_region *g);
void *remote_region_memory(const struct remote_region *g);

/*
 * remote_expect(), remote_connect() - the two ends of one connection. REMOTE_DONE_UP or REMOTE_DONE_DOWN follows, within LIMIT_RDMA_CONNECT_MS.
 * @token: the same REMOTE_TOKEN_SIZE bytes on both ends, used once. @address: "10.0.0.2:7444" (verbs), another host's name (fake),
 * ignored (served).
 * Return: 0; -EACCES: the domain is in quarantine; -EMFILE: LIMIT_RDMA_CONNS; -EEXIST: that token is expected already; -EINVAL: the
 * address is none; -ENOMEM; other negative errno: the device's.
 */
MUST_CHECK int remote_expect(struct remote_conn **ret, struct remote_domain *d, const uint8_t *token);
MUST_CHECK int remote_connect(struct remote_conn **ret, struct remote_domain *d, const char *address, const uint8_t *token);

/*
 * remote_close() - at once, in any state; nothing more is told of it, but what an array that remote_poll() filled before says of it is
 * void: close when the array is worked off. Its exports are revoked when this returns. NULL is harmless.
 */
void remote_close(struct remote_conn *c);

struct remote_domain *remote_conn_domain(const struct remote_conn *c);
struct remote *remote_conn_remote(const struct remote_conn *c);
/* A pointer of the caller's, NULL at first. */
void remote_conn_set_user(struct remote_conn *c, void *user);
void *remote_conn_user(const struct remote_conn *c);

/*
 * remote_export() - rights for the peer of @c on @size bytes from @at of @g, of @c's domain. REMOTE_DONE_EXPORTED follows.
 * Return: 0; -EINVAL: bounds, or rights that the region does not have or that exclude each other; -ENOTCONN; -EMFILE:
 * LIMIT_RDMA_EXPORTS; REMOTE_E_FULL: no place in the queue now; -ENOMEM.
 * remote_revoke() - take them back. REMOTE_DONE_REVOKED follows. Once for each export; not before it was told as EXPORTED.
 * Return: 0; REMOTE_E_FULL; -EALREADY; -EINPROGRESS: not told yet.
 */
MUST_CHECK int remote_export(struct remote_export **ret, struct remote_conn *c, struct remote_region *g, uint64_t at, uint64_t size,
			     uint32_t rights);
MUST_CHECK int remote_revoke(struct remote_export *e);
const struct remote_key *remote_export_key(const struct remote_export *e);

/* remote_key_put(), remote_key_get() - the key as REMOTE_KEY_SIZE bytes. get: hostile input. Return: 0; -EPROTO: rights that no export has, or a size that wraps. */
void remote_key_put(uint8_t *to, const struct remote_key *key);
MUST_CHECK int remote_key_get(struct remote_key *ret, const uint8_t *from);

/*
 * remote_post() - hand over @n operations, in order, with one doorbell: all of them or none.
 * Return: 0; REMOTE_E_FULL: not so many places free (remote_room() says how many are); -ENOTCONN: not up; -EINVAL: local bounds, alignment,
 * size; -EOPNOTSUPP: no atomics here.
 */
MUST_CHECK int remote_post(struct remote_conn *c, const struct remote_op *ops, size_t n);
size_t remote_room(const struct remote_conn *c);

static inline bool remote_status_is_access(enum remote_status s)
{
	return s >= REMOTE_BAD_KEY && s <= REMOTE_ACCESS;
}

/* A constant, for logs and metrics: "no-right". */
const char *remote_status_name(enum remote_status s);

#endif
