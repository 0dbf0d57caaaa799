/*
 * Which way a lane takes, and whether one more may be opened: pure decisions over what the policy said and what the host
 * can do. The broker calls these, acts on the answer and prints the reason; `sealane explain` prints the same reason.
 */
#ifndef CORE_LANE_H
#define CORE_LANE_H

#include "core/bucket.h"
#include "core/policy.h"

/*
 * What a workload's socket file leads to. States as permissions:
 *
 *   ROUTE_REFUSE  the gate accepts, logs who asked and which intention decided, and closes. No byte passes.
 *   ROUTE_RELAY   the gate accepts and checks each connection, and carries its bytes.
 *   ROUTE_DIRECT  the name is the server's own socket; the kernel connects the two. The daemon sees such lanes by scanning,
 *                 and cuts them from outside.
 *   ROUTE_LINK    the gate accepts and checks each connection, and gives it to a linker, which carries its bytes to another host.
 */
enum route { ROUTE_REFUSE, ROUTE_RELAY, ROUTE_DIRECT, ROUTE_LINK, ROUTE_N };

/* What other hosts are known to have of one service. */
enum route_elsewhere {
	ELSEWHERE_NONE,	 /* every host that is known has told what it offers, and this is not of it; or there is no other host */
	ELSEWHERE_MAYBE, /* some host has not told yet, or has it but not up, or cannot be reached now */
	ELSEWHERE_UP,
	ELSEWHERE_N
};

/* What the host can do for one upstream at this moment. */
struct route_facts {
	bool server_known;    /* some service of this name is configured on this host */
	bool server_up;	      /* its socket is there and listens */
	bool linkable;	      /* the server's inode can be linked into the client's directory */
	bool mode_wanted;     /* the upstream asks for a mode or owner of its own that the server's inode does not have */
	bool direct_disabled; /* by configuration (direct = off) */
	bool draining;	      /* the client's workload is being drained */
	bool server_draining; /* the server's workload is: as if it were not here, for whoever can go elsewhere */
	enum route_elsewhere elsewhere;
};

struct route_choice {
	enum route route;
	const struct intention *intention; /* borrowed; NULL: default deny */
	const char *why;		   /* a literal: one line for people, "allowed, and the server's socket can be linked" */
};

/* route_choose() - never fails. @intention: from policy_decide(). */
struct route_choice route_choose(const struct intention *intention, const struct route_facts *facts);

const char *route_name(enum route r);

/* What an intention's limits have in use, per (source, destination) pair. */
struct lane_quota {
	uint32_t n_open;
	struct bucket connections;
};

enum { QUOTA_E_OPEN_LANES = 1, QUOTA_E_CONNECTIONS = 2 };

/*
 * lane_quota_admit() - may one more lane be opened? If so it is counted.
 * Return: 0; QUOTA_E_OPEN_LANES; QUOTA_E_CONNECTIONS (rate).
 */
MUST_CHECK int lane_quota_admit(struct lane_quota *q, const struct intention_limits *limits, uint64_t now_ns);

/* lane_quota_adopt() - count a lane that is open already, whatever the limits say now. */
void lane_quota_adopt(struct lane_quota *q);

/* lane_quota_release() - a lane that was admitted has ended. */
void lane_quota_release(struct lane_quota *q);

#endif
