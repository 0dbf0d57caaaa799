#include "cli/cgroup.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

enum {
	MOUNTINFO_SIZE_MAX = 4 << 20,
	REMOVE_TRIES = 200, /* of 10 ms: how long a killed process may take to leave (dead ones hold a cgroup until reaped) */
	WALK_FDS = 32,
};

/* linux/pidfd.h of kernel 6.13; older headers lack it. */
struct pidfd_info_v0 {
	uint64_t mask;
	uint64_t cgroupid;
	uint32_t pid, tgid, ppid;
	uint32_t ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
	int32_t exit_code;
};
static_assert(sizeof(struct pidfd_info_v0) == 64, "the first version of the kernel's structure");
#define PIDFD_GET_INFO_V0 _IOWR(0xFF, 11, struct pidfd_info_v0)
#define PIDFD_INFO_CGROUPID_BIT (1u << 2)

ssize_t read_small_file(const char *path, char *buf, size_t size)
{
	AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t n = 0;

	if (fd < 0)
		return -errno;
	while (n < size - 1) {
		ssize_t got = read(fd, buf + n, size - 1 - n);

		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		n += (size_t)got;
	}
	buf[n] = '\0';
	return (ssize_t)n;
}

/* The kernel writes blanks and backslashes in paths as \040, \134. */
static bool mountinfo_unescape(char *dst, size_t size, const char *s, size_t n)
{
	size_t o = 0;

	for (size_t i = 0; i < n; i++) {
		if (o + 1 >= size)
			return false;
		if (s[i] == '\\' && i + 3 < n && isdigit((unsigned char)s[i + 1])) {
			dst[o++] = (char)((s[i + 1] - '0') * 64 + (s[i + 2] - '0') * 8 + (s[i + 3] - '0'));
			i += 3;
		} else {
			dst[o++] = s[i];
		}
	}
	dst[o] = '\0';
	return true;
}

/* "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw": the fifth word, if the type fits. */
static bool mountinfo_take_cgroup2(char *dst, size_t size, const char *line, size_t n)
{
	const char *end = line + n, *dash = memmem(line, n, " - ", 3), *p = line;

	if (!dash || end - dash < 11 || memcmp(dash, " - cgroup2 ", 11) != 0)
		return false;
	for (int i = 0; i < 4; i++) {
		p = memchr(p, ' ', (size_t)(end - p));
		if (!p)
			return false;
		p++;
	}
	const char *stop = memchr(p, ' ', (size_t)(end - p));

	return stop && mountinfo_unescape(dst, size, p, (size_t)(stop - p));
}

static int mountinfo_rank(const char *path)
{
	return strcmp(path, "/sys/fs/cgroup") == 0 ? 3 : strcmp(path, "/sys/fs/cgroup/unified") == 0 ? 2 : 1;
}

int cgroup_parse_mountinfo(char *ret, size_t size, const char *text)
{
	char path[LIMIT_PATH_SIZE];
	int best = 0;

	while (*text) {
		size_t n = strcspn(text, "\n");

		if (mountinfo_take_cgroup2(path, sizeof(path), text, n) && mountinfo_rank(path) > best && str_copy(ret, size, path))
			best = mountinfo_rank(path);
		text += n + (text[n] == '\n');
	}
	return best ? 0 : -ENOENT;
}

int cgroup_find_mount(char *ret, size_t size)
{
	AUTO_FREE(char) text = malloc(MOUNTINFO_SIZE_MAX);
	ssize_t n;

	if (!text)
		return -ENOMEM;
	n = read_small_file("/proc/self/mountinfo", text, MOUNTINFO_SIZE_MAX);
	return n < 0 ? (int)n : cgroup_parse_mountinfo(ret, size, text);
}

int cgroup_id_of_path(uint64_t *ret_id, const char *path)
{
	union {
		struct file_handle handle;
		char space[sizeof(struct file_handle) + sizeof(uint64_t)];
	} u = { .handle.handle_bytes = sizeof(uint64_t) };
	int mount_id;

	if (name_to_handle_at(AT_FDCWD, path, &u.handle, &mount_id, 0) < 0)
		return errno == EOVERFLOW ? -ENOTSUP : -errno;
	if (u.handle.handle_bytes != sizeof(uint64_t))
		return -ENOTSUP; /* not a kernfs: this is no cgroup directory */
	memcpy(ret_id, u.handle.f_handle, sizeof(uint64_t));
	return 0;
}

int cli_pidfd_open(pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);

	return fd < 0 ? -errno : fd;
}

int cli_pidfd_signal(int pidfd, int signal)
{
	return syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) < 0 ? -errno : 0;
}

int pidfd_cgroup_id(uint64_t *ret_id, int pidfd)
{
	struct pidfd_info_v0 info = { .mask = PIDFD_INFO_CGROUPID_BIT };

	if (ioctl(pidfd, PIDFD_GET_INFO_V0, &info) < 0)
		return -errno;
	if (!(info.mask & PIDFD_INFO_CGROUPID_BIT) || info.cgroupid == 0)
		return -ENOTTY;
	*ret_id = info.cgroupid;
	return 0;
}

