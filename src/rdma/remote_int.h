/*
 * Between remote.c and the backends. remote.c owns the objects, their bounds, order, time-outs and what is told; a backend moves bytes.
 *
 * A backend's objects begin with these structs: it says how large its own are, remote.c makes and frees them (zeros at first).
 *
 * Each operation of a connection has a number, counted from 0 without end; the backend says up to which they are done. A connection's
 * states, as permissions:
 *   EXPECTED    the far side may come with the token. Left by remote_conn_up(), failure, close.
 *   CONNECTING  the backend tries. Left in the same ways.
 *   UP          operations, exports.
 *   OVER        nothing: backend->conn_end() was called, which ends all access by and to the peer. remote_close() frees it.
 */
#ifndef RDMA_REMOTE_INT_H
#define RDMA_REMOTE_INT_H

#include "rdma/remote.h"

#include <sys/queue.h>

enum remote_conn_state { REMOTE_EXPECTED, REMOTE_CONNECTING, REMOTE_UP, REMOTE_OVER };
enum remote_export_state { EXPORT_BINDING, EXPORT_LIVE, EXPORT_REVOKING, EXPORT_OVER };

struct remote_backend {
	size_t domain_size, region_size, conn_size, export_size;
	void (*free)(struct remote *r); /* also @r itself; all else is freed before */
	uint64_t (*now_ns)(const struct remote *r);
	/* Each *_begin: Return 0 or negative errno; then nothing is left behind. */
	int (*domain_begin)(struct remote_domain *d);
	void (*domain_end)(struct remote_domain *d);
	int (*region_begin)(struct remote_region *g);
	void (*region_end)(struct remote_region *g);
	int (*expect)(struct remote_conn *c);
	int (*connect)(struct remote_conn *c, const char *address);
	/* Once, before OVER; from its return on no access takes effect in either direction, and the backend says nothing of @c. */
	void (*conn_end)(struct remote_conn *c);
	/* @e has a key when remote_export_bound() is called, maybe before this returns. Return: 0; REMOTE_E_FULL; negative errno. */
	int (*bind)(struct remote_export *e);
	/* remote_export_unbound() follows, maybe before this returns. Return: 0; REMOTE_E_FULL. */
	int (*unbind)(struct remote_export *e);
	/* Memory that an export took, if any; the connection may be over. */
	void (*export_end)(struct remote_export *e);
	/* Numbers @first and up; all were checked, and there is room. remote_op_tells() says which of them have to complete by themselves. */
	void (*post)(struct remote_conn *c, const struct remote_op *ops, size_t n, uint64_t first);
	/* Look for what happened, and say it with the calls below. Return: 0; -EIO: the device is gone. */
	int (*poll)(struct remote *r);
	/* The caller took an immediate of @c: there is room for another. */
	void (*took_imm)(struct remote_conn *c);
	/* NULL: no descriptor. */
	int (*fd)(const struct remote *r);
	int (*arm)(struct remote *r);
};

/* An operation that was posted and is not done. */
struct remote_sent {
	uint64_t id;
	uint64_t posted_ns;
	struct remote_region *region;
	bool signalled; /* to the caller */
	bool tells;	/* by the device */
	bool beat;
};

struct remote {
	const struct remote_backend *backend;
	struct remote_caps caps;
	LIST_HEAD(, remote_domain) domains;
	LIST_HEAD(, remote_export) spent; /* to be freed by the next remote_poll() */
	unsigned n_domains, n_conns;
	uint64_t n_offences; /* of domains that have gone, too */
	struct remote_done *queue; /* owned: a ring; room for all that n_conns connections can have to tell */
	size_t queue_cap, queue_at, queue_n;
	uint64_t due_ns;
	bool gone; /* the device */
};

struct remote_domain {
	struct remote *remote;
	LIST_ENTRY(remote_domain) of_remote;
	LIST_HEAD(, remote_region) regions;
	LIST_HEAD(, remote_conn) conns;
	unsigned n_regions;
	uint64_t pinned_max, pinned;
	uint64_t n_offences[REMOTE_STATUS_N];
	uint64_t quarantine_ns; /* until */
	unsigned n_quarantines;
};

struct remote_region {
	struct remote_domain *domain;
	LIST_ENTRY(remote_region) of_domain;
	uint8_t *memory; /* borrowed */
	uint64_t size;
	uint32_t rights;
	unsigned n_exports; /* not over */
	unsigned n_busy;    /* operations under way */
};

struct remote_conn {
	enum remote_conn_state state;
	struct remote_domain *domain;
	LIST_ENTRY(remote_conn) of_domain;
	LIST_HEAD(, remote_export) exports;
	unsigned n_exports;
	uint8_t token[REMOTE_TOKEN_SIZE]; /* wiped when it was used */
	uint64_t deadline_ns;		  /* EXPECTED, CONNECTING */
	uint64_t heard_ns;
	struct remote_sent sent[LIMIT_RDMA_OPS];
	uint64_t first, next; /* the oldest operation that is not done; the next one's number */
	unsigned n_quiet;     /* posted since the last one that tells */
	unsigned n_imms, n_told; /* in the queue: immediates; operations */
	void *user;
};

struct remote_export {
	enum remote_export_state state;
	struct remote_conn *conn;
	LIST_ENTRY(remote_export) of_conn; /* or of remote.spent */
	struct remote_region *region;
	uint64_t at; /* in it */
	struct remote_key key; /* size and rights by remote.c, the rest by the backend */
};

/* remote_init() - what a backend's own opening ends with. @caps: copied. */
void remote_init(struct remote *r, const struct remote_backend *backend, const struct remote_caps *caps);

/* remote_conn_by_token() - whose EXPECTED connection is that? The token is used up. NULL: nobody's. Compares without telling by its time. */
struct remote_conn *remote_conn_by_token(struct remote *r, const uint8_t *token);

void remote_conn_up(struct remote_conn *c);

/* remote_conn_done() - all operations up to number @seq are done; @seq itself with @status. Any but REMOTE_OK ends the connection. */
void remote_conn_done(struct remote_conn *c, uint64_t seq, enum remote_status status);

/* remote_conn_imm() - an immediate came. Not when remote_conn_imm_room() is 0. */
void remote_conn_imm(struct remote_conn *c, uint32_t imm);

static inline unsigned remote_conn_imm_room(const struct remote_conn *c)
{
	return LIMIT_RDMA_RECVS - c->n_imms;
}

/* remote_conn_heard() - a sign of life that is none of the above. */
void remote_conn_heard(struct remote_conn *c);

/* remote_conn_fail() - it is over. Harmless if it was. */
void remote_conn_fail(struct remote_conn *c, enum remote_status status);

/* remote_conn_offended() - the peer tried an access of that kind here. */
void remote_conn_offended(struct remote_conn *c, enum remote_status reason);

void remote_export_bound(struct remote_export *e, enum remote_status status);
void remote_export_unbound(struct remote_export *e);

static inline bool remote_op_tells(const struct remote_conn *c, uint64_t seq)
{
	return c->sent[seq % LIMIT_RDMA_OPS].tells;
}

static inline struct remote *remote_of(const struct remote_conn *c)
{
	return c->domain->remote;
}

/* remote_due_by() - remote_poll() is to be called by @ns at the latest. */
static inline void remote_due_by(struct remote *r, uint64_t ns)
{
	if (ns < r->due_ns)
		r->due_ns = ns;
}

#endif
