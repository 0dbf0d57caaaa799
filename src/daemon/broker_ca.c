/*
 * Theory of operation: the keys and certificates of this host: one for itself, one for each of its services.
 *
 * Private keys are the signer's; here they are numbers (kid) and names. A certificate's life, as its `struct credential` goes through it:
 *
 *   missing    nothing to show. A key is asked of the signer, then a certificate of the authority: now, and again after 1 s,
 *              2 s ... 30 s while that fails.
 *   valid      linkers show it. When half its life is over (a little earlier or later, so that a host's services do not come all
 *              at once) a fresh key and a new certificate are asked for; while that fails, again after each tenth of the life.
 *   renewing   `next` has a key and no certificate. `now` stays in use, whatever becomes of `next`.
 *   over       by our clock. Linkers do not show it any more by themselves; here it counts as missing.
 *
 * A key's file at the signer has two slots in turn, "svc0.NS.NAME" and "svc1.NS.NAME", so that the certificate which the state database knows always has
 * its key, at whatever moment the daemon is killed.
 *
 * For linkers a certificate has one kid for as long as it is this host's (the host's own: 0), and a new one takes the old one's place
 * under it, since their sessions stand on it. So the next key gets a number of its own first, to ask for a certificate with.
 *
 * Before it: broker_member.c, broker_authority.c or broker_ca_files.c, whence certificates come. After it: the linkers.
 * Must never: see a private key; show a certificate that is not valid by our own clock.
 */
#include "daemon/broker_ca.h"

#include "daemon/broker_int.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>

enum {
	RETRY_FIRST_S = 1,
	RETRY_MAX_S = 30,
	/* What is under way at a time: a host with thousands of services must not come down on its authority with all. */
	RENEWALS_MAX = 16,
	/* The clock may be set at any time, so nothing sleeps longer. */
	TICK_MAX_MS = 10 * 1000,
	TICK_MIN_MS = 100,
};

struct ca g_ca;
static uint32_t g_last_kid;
static struct event *g_tick;

const char *ca_failure_name(enum ca_failure f)
{
	static const char *const names[] = { "ok", "not-joined", "unreachable", "denied", "clock", "malformed", "signer", "state", "files" };
	static_assert(ARRAY_SIZE(names) == CA_FAILURE_N, "a name for each");

	return names[f];
}

const uint64_t *ca_failures(void)
{
	return g_ca.failures;
}

/* ------------------------------------------------------------------ small things */

int ca_text_fd(const char *text, size_t size)
{
	AUTO_FD fd = memfd_create("sealane-text", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || pwrite(fd, text, size, 0) != (ssize_t)size) /* so that it is read from its start */
		return -1;
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0) /* several linkers may get it */
		return -1;
	return take_fd(&fd);
}

char *ca_read_fd(int fd, size_t max, size_t *ret_size)
{
	AUTO_FREE(char) text = NULL;
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0 || st.st_size < 0 || (uint64_t)st.st_size > max)
		return NULL;
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return NULL;
	n = pread(fd, text, (size_t)st.st_size, 0);
	if (n < 0)
		return NULL;
	text[n] = '\0';
	*ret_size = (size_t)n;
	return take_ptr(text);
}

uint32_t ca_new_kid(void)
{
	do
		g_last_kid++;
	while (g_last_kid == 0 || g_last_kid == ROLE_NO_ID);
	return g_last_kid;
}

struct credential *ca_find(const char *name)
{
	struct credential *c;

	HASH_FIND_STR(g_ca.credentials, name, c);
	return c;
}

static bool is_host(const struct credential *c)
{
	return !c->service.name[0];
}

char *ca_id(char *buf, const struct credential *c)
{
	if (is_host(c))
		return host_id_format(buf, g_ca.trust_domain, g_ca.membership.host);
	return spiffe_id_format(buf, g_ca.trust_domain, &c->service);
}

