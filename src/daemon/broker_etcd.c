/*
 * Theory of operation: the broker's end of the channel to the role that talks to etcd. It says where etcd is, what is ours (this
 * host, its services and how they are: compared once a second with what was said, so nobody else has to remember to), and what an
 * operator wants written; what comes back goes to broker_catalogue.c, answers to those who wait for them.
 *
 * The role is replaced when the configuration of etcd changed, and at every reload if there are files that it read.
 *
 * Before this file: broker.c (the channel), broker_api.c (an operator). After it: catalogue.c.
 */
#include "daemon/broker_catalogue.h"
#include "daemon/broker_int.h"

#include "core/base64.h"

#include <stdio.h>
#include <sys/queue.h>
#include <sys/random.h>

enum {
	TICK_MS = 1000,
	/* How many lanes a service has, others may know a little late. */
	LANES_EVERY_TICKS = 5,
	ORDERS_MAX = LIMIT_CATALOGUE_ENTRIES,
	/* From etcd's word that it has an epoch until its data was read anew: one range, and the pause before it. */
	ACCEPT_MAX_MS = 30 * 1000,
};

/* Something of ours, as it was said last. */
struct own {
	char key[LIMIT_CATALOGUE_KEY_SIZE];
	char value[64 + LIMIT_ADDRESS_SIZE];
	bool seen;
	unsigned kinds; /* of a service; 0: it is not up */
	uint32_t lanes;
	UT_hash_handle hh;
};

/* Somebody waits for EB_DONE. */
struct order {
	uint32_t seq;
	broker_done_fn done;
	void *arg;
	UT_hash_handle hh;
};

/* An epoch of an operator's. It is done when etcd has told it back: then what goes with it counts here. */
struct accepting {
	uint64_t generation, deadline_ns;
	broker_done_fn done;
	void *arg;
	LIST_ENTRY(accepting) next; /* once etcd has it */
};

/* Intentions that are being written back, and then the epoch. */
struct restore {
	size_t n_left, n_written;
	int error;
	bool sent; /* all of them */
	char why[256], by[ENTRY_BY_SIZE];
	broker_done_fn done;
	void *arg;
	struct broker *b;
};

static struct {
	bool wanted, ticking;
	unsigned n_ticks;
	struct role_etcd setup; /* as the role that runs was told */
	char paths[ETCD_FILE_N][LIMIT_PATH_SIZE];
	struct own *own;
	struct order *orders;
	LIST_HEAD(, accepting) accepting;
	uint32_t seq;
} g_etcd;

/* ------------------------------------------------------------------ what is ours */

static void tell(struct broker *b, uint32_t type, uint32_t seq, const char *key, const char *value)
{
	struct role_msg m = { .type = type, .seq = seq, .u.entry.state = value ? ETCD_ENTRY_PUT : ETCD_ENTRY_GONE };

	if (!str_copy(m.u.entry.key, sizeof(m.u.entry.key), key) ||
	    !str_copy(m.u.entry.value, sizeof(m.u.entry.value), value ? value : ""))
		return;
	broker_tell_catalogue(b, &m);
}

/* A change of numbers alone waits for the next @round. */
static void say(struct broker *b, const struct entry *e, bool round)
{
	char key[LIMIT_CATALOGUE_KEY_SIZE], value[LIMIT_CATALOGUE_VALUE_SIZE];
	struct own *o;

	entry_format_key(key, e);
	HASH_FIND_STR(g_etcd.own, key, o);
	if (o && e->kind == ENTRY_SERVICE && e->kinds == o->kinds && (e->lanes == o->lanes || !round)) {
		o->seen = true;
		return;
	}
	if (entry_format_value(value, e) < 0)
		return;
	if (!o) {
		o = calloc(1, sizeof(*o));
		if (!o || !str_copy(o->key, sizeof(o->key), key)) {
			free(o);
			return;
		}
		HASH_ADD_STR(g_etcd.own, key, o);
	}
	o->seen = true;
	o->kinds = e->kinds;
	o->lanes = e->lanes;
	if (strcmp(o->value, value) == 0)
		return;
	if (str_copy(o->value, sizeof(o->value), value))
		tell(b, BE_OWN, 0, key, value);
}
static_assert(sizeof(((struct own *)0)->value) > sizeof("{\"address\":\"\"}") + LIMIT_ADDRESS_SIZE, "a host's value fits");

/* One address, not all of the machine's. */
static bool is_dialable(const char *address)
{
	return address[0] && strncmp(address, "0.0.0.0:", 8) != 0 && strncmp(address, "[::]:", 5) != 0;
}

