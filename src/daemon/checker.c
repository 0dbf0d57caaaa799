/*
 * Theory of operation: the process that runs health check commands (configuration: check.args), because the broker that
 * asks for them must not be able to start programs and the warden must not be near them.
 *
 * A command runs in a process group of its own, with /dev/null as input, one pipe for both outputs, PATH as its only
 * environment variable, no other descriptor and without new privileges. The first bytes of what it prints are kept for
 * people, the rest is read and thrown away, so that a talkative command does not block. When it exits, or when its time is
 * over, the whole group is killed, so that nothing of it stays behind; the group cannot be somebody else's by then, since
 * its leader is reaped only afterwards. A command dies with the checker (PR_SET_PDEATHSIG).
 *
 * RUNS_MAX commands run at once, others wait in order. There is no system call filter: the commands would inherit it, and
 * what they need is the operator's business.
 *
 * Before this on a check's way: the broker's timer. After it: the service's health in broker_lane.c.
 */
#include "daemon/checker.h"

#include "base/chan.h"
#include "base/log.h"
#include "daemon/role_user.h"
#include "daemon/roles.h"
#include "wire/role.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/queue.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum {
	/* Commands at once; a host with more checks than that due at one moment runs them one after the other. */
	RUNS_MAX = 64,
	/* One waiting check per service is all that a sane broker asks for. */
	WAITING_MAX = LIMIT_SERVICES,
	/* When the configuration gives none: Consul's default for script checks. */
	DEFAULT_TIMEOUT_MS = 30000,
	/* Bytes of output read per turn and command. */
	READ_SIZE = 4096,
	STATUS_SIGNALLED = 128,
};

struct run {
	pid_t pid; /* 0: the slot is free */
	int pidfd; /* owned */
	int output; /* owned; -1: the command closed it */
	uint64_t deadline_ns;
	struct role_msg result; /* CB_RESULT as it grows */
	size_t n_output;
};

struct waiting {
	STAILQ_ENTRY(waiting) next;
	struct role_msg msg;
};

struct checker {
	struct chan broker;
	struct run runs[RUNS_MAX];
	size_t n_runs;
	STAILQ_HEAD(, waiting) queue;
	size_t n_waiting;
	int *start_errors; /* shared with the children, one word per slot: why execve() failed */
	bool stop;
	int error;
};

static void checker_fail(struct checker *c, int error)
{
	c->stop = true;
	if (c->error == 0 && error != -EPIPE && error != -ECONNRESET) /* those mean that the broker left */
		c->error = error;
}

static void checker_send(struct checker *c, const struct role_msg *m)
{
	int r = role_send(&c->broker, m, -1);

	if (r < 0)
		checker_fail(c, r);
}

static struct role_msg result_of(const struct role_msg *asked, int32_t status)
{
	return (struct role_msg){ .type = CB_RESULT, .seq = asked->seq,
				  .u.check_result = { .sid = asked->u.check.sid, .status = status } };
}

/* The words of the command line, in place. Return: false if there are fewer than promised, or none. */
static bool split_args(struct role_check *check, char **ret_argv)
{
	size_t at = 0;

	for (uint32_t i = 0; i < check->n_args; i++) {
		if (at >= sizeof(check->args))
			return false;
		ret_argv[i] = check->args + at;
		at += strlen(ret_argv[i]) + 1; /* the last byte is NUL: role_msg_check() */
	}
	ret_argv[check->n_args] = NULL;
	return check->n_args > 0 && ret_argv[0][0] != '\0';
}

/* In the child. Never returns. */
static void run_command(char **argv, int output, int *start_error, pid_t parent)
{
	char path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	char *env[] = { path, NULL };
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (getppid() != parent)
		_exit(127); /* it died before the line above */
	if (null >= 0 && dup2(null, STDIN_FILENO) >= 0 && dup2(output, STDOUT_FILENO) >= 0 && dup2(output, STDERR_FILENO) >= 0) {
		close_range(STDERR_FILENO + 1, ~0u, CLOSE_RANGE_CLOEXEC);
		environ = env; /* execvpe() looks PATH up here, not in its argument */
		execvpe(argv[0], argv, env);
	}
	*start_error = errno;
	_exit(127);
}

