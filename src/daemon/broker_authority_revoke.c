/*
 * Theory of operation: what the authority takes back, and gives back. One word of a person's becomes one entry of the list (core/revoked.h):
 *
 *   host/b            id:spiffe://TD/host/b                       all that was issued to b, and nothing more from now on
 *   ns/name           id:spiffe://TD/ns/NS/svc/NAME               the service, whoever has it; nothing more from now on
 *   ns/name@b         before:T:spiffe://TD/ns/NS/svc/NAME@b       what b has for it now; and a grant that says no, which a wider one does not outweigh
 *   a serial          serial:HEX                                  one certificate
 *
 * Each stands for itself: what takes back host/b leaves redis@b revoked, if that was said too. A word that means nothing here is an error
 * that names what is near, since whoever revokes in a hurry must not believe that a slip worked. A whole SPIFFE ID is taken as it stands: the
 * book may be one that was restored, and not know what there is.
 *
 * T is one more than the notBefore of the last certificate that was issued for it, or would be now: so those of before are revoked to the
 * last, and the next one, whose notBefore is T or later (book_begin()), is not, however often the clock was set.
 *
 * Before it: broker_api.c. After it: the state, then broker_revoked.c and the linkers; members ask for the list themselves.
 */
#include "daemon/broker_ca.h"
#include "daemon/broker_int.h"
#include "daemon/broker_names.h"
#include "daemon/state_asker.h"

#include <stdarg.h>
#include <stdio.h>

enum {
	WHY_SIZE = 640,
	SERIAL_KEEP_S = 86400, /* beyond a certificate's end, for clocks that are late */
	/* Digits that a word of a person's must have to be taken for a serial: as many as `ls certificates` prints. */
	SERIAL_DIGITS_MIN = 8,
	/* Every line is a text in the answer to members, with quotation marks and a comma; the roots come along. */
	LIST_SIZE_MAX = LIMIT_CA_ANSWER_SIZE - 4 * LIMIT_CHAIN_SIZE - 2 * LIMIT_REVOKED,
};

enum target_kind { TARGET_HOST, TARGET_SERVICE, TARGET_SERVICE_AT, TARGET_SERIAL };

/* What a word means. */
struct target {
	enum target_kind kind;
	bool as_it_stands; /* a SPIFFE ID: nobody looks whether there is such a thing */
	char host[LIMIT_NAME_SIZE]; /* HOST, SERVICE_AT */
	struct service_name service; /* SERVICE, SERVICE_AT */
	char id[LIMIT_SPIFFE_ID_SIZE]; /* all but SERIAL */
	char serial[STATE_SERIAL_SIZE];
	int64_t serial_not_after;
};

/* A request on its way: what was said, and what is wrong with it. */
struct request {
	struct broker *b;
	const char *what;
	bool add;
	struct target t;
	char why[WHY_SIZE];
};

static int PRINTF_LIKE(3, 4) refuse(struct request *q, int error, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(q->why, sizeof(q->why), fmt, args);
	va_end(args);
	return error;
}

/* ------------------------------------------------------------------ what there is */

/* A host may have joined, and have nothing that is still good. */
static bool has_joined(struct broker *b, const char *host)
{
	struct state_asker unused;

	return state_find_asker(b->state, host, &unused) == 0;
}

/* ------------------------------------------------------------------ does it mean anything? */

static int check_host(struct request *q, const struct names *k)
{
	char guess[160];

	if (json_object_get(k->hosts, q->t.host) || has_joined(q->b, q->t.host))
		return 0;
	return refuse(q, -ENOENT, "there is no host %s here: none by this name has joined, has a token or a grant%s (`sealane ca ls`)", q->t.host,
		      names_near(k->hosts, q->t.host, guess));
}

static int check_service(struct request *q, const struct names *k)
{
	char guess[160], name[LIMIT_SERVICE_SIZE];

	service_name_format(name, &q->t.service);
	if (json_object_get(k->services, name))
		return 0;
	if (json_object_get(k->hosts, q->what) || (label_is_valid(q->what) && has_joined(q->b, q->what)))
		return refuse(q, -ENOENT, "there is no service %s here; the host of this name is host/%.63s", name, q->what);
	return refuse(q, -ENOENT, "there is no service %s here: nobody has a certificate or a grant for it%s (`sealane ca ls`)", name,
		      names_near(k->services, name, guess));
}

