/*
 * Theory of operation: the server's end of a Unix connection carries the file that the server is bound to (sock_diag's
 * VFS attribute), so the connections to a server's inode can be told from all others, whatever name led there. Both
 * ends live in the client's network namespace, and sock_diag shows one namespace, so the namespaces of all enrolled
 * processes are asked in turn. Connections that wait in the backlog have no server's end yet; the listener lists them.
 *
 * Whose a client's end is, the guard knows, who saw the connect. Without it the server's end tells: the kernel keeps in it
 * which process connected. So the descriptors of the servers' own processes are read, and no client can make that slow.
 * They lead to namespaces that no enrolled process is in any more, too: each of their sockets names its own.
 *
 * What has no server's end yet, or was opened by a process that the kernel has forgotten, is asked of the clients:
 * /proc/PID/fd of each process in the workloads' cgroups. They can make that as slow as they like, so it has a budget,
 * and the next look goes on where this one stopped; nothing is judged to be nobody's before all have been asked. A lane
 * whose end no enrolled process opened or holds was passed on to somebody who has no right to it, or is the host's own use
 * of a host's server; the namespace tells the two apart, and only the first is cut.
 *
 * To cut is to shut down: one end's descriptor is borrowed from its process (pidfd_getfd), proved to be that very socket
 * by its inode number, and shut down, which ends both ends for everybody who holds them.
 *
 * A client may have kept the server's inode (an O_PATH descriptor, an open directory) from a time when it was allowed,
 * and connect again: where no kernel guard says no, lane watches look again, 10 ms after they found something and every 250 ms
 * when all is quiet. With a guard one more look is
 * enough: for a connect that had passed the guard, but was not yet to be seen, when the grant was taken back.
 */
#include "daemon/warden_lanes.h"

#include "base/foreign.h"
#include "base/log.h"
#include "daemon/warden_diag.h"
#include "guard/guard.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

/* Linux uapi, newer than the headers of stable distributions. */
#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif
#ifndef SIOCGSKNS
#define SIOCGSKNS 0x894C
#endif

enum {
	WATCH_FIRST_MS = 10,
	WATCH_MS = 250,
	WATCH_LATEST_MS = 900, /* a watch that costs much looks less often, but keeps the promise of a second */
	WATCH_COST = 5,	       /* at most a fifth of a core */
	BUDGET_MS = 300,       /* reading descriptors in one look: of the servers' processes, and of the clients' */
	BUDGET_SERVER_MS = 150, /* one of several servers */
	BUDGET_HIDDEN_MS = 150, /* borrowing the servers' other sockets, to see where they live */
	OWN_PRUNE_MIN = 64,
};

struct own_socket {
	uint32_t ino;
	bool seen;
	UT_hash_handle hh;
};

struct lane_watch {
	struct {
		uint32_t sid, wid;
	} key;
	struct file_id server; /* another inode needs no watch: nobody had a chance to keep it */
	bool told;	       /* once is enough for the log */
	bool once;	       /* only until a look had the time to see everything */
	UT_hash_handle hh;
};

/* One direct connection, while a scan runs. */
struct end {
	uint32_t sid, wid;
	uint32_t client_ino, server_ino; /* server_ino 0: not accepted yet */
	pid_t client_pid, server_pid;
	int client_fd, server_fd; /* numbers in those processes */
	uint32_t opener_pid;	  /* as the guard saw it; may be long gone */
	bool attributed;	  /* wid is who connected; else who holds it */
	bool nobody;		  /* who connected is known to be in no workload */
	bool own;		  /* the daemon's: a health check, or a relay's that an earlier daemon connected */
	bool foreign;		  /* its network namespace is not ours */
	bool over;		  /* shut down already, by us or by one of its ends: there is nothing to cut */
};

struct cookie {
	uint64_t cookie;
	uint32_t ino;
};

struct ino_ref {
	uint32_t ino;
	uint32_t end; /* index */
	bool client;
	UT_hash_handle hh;
};

struct pid_ref {
	pid_t pid;
	uint32_t wid;
};

/* A socket that a server's process holds. */
struct held {
	uint32_t ino;
	pid_t pid;
	int fd;
};

/* Clients' cgroups that were resolved in this look: thousands of lanes come from a few. */
struct known_cgroup {
	uint64_t id;
	uint32_t wid;
	bool gone; /* it cannot be told any more where it lay */
};

struct target {
	struct file_id id;
	uint32_t sid;
};