void ca_key_name(const struct credential *c, char ret[STATE_KEY_NAME_SIZE])
{
	char slot = c->now.key[is_host(c) ? 4 : 3] == '0' ? '1' : '0';

	if (is_host(c))
		snprintf(ret, STATE_KEY_NAME_SIZE, "host%c", slot);
	else
		snprintf(ret, STATE_KEY_NAME_SIZE, "svc%c.%s.%s", slot, c->service.ns, c->service.name);
}

static void pair_clear(struct ca_pair *p)
{
	free(p->pem);
	fd_cleanup(&p->key_fd);
	*p = CA_NO_PAIR;
}

static bool is_valid_now(const struct ca_pair *p)
{
	int64_t now = unix_now_s();

	return p->pem && p->svid.not_before <= now && now < p->svid.not_after;
}

/* Nor revoked, as far as this host knows: then it may be had anew, if it was granted again. */
static bool is_good(const struct ca_pair *p)
{
	return is_valid_now(p) && !revoked_find(p->svid.spiffe_id, p->svid.serial, p->svid.not_before);
}

/* A service's: this host's own goes on to be shown, or it could never hear that it is revoked no longer. */
static bool is_taken_back(const struct credential *c)
{
	return !is_host(c) && c->now.pem && revoked_find(c->now.svid.spiffe_id, c->now.svid.serial, c->now.svid.not_before);
}

/* ------------------------------------------------------------------ what linkers are told */

void ca_forget_key(struct broker *b, uint32_t kid)
{
	struct role_msg linkers = { .type = BL_FORGET, .u.id.id = kid }, signer = { .type = BS_FORGET, .u.id.id = kid };

	if (kid == ROLE_NO_ID)
		return;
	link_tell_all(b, &linkers, -1);
	signer_tell(b, &signer, -1);
}

static void tell_trust(struct broker *b, uint32_t linker)
{
	struct role_msg m = { .type = BL_TRUST };
	const char *roots = g_ca.roots_pem ? g_ca.roots_pem : "";
	AUTO_FD fd = ca_text_fd(roots, strlen(roots));

	if (fd < 0 || !b->config)
		return;
	m.u.trust = (struct role_trust){ .window = b->config->link.window, .idle_ms = (uint32_t)(b->config->link.idle_s * 1000),
					 .timeout_ms = (uint32_t)(b->config->link.timeout_s * 1000),
					 .authority = g_ca.member && g_ca.membership.is_authority };
	snprintf(m.u.trust.trust_domain, sizeof(m.u.trust.trust_domain), "%s", g_ca.trust_domain);
	snprintf(m.u.trust.host, sizeof(m.u.trust.host), "%s", g_ca.member ? g_ca.membership.host : b->host);
	if (linker == ROLE_NO_ID)
		link_tell_all(b, &m, fd);
	else
		link_tell(b, linker, &m, fd);
}

void ca_tell_trust(struct broker *b)
{
	tell_trust(b, ROLE_NO_ID);
}

static void show_to(struct broker *b, const struct credential *c, uint32_t linker)
{
	struct role_msg m = { .type = BL_CREDENTIAL };
	AUTO_FD fd = -1;

	if (!c->now.loaded || c->hidden || !is_valid_now(&c->now) || (fd = ca_text_fd(c->now.pem, strlen(c->now.pem))) < 0)
		return;
	m.u.credential = (struct role_credential){ .kid = is_host(c) ? 0 : c->now.kid, .not_after = c->now.svid.not_after };
	memcpy(m.u.credential.spiffe_id, c->now.svid.spiffe_id, sizeof(m.u.credential.spiffe_id));
	if (linker == ROLE_NO_ID)
		link_tell_all(b, &m, fd);
	else
		link_tell(b, linker, &m, fd);
}

void ca_show(struct broker *b, const struct credential *c)
{
	show_to(b, c, ROLE_NO_ID);
}

