/*
 * Theory of operation: the process that carries lanes between hosts (docs/design/link.md).
 *
 * It holds sessions to other hosts' linkers, TLS 1.3 over TCP, and the sockets of the applications whose lanes they carry. It decides nothing:
 * which lane goes to which host, and whether a peer's lane may come in, says the broker. It has certificates and no private key: the signer
 * makes the signature of each handshake, and this process waits for it (linker_sign()), the one thing that it ever waits for. It
 * must never open a path, make or connect a socket or start a program; linker_isolate() makes the kernel hold it to that.
 *
 * One epoll set, edge-triggered for sessions and lanes, level-triggered for the channel and the listening socket, which other linkers share
 * (EPOLLEXCLUSIVE). The epoll data is a typed reference: kind in the upper half, a slot's number in the lower. The number carries a
 * generation, so an event or a message for an earlier life of the slot finds nothing.
 *
 * A turn: wait, or spin for a while (base/spin.h); look at each event once, which for a session only notes what can be done; then the batch
 * phase: lanes whose tokens came, each session that has something to do receives and sends once, time, sessions that are over, statistics, whether
 * to accept, the channel's queue. So what many lanes say in one turn leaves in one write. Sessions have TURN_NS; those that have not had theirs by
 * then are the first of the next turn. Whoever has proven nothing yet has a share of that (linker_source.c).
 *
 * Each BL_CARRY is answered by LB_OPENED or LB_FAILED; after LB_OPENED, and after each BL_GO, LB_CLOSED comes exactly once.
 *
 * linker_int.h lists the files. On a lane's way before this: broker_link.c; after it: linker_peer.c.
 */
#include "base/foreign.h"
#include "base/log.h"
#include "daemon/linker_device.h"
#include "daemon/linker_int.h"
#include "daemon/role_user.h"
#include "daemon/roles.h"

#include <fcntl.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum {
	EVENTS_PER_TURN = 256,
	MESSAGES_PER_TURN = 64,
	CHAN_QUEUE_LOW = 256,
	SIGN_MS = 2000,
	LINKER_BROKER_LEFT = 1,
};
/* Ticks closer than that are one: with thousands of sessions each has a time of its own. */
#define TICK_MIN_NS (50 * MS_NS)
/* After that, new events are looked at. A step of one session takes some 100 us, one with a signature or a proof up to a few times as much. */
#define TURN_NS (2 * MS_NS)

uint64_t linker_ref(enum linker_event kind, uint32_t number)
{
	return (uint64_t)kind << 32 | number;
}

int linker_epoll(struct linker *k, int op, int fd, uint32_t events, uint64_t ref)
{
	struct epoll_event ev = { .events = events, .data.u64 = ref };

	return epoll_ctl(k->epoll_fd, op, fd, &ev) < 0 ? -errno : 0;
}

void linker_fail(struct linker *k, int error)
{
	if (error == -EPIPE || error == -ECONNRESET)
		error = LINKER_BROKER_LEFT; /* it did not read all that we had said before it went */
	if (k->error == 0)
		k->error = error;
}

void linker_send(struct linker *k, const struct role_msg *m, int fd)
{
	int r = role_send(&k->broker, m, fd);

	if (r < 0)
		linker_fail(k, r);
}

void linker_wake_at(struct linker *k, uint64_t at_ns)
{
	if (at_ns < k->tick_due_ns)
		k->tick_due_ns = at_ns;
}

void linker_refuse_fds(struct linker *k, int sock)
{
	if (foreign_refuse(sock) != 0)
		k->ticks = true;
}

/* The signer. */

