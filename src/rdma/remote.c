/*
 * Theory of operation
 *
 * What is the same over every backend: who owns what, bounds of local memory, rights that exclude each other, numbers and order of
 * operations, time-outs, offences, and the one queue of what is told. A backend is asked through struct remote_backend and answers with the
 * remote_conn_*() and remote_export_*() calls of remote_int.h.
 *
 *   remote_post()  checks -> sent[], a number each -> backend->post()
 *   remote_poll()  backend->poll() -> remote_conn_done() and others -> queue; then time: tick(); then the caller's array
 *
 * Operations complete in order, so a connection needs to know only the oldest that is not done. An operation that does not tell is done
 * when a later one is; where no later one follows, a beat does, so that time-outs are the peer's and not our silence. When a connection fails, the rest of sent[] is flushed from here: nothing depends on a device that still
 * tells of everything.
 *
 * What must never happen: the queue overflowing (it has room for all that connections can have under way: grown when one is
 * made; an operation takes up its place until its completion was taken), a completion that is told twice, or a backend's word about a connection that is OVER (conn_end() promises that).
 */
#include "rdma/remote_int.h"

#define MS_NS UINT64_C(1000000)

enum {
	/* All that one connection can have in the queue: operations, immediates, two for each export, UP and DOWN. */
	CONN_TELLS_MAX = LIMIT_RDMA_OPS + LIMIT_RDMA_RECVS + 2 * LIMIT_RDMA_EXPORTS + 2,
	/* So many operations without one that tells, and the next one does. */
	QUIET_MAX = LIMIT_RDMA_OPS / 2,
};

static const char *const g_status_names[REMOTE_STATUS_N] = {
	[REMOTE_OK] = "ok",
	[REMOTE_BAD_KEY] = "bad-key",
	[REMOTE_BOUNDS] = "bounds",
	[REMOTE_NO_RIGHT] = "no-right",
	[REMOTE_REVOKED] = "revoked",
	[REMOTE_OTHER_DOMAIN] = "other-domain",
	[REMOTE_ACCESS] = "access",
	[REMOTE_PEER_GONE] = "peer-gone",
	[REMOTE_TIMEOUT] = "timeout",
	[REMOTE_FLUSHED] = "flushed",
	[REMOTE_REFUSED] = "refused",
	[REMOTE_OFFENCE] = "offence",
	[REMOTE_BROKEN] = "broken",
};

const char *remote_status_name(enum remote_status s)
{
	return s < REMOTE_STATUS_N ? g_status_names[s] : "unknown";
}

const struct remote_caps *remote_caps(const struct remote *r)
{
	return &r->caps;
}

uint64_t remote_now_ns(const struct remote *r)
{
	return r->backend->now_ns(r);
}

void remote_init(struct remote *r, const struct remote_backend *backend, const struct remote_caps *caps)
{
	r->backend = backend;
	r->caps = *caps;
	LIST_INIT(&r->domains);
	LIST_INIT(&r->spent);
	r->due_ns = UINT64_MAX;
}

/* -- the queue */

static int queue_grow(struct remote *r)
{
	size_t cap = (r->n_conns + 1) * (size_t)CONN_TELLS_MAX;
	struct remote_done *q;

	if (cap <= r->queue_cap)
		return 0;
	q = calloc(cap, sizeof(*q));
	if (!q)
		return -ENOMEM;
	for (size_t i = 0; i < r->queue_n; i++)
		q[i] = r->queue[(r->queue_at + i) % r->queue_cap];
	free(r->queue);
	r->queue = q;
	r->queue_cap = cap;
	r->queue_at = 0;
	return 0;
}

static void tell(struct remote *r, struct remote_done done)
{
	assert(r->queue_n < r->queue_cap);
	r->queue[(r->queue_at + r->queue_n++) % r->queue_cap] = done;
}

static size_t queue_take(struct remote *r, struct remote_done *dones, size_t n)
{
	size_t i;

	for (i = 0; i < n && r->queue_n > 0; i++) {
		dones[i] = r->queue[r->queue_at];
		r->queue_at = (r->queue_at + 1) % r->queue_cap;
		r->queue_n--;
		if (dones[i].kind == REMOTE_DONE_IMM) {
			dones[i].conn->n_imms--;
			if (dones[i].conn->state == REMOTE_UP)
				r->backend->took_imm(dones[i].conn);
		} else if (dones[i].kind == REMOTE_DONE_OP) {
			dones[i].conn->n_told--;
		} else if (dones[i].kind == REMOTE_DONE_REVOKED) {
			dones[i].conn->n_exports--;
			LIST_REMOVE(dones[i].export, of_conn);
			LIST_INSERT_HEAD(&r->spent, dones[i].export, of_conn);
		}
	}
	return i;
}

