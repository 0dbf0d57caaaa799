/*
 * `sealane cdi`: the Container Device Interface file that the daemon keeps for podman and others. It is printed from where
 * the daemon writes it, not made here: what engines read is what is shown.
 */
#include "cli/cli.h"

#include <fcntl.h>
#include <sys/stat.h>

static int cdi_print(struct cli *c, const char *path)
{
	char buf[65536];
	AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = -1;

	if (fd < 0 && errno == ENOENT)
		return cli_error(c, "%s does not exist: the daemon writes it when it runs and cdi_dir is not \"off\" (sealane.conf(5)); "
				    "another directory: --dir PATH", path);
	if (fd >= 0) {
		while ((n = read(fd, buf, sizeof(buf))) > 0) {
			if (fwrite(buf, 1, (size_t)n, stdout) != (size_t)n)
				return cli_error(c, "standard output: %m");
		}
	}
	return n < 0 ? cli_error(c, "%s: %m", path) : CLI_OK;
}

int verb_cdi(struct cli *c, int argc, char **argv)
{
	const char *dir = "/run/cdi";
	const struct opt opts[] = { { "dir", 0, OPT_STRING, &dir } };
	AUTO_FREE(char) path = NULL;

	if (cli_begin(c, opts, ARRAY_SIZE(opts), argc, argv, OPT_OPERANDS_ANYWHERE, 0, 0) < 0)
		return c->exit;
	if (asprintf(&path, "%s/sealane.json", dir) < 0)
		abort();
	return cdi_print(c, path);
}
