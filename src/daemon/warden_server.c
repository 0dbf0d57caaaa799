/*
 * Theory of operation: one inotify descriptor watches the directories of all services' sockets. Whatever happens in one,
 * its services are looked at again:
 *
 *   name -> inode (O_PATH, no links followed)  ->  not one of ours, not another service's
 *        ->  one connection of our own: does it listen, and does its listener belong to the workload?  ->  mode set, up
 *
 * That one connection is closed at once; the server sees a client that came and went, once per start. sock_diag would
 * not disturb it, but sees only its own network namespace, and cannot say which process listens.
 *
 * A socket file appears at bind(), a moment before listen(): such a server is looked at every 2 ms for a second. Once
 * a second all are looked at, since a server that was killed leaves its file behind and inotify says nothing
 * (path_has_listener() does not disturb it). A container that floods its directory with events is read at most every
 * 2 ms, so it costs itself more than us.
 */
#include "daemon/warden_server.h"

#include "base/foreign.h"
#include "base/log.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/socket.h>

enum {
	QUICK_MS = 2,
	QUICK_FOR_MS = 1000,
	TICK_MS = 1000,
	CONNECT_RETRY_MS = 5,
	CONNECT_RETRY_LAST_MS = 40,
	CONNECT_FOR_MS = 1000,
	WAITING_MAX = 256,     /* connections that wait for room in one server's backlog */
	CONNECTING_MAX = 4096, /* and in all of them */
	INOTIFY_BUFFER_SIZE = 16 << 10,
	EVENTS = IN_CREATE | IN_MOVED_TO | IN_DELETE | IN_MOVED_FROM | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR,
};

struct connecting {
	uint32_t seq;
	struct file_id id; /* the server may be another by the time of the next try */
	uint64_t deadline_ns;
	struct connecting *next;
};

static struct timeval ms_to_timeval(unsigned ms)
{
	return (struct timeval){ .tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000) * 1000 };
}

static void arm(struct event *e, unsigned ms)
{
	struct timeval tv = ms_to_timeval(ms);

	if (!event_pending(e, EV_TIMEOUT, NULL) && event_add(e, &tv) < 0)
		log_error("warden.timer_failed", LOG_STR("error", "ENOMEM"));
}

struct server *servers_find(struct servers *v, uint32_t sid)
{
	struct server *s;

	HASH_FIND_INT(v->table, &sid, s);
	return s;
}

/* ------------------------------------------------------------------ one look at one server */

static void set_state(struct servers *v, struct server *s, bool up)
{
	bool was = s->up;

	s->up = up;
	if (was || up)
		v->on_state(v->arg, s);
}

static void lose_inode(struct servers *v, struct server *s)
{
	bool was = s->up;

	if (s->id.ino && !s->refused)
		s->past[s->n_past++ % SERVER_PAST] = s->id;
	fd_cleanup(&s->fd);
	s->fd = -1;
	s->id = (struct file_id){ 0 };
	s->refused = s->linkable = s->proved = false;
	s->quick_until_ns = 0;
	s->pid = 0;
	s->cgroup_id = 0;
	if (was)
		set_state(v, s, false);
}

static void refuse(struct servers *v, struct server *s, const char *why)
{
	if (!s->refused)
		log_warn("server.refused", LOG_U64("sid", s->sid), LOG_STR("path", s->path), LOG_STR("why", why));
	s->refused = true;
	if (s->up)
		set_state(v, s, false);
}

/* The directory of its socket: O_PATH. *ret_name is the path below it. */
static int open_dir(struct servers *v, const struct server *s, const char **ret_name)
{
	const char *slash;
	char sub[LIMIT_PATH_SIZE];
	AUTO_FD serve = -1;

	if (s->path[0] == '/')
		return path_open_parent_plain(s->path, ret_name);
	serve = files_open_serve(v->files, s->wid);
	slash = strrchr(s->path, '/');
	*ret_name = slash ? slash + 1 : s->path;
	if (serve < 0 || !slash)
		return take_fd(&serve);
	memcpy(sub, s->path, (size_t)(slash - s->path));
	sub[slash - s->path] = '\0';
	return path_open_beneath(serve, sub, O_PATH | O_DIRECTORY);
}

static void watch_dir(struct servers *v, struct server *s, int dirfd)
{
	char path[PATH_PROC_SIZE];

	path_of_fd(dirfd, path);
	s->wd = inotify_add_watch(v->inotify_fd, path, EVENTS);
	if (s->wd < 0 && errno == ENOSPC)
		log_warn("warden.inotify_full", LOG_STR("hint", "raise fs.inotify.max_user_watches"));
}

