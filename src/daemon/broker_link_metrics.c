/* Counters of links. Each family is one walk; pairs of identities are told apart by both and by who dialled. */
#include "daemon/broker_metrics.h"

#include "daemon/broker_link.h"
#include "daemon/broker_views.h"

#include <inttypes.h>

static void host_families(FILE *f, const struct broker *b)
{
	metrics_family(f, "sealane_host_up", "gauge", "1 while there is a session to the host.");
	for (const struct link_host *h = b->hosts; h; h = h->hh.next) {
		fputs("sealane_host_up{", f);
		metrics_label(f, "host", h->name);
		fprintf(f, "} %d\n", h->state == LINK_HOST_UP);
	}
	metrics_family(f, "sealane_host_lanes_open", "gauge", "Lanes to the host that are open or opening.");
	for (const struct link_host *h = b->hosts; h; h = h->hh.next) {
		fputs("sealane_host_lanes_open{", f);
		metrics_label(f, "host", h->name);
		fprintf(f, "} %" PRIu32 "\n", h->n_lanes);
	}
}

static void reasons(FILE *f, const char *name, const char *help, const uint64_t *by_reason)
{
	metrics_family(f, name, "counter", help);
	for (uint32_t r = 0; r < SESSION_REASON_N; r++)
		fprintf(f, "%s{reason=\"%s\"} %" PRIu64 "\n", name, session_reason_name(r), by_reason[r]);
}

static void session_families(FILE *f, const struct broker *b)
{
	uint64_t n[2] = { 0 };

	for (const struct link_session *s = b->sessions; s; s = s->hh.next)
		n[s->inbound]++;
	metrics_family(f, "sealane_link_sessions", "gauge", "Sessions with other hosts that stand, by who dialled.");
	fprintf(f, "sealane_link_sessions{direction=\"out\"} %" PRIu64 "\n", n[0]);
	fprintf(f, "sealane_link_sessions{direction=\"in\"} %" PRIu64 "\n", n[1]);
	metrics_family(f, "sealane_link_sessions_total", "counter", "Sessions that came up.");
	fprintf(f, "sealane_link_sessions_total %" PRIu64 "\n", b->link.sessions_up);
	reasons(f, "sealane_link_refused_total", "Sessions that did not come up, in either direction.", b->link.refused);
	reasons(f, "sealane_link_ended_total", "Sessions that had come up and ended.", b->link.ended);
}

static void lane_families(FILE *f, const struct broker *b)
{
	static const char *const direction[] = { "out", "in" };
	struct view_counts n = view_count(b);

	metrics_family(f, "sealane_link_lanes_open", "gauge", "Lanes between hosts, by where the client is: out, here; in, there.");
	for (int d = 0; d < 2; d++)
		fprintf(f, "sealane_link_lanes_open{direction=\"%s\"} %zu\n", direction[d], n.lanes_link[d]);
	metrics_family(f, "sealane_link_lanes_opened_total", "counter", "Lanes between hosts that were granted by both.");
	for (int d = 0; d < 2; d++)
		fprintf(f, "sealane_link_lanes_opened_total{direction=\"%s\"} %" PRIu64 "\n", direction[d], b->link.lanes_opened[d]);
	metrics_family(f, "sealane_link_lanes_refused_total", "counter", "Lanes that the far host (out) or this one (in) did not take.");
	for (int d = 0; d < 2; d++)
		for (uint32_t c = LINK_CODE_NONE + 1; c < LINK_CODE_N; c++)
			fprintf(f, "sealane_link_lanes_refused_total{direction=\"%s\",code=\"%s\"} %" PRIu64 "\n", direction[d], link_code_name(c),
				b->link.lanes_no[d][c]);
	metrics_family(f, "sealane_link_lane_bytes_total", "counter", "Bytes of lanes between hosts; up is client to server.");
	for (int d = 0; d < 2; d++) {
		fprintf(f, "sealane_link_lane_bytes_total{side=\"%s\",direction=\"up\"} %" PRIu64 "\n", direction[d], n.link_bytes_up[d]);
		fprintf(f, "sealane_link_lane_bytes_total{side=\"%s\",direction=\"down\"} %" PRIu64 "\n", direction[d], n.link_bytes_down[d]);
	}
}

/* What a pair's sessions that stand add to those that have ended. */
static struct link_peer sum_peer(const struct broker *b, const struct link_peer *p, uint32_t *ret_rtt_us, uint64_t *ret_lanes)
{
	struct link_peer sum = *p;

	*ret_rtt_us = 0;
	*ret_lanes = 0;
	for (const struct link_session *s = p->n_sessions ? b->sessions : NULL; s; s = s->hh.next) {
		if (s->between != p)
			continue;
		sum.bytes_in += s->stats.bytes_in;
		sum.bytes_out += s->stats.bytes_out;
		sum.rdma_in += s->stats.rdma_in;
		sum.rdma_out += s->stats.rdma_out;
		sum.n_opened += s->stats.n_opened;
		sum.n_refused += s->stats.n_refused;
		*ret_lanes += s->stats.n_lanes;
		*ret_rtt_us = s->stats.rtt_us;
	}
	return sum;
}

struct peer_family {
	const char *name, *type, *help;
	uint64_t (*value)(const struct link_peer *sum, uint32_t rtt_us, uint64_t lanes);
	bool micro; /* the value is in millionths */
};

