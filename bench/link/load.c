/*
 * The load of bench/link.sh, over Unix sockets or lanes of the library: a server, and clients that each print what they measured.
 *
 *   load serve SOCKET             until it is killed
 *   load lanes SERVICE            the same for libsealane, a thread a lane; clients say lane:SERVICE where they would say SOCKET
 *   load rtt SOCKET SIZE MS       one message of SIZE bytes there and back at a time: "p50_us N", "p99_us N", "n N"
 *   load stream SOCKET SIZE MS    one way, in writes of SIZE bytes, until the server has them all: "mb_s N", "bytes N"
 *   load conns SOCKET N MS        N at a time: connect, 64 bytes there and back, close: "conns_s N", "n N"
 *   load busy SOCKET MS           64 bytes there and back, one a millisecond, beside a stream of 64 KiB writes: "p50_us N", "p99_us N", "mb_s N"
 *
 * A connection begins with an order: what the server is to do with the rest. It sends back what comes (ECHO), or throws it away (SINK)
 * until a chunk whose first byte is not 0 has come whole, and then answers with one byte: so a stream's end needs no half-close, which
 * not every proxy passes on. The server is one epoll loop, so that what it costs is the same for all that are compared.
 *
 * Exit status: 0; 1: a connection failed, broke, or was silent for WAIT_S; what happened is on standard error.
 */
#include "base/util.h"
#include "sealane.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>

enum { WAIT_S = 10, CHUNK_MAX = 1 << 20, READ_SIZE = 256 << 10, RTT_MAX = 1 << 20, FDS_MAX = 4096, EVENTS = 64, SMALL = 64 };
enum op { OP_ECHO = 1, OP_SINK };

struct order {
	uint32_t op, size;
};

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* -- server */

struct peer {
	struct order order;
	size_t order_size; /* how much of it has come */
	size_t at;	   /* SINK: position in the chunk */
	bool last;	   /* SINK: this chunk is the stream's last */
};

static struct peer g_peers[FDS_MAX];

static struct sockaddr_un address_of(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	if (!str_copy(a.sun_path, sizeof(a.sun_path), path)) {
		errno = ENAMETOOLONG;
		die(path);
	}
	return a;
}

/* A connection, whichever kind it is. */
struct conn {
	int fd;
	struct sealane_lane *lane; /* or NULL */
};

static void send_back(struct conn c, const char *p, size_t size)
{
	int fd = c.fd;

	if (c.lane && sealane_write(c.lane, p, size, SEALANE_FOREVER) < 0)
		return;
	while (!c.lane && size) {
		ssize_t n = write(fd, p, size);

		if (n < 0 && errno == EAGAIN) {
			struct pollfd pfd = { .fd = fd, .events = POLLOUT };

			poll(&pfd, 1, WAIT_S * 1000);
			continue;
		}
		if (n < 0)
			return; /* its client went: the next read says so */
		p += n;
		size -= (size_t)n;
	}
}

static void sink(struct conn c, struct peer *p, const char *bytes, size_t size)
{
	while (size) {
		size_t n = p->order.size - p->at;

		if (p->at == 0)
			p->last = bytes[0] != 0;
		if (n > size)
			n = size;
		p->at += n;
		bytes += n;
		size -= n;
		if (p->at < p->order.size)
			return;
		p->at = 0;
		if (p->last)
			send_back(c, "k", 1);
	}
}

static void take(struct conn c, struct peer *p, const char *bytes, size_t size)
{
	if (p->order_size < sizeof(p->order)) {
		size_t n = sizeof(p->order) - p->order_size;

		if (n > size)
			n = size;
		memcpy((char *)&p->order + p->order_size, bytes, n);
		p->order_size += n;
		bytes += n;
		size -= n;
	}
	if (size == 0)
		return;
	if (p->order.op == OP_ECHO)
		send_back(c, bytes, size);
	else if (p->order.size > 0)
		sink(c, p, bytes, size);
}

static void serve_one(int fd)
{
	static char buf[READ_SIZE];
	ssize_t n = read(fd, buf, sizeof(buf));

	if (n > 0)
		take((struct conn){ .fd = fd }, &g_peers[fd], buf, (size_t)n);
	else if (n == 0 || errno != EAGAIN)
		close(fd);
}

