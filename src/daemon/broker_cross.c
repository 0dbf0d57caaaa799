/*
 * Theory of operation: lanes between hosts, as they stand in the broker's table. How one comes to be differs by its direction
 * (broker_carry.c: from here; broker_welcome.c: to here); from then on it is a number, a linker, an intention and some counters,
 * and what may end it is the same: either side, the policy, the container, the linker, the other host.
 *
 * A lane is the linker's from BL_CARRY or BL_GO on, and LB_CLOSED (or LB_FAILED) ends it here, whoever wanted it to end: so a cut
 * is asked for once, and the lane stays in the table until the linker has said what it carried.
 *
 * Before this file: broker_carry.c, broker_welcome.c. After it: nothing; the linker carries the bytes.
 * Must never: look for a client's workload on an inbound lane. It has none here.
 */
#include "daemon/broker_int.h"

#include "core/svid.h"

#include <stdio.h>

/* Open lanes and those that are opening, by linker. */
static uint32_t g_n_lanes[LIMIT_LINKERS];

uint32_t cross_count(uint32_t linker)
{
	return linker < LIMIT_LINKERS ? g_n_lanes[linker] : 0;
}

void cross_set_linker(struct lane *l, uint32_t linker)
{
	if (l->link.linker < LIMIT_LINKERS)
		g_n_lanes[l->link.linker]--;
	l->link.linker = linker;
	if (linker < LIMIT_LINKERS)
		g_n_lanes[linker]++;
}

struct lane *cross_open(struct broker *b, const struct lane *from)
{
	struct lane *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	*l = *from;
	l->link.linker = ROLE_NO_ID;
	cross_set_linker(l, from->link.linker);
	l->id = lane_next_id(b);
	l->path = LANE_PATH_LINK;
	l->opened_unix_s = (uint64_t)unix_now_s();
	HASH_ADD(hh, b->lanes, id, sizeof(l->id), l);
	if (l->wid != ROLE_NO_ID)
		b->workloads[l->wid].n_link_lanes++;
	return l;
}

/* Another attempt has another number, so that a late word about the earlier one finds nothing. */
void cross_rename(struct broker *b, struct lane *l)
{
	HASH_DEL(b->lanes, l);
	l->id = lane_next_id(b);
	HASH_ADD(hh, b->lanes, id, sizeof(l->id), l);
}

struct lane *cross_find(struct broker *b, uint32_t linker, uint64_t lane_id)
{
	struct lane *l;

	HASH_FIND(hh, b->lanes, &lane_id, sizeof(lane_id), l);
	return l && l->path == LANE_PATH_LINK && l->link.linker == linker ? l : NULL;
}

void cross_free(struct broker *b, struct lane *l)
{
	struct link_host *h = l->link.inbound ? NULL : link_host(b, l->link.hid);
	uint32_t linker = l->link.linker;

	b->link.bytes_up[l->link.inbound] += l->bytes_up;
	b->link.bytes_down[l->link.inbound] += l->bytes_down;
	if (l->wid != ROLE_NO_ID && b->workloads[l->wid].n_link_lanes)
		b->workloads[l->wid].n_link_lanes--;
	if (h)
		link_host_count(h, &l->destination, -1);
	lane_quota_release(&l->pair->quota);
	share_give_back(l);
	if (l->link.lent)
		lend_forget(b, l);
	if (l->link.inbound)
		link_announce_soon(b);
	cross_set_linker(l, ROLE_NO_ID);
	HASH_DEL(b->lanes, l);
	carry_free(l->link.opening);
	free(l);
	if (linker != ROLE_NO_ID && cross_count(linker) == 0)
		rdma_on_idle(b, linker);
}

/* Whose events are bounded together: the workload's on this host. NULL: there is none (any more), then all are told. */
static struct workload *workload_here(struct broker *b, const struct lane *l)
{
	const struct service *s = model_service(b, l->sid);

	if (!l->link.inbound)
		return model_workload(b, l->wid);
	return model_workload(b, l->link.lent ? l->shm.server_wid : s ? s->wid : ROLE_NO_ID);
}

