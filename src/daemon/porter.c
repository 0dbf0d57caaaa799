/*
 * Theory of operation: the process that libraries in containers ask for lanes in shared memory, and that holds their leashes.
 *
 * It accepts on the control sockets that the broker hands it, asks the kernel who connected (identity.c), reads one message
 * (CTL_CONNECT with a region, or CTL_LISTEN), checks it and the region, and asks the broker (PB_ASK). Joining two ends is
 * porter_lane.c; where a linker is one of them, porter_lend.c. It decides nothing, never maps a region and never looks at what is in one beside two counters. It must never
 * block, open a path, name a socket or start a program; porter_isolate() makes the kernel hold it to that.
 *
 * One epoll set, level-triggered: each event is either used up or ends what it came from. The epoll data is a typed
 * reference: kind in the upper half, the number of the control socket or the connection's cid in the lower. A cid carries a
 * generation, so an event or a message for an earlier life of the slot finds nothing.
 *
 * A turn: wait; look at each event once, with bounded work; then the batch phase: deadlines, statistics, who is accepted on, the
 * channel's queue.
 *
 * Hostile clients: a connection that says nothing for ASK_NS is closed. Connections without an answer are bounded for each
 * control socket, and the bound shrinks as the room for all of them does (socket_limit()), so that a workload that floods
 * fills its own backlog and nobody else's share. Nothing is read from a connection after its first message: whatever comes
 * there ends it. A peer that does not read what we send fills its own socket. And whatever holds descriptors of theirs may be
 * slow to close, also those that nobody received: while it works, the process ticks (base/foreign.h).
 *
 * Accepting stops while slots, descriptors or the broker are short; so an EMFILE can never spin.
 *
 * On a lane's way before this: the library's connect(). After it: broker_port.c for the decision, porter_lane.c for the lane.
 */
#include "daemon/porter.h"

#include "base/foreign.h"
#include "base/isolate.h"
#include "base/log.h"
#include "daemon/identity.h"
#include "daemon/porter_int.h"
#include "daemon/role_user.h"
#include "daemon/roles.h"
#include "shm/region.h"
#include "wire/control.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>

enum {
	EVENTS_PER_TURN = 256,
	MESSAGES_PER_TURN = 64,
	ACCEPTS_PER_TURN = 16,
	/* A control socket for each workload. */
	SOCKETS = LIMIT_WORKLOADS,
	/* A control connection, the server's leash, two regions, and one more: the bell's end or what was lent; or what is under way. */
	FDS_PER_CONN = 5,
	/* Channel, epoll, standard streams, pidfds and messages' descriptors. */
	FDS_RESERVED = 64,
	/* Unanswered connections of one control socket while there is room: a program's threads that all connect at once. */
	UNANSWERED_PER_SOCKET = 32,
	/* And as there is less room: no control socket may have more than this fraction of what is left. */
	UNANSWERED_FRACTION = 8,
	/* Messages to the broker that may wait: above the first no more is asked of it, below the second it goes on. */
	CHAN_QUEUE_HIGH = 1024,
	CHAN_QUEUE_LOW = 256,
	/* After accept() failed: whatever is short needs some time to come back. */
	PAUSE_NS = 100 * 1000 * 1000,
	PORTER_BROKER_LEFT = 1,
};
#define ASK_NS UINT64_C(5000000000)
#define FULL_WARN_NS UINT64_C(60000000000)
static_assert((int)LIMIT_PORTER_UNANSWERED > (int)SOCKETS, "each control socket can always have one");

static uint64_t event_ref(enum porter_event kind, uint32_t number)
{
	return (uint64_t)kind << 32 | number;
}

static int porter_epoll(struct porter *p, int op, int fd, uint32_t events, uint64_t ref)
{
	struct epoll_event ev = { .events = events, .data.u64 = ref };

	return epoll_ctl(p->epoll_fd, op, fd, &ev) < 0 ? -errno : 0;
}