static void accept_all(int sock, int ep)
{
	int fd;

	while ((fd = accept4(sock, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
		struct epoll_event e = { .events = EPOLLIN, .data.fd = fd };

		if (fd >= FDS_MAX || epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e) < 0) {
			close(fd);
			continue;
		}
		g_peers[fd] = (struct peer){};
	}
}

static int do_serve(char **args)
{
	struct sockaddr_un a = address_of(args[0]);
	int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), ep = epoll_create1(0);
	struct epoll_event e = { .events = EPOLLIN, .data.fd = sock }, events[EVENTS];

	unlink(args[0]);
	if (bind(sock, (struct sockaddr *)&a, sizeof(a)) < 0 || chmod(args[0], 0777) < 0 || listen(sock, FDS_MAX) < 0 ||
	    epoll_ctl(ep, EPOLL_CTL_ADD, sock, &e) < 0)
		die(args[0]);
	for (;;) {
		int n = epoll_wait(ep, events, EVENTS, -1);

		for (int i = 0; i < n; i++) {
			if (events[i].data.fd == sock)
				accept_all(sock, ep);
			else
				serve_one(events[i].data.fd);
		}
	}
}

static void *lane_serve(void *arg)
{
	struct conn c = { -1, arg };
	char *buf = malloc(READ_SIZE);
	struct peer peer = {};
	ssize_t n;

	while (buf && (n = sealane_read(c.lane, buf, READ_SIZE, SEALANE_FOREVER)) > 0)
		take(c, &peer, buf, (size_t)n);
	free(buf);
	sealane_close(c.lane);
	return NULL;
}

static _Noreturn void die_of(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, sealane_last_error());
	exit(1);
}

static int do_lanes(char **args)
{
	struct sealane_listener *listener;
	struct sealane_lane *lane;
	pthread_t thread;

	if (sealane_listen(&listener, args[0], NULL) < 0)
		die_of(args[0]);
	while (sealane_accept(listener, &lane, SEALANE_FOREVER) == 0) {
		errno = pthread_create(&thread, NULL, lane_serve, lane);
		if (errno)
			die("pthread_create");
		pthread_detach(thread);
	}
	die_of(args[0]);
}

/* -- clients */

static int64_t number(const char *arg, int64_t max)
{
	char *end;
	int64_t n = strtoll(arg, &end, 10);

	if (*end || n < 1 || n > max) {
		fprintf(stderr, "load: '%s' is no number from 1 to %lld\n", arg, (long long)max);
		exit(1);
	}
	return n;
}

static uint64_t deadline(const char *ms)
{
	return clock_ns() + (uint64_t)number(ms, 60000) * 1000000;
}

static void put(struct conn c, const void *buf, size_t size)
{
	for (size_t done = 0; done < size;) {
		const char *from = (const char *)buf + done;
		ssize_t n = c.lane ? sealane_write(c.lane, from, size - done, WAIT_S * INT64_C(1000000000)) : write(c.fd, from, size - done);

		if (n <= 0 && c.lane)
			die_of("write");
		if (n <= 0)
			die("write");
		done += (size_t)n;
	}
}

static void get(struct conn c, void *buf, size_t size)
{
	for (size_t done = 0; done < size;) {
		char *to = (char *)buf + done;
		ssize_t n = c.lane ? sealane_read(c.lane, to, size - done, WAIT_S * INT64_C(1000000000)) : read(c.fd, to, size - done);

		if (n < 0 && c.lane)
			die_of("read");
		if (n == 0)
			errno = ECONNRESET;
		if (n <= 0)
			die("read");
		done += (size_t)n;
	}
}

static void hang_up(struct conn c)
{
	sealane_close(c.lane);
	if (!c.lane)
		close(c.fd);
}

static struct conn dial_socket(const char *path)
{
	struct sockaddr_un a = address_of(path);
	struct timeval wait = { .tv_sec = WAIT_S };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		die(path);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
	return (struct conn){ .fd = fd };
}

static struct conn dial(const char *path, enum op op, size_t size)
{
	struct order order = { op, (uint32_t)size };
	struct conn c = { .fd = -1 };

	if (strncmp(path, "lane:", 5) != 0)
		c = dial_socket(path);
	else if (sealane_connect(&c.lane, path + 5, NULL) < 0)
		die_of(path);
	put(c, &order, sizeof(order));
	return c;
}

static uint64_t g_times[RTT_MAX];

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void print_times(size_t n)
{
	if (n == 0) {
		errno = ETIME;
		die("no message came back");
	}
	qsort(g_times, n, sizeof(g_times[0]), compare);
	printf("p50_us %.1f\np99_us %.1f\nn %zu\n", (double)g_times[n / 2] / 1e3, (double)g_times[n * 99 / 100] / 1e3, n);
}

static uint64_t one_rtt(struct conn c, void *buf, size_t size)
{
	uint64_t began = clock_ns();

	put(c, buf, size);
	get(c, buf, size);
	return clock_ns() - began;
}

