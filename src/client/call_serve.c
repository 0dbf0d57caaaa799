/*
 * Theory of operation: the half that answers calls. A call that comes is entered in open[], in the slot that its id names, and the
 * method's handler runs with the request where it lies in the ring. The handler answers, fails, or says that the answer comes later
 * from somewhere else (SEALANE_REPLY_LATER); then the entry stays until sealane_reply().
 *
 * The peer chooses ids. One that names a slot in use says that the call before it is not waited for any more (that is how our own
 * caller reuses slots), so the table is never full, and a peer that lies only loses its own answers.
 *
 * What must never wait: an answer that nobody gave text for, by the library itself (no such method, too deep, a handler's error).
 * Without room it is owed: noted in the entry, and paid when there is room.
 *
 * Before it: call.c. After it: the application's handlers.
 */
#include "client/call.h"

static struct call_open *find_open(struct lane_calls *c, uint64_t id)
{
	struct call_open *o = &c->open[id & (CALL_SLOTS - 1)];

	return o->open && o->id == id ? o : NULL;
}

static void open_close(struct lane_calls *c, struct call_open *o)
{
	if (o->owed)
		c->n_owed--;
	o->open = o->owed = false;
}

/* What is left of the time that the caller gives; counted from the first look. */
static int64_t open_time_left(struct call_open *o)
{
	uint64_t now;

	if (o->left_ns == UINT64_MAX)
		return SEALANE_FOREVER;
	now = clock_ns();
	if (o->deadline_ns == 0)
		o->deadline_ns = o->left_ns > UINT64_MAX - now ? UINT64_MAX : now + o->left_ns;
	if (o->deadline_ns <= now)
		return 0;
	return o->deadline_ns - now > INT64_MAX ? INT64_MAX : (int64_t)(o->deadline_ns - now);
}

/* --- answers --- */

static int send_reply(struct sealane_lane *lane, struct call_open *o, int32_t status, const void *buf, size_t size, uint64_t deadline)
{
	struct call_head head = { .id = o->id, .status = status, .size = size };
	uint64_t id = o->id;
	int r = call_send(lane, LANE_TAG_REPLY, &head, buf, deadline);

	/* while it waited for room, the entry may have become another call's */
	if (r == 0 && o->open && o->id == id)
		open_close(lane->calls, o);
	return r;
}

static void answer_status(struct sealane_lane *lane, struct call_open *o, int status)
{
	const char *text = status ? sealane_strerror(status) : "";

	if (!lane->calls->amid_pieces && send_reply(lane, o, status, text, strlen(text), 0) != -EAGAIN)
		return;
	if (o->owed)
		return;
	o->status = status;
	o->owed = true;
	lane->calls->n_owed++;
}

int call_pay(struct sealane_lane *lane, uint64_t deadline)
{
	struct lane_calls *c = lane->calls;

	for (unsigned i = 0; c->n_owed > 0 && i < CALL_SLOTS; i++) {
		struct call_open *o = &c->open[i];
		const char *text = o->owed && o->status ? sealane_strerror(o->status) : "";
		int r = o->owed ? send_reply(lane, o, o->status, text, strlen(text), deadline) : 0;

		if (r == -EPIPE)
			open_close(c, o);
		else if (r < 0)
			return r;
	}
	return 0;
}

/* --- calls that come --- */

static struct call_open *enter(struct lane_calls *c, const struct call_head *head)
{
	struct call_open *o = &c->open[head->id & (CALL_SLOTS - 1)];

	if (o->open)
		open_close(c, o);
	*o = (struct call_open){ .id = head->id, .left_ns = head->left_ns, .open = true };
	return o;
}

/* The rest of a request that nobody reads is dropped as it comes. */
static void skip(struct lane_calls *c, uint64_t done, uint64_t size, bool more)
{
	c->in = (struct call_in){ .more = more, .tag = LANE_TAG_CALL, .done = done, .size = size };
}

