/*
 * Theory of operation: what is known of the cluster is one table of entries, as etcd has them, and one record of which data they are
 * from. Everything else is made from the table: hosts and their services are handed to broker_link.c, intentions go into the policy
 * under an origin of their own, and the state database follows within a second.
 *
 * A range is gathered first (staging) and judged when it is whole, by judge(): only then is it certain of which data it is. Data
 * that is not the one we knew does not take anything away. Single changes come after it and are of the same data.
 *
 *   an item            leaves
 *   intention          when etcd says so
 *   host, service      `lease` seconds after etcd said so, if it has not come back, and, a host, if no session to it stands
 *
 * Before this file: broker_etcd.c. After it: broker_link.c, core/policy.c, state_catalogue.c.
 * Must never: take an entry away because etcd is silent, empty, or another one.
 */
#include "daemon/broker_catalogue.h"

#include "daemon/broker_int.h"

#include <stdio.h>

enum {
	POLICY_MS = 20,	   /* changes that come together are one change of policy */
	KNOWN_WRITE_S = 60, /* when nothing else is to be written: how old the time on the disk may get */
	MALFORMED_LOGGED_PER_S = 2,
};

struct catalogue g_catalogue;

const struct catalogue_status *catalogue_status(const struct broker *b)
{
	return &g_catalogue.status;
}

const char *etcd_state_name(enum etcd_state s)
{
	static const char *const names[] = { "connecting", "up", "away", "refused" };
	static_assert(ARRAY_SIZE(names) == ETCD_STATE_N, "a name for each");

	return s < ETCD_STATE_N ? names[s] : "unknown";
}

/* ------------------------------------------------------------------ the table */

static struct catalogue_item *find_in(struct catalogue_item *table, const char *key)
{
	struct catalogue_item *i;

	HASH_FIND_STR(table, key, i);
	return i;
}

struct catalogue_item *catalogue_find(const char *key)
{
	struct catalogue_item *i = find_in(g_catalogue.items, key);

	return i && i->value ? i : NULL;
}

static void free_item(struct catalogue_item **table, struct catalogue_item *i)
{
	HASH_DEL(*table, i);
	free(i->key);
	free(i->value);
	free(i);
}

static void clear_table(struct catalogue_item **table)
{
	struct catalogue_item *i, *next;

	HASH_ITER(hh, *table, i, next)
		free_item(table, i);
}

static size_t *count_of(enum entry_kind kind)
{
	struct catalogue_status *s = &g_catalogue.status;

	return kind == ENTRY_HOST ? &s->n_hosts : kind == ENTRY_SERVICE ? &s->n_services : &s->n_intentions;
}

static void tell_full(const char *key, enum entry_kind kind)
{
	if (g_catalogue.full_told)
		return;
	g_catalogue.full_told = true;
	log_error("catalogue.full", LOG_STR("key", key), LOG_U64("limit", kind == ENTRY_HOST ? LIMIT_HOSTS : LIMIT_CATALOGUE_ENTRIES),
		  LOG_STR("then", "what is beyond is ignored: take hosts or intentions out of etcd"));
}

/* Is there room for one more of this kind? What was there first stays. */
static bool has_room(const char *key, enum entry_kind kind)
{
	bool room = HASH_COUNT(g_catalogue.items) < LIMIT_CATALOGUE_ENTRIES && (kind != ENTRY_HOST || *count_of(kind) < LIMIT_HOSTS);

	if (!room)
		tell_full(key, kind);
	return room;
}

/* @value: copied; NULL: none (in staging: malformed). NULL: no memory, or no room. */
static struct catalogue_item *add_item(struct catalogue_item **table, const char *key, const char *value, enum entry_kind kind)
{
	struct catalogue_item *i = HASH_COUNT(*table) < LIMIT_CATALOGUE_ENTRIES ? calloc(1, sizeof(*i)) : NULL;

	if (!i)
		return NULL;
	i->kind = kind;
	i->key = strdup(key);
	i->value = value ? strdup(value) : NULL;
	if (!i->key || (value && !i->value)) {
		free(i->key);
		free(i->value);
		free(i);
		return NULL;
	}
	HASH_ADD_KEYPTR(hh, *table, i->key, strlen(i->key), i);
	return i;
}

