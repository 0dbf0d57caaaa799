/*
 * Theory of operation
 *
 * A connection has a queue of packets, one for each operation. Each is executed at the far host at its time, piece by piece where
 * bytes are to tear, and answered later; both in order, as a reliable connection does it. The checks of a device are in access.c,
 * made for every piece, so that revoking in the middle of an operation takes effect in the middle.
 *
 *   post -> packet, due after delay, jitter and losses -> execute() at the far memory -> reply, due after delay -> remote_conn_done()
 *
 * There is no list of events: the next one is looked for among all connections, of which tests have few.
 *
 * A write's bytes are read from the sender's memory when they arrive, as a device reads late: a buffer used again too early shows. Those
 * of an inline one are kept with the packet. Keys are an index with 8 random bits, as rxe's: easy to guess, since that is how they are.
 *
 * What must never happen: one host's memory touched by a packet after the connection or the export was over; any call to a clock.
 */
#include "rdma/fake.h"

#include "rdma/access.h"

enum {
	INLINE_MAX = 64,
	PIECE = 64,
	RETRIES = 6, /* as verbs.c asks for */
};

#define RETRY_NS UINT64_C(67000000)
#define NOT_READY_NS UINT64_C(10000000)

struct packet {
	struct remote_op op;
	uint64_t due_ns;   /* of what comes next with it */
	uint64_t progress; /* bytes moved */
	uint64_t old;	   /* atomics */
	enum remote_status status;
	bool executed;
	bool lost; /* nobody ever answers: due_ns is when the sender gives up */
	unsigned n_not_ready;
	uint8_t inlined[INLINE_MAX];
};

struct fake_conn {
	struct remote_conn base;
	LIST_ENTRY(fake_conn) of_net;
	struct fake_conn *peer; /* NULL: not connected, or it ended */
	struct packet packets[LIMIT_RDMA_OPS];
	uint64_t first, execute, next; /* packets: the oldest that is there, the next to be executed, the next number */
	uint64_t last_due_ns;
	uint64_t call_due_ns; /* connecting: when the far host is asked, or its answer comes; 0: neither */
	bool answered, accepted;
	uint64_t gone_ns; /* when the peer's end is noticed; 0: it has not ended */
	char address[LIMIT_ADDRESS_SIZE];
	uint8_t token[REMOTE_TOKEN_SIZE];
};

struct fake_export {
	struct remote_export base;
	struct access_key access;
};

struct fake_host {
	struct remote base;
	struct fake_net *net;
	LIST_ENTRY(fake_host) of_net;
	const char *name;
	bool dead;
	struct access_table access;
	uint32_t next_key;
};

struct fake_net {
	uint64_t now_ns;
	uint64_t random;
	struct fake_faults faults;
	void (*tamper)(void *arg, uint8_t *bytes, size_t n);
	void *tamper_arg;
	LIST_HEAD(, fake_host) hosts;
	LIST_HEAD(, fake_conn) conns; /* begun and not ended */
};

static struct fake_conn *fake_conn_of(struct remote_conn *c)
{
	return (struct fake_conn *)c; /* the first member */
}

static struct fake_host *host_of(const struct fake_conn *c)
{
	return (struct fake_host *)remote_of(&c->base);
}

/* xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016. */
static uint64_t random_next(struct fake_net *net)
{
	net->random ^= net->random >> 12;
	net->random ^= net->random << 25;
	net->random ^= net->random >> 27;
	return net->random * UINT64_C(2685821657736338717);
}

static uint64_t one_way_ns(struct fake_net *net)
{
	return net->faults.delay_ns + (net->faults.jitter_ns ? random_next(net) % net->faults.jitter_ns : 0);
}

/* -- one packet at the far host */

static void move_piece(struct fake_net *net, uint8_t *to, const uint8_t *from, uint64_t n)
{
	uint8_t piece[PIECE];

	if (!net->tamper) {
		memcpy(to, from, n);
		return;
	}
	for (uint64_t at = 0; at < n; at += PIECE) {
		uint64_t size = n - at < PIECE ? n - at : PIECE;

		memcpy(piece, from + at, size);
		net->tamper(net->tamper_arg, piece, size);
		memcpy(to + at, piece, size);
	}
}

static void move_bytes(struct fake_conn *c, struct packet *p, uint8_t *far)
{
	struct fake_net *net = host_of(c)->net;
	uint64_t n = p->op.size, at = 0;
	uint8_t *here = p->op.region->memory + p->op.at;

	if (net->faults.tear_ns) {
		uint64_t left = p->op.size - p->progress;

		n = left < PIECE ? left : PIECE;
		at = net->faults.backwards ? left - n : p->progress;
	}
	if (p->op.kind == REMOTE_READ)
		move_piece(net, here + at, far + at, n);
	else
		move_piece(net, far + at, (p->op.size <= INLINE_MAX ? p->inlined : here) + at, n);
	p->progress += n;
}

