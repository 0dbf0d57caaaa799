/*
 * Theory of operation
 *
 * The readers of single values, and the walk over a block by a table of its keys. Everything a user can get wrong in one
 * value is told here, in one form: "FILE:LINE:COLUMN: key 'x': found y, expected z"; so the files with the meaning hold no
 * wording of their own for it.
 *
 * Numbers, modes, durations and paths are read from the text as written, not from the parser's number: "0660" is octal
 * whether quoted or not, and in a duration "5m" is five minutes while in an amount it is five million.
 */
#include "conf/config_priv.h"

#include <ctype.h>
#include <grp.h>
#include <math.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>

enum {
	FOUND_SIZE = 96,	/* what is quoted of a wrong value */
	GUESS_LENGTH = 40,	/* longer names get no suggestion */
	SUN_PATH_SIZE = 108,	/* struct sockaddr_un */
	ID_MAX_LENGTH = 10,	/* digits of a uid */
	KIND_KEYS = 48,		/* keys that a kind of block may have in its tables */
};

static struct {
	config_resolve_fn user, group;
} g_resolve;

void config_set_resolver(config_resolve_fn user, config_resolve_fn group)
{
	g_resolve.user = user;
	g_resolve.group = group;
}

/* --- messages --- */

static const char *describe(const struct conf_node *n, char buf[FOUND_SIZE])
{
	switch (n->kind) {
	case CONF_OBJECT:
		return "a block { ... }";
	case CONF_ARRAY:
		return "a list [ ... ]";
	case CONF_STRING:
		snprintf(buf, FOUND_SIZE, "\"%.60s\"%s", n->string, strnlen(n->string, 61) > 60 ? "..." : "");
		return buf;
	default:
		snprintf(buf, FOUND_SIZE, "%.60s", n->string);
		return buf;
	}
}

int config_bad_value(struct loader *l, const struct conf_node *n, const char *expected, ...)
{
	char found[FOUND_SIZE], text[256];
	va_list args;

	va_start(args, expected);
	vsnprintf(text, sizeof(text), expected, args);
	va_end(args);
	return conf_fail(l->error, n, "found %s, expected %s", describe(n, found), text);
}

/* The next letter of a name as it is compared: without case, '_' and '-', so that SocketPath is near to socket_path. */
static size_t fold(const char *s, char out[GUESS_LENGTH])
{
	size_t n = 0;

	for (; *s; s++) {
		if (*s == '_' || *s == '-')
			continue;
		if (n >= GUESS_LENGTH)
			return SIZE_MAX;
		out[n++] = (char)tolower((unsigned char)*s);
	}
	return n;
}

static size_t min3(size_t a, size_t b, size_t c)
{
	size_t m = a < b ? a : b;

	return m < c ? m : c;
}

/* Levenshtein's distance, one row at a time. */
static size_t distance(const char *a, const char *b)
{
	char fa[GUESS_LENGTH], fb[GUESS_LENGTH];
	size_t row[GUESS_LENGTH + 1], na = fold(a, fa), nb = fold(b, fb);

	if (na == SIZE_MAX || nb == SIZE_MAX)
		return SIZE_MAX;
	for (size_t j = 0; j <= nb; j++)
		row[j] = j;
	for (size_t i = 1; i <= na; i++) {
		size_t diagonal = row[0];

		row[0] = i;
		for (size_t j = 1; j <= nb; j++) {
			size_t above = row[j];

			row[j] = min3(above + 1, row[j - 1] + 1, diagonal + (fa[i - 1] != fb[j - 1]));
			diagonal = above;
		}
	}
	return row[nb];
}

/* "socket" and "path" are both near to socket_path. */
static bool is_word_of(const char *word, const char *name)
{
	size_t n = strlen(word), k = strlen(name);

	if (n < 2 || n >= k)
		return false;
	return (name[n] == '_' && strncmp(name, word, n) == 0) || (name[k - n - 1] == '_' && strcmp(name + k - n, word) == 0);
}

void config_guess_add(struct config_guess *g, const char *candidate)
{
	size_t d = is_word_of(g->wanted, candidate) ? 1 : distance(g->wanted, candidate);

	if (!g->best || d < g->distance) {
		g->best = candidate;
		g->distance = d;
	}
}

