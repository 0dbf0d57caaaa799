/*
 * Theory of operation: the authority, where it is this host. The root key is the signer's (BS_CA, BS_ISSUE); here is the book, in the
 * state database: which host may have certificates for which services, tokens that wait, what was issued, what is revoked.
 *
 * A question of another host (LB_CA_ASK) goes through these doors, in this order; each "no" is one ca.refuse event and one answer:
 *
 *   is it a question?                    ca_question_read(): hostile; of a host without a certificate only "join"
 *   who asks?                            the host that the linker names, from its certificate; and that is not believed before the signer
 *                                        has checked the question's signature by the key which the host joined with (BS_VERIFY). A host
 *                                        that joins proves its question by the token's key
 *   does it ask too often?               broker_book.c: questions, before their signatures; then certificates
 *   is it revoked?                       the host, or the service's SPIFFE ID
 *   may it?                              the host's most specific grant that means the service
 *   does it hold the key?                the signer checks the proof before it signs (BS_ISSUE)
 *
 * A token is used up before its certificate is made: two that come at the same moment get one certificate. Who comes with a wrong
 * one, a used one or one that is over gets one and the same answer.
 *
 * What anybody may be told, which roots there are and what is revoked, is a list that the root has signed, with the time (BS_SIGN_LIST): so it is
 * the same whoever carries it.
 *
 * Before it: the linker (other hosts), broker_ca.c (this host's own certificates), broker_api.c (people). After it: the signer, the state.
 */
#include "daemon/broker_ca.h"
#include "daemon/broker_int.h"

#include "core/base64.h"
#include "core/bucket.h"
#include "core/sha256.h"
#include "daemon/state_asker.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/queue.h>

enum {
	HOST_LIVES = 30, /* a host's certificate lives so many times longer than a service's */
	LIFE_MAX_S = 30 * 86400,
	ASKS_MAX = 256,	     /* questions at the signer, and those that wait for it, at a time */
	REFUSALS_PER_S = 10, /* told in the log; anybody can cause one */
	LIST_FOR_S = 10,     /* a list that was signed is given out for so long: a signature for all who ask meanwhile */
};

static const char g_bad_token[] = "the token is wrong, used, over, or for another host: `sealane ca token` on the authority makes a new one";

/* A certificate that is being made: for another host's question (linker), or for this host (name). */
struct issue {
	uint32_t linker, start, req;
	enum ca_op op;
	char name[LIMIT_SERVICE_SIZE]; /* this host's credential; "": it is another host's */
	char host[LIMIT_NAME_SIZE];
	struct service_name service; /* CA_OP_SERVICE, of another host */
	uint8_t exporter[32], digest[32], token_key[TOKEN_KEY_SIZE]; /* CA_OP_JOIN: by what the answer is proven */
	struct role_issue what;
};

/* The list as it was signed last. */
struct list {
	struct revoked_version version;
	int64_t made_unix_s;
	char *body;  /* owned; NULL: none */
	char *roots; /* owned: those that are in it */
	struct ca_list_signature signatures[ROLE_ROOT_SLOTS]; /* by each root in it whose key is here */
	uint8_t slots[ROLE_ROOT_SLOTS];
	size_t n, n_signed;
	uint32_t number; /* of those that were signed: the next one's is higher */
	int texts[2];	 /* owned: memfds of the answer without its entries, and with them; -1: not made yet */
};
#define NO_LIST ((struct list){ .texts = { -1, -1 } })

/* Someone who asked for the list while it is being signed. */
struct list_waiter {
	SLIST_ENTRY(list_waiter) next;
	uint32_t linker, start, req;
	char host[LIMIT_NAME_SIZE];
	struct revoked_version has;
};

