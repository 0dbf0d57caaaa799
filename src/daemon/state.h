/*
 * What survives a restart of the daemon: run-time intentions, enrolments, certificates, in one SQLite file (WAL, FULL) in the state
 * directory. The file's own intentions are not copied here.
 *
 * Blocks for one disk write (about 0.3 ms, research/mesh.md section 5); called only on a user's change, and when a certificate
 * is issued or comes.
 */
#ifndef DAEMON_STATE_H
#define DAEMON_STATE_H

#include "core/policy.h"
#include "core/revoked.h"

struct state_db;

struct state_enrolment {
	char workload[LIMIT_NAME_SIZE];
	struct service_name service; /* of a workload made at run time; empty name: the workload is configured */
	uint64_t cgroup_id;	     /* valid for boot_id only */
	char cgroup_path[LIMIT_PATH_SIZE];
	char container_id[128];
	char by[64];
};

/*
 * state_open() - open or make DIR/state.db, check and migrate its schema; forget enrolments of another boot.
 * @boot_id: /proc/sys/kernel/random/boot_id. @ret_why: 256 bytes, a line for people on failure.
 * Return: 0 or negative errno. A damaged file is -EBADMSG and is left alone (the daemon refuses to start and says so), one
 * of a newer sealane is -ENOTSUP, one that another daemon has open is -EBUSY (after 3 s). Trust: the file is hostile;
 * what state_each_*() hands out is checked.
 */
MUST_CHECK int state_open(struct state_db **ret_db, const char *dir, const char *boot_id, char *ret_why);
struct state_db *state_close(struct state_db *db);

/*
 * state_put_*() - add or replace. -EINVAL: it breaks the rules by which the file is read again; -ENOSPC: the disk or the
 * table (LIMIT_INTENTIONS, LIMIT_WORKLOADS) is full. state_delete_*() - 0 also when there was none. On failure nothing changed.
 */
MUST_CHECK int state_put_intention(struct state_db *db, const struct intention *i);
MUST_CHECK int state_delete_intention(struct state_db *db, const struct service_pattern *source,
				      const struct service_pattern *destination);
/* state_each_*() - stops at non-zero, returns it; negative errno on a database error. */
MUST_CHECK int state_each_intention(struct state_db *db, int (*fn)(void *arg, const struct intention *i), void *arg);

MUST_CHECK int state_put_enrolment(struct state_db *db, const struct state_enrolment *e);
MUST_CHECK int state_delete_enrolment(struct state_db *db, const char *workload);
MUST_CHECK int state_each_enrolment(struct state_db *db, int (*fn)(void *arg, const struct state_enrolment *e), void *arg);

/* --- state_ca.c: certificates (docs/design/link.md). Functions as above; names of hosts and services are checked as all else. --- */

enum {
	STATE_KEY_NAME_SIZE = 2 * LIMIT_NAME_SIZE + 16,
	STATE_SERIAL_SIZE = REVOKED_SERIAL_SIZE,	 /* hexadecimal, lower case */
	STATE_REVOKED_SIZE = REVOKED_LINE_SIZE,
	STATE_SERVICES_SIZE = 4096,			 /* patterns of one token, with blanks between */
};

/* What this host belongs to; one row or none. */
struct state_membership {
	bool is_authority;
	char trust_domain[LIMIT_TRUST_DOMAIN_SIZE];
	char host[LIMIT_NAME_SIZE];	   /* ours, as it stands in our certificate */
	char authority[LIMIT_NAME_SIZE];   /* the authority's */
	char address[LIMIT_ADDRESS_SIZE];  /* the authority's; "" on itself */
	struct revoked_version revoked;	   /* which list stands in the table of what is revoked */
	const char *roots;		   /* PEM */
};

/* A certificate of this host's; its key lies with the signer, under the name @key. */
struct state_certificate {
	char name[LIMIT_SERVICE_SIZE]; /* "host", or "ns/name" */
	char key[STATE_KEY_NAME_SIZE];
	int64_t issued_unix_s; /* when it came, by our clock */
	const char *pem;
};

/* The authority: @host may (or, if !allow, must not) have certificates for services that @pattern means. */
struct state_grant {
	char host[LIMIT_NAME_SIZE];
	struct service_pattern pattern;
	bool allow;
	bool stood; /* !allow, exact: it took the place of one that allowed, and gives it back when it goes */
};

struct state_token {
	char known[2 * 32 + 1]; /* struct token_known, hexadecimal: its first half names the token */
	char host[LIMIT_NAME_SIZE];
	char services[STATE_SERVICES_SIZE]; /* patterns, granted when it is used */
	int64_t made_unix_s, expires_unix_s;
	int64_t used_unix_s; /* 0: it is open */
};