static uint64_t value_in(const struct link_peer *sum, uint32_t rtt_us, uint64_t lanes)
{
	return sum->bytes_in;
}

static uint64_t value_out(const struct link_peer *sum, uint32_t rtt_us, uint64_t lanes)
{
	return sum->bytes_out;
}

static uint64_t value_rdma_in(const struct link_peer *sum, uint32_t rtt_us, uint64_t lanes)
{
	return sum->rdma_in;
}

static uint64_t value_rdma_out(const struct link_peer *sum, uint32_t rtt_us, uint64_t lanes)
{
	return sum->rdma_out;
}

static uint64_t value_opened(const struct link_peer *sum, uint32_t rtt_us, uint64_t lanes)
{
	return sum->n_opened;
}

static uint64_t value_lanes(const struct link_peer *sum, uint32_t rtt_us, uint64_t lanes)
{
	return lanes;
}

static uint64_t value_rtt(const struct link_peer *sum, uint32_t rtt_us, uint64_t lanes)
{
	return rtt_us;
}

static const struct peer_family peer_families[] = {
	{ "sealane_link_received_bytes_total", "counter", "Bytes received over TCP and RDMA, of a pair of identities.", value_in, false },
	{ "sealane_link_sent_bytes_total", "counter", "Bytes sent over TCP and RDMA, of a pair of identities.", value_out, false },
	{ "sealane_link_rdma_received_bytes_total", "counter", "Those of them that came by RDMA.", value_rdma_in, false },
	{ "sealane_link_rdma_sent_bytes_total", "counter", "Those of them that went by RDMA.", value_rdma_out, false },
	{ "sealane_link_peer_lanes_opened_total", "counter", "Lanes opened, of a pair of identities.", value_opened, false },
	{ "sealane_link_peer_lanes_open", "gauge", "Lanes open now, of a pair of identities.", value_lanes, false },
	{ "sealane_link_rtt_seconds", "gauge", "The kernel's estimate of the round trip, of a pair of identities.", value_rtt, true },
};

static void peer_sample(FILE *f, const struct broker *b, const struct peer_family *fam, const struct link_peer *p)
{
	uint32_t rtt_us;
	uint64_t lanes, value;
	struct link_peer sum = sum_peer(b, p, &rtt_us, &lanes);

	value = fam->value(&sum, rtt_us, lanes);
	fprintf(f, "%s{", fam->name);
	metrics_label(f, "local", p->key.local);
	fputc(',', f);
	metrics_label(f, "peer", p->key.peer);
	fprintf(f, ",direction=\"%s\"} ", p->key.inbound ? "in" : "out");
	if (fam->micro)
		fprintf(f, "%.6f\n", (double)value / 1e6);
	else
		fprintf(f, "%" PRIu64 "\n", value);
}

static void rdma_families(FILE *f, const struct broker *b)
{
	struct role_rdma_stats sum = { .offences = b->link.rdma_offences };
	uint64_t n[2] = { 0 };

	for (size_t i = 0; i < b->n_linkers; i++) {
		sum.n_conns += b->devices[i].stats.n_conns;
		sum.n_quarantined += b->devices[i].stats.n_quarantined;
		sum.pinned += b->devices[i].stats.pinned;
		sum.offences += b->devices[i].stats.offences;
	}
	for (const struct link_session *s = b->sessions; s; s = s->hh.next)
		n[s->path == SESSION_PATH_RDMA]++;
	metrics_family(f, "sealane_link_path_sessions", "gauge", "Sessions with other hosts, by how their frames go.");
	fprintf(f, "sealane_link_path_sessions{path=\"tls\"} %" PRIu64 "\n", n[0]);
	fprintf(f, "sealane_link_path_sessions{path=\"rdma\"} %" PRIu64 "\n", n[1]);
	metrics_family(f, "sealane_rdma_connections", "gauge", "RDMA connections of all linkers, also those that are being made.");
	fprintf(f, "sealane_rdma_connections %" PRIu32 "\n", sum.n_conns);
	metrics_family(f, "sealane_rdma_pinned_bytes", "gauge", "Memory that is registered with devices, and so pinned.");
	fprintf(f, "sealane_rdma_pinned_bytes %" PRIu64 "\n", sum.pinned);
	metrics_family(f, "sealane_rdma_quarantined_peers", "gauge", "Peers that broke a rule, with which no RDMA connection is made for a while.");
	fprintf(f, "sealane_rdma_quarantined_peers %" PRIu32 "\n", sum.n_quarantined);
	metrics_family(f, "sealane_rdma_offences_total", "counter", "Accesses of peers that were refused, and records that did not open.");
	fprintf(f, "sealane_rdma_offences_total %" PRIu64 "\n", sum.offences);
}

void metrics_links(FILE *f, const struct broker *b)
{
	rdma_families(f, b);
	host_families(f, b);
	session_families(f, b);
	lane_families(f, b);
	for (size_t k = 0; k < ARRAY_SIZE(peer_families); k++) {
		metrics_family(f, peer_families[k].name, peer_families[k].type, peer_families[k].help);
		for (const struct link_peer *p = b->link_peers; p; p = p->hh.next)
			peer_sample(f, b, &peer_families[k], p);
	}
}
