/*
 * Theory of operation
 *
 * What a configuration says about other hosts: who they are and where (`host b { address = ... }`), where this host listens,
 * and how links behave. Whoever writes none of it has one host, and nothing of this runs; so `link.wanted` tells whether
 * anything was said.
 *
 * Two passes, as for services: names are collected over all files, then the blocks are read, since a host's services are
 * names and those need the default namespace. What must never happen: a host's address that has to be looked up (base/address.h
 * says why), or two hosts of one name.
 *
 * Before this file: config.c. After it: daemon/broker_link.c, and broker_ca.c for authority, certificates and svid_life.
 */
#include "conf/config_priv.h"

#include "base/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>

enum { WINDOW_MIN = 16 << 10, WINDOW_MAX = 16 << 20 }; /* docs/design/link.md, HELLO */

/* --- single keys --- */

static int read_host_label(struct loader *l, const struct conf_node *n, char ret[LIMIT_NAME_SIZE])
{
	const char *text = "";
	int r = config_read_text(l, n, "the name of a host", &text);

	if (r < 0)
		return r;
	if (!label_is_valid(text) || !str_copy(ret, LIMIT_NAME_SIZE, text))
		return config_bad_value(l, n, "a host's name of a-z, 0-9 and '-', at most 63");
	return 0;
}

int config_set_host_name(struct loader *l, void *obj, const struct conf_node *n)
{
	return read_host_label(l, n, l->config->link.host_name);
}

int config_set_authority(struct loader *l, void *obj, const struct conf_node *n)
{
	l->config->link.wanted = true;
	return read_host_label(l, n, l->config->link.authority);
}

static bool looks_like_a_name(const char *s)
{
	size_t n = strcspn(s, ":");

	return s[0] != '[' && strspn(s, "0123456789.") < n;
}

/* Normal form, so that equal addresses are equal texts. */
static int read_address(struct loader *l, const struct conf_node *n, char ret[LIMIT_ADDRESS_SIZE])
{
	struct sockaddr_storage a;
	const char *text = "";
	socklen_t size;
	int r = config_read_text(l, n, "an address and a port, such as \"10.0.0.2:7443\"", &text);

	if (r < 0)
		return r;
	if (address_parse(text, &a, &size) < 0)
		return config_bad_value(l, n, "%san address in numbers and a port, such as \"10.0.0.2:7443\" or \"[fd00::2]:7443\"",
					looks_like_a_name(text) ? "no name (names are not looked up) but " : "");
	address_format(ret, &a);
	return 0;
}

int config_set_listen(struct loader *l, void *obj, const struct conf_node *n)
{
	struct config_link *c = &l->config->link;

	c->n_listen = 0;
	c->wanted = true;
	config_each_element(e, n) {
		int r;

		if (c->n_listen == CONFIG_LISTEN_MAX)
			return conf_fail(l->error, n, "found more than %d addresses, expected [::]:PORT or 0.0.0.0:PORT for all of them",
					 CONFIG_LISTEN_MAX);
		r = read_address(l, e, c->listen[c->n_listen]);
		if (r < 0)
			return r;
		for (size_t i = 0; i < c->n_listen; i++)
			if (strcmp(c->listen[i], c->listen[c->n_listen]) == 0)
				return config_bad_value(l, e, "each address once");
		c->n_listen++;
	}
	return 0;
}

int config_set_links(struct loader *l, void *obj, const struct conf_node *n)
{
	uint64_t v;
	int r = config_read_amount(l, n, 1, LIMIT_LINKERS, &v);

	if (r == 0)
		l->config->link.n_linkers = (unsigned)v;
	return r;
}

int config_set_certificates(struct loader *l, void *obj, const struct conf_node *n)
{
	int r;

	l->config->link.wanted = true;
	if (n->kind != CONF_STRING || n->string[0] != '/')
		return config_bad_value(l, n, "an absolute path such as \"/etc/sealane/certs\"");
	r = config_check_absolute(l, n, n->string);
	return r < 0 ? r : config_read_copy(l, n, "a path", &l->config->link.certificates);
}

