/*
 * Theory of operation: a name that nobody knows may be one that is not there yet, or a slip of the pen, and only who said it knows which. So
 * what is taken back has to be known (broker_authority_revoke.c), and what is given need not be: a grant or a token for it is made, and a note
 * comes with the answer that says which known name it is near to.
 *
 * Known to the book: what the authority has granted, put into tokens that are open, issued. For notes also what this host's configuration names, and what other
 * hosts say that they offer. A note is for people: nothing is decided by it.
 */
#include "daemon/broker_names.h"

#include "conf/guess.h"
#include "daemon/broker_ca.h"
#include "daemon/broker_int.h"
#include "daemon/state_asker.h"

#include <stdarg.h>
#include <stdio.h>

/* Below this many letters everything is near everything. */
enum { SLIP_LENGTH_MIN = 4 };

void names_free(struct names *k)
{
	json_decref(k->hosts);
	json_decref(k->services);
}

int names_add(json_t *set, const char *name)
{
	return json_object_set_new(set, name, json_true());
}

static int know_service(struct names *k, const struct service_name *s)
{
	char text[LIMIT_SERVICE_SIZE];

	return names_add(k->services, service_name_format(text, s));
}

static int know_grant(void *arg, const struct state_grant *g)
{
	struct names *k = arg;

	if (g->pattern.rank == PATTERN_EXACT && know_service(k, &g->pattern.service) < 0)
		return -ENOMEM;
	return names_add(k->hosts, g->host);
}

static int know_token(void *arg, const struct state_token *t)
{
	struct names *k = arg;
	struct service_pattern p;
	char text[STATE_SERVICES_SIZE], *save = NULL;

	if (!ca_token_is_open(t))
		return 0; /* what it gave stands in grants; one that was withdrawn may have been a slip */
	memcpy(text, t->services, sizeof(text));
	for (char *word = strtok_r(text, " ", &save); word; word = strtok_r(NULL, " ", &save))
		if (service_pattern_parse(&p, word, NULL) == 0 && p.rank == PATTERN_EXACT && know_service(k, &p.service) < 0)
			return -ENOMEM;
	return names_add(k->hosts, t->host);
}

static int know_issued(void *arg, const struct state_issued *i, uint64_t n)
{
	struct names *k = arg;
	struct service_name s;

	if (spiffe_id_parse(&s, i->spiffe_id, g_ca.trust_domain) == 0 && know_service(k, &s) < 0)
		return -ENOMEM;
	return names_add(k->hosts, i->host);
}

int names_known(struct broker *b, struct names *k)
{
	int r;

	*k = (struct names){ .hosts = json_object(), .services = json_object() };
	r = k->hosts && k->services ? names_add(k->hosts, g_ca.membership.host) : -ENOMEM;
	for (const struct credential *c = g_ca.credentials; c && r == 0; c = c->hh.next)
		r = c->service.name[0] ? know_service(k, &c->service) : 0;
	if (r == 0)
		r = state_each_grant(b->state, know_grant, k);
	if (r == 0)
		r = state_each_token(b->state, know_token, k);
	return r == 0 ? state_each_newest(b->state, unix_now_s(), know_issued, k) : r;
}

const char *names_near(const json_t *set, const char *wanted, char buf[160])
{
	struct config_guess g = { .wanted = wanted };
	const char *name;
	json_t *unused;

	json_object_foreach((json_t *)set, name, unused)
		config_guess_add(&g, name);
	return config_guess_text(&g, buf);
}

static int know_open(void *set, const struct state_token *t)
{
	return ca_token_is_open(t) ? names_add(set, t->host) : 0;
}

int names_of_open_tokens(struct broker *b, json_t *set)
{
	return state_each_token(b->state, know_open, set);
}

/* ------------------------------------------------------------------ notes */

static int know_elsewhere(struct names *k, const struct link_host *h)
{
	int r = names_add(k->hosts, h->name);

	for (size_t i = 0; i < h->n_offers && r == 0; i++)
		r = know_service(k, &h->offers[i].service);
	for (size_t i = 0; i < h->n_listed && r == 0; i++)
		r = know_service(k, &h->listed[i].service);
	for (size_t i = 0; i < h->n_said && r == 0; i++)
		r = know_service(k, &h->said[i]);
	return r;
}

static int know_intention(void *arg, const struct intention *i)
{
	int r = i->source.rank == PATTERN_EXACT ? know_service(arg, &i->source.service) : 0;

	return r == 0 && i->destination.rank == PATTERN_EXACT ? know_service(arg, &i->destination.service) : r;
}

