/*
 * Theory of operation
 *
 * One table maps paths and methods to handlers. A handler checks its input, then either answers at once from a view, or
 * asks the broker (broker_*() with a callback) and the answer follows, perhaps in the same call. Whoever asks is answered
 * exactly once: a `struct call` is made per request, carries the way back and ends in call_answer().
 *
 * Who may: reading is for whoever could open the socket; every other method is for uid 0 and the configuration's `admin { users }`. The uid comes
 * from the kernel with the connection. A refusal is decided before the body is looked at.
 *
 * Changes are logged once they are answered ("admin.change"), with the uid; refusals once per uid ("admin.refuse").
 * Never: keep a pointer into the request after api_handle() returned, or wait.
 *
 * Before it: broker_admin.c (HTTP). After it: broker.c, broker_views.c, broker_metrics.c.
 */
#include "daemon/broker_api.h"

#include "base/log.h"
#include "daemon/broker_ca.h"
#include "daemon/broker_catalogue_views.h"
#include "daemon/broker_metrics.h"
#include "daemon/broker_views.h"
#include "daemon/openapi_data.h"

#include <jansson.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>

enum {
	MESSAGE_SIZE = 1024,
	REFUSED_UIDS_KEPT = 32, /* uids whose refusal was logged; more are not worth a line each */
	EVENTS_DEFAULT = 100,
};

struct call {
	struct broker *b;
	api_answer_fn fn;
	void *arg;
	const struct endpoint *endpoint;
	enum api_method method;
	uid_t uid;
	bool admitted; /* the endpoint's handler was reached: a change is worth a log line */
	char subject[LIMIT_NAME_SIZE]; /* the NAME of /v1/workloads/NAME */
	const char *query, *body;      /* good only while api_handle() runs */
	size_t n_body;
};

typedef void (*handler_fn)(struct call *c);

struct endpoint {
	const char *path; /* one "*" stands for one part: a workload's name */
	handler_fn handlers[API_OTHER];
	const char *allow;
};

static const char *const method_names[] = {
	[API_GET] = "GET", [API_POST] = "POST", [API_DELETE] = "DELETE", [API_OTHER] = "other"
};
static_assert(ARRAY_SIZE(method_names) == API_METHOD_N, "a name for each method");

/* --- answers --- */

static void log_change(const struct call *c, int status)
{
	if (c->method != API_GET && c->admitted)
		log_info("admin.change", LOG_STR("method", method_names[c->method]), LOG_STR("path", c->endpoint->path),
			 LOG_STR("name", c->subject[0] ? c->subject : NULL), LOG_U64("uid", c->uid),
			 LOG_U64("status", (uint64_t)status));
}

static void call_answer(struct call *c, const struct api_answer *a)
{
	log_change(c, a->status);
	c->fn(c->arg, a);
	free(c);
}

void api_refuse(int status, const char *code, api_answer_fn fn, void *arg, const char *fmt, ...)
{
	static const char no_room[] = "{\"error\":{\"code\":\"no_room\",\"message\":\"out of memory\"}}\n";
	char message[MESSAGE_SIZE];
	AUTO_FREE(char) body = NULL;
	struct api_answer a = { .status = status, .content_type = "application/json" };
	json_t *json;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	for (char *p = message; *p; p++)
		if ((unsigned char)*p >= 0x80)
			*p = '?'; /* parts of it came from outside, and may have been cut inside a character */
	json = json_pack("{s:{s:s,s:s}}", "error", "code", code, "message", message);
	body = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	a.body = body ? body : no_room;
	a.n_body = strlen(a.body);
	fn(arg, &a);
}

/* The way of an error back through call_answer(): api_refuse() wants a function that takes the answer. */
static void answer_call(void *arg, const struct api_answer *a)
{
	struct call *c = arg;
	struct api_answer copy = *a;

	if (a->status == 405)
		copy.allow = c->endpoint->allow;
	call_answer(c, &copy);
}

#define call_refuse(c, status, code, ...) api_refuse((status), (code), answer_call, (c), __VA_ARGS__)

/* @json is taken; NULL: there was no memory for it. */
static void call_json(struct call *c, json_t *json)
{
	char *body = json ? json_dumps(json, JSON_COMPACT) : NULL;
	struct api_answer a = { .status = 200, .content_type = "application/json", .body = body };

	json_decref(json);
	if (!body) {
		call_refuse(c, 503, "no_room", "out of memory for the answer; ask for less or give the daemon more");
		return;
	}
	a.n_body = strlen(body);
	call_answer(c, &a);
	free(body);
}

