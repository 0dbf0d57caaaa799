/*
 * `sealane ls`: one table for each collection of the admin interface. A list is described by its path, its heads and the
 * function that makes a row of one object, so that a new collection is one entry.
 */
#include "cli/api.h"
#include "cli/table.h"
#include "cli/units.h"

#include <inttypes.h>

struct list {
	const char *name; /* as the user says it */
	const char *path;
	const char *member; /* of the answer: the array */
	const char *empty;
	const char *const heads[TABLE_COLUMNS_MAX + 1];
	void (*row)(struct table *t, const json_t *o);
};

static const char *ls_number(char *buf, const json_t *o, const char *key)
{
	if (!api_has(o, key))
		return NULL;
	snprintf(buf, UNIT_TEXT_SIZE, "%" PRId64, api_i64(o, key));
	return buf;
}

static const char *ls_bytes(char *buf, const json_t *o, const char *key)
{
	return api_has(o, key) ? unit_format_bytes(buf, (double)api_i64(o, key)) : NULL;
}

/* "a, b, c"; owned by the caller. */
static char *ls_join(const json_t *array)
{
	char *s = strdup("");
	const json_t *v;
	size_t i;

	json_array_foreach(array, i, v) {
		char *longer = NULL;

		if (asprintf(&longer, "%s%s%s", s, i ? ", " : "", json_string_value(v)) < 0)
			abort();
		free(s);
		s = longer;
	}
	return s;
}

static void ls_row_workload(struct table *t, const json_t *o)
{
	AUTO_FREE(char) services = ls_join(json_object_get(o, "services"));
	char lanes[UNIT_TEXT_SIZE], allowed[UNIT_TEXT_SIZE], denied[UNIT_TEXT_SIZE], cut[UNIT_TEXT_SIZE];
	const char *state = api_str(o, "state");

	if (api_bool(o, "draining"))
		state = state && strcmp(state, "running") == 0 ? "draining" : "absent, draining";
	table_add(t, api_str(o, "name"), state, services, api_str(o, "enrolled_by"), ls_number(lanes, o, "lanes_open"),
		  ls_number(allowed, o, "allowed"), ls_number(denied, o, "denied"), ls_number(cut, o, "cut"),
		  api_str(o, "cgroup_path"));
}

/* What a check said ends with a newline, which is no part of it. Owned by the caller. */
static char *ls_trim(const char *s)
{
	size_t n = s ? strlen(s) : 0;
	char *copy;

	while (n > 0 && strchr(" \t\r\n", s[n - 1]))
		n--;
	copy = strndup(s ? s : "", n);
	if (!copy)
		abort();
	return copy;
}

static void ls_row_service(struct table *t, const json_t *o)
{
	char since[UNIT_TEXT_SIZE];
	/* "library": nobody listens on the socket file, but programs that link libsealane do; how many is in the column of that name */
	const char *up = !api_bool(o, "offered") ? "client only" : api_bool(o, "up") ? "up" : api_i64(o, "listeners") > 0 ? "library" : "down";
	char listeners[UNIT_TEXT_SIZE];
	AUTO_FREE(char) output = ls_trim(api_str(o, "health_output"));

	table_add(t, api_str(o, "name"), api_str(o, "workload"), up, ls_number(listeners, o, "listeners"), api_str(o, "health"),
		  api_has(o, "health_changed") ? unit_format_age(since, (int64_t)time(NULL) - api_i64(o, "health_changed")) : NULL,
		  !api_bool(o, "offered") ? NULL : api_bool(o, "linkable") ? "yes" : "no", api_str(o, "path"), output);
}

static void ls_row_intention(struct table *t, const json_t *o)
{
	const json_t *limits = json_object_get(o, "limits");
	char lanes[UNIT_TEXT_SIZE], rate[UNIT_TEXT_SIZE], bytes[UNIT_TEXT_SIZE], expires[UNIT_TEXT_SIZE];
	const char *note = api_bool(o, "expired") ? "expired" : api_bool(o, "overridden") ? "overridden" : "in force";

	table_add(t, api_str(o, "source"), api_str(o, "destination"), api_str(o, "action"), api_bool(o, "strict") ? "strict" : NULL,
		  api_i64(limits, "bytes_per_s") ? ls_bytes(bytes, limits, "bytes_per_s") : NULL,
		  api_i64(limits, "open_lanes") ? ls_number(lanes, limits, "open_lanes") : NULL,
		  api_i64(limits, "connections_per_s") ? ls_number(rate, limits, "connections_per_s") : NULL,
		  api_has(o, "expires") ? unit_format_time(expires, api_i64(o, "expires")) : NULL, note, api_str(o, "where"));
}