const char *cross_path(struct broker *b, const struct lane *l, char *buf)
{
	const struct link_host *h = link_host(b, l->link.hid);

	snprintf(buf, CROSS_PATH_SIZE, "link:%s", h ? h->name : l->link.peer);
	return buf;
}

static void count(struct lane *l, const struct role_stats *s)
{
	l->bytes_up = s->bytes_up;
	l->bytes_down = s->bytes_down;
	l->reads_up = s->reads_up;
	l->reads_down = s->reads_down;
}

/* @why: NULL: what @s says is all there is. */
static void log_close(struct broker *b, const struct lane *l, const struct role_stats *s, const char *why)
{
	char src[LIMIT_SERVICE_SIZE], dst[LIMIT_SERVICE_SIZE], path[CROSS_PATH_SIZE], link_lane[LINK_LANE_ID_SIZE];
	struct workload *w = workload_here(b, l);
	bool failed = l->shm.pending && !l->cut; /* a library's, that nobody took */
	uint64_t more = 0;

	if (w && !lane_may_log(w, &more))
		return;
	link_lane_id(link_lane, l->link.id);
	LOG_EVENT(failed || s->end == LANE_END_FDS || s->end == LANE_END_NOMEM ? LOG_LEVEL_WARNING : LOG_LEVEL_INFO,
		  failed ? "lane.fail" : "lane.close", LOG_ID("lane", l->id), LOG_STR("link_lane", link_lane[0] ? link_lane : NULL),
		  LOG_STR("source", service_name_format(src, &l->source)),
		  LOG_STR("destination", service_name_format(dst, &l->destination)), LOG_STR("path", cross_path(b, l, path)),
		  LOG_STR("why", why || !failed ? why : "it ended before both sides had taken it"), LOG_STR("end", lane_end_name(s->end)),
		  LOG_STR("error", s->error ? log_errno_name(s->error) : NULL), LOG_U64("bytes_up", l->bytes_up),
		  LOG_U64("bytes_down", l->bytes_down), LOG_U64("more", more));
}

void cross_on_closed(struct broker *b, uint32_t linker, const struct role_stats *s)
{
	struct lane *l = cross_find(b, linker, s->lane_id);

	if (!l)
		return;
	if (l->link.opening) {
		const struct role_link_failed f = { .lane_id = l->id, .code = LINK_FAILED, .why = "the linker gave it up" };

		carry_on_failed(b, linker, &f, -1);
		return;
	}
	count(l, s);
	b->counters.lanes_failed += l->shm.pending && !l->cut;
	log_close(b, l, s, NULL);
	cross_free(b, l);
}

void cross_on_stats(struct broker *b, uint32_t linker, const struct role_stats *s)
{
	struct lane *l = cross_find(b, linker, s->lane_id);

	if (l)
		count(l, s);
}

/* Nobody says any more how it ended, and what it carried since it was asked for that last. */
static void lost_with_linker(struct broker *b, struct lane *l)
{
	const struct role_stats s = { .end = LANE_END_LINK };

	b->counters.lanes_failed += l->shm.pending && !l->cut;
	log_close(b, l, &s, "the linker process that carried it has ended; it is started again");
	cross_free(b, l);
}

void cross_on_linker_lost(struct broker *b, uint32_t linker)
{
	struct lane *l, *tmp;
	size_t n = 0;

	HASH_ITER(hh, b->lanes, l, tmp)
		if (l->path == LANE_PATH_LINK && l->link.linker == linker) {
			n++;
			if (l->link.opening)
				carry_on_linker_lost(b, l);
			else
				lost_with_linker(b, l);
		}
	if (n == 0 && b->devices[linker].stage == RENEW_DRAINING)
		log_info("linker.replaced", LOG_U64("linker", linker));
	else
		log_warn("linker.lost", LOG_U64("linker", linker), LOG_U64("lanes", n));
}

static void tell_library(struct broker *b, struct lane *l, const struct intention *i, const char *why)
{
	char text[256];

	snprintf(text, sizeof(text), "%.110s (%.130s)", why, intention_where(i));
	if (l->link.opening)
		lend_end(b, l, -ECANCELED, text);
	else
		lend_cut(b, l, text);
}

