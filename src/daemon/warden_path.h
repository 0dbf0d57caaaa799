/*
 * How the warden touches the file system: relative to descriptors of directories that it holds, without following a
 * symbolic link wherever a container may have put one, and by inode (an O_PATH descriptor) once a name was looked up.
 *
 * Threads: one. Blocking: as the file system does. Errors: 0 or a descriptor, or negative errno.
 */
#ifndef DAEMON_WARDEN_PATH_H
#define DAEMON_WARDEN_PATH_H

#include "base/util.h"

#include <sys/stat.h>
#include <sys/un.h>

enum {
	WARDEN_WHY_SIZE = 256, /* as role_reply.why */
	/* "/proc/self/fd/" and a descriptor's number, with the NUL. */
	PATH_PROC_SIZE = 32,
};

/* What a name led to when it was looked up. ino 0: nothing. */
struct file_id {
	dev_t dev;
	ino_t ino;
};

static_assert(sizeof(struct file_id) == sizeof(dev_t) + sizeof(ino_t), "no padding: it is a hash key");

static inline bool file_id_equal(const struct file_id *a, const struct file_id *b)
{
	return a->ino != 0 && a->ino == b->ino && a->dev == b->dev;
}

/*
 * why_fail() - write one line for a person into @why (WARDEN_WHY_SIZE bytes) and return @err, so that it can be
 * returned at once.
 */
int why_fail(char *why, int err, const char *fmt, ...) PRINTF_LIKE(3, 4);

/*
 * path_is_clean() - relative, no empty, "." or ".." part: the only form in which a path is joined to a directory
 * of ours.
 */
bool path_is_clean(const char *path);

/*
 * path_open_beneath() - openat2() that leaves neither @dirfd nor the plain tree below it (no symlinks, no magic
 * links).
 */
MUST_CHECK int path_open_beneath(int dirfd, const char *path, int flags);

/*
 * path_make_dirs() - make the directories (0755) of the clean relative @path below @dirfd; returns an O_PATH
 * descriptor of the last.
 */
MUST_CHECK int path_make_dirs(int dirfd, const char *path);

/*
 * path_open_parent() - O_PATH descriptor of absolute @path's directory; *ret_name points into @path. Links in the
 * way are followed: an operator wrote it.
 */
MUST_CHECK int path_open_parent(const char *path, const char **ret_name);

/*
 * path_open_parent_plain() - the same where a container may write in the way: a link is -ELOOP, so nothing can point
 * elsewhere. Only /var/run, which distributions make a link to /run, is taken for what it is.
 */
MUST_CHECK int path_open_parent_plain(const char *path, const char **ret_name);

MUST_CHECK int path_id(int fd, struct file_id *ret_id);
/* path_same_mount() - can an inode be linked from where @a is to where @b is? */
bool path_same_mount(int a, int b);

/* path_of_fd() - "/proc/self/fd/N", through which calls without an *at form reach an inode. */
void path_of_fd(int fd, char buf[PATH_PROC_SIZE]);

/*
 * path_open_socket() - O_PATH descriptor of a socket file at clean relative @path. -ENOTSOCK: something else lies
 * there.
 */
MUST_CHECK int path_open_socket(int dirfd, const char *path, struct file_id *ret_id);

/* path_set_access() - owner (-1: root), then mode of the inode behind an O_PATH descriptor. */
MUST_CHECK int path_set_access(int fd, uint32_t mode, int64_t uid, int64_t gid);

/* path_place() - make @name in @dirfd lead to the inode @fd, with no moment in which it leads nowhere. */
MUST_CHECK int path_place(int fd, int dirfd, const char *name);

/* path_connect() - connect @sock to the socket inode behind @fd: no name is looked up, so nothing can be swapped. */
MUST_CHECK int path_connect(int sock, int fd);

/* path_bind() - bind @sock to @name in @dirfd, whatever the length of @dirfd's own path; mode 0600. */
MUST_CHECK int path_bind(int sock, int dirfd, const char *name);

/*
 * path_has_listener() - does a live stream or seqpacket socket own the inode behind @fd? Disturbs nobody; sees all
 * network namespaces.
 */
bool path_has_listener(int fd);

/*
 * path_remove_tree() - remove @name and all below it. The tree may be hostile and may grow meanwhile: links are unlinked,
 * never followed, and the work is bounded. Return: 0; -ENOTEMPTY when something was left; other negative errno.
 */
MUST_CHECK int path_remove_tree(int dirfd, const char *name);

#endif