static int know_more(struct broker *b, struct names *k)
{
	int r = policy_each(b->policy, know_intention, k);

	for (const struct link_host *h = b->hosts; h && r == 0; h = h->hh.next)
		r = know_elsewhere(k, h);
	for (size_t i = 0; i < b->n_upstreams && r == 0; i++)
		r = b->upstreams[i].removed ? 0 : know_service(k, &b->upstreams[i].destination);
	return r;
}

/* "db1" and "db2", "node-a" and "node-b" are two of a row, not one and a slip. */
static bool are_of_a_row(const char *a, const char *b)
{
	static const char digits[] = "0123456789";
	size_t n = strlen(a);

	if (n == strlen(b) && strncmp(a, b, n - 1) == 0)
		return true;
	for (;; a++, b++) {
		a += strspn(a, digits);
		b += strspn(b, digits);
		if (*a != *b || !*a)
			return *a == *b;
	}
}

/* What a name may be a slip of. */
struct slip {
	struct config_guess guess;
	bool of_a_row; /* with one that is known: then it is one more, and no slip */
};

static void consider(struct slip *s, const char *name)
{
	s->of_a_row |= are_of_a_row(name, s->guess.wanted);
	config_guess_add(&s->guess, name);
}

static const char *best(const struct slip *s)
{
	char unused[160];

	return !s->of_a_row && strlen(s->guess.wanted) >= SLIP_LENGTH_MIN && config_guess_text(&s->guess, unused)[0] ? s->guess.best : NULL;
}

/* The known host that it is nearly; NULL: near to none. */
static const char *near_host(const struct names *k, const char *wanted)
{
	struct slip s = { .guess.wanted = wanted };
	const char *name;
	json_t *unused;

	json_object_foreach(k->hosts, name, unused)
		consider(&s, name);
	return best(&s);
}

/* "ns/name", of which people mistype the name: it is compared with those of its namespace. */
static const char *near_service(const struct names *k, const char *wanted)
{
	size_t n_ns = strcspn(wanted, "/") + 1;
	struct slip s = { .guess.wanted = wanted + n_ns };
	const char *name;
	json_t *unused;

	json_object_foreach(k->services, name, unused)
		if (strncmp(name, wanted, n_ns) == 0)
			consider(&s, name + n_ns);
	return best(&s);
}

static int PRINTF_LIKE(2, 3) note(json_t *notes, const char *fmt, ...)
{
	char line[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	return json_array_append_new(notes, json_string(line));
}

static int note_host(json_t *notes, const struct names *k, struct broker *b, const char *host, bool grants)
{
	const char *slip = near_host(k, host);
	struct state_asker unused;

	if (state_find_asker(b->state, host, &unused) == 0)
		return grants ? 0 : note(notes, "host %s has joined already: whoever joins with this takes its place, and what was there before gets no new"
						" certificates. Another machine needs a host_name of its own", host);
	if (json_object_get(k->hosts, host))
		return 0;
	if (grants)
		return note(notes, "no host %s has joined, nor has a token: what is granted waits for it (`sealane ca token %s`)%s%s%s", host, host,
			    slip ? "; did you mean '" : "", slip ? slip : "", slip ? "'?" : "");
	return slip ? note(notes, "no host %s has joined yet: this token is for one that will be called so. Did you mean '%s'? Then `sealane ca withdraw %s`",
			   host, slip, host) :
		      0;
}

static int note_service(json_t *notes, const struct names *k, const char *host, const char *service, bool grants)
{
	const char *slip = strchr(service, '*') || json_object_get(k->services, service) ? NULL : near_service(k, service);

	if (!slip)
		return 0;
	return note(notes, "no service %s is known here; it is allowed as it was written. Did you mean '%.*s%s'? Then `sealane ca %s %s%s%s`", service,
		    (int)strcspn(service, "/") + 1, service, slip, grants ? "ungrant" : "withdraw", host, grants ? " " : "", grants ? service : "");
}

json_t *names_notes(struct broker *b, const char *host, const char *services, bool grants)
{
	char text[STATE_SERVICES_SIZE], *save = NULL;
	json_t *notes = json_array();
	struct names k;
	int r = names_known(b, &k);

	if (r == 0)
		r = !notes || !str_copy(text, sizeof(text), services) ? -ENOMEM : know_more(b, &k);
	if (r == 0)
		r = note_host(notes, &k, b, host, grants);
	for (char *word = r == 0 ? strtok_r(text, " ", &save) : NULL; word && r == 0; word = strtok_r(NULL, " ", &save))
		r = note_service(notes, &k, host, word, grants);
	names_free(&k);
	if (r == 0)
		return notes;
	json_decref(notes);
	return NULL;
}
