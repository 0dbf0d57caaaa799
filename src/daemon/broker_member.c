/*
 * Theory of operation: this host asks its authority. Each question has a session of its own (resumed, so it costs no signature):
 *
 *   broker                        linker                              the authority
 *   BL_CA_OPEN ----------------> LB_DIAL, TLS ---------------------->
 *   <--------------- LB_CA_READY (the session's exporter)
 *   BS_SIGN: the new key's proof, then the question, by a key that no linker reaches (signer)
 *   BL_CA_ASK + JSON -----------------------------------------------> broker_authority.c
 *   <--------------- LB_CA_ANSWER + JSON <---------------------------
 *
 * Joining is the same with a code by a token's secret, and without a certificate; then this host knows its authority. The linkers see all of
 * it, and one that was taken over gains nothing by that: it cannot ask in this host's name, as the key of questions (STATE/keys/ask.key) is not one
 * that it can have anything signed by; a token's secret is not said; and an answer counts only if it is proven by the token's key, or if what it
 * brings is signed by a root that this host has (broker_roots.c). It can keep answers back, and that is told.
 *
 * Where the authority is, the configuration says, or else the token said. What the catalogue says of its host is tried when that one cannot be
 * reached, for one question each time.
 *
 * Before it: broker_ca.c (what is due), broker_api.c (a user joins). After it: the linker; then broker_ca.c again, with what came.
 */
#include "daemon/broker_ca.h"
#include "daemon/broker_int.h"

#include "daemon/state_asker.h"

#include <stdarg.h>
#include <stdio.h>

enum {
	ASK_MAX_MS = 30 * 1000, /* connecting and handshake have 5 s each; the rest is the authority's disk */
	REVOKED_EVERY_MS = 30 * 1000,
	REVOKED_RETRY_MS = 5 * 1000,
	/* `sealane join` may be the first that needs linkers at all. */
	START_MAX_MS = 10 * 1000,
	START_LOOK_MS = 100,
};

typedef void (*asked_fn)(struct broker *b, void *arg, enum ca_failure f, const char *why, const struct ca_answer *a);

struct asked {
	uint32_t req, linker;
	enum ca_mode mode;
	struct ca_question q;
	char *body;   /* owned: the question as it is signed; NULL: not yet */
	uint32_t kid; /* whose key proves */
	uint8_t exporter[32];
	uint8_t token_key[TOKEN_KEY_SIZE]; /* CA_JOIN */
	bool elsewhere; /* the address is the catalogue's */
	uint8_t root[TOKEN_ROOT_SIZE];
	char address[LIMIT_ADDRESS_SIZE], host[LIMIT_NAME_SIZE];
	uint64_t deadline_ns;
	uint32_t generation; /* of the authority that is asked */
	asked_fn done;
	void *arg;
	UT_hash_handle hh;
};

static struct {
	struct asked *asked;
	uint32_t last_req;
	uint64_t revoked_due_ns;
	bool asking_revoked;
	uint32_t ask_kid; /* of the key that signs questions; 0: none yet */
	bool ask_loaded;  /* the signer was told of it */
	bool told_elsewhere;
	int64_t heard_unix_s; /* the authority answered, yes or no */
	char why[256];	      /* why it could not be asked since; "": it could */
	char denied[256];     /* why it does not give this host its list; "": it does */
	struct join *join; /* one at a time */
} g_member;

/* ------------------------------------------------------------------ a question's way */

/* For people: does the authority answer? Questions to join are another one's. */
static void note_reached(const struct asked *a, enum ca_failure f, const char *why)
{
	if (a->mode == CA_JOIN || a->generation != g_ca.generation || (f != CA_OK && f != CA_DENIED && f != CA_UNREACHABLE))
		return;
	if (f != CA_UNREACHABLE)
		g_member.heard_unix_s = unix_now_s();
	snprintf(g_member.why, sizeof(g_member.why), "%s", f == CA_UNREACHABLE ? why : "");
}

