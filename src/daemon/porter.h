/* The porter without its process: what porter_main() puts together, and the tests take apart. */
#ifndef DAEMON_PORTER_H
#define DAEMON_PORTER_H

#include "base/util.h"

/* porter_isolate() - no path, no address, no program from here on. Socket pairs and reading counters still work. */
MUST_CHECK int porter_isolate(void);

/* porter_run() - serve the broker at @channel_fd (owned) until it goes away. Return: 0 when it closed; negative errno. */
MUST_CHECK int porter_run(int channel_fd);

#endif