struct scan {
	struct lanes *n;
	uint32_t sid; /* ROLE_NO_ID: all */
	struct target *targets; /* by inode number */
	size_t n_targets;
	struct pid_ref *pids;
	size_t n_pids;
	ino_t *namespaces;
	size_t n_namespaces;
	uint64_t *net_cookies; /* the same namespaces, as their sockets name them */
	size_t n_net_cookies;
	struct held *held;
	size_t n_held;
	struct known_cgroup *known;
	size_t n_known;
	uint64_t deadline_ns;
	bool incomplete; /* the budget was not enough */
	bool stop;	 /* reading: all that was looked for is found */
	size_t n_open;	 /* ends whose holder is still looked for */
	struct end *ends;
	size_t n_ends;
	struct ino_ref *refs, *by_ino;
	struct cookie *cookies; /* of all that are connected; only with a guard */
	size_t n_cookies;
	bool foreign; /* the namespace that is being dumped */
};

/* Room for one more in a growing array; its size is a power of two whenever it is full. */
static void *grow(void *array, size_t n, size_t size)
{
	if (n & (n - 1))
		return array;
	return reallocarray(array, n ? n * 2 : 1, size);
}

#define PUSH(array, n, ...)                                              \
	({                                                               \
		__typeof__(array) grown_ = grow((array), (n), sizeof(*(array))); \
		if (grown_) {                                            \
			(array) = grown_;                                \
			(array)[(n)++] = (__typeof__(*(array)))__VA_ARGS__; \
		}                                                        \
		grown_ ? 0 : -ENOMEM;                                    \
	})

static void scan_cleanup(struct scan *s)
{
	HASH_CLEAR(hh, s->by_ino);
	free(s->targets);
	free(s->pids);
	free(s->namespaces);
	free(s->ends);
	free(s->refs);
	free(s->cookies);
	free(s->net_cookies);
	free(s->held);
	free(s->known);
}

/* ------------------------------------------------------------------ which servers, which processes */

static int compare_targets(const void *a, const void *b)
{
	uint32_t x = (uint32_t)((const struct target *)a)->id.ino, y = (uint32_t)((const struct target *)b)->id.ino;

	return x < y ? -1 : x > y;
}

static const struct target *find_id(const struct scan *s, uint32_t ino)
{
	struct target key = { .id.ino = ino };

	return s->n_targets ? bsearch(&key, s->targets, s->n_targets, sizeof(key), compare_targets) : NULL;
}

/* A number that was a server's before may be another's now (not on tmpfs): who has it now counts. */
static int add_past(struct scan *s, uint32_t sid)
{
	size_t n_current = s->n_targets;
	struct server *v, *next;

	HASH_ITER(hh, s->n->servers->table, v, next)
		for (unsigned i = 0; i < SERVER_PAST; i++) {
			struct scan current = { .targets = s->targets, .n_targets = n_current };

			if (v->past[i].ino && (sid == ROLE_NO_ID || v->sid == sid) &&
			    !find_id(&current, (uint32_t)v->past[i].ino) &&
			    PUSH(s->targets, s->n_targets, { .id = v->past[i], .sid = v->sid }) < 0)
				return -ENOMEM;
		}
	return 0;
}

static int add_targets(struct scan *s, uint32_t sid)
{
	struct server *v, *next;
	int r;

	HASH_ITER(hh, s->n->servers->table, v, next)
		if (v->fd >= 0 && !v->refused && PUSH(s->targets, s->n_targets, { .id = v->id, .sid = v->sid }) < 0)
			return -ENOMEM;
	if (s->n_targets)
		qsort(s->targets, s->n_targets, sizeof(*s->targets), compare_targets);
	r = add_past(s, sid);
	if (s->n_targets)
		qsort(s->targets, s->n_targets, sizeof(*s->targets), compare_targets);
	return r;
}

static const struct target *find_target(const struct scan *s, const struct diag_sock *d)
{
	const struct target *t = d->vfs_ino ? find_id(s, d->vfs_ino) : NULL;

	if (!t || (s->sid != ROLE_NO_ID && t->sid != s->sid))
		return NULL;
	return diag_vfs_equal(d, &t->id) ? t : NULL;
}

struct adding {
	struct scan *s;
	uint32_t wid;
};

static int add_pid(void *arg, pid_t pid)
{
	struct adding *a = arg;

	return PUSH(a->s->pids, a->s->n_pids, { .pid = pid, .wid = a->wid });
}

static int add_pids(struct scan *s, uint32_t wid)
{
	struct cgroup *c, *next;

	HASH_ITER(hh, s->n->cgroups->table, c, next) {
		struct adding a = { .s = s, .wid = c->wid };

		if ((wid == ROLE_NO_ID || c->wid == wid) && cgroups_each_pid(s->n->cgroups, c, add_pid, &a) < 0)
			return -ENOMEM;
	}
	return 0;
}

/* ------------------------------------------------------------------ which connections */

