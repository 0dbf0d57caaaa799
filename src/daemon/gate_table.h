/*
 * The gate's table of connections: slots with generations (so that a number from an earlier life is recognised), and a map
 * from 64-bit ids to small indexes. All memory is taken at the start; no call here allocates later.
 */
#ifndef DAEMON_GATE_TABLE_H
#define DAEMON_GATE_TABLE_H

#include "daemon/gate_relay.h"

#include <sys/queue.h>

#define GATE_NO_INDEX UINT32_MAX

/* id -> index, for indexes below a fixed bound. Its hash has a key of its own, so that who chooses ids cannot choose those that collide. */
struct idmap {
	uint32_t *heads, *nexts;
	uint64_t *keys;
	uint64_t secret[2];
	uint32_t mask;
};

/* idmap_init() - Return: 0; -ENOMEM; -EIO: there are no random numbers. */
MUST_CHECK int idmap_init(struct idmap *m, uint32_t n_indexes);
void idmap_free(struct idmap *m);
/* idmap_find() - the index under @key, or GATE_NO_INDEX. */
uint32_t idmap_find(const struct idmap *m, uint64_t key);
/* idmap_add() - @key must not be in the map, @index must not be in use. */
void idmap_add(struct idmap *m, uint64_t key, uint32_t index);
void idmap_remove(struct idmap *m, uint32_t index);

/*
 * States of a slot, as permissions:
 *   FREE   nothing may touch it. Left by gate_table_take().
 *   ASKED  the client's descriptor is open, nobody reads from it; the broker's verdict is awaited.
 *          Left by BG_GO (-> OPEN), BG_REFUSE, BG_HAND and the client's hang-up (-> FREE).
 *   OPEN   relay_run() carries bytes; lane_id is in the map. Left when the relay ends or BG_CUT comes (-> FREE).
 */
enum slot_state { SLOT_FREE, SLOT_ASKED, SLOT_OPEN };
enum slot_queue { SLOT_QUEUE_NONE, SLOT_QUEUE_READY, SLOT_QUEUE_PAUSED };

struct slot {
	enum slot_state state;
	uint32_t generation;
	uint32_t lid;
	uint64_t lane_id;
	struct relay relay; /* ASKED: only the client's descriptor */
	bool armed[RELAY_N_SIDES]; /* epoll is asked for EPOLLOUT */
	enum slot_queue queued;
	uint64_t due_ns; /* SLOT_QUEUE_PAUSED */
	TAILQ_ENTRY(slot) queue;
};
TAILQ_HEAD(slot_list, slot);

struct gate_table {
	struct slot *slots;
	uint32_t n_slots, n_used;
	uint32_t *free_list;
	struct idmap lanes;
};

MUST_CHECK int gate_table_init(struct gate_table *t, uint32_t n_slots);
void gate_table_free(struct gate_table *t);

/* gate_table_take() - a slot in state ASKED for @client_fd (owned by the slot from now on), or NULL when all are in use. */
struct slot *gate_table_take(struct gate_table *t, uint32_t lid, int client_fd);

/* gate_table_give() - close what the slot still holds and free it; its cid is never valid again (until 2^18 lives later). */
void gate_table_give(struct gate_table *t, struct slot *s);

/* gate_table_cid() - the slot's number in messages and epoll references. Never ROLE_NO_ID. */
uint32_t gate_table_cid(const struct gate_table *t, const struct slot *s);

/* gate_table_find() - the slot that has this cid now, or NULL. Any number may be asked for. */
struct slot *gate_table_find(struct gate_table *t, uint32_t cid);

/* gate_table_open() - ASKED -> OPEN under @lane_id (not in use, not 0). */
void gate_table_open(struct gate_table *t, struct slot *s, uint64_t lane_id);

/* gate_table_lane() - the open slot of this lane, or NULL. */
struct slot *gate_table_lane(struct gate_table *t, uint64_t lane_id);

#endif
