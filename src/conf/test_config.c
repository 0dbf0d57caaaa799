/* What the files mean. With the directory of the examples as its argument, it also loads every one of them. */
#include "conf/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static const char *g_examples;
static struct conf_error g_error;

static int resolve_user(const char *name, int64_t *ret_id)
{
	if (strcmp(name, "redis") != 0)
		return -ENOENT;
	*ret_id = 110;
	return 0;
}

static int resolve_group(const char *name, int64_t *ret_id)
{
	if (strcmp(name, "adm") != 0)
		return -ENOENT;
	*ret_id = 4;
	return 0;
}

static int load(struct config **ret, const char *a, const char *b)
{
	struct config_source sources[2] = { { "a.conf", a, strlen(a) }, { "b.conf", b ? b : "", b ? strlen(b) : 0 } };

	return config_load(ret, sources, b ? 2 : 1, &g_error);
}

static struct config *accepted(const char *a, const char *b)
{
	struct config *c = NULL;
	int r = load(&c, a, b);

	if (r < 0)
		print_error("%s\n", g_error.text);
	assert_int_equal(r, 0);
	return c;
}

static const struct config_service *service(const struct config *c, const char *text)
{
	struct service_name name;
	size_t i;

	assert_int_equal(service_name_parse(&name, text, c->namespace_), 0);
	i = config_find_service(c, &name);
	assert_int_not_equal(i, CONFIG_NONE);
	return &c->services[i];
}

static const char *workload_of(const struct config *c, const char *text)
{
	return c->workloads[service(c, text)->workload].name;
}

static void defaults_hold(void **state)
{
	struct config *c = accepted("", NULL);

	assert_string_equal(c->trust_domain, "sealane.local");
	assert_string_equal(c->namespace_, "default");
	assert_int_equal(c->direct, CONFIG_DIRECT_AUTO);
	assert_int_equal(c->identity, CONFIG_IDENTITY_AUTO);
	assert_true(c->restart_grace_s == 30 && c->connect_wait_s == 5);
	assert_in_range(c->n_gates, 1, 4);
	assert_string_equal(c->cdi_dir, "/run/cdi");
	assert_int_equal(c->admin.mode, 0600);
	assert_int_equal(c->n_admin_uids, 0);
	assert_int_equal(c->n_services + c->n_workloads + c->n_upstreams + c->n_intentions, 0);
	config_free(c);
}

static void globals_are_read(void **state)
{
	struct config *c = accepted("trust_domain = \"example.org\" namespace = prod direct = off identity = pidfd\n"
				    "restart_grace = 1m30s connect_wait = 250ms gates = 2 cdi_dir = off\n"
				    "admin { mode = 0660 owner = redis group = adm users = [ redis, 1000, \"1001\" ] }",
				    NULL);

	assert_string_equal(c->trust_domain, "example.org");
	assert_string_equal(c->namespace_, "prod");
	assert_int_equal(c->direct, CONFIG_DIRECT_OFF);
	assert_int_equal(c->identity, CONFIG_IDENTITY_PIDFD);
	assert_true(c->restart_grace_s == 90 && c->connect_wait_s == 0.25);
	assert_int_equal(c->n_gates, 2);
	assert_string_equal(c->cdi_dir, "");
	assert_int_equal(c->admin.mode, 0660);
	assert_int_equal(c->admin.uid, 110);
	assert_int_equal(c->admin.gid, 4);
	assert_int_equal(c->n_admin_uids, 3);
	assert_int_equal(c->admin_uids[0], 110);
	assert_int_equal(c->admin_uids[2], 1001);
	config_free(c);
}

static void services_are_read(void **state)
{
	struct config *c = accepted("service redis { socket_path = \"r.sock\" mode = \"0660\" owner = redis group = adm\n"
				    "  check { args = [ \"/bin/redis-cli\", PING, 1 ] interval = 5s timeout = 500ms } }\n"
				    "service web { upstream redis { path = \"x.sock\" mode = 0640 owner = 5 group = 6 }\n"
				    "              upstream \"prod/db\" {} }\n"
				    "service host { socket_path = \"/run/h.sock\" check { socket = true } }\n"
				    "service both { offer = true upstreams = [ redis ] }\n"
				    "service plain {}",
				    NULL);
	const struct config_service *s = service(c, "redis");

	assert_true(s->offered);
	assert_string_equal(s->socket_path, "r.sock");
	assert_int_equal(s->access.mode, 0660);
	assert_int_equal(s->access.uid, 110);
	assert_int_equal(s->access.gid, 4);
	assert_true(s->check.present && !s->check.socket);
	assert_string_equal(s->check.args[0], "/bin/redis-cli");
	assert_string_equal(s->check.args[2], "1");
	assert_null(s->check.args[3]);
	assert_true(s->check.interval_s == 5 && s->check.timeout_s == 0.5);
	assert_int_equal(s->line, 1);

	assert_false(service(c, "web")->offered);
	assert_int_equal(service(c, "host")->access.mode, -1);
	assert_true(service(c, "host")->check.socket);
	assert_false(c->workloads[service(c, "host")->workload].offers);
	assert_true(c->workloads[service(c, "both")->workload].offers);
	assert_string_equal(service(c, "both")->socket_path, "both.sock");
	assert_true(service(c, "plain")->offered);
	assert_int_equal(service(c, "plain")->access.mode, 0666);

	assert_int_equal(c->n_upstreams, 3);
	assert_string_equal(c->upstreams[0].path, "x.sock");
	assert_int_equal(c->upstreams[0].access.mode, 0640);
	assert_int_equal(c->upstreams[0].access.uid, 5);
	assert_string_equal(c->upstreams[1].path, "db.sock");
	assert_string_equal(c->upstreams[1].destination.ns, "prod");
	assert_int_equal(c->upstreams[1].access.mode, -1);
	config_free(c);
}

