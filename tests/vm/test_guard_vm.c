/*
 * The kernel hook for real: runs as root inside the test machine (run.sh), with real cgroups and real sockets.
 *
 * Each test has a server's listening socket on a tmpfs and a hard link to it, as in a client workload's directory; clients
 * are forked processes that move themselves into a cgroup and connect, and their exit status is what connect(2) said.
 *
 * test_guard_vm --not-asked: for a kernel started without bpf in lsm=: guard_open() must notice and say what to change.
 */
#include "guard/guard.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cmocka.h>

#define CG "/sys/fs/cgroup"
#define SERVER_PATH "/run/w/cache/serve/redis.sock"
#define LINK_PATH "/run/w/web/redis.sock"

enum { SID = 7, OTHER_SID = 8, WID_CACHE = 1, WID_WEB = 2, WID_INTRUDER = 3, WID_INNER = 4, MANY = 30 };

static struct guard *g;
static int g_listener = -1;

/* Events of the last read_all(). */
static struct guard_event g_events[256];
static size_t g_n_events;

static void on_event(void *arg, const struct guard_event *e)
{
	assert_true(g_n_events < ARRAY_SIZE(g_events));
	g_events[g_n_events++] = *e;
}

static void read_all(void)
{
	int n;

	g_n_events = 0;
	do {
		n = guard_read_events(g, on_event, NULL);
		assert_true(n >= 0 && n <= GUARD_EVENTS_PER_TURN);
	} while (n > 0);
}

/* ---- cgroups ---- */

static uint64_t cgroup_make(const char *path)
{
	struct stat st;

	if (mkdir(path, 0755) < 0)
		assert_int_equal(errno, EEXIST);
	assert_int_equal(stat(path, &st), 0);
	return st.st_ino;
}

static void cgroup_enter(const char *path)
{
	char file[4096];
	int fd;

	snprintf(file, sizeof(file), "%s/cgroup.procs", path);
	fd = open(file, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "0", 1) != 1)
		_exit(200);
	close(fd);
}

/* ---- sockets ---- */

static int try_connect(const char *path, int type)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	AUTO_FD fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	if (fd < 0 || !str_copy(sa.sun_path, sizeof(sa.sun_path), path))
		return -EINVAL;
	return connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ? -errno : 0;
}

static int connect_path(void *path)
{
	return try_connect(path, SOCK_STREAM);
}

static int make_listener(const char *path, int type)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_true(fd >= 0 && str_copy(sa.sun_path, sizeof(sa.sun_path), path));
	unlink(path);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(fd, 4096), 0);
	return fd;
}

static void drain(int listener)
{
	int fd;

	while ((fd = accept(listener, NULL, NULL)) >= 0)
		close(fd);
}

/* as() - run @fn in a process of its own in @cgroup. Return: what @fn returned (0 or negative errno). */
static int as(const char *cgroup, int (*fn)(void *arg), void *arg)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		cgroup_enter(cgroup);
		_exit(-fn(arg));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (g_listener >= 0)
		drain(g_listener);
	return -WEXITSTATUS(status);
}

static int connect_as(const char *cgroup, const char *path)
{
	return as(cgroup, connect_path, (void *)path);
}

static void set_server_at(const char *path, uint32_t sid, uint32_t owner)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(guard_set_server(g, sid, owner, st.st_dev, st.st_ino), 0);
}

/* ---- the world of the tests ---- */

static struct {
	uint64_t cache, web, web_sub, intruder, inner;
} g_id;

static void tell_all(uint32_t wid_shift)
{
	set_server_at(SERVER_PATH, SID, WID_CACHE + wid_shift);
	assert_int_equal(guard_enrol(g, g_id.cache, WID_CACHE + wid_shift), 0);
	assert_int_equal(guard_enrol(g, g_id.web, WID_WEB + wid_shift), 0);
	assert_int_equal(guard_enrol(g, g_id.intruder, WID_INTRUDER + wid_shift), 0);
	assert_int_equal(guard_grant(g, SID, WID_WEB + wid_shift), 0);
}

