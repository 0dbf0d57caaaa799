/*
 * Theory of operation: a lane from the broker's word to its end. porter.c has taken the client's connection and its region, and
 * the broker has said with whom it is to be joined (BP_OFFER).
 *
 *   QUEUED    waits until its listener has fewer than OFFERS_AT_ONCE unanswered offers: so a server that does not read holds
 *             few of our descriptors in its socket, and a busy one loses no client
 *   OFFERED   the listener was sent the client's region, one end of the bell, and a leash; it answers on the leash
 *   OPEN      the client was sent the server's region and the other end of the bell. From here on the two need nobody.
 *
 * While it is open we watch the leashes. When one side closes its leash (or says anything on it: nothing may be said there), it
 * gives the lane up, and the other leash is closed too; that the lane is over its peer learns from the bell, and no CTL_CUT is
 * sent. The open file behind a leash is also held by the broker and the keeper (PB_KEEP), hence shutdown() before close().
 *
 * The broker is told, and given both leashes, before the client is (tell_open()): a porter that is killed in between leaves a lane that
 * its successor can end, and a client that waits for CTL_OPEN until its own time is over. The other way round it would leave two ends that
 * talk and that nobody can cut.
 *
 * Every BP_OFFER is answered by exactly one PB_CLOSED, sooner or later, with a PB_OPEN and two PB_KEEP before it if it was open,
 * or nearly so. Every BP_LEND too, without PB_KEEP.
 *
 * Before this on a lane's way: porter.c. After it: the two libraries, src/client/lane.h.
 */
#include "daemon/porter_int.h"

#include "base/foreign.h"
#include "shm/region.h"
#include "wire/control.h"

#include <sys/socket.h>

enum {
	/* A server that accepts in a loop answers in microseconds; more in its socket than this gain nothing. */
	OFFERS_AT_ONCE = 32,
};

static bool is_linker(const struct porter_slot *s, enum porter_side side)
{
	return s->lent && s->lent_side == side;
}

static_assert(offsetof(struct ring_control, n_bytes) == offsetof(struct ring_control, n_records) + 8, "read as one");

/* For people: a hostile side can write there what it likes. No region (adopted): zeros. */
static void read_counters(int fd, uint64_t *ret_bytes, uint64_t *ret_records)
{
	uint64_t words[2] = { 0, 0 };

	if (fd >= 0 && pread(fd, words, sizeof(words), offsetof(struct ring_control, n_records)) != (ssize_t)sizeof(words))
		words[0] = words[1] = 0;
	*ret_records = words[0];
	*ret_bytes = words[1];
}

struct role_stats porter_lane_stats(const struct porter_slot *s)
{
	struct role_stats st = { .lane_id = s->lane_id };

	read_counters(s->regions[PORTER_CLIENT], &st.bytes_up, &st.reads_up);
	read_counters(s->regions[PORTER_SERVER], &st.bytes_down, &st.reads_down);
	return st;
}

static void tell_closed(struct porter *p, struct role_stats st, enum lane_end end, int error)
{
	struct role_msg m = { .type = PB_CLOSED, .u.stats = st };

	m.u.stats.end = end;
	m.u.stats.error = error;
	porter_send(p, &m, -1);
}

static void offer_next(struct porter *p, struct porter_slot *listener);

static void lane_off_lists(struct porter *p, struct porter_slot *s)
{
	struct porter_slot *listener = s->state == PORTER_OPEN ? NULL : porter_table_find(&p->table, s->listener);

	if (s->due_ns != 0 && (s->state == PORTER_LENT || s->state == PORTER_QUEUED || s->state == PORTER_OFFERED))
		TAILQ_REMOVE(&p->offering, s, due);
	s->due_ns = 0;
	if (s->state == PORTER_QUEUED && listener)
		TAILQ_REMOVE(&listener->queue, s, queued);
	if (s->state == PORTER_OFFERED && listener)
		listener->n_offered--;
}

void porter_lane_end(struct porter *p, struct porter_slot *s, enum lane_end end, int error, const char *why)
{
	struct porter_slot *listener = s->state == PORTER_OFFERED ? porter_table_find(&p->table, s->listener) : NULL;

	lane_off_lists(p, s);
	if (why && s->state != PORTER_OPEN)
		porter_say(s->leashes[PORTER_CLIENT], CTL_ERROR, error, why);
	tell_closed(p, porter_lane_stats(s), end, error);
	for (unsigned side = 0; side < PORTER_N_SIDES; side++)
		if (s->leashes[side] >= 0)
			shutdown(s->leashes[side], SHUT_RDWR);
	porter_drop(p, s);
	if (listener)
		offer_next(p, listener);
}