static struct {
	unsigned n_asks;
	struct list list;
	struct bucket refusals;
	uint64_t n_untold;
	struct list next; /* while it is being signed */
	bool signing;
	SLIST_HEAD(, list_waiter) waiters; /* for it */
	uint32_t n_lists; /* that were signed */
	uint32_t starts[LIMIT_LINKERS]; /* counted up when a linker is lost: its numbers mean nothing to the next one */
} g_authority = { .list = NO_LIST, .next = NO_LIST };

/* ------------------------------------------------------------------ may it? */

struct match {
	const struct service_name *service;
	int rank; /* of the best so far; -1: none */
	bool allow;
};

static bool means(const struct service_pattern *p, const struct service_name *s)
{
	if (p->rank == PATTERN_ANY)
		return true;
	return strcmp(p->service.ns, s->ns) == 0 && (p->rank == PATTERN_NAMESPACE || strcmp(p->service.name, s->name) == 0);
}

static int match_one(void *arg, const struct state_grant *g)
{
	struct match *m = arg;

	if ((int)g->pattern.rank > m->rank && means(&g->pattern, m->service)) {
		m->rank = (int)g->pattern.rank;
		m->allow = g->allow;
	}
	return 0;
}

static bool may(struct broker *b, const char *host, const struct service_name *service)
{
	struct match m = { .service = service, .rank = -1 };

	return state_each_grant_of(b->state, host, match_one, &m) == 0 && m.rank >= 0 && m.allow;
}

/* The authority itself needs no grant; what was revoked for it stands as one that says no. */
static bool may_itself(struct broker *b, const struct service_name *service)
{
	struct match m = { .service = service, .rank = -1 };

	return state_each_grant_of(b->state, g_ca.membership.host, match_one, &m) == 0 && (m.rank < 0 || m.allow);
}

/* ------------------------------------------------------------------ answers to other hosts */

static void answer(struct broker *b, uint32_t linker, uint32_t req, json_t *json)
{
	struct role_msg m = { .type = BL_CA_ANSWER, .u.ca.req = req };
	AUTO_FREE(char) text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	AUTO_FD fd = text ? ca_text_fd(text, strlen(text)) : -1;

	json_decref(json);
	if (fd < 0)
		m.u.ca.error = -ENOMEM;
	link_tell(b, linker, &m, fd);
}

struct asker {
	uint32_t linker, req;
	const char *host; /* "" if not known */
	const char *op;
};

static void refuse(struct broker *b, const struct asker *k, const char *error, const char *why)
{
	if (!g_authority.refusals.rate_per_s)
		bucket_init(&g_authority.refusals, REFUSALS_PER_S, REFUSALS_PER_S, clock_ns());
	if (bucket_available(&g_authority.refusals, clock_ns()) > 0) {
		bucket_take(&g_authority.refusals, 1);
		log_warn("ca.refuse", LOG_STR("host", k->host[0] ? k->host : NULL), LOG_STR("op", k->op), LOG_STR("reason", error), LOG_STR("why", why),
			 LOG_U64("more", g_authority.n_untold));
		g_authority.n_untold = 0;
	} else {
		g_authority.n_untold++;
	}
	answer(b, k->linker, k->req, json_pack("{s:s,s:s}", "error", error, "why", why));
}

/* ------------------------------------------------------------------ making a certificate */

static int64_t life_s(const struct broker *b, bool of_host)
{
	double life = b->config->link.svid_life_s * (of_host ? HOST_LIVES : 1);

	return life > LIFE_MAX_S ? LIFE_MAX_S : (int64_t)life;
}

int64_t authority_host_life_s(const struct broker *b)
{
	return life_s(b, true);
}

static bool is_asked_still(const struct issue *i)
{
	return g_authority.starts[i->linker] == i->start;
}

