#include "cli/units.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <strings.h>

struct suffix {
	const char *text;
	double factor;
};

/* Longest first where one begins another, since unit_take_suffix() takes the first that fits. */
static const struct suffix g_time_suffixes[] = {
	{ "ms", 1e-3 }, { "s", 1 }, { "min", 60 }, { "m", 60 }, { "h", 3600 }, { "d", 86400 },
};

static const struct suffix g_byte_suffixes[] = {
	{ "kb", 1024 }, { "mb", 1024 * 1024 }, { "gb", 1024 * 1024 * 1024 }, { "k", 1e3 }, { "m", 1e6 }, { "g", 1e9 },
	{ "b", 1 },
};

/* strtod() would also take "0x", "inf", "nan" and a locale's comma. */
static const char *unit_take_number(double *ret, const char *s)
{
	double v = 0, place = 1;
	int n = 0;

	for (; isdigit((unsigned char)*s) && n < 18; s++, n++)
		v = v * 10 + (*s - '0');
	if (*s == '.' && n > 0 && isdigit((unsigned char)s[1])) {
		for (s++; isdigit((unsigned char)*s) && n < 18; s++, n++)
			v += (*s - '0') * (place /= 10);
	}
	*ret = v;
	return n > 0 && !isdigit((unsigned char)*s) ? s : NULL;
}

static const char *unit_take_suffix(double *ret_factor, const char *s, const struct suffix *list, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		size_t len = strlen(list[i].text);

		if (strncasecmp(s, list[i].text, len) == 0 && !isalpha((unsigned char)s[len])) {
			*ret_factor = list[i].factor;
			return s + len;
		}
	}
	return NULL;
}

int unit_parse_bytes(uint64_t *ret_bytes, const char *text)
{
	double v, factor = 1;
	const char *s = unit_take_number(&v, text);

	if (!s)
		return -EINVAL;
	if (*s) {
		s = unit_take_suffix(&factor, s, g_byte_suffixes, ARRAY_SIZE(g_byte_suffixes));
		if (!s || *s)
			return -EINVAL;
	}
	v *= factor;
	if (v < 1 || v > 9007199254740992.0) /* 2^53: what JSON numbers carry exactly */
		return -EINVAL;
	*ret_bytes = (uint64_t)v;
	return 0;
}

int unit_parse_count(uint32_t *ret_n, const char *text)
{
	uint64_t v = 0;

	if (!*text)
		return -EINVAL;
	for (; *text; text++) {
		if (!isdigit((unsigned char)*text))
			return -EINVAL;
		v = v * 10 + (uint64_t)(*text - '0');
		if (v > UINT32_MAX)
			return -EINVAL;
	}
	if (v == 0)
		return -EINVAL;
	*ret_n = (uint32_t)v;
	return 0;
}

int unit_parse_duration(double *ret_s, const char *text)
{
	double total = 0;
	const char *s = text;

	if (!*s)
		return -EINVAL;
	while (*s) {
		double v, factor = 1;

		s = unit_take_number(&v, s);
		if (!s)
			return -EINVAL;
		if (*s) {
			s = unit_take_suffix(&factor, s, g_time_suffixes, ARRAY_SIZE(g_time_suffixes));
			if (!s)
				return -EINVAL;
		}
		total += v * factor;
	}
	if (total <= 0 || total > 100 * 365.0 * 86400)
		return -EINVAL;
	*ret_s = total;
	return 0;
}

/* @pattern: 'd' stands for a digit, 'T' for "T", "t" or a blank, all else for itself. */
static bool unit_looks_like(const char *s, const char *pattern)
{
	for (; *pattern; pattern++, s++) {
		if (*pattern == 'd' ? !isdigit((unsigned char)*s) : *pattern == 'T' ? !*s || !strchr("Tt ", *s) : *s != *pattern)
			return false;
	}
	return true;
}

static int unit_two_digits(const char *s)
{
	return (s[0] - '0') * 10 + (s[1] - '0');
}

/* RFC 3339 without a fraction: nobody's grant ends within a second. */
static int unit_parse_moment(int64_t *ret_unix_s, const char *text)
{
	struct tm tm = { 0 };
	int offset_s = 0;
	const char *zone = text + 19;

	if (!unit_looks_like(text, "dddd-dd-ddTdd:dd:dd"))
		return -EINVAL;
	tm.tm_year = unit_two_digits(text) * 100 + unit_two_digits(text + 2) - 1900;
	tm.tm_mon = unit_two_digits(text + 5) - 1;
	tm.tm_mday = unit_two_digits(text + 8);
	tm.tm_hour = unit_two_digits(text + 11);
	tm.tm_min = unit_two_digits(text + 14);
	tm.tm_sec = unit_two_digits(text + 17);
	if (tm.tm_year < 70 || tm.tm_mon < 0 || tm.tm_mon > 11 || tm.tm_mday < 1 || tm.tm_mday > 31 || tm.tm_hour > 23 ||
	    tm.tm_min > 59 || tm.tm_sec > 60)
		return -EINVAL;
	if ((*zone == '+' || *zone == '-') && unit_looks_like(zone + 1, "dd:dd") && !zone[6]) {
		if (unit_two_digits(zone + 1) > 23 || unit_two_digits(zone + 4) > 59)
			return -EINVAL;
		offset_s = (*zone == '-' ? -1 : 1) * (unit_two_digits(zone + 1) * 3600 + unit_two_digits(zone + 4) * 60);
	} else if (strcasecmp(zone, "z") != 0) {
		return -EINVAL;
	}
	*ret_unix_s = (int64_t)timegm(&tm) - offset_s;
	return 0;
}

int unit_parse_expiry(int64_t *ret_unix_s, const char *text, int64_t now_unix_s)
{
	int64_t at;
	double s;

	if (unit_parse_duration(&s, text) == 0) {
		*ret_unix_s = now_unix_s + (int64_t)(s + 0.999); /* rounded up: never over before it was asked for */
		return 0;
	}
	if (unit_parse_moment(&at, text) < 0)
		return -EINVAL;
	if (at <= now_unix_s)
		return -ERANGE;
	*ret_unix_s = at;
	return 0;
}

char *unit_format_bytes(char *buf, double bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
	size_t i = 0;

	while (bytes >= 1023.95 && i + 1 < ARRAY_SIZE(units)) {
		bytes /= 1024;
		i++;
	}
	snprintf(buf, UNIT_TEXT_SIZE, i == 0 ? "%.0f %s" : "%.1f %s", bytes, units[i]);
	return buf;
}

char *unit_format_age(char *buf, int64_t seconds)
{
	int64_t s = seconds < 0 ? 0 : seconds;

	if (s < 60)
		snprintf(buf, UNIT_TEXT_SIZE, "%" PRId64 "s", s);
	else if (s < 3600)
		snprintf(buf, UNIT_TEXT_SIZE, "%" PRId64 "m%02ds", s / 60, (int)(s % 60));
	else if (s < 86400)
		snprintf(buf, UNIT_TEXT_SIZE, "%" PRId64 "h%02dm", s / 3600, (int)(s % 3600 / 60));
	else
		snprintf(buf, UNIT_TEXT_SIZE, "%" PRId64 "d%02dh", s / 86400, (int)(s % 86400 / 3600));
	return buf;
}

char *unit_format_time(char *buf, int64_t unix_s)
{
	time_t t = (time_t)unix_s;
	struct tm tm;

	if (!gmtime_r(&t, &tm) || strftime(buf, UNIT_TEXT_SIZE, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
		snprintf(buf, UNIT_TEXT_SIZE, "%" PRId64, unix_s);
	return buf;
}
