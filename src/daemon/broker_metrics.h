/* The broker's counters in Prometheus' text format 0.0.4. Pure: reads the broker's tables. */
#ifndef DAEMON_BROKER_METRICS_H
#define DAEMON_BROKER_METRICS_H

#include "daemon/broker.h"

#include <stdio.h>

/*
 * metrics_format() - all of them, as of the last BG_STATS and scan of direct lanes.
 * *ret_text: owned by the caller (free), @ret_size bytes and a NUL. Return: 0 or -ENOMEM.
 */
MUST_CHECK int metrics_format(const struct broker *b, char **ret_text, size_t *ret_size);

/* metrics_links() - those of other hosts (broker_link_metrics.c). */
void metrics_links(FILE *f, const struct broker *b);

/* For them: HELP and TYPE; one label, escaped. */
void metrics_family(FILE *f, const char *name, const char *type, const char *help);
void metrics_label(FILE *f, const char *name, const char *value);

#endif