static void workloads_take_services(void **state)
{
	struct config *c = accepted("workload cache { services = [ redis, \"prod/redis\" ] label = \"app=cache\" }\n"
				    "workload web { cgroup = \"/machine/web\" }\n"
				    "service redis {} service prod/redis { socket_path = p.sock }\n"
				    "service web {} service admin { workload = web upstream redis {} }\n"
				    "service alone { upstream redis {} } service prod/alone { upstream redis {} }",
				    "workload named { container = 0123456789ab service = named } service named {}");

	assert_string_equal(workload_of(c, "redis"), "cache");
	assert_string_equal(workload_of(c, "prod/redis"), "cache");
	assert_string_equal(workload_of(c, "web"), "web");
	assert_string_equal(workload_of(c, "admin"), "web");
	assert_string_equal(workload_of(c, "alone"), "alone");
	assert_string_equal(workload_of(c, "prod/alone"), "prod-alone");
	assert_int_equal(c->n_workloads, 5);
	assert_string_equal(c->workloads[config_find_workload(c, "cache")].match.label, "app=cache");
	assert_string_equal(c->workloads[config_find_workload(c, "web")].match.cgroup, "/machine/web");
	assert_string_equal(c->workloads[config_find_workload(c, "named")].match.container, "0123456789ab");
	assert_string_equal(c->workloads[config_find_workload(c, "named")].file, "b.conf");
	assert_int_equal(config_find_workload(c, "nobody"), CONFIG_NONE);
	/* An upstream without a namespace is in that of its service. */
	assert_string_equal(c->upstreams[2].destination.ns, "prod");
	config_free(c);
}

static void intentions_are_read(void **state)
{
	struct config *c = accepted("intention { source = web destination = \"prod/*\" action = allow strict = true\n"
				    "  limits { open_lanes = 100 connections_per_s = 50 bytes_per_s = 10mb }\n"
				    "  expires = \"2027-01-01T01:30:00.5+01:30\" }\n"
				    "intention { source = * destination = * action = deny }",
				    "intentions = [ { source = \"*/*\", destination = \"web\", action = \"allow\" } ]");
	const struct intention *i = &c->intentions[0];

	assert_int_equal(c->n_intentions, 3);
	assert_int_equal(i->source.rank, PATTERN_EXACT);
	assert_int_equal(i->destination.rank, PATTERN_NAMESPACE);
	assert_int_equal(i->action, INTENTION_ALLOW);
	assert_true(i->strict);
	assert_int_equal(i->limits.open_lanes, 100);
	assert_int_equal(i->limits.connections_per_s, 50);
	assert_int_equal(i->limits.bytes_per_s, 10485760);
	assert_int_equal(i->expires_unix_s, 1798761600);
	assert_string_equal(i->where, "a.conf:1");
	assert_string_equal(c->intentions[2].where, "b.conf:1");
	config_free(c);
}

static void json_says_the_same(void **state)
{
	struct config *c = accepted("{ \"namespace\": \"prod\", \"workload\": { \"cache\": { \"services\": [ \"redis\" ] } },\n"
				    "  \"service\": { \"name\": \"redis\", \"socket_path\": \"r.sock\", \"mode\": null },\n"
				    "  \"services\": { \"web\": { \"upstreams\": { \"redis\": { \"mode\": \"0600\" } } } },\n"
				    "  \"intention\": { \"source\": \"web\", \"destination\": \"redis\", \"action\": \"allow\" } }",
				    NULL);

	assert_string_equal(workload_of(c, "redis"), "cache");
	assert_string_equal(workload_of(c, "web"), "web");
	assert_int_equal(c->upstreams[0].access.mode, 0600);
	assert_string_equal(c->upstreams[0].destination.ns, "prod");
	assert_int_equal(c->n_intentions, 1);
	config_free(c);
}

static void consul_says_the_same(void **state)
{
	struct config *c = accepted(
		"service { id = \"m1\" name = \"mysql\" namespace = \"db\" socket_path = \"/tmp/m.sock\" tags = [ \"a\" ] meta { x = 1 }\n"
		"  connect { sidecar_service {} } checks = [ { id = c name = n args = [ \"/bin/true\" ] interval = \"5s\" } ] }\n"
		"service { name = client connect { native = false sidecar_service { proxy { upstreams {\n"
		"  destination_name = mysql destination_namespace = db destination_type = service\n"
		"  local_bind_socket_path = \"/tmp/c.sock\" local_bind_socket_mode = \"0700\" } } } } }",
		NULL);

	assert_string_equal(service(c, "db/mysql")->socket_path, "/tmp/m.sock");
	assert_string_equal(service(c, "db/mysql")->check.args[0], "/bin/true");
	assert_true(service(c, "db/mysql")->check.timeout_s == 1);
	assert_string_equal(workload_of(c, "db/mysql"), "db-mysql");
	assert_string_equal(c->upstreams[0].path, "/tmp/c.sock");
	assert_int_equal(c->upstreams[0].access.mode, 0700);
	assert_string_equal(c->upstreams[0].destination.ns, "db");
	config_free(c);
}

/* One case a line: what is wrong, and the whole message. */
#define RDMA_LISTEN(found)                                                                                                                          \
	"a.conf:1:1: key 'rdma_listen': found \"" found "\", expected the address of one RDMA device in numbers and a port up to 65519, such as " \
	"\"10.0.0.1:7443\" (`rdma link` and `ip address` tell which device has which)"

