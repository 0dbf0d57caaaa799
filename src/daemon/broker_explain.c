/*
 * Theory of operation: what `sealane explain` prints, computed as the next connection would be decided, and from the same functions.
 *
 * A lane between hosts is decided twice, and each host can only say its own half. So what is explained depends on which end is here:
 *
 *   the source runs here                          its socket file, its route; over a link: which hosts have the service, and what is missing
 *   it does not, and the destination is here      whoever speaks as the source is on another host: its lanes come in over a link, and this
 *                                                 host's word is the second one
 *
 * A pair that is not allowed has two ends as well: it is told which host decides what, what the other one said when it was asked last, and
 * what to run on which host. Only an answer that was had is told of the other host; what it would say now, it alone knows.
 *
 * Before this file: broker_api.c (who asks), core/lane.c (the route). After it: broker_views.c.
 * Must never: say of a source that is elsewhere that its lanes go directly to the server here.
 */
#include "daemon/broker_int.h"

#include "core/svid.h"
#include "daemon/broker_views.h"

#include <stdio.h>

/* ------------------------------------------------------------------ which end is here */

/* A workload that is configured and does not run may well run elsewhere, where all hosts have the same file. */
static bool is_here(struct broker *b, const struct service_name *source, bool running)
{
	for (size_t i = 0; i < b->n_workloads; i++) {
		const struct workload *w = &b->workloads[i];

		if (!w->removed && (!running || w->cgroup_id) && model_speaks_as(w, source))
			return true;
	}
	return false;
}

/* A session whose other side has shown the source's certificate. @skip: the first so many. NULL: there are no more. */
static const struct link_session *session_from(const struct broker *b, const struct service_name *source, unsigned skip)
{
	char id[LIMIT_SPIFFE_ID_SIZE];

	spiffe_id_format(id, b->config->trust_domain, source);
	for (const struct link_session *s = b->sessions; s; s = s->hh.next)
		if (s->inbound && strcmp(s->peer, id) == 0 && skip-- == 0)
			return s;
	return NULL;
}

static bool comes_from_elsewhere(struct broker *b, const struct service_name *source)
{
	if (is_here(b, source, true) || (!b->hosts && !b->sessions))
		return false;
	return !is_here(b, source, false) || session_from(b, source, 0);
}

/* ------------------------------------------------------------------ a way out */

/* The newest: one from before takes no more lanes. */
static const struct link_session *session_to(const struct broker *b, const struct link_host *h, const struct service_name *source)
{
	const struct link_session *newest = NULL;
	char id[LIMIT_SPIFFE_ID_SIZE];

	spiffe_id_format(id, b->config->trust_domain, source);
	for (const struct link_session *s = b->sessions; s; s = s->hh.next)
		if (!s->inbound && s->hid == h->hid && strcmp(s->local, id) == 0)
			newest = s;
	return newest;
}

/* @s: NULL: there is none yet. */
static void fill_path(const struct broker *b, const struct link_session *s, struct explained_host *x)
{
	const char *why = s ? view_session_path_why(b, s) : device_lacks(&b->devices[0]);

	if (s)
		view_session_path(s, x->path);
	x->session = s;
	snprintf(x->path_why, sizeof(x->path_why), "%s", why);
}
static_assert(sizeof(((struct explained_host *)0)->path) == VIEW_PATH_SIZE, "copied whole");

/* Which kinds of lanes @h has it up for, as far as is known: enum offer_kind. */
static unsigned kinds_at(const struct link_host *h, const struct service_name *destination)
{
	unsigned kinds = 0;
	uint32_t lanes;

	for (unsigned kind = 0; kind < LINK_KIND_N; kind++)
		if (link_host_has(h, destination, (enum link_kind)kind, &lanes) == ELSEWHERE_UP)
			kinds |= 1u << kind;
	return kinds;
}