static int note_grant(void *arg, const struct state_grant *g)
{
	struct state_grant *exact = arg;

	if (g->pattern.rank == PATTERN_EXACT && service_name_equal(&g->pattern.service, &exact->pattern.service))
		*exact = *g;
	return 0;
}

/* The grant of just this service and host. Return: 1: there is one; 0: none; negative errno. */
static int exact_grant(struct broker *b, const struct target *t, struct state_grant *ret)
{
	int r;

	*ret = (struct state_grant){ .pattern = { .rank = PATTERN_EXACT, .service = t->service } };
	r = state_each_grant_of(b->state, t->host, note_grant, ret);
	return r < 0 ? r : ret->host[0] != '\0';
}

struct means {
	const struct service_name *service;
	bool any;
};

static int note_meaning(void *arg, const struct state_grant *g)
{
	const struct service_pattern *p = &g->pattern;
	struct means *m = arg;

	m->any |= p->rank == PATTERN_ANY || (strcmp(p->service.ns, m->service->ns) == 0 &&
					     (p->rank == PATTERN_NAMESPACE || strcmp(p->service.name, m->service->name) == 0));
	return 0;
}

/* It has one, or may get one. The authority itself needs no grant. */
static int check_service_at(struct request *q, const struct names *k)
{
	struct means m = { .service = &q->t.service };
	char name[LIMIT_SERVICE_SIZE], guess[160];
	int64_t last = 0;
	uint64_t n = 0;
	int r = check_host(q, k);

	if (r < 0)
		return r;
	service_name_format(name, &q->t.service);
	r = state_each_grant_of(q->b->state, q->t.host, note_meaning, &m);
	if (r == 0)
		r = state_last_issued(q->b->state, q->t.host, q->t.id, &last, &n);
	if (r < 0 || n > 0 || m.any || (strcmp(q->t.host, g_ca.membership.host) == 0 && ca_find(name)))
		return r;
	return refuse(q, -ENOENT, "host %s has no certificate for %s, and no grant says that it may have one%s (`sealane ca ls`)", q->t.host, name,
		      json_object_get(k->services, name) ? "" : names_near(k->services, name, guess));
}

static int name_entry(void *arg, const char *line)
{
	char word[REVOKED_LINE_SIZE];

	return names_add(arg, revoked_word(word, line));
}

static int refuse_unrevoked(struct request *q)
{
	json_t *names = json_object();
	char guess[160] = "";

	if (names && revoked_each(name_entry, names) == 0)
		names_near(names, q->what, guess);
	json_decref(names);
	return refuse(q, -ENOENT, "%.200s is not revoked%s (`sealane ca ls` lists what is)", q->what, guess);
}

static int check_is_revoked(struct request *q)
{
	struct state_grant g;
	int r = 0;

	switch (q->t.kind) {
	case TARGET_HOST:
	case TARGET_SERVICE:
		return revoked_has_id(q->t.id) ? 0 : refuse_unrevoked(q);
	case TARGET_SERVICE_AT:
		r = exact_grant(q->b, &q->t, &g);
		if (r < 0)
			return r;
		return revoked_before(q->t.id, q->t.host) || (r && !g.allow) ? 0 : refuse_unrevoked(q);
	case TARGET_SERIAL:
		break; /* it was looked for among those that are revoked */
	}
	return r;
}

static int check_is_there(struct request *q)
{
	char own[LIMIT_SPIFFE_ID_SIZE];
	struct names k;
	int r = 0;

	if (strcmp(q->t.id, host_id_format(own, g_ca.trust_domain, g_ca.membership.host)) == 0)
		return refuse(q, -EPERM, "%.200s is the authority itself: nobody could ask it for anything any more", q->what);
	if (q->t.as_it_stands || q->t.kind == TARGET_SERIAL)
		return 0;
	r = names_known(q->b, &k);
	if (r == 0)
		r = q->t.kind == TARGET_HOST ? check_host(q, &k) : q->t.kind == TARGET_SERVICE ? check_service(q, &k) : check_service_at(q, &k);
	names_free(&k);
	return r;
}

/* ------------------------------------------------------------------ serials */

struct found {
	const char *digits;
	unsigned n;
	char first[STATE_SERIAL_SIZE], second[STATE_SERIAL_SIZE], of[LIMIT_SPIFFE_ID_SIZE];
	int64_t not_after;
};

