/*
 * A message from a container: whatever its bytes, control_check() answers 0, -EBADMSG or -EPROTONOSUPPORT, and once it said 0 every
 * string that the daemon or a library would read ends inside the message. The first byte of the input says how many descriptors
 * come with it; the rest is the message, at the end of its memory, so that the sanitizer sees each byte that is read beyond it.
 *
 * The same message is sent over a socket: control_recv() must say the same, and leave no descriptor behind that is not ours.
 */
#include "wire/control.h"

#include <fcntl.h>
#include <sys/socket.h>

enum { FDS_MAX = 8 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile size_t g_sink;

static void require(bool good)
{
	if (!good)
		abort();
}

static void touch(const char *s, size_t cap)
{
	size_t n = strlen(s);

	require(n < cap);
	g_sink += n;
}

#define TOUCH(a) touch((a), sizeof(a))

static void touch_lane(const struct control_lane *l)
{
	require(l->kind < CONTROL_KIND_N && (l->flags & ~(uint32_t)CONTROL_FLAGS_KNOWN) == 0);
	TOUCH(l->peer.service);
	TOUCH(l->peer.spiffe_id);
	TOUCH(l->peer.workload);
	TOUCH(l->peer.host);
	TOUCH(l->path);
}

static void touch_strings(const struct control_msg *m)
{
	switch (m->type) {
	case CTL_CONNECT:
	case CTL_LISTEN:
		require(m->u.ask.kind < CONTROL_KIND_N);
		TOUCH(m->u.ask.service);
		TOUCH(m->u.ask.as);
		break;
	case CTL_ACCEPT:
	case CTL_OPEN:
	case CTL_OFFER:
		touch_lane(&m->u.lane);
		break;
	default:
		TOUCH(m->u.error.why);
	}
}

static int check(const uint8_t *bytes, size_t size, size_t n_fds)
{
	AUTO_FREE(struct control_msg) m = malloc(size ? size : 1);
	int r;

	require(m != NULL);
	memcpy(m, bytes, size);
	r = control_check(m, size, n_fds);
	require(r == 0 || r == -EBADMSG || r == -EPROTONOSUPPORT);
	if (r < 0)
		return r;
	require(control_msg_size(m->type) == size && control_n_fds(m->type) == n_fds);
	touch_strings(m);
	return 0;
}

static void send_raw(int sock, const uint8_t *bytes, size_t size, size_t n_fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} control = {};
	struct iovec iov = { .iov_base = (void *)(uintptr_t)bytes, .iov_len = size };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (n_fds) {
		mh.msg_control = control.bytes;
		mh.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		struct cmsghdr *cm = CMSG_FIRSTHDR(&mh);
		cm->cmsg_level = SOL_SOCKET;
		cm->cmsg_type = SCM_RIGHTS;
		cm->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		for (size_t i = 0; i < n_fds; i++)
			memcpy(CMSG_DATA(cm) + i * sizeof(int), &sock, sizeof(int));
	}
	require(sendmsg(sock, &mh, MSG_NOSIGNAL) == (ssize_t)size);
}

static void receive(const uint8_t *bytes, size_t size, size_t n_fds, int expected)
{
	int pair[2], fds[CONTROL_FDS] = { 99, 99, 99 }, before = dup(0), r;
	struct control_msg m;

	close(before);
	require(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
	send_raw(pair[0], bytes, size, n_fds);
	r = control_recv(pair[1], &m, fds);
	if (size == 0 && n_fds == 0)
		require(r == 0);
	else if (size > sizeof(m) || n_fds > CONTROL_FDS) /* cut off by the kernel, which says so */
		require(r == -EBADMSG || r == expected);
	else
		require(r == (expected == 0 ? 1 : expected));
	for (size_t i = 0; i < CONTROL_FDS; i++) {
		require((fds[i] >= 0) == (r == 1 && i < n_fds));
		fd_cleanup(&fds[i]);
	}
	close(pair[0]);
	close(pair[1]);
	int after = dup(0); /* the lowest free number: all others are as they were */
	close(after);
	require(before < 0 || after == before);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t n_fds;
	int r;

	if (size < 1 || size > 4096)
		return 0;
	n_fds = data[0] % (FDS_MAX + 1);
	r = check(data + 1, size - 1, n_fds);
	receive(data + 1, size - 1, n_fds, r);
	return 0;
}
