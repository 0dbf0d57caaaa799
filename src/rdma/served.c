/*
 * Theory of operation
 *
 * Frames of 32 bytes and at most SERVED_FRAME_MAX - 32 of payload, little-endian:
 *
 *   offset size
 *   0      1    type
 *   1      1    OP: enum remote_op_kind; DONE: enum remote_status; else 0
 *   2      1    flags: 1 MORE (the operation goes on in the next frame of its kind), 2 TELL (a DONE is wanted in any case)
 *   3      1    0
 *   4      4    connection: its number, by who connected; bit 31: the sender of this frame is who connected
 *   8      4    bytes of payload
 *   12     4    OP: key
 *   16     8    OP: address; DONE: low 32 bits of the operation's number; TOOK: how many
 *   24     4    OP: immediate
 *   28     4    OP of READ: bytes wanted
 *
 *   CONNECT   token                        ->  ACCEPTED or REFUSED
 *   OP        WRITE: bytes; SWAP, ADD: u64 compare, u64 value
 *   DONE      READ: bytes, in pieces; SWAP, ADD: the old u64. For operations that tell, that fail, and those with an answer
 *   TOOK      immediates were taken: so many more may come
 *   CLOSE     the connection is over
 *
 *   remote_post() -> ops[], sent when the channel has room: request_next() -> peer: on_op() at once, in order -> DONE -> on_done()
 *
 * A WRITE's bytes go from the region into its frames as late as possible, and from a frame into the far memory after the check for just that frame.
 * READs are answered at once, so that later WRITEs do not overtake them; so their answers wait in memory, and who asks keeps at most
 * READ_WINDOW of them under way (or one that is larger). Immediates have a window as well. Nobody ever stops taking input: two ends that
 * did so for one another's sake would wait for ever.
 *
 * What must never happen: more memory for a peer than the two windows; a READ done before all of its bytes have come, whatever DONE says; an
 * address that was not checked.
 */
#include "rdma/served.h"

#include "rdma/access.h"

#include <sys/random.h>

enum {
	HEADER = 32,
	PIECE_MAX = SERVED_FRAME_MAX - HEADER,
	READ_WINDOW = 1 << 20,
	/* Answers that may wait: of a peer that keeps the window, with their headers; and of small ones that it need not count. */
	ANSWERS_MAX = LIMIT_RDMA_OP_SIZE + 2 * READ_WINDOW,
	TOOK_BATCH = LIMIT_RDMA_RECVS / 4,
	FLAG_MORE = 1,
	FLAG_TELL = 2,
};
#define FROM_CALLER UINT32_C(0x80000000)

enum type { CONNECT = 1, ACCEPTED, REFUSED, CLOSE, OP, DONE, TOOK, TYPE_N };

struct frame {
	uint8_t type, kind, flags;
	uint32_t conn, size, key;
	uint64_t address;
	uint32_t imm, length;
	const uint8_t *payload;
};

struct served_conn {
	struct remote_conn base;
	TAILQ_ENTRY(served_conn) of_channel; /* while it has a number */
	bool joined;			     /* it is in that list */
	bool is_caller;
	uint32_t number;
	struct remote_op ops[LIMIT_RDMA_OPS]; /* ours, by number */
	bool answered[LIMIT_RDMA_OPS];	      /* all bytes of its answer have come */
	uint64_t out_seq;		      /* that goes out next, or is half out */
	uint32_t out_at;		      /* bytes of it that went */
	uint32_t in_at;			      /* bytes of the oldest READ's answer that came */
	uint64_t answer_seq;		      /* no answer is missing before it */
	uint64_t reading;		      /* bytes of READs under way */
	uint64_t n_imms_out, n_imms_took;     /* sent; taken by the peer, as it says */
	unsigned n_took;		      /* by us, not told */
	uint32_t in_seq;		      /* the peer's next operation */
};

