/*
 * Theory of operation: an application behind a socket.
 *
 * Bytes are read straight behind frame headers, several frames in one read; a short read uses up the edge that epoll told. Descriptors
 * (SCM_RIGHTS) are refused as the gate does: by the kernel where they are sent, or here, as a reading without room for them says MSG_CTRUNC.
 *
 * How a direct socket would end, as far as that can be shown:
 *   FIN           shutdown(SHUT_WR), when all that came before it is written
 *   a cut, RESET  the socket is closed at once. A Unix socket cannot be made to say more than that: its reader sees an end of stream, its
 *                 writer EPIPE, and ECONNRESET where it had sent what nobody read.
 *
 * On a byte's way before and after this: linker_lane.c.
 */
#include "daemon/linker_int.h"

#include <sys/epoll.h>
#include <sys/socket.h>

int socket_watch(struct linker *k, struct llane *l)
{
	l->app = &app_socket;
	linker_refuse_fds(k, l->fd);
	return linker_epoll(k, EPOLL_CTL_ADD, l->fd, EPOLLIN | EPOLLRDHUP | EPOLLET, linker_ref(LINKER_EVENT_LANE, llane_cid(k, l)));
}

static void socket_arm(struct linker *k, struct llane *l)
{
	bool want = l->blocked && !l->broken;
	uint32_t events = EPOLLIN | EPOLLRDHUP | EPOLLET | (want ? EPOLLOUT : 0u);
	int r;

	if (want == l->armed)
		return;
	l->armed = want;
	r = linker_epoll(k, EPOLL_CTL_MOD, l->fd, events, linker_ref(LINKER_EVENT_LANE, llane_cid(k, l)));
	if (r < 0)
		linker_fail(k, r);
}

static size_t socket_give(struct linker *k, struct llane *l, struct iovec *iov, size_t n_iov, size_t size)
{
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = n_iov };
	ssize_t n = sendmsg(l->fd, &mh, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		llane_break(k, l, -errno);
		return 0;
	}
	if (n < 0)
		n = 0;
	l->blocked = (size_t)n < size;
	llane_spend(k, l, (size_t)n);
	return (size_t)n;
}

static size_t read_failed(struct linker *k, struct llane *l, uint8_t *to, int error)
{
	if (error == -EAGAIN || error == -EINTR) {
		l->ready = error == -EINTR;
		return 0;
	}
	if (error == -ENOMEM || error == -ENOBUFS) {
		llane_end(k, l, LANE_END_NOMEM, error, LINK_FAILED);
		return 0;
	}
	llane_blame(l, llane_here(l), error);
	llane_break(k, l, error);
	return llane_finish(k, l, to);
}

static size_t put_headers(const struct llane *l, uint8_t *to, size_t size)
{
	size_t at = 0;

	for (; size > 0; at += FRAME_HEADER_SIZE) {
		size_t n = size < FLOW_QUANTUM ? size : FLOW_QUANTUM;

		frame_put_header(to + at, l->number, FRAME_DATA, 0, n);
		at += n;
		size -= n;
	}
	return at;
}

static size_t socket_take(struct linker *k, struct llane *l, uint8_t *to, size_t n_frames, size_t max)
{
	struct iovec iov[LINKER_RECORDS];
	struct msghdr mh = { .msg_iov = iov };
	size_t got;
	ssize_t n;

	max = max < n_frames * FLOW_QUANTUM ? max : n_frames * FLOW_QUANTUM;
	for (size_t left = max; left > 0; left -= iov[mh.msg_iovlen - 1].iov_len) {
		iov[mh.msg_iovlen].iov_base = to + mh.msg_iovlen * FRAME_SIZE_MAX + FRAME_HEADER_SIZE;
		iov[mh.msg_iovlen].iov_len = left < FLOW_QUANTUM ? left : FLOW_QUANTUM;
		mh.msg_iovlen++;
	}
	n = recvmsg(l->fd, &mh, MSG_DONTWAIT);
	if (n < 0)
		return read_failed(k, l, to, -errno);
	if (mh.msg_flags & MSG_CTRUNC) {
		llane_end(k, l, LANE_END_FDS, -EPERM, LINK_PEER);
		return 0;
	}
	if (n == 0)
		return llane_finish(k, l, to);
	got = (size_t)n;
	if (got < max && !l->closing)
		l->ready = false;
	flow_sent(&l->flow, (uint32_t)got);
	llane_spend(k, l, got);
	l->bytes_out += got;
	l->reads_out++;
	return put_headers(l, to, got);
}

/* A client whose session is not up left: is anything of it there to be served? */
static void waiting_event(struct linker *k, struct llane *l, uint32_t events)
{
	char byte;

	l->ready = true;
	/* No other edge tells of it when the session is there. */
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		l->closing = true;
	if (!(events & (EPOLLHUP | EPOLLERR)))
		return;
	if (recv(l->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0)
		llane_fail(k, l, LINK_PEER, "the client left", false);
	else if (events & EPOLLHUP)
		llane_break(k, l, -EPIPE);
}

static bool socket_event(struct linker *k, struct llane *l, uint32_t events)
{
	if (l->state == LANE_WAITING) {
		waiting_event(k, l, events);
		return false;
	}
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		l->ready = true;
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		l->closing = true;
	if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
		l->blocked = false;
	if (events & EPOLLHUP)
		llane_break(k, l, -EPIPE);
	return true;
}

static void socket_shut(struct llane *l)
{
	shutdown(l->fd, SHUT_WR);
}

static void socket_deafen(struct llane *l)
{
	shutdown(l->fd, SHUT_RD);
}

const struct app_ops app_socket = {
	.take = socket_take, .give = socket_give, .arm = socket_arm, .event = socket_event, .shut = socket_shut, .deafen = socket_deafen,
};
