/*
 * Theory of operation: `sealane explain` prints one answer of /v1/explain, a line for each thing that decides, in the order in which it does:
 * the intention, the way, the other host, the library; then both ends, and what to run where if the answer is no. The daemon has decided all
 * of it (broker_explain.c); here are only words.
 *
 * Exits 0 when the pair is allowed and 1 when it is denied, here or by another host when it was asked last, so that a script can ask.
 */
#include "cli/api.h"
#include "cli/table.h"
#include "cli/units.h"

#include <inttypes.h>
#include <time.h>

static void explain_line(const char *name, const char *text)
{
	printf("  %-12s ", name);
	text_put(stdout, text ? text : "unknown");
	putchar('\n');
}

static void explain_intention(const json_t *e)
{
	const json_t *i = json_object_get(e, "intention"), *limits = json_object_get(i, "limits");
	AUTO_FREE(char) rule = NULL;
	char buf[UNIT_TEXT_SIZE], line[128];

	if (!json_is_object(i)) {
		explain_line("intention", "none fits, so the default decides: deny");
		return;
	}
	rule = api_path("%s %s -> %s%s", api_str(i, "action"), api_str(i, "source"), api_str(i, "destination"),
			api_bool(i, "strict") ? ", strict" : "");
	explain_line("intention", rule);
	explain_line("said in", api_str(i, "where"));
	if (api_i64(limits, "bytes_per_s")) {
		snprintf(line, sizeof(line), "%s/s on each lane", unit_format_bytes(buf, (double)api_i64(limits, "bytes_per_s")));
		explain_line("limit", line);
	}
	if (api_i64(limits, "open_lanes")) {
		snprintf(line, sizeof(line), "%" PRId64 " open lanes, %" PRId64 " in use", api_i64(limits, "open_lanes"),
			 api_i64(json_object_get(e, "in_use"), "open_lanes"));
		explain_line("limit", line);
	}
	if (api_i64(limits, "connections_per_s")) {
		snprintf(line, sizeof(line), "%" PRId64 " connections/s", api_i64(limits, "connections_per_s"));
		explain_line("limit", line);
	}
	if (api_has(i, "expires"))
		explain_line("expires", unit_format_time(buf, api_i64(i, "expires")));
}

static const char *explain_or(const json_t *o, const char *key, const char *otherwise)
{
	return api_has(o, key) ? api_str(o, key) : otherwise;
}

/* "host b at 10.0.0.2:7443, up; a session for default/web stands" */
static void explain_host(const json_t *host, const char *source, bool in)
{
	const char *takes = explain_or(host, "takes", "socket");
	AUTO_FREE(char) text = NULL;

	if (in)
		text = api_path("from host %s at %s; a session of %s stands", explain_or(host, "name", "?"), explain_or(host, "address", "?"), source);
	else
		text = api_path("to host %s at %s, which is %s; %s%s", explain_or(host, "name", "?"), explain_or(host, "address", "?"),
				strcmp(explain_or(host, "state", ""), "up") == 0 ? "up" : "not reached now (sealane ls hosts)",
				api_bool(host, "session") ? "a session for it stands" : "no session for it yet, the first lane opens one",
				strstr(takes, "socket") ? "" : "; there only programs that use libsealane listen for it, so only they reach it");
	explain_line("", text);
}

