/*
 * Theory of operation: a lane to another host whose end here is a library's (docs/design/link.md, "Lanes of the library").
 *
 * Two roles have a part of it. The linker carries the bytes and counts them: for it the lane is one as any other between hosts, and its
 * LB_CLOSED or LB_FAILED ends it in the table. The porter joins the library and the linker, holds their leashes, and is the one who can
 * tell the library why: BP_LEND, then PB_LENT with what the linker gets; PB_OPEN when both have the lane; PB_CLOSED.
 *
 * For the porter the lane has a number of its own (link.lent), since the linker's is another one with each host that is tried.
 *
 *   lent        asked for, or in the linker's hands; the broker_carry.c or broker_welcome.c of the lane waits
 *   open        PB_OPEN came
 *   over        PB_CLOSED came, or the porter died. An open lane goes on until the linker says so: it has still to carry what was written
 *
 * A cut is told to the library first, and to the linker when that has been done (or after CUT_MS): the other way round the library would
 * see no more than that its peer went.
 *
 * Before this file: broker_port.c, broker_welcome.c. After it: porter_lend.c.
 * Must never: let what the porter says of such a lane free it while a linker has it.
 */
#include "daemon/broker_port.h"

#include "core/svid.h"

#include <stdio.h>

enum { CUT_MS = 100, LEFT_OVER_MS = 2000 };

static struct lane *g_lent; /* by link.lent */

size_t lend_n_lanes(void)
{
	return HASH_CNT(hh_lent, g_lent);
}

enum control_kind lend_kind(uint32_t link_kind)
{
	return link_kind == LINK_STREAM ? CONTROL_STREAM : CONTROL_MESSAGES;
}

enum link_kind link_kind_of(uint32_t control_kind)
{
	return control_kind == CONTROL_STREAM ? LINK_STREAM : control_kind == CONTROL_MESSAGES ? LINK_MESSAGES : LINK_KIND_N;
}

const char *link_kind_name(uint32_t link_kind)
{
	static const char *const names[] = { "socket", "stream", "messages" };
	static_assert(ARRAY_SIZE(names) == LINK_KIND_N, "a name for each");

	return link_kind < LINK_KIND_N ? names[link_kind] : "unknown";
}

struct lane *lend_find(uint64_t lent)
{
	struct lane *l;

	HASH_FIND(hh_lent, g_lent, &lent, sizeof(lent), l);
	return l;
}

/* ------------------------------------------------------------------ to the porter */

static void fill_far(struct broker *b, const struct lane *l, struct control_identity *id, const struct service_name *s)
{
	const struct link_host *h = link_host(b, l->link.hid);

	service_name_format(id->service, s);
	spiffe_id_format(id->spiffe_id, b->config->trust_domain, s);
	if (h)
		memcpy(id->host, h->name, sizeof(id->host));
}

static struct role_msg lend_msg(struct broker *b, const struct lane *l)
{
	struct role_msg m = { .type = BP_LEND };
	struct role_lend *d = &m.u.lend;

	*d = (struct role_lend){ .lane_id = l->link.lent, .cid = ROLE_NO_ID, .kind = lend_kind(l->link.kind), .path = "link" };
	if (l->link.inbound) {
		d->end = LEND_CLIENT;
		fill_far(b, l, &d->client, &l->source);
		port_identity(b, &d->server, &l->destination, &b->workloads[l->shm.server_wid]);
	} else {
		d->end = LEND_SERVER;
		port_identity(b, &d->client, &l->source, &b->workloads[l->wid]);
		fill_far(b, l, &d->server, &l->destination);
	}
	return m;
}

void lend_begin(struct broker *b, struct lane *l, uint32_t cid)
{
	struct role_msg m;

	l->link.lent = l->id;
	l->shm.pending = true;
	HASH_ADD(hh_lent, g_lent, link.lent, sizeof(l->link.lent), l);
	m = lend_msg(b, l);
	m.u.lend.cid = cid;
	broker_tell_porter(b, &m, -1);
}

void lend_tell_host(struct broker *b, const struct lane *l)
{
	struct role_msg m = lend_msg(b, l);

	if (!l->link.lent_over && !l->link.lent_told)
		broker_tell_porter(b, &m, -1);
}

