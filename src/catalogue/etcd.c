/*
 * Theory of operation: every answer is one JSON value, parsed whole by jansson, and then read member by member with the type each
 * must have. Bounds are the caller's: LIMIT_ETCD_ANSWER_SIZE bytes come in here at most, keys and values are decoded into arrays
 * of the size that ours can have, and what is longer is told as such or passed over. A key that does not lie below the prefix
 * that was asked for is a lie, and with it the whole answer.
 *
 * Before this file: session.c (the bytes). After it: session.c again, and entry.c for what a value says.
 */
#include "catalogue/etcd.h"

#include "core/base64.h"

#include <jansson.h>
#include <stdio.h>

enum {
	FULL_KEY_SIZE = LIMIT_ETCD_PREFIX_SIZE + 1 + LIMIT_CATALOGUE_KEY_SIZE,
	/* etcd takes no request over 1.5 MiB, so there is no longer key. */
	ANY_KEY_SIZE = 2 << 20,
};

/* ------------------------------------------------------------------ requests */

static json_t *bytes(const void *data, size_t size)
{
	AUTO_FREE(char) text = malloc(base64_text_size(size));

	return text ? json_string(base64_encode(text, data, size, BASE64_STD)) : NULL;
}

static json_t *number(uint64_t n)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)n);
	return json_string(text);
}

static json_t *key_of(const char *prefix, const char *key)
{
	char full[FULL_KEY_SIZE];
	int n = snprintf(full, sizeof(full), "%s/%s", prefix, key);

	return n > 0 && (size_t)n < sizeof(full) ? bytes(full, (size_t)n) : NULL;
}

/* The first key behind all that are below the prefix: '0' follows '/'. */
static json_t *end_of(const char *prefix)
{
	char end[FULL_KEY_SIZE];
	int n = snprintf(end, sizeof(end), "%s0", prefix);

	return bytes(end, (size_t)n);
}

/* @o is taken. */
static char *text_of(json_t *o)
{
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;

	json_decref(o);
	return text;
}

char *etcd_build_range(const char *prefix, const char *from, unsigned limit, uint64_t revision)
{
	return text_of(json_pack("{s:o,s:o,s:o,s:o}", "key", from[0] ? json_string(from) : key_of(prefix, ""), "range_end", end_of(prefix),
				 "limit", number(limit), "revision", number(revision)));
}

char *etcd_build_watch(const char *prefix, uint64_t start_revision)
{
	return text_of(json_pack("{s:{s:o,s:o,s:o}}", "create_request", "key", key_of(prefix, ""), "range_end", end_of(prefix),
				 "start_revision", number(start_revision)));
}

char *etcd_build_auth(const char *user, const char *password)
{
	return text_of(json_pack("{s:s,s:s}", "name", user, "password", password));
}

char *etcd_build_grant(uint32_t ttl_s)
{
	return text_of(json_pack("{s:o}", "TTL", number(ttl_s)));
}

char *etcd_build_keepalive(uint64_t lease)
{
	return text_of(json_pack("{s:o}", "ID", number(lease)));
}

static json_t *op_of(const char *prefix, const struct etcd_op *op)
{
	if (!op->value)
		return json_pack("{s:{s:o}}", "request_delete_range", "key", key_of(prefix, op->key));
	return json_pack("{s:{s:o,s:o,s:o}}", "request_put", "key", key_of(prefix, op->key), "value", bytes(op->value, strlen(op->value)),
			 "lease", number(op->lease));
}

static json_t *compare_of(const char *prefix, const char *if_key, uint64_t if_revision)
{
	if (!if_key)
		return json_array();
	return json_pack("[{s:o,s:s,s:s,s:o}]", "key", key_of(prefix, if_key), "target", "MOD", "result", "EQUAL", "mod_revision",
			 number(if_revision));
}

char *etcd_build_txn(const char *prefix, const struct etcd_op *ops, size_t n, const char *if_key, uint64_t if_revision)
{
	json_t *list = json_array();

	for (size_t i = 0; list && i < n; i++) {
		json_t *op = op_of(prefix, &ops[i]);

		if (json_array_append_new(list, op) < 0) {
			json_decref(list);
			list = NULL;
		}
	}
	return text_of(json_pack("{s:o,s:o}", "compare", compare_of(prefix, if_key, if_revision), "success", list));
}

/* ------------------------------------------------------------------ parts of answers */