static const struct {
	const char *a, *b, *error;
} g_mistakes[] = {
	{ "servces {}", NULL, "a.conf:1:1: key 'servces': unknown key in a configuration; did you mean 'services'?" },
	{ "zzzzzz = 1", NULL, "a.conf:1:1: key 'zzzzzz': unknown key in a configuration" },
	{ "service web {}\nupstream redis {}", NULL,
	  "a.conf:2:1: key 'upstream': unknown key in a configuration; it belongs into service NAME { ... }" },
	{ "check { socket = true }", NULL,
	  "a.conf:1:1: key 'check': unknown key in a configuration; it belongs into service NAME { ... }" },
	{ "cgroup = \"/x\"", NULL, "a.conf:1:1: key 'cgroup': unknown key in a configuration; it belongs into workload NAME { ... }" },
	{ "action = allow", NULL, "a.conf:1:1: key 'action': unknown key in a configuration; it belongs into intention { ... }" },
	{ "service web { socket = x }", NULL, "a.conf:1:15: key 'socket': unknown key in a service; did you mean 'socket_path'?" },
	{ "service web { path = x }", NULL, "a.conf:1:15: key 'path': unknown key in a service; did you mean 'socket_path'?" },
	{ "service web { SocketPath = x }", NULL, "a.conf:1:15: key 'SocketPath': unknown key in a service; did you mean 'socket_path'?" },
	{ "service Web {}", NULL,
	  "a.conf:1:1: key 'service': found the name \"Web\", expected NAME or NAMESPACE/NAME of a-z, 0-9 and '-', at most 63 each" },
	{ "service { offer = true }", NULL, "a.conf:1:1: key 'service': this block has no name, expected a label or the key 'name'" },
	{ "service a { name = b }", NULL, "a.conf:1:13: key 'name': found \"b\", expected \"a\" as the block is called" },
	{ "service a {}", "\nservice a {}",
	  "b.conf:2:1: key 'service': service 'default/a' is defined twice, first at a.conf:1; expected one block a service" },
	{ "namespace = a", "namespace = a", "b.conf:1:1: key 'namespace': given twice, first at a.conf:1" },
	{ "gates = 1\ngates = 2", NULL, "a.conf:2:1: key 'gates': given twice in a configuration, first in line 1" },
	{ "gates = 17", NULL, "a.conf:1:1: key 'gates': found 17, expected a whole number from 1 to 16" },
	{ "gates = 1.5", NULL, "a.conf:1:1: key 'gates': found 1.5, expected a whole number from 1 to 16" },
	{ "direct = on", NULL, "a.conf:1:1: key 'direct': found \"on\", expected auto or off" },
	{ "restart_grace = 5x", NULL, "a.conf:1:1: key 'restart_grace': found \"5x\", expected a duration such as 5s, 250ms, 1m30s" },
	{ "connect_wait = 2h", NULL, "a.conf:1:1: key 'connect_wait': found 2h, expected a duration from 0s to 1h" },
	{ "cdi_dir = run", NULL, "a.conf:1:1: key 'cdi_dir': found \"run\", expected an absolute path such as \"/run/cdi\", or off" },
	{ "admin { mode = 0888 }", NULL, "a.conf:1:9: key 'mode': found 0888, expected a socket's mode in octal, such as \"0660\"" },
	{ "admin { mode = 1777 }", NULL, "a.conf:1:9: key 'mode': found 1777, expected a socket's mode in octal, such as \"0660\"" },
	{ "admin { users = [ mallory ] }", NULL,
	  "a.conf:1:19: key 'users': found \"mallory\", expected the name of a user that this host knows, or its number" },
	{ "admin { group = 4294967295 }", NULL,
	  "a.conf:1:9: key 'group': found 4294967295, expected the name of a group or its number, at most 4294967294" },
	{ "service a { port = 80 }", NULL,
	  "a.conf:1:13: key 'port': cannot be used in a service: sealane links sockets, not addresses; give socket_path" },
	{ "service a { upstream b { local_bind_port = 1 } }", NULL,
	  "a.conf:1:26: key 'local_bind_port': cannot be used in an upstream: sealane links sockets, not addresses; give local_bind_socket_path" },
	{ "service a { upstream b { path = x local_bind_socket_path = y } }", NULL,
	  "a.conf:1:35: key 'local_bind_socket_path': the path was already given in line 1 as 'path'" },
	{ "service a { upstream b { path = serve } }", NULL,
	  "a.conf:1:26: key 'path': found \"serve\", expected another name: /run/sealane/serve is where servers put their sockets" },
	{ "service a { upstream b { path = \"x/y\" } }", NULL,
	  "a.conf:1:26: key 'path': found \"x/y\", expected a file name in /run/sealane/ without '/', or an absolute path of the host" },
	{ "service a { upstream b { path = \"..\" } }", NULL,
	  "a.conf:1:26: key 'path': found \"..\", expected a file name other than '.', '..' and '.sealane...'" },
	{ "service a { socket_path = \"/a/../b\" }", NULL,
	  "a.conf:1:13: key 'socket_path': found \"/a/../b\", expected an absolute path without \"//\", \".\", \"..\" and a \"/\" at the end" },
	{ "service a { upstream b { mode = 5 } }", NULL,
	  "a.conf:1:26: key 'mode': found 5, expected a socket's mode in octal, such as \"0660\"" },
	{ "service a { upstream b {} mode = 0600 }", NULL,
	  "a.conf:1:27: key 'mode': found in a service that nobody can connect to, expected socket_path or offer = true" },
	{ "service a { upstream b {} upstream c/b {} }", NULL,
	  "a.conf:1:27: key 'upstream': the socket \"b.sock\" of workload a is already claimed at a.conf:1; expected another path" },
	{ "service a { socket_path = \"/x\" }", "service b { upstream a { path = \"/x\" } }",
	  "b.conf:1:26: key 'path': the socket \"/x\" is already claimed at a.conf:1; expected another path" },
	{ "service a { upstream b { path = \"control.sock\" } }", NULL,
	  "a.conf:1:26: key 'path': the socket \"control.sock\" of workload a is the daemon's own, where libsealane asks for lanes; expected another path: upstream b { path = \"NAME.sock\" }" },
	{ "service a { upstream b {}\n upstream control {} }", NULL,
	  "a.conf:2:2: key 'upstream': the socket \"control.sock\" of workload a is the daemon's own, where libsealane asks for lanes; expected another path: upstream control { path = \"NAME.sock\" }" },
	{ "service a { check { interval = 1s } }", NULL,
	  "a.conf:1:13: key 'check': found neither a socket nor a command, expected either socket = true or args = [ ... ]" },
	{ "service a { check { args = [ true ] } }", NULL, "a.conf:1:30: key 'args': found true, expected a word of the command" },
	{ "service a { check { args = [ ls ] } }", NULL,
	  "a.conf:1:30: key 'args': found \"ls\", expected an absolute path without \"//\", \".\", \"..\" and a \"/\" at the end" },
	{ "service a { check { socket = true }\n checks = [ { socket = true } ] }", NULL,
	  "a.conf:2:13: key 'checks': found a second check, first in line 1; expected one a service" },
	{ "service a { check { http = x } }", NULL,
	  "a.conf:1:21: key 'http': cannot be used in a check: a check is args = [ command ] or socket = true" },
	{ "workload w { services = [ a, bb ] } service a {} service b {}", NULL,
	  "a.conf:1:30: key 'services': found \"bb\", expected the name of a service in these files; did you mean 'b'?" },
	{ "workload w { services = [ a ] }\nworkload v { services = [ a ] } service a {}", NULL,
	  "a.conf:2:27: key 'services': service 'default/a' is in workload 'w' (a.conf:1) and cannot also be in 'v'" },
	{ "workload w { services = [ a ] } service a {} service w {}", NULL,
	  "a.conf:1:46: key 'service': this service has no workload, and workload 'w' (a.conf:1) does not list it; expected it in some workload's services" },
	{ "workload w {}", NULL,
	  "a.conf:1:1: key 'workload': workload 'w' has no services, expected services = [ ... ] or a service of its name" },
	{ "workload w {} workload w {} service w {}", NULL,
	  "a.conf:1:15: key 'workload': workload 'w' is defined twice, first at a.conf:1; expected one block, or another name" },
	{ "service x/a {} service x-a {}", NULL,
	  "a.conf:1:16: key 'service': workload 'x-a' is defined twice, first at a.conf:1; expected one block, or another name" },
	{ "service a { workload = aap } workload app {} service app {}", NULL,
	  "a.conf:1:13: key 'workload': found \"aap\", expected the name of a workload in these files; did you mean 'app'?" },
	{ "workload w { cgroup = \"/a\" label = \"a=b\" } service w {}", NULL,
	  "a.conf:1:1: key 'workload': found more than one of cgroup, container and label, expected one of them" },
	{ "workload w { container = beef } service w {}", NULL,
	  "a.conf:1:14: key 'container': found \"beef\", expected a container's id of 12 to 64 digits 0-9 and a-f" },
	{ "workload w { label = app } service w {}", NULL,
	  "a.conf:1:14: key 'label': found \"app\", expected a label \"KEY=VALUE\" of at most 255 bytes" },
	{ "intention { source = a destination = b }", NULL,
	  "a.conf:1:1: key 'intention': this intention has no 'action', expected action = allow or action = deny" },
	{ "intention { source = a destination = \"b/c/d\" action = deny }", NULL,
	  "a.conf:1:24: key 'destination': found \"b/c/d\", expected NAME, NAMESPACE/NAME, NAMESPACE/* or * (names of a-z, 0-9 and '-', at most 63)" },
	{ "intention { source = a destination = b action = deny }", "\nintention { source = default/a destination = b action = allow }",
	  "b.conf:2:1: key 'intention': default/a -> default/b is said twice, first at a.conf:1; expected one intention for a pair of services" },
	{ "intention { source = a destination = b action = deny limits { open_lanes = 1 } }", NULL,
	  "a.conf:1:54: key 'limits': found limits with action = deny, expected them with allow only" },
	{ "intention { source = a destination = b action = allow limits { open_lanes = 0 } }", NULL,
	  "a.conf:1:64: key 'open_lanes': found 0, expected a whole number from 1 to 4294967295" },
	{ "intention { source = a destination = b action = allow limits { bytes_per_s = 5s } }", NULL,
	  "a.conf:1:64: key 'bytes_per_s': found 5s, expected a number such as 100, 64kb, 10mb" },
	{ "intention { source = a destination = b action = allow expires = \"2027-02-29T00:00:00Z\" }", NULL,
	  "a.conf:1:55: key 'expires': found \"2027-02-29T00:00:00Z\", expected a time after 1970 as in RFC 3339, such as \"2027-01-01T00:00:00Z\"" },
	{ "listen = \"host-a:7443\"", NULL,
	  "a.conf:1:1: key 'listen': found \"host-a:7443\", expected no name (names are not looked up) but an address in numbers and a port, such as \"10.0.0.2:7443\" or \"[fd00::2]:7443\"" },
	{ "host b { address = \"b.example.org:7443\" }", NULL,
	  "a.conf:1:10: key 'address': found \"b.example.org:7443\", expected no name (names are not looked up) but an address in numbers and a port, such as \"10.0.0.2:7443\" or \"[fd00::2]:7443\"" },
	{ "host b { address = \"10.0.0.2\" }", NULL,
	  "a.conf:1:10: key 'address': found \"10.0.0.2\", expected an address in numbers and a port, such as \"10.0.0.2:7443\" or \"[fd00::2]:7443\"" },
	{ "listen = [ \"0.0.0.0:1\", \"0.0.0.0:1\" ]", NULL, "a.conf:1:25: key 'listen': found \"0.0.0.0:1\", expected each address once" },
	{ "host b {}", NULL, "a.conf:1:1: key 'host': host 'b' has no address; expected address = \"10.0.0.2:7443\"" },
	{ "host b { address = \"10.0.0.2:1\" }", "host b { address = \"10.0.0.3:1\" }",
	  "b.conf:1:1: key 'host': host 'b' is defined twice, first at a.conf:1; expected one block a host" },
	{ "host B { address = \"10.0.0.2:1\" }", NULL, "a.conf:1:1: key 'host': found the name \"B\", expected a host's name of a-z, 0-9 and '-', at most 63" },
	{ "host b { address = \"10.0.0.2:1\" services = [ \"a b\" ] }", NULL,
	  "a.conf:1:46: key 'services': found \"a b\", expected NAME or NAMESPACE/NAME of a-z, 0-9 and '-', at most 63 each" },
	{ "host b { addres = \"10.0.0.2:1\" }", NULL, "a.conf:1:10: key 'addres': unknown key in a host; did you mean 'address'?" },
	{ "address = \"10.0.0.2:1\"", NULL, "a.conf:1:1: key 'address': unknown key in a configuration; it belongs into host NAME { ... }" },
	{ "host_name = \"a.b\"", NULL, "a.conf:1:1: key 'host_name': found \"a.b\", expected a host's name of a-z, 0-9 and '-', at most 63" },
	{ "links = 17", NULL, "a.conf:1:1: key 'links': found 17, expected a whole number from 1 to 16" },
	{ "svid_life = 1s", NULL, "a.conf:1:1: key 'svid_life': found 1s, expected a duration from 10s to 30d" },
	{ "link_window = 8k", NULL, "a.conf:1:1: key 'link_window': found 8kib, expected a whole number from 16384 to 16777216" },
	{ "link_congestion = \"no such\"", NULL, "a.conf:1:1: key 'link_congestion': found \"no such\", expected the name of a congestion control such as \"cubic\" or \"bbr\", or \"system\"" },
	{ "rdma = on", NULL, "a.conf:1:1: key 'rdma': found \"on\", expected auto, off, or plain where the network of the device encrypts" },
	{ "rdma_listen = rxe0", NULL, RDMA_LISTEN("rxe0") },
	{ "rdma_listen = \"0.0.0.0:7443\"", NULL, RDMA_LISTEN("0.0.0.0:7443") },
	{ "rdma_listen = \"10.0.0.1:65520\"", NULL, RDMA_LISTEN("10.0.0.1:65520") },
	{ "certificates = certs", NULL, "a.conf:1:1: key 'certificates': found \"certs\", expected an absolute path such as \"/etc/sealane/certs\"" },
	{ "etcd {}", NULL, "a.conf:1:1: key 'etcd': there are no endpoints, expected endpoints = [ \"https://10.0.0.9:2379\", ... ]" },
	{ "etcd { endpoints = \"10.0.0.9:2379\" }", NULL,
	  "a.conf:1:8: key 'endpoints': found \"10.0.0.9:2379\", expected http:// or https://, a host and a port, such as \"https://10.0.0.9:2379\"" },
	{ "etcd { endpoints = \"https://user@etcd:2379\" }", NULL,
	  "a.conf:1:8: key 'endpoints': found \"https://user@etcd:2379\", expected http:// or https://, a host and a port, such as \"https://10.0.0.9:2379\"" },
	{ "etcd { endpoints = \"https://etcd:0\" }", NULL,
	  "a.conf:1:8: key 'endpoints': found \"https://etcd:0\", expected http:// or https://, a host and a port, such as \"https://10.0.0.9:2379\"" },
	{ "etcd { endpoints = [ \"https://a:1\", \"http://a:1\" ] }", NULL,
	  "a.conf:1:1: key 'etcd': found endpoints with http:// and with https://, expected one of both for all" },
	{ "etcd { endpoints = \"https://a:1\" prefix = sealane }", NULL,
	  "a.conf:1:34: key 'prefix': found \"sealane\", expected a prefix such as \"/sealane\": '/', then letters, digits, '.', '_', '-' and '/', at most 126" },
	{ "etcd { endpoints = \"https://a:1\" certificate = \"/a.crt\" }", NULL,
	  "a.conf:1:1: key 'etcd': found certificate alone, expected certificate and key, or none of both" },
	{ "etcd { endpoints = \"https://a:1\" user = u }", NULL,
	  "a.conf:1:1: key 'etcd': found user alone, expected user and password_file, or none of both" },
	{ "etcd { endpoints = \"http://10.0.0.9:2379\" user = u password_file = \"/p\" }", NULL,
	  "a.conf:1:1: key 'etcd': found a user and 'http://10.0.0.9:2379', where the password could be read on its way; expected https://" },
	{ "etcd { endpoints = \"http://a:1\" ca = \"/ca\" }", NULL,
	  "a.conf:1:1: key 'etcd': found ca, certificate or key, and endpoints with http://; expected https://" },
	{ "etcd { endpoints = \"https://a:1\" password = secret }", NULL,
	  "a.conf:1:34: key 'password': cannot be used in etcd: write it into a file that only root can read, and name that: password_file = FILE" },
	{ "etcd { endpoints = \"https://a:1\" lease = 1s }", NULL, "a.conf:1:34: key 'lease': found 1s, expected a duration from 3s to 10m" },
	{ "etcd { endpoints = \"https://a:1\" }", "etcd { endpoints = \"https://b:1\" }",
	  "b.conf:1:1: key 'etcd': given twice, first at a.conf:1" },
	{ "Kind = \"service-intentions\"", NULL,
	  "a.conf:1:1: key 'Kind': cannot be used in a configuration: Consul's configuration entries are not read; write intention { source = A destination = B action = allow }" },
};