int config_set_svid_life(struct loader *l, void *obj, const struct conf_node *n)
{
	return config_read_duration(l, n, 10, 30 * 86400, &l->config->link.svid_life_s);
}

int config_set_link_idle(struct loader *l, void *obj, const struct conf_node *n)
{
	return config_read_duration(l, n, 1, 86400, &l->config->link.idle_s);
}

int config_set_link_timeout(struct loader *l, void *obj, const struct conf_node *n)
{
	/* PING goes out after 5 s of silence; less than two of them would end sessions that live. */
	return config_read_duration(l, n, 10, 3600, &l->config->link.timeout_s);
}

int config_set_link_window(struct loader *l, void *obj, const struct conf_node *n)
{
	const char *s = n->kind == CONF_STRING || n->kind == CONF_NUMBER ? n->string : "";
	size_t digits = strspn(s, "0123456789");
	struct conf_node binary = *n;
	char text[24];
	uint64_t v;
	int r;

	/* Memory is counted in powers of two: "256K" is 262144 here, whatever k means for rates. */
	if (digits > 0 && digits < 10 && (strcasecmp(s + digits, "k") == 0 || strcasecmp(s + digits, "m") == 0)) {
		snprintf(text, sizeof(text), "%sib", s);
		binary.string = text;
	}
	r = config_read_amount(l, &binary, WINDOW_MIN, WINDOW_MAX, &v);
	if (r == 0)
		l->config->link.window = (uint32_t)v;
	return r;
}

int config_set_link_congestion(struct loader *l, void *obj, const struct conf_node *n)
{
	const char *text = "";
	int r = config_read_text(l, n, "the name of a congestion control such as \"cubic\", or \"system\"", &text);

	if (r < 0)
		return r;
	if (strcmp(text, "system") == 0)
		text = "";
	/* TCP_CA_NAME_MAX is 16 with the NUL; which ones there are only the kernel knows. */
	if (strlen(text) > 15 || strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_-") != strlen(text))
		return config_bad_value(l, n, "the name of a congestion control such as \"cubic\" or \"bbr\", or \"system\"");
	return str_copy(l->config->link.congestion, sizeof(l->config->link.congestion), text) ? 0 : -EINVAL;
}

/* --- RDMA --- */

int config_set_rdma(struct loader *l, void *obj, const struct conf_node *n)
{
	static const char *const words[] = { [CONFIG_RDMA_AUTO] = "auto", [CONFIG_RDMA_OFF] = "off", [CONFIG_RDMA_PLAIN] = "plain" };

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (n->kind == CONF_STRING && strcmp(n->string, words[i]) == 0) {
			l->config->link.rdma = (enum config_rdma)i;
			return 0;
		}
	return config_bad_value(l, n, "auto, off, or plain where the network of the device encrypts");
}

static uint16_t port_of(const struct sockaddr_storage *a)
{
	return ntohs(a->ss_family == AF_INET6 ? ((const struct sockaddr_in6 *)a)->sin6_port : ((const struct sockaddr_in *)a)->sin_port);
}

static void set_port(struct sockaddr_storage *a, uint16_t port)
{
	if (a->ss_family == AF_INET6)
		((struct sockaddr_in6 *)a)->sin6_port = htons(port);
	else
		((struct sockaddr_in *)a)->sin_port = htons(port);
}

/* [::] and 0.0.0.0 are every machine's. */
static bool is_wildcard(const struct sockaddr_storage *a)
{
	if (a->ss_family == AF_INET6)
		return IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)a)->sin6_addr);
	return ((const struct sockaddr_in *)a)->sin_addr.s_addr == htonl(INADDR_ANY);
}

