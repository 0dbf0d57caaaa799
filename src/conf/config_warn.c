/*
 * Theory of operation
 *
 * The last pass: names that lead nowhere. Each is legal, since files may be written before the services are, and likely a slip of
 * the pen; so nothing fails here, but for memory. Suggestions are sought only for warnings that are kept, so that the cost is
 * bounded whatever the files hold. What must never happen: that anything but a person's reading depends on a warning.
 */
#include "conf/config_priv.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>

enum { WARNING_SIZE = LIMIT_PATH_SIZE + 1024 };

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

static int warn_upstream(struct config *c, const struct config_upstream *u)
{
	size_t destination = config_find_service(c, &u->destination);
	char to[LIMIT_SERVICE_SIZE], from[LIMIT_SERVICE_SIZE], guess[160], text[WARNING_SIZE];

	/* Where there are other hosts, one of them may offer it: the broker knows, a file does not. */
	if (c->link.wanted)
		return 0;
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

static int warn_pattern(struct config *c, const struct intention *i, const char *end, const struct service_pattern *p)
{
	char name[LIMIT_SERVICE_SIZE], guess[160], text[WARNING_SIZE];

	if (c->link.wanted)
		return 0;
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

int config_warn(struct loader *l)
{
	struct config *c = l->config;
	int64_t now_s = time(NULL);
	int r = 0;

	c->warnings = calloc(CONFIG_WARNINGS_MAX, sizeof(*c->warnings));
	if (!c->warnings)
		return -ENOMEM;
	for (size_t i = 0; i < c->n_upstreams && r == 0; i++)
		r = warn_upstream(c, &c->upstreams[i]);
	for (size_t i = 0; i < c->n_intentions && r == 0; i++) {
		r = warn_pattern(c, &c->intentions[i], "source", &c->intentions[i].source);
		if (r == 0)
			r = warn_pattern(c, &c->intentions[i], "destination", &c->intentions[i].destination);
		if (r == 0)
			r = warn_expired(c, &c->intentions[i], now_s);
	}
	return r;
}
