/*
 * Theory of operation: what a user changes at run time. A run-time intention is written to the state database first (so a
 * crash after the answer forgets nothing), then into the policy, then every route and every open lane is decided again: a
 * lane that is no longer allowed is cut before the answer goes out, or within the warden's next turn for direct ones.
 *
 * Before it: broker_admin.c. After it: broker_model.c, broker_lane.c.
 */
#include "daemon/broker_int.h"

#include <stdio.h>

static void log_change(const char *event, const struct intention *i)
{
	char src[LIMIT_SERVICE_SIZE], dst[LIMIT_SERVICE_SIZE];

	log_info(event, LOG_STR("source", service_pattern_format(src, &i->source)),
		 LOG_STR("destination", service_pattern_format(dst, &i->destination)),
		 LOG_STR("action", i->action == INTENTION_ALLOW ? "allow" : "deny"), LOG_BOOL("strict", i->strict),
		 LOG_STR("where", i->where));
}

void broker_intention_set(struct broker *b, const struct intention *i, broker_done_fn done, void *arg)
{
	struct intention mine = *i;
	const struct intention *other = NULL;
	int r;

	mine.origin = INTENTION_FROM_RUNTIME;
	r = state_put_intention(b->state, &mine);
	if (r < 0) {
		done(arg, r, "the state database could not be written; nothing was changed");
		return;
	}
	r = policy_remove(b->policy, &mine.source, &mine.destination, INTENTION_FROM_RUNTIME);
	if (r == 0 || r == -ENOENT)
		r = policy_add(b->policy, &mine, &other);
	if (r != 0 && state_delete_intention(b->state, &mine.source, &mine.destination) < 0)
		log_error("state.failed", LOG_STR("why", "an intention that was refused stays in the state database"));
	if (r == 0)
		log_change("intention.set", &mine);
	model_refresh(b);
	done(arg, r == POLICY_E_FULL ? -ENOSPC : r, r == POLICY_E_FULL ? "too many intentions" : r ? "no memory" : "");
}

void broker_intention_remove(struct broker *b, const struct service_pattern *source,
			     const struct service_pattern *destination, broker_done_fn done, void *arg)
{
	const struct intention *i = policy_find(b->policy, source, destination, INTENTION_FROM_RUNTIME);
	const struct intention *file = policy_find(b->policy, source, destination, INTENTION_FROM_FILE);
	char why[LIMIT_PATH_SIZE + 128] = "no intention for this pair";
	int r;

	if (!i) {
		if (file)
			snprintf(why, sizeof(why), "this intention stands in %s; change the file and `sealane reload`, or overrule it with `sealane intention allow|deny`",
				 file->where);
		done(arg, file ? -EPERM : -ENOENT, why);
		return;
	}
	r = state_delete_intention(b->state, source, destination);
	if (r < 0 && r != -ENOENT) {
		done(arg, r, "the state database could not be written; nothing was changed");
		return;
	}
	log_change("intention.remove", i);
	r = policy_remove(b->policy, source, destination, INTENTION_FROM_RUNTIME);
	model_refresh(b);
	done(arg, r, r ? "no intention for this pair" : "");
}

void broker_drain(struct broker *b, const char *workload, bool on, broker_done_fn done, void *arg)
{
	struct workload *w = model_find_workload(b, workload);

	if (!w) {
		done(arg, -ENOENT, "no workload of this name; see `sealane ls workloads`");
		return;
	}
	w->draining = on;
	log_info(on ? "workload.drain" : "workload.undrain", LOG_STR("workload", w->name));
	model_refresh(b);
	done(arg, 0, "");
}