static int setup(void **state)
{
	char why[GUARD_WHY_SIZE];
	struct guard_options o = GUARD_OPTIONS_INIT;
	const char *dirs[] = { "/run/w", "/run/w/cache", "/run/w/cache/serve", "/run/w/web" };
	int r;

	prctl(PR_SET_NAME, "guard-client");
	o.verbose = getenv("GUARD_VERBOSE") != NULL;
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++)
		mkdir(dirs[i], 0755);
	g_id.cache = cgroup_make(CG "/cache");
	g_id.web = cgroup_make(CG "/web");
	g_id.web_sub = cgroup_make(CG "/web/sub");
	g_id.intruder = cgroup_make(CG "/intruder");
	g_id.inner = cgroup_make(CG "/web/inner");
	r = guard_open(&g, &o, why);
	if (r < 0) {
		print_error("guard_open: %s: %s\n", strerrorname_np(-r), why);
		return -1;
	}
	g_listener = make_listener(SERVER_PATH, SOCK_STREAM);
	unlink(LINK_PATH);
	return link(SERVER_PATH, LINK_PATH);
}

static int fresh(void **state)
{
	sleep(1); /* a new second for the brakes, so that each test sees its own events */
	tell_all(0);
	read_all();
	return 0;
}

static int teardown(void **state)
{
	g = guard_close(g);
	close(g_listener);
	return 0;
}

/* ---- who may ---- */

static void test_granted(void **state)
{
	char deep[4096] = CG "/web/sub";

	assert_int_equal(connect_as(CG "/web", LINK_PATH), 0);
	assert_int_equal(connect_as(CG "/web/sub", LINK_PATH), 0);
	for (int i = 0; i < 70; i++) { /* deeper than the program looks: the enrolled one is above */
		strcat(deep, "/d");
		cgroup_make(deep);
	}
	assert_int_equal(connect_as(deep, LINK_PATH), 0);
	read_all();
	assert_int_equal(g_n_events, 0); /* quiet when healthy */
}

static void test_refused(void **state)
{
	struct guard_totals before, after;

	assert_int_equal(guard_read_totals(g, &before), 0);
	assert_int_equal(connect_as(CG "/intruder", LINK_PATH), -EACCES);
	assert_int_equal(guard_read_totals(g, &after), 0);
	assert_int_equal(after.n_denied - before.n_denied, 1);
	assert_true(after.n_seen > before.n_seen);
	read_all();
	assert_int_equal(g_n_events, 1);
	assert_int_equal(g_events[0].verdict, GUARD_VERDICT_DENIED);
	assert_int_equal(g_events[0].sid, SID);
	assert_int_equal(g_events[0].wid, WID_INTRUDER);
	assert_int_equal(g_events[0].cgroup_id, g_id.intruder);
	assert_true(g_events[0].pid > 1 && g_events[0].cookie != 0);
	assert_string_equal(g_events[0].comm, "guard-client");
	assert_true(g_events[0].time_ns <= clock_ns() && clock_ns() - g_events[0].time_ns < 60000000000u);
	/* Somebody on the host that nobody enrolled, by the server's own path. */
	assert_int_equal(connect_as(CG, SERVER_PATH), -EACCES);
	read_all();
	assert_int_equal(g_n_events, 1);
	assert_int_equal(g_events[0].wid, GUARD_NO_ID);
}

static int connect_many(void *path)
{
	for (int i = 0; i < MANY; i++)
		if (connect_path(path) != -EACCES)
			return -EINVAL;
	return 0;
}

static void test_events_are_limited(void **state)
{
	size_t n = 0, n_suppressed = 0;

	assert_int_equal(as(CG "/intruder", connect_many, LINK_PATH), 0);
	read_all();
	n = g_n_events;
	assert_in_range(n, 1, MANY - 1); /* ten a second; the machine is slow, so some seconds may have passed */
	sleep(1);
	assert_int_equal(connect_as(CG "/intruder", LINK_PATH), -EACCES);
	for (size_t i = 0; i < n; i++)
		n_suppressed += g_events[i].n_suppressed;
	read_all();
	assert_int_equal(g_n_events, 1);
	assert_int_equal(n + n_suppressed + g_events[0].n_suppressed, MANY); /* none is lost from the sum */
}

static int connect_ten(void *path)
{
	for (int i = 0; i < 10; i++)
		connect_path(path);
	return 0;
}

static void test_events_come_in_turns(void **state)
{
	char path[64];
	int n;

	for (int i = 0; i < 8; i++) { /* unenrolled, so each has a brake of its own: 80 events */
		snprintf(path, sizeof(path), CG "/crowd%d", i);
		cgroup_make(path);
		assert_int_equal(as(path, connect_ten, LINK_PATH), 0);
	}
	g_n_events = 0;
	assert_int_equal(guard_read_events(g, on_event, NULL), GUARD_EVENTS_PER_TURN);
	n = guard_read_events(g, on_event, NULL);
	assert_int_equal(n, 80 - GUARD_EVENTS_PER_TURN);
	for (int i = 0; i < 80; i++)
		assert_int_equal(g_events[i].wid, GUARD_NO_ID);
}

