/*
 * The gate under its own system call filter in a child process; this file plays the broker, the clients and the servers.
 * Every test ends with bed_stop(), which checks that the gate is alive until then and exits cleanly.
 */
#include "base/chan.h"
#include "base/foreign.h"
#include "base/log.h"
#include "daemon/gate.h"
#include "daemon/identity.h"
#include "daemon/role_user.h"
#include "daemon/test_linger.h"
#include "wire/role.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

enum { LID = 7, WAIT_MS = 20000 };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAVE_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define HAVE_SANITIZER 1
#endif
#endif
#ifndef HAVE_SANITIZER
#define HAVE_SANITIZER 0
#endif

struct bed {
	pid_t gate;
	struct chan broker;
	struct sockaddr_un addr;
	socklen_t addr_size;
	uint64_t next_lane;
};

struct lane_ends {
	int client, server;
	uint64_t id;
	uint32_t cid;
};

static void chan_wait(struct chan *c, short events)
{
	struct pollfd p = { .fd = c->fd, .events = events };

	assert_int_equal(poll(&p, 1, WAIT_MS), 1);
}

static void tell(struct bed *b, const struct role_msg *m, int fd)
{
	assert_int_equal(role_send(&b->broker, m, fd), 0);
	while (chan_wants_write(&b->broker)) {
		chan_wait(&b->broker, POLLOUT);
		assert_int_equal(chan_flush(&b->broker), 0);
	}
}

static struct role_msg hear(struct bed *b, uint32_t type)
{
	struct role_msg m;
	AUTO_FD fd = -1;

	chan_wait(&b->broker, POLLIN);
	assert_int_equal(role_recv(&b->broker, &m, &fd), 1);
	if (m.type != type)
		print_error("expected %s, heard %s\n", role_msg_name(type), role_msg_name(m.type));
	assert_int_equal(m.type, type);
	return m;
}

static struct role_stats hear_closed(struct bed *b, uint64_t lane_id, enum lane_end end)
{
	struct role_msg m = hear(b, GB_CLOSED);

	assert_int_equal(m.u.stats.lane_id, lane_id);
	assert_string_equal(lane_end_name(m.u.stats.end), lane_end_name(end));
	return m.u.stats;
}

static int listen_abstract(struct bed *b)
{
	static int n;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	b->addr.sun_family = AF_UNIX;
	b->addr_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
				   (size_t)snprintf(b->addr.sun_path + 1, 64, "sealane-test-gate-%d-%d", getpid(), n++));
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&b->addr, b->addr_size), 0);
	assert_int_equal(listen(fd, 4096), 0);
	return fd;
}

static void bed_listen(struct bed *b)
{
	struct role_msg m = { .type = BG_LISTEN, .u.gate_listen = { .lid = LID, .identity = identity_probe() } };
	AUTO_FD fd = listen_abstract(b);

	(void)!foreign_refuse(fd); /* as the warden does */
	tell(b, &m, fd);
}

static void gate_child(int channel_fd)
{
	/* The gate's own descriptors only: the tests count them. */
	for (int fd = 3; fd < 256; fd++)
		if (fd != channel_fd)
			close(fd);
	log_init("gate", LOG_LEVEL_ERROR);
	tzset();
	if (gate_isolate() < 0)
		_exit(99);
	_exit(gate_run(channel_fd) == 0 ? 0 : 1);
}

static struct bed bed_start(void)
{
	struct bed b = { .next_lane = 1000 };
	int fds[2];

	assert_int_equal(chan_pair(fds), 0);
	b.gate = fork();
	assert_true(b.gate >= 0);
	if (b.gate == 0)
		gate_child(fds[1]);
	close(fds[1]);
	chan_init(&b.broker, fds[0]);
	bed_listen(&b);
	tell(&b, &(struct role_msg){ .type = BG_STATS }, -1);
	hear(&b, GB_STATS); /* it is up, with all the descriptors that it keeps */
	return b;
}

static int bed_wait(struct bed *b)
{
	int status;

	assert_int_equal(waitpid(b->gate, &status, 0), b->gate);
	return status;
}

static void bed_stop(struct bed *b)
{
	int status;

	chan_close(&b->broker);
	status = bed_wait(b);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static int dial(struct bed *b)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&b->addr, b->addr_size), 0);
	return fd;
}

static void go(struct bed *b, struct lane_ends *l, uint64_t bytes_per_s, uint64_t burst)
{
	int pair[2];
	struct role_msg m = { .type = BG_GO,
			      .u.go = { .cid = l->cid, .lane_id = l->id, .bytes_per_s = bytes_per_s, .burst_bytes = burst } };

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	(void)!foreign_refuse(pair[1]); /* as the warden does */
	tell(b, &m, pair[1]);
	close(pair[1]);
	l->server = pair[0];
}

static struct lane_ends lane_open_limited(struct bed *b, uint64_t bytes_per_s, uint64_t burst)
{
	struct lane_ends l = { .client = dial(b), .id = b->next_lane++ };

	l.cid = hear(b, GB_ACCEPT).u.accept.cid;
	go(b, &l, bytes_per_s, burst);
	return l;
}

