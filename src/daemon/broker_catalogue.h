/*
 * What the broker does for the catalogue of a cluster (docs/design/catalogue.md): what it knows of it and makes of it
 * (broker_catalogue.c), and what it says to the role that talks to etcd (broker_etcd.c).
 *
 * Threads: the broker's one. Trust: what the role says is hostile in its form until entry_parse() has taken it.
 */
#ifndef DAEMON_BROKER_CATALOGUE_H
#define DAEMON_BROKER_CATALOGUE_H

#include "daemon/broker.h"
#include "daemon/state_catalogue.h"

/* For people, `sealane status` and /metrics. */
struct catalogue_status {
	bool configured;
	enum etcd_state state;
	char endpoint[LIMIT_ETCD_ENDPOINT_SIZE];
	char why[256];
	int64_t since_unix_s;		/* of state */
	struct state_known known;	/* epoch.epoch "": nothing yet */
	size_t n_hosts, n_services, n_intentions, n_waiting; /* waiting: intentions of new data that nobody has accepted */
	size_t n_restored; /* intentions that the last `sealane catalogue restore` wrote into etcd */
	uint64_t n_ranges, n_changes, n_malformed, n_resets, n_faults;
};
const struct catalogue_status *catalogue_status(const struct broker *b);
const char *etcd_state_name(enum etcd_state s);

/* catalogue_add_intentions() - the cluster's into a policy that was built anew. Reads the state database when it is first called. */
void catalogue_add_intentions(struct broker *b);
/* catalogue_apply() - the configuration changed, or was read again. After link_apply(). */
void catalogue_apply(struct broker *b);
/* catalogue_stop() - the daemon ends: write what is not written yet. */
void catalogue_stop(struct broker *b);

/* catalogue_on_started() - the role was (re)started and can be told. catalogue_on_lost() - it has gone. */
void catalogue_on_started(struct broker *b);
void catalogue_on_lost(struct broker *b);
void catalogue_on_msg(struct broker *b, const struct role_msg *m);

/* What an operator changes. @done is answered once, perhaps before it returns; not before etcd has it. @by: who, for people. */
void catalogue_intention_set(struct broker *b, const struct intention *i, const char *by, broker_done_fn done, void *arg);
void catalogue_intention_remove(struct broker *b, const struct service_pattern *source, const struct service_pattern *destination,
				broker_done_fn done, void *arg);
/* catalogue_accept() - etcd's data is right; @restore: after the known intentions were written into it. Done when it counts here. */
void catalogue_accept(struct broker *b, bool restore, const char *by, broker_done_fn done, void *arg);

/* --- between the two files --- */

struct catalogue_item {
	char *key, *value; /* owned; value NULL: gone, and only the disk has it yet */
	enum entry_kind kind;
	bool there;	    /* in the data that etcd has now, not only in what was known before */
	bool dirty;	    /* not on the disk as it is */
	bool told;	    /* of a tie or conflict */
	int64_t leaving_ns; /* CLOCK_MONOTONIC: when it goes unless it comes back; 0: it stays */
	UT_hash_handle hh;
};

struct catalogue {
	struct catalogue_status status;
	struct catalogue_item *items;	/* what is known, by key */
	struct catalogue_item *staging; /* a range that is being told */
	bool in_range, loaded, known_dirty, policy_armed;
	bool range_short; /* not all of the range is in staging */
	bool full_told;
	struct entry_epoch seen; /* of etcd's present data */
	int64_t written_unix_s;	 /* known, on the disk */
};
extern struct catalogue g_catalogue;

/* broker_catalogue.c: what the role told. */
void catalogue_on_begin(struct broker *b);
void catalogue_on_entry(struct broker *b, const struct role_etcd_entry *e);
void catalogue_on_end(struct broker *b, const struct role_etcd_range *r);
/* catalogue_begin() - etcd is configured now: hand on what the disk had. */
void catalogue_begin(struct broker *b);
/* catalogue_settle() - once a second: who left long enough ago, what the disk lacks. */
void catalogue_settle(struct broker *b);
/* catalogue_forget() - etcd is not configured any more: what came from it goes. */
void catalogue_forget(struct broker *b);
struct catalogue_item *catalogue_find(const char *key);

#endif
