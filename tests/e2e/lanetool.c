/*
 * What the end-to-end tests run inside containers: a program that links libsealane.
 *
 *   lanetool serve SERVICE [--wait=block|spin|adaptive]    echoes messages on any number of lanes, one event loop
 *   lanetool ping SERVICE [N [SIZE]]              N messages there and back; prints who answered
 *   lanetool talk SERVICE                         a message every 20 ms until something fails; prints how it ended
 *   lanetool hold SERVICE N SECONDS               N lanes with the smallest ring, idle; then each is tried once
 *   lanetool fair SERVICE N SECONDS               N busy lanes; prints least, median and most round trips of a lane
 *   lanetool count SERVICE                        sends 1, 2, 3 ... as fast as it can (for kill tests)
 *   lanetool sum SERVICE                          takes lanes one after the other, checks that 1, 2, 3 ... come in order
 *   lanetool mirror SERVICE                       sends streams back, one lane after the other
 *   lanetool leave SERVICE N                      sends N KiB and ends at once
 *   lanetool sip SERVICE MS                       takes such streams, 32 KiB every MS milliseconds; prints how much came and how it ended
 *   lanetool hear SERVICE                         one byte there and back, then only reads a stream until it ends; prints how
 *   lanetool pour SERVICE N                       N bytes there and back at the same time; prints the hash if both have the same
 *
 * Exit status: 0; 1: failed, with sealane_last_error() on standard error; 3: the lane was cut.
 */
#include "sealane.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define SECOND INT64_C(1000000000)

enum { BUFFER = 1 << 20, EVENTS = 256 };

static char g_buf[BUFFER];

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * SECOND + ts.tv_nsec;
}

static int failed(const char *what, int error)
{
	fprintf(stderr, "%s: %s (%s)\n", what, sealane_strerror(error), sealane_last_error());
	return error == -SEALANE_E_CUT ? 3 : 1;
}

static struct sealane_options options(int argc, char **argv)
{
	struct sealane_options o = SEALANE_OPTIONS_INIT;

	o.kind = SEALANE_MESSAGES;
	for (int i = 0; i < argc; i++) {
		if (strcmp(argv[i], "--wait=block") == 0)
			o.wait = SEALANE_WAIT_BLOCK;
		if (strcmp(argv[i], "--wait=spin") == 0)
			o.wait = SEALANE_WAIT_SPIN;
	}
	return o;
}

static void print_peer(const char *what, struct sealane_lane *lane)
{
	const struct sealane_peer *p = sealane_peer(lane);

	printf("%s %s %s workload=%s host=%s path=%s id=%llu\n", what, p->service, p->spiffe_id, p->workload, p->host, p->path,
	       (unsigned long long)p->lane_id);
	fflush(stdout);
}

/* Return: false: the lane is over. */
static int echo_all(struct sealane_lane *lane)
{
	for (int i = 0; i < 64; i++) {
		ssize_t n = sealane_recv(lane, g_buf, sizeof(g_buf), SEALANE_NOWAIT);

		if (n == -EAGAIN)
			return 1;
		if (n < 0 || sealane_send(lane, g_buf, (size_t)n, SECOND) < 0)
			return 0;
	}
	return 1; /* others have their turn; the descriptor stays readable */
}

static void serve_accept(struct sealane_listener *listener, int epoll_fd)
{
	struct epoll_event ev = { .events = EPOLLIN };
	struct sealane_lane *lane;

	while (sealane_accept(listener, &lane, SEALANE_NOWAIT) == 0) {
		print_peer("from", lane);
		ev.data.ptr = lane;
		if (sealane_fd(lane) < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, sealane_fd(lane), &ev) < 0) {
			failed("lane", -errno);
			sealane_close(lane);
		}
	}
}

static int serve(const char *service, struct sealane_options o)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = NULL }, events[EVENTS];
	struct sealane_listener *listener;
	int epoll_fd = epoll_create1(EPOLL_CLOEXEC), r;

	o.ring_bytes = 4096;
	r = sealane_listen(&listener, service, &o);
	if (r < 0)
		return failed("listen", r);
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, sealane_listener_fd(listener), &ev) < 0)
		return failed("epoll", -errno);
	puts("listening");
	fflush(stdout);
	for (;;) {
		int n = epoll_wait(epoll_fd, events, EVENTS, -1);

		for (int i = 0; i < n; i++) {
			if (!events[i].data.ptr)
				serve_accept(listener, epoll_fd);
			else if (!echo_all(events[i].data.ptr))
				sealane_close(events[i].data.ptr);
		}
	}
}