static struct lane_ends lane_open(struct bed *b)
{
	return lane_open_limited(b, 0, 0);
}

static void lane_hang_up(struct lane_ends *l)
{
	close(l->client);
	close(l->server);
}

static void put_all(int fd, const void *bytes, size_t size)
{
	for (size_t at = 0; at < size;) {
		ssize_t n = send(fd, (const char *)bytes + at, size - at, MSG_NOSIGNAL);

		assert_true(n > 0);
		at += (size_t)n;
	}
}

/* Read exactly @size bytes, or to the end; with a deadline, so that a test never hangs. Return: how many came. */
static size_t get(int fd, void *ret, size_t size)
{
	size_t at = 0;

	while (at < size) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		ssize_t n;

		assert_int_equal(poll(&p, 1, WAIT_MS), 1);
		n = recv(fd, (char *)ret + at, size - at, 0);
		assert_true(n >= 0);
		if (n == 0)
			break;
		at += (size_t)n;
	}
	return at;
}

static void expect_bytes(int fd, const char *text)
{
	char buf[256];
	size_t n = strlen(text);

	assert_int_equal(get(fd, buf, n), n);
	assert_memory_equal(buf, text, n);
}

static void expect_end(int fd)
{
	char c;

	assert_int_equal(get(fd, &c, 1), 0);
}

static size_t count_fds(pid_t pid)
{
	char path[64];
	size_t n = 0;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	d = opendir(path);
	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static uint64_t rss_bytes(pid_t pid)
{
	char path[64];
	unsigned long long size = 0, resident = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/statm", pid);
	f = fopen(path, "re");
	assert_non_null(f);
	assert_int_equal(fscanf(f, "%llu %llu", &size, &resident), 2);
	fclose(f);
	return resident * 4096;
}

static void test_echo(void **state)
{
	struct bed b = bed_start();
	struct lane_ends l = { .client = dial(&b), .id = b.next_lane++ };
	struct role_accept a = hear(&b, GB_ACCEPT).u.accept;
	struct role_stats s;

	assert_int_equal(a.lid, LID);
	assert_int_equal(a.error, 0);
	assert_int_equal(a.pid, getpid());
	assert_int_equal(a.uid, geteuid());
	assert_true(a.method == IDENTITY_PEERCRED ? a.cgroup_id == 0 : a.cgroup_id != 0);
	l.cid = a.cid;
	put_all(l.client, "ping", 4); /* before the verdict: the bytes must wait, not get lost */
	go(&b, &l, 0, 0);
	expect_bytes(l.server, "ping");
	put_all(l.server, "pong!", 5);
	expect_bytes(l.client, "pong!");
	close(l.client);
	expect_end(l.server);
	close(l.server);
	s = hear_closed(&b, l.id, LANE_END_EOF);
	assert_int_equal(s.bytes_up, 4);
	assert_int_equal(s.bytes_down, 5);
	assert_int_equal(s.reads_up, 1);
	assert_int_equal(s.reads_down, 1);
	bed_stop(&b);
}

struct pump {
	pthread_t thread;
	int fd;
	size_t size;
	uint64_t seed, hash, got;
};

static uint64_t hash_bytes(uint64_t h, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		h = (h ^ p[i]) * UINT64_C(0x100000001b3);
	return h;
}

static void *pump_write(void *arg)
{
	struct pump *p = arg;
	uint8_t buf[70001]; /* no multiple of anything that the relay uses */
	uint64_t x = p->seed;

	for (size_t left = p->size; left > 0;) {
		size_t n = left < sizeof(buf) ? left : sizeof(buf);

		for (size_t i = 0; i < n; i++) {
			x = x * UINT64_C(6364136223846793005) + 1;
			buf[i] = (uint8_t)(x >> 33);
		}
		p->hash = hash_bytes(p->hash, buf, n);
		for (size_t at = 0; at < n;) {
			ssize_t w = send(p->fd, buf + at, n - at, MSG_NOSIGNAL);

			if (w <= 0)
				return NULL;
			at += (size_t)w;
		}
		left -= n;
	}
	shutdown(p->fd, SHUT_WR);
	return NULL;
}

static void *pump_read(void *arg)
{
	struct pump *p = arg;
	uint8_t buf[50021];
	ssize_t n;

	while ((n = recv(p->fd, buf, sizeof(buf), 0)) > 0) {
		p->hash = hash_bytes(p->hash, buf, (size_t)n);
		p->got += (uint64_t)n;
	}
	return NULL;
}

static void test_bulk_both_ways(void **state)
{
	enum { SIZE = HAVE_SANITIZER ? 20 << 20 : 100 << 20 };
	struct bed b = bed_start();
	struct lane_ends l = lane_open(&b);
	struct pump up = { .fd = l.client, .size = SIZE, .seed = 1 }, down = { .fd = l.server, .size = SIZE, .seed = 2 };
	struct pump at_server = { .fd = l.server }, at_client = { .fd = l.client };
	struct role_stats s;

	pthread_create(&up.thread, NULL, pump_write, &up);
	pthread_create(&down.thread, NULL, pump_write, &down);
	pthread_create(&at_server.thread, NULL, pump_read, &at_server);
	pthread_create(&at_client.thread, NULL, pump_read, &at_client);
	pthread_join(up.thread, NULL);
	pthread_join(down.thread, NULL);
	pthread_join(at_server.thread, NULL);
	pthread_join(at_client.thread, NULL);
	assert_int_equal(at_server.got, SIZE);
	assert_int_equal(at_client.got, SIZE);
	assert_true(at_server.hash == up.hash);
	assert_true(at_client.hash == down.hash);
	s = hear_closed(&b, l.id, LANE_END_EOF);
	assert_int_equal(s.bytes_up, SIZE);
	assert_int_equal(s.bytes_down, SIZE);
	lane_hang_up(&l);
	bed_stop(&b);
}

static void half_close(struct bed *b, bool client_first)
{
	struct lane_ends l = lane_open(b);
	int first = client_first ? l.client : l.server, second = client_first ? l.server : l.client;

	put_all(first, "question", 8);
	shutdown(first, SHUT_WR);
	expect_bytes(second, "question");
	expect_end(second);
	put_all(second, "late answer", 11);
	expect_bytes(first, "late answer");
	shutdown(second, SHUT_WR);
	expect_end(first);
	hear_closed(b, l.id, LANE_END_EOF);
	lane_hang_up(&l);
}

static void test_half_close(void **state)
{
	struct bed b = bed_start();

	half_close(&b, true);
	half_close(&b, false);
	bed_stop(&b);
}

/* The server goes at once, with bytes under way in both directions: the client gets what was sent, then the end. */
static void test_out_of_order_close(void **state)
{
	struct bed b = bed_start();
	struct lane_ends l = lane_open(&b);

	put_all(l.client, "never read", 10);
	put_all(l.server, "last words", 10);
	expect_bytes(l.client, "last words");
	close(l.server);
	expect_end(l.client);
	close(l.client);
	hear_closed(&b, l.id, LANE_END_SERVER);

	l = lane_open(&b);
	put_all(l.client, "sent and forgotten", 18);
	close(l.client);
	expect_bytes(l.server, "sent and forgotten");
	expect_end(l.server);
	close(l.server);
	hear_closed(&b, l.id, LANE_END_EOF);
	bed_stop(&b);
}

/* A side that only stops reading makes the other's writes fail, and can still send. */
static void test_reader_leaves(void **state)
{
	struct bed b = bed_start();
	struct lane_ends l = lane_open(&b);
	ssize_t n = 0;

	shutdown(l.client, SHUT_RD);
	for (int i = 0; i < 1000 && n >= 0; i++) {
		n = send(l.server, "x", 1, MSG_NOSIGNAL);
		usleep(1000);
	}
	assert_int_equal(n, -1);
	assert_int_equal(errno, EPIPE);
	put_all(l.client, "still here", 10);
	expect_bytes(l.server, "still here");
	close(l.client);
	close(l.server);
	hear_closed(&b, l.id, LANE_END_CLIENT);
	bed_stop(&b);
}

static size_t fill(int fd)
{
	static char bytes[65536];
	size_t total = 0;
	int quiet = 0;

	while (quiet < 20) {
		ssize_t n = send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n > 0) {
			total += (size_t)n;
			quiet = 0;
		} else {
			quiet++;
			usleep(2000);
		}
	}
	return total;
}