static int load(json_t **ret, const char *text, size_t size)
{
	json_error_t error;
	json_t *o = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);

	if (!o)
		return json_error_code(&error) == json_error_out_of_memory ? -ENOMEM : -EBADMSG;
	if (!json_is_object(o)) {
		json_decref(o);
		return -EBADMSG;
	}
	*ret = o;
	return 0;
}

static void json_cleanup(json_t **o)
{
	json_decref(*o);
}
#define AUTO_JSON AUTO(json_cleanup) json_t *

/* "123"; missing: 0. etcd writes 64-bit numbers as texts, other gateways perhaps as numbers. */
static bool get_number(const json_t *o, const char *name, uint64_t *ret)
{
	const json_t *v = json_object_get(o, name);
	const char *s = json_string_value(v);
	char *end;

	*ret = 0;
	if (!v)
		return true;
	if (json_is_integer(v) && json_integer_value(v) >= 0) {
		*ret = (uint64_t)json_integer_value(v);
		return true;
	}
	if (!s || s[0] < '0' || s[0] > '9')
		return false;
	errno = 0;
	*ret = strtoull(s, &end, 10);
	return *end == '\0' && errno == 0;
}

static bool get_header(const json_t *o, struct etcd_header *ret)
{
	const json_t *h = json_object_get(o, "header");

	return json_is_object(h) && get_number(h, "cluster_id", &ret->cluster_id) && get_number(h, "revision", &ret->revision) &&
	       ret->cluster_id != 0 && ret->revision <= INT64_MAX;
}

/* Return: the decoded size; -EMSGSIZE; -EBADMSG. Missing: 0, empty. */
static ssize_t get_bytes(const json_t *o, const char *name, void *ret, size_t size)
{
	const json_t *v = json_object_get(o, name);
	ssize_t n;

	if (!v)
		return 0;
	if (!json_is_string(v))
		return -EBADMSG;
	n = base64_decode(ret, size, json_string_value(v), json_string_length(v), BASE64_STD);
	return n == -EINVAL ? -EBADMSG : n;
}

struct kv_reading {
	const char *prefix;
	etcd_kv_fn fn;
	void *arg;
};

/* The key below the prefix, into @buf. Return: it; NULL with *ret_error 0: too long to be ours; -EBADMSG: not below it. */
static const char *read_key(const json_t *o, const char *prefix, char buf[FULL_KEY_SIZE], int *ret_error)
{
	size_t skip = strlen(prefix) + 1;
	ssize_t n = get_bytes(o, "key", buf, FULL_KEY_SIZE - 1);

	*ret_error = n == -EMSGSIZE || n >= 0 ? 0 : (int)n;
	if (n < 0)
		return NULL;
	buf[n] = '\0';
	if ((size_t)n < skip || strncmp(buf, prefix, skip - 1) != 0 || buf[skip - 1] != '/') {
		*ret_error = -EBADMSG;
		return NULL;
	}
	if (strlen(buf) != (size_t)n || (size_t)n - skip >= LIMIT_CATALOGUE_KEY_SIZE)
		return NULL;
	return buf + skip;
}

/* One member of `kvs`, or the kv of an event. */
static int read_kv(const struct kv_reading *r, const json_t *o, bool gone)
{
	char key[FULL_KEY_SIZE], value[LIMIT_CATALOGUE_VALUE_SIZE];
	struct etcd_kv kv = { .gone = gone };
	ssize_t n = 0;
	int error;

	if (!json_is_object(o) || !get_number(o, "mod_revision", &kv.mod_revision) || !get_number(o, "lease", &kv.lease) || kv.mod_revision > INT64_MAX)
		return -EBADMSG;
	kv.key = read_key(o, r->prefix, key, &error);
	if (!kv.key)
		return error;
	if (!gone)
		n = get_bytes(o, "value", value, sizeof(value) - 1);
	if (n == -EBADMSG)
		return -EBADMSG;
	kv.unusable = n < 0 || memchr(value, '\0', (size_t)n);
	if (!gone && !kv.unusable) {
		value[n] = '\0';
		kv.value = value;
		kv.size = (size_t)n;
	}
	r->fn(r->arg, &kv);
	return 0;
}

/* ------------------------------------------------------------------ answers */

