/*
 * Theory of operation: the other half of state.c, by its rules: what is read back is checked as hostile, and what was written is
 * taken again. Here stand certificates. On a member: which authority it joined, and the certificates that it has (their keys lie
 * with the signer). On the authority also: which host may have a certificate for what, open tokens, what was issued, what is revoked.
 *
 * Of a key only the signer's name for it is kept; of a token what proves its use, which is as good as the token until that is used or over.
 *
 * Before this file: broker_ca.c, broker_authority.c. After it: the same, at the next start.
 */
#include "core/token.h"
#include "daemon/state_int.h"

#include <stdio.h>

enum {
	STMT_PUT_MEMBERSHIP,
	STMT_EACH_MEMBERSHIP,
	STMT_PUT_CERTIFICATE,
	STMT_DELETE_CERTIFICATE,
	STMT_EACH_CERTIFICATE,
	STMT_PUT_GRANT,
	STMT_DELETE_GRANT,
	STMT_EACH_GRANT,
	STMT_GRANTS_OF,
	STMT_COUNT_GRANTS,
	STMT_PUT_TOKEN,
	STMT_USE_TOKEN,
	STMT_CHANGE_TOKEN,
	STMT_FORGET_TOKENS,
	STMT_EACH_TOKEN,
	STMT_FIND_TOKEN,
	STMT_COUNT_TOKENS,
	STMT_PUT_ISSUED,
	STMT_FORGET_ISSUED,
	STMT_EACH_ISSUED,
	STMT_COUNT_ISSUED,
	STMT_FIND_ISSUED,
	STMT_NEWEST_ISSUED,
	STMT_LAST_ISSUED,
	STMT_TRIM_ISSUED,
	STMT_MOST_ISSUED,
	STMT_PUT_REVOKED,
	STMT_DELETE_REVOKED,
	STMT_FORGET_REVOKED,
	STMT_CLEAR_REVOKED,
	STMT_EACH_REVOKED,
	STMT_COUNT_REVOKED,
	STMT_N
};
static_assert((int)STMT_N <= (int)STATE_STMTS_MAX, "room for each");