static void test_nearest_workload_decides(void **state)
{
	assert_int_equal(guard_enrol(g, g_id.inner, WID_INNER), 0);
	assert_int_equal(connect_as(CG "/web/inner", LINK_PATH), -EACCES);
	assert_int_equal(guard_grant(g, SID, WID_INNER), 0);
	assert_int_equal(connect_as(CG "/web/inner", LINK_PATH), 0);
	assert_int_equal(guard_revoke(g, SID, WID_WEB), 0);
	assert_int_equal(connect_as(CG "/web/inner", LINK_PATH), 0);
	assert_int_equal(connect_as(CG "/web", LINK_PATH), -EACCES);
	assert_int_equal(guard_revoke(g, SID, WID_INNER), 0);
	assert_int_equal(guard_unenrol(g, g_id.inner), 0);
	assert_int_equal(guard_enrol(g, 1, WID_WEB), -EINVAL); /* the root: everybody */
}

static int leave_and_connect(void *path)
{
	cgroup_enter(CG "/intruder");
	return connect_path(path);
}

static void test_left_its_cgroup(void **state)
{
	assert_int_equal(as(CG "/web", leave_and_connect, LINK_PATH), -EACCES);
}

static void test_owner(void **state)
{
	assert_int_equal(connect_as(CG "/cache", SERVER_PATH), 0);
}

/* ---- by which name ---- */

struct kept {
	int opath, go[2], ready[2];
};

/* A client that prepared itself while it was allowed: an O_PATH descriptor and a hard link of its own. */
static int connect_kept(void *arg)
{
	struct kept *k = arg;
	char fd_path[64], byte;
	int r;

	snprintf(fd_path, sizeof(fd_path), "/proc/self/fd/%d", k->opath);
	r = connect_path(fd_path);
	if (r < 0 || write(k->ready[1], "r", 1) != 1 || read(k->go[0], &byte, 1) != 1)
		return -EINVAL;
	return connect_path(fd_path);
}

static void test_revoke_reaches_every_name(void **state)
{
	struct kept k = { .opath = open(LINK_PATH, O_PATH | O_CLOEXEC) };
	char byte;
	int status;
	pid_t pid;

	assert_true(k.opath >= 0);
	assert_int_equal(pipe(k.go), 0);
	assert_int_equal(pipe(k.ready), 0);
	unlink("/run/w/own.sock");
	assert_int_equal(link(LINK_PATH, "/run/w/own.sock"), 0);
	close(open("/run/w/bound", O_CREAT | O_RDONLY, 0600));
	assert_int_equal(mount(LINK_PATH, "/run/w/bound", NULL, MS_BIND, NULL), 0);
	pid = fork();
	if (pid == 0) {
		cgroup_enter(CG "/web");
		_exit(-connect_kept(&k));
	}
	assert_int_equal(read(k.ready[0], &byte, 1), 1);
	assert_int_equal(connect_as(CG "/web", "/run/w/own.sock"), 0);
	assert_int_equal(connect_as(CG "/web", "/run/w/bound"), 0);
	assert_int_equal(unlink(LINK_PATH), 0);
	assert_int_equal(guard_revoke(g, SID, WID_WEB), 0);
	assert_int_equal(guard_revoke(g, SID, WID_WEB), 0);
	assert_int_equal(write(k.go[1], "g", 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), EACCES);
	assert_int_equal(connect_as(CG "/web", "/run/w/own.sock"), -EACCES);
	assert_int_equal(connect_as(CG "/web", "/run/w/bound"), -EACCES);
	assert_int_equal(umount("/run/w/bound"), 0);
	assert_int_equal(link(SERVER_PATH, LINK_PATH), 0);
	close(k.opath);
	for (int i = 0; i < 2; i++) {
		close(k.go[i]);
		close(k.ready[i]);
	}
}

