/*
 * Hostile configuration text, through the parser and the reader of its meaning. A NUL byte divides the input into files, so
 * that merging is exercised too. What was accepted must keep the promises of config.h, on which the broker relies blindly.
 */
#include "conf/config.h"

#include <stdio.h>

enum { FILES = 3 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int resolve(const char *name, int64_t *ret_id)
{
	if (strcmp(name, "redis") != 0)
		return -ENOENT;
	*ret_id = 999;
	return 0;
}

static void must(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "broken promise: %s\n", what);
		abort();
	}
}

static void check_access(const struct config_access *a)
{
	must(a->mode >= -1 && a->mode <= 0777, "a mode in range");
	must(a->uid >= -1 && a->uid < UINT32_MAX && a->gid >= -1 && a->gid < UINT32_MAX, "ids in range");
}

static void check_path(const char *path, size_t dir_size)
{
	must(path && *path && strlen(path) < LIMIT_PATH_SIZE, "a path in its bounds");
	if (path[0] != '/')
		must(!strchr(path, '/') && path[0] != '.' && dir_size + strlen(path) < 108, "a relative path is one name");
	must(!strstr(path, "/../") && !strstr(path, "//"), "a path is normal");
}

static void check_service(const struct config *c, size_t i)
{
	const struct config_service *s = &c->services[i];
	const struct config_workload *w;
	bool member = false;

	must(label_is_valid(s->name.ns) && label_is_valid(s->name.name), "a service's name is valid");
	must(config_find_service(c, &s->name) == i, "a service is found by its name");
	must(s->workload < c->n_workloads, "a service has a workload");
	w = &c->workloads[s->workload];
	for (size_t k = 0; k < w->n_services; k++)
		member |= w->services[k] == i;
	must(member, "a workload knows its services");
	if (s->offered)
		check_path(s->socket_path, sizeof("/run/sealane/serve/") - 1);
	must(!s->check.present || s->check.socket || (s->check.args[0] && s->check.args[0][0] == '/'), "a check does something");
	must(s->check.interval_s >= 0.1 && s->check.timeout_s >= 0.01, "a check's times are positive");
	check_access(&s->access);
}

static void check_workload(const struct config *c, size_t i)
{
	const struct config_workload *w = &c->workloads[i];

	must(label_is_valid(w->name), "a workload's name is valid");
	must(config_find_workload(c, w->name) == i, "a workload is found by its name");
	must(w->n_services > 0 && w->n_services <= LIMIT_WORKLOAD_SERVICES, "a workload has services");
	must(!!w->match.cgroup + !!w->match.container + !!w->match.label <= 1, "a workload is found in one way");
}

static void check_config(const struct config *c)
{
	must(trust_domain_is_valid(c->trust_domain) && label_is_valid(c->namespace_), "globals are valid");
	must(c->n_gates >= 1 && c->n_gates <= LIMIT_GATES, "a number of gates");
	must(c->restart_grace_s >= 0 && c->connect_wait_s >= 0 && c->cdi_dir, "globals have values");
	check_access(&c->admin);
	for (size_t i = 0; i < c->n_services; i++)
		check_service(c, i);
	for (size_t i = 0; i < c->n_workloads; i++)
		check_workload(c, i);
	for (size_t i = 0; i < c->n_upstreams; i++) {
		must(c->upstreams[i].source < c->n_services, "an upstream has a source");
		must(label_is_valid(c->upstreams[i].destination.name), "an upstream's name is valid");
		check_path(c->upstreams[i].path, sizeof("/run/sealane/") - 1);
		check_access(&c->upstreams[i].access);
	}
	for (size_t i = 0; i < c->n_intentions; i++) {
		must(c->intentions[i].origin == INTENTION_FROM_FILE && c->intentions[i].where[0], "an intention has an origin");
		must(c->intentions[i].expires_unix_s >= 0, "an expiry is a time");
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config_source sources[FILES] = { { "a.conf", (const char *)data, size } };
	struct config *c = NULL;
	struct conf_error e;
	size_t n = 1;
	int r;

	for (const uint8_t *end; n < FILES && (end = memchr(sources[n - 1].text, '\0', sources[n - 1].size)); n++) {
		size_t head = (size_t)((const char *)end - sources[n - 1].text);

		sources[n] = (struct config_source){ "b.conf", (const char *)end + 1, sources[n - 1].size - head - 1 };
		sources[n - 1].size = head;
	}
	config_set_resolver(resolve, resolve);
	r = config_load(&c, sources, n, &e);
	if (r == 0)
		check_config(c);
	else
		must(r == -EINVAL && e.text[0] && strlen(e.text) < sizeof(e.text), "a mistake is told");
	config_free(c);
	return 0;
}