static void test_slow_reader(void **state)
{
	enum { N = 40 };
	struct bed b = bed_start();
	struct lane_ends l[N];
	uint64_t before;
	size_t total = 0, got = 0;
	char buf[65536];

	l[0] = lane_open(&b);
	before = rss_bytes(b.gate);
	for (int i = 1; i < N; i++)
		l[i] = lane_open(&b);
	for (int i = 0; i < N; i++) {
		size_t n = fill(l[i].client);

		assert_in_range(n, 1, 1 << 20); /* two kernel buffers and what the relay keeps */
		total += n;
	}
	if (!HAVE_SANITIZER)
		assert_in_range(rss_bytes(b.gate) - before, 0, N * (uint64_t)LIMIT_RELAY_BUFFER_SIZE + (2 << 20));
	for (int i = 0; i < N; i++) {
		size_t n;

		close(l[i].client);
		while ((n = get(l[i].server, buf, sizeof(buf))) > 0)
			got += n;
		close(l[i].server);
		hear(&b, GB_CLOSED);
	}
	assert_int_equal(got, total);
	bed_stop(&b);
}

static void raise_fd_limit(void)
{
	struct rlimit lim;

	getrlimit(RLIMIT_NOFILE, &lim);
	lim.rlim_cur = lim.rlim_max;
	setrlimit(RLIMIT_NOFILE, &lim);
}