static void test_server_restarts(void **state)
{
	struct stat old;
	int old_listener = g_listener;

	assert_int_equal(stat(SERVER_PATH, &old), 0);
	g_listener = make_listener(SERVER_PATH, SOCK_STREAM); /* a new inode; LINK_PATH is still the old one */
	assert_int_equal(connect_as(CG "/intruder", LINK_PATH), -EACCES);
	set_server_at(SERVER_PATH, SID, WID_CACHE);
	assert_int_equal(connect_as(CG "/intruder", SERVER_PATH), -EACCES);
	assert_int_equal(connect_as(CG "/web", SERVER_PATH), 0); /* the grant went on */
	assert_int_equal(connect_as(CG "/intruder", LINK_PATH), 0); /* nobody's server any more */
	drain(old_listener);
	close(old_listener);
	assert_int_equal(connect_as(CG "/intruder", LINK_PATH), -ECONNREFUSED);
	unlink(LINK_PATH);
	assert_int_equal(link(SERVER_PATH, LINK_PATH), 0);
}

static void test_two_servers_on_one_inode(void **state)
{
	struct stat st;

	assert_int_equal(stat(SERVER_PATH, &st), 0);
	assert_int_equal(guard_set_server(g, OTHER_SID, WID_CACHE, st.st_dev, st.st_ino), -EEXIST);
	assert_int_equal(guard_set_server(g, SID, WID_CACHE, st.st_dev, st.st_ino), 0);
	assert_int_equal(guard_set_server(g, GUARD_NO_ID, WID_CACHE, st.st_dev, st.st_ino), -EINVAL);
	assert_int_equal(guard_drop_server(g, SID), 0);
	assert_int_equal(guard_drop_server(g, SID), 0);
	assert_int_equal(connect_as(CG "/intruder", LINK_PATH), 0);
}

/* ---- whom it leaves alone ---- */

static int connect_unrelated(void *arg)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	socklen_t len = sizeof(sa.sun_family);
	AUTO_FD abstract = socket(AF_UNIX, SOCK_STREAM, 0);
	AUTO_FD client = socket(AF_UNIX, SOCK_STREAM, 0);
	int pair[2];

	if (connect_path("/run/other.sock") < 0)
		return -1;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		return -2;
	if (bind(abstract, (struct sockaddr *)&sa, len) < 0 || listen(abstract, 1) < 0)
		return -3;
	len = sizeof(sa);
	if (getsockname(abstract, (struct sockaddr *)&sa, &len) < 0)
		return -4;
	return connect(client, (struct sockaddr *)&sa, len) < 0 ? -5 : 0;
}

static void test_unrelated_sockets(void **state)
{
	AUTO_FD other = make_listener("/run/other.sock", SOCK_STREAM);

	assert_true(other >= 0);
	assert_int_equal(as(CG "/intruder", connect_unrelated, NULL), 0);
	assert_int_equal(as(CG, connect_unrelated, NULL), 0);
	read_all();
	assert_int_equal(g_n_events, 0);
}

static int connect_seqpacket(void *path)
{
	return try_connect(path, SOCK_SEQPACKET);
}

static void test_seqpacket(void **state)
{
	AUTO_FD s = make_listener("/run/seq.sock", SOCK_SEQPACKET);

	assert_true(s >= 0);
	set_server_at("/run/seq.sock", OTHER_SID, WID_CACHE);
	assert_int_equal(as(CG "/intruder", connect_seqpacket, "/run/seq.sock"), -EACCES);
	assert_int_equal(guard_grant(g, OTHER_SID, WID_INTRUDER), 0);
	assert_int_equal(as(CG "/intruder", connect_seqpacket, "/run/seq.sock"), 0);
	assert_int_equal(guard_revoke(g, OTHER_SID, WID_INTRUDER), 0);
	assert_int_equal(guard_drop_server(g, OTHER_SID), 0);
}

static void test_socket_of_the_host(void **state)
{
	AUTO_FD s = make_listener("/run/host.sock", SOCK_STREAM);

	assert_true(s >= 0);
	set_server_at("/run/host.sock", OTHER_SID, GUARD_NO_ID);
	assert_int_equal(connect_as(CG, "/run/host.sock"), 0); /* the host's users do not notice us */
	assert_int_equal(connect_as(CG "/intruder", "/run/host.sock"), -EACCES);
	assert_int_equal(guard_grant(g, OTHER_SID, WID_INTRUDER), 0);
	assert_int_equal(connect_as(CG "/intruder", "/run/host.sock"), 0);
	assert_int_equal(guard_revoke(g, OTHER_SID, WID_INTRUDER), 0);
	assert_int_equal(guard_drop_server(g, OTHER_SID), 0);
}

/* ---- the daemon's own processes ---- */

struct exempted {
	bool children, grandchild;
};

