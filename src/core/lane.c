/*
 * Theory of operation: a list of questions, asked in order; the first one with an answer decides and its literal is the
 * reason that logs and `sealane explain` print. First what forbids the lane, then what sends it to another host, then what
 * demands the relay; what is left goes direct, since that is the fastest way.
 *
 * Before this file: core/policy.c (which intention decides). After it: daemon/broker_lane.c (does it).
 * Must never: choose ROUTE_DIRECT for an intention whose limits only the relay can hold.
 */
#include "core/lane.h"

static const char *why_refused(const struct intention *i, const struct route_facts *f)
{
	if (!i)
		return "no intention allows it (default deny)";
	if (i->action != INTENTION_ALLOW)
		return "an intention denies it";
	if (f->draining)
		return "allowed, but the workload is being drained";
	if (f->elsewhere != ELSEWHERE_NONE)
		return NULL;
	if (f->server_known && f->server_draining)
		return "allowed, but the service is being drained";
	if (!f->server_known)
		return "no service of this name on this host, nor on another one that is known";
	return NULL;
}

/* The nearest server that is up; if none is, the one here is waited for, and if there is none here, any. */
static const char *why_linked(const struct route_facts *f)
{
	bool here = f->server_known && !f->server_draining;

	if (f->elsewhere == ELSEWHERE_UP && !here)
		return "allowed; another host has the service";
	if (f->elsewhere == ELSEWHERE_UP && !f->server_up)
		return "allowed; the server on this host is not up, and another host's is";
	if (f->elsewhere == ELSEWHERE_MAYBE && !here)
		return "allowed; no other host has the service up now, so the gate holds the client while it waits for one";
	return NULL;
}

static const char *why_relayed(const struct intention *i, const struct route_facts *f)
{
	if (f->direct_disabled)
		return "allowed; the configuration turns the direct path off";
	if (i->strict)
		return "allowed; the intention is strict, which demands the relay";
	if (i->limits.bytes_per_s)
		return "allowed; the intention limits bytes per second, which only the relay can count";
	if (i->limits.open_lanes)
		return "allowed; the intention limits open lanes, which only the relay can count";
	if (i->limits.connections_per_s)
		return "allowed; the intention limits connections per second, which only the relay can count";
	if (f->mode_wanted)
		return "allowed; the upstream wants a mode or owner that the server's socket does not have";
	if (!f->server_up)
		return "allowed; the relay holds the client while it waits for the server";
	if (!f->linkable)
		return "allowed; the server's socket lies on another file system and cannot be linked";
	return NULL;
}

struct route_choice route_choose(const struct intention *intention, const struct route_facts *facts)
{
	struct route_choice c = { .route = ROUTE_REFUSE, .intention = intention };

	c.why = why_refused(intention, facts);
	if (c.why)
		return c;
	c.route = ROUTE_LINK;
	c.why = why_linked(facts);
	if (c.why)
		return c;
	c.route = ROUTE_RELAY;
	c.why = why_relayed(intention, facts);
	if (c.why)
		return c;
	c.route = ROUTE_DIRECT;
	c.why = "allowed, and the server's socket can be linked";
	return c;
}

const char *route_name(enum route r)
{
	static const char *const names[] = {
		[ROUTE_REFUSE] = "refuse",
		[ROUTE_RELAY] = "relay",
		[ROUTE_DIRECT] = "direct",
		[ROUTE_LINK] = "link",
	};
	static_assert(ARRAY_SIZE(names) == ROUTE_N, "a name for each route");

	return (unsigned)r < ROUTE_N ? names[r] : "unknown";
}

int lane_quota_admit(struct lane_quota *q, const struct intention_limits *limits, uint64_t now_ns)
{
	uint64_t rate = limits->connections_per_s;

	if (limits->open_lanes && q->n_open >= limits->open_lanes)
		return QUOTA_E_OPEN_LANES;
	/*
	 * A whole second's worth may come at once, since a connection over the rate is refused, not delayed: "5 a second"
	 * has to let five pass that come together.
	 */
	if (q->connections.rate_per_s != rate)
		bucket_set_rate(&q->connections, rate, rate, now_ns);
	if (bucket_available(&q->connections, now_ns) == 0)
		return QUOTA_E_CONNECTIONS;
	bucket_take(&q->connections, 1);
	q->n_open++;
	return 0;
}

void lane_quota_adopt(struct lane_quota *q)
{
	q->n_open++;
}

void lane_quota_release(struct lane_quota *q)
{
	assert(q->n_open > 0);
	q->n_open--;
}