static void change_word(struct packet *p, uint8_t *far)
{
	uint64_t v;

	memcpy(&v, far, sizeof(v));
	p->old = v;
	if (p->op.kind == REMOTE_ADD)
		v += p->op.value;
	else if (v == p->op.compare)
		v = p->op.value;
	memcpy(far, &v, sizeof(v));
	memcpy(p->op.region->memory + p->op.at, &p->old, sizeof(p->old));
	p->progress = p->op.size;
}

static void packet_reply(struct fake_conn *c, struct packet *p, enum remote_status status)
{
	struct fake_net *net = host_of(c)->net;

	p->status = status;
	p->executed = true;
	p->due_ns = net->now_ns + net->faults.delay_ns;
	c->execute++;
}

static void packet_refuse(struct fake_conn *c, struct packet *p, enum remote_status why)
{
	struct fake_conn *target = c->peer;

	packet_reply(c, p, host_of(target)->base.caps.tells_why ? why : REMOTE_ACCESS);
	remote_conn_offended(&target->base, why);
}

/* The bytes are there; a WRITE with immediate needs room for that. */
static void packet_finish(struct fake_conn *c, struct packet *p)
{
	if (p->op.kind == REMOTE_WRITE_IMM) {
		if (remote_conn_imm_room(&c->peer->base) == 0) {
			p->due_ns = host_of(c)->net->now_ns + NOT_READY_NS;
			if (++p->n_not_ready > RETRIES)
				packet_reply(c, p, REMOTE_TIMEOUT);
			return;
		}
		remote_conn_imm(&c->peer->base, p->op.imm);
	}
	packet_reply(c, p, REMOTE_OK);
}

static void packet_execute(struct fake_conn *c, struct packet *p)
{
	struct fake_net *net = host_of(c)->net;
	enum remote_status s;
	uint8_t *far = NULL;

	if (p->op.size > p->progress) {
		s = access_check(&host_of(c->peer)->access, &c->peer->base, p->op.kind, p->op.key.key, p->op.key.base + p->op.offset, p->op.size, &far);
		if (s != REMOTE_OK) {
			packet_refuse(c, p, s);
			return;
		}
		if (p->op.kind == REMOTE_SWAP || p->op.kind == REMOTE_ADD)
			change_word(p, far);
		else
			move_bytes(c, p, far);
	}
	if (p->progress < p->op.size)
		p->due_ns = net->now_ns + net->faults.tear_ns;
	else
		packet_finish(c, p);
}

/* -- what happens when */

static bool cut_off(const struct fake_conn *c)
{
	return !c->peer || host_of(c->peer)->dead || host_of(c)->dead;
}

/* When something of @c is due next. */
static uint64_t conn_due_ns(const struct fake_conn *c)
{
	const struct packet *reply = &c->packets[c->first % LIMIT_RDMA_OPS], *p = &c->packets[c->execute % LIMIT_RDMA_OPS];
	uint64_t due = UINT64_MAX;

	if (host_of(c)->dead)
		return UINT64_MAX;
	if (c->call_due_ns)
		due = c->call_due_ns;
	if (c->first != c->execute && reply->due_ns < due)
		due = reply->due_ns;
	if (c->execute != c->next && (c->peer || p->lost) && p->due_ns < due)
		due = p->due_ns;
	if (c->gone_ns && c->gone_ns < due)
		due = c->gone_ns;
	return due;
}

static struct fake_host *host_by_name(struct fake_net *net, const char *name)
{
	struct fake_host *h;

	LIST_FOREACH(h, &net->hosts, of_net)
		if (!h->dead && strcmp(h->name, name) == 0)
			return h;
	return NULL;
}

/* At the far host: is that token expected? The near end hears of it a delay later. */
static void call_arrives(struct fake_conn *c)
{
	struct fake_net *net = host_of(c)->net;
	struct fake_host *h = host_by_name(net, c->address);
	struct remote_conn *found = h ? remote_conn_by_token(&h->base, c->token) : NULL;

	c->call_due_ns = h ? net->now_ns + one_way_ns(net) : 0; /* nobody there: no answer, remote.c's time runs out */
	c->answered = true;
	c->accepted = found != NULL;
	explicit_bzero(c->token, sizeof(c->token));
	if (found) {
		c->peer = fake_conn_of(found);
		c->peer->peer = c;
		remote_conn_up(found);
	}
}

