/* `sealane-runc`: runc for engines that know neither CDI nor hooks. The link's name says which runtime it becomes. */
#ifndef CLI_OCI_RUNTIME_H
#define CLI_OCI_RUNTIME_H

#include "cli/cli.h"

/*
 * oci_runtime_main() - @name: the runtime, "runc"; @argv: as the engine has it. Does not return when all is well.
 * Return: enum cli_exit.
 */
int oci_runtime_main(struct cli *c, const char *name, int argc, char **argv);

/*
 * struct oci_runtime_args - what concerns us of a runtime's command line. Strings: borrowed from it.
 * @bundle:      of a command that makes a container ("create", "run", "restore"), "." where none is named; NULL: it makes none
 * @log:         the file that the engine reads errors from; NULL: none
 * @log_is_json: one JSON object a line, as the engine asked
 */
struct oci_runtime_args {
	const char *bundle;
	const char *log;
	bool log_is_json;
};

void oci_runtime_parse(struct oci_runtime_args *ret, int argc, char **argv);

/*
 * oci_config_add_hooks() - @text: a container's config.json of @size bytes, NUL-terminated; @run_dir: the daemon's; @self:
 * what the hooks start; @socket_path: what they ask. No I/O but the resolving of paths.
 * Return: 1 and @ret (to be freed): with our hooks; 0: this container is none of ours, or has our hook; -EINVAL after @why is written
 * (@why_size bytes, a line for people).
 */
MUST_CHECK int oci_config_add_hooks(char **ret, const char *text, size_t size, const char *run_dir, const char *self,
				    const char *socket_path, char *why, size_t why_size);

#endif
