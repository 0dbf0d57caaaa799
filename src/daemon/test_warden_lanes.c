/* Direct lanes between processes of two cgroups, with network namespaces of their own: found, attributed, cut. */
#include "daemon/test_warden.h"

#include "daemon/warden_lanes.h"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

enum { SERVER_WID = 1, CLIENT_WID = 2, OTHER_WID = 3, SID = 7 };
/* For what has to come. The machine may be busy with anything. */
enum { WAIT_MS = 60000 };

static struct event_base *g_base;
static struct files g_files;
static struct cgroups g_cgroups;
static struct servers g_servers;
static struct lanes g_lanes;
static char g_dir[64], g_top[64];
static char g_why[WARDEN_WHY_SIZE];
static bool g_can;
static pid_t g_server;

static void on_gone(void *arg, const struct cgroup *c)
{
}

static void on_state(void *arg, const struct server *s)
{
}

static int check_owner(void *arg, uint32_t wid, struct identity *who, char *why)
{
	return 0;
}

static int g_sock;

static void on_connected(void *arg, uint32_t seq, const struct server *s, int error, int sock, const char *why)
{
	assert_int_equal(error, 0);
	lanes_note_own(&g_lanes, sock);
	g_sock = sock;
}

static void run_for(unsigned ms)
{
	struct timeval tv = { .tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000) * 1000 };

	event_base_loopexit(g_base, &tv);
	event_base_dispatch(g_base);
}

static void enter_cgroup(const char *sub)
{
	char path[160];

	snprintf(path, sizeof(path), "%s/%s/cgroup.procs", g_top, sub);
	AUTO_FD fd = openat(g_cgroups.mount_fd, path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || dprintf(fd, "0") < 0)
		_exit(9);
}

static const char *at(const char *rest)
{
	static char bufs[4][256];
	static unsigned turn;
	char *b = bufs[turn++ % 4];

	snprintf(b, sizeof(bufs[0]), "%s/%s", g_dir, rest);
	return b;
}

/* A container's process: its own cgroup and network. */
static pid_t start(const char *sub, bool own_net, void (*body)(int report), int report)
{
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	enter_cgroup(sub);
	if (own_net && unshare(CLONE_NEWNET) < 0)
		_exit(8);
	body(report);
	_exit(0);
}

/* Accepts and keeps everything. */
static void serve(int report)
{
	int s = test_server(at("w/redis/serve/redis.sock"));

	if (write(report, "r", 1) != 1)
		_exit(1);
	for (;;)
		if (accept(s, NULL, NULL) < 0)
			pause();
}

static void never_accept(int report)
{
	int s = test_server(at("w/redis/serve/redis.sock"));

	if (s < 0 || write(report, "r", 1) != 1)
		_exit(1);
	for (;;)
		pause();
}

static void say(int report, char c)
{
	if (write(report, &c, 1) != 1)
		_exit(1);
}

/* Connects, says so, and says when the connection ends. */
static void client(int report)
{
	int c = test_connect(at("w/web/redis.sock"));
	char byte;

	say(report, c >= 0 ? 'c' : 'x');
	say(report, read(c, &byte, 1) == 0 ? 'e' : 'x');
}

/* Keeps the server's inode from when it was allowed, and comes back again and again. */
static void stubborn_client(int report)
{
	int file = open(at("w/web/redis.sock"), O_PATH | O_CLOEXEC);

	for (;;) {
		int c = socket(AF_UNIX, SOCK_STREAM, 0);
		char byte;

		say(report, path_connect(c, file) == 0 ? 'c' : 'x');
		say(report, read(c, &byte, 1) == 0 ? 'e' : 'x');
		close(c);
	}
}

/* Hands its end to a process outside of every workload, then goes away. */
static void leaking_client(int report)
{
	int c = test_connect(at("w/web/redis.sock"));
	char byte;

	if (c < 0)
		_exit(1);
	if (fork() == 0) {
		AUTO_FD top = openat(g_cgroups.mount_fd, "cgroup.procs", O_WRONLY | O_CLOEXEC);

		if (top < 0 || dprintf(top, "0") < 0)
			_exit(9);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		say(report, 'c');
		say(report, read(c, &byte, 1) == 0 ? 'e' : 'x');
		_exit(0);
	}
	close(c);
	for (;;)
		pause(); /* the container goes on, and with it its namespace */
}

