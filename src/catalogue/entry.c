/*
 * Theory of operation: a key says of which kind an entry is and whose, its value the rest. Both are held to one spelling: names are
 * labels, numbers whole and in their range, texts without control characters, and each member has its type or the value is none.
 * Members that are not known are passed over, so that a later sealane may add some. Whoever writes to etcd may write anything;
 * what comes out of here can be believed in its form, never in what it claims.
 *
 * Before this file: etcd.c (what etcd answered). After it: broker_catalogue.c (what is made of it).
 */
#include "catalogue/entry.h"

#include "base/address.h"

#include <jansson.h>
#include <stdio.h>

/* JSON's readers lose digits beyond. */
static const json_int_t g_generation_max = INT64_C(1) << 53;

const char *entry_kind_name(enum entry_kind k)
{
	static const char *const names[] = { "other", "epoch", "host", "service", "intention" };
	static_assert(ARRAY_SIZE(names) == ENTRY_KIND_N, "a name for each");

	return names[k];
}

/* ------------------------------------------------------------------ keys */

/* The label up to the next slash. Return: what follows it; NULL if there is no label. */
static const char *take_label(char ret[LIMIT_NAME_SIZE], const char *at)
{
	size_t n = strcspn(at, "/");

	if (n == 0 || n >= LIMIT_NAME_SIZE)
		return NULL;
	memcpy(ret, at, n);
	ret[n] = '\0';
	return label_is_valid(ret) ? at + n + (at[n] == '/') : NULL;
}

static bool id_is_valid(const char *id)
{
	size_t n = strlen(id);

	return n > 0 && n < ENTRY_ID_SIZE &&
	       strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:*-") == n;
}

static bool parse_service_key(struct entry *e, const char *at)
{
	at = take_label(e->service.ns, at);
	at = at ? take_label(e->service.name, at) : NULL;
	at = at ? take_label(e->host, at) : NULL;
	return at && *at == '\0';
}

static bool is_after(const char *key, const char *start, const char **ret_rest)
{
	size_t n = strlen(start);

	*ret_rest = key + n;
	return strncmp(key, start, n) == 0;
}

static enum entry_kind kind_of(struct entry *e, const char *key)
{
	const char *rest;

	if (strcmp(key, "epoch") == 0)
		return ENTRY_EPOCH;
	if (is_after(key, "hosts/", &rest)) {
		const char *end = take_label(e->host, rest);

		return end && *end == '\0' && end[-1] != '/' ? ENTRY_HOST : ENTRY_OTHER;
	}
	if (is_after(key, "services/", &rest))
		return parse_service_key(e, rest) && key[strlen(key) - 1] != '/' ? ENTRY_SERVICE : ENTRY_OTHER;
	if (is_after(key, "intentions/", &rest) && id_is_valid(rest) && str_copy(e->id, sizeof(e->id), rest))
		return ENTRY_INTENTION;
	return ENTRY_OTHER;
}

void entry_parse_key(struct entry *ret, const char *key)
{
	*ret = (struct entry){ .kind = ENTRY_OTHER };
	ret->kind = kind_of(ret, key);
}

char *entry_format_key(char *buf, const struct entry *e)
{
	size_t size = LIMIT_CATALOGUE_KEY_SIZE;

	buf[0] = '\0';
	if (e->kind == ENTRY_EPOCH)
		snprintf(buf, size, "epoch");
	else if (e->kind == ENTRY_HOST)
		snprintf(buf, size, "hosts/%s", e->host);
	else if (e->kind == ENTRY_SERVICE)
		snprintf(buf, size, "services/%s/%s/%s", e->service.ns, e->service.name, e->host);
	else if (e->kind == ENTRY_INTENTION)
		snprintf(buf, size, "intentions/%s", e->id);
	return buf;
}
static_assert(LIMIT_CATALOGUE_KEY_SIZE >= sizeof("intentions/") + ENTRY_ID_SIZE, "any ID fits");
static_assert(LIMIT_CATALOGUE_KEY_SIZE >= sizeof("services///") + 3 * LIMIT_NAME_SIZE, "any service fits");

static size_t put_pattern(char *buf, size_t size, const struct service_pattern *p)
{
	int n = p->rank == PATTERN_ANY ? snprintf(buf, size, "*") :
					 snprintf(buf, size, "%s.%s", p->service.ns, p->rank == PATTERN_EXACT ? p->service.name : "*");

	return n < 0 ? 0 : (size_t)n;
}