static bool is_own(struct scan *s, uint32_t ino)
{
	struct own_socket *o;

	HASH_FIND_INT(s->n->own, &ino, o);
	return o != NULL;
}

static int add_end(struct scan *s, const struct target *t, uint32_t client, uint32_t server, bool over)
{
	/* 0: the client closed its end and the server has not noticed yet */
	if (client == 0 || is_own(s, client))
		return 0;
	return PUSH(s->ends, s->n_ends, { .sid = t->sid, .wid = ROLE_NO_ID, .client_ino = client, .server_ino = server,
					  .client_fd = -1, .server_fd = -1, .foreign = s->foreign, .over = over });
}

static int on_socket(void *arg, const struct diag_sock *d)
{
	struct scan *s = arg;
	const struct target *t;
	struct own_socket *o;
	int r = 0;

	HASH_FIND_INT(s->n->own, &d->ino, o);
	if (o)
		o->seen = true;
	if (s->n->guard && d->state == DIAG_ESTABLISHED)
		r = PUSH(s->cookies, s->n_cookies, { .cookie = d->cookie, .ino = d->ino });
	t = r < 0 ? NULL : find_target(s, d);
	if (!t)
		return r;
	if (d->state == DIAG_ESTABLISHED)
		return add_end(s, t, d->peer, d->ino, d->shut);
	for (size_t i = 0; r == 0 && i < d->n_icons; i++)
		r = add_end(s, t, d->icons[i], 0, false);
	return r;
}

/* Return: its network namespace's cookie; 0: the kernel does not tell. */
static uint64_t net_cookie(int sock)
{
	uint64_t cookie = 0;
	socklen_t n = sizeof(cookie);

	return getsockopt(sock, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &n) == 0 ? cookie : 0;
}

static bool seen_cookie(const struct scan *s, uint64_t cookie)
{
	for (size_t i = 0; i < s->n_net_cookies; i++)
		if (s->net_cookies[i] == cookie)
			return true;
	return false;
}

static int dump(struct scan *s, int nl, bool foreign)
{
	if (PUSH(s->net_cookies, s->n_net_cookies, net_cookie(nl)) < 0)
		return -ENOMEM;
	s->foreign = foreign;
	return diag_dump(nl, 1u << DIAG_ESTABLISHED | 1u << DIAG_LISTEN, on_socket, s);
}

static int open_proc(pid_t pid, const char *name, int flags)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static bool seen_namespace(const struct scan *s, ino_t ino)
{
	for (size_t i = 0; i < s->n_namespaces; i++)
		if (s->namespaces[i] == ino)
			return true;
	return false;
}

/* A process that is gone, or a namespace that cannot be entered, only leaves its lanes out: they end with it. */
static int dump_namespace_at(struct scan *s, int ns)
{
	AUTO_FD nl = -1;
	struct file_id id;

	if (ns < 0 || path_id(ns, &id) < 0 || seen_namespace(s, id.ino))
		return 0;
	if (PUSH(s->namespaces, s->n_namespaces, id.ino) < 0)
		return -ENOMEM;
	nl = diag_open_ns(ns);
	return nl < 0 ? 0 : dump(s, nl, true);
}

static int dump_namespace_of(struct scan *s, pid_t pid)
{
	AUTO_FD ns = open_proc(pid, "ns/net", O_RDONLY);

	return dump_namespace_at(s, ns);
}

static int dump_namespace(void *arg, pid_t pid)
{
	return dump_namespace_of(arg, pid);
}

/* The servers' own namespaces, where their listeners tell who waits. */
static int dump_servers(struct scan *s)
{
	struct cgroup *c, *next;
	int r = 0;

	for (size_t i = 0; r == 0 && i < s->n_targets; i++) {
		const struct server *v = servers_find(s->n->servers, s->targets[i].sid);

		if (s->sid != ROLE_NO_ID && v->sid != s->sid)
			continue;
		if (v->pid)
			r = dump_namespace_of(s, (pid_t)v->pid);
		HASH_ITER(hh, s->n->cgroups->table, c, next)
			if (r == 0 && c->wid == v->wid && s->sid != ROLE_NO_ID)
				r = cgroups_each_pid(s->n->cgroups, c, dump_namespace, s);
	}
	return r;
}

static int dump_all(struct scan *s)
{
	AUTO_FD ns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	struct file_id own;
	int r;

	if (ns < 0 || path_id(ns, &own) < 0)
		return -errno;
	if (PUSH(s->namespaces, s->n_namespaces, own.ino) < 0)
		return -ENOMEM;
	r = dump(s, s->n->servers->files->nl, false);
	for (size_t i = 0; r == 0 && i < s->n_pids; i++)
		r = dump_namespace_of(s, s->pids[i].pid);
	return r == 0 ? dump_servers(s) : r;
}

