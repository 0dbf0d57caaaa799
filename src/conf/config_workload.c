/*
 * Theory of operation
 *
 * Which workload speaks as which services. Afterwards every service has exactly one workload and every workload at least one
 * service. The order decides who wins, so it is fixed, whatever the order in the files:
 *
 *   1. `workload x { services = [ a, b ] }` takes a and b;
 *   2. `workload x {}` without a list takes the service x of the default namespace, if nobody has it;
 *   3. a service that is still without one, and names none, gets a workload made from its own name (NAMESPACE-NAME outside
 *      the default namespace);
 *   4. `service a { workload = x }` joins x, which by now exists or is an error.
 *
 * A service that two would take is an error: a container must not speak for another by an accident of the file.
 */
#include "conf/config_priv.h"

#include <stdio.h>

enum { LABEL_SIZE = 256 }; /* struct broker_enrolment carries as much */

int config_collect_workload(struct loader *l, void *obj, const struct config_item *item)
{
	struct config *c = l->config;
	struct config_workload *w;
	int r = config_grow(&c->workloads, &l->cap_workloads, c->n_workloads, sizeof(*c->workloads));

	if (r == 0)
		r = config_grow(&l->workloads, &l->cap_workload_drafts, c->n_workloads, sizeof(*l->workloads));
	if (r < 0)
		return r;
	if (c->n_workloads >= LIMIT_WORKLOADS)
		return conf_fail(l->error, item->at, "found more than %d workloads", LIMIT_WORKLOADS);
	if (!label_is_valid(item->name))
		return conf_fail(l->error, item->at, "found the name \"%.70s\", expected a-z, 0-9 and '-', at most 63", item->name);
	w = &c->workloads[c->n_workloads];
	*w = (struct config_workload){ .file = item->at->file, .line = item->at->line };
	memcpy(w->name, item->name, strlen(item->name) + 1);
	l->workloads[c->n_workloads++] = (struct workload_draft){ .body = item->body, .at = item->at };
	return 0;
}

/* --- values of a workload; @obj: its index --- */

static int set_services(struct loader *l, void *obj, const struct conf_node *n)
{
	l->workloads[*(size_t *)obj].services = n;
	return 0;
}

static int set_cgroup(struct loader *l, void *obj, const struct conf_node *n)
{
	struct config_match *m = &l->config->workloads[*(size_t *)obj].match;
	int r = config_read_copy(l, n, "the path of a cgroup such as \"/machine/web\"", &m->cgroup);

	return r < 0 ? r : config_check_absolute(l, n, m->cgroup);
}

static int set_container(struct loader *l, void *obj, const struct conf_node *n)
{
	struct config_match *m = &l->config->workloads[*(size_t *)obj].match;
	int r = config_read_copy(l, n, "a container's id", &m->container);
	size_t len;

	if (r < 0)
		return r;
	len = strlen(m->container);
	if (len < 12 || len > 64 || strspn(m->container, "0123456789abcdef") != len)
		return config_bad_value(l, n, "a container's id of 12 to 64 digits 0-9 and a-f");
	return 0;
}

static int set_label(struct loader *l, void *obj, const struct conf_node *n)
{
	struct config_match *m = &l->config->workloads[*(size_t *)obj].match;
	int r = config_read_copy(l, n, "a label such as \"app=web\"", &m->label);
	const char *sign;

	if (r < 0)
		return r;
	sign = strchr(m->label, '=');
	if (!sign || sign == m->label || strlen(m->label) >= LABEL_SIZE)
		return config_bad_value(l, n, "a label \"KEY=VALUE\" of at most %d bytes", LABEL_SIZE - 1);
	return 0;
}

static const struct config_key workload_keys[] = {
	{ "name", NULL, NULL, false },
	{ "services", set_services, NULL, false },
	{ "service", set_services, NULL, false },
	{ "cgroup", set_cgroup, NULL, false },
	{ "container", set_container, NULL, false },
	{ "label", set_label, NULL, false },
};
const struct config_kind config_workload_kind = { .what = "a workload",
						  .tables = { CONFIG_TABLE(workload_keys) },
						  .name_keys = { "name" } };

