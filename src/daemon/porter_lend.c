/*
 * Theory of operation: a lane one of whose ends is a linker's, since the other workload is on another host (docs/design/link.md, "Lanes of
 * the library"). The broker has decided already; a linker stands to us as a library does, on one end of a pair of sockets that is made here
 * and lent to it by way of the broker (PB_LENT). From then on porter_lane.c treats the lane as any other, but for this:
 *
 *   LEND_SERVER   the asker's slot. Its CTL_OFFER lies in the pair at once (OFFERED), and has no deadline of ours: whether some host takes
 *                 the lane, and for how long that is tried, is the broker's concern, whose BP_CUT tells the client why not. Our end of the
 *                 pair (lent_fd) is kept for as long as the lane, so that its closing tells the linker that the client has gone.
 *                 If the linker drops its end unread, so it drops the leash in there, and the lane ends as with any server that does.
 *   LEND_CLIENT   a slot of its own, LENT: the linker's first message must be a CTL_CONNECT with a region, which is checked like any
 *                 client's; then it waits for its turn at the listener (QUEUED). What is named in the message nobody reads.
 *
 * On its leash of an open lane a linker may say CTL_CUT: the far host has cut it (ECANCELED), or it cannot go on (any other error). The library
 * is told so, in words of ours; else it would look like an end of stream.
 *
 * Leashes of such lanes are not kept (no PB_KEEP): a linker does not outlive its daemon, and a lane not its linker.
 *
 * Trust: a linker reads the network; what it says is as hostile as a container's. No word of it reaches a library. What it does that ours
 * never does ends its lane, and is logged once.
 *
 * Before this on a lane's way: broker_lend.c. After it: porter_lane.c.
 */
#include "base/foreign.h"
#include "base/log.h"
#include "daemon/porter_int.h"
#include "shm/region.h"
#include "wire/control.h"

#include <sys/socket.h>

void porter_lend_fault(struct porter *p, const char *why)
{
	if (p->linker_warned)
		return;
	p->linker_warned = true;
	log_warn("porter.linker_fault", LOG_STR("why", why), LOG_STR("note", "told once"));
}

static void tell_lent(struct porter *p, uint64_t lane_id, int fd)
{
	struct role_msg m = { .type = PB_LENT, .u.lane_ref = { .lane_id = lane_id } };

	porter_send(p, &m, fd);
}

/* What both kinds need. Return: 0; -ENOMEM, -EMFILE ...: nothing was done. @ret_pair: ours, the linker's. */
static int prepare(struct porter_slot *s, const struct role_lend *m, int ret_pair[2])
{
	struct porter_pending *pending = malloc(sizeof(*pending));

	if (!pending)
		return -ENOMEM;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ret_pair) < 0) {
		free(pending);
		return -errno;
	}
	*pending = (struct porter_pending){ .client = m->client, .server = m->server, .bell = -1 };
	static_assert(sizeof(pending->path) == sizeof(m->path), "copied whole");
	memcpy(pending->path, m->path, sizeof(pending->path));
	s->pending = pending;
	s->lent = true;
	s->lent_side = m->end == LEND_SERVER ? PORTER_SERVER : PORTER_CLIENT;
	return 0;
}

/* ------------------------------------------------------------------ the server's end */

static void lend_server(struct porter *p, struct porter_slot *s, const struct role_lend *m)
{
	int pair[2], r = prepare(s, m, pair);

	porter_answered(p, s);
	if (r < 0) {
		porter_lane_refuse(p, s, m->lane_id, LANE_END_NOMEM, r, "the daemon is short of descriptors or memory: try again later");
		return;
	}
	s->lent_fd = pair[0];
	s->listener = ROLE_NO_ID;
	s->state = PORTER_OFFERED;
	porter_table_name(&p->table, s, m->lane_id);
	r = porter_lane_offer_on(p, s, s->lent_fd);
	if (r < 0)
		porter_lane_end(p, s, LANE_END_NOMEM, r, "the daemon is short of descriptors or memory: try again later");
	else
		tell_lent(p, m->lane_id, pair[1]);
	close(pair[1]);
}

/* ------------------------------------------------------------------ the client's end */

