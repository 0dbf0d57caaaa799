/*
 * Theory of operation
 *
 * Services with their upstreams and checks, in two steps: config_collect_service() takes the names of all files into a table,
 * so that later passes can look names up wherever they stand; config_read_services() then reads each block. Consul's names
 * for the same things are further tables of keys (config_consul.c) that end in the setters here, so both forms may be mixed
 * and mean the same.
 *
 * What must hold afterwards: names are unique, every path is normal and in its bounds (config_value.c), no two sockets of the
 * host and no two files of one workload's directory have the same path (config_check_paths(), after the workloads are known).
 */
#include "conf/config_priv.h"

#include <stdio.h>

enum { CHECK_ARGS_SIZE = 1024 }; /* what one role message carries, see struct role_check */

static const char in_serve[] = "/run/sealane/serve/", in_dir[] = "/run/sealane/";

/* --- names --- */

static int service_namespace(struct loader *l, const struct conf_node *body, const char **ret)
{
	const struct conf_node *n = body ? config_find_key(body, "namespace") : NULL;
	int r;

	*ret = l->config->namespace_;
	if (!n || n->kind == CONF_NULL)
		return 0;
	r = config_read_text(l, n, "a namespace", ret);
	if (r == 0 && !label_is_valid(*ret))
		r = config_bad_value(l, n, "a namespace of a-z, 0-9 and '-', at most 63");
	return r;
}

int config_collect_service(struct loader *l, void *obj, const struct config_item *item)
{
	struct config *c = l->config;
	struct config_service *s;
	const char *ns;
	int r = service_namespace(l, item->body, &ns);

	if (r == 0)
		r = config_grow(&c->services, &l->cap_services, c->n_services, sizeof(*c->services));
	if (r == 0)
		r = config_grow(&l->services, &l->cap_service_drafts, c->n_services, sizeof(*l->services));
	if (r < 0)
		return r;
	if (c->n_services >= LIMIT_SERVICES)
		return conf_fail(l->error, item->at, "found more than %d services", LIMIT_SERVICES);
	s = &c->services[c->n_services];
	*s = (struct config_service){ .workload = CONFIG_NONE,
				      .access = { -1, -1, -1 },
				      .check = { .interval_s = 10, .timeout_s = 1 },
				      .file = item->at->file,
				      .line = item->at->line };
	if (service_name_parse(&s->name, item->name, ns) < 0)
		return conf_fail(l->error, item->at,
				 "found the name \"%.140s\", expected NAME or NAMESPACE/NAME of a-z, 0-9 and '-', at most 63 each",
				 item->name);
	l->services[c->n_services++] = (struct service_draft){ .body = item->body, .at = item->at };
	return 0;
}

/* --- values of a service --- */

static struct config_service *reading(struct loader *l, const void *obj)
{
	return &l->config->services[((const struct service_reading *)obj)->i];
}

static struct service_draft *draft(struct loader *l, const void *obj)
{
	return &l->services[((const struct service_reading *)obj)->i];
}

static int set_workload(struct loader *l, void *obj, const struct conf_node *n)
{
	draft(l, obj)->workload = n;
	return 0;
}

static int set_socket_path(struct loader *l, void *obj, const struct conf_node *n)
{
	draft(l, obj)->path = n;
	return config_read_socket_path(l, n, in_serve, NULL, &reading(l, obj)->socket_path);
}

static int set_offer(struct loader *l, void *obj, const struct conf_node *n)
{
	draft(l, obj)->offer = n;
	return config_read_bool(l, n, &draft(l, obj)->offer_value);
}

static int set_mode(struct loader *l, void *obj, const struct conf_node *n)
{
	draft(l, obj)->access = n;
	return config_read_mode(l, n, &reading(l, obj)->access.mode);
}

static int set_owner(struct loader *l, void *obj, const struct conf_node *n)
{
	draft(l, obj)->access = n;
	return config_read_user(l, n, &reading(l, obj)->access.uid);
}

static int set_group(struct loader *l, void *obj, const struct conf_node *n)
{
	draft(l, obj)->access = n;
	return config_read_group(l, n, &reading(l, obj)->access.gid);
}

/* --- checks --- */

static int check_set_socket(struct loader *l, void *obj, const struct conf_node *n)
{
	return config_read_bool(l, n, &reading(l, obj)->check.socket);
}