static int read_body(struct loader *l, size_t i)
{
	const struct conf_node *body = l->workloads[i].body;
	const struct config_match *m = &l->config->workloads[i].match;
	int r = config_read_block(l, &config_workload_kind, body, &i);

	if (r == 0 && !!m->cgroup + !!m->container + !!m->label > 1)
		r = conf_fail(l->error, body, "found more than one of cgroup, container and label, expected one of them");
	return r;
}

/* --- services into workloads --- */

/* @at: where it was said that the service belongs here. */
static int place(struct loader *l, size_t service, size_t workload, const struct conf_node *at)
{
	struct config_service *s = &l->config->services[service];
	struct config_workload *w = &l->config->workloads[workload];
	char name[LIMIT_SERVICE_SIZE];

	if (l->services[service].placed) {
		const struct config_workload *other = &l->config->workloads[s->workload];

		if (s->workload == workload)
			return conf_fail(l->error, at, "service '%s' is in workload '%s' already",
					 service_name_format(name, &s->name), w->name);
		return conf_fail(l->error, at, "service '%s' is in workload '%s' (%.200s:%u) and cannot also be in '%s'",
				 service_name_format(name, &s->name), other->name, other->file, other->line, w->name);
	}
	if (w->n_services >= LIMIT_WORKLOAD_SERVICES)
		return conf_fail(l->error, at, "found more than %d services in workload '%s'", LIMIT_WORKLOAD_SERVICES, w->name);
	w->services[w->n_services++] = service;
	w->offers |= s->offered && s->socket_path[0] != '/';
	s->workload = workload;
	l->services[service].placed = true;
	return 0;
}

static int fail_unknown_service(struct loader *l, const struct conf_node *n, const char *name)
{
	struct config_guess g = { .wanted = name };
	char text[160];

	for (size_t i = 0; i < l->config->n_services; i++)
		config_guess_add(&g, l->config->services[i].name.name);
	return conf_fail(l->error, n, "found \"%.140s\", expected the name of a service in these files%s", name,
			 config_guess_text(&g, text));
}

static int place_listed(struct loader *l, size_t workload)
{
	const struct conf_node *list = l->workloads[workload].services;
	int r = 0;

	config_each_element(n, list) {
		struct service_name name;
		const char *text = "";
		size_t i;

		r = config_read_text(l, n, "the name of a service", &text);
		if (r < 0)
			return r;
		r = service_name_parse(&name, text, l->config->namespace_);
		i = r < 0 ? CONFIG_NONE : config_find_service(l->config, &name);
		if (i == CONFIG_NONE)
			return fail_unknown_service(l, n, text);
		if (l->services[i].workload && strcmp(l->services[i].workload->string ? l->services[i].workload->string : "",
						      l->config->workloads[workload].name) != 0)
			return conf_fail(l->error, n, "service '%.70s' names another workload at %.200s:%u", text,
					 l->services[i].workload->file, l->services[i].workload->line);
		r = place(l, i, workload, n);
		if (r < 0)
			return r;
	}
	return r;
}

static int place_namesake(struct loader *l, size_t workload)
{
	struct service_name name = { 0 };
	size_t i;

	memcpy(name.ns, l->config->namespace_, sizeof(name.ns));
	memcpy(name.name, l->config->workloads[workload].name, sizeof(name.name));
	i = config_find_service(l->config, &name);
	if (i == CONFIG_NONE || l->services[i].placed || l->services[i].workload)
		return 0;
	return place(l, i, workload, l->workloads[workload].at);
}

