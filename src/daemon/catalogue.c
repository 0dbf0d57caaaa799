/*
 * Theory of operation: the role that talks to etcd. It takes the files that the warden opened for it, shuts itself in, and then hands
 * on what the broker says to one session (catalogue/session.c) and what the session learns to the broker. It decides nothing.
 *
 * Its bytes come from a network, through libcurl and OpenSSL: so it runs as the daemon's user, can open nothing but /etc (names are
 * resolved there), write nothing, and start nothing but the thread in which libcurl asks for a name.
 *
 * Before this file: broker_catalogue.c. After it: catalogue/session.c.
 */
#include "base/chan.h"
#include "base/isolate.h"
#include "base/log.h"
#include "catalogue/session.h"
#include "daemon/role_user.h"
#include "daemon/roles.h"

#include <netdb.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* What glibc's pthread_create() passes to clone(): a thread, never a process. */
enum { CLONE_FLAGS_OF_A_THREAD = 0x3d0f00, MSGS_PER_TURN = 64 };

struct catalogue {
	struct chan broker;
	struct session *session;
	struct session_file files[ETCD_FILE_N];
	bool ready, stop; /* ready: all files are here */
	int error;
};

static const struct isolate_call g_catalogue_calls[] = {
	/* libcurl's connections, and the resolver's */
	{ .name = "socket" }, { .name = "connect" }, { .name = "getsockname" }, { .name = "getpeername" }, { .name = "bind" },
	{ .name = "socketpair" }, { .name = "pipe2" }, { .name = "pipe" }, { .name = "eventfd2" }, { .name = "sendmmsg" },
	{ .name = "ioctl" }, { .name = "uname" }, { .name = "sysinfo" }, { .name = "select" }, { .name = "pselect6" },
	/* its files, below /etc only (Landlock) */
	{ .name = "openat" }, { .name = "open" }, { .name = "stat" }, { .name = "lstat" }, { .name = "statx" }, { .name = "access" },
	{ .name = "faccessat2" }, { .name = "pread64" }, { .name = "getdents64" }, { .name = "readlink" }, { .name = "getcwd" },
	/* its thread */
	{ .name = "clone3", .error = ENOSYS }, { .name = "clone", .arg = 1, .arg_value = CLONE_FLAGS_OF_A_THREAD },
	{ .name = "prctl", .arg = 1, .arg_value = PR_SET_NAME },
	{ .name = NULL },
};

static void catalogue_fail(struct catalogue *c, int error)
{
	c->stop = true;
	if (c->error == 0 && error != 0 && error != -EPIPE && error != -ECONNRESET) /* those mean that the broker left */
		c->error = error;
}

static void send_broker(struct catalogue *c, const struct role_msg *m)
{
	int r = role_send(&c->broker, m, -1);

	if (r < 0)
		catalogue_fail(c, r);
}

/* ------------------------------------------------------------------ what the session learns */

static void copy_text(char *dst, size_t size, const char *src)
{
	size_t n = strnlen(src, size - 1);

	memcpy(dst, src, n);
	dst[n] = '\0';
}

static void tell_state(void *arg, enum etcd_state state, const char *endpoint, const char *why)
{
	struct role_msg m = { .type = EB_STATE, .u.etcd_state.state = state };

	copy_text(m.u.etcd_state.endpoint, sizeof(m.u.etcd_state.endpoint), endpoint);
	copy_text(m.u.etcd_state.why, sizeof(m.u.etcd_state.why), why);
	send_broker(arg, &m);
}

static void tell_begin(void *arg, uint64_t cluster_id, uint64_t revision)
{
	struct role_msg m = { .type = EB_BEGIN, .u.etcd_range = { .cluster_id = cluster_id, .revision = revision } };

	send_broker(arg, &m);
}

static void tell_end(void *arg, uint64_t cluster_id, uint64_t revision)
{
	struct role_msg m = { .type = EB_END, .u.etcd_range = { .cluster_id = cluster_id, .revision = revision } };

	send_broker(arg, &m);
}

static void send_entry(struct catalogue *c, uint32_t type, enum etcd_entry_state state, uint64_t revision, const char *key, const char *value)
{
	struct role_msg m = { .type = type, .u.entry = { .state = state, .revision = revision } };

	copy_text(m.u.entry.key, sizeof(m.u.entry.key), key);
	copy_text(m.u.entry.value, sizeof(m.u.entry.value), value);
	send_broker(c, &m);
}

static void tell_entry(void *arg, enum etcd_entry_state state, uint64_t revision, const char *key, const char *value)
{
	send_entry(arg, EB_ENTRY, state, revision, key, value);
}

static void tell_taken(void *arg, const char *key, const char *value)
{
	send_entry(arg, EB_TAKEN, ETCD_ENTRY_PUT, 0, key, value);
}

static void tell_done(void *arg, uint32_t seq, int error, const char *why)
{
	struct role_msg m = { .type = EB_DONE, .seq = seq, .u.etcd_done.error = error };

	copy_text(m.u.etcd_done.why, sizeof(m.u.etcd_done.why), why);
	send_broker(arg, &m);
}

