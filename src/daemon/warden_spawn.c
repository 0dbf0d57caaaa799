/*
 * Theory of operation: poll() on two descriptors, the signals and the warden's channel. The launcher is the parent of
 * all roles but the keeper's successor-to-be (which outlives it on purpose), so it alone reaps them, and a pid that it
 * names is never anybody else's.
 *
 * When the warden ends, the channels of all other roles close with it and they exit by themselves; those that do not
 * within a second are killed, so that the next warden starts from nothing but files, cgroups and the keeper. It must
 * never: parse anything but a struct launch_msg, or open a path.
 */
#include "daemon/warden_spawn.h"

#include "base/log.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

enum {
	N_CHILDREN = LIMIT_GATES + LIMIT_LINKERS + 10, /* one that is restarted may overlap with the old one */
	BACKOFF_FIRST_MS = 100,
	BACKOFF_LAST_MS = 5000,
	STEADY_MS = 60000, /* so long without a failure: the next one starts from the first delay again */
	STOP_MS = 5000,	   /* the warden has that long to end in order */
	LEFTOVER_MS = 1000,
	MAX_ARGV = 2 * 16 + 16,
	CHANNEL_PARK_FD = 10, /* out of the way of the fixed numbers while they are set up */
};

struct child {
	pid_t pid; /* 0: free */
	uint32_t role, index;
};

struct launcher {
	const struct daemon_options *o;
	int exe_fd, lock_fd, signal_fd;
	struct chan warden;
	struct child children[N_CHILDREN];
	bool stopping;
	uint64_t stop_deadline_ns;
	int warden_status; /* as of the last one that ended */
};

static const char *const g_role_names[] = {
	[LAUNCH_WARDEN] = "warden", [LAUNCH_BROKER] = "broker",	  [LAUNCH_GATE] = "gate",
	[LAUNCH_PORTER] = "porter", [LAUNCH_CHECKER] = "checker", [LAUNCH_KEEPER] = "keeper",
	[LAUNCH_CATALOGUE] = "catalogue",
	[LAUNCH_LINKER] = "linker", [LAUNCH_SIGNER] = "signer",
};
static_assert(ARRAY_SIZE(g_role_names) == LAUNCH_ROLE_N, "a name for each role");

const char *launch_role_name(uint32_t role)
{
	return role < LAUNCH_ROLE_N ? g_role_names[role] : "unknown";
}

static pid_t read_lock_pid(int fd)
{
	char buf[32] = "";
	ssize_t n = pread(fd, buf, sizeof(buf) - 1, 0);

	return n > 0 ? (pid_t)strtol(buf, NULL, 10) : 0;
}

int launch_lock(const char *run_dir, pid_t *ret_pid)
{
	char path[PATH_MAX], text[32];
	AUTO_FD fd = -1;
	int n = snprintf(path, sizeof(path), "%s/sealaned.lock", run_dir);

	if (n < 0 || (size_t)n >= sizeof(path))
		return -ENAMETOOLONG;
	fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	/* After a kill -9 the roles of the old daemon need a moment to notice; a daemon that runs is told at once. */
	for (int i = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; i++) {
		pid_t pid = read_lock_pid(fd);

		if (errno != EWOULDBLOCK)
			return -errno;
		if (i >= 300 || (pid > 0 && (kill(pid, 0) == 0 || errno == EPERM) && i >= 20)) {
			*ret_pid = pid;
			return -EBUSY;
		}
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	}
	n = snprintf(text, sizeof(text), "%d\n", getpid());
	if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)n, 0) != n)
		return -errno;
	return take_fd(&fd);
}

/* ------------------------------------------------------------------ starting */

static size_t build_argv(const struct daemon_options *o, uint32_t role, char *role_arg, size_t size, const char **argv)
{
	size_t n = 0;

	snprintf(role_arg, size, "--role=%s", g_role_names[role]);
	argv[n++] = "sealaned";
	argv[n++] = role_arg;
	argv[n++] = "--run-dir";
	argv[n++] = o->run_dir;
	argv[n++] = "--state-dir";
	argv[n++] = o->state_dir;
	argv[n++] = "--user";
	argv[n++] = o->user;
	if (o->verbose)
		argv[n++] = "-v";
	for (size_t i = 0; i < o->n_config_paths; i++) {
		argv[n++] = "-c";
		argv[n++] = o->config_paths[i];
	}
	argv[n] = NULL;
	return n;
}

