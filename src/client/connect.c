/*
 * Theory of operation: how a lane comes to be. Each end makes its region, hands it to the daemon on the workload's control socket, and
 * gets the other's back with a bell and the other's name; wire/control.h is the conversation. The daemon decides; nothing here does.
 *
 * The connection stays open as the lane's leash (a client), or brings offers (a listener). When the daemon is away a listener looks
 * for it again by itself: its descriptor, an epoll set of our own, becomes readable when it is time to.
 */
#include "client/lane.h"

#include <poll.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>

#define CONNECT_NS INT64_C(5000000000)
/* Between two looks for a daemon that is away, or whose backlog is full. */
#define RETRY_NS 50000000L

enum { RING_BYTES = 256 << 10 };

struct sealane_listener {
	int sock;     /* -1: the daemon is away */
	int epoll_fd; /* what the application polls: holds the socket, and the timer while there is none */
	int timer_fd;
	struct sealane_options options; /* `as` and `dir` point nowhere */
	char service[LIMIT_SERVICE_SIZE];
	char dir[sizeof(((struct sockaddr_un *)0)->sun_path)];
	const struct region *shared; /* lane_listen_shared() */
	int shared_fd;
};

/* A caller compiled with a younger header may have more options than we know; those must be zero. */
int lane_options_read(struct sealane_options *ret, const struct sealane_options *o)
{
	static const struct sealane_options none = SEALANE_OPTIONS_INIT;
	const unsigned char *bytes = (const unsigned char *)o;

	*ret = none;
	if (!o)
		return 0;
	if (o->size < sizeof(o->size))
		return lane_fail(-EINVAL, "options without a size: start from SEALANE_OPTIONS_INIT");
	for (size_t i = sizeof(*o); i < o->size; i++)
		if (bytes[i])
			return lane_fail(-EINVAL, "an option that this library (%s) does not know: install a newer one", SEALANE_VERSION);
	memcpy(ret, o, o->size < sizeof(*o) ? o->size : sizeof(*o));
	ret->size = sizeof(*ret);
	if ((unsigned)ret->kind > SEALANE_FANOUT || (unsigned)ret->wait > SEALANE_WAIT_BLOCK)
		return lane_fail(-EINVAL, "options: no such kind (%d) or way to wait (%d)", (int)ret->kind, (int)ret->wait);
	if (ret->ring_bytes > shm_cap(SHM_CAP_LOG2_MAX))
		return lane_fail(-EINVAL, "ring_bytes %llu: the largest ring is %llu bytes", (unsigned long long)ret->ring_bytes,
				 (unsigned long long)shm_cap(SHM_CAP_LOG2_MAX));
	return 0;
}

uint32_t lane_options_cap_log2(const struct sealane_options *o)
{
	return region_cap_log2(o->ring_bytes ? o->ring_bytes : RING_BYTES);
}

static const char *options_dir(const struct sealane_options *o)
{
	const char *dir = o->dir ? o->dir : getenv("SEALANE_DIR");

	return dir && *dir ? dir : "/run/sealane";
}

static void nap(void)
{
	struct timespec ts = { .tv_nsec = RETRY_NS };

	nanosleep(&ts, NULL);
}

/* Return: a connected descriptor; -SEALANE_E_NO_DAEMON; other negative errno. */
static int dial(const char *dir, uint64_t deadline)
{
	AUTO_FD fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int n = snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/control.sock", dir);

	if (fd < 0)
		return lane_fail(-errno, "no socket: %s", sealane_strerror(-errno));
	if (n < 0 || (size_t)n >= sizeof(addr.sun_path))
		return lane_fail(-ENAMETOOLONG, "%s/control.sock is longer than a socket's name may be", dir);
	while (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		if (errno == EAGAIN && clock_ns() < deadline) {
			nap(); /* its backlog is full */
			continue;
		}
		if (errno == ENOENT || errno == ECONNREFUSED)
			return lane_fail(-SEALANE_E_NO_DAEMON,
					 "%s: %s; is this container enrolled, its directory mounted, and sealaned running?", addr.sun_path,
					 sealane_strerror(-errno));
		return lane_fail(-errno, "%s: %s", addr.sun_path, sealane_strerror(-errno));
	}
	return take_fd(&fd);
}