/* A waiting connection is listed by the listener, in the server's namespace, so `foreign` says nothing about its client. */
static int index_ends(struct scan *s)
{
	HASH_CLEAR(hh, s->by_ino);
	free(take_ptr(s->refs));
	s->refs = s->n_ends ? calloc(s->n_ends * 2, sizeof(*s->refs)) : NULL;
	if (s->n_ends && !s->refs)
		return -ENOMEM;
	for (uint32_t i = 0; i < s->n_ends;) {
		struct ino_ref *c = &s->refs[2 * i], *v = c + 1, *twin;

		/* accepted between two dumps: it was listed as waiting and as open */
		HASH_FIND_INT(s->by_ino, &s->ends[i].client_ino, twin);
		if (twin) {
			s->ends[i] = s->ends[--s->n_ends];
			continue;
		}
		*c = (struct ino_ref){ .ino = s->ends[i].client_ino, .end = i, .client = true };
		*v = (struct ino_ref){ .ino = s->ends[i].server_ino, .end = i };
		HASH_ADD_INT(s->by_ino, ino, c);
		if (v->ino)
			HASH_ADD_INT(s->by_ino, ino, v);
		i++;
	}
	return 0;
}

/* ------------------------------------------------------------------ who opened them */

/* A client's socket that was made between two lines of the dump has no cookie here: then it is judged by who holds it. */
static void ask_guard(struct scan *s)
{
	for (size_t i = 0; i < s->n_cookies; i++) {
		const struct cookie *c = &s->cookies[i];
		struct guard_lane lane;
		struct ino_ref *ref;
		struct end *e;

		HASH_FIND_INT(s->by_ino, &c->ino, ref);
		if (!ref || !ref->client || guard_find_lane(s->n->guard, c->cookie, &lane) < 0)
			continue;
		e = &s->ends[ref->end];
		e->own = lane.exempt;
		e->opener_pid = lane.pid;
		e->attributed = lane.wid != GUARD_NO_ID; /* else the workload has been given up since */
		if (e->attributed)
			e->wid = lane.wid;
	}
}

/* ------------------------------------------------------------------ who holds them */

/* The pid was read from the cgroup a while ago: is it still that workload's? (It may be another process by now.) */
static bool pid_belongs(struct scan *s, const struct pid_ref *p)
{
	char path[LIMIT_PATH_SIZE], why[WARDEN_WHY_SIZE];
	struct identity who;
	uint32_t wid;

	if (p->wid == ROLE_NO_ID)
		return true;
	if (identity_of_pid(s->n->cgroups->mount_fd, p->pid, &who) < 0)
		return false;
	return cgroups_resolve(s->n->cgroups, who.cgroup_id, &wid, path, why) == 0 && wid == p->wid;
}

/* "socket:[123]" -> 123; 0: something else. */
static uint32_t socket_ino(int dirfd, const char *name)
{
	char text[64];
	ssize_t n = readlinkat(dirfd, name, text, sizeof(text) - 1);

	if (n <= 8 || memcmp(text, "socket:[", 8) != 0)
		return 0;
	text[n] = '\0';
	return (uint32_t)strtoul(text + 8, NULL, 10);
}

/* Where to go on in a process: the directory's own position. */
static long read_fds(struct scan *s, pid_t pid, long from, int (*fn)(struct scan *s, void *arg, uint32_t ino, int number),
		     void *arg)
{
	int fd = open_proc(pid, "fd", O_RDONLY | O_DIRECTORY);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;
	long at = 0;

	if (!dir) {
		fd_cleanup(&fd);
		return 0;
	}
	if (from)
		seekdir(dir, from);
	for (unsigned i = 1; (e = readdir(dir)); i++) {
		uint32_t ino = e->d_name[0] == '.' ? 0 : socket_ino(fd, e->d_name);

		if (ino && fn(s, arg, ino, (int)strtol(e->d_name, NULL, 10)) != 0)
			break;
		if (i % 256 == 0 && clock_ns() > s->deadline_ns) {
			at = telldir(dir);
			break;
		}
	}
	closedir(dir);
	return at;
}

static int compare_pids(const void *a, const void *b)
{
	pid_t x = ((const struct pid_ref *)a)->pid, y = ((const struct pid_ref *)b)->pid;

	return x < y ? -1 : x > y;
}

