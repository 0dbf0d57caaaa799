/*
 * Theory of operation
 *
 * Intentions as the files say them. Two for the same pair cannot both decide, and which one was meant is not for the daemon
 * to guess: that is an error here, at load, over all files together. Sorting by pair finds it in n log n, so that 10,000
 * intentions take some milliseconds. The policy itself (which intention decides for a connection) is core/policy.c, next on
 * the way.
 */
#include "conf/config_priv.h"

#include <ctype.h>
#include <stdio.h>

static int set_source(struct loader *l, void *obj, const struct conf_node *n);
static int set_destination(struct loader *l, void *obj, const struct conf_node *n);
static int set_action(struct loader *l, void *obj, const struct conf_node *n);
static int set_strict(struct loader *l, void *obj, const struct conf_node *n);
static int set_limits(struct loader *l, void *obj, const struct conf_node *n);
static int set_expires(struct loader *l, void *obj, const struct conf_node *n);

static const struct config_key intention_keys[] = {
	{ "source", set_source, NULL, false },	     { "destination", set_destination, NULL, false },
	{ "action", set_action, NULL, false },	     { "strict", set_strict, NULL, false },
	{ "limits", set_limits, NULL, false },	     { "expires", set_expires, NULL, false },
};
const struct config_kind config_intention_kind = { .what = "an intention", .tables = { CONFIG_TABLE(intention_keys) } };

int config_collect_intention(struct loader *l, void *obj, const struct config_item *item)
{
	struct config *c = l->config;
	int r = config_grow(&l->intentions, &l->cap_intention_nodes, c->n_intentions, sizeof(*l->intentions));

	if (r < 0)
		return r;
	if (item->body->label)
		return conf_fail(l->error, item->at, "found the label '%.60s', expected intention { source = ... destination = ... }",
				 item->body->label);
	if (c->n_intentions >= LIMIT_INTENTIONS)
		return conf_fail(l->error, item->at, "found more than %d intentions", LIMIT_INTENTIONS);
	l->intentions[c->n_intentions++] = item->body;
	return 0;
}

/* --- values --- */

static int set_pattern(struct loader *l, const struct conf_node *n, struct service_pattern *ret)
{
	static const char expected[] = "NAME, NAMESPACE/NAME, NAMESPACE/* or * (names of a-z, 0-9 and '-', at most 63)";
	const char *text = "";
	int r = config_read_text(l, n, expected, &text);

	if (r < 0)
		return r;
	if (service_pattern_parse(ret, text, l->config->namespace_) < 0)
		return config_bad_value(l, n, "%s", expected);
	return 0;
}

static int set_source(struct loader *l, void *obj, const struct conf_node *n)
{
	return set_pattern(l, n, &((struct intention *)obj)->source);
}

static int set_destination(struct loader *l, void *obj, const struct conf_node *n)
{
	return set_pattern(l, n, &((struct intention *)obj)->destination);
}

static int set_action(struct loader *l, void *obj, const struct conf_node *n)
{
	struct intention *i = obj;

	if (n->kind == CONF_STRING && strcmp(n->string, "allow") == 0)
		i->action = INTENTION_ALLOW;
	else if (n->kind == CONF_STRING && strcmp(n->string, "deny") == 0)
		i->action = INTENTION_DENY;
	else
		return config_bad_value(l, n, "allow or deny");
	return 0;
}

static int set_strict(struct loader *l, void *obj, const struct conf_node *n)
{
	return config_read_bool(l, n, &((struct intention *)obj)->strict);
}

static int set_u32(struct loader *l, const struct conf_node *n, uint32_t *ret)
{
	uint64_t v;
	int r = config_read_amount(l, n, 1, UINT32_MAX, &v);

	if (r == 0)
		*ret = (uint32_t)v;
	return r;
}

static int set_open_lanes(struct loader *l, void *obj, const struct conf_node *n)
{
	return set_u32(l, n, &((struct intention *)obj)->limits.open_lanes);
}

static int set_connections(struct loader *l, void *obj, const struct conf_node *n)
{
	return set_u32(l, n, &((struct intention *)obj)->limits.connections_per_s);
}

/* At most 1 PB/s: far above any host, and far below where the bucket's arithmetic would overflow. */
static int set_bytes(struct loader *l, void *obj, const struct conf_node *n)
{
	return config_read_amount(l, n, 1, UINT64_C(1000000000000000), &((struct intention *)obj)->limits.bytes_per_s);
}

static int set_limits(struct loader *l, void *obj, const struct conf_node *n)
{
	static const struct config_key keys[] = {
		{ "open_lanes", set_open_lanes, NULL, false },
		{ "connections_per_s", set_connections, NULL, false },
		{ "bytes_per_s", set_bytes, NULL, false },
	};
	static const struct config_kind kind = { .what = "limits", .tables = { CONFIG_TABLE(keys) } };

	return config_read_block(l, &kind, n, obj);
}

/* @format: 'd' stands for a digit, everything else for itself ('T' and 'Z' in either case, as RFC 3339 allows). */
static const char *match_shape(const char *s, const char *format)
{
	for (; *format; format++, s++) {
		if (*format == 'd' ? !isdigit((unsigned char)*s) : toupper((unsigned char)*s) != *format)
			return NULL;
	}
	return s;
}

static int two_digits(const char *s)
{
	return (s[0] - '0') * 10 + (s[1] - '0');
}

static int days_in(int year, int month)
{
	static const int days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
	bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;

	return days[month - 1] + (month == 2 && leap);
}

