/*
 * The services' own listening sockets: where they are, whether somebody listens there and who, and connections to them.
 *
 * Ownership: struct servers owns its table and descriptors. Threads: one, the warden's event loop. Blocking: never.
 * Trust: the directory and the socket are the server's container's: hostile at every moment. Only inodes that were
 * checked once are ever linked or connected to.
 */
#ifndef DAEMON_WARDEN_SERVER_H
#define DAEMON_WARDEN_SERVER_H

#include "daemon/identity.h"
#include "daemon/warden_files.h"

#include <event2/event.h>

enum { SERVER_PAST = 4 };

struct servers;
struct connecting;

/* Where reading the descriptors of many processes stopped for lack of time: go on with this process, there. */
struct lane_cursor {
	pid_t pid;
	long at;
};

struct server {
	uint32_t sid, wid;
	int32_t mode;
	int64_t uid, gid; /* -1: leave it */
	char path[LIMIT_PATH_SIZE];
	int wd;		   /* inotify's number of its directory; -1: not there yet */
	int fd;		   /* O_PATH of the socket that was found last; -1 */
	struct file_id id; /* and which it is */
	struct file_id past[SERVER_PAST]; /* sockets it had before: connections to those may live on */
	unsigned n_past;
	bool up, linkable;
	bool proved;	   /* its listener belongs to the workload: only then are mode and owner set */
	bool refused;	   /* that inode will never do: it was told why, once */
	uint32_t pid;	   /* who listens, as of the last connection */
	uint64_t cgroup_id;
	struct servers *v;
	struct connecting *waiting; /* for room in its backlog, the oldest first */
	size_t n_waiting;
	struct event *retry;
	unsigned retry_ms;
	struct lane_cursor cursor; /* warden_lanes.c, among its processes */
	bool told_link;		 /* its path leads over a symbolic link: once is enough for the log */
	uint64_t quick_until_ns; /* a socket is there but nobody listens yet: look often until then */
	UT_hash_handle hh;
};

struct servers {
	struct event_base *base;
	struct files *files;
	enum identity_method method;
	struct server *table; /* by sid */
	struct event *on_change, *quick, *tick, *resume;
	int inotify_fd;
	size_t n_connecting;

	/* A server's state changed: tell the broker. */
	void (*on_state)(void *arg, const struct server *s);
	/*
	 * Does the process that was found listening belong to that workload? Fills @why. Return: 0: yes; 1: it cannot be told
	 * yet, the workload has no cgroup; negative errno.
	 */
	int (*check_owner)(void *arg, uint32_t wid, struct identity *who, char *why);
	/* The outcome of servers_connect(). @sock is the callee's to close when @error is 0. */
	void (*on_connected)(void *arg, uint32_t seq, const struct server *s, int error, int sock, const char *why);
	void *arg;
};

MUST_CHECK int servers_open(struct servers *v, struct event_base *base, struct files *files);
void servers_close(struct servers *v);

/* servers_watch() - watch (or, told again, watch anew) a service's socket; on_state follows, perhaps at once. */
MUST_CHECK int servers_watch(struct servers *v, const struct role_server *m, char *why);
void servers_forget(struct servers *v, uint32_t sid);
struct server *servers_find(struct servers *v, uint32_t sid);

/* servers_recheck_workload() - a cgroup was enrolled or forgotten for it: ask again whose its listeners are. */
void servers_recheck_workload(struct servers *v, uint32_t wid);

/*
 * servers_connect() - connect to the server and prove that its listener belongs to the service's workload; on_connected
 * tells, at once or within a second (the server's backlog is full: -EAGAIN then, and at once for all but the first 256
 * that wait). The server's mode and owner are set only after such a proof.
 */
void servers_connect(struct servers *v, uint32_t seq, uint32_t sid);

#endif