/* The workload of a service that has none: its name, and its namespace if that is not the default one. */
static int make_own(struct loader *l, size_t service)
{
	const struct config_service *s = &l->config->services[service];
	bool is_default = strcmp(s->name.ns, l->config->namespace_) == 0;
	char name[LIMIT_SERVICE_SIZE];
	struct config_item item = { .name = name, .at = l->services[service].at };
	size_t block;
	int r;

	snprintf(name, sizeof(name), "%s%s%s", is_default ? "" : s->name.ns, is_default ? "" : "-", s->name.name);
	if (!label_is_valid(name))
		return conf_fail(l->error, item.at, "\"%s\" is too long for a workload's name, expected workload NAME { services = [ %s/%s ] }",
				 name, s->name.ns, s->name.name);
	block = config_find_workload(l->config, name);
	if (block != CONFIG_NONE)
		return conf_fail(l->error, item.at,
				 "this service has no workload, and workload '%s' (%.200s:%u) does not list it; expected it in some workload's services",
				 name, l->config->workloads[block].file, l->config->workloads[block].line);
	r = config_collect_workload(l, NULL, &item);
	return r < 0 ? r : place(l, service, l->config->n_workloads - 1, item.at);
}

static int join(struct loader *l, size_t service)
{
	const struct conf_node *n = l->services[service].workload;
	struct config_guess g = { 0 };
	char text[160];
	size_t i;
	int r = config_read_text(l, n, "the name of a workload", &g.wanted);

	if (r < 0)
		return r;
	i = config_find_workload(l->config, g.wanted);
	if (i != CONFIG_NONE)
		return place(l, service, i, n);
	for (i = 0; i < l->config->n_workloads; i++)
		config_guess_add(&g, l->config->workloads[i].name);
	return conf_fail(l->error, n, "found \"%.70s\", expected the name of a workload in these files%s", g.wanted,
			 config_guess_text(&g, text));
}

/* --- names --- */

static int compare_name(const void *a, const void *b, void *arg)
{
	const struct config *c = arg;
	size_t ia = *(const size_t *)a, ib = *(const size_t *)b;
	int r = strcmp(c->workloads[ia].name, c->workloads[ib].name);

	return r ? r : (ia > ib) - (ia < ib);
}

/* In order of name, so that config_find_workload() works from here on. */
static int sort_names(struct loader *l)
{
	struct config *c = l->config;
	size_t *order = reallocarray(c->workloads_by_name, c->n_workloads + 1, sizeof(*order));

	if (!order)
		return -ENOMEM;
	c->workloads_by_name = order;
	c->n_workloads_by_name = c->n_workloads;
	for (size_t i = 0; i < c->n_workloads; i++)
		order[i] = i;
	qsort_r(order, c->n_workloads, sizeof(*order), compare_name, c);
	for (size_t i = 1; i < c->n_workloads; i++) {
		const struct config_workload *first = &c->workloads[order[i - 1]];

		if (strcmp(first->name, c->workloads[order[i]].name) == 0)
			return conf_fail(l->error, l->workloads[order[i]].at,
					 "workload '%s' is defined twice, first at %.200s:%u; expected one block, or another name",
					 first->name, first->file, first->line);
	}
	return 0;
}

static int place_all(struct loader *l)
{
	size_t n_blocks = l->config->n_workloads;
	int r = 0;

	for (size_t i = 0; i < n_blocks && r == 0; i++)
		if (l->workloads[i].services)
			r = place_listed(l, i);
	for (size_t i = 0; i < n_blocks && r == 0; i++)
		if (!l->workloads[i].services)
			r = place_namesake(l, i);
	for (size_t i = 0; i < l->config->n_services && r == 0; i++)
		if (!l->services[i].placed && !l->services[i].workload)
			r = make_own(l, i);
	if (r == 0)
		r = sort_names(l);
	for (size_t i = 0; i < l->config->n_services && r == 0; i++)
		if (!l->services[i].placed)
			r = join(l, i);
	return r;
}

int config_read_workloads(struct loader *l)
{
	int r = sort_names(l);

	for (size_t i = 0; i < l->config->n_workloads && r == 0; i++)
		r = read_body(l, i);
	if (r == 0)
		r = place_all(l);
	for (size_t i = 0; i < l->config->n_workloads && r == 0; i++)
		if (l->config->workloads[i].n_services == 0)
			r = conf_fail(l->error, l->workloads[i].at,
				      "workload '%s' has no services, expected services = [ ... ] or a service of its name",
				      l->config->workloads[i].name);
	return r;
}