static int ask_error(const struct control_error *e, const char *service)
{
	static const struct {
		int from, to;
	} names[] = {
		{ EACCES, SEALANE_E_DENIED },	    { ENOENT, SEALANE_E_NO_SERVICE }, { ECONNREFUSED, SEALANE_E_NO_SERVICE },
		{ EDQUOT, SEALANE_E_LIMIT },	    { EPROTONOSUPPORT, SEALANE_E_VERSION }, { ECANCELED, SEALANE_E_CUT },
	};
	int error = e->error < 0 && e->error > -SEALANE_E_PROTOCOL ? e->error : -EPROTO;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (error == -names[i].from)
			error = -names[i].to;
	return lane_fail(error, "%s: %s", service, e->why);
}

/*
 * The next message on @fd, which must be a @type. @ret_fds: as control_recv().
 * Return: 0; -EAGAIN, -ETIMEDOUT; -SEALANE_E_NO_DAEMON: it closed; what it said.
 */
static int await(int fd, struct control_msg *ret, int ret_fds[CONTROL_FDS], enum control_type type, const char *service, uint64_t deadline)
{
	int r;

	while ((r = control_recv(fd, ret, ret_fds)) == -EAGAIN || r == -EINTR) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		int64_t left = lane_time_left(deadline);
		struct timespec ts = { .tv_sec = (time_t)(left / 1000000000), .tv_nsec = (long)(left % 1000000000) };

		if (left == SEALANE_NOWAIT)
			return -EAGAIN;
		if (ppoll(&p, 1, left == SEALANE_FOREVER ? NULL : &ts, NULL) == 0)
			return lane_fail(-ETIMEDOUT, "%s: no answer in time: the daemon is away or busy, or the server does not accept", service);
	}
	if (r == 0 || r == -ECONNRESET)
		return lane_fail(-SEALANE_E_NO_DAEMON, "%s: the daemon closed the connection", service);
	if (r < 0)
		return lane_fail(r == -EPROTONOSUPPORT ? -SEALANE_E_VERSION : r, "%s: the daemon's answer makes no sense to this library (%s)",
				 service, SEALANE_VERSION);
	if (ret->type == type)
		return 0;
	for (size_t i = 0; i < CONTROL_FDS; i++)
		fd_cleanup(&ret_fds[i]);
	if (ret->type == CTL_ERROR)
		return ask_error(&ret->u.error, service);
	return lane_fail(-EPROTO, "%s: the daemon answered something else than was asked", service);
}

static int fill_ask(struct control_msg *m, enum control_type type, const char *service, const struct sealane_options *o)
{
	*m = (struct control_msg){ .type = type, .version = CONTROL_VERSION };
	m->u.ask.kind = (uint32_t)o->kind;
	m->u.ask.flags = o->wait == SEALANE_WAIT_SPIN ? CONTROL_SPINS : 0;
	m->u.ask.cap_log2 = type == CTL_CONNECT ? lane_options_cap_log2(o) : 0;
	if (!str_copy(m->u.ask.service, sizeof(m->u.ask.service), service) || !str_copy(m->u.ask.as, sizeof(m->u.ask.as), o->as ? o->as : ""))
		return lane_fail(-EINVAL, "%s: a service's name has at most %zu characters", service, sizeof(m->u.ask.service) - 1);
	return 0;
}

/* Both ends: the other's region, and a lane of all the parts. Takes over what @parts holds, also when it fails. */
static int finish(struct sealane_lane **ret, struct lane_parts *parts, const struct control_lane *l, int peer_fd)
{
	int r = region_map_peer(&parts->peer, peer_fd, l->cap_log2);

	if (r < 0) {
		lane_parts_drop(parts);
		return lane_fail(r == -EPROTO ? -SEALANE_E_PROTOCOL : r, "the memory of %s: %s", l->peer.service,
				 r == -EPROTO ? "it is not a sealed region" : sealane_strerror(r));
	}
	parts->lane_id = l->lane_id;
	parts->identity = &l->peer;
	parts->path = l->path;
	parts->peer_spins = l->flags & CONTROL_SPINS;
	r = lane_make(ret, parts);
	return r == -ENOMEM ? lane_fail(r, "no memory for a lane") : r;
}

static int no_memory(int r, uint32_t cap_log2)
{
	return lane_fail(r, "%llu bytes of shared memory for the lane: %s", (unsigned long long)shm_region_size(cap_log2), sealane_strerror(r));
}