/* ------------------------------------------------------------------ what the broker says */

static int read_file(struct session_file *f, int fd)
{
	struct stat st;
	AUTO_FREE(char) text = NULL;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return -EBADF;
	if (st.st_size > LIMIT_ETCD_FILE_SIZE)
		return -EFBIG;
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return -ENOMEM;
	n = read(fd, text, (size_t)st.st_size);
	if (n < 0)
		return -errno;
	text[n] = '\0';
	free(f->text);
	f->size = (size_t)n;
	f->text = take_ptr(text);
	return 0;
}

/* A password is one line. */
static void trim_password(struct session_file *f)
{
	if (f->text)
		f->size = strcspn(f->text, "\r\n");
	if (f->text)
		f->text[f->size] = '\0';
}

static int make_session(struct catalogue *c)
{
	const struct session_events events = { .arg = c, .state = tell_state, .begin = tell_begin, .entry = tell_entry,
					       .end = tell_end, .taken = tell_taken, .done = tell_done };

	trim_password(&c->files[ETCD_FILE_PASSWORD]);
	return session_new(&c->session, c->files, &events);
}

static int on_own(struct catalogue *c, const struct role_etcd_entry *e)
{
	return session_own(c->session, e->key, e->state == ETCD_ENTRY_PUT ? e->value : NULL);
}

/* Files come first, so whatever else comes finds them complete. */
static int on_msg(struct catalogue *c, const struct role_msg *m, int fd)
{
	const struct role_etcd_entry *e = &m->u.entry;
	int r = 0;

	if (m->type == WE_FILE)
		return c->session ? -EBADMSG : read_file(&c->files[m->u.etcd_file.kind], fd);
	if (!c->session)
		r = make_session(c);
	if (r < 0)
		return r;
	if (m->type == BE_OWN)
		return on_own(c, e);
	if (m->type == BE_SETUP && !c->ready) {
		c->ready = true;
		session_start(c->session, &m->u.etcd);
	} else if (m->type == BE_WRITE) {
		session_write(c->session, m->seq, e->key, e->state == ETCD_ENTRY_PUT ? e->value : NULL);
	} else if (m->type == BE_ACCEPT) {
		session_accept(c->session, m->seq, e->value);
	} else {
		return -EBADMSG;
	}
	return 0;
}

static void read_broker(struct catalogue *c)
{
	for (int i = 0; i < MSGS_PER_TURN && !c->stop; i++) {
		struct role_msg m;
		AUTO_FD fd = -1;
		int r = role_recv(&c->broker, &m, &fd);

		if (r == -EAGAIN || r == -EINTR)
			return;
		if (r == 1)
			r = on_msg(c, &m, fd) == 0 ? 1 : -EBADMSG;
		if (r != 1)
			catalogue_fail(c, r);
	}
}

/* Until the first words there is no session to wait in. */
static int wait_without_session(struct pollfd *p)
{
	return poll(p, 1, -1) < 0 && errno != EINTR ? -errno : 0;
}

static void catalogue_turn(struct catalogue *c)
{
	struct pollfd p = { .fd = c->broker.fd, .events = (short)(POLLIN | (chan_wants_write(&c->broker) ? POLLOUT : 0)) };
	int r = c->session ? session_poll(c->session, &p, 1) : wait_without_session(&p);

	if (r == 0)
		r = chan_flush(&c->broker);
	if (r < 0)
		catalogue_fail(c, r);
	else
		read_broker(c);
}

/* What glibc loads when it first looks a name up lies outside /etc. */
static void warm_up_resolver(void)
{
	struct addrinfo *found = NULL;

	if (getaddrinfo("localhost", "1", NULL, &found) == 0)
		freeaddrinfo(found);
}

static int catalogue_isolate(const struct daemon_options *o)
{
	static const char *const dirs[] = { "/etc" };
	int r = role_leave_root(o->user);

	if (r < 0)
		return r;
	r = session_global();
	if (r < 0)
		return r;
	warm_up_resolver();
	r = isolate_paths(dirs, ARRAY_SIZE(dirs));
	return r < 0 ? r : isolate_calls(g_catalogue_calls);
}

int catalogue_main(const struct daemon_options *o)
{
	struct catalogue c = { .broker = { .fd = -1 } };
	int r;

	log_init("catalogue", o->verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO);
	signal(SIGPIPE, SIG_IGN);
	r = catalogue_isolate(o);
	if (r < 0) {
		log_error("catalogue.isolation_failed", LOG_STR("error", log_errno_name(r)));
		return EXIT_FAILURE;
	}
	chan_init(&c.broker, ROLE_CHANNEL_FD);
	while (!c.stop)
		catalogue_turn(&c);
	if (c.error)
		log_error("catalogue.failed", LOG_STR("error", log_errno_name(c.error)));
	session_free(c.session);
	for (size_t i = 0; i < ETCD_FILE_N; i++)
		free(c.files[i].text);
	chan_close(&c.broker);
	return c.error ? EXIT_FAILURE : EXIT_SUCCESS;
}