/* Nothing of @c is told any more. */
static void queue_forget(struct remote *r, const struct remote_conn *c)
{
	size_t kept = 0;

	for (size_t i = 0; i < r->queue_n; i++) {
		struct remote_done d = r->queue[(r->queue_at + i) % r->queue_cap];

		if (d.conn != c)
			r->queue[(r->queue_at + kept++) % r->queue_cap] = d;
	}
	r->queue_n = kept;
}

/* -- exports */

static void export_over(struct remote_export *e)
{
	if (e->state == EXPORT_OVER)
		return;
	e->state = EXPORT_OVER;
	e->region->n_exports--;
}

static void export_free(struct remote_export *e)
{
	export_over(e);
	LIST_REMOVE(e, of_conn);
	free(e);
}

void remote_export_bound(struct remote_export *e, enum remote_status status)
{
	assert(e->state == EXPORT_BINDING);
	e->state = EXPORT_LIVE;
	if (status != REMOTE_OK) {
		remote_of(e->conn)->backend->export_end(e);
		export_over(e);
	}
	tell(remote_of(e->conn), (struct remote_done){ .kind = REMOTE_DONE_EXPORTED, .status = status, .conn = e->conn, .export = e });
}

void remote_export_unbound(struct remote_export *e)
{
	assert(e->state == EXPORT_REVOKING);
	remote_of(e->conn)->backend->export_end(e);
	export_over(e);
	tell(remote_of(e->conn), (struct remote_done){ .kind = REMOTE_DONE_REVOKED, .conn = e->conn, .export = e });
}

/* The connection is over, and with it every export; who waits is told. */
static void exports_end(struct remote_conn *c)
{
	struct remote_export *e;

	LIST_FOREACH(e, &c->exports, of_conn) {
		if (e->state == EXPORT_BINDING)
			remote_export_bound(e, REMOTE_FLUSHED);
		if (e->state == EXPORT_OVER)
			continue;
		remote_of(c)->backend->export_end(e);
		if (e->state == EXPORT_REVOKING)
			tell(remote_of(c), (struct remote_done){ .kind = REMOTE_DONE_REVOKED, .conn = c, .export = e });
		export_over(e);
	}
}

static bool rights_go_together(uint32_t rights)
{
	return rights == REMOTE_MAY_READ || rights == REMOTE_MAY_WRITE || rights == (REMOTE_MAY_READ | REMOTE_MAY_ATOMIC);
}

int remote_export(struct remote_export **ret, struct remote_conn *c, struct remote_region *g, uint64_t at, uint64_t size, uint32_t rights)
{
	struct remote_export *e;
	int r;

	if (c->state != REMOTE_UP)
		return -ENOTCONN;
	if (g->domain != c->domain || size == 0 || at > g->size || size > g->size - at || !rights_go_together(rights) || (rights & ~g->rights))
		return -EINVAL;
	if (c->n_exports == LIMIT_RDMA_EXPORTS)
		return -EMFILE;
	e = calloc(1, remote_of(c)->backend->export_size);
	if (!e)
		return -ENOMEM;
	e->conn = c;
	e->region = g;
	e->at = at;
	e->key = (struct remote_key){ .size = size, .rights = rights };
	LIST_INSERT_HEAD(&c->exports, e, of_conn);
	c->n_exports++;
	g->n_exports++;
	*ret = e; /* the backend may bind at once */
	r = remote_of(c)->backend->bind(e);
	if (r != 0) {
		*ret = NULL;
		c->n_exports--;
		export_free(e);
	}
	return r;
}

int remote_revoke(struct remote_export *e)
{
	int r;

	if (e->state == EXPORT_BINDING)
		return -EINPROGRESS;
	if (e->state != EXPORT_LIVE)
		return -EALREADY;
	e->state = EXPORT_REVOKING;
	r = remote_of(e->conn)->backend->unbind(e);
	if (r != 0)
		e->state = EXPORT_LIVE;
	return r;
}

const struct remote_key *remote_export_key(const struct remote_export *e)
{
	return &e->key;
}

void remote_key_put(uint8_t *to, const struct remote_key *key)
{
	put_le(to, key->base, 8);
	put_le(to + 8, key->size, 8);
	put_le(to + 16, key->key, 4);
	put_le(to + 20, key->rights, 4);
}