int call_refuse(struct sealane_lane *lane, const struct ring_record *record, int status)
{
	struct call_head head;
	int r = call_read_head(lane, record, &head);

	if (r < 0)
		return r;
	skip(lane->calls, record->size - sizeof(head), head.size, record->flags & RING_MORE);
	lane_release(lane);
	answer_status(lane, enter(lane->calls, &head), status);
	return 0;
}

int call_take_cancel(struct sealane_lane *lane, const struct ring_record *record)
{
	struct call_head head;
	struct call_open *o;
	int r = call_read_head(lane, record, &head);

	if (r < 0)
		return r;
	if (record->flags & RING_MORE || head.size != 0)
		return lane_poison(lane, "a cancel with a payload");
	o = find_open(lane->calls, head.id);
	if (o)
		o->cancelled = true;
	lane_release(lane);
	return 0;
}

static const struct sealane_method *find_method(const struct lane_calls *c, uint32_t number)
{
	/* a table without gaps, as most are */
	size_t guess = c->n_methods > 0 ? number - c->methods[0].number : 0;

	if (guess < c->n_methods && c->methods[guess].number == number)
		return &c->methods[guess];
	for (size_t i = 0; i < c->n_methods; i++)
		if (c->methods[i].number == number)
			return &c->methods[i];
	return NULL;
}

/* Given by sealane_request_peek(): the application may look into the ring until then. */
static void end_look(struct sealane_request *q)
{
	keys_drop(q->lane->domain, &q->lane->rx_hold);
	q->held = false;
}

void call_settle(struct lane_calls *c)
{
	struct sealane_request *q = c->current;

	if (!q || !q->held)
		return;
	end_look(q);
	q->lost = q->left > 0 || q->more;
	q->left = 0;
	skip(c, q->arrived, q->size, q->more);
	lane_release(q->lane);
}

/* The handler is the application's: it runs with the lanes' memory closed. All that serves has one scope open. */
static int run_outside(const struct sealane_method *m, struct sealane_request *q, void *arg)
{
	struct sealane_lane *lane = q->lane;
	int r;

	if (keys_are_active())
		keys_leave_(lane->domain);
	r = m->handler(q, arg);
	if (keys_are_active())
		(void)!keys_enter_(lane->domain, true);
	return r;
}

static int run(struct sealane_lane *lane, const struct sealane_method *m, struct sealane_request *q)
{
	struct lane_calls *c = lane->calls;
	struct sealane_request *before = c->current;
	int r;

	c->current = q;
	c->depth++;
	r = run_outside(m, q, c->arg);
	c->depth--;
	call_settle(c);
	c->current = before;
	return r;
}

int call_serve(struct sealane_lane *lane, const struct ring_record *record)
{
	struct lane_calls *c = lane->calls;
	struct sealane_request q = { .lane = lane, .held = true, .more = record->flags & RING_MORE };
	const struct sealane_method *m;
	struct call_head head;
	struct call_open *o;
	int r = call_read_head(lane, record, &head);

	if (r < 0)
		return r;
	m = find_method(c, head.method);
	if (!m || c->depth >= CALL_DEPTH_MAX) {
		r = call_refuse(lane, record, m ? -EBUSY : -ENOSYS);
		return r < 0 ? r : 1;
	}
	enter(c, &head);
	q.id = head.id;
	q.method = head.method;
	q.size = head.size;
	q.left = (uint32_t)(record->size - sizeof(head));
	q.arrived = q.left;
	q.data = (const char *)record->data + sizeof(head);
	r = run(lane, m, &q);
	o = find_open(c, head.id);
	if (o && r <= 0)
		answer_status(lane, o, r);
	else if (o)
		(void)open_time_left(o); /* its time runs from here, if it was not asked for before */
	return 1;
}