static void found_one(struct found *f, const char *serial)
{
	memcpy(f->n == 0 ? f->first : f->second, serial, strlen(serial) + 1);
	f->n++;
}

static int found_issued(void *arg, const struct state_issued *i)
{
	struct found *f = arg;

	found_one(f, i->serial);
	memcpy(f->of, i->spiffe_id, sizeof(f->of));
	f->not_after = i->not_after;
	return 0;
}

static int found_revoked(void *arg, const char *line)
{
	struct found *f = arg;

	if (strncmp(line, "serial:", 7) == 0 && strncmp(line + 7, f->digits, strlen(f->digits)) == 0)
		found_one(f, line + 7);
	return 0;
}

static bool is_serial(const char *s)
{
	size_t n = strspn(s, "0123456789abcdef");

	return !s[n] && n >= SERIAL_DIGITS_MIN && n < STATE_SERIAL_SIZE;
}

/* Those that the digits mean: of what was issued, or of what is revoked. */
static int find_serial(struct request *q, const char *digits, struct found *f)
{
	*f = (struct found){ .digits = digits };
	return q->add ? state_find_issued(q->b->state, digits, found_issued, f) : revoked_each(found_revoked, f);
}

static int take_serial(struct request *q, const struct found *f)
{
	if (f->n > 1)
		return refuse(q, -EINVAL, "%.40s is how several serials begin, among them %s and %s: give more of its digits", f->digits, f->first, f->second);
	if (f->n == 0 && !q->add)
		return refuse_unrevoked(q);
	if (f->n == 0)
		return refuse(q, -ENOENT, "no certificate that is still good has the serial %.40s (`sealane ca ls` lists the newest of each name)", f->digits);
	q->t.kind = TARGET_SERIAL;
	memcpy(q->t.serial, f->first, sizeof(q->t.serial));
	q->t.serial_not_after = f->not_after;
	return 0;
}

/* ------------------------------------------------------------------ what does the word mean? */

static int no_word(struct request *q)
{
	return refuse(q, -EINVAL, "\"%.200s\" is nothing that can be revoked: expected host/NAME, NAMESPACE/NAME, NAMESPACE/NAME@HOST, a serial, or a SPIFFE ID",
		      q->what);
}

static int read_id(struct request *q)
{
	struct target *t = &q->t;

	t->as_it_stands = true;
	if (host_id_parse(t->host, q->what, g_ca.trust_domain) == 0)
		t->kind = TARGET_HOST;
	else if (spiffe_id_parse(&t->service, q->what, g_ca.trust_domain) == 0)
		t->kind = TARGET_SERVICE;
	else
		return no_word(q);
	return str_copy(t->id, sizeof(t->id), q->what) ? 0 : no_word(q);
}

static int read_host(struct request *q, const char *name)
{
	if (!label_is_valid(name) || !str_copy(q->t.host, sizeof(q->t.host), name))
		return no_word(q);
	q->t.kind = TARGET_HOST;
	host_id_format(q->t.id, g_ca.trust_domain, q->t.host);
	return 0;
}

static int read_service(struct request *q)
{
	const char *at = strchr(q->what, '@');
	char name[LIMIT_SERVICE_SIZE];
	struct target *t = &q->t;

	if ((size_t)snprintf(name, sizeof(name), "%.*s", at ? (int)(at - q->what) : (int)strlen(q->what), q->what) >= sizeof(name) ||
	    service_name_parse(&t->service, name, q->b->config->namespace_) < 0)
		return no_word(q);
	if (at && (!label_is_valid(at + 1) || !str_copy(t->host, sizeof(t->host), at + 1)))
		return no_word(q);
	t->kind = at ? TARGET_SERVICE_AT : TARGET_SERVICE;
	spiffe_id_format(t->id, g_ca.trust_domain, &t->service);
	return 0;
}

/* Is the service that the word could mean there, or revoked? */
static bool is_service_too(struct request *q)
{
	struct request other = { .b = q->b, .what = q->what, .add = q->add };

	return read_service(&other) == 0 && (q->add ? check_is_there(&other) : check_is_revoked(&other)) == 0;
}

