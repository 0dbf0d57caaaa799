#include "cli/api.h"

int verb_unenrol(struct cli *c, int argc, char **argv)
{
	AUTO_FREE(char) name = NULL;
	AUTO_FREE(char) path = NULL;

	if (cli_begin(c, NULL, 0, argc, argv, OPT_OPERANDS_ANYWHERE, 1, 1) < 0)
		return c->exit;
	name = api_escape(argv[0]);
	path = api_path("/v1/workloads/%s", name);
	return api_do(c, "DELETE", path, NULL, "unenrolled; its lanes are cut");
}
