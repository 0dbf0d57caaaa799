/*
 * Who connected, with real cgroups: two of our own below the cgroup2 mount, so most of it needs root.
 * The attack: a process in cgroup A connects and exits, a process with the same pid appears in cgroup B.
 */
#include "daemon/identity.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <mntent.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

static struct {
	int mount_fd;
	char path[2][512];
	uint64_t id[2];
} g_cgroups = { .mount_fd = -1 };

static bool find_cgroup2(char *ret_dir, size_t size)
{
	FILE *f = setmntent("/proc/self/mounts", "re");
	struct mntent *m;
	bool found = false;

	while (f && !found && (m = getmntent(f)))
		found = strcmp(m->mnt_type, "cgroup2") == 0 && str_copy(ret_dir, size, m->mnt_dir);
	if (f)
		endmntent(f);
	return found;
}

static int setup(void **state)
{
	char mount[256];

	if (geteuid() != 0 || !find_cgroup2(mount, sizeof(mount)))
		return 0;
	g_cgroups.mount_fd = open(mount, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (int i = 0; i < 2 && g_cgroups.mount_fd >= 0; i++) {
		struct stat st;

		snprintf(g_cgroups.path[i], sizeof(g_cgroups.path[i]), "%s/sealane-test-identity-%d-%c", mount, getpid(), 'a' + i);
		if (mkdir(g_cgroups.path[i], 0755) < 0 || stat(g_cgroups.path[i], &st) < 0) {
			close(take_fd(&g_cgroups.mount_fd));
			break;
		}
		g_cgroups.id[i] = st.st_ino;
	}
	return 0;
}

static int teardown(void **state)
{
	for (int i = 0; i < 2; i++)
		if (g_cgroups.path[i][0])
			rmdir(g_cgroups.path[i]);
	fd_cleanup(&g_cgroups.mount_fd);
	return 0;
}

static void need_cgroups(void)
{
	if (g_cgroups.mount_fd >= 0)
		return;
	print_message("skipped: needs root and a writable cgroup2 mount\n");
	skip();
}

static void need_pidfd(void)
{
	if (identity_probe() == IDENTITY_PIDFD)
		return;
	print_message("skipped: this kernel has no PIDFD_GET_INFO (6.13)\n");
	skip();
}

static void enter(const char *cgroup)
{
	char path[600];
	int fd;

	snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "0", 1) != 1)
		_exit(99);
	close(fd);
}

static int listen_abstract(struct sockaddr_un *ret_addr, socklen_t *ret_size)
{
	static int n;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	*ret_addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	*ret_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
				(size_t)snprintf(ret_addr->sun_path + 1, 64, "sealane-test-identity-%d-%d", getpid(), n++));
	assert_int_equal(bind(fd, (struct sockaddr *)ret_addr, *ret_size), 0);
	assert_int_equal(listen(fd, 8), 0);
	return fd;
}

/* A child in @cgroup that connects to a fresh socket; it stays until killed, or exits at once. */
static pid_t connect_from(const char *cgroup, bool stay, int *ret_listen_fd)
{
	struct sockaddr_un addr;
	socklen_t size;
	pid_t pid;

	*ret_listen_fd = listen_abstract(&addr, &size);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

		enter(cgroup);
		if (connect(fd, (struct sockaddr *)&addr, size) < 0)
			_exit(98);
		while (stay)
			pause();
		_exit(0);
	}
	return pid;
}

