/*
 * Inside libsealane: a lane as the library holds it. Before it on a message's way: the application, through sealane.h.
 * After it: shm/ring.h, then the peer's lane.
 *
 * lane_make() needs no daemon: whoever has two regions, a bell and a leash has a lane. connect.c gets them from the daemon;
 * tests, the hostile peers and the benchmarks make both ends themselves (lane_pair()).
 */
#ifndef CLIENT_LANE_H
#define CLIENT_LANE_H

#include "base/util.h"
#include "sealane.h"
#include "shm/keys.h"
#include "shm/region.h"
#include "shm/ring.h"
#include "shm/wake.h"
#include "wire/control.h"

/* Tags of records (ring.md, bits 40-47): what a piece of a message is. An application never sees them. */
enum lane_tag {
	LANE_TAG_PLAIN,
	LANE_TAG_CALL,	  /* call.c */
	LANE_TAG_REPLY,
	LANE_TAG_CANCEL,
	LANE_TAG_N
};

/* How one direction waits: learns whether spinning pays. */
struct lane_spin {
	uint32_t pays;	  /* average, LANE_SPIN_ONE: always */
	uint32_t skipped; /* sleeps without a try since the last one */
	uint32_t waits_first; /* so many waits before the first try */
	uint64_t steady_from; /* receiver: number of the record from which on none was long in coming */
	uint64_t n_waits;     /* since then */
	uint64_t steady_least; /* records that make a steady stream: more, each time that one turned out not to be */
};

/* When a direction that never waits looks at the leash (lane_watch()). */
struct lane_watch {
	uint32_t left, n; /* records until then, of how many */
	uint64_t looked_ns;
};

struct lane_parts {
	struct region own, peer;      /* taken over */
	int bell;		      /* taken over */
	int leash;		      /* taken over; -1: no daemon */
	enum sealane_kind kind;
	enum sealane_wait wait;
	bool peer_spins;	      /* it said CONTROL_SPINS */
	bool own_shared;	      /* own is a publisher's, and only borrowed */
	uint64_t lane_id;
	const struct control_identity *identity; /* copied */
	const char *path;	      /* copied */
	uint64_t start;		      /* ring_format()'s; 0 but in tests */
	const struct keys_domain *domain; /* NULL: the process's; lives for ever */
};

enum { LANE_SPIN_ONE = 1024, LANE_STEADY_RECORDS = 64, LANE_LINK_WAITS_FIRST = 8 };

/* Two threads at most: the sender's half and the receiver's half are on lines of their own. */
struct sealane_lane {
	/* set once */
	struct region own, peer;
	bool own_shared; /* a publisher's end: its region outlives the lane */
	const struct keys_domain *domain; /* whose key both carry: KEYS_SCOPE() before they are touched */
	int bell, leash;
	int epoll_fd; /* sealane_fd(), made on demand; -1. It holds bell, leash and kick */
	bool kicked;  /* kick_fd is readable */
	int kick_fd;  /* an eventfd of our own: keeps epoll_fd readable when one direction swallowed the other's bell */
	enum sealane_kind kind;
	enum sealane_wait wait;
	struct sealane_peer who;
	struct control_identity identity;
	char path[32];
	bool is_link;	/* the peer in shared memory is a linker, the one that the application means on another host */
	uint64_t start; /* lane_parts' */
	_Atomic int ended; /* 0, or why the lane is over: negative; either thread may set it */
	_Atomic bool peer_gone;	 /* its end of the bell is closed: what is in the ring is all there will be */
	_Atomic bool leash_gone; /* the daemon is away */
	bool may_spin;		 /* whom we wait for can run meanwhile */
	struct lane_calls *calls; /* call.c; NULL until the first call */

	/* the sender's */
	_Alignas(128) struct ring_tx tx;
	struct lane_spin tx_spin;
	struct lane_watch tx_watch;
	struct keys_hold tx_hold;
	bool tx_shut;	   /* FIN was sent */
	bool tx_armed;	   /* as rx_armed, for room */
	uint32_t tx_armed_size;
	uint32_t tx_unseen; /* there is room now: for so many more -EAGAIN of the other direction sealane_fd() says so */
	bool reserved;	   /* sealane_reserve() without commit */
	uint32_t reserved_size;