/* Only async-signal-safe calls: between fork and exec. */
static void exec_role(const struct launcher *l, uint32_t role, int channel, const char **argv)
{
	sigset_t none;
	int park = fcntl(channel, F_DUPFD_CLOEXEC, CHANNEL_PARK_FD);
	int lock = fcntl(l->lock_fd, F_DUPFD_CLOEXEC, CHANNEL_PARK_FD);
	int exe = fcntl(l->exe_fd, F_DUPFD_CLOEXEC, CHANNEL_PARK_FD);

	/* A terminal's Ctrl-C is for the launcher alone; the keeper leaves the session for good. */
	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (park < 0 || lock < 0 || exe < 0 || dup2(park, ROLE_CHANNEL_FD) < 0)
		_exit(127);
	if (role == LAUNCH_WARDEN && dup2(lock, LAUNCH_LOCK_FD) < 0)
		_exit(127);
	syscall(SYS_execveat, exe, "", argv, environ, AT_EMPTY_PATH);
	_exit(127);
}

static int spawn(struct launcher *l, uint32_t role, uint32_t index, int channel)
{
	const char *argv[MAX_ARGV];
	char role_arg[32];
	struct child *c = NULL;
	pid_t pid;

	for (size_t i = 0; i < N_CHILDREN && !c; i++)
		if (l->children[i].pid == 0)
			c = &l->children[i];
	if (!c)
		return -EAGAIN;
	build_argv(l->o, role, role_arg, sizeof(role_arg), argv);
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0)
		exec_role(l, role, channel, argv);
	*c = (struct child){ .pid = pid, .role = role, .index = index };
	log_info("role.started", LOG_STR("name", g_role_names[role]), LOG_U64("index", index), LOG_I64("pid", pid));
	return pid;
}

static int start_warden(struct launcher *l)
{
	AUTO_FD far = -1;
	int fds[2];
	int r = chan_pair(fds);

	if (r < 0)
		return r;
	far = fds[1];
	chan_init(&l->warden, fds[0]);
	r = spawn(l, LAUNCH_WARDEN, 0, far);
	return r < 0 ? r : 0;
}

/* ------------------------------------------------------------------ telling */

static void tell_warden(struct launcher *l, uint32_t what, uint32_t role, uint32_t index, int32_t value)
{
	struct launch_msg m = { .what = what, .role = role, .index = index, .value = value };

	/* A warden that is gone is noticed by its exit. */
	if (chan_send(&l->warden, &m, sizeof(m), -1) < 0)
		return;
}

/* sd_notify(3) by hand: one datagram; a leading '@' means an abstract name. */
static void notify_manager(const char *text)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	size_t n = path ? strlen(path) : 0;
	AUTO_FD fd = -1;

	if (n < 2 || n >= sizeof(sun.sun_path) || (path[0] != '/' && path[0] != '@'))
		return;
	memcpy(sun.sun_path, path, n);
	if (path[0] == '@')
		sun.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&sun,
			     (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)) < 0)
		log_warn("launcher.notify_failed", LOG_STR("error", log_errno_name(errno)));
}

static void on_warden_msg(struct launcher *l, const struct launch_msg *m, int fd)
{
	if (m->what == LAUNCH_READY) {
		notify_manager("READY=1");
	} else if (m->what == LAUNCH_SPAWN && m->role < LAUNCH_ROLE_N && m->role != LAUNCH_WARDEN && fd >= 0) {
		int r = spawn(l, m->role, m->index, fd);

		tell_warden(l, LAUNCH_STARTED, m->role, m->index, r);
	} else {
		log_error("launcher.unexpected_message", LOG_U64("what", m->what));
	}
}

static void read_warden(struct launcher *l)
{
	for (;;) {
		struct launch_msg m;
		AUTO_FD fd = -1;
		ssize_t n = chan_recv(&l->warden, &m, sizeof(m), &fd);

		if (n == -EAGAIN)
			return;
		if (n != (ssize_t)sizeof(m)) {
			chan_close(&l->warden); /* it is about to exit */
			return;
		}
		on_warden_msg(l, &m, fd);
	}
}

/* ------------------------------------------------------------------ ends */

static void on_child_exit(struct launcher *l, const struct child *c, int status)
{
	if (c->role == LAUNCH_WARDEN)
		l->warden_status = status;
	else
		tell_warden(l, LAUNCH_EXITED, c->role, c->index, status);
	/* 0: whoever it belongs to has closed its channel, as the broker does with a linker that it replaces. */
	if (!l->stopping)
		LOG_EVENT(WIFEXITED(status) && WEXITSTATUS(status) == 0 ? LOG_LEVEL_INFO : LOG_LEVEL_WARNING, "role.exited",
			  LOG_STR("name", g_role_names[c->role]), LOG_U64("index", c->index), LOG_I64("status", WIFEXITED(status) ? WEXITSTATUS(status) : -1),
			  LOG_I64("signal", WIFSIGNALED(status) ? WTERMSIG(status) : 0));
}

static void reap(struct launcher *l)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		for (size_t i = 0; i < N_CHILDREN; i++) {
			struct child c = l->children[i];

			if (c.pid != pid)
				continue;
			l->children[i].pid = 0;
			on_child_exit(l, &c, status);
		}
	}
}