static void read_all_from(struct scan *s, struct lane_cursor *c, int (*fn)(struct scan *s, void *arg, uint32_t ino, int number))
{
	struct lane_cursor begun = *c;
	size_t n = s->n_pids, first = 0;

	while (first < n && s->pids[first].pid < c->pid)
		first++;
	/* Begun in the middle of a process, it is read again at the end, from its start. */
	for (size_t i = 0; i < n + (begun.at != 0); i++) {
		struct pid_ref *p = &s->pids[(first + i) % n];
		long at = read_fds(s, p->pid, i == 0 && p->pid == begun.pid ? begun.at : 0, fn, p);

		if (s->stop)
			return;
		if (at || clock_ns() > s->deadline_ns) {
			s->incomplete |= at || i + 1 < n + (begun.at != 0);
			*c = (struct lane_cursor){ .pid = p->pid + !at, .at = at };
			return;
		}
	}
	*c = (struct lane_cursor){ 0 };
}

/* All of s->pids in turn, from where the last look that ran out of time stopped; until s->stop. */
static void read_pids_from(struct scan *s, struct lane_cursor *c, int (*fn)(struct scan *s, void *arg, uint32_t ino, int number))
{
	s->stop = false;
	if (s->n_pids) {
		qsort(s->pids, s->n_pids, sizeof(*s->pids), compare_pids);
		read_all_from(s, c, fn);
	}
	s->n_pids = 0;
	free(take_ptr(s->pids));
}

static void set_deadline(struct scan *s, unsigned ms)
{
	s->deadline_ns = clock_ns() + ms * 1000000ull;
}

/* ------------------------------------------------------------------ the servers' ends */

static int keep_held(struct scan *s, void *arg, uint32_t ino, int number)
{
	struct pid_ref *p = arg;

	return PUSH(s->held, s->n_held, { .ino = ino, .pid = p->pid, .fd = number });
}

static int add_server_pids(struct scan *s, const struct server *v)
{
	struct adding a = { .s = s, .wid = ROLE_NO_ID };
	struct cgroup *c, *next;
	int r = 0;

	HASH_ITER(hh, s->n->cgroups->table, c, next)
		if (r == 0 && v->wid != ROLE_NO_ID && c->wid == v->wid)
			r = cgroups_each_pid(s->n->cgroups, c, add_pid, &a);
	if (r == 0 && s->n_pids == 0 && v->cgroup_id)
		r = cgroups_each_pid_of(s->n->cgroups, v->cgroup_id, add_pid, &a);
	if (r == 0 && s->n_pids == 0 && v->pid)
		r = add_pid(&a, (pid_t)v->pid);
	return r;
}

/* What the servers' processes hold. A server that holds very much delays the looks at itself, not those at others. */
static int read_servers(struct scan *s)
{
	uint64_t all_by = clock_ns() + BUDGET_MS * 1000000ull;
	struct server *v, *next;
	int r = 0;

	HASH_ITER(hh, s->n->servers->table, v, next) {
		if (v->fd < 0 || v->refused || (s->sid != ROLE_NO_ID && v->sid != s->sid))
			continue;
		r = add_server_pids(s, v);
		if (r < 0)
			return r;
		set_deadline(s, s->sid != ROLE_NO_ID ? BUDGET_MS : BUDGET_SERVER_MS);
		if (s->deadline_ns > all_by)
			s->deadline_ns = all_by;
		read_pids_from(s, &v->cursor, keep_held);
	}
	return 0;
}

static int borrow(pid_t pid, int number, uint32_t ino)
{
	AUTO_FD pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

	foreign_tick_start(); /* ours may be the last copy by the time it is closed, whatever it is */
	AUTO_FD sock = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);
	struct file_id id;

	if (sock < 0)
		return -errno;
	/* Anything may have happened to that number since: only the very socket will do. */
	if (path_id(sock, &id) < 0 || (uint32_t)id.ino != ino)
		return -ESTALE;
	return take_fd(&sock);
}

/* A Unix socket that no dump has shown lives in a namespace that nobody enrolled is in: a client made it and left. */
static int dump_hidden(struct scan *s, const struct held *h)
{
	static bool told;
	AUTO_FD sock = borrow(h->pid, h->fd, h->ino);
	AUTO_FD ns = -1;
	uint64_t cookie;
	int domain = 0;
	socklen_t n = sizeof(domain);

	if (sock < 0 || getsockopt(sock, SOL_SOCKET, SO_DOMAIN, &domain, &n) < 0 || domain != AF_UNIX)
		return 0;
	cookie = net_cookie(sock);
	if (cookie && seen_cookie(s, cookie))
		return 0;
	ns = ioctl(sock, SIOCGSKNS);
	if (ns < 0 && !told) {
		told = true;
		log_warn("lanes.hidden", LOG_STR("error", log_errno_name(errno)),
			 LOG_STR("why", "a server's connection lies in a network namespace that cannot be entered"));
	}
	return dump_namespace_at(s, ns);
}

