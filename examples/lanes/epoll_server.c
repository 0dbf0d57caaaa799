/*
 * The echo server again, as an event loop: one thread, any number of lanes, none of which can hold up the others.
 *
 * The rule for a lane's descriptor: call until -EAGAIN, then wait for EPOLLIN, also when it was sending that could not go on.
 * Without a buffer of its own: a message stays in the client's ring until there is room for the answer.
 *
 *   cc epoll_server.c $(pkg-config --cflags --libs sealane) -o epoll_server
 *   ./epoll_server echo
 */
#include <errno.h>
#include <sealane.h>
#include <stdio.h>
#include <sys/epoll.h>

/* Return: -EAGAIN: nothing to do now; else why the lane is over. */
static int serve(struct sealane_lane *lane)
{
	for (;;) {
		const void *piece;
		size_t size;
		int more, r = sealane_peek(lane, &piece, &size, &more, SEALANE_NOWAIT);

		if (r < 0)
			return r;
		if (more) /* a message larger than a quarter of the ring; this server does not put those together */
			return -EMSGSIZE;
		r = sealane_send(lane, piece, size, SEALANE_NOWAIT);
		if (r < 0) /* -EAGAIN: no room; the next sealane_peek() gives the same message */
			return r;
		sealane_release(lane);
	}
}

static void turn(struct sealane_lane *lane)
{
	int r = serve(lane);

	if (r == -EAGAIN)
		return;
	if (r != -ENODATA && r != -EPIPE)
		fprintf(stderr, "%s: %s\n", sealane_peer(lane)->service, sealane_strerror(r));
	sealane_close(lane); /* closes the descriptor, so epoll forgets it too */
}

/* Everyone who waits at the listener. */
static void take_lanes(int epoll_fd, struct sealane_listener *listener)
{
	struct sealane_lane *lane;

	while (sealane_accept(listener, &lane, SEALANE_NOWAIT) == 0) {
		struct epoll_event ev = { .events = EPOLLIN, .data.ptr = lane };
		int fd = sealane_fd(lane);

		if (fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0) {
			fprintf(stderr, "%s: no descriptor\n", sealane_peer(lane)->service);
			sealane_close(lane);
		} else {
			turn(lane);
		}
	}
}

int main(int argc, char **argv)
{
	struct sealane_options options = SEALANE_OPTIONS_INIT;
	struct epoll_event events[64], ev = { .events = EPOLLIN };
	int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	struct sealane_listener *listener;

	options.kind = SEALANE_MESSAGES;
	if (sealane_listen(&listener, argc > 1 ? argv[1] : "echo", &options) < 0) {
		fprintf(stderr, "%s\n", sealane_last_error());
		return 1;
	}
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, sealane_listener_fd(listener), &ev) < 0) /* data.ptr NULL: the listener */
		return 1;
	for (;;) {
		int n = epoll_wait(epoll_fd, events, 64, -1);

		for (int i = 0; i < n; i++) {
			if (events[i].data.ptr)
				turn(events[i].data.ptr);
			else
				take_lanes(epoll_fd, listener);
		}
	}
}
