/*
 * Theory of operation: the part of state.c that keeps what etcd told. Entries are kept as etcd had them, key and value, so that the
 * parser that stands between the network and the broker also stands between the disk and the broker (catalogue/entry.c). One row
 * beside them says of which data they are; both change in one transaction, so after a kill they fit together.
 *
 * Before this file: broker_catalogue.c. After it: the same, at the next start.
 */
#include "daemon/state_catalogue.h"

#include "daemon/state_int.h"

enum { STMT_PUT, STMT_DELETE, STMT_EACH, STMT_CLEAR, STMT_PUT_KNOWN, STMT_KNOWN, STMT_CLEAR_KNOWN, STMT_N };
static_assert((int)STMT_N <= (int)STATE_STMTS_MAX, "room for each");

static const char *const g_statements[STMT_N] = {
	[STMT_PUT] = "INSERT OR REPLACE INTO catalogue_entry VALUES(?1, ?2)",
	[STMT_DELETE] = "DELETE FROM catalogue_entry WHERE key = ?1",
	[STMT_EACH] = "SELECT key, value FROM catalogue_entry ORDER BY key",
	[STMT_CLEAR] = "DELETE FROM catalogue_entry",
	[STMT_PUT_KNOWN] = "INSERT OR REPLACE INTO catalogue_known VALUES(1, ?1, ?2, ?3, ?4, ?5, ?6, ?7)",
	[STMT_KNOWN] = "SELECT prefix, cluster_id, revision, epoch, generation, heard_unix_s, reset_unix_s FROM catalogue_known",
	[STMT_CLEAR_KNOWN] = "DELETE FROM catalogue_known",
};

static bool is_sound(const char *key, const char *value)
{
	struct entry e;

	return strlen(key) < LIMIT_CATALOGUE_KEY_SIZE && strlen(value) < LIMIT_CATALOGUE_VALUE_SIZE && entry_parse(&e, key, value) == 0;
}

static bool known_is_sound(const struct state_known *k)
{
	return sql_is_plain_text(k->prefix, sizeof(k->prefix)) && k->prefix[0] == '/' && k->heard_unix_s >= 0 && k->reset_unix_s >= 0 &&
	       k->revision <= INT64_MAX && k->epoch.generation <= INT64_MAX &&
	       strspn(k->epoch.epoch, "0123456789abcdef") == ENTRY_EPOCH_SIZE - 1;
}

int state_catalogue_known(struct state_db *db, struct state_known *ret)
{
	sqlite3_stmt *s = db->catalogue_stmts[STMT_KNOWN];
	struct state_known k = { .prefix = "" };
	int64_t cluster_id = 0, revision = 0, generation = 0;
	int rc = sqlite3_step(s), r = -ENOENT, failed;

	if (rc == SQLITE_ROW)
		r = sql_column_text(s, 0, k.prefix, sizeof(k.prefix)) && sql_column_number(s, 1, INT64_MIN, INT64_MAX, &cluster_id) &&
				    sql_column_number(s, 2, 0, INT64_MAX, &revision) &&
				    sql_column_text(s, 3, k.epoch.epoch, sizeof(k.epoch.epoch)) &&
				    sql_column_number(s, 4, 0, INT64_MAX, &generation) &&
				    sql_column_number(s, 5, 0, INT64_MAX, &k.heard_unix_s) &&
				    sql_column_number(s, 6, 0, INT64_MAX, &k.reset_unix_s) ?
			    0 :
			    -EBADMSG;
	failed = sql_finish(s, rc);
	k.cluster_id = (uint64_t)cluster_id; /* SQLite has no unsigned numbers: the bits are kept */
	k.revision = (uint64_t)revision;
	k.epoch.generation = (uint64_t)generation;
	if (r == 0 && !known_is_sound(&k))
		r = -EBADMSG;
	if (failed < 0 || r < 0)
		return failed < 0 ? failed : r;
	*ret = k;
	return 0;
}

