/*
 * `sealane bench`: what a lane does on this machine, beside a Unix stream socket and TCP over loopback. Two processes, each on its own
 * CPU if there are two; nothing of the daemon. The lane is the library's own, with its checks, as an application gets it.
 *
 * First the bare bounce of one cache line between the two CPUs, which is what a round trip cannot be faster than: on a virtual
 * machine it changes with where the hypervisor puts them. Where the CPU has memory protection keys, the lane is measured as it is, with
 * the key kept open, and without a key: what the keys cost, and what a batch under one gate saves. bench/ipc.sh is the thorough
 * measurement, with more to compare to.
 *
 * `sealane bench rdma` is in bench_rdma.c.
 */
#include "cli/api.h"
#include "cli/bench_rdma.h"
#include "cli/table.h"
#include "cli/units.h"
#include "client/lane.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum {
	BENCH_SIZE_MAX = 4096,
	BENCH_RING_LOG2 = 18, /* the library's default */
	BENCH_SAMPLES = 1 << 18,
	BENCH_BOUNCES = 20000,
	BENCH_CHUNK = 64, /* messages between looks at the clock */
	BENCH_STUCK_S = 20,
	BENCH_RDMA_SPIN_US = 50, /* some round trips of a card, and few enough that a sleeper costs little */
};

/* What both processes see. */
struct bench_shared {
	_Alignas(128) _Atomic uint32_t ping;
	_Alignas(128) _Atomic uint32_t pong;
	_Alignas(128) _Atomic uint64_t n_received;
	_Alignas(128) _Atomic bool ready;
	_Alignas(128) uint32_t samples[BENCH_SAMPLES]; /* ns */
};

struct bench {
	struct cli *c;
	struct bench_shared *shared;
	cpu_set_t allowed;
	int cpu[2]; /* -1: not pinned */
	enum sealane_wait wait;
	uint64_t slice_ns; /* of one measurement */
	bool keys;	   /* there are memory protection keys */
	const struct bench_path *path;
	size_t size;
	int side;
	struct sealane_lane *lanes[2];
	int fds[2];
	char buf[BENCH_SIZE_MAX];
};

struct bench_path {
	const char *name;
	bool about_keys; /* left out where there are none */
	int (*open)(struct bench *b);
	int (*send)(struct bench *b);
	int (*recv)(struct bench *b);
	void (*keep)(struct bench *b); /* after the fork, in each process: give the other's end up, or its death would not be seen */
	void (*close)(struct bench *b);
};

struct bench_result {
	double p50_ns, p99_ns, per_s;
};

/* --- paths --------------------------------------------------------------------------------------------------------------------- */

static int bench_lane_open(struct bench *b)
{
	const enum sealane_wait wait[2] = { b->wait, b->wait };

	return lane_pair(b->lanes, SEALANE_MESSAGES, wait, BENCH_RING_LOG2, 0);
}

static int bench_keyless_open(struct bench *b)
{
	static const struct keys_domain none;
	struct lane_parts parts[2] = { { .kind = SEALANE_MESSAGES, .wait = b->wait, .domain = &none },
				       { .kind = SEALANE_MESSAGES, .wait = b->wait, .domain = &none } };

	return lane_pair_parts(b->lanes, parts, BENCH_RING_LOG2);
}

static int bench_lane_send(struct bench *b)
{
	return sealane_send(b->lanes[b->side], b->buf, b->size, SEALANE_FOREVER);
}

static int bench_lane_recv(struct bench *b)
{
	return (int)sealane_recv(b->lanes[b->side], b->buf, b->size, SEALANE_FOREVER);
}

static void bench_lane_keep(struct bench *b)
{
	lane_drop(b->lanes[!b->side]);
}

/* From here to the end, in each process. */
static void bench_gated_keep(struct bench *b)
{
	bench_lane_keep(b);
	if (sealane_guard_open(b->lanes[b->side]) < 0)
		fprintf(stderr, "sealane bench: the key stays as it is: %s\n", sealane_last_error());
}