static const char *const g_statements[STMT_N] = {
	[STMT_PUT_MEMBERSHIP] = "INSERT OR REPLACE INTO membership VALUES(1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
	[STMT_EACH_MEMBERSHIP] = "SELECT is_authority, trust_domain, host, authority, address, revoked_epoch, revoked_counter, roots "
				"FROM membership",
	[STMT_PUT_CERTIFICATE] = "INSERT OR REPLACE INTO certificate VALUES(?1, ?2, ?3, ?4)",
	[STMT_DELETE_CERTIFICATE] = "DELETE FROM certificate WHERE name = ?1",
	[STMT_EACH_CERTIFICATE] = "SELECT name, key, issued_unix_s, pem FROM certificate ORDER BY name",
	[STMT_PUT_GRANT] = "INSERT OR REPLACE INTO ca_grant VALUES(?1, ?2, ?3)",
	[STMT_DELETE_GRANT] = "DELETE FROM ca_grant WHERE host = ?1 AND pattern = ?2",
	[STMT_EACH_GRANT] = "SELECT host, pattern, allow FROM ca_grant ORDER BY host, pattern",
	[STMT_GRANTS_OF] = "SELECT host, pattern, allow FROM ca_grant WHERE host = ?1 ORDER BY pattern",
	[STMT_COUNT_GRANTS] = "SELECT count(*) FROM ca_grant",
	[STMT_PUT_TOKEN] = "INSERT OR REPLACE INTO ca_token VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
	[STMT_USE_TOKEN] = "UPDATE ca_token SET used_unix_s = ?2 WHERE hash = ?1",
	[STMT_CHANGE_TOKEN] = "UPDATE ca_token SET services = ?2, expires_unix_s = ?3 WHERE hash = ?1",
	[STMT_FORGET_TOKENS] = "DELETE FROM ca_token WHERE expires_unix_s < ?1",
	[STMT_EACH_TOKEN] = "SELECT hash, host, services, made_unix_s, expires_unix_s, used_unix_s FROM ca_token ORDER BY expires_unix_s",
	[STMT_FIND_TOKEN] = "SELECT hash, host, services, made_unix_s, expires_unix_s, used_unix_s FROM ca_token "
			    "WHERE hash >= ?1 AND hash < ?1 || 'g'" /* it begins so, in hexadecimal */,
	[STMT_COUNT_TOKENS] = "SELECT count(*) FROM ca_token",
	[STMT_PUT_ISSUED] = "INSERT INTO ca_issued VALUES(?1, ?2, ?3, ?4, ?5)",
	[STMT_FORGET_ISSUED] = "DELETE FROM ca_issued WHERE not_after < ?1",
	[STMT_EACH_ISSUED] = "SELECT serial, spiffe_id, host, issued_unix_s, not_after FROM ca_issued ORDER BY spiffe_id, not_after",
	[STMT_COUNT_ISSUED] = "SELECT count(*) FROM ca_issued",
	/* 'g' comes after every hexadecimal digit. */
	[STMT_FIND_ISSUED] = "SELECT serial, spiffe_id, host, issued_unix_s, not_after FROM ca_issued WHERE serial >= ?1 AND serial < ?1 || 'g' LIMIT 9",
	/* SQLite takes the other columns from the row that has the greatest value. */
	[STMT_NEWEST_ISSUED] = "SELECT serial, spiffe_id, host, max(issued_unix_s), not_after, count(*) FROM ca_issued WHERE not_after >= ?1 "
			       "GROUP BY host, spiffe_id",
	[STMT_LAST_ISSUED] = "SELECT coalesce(max(issued_unix_s), 0), count(*) FROM ca_issued WHERE host = ?1 AND spiffe_id = ?2",
	[STMT_TRIM_ISSUED] = "DELETE FROM ca_issued WHERE serial IN (SELECT serial FROM ca_issued WHERE host = ?1 "
			     "ORDER BY issued_unix_s DESC LIMIT -1 OFFSET ?2)",
	[STMT_MOST_ISSUED] = "SELECT host, count(*) AS n FROM ca_issued GROUP BY host ORDER BY n DESC LIMIT 1",
	[STMT_PUT_REVOKED] = "INSERT OR REPLACE INTO revoked VALUES(?1, ?2, ?3)",
	[STMT_DELETE_REVOKED] = "DELETE FROM revoked WHERE entry = ?1",
	[STMT_FORGET_REVOKED] = "DELETE FROM revoked WHERE until_unix_s <> 0 AND until_unix_s < ?1",
	[STMT_CLEAR_REVOKED] = "DELETE FROM revoked",
	[STMT_EACH_REVOKED] = "SELECT entry, since_unix_s, until_unix_s FROM revoked ORDER BY entry",
	[STMT_COUNT_REVOKED] = "SELECT count(*) FROM revoked",
};

/* ------------------------------------------------------------------ rows: what is written, and what is believed */

/* PEM: letters, and ends of lines. */
static bool is_pem(const char *s)
{
	size_t n = strnlen(s, LIMIT_CHAIN_SIZE);

	if (n == 0 || n >= LIMIT_CHAIN_SIZE)
		return false;
	for (size_t i = 0; i < n; i++)
		if (s[i] != '\n' && s[i] != '\r' && s[i] != '\t' && ((unsigned char)s[i] < 0x20 || (unsigned char)s[i] > 0x7e))
			return false;
	return true;
}

static bool membership_is_sound(const struct state_membership *m)
{
	return trust_domain_is_valid(m->trust_domain) && label_is_valid(m->host) && label_is_valid(m->authority) &&
	       (!m->address[0] || address_is_valid(m->address)) && is_pem(m->roots);
}

static bool is_key_name(const char *s)
{
	size_t n = strlen(s);

	for (size_t i = 0; i < n; i++)
		if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= '0' && s[i] <= '9') || s[i] == '-' || s[i] == '.'))
			return false;
	return n > 0 && s[0] != '.';
}

