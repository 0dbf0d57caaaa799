/*
 * The kernel's own: Unix stream socket, pipe, TCP over loopback, POSIX message queue. Spinning is O_NONBLOCK in a loop.
 * Unix socket and pipe get as much room as a lane's ring; TCP_NODELAY.
 */
#include "ipc.h"

#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MQ_MESSAGES = 10 };

static int g_in[2], g_out[2]; /* by side */

static inline bool again(void)
{
	return errno == EAGAIN || errno == EINTR;
}

static inline void stream_put(struct ipc_run *run)
{
	for (size_t done = 0; done < run->size;) {
		ssize_t n = write(g_out[run->side], run->buf + done, run->size - done);

		if (n > 0)
			done += (size_t)n;
		else if (!again())
			ipc_die("write: %s", strerror(errno));
	}
}

static inline void stream_get(struct ipc_run *run)
{
	for (size_t done = 0; done < run->size;) {
		ssize_t n = read(g_in[run->side], run->buf + done, run->size - done);

		if (n > 0)
			done += (size_t)n;
		else if (n == 0 || !again())
			ipc_die("read: %s", n == 0 ? "the end" : strerror(errno));
	}
}

static inline void mq_put(struct ipc_run *run)
{
	while (mq_send(g_out[run->side], run->buf, run->size, 0) < 0) {
		if (!again())
			ipc_die("mq_send: %s", strerror(errno));
	}
}

static inline void mq_get(struct ipc_run *run)
{
	while (mq_receive(g_in[run->side], run->buf, run->size, NULL) < 0) {
		if (!again())
			ipc_die("mq_receive: %s", strerror(errno));
	}
}

IPC_LOOPS(stream, stream_put, ipc_no_flush, stream_get)
IPC_LOOPS(queue, mq_put, ipc_no_flush, mq_get)

static void stream_loops(const struct ipc_run *run, ipc_loop **client, ipc_loop **server)
{
	IPC_PICK(stream, run, client, server);
}

static void queue_loops(const struct ipc_run *run, ipc_loop **client, ipc_loop **server)
{
	IPC_PICK(queue, run, client, server);
}

static void set_mode(const struct ipc_run *run)
{
	const int fds[] = { g_in[0], g_in[1], g_out[0], g_out[1] };

	signal(SIGPIPE, SIG_IGN);
	for (int i = 0; i < 4 && run->mode == IPC_MODE_SPIN; i++) {
		if (fcntl(fds[i], F_SETFL, fcntl(fds[i], F_GETFL) | O_NONBLOCK) < 0)
			ipc_die("O_NONBLOCK: %s", strerror(errno));
	}
}

static void unix_open(struct ipc_run *run)
{
	int fds[2], size = 1 << run->ring_log2;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
		ipc_die("socketpair: %s", strerror(errno));
	for (int i = 0; i < 2; i++) {
		if (setsockopt(fds[i], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
			setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
		g_in[i] = g_out[i] = fds[i];
	}
	set_mode(run);
}

static void pipe_open(struct ipc_run *run)
{
	for (int side = 0; side < 2; side++) {
		int fds[2];

		if (pipe(fds) < 0)
			ipc_die("pipe: %s", strerror(errno));
		if (fcntl(fds[1], F_SETPIPE_SZ, 1 << run->ring_log2) < 0)
			fprintf(stderr, "pipe: F_SETPIPE_SZ: %s\n", strerror(errno));
		g_out[side] = fds[1];
		g_in[!side] = fds[0];
	}
	set_mode(run);
}

static void tcp_open(struct ipc_run *run)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(a);
	int listener = socket(AF_INET, SOCK_STREAM, 0), fds[2], one = 1;

	if (bind(listener, (struct sockaddr *)&a, size) < 0 || listen(listener, 1) < 0 ||
	    getsockname(listener, (struct sockaddr *)&a, &size) < 0)
		ipc_die("tcp: %s", strerror(errno));
	fds[0] = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fds[0], (struct sockaddr *)&a, size) < 0)
		ipc_die("connect: %s", strerror(errno));
	fds[1] = accept(listener, NULL, NULL);
	close(listener);
	for (int i = 0; i < 2; i++) {
		setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		g_in[i] = g_out[i] = fds[i];
	}
	set_mode(run);
}

static void mq_open_both(struct ipc_run *run)
{
	struct mq_attr attr = { .mq_maxmsg = MQ_MESSAGES, .mq_msgsize = (long)run->size };
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
	mqd_t q[2];

	(void)setrlimit(RLIMIT_MSGQUEUE, &limit); /* as root; else small messages only */
	for (int i = 0; i < 2; i++) {
		char name[64];

		snprintf(name, sizeof(name), "/sealane-bench-%d-%d", (int)getpid(), i);
		q[i] = mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, &attr);
		if (q[i] < 0)
			ipc_skip("mq: messages of %zu bytes: %s", run->size, strerror(errno));
		mq_unlink(name);
	}
	g_out[0] = g_in[1] = q[0];
	g_out[1] = g_in[0] = q[1];
	set_mode(run);
}

const struct ipc_peer g_ipc_peers[] = {
	{ .name = "unix", .mode = { true, false, true }, .open = unix_open, .loops = stream_loops },
	{ .name = "pipe", .mode = { true, false, true }, .open = pipe_open, .loops = stream_loops },
	{ .name = "tcp", .mode = { true, false, true }, .open = tcp_open, .loops = stream_loops },
	{ .name = "mq", .mode = { true, false, true }, .open = mq_open_both, .loops = queue_loops },
	{ .name = NULL },
};
