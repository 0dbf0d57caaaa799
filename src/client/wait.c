/*
 * Theory of operation: a side of a lane that can not go on looks again for a while (spins), then sleeps on the futex in the
 * peer's region, then on the bell.
 *
 * Spinning pays as long as the peer answers within some microseconds; a wake-up between two cores costs 15 to 60 us, whatever
 * wakes. Whether it pays is learnt for each direction: an average of "something came while we spun". While it does not, it
 * is tried once in SPIN_TRY_EVERY sleeps, so a lane whose peer is slow, or runs on our own core, costs next to nothing.
 * A receiver that has caught up with a steady stream lets the sender get ahead before it looks again (rest()).
 *
 * On a lane to another host the peer is a linker, which has work to do for us before anything can come, and may be on our own core: so there others are
 * let run between two looks, as the linker itself does (base/spin.h). On a core that has other work too a look can be milliseconds after
 * the one before; so while that does not pay it is tried more rarely still (LINK_TRY_EVERY), and not at all before the lane has shown that it is
 * used for more than a question (LANE_LINK_WAITS_FIRST).
 *
 * The futex is the cheapest sleep but does not tell of the peer's death, nor of a cut; so a sleep on it lasts at most RING_FUTEX_NS.
 * The receiver then sleeps on the bell and the leash, without a limit: a lane that nobody uses costs no CPU. A sender that waits
 * for room goes on with slices on the futex, since the bell has one reader, the receiver: it could swallow the sender's.
 *
 * In an event loop (sealane_fd()) nobody sleeps here: -EAGAIN leaves the direction armed, that is, the peer knows that we sleep on
 * the bell. There one thread does both directions; whoever swallows the bell looks whether the other direction can go on, and if
 * so keeps the descriptor readable by an eventfd of our own.
 *
 * Before it: lane.c. After it: shm/wake.c.
 */
#include "client/lane.h"

#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum {
	/* Two wake-ups on a virtual machine: within that, spinning is cheaper than sleeping for both sides. */
	SPIN_NS = 60 * 1000,
	SPIN_TRY_EVERY = 64,
	LINK_TRY_EVERY = 512,
	SPIN_PAYS = LANE_SPIN_ONE / 8,
	/* Looks at the ring between two looks at the clock; the first few come cheap. */
	LOOKS_PER_CLOCK = 64,
	/*
	 * When to rest(): after so many records, so many for each wait, none of which was more than so many looks in coming. A burst of
	 * fewer, and a peer that answers one message at a time, are met as soon as they come. Measured, 64 bytes published one by one
	 * between two cores of an Intel server, the ring alone, medians of 12: no rest 35 M/s, 0.2 us 47, 0.9 us 64, 2.2 us 94.
	 */
	STEADY_PER_WAIT = 2,
	STEADY_RECORDS_MAX = 256, /* then a mistake costs a microsecond in 256 records */
	SOON_LOOKS = 16,
	REST_NS = 1000,
	REST_STEP_NS = 500,
	REST_STEP_RECORDS = 4, /* fewer in a step: it stops when we do, as one does that has a bound on what is unanswered */
	/* How often one who only spins looks whether the peer is still there. */
	SPIN_ALIVE_NS = 1000 * 1000,
	/* How often one who never waits long looks at the leash. */
	LOOK_NS = 10 * 1000 * 1000,
	/* How long to wait for what the daemon has to say of a peer that is gone: the time that a busy machine keeps it from saying so. */
	CUT_WORD_NS = 20 * 1000 * 1000,
	/*
	 * Who waited for room is told with that many -EAGAIN of the other direction: not with one, since the loop may receive again
	 * before it polls; not for ever, since it may not want to send any more, and would spin.
	 */
	TELLS = 8,
};

static int end_lane(struct sealane_lane *lane, int error)
{
	int none = 0;

	/* The first reason stands. */
	atomic_compare_exchange_strong(&lane->ended, &none, error);
	return atomic_load(&lane->ended);
}