/* "host", or a service's name. */
static bool certificate_is_sound(const struct state_certificate *c)
{
	struct service_name unused;

	return (strcmp(c->name, "host") == 0 || service_name_parse(&unused, c->name, NULL) == 0) && is_key_name(c->key) && is_pem(c->pem);
}

static bool services_are_sound(const char *services)
{
	char text[STATE_SERVICES_SIZE], *save = NULL;
	struct service_pattern unused;

	if (!str_copy(text, sizeof(text), services))
		return false;
	for (char *word = strtok_r(text, " ", &save); word; word = strtok_r(NULL, " ", &save))
		if (service_pattern_parse(&unused, word, NULL) < 0)
			return false;
	return sql_is_plain_text(services, STATE_SERVICES_SIZE);
}

static bool is_hex(const char *s, size_t min, size_t max)
{
	size_t n = strspn(s, "0123456789abcdef");

	return !s[n] && n >= min && n <= max;
}

static bool token_is_sound(const struct state_token *t)
{
	return is_hex(t->known, 64, 64) && label_is_valid(t->host) && services_are_sound(t->services);
}

static bool issued_is_sound(const struct state_issued *i)
{
	return is_hex(i->serial, 2, 40) && sql_is_plain_text(i->spiffe_id, sizeof(i->spiffe_id)) && label_is_valid(i->host);
}

bool state_revoked_is_sound(const char *entry)
{
	struct revocation unused;

	return revocation_parse(&unused, entry) == 0;
}

/* ------------------------------------------------------------------ statements */

static int delete_by(struct state_db *db, int which, const char *text)
{
	int rc = SQLITE_OK;

	sql_bind_text(db->ca_stmts[which], &rc, 1, text);
	return sql_run(db->ca_stmts[which], rc);
}

static int forget_before(struct state_db *db, int which, int64_t before)
{
	int rc = SQLITE_OK;

	sql_bind_number(db->ca_stmts[which], &rc, 1, before);
	return sql_run(db->ca_stmts[which], rc);
}

static int run_plain(sqlite3 *sql, const char *text)
{
	return sql_error(sqlite3_exec(sql, text, NULL, NULL, NULL));
}

int state_begin(struct state_db *db)
{
	return run_plain(db->sql, "BEGIN IMMEDIATE");
}

int state_end(struct state_db *db, int error)
{
	int r = error ? error : run_plain(db->sql, "COMMIT");

	if (r < 0 && !sqlite3_get_autocommit(db->sql))
		(void)run_plain(db->sql, "ROLLBACK"); /* the failure before it is what counts */
	if (r < 0)
		db->n_issued = db->n_revoked = -1;
	return r;
}

/*
 * Is there room for another row? Counting walks the whole table, so it is done once, and again only when the number says that the table is
 * full: rows that took the place of others were counted as new.
 */
static int has_room(struct state_db *db, int64_t *n, int count, int64_t limit)
{
	sqlite3_stmt *s = db->ca_stmts[count];
	int rc, r;

	if (*n >= 0 && *n < limit)
		return 0;
	rc = sqlite3_step(s);
	*n = rc == SQLITE_ROW ? sqlite3_column_int64(s, 0) : -1;
	r = sql_finish(s, rc);
	if (r < 0)
		return r;
	return *n < limit ? 0 : -ENOSPC;
}

/* Who gets the rows of a table: one of the functions. */
struct sink {
	int (*membership)(void *arg, const struct state_membership *m);
	int (*certificate)(void *arg, const struct state_certificate *c);
	int (*grant)(void *arg, const struct state_grant *g);
	int (*token)(void *arg, const struct state_token *t);
	int (*issued)(void *arg, const struct state_issued *i);
	int (*newest)(void *arg, const struct state_issued *i, uint64_t n);
	int (*revoked)(void *arg, const struct state_revoked *e);
	void *arg;
	const char *key; /* NULL: the statement has no parameter */
};