static void end(struct broker *b, struct asked *a, enum ca_failure f, const char *why, const struct ca_answer *answer)
{
	HASH_DEL(g_member.asked, a);
	note_reached(a, f, why);
	a->done(b, a->arg, f, why, answer);
	free(a->body);
	explicit_bzero(a->token_key, sizeof(a->token_key));
	free(a);
}

static struct asked *find(uint32_t req)
{
	struct asked *a;

	HASH_FIND_INT(g_member.asked, &req, a);
	return a;
}

const char *ca_address(const struct broker *b, uint32_t req)
{
	const struct asked *a = find(req);

	return a ? a->address : NULL;
}

static uint32_t some_linker(void)
{
	for (uint32_t i = 0; i < LIMIT_LINKERS; i++)
		if (g_ca.linkers[i])
			return i;
	return ROLE_NO_ID;
}

static void open_session(struct broker *b, struct asked *a)
{
	struct role_msg m = { .type = BL_CA_OPEN, .u.ca = { .req = a->req, .mode = a->mode } };

	a->deadline_ns = clock_ns() + (uint64_t)ASK_MAX_MS * 1000000;
	memcpy(m.u.ca.root, a->root, sizeof(a->root));
	memcpy(m.u.ca.address, a->address, sizeof(a->address));
	memcpy(m.u.ca.host, a->host, sizeof(a->host));
	link_tell(b, a->linker, &m, -1);
}

/* @from: kind, question, where, kid. */
static void ask(struct broker *b, const struct asked *from, asked_fn done, void *arg)
{
	uint32_t linker = some_linker();
	struct asked *a = linker == ROLE_NO_ID ? NULL : malloc(sizeof(*a));

	if (!a) {
		done(b, arg, CA_UNREACHABLE, linker == ROLE_NO_ID ? "no linker runs (yet)" : "the daemon has no memory", NULL);
		return;
	}
	*a = *from;
	a->req = ++g_member.last_req;
	a->linker = linker;
	a->generation = g_ca.generation;
	a->done = done;
	a->arg = arg;
	HASH_ADD_INT(g_member.asked, req, a);
	open_session(b, a);
}

/* ------------------------------------------------------------------ by what it is proven */

void member_on_signer(void)
{
	g_member.ask_loaded = false;
}

static void on_ask_key(struct broker *b, void *arg, const struct role_signed *r, int fd)
{
	fd_cleanup(&fd);
	if (r->error == 0)
		return;
	g_member.ask_loaded = false;
	if (r->error != -EPIPE)
		log_error("ca.failed", LOG_STR("why", r->why), LOG_STR("then", "this host cannot ask its authority for anything"));
}

/* The key of this host's questions: for as long as STATE is, since the authority knows it from the joining. */
static void load_ask_key(struct broker *b, signer_fn fn, void *arg)
{
	struct role_msg m = { .type = BS_KEY, .u.key = { .apart = 1, .name = "ask" } };

	if (!g_member.ask_kid)
		g_member.ask_kid = ca_new_kid();
	g_member.ask_loaded = true;
	m.u.key.kid = g_member.ask_kid;
	signer_ask(b, &m, -1, fn, arg);
}

static void send_question(struct broker *b, struct asked *a)
{
	struct role_msg m = { .type = BL_CA_ASK, .u.ca = { .req = a->req, .mode = a->mode } };
	AUTO_FREE(char) text = ca_question_text(&a->q, a->body);
	AUTO_FD fd = text ? ca_text_fd(text, strlen(text)) : -1;

	if (fd < 0)
		end(b, a, CA_SIGNER, "the daemon has no memory for the question", NULL);
	else
		link_tell(b, a->linker, &m, fd);
}

/* The question that a signature is for. Return: NULL: nobody's any more, or the asker was told that there is none. */
static struct asked *signed_for(struct broker *b, void *arg, const struct role_signed *r, int fd)
{
	struct asked *a = find((uint32_t)(uintptr_t)arg);

	fd_cleanup(&fd);
	if (!a)
		return NULL;
	if (r->error || r->signature_size > SIGNATURE_SIZE) {
		end(b, a, CA_SIGNER, r->why[0] ? r->why : "the signer did not sign", NULL);
		return NULL;
	}
	return a;
}

