/*
 * Theory of operation: two kinds of directories are walked here. Those that only root can write are safe by themselves.
 * Those that a container can write (a workload's serve/) are hostile at every moment: a name may be a link into another
 * workload's directory now and a socket a microsecond later. So a name is looked up once, by openat2() beneath the
 * directory, into an O_PATH descriptor; what is checked, linked, connected to or changed afterwards is that inode.
 *
 * Sockets have no *at() calls. bind() and connect() go through /proc/self/fd/N, which leads to the held inode without
 * another lookup, and is short enough for sun_path however deep the directory lies.
 */
#include "daemon/warden_path.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>

enum {
	REMOVE_DEPTH = 16, /* a server's directory holds sockets and pid files; deeper is mischief */
	REMOVE_ENTRIES = 65536,
};

int why_fail(char *why, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, WARDEN_WHY_SIZE, fmt, ap);
	va_end(ap);
	return err;
}

bool path_is_clean(const char *path)
{
	if (path[0] == '\0')
		return false;
	for (;;) {
		size_t n = strcspn(path, "/");

		if (n == 0 || (n == 1 && path[0] == '.') || (n == 2 && path[0] == '.' && path[1] == '.') || n > NAME_MAX)
			return false;
		if (path[n] == '\0')
			return true;
		path += n + 1;
	}
}

int path_open_beneath(int dirfd, const char *path, int flags)
{
	struct open_how how = {
		.flags = (uint64_t)(unsigned)(flags | O_CLOEXEC),
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	int fd;

	/* -EAGAIN: a rename raced with the walk and the kernel could not rule out an escape; a few tries pass it */
	for (int i = 0; i < 8; i++) {
		fd = (int)syscall(SYS_openat2, dirfd, path, &how, sizeof(how));
		if (fd >= 0 || errno != EAGAIN)
			break;
	}
	return fd < 0 ? -errno : fd;
}

int path_make_dirs(int dirfd, const char *path)
{
	AUTO_FD at = path_open_beneath(dirfd, ".", O_PATH | O_DIRECTORY);

	while (at >= 0 && *path) {
		size_t n = strcspn(path, "/");
		char part[NAME_MAX + 1];
		int next;

		if (n > NAME_MAX)
			return -ENAMETOOLONG;
		memcpy(part, path, n);
		part[n] = '\0';
		if (mkdirat(at, part, 0755) < 0 && errno != EEXIST)
			return -errno;
		next = path_open_beneath(at, part, O_PATH | O_DIRECTORY);
		close(at);
		at = next;
		path += n + (path[n] == '/');
	}
	return take_fd(&at);
}

static int open_parent(const char *path, uint64_t resolve, const char **ret_name)
{
	const struct open_how how = { .flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = resolve };
	const char *slash = strrchr(path, '/');
	char dir[PATH_MAX];
	int fd;

	if (!slash || slash[1] == '\0' || (size_t)(slash - path) >= sizeof(dir) || !path_is_clean(slash + 1))
		return -EINVAL;
	memcpy(dir, path, (size_t)(slash - path));
	dir[slash - path] = '\0';
	fd = (int)syscall(SYS_openat2, AT_FDCWD, dir[0] ? dir : "/", &how, sizeof(how));
	if (fd < 0)
		return -errno;
	*ret_name = slash + 1;
	return fd;
}

int path_open_parent(const char *path, const char **ret_name)
{
	return open_parent(path, 0, ret_name);
}

int path_open_parent_plain(const char *path, const char **ret_name)
{
	bool var_run = strncmp(path, "/var/run/", 9) == 0;

	return open_parent(var_run ? path + 4 : path, RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS, ret_name);
}

int path_id(int fd, struct file_id *ret_id)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	*ret_id = (struct file_id){ .dev = st.st_dev, .ino = st.st_ino };
	return 0;
}

bool path_same_mount(int a, int b)
{
	struct statx sa, sb;

	/* link(2) refuses to cross mounts even within one file system, so the device alone does not tell. */
	if (statx(a, "", AT_EMPTY_PATH, STATX_MNT_ID, &sa) < 0 || statx(b, "", AT_EMPTY_PATH, STATX_MNT_ID, &sb) < 0)
		return false;
	if (sa.stx_dev_major != sb.stx_dev_major || sa.stx_dev_minor != sb.stx_dev_minor)
		return false;
	return !(sa.stx_mask & sb.stx_mask & STATX_MNT_ID) || sa.stx_mnt_id == sb.stx_mnt_id;
}