/* ------------------------------------------------------------------ what items mean to others */

static void arm_policy(struct broker *b);

static struct announced announced_of(const struct entry *e)
{
	return (struct announced){ .service = e->service, .up = e->up, .kinds = e->kinds, .lanes = e->lanes };
}

static void list_service(struct broker *b, const struct entry *e)
{
	struct announced a = announced_of(e);
	int r = link_host_lists(b, e->host, &a);

	if (r < 0 && r != -ENOENT) /* its host takes no links, or has not been told yet */
		log_error("catalogue.skipped", LOG_STR("host", e->host), LOG_STR("service", e->service.name), LOG_STR("error", log_errno_name(r)));
}

/* A host that comes after its services. */
static void list_services_of(struct broker *b, const char *host)
{
	size_t n = strlen(host);
	struct entry e;

	for (const struct catalogue_item *i = g_catalogue.items; i; i = i->hh.next) {
		size_t size = i->value && i->kind == ENTRY_SERVICE ? strlen(i->key) : 0;

		if (size > n && i->key[size - n - 1] == '/' && strcmp(i->key + size - n, host) == 0 && entry_parse(&e, i->key, i->value) == 0)
			list_service(b, &e);
	}
}

static void set_host(struct broker *b, const struct entry *e)
{
	int r;

	if (!e->address[0]) {
		link_host_remove(b, e->host, LINK_FROM_CATALOGUE);
		return;
	}
	r = link_host_set(b, e->host, e->address, LINK_FROM_CATALOGUE);
	if (r < 0)
		log_error("catalogue.skipped", LOG_STR("host", e->host), LOG_STR("error", log_errno_name(r)));
	else
		list_services_of(b, e->host);
}

static void show(struct broker *b, const struct catalogue_item *i)
{
	struct entry e;

	if (entry_parse(&e, i->key, i->value) < 0)
		return;
	if (i->kind == ENTRY_HOST)
		set_host(b, &e);
	else if (i->kind == ENTRY_SERVICE)
		list_service(b, &e);
	else
		arm_policy(b);
}

static void hide(struct broker *b, const struct catalogue_item *i)
{
	struct entry e;

	entry_parse_key(&e, i->key);
	if (i->kind == ENTRY_HOST)
		link_host_remove(b, e.host, LINK_FROM_CATALOGUE);
	else if (i->kind == ENTRY_SERVICE)
		link_host_unlists(b, e.host, &e.service);
	else
		arm_policy(b);
}

/* ------------------------------------------------------------------ changes */

/* How many lanes there are is no reason to write to the disk. */
static bool is_news(const struct catalogue_item *i, const char *value)
{
	struct entry was, is;

	return i->kind != ENTRY_SERVICE || !i->value || entry_parse(&was, i->key, i->value) < 0 || entry_parse(&is, i->key, value) < 0 ||
	       was.kinds != is.kinds;
}

static void put(struct broker *b, const char *key, const char *value, enum entry_kind kind)
{
	struct catalogue_item *i = find_in(g_catalogue.items, key);
	AUTO_FREE(char) copy = NULL;

	if (!i && has_room(key, kind))
		i = add_item(&g_catalogue.items, key, NULL, kind);
	if (!i)
		return;
	i->there = true;
	i->leaving_ns = 0;
	if (i->value && strcmp(i->value, value) == 0)
		return;
	copy = strdup(value);
	if (!copy)
		return;
	i->dirty |= is_news(i, value);
	*count_of(kind) += i->value == NULL;
	free(i->value);
	i->value = take_ptr(copy);
	i->told = false;
	g_catalogue.status.n_changes++;
	show(b, i);
}

static void remove_item(struct broker *b, struct catalogue_item *i)
{
	if (!i->value)
		return;
	free(i->value);
	i->value = NULL;
	i->dirty = true;
	i->leaving_ns = 0;
	--*count_of(i->kind);
	g_catalogue.status.n_changes++;
	hide(b, i);
}

static void leave(struct broker *b, struct catalogue_item *i)
{
	i->there = false;
	if (i->kind == ENTRY_INTENTION)
		remove_item(b, i);
	else if (!i->leaving_ns)
		i->leaving_ns = (int64_t)(clock_ns() + (uint64_t)(b->config->etcd.lease_s * 1e9));
}