/* The hosts that have it up, as far as there is room. */
static void fill_far(struct broker *b, const struct service_name *source, const struct service_name *destination, struct broker_explanation *e)
{
	for (const struct link_host *h = b->hosts; h; h = h->hh.next) {
		struct explained_host *x = &e->far[e->n_far];
		unsigned kinds = kinds_at(h, destination);

		if (!kinds)
			continue;
		if (e->n_far == ARRAY_SIZE(e->far)) {
			e->n_far_more++;
			continue;
		}
		memcpy(x->name, h->name, sizeof(x->name));
		memcpy(x->address, h->address, sizeof(x->address));
		x->state = h->state;
		fill_path(b, session_to(b, h, source), x);
		x->kinds = kinds;
		e->n_far++;
	}
}

/* Somebody else may have it: they are asked, and decide. */
static bool is_elsewhere(struct broker *b, const struct service_name *destination)
{
	for (const struct link_host *h = b->hosts; h; h = h->hh.next)
		if (link_host_knows(h, destination) || h->state != LINK_HOST_UP)
			return true;
	return false;
}

/* What a lane would be of: a socket file's, but where all who have it take only libraries'. */
static enum link_kind kind_out(const struct broker_explanation *e)
{
	unsigned kinds = 0;

	for (size_t i = 0; i < e->n_far; i++)
		kinds |= e->far[i].kinds;
	return !kinds || kinds & OFFER_SOCKET ? LINK_SOCKET : kinds & OFFER_STREAMS ? LINK_STREAM : LINK_MESSAGES;
}

static void explain_out(struct broker *b, const struct service_name *source, const struct service_name *destination, const struct service *s,
			struct broker_explanation *e)
{
	const struct pair *p = NULL;
	struct pair_key key = { .source = *source, .destination = *destination };
	bool denied = !e->choice.intention || e->choice.intention->action != INTENTION_ALLOW;

	e->between = e->choice.route == ROUTE_LINK || (!(s && (s->up || s->n_listeners)) && (denied || e->library) && is_elsewhere(b, destination));
	if (!e->between)
		return;
	fill_far(b, source, destination, e);
	HASH_FIND(hh, b->pairs, &key, sizeof(key), p);
	e->refusal = p ? p->refusal : NULL;
	if (is_here(b, source, false))
		e->lacks = carry_lacks(b, source, destination, kind_out(e));
	else
		e->lacks = "a source: no workload on this host speaks as it; ask on the host that has it";
}

/* ------------------------------------------------------------------ a way in */

/* As broker_welcome.c would find it. */
static const char *welcome_lacks(struct broker *b, const struct service *s)
{
	static char text[512 + LIMIT_SERVICE_SIZE];
	char name[LIMIT_SERVICE_SIZE];
	const char *why = "";

	if (!s->up)
		return "the server: its socket does not listen";
	if (s->health == HEALTH_FAILING)
		return "the server: its health check fails, so other hosts are told that it is down";
	if (ca_credential(b, &s->name, &why) != ROLE_NO_ID)
		return NULL;
	snprintf(text, sizeof(text), "%s has no certificate: %s", service_name_format(name, &s->name), why);
	return text;
}

static void fill_peers(struct broker *b, const struct service_name *source, struct broker_explanation *e)
{
	const struct link_session *s;

	while ((s = session_from(b, source, (unsigned)e->n_far))) {
		const struct link_host *h = link_host_of(b, s->address, s->peer_serial);
		struct explained_host *x;

		if (e->n_far == ARRAY_SIZE(e->far)) {
			e->n_far_more = 1;
			return;
		}
		x = &e->far[e->n_far++];
		if (h)
			memcpy(x->name, h->name, sizeof(x->name));
		memcpy(x->address, s->address, sizeof(x->address));
		x->state = LINK_HOST_UP;
		fill_path(b, s, x);
	}
}