static int run_start(struct checker *c, struct run *run, struct role_msg *m)
{
	uint32_t timeout_ms = m->u.check.timeout_ms ? m->u.check.timeout_ms : DEFAULT_TIMEOUT_MS;
	int *start_error = &c->start_errors[run - c->runs];
	char *argv[LIMIT_CHECK_ARGS + 1];
	pid_t pid, self = getpid();
	AUTO_FD in = -1;
	AUTO_FD out = -1;
	int fds[2], pidfd;

	if (!split_args(&m->u.check, argv))
		return -EINVAL;
	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	in = fds[0];
	out = fds[1];
	fcntl(out, F_SETFL, O_WRONLY); /* only our end must not block */
	*start_error = 0;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0)
		run_command(argv, out, start_error, self);
	setpgid(pid, pid); /* here as well: whoever is first */
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0) {
		int r = -errno;

		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		return r;
	}
	*run = (struct run){ .pid = pid, .pidfd = pidfd, .output = take_fd(&in),
			     .deadline_ns = clock_ns() + timeout_ms * UINT64_C(1000000), .result = result_of(m, 0) };
	c->n_runs++;
	return 0;
}

static void run_read(struct run *run)
{
	struct role_check_result *res = &run->result.u.check_result;
	char buf[READ_SIZE];
	ssize_t n;

	if (run->output < 0)
		return;
	n = read(run->output, buf, sizeof(buf));
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		close(take_fd(&run->output));
		return;
	}
	for (ssize_t i = 0; i < n && run->n_output < sizeof(res->output) - 1; i++)
		res->output[run->n_output++] = buf[i] ? buf[i] : ' ';
}

/* Kill what is left of the command, reap it and free the slot. Return: its wait status. */
static int run_end(struct checker *c, struct run *run)
{
	int status = 0;

	kill(-run->pid, SIGKILL);
	if (waitpid(run->pid, &status, 0) < 0)
		status = 0;
	run_read(run); /* what it printed last */
	fd_cleanup(&run->output);
	close(take_fd(&run->pidfd));
	run->pid = 0;
	c->n_runs--;
	return status;
}

static void run_finish(struct checker *c, struct run *run, bool timed_out)
{
	int status = run_end(c, run);
	int32_t *res = &run->result.u.check_result.status;

	if (c->start_errors[run - c->runs])
		*res = -c->start_errors[run - c->runs];
	else if (timed_out)
		*res = -ETIMEDOUT;
	else
		*res = WIFEXITED(status) ? WEXITSTATUS(status) : STATUS_SIGNALLED + WTERMSIG(status);
	checker_send(c, &run->result);
}

static void checker_start(struct checker *c, struct role_msg *m)
{
	struct role_msg result;
	int r = -EAGAIN;

	for (size_t i = 0; i < RUNS_MAX; i++) {
		if (c->runs[i].pid == 0) {
			r = run_start(c, &c->runs[i], m);
			break;
		}
	}
	if (r < 0) {
		result = result_of(m, r);
		checker_send(c, &result);
	}
}

static void checker_enqueue(struct checker *c, const struct role_msg *m)
{
	struct waiting *w = c->n_waiting < WAITING_MAX ? malloc(sizeof(*w)) : NULL;
	struct role_msg result;

	if (!w) {
		result = result_of(m, -ENOBUFS);
		checker_send(c, &result);
		return;
	}
	w->msg = *m;
	STAILQ_INSERT_TAIL(&c->queue, w, next);
	c->n_waiting++;
}

static void checker_start_waiting(struct checker *c)
{
	while (c->n_runs < RUNS_MAX && !STAILQ_EMPTY(&c->queue)) {
		struct waiting *w = STAILQ_FIRST(&c->queue);

		STAILQ_REMOVE_HEAD(&c->queue, next);
		c->n_waiting--;
		checker_start(c, &w->msg);
		free(w);
	}
}