static bool is_other_service(struct servers *v, const struct server *s, const struct file_id *id)
{
	struct server *o, *next;

	HASH_ITER(hh, v->table, o, next)
		if (o != s && o->wid != s->wid && file_id_equal(&o->id, id))
			return true;
	return false;
}

static void take_inode(struct servers *v, struct server *s, int *fd, const struct file_id *id)
{
	lose_inode(v, s);
	s->fd = take_fd(fd);
	s->id = *id;
	s->linkable = files_can_link(v->files, s->fd);
	s->quick_until_ns = clock_ns() + QUICK_FOR_MS * 1000000ull;
	if (files_is_own_listener(v->files, id)) {
		refuse(v, s, "the socket is one of the daemon's own: a service cannot lead back to the daemon");
		return;
	}
	if (is_other_service(v, s, id))
		refuse(v, s, "the socket belongs to another workload's service");
}

/* Connect, and ask whose the other end is. Return: a socket, or negative errno. */
static int connect_and_check(struct servers *v, struct server *s, char *why)
{
	AUTO_FD sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct identity who;
	int r;

	if (sock < 0)
		return why_fail(why, -errno, "cannot make a socket");
	if (foreign_refuse(sock) < 0)
		foreign_tick_start();
	r = path_connect(sock, s->fd);
	if (r < 0)
		return why_fail(why, r, "cannot connect to the server's socket %s", s->path);
	r = identity_of_peer(sock, v->method, &who);
	if (r < 0 && s->wid == ROLE_NO_ID)
		who = (struct identity){ 0 }; /* the host's own server: nobody claims that it is in a workload */
	else if (r < 0)
		return why_fail(why, -EPERM, "the kernel cannot say which process listens at %s (%s)", s->path, log_errno_name(r));
	r = v->check_owner(v->arg, s->wid, &who, why);
	if (r < 0)
		return r;
	s->pid = (uint32_t)who.pid;
	s->cgroup_id = who.cgroup_id;
	s->proved = r == 0;
	return take_fd(&sock);
}

/* Only what was proved to be the workload's is changed: the container may have put anybody's socket there. */
static void set_access(const struct server *s)
{
	char proc[PATH_PROC_SIZE];

	path_of_fd(s->fd, proc);
	/* The owner first: chown may clear mode bits. */
	if ((s->uid >= 0 || s->gid >= 0) && fchownat(AT_FDCWD, proc, (uid_t)s->uid, (gid_t)s->gid, 0) < 0)
		log_warn("server.chown_failed", LOG_STR("path", s->path), LOG_STR("error", log_errno_name(errno)));
	if (s->mode >= 0 && fchmodat(AT_FDCWD, proc, (mode_t)s->mode & 0777, 0) < 0)
		log_warn("server.chmod_failed", LOG_STR("path", s->path), LOG_STR("error", log_errno_name(errno)));
}

static void bring_up(struct servers *v, struct server *s)
{
	if (s->proved)
		set_access(s);
	set_state(v, s, true);
}

static void probe(struct servers *v, struct server *s)
{
	char why[WARDEN_WHY_SIZE] = "";
	AUTO_FD sock = connect_and_check(v, s, why);

	if (sock == -EPERM)
		refuse(v, s, why);
	else if (sock >= 0)
		bring_up(v, s);
	else if (clock_ns() < s->quick_until_ns)
		arm(v->quick, QUICK_MS);
}

static void look(struct servers *v, struct server *s)
{
	const char *name;
	AUTO_FD dir = open_dir(v, s, &name);
	AUTO_FD fd = -1;
	struct file_id id;

	s->wd = -1;
	if (dir >= 0)
		watch_dir(v, s, dir); /* before the look: what happens after it is then not missed */
	if (dir >= 0)
		fd = path_open_socket(dir, name, &id);
	if (dir == -ELOOP && !s->told_link)
		log_warn("server.refused", LOG_U64("sid", s->sid), LOG_STR("path", s->path),
			 LOG_STR("why", "a part of the path is a symbolic link: somebody may point it elsewhere; name the real path"));
	s->told_link |= dir == -ELOOP;
	if (fd < 0) {
		lose_inode(v, s);
		return;
	}
	if (!file_id_equal(&id, &s->id))
		take_inode(v, s, &fd, &id);
	if (!s->up && !s->refused)
		probe(v, s);
}

/* ------------------------------------------------------------------ when to look */

static void look_at_all(struct servers *v)
{
	struct server *s, *next;

	HASH_ITER(hh, v->table, s, next)
		look(v, s);
}

