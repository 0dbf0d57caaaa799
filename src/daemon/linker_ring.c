/*
 * Theory of operation: an application that has the library. Its lane is in shared memory, and its peer there is this process: we stand to the
 * porter as a library does, on a connection that the broker has lent us (docs/design/link.md, "Lanes of the library").
 *
 *   ours to another host   the connection holds a CTL_OFFER, which is not read before the far host has said OPENED: until then it can be handed
 *                          back. Then we map the library's region, make ours and say CTL_ACCEPT on the leash (ring_accept()).
 *   a peer's               we make our region and say CTL_CONNECT (ring_connect(), JOINING); CTL_OPEN brings the library's region and a bell,
 *                          CTL_ERROR says why not. The connection is the leash from then on.
 *
 * Nothing here waits. A ring that is empty is watched (WATCHED_MAX of them): looked at once a turn, as long as there is work or the loop spins. Before it
 * sleeps the library is told to ring the bell, which lies in the epoll set, and the ring looked at once more (shm/wake.h). Where there is no room the library
 * is told at once. Everything that came in one batch is published at once. So a library rings only for a linker that sleeps, and under load there is
 * no system call for a record.
 *
 * From the library: each record's descriptor is loaded once, and the record is then a frame, or several with MORE; its bytes are copied straight to where
 * they are encrypted from. A piece is never smaller than it has to be because credit is short, as a call's first piece holds its head: so
 * it waits for credit for all of it, and that always comes (piece_max()). With a limit on bytes it goes whole too, and what it was too much is owed
 * (llane_spend()). To the library: a frame is a record, or several where the ring is small; its bytes are copied from the plaintext into the ring.
 *
 * Trust: whatever the library's region holds is hostile. shm/ring.h checks positions; record_fault() what another host would not take from us:
 * a container must not be able to end its session, on which lanes of others are. A fault ends the lane and is logged.
 *
 * Memory: what the library may send ahead lies in its region, and is its container's; ours is this process's. Ours is as large as the library's at
 * most, and smaller where there are many (cap_log2_of()). No workload's lanes have more of it than is left for all others.
 *
 * On a byte's way before and after this: linker_lane.c.
 */
#include "daemon/linker_int.h"

#include "wire/control.h"

#include <sys/epoll.h>

enum {
	/* 128 KiB, a batch. Twice as much was no faster (linker-speed lib-stream 65536, lib-small 64 and 4096); half was a tenth slower. */
	CAP_LOG2_MAX = 17,
	/* A new region takes at most this part of what is left: with libraries that ask for nothing smaller there is room for 13,000 lanes, 7,000 of one workload. */
	REST_SHARE = 2048,
	/* A look is a cache line, most often somebody else's; those beyond ring at once. */
	WATCHED_MAX = 64,
};

struct lring {
	struct region own, peer;
	struct ring_tx tx;
	struct ring_rx rx;
	int leash; /* owned; the porter holds the other end: as long as it is open the lane is. -1: none yet */

	/* From the library. */
	struct ring_record record; /* that is being taken; looked at once */
	uint32_t taken;		   /* of it */
	bool has_record;
	bool in_message;	   /* the one before had RING_MORE, and this tag */
	uint8_t tag;
	bool rx_armed, tx_armed;   /* the library was told that we wait for the bell */

	/* To the library: the frame of which a part is written. */
	bool in_frame;
	uint32_t frame_left;
	uint8_t frame_flags;
};

/* Making and unmaking. */

/* What @wid's lanes may still take: no workload has more than is left for all others, as with lanes (broker_share.c). */
static uint64_t rings_left(const struct linker *k, uint32_t wid)
{
	uint64_t left = k->rings_max - k->rings_size, own = k->rings_of[wid];

	return own < left ? left - own : 0;
}

static uint32_t cap_log2_of(const struct linker *k, uint32_t wid, uint32_t theirs)
{
	uint32_t cap_log2 = theirs < CAP_LOG2_MAX ? theirs : CAP_LOG2_MAX;

	while (cap_log2 > SHM_CAP_LOG2_MIN && shm_region_size(cap_log2) > rings_left(k, wid) / REST_SHARE)
		cap_log2--;
	return cap_log2;
}

/* @theirs: the library's ring. *ret_fd: our region's. Return: 0; -EDQUOT; other negative errno. */
static int ring_new(struct linker *k, struct llane *l, uint32_t theirs, int *ret_fd)
{
	uint32_t cap_log2 = cap_log2_of(k, l->wid, theirs);
	AUTO_FREE(struct lring) r = NULL;
	int error;

	if (shm_region_size(cap_log2) > rings_left(k, l->wid))
		return -EDQUOT;
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->leash = -1;
	error = region_create(&r->own, ret_fd, cap_log2, 0);
	if (error < 0)
		return error;
	k->rings_size += r->own.size;
	k->rings_of[l->wid] += r->own.size;
	k->n_ring_fds++;
	l->ring = take_ptr(r);
	return 0;
}