static const char *own_address(const struct broker *b)
{
	const struct config *c = b->config;

	if (c->etcd.address[0])
		return c->etcd.address;
	for (size_t i = 0; i < c->n_hosts; i++)
		if (strcmp(c->hosts[i].name, b->host) == 0)
			return c->hosts[i].address;
	for (size_t i = 0; i < c->link.n_listen; i++)
		if (is_dialable(c->link.listen[i]))
			return c->link.listen[i];
	return "";
}

static void say_host(struct broker *b)
{
	struct entry e = { .kind = ENTRY_HOST };

	memcpy(e.host, b->host, sizeof(e.host));
	if (str_copy(e.address, sizeof(e.address), own_address(b)))
		say(b, &e, true);
}

/* As link_announce() says it to those that we have a session to. */
static void say_services(struct broker *b, bool round)
{
	AUTO_FREE(uint32_t) lanes = calloc(b->n_services + 1, sizeof(*lanes));

	if (!lanes)
		return;
	for (const struct lane *l = b->lanes; l; l = l->hh.next)
		if (l->sid < b->n_services && !l->shm.pending && !l->link.opening)
			lanes[l->sid]++;
	for (size_t i = 0; i < b->n_services; i++) {
		const struct service *s = &b->services[i];
		struct entry e = { .kind = ENTRY_SERVICE, .service = s->name, .lanes = lanes[i] };
		struct announced a;

		if (!link_offer(b, s, &a))
			continue;
		e.up = a.up;
		e.kinds = a.kinds;
		memcpy(e.host, b->host, sizeof(e.host));
		say(b, &e, round);
	}
}

static void say_all(struct broker *b, bool round)
{
	struct own *o, *next;

	for (o = g_etcd.own; o; o = o->hh.next)
		o->seen = false;
	say_host(b);
	say_services(b, round);
	HASH_ITER(hh, g_etcd.own, o, next) {
		if (o->seen)
			continue;
		tell(b, BE_OWN, 0, o->key, NULL);
		HASH_DEL(g_etcd.own, o);
		free(o);
	}
}

static void forget_own(void)
{
	struct own *o, *next;

	HASH_ITER(hh, g_etcd.own, o, next) {
		HASH_DEL(g_etcd.own, o);
		free(o);
	}
}

static void accepting_end(struct accepting *a, int error, const char *why)
{
	LIST_REMOVE(a, next);
	a->done(a->arg, error, why);
	free(a);
}

/* Has the decision arrived? */
static void accepting_look(void)
{
	const struct state_known *k = &g_catalogue.status.known;
	uint64_t now = clock_ns();
	struct accepting *a, *next;

	for (a = LIST_FIRST(&g_etcd.accepting); a; a = next) {
		next = LIST_NEXT(a, next);
		if (k->epoch.generation >= a->generation && !k->reset_unix_s)
			accepting_end(a, 0, "");
		else if (now >= a->deadline_ns)
			accepting_end(a, -ETIMEDOUT, "etcd has taken it, but has not told its data again within 30 s: `sealane catalogue` says how it stands");
	}
}

static void accepting_fail(const char *why)
{
	struct accepting *a;

	while ((a = LIST_FIRST(&g_etcd.accepting)))
		accepting_end(a, -EHOSTDOWN, why);
}

static void on_tick(struct broker *b, void *arg)
{
	g_etcd.ticking = g_etcd.wanted;
	if (!g_etcd.wanted)
		return;
	catalogue_settle(b);
	accepting_look();
	if (b->catalogue.fd >= 0)
		say_all(b, g_etcd.n_ticks++ % LANES_EVERY_TICKS == 0);
	broker_after(b, TICK_MS, on_tick, NULL);
}

/* ------------------------------------------------------------------ the role */

static void set_state(enum etcd_state state, const char *endpoint, const char *why)
{
	struct catalogue_status *s = &g_catalogue.status;
	bool news = s->state != state || s->since_unix_s == 0 || (state != ETCD_UP && strcmp(s->why, why) != 0);

	if (s->state != state || s->since_unix_s == 0)
		s->since_unix_s = unix_now_s();
	if (s->state == ETCD_UP && state != ETCD_UP)
		s->n_faults++;
	s->state = state;
	if (!str_copy(s->endpoint, sizeof(s->endpoint), endpoint) || !str_copy(s->why, sizeof(s->why), why))
		s->why[0] = '\0';
	if (!news)
		return;
	if (state == ETCD_UP)
		log_info("catalogue.up", LOG_STR("endpoint", endpoint), LOG_U64("revision", s->known.revision));
	else if (state == ETCD_AWAY)
		log_warn("catalogue.away", LOG_STR("endpoint", endpoint), LOG_STR("why", why), LOG_STR("then", "what was known stays in force"));
	else if (state == ETCD_REFUSED)
		log_error("catalogue.refused", LOG_STR("endpoint", endpoint), LOG_STR("why", why));
}