static void test_many_lanes(void **state)
{
	enum { N = 2000 };
	struct rlimit lim;
	struct lane_ends *l;
	struct bed b;
	struct role_msg m = { .type = BG_STATS, .seq = 77 };
	size_t n_fds;
	uint32_t told = 0;

	getrlimit(RLIMIT_NOFILE, &lim);
	if (lim.rlim_max < 2 * N + 200) {
		print_message("skipped: the hard limit on descriptors is %llu\n", (unsigned long long)lim.rlim_max);
		skip();
	}
	raise_fd_limit();
	l = calloc(N, sizeof(*l));
	assert_non_null(l);
	b = bed_start();
	n_fds = count_fds(b.gate);
	for (int i = 0; i < N; i++)
		l[i] = lane_open(&b);
	for (int i = 0; i < N; i++)
		put_all(l[i].client, &i, sizeof(i));
	for (int i = 0, k; i < N; i++) {
		assert_int_equal(get(l[i].server, &k, sizeof(k)), sizeof(k));
		assert_int_equal(k, i);
	}
	tell(&b, &m, -1);
	while ((m = hear(&b, GB_STATS)).u.stats.lane_id != 0) {
		assert_int_equal(m.u.stats.bytes_up, sizeof(int));
		told++;
	}
	assert_int_equal(told, N);
	assert_int_equal(m.seq, 77);
	for (int i = 0; i < N; i++)
		lane_hang_up(&l[i]);
	for (int i = 0; i < N; i++)
		hear(&b, GB_CLOSED);
	assert_int_equal(count_fds(b.gate), n_fds);
	free(l);
	bed_stop(&b);
}

static void test_refuse(void **state)
{
	struct bed b = bed_start();
	int client = dial(&b);
	struct role_msg m = { .type = BG_REFUSE, .u.id.id = hear(&b, GB_ACCEPT).u.accept.cid };

	tell(&b, &m, -1);
	expect_end(client);
	close(client);
	bed_stop(&b);
}

static void test_cut(void **state)
{
	struct bed b = bed_start();
	struct lane_ends l = lane_open(&b), other = lane_open(&b);
	struct role_msg m = { .type = BG_CUT, .u.lane_ref.lane_id = l.id };

	tell(&b, &m, -1);
	expect_end(l.client);
	expect_end(l.server);
	hear_closed(&b, l.id, LANE_END_CUT);
	tell(&b, &m, -1); /* again: nothing */
	put_all(other.client, "unharmed", 8);
	expect_bytes(other.server, "unharmed");
	lane_hang_up(&l);
	lane_hang_up(&other);
	hear(&b, GB_CLOSED);
	bed_stop(&b);
}

/* As fast as they come. Return: how long that took. */
static uint64_t drain(int from, int to, uint64_t size)
{
	static char bytes[16384];
	uint64_t began = clock_ns();

	while (size > 0) {
		struct pollfd p = { .fd = to, .events = POLLIN };
		ssize_t n;

		(void)!send(from, bytes, sizeof(bytes), MSG_NOSIGNAL | MSG_DONTWAIT);
		if (poll(&p, 1, 5) == 1 && (n = recv(to, bytes, size < sizeof(bytes) ? size : sizeof(bytes), 0)) > 0)
			size -= (uint64_t)n;
		assert_true(clock_ns() - began < WAIT_MS * UINT64_C(1000000));
	}
	return clock_ns() - began;
}

static void test_byte_rate(void **state)
{
	enum { RATE = 1000000 };
	struct bed b = bed_start();
	struct lane_ends l = lane_open_limited(&b, RATE, RATE / 10);
	struct role_msg m = { .type = BG_LIMIT, .u.lane_ref = { .lane_id = l.id, .bytes_per_s = 100 * RATE } };

	/* No sooner than the bucket allows, whatever the machine does; no later than drain() waits, however busy it is. */
	assert_true(drain(l.client, l.server, RATE * 2) > UINT64_C(1500000000));
	tell(&b, &m, -1);
	drain(l.client, l.server, RATE * 30); /* without the new limit that takes longer than drain() waits */
	lane_hang_up(&l);
	hear(&b, GB_CLOSED);
	bed_stop(&b);
}

/* Both directions share one rate, and neither starves the other. */
static void test_byte_rate_is_shared(void **state)
{
	struct bed b = bed_start();
	struct lane_ends l = lane_open_limited(&b, 400000, 0);
	uint64_t end, up, down;
	static char bytes[16384];

	fill(l.client);
	fill(l.server);
	up = down = 0;
	end = clock_ns() + WAIT_MS * UINT64_C(1000000);
	while (up + down < 600000 && clock_ns() < end) { /* both have always more to send */
		ssize_t n;

		(void)!send(l.client, bytes, sizeof(bytes), MSG_NOSIGNAL | MSG_DONTWAIT);
		(void)!send(l.server, bytes, sizeof(bytes), MSG_NOSIGNAL | MSG_DONTWAIT);
		n = recv(l.server, bytes, sizeof(bytes), MSG_DONTWAIT);

		up += n > 0 ? (uint64_t)n : 0;
		n = recv(l.client, bytes, sizeof(bytes), MSG_DONTWAIT);
		down += n > 0 ? (uint64_t)n : 0;
		usleep(1000);
	}
	assert_true(up > 50000 && down > 50000 && up + down >= 600000);
	lane_hang_up(&l);
	hear(&b, GB_CLOSED);
	bed_stop(&b);
}