/* Offering. */

static int make_pairs(struct porter_slot *s, int *ret_bell, int *ret_leash)
{
	int bell[2], leash[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, bell) < 0)
		return -errno;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, leash) < 0) {
		int r = -errno;

		close(bell[0]);
		close(bell[1]);
		return r;
	}
	/*
	 * What one container sends there the other one's program receives, and nothing of ours could end a close() that lasts in there;
	 * besides, it is no way to hand descriptors from container to container. Kernels before 6.16 cannot refuse them.
	 */
	for (int i = 0; i < 2; i++)
		(void)!foreign_refuse(bell[i]);
	s->pending->bell = bell[0];
	s->leashes[PORTER_SERVER] = leash[0];
	*ret_bell = bell[1];
	*ret_leash = leash[1];
	return 0;
}

static struct control_msg lane_msg(const struct porter_slot *s, uint32_t type, uint32_t flags, uint32_t cap_log2)
{
	const struct porter_pending *o = s->pending;
	struct control_msg m = {
		.type = type,
		.version = CONTROL_VERSION,
		.u.lane = { .lane_id = s->lane_id, .kind = s->kind, .flags = flags, .cap_log2 = cap_log2 },
	};

	memcpy(m.u.lane.path, o->path, sizeof(m.u.lane.path));
	m.u.lane.peer = type == CTL_OFFER ? o->client : o->server;
	return m;
}

int porter_lane_offer_on(struct porter *p, struct porter_slot *s, int sock)
{
	struct control_msg m = lane_msg(s, CTL_OFFER, s->flags, s->cap_log2);
	AUTO_FD bell = -1, leash = -1;
	int r = make_pairs(s, &bell, &leash);

	if (r < 0)
		return r;
	r = porter_watch(p, PORTER_EVENT_LEASH, porter_table_cid(&p->table, s), s->leashes[PORTER_SERVER]);
	if (r == 0) {
		const int fds[CONTROL_FDS] = { s->regions[PORTER_CLIENT], bell, leash };

		r = control_send(sock, &m, fds);
	}
	if (r == 0)
		return 0;
	porter_forget(p, s->leashes[PORTER_SERVER]);
	close(take_fd(&s->leashes[PORTER_SERVER]));
	close(take_fd(&s->pending->bell));
	return r;
}

/* ENOBUFS and ETOOMANYREFS: the kernel's own bounds on what is under way, which are over when something was read. */
static bool is_full(int error)
{
	return error == -EAGAIN || error == -ENOBUFS || error == -ETOOMANYREFS;
}

/* Return: 0: the next one may be tried; -EAGAIN: not now. */
static int offer_first(struct porter *p, struct porter_slot *listener, struct porter_slot *s)
{
	int r = porter_lane_offer_on(p, s, listener->leashes[PORTER_CLIENT]);

	if (r == 0) {
		TAILQ_REMOVE(&listener->queue, s, queued);
		s->state = PORTER_OFFERED;
		listener->n_offered++;
		return 0;
	}
	if (r == -EPIPE || r == -ECONNRESET)
		return -EAGAIN; /* it has gone: its own event says so in a moment */
	if (!is_full(r)) {
		porter_lane_end(p, s, LANE_END_NOMEM, r, "the daemon is short of descriptors or memory: try again later");
		return 0;
	}
	if (listener->n_offered > 0)
		return -EAGAIN; /* when one of those has its answer */
	porter_fault(p, listener->lid, PORTER_FAULT_OFFERS, "it does not read the lanes that it is offered");
	porter_lane_end(p, s, LANE_END_SERVER, -EAGAIN, "the server does not take the lanes that it is offered");
	return 0;
}

static void offer_next(struct porter *p, struct porter_slot *listener)
{
	struct porter_slot *s;

	while (listener->n_offered < OFFERS_AT_ONCE && (s = TAILQ_FIRST(&listener->queue)))
		if (offer_first(p, listener, s) < 0)
			return;
}

void porter_lane_unborn(struct porter *p, uint64_t lane_id, enum lane_end end, int error)
{
	tell_closed(p, (struct role_stats){ .lane_id = lane_id }, end, error);
}

