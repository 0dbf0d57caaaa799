#include "daemon/porter_table.h"

/* A cid is a slot's index in the low bits and its generation above. */
enum { INDEX_BITS = 16, GENERATION_BITS = 32 - INDEX_BITS };
static_assert(LIMIT_PORTER_CONNS < (1 << INDEX_BITS) - 1, "an index fits, and all ones (ROLE_NO_ID) is none");

int porter_table_init(struct porter_table *t, uint32_t n_slots)
{
	*t = (struct porter_table){ .n_slots = n_slots };
	t->slots = calloc(n_slots, sizeof(*t->slots));
	t->free_ring = calloc(n_slots, sizeof(*t->free_ring));
	if (!t->slots || !t->free_ring || idmap_init(&t->lanes, n_slots) < 0) {
		porter_table_free(t);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < n_slots; i++)
		t->free_ring[i] = i;
	return 0;
}

static void slot_close(struct porter_slot *s)
{
	for (unsigned side = 0; side < PORTER_N_SIDES; side++) {
		fd_cleanup(&s->leashes[side]);
		fd_cleanup(&s->regions[side]);
	}
	fd_cleanup(&s->lent_fd);
	if (s->pending)
		fd_cleanup(&s->pending->bell);
	free(s->pending);
}

void porter_table_free(struct porter_table *t)
{
	for (uint32_t i = 0; t->slots && i < t->n_slots; i++)
		if (t->slots[i].state != PORTER_FREE)
			slot_close(&t->slots[i]);
	free(t->slots);
	free(t->free_ring);
	idmap_free(&t->lanes);
	*t = (struct porter_table){};
}

static uint32_t slot_index(const struct porter_table *t, const struct porter_slot *s)
{
	return (uint32_t)(s - t->slots);
}

struct porter_slot *porter_table_take(struct porter_table *t)
{
	struct porter_slot *s;
	uint32_t generation;

	if (t->n_used == t->n_slots)
		return NULL;
	s = &t->slots[t->free_ring[t->free_at]];
	t->free_at = (t->free_at + 1) % t->n_slots;
	t->n_used++;
	generation = s->generation;
	*s = (struct porter_slot){ .state = PORTER_NEW,
				   .generation = generation,
				   .lid = ROLE_NO_ID,
				   .at = GATE_NO_INDEX,
				   .leashes = { -1, -1 },
				   .lent_fd = -1,
				   .regions = { -1, -1 } };
	TAILQ_INIT(&s->queue);
	return s;
}

void porter_table_give(struct porter_table *t, struct porter_slot *s)
{
	assert(s->state != PORTER_FREE && TAILQ_EMPTY(&s->queue));
	if (s->lane_id)
		idmap_remove(&t->lanes, slot_index(t, s));
	slot_close(s);
	s->state = PORTER_FREE;
	s->generation = (s->generation + 1) & ((1u << GENERATION_BITS) - 1);
	t->free_ring[(t->free_at + t->n_slots - t->n_used) % t->n_slots] = slot_index(t, s);
	t->n_used--;
}

uint32_t porter_table_cid(const struct porter_table *t, const struct porter_slot *s)
{
	return s->generation << INDEX_BITS | slot_index(t, s);
}

struct porter_slot *porter_table_find(struct porter_table *t, uint32_t cid)
{
	uint32_t index = cid & ((1u << INDEX_BITS) - 1);
	struct porter_slot *s;

	if (index >= t->n_slots)
		return NULL;
	s = &t->slots[index];
	return s->state != PORTER_FREE && s->generation == cid >> INDEX_BITS ? s : NULL;
}

void porter_table_name(struct porter_table *t, struct porter_slot *s, uint64_t lane_id)
{
	assert(s->lane_id == 0 && lane_id != 0);
	s->lane_id = lane_id;
	idmap_add(&t->lanes, lane_id, slot_index(t, s));
}

struct porter_slot *porter_table_lane(struct porter_table *t, uint64_t lane_id)
{
	uint32_t i = idmap_find(&t->lanes, lane_id);

	return i == GATE_NO_INDEX ? NULL : &t->slots[i];
}