static void issue_failed(struct broker *b, const struct issue *i, int error, const char *why)
{
	struct asker k = { .linker = i->linker, .req = i->req, .host = i->host, .op = ca_op_name(i->op) };
	struct credential *c = i->name[0] ? ca_find(i->name) : NULL;

	if (c && c->renewing)
		ca_failed(b, c, CA_SIGNER, why);
	else if (!i->name[0] && is_asked_still(i))
		refuse(b, &k, error == -EKEYREJECTED ? "malformed" : "failed", error == -EKEYREJECTED ? "the proof is not by the key" :
		       error == -ETIME ? "the authority's clock is behind the moment at which it was revoked: set that clock" : "the authority could not make it");
}

/* To whom joins, with the roots, and proven as the question was; to whom is a member, the certificate alone: it is signed. */
static json_t *issued_json(const struct issue *i, const char *pem)
{
	uint8_t digest[SHA256_SIZE], mac[SHA256_SIZE];
	AUTO_FREE(char) body = NULL;
	json_t *o;

	if (i->op != CA_OP_JOIN)
		return json_pack("{s:s}", "certificate", pem);
	o = json_pack("{s:s,s:s,s:s}", "certificate", pem, "roots", g_ca.roots_pem, "trust_domain", g_ca.trust_domain);
	body = o ? json_dumps(o, JSON_COMPACT) : NULL;
	json_decref(o);
	if (!body)
		return NULL;
	sha256(digest, body, strlen(body));
	ca_joined_mac(mac, i->token_key, i->exporter, i->digest, digest);
	return ca_joined_json(body, mac);
}

static void issued(struct broker *b, const struct issue *i, const char *pem)
{
	char serial[33];
	struct credential *c = i->name[0] ? ca_find(i->name) : NULL;

	log_info("ca.issue", LOG_STR("host", i->host), LOG_STR("spiffe_id", i->what.spiffe_id),
		 LOG_STR("serial", hex_encode(serial, i->what.serial, sizeof(i->what.serial))), LOG_I64("not_after", i->what.not_after));
	if (i->op == CA_OP_JOIN && !i->name[0])
		log_info("host.join", LOG_STR("host", i->host));
	if (c && c->renewing)
		(void)ca_take(b, c, pem); /* a failure is told and tried again there */
	else if (!i->name[0] && is_asked_still(i))
		answer(b, i->linker, i->req, issued_json(i, pem));
}

/* What was allowed when it was asked for may have been revoked while the signer worked. */
static bool is_withdrawn(struct broker *b, const struct issue *i)
{
	return book_is_revoked(&i->what) || (!i->name[0] && i->op == CA_OP_SERVICE && !may(b, i->host, &i->service));
}

static void on_issued(struct broker *b, void *arg, const struct role_signed *r, int cert_fd)
{
	struct issue *i = arg;
	AUTO_FD fd = cert_fd;
	AUTO_FREE(char) pem = NULL;
	size_t size;

	g_authority.n_asks--;
	pem = r->error ? NULL : ca_read_fd(fd, LIMIT_CHAIN_SIZE, &size);
	if (!pem)
		issue_failed(b, i, r->error ? r->error : -EIO, r->why[0] ? r->why : "the signer gave no certificate");
	else if (is_withdrawn(b, i))
		issue_failed(b, i, -EACCES, "it was revoked while it was made");
	else if (book_add(b, i->host, &i->what) < 0)
		issue_failed(b, i, -EIO, "the state directory does not take the certificate's number: is its disk full?");
	else
		issued(b, i, pem);
	ca_soon(b);
	free(i);
}

static void issue(struct broker *b, const struct issue *from, bool of_host)
{
	struct role_msg m = { .type = BS_ISSUE };
	struct issue *i = malloc(sizeof(*i));
	int r;

	if (!i) {
		issue_failed(b, from, -ENOMEM, "the daemon has no memory");
		return;
	}
	*i = *from;
	i->what.slot = authority_root_slot();
	i->what.not_after = unix_now_s() + life_s(b, of_host);
	r = book_begin(&i->what, i->host);
	if (r < 0) {
		issue_failed(b, i, r, r == -ETIME ? "this host's clock is behind the moment at which it was revoked: set the clock" : "the kernel gave no random bytes");
		free(i);
		return;
	}
	m.u.issue = i->what;
	g_authority.n_asks++;
	signer_ask(b, &m, -1, on_issued, i);
}