void porter_lane_queue(struct porter *p, struct porter_slot *s, struct porter_slot *listener)
{
	s->state = PORTER_QUEUED;
	s->due_ns = p->now_ns + PORTER_OFFER_NS;
	TAILQ_INSERT_TAIL(&p->offering, s, due);
	TAILQ_INSERT_TAIL(&listener->queue, s, queued);
	offer_next(p, listener);
}

void porter_lane_refuse(struct porter *p, struct porter_slot *s, uint64_t lane_id, enum lane_end end, int error, const char *why)
{
	porter_say(s->leashes[PORTER_CLIENT], CTL_ERROR, error, why);
	porter_drop(p, s);
	porter_lane_unborn(p, lane_id, end, error);
}

int porter_lane_offer(struct porter *p, const struct role_offer *m)
{
	struct porter_slot *s = porter_table_find(&p->table, m->cid), *listener = porter_table_find(&p->table, m->listener);

	if (m->lane_id == 0 || porter_table_lane(&p->table, m->lane_id) || (s && s->state == PORTER_ASKED && s->listens))
		return -EBADMSG;
	if (!s || s->state != PORTER_ASKED) {
		porter_lane_unborn(p, m->lane_id, LANE_END_CLIENT, -ECONNRESET);
		return 0;
	}
	porter_answered(p, s);
	if (!listener || listener->state != PORTER_LISTENER) {
		porter_lane_refuse(p, s, m->lane_id, LANE_END_SERVER, -ECONNREFUSED, "the server has just stopped listening: try again");
		return 0;
	}
	s->pending = malloc(sizeof(*s->pending));
	if (!s->pending) {
		porter_lane_refuse(p, s, m->lane_id, LANE_END_NOMEM, -ENOMEM, "the daemon is out of memory: try again later");
		return 0;
	}
	*s->pending = (struct porter_pending){ .client = m->client, .server = m->server, .path = "shm", .bell = -1 };
	s->listener = m->listener;
	porter_table_name(&p->table, s, m->lane_id);
	porter_lane_queue(p, s, listener);
	return 0;
}

void porter_lane_refuse_queue(struct porter *p, struct porter_slot *listener)
{
	struct porter_slot *s;

	while ((s = TAILQ_FIRST(&listener->queue)))
		porter_lane_end(p, s, LANE_END_SERVER, -ECONNREFUSED, "the server has just stopped listening: try again");
}

/* The server's answer. */

static void tell_open(struct porter *p, const struct porter_slot *s)
{
	struct role_msg m = { .type = PB_OPEN, .u.lane_ref = { .lane_id = s->lane_id } };

	porter_send(p, &m, -1);
	for (uint32_t side = 0; side < PORTER_N_SIDES && !s->lent; side++) {
		struct role_msg keep = { .type = PB_KEEP, .u.leash = { .lane_id = s->lane_id, .is_server = side == PORTER_SERVER } };

		porter_send(p, &keep, s->leashes[side]);
	}
}

static void lane_open(struct porter *p, struct porter_slot *s, uint32_t flags, uint32_t cap_log2)
{
	struct porter_slot *listener = porter_table_find(&p->table, s->listener);
	struct control_msg m = lane_msg(s, CTL_OPEN, flags, cap_log2);
	const int fds[CONTROL_FDS] = { s->regions[PORTER_SERVER], s->pending->bell, -1 };
	int r;

	tell_open(p, s);
	r = control_send(s->leashes[PORTER_CLIENT], &m, fds);
	if (r < 0) {
		/* Nothing was sent to it before: it is gone, or what is full is not its own. */
		porter_lane_end(p, s, is_full(r) ? LANE_END_NOMEM : LANE_END_CLIENT, r, is_full(r) ? "the daemon is short of memory" : NULL);
		return;
	}
	lane_off_lists(p, s);
	s->state = PORTER_OPEN;
	close(take_fd(&s->pending->bell));
	free(take_ptr(s->pending));
	if (listener)
		offer_next(p, listener);
}

static uint32_t server_lid(struct porter *p, const struct porter_slot *s)
{
	const struct porter_slot *listener = porter_table_find(&p->table, s->listener);

	return listener ? listener->lid : ROLE_NO_ID;
}

static void server_broke(struct porter *p, struct porter_slot *s, enum porter_fault fault, const char *why)
{
	if (is_linker(s, PORTER_SERVER))
		porter_lend_fault(p, why);
	porter_fault(p, server_lid(p, s), fault, why);
	porter_lane_end(p, s, LANE_END_SERVER, -ECONNREFUSED, "the server's answer to the offered lane breaks the protocol");
}

