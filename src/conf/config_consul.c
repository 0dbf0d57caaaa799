/*
 * Theory of operation
 *
 * Consul's service definitions (HCL and JSON): its names for what sealane has, what can be left aside because it changes
 * nothing here (tags, meta, ids), and what is refused, since ignoring it would run something else than the file says. A
 * refusal names the key and the way to say it here. The values end in the setters of config_service.c.
 *
 * Source: Consul's documentation of service definitions, upstream configuration and health checks, as of 1.15.
 */
#include "conf/config_priv.h"

#define SOCKETS_ONLY "sealane links sockets, not addresses; give socket_path"
#define UPSTREAM_SOCKETS_ONLY "sealane links sockets, not addresses; give local_bind_socket_path"
#define NO_ENVOY "there is no Envoy to configure; leave it out"
#define ONE_CLUSTER "a service is found by namespace and name only; leave it out"
#define CHECK_KINDS "a check is args = [ command ] or socket = true"
#define CHECK_STATE "a check's state is that of its last run; leave it out"

/* --- connect { sidecar_service { proxy { upstreams } } } --- */

static const struct config_key proxy_keys[] = {
	{ "upstreams", config_set_upstreams, NULL, true },
	{ "config", NULL, NO_ENVOY, false },
	{ "envoy_extensions", NULL, NO_ENVOY, false },
	{ "expose", NULL, NO_ENVOY, false },
	{ "mesh_gateway", NULL, NO_ENVOY, false },
	{ "mode", NULL, NO_ENVOY, false },
	{ "transparent_proxy", NULL, NO_ENVOY, false },
	{ "local_service_address", NULL, SOCKETS_ONLY " in the service", false },
	{ "local_service_port", NULL, SOCKETS_ONLY " in the service", false },
	{ "local_service_socket_path", NULL, "give socket_path in the service", false },
};

static int set_proxy(struct loader *l, void *obj, const struct conf_node *n)
{
	static const struct config_kind kind = { .what = "a proxy", .tables = { CONFIG_TABLE(proxy_keys) } };

	return config_read_block(l, &kind, n, obj);
}

static const struct config_key sidecar_keys[] = {
	{ "proxy", set_proxy, NULL, false },
	{ "tags", NULL, NULL, false },
	{ "meta", NULL, NULL, false },
	{ "port", NULL, "sealaned itself is the sidecar and has no port; leave it out", false },
	{ "check", NULL, "give the check in the service", false },
	{ "checks", NULL, "give the check in the service", false },
};

static int set_sidecar(struct loader *l, void *obj, const struct conf_node *n)
{
	static const struct config_kind kind = { .what = "a sidecar_service", .tables = { CONFIG_TABLE(sidecar_keys) } };

	return config_read_block(l, &kind, n, obj);
}

static int set_native(struct loader *l, void *obj, const struct conf_node *n)
{
	bool native;
	int r = config_read_bool(l, n, &native);

	if (r == 0 && native)
		r = config_bad_value(l, n, "false: services that speak Consul's protocol themselves are not known here");
	return r;
}

static const struct config_key connect_keys[] = {
	{ "sidecar_service", set_sidecar, NULL, false },
	{ "native", set_native, NULL, false },
};

static int set_connect(struct loader *l, void *obj, const struct conf_node *n)
{
	static const struct config_kind kind = { .what = "connect", .tables = { CONFIG_TABLE(connect_keys) } };

	return config_read_block(l, &kind, n, obj);
}

const struct config_key config_consul_service_keys[] = {
	{ "connect", set_connect, NULL, false },
	{ "id", NULL, NULL, false },
	{ "tags", NULL, NULL, false },
	{ "meta", NULL, NULL, false },
	{ "enable_tag_override", NULL, NULL, false },
	{ "weights", NULL, NULL, false },
	{ "address", NULL, SOCKETS_ONLY, false },
	{ "port", NULL, SOCKETS_ONLY, false },
	{ "ports", NULL, SOCKETS_ONLY, false },
	{ "tagged_addresses", NULL, SOCKETS_ONLY, false },
	{ "kind", NULL, "sealaned itself is the proxy; leave such a service out", false },
	{ "proxy", NULL, "give upstream NAME { ... }, or connect { sidecar_service { proxy { ... } } }", false },
	{ "token", NULL, "intentions decide here, there are no tokens; leave it out", false },
	{ "partition", NULL, ONE_CLUSTER, false },
};
const size_t config_consul_n_service_keys = ARRAY_SIZE(config_consul_service_keys);

/* --- checks --- */

const struct config_key config_consul_check_keys[] = {
	{ "id", NULL, NULL, false },
	{ "name", NULL, NULL, false },
	{ "notes", NULL, NULL, false },
	{ "http", NULL, CHECK_KINDS, false },
	{ "tcp", NULL, CHECK_KINDS, false },
	{ "udp", NULL, CHECK_KINDS, false },
	{ "grpc", NULL, CHECK_KINDS, false },
	{ "h2ping", NULL, CHECK_KINDS, false },
	{ "ttl", NULL, CHECK_KINDS, false },
	{ "script", NULL, CHECK_KINDS, false },
	{ "docker_container_id", NULL, CHECK_KINDS, false },
	{ "os_service", NULL, CHECK_KINDS, false },
	{ "alias_service", NULL, CHECK_KINDS, false },
	{ "alias_node", NULL, CHECK_KINDS, false },
	{ "status", NULL, CHECK_STATE, false },
	{ "success_before_passing", NULL, CHECK_STATE, false },
	{ "failures_before_warning", NULL, CHECK_STATE, false },
	{ "failures_before_critical", NULL, CHECK_STATE, false },
	{ "deregister_critical_service_after", NULL, "a service stays until it is taken out of the file; leave it out", false },
};
const size_t config_consul_n_check_keys = ARRAY_SIZE(config_consul_check_keys);

/* --- upstreams --- */

static int set_destination_type(struct loader *l, void *obj, const struct conf_node *n)
{
	if (n->kind != CONF_STRING || strcmp(n->string, "service") != 0)
		return config_bad_value(l, n, "\"service\"");
	return 0;
}

const struct config_key config_consul_upstream_keys[] = {
	{ "destination_name", NULL, NULL, false },	/* both read before, by upstream_destination() */
	{ "destination_namespace", NULL, NULL, false },
	{ "destination_type", set_destination_type, NULL, false },
	{ "local_bind_socket_path", config_set_upstream_path, NULL, false },
	{ "local_bind_socket_mode", config_set_upstream_mode, NULL, false },
	{ "local_bind_port", NULL, UPSTREAM_SOCKETS_ONLY, false },
	{ "local_bind_address", NULL, UPSTREAM_SOCKETS_ONLY, false },
	{ "destination_partition", NULL, ONE_CLUSTER, false },
	{ "destination_peer", NULL, ONE_CLUSTER, false },
	{ "datacenter", NULL, ONE_CLUSTER, false },
	{ "mesh_gateway", NULL, NO_ENVOY, false },
	{ "config", NULL, NO_ENVOY, false },
};
const size_t config_consul_n_upstream_keys = ARRAY_SIZE(config_consul_upstream_keys);
