/* The Container Device Interface description of this host's workloads, for engines that read one (podman, CRI-O, newer docker). */
#ifndef DAEMON_BROKER_CDI_H
#define DAEMON_BROKER_CDI_H

#include "daemon/broker.h"

/*
 * cdi_text() - CDI 0.5.0 JSON: one device sealane.dev/workload=NAME for each configured workload.
 * @sealane_path: the command line's binary for the hooks; NULL or "": what SEALANE_CLI in the environment says, else where it is installed.
 * Return: the text, NUL-terminated, owned by the caller; NULL without memory.
 */
MUST_CHECK char *cdi_text(const struct broker *b, const char *sealane_path);

#endif