/*
 * each() - hand every row of a statement to @read, which checks it and hands it on. Return: 0, the first non-zero of @read, or a
 * database error.
 */
static int each(struct state_db *db, int which, int64_t limit, int (*read)(sqlite3_stmt *s, const struct sink *to), const struct sink *to)
{
	sqlite3_stmt *s = db->ca_stmts[which];
	int rc = SQLITE_OK, r = 0, failed;
	int64_t n = 0;

	if (to->key)
		sql_bind_text(s, &rc, 1, to->key);
	if (rc != SQLITE_OK)
		return sql_finish(s, rc);
	while (r == 0 && (rc = sqlite3_step(s)) == SQLITE_ROW)
		r = n++ < limit ? read(s, to) : -EBADMSG;
	failed = sql_finish(s, rc);
	return r ? r : failed;
}

/* ------------------------------------------------------------------ membership */

int state_put_membership(struct state_db *db, const struct state_membership *m)
{
	sqlite3_stmt *s = db->ca_stmts[STMT_PUT_MEMBERSHIP];
	int rc = SQLITE_OK;

	if (!membership_is_sound(m))
		return -EINVAL;
	sql_bind_number(s, &rc, 1, m->is_authority);
	sql_bind_text(s, &rc, 2, m->trust_domain);
	sql_bind_text(s, &rc, 3, m->host);
	sql_bind_text(s, &rc, 4, m->authority);
	sql_bind_text(s, &rc, 5, m->address);
	sql_bind_number(s, &rc, 6, (int64_t)m->revoked.epoch); /* SQLite has no unsigned numbers: the bits are kept */
	sql_bind_number(s, &rc, 7, (int64_t)m->revoked.counter);
	sql_bind_text(s, &rc, 8, m->roots);
	return sql_run(s, rc);
}

static int membership_from_row(sqlite3_stmt *s, const struct sink *to)
{
	AUTO_FREE(char) roots = malloc(LIMIT_CHAIN_SIZE);
	struct state_membership m = { .roots = roots };
	int64_t is_authority, epoch, counter;

	if (!roots)
		return -ENOMEM;
	if (!sql_column_number(s, 0, 0, 1, &is_authority) || !sql_column_text(s, 1, m.trust_domain, sizeof(m.trust_domain)) ||
	    !sql_column_text(s, 2, m.host, sizeof(m.host)) || !sql_column_text(s, 3, m.authority, sizeof(m.authority)) ||
	    !sql_column_text(s, 4, m.address, sizeof(m.address)) || !sql_column_number(s, 5, INT64_MIN, INT64_MAX, &epoch) ||
	    !sql_column_number(s, 6, INT64_MIN, INT64_MAX, &counter) || !sql_column_text(s, 7, roots, LIMIT_CHAIN_SIZE) || !membership_is_sound(&m))
		return -EBADMSG;
	m.is_authority = is_authority != 0;
	m.revoked = (struct revoked_version){ .epoch = (uint64_t)epoch, .counter = (uint64_t)counter };
	return to->membership ? to->membership(to->arg, &m) : 0;
}

int state_each_membership(struct state_db *db, int (*fn)(void *arg, const struct state_membership *m), void *arg)
{
	return each(db, STMT_EACH_MEMBERSHIP, 1, membership_from_row, &(struct sink){ .membership = fn, .arg = arg });
}

/* ------------------------------------------------------------------ this host's certificates */

int state_put_certificate(struct state_db *db, const struct state_certificate *c)
{
	sqlite3_stmt *s = db->ca_stmts[STMT_PUT_CERTIFICATE];
	int rc = SQLITE_OK;

	if (!certificate_is_sound(c))
		return -EINVAL;
	sql_bind_text(s, &rc, 1, c->name);
	sql_bind_text(s, &rc, 2, c->key);
	sql_bind_number(s, &rc, 3, c->issued_unix_s);
	sql_bind_text(s, &rc, 4, c->pem);
	return sql_run(s, rc);
}