struct served_export {
	struct remote_export base;
	struct access_key access;
};

struct served {
	struct remote base;
	struct served_options o;
	TAILQ_HEAD(, served_conn) conns;
	struct access_table access;
	uint32_t next_number;
	bool over;
	uint8_t in[SERVED_FRAME_MAX]; /* a frame whose rest has not come */
	size_t in_size;
	uint8_t *answers; /* owned: frames that go before requests */
	size_t answers_at, answers_size, answers_cap;
	uint8_t out[SERVED_FRAME_MAX]; /* a request on its way */
	size_t out_at, out_size;
};

static struct served *served_of(const struct remote_conn *c)
{
	return (struct served *)remote_of(c);
}

static struct served_conn *served_conn_of(struct remote_conn *c)
{
	return (struct served_conn *)c;
}

/* -- frames */

static size_t frame_put(uint8_t *to, const struct frame *f)
{
	memset(to, 0, HEADER);
	to[0] = f->type;
	to[1] = f->kind;
	to[2] = f->flags;
	put_le(to + 4, f->conn, 4);
	put_le(to + 8, f->size, 4);
	put_le(to + 12, f->key, 4);
	put_le(to + 16, f->address, 8);
	put_le(to + 24, f->imm, 4);
	put_le(to + 28, f->length, 4);
	if (f->size > 0)
		memcpy(to + HEADER, f->payload, f->size);
	return HEADER + f->size;
}

static void frame_get(struct frame *ret, const uint8_t *from)
{
	*ret = (struct frame){
		.type = from[0],
		.kind = from[1],
		.flags = from[2],
		.conn = (uint32_t)get_le(from + 4, 4),
		.size = (uint32_t)get_le(from + 8, 4),
		.key = (uint32_t)get_le(from + 12, 4),
		.address = get_le(from + 16, 8),
		.imm = (uint32_t)get_le(from + 24, 4),
		.length = (uint32_t)get_le(from + 28, 4),
		.payload = from + HEADER,
	};
}

/* How many bytes of payload the form allows. */
static const char *form_fault(const struct frame *f, uint8_t zero)
{
	uint32_t most = f->type == OP || f->type == DONE ? PIECE_MAX : 0;

	if (f->type == 0 || f->type >= TYPE_N || zero != 0 || (f->flags & ~(FLAG_MORE | FLAG_TELL)))
		return "a frame that there is not";
	if (f->type == CONNECT ? f->size != REMOTE_TOKEN_SIZE : f->size > most)
		return "a frame of a size it cannot have";
	if (f->type == OP && f->kind >= REMOTE_BEAT)
		return "an operation that there is not";
	if (f->type == OP && (f->kind == REMOTE_SWAP || f->kind == REMOTE_ADD) && f->size != 16)
		return "an atomic operation of a size it cannot have";
	if (f->type == OP && f->kind == REMOTE_READ && (f->size != 0 || f->length == 0 || f->length > LIMIT_RDMA_OP_SIZE))
		return "a READ of a size it cannot have";
	return f->type == DONE && f->kind >= REMOTE_STATUS_N ? "a status that there is not" : NULL;
}

/* Room for @size more answers. Return: NULL: out of memory, or the peer asks for more than it may. */
static uint8_t *answers_reserve(struct served *s, size_t size)
{
	size_t cap = s->answers_cap ? s->answers_cap : 4096;
	uint8_t *bigger;

	if (s->answers_at > 0 && s->answers_at == s->answers_size)
		s->answers_at = s->answers_size = 0;
	if (size <= s->answers_cap - s->answers_size)
		return s->answers + s->answers_size;
	if (s->answers_at > 0)
		memmove(s->answers, s->answers + s->answers_at, s->answers_size - s->answers_at);
	s->answers_size -= s->answers_at;
	s->answers_at = 0;
	if (s->answers_size + size > ANSWERS_MAX)
		return NULL;
	while (cap < s->answers_size + size)
		cap *= 2;
	bigger = realloc(s->answers, cap);
	if (!bigger)
		return NULL;
	s->answers = bigger;
	s->answers_cap = cap;
	return s->answers + s->answers_size;
}