	/* the receiver's */
	_Alignas(128) struct ring_rx rx;
	struct lane_spin rx_spin;
	struct lane_watch rx_watch;
	struct keys_hold rx_hold;
	uint32_t read_at;  /* streams: bytes of the record at the front that were read already */
	bool rx_armed;	   /* said to the peer that we sleep on the bell: sealane_fd() users */
	bool rx_unseen;	   /* something came while the bell was being swallowed: sealane_fd() stays readable until -EAGAIN */
	bool peeked;	   /* sealane_peek() without release */
};

/*
 * lane_make() - a lane from its parts. Return: 0; -ENOMEM (the parts are released then too).
 * lane_pair() - two lanes that are each other's peers, in this process. After fork() each process drops the one that is not its own
 * (lane_drop()), or the death of the other would not be seen. @cap_log2: of both rings. For tests and benchmarks.
 * lane_pair_parts() - the same from parts: of each end kind, wait, identity, path, start and domain are used.
 * lane_drop() - give up our handles of a lane without a word to its peer.
 */
MUST_CHECK int lane_make(struct sealane_lane **ret, struct lane_parts *parts);
MUST_CHECK int lane_pair(struct sealane_lane *ret[2], enum sealane_kind kind, const enum sealane_wait wait[2], uint32_t cap_log2,
			 uint64_t start);
MUST_CHECK int lane_pair_parts(struct sealane_lane *ret[2], struct lane_parts parts[2], uint32_t cap_log2);
void lane_drop(struct sealane_lane *lane);
void lane_parts_drop(struct lane_parts *parts);

/* lane_listen_shared() - for a publisher: all lanes that come get this region, borrowed, in place of one of their own. */
void lane_listen_shared(struct sealane_listener *l, const struct region *shared, int shared_fd);

/*
 * What the layers above (streams, messages, calls) stand on. Return as the public calls do; the lane's kind is not looked at.
 * The lane's memory is closed outside a scope: a public function begins with KEYS_SCOPE(lane->domain), and if KEYS_DENIED
 * returns guard_denied(lane) (client/guard.h).
 *
 * lane_reserve() - room for one record of at most @size bytes; before it waits for room, it publishes what is staged.
 * lane_stage(), lane_flush() - as ring_tx_stage(); publish and wake.
 * lane_peek() - the next record, until lane_release(). Return: 0; -ENODATA: the end.
 * lane_poison() - the peer broke a rule of a layer above: the lane is over. Return: -SEALANE_E_PROTOCOL.
 */
MUST_CHECK int lane_reserve(struct sealane_lane *lane, size_t size, void **ret, int64_t timeout_ns);
MUST_CHECK int lane_peek(struct sealane_lane *lane, struct ring_record *ret, int64_t timeout_ns);
int lane_poison(struct sealane_lane *lane, const char *what);

/*
 * wait.c, for lane.c only: what to do when the ring is empty or full. Return: 0: look again; -EAGAIN, -ETIMEDOUT; else the lane is over.
 */
MUST_CHECK int lane_wait_data(struct sealane_lane *lane, int64_t timeout_ns);
MUST_CHECK int lane_wait_room(struct sealane_lane *lane, uint32_t size, int64_t timeout_ns);

/*
 * lane_watch() - with each record; sees a cut (then lane->ended is set), or that the peer has gone, about 10 ms or LANE_WATCH_RECORDS
 * records after it came, also where nobody ever waits: a peer that was cut and takes or sends all the same must not keep the honest
 * side at it, and who only sends must not send to nobody.
 */
enum { LANE_WATCH_RECORDS = 64 };
void lane_look(struct sealane_lane *lane, struct lane_watch *w);
static inline void lane_watch(struct sealane_lane *lane, struct lane_watch *w)
{
	if (__builtin_expect(--w->left == 0, 0))
		lane_look(lane, w);
}

