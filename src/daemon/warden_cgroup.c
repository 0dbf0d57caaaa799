/*
 * Theory of operation: a cgroup's id is its directory's inode number on cgroup2, which is also what the kernel tells of
 * a process (PIDFD_GET_INFO), so no path is ever compared to decide anything. From an id its directory is had with
 * open_by_handle_at(), and from there the way up is "..", so ancestors are the kernel's answer, too.
 *
 * A workload's cgroup must be its own: one that holds the daemon, or lies above or below another workload's, would make
 * two workloads (or the daemon and one) the same to whoever asks. An enrolled cgroup's directory stays open, so its id
 * is not given to another one while we believe in it.
 *
 * When cgroup.events says "populated 0" we wait a moment (an engine may move the first process in and out while it sets
 * up), look again, and report it gone. One that was never populated is left alone unless it is removed.
 */
#include "daemon/warden_cgroup.h"

#include "base/log.h"
#include "daemon/identity.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/inotify.h>

enum {
	SETTLE_MS = 200,
	TICK_MS = 5000, /* how late the removal of a never populated cgroup is noticed; inotify tells the rest */
	FILEID_KERNFS = 0xfe,
	PROCS_SIZE = 64 << 10,
	CONTAINER_DIRS_MAX = 10000,
	CONTAINER_ID_DIGITS = 32, /* engines use 64 */
};

#define CONTAINER_ID_CHARS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"

/* One line of mountinfo: "36 35 98:0 /root /mount opts... - type source super". */
static bool parse_mountinfo(char *line, const char **ret_root, const char **ret_mount, const char **ret_type)
{
	char *save, *word = strtok_r(line, " ", &save);
	unsigned i;

	for (i = 0; word && strcmp(word, "-") != 0; i++, word = strtok_r(NULL, " ", &save)) {
		if (i == 3)
			*ret_root = word;
		if (i == 4)
			*ret_mount = word;
	}
	*ret_type = word ? strtok_r(NULL, " ", &save) : NULL;
	return i > 4 && *ret_type;
}

static int find_mount(struct cgroups *g)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char *line = NULL;
	size_t cap = 0;
	int r = -ENOENT;

	if (!f)
		return -errno;
	while (r == -ENOENT && getline(&line, &cap, f) > 0) {
		const char *root, *mount, *type;

		/* only a mount of the whole hierarchy: handles and ".." lead everywhere in it */
		if (parse_mountinfo(line, &root, &mount, &type) && strcmp(type, "cgroup2") == 0 && strcmp(root, "/") == 0)
			r = str_copy(g->mount, sizeof(g->mount), mount) ? 0 : -ENAMETOOLONG;
	}
	free(line);
	fclose(f);
	return r;
}