/* What a negative errno of the broker means to an HTTP client. */
static const struct error_meaning {
	int error, status;
	const char *code;
} error_meanings[] = {
	{ -EINVAL, 400, "invalid" },	{ -EACCES, 403, "forbidden" },	{ -ENOENT, 404, "not_found" },
	{ -EPERM, 409, "conflict" },	{ -EEXIST, 409, "conflict" },	{ -EBUSY, 409, "conflict" },
	{ -ENOMEM, 503, "no_room" },	{ -ENOSPC, 503, "no_room" },	{ -ENOBUFS, 503, "no_room" },
	{ -EMFILE, 503, "no_room" },	{ -ENFILE, 503, "no_room" },	{ -ETIMEDOUT, 504, "timeout" },
	{ -EHOSTDOWN, 503, "away" },	{ -ESTALE, 409, "conflict" },
};

static void call_error(struct call *c, int error, const char *why)
{
	const char *text = why && why[0] ? why : log_errno_name(error);

	for (size_t i = 0; i < ARRAY_SIZE(error_meanings); i++)
		if (error_meanings[i].error == error) {
			call_refuse(c, error_meanings[i].status, error_meanings[i].code, "%s", text);
			return;
		}
	call_refuse(c, 500, "internal", "%s (%s); the daemon's log may say more", text, log_errno_name(error));
}

static void done_ok(void *arg, int error, const char *why)
{
	struct call *c = arg;

	if (error)
		call_error(c, error, why);
	else
		call_json(c, json_pack("{s:b}", "ok", 1));
}

static void done_reload(void *arg, int error, const char *why)
{
	struct call *c = arg;

	if (error == -EINVAL)
		call_refuse(c, 422, "bad_config", "%s; the configuration before it stays in force", why ? why : "wrong");
	else
		done_ok(c, error, why);
}

/* --- reading a request --- */

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Decode @n percent-encoded bytes. Return: false if they are malformed, hold a NUL, or do not fit. */
static bool url_decode(char *dst, size_t size, const char *src, size_t n, bool plus_is_space)
{
	size_t used = 0;

	for (size_t i = 0; i < n; i++) {
		char ch = src[i];

		if (ch == '%') {
			int high = n - i > 2 ? hex_digit(src[i + 1]) : -1, low = n - i > 2 ? hex_digit(src[i + 2]) : -1;

			if (high < 0 || low < 0)
				return false;
			ch = (char)(high << 4 | low);
			i += 2;
		} else if (ch == '+' && plus_is_space) {
			ch = ' ';
		}
		if (ch == '\0' || used >= size - 1)
			return false;
		dst[used++] = ch;
	}
	dst[used] = '\0';
	return true;
}

/* Return: 1: @dst holds the value; 0: not there; -EINVAL: malformed, too long, or there twice. */
static int query_get(const char *query, const char *key, char *dst, size_t size)
{
	size_t n_key = strlen(key);
	int found = 0;

	for (const char *p = query ? query : ""; *p;) {
		size_t n = strcspn(p, "&");

		if (n > n_key && strncmp(p, key, n_key) == 0 && p[n_key] == '=') {
			if (found || !url_decode(dst, size, p + n_key + 1, n - n_key - 1, true))
				return -EINVAL;
			found = 1;
		}
		p += n + (p[n] == '&');
	}
	return found;
}

/* A query's value that must be there. Return: false: the call has been answered. */
static bool query_want(struct call *c, const char *key, char *dst, size_t size)
{
	int r = query_get(c->query, key, dst, size);

	if (r == 1)
		return true;
	call_refuse(c, 400, "invalid", "the query's `%s` is %s: give it once, as in ?source=web&destination=redis", key,
		    r == 0 ? "missing" : "malformed");
	return false;
}

static const char *default_ns(const struct call *c)
{
	return c->b->config ? c->b->config->namespace_ : "default";
}

static bool want_pattern(struct call *c, const char *what, const char *text, struct service_pattern *ret)
{
	if (service_pattern_parse(ret, text, default_ns(c)) == 0)
		return true;
	call_refuse(c, 400, "invalid", "%s \"%s\" is no service: expected NAME, NAMESPACE/NAME, NAMESPACE/* or *", what, text);
	return false;
}

static bool want_name(struct call *c, const char *what, const char *text, struct service_name *ret)
{
	if (service_name_parse(ret, text, default_ns(c)) == 0)
		return true;
	call_refuse(c, 400, "invalid", "%s \"%s\" is no service: expected NAME or NAMESPACE/NAME (a-z, 0-9, -)", what, text);
	return false;
}

/* The body as a JSON object (owned by the caller). NULL: the call has been answered. */
static json_t *want_body(struct call *c)
{
	json_error_t e;
	json_t *json;

	if (c->n_body == 0) {
		call_refuse(c, 400, "invalid", "the request has no body: a JSON object is expected (see /v1/openapi.json)");
		return NULL;
	}
	json = json_loadb(c->body, c->n_body, JSON_REJECT_DUPLICATES, &e);
	if (!json) {
		call_refuse(c, 400, "invalid", "the body is not JSON: line %d, column %d: %s", e.line, e.column, e.text);
		return NULL;
	}
	if (!json_is_object(json)) {
		json_decref(json);
		call_refuse(c, 400, "invalid", "the body is JSON, but no object");
		return NULL;
	}
	return json;
}

