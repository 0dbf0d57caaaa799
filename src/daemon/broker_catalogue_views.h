/* What is known of the cluster's catalogue, as JSON and for Prometheus. As broker_views.h and broker_metrics.h, of which they are parts. */
#ifndef DAEMON_BROKER_CATALOGUE_VIEWS_H
#define DAEMON_BROKER_CATALOGUE_VIEWS_H

#include "daemon/broker_catalogue.h"

#include <jansson.h>
#include <stdio.h>

/* view_catalogue() - null where there is no `etcd`. A new reference; NULL: no memory. */
json_t *view_catalogue(const struct broker *b);
void metrics_catalogue(FILE *f, const struct broker *b);

#endif
