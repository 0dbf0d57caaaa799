/*
 * Theory of operation: the broker's end of the channel to the signer. Every question has a number and gets one answer
 * (SB_REPLY), or -EPIPE when the signer goes first; so whoever asks is called exactly once. A signer that does not read, or breaks
 * the rules, is closed; the warden starts another, and ca_on_signer() tells it all again.
 *
 * Before it: broker_ca.c and its siblings. After it: signer.c.
 */
#include "daemon/broker_ca.h"
#include "daemon/broker_int.h"

/* Answers taken per turn of the loop. */
enum { MSGS_PER_TURN = 64 };

struct pending {
	uint32_t seq;
	signer_fn fn;
	void *arg;
	UT_hash_handle hh;
};

/* One signer at a time; what only this file needs. */
static struct {
	struct broker *b;
	struct chan chan;
	struct event *rd, *wr, *dead;
	struct pending *pending;
	uint32_t seq;
} g_signer = { .chan = { .fd = -1 } };

bool signer_is_up(void)
{
	return g_signer.chan.fd >= 0;
}

static void end(struct pending *p, const struct role_signed *r, int fd)
{
	HASH_DEL(g_signer.pending, p);
	p->fn(g_signer.b, p->arg, r, fd);
	free(p);
}

static void free_event(struct event **e)
{
	if (*e)
		event_free(*e);
	*e = NULL;
}

static void close_it(void)
{
	const struct role_signed gone = { .error = -EPIPE, .why = "the signer ended; the daemon starts another" };
	struct pending *p, *tmp, *all;

	free_event(&g_signer.rd);
	free_event(&g_signer.wr);
	free_event(&g_signer.dead);
	chan_close(&g_signer.chan);
	g_signer.chan.fd = -1;
	all = g_signer.pending; /* those who are told may ask again: that is refused at once, as nobody is there */
	HASH_ITER(hh, all, p, tmp)
		end(p, &gone, -1);
}

static void lost(int error)
{
	log_warn("signer.lost", LOG_STR("error", error ? log_errno_name(error) : NULL));
	close_it();
}

static void on_dead(evutil_socket_t fd, short what, void *arg)
{
	lost(-EPIPE);
}

static void on_reply(const struct role_msg *m, int fd)
{
	struct pending *p;

	HASH_FIND_INT(g_signer.pending, &m->seq, p);
	if (p)
		end(p, &m->u.signed_, fd);
	else
		fd_cleanup(&fd);
}

static void on_readable(evutil_socket_t sock, short what, void *arg)
{
	for (int i = 0; i < MSGS_PER_TURN && g_signer.chan.fd >= 0; i++) {
		struct role_msg m;
		AUTO_FD fd = -1;
		int r = role_recv(&g_signer.chan, &m, &fd);

		if (r == -EAGAIN || r == -EINTR)
			return;
		if (r <= 0 || m.type != SB_REPLY) {
			lost(r < 0 ? r : r == 0 ? 0 : -EBADMSG);
			return;
		}
		on_reply(&m, take_fd(&fd));
	}
}

static void on_writable(evutil_socket_t sock, short what, void *arg)
{
	int r = chan_flush(&g_signer.chan);

	if (r < 0)
		lost(r);
	else if (chan_wants_write(&g_signer.chan))
		event_add(g_signer.wr, NULL);
}

void signer_open(struct broker *b, int *fd)
{
	if (g_signer.chan.fd >= 0)
		close_it();
	if (*fd < 0)
		return;
	g_signer.b = b;
	chan_init(&g_signer.chan, take_fd(fd));
	g_signer.rd = event_new(b->base, g_signer.chan.fd, EV_READ | EV_PERSIST, on_readable, NULL);
	g_signer.wr = event_new(b->base, g_signer.chan.fd, EV_WRITE, on_writable, NULL);
	g_signer.dead = event_new(b->base, -1, 0, on_dead, NULL);
	if (!g_signer.rd || !g_signer.wr || !g_signer.dead || event_add(g_signer.rd, NULL) < 0) {
		log_error("signer.failed", LOG_STR("why", "no memory for its channel"));
		close_it();
	}
}

/* Whoever sends may be walking over what a loss changes: it is told in the loop. */
static int send_it(const struct role_msg *m, int fd)
{
	int r = g_signer.chan.fd >= 0 ? role_send(&g_signer.chan, m, fd) : -EPIPE;

	if (r == 0 && chan_wants_write(&g_signer.chan))
		event_add(g_signer.wr, NULL);
	if (r < 0 && g_signer.dead)
		event_active(g_signer.dead, EV_TIMEOUT, 1);
	return r;
}

void signer_ask(struct broker *b, struct role_msg *m, int fd, signer_fn fn, void *arg)
{
	struct role_signed no = { .error = -EPIPE, .why = "the signer does not run (yet)" };
	struct pending *p = g_signer.chan.fd >= 0 ? calloc(1, sizeof(*p)) : NULL;

	if (!p) {
		if (g_signer.chan.fd >= 0)
			no = (struct role_signed){ .error = -ENOMEM, .why = "the daemon has no memory" };
		fn(b, arg, &no, -1);
		return;
	}
	do
		m->seq = ++g_signer.seq;
	while (m->seq == 0);
	*p = (struct pending){ .seq = m->seq, .fn = fn, .arg = arg };
	HASH_ADD_INT(g_signer.pending, seq, p);
	if (send_it(m, fd) < 0 && !g_signer.dead)
		end(p, &no, -1);
}

void signer_tell(struct broker *b, struct role_msg *m, int fd)
{
	m->seq = 0;
	if (send_it(m, fd) < 0)
		return; /* a new one is told all of it again */
}