/* What to look at on the host that said no. */
static const char *explain_remedy(const char *code)
{
	static const struct {
		const char *code, *text;
	} remedies[] = {
		{ "denied", "its own intentions said so" },
		{ "unknown", "is the name right? There, run `sealane ls services`" },
		{ "down", "there, run `sealane ls services`" },
		{ "limit", "there, run `sealane explain` for the limits, and `sealane ls lanes` for who has the lanes" },
		{ "draining", "there, `sealane drain WORKLOAD --undo`, or wait" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(remedies); i++)
		if (strcmp(remedies[i].code, code) == 0)
			return remedies[i].text;
	return "`sealane ls hosts` here, and the log there";
}

static void explain_refusal(const json_t *refused, const char *destination)
{
	const char *code = explain_or(refused, "code", "failed"), *why = explain_or(refused, "why", "");
	char age[UNIT_TEXT_SIZE];
	AUTO_FREE(char) remedy = NULL;
	AUTO_FREE(char) text = NULL;

	if (!json_is_object(refused))
		return;
	if (api_bool(refused, "certificate"))
		remedy = api_path("no intention changes that: on host %s, run `sealane ls certificates`; on the authority, `sealane ca ls` lists what is revoked, "
				  "and `sealane ca unrevoke %s@%s` takes it back", explain_or(refused, "host", "?"), destination, explain_or(refused, "host", "?"));
	text = api_path("host %s, %s ago: %s%s%s (%s)", explain_or(refused, "host", "?"),
			unit_format_age(age, (int64_t)time(NULL) - api_i64(refused, "at")), code, why[0] ? ": " : "", why,
			remedy ? remedy : explain_remedy(code));
	explain_line("refused last", text);
}

/* "link, rdma (rxe0), from this host to another one"; or TLS, and why not RDMA. @host: the first one, or NULL. */
static void explain_path(const json_t *host, bool in)
{
	const char *path = explain_or(host, "path", ""), *why = explain_or(host, "path_why", "");
	AUTO_FREE(char) line = api_path("link, %s, %s", path[0] && strcmp(path, "tls") != 0 ? path : "TLS",
					in ? "from another host to this one" : "from this host to another one");
	AUTO_FREE(char) not_rdma = api_path("tls, not rdma: %s", why);

	explain_line("path", line);
	if (why[0])
		explain_line("", not_rdma);
	else if (host && !path[0])
		explain_line("", "rdma, if the other host has a device as well: the session's first moments decide");
}

/* Over which hosts, what is missing before a lane can go there, and that this host's word is only one of two. */
static void explain_link(const json_t *e)
{
	const json_t *host, *link = json_object_get(e, "link");
	const char *source = explain_or(e, "source", "?"), *destination = explain_or(e, "destination", "?");
	bool in = strcmp(explain_or(link, "direction", ""), "in") == 0;
	AUTO_FREE(char) other = NULL;
	size_t i;

	if (!json_is_object(link))
		return;
	explain_path(json_array_get(json_object_get(link, "hosts"), 0), in);
	json_array_foreach(json_object_get(link, "hosts"), i, host)
		explain_host(host, source, in);
	if (i == 0)
		explain_line("", in ? "no session of the source stands now: its first lane opens one" : "no host that can be reached has the service up");
	if (api_i64(link, "more"))
		explain_line("", "and more");
	explain_line("lacks", explain_or(link, "lacks", in ? "nothing on this host" : "nothing: a certificate and a host are there"));
	explain_refusal(json_object_get(link, "refused"), destination);
	host = i == 1 ? json_array_get(json_object_get(link, "hosts"), 0) : NULL; /* of several each one decides for itself */
	other = api_path("%s%s, by its own intentions: there, run `sealane explain %s %s`",
			 api_has(host, "name") ? "host " : in ? "the source's host" : "the destination's host", explain_or(host, "name", ""), source, destination);
	explain_line("also decides", other);
}

/* What to run, and where, so that the pair is allowed. */
static void explain_to_allow(const json_t *e)
{
	bool between = json_is_object(json_object_get(e, "link"));
	const json_t *c;
	size_t i;

	json_array_foreach(json_object_get(e, "to_allow"), i, c) {
		AUTO_FREE(char) where = api_path("on host %s: ", explain_or(c, "host", "?"));
		AUTO_FREE(char) text = api_path("%s%s", between ? where : "", explain_or(c, "command", "?"));

		explain_line(i == 0 ? "to allow it" : "", text);
	}
}

/* Another host said no when it was asked last. */
static bool explain_refused(const json_t *e)
{
	const json_t *refused = json_object_get(json_object_get(e, "link"), "refused");

	return strcmp(explain_or(refused, "code", ""), "denied") == 0;
}

/* "allowed by this host (a); host b said no when it was asked last" */
static char *explain_head(const json_t *e, bool allowed)
{
	const json_t *link = json_object_get(e, "link"), *refused = json_object_get(link, "refused");
	bool no = explain_refused(e);
	const char *word = allowed ? "allowed" : "denied";

	if (!json_is_object(link))
		return api_path("%s -> %s: %s", api_str(e, "source"), api_str(e, "destination"), word);
	if (no && api_bool(refused, "certificate"))
		return api_path("%s -> %s: %s by this host (%s); but it did not take the certificate of host %s when that was asked last", api_str(e, "source"),
				api_str(e, "destination"), word, explain_or(e, "host", "?"), explain_or(refused, "host", "?"));
	return api_path("%s -> %s: %s by this host (%s); %s%s", api_str(e, "source"), api_str(e, "destination"), word, explain_or(e, "host", "?"),
			no ? "denied when it was asked last by host " : "another one decides too", no ? explain_or(refused, "host", "?") : "");
}

/* The socket file's way is `route`; a program that uses libsealane goes another one. */
static void explain_library(const json_t *e)
{
	const json_t *library = json_object_get(e, "library"), *service = json_object_get(e, "service");
	bool link = strcmp(explain_or(library, "path", "shm"), "link") == 0;
	AUTO_FREE(char) no = api_path("none: sealane_connect() fails: %s", api_str(library, "why"));
	AUTO_FREE(char) only = NULL;

	explain_line("library", !api_bool(library, "allowed") ? no : link ? "link: sealane_connect() gives a lane to another host" :
							       "shm: sealane_connect() gives a lane in shared memory");
	if (!json_is_object(service) || api_bool(service, "up") || api_i64(service, "listeners") == 0)
		return;
	only = api_path("the service has no server on its socket file; %" PRId64 " listening with libsealane. So it is reached with sealane_connect() "
			"only, and a client of a socket file is refused", api_i64(service, "listeners"));
	explain_line("", only);
}

static void explain_ends(const json_t *e)
{
	bool in = strcmp(explain_or(json_object_get(e, "link"), "direction", ""), "in") == 0;
	const json_t *w, *upstream = json_object_get(e, "upstream"), *service = json_object_get(e, "service");
	size_t i;

	json_array_foreach(json_object_get(e, "source_workloads"), i, w) {
		AUTO_FREE(char) text = api_path("workload %s (%s)", api_str(w, "name"), api_str(w, "state"));

		explain_line(i == 0 ? "source" : "", text);
	}
	if (json_array_size(json_object_get(e, "source_workloads")) == 0)
		explain_line("source", in ? "on another host" : "no workload on this host may speak as it");
	explain_line("socket", json_is_object(upstream) ? api_str(upstream, "file") : in ? "on the source's host" : "none: no workload has this as an upstream");
	if (!json_is_object(service)) {
		explain_line("destination", json_is_object(json_object_get(e, "link")) ? "on another host" :
				     "not configured on this host: is the name right (`sealane ls services`, `sealane ls hosts`)?");
		return;
	}
	AUTO_FREE(char) text = api_path("workload %s, socket %s, library: %" PRId64 " listening, health %s",
					api_has(service, "workload") ? api_str(service, "workload") : "-", api_bool(service, "up") ? "up" : "not up",
					(int64_t)api_i64(service, "listeners"), api_str(service, "health"));

	explain_line("destination", text);
}

int verb_explain(struct cli *c, int argc, char **argv)
{
	AUTO_REPLY reply = { 0 };
	AUTO_FREE(char) source = NULL;
	AUTO_FREE(char) destination = NULL;
	AUTO_FREE(char) path = NULL;
	const char *decision;
	bool allowed;
	int r = cli_begin(c, NULL, 0, argc, argv, OPT_OPERANDS_ANYWHERE, 2, 2);

	if (r < 0)
		return c->exit;
	source = api_escape(argv[0]);
	destination = api_escape(argv[1]);
	path = api_path("/v1/explain?source=%s&destination=%s", source, destination);
	r = api_call(c, "GET", path, NULL, &reply);
	if (r != CLI_OK)
		return r;
	decision = api_str(reply.json, "decision");
	allowed = decision && strcmp(decision, "allow") == 0;
	r = allowed && !explain_refused(reply.json) ? CLI_OK : CLI_FAILED;
	if (c->json)
		return r;
	AUTO_FREE(char) head = explain_head(reply.json, allowed);

	text_put(stdout, head);
	putchar('\n');
	explain_intention(reply.json);
	explain_line("route", api_str(reply.json, "route"));
	explain_line("why", api_str(reply.json, "why"));
	explain_link(reply.json);
	explain_library(reply.json);
	explain_line("identity", api_str(reply.json, "identity"));
	explain_line("guard", api_str(reply.json, "guard"));
	explain_ends(reply.json);
	explain_to_allow(reply.json);
	return r;
}