void authority_renew(struct broker *b, struct credential *c)
{
	struct issue i = { .linker = ROLE_NO_ID, .op = c->service.name[0] ? CA_OP_SERVICE : CA_OP_HOST };

	memcpy(i.name, c->name, sizeof(i.name));
	memcpy(i.host, g_ca.membership.host, sizeof(i.host));
	memcpy(i.what.public_key, c->next.svid.point, sizeof(i.what.public_key));
	ca_id(i.what.spiffe_id, c);
	if (ca_is_revoked(b, i.what.spiffe_id) || (c->service.name[0] && !may_itself(b, &c->service)))
		ca_failed(b, c, CA_DENIED, "it is revoked: `sealane ca unrevoke` takes that back");
	else
		issue(b, &i, !c->service.name[0]);
}

/* ------------------------------------------------------------------ questions of other hosts */

static void begin_issue(struct issue *i, const struct ca_question *q, const uint8_t exporter[32])
{
	i->op = q->op;
	memcpy(i->what.public_key, q->key, sizeof(i->what.public_key));
	memcpy(i->what.proof, q->proof, sizeof(i->what.proof));
	i->what.proof_size = q->proof_size;
	ca_proven(i->what.proven, exporter);
}

static int copy_token(void *arg, const struct state_token *t)
{
	memcpy(arg, t, sizeof(*t));
	return 0;
}

/* The open token that a question names, and that has proven it. Return: 0; -EACCES: it is no good; other negative errno. */
static int find_token(struct broker *b, const struct ca_question *q, const uint8_t exporter[32], struct state_token *ret, uint8_t key[TOKEN_KEY_SIZE])
{
	struct token_known known;
	uint8_t mac[SHA256_SIZE];
	char id[2 * TOKEN_ID_SIZE + 1];
	int r = state_find_token(b->state, hex_encode(id, q->token, sizeof(q->token)), copy_token, ret);

	if (r < 0)
		return r;
	if (!ret->known[0] || ret->used_unix_s || ret->expires_unix_s <= unix_now_s() || strcmp(ret->host, q->host) != 0 ||
	    hex_decode(&known, sizeof(known), ret->known) < 0)
		return -EACCES;
	ca_join_mac(mac, known.key, exporter, q->digest);
	memcpy(key, known.key, TOKEN_KEY_SIZE);
	return hmac_is_equal(mac, q->mac) ? 0 : -EACCES;
}

static int note_no(void *arg, const struct state_grant *g)
{
	struct match *m = arg;

	m->allow &= g->allow || g->pattern.rank != PATTERN_EXACT || !service_name_equal(&g->pattern.service, m->service);
	return 0;
}

int authority_took_back(struct broker *b, const char *host, const struct service_pattern *pattern)
{
	struct match m = { .service = &pattern->service, .allow = true };
	int r = pattern->rank == PATTERN_EXACT ? state_each_grant_of(b->state, host, note_no, &m) : 0;

	return r < 0 ? r : !m.allow;
}

/* What the token says that its host may have. */
static int grant_all(struct broker *b, const struct state_token *t)
{
	struct state_grant g = { .allow = true };
	char text[STATE_SERVICES_SIZE], *save = NULL;
	int r = 0;

	memcpy(g.host, t->host, sizeof(g.host));
	memcpy(text, t->services, sizeof(text));
	for (char *word = strtok_r(text, " ", &save); word && r == 0; word = strtok_r(NULL, " ", &save)) {
		r = service_pattern_parse(&g.pattern, word, NULL);
		if (r == 0)
			r = authority_took_back(b, g.host, &g.pattern);
		if (r == 0)
			r = state_put_grant(b->state, &g);
		if (r > 0)
			r = 0;
	}
	return r;
}