static void tell_end(struct broker *b, uint64_t lent, int error, const char *why)
{
	struct role_msg m = { .type = BP_CUT, .u.refuse = { .cid = ROLE_NO_ID, .error = error, .lane_id = lent } };

	snprintf(m.u.refuse.why, sizeof(m.u.refuse.why), "%s", why);
	broker_tell_porter(b, &m, -1);
}

void lend_end(struct broker *b, struct lane *l, int error, const char *why)
{
	if (l->link.lent_over || l->link.lent_told)
		return;
	l->link.lent_told = true;
	tell_end(b, l->link.lent, error, why);
}

/* ------------------------------------------------------------------ cutting */

static void tell_linker(struct broker *b, const struct lane *l)
{
	struct role_msg m = { .type = BL_CUT, .u.lane_ref.lane_id = l->id };

	if (l->link.linker != ROLE_NO_ID)
		link_tell(b, l->link.linker, &m, -1);
}

static void on_cut_time(struct broker *b, void *arg)
{
	struct lane *l = lend_find((uint64_t)(uintptr_t)arg);

	if (l && !l->link.lent_over)
		tell_linker(b, l);
}

void lend_cut(struct broker *b, struct lane *l, const char *why)
{
	lend_end(b, l, -ECANCELED, why);
	if (l->link.lent_over)
		tell_linker(b, l);
	else
		broker_after(b, CUT_MS, on_cut_time, (void *)(uintptr_t)l->link.lent);
}

/* ------------------------------------------------------------------ leaving */

/* A linker that let the lane go has let go of its leash, and the porter of the lane. If it has not, this ends it. */
static void on_left_over(struct broker *b, void *arg)
{
	tell_end(b, (uint64_t)(uintptr_t)arg, -ECONNABORTED, "the link to the other host has ended");
}

void lend_forget(struct broker *b, struct lane *l)
{
	HASH_DELETE(hh_lent, g_lent, l);
	if (!l->link.lent_over && !l->link.lent_told)
		broker_after(b, LEFT_OVER_MS, on_left_over, (void *)(uintptr_t)l->link.lent);
	if (l->link.inbound)
		port_lane_ended(l);
	if (l->wid != ROLE_NO_ID) {
		b->workloads[l->wid].n_lent_lanes--;
		b->workloads[l->wid].shm_size -= l->shm.size;
	}
}

/* ------------------------------------------------------------------ from the porter */

void lend_on_lent(struct broker *b, uint64_t lent, int fd)
{
	struct lane *l = lend_find(lent);

	if (!l || fd < 0)
		return; /* nobody's any more: closed by the caller, which ends it at the porter too */
	if (l->link.lent_given) { /* to another linker it would be a second lane with the first one's rights */
		log_error("broker.unexpected_message", LOG_STR("from", "porter"), LOG_STR("type", role_msg_name(PB_LENT)), LOG_ID("lane", l->id));
		return;
	}
	l->link.lent_given = true;
	if (l->link.welcome)
		welcome_on_lent(b, l, fd);
	else if (l->link.opening)
		carry_on_lent(b, l, fd);
}

bool lend_on_open(struct broker *b, uint64_t lent)
{
	struct lane *l = lend_find(lent);

	if (!l)
		return false;
	if (!l->shm.pending || l->cut || l->link.welcome)
		return true;
	if (l->link.inbound)
		welcome_on_lane(b, l);
	else
		carry_on_lane(b, l);
	return true;
}

static const char *why_over(const struct role_stats *s)
{
	return s->end == LANE_END_NOMEM ? "the porter is short of descriptors or memory" :
	       s->end == LANE_END_CLIENT ? "the client left" : "the lane ended before both sides had taken it";
}

static void over(struct broker *b, struct lane *l, const struct role_stats *s)
{
	l->link.lent_over = true;
	if (l->link.welcome)
		welcome_on_not_lent(b, l, s);
	else if (l->link.opening && !l->cut)
		carry_on_client_left(b, l, why_over(s));
	else if (l->cut)
		tell_linker(b, l);
}

bool lend_on_closed(struct broker *b, const struct role_stats *s)
{
	struct lane *l = lend_find(s->lane_id);

	if (l)
		over(b, l, s);
	return l != NULL;
}

void lend_on_porter_lost(struct broker *b)
{
	const struct role_stats none = { .end = LANE_END_NOMEM };
	struct lane *l, *tmp;

	HASH_ITER(hh_lent, g_lent, l, tmp)
		if (!l->link.lent_over)
			over(b, l, &none);
}
