/* The gate without its process: what gate_main() puts together, and the tests take apart. */
#ifndef DAEMON_GATE_H
#define DAEMON_GATE_H

#include "base/util.h"

/* gate_isolate() - no path, no new socket, no program from here on. Logging and the relay still work. */
MUST_CHECK int gate_isolate(void);

/* gate_run() - serve the broker at @channel_fd (owned) until it goes away. Return: 0 when it closed; negative errno. */
MUST_CHECK int gate_run(int channel_fd);

#endif