/* Return: 0 or negative errno. */
static int send_descriptor(int sock, int fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {};
	struct iovec iov = { .iov_base = (char[]){ 'x' }, .iov_len = 1 };
	struct msghdr mh = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)
	};
	struct cmsghdr *cm = CMSG_FIRSTHDR(&mh);

	cm->cmsg_level = SOL_SOCKET;
	cm->cmsg_type = SCM_RIGHTS;
	cm->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cm), &fd, sizeof(int));
	return sendmsg(sock, &mh, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* Where the kernel can refuse them where they are sent, the lane goes on; else it ends. */
static void test_descriptors_are_refused(void **state)
{
	struct bed b = bed_start();
	size_t n_fds = count_fds(b.gate);

	for (int i = 0; i < 20; i++) {
		struct lane_ends l = lane_open(&b);
		int r, from = i % 2 ? l.client : l.server, to = i % 2 ? l.server : l.client;

		r = send_descriptor(from, STDERR_FILENO);
		if (r < 0) {
			assert_int_equal(r, -EPERM);
			put_all(from, "without", 7);
			expect_bytes(to, "without");
		} else {
			hear_closed(&b, l.id, LANE_END_FDS);
			expect_end(to);
		}
		lane_hang_up(&l);
		if (r < 0)
			hear_closed(&b, l.id, LANE_END_EOF);
	}
	assert_int_equal(count_fds(b.gate), n_fds);
	bed_stop(&b);
}

/* Clients that connect and send a descriptor before anybody refused that. The gate hears of them as @ret_lanes. */
static void early_clients(struct bed *b, const int *fds, struct lane_ends *ret_lanes, size_t n)
{
	struct role_msg m = { .type = BG_LISTEN, .u.gate_listen = { .lid = LID + 1, .identity = identity_probe() } };
	AUTO_FD listener = listen_abstract(b);

	for (size_t i = 0; i < n; i++) {
		ret_lanes[i] = (struct lane_ends){ .client = dial(b), .server = -1, .id = b->next_lane++ };
		assert_int_equal(send_descriptor(ret_lanes[i].client, fds[i]), 0);
	}
	tell(b, &m, listener);
	for (size_t i = 0; i < n; i++)
		ret_lanes[i].cid = hear(b, GB_ACCEPT).u.accept.cid;
}

/* A server that sends a descriptor before the gate has its end, and closes its own copy. */
static void go_early(struct bed *b, struct lane_ends *l, int *fd)
{
	struct role_msg m = { .type = BG_GO, .u.go = { .cid = l->cid, .lane_id = l->id } };
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(send_descriptor(pair[0], *fd), 0);
	close(take_fd(fd));
	kill(b->gate, SIGSTOP); /* the last copy is to be its own, not ours */
	tell(b, &m, pair[1]);
	close(pair[1]);
	kill(b->gate, SIGCONT);
	l->server = pair[0];
}

static void test_early_descriptors(void **state)
{
	int fds[2] = { STDERR_FILENO, dup(STDERR_FILENO) };
	struct bed b = bed_start();
	struct lane_ends l[2];

	early_clients(&b, fds, l, 1);
	go(&b, &l[0], 0, 0);
	hear_closed(&b, l[0].id, LANE_END_FDS);
	expect_end(l[0].server);
	lane_hang_up(&l[0]);
	l[1] = (struct lane_ends){ .client = dial(&b), .id = b.next_lane++ };
	l[1].cid = hear(&b, GB_ACCEPT).u.accept.cid;
	go_early(&b, &l[1], &fds[1]);
	hear_closed(&b, l[1].id, LANE_END_FDS);
	expect_end(l[1].client);
	lane_hang_up(&l[1]);
	bed_stop(&b);
}

static uint64_t n_sleeps(pid_t pid)
{
	char path[64], line[128];
	unsigned long long n = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		sscanf(line, "voluntary_ctxt_switches: %llu", &n);
	fclose(f);
	return n;
}

/*
 * The gate drops the last copy of what takes a minute to close: read with the bytes; in the queue of a client that is refused;
 * from a server, read; in the queue of a server's end whose client is gone. Nobody waits for that.
 */
static void test_lingering(void **state)
{
	enum { READ, REFUSED, SERVER, UNBORN, N };
	struct role_msg refuse = { .type = BG_REFUSE };
	struct lane_ends l[N], unborn = { .cid = ROLE_NO_ID - 1, .id = 1 };
	int peers[N], traps[N];
	uint64_t t0, sleeps;
	struct bed b;

	for (int i = 0; i < N; i++)
		if ((traps[i] = lingering(&peers[i])) < 0)
			skip();
	b = bed_start();
	early_clients(&b, traps, l, 2);
	close(traps[READ]);
	close(traps[REFUSED]);
	t0 = clock_ns();
	go(&b, &l[READ], 0, 0);
	refuse.u.id.id = l[REFUSED].cid;
	tell(&b, &refuse, -1);
	hear_closed(&b, l[READ].id, LANE_END_FDS);
	l[SERVER] = (struct lane_ends){ .client = dial(&b), .id = b.next_lane++ };
	l[SERVER].cid = hear(&b, GB_ACCEPT).u.accept.cid;
	go_early(&b, &l[SERVER], &traps[SERVER]);
	hear_closed(&b, l[SERVER].id, LANE_END_FDS);
	go_early(&b, &unborn, &traps[UNBORN]);
	hear_closed(&b, unborn.id, LANE_END_CLIENT);
	tell(&b, &(struct role_msg){ .type = BG_STATS }, -1);
	hear(&b, GB_STATS);
	assert_in_range((clock_ns() - t0) / 1000000, 0, WAIT_MS); /* one that waits takes a minute */
	usleep(50000); /* and then it sleeps, and does not tick */
	sleeps = n_sleeps(b.gate);
	usleep(100000);
	assert_in_range(n_sleeps(b.gate) - sleeps, 0, 2);
	for (int i = 0; i < N; i++)
		close(peers[i]);
	lane_hang_up(&l[READ]);
	close(l[REFUSED].client);
	lane_hang_up(&l[SERVER]);
	close(unborn.server);
	bed_stop(&b);
}

static void test_client_leaves_before_verdict(void **state)
{
	struct bed b = bed_start();
	struct lane_ends l = { .client = dial(&b), .id = 5 };
	uint32_t cid = hear(&b, GB_ACCEPT).u.accept.cid;

	close(l.client);
	assert_int_equal(hear(&b, GB_GONE).u.id.id, cid);
	/* The verdict was under way already: the server's end is closed, and the broker is told that this lane is over. */
	l.cid = cid;
	go(&b, &l, 0, 0);
	hear_closed(&b, 5, LANE_END_CLIENT);
	expect_end(l.server);
	close(l.server);

	/* With bytes left behind it is served as the kernel would. */
	l = (struct lane_ends){ .client = dial(&b), .id = 6 };
	l.cid = hear(&b, GB_ACCEPT).u.accept.cid;
	assert_int_not_equal(l.cid, cid);
	put_all(l.client, "log line", 8);
	close(l.client);
	usleep(20000);
	go(&b, &l, 0, 0);
	expect_bytes(l.server, "log line");
	expect_end(l.server);
	close(l.server);
	hear_closed(&b, 6, LANE_END_EOF);
	bed_stop(&b);
}

/* A client that goes to another host: its connection comes out of the gate as it went in, with what it had written. */
static void test_hand_over(void **state)
{
	struct bed b = bed_start();
	struct role_msg hand = { .type = BG_HAND }, m;
	struct lane_ends left = { .client = dial(&b), .id = 9 };
	AUTO_FD handed = -1;
	size_t n_fds;
	int client;

	left.cid = hear(&b, GB_ACCEPT).u.accept.cid;
	n_fds = count_fds(b.gate);
	client = dial(&b);
	hand.u.id.id = hear(&b, GB_ACCEPT).u.accept.cid;
	put_all(client, "early", 5);
	tell(&b, &hand, -1);
	chan_wait(&b.broker, POLLIN);
	assert_int_equal(role_recv(&b.broker, &m, &handed), 1);
	assert_int_equal(m.type, GB_HANDED);
	assert_int_equal(m.u.id.id, hand.u.id.id);
	assert_true(handed >= 0);
	expect_bytes(handed, "early");
	put_all(handed, "answer", 6);
	expect_bytes(client, "answer");
	for (int i = 0; i < 500 && count_fds(b.gate) != n_fds; i++)
		usleep(2000);
	assert_int_equal(count_fds(b.gate), n_fds); /* the gate keeps nothing of it */
	/* Not twice, not one that is gone, not one that never was; the others are not touched. */
	tell(&b, &hand, -1);
	hand.u.id.id = 12345;
	tell(&b, &hand, -1);
	close(left.client);
	assert_int_equal(hear(&b, GB_GONE).u.id.id, left.cid);
	hand.u.id.id = left.cid;
	tell(&b, &hand, -1);
	left = lane_open(&b);
	put_all(left.client, "relayed", 7);
	expect_bytes(left.server, "relayed");
	hand.u.id.id = left.cid; /* open: its bytes are the relay's */
	tell(&b, &hand, -1);
	put_all(left.client, "still", 5);
	expect_bytes(left.server, "still");
	lane_hang_up(&left);
	hear_closed(&b, left.id, LANE_END_EOF);
	close(client);
	bed_stop(&b);
}

static void test_unknown_numbers(void **state)
{
	static const uint32_t numbers[] = { 0, 1, 8999, 9000, 16383, 1 << 14, UINT32_MAX - 1, ROLE_NO_ID };
	struct bed b = bed_start();
	struct lane_ends l;

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		struct lane_ends unborn = { .cid = numbers[i], .id = 1 + i };
		struct role_msg m = { .type = BG_REFUSE, .u.id.id = numbers[i] };

		tell(&b, &m, -1);
		m = (struct role_msg){ .type = BG_CUT, .u.lane_ref.lane_id = numbers[i] };
		tell(&b, &m, -1);
		m = (struct role_msg){ .type = BG_LIMIT, .u.lane_ref = { .lane_id = numbers[i], .bytes_per_s = 1 } };
		tell(&b, &m, -1);
		m = (struct role_msg){ .type = BG_UNLISTEN, .u.id.id = numbers[i] };
		if (numbers[i] != LID)
			tell(&b, &m, -1);
		go(&b, &unborn, 0, 0);
		hear_closed(&b, unborn.id, LANE_END_CLIENT);
		close(unborn.server);
	}
	l = lane_open(&b);
	put_all(l.client, "fine", 4);
	expect_bytes(l.server, "fine");
	lane_hang_up(&l);
	hear(&b, GB_CLOSED);
	bed_stop(&b);
}