static void on_signed(struct broker *b, void *arg, const struct role_signed *r, int fd)
{
	struct asked *a = signed_for(b, arg, r, fd);

	if (!a)
		return;
	memcpy(a->q.signature, r->signature, r->signature_size);
	a->q.signature_size = (uint8_t)r->signature_size;
	send_question(b, a);
}

/* The question is whole: it becomes text, and the text is proven. */
static void prove(struct broker *b, struct asked *a)
{
	struct role_msg sign = { .type = BS_SIGN };

	free(a->body);
	a->body = ca_question_body(&a->q);
	if (!a->body) {
		end(b, a, CA_SIGNER, "the daemon has no memory for the question", NULL);
	} else if (a->q.op == CA_OP_REVOKED) {
		send_question(b, a); /* anybody's: the answer is signed */
	} else if (a->q.op == CA_OP_JOIN) {
		ca_join_mac(a->q.mac, a->token_key, a->exporter, a->q.digest);
		send_question(b, a);
	} else {
		if (!g_member.ask_loaded)
			load_ask_key(b, on_ask_key, NULL);
		sign.u.sign.kid = g_member.ask_kid;
		ca_question_signed(sign.u.sign.digest, a->exporter, a->q.digest);
		signer_ask(b, &sign, -1, on_signed, (void *)(uintptr_t)a->req);
	}
}

static void on_proof(struct broker *b, void *arg, const struct role_signed *r, int fd)
{
	struct asked *a = signed_for(b, arg, r, fd);

	if (!a)
		return;
	memcpy(a->q.proof, r->signature, r->signature_size);
	a->q.proof_size = (uint8_t)r->signature_size;
	prove(b, a);
}

void member_on_ready(struct broker *b, const struct role_ca *m)
{
	struct role_msg sign = { .type = BS_SIGN };
	struct asked *a = find(m->req);

	if (!a)
		return;
	memcpy(a->exporter, m->exporter, sizeof(a->exporter));
	if (a->q.op == CA_OP_REVOKED) {
		prove(b, a);
		return;
	}
	sign.u.sign.kid = a->kid;
	ca_proven(sign.u.sign.digest, m->exporter);
	signer_ask(b, &sign, -1, on_proof, (void *)(uintptr_t)a->req);
}

/* What the catalogue says of the authority's host; NULL: nothing, or nothing new. */
static const char *listed_address(const struct broker *b, const struct asked *a)
{
	if (a->mode != CA_HOST || a->elsewhere)
		return NULL;
	for (const struct link_host *h = b->hosts; h; h = h->hh.next)
		if (strcmp(h->name, a->host) == 0 && h->addresses[LINK_FROM_CATALOGUE][0] && strcmp(h->addresses[LINK_FROM_CATALOGUE], a->address) != 0)
			return h->addresses[LINK_FROM_CATALOGUE];
	return NULL;
}

/*
 * The same question at the catalogue's address. Whoever writes to the catalogue can send us anywhere, but not let anybody answer: the linker wants
 * the authority's certificate there as well, and what comes is signed.
 */
static bool ask_elsewhere(struct broker *b, struct asked *a, const char *why)
{
	const char *address = listed_address(b, a);

	if (!address)
		return false;
	if (!g_member.told_elsewhere)
		log_warn("ca.elsewhere", LOG_STR("authority", a->host), LOG_STR("address", a->address), LOG_STR("why", why), LOG_STR("instead", address));
	g_member.told_elsewhere = true;
	a->elsewhere = true;
	snprintf(a->address, sizeof(a->address), "%s", address);
	HASH_DEL(g_member.asked, a);
	a->req = ++g_member.last_req; /* what the linker still says of the other session is nobody's */
	HASH_ADD_INT(g_member.asked, req, a);
	open_session(b, a);
	return true;
}

