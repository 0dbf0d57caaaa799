/*
 * Control groups as the command line needs them: where cgroup2 is mounted, which one a process is in, one of our own.
 *
 * Identity rests on the kernel's cgroup id (a 64-bit number, never used again while the machine runs); paths are for
 * people and for kernels that do not give the id. Trust: a pid may be used again at any time unless its parent holds it;
 * cgroup_of_pid() therefore asks through a pidfd and says how it found out.
 */
#ifndef CLI_CGROUP_H
#define CLI_CGROUP_H

#include "base/limits.h"
#include "base/util.h"

#include <sys/types.h>

/*
 * cgroup_parse_mountinfo() - the cgroup2 mount point among the lines of /proc/self/mountinfo.
 * /sys/fs/cgroup (unified) is preferred, then /sys/fs/cgroup/unified (hybrid), then whichever comes first.
 * Return: 0 or -ENOENT.
 */
MUST_CHECK int cgroup_parse_mountinfo(char *ret, size_t size, const char *text);

/* cgroup_find_mount() - the same, for this process. Return: 0 or negative errno. */
MUST_CHECK int cgroup_find_mount(char *ret, size_t size);

/* cgroup_id_of_path() - the id of a cgroup2 directory, by its file handle. Return: 0 or negative errno. */
MUST_CHECK int cgroup_id_of_path(uint64_t *ret_id, const char *path);

/* cgroup_of_pid() - the cgroup that @pid is in. Return: 0; -ESRCH: there is no such process (any more); other negative errno. */
MUST_CHECK int cgroup_of_pid(uint64_t *ret_id, pid_t pid);

/*
 * cgroup_find_container() - the cgroup whose last path component holds the container id @id (at least 12 hex digits),
 * as docker, podman, containerd and systemd scopes name them. Monitors (libpod-conmon-ID) are passed over.
 * Return: 0 (@ret_path: absolute, @size bytes); -EINVAL: no container id; -ENOENT; -ENOTUNIQ.
 */
MUST_CHECK int cgroup_find_container(char *ret_path, size_t size, const char *mount, const char *id);

/* A cgroup of our own: MOUNT/sealane/NAME-PID. */
struct cgroup {
	char parent[LIMIT_PATH_SIZE];
	char path[LIMIT_PATH_SIZE + LIMIT_NAME_SIZE];
	uint64_t id;
	int fd; /* O_RDONLY | O_DIRECTORY, for clone3(); -1: not made */
};

/* cgroup_make() - also removes what runs that were killed left behind. Return: 0 or negative errno. */
MUST_CHECK int cgroup_make(struct cgroup *ret, const char *mount, const char *name);

/* cgroup_remove() - kill what is left in it and remove it with all below it. Safe when nothing was made. */
void cgroup_remove(struct cgroup *g);

/* read_small_file() - up to @size - 1 bytes, NUL-terminated. Return: number of bytes or negative errno. */
MUST_CHECK ssize_t read_small_file(const char *path, char *buf, size_t size);

/* pidfd_open() as glibc 2.36 has it needs a header that clashes with older kernels'; both are plain system calls. */
int cli_pidfd_open(pid_t pid);
int cli_pidfd_signal(int pidfd, int signal);

/* pidfd_cgroup_id() - PIDFD_GET_INFO (kernel 6.13). Return: 0 or negative errno (-ENOTTY: this kernel has it not). */
MUST_CHECK int pidfd_cgroup_id(uint64_t *ret_id, int pidfd);

#endif