static void mistakes_are_told(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(g_mistakes); i++) {
		struct config *c = NULL;
		int r = load(&c, g_mistakes[i].a, g_mistakes[i].b);

		if (r != -EINVAL)
			print_error("accepted: %s\n", g_mistakes[i].a);
		assert_int_equal(r, -EINVAL);
		assert_null(c);
		assert_string_equal(g_error.text, g_mistakes[i].error);
	}
}

static void likely_mistakes_are_warned_of(void **state)
{
	static const char *const expected[] = {
		"a.conf:1: 'default/web' has the upstream 'default/rediss', which is no service of this configuration; did you mean 'redis'?",
		"a.conf:1: 'default/web' has the upstream 'default/api', which offers nothing; expected socket_path or offer = true there",
		"a.conf:2: 'default/api' has the upstream 'prod/redis', which is no service of this configuration; did you mean 'default/redis'?",
		"b.conf:1: the intention's source 'default/wep' is no service of this configuration; did you mean 'web'?",
		"b.conf:2: the intention's destination 'far/away' is no service of this configuration",
		"b.conf:3: the intention default/web -> default/redis has expired and is as if it were not there",
	};
	struct config *c = accepted("service web { upstream rediss {} upstream api {} upstream redis {} }\n"
				    "service api { upstream prod/redis {} } service redis {}",
				    "intention { source = wep destination = * action = allow }\n"
				    "intention { source = \"none/*\" destination = far/away action = deny }\n"
				    "intention { source = web destination = redis action = allow expires = \"2020-01-01T00:00:00Z\" }\n"
				    "intention { source = api destination = redis action = allow expires = \"2999-01-01T00:00:00Z\" }");

	assert_int_equal(c->n_warnings, ARRAY_SIZE(expected));
	for (size_t i = 0; i < ARRAY_SIZE(expected); i++)
		assert_string_equal(c->warnings[i], expected[i]);
	assert_int_equal(c->n_warnings_left_out, 0);
	config_free(c);
}