void path_of_fd(int fd, char buf[PATH_PROC_SIZE])
{
	snprintf(buf, PATH_PROC_SIZE, "/proc/self/fd/%d", fd);
}

int path_open_socket(int dirfd, const char *path, struct file_id *ret_id)
{
	AUTO_FD fd = path_open_beneath(dirfd, path, O_PATH | O_NOFOLLOW);
	struct stat st;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISSOCK(st.st_mode))
		return -ENOTSOCK;
	*ret_id = (struct file_id){ .dev = st.st_dev, .ino = st.st_ino };
	return take_fd(&fd);
}

int path_set_access(int fd, uint32_t mode, int64_t uid, int64_t gid)
{
	char path[PATH_PROC_SIZE];

	if (uid > UINT32_MAX || gid > UINT32_MAX)
		return -EINVAL;
	if (fchownat(fd, "", uid < 0 ? 0 : (uid_t)uid, gid < 0 ? 0 : (gid_t)gid, AT_EMPTY_PATH) < 0)
		return -errno;
	path_of_fd(fd, path);
	return fchmodat(AT_FDCWD, path, mode & 0777, 0) < 0 ? -errno : 0;
}

int path_place(int fd, int dirfd, const char *name)
{
	static unsigned turn;
	char tmp[64];
	int r = 0;

	snprintf(tmp, sizeof(tmp), ".sealane-%d-%u", getpid(), turn++);
	if (linkat(fd, "", dirfd, tmp, AT_EMPTY_PATH) < 0)
		return -errno;
	if (renameat(dirfd, tmp, dirfd, name) < 0)
		r = -errno;
	/* rename(2) does nothing when both names already are the same inode: then the temporary one is still there. */
	if (unlinkat(dirfd, tmp, 0) < 0 && errno != ENOENT && r == 0)
		r = -errno;
	return r;
}

int path_connect(int sock, int fd)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };

	path_of_fd(fd, sun.sun_path);
	return connect(sock, (struct sockaddr *)&sun, sizeof(sun)) < 0 ? -errno : 0;
}

int path_bind(int sock, int dirfd, const char *name)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int n = snprintf(sun.sun_path, sizeof(sun.sun_path), "/proc/self/fd/%d/%s", dirfd, name);
	mode_t old;
	int r;

	if (n < 0 || (size_t)n >= sizeof(sun.sun_path))
		return -ENAMETOOLONG;
	old = umask(0177);
	r = bind(sock, (struct sockaddr *)&sun, sizeof(sun)) < 0 ? -errno : 0;
	umask(old);
	return r;
}

bool path_has_listener(int fd)
{
	/*
	 * A datagram socket cannot be connected to a stream one: the kernel says EPROTOTYPE if somebody is bound to the
	 * inode, ECONNREFUSED if nobody is, and the one who is bound never hears of it. sock_diag could not tell: it
	 * sees only the network namespace that it was opened in, and a container has its own.
	 */
	AUTO_FD probe = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return probe >= 0 && path_connect(probe, fd) == -EPROTOTYPE;
}

static int remove_below(int dirfd, const char *name, unsigned depth, unsigned *left);

static int remove_entry(int dirfd, const char *name, unsigned depth, unsigned *left)
{
	if ((*left)-- == 0)
		return -ENOTEMPTY;
	if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR)
		return -errno;
	return remove_below(dirfd, name, depth + 1, left);
}

static int remove_below(int dirfd, const char *name, unsigned depth, unsigned *left)
{
	int fd = path_open_beneath(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
	struct dirent *e;
	DIR *dir;
	int r = 0;

	if (fd < 0)
		return fd;
	if (depth >= REMOVE_DEPTH || !(dir = fdopendir(fd))) {
		close(fd);
		return -ENOTEMPTY;
	}
	while (r == 0 && (e = readdir(dir)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			r = remove_entry(fd, e->d_name, depth, left);
	closedir(dir);
	if (r == 0 && unlinkat(dirfd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		r = -errno;
	return r;
}

int path_remove_tree(int dirfd, const char *name)
{
	unsigned left = REMOVE_ENTRIES;
	int r = remove_entry(dirfd, name, 0, &left);

	return r == -EEXIST ? -ENOTEMPTY : r;
}