static void bench_gated_close(struct bench *b)
{
	sealane_guard_close(b->lanes[b->side]);
	sealane_close(b->lanes[b->side]);
}

static void bench_lane_close(struct bench *b)
{
	sealane_close(b->lanes[b->side]);
}

static int bench_unix_open(struct bench *b)
{
	return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, b->fds) < 0 ? -errno : 0;
}

static int bench_tcp_open(struct bench *b)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(a);
	AUTO_FD listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	AUTO_FD client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int one = 1, server;

	if (listener < 0 || client < 0 || bind(listener, (struct sockaddr *)&a, size) < 0 || listen(listener, 1) < 0 ||
	    getsockname(listener, (struct sockaddr *)&a, &size) < 0 || connect(client, (struct sockaddr *)&a, size) < 0)
		return -errno;
	server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (server < 0)
		return -errno;
	b->fds[0] = take_fd(&client);
	b->fds[1] = server;
	for (int i = 0; i < 2; i++)
		setsockopt(b->fds[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return 0;
}

static int bench_socket_send(struct bench *b)
{
	for (size_t done = 0; done < b->size;) {
		ssize_t n = send(b->fds[b->side], b->buf + done, b->size - done, MSG_NOSIGNAL);

		if (n < 0 && errno != EINTR)
			return -errno;
		done += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static int bench_socket_recv(struct bench *b)
{
	for (size_t done = 0; done < b->size;) {
		ssize_t n = recv(b->fds[b->side], b->buf + done, b->size - done, 0);

		if (n == 0 || (n < 0 && errno != EINTR))
			return n == 0 ? -ENODATA : -errno;
		done += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static void bench_socket_keep(struct bench *b)
{
	close(b->fds[!b->side]);
}

static void bench_socket_close(struct bench *b)
{
	close(b->fds[b->side]);
}

static const struct bench_path g_paths[] = {
	{ "lane", false, bench_lane_open, bench_lane_send, bench_lane_recv, bench_lane_keep, bench_lane_close },
	{ "lane, key kept open", true, bench_lane_open, bench_lane_send, bench_lane_recv, bench_gated_keep, bench_gated_close },
	{ "lane, no key", true, bench_keyless_open, bench_lane_send, bench_lane_recv, bench_lane_keep, bench_lane_close },
	{ "unix", false, bench_unix_open, bench_socket_send, bench_socket_recv, bench_socket_keep, bench_socket_close },
	{ "tcp", false, bench_tcp_open, bench_socket_send, bench_socket_recv, bench_socket_keep, bench_socket_close },
};

/* --- the two processes --------------------------------------------------------------------------------------------------------- */

static void bench_pin(const struct bench *b, int side)
{
	cpu_set_t set;

	if (b->cpu[side] < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(b->cpu[side], &set);
	sched_setaffinity(0, sizeof(set), &set); /* if it fails, the figures are worse: no reason to give up */
}

/* The other process, which runs @work until it is killed. Return: its pid, pinned and running; negative errno. */
static pid_t bench_fork(struct bench *b, void (*work)(struct bench *b))
{
	pid_t parent = getpid(), pid;

	atomic_store(&b->shared->ready, false);
	atomic_store(&b->shared->n_received, 0);
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		b->side = 1;
		if (b->path)
			b->path->keep(b);
		bench_pin(b, 1);
		atomic_store(&b->shared->ready, true);
		work(b);
		_exit(1);
	}
	if (b->path)
		b->path->keep(b);
	bench_pin(b, 0);
	while (!atomic_load(&b->shared->ready) && waitpid(pid, NULL, WNOHANG) == 0)
		usleep(50);
	return pid;
}

static void bench_reap(struct bench *b, pid_t pid)
{
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	sched_setaffinity(0, sizeof(b->allowed), &b->allowed);
}

static void bench_work_bounce(struct bench *b)
{
	for (uint32_t i = 1; i <= BENCH_BOUNCES; i++) {
		while (atomic_load_explicit(&b->shared->ping, memory_order_acquire) != i)
			ring_pause();
		atomic_store_explicit(&b->shared->pong, i, memory_order_release);
	}
}

static void bench_work_echo(struct bench *b)
{
	while (b->path->recv(b) >= 0 && b->path->send(b) >= 0)
		;
}

static void bench_work_sink(struct bench *b)
{
	for (uint64_t n = 1; b->path->recv(b) >= 0; n++)
		atomic_store_explicit(&b->shared->n_received, n, memory_order_relaxed);
}

/* --- measurements -------------------------------------------------------------------------------------------------------------- */

static int bench_compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static double bench_percentile(const struct bench *b, size_t n, double p)
{
	return b->shared->samples[(size_t)((double)(n - 1) * p)];
}

/* Return: 0: the median of a round trip of one line, or 0 where there is one CPU; negative errno. */
static int bench_bounce(struct bench *b, double *ret_ns)
{
	struct bench_shared *s = b->shared;
	uint64_t start;
	pid_t pid;

	*ret_ns = 0;
	if (b->cpu[0] < 0)
		return 0;
	atomic_store(&s->ping, 0);
	atomic_store(&s->pong, 0);
	pid = bench_fork(b, bench_work_bounce);
	if (pid < 0)
		return pid;
	for (uint32_t i = 1; i <= BENCH_BOUNCES; i++) {
		start = clock_ns();
		atomic_store_explicit(&s->ping, i, memory_order_release);
		while (atomic_load_explicit(&s->pong, memory_order_acquire) != i)
			ring_pause();
		s->samples[i - 1] = (uint32_t)(clock_ns() - start);
	}
	bench_reap(b, pid);
	qsort(s->samples, BENCH_BOUNCES, sizeof(s->samples[0]), bench_compare);
	*ret_ns = bench_percentile(b, BENCH_BOUNCES, 0.5);
	return 0;
}

/* Round trips for a slice, after a fifth of it to warm up. Return: 0 or negative. */
static int bench_rtt(struct bench *b, struct bench_result *ret)
{
	uint64_t now = clock_ns(), warm = now + b->slice_ns / 5, end = warm + b->slice_ns, start;
	size_t n = 0;
	int r = 0;

	while (n < BENCH_SAMPLES && (now < end || n == 0)) { /* on a busy machine one trip may take longer than the slice */
		start = now;
		r = b->path->send(b);
		if (r >= 0)
			r = b->path->recv(b);
		if (r < 0)
			return r;
		now = clock_ns();
		if (start >= warm)
			b->shared->samples[n++] = (uint32_t)(now - start);
	}
	qsort(b->shared->samples, n, sizeof(b->shared->samples[0]), bench_compare);
	ret->p50_ns = bench_percentile(b, n, 0.5);
	ret->p99_ns = bench_percentile(b, n, 0.99);
	return 0;
}

/* As many as get through in a slice, counted where they arrive. */
static int bench_stream(struct bench *b, struct bench_result *ret)
{
	uint64_t now = clock_ns(), warm = now + b->slice_ns / 5, end = warm + b->slice_ns, from = 0, n_from = 0, n;

	do {
		for (int i = 0; i < BENCH_CHUNK; i++) {
			int r = b->path->send(b);

			if (r < 0)
				return r;
		}
		now = clock_ns();
		n = atomic_load_explicit(&b->shared->n_received, memory_order_relaxed);
		if (from == 0 && now >= warm) {
			from = now;
			n_from = n;
		}
	} while (now < end || from == now);
	ret->per_s = (double)(n - n_from) / (double)(now - from) * 1e9;
	return 0;
}

static int bench_one(struct bench *b, void (*work)(struct bench *b), int (*measure)(struct bench *b, struct bench_result *ret),
		     struct bench_result *ret)
{
	int r = b->path->open(b);
	pid_t pid;

	if (r < 0)
		return r;
	pid = bench_fork(b, work);
	if (pid < 0)
		b->path->keep(b);
	r = pid < 0 ? pid : measure(b, ret);
	if (pid > 0)
		bench_reap(b, pid);
	b->path->close(b);
	return r;
}

/* --- the verb ------------------------------------------------------------------------------------------------------------------ */

static char *bench_count(char *buf, double n)
{
	const char *unit = n >= 1e6 ? "M" : n >= 1e3 ? "k" : "";

	n /= n >= 1e6 ? 1e6 : n >= 1e3 ? 1e3 : 1;
	snprintf(buf, UNIT_TEXT_SIZE, n < 10 ? "%.2f%s" : n < 100 ? "%.1f%s" : "%.0f%s", n, unit);
	return buf;
}

static char *bench_us(char *buf, double ns)
{
	snprintf(buf, UNIT_TEXT_SIZE, ns < 9995 ? "%.2f" : "%.1f", ns / 1000);
	return buf;
}

static void bench_row(const struct bench *b, struct table *t, json_t *rows, const struct bench_result *r)
{
	char size[UNIT_TEXT_SIZE], p50[UNIT_TEXT_SIZE], p99[UNIT_TEXT_SIZE], per_s[UNIT_TEXT_SIZE], bytes[UNIT_TEXT_SIZE],
		bytes_per_s[UNIT_TEXT_SIZE + 4];

	snprintf(size, sizeof(size), "%zu", b->size);
	snprintf(bytes_per_s, sizeof(bytes_per_s), "%s/s", unit_format_bytes(bytes, r->per_s * (double)b->size));
	table_add(t, b->path->name, size, bench_us(p50, r->p50_ns), bench_us(p99, r->p99_ns), bench_count(per_s, r->per_s), bytes_per_s);
	json_array_append_new(rows, json_pack("{s:s, s:I, s:f, s:f, s:f}", "path", b->path->name, "bytes", (json_int_t)b->size,
					      "round_trip_p50_ns", r->p50_ns, "round_trip_p99_ns", r->p99_ns, "messages_per_s", r->per_s));
}

static int bench_all(struct bench *b, struct table *t, json_t *rows)
{
	static const size_t sizes[] = { 64, 4096 };

	for (size_t s = 0; s < ARRAY_SIZE(sizes); s++) {
		for (size_t p = 0; p < ARRAY_SIZE(g_paths); p++) {
			struct bench_result result = { 0 };
			int r;

			b->path = &g_paths[p];
			if (b->path->about_keys && !b->keys)
				continue;
			b->size = sizes[s];
			r = bench_one(b, bench_work_echo, bench_rtt, &result);
			if (r >= 0)
				r = bench_one(b, bench_work_sink, bench_stream, &result);
			if (r < 0)
				return cli_error(b->c, "%s, %zu bytes: %s", b->path->name, b->size, sealane_strerror(r));
			bench_row(b, t, rows, &result);
		}
	}
	return CLI_OK;
}

static void bench_print(const struct bench *b, const struct table *t, json_t *rows, const double bounce_ns[2])
{
	if (b->c->json) {
		json_t *all = json_pack("{s:[f,f], s:O}", "bounce_ns", bounce_ns[0], bounce_ns[1], "results", rows);

		json_dumpf(all, stdout, JSON_COMPACT);
		putchar('\n');
		json_decref(all);
		return;
	}
	if (b->cpu[0] >= 0)
		printf("CPUs %d and %d; a cache line goes there and back in %.0f ns (before), %.0f ns (after)\n\n", b->cpu[0], b->cpu[1],
		       bounce_ns[0], bounce_ns[1]);
	else
		printf("one CPU: both ends share it, and take turns\n\n");
	table_print(t, stdout);
}

/* The first two CPUs that we may use. */
static void bench_find_cpus(struct bench *b)
{
	int n = 0;

	b->cpu[0] = b->cpu[1] = -1;
	if (sched_getaffinity(0, sizeof(b->allowed), &b->allowed) < 0 || CPU_COUNT(&b->allowed) < 2)
		return;
	for (int cpu = 0; cpu < CPU_SETSIZE && n < 2; cpu++) {
		if (CPU_ISSET(cpu, &b->allowed))
			b->cpu[n++] = cpu;
	}
}

static int bench_run(struct bench *b)
{
	static const char *const heads[] = { "PATH", ">BYTES", ">RTT P50 us", ">RTT P99 us", ">ONE WAY/S", ">BYTES/S", NULL };
	json_t *rows = json_array();
	double bounce_ns[2];
	struct table t;
	int r;

	table_init(&t, heads);
	r = bench_bounce(b, &bounce_ns[0]);
	if (r == 0)
		r = bench_all(b, &t, rows);
	else
		r = cli_error(b->c, "a second process: %s", strerror(-r));
	b->path = NULL;
	if (r == CLI_OK && bench_bounce(b, &bounce_ns[1]) == 0)
		bench_print(b, &t, rows, bounce_ns);
	table_free(&t);
	json_decref(rows);
	return r;
}

static int bench_lanes(struct bench *b, double seconds, enum sealane_wait wait)
{
	b->wait = wait;
	b->keys = keys_start() == 0 && sealane_guarded(NULL);
	b->slice_ns = (uint64_t)(seconds * 1e9 / 1.2 / 4 / (b->keys ? 5 : 3)); /* paths; two sizes, two measurements; a fifth is for warming up */
	b->shared = mmap(NULL, sizeof(*b->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (b->shared == MAP_FAILED)
		return cli_error(b->c, "memory for the samples: %s", strerror(errno));
	alarm((unsigned)seconds * 3 + BENCH_STUCK_S); /* the other process is gone, or nobody lets us run */
	return bench_run(b);
}

int verb_bench(struct cli *c, int argc, char **argv)
{
	const char *wait = "adaptive";
	struct bench_rdma_options rdma = { 0 };
	double seconds = 0;
	const struct opt opts[] = { { "wait", 'w', OPT_STRING, &wait }, { "time", 't', OPT_DURATION, &seconds },
				    { "listen", 'l', OPT_STRING, &rdma.listen }, { "connect", 'c', OPT_STRING, &rdma.connect } };
	struct bench b = { .c = c };
	int n = cli_begin(c, opts, ARRAY_SIZE(opts), argc, argv, OPT_OPERANDS_ANYWHERE, 0, 1);

	if (n < 0)
		return c->exit;
	if (n == 1 && strcmp(argv[0], "rdma") != 0)
		return cli_usage(c, "what is measured is nothing more, or rdma; not \"%s\"", argv[0]);
	if (n == 0 && (rdma.listen || rdma.connect))
		return cli_usage(c, "--listen and --connect are for `sealane bench rdma`");
	if (rdma.listen && rdma.connect)
		return cli_usage(c, "--listen on one host, --connect on the other");
	if (strcmp(wait, "adaptive") != 0 && strcmp(wait, "spin") != 0 && strcmp(wait, "block") != 0)
		return cli_usage(c, "--wait is adaptive, spin or block, not \"%s\"", wait);
	seconds = seconds > 0 ? seconds : n == 1 ? 6 : 2;
	if (seconds < 0.1 || seconds > 3600)
		return cli_usage(c, "--time: between 100ms and 1h");
	bench_find_cpus(&b);
	if (n == 0)
		return bench_lanes(&b, seconds, wait[0] == 's' ? SEALANE_WAIT_SPIN : wait[0] == 'b' ? SEALANE_WAIT_BLOCK : SEALANE_WAIT_ADAPTIVE);
	rdma.seconds = seconds;
	rdma.spin_ns = wait[0] == 's' ? UINT64_MAX : wait[0] == 'b' ? 0 : BENCH_RDMA_SPIN_US * UINT64_C(1000);
	memcpy(rdma.cpu, b.cpu, sizeof(rdma.cpu));
	return bench_rdma(c, &rdma);
}
