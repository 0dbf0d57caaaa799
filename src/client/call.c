/*
 * Theory of operation: request and response over a lane of messages. This is the caller's half, and where every record of such a lane
 * comes in; call_serve.c answers. What travels stands in docs/design/call.md.
 *
 * A call takes a slot of the lane's table, and its id names the slot and how often that was used; so a reply finds its call without a
 * search, and one that comes too late, twice, or for nothing finds a slot with another id and is dropped. A reply is copied straight
 * into the buffer that the application gave with the call: we keep none, and it does not matter in which order replies come.
 *
 * Whoever waits for room takes in replies and cancels meanwhile (call_room()). So one that only calls can never be stuck with one
 * that only serves, however full both rings are. Two that do both may each find a call at the front while both rings are full; then
 * the one that has waited for STUCK_NS refuses that call with -EBUSY.
 *
 * Before it on a message's way: lane.c. After it: the application's buffer, or call_serve.c.
 */
#include "client/call.h"

/* While it waits for room, a sender looks that often what came in; it doubles. */
#define SLICE_MIN_NS INT64_C(50000)
#define SLICE_MAX_NS INT64_C(5000000)
/* Longer than a peer that is only busy lets a full ring stand, most of the time. */
#define STUCK_NS UINT64_C(5000000)

enum { DRAIN_AT_ONCE = 64 };

int calls_get(struct sealane_lane *lane, struct lane_calls **ret)
{
	*ret = lane->calls;
	if (lane->calls)
		return 0;
	if (lane->kind != SEALANE_MESSAGES)
		return lane_fail(-EPROTOTYPE, "the lane to %s does not carry calls: connect with kind = SEALANE_MESSAGES", lane->identity.service);
	*ret = lane->calls = calloc(1, sizeof(*lane->calls));
	if (!lane->calls)
		return lane_fail(-ENOMEM, "no memory for the calls of a lane: %zu bytes", sizeof(*lane->calls));
	(*ret)->free = (*ret)->done_first = (*ret)->done_last = CALL_NO_SLOT;
	(*ret)->next_deadline = UINT64_MAX;
	return 0;
}

/* --- slots --- */

static struct call_pending *slot_take(struct lane_calls *c, bool sync)
{
	struct call_pending *p;

	if (c->free != CALL_NO_SLOT) {
		p = &c->pending[c->free];
		c->free = p->next;
	} else if (c->n_used < CALL_SLOTS) {
		p = &c->pending[c->n_used];
		p->id = c->n_used++;
	} else {
		return NULL;
	}
	p->id += CALL_SLOTS; /* 54 bits of uses: never again the same */
	p->state = CALL_SENT;
	p->sync = sync;
	c->n_pending++;
	c->n_async += !sync;
	return p;
}

static uint16_t slot_of(uint64_t id)
{
	return (uint16_t)(id & (CALL_SLOTS - 1));
}

static void done_add(struct lane_calls *c, struct call_pending *p, ssize_t result)
{
	uint16_t slot = slot_of(p->id);

	p->state = CALL_DONE;
	p->result = result;
	c->n_done++;
	if (p->sync)
		return;
	p->prev = c->done_last;
	p->next = CALL_NO_SLOT;
	if (c->done_last == CALL_NO_SLOT)
		c->done_first = slot;
	else
		c->pending[c->done_last].next = slot;
	c->done_last = slot;
}

static void done_remove(struct lane_calls *c, struct call_pending *p)
{
	if (p->prev == CALL_NO_SLOT)
		c->done_first = p->next;
	else
		c->pending[p->prev].next = p->next;
	if (p->next == CALL_NO_SLOT)
		c->done_last = p->prev;
	else
		c->pending[p->next].prev = p->prev;
}

static void slot_give(struct lane_calls *c, struct call_pending *p)
{
	if (p->state == CALL_DONE && !p->sync)
		done_remove(c, p);
	c->n_async -= !p->sync;
	p->state = CALL_FREE;
	p->next = c->free;
	c->free = slot_of(p->id);
	if (--c->n_pending == 0)
		c->next_deadline = UINT64_MAX;
}

