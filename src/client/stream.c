/*
 * Streams: bytes in as many records as it takes; where one record ends and the next begins means nothing.
 *
 * A write is cut into records of at most a quarter of the ring, each published at once, so that the reader copies one while the
 * next is written.
 */
#include "client/guard.h"

static int check_stream(const struct sealane_lane *lane)
{
	return lane->kind == SEALANE_STREAM ?
		       0 :
		       lane_fail(-EPROTOTYPE, "the lane to %s carries messages: use sealane_send() and sealane_recv()", lane->identity.service);
}

ssize_t sealane_write(struct sealane_lane *lane, const void *buf, size_t size, int64_t timeout_ns)
{
	uint64_t deadline = lane_deadline(timeout_ns);
	size_t done = 0, max = ring_record_max(lane->tx.cap);
	KEYS_SCOPE(lane->domain);
	int r = KEYS_DENIED ? guard_denied(lane) : check_stream(lane);

	while (r == 0 && done < size) {
		size_t n = size - done < max ? size - done : max;
		void *place;

		r = lane_reserve(lane, n, &place, lane_time_left(deadline));
		if (r < 0)
			break;
		memcpy(place, (const char *)buf + done, n);
		lane_stage(lane, (uint32_t)n, 0, LANE_TAG_PLAIN);
		lane_flush(lane);
		done += n;
	}
	return done > 0 ? (ssize_t)done : r;
}

/* Takes up to @size bytes of the record at the front. */
static size_t read_record(struct sealane_lane *lane, const struct ring_record *record, void *buf, size_t size)
{
	size_t left = record->size - lane->read_at, n = size < left ? size : left;

	memcpy(buf, (const char *)record->data + lane->read_at, n);
	lane->read_at += (uint32_t)n;
	if (n == left) {
		lane->read_at = 0;
		lane_release(lane);
	}
	return n;
}

ssize_t sealane_read(struct sealane_lane *lane, void *buf, size_t size, int64_t timeout_ns)
{
	struct ring_record record;
	uint64_t deadline = lane_deadline(timeout_ns);
	size_t done = 0;
	KEYS_SCOPE(lane->domain);
	int r = KEYS_DENIED ? guard_denied(lane) : check_stream(lane);

	if (r < 0)
		return r;
	while (done < size) {
		/* the first byte is waited for, what came with it is taken along */
		if (done > 0) {
			r = ring_rx_peek(&lane->rx, &record);
			if (r != 0 || record.flags & RING_FIN)
				break;
		} else {
			r = lane_peek(lane, &record, lane_time_left(deadline));
			if (r < 0)
				return r == -ENODATA ? 0 : r;
		}
		/*
		 * The size is loaded anew with each look: a peer that changed it meanwhile broke the rules. One that sends empty records,
		 * too: without end, they would keep us here beyond our time.
		 */
		if (record.tag != LANE_TAG_PLAIN || record.flags != 0 || record.size <= lane->read_at)
			return done > 0 ? (ssize_t)done : lane_poison(lane, "a record that no stream has");
		done += read_record(lane, &record, (char *)buf + done, size - done);
	}
	return (ssize_t)done;
}