static void refuse_members(struct call *c, const json_error_t *e)
{
	call_refuse(c, 400, "invalid", "the body's members are not as expected: %s (see /v1/openapi.json)", e->text);
}

/* --- reading endpoints --- */

static int64_t now_s(void)
{
	return (int64_t)time(NULL);
}

static void get_status(struct call *c)
{
	json_t *status = view_status(c->b, now_s());

	if (status && (json_object_set_new(status, "catalogue", view_catalogue(c->b)) < 0 || json_object_set_new(status, "rdma", view_rdma(c->b)) < 0 ||
		       json_object_set_new(status, "links", view_links_status(c->b)) < 0)) {
		json_decref(status);
		status = NULL;
	}
	call_json(c, status);
}

static void get_workloads(struct call *c)
{
	call_json(c, view_workloads(c->b));
}

static void refuse_workload(struct call *c)
{
	call_refuse(c, 404, "not_found", "there is no workload \"%s\"; `sealane ls workloads` lists them", c->subject);
}

static void get_workload(struct call *c)
{
	const struct workload *w = view_find_workload(c->b, c->subject);

	if (w)
		call_json(c, view_workload(c->b, w));
	else
		refuse_workload(c);
}

static void get_services(struct call *c)
{
	call_json(c, view_services(c->b));
}

static void get_intentions(struct call *c)
{
	call_json(c, view_intentions(c->b, now_s()));
}

static void get_upstreams(struct call *c)
{
	call_json(c, view_upstreams(c->b, now_s()));
}

static void done_lanes(void *arg, int error, const char *why)
{
	struct call *c = arg;

	if (error)
		call_error(c, error, why);
	else
		call_json(c, view_lanes(c->b));
}

static void get_lanes(struct call *c)
{
	broker_refresh_lanes(c->b, done_lanes, c);
}

static void done_links(void *arg, int error, const char *why)
{
	struct call *c = arg;

	if (error)
		call_error(c, error, why);
	else
		call_json(c, view_links(c->b));
}

static void get_links(struct call *c)
{
	broker_refresh_lanes(c->b, done_links, c);
}

/* When they were heard may be a little older, if it cannot be asked: better than no list. */
static void done_hosts(void *arg, int error, const char *why)
{
	struct call *c = arg;

	call_json(c, view_hosts(c->b));
}

static void get_hosts(struct call *c)
{
	broker_refresh_lanes(c->b, done_hosts, c);
}

static void get_explain(struct call *c)
{
	char source[2 * LIMIT_SERVICE_SIZE], destination[2 * LIMIT_SERVICE_SIZE];
	struct service_name from, to;

	if (query_want(c, "source", source, sizeof(source)) && query_want(c, "destination", destination, sizeof(destination)) &&
	    want_name(c, "source", source, &from) && want_name(c, "destination", destination, &to))
		call_json(c, view_explain(c->b, &from, &to, now_s()));
}

/* Numbers that are not fresh are better than none: what the refresh said does not matter. */
static void done_metrics(void *arg, int error, const char *why)
{
	struct call *c = arg;
	struct api_answer a = { .status = 200, .content_type = "text/plain; version=0.0.4; charset=utf-8" };
	char *text = NULL;

	if (metrics_format(c->b, &text, &a.n_body) < 0) {
		call_refuse(c, 503, "no_room", "out of memory for the answer");
		return;
	}
	a.body = text;
	call_answer(c, &a);
	free(text);
}

static void get_metrics(struct call *c)
{
	broker_refresh_lanes(c->b, done_metrics, c);
}

static void get_openapi(struct call *c)
{
	struct api_answer a = { .status = 200,
				.content_type = "application/json",
				.body = (const char *)openapi_data,
				.n_body = sizeof(openapi_data) };

	call_answer(c, &a);
}

/* A query's small number. Return: false: the call has been answered. */
static bool query_number(struct call *c, const char *key, unsigned max, unsigned *value)
{
	char buf[16], *end = buf;
	int r = query_get(c->query, key, buf, sizeof(buf));
	unsigned long n;

	if (r == 0)
		return true;
	n = r == 1 && buf[0] >= '0' && buf[0] <= '9' ? strtoul(buf, &end, 10) : ULONG_MAX;
	if (n > max || *end) {
		call_refuse(c, 400, "invalid", "the query's `%s` must be a number from 0 to %u", key, max);
		return false;
	}
	*value = (unsigned)n;
	return true;
}