static void order_answer(struct order *o, int error, const char *why)
{
	broker_done_fn done = o->done;
	void *arg = o->arg;

	HASH_DEL(g_etcd.orders, o);
	free(o);
	done(arg, error, why);
}

static void orders_fail(const char *why)
{
	struct order *o, *next;

	HASH_ITER(hh, g_etcd.orders, o, next)
		order_answer(o, -EHOSTDOWN, why);
}

void catalogue_on_lost(struct broker *b)
{
	if (!g_etcd.wanted)
		return;
	orders_fail("the process that talks to etcd has ended; whether it was written is not known: look again");
	set_state(ETCD_AWAY, g_catalogue.status.endpoint, "the process that talks to etcd has ended, and is started again");
	g_catalogue.in_range = false;
}

void catalogue_on_started(struct broker *b)
{
	struct role_msg m = { .type = BE_SETUP, .u.etcd = g_etcd.setup };

	if (!g_etcd.wanted)
		return;
	forget_own();
	say_all(b, true);
	broker_tell_catalogue(b, &m);
}

static void fill_setup(const struct broker *b, struct role_etcd *s, char paths[ETCD_FILE_N][LIMIT_PATH_SIZE])
{
	const struct config_etcd *c = &b->config->etcd;
	const char *const files[ETCD_FILE_N] = { [ETCD_FILE_CA] = c->ca, [ETCD_FILE_CERTIFICATE] = c->certificate, [ETCD_FILE_KEY] = c->key,
						 [ETCD_FILE_PASSWORD] = c->password_file };

	memset(s, 0, sizeof(*s));
	s->lease_s = (uint32_t)c->lease_s;
	s->n_endpoints = (uint32_t)c->n_endpoints;
	memcpy(s->host, b->host, sizeof(s->host));
	memcpy(s->prefix, c->prefix, sizeof(s->prefix));
	memcpy(s->user, c->user, sizeof(s->user));
	memcpy(s->endpoints, c->endpoints, sizeof(s->endpoints));
	for (size_t i = 0; i < ETCD_FILE_N; i++)
		if (!str_copy(paths[i], LIMIT_PATH_SIZE, files[i] ? files[i] : ""))
			paths[i][0] = '\0';
}

static void on_asked(struct broker *b, void *arg, const struct role_reply *reply, int fd)
{
	fd_cleanup(&fd);
	if (reply->error && g_etcd.wanted)
		set_state(ETCD_REFUSED, "", reply->why);
}

static void ask_for_role(struct broker *b)
{
	struct role_msg m = { .type = BW_CATALOGUE, .u.id.id = 1 };

	for (uint32_t i = 0; i < ETCD_FILE_N; i++) {
		struct role_msg f = { .type = BW_CATALOGUE_FILE, .u.etcd_file.kind = i };

		memcpy(f.u.etcd_file.path, g_etcd.paths[i], LIMIT_PATH_SIZE);
		broker_ask(b, &f, -1, NULL, NULL);
	}
	broker_ask(b, &m, -1, on_asked, NULL);
}

static void stop_role(struct broker *b)
{
	struct role_msg m = { .type = BW_CATALOGUE };

	g_etcd.wanted = false;
	orders_fail("etcd was taken out of the configuration");
	accepting_fail("etcd was taken out of the configuration");
	forget_own();
	broker_ask(b, &m, -1, NULL, NULL);
	broker_close_catalogue(b);
	catalogue_forget(b);
}

