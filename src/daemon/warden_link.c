/*
 * Theory of operation: linkers make no sockets and the broker neither, so both ask here. A socket that is dialled is handed out
 * while it connects, and is forgotten. One that listens is kept, here for a reload and in the keeper for the next daemon, so that
 * a restart refuses nobody: who dials meanwhile waits in the backlog. One that is not wanted any more is shut down and not only closed, since linkers and
 * the keeper still have it for a moment, and another address with the same port could not be listened at before all have let go.
 *
 * The signer is started before the first linker, and the broker hears of it first, since a linker is of no use without it. Both
 * are started again by themselves when they end; what that costs is the broker's to tell.
 *
 * Before this file: broker_link.c (BW_DIAL, BW_LISTEN_TCP), broker_ca.c (BW_CERTIFICATES). After it: linker.c, signer.c.
 * Must never: read from a socket, look up a name, or hand on what is no ordinary file.
 */
#include "daemon/warden_link.h"

#include "base/address.h"
#include "base/log.h"
#include "daemon/warden.h"

#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum {
	DELAY_FIRST_MS = 20,
	DELAY_LAST_MS = 5000,
	STEADY_MS = 10000,
	BACKLOG = 4096,		   /* as for socket files (warden_listen.c) */
	NOTSENT_LOWAT = 128 << 10, /* docs/design/link.md: what waits, waits where it is scheduled */
	CERTIFICATE_FILES_MAX = 2 * LIMIT_KEYS + 1,
};

/* ------------------------------------------------------------------ roles */

static void later(struct role_slot *s, unsigned ms)
{
	struct timeval tv = { .tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000) * 1000 };

	if (event_add(s->restart, &tv) < 0)
		log_error("warden.timer_failed", LOG_STR("error", "ENOMEM"));
}

static void start(struct role_slot *s)
{
	s->started_ns = clock_ns();
	if (warden_spawn_for_broker(s->w, s->role, s->index, s->type) < 0)
		later(s, DELAY_LAST_MS);
}

static void on_restart(evutil_socket_t fd, short what, void *arg)
{
	struct role_slot *s = arg;

	if (!s->w->stopping && s->w->broker.fd >= 0)
		start(s);
}

static int slot_init(struct warden *w, struct role_slot *s, uint32_t role, uint32_t index, uint32_t type)
{
	*s = (struct role_slot){ .w = w, .role = role, .index = index, .type = type, .delay_ms = DELAY_FIRST_MS };
	s->restart = evtimer_new(w->base, on_restart, s);
	return s->restart ? 0 : -ENOMEM;
}

int warden_link_open(struct warden *w)
{
	int r = slot_init(w, &w->link.signer, LAUNCH_SIGNER, 0, WB_SIGNER);

	for (uint32_t i = 0; r == 0 && i < LIMIT_LINKERS; i++)
		r = slot_init(w, &w->link.linkers[i], LAUNCH_LINKER, i, WB_LINKER);
	return r;
}

void warden_link_run(struct warden *w, uint32_t n)
{
#ifndef SEALANE_LINKS
	log_error("linker.failed", LOG_STR("why", "this sealaned was built without OpenSSL (meson -Dlinks=disabled): no lane goes to another host"));
	return;
#endif
	if (!w->link.running)
		start(&w->link.signer);
	w->link.running = true;
	for (n = n > LIMIT_LINKERS ? LIMIT_LINKERS : n; w->link.n_linkers < n; w->link.n_linkers++)
		start(&w->link.linkers[w->link.n_linkers]);
}

void warden_link_exited(struct warden *w, uint32_t role, uint32_t index)
{
	struct role_slot *s = role == LAUNCH_SIGNER ? &w->link.signer : &w->link.linkers[index];

	if (w->stopping || (role == LAUNCH_LINKER && index >= w->link.n_linkers))
		return;
	if (clock_ns() - s->started_ns > STEADY_MS * UINT64_C(1000000))
		s->delay_ms = DELAY_FIRST_MS;
	later(s, s->delay_ms);
	s->delay_ms = s->delay_ms * 2 > DELAY_LAST_MS ? DELAY_LAST_MS : s->delay_ms * 2;
}

/* ------------------------------------------------------------------ sockets */

const char *tcp_key(char *buf, const char *address)
{
	snprintf(buf, LIMIT_ADDRESS_SIZE + sizeof(WARDEN_TCP_PREFIX), WARDEN_TCP_PREFIX "%s", address);
	return buf;
}