/* BG_GO whose descriptor got lost on the way: that lane is over, nothing else. */
static void test_go_without_descriptor(void **state)
{
	struct bed b = bed_start();
	int client = dial(&b);
	struct role_msg m = { .type = BG_GO, .u.go = { .cid = hear(&b, GB_ACCEPT).u.accept.cid, .lane_id = 9 } };

	tell(&b, &m, -1);
	hear_closed(&b, 9, LANE_END_NOMEM);
	expect_end(client);
	close(client);
	bed_stop(&b);
}

static void expect_gate_exit(struct bed *b)
{
	int status = bed_wait(b);

	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 1);
	chan_close(&b->broker);
}

static void test_malformed_messages(void **state)
{
	static const struct role_msg wrong_way = { .type = GB_ACCEPT };
	struct bed b = bed_start();

	assert_int_equal(chan_send(&b.broker, "garbage", 7, -1), 0);
	expect_gate_exit(&b);
	b = bed_start();
	tell(&b, &wrong_way, -1);
	expect_gate_exit(&b);
	b = bed_start();
	tell(&b, &(struct role_msg){ .type = BG_LISTEN }, -1); /* without its socket */
	expect_gate_exit(&b);
	b = bed_start();
	tell(&b, &(struct role_msg){ .type = BG_GO }, -1); /* lane_id 0 */
	expect_gate_exit(&b);
}

