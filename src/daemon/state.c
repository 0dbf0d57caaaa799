/*
 * Theory of operation: a table with one row per intention, one per enrolment, and those of state_ca.c and state_catalogue.c, written with prepared
 * statements, each change its own transaction. WAL with synchronous=FULL: a change that returned 0 survives a power cut, and a kill at any
 * instruction leaves the state before or after it. The file is locked for as long as it is open, so there is one writer;
 * that also keeps WAL's index in our own memory, so that state.db-wal is the only other file.
 *
 * The content is hostile: somebody may have damaged or edited the file. state_open() looks before it writes anything:
 * SQLite's own integrity check, our application id, exactly our tables and no trigger or view, and then every row, by the
 * same rules (intention_is_sound(), enrolment_is_sound()) that stand before every write. So what state_put_*() took,
 * the next state_open() takes too. Nothing is repaired silently: rules about who may talk to whom must not vanish.
 *
 * Schema versions stand in `user_version`; g_migrations[] leads from one to the next, in a transaction.
 *
 * Before this file: broker.c (a user's change). After it: core/policy.c (at the next start).
 */
#include "daemon/state_int.h"

#include <fcntl.h>
#include <stdio.h>

enum {
	APPLICATION_ID = 0x5ea1a4e, /* "sealane", as far as hex digits can spell it; tells our files from others */
	WHY_SIZE = 256,
	/* How long an old daemon's last moments may hold the lock. */
	BUSY_TIMEOUT_MS = 3000,
	/* Largest string or row SQLite may make: ours stay below 2 KiB, but for certificates (LIMIT_CHAIN_SIZE). */
	SQLITE_VALUE_SIZE = 256 << 10,
};

/* g_migrations[n] leads from version n to n + 1. */
static const char *const g_migrations[] = {
	"CREATE TABLE intention("
	"source TEXT NOT NULL, destination TEXT NOT NULL, action INTEGER NOT NULL, strict INTEGER NOT NULL, "
	"open_lanes INTEGER NOT NULL, connections_per_s INTEGER NOT NULL, bytes_per_s INTEGER NOT NULL, "
	"expires_unix_s INTEGER NOT NULL, place TEXT NOT NULL, PRIMARY KEY(source, destination)) STRICT, WITHOUT ROWID;"
	"CREATE TABLE enrolment("
	"workload TEXT NOT NULL PRIMARY KEY, ns TEXT NOT NULL, service TEXT NOT NULL, cgroup_id INTEGER NOT NULL, "
	"cgroup_path TEXT NOT NULL, container_id TEXT NOT NULL, enrolled_by TEXT NOT NULL, boot_id TEXT NOT NULL"
	") STRICT, WITHOUT ROWID;",
	STATE_CA_SCHEMA,
	STATE_CATALOGUE_SCHEMA,
	STATE_ASKER_SCHEMA,
	STATE_REVOKED_SCHEMA,
};

enum {
	STMT_PUT_INTENTION,
	STMT_DELETE_INTENTION,
	STMT_EACH_INTENTION,
	STMT_OTHER_INTENTIONS,
	STMT_PUT_ENROLMENT,
	STMT_DELETE_ENROLMENT,
	STMT_EACH_ENROLMENT,
	STMT_OTHER_ENROLMENTS,
	STMT_FORGET_BOOTS,
	STMT_N
};

static const char *const g_statements[STMT_N] = {
	[STMT_PUT_INTENTION] = "INSERT OR REPLACE INTO intention VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
	[STMT_DELETE_INTENTION] = "DELETE FROM intention WHERE source = ?1 AND destination = ?2",
	[STMT_EACH_INTENTION] = "SELECT source, destination, action, strict, open_lanes, connections_per_s, bytes_per_s, "
				"expires_unix_s, place FROM intention ORDER BY source, destination",
	[STMT_OTHER_INTENTIONS] = "SELECT count(*) FROM intention WHERE NOT (source = ?1 AND destination = ?2)",
	[STMT_PUT_ENROLMENT] = "INSERT OR REPLACE INTO enrolment VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
	[STMT_DELETE_ENROLMENT] = "DELETE FROM enrolment WHERE workload = ?1",
	[STMT_EACH_ENROLMENT] = "SELECT workload, ns, service, cgroup_id, cgroup_path, container_id, enrolled_by "
				"FROM enrolment ORDER BY workload",
	[STMT_OTHER_ENROLMENTS] = "SELECT count(*) FROM enrolment WHERE workload <> ?1",
	[STMT_FORGET_BOOTS] = "DELETE FROM enrolment WHERE boot_id <> ?1",
};