/* Sessions and lanes that stand on it end with it, as they do at the other hosts when they hear of it. */
void ca_on_revoked(struct broker *b)
{
	struct role_msg forget = { .type = BL_FORGET };
	struct credential *c, *tmp;

	HASH_ITER(hh, g_ca.credentials, c, tmp) {
		bool hide = is_taken_back(c);

		if (!c->now.loaded || hide == c->hidden)
			continue;
		c->hidden = hide;
		forget.u.id.id = c->now.kid;
		if (hide) {
			link_tell_all(b, &forget, -1);
		} else {
			ca_show(b, c);
			link_on_credential(b, &c->service);
		}
	}
}

static void hand_signer(struct broker *b, uint32_t linker)
{
	struct role_msg signer = { .type = BS_LINKER, .u.id.id = linker }, m = { .type = BL_SIGNER };
	int fds[2];

	if (!signer_is_up() || chan_pair(fds) < 0)
		return;
	signer_tell(b, &signer, fds[0]);
	link_tell(b, linker, &m, fds[1]);
	close(fds[0]);
	close(fds[1]);
}

void ca_on_linker(struct broker *b, uint32_t linker)
{
	struct credential *c, *tmp;

	if (linker >= LIMIT_LINKERS)
		return;
	g_ca.linkers[linker] = true;
	hand_signer(b, linker);
	tell_trust(b, linker);
	revoked_tell(b, linker);
	HASH_ITER(hh, g_ca.credentials, c, tmp)
		show_to(b, c, linker);
	ca_soon(b);
}

void ca_on_linker_lost(struct broker *b, uint32_t linker)
{
	if (linker < LIMIT_LINKERS)
		g_ca.linkers[linker] = false;
	member_on_linker_lost(b, linker);
	authority_on_linker_lost(b, linker);
}

/* ------------------------------------------------------------------ what came, what did not */

static double jitter(void)
{
	uint16_t r = 0;

	(void)!getrandom(&r, sizeof(r), GRND_NONBLOCK); /* without randomness all come at the same time, no worse */
	return (double)r / UINT16_MAX;
}

/* What is left of it by our clock when it came: not_before lies some minutes back. */
static double life_s(const struct ca_pair *p)
{
	int64_t from = p->issued_unix_s > p->svid.not_before ? p->issued_unix_s : p->svid.not_before;

	return p->svid.not_after > from ? (double)(p->svid.not_after - from) : 1;
}

static void plan_renewal(struct credential *c)
{
	int64_t from = c->now.issued_unix_s > c->now.svid.not_before ? c->now.issued_unix_s : c->now.svid.not_before;

	c->renew_unix_s = from + (int64_t)(life_s(&c->now) * (0.45 + 0.1 * jitter()));
}

/* Ours, from the signer, for us, and valid now. */
static enum ca_failure check(struct credential *c, const struct svid *s)
{
	char id[LIMIT_SPIFFE_ID_SIZE];
	int64_t now = unix_now_s();

	if (strcmp(s->spiffe_id, ca_id(id, c)) != 0)
		snprintf(c->why, sizeof(c->why), "the certificate that came is for %.100s", s->spiffe_id[0] ? s->spiffe_id : "nobody");
	else if (memcmp(s->point, c->next.svid.point, sizeof(s->point)) != 0)
		snprintf(c->why, sizeof(c->why), "the certificate that came is for another key");
	else if (s->not_after <= now)
		snprintf(c->why, sizeof(c->why), "the certificate that came is over by this host's clock: set the clock");
	else if (s->not_before > now)
		snprintf(c->why, sizeof(c->why), "the certificate that came is not valid yet by this host's clock: set the clock");
	else
		return CA_OK;
	return s->not_after <= now || s->not_before > now ? CA_CLOCK : CA_MALFORMED;
}

static int keep(struct broker *b, const struct credential *c, const struct ca_pair *p)
{
	struct state_certificate s = { .issued_unix_s = p->issued_unix_s, .pem = p->pem };

	memcpy(s.name, c->name, sizeof(s.name));
	memcpy(s.key, p->key, sizeof(s.key));
	return state_put_certificate(b->state, &s);
}

