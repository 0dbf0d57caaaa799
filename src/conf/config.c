/*
 * Theory of operation
 *
 * From several files to one checked configuration, in passes over all of them, so that nothing depends on the order of files:
 *
 *   conf_tree_parse()      syntax, each file by itself (tree.c)
 *   globals                single keys and `admin`; the default namespace must be known before any name is read
 *   collect                names of services and workloads, places of intentions
 *   services               their values, upstreams and checks (config_service.c, config_consul.c)
 *   workloads              which of them speaks as which services (config_workload.c)
 *   hosts                  the other hosts, and what holds for links (config_link.c); etcd (config_etcd.c)
 *   paths                  no socket twice (config_path.c)
 *   intentions             values and ties (config_intention.c)
 *   warnings               what is right in form and likely not meant (config_warn.c)
 *
 * The first mistake ends it. What must never happen: a configuration that was taken by half; so everything goes into a new
 * struct, and the caller's pointer is written at the very end. The next reader is broker_model.c.
 */
#include "conf/config_priv.h"

#include <sched.h>

enum { ADMIN_USERS = 64, DEFAULT_GATES = 4 };

/* --- globals; @obj is not used: they go straight into the config --- */

static int set_trust_domain(struct loader *l, void *obj, const struct conf_node *n)
{
	const char *text = "";
	int r = config_read_text(l, n, "a domain such as \"example.org\"", &text);

	if (r < 0)
		return r;
	if (!trust_domain_is_valid(text) || !str_copy(l->config->trust_domain, sizeof(l->config->trust_domain), text))
		return config_bad_value(l, n, "a trust domain of a-z, 0-9, '.', '-' and '_', at most 253");
	return 0;
}

static int set_namespace(struct loader *l, void *obj, const struct conf_node *n)
{
	const char *text = "";
	int r = config_read_text(l, n, "the namespace of names without one", &text);

	if (r < 0)
		return r;
	if (!label_is_valid(text) || !str_copy(l->config->namespace_, sizeof(l->config->namespace_), text))
		return config_bad_value(l, n, "a namespace of a-z, 0-9 and '-', at most 63");
	return 0;
}

static bool is_word(const struct conf_node *n, const char *word)
{
	return n->kind == CONF_STRING && strcmp(n->string, word) == 0;
}

static int set_direct(struct loader *l, void *obj, const struct conf_node *n)
{
	if (!is_word(n, "auto") && !is_word(n, "off"))
		return config_bad_value(l, n, "auto or off");
	l->config->direct = is_word(n, "off") ? CONFIG_DIRECT_OFF : CONFIG_DIRECT_AUTO;
	return 0;
}

static int set_identity(struct loader *l, void *obj, const struct conf_node *n)
{
	static const char *const words[] = { [CONFIG_IDENTITY_AUTO] = "auto",
					     [CONFIG_IDENTITY_PIDFD] = "pidfd",
					     [CONFIG_IDENTITY_PEERCRED] = "peercred" };

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		if (is_word(n, words[i])) {
			l->config->identity = (enum config_identity)i;
			return 0;
		}
	}
	return config_bad_value(l, n, "auto, pidfd or peercred");
}

static int set_restart_grace(struct loader *l, void *obj, const struct conf_node *n)
{
	return config_read_duration(l, n, 0, 86400, &l->config->restart_grace_s);
}

static int set_connect_wait(struct loader *l, void *obj, const struct conf_node *n)
{
	return config_read_duration(l, n, 0, 3600, &l->config->connect_wait_s);
}

static int set_gates(struct loader *l, void *obj, const struct conf_node *n)
{
	uint64_t v;
	int r = config_read_amount(l, n, 1, LIMIT_GATES, &v);

	if (r == 0)
		l->config->n_gates = (unsigned)v;
	return r;
}

static int set_cdi_dir(struct loader *l, void *obj, const struct conf_node *n)
{
	bool none = n->kind == CONF_STRING && (n->string[0] == '\0' || strcmp(n->string, "off") == 0);

	if (none) {
		free(l->config->cdi_dir);
		l->config->cdi_dir = strdup("");
		return l->config->cdi_dir ? 0 : -ENOMEM;
	}
	if (n->kind != CONF_STRING || n->string[0] != '/')
		return config_bad_value(l, n, "an absolute path such as \"/run/cdi\", or off");
	if (config_check_absolute(l, n, n->string) < 0)
		return -EINVAL;
	return config_read_copy(l, n, "a path", &l->config->cdi_dir);
}

/* --- admin --- */

static int admin_set_mode(struct loader *l, void *obj, const struct conf_node *n)
{
	return config_read_mode(l, n, &l->config->admin.mode);
}

