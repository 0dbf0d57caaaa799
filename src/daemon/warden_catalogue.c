/*
 * Theory of operation: the catalogue's role may open nothing but /etc, and the broker is not to see etcd's key and password. So the
 * warden opens those files, unread, and puts them into the role's channel before anybody else has an end of it. What is started
 * anew reads them anew; an old catalogue ends when the broker closes the channel to it, so there may be two for a moment, and
 * `run` tells whose end it is that the launcher reports.
 *
 * Before this file: broker_catalogue.c. After it: catalogue.c, on_msg().
 */
#include "daemon/warden_catalogue.h"

#include "base/log.h"
#include "daemon/warden.h"

#include <fcntl.h>
#include <sys/stat.h>

enum { DELAY_FIRST_MS = 100, DELAY_LAST_MS = 5000, STEADY_MS = 10000 };

static int open_file(const char *path, char *why)
{
	AUTO_FD fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return why_fail(why, -errno, "etcd: cannot open %s: %s", path, log_errno_name(errno));
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return why_fail(why, -EINVAL, "etcd: %s is no ordinary file", path);
	if (st.st_size > LIMIT_ETCD_FILE_SIZE)
		return why_fail(why, -EFBIG, "etcd: %s is larger than a certificate, key or password can be", path);
	return take_fd(&fd);
}

/* Into @c, which is the broker's end: the role finds them there first. */
static int put_files(struct warden *w, struct chan *c, char *why)
{
	for (uint32_t kind = 0; kind < ETCD_FILE_N; kind++) {
		struct role_msg m = { .type = WE_FILE, .u.etcd_file.kind = kind };
		AUTO_FD fd = -1;
		int r;

		if (!w->catalogue.paths[kind][0])
			continue;
		fd = open_file(w->catalogue.paths[kind], why);
		if (fd < 0)
			return fd;
		r = role_send(c, &m, fd);
		if (r < 0)
			return why_fail(why, r, "etcd: the catalogue's channel: %s", log_errno_name(r));
	}
	return 0;
}

static int start(struct warden *w, char *why)
{
	struct role_msg m = { .type = WB_CATALOGUE };
	AUTO_FD role_end = -1;
	struct chan broker_end;
	int fds[2], r = chan_pair(fds);

	if (r < 0)
		return why_fail(why, r, "etcd: no channel: %s", log_errno_name(r));
	chan_init(&broker_end, fds[0]);
	role_end = fds[1];
	r = put_files(w, &broker_end, why);
	if (r == 0) {
		w->catalogue.run++;
		w->catalogue.started_ns = clock_ns();
		r = warden_spawn(w, LAUNCH_CATALOGUE, w->catalogue.run, role_end);
	}
	if (r == 0)
		warden_tell_broker(w, &m, broker_end.fd);
	chan_close(&broker_end);
	return r;
}

static void later(struct warden *w)
{
	struct warden_catalogue *c = &w->catalogue;
	struct timeval tv;

	if (clock_ns() - c->started_ns > STEADY_MS * UINT64_C(1000000))
		c->delay_ms = DELAY_FIRST_MS;
	tv = (struct timeval){ .tv_sec = c->delay_ms / 1000, .tv_usec = (suseconds_t)(c->delay_ms % 1000) * 1000 };
	if (event_add(c->restart, &tv) < 0)
		log_error("warden.timer_failed", LOG_STR("error", "ENOMEM"));
	c->delay_ms = c->delay_ms * 2 > DELAY_LAST_MS ? DELAY_LAST_MS : c->delay_ms * 2;
}

static void on_restart(evutil_socket_t fd, short what, void *arg)
{
	struct warden *w = arg;
	char why[WARDEN_WHY_SIZE] = "";

	if (!w->catalogue.wanted || w->stopping || w->broker.fd < 0)
		return;
	if (start(w, why) < 0) {
		log_warn("catalogue.not_started", LOG_STR("why", why));
		later(w);
	}
}

int warden_catalogue_open(struct warden *w)
{
	w->catalogue.delay_ms = DELAY_FIRST_MS;
	w->catalogue.restart = evtimer_new(w->base, on_restart, w);
	return w->catalogue.restart ? 0 : -ENOMEM;
}

int warden_catalogue_set_file(struct warden *w, const struct role_etcd_file *f)
{
	memcpy(w->catalogue.paths[f->kind], f->path, sizeof(f->path));
	return 0;
}

int warden_catalogue_want(struct warden *w, bool wanted, char *why)
{
	int r;

	w->catalogue.wanted = wanted;
	if (!wanted)
		return 0;
	event_del(w->catalogue.restart);
	r = start(w, why);
	if (r < 0)
		later(w); /* a file may yet come */
	return r;
}

void warden_catalogue_exited(struct warden *w, uint32_t run)
{
	struct role_msg gone = { .type = WB_CATALOGUE };

	if (run != w->catalogue.run || !w->catalogue.wanted || w->stopping)
		return;
	warden_tell_broker(w, &gone, -1);
	later(w);
}