int state_delete_certificate(struct state_db *db, const char *name)
{
	return delete_by(db, STMT_DELETE_CERTIFICATE, name);
}

static int certificate_from_row(sqlite3_stmt *s, const struct sink *to)
{
	AUTO_FREE(char) pem = malloc(LIMIT_CHAIN_SIZE);
	struct state_certificate c = { .pem = pem };

	if (!pem)
		return -ENOMEM;
	if (!sql_column_text(s, 0, c.name, sizeof(c.name)) || !sql_column_text(s, 1, c.key, sizeof(c.key)) ||
	    !sql_column_number(s, 2, 0, INT64_MAX, &c.issued_unix_s) || !sql_column_text(s, 3, pem, LIMIT_CHAIN_SIZE) ||
	    !certificate_is_sound(&c))
		return -EBADMSG;
	return to->certificate ? to->certificate(to->arg, &c) : 0;
}

int state_each_certificate(struct state_db *db, int (*fn)(void *arg, const struct state_certificate *c), void *arg)
{
	return each(db, STMT_EACH_CERTIFICATE, 2 * LIMIT_SERVICES, certificate_from_row, &(struct sink){ .certificate = fn, .arg = arg });
}

/* ------------------------------------------------------------------ grants */

/* What stands in the column. */
enum { GRANT_DENIES, GRANT_ALLOWS, GRANT_DENIES_AGAIN };

int state_put_grant(struct state_db *db, const struct state_grant *g)
{
	sqlite3_stmt *s = db->ca_stmts[STMT_PUT_GRANT];
	char text[LIMIT_SERVICE_SIZE];
	int rc = SQLITE_OK, r;

	if (!label_is_valid(g->host) || (g->stood && (g->allow || g->pattern.rank != PATTERN_EXACT)))
		return -EINVAL;
	r = sql_has_room(db->ca_stmts[STMT_COUNT_GRANTS], SQLITE_OK, LIMIT_CA_GRANTS);
	if (r < 0)
		return r;
	sql_bind_text(s, &rc, 1, g->host);
	sql_bind_text(s, &rc, 2, service_pattern_format(text, &g->pattern));
	sql_bind_number(s, &rc, 3, g->allow ? GRANT_ALLOWS : g->stood ? GRANT_DENIES_AGAIN : GRANT_DENIES);
	return sql_run(s, rc);
}

int state_delete_grant(struct state_db *db, const char *host, const struct service_pattern *pattern)
{
	sqlite3_stmt *s = db->ca_stmts[STMT_DELETE_GRANT];
	char text[LIMIT_SERVICE_SIZE];
	int rc = SQLITE_OK;

	sql_bind_text(s, &rc, 1, host);
	sql_bind_text(s, &rc, 2, service_pattern_format(text, pattern));
	return sql_run(s, rc);
}

static int grant_from_row(sqlite3_stmt *s, const struct sink *to)
{
	struct state_grant g = {};
	int64_t allow;

	if (!sql_column_text(s, 0, g.host, sizeof(g.host)) || !label_is_valid(g.host) || !sql_column_pattern(s, 1, &g.pattern) ||
	    !sql_column_number(s, 2, GRANT_DENIES, GRANT_DENIES_AGAIN, &allow) || (allow == GRANT_DENIES_AGAIN && g.pattern.rank != PATTERN_EXACT))
		return -EBADMSG;
	g.allow = allow == GRANT_ALLOWS;
	g.stood = allow == GRANT_DENIES_AGAIN;
	return to->grant ? to->grant(to->arg, &g) : 0;
}

int state_each_grant(struct state_db *db, int (*fn)(void *arg, const struct state_grant *g), void *arg)
{
	return each(db, STMT_EACH_GRANT, LIMIT_CA_GRANTS, grant_from_row, &(struct sink){ .grant = fn, .arg = arg });
}

int state_each_grant_of(struct state_db *db, const char *host, int (*fn)(void *arg, const struct state_grant *g), void *arg)
{
	return each(db, STMT_GRANTS_OF, LIMIT_CA_GRANTS, grant_from_row, &(struct sink){ .grant = fn, .arg = arg, .key = host });
}

