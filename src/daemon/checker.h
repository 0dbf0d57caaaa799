/* The checker without its process: what checker_main() puts together, and the test takes apart. */
#ifndef DAEMON_CHECKER_H
#define DAEMON_CHECKER_H

#include "base/util.h"

/* checker_run() - serve the broker at @channel_fd (owned) until it goes away. Return: 0 when it closed; negative errno. */
MUST_CHECK int checker_run(int channel_fd);

#endif
