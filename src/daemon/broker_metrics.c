/*
 * Theory of operation
 *
 * A family is a HELP and a TYPE line and its samples, which must stand together; so each family is one walk over its table.
 * Names follow Prometheus' rules (base units, counters end in _total; `promtool check metrics` is a test). Every sample of a
 * family has labels of its own: workloads and services have unique names, upstreams are told apart by their path.
 * Series of a workload end with it; the totals of the daemon go on, so rates over the host stay right.
 *
 * Before it: broker_api.c (GET /metrics, after broker_refresh_lanes()). After it: the same, with the text.
 */
#include "daemon/broker_metrics.h"

#include "daemon/broker_ca.h"
#include "daemon/broker_catalogue_views.h"
#include "daemon/broker_views.h"

#include <inttypes.h>
#include <stdio.h>

static void family(FILE *f, const char *name, const char *type, const char *help)
{
	fprintf(f, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void single(FILE *f, const char *name, const char *type, const char *help, uint64_t value)
{
	family(f, name, type, help);
	fprintf(f, "%s %" PRIu64 "\n", name, value);
}

/* A label's value: \, " and newline are escaped (exposition format); a path may hold any of them. */
static void label(FILE *f, const char *name, const char *value)
{
	fprintf(f, "%s=\"", name);
	for (const char *p = value; *p; p++) {
		unsigned char c = (unsigned char)*p;

		if (c == '\\' || c == '"')
			fprintf(f, "\\%c", c);
		else if (c == '\n')
			fputs("\\n", f);
		else
			fputc(c >= 0x80 ? '?' : c, f); /* the format is UTF-8; a path need not be */
	}
	fputc('"', f);
}

static void host_metrics(FILE *f, const struct broker *b)
{
	const struct broker_counters *c = &b->counters;
	struct view_counts n = view_count(b);

	family(f, "sealane_build_info", "gauge", "Always 1; the version is in the label.");
	fprintf(f, "sealane_build_info{version=\"%s\"} 1\n", SEALANE_VERSION);
	single(f, "sealane_start_time_seconds", "gauge", "When the daemon started, seconds since 1970.", b->started_unix_s);
	family(f, "sealane_lanes_open", "gauge", "Lanes that are open, by the way their bytes take.");
	fprintf(f, "sealane_lanes_open{path=\"relay\"} %zu\nsealane_lanes_open{path=\"direct\"} %zu\nsealane_lanes_open{path=\"shm\"} %zu\nsealane_lanes_open{path=\"link\"} %zu\n",
		n.lanes_relay, n.lanes_direct, n.lanes_shm, n.lanes_link[0] + n.lanes_link[1]);
	single(f, "sealane_lanes_opened_total", "counter", "Lanes that were granted.", c->lanes_opened);
	single(f, "sealane_lanes_denied_total", "counter", "Connections that no intention allows or a limit forbids.",
	       c->lanes_denied);
	single(f, "sealane_lanes_refused_identity_total", "counter", "Connections from outside the workload that owns the socket.",
	       c->lanes_refused_identity);
	single(f, "sealane_lanes_cut_total", "counter", "Lanes ended because they were no longer allowed.", c->lanes_cut);
	single(f, "sealane_lanes_failed_total", "counter", "Connections that were allowed but found no server or no memory.",
	       c->lanes_failed);
	family(f, "sealane_relay_bytes_total", "counter", "Bytes carried by the relay; up is client to server.");
	fprintf(f, "sealane_relay_bytes_total{direction=\"up\"} %" PRIu64 "\n", n.bytes_up);
	fprintf(f, "sealane_relay_bytes_total{direction=\"down\"} %" PRIu64 "\n", n.bytes_down);
	family(f, "sealane_shm_bytes_total", "counter", "Bytes on lanes in shared memory, as their ends say; up is client to server.");
	fprintf(f, "sealane_shm_bytes_total{direction=\"up\"} %" PRIu64 "\n", n.shm_bytes_up);
	fprintf(f, "sealane_shm_bytes_total{direction=\"down\"} %" PRIu64 "\n", n.shm_bytes_down);
	single(f, "sealane_intentions", "gauge", "Intentions, from files and made at run time.", n.intentions);
	family(f, "sealane_reloads_total", "counter", "Times the configuration was read again.");
	fprintf(f, "sealane_reloads_total{result=\"ok\"} %" PRIu64 "\n", c->reloads_ok);
	fprintf(f, "sealane_reloads_total{result=\"failed\"} %" PRIu64 "\n", c->reloads_failed);
}

struct workload_family {
	const char *name, *type, *help;
	uint64_t (*value)(const struct workload *w);
};

static uint64_t workload_running(const struct workload *w)
{
	return w->cgroup_id != 0;
}

static uint64_t workload_lanes(const struct workload *w)
{
	return w->n_lanes;
}

static uint64_t workload_shm_lanes(const struct workload *w)
{
	return w->n_shm_lanes;
}

static uint64_t workload_shm_size(const struct workload *w)
{
	return w->shm_size;
}

static uint64_t workload_allowed(const struct workload *w)
{
	return w->n_allowed;
}

static uint64_t workload_denied(const struct workload *w)
{
	return w->n_denied;
}

static uint64_t workload_cut(const struct workload *w)
{
	return w->n_cut;
}

static const struct workload_family workload_families[] = {
	{ "sealane_workload_running", "gauge", "1 while a cgroup is enrolled for the workload.", workload_running },
	{ "sealane_workload_relay_lanes_open", "gauge", "Relayed lanes from the workload that are open.", workload_lanes },
	{ "sealane_workload_shm_lanes_open", "gauge", "Lanes in shared memory from the workload that are open or offered.", workload_shm_lanes },
	{ "sealane_workload_shm_bytes", "gauge", "What the workload's own regions of those lanes take at most.", workload_shm_size },
	{ "sealane_workload_allowed_total", "counter", "Connections of the workload that were allowed.", workload_allowed },
	{ "sealane_workload_denied_total", "counter", "Connections of the workload that were denied.", workload_denied },
	{ "sealane_workload_cut_total", "counter", "Lanes of the workload that were cut.", workload_cut },
};

static void workload_metrics(FILE *f, const struct broker *b)
{
	for (size_t k = 0; k < ARRAY_SIZE(workload_families); k++) {
		const struct workload_family *fam = &workload_families[k];

		family(f, fam->name, fam->type, fam->help);
		for (size_t i = 0; i < b->n_workloads; i++) {
			if (b->workloads[i].removed)
				continue;
			fprintf(f, "%s{", fam->name);
			label(f, "workload", b->workloads[i].name);
			fprintf(f, "} %" PRIu64 "\n", fam->value(&b->workloads[i]));
		}
	}
}

static void upstream_family(FILE *f, const struct broker *b, const char *name, const char *help, bool denied)
{
	char buf[LIMIT_SERVICE_SIZE];

	family(f, name, "counter", help);
	for (size_t i = 0; i < b->n_upstreams; i++) {
		const struct upstream *u = &b->upstreams[i];

		if (u->removed || u->wid >= b->n_workloads)
			continue;
		fprintf(f, "%s{", name);
		label(f, "workload", b->workloads[u->wid].name);
		fputc(',', f);
		label(f, "source", service_name_format(buf, &u->source));
		fputc(',', f);
		label(f, "destination", service_name_format(buf, &u->destination));
		fputc(',', f);
		label(f, "path", u->path);
		fprintf(f, "} %" PRIu64 "\n", denied ? u->n_denied : u->n_allowed);
	}
}

static void service_sample(FILE *f, const char *name, const struct service *s, uint32_t value)
{
	char buf[LIMIT_SERVICE_SIZE];

	fprintf(f, "%s{", name);
	label(f, "service", service_name_format(buf, &s->name));
	fprintf(f, "} %" PRIu32 "\n", value);
}

static void service_metrics(FILE *f, const struct broker *b)
{
	family(f, "sealane_service_up", "gauge", "1 while the service's socket listens.");
	for (size_t i = 0; i < b->n_services; i++)
		if (!b->services[i].removed && b->services[i].offered)
			service_sample(f, "sealane_service_up", &b->services[i], b->services[i].up);
	family(f, "sealane_service_listeners", "gauge", "Connections that take lanes in shared memory for the service.");
	for (size_t i = 0; i < b->n_services; i++)
		if (!b->services[i].removed && b->services[i].takes_lanes)
			service_sample(f, "sealane_service_listeners", &b->services[i], b->services[i].n_listeners);
	family(f, "sealane_service_healthy", "gauge", "1 if the last health check passed, 0 if it failed; none before the first.");
	for (size_t i = 0; i < b->n_services; i++)
		if (!b->services[i].removed && b->services[i].health != HEALTH_UNCHECKED)
			service_sample(f, "sealane_service_healthy", &b->services[i],
				       b->services[i].health == HEALTH_PASSING);
}

static void expiry_sample(void *arg, const char *spiffe_id, int64_t not_after)
{
	FILE *f = arg;

	fputs("sealane_certificate_expiry_seconds{", f);
	label(f, "spiffe_id", spiffe_id);
	fprintf(f, "} %" PRId64 "\n", not_after);
}

static void certificate_metrics(FILE *f, const struct broker *b)
{
	const uint64_t *failures = ca_failures();
	struct ca_status s = ca_status((struct broker *)(uintptr_t)b);

	family(f, "sealane_certificate_expiry_seconds", "gauge", "When a certificate of this host ends, seconds since 1970.");
	ca_each_expiry((struct broker *)(uintptr_t)b, expiry_sample, f);
	family(f, "sealane_certificate_failures_total", "counter", "Certificates that did not come or cannot be used, by reason.");
	for (enum ca_failure i = CA_OK + 1; i < CA_FAILURE_N; i++)
		fprintf(f, "sealane_certificate_failures_total{reason=\"%s\"} %" PRIu64 "\n", ca_failure_name(i), failures[i]);
	if (!s.authority[0])
		return;
	family(f, "sealane_authority_up", "gauge", "1 unless the authority could not be asked the last time.");
	fprintf(f, "sealane_authority_up %d\n", s.why[0] == '\0');
	family(f, "sealane_authority_heard_timestamp_seconds", "gauge", "When the authority answered last, seconds since 1970; 0: not since the start.");
	fprintf(f, "sealane_authority_heard_timestamp_seconds %" PRId64 "\n", s.heard_unix_s);
	family(f, "sealane_authority_list_timestamp_seconds", "gauge",
	       "When the authority made the list of what is revoked that is known here, by its clock, seconds since 1970; 0: none has come.");
	fprintf(f, "sealane_authority_list_timestamp_seconds %" PRId64 "\n", s.list_made_unix_s);
}

void metrics_family(FILE *f, const char *name, const char *type, const char *help)
{
	family(f, name, type, help);
}

void metrics_label(FILE *f, const char *name, const char *value)
{
	label(f, name, value);
}

int metrics_format(const struct broker *b, char **ret_text, size_t *ret_size)
{
	char *out = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&out, &n);
	bool failed;

	if (!f)
		return -ENOMEM;
	host_metrics(f, b);
	workload_metrics(f, b);
	upstream_family(f, b, "sealane_upstream_allowed_total", "Connections through a socket file that were allowed.", false);
	upstream_family(f, b, "sealane_upstream_denied_total", "Connections through a socket file that were denied.", true);
	service_metrics(f, b);
	metrics_catalogue(f, b);
	metrics_links(f, b);
	certificate_metrics(f, b);
	failed = ferror(f);
	if (fclose(f) != 0 || failed) {
		free(out);
		return -ENOMEM;
	}
	*ret_text = out;
	*ret_size = n;
	return 0;
}