static void lend_client(struct porter *p, const struct role_lend *m)
{
	const struct porter_slot *listener = porter_table_find(&p->table, m->cid);
	struct porter_slot *s = porter_has_room(p) ? porter_table_take(&p->table) : NULL;
	int pair[2], r = -EMFILE;

	if (!listener || listener->state != PORTER_LISTENER)
		r = -ECONNREFUSED;
	else if (s)
		r = prepare(s, m, pair);
	if (r < 0) {
		if (s)
			porter_table_give(&p->table, s);
		porter_lane_unborn(p, m->lane_id, r == -ECONNREFUSED ? LANE_END_SERVER : LANE_END_NOMEM, r);
		return;
	}
	s->state = PORTER_LENT;
	s->kind = m->kind;
	s->listener = m->cid;
	s->leashes[PORTER_CLIENT] = pair[0];
	s->due_ns = p->now_ns + PORTER_OFFER_NS;
	TAILQ_INSERT_TAIL(&p->offering, s, due);
	porter_table_name(&p->table, s, m->lane_id);
	r = porter_watch(p, PORTER_EVENT_CONN, porter_table_cid(&p->table, s), pair[0]);
	if (r < 0)
		porter_lane_end(p, s, LANE_END_NOMEM, r, NULL);
	else
		tell_lent(p, m->lane_id, pair[1]);
	close(pair[1]);
}

static void connects(struct porter *p, struct porter_slot *s, const struct control_ask *a, int *fd)
{
	struct porter_slot *listener = porter_table_find(&p->table, s->listener);
	const char *why = NULL;

	if (a->kind != s->kind) {
		porter_lend_fault(p, "it asks for another kind of lane than it was lent");
		porter_lane_end(p, s, LANE_END_CLIENT, -EPROTO, "this connection was lent for another kind of lane");
	} else if (region_check(*fd, a->cap_log2, &why) < 0) {
		porter_lend_fault(p, why);
		porter_lane_end(p, s, LANE_END_CLIENT, -EPROTO, "the memory that came with the request is refused");
	} else if (!listener || listener->state != PORTER_LISTENER) {
		porter_lane_end(p, s, LANE_END_SERVER, -ECONNREFUSED, "the server has just stopped listening: try again");
	} else {
		s->regions[PORTER_CLIENT] = take_fd(fd);
		s->flags = a->flags;
		s->cap_log2 = a->cap_log2;
		TAILQ_REMOVE(&p->offering, s, due);
		porter_lane_queue(p, s, listener);
	}
}

void porter_lend_speaks(struct porter *p, struct porter_slot *s)
{
	int fds[CONTROL_FDS];
	struct control_msg m;
	int r = control_recv(s->leashes[PORTER_CLIENT], &m, fds);

	if (r == -EAGAIN || r == -EINTR)
		return;
	if (r == 0 || r == -ECONNRESET) {
		porter_lane_end(p, s, LANE_END_CLIENT, -ECONNRESET, NULL);
		return;
	}
	if (r == 1 && m.type == CTL_CONNECT) {
		connects(p, s, &m.u.ask, &fds[0]);
	} else {
		porter_lend_fault(p, "its first message is no CTL_CONNECT");
		porter_lane_end(p, s, LANE_END_CLIENT, -EPROTO, "the first message must be CTL_CONNECT");
	}
	for (size_t i = 0; r == 1 && i < CONTROL_FDS; i++)
		fd_cleanup(&fds[i]);
}

/* ------------------------------------------------------------------ the broker's word */

/* The lane goes to another host than was thought: its client is told who it is when that has taken the lane. */
static void rename_server(struct porter *p, const struct role_lend *m)
{
	struct porter_slot *s = porter_table_lane(&p->table, m->lane_id);

	if (s && s->lent && s->lent_side == PORTER_SERVER && s->state == PORTER_OFFERED)
		s->pending->server = m->server;
}

int porter_lend(struct porter *p, const struct role_lend *m)
{
	struct porter_slot *s = porter_table_find(&p->table, m->cid);

	if (m->cid == ROLE_NO_ID) {
		rename_server(p, m);
		return 0;
	}
	if (m->lane_id == 0 || m->kind == CONTROL_FANOUT || porter_table_lane(&p->table, m->lane_id))
		return -EBADMSG;
	if (m->end == LEND_CLIENT) {
		lend_client(p, m);
		return 0;
	}
	if (s && s->state == PORTER_ASKED && (s->listens || s->kind != m->kind))
		return -EBADMSG;
	if (s && s->state == PORTER_ASKED)
		lend_server(p, s, m);
	else
		porter_lane_unborn(p, m->lane_id, LANE_END_CLIENT, -ECONNRESET);
	return 0;
}