/* A third of the letters may be wrong: beyond that a suggestion only confuses. */
const char *config_guess_text(const struct config_guess *g, char buf[160])
{
	size_t n = strnlen(g->wanted, GUESS_LENGTH);

	buf[0] = '\0';
	if (g->best && g->distance <= (n < 3 ? 1 : n / 3))
		snprintf(buf, 160, "; did you mean '%.130s'?", g->best);
	return buf;
}

/* --- blocks --- */

const struct conf_node *config_find_key(const struct conf_node *object, const char *key)
{
	for (const struct conf_node *n = object->first; n; n = n->next)
		if (n->key && strcmp(n->key, key) == 0)
			return n;
	return NULL;
}

/* @ret_index: the key's place among those of all tables; may be NULL. */
static const struct config_key *kind_find(const struct config_kind *kind, const char *name, size_t *ret_index)
{
	size_t index = 0;

	for (size_t t = 0; t < ARRAY_SIZE(kind->tables); t++) {
		for (size_t i = 0; i < kind->tables[t].n_keys; i++, index++) {
			if (strcmp(kind->tables[t].keys[i].name, name) == 0) {
				if (ret_index)
					*ret_index = index;
				return &kind->tables[t].keys[i];
			}
		}
	}
	return NULL;
}

bool config_kind_has(const struct config_kind *kind, const char *key)
{
	const struct config_key *k = kind_find(kind, key, NULL);

	return k && !k->advice;
}

static int fail_unknown(struct loader *l, const struct config_kind *kind, const struct conf_node *n)
{
	const char *place = kind->belongs ? kind->belongs(n->key) : NULL;
	struct config_guess g = { .wanted = n->key };
	char text[160];

	if (place)
		return conf_fail(l->error, n, "unknown key in %s; it belongs into %s", kind->what, place);
	for (size_t t = 0; t < ARRAY_SIZE(kind->tables); t++)
		for (size_t i = 0; i < kind->tables[t].n_keys; i++)
			if (!kind->tables[t].keys[i].advice)
				config_guess_add(&g, kind->tables[t].keys[i].name);
	return conf_fail(l->error, n, "unknown key in %s%s", kind->what, config_guess_text(&g, text));
}

int config_read_block(struct loader *l, const struct config_kind *kind, const struct conf_node *n, void *obj)
{
	const struct conf_node *seen[KIND_KEYS] = { NULL }; /* not searched for in the block, which may have a million members */

	assert(kind->tables[0].n_keys + kind->tables[1].n_keys <= KIND_KEYS);
	if (n->kind != CONF_OBJECT)
		return config_bad_value(l, n, "a block { ... }");
	for (const struct conf_node *m = n->first; m; m = m->next) {
		size_t index = 0;
		const struct config_key *key = kind_find(kind, m->key, &index);
		int r;

		if (!key)
			return fail_unknown(l, kind, m);
		if (key->advice)
			return conf_fail(l->error, m, "cannot be used in %s: %s", kind->what, key->advice);
		if (seen[index] && !key->repeat)
			return conf_fail(l->error, m, "given twice in %s, first in line %u", kind->what, seen[index]->line);
		seen[index] = m;
		if (m->label && !key->repeat)
			return conf_fail(l->error, m, "found the label '%.60s', expected no label here", m->label);
		if (!key->set || m->kind == CONF_NULL)
			continue;
		r = key->set(l, obj, m);
		if (r < 0)
			return r;
	}
	return 0;
}

/* The name that a block says itself, by `name = x`. */
static int item_name(struct loader *l, const struct config_kind *kind, struct config_item *item)
{
	for (size_t i = 0; i < ARRAY_SIZE(kind->name_keys) && kind->name_keys[i] && item->body; i++) {
		const struct conf_node *n = config_find_key(item->body, kind->name_keys[i]);
		const char *name = "";
		int r;

		if (!n)
			continue;
		r = config_read_text(l, n, "a name", &name);
		if (r < 0)
			return r;
		if (item->name && strcmp(item->name, name) != 0)
			return conf_fail(l->error, n, "found \"%.60s\", expected \"%.60s\" as the block is called", name,
					 item->name);
		item->name = name;
		item->at = n;
	}
	if (!item->name && kind->name_keys[0])
		return conf_fail(l->error, item->at, "this block has no name, expected a label or the key '%s'",
				 kind->name_keys[0]);
	return 0;
}

