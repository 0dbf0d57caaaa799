#include "core/name.h"

#include <stdio.h>

static bool char_is_label(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
}

bool label_is_valid(const char *s)
{
	size_t n = strnlen(s, LIMIT_NAME_SIZE);

	if (n == 0 || n >= LIMIT_NAME_SIZE || s[0] == '-' || s[n - 1] == '-')
		return false;
	for (size_t i = 0; i < n; i++)
		if (!char_is_label(s[i]))
			return false;
	return true;
}

bool trust_domain_is_valid(const char *s)
{
	size_t n = strnlen(s, LIMIT_TRUST_DOMAIN_SIZE);

	if (n == 0 || n >= LIMIT_TRUST_DOMAIN_SIZE)
		return false;
	for (size_t i = 0; i < n; i++)
		if (!char_is_label(s[i]) && s[i] != '.' && s[i] != '_')
			return false;
	return true;
}

/*
 * Cut "a/b" into @ret->ns and @ret->name; "b" alone is in @default_ns. The two parts are copied, not checked. @ret starts
 * as zeroes and is written by byte copies only, so that equal names are equal as bytes.
 */
static int split(struct service_name *ret, const char *text, const char *default_ns)
{
	size_t n = strnlen(text, LIMIT_SERVICE_SIZE);
	const char *slash, *name = text;

	if (n >= LIMIT_SERVICE_SIZE)
		return -EINVAL;
	memset(ret, 0, sizeof(*ret));
	slash = memchr(text, '/', n);
	if (slash) {
		size_t n_ns = (size_t)(slash - text);

		if (n_ns >= sizeof(ret->ns))
			return -EINVAL;
		memcpy(ret->ns, text, n_ns);
		name = slash + 1;
	} else if (!default_ns || !str_copy(ret->ns, sizeof(ret->ns), default_ns)) {
		return -EINVAL;
	}
	return str_copy(ret->name, sizeof(ret->name), name) ? 0 : -EINVAL;
}

int service_name_parse(struct service_name *ret, const char *text, const char *default_ns)
{
	struct service_name s;
	int r = split(&s, text, default_ns);

	if (r < 0)
		return r;
	if (!label_is_valid(s.ns) || !label_is_valid(s.name))
		return -EINVAL;
	*ret = s;
	return 0;
}

int service_pattern_parse(struct service_pattern *ret, const char *text, const char *default_ns)
{
	struct service_pattern p;
	int r;

	memset(&p, 0, sizeof(p));
	p.rank = PATTERN_EXACT;
	if (strcmp(text, "*") == 0 || strcmp(text, "*/*") == 0) {
		p.rank = PATTERN_ANY;
		*ret = p;
		return 0;
	}
	r = split(&p.service, text, default_ns);
	if (r < 0)
		return r;
	if (strcmp(p.service.name, "*") == 0) {
		p.rank = PATTERN_NAMESPACE;
		memset(p.service.name, 0, sizeof(p.service.name));
	} else if (!label_is_valid(p.service.name)) {
		return -EINVAL;
	}
	if (!label_is_valid(p.service.ns))
		return -EINVAL;
	*ret = p;
	return 0;
}

bool service_name_equal(const struct service_name *a, const struct service_name *b)
{
	return strcmp(a->name, b->name) == 0 && strcmp(a->ns, b->ns) == 0;
}

char *service_name_format(char *buf, const struct service_name *s)
{
	snprintf(buf, LIMIT_SERVICE_SIZE, "%s/%s", s->ns, s->name);
	return buf;
}

char *service_pattern_format(char *buf, const struct service_pattern *p)
{
	switch (p->rank) {
	case PATTERN_ANY:
		snprintf(buf, LIMIT_SERVICE_SIZE, "*");
		break;
	case PATTERN_NAMESPACE:
		snprintf(buf, LIMIT_SERVICE_SIZE, "%s/*", p->service.ns);
		break;
	case PATTERN_EXACT:
		return service_name_format(buf, &p->service);
	}
	return buf;
}

char *spiffe_id_format(char *buf, const char *trust_domain, const struct service_name *s)
{
	snprintf(buf, LIMIT_SPIFFE_ID_SIZE, "spiffe://%s/ns/%s/svc/%s", trust_domain, s->ns, s->name);
	return buf;
}
