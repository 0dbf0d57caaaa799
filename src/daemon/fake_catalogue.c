#include "daemon/broker_catalogue.h"

/* Part of the fake broker: a catalogue that is up, and takes whatever it is told. */

static const struct catalogue_status g_status = {
	.configured = true,
	.state = ETCD_UP,
	.endpoint = "http://127.0.0.1:2379",
	.since_unix_s = 1700000000,
	.known = { .prefix = "/sealane", .cluster_id = UINT64_MAX, .revision = 12, .heard_unix_s = 1700000001,
		   .epoch = { .epoch = "00112233445566778899aabbccddeeff", .generation = 1 } },
	.n_hosts = 2,
	.n_intentions = 1,
};

const struct catalogue_status *catalogue_status(const struct broker *b)
{
	return &g_status;
}

const char *etcd_state_name(enum etcd_state s)
{
	return s == ETCD_UP ? "up" : "away";
}

void catalogue_intention_set(struct broker *b, const struct intention *i, const char *by, broker_done_fn done, void *arg)
{
	done(arg, by[0] ? 0 : -EINVAL, "");
}

void catalogue_intention_remove(struct broker *b, const struct service_pattern *source, const struct service_pattern *destination,
				broker_done_fn done, void *arg)
{
	done(arg, -ENOENT, "the cluster has no intention for this pair");
}

void catalogue_accept(struct broker *b, bool restore, const char *by, broker_done_fn done, void *arg)
{
	done(arg, restore ? -EHOSTDOWN : 0, restore ? "etcd is away; nothing was changed" : "");
}