static bool is_running(const struct launcher *l, bool warden)
{
	for (size_t i = 0; i < N_CHILDREN; i++) {
		const struct child *c = &l->children[i];

		if (c->pid && c->role != LAUNCH_KEEPER && (c->role == LAUNCH_WARDEN) == warden)
			return true;
	}
	return false;
}

static void on_signals(struct launcher *l)
{
	struct signalfd_siginfo si;

	while (read(l->signal_fd, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
		if (si.ssi_signo == SIGHUP)
			tell_warden(l, LAUNCH_RELOAD, 0, 0, 0);
		if ((si.ssi_signo == SIGTERM || si.ssi_signo == SIGINT) && !l->stopping) {
			l->stopping = true;
			l->stop_deadline_ns = clock_ns() + STOP_MS * 1000000ull;
			notify_manager("STOPPING=1");
			tell_warden(l, LAUNCH_STOP, 0, 0, 0);
		}
	}
	reap(l);
}

static void turn(struct launcher *l, int timeout_ms)
{
	struct pollfd p[2] = {
		{ .fd = l->signal_fd, .events = POLLIN },
		{ .fd = l->warden.fd, .events = (short)(POLLIN | (chan_wants_write(&l->warden) ? POLLOUT : 0)) },
	};

	if (poll(p, 2, timeout_ms) <= 0)
		return;
	if (p[1].revents & POLLOUT && chan_flush(&l->warden) < 0)
		chan_close(&l->warden);
	if (p[1].revents & (POLLIN | POLLHUP | POLLERR))
		read_warden(l);
	if (p[0].revents)
		on_signals(l);
}

static void kill_all(struct launcher *l, bool warden)
{
	for (size_t i = 0; i < N_CHILDREN; i++) {
		const struct child *c = &l->children[i];

		if (c->pid && c->role != LAUNCH_KEEPER && (c->role == LAUNCH_WARDEN) == warden)
			kill(c->pid, SIGKILL);
	}
}

/* Until the warden has ended and everything that lived by it. */
static void run_once(struct launcher *l)
{
	uint64_t deadline;

	while (is_running(l, true)) {
		turn(l, l->stopping ? 100 : -1);
		if (l->stopping && clock_ns() > l->stop_deadline_ns)
			kill_all(l, true);
	}
	chan_close(&l->warden);
	deadline = clock_ns() + LEFTOVER_MS * 1000000ull;
	while (is_running(l, false)) {
		turn(l, 50);
		if (clock_ns() > deadline)
			kill_all(l, false);
	}
}

static void wait_ms(struct launcher *l, unsigned ms)
{
	uint64_t end = clock_ns() + ms * 1000000ull;

	for (uint64_t now; !l->stopping && (now = clock_ns()) < end;)
		turn(l, (int)((end - now) / 1000000u) + 1);
}

static int launcher_open(struct launcher *l)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGCHLD);
	signal(SIGPIPE, SIG_IGN);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	l->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	/* By descriptor: after an upgrade of the package the running daemon still restarts the roles that fit it. */
	l->exe_fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	return l->signal_fd < 0 || l->exe_fd < 0 ? -errno : 0;
}

static void raise_descriptor_limit(void)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) < 0)
		return;
	rl.rlim_cur = rl.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &rl) < 0)
		log_warn("launcher.limit", LOG_STR("error", log_errno_name(errno)));
}

int launch_main(const struct daemon_options *o, int lock_fd)
{
	struct launcher l = { .o = o, .lock_fd = lock_fd, .exe_fd = -1, .signal_fd = -1, .warden = { .fd = -1 } };
	unsigned delay_ms = BACKOFF_FIRST_MS;
	int r = launcher_open(&l);

	raise_descriptor_limit();
	while (r == 0 && !l.stopping) {
		uint64_t began = clock_ns();

		r = start_warden(&l);
		if (r < 0)
			break;
		run_once(&l);
		if (WIFEXITED(l.warden_status) && WEXITSTATUS(l.warden_status) == LAUNCH_EXIT_CONFIG)
			return LAUNCH_EXIT_CONFIG;
		if (l.stopping)
			break;
		if (clock_ns() - began > STEADY_MS * 1000000ull)
			delay_ms = BACKOFF_FIRST_MS;
		log_error("launcher.restarting", LOG_U64("delay_ms", delay_ms));
		wait_ms(&l, delay_ms);
		delay_ms = delay_ms * 2 > BACKOFF_LAST_MS ? BACKOFF_LAST_MS : delay_ms * 2;
	}
	if (r < 0)
		log_error("launcher.failed", LOG_STR("error", log_errno_name(r)));
	return r < 0 ? 1 : 0;
}
