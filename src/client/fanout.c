/*
 * Theory of operation: one publisher, many subscribers, one region. The publisher is a listener of kind SEALANE_FANOUT; each
 * subscriber is a lane whose one half is the publisher's region, the same for all, and whose other half is a small region of the
 * subscriber's own, of which only the waiter words are used. So identity, intentions, cuts, bell and leash are those of any lane, and
 * a subscriber waits as any receiver does (wait.c).
 *
 * The publisher waits for nobody and believes nobody: a subscriber can say that it sleeps, and close its bell. One that rings the
 * bell breaks the rules and is forgotten. New and dead ones are looked for by sealane_publisher_poll(), and every POLL_NS
 * while publishing.
 *
 * Before it on a message's way: the application. After it: shm/fan.c.
 */
#include "client/fanout.h"

#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>

/* A system call for each message would cost more than the message. */
#define POLL_NS UINT64_C(10000000)

enum {
	EVENTS_AT_ONCE = 64,
	ACCEPTS_AT_ONCE = 16,
	RING_BYTES = 256 << 10,
	/* A reader that was overtaken so often in a row is too slow for this ring: it says so. */
	OVERRUNS_AT_ONCE = 16,
	LEASH = 1, /* in an event's word, beside the lane's address */
};

static uint64_t coarse_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* --- the publisher --- */

void publisher_drop(struct sealane_publisher *p)
{
	for (size_t i = 0; i < p->n_readers; i++)
		lane_drop(p->readers[i].lane);
	sealane_listener_close(p->listener);
	fd_cleanup(&p->epoll_fd);
	fd_cleanup(&p->region_fd);
	region_unmap(&p->region);
	free(p->readers);
	free(p);
}

int publisher_make(struct sealane_publisher **ret, uint32_t cap_log2, uint64_t start)
{
	struct sealane_publisher *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return lane_fail(-ENOMEM, "no memory for a publisher");
	p->region_fd = -1;
	p->start = start;
	p->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	r = p->epoll_fd < 0 ? -errno : keys_start();
	if (r == 0)
		r = region_create(&p->region, &p->region_fd, cap_log2, start);
	if (r < 0) {
		publisher_drop(p);
		return lane_fail(r, "no publisher with a ring of %llu bytes: %s", (unsigned long long)shm_cap(cap_log2), sealane_strerror(r));
	}
	fan_tx_init(&p->tx, p->region.base, cap_log2, start);
	r = keys_tag(&keys_process, p->region.base, p->region.size, PROT_READ | PROT_WRITE);
	if (r < 0 && keys_are_required()) {
		publisher_drop(p);
		return lane_fail(r, "the publisher's memory cannot be given a protection key: %s", sealane_strerror(r));
	}
	*ret = p;
	return 0;
}

static int watch(struct sealane_publisher *p, int fd, uintptr_t what)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLRDHUP, .data.u64 = what };

	return fd < 0 || epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0 ? 0 : -errno;
}

/* Takes the lane over, also when it fails. */
static int add_reader(struct sealane_publisher *p, struct sealane_lane *lane)
{
	int r = lane->kind == SEALANE_FANOUT ? 0 : -EPROTOTYPE;

	if (r == 0 && p->n_readers == p->n_room) {
		size_t n = p->n_room ? p->n_room * 2 : 8;
		struct fan_reader *more = realloc(p->readers, n * sizeof(*more));

		if (more) {
			p->readers = more;
			p->n_room = n;
		} else {
			r = -ENOMEM;
		}
	}
	if (r == 0)
		r = watch(p, lane->bell, (uintptr_t)lane);
	if (r == 0)
		r = watch(p, atomic_load(&lane->leash_gone) ? -1 : lane->leash, (uintptr_t)lane | LEASH);
	if (r < 0)
		lane_drop(lane);
	else
		p->readers[p->n_readers++] = (struct fan_reader){ .lane = lane };
	return r;
}

static void remove_reader(struct sealane_publisher *p, const struct sealane_lane *lane)
{
	for (size_t i = 0; i < p->n_readers; i++)
		if (p->readers[i].lane == lane)
			p->readers[i--] = p->readers[--p->n_readers];
}