static_assert((int)STMT_N <= (int)STATE_STMTS_MAX, "room for each");

/* sql_error() - SQLite's result as ours: 0 or negative errno. */
int sql_error(int rc)
{
	switch (rc & 0xff) { /* the low byte is the primary code of an extended one */
	case SQLITE_OK:
	case SQLITE_ROW:
	case SQLITE_DONE:
		return 0;
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
	case SQLITE_FORMAT:
	case SQLITE_TOOBIG:
	case SQLITE_MISMATCH:
	case SQLITE_CONSTRAINT:
	case SQLITE_ERROR: /* our SQL is right, so the schema in the file is not */
		return -EBADMSG;
	case SQLITE_FULL:
		return -ENOSPC;
	case SQLITE_READONLY:
		return -EROFS;
	case SQLITE_PERM:
	case SQLITE_AUTH:
		return -EACCES;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return -EBUSY;
	default: /* SQLite tells why a write failed only when it was for lack of space */
		return -EIO;
	}
}

/* Rows: what may be written, and what is believed when it is read. */

bool sql_is_plain_text(const char *s, size_t size)
{
	size_t n = strnlen(s, size);

	if (n >= size)
		return false;
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
			return false;
	return true;
}

static bool pattern_is_sound(const struct service_pattern *p)
{
	switch (p->rank) {
	case PATTERN_ANY:
		return true;
	case PATTERN_NAMESPACE:
		return label_is_valid(p->service.ns);
	case PATTERN_EXACT:
		return label_is_valid(p->service.ns) && label_is_valid(p->service.name);
	}
	return false;
}

static bool intention_is_sound(const struct intention *i)
{
	return pattern_is_sound(&i->source) && pattern_is_sound(&i->destination) &&
	       (i->action == INTENTION_ALLOW || i->action == INTENTION_DENY) && i->expires_unix_s >= 0 &&
	       sql_is_plain_text(i->where, sizeof(i->where));
}

static bool cgroup_path_is_sound(const char *path, size_t size)
{
	if (!sql_is_plain_text(path, size))
		return false;
	if (path[0] == '\0')
		return true;
	for (const char *dots = strstr(path, "/.."); dots; dots = strstr(dots + 1, "/.."))
		if (dots[3] == '/' || dots[3] == '\0')
			return false;
	return path[0] == '/';
}

static bool enrolment_is_sound(const struct state_enrolment *e)
{
	bool no_service = e->service.ns[0] == '\0' && e->service.name[0] == '\0';

	return label_is_valid(e->workload) &&
	       (no_service || (label_is_valid(e->service.ns) && label_is_valid(e->service.name))) &&
	       cgroup_path_is_sound(e->cgroup_path, sizeof(e->cgroup_path)) &&
	       sql_is_plain_text(e->container_id, sizeof(e->container_id)) && sql_is_plain_text(e->by, sizeof(e->by));
}

/* Copy a text column. Return: false if it is no text, too long, or has a NUL inside. */
bool sql_column_text(sqlite3_stmt *s, int column, char *dst, size_t size)
{
	const unsigned char *text;
	int n;

	if (sqlite3_column_type(s, column) != SQLITE_TEXT)
		return false;
	text = sqlite3_column_text(s, column);
	n = sqlite3_column_bytes(s, column);
	if (!text || n < 0 || (size_t)n >= size || memchr(text, '\0', (size_t)n))
		return false;
	memset(dst, 0, size);
	memcpy(dst, text, (size_t)n);
	return true;
}