/*
 * Used from now on, its services granted, and the host known by the key that signs its questions: all or nothing. Of two who come with one
 * token the second finds it used, since nothing waits between the looking and this.
 */
static int use_token(struct broker *b, const struct ca_question *q, const struct state_token *t)
{
	struct state_asker a = { .since_unix_s = unix_now_s() };
	int r = state_begin(b->state);

	if (r < 0)
		return r;
	memcpy(a.host, t->host, sizeof(a.host));
	memcpy(a.key, q->ask, sizeof(a.key));
	r = state_use_token(b->state, t->known, a.since_unix_s);
	if (r == 0)
		r = grant_all(b, t);
	if (r == 0)
		r = state_put_asker(b->state, &a);
	return state_end(b->state, r);
}

static void on_join(struct broker *b, const struct asker *k, const struct ca_question *q, const uint8_t exporter[32])
{
	struct issue i = { .linker = k->linker, .start = g_authority.starts[k->linker], .req = k->req };
	struct state_token t = {};
	int r = find_token(b, q, exporter, &t, i.token_key);

	if (r == 0)
		r = use_token(b, q, &t);
	if (r == -EACCES) {
		refuse(b, k, "used", g_bad_token);
		return;
	}
	if (r < 0) {
		refuse(b, k, "failed", "the authority's state directory does not take it: is its disk full?");
		return;
	}
	begin_issue(&i, q, exporter);
	memcpy(i.host, q->host, sizeof(i.host));
	memcpy(i.exporter, exporter, sizeof(i.exporter));
	memcpy(i.digest, q->digest, sizeof(i.digest));
	host_id_format(i.what.spiffe_id, g_ca.trust_domain, q->host);
	if (ca_is_revoked(b, i.what.spiffe_id))
		refuse(b, k, "denied", "this host is revoked: `sealane ca unrevoke` on the authority takes that back");
	else
		issue(b, &i, true);
}

static void on_certificate(struct broker *b, const struct asker *k, const struct ca_question *q, const uint8_t exporter[32])
{
	struct issue i = { .linker = k->linker, .start = g_authority.starts[k->linker], .req = k->req };
	char name[LIMIT_SERVICE_SIZE], why[320];
	const char *error;

	begin_issue(&i, q, exporter);
	i.service = q->service;
	memcpy(i.host, k->host, sizeof(i.host));
	if (q->op == CA_OP_HOST)
		host_id_format(i.what.spiffe_id, g_ca.trust_domain, k->host);
	else
		spiffe_id_format(i.what.spiffe_id, g_ca.trust_domain, &q->service);
	if (q->op == CA_OP_SERVICE && !may(b, k->host, &q->service)) {
		service_name_format(name, &q->service);
		snprintf(why, sizeof(why), "host %.63s may not have certificates for %.127s: `sealane ca grant` on the authority says who may", k->host, name);
		refuse(b, k, "denied", why);
	} else if (ca_is_revoked(b, i.what.spiffe_id)) {
		refuse(b, k, "denied", "it is revoked: `sealane ca unrevoke` on the authority takes that back");
	} else if ((error = book_refuses(b, k->host, why, sizeof(why)))) {
		answer(b, k->linker, k->req, json_pack("{s:s,s:s}", "error", error, "why", why)); /* told as ca.limit, not each time */
	} else {
		issue(b, &i, q->op == CA_OP_HOST);
	}
}

/* ------------------------------------------------------------------ is it that host that asks? */

/* A host's question, while the signer looks at its signature. */
struct asking {
	uint32_t linker, start, req;
	char host[LIMIT_NAME_SIZE];
	struct ca_question q;
	uint8_t exporter[32];
};