static int read_item(struct loader *l, const struct config_kind *kind, const struct conf_node *n, const char *name,
		     config_item_fn fn, void *obj)
{
	struct config_item item = { .name = name, .body = n, .at = n };
	int r;

	if (n->kind == CONF_STRING && kind->name_only) {
		item.name = n->string;
		item.body = NULL;
	} else if (n->kind != CONF_OBJECT) {
		return config_bad_value(l, n, "a block { ... } with the keys of %s", kind->what);
	}
	r = item_name(l, kind, &item);
	return r < 0 ? r : fn(l, obj, &item);
}

/* `services { web { ... } api { ... } }`: the members are blocks, and their keys are the names. */
static bool is_map(const struct config_kind *kind, const struct conf_node *n)
{
	if (n->kind != CONF_OBJECT || n->label || !kind->name_keys[0] || !n->first)
		return false;
	for (const struct conf_node *m = n->first; m; m = m->next)
		if (m->label || m->kind != CONF_OBJECT || kind_find(kind, m->key, NULL))
			return false;
	return true;
}

int config_read_items(struct loader *l, const struct config_kind *kind, const struct conf_node *n, config_item_fn fn,
		      void *obj)
{
	bool map = is_map(kind, n);
	int r = 0;

	if (!map && n->kind != CONF_ARRAY) {
		size_t len = strlen(n->key);

		if (n->kind == CONF_OBJECT && !n->first && !n->label && len > 0 && n->key[len - 1] == 's')
			return 0; /* `services = {}`: none */
		return read_item(l, kind, n, n->label, fn, obj);
	}
	for (const struct conf_node *m = n->first; m && r == 0; m = m->next)
		r = read_item(l, kind, m, map ? m->key : NULL, fn, obj);
	return r;
}

/* --- values --- */

int config_read_text(struct loader *l, const struct conf_node *n, const char *expected, const char **ret)
{
	/* A name may look like a number; a label is text before its block, which no text value has. */
	if ((n->kind != CONF_STRING && n->kind != CONF_NUMBER) || n->string[0] == '\0')
		return config_bad_value(l, n, "%s", expected);
	*ret = n->string;
	return 0;
}

int config_read_copy(struct loader *l, const struct conf_node *n, const char *expected, char **ret)
{
	const char *text = "";
	int r = config_read_text(l, n, expected, &text);

	if (r < 0)
		return r;
	free(*ret);
	*ret = strdup(text);
	return *ret ? 0 : -ENOMEM;
}

int config_read_bool(struct loader *l, const struct conf_node *n, bool *ret)
{
	if (n->kind != CONF_BOOL)
		return config_bad_value(l, n, "true or false");
	*ret = n->boolean;
	return 0;
}

/* "12", "1.5", "+3": what strtod() would take, without its "inf", "nan" and hexadecimal. Returns what follows, or NULL. */
static const char *plain_number(const char *s, double *ret)
{
	const char *p = s;

	if (!isdigit((unsigned char)*p))
		return NULL;
	while (isdigit((unsigned char)*p))
		p++;
	if (*p == '.' && isdigit((unsigned char)p[1]))
		for (p++; isdigit((unsigned char)*p); p++)
			;
	*ret = strtod(s, NULL);
	if (tolower((unsigned char)*p) == 'e' && isdigit((unsigned char)p[1]))
		for (p++; isdigit((unsigned char)*p); p++)
			;
	return isfinite(*ret) ? p : NULL;
}

struct unit {
	const char *name;
	double factor;
};

/* Longest names first, since "ms" also begins with "m". */
static const struct unit time_units[] = { { "min", 60 }, { "ms", 1e-3 }, { "us", 1e-6 }, { "ns", 1e-9 }, { "s", 1 },
					  { "m", 60 },	 { "h", 3600 },	 { "d", 86400 }, { NULL, 0 } };