void catalogue_apply(struct broker *b)
{
	struct role_etcd setup;
	char paths[ETCD_FILE_N][LIMIT_PATH_SIZE];
	bool same, has_files = false;

	if (!b->config->etcd.present) {
		if (g_etcd.wanted)
			stop_role(b);
		return;
	}
	fill_setup(b, &setup, paths);
	same = g_etcd.wanted && memcmp(&setup, &g_etcd.setup, sizeof(setup)) == 0 && memcmp(paths, g_etcd.paths, sizeof(paths)) == 0;
	for (size_t i = 0; i < ETCD_FILE_N; i++)
		has_files |= paths[i][0] != '\0';
	if (same && !has_files)
		return;
	if (g_etcd.wanted && strcmp(setup.prefix, g_etcd.setup.prefix) != 0)
		catalogue_forget(b); /* another cluster's, by the operator's own word */
	g_etcd.setup = setup;
	memcpy(g_etcd.paths, paths, sizeof(paths));
	if (!g_etcd.wanted)
		catalogue_begin(b);
	g_etcd.wanted = g_catalogue.status.configured = true;
	ask_for_role(b);
	if (!own_address(b)[0] && b->config->link.n_listen)
		log_warn("catalogue.no_address", LOG_STR("do", "set `address` in etcd: others cannot be told to dial all addresses of this host"));
	if (!g_etcd.ticking) {
		g_etcd.ticking = true;
		broker_after(b, TICK_MS, on_tick, NULL);
	}
}

static void log_taken(const char *key)
{
	log_warn("catalogue.name_taken", LOG_STR("key", key),
		 LOG_STR("why", "somebody else writes what is ours: another daemon has this host's name"), LOG_STR("do", "give one of them another host_name"));
}

static void on_done(const struct role_msg *m)
{
	struct order *o;

	HASH_FIND_INT(g_etcd.orders, &m->seq, o);
	if (o)
		order_answer(o, m->u.etcd_done.error, m->u.etcd_done.why);
}

static void on_end(struct broker *b, const struct role_etcd_range *r)
{
	catalogue_on_end(b, r);
	accepting_look();
}

void catalogue_on_msg(struct broker *b, const struct role_msg *m)
{
	if (!g_etcd.wanted)
		return;
	if (m->type == EB_STATE)
		set_state(m->u.etcd_state.state, m->u.etcd_state.endpoint, m->u.etcd_state.why);
	else if (m->type == EB_BEGIN)
		catalogue_on_begin(b);
	else if (m->type == EB_ENTRY)
		catalogue_on_entry(b, &m->u.entry);
	else if (m->type == EB_END)
		on_end(b, &m->u.etcd_range);
	else if (m->type == EB_TAKEN)
		log_taken(m->u.entry.key);
	else if (m->type == EB_DONE)
		on_done(m);
	else
		log_error("broker.unexpected_message", LOG_STR("from", "catalogue"), LOG_STR("type", role_msg_name(m->type)));
}

/* ------------------------------------------------------------------ an operator's orders */

static const char g_no_etcd[] = "this host has no cluster: there is no etcd { ... } in its configuration";

/* @value NULL: delete. */
static void order(struct broker *b, uint32_t type, const char *key, const char *value, broker_done_fn done, void *arg)
{
	struct order *o = HASH_COUNT(g_etcd.orders) < ORDERS_MAX ? calloc(1, sizeof(*o)) : NULL;

	if (!g_etcd.wanted || b->catalogue.fd < 0) {
		free(o);
		done(arg, g_etcd.wanted ? -EHOSTDOWN : -ENOENT,
		     g_etcd.wanted ? "the process that talks to etcd is not running (sealane status says why); nothing was changed" : g_no_etcd);
		return;
	}
	if (!o) {
		done(arg, -ENOMEM, "no memory");
		return;
	}
	do
		o->seq = ++g_etcd.seq;
	while (o->seq == 0);
	o->done = done;
	o->arg = arg;
	HASH_ADD_INT(g_etcd.orders, seq, o);
	tell(b, type, o->seq, key, value);
}

static const char g_in_reset[] = "etcd has other data than it had (catalogue.reset): first `sealane catalogue restore`, or `sealane catalogue accept`";

void catalogue_intention_set(struct broker *b, const struct intention *i, const char *by, broker_done_fn done, void *arg)
{
	struct entry e = { .kind = ENTRY_INTENTION, .intention = *i };
	char key[LIMIT_CATALOGUE_KEY_SIZE], value[LIMIT_CATALOGUE_VALUE_SIZE];

	if (g_catalogue.status.known.reset_unix_s) {
		done(arg, -EBUSY, g_in_reset);
		return;
	}
	entry_intention_id(e.id, &i->source, &i->destination);
	entry_format_key(key, &e);
	if (!str_copy(e.by, sizeof(e.by), by) || entry_format_value(value, &e) < 0) {
		done(arg, -ENOMEM, "no memory");
		return;
	}
	order(b, BE_WRITE, key, value, done, arg);
}