/* Return: 0; why no further subscriber can come. */
static int take_readers(struct sealane_publisher *p)
{
	for (int i = 0; i < ACCEPTS_AT_ONCE; i++) {
		struct sealane_lane *lane;
		int r = sealane_accept(p->listener, &lane, SEALANE_NOWAIT);

		if (r < 0)
			return r == -EAGAIN ? 0 : r;
		(void)!add_reader(p, lane); /* it finds itself alone again */
	}
	return 0;
}

/* What its leash says: a cut ends it, the daemon's absence does not. Return: it is over. */
static bool leash_ends(struct sealane_publisher *p, struct sealane_lane *lane)
{
	int r = lane_wait_data(lane, SEALANE_NOWAIT);

	if (atomic_load(&lane->leash_gone))
		epoll_ctl(p->epoll_fd, EPOLL_CTL_DEL, lane->leash, NULL);
	return r != -EAGAIN;
}

static int poll_readers(struct sealane_publisher *p)
{
	struct epoll_event ev[EVENTS_AT_ONCE];
	struct sealane_lane *over[EVENTS_AT_ONCE];
	int n = epoll_wait(p->epoll_fd, ev, EVENTS_AT_ONCE, 0), n_over = 0, error = 0;

	for (int i = 0; i < n; i++) {
		struct sealane_lane *lane = (struct sealane_lane *)(uintptr_t)(ev[i].data.u64 & ~(uint64_t)LEASH);
		bool known = false;

		for (int k = 0; k < n_over; k++)
			known = known || over[k] == lane;
		if (!lane)
			error = take_readers(p);
		else if (!known && (!(ev[i].data.u64 & LEASH) || leash_ends(p, lane)))
			over[n_over++] = lane; /* freed when no event can name it any more */
	}
	for (int i = 0; i < n_over; i++) {
		remove_reader(p, over[i]);
		lane_drop(over[i]);
	}
	return error;
}

int sealane_publisher_open(struct sealane_publisher **ret, const char *service, const struct sealane_options *options)
{
	struct sealane_publisher *p;
	struct sealane_options o;
	int r = lane_options_read(&o, options);

	*ret = NULL;
	if (r < 0)
		return r;
	o.kind = SEALANE_FANOUT;
	o.ring_bytes = o.ring_bytes ? o.ring_bytes : RING_BYTES;
	r = publisher_make(&p, region_cap_log2(o.ring_bytes), 0);
	if (r < 0)
		return r;
	r = sealane_listen(&p->listener, service, &o);
	if (r == 0) {
		lane_listen_shared(p->listener, &p->region, p->region_fd);
		r = watch(p, sealane_listener_fd(p->listener), 0);
	}
	if (r < 0)
		publisher_drop(p);
	else
		*ret = p;
	return r;
}

int sealane_publisher_fd(struct sealane_publisher *p)
{
	return p->epoll_fd;
}

int sealane_publisher_poll(struct sealane_publisher *p)
{
	KEYS_SCOPE(&keys_process);
	int r = poll_readers(p);

	return r < 0 ? r : (int)p->n_readers;
}

size_t sealane_publish_max(const struct sealane_publisher *p)
{
	return ring_record_max(p->tx.cap);
}

/* At most one wake-up for each sleep of each reader, and one for all who sleep on the futex. */
static void wake_readers(struct sealane_publisher *p)
{
	struct sealane_lane *on_futex = NULL;

	for (size_t i = 0; i < p->n_readers; i++) {
		struct fan_reader *reader = &p->readers[i];
		struct sealane_lane *lane = reader->lane;
		uint32_t waiter;

		if (!lane->tx.peer_sleeps)
			continue;
		waiter = atomic_load_explicit(&lane->peer.base->data_waiter, memory_order_seq_cst); /* pairs with ring_rx_sleep() */
		if (!(waiter & RING_HOW_MASK) || waiter == reader->woken)
			continue;
		reader->woken = waiter;
		if ((waiter & RING_HOW_MASK) == RING_ON_FUTEX)
			on_futex = lane;
		else
			ring_wake_data(&lane->tx, RING_ON_BELL, lane->bell);
	}
	if (on_futex)
		ring_wake_data(&on_futex->tx, RING_ON_FUTEX, -1);
}

