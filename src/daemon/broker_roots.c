/*
 * Theory of operation: what this host believes because a root that it has signed it. The linkers carry what the authority says, and one that
 * was taken over may change it, keep it back, or say again what was said before; so nothing counts that is not signed, and nothing that is older than
 * what is known.
 *
 *   a certificate   is by one of the roots, or it is not taken (roots_check()).
 *   the list        which roots there are and what is revoked: signed whole, with its version and the time at which it was made. A new root
 *                   comes in by it alone, so it is one that an old root has signed for.
 *
 * A list is taken if it is of the same epoch and of a higher number, or of another epoch and made later: an epoch is a start of the authority, and
 * between two of them only the time tells which came first. That time is kept with the list (state_asker.c), so that a restart lets no older one
 * in, and stays when this host joins the same authority again. The first list of all has no earlier one that it could be compared with: it is one
 * that was made in the last LIMIT_CA_LIST_AGE_S. The list that is known already, made anew, says how late it is: when none has come that was made in the last LIMIT_CA_LIST_AGE_S,
 * somebody keeps them back, or the authority cannot be reached, and that is told (`ca.stale`).
 *
 * A check takes a moment, in which this host may have joined another authority: then what comes of it is dropped (g_ca.generation).
 *
 * Signatures are checked by the signer (BS_VERIFY): a point, a digest, a signature, each of a fixed size. Here no key is, and no
 * library that could check one.
 *
 * Before it: broker_member.c, what came. After it: the state, the linkers.
 */
#include "daemon/broker_ca.h"
#include "daemon/broker_int.h"
#include "daemon/state_asker.h"

#include <stdio.h>

enum {
	/* How far the authority's clock may be before ours: as far as certificates are dated back. */
	AHEAD_MAX_S = 300,
};

static struct {
	int64_t made_unix_s;  /* of the list in force, when it was made as it was taken; 0: not known */
	int64_t dated_unix_s; /* the latest time of it that was signed, since the start */
	int64_t since_unix_s; /* when we began to wait for the first */
	bool told_stale;
	char told[256]; /* the last refusal that was logged */
} g_roots;

/* ------------------------------------------------------------------ is it by a root of ours? */

struct check {
	struct roots_signed what;
	size_t n; /* which root is tried */
	uint32_t generation;
	roots_fn fn;
	void *arg;
};

/* The n-th root that may be the one. Return: whether there is one. */
static bool find_root(const struct check *c, struct svid *ret)
{
	const char *at = g_ca.roots_pem;
	uint8_t print[SHA256_SIZE];

	for (size_t n = 0; at; at = svid_rest(at, strlen(at))) {
		if (svid_read(ret, at, strlen(at)) < 0 || svid_fingerprint(print, at, strlen(at)) < 0)
			continue;
		if (c->what.any_root || memcmp(print, c->what.root, sizeof(print)) == 0)
			if (n++ == c->n)
				return true;
	}
	return false;
}

static void check_end(struct broker *b, struct check *c, int error, const char *why)
{
	c->fn(b, c->arg, error, why);
	free(c);
}

static const char g_overtaken[] = "this host has joined another authority meanwhile";

static void try_next(struct broker *b, struct check *c);

static void on_verified(struct broker *b, void *arg, const struct role_signed *r, int fd)
{
	struct check *c = arg;

	fd_cleanup(&fd);
	if (c->generation != g_ca.generation) {
		check_end(b, c, -ESTALE, g_overtaken);
	} else if (r->error == 0) {
		check_end(b, c, 0, "");
	} else if (r->error == -EKEYREJECTED || r->error == -EINVAL) {
		c->n++;
		try_next(b, c);
	} else {
		check_end(b, c, r->error, r->why);
	}
}

static void try_next(struct broker *b, struct check *c)
{
	struct role_msg m = { .type = BS_VERIFY };
	struct svid root;

	if (!find_root(c, &root)) {
		check_end(b, c, -EKEYREJECTED, "it is signed by no root that this host has");
		return;
	}
	memcpy(m.u.verify.digest, c->what.digest, sizeof(m.u.verify.digest));
	memcpy(m.u.verify.public_key, root.point, sizeof(m.u.verify.public_key));
	memcpy(m.u.verify.signature, c->what.signature, sizeof(m.u.verify.signature));
	m.u.verify.signature_size = c->what.signature_size;
	signer_ask(b, &m, -1, on_verified, c);
}

