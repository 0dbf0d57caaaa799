/*
 * Theory of operation: the part of state.c that keeps who may ask the authority, by its rules: what is read back is checked as hostile, and what
 * was written is taken again. One row a host, as hosts join; one row for each time that is kept.
 *
 * Before this file: broker_authority.c, broker_member.c. After it: the same, at the next start.
 */
#include "daemon/state_asker.h"

#include "core/base64.h"
#include "daemon/state_int.h"

enum { STMT_PUT, STMT_FIND, STMT_OTHERS, STMT_EACH, STMT_PUT_TIME, STMT_TIME, STMT_N };
static_assert((int)STMT_N <= (int)STATE_ASKER_STMTS, "room for each");

enum { KEY_HEX_SIZE = 2 * KEY_POINT_SIZE + 1 };

static const char *const g_statements[STMT_N] = {
	[STMT_PUT] = "INSERT OR REPLACE INTO ca_asker VALUES(?1, ?2, ?3)",
	[STMT_FIND] = "SELECT host, key, since_unix_s FROM ca_asker WHERE host = ?1",
	[STMT_OTHERS] = "SELECT count(*) FROM ca_asker WHERE host <> ?1",
	[STMT_EACH] = "SELECT host, key, since_unix_s FROM ca_asker",
	[STMT_PUT_TIME] = "INSERT OR REPLACE INTO ca_list VALUES(?1, ?2)",
	[STMT_TIME] = "SELECT made_unix_s FROM ca_list WHERE id = ?1",
};

static bool read_row(sqlite3_stmt *s, struct state_asker *ret)
{
	char key[KEY_HEX_SIZE];

	return sql_column_text(s, 0, ret->host, sizeof(ret->host)) && label_is_valid(ret->host) && sql_column_text(s, 1, key, sizeof(key)) &&
	       hex_decode(ret->key, sizeof(ret->key), key) == 0 && sql_column_number(s, 2, 0, INT64_MAX, &ret->since_unix_s);
}

int state_put_asker(struct state_db *db, const struct state_asker *a)
{
	sqlite3_stmt *s = db->asker_stmts[STMT_OTHERS];
	char key[KEY_HEX_SIZE];
	int rc = SQLITE_OK, r;

	if (!label_is_valid(a->host) || a->since_unix_s < 0)
		return -EINVAL;
	sql_bind_text(s, &rc, 1, a->host);
	r = sql_has_room(s, rc, LIMIT_CA_ASKERS);
	if (r < 0)
		return r;
	s = db->asker_stmts[STMT_PUT];
	rc = SQLITE_OK;
	sql_bind_text(s, &rc, 1, a->host);
	sql_bind_text(s, &rc, 2, hex_encode(key, a->key, sizeof(a->key)));
	sql_bind_number(s, &rc, 3, a->since_unix_s);
	return sql_run(s, rc);
}

int state_find_asker(struct state_db *db, const char *host, struct state_asker *ret)
{
	sqlite3_stmt *s = db->asker_stmts[STMT_FIND];
	struct state_asker a = {};
	int rc = SQLITE_OK, r = -ENOENT, failed;

	sql_bind_text(s, &rc, 1, host);
	if (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW)
		r = read_row(s, &a) ? 0 : -EBADMSG;
	failed = sql_finish(s, rc);
	if (failed < 0 || r < 0)
		return failed < 0 ? failed : r;
	*ret = a;
	return 0;
}

int state_has_askers(struct state_db *db)
{
	sqlite3_stmt *s = db->asker_stmts[STMT_OTHERS];
	int rc = SQLITE_OK, r;

	sql_bind_text(s, &rc, 1, ""); /* which no host is called */
	r = sql_has_room(s, rc, 1);
	return r == -ENOSPC ? 1 : r;
}

int state_put_time(struct state_db *db, enum state_time which, int64_t unix_s)
{
	sqlite3_stmt *s = db->asker_stmts[STMT_PUT_TIME];
	int rc = SQLITE_OK;

	if (unix_s < 0)
		return -EINVAL;
	sql_bind_number(s, &rc, 1, which);
	sql_bind_number(s, &rc, 2, unix_s);
	return sql_run(s, rc);
}

int state_get_time(struct state_db *db, enum state_time which, int64_t *ret)
{
	sqlite3_stmt *s = db->asker_stmts[STMT_TIME];
	int64_t unix_s = 0;
	int rc = SQLITE_OK, r = 0, failed;

	sql_bind_number(s, &rc, 1, which);
	if (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW && !sql_column_number(s, 0, 0, INT64_MAX, &unix_s))
		r = -EBADMSG;
	failed = sql_finish(s, rc);
	if (failed < 0 || r < 0)
		return failed < 0 ? failed : r;
	*ret = unix_s;
	return 0;
}

static int check_all(sqlite3_stmt *s)
{
	struct state_asker unused;
	int rc, r = 0, failed;
	size_t n = 0;

	while ((rc = sqlite3_step(s)) == SQLITE_ROW && r == 0)
		r = n++ < LIMIT_CA_ASKERS && read_row(s, &unused) ? 0 : -EBADMSG;
	failed = sql_finish(s, rc);
	return r ? r : failed;
}

int state_asker_start(struct state_db *db)
{
	int64_t unused;
	int r = 0;

	for (size_t i = 0; i < STMT_N && r == 0; i++)
		r = sql_error(sqlite3_prepare_v3(db->sql, g_statements[i], -1, SQLITE_PREPARE_PERSISTENT, &db->asker_stmts[i], NULL));
	if (r == 0)
		r = check_all(db->asker_stmts[STMT_EACH]);
	for (int which = STATE_TIME_LIST; r == 0 && which < STATE_TIME_END; which++)
		r = state_get_time(db, (enum state_time)which, &unused);
	return r;
}