int remote_key_get(struct remote_key *ret, const uint8_t *from)
{
	struct remote_key k = { get_le(from, 8), get_le(from + 8, 8), (uint32_t)get_le(from + 16, 4), (uint32_t)get_le(from + 20, 4) };

	if (!rights_go_together(k.rights) || k.size == 0 || k.size > UINT64_MAX - k.base)
		return -EPROTO;
	*ret = k;
	return 0;
}

/* -- regions */

int remote_register(struct remote_region **ret, struct remote_domain *d, void *memory, uint64_t size, uint32_t rights)
{
	struct remote_region *g;
	int r;

	if (size == 0 || (rights & ~(uint32_t)(REMOTE_MAY_READ | REMOTE_MAY_WRITE | REMOTE_MAY_ATOMIC)))
		return -EINVAL;
	if (d->n_regions == LIMIT_RDMA_REGIONS)
		return -EMFILE;
	if (size > d->pinned_max - d->pinned)
		return -EDQUOT;
	g = calloc(1, d->remote->backend->region_size);
	if (!g)
		return -ENOMEM;
	g->domain = d;
	g->memory = memory;
	g->size = size;
	g->rights = rights;
	r = d->remote->backend->region_begin(g);
	if (r < 0) {
		free(g);
		return r;
	}
	LIST_INSERT_HEAD(&d->regions, g, of_domain);
	d->n_regions++;
	d->pinned += size;
	*ret = g;
	return 0;
}

static void region_free(struct remote_region *g)
{
	g->domain->remote->backend->region_end(g);
	g->domain->n_regions--;
	g->domain->pinned -= g->size;
	LIST_REMOVE(g, of_domain);
	free(g);
}

int remote_unregister(struct remote_region *g)
{
	if (g->n_exports > 0 || g->n_busy > 0)
		return -EBUSY;
	region_free(g);
	return 0;
}

void *remote_region_memory(const struct remote_region *g)
{
	return g->memory;
}

/* -- connections */

/* The oldest operation is done. */
static void retire(struct remote_conn *c, enum remote_status status)
{
	struct remote_sent *s = &c->sent[c->first++ % LIMIT_RDMA_OPS];

	if (s->region)
		s->region->n_busy--;
	if (s->beat || (!s->signalled && status == REMOTE_OK))
		return;
	c->n_told++;
	tell(remote_of(c), (struct remote_done){ .kind = REMOTE_DONE_OP, .status = status, .conn = c, .id = s->id });
}

void remote_conn_fail(struct remote_conn *c, enum remote_status status)
{
	if (c->state == REMOTE_OVER)
		return;
	remote_of(c)->backend->conn_end(c);
	c->state = REMOTE_OVER;
	explicit_bzero(c->token, sizeof(c->token));
	while (c->first != c->next)
		retire(c, REMOTE_FLUSHED);
	exports_end(c);
	tell(remote_of(c), (struct remote_done){ .kind = REMOTE_DONE_DOWN, .status = status, .conn = c });
}

void remote_conn_up(struct remote_conn *c)
{
	struct remote *r = remote_of(c);

	explicit_bzero(c->token, sizeof(c->token));
	c->state = REMOTE_UP;
	remote_conn_heard(c);
	tell(r, (struct remote_done){ .kind = REMOTE_DONE_UP, .conn = c });
}

void remote_conn_heard(struct remote_conn *c)
{
	c->heard_ns = remote_now_ns(remote_of(c));
	remote_due_by(remote_of(c), c->heard_ns + LIMIT_RDMA_BEAT_MS * MS_NS);
}

void remote_conn_done(struct remote_conn *c, uint64_t seq, enum remote_status status)
{
	if (c->state != REMOTE_UP || seq - c->first >= c->next - c->first)
		return; /* told already */
	while (c->first != seq)
		retire(c, REMOTE_OK);
	retire(c, status);
	if (status != REMOTE_OK)
		remote_conn_fail(c, status);
	else
		remote_conn_heard(c);
}

void remote_conn_imm(struct remote_conn *c, uint32_t imm)
{
	if (c->state != REMOTE_UP)
		return;
	assert(c->n_imms < LIMIT_RDMA_RECVS);
	c->n_imms++;
	remote_conn_heard(c);
	tell(remote_of(c), (struct remote_done){ .kind = REMOTE_DONE_IMM, .conn = c, .imm = imm });
}