/* ------------------------------------------------------------------ a whole range */

static void log_malformed(const char *key)
{
	static struct bucket bucket;
	static uint64_t n_unlogged;

	g_catalogue.status.n_malformed++;
	if (!bucket.rate_per_s)
		bucket_init(&bucket, MALFORMED_LOGGED_PER_S, MALFORMED_LOGGED_PER_S, clock_ns());
	if (bucket_available(&bucket, clock_ns()) == 0) {
		n_unlogged++;
		return;
	}
	bucket_take(&bucket, 1);
	log_warn("catalogue.malformed", LOG_STR("key", key), LOG_STR("then", "what was known under it stays; write it anew or delete it in etcd"),
		 LOG_U64("more", n_unlogged));
	n_unlogged = 0;
}

void catalogue_on_begin(struct broker *b)
{
	clear_table(&g_catalogue.staging);
	g_catalogue.in_range = true;
	g_catalogue.range_short = false;
	g_catalogue.seen = (struct entry_epoch){ 0 };
}

/* Which of two a range is, and what is made of it. */
enum judgement { JUDGED_FIRST, JUDGED_SAME, JUDGED_ACCEPTED, JUDGED_RESET };

static enum judgement judge(const struct role_etcd_range *r)
{
	const struct state_known *k = &g_catalogue.status.known;
	const struct entry_epoch *seen = &g_catalogue.seen;

	if (!k->epoch.epoch[0])
		return JUDGED_FIRST;
	if (seen->generation > k->epoch.generation)
		return JUDGED_ACCEPTED;
	return r->cluster_id == k->cluster_id && strcmp(seen->epoch, k->epoch.epoch) == 0 && r->revision >= k->revision ? JUDGED_SAME :
															   JUDGED_RESET;
}

static void merge_staged(struct broker *b, enum entry_kind kind)
{
	for (const struct catalogue_item *i = g_catalogue.staging; i; i = i->hh.next)
		if (i->kind == kind && i->value)
			put(b, i->key, i->value, i->kind);
}

/* What is known and not in the range. A malformed one is there: it stays. */
static void leave_missing(struct broker *b)
{
	struct catalogue_item *i, *next;

	HASH_ITER(hh, g_catalogue.items, i, next)
		if (i->value && !find_in(g_catalogue.staging, i->key))
			leave(b, i);
}

static void take_range(struct broker *b, const struct role_etcd_range *r, enum judgement j)
{
	struct state_known *k = &g_catalogue.status.known;

	if (j == JUDGED_ACCEPTED)
		log_info("catalogue.accepted", LOG_U64("generation", g_catalogue.seen.generation), LOG_STR("epoch", g_catalogue.seen.epoch));
	if (!g_catalogue.range_short)
		leave_missing(b);
	merge_staged(b, ENTRY_HOST);
	merge_staged(b, ENTRY_SERVICE);
	merge_staged(b, ENTRY_INTENTION);
	memcpy(k->prefix, b->config->etcd.prefix, sizeof(k->prefix));
	k->cluster_id = r->cluster_id;
	k->revision = r->revision;
	k->epoch = g_catalogue.seen;
	k->reset_unix_s = 0;
	g_catalogue.status.n_waiting = 0;
	g_catalogue.known_dirty = true;
}

/* Nothing that is known goes; hosts that turn up in the new data are hosts. */
static void keep_through_reset(struct broker *b, const struct role_etcd_range *r)
{
	struct catalogue_status *s = &g_catalogue.status;

	for (struct catalogue_item *i = g_catalogue.items; i; i = i->hh.next) {
		i->leaving_ns = 0;
		i->there = false;
	}
	merge_staged(b, ENTRY_HOST);
	merge_staged(b, ENTRY_SERVICE);
	s->n_waiting = 0;
	for (const struct catalogue_item *i = g_catalogue.staging; i; i = i->hh.next)
		s->n_waiting += i->kind == ENTRY_INTENTION && i->value;
	if (s->known.reset_unix_s)
		return;
	s->known.reset_unix_s = unix_now_s();
	s->n_resets++;
	g_catalogue.known_dirty = true;
	log_error("catalogue.reset", LOG_U64("known_revision", s->known.revision), LOG_U64("revision", r->revision),
		  LOG_STR("known_epoch", s->known.epoch.epoch), LOG_STR("epoch", g_catalogue.seen.epoch), LOG_U64("intentions_kept", s->n_intentions),
		  LOG_U64("intentions_waiting", s->n_waiting),
		  LOG_STR("why", "etcd has other data than it had: lost, restored, or another cluster; what was known stays in force"),
		  LOG_STR("do", "`sealane catalogue restore` writes the known intentions back; `sealane catalogue accept` takes what etcd has now"));
}

