/*
 * What the broker knows, as JSON (docs/openapi.json names every member). Pure: reads the broker's tables, changes nothing.
 *
 * Ownership: every json_t is a new reference of the caller's. Errors: NULL means out of memory, nothing else.
 * Trust: some texts come from outside (what a health check printed); they are made valid UTF-8 here.
 */
#ifndef DAEMON_BROKER_VIEWS_H
#define DAEMON_BROKER_VIEWS_H

#include "daemon/broker.h"
#include "daemon/broker_link.h"

#include <jansson.h>

json_t *view_status(const struct broker *b, int64_t now_unix_s);
json_t *view_workload(const struct broker *b, const struct workload *w);
json_t *view_workloads(const struct broker *b);
json_t *view_services(const struct broker *b);
json_t *view_intentions(const struct broker *b, int64_t now_unix_s);
json_t *view_upstreams(const struct broker *b, int64_t now_unix_s);
/* view_lanes() - those that broker_each_lane() tells: call broker_refresh_lanes() before. */
json_t *view_lanes(struct broker *b);
/* view_hosts(), view_links() - other hosts and the sessions with them (broker_link_views.c); the numbers as of broker_refresh_lanes(). */
json_t *view_hosts(struct broker *b);
json_t *view_links(const struct broker *b);
/* view_links_status() - the same and certificates at a glance, for `sealane status`; JSON null for a host that is alone. */
json_t *view_links_status(struct broker *b);
/* view_rdma() - linkers' devices, for `sealane status`; JSON null for a host without linkers. */
json_t *view_rdma(const struct broker *b);
/*
 * view_session_path() - "tls" or "rdma (rxe0)", into @buf of VIEW_PATH_SIZE, which it returns. view_session_path_why() - why it is not RDMA, for people; "" if it is.
 * view_lane_session() - by which session of those that stand a lane goes; NULL: none is known.
 */
enum { VIEW_PATH_SIZE = 96 };
const char *view_session_path(const struct link_session *s, char *buf);
const char *view_session_path_why(const struct broker *b, const struct link_session *s);
const struct link_session *view_lane_session(const struct broker *b, uint64_t link_id);
json_t *view_explain(struct broker *b, const struct service_name *source, const struct service_name *destination,
		     int64_t now_unix_s);

/* view_text() - any text as JSON: what is not UTF-8 is shown with question marks. */
json_t *view_text(const char *s);

/* view_find_workload() - by name, NULL if there is none (or none any more). */
const struct workload *view_find_workload(const struct broker *b, const char *name);

/* What /v1/status and /metrics both count. */
struct view_counts {
	size_t workloads, workloads_running, services, services_offered, services_up, upstreams, intentions;
	size_t lanes_relay, lanes_direct, lanes_shm, listeners;
	size_t lanes_link[2];				 /* between hosts: outbound, inbound */
	uint64_t link_bytes_up[2], link_bytes_down[2];	 /* the same of their bytes; up is client to server */
	uint64_t bytes_up, bytes_down; /* relayed, of ended and open lanes */
	uint64_t shm_bytes_up, shm_bytes_down; /* in shared memory, likewise */
};
struct view_counts view_count(const struct broker *b);

#endif