static void end_child(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void test_self(void **state)
{
	int fds[2];
	struct identity who;

	need_pidfd();
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	assert_int_equal(identity_of_peer(fds[0], IDENTITY_PIDFD, &who), 0);
	assert_int_equal(who.pid, getpid());
	assert_int_equal(who.uid, geteuid());
	assert_int_equal(who.gid, getegid());
	assert_true(who.cgroup_id != 0);
	assert_int_equal(identity_of_peer(fds[0], IDENTITY_PEERCRED, &who), 0);
	assert_int_equal(who.pid, getpid());
	assert_true(who.cgroup_id == 0);
	close(fds[0]);
	close(fds[1]);
}

static void test_wrong_descriptors(void **state)
{
	struct identity who = { .pid = 42 };
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	assert_int_equal(identity_of_peer(fds[0], IDENTITY_PIDFD, &who), -ENOTSOCK);
	assert_int_equal(identity_of_peer(-1, IDENTITY_PEERCRED, &who), -EBADF);
	assert_int_equal(who.pid, 42);
	close(fds[0]);
	close(fds[1]);
}

static void test_live_peer(void **state)
{
	struct identity who, by_pid;

	need_cgroups();
	need_pidfd();
	for (int i = 0; i < 2; i++) {
		int listen_fd, fd;
		pid_t pid = connect_from(g_cgroups.path[i], true, &listen_fd);

		fd = accept(listen_fd, NULL, NULL);
		assert_int_equal(identity_of_peer(fd, IDENTITY_PIDFD, &who), 0);
		assert_int_equal(who.pid, pid);
		assert_true(who.cgroup_id == g_cgroups.id[i]);
		assert_int_equal(identity_of_pid(g_cgroups.mount_fd, pid, &by_pid), 0);
		assert_true(by_pid.cgroup_id == g_cgroups.id[i]);
		assert_int_equal(by_pid.uid, geteuid());
		end_child(pid);
		close(fd);
		close(listen_fd);
	}
}

/* PIDFD_INFO_EXIT (6.15) and SO_PEERPIDFD of a reaped peer (6.16): older kernels say that they do not know. */
static void test_exited_peer(void **state)
{
	int listen_fd, fd, r;
	struct identity who;
	pid_t pid;

	need_cgroups();
	need_pidfd();
	pid = connect_from(g_cgroups.path[0], false, &listen_fd);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	fd = accept(listen_fd, NULL, NULL);
	r = identity_of_peer(fd, IDENTITY_PIDFD, &who);
	if (r == 0)
		assert_true(who.cgroup_id == g_cgroups.id[0]);
	else
		assert_true(r == -ESRCH || r == -EINVAL || r == -ENODATA);
	assert_int_equal(identity_of_pid(g_cgroups.mount_fd, pid, &who), -ESRCH);
	close(fd);
	close(listen_fd);
}

static pid_t fork_as(pid_t wanted)
{
	struct clone_args args = { .exit_signal = SIGCHLD, .set_tid = (uintptr_t)&wanted, .set_tid_size = 1 };

	return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

static void test_pid_reuse_attack(void **state)
{
	int listen_fd, fd, r;
	struct identity who, fooled;
	pid_t attacker, victim;
	int ready[2];
	char c;

	need_cgroups();
	need_pidfd();
	attacker = connect_from(g_cgroups.path[0], false, &listen_fd);
	assert_int_equal(waitpid(attacker, NULL, 0), attacker);
	assert_int_equal(pipe(ready), 0);
	victim = fork_as(attacker);
	if (victim == 0) {
		enter(g_cgroups.path[1]);
		(void)!write(ready[1], "x", 1);
		for (;;)
			pause();
	}
	if (victim < 0) {
		print_message("skipped: clone3() with set_tid: %d\n", errno);
		skip();
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	fd = accept(listen_fd, NULL, NULL);

	/* What a daemon believes that goes by numbers, even one that checks that the process is alive: the victim. */
	assert_int_equal(identity_of_peer(fd, IDENTITY_PEERCRED, &fooled), 0);
	assert_int_equal(identity_of_pid(g_cgroups.mount_fd, fooled.pid, &fooled), 0);
	assert_int_equal(fooled.pid, victim);
	assert_true(fooled.cgroup_id == g_cgroups.id[1]);
	/* What the kernel knows: the attacker; or, before 6.16, that it does not know. Never the victim. */
	r = identity_of_peer(fd, IDENTITY_PIDFD, &who);
	assert_true(r < 0 || who.cgroup_id == g_cgroups.id[0]);

	end_child(victim);
	close(ready[0]);
	close(ready[1]);
	close(fd);
	close(listen_fd);
}

static void test_removed_cgroup(void **state)
{
	int listen_fd, fd;
	struct identity who;
	pid_t pid;
	char dir[600];
	struct stat st;

	need_cgroups();
	need_pidfd();
	snprintf(dir, sizeof(dir), "%s/gone", g_cgroups.path[0]);
	assert_int_equal(mkdir(dir, 0755), 0);
	assert_int_equal(stat(dir, &st), 0);
	pid = connect_from(dir, false, &listen_fd);
	/* A zombie keeps no cgroup busy: it can be removed below it, and then has no place any more. */
	siginfo_t info;
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	assert_int_equal(rmdir(dir), 0);
	fd = accept(listen_fd, NULL, NULL);
	if (identity_of_peer(fd, IDENTITY_PIDFD, &who) == 0)
		assert_true(who.cgroup_id == st.st_ino);
	assert_true(identity_of_pid(g_cgroups.mount_fd, pid, &who) < 0);
	waitpid(pid, NULL, 0);
	close(fd);
	close(listen_fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_self),
		cmocka_unit_test(test_wrong_descriptors),
		cmocka_unit_test(test_live_peer),
		cmocka_unit_test(test_exited_peer),
		cmocka_unit_test(test_pid_reuse_attack),
		cmocka_unit_test(test_removed_cgroup),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
