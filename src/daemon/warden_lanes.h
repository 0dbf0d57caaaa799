/*
 * Direct lanes: connections that the kernel made between a client and a server's own socket, found and cut from outside.
 *
 * Ownership: struct lanes owns its tables; cgroups and servers are borrowed. Threads: one. Blocking: a scan reads the
 * descriptors of the servers' processes and, for lanes that those do not explain, the clients': some 2 us each, each kind
 * for at most 300 ms.
 */
#ifndef DAEMON_WARDEN_LANES_H
#define DAEMON_WARDEN_LANES_H

#include "daemon/warden_cgroup.h"
#include "daemon/warden_server.h"

struct guard;
struct own_socket;
struct lane_watch;

struct lanes {
	struct cgroups *cgroups;
	struct servers *servers;
	unsigned n_own, n_own_kept; /* how many; and as of the last time that those that are gone were forgotten */
	unsigned watch_ms;
	struct lane_cursor cursors[2]; /* among the processes of the workload that is cut; among all clients' */
	struct own_socket *own; /* sockets that we connected for the gates: their lanes are the broker's, not direct ones */
	struct lane_watch *watches;
	struct event *tick;
	struct guard *guard; /* borrowed; NULL: lanes are attributed by who holds them, and watched after a cut */
};

MUST_CHECK int lanes_open(struct lanes *n, struct event_base *base, struct cgroups *cgroups, struct servers *servers);
void lanes_close(struct lanes *n);

/* lanes_note_own() - @sock was connected by us to a server. */
void lanes_note_own(struct lanes *n, int sock);

/* lanes_scan() - @fn for each direct lane of any server. Return: how many, or negative errno. */
MUST_CHECK int lanes_scan(struct lanes *n, void (*fn)(void *arg, const struct role_lane *l), void *arg);

/*
 * lanes_cut() - end the direct lanes from a workload (ROLE_NO_ID: from anybody) to a server, and those of a container
 * that no enrolled process holds any more. watch: and again whenever one appears, until lanes_allow(); where
 * the guard keeps new ones out, once more only.
 * Return: how many, or negative errno.
 */
MUST_CHECK int lanes_cut(struct lanes *n, const struct role_cut *m);
/* lanes_allow() - the pair may have direct lanes again: stop watching. */
void lanes_allow(struct lanes *n, uint32_t sid, uint32_t wid);
/* lanes_forget() - the server or the workload is gone (ROLE_NO_ID: any). */
void lanes_forget(struct lanes *n, uint32_t sid, uint32_t wid);

#endif
