/*
 * Theory of operation: a listening socket is bound to a file of its own, RUN/l/HASH.sock (or a hidden file beside an
 * upstream with an absolute path), gets its mode and owner there, and only then begins to listen and is linked to the
 * name that clients use. That name can later be linked to a server's socket instead (files_route()) and back, while the
 * socket's own file stays where it is: a listener whose last name is gone could not be linked again.
 *
 * After a restart the keeper hands the same socket back. It is adopted only if it still listens, is of the type that is asked for,
 * and its file is still there, so that a client's open path, a bind mount or a waiting connection in its backlog never notices.
 */
#include "base/foreign.h"
#include "base/log.h"
#include "daemon/warden_diag.h"
#include "daemon/warden_files.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/socket.h>

enum { BACKLOG = 4096 }; /* the kernel takes no more than net.core.somaxconn, 4096 by default */

/* Where a listener's two names are: its own, and the one that clients use. */
struct place {
	int own_dir, dir; /* O_PATH, owned */
	char own_name[40];
	const char *name; /* points into the BW_LISTEN path */
};

static void place_cleanup(struct place *p)
{
	fd_cleanup(&p->own_dir);
	fd_cleanup(&p->dir);
}

static uint64_t fnv1a(const char *s)
{
	uint64_t h = 0xcbf29ce484222325u;

	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 0x100000001b3u;
	return h;
}

int files_key(struct files *f, const struct role_listen *l, char *buf, size_t size)
{
	const struct workload_dir *d;
	int n;

	if (l->lid == ROLE_NO_ID)
		n = snprintf(buf, size, "admin");
	else if (l->path[0] == '/')
		n = snprintf(buf, size, "%s", l->path);
	else if (!path_is_clean(l->path) || strncmp(l->path, "serve/", 6) == 0 || strcmp(l->path, "serve") == 0)
		return -EINVAL; /* serve/ is the container's: a name of ours there could be anything a moment later */
	else if (!(d = files_workload(f, l->wid)))
		return -ENOENT;
	else
		n = snprintf(buf, size, "w/%s/%s", d->name, l->path);
	return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

static int open_target_dir(struct files *f, const char *key, const char **ret_name)
{
	const char *slash = strrchr(key, '/');
	char dir[LIMIT_PATH_SIZE];

	if (key[0] == '/')
		return path_open_parent(key, ret_name);
	if (!slash) {
		*ret_name = "admin.sock";
		return path_open_beneath(f->run_fd, ".", O_PATH | O_DIRECTORY);
	}
	memcpy(dir, key, (size_t)(slash - key));
	dir[slash - key] = '\0';
	*ret_name = slash + 1;
	return path_make_dirs(f->run_fd, dir);
}

static int place_open(struct files *f, const char *key, struct place *p)
{
	*p = (struct place){ .own_dir = -1, .dir = -1 };
	p->dir = open_target_dir(f, key, &p->name);
	if (p->dir < 0)
		return p->dir;
	/* Links cannot cross file systems, so outside of RUN the socket's own file lies beside its name. */
	if (key[0] == '/') {
		snprintf(p->own_name, sizeof(p->own_name), ".%016" PRIx64 ".sealane", fnv1a(key));
		p->own_dir = path_open_beneath(p->dir, ".", O_PATH | O_DIRECTORY);
	} else {
		snprintf(p->own_name, sizeof(p->own_name), "%016" PRIx64 ".sock", fnv1a(key));
		p->own_dir = path_open_beneath(f->l_fd, ".", O_PATH | O_DIRECTORY);
	}
	return p->own_dir < 0 ? p->own_dir : 0;
}

static bool is_listening(int fd, uint32_t wanted_type)
{
	int on = 0, type = 0;
	socklen_t n = sizeof(on);

	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &n) < 0 || !on)
		return false;
	n = sizeof(type);
	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) == 0 && type == (int)wanted_type;
}

