/*
 * Theory of operation: a list is a table of its lines, by their text, so that "is this serial on it", "is this name" are one look. What
 * was issued to a host is told by the second half of a serial (serial_make()), so the two kinds of entries that mean a host stand in a
 * second table, by a mark: "HOST" for all of a host's, "HOST/ID" for those of one service, where HOST is that half in hexadecimal. A
 * certificate is looked up four times, however long the list is.
 *
 * An entry with a time means certificates by their own notBefore, not by the clock of who looks: so all hosts agree, and a clock that
 * is set does not give a certificate back. The authority sees to it that what it issues later is valid from that time on.
 *
 * Before this: the authority's state, or its answer (ca_wire.c), or the broker (BL_REVOKED). After it: broker_revoked.c, link/tls.c.
 */
#include "core/revoked.h"

#include "core/base64.h"
#include "core/sha256.h"
#include "core/svid.h"

#include <inttypes.h>
#include <stdio.h>
#include <uthash.h>

enum { HOST_HEX_SIZE = 2 * SERIAL_HOST_SIZE, MARK_SIZE = HOST_HEX_SIZE + 1 + LIMIT_SPIFFE_ID_SIZE };

/* ------------------------------------------------------------------ versions */

char *revoked_version_format(char *ret, const struct revoked_version *v)
{
	snprintf(ret, REVOKED_VERSION_SIZE, "%" PRIu64 "-%" PRIu64, v->epoch, v->counter);
	return ret;
}

int revoked_version_parse(struct revoked_version *ret, const char *text)
{
	struct revoked_version v = {};
	char again[REVOKED_VERSION_SIZE];

	/* What has another spelling than ours (signs, blanks, zeros in front, too large) is told by writing it again. */
	if (strnlen(text, REVOKED_VERSION_SIZE) >= REVOKED_VERSION_SIZE ||
	    sscanf(text, "%" SCNu64 "-%" SCNu64, &v.epoch, &v.counter) != 2 || strcmp(revoked_version_format(again, &v), text) != 0)
		return -EINVAL;
	*ret = v;
	return 0;
}

bool revoked_version_supersedes(const struct revoked_version *offered, const struct revoked_version *have)
{
	return offered->epoch != have->epoch || offered->counter > have->counter;
}

/* ------------------------------------------------------------------ serials */

static void host_bytes(uint8_t ret[SERIAL_HOST_SIZE], const char *host)
{
	static const char label[] = "sealane serial v1";
	uint8_t digest[SHA256_SIZE];
	struct sha256 s;

	sha256_init(&s);
	sha256_add(&s, label, sizeof(label)); /* with its NUL */
	sha256_add(&s, host, strlen(host));
	sha256_end(&s, digest);
	memcpy(ret, digest, SERIAL_HOST_SIZE);
}

void serial_make(uint8_t ret[SERIAL_SIZE], const uint8_t random[SERIAL_RANDOM_SIZE], const char *host)
{
	memcpy(ret, random, SERIAL_RANDOM_SIZE);
	ret[0] = (uint8_t)((ret[0] & 0x7f) | 0x40); /* positive and without a leading zero: one length, one spelling */
	host_bytes(ret + SERIAL_RANDOM_SIZE, host);
}

static void host_hex(char ret[HOST_HEX_SIZE + 1], const char *host)
{
	uint8_t bytes[SERIAL_HOST_SIZE];

	host_bytes(bytes, host);
	hex_encode(ret, bytes, sizeof(bytes));
}

const char *serial_host_part(const char *serial)
{
	return strlen(serial) == 2 * SERIAL_SIZE ? serial + 2 * SERIAL_RANDOM_SIZE : NULL;
}

bool serial_is_of_host(const char *serial, const char *host)
{
	const char *part = serial_host_part(serial);
	char hex[HOST_HEX_SIZE + 1];

	host_hex(hex, host);
	return part && strcmp(part, hex) == 0;
}

/* ------------------------------------------------------------------ one line */

/* A SPIFFE ID of a host (then its name into e->host) or of a service, in whichever trust domain. */
static int parse_id(struct revocation *e, const char *id)
{
	char domain[LIMIT_TRUST_DOMAIN_SIZE];
	struct service_name unused;
	size_t n;

	if (strncmp(id, "spiffe://", 9) != 0 || !str_copy(e->what, sizeof(e->what), id))
		return -EINVAL;
	n = strcspn(id + 9, "/");
	if (n >= sizeof(domain))
		return -EINVAL;
	memcpy(domain, id + 9, n);
	domain[n] = '\0';
	if (!trust_domain_is_valid(domain))
		return -EINVAL;
	return host_id_parse(e->host, id, domain) == 0 ? 0 : spiffe_id_parse(&unused, id, domain);
}