/* ------------------------------------------------------------------ tokens */

int state_put_token(struct state_db *db, const struct state_token *t)
{
	sqlite3_stmt *s = db->ca_stmts[STMT_PUT_TOKEN];
	int rc = SQLITE_OK, r;

	if (!token_is_sound(t))
		return -EINVAL;
	r = sql_has_room(db->ca_stmts[STMT_COUNT_TOKENS], SQLITE_OK, LIMIT_CA_TOKENS);
	if (r < 0)
		return r;
	sql_bind_text(s, &rc, 1, t->known);
	sql_bind_text(s, &rc, 2, t->host);
	sql_bind_text(s, &rc, 3, t->services);
	sql_bind_number(s, &rc, 4, t->made_unix_s);
	sql_bind_number(s, &rc, 5, t->expires_unix_s);
	sql_bind_number(s, &rc, 6, t->used_unix_s);
	return sql_run(s, rc);
}

int state_use_token(struct state_db *db, const char *known, int64_t now)
{
	sqlite3_stmt *s = db->ca_stmts[STMT_USE_TOKEN];
	int rc = SQLITE_OK;

	sql_bind_text(s, &rc, 1, known);
	sql_bind_number(s, &rc, 2, now);
	return sql_run(s, rc);
}

int state_change_token(struct state_db *db, const struct state_token *t)
{
	sqlite3_stmt *s = db->ca_stmts[STMT_CHANGE_TOKEN];
	int rc = SQLITE_OK;

	if (!token_is_sound(t))
		return -EINVAL;
	sql_bind_text(s, &rc, 1, t->known);
	sql_bind_text(s, &rc, 2, t->services);
	sql_bind_number(s, &rc, 3, t->expires_unix_s);
	return sql_run(s, rc);
}

int state_forget_tokens(struct state_db *db, int64_t before)
{
	return forget_before(db, STMT_FORGET_TOKENS, before);
}

static int token_from_row(sqlite3_stmt *s, const struct sink *to)
{
	struct state_token t = {};

	if (!sql_column_text(s, 0, t.known, sizeof(t.known)) || !sql_column_text(s, 1, t.host, sizeof(t.host)) ||
	    !sql_column_text(s, 2, t.services, sizeof(t.services)) || !sql_column_number(s, 3, 0, INT64_MAX, &t.made_unix_s) ||
	    !sql_column_number(s, 4, 0, INT64_MAX, &t.expires_unix_s) || !sql_column_number(s, 5, 0, INT64_MAX, &t.used_unix_s) ||
	    !token_is_sound(&t))
		return -EBADMSG;
	return to->token ? to->token(to->arg, &t) : 0;
}

int state_each_token(struct state_db *db, int (*fn)(void *arg, const struct state_token *t), void *arg)
{
	return each(db, STMT_EACH_TOKEN, LIMIT_CA_TOKENS, token_from_row, &(struct sink){ .token = fn, .arg = arg });
}

int state_find_token(struct state_db *db, const char *id, int (*fn)(void *arg, const struct state_token *t), void *arg)
{
	return each(db, STMT_FIND_TOKEN, 1, token_from_row, &(struct sink){ .token = fn, .arg = arg, .key = id });
}

/* ------------------------------------------------------------------ what was issued */

int state_put_issued(struct state_db *db, const struct state_issued *i)
{
	sqlite3_stmt *s = db->ca_stmts[STMT_PUT_ISSUED];
	int rc = SQLITE_OK, r;

	if (!issued_is_sound(i))
		return -EINVAL;
	r = has_room(db, &db->n_issued, STMT_COUNT_ISSUED, LIMIT_CA_ISSUED);
	if (r < 0)
		return r;
	sql_bind_text(s, &rc, 1, i->serial);
	sql_bind_text(s, &rc, 2, i->spiffe_id);
	sql_bind_text(s, &rc, 3, i->host);
	sql_bind_number(s, &rc, 4, i->issued_unix_s);
	sql_bind_number(s, &rc, 5, i->not_after);
	r = sql_run(s, rc);
	if (r == 0)
		db->n_issued++;
	return r;
}