static void on_no_session(struct broker *b, struct asked *a, const struct role_ca *m)
{
	char line[512];

	/* What TLS says of a host that takes no questions (tls_alpn). */
	snprintf(line, sizeof(line), "no session to %.63s at %.63s: %.110s", a->host, a->address,
		 strstr(m->why, "no application protocol") ? "the daemon there is no authority (`sealane ca token --address` says where the authority listens)" :
		 m->why[0] ? m->why : log_errno_name(m->error));
	if (!ask_elsewhere(b, a, line))
		end(b, a, CA_UNREACHABLE, line, NULL);
}

/* Of an answer to a host that joins: does whoever says it know the token's key? */
static bool is_by_token(const struct asked *a, const struct ca_answer *answer)
{
	uint8_t mac[SHA256_SIZE];

	ca_joined_mac(mac, a->token_key, a->exporter, a->q.digest, answer->digest);
	return hmac_is_equal(mac, answer->mac);
}

void member_on_answer(struct broker *b, const struct role_ca *m, int fd)
{
	struct asked *a = find(m->req);
	AUTO_FREE(char) text = NULL;
	struct ca_answer answer;
	char why[200], line[512];
	size_t size = 0;

	if (!a)
		return;
	if (a->mode != CA_JOIN && a->generation != g_ca.generation) {
		end(b, a, CA_UNREACHABLE, "this host has joined another authority meanwhile", NULL);
		return;
	}
	if (m->error) {
		on_no_session(b, a, m);
		return;
	}
	if (a->mode == CA_HOST && !a->elsewhere)
		g_member.told_elsewhere = false;
	text = ca_read_fd(fd, LIMIT_CA_ANSWER_SIZE, &size);
	if (!text) {
		end(b, a, CA_MALFORMED, "the authority's answer could not be read", NULL);
		return;
	}
	if (ca_answer_read(&answer, a->q.op, text, size, why, sizeof(why)) < 0) {
		snprintf(line, sizeof(line), "the authority's answer is malformed: %s", why);
		end(b, a, CA_MALFORMED, line, NULL);
		return;
	}
	if (answer.error)
		end(b, a, CA_DENIED, answer.why, NULL);
	else if (a->mode == CA_JOIN && !is_by_token(a, &answer))
		end(b, a, CA_MALFORMED, "the answer is not by the authority that made the token", NULL);
	else
		end(b, a, CA_OK, "", &answer);
	ca_answer_free(&answer);
}

void member_on_linker_lost(struct broker *b, uint32_t linker)
{
	struct asked *a, *tmp;

	HASH_ITER(hh, g_member.asked, a, tmp)
		if (a->linker == linker)
			end(b, a, CA_UNREACHABLE, "the linker ended; another is started", NULL);
}

/* ------------------------------------------------------------------ what a member asks */

static const char *authority_host(const struct broker *b)
{
	return b->config->link.authority[0] ? b->config->link.authority : g_ca.membership.authority;
}

int64_t member_authority(const struct broker *b, const char **ret_host, const char **ret_why)
{
	*ret_host = authority_host(b);
	*ret_why = g_member.why;
	return g_member.heard_unix_s;
}

const char *member_denied(void)
{
	return g_member.denied;
}

/* What the configuration says of the authority's host counts before what the token said once; the catalogue, for now, says nothing. */
static void to_authority(struct broker *b, struct asked *a)
{
	const struct state_membership *m = &g_ca.membership;
	const char *host = authority_host(b);

	a->mode = CA_HOST;
	snprintf(a->host, sizeof(a->host), "%s", host);
	memcpy(a->address, m->address, sizeof(a->address));
	for (const struct link_host *h = b->hosts; h; h = h->hh.next)
		if (strcmp(h->name, host) == 0 && h->addresses[LINK_FROM_CONFIG][0])
			memcpy(a->address, h->addresses[LINK_FROM_CONFIG], sizeof(a->address));
}

/* A certificate that is asked for, and then checked. */
struct renewed {
	char name[LIMIT_SERVICE_SIZE];
	uint32_t kid; /* that it is asked for by: the credential of this name may be another authority's by then */
	char *pem;    /* owned; NULL: it has not come yet */
};