static void get_events(struct call *c)
{
	unsigned follow = 0;
	struct api_answer a = { .status = 200,
				.content_type = "application/x-ndjson",
				.stream = true,
				.n_events = EVENTS_DEFAULT };

	if (!query_number(c, "follow", 1, &follow) || !query_number(c, "n", LIMIT_EVENTS_KEPT, &a.n_events))
		return;
	a.follow = follow == 1;
	call_answer(c, &a);
}

/* --- changing endpoints --- */

/* A limit: absent, or a number from 0 to @max. Return: false: it is something else. */
static bool read_limit(const json_t *limits, const char *key, json_int_t max, uint64_t *ret)
{
	const json_t *v = json_object_get(limits, key);

	*ret = 0;
	if (!v)
		return true;
	if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > max)
		return false;
	*ret = (uint64_t)json_integer_value(v);
	return true;
}

/* Return: NULL, or the name of the member that is wrong. */
static const char *read_limits(const json_t *limits, struct intention_limits *ret)
{
	uint64_t open = 0, rate = 0;
	const char *key;
	json_t *v;

	if (!limits)
		return NULL;
	if (!json_is_object(limits))
		return "limits";
	json_object_foreach((json_t *)limits, key, v)
		if (strcmp(key, "open_lanes") != 0 && strcmp(key, "connections_per_s") != 0 && strcmp(key, "bytes_per_s") != 0)
			return key;
	if (!read_limit(limits, "open_lanes", UINT32_MAX, &open))
		return "open_lanes";
	if (!read_limit(limits, "connections_per_s", UINT32_MAX, &rate))
		return "connections_per_s";
	if (!read_limit(limits, "bytes_per_s", INT64_MAX, &ret->bytes_per_s))
		return "bytes_per_s";
	ret->open_lanes = (uint32_t)open;
	ret->connections_per_s = (uint32_t)rate;
	return NULL;
}

static bool read_expires(struct call *c, const json_t *v, int64_t *ret)
{
	*ret = 0;
	if (!v || json_is_null(v))
		return true;
	*ret = json_integer_value(v);
	if (json_is_integer(v) && *ret > now_s())
		return true;
	call_refuse(c, 400, "invalid", "`expires` must be a time to come, in seconds since 1970 (now: %lld)", (long long)now_s());
	return false;
}

static void write_where(const struct call *c, char *where, size_t size)
{
	time_t t = (time_t)now_s();
	char stamp[32];
	struct tm tm;

	gmtime_r(&t, &tm);
	strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%SZ", &tm);
	snprintf(where, size, "runtime %s by uid %u", stamp, c->uid);
}

/* As write_where(), for those who read it on another host. */
static void write_by(const struct call *c, char by[ENTRY_BY_SIZE])
{
	char where[LIMIT_PATH_SIZE];

	write_where(c, where, sizeof(where));
	snprintf(by, ENTRY_BY_SIZE, "%.70s on %.63s", where + strlen("runtime "), c->b->host);
}

/* Return: false: the call has been answered. */
static bool read_intention(struct call *c, json_t *body, struct intention *i, bool *cluster)
{
	const char *source, *destination, *action, *wrong;
	json_t *limits = NULL, *expires = NULL;
	json_error_t e;
	int strict = 0, in_cluster = 0;

	if (json_unpack_ex(body, &e, JSON_STRICT, "{s:s,s:s,s:s,s?b,s?o,s?o,s?b}", "source", &source, "destination", &destination,
			   "action", &action, "strict", &strict, "limits", &limits, "expires", &expires, "cluster", &in_cluster) < 0) {
		refuse_members(c, &e);
		return false;
	}
	if (!want_pattern(c, "source", source, &i->source) || !want_pattern(c, "destination", destination, &i->destination))
		return false;
	if (strcmp(action, "allow") != 0 && strcmp(action, "deny") != 0) {
		call_refuse(c, 400, "invalid", "`action` is \"%s\": expected \"allow\" or \"deny\"", action);
		return false;
	}
	wrong = read_limits(limits, &i->limits);
	if (wrong) {
		call_refuse(c, 400, "invalid", "`%s` is not as expected: limits are { open_lanes, connections_per_s, bytes_per_s },"
			    " whole numbers, 0 for no limit", wrong);
		return false;
	}
	i->action = strcmp(action, "allow") == 0 ? INTENTION_ALLOW : INTENTION_DENY;
	i->strict = strict;
	*cluster = in_cluster;
	return read_expires(c, expires, &i->expires_unix_s);
}

static void post_intention(struct call *c)
{
	struct intention i = { .origin = INTENTION_FROM_RUNTIME };
	json_t *body = want_body(c);
	bool good, cluster = false;
	char by[ENTRY_BY_SIZE];

	if (!body)
		return;
	good = read_intention(c, body, &i, &cluster);
	json_decref(body);
	if (!good)
		return;
	write_where(c, i.where, sizeof(i.where));
	write_by(c, by);
	if (cluster)
		catalogue_intention_set(c->b, &i, by, done_ok, c);
	else
		broker_intention_set(c->b, &i, done_ok, c);
}