/* A word like "deadbeef" can be either: it is a serial only if there is such a one. */
static int read_digits(struct request *q)
{
	struct found f;
	char name[LIMIT_SERVICE_SIZE];
	struct service_name s;
	int r = find_serial(q, q->what, &f);

	if (r < 0)
		return r;
	if (f.n == 0 && is_service_too(q))
		return read_service(q);
	if (f.n == 0 && q->add)
		return refuse(q, -ENOENT, "%s is neither a service here nor how the serial of a certificate begins that is still good (`sealane ca ls`)", q->what);
	if (f.n == 0 || !is_service_too(q))
		return take_serial(q, &f);
	r = service_name_parse(&s, q->what, q->b->config->namespace_);
	return refuse(q, -EINVAL, "%s is both a service and the beginning of a serial: say %s, or serial:%s%s%s", q->what,
		      r == 0 ? service_name_format(name, &s) : q->what, f.first, f.of[0] ? " for the certificate of " : "", f.of);
}

static int read_target(struct request *q)
{
	struct found f;
	int r;

	if (strncmp(q->what, "spiffe://", 9) == 0)
		return read_id(q);
	if (strncmp(q->what, "host/", 5) == 0)
		return read_host(q, q->what + 5);
	if (strncmp(q->what, "serial:", 7) == 0) {
		if (!is_serial(q->what + 7))
			return refuse(q, -EINVAL, "\"%.200s\" is no serial: expected %d to %d digits, 0-9 and a-f", q->what, SERIAL_DIGITS_MIN, STATE_SERIAL_SIZE - 1);
		r = find_serial(q, q->what + 7, &f);
		return r < 0 ? r : take_serial(q, &f);
	}
	return is_serial(q->what) ? read_digits(q) : read_service(q);
}

/* ------------------------------------------------------------------ what changes */

/* The list's line for it. */
static int entry_of(struct request *q, struct state_revoked *ret)
{
	const struct target *t = &q->t;
	struct revocation e = { .kind = t->kind == TARGET_SERIAL ? REVOKED_SERIAL : t->kind == TARGET_SERVICE_AT ? REVOKED_BEFORE : REVOKED_ID };
	int64_t now = unix_now_s(), last = 0;
	uint64_t unused;
	int r = 0;

	if (t->kind == TARGET_SERVICE_AT)
		r = state_last_issued(q->b->state, t->host, t->id, &last, &unused);
	if (r < 0)
		return r;
	e.before_unix_s = (now > last ? now : last) - CA_BACKDATE_S + 1;
	if (e.before_unix_s < revoked_before(t->id, t->host))
		e.before_unix_s = revoked_before(t->id, t->host);
	memcpy(e.host, t->host, sizeof(e.host));
	snprintf(e.what, sizeof(e.what), "%s", t->kind == TARGET_SERIAL ? t->serial : t->id);
	*ret = (struct state_revoked){ .since_unix_s = now, .until_unix_s = t->kind == TARGET_SERIAL ? t->serial_not_after + SERIAL_KEEP_S : 0 };
	revocation_format(ret->entry, &e);
	return 0;
}

struct lines {
	const struct target *t;
	char (*found)[REVOKED_LINE_SIZE]; /* owned, n of them */
	size_t n;
};