void remote_conn_offended(struct remote_conn *c, enum remote_status reason)
{
	remote_domain_offence(c->domain, reason);
}

struct remote_conn *remote_conn_by_token(struct remote *r, const uint8_t *token)
{
	struct remote_conn *c, *found = NULL;
	struct remote_domain *d;

	LIST_FOREACH(d, &r->domains, of_remote)
		LIST_FOREACH(c, &d->conns, of_domain) {
			uint8_t differs = 0;

			for (unsigned i = 0; i < REMOTE_TOKEN_SIZE; i++)
				differs |= c->token[i] ^ token[i];
			if (c->state == REMOTE_EXPECTED && !differs)
				found = c;
		}
	if (found) {
		explicit_bzero(found->token, sizeof(found->token));
		found->state = REMOTE_CONNECTING;
	}
	return found;
}

static bool token_is_expected(struct remote *r, const uint8_t *token)
{
	struct remote_domain *d;
	struct remote_conn *c;

	LIST_FOREACH(d, &r->domains, of_remote)
		LIST_FOREACH(c, &d->conns, of_domain)
			if (c->state == REMOTE_EXPECTED && memcmp(c->token, token, REMOTE_TOKEN_SIZE) == 0)
				return true;
	return false;
}

static void conn_free(struct remote_conn *c)
{
	struct remote_export *e;

	while ((e = LIST_FIRST(&c->exports)))
		export_free(e);
	explicit_bzero(c->token, sizeof(c->token));
	LIST_REMOVE(c, of_domain);
	remote_of(c)->n_conns--;
	free(c);
}

static int conn_new(struct remote_conn **ret, struct remote_domain *d, const uint8_t *token)
{
	struct remote *r = d->remote;
	struct remote_conn *c;
	int e;

	if (r->gone)
		return -EIO;
	if (remote_now_ns(r) < d->quarantine_ns)
		return -EACCES;
	if (r->n_conns == LIMIT_RDMA_CONNS)
		return -EMFILE;
	e = queue_grow(r);
	if (e < 0)
		return e;
	c = calloc(1, r->backend->conn_size);
	if (!c)
		return -ENOMEM;
	c->domain = d;
	LIST_INIT(&c->exports);
	memcpy(c->token, token, sizeof(c->token));
	c->deadline_ns = remote_now_ns(r) + LIMIT_RDMA_CONNECT_MS * MS_NS;
	remote_due_by(r, c->deadline_ns);
	LIST_INSERT_HEAD(&d->conns, c, of_domain);
	r->n_conns++;
	*ret = c;
	return 0;
}

int remote_expect(struct remote_conn **ret, struct remote_domain *d, const uint8_t *token)
{
	struct remote_conn *c = NULL;
	int r;

	if (token_is_expected(d->remote, token))
		return -EEXIST;
	r = conn_new(&c, d, token);
	if (r < 0)
		return r;
	c->state = REMOTE_EXPECTED;
	*ret = c; /* the backend may have it up at once */
	r = d->remote->backend->expect(c);
	if (r < 0) {
		*ret = NULL;
		conn_free(c);
	}
	return r;
}

int remote_connect(struct remote_conn **ret, struct remote_domain *d, const char *address, const uint8_t *token)
{
	struct remote_conn *c = NULL;
	int r = conn_new(&c, d, token);

	if (r < 0)
		return r;
	c->state = REMOTE_CONNECTING;
	*ret = c;
	r = d->remote->backend->connect(c, address);
	if (r < 0) {
		*ret = NULL;
		conn_free(c);
	}
	return r;
}

void remote_close(struct remote_conn *c)
{
	if (!c)
		return;
	remote_conn_fail(c, REMOTE_FLUSHED);
	queue_forget(remote_of(c), c);
	conn_free(c);
}

struct remote_domain *remote_conn_domain(const struct remote_conn *c)
{
	return c->domain;
}

struct remote *remote_conn_remote(const struct remote_conn *c)
{
	return remote_of(c);
}

void remote_conn_set_user(struct remote_conn *c, void *user)
{
	c->user = user;
}

void *remote_conn_user(const struct remote_conn *c)
{
	return c->user;
}

/* -- domains */