static int read_rdma_listen(struct loader *l, const struct conf_node *n, char ret[LIMIT_ADDRESS_SIZE])
{
	struct sockaddr_storage a;
	const char *text = "";
	socklen_t size;
	int r = config_read_text(l, n, "the address of an RDMA device and a port, such as \"10.0.0.1:7443\"", &text);

	if (r < 0)
		return r;
	/* A device may have several addresses, and the one that is meant is the one that the others reach: so no device's name. */
	if (address_parse(text, &a, &size) < 0 || is_wildcard(&a) || port_of(&a) > UINT16_MAX - LIMIT_LINKERS)
		return config_bad_value(l, n, "the address of one RDMA device in numbers and a port up to %d, such as \"10.0.0.1:7443\" (`rdma link` and"
					      " `ip address` tell which device has which)", UINT16_MAX - LIMIT_LINKERS);
	address_format(ret, &a);
	return 0;
}

int config_set_rdma_listen(struct loader *l, void *obj, const struct conf_node *n)
{
	l->config->link.rdma_listen_file = n->file;
	l->config->link.rdma_listen_line = n->line;
	return read_rdma_listen(l, n, l->config->link.rdma_listen);
}

/* A candidate: is it one machine's address? */
static bool is_one_address(const char *text, struct sockaddr_storage *ret)
{
	socklen_t size;

	return text[0] && address_parse(text, ret, &size) == 0 && !is_wildcard(ret);
}

static bool find_rdma_address(const struct config *c, struct sockaddr_storage *ret)
{
	if (is_one_address(c->link.rdma_listen, ret))
		return true;
	for (size_t i = 0; i < c->n_hosts; i++)
		if (strcmp(c->hosts[i].name, c->link.host_name) == 0 && is_one_address(c->hosts[i].rdma_listen, ret))
			return true;
	for (size_t i = 0; i < c->link.n_listen; i++)
		if (is_one_address(c->link.listen[i], ret))
			return true;
	for (size_t i = 0; i < c->n_hosts; i++)
		if (strcmp(c->hosts[i].name, c->link.host_name) == 0 && is_one_address(c->hosts[i].address, ret))
			return true;
	return is_one_address(c->etcd.address, ret);
}

const char *config_rdma_address(const struct config *c, unsigned linker, char *ret)
{
	struct sockaddr_storage a;

	ret[0] = '\0';
	if (!find_rdma_address(c, &a))
		return "no address of this host is configured that an RDMA device could have: say rdma_listen = \"ADDRESS:PORT\"";
	if (port_of(&a) + linker > UINT16_MAX)
		return "its port is above 65535: say rdma_listen = \"ADDRESS:PORT\", with a port for each linker";
	set_port(&a, (uint16_t)(port_of(&a) + linker));
	address_format(ret, &a);
	return NULL;
}

/* --- host NAME { ... } --- */

int config_collect_host(struct loader *l, void *obj, const struct config_item *item)
{
	struct config *c = l->config;
	struct config_host *h;
	int r = config_grow(&c->hosts, &l->cap_hosts, c->n_hosts, sizeof(*c->hosts));

	if (r == 0)
		r = config_grow(&l->hosts, &l->cap_host_drafts, c->n_hosts, sizeof(struct conf_node *));
	if (r < 0)
		return r;
	if (c->n_hosts >= LIMIT_HOSTS)
		return conf_fail(l->error, item->at, "found more than %d hosts", LIMIT_HOSTS);
	h = &c->hosts[c->n_hosts];
	*h = (struct config_host){ .file = item->at->file, .line = item->at->line };
	if (!label_is_valid(item->name) || !str_copy(h->name, sizeof(h->name), item->name))
		return conf_fail(l->error, item->at, "found the name \"%.140s\", expected a host's name of a-z, 0-9 and '-', at most 63",
				 item->name);
	for (size_t i = 0; i < c->n_hosts; i++)
		if (strcmp(h->name, c->hosts[i].name) == 0)
			return conf_fail(l->error, item->at, "host '%s' is defined twice, first at %.200s:%u; expected one block a host", h->name,
					 c->hosts[i].file, c->hosts[i].line);
	if (!item->body)
		return conf_fail(l->error, item->at, "host '%s' has no address; expected host %s { address = \"10.0.0.2:7443\" }", h->name,
				 h->name);
	l->hosts[c->n_hosts++] = item->body;
	return 0;
}