/* Linkers may use it from now on. */
static void in_use(struct broker *b, struct credential *c)
{
	c->now.loaded = true;
	c->hidden = is_taken_back(c);
	ca_show(b, c);
	if (!is_host(c))
		link_on_credential(b, &c->service);
	else
		ca_soon(b); /* what the authority is asked for can be asked now */
}

/* A certificate whose key the signer does not have is worth nothing. */
static void drop_now(struct broker *b, struct credential *c, const char *why)
{
	uint32_t kid = c->now.kid;

	pair_clear(&c->now);
	c->now.kid = kid; /* the next one is for the same sessions */
	if (!g_ca.external && state_delete_certificate(b->state, c->name) < 0)
		log_error("state.failed", LOG_STR("why", "a certificate without a key could not be removed"));
	ca_failed(b, c, CA_SIGNER, why);
}

static void on_loaded(struct broker *b, void *arg, const struct role_signed *r, int fd)
{
	struct credential *c = ca_find(arg);

	free(arg);
	fd_cleanup(&fd);
	if (!c || !c->now.pem || r->error == -EPIPE)
		return;
	if (r->error || memcmp(r->public_key, c->now.svid.point, KEY_POINT_SIZE) != 0)
		drop_now(b, c, r->error ? r->why : "the signer does not have the certificate's key any more");
	else
		in_use(b, c);
}

/* Have the signer take the key of the certificate that we have for its kid, in place of what that was. */
static void load_key(struct broker *b, struct credential *c)
{
	struct role_msg m = { .type = BS_KEY };
	char *name = strdup(c->name);

	if (!name)
		return;
	if (c->now.kid == ROLE_NO_ID)
		c->now.kid = is_host(c) ? 0 : ca_new_kid();
	m.u.key.kid = c->now.kid;
	memcpy(m.u.key.name, c->now.key, sizeof(c->now.key));
	signer_ask(b, &m, c->now.key_fd, on_loaded, name);
	fd_cleanup(&c->now.key_fd);
	c->now.key_fd = -1;
}

/*
 * c->next, complete, becomes c->now. Its kid was for asking; linkers know the certificate by the one that it always had, since that is
 * what their sessions stand on. Between the signer's change of that kid and the linkers', some 100 us, a handshake fails; it is
 * tried again by who began it.
 */
static void swap_in(struct broker *b, struct credential *c)
{
	struct role_msg forget = { .type = BS_FORGET, .u.id.id = c->next.kid };
	struct ca_pair old = c->now;
	char id[LIMIT_SPIFFE_ID_SIZE];

	c->now = c->next;
	c->now.kid = old.kid;
	c->now.loaded = old.loaded;
	c->next = CA_NO_PAIR;
	c->renewing = false;
	c->n_failed = 0;
	c->failure = CA_OK;
	c->told_expired = false;
	c->why[0] = '\0';
	plan_renewal(c);
	c->retry_ns = 0;
	load_key(b, c);
	signer_tell(b, &forget, -1);
	log_info("certificate.renewed", LOG_STR("spiffe_id", ca_id(id, c)), LOG_STR("serial", c->now.svid.serial),
		 LOG_I64("not_after", c->now.svid.not_after));
	pair_clear(&old);
	ca_soon(b);
}

enum ca_failure ca_take(struct broker *b, struct credential *c, const char *pem)
{
	struct svid s;
	enum ca_failure f;
	int r;

