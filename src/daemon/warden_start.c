/*
 * Theory of operation: how the warden comes up. What an earlier daemon left is taken over, not made anew: directories as
 * they are, listening sockets from the keeper. Then it gives up every right that it does not name here, and only after
 * that it talks to anybody.
 */
#include "daemon/warden.h"

#include "base/isolate.h"
#include "base/log.h"
#include "daemon/config_files.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/sockios.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>

/*
 * SYS_ADMIN is for setns() into a container's network namespace (warden_diag.c) and is held to that by the system call
 * filter; NET_ADMIN for the namespace of a connection that a server holds (SIOCGSKNS, warden_lanes.c), held to that by the
 * filter as well; SYS_PTRACE for pidfd_getfd() and /proc/PID/fd; DAC_* and the rest for files that belong to others, and for
 * open_by_handle_at() on cgroup2.
 */
static const int g_caps[] = {
	CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_NET_ADMIN,
};

static const struct isolate_call g_warden_calls[] = {
	{ .name = "openat" }, { .name = "openat2" }, { .name = "open" }, { .name = "mkdirat" }, { .name = "unlinkat" },
	{ .name = "renameat" }, { .name = "linkat" }, { .name = "fchmod" }, { .name = "fchmodat" }, { .name = "fchown" },
	{ .name = "fchownat" }, { .name = "statx" }, { .name = "stat" }, { .name = "readlink" }, { .name = "readlinkat" },
	{ .name = "getdents64" }, { .name = "umask" }, { .name = "fsync" }, { .name = "ftruncate" }, { .name = "pread64" },
	{ .name = "memfd_create" }, { .name = "socket" }, { .name = "socketpair" }, { .name = "bind" }, { .name = "listen" },
	{ .name = "connect" }, { .name = "getsockname" }, { .name = "inotify_add_watch" }, { .name = "inotify_rm_watch" },
	{ .name = "open_by_handle_at" }, { .name = "pidfd_open" }, { .name = "pidfd_getfd" },
	{ .name = "setns", .arg = 2, .arg_value = CLONE_NEWNET },
	{ .name = "ioctl", .arg = 2, .arg_value = IDENTITY_PIDFD_GET_INFO },
	{ .name = "ioctl", .arg = 2, .arg_value = SIOCGSKNS }, { .name = "lseek" },
	/* The guard's tables, and nothing new: SYS_ADMIN alone would let us load programs. */
	{ .name = "bpf", .arg = 1, .arg_value = BPF_MAP_LOOKUP_ELEM },
	{ .name = "bpf", .arg = 1, .arg_value = BPF_MAP_UPDATE_ELEM },
	{ .name = "bpf", .arg = 1, .arg_value = BPF_MAP_DELETE_ELEM },
	{ .name = NULL },
};

int warden_isolate(void)
{
	int r;

	tzset();
	r = isolate_caps(g_caps, ARRAY_SIZE(g_caps));
	return r == 0 ? isolate_calls(g_warden_calls) : r;
}

/* ------------------------------------------------------------------ keeper */

static void keep_again(struct warden *w)
{
	struct listener *l, *next;
	struct kept *k, *next_kept;

	HASH_ITER(hh, w->files.listeners, l, next)
		if (keeper_store(&w->keeper, l->key, l->fd) < 0)
			log_warn("warden.keeper_lost", LOG_STR("name", l->key));
	HASH_ITER(hh, w->leashes, k, next_kept)
		if (keeper_store(&w->keeper, k->name, k->fd) < 0)
			log_warn("warden.keeper_lost", LOG_STR("name", k->name));
	HASH_ITER(hh, w->link.listening, k, next_kept)
		if (keeper_store(&w->keeper, k->name, k->fd) < 0)
			log_warn("warden.keeper_lost", LOG_STR("name", k->name));
}

static int start_new_keeper(struct warden *w)
{
	AUTO_FD sock = keeper_listen(w->files.run_fd);
	int r = sock < 0 ? sock : warden_spawn(w, LAUNCH_KEEPER, 0, sock);

	return r < 0 ? r : keeper_connect(&w->keeper, w->files.run_fd);
}

int warden_keeper_start(struct warden *w)
{
	int r = keeper_connect(&w->keeper, w->files.run_fd);

	if (r == 0) {
		r = keeper_fetch(&w->keeper);
		if (r == 0)
			return keeper_claim(&w->keeper, WARDEN_LEASH_PREFIX, &w->leashes);
		log_warn("warden.keeper_silent", LOG_STR("error", log_errno_name(r)));
		keeper_close(&w->keeper);
	}
	r = start_new_keeper(w);
	if (r == 0) {
		keep_again(w);
		warden_guard_keep(w);
	}
	return r == 0 ? keeper_set_grace(&w->keeper, w->grace_ms) : r;
}

/* ------------------------------------------------------------------ configuration */

