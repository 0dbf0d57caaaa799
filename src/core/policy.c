/*
 * Theory of operation: intentions lie in one hash table per origin, with the pair of patterns as the key. A question
 * names two services, and each is matched by exactly three patterns (itself, its namespace, anything), so nine pairs are
 * looked up, the most specific first, and in each pair what was said at run time before what the cluster says before what the
 * files say. The first one that has not expired decides. Nothing is searched, so the cost does not grow with the number of intentions.
 *
 * The hash of a pair is mixed from the hashes of its two patterns; these are taken once a question, over the characters
 * that are there rather than over whole arrays, which is what keeps nine look-ups cheaper than one scan of a short list.
 * It is not keyed: names come from the operator, not from containers.
 *
 * Before this file: conf/config.c, daemon/state.c and daemon/broker_catalogue.c (what was said). After it: core/lane.c (which way
 * a lane takes).
 * Must never: let a pair in twice, or let an intention decide for a service that its patterns do not match.
 */
#include "core/policy.h"

struct entry;
static void entry_out_of_memory(struct entry *e);
#define HASH_NONFATAL_OOM 1
#define uthash_nonfatal_oom(elt) entry_out_of_memory(elt)
#include <uthash.h>

/* The key of an intention: its own first two members, compared as bytes. */
struct pair_key {
	struct service_pattern source, destination;
};
static_assert(offsetof(struct intention, source) == offsetof(struct pair_key, source), "a key is an intention's start");
static_assert(offsetof(struct intention, destination) == offsetof(struct pair_key, destination), "in this order");
static_assert(sizeof(struct service_pattern) == sizeof(enum pattern_rank) + sizeof(struct service_name), "no padding");
static_assert(sizeof(struct pair_key) == 2 * sizeof(struct service_pattern), "no padding");

enum { N_ORIGINS = INTENTION_FROM_RUNTIME + 1, N_RANKS = PATTERN_EXACT + 1 };

struct entry {
	struct intention intention;
	bool not_hashed; /* the table could not grow for it */
	UT_hash_handle hh;
};

struct policy {
	struct entry *tables[N_ORIGINS];
};

static void entry_out_of_memory(struct entry *e)
{
	e->not_hashed = true;
}

/* FNV-1a, 64 bits (draft-eastlake-fnv): short strings, one multiplication a character. */
static const uint64_t g_hash_start = UINT64_C(0xcbf29ce484222325);

static uint64_t hash_label(uint64_t h, const char *s)
{
	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * UINT64_C(0x100000001b3);
	return (h ^ '/') * UINT64_C(0x100000001b3);
}

/* The rank goes in too, so that a namespace's pattern does not hash like the start of its services'. */
static uint64_t hash_pattern(const struct service_pattern *p)
{
	uint64_t h = g_hash_start + (uint64_t)p->rank;

	if (p->rank >= PATTERN_NAMESPACE)
		h = hash_label(h, p->service.ns);
	if (p->rank >= PATTERN_EXACT)
		h = hash_label(h, p->service.name);
	return h;
}

static unsigned hash_pair(uint64_t source, uint64_t destination)
{
	/* Not symmetric: a -> b and b -> a are different pairs. The multiplier is 2^64 / golden ratio. */
	uint64_t h = (source ^ (destination << 29 | destination >> 35)) * UINT64_C(0x9e3779b97f4a7c15);

	return (unsigned)(h >> 32);
}

static void label_copy(char dst[LIMIT_NAME_SIZE], const char *src)
{
	size_t n = strnlen(src, LIMIT_NAME_SIZE - 1);

	memcpy(dst, src, n);
	memset(dst + n, 0, LIMIT_NAME_SIZE - n);
}

/* The pattern of @rank that matches @s, with zeroes wherever it says nothing: whatever the caller's arrays hold there. */
static void pattern_of(struct service_pattern *ret, enum pattern_rank rank, const struct service_name *s)
{
	ret->rank = rank;
	label_copy(ret->service.ns, rank >= PATTERN_NAMESPACE ? s->ns : "");
	label_copy(ret->service.name, rank >= PATTERN_EXACT ? s->name : "");
}

static void pair_key_of(struct pair_key *ret, const struct service_pattern *source,
			const struct service_pattern *destination)
{
	pattern_of(&ret->source, source->rank, &source->service);
	pattern_of(&ret->destination, destination->rank, &destination->service);
}

static struct entry *find(const struct policy *p, enum intention_origin origin, const struct pair_key *key, unsigned hash)
{
	struct entry *e;

	HASH_FIND_BYHASHVALUE(hh, p->tables[origin], key, sizeof(*key), hash, e);
	return e;
}

static struct entry *find_pair(const struct policy *p, const struct service_pattern *source,
			       const struct service_pattern *destination, enum intention_origin origin)
{
	struct pair_key key;

	pair_key_of(&key, source, destination);
	return find(p, origin, &key, hash_pair(hash_pattern(&key.source), hash_pattern(&key.destination)));
}

int policy_new(struct policy **ret_p)
{
	struct policy *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	*ret_p = p;
	return 0;
}

struct policy *policy_free(struct policy *p)
{
	struct entry *e, *next;

	if (!p)
		return NULL;
	for (int origin = 0; origin < N_ORIGINS; origin++)
		HASH_ITER(hh, p->tables[origin], e, next) {
			HASH_DEL(p->tables[origin], e);
			free(e);
		}
	free(p);
	return NULL;
}

size_t policy_count(const struct policy *p)
{
	size_t n = 0;

	for (int origin = 0; origin < N_ORIGINS; origin++)
		n += HASH_COUNT(p->tables[origin]);
	return n;
}