/* Takes the connection out of the network namespace that it was made in, which is then empty. */
static void hiding_client(int report)
{
	int pair[2];
	char byte;
	pid_t child;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		_exit(1);
	child = fork();
	if (child == 0) {
		pid_t parent = getppid();
		int c = unshare(CLONE_NEWNET) < 0 ? -1 : test_connect(at("w/web/redis.sock"));

		if (parent < 0 || write(pair[1], &c, sizeof(c)) != sizeof(c) || read(pair[1], &byte, 1) != 1)
			_exit(1);
		_exit(0);
	}
	int theirs = -1;
	if (read(pair[0], &theirs, sizeof(theirs)) != sizeof(theirs) || theirs < 0)
		_exit(2);
	int pidfd = (int)syscall(SYS_pidfd_open, child, 0);
	int c = (int)syscall(SYS_pidfd_getfd, pidfd, theirs, 0);
	if (c < 0 || write(pair[0], "x", 1) != 1 || waitpid(child, NULL, 0) != child)
		_exit(3);
	say(report, 'c');
	say(report, read(c, &byte, 1) == 0 ? 'e' : 'x');
}

static void hoarder(int report)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	for (int i = 0; i < 19000; i++)
		if (dup(fd) < 0)
			break;
	say(report, 'h');
	for (;;)
		pause();
}

static void many(int report)
{
	for (int i = 0; i < 2000; i++)
		if (test_connect(at("w/web/redis.sock")) < 0)
			_exit(1);
	say(report, 'c');
	for (;;)
		pause();
}

static char wait_byte(int fd, int timeout_ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	uint64_t end = clock_ns() + (uint64_t)timeout_ms * 1000000u;
	char c;

	while (clock_ns() < end) {
		run_for(5);
		if (poll(&p, 1, 0) == 1)
			return read(fd, &c, 1) == 1 ? c : '-';
	}
	return 't';
}

static void enrol(uint32_t wid, const char *name)
{
	struct role_cgroup c = { .wid = wid };
	const struct cgroup *enrolled;

	snprintf(c.path, sizeof(c.path), "/%s/%s", g_top, name);
	assert_int_equal(cgroups_enrol(&g_cgroups, &c, &enrolled, g_why), 0);
}

static void add_workload(uint32_t wid, const char *name, bool offers)
{
	struct role_workload w = { .wid = wid, .offers = offers };
	char path[128];

	strcpy(w.name, name);
	assert_int_equal(files_add_workload(&g_files, &w, g_why), 0);
	snprintf(path, sizeof(path), "%s/%s", g_top, name);
	assert_int_equal(mkdirat(g_cgroups.mount_fd, path, 0755), 0);
	enrol(wid, name);
}

static void start_server(void (*body)(int))
{
	struct role_server m = { .sid = SID, .wid = SERVER_WID, .mode = -1, .uid = -1, .gid = -1, .path = "redis.sock" };
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	g_server = start("redis", true, body, fds[1]);
	assert_int_equal(wait_byte(fds[0], WAIT_MS), 'r');
	close(fds[0]);
	close(fds[1]);
	assert_int_equal(servers_watch(&g_servers, &m, g_why), 0);
	for (uint64_t end = clock_ns() + WAIT_MS * UINT64_C(1000000); !servers_find(&g_servers, SID)->up && clock_ns() < end;)
		run_for(5);
	assert_true(servers_find(&g_servers, SID)->up);
	assert_int_equal(files_route(&g_files, 1, servers_find(&g_servers, SID)->fd, g_why), 0);
	assert_int_equal(files_route(&g_files, 2, servers_find(&g_servers, SID)->fd, g_why), 0);
}

static int setup(void **state)
{
	struct role_listen web = { .lid = 1, .wid = CLIENT_WID, .mode = 0666, .type = SOCK_STREAM, .uid = -1, .gid = -1, .path = "redis.sock" };
	struct role_listen other = { .lid = 2, .wid = OTHER_WID, .mode = 0666, .type = SOCK_STREAM, .uid = -1, .gid = -1, .path = "redis.sock" };
	int fd;

	g_base = event_base_new();
	snprintf(g_top, sizeof(g_top), "sealane-lanes-%d", getpid());
	g_can = geteuid() == 0 && cgroups_open(&g_cgroups, g_base) == 0 && mkdirat(g_cgroups.mount_fd, g_top, 0755) == 0;
	if (!g_can)
		return 0;
	g_cgroups.on_gone = on_gone;
	test_dir(g_dir);
	assert_int_equal(files_open(&g_files, g_dir), 0);
	assert_int_equal(servers_open(&g_servers, g_base, &g_files), 0);
	g_servers.on_state = on_state;
	g_servers.check_owner = check_owner;
	g_servers.on_connected = on_connected;
	assert_int_equal(lanes_open(&g_lanes, g_base, &g_cgroups, &g_servers), 0);
	add_workload(SERVER_WID, "redis", true);
	add_workload(CLIENT_WID, "web", false);
	add_workload(OTHER_WID, "other", false);
	assert_int_equal(files_listen(&g_files, &web, &fd, g_why), 0);
	assert_int_equal(files_listen(&g_files, &other, &fd, g_why), 0);
	return 0;
}