/* What is not here may be on another host. Warned of is what is nearly a name that is known, and what no host is said to have. */
static void names_of_other_hosts(void **state)
{
	static const char hosts[] = "host_name = a listen = \"10.0.0.1:7443\"\nhost a { address = \"10.0.0.1:7443\" }\nhost b { address = \"10.0.0.2:7443\" ";
	static const char *const slips[] = {
		"a.conf:4: 'default/web's upstream 'default/rediss' is no service of this host: is it on another one, or misspelt? Did you mean 'redis'?",
		"b.conf:1: the intention's source 'default/frontemd' is no service of this host: is it on another one, or misspelt? Did you mean 'frontend'?",
		"b.conf:2: the intention's destination 'default/billin' is no service of this host: is it on another one, or misspelt? Did you mean 'billing'?",
	};
	static const char *const unsaid[] = {
		"a.conf:4: 'default/web's upstream 'default/mail' is no service of this host, nor among the `services` of any other: name it there, if one has it",
		"a.conf:5: the intention's destination 'prod/log' is no service of this host, nor among the `services` of any other: name it there, if one has it",
	};
	char text[512];
	struct config *c;

	snprintf(text, sizeof(text), "%s}\nservice web { upstream rediss {} upstream billing {} upstream redis2 {} upstream far {} }\n"
				     "service redis {} service frontend { upstream billing {} }", hosts);
	c = accepted(text, "intention { source = frontemd destination = \"*\" action = allow }\n"
			   "intention { source = web destination = billin action = allow }\n"
			   "intention { source = wep destination = prod/redis action = allow }\n" /* too short; another namespace */
			   "intention { source = elsewhere destination = billing action = allow }");
	assert_int_equal(c->n_warnings, ARRAY_SIZE(slips));
	for (size_t i = 0; i < ARRAY_SIZE(slips); i++)
		assert_string_equal(c->warnings[i], slips[i]);
	config_free(c);
	snprintf(text, sizeof(text), "%sservices = [ far ] }\nservice web { upstream far {} upstream mail {} }\n"
				     "intention { source = other destination = prod/log action = allow }", hosts);
	c = accepted(text, NULL);
	assert_int_equal(c->n_warnings, ARRAY_SIZE(unsaid));
	for (size_t i = 0; i < ARRAY_SIZE(unsaid); i++)
		assert_string_equal(c->warnings[i], unsaid[i]);
	config_free(c);
	/* A catalogue may know more hosts. */
	snprintf(text + strlen(text), sizeof(text) - strlen(text), "\netcd { endpoints = \"http://127.0.0.1:2379\" }");
	c = accepted(text, NULL);
	assert_int_equal(c->n_warnings, 0);
	config_free(c);
}