static int do_rtt(char **args)
{
	size_t size = (size_t)number(args[1], CHUNK_MAX), n = 0;
	struct conn c = dial(args[0], OP_ECHO, size);
	char *buf = calloc(1, size);
	uint64_t end;

	for (int i = 0; i < 200; i++) /* until caches, and whoever adapts, are warm */
		one_rtt(c, buf, size);
	for (end = deadline(args[2]); clock_ns() < end && n < RTT_MAX; n++)
		g_times[n] = one_rtt(c, buf, size);
	print_times(n);
	free(buf);
	hang_up(c);
	return 0;
}

struct stream {
	const char *path, *ms;
	size_t size;
	uint64_t bytes, took_ns;
};

static void *stream_run(void *arg)
{
	struct stream *s = arg;
	struct conn c = dial(s->path, OP_SINK, s->size);
	char *buf = calloc(1, s->size), answer;
	uint64_t began = clock_ns(), end = deadline(s->ms);

	while (buf[0] == 0) {
		buf[0] = clock_ns() >= end;
		put(c, buf, s->size);
		s->bytes += s->size;
	}
	get(c, &answer, 1);
	s->took_ns = clock_ns() - began;
	free(buf);
	hang_up(c);
	return NULL;
}

static int do_stream(char **args)
{
	struct stream s = { .path = args[0], .ms = args[2], .size = (size_t)number(args[1], CHUNK_MAX) };

	stream_run(&s);
	printf("mb_s %.1f\nbytes %llu\n", (double)s.bytes * 1e3 / (double)s.took_ns, (unsigned long long)s.bytes);
	return 0;
}

static int do_busy(char **args)
{
	struct stream s = { .path = args[0], .ms = args[1], .size = 64 << 10 };
	struct conn c = dial(args[0], OP_ECHO, SMALL);
	char buf[SMALL] = {};
	uint64_t end = deadline(args[1]);
	pthread_t bulk;
	size_t n = 0;

	one_rtt(c, buf, SMALL);
	errno = pthread_create(&bulk, NULL, stream_run, &s);
	if (errno)
		die("pthread_create");
	usleep(20000); /* the stream has filled what is on its way by then */
	for (; clock_ns() < end && n < RTT_MAX; n++) {
		g_times[n] = one_rtt(c, buf, SMALL);
		usleep(1000);
	}
	pthread_join(bulk, NULL);
	print_times(n);
	printf("mb_s %.1f\n", (double)s.bytes * 1e3 / (double)s.took_ns);
	hang_up(c);
	return 0;
}

struct conns {
	const char *path;
	uint64_t end, n;
};

static void *conns_run(void *arg)
{
	struct conns *conns = arg;
	char buf[SMALL] = {};

	for (; clock_ns() < conns->end; conns->n++) {
		struct conn c = dial(conns->path, OP_ECHO, SMALL);

		one_rtt(c, buf, SMALL);
		hang_up(c);
	}
	return NULL;
}

static int do_conns(char **args)
{
	enum { N_MAX = 64 };
	size_t n = (size_t)number(args[1], N_MAX);
	uint64_t began = clock_ns(), total = 0;
	pthread_t threads[N_MAX];
	struct conns c[N_MAX];

	for (size_t i = 0; i < n; i++) {
		c[i] = (struct conns){ .path = args[0], .end = deadline(args[2]) };
		errno = pthread_create(&threads[i], NULL, conns_run, &c[i]);
		if (errno)
			die("pthread_create");
	}
	for (size_t i = 0; i < n; i++) {
		pthread_join(threads[i], NULL);
		total += c[i].n;
	}
	printf("conns_s %.1f\nn %llu\n", (double)total * 1e9 / (double)(clock_ns() - began), (unsigned long long)total);
	return 0;
}

static const struct verb {
	const char *name;
	int n_args;
	int (*run)(char **args);
} verbs[] = {
	{ "serve", 1, do_serve }, { "lanes", 1, do_lanes }, { "rtt", 3, do_rtt }, { "stream", 3, do_stream }, { "conns", 3, do_conns }, { "busy", 2, do_busy },
};

int main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_IGN);
	for (size_t i = 0; argc > 1 && i < ARRAY_SIZE(verbs); i++)
		if (strcmp(argv[1], verbs[i].name) == 0 && argc == 2 + verbs[i].n_args)
			return verbs[i].run(argv + 2);
	fprintf(stderr, "usage: load serve SOCKET | lanes SERVICE | rtt SOCKET SIZE MS | stream SOCKET SIZE MS | conns SOCKET N MS | busy SOCKET MS\n");
	return 1;
}