/* What the keeper held. Return: O_PATH descriptor of its file; -1: there is nothing that can be adopted. */
static int adopt(struct files *f, const char *key, const struct place *p, struct listener *l)
{
	AUTO_FD kept = f->take_kept ? f->take_kept(f->keep_arg, key) : -1;
	AUTO_FD file = -1;

	if (kept < 0)
		return -1;
	file = path_open_socket(p->own_dir, p->own_name, &l->id);
	if (file < 0 || !is_listening(kept, l->type) || !diag_is_bound_to(f->nl, kept, &l->id)) {
		log_info("warden.not_adopted", LOG_STR("socket", key));
		l->id = (struct file_id){ 0 };
		return -1;
	}
	l->fd = take_fd(&kept);
	return take_fd(&file);
}

static int make_socket(struct files *f, const struct place *p, struct listener *l, char *why)
{
	AUTO_FD sock = socket(AF_UNIX, (int)l->type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	AUTO_FD file = -1;
	int r;

	if (sock < 0)
		return why_fail(why, -errno, "cannot make a socket");
	/* The gate takes no descriptors; one that is adopted was made so, or the gate sees that it was not. */
	if (l->type == SOCK_STREAM && foreign_refuse(sock) < 0)
		log_debug("warden.no_passrights", LOG_STR("then", "the gate ticks"));
	if (unlinkat(p->own_dir, p->own_name, 0) < 0 && errno != ENOENT)
		return why_fail(why, -errno, "cannot replace an old socket file");
	r = path_bind(sock, p->own_dir, p->own_name);
	if (r < 0)
		return why_fail(why, r, "cannot bind a socket in the directory of %s", l->path);
	file = path_open_socket(p->own_dir, p->own_name, &l->id);
	/* In a directory that others write, the name may already lead elsewhere: then its mode is not ours to change. */
	if (file < 0 || !diag_is_bound_to(f->nl, sock, &l->id))
		return why_fail(why, file < 0 ? file : -ESTALE, "somebody replaced the new socket beside %s", l->path);
	l->fd = take_fd(&sock);
	return take_fd(&file);
}

/* Is what lies at the name ours to replace? Ours or nobody's socket: yes; a file or somebody's live socket: no. */
static int check_occupant(struct files *f, const struct place *p, const struct listener *l, char *why)
{
	struct file_id id;
	AUTO_FD fd = path_open_socket(p->dir, p->name, &id);

	if (l->key[0] != '/' || fd == -ENOENT)
		return 0; /* below RUN all is ours */
	if (fd < 0)
		return why_fail(why, -EEXIST, "%s exists and is not a socket", l->path);
	if (file_id_equal(&id, &l->id) || file_id_equal(&id, &l->placed) || !path_has_listener(fd))
		return 0;
	return why_fail(why, -EADDRINUSE, "%s is the socket of a running server", l->path);
}

/* Only what leads to us, or to what we placed, is removed: outside of RUN the name may be somebody else's by now. */
static void remove_name(int dirfd, const char *name, const struct listener *l)
{
	struct stat st;
	struct file_id id;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return;
	id = (struct file_id){ .dev = st.st_dev, .ino = st.st_ino };
	if ((file_id_equal(&id, &l->id) || file_id_equal(&id, &l->placed)) && unlinkat(dirfd, name, 0) < 0 && errno != ENOENT)
		log_error("warden.remove_failed", LOG_STR("name", name), LOG_STR("error", log_errno_name(errno)));
}

/* Without room for a second name there may be room once the first is gone; without even that it leads nowhere. */
static int place_own(struct listener *l, const struct place *p, char *why)
{
	struct file_id id;
	AUTO_FD own = path_open_socket(p->own_dir, p->own_name, &id);
	int r = -ESTALE;

	if (own >= 0 && file_id_equal(&id, &l->id)) {
		r = path_place(own, p->dir, p->name);
		if (r == 0) {
			l->placed = id;
			return 0;
		}
	}
	/* Below RUN all is ours: what an earlier daemon placed there as well. */
	if (l->key[0] == '/')
		remove_name(p->dir, p->name, l);
	else if (unlinkat(p->dir, p->name, 0) < 0 && errno != ENOENT)
		log_error("warden.remove_failed", LOG_STR("name", l->key), LOG_STR("error", log_errno_name(errno)));
	if (r != -ESTALE && path_place(own, p->dir, p->name) == 0) {
		l->placed = id;
		return 0;
	}
	return why_fail(why, r, r == -ESTALE ? "somebody removed the socket file of %s" : "cannot place %s", l->key);
}

static int set_up(struct files *f, const struct role_listen *m, const struct place *p, struct listener *l, char *why)
{
	AUTO_FD file = adopt(f, l->key, p, l);
	bool adopted = file >= 0;
	int r;

	if (!adopted)
		file = make_socket(f, p, l, why);
	if (file < 0)
		return file;
	r = path_set_access(file, m->mode, m->uid, m->gid);
	if (r < 0)
		return why_fail(why, r, "cannot set mode and owner of %s", l->path);
	if (listen(l->fd, BACKLOG) < 0)
		return why_fail(why, -errno, "cannot listen on %s", l->path);
	r = check_occupant(f, p, l, why);
	if (r < 0)
		return r;
	r = place_own(l, p, why);
	if (r < 0)
		return r;
	if (!adopted && f->keep)
		f->keep(f->keep_arg, l->key, l->fd);
	return 0;
}

static void listener_free(struct listener *l)
{
	if (!l)
		return;
	fd_cleanup(&l->fd);
	free(l->path);
	free(l->key);
	free(l);
}

static void listener_cleanup(struct listener **l)
{
	listener_free(*l);
}

static struct listener *listener_new(const struct role_listen *m, const char *key)
{
	struct listener *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	*l = (struct listener){ .lid = m->lid, .wid = m->wid, .type = m->type, .fd = -1, .path = strdup(m->path), .key = strdup(key) };
	if (l->path && l->key)
		return l;
	listener_free(l);
	return NULL;
}

static int listen_new(struct files *f, const struct role_listen *m, const char *key, struct listener **ret_l, char *why)
{
	AUTO(place_cleanup) struct place p = { .own_dir = -1, .dir = -1 };
	AUTO(listener_cleanup) struct listener *l = listener_new(m, key);
	int r;

	if (!l)
		return why_fail(why, -ENOMEM, "no memory for %s", key);
	r = place_open(f, l->key, &p);
	if (r < 0)
		return why_fail(why, r, "cannot open the directory of %s", key);
	r = set_up(f, m, &p, l, why);
	if (r < 0) {
		if (l->fd >= 0)
			unlinkat(p.own_dir, p.own_name, 0);
		if (f->drop)
			f->drop(f->keep_arg, l->key);
		return r;
	}
	HASH_ADD_INT(f->listeners, lid, l);
	HASH_ADD_KEYPTR(hh_key, f->by_key, l->key, strlen(l->key), l);
	HASH_ADD(hh_id, f->by_id, id, sizeof(l->id), l);
	*ret_l = take_ptr(l);
	return 0;
}

/* The same socket, told again: perhaps with another mode or owner. What its name leads to stays. */
static int listen_again(struct files *f, const struct role_listen *m, struct listener *l, char *why)
{
	AUTO(place_cleanup) struct place p = { .own_dir = -1, .dir = -1 };
	AUTO_FD file = -1;
	struct file_id id;
	int r = place_open(f, l->key, &p);

	if (r < 0)
		return why_fail(why, r, "cannot open the directory of %s", l->key);
	file = path_open_socket(p.own_dir, p.own_name, &id);
	if (file < 0 || !file_id_equal(&id, &l->id))
		return why_fail(why, -ESTALE, "somebody removed the socket file of %s", l->key);
	r = path_set_access(file, m->mode, m->uid, m->gid);
	return r < 0 ? why_fail(why, r, "cannot set mode and owner of %s", l->key) : 0;
}

int files_listen(struct files *f, const struct role_listen *m, int *ret_fd, char *why)
{
	struct listener *l, *other = NULL;
	char key[LIMIT_PATH_SIZE];
	int r = files_key(f, m, key, sizeof(key));

	if (r < 0)
		return why_fail(why, r, r == -ENOENT ? "workload of %s is unknown" : "%s cannot be a socket's path", m->path);
	HASH_FIND_INT(f->listeners, &m->lid, l);
	HASH_FIND(hh_key, f->by_key, key, strlen(key), other);
	if (other && other != l)
		return why_fail(why, -EEXIST, "%s is listened on already", key);
	if (l && other == l && l->type == m->type) {
		r = listen_again(f, m, l, why);
		if (r == 0)
			*ret_fd = l->fd;
		if (r != -ESTALE)
			return r;
	}
	if (l && (r = files_unlisten(f, l->lid, why)) < 0)
		return r;
	r = listen_new(f, m, key, &l, why);
	if (r == 0)
		*ret_fd = l->fd;
	return r;
}

int files_unlisten(struct files *f, uint32_t lid, char *why)
{
	AUTO(place_cleanup) struct place p = { .own_dir = -1, .dir = -1 };
	AUTO(listener_cleanup) struct listener *l = NULL;

	HASH_FIND_INT(f->listeners, &lid, l);
	if (!l)
		return why_fail(why, -ENOENT, "there is no listener number %u", lid);
	HASH_DELETE(hh_key, f->by_key, l);
	HASH_DELETE(hh_id, f->by_id, l);
	HASH_DEL(f->listeners, l);
	if (place_open(f, l->key, &p) == 0) {
		remove_name(p.dir, p.name, l);
		remove_name(p.own_dir, p.own_name, l);
	}
	if (f->drop)
		f->drop(f->keep_arg, l->key);
	return 0;
}

static int route_to_gate(struct files *f, struct listener *l, char *why)
{
	AUTO(place_cleanup) struct place p = { .own_dir = -1, .dir = -1 };
	bool told = l->unplaced;
	int r = place_open(f, l->key, &p);

	if (r == 0)
		r = place_own(l, &p, why);
	else
		why_fail(why, r, "cannot open the directory of %s", l->key);
	l->unplaced = r < 0;
	if (r < 0 && !told)
		log_error("warden.name_removed", LOG_STR("socket", l->key), LOG_STR("error", log_errno_name(r)), LOG_STR("why", why),
			  LOG_STR("then", "it leads nowhere until the gate's socket can be placed; tried every second"));
	else if (r == 0 && told)
		log_info("warden.name_placed", LOG_STR("socket", l->key));
	return r;
}

bool files_retry(struct files *f)
{
	struct listener *l, *next;
	char why[WARDEN_WHY_SIZE];
	bool again = false;

	HASH_ITER(hh, f->listeners, l, next)
		if (l->unplaced && route_to_gate(f, l, why) < 0)
			again = true;
	return again;
}

int files_route(struct files *f, uint32_t lid, int server_fd, char *why)
{
	AUTO(place_cleanup) struct place p = { .own_dir = -1, .dir = -1 };
	struct listener *l;
	struct file_id id;
	int r;

	HASH_FIND_INT(f->listeners, &lid, l);
	if (!l)
		return why_fail(why, -ENOENT, "there is no listener number %u", lid);
	if (server_fd < 0)
		return route_to_gate(f, l, why);
	r = place_open(f, l->key, &p);
	if (r < 0)
		return why_fail(why, r, "cannot open the directory of %s", l->key);
	if (!path_same_mount(p.dir, server_fd))
		return why_fail(why, -EXDEV, "the server's socket is on another file system or mount than %s", l->key);
	r = path_id(server_fd, &id);
	if (r == 0)
		r = path_place(server_fd, p.dir, p.name);
	if (r < 0)
		return why_fail(why, r, "cannot switch %s", l->key);
	l->placed = id;
	l->unplaced = false;
	return 0;
}

bool files_is_own_listener(struct files *f, const struct file_id *id)
{
	struct listener *l = NULL;

	HASH_FIND(hh_id, f->by_id, id, sizeof(*id), l);
	return l != NULL;
}