/* The key behind the last one of a page: itself and a NUL. Keys grow from page to page, so this ends. */
static int next_from(char **ret, const json_t *kvs)
{
	const json_t *key = json_object_get(json_array_get(kvs, json_array_size(kvs) - 1), "key");
	AUTO_FREE(char) raw = json_is_string(key) ? malloc(json_string_length(key) + 1) : NULL;
	ssize_t n;

	if (!json_is_string(key) || json_string_length(key) > ANY_KEY_SIZE)
		return -EBADMSG;
	if (!raw)
		return -ENOMEM;
	n = base64_decode(raw, json_string_length(key), json_string_value(key), json_string_length(key), BASE64_STD);
	if (n < 0)
		return -EBADMSG;
	raw[n++] = '\0';
	*ret = malloc(base64_text_size((size_t)n));
	if (!*ret)
		return -ENOMEM;
	base64_encode(*ret, raw, (size_t)n, BASE64_STD);
	return 0;
}

int etcd_parse_range(struct etcd_page *ret, const char *text, size_t size, const char *prefix, etcd_kv_fn fn, void *arg)
{
	const struct kv_reading reading = { .prefix = prefix, .fn = fn, .arg = arg };
	struct etcd_page page = { 0 };
	const json_t *kvs, *kv;
	AUTO_JSON o = NULL;
	size_t i;
	int r = load(&o, text, size);

	if (r < 0)
		return r;
	kvs = json_object_get(o, "kvs");
	if (!get_header(o, &page.header) || page.header.revision == 0 || (kvs && !json_is_array(kvs)))
		return -EBADMSG;
	page.n = json_array_size(kvs);
	page.more = json_is_true(json_object_get(o, "more"));
	if (page.more && page.n == 0)
		return -EBADMSG;
	json_array_foreach(kvs, i, kv) {
		r = read_kv(&reading, kv, false);
		if (r < 0)
			return r;
	}
	if (page.more)
		r = next_from(&page.next_from, kvs);
	if (r == 0)
		*ret = page;
	return r;
}

static void copy_plain(char *ret, size_t size, const char *text, size_t n)
{
	size_t used = 0;

	for (size_t i = 0; i < n && used < size - 1; i++) {
		unsigned char c = (unsigned char)text[i];

		ret[used++] = c >= 0x20 && c < 0x7f ? (char)c : ' ';
	}
	while (used > 0 && ret[used - 1] == ' ')
		used--;
	ret[used] = '\0';
}

static int read_event(const struct kv_reading *reading, const json_t *e)
{
	const json_t *type = json_object_get(e, "type");

	if (type && !json_is_string(type))
		return -EBADMSG;
	return read_kv(reading, json_object_get(e, "kv"), type && strcmp(json_string_value(type), "DELETE") == 0);
}

/* {"error":...} instead of a result: the stream has ended. */
static int read_watch_error(struct etcd_watch *ret, const json_t *o)
{
	const json_t *error = json_object_get(o, "error");
	const json_t *message = json_is_object(error) ? json_object_get(error, "message") : error;

	if (!error)
		return -EBADMSG;
	*ret = (struct etcd_watch){ .cancelled = true };
	if (json_is_string(message))
		copy_plain(ret->why, sizeof(ret->why), json_string_value(message), json_string_length(message));
	return 0;
}

int etcd_parse_watch(struct etcd_watch *ret, const char *text, size_t size, const char *prefix, etcd_kv_fn fn, void *arg)
{
	const struct kv_reading reading = { .prefix = prefix, .fn = fn, .arg = arg };
	const json_t *result, *events, *event, *reason;
	struct etcd_watch w = { 0 };
	AUTO_JSON o = NULL;
	uint64_t compacted;
	size_t i;
	int r = load(&o, text, size);

	if (r < 0)
		return r;
	result = json_object_get(o, "result");
	if (!result)
		return read_watch_error(ret, o);
	events = json_object_get(result, "events");
	reason = json_object_get(result, "cancel_reason");
	if (!get_header(result, &w.header) || (events && !json_is_array(events)) || !get_number(result, "compact_revision", &compacted))
		return -EBADMSG;
	w.created = json_is_true(json_object_get(result, "created"));
	w.cancelled = json_is_true(json_object_get(result, "canceled"));
	w.compacted = w.cancelled && compacted != 0;
	if (json_is_string(reason))
		copy_plain(w.why, sizeof(w.why), json_string_value(reason), json_string_length(reason));
	json_array_foreach(events, i, event) {
		r = read_event(&reading, event);
		if (r < 0)
			return r;
	}
	*ret = w;
	return 0;
}

