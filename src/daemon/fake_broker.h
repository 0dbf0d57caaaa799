/*
 * A broker for tests of the admin interface: a small model that shows every case of docs/openapi.json, and broker_*()
 * functions that write down what they were asked and answer as told.
 */
#ifndef DAEMON_FAKE_BROKER_H
#define DAEMON_FAKE_BROKER_H

#include "daemon/broker.h"
#include "daemon/broker_link.h"

struct fake_pending {
	broker_done_fn done;
	broker_enrol_fn enrolled;
	void *arg;
};

struct fake_broker {
	struct broker b; /* first: broker_*() find the rest from it */
	int error;	 /* what the next changes answer */
	const char *why;
	bool hold; /* keep the answers until fake_release() */
	struct fake_pending pending[64];
	size_t n_pending;

	/* what was asked last */
	struct intention set;
	struct service_pattern removed_source, removed_destination;
	struct broker_enrolment enrolment;
	char unenrolled[LIMIT_NAME_SIZE], drained[LIMIT_NAME_SIZE];
	bool drain_on;
	unsigned n_set, n_removed, n_enrolled, n_unenrolled, n_drained, n_reloads, n_refreshed;

	struct lane relay_lane, shm_lane, link_lanes[2], direct_lanes[2];
	struct link_host hosts[2];
	struct announced offers[2];
	struct link_session sessions[2];
	struct link_peer peer;
	struct pair pair;
	struct workload workloads[4];
	struct service services[4];
	struct upstream upstreams[4];
};

/* fake_new() - @base may be NULL (no HTTP then). Aborts if it cannot. */
struct fake_broker *fake_new(struct event_base *base);
void fake_free(struct fake_broker *f);

/* fake_release() - give all answers that were held. */
void fake_release(struct fake_broker *f);

#endif
