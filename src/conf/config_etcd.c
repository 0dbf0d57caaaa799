/*
 * Theory of operation
 *
 * `etcd { ... }`: where the catalogue of a cluster is kept (docs/design/catalogue.md). One block, its values, and then what only holds
 * for all of them together: a password does not cross a network in the clear, and a certificate comes with its key. Whoever tells
 * others of this host must know its name: config_link.c sees to that.
 *
 * The files that it names are not opened here: the warden does that, for the role that needs them.
 *
 * Before this file: config.c. After it: daemon/broker_catalogue.c.
 */
#include "conf/config_priv.h"

#include "base/address.h"

#include <ctype.h>

enum { LEASE_MIN_S = 3, LEASE_MAX_S = 600 }; /* etcd grants no less than about 2 s; who is gone longer than 10 min was told too late */

static const char g_endpoint[] = "http:// or https://, a host and a port, such as \"https://10.0.0.9:2379\"";

/* --- single values --- */

static size_t host_length(const char *s)
{
	if (*s == '[')
		return s[1 + strspn(s + 1, "0123456789abcdefABCDEF:.")] == ']' ? strspn(s + 1, "0123456789abcdefABCDEF:.") + 2 : 0;
	return strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-");
}

static bool is_port(const char *s)
{
	size_t n = strspn(s, "0123456789");
	long v = n > 0 && n <= 5 ? strtol(s, NULL, 10) : 0;

	return s[n] == '\0' && v > 0 && v < 65536;
}

static bool is_endpoint(const char *s)
{
	size_t n = strncmp(s, "https://", 8) == 0 ? 8 : strncmp(s, "http://", 7) == 0 ? 7 : 0;
	size_t host = n ? host_length(s + n) : 0;

	return host > 0 && s[n + host] == ':' && is_port(s + n + host + 1);
}

static int set_endpoints(struct loader *l, void *obj, const struct conf_node *n)
{
	struct config_etcd *c = obj;

	config_each_element(e, n) {
		const char *text = "";
		int r;

		if (c->n_endpoints == LIMIT_ETCD_ENDPOINTS)
			return conf_fail(l->error, n, "found more than %d endpoints", LIMIT_ETCD_ENDPOINTS);
		r = config_read_text(l, e, g_endpoint, &text);
		if (r < 0)
			return r;
		if (!is_endpoint(text) || !str_copy(c->endpoints[c->n_endpoints], LIMIT_ETCD_ENDPOINT_SIZE, text))
			return config_bad_value(l, e, "%s", g_endpoint);
		c->n_endpoints++;
	}
	return c->n_endpoints ? 0 : conf_fail(l->error, n, "found no endpoint, expected %s", g_endpoint);
}

static int set_prefix(struct loader *l, void *obj, const struct conf_node *n)
{
	static const char expected[] = "a prefix such as \"/sealane\": '/', then letters, digits, '.', '_', '-' and '/', at most 126";
	struct config_etcd *c = obj;
	const char *text = "";
	int r = config_read_text(l, n, expected, &text);
	size_t size;

	if (r < 0)
		return r;
	size = strlen(text);
	if (size < 2 || text[0] != '/' || text[size - 1] == '/' || strstr(text, "//") || !str_copy(c->prefix, sizeof(c->prefix) - 1, text))
		return config_bad_value(l, n, "%s", expected);
	for (const char *p = text; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr("._-/", *p))
			return config_bad_value(l, n, "%s", expected);
	return 0;
}

static int set_file(struct loader *l, const struct conf_node *n, char **ret)
{
	int r;

	if (n->kind != CONF_STRING || n->string[0] != '/')
		return config_bad_value(l, n, "the absolute path of a file");
	r = config_check_absolute(l, n, n->string);
	return r < 0 ? r : config_read_copy(l, n, "a path", ret);
}

static int set_ca(struct loader *l, void *obj, const struct conf_node *n)
{
	return set_file(l, n, &((struct config_etcd *)obj)->ca);
}

static int set_certificate(struct loader *l, void *obj, const struct conf_node *n)
{
	return set_file(l, n, &((struct config_etcd *)obj)->certificate);
}

static int set_key(struct loader *l, void *obj, const struct conf_node *n)
{
	return set_file(l, n, &((struct config_etcd *)obj)->key);
}

static int set_password_file(struct loader *l, void *obj, const struct conf_node *n)
{
	return set_file(l, n, &((struct config_etcd *)obj)->password_file);
}