void cross_cut(struct broker *b, struct lane *l, const struct intention *i, const char *why)
{
	struct role_msg m = { .type = BL_CUT, .u.lane_ref.lane_id = l->id };
	char src[LIMIT_SERVICE_SIZE], dst[LIMIT_SERVICE_SIZE], rule[INTENTION_TEXT_SIZE], path[CROSS_PATH_SIZE], link_lane[LINK_LANE_ID_SIZE];
	struct workload *w = workload_here(b, l);

	if (l->cut)
		return;
	l->cut = true;
	if (l->link.welcome)
		return; /* no linker has it: it is decided about again when it has been lent (broker_welcome.c) */
	link_lane_id(link_lane, l->link.id);
	b->counters.lanes_cut++;
	if (w)
		w->n_cut++;
	if (!i)
		i = policy_decide(b->policy, &l->source, &l->destination, unix_now_s());
	log_warn("lane.cut", LOG_ID("lane", l->id), LOG_STR("link_lane", link_lane[0] ? link_lane : NULL), LOG_STR("source", service_name_format(src, &l->source)),
		 LOG_STR("destination", service_name_format(dst, &l->destination)), LOG_STR("path", cross_path(b, l, path)),
		 LOG_STR("intention", intention_text(rule, sizeof(rule), i)), LOG_STR("where", intention_where(i)),
		 LOG_STR("why", why));
	if (l->link.lent)
		tell_library(b, l, i, why);
	if (carry_is_parked(l))
		carry_refuse(b, l);
	else if (!l->link.lent || l->link.opening)
		link_tell(b, l->link.linker, &m, -1);
}

/* An inbound lane is the source's as its certificate said; that may have been taken back. */
static bool is_revoked(const struct broker *b, const struct lane *l)
{
	char id[LIMIT_SPIFFE_ID_SIZE];

	return l->link.inbound && ca_is_revoked(b, spiffe_id_format(id, b->config->trust_domain, &l->source));
}

/* A socket file's lane ends with the file, a library's with the word that its workload is the service's. Return: NULL: it is. */
static const char *why_elsewhere(struct broker *b, const struct lane *l)
{
	const struct service_name *own = l->link.inbound ? &l->destination : &l->source;
	const struct workload *w = l->link.lent ? model_workload(b, l->link.inbound ? l->shm.server_wid : l->wid) : NULL;
	const struct service *s = l->link.inbound ? model_find_service(b, own) : NULL;

	if (!l->link.lent || (w && model_speaks_as(w, own) && (!l->link.inbound || (s && s->takes_lanes))))
		return NULL;
	return "the configuration does not have this service in this workload any more";
}

/* Must not touch the lane after a cut: one that is parked ends with it. */
static void recheck(struct broker *b, struct lane *l, int64_t now)
{
	const struct intention *i = policy_decide(b->policy, &l->source, &l->destination, now);
	struct role_msg m = { .type = BL_LIMIT };
	const char *elsewhere;

	if (!i || i->action != INTENTION_ALLOW) {
		cross_cut(b, l, i, "no longer allowed");
		return;
	}
	if ((elsewhere = why_elsewhere(b, l))) {
		cross_cut(b, l, i, elsewhere);
		return;
	}
	if (is_revoked(b, l)) {
		cross_cut(b, l, i, "the source's identity is revoked");
		return;
	}
	if (i->limits.bytes_per_s == l->bytes_per_s)
		return;
	l->bytes_per_s = i->limits.bytes_per_s;
	m.u.lane_ref = (struct role_lane_ref){ .lane_id = l->id, .bytes_per_s = l->bytes_per_s };
	link_tell(b, l->link.linker, &m, -1);
}

void link_recheck(struct broker *b)
{
	int64_t now = unix_now_s();
	struct lane *l, *tmp;

	HASH_ITER(hh, b->lanes, l, tmp)
		if (l->path == LANE_PATH_LINK && !l->cut)
			recheck(b, l, now);
}
