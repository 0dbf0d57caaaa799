/* The linker of a daemon that was built without OpenSSL. */
#include "base/log.h"
#include "daemon/roles.h"

int linker_main(const struct daemon_options *o)
{
	log_init("linker", LOG_LEVEL_INFO);
	log_error("linker.failed", LOG_STR("why", "this sealaned was built without OpenSSL (meson -Dlinks=disabled): there are no links"));
	return EXIT_FAILURE;
}