static void porter_fail(struct porter *p, int error)
{
	if (error == -EPIPE || error == -ECONNRESET)
		error = PORTER_BROKER_LEFT; /* it did not read all that we had said before it went */
	if (p->error == 0)
		p->error = error;
}

void porter_send(struct porter *p, const struct role_msg *m, int fd)
{
	int r = role_send(&p->broker, m, fd);

	if (r < 0)
		porter_fail(p, r);
}

int porter_watch(struct porter *p, enum porter_event kind, uint32_t number, int fd)
{
	return porter_epoll(p, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLRDHUP, event_ref(kind, number));
}

void porter_forget(struct porter *p, int fd)
{
	(void)!porter_epoll(p, EPOLL_CTL_DEL, fd, 0, 0);
}

void porter_fault(struct porter *p, uint32_t lid, enum porter_fault fault, const char *why)
{
	uint32_t i = idmap_find(&p->lids, lid);

	if (i == GATE_NO_INDEX)
		return;
	p->sockets[i].n_faults++;
	if (p->sockets[i].warned & (1u << fault))
		return;
	p->sockets[i].warned |= 1u << fault;
	log_warn("porter.peer_fault", LOG_U64("lid", lid), LOG_STR("why", why), LOG_STR("note", "told once for each socket and reason"));
}

void porter_say(int sock, uint32_t type, int error, const char *why)
{
	struct control_msg m = { .type = type, .version = CONTROL_VERSION, .u.error = { .error = error } };

	snprintf(m.u.error.why, sizeof(m.u.error.why), "%s", why);
	(void)!control_send(sock, &m, NULL);
}

int porter_peer_left(int sock)
{
	char byte;
	ssize_t n = recv(sock, &byte, 1, MSG_DONTWAIT | MSG_TRUNC); /* without a place for descriptors, so none is taken */

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : 1;
	return n == 0 ? 1 : -EPROTO;
}

/* Control sockets. */

static bool socket_is_open(const struct porter_socket *k)
{
	return k->fd >= 0 && !k->full;
}

static void socket_arm(struct porter *p, uint32_t i)
{
	bool want = socket_is_open(&p->sockets[i]) && !p->paused;
	int r = porter_epoll(p, EPOLL_CTL_MOD, p->sockets[i].fd, want ? EPOLLIN : 0u, event_ref(PORTER_EVENT_SOCKET, i));

	if (r < 0)
		porter_fail(p, r);
}

static void socket_set_full(struct porter *p, uint32_t i, bool full)
{
	if (p->sockets[i].full == full)
		return;
	p->sockets[i].full = full;
	p->n_full += full ? 1 : UINT32_MAX;
	socket_arm(p, i);
}

static void socket_close(struct porter *p, uint32_t i)
{
	struct porter_socket *k = &p->sockets[i];

	if (k->n_faults > 1)
		log_info("porter.peer_faults", LOG_U64("lid", k->lid), LOG_U64("count", k->n_faults));
	socket_set_full(p, i, false);
	porter_forget(p, k->fd); /* the warden holds the same open file */
	close(take_fd(&k->fd));
	idmap_remove(&p->lids, i);
	p->n_open_sockets--;
}

static uint32_t socket_free_index(struct porter *p)
{
	if (p->n_open_sockets == p->n_sockets)
		return p->n_sockets < SOCKETS ? p->n_sockets++ : GATE_NO_INDEX;
	for (uint32_t i = 0;; i++)
		if (p->sockets[i].fd < 0)
			return i;
}

