/*
 * Messages: a record each, or several with RING_MORE when one is larger than a quarter of the ring. The receiver copies a piece
 * while the sender writes the next one.
 */
#include "client/guard.h"

/* For a caller that does not wait: a message whose first piece is there or gone gets its others at once, or its sender is ill. */
#define PIECE_NS INT64_C(1000000000)
/* And all of them within this or the caller's own time-out, whichever is longer: a hostile sender has a piece of one byte each second. */
#define PIECES_NS INT64_C(10000000000)

static int check_messages(const struct sealane_lane *lane)
{
	return lane->kind == SEALANE_MESSAGES ?
		       0 :
		       lane_fail(-EPROTOTYPE, "the lane to %s does not carry messages: connect with kind = SEALANE_MESSAGES",
				 lane->identity.service);
}

/* Half a message cannot be taken back: the lane ends. */
static int torn(struct sealane_lane *lane, int error)
{
	int none = 0;

	atomic_compare_exchange_strong(&lane->ended, &none, error);
	return lane_fail(error, "the time was over amid a message in pieces: the lane to %s is ended", lane->identity.service);
}

static int send_pieces(struct sealane_lane *lane, const char *buf, size_t size, uint64_t deadline)
{
	size_t max = ring_record_max(lane->tx.cap);

	for (size_t done = 0; done < size;) {
		size_t n = size - done < max ? size - done : max;
		void *place;
		int r = lane_reserve(lane, n, &place, lane_time_left(deadline));

		if (r < 0)
			return done > 0 && r == -ETIMEDOUT ? torn(lane, r) : r;
		if (deadline == 0)
			deadline = lane_deadline(PIECE_NS);
		memcpy(place, buf + done, n);
		done += n;
		lane_stage(lane, (uint32_t)n, done < size ? RING_MORE : 0, LANE_TAG_PLAIN);
		lane_flush(lane);
	}
	return 0;
}

/* All but the usual: it has to wait, to be cut into pieces, or to be refused. */
static __attribute__((noinline)) int stage_long(struct sealane_lane *lane, const void *buf, size_t size, int64_t timeout_ns)
{
	void *place;
	int r = check_messages(lane);

	if (r < 0)
		return r;
	if (size > SEALANE_MESSAGE_MAX)
		return lane_fail(-EMSGSIZE, "a message of %zu bytes: the largest is %zu (SEALANE_MESSAGE_MAX)", size, SEALANE_MESSAGE_MAX);
	if (size > ring_record_max(lane->tx.cap))
		return send_pieces(lane, buf, size, lane_deadline(timeout_ns));
	r = lane_reserve(lane, size, &place, timeout_ns);
	if (r < 0)
		return r;
	memcpy(place, buf, size);
	lane_stage(lane, (uint32_t)size, 0, LANE_TAG_PLAIN);
	return 0;
}

static inline int stage_message(struct sealane_lane *lane, const void *buf, size_t size, int64_t timeout_ns)
{
	void *place;

	if (__builtin_expect(lane->kind != SEALANE_MESSAGES || !lane_try_reserve(lane, size, &place), 0))
		return stage_long(lane, buf, size, timeout_ns);
	memcpy(place, buf, size);
	lane_stage(lane, (uint32_t)size, 0, LANE_TAG_PLAIN);
	return 0;
}

int sealane_stage(struct sealane_lane *lane, const void *buf, size_t size, int64_t timeout_ns)
{
	KEYS_SCOPE(lane->domain);

	return KEYS_DENIED ? guard_denied(lane) : stage_message(lane, buf, size, timeout_ns);
}

int sealane_flush(struct sealane_lane *lane)
{
	KEYS_SCOPE(lane->domain);

	if (KEYS_DENIED)
		return guard_denied(lane);
	lane_flush(lane);
	return atomic_load_explicit(&lane->ended, memory_order_relaxed);
}

int sealane_send(struct sealane_lane *lane, const void *buf, size_t size, int64_t timeout_ns)
{
	KEYS_SCOPE(lane->domain);
	int r = KEYS_DENIED ? guard_denied(lane) : stage_message(lane, buf, size, timeout_ns);

	if (r == 0)
		lane_flush(lane);
	return r;
}

size_t sealane_reserve_max(const struct sealane_lane *lane)
{
	return ring_record_max(lane->tx.cap);
}

int sealane_reserve(struct sealane_lane *lane, size_t size, void **ret, int64_t timeout_ns)
{
	KEYS_SCOPE(lane->domain);
	int r;

	if (KEYS_DENIED)
		return guard_denied(lane);
	r = check_messages(lane);
	if (r == 0)
		r = lane_reserve(lane, size, ret, timeout_ns);
	if (r == 0)
		keys_hold(lane->domain, &lane->tx_hold, true);
	else
		keys_drop(lane->domain, &lane->tx_hold);
	lane->reserved = r == 0;
	lane->reserved_size = r == 0 ? (uint32_t)size : 0;
	return r;
}