int remote_domain_new(struct remote_domain **ret, struct remote *r, uint64_t pinned_max)
{
	struct remote_domain *d;
	int e;

	if (r->n_domains == LIMIT_RDMA_DOMAINS)
		return -EMFILE;
	d = calloc(1, r->backend->domain_size);
	if (!d)
		return -ENOMEM;
	d->remote = r;
	d->pinned_max = pinned_max ? pinned_max : (uint64_t)LIMIT_RDMA_PINNED_MIB << 20;
	LIST_INIT(&d->regions);
	LIST_INIT(&d->conns);
	e = r->backend->domain_begin(d);
	if (e < 0) {
		free(d);
		return e;
	}
	LIST_INSERT_HEAD(&r->domains, d, of_remote);
	r->n_domains++;
	*ret = d;
	return 0;
}

static void spent_free(struct remote *r)
{
	struct remote_export *e;

	while ((e = LIST_FIRST(&r->spent)))
		export_free(e);
}

void remote_domain_free(struct remote_domain *d)
{
	struct remote_region *g;
	struct remote_conn *c;

	if (!d)
		return;
	spent_free(d->remote);
	while ((c = LIST_FIRST(&d->conns)))
		remote_close(c);
	while ((g = LIST_FIRST(&d->regions)))
		region_free(g);
	d->remote->backend->domain_end(d);
	d->remote->n_domains--;
	LIST_REMOVE(d, of_remote);
	free(d);
}

void remote_domain_offence(struct remote_domain *d, enum remote_status reason)
{
	uint64_t now = remote_now_ns(d->remote);
	struct remote_conn *c;

	d->n_offences[reason]++;
	d->remote->n_offences++;
	if (now >= d->quarantine_ns) {
		unsigned n = d->n_quarantines++;

		d->quarantine_ns = now + (LIMIT_RDMA_QUARANTINE_MS * MS_NS << (n < LIMIT_RDMA_QUARANTINE_DOUBLED ? n : LIMIT_RDMA_QUARANTINE_DOUBLED));
	}
	LIST_FOREACH(c, &d->conns, of_domain)
		remote_conn_fail(c, REMOTE_OFFENCE);
}

uint64_t remote_domain_offences(const struct remote_domain *d, enum remote_status reason)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < REMOTE_STATUS_N; i++)
		if (reason == REMOTE_STATUS_N || reason == i)
			n += d->n_offences[i];
	return n;
}

uint64_t remote_domain_quarantine_ns(const struct remote_domain *d)
{
	return remote_now_ns(d->remote) < d->quarantine_ns ? d->quarantine_ns : 0;
}

struct remote_tally remote_tally(const struct remote *r)
{
	struct remote_tally t = { .n_conns = r->n_conns, .offences = r->n_offences };
	const struct remote_domain *d;

	LIST_FOREACH(d, &r->domains, of_remote) {
		t.n_quarantined += remote_domain_quarantine_ns(d) != 0;
		t.pinned += d->pinned;
	}
	return t;
}

void remote_free(struct remote *r)
{
	struct remote_domain *d;

	if (!r)
		return;
	while ((d = LIST_FIRST(&r->domains)))
		remote_domain_free(d);
	spent_free(r);
	free(r->queue);
	r->backend->free(r);
}

/* -- operations */

static int op_check(const struct remote_conn *c, const struct remote_op *op)
{
	bool atomic = op->kind == REMOTE_SWAP || op->kind == REMOTE_ADD;

	if ((unsigned)op->kind >= REMOTE_BEAT || op->size > LIMIT_RDMA_OP_SIZE || (op->flags & ~(uint32_t)REMOTE_SIGNALLED))
		return -EINVAL;
	if (atomic && !remote_of(c)->caps.atomics)
		return -EOPNOTSUPP;
	if (atomic && (op->size != 8 || op->at % 8 != 0 || (op->key.base + op->offset) % 8 != 0))
		return -EINVAL;
	if (op->size == 0)
		return op->kind == REMOTE_WRITE_IMM ? 0 : -EINVAL;
	if (!op->region || op->region->domain != c->domain || op->at > op->region->size || op->size > op->region->size - op->at)
		return -EINVAL;
	return 0;
}

/* Write down what is about to be posted as number c->next. */
static void op_number(struct remote_conn *c, const struct remote_op *op, uint64_t now, bool tells)
{
	c->n_quiet = tells || c->n_quiet + 1 == QUIET_MAX ? 0 : c->n_quiet + 1;
	c->sent[c->next++ % LIMIT_RDMA_OPS] = (struct remote_sent){
		.id = op->id,
		.posted_ns = now,
		.region = op->size > 0 ? op->region : NULL,
		.signalled = op->flags & REMOTE_SIGNALLED,
		.tells = c->n_quiet == 0,
		.beat = op->kind == REMOTE_BEAT,
	};
	if (op->size > 0)
		op->region->n_busy++;
}