static void delete_intention(struct call *c)
{
	char source[2 * LIMIT_SERVICE_SIZE], destination[2 * LIMIT_SERVICE_SIZE];
	struct service_pattern from, to;
	unsigned cluster = 0;

	if (!query_want(c, "source", source, sizeof(source)) || !query_want(c, "destination", destination, sizeof(destination)) ||
	    !query_number(c, "cluster", 1, &cluster) || !want_pattern(c, "source", source, &from) ||
	    !want_pattern(c, "destination", destination, &to))
		return;
	if (cluster)
		catalogue_intention_remove(c->b, &from, &to, done_ok, c);
	else
		broker_intention_remove(c->b, &from, &to, done_ok, c);
}

static void answer_catalogue(struct call *c, int error, const char *why, size_t n_written)
{
	const struct catalogue_status *s = catalogue_status(c->b);

	if (error)
		call_error(c, error, why);
	else
		call_json(c, json_pack("{s:b,s:I,s:I,s:I}", "ok", 1, "written", (json_int_t)n_written, "intentions", (json_int_t)s->n_intentions,
				       "generation", (json_int_t)s->known.epoch.generation));
}

static void done_accept(void *arg, int error, const char *why)
{
	answer_catalogue(arg, error, why, 0);
}

static void done_restore(void *arg, int error, const char *why)
{
	struct call *c = arg;

	answer_catalogue(c, error, why, catalogue_status(c->b)->n_restored);
}

static void accept_catalogue(struct call *c, bool restore)
{
	char by[ENTRY_BY_SIZE];

	write_by(c, by);
	catalogue_accept(c->b, restore, by, restore ? done_restore : done_accept, c);
}

static void post_catalogue_accept(struct call *c)
{
	accept_catalogue(c, false);
}

static void post_catalogue_restore(struct call *c)
{
	accept_catalogue(c, true);
}

static void done_enrol(void *arg, int error, const char *why, const char *name, const char *dir)
{
	struct call *c = arg;

	if (error) {
		call_error(c, error, why);
		return;
	}
	/* The log line names who was enrolled, not only that somebody was. */
	if (!str_copy(c->subject, sizeof(c->subject), name))
		c->subject[0] = '\0';
	call_json(c, json_pack("{s:s,s:s}", "name", name, "dir", dir));
}

/* Up to 2^64-1 as a string, since JSON's readers lose digits beyond 2^53. */
static bool read_cgroup_id(const json_t *v, uint64_t *ret)
{
	const char *s = json_string_value(v);
	char *end;

	*ret = 0;
	if (!v)
		return true;
	if (json_is_integer(v)) {
		*ret = (uint64_t)json_integer_value(v);
		return json_integer_value(v) > 0;
	}
	if (!s || s[0] < '0' || s[0] > '9')
		return false;
	errno = 0;
	*ret = strtoull(s, &end, 10);
	return !*end && errno == 0 && *ret != 0;
}

struct enrol_texts {
	const char *workload, *service, *cgroup_path, *container_id, *label, *by;
};

/* Return: NULL, or what is wrong. */
static const char *read_enrol_texts(struct broker_enrolment *e, const struct enrol_texts *t)
{
	if ((t->workload[0] && !label_is_valid(t->workload)) || !str_copy(e->workload, sizeof(e->workload), t->workload))
		return "`workload` is no name: expected a-z, 0-9 and -, at most 63";
	if (!str_copy(e->cgroup_path, sizeof(e->cgroup_path), t->cgroup_path) || (e->cgroup_path[0] && e->cgroup_path[0] != '/'))
		return "`cgroup_path` must begin with / (below the cgroup2 mount) and have at most 511 bytes";
	if (!str_copy(e->container_id, sizeof(e->container_id), t->container_id))
		return "`container_id` is longer than 127 bytes";
	if (!str_copy(e->label, sizeof(e->label), t->label) || (e->label[0] && !strchr(e->label, '=')))
		return "`label` must be key=value, at most 255 bytes";
	if (!str_copy(e->by, sizeof(e->by), t->by))
		return "`by` is longer than 63 bytes";
	if (!e->cgroup_id && !e->cgroup_path[0])
		return "nothing to enrol: give `cgroup_id` or `cgroup_path` of the running container";
	if (!e->workload[0] && !t->service[0] && !e->container_id[0] && !e->label[0])
		return "enrol as what? Give `workload`, `service`, `container_id` or `label`";
	return NULL;
}