/* For kernels without PIDFD_GET_INFO. The caller proves with its pidfd that the process still lived after we looked. */
static int proc_cgroup_id(uint64_t *ret_id, pid_t pid)
{
	char mount[LIMIT_PATH_SIZE], text[8192], path[64], *line;
	AUTO_FREE(char) dir = NULL;
	ssize_t n;
	int r = cgroup_find_mount(mount, sizeof(mount));

	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
	n = read_small_file(path, text, sizeof(text));
	if (n < 0)
		return n == -ENOENT ? -ESRCH : (int)n;
	line = strncmp(text, "0::", 3) == 0 ? text : strstr(text, "\n0::");
	if (!line)
		return -ENOENT;
	line = strchr(line, '/');
	if (!line || asprintf(&dir, "%s%.*s", mount, (int)strcspn(line, "\n"), line) < 0)
		return -ENOENT;
	return cgroup_id_of_path(ret_id, dir);
}

int cgroup_of_pid(uint64_t *ret_id, pid_t pid)
{
	AUTO_FD pidfd = cli_pidfd_open(pid);
	uint64_t id;
	int r;

	if (pidfd < 0)
		return pidfd;
	r = pidfd_cgroup_id(ret_id, pidfd);
	if (r != -ENOTTY && r != -EINVAL)
		return r;
	r = proc_cgroup_id(&id, pid);
	if (r < 0)
		return r;
	r = cli_pidfd_signal(pidfd, 0);
	if (r < 0)
		return r;
	*ret_id = id;
	return 0;
}

/* nftw() has no argument for its callback; the CLI has one thread. */
static struct {
	const char *id;
	char *path;
	size_t size;
	int n;
} g_find;

static int find_visit(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	const char *name = path + ftw->base;

	if (type != FTW_D)
		return FTW_CONTINUE;
	if (ftw->level > LIMIT_CGROUP_DEPTH)
		return FTW_SKIP_SUBTREE;
	if (!strstr(name, g_find.id) || strstr(name, "conmon"))
		return FTW_CONTINUE;
	g_find.n++;
	if (!str_copy(g_find.path, g_find.size, path))
		return FTW_STOP;
	return FTW_SKIP_SUBTREE; /* what is below belongs to the container too */
}

int cgroup_find_container(char *ret_path, size_t size, const char *mount, const char *id)
{
	if (strspn(id, "0123456789abcdef") != strlen(id) || strlen(id) < 12 || strlen(id) > 64)
		return -EINVAL;
	g_find = (typeof(g_find)){ .id = id, .path = ret_path, .size = size };
	if (nftw(mount, find_visit, WALK_FDS, FTW_PHYS | FTW_ACTIONRETVAL) < 0)
		return -errno;
	return g_find.n == 0 ? -ENOENT : g_find.n > 1 ? -ENOTUNIQ : 0;
}

/* A run that was killed with SIGKILL leaves an empty cgroup, named after a pid that no longer is. */
static void cgroup_sweep(const char *parent)
{
	AUTO_FREE(char) path = NULL;
	struct dirent **list = NULL;
	int n = scandir(parent, &list, NULL, NULL);

	for (int i = 0; i < n; i++) {
		const char *dash = strrchr(list[i]->d_name, '-');
		long pid = dash ? strtol(dash + 1, NULL, 10) : 0;

		if (list[i]->d_type == DT_DIR && pid > 0 && kill((pid_t)pid, 0) < 0 && errno == ESRCH &&
		    asprintf(&path, "%s/%s", parent, list[i]->d_name) >= 0) {
			if (rmdir(path) < 0 && errno == EBUSY)
				errno = 0; /* somebody still lives there: not ours to remove */
			free(take_ptr(path));
		}
		free(list[i]);
	}
	free(list);
}

int cgroup_make(struct cgroup *ret, const char *mount, const char *name)
{
	struct cgroup g = { .fd = -1 };
	int r;

	if ((size_t)snprintf(g.parent, sizeof(g.parent), "%s/sealane", mount) >= sizeof(g.parent))
		return -ENAMETOOLONG;
	if (mkdir(g.parent, 0755) < 0 && errno != EEXIST)
		return -errno;
	cgroup_sweep(g.parent);
	if ((size_t)snprintf(g.path, sizeof(g.path), "%s/%s-%d", g.parent, name, (int)getpid()) >= sizeof(g.path))
		return -ENAMETOOLONG;
	if (mkdir(g.path, 0755) < 0)
		return -errno;
	g.fd = open(g.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = g.fd < 0 ? -errno : cgroup_id_of_path(&g.id, g.path);
	*ret = g;
	if (r < 0)
		cgroup_remove(ret);
	return r;
}

static int remove_visit(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	if (type == FTW_DP)
		rmdir(path); /* files of a cgroup go with it */
	return 0;
}

static void cgroup_kill(const struct cgroup *g)
{
	AUTO_FD fd = openat(g->fd, "cgroup.kill", O_WRONLY | O_CLOEXEC); /* kernel 5.14; else the pid namespace's end did it */

	if (fd >= 0 && write(fd, "1", 1) < 0)
		return;
}

void cgroup_remove(struct cgroup *g)
{
	const struct timespec pause = { .tv_nsec = 10000000 };

	if (g->path[0] == '\0')
		return;
	if (g->fd >= 0)
		cgroup_kill(g);
	for (int i = 0; i < REMOVE_TRIES && access(g->path, F_OK) == 0; i++) {
		if (i > 0)
			nanosleep(&pause, NULL);
		nftw(g->path, remove_visit, WALK_FDS, FTW_PHYS | FTW_DEPTH);
	}
	if (access(g->path, F_OK) == 0)
		fprintf(stderr, "sealane run: %s cannot be removed: something still lives in it\n", g->path);
	rmdir(g->parent); /* only works when no other run needs it */
	if (g->fd >= 0)
		close(g->fd);
	*g = (struct cgroup){ .fd = -1 };
}