static int set_user(struct loader *l, void *obj, const struct conf_node *n)
{
	struct config_etcd *c = obj;
	const char *text = "";
	int r = config_read_text(l, n, "the name of etcd's user", &text);

	if (r < 0)
		return r;
	if (!text[0] || !str_copy(c->user, sizeof(c->user), text))
		return config_bad_value(l, n, "the name of etcd's user, at most 63 characters");
	return 0;
}

static int set_lease(struct loader *l, void *obj, const struct conf_node *n)
{
	return config_read_duration(l, n, LEASE_MIN_S, LEASE_MAX_S, &((struct config_etcd *)obj)->lease_s);
}

static int set_address(struct loader *l, void *obj, const struct conf_node *n)
{
	struct sockaddr_storage a;
	const char *text = "";
	socklen_t size;
	int r = config_read_text(l, n, "the address and port that other hosts reach this one at", &text);

	if (r < 0)
		return r;
	if (address_parse(text, &a, &size) < 0)
		return config_bad_value(l, n, "an address in numbers and a port, such as \"10.0.0.2:7443\"");
	address_format(((struct config_etcd *)obj)->address, &a);
	return 0;
}

int config_set_etcd(struct loader *l, void *obj, const struct conf_node *n)
{
	static const struct config_key keys[] = {
		{ "endpoints", set_endpoints, NULL, false },	 { "prefix", set_prefix, NULL, false },
		{ "ca", set_ca, NULL, false },			 { "certificate", set_certificate, NULL, false },
		{ "key", set_key, NULL, false },		 { "user", set_user, NULL, false },
		{ "password_file", set_password_file, NULL, false }, { "lease", set_lease, NULL, false },
		{ "address", set_address, NULL, false },
		{ "password", NULL, "write it into a file that only root can read, and name that: password_file = FILE", false },
	};
	static const struct config_kind kind = { .what = "etcd", .tables = { CONFIG_TABLE(keys) } };
	struct config *c = l->config;

	c->etcd.present = c->link.wanted = true;
	l->etcd = n;
	return config_read_block(l, &kind, n, &c->etcd);
}

/* --- what holds for all of it --- */

static bool is_secure(const char *endpoint)
{
	return strncmp(endpoint, "https:", 6) == 0;
}

static bool is_loopback(const char *endpoint)
{
	static const char *const starts[] = { "http://127.", "http://[::1]:", "http://localhost:" };

	for (size_t i = 0; i < ARRAY_SIZE(starts); i++)
		if (strncmp(endpoint, starts[i], strlen(starts[i])) == 0)
			return true;
	return false;
}

static int check_security(struct loader *l, const struct config_etcd *c)
{
	bool secure = is_secure(c->endpoints[0]);

	for (size_t i = 0; i < c->n_endpoints; i++) {
		if (is_secure(c->endpoints[i]) != secure)
			return conf_fail(l->error, l->etcd, "found endpoints with http:// and with https://, expected one of both for all");
		if (!secure && c->user[0] && !is_loopback(c->endpoints[i]))
			return conf_fail(l->error, l->etcd, "found a user and '%s', where the password could be read on its way; expected https://",
					 c->endpoints[i]);
	}
	if (!secure && (c->ca || c->certificate || c->key))
		return conf_fail(l->error, l->etcd, "found ca, certificate or key, and endpoints with http://; expected https://");
	return 0;
}

int config_read_etcd(struct loader *l)
{
	const struct config_etcd *c = &l->config->etcd;

	if (!c->present)
		return 0;
	if (c->n_endpoints == 0)
		return conf_fail(l->error, l->etcd, "there are no endpoints, expected endpoints = [ \"https://10.0.0.9:2379\", ... ]");
	if (!c->certificate != !c->key)
		return conf_fail(l->error, l->etcd, "found %s, expected certificate and key, or none of both", c->key ? "key alone" : "certificate alone");
	if (!c->user[0] != !c->password_file)
		return conf_fail(l->error, l->etcd, "found %s, expected user and password_file, or none of both",
				 c->user[0] ? "user alone" : "password_file alone");
	return check_security(l, c);
}

void config_etcd_defaults(struct config_etcd *c)
{
	static const char prefix[] = "/sealane";

	memcpy(c->prefix, prefix, sizeof(prefix));
	c->lease_s = 10;
}

void config_etcd_free(struct config_etcd *c)
{
	free(c->ca);
	free(c->certificate);
	free(c->key);
	free(c->password_file);
}