static int exempt_and_connect(void *arg)
{
	const struct exempted *e = arg;
	AUTO_FD pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	int status;
	pid_t pid;

	if (guard_exempt(g, pidfd, e->children) < 0 || connect_path(LINK_PATH) < 0)
		return -EINVAL; /* itself, in every case */
	pid = fork();
	if (pid == 0) {
		pid = e->grandchild ? fork() : 0;
		if (pid == 0)
			_exit(-connect_path(LINK_PATH));
		waitpid(pid, &status, 0);
		_exit(WEXITSTATUS(status));
	}
	waitpid(pid, &status, 0);
	return -WEXITSTATUS(status);
}

static void test_exempt(void **state)
{
	struct exempted self = { .children = false };
	struct exempted tree = { .children = true, .grandchild = true };

	assert_int_equal(as(CG, exempt_and_connect, &self), -EACCES); /* it may, its child may not */
	assert_int_equal(as(CG, exempt_and_connect, &tree), 0);
	assert_int_equal(connect_as(CG, LINK_PATH), -EACCES); /* and it ended with them */
}

/* ---- who opened which lane ---- */

static uint64_t cookie_of(int fd)
{
	uint64_t cookie = 0;
	socklen_t len = sizeof(cookie);

	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len), 0);
	return cookie;
}

static int connected_socket(const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (!str_copy(sa.sun_path, sizeof(sa.sun_path), path) || connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		_exit(201);
	return fd;
}

static void send_fd(int via, int fd)
{
	union {
		struct cmsghdr h;
		char buf[CMSG_SPACE(sizeof(int))];
	} u = { .h = { .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS } };
	char byte = 'f';
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.buf, .msg_controllen = sizeof(u.buf) };

	memcpy(CMSG_DATA(&u.h), &fd, sizeof(fd));
	if (sendmsg(via, &m, 0) != 1)
		_exit(202);
}

static int recv_fd(int via)
{
	union {
		struct cmsghdr h;
		char buf[CMSG_SPACE(sizeof(int))];
	} u;
	char byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.buf, .msg_controllen = sizeof(u.buf) };
	int fd = -1;

	if (recvmsg(via, &m, MSG_CMSG_CLOEXEC) == 1 && m.msg_controllen >= CMSG_LEN(sizeof(int)))
		memcpy(&fd, CMSG_DATA(&u.h), sizeof(fd));
	return fd;
}

/* lane_from() - a lane that a process in @cgroup opened and passed to us before it ended; ours to close. */
static int lane_from(const char *cgroup, pid_t *ret_pid)
{
	int pair[2], fd;
	pid_t pid;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	pid = fork();
	if (pid == 0) {
		cgroup_enter(cgroup);
		send_fd(pair[1], connected_socket(LINK_PATH));
		_exit(0);
	}
	fd = recv_fd(pair[0]);
	assert_true(fd >= 0);
	waitpid(pid, NULL, 0);
	close(pair[0]);
	close(pair[1]);
	*ret_pid = pid;
	return fd;
}

/* The cookie that a dump of all Unix sockets tells for an inode: what the daemon's scan has in its hand. */
static uint64_t diag_cookie(ino_t ino)
{
	struct {
		struct nlmsghdr h;
		struct unix_diag_req r;
	} q = { .h = { .nlmsg_len = sizeof(q), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST },
		.r = { .sdiag_family = AF_UNIX, .udiag_ino = (uint32_t)ino, .udiag_cookie = { ~0u, ~0u } } };
	struct {
		struct nlmsghdr h;
		struct unix_diag_msg m;
		char rest[512];
	} a;
	AUTO_FD fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);

	assert_true(send(fd, &q, sizeof(q), 0) == sizeof(q));
	assert_true(recv(fd, &a, sizeof(a), 0) > 0);
	assert_int_equal(a.h.nlmsg_type, SOCK_DIAG_BY_FAMILY);
	return (uint64_t)a.m.udiag_cookie[1] << 32 | a.m.udiag_cookie[0];
}

