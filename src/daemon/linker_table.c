#include "daemon/linker_int.h"

#include <sys/random.h>

/* A number that others see is a slot's index in the low bits and its generation above; all ones (ROLE_NO_ID) is none. */
enum { LANE_BITS = 15, SESSION_BITS = 13, POOL_MAX = 16 };
static_assert(LIMIT_LINK_LANES < (1 << LANE_BITS) - 1, "an index fits");
static_assert(LIMIT_LINK_SESSIONS < (1 << SESSION_BITS) - 1, "an index fits");

int linker_tables_init(struct linker *k)
{
	TAILQ_INIT(&k->dirty.list);
	TAILQ_INIT(&k->dirty_strangers.list);
	TAILQ_INIT(&k->over);
	TAILQ_INIT(&k->paused);
	TAILQ_INIT(&k->joining);
	TAILQ_INIT(&k->lingering);
	TAILQ_INIT(&k->watched);
	TAILQ_INIT(&k->strangers);
	TAILQ_INIT(&k->ways);
	SLIST_INIT(&k->pool);
	if (getrandom(k->source_secret, sizeof(k->source_secret), 0) != sizeof(k->source_secret))
		return -EIO;
	k->lanes = calloc(LIMIT_LINK_LANES, sizeof(*k->lanes));
	k->sessions = calloc(LIMIT_LINK_SESSIONS, sizeof(*k->sessions));
	k->free_lanes = calloc(LIMIT_LINK_LANES, sizeof(*k->free_lanes));
	k->free_sessions = calloc(LIMIT_LINK_SESSIONS, sizeof(*k->free_sessions));
	k->rings_of = calloc(LIMIT_WORKLOADS, sizeof(*k->rings_of));
	k->in_cipher = malloc(LINKER_BATCH_SIZE);
	k->in_plain = malloc(LINKER_BATCH_SIZE + FRAME_SIZE_MAX);
	k->out_plain = malloc(LINKER_BATCH_SIZE);
	if (!k->lanes || !k->sessions || !k->free_lanes || !k->free_sessions || !k->rings_of || !k->in_cipher || !k->in_plain || !k->out_plain ||
	    idmap_init(&k->lanes_by_id, LIMIT_LINK_LANES) < 0 || idmap_init(&k->lanes_by_number, LIMIT_LINK_LANES) < 0)
		return -ENOMEM;
	for (uint32_t i = 0; i < LIMIT_LINK_LANES; i++)
		k->free_lanes[i] = LIMIT_LINK_LANES - 1 - i;
	for (uint32_t i = 0; i < LIMIT_LINK_SESSIONS; i++)
		k->free_sessions[i] = LIMIT_LINK_SESSIONS - 1 - i;
	return 0;
}

void linker_tables_free(struct linker *k)
{
	struct chunk *c;

	for (uint32_t i = 0; k->lanes && i < LIMIT_LINK_LANES; i++)
		if (k->lanes[i].state != LANE_FREE)
			llane_give(k, &k->lanes[i]);
	for (uint32_t i = 0; k->sessions && i < LIMIT_LINK_SESSIONS; i++)
		if (k->sessions[i].phase != PHASE_FREE)
			session_give(k, &k->sessions[i]);
	while ((c = SLIST_FIRST(&k->pool))) {
		SLIST_REMOVE_HEAD(&k->pool, next);
		free(c);
	}
	idmap_free(&k->lanes_by_id);
	idmap_free(&k->lanes_by_number);
	free(k->lanes);
	free(k->sessions);
	free(k->free_lanes);
	free(k->free_sessions);
	free(k->rings_of);
	free(k->in_cipher);
	free(k->in_plain);
	free(k->out_plain);
}

/* Lanes. */

static uint32_t lane_index(const struct linker *k, const struct llane *l)
{
	return (uint32_t)(l - k->lanes);
}

struct llane *llane_take(struct linker *k, enum lane_state state)
{
	struct llane *l;
	uint32_t generation;

	if (k->n_lanes == LIMIT_LINK_LANES)
		return NULL;
	l = &k->lanes[k->free_lanes[LIMIT_LINK_LANES - 1 - k->n_lanes++]];
	generation = l->generation;
	*l = (struct llane){ .state = state, .generation = generation, .fd = -1, .kid = ROLE_NO_ID, .app = &app_socket, .wants = 1, .end = LANE_END_EOF };
	return l;
}

void llane_give(struct linker *k, struct llane *l)
{
	assert(l->state != LANE_FREE);
	llane_unset_number(k, l);
	llane_unset_id(k, l);
	ring_close(k, l);
	fd_cleanup(&l->fd);
	kept_drop(k, l);
	l->state = LANE_FREE;
	l->generation = (l->generation + 1) & ((1u << (32 - LANE_BITS)) - 1);
	k->free_lanes[LIMIT_LINK_LANES - k->n_lanes--] = lane_index(k, l);
}

uint32_t llane_cid(const struct linker *k, const struct llane *l)
{
	return l->generation << LANE_BITS | lane_index(k, l);
}

struct llane *llane_find(struct linker *k, uint32_t cid)
{
	uint32_t i = cid & ((1u << LANE_BITS) - 1);