void roots_check(struct broker *b, const struct roots_signed *what, roots_fn fn, void *arg)
{
	struct check *c = malloc(sizeof(*c));

	if (!c) {
		fn(b, arg, -ENOMEM, "the daemon has no memory");
		return;
	}
	*c = (struct check){ .what = *what, .generation = g_ca.generation, .fn = fn, .arg = arg };
	try_next(b, c);
}

void roots_check_certificate(struct broker *b, const char *pem, roots_fn fn, void *arg)
{
	struct roots_signed what = { .any_root = true };
	struct svid s;

	if (svid_read(&s, pem, strlen(pem)) < 0 || s.signature_size == 0) {
		fn(b, arg, -EKEYREJECTED, "what came is no certificate that a root of ours could have signed");
		return;
	}
	memcpy(what.digest, s.digest, sizeof(what.digest));
	memcpy(what.signature, s.signature, sizeof(what.signature));
	what.signature_size = s.signature_size;
	roots_check(b, &what, fn, arg);
}
static_assert((int)SVID_SIGNATURE_SIZE == (int)SIGNATURE_SIZE, "of the same kind");

/* ------------------------------------------------------------------ the list */

/* Signed, and still looked at: what is no set of roots would leave this host without any. */
static bool roots_are_sound(const char *pem)
{
	struct svid s;
	size_t n = 0;

	for (const char *at = pem, *next; (next = svid_rest(at, strlen(at))); at = next)
		if (++n > CA_ROOTS_MAX || svid_read(&s, at, strlen(at)) < 0 || s.point[0] != 4)
			return false;
	return n > 0;
}

static bool is_news(const struct ca_answer *a)
{
	const struct revoked_version *have = &g_ca.membership.revoked;

	if (!revoked_version_supersedes(&a->version, have))
		return false;
	return a->version.epoch == have->epoch || have->epoch == 0 || a->made_unix_s > g_roots.made_unix_s;
}

static bool is_same(const struct ca_answer *a)
{
	const struct revoked_version *have = &g_ca.membership.revoked;

	return a->version.epoch == have->epoch && a->version.counter == have->counter;
}

/* Nothing is known that it would have to be later than. */
static bool is_first(void)
{
	return g_ca.membership.revoked.epoch == 0;
}

/* In force, and in the state before that. */
static const char *put_in_force(struct broker *b, const struct ca_answer *a)
{
	struct state_membership m = g_ca.membership;
	bool new_roots = strcmp(a->roots, g_ca.roots_pem) != 0;
	char version[REVOKED_VERSION_SIZE];

	if (revoked_replace(b, a) < 0 || state_put_time(b->state, STATE_TIME_LIST, a->made_unix_s) < 0)
		return "the list could not be kept: is the state directory's disk full? The one before is in force";
	m.revoked = a->version;
	m.roots = a->roots;
	if (ca_become(b, &m) < 0)
		return "no memory for the roots";
	g_roots.made_unix_s = a->made_unix_s;
	if (new_roots) {
		log_info("ca.roots", LOG_STR("authority", m.authority));
		ca_tell_trust(b);
	}
	log_info("ca.revoked", LOG_STR("version", revoked_version_format(version, &a->version)), LOG_U64("entries", json_array_size(a->revoked)));
	revoked_tell(b, ROLE_NO_ID);
	link_recheck(b);
	return NULL;
}

/* Return: NULL, or why it does not count, for people. */
static const char *take(struct broker *b, const struct ca_answer *a)
{
	const char *why = NULL;

	if (a->made_unix_s > unix_now_s() + AHEAD_MAX_S)
		return "the list is of a time that has not come yet by this host's clock: set the clock here or at the authority";
	if (!roots_are_sound(a->roots))
		return "the roots in the list are no certificates on the curve P-256, or too many";
	if (is_first() && a->made_unix_s < unix_now_s() - LIMIT_CA_LIST_AGE_S)
		why = "the first list is an old one, by this host's clock: somebody says it again, or the clock here or at the authority is to be set";
	else if (is_news(a))
		why = a->revoked ? put_in_force(b, a) : "the list is a new one, and its entries are missing";
	else if (!is_same(a))
		why = "the list is older than the one that this host has: somebody says it again, or the authority's clock was set back";
	if (!why && a->made_unix_s > g_roots.dated_unix_s)
		g_roots.dated_unix_s = a->made_unix_s;
	return why;
}

