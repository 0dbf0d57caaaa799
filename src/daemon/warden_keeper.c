#include "daemon/warden_keeper.h"

#include "base/log.h"
#include "daemon/warden_path.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

enum { FETCH_MS = 10000 };

int keeper_connect(struct keeper_link *k, int run_fd)
{
	AUTO_FD sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct file_id id;
	AUTO_FD file = path_open_socket(run_fd, "keeper.sock", &id);
	int r;

	*k = (struct keeper_link){ .chan = { .fd = -1 } };
	if (sock < 0)
		return -errno;
	if (file < 0)
		return file;
	r = path_connect(sock, file);
	if (r < 0)
		return r;
	chan_init(&k->chan, take_fd(&sock));
	return 0;
}

int keeper_listen(int run_fd)
{
	AUTO_FD sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	int r;

	if (sock < 0)
		return -errno;
	if (unlinkat(run_fd, "keeper.sock", 0) < 0 && errno != ENOENT)
		return -errno;
	r = path_bind(sock, run_fd, "keeper.sock");
	if (r < 0)
		return r;
	if (listen(sock, 4) < 0)
		return -errno;
	return take_fd(&sock);
}

int kept_put(struct kept **table, const char *name, int fd)
{
	size_t n = strlen(name);
	struct kept *i;

	kept_remove(table, name);
	i = calloc(1, sizeof(*i) + n + 1);
	if (!i) {
		close(fd);
		return -ENOMEM;
	}
	memcpy(i->name, name, n + 1);
	i->fd = fd;
	HASH_ADD_KEYPTR(hh, *table, i->name, n, i);
	return 0;
}

static int kept_take(struct kept **table, struct kept *i)
{
	int fd = i->fd;

	HASH_DEL(*table, i);
	free(i);
	return fd;
}

void kept_remove(struct kept **table, const char *name)
{
	struct kept *i = NULL;

	HASH_FIND_STR(*table, name, i);
	if (i)
		close(kept_take(table, i));
}

/* What was said before may still be queued here, the request itself with it: the keeper answers only what it got. */
static int fetch_wait(struct keeper_link *k)
{
	struct pollfd p = { .fd = k->chan.fd, .events = (short)(POLLIN | (chan_wants_write(&k->chan) ? POLLOUT : 0)) };
	int r = poll(&p, 1, FETCH_MS);

	if (r <= 0)
		return r == 0 ? -ETIMEDOUT : errno == EINTR ? 1 : -errno;
	r = p.revents & POLLOUT ? chan_flush(&k->chan) : 0;
	return r < 0 ? r : 1;
}

/* Return: 1: go on; 0: that was all; negative errno. */
static int fetch_one(struct keeper_link *k)
{
	struct role_msg m;
	AUTO_FD fd = -1;
	int r = role_recv(&k->chan, &m, &fd);

	if (r == -EAGAIN || r == -EINTR)
		return fetch_wait(k);
	if (r <= 0)
		return r < 0 ? r : -EPIPE;
	if (m.type == KW_END)
		return 0;
	if (m.type != KW_ITEM)
		return -EBADMSG;
	r = fd >= 0 ? kept_put(&k->kept, m.u.store.name, take_fd(&fd)) : 0;
	return r < 0 ? r : 1;
}

int keeper_fetch(struct keeper_link *k)
{
	struct role_msg m = { .type = WK_FETCH };
	int r = role_send(&k->chan, &m, -1);

	if (r < 0)
		return r;
	do
		r = fetch_one(k);
	while (r > 0);
	return r;
}

int keeper_take(struct keeper_link *k, const char *name)
{
	struct kept *i = NULL;

	HASH_FIND_STR(k->kept, name, i);
	return i ? kept_take(&k->kept, i) : -1;
}

int keeper_claim(struct keeper_link *k, const char *prefix, struct kept **table)
{
	struct kept *i, *next, *known;
	int r = 0;

	HASH_ITER(hh, k->kept, i, next) {
		if (strncmp(i->name, prefix, strlen(prefix)) != 0)
			continue;
		HASH_FIND_STR(*table, i->name, known);
		HASH_DEL(k->kept, i);
		if (known)
			close(i->fd);
		else
			r = kept_put(table, i->name, i->fd);
		free(i);
		if (r < 0)
			return r;
	}
	return 0;
}

static int tell(struct keeper_link *k, uint32_t type, const char *name, int fd)
{
	struct role_msg m = { .type = type };

	if (!str_copy(m.u.store.name, sizeof(m.u.store.name), name))
		return -ENAMETOOLONG;
	return role_send(&k->chan, &m, fd);
}

int keeper_store(struct keeper_link *k, const char *name, int fd)
{
	return tell(k, WK_STORE, name, fd);
}

int keeper_drop(struct keeper_link *k, const char *name)
{
	return tell(k, WK_DROP, name, -1);
}

int keeper_set_grace(struct keeper_link *k, uint32_t grace_ms)
{
	struct role_msg m = { .type = WK_GRACE, .u.grace.grace_ms = grace_ms };

	return role_send(&k->chan, &m, -1);
}

static void forget_rest(struct keeper_link *k, bool tell_keeper)
{
	struct kept *i, *next;

	HASH_ITER(hh, k->kept, i, next) {
		if (tell_keeper && keeper_drop(k, i->name) < 0)
			log_warn("warden.keeper_lost", LOG_STR("name", i->name));
		close(kept_take(&k->kept, i));
	}
}

void keeper_drop_rest(struct keeper_link *k)
{
	forget_rest(k, true);
}

void keeper_close(struct keeper_link *k)
{
	forget_rest(k, false);
	chan_close(&k->chan);
}
