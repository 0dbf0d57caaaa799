/*
 * Theory of operation: which linker has which RDMA device.
 *
 * Each linker opens its device once, before it isolates itself, so it is told first of all whether and where (BL_RDMA), and answers what came
 * of it (LB_DEVICE). Linkers listen at ports of their own, one after the other, since an address and port are one process's. Which port it
 * is matters to nobody else: the session's TLS says it.
 *
 * Whether new sessions use the device that it has, and whether they seal, a linker is told at any time: BL_RDMA again. Sessions that stand go on as they
 * are, and end with their last lane; the next lane comes on a new one.
 *
 * Another device, or one that came later, takes another linker. On a reload each linker that lacks the device that there may be now, or has one that it is not to
 * have, is renewed, and a lane is never cut for that:
 *
 *   renew      it waits for the moment when no lane goes by it (rdma_on_idle())
 *   LEAVING    it accepts no new sessions (they wait at the listening socket) and is given no lanes (they wait here); those that are on
 *              their way to it while other hosts read its GOAWAY are taken, and then it stays, and waits again
 *   DRAINING   its sessions end in order; then its channel is closed, and the warden starts the next one
 *
 * Before this: broker_link.c. After it: linker_device.c.
 * Must never: keep a linker from running because there is no device.
 */
#include "daemon/broker_int.h"

#include "daemon/broker_link.h"

enum {
	RENEW_GOAWAY_MS = 300, /* GOAWAY on its way to the other hosts, and an OPEN that crosses it */
	RENEW_DRAIN_MS = 300,  /* the ends of sessions */
};

/* Made when a device can be had: rdma_ucm is loaded. */
static const char g_node[] = "/dev/infiniband/rdma_cm";

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
	d->known = d->renew = false;
	d->stage = RENEW_NOT;
	d->stats = (struct role_rdma_stats){};
}

static void apply(struct broker *b, uint32_t linker);

/* Once for each thing that is to be said of a linker, however often it is started. */
void rdma_on_device(struct broker *b, uint32_t linker, const struct role_device *m)
{
	struct link_device *d = &b->devices[linker];
	struct role_rdma now;
	const char *why;

	d->is = *m;
	d->known = true;
	now = wanted(b, linker, &why);
	if (now.mode != d->asked.mode || strcmp(now.address, d->asked.address) != 0)
		apply(b, linker); /* the configuration was read again since it was told */
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

static bool may_leave(uint32_t linker)
{
	return cross_count(linker) == 0 && !welcome_waits(linker);
}

static void on_drained(struct broker *b, void *arg)
{
	uint32_t linker = (uint32_t)(uintptr_t)arg;

	if (b->devices[linker].stage == RENEW_DRAINING && b->linkers[linker].fd >= 0)
		broker_end_linker(b, linker);
}

/* Whoever has read GOAWAY begins no lane by it any more. */
static void on_goaway_read(struct broker *b, void *arg)
{
	struct role_msg drain = { .type = BL_DRAIN };
	uint32_t linker = (uint32_t)(uintptr_t)arg;
	struct link_device *d = &b->devices[linker];

	if (d->stage != RENEW_LEAVING || b->linkers[linker].fd < 0)
		return;
	if (!may_leave(linker)) {
		d->stage = RENEW_NOT;
		link_linker_stays(b, linker);
		return;
	}
	d->stage = RENEW_DRAINING;
	link_tell(b, linker, &drain, -1);
	broker_after(b, RENEW_DRAIN_MS, on_drained, arg);
}

static void on_idle(struct broker *b, void *arg)
{
	struct role_msg unlisten = { .type = BL_UNLISTEN }, leave = { .type = BL_GOAWAY };
	uint32_t linker = (uint32_t)(uintptr_t)arg;
	struct link_device *d = &b->devices[linker];

	if (!d->renew || d->stage != RENEW_NOT || b->linkers[linker].fd < 0 || !may_leave(linker))
		return;
	d->stage = RENEW_LEAVING;
	log_info("rdma.renew", LOG_U64("linker", linker), LOG_STR("why", "another linker takes up what the configuration says of RDMA now"));
	link_tell(b, linker, &unlisten, -1);
	link_tell(b, linker, &leave, -1);
	broker_after(b, RENEW_GOAWAY_MS, on_goaway_read, arg);
}

void rdma_on_idle(struct broker *b, uint32_t linker)
{
	if (linker < b->n_linkers && b->devices[linker].renew)
		broker_after(b, 0, on_idle, (void *)(uintptr_t)linker);
}

/* Has it what it may not have, or lacks it what there may be? */
static bool needs_another(const struct link_device *d, const struct role_rdma *now)
{
	bool wants = now->mode != RDMA_OFF && now->address[0], elsewhere = strcmp(now->address, d->is.address) != 0;

	if (!d->is.error)
		return !wants || elsewhere;
	return wants && (d->asked.mode == RDMA_OFF || access(g_node, F_OK) == 0);
}

static void apply(struct broker *b, uint32_t linker)
{
	struct link_device *d = &b->devices[linker];
	struct role_msg m = { .type = BL_RDMA };

	m.u.rdma = wanted(b, linker, &d->lacks);
	if (!d->known || b->linkers[linker].fd < 0)
		return;
	d->renew = needs_another(d, &m.u.rdma);
	if (m.u.rdma.mode != d->asked.mode)
		link_tell(b, linker, &m, -1);
	d->asked = m.u.rdma;
	if (may_leave(linker))
		rdma_on_idle(b, linker);
}

void rdma_apply(struct broker *b)
{
	for (uint32_t i = 0; i < b->n_linkers; i++)
		apply(b, i);
}