static int do_connect(struct sealane_lane **ret, const char *service, const struct sealane_options *o)
{
	uint64_t deadline = lane_deadline(o->timeout_ns ? o->timeout_ns : CONNECT_NS);
	struct lane_parts parts = { .bell = -1, .leash = -1, .kind = o->kind, .wait = o->wait };
	AUTO_FD fd = dial(options_dir(o), deadline);
	AUTO_FD region_fd = -1;
	int fds[CONTROL_FDS], r;
	struct control_msg m;

	if (fd < 0)
		return fd;
	r = fill_ask(&m, CTL_CONNECT, service, o);
	if (r < 0)
		return r;
	r = region_create(&parts.own, &region_fd, m.u.ask.cap_log2, 0);
	if (r < 0)
		return no_memory(r, m.u.ask.cap_log2);
	r = control_send(fd, &m, &region_fd);
	if (r < 0)
		lane_fail(r, "%s: the daemon does not take the request: %s", service, sealane_strerror(r));
	if (r == 0 || r == -EPIPE) /* it may have said why before it closed */
		r = await(fd, &m, fds, CTL_OPEN, service, deadline);
	if (r < 0) {
		region_unmap(&parts.own);
		return r;
	}
	parts.bell = fds[1];
	parts.leash = take_fd(&fd);
	r = finish(ret, &parts, &m.u.lane, fds[0]);
	fd_cleanup(&fds[0]);
	return r;
}

int sealane_connect(struct sealane_lane **ret, const char *service, const struct sealane_options *options)
{
	struct sealane_options o;
	int r = lane_options_read(&o, options);

	*ret = NULL;
	return r < 0 ? r : do_connect(ret, service, &o);
}

/* Connects and asks; the answer comes as a message like any other. Return: 0; -SEALANE_E_NO_DAEMON; negative. */
static int listener_dial(struct sealane_listener *l, uint64_t deadline)
{
	struct epoll_event ev = { .events = EPOLLIN };
	AUTO_FD sock = dial(l->dir, deadline);
	struct control_msg m;
	int r;

	if (sock < 0)
		return sock;
	r = fill_ask(&m, CTL_LISTEN, l->service, &l->options);
	if (r == 0)
		r = control_send(sock, &m, NULL);
	if (r < 0 && r != -EPIPE) /* it may have said why before it closed */
		return lane_fail(r, "%s: the daemon does not take the request: %s", l->service, sealane_strerror(r));
	if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, sock, &ev) < 0)
		return lane_fail(-errno, "no descriptor: %s", sealane_strerror(-errno));
	l->sock = take_fd(&sock);
	return 0;
}

/* The daemon is away: the descriptor becomes readable when it is time to look for it again. */
static void listener_hang_up(struct sealane_listener *l)
{
	struct itimerspec soon = { .it_value.tv_nsec = RETRY_NS };

	fd_cleanup(&l->sock);
	l->sock = -1;
	if (timerfd_settime(l->timer_fd, 0, &soon, NULL) < 0)
		return; /* cannot be: the time is sound */
}

static int listener_open(struct sealane_listener *l, const char *service, const struct sealane_options *options)
{
	struct epoll_event ev = { .events = EPOLLIN };
	int r = lane_options_read(&l->options, options);

	if (r < 0)
		return r;
	if (!str_copy(l->service, sizeof(l->service), service) || !str_copy(l->dir, sizeof(l->dir), options_dir(&l->options)))
		return lane_fail(-EINVAL, "%s: the name of the service or of the directory is too long", service);
	l->options.as = l->options.dir = NULL;
	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	l->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (l->epoll_fd < 0 || l->timer_fd < 0 || epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, l->timer_fd, &ev) < 0)
		return lane_fail(-errno, "no descriptors for a listener: %s", sealane_strerror(-errno));
	return 0;
}

int sealane_listen(struct sealane_listener **ret, const char *service, const struct sealane_options *options)
{
	struct sealane_listener *l = calloc(1, sizeof(*l));
	struct control_msg m;
	int fds[CONTROL_FDS], r;

	*ret = NULL;
	if (!l)
		return lane_fail(-ENOMEM, "no memory for a listener");
	l->sock = l->epoll_fd = l->timer_fd = -1;
	r = listener_open(l, service, options);
	if (r == 0) {
		uint64_t deadline = lane_deadline(l->options.timeout_ns ? l->options.timeout_ns : CONNECT_NS);

		r = listener_dial(l, deadline);
		if (r == 0)
			r = await(l->sock, &m, fds, CTL_LISTENING, l->service, deadline);
	}
	if (r < 0)
		sealane_listener_close(l);
	else
		*ret = l;
	return r;
}