static void test_listeners_change(void **state)
{
	struct bed b = bed_start();
	struct role_msg m = { .type = BG_UNLISTEN, .u.id.id = LID };
	struct sockaddr_un old = b.addr;
	socklen_t old_size = b.addr_size;
	size_t n_fds;
	int fd, r = 0;

	bed_listen(&b); /* the same lid again: takes the old one's place */
	fd = dial(&b);
	hear(&b, GB_ACCEPT);
	close(fd);
	hear(&b, GB_GONE);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&old, old_size), -1);
	close(fd);
	n_fds = count_fds(b.gate);
	tell(&b, &m, -1);
	for (int i = 0; i < 500 && r == 0; i++) {
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		usleep(2000);
		r = count_fds(b.gate) == n_fds ? 0 : connect(fd, (struct sockaddr *)&b.addr, b.addr_size);
		close(fd);
	}
	assert_int_equal(r, -1);
	bed_listen(&b);
	fd = dial(&b);
	hear(&b, GB_ACCEPT);
	close(fd);
	hear(&b, GB_GONE);
	bed_stop(&b);
}

static uint64_t cpu_ticks(pid_t pid)
{
	char path[64], text[1024], *at;
	unsigned long long user = 0, sys = 0;
	ssize_t n;
	AUTO_FD fd = -1;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = read(fd, text, sizeof(text) - 1);
	assert_true(n > 0);
	text[n] = '\0';
	at = strrchr(text, ')');
	assert_int_equal(sscanf(at + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &sys), 2);
	return user + sys;
}

/* Out of descriptors: clients wait in the backlog without costing CPU, and are served when one is free again. */
static void test_descriptor_limit(void **state)
{
	enum { N = 60 };
	struct bed b = bed_start();
	struct lane_ends l[N];
	struct rlimit lim = { .rlim_cur = 0 };
	int accepted = 0;
	uint64_t ticks;

	/* It read its own limit at the start and does not know this one: accept() itself has to fail. */
	l[0] = lane_open(&b);
	put_all(l[0].client, "x", 1);
	expect_bytes(l[0].server, "x");
	lim.rlim_cur = lim.rlim_max = count_fds(b.gate) + 20;
	assert_int_equal(prlimit(b.gate, RLIMIT_NOFILE, &lim, NULL), 0);
	for (int i = 1; i < N; i++)
		l[i].client = dial(&b);
	for (;;) {
		struct pollfd p = { .fd = b.broker.fd, .events = POLLIN };

		if (poll(&p, 1, accepted ? 500 : WAIT_MS) == 0)
			break;
		hear(&b, GB_ACCEPT);
		accepted++;
	}
	assert_in_range(accepted, 1, N - 2);
	ticks = cpu_ticks(b.gate);
	usleep(500000);
	assert_true(cpu_ticks(b.gate) - ticks <= 2);
	lane_hang_up(&l[0]);
	for (int i = 1; i < N; i++)
		close(l[i].client);
	for (int gone = 0, asked = accepted + 1; gone < N - 1;) { /* each that was asked about leaves, and others come */
		struct role_msg m;
		AUTO_FD fd = -1;

		chan_wait(&b.broker, POLLIN);
		assert_int_equal(role_recv(&b.broker, &m, &fd), 1);
		gone += m.type == GB_GONE;
		asked += m.type == GB_ACCEPT;
		assert_in_range(asked, 1, N);
	}
	bed_stop(&b);
}

