/*
 * Theory of operation: what people tell the authority: that it begins, whom it lets in, what it grants; what it takes back stands in
 * broker_authority_revoke.c. Each is kept in the state before it is in force, and answered when it is.
 *
 * Before it: broker_api.c. After it: the state, the signer.
 */
#include "daemon/broker_ca.h"
#include "daemon/broker_int.h"
#include "daemon/broker_names.h"

#include "core/base64.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/random.h>

enum {
	START_MAX_MS = 10 * 1000,
	START_LOOK_MS = 100,
	TOKEN_FOR_MAX_S = 30 * 86400,
};

static void PRINTF_LIKE(4, 5) no(ca_done_fn done, void *arg, int error, const char *fmt, ...)
{
	char why[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, sizeof(why), fmt, args);
	va_end(args);
	done(arg, error, why, NULL);
}

static void yes(ca_done_fn done, void *arg, json_t *json)
{
	if (json)
		done(arg, 0, "", json);
	else
		done(arg, -ENOMEM, "the daemon has no memory", NULL);
	json_decref(json);
}

static void no_disk(ca_done_fn done, void *arg, int error)
{
	if (error == -ENOSPC)
		no(done, arg, error, "there is no room for it: the disk, or the authority's book, is full");
	else
		no(done, arg, error, "the state directory does not take it (%s); nothing was changed", log_errno_name(error));
}

bool authority_is_here(ca_done_fn done, void *arg)
{
	if (g_ca.external)
		no(done, arg, -EPERM, "certificates come from files here (`certificates` in sealane's configuration): whoever writes them is the authority");
	else if (g_ca.member && !g_ca.membership.is_authority)
		no(done, arg, -EPERM, "this host is not the authority; that is %s, ask there", g_ca.membership.authority);
	else if (!g_ca.member)
		no(done, arg, -EPERM, "this host is not the authority: `sealane ca init` makes it one");
	else
		return true;
	return false;
}

/* ------------------------------------------------------------------ init */

struct init {
	uint64_t deadline_ns;
	bool making;
	ca_done_fn done;
	void *arg;
};

static void ask_root(struct broker *b, struct init *i);

static void init_done(struct broker *b, struct init *i, const char *pem)
{
	struct state_membership m = { .is_authority = true, .roots = pem };
	uint8_t print[32];
	char hex[65];
	int r;

	memcpy(m.trust_domain, b->config->trust_domain, sizeof(m.trust_domain));
	memcpy(m.host, b->host, sizeof(m.host));
	memcpy(m.authority, b->host, sizeof(m.authority));
	if (svid_fingerprint(print, pem, strlen(pem)) < 0) {
		no(i->done, i->arg, -EIO, "the signer's root is no certificate; the daemon's log may say more");
		return;
	}
	r = state_put_membership(b->state, &m);
	if (r < 0) {
		no_disk(i->done, i->arg, r);
		return;
	}
	hex_encode(hex, print, sizeof(print));
	log_info("ca.init", LOG_STR("host", m.host), LOG_STR("trust_domain", m.trust_domain), LOG_STR("root_sha256", hex));
	ca_reload(b);
	yes(i->done, i->arg, json_pack("{s:s,s:s,s:s,s:I}", "trust_domain", m.trust_domain, "host", m.host, "root_sha256", hex, "svid_life",
				       (json_int_t)b->config->link.svid_life_s));
}

static void on_root(struct broker *b, void *arg, const struct role_signed *r, int cert_fd)
{
	struct init *i = arg;
	AUTO_FD fd = cert_fd;
	AUTO_FREE(char) pem = NULL;
	size_t size;

	/* One that an earlier try left, and that nothing says who it is for, is as good as new. */
	if ((r->error == -ENOENT || r->error == -ENOKEY) && !i->making) {
		i->making = true;
		ask_root(b, i);
		return;
	}
	pem = r->error ? NULL : ca_read_fd(fd, LIMIT_CHAIN_SIZE, &size);
	if (pem)
		init_done(b, i, pem);
	else
		no(i->done, i->arg, r->error ? r->error : -EIO, "the signer has no root: %s", r->why[0] ? r->why : log_errno_name(r->error));
	free(i);
}

static void ask_root(struct broker *b, struct init *i)
{
	struct role_msg m = { .type = BS_CA, .u.ca_key.make = i->making };

	memcpy(m.u.ca_key.trust_domain, b->config->trust_domain, sizeof(m.u.ca_key.trust_domain));
	signer_ask(b, &m, -1, on_root, i);
}