static void on_question_checked(struct broker *b, void *arg, const struct role_signed *r, int fd)
{
	struct asking *a = arg;
	struct asker k = { .linker = a->linker, .req = a->req, .host = a->host, .op = ca_op_name(a->q.op) };
	char id[STATE_REVOKED_SIZE];

	fd_cleanup(&fd);
	g_authority.n_asks--;
	book_answered(a->host);
	if (g_authority.starts[a->linker] != a->start)
		; /* nobody's any more */
	else if (r->error == -EKEYREJECTED || r->error == -EINVAL)
		refuse(b, &k, "denied", "the question is not signed by the key that this host joined with: `sealane join --again TOKEN` there, with a new token");
	else if (r->error)
		refuse(b, &k, "failed", "the authority could not check who asks; ask again soon");
	else if (ca_is_revoked(b, host_id_format(id, g_ca.trust_domain, a->host)))
		refuse(b, &k, "denied", "this host is revoked");
	else
		on_certificate(b, &k, &a->q, a->exporter);
	free(a);
}

/*
 * A linker says who asks, from a certificate that it has checked; that alone is not believed. The question is signed by the key that came with the
 * host's token, which no linker of that host reaches, over this session's exporter.
 */
static void check_asker(struct broker *b, const struct asker *k, const struct ca_question *q, const uint8_t exporter[32])
{
	struct role_msg m = { .type = BS_VERIFY };
	struct state_asker known;
	struct asking *a;
	const char *error;
	char why[256];
	int r = state_find_asker(b->state, k->host, &known);

	if (r == -ENOENT) {
		refuse(b, k, "denied", "the authority does not know by which key this host asks: `sealane join --again TOKEN` there, with a new token");
		return;
	}
	error = r == 0 ? book_admits(b, k->host, why, sizeof(why)) : NULL;
	if (error) {
		answer(b, k->linker, k->req, json_pack("{s:s,s:s}", "error", error, "why", why)); /* told as ca.limit, not each time */
		return;
	}
	a = r == 0 ? malloc(sizeof(*a)) : NULL;
	if (!a) {
		if (r == 0)
			book_answered(k->host);
		refuse(b, k, "failed", "the authority's state directory or memory failed; ask again soon");
		return;
	}
	*a = (struct asking){ .linker = k->linker, .start = g_authority.starts[k->linker], .req = k->req, .q = *q };
	snprintf(a->host, sizeof(a->host), "%s", k->host);
	memcpy(a->exporter, exporter, sizeof(a->exporter));
	ca_question_signed(m.u.verify.digest, exporter, q->digest);
	memcpy(m.u.verify.public_key, known.key, sizeof(m.u.verify.public_key));
	memcpy(m.u.verify.signature, q->signature, sizeof(m.u.verify.signature));
	m.u.verify.signature_size = q->signature_size;
	g_authority.n_asks++;
	signer_ask(b, &m, -1, on_question_checked, a);
}

/* ------------------------------------------------------------------ the list */

static void list_clear(struct list *l)
{
	free(l->body);
	free(l->roots);
	for (size_t i = 0; i < ARRAY_SIZE(l->texts); i++)
		fd_cleanup(&l->texts[i]);
	*l = NO_LIST;
}

static bool list_is_current(const struct list *l)
{
	int64_t age = unix_now_s() - l->made_unix_s;

	return l->body && memcmp(&l->version, &g_ca.membership.revoked, sizeof(l->version)) == 0 && strcmp(l->roots, g_ca.roots_pem) == 0 && age >= 0 &&
	       age < LIST_FOR_S;
}

static int append_line(void *entries, const char *line)
{
	return json_array_append_new(entries, json_string(line));
}

static json_t *list_json(const struct list *l, bool with_entries)
{
	json_t *o = ca_list_json(l->body, l->signatures, l->n_signed), *entries;

	if (!o || !with_entries)
		return o;
	entries = json_array();
	if (!entries || revoked_each(append_line, entries) < 0 || json_object_set(o, "revoked", entries) < 0) {
		json_decref(o);
		o = NULL;
	}
	json_decref(entries);
	return o;
}

