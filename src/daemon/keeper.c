/*
 * Theory of operation: a table of descriptors by name, filled and emptied over RUN/keeper.sock by whoever is root there:
 * the warden. A descriptor that is held here keeps its socket alive, with all connections that wait in its backlog, while
 * there is no daemon. When the last connection closes, the grace period runs; if no daemon came by its end, the names of
 * the sockets are removed, so that clients get "no such file" instead of a connection that nobody will ever take.
 *
 * It stays root, since the names lie in directories that only root can write, but without capabilities, with no path but
 * RUN (Landlock) and with calls only to receive, list and unlink. It must never: connect, accept for itself anything
 * but its own channel, read a byte from anybody who is not root.
 */
#include "base/chan.h"
#include "base/foreign.h"
#include "base/isolate.h"
#include "base/log.h"
#include "daemon/roles.h"
#include "daemon/warden_files.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>

enum {
	/* A listening socket for each upstream and each workload, the leashes of both ends of each lane, a few of the guard's. */
	KEEPER_ITEMS = LIMIT_UPSTREAMS + LIMIT_WORKLOADS + 2 * LIMIT_LANES + 64,
	KEEPER_PEERS = 4, /* a daemon, a successor, --stop-keeper */
	GRACE_DEFAULT_MS = 30000,
	PEER_QUEUE = 64, /* items that wait in memory for a slow reader */
	PEER_WAIT_MS = 5000,
};

struct item {
	char *name;
	int fd;
	UT_hash_handle hh;
};

struct keeper {
	int listen_fd, run_fd;
	struct chan peers[KEEPER_PEERS];
	struct item *items;
	uint32_t grace_ms;
	uint64_t alone_since_ns; /* 0: a daemon is there */
};

static void item_drop(struct keeper *k, const char *name)
{
	struct item *i = NULL;

	HASH_FIND_STR(k->items, name, i);
	if (!i)
		return;
	HASH_DEL(k->items, i);
	close(i->fd);
	free(i->name);
	free(i);
}

static void item_store(struct keeper *k, const char *name, int *fd)
{
	struct item *i;

	item_drop(k, name);
	if (*fd < 0 || HASH_COUNT(k->items) >= KEEPER_ITEMS || !(i = calloc(1, sizeof(*i)))) {
		log_warn("keeper.refused", LOG_STR("name", name));
		return;
	}
	i->name = strdup(name);
	if (!i->name) {
		free(i);
		return;
	}
	i->fd = take_fd(fd);
	HASH_ADD_KEYPTR(hh, k->items, i->name, strlen(i->name), i);
}

static void peer_send(struct chan *c, const struct role_msg *m, int fd)
{
	if (role_send(c, m, fd) < 0)
		chan_close(c);
}

/* The one who fetches reads at once, so waiting for it here is short; one who does not is given up. */
static void peer_drain(struct chan *c)
{
	foreign_tick_stop(); /* it would cut the wait short */
	while (c->fd >= 0 && c->n_queued > PEER_QUEUE) {
		struct pollfd p = { .fd = c->fd, .events = POLLOUT };

		if (poll(&p, 1, PEER_WAIT_MS) <= 0 || chan_flush(c) < 0)
			chan_close(c);
	}
}

static void send_items(struct keeper *k, struct chan *c)
{
	struct role_msg end = { .type = KW_END };
	struct item *i, *next;

	HASH_ITER(hh, k->items, i, next) {
		struct role_msg m = { .type = KW_ITEM };

		if (str_copy(m.u.store.name, sizeof(m.u.store.name), i->name))
			peer_send(c, &m, i->fd);
		peer_drain(c);
	}
	foreign_tick_start();
	peer_send(c, &end, -1);
}

static void on_peer_msg(struct keeper *k, struct chan *c, const struct role_msg *m, int *fd)
{
	switch (m->type) {
	case WK_STORE:
		item_store(k, m->u.store.name, fd);
		break;
	case WK_DROP:
		item_drop(k, m->u.store.name);
		break;
	case WK_FETCH:
		send_items(k, c);
		break;
	case WK_GRACE:
		k->grace_ms = m->u.grace.grace_ms;
		break;
	default:
		log_error("keeper.unexpected_message", LOG_STR("type", role_msg_name(m->type)));
		chan_close(c);
	}
}