int state_forget_issued(struct state_db *db, int64_t before)
{
	db->n_issued = -1;
	return forget_before(db, STMT_FORGET_ISSUED, before);
}

int state_trim_issued(struct state_db *db, const char *host, int64_t keep)
{
	sqlite3_stmt *s = db->ca_stmts[STMT_TRIM_ISSUED];
	int rc = SQLITE_OK;

	db->n_issued = -1;
	sql_bind_text(s, &rc, 1, host);
	sql_bind_number(s, &rc, 2, keep);
	return sql_run(s, rc);
}

int state_halve_issued(struct state_db *db, char ret_host[LIMIT_NAME_SIZE])
{
	sqlite3_stmt *s = db->ca_stmts[STMT_MOST_ISSUED];
	char host[LIMIT_NAME_SIZE] = "";
	int64_t n = 0;
	int rc, r = has_room(db, &db->n_issued, STMT_COUNT_ISSUED, LIMIT_CA_ISSUED);

	if (r != -ENOSPC)
		return r < 0 ? r : -ENOENT;
	rc = sqlite3_step(s);
	r = rc == SQLITE_ROW && sql_column_text(s, 0, host, sizeof(host)) && sql_column_number(s, 1, 1, INT64_MAX, &n) ? 0 : -EBADMSG;
	rc = sql_finish(s, rc);
	if (rc < 0 || r < 0)
		return rc < 0 ? rc : r;
	memcpy(ret_host, host, sizeof(host));
	return state_trim_issued(db, host, n / 2);
}

static bool read_issued(sqlite3_stmt *s, struct state_issued *ret)
{
	return sql_column_text(s, 0, ret->serial, sizeof(ret->serial)) && sql_column_text(s, 1, ret->spiffe_id, sizeof(ret->spiffe_id)) &&
	       sql_column_text(s, 2, ret->host, sizeof(ret->host)) && sql_column_number(s, 3, 0, INT64_MAX, &ret->issued_unix_s) &&
	       sql_column_number(s, 4, 0, INT64_MAX, &ret->not_after) && issued_is_sound(ret);
}

static int issued_from_row(sqlite3_stmt *s, const struct sink *to)
{
	struct state_issued i = {};

	if (!read_issued(s, &i))
		return -EBADMSG;
	return to->issued ? to->issued(to->arg, &i) : 0;
}

int state_each_issued(struct state_db *db, int (*fn)(void *arg, const struct state_issued *i), void *arg)
{
	return each(db, STMT_EACH_ISSUED, LIMIT_CA_ISSUED, issued_from_row, &(struct sink){ .issued = fn, .arg = arg });
}

int state_find_issued(struct state_db *db, const char *serial, int (*fn)(void *arg, const struct state_issued *i), void *arg)
{
	return each(db, STMT_FIND_ISSUED, LIMIT_CA_ISSUED, issued_from_row, &(struct sink){ .issued = fn, .arg = arg, .key = serial });
}

static int newest_from_row(sqlite3_stmt *s, const struct sink *to)
{
	struct state_issued i = {};
	int64_t n;

	if (!read_issued(s, &i) || !sql_column_number(s, 5, 1, INT64_MAX, &n))
		return -EBADMSG;
	return to->newest(to->arg, &i, (uint64_t)n);
}

int state_each_newest(struct state_db *db, int64_t now, int (*fn)(void *arg, const struct state_issued *i, uint64_t n), void *arg)
{
	sqlite3_stmt *s = db->ca_stmts[STMT_NEWEST_ISSUED];
	int rc = SQLITE_OK;

	sql_bind_number(s, &rc, 1, now);
	if (rc != SQLITE_OK)
		return sql_finish(s, rc);
	return each(db, STMT_NEWEST_ISSUED, LIMIT_CA_ISSUED, newest_from_row, &(struct sink){ .newest = fn, .arg = arg });
}