int etcd_parse_auth(char ret_token[ETCD_TOKEN_SIZE], const char *text, size_t size)
{
	AUTO_JSON o = NULL;
	const char *token;
	int r = load(&o, text, size);

	if (r < 0)
		return r;
	token = json_string_value(json_object_get(o, "token"));
	/* It goes into a header as it is. */
	for (const char *p = token ? token : "\n"; *p; p++)
		if ((unsigned char)*p <= 0x20 || (unsigned char)*p >= 0x7f)
			return -EBADMSG;
	return token[0] && str_copy(ret_token, ETCD_TOKEN_SIZE, token) ? 0 : -EBADMSG;
}

int etcd_parse_grant(uint64_t *ret_lease, const char *text, size_t size)
{
	AUTO_JSON o = NULL;
	uint64_t lease;
	int r = load(&o, text, size);

	if (r < 0)
		return r;
	if (!get_number(o, "ID", &lease) || lease == 0 || lease > INT64_MAX)
		return -EBADMSG;
	*ret_lease = lease;
	return 0;
}

int etcd_parse_keepalive(int64_t *ret_ttl_s, const char *text, size_t size)
{
	const json_t *result;
	AUTO_JSON o = NULL;
	uint64_t ttl;
	int r = load(&o, text, size);

	if (r < 0)
		return r;
	result = json_object_get(o, "result");
	if (!json_is_object(result) || !get_number(result, "TTL", &ttl) || ttl > INT32_MAX)
		return -EBADMSG;
	*ret_ttl_s = (int64_t)ttl;
	return 0;
}

int etcd_parse_txn(bool *ret_succeeded, const char *text, size_t size)
{
	struct etcd_header header;
	AUTO_JSON o = NULL;
	int r = load(&o, text, size);

	if (r < 0)
		return r;
	if (!get_header(o, &header))
		return -EBADMSG;
	*ret_succeeded = json_is_true(json_object_get(o, "succeeded"));
	return 0;
}

/* ------------------------------------------------------------------ what went wrong */

static const struct complaint {
	const char *says; /* somewhere in it */
	enum etcd_fault fault;
	const char *advice; /* NULL: its own words */
} g_complaints[] = {
	{ "CommonName of client", ETCD_FAULT_REFUSED,
	  "etcd's gateway refuses client certificates that have a common name: `certificate` must have an empty subject, and `user` says who we are" },
	{ "invalid auth token", ETCD_FAULT_TOKEN, NULL },
	{ "revision of auth store is old", ETCD_FAULT_TOKEN, NULL },
	{ "requested lease not found", ETCD_FAULT_LEASE, NULL },
	{ "user name is empty", ETCD_FAULT_REFUSED, "etcd wants a user: set `user` and `password_file`" },
	{ "authentication failed", ETCD_FAULT_REFUSED, "etcd does not take `user` with what `password_file` holds" },
	{ "authentication is not enabled", ETCD_FAULT_REFUSED, "etcd has no users turned on (etcdctl auth enable): take `user` out, or turn them on" },
	{ "permission denied", ETCD_FAULT_REFUSED, "etcd's user has no right to read and write below the prefix (etcdctl role grant-permission --prefix=true)" },
};

/* The gateway's own words: {"error":...,"message":...} or plain text. */
static void words_of(const char *text, size_t size, char why[ETCD_WHY_SIZE])
{
	AUTO_JSON o = NULL;
	const json_t *message;

	if (load(&o, text, size) < 0)
		o = NULL;
	message = json_object_get(o, "message");
	if (!message)
		message = json_object_get(o, "error");
	if (json_is_string(message))
		copy_plain(why, ETCD_WHY_SIZE, json_string_value(message), json_string_length(message));
	else
		copy_plain(why, ETCD_WHY_SIZE, text, size);
}

enum etcd_fault etcd_judge(long status, const char *text, size_t size, char why[ETCD_WHY_SIZE])
{
	char words[ETCD_WHY_SIZE];

	words_of(text, size, words);
	for (size_t i = 0; i < ARRAY_SIZE(g_complaints); i++) {
		const struct complaint *c = &g_complaints[i];

		if (!strstr(words, c->says))
			continue;
		snprintf(why, ETCD_WHY_SIZE, "%s", c->advice ? c->advice : words);
		return c->fault;
	}
	if (status == 401)
		return snprintf(why, ETCD_WHY_SIZE, "%s", words), ETCD_FAULT_TOKEN;
	if (status)
		snprintf(why, ETCD_WHY_SIZE, "status %ld: %.200s", status, words);
	else
		snprintf(why, ETCD_WHY_SIZE, "%s", words[0] ? words : "the watch has ended");
	return ETCD_FAULT_RETRY;
}
