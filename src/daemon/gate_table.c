#include "daemon/gate_table.h"

#include <sys/random.h>

/* A cid is a slot's index in the low bits and its generation above. */
enum { INDEX_BITS = 14, GENERATION_BITS = 32 - INDEX_BITS };
static_assert(LIMIT_GATE_LANES < (1 << INDEX_BITS) - 1, "an index fits, and all ones (ROLE_NO_ID) is none");

int idmap_init(struct idmap *m, uint32_t n_indexes)
{
	uint32_t n = 64;

	while (n < n_indexes)
		n *= 2;
	m->mask = n - 1;
	m->heads = malloc(n * sizeof(*m->heads));
	m->nexts = calloc(n_indexes, sizeof(*m->nexts));
	m->keys = calloc(n_indexes, sizeof(*m->keys));
	if (!m->heads || !m->nexts || !m->keys) {
		idmap_free(m);
		return -ENOMEM;
	}
	memset(m->heads, 0xff, n * sizeof(*m->heads));
	if (getrandom(m->secret, sizeof(m->secret), 0) != sizeof(m->secret)) {
		idmap_free(m);
		return -EIO;
	}
	return 0;
}

void idmap_free(struct idmap *m)
{
	free(m->heads);
	free(m->nexts);
	free(m->keys);
	*m = (struct idmap){};
}

/* Two rounds, since after one the distance of two keys that collide would be known from any other pair that does. */
static uint32_t *idmap_head(const struct idmap *m, uint64_t key)
{
	uint64_t h = (key ^ m->secret[0]) * (m->secret[1] | 1);

	h = (h ^ h >> 32) * (m->secret[0] | 1);
	return &m->heads[(uint32_t)(h >> 32) & m->mask];
}

uint32_t idmap_find(const struct idmap *m, uint64_t key)
{
	uint32_t i = *idmap_head(m, key);

	while (i != GATE_NO_INDEX && m->keys[i] != key)
		i = m->nexts[i];
	return i;
}

void idmap_add(struct idmap *m, uint64_t key, uint32_t index)
{
	uint32_t *head = idmap_head(m, key);

	m->keys[index] = key;
	m->nexts[index] = *head;
	*head = index;
}

void idmap_remove(struct idmap *m, uint32_t index)
{
	uint32_t *at = idmap_head(m, m->keys[index]);

	while (*at != index)
		at = &m->nexts[*at];
	*at = m->nexts[index];
}

int gate_table_init(struct gate_table *t, uint32_t n_slots)
{
	*t = (struct gate_table){ .n_slots = n_slots };
	t->slots = calloc(n_slots, sizeof(*t->slots));
	t->free_list = calloc(n_slots, sizeof(*t->free_list));
	if (!t->slots || !t->free_list || idmap_init(&t->lanes, n_slots) < 0) {
		gate_table_free(t);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < n_slots; i++)
		t->free_list[i] = n_slots - 1 - i;
	return 0;
}

void gate_table_free(struct gate_table *t)
{
	for (uint32_t i = 0; t->slots && i < t->n_slots; i++)
		if (t->slots[i].state != SLOT_FREE)
			relay_close(&t->slots[i].relay);
	free(t->slots);
	free(t->free_list);
	idmap_free(&t->lanes);
	*t = (struct gate_table){};
}

static uint32_t slot_index(const struct gate_table *t, const struct slot *s)
{
	return (uint32_t)(s - t->slots);
}

struct slot *gate_table_take(struct gate_table *t, uint32_t lid, int client_fd)
{
	struct slot *s;
	uint32_t generation;

	if (t->n_used == t->n_slots)
		return NULL;
	s = &t->slots[t->free_list[t->n_slots - 1 - t->n_used++]];
	generation = s->generation;
	*s = (struct slot){ .state = SLOT_ASKED, .generation = generation, .lid = lid };
	s->relay.fds[RELAY_CLIENT] = client_fd;
	s->relay.fds[RELAY_SERVER] = -1;
	return s;
}

void gate_table_give(struct gate_table *t, struct slot *s)
{
	assert(s->state != SLOT_FREE && s->queued == SLOT_QUEUE_NONE);
	if (s->state == SLOT_OPEN)
		idmap_remove(&t->lanes, slot_index(t, s));
	relay_close(&s->relay);
	s->state = SLOT_FREE;
	s->generation = (s->generation + 1) & ((1u << GENERATION_BITS) - 1);
	t->free_list[t->n_slots - t->n_used--] = slot_index(t, s);
}

uint32_t gate_table_cid(const struct gate_table *t, const struct slot *s)
{
	return s->generation << INDEX_BITS | slot_index(t, s);
}

struct slot *gate_table_find(struct gate_table *t, uint32_t cid)
{
	uint32_t index = cid & ((1u << INDEX_BITS) - 1);
	struct slot *s;

	if (index >= t->n_slots)
		return NULL;
	s = &t->slots[index];
	return s->state != SLOT_FREE && s->generation == cid >> INDEX_BITS ? s : NULL;
}

void gate_table_open(struct gate_table *t, struct slot *s, uint64_t lane_id)
{
	assert(s->state == SLOT_ASKED);
	s->state = SLOT_OPEN;
	s->lane_id = lane_id;
	idmap_add(&t->lanes, lane_id, slot_index(t, s));
}

struct slot *gate_table_lane(struct gate_table *t, uint64_t lane_id)
{
	uint32_t i = idmap_find(&t->lanes, lane_id);

	return i == GATE_NO_INDEX ? NULL : &t->slots[i];
}