static void flush(struct sealane_publisher *p)
{
	uint64_t now = coarse_ns();

	if (p->tx.n_staged > 0) {
		fan_tx_publish(&p->tx);
		wake_readers(p);
	}
	if (now < p->poll_at_ns)
		return;
	p->poll_at_ns = now + POLL_NS;
	(void)!poll_readers(p);
}

static int stage(struct sealane_publisher *p, const void *buf, size_t size)
{
	int r = fan_tx_stage(&p->tx, buf, size, 0);

	if (r == RING_E_FULL) {
		flush(p);
		r = fan_tx_stage(&p->tx, buf, size, 0);
	}
	if (r == -EMSGSIZE)
		return lane_fail(r, "a message of %zu bytes: the largest is %zu, a quarter of the ring; open the publisher with more ring_bytes",
				 size, sealane_publish_max(p));
	return r;
}

int sealane_publish_stage(struct sealane_publisher *p, const void *buf, size_t size)
{
	KEYS_SCOPE(&keys_process);

	return stage(p, buf, size);
}

void sealane_publish_flush(struct sealane_publisher *p)
{
	KEYS_SCOPE(&keys_process);

	flush(p);
}

int sealane_publish(struct sealane_publisher *p, const void *buf, size_t size)
{
	KEYS_SCOPE(&keys_process);
	int r = stage(p, buf, size);

	if (r == 0)
		flush(p);
	return r;
}

void sealane_publisher_close(struct sealane_publisher *p)
{
	KEYS_SCOPE(&keys_process);

	if (!p)
		return;
	if (fan_tx_stage(&p->tx, "", 0, RING_FIN) == RING_E_FULL) {
		fan_tx_publish(&p->tx);
		(void)!fan_tx_stage(&p->tx, "", 0, RING_FIN);
	}
	fan_tx_publish(&p->tx);
	wake_readers(p);
	publisher_drop(p);
}

/* --- a subscriber --- */

static int subscriber_make(struct sealane_subscriber **ret, struct sealane_lane *lane)
{
	struct sealane_subscriber *s = calloc(1, sizeof(*s));
	KEYS_SCOPE(lane->domain);

	if (!s)
		return lane_fail(-ENOMEM, "no memory for a subscription");
	if (fan_rx_start(&lane->rx) < 0) {
		free(s);
		return lane_poison(lane, "a position that cannot be");
	}
	s->lane = lane;
	*ret = s;
	return 0;
}

int sealane_subscribe(struct sealane_subscriber **ret, const char *service, const struct sealane_options *options)
{
	struct sealane_lane *lane;
	struct sealane_options o;
	int r = lane_options_read(&o, options);

	*ret = NULL;
	if (r < 0)
		return r;
	o.kind = SEALANE_FANOUT;
	o.ring_bytes = shm_cap(SHM_CAP_LOG2_MIN); /* its waiter words are all that is needed of it */
	r = sealane_connect(&lane, service, &o);
	if (r < 0)
		return r;
	r = subscriber_make(ret, lane);
	if (r < 0)
		sealane_close(lane);
	return r;
}

/* What was next is gone. Goes on at the newest. */
static int resync(struct sealane_subscriber *s)
{
	struct ring_rx *rx = &s->lane->rx;
	uint64_t index = rx->index;

	/* what overwrote it was published, so the newest is another one */
	if (fan_rx_start(rx) < 0 || rx->index == index)
		return lane_poison(s->lane, "a position that cannot be");
	s->missed += rx->index - index;
	return 0;
}

static int next(struct sealane_subscriber *s, void *buf, size_t size, size_t *ret_size)
{
	struct sealane_lane *lane = s->lane;
	int r = atomic_load_explicit(&lane->ended, memory_order_relaxed);

	if (r < 0)
		return r;
	r = fan_rx_next(&lane->rx, buf, size, ret_size);
	if (r == RING_E_EMPTY && fan_rx_overrun(&lane->rx))
		r = FAN_E_OVERRUN;
	if (r == -EPROTO)
		return lane_poison(lane, "a descriptor that cannot be");
	if (r == -EMSGSIZE)
		return lane_fail(r, "a message of %zu bytes from %s for a buffer of %zu: it is dropped", *ret_size, lane->identity.service, size);
	return r;
}

