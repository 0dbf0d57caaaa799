/*
 * Theory of operation
 *
 * The last pass over the sockets: no two may claim one file, and none the daemon's own (control.sock in each workload's
 * directory). Three kinds of places are compared: a path on the host, a name in a workload's directory (upstreams), a name in
 * a workload's serve/ (offered services). Sorting finds the doubles, so that LIMIT_UPSTREAMS of them take milliseconds; the
 * one that stands later in the files is the one that is reported.
 */
#include "conf/config_priv.h"

struct place {
	size_t workload;  /* CONFIG_NONE: on the host */
	bool serve;
	const char *path;
	size_t order;	  /* in which they were read */
	const struct conf_node *at;
};

static int compare_place(const struct place *a, const struct place *b)
{
	if (a->workload != b->workload)
		return a->workload < b->workload ? -1 : 1;
	if (a->serve != b->serve)
		return a->serve ? 1 : -1;
	return strcmp(a->path, b->path);
}

static int compare(const void *pa, const void *pb)
{
	const struct place *a = pa, *b = pb;
	int r = compare_place(a, b);

	return r ? r : (a->order > b->order) - (a->order < b->order);
}

static struct place place_of(const struct config *c, size_t service, bool serve, const char *path,
			     const struct conf_node *at, size_t order)
{
	bool on_host = path[0] == '/';

	return (struct place){ .workload = on_host ? CONFIG_NONE : c->services[service].workload,
			       .serve = serve && !on_host,
			       .path = path,
			       .order = order,
			       .at = at };
}

static int check_own(struct loader *l)
{
	const struct config *c = l->config;

	for (size_t i = 0; i < c->n_upstreams; i++)
		if (strcmp(c->upstreams[i].path, "control.sock") == 0)
			return conf_fail(l->error, l->upstreams[i],
					 "the socket \"control.sock\" of workload %s is the daemon's own, where libsealane asks for lanes; expected another path: upstream %s { path = \"NAME.sock\" }",
					 c->workloads[c->services[c->upstreams[i].source].workload].name, c->upstreams[i].destination.name);
	return 0;
}

int config_check_paths(struct loader *l)
{
	const struct config *c = l->config;
	AUTO_FREE(struct place) places = calloc(c->n_services + c->n_upstreams + 1, sizeof(*places));
	const struct place *first = NULL, *second = NULL;
	size_t n = 0;

	if (!places)
		return -ENOMEM;
	if (check_own(l) < 0)
		return -EINVAL;
	for (size_t i = 0; i < c->n_services; i++)
		if (c->services[i].offered)
			places[n] = place_of(c, i, true, c->services[i].socket_path,
					     l->services[i].path ? l->services[i].path : l->services[i].at, n), n++;
	for (size_t i = 0; i < c->n_upstreams; i++, n++)
		places[n] = place_of(c, c->upstreams[i].source, false, c->upstreams[i].path, l->upstreams[i], n);
	qsort(places, n, sizeof(*places), compare);
	for (size_t i = 1; i < n; i++) {
		if (compare_place(&places[i - 1], &places[i]) == 0 && (!second || places[i].order < second->order)) {
			first = &places[i - 1];
			second = &places[i];
		}
	}
	if (!second)
		return 0;
	return conf_fail(l->error, second->at, "the socket \"%.200s\"%s%s is already claimed at %.200s:%u; expected another path",
			 second->path, second->workload == CONFIG_NONE ? "" : " of workload ",
			 second->workload == CONFIG_NONE ? "" : c->workloads[second->workload].name, first->at->file,
			 first->at->line);
}