/* One message there and back. */
static int once(struct sealane_lane *lane, size_t size)
{
	static char sent[BUFFER];
	ssize_t n;
	int r;

	memset(sent, (int)(size % 251) + 1, size);
	r = sealane_send(lane, sent, size, 10 * SECOND);
	if (r < 0)
		return r;
	n = sealane_recv(lane, g_buf, sizeof(g_buf), 10 * SECOND);
	if (n < 0)
		return (int)n;
	return (size_t)n == size && memcmp(sent, g_buf, size) == 0 ? 0 : -EBADMSG;
}

static int ping(const char *service, struct sealane_options o, int count, size_t size)
{
	struct sealane_lane *lane;
	int r = sealane_connect(&lane, service, &o);

	if (r < 0)
		return failed("connect", r);
	print_peer("to", lane);
	for (int i = 0; i < count && r == 0; i++)
		r = once(lane, size);
	sealane_close(lane);
	if (r < 0)
		return failed("ping", r);
	printf("ok %d messages of %zu bytes\n", count, size);
	return 0;
}

static int talk(const char *service, struct sealane_options o)
{
	struct timespec pause = { .tv_nsec = 20000000 };
	struct sealane_lane *lane;
	int r = sealane_connect(&lane, service, &o);

	if (r < 0)
		return failed("connect", r);
	print_peer("to", lane);
	while ((r = once(lane, 100)) == 0)
		nanosleep(&pause, NULL);
	return failed("talk", r);
}

static int hold(const char *service, struct sealane_options o, int n, int seconds)
{
	struct sealane_lane **lanes = calloc((size_t)n, sizeof(struct sealane_lane *));
	struct rusage before, after;
	int64_t t = now_ns();
	int r = lanes ? 0 : -ENOMEM;

	o.ring_bytes = 4096;
	for (int i = 0; i < n && r == 0; i++)
		r = sealane_connect(&lanes[i], service, &o);
	if (r < 0)
		return failed("connect", r);
	printf("held %d lanes after %.2f s\n", n, (double)(now_ns() - t) / 1e9);
	fflush(stdout);
	getrusage(RUSAGE_SELF, &before);
	sleep((unsigned)seconds);
	getrusage(RUSAGE_SELF, &after);
	printf("idle: %ld us of CPU in %d s\n",
	       (long)(after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec - before.ru_stime.tv_sec) * 1000000 +
		       (long)(after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec - before.ru_stime.tv_usec),
	       seconds);
	for (int i = 0; i < n && r == 0; i++)
		r = once(lanes[i], 64);
	if (r < 0)
		return failed("after being idle", r);
	printf("ok all %d lanes answer\n", n);
	fflush(stdout);
	for (int i = 0; i < n; i++)
		sealane_close(lanes[i]);
	return 0;
}

static int compare(const void *a, const void *b)
{
	unsigned long x = *(const unsigned long *)a, y = *(const unsigned long *)b;

	return x < y ? -1 : x > y;
}

/* All lanes have one message under way, from one loop: who is answered sends the next. */
static int fair(const char *service, struct sealane_options o, int n, int seconds)
{
	struct sealane_lane **lanes = calloc((size_t)n, sizeof(struct sealane_lane *));
	unsigned long *counts = calloc((size_t)n, sizeof(unsigned long));
	struct epoll_event events[EVENTS];
	int epoll_fd = epoll_create1(EPOLL_CLOEXEC), r = lanes && counts ? 0 : -ENOMEM;
	int64_t end;

	o.ring_bytes = 4096;
	for (int i = 0; i < n && r == 0; i++) {
		struct epoll_event ev = { .events = EPOLLIN, .data.u32 = (unsigned)i };

		r = sealane_connect(&lanes[i], service, &o);
		if (r == 0 && epoll_ctl(epoll_fd, EPOLL_CTL_ADD, sealane_fd(lanes[i]), &ev) < 0)
			r = -errno;
	}
	for (int i = 0; i < n && r == 0; i++)
		r = sealane_send(lanes[i], g_buf, 64, SECOND);
	end = now_ns() + seconds * SECOND;
	while (r == 0 && now_ns() < end) {
		int n_events = epoll_wait(epoll_fd, events, EVENTS, 100);

		for (int k = 0; k < n_events && r == 0; k++) {
			struct sealane_lane *lane = lanes[events[k].data.u32];
			ssize_t got;

			got = sealane_recv(lane, g_buf, sizeof(g_buf), SEALANE_NOWAIT); /* one: others have their turn */
			if (got >= 0) {
				counts[events[k].data.u32]++;
				r = sealane_send(lane, g_buf, 64, SECOND);
			} else if (got != -EAGAIN) {
				r = (int)got;
			}
		}
	}
	if (r < 0)
		return failed("fair", r);
	qsort(counts, (size_t)n, sizeof(*counts), compare);
	printf("fair %lu %lu %lu\n", counts[0], counts[n / 2], counts[n - 1]);
	return 0;
}