static int find_hidden(struct scan *s)
{
	size_t n_dumped = s->n_namespaces;

	set_deadline(s, BUDGET_HIDDEN_MS);
	for (size_t i = 0; i < s->n_held; i++) {
		struct ino_ref *ref;

		HASH_FIND_INT(s->by_ino, &s->held[i].ino, ref);
		if (ref)
			continue;
		if (clock_ns() > s->deadline_ns) {
			s->incomplete = true;
			break;
		}
		if (dump_hidden(s, &s->held[i]) < 0)
			return -ENOMEM;
	}
	return s->n_namespaces > n_dumped ? index_ends(s) : 0;
}

static const struct known_cgroup *know_cgroup(struct scan *s, uint64_t id)
{
	char path[LIMIT_PATH_SIZE] = "", why[WARDEN_WHY_SIZE];
	struct known_cgroup k = { .id = id, .wid = ROLE_NO_ID };

	for (size_t i = 0; i < s->n_known; i++)
		if (s->known[i].id == id)
			return &s->known[i];
	if (cgroups_resolve(s->n->cgroups, id, &k.wid, path, why) < 0)
		k = (struct known_cgroup){ .id = id, .wid = ROLE_NO_ID, .gone = path[0] == '\0' };
	return PUSH(s->known, s->n_known, k) == 0 ? &s->known[s->n_known - 1] : NULL;
}

/* The server's end knows who connected, whoever holds the client's end by now. */
static void attribute(struct scan *s, struct end *e)
{
	AUTO_FD sock = borrow(e->server_pid, e->server_fd, e->server_ino);
	const struct known_cgroup *k;
	struct identity who;

	if (sock < 0 || identity_of_peer(sock, s->n->servers->method, &who) < 0)
		return;
	e->opener_pid = (uint32_t)who.pid;
	e->own |= who.pid == getpid();
	k = who.cgroup_id ? know_cgroup(s, who.cgroup_id) : NULL;
	if (!k || k->gone)
		return;
	e->wid = k->wid;
	e->attributed = k->wid != ROLE_NO_ID;
	e->nobody = !e->attributed;
}

static void attribute_all(struct scan *s)
{
	set_deadline(s, BUDGET_MS);
	for (size_t i = 0; i < s->n_held; i++) {
		const struct held *h = &s->held[i];
		struct ino_ref *ref;
		struct end *e;

		HASH_FIND_INT(s->by_ino, &h->ino, ref);
		if (!ref || ref->client || s->ends[ref->end].server_fd >= 0)
			continue;
		e = &s->ends[ref->end];
		e->server_pid = h->pid;
		e->server_fd = h->fd;
		if (e->attributed || e->own)
			continue;
		if (clock_ns() > s->deadline_ns)
			s->incomplete = true;
		else
			attribute(s, e);
	}
}

/* ------------------------------------------------------------------ the clients' ends */

/* Must its holder be found: to tell whose it is, or to have an end that can be shut down? */
static bool is_open_question(const struct end *e)
{
	return !e->own && e->client_fd < 0 && (e->server_fd < 0 || (!e->attributed && !e->nobody));
}

static int find_holder(struct scan *s, void *arg, uint32_t ino, int number)
{
	const struct pid_ref *p = arg;
	struct ino_ref *ref;
	struct end *e;

	HASH_FIND_INT(s->by_ino, &ino, ref);
	if (!ref || !ref->client)
		return 0;
	e = &s->ends[ref->end];
	if (!is_open_question(e))
		return 0;
	if (!pid_belongs(s, p))
		return 1; /* another process has that number by now */
	if (!e->attributed)
		e->wid = p->wid;
	e->client_pid = p->pid;
	e->client_fd = number;
	s->stop = --s->n_open == 0;
	return s->stop;
}

/* @wid: ask its processes first; then all, since it may be another workload's lane. */
static int find_holders(struct scan *s, uint32_t wid)
{
	int r = 0;

	s->n_open = 0;
	for (size_t i = 0; i < s->n_ends; i++)
		s->n_open += is_open_question(&s->ends[i]);
	set_deadline(s, BUDGET_MS);
	if (s->n_open && wid != ROLE_NO_ID) {
		r = add_pids(s, wid);
		if (r == 0)
			read_pids_from(s, &s->n->cursors[0], find_holder);
	}
	if (r == 0 && s->n_open && clock_ns() < s->deadline_ns) {
		r = add_pids(s, ROLE_NO_ID);
		if (r == 0)
			read_pids_from(s, &s->n->cursors[1], find_holder);
	}
	return r;
}

/* ------------------------------------------------------------------ scanning */