/* What the daemon says on the leash; anything but a cut is its absence. */
static int read_leash(struct sealane_lane *lane)
{
	struct control_msg m;
	int fds[CONTROL_FDS], r = control_recv(lane->leash, &m, fds);

	if (r == -EAGAIN || r == -EINTR)
		return 0;
	for (size_t i = 0; r > 0 && i < CONTROL_FDS; i++)
		fd_cleanup(&fds[i]);
	if (r > 0 && m.type == CTL_CUT) {
		lane_fail(-SEALANE_E_CUT, "the lane to %s was cut: %s", lane->identity.service, m.u.error.why);
		return end_lane(lane, -SEALANE_E_CUT);
	}
	atomic_store(&lane->leash_gone, true);
	if (lane->epoll_fd >= 0) /* it would be readable for ever */
		epoll_ctl(lane->epoll_fd, EPOLL_CTL_DEL, lane->leash, NULL);
	return 0;
}

/*
 * Sleeps on bell and leash for at most @timeout_ns (UINT64_MAX: for ever; 0: only looks).
 * Return: 0, or why the lane is over.
 */
static int look_around(struct sealane_lane *lane, uint64_t timeout_ns)
{
	struct timespec ts = { .tv_sec = (time_t)(timeout_ns / 1000000000u), .tv_nsec = (long)(timeout_ns % 1000000000u) };
	struct pollfd p[2] = {
		{ .fd = atomic_load(&lane->peer_gone) ? -1 : lane->bell, .events = POLLIN | POLLRDHUP },
		{ .fd = atomic_load(&lane->leash_gone) ? -1 : lane->leash, .events = POLLIN },
	};

	if (ppoll(p, 2, timeout_ns == UINT64_MAX ? NULL : &ts, NULL) <= 0)
		return 0;
	if (p[0].revents & (POLLHUP | POLLRDHUP | POLLERR | POLLNVAL))
		atomic_store(&lane->peer_gone, true);
	return p[1].revents ? read_leash(lane) : 0;
}

/* A fast direction comes here every LANE_WATCH_RECORDS records for a look at the clock, one slower than LOOK_NS with each. */
void lane_look(struct sealane_lane *lane, struct lane_watch *w)
{
	uint64_t now = clock_ns();

	w->n = w->n * 2 < LANE_WATCH_RECORDS ? w->n * 2 : LANE_WATCH_RECORDS;
	if (now - w->looked_ns >= LOOK_NS) {
		w->looked_ns = now;
		w->n = 1;
		(void)!look_around(lane, 0); /* sets lane->ended */
	}
	w->left = w->n;
}

/*
 * On one host a hang-up is the peer's, and what it published is here. Across hosts the peer's end, also its death, comes as a RING_FIN; a hang-up without
 * one is a link or a daemon that went, and nobody knows what was under way.
 */
static bool is_torn(struct sealane_lane *lane)
{
	return lane->is_link && atomic_load(&lane->peer_gone) && !ring_rx_has_fin(&lane->rx, lane->start);
}

int lane_sent_all(const struct sealane_lane *lane)
{
	return lane_fail(-ENODATA, "the peer %s has sent all it had to send", lane->identity.service);
}

int lane_over(struct sealane_lane *lane, int error)
{
	int r = look_around(lane, 0);
	bool torn = is_torn(lane);

	/*
	 * Both ends are told of a cut one after the other, so a peer that is quick may have gone before the word reaches us. Whoever
	 * leaves without a FIN is told of on the leash in any case, by the daemon that is there: wait for that, a little.
	 */
	if (r == 0 && (error == -EPIPE || torn) && atomic_load(&lane->peer_gone) && lane->leash >= 0 && !atomic_load(&lane->leash_gone) &&
	    !atomic_load(&lane->ended))
		r = look_around(lane, CUT_WORD_NS);
	if (r == 0)
		r = atomic_load(&lane->ended);
	if (r < 0)
		return r;
	if (torn)
		return lane_fail(-SEALANE_E_CUT, "the lane to %s broke: the link to the other host, or a daemon, went before the peer had said that it was at "
						 "its end; connect again, and ask what has arrived", lane->identity.service);
	return error == -EPIPE ? lane_fail(error, "the peer %s reads no more", lane->identity.service) : lane_sent_all(lane);
}