/* Taken from @fd on success. Told again for the same lid: another socket, but the same workload with all it has open. */
static int porter_listen(struct porter *p, const struct role_gate_listen *m, int *fd)
{
	uint32_t i = idmap_find(&p->lids, m->lid);
	struct porter_socket old = {};

	if (*fd < 0 || fcntl(*fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
		return -EBADMSG;
	if (i != GATE_NO_INDEX) {
		old = p->sockets[i];
		socket_close(p, i);
	}
	i = i != GATE_NO_INDEX ? i : socket_free_index(p);
	if (i == GATE_NO_INDEX)
		return -ENOSPC;
	p->n_open_sockets++;
	p->sockets[i] = (struct porter_socket){ .fd = take_fd(fd), .lid = m->lid, .identity = m->identity, .warned = old.warned,
						.serial = old.serial ? old.serial : ++p->next_serial, .n_unanswered = old.n_unanswered };
	idmap_add(&p->lids, m->lid, i);
	return porter_epoll(p, EPOLL_CTL_ADD, p->sockets[i].fd, p->paused ? 0u : EPOLLIN, event_ref(PORTER_EVENT_SOCKET, i));
}

static void porter_unlisten(struct porter *p, uint32_t lid)
{
	uint32_t i = idmap_find(&p->lids, lid);

	if (i != GATE_NO_INDEX)
		socket_close(p, i);
}

static void porter_pause(struct porter *p, bool pause)
{
	p->paused = pause;
	if (pause && p->now_ns >= p->full_warn_at_ns) {
		log_warn("porter.full", LOG_U64("connections", p->table.n_used), LOG_U64("descriptor_limit", p->fd_limit));
		p->full_warn_at_ns = p->now_ns + FULL_WARN_NS;
	}
	for (uint32_t i = 0; i < p->n_sockets; i++)
		if (p->sockets[i].fd >= 0)
			socket_arm(p, i);
}

/* May one more connection be taken? Between the two bounds it stays as it is, so that it does not flap. */
bool porter_has_room(const struct porter *p)
{
	uint32_t slots = p->table.n_slots - p->table.n_used, margin = p->paused ? 16 : 0;
	uint64_t fds_used = (uint64_t)p->n_open_sockets + FDS_PER_CONN * (uint64_t)p->table.n_used + FDS_RESERVED;

	if (slots <= margin || p->n_unanswered >= LIMIT_PORTER_UNANSWERED - margin)
		return false;
	if (p->broker.n_queued > (p->paused ? CHAN_QUEUE_LOW : CHAN_QUEUE_HIGH))
		return false;
	return fds_used + FDS_PER_CONN * (margin + 1) <= p->fd_limit && p->now_ns >= p->paused_until_ns;
}

/* How many unanswered connections one control socket may have now; never none, so that nobody is shut out by the others. */
static uint32_t socket_limit(const struct porter *p)
{
	uint32_t share = (LIMIT_PORTER_UNANSWERED - p->n_unanswered) / UNANSWERED_FRACTION;

	return share < 1 ? 1 : share < UNANSWERED_PER_SOCKET ? share : UNANSWERED_PER_SOCKET;
}

static void porter_reopen(struct porter *p)
{
	for (uint32_t i = 0; i < p->n_sockets && p->n_full > 0; i++)
		if (p->sockets[i].fd >= 0 && p->sockets[i].full && p->sockets[i].n_unanswered < socket_limit(p))
			socket_set_full(p, i, false);
}

/* Connections. */

void porter_answered(struct porter *p, struct porter_slot *s)
{
	if (!s->unanswered)
		return;
	s->unanswered = false;
	p->n_unanswered--;
	if (p->sockets[s->at].serial == s->serial)
		p->sockets[s->at].n_unanswered--;
}

void porter_drop(struct porter *p, struct porter_slot *s)
{
	if (s->state == PORTER_NEW)
		TAILQ_REMOVE(&p->asking, s, due);
	porter_answered(p, s);
	for (unsigned side = 0; side < PORTER_N_SIDES; side++)
		if (s->leashes[side] >= 0)
			porter_forget(p, s->leashes[side]);
	porter_table_give(&p->table, s);
}

static void accept_failed(struct porter *p, struct porter_socket *k, int error)
{
	if (error == -EAGAIN || error == -ECONNABORTED || error == -EINTR)
		return;
	p->paused_until_ns = p->now_ns + PAUSE_NS;
	porter_fault(p, k->lid, PORTER_FAULT_ACCEPT, log_errno_name(error));
}

static void conn_new(struct porter *p, uint32_t i, int *fd)
{
	struct porter_slot *s = porter_table_take(&p->table);
	struct porter_socket *k = &p->sockets[i];
	uint32_t cid;

	assert(s); /* porter_has_room() */
	cid = porter_table_cid(&p->table, s);
	s->lid = k->lid;
	s->at = i;
	s->serial = k->serial;
	s->unanswered = true;
	s->leashes[PORTER_CLIENT] = take_fd(fd);
	s->error = identity_of_peer(s->leashes[PORTER_CLIENT], k->identity, &s->who);
	s->method = k->identity;
	if (s->error < 0 && identity_of_peer(s->leashes[PORTER_CLIENT], IDENTITY_PEERCRED, &s->who) == 0)
		s->who.cgroup_id = 0; /* the rest is for the log */
	s->due_ns = p->now_ns + ASK_NS;
	TAILQ_INSERT_TAIL(&p->asking, s, due);
	p->n_unanswered++;
	k->n_unanswered++;
	if (porter_watch(p, PORTER_EVENT_CONN, cid, s->leashes[PORTER_CLIENT]) < 0)
		porter_drop(p, s);
}

static void porter_accept(struct porter *p, uint32_t i)
{
	struct porter_socket *k = &p->sockets[i];

	for (int n = 0; n < ACCEPTS_PER_TURN && socket_is_open(k) && !p->paused && porter_has_room(p); n++) {
		AUTO_FD fd = -1;

		if (k->n_unanswered >= socket_limit(p)) {
			socket_set_full(p, i, true);
			return;
		}
		fd = accept4(k->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0) {
			accept_failed(p, k, -errno);
			return;
		}
		conn_new(p, i, &fd);
	}
}

static void conn_refuse(struct porter *p, struct porter_slot *s, int error, const char *why)
{
	porter_say(s->leashes[PORTER_CLIENT], CTL_ERROR, error, why);
	porter_drop(p, s);
}

/* Message and region are checked: what does the broker say? */
static void conn_ask(struct porter *p, struct porter_slot *s, const struct control_ask *a)
{
	struct role_msg m = { .type = PB_ASK,
			      .u.ask = { .accept = { .cid = porter_table_cid(&p->table, s), .lid = s->lid, .pid = (uint32_t)s->who.pid,
						     .uid = s->who.uid, .gid = s->who.gid, .error = s->error,
						     .cgroup_id = s->who.cgroup_id, .method = s->method },
					 .listens = s->listens, .kind = a->kind, .cap_log2 = a->cap_log2 } };

	static_assert(sizeof(m.u.ask.service) == sizeof(a->service) && sizeof(m.u.ask.as) == sizeof(a->as), "copied whole");
	memcpy(m.u.ask.service, a->service, sizeof(a->service));
	memcpy(m.u.ask.as, a->as, sizeof(a->as));
	TAILQ_REMOVE(&p->asking, s, due);
	s->state = PORTER_ASKED;
	s->kind = a->kind;
	s->flags = a->flags;
	s->cap_log2 = a->cap_log2;
	porter_send(p, &m, -1);
}

static void conn_asks(struct porter *p, struct porter_slot *s, const struct control_msg *m, int *fd)
{
	const char *why = NULL;
	char text[160];

	s->listens = m->type == CTL_LISTEN;
	if (m->type != CTL_LISTEN && m->type != CTL_CONNECT) {
		porter_fault(p, s->lid, PORTER_FAULT_MESSAGE, "it begins with a message that asks for nothing");
		conn_refuse(p, s, -EPROTO, "the first message must be CTL_CONNECT or CTL_LISTEN");
		return;
	}
	if (m->type == CTL_CONNECT && region_check(*fd, m->u.ask.cap_log2, &why) < 0) {
		porter_fault(p, s->lid, PORTER_FAULT_REGION, why);
		snprintf(text, sizeof(text), "the memory that came with the request is refused: %s", why);
		conn_refuse(p, s, -EPROTO, text);
		return;
	}
	s->regions[PORTER_CLIENT] = take_fd(fd);
	conn_ask(p, s, &m->u.ask);
}

static void conn_first_message(struct porter *p, struct porter_slot *s)
{
	int fds[CONTROL_FDS];
	struct control_msg m;
	int r = control_recv(s->leashes[PORTER_CLIENT], &m, fds);

	if (r == -EAGAIN || r == -EINTR)
		return;
	if (r == 1) {
		conn_asks(p, s, &m, &fds[0]);
		for (size_t i = 0; i < CONTROL_FDS; i++)
			fd_cleanup(&fds[i]);
	} else if (r == -EPROTONOSUPPORT) {
		conn_refuse(p, s, r, "library and daemon speak different versions: install the libsealane of the daemon's release");
	} else if (r == 0 || r == -ECONNRESET) {
		porter_drop(p, s);
	} else {
		porter_fault(p, s->lid, PORTER_FAULT_MESSAGE, "its first message is malformed");
		conn_refuse(p, s, -EBADMSG, "the message is malformed");
	}
}

/* An asker or a listener: all that can come from there is its end. */
static void conn_left(struct porter *p, struct porter_slot *s)
{
	struct role_msg m = { .type = PB_GONE, .u.id = { .id = porter_table_cid(&p->table, s) } };
	int r = porter_peer_left(s->leashes[PORTER_CLIENT]);

	if (r == 0)
		return;
	if (r < 0) {
		porter_fault(p, s->lid, PORTER_FAULT_MESSAGE, "it goes on talking after what it asked for");
		porter_say(s->leashes[PORTER_CLIENT], CTL_ERROR, -EPROTO, "nothing may be said on this connection after the first message");
	}
	if (s->state == PORTER_LISTENER)
		porter_lane_refuse_queue(p, s);
	porter_drop(p, s);
	porter_send(p, &m, -1);
}

static void conn_event(struct porter *p, uint32_t cid)
{
	struct porter_slot *s = porter_table_find(&p->table, cid);

	if (!s)
		return; /* ended earlier in this turn */
	switch (s->state) {
	case PORTER_FREE:
		break;
	case PORTER_NEW:
		conn_first_message(p, s);
		break;
	case PORTER_ASKED:
	case PORTER_LISTENER:
		conn_left(p, s);
		break;
	case PORTER_LENT:
		porter_lend_speaks(p, s);
		break;
	case PORTER_QUEUED:
	case PORTER_OFFERED:
	case PORTER_OPEN:
		porter_lane_client(p, s);
		break;
	}
}

static void leash_event(struct porter *p, uint32_t cid)
{
	struct porter_slot *s = porter_table_find(&p->table, cid);

	if (s && (s->state == PORTER_OFFERED || s->state == PORTER_OPEN))
		porter_lane_server(p, s);
}

static void porter_expire(struct porter *p)
{
	struct porter_slot *s;

	while ((s = TAILQ_FIRST(&p->asking)) && s->due_ns <= p->now_ns) {
		porter_fault(p, s->lid, PORTER_FAULT_SILENT, "it connects and asks for nothing");
		conn_refuse(p, s, -ETIMEDOUT, "nothing was asked for within 5 s of connecting");
	}
	porter_lane_expire(p);
}

/* The channel. */

static void porter_refuse(struct porter *p, const struct role_refuse *m)
{
	struct porter_slot *s = porter_table_find(&p->table, m->cid);

	if (s && s->state == PORTER_ASKED)
		conn_refuse(p, s, m->error, m->why);
}

static int porter_listening(struct porter *p, uint32_t cid)
{
	struct porter_slot *s = porter_table_find(&p->table, cid);

	if (!s || s->state != PORTER_ASKED)
		return 0; /* it left: PB_GONE is on its way */
	if (!s->listens)
		return -EBADMSG;
	porter_answered(p, s);
	s->state = PORTER_LISTENER;
	porter_say(s->leashes[PORTER_CLIENT], CTL_LISTENING, 0, "");
	return 0;
}

static int porter_ask_stats(struct porter *p, uint32_t seq)
{
	if (p->stats.n_askers == PORTER_STATS_ASKERS)
		return -EBADMSG;
	p->stats.askers[p->stats.n_askers++] = seq;
	p->stats.at = 0;
	return 0;
}

/* Return: 0 or negative errno; the broker said something that no broker of ours says. */
static int porter_message(struct porter *p, const struct role_msg *m, int *fd)
{
	switch (m->type) {
	case BP_LISTEN:
		return porter_listen(p, &m->u.gate_listen, fd);
	case BP_UNLISTEN:
		porter_unlisten(p, m->u.id.id);
		return 0;
	case BP_REFUSE:
		porter_refuse(p, &m->u.refuse);
		return 0;
	case BP_LISTENING:
		return porter_listening(p, m->u.id.id);
	case BP_OFFER:
		return porter_lane_offer(p, &m->u.offer);
	case BP_LEND:
		return porter_lend(p, &m->u.lend);
	case BP_CUT:
		porter_lane_cut(p, &m->u.refuse);
		return 0;
	case BP_ADOPT:
		return porter_lane_adopt(p, &m->u.leash, fd);
	case BP_STATS:
		return porter_ask_stats(p, m->seq);
	default:
		return -EBADMSG;
	}
}

static void porter_channel_event(struct porter *p)
{
	struct role_msg m;

	for (int n = 0; n < MESSAGES_PER_TURN && p->error == 0; n++) {
		AUTO_FD fd = -1;
		int r = role_recv(&p->broker, &m, &fd);

		if (r == -EAGAIN)
			break;
		if (r == 1)
			r = porter_message(p, &m, &fd);
		else if (r == 0)
			r = PORTER_BROKER_LEFT;
		if (r != 0)
			porter_fail(p, r);
	}
}

/* The batch phase. */

static void porter_tell_stats(struct porter *p)
{
	struct porter_stats_job *job = &p->stats;
	struct role_msg m = { .type = PB_STATS };

	for (; job->n_askers > 0 && job->at < p->table.n_slots && p->broker.n_queued < CHAN_QUEUE_LOW; job->at++) {
		const struct porter_slot *s = &p->table.slots[job->at];

		if (s->state != PORTER_OPEN || s->lent) /* a linker counts itself */
			continue;
		m.u.stats = porter_lane_stats(s);
		porter_send(p, &m, -1);
	}
	if (job->at < p->table.n_slots)
		return;
	for (uint32_t i = 0; i < job->n_askers; i++) {
		m = (struct role_msg){ .type = PB_STATS, .seq = job->askers[i] };
		porter_send(p, &m, -1);
	}
	*job = (struct porter_stats_job){};
}

static void porter_arm_channel(struct porter *p)
{
	bool want = chan_wants_write(&p->broker);
	int r;

	if (want == p->broker_armed)
		return;
	p->broker_armed = want;
	r = porter_epoll(p, EPOLL_CTL_MOD, p->broker.fd, EPOLLIN | (want ? EPOLLOUT : 0u), event_ref(PORTER_EVENT_CHANNEL, 0));
	if (r < 0)
		porter_fail(p, r);
}

/*
 * The queue is flushed before those that look at its length: if it is too long for them, it is not empty, so epoll tells
 * when it moves, and this runs again.
 */
static void porter_batch(struct porter *p)
{
	int r;

	porter_expire(p);
	r = chan_flush(&p->broker);
	if (r < 0)
		porter_fail(p, r);
	porter_tell_stats(p);
	porter_reopen(p);
	if (p->paused == porter_has_room(p))
		porter_pause(p, !p->paused);
	porter_arm_channel(p);
}

/* The loop. */

static int porter_timeout_ms(const struct porter *p)
{
	const struct porter_slot *a = TAILQ_FIRST(&p->asking), *o = TAILQ_FIRST(&p->offering);
	uint64_t due = UINT64_MAX;

	if (a)
		due = a->due_ns;
	if (o && o->due_ns < due)
		due = o->due_ns;
	if (p->paused && p->paused_until_ns > p->now_ns && p->paused_until_ns < due)
		due = p->paused_until_ns;
	if (due == UINT64_MAX)
		return -1;
	return due <= p->now_ns ? 0 : (int)((due - p->now_ns + 999999) / 1000000);
}

static void porter_event(struct porter *p, const struct epoll_event *ev)
{
	uint32_t number = (uint32_t)ev->data.u64;

	switch ((enum porter_event)(ev->data.u64 >> 32)) {
	case PORTER_EVENT_CHANNEL:
		porter_channel_event(p);
		break;
	case PORTER_EVENT_SOCKET:
		porter_accept(p, number);
		break;
	case PORTER_EVENT_CONN:
		conn_event(p, number);
		break;
	case PORTER_EVENT_LEASH:
		leash_event(p, number);
		break;
	}
}

static void porter_loop(struct porter *p)
{
	struct epoll_event events[EVENTS_PER_TURN];

	while (p->error == 0) {
		int n = epoll_wait(p->epoll_fd, events, EVENTS_PER_TURN, porter_timeout_ms(p));

		p->now_ns = clock_ns();
		if (n < 0 && errno == EINTR) {
			foreign_tick_stop(); /* a whole millisecond without work */
			continue;
		}
		if (n < 0)
			porter_fail(p, -errno);
		foreign_tick_start();
		for (int i = 0; i < n; i++)
			porter_event(p, &events[i]);
		porter_batch(p);
	}
}

/* Several descriptors per lane: take all that the administrator allows. */
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

static int porter_init(struct porter *p, int channel_fd)
{
	*p = (struct porter){ .now_ns = clock_ns(), .fd_limit = raise_fd_limit() };
	TAILQ_INIT(&p->asking);
	TAILQ_INIT(&p->offering);
	chan_init(&p->broker, channel_fd);
	p->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (p->epoll_fd < 0)
		return -errno;
	p->sockets = calloc(SOCKETS, sizeof(*p->sockets));
	if (!p->sockets || idmap_init(&p->lids, SOCKETS) < 0 || porter_table_init(&p->table, LIMIT_PORTER_CONNS) < 0)
		return -ENOMEM;
	return porter_epoll(p, EPOLL_CTL_ADD, channel_fd, EPOLLIN, event_ref(PORTER_EVENT_CHANNEL, 0));
}

/* Leashes are closed, not shut down: lanes go on, held by the keeper. */
static void porter_destroy(struct porter *p)
{
	for (uint32_t i = 0; i < p->n_sockets; i++)
		fd_cleanup(&p->sockets[i].fd);
	porter_table_free(&p->table);
	idmap_free(&p->lids);
	free(p->sockets);
	fd_cleanup(&p->epoll_fd);
	chan_close(&p->broker);
}

int porter_run(int channel_fd)
{
	struct porter p;
	int r = porter_init(&p, channel_fd);

	if (r == 0)
		r = foreign_tick_init();
	if (r == 0) {
		porter_loop(&p);
		r = p.error > 0 ? 0 : p.error;
	}
	if (r < 0)
		log_error("porter.failed", LOG_STR("error", log_errno_name(r)));
	porter_destroy(&p);
	foreign_tick_stop();
	return r;
}

int porter_isolate(void)
{
	static const struct isolate_call calls[] = {
		{ .name = "accept4" },
		{ .name = "epoll_create1" },
		{ .name = "socketpair" },
		{ .name = "pread64" },
		{ .name = "fstatfs" },
		{ .name = "ioctl", .arg = 2, .arg_value = IDENTITY_PIDFD_GET_INFO },
		{},
	};
	int r = isolate_paths(NULL, 0);

	return r < 0 ? r : isolate_calls(calls);
}

int porter_main(const struct daemon_options *o)
{
	int r;

	log_init("porter", o->verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO);
	r = role_leave_root(o->user);
	if (r == 0)
		r = porter_isolate();
	if (r < 0) {
		log_error("porter.isolation_failed", LOG_STR("error", log_errno_name(r)));
		return EXIT_FAILURE;
	}
	return porter_run(ROLE_CHANNEL_FD) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