static struct call_pending *find(struct lane_calls *c, uint64_t id, enum call_state least)
{
	struct call_pending *p = &c->pending[slot_of(id)];

	return p->id == id && p->state >= (uint8_t)least ? p : NULL;
}

/* --- what comes in --- */

static void drop(struct lane_calls *c)
{
	c->n_dropped++;
}

int call_read_head(struct sealane_lane *lane, const struct ring_record *record, struct call_head *ret)
{
	const uint64_t *words = record->data;
	uint64_t second;

	if (record->size < sizeof(*ret))
		return lane_poison(lane, "a call or reply that is shorter than its head");
	/* atomic: so that no compiler loads a word again after it was checked */
	ret->id = __atomic_load_n(&words[0], __ATOMIC_RELAXED);
	second = __atomic_load_n(&words[1], __ATOMIC_RELAXED);
	memcpy(&ret->method, &second, sizeof(second)); /* and status */
	ret->left_ns = __atomic_load_n(&words[2], __ATOMIC_RELAXED);
	ret->size = __atomic_load_n(&words[3], __ATOMIC_RELAXED);
	if (ret->size > SEALANE_MESSAGE_MAX || record->size - sizeof(*ret) > ret->size)
		return lane_poison(lane, "a call or reply whose size cannot be");
	if (!(record->flags & RING_MORE) && record->size - sizeof(*ret) != ret->size)
		return lane_poison(lane, "a call or reply that ends before its size");
	return 0;
}

/* The text of an error goes into logs and on terminals. */
static void put_text(char *text, uint64_t at, const char *data, size_t size)
{
	for (size_t i = 0; i < size && at < CALL_TEXT - 1; i++, at++) {
		char ch = data[i];

		text[at] = ch < ' ' && ch >= 0 ? ' ' : ch == 127 ? ' ' : ch;
		text[at + 1] = '\0';
	}
}

/* One piece's payload, for whom it may concern; the call may have been given up since the piece before. */
static void reply_bytes(struct lane_calls *c, const char *data, size_t size)
{
	struct call_in *in = &c->in;
	struct call_pending *p = in->id ? find(c, in->id, CALL_SENT) : NULL;

	if (p && p->status != 0)
		put_text(c->text[slot_of(in->id)], in->done, data, size);
	else if (p && size > 0 && in->size <= p->reply_size)
		memcpy((char *)p->reply + in->done, data, size);
	in->done += size;
	if (!p || in->more)
		return;
	if (p->status != 0)
		done_add(c, p, -SEALANE_E_REMOTE);
	else
		done_add(c, p, in->size <= p->reply_size ? (ssize_t)in->size : -EMSGSIZE);
}

static int take_reply(struct sealane_lane *lane, const struct ring_record *record)
{
	struct lane_calls *c = lane->calls;
	struct call_pending *p;
	struct call_head head;
	int r = call_read_head(lane, record, &head);

	if (r < 0)
		return r;
	p = find(c, head.id, CALL_SENT);
	if (!p || p->state != CALL_SENT) {
		drop(c);
		p = NULL;
	} else {
		p->status = head.status;
		if (head.status != 0)
			c->text[slot_of(head.id)][0] = '\0';
	}
	c->in = (struct call_in){ .more = record->flags & RING_MORE, .tag = LANE_TAG_REPLY, .id = p ? head.id : 0, .size = head.size };
	reply_bytes(c, (const char *)record->data + sizeof(head), record->size - sizeof(head));
	lane_release(lane);
	return 0;
}

/* A piece after the first; also of a call that the handler did not read to its end. */
static int take_piece(struct sealane_lane *lane, const struct ring_record *record)
{
	struct call_in *in = &lane->calls->in;

	if (record->tag != in->tag || record->size > in->size - in->done)
		return lane_poison(lane, "a piece that does not belong to its message");
	in->more = record->flags & RING_MORE;
	if (!in->more && record->size != in->size - in->done)
		return lane_poison(lane, "a message in pieces that ends before its size");
	reply_bytes(lane->calls, record->data, record->size);
	lane_release(lane);
	return 0;
}