int sealane_methods(struct sealane_lane *lane, const struct sealane_method *methods, size_t n_methods, void *arg)
{
	struct lane_calls *c;
	int r = calls_get(lane, &c);

	if (r < 0)
		return r;
	c->methods = methods;
	c->n_methods = n_methods;
	c->arg = arg;
	return 0;
}

int sealane_serve(struct sealane_lane *lane, int64_t timeout_ns)
{
	struct lane_calls *c;
	KEYS_SCOPE(lane->domain);
	int r = KEYS_DENIED ? guard_denied(lane) : calls_get(lane, &c);

	if (r < 0)
		return r;
	/* A caller that does not take its answers gets no further ones worked out. */
	if (c->n_owed > 0) {
		r = call_pay(lane, lane_deadline(timeout_ns));
		if (r < 0)
			return r;
	}
	return call_step(lane, timeout_ns, true);
}

/* --- what a handler asks --- */

uint64_t sealane_request_id(const struct sealane_request *q)
{
	return q->id;
}

uint32_t sealane_request_method(const struct sealane_request *q)
{
	return q->method;
}

struct sealane_lane *sealane_request_lane(const struct sealane_request *q)
{
	return q->lane;
}

size_t sealane_request_size(const struct sealane_request *q)
{
	return q->size;
}

/* The next piece of the request takes the place of the one that was read. */
static int next_piece(struct sealane_request *q)
{
	struct ring_record record;
	uint64_t since = clock_ns();
	int r;

	lane_release(q->lane);
	end_look(q);
	q->lost = true;
	skip(q->lane->calls, q->arrived, q->size, true);
	r = q->waited_ns < CALL_PIECES_NS ? lane_peek(q->lane, &record, CALL_PIECE_NS) : -ETIMEDOUT;
	q->waited_ns += clock_ns() - since;
	if (r < 0)
		return lane_fail(r, "the rest of a request from %s does not come", q->lane->identity.service);
	if (record.tag != LANE_TAG_CALL || record.size > q->size - q->arrived)
		return lane_poison(q->lane, "a piece that does not belong to its message");
	q->more = record.flags & RING_MORE;
	if (q->more && record.size == 0)
		return lane_poison(q->lane, "an empty piece of a message");
	if (!q->more && record.size != q->size - q->arrived)
		return lane_poison(q->lane, "a message in pieces that ends before its size");
	q->held = true;
	q->lost = false;
	q->lane->calls->in.more = false;
	q->data = record.data;
	q->left = record.size;
	q->arrived += record.size;
	return 0;
}

static int peek(struct sealane_request *q, const void **ret, size_t *ret_size)
{
	int r = 0;

	if (q->lost)
		return lane_fail(-ESTALE, "the request is gone: read it before you make a call on the same lane");
	while (r == 0 && q->left == 0 && q->more)
		r = next_piece(q);
	*ret = q->data;
	*ret_size = q->left;
	return r;
}

int sealane_request_peek(struct sealane_request *q, const void **ret, size_t *ret_size)
{
	KEYS_SCOPE(q->lane->domain);
	int r = KEYS_DENIED ? guard_denied(q->lane) : peek(q, ret, ret_size);

	if (r == 0)
		keys_hold(q->lane->domain, &q->lane->rx_hold, false);
	return r;
}

ssize_t sealane_request_read(struct sealane_request *q, void *buf, size_t size)
{
	size_t done = 0;
	KEYS_SCOPE(q->lane->domain);

	if (KEYS_DENIED)
		return guard_denied(q->lane);
	while (done < size) {
		const void *data;
		size_t n;
		int r = peek(q, &data, &n);

		if (r < 0)
			return r;
		if (n == 0)
			break;
		n = n < size - done ? n : size - done;
		if (buf)
			memcpy((char *)buf + done, data, n);
		q->data += n;
		q->left -= (uint32_t)n;
		done += n;
	}
	/* The record goes back as soon as it can: the caller may need the room to take our reply. */
	if (q->held && q->left == 0 && !q->more)
		call_settle(q->lane->calls);
	return (ssize_t)done;
}