static bool read_enrolment(struct call *c, json_t *body, struct broker_enrolment *en)
{
	struct enrol_texts t = { "", "", "", "", "", "api" };
	json_t *id = NULL;
	json_error_t e;
	const char *wrong;

	if (json_unpack_ex(body, &e, JSON_STRICT, "{s?s,s?s,s?s,s?s,s?s,s?s,s?o}", "workload", &t.workload, "service",
			   &t.service, "cgroup_path", &t.cgroup_path, "container_id", &t.container_id, "label", &t.label, "by",
			   &t.by, "cgroup_id", &id) < 0) {
		refuse_members(c, &e);
		return false;
	}
	wrong = read_cgroup_id(id, &en->cgroup_id) ? read_enrol_texts(en, &t) : "`cgroup_id` must be a positive number";
	if (wrong) {
		call_refuse(c, 400, "invalid", "%s", wrong);
		return false;
	}
	return !t.service[0] || want_name(c, "service", t.service, &en->service);
}

static void post_workload(struct call *c)
{
	struct broker_enrolment e = { .cgroup_id = 0 };
	json_t *body = want_body(c);
	bool good;

	if (!body)
		return;
	good = read_enrolment(c, body, &e);
	json_decref(body);
	if (good)
		broker_enrol(c->b, &e, done_enrol, c);
}

static void delete_workload(struct call *c)
{
	if (view_find_workload(c->b, c->subject))
		broker_unenrol(c->b, c->subject, done_ok, c);
	else
		refuse_workload(c);
}

static void post_drain(struct call *c)
{
	json_t *body;
	json_error_t e;
	int on, r;

	if (!view_find_workload(c->b, c->subject)) {
		refuse_workload(c);
		return;
	}
	body = want_body(c);
	if (!body)
		return;
	r = json_unpack_ex(body, &e, JSON_STRICT, "{s:b}", "on", &on);
	json_decref(body);
	if (r < 0)
		refuse_members(c, &e);
	else
		broker_drain(c->b, c->subject, on, done_ok, c);
}

static void post_reload(struct call *c)
{
	broker_reload(c->b, done_reload, c);
}

/* --- certificates --- */

enum { TOKEN_FOR_S = 600 };

static void get_certificates(struct call *c)
{
	call_json(c, ca_view_certificates(c->b));
}

static void get_ca(struct call *c)
{
	call_json(c, ca_view_authority(c->b));
}

static void done_ca(void *arg, int error, const char *why, json_t *json)
{
	struct call *c = arg;

	if (error)
		call_error(c, error, why);
	else
		call_json(c, json_incref(json));
}

static void post_ca(struct call *c)
{
	authority_init(c->b, done_ca, c);
}

static bool want_host(struct call *c, const char *host)
{
	if (label_is_valid(host))
		return true;
	call_refuse(c, 400, "invalid", "host \"%s\" is no name: expected a-z, 0-9 and -, at most 63", host);
	return false;
}

/* Patterns, each in its full spelling, with blanks between. Return: false: the call has been answered. */
static bool read_services(struct call *c, const json_t *list, struct ca_token_ask *a)
{
	char text[LIMIT_SERVICE_SIZE];
	struct service_pattern p;
	const json_t *v;
	size_t i, used = 0;

	if (list && !json_is_array(list)) {
		call_refuse(c, 400, "invalid", "`services` must be an array of NAME, NAMESPACE/NAME, NAMESPACE/* or *");
		return false;
	}
	json_array_foreach(list, i, v) {
		if (!want_pattern(c, "service", json_is_string(v) ? json_string_value(v) : "?", &p))
			return false;
		used += (size_t)snprintf(a->services + used, sizeof(a->services) - used, "%s%s", i ? " " : "", service_pattern_format(text, &p));
		if (used >= sizeof(a->services)) {
			call_refuse(c, 400, "invalid", "these are too many services for one token: grant more with `sealane ca grant` later");
			return false;
		}
	}
	return true;
}

static bool read_token_ask(struct call *c, json_t *body, struct ca_token_ask *a)
{
	const char *host, *address = "";
	json_int_t for_s = TOKEN_FOR_S;
	json_t *services = NULL;
	json_error_t e;

	if (json_unpack_ex(body, &e, JSON_STRICT, "{s:s,s?o,s?I,s?s}", "host", &host, "services", &services, "for_s", &for_s, "address", &address) < 0) {
		refuse_members(c, &e);
		return false;
	}
	a->for_s = for_s;
	if (!str_copy(a->address, sizeof(a->address), address)) {
		call_refuse(c, 400, "invalid", "`address` is longer than %d bytes", LIMIT_ADDRESS_SIZE - 1);
		return false;
	}
	return want_host(c, host) && str_copy(a->host, sizeof(a->host), host) && read_services(c, services, a);
}

static void post_token(struct call *c)
{
	struct ca_token_ask a = {};
	json_t *body = want_body(c);
	bool good;

	if (!body)
		return;
	good = read_token_ask(c, body, &a);
	json_decref(body);
	if (good)
		authority_token(c->b, &a, done_ca, c);
}

