/*
 * Theory of operation: one request, then datagrams full of netlink messages until NLMSG_DONE. A socket's file is told as
 * the device in the kernel's own encoding (major << 20 | minor, not stat's) and the low 32 bits of the inode number; the
 * latter is compared as such, since a file system of ours would have to make 2^32 files for two of them to collide.
 */
#include "daemon/warden_diag.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>

enum {
	DUMP_BUFFER_SIZE = 32 << 10, /* the kernel fills at most that much per datagram */
	SHUT_BOTH = 3,		     /* the kernel's RCV_SHUTDOWN | SEND_SHUTDOWN */
};

int diag_open(void)
{
	int nl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);

	return nl < 0 ? -errno : nl;
}

int diag_open_ns(int ns_fd)
{
	AUTO_FD own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	int nl;

	if (own < 0)
		return -errno;
	if (setns(ns_fd, CLONE_NEWNET) < 0)
		return -errno;
	nl = diag_open();
	/* To stay in a container's namespace would be worse than to end. */
	if (setns(own, CLONE_NEWNET) < 0)
		abort();
	return nl;
}

static int send_request(int nl, uint32_t flags, uint32_t states, uint32_t ino)
{
	struct {
		struct nlmsghdr h;
		struct unix_diag_req r;
	} req = {
		.h = { .nlmsg_len = sizeof(req), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags) },
		.r = {
			.sdiag_family = AF_UNIX,
			.udiag_states = states,
			.udiag_ino = ino,
			.udiag_show = UDIAG_SHOW_VFS | UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS,
			.udiag_cookie = { UINT32_MAX, UINT32_MAX }, /* INET_DIAG_NOCOOKIE */
		},
	};
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };

	if (sendto(nl, &req, sizeof(req), 0, (struct sockaddr *)&kernel, sizeof(kernel)) < 0)
		return -errno;
	return 0;
}

static void parse_sock(const struct nlmsghdr *h, struct diag_sock *s)
{
	const struct unix_diag_msg *m = NLMSG_DATA(h);
	const struct rtattr *a = (const struct rtattr *)(m + 1);
	int n = (int)(h->nlmsg_len - NLMSG_LENGTH(sizeof(*m)));
	struct unix_diag_vfs vfs;

	*s = (struct diag_sock){ .ino = m->udiag_ino, .type = m->udiag_type, .state = m->udiag_state,
				  .cookie = (uint64_t)m->udiag_cookie[1] << 32 | m->udiag_cookie[0] };
	for (; RTA_OK(a, n); a = RTA_NEXT(a, n)) {
		if (a->rta_type == UNIX_DIAG_PEER && RTA_PAYLOAD(a) >= sizeof(s->peer)) {
			memcpy(&s->peer, RTA_DATA(a), sizeof(s->peer));
		} else if (a->rta_type == UNIX_DIAG_VFS && RTA_PAYLOAD(a) >= sizeof(vfs)) {
			memcpy(&vfs, RTA_DATA(a), sizeof(vfs));
			s->vfs_ino = vfs.udiag_vfs_ino;
			s->vfs_dev = makedev(vfs.udiag_vfs_dev >> 20, vfs.udiag_vfs_dev & 0xfffff);
		} else if (a->rta_type == UNIX_DIAG_SHUTDOWN && RTA_PAYLOAD(a) >= 1) {
			s->shut = (*(const uint8_t *)RTA_DATA(a) & SHUT_BOTH) == SHUT_BOTH;
		} else if (a->rta_type == UNIX_DIAG_ICONS) {
			s->icons = RTA_DATA(a);
			s->n_icons = RTA_PAYLOAD(a) / sizeof(uint32_t);
		}
	}
}

/* One datagram. Return: 1: more follow; 0: that was all; negative errno; or what @fn returned. */
static int read_answer(const struct nlmsghdr *h, size_t size, int (*fn)(void *, const struct diag_sock *), void *arg)
{
	for (; NLMSG_OK(h, size); h = NLMSG_NEXT(h, size)) {
		struct diag_sock s;
		int r;

		if (h->nlmsg_type == NLMSG_DONE)
			return 0;
		if (h->nlmsg_type == NLMSG_ERROR)
			return ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
		if (h->nlmsg_type != SOCK_DIAG_BY_FAMILY || h->nlmsg_len < NLMSG_LENGTH(sizeof(struct unix_diag_msg)))
			continue;
		parse_sock(h, &s);
		r = fn(arg, &s);
		if (r != 0)
			return r;
		if (!(h->nlmsg_flags & NLM_F_MULTI))
			return 0;
	}
	return 1;
}

static int read_answers(int nl, int (*fn)(void *, const struct diag_sock *), void *arg)
{
	AUTO_FREE(char) buf = malloc(DUMP_BUFFER_SIZE);
	int r = 1;

	if (!buf)
		return -ENOMEM;
	while (r == 1) {
		ssize_t n = recv(nl, buf, DUMP_BUFFER_SIZE, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		r = read_answer((const struct nlmsghdr *)(const void *)buf, (size_t)n, fn, arg);
	}
	return r;
}

struct dump {
	int (*fn)(void *, const struct diag_sock *);
	void *arg;
	int stopped; /* what fn said; the rest of the dump is read and dropped, so that the next request finds a clean socket */
};

static int dump_one(void *arg, const struct diag_sock *s)
{
	struct dump *d = arg;

	if (d->stopped == 0)
		d->stopped = d->fn(d->arg, s);
	return 0;
}

int diag_dump(int nl, uint32_t states, int (*fn)(void *, const struct diag_sock *), void *arg)
{
	struct dump d = { .fn = fn, .arg = arg };
	int r = send_request(nl, NLM_F_DUMP, states, 0);

	if (r == 0)
		r = read_answers(nl, dump_one, &d);
	return r < 0 ? r : d.stopped;
}

static int keep_one(void *arg, const struct diag_sock *s)
{
	struct diag_sock *ret = arg;

	*ret = *s;
	ret->icons = NULL; /* they lie in the answer's buffer */
	ret->n_icons = 0;
	return 0;
}

int diag_find(int nl, uint32_t ino, struct diag_sock *ret_s)
{
	int r = send_request(nl, 0, UINT32_MAX, ino);

	return r < 0 ? r : read_answers(nl, keep_one, ret_s);
}

bool diag_vfs_equal(const struct diag_sock *s, const struct file_id *id)
{
	return id->ino != 0 && s->vfs_ino == (uint32_t)id->ino && s->vfs_dev == id->dev;
}

bool diag_is_bound_to(int nl, int sock, const struct file_id *id)
{
	struct file_id self;
	struct diag_sock s;

	if (path_id(sock, &self) < 0 || diag_find(nl, (uint32_t)self.ino, &s) < 0)
		return false;
	return diag_vfs_equal(&s, id);
}