void catalogue_on_end(struct broker *b, const struct role_etcd_range *r)
{
	enum judgement j = judge(r);

	if (!g_catalogue.in_range || !g_catalogue.seen.epoch[0] || r->revision > INT64_MAX)
		return;
	g_catalogue.in_range = false;
	g_catalogue.status.n_ranges++;
	g_catalogue.status.known.heard_unix_s = unix_now_s();
	if (j == JUDGED_RESET)
		keep_through_reset(b, r);
	else
		take_range(b, r, j);
	clear_table(&g_catalogue.staging);
}

/* ------------------------------------------------------------------ single entries */

static void stage(const char *key, const char *value, enum entry_kind kind)
{
	struct catalogue_item *i = find_in(g_catalogue.staging, key);

	if (i) /* a lie: etcd has each key once; the first counts */
		return;
	if (add_item(&g_catalogue.staging, key, value, kind))
		return;
	g_catalogue.range_short = true; /* what is not in the table is not known to be missing */
	tell_full(key, kind);
}

static void on_change(struct broker *b, const struct role_etcd_entry *e, enum entry_kind kind)
{
	bool waits = kind == ENTRY_INTENTION && g_catalogue.status.known.reset_unix_s != 0;
	struct catalogue_item *i;

	if (!g_catalogue.status.known.reset_unix_s && e->revision > g_catalogue.status.known.revision && e->revision <= INT64_MAX)
		g_catalogue.status.known.revision = e->revision;
	if (waits)
		return;
	if (e->state == ETCD_ENTRY_PUT) {
		put(b, e->key, e->value, kind);
		return;
	}
	i = catalogue_find(e->key);
	if (i && e->state == ETCD_ENTRY_GONE && (i->there || !g_catalogue.status.known.reset_unix_s))
		leave(b, i);
}

void catalogue_on_entry(struct broker *b, const struct role_etcd_entry *m)
{
	bool has_value = m->state == ETCD_ENTRY_PUT;
	struct entry e;

	entry_parse_key(&e, m->key);
	/* What the role let by and this parser does not is a fault of the role. */
	if (e.kind == ENTRY_OTHER || (has_value && entry_parse_value(&e, m->value, strlen(m->value)) < 0))
		return;
	if (m->state == ETCD_ENTRY_MALFORMED)
		log_malformed(m->key);
	if (e.kind == ENTRY_EPOCH) {
		if (has_value && g_catalogue.in_range)
			g_catalogue.seen = e.epoch;
		return;
	}
	if (e.host[0] && strcmp(e.host, b->host) == 0)
		return; /* ourselves */
	if (g_catalogue.in_range)
		stage(m->key, has_value ? m->value : NULL, e.kind);
	else
		on_change(b, m, e.kind);
}

/* ------------------------------------------------------------------ intentions */

struct pair_list {
	struct service_pattern (*pairs)[2];
	size_t n, cap;
};

static int gather_pair(void *arg, const struct intention *i)
{
	struct pair_list *l = arg;

	if (i->origin != INTENTION_FROM_CLUSTER)
		return 0;
	if (l->n == l->cap) {
		size_t cap = l->cap ? 2 * l->cap : 64;
		void *bigger = reallocarray(l->pairs, cap, sizeof(*l->pairs));

		if (!bigger)
			return -ENOMEM;
		l->pairs = bigger;
		l->cap = cap;
	}
	l->pairs[l->n][0] = i->source;
	l->pairs[l->n++][1] = i->destination;
	return 0;
}

static int drop_from_policy(struct broker *b)
{
	struct pair_list l = { 0 };
	int r = policy_each(b->policy, gather_pair, &l);

	for (size_t i = 0; r == 0 && i < l.n; i++)
		if (policy_remove(b->policy, &l.pairs[i][0], &l.pairs[i][1], INTENTION_FROM_CLUSTER) < 0)
			log_error("catalogue.policy", LOG_STR("why", "an intention that was there is not"));
	free(l.pairs);
	return r;
}