static int host_set_address(struct loader *l, void *obj, const struct conf_node *n)
{
	return read_address(l, n, ((struct config_host *)obj)->address);
}

static int host_set_rdma_listen(struct loader *l, void *obj, const struct conf_node *n)
{
	return read_rdma_listen(l, n, ((struct config_host *)obj)->rdma_listen);
}

static int host_set_services(struct loader *l, void *obj, const struct conf_node *n)
{
	struct config_host *h = obj;
	size_t cap = 0;

	config_each_element(e, n) {
		const char *text = "";
		int r = config_read_text(l, e, "the name of a service", &text);

		if (r == 0 && h->n_services >= LIMIT_SERVICES)
			r = conf_fail(l->error, n, "found more than %d services", LIMIT_SERVICES);
		if (r == 0)
			r = config_grow(&h->services, &cap, h->n_services, sizeof(*h->services));
		if (r < 0)
			return r;
		if (service_name_parse(&h->services[h->n_services], text, l->config->namespace_) < 0)
			return config_bad_value(l, e, "NAME or NAMESPACE/NAME of a-z, 0-9 and '-', at most 63 each");
		h->n_services++;
	}
	return 0;
}

static const struct config_key host_keys[] = {
	{ "name", NULL, NULL, false },
	{ "address", host_set_address, NULL, false },
	{ "rdma_listen", host_set_rdma_listen, NULL, false },
	{ "services", host_set_services, NULL, false },
};
const struct config_kind config_host_kind = { .what = "a host", .tables = { CONFIG_TABLE(host_keys) }, .name_keys = { "name" } };

/* The machine's own name, up to the first dot, as far as it can be a host's name. */
static void default_host_name(struct config_link *c)
{
	char name[256] = "";

	if (gethostname(name, sizeof(name) - 1) < 0)
		return;
	name[strcspn(name, ".")] = '\0';
	for (char *p = name; *p; p++)
		if (*p >= 'A' && *p <= 'Z')
			*p = (char)(*p - 'A' + 'a'); /* host names are compared without case */
	if (!label_is_valid(name) || !str_copy(c->host_name, sizeof(c->host_name), name))
		c->host_name[0] = '\0';
}

int config_read_hosts(struct loader *l)
{
	struct config *c = l->config;

	for (size_t i = 0; i < c->n_hosts; i++) {
		int r = config_read_block(l, &config_host_kind, l->hosts[i], &c->hosts[i]);

		if (r == 0 && !c->hosts[i].address[0])
			r = conf_fail(l->error, l->hosts[i], "host '%s' has no address; expected address = \"10.0.0.2:7443\"", c->hosts[i].name);
		if (r < 0)
			return r;
	}
	c->link.wanted |= c->n_hosts > 0;
	if (!c->link.host_name[0])
		default_host_name(&c->link);
	if (c->link.wanted && !c->link.host_name[0])
		return conf_fail(l->error, conf_tree_root(c->trees[0]),
				 "the name of this machine cannot be a host's name; expected host_name = \"NAME\" of a-z, 0-9 and '-'");
	return 0;
}

void config_link_defaults(struct config_link *c)
{
	static const char cubic[] = "cubic";

	c->n_linkers = 1;
	c->svid_life_s = 3600;
	c->idle_s = 60;
	c->timeout_s = 15;
	c->window = 256 << 10;
	memcpy(c->congestion, cubic, sizeof(cubic));
}