static inline void lane_stage(struct sealane_lane *lane, uint32_t size, uint8_t flags, uint8_t tag)
{
	ring_tx_stage(&lane->tx, size, flags, tag);
}

static inline void lane_flush(struct sealane_lane *lane)
{
	enum ring_waiter how = ring_tx_publish(&lane->tx);

	if (how != RING_AWAKE)
		ring_wake_data(&lane->tx, how, lane->bell);
}

static inline void lane_release(struct sealane_lane *lane)
{
	enum ring_waiter how = ring_rx_release(&lane->rx);

	if (how != RING_AWAKE)
		ring_wake_space(&lane->rx, how, lane->bell);
}

/* The peer reads no more, or there is none. */
static inline bool lane_is_deaf(const struct sealane_lane *lane)
{
	return atomic_load_explicit(&lane->tx.peer->read_shut, memory_order_relaxed) ||
	       atomic_load_explicit(&lane->peer_gone, memory_order_relaxed);
}

/*
 * lane_try_reserve(), lane_try_peek() - what is nearly always the case, inlined, as a call costs a third of a small record: the lane is
 * well, and there is room, or a record that is not the end. Return: false: nothing was done or said; lane_reserve() or lane_peek()
 * finds out why.
 */
static inline MUST_CHECK bool lane_try_reserve(struct sealane_lane *lane, size_t size, void **ret)
{
	lane_watch(lane, &lane->tx_watch);
	if (lane->tx_shut || atomic_load_explicit(&lane->ended, memory_order_relaxed) || lane_is_deaf(lane) ||
	    size > ring_record_max(lane->tx.cap) || ring_tx_reserve(&lane->tx, (uint32_t)size, ret) != 0)
		return false;
	lane->tx_unseen = 0;
	return true;
}

static inline MUST_CHECK bool lane_try_peek(struct sealane_lane *lane, struct ring_record *ret)
{
	lane_watch(lane, &lane->rx_watch);
	return !atomic_load_explicit(&lane->ended, memory_order_relaxed) && ring_rx_look(&lane->rx, ret, memory_order_acquire) == 0 &&
	       !(ret->flags & RING_FIN);
}

/* lane_kick() - sealane_fd() is readable until the next call that gives -EAGAIN: one left before all was looked at. */
void lane_kick(struct sealane_lane *lane);

/*
 * lane_over() - the peer is gone or reads no more: was it a cut? Return: why the lane ended; -SEALANE_E_CUT also for a link that went before the peer's
 * RING_FIN came; @error otherwise.
 * lane_sent_all() - says so. Return: -ENODATA.
 */
int lane_over(struct sealane_lane *lane, int error);
int lane_sent_all(const struct sealane_lane *lane);

/* Time-outs as an absolute time: 0: no waiting, UINT64_MAX: for ever. */
static inline uint64_t lane_deadline(int64_t timeout_ns)
{
	return timeout_ns == 0 ? 0 : timeout_ns < 0 ? UINT64_MAX : clock_ns() + (uint64_t)timeout_ns;
}

/* ... and back again, for the next step of a call that has several. */
static inline int64_t lane_time_left(uint64_t deadline_ns)
{
	uint64_t now;

	if (deadline_ns == 0 || deadline_ns == UINT64_MAX)
		return deadline_ns == 0 ? SEALANE_NOWAIT : SEALANE_FOREVER;
	now = clock_ns();
	return deadline_ns > now ? (int64_t)(deadline_ns - now) : 1;
}

/*
 * connect.c: what a caller may pass as options (NULL: the defaults), as this library knows them. Return: 0; -EINVAL.
 * lane_options_cap_log2() - the ring that they ask for.
 */
MUST_CHECK int lane_options_read(struct sealane_options *ret, const struct sealane_options *o);
uint32_t lane_options_cap_log2(const struct sealane_options *o);

/* lane_fail() - remember for sealane_last_error() and return @error (negative). */
int lane_fail(int error, const char *format, ...) PRINTF_LIKE(2, 3);

#endif