bool sql_column_number(sqlite3_stmt *s, int column, int64_t min, int64_t max, int64_t *ret)
{
	int64_t v;

	if (sqlite3_column_type(s, column) != SQLITE_INTEGER)
		return false;
	v = sqlite3_column_int64(s, column);
	if (v < min || v > max)
		return false;
	*ret = v;
	return true;
}

/* A pattern has one spelling, so that a row can be found again by it. */
bool sql_column_pattern(sqlite3_stmt *s, int column, struct service_pattern *ret)
{
	char text[LIMIT_SERVICE_SIZE], again[LIMIT_SERVICE_SIZE];

	return sql_column_text(s, column, text, sizeof(text)) && service_pattern_parse(ret, text, NULL) == 0 &&
	       strcmp(service_pattern_format(again, ret), text) == 0;
}

static int intention_from_row(sqlite3_stmt *s, struct intention *ret)
{
	int64_t action, strict, open_lanes, connections, bytes;

	memset(ret, 0, sizeof(*ret));
	if (!sql_column_pattern(s, 0, &ret->source) || !sql_column_pattern(s, 1, &ret->destination) ||
	    !sql_column_number(s, 2, INTENTION_DENY, INTENTION_ALLOW, &action) || !sql_column_number(s, 3, 0, 1, &strict) ||
	    !sql_column_number(s, 4, 0, UINT32_MAX, &open_lanes) || !sql_column_number(s, 5, 0, UINT32_MAX, &connections) ||
	    !sql_column_number(s, 6, INT64_MIN, INT64_MAX, &bytes) ||
	    !sql_column_number(s, 7, 0, INT64_MAX, &ret->expires_unix_s) ||
	    !sql_column_text(s, 8, ret->where, sizeof(ret->where)))
		return -EBADMSG;
	ret->action = (enum intention_action)action;
	ret->origin = INTENTION_FROM_RUNTIME;
	ret->strict = strict != 0;
	ret->limits.open_lanes = (uint32_t)open_lanes;
	ret->limits.connections_per_s = (uint32_t)connections;
	ret->limits.bytes_per_s = (uint64_t)bytes; /* SQLite has no unsigned numbers: the bits are kept */
	return intention_is_sound(ret) ? 0 : -EBADMSG;
}

static int enrolment_from_row(sqlite3_stmt *s, struct state_enrolment *ret)
{
	int64_t cgroup_id;

	memset(ret, 0, sizeof(*ret));
	if (!sql_column_text(s, 0, ret->workload, sizeof(ret->workload)) ||
	    !sql_column_text(s, 1, ret->service.ns, sizeof(ret->service.ns)) ||
	    !sql_column_text(s, 2, ret->service.name, sizeof(ret->service.name)) ||
	    !sql_column_number(s, 3, INT64_MIN, INT64_MAX, &cgroup_id) ||
	    !sql_column_text(s, 4, ret->cgroup_path, sizeof(ret->cgroup_path)) ||
	    !sql_column_text(s, 5, ret->container_id, sizeof(ret->container_id)) ||
	    !sql_column_text(s, 6, ret->by, sizeof(ret->by)))
		return -EBADMSG;
	ret->cgroup_id = (uint64_t)cgroup_id;
	return enrolment_is_sound(ret) ? 0 : -EBADMSG;
}

/* Statements. sql_bind_*() keep the first failure in @rc, so that a row is bound without a check after each column. */

void sql_bind_text(sqlite3_stmt *s, int *rc, int at, const char *text)
{
	if (*rc == SQLITE_OK)
		*rc = sqlite3_bind_text(s, at, text, -1, SQLITE_TRANSIENT);
}

void sql_bind_number(sqlite3_stmt *s, int *rc, int at, int64_t v)
{
	if (*rc == SQLITE_OK)
		*rc = sqlite3_bind_int64(s, at, v);
}

static void bind_pair(sqlite3_stmt *s, int *rc, const struct service_pattern *source,
		      const struct service_pattern *destination)
{
	char text[LIMIT_SERVICE_SIZE];

	sql_bind_text(s, rc, 1, service_pattern_format(text, source));
	sql_bind_text(s, rc, 2, service_pattern_format(text, destination));
}