static int admin_set_owner(struct loader *l, void *obj, const struct conf_node *n)
{
	return config_read_user(l, n, &l->config->admin.uid);
}

static int admin_set_group(struct loader *l, void *obj, const struct conf_node *n)
{
	return config_read_group(l, n, &l->config->admin.gid);
}

static int admin_set_users(struct loader *l, void *obj, const struct conf_node *n)
{
	struct config *c = l->config;

	free(c->admin_uids);
	c->n_admin_uids = 0;
	c->admin_uids = calloc(ADMIN_USERS, sizeof(*c->admin_uids));
	if (!c->admin_uids)
		return -ENOMEM;
	config_each_element(e, n) {
		int64_t uid = 0;
		int r = config_read_user(l, e, &uid);

		if (r < 0)
			return r;
		if (c->n_admin_uids >= ADMIN_USERS)
			return conf_fail(l->error, n, "found more than %d users, expected a group instead", ADMIN_USERS);
		c->admin_uids[c->n_admin_uids++] = (uid_t)uid;
	}
	return 0;
}

static int set_admin(struct loader *l, void *obj, const struct conf_node *n)
{
	static const struct config_key keys[] = {
		{ "mode", admin_set_mode, NULL, false },
		{ "owner", admin_set_owner, NULL, false },
		{ "group", admin_set_group, NULL, false },
		{ "users", admin_set_users, NULL, false },
	};
	static const struct config_kind kind = { .what = "admin", .tables = { CONFIG_TABLE(keys) } };

	return config_read_block(l, &kind, n, obj);
}

/* --- the passes over a document --- */

static int set_services(struct loader *l, void *obj, const struct conf_node *n)
{
	const struct config_kind kind = config_service_kind();

	return config_read_items(l, &kind, n, config_collect_service, NULL);
}

static int set_workloads(struct loader *l, void *obj, const struct conf_node *n)
{
	return config_read_items(l, &config_workload_kind, n, config_collect_workload, NULL);
}

static int set_hosts(struct loader *l, void *obj, const struct conf_node *n)
{
	return config_read_items(l, &config_host_kind, n, config_collect_host, NULL);
}

static int set_intentions(struct loader *l, void *obj, const struct conf_node *n)
{
	return config_read_items(l, &config_intention_kind, n, config_collect_intention, NULL);
}

#define CONFIG_ENTRIES "Consul's configuration entries are not read; write intention { source = A destination = B action = allow }"

/* Keys that are read in the second pass, when the globals are known. */
static const struct config_key item_keys[] = {
	{ "service", set_services, NULL, true },     { "services", set_services, NULL, true },
	{ "workload", set_workloads, NULL, true },   { "workloads", set_workloads, NULL, true },
	{ "intention", set_intentions, NULL, true }, { "intentions", set_intentions, NULL, true },
	{ "host", set_hosts, NULL, true },	     { "hosts", set_hosts, NULL, true },
};

static const struct config_key global_keys[] = {
	{ "trust_domain", set_trust_domain, NULL, false },
	{ "namespace", set_namespace, NULL, false },
	{ "direct", set_direct, NULL, false },
	{ "identity", set_identity, NULL, false },
	{ "restart_grace", set_restart_grace, NULL, false },
	{ "connect_wait", set_connect_wait, NULL, false },
	{ "gates", set_gates, NULL, false },
	{ "cdi_dir", set_cdi_dir, NULL, false },
	{ "admin", set_admin, NULL, false },
	{ "host_name", config_set_host_name, NULL, false },
	{ "listen", config_set_listen, NULL, false },
	{ "links", config_set_links, NULL, false },
	{ "authority", config_set_authority, NULL, false },
	{ "certificates", config_set_certificates, NULL, false },
	{ "svid_life", config_set_svid_life, NULL, false },
	{ "link_idle", config_set_link_idle, NULL, false },
	{ "link_timeout", config_set_link_timeout, NULL, false },
	{ "link_window", config_set_link_window, NULL, false },
	{ "link_congestion", config_set_link_congestion, NULL, false },
	{ "rdma", config_set_rdma, NULL, false },
	{ "rdma_listen", config_set_rdma_listen, NULL, false },
	{ "etcd", config_set_etcd, NULL, false },
	{ "kind", NULL, CONFIG_ENTRIES, false },
	{ "Kind", NULL, CONFIG_ENTRIES, false },
	{ "config_entries", NULL, CONFIG_ENTRIES, false },
};

static int skip(struct loader *l, void *obj, const struct conf_node *n)
{
	return 0;
}