static void log_conflict(const struct intention *i, const struct intention *other, const char *wins)
{
	char source[LIMIT_SERVICE_SIZE], destination[LIMIT_SERVICE_SIZE];

	log_warn("intention.conflict", LOG_STR("source", service_pattern_format(source, &i->source)),
		 LOG_STR("destination", service_pattern_format(destination, &i->destination)), LOG_STR("cluster", i->where),
		 LOG_STR(other->origin == INTENTION_FROM_FILE ? "file" : "runtime", other->where), LOG_STR("wins", wins));
}

static void tell_conflicts(struct broker *b, const struct intention *i)
{
	const struct intention *file = policy_find(b->policy, &i->source, &i->destination, INTENTION_FROM_FILE);
	const struct intention *runtime = policy_find(b->policy, &i->source, &i->destination, INTENTION_FROM_RUNTIME);

	if (file && file->action != i->action)
		log_conflict(i, file, "cluster; `sealane intention rm --cluster` gives the file its say again");
	if (runtime && runtime->action != i->action)
		log_conflict(i, runtime, "runtime; `sealane intention rm` gives the cluster its say again");
}

static void add_to_policy(struct broker *b, struct catalogue_item *item)
{
	const struct intention *other = NULL;
	bool told = item->told;
	struct entry e;
	int r;

	if (entry_parse(&e, item->key, item->value) < 0)
		return;
	item->told = true;
	r = policy_add(b->policy, &e.intention, &other);
	if (r == POLICY_E_TIE && !told)
		log_warn("catalogue.tie", LOG_STR("ignored", item->key), LOG_STR("decides", other->where),
			 LOG_STR("do", "delete one of them in etcd: both are for the same pair"));
	else if (r == POLICY_E_FULL || r < 0)
		log_error("intention.skipped", LOG_STR("where", e.intention.where), LOG_STR("why", "out of room"));
	else if (r == 0 && !told)
		tell_conflicts(b, &e.intention);
}

static int compare_keys(const void *a, const void *b)
{
	return strcmp((*(struct catalogue_item *const *)a)->key, (*(struct catalogue_item *const *)b)->key);
}

static void load(struct broker *b);

void catalogue_add_intentions(struct broker *b)
{
	AUTO_FREE(struct catalogue_item *) sorted = NULL;
	size_t n = 0;

	load(b);
	sorted = calloc(HASH_COUNT(g_catalogue.items) + 1, sizeof(*sorted));
	for (struct catalogue_item *i = g_catalogue.items; i && sorted; i = i->hh.next)
		if (i->kind == ENTRY_INTENTION && i->value)
			sorted[n++] = i;
	if (sorted)
		qsort(sorted, n, sizeof(*sorted), compare_keys);
	for (size_t i = 0; i < n; i++)
		add_to_policy(b, sorted[i]);
}

static void on_policy_time(struct broker *b, void *arg)
{
	g_catalogue.policy_armed = false;
	if (drop_from_policy(b) == 0)
		catalogue_add_intentions(b);
	else
		arm_policy(b);
	model_refresh(b);
}

static void arm_policy(struct broker *b)
{
	if (g_catalogue.policy_armed)
		return;
	g_catalogue.policy_armed = true;
	broker_after(b, POLICY_MS, on_policy_time, NULL);
}

/* ------------------------------------------------------------------ the disk */

static int load_item(void *arg, const char *key, const char *value)
{
	struct entry e;

	entry_parse_key(&e, key);
	if (add_item(&g_catalogue.items, key, value, e.kind))
		++*count_of(e.kind);
	return 0;
}