	if (svid_read(&s, pem, strlen(pem)) < 0) {
		ca_failed(b, c, CA_MALFORMED, "what came is no certificate");
		return CA_MALFORMED;
	}
	f = check(c, &s);
	if (f != CA_OK) {
		ca_failed(b, c, f, c->why);
		return f;
	}
	c->next.pem = strdup(pem);
	c->next.svid = s;
	c->next.issued_unix_s = unix_now_s();
	r = !c->next.pem ? -ENOMEM : g_ca.external ? 0 : keep(b, c, &c->next);
	if (r < 0) {
		ca_failed(b, c, CA_STATE, "the state directory does not take the certificate: is its disk full?");
		return CA_STATE;
	}
	swap_in(b, c);
	return CA_OK;
}

void ca_failed(struct broker *b, struct credential *c, enum ca_failure f, const char *why)
{
	struct role_msg forget = { .type = BS_FORGET, .u.id.id = c->next.kid };
	char id[LIMIT_SPIFFE_ID_SIZE];
	double tenth = c->now.pem ? life_s(&c->now) / 10 : 0;
	double wait = tenth > 0 && is_good(&c->now) ? tenth : (double)(RETRY_FIRST_S << (c->n_failed < 5 ? c->n_failed : 5));
	bool news = c->failure != f || strcmp(c->why, why) != 0 || c->n_failed == 0;

	if (c->next.kid != ROLE_NO_ID)
		signer_tell(b, &forget, -1);
	pair_clear(&c->next);
	c->renewing = false;
	if (wait < RETRY_FIRST_S)
		wait = RETRY_FIRST_S;
	if (wait > RETRY_MAX_S && !is_good(&c->now))
		wait = RETRY_MAX_S;
	c->retry_ns = clock_ns() + (uint64_t)(wait * (0.9 + 0.2 * jitter()) * 1e9);
	c->n_failed++;
	c->failure = f;
	if (why != c->why)
		snprintf(c->why, sizeof(c->why), "%s", why);
	g_ca.failures[f]++;
	ca_soon(b); /* to see when it is due again */
	if (news)
		log_warn("certificate.failed", LOG_STR("spiffe_id", ca_id(id, c)), LOG_STR("reason", ca_failure_name(f)), LOG_STR("why", c->why),
			 LOG_I64("not_after", c->now.pem ? c->now.svid.not_after : 0));
}

/* ------------------------------------------------------------------ renewal */

static void on_key(struct broker *b, void *arg, const struct role_signed *r, int fd)
{
	struct credential *c = ca_find(arg);

	free(arg);
	fd_cleanup(&fd);
	if (!c || !c->renewing)
		return;
	if (r->error) {
		ca_failed(b, c, CA_SIGNER, r->why[0] ? r->why : "the signer has no key");
		return;
	}
	memcpy(c->next.svid.point, r->public_key, KEY_POINT_SIZE);
	if (g_ca.membership.is_authority)
		authority_renew(b, c);
	else
		member_renew(b, c);
}

static void renew(struct broker *b, struct credential *c)
{
	struct role_msg m = { .type = BS_KEY, .u.key.fresh = 1 };
	char *name = strdup(c->name);

	if (!name)
		return; /* the next tick tries again */
	c->renewing = true;
	c->next = CA_NO_PAIR;
	c->next.kid = ca_new_kid();
	ca_key_name(c, c->next.key);
	m.u.key.kid = c->next.kid;
	memcpy(m.u.key.name, c->next.key, sizeof(c->next.key));
	signer_ask(b, &m, -1, on_key, name);
}

static bool is_due(const struct credential *c, int64_t now)
{
	if (!c->wanted || c->renewing || clock_ns() < c->retry_ns)
		return false;
	/* What failed is tried until it succeeds, though the old one be good again: a revocation may have been taken back. */
	return !is_good(&c->now) || c->failure != CA_OK || now >= c->renew_unix_s;
}