static void unwatch(struct linker *k, struct llane *l)
{
	if (!l->in_watched)
		return;
	TAILQ_REMOVE(&k->watched, l, watched);
	l->in_watched = false;
	k->n_watched--;
}

void ring_close(struct linker *k, struct llane *l)
{
	struct lring *r = l->ring;

	if (!r)
		return;
	unwatch(k, l);
	/* A sender that does not look at the bell learns it from that. */
	atomic_store_explicit(&r->own.base->read_shut, 1, memory_order_release);
	k->rings_size -= r->own.size;
	k->rings_of[l->wid] -= r->own.size;
	k->n_ring_fds--;
	region_unmap(&r->own);
	region_unmap(&r->peer);
	if (r->leash >= 0)
		shutdown(r->leash, SHUT_RDWR); /* the broker may hold the same open file for a moment */
	fd_cleanup(&r->leash);
	free(r);
	l->ring = NULL;
}

void ring_tell_why(const struct llane *l)
{
	struct control_msg m = { .type = CTL_CUT, .version = CONTROL_VERSION };

	m.u.error.error = l->end == LANE_END_CUT ? -ECANCELED : -ECONNABORTED;
	if (control_send(l->ring->leash, &m, NULL) < 0)
		return; /* the porter has gone, or has cut it itself */
}

/* l->ring has our region; now it gets the library's, and epoll the bell for what was lent. Taken from @bell. Return: 0 or negative errno. */
static int ring_join(struct linker *k, struct llane *l, const struct control_lane *peer, int region_fd, int *bell)
{
	struct lring *r = l->ring;
	int error = peer->kind + 1 == l->kind ? region_map_again(&r->peer, region_fd, peer->cap_log2) : -EBADMSG;

	if (error == 0) {
		linker_refuse_fds(k, *bell);
		error = linker_epoll(k, EPOLL_CTL_ADD, *bell, EPOLLIN | EPOLLRDHUP | EPOLLET, linker_ref(LINKER_EVENT_LANE, llane_cid(k, l)));
	}
	if (error < 0)
		return error;
	(void)!linker_epoll(k, EPOLL_CTL_DEL, l->fd, 0, 0);
	if (r->leash < 0)
		r->leash = take_fd(&l->fd);
	else
		close(take_fd(&l->fd));
	l->fd = take_fd(bell);
	ring_tx_init(&r->tx, r->own.base, r->peer.base, r->own.cap_log2, 0);
	ring_rx_init(&r->rx, r->own.base, r->peer.base, r->peer.cap_log2, 0);
	r->tx.peer_sleeps = r->rx.peer_sleeps = !(peer->flags & CONTROL_SPINS);
	l->app = &app_ring;
	l->ready = true;
	return 0;
}

static void close_fds(int fds[CONTROL_FDS])
{
	for (size_t i = 0; i < CONTROL_FDS; i++)
		fd_cleanup(&fds[i]);
}

static int take_offer(struct linker *k, struct llane *l, const struct control_lane *offer, int fds[CONTROL_FDS])
{
	struct control_msg answer = { .type = CTL_ACCEPT, .version = CONTROL_VERSION, .u.lane.kind = offer->kind };
	AUTO_FD own_fd = -1;
	int r = ring_new(k, l, offer->cap_log2, &own_fd);

	if (r < 0)
		return r;
	l->ring->leash = take_fd(&fds[2]);
	r = ring_join(k, l, offer, fds[0], &fds[1]);
	if (r < 0)
		return r;
	answer.u.lane.cap_log2 = l->ring->own.cap_log2;
	return control_send(l->ring->leash, &answer, &own_fd);
}

int ring_accept(struct linker *k, struct llane *l)
{
	int fds[CONTROL_FDS], r;
	struct control_msg m;

	r = control_recv(l->fd, &m, fds);
	if (r != 1)
		return r < 0 ? r : -ECONNRESET;
	r = m.type == CTL_OFFER ? take_offer(k, l, &m.u.lane, fds) : -EBADMSG;
	close_fds(fds);
	return r;
}

int ring_watch_lent(struct linker *k, struct llane *l)
{
	l->app = &app_lent;
	return linker_epoll(k, EPOLL_CTL_ADD, l->fd, EPOLLIN | EPOLLRDHUP | EPOLLET, linker_ref(LINKER_EVENT_LANE, llane_cid(k, l)));
}