/* Both passes walk the same document and so must know the keys of both: those of the other one are skipped. */
static void skip_keys(struct config_key *keys, const struct config_key *of, size_t n)
{
	memcpy(keys, of, n * sizeof(*keys));
	for (size_t i = 0; i < n; i++)
		if (keys[i].set)
			keys[i].set = skip;
}

/* A global key is said once, whichever file it stands in. */
static int check_globals_once(struct loader *l, const struct conf_node *root)
{
	for (const struct conf_node *n = root->first; n; n = n->next) {
		bool global = false;

		for (size_t i = 0; i < ARRAY_SIZE(global_keys); i++)
			global |= strcmp(global_keys[i].name, n->key) == 0;
		for (size_t i = 0; global && i < l->n_globals; i++)
			if (strcmp(l->globals[i]->key, n->key) == 0)
				return conf_fail(l->error, n, "given twice, first at %.200s:%u", l->globals[i]->file,
						 l->globals[i]->line);
		if (global)
			l->globals[l->n_globals++] = n;
	}
	return 0;
}
static_assert(ARRAY_SIZE(global_keys) <= ARRAY_SIZE(((struct loader *)0)->globals), "room for each global key");

/* `upstream x {}` beside its service instead of in it. */
static const char *belongs(const char *key)
{
	const struct config_kind service = config_service_kind();

	if (config_kind_has(&service, key))
		return "service NAME { ... }";
	if (config_kind_has(&config_workload_kind, key))
		return "workload NAME { ... }";
	if (config_kind_has(&config_intention_kind, key))
		return "intention { ... }";
	return config_kind_has(&config_host_kind, key) ? "host NAME { ... }" : NULL;
}

static int read_globals(struct loader *l, const struct conf_node *root)
{
	struct config_key skipped[ARRAY_SIZE(item_keys)];
	struct config_kind kind = { .what = "a configuration",
				    .tables = { CONFIG_TABLE(global_keys), CONFIG_TABLE(skipped) },
				    .belongs = belongs };
	int r;

	skip_keys(skipped, item_keys, ARRAY_SIZE(item_keys));
	r = config_read_block(l, &kind, root, NULL);
	return r < 0 ? r : check_globals_once(l, root);
}

static int collect(struct loader *l, const struct conf_node *root)
{
	struct config_key skipped[ARRAY_SIZE(global_keys)];
	struct config_kind kind = { .what = "a configuration", .tables = { CONFIG_TABLE(item_keys), CONFIG_TABLE(skipped) } };

	skip_keys(skipped, global_keys, ARRAY_SIZE(global_keys));
	return config_read_block(l, &kind, root, NULL);
}

static int parse_sources(struct loader *l, const struct config_source *sources, size_t n)
{
	struct config *c = l->config;
	int r = 0;

	c->trees = calloc(n + 1, sizeof(struct conf_tree *));
	if (!c->trees)
		return -ENOMEM;
	for (size_t i = 0; i < n && r == 0; i++) {
		r = conf_tree_parse(&c->trees[i], sources[i].name, sources[i].text, sources[i].size, l->error);
		if (r == 0)
			c->n_trees++;
	}
	return r == -E2BIG ? -EINVAL : r;
}

/* --- names of services --- */

static int compare_service_name(const struct service_name *a, const struct service_name *b)
{
	int r = strcmp(a->name, b->name);

	return r ? r : strcmp(a->ns, b->ns);
}

static int compare_service(const void *a, const void *b, void *arg)
{
	const struct config *c = arg;
	size_t ia = *(const size_t *)a, ib = *(const size_t *)b;
	int r = compare_service_name(&c->services[ia].name, &c->services[ib].name);

	return r ? r : (ia > ib) - (ia < ib);
}

static int sort_services(struct loader *l)
{
	struct config *c = l->config;
	size_t *order = calloc(c->n_services + 1, sizeof(*order));

	if (!order)
		return -ENOMEM;
	c->services_by_name = order;
	for (size_t i = 0; i < c->n_services; i++)
		order[i] = i;
	qsort_r(order, c->n_services, sizeof(*order), compare_service, c);
	for (size_t i = 1; i < c->n_services; i++) {
		const struct config_service *first = &c->services[order[i - 1]];
		char name[LIMIT_SERVICE_SIZE];

		if (compare_service_name(&first->name, &c->services[order[i]].name) == 0)
			return conf_fail(l->error, l->services[order[i]].at,
					 "service '%s' is defined twice, first at %.200s:%u; expected one block a service",
					 service_name_format(name, &first->name), first->file, first->line);
	}
	return 0;
}