/* sql_finish() - leave a statement as it was, whatever came of it. Return: the error of @rc. */
int sql_finish(sqlite3_stmt *s, int rc)
{
	int r = sql_error(rc);

	/* sqlite3_reset() tells the same failure once more; r has it already. */
	(void)sqlite3_reset(s);
	(void)sqlite3_clear_bindings(s);
	return r;
}

/* sql_run() - execute a bound statement that answers no rows; @rc is what binding it gave. */
int sql_run(sqlite3_stmt *s, int rc)
{
	if (rc == SQLITE_OK)
		rc = sqlite3_step(s);
	return sql_finish(s, rc);
}

/* sql_has_room() - execute a bound count statement. Return: 0; -ENOSPC if @limit or more rows are there. */
int sql_has_room(sqlite3_stmt *s, int rc, int64_t limit)
{
	int64_t n = limit;
	int r;

	if (rc == SQLITE_OK)
		rc = sqlite3_step(s);
	if (rc == SQLITE_ROW)
		n = sqlite3_column_int64(s, 0);
	r = sql_finish(s, rc);
	if (r < 0)
		return r;
	return n < limit ? 0 : -ENOSPC;
}

int state_put_intention(struct state_db *db, const struct intention *i)
{
	sqlite3_stmt *s = db->stmts[STMT_OTHER_INTENTIONS];
	int rc = SQLITE_OK, r;

	if (!intention_is_sound(i))
		return -EINVAL;
	bind_pair(s, &rc, &i->source, &i->destination);
	r = sql_has_room(s, rc, LIMIT_INTENTIONS);
	if (r < 0)
		return r;
	s = db->stmts[STMT_PUT_INTENTION];
	rc = SQLITE_OK;
	bind_pair(s, &rc, &i->source, &i->destination);
	sql_bind_number(s, &rc, 3, i->action);
	sql_bind_number(s, &rc, 4, i->strict);
	sql_bind_number(s, &rc, 5, i->limits.open_lanes);
	sql_bind_number(s, &rc, 6, i->limits.connections_per_s);
	sql_bind_number(s, &rc, 7, (int64_t)i->limits.bytes_per_s);
	sql_bind_number(s, &rc, 8, i->expires_unix_s);
	sql_bind_text(s, &rc, 9, i->where);
	return sql_run(s, rc);
}

int state_delete_intention(struct state_db *db, const struct service_pattern *source,
			   const struct service_pattern *destination)
{
	sqlite3_stmt *s = db->stmts[STMT_DELETE_INTENTION];
	int rc = SQLITE_OK;

	bind_pair(s, &rc, source, destination);
	return sql_run(s, rc);
}

int state_each_intention(struct state_db *db, int (*fn)(void *arg, const struct intention *i), void *arg)
{
	sqlite3_stmt *s = db->stmts[STMT_EACH_INTENTION];
	struct intention i;
	size_t n = 0;
	int rc = SQLITE_OK, r = 0, failed;

	while (r == 0 && (rc = sqlite3_step(s)) == SQLITE_ROW) {
		r = n++ < LIMIT_INTENTIONS ? intention_from_row(s, &i) : -EBADMSG;
		if (r == 0 && fn)
			r = fn(arg, &i);
	}
	failed = sql_finish(s, rc);
	return r ? r : failed;
}

int state_put_enrolment(struct state_db *db, const struct state_enrolment *e)
{
	sqlite3_stmt *s = db->stmts[STMT_OTHER_ENROLMENTS];
	int rc = SQLITE_OK, r;

	if (!enrolment_is_sound(e))
		return -EINVAL;
	sql_bind_text(s, &rc, 1, e->workload);
	r = sql_has_room(s, rc, LIMIT_WORKLOADS);
	if (r < 0)
		return r;
	s = db->stmts[STMT_PUT_ENROLMENT];
	rc = SQLITE_OK;
	sql_bind_text(s, &rc, 1, e->workload);
	sql_bind_text(s, &rc, 2, e->service.ns);
	sql_bind_text(s, &rc, 3, e->service.name);
	sql_bind_number(s, &rc, 4, (int64_t)e->cgroup_id);
	sql_bind_text(s, &rc, 5, e->cgroup_path);
	sql_bind_text(s, &rc, 6, e->container_id);
	sql_bind_text(s, &rc, 7, e->by);
	sql_bind_text(s, &rc, 8, db->boot_id);
	return sql_run(s, rc);
}

