/*
 * Theory of operation: the process that containers talk to.
 *
 * It accepts on the listening sockets that the broker hands it, asks the kernel who connected (identity.c), asks the broker
 * for a verdict, and relays (gate_relay.c) between the client and the connected server socket that comes with a "go". It
 * decides nothing and knows no names: a socket, a number, bytes. It must never block, open a path, make a socket or start a
 * program; gate_isolate() makes the kernel hold it to that.
 *
 * One epoll set, edge-triggered for connections (gate_relay.c says why), level-triggered for the channel and the listening
 * sockets. Several gates share the listening sockets, hence EPOLLEXCLUSIVE. The epoll data is a typed reference: kind in
 * the upper half, the number of the listener or the connection's cid in the lower. A cid carries a generation, so an event
 * or a message for an earlier life of the slot finds nothing.
 *
 * A turn: wait (base/spin.h); look at each event once, with bounded work (ACCEPTS_PER_TURN, MESSAGES_PER_TURN, gate_relay.c's reads);
 * then the batch phase: lanes with work left over, lanes whose tokens came, statistics, whether to accept at all, the
 * channel's queue.
 *
 * Accepting stops (the listening sockets leave the epoll set) while slots, descriptors or the broker are short; clients
 * then wait in the backlogs, or other gates take them. So an EMFILE can never spin.
 *
 * Until the verdict nothing is read from the client. It may hang up: if it left bytes behind, as a client does that sends
 * and forgets, it is still served, as the kernel would; otherwise the broker is told (GB_GONE).
 *
 * Descriptors that containers send (SCM_RIGHTS) are nobody's here, but the last copy goes where it is dropped, and that may
 * take as long as its owner likes (base/foreign.h). So they are refused where they are sent: the warden makes the sockets so,
 * and nothing on a byte's way pays for it. A gate that is handed a socket that was not made so (an older kernel) ticks from
 * then on. The tick is left running while turns follow each other within a millisecond, so a busy gate pays one signal a
 * millisecond and no system call a turn. Measured, ping-pong over two gates by turns, nine times, ratio with ticks to without:
 * 64 bytes 0.81 to 1.42, median 0.97; 64 KiB 0.84 to 1.22, median 1.04; that is the machine's noise.
 *
 * A client whose lane goes to another host is not relayed here: the broker asks for its connection (BG_HAND) and gives it to a
 * linker.
 *
 * Every BG_GO is answered by exactly one GB_CLOSED, sooner or later, also if its client is gone by then.
 *
 * On a connection's way before this: the client's connect(). After it: broker_lane.c.
 */
#include "daemon/gate.h"

#include "base/chan.h"
#include "base/foreign.h"
#include "base/isolate.h"
#include "base/log.h"
#include "base/spin.h"
#include "daemon/gate_table.h"
#include "daemon/identity.h"
#include "daemon/role_user.h"
#include "daemon/roles.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>

enum {
	EVENTS_PER_TURN = 256,
	MESSAGES_PER_TURN = 64,
	/* Per listening socket: enough to empty a usual backlog in a few turns, little enough for lanes to go on. */
	ACCEPTS_PER_TURN = 16,
	/* Beside two per lane and one per listener: channel, epoll, standard streams, pidfds and messages' descriptors. */
	FDS_RESERVED = 64,
	/* Messages to the broker that may wait: above the first no more is asked of it, below the second it goes on. */
	CHAN_QUEUE_HIGH = 1024,
	CHAN_QUEUE_LOW = 256,
	/* Callers of BG_STATS that may wait for one answer; the broker sends one at a time. */
	STATS_ASKERS = 16,
	/* After accept() failed: whatever is short needs some time to come back. */
	PAUSE_NS = 100 * 1000 * 1000,
	GATE_BROKER_LEFT = 1,
};
#define FULL_WARN_NS UINT64_C(60000000000)

enum event_kind { EVENT_CHANNEL, EVENT_LISTENER, EVENT_CLIENT, EVENT_SERVER };

/* Reasons that are logged once per listener. */
enum { WARNED_FDS = 1 << 0, WARNED_NOMEM = 1 << 1, WARNED_ACCEPT = 1 << 2 };

struct listener {
	int fd; /* owned; -1: free */
	uint32_t lid;
	enum identity_method identity;
	unsigned warned;
};