static void test_lane_is_attributed(void **state)
{
	struct guard_lane lane;
	struct stat st;
	pid_t pid;
	AUTO_FD fd = lane_from(CG "/web/sub", &pid);
	uint64_t n_before, n_after;

	assert_int_equal(guard_find_lane(g, cookie_of(fd), &lane), 0);
	assert_int_equal(lane.sid, SID);
	assert_int_equal(lane.wid, WID_WEB);
	assert_int_equal(lane.pid, pid);
	assert_int_equal(lane.cgroup_id, g_id.web); /* the enrolled one, not the one below */
	assert_false(lane.exempt);
	assert_int_equal(fstat(fd, &st), 0);
	assert_true(diag_cookie(st.st_ino) == cookie_of(fd));
	assert_int_equal(guard_find_lane(g, cookie_of(fd), &lane), 0); /* still, after it was found */
	assert_int_equal(guard_find_lane(g, cookie_of(g_listener), &lane), -ENOENT);

	assert_int_equal(guard_count_grant(g, SID, WID_WEB, &n_before), 0);
	assert_int_equal(connect_as(CG "/web", LINK_PATH), 0);
	assert_int_equal(guard_count_grant(g, SID, WID_WEB, &n_after), 0);
	assert_int_equal(n_after, n_before + 1);
	assert_int_equal(guard_count_grant(g, SID, WID_INTRUDER, &n_after), -ENOENT);
	assert_int_equal(guard_unenrol(g, g_id.web), 0);
	assert_int_equal(guard_find_lane(g, cookie_of(fd), &lane), 0);
	assert_int_equal(lane.wid, GUARD_NO_ID);
}

/* ---- how it is opened ---- */

static void open_second(bool report_allowed)
{
	char why[GUARD_WHY_SIZE];
	struct guard_options o = GUARD_OPTIONS_INIT;
	int r;

	o.report_allowed = report_allowed;
	r = guard_open(&g, &o, why);
	if (r < 0)
		print_error("guard_open: %s: %s\n", strerrorname_np(-r), why);
	assert_int_equal(r, 0);
}

static void test_allowed_is_reported_on_request(void **state)
{
	struct guard *first = g;

	open_second(true);
	tell_all(0);
	assert_int_equal(connect_as(CG "/web", LINK_PATH), 0);
	assert_int_equal(connect_as(CG "/cache", LINK_PATH), 0); /* the owner's own are no lanes between workloads */
	read_all();
	g = guard_close(g);
	g = first;
	assert_int_equal(g_n_events, 1);
	assert_int_equal(g_events[0].verdict, GUARD_VERDICT_ALLOWED);
	assert_int_equal(g_events[0].wid, WID_WEB);
	assert_int_equal(g_events[0].cgroup_id, g_id.web);
}

static int keep_caps(uint64_t caps)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[2] = { { 0 } };

	for (int i = 0; i < 2; i++)
		d[i].effective = d[i].permitted = (uint32_t)(caps >> 32 * i);
	return (int)syscall(SYS_capset, &h, d);
}

/* In a process of its own, so without asserts; each step has a number of its own. */
static int use_with_few_caps(void *arg)
{
	char why[GUARD_WHY_SIZE];
	struct guard_options o = GUARD_OPTIONS_INIT;
	struct guard_totals totals;
	struct guard_lane lane;
	AUTO_FD pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	struct guard *mine;

	for (int i = 0; i < GUARD_FD_N; i++)
		o.inherited[i] = guard_fd(g, (enum guard_fd)i);
	if (keep_caps(1ull << CAP_BPF | 1ull << CAP_PERFMON) < 0)
		return -100;
	if (guard_open(&mine, &o, why) < 0)
		return -101;
	if (keep_caps(0) < 0)
		return -102;
	if (guard_set_server(mine, 1, 2, 3, 4) < 0 || guard_enrol(mine, 5, 6) < 0 || guard_grant(mine, 1, 6) < 0 ||
	    guard_revoke(mine, 1, 6) < 0 || guard_unenrol(mine, 5) < 0 || guard_drop_server(mine, 1) < 0)
		return -103;
	if (guard_exempt(mine, pidfd, true) < 0 || guard_read_totals(mine, &totals) < 0)
		return -104;
	if (guard_find_lane(mine, ~0ull, &lane) != -ENOENT || guard_read_events(mine, on_event, NULL) < 0)
		return -105;
	guard_settle(mine);
	guard_close(mine);
	return guard_open(&mine, &o, why) == -EPERM ? 0 : -106;
}

static void test_few_capabilities(void **state)
{
	assert_int_equal(as(CG, use_with_few_caps, NULL), 0);
}

/* ---- the daemon goes away and comes back ---- */

struct keeper {
	pid_t pid;
	int sock;
};

/* Holds what it is sent until told 'd'; sends it all back on 'f'. */
static void keeper_run(int sock)
{
	int fds[GUARD_FD_N];
	char c;

	for (int i = 0; i < GUARD_FD_N; i++)
		fds[i] = recv_fd(sock);
	if (write(sock, "k", 1) != 1)
		_exit(1);
	while (read(sock, &c, 1) == 1 && c == 'f')
		for (int i = 0; i < GUARD_FD_N; i++)
			send_fd(sock, fds[i]);
	_exit(0);
}