static int check_set_args(struct loader *l, void *obj, const struct conf_node *n)
{
	struct config_check *check = &reading(l, obj)->check;
	size_t n_args = 0, size = 0;

	if (n->kind != CONF_ARRAY || !n->first)
		return config_bad_value(l, n, "a list of words such as [ \"/usr/bin/redis-cli\", \"PING\" ]");
	for (const struct conf_node *a = n->first; a; a = a->next) {
		int r;

		if (n_args >= LIMIT_CHECK_ARGS)
			return conf_fail(l->error, n, "found more than %d words, expected a shorter command: call a script",
					 LIMIT_CHECK_ARGS);
		if (a->kind != CONF_STRING && a->kind != CONF_NUMBER)
			return config_bad_value(l, a, "a word of the command");
		check->args[n_args] = strdup(a->string);
		if (!check->args[n_args])
			return -ENOMEM;
		size += strlen(a->string) + 1;
		if (size > CHECK_ARGS_SIZE)
			return conf_fail(l->error, n, "found a command of more than %d bytes, expected a shorter one: call a script",
					 CHECK_ARGS_SIZE - 1);
		r = n_args++ ? 0 : config_check_absolute(l, a, a->string);
		if (r < 0)
			return r;
	}
	return 0;
}

static int check_set_interval(struct loader *l, void *obj, const struct conf_node *n)
{
	return config_read_duration(l, n, 0.1, 86400, &reading(l, obj)->check.interval_s);
}

static int check_set_timeout(struct loader *l, void *obj, const struct conf_node *n)
{
	return config_read_duration(l, n, 0.01, 3600, &reading(l, obj)->check.timeout_s);
}

static const struct config_key check_keys[] = {
	{ "socket", check_set_socket, NULL, false },
	{ "args", check_set_args, NULL, false },
	{ "interval", check_set_interval, NULL, false },
	{ "timeout", check_set_timeout, NULL, false },
};

static int read_check(struct loader *l, void *obj, const struct conf_node *n)
{
	const struct config_kind kind = { .what = "a check",
					  .tables = { CONFIG_TABLE(check_keys),
						      { config_consul_check_keys, config_consul_n_check_keys } } };
	struct config_check *check = &reading(l, obj)->check;
	struct service_draft *d = draft(l, obj);
	int r;

	if (check->present)
		return conf_fail(l->error, n, "found a second check, first in line %u; expected one a service", d->check->line);
	check->present = true;
	d->check = n;
	if (n->label)
		return conf_fail(l->error, n, "found the label '%.60s', expected no label here", n->label);
	r = config_read_block(l, &kind, n, obj);
	if (r < 0)
		return r;
	if (check->socket == (check->args[0] != NULL))
		return conf_fail(l->error, n, "found %s, expected either socket = true or args = [ ... ]",
				 check->socket ? "both a socket and a command" : "neither a socket nor a command");
	return 0;
}

/* `check { ... }`, and Consul's `checks = [ { ... } ]`. */
static int set_check(struct loader *l, void *obj, const struct conf_node *n)
{
	int r = 0;

	config_each_element(e, n)
		if (r == 0)
			r = read_check(l, obj, e);
	return r;
}

/* --- upstreams --- */

int config_set_upstream_path(struct loader *l, void *obj, const struct conf_node *n)
{
	struct upstream_reading *u = obj;

	if (u->path)
		return conf_fail(l->error, n, "the path was already given in line %u as '%s'", u->path->line, u->path->key);
	u->path = n;
	return config_read_socket_path(l, n, in_dir, "serve", &u->u.path);
}

int config_set_upstream_mode(struct loader *l, void *obj, const struct conf_node *n)
{
	struct upstream_reading *u = obj;

	if (u->mode)
		return conf_fail(l->error, n, "the mode was already given in line %u as '%s'", u->mode->line, u->mode->key);
	u->mode = n;
	return config_read_mode(l, n, &u->u.access.mode);
}

static int upstream_set_owner(struct loader *l, void *obj, const struct conf_node *n)
{
	return config_read_user(l, n, &((struct upstream_reading *)obj)->u.access.uid);
}

static int upstream_set_group(struct loader *l, void *obj, const struct conf_node *n)
{
	return config_read_group(l, n, &((struct upstream_reading *)obj)->u.access.gid);
}

static const struct config_key upstream_keys[] = {
	{ "name", NULL, NULL, false },
	{ "path", config_set_upstream_path, NULL, false },
	{ "mode", config_set_upstream_mode, NULL, false },
	{ "owner", upstream_set_owner, NULL, false },
	{ "group", upstream_set_group, NULL, false },
};

static struct config_kind upstream_kind(void)
{
	return (struct config_kind){ .what = "an upstream",
				     .tables = { CONFIG_TABLE(upstream_keys),
						 { config_consul_upstream_keys, config_consul_n_upstream_keys } },
				     .name_keys = { "name", "destination_name" },
				     .name_only = true };
}