int ring_connect(struct linker *k, struct llane *l)
{
	struct control_msg m = { .type = CTL_CONNECT, .version = CONTROL_VERSION, .u.ask.kind = l->kind - 1u };
	AUTO_FD own_fd = -1;
	int r = ring_new(k, l, SHM_CAP_LOG2_MAX, &own_fd); /* how large the listener's is is not known yet */

	if (r == 0)
		r = ring_watch_lent(k, l);
	if (r < 0)
		return r;
	m.u.ask.cap_log2 = l->ring->own.cap_log2;
	return control_send(l->fd, &m, &own_fd);
}

/* What was lent. */

static enum link_code code_of(int error)
{
	switch (error) {
	case -EDQUOT:
		return LINK_LIMIT;
	case -ECONNREFUSED:
	case -ETIMEDOUT:
	case -EAGAIN:
		return LINK_DOWN;
	default:
		return LINK_FAILED;
	}
}

/* JOINING: the porter's answer. */
static void lent_answer(struct linker *k, struct llane *l)
{
	int fds[CONTROL_FDS], r;
	struct control_msg m;

	r = control_recv(l->fd, &m, fds);
	if (r == -EAGAIN || r == -EINTR)
		return;
	if (r == 1 && m.type == CTL_OPEN)
		r = ring_join(k, l, &m.u.lane, fds[0], &fds[1]);
	else if (r == 1 && m.type == CTL_ERROR)
		r = m.u.error.error < 0 ? m.u.error.error : -EBADMSG;
	else
		r = r == 1 ? -EBADMSG : r == 0 ? -ECONNRESET : r;
	close_fds(fds);
	llane_joined(k, l, r, code_of(r));
}

static bool lent_event(struct linker *k, struct llane *l, uint32_t events)
{
	bool left = events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);

	if (l->state == LANE_JOINING)
		lent_answer(k, l);
	else if (left && l->state == LANE_WAITING)
		llane_fail(k, l, LINK_PEER, "the client left", false);
	else if (left)
		llane_end(k, l, llane_here(l), -ECONNRESET, LINK_PEER);
	return false; /* an offer that waits is not read before its time */
}

const struct app_ops app_lent = { .event = lent_event };

/* From the library. */

static void ring_fault(struct linker *k, struct llane *l, const char *why)
{
	l->fault = why;
	l->ready = false;
	llane_break(k, l, -EPROTO);
}

/* What ring.h lets pass, and the other host would not, or no library says. */
static const char *record_fault(const struct llane *l, const struct ring_record *c)
{
	const struct lring *r = l->ring;

	if (c->flags & RING_FIN)
		return NULL;
	if (l->kind == LINK_STREAM)
		return c->flags || c->tag || c->size == 0 ? "a record that no stream has" : NULL;
	if (c->tag > FRAME_TAG_MAX)
		return "a record with a tag that no library uses";
	if (c->flags & RING_MORE && c->size == 0)
		return "an empty piece of a message";
	if (r->in_message && c->tag != r->tag)
		return "a message whose pieces have different tags";
	return NULL;
}

/* Something has come into its ring. */
static void ring_ready(struct linker *k, struct llane *l)
{
	unwatch(k, l);
	l->ready = true;
	k->spin.carried++;
	llane_offer(k, l);
}

/* Its library is to ring from now on. Return: false: something has come instead. */
static bool ring_sleep(struct linker *k, struct llane *l)
{
	struct lring *r = l->ring;
	uint32_t seq;

	r->rx_armed = ring_rx_sleep(&r->rx, RING_ON_BELL, &seq) == RING_E_EMPTY;
	if (r->rx_armed)
		unwatch(k, l);
	else
		ring_ready(k, l);
	return r->rx_armed;
}

static void watch(struct linker *k, struct llane *l)
{
	if (l->in_watched)
		return;
	if (k->n_watched == WATCHED_MAX)
		(void)!ring_sleep(k, TAILQ_FIRST(&k->watched));
	l->in_watched = true;
	k->n_watched++;
	TAILQ_INSERT_TAIL(&k->watched, l, watched);
}

/* Return: 0: r->record; RING_E_EMPTY: there is none, and the ring is watched; -EPROTO. */
static int next_record(struct linker *k, struct llane *l)
{
	struct lring *r = l->ring;
	int e;

	if (r->has_record)
		return 0;
	e = ring_rx_peek(&r->rx, &r->record);
	if (e == RING_E_EMPTY) {
		ring_wake_space(&r->rx, ring_rx_check_producer(&r->rx), l->fd);
		watch(k, l);
		return e;
	}
	r->has_record = e == 0;
	r->taken = 0;
	unwatch(k, l);
	return e;
}