struct taking {
	struct ca_answer a;
	size_t n; /* which signature is tried */
	uint32_t generation;
	roots_fn fn;
	void *arg;
};

static void taking_end(struct broker *b, struct taking *t, int error, const char *why)
{
	if (error == -ESTALE) {
		; /* the authority that it is of is not this host's any more: nobody's fault */
	} else if (error && strcmp(g_roots.told, why) != 0) {
		snprintf(g_roots.told, sizeof(g_roots.told), "%s", why);
		log_warn("ca.list_refused", LOG_STR("authority", g_ca.membership.authority), LOG_STR("why", why));
	} else if (!error) {
		g_roots.told[0] = '\0';
	}
	t->fn(b, t->arg, error, why);
	ca_answer_free(&t->a);
	free(t);
}

static void try_signature(struct broker *b, struct taking *t);

static void on_signature(struct broker *b, void *arg, int error, const char *why)
{
	struct taking *t = arg;

	if (t->generation != g_ca.generation) {
		taking_end(b, t, -ESTALE, g_overtaken);
		return;
	}
	if (error == -EKEYREJECTED) {
		t->n++;
		try_signature(b, t);
		return;
	}
	if (error == 0) {
		why = take(b, &t->a);
		error = why ? -EBADMSG : 0;
	}
	taking_end(b, t, error, why ? why : "");
}

static void try_signature(struct broker *b, struct taking *t)
{
	const struct ca_list_signature *s = &t->a.signatures[t->n];
	struct roots_signed what = {};

	if (t->n == t->a.n_signatures) {
		taking_end(b, t, -EKEYREJECTED, "the list is signed by no root that this host has");
		return;
	}
	ca_list_signed(what.digest, t->a.digest);
	memcpy(what.root, s->root, sizeof(what.root));
	memcpy(what.signature, s->signature, sizeof(what.signature));
	what.signature_size = s->signature_size;
	roots_check(b, &what, on_signature, t);
}

void roots_take_list(struct broker *b, const struct ca_answer *a, roots_fn fn, void *arg)
{
	struct taking *t = malloc(sizeof(*t));

	if (!t) {
		fn(b, arg, -ENOMEM, "the daemon has no memory");
		return;
	}
	*t = (struct taking){ .a = ca_answer_hold(a), .generation = g_ca.generation, .fn = fn, .arg = arg };
	try_signature(b, t);
}

/* ------------------------------------------------------------------ how old it is */

int roots_load(struct broker *b)
{
	g_roots.made_unix_s = g_roots.dated_unix_s = 0;
	g_roots.since_unix_s = unix_now_s();
	g_roots.told_stale = false;
	g_roots.told[0] = '\0';
	return state_get_time(b->state, STATE_TIME_LIST, &g_roots.made_unix_s);
}

int64_t roots_list_made(void)
{
	return g_roots.dated_unix_s ? g_roots.dated_unix_s : g_roots.made_unix_s;
}

bool roots_list_is_stale(void)
{
	int64_t from = g_roots.dated_unix_s ? g_roots.dated_unix_s : g_roots.since_unix_s;

	return g_ca.member && !g_ca.membership.is_authority && unix_now_s() - from > LIMIT_CA_LIST_AGE_S;
}

void roots_tick(struct broker *b)
{
	bool stale = roots_list_is_stale();

	if (stale == g_roots.told_stale)
		return;
	g_roots.told_stale = stale;
	if (stale)
		log_warn("ca.stale", LOG_STR("authority", g_ca.membership.authority), LOG_I64("made", roots_list_made()),
			 LOG_STR("why", g_roots.told[0] ? g_roots.told : "no newer list of what is revoked has come: see that the authority can be reached, and both hosts' clocks"),
			 LOG_STR("then", "the list that is there stays in force; what was revoked since is not known here"));
	else
		log_info("ca.current", LOG_STR("authority", g_ca.membership.authority), LOG_I64("made", roots_list_made()));
}