static void tell_expiry(struct broker *b, struct credential *c)
{
	char id[LIMIT_SPIFFE_ID_SIZE];
	bool over = c->now.svid.not_after <= unix_now_s();

	if (!c->now.pem || is_valid_now(&c->now)) {
		c->told_expired = false;
		return;
	}
	if (c->told_expired)
		return;
	c->told_expired = true;
	g_ca.failures[CA_CLOCK]++;
	log_error("certificate.failed", LOG_STR("spiffe_id", ca_id(id, c)), LOG_STR("reason", over ? "expired" : "not-yet-valid"),
		  LOG_STR("why", "by this host's clock: it is not shown to other hosts"), LOG_I64("not_before", c->now.svid.not_before),
		  LOG_I64("not_after", c->now.svid.not_after));
}

/* The host's own comes first: without it the authority does not answer for the others. */
static bool may_renew(const struct credential *c)
{
	const struct credential *host = ca_find("host");

	return is_host(c) || g_ca.membership.is_authority || (host && is_valid_now(&host->now));
}

static void renew_due(struct broker *b)
{
	int64_t now = unix_now_s();
	struct credential *c, *tmp;
	unsigned n = 0;

	HASH_ITER(hh, g_ca.credentials, c, tmp) {
		tell_expiry(b, c);
		n += c->renewing;
	}
	if (!g_ca.member || g_ca.external || !signer_is_up())
		return;
	HASH_ITER(hh, g_ca.credentials, c, tmp) {
		if (n >= RENEWALS_MAX)
			return;
		if (is_due(c, now) && may_renew(c)) {
			renew(b, c);
			n += c->renewing;
		}
	}
}

/* How long until the first one is due. */
static unsigned next_due_ms(void)
{
	int64_t now = unix_now_s(), ms = TICK_MAX_MS;
	uint64_t now_ns = clock_ns();
	struct credential *c, *tmp;

	HASH_ITER(hh, g_ca.credentials, c, tmp) {
		int64_t due = !c->wanted || c->renewing ? ms : is_good(&c->now) && (c->failure == CA_OK || g_ca.external) ? (c->renew_unix_s - now) * 1000 : 0;

		if (c->retry_ns > now_ns && due < (int64_t)((c->retry_ns - now_ns) / 1000000))
			due = (int64_t)((c->retry_ns - now_ns) / 1000000);
		if (due < ms)
			ms = due;
	}
	return ms < TICK_MIN_MS ? TICK_MIN_MS : (unsigned)ms;
}

static void arm(struct broker *b, unsigned ms)
{
	struct timeval tv = { .tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000) * 1000 };

	if (g_tick)
		event_add(g_tick, &tv);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct broker *b = arg;
	unsigned ms, other;

	renew_due(b);
	ms = next_due_ms();
	other = g_ca.external ? files_tick(b) : member_tick(b);
	ms = other < ms ? other : ms;
	other = authority_tick(b);
	arm(b, other < ms ? other : ms);
}

void ca_soon(struct broker *b)
{
	if (!g_tick && b->base)
		g_tick = event_new(b->base, -1, 0, on_tick, b);
	arm(b, 0);
}

/* ------------------------------------------------------------------ the signer */

static void load_keys(struct broker *b)
{
	struct credential *c, *tmp;

	HASH_ITER(hh, g_ca.credentials, c, tmp) {
		c->now.loaded = false; /* linkers have the certificates still: signatures come again in a moment */
		if (c->wanted && c->now.pem && !g_ca.external)
			load_key(b, c);
	}
}

void ca_on_signer(struct broker *b, int *fd)
{
	signer_open(b, fd);
	member_on_signer();
	authority_on_signer(b);
	load_keys(b);
	for (uint32_t i = 0; i < LIMIT_LINKERS; i++)
		if (g_ca.linkers[i])
			hand_signer(b, i);
	if (g_ca.external)
		files_apply(b);
	ca_soon(b);
}

/* ------------------------------------------------------------------ the configuration, and what the state knows */

int ca_become(struct broker *b, const struct state_membership *m)
{
	char *roots = strdup(m->roots);

	if (!roots)
		return -ENOMEM;
	free(g_ca.roots_pem);
	g_ca.roots_pem = roots;
	g_ca.membership = *m;
	g_ca.membership.roots = roots;
	g_ca.member = true;
	memcpy(g_ca.trust_domain, m->trust_domain, sizeof(g_ca.trust_domain));
	return 0;
}

