/* The configuration's files: which they are, and their text. The warden reads them for the broker, --check for itself. */
#ifndef DAEMON_CONFIG_FILES_H
#define DAEMON_CONFIG_FILES_H

#include "base/limits.h"
#include "daemon/roles.h"

enum { CONFIG_FILES_MAX = 256 };

struct config_file {
	char path[LIMIT_PATH_SIZE];
	int error; /* negative errno: it is there, or was named, but cannot be read */
	char *text; /* owned, NUL after @size bytes; NULL on error */
	size_t size;
};

struct config_files {
	struct config_file *files; /* in the order in which they are to be loaded */
	size_t n;
};

/*
 * config_files_read() - each path of @o: a file, or a directory with *.conf, *.hcl and *.json, sorted by name. Without
 * paths: /etc/sealane/sealane.conf and /etc/sealane/conf.d, either of which may be missing, but not both. A file that cannot
 * be read is in the result with its error; so is a directory that was named and holds none (-ENODATA). So there is always one.
 * Return: 0; -E2BIG: more than CONFIG_FILES_MAX; -ENOMEM. Release with config_files_free() either way.
 */
MUST_CHECK int config_files_read(struct config_files *c, const struct daemon_options *o);
void config_files_free(struct config_files *c);

#endif