static void checker_read_channel(struct checker *c)
{
	struct role_msg m;
	int r;

	while (!c->stop) {
		AUTO_FD fd = -1;

		r = role_recv(&c->broker, &m, &fd);
		if (r == -EAGAIN)
			return;
		if (r == 1 && m.type == BC_RUN)
			checker_enqueue(c, &m);
		else
			checker_fail(c, r == 1 ? -EBADMSG : r);
	}
}

static int checker_timeout_ms(const struct checker *c)
{
	uint64_t due = UINT64_MAX, now = clock_ns();

	for (size_t i = 0; i < RUNS_MAX; i++)
		if (c->runs[i].pid && c->runs[i].deadline_ns < due)
			due = c->runs[i].deadline_ns;
	if (due == UINT64_MAX)
		return -1;
	if (due <= now)
		return 0;
	due = (due - now + 999999) / 1000000;
	return due > 60000 ? 60000 : (int)due; /* a longer one is waited for in parts */
}

/* The channel first, then two per run; poll() leaves out negative descriptors. */
static void checker_poll(struct checker *c, struct pollfd *p)
{
	p[0] = (struct pollfd){ .fd = c->broker.fd, .events = POLLIN };
	if (chan_wants_write(&c->broker))
		p[0].events |= POLLOUT;
	for (size_t i = 0; i < RUNS_MAX; i++) {
		bool on = c->runs[i].pid != 0;

		p[1 + 2 * i] = (struct pollfd){ .fd = on ? c->runs[i].pidfd : -1, .events = POLLIN };
		p[2 + 2 * i] = (struct pollfd){ .fd = on ? c->runs[i].output : -1, .events = POLLIN };
	}
	if (poll(p, 1 + 2 * RUNS_MAX, checker_timeout_ms(c)) < 0 && errno != EINTR)
		checker_fail(c, -errno);
}

static void checker_turn(struct checker *c)
{
	struct pollfd p[1 + 2 * RUNS_MAX];
	uint64_t now;
	int r;

	checker_poll(c, p);
	now = clock_ns();
	for (size_t i = 0; i < RUNS_MAX; i++) {
		struct run *run = &c->runs[i];

		if (!run->pid)
			continue;
		if (p[2 + 2 * i].revents)
			run_read(run);
		if (p[1 + 2 * i].revents)
			run_finish(c, run, false);
		else if (now >= run->deadline_ns)
			run_finish(c, run, true);
	}
	checker_read_channel(c);
	checker_start_waiting(c);
	r = chan_flush(&c->broker);
	if (r < 0)
		checker_fail(c, r);
}

static void checker_destroy(struct checker *c)
{
	struct waiting *w;

	for (size_t i = 0; i < RUNS_MAX; i++)
		if (c->runs[i].pid)
			(void)!run_end(c, &c->runs[i]);
	while ((w = STAILQ_FIRST(&c->queue))) {
		STAILQ_REMOVE_HEAD(&c->queue, next);
		free(w);
	}
	if (c->start_errors)
		munmap(c->start_errors, RUNS_MAX * sizeof(int));
	chan_close(&c->broker);
}

int checker_run(int channel_fd)
{
	static struct checker c; /* 64 messages are too much for a stack */
	void *shared = mmap(NULL, RUNS_MAX * sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	c = (struct checker){ .start_errors = shared == MAP_FAILED ? NULL : shared };
	STAILQ_INIT(&c.queue);
	chan_init(&c.broker, channel_fd);
	if (!c.start_errors)
		checker_fail(&c, -ENOMEM);
	while (!c.stop)
		checker_turn(&c);
	if (c.error)
		log_error("checker.failed", LOG_STR("error", log_errno_name(c.error)));
	checker_destroy(&c);
	return c.error;
}

int checker_main(const struct daemon_options *o)
{
	int r;

	log_init("checker", o->verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO);
	r = role_leave_root(o->user);
	if (r < 0) {
		log_error("checker.isolation_failed", LOG_STR("error", log_errno_name(r)));
		return EXIT_FAILURE;
	}
	return checker_run(ROLE_CHANNEL_FD) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
