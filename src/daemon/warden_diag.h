/*
 * What the kernel knows of Unix sockets (sock_diag(7)): states, peers, and which file a socket is bound to. One
 * descriptor sees one network namespace: the one it was made in.
 *
 * Threads: one. Blocking: a dump of N sockets takes some 0.5 us each. Trust: the answers are the kernel's.
 * Source: linux/unix_diag.h; net/unix/diag.c for what its fields mean.
 */
#ifndef DAEMON_WARDEN_DIAG_H
#define DAEMON_WARDEN_DIAG_H

#include "daemon/warden_path.h"

struct diag_sock {
	uint32_t ino;	 /* as in "socket:[INO]" */
	uint32_t peer;	 /* the other end's ino; 0: none, or it was not accepted yet (then it is not listed itself either) */
	uint32_t vfs_ino; /* of the file that it is bound to, the low 32 bits; 0: not bound to one */
	dev_t vfs_dev;	 /* as stat(2) gives it */
	uint64_t cookie; /* SO_COOKIE: names the socket until the next boot, unlike ino */
	uint8_t type, state;
	bool shut; /* both ways, by shutdown(2): it is connected still, and nothing is sent on it any more */
	const uint32_t *icons; /* DIAG_LISTEN: the clients that wait to be accepted, by ino; valid during the callback */
	size_t n_icons;
};

enum { DIAG_ESTABLISHED = 1, DIAG_LISTEN = 10 }; /* TCP_ESTABLISHED, TCP_LISTEN */

/* diag_open() - for the caller's own network namespace. */
MUST_CHECK int diag_open(void);

/*
 * diag_open_ns() - for the namespace behind @ns_fd; the caller needs CAP_SYS_ADMIN and is back in its own one
 * afterwards.
 */
MUST_CHECK int diag_open_ns(int ns_fd);

/*
 * diag_dump() - @fn for every Unix socket in one of @states (bits 1 << state). Stops when @fn returns non-zero,
 * and returns that.
 */
MUST_CHECK int diag_dump(int nl, uint32_t states, int (*fn)(void *arg, const struct diag_sock *s), void *arg);

/* diag_find() - the one socket with @ino. Return: 0; -ENOENT. */
MUST_CHECK int diag_find(int nl, uint32_t ino, struct diag_sock *ret_s);

/* diag_is_bound_to() - is the socket @sock (any descriptor of ours) bound to the file @id? */
bool diag_is_bound_to(int nl, int sock, const struct file_id *id);

/* diag_vfs_equal() - is that the file a socket is bound to? */
bool diag_vfs_equal(const struct diag_sock *s, const struct file_id *id);

#endif
