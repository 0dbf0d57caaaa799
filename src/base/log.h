/*
 * Structured events, one JSON object a line: {"ts":"2026-01-02T03:04:05.678Z","level":"info","role":"broker","event":"lane.deny",...}.
 *
 * Quiet when healthy: state changes at info, peer faults at warning (the caller limits them to once per peer and
 * reason), never payload, never secrets. Strings from outside are escaped here, so callers may pass hostile ones.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "base/util.h"

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARNING, LOG_LEVEL_ERROR, LOG_LEVEL_N };

enum log_kind { LOG_KIND_STR, LOG_KIND_U64, LOG_KIND_ID, LOG_KIND_I64, LOG_KIND_BOOL };

struct log_field {
	const char *key; /* a literal of ours: [a-z_.]+ */
	enum log_kind kind;
	union {
		const char *str; /* borrowed; NULL leaves the field out */
		uint64_t u64;
		int64_t i64;
		bool b;
	};
};

#define LOG_STR(k, v) ((struct log_field){ .key = (k), .kind = LOG_KIND_STR, .str = (v) })
#define LOG_U64(k, v) ((struct log_field){ .key = (k), .kind = LOG_KIND_U64, .u64 = (v) })
/* An id, in the form that people see it in everywhere: 16 hexadecimal digits, a string. */
#define LOG_ID(k, v) ((struct log_field){ .key = (k), .kind = LOG_KIND_ID, .u64 = (v) })
#define LOG_I64(k, v) ((struct log_field){ .key = (k), .kind = LOG_KIND_I64, .i64 = (v) })
#define LOG_BOOL(k, v) ((struct log_field){ .key = (k), .kind = LOG_KIND_BOOL, .b = (v) })

/* log_init() - set the role's name (borrowed, a literal) and the least level that is written. Once, before any thread. */
void log_init(const char *role, enum log_level min_level);

/* log_set_sink() - also hand each finished line (NUL-terminated, no newline) to @sink; the broker keeps the last ones so. */
void log_set_sink(void (*sink)(void *arg, enum log_level level, const char *line, size_t n), void *arg);

/* log_event() - write one event to standard error. Allocates nothing; a line over 2 KiB loses its last fields and says so. */
void log_event(enum log_level level, const char *event, const struct log_field *fields, size_t n_fields);

#define LOG_EVENT(level, event, ...)                                        \
	log_event((level), (event), (struct log_field[]){ __VA_ARGS__ },    \
		  sizeof((struct log_field[]){ __VA_ARGS__ }) / sizeof(struct log_field))
#define log_info(event, ...) LOG_EVENT(LOG_LEVEL_INFO, event, __VA_ARGS__)
#define log_warn(event, ...) LOG_EVENT(LOG_LEVEL_WARNING, event, __VA_ARGS__)
#define log_error(event, ...) LOG_EVENT(LOG_LEVEL_ERROR, event, __VA_ARGS__)
#define log_debug(event, ...) LOG_EVENT(LOG_LEVEL_DEBUG, event, __VA_ARGS__)

/* log_errno_name() - "EACCES" for 13 or -13; safe under any seccomp filter, unlike strerror(). */
const char *log_errno_name(int err);

const char *log_level_name(enum log_level level);

#endif
