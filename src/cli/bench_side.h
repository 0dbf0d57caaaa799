/*
 * One end of `sealane bench rdma`: a TCP connection to the other end, one-sided memory over a device or served over a second TCP connection, and on
 * it what is measured: memory to read and to write, and a ring. Both ends are made of this; bench_rdma.c says who does what.
 *
 * Threads: one. Memory: all of it is taken before a measurement. Trust: all that comes from the other end is hostile; it may be anybody.
 * Errors: negative errno; why a connection ended is in @status. bench_side_free() frees all, in any state.
 */
#ifndef CLI_BENCH_SIDE_H
#define CLI_BENCH_SIDE_H

#include "cli/bench_wire.h"
#ifdef HAVE_SEAL
#include "rdma/ring_remote.h"
#endif

#include <sys/socket.h>

enum {
	BENCH_ADDRESS_SIZE = 80,
	BENCH_RING_LOG2 = 20,
	BENCH_SETUP_MS = 10 * 1000, /* for each message of the set-up; and the longest time in which nothing happens */
};

#define BENCH_SPIN_FOR_EVER UINT64_MAX

struct bench_side {
	bool is_client;
	struct remote *r;
	bool served;
	int control, data; /* TCP; data: only served, -1 else */
	struct remote_domain *domain;
	struct remote_conn *conn[BENCH_CONNS];
	unsigned n_up, n_exported;
	/* BENCH_MEMORY_SIZE each, owned, in one piece: to be read by the other end, to be written by it, for this end's own operations. */
	uint8_t *table, *inbox, *scratch;
	struct remote_region *table_region, *inbox_region, *scratch_region;
	struct remote_export *table_export, *inbox_export;
	struct bench_msg keys; /* the other end's */
	uint8_t secret[BENCH_SECRET_SIZE];
	struct ring_remote *ring[BENCH_RINGS]; /* by enum bench_ring; NULL in a build without OpenSSL */
	void *ring_memory[BENCH_RINGS];
	unsigned n_rings_ready;
	/* What has happened. */
	uint64_t done_id;	    /* of the last operation that completed */
	uint64_t n_imms;	    /* on BENCH_OPS */
	uint32_t imm;		    /* the last of them */
	bool over;		    /* a connection is */
	enum remote_status status;  /* and why */
	struct bench_msg msg;	    /* that came last, if has_msg */
	bool has_msg;
	uint8_t in[BENCH_MSG_SIZE]; /* a message whose rest has not come */
	size_t in_size;
	/* How it waits. */
	uint64_t spin_ns; /* look so long before sleeping */
	bool yields;	  /* both ends are on one CPU */
	uint64_t busy_ns; /* since when nothing happens; 0: it does */
	unsigned n_turns;
};

/* bench_side_init() - empty; all descriptors are -1. */
void bench_side_init(struct bench_side *s);
void bench_side_free(struct bench_side *s);

/*
 * bench_side_device() - the RDMA device that has the host of @address, with a listener there at *@port or one of the ports after it, which *@port becomes.
 * *ret_why: what is missing. Return: 0; a positive number: there is none; negative errno.
 */
MUST_CHECK int bench_side_device(struct bench_side *s, const struct sockaddr_storage *address, uint16_t *port, const char **ret_why);

/* bench_side_put() - a message to the other end. bench_side_take() - wait for one of that kind. Only while nothing is measured. Return: 0; -ECONNRESET, -ETIMEDOUT, -EPROTO ... */
MUST_CHECK int bench_side_put(struct bench_side *s, const struct bench_msg *m);
MUST_CHECK int bench_side_take(struct bench_side *s, enum bench_msg_kind kind, struct bench_msg *ret);

/* bench_side_join() - expect (@address: NULL) or make the connections of @tokens. Over @s->data where there is no device. Return: 0 or negative errno. */
MUST_CHECK int bench_side_join(struct bench_side *s, const char *address, uint8_t tokens[BENCH_CONNS][REMOTE_TOKEN_SIZE]);

/* bench_side_ready() - until the connections are up, what is exported is known to both, and the ring is there. Return: 0 or negative errno. */
MUST_CHECK int bench_side_ready(struct bench_side *s);

/*
 * bench_side_run() - once around: whatever came is noted in @s; sleeps if nothing has come for @s->spin_ns.
 * Return: 0; -ECONNRESET: the other end is gone; -ETIMEDOUT: nothing happens; -EPROTO; other negative errno.
 */
MUST_CHECK int bench_side_run(struct bench_side *s);

/* bench_side_post() - one operation on BENCH_OPS, as soon as there is room. Return: 0 or negative errno. */
MUST_CHECK int bench_side_post(struct bench_side *s, const struct remote_op *op);

#endif