static bool spin_pays(const struct sealane_lane *lane, struct lane_spin *s)
{
	uint32_t every = lane->is_link ? LINK_TRY_EVERY : SPIN_TRY_EVERY;

	if (s->waits_first > 0) {
		s->waits_first--;
		return false;
	}
	if (s->pays >= SPIN_PAYS || ++s->skipped >= every) {
		s->skipped = 0;
		return true;
	}
	return false;
}

static void spin_learn(struct lane_spin *s, bool hit)
{
	s->pays = hit ? s->pays + (LANE_SPIN_ONE - s->pays) / 8 : s->pays - s->pays / 8;
}

static bool can_receive(struct sealane_lane *lane)
{
	struct ring_record record;

	return ring_rx_peek(&lane->rx, &record) != RING_E_EMPTY;
}

static bool is_read_shut(const struct sealane_lane *lane)
{
	return atomic_load_explicit(&lane->tx.peer->read_shut, memory_order_relaxed) != 0;
}

static bool can_send(struct sealane_lane *lane, uint32_t size)
{
	void *place;

	return ring_tx_reserve(&lane->tx, size, &place) != RING_E_FULL || is_read_shut(lane);
}

/* What a direction waits for. */
struct want {
	bool data;
	uint32_t size; /* room */
};

static bool has(struct sealane_lane *lane, const struct want *w)
{
	return w->data ? can_receive(lane) : can_send(lane, w->size);
}