static int scan_run(struct scan *s, uint32_t wid)
{
	int r = add_targets(s, s->sid);

	if (r == 0)
		r = add_pids(s, wid);
	if (r == 0 && s->n_targets)
		r = dump_all(s);
	s->n_pids = 0;
	free(take_ptr(s->pids));
	if (r == 0)
		r = index_ends(s);
	if (r == 0)
		r = read_servers(s);
	if (r == 0)
		r = find_hidden(s);
	if (r < 0)
		return r;
	ask_guard(s);
	attribute_all(s);
	return find_holders(s, wid);
}

static void own_start(struct lanes *n)
{
	struct own_socket *o, *next;

	HASH_ITER(hh, n->own, o, next)
		o->seen = false;
}

static void own_prune(struct lanes *n)
{
	struct own_socket *o, *next;

	HASH_ITER(hh, n->own, o, next) {
		if (o->seen)
			continue;
		HASH_DEL(n->own, o);
		free(o);
	}
	n->n_own = n->n_own_kept = HASH_COUNT(n->own);
}

static int mark_own(void *arg, const struct diag_sock *d)
{
	struct lanes *n = arg;
	struct own_socket *o;

	HASH_FIND_INT(n->own, &d->ino, o);
	if (o)
		o->seen = true;
	return 0;
}

/* They are in our own namespace: one dump tells which are still there. At each doubling, so it costs next to nothing. */
static void own_check(struct lanes *n)
{
	if (n->n_own < 2 * n->n_own_kept + OWN_PRUNE_MIN)
		return;
	own_start(n);
	if (diag_dump(n->servers->files->nl, 1u << DIAG_ESTABLISHED, mark_own, n) == 0)
		own_prune(n);
}

void lanes_note_own(struct lanes *n, int sock)
{
	struct own_socket *o;
	struct file_id id;
	uint32_t ino;

	if (path_id(sock, &id) < 0)
		return;
	own_check(n);
	ino = (uint32_t)id.ino;
	HASH_FIND_INT(n->own, &ino, o);
	if (o || !(o = calloc(1, sizeof(*o))))
		return;
	o->ino = ino;
	HASH_ADD_INT(n->own, ino, o);
	n->n_own++;
}

int lanes_scan(struct lanes *n, void (*fn)(void *, const struct role_lane *), void *arg)
{
	AUTO(scan_cleanup) struct scan s = { .n = n, .sid = ROLE_NO_ID };
	int r, count = 0;

	own_start(n);
	r = scan_run(&s, ROLE_NO_ID);
	if (r < 0)
		return r;
	if (s.n_targets)
		own_prune(n);
	for (size_t i = 0; i < s.n_ends; i++) {
		const struct end *e = &s.ends[i];
		const struct server *v = servers_find(n->servers, e->sid);
		struct role_lane l = { .sid = e->sid, .wid = e->wid, .client_ino = e->client_ino, .server_ino = e->server_ino };

		if (e->own)
			continue;
		l.client_pid = e->client_pid ? (uint32_t)e->client_pid : e->opener_pid;
		l.server_pid = e->server_pid ? (uint32_t)e->server_pid : v ? v->pid : 0;
		fn(arg, &l);
		count++;
	}
	return count;
}

/* ------------------------------------------------------------------ cutting */

static int shut(pid_t pid, int number, uint32_t ino)
{
	AUTO_FD sock = borrow(pid, number, ino);

	if (sock < 0)
		return sock;
	return shutdown(sock, SHUT_RDWR) < 0 ? -errno : 0;
}

static bool is_to_cut(const struct scan *s, const struct end *e, const struct server *v, uint32_t wid)
{
	if (e->own || e->over)
		return false;
	if (e->wid != ROLE_NO_ID)
		return wid == ROLE_NO_ID || e->wid == wid;
	if (s->incomplete && !e->nobody)
		return false; /* it may be somebody's who was not asked yet */
	/* Nobody enrolled opened it or holds it. On a host's own socket, in the host's namespace, it is the host's own client. */
	return e->foreign || v->path[0] != '/';
}

static int cut_end(const struct end *e)
{
	int r = e->server_fd >= 0 ? shut(e->server_pid, e->server_fd, e->server_ino) : -ENOENT;

	if (r < 0 && e->client_fd >= 0)
		r = shut(e->client_pid, e->client_fd, e->client_ino);
	return r;
}

/* Return: how many were cut, or negative errno. */
static int cut_once(struct lanes *n, const struct server *v, uint32_t wid, bool *ret_incomplete)
{
	AUTO(scan_cleanup) struct scan s = { .n = n, .sid = v->sid };
	int r = scan_run(&s, wid), n_cut = 0;

	if (r < 0)
		return r;
	*ret_incomplete = s.incomplete;
	for (size_t i = 0; i < s.n_ends; i++) {
		const struct end *e = &s.ends[i];

		if (!is_to_cut(&s, e, v, wid))
			continue;
		r = cut_end(e);
		if (r == 0)
			n_cut++;
		else if (r != -ESRCH && r != -ENOENT && r != -ESTALE && r != -EBADF)
			log_warn("lane.cut_failed", LOG_U64("sid", e->sid), LOG_U64("client_ino", e->client_ino),
				 LOG_I64("pid", e->client_pid), LOG_STR("error", log_errno_name(r)));
	}
	return n_cut;
}

