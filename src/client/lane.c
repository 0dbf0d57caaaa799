/*
 * Theory of operation: a lane is two regions (we write one and read the other), a bell and a leash. Here they become a handle and
 * go away again; here is the way of a record between the layers above (stream.c, message.c, call.c) and the ring (shm/ring.h).
 * The fast path is a look at the ring and nothing else; all that waits is in wait.c.
 *
 * A lane is over when the peer broke the format (SEALANE_E_PROTOCOL), or the daemon cut it (SEALANE_E_CUT); the first reason stands and
 * every later call gives it. The peer's death or goodbye is no error: what it published is read, then comes the end. Of a lane to another host
 * (path "link") the end is a RING_FIN: a hang-up without it is SEALANE_E_CUT (wait.c), and after it nothing that happens to the link matters to who reads.
 */
#include "client/guard.h"

#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/*
 * Not the affinity of the thread that happens to make the lane: who pins threads is who wants to spin. If both ends end up on one CPU,
 * lane_spin learns that spinning does not pay.
 */
static bool has_cpus(void)
{
	return sysconf(_SC_NPROCESSORS_ONLN) != 1;
}

static void set_names(struct sealane_lane *lane, const struct lane_parts *parts)
{
	if (parts->identity)
		lane->identity = *parts->identity;
	snprintf(lane->path, sizeof(lane->path), "%s", parts->path ? parts->path : "shm");
	lane->is_link = strcmp(lane->path, "link") == 0;
	lane->who = (struct sealane_peer){ .service = lane->identity.service,
					   .spiffe_id = lane->identity.spiffe_id,
					   .workload = lane->identity.workload,
					   .host = lane->identity.host,
					   .path = lane->path,
					   .lane_id = parts->lane_id };
}

void lane_parts_drop(struct lane_parts *parts)
{
	if (!parts->own_shared)
		region_unmap(&parts->own);
	region_unmap(&parts->peer);
	close_fd(&parts->bell);
	close_fd(&parts->leash);
}

int lane_make(struct sealane_lane **ret, struct lane_parts *parts)
{
	struct sealane_lane *lane = NULL;
	int r = keys_start();

	if (r < 0)
		lane_fail(r, "no lane without a memory protection key, as SEALANE_KEYS=require says: %s", keys_state_text(keys_state()));
	else if (posix_memalign((void **)&lane, 128, sizeof(*lane)) != 0)
		r = -ENOMEM;
	if (r < 0) {
		lane_parts_drop(parts);
		return r;
	}
	*lane = (struct sealane_lane){ .own = parts->own, .peer = parts->peer, .own_shared = parts->own_shared,
				       .bell = parts->bell, .leash = parts->leash,
				       .domain = parts->domain ? parts->domain : &keys_process,
				       .epoll_fd = -1, .kick_fd = -1, .kind = parts->kind, .wait = parts->wait, .start = parts->start,
				       .leash_gone = parts->leash < 0, .may_spin = has_cpus(),
				       .tx_spin.pays = LANE_SPIN_ONE, .rx_spin.pays = LANE_SPIN_ONE,
				       .rx_spin.steady_least = LANE_STEADY_RECORDS, .tx_watch = { .left = 1, .n = 1 }, .rx_watch = { .left = 1, .n = 1 } };
	set_names(lane, parts);
	if (lane->is_link) {
		lane->may_spin = true; /* others run between two looks */
		lane->tx_spin.waits_first = lane->rx_spin.waits_first = LANE_LINK_WAITS_FIRST;
	}
	ring_tx_init(&lane->tx, lane->own.base, lane->peer.base, lane->own.cap_log2, parts->start);
	ring_rx_init(&lane->rx, lane->own.base, lane->peer.base, lane->peer.cap_log2, parts->start);
	lane->tx.peer_sleeps = lane->rx.peer_sleeps = !parts->peer_spins;
	*parts = (struct lane_parts){ .bell = -1, .leash = -1 };
	r = guard_lane(lane); /* last: from here on only scopes may touch the regions */
	if (r < 0)
		lane_drop(lane);
	else
		*ret = lane;
	return r;
}

