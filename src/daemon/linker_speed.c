/*
 * How fast two linkers are, over loopback: client and linker a on CPU 0, linker b and server on CPU 1. For those who change the linker; what users
 * get is bench/link.sh's. usage: linker-speed [rtt|stream SIZE|conns|lib-rtt|lib-stream SIZE|lib-small SIZE] [SECONDS]
 *
 * lib-*: with the library at both ends; lib-small sends messages one by one, as fast as they go.
 */
#include "daemon/test_linker_lib.h"

#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum { MESSAGE = 64 };

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static double cpu_s(pid_t pid)
{
	char path[64], buf[512];
	unsigned long long ns = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/schedstat", (int)pid);
	f = fopen(path, "re");
	if (f && fgets(buf, sizeof(buf), f))
		ns = strtoull(buf, NULL, 10);
	if (f)
		fclose(f);
	return (double)ns / 1e9;
}

static void read_all(int fd, char *buf, size_t size)
{
	for (size_t at = 0; at < size;) {
		ssize_t n = read(fd, buf + at, size - at);

		if (n <= 0)
			exit(1);
		at += (size_t)n;
	}
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void echo_server(int fd)
{
	char buf[MESSAGE];
	ssize_t n;

	pin(1);
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		if (write(fd, buf, (size_t)n) != n)
			break;
	_exit(0);
}

static void rtt(struct bed *b, double seconds)
{
	struct bed_lane l = bed_lane(b);
	static uint64_t samples[1 << 22];
	uint64_t start, until, n = 0;
	double cpu[2];
	char buf[MESSAGE] = {};
	pid_t server = fork();

	if (server == 0)
		echo_server(l.server);
	pin(0);
	for (int i = 0; i < 2; i++)
		cpu[i] = cpu_s(b->sides[i].pid);
	until = clock_ns() + (uint64_t)(seconds * 1e9);
	while ((start = clock_ns()) < until && n < 1 << 22) {
		if (write(l.client, buf, sizeof(buf)) != sizeof(buf))
			exit(1);
		read_all(l.client, buf, sizeof(buf));
		samples[n++] = clock_ns() - start;
	}
	qsort(samples, n, sizeof(*samples), by_value);
	printf("rtt 64 B: p50 %.1f us, p99 %.1f us, %.0f/s, linkers' cpu %.1f + %.1f us a round trip\n", (double)samples[n / 2] / 1e3,
	       (double)samples[n * 99 / 100] / 1e3, (double)n / seconds, (cpu_s(b->sides[0].pid) - cpu[0]) / (double)n * 1e6,
	       (cpu_s(b->sides[1].pid) - cpu[1]) / (double)n * 1e6);
	shutdown(l.client, SHUT_RDWR);
	waitpid(server, NULL, 0);
	bed_lane_close(&l);
}

static void sink_server(int fd, size_t size)
{
	char *buf = malloc(size);

	pin(1);
	while (read(fd, buf, size) > 0)
		;
	_exit(0);
}

static void stream(struct bed *b, size_t size, double seconds)
{
	struct bed_lane l = bed_lane(b);
	char *buf = calloc(1, size);
	uint64_t start, total = 0;
	double cpu[2], used, took;
	pid_t server = fork();

	if (server == 0)
		sink_server(l.server, size);
	pin(0);
	for (int i = 0; i < 2; i++)
		cpu[i] = cpu_s(b->sides[i].pid);
	start = clock_ns();
	while (clock_ns() - start < (uint64_t)(seconds * 1e9)) {
		if (write(l.client, buf, size) != (ssize_t)size)
			exit(1);
		total += size;
	}
	took = (double)(clock_ns() - start) / 1e9;
	for (int i = 0; i < 2; i++)
		cpu[i] = cpu_s(b->sides[i].pid) - cpu[i];
	used = cpu[0] + cpu[1];
	printf("stream %zu B: %.0f MB/s, linkers' cpu %.2f s/GB (%.2f + %.2f)\n", size, (double)total / took / 1e6, used / ((double)total / 1e9),
	       cpu[0] / ((double)total / 1e9), cpu[1] / ((double)total / 1e9));
	shutdown(l.client, SHUT_WR);
	waitpid(server, NULL, 0);
	bed_lane_close(&l);
	free(buf);
}

/* With the library. */

static void lib_server(struct lib_lane *l, bool echoes)
{
	static char buf[1 << 20];
	ssize_t n;

	lane_drop(l->client);
	pin(1);
	for (;;) {
		n = sealane_kind(l->server) == SEALANE_STREAM ? sealane_read(l->server, buf, sizeof(buf), SEALANE_FOREVER)
							     : sealane_recv(l->server, buf, sizeof(buf), SEALANE_FOREVER);
		if (n < 0 || (n == 0 && sealane_kind(l->server) == SEALANE_STREAM))
			break;
		if (echoes && sealane_send(l->server, buf, (size_t)n, SEALANE_FOREVER) < 0)
			break;
	}
	_exit(0);
}

static struct lib_lane lib_begin(struct bed *b, enum link_kind kind, bool echoes, double cpu[2], pid_t *ret_server)
{
	static const uint32_t caps[2] = { 18, 18 };
	struct lib_lane l = lib_lane(b, kind, caps);

	*ret_server = fork();
	if (*ret_server == 0)
		lib_server(&l, echoes);
	lane_drop(take_ptr(l.server));
	pin(0);
	for (int i = 0; i < 2; i++)
		cpu[i] = cpu_s(b->sides[i].pid);
	return l;
}

static void lib_end(struct lib_lane *l, pid_t server)
{
	sealane_close(take_ptr(l->client));
	waitpid(server, NULL, 0);
	lib_lane_close(l);
}

static void lib_rtt(struct bed *b, double seconds)
{
	static uint64_t samples[1 << 22];
	uint64_t start, until, n = 0;
	char buf[MESSAGE] = {};
	double cpu[2];
	pid_t server;
	struct lib_lane l = lib_begin(b, LINK_MESSAGES, true, cpu, &server);

	until = clock_ns() + (uint64_t)(seconds * 1e9);
	while ((start = clock_ns()) < until && n < 1 << 22) {
		if (sealane_send(l.client, buf, sizeof(buf), SEALANE_FOREVER) < 0 || sealane_recv(l.client, buf, sizeof(buf), SEALANE_FOREVER) < 0)
			exit(1);
		samples[n++] = clock_ns() - start;
	}
	qsort(samples, n, sizeof(*samples), by_value);
	printf("library rtt 64 B: p50 %.1f us, p99 %.1f us, %.0f/s, linkers' cpu %.1f + %.1f us a round trip\n", (double)samples[n / 2] / 1e3,
	       (double)samples[n * 99 / 100] / 1e3, (double)n / seconds, (cpu_s(b->sides[0].pid) - cpu[0]) / (double)n * 1e6,
	       (cpu_s(b->sides[1].pid) - cpu[1]) / (double)n * 1e6);
	lib_end(&l, server);
}

static void lib_flood(struct bed *b, enum link_kind kind, size_t size, double seconds)
{
	char *buf = calloc(1, size);
	uint64_t start, total = 0;
	double cpu[2], took;
	pid_t server;
	struct lib_lane l = lib_begin(b, kind, false, cpu, &server);

	start = clock_ns();
	while (clock_ns() - start < (uint64_t)(seconds * 1e9))
		for (int i = 0; i < 16; i++, total += size)
			if (kind == LINK_STREAM ? sealane_write(l.client, buf, size, SEALANE_FOREVER) != (ssize_t)size
						: sealane_send(l.client, buf, size, SEALANE_FOREVER) < 0)
				exit(1);
	took = (double)(clock_ns() - start) / 1e9;
	for (int i = 0; i < 2; i++)
		cpu[i] = cpu_s(b->sides[i].pid) - cpu[i];
	printf("library %s of %zu B: %.0f MB/s, %.0f k/s, linkers' cpu %.2f s/GB (%.2f + %.2f)\n", kind == LINK_STREAM ? "stream in writes" : "messages", size,
	       (double)total / took / 1e6, (double)(total / size) / took / 1e3, (cpu[0] + cpu[1]) / ((double)total / 1e9), cpu[0] / ((double)total / 1e9),
	       cpu[1] / ((double)total / 1e9));
	lib_end(&l, server);
	free(buf);
}

static void conns(struct bed *b, double seconds)
{
	struct bed_lane l = bed_lane(b);
	uint64_t start, n = 0, at_a, at_b;
	double cpu[2];

	bed_lane_close(&l);
	for (int i = 0; i < 2; i++)
		cpu[i] = cpu_s(b->sides[i].pid);
	start = clock_ns();
	while (clock_ns() - start < (uint64_t)(seconds * 1e9)) {
		char byte = 'x';
		int client = bed_carry(b, BED_REDIS, &at_a), server;

		if (write(client, &byte, 1) != 1)
			exit(1);
		server = bed_go(b, &at_b);
		read_all(server, &byte, 1);
		if (write(server, &byte, 1) != 1)
			exit(1);
		read_all(client, &byte, 1);
		close(client);
		close(server);
		bed_hear(b, BED_A, LB_CLOSED, NULL);
		bed_hear(b, BED_B, LB_CLOSED, NULL);
		n++;
	}
	printf("connections one after another: %.0f/s (with this program as both brokers), linkers' cpu %.1f + %.1f us each\n", (double)n / seconds,
	       (cpu_s(b->sides[0].pid) - cpu[0]) / (double)n * 1e6, (cpu_s(b->sides[1].pid) - cpu[1]) / (double)n * 1e6);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "all";
	bool sized = strstr(what, "stream") || strstr(what, "small"), all = strcmp(what, "all") == 0;
	double seconds = argc > 2 && !sized ? atof(argv[2]) : argc > 3 ? atof(argv[3]) : 3;
	size_t size = sized && argc > 2 ? (size_t)atol(argv[2]) : 65536;
	struct bed b;

	setvbuf(stdout, NULL, _IOLBF, 0);
	bed_init(&b);
	b.pins[BED_A] = 0;
	b.pins[BED_B] = 1;
	bed_start(&b);
	if (all || strcmp(what, "rtt") == 0)
		rtt(&b, seconds);
	if (all || strcmp(what, "stream") == 0)
		stream(&b, size, seconds);
	if (all)
		stream(&b, 4096, seconds);
	if (all || strcmp(what, "conns") == 0)
		conns(&b, seconds);
	if (all || strcmp(what, "lib-rtt") == 0)
		lib_rtt(&b, seconds);
	if (all || strcmp(what, "lib-stream") == 0)
		lib_flood(&b, LINK_STREAM, size, seconds);
	if (all || strcmp(what, "lib-small") == 0)
		lib_flood(&b, LINK_MESSAGES, all ? 64 : size, seconds);
	bed_stop(&b);
	return 0;
}