static void renewed_free(struct renewed *n)
{
	free(n->pem);
	free(n);
}

/* Who waits for it still; NULL: nobody. */
static struct credential *waits_for(const struct renewed *n)
{
	struct credential *c = ca_find(n->name);

	return c && c->renewing && c->next.kid == n->kid ? c : NULL;
}

static void on_checked(struct broker *b, void *arg, int error, const char *why)
{
	struct renewed *n = arg;
	struct credential *c = waits_for(n);

	if (c) {
		if (error == 0)
			(void)ca_take(b, c, n->pem); /* a failure is told and tried again there */
		else
			ca_failed(b, c, error == -EKEYREJECTED ? CA_MALFORMED : CA_SIGNER, why);
		ca_soon(b);
	}
	renewed_free(n);
}

static void on_renewed(struct broker *b, void *arg, enum ca_failure f, const char *why, const struct ca_answer *a)
{
	struct renewed *n = arg;
	struct credential *c = waits_for(n);

	if (c && f == CA_OK && (n->pem = strdup(a->certificate))) {
		roots_check_certificate(b, n->pem, on_checked, n);
		return;
	}
	if (c) {
		ca_failed(b, c, f == CA_OK ? CA_SIGNER : f, f == CA_OK ? "the daemon has no memory" : why);
		ca_soon(b);
	}
	renewed_free(n);
}

void member_renew(struct broker *b, struct credential *c)
{
	struct asked a = { .kid = c->next.kid, .q = { .op = c->service.name[0] ? CA_OP_SERVICE : CA_OP_HOST, .service = c->service } };
	struct renewed *n = calloc(1, sizeof(*n));

	if (!n) {
		ca_failed(b, c, CA_SIGNER, "the daemon has no memory");
		return;
	}
	memcpy(n->name, c->name, sizeof(n->name));
	n->kid = c->next.kid;
	memcpy(a.q.key, c->next.svid.point, sizeof(a.q.key));
	to_authority(b, &a);
	ask(b, &a, on_renewed, n);
}

static void list_asked(enum ca_failure f, const char *why)
{
	g_member.asking_revoked = false;
	g_member.revoked_due_ns = clock_ns() + (uint64_t)(f == CA_OK ? REVOKED_EVERY_MS : REVOKED_RETRY_MS) * 1000000;
	if (f == CA_OK || f == CA_DENIED)
		snprintf(g_member.denied, sizeof(g_member.denied), "%s%s", f == CA_OK ? "" : "the authority says no: ", f == CA_OK ? "" : why);
	if (f != CA_OK)
		log_debug("ca.revoked", LOG_STR("reason", ca_failure_name(f)), LOG_STR("why", why));
}

static void on_list_taken(struct broker *b, void *arg, int error, const char *why)
{
	list_asked(error ? CA_MALFORMED : CA_OK, why);
	ca_soon(b);
}

static void on_revoked(struct broker *b, void *arg, enum ca_failure f, const char *why, const struct ca_answer *a)
{
	if (f == CA_OK)
		roots_take_list(b, a, on_list_taken, NULL);
	else
		list_asked(f, why);
}

static void ask_revoked(struct broker *b)
{
	struct asked a = { .q = { .op = CA_OP_REVOKED, .version = g_ca.membership.revoked } };

	g_member.asking_revoked = true;
	to_authority(b, &a);
	ask(b, &a, on_revoked, NULL);
}

unsigned member_tick(struct broker *b)
{
	uint64_t now = clock_ns();
	struct asked *a, *tmp;
	bool asks = g_ca.member && !g_ca.membership.is_authority && ca_is_member(b);

	HASH_ITER(hh, g_member.asked, a, tmp)
		if (a->deadline_ns < now && !ask_elsewhere(b, a, "it did not answer within 30 s"))
			end(b, a, CA_UNREACHABLE, "the authority did not answer within 30 s", NULL);
	if (asks)
		roots_tick(b);
	/* Not before there is somebody to ask by, and to check the answer: each says when it is there. */
	if (asks && !g_member.asking_revoked && now >= g_member.revoked_due_ns && some_linker() != ROLE_NO_ID && signer_is_up())
		ask_revoked(b);
	if (!asks || g_member.asking_revoked || g_member.revoked_due_ns <= now)
		return REVOKED_RETRY_MS;
	return (unsigned)((g_member.revoked_due_ns - now) / 1000000);
}

