#include "cli/api.h"

#include <inttypes.h>

enum {
	RELOAD_MS = 30000, /* large files take seconds, and the answer comes when they are in force */
	RELOAD_STATUS_MS = 2000,
};

static void reload_tell(struct cli *c)
{
	AUTO_REPLY status = { 0 };
	const json_t *counts;

	if (api_request(c->socket_path, "GET", "/v1/status", NULL, RELOAD_STATUS_MS, &status) < 0 || status.status != 200) {
		puts("the new configuration is in force");
		return;
	}
	counts = json_object_get(status.json, "counts");
	printf("the new configuration is in force: %" PRId64 " workloads, %" PRId64 " services, %" PRId64 " intentions\n",
	       api_i64(counts, "workloads"), api_i64(counts, "services"), api_i64(counts, "intentions"));
}

int verb_reload(struct cli *c, int argc, char **argv)
{
	AUTO_REPLY alive = { 0 };
	AUTO_REPLY reply = { 0 };
	int r;

	if (cli_begin(c, NULL, 0, argc, argv, OPT_OPERANDS_ANYWHERE, 0, 0) < 0)
		return c->exit;
	/* Asked first, since a daemon that is away would only be noticed after RELOAD_MS. */
	r = api_request(c->socket_path, "GET", "/v1/status", NULL, RELOAD_STATUS_MS, &alive);
	if (r < 0)
		return api_tell_unreachable(c, r, RELOAD_STATUS_MS);
	r = api_call_within(c, "POST", "/v1/reload", NULL, RELOAD_MS, &reply);
	if (r == CLI_OK && !c->json)
		reload_tell(c);
	return r;
}