static int pair_regions(struct lane_parts parts[2], uint32_t cap_log2)
{
	int r = 0;

	for (int i = 0; i < 2 && r == 0; i++) {
		AUTO_FD fd = -1;

		r = region_create(&parts[i].own, &fd, cap_log2, parts[i].start);
		if (r == 0)
			r = region_map_peer(&parts[!i].peer, fd, cap_log2);
	}
	return r;
}

int lane_pair(struct sealane_lane *ret[2], enum sealane_kind kind, const enum sealane_wait wait[2], uint32_t cap_log2, uint64_t start)
{
	struct lane_parts parts[2] = { { .kind = kind, .wait = wait[0], .start = start }, { .kind = kind, .wait = wait[1], .start = start } };

	return lane_pair_parts(ret, parts, cap_log2);
}

int lane_pair_parts(struct sealane_lane *ret[2], struct lane_parts parts[2], uint32_t cap_log2)
{
	int bells[2], r;

	ret[0] = ret[1] = NULL;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, bells) < 0)
		return -errno;
	for (int i = 0; i < 2; i++) {
		parts[i].bell = bells[i];
		parts[i].leash = -1;
		parts[i].peer_spins = parts[!i].wait == SEALANE_WAIT_SPIN;
	}
	r = pair_regions(parts, cap_log2);
	for (int i = 0; i < 2 && r == 0; i++)
		r = lane_make(&ret[i], &parts[i]);
	for (int i = 0; i < 2 && r < 0; i++) {
		if (ret[i])
			lane_drop(ret[i]);
		region_unmap(&parts[i].own);
		region_unmap(&parts[i].peer);
		if (!ret[i])
			close_fd(&parts[i].bell);
	}
	return r;
}

void lane_drop(struct sealane_lane *lane)
{
	close_fd(&lane->epoll_fd);
	close_fd(&lane->kick_fd);
	close_fd(&lane->bell);
	close_fd(&lane->leash);
	if (!lane->own_shared) {
		guard_forget(&lane->own);
		region_unmap(&lane->own);
	}
	guard_forget(&lane->peer);
	region_unmap(&lane->peer);
	free(lane->calls);
	free(lane);
}

int lane_poison(struct sealane_lane *lane, const char *what)
{
	int none = 0;

	atomic_compare_exchange_strong(&lane->ended, &none, -SEALANE_E_PROTOCOL);
	return lane_fail(-SEALANE_E_PROTOCOL, "the peer %s broke the rules of the lane (%s): it is over, close it", lane->identity.service, what);
}

int lane_reserve(struct sealane_lane *lane, size_t size, void **ret, int64_t timeout_ns)
{
	uint64_t deadline = lane_deadline(timeout_ns);

	if (lane->tx_shut)
		return lane_fail(-EPIPE, "this side of the lane was shut down: nothing more can be sent");
	lane_watch(lane, &lane->tx_watch);
	for (;;) {
		int r = atomic_load_explicit(&lane->ended, memory_order_relaxed);

		if (r == 0 && lane_is_deaf(lane))
			r = lane_over(lane, -EPIPE);
		if (r < 0)
			return r;
		if (size > ring_record_max(lane->tx.cap))
			return lane_fail(-EMSGSIZE, "%zu bytes do not fit into one record of at most %u", size, ring_record_max(lane->tx.cap));
		r = ring_tx_reserve(&lane->tx, (uint32_t)size, ret);
		if (r == 0) {
			lane->tx_unseen = 0;
			return 0;
		}
		if (r < 0)
			return lane_poison(lane, "its head is not where it can be");
		lane_flush(lane);
		r = lane_wait_room(lane, (uint32_t)size, lane_time_left(deadline));
		if (r < 0)
			return r;
	}
}

