#include "cli/probe.h"
#include "cli/cgroup.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/utsname.h>
#include <sys/wait.h>

enum { CAPTURE_TIMEOUT_MS = 5000 };

void finding_set(struct finding *f, enum finding_state state, const char *advice, const char *fmt, ...)
{
	va_list ap;

	f->state = state;
	snprintf(f->advice, sizeof(f->advice), "%s", advice);
	va_start(ap, fmt);
	vsnprintf(f->found, sizeof(f->found), fmt, ap);
	va_end(ap);
}

bool probe_kernel_at_least(unsigned major, unsigned minor)
{
	struct utsname u;
	unsigned have_major = 0, have_minor = 0;

	if (uname(&u) < 0 || sscanf(u.release, "%u.%u", &have_major, &have_minor) != 2)
		return false;
	return have_major > major || (have_major == major && have_minor >= minor);
}

static _Noreturn void capture_exec(int out, const char *const *argv)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDERR_FILENO);
	}
	dup2(out, STDOUT_FILENO);
	execvp(argv[0], (char *const *)argv);
	_exit(errno == ENOENT ? 127 : 126);
}

/* Reads to the end even when @buf is full, so that the program does not die of a closed pipe. Return: false after the time is up. */
static bool capture_read(int fd, char *buf, size_t size)
{
	uint64_t end = clock_ns() + CAPTURE_TIMEOUT_MS * 1000000ull;
	size_t n = 0;

	buf[0] = '\0';
	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		char scrap[4096];
		uint64_t now = clock_ns();
		ssize_t got;

		if (now >= end || poll(&p, 1, (int)((end - now) / 1000000) + 1) <= 0)
			return false;
		got = read(fd, n < size - 1 ? buf + n : scrap, n < size - 1 ? size - 1 - n : sizeof(scrap));
		if (got <= 0)
			return true;
		if (n < size - 1) {
			n += (size_t)got;
			buf[n] = '\0';
		}
	}
}

int probe_capture(char *buf, size_t size, const char *const *argv)
{
	int p[2], status;
	pid_t pid;
	bool done;

	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		capture_exec(p[1], argv);
	close(p[1]);
	if (pid < 0) {
		close(p[0]);
		return -EAGAIN;
	}
	done = capture_read(p[0], buf, size);
	close(p[0]);
	if (!done)
		kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (!done)
		return -ETIMEDOUT;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : WIFEXITED(status) && WEXITSTATUS(status) == 127 ? -ENOENT : -EIO;
}