int state_delete_enrolment(struct state_db *db, const char *workload)
{
	sqlite3_stmt *s = db->stmts[STMT_DELETE_ENROLMENT];
	int rc = SQLITE_OK;

	sql_bind_text(s, &rc, 1, workload);
	return sql_run(s, rc);
}

int state_each_enrolment(struct state_db *db, int (*fn)(void *arg, const struct state_enrolment *e), void *arg)
{
	sqlite3_stmt *s = db->stmts[STMT_EACH_ENROLMENT];
	struct state_enrolment e;
	size_t n = 0;
	int rc = SQLITE_OK, r = 0, failed;

	while (r == 0 && (rc = sqlite3_step(s)) == SQLITE_ROW) {
		r = n++ < LIMIT_WORKLOADS ? enrolment_from_row(s, &e) : -EBADMSG;
		if (r == 0 && fn)
			r = fn(arg, &e);
	}
	failed = sql_finish(s, rc);
	return r ? r : failed;
}

/* Opening. */

static int fail(char *why, int r, const char *what, const char *detail)
{
	snprintf(why, WHY_SIZE, "%.160s: %.90s", what, detail); /* each has room, however long the other is */
	return r;
}

static int exec(sqlite3 *sql, const char *text)
{
	return sql_error(sqlite3_exec(sql, text, NULL, NULL, NULL));
}

/* The first column of the first row, as text. Return: 0 or negative errno; no row is -EBADMSG. */
static int query_text(sqlite3 *sql, const char *query, char *ret, size_t size)
{
	sqlite3_stmt *s = NULL;
	const unsigned char *text;
	int rc = sqlite3_prepare_v2(sql, query, -1, &s, NULL), r;

	if (rc == SQLITE_OK)
		rc = sqlite3_step(s);
	r = sql_error(rc);
	text = rc == SQLITE_ROW ? sqlite3_column_text(s, 0) : NULL;
	if (r == 0 && !text)
		r = -EBADMSG;
	if (r == 0)
		snprintf(ret, size, "%s", (const char *)text);
	(void)sqlite3_finalize(s); /* tells the same failure once more */
	return r;
}

static int query_number(sqlite3 *sql, const char *query, int64_t *ret)
{
	char text[32];
	int r = query_text(sql, query, text, sizeof(text));

	if (r == 0)
		*ret = strtoll(text, NULL, 10);
	return r;
}

/*
 * What the connection may do, before anything of the file is read: see SQLite's "Defense Against The Dark Arts". Nothing
 * here writes to the file. temp_store: the broker has no directory for temporary files.
 */
static int harden(sqlite3 *sql)
{
	sqlite3_limit(sql, SQLITE_LIMIT_LENGTH, SQLITE_VALUE_SIZE);
	sqlite3_limit(sql, SQLITE_LIMIT_ATTACHED, 0);
	sqlite3_limit(sql, SQLITE_LIMIT_TRIGGER_DEPTH, 0);
	if (sqlite3_extended_result_codes(sql, 1) != SQLITE_OK ||
	    sqlite3_busy_timeout(sql, BUSY_TIMEOUT_MS) != SQLITE_OK ||
	    sqlite3_db_config(sql, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL) != SQLITE_OK ||
	    sqlite3_db_config(sql, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL) != SQLITE_OK ||
	    sqlite3_db_config(sql, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL) != SQLITE_OK ||
	    sqlite3_db_config(sql, SQLITE_DBCONFIG_ENABLE_VIEW, 0, NULL) != SQLITE_OK)
		return -EIO;
	return exec(sql, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA cell_size_check=ON; PRAGMA mmap_size=0;"
			 "PRAGMA temp_store=MEMORY; PRAGMA synchronous=FULL;");
}