/* ------------------------------------------------------------------ joining */

struct join {
	struct token token;
	struct credential c; /* for its key only; not in the table */
	uint64_t deadline_ns;
	ca_done_fn done;
	void *arg;
};

static void join_end(struct join *j, int error, const char *why, json_t *json)
{
	g_member.join = NULL;
	if (error)
		log_warn("host.join_failed", LOG_STR("authority", j->token.host), LOG_STR("address", j->token.address), LOG_STR("why", why));
	j->done(j->arg, error, why, json);
	json_decref(json);
	free(j);
}

static int PRINTF_LIKE(3, 4) join_no(struct broker *b, struct join *j, const char *fmt, ...)
{
	char why[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, sizeof(why), fmt, args);
	va_end(args);
	ca_forget_key(b, j->c.next.kid);
	join_end(j, -EPERM, why, NULL);
	return -EPERM;
}

/* The certificate that came: for this host, and for the key that we asked it for. */
static int join_check(struct broker *b, struct join *j, const struct ca_answer *a, struct svid *s)
{
	uint8_t root[TOKEN_ROOT_SIZE];
	char id[LIMIT_SPIFFE_ID_SIZE];
	int64_t now = unix_now_s();

	if (svid_fingerprint(root, a->roots, strlen(a->roots)) < 0 || memcmp(root, j->token.root, sizeof(root)) != 0)
		return join_no(b, j, "the roots that came are not those that the token names: nothing was changed");
	if (strcmp(a->trust_domain, b->config->trust_domain) != 0)
		return join_no(b, j, "the authority's trust domain is %.100s, this host's %.100s: set trust_domain in sealane's configuration here, "
			       "`sealane reload`, and join with a new token", a->trust_domain, b->config->trust_domain);
	host_id_format(id, a->trust_domain, b->host);
	if (svid_read(s, a->certificate, strlen(a->certificate)) < 0 || strcmp(s->spiffe_id, id) != 0 ||
	    memcmp(s->point, j->c.next.svid.point, sizeof(s->point)) != 0)
		return join_no(b, j, "the certificate that came is not the one that was asked for: nothing was changed");
	if (s->not_before > now || s->not_after <= now)
		return join_no(b, j, "the certificate that came is not valid by this host's clock: set the clock here or there, and join with a new token");
	return 0;
}

static int copy_name(void *arg, const struct state_certificate *c)
{
	memcpy(arg, c->name, sizeof(c->name));
	return 1;
}

/* Those of an authority that was joined before. */
static int drop_certificates(struct broker *b)
{
	char first[LIMIT_SERVICE_SIZE];
	int r;

	while ((r = state_each_certificate(b->state, copy_name, first)) == 1) {
		r = state_delete_certificate(b->state, first);
		if (r < 0)
			return r;
	}
	return r;
}

/* Does the token name a root of the authority that this host belongs to? Then what that one has told stays the least that this host believes. */
static bool is_same_authority(const struct join *j, const struct state_membership *m)
{
	uint8_t print[SHA256_SIZE];

	if (!g_ca.member || !g_ca.roots_pem || strcmp(g_ca.membership.trust_domain, m->trust_domain) != 0)
		return false;
	for (const char *at = g_ca.roots_pem; at; at = svid_rest(at, strlen(at)))
		if (svid_fingerprint(print, at, strlen(at)) == 0 && memcmp(print, j->token.root, sizeof(print)) == 0)
			return true;
	return false;
}