int call_step(struct sealane_lane *lane, int64_t timeout_ns, bool serve)
{
	struct lane_calls *c = lane->calls;
	struct ring_record record;
	bool cut_short = false;
	int r;

	call_settle(c);
	if (__builtin_expect(c->n_owed != 0, 0)) {
		r = call_pay(lane, 0);
		if (r < 0 && r != -EAGAIN)
			return r;
		/* room for it may come without any record */
		cut_short = c->n_owed && (timeout_ns == SEALANE_FOREVER || timeout_ns > SLICE_MAX_NS);
	}
	r = lane_peek(lane, &record, cut_short ? SLICE_MAX_NS : timeout_ns);
	if (r < 0)
		return cut_short && r == -ETIMEDOUT ? 0 : r;
	/* The payload's line comes while the head is looked at; closing the key before a handler would have it wait until then. */
	__builtin_prefetch((const char *)record.data + SHM_LINE);
	if (c->in.more)
		return take_piece(lane, &record);
	switch (record.tag) {
	case LANE_TAG_REPLY:
		return take_reply(lane, &record);
	case LANE_TAG_CALL:
		return serve ? call_serve(lane, &record) : CALL_HELD;
	case LANE_TAG_CANCEL:
		return call_take_cancel(lane, &record);
	default:
		return lane_poison(lane, "a message that is no call, on a lane that is used for calls");
	}
}

/* --- sending --- */

/* Is so much unread that the peer, too, may be waiting for room? (For a quarter of the ring, and as much to skip at its end.) */
static bool peer_may_wait(const struct sealane_lane *lane)
{
	struct ring_rx ahead = lane->rx;
	struct ring_record record;

	while (ahead.index - lane->rx.index <= ahead.desc_mask && ring_rx_look(&ahead, &record, memory_order_acquire) == 0) {
		ahead.head = ahead.next;
		ahead.index++;
	}
	return ahead.head - lane->rx.head + SHM_LINE >= ahead.cap / 2;
}

/* Takes what may be taken while a sender waits for room. Return: something was; negative: the lane is over. */
static int drain(struct sealane_lane *lane, bool stuck)
{
	struct lane_calls *c = lane->calls;
	struct ring_record record;
	int n = 0, r = 0;

	if (c->current && c->current->held)
		return 0; /* the request that is being answered is still looked at */
	while (n < DRAIN_AT_ONCE && ring_rx_peek(&lane->rx, &record) == 0 && !(record.flags & RING_FIN)) {
		bool call = record.tag == LANE_TAG_CALL && !c->in.more;

		if (call && !(stuck && peer_may_wait(lane)))
			break;
		if (call)
			r = call_refuse(lane, &record, -EBUSY);
		else if (c->in.more)
			r = take_piece(lane, &record);
		else if (record.tag == LANE_TAG_REPLY)
			r = take_reply(lane, &record);
		else if (record.tag == LANE_TAG_CANCEL)
			r = call_take_cancel(lane, &record);
		else
			r = lane_poison(lane, "a message that is no call, on a lane that is used for calls");
		if (r < 0)
			return r;
		n++;
	}
	ring_rx_publish_head(&lane->rx);
	ring_wake_space(&lane->rx, ring_rx_check_producer(&lane->rx), lane->bell);
	return n;
}

static int room_slow(struct sealane_lane *lane, size_t size, void **ret, uint64_t deadline)
{
	uint64_t since = clock_ns();
	int64_t slice = SLICE_MIN_NS;

	for (;;) {
		uint64_t now = clock_ns();
		int r = drain(lane, now - since >= STUCK_NS);

		if (r < 0)
			return r;
		if (r > 0)
			slice = SLICE_MIN_NS;
		if (now >= deadline)
			return -ETIMEDOUT;
		if ((uint64_t)slice > deadline - now)
			slice = (int64_t)(deadline - now);
		r = lane_reserve(lane, size, ret, slice);
		if (r != -ETIMEDOUT)
			return r;
		slice = slice * 2 < SLICE_MAX_NS ? slice * 2 : SLICE_MAX_NS;
	}
}