/* Is this text one of the statements that made the schema, word for word? */
static bool is_ours(const char *sql_text)
{
	size_t n = strlen(sql_text);

	for (size_t i = 0; i < ARRAY_SIZE(g_migrations); i++)
		for (const char *at = strstr(g_migrations[i], sql_text); at; at = strstr(at + 1, sql_text))
			if ((at == g_migrations[i] || at[-1] == ';') && at[n] == ';')
				return true;
	return false;
}

/* Exactly our tables: a trigger, a view or an index that somebody added would run or decide beside us. */
static int check_schema(sqlite3 *sql)
{
	sqlite3_stmt *s = NULL;
	char text[1024];
	size_t n_tables = 0;
	int rc, r = 0;

	rc = sqlite3_prepare_v2(sql, "SELECT sql FROM sqlite_schema", -1, &s, NULL);
	while (rc == SQLITE_OK || rc == SQLITE_ROW) {
		rc = sqlite3_step(s);
		if (rc != SQLITE_ROW)
			break;
		if (!sql_column_text(s, 0, text, sizeof(text)) || !is_ours(text))
			r = -EBADMSG;
		n_tables++;
	}
	if (rc != SQLITE_DONE)
		r = sql_error(rc);
	else if (n_tables != 2 + STATE_CA_TABLES + STATE_CATALOGUE_TABLES + STATE_ASKER_TABLES)
		r = -EBADMSG;
	(void)sqlite3_finalize(s);
	return r;
}

/* One transaction for all steps, so that a crash leaves the old version or the new one. */
static int migrate(sqlite3 *sql, int64_t version)
{
	char text[128];
	int r = exec(sql, "BEGIN IMMEDIATE");

	for (size_t v = (size_t)version; r == 0 && v < ARRAY_SIZE(g_migrations); v++)
		r = exec(sql, g_migrations[v]);
	snprintf(text, sizeof(text), "PRAGMA application_id=%d; PRAGMA user_version=%zu; COMMIT", APPLICATION_ID,
		 ARRAY_SIZE(g_migrations));
	if (r == 0)
		r = exec(sql, text);
	if (r < 0 && !sqlite3_get_autocommit(sql))
		(void)exec(sql, "ROLLBACK"); /* the failure before it is what counts */
	return r;
}

/* Is it a file of ours, whole, and of a version that we know? A file without any table is new. */
static int check_and_migrate(sqlite3 *sql, char *why)
{
	int64_t n_objects = 0, id = 0, version = 0;
	char verdict[WHY_SIZE - 64] = "";
	int r = query_number(sql, "SELECT count(*) FROM sqlite_schema", &n_objects);

	if (r == 0)
		r = query_number(sql, "PRAGMA application_id", &id);
	if (r == 0)
		r = query_number(sql, "PRAGMA user_version", &version);
	if (r == 0 && (n_objects > 0 || id || version))
		r = query_text(sql, "PRAGMA integrity_check(1)", verdict, sizeof(verdict));
	if (r < 0)
		return fail(why, r, "state.db cannot be read", sqlite3_errmsg(sql));
	if (verdict[0] && strcmp(verdict, "ok") != 0)
		return fail(why, -EBADMSG, "state.db is damaged", verdict);
	if ((n_objects > 0 || id || version) && id != APPLICATION_ID)
		return fail(why, -EBADMSG, "state.db", "this file was not made by sealane");
	if (version < 0 || version > (int64_t)ARRAY_SIZE(g_migrations))
		return fail(why, -ENOTSUP, "state.db", "a newer sealane made this file");
	if (version < (int64_t)ARRAY_SIZE(g_migrations)) {
		r = migrate(sql, version);
		if (r < 0)
			return fail(why, r, "state.db cannot be set up", sqlite3_errmsg(sql));
	}
	r = check_schema(sql);
	return r < 0 ? fail(why, r, "state.db is damaged", "its tables are not those that sealane makes") : 0;
}

