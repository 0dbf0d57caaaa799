#include "daemon/broker_catalogue_views.h"

#include <inttypes.h>

static json_t *time_or_null(int64_t unix_s)
{
	return unix_s ? json_integer(unix_s) : json_null();
}

/* Cluster ids go beyond what JSON's readers take for numbers. */
static json_t *cluster_or_null(uint64_t id)
{
	return id ? json_sprintf("%016" PRIx64, id) : json_null();
}

json_t *view_catalogue(const struct broker *b)
{
	const struct catalogue_status *s = catalogue_status(b);
	const struct state_known *k = &s->known;

	if (!s->configured)
		return json_null();
	return json_pack("{s:s,s:s,s:s,s:o,s:s,s:I,s:o,s:I,s:o,s:o,s:I,s:I,s:I,s:I,s:I}", "state", etcd_state_name(s->state), "endpoint", s->endpoint,
			 "why", s->why, "since", time_or_null(s->since_unix_s), "epoch", k->epoch.epoch, "generation",
			 (json_int_t)k->epoch.generation, "cluster_id", cluster_or_null(k->cluster_id), "revision", (json_int_t)k->revision,
			 "heard", time_or_null(k->heard_unix_s), "reset", time_or_null(k->reset_unix_s), "hosts", (json_int_t)s->n_hosts, "services",
			 (json_int_t)s->n_services, "intentions", (json_int_t)s->n_intentions, "waiting", (json_int_t)s->n_waiting, "malformed",
			 (json_int_t)s->n_malformed);
}

static void sample(FILE *f, const char *name, const char *type, const char *help, uint64_t value)
{
	fprintf(f, "# HELP %s %s\n# TYPE %s %s\n%s %" PRIu64 "\n", name, help, name, type, name, value);
}

void metrics_catalogue(FILE *f, const struct broker *b)
{
	const struct catalogue_status *s = catalogue_status(b);

	if (!s->configured)
		return;
	sample(f, "sealane_catalogue_up", "gauge", "1 while etcd is watched.", s->state == ETCD_UP);
	sample(f, "sealane_catalogue_reset", "gauge", "1 while etcd has other data than was known, and nobody has decided.",
	       s->known.reset_unix_s != 0);
	sample(f, "sealane_catalogue_heard_timestamp_seconds", "gauge", "When etcd was heard of last, seconds since 1970.",
	       (uint64_t)s->known.heard_unix_s);
	sample(f, "sealane_catalogue_revision", "gauge", "etcd's revision that is known.", s->known.revision);
	sample(f, "sealane_catalogue_hosts", "gauge", "Other hosts that the catalogue knows.", s->n_hosts);
	sample(f, "sealane_catalogue_services", "gauge", "Services on other hosts that the catalogue knows.", s->n_services);
	sample(f, "sealane_catalogue_intentions", "gauge", "The cluster's intentions.", s->n_intentions);
	sample(f, "sealane_catalogue_ranges_total", "counter", "Times the whole catalogue was read.", s->n_ranges);
	sample(f, "sealane_catalogue_changes_total", "counter", "Entries that came, changed or went.", s->n_changes);
	sample(f, "sealane_catalogue_malformed_total", "counter", "Values that could not be read.", s->n_malformed);
	sample(f, "sealane_catalogue_faults_total", "counter", "Times etcd went away, or would not have us any more.", s->n_faults);
	sample(f, "sealane_catalogue_resets_total", "counter", "Times etcd had other data than was known.", s->n_resets);
}