static int wait_signed(struct linker *k, uint32_t seq, struct role_msg *ret)
{
	uint64_t until = clock_ns() + SIGN_MS * MS_NS;

	for (;;) {
		struct pollfd p = { .fd = k->signer.fd, .events = POLLIN };
		AUTO_FD fd = -1;
		uint64_t now = clock_ns();
		int r = role_recv(&k->signer, ret, &fd);

		if (r == 1 && ret->type == SL_SIGNED && ret->seq == seq)
			return 0;
		if (r == 1)
			continue; /* the answer to a question that was given up */
		if (r != -EAGAIN)
			return r < 0 ? r : -EPIPE;
		if (now >= until)
			return -ETIMEDOUT;
		(void)!poll(&p, 1, (int)((until - now) / MS_NS) + 1);
	}
}

int linker_sign(void *arg, uint32_t kid, const uint8_t digest[32], uint8_t ret[SIGNATURE_SIZE])
{
	struct linker *k = arg;
	struct role_msg m = { .type = LS_SIGN, .seq = ++k->signer_seq, .u.sign = { .kid = kid } };
	uint64_t more;
	int r;

	memcpy(m.u.sign.digest, digest, sizeof(m.u.sign.digest));
	r = k->signer.fd < 0 ? -ENOTCONN : role_send(&k->signer, &m, -1);
	if (r == 0)
		r = wait_signed(k, m.seq, &m);
	if (r == 0 && m.u.signed_.error)
		r = m.u.signed_.error;
	if (r == 0 && m.u.signed_.signature_size == 0)
		r = -EBADMSG;
	if (r < 0 && teller_may(k, &k->signer_teller, &more)) /* each that dials asks for one */
		log_warn("linker.not_signed", LOG_U64("kid", kid), LOG_STR("error", log_errno_name(r)), LOG_U64("more", more));
	if (r < 0)
		return r;
	memcpy(ret, m.u.signed_.signature, m.u.signed_.signature_size);
	return (int)m.u.signed_.signature_size;
}

/* Texts in memfds. */

int linker_read_fd(int fd, size_t max, char **ret, size_t *ret_size)
{
	AUTO_FREE(char) text = NULL;
	struct stat st;
	size_t at = 0;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return -EBADMSG;
	if (st.st_size < 0 || (uint64_t)st.st_size > max)
		return -EFBIG;
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return -ENOMEM;
	while (at < (size_t)st.st_size) {
		ssize_t n = pread(fd, text + at, (size_t)st.st_size - at, (off_t)at); /* other linkers may read the same open file */

		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		at += (size_t)n;
	}
	text[at] = '\0';
	*ret = take_ptr(text);
	*ret_size = at;
	return 0;
}

int linker_text_fd(const char *name, const char *text, size_t size)
{
	AUTO_FD fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return -errno;
	for (size_t at = 0; at < size;) {
		ssize_t n = write(fd, text + at, size - at);

		if (n < 0)
			return -errno;
		at += (size_t)n;
	}
	if (lseek(fd, 0, SEEK_SET) < 0)
		return -errno;
	return take_fd(&fd);
}

/* The broker's messages. */

static int on_signer(struct linker *k, int *fd)
{
	if (*fd < 0)
		return -EBADMSG;
	chan_close(&k->signer);
	chan_init(&k->signer, take_fd(fd));
	return 0;
}

static int on_trust(struct linker *k, const struct role_trust *m, int fd)
{
	AUTO_FREE(char) pem = NULL;
	size_t size = 0;
	int r = 0;

	if (m->window < FRAME_WINDOW_MIN || m->window > FRAME_WINDOW_MAX || m->timeout_ms == 0)
		return -EBADMSG;
	if (fd >= 0)
		r = linker_read_fd(fd, LIMIT_CHAIN_SIZE, &pem, &size);
	if (r == 0)
		r = tls_set_trust(k->tls, pem ? pem : "", size, m->trust_domain, m->host);
	if (r < 0) {
		log_error("linker.bad_roots", LOG_STR("error", log_errno_name(r)), LOG_STR("note", "the roots of before go on to count"));
		return r == -EBADMSG || r == -EFBIG ? 0 : r;
	}
	tls_set_authority(k->tls, m->authority);
	k->trust = *m;
	k->have_trust = true;
	peer_drop_tickets(k, ROLE_NO_ID);
	session_judge_all(k); /* a root may have been taken out */
	linker_wake_at(k, k->now_ns);
	return 0;
}

