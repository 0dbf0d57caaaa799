/*
 * One conversation with etcd: authenticate, read everything below the prefix, watch it, keep a lease and under it what this host
 * says of itself (docs/design/catalogue.md, "From connecting to watching"). Over libcurl's multi interface; no thread of ours.
 *
 * Ownership: the session copies what it is given. Blocks only in session_poll(). What the callbacks are told has passed etcd.c and,
 * for entries, entry.c; what they get is good while they run, and they must not call back into the session but for session_own(),
 * session_write() and session_accept().
 */
#ifndef CATALOGUE_SESSION_H
#define CATALOGUE_SESSION_H

#include "wire/role.h"

#include <poll.h>

struct session;

/* What TLS and the password need; owned by the caller, and needed until session_free(). NULL: none. */
struct session_file {
	char *text;
	size_t size;
};

struct session_events {
	void *arg;
	void (*state)(void *arg, enum etcd_state state, const char *endpoint, const char *why);
	void (*begin)(void *arg, uint64_t cluster_id, uint64_t revision);
	void (*entry)(void *arg, enum etcd_entry_state state, uint64_t revision, const char *key, const char *value);
	void (*end)(void *arg, uint64_t cluster_id, uint64_t revision);
	void (*taken)(void *arg, const char *key, const char *value);
	void (*done)(void *arg, uint32_t seq, int error, const char *why);
};

/* session_global() - once in a process, before it shuts itself in: libcurl and its TLS library read their own files. */
MUST_CHECK int session_global(void);

/* session_new() - @files: ETCD_FILE_N of them. Does nothing before session_start(). Return: 0 or -ENOMEM. */
MUST_CHECK int session_new(struct session **ret, const struct session_file *files, const struct session_events *events);
struct session *session_free(struct session *s);

/* session_own() - an entry of this host; @value NULL: no more. Return: 0; -ENOMEM; -ENOSPC. */
MUST_CHECK int session_own(struct session *s, const char *key, const char *value);

/* session_start() - connect, and go on until the end. */
void session_start(struct session *s, const struct role_etcd *where);

/* session_write() - without a lease; @value NULL: delete. session_accept() - put this epoch if nobody else did. events.done follows. */
void session_write(struct session *s, uint32_t seq, const char *key, const char *value);
void session_accept(struct session *s, uint32_t seq, const char *value);

/* session_poll() - wait for etcd, a timer or one of @fds, for 1 s at most, and do what there is to do. Return: 0 or negative errno. */
MUST_CHECK int session_poll(struct session *s, struct pollfd *fds, size_t n_fds);

#endif
