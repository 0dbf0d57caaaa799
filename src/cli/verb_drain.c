#include "cli/api.h"

int verb_drain(struct cli *c, int argc, char **argv)
{
	bool undo = false;
	const struct opt opts[] = { { "undo", 0, OPT_FLAG, &undo } };
	AUTO_FREE(char) name = NULL;
	AUTO_FREE(char) path = NULL;

	if (cli_begin(c, opts, ARRAY_SIZE(opts), argc, argv, OPT_OPERANDS_ANYWHERE, 1, 1) < 0)
		return c->exit;
	name = api_escape(argv[0]);
	path = api_path("/v1/workloads/%s/drain", name);
	return api_do(c, "POST", path, json_pack("{s:b}", "on", !undo),
		      undo ? "new lanes are let in again" : "no new lanes to or from it; open ones go on");
}