static int call_room(struct sealane_lane *lane, size_t size, void **ret, uint64_t deadline)
{
	int r = lane_reserve(lane, size, ret, SEALANE_NOWAIT);

	return r == -EAGAIN && deadline != 0 ? room_slow(lane, size, ret, deadline) : r;
}

/* Half a message cannot be taken back: the lane ends. */
static int torn(struct sealane_lane *lane, int error)
{
	int none = 0;

	atomic_compare_exchange_strong(&lane->ended, &none, error);
	return lane_fail(error, "the time was over amid a call or reply in pieces: the lane to %s is ended", lane->identity.service);
}

static int send_rest(struct sealane_lane *lane, uint8_t tag, const char *buf, size_t size, uint64_t deadline)
{
	size_t max = ring_record_max(lane->tx.cap);

	for (size_t done = 0; done < size;) {
		size_t n = size - done < max ? size - done : max;
		void *place;
		int r;

		lane->calls->amid_pieces = true;
		r = call_room(lane, n, &place, deadline);
		lane->calls->amid_pieces = false;
		if (r < 0)
			return r == -ETIMEDOUT ? torn(lane, r) : r;
		memcpy(place, buf + done, n);
		done += n;
		lane_stage(lane, (uint32_t)n, done < size ? RING_MORE : 0, tag);
		lane_flush(lane);
	}
	return 0;
}

int call_send(struct sealane_lane *lane, uint8_t tag, const struct call_head *head, const void *buf, uint64_t deadline)
{
	size_t max = ring_record_max(lane->tx.cap) - sizeof(*head), n = head->size < max ? head->size : max;
	void *place;
	int r = call_room(lane, sizeof(*head) + n, &place, deadline);

	if (r < 0)
		return r;
	__builtin_prefetch((char *)place + SHM_LINE, 1); /* head and payload are two lines, and the peer has both */
	memcpy(place, head, sizeof(*head));
	if (n > 0)
		memcpy((char *)place + sizeof(*head), buf, n);
	lane_stage(lane, (uint32_t)(sizeof(*head) + n), n < head->size ? RING_MORE : 0, tag);
	lane_flush(lane);
	if (n == head->size)
		return 0;
	return send_rest(lane, tag, (const char *)buf + n, head->size - n, deadline ? deadline : lane_deadline(CALL_PIECE_NS));
}

/* --- calling --- */

/* Sends the call that has slot @p. @wait: for room, until the call's own time is over. */
static int begin(struct sealane_lane *lane, struct call_pending *p, struct call_head *head, const void *request, bool wait)
{
	struct lane_calls *c = lane->calls;
	bool whole = head->size <= ring_record_max(lane->tx.cap) - sizeof(*head);
	int r = -EAGAIN;

	head->id = p->id;
	if (whole) /* the usual case; the clock is looked at while the peer works */
		r = call_send(lane, LANE_TAG_CALL, head, request, 0);
	p->deadline_ns = head->left_ns == UINT64_MAX ? UINT64_MAX : clock_ns() + head->left_ns;
	if (r == -EAGAIN && (wait || !whole))
		r = call_send(lane, LANE_TAG_CALL, head, request, p->deadline_ns);
	if (r < 0)
		slot_give(c, p);
	else if (p->deadline_ns < c->next_deadline)
		c->next_deadline = p->deadline_ns;
	return r;
}

/* The peer hears that its work is for nothing; if there is no room for that, its own clock tells it. */
static void tell_cancel(struct sealane_lane *lane, uint64_t id)
{
	struct call_head head = { .id = id };

	(void)!call_send(lane, LANE_TAG_CANCEL, &head, NULL, 0);
}

/* Ends the calls whose time is over at @now, and finds out when the next one's will be. */
static void expire(struct sealane_lane *lane, uint64_t now)
{
	struct lane_calls *c = lane->calls;
	uint64_t next = UINT64_MAX;

	for (uint32_t i = 0; i < c->n_used; i++) {
		struct call_pending *p = &c->pending[i];

		if (p->state != CALL_SENT)
			continue;
		if (now >= p->deadline_ns) {
			tell_cancel(lane, p->id);
			done_add(c, p, -ETIMEDOUT);
		} else if (p->deadline_ns < next) {
			next = p->deadline_ns;
		}
	}
	c->next_deadline = next;
}

