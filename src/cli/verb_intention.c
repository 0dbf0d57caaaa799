#include "cli/api.h"
#include "cli/units.h"

struct intention_options {
	bool strict, cluster;
	uint64_t bytes_per_s;
	uint32_t open_lanes, connections_per_s;
	const char *expires;
};

static int intention_set(struct cli *c, const struct intention_options *o, const char *action, const char *source,
			 const char *destination)
{
	AUTO_FREE(char) done = api_path("%s %s -> %s: in force%s", action, source, destination, o->cluster ? " in the whole cluster" : "");
	json_t *body, *limits;
	int64_t expires = 0;

	if (o->expires) {
		int r = unit_parse_expiry(&expires, o->expires, (int64_t)time(NULL));

		if (r == -ERANGE)
			return cli_usage(c, "--expires: %s has passed already", o->expires);
		if (r < 0)
			return cli_usage(c, "--expires: expected a time like 2h or a moment like 2026-01-02T03:04:05Z, not \"%s\"", o->expires);
	}
	body = json_pack("{s:s, s:s, s:s, s:b}", "source", source, "destination", destination, "action", action, "strict", o->strict);
	if (!body)
		return cli_usage(c, "names are UTF-8");
	limits = json_object();
	if (o->bytes_per_s)
		json_object_set_new(limits, "bytes_per_s", json_integer((json_int_t)o->bytes_per_s));
	if (o->open_lanes)
		json_object_set_new(limits, "open_lanes", json_integer(o->open_lanes));
	if (o->connections_per_s)
		json_object_set_new(limits, "connections_per_s", json_integer(o->connections_per_s));
	json_object_set_new(body, "limits", limits);
	if (o->cluster)
		json_object_set_new(body, "cluster", json_true());
	if (expires)
		json_object_set_new(body, "expires", json_integer(expires));
	return api_do(c, "POST", "/v1/intentions", body, done);
}

static int intention_remove(struct cli *c, bool cluster, const char *source, const char *destination)
{
	AUTO_FREE(char) done = api_path("%s -> %s: the %s intention is gone", source, destination, cluster ? "cluster's" : "run-time");
	AUTO_FREE(char) s = api_escape(source);
	AUTO_FREE(char) d = api_escape(destination);
	AUTO_FREE(char) path = api_path("/v1/intentions?source=%s&destination=%s%s", s, d, cluster ? "&cluster=1" : "");

	return api_do(c, "DELETE", path, NULL, done);
}

int verb_intention(struct cli *c, int argc, char **argv)
{
	struct intention_options o = { 0 };
	const struct opt opts[] = {
		{ "strict", 0, OPT_FLAG, &o.strict },
		{ "bytes-per-s", 0, OPT_BYTES, &o.bytes_per_s },
		{ "open-lanes", 0, OPT_COUNT, &o.open_lanes },
		{ "connections-per-s", 0, OPT_COUNT, &o.connections_per_s },
		{ "expires", 0, OPT_STRING, &o.expires },
		{ "cluster", 0, OPT_FLAG, &o.cluster },
	};
	char list[] = "intentions", *lists[] = { list, NULL };
	bool limited;
	int n = cli_begin(c, opts, ARRAY_SIZE(opts), argc, argv, OPT_OPERANDS_ANYWHERE, 1, 3);

	if (n < 0)
		return c->exit;
	if (n == 1 && strcmp(argv[0], "ls") == 0)
		return verb_ls(c, 1, lists);
	if (n != 3)
		return cli_usage(c, "expected a source and a destination");
	limited = o.strict || o.bytes_per_s || o.open_lanes || o.connections_per_s;
	if (strcmp(argv[0], "allow") == 0)
		return intention_set(c, &o, "allow", argv[1], argv[2]);
	if (strcmp(argv[0], "deny") == 0 && limited)
		return cli_usage(c, "a denial has no limits");
	if (strcmp(argv[0], "deny") == 0)
		return intention_set(c, &o, "deny", argv[1], argv[2]);
	if ((strcmp(argv[0], "rm") == 0 || strcmp(argv[0], "remove") == 0) && (limited || o.expires))
		return cli_usage(c, "rm takes no options");
	if (strcmp(argv[0], "rm") == 0 || strcmp(argv[0], "remove") == 0)
		return intention_remove(c, o.cluster, argv[1], argv[2]);
	return cli_usage(c, "allow, deny, rm or ls, not \"%s\"", argv[0]);
}