/* One that always finds a message never waits, and would never hear that it was cut. */
static void look_at_leash(struct sealane_subscriber *s)
{
	uint64_t now = coarse_ns();

	if (now < s->look_at_ns)
		return;
	s->look_at_ns = now + POLL_NS;
	(void)!lane_wait_data(s->lane, SEALANE_NOWAIT); /* what it finds stands in the lane */
}

static ssize_t wait_next(struct sealane_subscriber *s, void *buf, size_t size, bool tell_missed, int64_t timeout_ns)
{
	uint64_t deadline = 0;
	int n_overruns = 0;
	bool timed = false;

	look_at_leash(s);
	for (;;) {
		size_t got;
		int r = next(s, buf, size, &got);

		if (r <= 0)
			return r < 0 ? r : (ssize_t)got;
		if (r == FAN_E_OVERRUN) {
			r = resync(s);
			if (r < 0)
				return r;
			if (!tell_missed || ++n_overruns == OVERRUNS_AT_ONCE)
				return lane_fail(-SEALANE_E_MISSED, "%llu messages from %s were overwritten before they were read",
						 (unsigned long long)s->missed, s->lane->identity.service);
			continue;
		}
		if (!timed) {
			deadline = lane_deadline(timeout_ns);
			timed = true;
		}
		r = lane_wait_data(s->lane, lane_time_left(deadline));
		if (r < 0)
			return r;
	}
}

ssize_t sealane_next(struct sealane_subscriber *s, void *buf, size_t size, uint64_t *ret_missed, int64_t timeout_ns)
{
	KEYS_SCOPE(s->lane->domain);
	ssize_t r = KEYS_DENIED ? guard_denied(s->lane) : wait_next(s, buf, size, ret_missed != NULL, timeout_ns);

	if (ret_missed)
		*ret_missed = s->missed;
	s->missed = 0;
	return r;
}

int sealane_subscriber_fd(struct sealane_subscriber *s)
{
	return sealane_fd(s->lane);
}

const struct sealane_peer *sealane_subscriber_peer(const struct sealane_subscriber *s)
{
	return sealane_peer(s->lane);
}

void sealane_subscriber_close(struct sealane_subscriber *s)
{
	if (!s)
		return;
	sealane_close(s->lane);
	free(s);
}

void subscriber_drop(struct sealane_subscriber *s)
{
	lane_drop(s->lane);
	free(s);
}

/* --- without a daemon --- */

static int join_parts(struct sealane_publisher *p, struct lane_parts parts[2], enum sealane_wait wait)
{
	AUTO_FD fd = -1;
	int bells[2], r;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, bells) < 0)
		return -errno;
	parts[0] = (struct lane_parts){ .own = p->region, .own_shared = true, .bell = bells[0], .leash = -1, .kind = SEALANE_FANOUT,
					.peer_spins = wait == SEALANE_WAIT_SPIN };
	parts[1] = (struct lane_parts){ .bell = bells[1], .leash = -1, .kind = SEALANE_FANOUT, .wait = wait, .start = p->start };
	r = region_create(&parts[1].own, &fd, SHM_CAP_LOG2_MIN, 0);
	if (r == 0)
		r = region_map_peer(&parts[0].peer, fd, SHM_CAP_LOG2_MIN);
	if (r == 0)
		r = region_map_peer(&parts[1].peer, p->region_fd, p->region.cap_log2);
	if (r < 0) {
		lane_parts_drop(&parts[0]);
		lane_parts_drop(&parts[1]);
	}
	return r;
}

int publisher_join(struct sealane_publisher *p, struct sealane_subscriber **ret, enum sealane_wait wait)
{
	struct lane_parts parts[2];
	struct sealane_lane *reader, *lane;
	int r = join_parts(p, parts, wait);

	if (r < 0)
		return r;
	r = lane_make(&reader, &parts[0]);
	if (r < 0) {
		lane_parts_drop(&parts[1]);
		return r;
	}
	r = lane_make(&lane, &parts[1]);
	if (r < 0) {
		lane_drop(reader);
		return r;
	}
	r = subscriber_make(ret, lane);
	if (r < 0) {
		lane_drop(reader);
		lane_drop(lane);
		return r;
	}
	return add_reader(p, reader);
}