static void get_tokens(struct call *c)
{
	call_json(c, ca_view_tokens(c->b));
}

static void delete_token(struct call *c)
{
	char what[LIMIT_NAME_SIZE];

	if (query_want(c, "what", what, sizeof(what)))
		authority_token_withdraw(c->b, what, done_ca, c);
}

static void post_grant(struct call *c)
{
	const char *host, *service;
	struct service_pattern p;
	char name[LIMIT_NAME_SIZE];
	json_t *body = want_body(c);
	json_error_t e;
	bool good;

	if (!body)
		return;
	good = json_unpack_ex(body, &e, JSON_STRICT, "{s:s,s:s}", "host", &host, "service", &service) == 0;
	if (!good)
		refuse_members(c, &e);
	good = good && want_host(c, host) && str_copy(name, sizeof(name), host) && want_pattern(c, "service", service, &p);
	json_decref(body);
	if (good)
		authority_grant(c->b, name, &p, done_ca, c);
}

static void post_root(struct call *c)
{
	json_t *body = want_body(c);
	json_int_t after_s = -1;
	json_error_t e;
	bool good;

	if (!body)
		return;
	good = json_unpack_ex(body, &e, JSON_STRICT, "{s?I}", "after_s", &after_s) == 0;
	json_decref(body);
	if (!good)
		refuse_members(c, &e);
	else
		authority_rotate_root(c->b, after_s, done_ca, c);
}

static void delete_root(struct call *c)
{
	unsigned now = 0;

	if (query_number(c, "now", 1, &now))
		authority_retire_root(c->b, now, done_ca, c);
}

static void delete_grant(struct call *c)
{
	char host[LIMIT_NAME_SIZE], service[2 * LIMIT_SERVICE_SIZE];
	struct service_pattern p;

	if (query_want(c, "host", host, sizeof(host)) && query_want(c, "service", service, sizeof(service)) && want_host(c, host) &&
	    want_pattern(c, "service", service, &p))
		authority_ungrant(c->b, host, &p, done_ca, c);
}

static void post_revoked(struct call *c)
{
	char what[LIMIT_SPIFFE_ID_SIZE];
	json_t *body = want_body(c);
	const char *text;
	json_error_t e;
	bool good;

	if (!body)
		return;
	good = json_unpack_ex(body, &e, JSON_STRICT, "{s:s}", "what", &text) == 0;
	if (!good)
		refuse_members(c, &e);
	else if (!(good = str_copy(what, sizeof(what), text)))
		call_refuse(c, 400, "invalid", "`what` is longer than %d bytes", LIMIT_SPIFFE_ID_SIZE - 1);
	json_decref(body);
	if (good)
		authority_revoke(c->b, what, done_ca, c);
}

static void delete_revoked(struct call *c)
{
	char what[LIMIT_SPIFFE_ID_SIZE];

	if (query_want(c, "what", what, sizeof(what)))
		authority_unrevoke(c->b, what, done_ca, c);
}

static void post_join(struct call *c)
{
	AUTO_FREE(char) token = NULL;
	json_t *body = want_body(c);
	const char *text;
	json_error_t e;
	int again = 0;

	if (!body)
		return;
	if (json_unpack_ex(body, &e, JSON_STRICT, "{s:s,s?b}", "token", &text, "again", &again) < 0)
		refuse_members(c, &e);
	else if (!(token = strdup(text)))
		call_refuse(c, 503, "no_room", "out of memory");
	json_decref(body);
	if (token)
		member_join(c->b, token, again, done_ca, c);
}

/* --- the table --- */