static void arm_tick(struct lanes *n, uint64_t cost_ns)
{
	uint64_t ms = cost_ns * WATCH_COST / 1000000u;
	struct timeval tv;

	ms = ms < n->watch_ms ? n->watch_ms : ms > WATCH_LATEST_MS ? WATCH_LATEST_MS : ms;
	tv = (struct timeval){ .tv_usec = (suseconds_t)ms * 1000 };
	if (n->watches && event_add(n->tick, &tv) < 0)
		log_error("warden.timer_failed", LOG_STR("error", "ENOMEM"));
}

static void watch_end(struct lanes *n, struct lane_watch *w)
{
	HASH_DEL(n->watches, w);
	free(w);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct lanes *n = arg;
	struct lane_watch *w, *next;
	uint64_t began = clock_ns();
	bool found = false;

	HASH_ITER(hh, n->watches, w, next) {
		const struct server *v = servers_find(n->servers, w->key.sid);
		bool incomplete = true;
		int r;

		if (!v || !file_id_equal(&v->id, &w->server)) {
			watch_end(n, w);
			continue;
		}
		r = cut_once(n, v, w->key.wid, &incomplete);
		if (r != 0 && !w->told)
			log_warn("lane.cut_again", LOG_U64("sid", w->key.sid), LOG_U64("wid", w->key.wid), LOG_I64("count", r),
				 LOG_STR("why", n->guard ? "it was being opened while the grant was taken back" :
						"a client kept the server's socket from a time when it was allowed"));
		found |= r > 0 || incomplete;
		w->told |= r != 0;
		if ((n->guard || w->once) && !incomplete)
			watch_end(n, w);
	}
	/* Who came back comes back again. */
	n->watch_ms = found ? WATCH_FIRST_MS : n->watch_ms * 2 > WATCH_MS ? WATCH_MS : n->watch_ms * 2;
	arm_tick(n, clock_ns() - began);
}

static int watch_begin(struct lanes *n, const struct server *v, uint32_t wid, bool once)
{
	struct lane_watch *w, key = { .key = { .sid = v->sid, .wid = wid } };

	HASH_FIND(hh, n->watches, &key.key, sizeof(key.key), w);
	if (!w) {
		w = calloc(1, sizeof(*w));
		if (!w)
			return -ENOMEM;
		w->key = key.key;
		w->once = once;
		HASH_ADD(hh, n->watches, key, sizeof(w->key), w);
	}
	w->server = v->id;
	w->once &= once;
	/* One that is just being looked for often is not put off by more of them. */
	if (n->watch_ms != WATCH_FIRST_MS || !event_pending(n->tick, EV_TIMEOUT, NULL)) {
		n->watch_ms = WATCH_FIRST_MS;
		arm_tick(n, 0);
	}
	return 0;
}

int lanes_cut(struct lanes *n, const struct role_cut *m)
{
	const struct server *v = servers_find(n->servers, m->sid);
	bool incomplete = false;
	int r, count;

	if (!v)
		return -ENOENT;
	count = cut_once(n, v, m->wid, &incomplete);
	if (count < 0 || (!m->watch && !incomplete) || v->fd < 0)
		return count;
	r = watch_begin(n, v, m->wid, !m->watch);
	return r < 0 ? r : count;
}

void lanes_forget(struct lanes *n, uint32_t sid, uint32_t wid)
{
	struct lane_watch *w, *next;

	HASH_ITER(hh, n->watches, w, next)
		if ((sid == ROLE_NO_ID || w->key.sid == sid) && (wid == ROLE_NO_ID || w->key.wid == wid))
			watch_end(n, w);
}

void lanes_allow(struct lanes *n, uint32_t sid, uint32_t wid)
{
	lanes_forget(n, sid, wid);
}

int lanes_open(struct lanes *n, struct event_base *base, struct cgroups *cgroups, struct servers *servers)
{
	*n = (struct lanes){ .cgroups = cgroups, .servers = servers };
	n->tick = evtimer_new(base, on_tick, n);
	return n->tick ? 0 : -ENOMEM;
}

void lanes_close(struct lanes *n)
{
	own_start(n);
	own_prune(n);
	lanes_forget(n, ROLE_NO_ID, ROLE_NO_ID);
	if (n->tick)
		event_free(n->tick);
}