static int set_int(int sock, int level, int option, int value)
{
	return setsockopt(sock, level, option, &value, sizeof(value)) < 0 ? -errno : 0;
}

/* What is accepted on a listening socket has its options from it. */
static int set_options(struct warden_link *l, int sock, const struct role_dial *d, char *why)
{
	int r = set_int(sock, IPPROTO_TCP, TCP_NODELAY, 1);

	if (r == 0)
		r = set_int(sock, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)d->timeout_ms);
	if (r == 0)
		r = set_int(sock, IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOTSENT_LOWAT);
	if (r < 0)
		return why_fail(why, r, "cannot set TCP's options for %s", d->address);
	if (!d->congestion[0] || setsockopt(sock, IPPROTO_TCP, TCP_CONGESTION, d->congestion, (socklen_t)strlen(d->congestion)) == 0)
		return 0;
	/* No reason to have no link at all: the kernel's own choice carries it as well. */
	if (!l->told_congestion)
		log_warn("link.no_congestion_control", LOG_STR("name", d->congestion), LOG_STR("error", log_errno_name(errno)),
			 LOG_STR("then", "the kernel's default is used; `sysctl net.ipv4.tcp_available_congestion_control` lists what there is"));
	l->told_congestion = true;
	return 0;
}

static int make_socket(struct warden_link *l, const struct role_dial *d, struct sockaddr_storage *ret_a, socklen_t *ret_size, char *why)
{
	AUTO_FD sock = -1;
	int r = address_parse(d->address, ret_a, ret_size);

	if (r < 0)
		return why_fail(why, r, "\"%s\" is no address", d->address);
	sock = socket(ret_a->ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
	if (sock < 0)
		return why_fail(why, -errno, "cannot make a TCP socket: %s", log_errno_name(errno));
	r = set_options(l, sock, d, why);
	return r < 0 ? r : take_fd(&sock);
}

int tcp_dial(struct warden_link *l, const struct role_dial *d, int *ret_fd, char *why)
{
	struct sockaddr_storage a;
	socklen_t size;
	AUTO_FD sock = make_socket(l, d, &a, &size, why);

	if (sock < 0)
		return sock;
	if (connect(sock, (struct sockaddr *)&a, size) < 0 && errno != EINPROGRESS)
		return why_fail(why, -errno, "cannot connect to %s: %s", d->address, log_errno_name(errno));
	*ret_fd = take_fd(&sock);
	return 0;
}

/* Is it what its name says? The keeper is ours, but its table may be of another version of us. */
static bool listens_at(int sock, const char *address)
{
	struct sockaddr_storage a = { 0 };
	char own[LIMIT_ADDRESS_SIZE];
	int on = 0;
	socklen_t n = sizeof(on), size = sizeof(a);

	if (getsockopt(sock, SOL_SOCKET, SO_ACCEPTCONN, &on, &n) < 0 || !on)
		return false;
	return getsockname(sock, (struct sockaddr *)&a, &size) == 0 && strcmp(address_format(own, &a), address) == 0;
}

static int make_listener(struct warden_link *l, const struct role_dial *d, char *why)
{
	struct sockaddr_storage a;
	socklen_t size;
	AUTO_FD sock = make_socket(l, d, &a, &size, why);
	int r;

	if (sock < 0)
		return sock;
	r = set_int(sock, SOL_SOCKET, SO_REUSEADDR, 1);
	/* [::] is IPv6 alone, whatever the machine's default: then each address has one form. */
	if (r == 0 && a.ss_family == AF_INET6)
		r = set_int(sock, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	if (r == 0 && bind(sock, (struct sockaddr *)&a, size) < 0)
		r = -errno;
	if (r == -EACCES)
		return why_fail(why, r, "cannot listen at %s: ports below 1024 are not for this daemon; choose another port", d->address);
	if (r == 0 && listen(sock, BACKLOG) < 0)
		r = -errno;
	if (r < 0)
		return why_fail(why, r, "cannot listen at %s: %s", d->address,
				r == -EADDRINUSE    ? "another program does"
				: r == -EADDRNOTAVAIL ? "this machine does not have the address"
						      : log_errno_name(r));
	return take_fd(&sock);
}

int tcp_listen(struct warden_link *l, const struct role_dial *d, int kept, int *ret_fd, bool *ret_is_new, char *why)
{
	char key[LIMIT_ADDRESS_SIZE + sizeof(WARDEN_TCP_PREFIX)];
	struct kept *known;
	AUTO_FD sock = kept;
	int r;

	*ret_is_new = false;
	HASH_FIND_STR(l->listening, tcp_key(key, d->address), known);
	if (known) {
		*ret_fd = known->fd;
		return set_options(l, known->fd, d, why);
	}
	if (sock >= 0 && (!listens_at(sock, d->address) || set_options(l, sock, d, why) < 0)) {
		close(take_fd(&sock));
		log_info("warden.not_adopted", LOG_STR("socket", key));
	}
	if (sock < 0) {
		sock = make_listener(l, d, why);
		*ret_is_new = true;
	}
	if (sock < 0)
		return sock;
	*ret_fd = sock;
	r = kept_put(&l->listening, key, sock);
	if (r == 0)
		take_fd(&sock);
	return r;
}

void tcp_unlisten(struct warden_link *l, const char *address)
{
	char key[LIMIT_ADDRESS_SIZE + sizeof(WARDEN_TCP_PREFIX)];
	struct kept *known;

	HASH_FIND_STR(l->listening, tcp_key(key, address), known);
	if (known)
		shutdown(known->fd, SHUT_RDWR);
	kept_remove(&l->listening, key);
}

static bool same_port(const char *a, const char *b)
{
	const char *port_a = strrchr(a, ':'), *port_b = strrchr(b, ':');

	return port_a && port_b && strcmp(port_a, port_b) == 0;
}

bool tcp_release_port(struct keeper_link *k, const char *address)
{
	struct kept *i, *next;
	bool any = false;

	HASH_ITER(hh, k->kept, i, next) {
		char name[LIMIT_ADDRESS_SIZE + sizeof(WARDEN_TCP_PREFIX)];
		int fd;

		if (strncmp(i->name, WARDEN_TCP_PREFIX, strlen(WARDEN_TCP_PREFIX)) != 0 || !same_port(i->name, address) || !str_copy(name, sizeof(name), i->name))
			continue;
		fd = keeper_take(k, name); /* frees @i */
		shutdown(fd, SHUT_RDWR);
		close(fd);
		if (keeper_drop(k, name) < 0)
			log_warn("warden.keeper_lost", LOG_STR("name", name));
		any = true;
	}
	return any;
}

/* ------------------------------------------------------------------ certificates */

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), k = strlen(end);

	return n > k && strcmp(s + n - k, end) == 0;
}