int sealane_commit(struct sealane_lane *lane, size_t size)
{
	KEYS_SCOPE(lane->domain);

	if (KEYS_DENIED)
		return guard_denied(lane);
	if (!lane->reserved || size > lane->reserved_size)
		return lane_fail(-EINVAL, "%zu bytes are committed and %u reserved", size, lane->reserved_size);
	lane->reserved = false;
	keys_drop(lane->domain, &lane->tx_hold);
	lane_stage(lane, (uint32_t)size, 0, LANE_TAG_PLAIN);
	lane_flush(lane);
	return 0;
}

static int peek_plain(struct sealane_lane *lane, struct ring_record *ret, int64_t timeout_ns)
{
	int r = lane_peek(lane, ret, timeout_ns);

	return r == 0 && ret->tag != LANE_TAG_PLAIN ? lane_poison(lane, "a record that is not a plain message") : r;
}

int sealane_peek(struct sealane_lane *lane, const void **ret, size_t *ret_size, int *ret_more, int64_t timeout_ns)
{
	struct ring_record record;
	KEYS_SCOPE(lane->domain);
	int r = KEYS_DENIED ? guard_denied(lane) : check_messages(lane);

	if (r == 0)
		r = peek_plain(lane, &record, timeout_ns);
	if (r < 0)
		return r;
	keys_hold(lane->domain, &lane->rx_hold, false);
	lane->peeked = true;
	*ret = record.data;
	*ret_size = record.size;
	if (ret_more)
		*ret_more = (record.flags & RING_MORE) != 0;
	return 0;
}

void sealane_release(struct sealane_lane *lane)
{
	KEYS_SCOPE(lane->domain);

	if (KEYS_DENIED)
		return;
	if (lane->peeked)
		lane_release(lane);
	lane->peeked = false;
	keys_drop(lane->domain, &lane->rx_hold);
}

/* @piece: the time for it; @end: for all of them. */
static int next_piece(struct sealane_lane *lane, struct ring_record *record, int64_t piece, uint64_t end)
{
	int64_t left = lane_time_left(end);
	int r = peek_plain(lane, record, piece < 0 || piece < left ? piece : left);

	if (r == 0 && end != UINT64_MAX && clock_ns() >= end)
		r = -ETIMEDOUT; /* that there is always one more is no reason to go on */
	return r == -ETIMEDOUT ? torn(lane, r) : r;
}

/* The pieces after the first. What does not fit any more is read and dropped, so that the next message is found. */
static ssize_t recv_pieces(struct sealane_lane *lane, struct ring_record *record, char *buf, size_t size, int64_t timeout_ns)
{
	int64_t piece = timeout_ns == SEALANE_NOWAIT ? PIECE_NS : timeout_ns;
	uint64_t end = 0;
	bool fits = true;
	size_t done = 0;

	for (;;) {
		bool more = (record->flags & RING_MORE) != 0;
		int r;

		if (more && record->size == 0)
			return lane_poison(lane, "an empty piece of a message");
		fits = fits && record->size <= size - done;
		if (fits)
			memcpy(buf + done, record->data, record->size);
		done += record->size;
		if (done > SEALANE_MESSAGE_MAX)
			return lane_poison(lane, "a message larger than SEALANE_MESSAGE_MAX");
		lane_release(lane);
		if (!more)
			break;
		if (end == 0)
			end = lane_deadline(piece < 0 || piece > PIECES_NS ? piece : PIECES_NS);
		r = next_piece(lane, record, piece, end);
		if (r < 0)
			return r;
	}
	if (!fits)
		return lane_fail(-EMSGSIZE, "a message of %zu bytes from %s for a buffer of %zu: it is dropped", done, lane->identity.service, size);
	return (ssize_t)done;
}

/* All but the usual: it has to wait, comes in pieces, does not fit, or the lane is over. */
static __attribute__((noinline)) ssize_t recv_long(struct sealane_lane *lane, void *buf, size_t size, int64_t timeout_ns)
{
	struct ring_record record;
	int r = check_messages(lane);

	if (r == 0 && lane->peeked)
		r = lane_fail(-EINVAL, "sealane_recv() between sealane_peek() and sealane_release(): release first");
	if (r == 0)
		r = peek_plain(lane, &record, timeout_ns);
	if (r < 0)
		return r;
	return recv_pieces(lane, &record, buf, size, timeout_ns);
}

ssize_t sealane_recv(struct sealane_lane *lane, void *buf, size_t size, int64_t timeout_ns)
{
	struct ring_record record;
	KEYS_SCOPE(lane->domain);

	if (KEYS_DENIED)
		return guard_denied(lane);
	if (__builtin_expect(lane->kind != SEALANE_MESSAGES || lane->peeked || !lane_try_peek(lane, &record) ||
				     record.tag != LANE_TAG_PLAIN || (record.flags & RING_MORE) || record.size > size, 0))
		return recv_long(lane, buf, size, timeout_ns);
	memcpy(buf, record.data, record.size);
	lane_release(lane);
	return (ssize_t)record.size;
}