/* "out 5f3a9c01-17", "out 5f3a9c01-17 rdma (rxe0)": the other host's list has "in" and the same. */
static const char *ls_lane_link(char *buf, size_t size, const json_t *link)
{
	const char *direction = api_str(link, "direction"), *id = api_str(link, "id"), *path = api_str(link, "path");
	bool rdma = path && strncmp(path, "rdma", 4) == 0;

	if (!direction)
		return NULL;
	snprintf(buf, size, "%s%s%s%s%s", direction, id ? " " : "", id ? id : "", rdma ? " " : "", rdma ? path : "");
	return buf;
}

static void ls_row_lane(struct table *t, const json_t *o)
{
	const json_t *client = json_object_get(o, "client"), *server = json_object_get(o, "server");
	char link[128];
	char age[UNIT_TEXT_SIZE], up[UNIT_TEXT_SIZE], down[UNIT_TEXT_SIZE], cpid[UNIT_TEXT_SIZE], spid[UNIT_TEXT_SIZE];

	table_add(t, api_str(o, "id"), api_str(o, "path"), ls_lane_link(link, sizeof(link), json_object_get(o, "link")), api_str(client, "workload"), api_str(client, "service"),
		  ls_number(cpid, client, "pid"), api_str(server, "workload"), api_str(server, "service"), ls_number(spid, server, "pid"),
		  ls_bytes(up, o, "bytes_up"), ls_bytes(down, o, "bytes_down"),
		  api_has(o, "opened") ? unit_format_age(age, (int64_t)time(NULL) - api_i64(o, "opened")) : NULL);
}

static void ls_row_socket(struct table *t, const json_t *o)
{
	char allowed[UNIT_TEXT_SIZE], denied[UNIT_TEXT_SIZE];

	table_add(t, api_str(o, "workload"), api_str(o, "path"), api_str(o, "mode"), api_str(o, "source"), api_str(o, "destination"),
		  api_str(o, "route"), ls_number(allowed, o, "allowed"), ls_number(denied, o, "denied"), api_str(o, "why"));
}

static void ls_row_certificate(struct table *t, const json_t *o)
{
	char until[UNIT_TEXT_SIZE];
	const char *why = api_str(o, "why");

	table_add(t, api_str(o, "spiffe_id"), api_str(o, "serial"), api_has(o, "not_after") ? unit_format_time(until, api_i64(o, "not_after")) : NULL,
		  api_str(o, "state"), why && why[0] ? why : NULL);
}

/* "redis, pg (down)"; owned by the caller. */
static char *ls_offers(const json_t *offers)
{
	char *s = strdup("");
	const json_t *v;
	size_t i;

	json_array_foreach(offers, i, v) {
		const char *state = api_str(v, "state");
		char *longer = NULL;

		if (asprintf(&longer, "%s%s%s%s", s ? s : "", i ? ", " : "", api_str(v, "name"), state && strcmp(state, "down") == 0 ? " (down)" : "") < 0)
			abort();
		free(s);
		s = longer;
	}
	return s;
}

static void ls_row_host(struct table *t, const json_t *o)
{
	AUTO_FREE(char) services = ls_offers(json_object_get(o, "services"));
	AUTO_FREE(char) why = NULL;
	char since[UNIT_TEXT_SIZE], heard[UNIT_TEXT_SIZE], lanes[UNIT_TEXT_SIZE];
	const char *from = api_str(o, "from"), *state = api_str(o, "state");
	int64_t now = (int64_t)time(NULL);

	if (state && strcmp(state, "up") == 0 && api_i64(o, "lanes") + api_i64(o, "lanes_in") == 0)
		state = "up, idle";

	if (from && strcmp(from, "catalogue") == 0)
		from = "etcd"; /* as the configuration calls it */
	if (api_has(o, "reason"))
		why = api_path("%s%s%s", api_str(o, "reason"), api_has(o, "why") ? ": " : "", api_has(o, "why") ? api_str(o, "why") : "");
	table_add(t, api_str(o, "name"), api_str(o, "address"), from, state, unit_format_age(since, now - api_i64(o, "since")),
		  api_has(o, "heard") ? unit_format_age(heard, now - api_i64(o, "heard")) : "never", ls_number(lanes, o, "lanes"), services, why);
}

/* A session is some service's, or a host's own: what its ID ends with says which. */
static const char *ls_short_id(const char *id)
{
	const char *p = id ? strstr(id, "://") : NULL;

	p = p ? strchr(p + 3, '/') : NULL;
	return p ? p + 1 : id;
}

