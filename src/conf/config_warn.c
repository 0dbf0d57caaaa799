/*
 * Theory of operation
 *
 * The last pass: names that lead nowhere, and a host that nobody can reach. Each is legal, since files may be written before the services are, and likely a slip of
 * the pen; so nothing fails here, but for memory. Suggestions are sought only for warnings that are kept, and on a host among
 * others only so often, so that the cost is bounded whatever the files hold. What must never happen: that anything but a
 * person's reading depends on a warning.
 *
 * Where there are other hosts, a name that is none of this one's is most often theirs, and which services they have is known only
 * when they are reached. Then there is a warning where the name is nearly one that these files know, or where they say of every other
 * host what it offers and it is not among that.
 */
#include "conf/config_priv.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>

enum {
	WARNING_SIZE = LIMIT_PATH_SIZE + 1024,
	/* Names that a slip is looked for in: each costs a walk over all that are known. */
	SLIPS_SOUGHT_MAX = 256,
	/* Below this many letters everything is near everything. */
	SLIP_LENGTH_MIN = 4,
};

/* On a host among others: names that its files know beside its own services, in order. */
struct known {
	struct service_name *names; /* owned; what `services` of hosts say, and destinations of upstreams */
	size_t n;
	bool all_said; /* of every other host there is a list, and no catalogue could add to it */
	unsigned n_sought;
};

static bool is_full(struct config *c)
{
	if (c->n_warnings < CONFIG_WARNINGS_MAX)
		return false;
	c->n_warnings_left_out++;
	return true;
}

/* Adds the text after what stands in @text, the place. */
static int PRINTF_LIKE(3, 4) add(struct config *c, char text[WARNING_SIZE], const char *fmt, ...)
{
	size_t n = strlen(text);
	va_list args;

	va_start(args, fmt);
	vsnprintf(text + n, WARNING_SIZE - n, fmt, args);
	va_end(args);
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = '?';
	c->warnings[c->n_warnings] = strdup(text);
	if (!c->warnings[c->n_warnings])
		return -ENOMEM;
	c->n_warnings++;
	return 0;
}

/* The nearest service: of the same namespace by its name, or of the same name by its namespace. */
static const char *suggest(const struct config *c, const struct service_name *wanted, char buf[160])
{
	struct config_guess g = { .wanted = wanted->name };

	for (size_t i = 0; i < c->n_services; i++) {
		const struct service_name *s = &c->services[i].name;

		if (strcmp(s->name, wanted->name) == 0) {
			snprintf(buf, 160, "; did you mean '%s/%s'?", s->ns, s->name);
			return buf;
		}
		if (strcmp(s->ns, wanted->ns) == 0)
			config_guess_add(&g, s->name);
	}
	return config_guess_text(&g, buf);
}

/* --- a host among others --- */

static int compare_names(const void *a, const void *b)
{
	const struct service_name *x = a, *y = b;
	int r = strcmp(x->ns, y->ns);

	return r ? r : strcmp(x->name, y->name);
}

static bool is_other_host(const struct config *c, const struct config_host *h)
{
	return strcmp(h->name, c->link.host_name) != 0;
}

static int known_init(const struct config *c, struct known *k)
{
	size_t n_other = 0, n = c->n_upstreams;

	*k = (struct known){ .all_said = !c->etcd.present };
	for (size_t i = 0; i < c->n_hosts; i++) {
		n += c->hosts[i].n_services;
		n_other += is_other_host(c, &c->hosts[i]);
		k->all_said &= !is_other_host(c, &c->hosts[i]) || c->hosts[i].n_services > 0;
	}
	k->all_said &= n_other > 0;
	k->names = calloc(n + 1, sizeof(*k->names));
	if (!k->names)
		return -ENOMEM;
	for (size_t i = 0; i < c->n_hosts; i++)
		for (size_t j = 0; j < c->hosts[i].n_services; j++)
			k->names[k->n++] = c->hosts[i].services[j];
	qsort(k->names, k->n, sizeof(*k->names), compare_names);
	return 0;
}

/* What this host connects to is what an intention may be about. Not before the upstreams themselves were looked at. */
static void known_add_upstreams(const struct config *c, struct known *k)
{
	for (size_t i = 0; i < c->n_upstreams; i++)
		k->names[k->n++] = c->upstreams[i].destination;
	qsort(k->names, k->n, sizeof(*k->names), compare_names);
}