static void read_peer(struct keeper *k, struct chan *c)
{
	while (c->fd >= 0) {
		struct role_msg m;
		AUTO_FD fd = -1;
		int r = role_recv(c, &m, &fd);

		if (r == -EAGAIN || r == -EINTR)
			return;
		if (r <= 0) {
			chan_close(c);
			return;
		}
		on_peer_msg(k, c, &m, &fd);
	}
}

static void accept_peer(struct keeper *k)
{
	AUTO_FD fd = accept4(k->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred who;
	socklen_t n = sizeof(who);

	/* The file's mode keeps others out already; a descriptor of the socket that leaked must not help them either. */
	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n) < 0 || who.uid != 0)
		return;
	for (size_t i = 0; i < KEEPER_PEERS; i++) {
		if (k->peers[i].fd >= 0)
			continue;
		chan_init(&k->peers[i], take_fd(&fd));
		return;
	}
}

static bool has_peers(const struct keeper *k)
{
	for (size_t i = 0; i < KEEPER_PEERS; i++)
		if (k->peers[i].fd >= 0)
			return true;
	return false;
}

/* Milliseconds until the grace period is over; -1: it does not run. */
static int grace_left(struct keeper *k)
{
	uint64_t now = clock_ns(), end;

	if (has_peers(k)) {
		k->alone_since_ns = 0;
		return -1;
	}
	if (k->alone_since_ns == 0)
		k->alone_since_ns = now;
	end = k->alone_since_ns + k->grace_ms * 1000000ull;
	return end <= now ? 0 : (int)((end - now) / 1000000u) + 1;
}

static void turn(struct keeper *k, int timeout_ms)
{
	struct pollfd p[KEEPER_PEERS + 1] = { { .fd = k->listen_fd, .events = POLLIN } };

	for (size_t i = 0; i < KEEPER_PEERS; i++)
		p[i + 1] = (struct pollfd){ .fd = k->peers[i].fd,
					    .events = (short)(POLLIN | (chan_wants_write(&k->peers[i]) ? POLLOUT : 0)) };
	if (poll(p, ARRAY_SIZE(p), timeout_ms) <= 0)
		return;
	foreign_tick_start();
	for (size_t i = 0; i < KEEPER_PEERS; i++) {
		struct chan *c = &k->peers[i];

		if (p[i + 1].revents & POLLOUT && chan_flush(c) < 0)
			chan_close(c);
		if (p[i + 1].revents & (POLLIN | POLLHUP | POLLERR))
			read_peer(k, c);
	}
	if (p[0].revents & POLLIN)
		accept_peer(k);
	foreign_tick_stop();
}

static const struct isolate_call g_keeper_calls[] = {
	{ .name = "accept4" }, { .name = "openat2" }, { .name = "openat" }, { .name = "getdents64" }, { .name = "unlinkat" },
	{ .name = "statx" },
	{ .name = NULL },
};

static int keeper_isolate(const struct daemon_options *o)
{
	int r;

	tzset();
	r = isolate_caps(NULL, 0);
	if (r == 0)
		r = isolate_paths(&o->run_dir, 1);
	return r == 0 ? isolate_calls(g_keeper_calls) : r;
}

/* @poll returns early only for what must be looked at, so this is the whole life: items come and go, or grace ends. */
static void keeper_serve(struct keeper *k)
{
	int left;

	while ((left = grace_left(k)) != 0)
		turn(k, left);
	log_info("keeper.end", LOG_U64("items", HASH_COUNT(k->items)));
	files_remove_names(k->run_fd);
	unlinkat(k->run_fd, "keeper.sock", 0);
}

int keeper_main(const struct daemon_options *o)
{
	struct keeper k = { .listen_fd = ROLE_CHANNEL_FD, .run_fd = -1, .grace_ms = GRACE_DEFAULT_MS };
	int r;

	log_init("keeper", o->verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	for (size_t i = 0; i < KEEPER_PEERS; i++)
		k.peers[i].fd = -1;
	k.run_fd = open(o->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = k.run_fd < 0 ? -errno : keeper_isolate(o);
	if (r == 0)
		r = foreign_tick_init();
	if (r < 0) {
		log_error("keeper.failed", LOG_STR("error", log_errno_name(r)));
		return 1;
	}
	keeper_serve(&k);
	return 0;
}