struct gate_stats_job {
	uint32_t askers[STATS_ASKERS]; /* seq of each */
	uint32_t n_askers;
	uint32_t at; /* next slot to tell of */
};

struct gate {
	int epoll_fd;
	struct chan broker;
	bool broker_armed; /* epoll is asked for EPOLLOUT */
	int error;	   /* why to stop: negative errno or GATE_BROKER_LEFT */
	struct gate_table table;
	struct listener *listeners;
	uint32_t n_listeners; /* entries in use, free ones among them */
	uint32_t n_open_listeners;
	struct idmap lids;
	uint64_t fd_limit;
	bool paused;		   /* no listener is in the epoll set */
	uint64_t paused_until_ns; /* after a failed accept */
	uint64_t full_warn_at_ns; /* no warning about it before */
	struct slot_list ready, waiting;
	uint64_t waiting_due_ns;
	uint64_t now_ns;
	struct gate_stats_job stats;
	struct spin spin;
	bool ticks; /* somebody's descriptor may lie in a queue of ours */
	uint8_t *buf;
};

static uint64_t event_ref(enum event_kind kind, uint32_t number)
{
	return (uint64_t)kind << 32 | number;
}

static int gate_epoll(struct gate *g, int op, int fd, uint32_t events, uint64_t ref)
{
	struct epoll_event ev = { .events = events, .data.u64 = ref };

	return epoll_ctl(g->epoll_fd, op, fd, &ev) < 0 ? -errno : 0;
}

static void gate_fail(struct gate *g, int error)
{
	if (error == -EPIPE || error == -ECONNRESET)
		error = GATE_BROKER_LEFT; /* it did not read all that we had said before it went */
	if (g->error == 0)
		g->error = error;
}

static void gate_send(struct gate *g, const struct role_msg *m)
{
	int r = role_send(&g->broker, m, -1);

	if (r < 0)
		gate_fail(g, r);
}

/* @sock leads to a container. */
static void gate_refuse_fds(struct gate *g, int sock)
{
	if (foreign_refuse(sock) != 0)
		g->ticks = true;
}

/* Listening sockets. */

static int listener_watch(struct gate *g, uint32_t i)
{
	return gate_epoll(g, EPOLL_CTL_ADD, g->listeners[i].fd, EPOLLIN | EPOLLEXCLUSIVE, event_ref(EVENT_LISTENER, i));
}

static void listener_close(struct gate *g, uint32_t i)
{
	struct listener *l = &g->listeners[i];

	/* Other gates hold the same open file, so closing ours would not take it out of the epoll set. */
	if (!g->paused)
		(void)!gate_epoll(g, EPOLL_CTL_DEL, l->fd, 0, 0);
	idmap_remove(&g->lids, i);
	close(take_fd(&l->fd));
	g->n_open_listeners--;
}

static uint32_t listener_free_index(struct gate *g)
{
	if (g->n_open_listeners == g->n_listeners)
		return g->n_listeners < LIMIT_UPSTREAMS ? g->n_listeners++ : GATE_NO_INDEX;
	for (uint32_t i = 0;; i++)
		if (g->listeners[i].fd < 0)
			return i;
}