static bool is_well_formed(const struct intention *i)
{
	return (unsigned)i->source.rank < N_RANKS && (unsigned)i->destination.rank < N_RANKS &&
	       (unsigned)i->origin < N_ORIGINS && (unsigned)i->action <= INTENTION_ALLOW;
}

int policy_add(struct policy *p, const struct intention *i, const struct intention **ret_other)
{
	AUTO_FREE(struct entry) e = NULL;
	struct entry *other;
	struct pair_key key;
	unsigned hash;

	assert(is_well_formed(i));
	other = find_pair(p, &i->source, &i->destination, i->origin);
	if (other) {
		*ret_other = &other->intention;
		return POLICY_E_TIE;
	}
	if (policy_count(p) >= LIMIT_INTENTIONS)
		return POLICY_E_FULL;
	e = calloc(1, sizeof(*e));
	if (!e)
		return -ENOMEM;
	pair_key_of(&key, &i->source, &i->destination);
	e->intention = *i;
	e->intention.source = key.source;
	e->intention.destination = key.destination;
	hash = hash_pair(hash_pattern(&key.source), hash_pattern(&key.destination));
	HASH_ADD_KEYPTR_BYHASHVALUE(hh, p->tables[i->origin], &e->intention, sizeof(key), hash, e);
	if (e->not_hashed)
		return -ENOMEM;
	take_ptr(e);
	return 0;
}

int policy_remove(struct policy *p, const struct service_pattern *source, const struct service_pattern *destination,
		  enum intention_origin origin)
{
	struct entry *e = find_pair(p, source, destination, origin);

	if (!e)
		return -ENOENT;
	HASH_DEL(p->tables[origin], e);
	free(e);
	return 0;
}

const struct intention *policy_find(const struct policy *p, const struct service_pattern *source,
				    const struct service_pattern *destination, enum intention_origin origin)
{
	struct entry *e = find_pair(p, source, destination, origin);

	return e ? &e->intention : NULL;
}

static bool is_live(const struct intention *i, int64_t now_unix_s)
{
	return i->expires_unix_s == 0 || i->expires_unix_s > now_unix_s;
}

/* Of one pair: what was said at run time, else what the cluster says, else the files. */
static const struct intention *decide_pair(const struct policy *p, const struct pair_key *key, unsigned hash,
					   int64_t now_unix_s)
{
	for (int origin = N_ORIGINS - 1; origin >= 0; origin--) {
		struct entry *e = find(p, (enum intention_origin)origin, key, hash);

		if (e && is_live(&e->intention, now_unix_s))
			return &e->intention;
	}
	return NULL;
}

const struct intention *policy_decide(const struct policy *p, const struct service_name *source,
				      const struct service_name *destination, int64_t now_unix_s)
{
	struct service_pattern sources[N_RANKS];
	uint64_t source_hashes[N_RANKS];
	struct pair_key key;

	for (int s = 0; s < N_RANKS; s++) {
		pattern_of(&sources[s], (enum pattern_rank)s, source);
		source_hashes[s] = hash_pattern(&sources[s]);
	}
	for (int d = PATTERN_EXACT; d >= PATTERN_ANY; d--) {
		uint64_t destination_hash;

		pattern_of(&key.destination, (enum pattern_rank)d, destination);
		destination_hash = hash_pattern(&key.destination);
		for (int s = PATTERN_EXACT; s >= PATTERN_ANY; s--) {
			const struct intention *i;

			key.source = sources[s];
			i = decide_pair(p, &key, hash_pair(source_hashes[s], destination_hash), now_unix_s);
			if (i)
				return i;
		}
	}
	return NULL;
}

int64_t policy_next_expiry(const struct policy *p, int64_t now_unix_s)
{
	int64_t next = 0;

	for (int origin = 0; origin < N_ORIGINS; origin++)
		for (const struct entry *e = p->tables[origin]; e; e = e->hh.next) {
			int64_t at = e->intention.expires_unix_s;

			if (at != 0 && at > now_unix_s && (next == 0 || at < next))
				next = at;
		}
	return next;
}

/* The order in which policy_decide() asks, and by name where it would not ask both. */
static int compare_patterns(const struct service_pattern *a, const struct service_pattern *b)
{
	int r;

	if (a->rank != b->rank)
		return a->rank > b->rank ? -1 : 1;
	r = strcmp(a->service.ns, b->service.ns);
	return r ? r : strcmp(a->service.name, b->service.name);
}

static int compare_intentions(const void *va, const void *vb)
{
	const struct intention *a = *(const struct intention *const *)va, *b = *(const struct intention *const *)vb;
	int r = compare_patterns(&a->destination, &b->destination);

	if (r == 0)
		r = compare_patterns(&a->source, &b->source);
	return r ? r : (int)b->origin - (int)a->origin;
}

int policy_each(const struct policy *p, int (*fn)(void *arg, const struct intention *i), void *arg)
{
	AUTO_FREE(const struct intention *) sorted = NULL;
	size_t n = 0;
	int r = 0;

	if (policy_count(p) == 0)
		return 0;
	sorted = calloc(policy_count(p), sizeof(*sorted));
	if (!sorted)
		return -ENOMEM;
	for (int origin = 0; origin < N_ORIGINS; origin++)
		for (const struct entry *e = p->tables[origin]; e; e = e->hh.next)
			sorted[n++] = &e->intention;
	qsort(sorted, n, sizeof(const struct intention *), compare_intentions);
	for (size_t i = 0; i < n && r == 0; i++)
		r = fn(arg, sorted[i]);
	return r;
}