static void remove_cgroup(const char *sub)
{
	char path[128];

	snprintf(path, sizeof(path), "%s%s%s", g_top, sub[0] ? "/" : "", sub);
	for (int i = 0; i < 100 && unlinkat(g_cgroups.mount_fd, path, AT_REMOVEDIR) < 0; i++)
		poll(NULL, 0, 10);
}

static int teardown(void **state)
{
	if (!g_can)
		return 0;
	if (g_server)
		test_end_child(g_server);
	g_server = 0;
	remove_cgroup("redis");
	remove_cgroup("web");
	remove_cgroup("other");
	remove_cgroup("");
	lanes_close(&g_lanes);
	servers_close(&g_servers);
	cgroups_close(&g_cgroups);
	files_close(&g_files);
	test_dir_remove(g_dir);
	event_base_free(g_base);
	return 0;
}

#define REQUIRE_CONTAINERS()                                                                     \
	do {                                                                                     \
		if (!g_can) {                                                                    \
			print_message("needs root and a cgroup2 mount that it can write\n");     \
			skip();                                                                  \
		}                                                                                \
	} while (0)

struct seen {
	unsigned n, n_accepted, n_client, n_nobody;
	struct role_lane last;
};

static void on_lane(void *arg, const struct role_lane *l)
{
	struct seen *s = arg;

	s->n++;
	s->n_accepted += l->server_ino != 0;
	s->n_client += l->wid == CLIENT_WID;
	s->n_nobody += l->wid == ROLE_NO_ID;
	s->last = *l;
}

static int cut(uint32_t wid, bool watch)
{
	struct role_cut m = { .sid = SID, .wid = wid, .watch = watch };

	return lanes_cut(&g_lanes, &m);
}

/* One lane. 0: the look's budget was over before it was found whose it is; then it is looked for again until all was seen. */
static void cut_one(uint32_t wid, bool watch)
{
	assert_in_range(cut(wid, watch), 0, 1);
}

/* Until the server has accepted @n, and at least @n_client of them are known to be the client's: a look has a budget. */
static struct seen scan_until(unsigned n, unsigned n_client)
{
	uint64_t end = clock_ns() + WAIT_MS * UINT64_C(1000000);
	struct seen s;

	for (;;) {
		s = (struct seen){};
		assert_true(lanes_scan(&g_lanes, on_lane, &s) >= 0);
		if ((s.n_accepted == n && s.n_client >= n_client) || clock_ns() > end)
			break;
		run_for(10);
	}
	assert_int_equal(s.n, n);
	assert_int_equal(s.n_accepted, n);
	assert_true(s.n_client >= n_client);
	return s;
}

static void test_scan_names_both_ends(void **state)
{
	struct seen s;
	int fds[2];

	REQUIRE_CONTAINERS();
	start_server(serve);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid_t c = start("web", true, client, fds[1]);
	assert_int_equal(wait_byte(fds[0], WAIT_MS), 'c');
	/* the gate's connection is the broker's to list */
	servers_connect(&g_servers, 1, SID);
	AUTO_FD relay = g_sock;
	assert_true(relay >= 0);
	s = scan_until(1, 1);
	assert_int_equal(s.last.sid, SID);
	assert_int_equal(s.last.wid, CLIENT_WID);
	assert_int_equal(s.last.client_pid, c);
	assert_int_equal(s.last.server_pid, g_server);
	assert_true(s.last.client_ino != 0 && s.last.server_ino != 0);
	test_end_child(c);
	assert_int_equal(lanes_scan(&g_lanes, on_lane, &s), 0);
}

