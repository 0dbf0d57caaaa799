/*
 * Theory of operation: from a socket to a cgroup id, in one place, so that no other file of the daemon ever has a reason
 * to look at /proc or at SO_PEERCRED for a decision.
 *
 * IDENTITY_PIDFD. connect() left a reference to the client's struct pid in the socket. SO_PEERPIDFD makes it a
 * descriptor, PIDFD_GET_INFO reads the cgroup id out of it: no number is looked up, so no number can have been given to
 * somebody else. For a process that has exited the kernel keeps the cgroup it exited in (PIDFD_INFO_EXIT).
 *
 * IDENTITY_PEERCRED. All there is is a number. identity_of_pid() makes of it what can be made, and the design note says
 * what that is worth. It needs /proc and is therefore the warden's; the gate has no file system.
 *
 * Before this on a connection's way: gate.c (accept). After it: the broker (whose cgroup is that?).
 */
#include "daemon/identity.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* Linux uapi, newer than the headers of stable distributions. */
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
#define INFO_PID (UINT64_C(1) << 0)
#define INFO_CREDS (UINT64_C(1) << 1)
#define INFO_CGROUPID (UINT64_C(1) << 2)
#define INFO_EXIT (UINT64_C(1) << 3)

static_assert(sizeof(ino_t) == 8, "a cgroup directory's inode number is its id");

static int peer_pidfd(int sock, int *ret_fd)
{
	int fd = -1;
	socklen_t size = sizeof(fd);

	if (getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &fd, &size) < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

static int pidfd_cgroup_id(int pidfd, uint64_t *ret_id)
{
	struct identity_pidfd_info info = { .mask = INFO_PID | INFO_CREDS | INFO_CGROUPID | INFO_EXIT };

	if (ioctl(pidfd, IDENTITY_PIDFD_GET_INFO, &info) < 0)
		return -errno;
	if (!(info.mask & INFO_CGROUPID) || info.cgroup_id == 0)
		return -ENODATA;
	*ret_id = info.cgroup_id;
	return 0;
}

int identity_of_peer(int sock, enum identity_method method, struct identity *ret)
{
	struct ucred cred;
	socklen_t size = sizeof(cred);
	uint64_t cgroup_id = 0;
	AUTO_FD pidfd = -1;
	int r;

	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0)
		return -errno;
	if (method == IDENTITY_PIDFD) {
		r = peer_pidfd(sock, &pidfd);
		if (r == 0)
			r = pidfd_cgroup_id(pidfd, &cgroup_id);
		if (r < 0)
			return r;
	} else if (cred.pid <= 0) {
		return -ESRCH; /* its pid namespace is not below ours: there is no number to go by */
	}
	*ret = (struct identity){ .pid = cred.pid, .uid = cred.uid, .gid = cred.gid, .cgroup_id = cgroup_id };
	return 0;
}

/* The "0::/path" line of a /proc/PID/cgroup text; the path is copied without its leading slashes ("." for the root). */
static int cgroup2_path(char *text, char *ret_path, size_t size)
{
	for (char *line = text, *end; line && *line; line = end ? end + 1 : NULL) {
		end = strchr(line, '\n');
		if (end)
			*end = '\0';
		if (strncmp(line, "0::", 3) != 0)
			continue;
		line += 3;
		if (strncmp(line, "/..", 3) == 0)
			return -EXDEV;
		line += strspn(line, "/");
		return str_copy(ret_path, size, *line ? line : ".") ? 0 : -ENAMETOOLONG;
	}
	return -ENODATA;
}

static int read_cgroup_file(int proc_fd, char *buf, size_t size)
{
	AUTO_FD fd = openat(proc_fd, "cgroup", O_RDONLY | O_CLOEXEC);
	size_t n = 0;

	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	while (n < size - 1) {
		ssize_t r = read(fd, buf + n, size - 1 - n);

		if (r < 0)
			return -errno;
		if (r == 0)
			break;
		n += (size_t)r;
	}
	buf[n] = '\0';
	return n < size - 1 ? 0 : -E2BIG;
}

static bool pidfd_is_alive(int pidfd)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };
	int r;

	/* poll() is never restarted, and says EINTR for a tick (base/foreign.h) even if it would not have waited. */
	do
		r = poll(&p, 1, 0);
	while (r < 0 && errno == EINTR);
	return r == 0;
}

int identity_of_pid(int cgroup2_fd, pid_t pid, struct identity *ret)
{
	char text[16384], path[8192], proc[32];
	struct stat owner, dir;
	AUTO_FD pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	AUTO_FD proc_fd = -1;
	int r;

	if (pidfd < 0)
		return -errno;
	snprintf(proc, sizeof(proc), "/proc/%d", pid);
	proc_fd = open(proc, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (proc_fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	if (fstat(proc_fd, &owner) < 0)
		return -errno;
	r = read_cgroup_file(proc_fd, text, sizeof(text));
	if (r == 0)
		r = cgroup2_path(text, path, sizeof(path));
	if (r < 0)
		return r;
	if (fstatat(cgroup2_fd, path, &dir, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (!pidfd_is_alive(pidfd))
		return -ESRCH;
	*ret = (struct identity){ .pid = pid, .uid = owner.st_uid, .gid = (gid_t)-1, .cgroup_id = dir.st_ino };
	return 0;
}

enum identity_method identity_probe(void)
{
	int fds[2];
	struct identity self;
	enum identity_method method = IDENTITY_PEERCRED;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return method;
	if (identity_of_peer(fds[0], IDENTITY_PIDFD, &self) == 0)
		method = IDENTITY_PIDFD;
	close(fds[0]);
	close(fds[1]);
	return method;
}