static void init_when_ready(struct broker *b, void *arg)
{
	struct init *i = arg;

	if (signer_is_up()) {
		ask_root(b, i);
	} else if (clock_ns() < i->deadline_ns) {
		broker_after(b, START_LOOK_MS, init_when_ready, i);
	} else {
		no(i->done, i->arg, -ETIMEDOUT, "the signer did not start within 10 s; the daemon's log says why");
		free(i);
	}
}

void authority_init(struct broker *b, ca_done_fn done, void *arg)
{
	struct init *i;

	if (g_ca.external) {
		no(done, arg, -EPERM, "certificates come from files here: take `certificates` out of sealane's configuration first");
		return;
	}
	if (g_ca.member) {
		no(done, arg, -EEXIST, g_ca.membership.is_authority ? "this host is the authority already (`sealane ca ls`)" :
			"this host has joined another authority (`sealane ls certificates`)");
		return;
	}
	if (!label_is_valid(b->host)) {
		no(done, arg, -EINVAL, "this host's name is no valid name for it (a-z, 0-9 and -): set host_name in sealane's configuration");
		return;
	}
	i = calloc(1, sizeof(*i));
	if (!i) {
		no(done, arg, -ENOMEM, "the daemon has no memory");
		return;
	}
	*i = (struct init){ .deadline_ns = clock_ns() + (uint64_t)START_MAX_MS * 1000000, .done = done, .arg = arg };
	link_want(b);
	init_when_ready(b, i);
}

/* ------------------------------------------------------------------ tokens */

/* Where other hosts reach this one: as said, as the configuration says of us among all hosts, or where we listen. */
static const char *own_address(const struct broker *b, const char *said)
{
	const struct config *c = b->config;

	if (said[0])
		return address_is_valid(said) ? said : NULL;
	for (size_t i = 0; i < c->n_hosts; i++)
		if (strcmp(c->hosts[i].name, b->host) == 0 && c->hosts[i].address[0])
			return c->hosts[i].address;
	for (size_t i = 0; i < c->link.n_listen; i++)
		if (strncmp(c->link.listen[i], "0.0.0.0:", 8) != 0 && strncmp(c->link.listen[i], "[::]:", 5) != 0)
			return c->link.listen[i];
	return NULL;
}

static void no_address(const struct broker *b, const char *said, ca_done_fn done, void *arg)
{
	if (said[0])
		no(done, arg, -EINVAL, "\"%.63s\" is no address: expected numbers, as 10.0.0.1:7443 or [fd00::1]:7443", said);
	else if (b->config->link.n_listen > 0)
		no(done, arg, -EPERM, "this host listens on every address, so the token's cannot be known: give --address ADDRESS:PORT");
	else
		no(done, arg, -EPERM, "no `listen` is configured, so nobody can join: set it and `sealane reload`, or give --address");
}

/* A token that says less than was asked for is none. Return: false, and @done was called: something in it was taken back from that host. */
static bool may_give_all(struct broker *b, const struct ca_token_ask *a, ca_done_fn done, void *arg)
{
	char text[STATE_SERVICES_SIZE], *save = NULL;
	struct service_pattern p;
	int r = 0;

	memcpy(text, a->services, sizeof(text));
	for (char *word = strtok_r(text, " ", &save); word && r == 0; word = strtok_r(NULL, " ", &save)) {
		r = service_pattern_parse(&p, word, NULL);
		if (r == 0)
			r = authority_took_back(b, a->host, &p);
		if (r > 0)
			no(done, arg, -EPERM, "%s was taken back from host %s: `sealane ca unrevoke %s@%s` or `sealane ca grant %s %s` first", word, a->host, word,
			   a->host, a->host, word);
	}
	if (r < 0)
		no(done, arg, r, "the authority's book could not be read (%s)", log_errno_name(r));
	return r == 0;
}