/* A list may be 4 MiB, and whoever has joined may ask for it: it is written down once, not for each who asks. Return: it, borrowed; -1: no memory. */
static int list_text(struct list *l, bool with_entries)
{
	AUTO_FREE(char) text = NULL;
	json_t *json;

	if (l->texts[with_entries] >= 0)
		return l->texts[with_entries];
	json = list_json(l, with_entries);
	text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	if (text)
		l->texts[with_entries] = ca_text_fd(text, strlen(text));
	return l->texts[with_entries];
}

static void answer_list(struct broker *b, const struct asker *k, const struct revoked_version *has)
{
	struct list *l = &g_authority.list;
	bool whole = revoked_version_supersedes(&l->version, has);
	struct role_msg m = { .type = BL_CA_ANSWER, .u.ca = { .req = k->req, .shared = 2 * l->number + whole } };
	int fd = list_text(l, whole);

	if (fd < 0)
		m.u.ca.error = -ENOMEM;
	link_tell(b, k->linker, &m, fd);
}

static int digest_line(void *sum, const char *line)
{
	ca_list_entry_add(sum, line);
	return 0;
}

/* As it is now. Return: false: no memory, or the root is none. */
static bool list_make(struct list *ret)
{
	struct list l = { .version = g_ca.membership.revoked, .made_unix_s = unix_now_s(), .roots = strdup(g_ca.roots_pem), .texts = { -1, -1 } };
	uint8_t digest[SHA256_SIZE];
	struct sha256 s;

	sha256_init(&s);
	(void)!revoked_each(digest_line, &s);
	sha256_end(&s, digest);
	l.n = authority_root_slots(l.slots, l.signatures);
	if (l.roots && l.n > 0)
		l.body = ca_list_body(&l.version, l.made_unix_s, l.roots, digest);
	if (!l.body) {
		list_clear(&l);
		return false;
	}
	*ret = l;
	return true;
}

static void sign_next(struct broker *b);

/* Of those who wait each is answered, with the list or with a "no". @why: NULL: it is there. */
static void answer_waiters(struct broker *b, const char *why)
{
	struct list_waiter *w;

	while ((w = SLIST_FIRST(&g_authority.waiters))) {
		struct asker k = { .linker = w->linker, .req = w->req, .host = w->host, .op = ca_op_name(CA_OP_REVOKED) };

		SLIST_REMOVE_HEAD(&g_authority.waiters, next);
		g_authority.n_asks--;
		if (g_authority.starts[w->linker] != w->start)
			; /* nobody's any more */
		else if (why)
			refuse(b, &k, "failed", why);
		else
			answer_list(b, &k, &w->has);
		free(w);
	}
}

static void begin_list(struct broker *b)
{
	g_authority.signing = list_make(&g_authority.next);
	if (g_authority.signing)
		sign_next(b);
	else
		answer_waiters(b, "the authority has no root yet, or no memory for its list; ask again soon");
}

/* Signed by all: for those who wait, and for who asks within some seconds. */
static void list_is_signed(struct broker *b)
{
	list_clear(&g_authority.list);
	g_authority.list = g_authority.next;
	g_authority.list.number = ++g_authority.n_lists;
	g_authority.next = NO_LIST;
	g_authority.signing = false;
	if (list_is_current(&g_authority.list))
		answer_waiters(b, NULL);
	else /* something was revoked meanwhile */
		begin_list(b);
}

static void on_list_signed(struct broker *b, void *arg, const struct role_signed *r, int fd)
{
	struct list *l = &g_authority.next;
	struct ca_list_signature *s = &l->signatures[l->n_signed];

	fd_cleanup(&fd);
	if (r->error || r->signature_size > SIGNATURE_SIZE) {
		list_clear(l);
		g_authority.signing = false;
		answer_waiters(b, "the authority could not sign its list; ask again soon");
		return;
	}
	memcpy(s->signature, r->signature, r->signature_size);
	s->signature_size = (uint8_t)r->signature_size;
	if (++l->n_signed < l->n)
		sign_next(b);
	else
		list_is_signed(b);
}

