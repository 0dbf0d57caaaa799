/*
 * The porter's table of connections: slots with generations, and the map from lane ids to slots. All memory but what a lane
 * needs until it is open (struct porter_pending) is taken at the start.
 */
#ifndef DAEMON_PORTER_TABLE_H
#define DAEMON_PORTER_TABLE_H

#include "daemon/gate_table.h"
#include "daemon/identity.h"
#include "wire/role.h"

#include <sys/queue.h>

/*
 * States of a slot, as permissions:
 *   FREE      nothing may touch it. Left by porter_table_take().
 *   NEW       a connection whose first message is awaited; it is on the list of deadlines.
 *             Left by that message (-> ASKED), by the deadline and a hang-up (-> FREE).
 *   ASKED     the broker's answer is awaited; the client's region is held and checked. Nothing more may come from the peer.
 *             Left by BP_OFFER (-> QUEUED), BP_LISTENING (-> LISTENER), BP_REFUSE and a hang-up (-> FREE).
 *   LISTENER  takes offers; others find it by its cid alone, so it may go at any time.
 *   LENT      the client's end is a linker's (BP_LEND): its CTL_CONNECT is awaited, until the deadline. The lane has its name.
 *             Left by that message (-> QUEUED) and by whatever ends a lane (-> FREE).
 *   QUEUED    a lane that waits for room at its listener: on the listener's queue and the list of deadlines.
 *             Left by porter_lane_offer_next() (-> OFFERED) and by whatever ends a lane (-> FREE).
 *   OFFERED   CTL_OFFER was sent: the server's answer on the leash is awaited until the deadline; a linker's (BP_LEND) until the
 *             broker's word, and it is on no list.
 *             Left by CTL_ACCEPT (-> OPEN) and by whatever ends a lane (-> FREE).
 *   OPEN      both ends have all they need; only the leashes are watched. Adopted lanes begin here.
 *             Left when one side gives it up and by BP_CUT (-> FREE).
 */
enum porter_state { PORTER_FREE, PORTER_NEW, PORTER_ASKED, PORTER_LISTENER, PORTER_LENT, PORTER_QUEUED, PORTER_OFFERED, PORTER_OPEN };

enum porter_side { PORTER_CLIENT, PORTER_SERVER, PORTER_N_SIDES };

/* What is needed until a lane is open. */
struct porter_pending {
	struct control_identity client, server;
	char path[sizeof(((struct control_lane *)0)->path)]; /* what the two are told */
	int bell; /* the client's end, owned; -1 */
};

TAILQ_HEAD(porter_list, porter_slot);

struct porter_slot {
	enum porter_state state;
	uint32_t generation;
	uint32_t lid;	 /* of the control socket it came by: for the log; ROLE_NO_ID: adopted */
	uint32_t at, serial; /* which entry of porter.sockets counts it, and of which life */
	bool unanswered; /* it is counted there */
	bool adopting;	 /* OPEN, but only one of its leashes was told of yet: neither is watched */
	bool listens;	 /* it asked for CTL_LISTEN */
	bool lent;	 /* a linker has the end lent_side (porter_lend.c) */
	enum porter_side lent_side;
	int lent_fd; /* owned: our end of what was lent of the server's side; its closing tells the linker that the lane is over; -1 */
	struct identity who; /* as of accept() */
	enum identity_method method;
	int error; /* the kernel could not say who it is */
	uint32_t kind, flags, cap_log2; /* what the connection asked for */
	int leashes[PORTER_N_SIDES]; /* owned; the client's is its control connection (a listener's too) */
	int regions[PORTER_N_SIDES]; /* owned memfds, checked; -1 */
	uint64_t lane_id;
	struct porter_pending *pending; /* owned; LENT, QUEUED and OFFERED */
	uint32_t listener;		/* LENT, QUEUED, OFFERED: its cid; ROLE_NO_ID: a linker is the server */
	/* LISTENER */
	struct porter_list queue; /* QUEUED lanes */
	uint32_t n_offered;	  /* offers without an answer */
	uint64_t due_ns;
	TAILQ_ENTRY(porter_slot) due, queued;
};

struct porter_table {
	struct porter_slot *slots;
	uint32_t n_slots, n_used;
	/* First in, first out: a number comes back as late as possible, in case that somebody still means its last owner. */
	uint32_t *free_ring;
	uint32_t free_at;
	struct idmap lanes;
};

MUST_CHECK int porter_table_init(struct porter_table *t, uint32_t n_slots);
void porter_table_free(struct porter_table *t);

/* porter_table_take() - a slot in state NEW without descriptors, or NULL when all are in use. */
struct porter_slot *porter_table_take(struct porter_table *t);

/* porter_table_give() - close what the slot still holds and free it. It must be on no list any more. */
void porter_table_give(struct porter_table *t, struct porter_slot *s);

/* porter_table_cid() - the slot's number in messages and epoll references. Never ROLE_NO_ID. */
uint32_t porter_table_cid(const struct porter_table *t, const struct porter_slot *s);

/* porter_table_find() - the slot that has this cid now, or NULL. Any number may be asked for. */
struct porter_slot *porter_table_find(struct porter_table *t, uint32_t cid);

/* porter_table_name() - make the slot findable as @lane_id (not in use, not 0). */
void porter_table_name(struct porter_table *t, struct porter_slot *s, uint64_t lane_id);

/* porter_table_lane() - the slot of this lane, or NULL. */
struct porter_slot *porter_table_lane(struct porter_table *t, uint64_t lane_id);

#endif