int state_last_issued(struct state_db *db, const char *host, const char *spiffe_id, int64_t *ret_unix_s, uint64_t *ret_n)
{
	sqlite3_stmt *s = db->ca_stmts[STMT_LAST_ISSUED];
	int64_t last = 0, n = 0;
	int rc = SQLITE_OK, r;

	sql_bind_text(s, &rc, 1, host);
	sql_bind_text(s, &rc, 2, spiffe_id);
	if (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW && (!sql_column_number(s, 0, 0, INT64_MAX, &last) || !sql_column_number(s, 1, 0, INT64_MAX, &n)))
		rc = SQLITE_CORRUPT;
	r = sql_finish(s, rc);
	if (r < 0)
		return r;
	*ret_unix_s = last;
	*ret_n = (uint64_t)n;
	return 0;
}

/* ------------------------------------------------------------------ what is revoked */

int state_put_revoked(struct state_db *db, const struct state_revoked *e)
{
	sqlite3_stmt *s = db->ca_stmts[STMT_PUT_REVOKED];
	int rc = SQLITE_OK, r;

	if (!state_revoked_is_sound(e->entry))
		return -EINVAL;
	r = has_room(db, &db->n_revoked, STMT_COUNT_REVOKED, LIMIT_REVOKED);
	if (r < 0)
		return r;
	sql_bind_text(s, &rc, 1, e->entry);
	sql_bind_number(s, &rc, 2, e->since_unix_s);
	sql_bind_number(s, &rc, 3, e->until_unix_s);
	r = sql_run(s, rc);
	if (r == 0)
		db->n_revoked++;
	return r;
}

int state_delete_revoked(struct state_db *db, const char *entry)
{
	db->n_revoked = -1;
	return delete_by(db, STMT_DELETE_REVOKED, entry);
}

int state_forget_revoked(struct state_db *db, int64_t before)
{
	db->n_revoked = -1;
	return forget_before(db, STMT_FORGET_REVOKED, before);
}

int state_clear_revoked(struct state_db *db)
{
	db->n_revoked = -1;
	return sql_run(db->ca_stmts[STMT_CLEAR_REVOKED], SQLITE_OK);
}

static int revoked_from_row(sqlite3_stmt *s, const struct sink *to)
{
	struct state_revoked e = {};

	if (!sql_column_text(s, 0, e.entry, sizeof(e.entry)) || !state_revoked_is_sound(e.entry) ||
	    !sql_column_number(s, 1, 0, INT64_MAX, &e.since_unix_s) || !sql_column_number(s, 2, 0, INT64_MAX, &e.until_unix_s))
		return -EBADMSG;
	return to->revoked ? to->revoked(to->arg, &e) : 0;
}

int state_each_revoked(struct state_db *db, int (*fn)(void *arg, const struct state_revoked *e), void *arg)
{
	return each(db, STMT_EACH_REVOKED, LIMIT_REVOKED, revoked_from_row, &(struct sink){ .revoked = fn, .arg = arg });
}

/* ------------------------------------------------------------------ start */

int state_ca_start(struct state_db *db)
{
	int r = 0;

	db->n_issued = db->n_revoked = -1;
	for (size_t i = 0; i < STMT_N && r == 0; i++)
		r = sql_error(sqlite3_prepare_v3(db->sql, g_statements[i], -1, SQLITE_PREPARE_PERSISTENT, &db->ca_stmts[i], NULL));
	if (r == 0)
		r = state_each_membership(db, NULL, NULL);
	if (r == 0)
		r = state_each_certificate(db, NULL, NULL);
	if (r == 0)
		r = state_each_grant(db, NULL, NULL);
	if (r == 0)
		r = state_each_token(db, NULL, NULL);
	if (r == 0)
		r = state_each_issued(db, NULL, NULL);
	return r == 0 ? state_each_revoked(db, NULL, NULL) : r;
}