static void sign_next(struct broker *b)
{
	const struct list *l = &g_authority.next;
	struct role_msg m = { .type = BS_SIGN_LIST, .u.sign.kid = l->slots[l->n_signed] };

	sha256(m.u.sign.digest, l->body, strlen(l->body));
	signer_ask(b, &m, -1, on_list_signed, NULL);
}

/* All who ask while it is made wait for the same one. */
static void ask_list(struct broker *b, const struct asker *k, const struct revoked_version *has)
{
	struct list_waiter *w = calloc(1, sizeof(*w));

	if (!w) {
		refuse(b, k, "failed", "the authority has no memory for another question; ask again soon");
		return;
	}
	*w = (struct list_waiter){ .linker = k->linker, .start = g_authority.starts[k->linker], .req = k->req, .has = *has };
	snprintf(w->host, sizeof(w->host), "%s", k->host);
	SLIST_INSERT_HEAD(&g_authority.waiters, w, next);
	g_authority.n_asks++;
	if (!g_authority.signing)
		begin_list(b);
}

static void on_revoked(struct broker *b, const struct asker *k, const struct ca_question *q)
{
	char why[256];
	const char *error = book_admits_list(k->host, why, sizeof(why));

	if (error)
		answer(b, k->linker, k->req, json_pack("{s:s,s:s}", "error", error, "why", why)); /* told as ca.limit, not each time */
	else if (list_is_current(&g_authority.list))
		answer_list(b, k, &q->version);
	else
		ask_list(b, k, &q->version);
}

/* ------------------------------------------------------------------ a question came */

void authority_on_ask(struct broker *b, uint32_t linker, const struct role_ca *m, int fd)
{
	struct asker k = { .linker = linker, .req = m->req, .host = "", .op = NULL };
	AUTO_FREE(char) text = NULL;
	char host[LIMIT_NAME_SIZE], id[STATE_REVOKED_SIZE], why[200];
	struct ca_question q;
	size_t size = 0;

	if (m->mode == CA_HOST && host_id_parse(host, m->peer, g_ca.trust_domain) == 0)
		k.host = host;
	text = ca_read_fd(fd, LIMIT_CA_QUESTION_SIZE, &size);
	if (!g_ca.member || !g_ca.membership.is_authority) {
		refuse(b, &k, "denied", "this host is not the authority");
	} else if (!text || ca_question_read(&q, text, size, why, sizeof(why)) < 0) {
		refuse(b, &k, "malformed", text ? why : "the question could not be read");
	} else if ((m->mode == CA_JOIN) != (q.op == CA_OP_JOIN) || (m->mode == CA_HOST && !k.host[0])) {
		k.op = ca_op_name(q.op);
		refuse(b, &k, "denied", "that is nothing to ask in this way: a host without a certificate may join, one with a certificate may ask for more");
	} else if (m->mode == CA_HOST && ca_is_revoked(b, host_id_format(id, g_ca.trust_domain, host))) {
		k.op = ca_op_name(q.op);
		refuse(b, &k, "denied", "this host is revoked");
	} else if (g_authority.n_asks >= ASKS_MAX) {
		k.op = ca_op_name(q.op);
		refuse(b, &k, "busy", "the authority is busy; ask again soon");
	} else {
		k.op = ca_op_name(q.op);
		if (q.op == CA_OP_REVOKED)
			on_revoked(b, &k, &q);
		else if (q.op == CA_OP_JOIN)
			on_join(b, &k, &q, m->exporter);
		else
			check_asker(b, &k, &q, m->exporter);
	}
}

void authority_on_linker_lost(struct broker *b, uint32_t linker)
{
	if (linker < LIMIT_LINKERS)
		g_authority.starts[linker]++;
}