static void test_cut_is_the_pair_only(void **state)
{
	int web[2], other[2];

	REQUIRE_CONTAINERS();
	start_server(serve);
	assert_int_equal(pipe2(web, O_CLOEXEC) + pipe2(other, O_CLOEXEC), 0);
	pid_t a = start("web", true, client, web[1]);
	pid_t b = start("other", true, client, other[1]);
	assert_int_equal(wait_byte(web[0], WAIT_MS), 'c');
	assert_int_equal(wait_byte(other[0], WAIT_MS), 'c');
	scan_until(2, 1); /* one that is being accepted during a look may be in neither list: that is what watches are for */
	cut_one(CLIENT_WID, false);
	assert_int_equal(wait_byte(web[0], WAIT_MS), 'e');
	assert_int_equal(wait_byte(other[0], 300), 't');
	/* in a namespace that two workloads share, too */
	test_end_child(a);
	a = start("web", false, client, web[1]);
	enrol(CLIENT_WID, "web"); /* it was empty, so it was gone */
	pid_t d = start("other", false, client, other[1]);
	assert_int_equal(wait_byte(web[0], WAIT_MS), 'c');
	assert_int_equal(wait_byte(other[0], WAIT_MS), 'c');
	scan_until(3, 1);
	cut_one(CLIENT_WID, false);
	assert_int_equal(wait_byte(web[0], WAIT_MS), 'e');
	assert_int_equal(wait_byte(other[0], 300), 't');
	test_end_child(a);
	test_end_child(b);
	test_end_child(d);
}

static void test_cut_in_the_backlog(void **state)
{
	int fds[2];

	REQUIRE_CONTAINERS();
	start_server(never_accept);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid_t c = start("web", true, client, fds[1]);
	assert_int_equal(wait_byte(fds[0], WAIT_MS), 'c');
	cut_one(CLIENT_WID, false);
	assert_int_equal(wait_byte(fds[0], WAIT_MS), 'e');
	test_end_child(c);
}

/* It kept the inode: each new connection ends within a second, until it is allowed again. */
static void test_watch_a_kept_inode(void **state)
{
	uint64_t began, fastest = UINT64_MAX;
	char c_now, last = 'e';
	int fds[2];

	REQUIRE_CONTAINERS();
	start_server(serve);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid_t c = start("web", true, stubborn_client, fds[1]);
	assert_int_equal(wait_byte(fds[0], WAIT_MS), 'c');
	assert_int_equal(files_route(&g_files, 1, -1, g_why), 0);
	cut_one(CLIENT_WID, true);
	assert_int_equal(wait_byte(fds[0], WAIT_MS), 'e');
	assert_int_equal(wait_byte(fds[0], WAIT_MS), 'c');
	assert_int_equal(wait_byte(fds[0], WAIT_MS), 'e');
	assert_int_equal(wait_byte(fds[0], WAIT_MS), 'c');
	assert_int_equal(wait_byte(fds[0], WAIT_MS), 'e');
	/* Who comes back at once is looked for at once, and not every 250 ms: that shows as soon as the machine lets us both. */
	for (int i = 0; i < 100 && fastest > 125000000u; i++) {
		began = clock_ns();
		assert_int_equal(wait_byte(fds[0], WAIT_MS), 'c');
		assert_int_equal(wait_byte(fds[0], WAIT_MS), 'e');
		began = clock_ns() - began;
		fastest = began < fastest ? began : fastest;
	}
	assert_true(fastest <= 125000000u);
	lanes_allow(&g_lanes, SID, CLIENT_WID);
	while ((c_now = wait_byte(fds[0], last == 'c' ? 600 : WAIT_MS)) != 't')
		last = c_now;
	assert_int_equal(last, 'c');
	test_end_child(c);
}

static void test_cut_what_was_handed_out(void **state)
{
	int fds[2];

	REQUIRE_CONTAINERS();
	start_server(serve);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid_t c = start("web", true, leaking_client, fds[1]);
	assert_int_equal(wait_byte(fds[0], WAIT_MS), 'c');
	scan_until(1, 1); /* who opened it, wherever it is */
	cut_one(CLIENT_WID, false);
	assert_int_equal(wait_byte(fds[0], WAIT_MS), 'e');
	test_end_child(c);
}

/* Nobody is in the lane's network namespace any more: only the server's end leads there. */
static void test_cut_from_a_namespace_that_was_left(void **state)
{
	int fds[2];

	REQUIRE_CONTAINERS();
	start_server(serve);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid_t c = start("web", true, hiding_client, fds[1]);
	assert_int_equal(wait_byte(fds[0], WAIT_MS), 'c');
	scan_until(1, 1);
	assert_int_equal(cut(OTHER_WID, false), 0);
	cut_one(CLIENT_WID, false);
	assert_int_equal(wait_byte(fds[0], WAIT_MS), 'e');
	test_end_child(c);
}