void authority_token(struct broker *b, const struct ca_token_ask *a, ca_done_fn done, void *arg)
{
	struct state_token s = { .made_unix_s = unix_now_s() };
	struct token t = {};
	const char *address = own_address(b, a->address);
	char text[TOKEN_TEXT_SIZE], id[LIMIT_SPIFFE_ID_SIZE];
	struct token_known known;
	json_t *notes;
	int r;

	if (!authority_is_here(done, arg))
		return;
	if (!address) {
		no_address(b, a->address, done, arg);
	} else if (strcmp(a->host, g_ca.membership.host) == 0) {
		no(done, arg, -EINVAL, "%s is this host, the authority itself: it needs no token", a->host);
	} else if (ca_is_revoked(b, host_id_format(id, g_ca.trust_domain, a->host))) {
		no(done, arg, -EPERM, "host %s is revoked: `sealane ca unrevoke host/%s` first", a->host, a->host);
	} else if (a->for_s < 1 || a->for_s > TOKEN_FOR_MAX_S) {
		no(done, arg, -EINVAL, "a token is good for 1 s to 30 days");
	} else if (!may_give_all(b, a, done, arg)) {
		return;
	} else if (svid_fingerprint(t.root, g_ca.roots_pem, strlen(g_ca.roots_pem)) < 0 || getrandom(t.secret, sizeof(t.secret), 0) != sizeof(t.secret)) {
		no(done, arg, -EIO, "the token could not be made");
	} else {
		token_known(&known, t.secret);
		hex_encode(s.known, &known, sizeof(known));
		memcpy(s.host, a->host, sizeof(s.host));
		memcpy(s.services, a->services, sizeof(s.services));
		s.expires_unix_s = s.made_unix_s + a->for_s;
		notes = names_notes(b, s.host, s.services, false);
		r = state_put_token(b->state, &s);
		if (r < 0) {
			json_decref(notes);
			no_disk(done, arg, r);
			return;
		}
		snprintf(t.address, sizeof(t.address), "%s", address);
		memcpy(t.host, g_ca.membership.host, sizeof(t.host));
		log_info("ca.token", LOG_STR("host", s.host), LOG_STR("services", s.services), LOG_I64("expires", s.expires_unix_s));
		yes(done, arg, json_pack("{s:s,s:s#,s:s,s:s,s:I,s:o}", "token", token_format(text, &t), "id", s.known, CA_TOKEN_ID_DIGITS, "host", s.host,
					 "address", t.address, "expires", (json_int_t)s.expires_unix_s, "notes", notes));
	}
}

/* Those of a host, or those whose name begins with some digits. */
struct open_tokens {
	const char *host; /* NULL: .digits tells */
	const char *digits;
	struct state_token *found; /* owned, n of them */
	size_t n;
};