/* Before the first policy is made: lanes of an earlier daemon are decided by it. */
static void load(struct broker *b)
{
	struct state_known *k = &g_catalogue.status.known;
	int r;

	if (g_catalogue.loaded || !b->config->etcd.present)
		return;
	g_catalogue.loaded = true;
	r = state_catalogue_known(b->state, k);
	if (r == 0 && strcmp(k->prefix, b->config->etcd.prefix) != 0) {
		*k = (struct state_known){ .prefix = "" }; /* another cluster's, by the operator's own word */
		r = state_catalogue_forget(b->state);
		log_info("catalogue.forgotten", LOG_STR("why", "the prefix was changed"));
	} else if (r == 0) {
		r = state_catalogue_each(b->state, load_item, b);
		log_info("catalogue.from_disk", LOG_I64("age_s", unix_now_s() - k->heard_unix_s), LOG_U64("hosts", g_catalogue.status.n_hosts),
			 LOG_U64("services", g_catalogue.status.n_services), LOG_U64("intentions", g_catalogue.status.n_intentions),
			 LOG_BOOL("reset", k->reset_unix_s != 0));
	}
	if (r < 0 && r != -ENOENT)
		log_error("catalogue.disk_failed", LOG_STR("error", log_errno_name(r)), LOG_STR("why", "what was known last cannot be read"));
}

void catalogue_begin(struct broker *b)
{
	load(b);
	for (const struct catalogue_item *i = g_catalogue.items; i; i = i->hh.next)
		if (i->kind == ENTRY_HOST)
			show(b, i);
}

static void write_disk(struct broker *b)
{
	AUTO_FREE(struct state_change) changes = calloc(HASH_COUNT(g_catalogue.items) + 1, sizeof(*changes));
	struct catalogue_item *i, *next;
	size_t n = 0;
	int r;

	for (i = g_catalogue.items; i && changes; i = i->hh.next)
		if (i->dirty)
			changes[n++] = (struct state_change){ .key = i->key, .value = i->value };
	r = changes ? state_catalogue_write(b->state, &g_catalogue.status.known, changes, n) : -ENOMEM;
	g_catalogue.written_unix_s = unix_now_s(); /* tried again in a minute, or with the next change */
	g_catalogue.known_dirty = false;
	if (r < 0) {
		log_error("catalogue.disk_failed", LOG_STR("error", log_errno_name(r)), LOG_STR("why", "what is known is not on the disk"));
		return;
	}
	HASH_ITER(hh, g_catalogue.items, i, next) {
		i->dirty = false;
		if (!i->value)
			free_item(&g_catalogue.items, i);
	}
}

static bool disk_is_behind(void)
{
	if (!g_catalogue.status.known.epoch.epoch[0])
		return false;
	if (g_catalogue.known_dirty || unix_now_s() - g_catalogue.written_unix_s > KNOWN_WRITE_S)
		return true;
	for (const struct catalogue_item *i = g_catalogue.items; i; i = i->hh.next)
		if (i->dirty)
			return true;
	return false;
}

/* ------------------------------------------------------------------ time */

/* etcd may have lost sight of a host that we have a session to. */
static bool is_in_touch(const struct broker *b, const struct catalogue_item *i)
{
	struct entry e;

	entry_parse_key(&e, i->key);
	for (const struct link_host *h = b->hosts; h; h = h->hh.next)
		if (strcmp(h->name, e.host) == 0)
			return h->state == LINK_HOST_UP;
	return false;
}

void catalogue_settle(struct broker *b)
{
	int64_t now = (int64_t)clock_ns();
	struct catalogue_item *i, *next;

	HASH_ITER(hh, g_catalogue.items, i, next)
		if (i->leaving_ns && i->leaving_ns <= now && !is_in_touch(b, i))
			remove_item(b, i);
	if (g_catalogue.status.state == ETCD_UP)
		g_catalogue.status.known.heard_unix_s = unix_now_s();
	if (disk_is_behind())
		write_disk(b);
}

void catalogue_forget(struct broker *b)
{
	struct catalogue_item *i, *next;

	HASH_ITER(hh, g_catalogue.items, i, next)
		remove_item(b, i);
	clear_table(&g_catalogue.items);
	clear_table(&g_catalogue.staging);
	g_catalogue = (struct catalogue){ .policy_armed = g_catalogue.policy_armed };
	if (state_catalogue_forget(b->state) < 0)
		log_error("catalogue.disk_failed", LOG_STR("why", "what was known of a cluster that is not configured any more is still in the state database"));
}

void catalogue_stop(struct broker *b)
{
	if (g_catalogue.loaded && disk_is_behind())
		write_disk(b);
	clear_table(&g_catalogue.items);
	clear_table(&g_catalogue.staging);
}
