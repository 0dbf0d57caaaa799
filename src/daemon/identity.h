/*
 * Who connected: the cgroup of the process at the other end of an accepted Unix socket, from the kernel's own records.
 * docs/design/identity.md tells the chain, the kernels it needs, the fallback and what that does not promise.
 *
 * Threads: any. Blocks: never. Trust: answers are the kernel's; the peer has no say in them.
 */
#ifndef DAEMON_IDENTITY_H
#define DAEMON_IDENTITY_H

#include "wire/role.h"

#include <sys/ioctl.h>
#include <sys/types.h>

/* Linux uapi pidfd.h, first published form (64 bytes, 6.13); later kernels accept it and fill that much. */
struct identity_pidfd_info {
	uint64_t mask;
	uint64_t cgroup_id;
	uint32_t pid, tgid, ppid;
	uint32_t ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
	int32_t exit_code;
};
static_assert(sizeof(struct identity_pidfd_info) == 64, "PIDFD_INFO_SIZE_VER0");

/* The only ioctl that the gate's system call filter lets through. */
#define IDENTITY_PIDFD_GET_INFO _IOWR(0xFF, 11, struct identity_pidfd_info)

struct identity {
	pid_t pid; /* for logs: by the time that it is read the process may be gone and the number another's */
	uid_t uid;
	gid_t gid;
	uint64_t cgroup_id; /* cgroup2's; 0: not known here (IDENTITY_PEERCRED, see identity_of_pid()) */
};

/*
 * identity_of_peer() - @sock: a connected Unix stream socket.
 * IDENTITY_PIDFD: the cgroup of the very process that connected, also if it has exited and its pid is another's by now
 * (from kernel 6.16; before that such a peer is an error, never a wrong answer).
 * IDENTITY_PEERCRED: pid, uid and gid as they were at connect(); cgroup_id stays 0.
 * Return: 0; -ESRCH: the kernel does not know it any more, or it lives in a pid namespace that is not below ours;
 *         -ENODATA: the kernel has no cgroup id for it; other negative errno. @ret is untouched then.
 */
MUST_CHECK int identity_of_peer(int sock, enum identity_method method, struct identity *ret);

/*
 * identity_of_pid() - the cgroup of whoever has @pid now, for the warden on kernels without PIDFD_GET_INFO. A pidfd that is
 * alive at the end proves that all that was read belongs to one process; it does not prove that this one connected.
 * @cgroup2_fd: the directory where cgroup2 is mounted. gid is not known here ((gid_t)-1).
 * Return: 0; -ESRCH: no such process, or it exited meanwhile; -ENOENT: its cgroup was removed; -EXDEV: its cgroup lies
 *         outside of what we can see; -ENODATA: it has no cgroup2 membership.
 */
MUST_CHECK int identity_of_pid(int cgroup2_fd, pid_t pid, struct identity *ret);

/* identity_probe() - the best method that works on this kernel, tried on ourselves. */
enum identity_method identity_probe(void);

#endif