/* The producer may sleep for room that only we can tell it of. */
static void tell_producer(struct sealane_lane *lane)
{
	ring_wake_space(&lane->rx, ring_rx_check_producer(&lane->rx), lane->bell);
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void unsteady(struct sealane_lane *lane)
{
	lane->rx_spin.steady_from = lane->rx.index;
	lane->rx_spin.n_waits = 0;
}

/* Before each wait. */
static bool is_steady(struct sealane_lane *lane)
{
	struct lane_spin *s = &lane->rx_spin;
	uint64_t n_records = lane->rx.index - s->steady_from;

	s->n_waits++;
	if (n_records < s->steady_least)
		return false;
	if (n_records >= s->n_waits * STEADY_PER_WAIT)
		return true;
	unsteady(lane);
	return false;
}

/*
 * The peer sends without a break, and we are faster. Whoever reads right behind the writer takes from it, again and again, the lines
 * that it is about to write, and both go at the pace of that; so let it get ahead. At most REST_NS later for a message, and only
 * while it goes on: how much came is what the peer says of itself, which is as good as a hint need be.
 */
static void rest(struct sealane_lane *lane)
{
	struct lane_spin *s = &lane->rx_spin;
	uint64_t began = clock_ns(), n_before, n = ring_rx_n_published(&lane->rx);

	for (uint64_t step = REST_STEP_NS; step <= REST_NS; step += REST_STEP_NS) {
		while (clock_ns() - began < step)
			ring_pause();
		n_before = n;
		n = ring_rx_n_published(&lane->rx);
		if (n - n_before < REST_STEP_RECORDS) {
			s->steady_least = min_u64(s->steady_least * 2, STEADY_RECORDS_MAX);
			unsteady(lane);
			return;
		}
	}
	s->steady_least = LANE_STEADY_RECORDS;
}

/* As often as goes between two looks at the clock. Return: it came. */
static bool look_often(struct sealane_lane *lane, const struct want *w)
{
	if (lane->is_link) {
		sched_yield();
		return has(lane, w);
	}
	for (int i = 0; i < LOOKS_PER_CLOCK; i++) {
		if (has(lane, w))
			return true;
		if (w->data && i == SOON_LOOKS)
			unsteady(lane);
		ring_pause();
	}
	return false;
}

/* Return: it came. One who only spins also looks for the peer's death now and then. */
static bool spin(struct sealane_lane *lane, const struct want *w, uint64_t until_ns)
{
	uint64_t alive_ns = 0, now;

	for (;;) {
		if (look_often(lane, w))
			return true;
		now = clock_ns();
		if (now >= until_ns)
			return false;
		if (alive_ns == 0)
			alive_ns = now + SPIN_ALIVE_NS;
		if (now < alive_ns)
			continue;
		if (look_around(lane, 0) < 0 || atomic_load(&lane->peer_gone))
			return has(lane, w);
		alive_ns = now + SPIN_ALIVE_NS;
	}
}

/* One sleep on the futex. */
static void sleep_short(struct sealane_lane *lane, const struct want *w, uint64_t ns)
{
	uint32_t seq;

	if (w->data) {
		if (ring_rx_sleep(&lane->rx, RING_ON_FUTEX, &seq) != RING_E_EMPTY)
			return;
		ring_wait_futex(&lane->rx.peer->data_seq, seq, ns);
		ring_rx_awake(&lane->rx);
		return;
	}
	if (ring_tx_sleep(&lane->tx, w->size, RING_ON_FUTEX, &seq) != RING_E_FULL)
		return;
	ring_wait_futex(&lane->tx.peer->space_seq, seq, ns);
	ring_tx_awake(&lane->tx);
}

static int sleep_long(struct sealane_lane *lane, uint64_t ns)
{
	uint32_t seq;
	int r;

	if (ring_rx_sleep(&lane->rx, RING_ON_BELL, &seq) != RING_E_EMPTY)
		return 0;
	r = look_around(lane, ns);
	ring_rx_awake(&lane->rx);
	if (!ring_drain_bell(lane->bell))
		atomic_store(&lane->peer_gone, true);
	return r;
}

/* Sleeps until something may have changed. */
static int sleep_once(struct sealane_lane *lane, const struct want *w, uint64_t deadline_ns, unsigned n_slept)
{
	uint64_t now = clock_ns(), left = deadline_ns == UINT64_MAX ? UINT64_MAX : deadline_ns > now ? deadline_ns - now : 0;

	if (w->data && n_slept > 0)
		return sleep_long(lane, left);
	sleep_short(lane, w, min_u64(left, RING_FUTEX_NS));
	return has(lane, w) ? 0 : look_around(lane, 0);
}

static int wait_until(struct sealane_lane *lane, const struct want *w, struct lane_spin *s, uint64_t deadline_ns)
{
	bool only_spins = lane->wait == SEALANE_WAIT_SPIN;

	if (w->data)
		tell_producer(lane);
	if (only_spins || (lane->wait == SEALANE_WAIT_ADAPTIVE && lane->may_spin && spin_pays(lane, s))) {
		bool hit;

		if (w->data && !lane->is_link && is_steady(lane))
			rest(lane);
		hit = spin(lane, w, only_spins ? deadline_ns : min_u64(deadline_ns, clock_ns() + SPIN_NS));
		spin_learn(s, hit);
		if (hit)
			return 0;
	}
	for (unsigned n_slept = 0;; n_slept++) {
		int r = atomic_load(&lane->ended);

		if (has(lane, w))
			return 0;
		if (r < 0)
			return r;
		if (atomic_load(&lane->peer_gone))
			return has(lane, w) ? 0 : lane_over(lane, w->data ? -ENODATA : -EPIPE); /* what it published was visible before */
		if (deadline_ns != UINT64_MAX && clock_ns() >= deadline_ns)
			return -ETIMEDOUT;
		r = only_spins ? 0 : sleep_once(lane, w, deadline_ns, n_slept);
		if (w->data ? lane->rx_armed : lane->tx_armed)
			lane_kick(lane); /* it was armed for sealane_fd(), and is not any more: the next -EAGAIN does that */
		if (r < 0)
			return r;
	}
}

static void kick(struct sealane_lane *lane, bool on)
{
	uint64_t one = 1;

	if (lane->kicked == on)
		return;
	lane->kicked = on;
	if (on ? write(lane->kick_fd, &one, sizeof(one)) < 0 : read(lane->kick_fd, &one, sizeof(one)) < 0)
		return; /* EAGAIN: it is as it should be */
}

void lane_kick(struct sealane_lane *lane)
{
	if (lane->epoll_fd >= 0)
		kick(lane, true);
}

/* Both directions share one bell: after one of them swallowed it, the other must not wait for what already came. */
static void swallow_bell(struct sealane_lane *lane)
{
	kick(lane, false);
	if (!ring_drain_bell(lane->bell))
		atomic_store(&lane->peer_gone, true);
}

static void disarm_rx(struct sealane_lane *lane)
{
	uint32_t seq;

	if (lane->epoll_fd < 0)
		return;
	if (lane->rx_armed)
		ring_rx_awake(&lane->rx);
	lane->rx_armed = lane->rx_unseen = false;
	swallow_bell(lane);
	/* As another sleep: the peer rings once for each, and what was swallowed may have been that, for less room than is wanted. */
	if (lane->tx_armed && (ring_tx_sleep(&lane->tx, lane->tx_armed_size, RING_ON_BELL, &seq) != RING_E_FULL || is_read_shut(lane))) {
		lane->tx_armed = false;
		ring_tx_awake(&lane->tx);
		lane->tx_unseen = TELLS;
	}
	if (lane->tx_unseen > 0)
		kick(lane, true);
}

static void disarm_tx(struct sealane_lane *lane)
{
	uint32_t seq;

	if (lane->epoll_fd < 0)
		return;
	if (lane->tx_armed)
		ring_tx_awake(&lane->tx);
	lane->tx_armed = false;
	lane->tx_unseen = 0;
	swallow_bell(lane);
	tell_producer(lane); /* who received less than there was has told nobody yet */
	/* As in disarm_rx(): what rang may have been received already, without the -EAGAIN that arms anew; or there never was one. */
	lane->rx_armed = lane->rx_armed || lane->rx.head > 0;
	if (lane->rx_unseen || (lane->rx_armed && ring_rx_sleep(&lane->rx, RING_ON_BELL, &seq) != RING_E_EMPTY))
		kick(lane, true);
}

/* The call that would wait may not. In an event loop the bell will say when to try again. */
static int give_back(struct sealane_lane *lane, const struct want *w)
{
	uint32_t seq;
	int r = look_around(lane, 0);

	if (r < 0)
		return r;
	if (w->data) {
		tell_producer(lane);
		disarm_rx(lane);
	} else {
		disarm_tx(lane);
	}
	if (lane->epoll_fd >= 0 && w->data) {
		if (ring_rx_sleep(&lane->rx, RING_ON_BELL, &seq) != RING_E_EMPTY) {
			/* The bell was swallowed, and the caller may stop after one message: still readable. */
			lane->rx_unseen = true;
			kick(lane, true);
			return 0;
		}
		lane->rx_armed = true;
	} else if (lane->epoll_fd >= 0) {
		if (ring_tx_sleep(&lane->tx, w->size, RING_ON_BELL, &seq) != RING_E_FULL)
			return 0;
		lane->tx_armed = true;
		lane->tx_armed_size = w->size;
	}
	if (atomic_load(&lane->peer_gone))
		return has(lane, w) ? 0 : lane_over(lane, w->data ? -ENODATA : -EPIPE);
	if (w->data && lane->tx_unseen > 0)
		lane->tx_unseen--;
	return -EAGAIN;
}

int lane_wait_data(struct sealane_lane *lane, int64_t timeout_ns)
{
	struct want w = { .data = true };

	if (timeout_ns == SEALANE_NOWAIT)
		return give_back(lane, &w);
	return wait_until(lane, &w, &lane->rx_spin, lane_deadline(timeout_ns));
}

int lane_wait_room(struct sealane_lane *lane, uint32_t size, int64_t timeout_ns)
{
	struct want w = { .size = size };

	if (timeout_ns == SEALANE_NOWAIT)
		return give_back(lane, &w);
	return wait_until(lane, &w, &lane->tx_spin, lane_deadline(timeout_ns));
}