/* Taken from @fd on success. */
static int gate_listen(struct gate *g, const struct role_gate_listen *m, int *fd)
{
	uint32_t i = idmap_find(&g->lids, m->lid);

	if (*fd < 0 || fcntl(*fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
		return -EBADMSG;
	gate_refuse_fds(g, *fd);
	if (i != GATE_NO_INDEX)
		listener_close(g, i);
	if ((i = listener_free_index(g)) == GATE_NO_INDEX)
		return -ENOSPC;
	g->n_open_listeners++;
	g->listeners[i] = (struct listener){ .fd = take_fd(fd), .lid = m->lid, .identity = m->identity };
	idmap_add(&g->lids, m->lid, i);
	return g->paused ? 0 : listener_watch(g, i);
}

static void gate_unlisten(struct gate *g, uint32_t lid)
{
	uint32_t i = idmap_find(&g->lids, lid);

	if (i != GATE_NO_INDEX)
		listener_close(g, i);
}

/* Return: @reason was not logged yet for this listener (one that is gone counts as logged). */
static struct listener *listener_warn_once(struct gate *g, uint32_t lid, unsigned reason)
{
	uint32_t i = idmap_find(&g->lids, lid);

	if (i == GATE_NO_INDEX || (g->listeners[i].warned & reason))
		return NULL;
	g->listeners[i].warned |= reason;
	return &g->listeners[i];
}

static void gate_pause(struct gate *g, bool pause)
{
	g->paused = pause;
	if (pause && g->now_ns >= g->full_warn_at_ns) {
		log_warn("gate.full", LOG_U64("lanes", g->table.n_used), LOG_U64("descriptor_limit", g->fd_limit));
		g->full_warn_at_ns = g->now_ns + FULL_WARN_NS;
	}
	for (uint32_t i = 0; i < g->n_listeners; i++) {
		int r = 0;

		if (g->listeners[i].fd < 0)
			continue;
		if (pause)
			r = gate_epoll(g, EPOLL_CTL_DEL, g->listeners[i].fd, 0, 0);
		else
			r = listener_watch(g, i);
		if (r < 0)
			gate_fail(g, r);
	}
}

/* May one more connection be taken? Between the two bounds it stays as it is, so that it does not flap. */
static bool gate_has_room(const struct gate *g)
{
	uint32_t lanes = g->table.n_slots - g->table.n_used;
	uint64_t fds_used = (uint64_t)g->n_open_listeners + 2 * (uint64_t)g->table.n_used + FDS_RESERVED;
	uint32_t margin = g->paused ? 16 : 0;

	if (lanes <= margin || g->broker.n_queued > (g->paused ? CHAN_QUEUE_LOW : CHAN_QUEUE_HIGH))
		return false;
	return fds_used + 2 * margin + 2 <= g->fd_limit && g->now_ns >= g->paused_until_ns;
}

static void accept_failed(struct gate *g, struct listener *l, int error)
{
	if (error == -EAGAIN || error == -ECONNABORTED || error == -EINTR)
		return;
	g->paused_until_ns = g->now_ns + PAUSE_NS;
	if (listener_warn_once(g, l->lid, WARNED_ACCEPT))
		log_warn("gate.accept_paused", LOG_U64("lid", l->lid), LOG_STR("error", log_errno_name(error)));
}

static void gate_ask(struct gate *g, const struct listener *l, int client_fd)
{
	struct slot *s = gate_table_take(&g->table, l->lid, client_fd);
	struct identity who = {};
	int r = identity_of_peer(client_fd, l->identity, &who);
	struct role_msg m = { .type = GB_ACCEPT };

	assert(s); /* gate_has_room() */
	if (r < 0 && identity_of_peer(client_fd, IDENTITY_PEERCRED, &who) == 0)
		who.cgroup_id = 0; /* the rest is for the log */
	/* No event is asked for: a hang-up is always told, and until the verdict nothing else matters. */
	if (gate_epoll(g, EPOLL_CTL_ADD, client_fd, EPOLLET, event_ref(EVENT_CLIENT, gate_table_cid(&g->table, s))) < 0) {
		gate_table_give(&g->table, s);
		return;
	}
	m.u.accept = (struct role_accept){ .cid = gate_table_cid(&g->table, s), .lid = l->lid, .pid = (uint32_t)who.pid,
					   .uid = who.uid, .gid = who.gid, .error = r, .cgroup_id = who.cgroup_id,
					   .method = l->identity };
	gate_send(g, &m);
}

static void gate_accept(struct gate *g, uint32_t i)
{
	struct listener *l = &g->listeners[i];

	for (int n = 0; n < ACCEPTS_PER_TURN && l->fd >= 0 && !g->paused && gate_has_room(g); n++) {
		int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0) {
			accept_failed(g, l, -errno);
			break;
		}
		gate_ask(g, l, fd);
	}
}

/* Lanes. */

static void slot_dequeue(struct gate *g, struct slot *s)
{
	if (s->queued == SLOT_QUEUE_READY)
		TAILQ_REMOVE(&g->ready, s, queue);
	else if (s->queued == SLOT_QUEUE_PAUSED)
		TAILQ_REMOVE(&g->waiting, s, queue);
	s->queued = SLOT_QUEUE_NONE;
}

static void slot_enqueue(struct gate *g, struct slot *s, enum slot_queue queue)
{
	slot_dequeue(g, s);
	s->queued = queue;
	if (queue == SLOT_QUEUE_READY)
		TAILQ_INSERT_TAIL(&g->ready, s, queue);
	else
		TAILQ_INSERT_TAIL(&g->waiting, s, queue);
}

static void slot_pause(struct gate *g, struct slot *s)
{
	s->due_ns = g->now_ns + relay_wait_ns(&s->relay, g->now_ns);
	if (TAILQ_EMPTY(&g->waiting) || s->due_ns < g->waiting_due_ns)
		g->waiting_due_ns = s->due_ns;
	slot_enqueue(g, s, SLOT_QUEUE_PAUSED);
}

static struct role_stats relay_stats(uint64_t lane_id, const struct relay *r)
{
	return (struct role_stats){ .lane_id = lane_id,
				    .bytes_up = r->dirs[RELAY_CLIENT].bytes,
				    .bytes_down = r->dirs[RELAY_SERVER].bytes,
				    .reads_up = r->dirs[RELAY_CLIENT].reads,
				    .reads_down = r->dirs[RELAY_SERVER].reads,
				    .end = r->end,
				    .error = r->error };
}

static void gate_warn_end(struct gate *g, const struct slot *s)
{
	if (s->relay.end == LANE_END_FDS && listener_warn_once(g, s->lid, WARNED_FDS))
		log_warn("gate.descriptors_refused", LOG_U64("lid", s->lid), LOG_ID("lane", s->lane_id));
	if (s->relay.end == LANE_END_NOMEM && listener_warn_once(g, s->lid, WARNED_NOMEM))
		log_warn("gate.out_of_memory", LOG_U64("lid", s->lid), LOG_ID("lane", s->lane_id));
}

/* The lane's relay has said why (relay.end). */
static void gate_end(struct gate *g, struct slot *s)
{
	struct role_msg m = { .type = GB_CLOSED, .u.stats = relay_stats(s->lane_id, &s->relay) };

	gate_warn_end(g, s);
	slot_dequeue(g, s);
	for (unsigned side = 0; side < RELAY_N_SIDES; side++)
		(void)!gate_epoll(g, EPOLL_CTL_DEL, s->relay.fds[side], 0, 0);
	gate_table_give(&g->table, s);
	gate_send(g, &m);
}

static void gate_end_as(struct gate *g, struct slot *s, enum lane_end end, int error)
{
	s->relay.end = end;
	s->relay.error = error;
	gate_end(g, s);
}

static int slot_arm(struct gate *g, struct slot *s, unsigned side)
{
	bool want = relay_wants_write(&s->relay, side);
	uint32_t events = EPOLLIN | EPOLLRDHUP | EPOLLET | (want ? EPOLLOUT : 0u);

	if (want == s->armed[side])
		return 0;
	s->armed[side] = want;
	return gate_epoll(g, EPOLL_CTL_MOD, s->relay.fds[side], events,
			  event_ref(EVENT_CLIENT + side, gate_table_cid(&g->table, s)));
}

static void gate_carry(struct gate *g, struct slot *s)
{
	int r;

	switch (relay_run(&s->relay, g->buf, g->now_ns)) {
	case RELAY_ENDED:
		gate_end(g, s);
		return;
	case RELAY_IDLE:
		slot_dequeue(g, s);
		break;
	case RELAY_MORE:
		slot_enqueue(g, s, SLOT_QUEUE_READY);
		break;
	case RELAY_PAUSE:
		slot_pause(g, s);
		break;
	}
	r = slot_arm(g, s, RELAY_CLIENT);
	if (r == 0)
		r = slot_arm(g, s, RELAY_SERVER);
	if (r < 0)
		gate_end_as(g, s, LANE_END_NOMEM, r);
}

static void gate_closed_unborn(struct gate *g, uint64_t lane_id, enum lane_end end, int error)
{
	struct role_msg m = { .type = GB_CLOSED, .u.stats = { .lane_id = lane_id, .end = end, .error = error } };

	gate_send(g, &m);
}

/* Taken from @fd on success: the descriptor then belongs to the lane. */
static int gate_go(struct gate *g, const struct role_go *m, int *fd)
{
	struct slot *s = gate_table_find(&g->table, m->cid);
	uint32_t events = EPOLLIN | EPOLLRDHUP | EPOLLET;
	int client, r;

	if (m->lane_id == 0 || gate_table_lane(&g->table, m->lane_id))
		return -EBADMSG;
	if (!s || s->state != SLOT_ASKED || *fd < 0) {
		gate_closed_unborn(g, m->lane_id, *fd < 0 ? LANE_END_NOMEM : LANE_END_CLIENT, *fd < 0 ? -EMFILE : -ECONNRESET);
		if (s && s->state == SLOT_ASKED)
			gate_table_give(&g->table, s);
		return 0;
	}
	client = s->relay.fds[RELAY_CLIENT];
	gate_refuse_fds(g, *fd);
	relay_init(&s->relay, client, take_fd(fd), m->bytes_per_s, m->burst_bytes, g->now_ns);
	gate_table_open(&g->table, s, m->lane_id);
	/* Both calls tell at once, as a first edge, what is there already. */
	r = gate_epoll(g, EPOLL_CTL_MOD, client, events, event_ref(EVENT_CLIENT, m->cid));
	if (r == 0)
		r = gate_epoll(g, EPOLL_CTL_ADD, s->relay.fds[RELAY_SERVER], events, event_ref(EVENT_SERVER, m->cid));
	if (r < 0)
		gate_end_as(g, s, LANE_END_NOMEM, r);
	return 0;
}

static void gate_refuse(struct gate *g, uint32_t cid)
{
	struct slot *s = gate_table_find(&g->table, cid);

	if (s && s->state == SLOT_ASKED)
		gate_table_give(&g->table, s);
}

/*
 * The connection as it was accepted: nothing has been read. One that is gone has been told of already (GB_GONE), and a message
 * about it is on its way.
 */
static void gate_hand(struct gate *g, uint32_t cid)
{
	struct slot *s = gate_table_find(&g->table, cid);
	struct role_msg m = { .type = GB_HANDED, .u.id.id = cid };
	int r;

	if (!s || s->state != SLOT_ASKED)
		return;
	/* Taken out of the slot, which would shut it down. The broker's copy is the same open file, so epoll has to be told. */
	AUTO_FD client = take_fd(&s->relay.fds[RELAY_CLIENT]);
	gate_table_give(&g->table, s);
	(void)!gate_epoll(g, EPOLL_CTL_DEL, client, 0, 0);
	r = role_send(&g->broker, &m, client);
	if (r < 0)
		gate_fail(g, r);
}

static void gate_cut(struct gate *g, uint64_t lane_id)
{
	struct slot *s = gate_table_lane(&g->table, lane_id);

	if (s)
		gate_end_as(g, s, LANE_END_CUT, 0);
}

static void gate_limit(struct gate *g, const struct role_lane_ref *m)
{
	struct slot *s = gate_table_lane(&g->table, m->lane_id);

	if (!s)
		return;
	bucket_set_rate(&s->relay.bucket, m->bytes_per_s, m->burst_bytes, g->now_ns);
	slot_enqueue(g, s, SLOT_QUEUE_READY); /* it may have waited for tokens under the old rate */
}

/* A client that waits for its verdict hung up: is anything of it left? */
static void gate_client_left(struct gate *g, struct slot *s)
{
	struct role_msg m = { .type = GB_GONE };
	char byte;

	if (recv(s->relay.fds[RELAY_CLIENT], &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0)
		return;
	m.u.id.id = gate_table_cid(&g->table, s);
	gate_table_give(&g->table, s);
	gate_send(g, &m);
}

static void gate_peer_event(struct gate *g, unsigned side, uint32_t cid, uint32_t events)
{
	struct slot *s = gate_table_find(&g->table, cid);

	if (!s)
		return; /* ended earlier in this turn */
	if (s->state == SLOT_ASKED) {
		if (events & (EPOLLHUP | EPOLLERR))
			gate_client_left(g, s);
		return;
	}
	relay_event(&s->relay, side, events);
	g->spin.carried++;
	gate_carry(g, s);
}

/* The channel. */

static int gate_ask_stats(struct gate *g, uint32_t seq)
{
	if (g->stats.n_askers == STATS_ASKERS)
		return -EBADMSG;
	g->stats.askers[g->stats.n_askers++] = seq;
	g->stats.at = 0;
	return 0;
}

/* Return: 0 or negative errno; the broker said something that no broker of ours says. */
static int gate_message(struct gate *g, const struct role_msg *m, int *fd)
{
	switch (m->type) {
	case BG_LISTEN:
		return gate_listen(g, &m->u.gate_listen, fd);
	case BG_UNLISTEN:
		gate_unlisten(g, m->u.id.id);
		return 0;
	case BG_GO:
		return gate_go(g, &m->u.go, fd);
	case BG_REFUSE:
		gate_refuse(g, m->u.id.id);
		return 0;
	case BG_HAND:
		gate_hand(g, m->u.id.id);
		return 0;
	case BG_CUT:
		gate_cut(g, m->u.lane_ref.lane_id);
		return 0;
	case BG_LIMIT:
		gate_limit(g, &m->u.lane_ref);
		return 0;
	case BG_STATS:
		return gate_ask_stats(g, m->seq);
	default:
		return -EBADMSG;
	}
}

static void gate_channel_event(struct gate *g)
{
	struct role_msg m;

	for (int n = 0; n < MESSAGES_PER_TURN && g->error == 0; n++) {
		AUTO_FD fd = -1;
		int r = role_recv(&g->broker, &m, &fd);

		if (r == -EAGAIN)
			break;
		if (r == 1)
			r = gate_message(g, &m, &fd);
		else if (r == 0)
			r = GATE_BROKER_LEFT;
		if (r != 0)
			gate_fail(g, r);
	}
}

/* The batch phase. */

static void gate_run_list(struct gate *g, struct slot_list *list)
{
	struct slot_list turn = TAILQ_HEAD_INITIALIZER(turn);
	struct slot *s;

	/* gate_carry() may put a lane back onto the list that it came from; those have their turn next time. */
	TAILQ_CONCAT(&turn, list, queue);
	while ((s = TAILQ_FIRST(&turn))) {
		TAILQ_REMOVE(&turn, s, queue);
		s->queued = SLOT_QUEUE_NONE;
		gate_carry(g, s);
	}
}

static void gate_run_waiting(struct gate *g)
{
	struct slot *s, *next;

	if (TAILQ_EMPTY(&g->waiting) || g->now_ns < g->waiting_due_ns)
		return;
	/* All of them are looked at, at most once per tick of the buckets: cheaper than a sorted queue at this size. */
	g->waiting_due_ns = UINT64_MAX;
	for (s = TAILQ_FIRST(&g->waiting); s; s = next) {
		next = TAILQ_NEXT(s, queue);
		if (s->due_ns <= g->now_ns)
			slot_enqueue(g, s, SLOT_QUEUE_READY);
		else if (s->due_ns < g->waiting_due_ns)
			g->waiting_due_ns = s->due_ns;
	}
}

static void gate_tell_stats(struct gate *g)
{
	struct gate_stats_job *job = &g->stats;
	struct role_msg m = { .type = GB_STATS };

	for (; job->n_askers > 0 && job->at < g->table.n_slots && g->broker.n_queued < CHAN_QUEUE_LOW; job->at++) {
		const struct slot *s = &g->table.slots[job->at];

		if (s->state != SLOT_OPEN)
			continue;
		m.u.stats = relay_stats(s->lane_id, &s->relay);
		gate_send(g, &m);
	}
	if (job->at < g->table.n_slots)
		return;
	for (uint32_t i = 0; i < job->n_askers; i++) {
		m = (struct role_msg){ .type = GB_STATS, .seq = job->askers[i] };
		gate_send(g, &m);
	}
	*job = (struct gate_stats_job){};
}

static void gate_arm_channel(struct gate *g)
{
	bool want = chan_wants_write(&g->broker);
	int r;

	if (want == g->broker_armed)
		return;
	g->broker_armed = want;
	r = gate_epoll(g, EPOLL_CTL_MOD, g->broker.fd, EPOLLIN | (want ? EPOLLOUT : 0u), event_ref(EVENT_CHANNEL, 0));
	if (r < 0)
		gate_fail(g, r);
}

/*
 * The queue is flushed before those that look at its length: if it is too long for them, it is not empty, so epoll tells
 * when it moves, and this runs again.
 */
static void gate_batch(struct gate *g)
{
	int r;

	gate_run_waiting(g);
	gate_run_list(g, &g->ready);
	r = chan_flush(&g->broker);
	if (r < 0)
		gate_fail(g, r);
	gate_tell_stats(g);
	if (g->paused == gate_has_room(g))
		gate_pause(g, !g->paused);
	gate_arm_channel(g);
}

/* The loop. */

static int gate_timeout_ms(const struct gate *g)
{
	uint64_t due = UINT64_MAX;

	if (!TAILQ_EMPTY(&g->ready))
		return 0;
	if (!TAILQ_EMPTY(&g->waiting))
		due = g->waiting_due_ns;
	if (g->paused && g->paused_until_ns > g->now_ns && g->paused_until_ns < due)
		due = g->paused_until_ns;
	if (due == UINT64_MAX)
		return -1;
	return due <= g->now_ns ? 0 : (int)((due - g->now_ns + 999999) / 1000000);
}

static void gate_event(struct gate *g, const struct epoll_event *ev)
{
	uint32_t number = (uint32_t)ev->data.u64;

	switch ((enum event_kind)(ev->data.u64 >> 32)) {
	case EVENT_CHANNEL:
		gate_channel_event(g);
		break;
	case EVENT_LISTENER:
		gate_accept(g, number);
		break;
	case EVENT_CLIENT:
		gate_peer_event(g, RELAY_CLIENT, number, ev->events);
		break;
	case EVENT_SERVER:
		gate_peer_event(g, RELAY_SERVER, number, ev->events);
		break;
	}
}

static void gate_loop(struct gate *g)
{
	struct epoll_event events[EVENTS_PER_TURN];

	while (g->error == 0) {
		int n = spin_wait(&g->spin, g->epoll_fd, events, EVENTS_PER_TURN, gate_timeout_ms(g));

		g->now_ns = clock_ns();
		if (n < 0 && errno == EINTR) {
			foreign_tick_stop(); /* a whole millisecond without work */
			continue;
		}
		if (n < 0)
			gate_fail(g, -errno);
		if (g->ticks)
			foreign_tick_start();
		for (int i = 0; i < n; i++)
			gate_event(g, &events[i]);
		gate_batch(g);
	}
}

/* Two descriptors per lane: take all that the administrator allows. */
static uint64_t raise_fd_limit(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) < 0)
		return 1024;
	lim.rlim_cur = lim.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &lim) < 0)
		(void)!getrlimit(RLIMIT_NOFILE, &lim);
	return lim.rlim_cur;
}

