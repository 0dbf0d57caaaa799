/* What people are shown of certificates: /v1/certificates, /v1/ca (docs/openapi.json names every member). */
#include "daemon/broker_ca.h"
#include "daemon/broker_int.h"

#include "core/base64.h"

void ca_each_expiry(struct broker *b, void (*fn)(void *arg, const char *spiffe_id, int64_t not_after), void *arg)
{
	struct credential *c, *tmp;

	HASH_ITER(hh, g_ca.credentials, c, tmp)
		if (c->now.pem)
			fn(arg, c->now.svid.spiffe_id, c->now.svid.not_after);
}

/* ------------------------------------------------------------------ certificates of this host */

static const char *state_of(struct broker *b, const struct credential *c)
{
	int64_t now = unix_now_s();

	if (!c->now.pem)
		return "missing";
	if (c->now.svid.not_after <= now)
		return "expired";
	if (c->now.svid.not_before > now)
		return "not-yet-valid";
	if (revoked_find(c->now.svid.spiffe_id, c->now.svid.serial, c->now.svid.not_before))
		return "revoked";
	if (!c->now.loaded)
		return "missing";
	return c->renewing || c->failure != CA_OK ? "renewing" : "valid";
}

static const char *why_of(const struct credential *c)
{
	if (!g_ca.member && !g_ca.external)
		return "this host has not joined: `sealane ca init` here, or `sealane join TOKEN`";
	if (g_ca.disagrees)
		return "host_name or trust_domain is not what this host joined with";
	if (c->why[0])
		return c->why;
	/* A host that is revoked is not told so by the list: it does not get it any more. */
	if (!c->service.name[0] && g_ca.member && !g_ca.external && !g_ca.membership.is_authority && member_denied()[0])
		return member_denied();
	if (c->now.pem && !c->now.loaded)
		return signer_is_up() ? "the signer is reading its key" : "the signer does not run (yet)";
	return c->renewing ? "being asked for" : "";
}

static json_t *one_certificate(struct broker *b, const struct credential *c)
{
	char id[LIMIT_SPIFFE_ID_SIZE];
	bool nameless = !c->service.name[0] && !g_ca.membership.host[0]; /* it has not joined: then what it would be called */
	json_t *o = json_pack("{s:s,s:s,s:s,s:s}", "name", c->name, "spiffe_id", nameless ? host_id_format(id, g_ca.trust_domain, b->host) : ca_id(id, c),
			      "state", state_of(b, c), "why", why_of(c));

	if (!o || !c->now.pem)
		return o;
	if (json_object_set_new(o, "serial", json_string(c->now.svid.serial)) < 0 ||
	    json_object_set_new(o, "not_before", json_integer(c->now.svid.not_before)) < 0 ||
	    json_object_set_new(o, "not_after", json_integer(c->now.svid.not_after)) < 0 ||
	    (!g_ca.external && json_object_set_new(o, "renew", json_integer(c->renew_unix_s)) < 0)) {
		json_decref(o);
		return NULL;
	}
	return o;
}

static json_t *all_certificates(struct broker *b)
{
	json_t *list = json_array();
	struct credential *c, *tmp;

	HASH_ITER(hh, g_ca.credentials, c, tmp)
		if (!list || json_array_append_new(list, one_certificate(b, c)) < 0) {
			json_decref(list);
			return NULL;
		}
	return list;
}

static const char *source_name(void)
{
	if (g_ca.external)
		return "files";
	return !g_ca.member ? "none" : g_ca.membership.is_authority ? "self" : "authority";
}

/* This host's own, or one of its services'; a certificate that is only kept for a service that was taken out does not count. */
static void count_certificate(struct broker *b, const struct credential *c, struct ca_status *s)
{
	const char *state = state_of(b, c);

	if (!c->wanted && c->service.name[0])
		return;
	s->n_wanted++;
	s->n_usable += strcmp(state, "valid") == 0 || strcmp(state, "renewing") == 0;
	if (!c->now.pem)
		return;
	if (!c->service.name[0])
		s->host_not_after = c->now.svid.not_after;
	if (!s->first_not_after || c->now.svid.not_after < s->first_not_after)
		s->first_not_after = c->now.svid.not_after;
}

struct ca_status ca_status(struct broker *b)
{
	struct ca_status s = { .source = source_name(), .authority = "", .why = "" };
	struct credential *c, *tmp;

	HASH_ITER(hh, g_ca.credentials, c, tmp)
		count_certificate(b, c, &s);
	if (g_ca.member && !g_ca.external && !g_ca.membership.is_authority)
		s.heard_unix_s = member_authority(b, &s.authority, &s.why);
	s.list_made_unix_s = roots_list_made();
	s.list_stale = roots_list_is_stale();
	return s;
}

json_t *ca_view_certificates(struct broker *b)
{
	const struct state_membership *m = &g_ca.membership;
	json_t *list = all_certificates(b);
	char version[REVOKED_VERSION_SIZE];
	int64_t made = roots_list_made();

	if (!list)
		return NULL;
	return json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:o,s:b,s:o}", "source", source_name(), "trust_domain", g_ca.trust_domain, "host",
			 g_ca.member ? m->host : b->host, "authority", g_ca.member ? m->authority : "", "address", g_ca.member ? m->address : "",
			 "revoked_version", revoked_version_format(version, g_ca.member ? &m->revoked : &(struct revoked_version){}), "list_made",
			 made ? json_integer(made) : json_null(), "list_stale", roots_list_is_stale(), "certificates", list);
}

/* ------------------------------------------------------------------ the authority's book */

struct book {
	struct broker *b;
	json_t *hosts; /* an object: by name, so that a host is found again */
	json_t *tokens;
};