bool rings_look(struct linker *k, bool sleeps)
{
	struct llane *l, *next;
	bool any = false;

	for (l = TAILQ_FIRST(&k->watched); l; l = next) {
		struct ring_record record;

		next = TAILQ_NEXT(l, watched);
		if (sleeps) {
			any |= !ring_sleep(k, l);
		} else if (ring_rx_look(&l->ring->rx, &record, memory_order_acquire) != RING_E_EMPTY) {
			ring_ready(k, l);
			any = true;
		}
	}
	return any;
}

/* With more credit than half a window a sender never waits for ever: the far side gives back what it has when that is half a window. */
static uint32_t piece_max(const struct llane *l)
{
	uint32_t n = l->session->peer_window / 2 - FRAME_HEADER_SIZE;

	return n < FRAME_PAYLOAD_MAX ? n : FRAME_PAYLOAD_MAX;
}

static void record_done(struct llane *l)
{
	struct lring *r = l->ring;

	r->has_record = false;
	r->in_message = r->record.flags & RING_MORE;
	r->tag = r->record.tag;
	ring_wake_space(&r->rx, ring_rx_release(&r->rx), l->fd);
}

/* @n bytes of the record as a frame. Return: its size. */
static size_t put_frame(struct llane *l, uint8_t *to, uint32_t n)
{
	struct lring *r = l->ring;
	bool more = r->record.size - r->taken > n || r->record.flags & RING_MORE;

	frame_put_header(to, l->number, FRAME_DATA, l->kind == LINK_MESSAGES ? frame_data_flags(more, r->record.tag) : 0, n);
	memcpy(to + FRAME_HEADER_SIZE, (const uint8_t *)r->record.data + r->taken, n);
	r->taken += n;
	if (r->taken == r->record.size)
		record_done(l);
	l->bytes_out += n;
	l->reads_out++;
	return FRAME_HEADER_SIZE + n;
}

/* As many frames as fit into @room and @max. *ret: their bytes. Return: 0; 1: there is no more, and never will be; -EPROTO. */
static int put_frames(struct linker *k, struct llane *l, uint8_t *to, size_t room, size_t max, size_t *ret)
{
	struct lring *r = l->ring;
	uint32_t most = piece_max(l);
	int e;

	*ret = 0;
	while ((e = next_record(k, l)) == 0) {
		uint32_t left = r->record.size - r->taken, n = left < most ? left : most;

		l->fault = record_fault(l, &r->record);
		if (l->fault)
			return -EPROTO;
		if (FRAME_HEADER_SIZE + n > room - *ret)
			return 0;
		if (r->record.flags & RING_FIN)
			return 1;
		if (FRAME_HEADER_SIZE + n > max - *ret) {
			l->wants = FRAME_HEADER_SIZE + n;
			return 0;
		}
		*ret += put_frame(l, to + *ret, n);
	}
	if (e != RING_E_EMPTY)
		return e;
	l->ready = l->closing && room - *ret < FRAME_HEADER_SIZE; /* no room for FIN */
	return l->closing && !l->ready;
}

static size_t ring_take(struct linker *k, struct llane *l, uint8_t *to, size_t n_frames, size_t max)
{
	size_t at;
	int e;

	l->wants = 1;
	e = put_frames(k, l, to, n_frames * FRAME_SIZE_MAX, max, &at);
	flow_sent(&l->flow, (uint32_t)at);
	llane_spend(k, l, at);
	if (e == 1)
		return at + llane_finish(k, l, to + at);
	if (e < 0) {
		ring_fault(k, l, l->fault ? l->fault : "a descriptor that cannot be");
		llane_check(k, l);
	}
	return at;
}

/* To the library. */

/* Over what is to be written: bytes of our own process, whose form frame_parse() has checked. */
struct parts {
	const struct iovec *iov;
	size_t at, left; /* in the first; in all */
};

static void parts_copy(struct parts *p, uint8_t *to, size_t n)
{
	assert(n <= p->left);
	p->left -= n;
	while (n > 0) {
		size_t here = p->iov->iov_len - p->at, m = n < here ? n : here;

		memcpy(to, (const uint8_t *)p->iov->iov_base + p->at, m);
		to += m;
		n -= m;
		p->at += m;
		if (p->at == p->iov->iov_len) {
			p->iov++;
			p->at = 0;
		}
	}
}