static int load_membership(void *arg, const struct state_membership *m)
{
	return ca_become(arg, m);
}

static struct credential *make(const char *name)
{
	struct credential *c = calloc(1, sizeof(*c));

	if (!c || !str_copy(c->name, sizeof(c->name), name)) {
		free(c);
		return NULL;
	}
	c->now = c->next = CA_NO_PAIR;
	if (strcmp(name, "host") != 0 && service_name_parse(&c->service, name, NULL) < 0) {
		free(c);
		return NULL;
	}
	HASH_ADD_STR(g_ca.credentials, name, c);
	return c;
}

static int load_certificate(void *arg, const struct state_certificate *s)
{
	struct credential *c = make(s->name);

	if (!c)
		return -ENOMEM;
	if (svid_read(&c->now.svid, s->pem, strlen(s->pem)) < 0)
		return 0; /* a new one is asked for */
	c->now.pem = strdup(s->pem);
	memcpy(c->now.key, s->key, sizeof(s->key));
	c->now.issued_unix_s = s->issued_unix_s;
	plan_renewal(c);
	return c->now.pem ? 0 : -ENOMEM;
}

static void load(struct broker *b)
{
	int r = state_each_membership(b->state, load_membership, b);

	if (r == 0)
		r = revoked_load(b);
	if (r == 0)
		r = roots_load(b);
	if (r == 0)
		r = authority_load_roots(b);
	if (r == 0 && g_ca.member)
		r = state_each_certificate(b->state, load_certificate, b);
	if (r < 0)
		log_error("state.failed", LOG_STR("error", log_errno_name(r)), LOG_STR("why", "certificates could not be read"));
}

static void want(struct broker *b, const char *name)
{
	struct credential *c = ca_find(name);

	if (!c)
		c = make(name);
	if (!c) {
		log_error("ca.failed", LOG_STR("why", "no memory for a certificate"));
		return;
	}
	if (c->now.pem && !c->now.loaded && signer_is_up() && !g_ca.external)
		load_key(b, c);
	c->wanted = true;
}

static void drop_unwanted(struct broker *b)
{
	struct credential *c, *tmp;

	HASH_ITER(hh, g_ca.credentials, c, tmp) {
		if (c->wanted)
			continue;
		ca_forget_key(b, c->now.kid);
		if (!g_ca.external && state_delete_certificate(b->state, c->name) < 0)
			log_error("state.failed", LOG_STR("why", "a certificate that is not needed any more could not be removed"));
		HASH_DEL(g_ca.credentials, c);
		pair_clear(&c->now);
		pair_clear(&c->next);
		free(c);
	}
}

/* From an authority to files or back: what the one gave is nothing to the other. */
static void change_source(struct broker *b, bool external)
{
	struct credential *c, *tmp;

	HASH_ITER(hh, g_ca.credentials, c, tmp) {
		ca_forget_key(b, c->now.kid);
		HASH_DEL(g_ca.credentials, c);
		pair_clear(&c->now);
		pair_clear(&c->next);
		free(c);
	}
	free(take_ptr(g_ca.roots_pem));
	g_ca.generation++;
	g_ca.member = false;
	g_ca.external = external;
	g_ca.loaded = true;
	if (external)
		revoked_forget(); /* it was the authority's, and names what the files may name as well */
	else
		load(b);
}

/* Whom this host is for others stands in its certificate; a configuration that says otherwise must not go unnoticed. */
static void check_names(struct broker *b)
{
	const struct state_membership *m = &g_ca.membership;

	g_ca.disagrees = g_ca.member && (strcmp(m->trust_domain, b->config->trust_domain) != 0 || strcmp(m->host, b->host) != 0);
	if (g_ca.disagrees)
		log_error("certificate.failed", LOG_STR("reason", "configuration"), LOG_STR("joined_as", m->host), LOG_STR("host_name", b->host),
			  LOG_STR("joined_in", m->trust_domain), LOG_STR("trust_domain", b->config->trust_domain),
			  LOG_STR("do", "set host_name and trust_domain to what they were, or join again"));
}