static int on_revoked(struct linker *k, int fd)
{
	AUTO_FREE(char) text = NULL;
	size_t size = 0;
	int r = fd < 0 ? -EBADMSG : linker_read_fd(fd, LIMIT_REVOKED_SIZE, &text, &size);

	if (r == 0)
		r = tls_set_revoked(k->tls, text, size);
	if (r == 0)
		session_judge_all(k);
	return r;
}

static int on_credential(struct linker *k, const struct role_credential *m, int fd)
{
	AUTO_FREE(char) pem = NULL;
	size_t size = 0;
	int r = fd < 0 ? -EBADMSG : linker_read_fd(fd, LIMIT_CHAIN_SIZE, &pem, &size);

	if (r == 0)
		r = tls_set_credential(k->tls, m->kid, pem, size);
	if (r < 0) {
		log_error("linker.bad_certificate", LOG_STR("spiffe_id", m->spiffe_id), LOG_STR("error", log_errno_name(r)));
		return r == -ENOMEM ? r : 0;
	}
	peer_drop_tickets(k, m->kid); /* they stand on the one before */
	session_renew(k, m->kid);
	linker_wake_at(k, k->now_ns);
	return 0;
}

static void on_forget(struct linker *k, uint32_t kid)
{
	session_forget(k, kid);
	peer_forget(k, kid);
	tls_forget(k->tls, kid);
}

static void on_goaway(struct linker *k, bool drain)
{
	if (!drain) {
		session_goaway_all(k);
		return;
	}
	k->draining = true;
	for (uint32_t i = 0; i < LIMIT_LINK_SESSIONS; i++)
		if (k->sessions[i].phase != PHASE_FREE)
			session_goaway(k, &k->sessions[i]);
}

static int on_stats(struct linker *k, uint32_t seq)
{
	struct linker_stats_job *job = &k->stats;

	if (job->n_askers == LINKER_STATS_ASKERS)
		return -EBADMSG;
	job->askers[job->n_askers++] = seq;
	job->at_lane = job->at_session = 0;
	return 0;
}

/* Return: 0 or negative errno; the broker said something that no broker of ours says. */
static int linker_message(struct linker *k, const struct role_msg *m, int *fd)
{
	switch (m->type) {
	case BL_SIGNER:
		return on_signer(k, fd);
	case BL_TRUST:
		return on_trust(k, &m->u.trust, *fd);
	case BL_REVOKED:
		return on_revoked(k, *fd);
	case BL_TICKETS:
		tls_set_tickets(k->tls, m->u.tickets.secrets, m->u.tickets.n);
		return 0;
	case BL_CREDENTIAL:
		return on_credential(k, &m->u.credential, *fd);
	case BL_FORGET:
		on_forget(k, m->u.id.id);
		return 0;
	case BL_LISTEN:
		return peer_listen(k, fd);
	case BL_UNLISTEN:
		peer_unlisten(k);
		return 0;
	case BL_HOST:
		peer_set_host(k, &m->u.host);
		return 0;
	case BL_HOST_GONE:
		peer_host_gone(k, m->u.id.id);
		return 0;
	case BL_DIALED:
		peer_dialed(k, &m->u.dialed, fd);
		return 0;
	case BL_CARRY:
		return peer_carry(k, &m->u.carry, fd);
	case BL_GO:
		return llane_go(k, &m->u.link_go, fd);
	case BL_NO:
		llane_no(k, &m->u.link_no);
		return 0;
	case BL_RECALL:
		llane_recall(k, m->u.lane_ref.lane_id);
		return 0;
	case BL_CUT:
		llane_cut(k, m->u.lane_ref.lane_id);
		return 0;
	case BL_LIMIT:
		llane_limit(k, &m->u.lane_ref);
		return 0;
	case BL_STATS:
		return on_stats(k, m->seq);
	case BL_ANNOUNCE:
		return announce_set(k, *fd);
	case BL_DRAIN:
	case BL_GOAWAY:
		on_goaway(k, m->type == BL_DRAIN);
		return 0;
	case BL_RDMA:
		linker_set_rdma_mode(k, m->u.rdma.mode);
		return 0;
	case BL_CA_OPEN:
		peer_dial_ca(k, &m->u.ca);
		return 0;
	case BL_CA_ASK:
		linker_ca_ask(k, &m->u.ca, *fd);
		return 0;
	case BL_CA_ANSWER:
		linker_ca_answer(k, &m->u.ca, *fd);
		return 0;
	default:
		return -EBADMSG;
	}
}