/* The lane is over, or the peer has gone: no call will have a reply. */
static void fail_all(struct lane_calls *c, int error)
{
	for (uint32_t i = 0; i < c->n_used; i++)
		if (c->pending[i].state == CALL_SENT)
			done_add(c, &c->pending[i], error);
}

/*
 * One step towards a reply. @until: 0: no waiting. @n: how many there were.
 * Return: 0: look whether it came; -EAGAIN: the time is over.
 */
static int advance(struct sealane_lane *lane, uint64_t until, unsigned n)
{
	struct lane_calls *c = lane->calls;
	uint64_t end = c->next_deadline < until ? c->next_deadline : until, now;
	uint64_t n_done = c->n_done;
	int r = call_step(lane, lane_time_left(end), true);

	if (r < 0 && r != -EAGAIN && r != -ETIMEDOUT) {
		fail_all(c, r);
		return 0;
	}
	if (r >= 0 && (n_done != c->n_done || end == UINT64_MAX))
		return 0;
	now = clock_ns();
	if (now >= c->next_deadline) {
		expire(lane, now);
		return 0;
	}
	if (r >= 0 && until == 0 && n >= DRAIN_AT_ONCE)
		lane_kick(lane); /* a flood of other things: the descriptor stays readable */
	else if (r >= 0 && (until == 0 || now < until))
		return 0;
	return until == 0 || now >= until ? -EAGAIN : 0;
}

static void explain(struct sealane_lane *lane, const struct call_pending *p)
{
	struct lane_calls *c = lane->calls;
	const char *who = lane->identity.service;

	switch (p->result) {
	case -SEALANE_E_REMOTE:
		c->last_status = p->status;
		memcpy(c->last_text, c->text[slot_of(p->id)], CALL_TEXT);
		lane_fail(-SEALANE_E_REMOTE, "%s answered the call with error %d: %s", who, p->status, c->last_text);
		return;
	case -EMSGSIZE:
		lane_fail(-EMSGSIZE, "the reply from %s is larger than the %zu bytes that were given for it: it is dropped", who, p->reply_size);
		return;
	case -ETIMEDOUT:
		lane_fail(-ETIMEDOUT, "no reply from %s in the time that the call was given", who);
		return;
	case -ENODATA:
		lane_fail(-ENODATA, "%s went away before it answered: whether it did what was asked is not known", who);
		return;
	default:
		return; /* said when the lane ended */
	}
}

/* A call that is done leaves the table. */
static ssize_t finish(struct sealane_lane *lane, struct call_pending *p)
{
	ssize_t result = p->result;

	if (result < 0)
		explain(lane, p);
	slot_give(lane->calls, p);
	return result;
}

static int start(struct sealane_lane *lane, uint32_t method, size_t size, int64_t timeout_ns, bool sync, struct call_head *ret_head,
		 struct call_pending **ret)
{
	struct lane_calls *c;
	int r = calls_get(lane, &c);

	if (r < 0)
		return r;
	if (timeout_ns == SEALANE_NOWAIT)
		return lane_fail(-EINVAL, "a call that may take no time: give it some, or SEALANE_FOREVER");
	if (size > SEALANE_MESSAGE_MAX)
		return lane_fail(-EMSGSIZE, "a request of %zu bytes: the largest is %zu (SEALANE_MESSAGE_MAX)", size, SEALANE_MESSAGE_MAX);
	*ret_head = (struct call_head){ .method = method, .left_ns = timeout_ns < 0 ? UINT64_MAX : (uint64_t)timeout_ns, .size = size };
	*ret = slot_take(c, sync);
	if (!*ret)
		return lane_fail(-EAGAIN, "%d calls are under way on the lane to %s: finish some first", CALL_SLOTS, lane->identity.service);
	return 0;
}