struct state_issued {
	char serial[STATE_SERIAL_SIZE];
	char spiffe_id[LIMIT_SPIFFE_ID_SIZE];
	char host[LIMIT_NAME_SIZE]; /* to whom */
	int64_t issued_unix_s, not_after;
};

struct state_revoked {
	char entry[STATE_REVOKED_SIZE]; /* a line of the list (core/revoked.h) */
	int64_t since_unix_s;
	int64_t until_unix_s; /* 0: for ever */
};

/* state_begin(), state_end() - what is written between them is written whole or not at all. @error: not 0: not at all, and returned. */
MUST_CHECK int state_begin(struct state_db *db);
MUST_CHECK int state_end(struct state_db *db, int error);

MUST_CHECK int state_put_membership(struct state_db *db, const struct state_membership *m);
MUST_CHECK int state_each_membership(struct state_db *db, int (*fn)(void *arg, const struct state_membership *m), void *arg);

MUST_CHECK int state_put_certificate(struct state_db *db, const struct state_certificate *c);
MUST_CHECK int state_delete_certificate(struct state_db *db, const char *name);
MUST_CHECK int state_each_certificate(struct state_db *db, int (*fn)(void *arg, const struct state_certificate *c), void *arg);

MUST_CHECK int state_put_grant(struct state_db *db, const struct state_grant *g);
MUST_CHECK int state_delete_grant(struct state_db *db, const char *host, const struct service_pattern *pattern);
MUST_CHECK int state_each_grant(struct state_db *db, int (*fn)(void *arg, const struct state_grant *g), void *arg);
MUST_CHECK int state_each_grant_of(struct state_db *db, const char *host, int (*fn)(void *arg, const struct state_grant *g), void *arg);

/* state_forget_*() - those that ended before @before (Unix seconds). */
MUST_CHECK int state_put_token(struct state_db *db, const struct state_token *t);
MUST_CHECK int state_use_token(struct state_db *db, const char *known, int64_t now);
/* state_change_token() - the services and the end of the one that @t->known names. */
MUST_CHECK int state_change_token(struct state_db *db, const struct state_token *t);
MUST_CHECK int state_forget_tokens(struct state_db *db, int64_t before);
MUST_CHECK int state_each_token(struct state_db *db, int (*fn)(void *arg, const struct state_token *t), void *arg);
/* state_find_token() - the one that @id names (hexadecimal), if there is one. */
MUST_CHECK int state_find_token(struct state_db *db, const char *id, int (*fn)(void *arg, const struct state_token *t), void *arg);

/* state_put_issued() - a serial is given once: -EBADMSG if it is there. */
MUST_CHECK int state_put_issued(struct state_db *db, const struct state_issued *i);
MUST_CHECK int state_forget_issued(struct state_db *db, int64_t before);
MUST_CHECK int state_each_issued(struct state_db *db, int (*fn)(void *arg, const struct state_issued *i), void *arg);
/* state_find_issued() - those whose serial begins with @serial (hexadecimal), 9 at most. */
MUST_CHECK int state_find_issued(struct state_db *db, const char *serial, int (*fn)(void *arg, const struct state_issued *i), void *arg);
/* state_each_newest() - of each host and SPIFFE ID the last one that was issued and ends at @now or later; @n: how many such ones there are. */
MUST_CHECK int state_each_newest(struct state_db *db, int64_t now, int (*fn)(void *arg, const struct state_issued *i, uint64_t n), void *arg);
/* state_last_issued() - when the last one for @spiffe_id was issued to @host (0: none was), and how many the table has. */
MUST_CHECK int state_last_issued(struct state_db *db, const char *host, const char *spiffe_id, int64_t *ret_unix_s, uint64_t *ret_n);
/* state_trim_issued() - of what was issued to @host only the last @keep stay in the table. */
MUST_CHECK int state_trim_issued(struct state_db *db, const char *host, int64_t keep);
/* state_halve_issued() - the table is full: of the host that has the most in it, the older half goes. -ENOENT: it is not full. */
MUST_CHECK int state_halve_issued(struct state_db *db, char ret_host[LIMIT_NAME_SIZE]);

/* state_revoked_is_sound() - may @entry stand in the list? Also for one that came from another host. */
bool state_revoked_is_sound(const char *entry);
MUST_CHECK int state_put_revoked(struct state_db *db, const struct state_revoked *e);
MUST_CHECK int state_delete_revoked(struct state_db *db, const char *entry);
MUST_CHECK int state_forget_revoked(struct state_db *db, int64_t before);
MUST_CHECK int state_clear_revoked(struct state_db *db);
MUST_CHECK int state_each_revoked(struct state_db *db, int (*fn)(void *arg, const struct state_revoked *e), void *arg);

#endif