size_t remote_room(const struct remote_conn *c)
{
	size_t taken = (size_t)(c->next - c->first) + c->n_told; /* one more than there are places, where a beat is under way besides */

	return c->state == REMOTE_UP && taken < LIMIT_RDMA_OPS ? LIMIT_RDMA_OPS - taken : 0;
}

int remote_post(struct remote_conn *c, const struct remote_op *ops, size_t n)
{
	uint64_t first = c->next, now = remote_now_ns(remote_of(c));

	if (c->state != REMOTE_UP)
		return -ENOTCONN;
	for (size_t i = 0; i < n; i++) {
		int r = op_check(c, &ops[i]);

		if (r < 0)
			return r;
	}
	if (n > remote_room(c))
		return REMOTE_E_FULL;
	for (size_t i = 0; i < n; i++)
		op_number(c, &ops[i], now, ops[i].flags & REMOTE_SIGNALLED);
	remote_due_by(remote_of(c), now + LIMIT_RDMA_BEAT_MS * MS_NS);
	remote_of(c)->backend->post(c, ops, n, first);
	return 0;
}

/* -- time */

static void beat(struct remote_conn *c, uint64_t now)
{
	struct remote_op op = { .kind = REMOTE_BEAT };
	uint64_t first = c->next;

	op_number(c, &op, now, true);
	remote_of(c)->backend->post(c, &op, 1, first);
}

/* Is there nothing on its way that would be told of by itself? Then silence says nothing about the peer. */
static bool is_quiet(const struct remote_conn *c)
{
	return c->first == c->next || (c->n_quiet > 0 && c->next - c->first < LIMIT_RDMA_OPS);
}

static void up_tick(struct remote_conn *c, uint64_t now)
{
	uint64_t since = c->first == c->next ? c->heard_ns : c->sent[c->first % LIMIT_RDMA_OPS].posted_ns;

	if (is_quiet(c) && now >= since + LIMIT_RDMA_BEAT_MS * MS_NS) {
		beat(c, now);
		if (c->state != REMOTE_UP)
			return;
		if (c->next - c->first == 1)
			since = now;
	}
	if (is_quiet(c))
		remote_due_by(remote_of(c), since + LIMIT_RDMA_BEAT_MS * MS_NS);
	else if (now >= since + LIMIT_RDMA_DEAD_MS * MS_NS)
		remote_conn_fail(c, REMOTE_TIMEOUT);
	else
		remote_due_by(remote_of(c), since + LIMIT_RDMA_DEAD_MS * MS_NS);
}

static void conn_tick(struct remote_conn *c, uint64_t now)
{
	if (c->state == REMOTE_OVER)
		return;
	if (c->state == REMOTE_UP)
		up_tick(c, now);
	else if (now >= c->deadline_ns)
		remote_conn_fail(c, REMOTE_TIMEOUT);
	else
		remote_due_by(remote_of(c), c->deadline_ns);
}

static void tick(struct remote *r)
{
	uint64_t now = remote_now_ns(r);
	struct remote_domain *d;
	struct remote_conn *c;

	if (now < r->due_ns)
		return;
	r->due_ns = UINT64_MAX;
	LIST_FOREACH(d, &r->domains, of_remote)
		LIST_FOREACH(c, &d->conns, of_domain)
			conn_tick(c, now);
}

uint64_t remote_due_ns(const struct remote *r)
{
	return r->queue_n > 0 ? 0 : r->due_ns;
}

static void device_gone(struct remote *r)
{
	struct remote_domain *d;
	struct remote_conn *c;

	r->gone = true;
	LIST_FOREACH(d, &r->domains, of_remote)
		LIST_FOREACH(c, &d->conns, of_domain)
			remote_conn_fail(c, REMOTE_BROKEN);
}

int remote_poll(struct remote *r, struct remote_done *dones, size_t n)
{
	size_t got;

	spent_free(r);
	if (!r->gone && r->backend->poll(r) < 0)
		device_gone(r);
	if (!r->gone)
		tick(r);
	got = queue_take(r, dones, n);
	return got == 0 && r->gone ? -EIO : (int)got;
}

int remote_fd(const struct remote *r)
{
	return r->backend->fd ? r->backend->fd(r) : -1;
}

int remote_arm(struct remote *r)
{
	if (r->queue_n > 0)
		return REMOTE_E_READY;
	return r->backend->arm ? r->backend->arm(r) : 0;
}
