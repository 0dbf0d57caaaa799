/*
 * Theory of operation: which linker has which RDMA device.
 *
 * Each linker opens its device once, before it isolates itself, so it is told first of all whether and where (BL_RDMA), and answers what came
 * of it (LB_DEVICE). Linkers listen at ports of their own, one after the other, since an address and port are one process's. Which port it
 * is matters to nobody else: the session's TLS says it.
 *
 * So another device, or one that came later, takes another linker. On a reload each linker that would be told something else now, or
 * has no device where there may be one, is renewed: when no lane goes by it any more its sessions end in order, its channel is closed, and the warden
 * starts the next one. Lanes are never cut for that.
 *
 * Before this: broker_link.c. After it: linker_device.c.
 * Must never: keep a linker from running because there is no device.
 */
#include "daemon/broker_int.h"

#include "daemon/broker_link.h"

enum {
	RENEW_LOOK_MS = 1000,
	RENEW_GOODBYE_MS = 300, /* GOAWAY on its way to the other hosts */
};

/* Made when a device can be had: rdma_ucm is loaded. */
static const char g_node[] = "/dev/infiniband/rdma_cm";

static bool g_renew_armed;

static struct role_rdma wanted(const struct broker *b, uint32_t linker, const char **ret_why)
{
	struct role_rdma m = { .mode = RDMA_OFF };

	*ret_why = "rdma = off";
	if (!b->config || b->config->link.rdma == CONFIG_RDMA_OFF)
		return m;
	m.mode = b->config->link.rdma == CONFIG_RDMA_PLAIN ? RDMA_PLAIN : RDMA_AUTO;
	*ret_why = config_rdma_address(b->config, linker, m.address);
	return m;
}

void rdma_on_linker(struct broker *b, uint32_t linker)
{
	struct link_device *d = &b->devices[linker];
	struct role_msg m = { .type = BL_RDMA };
	char told[sizeof(d->told)];

	memcpy(told, d->told, sizeof(told));
	*d = (struct link_device){};
	memcpy(d->told, told, sizeof(told));
	d->asked = wanted(b, linker, &d->lacks);
	m.u.rdma = d->asked;
	link_tell(b, linker, &m, -1);
}

void rdma_on_linker_lost(struct broker *b, uint32_t linker)
{
	struct link_device *d = &b->devices[linker];

	b->link.rdma_offences += d->stats.offences;
	d->known = d->renew = d->leaving = false;
	d->stats = (struct role_rdma_stats){};
}

/* Once for each thing that is to be said of a linker, however often it is started. */
void rdma_on_device(struct broker *b, uint32_t linker, const struct role_device *m)
{
	struct link_device *d = &b->devices[linker];
	const char *why;

	d->is = *m;
	d->known = true;
	why = device_lacks(d);
	if (strcmp(d->told, m->error ? why : m->device) == 0)
		return;
	snprintf(d->told, sizeof(d->told), "%s", m->error ? why : m->device);
	if (!m->error)
		log_info("rdma.device", LOG_STR("device", m->device), LOG_STR("address", m->address), LOG_U64("linker", linker));
	else
		log_info("rdma.none", LOG_STR("address", m->address[0] ? m->address : NULL), LOG_U64("linker", linker), LOG_STR("why", why),
			 LOG_STR("then", "lanes to other hosts go over TLS; `sealane doctor` says more"));
}

void rdma_on_stats(struct broker *b, uint32_t linker, const struct role_rdma_stats *m)
{
	b->devices[linker].stats = *m;
}

/* ------------------------------------------------------------------ renewal */

static void on_goodbye(struct broker *b, void *arg)
{
	for (uint32_t i = 0; i < b->n_linkers; i++)
		if (b->devices[i].leaving && b->linkers[i].fd >= 0)
			broker_end_linker(b, i);
}

static void on_renew_time(struct broker *b, void *arg)
{
	struct role_msg drain = { .type = BL_DRAIN };
	bool wait = false, leaving = false;

	g_renew_armed = false;
	for (uint32_t i = 0; i < b->n_linkers; i++) {
		struct link_device *d = &b->devices[i];

		if (!d->renew || d->leaving || b->linkers[i].fd < 0)
			continue;
		if (cross_count(i) > 0) {
			wait = true;
			continue;
		}
		d->leaving = leaving = true;
		log_info("rdma.renew", LOG_U64("linker", i), LOG_STR("why", "another linker takes up what the configuration says of RDMA now"));
		link_tell(b, i, &drain, -1);
	}
	if (leaving)
		broker_after(b, RENEW_GOODBYE_MS, on_goodbye, NULL);
	if (wait && !g_renew_armed) {
		g_renew_armed = true;
		broker_after(b, RENEW_LOOK_MS, on_renew_time, NULL);
	}
}

void rdma_apply(struct broker *b)
{
	bool any = false;

	for (uint32_t i = 0; i < b->n_linkers; i++) {
		struct link_device *d = &b->devices[i];
		struct role_rdma now = wanted(b, i, &d->lacks);

		if (!d->known || b->linkers[i].fd < 0)
			continue;
		d->renew = now.mode != d->asked.mode || strcmp(now.address, d->asked.address) != 0 ||
			   (d->is.error && now.address[0] && access(g_node, F_OK) == 0);
		any |= d->renew;
	}
	if (any && !g_renew_armed) {
		g_renew_armed = true;
		broker_after(b, 0, on_renew_time, NULL);
	}
}