/* The key of the pair's intention: ours, or what somebody else called it. */
static const char *key_of_pair(const struct service_pattern *source, const struct service_pattern *destination)
{
	struct entry e;

	for (const struct catalogue_item *i = g_catalogue.items; i; i = i->hh.next)
		if (i->kind == ENTRY_INTENTION && i->value && entry_parse(&e, i->key, i->value) == 0 &&
		    memcmp(&e.intention.source, source, sizeof(*source)) == 0 && memcmp(&e.intention.destination, destination, sizeof(*destination)) == 0)
			return i->key;
	return NULL;
}

void catalogue_intention_remove(struct broker *b, const struct service_pattern *source, const struct service_pattern *destination,
				broker_done_fn done, void *arg)
{
	const char *key = key_of_pair(source, destination);

	if (g_catalogue.status.known.reset_unix_s)
		done(arg, -EBUSY, g_in_reset);
	else if (g_etcd.wanted && !key)
		done(arg, -ENOENT, "the cluster has no intention for this pair");
	else
		order(b, BE_WRITE, key ? key : "", NULL, done, arg);
}

static void on_epoch_written(void *arg, int error, const char *why)
{
	struct accepting *a = arg;

	LIST_INSERT_HEAD(&g_etcd.accepting, a, next);
	if (error)
		accepting_end(a, error, why);
	else
		a->deadline_ns = clock_ns() + (uint64_t)ACCEPT_MAX_MS * 1000000;
}

static void order_epoch(struct broker *b, const char *value, uint64_t generation, broker_done_fn done, void *arg)
{
	struct accepting *a = calloc(1, sizeof(*a));

	if (!a) {
		done(arg, -ENOMEM, "no memory");
		return;
	}
	*a = (struct accepting){ .generation = generation, .done = done, .arg = arg };
	order(b, BE_ACCEPT, "epoch", value, on_epoch_written, a);
}

static void put_epoch(struct broker *b, const char *by, broker_done_fn done, void *arg)
{
	const struct entry_epoch *known = &g_catalogue.status.known.epoch, *seen = &g_catalogue.seen;
	struct entry e = { .kind = ENTRY_EPOCH };
	char value[LIMIT_CATALOGUE_VALUE_SIZE];
	uint8_t random[(ENTRY_EPOCH_SIZE - 1) / 2];

	e.epoch.generation = (known->generation > seen->generation ? known->generation : seen->generation) + 1;
	if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random)) {
		done(arg, -EIO, "no random numbers");
		return;
	}
	hex_encode(e.epoch.epoch, random, sizeof(random));
	if (!str_copy(e.by, sizeof(e.by), by) || entry_format_value(value, &e) < 0) {
		done(arg, -ENOMEM, "no memory");
		return;
	}
	log_info("catalogue.accepting", LOG_U64("generation", e.epoch.generation), LOG_STR("by", by));
	order_epoch(b, value, e.epoch.generation, done, arg);
}

static void restore_end(struct restore *r)
{
	if (r->n_left || !r->sent)
		return;
	g_catalogue.status.n_restored = r->n_written;
	if (r->error)
		r->done(r->arg, r->error, r->why);
	else
		put_epoch(r->b, r->by, r->done, r->arg);
	free(r);
}

static void on_restored(void *arg, int error, const char *why)
{
	struct restore *r = arg;

	if (error && !r->error) {
		r->error = error;
		if (!str_copy(r->why, sizeof(r->why), why))
			r->why[0] = '\0';
	}
	r->n_written += !error;
	r->n_left--;
	restore_end(r);
}

static void restore_all(struct broker *b, struct restore *r)
{
	for (const struct catalogue_item *i = g_catalogue.items; i && !r->error; i = i->hh.next) {
		if (i->kind != ENTRY_INTENTION || !i->value)
			continue;
		r->n_left++;
		order(b, BE_WRITE, i->key, i->value, on_restored, r);
	}
	r->sent = true;
	restore_end(r);
}

void catalogue_accept(struct broker *b, bool restore, const char *by, broker_done_fn done, void *arg)
{
	struct restore *r;

	if (!g_etcd.wanted) {
		done(arg, -ENOENT, g_no_etcd);
		return;
	}
	if (!g_catalogue.status.known.reset_unix_s) {
		done(arg, -EPERM, "there is nothing to decide: etcd has the data that it had");
		return;
	}
	if (!restore) {
		put_epoch(b, by, done, arg);
		return;
	}
	r = calloc(1, sizeof(*r));
	if (!r || !str_copy(r->by, sizeof(r->by), by)) {
		free(r);
		done(arg, -ENOMEM, "no memory");
		return;
	}
	r->done = done;
	r->arg = arg;
	r->b = b;
	restore_all(b, r);
}