char *entry_intention_id(char *buf, const struct service_pattern *source, const struct service_pattern *destination)
{
	size_t n = put_pattern(buf, ENTRY_ID_SIZE, source);

	buf[n] = ':';
	put_pattern(buf + n + 1, ENTRY_ID_SIZE - n - 1, destination);
	return buf;
}
static_assert(ENTRY_ID_SIZE >= 2 * LIMIT_SERVICE_SIZE, "two names, their dots, the colon");

/* ------------------------------------------------------------------ values */

/* A member that is a text of at most @size - 1 bytes without control characters. Absent: "" if it @may_lack. */
static bool get_text(const json_t *o, const char *name, bool may_lack, char *ret, size_t size)
{
	const json_t *v = json_object_get(o, name);
	const char *s = json_string_value(v);

	ret[0] = '\0';
	if (!v)
		return may_lack;
	if (!s || json_string_length(v) >= size || strlen(s) != json_string_length(v))
		return false;
	for (const char *p = s; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return false;
	return str_copy(ret, size, s);
}

static bool get_number(const json_t *o, const char *name, bool may_lack, json_int_t min, json_int_t max, json_int_t *ret)
{
	const json_t *v = json_object_get(o, name);

	*ret = 0;
	if (!v)
		return may_lack;
	if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max)
		return false;
	*ret = json_integer_value(v);
	return true;
}

static bool get_bool(const json_t *o, const char *name, bool may_lack, bool *ret)
{
	const json_t *v = json_object_get(o, name);

	*ret = json_is_true(v);
	return v ? json_is_boolean(v) : may_lack;
}

static bool get_pattern(const json_t *o, const char *name, struct service_pattern *ret)
{
	char text[LIMIT_SERVICE_SIZE];

	return get_text(o, name, false, text, sizeof(text)) && service_pattern_parse(ret, text, NULL) == 0;
}

static bool read_epoch(struct entry *e, const json_t *o)
{
	json_int_t generation;

	if (!get_text(o, "epoch", false, e->epoch.epoch, sizeof(e->epoch.epoch)) ||
	    !get_number(o, "generation", false, 1, g_generation_max, &generation) ||
	    !get_text(o, "by", true, e->by, sizeof(e->by)))
		return false;
	e->epoch.generation = (uint64_t)generation;
	return strlen(e->epoch.epoch) == ENTRY_EPOCH_SIZE - 1 && strspn(e->epoch.epoch, "0123456789abcdef") == ENTRY_EPOCH_SIZE - 1;
}

static bool read_host(struct entry *e, const json_t *o)
{
	struct sockaddr_storage a;
	socklen_t size;

	return get_text(o, "address", false, e->address, sizeof(e->address)) &&
	       (e->address[0] == '\0' || address_parse(e->address, &a, &size) == 0);
}

/* As what hosts announce: without the member it is the socket alone that is up. */
static bool read_service(struct entry *e, const json_t *o)
{
	char kinds[OFFER_KINDS_SIZE];
	json_int_t lanes;

	if (!get_bool(o, "up", false, &e->up) || !get_number(o, "lanes", false, 0, UINT32_MAX, &lanes) ||
	    !get_text(o, "kinds", true, kinds, sizeof(kinds)))
		return false;
	e->lanes = (uint32_t)lanes;
	e->kinds = e->up ? OFFER_SOCKET : 0;
	return !kinds[0] || (e->up && offer_kinds_parse(kinds, &e->kinds) == 0);
}

static bool read_limits(struct intention_limits *ret, const json_t *o)
{
	json_int_t open, rate, bytes;

	if (!o)
		return true;
	if (!json_is_object(o) || !get_number(o, "open_lanes", true, 0, UINT32_MAX, &open) ||
	    !get_number(o, "connections_per_s", true, 0, UINT32_MAX, &rate) || !get_number(o, "bytes_per_s", true, 0, INT64_MAX, &bytes))
		return false;
	*ret = (struct intention_limits){ .open_lanes = (uint32_t)open, .connections_per_s = (uint32_t)rate, .bytes_per_s = (uint64_t)bytes };
	return true;
}