static int gate_init(struct gate *g, int channel_fd)
{
	*g = (struct gate){ .now_ns = clock_ns(), .fd_limit = raise_fd_limit() };
	spin_init(&g->spin, false);
	TAILQ_INIT(&g->ready);
	TAILQ_INIT(&g->waiting);
	chan_init(&g->broker, channel_fd);
	g->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (g->epoll_fd < 0)
		return -errno;
	g->buf = malloc(LIMIT_RELAY_BUFFER_SIZE);
	g->listeners = calloc(LIMIT_UPSTREAMS, sizeof(*g->listeners));
	if (!g->buf || !g->listeners || idmap_init(&g->lids, LIMIT_UPSTREAMS) < 0 ||
	    gate_table_init(&g->table, LIMIT_GATE_LANES) < 0)
		return -ENOMEM;
	return gate_epoll(g, EPOLL_CTL_ADD, channel_fd, EPOLLIN, event_ref(EVENT_CHANNEL, 0));
}

static void gate_destroy(struct gate *g)
{
	for (uint32_t i = 0; i < g->n_listeners; i++)
		fd_cleanup(&g->listeners[i].fd);
	gate_table_free(&g->table);
	idmap_free(&g->lids);
	free(g->listeners);
	free(g->buf);
	fd_cleanup(&g->epoll_fd);
	chan_close(&g->broker);
}

int gate_run(int channel_fd)
{
	struct gate g;
	int r = gate_init(&g, channel_fd);

	if (r == 0)
		r = foreign_tick_init();
	if (r == 0) {
		gate_loop(&g);
		r = g.error > 0 ? 0 : g.error;
	}
	if (r < 0)
		log_error("gate.failed", LOG_STR("error", log_errno_name(r)));
	gate_destroy(&g);
	foreign_tick_stop();
	return r;
}

int gate_isolate(void)
{
	static const struct isolate_call calls[] = {
		{ .name = "accept4" },
		{ .name = "epoll_create1" },
		{ .name = "ioctl", .arg = 2, .arg_value = IDENTITY_PIDFD_GET_INFO },
		{},
	};
	int r = isolate_paths(NULL, 0);

	return r < 0 ? r : isolate_calls(calls);
}

int gate_main(const struct daemon_options *o)
{
	int r;

	log_init("gate", o->verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO);
	r = role_leave_root(o->user);
	if (r == 0)
		r = gate_isolate();
	if (r < 0) {
		log_error("gate.isolation_failed", LOG_STR("error", log_errno_name(r)));
		return EXIT_FAILURE;
	}
	return gate_run(ROLE_CHANNEL_FD) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