static void on_answer(struct porter *p, struct porter_slot *s, const struct control_msg *m, int *fd)
{
	const char *why = NULL;

	if (m->type == CTL_REJECT) {
		int error = m->u.error.error;

		/* Its words are not passed on: they are another container's. */
		porter_lane_end(p, s, LANE_END_SERVER, error < 0 && error > -4096 ? error : -ECONNREFUSED, "the server refused the lane");
	} else if (m->type != CTL_ACCEPT) {
		server_broke(p, s, PORTER_FAULT_MESSAGE, "it answers an offer with a message that is no answer");
	} else if (region_check(*fd, m->u.lane.cap_log2, &why) < 0) {
		server_broke(p, s, PORTER_FAULT_REGION, why);
	} else {
		s->regions[PORTER_SERVER] = take_fd(fd);
		lane_open(p, s, m->u.lane.flags, m->u.lane.cap_log2);
	}
}

static void await_answer(struct porter *p, struct porter_slot *s)
{
	int fds[CONTROL_FDS];
	struct control_msg m;
	int r = control_recv(s->leashes[PORTER_SERVER], &m, fds);

	if (r == -EAGAIN || r == -EINTR)
		return;
	if (r == 1)
		on_answer(p, s, &m, &fds[0]);
	else if (r == 0 || r == -ECONNRESET)
		porter_lane_end(p, s, LANE_END_SERVER, s->lent ? -EHOSTUNREACH : -ECONNREFUSED,
				s->lent ? "the link to the other host ended before the lane was open: try again" :
					  "the server did not take the lane: it has ended or closed it");
	else
		server_broke(p, s, PORTER_FAULT_MESSAGE, "it answers an offer with a malformed message");
	for (size_t i = 0; r == 1 && i < CONTROL_FDS; i++)
		fd_cleanup(&fds[i]);
}

/* Open lanes. */

/* A linker says so of a lane that came to no end in order. In our words, since its own may be the other host's. */
static void cut_from_afar(struct porter *p, struct porter_slot *s, int error)
{
	int told = error == -ECANCELED ? -ECANCELED : -ECONNABORTED;

	porter_say(s->leashes[s->lent_side == PORTER_CLIENT ? PORTER_SERVER : PORTER_CLIENT], CTL_CUT, told,
		   told == -ECANCELED ? "the other host has cut it: an intention went there, or an identity ended" :
					"the link to the other host has ended, or one of the two hosts could not carry the lane any more");
	porter_lane_end(p, s, LANE_END_CUT, told, NULL);
}

/* Return: as porter_peer_left(); 2: a linker said CTL_CUT. */
static int hear_leash(struct porter_slot *s, enum porter_side side, int *ret_error)
{
	int fds[CONTROL_FDS], r;
	struct control_msg m;

	if (!is_linker(s, side))
		return porter_peer_left(s->leashes[side]);
	r = control_recv(s->leashes[side], &m, fds);
	for (size_t i = 0; r == 1 && i < CONTROL_FDS; i++)
		fd_cleanup(&fds[i]);
	if (r == 1 && m.type == CTL_CUT) {
		*ret_error = m.u.error.error;
		return 2;
	}
	return r == -EAGAIN || r == -EINTR ? 0 : r == 0 || r == -ECONNRESET ? 1 : -EPROTO;
}

static void lane_given_up(struct porter *p, struct porter_slot *s, enum porter_side side)
{
	int error = 0, r = hear_leash(s, side, &error);

	if (r == 0)
		return;
	if (r == 2) {
		cut_from_afar(p, s, error);
		return;
	}
	if (r == 1) {
		porter_lane_end(p, s, LANE_END_EOF, 0, NULL);
		return;
	}
	if (is_linker(s, side))
		porter_lend_fault(p, "it says something else than CTL_CUT on a lane's leash");
	else
		porter_fault(p, side == PORTER_CLIENT ? s->lid : server_lid(p, s), PORTER_FAULT_MESSAGE, "it says something on a lane's leash");
	porter_lane_end(p, s, side == PORTER_CLIENT ? LANE_END_CLIENT : LANE_END_SERVER, -EPROTO, NULL);
}

