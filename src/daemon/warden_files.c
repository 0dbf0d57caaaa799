/*
 * Theory of operation: directories live as long as their workload is known, across restarts, because a container's bind
 * mount of one is a mount of that inode. So a directory that exists is taken as it is, and only one that the broker
 * wants gone, or that nobody asked for after a start (files_sweep()), is removed.
 *
 * Before this file: warden.c, which takes the broker's messages apart. Beside it: warden_listen.c (sockets and names),
 * warden_path.c (every single step on the file system).
 */
#include "daemon/warden_files.h"

#include "base/log.h"
#include "daemon/warden_diag.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>

static bool name_is_valid(const char *name)
{
	return name[0] != '\0' && name[0] != '.' && !strchr(name, '/');
}

int files_make_dir(const char *path, mode_t mode, uid_t uid, gid_t gid)
{
	AUTO_FD root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	AUTO_FD fd = -1;

	if (root < 0)
		return -errno;
	if (path[0] != '/')
		return -EINVAL;
	/* The way to it may hold an operator's links (/var/run), the directory itself must not be one. */
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT) {
		AUTO_FD made = path_make_dirs(root, path + strspn(path, "/"));

		if (made < 0)
			return made;
		fd = openat(made, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (fd < 0)
		return -errno;
	if (fchown(fd, uid, gid) < 0 || fchmod(fd, mode) < 0)
		return -errno;
	return 0;
}

static int open_private_dir(int run_fd, const char *name)
{
	int fd;

	if (mkdirat(run_fd, name, 0700) < 0 && errno != EEXIST)
		return -errno;
	fd = path_open_beneath(run_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
	if (fd >= 0 && (fchown(fd, 0, 0) < 0 || fchmod(fd, 0700) < 0)) {
		int r = -errno;

		close(fd);
		return r;
	}
	return fd;
}

int files_open(struct files *f, const char *run_dir)
{
	int r;

	*f = (struct files){ .run_fd = -1, .w_fd = -1, .l_fd = -1, .nl = -1 };
	r = files_make_dir(run_dir, 0755, 0, 0);
	if (r < 0)
		return r;
	f->run_fd = open(run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (f->run_fd < 0)
		return -errno;
	f->w_fd = open_private_dir(f->run_fd, "w");
	f->l_fd = open_private_dir(f->run_fd, "l");
	f->nl = diag_open();
	if (f->w_fd < 0 || f->l_fd < 0 || f->nl < 0) {
		r = f->w_fd < 0 ? f->w_fd : f->l_fd < 0 ? f->l_fd : f->nl;
		files_close(f);
		return r;
	}
	return 0;
}

void files_close(struct files *f)
{
	struct workload_dir *w, *w_next;
	struct listener *l, *l_next;

	HASH_CLEAR(hh_key, f->by_key);
	HASH_CLEAR(hh_id, f->by_id);
	HASH_ITER(hh, f->listeners, l, l_next) {
		HASH_DEL(f->listeners, l);
		fd_cleanup(&l->fd);
		free(l->path);
		free(l->key);
		free(l);
	}
	HASH_ITER(hh, f->workloads, w, w_next) {
		HASH_DEL(f->workloads, w);
		free(w);
	}
	fd_cleanup(&f->run_fd);
	fd_cleanup(&f->w_fd);
	fd_cleanup(&f->l_fd);
	fd_cleanup(&f->nl);
	f->run_fd = f->w_fd = f->l_fd = f->nl = -1;
}

const struct workload_dir *files_workload(struct files *f, uint32_t wid)
{
	struct workload_dir *w;

	HASH_FIND_INT(f->workloads, &wid, w);
	return w;
}

/* mkdir(2) obeys the umask, so the mode is set once more; nobody else can reach below RUN/w meanwhile. */
static int make_dir_at(int dirfd, const char *name, mode_t mode)
{
	AUTO_FD fd = -1;

	if (mkdirat(dirfd, name, mode) < 0 && errno != EEXIST)
		return -errno;
	fd = path_open_beneath(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
	if (fd < 0)
		return fd;
	if (fchmod(fd, mode) < 0)
		return -errno;
	return take_fd(&fd);
}

static int make_workload_dirs(struct files *f, const struct role_workload *w, char *why)
{
	AUTO_FD serve = -1;
	AUTO_FD dir = make_dir_at(f->w_fd, w->name, 0755);

	if (dir < 0)
		return why_fail(why, dir, "cannot make the directory of workload %s", w->name);
	if (!w->offers)
		return 0;
	serve = make_dir_at(dir, "serve", 0777);
	if (serve < 0)
		return why_fail(why, serve, "cannot make the directory serve/ of workload %s", w->name);
	return 0;
}

int files_add_workload(struct files *f, const struct role_workload *w, char *why)
{
	struct workload_dir *d, *other, *next;
	int r;

	if (!name_is_valid(w->name))
		return why_fail(why, -EINVAL, "\"%s\" cannot be a directory's name", w->name);
	HASH_FIND_INT(f->workloads, &w->wid, d);
	if (d && strcmp(d->name, w->name) != 0)
		return why_fail(why, -EEXIST, "workload number %u is %s already", w->wid, d->name);
	HASH_ITER(hh, f->workloads, other, next)
		if (other != d && strcmp(other->name, w->name) == 0)
			return why_fail(why, -EEXIST, "there is a workload %s already", w->name);
	r = make_workload_dirs(f, w, why);
	if (r < 0 || d)
		return r;
	d = calloc(1, sizeof(*d));
	if (!d)
		return why_fail(why, -ENOMEM, "no memory for workload %s", w->name);
	d->wid = w->wid;
	memcpy(d->name, w->name, sizeof(d->name));
	HASH_ADD_INT(f->workloads, wid, d);
	return 0;
}

/* Out of sight at once under a name that no workload can have; what cannot be removed now goes at the next sweep. */
static int remove_dir(struct files *f, const char *name)
{
	static unsigned turn;
	char gone[64];

	snprintf(gone, sizeof(gone), ".gone-%d-%u", getpid(), turn++);
	if (renameat(f->w_fd, name, f->w_fd, gone) < 0)
		return errno == ENOENT ? 0 : -errno;
	return path_remove_tree(f->w_fd, gone);
}

static void unlisten_all_of(struct files *f, uint32_t wid)
{
	struct listener *l, *next;
	char why[WARDEN_WHY_SIZE];

	HASH_ITER(hh, f->listeners, l, next)
		if (l->wid == wid && l->lid != ROLE_NO_ID && files_unlisten(f, l->lid, why) < 0)
			log_warn("warden.unlisten_failed", LOG_STR("why", why));
}

int files_remove_workload(struct files *f, uint32_t wid, char *why)
{
	struct workload_dir *d;
	char name[LIMIT_NAME_SIZE];
	int r;

	HASH_FIND_INT(f->workloads, &wid, d);
	if (!d)
		return why_fail(why, -ENOENT, "there is no workload number %u", wid);
	unlisten_all_of(f, wid);
	memcpy(name, d->name, sizeof(name));
	HASH_DEL(f->workloads, d);
	free(d);
	r = remove_dir(f, name);
	if (r < 0)
		return why_fail(why, r, "cannot remove all of the directory of workload %s", name);
	return 0;
}

int files_open_serve(struct files *f, uint32_t wid)
{
	const struct workload_dir *d = files_workload(f, wid);
	char path[LIMIT_NAME_SIZE + 8];

	if (!d)
		return -ENOENT;
	snprintf(path, sizeof(path), "%s/serve", d->name);
	return path_open_beneath(f->w_fd, path, O_PATH | O_DIRECTORY);
}

bool files_can_link(const struct files *f, int fd)
{
	return path_same_mount(f->w_fd, fd);
}

static bool workload_is_known(struct files *f, const char *name)
{
	struct workload_dir *d, *next;

	HASH_ITER(hh, f->workloads, d, next)
		if (strcmp(d->name, name) == 0)
			return true;
	return false;
}

/* @fn for each name in @name below @dirfd, except "." and ".."; the directory may change meanwhile. */
static void each_name(int dirfd, const char *name, void (*fn)(struct files *f, int dirfd, const char *sub, const char *parent),
		      struct files *f)
{
	int fd = path_open_beneath(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!dir) {
		fd_cleanup(&fd);
		return;
	}
	while ((e = readdir(dir)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			fn(f, fd, e->d_name, name);
	closedir(dir);
}

static bool is_socket(int dirfd, const char *name)
{
	struct stat st;

	return fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISSOCK(st.st_mode);
}

/* A socket of a known workload that is the name of no listener: an upstream that was taken out while no daemon ran. */
static void sweep_socket(struct files *f, int dirfd, const char *name, const char *workload)
{
	char key[LIMIT_PATH_SIZE];
	struct listener *l = NULL;
	int n = snprintf(key, sizeof(key), "w/%s/%s", workload, name);

	if (n < 0 || (size_t)n >= sizeof(key) || !is_socket(dirfd, name))
		return;
	HASH_FIND(hh_key, f->by_key, key, strlen(key), l);
	if (l)
		return;
	log_info("warden.stale_socket_removed", LOG_STR("workload", workload), LOG_STR("name", name));
	if (unlinkat(dirfd, name, 0) < 0)
		log_warn("warden.remove_failed", LOG_STR("name", name), LOG_STR("error", log_errno_name(errno)));
}

static void sweep_workload(struct files *f, int dirfd, const char *name, const char *parent)
{
	int r;

	if (workload_is_known(f, name)) {
		each_name(dirfd, name, sweep_socket, f);
		return;
	}
	log_info("warden.stale_directory_removed", LOG_STR("workload", name));
	r = name[0] == '.' ? path_remove_tree(f->w_fd, name) : remove_dir(f, name);
	if (r < 0)
		log_warn("warden.remove_failed", LOG_STR("name", name), LOG_STR("error", log_errno_name(r)));
}

static void sweep_bound(struct files *f, int dirfd, const char *name, const char *parent)
{
	struct stat st;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISSOCK(st.st_mode))
		return;
	if (files_is_own_listener(f, &(struct file_id){ .dev = st.st_dev, .ino = st.st_ino }))
		return;
	if (unlinkat(dirfd, name, 0) < 0)
		log_warn("warden.remove_failed", LOG_STR("name", name), LOG_STR("error", log_errno_name(errno)));
}

void files_sweep(struct files *f)
{
	each_name(f->run_fd, "w", sweep_workload, f);
	each_name(f->run_fd, "l", sweep_bound, f);
}

static void remove_socket(struct files *f, int dirfd, const char *name, const char *parent)
{
	if (is_socket(dirfd, name))
		unlinkat(dirfd, name, 0);
}

static void remove_sockets_of(struct files *f, int dirfd, const char *name, const char *parent)
{
	each_name(dirfd, name, remove_socket, f);
}

void files_remove_names(int run_fd)
{
	unlinkat(run_fd, "admin.sock", 0);
	each_name(run_fd, "w", remove_sockets_of, NULL);
	each_name(run_fd, "l", remove_socket, NULL);
}