static void ls_row_link(struct table *t, const json_t *o)
{
	const char *local = ls_short_id(api_str(o, "local_id")), *peer = ls_short_id(api_str(o, "peer_id"));
	bool in = strcmp(api_str(o, "direction"), "in") == 0;
	char lanes[UNIT_TEXT_SIZE], received[UNIT_TEXT_SIZE], sent[UNIT_TEXT_SIZE], age[UNIT_TEXT_SIZE], rtt[UNIT_TEXT_SIZE + 8];

	snprintf(rtt, sizeof(rtt), "%.3f ms", (double)api_i64(o, "rtt_us") / 1000);
	table_add(t, in ? peer : local, in ? local : peer, api_str(o, "direction"), api_str(o, "address"), api_str(o, "path"), api_str(o, "cipher"),
		  ls_number(lanes, o, "lanes"), ls_bytes(received, o, "bytes_in"), ls_bytes(sent, o, "bytes_out"), api_i64(o, "rtt_us") ? rtt : NULL,
		  unit_format_age(age, (int64_t)time(NULL) - api_i64(o, "up")));
}

static const struct list g_lists[] = {
	{ "workloads", "/v1/workloads", "workloads", "no workload is configured or enrolled",
	  { "NAME", "STATE", "SPEAKS AS", "ENROLLED BY", ">LANES", ">ALLOWED", ">DENIED", ">CUT", "CGROUP", NULL }, ls_row_workload },
	{ "services", "/v1/services", "services", "no service is configured",
	  { "NAME", "WORKLOAD", "SERVER", ">LISTENERS", "HEALTH", ">SINCE", "DIRECT", "SOCKET", "LAST CHECK SAID", NULL }, ls_row_service },
	{ "intentions", "/v1/intentions", "intentions", "there is no intention: everything is denied",
	  { "SOURCE", "DESTINATION", "ACTION", "STRICT", ">BYTES/S", ">OPEN LANES", ">CONN/S", "EXPIRES", "STATE", "FROM", NULL },
	  ls_row_intention },
	{ "lanes", "/v1/lanes", "lanes", "no lane is open",
	  { "ID", "PATH", "LINK", "CLIENT", "AS", ">PID", "SERVER", "AS", ">PID", ">UP", ">DOWN", ">AGE", NULL }, ls_row_lane },
	{ "sockets", "/v1/upstreams", "upstreams", "no workload has a socket file",
	  { "WORKLOAD", "SOCKET", "MODE", "FROM", "TO", "ROUTE", ">ALLOWED", ">DENIED", "WHY", NULL }, ls_row_socket },
	{ "hosts", "/v1/hosts", "hosts", "no other host is configured",
	  { "NAME", "ADDRESS", "FROM", "STATE", ">SINCE", ">LAST HEARD", ">LANES", "SERVICES", "WHY", NULL }, ls_row_host },
	{ "links", "/v1/links", "links", "there is no session with another host",
	  { "FROM", "TO", "DIR", "ADDRESS", "PATH", "CIPHER", ">LANES", ">RECEIVED", ">SENT", ">RTT", ">AGE", NULL }, ls_row_link },
	{ "certificates", "/v1/certificates", "certificates", "this host needs no certificate",
	  { "SPIFFE ID", "SERIAL", "UNTIL", "STATE", "WHY", NULL }, ls_row_certificate },
};

static const struct list *ls_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(g_lists); i++) {
		if (strcmp(g_lists[i].name, name) == 0)
			return &g_lists[i];
	}
	return NULL;
}

int verb_ls(struct cli *c, int argc, char **argv)
{
	AUTO_REPLY reply = { 0 };
	const struct list *list;
	const json_t *array, *o;
	struct table t;
	size_t i;
	int r = cli_begin(c, NULL, 0, argc, argv, OPT_OPERANDS_ANYWHERE, 1, 1);

	if (r < 0)
		return c->exit;
	list = ls_find(argv[0]);
	if (!list)
		return cli_usage(c, "there is no list of \"%s\"", argv[0]);
	r = api_call_within(c, "GET", list->path, NULL, API_LIST_MS, &reply);
	if (r != CLI_OK || c->json)
		return r;
	array = json_object_get(reply.json, list->member);
	if (json_array_size(array) == 0) {
		puts(list->empty);
		return CLI_OK;
	}
	table_init(&t, list->heads);
	json_array_foreach(array, i, o)
		list->row(&t, o);
	table_print(&t, stdout);
	table_free(&t);
	return CLI_OK;
}