static const struct unit amount_units[] = { { "kib", 1024 }, { "mib", 1048576 }, { "gib", 1073741824 },
					    { "kb", 1024 },  { "mb", 1048576 },	 { "gb", 1073741824 },
					    { "k", 1e3 },    { "m", 1e6 },	 { "g", 1e9 }, { NULL, 0 } };

static const struct unit *unit_at(const struct unit *units, const char *s)
{
	for (; units->name; units++)
		if (strncasecmp(s, units->name, strlen(units->name)) == 0)
			return units;
	return NULL;
}

/* "5", "250ms", "1h30m" as Consul and Go write it. Return: false if it is none. */
static bool duration_parse(const char *s, double *ret_s)
{
	double total = 0, v;
	const char *rest = plain_number(s, &v);

	if (rest && *rest == '\0') {
		*ret_s = v;
		return true;
	}
	while (*s) {
		const struct unit *u;

		rest = plain_number(s, &v);
		u = rest ? unit_at(time_units, rest) : NULL;
		if (!u)
			return false;
		total += v * u->factor;
		s = rest + strlen(u->name);
	}
	*ret_s = total;
	return true;
}

/* As people write it: "30d", "1h", "10m", "0.1s". */
static const char *duration_text(char buf[24], double s)
{
	static const struct {
		double factor;
		char letter;
	} units[] = { { 86400, 'd' }, { 3600, 'h' }, { 60, 'm' } };

	for (size_t i = 0; i < ARRAY_SIZE(units); i++)
		if (s >= units[i].factor && s == units[i].factor * (double)(uint64_t)(s / units[i].factor)) {
			snprintf(buf, 24, "%g%c", s / units[i].factor, units[i].letter);
			return buf;
		}
	snprintf(buf, 24, "%gs", s);
	return buf;
}

int config_read_duration(struct loader *l, const struct conf_node *n, double min_s, double max_s, double *ret_s)
{
	bool text = n->kind == CONF_STRING || n->kind == CONF_NUMBER;
	char min[24], max[24];
	double v;

	if (!text || n->string[0] == '\0' || !duration_parse(n->string, &v))
		return config_bad_value(l, n, "a duration such as 5s, 250ms, 1m30s");
	if (v < min_s || v > max_s)
		return config_bad_value(l, n, "a duration from %s to %s", duration_text(min, min_s), duration_text(max, max_s));
	*ret_s = v;
	return 0;
}

int config_read_amount(struct loader *l, const struct conf_node *n, uint64_t min, uint64_t max, uint64_t *ret)
{
	const char *rest = NULL;
	double v = 0;

	if (n->kind == CONF_STRING || n->kind == CONF_NUMBER)
		rest = plain_number(n->string, &v);
	if (rest && *rest) {
		const struct unit *u = unit_at(amount_units, rest);

		rest = u ? rest + strlen(u->name) : "?";
		v *= u ? u->factor : 1;
	}
	if (!rest || *rest)
		return config_bad_value(l, n, "a number such as 100, 64kb, 10mb");
	if (v < (double)min || v > (double)max || v != (double)(uint64_t)v)
		return config_bad_value(l, n, "a whole number from %llu to %llu", (unsigned long long)min,
					(unsigned long long)max);
	*ret = (uint64_t)v;
	return 0;
}

int config_read_mode(struct loader *l, const struct conf_node *n, int *ret)
{
	const char *s = n->kind == CONF_STRING || n->kind == CONF_NUMBER ? n->string : "";
	size_t len = strlen(s);
	int mode = 0;

	if (len < 3 || len > 4 || strspn(s, "01234567") != len || (len == 4 && s[0] != '0'))
		return config_bad_value(l, n, "a socket's mode in octal, such as \"0660\"");
	for (; *s; s++)
		mode = mode << 3 | (*s - '0');
	*ret = mode;
	return 0;
}

static int default_user(const char *name, int64_t *ret)
{
	const struct passwd *pw = getpwnam(name);

	if (!pw)
		return -ENOENT;
	*ret = pw->pw_uid;
	return 0;
}