/* No lane is open when the pair is forbidden (a daemon that starts again): the next one is cut all the same. */
static void test_watch_without_a_lane(void **state)
{
	int fds[2];

	REQUIRE_CONTAINERS();
	start_server(serve);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	assert_int_equal(cut(CLIENT_WID, true), 0);
	run_for(600);
	pid_t c = start("web", true, stubborn_client, fds[1]);
	assert_int_equal(wait_byte(fds[0], WAIT_MS), 'c');
	assert_int_equal(wait_byte(fds[0], WAIT_MS), 'e');
	test_end_child(c);
}

/* What clients hold does not slow down a look at lanes that servers hold. */
static void test_clients_descriptors_cost_nothing(void **state)
{
	uint64_t began, fastest = UINT64_MAX;
	struct seen s = {};
	int fds[2];

	REQUIRE_CONTAINERS();
	start_server(never_accept);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid_t hoarders[40], c = start("web", true, client, fds[1]);
	assert_int_equal(wait_byte(fds[0], WAIT_MS), 'c');
	for (int i = 0; i < 40; i++)
		hoarders[i] = start("other", true, hoarder, fds[1]);
	for (int i = 0; i < 40; i++)
		assert_int_equal(wait_byte(fds[0], WAIT_MS), 'h');
	for (int i = 0; i < 10 && fastest > 1500000000u; i++) { /* a look that the machine interrupted says nothing */
		began = clock_ns();
		assert_int_equal(lanes_scan(&g_lanes, on_lane, &s), 1); /* it waits to be accepted: its holder has to be found */
		began = clock_ns() - began;
		fastest = began < fastest ? began : fastest;
	}
	print_message("scan beside %d descriptors: %u ms\n", 40 * 19000, (unsigned)(fastest / 1000000));
	assert_true(fastest < 1500000000u);
	assert_true(cut(CLIENT_WID, false) >= 0);
	assert_int_equal(wait_byte(fds[0], WAIT_MS), 'e');
	for (int i = 0; i < 40; i++)
		test_end_child(hoarders[i]);
	test_end_child(c);
}

static void test_own_sockets_are_forgotten(void **state)
{
	REQUIRE_CONTAINERS();
	start_server(serve);
	for (int i = 0; i < 1000; i++) {
		g_sock = -1;
		servers_connect(&g_servers, 1, SID);
		while (g_sock < 0)
			run_for(5); /* the server is slow to accept */
		close(g_sock);
	}
	assert_true(g_lanes.n_own <= 200);
}

static bool raise_limit(rlim_t n)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) < 0)
		return false;
	rl.rlim_cur = rl.rlim_max;
	return rl.rlim_max >= n && setrlimit(RLIMIT_NOFILE, &rl) == 0;
}

static void test_many_lanes(void **state)
{
	uint64_t began, end;
	int fds[2], n = 0;

	REQUIRE_CONTAINERS();
	if (!raise_limit(11000)) {
		print_message("needs 11000 descriptors\n");
		skip();
	}
	start_server(serve);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid_t c[5];
	for (int i = 0; i < 5; i++)
		c[i] = start("web", true, many, fds[1]);
	for (int i = 0; i < 5; i++)
		assert_int_equal(wait_byte(fds[0], WAIT_MS), 'c');
	scan_until(10000, 2000); /* all are known, where the machine is quick enough for the look's budget */
	began = clock_ns();
	for (end = began + WAIT_MS * UINT64_C(1000000); n < 10000 && clock_ns() < end;)
		n += cut(CLIENT_WID, false);
	assert_int_equal(n, 10000); /* none of them twice */
	print_message("cut of all: %u ms\n", (unsigned)((clock_ns() - began) / 1000000));
	assert_int_equal(cut(CLIENT_WID, false), 0);
	for (int i = 0; i < 5; i++)
		test_end_child(c[i]);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_scan_names_both_ends), TEST(test_cut_is_the_pair_only),    TEST(test_cut_in_the_backlog),
		TEST(test_watch_a_kept_inode),	 TEST(test_cut_what_was_handed_out), TEST(test_many_lanes),
		TEST(test_cut_from_a_namespace_that_was_left), TEST(test_watch_without_a_lane),
		TEST(test_clients_descriptors_cost_nothing), TEST(test_own_sockets_are_forgotten),
	};

	return cmocka_run_group_tests_name("warden_lanes", tests, NULL, NULL);
}
