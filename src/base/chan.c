#include "base/chan.h"

#include <fcntl.h>
#include <sys/socket.h>

struct chan_msg {
	struct chan_msg *next;
	size_t size;
	int fd; /* owned duplicate, or -1 */
	unsigned char bytes[];
};

int chan_pair(int ret_fds[2])
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
		return -errno;
	ret_fds[0] = fds[0];
	ret_fds[1] = fds[1];
	return 0;
}

void chan_init(struct chan *c, int fd)
{
	*c = (struct chan){ .fd = fd };
	c->tail = &c->head;
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static void chan_pop(struct chan *c)
{
	struct chan_msg *m = c->head;

	c->head = m->next;
	if (!c->head)
		c->tail = &c->head;
	c->n_queued--;
	c->queued_size -= sizeof(*m) + m->size;
	if (m->fd >= 0)
		close(m->fd);
	free(m);
}

void chan_close(struct chan *c)
{
	while (c->head)
		chan_pop(c);
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

static int send_now(int sock, const void *msg, size_t size, int fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {};
	struct iovec iov = { .iov_base = (void *)(uintptr_t)msg, .iov_len = size };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		mh.msg_control = control.bytes;
		mh.msg_controllen = sizeof(control.bytes);
		struct cmsghdr *cm = CMSG_FIRSTHDR(&mh);
		cm->cmsg_level = SOL_SOCKET;
		cm->cmsg_type = SCM_RIGHTS;
		cm->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cm), &fd, sizeof(int));
	}
	if (sendmsg(sock, &mh, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return -errno;
	return 0;
}

/* ENOBUFS and ETOOMANYREFS: the kernel's own bounds on queued messages and descriptors in flight; both pass with time. */
static bool is_full(int err)
{
	return err == -EAGAIN || err == -ENOBUFS || err == -ETOOMANYREFS;
}

static int chan_enqueue(struct chan *c, const void *msg, size_t size, int fd)
{
	AUTO_FD dup_fd = -1;
	struct chan_msg *m;

	if (c->queued_size >= LIMIT_CHAN_QUEUE_SIZE)
		return -ENOBUFS;
	if (fd >= 0 && (dup_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3)) < 0)
		return -errno;
	m = malloc(sizeof(*m) + size);
	if (!m)
		return -ENOMEM;
	*m = (struct chan_msg){ .size = size, .fd = take_fd(&dup_fd) };
	memcpy(m->bytes, msg, size);
	*c->tail = m;
	c->tail = &m->next;
	c->n_queued++;
	c->queued_size += sizeof(*m) + size;
	return 0;
}

int chan_send(struct chan *c, const void *msg, size_t size, int fd)
{
	int r;

	if (c->fd < 0)
		return -EPIPE;
	if (c->head && (r = chan_flush(c)) < 0)
		return r;
	if (c->head)
		return chan_enqueue(c, msg, size, fd);
	r = send_now(c->fd, msg, size, fd);
	return is_full(r) ? chan_enqueue(c, msg, size, fd) : r;
}

int chan_flush(struct chan *c)
{
	while (c->head) {
		int r = send_now(c->fd, c->head->bytes, c->head->size, c->head->fd);

		if (is_full(r))
			return 0;
		if (r < 0)
			return r;
		chan_pop(c);
	}
	return 0;
}

/* The first descriptor goes to @ret_fd; any more are closed, so that a peer cannot fill our table. */
static void take_fds(struct msghdr *mh, int *ret_fd)
{
	for (struct cmsghdr *cm = CMSG_FIRSTHDR(mh); cm; cm = CMSG_NXTHDR(mh, cm)) {
		if (cm->cmsg_level != SOL_SOCKET || cm->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < (cm->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(cm) + i * sizeof(int), sizeof(int));
			if (*ret_fd < 0)
				*ret_fd = fd;
			else
				close(fd);
		}
	}
}

ssize_t chan_recv(struct chan *c, void *buf, size_t cap, int *ret_fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = buf, .iov_len = cap };
	struct msghdr mh = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)
	};
	ssize_t n;

	*ret_fd = -1;
	if (c->fd < 0)
		return 0;
	n = recvmsg(c->fd, &mh, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (n < 0)
		return -errno;
	take_fds(&mh, ret_fd);
	if (mh.msg_flags & MSG_TRUNC) {
		if (*ret_fd >= 0)
			close(take_fd(ret_fd));
		return -EMSGSIZE;
	}
	return n;
}