static int run_filtered(void (*fn)(void))
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		tzset();
		if (gate_isolate() < 0)
			_exit(99);
		fn();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void try_open(void)
{
	(void)!open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void try_socket(void)
{
	(void)!socket(AF_UNIX, SOCK_STREAM, 0);
}

static void try_connect(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	(void)!connect(0, (struct sockaddr *)&a, sizeof(a));
}

static void try_execve(void)
{
	execve("/bin/true", (char *[]){ (char []){ "true" }, NULL }, NULL);
}

static void try_fork(void)
{
	(void)!syscall(SYS_fork);
}

static void try_kill(void)
{
	kill(getppid(), 0);
}

static void try_other_ioctl(void)
{
	int n;

	ioctl(0, 0x541B /* FIONREAD */, &n);
}

static void try_log(void)
{
	log_init("gate", LOG_LEVEL_INFO);
	(void)!close(STDERR_FILENO);
	log_warn("gate.test", LOG_STR("error", log_errno_name(-EPERM)));
}

static void assert_killed(void (*fn)(void))
{
	int status = run_filtered(fn);

	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGSYS);
}

static void test_filter(void **state)
{
	int status;

	if (!HAVE_SANITIZER)
		assert_killed(try_open); /* a sanitizer's own reports need it */
	assert_killed(try_socket);
	assert_killed(try_connect);
	assert_killed(try_execve);
	assert_killed(try_fork);
	assert_killed(try_kill);
	assert_killed(try_other_ioctl);
	status = run_filtered(try_log);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* As in gate_main(): an ordinary user without a way back. */
static void test_leaves_root(void **state)
{
	pid_t pid;
	int status;

	if (geteuid() != 0) {
		print_message("skipped: needs root\n");
		skip();
	}
	pid = fork();
	if (pid == 0)
		_exit(role_leave_root("nobody") == 0 && geteuid() != 0 && setuid(0) != 0 && role_leave_root("no such user") != -ENOENT ? 0 : 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	pid = fork();
	if (pid == 0)
		_exit(role_leave_root("no such user") == -ENOENT ? 0 : 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void *gate_thread(void *arg)
{
	return gate_run(*(int *)arg) == 0 ? arg : NULL;
}

/* In this process, so that a leak checker sees what is left when the broker goes away in the middle of everything. */
static void test_nothing_is_left(void **state)
{
	struct bed b = { .next_lane = 1 };
	struct lane_ends l, paused;
	pthread_t thread;
	void *ret;
	int fds[2], waits;
	size_t n_fds = count_fds(getpid());

	assert_int_equal(chan_pair(fds), 0);
	assert_int_equal(pthread_create(&thread, NULL, gate_thread, &fds[1]), 0);
	chan_init(&b.broker, fds[0]);
	bed_listen(&b);
	l = lane_open(&b);
	paused = lane_open_limited(&b, 1000, 0);
	waits = dial(&b);
	hear(&b, GB_ACCEPT);
	fill(l.client);
	fill(paused.client);
	chan_close(&b.broker);
	assert_int_equal(pthread_join(thread, &ret), 0);
	assert_ptr_equal(ret, &fds[1]);
	expect_end(waits);
	close(waits);
	lane_hang_up(&l);
	lane_hang_up(&paused);
	assert_int_equal(count_fds(getpid()), n_fds);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_echo),
		cmocka_unit_test(test_bulk_both_ways),
		cmocka_unit_test(test_half_close),
		cmocka_unit_test(test_out_of_order_close),
		cmocka_unit_test(test_reader_leaves),
		cmocka_unit_test(test_slow_reader),
		cmocka_unit_test(test_many_lanes),
		cmocka_unit_test(test_refuse),
		cmocka_unit_test(test_cut),
		cmocka_unit_test(test_byte_rate),
		cmocka_unit_test(test_byte_rate_is_shared),
		cmocka_unit_test(test_descriptors_are_refused),
		cmocka_unit_test(test_early_descriptors),
		cmocka_unit_test(test_lingering),
		cmocka_unit_test(test_client_leaves_before_verdict),
		cmocka_unit_test(test_hand_over),
		cmocka_unit_test(test_unknown_numbers),
		cmocka_unit_test(test_go_without_descriptor),
		cmocka_unit_test(test_malformed_messages),
		cmocka_unit_test(test_listeners_change),
		cmocka_unit_test(test_descriptor_limit),
		cmocka_unit_test(test_filter),
		cmocka_unit_test(test_leaves_root),
		cmocka_unit_test(test_nothing_is_left),
	};

	log_init("test", LOG_LEVEL_ERROR);
	cmocka_set_test_filter(getenv("SEALANE_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
