#include "cli/api.h"
#include "cli/units.h"

#include <inttypes.h>

static int catalogue_show(struct cli *c)
{
	AUTO_REPLY reply = { 0 };
	char since[UNIT_TEXT_SIZE], heard[UNIT_TEXT_SIZE], age[UNIT_TEXT_SIZE];
	const json_t *o;
	int r = api_call(c, "GET", "/v1/status", NULL, &reply);

	if (r != CLI_OK)
		return r;
	o = json_object_get(reply.json, "catalogue");
	if (c->json) {
		json_dumpf(o, stdout, JSON_COMPACT | JSON_ENCODE_ANY);
		putchar('\n');
		return CLI_OK;
	}
	if (!json_is_object(o))
		return cli_error(c, "this host has no cluster: there is no etcd { ... } in its configuration");
	printf("etcd        %s (%s)", api_str(o, "state"), api_str(o, "endpoint"));
	printf(" since %s%s%s\n", unit_format_time(since, api_i64(o, "since")), api_str(o, "why")[0] ? ": " : "", api_str(o, "why"));
	printf("known       %" PRId64 " hosts, %" PRId64 " services, %" PRId64 " intentions\n", api_i64(o, "hosts"), api_i64(o, "services"),
	       api_i64(o, "intentions"));
	if (api_has(o, "heard"))
		printf("heard       %s (%s ago)\n", unit_format_time(heard, api_i64(o, "heard")),
		       unit_format_age(age, (int64_t)time(NULL) - api_i64(o, "heard")));
	printf("data        epoch %s, generation %" PRId64 ", revision %" PRId64 "\n", api_str(o, "epoch"), api_i64(o, "generation"),
	       api_i64(o, "revision"));
	if (api_has(o, "reset"))
		printf("reset       etcd has other data since %s, with %" PRId64 " intentions that do not count.\n"
		       "            `sealane catalogue restore` writes what was known back; `sealane catalogue accept` takes what is there\n",
		       unit_format_time(since, api_i64(o, "reset")), api_i64(o, "waiting"));
	return CLI_OK;
}

/* Writing, and reading all of it again; the daemon waits 30 s for the latter. */
enum { DECIDE_MS = 60 * 1000 };

static int catalogue_decide(struct cli *c, bool restore)
{
	AUTO_REPLY reply = { 0 };
	int r = api_call_within(c, "POST", restore ? "/v1/catalogue/restore" : "/v1/catalogue/accept", json_object(), DECIDE_MS, &reply);

	if (r != CLI_OK || c->json)
		return r;
	if (restore)
		printf("%" PRId64 " known intentions were written into etcd again\n", api_i64(reply.json, "written"));
	printf("what etcd has now is the catalogue, for all hosts: %" PRId64 " intentions (generation %" PRId64 ")\n", api_i64(reply.json, "intentions"),
	       api_i64(reply.json, "generation"));
	return CLI_OK;
}

int verb_catalogue(struct cli *c, int argc, char **argv)
{
	int n = cli_begin(c, NULL, 0, argc, argv, OPT_OPERANDS_ANYWHERE, 0, 1);

	if (n < 0)
		return c->exit;
	if (n == 0)
		return catalogue_show(c);
	if (strcmp(argv[0], "accept") == 0)
		return catalogue_decide(c, false);
	if (strcmp(argv[0], "restore") == 0)
		return catalogue_decide(c, true);
	return cli_usage(c, "accept or restore, not \"%s\"", argv[0]);
}