static int open_by_id(const struct cgroups *g, uint64_t id)
{
	struct {
		struct file_handle h;
		uint64_t id;
	} handle = { .h = { .handle_bytes = sizeof(id), .handle_type = FILEID_KERNFS } };
	int fd;

	memcpy(handle.h.f_handle, &id, sizeof(id));
	fd = open_by_handle_at(g->mount_fd, &handle.h, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int id_of(int fd, uint64_t *ret_id)
{
	struct file_id id;
	int r = path_id(fd, &id);

	if (r == 0)
		*ret_id = id.ino;
	return r;
}

/* The path below the mount, for people. */
static void path_of(const struct cgroups *g, int fd, char buf[LIMIT_PATH_SIZE])
{
	char proc[PATH_PROC_SIZE], full[PATH_MAX];
	size_t n = strlen(g->mount);
	ssize_t len;

	path_of_fd(fd, proc);
	len = readlink(proc, full, sizeof(full) - 1);
	buf[0] = '\0';
	if (len < 0)
		return;
	full[len] = '\0';
	if (strncmp(full, g->mount, n) == 0 && !str_copy(buf, LIMIT_PATH_SIZE, full[n] ? full + n : "/"))
		buf[0] = '\0';
}

/* @fn for the ids of @fd's cgroup and all above it, the root last. Stops when @fn returns non-zero, and returns that. */
static int each_ancestor(const struct cgroups *g, int fd, int (*fn)(void *arg, uint64_t id), void *arg)
{
	AUTO_FD at = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	uint64_t root = 0, id = 0;
	int r = id_of(g->mount_fd, &root);

	for (int i = 0; r == 0 && i < LIMIT_CGROUP_DEPTH; i++) {
		int up;

		if (at < 0 || (r = id_of(at, &id)) < 0)
			return at < 0 ? -EBADF : r;
		r = fn(arg, id);
		if (r != 0 || id == root)
			return r;
		up = openat(at, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		close(at);
		at = up;
	}
	return r < 0 ? r : -ELOOP;
}

/* ------------------------------------------------------------------ enrolment */

static int equals(void *arg, uint64_t id)
{
	return *(uint64_t *)arg == id;
}

static bool lies_in(const struct cgroups *g, int fd, uint64_t id)
{
	return each_ancestor(g, fd, equals, &id) == 1;
}

static int check_own(const struct cgroups *g, uint64_t id, char *why)
{
	struct identity self;
	AUTO_FD fd = -1;

	if (identity_of_pid(g->mount_fd, getpid(), &self) < 0)
		return 0; /* the daemon is outside of what is mounted here, so it cannot be inside */
	fd = open_by_id(g, self.cgroup_id);
	if (fd < 0 || !lies_in(g, fd, id))
		return 0;
	return why_fail(why, -EPERM, "a workload needs a cgroup of its own: this one holds the sealane daemon itself");
}

struct conflict {
	struct cgroups *g;
	uint32_t wid;
	struct cgroup *found;
};

static int find_other(void *arg, uint64_t id)
{
	struct conflict *q = arg;

	HASH_FIND(hh, q->g->table, &id, sizeof(id), q->found);
	return q->found && q->found->wid != q->wid;
}

static bool has_ancestor(const struct cgroup *c, uint64_t id)
{
	for (size_t i = 0; i < c->n_ancestors; i++)
		if (c->ancestors[i] == id)
			return true;
	return false;
}

static int check_others(struct cgroups *g, int fd, uint64_t id, uint32_t wid, char *why)
{
	struct conflict q = { .g = g, .wid = wid };
	struct cgroup *c, *next;
	int r = each_ancestor(g, fd, find_other, &q);

	if (r < 0)
		return why_fail(why, r, "cannot walk up from the cgroup");
	if (r == 1)
		return why_fail(why, -EEXIST, "a workload needs a cgroup of its own: this one %s %s, another workload's",
				q.found->id == id ? "is" : "lies inside", q.found->path);
	HASH_ITER(hh, g->table, c, next)
		if (c->wid != wid && has_ancestor(c, id))
			return why_fail(why, -EEXIST, "a workload needs a cgroup of its own: this one holds %s, another workload's",
					c->path);
	return 0;
}

/* Return: 1 populated, 0 empty, negative errno: it is removed. */
static int read_populated(const struct cgroup *c)
{
	AUTO_FD fd = openat(c->fd, "cgroup.events", O_RDONLY | O_CLOEXEC);
	char buf[256];
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, buf, sizeof(buf) - 1);
	if (n < 0)
		return -errno;
	buf[n] = '\0';
	return strstr(buf, "populated 1") != NULL;
}

struct container_walk {
	struct cgroups *g;
	const char *id;
	unsigned n_seen, n_found;
	int fd; /* the first that was found */
};

/* A container names the cgroups that it makes below its own; what lies there is not looked at, nor is an enrolled one. */
static bool is_containers_own(const struct container_walk *w, int fd, const char *name)
{
	size_t len = strlen(name), digits = 0;
	struct cgroup *c = NULL;
	uint64_t id;

	if (id_of(fd, &id) == 0)
		HASH_FIND(hh, w->g->table, &id, sizeof(id), c);
	if (c)
		return true;
	if (len > 6 && strcmp(name + len - 6, ".slice") == 0)
		return false; /* a pod's: the containers are below */
	for (; *name && digits < CONTAINER_ID_DIGITS; name++)
		digits = isxdigit((unsigned char)*name) ? digits + 1 : 0;
	return digits == CONTAINER_ID_DIGITS;
}

static int walk_containers(struct container_walk *w, int dirfd, unsigned depth)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;
	int r = 0;

	if (!dir) {
		fd_cleanup(&fd);
		return 0; /* removed meanwhile */
	}
	while (r == 0 && depth < LIMIT_CGROUP_DEPTH && (e = readdir(dir))) {
		AUTO_FD sub = -1;

		if (e->d_type != DT_DIR || e->d_name[0] == '.')
			continue;
		if (++w->n_seen > CONTAINER_DIRS_MAX)
			r = -E2BIG;
		sub = openat(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (sub < 0 || r < 0)
			continue;
		/* podman's monitor has a cgroup beside the container's, named alike */
		if (!strstr(e->d_name, w->id) || strstr(e->d_name, "conmon"))
			r = is_containers_own(w, sub, e->d_name) ? 0 : walk_containers(w, sub, depth + 1);
		else if (w->n_found++ == 0)
			w->fd = take_fd(&sub);
	}
	closedir(dir);
	return r;
}

static int open_container(struct cgroups *g, const char *id, char *why)
{
	struct container_walk w = { .g = g, .id = id, .fd = -1 };
	AUTO_FD fd = -1;
	int r;

	if (id[0] == '\0' || strspn(id, CONTAINER_ID_CHARS) != strlen(id))
		return why_fail(why, -EINVAL, "\"%s\" cannot be a container's id", id);
	r = walk_containers(&w, g->mount_fd, 0);
	fd = w.fd;
	if (r < 0)
		return why_fail(why, r, "there are more than %d cgroups: name the container's cgroup instead of its id",
				CONTAINER_DIRS_MAX);
	if (w.n_found == 0)
		return why_fail(why, -ENOENT, "no cgroup belongs to a container %s", id);
	if (w.n_found > 1)
		return why_fail(why, -ENOTUNIQ, "%u cgroups may be the container %s: write more of its id", w.n_found, id);
	return take_fd(&fd);
}

static int open_named(struct cgroups *g, const struct role_cgroup *m, char *why)
{
	size_t skip = strspn(m->path, "/");
	int fd;

	if (!m->cgroup_id && m->path[0] == '*')
		return open_container(g, m->path + 1, why);

	if (m->cgroup_id) {
		fd = open_by_id(g, m->cgroup_id);
		return fd < 0 ? why_fail(why, fd == -ESTALE ? -ENOENT : fd, "there is no cgroup with id %llu",
					 (unsigned long long)m->cgroup_id) : fd;
	}
	if (m->path[skip] == '\0')
		return why_fail(why, -EPERM, "a workload needs a cgroup of its own: the root cgroup holds everything");
	fd = path_is_clean(m->path + skip) ? path_open_beneath(g->mount_fd, m->path + skip, O_RDONLY | O_DIRECTORY) : -EINVAL;
	return fd < 0 ? why_fail(why, fd, "there is no cgroup %s below %s", m->path, g->mount) : fd;
}

static int check_enrol(struct cgroups *g, int fd, uint64_t id, uint32_t wid, char *why)
{
	uint64_t root;
	int r = id_of(g->mount_fd, &root);

	if (r < 0)
		return why_fail(why, r, "cannot look at the cgroup mount");
	if (id == root)
		return why_fail(why, -EPERM, "a workload needs a cgroup of its own: the root cgroup holds everything");
	r = check_own(g, id, why);
	return r < 0 ? r : check_others(g, fd, id, wid, why);
}

static void cgroup_free(struct cgroup *c)
{
	fd_cleanup(&c->fd);
	free(c->ancestors);
	free(c->path);
	free(c);
}

static int add_ancestor(void *arg, uint64_t id)
{
	struct cgroup *c = arg;
	uint64_t *more;

	if (id == c->id)
		return 0;
	more = reallocarray(c->ancestors, c->n_ancestors + 1, sizeof(*more));
	if (!more)
		return -ENOMEM;
	c->ancestors = more;
	c->ancestors[c->n_ancestors++] = id;
	return 0;
}

static struct cgroup *cgroup_new(struct cgroups *g, int *fd, uint64_t id, uint32_t wid)
{
	struct cgroup *c = calloc(1, sizeof(*c));
	char path[LIMIT_PATH_SIZE], events[PATH_PROC_SIZE + 16];

	if (!c)
		return NULL;
	path_of(g, *fd, path);
	*c = (struct cgroup){ .id = id, .wid = wid, .path = strdup(path) };
	if (!c->path) {
		free(c);
		return NULL;
	}
	c->fd = take_fd(fd);
	if (each_ancestor(g, c->fd, add_ancestor, c) < 0) {
		cgroup_free(c);
		return NULL;
	}
	snprintf(events, sizeof(events), "/proc/self/fd/%d/cgroup.events", c->fd);
	c->wd = inotify_add_watch(g->inotify_fd, events, IN_MODIFY);
	c->was_populated = read_populated(c) == 1;
	return c;
}

int cgroups_enrol(struct cgroups *g, const struct role_cgroup *m, const struct cgroup **ret_c, char *why)
{
	AUTO_FD fd = open_named(g, m, why);
	struct cgroup *c;
	uint64_t id = 0;
	int r;

	if (fd < 0)
		return fd;
	r = id_of(fd, &id);
	if (r < 0)
		return why_fail(why, r, "cannot look at the cgroup");
	HASH_FIND(hh, g->table, &id, sizeof(id), c);
	if (c && c->wid == m->wid) {
		*ret_c = c;
		return 0;
	}
	r = check_enrol(g, fd, id, m->wid, why);
	if (r < 0)
		return r;
	c = cgroup_new(g, &fd, id, m->wid);
	if (!c)
		return why_fail(why, -ENOMEM, "no memory to enrol a cgroup");
	HASH_ADD(hh, g->table, id, sizeof(c->id), c);
	*ret_c = c;
	return 0;
}

static void forget(struct cgroups *g, struct cgroup *c)
{
	HASH_DEL(g->table, c);
	if (c->wd >= 0)
		inotify_rm_watch(g->inotify_fd, c->wd);
	cgroup_free(c);
}

static bool is_named(const struct cgroup *c, const char *path)
{
	const char *slash = strrchr(c->path, '/');

	return path[0] == '*' ? slash && strstr(slash + 1, path + 1) : strcmp(path, c->path) == 0;
}

int cgroups_unenrol(struct cgroups *g, const struct role_cgroup *m, char *why)
{
	struct cgroup *c, *next;
	bool found = false;

	HASH_ITER(hh, g->table, c, next) {
		if (c->wid != m->wid || (m->cgroup_id && m->cgroup_id != c->id))
			continue;
		if (!m->cgroup_id && m->path[0] && !is_named(c, m->path))
			continue;
		forget(g, c);
		found = true;
	}
	return found ? 0 : why_fail(why, -ENOENT, "that cgroup is not enrolled");
}

bool cgroups_is_empty(struct cgroups *g, uint64_t id)
{
	struct cgroup *c;
	int populated;

	HASH_FIND(hh, g->table, &id, sizeof(id), c);
	if (!c)
		return true;
	populated = read_populated(c);
	return populated < 0 || (populated == 0 && c->was_populated);
}

void cgroups_forget_workload(struct cgroups *g, uint32_t wid)
{
	struct cgroup *c, *next;

	HASH_ITER(hh, g->table, c, next)
		if (c->wid == wid)
			forget(g, c);
}

bool cgroups_has_workload(const struct cgroups *g, uint32_t wid)
{
	struct cgroup *c, *next;

	HASH_ITER(hh, g->table, c, next)
		if (c->wid == wid)
			return true;
	return false;
}

/* ------------------------------------------------------------------ questions */

struct resolving {
	struct cgroups *g;
	struct cgroup *found;
};

static int find_enrolled(void *arg, uint64_t id)
{
	struct resolving *q = arg;

	HASH_FIND(hh, q->g->table, &id, sizeof(id), q->found);
	return q->found != NULL;
}

int cgroups_resolve(struct cgroups *g, uint64_t id, uint32_t *ret_wid, char *ret_path, char *why)
{
	struct resolving q = { .g = g };
	AUTO_FD fd = open_by_id(g, id);
	int r;

	if (fd < 0) {
		/* Removed meanwhile. That it was an enrolled one itself is still known; what it lay in is not. */
		if (!find_enrolled(&q, id))
			return why_fail(why, -ENOENT, "the cgroup of the process that connected is gone");
		*ret_wid = q.found->wid;
		return str_copy(ret_path, LIMIT_PATH_SIZE, q.found->path) ? 0 : -ENAMETOOLONG;
	}
	path_of(g, fd, ret_path);
	r = each_ancestor(g, fd, find_enrolled, &q);
	if (r < 0)
		return why_fail(why, r, "cannot walk up from cgroup %s", ret_path);
	if (r == 0)
		return why_fail(why, -ENOENT, "cgroup %s lies in no enrolled workload", ret_path);
	*ret_wid = q.found->wid;
	return 0;
}

static int each_pid_here(int dirfd, int (*fn)(void *, pid_t), void *arg)
{
	int fd = openat(dirfd, "cgroup.procs", O_RDONLY | O_CLOEXEC);
	FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
	long pid;
	int r = 0;

	if (!f) {
		fd_cleanup(&fd);
		return 0; /* removed meanwhile: nobody is in it */
	}
	while (r == 0 && fscanf(f, "%ld", &pid) == 1)
		if (pid > 0) /* 0: in a pid namespace that we cannot see */
			r = fn(arg, (pid_t)pid);
	fclose(f);
	return r;
}

static int each_pid_below(int dirfd, unsigned depth, int (*fn)(void *, pid_t), void *arg)
{
	int r = each_pid_here(dirfd, fn, arg);
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!dir) {
		fd_cleanup(&fd);
		return r;
	}
	while (r == 0 && depth < LIMIT_CGROUP_DEPTH && (e = readdir(dir))) {
		AUTO_FD sub = -1;

		if (e->d_type != DT_DIR || e->d_name[0] == '.')
			continue;
		sub = openat(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (sub >= 0)
			r = each_pid_below(sub, depth + 1, fn, arg);
	}
	closedir(dir);
	return r;
}

int cgroups_each_pid(const struct cgroups *g, const struct cgroup *c, int (*fn)(void *, pid_t), void *arg)
{
	return each_pid_below(c->fd, 0, fn, arg);
}

int cgroups_each_pid_of(const struct cgroups *g, uint64_t id, int (*fn)(void *, pid_t), void *arg)
{
	AUTO_FD fd = open_by_id(g, id);

	return fd < 0 ? 0 : each_pid_below(fd, 0, fn, arg);
}

/* ------------------------------------------------------------------ emptiness */

static void gone(struct cgroups *g, struct cgroup *c)
{
	g->on_gone(g->arg, c);
	forget(g, c);
}

static void look(struct cgroups *g, struct cgroup *c)
{
	struct timeval tv = { .tv_usec = SETTLE_MS * 1000 };
	int populated = read_populated(c);

	if (populated > 0) {
		c->was_populated = true;
		c->empty_since_ns = 0;
	} else if (populated < 0) {
		gone(g, c);
	} else if (c->was_populated && c->empty_since_ns == 0) {
		c->empty_since_ns = clock_ns();
		if (event_add(g->settle, &tv) < 0)
			log_error("warden.timer_failed", LOG_STR("error", "ENOMEM"));
	}
}

static void on_settle(evutil_socket_t fd, short what, void *arg)
{
	struct cgroups *g = arg;
	struct timeval tv = { .tv_usec = SETTLE_MS * 1000 };
	struct cgroup *c, *next;
	uint64_t now = clock_ns();
	bool again = false;

	HASH_ITER(hh, g->table, c, next) {
		if (c->empty_since_ns == 0)
			continue;
		if (now - c->empty_since_ns < (SETTLE_MS - 10) * 1000000ull)
			again = true;
		else if (read_populated(c) > 0)
			c->empty_since_ns = 0;
		else
			gone(g, c);
	}
	if (again && event_add(g->settle, &tv) < 0)
		log_error("warden.timer_failed", LOG_STR("error", "ENOMEM"));
}

static void on_inotify(evutil_socket_t fd, short what, void *arg)
{
	struct cgroups *g = arg;
	char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	ssize_t n = read(fd, buf, sizeof(buf));

	for (ssize_t at = 0; at < n;) {
		const struct inotify_event *e = (const struct inotify_event *)(const void *)(buf + at);
		struct cgroup *c, *next;

		HASH_ITER(hh, g->table, c, next) {
			if (c->wd == e->wd && e->mask & IN_IGNORED)
				c->wd = -1; /* the kernel took the watch away with the file */
			else if (c->wd != e->wd && !(e->mask & IN_Q_OVERFLOW))
				continue;
			look(g, c);
		}
		at += (ssize_t)(sizeof(*e) + e->len);
	}
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct cgroups *g = arg;
	struct timeval tv = { .tv_sec = TICK_MS / 1000 };
	struct cgroup *c, *next;

	HASH_ITER(hh, g->table, c, next)
		if (!c->was_populated || c->wd < 0)
			look(g, c);
	if (event_add(g->tick, &tv) < 0)
		log_error("warden.timer_failed", LOG_STR("error", "ENOMEM"));
}

int cgroups_open(struct cgroups *g, struct event_base *base)
{
	struct timeval tv = { .tv_sec = TICK_MS / 1000 };
	int r;

	*g = (struct cgroups){ .base = base, .mount_fd = -1, .inotify_fd = -1 };
	r = find_mount(g);
	if (r < 0)
		return r;
	g->mount_fd = open(g->mount, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	g->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (g->mount_fd < 0 || g->inotify_fd < 0)
		return -errno;
	g->on_change = event_new(base, g->inotify_fd, EV_READ | EV_PERSIST, on_inotify, g);
	g->settle = evtimer_new(base, on_settle, g);
	g->tick = evtimer_new(base, on_tick, g);
	if (!g->on_change || !g->settle || !g->tick || event_add(g->on_change, NULL) < 0 || event_add(g->tick, &tv) < 0)
		return -ENOMEM;
	return 0;
}

void cgroups_close(struct cgroups *g)
{
	struct event *events[] = { g->on_change, g->settle, g->tick };
	struct cgroup *c, *next;

	HASH_ITER(hh, g->table, c, next)
		forget(g, c);
	for (size_t i = 0; i < ARRAY_SIZE(events); i++)
		if (events[i])
			event_free(events[i]);
	fd_cleanup(&g->mount_fd);
	fd_cleanup(&g->inotify_fd);
	g->mount_fd = g->inotify_fd = -1;
}
