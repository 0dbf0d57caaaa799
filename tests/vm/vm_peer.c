/*
 * A server and a client for tests/vm/daemon.sh, since the test machine has no other program that can do the last of these.
 *
 *   vm_peer serve PATH   answer each line on PATH with "+PONG", as Redis answers "PING"
 *   vm_peer ping PATH    connect, "PING", print the answer; or "closed", or what connect(2) said ("EACCES")
 *   vm_peer hold PATH    keep PATH by an O_PATH descriptor, connect, print "open ANSWER"; when the lane ends, "cut MS";
 *                        for each line of input connect once more through the descriptor and print "again ANSWER"
 *   vm_peer now          print the clock that MS is of
 *
 * Exit status 0: there was an answer from a server.
 */
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { ANSWER_SIZE = 64, WAIT_MS = 20000 };

static struct sockaddr_un address(const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };

	if (!str_copy(sa.sun_path, sizeof(sa.sun_path), path)) {
		fprintf(stderr, "vm_peer: path too long: %s\n", path);
		exit(2);
	}
	return sa;
}

/* Return: a connected socket whose server has answered, or -1; @answer says what happened. */
static int ping(const char *path, char *answer)
{
	struct sockaddr_un sa = address(path);
	AUTO_FD fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	ssize_t n;

	if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		snprintf(answer, ANSWER_SIZE, "%s", strerrorname_np(errno));
		return -1;
	}
	n = send(fd, "PING\r\n", 6, MSG_NOSIGNAL);
	if (n == 6 && poll(&p, 1, WAIT_MS) == 1)
		n = recv(fd, answer, ANSWER_SIZE - 1, 0);
	else if (n == 6)
		n = snprintf(answer, ANSWER_SIZE, "no answer");
	if (n <= 0) {
		snprintf(answer, ANSWER_SIZE, "closed");
		return -1;
	}
	answer[n] = '\0';
	answer[strcspn(answer, "\r\n")] = '\0';
	return strcmp(answer, "+PONG") == 0 ? take_fd(&fd) : -1;
}

static int verb_ping(const char *path)
{
	char answer[ANSWER_SIZE];
	AUTO_FD fd = ping(path, answer);

	puts(answer);
	return fd < 0;
}

static void print_now(const char *what)
{
	printf("%s%llu\n", what, (unsigned long long)(clock_ns() / 1000000));
}

static int verb_hold(const char *path)
{
	char answer[ANSWER_SIZE], kept_path[64], line[16];
	AUTO_FD kept = open(path, O_PATH | O_CLOEXEC);
	AUTO_FD lane = ping(path, answer);
	struct pollfd p[2] = { { .fd = lane, .events = POLLIN }, { .fd = STDIN_FILENO, .events = POLLIN } };

	snprintf(kept_path, sizeof(kept_path), "/proc/self/fd/%d", kept);
	printf("open %s\n", answer);
	while (poll(p, 2, -1) > 0) {
		if (p[0].revents) {
			print_now("cut ");
			p[0].fd = -1;
		}
		if (p[1].revents) {
			AUTO_FD again = -1;

			if (read(STDIN_FILENO, line, sizeof(line)) <= 0)
				return 0;
			again = ping(kept_path, answer);
			printf("again %s\n", answer);
		}
	}
	return 1;
}

static int serve_one(int fd)
{
	char line[256];

	while (recv(fd, line, sizeof(line), 0) > 0)
		if (send(fd, "+PONG\r\n", 7, MSG_NOSIGNAL) != 7)
			break;
	return 0;
}

static int verb_serve(const char *path)
{
	struct sockaddr_un sa = address(path);
	AUTO_FD fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	signal(SIGCHLD, SIG_IGN); /* nobody waits for the children */
	umask(0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(fd, 64) < 0) {
		perror("vm_peer serve");
		return 1;
	}
	for (;;) {
		AUTO_FD client = accept(fd, NULL, NULL);

		if (client >= 0 && fork() == 0)
			_exit(serve_one(client));
	}
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (strcmp(verb, "now") == 0)
		print_now("");
	else if (argc == 3 && strcmp(verb, "ping") == 0)
		return verb_ping(argv[2]);
	else if (argc == 3 && strcmp(verb, "hold") == 0)
		return verb_hold(argv[2]);
	else if (argc == 3 && strcmp(verb, "serve") == 0)
		return verb_serve(argv[2]);
	else
		return 2;
	return 0;
}