static bool read_intention(struct entry *e, const json_t *o)
{
	struct intention *i = &e->intention;
	char action[8];
	json_int_t expires;

	if (!get_pattern(o, "source", &i->source) || !get_pattern(o, "destination", &i->destination) ||
	    !get_text(o, "action", false, action, sizeof(action)) || !get_bool(o, "strict", true, &i->strict) ||
	    !read_limits(&i->limits, json_object_get(o, "limits")) || !get_number(o, "expires", true, 0, INT64_MAX, &expires) ||
	    !get_text(o, "by", true, e->by, sizeof(e->by)))
		return false;
	i->action = strcmp(action, "allow") == 0 ? INTENTION_ALLOW : INTENTION_DENY;
	i->origin = INTENTION_FROM_CLUSTER;
	i->expires_unix_s = expires;
	snprintf(i->where, sizeof(i->where), "cluster %s%s%s", e->id, e->by[0] ? ", " : "", e->by);
	return strcmp(action, "allow") == 0 || strcmp(action, "deny") == 0;
}
static_assert(sizeof(((struct intention *)0)->where) > sizeof("cluster , ") + ENTRY_ID_SIZE + ENTRY_BY_SIZE, "it fits");

static bool read_value(struct entry *e, const json_t *o)
{
	switch (e->kind) {
	case ENTRY_EPOCH:
		return read_epoch(e, o);
	case ENTRY_HOST:
		return read_host(e, o);
	case ENTRY_SERVICE:
		return read_service(e, o);
	case ENTRY_INTENTION:
		return read_intention(e, o);
	default:
		return false;
	}
}

int entry_parse_value(struct entry *e, const char *value, size_t size)
{
	json_error_t error;
	json_t *o;
	bool good;

	if (size >= LIMIT_CATALOGUE_VALUE_SIZE)
		return -EBADMSG;
	o = json_loadb(value, size, JSON_REJECT_DUPLICATES, &error);
	if (!o)
		return json_error_code(&error) == json_error_out_of_memory ? -ENOMEM : -EBADMSG;
	good = json_is_object(o) && read_value(e, o);
	json_decref(o);
	return good ? 0 : -EBADMSG;
}

int entry_parse(struct entry *ret, const char *key, const char *value)
{
	entry_parse_key(ret, key);
	return ret->kind == ENTRY_OTHER ? -ENOENT : entry_parse_value(ret, value, strlen(value));
}

/* ------------------------------------------------------------------ writing */

static json_t *write_intention(const struct entry *e)
{
	const struct intention *i = &e->intention;
	char source[LIMIT_SERVICE_SIZE], destination[LIMIT_SERVICE_SIZE];

	return json_pack("{s:s,s:s,s:s,s:b,s:{s:I,s:I,s:I},s:I,s:s}", "source", service_pattern_format(source, &i->source), "destination",
			 service_pattern_format(destination, &i->destination), "action", i->action == INTENTION_ALLOW ? "allow" : "deny",
			 "strict", i->strict, "limits", "open_lanes", (json_int_t)i->limits.open_lanes, "connections_per_s",
			 (json_int_t)i->limits.connections_per_s, "bytes_per_s", (json_int_t)i->limits.bytes_per_s, "expires",
			 (json_int_t)i->expires_unix_s, "by", e->by);
}

static json_t *write_service(const struct entry *e)
{
	char kinds[OFFER_KINDS_SIZE];

	if (!e->up || e->kinds == OFFER_SOCKET)
		return json_pack("{s:b,s:I}", "up", e->up, "lanes", (json_int_t)e->lanes);
	return json_pack("{s:b,s:I,s:s}", "up", e->up, "lanes", (json_int_t)e->lanes, "kinds", offer_kinds_format(kinds, e->kinds));
}

static json_t *write_value(const struct entry *e)
{
	switch (e->kind) {
	case ENTRY_EPOCH:
		return json_pack("{s:s,s:I,s:s}", "epoch", e->epoch.epoch, "generation", (json_int_t)e->epoch.generation, "by", e->by);
	case ENTRY_HOST:
		return json_pack("{s:s}", "address", e->address);
	case ENTRY_SERVICE:
		return write_service(e);
	case ENTRY_INTENTION:
		return write_intention(e);
	default:
		return NULL;
	}
}

int entry_format_value(char *buf, const struct entry *e)
{
	json_t *o = write_value(e);
	size_t n = o ? json_dumpb(o, buf, LIMIT_CATALOGUE_VALUE_SIZE - 1, JSON_COMPACT) : 0;

	json_decref(o);
	if (n == 0)
		return -ENOMEM;
	if (n >= LIMIT_CATALOGUE_VALUE_SIZE)
		return -EMSGSIZE;
	buf[n] = '\0';
	return 0;
}