	if (i >= LIMIT_LINK_LANES || k->lanes[i].state == LANE_FREE || k->lanes[i].generation != cid >> LANE_BITS)
		return NULL;
	return &k->lanes[i];
}

struct llane *llane_by_id(struct linker *k, uint64_t id)
{
	uint32_t i = idmap_find(&k->lanes_by_id, id);

	return i == GATE_NO_INDEX ? NULL : &k->lanes[i];
}

void llane_set_id(struct linker *k, struct llane *l, uint64_t id)
{
	l->id = id;
	idmap_add(&k->lanes_by_id, id, lane_index(k, l));
}

void llane_unset_id(struct linker *k, struct llane *l)
{
	if (l->id)
		idmap_remove(&k->lanes_by_id, lane_index(k, l));
	l->id = 0;
}

static uint64_t number_key(const struct linker *k, const struct session *s, uint32_t number)
{
	return (uint64_t)session_cid(k, s) << 32 | number;
}

struct llane *llane_by_number(struct linker *k, const struct session *s, uint32_t number)
{
	uint32_t i = idmap_find(&k->lanes_by_number, number_key(k, s, number));

	return i == GATE_NO_INDEX ? NULL : &k->lanes[i];
}

void llane_set_number(struct linker *k, struct llane *l, uint32_t number)
{
	l->number = number;
	idmap_add(&k->lanes_by_number, number_key(k, l->session, number), lane_index(k, l));
}

void llane_unset_number(struct linker *k, struct llane *l)
{
	if (l->number)
		idmap_remove(&k->lanes_by_number, lane_index(k, l));
	l->number = 0;
}

/* Sessions. */

struct session *session_take(struct linker *k)
{
	struct session *s;
	uint32_t generation;

	if (k->n_sessions == LIMIT_LINK_SESSIONS)
		return NULL;
	s = &k->sessions[k->free_sessions[LIMIT_LINK_SESSIONS - 1 - k->n_sessions++]];
	generation = s->generation;
	*s = (struct session){ .phase = PHASE_DIALING, .generation = generation, .fd = -1, .req = ROLE_NO_ID, .hid = ROLE_NO_ID,
			       .peer_window = FRAME_WINDOW_MIN };
	TAILQ_INIT(&s->lanes);
	TAILQ_INIT(&s->ready);
	TAILQ_INIT(&s->credits);
	SLIST_INIT(&s->proofs);
	SLIST_INIT(&s->shown);
	return s;
}

static void session_free_lists(struct session *s)
{
	struct proof *p;
	struct shown *h;

	while ((p = SLIST_FIRST(&s->proofs))) {
		SLIST_REMOVE_HEAD(&s->proofs, next);
		free(p);
	}
	while ((h = SLIST_FIRST(&s->shown))) {
		SLIST_REMOVE_HEAD(&s->shown, next);
		free(h);
	}
}

void session_give(struct linker *k, struct session *s)
{
	assert(s->phase != PHASE_FREE);
	source_skips(k, s);
	rdma_close(k, s);
	session_drop_chunk(k, s);
	session_drop_control(k, s);
	session_free_lists(s);
	tls_conn_close(&s->tls);
	fd_cleanup(&s->fd);
	proven_leave(k, s);
	source_unref(k, take_ptr(s->source));
	source_unref(k, take_ptr(s->host));
	blob_unref(s->blob);
	blob_unref(s->next_blob);
	free(s->partial);
	free(s->text);
	free(s->news);
	free(s->ca);
	s->phase = PHASE_FREE;
	s->generation = (s->generation + 1) & ((1u << (32 - SESSION_BITS)) - 1);
	k->free_sessions[LIMIT_LINK_SESSIONS - k->n_sessions--] = (uint32_t)(s - k->sessions);
}

uint32_t session_cid(const struct linker *k, const struct session *s)
{
	return s->generation << SESSION_BITS | (uint32_t)(s - k->sessions);
}

struct session *session_find(struct linker *k, uint32_t cid)
{
	uint32_t i = cid & ((1u << SESSION_BITS) - 1);

	if (i >= LIMIT_LINK_SESSIONS || k->sessions[i].phase == PHASE_FREE || k->sessions[i].generation != cid >> SESSION_BITS)
		return NULL;
	return &k->sessions[i];
}

/* Memory that goes round: the last one that was given back is the one that the cache still has. */

struct chunk *chunk_take(struct linker *k)
{
	struct chunk *c = SLIST_FIRST(&k->pool);

	if (!c)
		return malloc(sizeof(*c));
	SLIST_REMOVE_HEAD(&k->pool, next);
	k->n_pool--;
	return c;
}

void chunk_give(struct linker *k, struct chunk *c)
{
	if (k->n_pool == POOL_MAX) {
		free(c);
		return;
	}
	k->n_pool++;
	SLIST_INSERT_HEAD(&k->pool, c, next);
}

struct blob *blob_new(const char *bytes, size_t size)
{
	struct blob *b = malloc(sizeof(*b) + size);

	if (!b)
		return NULL;
	*b = (struct blob){ .refs = 1, .size = size };
	memcpy(b->bytes, bytes, size);
	return b;
}

void blob_unref(struct blob *b)
{
	if (b && --b->refs == 0)
		free(b);
}