/* "TIME:ID@HOST". */
static int parse_before(struct revocation *e, const char *text)
{
	char id[LIMIT_SPIFFE_ID_SIZE], host[LIMIT_NAME_SIZE];
	const char *at = strchr(text, '@');
	int n = 0;

	if (!at || !label_is_valid(at + 1) || !str_copy(host, sizeof(host), at + 1) || sscanf(text, "%" SCNd64 ":%n", &e->before_unix_s, &n) != 1 || n == 0 ||
	    text + n > at || (size_t)(at - text) - (size_t)n >= sizeof(id))
		return -EINVAL;
	memcpy(id, text + n, (size_t)(at - text) - (size_t)n);
	id[(size_t)(at - text) - (size_t)n] = '\0';
	if (e->before_unix_s <= 0 || parse_id(e, id) < 0 || e->host[0])
		return -EINVAL;
	memcpy(e->host, host, sizeof(host));
	return 0;
}

static int parse_serial(struct revocation *e, const char *hex)
{
	size_t n = strspn(hex, "0123456789abcdef");

	if (hex[n] || n < 2 || n >= REVOKED_SERIAL_SIZE)
		return -EINVAL;
	return str_copy(e->what, sizeof(e->what), hex) ? 0 : -EINVAL;
}

int revocation_parse(struct revocation *ret, const char *line)
{
	struct revocation e = {};
	char again[REVOKED_LINE_SIZE];
	int r = -EINVAL;

	if (strnlen(line, REVOKED_LINE_SIZE) >= REVOKED_LINE_SIZE)
		return -EINVAL;
	if (strncmp(line, "serial:", 7) == 0) {
		e.kind = REVOKED_SERIAL;
		r = parse_serial(&e, line + 7);
	} else if (strncmp(line, "id:", 3) == 0) {
		e.kind = REVOKED_ID;
		r = parse_id(&e, line + 3);
	} else if (strncmp(line, "before:", 7) == 0) {
		e.kind = REVOKED_BEFORE;
		r = parse_before(&e, line + 7);
	}
	if (r < 0 || strcmp(revocation_format(again, &e), line) != 0)
		return -EINVAL;
	*ret = e;
	return 0;
}

char *revocation_format(char *ret, const struct revocation *e)
{
	if (e->kind == REVOKED_BEFORE)
		snprintf(ret, REVOKED_LINE_SIZE, "before:%" PRId64 ":%s@%s", e->before_unix_s, e->what, e->host);
	else
		snprintf(ret, REVOKED_LINE_SIZE, "%s:%s", e->kind == REVOKED_SERIAL ? "serial" : "id", e->what);
	return ret;
}

/* ------------------------------------------------------------------ lists */

struct revoked_line {
	UT_hash_handle by_text, by_mark;
	int64_t before_unix_s; /* of a mark with an ID: the latest of all lines with this mark */
	const char *mark;      /* behind the text; NULL: none */
	char text[];
};

struct revoked_list {
	struct revoked_line *by_text, *by_mark;
	size_t size;
};

struct revoked_list *revoked_list_new(void)
{
	return calloc(1, sizeof(struct revoked_list));
}

struct revoked_list *revoked_list_free(struct revoked_list *l)
{
	struct revoked_line *line, *tmp;

	if (!l)
		return NULL;
	HASH_CLEAR(by_mark, l->by_mark);
	HASH_ITER(by_text, l->by_text, line, tmp) {
		HASH_DELETE(by_text, l->by_text, line);
		free(line);
	}
	free(l);
	return NULL;
}

static struct revoked_line *find_text(const struct revoked_list *l, const char *text)
{
	struct revoked_line *line;

	HASH_FIND(by_text, l->by_text, text, strlen(text), line);
	return line;
}

static struct revoked_line *find_mark(const struct revoked_list *l, const char *mark)
{
	struct revoked_line *line;

	HASH_FIND(by_mark, l->by_mark, mark, strlen(mark), line);
	return line;
}

/* Into @ret of MARK_SIZE; "" if it has none. */
static void mark_of(char *ret, const struct revocation *e)
{
	char host[HOST_HEX_SIZE + 1];

	ret[0] = '\0';
	if (!e->host[0])
		return;
	host_hex(host, e->host);
	if (e->kind == REVOKED_BEFORE)
		snprintf(ret, MARK_SIZE, "%s/%s", host, e->what);
	else
		snprintf(ret, MARK_SIZE, "%s", host);
}