/* Cancels that came behind other things are seen ahead of their turn: records are looked at and left where they are. */
static void look_ahead(struct sealane_lane *lane)
{
	struct lane_calls *c = lane->calls;
	struct ring_record record;

	if (c->scan.index < lane->rx.index || !c->scan.descs)
		c->scan = lane->rx;
	while (c->scan.index - lane->rx.index <= c->scan.desc_mask && ring_rx_look(&c->scan, &record, memory_order_acquire) == 0) {
		if (record.tag == LANE_TAG_CANCEL && record.size >= sizeof(struct call_head)) {
			struct call_open *o = find_open(c, __atomic_load_n((const uint64_t *)record.data, __ATOMIC_RELAXED));

			if (o)
				o->cancelled = true;
		}
		c->scan.head = c->scan.next;
		c->scan.index++;
	}
}

int64_t sealane_reply_time_left(struct sealane_lane *lane, uint64_t id)
{
	struct call_open *o = lane->calls ? find_open(lane->calls, id) : NULL;
	KEYS_SCOPE(lane->domain);

	if (KEYS_DENIED || !o || o->cancelled || atomic_load_explicit(&lane->ended, memory_order_relaxed) < 0)
		return 0;
	look_ahead(lane);
	return o->cancelled ? 0 : open_time_left(o);
}

static struct call_open *check_reply(struct sealane_lane *lane, uint64_t id, int *ret_error)
{
	struct call_open *o = lane->calls ? find_open(lane->calls, id) : NULL;

	*ret_error = 0;
	if (!o || o->owed) {
		*ret_error = lane_fail(-ENOENT, "no call with that id waits for a reply: it was answered, or given up by the caller");
		return NULL;
	}
	if (!o->cancelled)
		return o;
	open_close(lane->calls, o);
	*ret_error = lane_fail(-ECANCELED, "%s cancelled the call: the reply is dropped", lane->identity.service);
	return NULL;
}

int sealane_reply(struct sealane_lane *lane, uint64_t id, const void *buf, size_t size, int64_t timeout_ns)
{
	struct call_open *o;
	KEYS_SCOPE(lane->domain);
	int r;

	if (KEYS_DENIED)
		return guard_denied(lane);
	if (size > SEALANE_MESSAGE_MAX)
		return lane_fail(-EMSGSIZE, "a reply of %zu bytes: the largest is %zu (SEALANE_MESSAGE_MAX)", size, SEALANE_MESSAGE_MAX);
	o = check_reply(lane, id, &r);
	return o ? send_reply(lane, o, 0, buf, size, lane_deadline(timeout_ns)) : r;
}

int sealane_reply_error(struct sealane_lane *lane, uint64_t id, int status, const char *text)
{
	struct call_open *o;
	KEYS_SCOPE(lane->domain);
	int r;

	if (KEYS_DENIED)
		return guard_denied(lane);
	if (status == 0)
		return lane_fail(-EINVAL, "an error of status 0: that would be a reply");
	o = check_reply(lane, id, &r);
	if (!o)
		return r;
	if (!text)
		text = sealane_strerror(status);
	r = send_reply(lane, o, status, text, strnlen(text, CALL_TEXT - 1), 0);
	if (r == -EAGAIN) { /* without its text, rather than not at all */
		answer_status(lane, o, status);
		r = 0;
	}
	return r;
}

int sealane_request_reply(struct sealane_request *q, const void *buf, size_t size)
{
	return sealane_reply(q->lane, q->id, buf, size, CALL_PIECE_NS);
}

int sealane_request_fail(struct sealane_request *q, int status, const char *text)
{
	return sealane_reply_error(q->lane, q->id, status, text);
}

int64_t sealane_request_time_left(const struct sealane_request *q)
{
	return sealane_reply_time_left(q->lane, q->id);
}