/* @same: m->revoked is the version of the list that is there, which stays with its time. */
static int join_keep(struct broker *b, struct join *j, const struct ca_answer *a, const struct state_membership *m, bool same)
{
	struct state_certificate s = { .name = "host", .issued_unix_s = unix_now_s(), .pem = a->certificate };
	int r = state_begin(b->state);

	if (r < 0)
		return r;
	memcpy(s.key, j->c.next.key, sizeof(s.key));
	r = same ? 0 : state_clear_revoked(b->state);
	if (r == 0)
		r = drop_certificates(b);
	if (r == 0)
		r = state_put_membership(b->state, m);
	if (r == 0 && !same)
		r = state_put_time(b->state, STATE_TIME_LIST, 0);
	if (r == 0)
		r = state_put_certificate(b->state, &s);
	return state_end(b->state, r);
}

static json_t *join_json(const struct state_membership *m, int64_t not_after)
{
	return json_pack("{s:s,s:s,s:s,s:s,s:I}", "trust_domain", m->trust_domain, "host", m->host, "authority", m->authority, "address", m->address,
			 "not_after", (json_int_t)not_after);
}

/* What a person looks at when the authority could not be asked; @why begins with a session's reason, where there was one. */
static const char *join_remedy(const char *why)
{
	if (strstr(why, ": untrusted"))
		return "another authority answers at that address: the token is of one that was there before, or the address leads elsewhere";
	if (strstr(why, ": expired") || strstr(why, ": not-yet-valid"))
		return "compare the clocks of both hosts";
	if (strstr(why, "is no authority"))
		return "nothing was changed";
	return "nothing was changed, and the token is good until it is over. See that the daemon there is up, that `sealane status` there says that it listens"
	       " at this address, and that no firewall stands between";
}

static void on_joined(struct broker *b, void *arg, enum ca_failure f, const char *why, const struct ca_answer *a)
{
	struct join *j = arg;
	struct state_membership m = {};
	struct svid s;
	uint32_t kid;
	bool same;

	if (f != CA_OK) {
		if (f == CA_UNREACHABLE)
			(void)join_no(b, j, "the authority could not be asked: %.250s; %s", why, join_remedy(why));
		else
			(void)join_no(b, j, f == CA_DENIED ? "the authority says no: %.300s (this host asks as '%.63s')" : "the authority could not be asked: %.300s",
				      why, b->host);
		return;
	}
	if (join_check(b, j, a, &s) < 0)
		return;
	memcpy(m.trust_domain, b->config->trust_domain, sizeof(m.trust_domain));
	memcpy(m.host, b->host, sizeof(m.host));
	memcpy(m.authority, j->token.host, sizeof(m.authority));
	memcpy(m.address, j->token.address, sizeof(m.address));
	m.roots = a->roots;
	same = is_same_authority(j, &m);
	if (same)
		m.revoked = g_ca.membership.revoked;
	if (join_keep(b, j, a, &m, same) < 0) {
		(void)join_no(b, j, "the state directory does not take the certificate: is its disk full? Then join with a new token");
		return;
	}
	kid = j->c.next.kid;
	log_info("host.join", LOG_STR("host", m.host), LOG_STR("authority", m.authority), LOG_STR("address", m.address),
		 LOG_STR("trust_domain", m.trust_domain), LOG_I64("not_after", s.not_after));
	ca_reload(b);
	ca_forget_key(b, kid);
	g_member.revoked_due_ns = 0;
	g_member.denied[0] = '\0';
	join_end(j, 0, "", join_json(&m, s.not_after));
}

static void on_join_ask_key(struct broker *b, void *arg, const struct role_signed *r, int fd)
{
	struct join *j = arg;
	struct asked a = { .mode = CA_JOIN, .kid = j->c.next.kid, .q.op = CA_OP_JOIN };
	struct token_known known;

	fd_cleanup(&fd);
	if (r->error) {
		g_member.ask_loaded = false;
		(void)join_no(b, j, "there is no key: %.200s", r->why);
		return;
	}
	token_known(&known, j->token.secret);
	memcpy(a.q.key, j->c.next.svid.point, KEY_POINT_SIZE);
	memcpy(a.q.ask, r->public_key, KEY_POINT_SIZE);
	memcpy(a.q.token, known.id, sizeof(a.q.token));
	memcpy(a.token_key, known.key, sizeof(a.token_key));
	memcpy(a.q.host, b->host, sizeof(a.q.host));
	memcpy(a.root, j->token.root, sizeof(a.root));
	memcpy(a.address, j->token.address, sizeof(a.address));
	memcpy(a.host, j->token.host, sizeof(a.host));
	ask(b, &a, on_joined, j);
}

