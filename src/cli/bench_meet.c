#include "cli/bench_meet.h"

#include "base/address.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/random.h>

enum { CONNECT_S = 10 };

int bench_meet_parse(const char *text, struct sockaddr_storage *ret, socklen_t *ret_size)
{
	char with_port[BENCH_ADDRESS_SIZE];

	if (address_parse(text, ret, ret_size) == 0)
		return 0;
	if ((size_t)snprintf(with_port, sizeof(with_port), "%s:%d", text, BENCH_PORT) < sizeof(with_port) &&
	    address_parse(with_port, ret, ret_size) == 0)
		return 0;
	return -EINVAL;
}

uint16_t bench_meet_port(const struct sockaddr_storage *a)
{
	return ntohs(a->ss_family == AF_INET6 ? ((const struct sockaddr_in6 *)a)->sin6_port : ((const struct sockaddr_in *)a)->sin_port);
}

void bench_meet_set_port(struct sockaddr_storage *a, uint16_t port)
{
	if (a->ss_family == AF_INET6)
		((struct sockaddr_in6 *)a)->sin6_port = htons(port);
	else
		((struct sockaddr_in *)a)->sin_port = htons(port);
}

/* @fd is ready for @events within the set-up's time. */
static int await(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };
	int n;

	do
		n = poll(&p, 1, BENCH_SETUP_MS);
	while (n < 0 && errno == EINTR);
	return n > 0 ? 0 : n == 0 ? -ETIMEDOUT : -errno;
}

int bench_meet_dial(const struct sockaddr_storage *to, socklen_t size, int *ret)
{
	AUTO_FD fd = socket(to->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct timeval limit = { .tv_sec = CONNECT_S };
	int one = 1;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)); /* connect() takes it too */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(fd, (const struct sockaddr *)to, size) < 0)
		return errno == EINPROGRESS ? -ETIMEDOUT : -errno;
	*ret = take_fd(&fd);
	return 0;
}

int bench_meet_listen(const struct sockaddr_storage *a, socklen_t size, int *ret)
{
	AUTO_FD fd = socket(a->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int one = 1;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (const struct sockaddr *)a, size) < 0 || listen(fd, 4) < 0)
		return -errno;
	*ret = take_fd(&fd);
	return 0;
}

int bench_meet_take(int listener, int *ret)
{
	struct timeval limit = { .tv_sec = BENCH_SETUP_MS / 1000 };
	int one = 1, fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	*ret = fd;
	return 0;
}

/* The second connection, for what is served: whose first bytes are the first token. */
static int data_dial(struct bench_side *s, const struct sockaddr_storage *to, socklen_t size, const uint8_t *token)
{
	int r = bench_meet_dial(to, size, &s->data);

	return r == 0 && send(s->data, token, REMOTE_TOKEN_SIZE, MSG_NOSIGNAL) != REMOTE_TOKEN_SIZE ? -ECONNRESET : r;
}

static int data_take(struct bench_side *s, int listener, const uint8_t *token)
{
	uint8_t got[REMOTE_TOKEN_SIZE];
	int r = await(listener, POLLIN);

	if (r == 0)
		r = bench_meet_take(listener, &s->data);
	if (r == 0)
		r = await(s->data, POLLIN);
	if (r == 0 && (recv(s->data, got, sizeof(got), MSG_DONTWAIT) != sizeof(got) || memcmp(got, token, sizeof(got)) != 0))
		r = -EPROTO;
	return r;
}

int bench_meet_client(struct bench_side *s, const struct sockaddr_storage *to, socklen_t size, uint16_t port)
{
	struct bench_msg hello = { .kind = BENCH_HELLO, .u.hello.port = port }, answer;
	struct sockaddr_storage there = *to;
	char address[BENCH_ADDRESS_SIZE];
	int r;

	if (getrandom(&hello.u.hello.token, sizeof(hello.u.hello.token), 0) != sizeof(hello.u.hello.token) ||
	    getrandom(s->secret, sizeof(s->secret), 0) != sizeof(s->secret))
		return -EIO;
	memcpy(hello.u.hello.secret, s->secret, sizeof(s->secret));
	r = bench_side_put(s, &hello);
	if (r == 0)
		r = bench_side_take(s, BENCH_HELLO, &answer);
	if (r < 0)
		return r;
	if (port == 0 || answer.u.hello.port == 0) {
		remote_free(s->r);
		s->r = NULL;
		r = data_dial(s, to, size, hello.u.hello.token[0]);
	} else {
		bench_meet_set_port(&there, answer.u.hello.port);
	}
	return r == 0 ? bench_side_join(s, address_format(address, &there), hello.u.hello.token) : r;
}

int bench_meet_server(struct bench_side *s, int listener, uint16_t port)
{
	struct bench_msg hello, answer = { .kind = BENCH_HELLO, .u.hello.port = port };
	bool serves;
	int r = bench_side_take(s, BENCH_HELLO, &hello);

	if (r < 0)
		return r;
	memcpy(s->secret, hello.u.hello.secret, sizeof(s->secret));
	serves = port == 0 || hello.u.hello.port == 0;
	if (!serves)
		r = bench_side_join(s, NULL, hello.u.hello.token);
	if (r == 0)
		r = bench_side_put(s, &answer);
	if (r < 0 || !serves)
		return r;
	remote_free(s->r);
	s->r = NULL;
	r = data_take(s, listener, hello.u.hello.token[0]);
	return r == 0 ? bench_side_join(s, NULL, hello.u.hello.token) : r;
}

int bench_meet_device(struct bench_side *s, const struct sockaddr_storage *a, uint16_t *ret_port, const char **ret_why)
{
	uint16_t port = (uint16_t)(bench_meet_port(a) < UINT16_MAX - 1000 ? bench_meet_port(a) + 1 : BENCH_PORT);
	int r = bench_side_device(s, a, &port, ret_why);

	*ret_port = r == 0 ? port : 0;
	return r < 0 ? r : 0;
}

void bench_meet_here(struct sockaddr_storage *ret, socklen_t *ret_size)
{
	struct ifaddrs *all = NULL, *i;
	bool found = false;

	if (getifaddrs(&all) < 0)
		all = NULL;
	for (i = all; i && !found; i = i->ifa_next) {
		struct sockaddr_storage a = { 0 };
		struct bench_side s;
		const char *why;
		uint16_t port;

		if (!i->ifa_addr || !(i->ifa_flags & IFF_UP) || (i->ifa_addr->sa_family != AF_INET && i->ifa_addr->sa_family != AF_INET6))
			continue;
		*ret_size = i->ifa_addr->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
		memcpy(&a, i->ifa_addr, *ret_size);
		if (a.ss_family == AF_INET6 && ((struct sockaddr_in6 *)&a)->sin6_scope_id != 0)
			continue; /* link-local: its text has no interface */
		bench_meet_set_port(&a, BENCH_PORT);
		bench_side_init(&s);
		found = bench_meet_device(&s, &a, &port, &why) == 0 && port > 0;
		bench_side_free(&s);
		bench_meet_set_port(&a, 0);
		*ret = a;
	}
	freeifaddrs(all);
	if (!found) {
		*(struct sockaddr_in *)ret = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
		*ret_size = sizeof(struct sockaddr_in);
	}
}