/* A host among others that does not listen: its services are for itself. */
static void nobody_can_come(void **state)
{
	static const struct {
		const char *text, *warning; /* NULL: none */
	} cases[] = {
		{ "host b { address = \"10.0.0.2:7443\" }\nservice redis {}",
		  "a.conf:1: there are other hosts, and no `listen`: none of them reaches this one, so its services, such as 'default/redis', are for this host alone." },
		{ "host_name = a\nhost a { address = \"10.0.0.1:7443\" }\nhost b { address = \"10.0.0.2:7443\" }\nservice web { upstream far {} }",
		  "a.conf:3: there are other hosts, and no `listen`: this one reaches them, and none of them reaches it." },
		{ "authority = b\nservice redis {}", "there are other hosts, and no `listen`: none of them reaches this one" },
		{ "listen = \"0.0.0.0:7443\"\nhost b { address = \"10.0.0.2:7443\" }\nservice redis {}", NULL },
		{ "service redis {}", NULL },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct config *c = accepted(cases[i].text, NULL);

		assert_int_equal(c->n_warnings, cases[i].warning ? 1 : 0);
		if (cases[i].warning && strncmp(c->warnings[0], cases[i].warning, strlen(cases[i].warning)) != 0)
			fail_msg("%s", c->warnings[0]);
		config_free(c);
	}
}