/* All that the peer had sent was read, up to its end. */
static bool is_read_out(const struct sealane_lane *lane)
{
	struct ring_rx rx = lane->rx; /* a look moves it */
	struct ring_record record;

	return lane->is_link && ring_rx_look(&rx, &record, memory_order_acquire) == 0 && (record.flags & RING_FIN);
}

int lane_peek(struct sealane_lane *lane, struct ring_record *ret, int64_t timeout_ns)
{
	uint64_t deadline = 0;
	bool timed = false;

	lane_watch(lane, &lane->rx_watch);
	for (;;) {
		int r = atomic_load_explicit(&lane->ended, memory_order_relaxed);

		if (r < 0)
			return r == -SEALANE_E_CUT && is_read_out(lane) ? lane_sent_all(lane) : r;
		r = ring_rx_peek(&lane->rx, ret);
		if (r == 0)
			return !(ret->flags & RING_FIN) ? 0 : lane->is_link ? lane_sent_all(lane) : lane_over(lane, -ENODATA);
		if (r < 0)
			return lane_poison(lane, "a descriptor that cannot be");
		if (!timed) {
			deadline = lane_deadline(timeout_ns);
			timed = true;
		}
		r = lane_wait_data(lane, lane_time_left(deadline));
		if (r < 0)
			return r;
	}
}

static void shut(struct sealane_lane *lane)
{
	if (lane->tx_shut)
		return;
	lane->reserved = false; /* the end takes the place */
	ring_tx_stage_fin(&lane->tx);
	lane_flush(lane);
	lane->tx_shut = true;
}

int sealane_shutdown(struct sealane_lane *lane)
{
	KEYS_SCOPE(lane->domain);

	if (KEYS_DENIED)
		return guard_denied(lane);
	shut(lane);
	return 0;
}

/* In a scope that ends before the memory goes. */
static void say_goodbye(struct sealane_lane *lane)
{
	KEYS_SCOPE_ALWAYS(lane->domain); /* whoever started a component's thread may have to clean up after it */

	shut(lane);
	/* A sender that waits for room learns it from the bell, or within a slice of its sleep. */
	atomic_store_explicit(&lane->own.base->read_shut, 1, memory_order_release);
	keys_drop(lane->domain, &lane->tx_hold);
	keys_drop(lane->domain, &lane->rx_hold);
}

void sealane_close(struct sealane_lane *lane)
{
	if (!lane)
		return;
	say_goodbye(lane);
	lane_drop(lane);
}

const struct sealane_peer *sealane_peer(const struct sealane_lane *lane)
{
	return &lane->who;
}

enum sealane_kind sealane_kind(const struct sealane_lane *lane)
{
	return lane->kind;
}

static int watch(int epoll_fd, int fd)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLRDHUP };

	return fd < 0 ? 0 : epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

int sealane_fd(struct sealane_lane *lane)
{
	AUTO_FD epoll_fd = -1;
	AUTO_FD kick_fd = -1;
	int r;

	if (lane->epoll_fd >= 0)
		return lane->epoll_fd;
	if (lane->wait == SEALANE_WAIT_SPIN)
		return lane_fail(-EINVAL, "a lane with SEALANE_WAIT_SPIN has no descriptor: its peer was told never to wake it; "
					  "connect with SEALANE_WAIT_ADAPTIVE");
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	/* It starts readable: nobody has looked yet, so nothing is armed. */
	kick_fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	if (epoll_fd < 0 || kick_fd < 0)
		return lane_fail(-errno, "no descriptor for the lane: %s", sealane_strerror(-errno));
	r = watch(epoll_fd, lane->bell);
	if (r == 0)
		r = watch(epoll_fd, atomic_load(&lane->leash_gone) ? -1 : lane->leash);
	if (r == 0)
		r = watch(epoll_fd, kick_fd);
	if (r < 0)
		return lane_fail(r, "no descriptor for the lane: %s", sealane_strerror(r));
	lane->kick_fd = take_fd(&kick_fd);
	lane->kicked = true;
	lane->epoll_fd = take_fd(&epoll_fd);
	return lane->epoll_fd;
}