/* Our half of an offered lane: the region goes to the daemon on the leash. */
static int take_offer(struct sealane_listener *l, struct sealane_lane **ret, const struct control_lane *offer, int fds[CONTROL_FDS])
{
	struct lane_parts parts = { .bell = fds[1], .leash = fds[2], .kind = (enum sealane_kind)offer->kind, .wait = l->options.wait };
	struct control_msg m = { .type = CTL_ACCEPT, .version = CONTROL_VERSION };
	AUTO_FD peer_fd = fds[0];
	AUTO_FD region_fd = -1;
	int r;

	m.u.lane.cap_log2 = l->shared ? l->shared->cap_log2 : lane_options_cap_log2(&l->options);
	m.u.lane.kind = offer->kind;
	m.u.lane.flags = l->options.wait == SEALANE_WAIT_SPIN ? CONTROL_SPINS : 0;
	if (l->shared) {
		parts.own = *l->shared;
		parts.own_shared = true;
		r = 0;
	} else {
		r = region_create(&parts.own, &region_fd, m.u.lane.cap_log2, 0);
	}
	if (r < 0)
		no_memory(r, m.u.lane.cap_log2);
	else
		r = control_send(parts.leash, &m, l->shared ? &l->shared_fd : &region_fd);
	if (r == 0)
		return finish(ret, &parts, offer, peer_fd);
	lane_parts_drop(&parts); /* the daemon refuses the client */
	return r;
}

/* One message of the daemon's. Return: 1: @ret is a lane; 0: look again; -EAGAIN: nothing there; negative: tell the caller. */
static int listener_step(struct sealane_listener *l, struct sealane_lane **ret)
{
	struct control_msg m;
	int fds[CONTROL_FDS], r = control_recv(l->sock, &m, fds);

	if (r == -EAGAIN || r == -EINTR)
		return -EAGAIN;
	if (r <= 0) { /* it closed, or talks nonsense */
		listener_hang_up(l);
		return 0;
	}
	if (m.type == CTL_OFFER) {
		r = take_offer(l, ret, &m.u.lane, fds);
		/* a client that left meanwhile is none of the caller's business */
		return r == 0 ? 1 : r == -EPIPE || r == -ECONNRESET ? 0 : r;
	}
	for (size_t i = 0; i < CONTROL_FDS; i++)
		fd_cleanup(&fds[i]);
	if (m.type != CTL_ERROR)
		return 0; /* CTL_LISTENING, once more after the daemon came back */
	listener_hang_up(l);
	return ask_error(&m.u.error, l->service);
}

/* Sleeps until the daemon says something, or it is time to look for it. Return: 0; -EAGAIN, -ETIMEDOUT. */
static int listener_wait(struct sealane_listener *l, uint64_t deadline)
{
	struct pollfd p = { .fd = l->epoll_fd, .events = POLLIN };
	int64_t left = lane_time_left(deadline);
	struct timespec ts = { .tv_sec = (time_t)(left / 1000000000), .tv_nsec = (long)(left % 1000000000) };

	if (left == SEALANE_NOWAIT)
		return -EAGAIN;
	return ppoll(&p, 1, left == SEALANE_FOREVER ? NULL : &ts, NULL) == 0 ? lane_fail(-ETIMEDOUT, "%s: no lane in time", l->service) : 0;
}

/* Is there a daemon to listen to? Return: 0; -SEALANE_E_NO_DAEMON; negative. */
static int listener_look(struct sealane_listener *l)
{
	uint64_t n;
	int r;

	if (read(l->timer_fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
		return -errno;
	if (l->sock >= 0)
		return 0;
	r = listener_dial(l, 0);
	if (r < 0)
		listener_hang_up(l);
	return r;
}

void lane_listen_shared(struct sealane_listener *l, const struct region *shared, int shared_fd)
{
	l->shared = shared;
	l->shared_fd = shared_fd;
}

int sealane_accept(struct sealane_listener *l, struct sealane_lane **ret, int64_t timeout_ns)
{
	uint64_t deadline = lane_deadline(timeout_ns);

	*ret = NULL;
	for (;;) {
		int away = listener_look(l), r = away < 0 ? -EAGAIN : listener_step(l, ret);

		if (away < 0 && away != -SEALANE_E_NO_DAEMON)
			return away;
		if (r == 1)
			return 0;
		if (r == 0)
			continue;
		if (r == -EAGAIN)
			r = listener_wait(l, deadline);
		if (r < 0)
			return away < 0 ? away : r;
	}
}

int sealane_listener_fd(struct sealane_listener *l)
{
	return l->epoll_fd;
}

void sealane_listener_close(struct sealane_listener *l)
{
	if (!l)
		return;
	fd_cleanup(&l->sock);
	fd_cleanup(&l->timer_fd);
	fd_cleanup(&l->epoll_fd);
	free(l);
}