/* Return: descriptor; 0: nothing that is wanted; negative errno. */
static int open_certificate(int dir, const char *name, char *why)
{
	AUTO_FD fd = -1;
	struct stat st;

	if (name[0] == '.' || (strcmp(name, "roots.pem") != 0 && !ends_with(name, ".crt") && !ends_with(name, ".key")))
		return 0;
	if (strlen(name) >= LIMIT_PATH_SIZE)
		return 0;
	fd = openat(dir, name, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return why_fail(why, -errno, "cannot open %s: %s", name, log_errno_name(errno));
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return why_fail(why, -EINVAL, "%s is no ordinary file", name);
	if (st.st_size > LIMIT_CHAIN_SIZE)
		return why_fail(why, -EFBIG, "%s is larger than certificates or a key can be", name);
	return take_fd(&fd);
}

static int read_dir(DIR *d, void (*fn)(void *arg, const char *name, int fd), void *arg, char *why)
{
	const struct dirent *e;
	size_t n = 0;

	while ((e = readdir(d))) {
		int fd = open_certificate(dirfd(d), e->d_name, why);

		if (fd < 0)
			return fd;
		if (fd == 0)
			continue;
		if (++n > CERTIFICATE_FILES_MAX) {
			close(fd);
			return why_fail(why, -E2BIG, "more than %d certificates and keys", CERTIFICATE_FILES_MAX);
		}
		fn(arg, e->d_name, fd);
		close(fd);
	}
	return 0;
}

int certificates_read(const char *dir, void (*fn)(void *arg, const char *name, int fd), void *arg, char *why)
{
	AUTO_FD fd = dir[0] == '/' ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	DIR *d;
	int r;

	if (fd < 0)
		return why_fail(why, dir[0] == '/' ? -errno : -EINVAL, "cannot open the directory %s: %s", dir, log_errno_name(errno));
	d = fdopendir(fd);
	if (!d)
		return why_fail(why, -errno, "cannot read the directory %s", dir);
	take_fd(&fd); /* closedir()'s from here */
	r = read_dir(d, fn, arg, why);
	closedir(d);
	return r;
}