void ca_apply(struct broker *b)
{
	const struct config *cfg = b->config;
	char name[LIMIT_SERVICE_SIZE];
	struct credential *c, *tmp;

	if (!g_ca.loaded || g_ca.external != (cfg->link.certificates != NULL)) {
		change_source(b, cfg->link.certificates != NULL);
		revoked_tell(b, ROLE_NO_ID);
	}
	if (!g_ca.member)
		memcpy(g_ca.trust_domain, cfg->trust_domain, sizeof(g_ca.trust_domain));
	if (g_ca.external)
		snprintf(g_ca.membership.host, sizeof(g_ca.membership.host), "%s", b->host);
	check_names(b);
	HASH_ITER(hh, g_ca.credentials, c, tmp)
		c->wanted = false;
	want(b, "host");
	for (size_t i = 0; i < cfg->n_services; i++)
		want(b, service_name_format(name, &cfg->services[i].name));
	drop_unwanted(b);
	if (g_ca.member || g_ca.external)
		link_want(b);
	if (g_ca.external)
		files_apply(b);
	ca_tell_trust(b);
	ca_soon(b);
}

/* What the state says now, in place of what was: another authority. */
void ca_reload(struct broker *b)
{
	change_source(b, false);
	authority_on_signer(b);
	ca_apply(b);
	revoked_tell(b, ROLE_NO_ID);
	link_announce(b);
}

/* ------------------------------------------------------------------ what links ask */

static const char *why_none(const struct credential *c)
{
	if (!g_ca.member && !g_ca.external)
		return "this host has no certificates: `sealane ca init` here, or `sealane join TOKEN`";
	if (g_ca.disagrees)
		return "host_name or trust_domain is not what this host joined with: set it back, or `sealane join --again TOKEN`";
	if (!c)
		return "it is no service of this host's configuration";
	if (c->hidden)
		return "it is revoked: `sealane ca unrevoke` on the authority takes that back, and `sealane ca ls` there lists what is";
	if (c->now.pem && c->now.svid.not_after <= unix_now_s())
		return "its certificate has expired and no new one came: the authority is not reached, or refuses, or this clock is wrong; "
		       "`sealane ls certificates` and `sealane status` say more";
	if (c->now.pem && !is_valid_now(&c->now))
		return "its certificate is not valid by this host's clock; `sealane ls certificates` says more";
	return "it has no certificate yet; `sealane ls certificates` says why";
}

uint32_t ca_credential(struct broker *b, const struct service_name *service, const char **why)
{
	char name[LIMIT_SERVICE_SIZE];
	const struct credential *c = ca_find(service_name_format(name, service));

	if (c && c->now.loaded && !c->hidden && is_valid_now(&c->now) && !g_ca.disagrees)
		return c->now.kid;
	*why = why_none(c);
	return ROLE_NO_ID;
}

bool ca_is_member(const struct broker *b)
{
	const struct credential *host = ca_find("host");

	return host && host->now.loaded && is_valid_now(&host->now) && !g_ca.disagrees;
}

bool ca_is_revoked(const struct broker *b, const char *spiffe_id)
{
	return revoked_has_id(spiffe_id);
}

void ca_on_msg(struct broker *b, uint32_t linker, const struct role_msg *m, int *fd)
{
	if (m->type == LB_CA_READY)
		member_on_ready(b, &m->u.ca);
	else if (m->type == LB_CA_ANSWER)
		member_on_answer(b, &m->u.ca, *fd);
	else if (m->type == LB_CA_ASK)
		authority_on_ask(b, linker, &m->u.ca, *fd);
}
