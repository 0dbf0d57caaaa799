/*
 * Theory of operation: a device is opened once, before the linker reads a byte from anybody but the broker, since it can open nothing afterwards.
 *
 *   root        linker_device_memlock()    what may be pinned; only root can raise it
 *   the user    linker_device_hear()       BL_RDMA: whether, and at which address
 *               linker_isolate_paths()     Landlock: the libraries, /sys, /dev/infiniband, where a device is wanted; else nothing
 *               linker_device_open()
 *               linker_isolate_calls()     seccomp: no path, no socket; of ioctl the verbs' own, where a device is open
 *
 * The order is the kernel's. An order that is written to /dev/infiniband is taken only from a process with the very credentials by which the
 * descriptor was opened (ib_safe_file_access()), so neither leaving root nor Landlock may come after opening. Hence the daemon's user has to
 * be able to open the nodes, which both the kernel and rdma-core's rules make 0666.
 *
 * librdmacm looks for ibacm (a socket, files) when it resolves a route. It goes on without, so it is told no, where anybody else would be killed.
 *
 * What must never happen: a device opened because somebody other than the broker said so; a linker that does not run because there is no device.
 *
 * Before this: broker_rdma.c. After it: linker_rdma.c, linker_set_remote().
 */
#include "daemon/linker_device.h"

#include "base/chan.h"
#include "base/isolate.h"
#include "rdma/verbs.h"

#include <poll.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

enum {
	/* Rings, and as much again for what a device pins beside them: queues, their doorbells. */
	MEMLOCK_MIB = 2 * LIMIT_RDMA_PINNED_MIB,
	/* A linker that was killed lets go of its address when the kernel has taken it down. */
	IN_USE_TRIES = 20,
	IN_USE_WAIT_MS = 100,
};

/* RDMA_VERBS_IOCTL of <rdma/rdma_user_ioctl_cmds.h>, which builds without RDMA's headers lack: its header is 24 bytes. */
#define VERBS_IOCTL _IOWR(0x1b, 1, char[24])

void linker_device_memlock(void)
{
	rlim_t want = (rlim_t)MEMLOCK_MIB << 20;
	struct rlimit lim;

	if (getrlimit(RLIMIT_MEMLOCK, &lim) < 0 || lim.rlim_cur >= want)
		return;
	if (lim.rlim_max < want)
		lim.rlim_max = want;
	lim.rlim_cur = want;
	if (setrlimit(RLIMIT_MEMLOCK, &lim) == 0)
		return;
	/* Not root: all that there is. */
	if (getrlimit(RLIMIT_MEMLOCK, &lim) == 0) {
		lim.rlim_cur = lim.rlim_max;
		(void)!setrlimit(RLIMIT_MEMLOCK, &lim);
	}
}

int linker_device_hear(int channel_fd, struct role_rdma *ret)
{
	struct chan c = {};
	struct role_msg m;
	int r;

	chan_init(&c, channel_fd);
	do {
		struct pollfd p = { .fd = channel_fd, .events = POLLIN };
		AUTO_FD fd = -1;

		(void)!poll(&p, 1, -1);
		r = role_recv(&c, &m, &fd);
	} while (r == -EAGAIN);
	if (r == 1 && m.type != BL_RDMA)
		return -EBADMSG;
	if (r == 1)
		*ret = m.u.rdma;
	return r == -ECONNRESET ? 0 : r;
}

static int try_open(struct remote **ret, const char *address, const char **ret_why)
{
	const struct verbs_options o = { .address = address };
	int r;

	for (int i = 0; i < IN_USE_TRIES; i++) {
		r = remote_verbs_open(ret, &o, ret_why);
		if (r != -EADDRINUSE)
			break;
		nanosleep(&(struct timespec){ .tv_nsec = IN_USE_WAIT_MS * 1000000 }, NULL);
	}
	return r;
}

static void fail(struct role_device *d, int error, const char *why)
{
	d->error = error;
	snprintf(d->why, sizeof(d->why), "%s", why);
}

void linker_device_open(const struct role_rdma *m, struct remote **ret, struct role_device *ret_told)
{
	struct rlimit lim = { .rlim_cur = 0 };
	const char *why = "";
	int r;

	*ret = NULL;
	*ret_told = (struct role_device){};
	memcpy(ret_told->address, m->address, sizeof(ret_told->address));
	(void)!getrlimit(RLIMIT_MEMLOCK, &lim);
	ret_told->memlock = lim.rlim_cur == RLIM_INFINITY ? UINT64_MAX : lim.rlim_cur;
	if (m->mode == RDMA_OFF || !m->address[0])
		return fail(ret_told, -ENODEV, ""); /* the broker knows why */
	r = try_open(ret, m->address, &why);
	if (r == VERBS_E_NOT_HERE)
		return fail(ret_told, -ENODEV, why);
	if (r == -EADDRINUSE)
		return fail(ret_told, r, "another process has that address and port for RDMA: set rdma_listen to another port");
	if (r < 0) {
		char text[sizeof(ret_told->why)];

		snprintf(text, sizeof(text), "the device cannot be opened: %s", strerror(-r));
		return fail(ret_told, r, text);
	}
	snprintf(ret_told->device, sizeof(ret_told->device), "%s", remote_caps(*ret)->device);
	ret_told->atomics = remote_caps(*ret)->atomics;
	ret_told->windows = remote_caps(*ret)->windows;
}

int linker_isolate_paths(bool wants_device)
{
	/* /etc: libibverbs.d, ld.so.cache. All but the nodes can only be read: the user owns nothing there. */
	static const char *const device_dirs[] = { "/dev/infiniband", "/sys", "/etc", "/usr/lib", "/usr/lib64", "/lib", "/lib64" };
	const char *dirs[ARRAY_SIZE(device_dirs)];
	size_t n = 0;

	for (size_t i = 0; wants_device && i < ARRAY_SIZE(device_dirs); i++)
		if (access(device_dirs[i], F_OK) == 0)
			dirs[n++] = device_dirs[i];
	return isolate_paths(dirs, n);
}

#define CALLS                                                                       \
	{ .name = "accept4" },                                                      \
	{ .name = "memfd_create" }, /* texts for the broker, regions for libraries */ \
	{ .name = "ftruncate" },                                                    \
	{ .name = "pread64" },                                                      \
	{ .name = "fallocate" }

int linker_isolate_calls(bool has_device)
{
	static const struct isolate_call calls[] = { CALLS, {} };
	static const struct isolate_call device_calls[] = {
		CALLS,
		{ .name = "ioctl", .arg = 2, .arg_value = VERBS_IOCTL },
		{ .name = "openat", .error = EACCES },
		{ .name = "open", .error = EACCES },
		{ .name = "socket", .error = EACCES },
		{ .name = "access", .error = EACCES },
		{ .name = "readlink", .error = EACCES },
		{},
	};

	return isolate_calls(has_device ? device_calls : calls);
}