/* The parts of opening that write, or need our tables: only after check_and_migrate(). */
static int start_using(struct state_db *db, char *why)
{
	sqlite3_stmt *forget;
	char mode[16] = "";
	int r, rc;

	r = query_text(db->sql, "PRAGMA journal_mode=WAL", mode, sizeof(mode));
	if (r == 0 && strcmp(mode, "wal") != 0)
		r = -EIO;
	for (size_t i = 0; i < STMT_N && r == 0; i++)
		r = sql_error(sqlite3_prepare_v3(db->sql, g_statements[i], -1, SQLITE_PREPARE_PERSISTENT, &db->stmts[i],
						NULL));
	if (r < 0)
		return fail(why, r, "state.db cannot be used", sqlite3_errmsg(db->sql));
	r = state_each_intention(db, NULL, NULL);
	if (r < 0)
		return fail(why, r, "state.db is damaged", "a stored intention is not valid");
	r = state_each_enrolment(db, NULL, NULL);
	if (r < 0)
		return fail(why, r, "state.db is damaged", "a stored enrolment is not valid");
	r = state_ca_start(db);
	if (r < 0)
		return fail(why, r, "state.db is damaged", "what it says about certificates is not valid");
	r = state_catalogue_start(db);
	if (r < 0)
		return fail(why, r, "state.db is damaged", "what it says about the cluster is not valid");
	r = state_asker_start(db);
	if (r < 0)
		return fail(why, r, "state.db is damaged", "what it says about who may ask the authority is not valid");
	forget = db->stmts[STMT_FORGET_BOOTS];
	rc = SQLITE_OK;
	sql_bind_text(forget, &rc, 1, db->boot_id);
	r = sql_run(forget, rc);
	return r < 0 ? fail(why, r, "state.db cannot be written", sqlite3_errmsg(db->sql)) : 0;
}

/* SQLite would make the file readable for all, follow a symbolic link, and fall back to reading when it may not write. */
static int make_file(const char *path, char *why)
{
	AUTO_FD fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
	int err = errno;

	if (fd < 0)
		return fail(why, -err, path, strerrordesc_np(err));
	return 0;
}

static void state_cleanup(struct state_db **db)
{
	state_close(*db);
}

int state_open(struct state_db **ret_db, const char *dir, const char *boot_id, char *ret_why)
{
	AUTO(state_cleanup) struct state_db *db = calloc(1, sizeof(*db));
	char path[LIMIT_PATH_SIZE];
	int r, rc;

	ret_why[0] = '\0';
	if (!db)
		return fail(ret_why, -ENOMEM, "state.db", "out of memory");
	if (!str_copy(db->boot_id, sizeof(db->boot_id), boot_id) || db->boot_id[0] == '\0')
		return fail(ret_why, -EINVAL, "state.db", "the kernel's boot id is not usable");
	if ((size_t)snprintf(path, sizeof(path), "%s/state.db", dir) >= sizeof(path))
		return fail(ret_why, -ENAMETOOLONG, "state.db", "the state directory's path is too long");
	r = make_file(path, ret_why);
	if (r < 0)
		return r;
	rc = sqlite3_open_v2(path, &db->sql, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
	if (rc != SQLITE_OK)
		return fail(ret_why, sql_error(rc), "state.db cannot be opened", sqlite3_errstr(rc));
	r = harden(db->sql);
	if (r < 0)
		return fail(ret_why, r, "state.db cannot be opened", sqlite3_errmsg(db->sql));
	r = check_and_migrate(db->sql, ret_why);
	if (r == 0)
		r = start_using(db, ret_why);
	if (r == 0)
		*ret_db = take_ptr(db);
	return r;
}

struct state_db *state_close(struct state_db *db)
{
	if (!db)
		return NULL;
	for (size_t i = 0; i < STATE_STMTS_MAX; i++) {
		(void)sqlite3_finalize(db->stmts[i]); /* tells failures that were handled when they came */
		(void)sqlite3_finalize(db->ca_stmts[i]);
		(void)sqlite3_finalize(db->catalogue_stmts[i]);
	}
	for (size_t i = 0; i < STATE_ASKER_STMTS; i++)
		(void)sqlite3_finalize(db->asker_stmts[i]);
	if (sqlite3_close(db->sql) != SQLITE_OK)
		abort(); /* a statement of ours was forgotten: a fault of this file */
	free(db);
	return NULL;
}