static int default_group(const char *name, int64_t *ret)
{
	const struct group *gr = getgrnam(name);

	if (!gr)
		return -ENOENT;
	*ret = gr->gr_gid;
	return 0;
}

static int read_id(struct loader *l, const struct conf_node *n, config_resolve_fn resolve, const char *what, int64_t *ret)
{
	const char *s = "";
	size_t len;
	int r = config_read_text(l, n, what, &s);

	if (r < 0)
		return r;
	len = strlen(s);
	if (strspn(s, "0123456789") == len) {
		long long v = len <= ID_MAX_LENGTH ? atoll(s) : -1;

		if (v < 0 || v >= UINT32_MAX) /* the last one means "none" to chown(2) */
			return config_bad_value(l, n, "%s or its number, at most 4294967294", what);
		*ret = v;
		return 0;
	}
	if (resolve(s, ret) < 0)
		return config_bad_value(l, n, "%s that this host knows, or its number", what);
	return 0;
}

int config_read_user(struct loader *l, const struct conf_node *n, int64_t *ret)
{
	return read_id(l, n, g_resolve.user ? g_resolve.user : default_user, "the name of a user", ret);
}

int config_read_group(struct loader *l, const struct conf_node *n, int64_t *ret)
{
	return read_id(l, n, g_resolve.group ? g_resolve.group : default_group, "the name of a group", ret);
}

static bool has_control_bytes(const char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			return true;
	return false;
}

/* Normal form, so that equal paths are equal strings and no part of a path leads back up. */
static bool absolute_is_normal(const char *path)
{
	if (path[0] != '/' || path[1] == '\0')
		return false;
	for (const char *p = path; *p;) {
		size_t n = strcspn(++p, "/"); /* *p was the '/' before this part */

		if (n == 0 || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
			return false;
		p += n;
	}
	return true;
}

int config_check_absolute(struct loader *l, const struct conf_node *n, const char *path)
{
	if (strlen(path) >= LIMIT_PATH_SIZE)
		return config_bad_value(l, n, "a path of at most %d bytes", LIMIT_PATH_SIZE - 1);
	if (!absolute_is_normal(path) || has_control_bytes(path))
		return config_bad_value(l, n, "an absolute path without \"//\", \".\", \"..\" and a \"/\" at the end");
	return 0;
}

static int check_relative(struct loader *l, const struct conf_node *n, const char *path, const char *dir,
			  const char *reserved)
{
	if (strchr(path, '/') || has_control_bytes(path))
		return config_bad_value(l, n, "a file name in %s without '/', or an absolute path of the host", dir);
	/* ".sealane-..." are the names under which the daemon prepares a socket before it is shown. */
	if (strcmp(path, ".") == 0 || strcmp(path, "..") == 0 || strncmp(path, ".sealane", 8) == 0)
		return config_bad_value(l, n, "a file name other than '.', '..' and '.sealane...'");
	if (reserved && strcmp(path, reserved) == 0)
		return config_bad_value(l, n, "another name: %s%s is where servers put their sockets", dir, reserved);
	if (strlen(dir) + strlen(path) >= SUN_PATH_SIZE)
		return config_bad_value(l, n, "a name of at most %zu bytes, since a program can connect to %d bytes of path",
					SUN_PATH_SIZE - 1 - strlen(dir), SUN_PATH_SIZE - 1);
	return 0;
}

int config_read_socket_path(struct loader *l, const struct conf_node *n, const char *dir, const char *reserved, char **ret)
{
	const char *path = "";
	int r = config_read_text(l, n, "the path of a socket", &path);

	if (r < 0)
		return r;
	r = path[0] == '/' ? config_check_absolute(l, n, path) : check_relative(l, n, path, dir, reserved);
	return r < 0 ? r : config_read_copy(l, n, "", ret);
}

int config_grow(void *array_ptr, size_t *cap, size_t n, size_t size)
{
	void **array = array_ptr;
	size_t bigger = *cap ? 2 * *cap : 16;
	void *mem;

	if (n < *cap)
		return 0;
	mem = reallocarray(*array, bigger, size);
	if (!mem)
		return -ENOMEM;
	*array = mem;
	*cap = bigger;
	return 0;
}