static void call_answered(struct fake_conn *c)
{
	c->call_due_ns = 0;
	if (c->accepted)
		remote_conn_up(&c->base);
	else
		remote_conn_fail(&c->base, REMOTE_REFUSED);
}

static void reply_arrives(struct fake_conn *c)
{
	struct packet *p = &c->packets[c->first % LIMIT_RDMA_OPS];
	uint64_t seq = c->first++;

	if (p->status != REMOTE_OK || remote_op_tells(&c->base, seq)) /* a device says no more either */
		remote_conn_done(&c->base, seq, p->status);
}

/* The one thing of @c that is due first. */
static void conn_happen(struct fake_conn *c, uint64_t due)
{
	struct packet *p = &c->packets[c->execute % LIMIT_RDMA_OPS];

	if (c->call_due_ns == due) {
		if (c->answered)
			call_answered(c);
		else
			call_arrives(c);
	} else if (c->first != c->execute && c->packets[c->first % LIMIT_RDMA_OPS].due_ns == due) {
		reply_arrives(c);
	} else if (c->gone_ns == due) {
		remote_conn_fail(&c->base, REMOTE_PEER_GONE);
	} else if (p->lost) {
		packet_reply(c, p, REMOTE_PEER_GONE);
	} else if (cut_off(c)) {
		p->lost = true;
		p->due_ns += RETRY_NS * (RETRIES + 1);
	} else {
		packet_execute(c, p);
	}
}

/* Everything up to @until, each at its time. Return: false: nothing was. */
static bool happen_until(struct fake_net *net, uint64_t until, bool only_one)
{
	bool any = false;

	for (;;) {
		struct fake_conn *c, *next = NULL;
		uint64_t due = UINT64_MAX;

		LIST_FOREACH(c, &net->conns, of_net)
			if (conn_due_ns(c) < due) {
				due = conn_due_ns(c);
				next = c;
			}
		if (!next || due > until || (any && only_one && due > net->now_ns))
			return any;
		if (due > net->now_ns)
			net->now_ns = due;
		conn_happen(next, due);
		any = true;
	}
}

bool fake_net_step(struct fake_net *net)
{
	return happen_until(net, UINT64_MAX, true);
}

void fake_net_advance(struct fake_net *net, uint64_t ns)
{
	uint64_t until = net->now_ns + ns;

	(void)happen_until(net, until, false);
	net->now_ns = until;
}

uint64_t fake_net_now_ns(const struct fake_net *net)
{
	return net->now_ns;
}

/* -- the backend's calls */

static uint64_t fake_now_ns(const struct remote *r)
{
	return ((const struct fake_host *)r)->net->now_ns;
}

static int fake_domain_begin(struct remote_domain *d)
{
	return 0;
}

static void fake_domain_end(struct remote_domain *d)
{
}

static int fake_region_begin(struct remote_region *g)
{
	return 0;
}

static void fake_region_end(struct remote_region *g)
{
}

static int fake_expect(struct remote_conn *base)
{
	struct fake_conn *c = fake_conn_of(base);

	LIST_INSERT_HEAD(&host_of(c)->net->conns, c, of_net);
	return 0;
}

static int fake_connect(struct remote_conn *base, const char *address)
{
	struct fake_conn *c = fake_conn_of(base);
	struct fake_net *net = host_of(c)->net;

	if (!str_copy(c->address, sizeof(c->address), address))
		return -EINVAL;
	memcpy(c->token, base->token, sizeof(c->token));
	c->call_due_ns = net->now_ns + one_way_ns(net) + 1; /* 0 is none */
	LIST_INSERT_HEAD(&net->conns, c, of_net);
	return 0;
}

static void fake_conn_end(struct remote_conn *base)
{
	struct fake_conn *c = fake_conn_of(base);
	struct fake_net *net = host_of(c)->net;

	LIST_REMOVE(c, of_net);
	if (c->peer && !host_of(c)->dead) {
		uint64_t gone = net->now_ns + net->faults.delay_ns + 1;
		const struct packet *last = &c->peer->packets[(c->peer->execute - 1) % LIMIT_RDMA_OPS];

		/* After the answers that are on their way. */
		c->peer->gone_ns = c->peer->first != c->peer->execute && last->due_ns >= gone ? last->due_ns + 1 : gone;
	}
	if (c->peer)
		c->peer->peer = NULL;
	c->peer = NULL;
}

static int fake_bind(struct remote_export *base)
{
	struct fake_export *e = (struct fake_export *)base;
	struct fake_host *h = (struct fake_host *)remote_of(base->conn);

	base->key.key = h->next_key++ << 8 | (uint32_t)(random_next(h->net) & 0xff);
	base->key.base = random_next(h->net) >> 16 << 12;
	access_add(&h->access, &e->access, base);
	remote_export_bound(base, REMOTE_OK);
	return 0;
}

