/*
 * What the parts of the state database share: state.c (the file, intentions, enrolments), state_ca.c (certificates),
 * state_catalogue.c (what etcd told), state_asker.c (who may ask the authority).
 */
#ifndef DAEMON_STATE_INT_H
#define DAEMON_STATE_INT_H

#include "daemon/state.h"

#include <sqlite3.h>

enum {
	STATE_STMTS_MAX = 32,
	STATE_BOOT_ID_SIZE = 64, /* a UUID has 36 characters */
	STATE_CA_TABLES = 7, /* with the index */
	STATE_CATALOGUE_TABLES = 2,
	STATE_ASKER_TABLES = 2,
	STATE_ASKER_STMTS = 8,
};

/* What the file's version 2 adds to version 1; check_schema() compares each statement with the file's own, word for word. */
#define STATE_CA_SCHEMA \
	"CREATE TABLE membership(" \
	"id INTEGER NOT NULL PRIMARY KEY, is_authority INTEGER NOT NULL, trust_domain TEXT NOT NULL, host TEXT NOT NULL, " \
	"authority TEXT NOT NULL, address TEXT NOT NULL, revoked_version INTEGER NOT NULL, roots TEXT NOT NULL) STRICT, WITHOUT ROWID;" \
	"CREATE TABLE certificate(" \
	"name TEXT NOT NULL PRIMARY KEY, key TEXT NOT NULL, issued_unix_s INTEGER NOT NULL, pem TEXT NOT NULL) STRICT, WITHOUT ROWID;" \
	"CREATE TABLE ca_grant(" \
	"host TEXT NOT NULL, pattern TEXT NOT NULL, allow INTEGER NOT NULL, PRIMARY KEY(host, pattern)) STRICT, WITHOUT ROWID;" \
	"CREATE TABLE ca_token(" \
	"hash TEXT NOT NULL PRIMARY KEY, host TEXT NOT NULL, services TEXT NOT NULL, made_unix_s INTEGER NOT NULL, " \
	"expires_unix_s INTEGER NOT NULL, used_unix_s INTEGER NOT NULL) STRICT, WITHOUT ROWID;" \
	"CREATE TABLE ca_issued(" \
	"serial TEXT NOT NULL PRIMARY KEY, spiffe_id TEXT NOT NULL, host TEXT NOT NULL, issued_unix_s INTEGER NOT NULL, " \
	"not_after INTEGER NOT NULL) STRICT, WITHOUT ROWID;" \
	"CREATE TABLE revoked(" \
	"entry TEXT NOT NULL PRIMARY KEY, since_unix_s INTEGER NOT NULL, until_unix_s INTEGER NOT NULL) STRICT, WITHOUT ROWID;"

/*
 * What version 5 changes: the list of what is revoked is known by epoch and counter. A table cannot be changed in place, since its
 * statement is compared; a list of before has no epoch, so a member asks for it anew. And what was issued to a host is found at once.
 */
#define STATE_REVOKED_SCHEMA \
	"CREATE TEMP TABLE kept AS SELECT * FROM membership;" \
	"DROP TABLE membership;" \
	"CREATE TABLE membership(" \
	"id INTEGER NOT NULL PRIMARY KEY, is_authority INTEGER NOT NULL, trust_domain TEXT NOT NULL, host TEXT NOT NULL, " \
	"authority TEXT NOT NULL, address TEXT NOT NULL, revoked_epoch INTEGER NOT NULL, revoked_counter INTEGER NOT NULL, " \
	"roots TEXT NOT NULL) STRICT, WITHOUT ROWID;" \
	"INSERT INTO membership SELECT id, is_authority, trust_domain, host, authority, address, 0, 0, roots FROM kept;" \
	"DROP TABLE kept;" \
	"CREATE INDEX ca_issued_host ON ca_issued(host, spiffe_id);"

/* What version 3 adds. */
#define STATE_CATALOGUE_SCHEMA \
	"CREATE TABLE catalogue_entry(key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;" \
	"CREATE TABLE catalogue_known(" \
	"id INTEGER NOT NULL PRIMARY KEY, prefix TEXT NOT NULL, cluster_id INTEGER NOT NULL, revision INTEGER NOT NULL, epoch TEXT NOT NULL, " \
	"generation INTEGER NOT NULL, heard_unix_s INTEGER NOT NULL, reset_unix_s INTEGER NOT NULL) STRICT, WITHOUT ROWID;"

/* What version 4 adds: who may ask the authority, and when a member's list was made. */
#define STATE_ASKER_SCHEMA \
	"CREATE TABLE ca_asker(host TEXT NOT NULL PRIMARY KEY, key TEXT NOT NULL, since_unix_s INTEGER NOT NULL) STRICT, WITHOUT ROWID;" \
	"CREATE TABLE ca_list(id INTEGER NOT NULL PRIMARY KEY, made_unix_s INTEGER NOT NULL) STRICT, WITHOUT ROWID;"

struct state_db {
	sqlite3 *sql;
	sqlite3_stmt *stmts[STATE_STMTS_MAX];	 /* state.c's */
	sqlite3_stmt *ca_stmts[STATE_STMTS_MAX]; /* state_ca.c's */
	sqlite3_stmt *catalogue_stmts[STATE_STMTS_MAX]; /* state_catalogue.c's */
	sqlite3_stmt *asker_stmts[STATE_ASKER_STMTS]; /* state_asker.c's */
	int64_t n_issued, n_revoked; /* rows; -1: not counted since something changed that did not count itself */
	char boot_id[STATE_BOOT_ID_SIZE];
};

/* state_ca_start() - prepare state_ca.c's statements and read every row once. Return: 0 or negative errno. */
MUST_CHECK int state_ca_start(struct state_db *db);

/* state_catalogue_start() - likewise. */
MUST_CHECK int state_catalogue_start(struct state_db *db);

/* state_asker_start() - likewise. */
MUST_CHECK int state_asker_start(struct state_db *db);

/* Statements: state.c says more. sql_bind_*() keep the first failure in @rc, sql_run() and sql_finish() tell it. */
int sql_error(int rc);
void sql_bind_text(sqlite3_stmt *s, int *rc, int at, const char *text);
void sql_bind_number(sqlite3_stmt *s, int *rc, int at, int64_t v);
MUST_CHECK int sql_run(sqlite3_stmt *s, int rc);
MUST_CHECK int sql_finish(sqlite3_stmt *s, int rc);
/* sql_has_room() - execute a bound count statement. Return: 0; -ENOSPC if @limit or more rows are there. */
MUST_CHECK int sql_has_room(sqlite3_stmt *s, int rc, int64_t limit);
bool sql_column_text(sqlite3_stmt *s, int column, char *dst, size_t size);
bool sql_column_number(sqlite3_stmt *s, int column, int64_t min, int64_t max, int64_t *ret);
/* A pattern has one spelling, so that a row can be found again by it. */
bool sql_column_pattern(sqlite3_stmt *s, int column, struct service_pattern *ret);
/* No control characters, and it ends. */
bool sql_is_plain_text(const char *s, size_t size);

#endif