void porter_lane_client(struct porter *p, struct porter_slot *s)
{
	int r;

	if (s->state == PORTER_OPEN) {
		lane_given_up(p, s, PORTER_CLIENT);
		return;
	}
	r = porter_peer_left(s->leashes[PORTER_CLIENT]);
	if (r < 0) {
		porter_fault(p, s->lid, PORTER_FAULT_MESSAGE, "it goes on talking before its lane is open");
		porter_lane_end(p, s, LANE_END_CLIENT, -EPROTO, "nothing may be said before the lane is open");
	} else if (r > 0) {
		porter_lane_end(p, s, LANE_END_CLIENT, -ECONNRESET, NULL);
	}
}

void porter_lane_server(struct porter *p, struct porter_slot *s)
{
	if (s->state == PORTER_OPEN)
		lane_given_up(p, s, PORTER_SERVER);
	else
		await_answer(p, s);
}

void porter_lane_cut(struct porter *p, const struct role_refuse *m)
{
	struct porter_slot *s = porter_table_lane(&p->table, m->lane_id);
	/* A linker first: it does nothing for it, but when the library hangs up it has to find there that this was no end in order. */
	enum porter_side order[PORTER_N_SIDES] = { PORTER_SERVER, PORTER_CLIENT };
	int error = m->error < 0 ? m->error : -ECANCELED;

	if (!s)
		return; /* its PB_CLOSED is on its way */
	if (is_linker(s, PORTER_CLIENT)) {
		order[0] = PORTER_CLIENT;
		order[1] = PORTER_SERVER;
	}
	for (unsigned i = 0; i < PORTER_N_SIDES; i++)
		if (s->leashes[order[i]] >= 0 && (s->state == PORTER_OPEN || order[i] == PORTER_SERVER))
			porter_say(s->leashes[order[i]], CTL_CUT, error, m->why);
	porter_lane_end(p, s, LANE_END_CUT, error, m->why);
}

void porter_lane_expire(struct porter *p)
{
	struct porter_slot *s;

	while ((s = TAILQ_FIRST(&p->offering)) && s->due_ns <= p->now_ns) {
		if (s->state == PORTER_LENT)
			porter_lend_fault(p, "it does not use what it was lent");
		else
			porter_fault(p, server_lid(p, s), PORTER_FAULT_OFFERS, "it does not answer the lanes that it is offered");
		porter_lane_end(p, s, LANE_END_SERVER, -ETIMEDOUT, "the server did not take the lane in time: it may hang, or be overloaded");
	}
}

/* Adoption. */

static struct porter_slot *adopted_slot(struct porter *p, uint64_t lane_id)
{
	struct porter_slot *s = porter_table_lane(&p->table, lane_id);

	if (s || !(s = porter_table_take(&p->table)))
		return s;
	s->state = PORTER_OPEN;
	s->adopting = true;
	porter_table_name(&p->table, s, lane_id);
	return s;
}

/* What has happened to its ends meanwhile is told at once; hence not before both are here. */
static void adopted_watch(struct porter *p, struct porter_slot *s)
{
	uint32_t cid = porter_table_cid(&p->table, s);
	int r = s->leashes[PORTER_CLIENT] < 0 && s->leashes[PORTER_SERVER] < 0 ? -EMFILE : 0;

	s->adopting = false;
	if (s->leashes[PORTER_CLIENT] >= 0)
		r = porter_watch(p, PORTER_EVENT_CONN, cid, s->leashes[PORTER_CLIENT]);
	if (r == 0 && s->leashes[PORTER_SERVER] >= 0)
		r = porter_watch(p, PORTER_EVENT_LEASH, cid, s->leashes[PORTER_SERVER]);
	if (r < 0)
		porter_lane_end(p, s, LANE_END_NOMEM, r, NULL);
}

int porter_lane_adopt(struct porter *p, const struct role_leash *m, int *fd)
{
	enum porter_side side = m->is_server ? PORTER_SERVER : PORTER_CLIENT;
	bool second = porter_table_lane(&p->table, m->lane_id) != NULL;
	struct porter_slot *s;

	if (m->lane_id == 0)
		return -EBADMSG;
	s = adopted_slot(p, m->lane_id);
	if (!s) {
		/* Nobody would ever end it: better that it ends now. Told twice, once for each end. */
		if (*fd >= 0)
			shutdown(*fd, SHUT_RDWR);
		porter_lane_unborn(p, m->lane_id, LANE_END_NOMEM, -ENOSPC);
		return 0;
	}
	if (!s->adopting || s->leashes[side] >= 0)
		return -EBADMSG;
	s->leashes[side] = take_fd(fd);
	if (second)
		adopted_watch(p, s);
	return 0;
}