size_t config_find_service(const struct config *c, const struct service_name *name)
{
	size_t from = 0, to = c->n_services;

	while (from < to) {
		size_t mid = from + (to - from) / 2, i = c->services_by_name[mid];
		int r = compare_service_name(name, &c->services[i].name);

		if (r == 0)
			return i;
		if (r < 0)
			to = mid;
		else
			from = mid + 1;
	}
	return CONFIG_NONE;
}

size_t config_find_workload(const struct config *c, const char *name)
{
	size_t from = 0, to = c->n_workloads_by_name;

	while (from < to) {
		size_t mid = from + (to - from) / 2, i = c->workloads_by_name[mid];
		int r = strcmp(name, c->workloads[i].name);

		if (r == 0)
			return i;
		if (r < 0)
			to = mid;
		else
			from = mid + 1;
	}
	return CONFIG_NONE;
}

/* --- the whole --- */

static int defaults(struct config *c)
{
	static const char trust_domain[] = "sealane.local", namespace_[] = "default";

	c->cdi_dir = strdup("/run/cdi");
	if (!c->cdi_dir)
		return -ENOMEM;
	memcpy(c->trust_domain, trust_domain, sizeof(trust_domain));
	memcpy(c->namespace_, namespace_, sizeof(namespace_));
	c->restart_grace_s = 30;
	c->connect_wait_s = 5;
	c->admin = (struct config_access){ .mode = 0600, .uid = -1, .gid = -1 };
	config_link_defaults(&c->link);
	config_etcd_defaults(&c->etcd);
	return 0;
}

static void default_gates(struct config *c)
{
	cpu_set_t set;
	int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;

	if (c->n_gates == 0)
		c->n_gates = n < DEFAULT_GATES ? (unsigned)n : DEFAULT_GATES;
}

static int load(struct loader *l, const struct config_source *sources, size_t n)
{
	struct config *c = l->config;
	int r = defaults(c);

	if (r == 0)
		r = parse_sources(l, sources, n);
	for (size_t i = 0; i < n && r == 0; i++)
		r = read_globals(l, conf_tree_root(c->trees[i]));
	for (size_t i = 0; i < n && r == 0; i++)
		r = collect(l, conf_tree_root(c->trees[i]));
	if (r == 0)
		r = sort_services(l);
	if (r == 0)
		r = config_read_services(l);
	if (r == 0)
		r = config_read_workloads(l);
	if (r == 0)
		r = config_read_hosts(l);
	if (r == 0)
		r = config_read_etcd(l);
	if (r == 0)
		r = config_check_paths(l);
	if (r == 0)
		r = config_read_intentions(l);
	return r < 0 ? r : config_warn(l);
}

int config_load(struct config **ret_config, const struct config_source *sources, size_t n, struct conf_error *ret_error)
{
	struct loader l = { .error = ret_error, .config = calloc(1, sizeof(*l.config)) };
	int r = l.config ? 0 : -ENOMEM;

	ret_error->text[0] = '\0';
	if (r == 0)
		r = load(&l, sources, n);
	free(l.services);
	free(l.workloads);
	free(l.upstreams);
	free(l.intentions);
	free(l.hosts);
	if (r < 0) {
		config_free(l.config);
		return r;
	}
	default_gates(l.config);
	for (size_t i = 0; i < n; i++)
		conf_tree_trim(l.config->trees[i]);
	*ret_config = l.config;
	return 0;
}

struct config *config_free(struct config *c)
{
	if (!c)
		return NULL;
	for (size_t i = 0; i < c->n_services; i++) {
		free(c->services[i].socket_path);
		for (size_t k = 0; k < LIMIT_CHECK_ARGS; k++)
			free(c->services[i].check.args[k]);
	}
	for (size_t i = 0; i < c->n_upstreams; i++)
		free(c->upstreams[i].path);
	for (size_t i = 0; i < c->n_workloads; i++) {
		free(c->workloads[i].match.cgroup);
		free(c->workloads[i].match.container);
		free(c->workloads[i].match.label);
	}
	for (size_t i = 0; i < c->n_warnings; i++)
		free(c->warnings[i]);
	free(c->warnings);
	for (size_t i = 0; i < c->n_hosts; i++)
		free(c->hosts[i].services);
	free(c->hosts);
	free(c->link.certificates);
	config_etcd_free(&c->etcd);
	for (size_t i = 0; i < c->n_trees; i++)
		conf_tree_free(c->trees[i]);
	free(c->trees);
	free(c->services);
	free(c->services_by_name);
	free(c->upstreams);
	free(c->workloads);
	free(c->workloads_by_name);
	free(c->intentions);
	free(c->admin_uids);
	free(c->cdi_dir);
	free(c);
	return NULL;
}