static void everything_over(struct served *s, enum remote_status status)
{
	struct served_conn *c;

	s->over = true;
	while ((c = TAILQ_FIRST(&s->conns)))
		remote_conn_fail(&c->base, status);
}

static int answer(struct served *s, const struct frame *f)
{
	uint8_t *to = s->over ? NULL : answers_reserve(s, HEADER + f->size);

	if (!to)
		return -ENOMEM;
	s->answers_size += frame_put(to, f);
	return 0;
}

static uint32_t name_of(const struct served_conn *c)
{
	return c->number | (c->is_caller ? FROM_CALLER : 0);
}

static int answer_done(struct served_conn *c, uint32_t seq, enum remote_status status, uint8_t flags, const uint8_t *bytes, uint32_t size)
{
	return answer(served_of(&c->base), &(struct frame){ .type = DONE, .kind = (uint8_t)status, .flags = flags, .conn = name_of(c), .size = size,
							   .address = seq, .payload = bytes });
}

/* -- the peer's operations */

static uint64_t change_word(enum remote_op_kind kind, uint8_t *at, const uint8_t *operands)
{
	uint64_t compare = get_le(operands, 8), value = get_le(operands + 8, 8), *word = (uint64_t *)(void *)at;

	if (kind == REMOTE_ADD)
		return __atomic_fetch_add(word, value, __ATOMIC_SEQ_CST);
	__atomic_compare_exchange_n(word, &compare, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	return compare; /* what was there, either way */
}

static int refuse(struct served_conn *c, enum remote_status why)
{
	int r = answer_done(c, c->in_seq, why, 0, NULL, 0);

	remote_conn_offended(&c->base, why);
	return r;
}

static int serve_read(struct served_conn *c, const struct frame *f, const uint8_t *from)
{
	int r = 0;

	for (uint32_t at = 0; r == 0 && at < f->length; at += PIECE_MAX) {
		uint32_t n = f->length - at < PIECE_MAX ? f->length - at : PIECE_MAX;

		r = answer_done(c, c->in_seq, REMOTE_OK, at + n < f->length ? FLAG_MORE : 0, from + at, n);
	}
	c->in_seq++;
	return r;
}

static int serve_word(struct served_conn *c, const struct frame *f, uint8_t *at)
{
	uint8_t old[8];

	put_le(old, change_word(f->kind, at, f->payload), sizeof(old));
	return answer_done(c, c->in_seq++, REMOTE_OK, 0, old, sizeof(old));
}

static int serve_write(struct served_conn *c, const struct frame *f, uint8_t *to, const char **ret_why)
{
	if (f->size > 0)
		memcpy(to, f->payload, f->size);
	if (f->flags & FLAG_MORE)
		return 0;
	if (f->kind == REMOTE_WRITE_IMM) {
		if (remote_conn_imm_room(&c->base) == 0) {
			*ret_why = "more immediates than may be under way";
			return -EPROTO;
		}
		remote_conn_imm(&c->base, f->imm);
	}
	return f->flags & FLAG_TELL ? answer_done(c, c->in_seq++, REMOTE_OK, 0, NULL, 0) : (c->in_seq++, 0);
}

static int on_op(struct served_conn *c, const struct frame *f, const char **ret_why)
{
	bool atomic = f->kind == REMOTE_SWAP || f->kind == REMOTE_ADD;
	uint32_t size = f->kind == REMOTE_READ ? f->length : atomic ? 8 : f->size;
	uint8_t *at = NULL;
	enum remote_status s;

	if (c->base.state != REMOTE_UP)
		return 0;
	s = size == 0 ? REMOTE_OK : access_check(&served_of(&c->base)->access, &c->base, f->kind, f->key, f->address, size, &at);
	if (s == REMOTE_OK && atomic && (uintptr_t)at % 8 != 0)
		s = REMOTE_BOUNDS;
	if (s != REMOTE_OK)
		return refuse(c, s);
	if (f->kind == REMOTE_READ)
		return serve_read(c, f, at);
	return atomic ? serve_word(c, f, at) : serve_write(c, f, at, ret_why);
}

/* -- answers to ours */

static bool has_answer(const struct remote_op *op)
{
	return op->kind == REMOTE_READ || op->kind == REMOTE_SWAP || op->kind == REMOTE_ADD;
}

/* Is the answer of every operation before @seq here? */
static bool nothing_missing_before(struct served_conn *c, uint64_t seq)
{
	if (c->answer_seq < c->base.first)
		c->answer_seq = c->base.first;
	while (c->answer_seq < seq && (!has_answer(&c->ops[c->answer_seq % LIMIT_RDMA_OPS]) || c->answered[c->answer_seq % LIMIT_RDMA_OPS]))
		c->answer_seq++;
	return c->answer_seq >= seq;
}

/* Bytes of the answer of number @seq, in order. Return: NULL, or what is wrong. */
static const char *take_answer(struct served_conn *c, const struct frame *f, uint64_t seq)
{
	const struct remote_op *op = &c->ops[seq % LIMIT_RDMA_OPS];

	if (c->answered[seq % LIMIT_RDMA_OPS] || f->size == 0 || f->size > op->size - c->in_at)
		return "an answer of more bytes than were asked for";
	memcpy(op->region->memory + op->at + c->in_at, f->payload, f->size);
	c->in_at += f->size;
	if (!(f->flags & FLAG_MORE) != (c->in_at == op->size))
		return "an answer of other than the bytes that were asked for";
	if (f->flags & FLAG_MORE)
		return NULL;
	c->in_at = 0;
	c->answered[seq % LIMIT_RDMA_OPS] = true;
	if (op->kind == REMOTE_READ)
		c->reading -= op->size;
	return NULL;
}

static const char *on_done(struct served_conn *c, const struct frame *f)
{
	uint64_t seq = c->base.first + (uint32_t)((uint32_t)f->address - (uint32_t)c->base.first);
	const char *why;

	if (c->base.state != REMOTE_UP)
		return NULL;
	if (f->address > UINT32_MAX || seq >= c->base.next || seq > c->out_seq || (seq == c->out_seq && f->kind == REMOTE_OK))
		return "an answer to what was not asked";
	if (!nothing_missing_before(c, seq))
		return "an answer before those that come first";
	if (f->kind == REMOTE_OK && has_answer(&c->ops[seq % LIMIT_RDMA_OPS])) {
		why = take_answer(c, f, seq);
		if (why || (f->flags & FLAG_MORE))
			return why;
	} else if (f->size > 0 || (f->flags & FLAG_MORE)) {
		return "an answer with bytes where there are none";
	}
	remote_conn_done(&c->base, seq, f->kind);
	return NULL;
}

/* -- connections */

static void join(struct served_conn *c, bool is_caller, uint32_t number)
{
	c->is_caller = is_caller;
	c->number = number;
	c->joined = true;
	TAILQ_INSERT_TAIL(&served_of(&c->base)->conns, c, of_channel);
}

static struct served_conn *by_name(struct served *s, uint32_t name)
{
	struct served_conn *c;

	TAILQ_FOREACH(c, &s->conns, of_channel)
		if (c->number == (name & ~FROM_CALLER) && c->is_caller == !(name & FROM_CALLER))
			return c;
	return NULL;
}

static int on_connect(struct served *s, const struct frame *f)
{
	struct remote_conn *found = remote_conn_by_token(&s->base, f->payload);
	uint32_t name = f->conn & ~FROM_CALLER;

	if (!found)
		return answer(s, &(struct frame){ .type = REFUSED, .conn = name });
	TAILQ_REMOVE(&s->conns, served_conn_of(found), of_channel);
	join(served_conn_of(found), false, name);
	remote_conn_up(found);
	return answer(s, &(struct frame){ .type = ACCEPTED, .conn = name });
}

static const char *on_took(struct served_conn *c, uint64_t n)
{
	if (n > c->n_imms_out - c->n_imms_took)
		return "more immediates taken than were sent";
	c->n_imms_took += n;
	return NULL;
}

static int on_frame(struct served *s, const struct frame *f, const char **ret_why)
{
	struct served_conn *c = by_name(s, f->conn);

	if (f->type == CONNECT) {
		if (c || !(f->conn & FROM_CALLER))
			*ret_why = "a connection under a number that is not free";
		return *ret_why ? -EPROTO : on_connect(s, f);
	}
	if (!c)
		return 0; /* it ended here, and that is on its way */
	if (f->type == OP)
		return on_op(c, f, ret_why);
	if (f->type == DONE)
		*ret_why = on_done(c, f);
	else if (f->type == TOOK)
		*ret_why = on_took(c, f->address);
	else if (f->type == CLOSE)
		remote_conn_fail(&c->base, REMOTE_PEER_GONE);
	else if (c->base.state != REMOTE_CONNECTING || !c->is_caller)
		*ret_why = "an answer to a connection that was not asked for";
	else if (f->type == ACCEPTED)
		remote_conn_up(&c->base);
	else
		remote_conn_fail(&c->base, REMOTE_REFUSED);
	return *ret_why ? -EPROTO : 0;
}

/* The frame in s->in, as far as it is there. Return: bytes that it has; 0: its header is not there; -EPROTO. */
static ssize_t frame_size(const struct served *s, struct frame *ret, const char **ret_why)
{
	if (s->in_size < HEADER)
		return 0;
	frame_get(ret, s->in);
	*ret_why = form_fault(ret, s->in[3]);
	return *ret_why ? -EPROTO : (ssize_t)(HEADER + ret->size);
}

int served_input(struct remote *r, const uint8_t *bytes, size_t size, const char **ret_why)
{
	struct served *s = (struct served *)r;
	struct frame f;
	int e = 0;

	*ret_why = NULL;
	while (e == 0 && size > 0 && !s->over) {
		ssize_t whole = frame_size(s, &f, ret_why);
		size_t want = (whole > 0 ? (size_t)whole : HEADER) - s->in_size, n = size < want ? size : want;

		memcpy(s->in + s->in_size, bytes, n);
		s->in_size += n;
		bytes += n;
		size -= n;
		whole = frame_size(s, &f, ret_why);
		if (whole < 0)
			e = (int)whole;
		if (whole <= 0 || s->in_size < (size_t)whole)
			continue;
		s->in_size = 0;
		e = on_frame(s, &f, ret_why);
	}
	if (e == 0)
		return 0;
	if (!*ret_why)
		*ret_why = "out of memory for what the peer asks for";
	everything_over(s, REMOTE_BROKEN);
	return e;
}

void served_lost(struct remote *r)
{
	everything_over((struct served *)r, REMOTE_PEER_GONE);
}

/* -- our operations, as frames */

/* May what comes next go out? */
static bool has_window(const struct served_conn *c, const struct remote_op *op)
{
	if (op->kind == REMOTE_READ)
		return c->reading == 0 || c->reading + op->size <= READ_WINDOW;
	if (op->kind == REMOTE_WRITE_IMM)
		return c->n_imms_out - c->n_imms_took < LIMIT_RDMA_RECVS;
	return true;
}

/* One frame of @op. Return: true: it was the last one. */
static bool op_frame(struct served_conn *c, const struct remote_op *op, struct frame *f, uint8_t operands[16])
{
	uint32_t left = op->size - c->out_at;

	f->kind = op->kind == REMOTE_BEAT ? REMOTE_WRITE : (uint8_t)op->kind;
	f->key = op->key.key;
	f->address = op->key.base + op->offset + c->out_at;
	f->imm = op->imm;
	if (op->kind == REMOTE_READ) {
		f->length = op->size;
		c->reading += op->size;
		return true;
	}
	if (has_answer(op)) {
		put_le(operands, op->compare, 8);
		put_le(operands + 8, op->value, 8);
		f->payload = operands;
		f->size = 16;
		return true;
	}
	f->size = left < PIECE_MAX ? left : PIECE_MAX;
	f->payload = f->size > 0 ? op->region->memory + op->at + c->out_at : NULL;
	c->out_at += f->size;
	if (c->out_at < op->size)
		f->flags = FLAG_MORE;
	return c->out_at == op->size;
}

static bool request_of(struct served *s, struct served_conn *c)
{
	const struct remote_op *op = &c->ops[c->out_seq % LIMIT_RDMA_OPS];
	struct frame f = { .type = OP, .conn = name_of(c) };
	uint8_t operands[16];

	if (c->base.state != REMOTE_UP || c->out_seq == c->base.next || !has_window(c, op))
		return false;
	if (op_frame(c, op, &f, operands)) {
		if (remote_op_tells(&c->base, c->out_seq))
			f.flags |= FLAG_TELL;
		c->n_imms_out += op->kind == REMOTE_WRITE_IMM;
		c->out_seq++;
		c->out_at = 0;
	}
	s->out_at = 0;
	s->out_size = frame_put(s->out, &f);
	return true;
}

/* A frame of the next connection that has one: each in turn. */
static void request_next(struct served *s)
{
	struct served_conn *c;

	TAILQ_FOREACH(c, &s->conns, of_channel)
		if (request_of(s, c)) {
			TAILQ_REMOVE(&s->conns, c, of_channel);
			TAILQ_INSERT_TAIL(&s->conns, c, of_channel);
			return;
		}
}

size_t served_output(struct remote *r, const uint8_t **ret)
{
	struct served *s = (struct served *)r;

	if (s->over)
		return 0;
	/* Answers first, but not into the middle of a request. */
	if (s->out_at == s->out_size && s->answers_at == s->answers_size)
		request_next(s);
	*ret = s->out_at < s->out_size ? s->out + s->out_at : s->answers + s->answers_at;
	return s->out_at < s->out_size ? s->out_size - s->out_at : s->answers_size - s->answers_at;
}

void served_sent(struct remote *r, size_t n)
{
	struct served *s = (struct served *)r;

	if (s->out_at < s->out_size) {
		s->out_at += n;
		return;
	}
	s->answers_at += n;
	if (s->answers_at == s->answers_size && s->answers_cap > READ_WINDOW) { /* it was one large READ */
		free(take_ptr(s->answers));
		s->answers_at = s->answers_size = s->answers_cap = 0;
	}
}

/* -- the backend's calls */

static uint64_t served_now_ns(const struct remote *r)
{
	const struct served *s = (const struct served *)r;

	return s->o.now_ns ? s->o.now_ns(s->o.arg) : clock_ns();
}

static int served_domain_begin(struct remote_domain *d)
{
	return 0;
}

static void served_domain_end(struct remote_domain *d)
{
}

static int served_region_begin(struct remote_region *g)
{
	return 0;
}

static void served_region_end(struct remote_region *g)
{
}

static int served_expect(struct remote_conn *base)
{
	if (served_of(base)->over)
		return -EPIPE;
	/* Under no name that a frame has, until its caller comes. */
	join(served_conn_of(base), false, FROM_CALLER);
	return 0;
}

static int served_connect(struct remote_conn *base, const char *address)
{
	struct served *s = served_of(base);
	struct served_conn *c = served_conn_of(base);
	uint32_t number = s->next_number++ & ~FROM_CALLER;
	int r = answer(s, &(struct frame){ .type = CONNECT, .conn = number | FROM_CALLER, .size = REMOTE_TOKEN_SIZE, .payload = base->token });

	if (r < 0)
		return s->over ? -EPIPE : r;
	join(c, true, number);
	return 0;
}

static void served_conn_end(struct remote_conn *base)
{
	struct served_conn *c = served_conn_of(base);
	struct served *s = served_of(base);

	if (!c->joined)
		return;
	TAILQ_REMOVE(&s->conns, c, of_channel);
	c->joined = false;
	/* Without memory for it the peer learns of it by its own time. */
	if (!s->over && base->state != REMOTE_EXPECTED)
		if (answer(s, &(struct frame){ .type = CLOSE, .conn = name_of(c) }) < 0)
			everything_over(s, REMOTE_BROKEN);
}

static int served_bind(struct remote_export *base)
{
	struct served *s = served_of(base->conn);
	struct served_export *e = (struct served_export *)base;

	do
		if (getrandom(&base->key.key, sizeof(base->key.key), 0) != sizeof(base->key.key))
			return -EIO;
	while (access_has(&s->access, base->key.key));
	access_add(&s->access, &e->access, base);
	remote_export_bound(base, REMOTE_OK);
	return 0;
}

static void served_export_end(struct remote_export *base)
{
	access_remove(&served_of(base->conn)->access, &((struct served_export *)base)->access);
}

static int served_unbind(struct remote_export *base)
{
	served_export_end(base);
	remote_export_unbound(base);
	return 0;
}

static void served_post(struct remote_conn *base, const struct remote_op *ops, size_t n, uint64_t first)
{
	struct served_conn *c = served_conn_of(base);

	for (size_t i = 0; i < n; i++) {
		c->ops[(first + i) % LIMIT_RDMA_OPS] = ops[i];
		c->answered[(first + i) % LIMIT_RDMA_OPS] = false;
	}
}

static int served_poll(struct remote *r)
{
	return 0; /* served_input() has done it */
}

static void served_took_imm(struct remote_conn *base)
{
	struct served_conn *c = served_conn_of(base);

	if (++c->n_took < TOOK_BATCH)
		return;
	if (answer(served_of(base), &(struct frame){ .type = TOOK, .conn = name_of(c), .address = c->n_took }) < 0)
		everything_over(served_of(base), REMOTE_BROKEN);
	c->n_took = 0;
}

static void served_free(struct remote *r)
{
	struct served *s = (struct served *)r;

	free(s->answers);
	free(s);
}

static const struct remote_backend g_served = {
	.domain_size = sizeof(struct remote_domain),
	.region_size = sizeof(struct remote_region),
	.conn_size = sizeof(struct served_conn),
	.export_size = sizeof(struct served_export),
	.free = served_free,
	.now_ns = served_now_ns,
	.domain_begin = served_domain_begin,
	.domain_end = served_domain_end,
	.region_begin = served_region_begin,
	.region_end = served_region_end,
	.expect = served_expect,
	.connect = served_connect,
	.conn_end = served_conn_end,
	.bind = served_bind,
	.unbind = served_unbind,
	.export_end = served_export_end,
	.post = served_post,
	.poll = served_poll,
	.took_imm = served_took_imm,
};

int served_open(struct remote **ret, const struct served_options *o)
{
	struct served *s = calloc(1, sizeof(*s));
	const struct remote_caps caps = { .backend = "served", .atomics = true, .windows = true, .ordered = true, .tells_why = true };

	if (!s)
		return -ENOMEM;
	remote_init(&s->base, &g_served, &caps);
	s->o = *o;
	TAILQ_INIT(&s->conns);
	LIST_INIT(&s->access.keys);
	s->access.windows = true;
	*ret = &s->base;
	return 0;
}