/* "redis" and "redis2" are two services, not one and a slip. */
static bool differ_in_digits_only(const char *a, const char *b)
{
	static const char skip[] = "0123456789-";

	for (;; a++, b++) {
		a += strspn(a, skip);
		b += strspn(b, skip);
		if (*a != *b)
			return false;
		if (!*a)
			return true;
	}
}

static void consider(struct config_guess *g, const struct service_name *wanted, const struct service_name *s)
{
	size_t n = strlen(wanted->name), k = strlen(s->name);

	if ((n > k ? n - k : k - n) <= 2 && strcmp(s->ns, wanted->ns) == 0 && !differ_in_digits_only(s->name, wanted->name))
		config_guess_add(g, s->name);
}

/* Is it nearly a name that is known? NULL: no. */
static const char *find_slip(const struct config *c, struct known *k, const struct service_name *wanted)
{
	struct config_guess g = { .wanted = wanted->name };
	size_t n = strlen(wanted->name);

	if (n < SLIP_LENGTH_MIN || k->n_sought == SLIPS_SOUGHT_MAX)
		return NULL;
	k->n_sought++;
	for (size_t i = 0; i < c->n_services; i++)
		consider(&g, wanted, &c->services[i].name);
	for (size_t i = 0; i < k->n; i++)
		consider(&g, wanted, &k->names[i]);
	return g.best && g.distance <= (n < 6 ? 1 : 2) ? g.best : NULL;
}

/* @text: the place. @what: who names it, "the intention's destination". */
static int warn_elsewhere(struct config *c, struct known *k, char text[WARNING_SIZE], const char *what, const struct service_name *s,
			  bool is_destination)
{
	const char *slip;
	char name[LIMIT_SERVICE_SIZE];

	if (config_find_service(c, s) != CONFIG_NONE || bsearch(s, k->names, k->n, sizeof(*s), compare_names))
		return 0;
	slip = find_slip(c, k, s);
	if ((!slip && !(k->all_said && is_destination)) || is_full(c))
		return 0;
	service_name_format(name, s);
	if (slip)
		return add(c, text, "%s '%s' is no service of this host: is it on another one, or misspelt? Did you mean '%s'?", what, name, slip);
	return add(c, text, "%s '%s' is no service of this host, nor among the `services` of any other: name it there, if one has it", what, name);
}

/* --- one host --- */

static int warn_upstream(struct config *c, struct known *k, const struct config_upstream *u)
{
	size_t destination = config_find_service(c, &u->destination);
	char to[LIMIT_SERVICE_SIZE], from[LIMIT_SERVICE_SIZE], guess[160], text[WARNING_SIZE], what[LIMIT_SERVICE_SIZE + 16];

	if (c->link.wanted) {
		snprintf(text, sizeof(text), "%.*s:%u: ", LIMIT_PATH_SIZE, u->file, u->line);
		snprintf(what, sizeof(what), "'%s's upstream", service_name_format(from, &c->services[u->source].name));
		return warn_elsewhere(c, k, text, what, &u->destination, true);
	}
	if ((destination != CONFIG_NONE && c->services[destination].offered) || is_full(c))
		return 0;
	service_name_format(to, &u->destination);
	service_name_format(from, &c->services[u->source].name);
	snprintf(text, sizeof(text), "%.*s:%u: ", LIMIT_PATH_SIZE, u->file, u->line);
	if (destination != CONFIG_NONE)
		return add(c, text, "'%s' has the upstream '%s', which offers nothing; expected socket_path or offer = true there", from,
			   to);
	return add(c, text, "'%s' has the upstream '%s', which is no service of this configuration%s", from, to,
		   suggest(c, &u->destination, guess));
}

static int warn_pattern(struct config *c, struct known *k, const struct intention *i, bool is_source, const struct service_pattern *p)
{
	const char *end = is_source ? "source" : "destination";
	char name[LIMIT_SERVICE_SIZE], guess[160], text[WARNING_SIZE];

	if (c->link.wanted && p->rank == PATTERN_EXACT) {
		snprintf(text, sizeof(text), "%.*s: ", LIMIT_PATH_SIZE, i->where);
		return warn_elsewhere(c, k, text, is_source ? "the intention's source" : "the intention's destination", &p->service, !is_source);
	}
	if (p->rank != PATTERN_EXACT || config_find_service(c, &p->service) != CONFIG_NONE || is_full(c))
		return 0;
	snprintf(text, sizeof(text), "%.*s: ", LIMIT_PATH_SIZE, i->where);
	return add(c, text, "the intention's %s '%s' is no service of this configuration%s", end, service_name_format(name, &p->service),
		   suggest(c, &p->service, guess));
}