static void linker_channel_event(struct linker *k)
{
	struct role_msg m;

	for (int n = 0; n < MESSAGES_PER_TURN && k->error == 0; n++) {
		AUTO_FD fd = -1;
		int r = role_recv(&k->broker, &m, &fd);

		if (r == -EAGAIN)
			break;
		if (r == 1 && !k->have_trust && m.type != BL_TRUST && m.type != BL_SIGNER)
			r = -EBADMSG;
		else if (r == 1)
			r = linker_message(k, &m, &fd);
		else if (r == 0)
			r = LINKER_BROKER_LEFT;
		if (r < 0 && r != -ECONNRESET)
			log_error("linker.bad_message", LOG_STR("message", role_msg_name(m.type)), LOG_STR("error", log_errno_name(r)));
		if (r != 0)
			linker_fail(k, r);
	}
}

/* Statistics. */

static uint32_t session_rtt_us(const struct session *s)
{
	struct tcp_info info = {};
	socklen_t size = sizeof(info);

	return s->fd >= 0 && getsockopt(s->fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 ? info.tcpi_rtt : 0;
}

static void tell_session(struct linker *k, const struct session *s)
{
	struct role_msg m = { .type = LB_SESSION_STATS };

	m.u.session_stats = (struct role_session_stats){
		.session = session_cid(k, s), .n_lanes = s->n_lanes, .bytes_in = s->bytes_in, .bytes_out = s->bytes_out, .rdma_in = s->rdma_in,
		.rdma_out = s->rdma_out, .reads = s->n_reads,
		.writes = s->n_writes, .n_opened = s->n_opened, .n_refused = s->n_refused, .rtt_us = session_rtt_us(s),
		.silent_ms = s->heard_ns && k->now_ns > s->heard_ns ? (uint32_t)((k->now_ns - s->heard_ns) / 1000000) : 0,
	};
	linker_send(k, &m, -1);
}

static void tell_device(struct linker *k)
{
	struct remote_tally t = remote_tally(k->remote);
	struct role_msg m = { .type = LB_RDMA_STATS };

	m.u.rdma_stats = (struct role_rdma_stats){
		.n_conns = t.n_conns, .n_quarantined = t.n_quarantined, .pinned = t.pinned, .offences = t.offences,
	};
	linker_send(k, &m, -1);
}

static void linker_tell_stats(struct linker *k)
{
	struct linker_stats_job *job = &k->stats;
	struct role_msg m = { .type = LB_STATS };

	for (; job->n_askers > 0 && job->at_lane < LIMIT_LINK_LANES && k->broker.n_queued < CHAN_QUEUE_LOW; job->at_lane++) {
		const struct llane *l = &k->lanes[job->at_lane];

		if (l->state != LANE_OPEN && l->state != LANE_DRAINING)
			continue;
		m.u.stats = llane_stats(l);
		linker_send(k, &m, -1);
	}
	for (; job->n_askers > 0 && job->at_session < LIMIT_LINK_SESSIONS && k->broker.n_queued < CHAN_QUEUE_LOW; job->at_session++)
		if (k->sessions[job->at_session].phase == PHASE_UP)
			tell_session(k, &k->sessions[job->at_session]);
	if (job->at_session < LIMIT_LINK_SESSIONS)
		return;
	if (job->n_askers > 0 && k->remote)
		tell_device(k);
	for (uint32_t i = 0; i < job->n_askers; i++) {
		m = (struct role_msg){ .type = LB_STATS, .seq = job->askers[i] };
		linker_send(k, &m, -1);
	}
	*job = (struct linker_stats_job){};
}

/* The batch phase. */

static void linker_arm_channel(struct linker *k)
{
	bool want = chan_wants_write(&k->broker);
	int r;

	if (want == k->broker_armed)
		return;
	k->broker_armed = want;
	r = linker_epoll(k, EPOLL_CTL_MOD, k->broker.fd, EPOLLIN | (want ? EPOLLOUT : 0u), linker_ref(LINKER_EVENT_CHANNEL, 0));
	if (r < 0)
		linker_fail(k, r);
}

static void linker_run_session(struct linker *k, struct session *s)
{
	session_clean(s);
	if (session_work(k, s))
		session_dirty(k, s);
}

/* Those that have more to do than one turn go to the end, and have their next turn after all others. */
static void linker_run_sessions(struct linker *k)
{
	uint64_t at_ns = clock_ns(), until_ns = at_ns + TURN_NS;
	struct session *s;

	k->busy = k->dirty.n > 0;
	for (unsigned n = k->dirty.n; n > 0 && at_ns < until_ns && (s = TAILQ_FIRST(&k->dirty.list)); n--) {
		linker_run_session(k, s);
		at_ns = clock_ns();
	}
	k->strangers_wait = false;
	for (unsigned n = k->dirty_strangers.n; n > 0 && (s = TAILQ_FIRST(&k->dirty_strangers.list)) && stranger_may_work(k); n--) {
		linker_run_session(k, s);
		stranger_worked(k, at_ns);
		at_ns = clock_ns();
	}
	strangers_turn(k);
}

static void linker_tick(struct linker *k)
{
	uint64_t due, lanes_due;

	if (k->now_ns < k->tick_due_ns)
		return;
	k->tick_due_ns = UINT64_MAX;
	due = peer_tick(k);
	lanes_due = llane_tick(k);
	due = lanes_due < due ? lanes_due : due;
	for (uint32_t i = 0, left = k->n_sessions; i < LIMIT_LINK_SESSIONS && left > 0; i++)
		if (k->sessions[i].phase != PHASE_FREE) {
			uint64_t at = session_tick(k, &k->sessions[i]);

			due = at < due ? at : due;
			left--;
		}
	linker_wake_at(k, due < k->now_ns + TICK_MIN_NS ? k->now_ns + TICK_MIN_NS : due);
}

/* Sessions wait when the channel's queue is long; when it is short again they go on. */
static void linker_run_stalled(struct linker *k)
{
	k->stalled = false;
	for (uint32_t i = 0; i < LIMIT_LINK_SESSIONS; i++)
		if (k->sessions[i].phase >= PHASE_HANDSHAKE && (k->sessions[i].readable || rdma_has_data(&k->sessions[i])))
			session_dirty(k, &k->sessions[i]);
}

static void linker_batch(struct linker *k)
{
	int r;

	(void)rdma_poll(k);
	llane_unpause(k);
	(void)!rings_look(k, false);
	linker_tick(k);
	linker_run_sessions(k);
	session_reap(k);
	r = chan_flush(&k->broker);
	if (r < 0)
		linker_fail(k, r);
	if (k->stalled && !chan_wants_write(&k->broker))
		linker_run_stalled(k);
	linker_tell_stats(k);
	peer_rearm(k);
	linker_arm_channel(k);
}

/* The loop. */

static int linker_timeout_ms(const struct linker *k)
{
	uint64_t due = k->tick_due_ns, rdma_due = rdma_due_ns(k);

	if (k->dirty.n > 0 || k->dirty_strangers.n > 0 || !TAILQ_EMPTY(&k->over))
		return 0;
	if (!TAILQ_EMPTY(&k->paused) && k->paused_due_ns < due)
		due = k->paused_due_ns;
	due = rdma_due < due ? rdma_due : due;
	if (due == UINT64_MAX)
		return -1;
	if (due <= k->now_ns)
		return 0;
	due = (due - k->now_ns + 999999) / 1000000;
	return due > INT32_MAX ? INT32_MAX : (int)due;
}

static void linker_event(struct linker *k, const struct epoll_event *ev)
{
	uint32_t number = (uint32_t)ev->data.u64;
	struct session *s;
	struct llane *l;

	switch ((enum linker_event)(ev->data.u64 >> 32)) {
	case LINKER_EVENT_CHANNEL:
		linker_channel_event(k);
		break;
	case LINKER_EVENT_LISTENER:
		peer_accept(k, number);
		break;
	case LINKER_EVENT_SESSION:
		k->spin.carried++;
		s = session_find(k, number);
		if (s)
			session_event(k, s, ev->events);
		break;
	case LINKER_EVENT_REMOTE:
		k->remote_event = true;
		break;
	case LINKER_EVENT_LANE:
		k->spin.carried++;
		l = llane_find(k, number);
		if (l)
			llane_event(k, l, ev->events);
		break;
	}
}

static void linker_loop(struct linker *k)
{
	struct epoll_event events[EVENTS_PER_TURN];
	int n = 0, at = 0;

	while (k->error == 0) {
		/* Those that a turn had no time for are the next one's. */
		if (at >= n) {
			n = spin_wait(&k->spin, k->epoll_fd, events, EVENTS_PER_TURN, linker_timeout_ms(k));
			at = 0;
		}
		k->now_ns = clock_ns();
		if (n < 0 && errno == EINTR) {
			foreign_tick_stop(); /* a whole millisecond without work */
			continue;
		}
		if (n < 0)
			linker_fail(k, -errno);
		if (k->ticks)
			foreign_tick_start();
		do
			if (at < n)
				linker_event(k, &events[at++]);
		while (at < n && clock_ns() < k->now_ns + TURN_NS);
		linker_batch(k);
	}
}

/* Descriptors for lanes and sessions: take all that the administrator allows. */
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

static void linker_free(struct linker *k)
{
	linker_tables_free(k);
	peer_free(k);
	rdma_free(k);
	blob_unref(k->announce);
	linker_ca_free(k);
	tls_free(k->tls);
	chan_close(&k->signer);
	chan_close(&k->broker);
	fd_cleanup(&k->epoll_fd);
	free(k);
}

static bool linker_look(void *arg, bool sleeps)
{
	bool any = rings_look(arg, sleeps);

	return rdma_look(arg, sleeps) || any;
}

int linker_new(struct linker **ret, int channel_fd)
{
	struct linker *k = calloc(1, sizeof(*k));
	int r;

	if (!k) {
		close(channel_fd);
		return -ENOMEM;
	}
	/* What lanes keep is larger than malloc's usual threshold: a mapping made and dropped for each time that a reader is slow. */
	mallopt(M_MMAP_THRESHOLD, 16 << 20);
	mallopt(M_TRIM_THRESHOLD, 64 << 20);
	*k = (struct linker){ .now_ns = clock_ns(), .fd_limit = raise_fd_limit(), .signer.fd = -1, .tick_due_ns = UINT64_MAX, .strangers_at_ns = clock_ns(),
			      .kept_max = (uint64_t)LIMIT_LINK_KEPT_MIB << 20, .rings_max = (uint64_t)LIMIT_LINK_RINGS_MIB << 20,
			      .proven_max = LIMIT_LINK_SESSIONS_IN, .handshake_ns = HANDSHAKE_NS, .rdma_mode = RDMA_AUTO };
	memset(k->listeners, 0xff, sizeof(k->listeners)); /* -1 */
	chan_init(&k->broker, channel_fd);
	spin_init(&k->spin, true);
	k->spin.look = linker_look;
	k->spin.look_arg = k;
	linker_set_joiners_max(k, LIMIT_LINK_JOINERS);
	linker_set_waiting_max(k, LIMIT_LINK_CHUNKS_OF_ONE, (uint64_t)LIMIT_LINK_ANSWERS_OF_ONE_MIB << 20);
	k->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	r = k->epoll_fd < 0 ? -errno : linker_tables_init(k);
	if (r == 0)
		r = tls_new(&k->tls, linker_sign, k);
	if (r == 0)
		r = linker_epoll(k, EPOLL_CTL_ADD, channel_fd, EPOLLIN, linker_ref(LINKER_EVENT_CHANNEL, 0));
	if (r < 0)
		linker_free(k);
	else
		*ret = k;
	return r;
}

void linker_set_kept_max(struct linker *k, uint64_t size)
{
	k->kept_max = size;
}

void linker_set_rings_max(struct linker *k, uint64_t size)
{
	k->rings_max = size;
}

void linker_set_sessions_max(struct linker *k, unsigned n)
{
	k->proven_max = n;
}

void linker_set_joiners_max(struct linker *k, unsigned n)
{
	k->joiners_max = n;
}

void linker_set_waiting_max(struct linker *k, unsigned n_chunks, uint64_t answers_size)
{
	k->chunks_max = n_chunks;
	k->answers_max = answers_size;
}

void linker_set_handshake_ms(struct linker *k, unsigned ms)
{
	k->handshake_ns = ms * MS_NS;
}

int linker_run(struct linker *k)
{
	int r = foreign_tick_init();

	if (r == 0) {
		linker_loop(k);
		r = k->error > 0 ? 0 : k->error;
	}
	if (r < 0)
		log_error("linker.failed", LOG_STR("error", log_errno_name(r)));
	linker_free(k);
	foreign_tick_stop();
	return r;
}

int linker_isolate(void)
{
	int r = linker_isolate_paths(false);

	return r < 0 ? r : linker_isolate_calls(false);
}

static int take_device(struct linker *k, const struct role_rdma *m)
{
	struct role_msg told = { .type = LB_DEVICE };
	struct remote *device;
	int r = 0;

	linker_device_open(m, &device, &told.u.device);
	if (device)
		r = linker_set_remote(k, device, m->address);
	linker_set_rdma_mode(k, m->mode);
	linker_send(k, &told, -1);
	return r;
}

/* From here on as little as each step leaves. */
static int linker_start(struct linker **ret, const struct role_rdma *m)
{
	struct linker *k;
	int r = linker_new(&k, ROLE_CHANNEL_FD);

	if (r < 0)
		return r;
	r = linker_isolate_paths(m->mode != RDMA_OFF && m->address[0]);
	if (r == 0)
		r = take_device(k, m);
	if (r == 0)
		r = linker_isolate_calls(k->remote);
	if (r < 0)
		linker_free(k);
	else
		*ret = k;
	return r;
}

int linker_main(const struct daemon_options *o)
{
	struct role_rdma rdma;
	struct linker *k = NULL;
	int r;

	log_init("linker", o->verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO);
	linker_device_memlock();
	r = role_leave_root(o->user);
	if (r == 0)
		r = linker_device_hear(ROLE_CHANNEL_FD, &rdma);
	if (r == 0)
		return EXIT_SUCCESS; /* the broker left before it had said anything */
	if (r == 1)
		r = linker_start(&k, &rdma);
	if (r < 0) {
		log_error("linker.isolation_failed", LOG_STR("error", log_errno_name(r)));
		return EXIT_FAILURE;
	}
	log_debug("linker.start", LOG_STR("ciphers", tls_cipher_source(k->tls)));
	return linker_run(k) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