static void fake_export_end(struct remote_export *base)
{
	struct fake_export *e = (struct fake_export *)base;
	struct fake_host *h = (struct fake_host *)remote_of(base->conn);

	access_remove(&h->access, &e->access);
}

static int fake_unbind(struct remote_export *base)
{
	fake_export_end(base);
	remote_export_unbound(base);
	return 0;
}

static void packet_new(struct fake_conn *c, const struct remote_op *op)
{
	struct fake_net *net = host_of(c)->net;
	struct packet *p = &c->packets[c->next++ % LIMIT_RDMA_OPS];
	uint64_t due = net->now_ns + one_way_ns(net);
	unsigned n = 0;

	*p = (struct packet){ .op = *op };
	if (op->size > 0 && op->size <= INLINE_MAX && (op->kind == REMOTE_WRITE || op->kind == REMOTE_WRITE_IMM))
		memcpy(p->inlined, op->region->memory + op->at, op->size);
	for (; n <= RETRIES && random_next(net) % 1000 < net->faults.loss_permille; n++)
		due += RETRY_NS;
	p->lost = n > RETRIES;
	if (cut_off(c) && !p->lost) {
		p->lost = true;
		due += RETRY_NS * (RETRIES + 1);
	}
	p->due_ns = due > c->last_due_ns ? due : c->last_due_ns;
	c->last_due_ns = p->due_ns;
}

static void fake_post(struct remote_conn *base, const struct remote_op *ops, size_t n, uint64_t first)
{
	for (size_t i = 0; i < n; i++)
		packet_new(fake_conn_of(base), &ops[i]);
}

static int fake_poll(struct remote *r)
{
	struct fake_host *h = (struct fake_host *)r;

	(void)happen_until(h->net, h->net->now_ns, false);
	return 0;
}

static void fake_took_imm(struct remote_conn *c)
{
}

static void fake_free(struct remote *r)
{
	struct fake_host *h = (struct fake_host *)r;

	LIST_REMOVE(h, of_net);
	free(h);
}

static const struct remote_backend g_fake = {
	.domain_size = sizeof(struct remote_domain),
	.region_size = sizeof(struct remote_region),
	.conn_size = sizeof(struct fake_conn),
	.export_size = sizeof(struct fake_export),
	.free = fake_free,
	.now_ns = fake_now_ns,
	.domain_begin = fake_domain_begin,
	.domain_end = fake_domain_end,
	.region_begin = fake_region_begin,
	.region_end = fake_region_end,
	.expect = fake_expect,
	.connect = fake_connect,
	.conn_end = fake_conn_end,
	.bind = fake_bind,
	.unbind = fake_unbind,
	.export_end = fake_export_end,
	.post = fake_post,
	.poll = fake_poll,
	.took_imm = fake_took_imm,
};

int fake_open(struct remote **ret, struct fake_net *net, const char *name, const struct fake_device *device)
{
	struct fake_host *h = calloc(1, sizeof(*h));
	struct remote_caps caps = {
		.backend = "fake",
		.atomics = device->atomics,
		.windows = device->windows,
		.ordered = device->ordered,
		.tells_why = device->tells_why,
		.inline_max = INLINE_MAX,
	};

	if (!h)
		return -ENOMEM;
	remote_init(&h->base, &g_fake, &caps);
	h->net = net;
	h->name = name;
	h->next_key = 3; /* rxe's first ones are small, too */
	LIST_INIT(&h->access.keys);
	h->access.windows = device->windows;
	LIST_INSERT_HEAD(&net->hosts, h, of_net);
	*ret = &h->base;
	return 0;
}

void fake_kill(struct remote *r)
{
	((struct fake_host *)r)->dead = true;
}

int fake_net_new(struct fake_net **ret, uint64_t seed)
{
	struct fake_net *net = calloc(1, sizeof(*net));

	if (!net)
		return -ENOMEM;
	net->now_ns = 1000000000; /* not 0: that is "never" here and there */
	net->random = seed ? seed : 1;
	net->faults.delay_ns = 1000;
	LIST_INIT(&net->hosts);
	LIST_INIT(&net->conns);
	*ret = net;
	return 0;
}

void fake_net_free(struct fake_net *net)
{
	free(net);
}

void fake_net_set_faults(struct fake_net *net, const struct fake_faults *faults)
{
	net->faults = *faults;
}

void fake_net_set_tamper(struct fake_net *net, void (*tamper)(void *arg, uint8_t *bytes, size_t n), void *arg)
{
	net->tamper = tamper;
	net->tamper_arg = arg;
}