static void look_at_watch(struct servers *v, int wd)
{
	struct server *s, *next;

	HASH_ITER(hh, v->table, s, next)
		if (s->wd == wd)
			look(v, s);
}

static void on_inotify(evutil_socket_t fd, short what, void *arg)
{
	struct servers *v = arg;
	char buf[INOTIFY_BUFFER_SIZE] __attribute__((aligned(__alignof__(struct inotify_event))));
	ssize_t n = read(fd, buf, sizeof(buf));
	int last_wd = -1;

	for (ssize_t at = 0; at < n;) {
		const struct inotify_event *e = (const struct inotify_event *)(const void *)(buf + at);

		at += (ssize_t)(sizeof(*e) + e->len);
		if (e->mask & IN_Q_OVERFLOW)
			look_at_all(v);
		else if (e->wd != last_wd)
			look_at_watch(v, e->wd);
		last_wd = e->wd;
	}
	event_del(v->on_change);
	arm(v->resume, QUICK_MS);
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
	struct servers *v = arg;

	if (event_add(v->on_change, NULL) < 0)
		log_error("warden.timer_failed", LOG_STR("error", "ENOMEM"));
}

static void on_quick(evutil_socket_t fd, short what, void *arg)
{
	struct servers *v = arg;
	struct server *s, *next;
	uint64_t now = clock_ns();

	HASH_ITER(hh, v->table, s, next)
		if (s->fd >= 0 && !s->up && !s->refused && now < s->quick_until_ns)
			look(v, s);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct servers *v = arg;
	struct server *s, *next;

	HASH_ITER(hh, v->table, s, next) {
		if (s->up && !path_has_listener(s->fd))
			set_state(v, s, false);
		if (!s->up || s->wd < 0)
			look(v, s);
	}
	arm(v->tick, TICK_MS);
}

int servers_open(struct servers *v, struct event_base *base, struct files *files)
{
	*v = (struct servers){ .base = base, .files = files, .method = identity_probe() };
	v->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (v->inotify_fd < 0)
		return -errno;
	v->on_change = event_new(base, v->inotify_fd, EV_READ | EV_PERSIST, on_inotify, v);
	v->resume = evtimer_new(base, on_resume, v);
	v->quick = evtimer_new(base, on_quick, v);
	v->tick = evtimer_new(base, on_tick, v);
	if (!v->on_change || !v->resume || !v->quick || !v->tick || event_add(v->on_change, NULL) < 0)
		return -ENOMEM;
	arm(v->tick, TICK_MS);
	return 0;
}

int servers_watch(struct servers *v, const struct role_server *m, char *why)
{
	struct server *s = servers_find(v, m->sid);

	if (m->path[0] != '/' && (!path_is_clean(m->path) || !files_workload(v->files, m->wid)))
		return why_fail(why, -EINVAL, "%s cannot be a server's socket path", m->path);
	if (!s) {
		s = calloc(1, sizeof(*s));
		if (!s)
			return why_fail(why, -ENOMEM, "no memory for the service at %s", m->path);
		s->v = v;
		s->sid = m->sid;
		s->fd = s->wd = -1;
		HASH_ADD_INT(v->table, sid, s);
	} else {
		lose_inode(v, s);
	}
	s->wid = m->wid;
	s->mode = m->mode;
	s->uid = m->uid;
	s->gid = m->gid;
	memcpy(s->path, m->path, sizeof(s->path));
	look(v, s);
	return 0;
}

void servers_recheck_workload(struct servers *v, uint32_t wid)
{
	struct server *s, *next;

	HASH_ITER(hh, v->table, s, next) {
		char why[WARDEN_WHY_SIZE] = "";
		struct identity who = { .pid = (pid_t)s->pid, .cgroup_id = s->cgroup_id };
		int r;

		if (s->wid != wid || s->fd < 0)
			continue;
		s->refused = false;
		r = s->up && s->cgroup_id ? v->check_owner(v->arg, wid, &who, why) : 1;
		if (r < 0) {
			refuse(v, s, why);
		} else if (r == 0 && !s->proved) {
			s->proved = true;
			bring_up(v, s);
		} else {
			look(v, s);
		}
	}
}

/* ------------------------------------------------------------------ connections */

static void connecting_end(struct servers *v, struct server *s, int sock, const char *why)
{
	struct connecting *c = s->waiting;
	uint32_t seq = c->seq;

	s->waiting = c->next;
	s->n_waiting--;
	v->n_connecting--;
	free(c);
	v->on_connected(v->arg, seq, s, sock < 0 ? sock : 0, sock < 0 ? -1 : sock, why);
}