static void links_are_read(void **state)
{
	struct config *c = accepted("host_name = a\nlisten = [ \"10.0.0.1:7443\", \"[fd00:0:0::1]:7443\" ]\nlinks = 2\n"
				    "host b { address = \"10.0.0.2:7443\" services = [ redis, prod/api ] }\n"
				    "authority = b\ncertificates = \"/etc/sealane/certs\"\nsvid_life = 30s\nlink_idle = 5s\n"
				    "link_timeout = 20s\nlink_window = 512K\nlink_congestion = system\n",
				    "hosts { c { address = \"10.0.0.3:7443\" } }\nservice web { upstream far {} }\n"
				    "intention { source = web destination = far action = allow }");
	const struct config_link *l = &c->link;

	assert_true(l->wanted);
	assert_string_equal(l->host_name, "a");
	assert_int_equal(l->n_listen, 2);
	assert_string_equal(l->listen[0], "10.0.0.1:7443");
	assert_string_equal(l->listen[1], "[fd00::1]:7443");
	assert_int_equal(l->n_linkers, 2);
	assert_string_equal(l->authority, "b");
	assert_string_equal(l->certificates, "/etc/sealane/certs");
	assert_true(l->svid_life_s == 30 && l->idle_s == 5 && l->timeout_s == 20);
	assert_int_equal(l->window, 512 << 10);
	assert_string_equal(l->congestion, "");
	assert_int_equal(c->n_hosts, 2);
	assert_string_equal(c->hosts[0].name, "b");
	assert_int_equal(c->hosts[0].n_services, 2);
	assert_string_equal(c->hosts[0].services[1].ns, "prod");
	assert_string_equal(c->hosts[1].address, "10.0.0.3:7443");
	assert_int_equal(c->n_warnings, 0); /* far may be anywhere */
	config_free(c);
	c = accepted("", NULL);
	assert_false(c->link.wanted);
	assert_int_equal(c->link.n_linkers, 1);
	assert_int_equal(c->link.window, 256 << 10);
	assert_string_equal(c->link.congestion, "cubic");
	config_free(c);
}

static void address_is(const char *text, unsigned linker, const char *expected)
{
	struct config *c = accepted(text, NULL);
	char got[LIMIT_ADDRESS_SIZE];
	const char *lacks = config_rdma_address(c, linker, got);

	assert_string_equal(got, expected);
	assert_true(!lacks == (expected[0] != '\0'));
	config_free(c);
}

static void rdma_is_off(void **state)
{
	struct config *c = accepted("rdma = off\nrdma_listen = \"10.8.0.1:4000\"", NULL);

	assert_int_equal(c->n_warnings, 1);
	assert_string_equal(c->warnings[0], "a.conf:2: rdma_listen = \"10.8.0.1:4000\" is not used, since rdma = off");
	config_free(c);
}

/* Where linkers open their devices: what was said, then what is one machine's address. */
static void rdma_addresses(void **state)
{
	struct config *c = accepted("rdma = off", NULL);

	assert_int_equal(c->link.rdma, CONFIG_RDMA_OFF);
	config_free(c);
	address_is("", 0, "");
	address_is("listen = \"0.0.0.0:7443\"", 0, "");
	address_is("listen = [ \"[::]:7443\", \"10.0.0.1:7443\" ]", 0, "10.0.0.1:7443");
	address_is("listen = [ \"10.0.0.1:7443\" ]", 3, "10.0.0.1:7446");
	address_is("listen = [ \"10.0.0.1:65535\" ]", 0, "10.0.0.1:65535");
	address_is("listen = [ \"10.0.0.1:65535\" ]", 1, "");
	address_is("host_name = a\nlisten = \"0.0.0.0:7443\"\nhost a { address = \"[fd00::1]:7443\" }\nhost b { address = \"10.0.0.2:1\" }", 1, "[fd00::1]:7444");
	address_is("listen = \"10.0.0.1:7443\"\nrdma_listen = \"10.8.0.1:4000\"", 2, "10.8.0.1:4002");
	address_is("host_name = a\nlisten = \"10.0.0.1:7443\"\nhost a { address = \"10.0.0.1:7443\" rdma_listen = \"10.8.0.1:4000\" }", 0, "10.8.0.1:4000");
}

static void etcd_is_read(void **state)
{
	struct config *c = accepted("host_name = a\netcd { endpoints = [ \"https://10.0.0.9:2379\", \"https://[fd00::9]:2379\" ] prefix = \"/prod/sealane\" "
				    "ca = \"/e/ca\" certificate = \"/e/crt\" key = \"/e/key\" user = u password_file = \"/e/p\" lease = 15s address = \"10.0.0.1:7443\" }",
				    NULL);
	const struct config_etcd *e = &c->etcd;

	assert_true(e->present && c->link.wanted);
	assert_int_equal(e->n_endpoints, 2);
	assert_string_equal(e->endpoints[1], "https://[fd00::9]:2379");
	assert_string_equal(e->prefix, "/prod/sealane");
	assert_string_equal(e->ca, "/e/ca");
	assert_string_equal(e->certificate, "/e/crt");
	assert_string_equal(e->key, "/e/key");
	assert_string_equal(e->user, "u");
	assert_string_equal(e->password_file, "/e/p");
	assert_string_equal(e->address, "10.0.0.1:7443");
	assert_true(e->lease_s == 15);
	config_free(c);
	c = accepted("host_name = a\netcd { endpoints = \"http://127.0.0.1:2379\" user = u password_file = \"/p\" }", NULL);
	assert_string_equal(c->etcd.prefix, "/sealane");
	assert_true(c->etcd.lease_s == 10);
	config_free(c);
	c = accepted("", NULL);
	assert_false(c->etcd.present);
	config_free(c);
}