static int count(const char *service, struct sealane_options o)
{
	struct sealane_lane *lane;
	unsigned long i = 0;
	int r = sealane_connect(&lane, service, &o);

	if (r < 0)
		return failed("connect", r);
	puts("counting");
	fflush(stdout);
	do
		i++;
	while ((r = sealane_send(lane, &i, sizeof(i), SEALANE_FOREVER)) == 0);
	return failed("count", r);
}

static int sum(const char *service, struct sealane_options o)
{
	struct sealane_listener *listener;
	int r = sealane_listen(&listener, service, &o);

	if (r < 0)
		return failed("listen", r);
	puts("listening");
	fflush(stdout);
	for (;;) {
		unsigned long expect = 0, got;
		struct sealane_lane *lane;
		ssize_t n;

		r = sealane_accept(listener, &lane, SEALANE_FOREVER);
		if (r < 0) {
			failed("accept", r);
			continue;
		}
		while ((n = sealane_recv(lane, &got, sizeof(got), SEALANE_FOREVER)) == sizeof(got) && got == expect + 1)
			expect++;
		printf("%s after %lu\n", n == -ENODATA ? "end" : "WRONG", expect);
		fflush(stdout);
		sealane_close(lane);
	}
}

static int mirror(const char *service, struct sealane_options o)
{
	struct sealane_listener *listener;
	int r;

	o.kind = SEALANE_STREAM;
	r = sealane_listen(&listener, service, &o);
	if (r < 0)
		return failed("listen", r);
	puts("listening");
	fflush(stdout);
	for (;;) {
		struct sealane_lane *lane;
		ssize_t n;

		if (sealane_accept(listener, &lane, SEALANE_FOREVER) < 0)
			continue;
		print_peer("from", lane);
		while ((n = sealane_read(lane, g_buf, sizeof(g_buf), SEALANE_FOREVER)) > 0)
			if (sealane_write(lane, g_buf, (size_t)n, SEALANE_FOREVER) != n)
				break;
		printf("stream ended: %s\n", n < 0 ? sealane_strerror((int)n) : "in order");
		fflush(stdout);
		sealane_close(lane);
	}
}

static int hear(const char *service, struct sealane_options o)
{
	struct sealane_lane *lane;
	ssize_t n;
	char byte = 'x';
	int r;

	o.kind = SEALANE_STREAM;
	r = sealane_connect(&lane, service, &o);
	if (r < 0)
		return failed("connect", r);
	n = sealane_write(lane, &byte, 1, SECOND);
	if (n == 1)
		n = sealane_read(lane, &byte, 1, 10 * SECOND);
	if (n != 1)
		return failed("hear", (int)n);
	print_peer("to", lane);
	while ((n = sealane_read(lane, g_buf, sizeof(g_buf), SEALANE_FOREVER)) > 0)
		;
	if (n < 0)
		return failed("hear", (int)n);
	puts("end");
	return 0;
}

/* Sends, and is gone as soon as the library has taken it. */
static int leave(const char *service, struct sealane_options o, size_t size)
{
	struct sealane_lane *lane;
	ssize_t n = 0;
	int r;

	o.kind = SEALANE_STREAM;
	r = sealane_connect(&lane, service, &o);
	if (r < 0)
		return failed("connect", r);
	for (size_t done = 0; done < size && n >= 0; done += (size_t)n)
		n = sealane_write(lane, g_buf, size - done < sizeof(g_buf) ? size - done : sizeof(g_buf), 20 * SECOND);
	if (n < 0)
		return failed("write", (int)n);
	sealane_close(lane);
	return 0;
}