static void ring_publish(struct llane *l)
{
	struct lring *r = l->ring;

	ring_wake_data(&r->tx, ring_tx_publish(&r->tx), l->fd);
}

/* Return: 0; RING_E_FULL: and the library knows that we wait for the bell; -EPROTO. */
static int ring_room(struct llane *l, uint32_t size, void **ret)
{
	struct lring *r = l->ring;
	uint32_t seq;
	int e = ring_tx_reserve(&r->tx, size, ret);

	if (e != RING_E_FULL)
		return e;
	ring_publish(l); /* what nobody sees nobody makes room behind */
	e = ring_tx_sleep(&r->tx, size, RING_ON_BELL, &seq);
	r->tx_armed = e == RING_E_FULL;
	return e == 0 ? ring_tx_reserve(&r->tx, size, ret) : e;
}

/* Return: 0: a record was staged; RING_E_FULL; -EPROTO; -EAGAIN: the rest is not all of one. */
static int put_record(struct llane *l, struct parts *p)
{
	struct lring *r = l->ring;
	uint32_t max = ring_record_max(r->tx.cap), size = r->frame_left, n;
	uint8_t flags = r->frame_flags, header[FRAME_HEADER_SIZE];
	struct parts after = *p;
	void *place;
	int e;

	if (!r->in_frame) {
		if (p->left < sizeof(header))
			return -EAGAIN;
		parts_copy(&after, header, sizeof(header));
		size = frame_data_size(header);
		flags = frame_data_flags_of(header);
	}
	n = size < max ? size : max;
	if (after.left < n)
		return -EAGAIN;
	e = ring_room(l, n, &place);
	if (e != 0)
		return e;
	parts_copy(&after, place, n);
	*p = after;
	r->frame_left = size - n;
	r->frame_flags = flags;
	r->in_frame = r->frame_left > 0;
	if (l->kind == LINK_STREAM)
		ring_tx_stage(&r->tx, n, 0, 0);
	else
		ring_tx_stage(&r->tx, n, r->in_frame || flags & FRAME_MORE ? RING_MORE : 0, frame_tag(flags));
	return 0;
}

static size_t ring_give(struct linker *k, struct llane *l, struct iovec *iov, size_t n_iov, size_t size)
{
	struct lring *r = l->ring;
	struct parts p = { .iov = iov, .left = size };
	int e = 0;

	if (atomic_load_explicit(&r->tx.peer->read_shut, memory_order_relaxed)) {
		llane_break(k, l, -EPIPE);
		return 0;
	}
	while (p.left > 0 && e == 0)
		e = put_record(l, &p);
	ring_publish(l);
	l->blocked = e == RING_E_FULL;
	llane_spend(k, l, size - p.left);
	if (e == -EPROTO)
		ring_fault(k, l, "its head is not where it can be");
	return size - p.left;
}

static void ring_arm(struct linker *k, struct llane *l)
{
	/* ring_room() has, where it found none. */
}

/* It hung up. Because the porter told it that the broker has cut the lane? Then BL_CUT may be slower. */
static bool was_cut(const struct llane *l)
{
	int fds[CONTROL_FDS], r;
	struct control_msg m;

	r = control_recv(l->ring->leash, &m, fds);
	if (r != 1)
		return false;
	close_fds(fds);
	return m.type == CTL_CUT;
}

static bool ring_event(struct linker *k, struct llane *l, uint32_t events)
{
	struct lring *r = l->ring;

	if (events == 0)
		return true;
	if (!ring_drain_bell(l->fd) || events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		l->closing = true;
	if (r->rx_armed)
		ring_rx_awake(&r->rx);
	if (r->tx_armed)
		ring_tx_awake(&r->tx);
	r->rx_armed = r->tx_armed = l->blocked = false;
	l->ready = !l->fault;
	if (l->closing && was_cut(l)) {
		llane_end(k, l, LANE_END_CUT, 0, LINK_CUT);
		return false;
	}
	if (l->closing)
		llane_break(k, l, -EPIPE); /* what it published before is taken all the same */
	return true;
}

static void ring_shut(struct llane *l)
{
	ring_tx_stage_fin(&l->ring->tx);
	ring_publish(l);
}

static void ring_deafen(struct llane *l)
{
	atomic_store_explicit(&l->ring->own.base->read_shut, 1, memory_order_release);
	ring_wake_space(&l->ring->rx, RING_ON_BELL, l->fd); /* whoever waits for room in an event loop */
}

const struct app_ops app_ring = {
	.take = ring_take, .give = ring_give, .arm = ring_arm, .event = ring_event, .shut = ring_shut, .deafen = ring_deafen,
};