static int note_open(void *arg, const struct state_token *t)
{
	struct open_tokens *o = arg;
	struct state_token *more;

	bool meant = o->host ? strcmp(t->host, o->host) == 0 : strncmp(t->known, o->digits, strlen(o->digits)) == 0;

	if (!meant || !ca_token_is_open(t))
		return 0;
	more = realloc(o->found, (o->n + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	o->found = more;
	o->found[o->n++] = *t;
	return 0;
}

/* Return: was it there? */
static bool take_service_out(struct state_token *t, const struct service_pattern *pattern)
{
	char text[STATE_SERVICES_SIZE], name[LIMIT_SERVICE_SIZE], *save = NULL;
	size_t used = 0;
	bool found = false;

	service_pattern_format(name, pattern);
	memcpy(text, t->services, sizeof(text));
	t->services[0] = '\0';
	for (char *word = strtok_r(text, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
		if (strcmp(word, name) == 0)
			found = true;
		else
			used += (size_t)snprintf(t->services + used, sizeof(t->services) - used, "%s%s", used ? " " : "", word);
	}
	return found;
}

bool ca_token_is_open(const struct state_token *t)
{
	return !t->used_unix_s && t->expires_unix_s > unix_now_s();
}

int authority_withdraw(struct broker *b, const char *host, const struct service_pattern *pattern, unsigned *ret_n)
{
	struct open_tokens o = { .host = host };
	int r = state_each_token(b->state, note_open, &o);
	unsigned n = 0;

	for (size_t i = 0; i < o.n && r == 0; i++) {
		if (!pattern)
			o.found[i].expires_unix_s = unix_now_s();
		else if (!take_service_out(&o.found[i], pattern))
			continue;
		r = state_change_token(b->state, &o.found[i]);
		n++;
	}
	free(o.found);
	if (r == 0 && ret_n)
		*ret_n = n;
	return r;
}

static int end_open(struct broker *b, struct open_tokens *o)
{
	int r = state_begin(b->state);

	if (r < 0)
		return r;
	r = state_each_token(b->state, note_open, o);
	for (size_t i = 0; i < o->n && r == 0; i++) {
		o->found[i].expires_unix_s = unix_now_s();
		r = state_change_token(b->state, &o->found[i]);
	}
	return state_end(b->state, r);
}

static bool is_token_id(const char *what)
{
	size_t n = strspn(what, "0123456789abcdef");

	return !what[n] && n >= CA_TOKEN_ID_DIGITS && n <= 2 * TOKEN_ID_SIZE;
}

static void no_such_token(struct broker *b, const char *what, ca_done_fn done, void *arg)
{
	json_t *hosts = json_object();
	char guess[160] = "";

	if (hosts && names_of_open_tokens(b, hosts) == 0)
		names_near(hosts, what, guess);
	json_decref(hosts);
	no(done, arg, -ENOENT, "there is no open token for a host %.63s, nor one whose ID begins so%s (`sealane ca tokens` lists them)", what, guess);
}

void authority_token_withdraw(struct broker *b, const char *what, ca_done_fn done, void *arg)
{
	struct open_tokens o = { .host = what };
	json_t *hosts;
	int r;

	if (!authority_is_here(done, arg))
		return;
	r = end_open(b, &o);
	if (r == 0 && o.n == 0 && is_token_id(what)) {
		o = (struct open_tokens){ .digits = what };
		r = end_open(b, &o);
	}
	if (r < 0) {
		no_disk(done, arg, r);
	} else if (o.n == 0) {
		no_such_token(b, what, done, arg);
	} else {
		hosts = json_array();
		for (size_t i = 0; i < o.n && hosts; i++)
			json_array_append_new(hosts, json_string(o.found[i].host));
		log_info("ca.withdraw", LOG_STR("what", what), LOG_STR("host", o.found[0].host), LOG_U64("tokens", o.n));
		yes(done, arg, json_pack("{s:I,s:o}", "withdrawn", (json_int_t)o.n, "hosts", hosts));
	}
	free(o.found);
}

/* ------------------------------------------------------------------ grants */

void authority_grant(struct broker *b, const char *host, const struct service_pattern *pattern, ca_done_fn done, void *arg)
{
	struct state_grant g = { .pattern = *pattern, .allow = true };
	char text[LIMIT_SERVICE_SIZE];
	json_t *notes;
	int r;

	if (!authority_is_here(done, arg))
		return;
	notes = names_notes(b, host, service_pattern_format(text, pattern), true);
	r = str_copy(g.host, sizeof(g.host), host) ? state_put_grant(b->state, &g) : -EINVAL;
	if (r < 0) {
		json_decref(notes);
		no_disk(done, arg, r);
		return;
	}
	log_info("ca.grant", LOG_STR("host", host), LOG_STR("service", text));
	yes(done, arg, json_pack("{s:b,s:o}", "ok", 1, "notes", notes));
}

struct has {
	const struct service_pattern *pattern;
	bool there;
	struct state_grant grant;
};

static int has_one(void *arg, const struct state_grant *g)
{
	struct has *h = arg;

	if (memcmp(&g->pattern, h->pattern, sizeof(g->pattern)) == 0 && (g->allow || g->stood)) {
		h->there = true;
		h->grant = *g;
	}
	return 0;
}

/* One that says no, since it was revoked, goes on to say no: a wider one would give back what `ca revoke` took. */
static int drop_grant(struct broker *b, const char *host, struct state_grant *g)
{
	if (g->allow)
		return state_delete_grant(b->state, host, &g->pattern);
	g->stood = false;
	return state_put_grant(b->state, g);
}

void authority_ungrant(struct broker *b, const char *host, const struct service_pattern *pattern, ca_done_fn done, void *arg)
{
	struct has h = { .pattern = pattern };
	char text[LIMIT_SERVICE_SIZE];
	unsigned n_tokens = 0;
	int r;

	if (!authority_is_here(done, arg))
		return;
	service_pattern_format(text, pattern);
	r = state_begin(b->state);
	if (r == 0) {
		r = state_each_grant_of(b->state, host, has_one, &h);
		if (r == 0 && h.there)
			r = drop_grant(b, host, &h.grant);
		if (r == 0)
			r = authority_withdraw(b, host, pattern, &n_tokens);
		r = state_end(b->state, r);
	}
	if (r == 0 && !h.there && !n_tokens) {
		no(done, arg, -ENOENT, "host %.63s has no grant for %.127s, and no open token that gives it; `sealane ca ls` lists what it has", host, text);
		return;
	}
	if (r < 0) {
		no_disk(done, arg, r);
		return;
	}
	log_info("ca.ungrant", LOG_STR("host", host), LOG_STR("service", text));
	yes(done, arg, json_pack("{s:b}", "ok", 1));
}
