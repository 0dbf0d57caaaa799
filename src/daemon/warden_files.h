/*
 * The daemon's directories and socket files (docs/design/roles.md has the tree): workloads' directories, the gate's
 * listening sockets, and which inode each socket name leads to.
 *
 * Ownership: struct files owns its descriptors and tables. Threads: one. Blocking: as the file system does.
 * Trust: names come from the broker and are checked again here; what lies in serve/ is hostile.
 * Errors: 0 or negative errno, with a line for people in @why (WARDEN_WHY_SIZE bytes).
 */
#ifndef DAEMON_WARDEN_FILES_H
#define DAEMON_WARDEN_FILES_H

#include "daemon/warden_path.h"
#include "wire/role.h"

#include <uthash.h>

struct workload_dir {
	uint32_t wid;
	char name[LIMIT_NAME_SIZE];
	UT_hash_handle hh;
};

struct listener {
	uint32_t lid; /* ROLE_NO_ID: the admin socket */
	uint32_t wid;
	uint32_t type; /* SOCK_STREAM or SOCK_SEQPACKET */
	char *path; /* as in BW_LISTEN */
	char *key;  /* the keeper's name for it: "w/web/redis.sock", an absolute path, or "admin" */
	int fd;	    /* the listening socket */
	struct file_id id; /* its own inode */
	struct file_id placed; /* what the name leads to now: that, or a server's */
	bool unplaced;	       /* the gate's socket could not be placed: files_retry() */
	UT_hash_handle hh, hh_key, hh_id;
};

struct files {
	int run_fd, w_fd, l_fd, nl;
	struct workload_dir *workloads; /* by wid */
	struct listener *listeners;	/* by lid */
	struct listener *by_key, *by_id;
	/* The keeper, by a listener's key: keep this descriptor; give back what was kept (-1: nothing); forget it. NULL: nobody keeps. */
	void (*keep)(void *arg, const char *key, int fd);
	int (*take_kept)(void *arg, const char *key);
	void (*drop)(void *arg, const char *key);
	void *keep_arg;
};

/* files_make_dir() - a directory by path, with its parents; made or set to @mode and @uid, @gid. */
MUST_CHECK int files_make_dir(const char *path, mode_t mode, uid_t uid, gid_t gid);

/* files_open() - make RUN, RUN/w and RUN/l and hold them. */
MUST_CHECK int files_open(struct files *f, const char *run_dir);
void files_close(struct files *f);

MUST_CHECK int files_add_workload(struct files *f, const struct role_workload *w, char *why);
MUST_CHECK int files_remove_workload(struct files *f, uint32_t wid, char *why);
const struct workload_dir *files_workload(struct files *f, uint32_t wid);

/* files_open_serve() - O_PATH descriptor of a workload's serve/ directory. */
MUST_CHECK int files_open_serve(struct files *f, uint32_t wid);

/*
 * files_listen() - make or adopt a listening socket, with its mode and owner set before anybody can connect, and place
 * its name. Again for the same lid: new mode, new path. @ret_fd is borrowed.
 * wid ROLE_NO_ID: an absolute path; lid ROLE_NO_ID besides: the admin socket, RUN/admin.sock.
 */
MUST_CHECK int files_listen(struct files *f, const struct role_listen *l, int *ret_fd, char *why);
MUST_CHECK int files_unlisten(struct files *f, uint32_t lid, char *why);

/*
 * files_route() - let the listener's name lead to @server_fd's inode (-1: back to the gate). -EXDEV: other file
 * system or mount. Back to the gate fails closed: on an error the name is gone, and files_retry() goes on trying.
 */
MUST_CHECK int files_route(struct files *f, uint32_t lid, int server_fd, char *why);

/* files_retry() - place what could not be placed. Return: is there still something to be tried again? */
bool files_retry(struct files *f);

/* files_is_own_listener() - is that inode one of our own listening sockets? */
bool files_is_own_listener(struct files *f, const struct file_id *id);

/* files_can_link() - can that inode be linked into the workloads' directories? */
bool files_can_link(const struct files *f, int fd);

/* files_sweep() - take away what an earlier daemon left and nobody asked for since. */
void files_sweep(struct files *f);

/* files_remove_names() - at the very end (keeper): the sockets' names; @run_fd: RUN. Bounded, follows nothing. */
void files_remove_names(int run_fd);

/*
 * files_key() - the keeper's name of a listening socket. Return: 0 or -ENAMETOOLONG, -ENOENT (unknown workload),
 * -EINVAL.
 */
MUST_CHECK int files_key(struct files *f, const struct role_listen *l, char *buf, size_t size);

#endif