static void add_mark(struct revoked_list *l, struct revoked_line *line)
{
	struct revoked_line *old = find_mark(l, line->mark);

	if (!old)
		HASH_ADD_KEYPTR(by_mark, l->by_mark, line->mark, strlen(line->mark), line);
	else if (old->before_unix_s < line->before_unix_s)
		old->before_unix_s = line->before_unix_s;
}

int revoked_list_add(struct revoked_list *l, const char *text)
{
	char mark[MARK_SIZE];
	struct revocation e;
	struct revoked_line *line;
	size_t n = strlen(text) + 1, n_mark;

	if (revocation_parse(&e, text) < 0)
		return -EINVAL;
	if (find_text(l, text))
		return 0;
	if (revoked_list_n(l) >= LIMIT_REVOKED)
		return -E2BIG;
	mark_of(mark, &e);
	n_mark = mark[0] ? strlen(mark) + 1 : 0;
	line = calloc(1, sizeof(*line) + n + n_mark);
	if (!line)
		return -ENOMEM;
	memcpy(line->text, text, n);
	line->before_unix_s = e.before_unix_s;
	HASH_ADD_KEYPTR(by_text, l->by_text, line->text, n - 1, line);
	l->size += n;
	if (n_mark) {
		line->mark = memcpy(line->text + n, mark, n_mark);
		add_mark(l, line);
	}
	return 0;
}

static int add_piece(struct revoked_list *l, const char *text, size_t n)
{
	char line[REVOKED_LINE_SIZE];
	int r;

	if (n >= sizeof(line) || memchr(text, '\0', n))
		return -EBADMSG;
	memcpy(line, text, n);
	line[n] = '\0';
	r = revoked_list_add(l, line);
	return r == -EINVAL ? -EBADMSG : r;
}

int revoked_list_parse(struct revoked_list **ret, const char *text, size_t size)
{
	struct revoked_list *l = revoked_list_new();
	int r = l ? 0 : -ENOMEM;

	for (size_t at = 0; r == 0 && at < size;) {
		const char *end = memchr(text + at, '\n', size - at);
		size_t n = end ? (size_t)(end - text) - at : size - at;

		r = add_piece(l, text + at, n);
		at += n + 1;
	}
	if (r < 0)
		revoked_list_free(l);
	else
		*ret = l;
	return r;
}

size_t revoked_list_n(const struct revoked_list *l)
{
	return HASH_CNT(by_text, l->by_text);
}

size_t revoked_list_size(const struct revoked_list *l)
{
	return l->size;
}

int revoked_list_each(const struct revoked_list *l, int (*fn)(void *arg, const char *line), void *arg)
{
	int r = 0;

	for (const struct revoked_line *line = l->by_text; line && r == 0; line = line->by_text.next)
		r = fn(arg, line->text);
	return r;
}

const char *revoked_list_find(const struct revoked_list *l, const char *spiffe_id, const char *serial, int64_t not_before)
{
	char key[REVOKED_LINE_SIZE];
	const struct revoked_line *line;
	const char *host = serial_host_part(serial);

	snprintf(key, sizeof(key), "serial:%s", serial);
	line = find_text(l, key);
	if (!line) {
		snprintf(key, sizeof(key), "id:%s", spiffe_id);
		line = find_text(l, key);
	}
	if (!line && host)
		line = find_mark(l, host);
	if (line || !host)
		return line ? line->text : NULL;
	snprintf(key, sizeof(key), "%s/%s", host, spiffe_id);
	line = find_mark(l, key);
	return line && not_before < line->before_unix_s ? line->text : NULL;
}

bool revoked_list_has_id(const struct revoked_list *l, const char *spiffe_id)
{
	char key[REVOKED_LINE_SIZE];

	snprintf(key, sizeof(key), "id:%s", spiffe_id);
	return find_text(l, key) != NULL;
}

int64_t revoked_list_before(const struct revoked_list *l, const char *spiffe_id, const char *host)
{
	char mark[MARK_SIZE], hex[HOST_HEX_SIZE + 1];
	const struct revoked_line *line;

	host_hex(hex, host);
	snprintf(mark, sizeof(mark), "%s/%s", hex, spiffe_id);
	line = find_mark(l, mark);
	return line ? line->before_unix_s : 0;
}