static void on_join_key(struct broker *b, void *arg, const struct role_signed *r, int fd)
{
	struct join *j = arg;

	fd_cleanup(&fd);
	if (r->error) {
		(void)join_no(b, j, "there is no key: %.200s", r->why);
		return;
	}
	memcpy(j->c.next.svid.point, r->public_key, KEY_POINT_SIZE);
	load_ask_key(b, on_join_ask_key, j);
}

/* The signer and a linker may have been started just now. */
static void join_when_ready(struct broker *b, void *arg)
{
	struct role_msg m = { .type = BS_KEY, .u.key.fresh = 1 };
	const struct credential *host = ca_find("host");
	struct join *j = arg;

	if (!signer_is_up() || some_linker() == ROLE_NO_ID) {
		if (clock_ns() < j->deadline_ns)
			broker_after(b, START_LOOK_MS, join_when_ready, j);
		else
			(void)join_no(b, j, "the daemon's linker and signer did not start within 10 s; its log says why");
		return;
	}
	j->c.next.kid = ca_new_kid();
	if (host)
		memcpy(j->c.now.key, host->now.key, sizeof(j->c.now.key));
	ca_key_name(&j->c, j->c.next.key);
	m.u.key.kid = j->c.next.kid;
	memcpy(m.u.key.name, j->c.next.key, sizeof(j->c.next.key));
	signer_ask(b, &m, -1, on_join_key, j);
}

static const char *why_not_join(struct broker *b, const struct token *t, bool again)
{
	if (g_ca.external)
		return "this host takes its certificates from files: take `certificates` out of sealane's configuration first";
	if (g_member.join)
		return "this host is joining already: wait for the answer";
	if (g_ca.member && g_ca.membership.is_authority && state_has_askers(b->state) != 0)
		return "this host is the authority itself, and hosts have joined it: others join it";
	if (g_ca.member && g_ca.membership.is_authority && !again)
		return "this host is the authority itself; others join it. If `sealane ca init` was meant for another host: `sealane join --again TOKEN` ends it here";
	if (g_ca.member && !again && ca_is_member(b))
		return "this host has joined already (`sealane ls certificates`); to join anew, use `sealane join --again TOKEN`";
	if (!label_is_valid(b->host))
		return "this host's name is no valid name for it (a-z, 0-9 and -): set host_name in sealane's configuration";
	if (strcmp(t->host, b->host) == 0)
		return "the token's authority has the name of this host: each host needs a host_name of its own";
	return NULL;
}

static const char g_no_token[] = "that is no token: it begins with sl1. and has no blanks; `sealane ca token HOST` makes one";
static const char g_damaged[] = "the token is damaged: a letter of it is missing, too many or another one; copy it whole, it is one word (`sealane ca token"
				" HOST` makes a new one)";

void member_join(struct broker *b, const char *text, bool again, ca_done_fn done, void *arg)
{
	struct token t;
	int r = token_parse(&t, text);
	const char *why = r == 0 ? why_not_join(b, &t, again) : r == -EBADMSG ? g_damaged : g_no_token;
	struct join *j = why ? NULL : calloc(1, sizeof(*j));

	if (!j) {
		done(arg, why ? -EPERM : -ENOMEM, why ? why : "the daemon has no memory", NULL);
		return;
	}
	*j = (struct join){ .token = t, .c = { .name = "host", .now = CA_NO_PAIR, .next = CA_NO_PAIR }, .done = done, .arg = arg };
	j->deadline_ns = clock_ns() + (uint64_t)START_MAX_MS * 1000000;
	g_member.join = j;
	link_want(b);
	join_when_ready(b, j);
}