static void times_are_rfc3339(void **state)
{
	static const struct {
		const char *text;
		int64_t unix_s; /* 0: refused */
	} cases[] = {
		{ "2027-01-01T00:00:00Z", 1798761600 },	     { "2027-01-01t00:00:00z", 1798761600 },
		{ "2026-12-31T19:00:00-05:00", 1798761600 }, { "2028-02-29T00:00:00Z", 1835395200 },
		{ "2016-12-31T23:59:60Z", 1483228800 },	     { "2027-01-01T00:00:00.123Z", 1798761600 },
		{ "2027-01-01T00:00:00", 0 },		     { "2027-01-01 00:00:00Z", 0 },
		{ "2027-13-01T00:00:00Z", 0 },		     { "2027-00-01T00:00:00Z", 0 },
		{ "2027-01-32T00:00:00Z", 0 },		     { "2027-01-01T24:00:00Z", 0 },
		{ "2027-01-01T00:60:00Z", 0 },		     { "2027-01-01T00:00:00.Z", 0 },
		{ "2027-01-01T00:00:00+24:00", 0 },	     { "2027-01-01T00:00:00Zx", 0 },
		{ "1969-01-01T00:00:00Z", 0 },		     { "2100-02-29T00:00:00Z", 0 },
		{ "20270101", 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct config *c = NULL;
		char text[160];
		int r;

		snprintf(text, sizeof(text), "intention { source = a destination = b action = allow expires = \"%s\" }", cases[i].text);
		r = load(&c, text, NULL);
		if ((r == 0) != (cases[i].unix_s != 0) || (r == 0 && c->intentions[0].expires_unix_s != cases[i].unix_s))
			fail_msg("%s", cases[i].text);
		config_free(c);
	}
}

/* What this process took of a CPU: a busy machine does not add to it. */
static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

/* 1,000 workloads and 10,000 intentions are to start in 2 s, of which this may take a quarter; it takes some 25 ms. */
static void large_files_load_fast(void **state)
{
	size_t n = 0, cap = 4 << 20;
	char *text = malloc(cap);
	struct config *c;
	uint64_t start;

	assert_non_null(text);
	for (unsigned i = 0; i < 1000; i++)
		n += (size_t)snprintf(text + n, cap - n, "service s%u { upstream s%u {} offer = true }\n", i, (i + 1) % 1000);
	for (unsigned i = 0; i < 10000; i++)
		n += (size_t)snprintf(text + n, cap - n,
				      "intention { source = s%u destination = d%u action = allow limits { open_lanes = 5 } }\n",
				      i % 1000, i / 1000);
	start = cpu_ns();
	c = accepted(text, NULL);
	start = cpu_ns() - start;
	print_message("10,000 intentions, 1,000 services: %.1f ms\n", (double)start / 1e6);
	assert_true(start < UINT64_C(5000000000)); /* ten times the aim: sanitizers */
	assert_int_equal(c->n_intentions, 10000);
	assert_int_equal(c->n_warnings, CONFIG_WARNINGS_MAX); /* no service is called d5 */
	assert_int_equal(c->n_warnings + c->n_warnings_left_out, 10000);
	config_free(c);
	free(text);
}

static struct config *load_example(const char *name)
{
	char path[4096];
	char *text = malloc(1 << 20);
	struct config_source source = { name, text, 0 };
	struct config *c = NULL;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", g_examples, name);
	f = fopen(path, "rb");
	assert_non_null(f);
	source.size = fread(text, 1, 1 << 20, f);
	fclose(f);
	if (config_load(&c, &source, 1, &g_error) < 0)
		fail_msg("%s", g_error.text);
	free(text);
	return c;
}

static void examples_load(void **state)
{
	static const char *const names[] = { "sealane.conf", "sealane.json", "limits.conf", "multi-namespace.conf", "cluster.conf", "consul-mysql.hcl", "hosts-a.conf", "hosts-b.conf" };

	if (!g_examples)
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct config *c = load_example(names[i]);

		assert_true(c->n_workloads > 0);
		assert_int_equal(c->n_warnings, 0);
		if (i < 2) { /* the two forms of one */
			assert_string_equal(workload_of(c, "redis"), "cache");
			assert_true(service(c, "redis")->check.socket);
			assert_int_equal(c->n_workloads, 3);
			assert_int_equal(c->n_upstreams, 2);
			assert_int_equal(c->n_intentions, 1);
			assert_int_equal(c->upstreams[0].access.mode, 0666);
		}
		config_free(c);
	}
}

/* What packaging installs as /etc/sealane/sealane.conf: examples that a daemon starts with, and that start nothing. */
static void nothing_said_loads(void **state)
{
	struct config *c;

	if (!g_examples)
		skip();
	c = load_example("etc-sealane.conf");
	assert_int_equal(c->n_workloads + c->n_intentions + c->n_warnings, 0);
	config_free(c);
}

/* The file of the article that told how Consul learnt socket paths, word for word. */
static void the_article_loads(void **state)
{
	const struct config_service *mysql;
	struct config *c;

	if (!g_examples)
		skip();
	c = load_example("consul-mysql.hcl");
	mysql = service(c, "mysql");
	assert_string_equal(mysql->socket_path, "/tmp/mysql/mysqld.sock");
	assert_string_equal(mysql->check.args[3], "/tmp/mysql/mysqld.sock");
	assert_true(mysql->check.interval_s == 5 && mysql->check.timeout_s == 1);
	assert_false(service(c, "client")->offered);
	assert_int_equal(c->n_upstreams, 1);
	assert_string_equal(c->upstreams[0].destination.name, "mysql");
	assert_string_equal(c->upstreams[0].path, "/tmp/mysql/mysql_local.sock");
	config_free(c);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults_hold),	 cmocka_unit_test(globals_are_read),
		cmocka_unit_test(services_are_read),	 cmocka_unit_test(workloads_take_services),
		cmocka_unit_test(intentions_are_read),	 cmocka_unit_test(json_says_the_same),
		cmocka_unit_test(consul_says_the_same),	 cmocka_unit_test(mistakes_are_told),
		cmocka_unit_test(times_are_rfc3339),	 cmocka_unit_test(large_files_load_fast),
		cmocka_unit_test(likely_mistakes_are_warned_of), cmocka_unit_test(names_of_other_hosts), cmocka_unit_test(nobody_can_come), cmocka_unit_test(nothing_said_loads),
		cmocka_unit_test(examples_load),	 cmocka_unit_test(the_article_loads),
		cmocka_unit_test(links_are_read),
		cmocka_unit_test(rdma_addresses), cmocka_unit_test(rdma_is_off), cmocka_unit_test(etcd_is_read),
	};

	g_examples = argc > 1 ? argv[1] : NULL;
	config_set_resolver(resolve_user, resolve_group);
	return cmocka_run_group_tests_name("conf/config", tests, NULL, NULL);
}