/* Whatever stands for the target now: of a service at a host there may be several, where a list was restored. */
static int find_line(void *arg, const char *line)
{
	struct lines *l = arg;
	const struct target *t = l->t;
	struct revocation e;
	char (*more)[REVOKED_LINE_SIZE];
	bool is_it;

	if (revocation_parse(&e, line) < 0)
		return -EBADMSG;
	if (t->kind == TARGET_SERIAL)
		is_it = e.kind == REVOKED_SERIAL && strcmp(e.what, t->serial) == 0;
	else if (t->kind == TARGET_SERVICE_AT)
		is_it = e.kind == REVOKED_BEFORE && strcmp(e.what, t->id) == 0 && strcmp(e.host, t->host) == 0;
	else
		is_it = e.kind == REVOKED_ID && strcmp(e.what, t->id) == 0;
	if (!is_it)
		return 0;
	more = realloc(l->found, (l->n + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	l->found = more;
	memcpy(l->found[l->n++], line, strlen(line) + 1);
	return 0;
}

static int drop_lines(struct request *q)
{
	struct lines l = { .t = &q->t };
	int r = revoked_each(find_line, &l);

	for (size_t i = 0; i < l.n && r == 0; i++)
		r = state_delete_revoked(q->b->state, l.found[i]);
	free(l.found);
	return r;
}

/* A grant that says no takes the place of one that says yes, and gives it back. */
static int change_grant(struct request *q)
{
	struct state_grant g;
	int r = exact_grant(q->b, &q->t, &g);

	if (r < 0)
		return r;
	if (q->add) {
		g.stood |= g.allow;
		g.allow = false;
		memcpy(g.host, q->t.host, sizeof(g.host));
		return state_put_grant(q->b->state, &g);
	}
	if (r == 0 || g.allow)
		return 0;
	g.allow = g.stood;
	g.stood = false;
	return g.allow ? state_put_grant(q->b->state, &g) : state_delete_grant(q->b->state, g.host, &g.pattern);
}

/* A token that is open still would give it back to whoever uses it. */
static int withdraw(struct request *q)
{
	struct service_pattern p = { .rank = PATTERN_EXACT, .service = q->t.service };

	if (q->t.kind == TARGET_HOST)
		return authority_withdraw(q->b, q->t.host, NULL, NULL);
	return q->t.kind == TARGET_SERVICE_AT ? authority_withdraw(q->b, q->t.host, &p, NULL) : 0;
}

static int write_change(struct request *q, const struct state_revoked *e)
{
	struct state_membership m = g_ca.membership;
	struct state_db *db = q->b->state;
	int r = state_begin(db);

	if (r < 0)
		return r;
	r = state_forget_revoked(db, unix_now_s());
	if (r == 0)
		r = drop_lines(q);
	if (r == 0 && q->add)
		r = state_put_revoked(db, e);
	if (r == 0 && q->t.kind == TARGET_SERVICE_AT)
		r = change_grant(q);
	if (r == 0 && q->add)
		r = withdraw(q);
	m.revoked.counter++;
	if (r == 0)
		r = state_put_membership(db, &m);
	return state_end(db, r);
}

static int change(struct request *q)
{
	struct state_revoked e;
	int r = entry_of(q, &e);

	if (r == 0 && q->add && revoked_size() + strlen(e.entry) + 1 > LIST_SIZE_MAX)
		r = -ENOSPC;
	if (r == 0)
		r = write_change(q, &e);
	if (r == -ENOSPC)
		return refuse(q, r, "there is no room for it: the disk is full, or the list of what is revoked (`sealane ca ls`); nothing was changed");
	if (r < 0)
		return refuse(q, r, "the state directory does not take it (%s); nothing was changed", log_errno_name(r));
	g_ca.membership.revoked.counter++;
	r = revoked_reload(q->b);
	if (r < 0)
		return refuse(q, r, "it is written down, and in force when the daemon starts again: it has no memory (%s)", log_errno_name(r));
	revoked_tell(q->b, ROLE_NO_ID);
	link_recheck(q->b);
	return 0;
}

static void answer(const struct request *q, ca_done_fn done, void *arg)
{
	char version[REVOKED_VERSION_SIZE];
	json_t *json;

	revoked_version_format(version, &g_ca.membership.revoked);
	log_warn(q->add ? "ca.revoke" : "ca.unrevoke", LOG_STR("what", q->what), LOG_STR("spiffe_id", q->t.id[0] ? q->t.id : NULL),
		 LOG_STR("host", q->t.host[0] ? q->t.host : NULL), LOG_STR("serial", q->t.serial[0] ? q->t.serial : NULL), LOG_STR("version", version));
	json = json_pack("{s:b,s:i,s:s}", "ok", 1, "entries", 1, "version", version);
	done(arg, json ? 0 : -ENOMEM, json ? "" : "it is done; the daemon has no memory to say so", json);
	json_decref(json);
}

static void change_revoked(struct broker *b, const char *what, bool add, ca_done_fn done, void *arg)
{
	struct request q = { .b = b, .what = what, .add = add };
	int r;

	if (!authority_is_here(done, arg))
		return;
	r = read_target(&q);
	if (r == 0)
		r = add ? check_is_there(&q) : check_is_revoked(&q);
	if (r == 0)
		r = change(&q);
	if (r == 0)
		answer(&q, done, arg);
	else
		done(arg, r, q.why[0] ? q.why : "the authority's book could not be read", NULL);
}

void authority_revoke(struct broker *b, const char *what, ca_done_fn done, void *arg)
{
	change_revoked(b, what, true, done, arg);
}

void authority_unrevoke(struct broker *b, const char *what, ca_done_fn done, void *arg)
{
	change_revoked(b, what, false, done, arg);
}