/* Forked before guard_open(), so that it has only what it is sent. */
static struct keeper keeper_start(void)
{
	struct keeper k;
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	k.pid = fork();
	if (k.pid == 0) {
		close(pair[0]);
		keeper_run(pair[1]);
	}
	close(pair[1]);
	k.sock = pair[0];
	return k;
}

static void keeper_end(struct keeper *k)
{
	assert_int_equal(write(k->sock, "d", 1), 1);
	assert_int_equal(waitpid(k->pid, NULL, 0), k->pid);
	close(k->sock);
}

static void keep(struct keeper *k)
{
	char c;

	for (int i = 0; i < GUARD_FD_N; i++)
		send_fd(k->sock, guard_fd(g, (enum guard_fd)i));
	assert_int_equal(read(k->sock, &c, 1), 1);
}

static void reopen(const int inherited[GUARD_FD_N])
{
	char why[GUARD_WHY_SIZE];
	struct guard_options o = GUARD_OPTIONS_INIT;
	int r;

	memcpy(o.inherited, inherited, sizeof(o.inherited));
	r = guard_open(&g, &o, why);
	if (r < 0)
		print_error("guard_open: %s: %s\n", strerrorname_np(-r), why);
	assert_int_equal(r, 0);
}

static int exempt_under_both(void *arg)
{
	AUTO_FD pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);

	return guard_exempt(g, pidfd, false) < 0 ? -EINVAL : connect_path(LINK_PATH);
}

static void test_adoption(void **state)
{
	enum { SHIFT = 100 }; /* the next daemon numbers its workloads otherwise */
	static const int none[GUARD_FD_N] = { -1, -1, -1, -1 };
	int inherited[GUARD_FD_N];
	struct guard_lane lane;
	struct keeper k;
	AUTO_FD open_lane = -1;
	pid_t pid;

	g = guard_close(g);
	assert_int_equal(connect_as(CG "/intruder", LINK_PATH), 0); /* nobody held it: the hook is gone */
	k = keeper_start();
	reopen(none);
	tell_all(0);
	keep(&k);
	open_lane = lane_from(CG "/web", &pid);
	g = guard_close(g); /* the daemon dies */

	assert_int_equal(connect_as(CG "/web", LINK_PATH), 0);
	assert_int_equal(connect_as(CG "/intruder", LINK_PATH), -EACCES);

	assert_int_equal(write(k.sock, "f", 1), 1); /* the next one comes */
	for (int i = 0; i < GUARD_FD_N; i++)
		inherited[i] = recv_fd(k.sock);
	reopen(inherited);
	assert_int_equal(connect_as(CG "/intruder", LINK_PATH), -EACCES); /* its tables are empty, the old program stands */
	assert_int_equal(connect_as(CG "/web", LINK_PATH), 0);
	assert_int_equal(as(CG, exempt_under_both, NULL), 0);
	tell_all(SHIFT);
	assert_int_equal(connect_as(CG "/web", LINK_PATH), 0); /* both agree */
	assert_int_equal(connect_as(CG "/intruder", LINK_PATH), -EACCES);

	guard_settle(g);
	for (int i = 0; i < GUARD_FD_N; i++)
		close(inherited[i]);
	keeper_end(&k);
	usleep(300000); /* a link's end is the kernel's deferred work */
	assert_int_equal(guard_grant(g, SID, WID_INTRUDER + SHIFT), 0);
	assert_int_equal(connect_as(CG "/intruder", LINK_PATH), 0); /* the old program is gone */
	assert_int_equal(guard_revoke(g, SID, WID_INTRUDER + SHIFT), 0);
	assert_int_equal(connect_as(CG "/intruder", LINK_PATH), -EACCES);

	read_all(); /* what happened meanwhile, in the new numbering */
	assert_true(g_n_events >= 2);
	assert_int_equal(g_events[0].sid, SID);
	assert_int_equal(g_events[0].wid, WID_INTRUDER + SHIFT);
	assert_int_equal(guard_find_lane(g, cookie_of(open_lane), &lane), 0);
	assert_int_equal(lane.wid, WID_WEB + SHIFT);
	assert_int_equal(lane.pid, pid);
}

/* ---- what it costs ---- */

static void connect_n(const char *path, int listener, int n)
{
	for (int i = 0; i < n; i++) {
		int fd = connected_socket(path);
		int s = accept(listener, NULL, NULL);

		close(fd);
		close(s);
	}
}