static void explain_in(struct broker *b, const struct service_name *source, const struct service *s, struct broker_explanation *e)
{
	bool allowed = e->choice.route == ROUTE_DIRECT || e->choice.route == ROUTE_RELAY;

	if (!allowed && e->choice.route != ROUTE_REFUSE)
		return; /* the service is not here either */
	e->inbound = e->between = true;
	e->lacks = welcome_lacks(b, s);
	fill_peers(b, source, e);
	if (!allowed)
		return;
	e->choice.route = ROUTE_LINK;
	e->choice.why = "allowed; no workload that runs on this host speaks as the source, so its lanes come from another host";
}

/* ------------------------------------------------------------------ what to do */

static void add_command(struct broker_explanation *e, const char *host, const struct service_name *source, const struct service_name *destination)
{
	struct explained_command *c = &e->to_allow[e->n_to_allow++];
	char src[LIMIT_SERVICE_SIZE], dst[LIMIT_SERVICE_SIZE];

	snprintf(c->host, sizeof(c->host), "%s", host);
	/* Both in full, so that it means the same on a host with another `namespace`. */
	snprintf(c->text, sizeof(c->text), "sealane intention allow %s %s", service_name_format(src, source), service_name_format(dst, destination));
}

static void explain_to_allow(struct broker *b, const struct service_name *source, const struct service_name *destination, const struct service *s,
			     struct broker_explanation *e)
{
	const struct intention *i = e->choice.intention;
	bool decides = !e->between || s || is_here(b, source, false);

	if (decides && (!i || i->action != INTENTION_ALLOW))
		add_command(e, b->host, source, destination);
	if (e->refusal && e->refusal->code == LINK_DENIED && !e->refusal->certificate) /* else no intention changes it */
		add_command(e, e->refusal->host, source, destination);
}

/* ------------------------------------------------------------------ all of it */

/* No such socket file here: what would be decided if there were one. */
static struct route_choice choose_without_upstream(struct broker *b, const struct service_name *source,
						   const struct service_name *destination, const struct service *s)
{
	const struct intention *i = policy_decide(b->policy, source, destination, unix_now_s());
	const struct workload *w = s ? model_workload(b, s->wid) : NULL;
	struct route_facts facts = { .server_known = s && s->offered, .server_up = s && s->up,
				     .linkable = s && s->linkable, .direct_disabled = b->config->direct == CONFIG_DIRECT_OFF,
				     .server_draining = w && w->draining, .elsewhere = link_elsewhere(b, destination, LINK_SOCKET) };

	return route_choose(i, &facts);
}

/* NULL: no workload on this host has a socket file for the pair. */
static const struct upstream *upstream_of(struct broker *b, const struct service_name *source, const struct service_name *destination)
{
	for (size_t i = 0; i < b->n_upstreams; i++) {
		const struct upstream *u = &b->upstreams[i];

		if (!u->removed && service_name_equal(&u->source, source) && service_name_equal(&u->destination, destination))
			return u;
	}
	return NULL;
}

struct broker_explanation broker_explain(struct broker *b, const struct service_name *source,
					 const struct service_name *destination)
{
	const struct service *s = model_find_service(b, destination);
	const struct upstream *u = upstream_of(b, source, destination);
	struct broker_explanation e = { .lid = u ? u->lid : ROLE_NO_ID, .sid = s ? s->sid : ROLE_NO_ID };

	e.identity = identity_method_name(b->identity);
	e.guard = b->guard == GUARD_LSM ? "lsm" : "off";
	e.library_path = port_explain(b, source, destination, e.library_why, sizeof(e.library_why));
	e.library = e.library_path != NULL;
	e.choice = u ? model_choose(b, u) : choose_without_upstream(b, source, destination, s);
	if (s && s->offered && comes_from_elsewhere(b, source))
		explain_in(b, source, s, &e);
	if (e.library && comes_from_elsewhere(b, source))
		e.library_path = "link";
	if (!e.inbound)
		explain_out(b, source, destination, s, &e);
	explain_to_allow(b, source, destination, s, &e);
	return e;
}
