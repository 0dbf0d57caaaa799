/*
 * The warden's hands for links (docs/design/link.md): who runs them (linkers and the signer), the TCP sockets they are given, and
 * the files that somebody else puts certificates into.
 *
 * Ownership: struct warden holds it. Threads: one. Blocking: connect() does not, files do. Errors: 0 or negative errno, with a line
 * for people in @why (WARDEN_WHY_SIZE bytes).
 * Trust: addresses and the directory's name come from the broker; nothing of what comes over a socket is read.
 */
#ifndef DAEMON_WARDEN_LINK_H
#define DAEMON_WARDEN_LINK_H

#include "daemon/warden_keeper.h"
#include "wire/role.h"

#include <event2/event.h>

struct warden;

/* The keeper's names of listening TCP sockets: "tcp/10.0.0.1:7443". */
#define WARDEN_TCP_PREFIX "tcp/"

/* A role that is started again when it ends, later and later. */
struct role_slot {
	struct warden *w;
	uint32_t role, index; /* enum launch_role */
	uint32_t type;	      /* WB_LINKER, WB_SIGNER: with the broker's end of its channel */
	struct event *restart;
	uint64_t started_ns;
	unsigned delay_ms;
};

struct warden_link {
	struct role_slot signer, linkers[LIMIT_LINKERS];
	size_t n_linkers;
	bool running;		/* the signer was started */
	struct kept *listening; /* by the keeper's names */
	bool told_congestion;	/* that there is none of that name */
};

/* warden_link_open() - before anything else. -ENOMEM. */
MUST_CHECK int warden_link_open(struct warden *w);

/* warden_link_run() - the signer and @n linkers; again: as many more as are missing. */
void warden_link_run(struct warden *w, uint32_t n);

/* warden_link_exited() - the launcher tells that one has ended, or could not be started. */
void warden_link_exited(struct warden *w, uint32_t role, uint32_t index);

/* tcp_dial() - a socket that is connecting. *ret_fd: the caller's. An address that cannot be reached may also be told by the socket. */
MUST_CHECK int tcp_dial(struct warden_link *l, const struct role_dial *d, int *ret_fd, char *why);

/* tcp_listen() - make it, or take what is listening there already. @kept: what the keeper held, taken; -1: nothing. *ret_fd: borrowed. */
MUST_CHECK int tcp_listen(struct warden_link *l, const struct role_dial *d, int kept, int *ret_fd, bool *ret_is_new, char *why);

/* tcp_unlisten() - at @address no more, whoever else has the socket. */
void tcp_unlisten(struct warden_link *l, const char *address);

/*
 * tcp_release_port() - what an earlier daemon listened at with @address's port, and the keeper held, is given up: it may stand in the way of @address.
 * Return: there was any.
 */
bool tcp_release_port(struct keeper_link *k, const char *address);

/* tcp_key() - the keeper's name for @address into @buf of LIMIT_ADDRESS_SIZE + sizeof(WARDEN_TCP_PREFIX). Returns @buf. */
const char *tcp_key(char *buf, const char *address);

/*
 * certificates_read() - open what a linker or the signer needs from @dir: roots.pem, *.crt, *.key; ordinary files of at most
 * LIMIT_CHAIN_SIZE. @fn gets each name and descriptor, both borrowed, in no order.
 */
MUST_CHECK int certificates_read(const char *dir, void (*fn)(void *arg, const char *name, int fd), void *arg, char *why);

#endif
