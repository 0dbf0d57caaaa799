/*
 * How many lanes come from other hosts, by whom they come from and by whose they are here. Whatever one identity opens, and whatever one
 * workload is sent, leaves others room; and all of them together leave room for lanes that begin on this host.
 *
 * Two things can run out, and each has a count of its own: places in linkers' tables (all lanes between hosts), and the lanes that the porter
 * keeps (a library's, on this host or from another one). Both rules are those of has_room() in broker_port.c: nobody has more than are left.
 *
 * Before this file: broker_welcome.c (who asks), broker_cross.c (the lane's life).
 * Must never: count by anything that the other host only says. A source is what its certificate says.
 */
#include "daemon/broker_int.h"

enum { OF_SOURCE = 's', OF_WORKLOAD = 'w' };

struct share_key {
	char of;
	char name[LIMIT_SERVICE_SIZE]; /* unused bytes are zero */
};

/* Lives as long as lanes are counted in it. */
struct share {
	struct share_key key;
	uint32_t n, n_lent;
	UT_hash_handle hh;
};

static struct share *g_shares;
static struct share g_all;

uint32_t share_n_lanes(void)
{
	return g_all.n;
}

static void make_key(struct share_key *ret, char of, const char *name)
{
	memset(ret, 0, sizeof(*ret));
	ret->of = of;
	memcpy(ret->name, name, strlen(name));
}
static_assert(LIMIT_NAME_SIZE <= LIMIT_SERVICE_SIZE, "a workload's name fits");

static struct share *find(const struct share_key *key)
{
	struct share *s;

	HASH_FIND(hh, g_shares, key, sizeof(*key), s);
	return s;
}

static void make_keys(struct share_key ret[SHARE_N], const struct service_name *source, const struct workload *w)
{
	char name[LIMIT_SERVICE_SIZE];

	make_key(&ret[0], OF_SOURCE, service_name_format(name, source));
	make_key(&ret[1], OF_WORKLOAD, w ? w->name : "");
}

static bool fits(uint64_t used, uint64_t own, uint64_t capacity)
{
	return used < capacity && own < capacity - used;
}

bool share_has_room(const struct broker *b, const struct service_name *source, const struct workload *w, bool lent)
{
	uint64_t places = (uint64_t)b->n_linkers * LIMIT_LINK_LANES_IN;
	struct share_key keys[SHARE_N];

	make_keys(keys, source, w);
	for (int i = 0; i < SHARE_N; i++) {
		const struct share *s = find(&keys[i]);

		if (!fits(g_all.n, s ? s->n : 0, places) || (lent && !fits(g_all.n_lent, s ? s->n_lent : 0, LIMIT_LANES_IN)))
			return false;
	}
	return true;
}

static void count(struct share *s, bool lent, int change)
{
	s->n += (uint32_t)change;
	if (lent)
		s->n_lent += (uint32_t)change;
}

static void give_back(struct share *s, bool lent)
{
	count(s, lent, -1);
	if (s->n == 0) {
		HASH_DEL(g_shares, s);
		free(s);
	}
}

static struct share *take(const struct share_key *key, bool lent)
{
	struct share *s = find(key);

	if (!s) {
		s = calloc(1, sizeof(*s));
		if (!s)
			return NULL;
		s->key = *key;
		HASH_ADD(hh, g_shares, key, sizeof(s->key), s);
	}
	count(s, lent, 1);
	return s;
}

int share_take(struct lane *l, const struct workload *w)
{
	bool lent = l->link.kind != LINK_SOCKET;
	struct share_key keys[SHARE_N];

	make_keys(keys, &l->source, w);
	for (int i = 0; i < SHARE_N; i++) {
		l->link.shares[i] = take(&keys[i], lent);
		if (!l->link.shares[i]) {
			while (i-- > 0)
				give_back(take_ptr(l->link.shares[i]), lent);
			return -ENOMEM;
		}
	}
	count(&g_all, lent, 1);
	return 0;
}

void share_give_back(struct lane *l)
{
	bool lent = l->link.kind != LINK_SOCKET;

	if (!l->link.shares[0])
		return;
	for (int i = 0; i < SHARE_N; i++)
		give_back(take_ptr(l->link.shares[i]), lent);
	count(&g_all, lent, -1);
}