/* Return: a socket or negative errno; -EAGAIN: its backlog is full. */
static int try_connect(struct servers *v, struct server *s, const struct file_id *id, char *why)
{
	int sock;

	if (s->fd < 0 || !s->up || s->refused || !file_id_equal(&s->id, id))
		return why_fail(why, -ECONNREFUSED, "the server's socket went away");
	sock = connect_and_check(v, s, why);
	if (sock == -EAGAIN)
		return why_fail(why, sock, "the server does not accept: its backlog is full");
	if (sock == -EPERM)
		refuse(v, s, why);
	else if (sock == -ECONNREFUSED)
		set_state(v, s, false); /* the next tick, or its next bind, looks again */
	return sock;
}

static bool arm_retry(struct server *s)
{
	struct timeval tv = ms_to_timeval(s->retry_ms);

	s->retry_ms = s->retry_ms * 2 > CONNECT_RETRY_LAST_MS ? CONNECT_RETRY_LAST_MS : s->retry_ms * 2;
	return s->retry && event_add(s->retry, &tv) == 0;
}

/* In the order in which they came. The first that finds no room speaks for those behind it, so a full backlog costs one try. */
static void serve_waiting(struct servers *v, struct server *s)
{
	bool full = false;

	while (s->waiting) {
		char why[WARDEN_WHY_SIZE] = "the server does not accept: its backlog is full";
		int sock = full ? -EAGAIN : try_connect(v, s, &s->waiting->id, why);

		full = sock == -EAGAIN;
		if (full && clock_ns() < s->waiting->deadline_ns && arm_retry(s))
			return;
		if (sock >= 0)
			s->retry_ms = CONNECT_RETRY_MS;
		connecting_end(v, s, sock, why);
	}
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	struct server *s = arg;

	serve_waiting(s->v, s);
}

/* Return: 0: in the queue, at its end; or negative errno. */
static int enqueue(struct servers *v, struct server *s, uint32_t seq)
{
	struct connecting *c, **last = &s->waiting;

	if (s->n_waiting >= WAITING_MAX)
		return -EAGAIN;
	if (!s->retry)
		s->retry = evtimer_new(v->base, on_retry, s);
	c = s->retry && v->n_connecting < CONNECTING_MAX ? calloc(1, sizeof(*c)) : NULL;
	if (!c)
		return -ENOBUFS;
	*c = (struct connecting){ .seq = seq, .id = s->id, .deadline_ns = clock_ns() + CONNECT_FOR_MS * 1000000ull };
	while (*last)
		last = &(*last)->next;
	*last = c;
	s->n_waiting++;
	v->n_connecting++;
	return 0;
}

void servers_connect(struct servers *v, uint32_t seq, uint32_t sid)
{
	struct server *s = servers_find(v, sid);
	bool first = s && !s->waiting;
	int r = s ? enqueue(v, s, seq) : -ECONNREFUSED;

	if (r < 0) {
		v->on_connected(v->arg, seq, s, r, -1, r == -ECONNREFUSED ? "the service is not known" :
				r == -EAGAIN ? "the server does not accept: its backlog is full, and so is the queue for it" :
				"too many connections wait for servers");
	} else if (first) {
		s->retry_ms = CONNECT_RETRY_MS;
		serve_waiting(v, s);
	}
}

static void server_free(struct servers *v, struct server *s)
{
	while (s->waiting)
		connecting_end(v, s, -ECONNREFUSED, "the service was taken out of the configuration");
	if (s->retry)
		event_free(s->retry);
	fd_cleanup(&s->fd);
	free(s);
}

void servers_forget(struct servers *v, uint32_t sid)
{
	struct server *s = servers_find(v, sid), *o, *next;
	int wd;

	if (!s)
		return;
	wd = s->wd;
	HASH_DEL(v->table, s);
	server_free(v, s);
	HASH_ITER(hh, v->table, o, next)
		if (o->wd == wd)
			return;
	if (wd >= 0)
		inotify_rm_watch(v->inotify_fd, wd);
}

void servers_close(struct servers *v)
{
	struct event *events[] = { v->on_change, v->resume, v->quick, v->tick };
	struct server *s, *next;

	HASH_ITER(hh, v->table, s, next) {
		HASH_DEL(v->table, s);
		server_free(v, s);
	}
	for (size_t i = 0; i < ARRAY_SIZE(events); i++)
		if (events[i])
			event_free(events[i]);
	fd_cleanup(&v->inotify_fd);
	v->inotify_fd = -1;
}
