/*
 * Sizes, times and rates as people write and read them. The suffixes are those of the configuration (conf/tree.h):
 * k m g are powers of 1000, kb mb gb of 1024.
 *
 * Trust: the text comes from the operator; everything is bounded. No I/O.
 */
#ifndef CLI_UNITS_H
#define CLI_UNITS_H

#include "base/util.h"

/* unit_parse_bytes() - "10mb", "1.5g", "4096". Return: 0 or -EINVAL (also for 0 and for what does not fit). */
MUST_CHECK int unit_parse_bytes(uint64_t *ret_bytes, const char *text);

/* unit_parse_count() - 1 .. UINT32_MAX. Return: 0 or -EINVAL. */
MUST_CHECK int unit_parse_count(uint32_t *ret_n, const char *text);

/* unit_parse_duration() - "90s", "2h", "1h30m", "500ms", "2d", "0.5" (seconds). Return: 0 or -EINVAL. */
MUST_CHECK int unit_parse_duration(double *ret_s, const char *text);

/*
 * unit_parse_expiry() - a duration from @now_unix_s on, or a moment ("2026-01-02T03:04:05Z", "...+01:00").
 * Return: 0; -EINVAL: neither; -ERANGE: the moment has passed.
 */
MUST_CHECK int unit_parse_expiry(int64_t *ret_unix_s, const char *text, int64_t now_unix_s);

enum { UNIT_TEXT_SIZE = 32 };

/* unit_format_bytes() - "1.5 MiB", at most four digits. Returns @buf of UNIT_TEXT_SIZE. */
char *unit_format_bytes(char *buf, double bytes);

/* unit_format_age() - "3s", "5m12s", "2h05m", "4d03h". Returns @buf of UNIT_TEXT_SIZE. */
char *unit_format_age(char *buf, int64_t seconds);

/* unit_format_time() - RFC 3339 in UTC. Returns @buf of UNIT_TEXT_SIZE. */
char *unit_format_time(char *buf, int64_t unix_s);

#endif
