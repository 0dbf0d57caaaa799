/*
 * Intentions: who may talk to whom.
 *
 * One question, policy_decide(): which intention decides for source -> destination? The most specific one: first by the
 * destination (exact, then ns/ *, then *), then by the source. So at most nine places have to be looked at, whatever the
 * number of intentions, and two intentions can tie only if they name the same pair, which policy_add() refuses.
 * No intention: denied (default deny).
 *
 * Expiry: an intention past its `expires_unix_s` is as if it were not there.
 * No I/O, no clock, no locks: one thread at a time. This is the code to read to know what sealane enforces.
 */
#ifndef CORE_POLICY_H
#define CORE_POLICY_H

#include "core/name.h"

enum intention_action { INTENTION_DENY, INTENTION_ALLOW };

/*
 * Where it was said: a file of this host, the cluster's catalogue (docs/design/catalogue.md), or at run time on this host. For the
 * same pair the later one of these wins; the broker tells of such conflicts.
 */
enum intention_origin { INTENTION_FROM_FILE, INTENTION_FROM_CLUSTER, INTENTION_FROM_RUNTIME };

struct intention_limits {
	uint32_t open_lanes;	      /* at the same time, over all workloads of the source; 0: no limit */
	uint32_t connections_per_s;   /* 0: no limit */
	uint64_t bytes_per_s;	      /* both directions of one lane together; 0: no limit. Demands the relay */
};

struct intention {
	struct service_pattern source, destination;
	enum intention_action action;
	enum intention_origin origin;
	bool strict; /* never the direct path: the daemon checks and sees every connection and can count every byte */
	struct intention_limits limits;
	int64_t expires_unix_s; /* 0: never */
	char where[LIMIT_PATH_SIZE]; /* "/etc/sealane/sealane.conf:12", "runtime 2026-01-02T03:04:05Z by uid 0" */
};

struct policy;

/* policy_new() - an empty policy (everything denied). Return: 0 or -ENOMEM. Owned by the caller, policy_free(). */
MUST_CHECK int policy_new(struct policy **ret_p);
struct policy *policy_free(struct policy *p);

enum { POLICY_E_TIE = 1, POLICY_E_FULL = 2 };

/*
 * policy_add() - copy @i in. An intention that has expired still holds its place.
 * Return: 0; POLICY_E_TIE: this pair has an intention of the same origin already (*ret_other, borrowed);
 *         POLICY_E_FULL: LIMIT_INTENTIONS reached; -ENOMEM.
 */
MUST_CHECK int policy_add(struct policy *p, const struct intention *i, const struct intention **ret_other);

/* policy_remove() - take the pair's intention of this origin out. Return: 0 or -ENOENT. */
MUST_CHECK int policy_remove(struct policy *p, const struct service_pattern *source,
			     const struct service_pattern *destination, enum intention_origin origin);

/* policy_find() - the pair's own intention of this origin, or NULL. Borrowed until the next change. */
const struct intention *policy_find(const struct policy *p, const struct service_pattern *source,
				    const struct service_pattern *destination, enum intention_origin origin);

/*
 * policy_decide() - the deciding intention, or NULL (default deny). Borrowed until the next change of @p.
 * Constant time: at most 27 hash look-ups, no allocation.
 */
const struct intention *policy_decide(const struct policy *p, const struct service_name *source,
				      const struct service_name *destination, int64_t now_unix_s);

/* policy_next_expiry() - the earliest expiry later than @now_unix_s, 0 if there is none. For the caller's timer. */
int64_t policy_next_expiry(const struct policy *p, int64_t now_unix_s);

/*
 * policy_each() - call @fn for each intention in the order in which policy_decide() asks: by destination, then source, the
 * most specific first, then by name. @fn must not change @p. Stops at non-zero, returns it; -ENOMEM.
 */
int policy_each(const struct policy *p, int (*fn)(void *arg, const struct intention *i), void *arg);

size_t policy_count(const struct policy *p);

#endif
