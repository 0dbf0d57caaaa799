/*
 * What a container's library and the daemon say to each other on RUN/control.sock, a SOCK_SEQPACKET socket in each workload's
 * directory: fixed-size messages, descriptors beside them.
 *
 * A client:   CTL_CONNECT + its region                    ->  CTL_OPEN + the server's region, a bell        or CTL_ERROR
 * A server:   CTL_LISTEN                                  ->  CTL_LISTENING                                 or CTL_ERROR
 *             then for each lane, on the same connection      CTL_OFFER + the client's region, a bell, a leash
 *             on the leash: CTL_ACCEPT + its region (or CTL_REJECT)
 *
 * The leash is what ties one end of a lane to the daemon for as long as it lives: for the client its connection, for the server the
 * socket that came with the offer. CTL_CUT on it ends the lane; its closing without that only says that the daemon is away, and
 * the lane goes on. Whoever closes its leash gives the lane up. Nothing is said on it; a linker (wire/role.h, BP_LEND) may say CTL_CUT,
 * which the daemon passes on, in its own words.
 *
 * Trust: the daemon treats all it reads as hostile until control_check() has returned 0, and regions until region_check() has.
 * The library treats the daemon as the one it must believe about who its peer is, yet checks what it reads the same way.
 * Layout: native byte order; both ends are on one host, but not built together, hence `version` and fixed sizes.
 */
#ifndef WIRE_CONTROL_H
#define WIRE_CONTROL_H

#include "base/limits.h"
#include "base/util.h"

enum {
	CONTROL_VERSION = 1,
	CONTROL_FDS = 3, /* the most that come with one message */
};

enum control_type {
	CTL_NONE,
	CTL_CONNECT,
	CTL_LISTEN,
	CTL_ACCEPT,
	CTL_REJECT,
	CTL_OPEN,
	CTL_LISTENING,
	CTL_OFFER,
	CTL_CUT,
	CTL_ERROR,
	CTL_TYPE_N
};

enum control_kind { CONTROL_STREAM, CONTROL_MESSAGES, CONTROL_FANOUT, CONTROL_KIND_N };

enum control_flag {
	CONTROL_SPINS = 1 << 0, /* this side never sleeps on the lane: it need not be woken */
	CONTROL_FLAGS_KNOWN = CONTROL_SPINS,
};

/* Who somebody is, in the daemon's words. */
struct control_identity {
	char service[LIMIT_SERVICE_SIZE];     /* "default/web" */
	char spiffe_id[LIMIT_SPIFFE_ID_SIZE]; /* "spiffe://td/ns/default/svc/web" */
	char workload[LIMIT_NAME_SIZE];
	char host[LIMIT_NAME_SIZE];
};

/* CTL_CONNECT, CTL_LISTEN (kind: which lanes it takes; cap_log2: 0) */
struct control_ask {
	uint32_t kind; /* enum control_kind */
	uint32_t flags;
	uint32_t cap_log2; /* of the region that comes with it */
	uint32_t pad;
	char service[LIMIT_SERVICE_SIZE]; /* "redis" (of the workload's own namespace) or "ns/redis" */
	char as[LIMIT_SERVICE_SIZE];	  /* CTL_CONNECT: which of the workload's services asks; "": the one that may */
};

/* CTL_OFFER, CTL_OPEN: the other side's end. CTL_ACCEPT: only flags and cap_log2 mean something. */
struct control_lane {
	uint64_t lane_id;
	uint32_t kind;
	uint32_t flags;
	uint32_t cap_log2;
	uint32_t pad;
	struct control_identity peer;
	char path[32]; /* how the bytes go: "shm" */
};

struct control_error {
	int32_t error; /* negative errno: -EACCES: no intention allows it; -ENOENT: no such service; -ECONNREFUSED: nobody listens; ... */
	uint32_t pad;
	char why[256]; /* one line for a person */
};

struct control_msg {
	uint32_t type; /* enum control_type */
	uint32_t version;
	union {
		struct control_ask ask;
		struct control_lane lane;
		struct control_error error; /* CTL_ERROR, CTL_CUT */
	} u;
};
static_assert(sizeof(struct control_msg) <= LIMIT_ROLE_MSG_SIZE, "fits the buffers");

/* control_msg_size() - the exact size of a message of this type; 0: unknown. */
size_t control_msg_size(uint32_t type);

/* control_n_fds() - how many descriptors come with it. */
size_t control_n_fds(uint32_t type);

/*
 * control_check() - known type, our version, exact size, as many descriptors as it must have, terminated strings, values in range?
 * Return: 0; -EBADMSG; -EPROTONOSUPPORT: another version.
 */
MUST_CHECK int control_check(const struct control_msg *m, size_t size, size_t n_fds);

/* control_send() - never blocks. @fds: borrowed. Return: 0; -EAGAIN: the peer does not read; other negative errno. */
MUST_CHECK int control_send(int sock, const struct control_msg *m, const int *fds);

/*
 * control_recv() - one message, checked. Never blocks.
 * @ret_fds: owned by the caller, CLOEXEC; those not sent are -1. Closed again when it fails.
 * Return: 1: a message; 0: the peer closed; -EAGAIN; -EBADMSG, -EPROTONOSUPPORT; other negative errno.
 */
MUST_CHECK int control_recv(int sock, struct control_msg *ret, int ret_fds[CONTROL_FDS]);

#endif
