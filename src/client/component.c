/*
 * Theory of operation: a component is a part of one process, a plug-in or a thread with a task of its own, that has a protection
 * key. A lane between two components lies in memory as any lane does: each end has a mapping of its own of what it writes and one
 * of what it reads, and both carry the key of the end's component. A thread says which component it works for; the library opens
 * that component's ends to it and no other's. So what one component does by mistake meets at most its own ends, and those only
 * while it is inside a call.
 */
#include "client/guard.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>

static pthread_mutex_t g_lock = PTHREAD_MUTEX_INITIALIZER;
static struct sealane_component *g_all;

static struct sealane_component *find(const char *name)
{
	struct sealane_component *c = g_all;

	while (c && strcmp(c->domain.name, name) != 0)
		c = c->next;
	return c;
}

static int make(struct sealane_component **ret, const char *name)
{
	AUTO_FREE(struct sealane_component) c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	r = keys_domain_new(&c->domain, name, true);
	if (r < 0)
		return lane_fail(r, "no protection key for the component \"%s\": %s", name,
				 r == -ENOTSUP ? keys_state_text(keys_state()) : "all 15 are taken, or sealane_harden() was called before");
	c->next = g_all;
	g_all = c;
	*ret = take_ptr(c);
	return 0;
}

int sealane_component(struct sealane_component **ret, const char *name)
{
	struct sealane_component *c;
	int r = 0;

	if (!name[0] || strlen(name) >= sizeof(c->domain.name))
		return lane_fail(-EINVAL, "a component's name has 1 to %zu bytes, \"%s\" has %zu", sizeof(c->domain.name) - 1, name, strlen(name));
	pthread_mutex_lock(&g_lock);
	c = find(name);
	if (!c)
		r = make(&c, name);
	pthread_mutex_unlock(&g_lock);
	if (r == 0)
		*ret = c;
	return r;
}

int sealane_component_guarded(const struct sealane_component *component)
{
	return component->domain.key != 0;
}

void sealane_component_join(struct sealane_component *component)
{
	keys_join(component ? &component->domain : NULL);
}

bool component_any(void)
{
	bool any = false;

	pthread_mutex_lock(&g_lock);
	for (const struct sealane_component *c = g_all; c; c = c->next)
		any |= c->domain.key != 0;
	pthread_mutex_unlock(&g_lock);
	return any;
}

static const char *name_of(const struct sealane_component *c)
{
	return c ? c->domain.name : "self";
}

int sealane_pair(struct sealane_lane *ret[2], struct sealane_component *const components[2], const struct sealane_options *options)
{
	struct sealane_options o;
	struct control_identity who[2] = {};
	struct lane_parts parts[2] = {};
	int r = lane_options_read(&o, options);

	ret[0] = ret[1] = NULL;
	if (r == 0 && o.kind == SEALANE_FANOUT)
		r = lane_fail(-EINVAL, "a pair is of kind SEALANE_STREAM or SEALANE_MESSAGES: a fan-out has a call of its own");
	if (r < 0)
		return r;
	for (int i = 0; i < 2; i++) {
		const struct sealane_component *peer = components ? components[!i] : NULL;

		snprintf(who[i].service, sizeof(who[i].service), "%s", name_of(peer));
		parts[i] = (struct lane_parts){ .kind = o.kind, .wait = o.wait, .identity = &who[i], .path = "pair",
						.domain = components && components[i] ? &components[i]->domain : NULL };
	}
	r = lane_pair_parts(ret, parts, lane_options_cap_log2(&o));
	return r < 0 ? lane_fail(r, "no lane between \"%s\" and \"%s\": %s", who[1].service, who[0].service, sealane_strerror(r)) : 0;
}