ssize_t sealane_call(struct sealane_lane *lane, uint32_t method, const void *request, size_t request_size, void *reply,
		     size_t reply_size, int64_t timeout_ns)
{
	struct call_pending *p;
	struct call_head head;
	KEYS_SCOPE(lane->domain);
	int r = KEYS_DENIED ? guard_denied(lane) : start(lane, method, request_size, timeout_ns, true, &head, &p);

	if (r < 0)
		return r;
	p->reply = reply;
	p->reply_size = reply_size;
	r = begin(lane, p, &head, request, true);
	if (r == -ETIMEDOUT)
		return lane_fail(r, "%s did not even take the call in the time that it was given", lane->identity.service);
	if (r < 0)
		return r;
	while (p->state == CALL_SENT)
		(void)!advance(lane, UINT64_MAX, 0);
	return finish(lane, p);
}

int sealane_call_begin(struct sealane_lane *lane, uint32_t method, const void *request, size_t request_size, void *reply,
		       size_t reply_size, int64_t timeout_ns, uint64_t *ret_id)
{
	struct call_pending *p;
	struct call_head head;
	KEYS_SCOPE(lane->domain);
	int r = KEYS_DENIED ? guard_denied(lane) : start(lane, method, request_size, timeout_ns, false, &head, &p);

	if (r < 0)
		return r;
	p->reply = reply;
	p->reply_size = reply_size;
	*ret_id = p->id;
	return begin(lane, p, &head, request, false);
}

ssize_t sealane_call_finish(struct sealane_lane *lane, uint64_t id, int64_t wait_ns)
{
	struct lane_calls *c = lane->calls;
	struct call_pending *p = c ? find(c, id, CALL_SENT) : NULL;
	uint64_t until = lane_deadline(wait_ns);
	KEYS_SCOPE(lane->domain);

	if (KEYS_DENIED)
		return guard_denied(lane);
	if (!p)
		return lane_fail(-ENOENT, "no such call is under way on the lane to %s", lane->identity.service);
	for (unsigned n = 0; p->id == id && p->state == CALL_SENT; n++) {
		int r = advance(lane, until, n);

		if (r < 0 && p->id == id && p->state == CALL_SENT)
			return r;
	}
	if (p->id != id || p->state != CALL_DONE)
		return lane_fail(-ENOENT, "the call was finished or cancelled meanwhile, by a handler");
	return finish(lane, p);
}

ssize_t sealane_call_next(struct sealane_lane *lane, uint64_t *ret_id, int64_t wait_ns)
{
	struct lane_calls *c = lane->calls;
	uint64_t until = lane_deadline(wait_ns);
	KEYS_SCOPE(lane->domain);

	if (KEYS_DENIED)
		return guard_denied(lane);
	for (unsigned n = 0; c && c->n_async > 0; n++) {
		int r = 0;

		if (c->done_first == CALL_NO_SLOT)
			r = advance(lane, until, n);
		if (c->done_first != CALL_NO_SLOT) {
			struct call_pending *p = &c->pending[c->done_first];

			*ret_id = p->id;
			return finish(lane, p);
		}
		if (r < 0)
			return r;
	}
	*ret_id = 0;
	return lane_fail(-ENOENT, "no call is under way on the lane to %s", lane->identity.service);
}

int sealane_call_cancel(struct sealane_lane *lane, uint64_t id)
{
	struct lane_calls *c = lane->calls;
	struct call_pending *p = c ? find(c, id, CALL_SENT) : NULL;
	KEYS_SCOPE(lane->domain);

	if (KEYS_DENIED)
		return guard_denied(lane);
	if (!p)
		return lane_fail(-ENOENT, "no such call is under way on the lane to %s", lane->identity.service);
	if (p->state == CALL_SENT)
		tell_cancel(lane, id);
	slot_give(c, p);
	return 0;
}

const char *sealane_call_error(struct sealane_lane *lane, int *ret_status)
{
	*ret_status = lane->calls ? lane->calls->last_status : 0;
	return lane->calls ? lane->calls->last_text : "";
}

uint64_t sealane_call_dropped(const struct sealane_lane *lane)
{
	return lane->calls ? lane->calls->n_dropped : 0;
}