/* What the kernel's own accounting says of the program (BPF_ENABLE_STATS): far steadier than wall time here. */
static struct bpf_prog_info program_info(void)
{
	struct bpf_link_info link = { 0 };
	struct bpf_prog_info prog = { 0 };
	uint32_t size = sizeof(link);
	AUTO_FD fd = -1;

	assert_int_equal(bpf_obj_get_info_by_fd(guard_fd(g, GUARD_FD_LINK), &link, &size), 0);
	fd = bpf_prog_get_fd_by_id(link.prog_id);
	assert_true(fd >= 0);
	size = sizeof(prog);
	assert_int_equal(bpf_obj_get_info_by_fd(fd, &prog, &size), 0);
	return prog;
}

static void print_cost(const char *what, const char *path, int listener)
{
	enum { ROUNDS = 20, N = 100 };
	double best_run = 1e12, best_all = 1e12;

	for (int i = 0; i < ROUNDS; i++) {
		struct bpf_prog_info before = program_info(), after;
		uint64_t t0 = clock_ns();
		double all, run;

		connect_n(path, listener, N);
		all = (double)(clock_ns() - t0) / N;
		after = program_info();
		assert_true(after.run_cnt - before.run_cnt >= N);
		run = (double)(after.run_time_ns - before.run_time_ns) / (double)(after.run_cnt - before.run_cnt);
		best_all = all < best_all ? all : best_all;
		best_run = run < best_run ? run : best_run;
	}
	print_message("%s: connect+accept+close %.0f ns, of which the program %.0f ns (%.1f %%)\n", what, best_all, best_run,
		      100 * best_run / best_all);
}

/* The last test: this process itself becomes the client. */
static void test_cost(void **state)
{
	AUTO_FD other = make_listener("/run/other.sock", SOCK_STREAM);
	AUTO_FD stats = bpf_enable_stats(BPF_STATS_RUN_TIME);

	assert_true(stats >= 0);
	cgroup_enter(CG "/web");
	drain(g_listener);
	connect_n("/run/other.sock", other, 1000); /* warm */
	print_cost("unrelated socket", "/run/other.sock", other);
	print_cost("direct lane", LINK_PATH, g_listener);
	print_message("(an emulated CPU: only the ratios mean something, and those roughly)\n");
}

static void test_not_asked(void **state)
{
	char why[GUARD_WHY_SIZE] = "";
	struct guard_options o = GUARD_OPTIONS_INIT;
	struct guard *none = NULL;

	assert_int_equal(guard_open(&none, &o, why), -EOPNOTSUPP);
	assert_null(none);
	assert_non_null(strstr(why, "without bpf in its lsm= list"));
	assert_non_null(strstr(why, "yama,bpf to the kernel command line"));
	print_message("%s\n", why);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest not_asked[] = { cmocka_unit_test(test_not_asked) };
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_granted, fresh),
		cmocka_unit_test_setup(test_refused, fresh),
		cmocka_unit_test_setup(test_events_are_limited, fresh),
		cmocka_unit_test_setup(test_events_come_in_turns, fresh),
		cmocka_unit_test_setup(test_nearest_workload_decides, fresh),
		cmocka_unit_test_setup(test_left_its_cgroup, fresh),
		cmocka_unit_test_setup(test_owner, fresh),
		cmocka_unit_test_setup(test_revoke_reaches_every_name, fresh),
		cmocka_unit_test_setup(test_server_restarts, fresh),
		cmocka_unit_test_setup(test_two_servers_on_one_inode, fresh),
		cmocka_unit_test_setup(test_unrelated_sockets, fresh),
		cmocka_unit_test_setup(test_seqpacket, fresh),
		cmocka_unit_test_setup(test_socket_of_the_host, fresh),
		cmocka_unit_test_setup(test_exempt, fresh),
		cmocka_unit_test_setup(test_lane_is_attributed, fresh),
		cmocka_unit_test_setup(test_allowed_is_reported_on_request, fresh),
		cmocka_unit_test_setup(test_few_capabilities, fresh),
		cmocka_unit_test_setup(test_adoption, fresh),
		cmocka_unit_test_setup(test_cost, fresh),
	};

	if (argc > 1 && strcmp(argv[1], "--not-asked") == 0)
		return cmocka_run_group_tests(not_asked, NULL, NULL);
	return cmocka_run_group_tests(tests, setup, teardown);
}