/* The offset at the end: "Z", "+hh:mm" or "-hh:mm". */
static bool parse_offset(const char *s, int64_t *ret_s)
{
	bool west = *s == '-';

	*ret_s = 0;
	if (toupper((unsigned char)*s) == 'Z')
		return s[1] == '\0';
	if (*s != '+' && *s != '-')
		return false;
	s++;
	if (!match_shape(s, "dd:dd") || s[5] != '\0' || two_digits(s) > 23 || two_digits(s + 3) > 59)
		return false;
	*ret_s = (two_digits(s) * 60 + two_digits(s + 3)) * 60;
	if (west)
		*ret_s = -*ret_s;
	return true;
}

/* RFC 3339, section 5.6. A leap second counts as the second after it; fractions are dropped. */
static bool parse_time(const char *s, int64_t *ret_unix_s)
{
	const char *rest = match_shape(s, "dddd-dd-ddTdd:dd:dd");
	struct tm tm = { 0 };
	int64_t offset;
	int year;

	if (!rest)
		return false;
	year = two_digits(s) * 100 + two_digits(s + 2);
	tm.tm_year = year - 1900;
	tm.tm_mon = two_digits(s + 5) - 1;
	tm.tm_mday = two_digits(s + 8);
	tm.tm_hour = two_digits(s + 11);
	tm.tm_min = two_digits(s + 14);
	tm.tm_sec = two_digits(s + 17);
	if (tm.tm_mon < 0 || tm.tm_mon > 11 || tm.tm_mday < 1 || tm.tm_mday > days_in(year, tm.tm_mon + 1) ||
	    tm.tm_hour > 23 || tm.tm_min > 59 || tm.tm_sec > 60)
		return false;
	if (*rest == '.') {
		if (!isdigit((unsigned char)*++rest))
			return false;
		while (isdigit((unsigned char)*rest))
			rest++;
	}
	if (!parse_offset(rest, &offset))
		return false;
	*ret_unix_s = timegm(&tm) - offset;
	return true;
}

static int set_expires(struct loader *l, void *obj, const struct conf_node *n)
{
	struct intention *i = obj;

	if (n->kind != CONF_STRING || !parse_time(n->string, &i->expires_unix_s) || i->expires_unix_s <= 0)
		return config_bad_value(l, n, "a time after 1970 as in RFC 3339, such as \"2027-01-01T00:00:00Z\"");
	return 0;
}

/* --- the whole --- */

static int require(struct loader *l, const struct conf_node *n, const char *key, const char *example)
{
	const struct conf_node *m = config_find_key(n, key);

	if (m && m->kind != CONF_NULL)
		return 0;
	return conf_fail(l->error, n, "this intention has no '%s', expected %s", key, example);
}

static int read_intention(struct loader *l, const struct conf_node *n, struct intention *i)
{
	const struct intention_limits none = { 0 };
	int r;

	memset(i, 0, sizeof(*i));
	i->origin = INTENTION_FROM_FILE;
	(void)snprintf(i->where, sizeof(i->where), "%.*s:%u", LIMIT_PATH_SIZE - 16, n->file, n->line);
	r = config_read_block(l, &config_intention_kind, n, i);
	if (r == 0)
		r = require(l, n, "source", "source = NAME");
	if (r == 0)
		r = require(l, n, "destination", "destination = NAME");
	if (r == 0)
		r = require(l, n, "action", "action = allow or action = deny");
	if (r == 0 && i->action == INTENTION_DENY && memcmp(&i->limits, &none, sizeof(none)) != 0)
		r = conf_fail(l->error, config_find_key(n, "limits"), "found limits with action = deny, expected them with allow only");
	return r;
}

static int compare_pair(const struct intention *a, const struct intention *b)
{
	int r = memcmp(&a->destination, &b->destination, sizeof(a->destination));

	return r ? r : memcmp(&a->source, &b->source, sizeof(a->source));
}

static int compare(const void *a, const void *b, void *arg)
{
	const struct intention *all = arg;
	size_t ia = *(const size_t *)a, ib = *(const size_t *)b;
	int r = compare_pair(&all[ia], &all[ib]);

	return r ? r : (ia > ib) - (ia < ib);
}

static int check_ties(struct loader *l)
{
	const struct config *c = l->config;
	AUTO_FREE(size_t) order = calloc(c->n_intentions + 1, sizeof(*order));
	size_t first = CONFIG_NONE, second = CONFIG_NONE;
	char source[LIMIT_SERVICE_SIZE], destination[LIMIT_SERVICE_SIZE];

	if (!order)
		return -ENOMEM;
	for (size_t i = 0; i < c->n_intentions; i++)
		order[i] = i;
	qsort_r(order, c->n_intentions, sizeof(*order), compare, c->intentions);
	for (size_t i = 1; i < c->n_intentions; i++) {
		if (compare_pair(&c->intentions[order[i - 1]], &c->intentions[order[i]]) == 0 && order[i] < second) {
			first = order[i - 1];
			second = order[i];
		}
	}
	if (second == CONFIG_NONE)
		return 0;
	return conf_fail(l->error, l->intentions[second],
			 "%s -> %s is said twice, first at %.200s; expected one intention for a pair of services",
			 service_pattern_format(source, &c->intentions[second].source),
			 service_pattern_format(destination, &c->intentions[second].destination), c->intentions[first].where);
}

int config_read_intentions(struct loader *l)
{
	struct config *c = l->config;
	int r = 0;

	c->intentions = calloc(c->n_intentions + 1, sizeof(*c->intentions));
	if (!c->intentions)
		return -ENOMEM;
	for (size_t i = 0; i < c->n_intentions && r == 0; i++)
		r = read_intention(l, l->intentions[i], &c->intentions[i]);
	return r < 0 ? r : check_ties(l);
}