static int warn_expired(struct config *c, const struct intention *i, int64_t now_s)
{
	char source[LIMIT_SERVICE_SIZE], destination[LIMIT_SERVICE_SIZE], text[WARNING_SIZE];

	if (i->expires_unix_s == 0 || i->expires_unix_s > now_s || is_full(c))
		return 0;
	snprintf(text, sizeof(text), "%.*s: ", LIMIT_PATH_SIZE, i->where);
	return add(c, text, "the intention %s -> %s has expired and is as if it were not there",
		   service_pattern_format(source, &i->source), service_pattern_format(destination, &i->destination));
}

static int warn_intention(struct config *c, struct known *k, const struct intention *i, int64_t now_s)
{
	int r = warn_pattern(c, k, i, true, &i->source);

	if (r == 0)
		r = warn_pattern(c, k, i, false, &i->destination);
	return r < 0 ? r : warn_expired(c, i, now_s);
}

/* --- nobody can come here --- */

static const struct config_service *first_offered(const struct config *c)
{
	for (size_t i = 0; i < c->n_services; i++)
		if (c->services[i].offered)
			return &c->services[i];
	return NULL;
}

/* A host that only uses others' services needs no `listen`; it is told all the same, since that is rarely what was meant. */
static int warn_unreachable(struct config *c)
{
	const struct config_service *s = first_offered(c);
	char name[LIMIT_SERVICE_SIZE], text[WARNING_SIZE] = "";

	if (!c->link.wanted || c->link.n_listen > 0 || is_full(c))
		return 0;
	for (size_t i = 0; i < c->n_hosts && !text[0]; i++)
		if (is_other_host(c, &c->hosts[i]))
			snprintf(text, sizeof(text), "%.*s:%u: ", LIMIT_PATH_SIZE, c->hosts[i].file, c->hosts[i].line);
	if (!s)
		return add(c, text, "there are other hosts, and no `listen`: this one reaches them, and none of them reaches it. Say listen = \"ADDRESS:PORT\","
				    " unless it is only to use their services");
	return add(c, text, "there are other hosts, and no `listen`: none of them reaches this one, so its services, such as '%s', are for this host alone."
			    " Say listen = \"ADDRESS:PORT\"", service_name_format(name, &s->name));
}

/* A device was asked for by its address. Whether that address is a device's is known when a linker has tried. */
static int warn_no_device(struct config *c)
{
	const struct config_link *link = &c->link;
	char text[WARNING_SIZE];

	if (!link->rdma_listen[0] || (link->rdma != CONFIG_RDMA_OFF && access("/dev/infiniband/rdma_cm", F_OK) == 0) || is_full(c))
		return 0;
	snprintf(text, sizeof(text), "%.*s:%u: ", LIMIT_PATH_SIZE, link->rdma_listen_file, link->rdma_listen_line);
	if (link->rdma == CONFIG_RDMA_OFF)
		return add(c, text, "rdma_listen = \"%s\" is not used, since rdma = off", link->rdma_listen);
	return add(c, text, "rdma_listen = \"%s\" asks for an RDMA device, and this machine has none now: lanes go over TLS. `sealane doctor` says what is missing",
		   link->rdma_listen);
}

int config_warn(struct loader *l)
{
	struct config *c = l->config;
	int64_t now_s = time(NULL);
	struct known k;
	int r = known_init(c, &k);

	c->warnings = calloc(CONFIG_WARNINGS_MAX, sizeof(*c->warnings));
	if (!c->warnings)
		r = -ENOMEM;
	for (size_t i = 0; i < c->n_upstreams && r == 0; i++)
		r = warn_upstream(c, &k, &c->upstreams[i]);
	if (r == 0)
		known_add_upstreams(c, &k);
	for (size_t i = 0; i < c->n_intentions && r == 0; i++)
		r = warn_intention(c, &k, &c->intentions[i], now_s);
	if (r == 0)
		r = warn_unreachable(c);
	if (r == 0)
		r = warn_no_device(c);
	free(k.names);
	return r;
}
