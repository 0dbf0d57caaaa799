#include "cli/api.h"
#include "cli/table.h"
#include "cli/units.h"

#include <inttypes.h>
#include <stdarg.h>

static void status_print(const char *name, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void status_print(const char *name, const char *fmt, ...)
{
	AUTO_FREE(char) text = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		abort();
	va_end(ap);
	printf("%-12s ", name);
	text_put(stdout, text);
	putchar('\n');
}

static void status_print_counts(const json_t *counts, const json_t *counters)
{
	char up[UNIT_TEXT_SIZE], down[UNIT_TEXT_SIZE];

	status_print("workloads", "%" PRId64 ", %" PRId64 " running", api_i64(counts, "workloads"), api_i64(counts, "workloads_running"));
	status_print("services", "%" PRId64 ", %" PRId64 " offered, %" PRId64 " up", api_i64(counts, "services"),
		     api_i64(counts, "services_offered"), api_i64(counts, "services_up"));
	status_print("upstreams", "%" PRId64, api_i64(counts, "upstreams"));
	status_print("intentions", "%" PRId64, api_i64(counts, "intentions"));
	status_print("lanes", "%" PRId64 " relayed, %" PRId64 " direct, %" PRId64 " in shared memory", api_i64(counts, "lanes_relay"),
		     api_i64(counts, "lanes_direct"), api_i64(counts, "lanes_shm"));
	status_print("listeners", "%" PRId64 " with libsealane", api_i64(counts, "listeners"));
	status_print("since start", "%" PRId64 " opened, %" PRId64 " denied, %" PRId64 " cut, %" PRId64 " refused by identity, %" PRId64 " failed",
		     api_i64(counters, "lanes_opened"), api_i64(counters, "lanes_denied"), api_i64(counters, "lanes_cut"),
		     api_i64(counters, "lanes_refused_identity"), api_i64(counters, "lanes_failed"));
	status_print("relayed", "%s up, %s down", unit_format_bytes(up, (double)api_i64(counters, "bytes_up")),
		     unit_format_bytes(down, (double)api_i64(counters, "bytes_down")));
	status_print("shared", "%s up, %s down", unit_format_bytes(up, (double)api_i64(counters, "shm_bytes_up")),
		     unit_format_bytes(down, (double)api_i64(counters, "shm_bytes_down")));
	status_print("reloads", "%" PRId64 " ok, %" PRId64 " refused", api_i64(counters, "reloads_ok"), api_i64(counters, "reloads_failed"));
}

static const char *status_or(const json_t *o, const char *key)
{
	const char *s = api_str(o, key);

	return s ? s : "unknown";
}

static void status_print_catalogue(const json_t *o)
{
	char age[UNIT_TEXT_SIZE];
	const char *state = status_or(o, "state");
	bool up = strcmp(state, "up") == 0;

	if (!json_is_object(o))
		return;
	status_print("catalogue", "%s%s%s; %" PRId64 " hosts, %" PRId64 " services, %" PRId64 " intentions", state, up ? "" : ": ",
		     up ? "" : status_or(o, "why"), api_i64(o, "hosts"), api_i64(o, "services"), api_i64(o, "intentions"));
	if (!up && api_has(o, "heard"))
		status_print("", "as it was %s ago", unit_format_age(age, (int64_t)time(NULL) - api_i64(o, "heard")));
	if (api_has(o, "reset"))
		status_print("", "etcd has other data than it had: see sealane catalogue");
}

/* "2026-12-21T15:00:00Z (in 29d23h)" into @buf of 2 * UNIT_TEXT_SIZE. */
static const char *status_until(char *buf, const json_t *o, const char *key)
{
	char at[UNIT_TEXT_SIZE], left[UNIT_TEXT_SIZE];
	int64_t end = api_i64(o, key), now = (int64_t)time(NULL);

	if (!api_has(o, key))
		snprintf(buf, 2 * UNIT_TEXT_SIZE, "there is none");
	else if (end <= now)
		snprintf(buf, 2 * UNIT_TEXT_SIZE, "%s (over)", unit_format_time(at, end));
	else
		snprintf(buf, 2 * UNIT_TEXT_SIZE, "%s (in %s)", unit_format_time(at, end), unit_format_age(left, end - now));
	return buf;
}

static void status_print_authority(const json_t *o)
{
	const char *host = status_or(o, "host");
	char age[UNIT_TEXT_SIZE];

	if (!json_is_object(o))
		return;
	if (api_has(o, "heard"))
		unit_format_age(age, (int64_t)time(NULL) - api_i64(o, "heard"));
	if (!api_has(o, "why"))
		status_print("authority", api_has(o, "heard") ? "host %s, answered %s ago" : "host %s, not asked yet", host, age);
	else if (api_has(o, "heard"))
		status_print("authority", "host %s does not answer since %s: %s", host, age, api_str(o, "why"));
	else
		status_print("authority", "host %s has not answered yet: %s", host, api_str(o, "why"));
	if (!api_bool(o, "list_stale"))
		return;
	if (api_has(o, "list_made"))
		status_print("", "its list of what is revoked is %s old: see that it can be reached, and both hosts' clocks",
			     unit_format_age(age, (int64_t)time(NULL) - api_i64(o, "list_made")));
	else
		status_print("", "no list of what is revoked has come from it: see that it can be reached, and both hosts' clocks");
}

static void status_print_certificates(const json_t *o)
{
	const char *source = status_or(o, "source");
	char host[2 * UNIT_TEXT_SIZE], first[2 * UNIT_TEXT_SIZE];

	if (strcmp(source, "none") == 0) {
		status_print("certificates", "none: this host has not joined (`sealane join TOKEN`, or `sealane ca init` here)");
		return;
	}
	status_print("certificates", "%" PRId64 " of %" PRId64 " can be used%s", api_i64(o, "usable"), api_i64(o, "wanted"),
		     api_i64(o, "usable") < api_i64(o, "wanted") ? "; `sealane ls certificates` says what keeps the others" : "");
	status_print("", "this host's own ends %s; the first of all %s", status_until(host, o, "host_not_after"),
		     status_until(first, o, "first_not_after"));
	if (strcmp(source, "self") == 0)
		status_print("authority", "this host");
	else if (strcmp(source, "files") == 0)
		status_print("authority", "none of sealane's: certificates come from files");
	else
		status_print_authority(json_object_get(o, "authority"));
}

/* What a person does about it. */
static const char *status_listen_remedy(const char *error)
{
	if (strcmp(error, "EADDRINUSE") == 0)
		return "end that one (`ss -ltnp`), or change `listen`";
	if (strcmp(error, "EADDRNOTAVAIL") == 0)
		return "change `listen` (`ip address` lists what it has), or wait for it";
	return "see `listen` in sealane.conf(5)";
}

static void status_print_listeners(const json_t *list)
{
	const json_t *o;
	size_t i;

	if (json_array_size(list) == 0)
		status_print("listens", "nowhere: no `listen` is configured, so no other host reaches this one; it can reach others");
	json_array_foreach(list, i, o) {
		if (api_bool(o, "listens"))
			status_print(i == 0 ? "listens" : "", "at %s", status_or(o, "address"));
		else if (api_has(o, "error"))
			status_print(i == 0 ? "listens" : "", "NOT: %s (%s): %s. It is tried again every 5 s",
				     api_has(o, "why") ? api_str(o, "why") : status_or(o, "address"), api_str(o, "error"), status_listen_remedy(api_str(o, "error")));
		else
			status_print(i == 0 ? "listens" : "", "not yet at %s", status_or(o, "address"));
	}
}

static void status_print_device(const json_t *o, const char *head)
{
	char pinned[UNIT_TEXT_SIZE];

	if (api_has(o, "device"))
		status_print(head, "%s at %s; %" PRId64 " connections, %s pinned, %" PRId64 " offences", api_str(o, "device"), status_or(o, "address"),
			     api_i64(o, "connections"), unit_format_bytes(pinned, (double)api_i64(o, "pinned_bytes")), api_i64(o, "offences"));
	else
		status_print(head, "none: %s", api_has(o, "why") ? api_str(o, "why") : "not told yet");
	if (api_i64(o, "quarantined"))
		status_print("", "%" PRId64 " peers broke a rule, and have no connection for a while", api_i64(o, "quarantined"));
}

/* One line for all linkers that have nothing. */
static void status_print_rdma(const json_t *o)
{
	const json_t *list = json_object_get(o, "linkers"), *linker;
	size_t i, n = 0;

	if (!json_is_object(o))
		return;
	json_array_foreach(list, i, linker)
		if (api_has(linker, "device"))
			status_print_device(linker, n++ == 0 ? "rdma" : "");
	if (strcmp(status_or(o, "mode"), "off") == 0)
		status_print("rdma", "off");
	else if (n == 0)
		status_print_device(json_array_get(list, 0), "rdma");
}

static void status_print_links(const json_t *o)
{
	if (!json_is_object(o))
		return;
	status_print("host", "%s; other hosts: %" PRId64 " known, %" PRId64 " up%s", status_or(o, "host"), api_i64(o, "hosts"), api_i64(o, "hosts_up"),
		     api_i64(o, "linkers") ? "" : "; no linker is running");
	status_print_listeners(json_object_get(o, "listeners"));
	status_print("links", "sessions: %" PRId64 " out, %" PRId64 " in; lanes: %" PRId64 " to other hosts, %" PRId64 " from them",
		     api_i64(o, "sessions_out"), api_i64(o, "sessions_in"), api_i64(o, "lanes_out"), api_i64(o, "lanes_in"));
	status_print_certificates(json_object_get(o, "certificates"));
}

int verb_status(struct cli *c, int argc, char **argv)
{
	AUTO_REPLY reply = { 0 };
	char age[UNIT_TEXT_SIZE], since[UNIT_TEXT_SIZE];
	const json_t *s, *file;
	size_t i;
	int r = cli_begin(c, NULL, 0, argc, argv, OPT_OPERANDS_ANYWHERE, 0, 0);

	if (r < 0)
		return c->exit;
	r = api_call(c, "GET", "/v1/status", NULL, &reply);
	if (r != CLI_OK || c->json)
		return r;
	s = reply.json;
	status_print("sealaned", "%s, up %s (since %s)", status_or(s, "version"), unit_format_age(age, api_i64(s, "uptime_s")),
		     unit_format_time(since, api_i64(s, "started")));
	status_print("directory", "%s", status_or(s, "run_dir"));
	status_print("names", "trust domain %s, namespace %s", status_or(s, "trust_domain"), status_or(s, "namespace"));
	status_print("identity", "%s", status_or(s, "identity"));
	status_print("direct", "%s, kernel guard %s", status_or(s, "direct"), status_or(s, "guard"));
	status_print("gates", "%" PRId64 "%s%s", api_i64(json_object_get(s, "roles"), "gates"),
		     api_bool(json_object_get(s, "roles"), "checker") ? "" : "; the checker is not running",
		     api_bool(json_object_get(s, "roles"), "porter") ? "" : "; the porter is not running");
	status_print_links(json_object_get(s, "links"));
	status_print_rdma(json_object_get(s, "rdma"));
	status_print_catalogue(json_object_get(s, "catalogue"));
	status_print_counts(json_object_get(s, "counts"), json_object_get(s, "counters"));
	json_array_foreach(json_object_get(s, "config_files"), i, file)
		status_print(i == 0 ? "files" : "", "%s", json_string_value(file));
	return CLI_OK;
}
