#include "wire/control.h"

#include <sys/socket.h>

static const struct {
	size_t size, n_fds;
} g_types[CTL_TYPE_N] = {
	[CTL_CONNECT] = { sizeof(struct control_ask), 1 },
	[CTL_LISTEN] = { sizeof(struct control_ask), 0 },
	[CTL_ACCEPT] = { sizeof(struct control_lane), 1 },
	[CTL_REJECT] = { sizeof(struct control_error), 0 },
	[CTL_OPEN] = { sizeof(struct control_lane), 2 },
	[CTL_LISTENING] = { sizeof(struct control_error), 0 },
	[CTL_OFFER] = { sizeof(struct control_lane), 3 },
	[CTL_CUT] = { sizeof(struct control_error), 0 },
	[CTL_ERROR] = { sizeof(struct control_error), 0 },
};

size_t control_msg_size(uint32_t type)
{
	return type < CTL_TYPE_N && g_types[type].size ? offsetof(struct control_msg, u) + g_types[type].size : 0;
}

size_t control_n_fds(uint32_t type)
{
	return type < CTL_TYPE_N ? g_types[type].n_fds : 0;
}

#define TERMINATED(array) str_is_terminated(array, sizeof(array))

static bool ask_is_sound(const struct control_ask *a)
{
	return a->kind < CONTROL_KIND_N && !(a->flags & ~(uint32_t)CONTROL_FLAGS_KNOWN) && TERMINATED(a->service) && TERMINATED(a->as);
}

static bool lane_is_sound(const struct control_lane *l)
{
	return l->kind < CONTROL_KIND_N && !(l->flags & ~(uint32_t)CONTROL_FLAGS_KNOWN) && TERMINATED(l->peer.service) &&
	       TERMINATED(l->peer.spiffe_id) && TERMINATED(l->peer.workload) && TERMINATED(l->peer.host) && TERMINATED(l->path);
}

static bool body_is_sound(const struct control_msg *m)
{
	switch (m->type) {
	case CTL_CONNECT:
	case CTL_LISTEN:
		return ask_is_sound(&m->u.ask);
	case CTL_ACCEPT:
	case CTL_OPEN:
	case CTL_OFFER:
		return lane_is_sound(&m->u.lane);
	default:
		return TERMINATED(m->u.error.why);
	}
}

int control_check(const struct control_msg *m, size_t size, size_t n_fds)
{
	if (size < offsetof(struct control_msg, u))
		return -EBADMSG;
	if (m->version != CONTROL_VERSION)
		return -EPROTONOSUPPORT;
	if (control_msg_size(m->type) != size || control_n_fds(m->type) != n_fds || !body_is_sound(m))
		return -EBADMSG;
	return 0;
}

int control_send(int sock, const struct control_msg *m, const int *fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(CONTROL_FDS * sizeof(int))];
	} control = {};
	struct iovec iov = { .iov_base = (void *)(uintptr_t)m, .iov_len = control_msg_size(m->type) };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };
	size_t n_fds = control_n_fds(m->type);

	if (n_fds) {
		mh.msg_control = control.bytes;
		mh.msg_controllen = (socklen_t)CMSG_SPACE(n_fds * sizeof(int)); /* socklen_t: its type in musl */
		struct cmsghdr *cm = CMSG_FIRSTHDR(&mh);
		cm->cmsg_level = SOL_SOCKET;
		cm->cmsg_type = SCM_RIGHTS;
		cm->cmsg_len = (socklen_t)CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(cm), fds, n_fds * sizeof(int));
	}
	return sendmsg(sock, &mh, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

/*
 * At most CONTROL_FDS are kept; the buffer has room for one more at most (alignment), the kernel drops the rest itself
 * (MSG_CTRUNC). Return: how many came, those that were closed again too.
 */
static size_t take_fds(struct msghdr *mh, int ret_fds[CONTROL_FDS])
{
	size_t n = 0;

	for (struct cmsghdr *cm = CMSG_FIRSTHDR(mh); cm; cm = CMSG_NXTHDR(mh, cm)) {
		if (cm->cmsg_level != SOL_SOCKET || cm->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < (cm->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(cm) + i * sizeof(int), sizeof(int));
			if (n < CONTROL_FDS)
				ret_fds[n] = fd;
			else
				close(fd);
			n++;
		}
	}
	return n;
}

int control_recv(int sock, struct control_msg *ret, int ret_fds[CONTROL_FDS])
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(CONTROL_FDS * sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = ret, .iov_len = sizeof(*ret) };
	struct msghdr mh = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)
	};
	size_t n_fds;
	ssize_t n;
	int r;

	for (size_t i = 0; i < CONTROL_FDS; i++)
		ret_fds[i] = -1;
	n = recvmsg(sock, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return -errno;
	n_fds = take_fds(&mh, ret_fds);
	if (n == 0 && n_fds == 0)
		return 0;
	r = mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? -EBADMSG : control_check(ret, (size_t)n, n_fds);
	for (size_t i = 0; r < 0 && i < CONTROL_FDS; i++)
		if (ret_fds[i] >= 0)
			close(take_fd(&ret_fds[i]));
	return r < 0 ? r : 1;
}
