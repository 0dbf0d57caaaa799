#include "core/announce.h"

#include <stdio.h>

/* Digits only, no sign, no leading zero: one text for one number. */
static int number_parse(const char *s, uint32_t *ret)
{
	size_t n = strlen(s);
	unsigned long long v;

	if (n < 1 || n > 10 || strspn(s, "0123456789") != n || (s[0] == '0' && n > 1))
		return -EBADMSG;
	v = strtoull(s, NULL, 10);
	if (v > UINT32_MAX)
		return -EBADMSG;
	*ret = (uint32_t)v;
	return 0;
}

char *offer_kinds_format(char *buf, unsigned kinds)
{
	snprintf(buf, OFFER_KINDS_SIZE, "%s%s%s%s%s", kinds & OFFER_SOCKET ? "socket" : "",
		 kinds & OFFER_SOCKET && kinds & (OFFER_STREAMS | OFFER_MESSAGES) ? "," : "", kinds & OFFER_STREAMS ? "streams" : "",
		 kinds & OFFER_STREAMS && kinds & OFFER_MESSAGES ? "," : "", kinds & OFFER_MESSAGES ? "messages" : "");
	return buf;
}

int offer_kinds_parse(const char *text, unsigned *ret)
{
	char buf[OFFER_KINDS_SIZE];

	for (unsigned kinds = 1; kinds <= OFFER_KINDS_ALL; kinds++)
		if (strcmp(text, offer_kinds_format(buf, kinds)) == 0) {
			*ret = kinds;
			return 0;
		}
	return -EBADMSG;
}

/* @kinds: NULL: none were said. */
static int line_kinds(const char *kinds, struct announced *ret)
{
	ret->kinds = ret->up ? OFFER_SOCKET : 0;
	if (!kinds)
		return 0;
	if (!ret->up || offer_kinds_parse(kinds, &ret->kinds) < 0 || ret->kinds == OFFER_SOCKET) /* one text for one meaning */
		return -EBADMSG;
	return 0;
}

/* @line: without its newline, of @n bytes, not terminated. */
static int line_parse(const char *line, size_t n, struct announced *ret)
{
	char copy[ANNOUNCE_LINE_SIZE], *state, *lanes, *kinds;

	if (n >= sizeof(copy) || memchr(line, '\0', n))
		return -EBADMSG;
	memcpy(copy, line, n);
	copy[n] = '\0';
	state = strchr(copy, ' ');
	lanes = state ? strchr(state + 1, ' ') : NULL;
	if (!lanes)
		return -EBADMSG;
	*state++ = '\0';
	*lanes++ = '\0';
	kinds = strchr(lanes, ' ');
	if (kinds)
		*kinds++ = '\0';
	*ret = (struct announced){ .up = strcmp(state, "up") == 0 };
	if (!ret->up && strcmp(state, "down") != 0)
		return -EBADMSG;
	/* "name" alone would be in whose namespace? */
	if (!strchr(copy, '/') || service_name_parse(&ret->service, copy, "") < 0)
		return -EBADMSG;
	if (line_kinds(kinds, ret) < 0)
		return -EBADMSG;
	return number_parse(lanes, &ret->lanes);
}

static int compare(const void *a, const void *b)
{
	const struct service_name *sa = &((const struct announced *)a)->service, *sb = &((const struct announced *)b)->service;
	int r = strcmp(sa->name, sb->name);

	return r ? r : strcmp(sa->ns, sb->ns);
}

static size_t count_lines(const char *text, size_t size)
{
	size_t n = 0;

	for (size_t i = 0; i < size; i++)
		n += text[i] == '\n';
	return n;
}

static int lines_parse(const char *text, size_t size, struct announced *list, size_t n)
{
	const char *p = text;

	for (size_t i = 0; i < n; i++) {
		const char *end = memchr(p, '\n', size - (size_t)(p - text));
		int r = line_parse(p, (size_t)(end - p), &list[i]);

		if (r < 0)
			return r;
		p = end + 1;
	}
	qsort(list, n, sizeof(*list), compare);
	for (size_t i = 1; i < n; i++)
		if (compare(&list[i - 1], &list[i]) == 0)
			return -EBADMSG;
	return 0;
}

int announce_parse(const char *text, size_t size, struct announced **ret, size_t *ret_n)
{
	AUTO_FREE(struct announced) list = NULL;
	size_t n = count_lines(text, size);
	int r;

	if (size > 0 && text[size - 1] != '\n')
		return -EBADMSG;
	if (n > LIMIT_SERVICES)
		return -E2BIG;
	if (n > 0) {
		list = calloc(n, sizeof(*list));
		if (!list)
			return -ENOMEM;
		r = lines_parse(text, size, list, n);
		if (r < 0)
			return r;
	}
	*ret = take_ptr(list);
	*ret_n = n;
	return 0;
}

const struct announced *announce_find(const struct announced *list, size_t n, const struct service_name *service)
{
	struct announced key = { .service = *service };

	return n ? bsearch(&key, list, n, sizeof(*list), compare) : NULL;
}

size_t announce_format(char *buf, const struct announced *a)
{
	bool more = a->up && a->kinds != OFFER_SOCKET;
	char kinds[OFFER_KINDS_SIZE];

	return (size_t)snprintf(buf, ANNOUNCE_LINE_SIZE, "%s/%s %s %u%s%s\n", a->service.ns, a->service.name, a->up ? "up" : "down", a->lanes,
				more ? " " : "", more ? offer_kinds_format(kinds, a->kinds) : "");
}