/* One stream, read slowly to its end. */
static int sip(const char *service, struct sealane_options o, unsigned pause_ms)
{
	struct sealane_listener *listener;
	struct sealane_lane *lane;
	unsigned long long got = 0;
	ssize_t n;
	int r;

	o.kind = SEALANE_STREAM;
	r = sealane_listen(&listener, service, &o);
	if (r < 0)
		return failed("listen", r);
	puts("listening");
	fflush(stdout);
	for (;;) {
		if (sealane_accept(listener, &lane, SEALANE_FOREVER) < 0)
			continue;
		for (got = 0; (n = sealane_read(lane, g_buf, 32 << 10, SEALANE_FOREVER)) > 0; got += (unsigned long long)n)
			usleep(pause_ms * 1000);
		printf("%llu bytes, then %s\n", got, n < 0 ? sealane_last_error() : "the end");
		fflush(stdout);
		sealane_close(lane);
	}
}

static uint64_t hash(uint64_t h, const char *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		h = (h ^ (unsigned char)bytes[i]) * UINT64_C(0x100000001b3); /* FNV-1a */
	return h;
}

struct pouring {
	struct sealane_lane *lane;
	size_t size;
	uint64_t hash;
	int error;
};

static void *pour_out(void *arg)
{
	static char bytes[100003];
	struct pouring *p = arg;
	uint32_t x = 1;

	for (size_t left = p->size, n; left > 0 && p->error == 0; left -= n) {
		ssize_t sent;

		n = left < sizeof(bytes) ? left : sizeof(bytes);
		for (size_t i = 0; i < n; i++)
			bytes[i] = (char)((x = x * 1664525 + 1013904223) >> 24);
		p->hash = hash(p->hash, bytes, n);
		sent = sealane_write(p->lane, bytes, n, 20 * SECOND);
		p->error = sent < 0 ? (int)sent : (size_t)sent < n ? -ETIMEDOUT : 0;
	}
	if (p->error == 0)
		p->error = sealane_shutdown(p->lane);
	return NULL;
}

static int pour(const char *service, struct sealane_options o, size_t size)
{
	struct pouring p = { .size = size };
	uint64_t back = 0, got = 0;
	pthread_t thread;
	ssize_t n;
	int r;

	o.kind = SEALANE_STREAM;
	r = sealane_connect(&p.lane, service, &o);
	if (r < 0)
		return failed("connect", r);
	print_peer("to", p.lane);
	if (pthread_create(&thread, NULL, pour_out, &p) != 0)
		return 1;
	while ((n = sealane_read(p.lane, g_buf, sizeof(g_buf), 20 * SECOND)) > 0) {
		back = hash(back, g_buf, (size_t)n);
		got += (uint64_t)n;
	}
	pthread_join(thread, NULL);
	if (n < 0 || p.error < 0)
		return failed(n < 0 ? "read" : "write", n < 0 ? (int)n : p.error);
	printf("%s %llu bytes, hash %016llx\n", got == size && back == p.hash ? "same" : "OTHER", (unsigned long long)got, (unsigned long long)back);
	sealane_close(p.lane);
	return got == size && back == p.hash ? 0 : 1;
}

int main(int argc, char **argv)
{
	const char *verb = argc > 2 ? argv[1] : "", *service = argc > 2 ? argv[2] : "";
	struct sealane_options o = options(argc, argv);
	int n = argc > 3 ? atoi(argv[3]) : 1, more = argc > 4 ? atoi(argv[4]) : 64;

	if (strcmp(verb, "serve") == 0)
		return serve(service, o);
	if (strcmp(verb, "ping") == 0)
		return ping(service, o, n > 0 ? n : 1, (size_t)more);
	if (strcmp(verb, "talk") == 0)
		return talk(service, o);
	if (strcmp(verb, "hold") == 0)
		return hold(service, o, n, more);
	if (strcmp(verb, "fair") == 0)
		return fair(service, o, n, more);
	if (strcmp(verb, "count") == 0)
		return count(service, o);
	if (strcmp(verb, "sum") == 0)
		return sum(service, o);
	if (strcmp(verb, "mirror") == 0)
		return mirror(service, o);
	if (strcmp(verb, "leave") == 0)
		return leave(service, o, (size_t)n << 10);
	if (strcmp(verb, "sip") == 0)
		return sip(service, o, (unsigned)n);
	if (strcmp(verb, "hear") == 0)
		return hear(service, o);
	if (strcmp(verb, "pour") == 0)
		return pour(service, o, (size_t)n);
	fprintf(stderr, "usage: lanetool serve|ping|talk|hold|fair|count|sum|mirror|leave|sip|hear|pour SERVICE [N [M]]\n");
	return 2;
}