int state_catalogue_each(struct state_db *db, int (*fn)(void *arg, const char *key, const char *value), void *arg)
{
	sqlite3_stmt *s = db->catalogue_stmts[STMT_EACH];
	char key[LIMIT_CATALOGUE_KEY_SIZE], value[LIMIT_CATALOGUE_VALUE_SIZE];
	size_t n = 0;
	int rc = SQLITE_OK, r = 0, failed;

	while (r == 0 && (rc = sqlite3_step(s)) == SQLITE_ROW) {
		bool good = n++ < LIMIT_CATALOGUE_ENTRIES && sql_column_text(s, 0, key, sizeof(key)) &&
			    sql_column_text(s, 1, value, sizeof(value)) && is_sound(key, value);

		r = good ? 0 : -EBADMSG;
		if (r == 0 && fn)
			r = fn(arg, key, value);
	}
	failed = sql_finish(s, rc);
	return r ? r : failed;
}

static int write_change(struct state_db *db, const struct state_change *c)
{
	sqlite3_stmt *s = db->catalogue_stmts[c->value ? STMT_PUT : STMT_DELETE];
	int rc = SQLITE_OK;

	if (c->value && !is_sound(c->key, c->value))
		return -EINVAL;
	sql_bind_text(s, &rc, 1, c->key);
	if (c->value)
		sql_bind_text(s, &rc, 2, c->value);
	return sql_run(s, rc);
}

static int write_known(struct state_db *db, const struct state_known *k)
{
	sqlite3_stmt *s = db->catalogue_stmts[STMT_PUT_KNOWN];
	int rc = SQLITE_OK;

	if (!known_is_sound(k))
		return -EINVAL;
	sql_bind_text(s, &rc, 1, k->prefix);
	sql_bind_number(s, &rc, 2, (int64_t)k->cluster_id);
	sql_bind_number(s, &rc, 3, (int64_t)k->revision);
	sql_bind_text(s, &rc, 4, k->epoch.epoch);
	sql_bind_number(s, &rc, 5, (int64_t)k->epoch.generation);
	sql_bind_number(s, &rc, 6, k->heard_unix_s);
	sql_bind_number(s, &rc, 7, k->reset_unix_s);
	return sql_run(s, rc);
}

static int exec(struct state_db *db, const char *text)
{
	return sql_error(sqlite3_exec(db->sql, text, NULL, NULL, NULL));
}

static int finish_transaction(struct state_db *db, int r)
{
	if (r == 0)
		r = exec(db, "COMMIT");
	if (r < 0 && !sqlite3_get_autocommit(db->sql))
		(void)exec(db, "ROLLBACK"); /* the failure before it is what counts */
	return r;
}

int state_catalogue_write(struct state_db *db, const struct state_known *known, const struct state_change *changes, size_t n)
{
	int r = exec(db, "BEGIN IMMEDIATE");

	if (r < 0)
		return r;
	for (size_t i = 0; r == 0 && i < n; i++)
		r = write_change(db, &changes[i]);
	if (r == 0)
		r = write_known(db, known);
	return finish_transaction(db, r);
}

int state_catalogue_forget(struct state_db *db)
{
	int r = exec(db, "BEGIN IMMEDIATE");

	if (r < 0)
		return r;
	r = sql_run(db->catalogue_stmts[STMT_CLEAR], SQLITE_OK);
	if (r == 0)
		r = sql_run(db->catalogue_stmts[STMT_CLEAR_KNOWN], SQLITE_OK);
	return finish_transaction(db, r);
}

int state_catalogue_start(struct state_db *db)
{
	struct state_known unused;
	int r = 0;

	for (size_t i = 0; i < STMT_N && r == 0; i++)
		r = sql_error(sqlite3_prepare_v3(db->sql, g_statements[i], -1, SQLITE_PREPARE_PERSISTENT, &db->catalogue_stmts[i], NULL));
	if (r == 0)
		r = state_catalogue_known(db, &unused);
	return r < 0 && r != -ENOENT ? r : state_catalogue_each(db, NULL, NULL);
}