static int sealed_copy(const struct config_file *f)
{
	AUTO_FD fd = memfd_create("sealane-config", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	size_t done = 0;

	if (fd < 0)
		return -errno;
	while (done < f->size) {
		ssize_t n = write(fd, f->text + done, f->size - done);

		if (n < 0)
			return -errno;
		done += (size_t)n;
	}
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
		return -errno;
	return take_fd(&fd);
}

int warden_send_config(struct warden *w, uint32_t seq)
{
	struct role_msg last = { .type = WB_CONFIG, .u.config = { .last = 1, .seq_of_reload = seq } };
	struct config_files files;
	int r = config_files_read(&files, w->o);

	for (size_t i = 0; r == 0 && i < files.n; i++) {
		const struct config_file *f = &files.files[i];
		struct role_msg m = { .type = WB_CONFIG, .u.config = { .seq_of_reload = seq, .error = f->error } };
		AUTO_FD fd = f->error ? -1 : sealed_copy(f);

		memcpy(m.u.config.name, f->path, sizeof(f->path));
		if (fd < 0 && !f->error)
			m.u.config.error = fd;
		warden_tell_broker(w, &m, fd);
	}
	config_files_free(&files);
	if (r == 0)
		warden_tell_broker(w, &last, -1);
	return r;
}

int warden_write_cdi(const char *dir, int fd, char *why)
{
	AUTO_FREE(char) text = malloc(LIMIT_CONFIG_SIZE);
	AUTO_FD out = -1, at = -1;
	ssize_t size;
	int r;

	if (dir[0] != '/' || fd < 0 || !text)
		return why_fail(why, -EINVAL, "the CDI directory must be an absolute path");
	r = files_make_dir(dir, 0755, 0, 0);
	if (r == 0)
		r = at = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (r < 0)
		return why_fail(why, at < 0 && r == -1 ? -errno : r, "cannot make or open %s", dir);
	size = pread(fd, text, LIMIT_CONFIG_SIZE, 0);
	if (size < 0 || size == LIMIT_CONFIG_SIZE)
		return why_fail(why, -EFBIG, "the CDI text cannot be read");
	out = openat(at, ".sealane.json", O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (out < 0 || write(out, text, (size_t)size) != size || fchmod(out, 0644) < 0 ||
	    renameat(at, ".sealane.json", at, "sealane.json") < 0)
		return why_fail(why, -errno, "cannot write %s/sealane.json", dir);
	return 0;
}

/* ------------------------------------------------------------------ start */

int warden_open_admin(struct warden *w)
{
	const struct role_listen m = { .lid = ROLE_NO_ID, .wid = ROLE_NO_ID, .mode = 0600, .type = SOCK_STREAM, .uid = -1, .gid = -1 };
	char why[WARDEN_WHY_SIZE] = "";
	int fd, r = files_listen(&w->files, &m, &fd, why);

	if (r < 0)
		log_error("warden.admin_failed", LOG_STR("why", why), LOG_STR("error", log_errno_name(r)));
	return r;
}

static int fail(const char *what, int r)
{
	log_error("warden.failed", LOG_STR("step", what), LOG_STR("error", log_errno_name(r)));
	return r;
}

int warden_open(struct warden *w)
{
	int r = files_open(&w->files, w->o->run_dir);

	if (r < 0)
		return fail("make the run directory", r);
	r = cgroups_open(&w->cgroups, w->base);
	if (r < 0)
		return fail("find the cgroup2 mount (mount -t cgroup2 none /sys/fs/cgroup)", r);
	r = servers_open(&w->servers, w->base, &w->files);
	if (r == 0)
		r = lanes_open(&w->lanes, w->base, &w->cgroups, &w->servers);
	if (r < 0)
		return fail("watch files", r);
	r = warden_keeper_start(w);
	if (r < 0)
		return fail("reach or start the keeper", r);
	warden_guard_open(w);
	w->lanes.guard = w->guard.g;
	return 0;
}

/* ------------------------------------------------------------------ the daemon as the user starts it */

static int prepare_dirs(const struct daemon_options *o)
{
	const struct passwd *pw = getpwnam(o->user);
	int r = files_make_dir(o->run_dir, 0755, 0, 0);

	if (r < 0)
		log_error("warden.no_directory", LOG_STR("path", o->run_dir), LOG_STR("error", log_errno_name(r)));
	else if (!pw || (r = files_make_dir(o->state_dir, 0700, pw->pw_uid, pw->pw_gid)) < 0)
		log_error("warden.no_directory", LOG_STR("path", o->state_dir), LOG_STR("error", log_errno_name(r)));
	return pw ? r : -ENOENT;
}

static void write_pid_file(const struct daemon_options *o, bool present)
{
	AUTO_FD dir = open(o->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	AUTO_FD fd = -1;

	if (dir < 0)
		return;
	if (!present) {
		unlinkat(dir, "sealaned.pid", 0);
		return;
	}
	fd = openat(dir, "sealaned.pid", O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0 || dprintf(fd, "%d\n", getpid()) < 0)
		log_warn("warden.no_pid_file", LOG_STR("error", log_errno_name(errno)));
}

int warden_main(const struct daemon_options *o)
{
	AUTO_FD lock = -1;
	pid_t other = 0;
	int r;

	log_init("launcher", o->verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO);
	if (prepare_dirs(o) < 0)
		return 1;
	lock = launch_lock(o->run_dir, &other);
	if (lock < 0) {
		log_error("launcher.not_alone", LOG_STR("error", log_errno_name(lock)), LOG_I64("pid", other),
			  LOG_STR("why", lock == -EBUSY ? "another daemon uses this run directory" : "cannot lock the run directory"));
		return 1;
	}
	write_pid_file(o, true);
	r = launch_main(o, lock);
	write_pid_file(o, false);
	return r;
}