/* Whom it leads to: a bare name is in the namespace of the service that asks, as in Consul. */
static int upstream_destination(struct loader *l, struct upstream_reading *u, const struct config_item *item)
{
	const struct conf_node *n = item->body ? config_find_key(item->body, "destination_namespace") : NULL;
	const char *ns = l->config->services[u->u.source].name.ns;
	int r = 0;

	if (n && n->kind != CONF_NULL)
		r = config_read_text(l, n, "a namespace", &ns);
	if (r < 0)
		return r;
	if (service_name_parse(&u->u.destination, item->name, ns) < 0)
		return conf_fail(l->error, item->at,
				 "found \"%.140s\" in namespace \"%.70s\", expected the NAME or NAMESPACE/NAME of a service (a-z, 0-9 and '-')",
				 item->name, ns);
	return 0;
}

static int upstream_default_path(struct config_upstream *u)
{
	if (!u->path && asprintf(&u->path, "%s.sock", u->destination.name) < 0) {
		u->path = NULL;
		return -ENOMEM;
	}
	return 0;
}

static int read_upstream(struct loader *l, void *obj, const struct config_item *item)
{
	struct config *c = l->config;
	struct config_kind kind = upstream_kind();
	struct upstream_reading u = { .u = { .source = ((struct service_reading *)obj)->i,
					     .access = { -1, -1, -1 },
					     .file = item->at->file,
					     .line = item->at->line } };
	int r = upstream_destination(l, &u, item);

	if (r == 0 && c->n_upstreams >= LIMIT_UPSTREAMS)
		r = conf_fail(l->error, item->at, "found more than %d upstreams", LIMIT_UPSTREAMS);
	if (r == 0)
		r = config_grow(&c->upstreams, &l->cap_upstreams, c->n_upstreams, sizeof(*c->upstreams));
	if (r == 0)
		r = config_grow(&l->upstreams, &l->cap_upstream_nodes, c->n_upstreams, sizeof(*l->upstreams));
	if (r == 0 && item->body)
		r = config_read_block(l, &kind, item->body, &u);
	if (r == 0)
		r = upstream_default_path(&u.u);
	if (r < 0) {
		free(u.u.path);
		return r;
	}
	l->upstreams[c->n_upstreams] = u.path ? u.path : item->at;
	c->upstreams[c->n_upstreams++] = u.u;
	return 0;
}

int config_set_upstreams(struct loader *l, void *obj, const struct conf_node *n)
{
	struct config_kind kind = upstream_kind();

	return config_read_items(l, &kind, n, read_upstream, obj);
}

/* --- services --- */

static const struct config_key service_keys[] = {
	{ "name", NULL, NULL, false },
	{ "namespace", NULL, NULL, false }, /* read before, by service_namespace() */
	{ "workload", set_workload, NULL, false },
	{ "socket_path", set_socket_path, NULL, false },
	{ "offer", set_offer, NULL, false },
	{ "mode", set_mode, NULL, false },
	{ "owner", set_owner, NULL, false },
	{ "group", set_group, NULL, false },
	{ "check", set_check, NULL, false },
	{ "checks", set_check, NULL, false },
	{ "upstream", config_set_upstreams, NULL, true },
	{ "upstreams", config_set_upstreams, NULL, true },
};

struct config_kind config_service_kind(void)
{
	return (struct config_kind){ .what = "a service",
				     .tables = { CONFIG_TABLE(service_keys),
						 { config_consul_service_keys, config_consul_n_service_keys } },
				     .name_keys = { "name" } };
}

/* Is it offered, and where? What only an offered service can have must not be said in vain. */
static int finish_service(struct loader *l, size_t i, bool has_upstreams)
{
	struct config_service *s = &l->config->services[i];
	struct service_draft *d = &l->services[i];
	const struct conf_node *vain = d->access;

	s->takes_lanes = !d->offer || d->offer_value;
	s->offered = d->offer ? d->offer_value : d->path || !has_upstreams;
	if (s->offered) {
		if (!s->socket_path && asprintf(&s->socket_path, "%s.sock", s->name.name) < 0) {
			s->socket_path = NULL;
			return -ENOMEM;
		}
		if (s->socket_path[0] != '/' && s->access.mode < 0)
			s->access.mode = 0666; /* who may connect is decided by intentions, not by the server's umask */
		return 0;
	}
	if (d->path)
		vain = d->path;
	else if (s->check.socket)
		vain = d->check;
	if (vain)
		return conf_fail(l->error, vain, "found in a service that nobody can connect to, expected socket_path or offer = true");
	return 0;
}

int config_read_services(struct loader *l)
{
	struct config_kind kind = config_service_kind();
	struct config *c = l->config;
	int r = 0;

	for (size_t i = 0; i < c->n_services && r == 0; i++) {
		struct service_reading reading = { .i = i };
		size_t n_before = c->n_upstreams;

		if (l->services[i].body)
			r = config_read_block(l, &kind, l->services[i].body, &reading);
		if (r == 0)
			r = finish_service(l, i, c->n_upstreams > n_before);
	}
	return r;
}