static const struct endpoint endpoints[] = {
	{ "/v1/status", { [API_GET] = get_status }, "GET" },
	{ "/v1/workloads", { [API_GET] = get_workloads, [API_POST] = post_workload }, "GET, POST" },
	{ "/v1/workloads/*", { [API_GET] = get_workload, [API_DELETE] = delete_workload }, "GET, DELETE" },
	{ "/v1/workloads/*/drain", { [API_POST] = post_drain }, "POST" },
	{ "/v1/services", { [API_GET] = get_services }, "GET" },
	{ "/v1/intentions",
	  { [API_GET] = get_intentions, [API_POST] = post_intention, [API_DELETE] = delete_intention },
	  "GET, POST, DELETE" },
	{ "/v1/catalogue/accept", { [API_POST] = post_catalogue_accept }, "POST" },
	{ "/v1/catalogue/restore", { [API_POST] = post_catalogue_restore }, "POST" },
	{ "/v1/upstreams", { [API_GET] = get_upstreams }, "GET" },
	{ "/v1/lanes", { [API_GET] = get_lanes }, "GET" },
	{ "/v1/hosts", { [API_GET] = get_hosts }, "GET" },
	{ "/v1/links", { [API_GET] = get_links }, "GET" },
	{ "/v1/explain", { [API_GET] = get_explain }, "GET" },
	{ "/v1/certificates", { [API_GET] = get_certificates }, "GET" },
	{ "/v1/ca", { [API_GET] = get_ca, [API_POST] = post_ca }, "GET, POST" },
	{ "/v1/ca/tokens", { [API_GET] = get_tokens, [API_POST] = post_token, [API_DELETE] = delete_token }, "GET, POST, DELETE" },
	{ "/v1/ca/roots", { [API_POST] = post_root, [API_DELETE] = delete_root }, "POST, DELETE" },
	{ "/v1/ca/grants", { [API_POST] = post_grant, [API_DELETE] = delete_grant }, "POST, DELETE" },
	{ "/v1/ca/revoked", { [API_POST] = post_revoked, [API_DELETE] = delete_revoked }, "POST, DELETE" },
	{ "/v1/join", { [API_POST] = post_join }, "POST" },
	{ "/v1/reload", { [API_POST] = post_reload }, "POST" },
	{ "/v1/events", { [API_GET] = get_events }, "GET" },
	{ "/v1/openapi.json", { [API_GET] = get_openapi }, "GET" },
	{ "/metrics", { [API_GET] = get_metrics }, "GET" },
};

/* Does @path match @pattern? The part under "*" goes to @name; one that cannot be a name matches as "", which no workload has. */
static bool path_matches(const char *pattern, const char *path, char *name)
{
	size_t n = strcspn(pattern, "*"), n_name;

	name[0] = '\0';
	if (strncmp(pattern, path, n) != 0)
		return false;
	if (!pattern[n])
		return !path[n];
	n_name = strcspn(path + n, "/");
	if (n_name == 0 || strcmp(path + n + n_name, pattern + n + 1) != 0)
		return false;
	if (!url_decode(name, LIMIT_NAME_SIZE, path + n, n_name, false) || !label_is_valid(name))
		name[0] = '\0';
	return true;
}

static const struct endpoint *find_endpoint(const char *path, char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(endpoints); i++)
		if (path_matches(endpoints[i].path, path, name))
			return &endpoints[i];
	return NULL;
}

static bool uid_may_change(const struct broker *b, uid_t uid)
{
	if (uid == (uid_t)-1)
		return false;
	for (size_t i = 0; b->config && i < b->config->n_admin_uids; i++)
		if (b->config->admin_uids[i] == uid)
			return true;
	return uid == 0;
}

/* Once per uid: a program that asks again and again must not fill the log. */
static void log_refusal(const struct call *c)
{
	static uid_t seen[REFUSED_UIDS_KEPT];
	static size_t n_seen;

	for (size_t i = 0; i < n_seen; i++)
		if (seen[i] == c->uid)
			return;
	if (n_seen == REFUSED_UIDS_KEPT)
		return;
	seen[n_seen++] = c->uid;
	log_warn("admin.refuse", LOG_STR("method", method_names[c->method]), LOG_STR("path", c->endpoint->path),
		 LOG_U64("uid", c->uid));
}

static void dispatch(struct call *c, const char *path)
{
	handler_fn handler;

	c->endpoint = find_endpoint(path, c->subject);
	if (!c->endpoint) {
		call_refuse(c, 404, "not_found", "there is nothing at this path; /v1/openapi.json lists what there is");
		return;
	}
	handler = c->method < API_OTHER ? c->endpoint->handlers[c->method] : NULL;
	if (!handler) {
		call_refuse(c, 405, "method_not_allowed", "%s does not take this method, only %s", c->endpoint->path,
			    c->endpoint->allow);
		return;
	}
	if (c->method != API_GET && !uid_may_change(c->b, c->uid)) {
		log_refusal(c);
		call_refuse(c, 403, "forbidden", "uid %d may look but not change: ask as root, or name the user in `admin {"
			    " users = [...] }` of sealane's configuration", (int)c->uid);
		return;
	}
	c->admitted = true;
	handler(c);
}

void api_handle(struct broker *b, const struct api_request *r, api_answer_fn fn, void *arg)
{
	struct call *c;

	if (r->n_body > LIMIT_ADMIN_BODY_SIZE) {
		api_refuse(413, "too_large", fn, arg, "the body has %zu bytes, at most %d are taken", r->n_body,
			   LIMIT_ADMIN_BODY_SIZE);
		return;
	}
	c = calloc(1, sizeof(*c));
	if (!c) {
		api_refuse(503, "no_room", fn, arg, "out of memory");
		return;
	}
	*c = (struct call){ .b = b, .fn = fn, .arg = arg, .method = r->method, .uid = r->uid, .query = r->query, .body = r->body,
			    .n_body = r->n_body };
	dispatch(c, r->path);
}