/* Return: the host's object, made if need be; borrowed. */
static json_t *host_of(struct book *k, const char *name)
{
	json_t *o = json_object_get(k->hosts, name);
	char id[LIMIT_SPIFFE_ID_SIZE];

	if (o)
		return o;
	host_id_format(id, g_ca.trust_domain, name);
	o = json_pack("{s:s,s:b,s:[],s:[],s:[]}", "host", name, "revoked", ca_is_revoked(k->b, id), "services", "denied", "certificates");
	return o && json_object_set_new(k->hosts, name, o) == 0 ? o : NULL;
}

static int see_grant(void *arg, const struct state_grant *g)
{
	json_t *host = host_of(arg, g->host);
	char text[LIMIT_SERVICE_SIZE];

	if (!host)
		return -ENOMEM;
	return json_array_append_new(json_object_get(host, g->allow ? "services" : "denied"), json_string(service_pattern_format(text, &g->pattern)));
}

/* The one that is in use, as far as the authority knows; how many there are of before it. */
static int see_issued(void *arg, const struct state_issued *i, uint64_t n)
{
	struct book *k = arg;
	json_t *host = host_of(k, i->host);
	bool revoked = revoked_find(i->spiffe_id, i->serial, i->issued_unix_s - CA_BACKDATE_S) != NULL;

	if (!host)
		return -ENOMEM;
	return json_array_append_new(json_object_get(host, "certificates"),
				     json_pack("{s:s,s:s,s:I,s:I,s:b,s:I}", "spiffe_id", i->spiffe_id, "serial", i->serial, "issued", (json_int_t)i->issued_unix_s,
					       "not_after", (json_int_t)i->not_after, "revoked", revoked, "older", (json_int_t)n - 1));
}

static json_t *one_token(const struct state_token *t)
{
	return json_pack("{s:s#,s:s,s:s,s:I,s:I}", "id", t->known, CA_TOKEN_ID_DIGITS, "host", t->host, "services", t->services, "expires",
			 (json_int_t)t->expires_unix_s, "used", (json_int_t)t->used_unix_s);
}

static int see_token(void *arg, const struct state_token *t)
{
	struct book *k = arg;

	return json_array_append_new(k->tokens, one_token(t));
}

static int see_open_token(void *arg, const struct state_token *t)
{
	return ca_token_is_open(t) ? json_array_append_new(arg, one_token(t)) : 0;
}

json_t *ca_view_tokens(struct broker *b)
{
	bool authority = g_ca.member && g_ca.membership.is_authority && !g_ca.external;
	json_t *list = json_array();

	if (list && authority && state_each_token(b->state, see_open_token, list) < 0) {
		json_decref(list);
		list = NULL;
	}
	return json_pack("{s:s,s:o}", "source", source_name(), "tokens", list);
}

static int see_revoked(void *arg, const struct state_revoked *e)
{
	char word[REVOKED_LINE_SIZE];

	return json_array_append_new(arg, json_pack("{s:s,s:s,s:I,s:I}", "what", revoked_word(word, e->entry), "entry", e->entry, "since",
						    (json_int_t)e->since_unix_s, "until", (json_int_t)e->until_unix_s));
}

static json_t *values_of(json_t *object)
{
	json_t *list = json_array(), *v;
	const char *key;

	json_object_foreach(object, key, v)
		if (!list || json_array_append(list, v) < 0) {
			json_decref(list);
			return NULL;
		}
	return list;
}

static json_t *book_of(struct broker *b)
{
	struct book k = { .b = b, .hosts = json_object(), .tokens = json_array() };
	json_t *revoked = json_array(), *hosts = NULL, *o = NULL;

	if (k.hosts && k.tokens && revoked && state_each_grant(b->state, see_grant, &k) == 0 && state_each_newest(b->state, unix_now_s(), see_issued, &k) == 0 &&
	    state_each_token(b->state, see_token, &k) == 0 && state_each_revoked(b->state, see_revoked, revoked) == 0)
		hosts = values_of(k.hosts);
	if (hosts)
		o = json_pack("{s:o,s:O,s:O}", "hosts", hosts, "tokens", k.tokens, "revoked", revoked);
	json_decref(k.hosts);
	json_decref(k.tokens);
	json_decref(revoked);
	return o;
}

json_t *ca_view_authority(struct broker *b)
{
	const struct state_membership *m = &g_ca.membership;
	uint8_t print[32];
	char hex[65] = "", version[REVOKED_VERSION_SIZE];
	struct svid root = {};
	json_t *o = json_pack("{s:s}", "source", source_name());
	json_t *book, *roots;

	if (!o || !g_ca.member || !m->is_authority)
		return o;
	book = book_of(b);
	if (svid_fingerprint(print, g_ca.roots_pem, strlen(g_ca.roots_pem)) == 0 && svid_read(&root, g_ca.roots_pem, strlen(g_ca.roots_pem)) == 0)
		hex_encode(hex, print, sizeof(print));
	json_decref(o);
	o = !book ? NULL : json_pack("{s:s,s:s,s:s,s:s,s:I,s:I,s:s}", "source", source_name(), "trust_domain", m->trust_domain, "host", m->host,
				     "root_sha256", hex, "root_not_after", (json_int_t)root.not_after, "svid_life",
				     (json_int_t)b->config->link.svid_life_s, "revoked_version", revoked_version_format(version, &m->revoked));
	if (o && json_object_update(o, book) < 0) {
		json_decref(o);
		o = NULL;
	}
	json_decref(book);
	roots = o ? authority_roots_view() : NULL;
	if (o && (!roots || json_object_update(o, roots) < 0)) {
		json_decref(o);
		o = NULL;
	}
	json_decref(roots);
	return o;
}
