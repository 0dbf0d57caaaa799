#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>

enum { LINE_SIZE = 2048, TAIL_ROOM = 24 }; /* TAIL_ROOM: for ,"truncated":true}\n */

static struct {
	const char *role;
	enum log_level min_level;
	void (*sink)(void *arg, enum log_level level, const char *line, size_t n);
	void *sink_arg;
} g_log = { .role = "sealane", .min_level = LOG_LEVEL_INFO };

static const char *const g_level_names[] = {
	[LOG_LEVEL_DEBUG] = "debug",
	[LOG_LEVEL_INFO] = "info",
	[LOG_LEVEL_WARNING] = "warning",
	[LOG_LEVEL_ERROR] = "error",
};
static_assert(ARRAY_SIZE(g_level_names) == LOG_LEVEL_N, "a name for each level");

struct line {
	char buf[LINE_SIZE];
	size_t n;
	bool full; /* a field did not fit; it and all after it are left out */
};

void log_init(const char *role, enum log_level min_level)
{
	tzset(); /* or the first time stamp would open /etc/localtime, which a role under its filter may not */
	g_log.role = role;
	g_log.min_level = min_level;
}

void log_set_sink(void (*sink)(void *, enum log_level, const char *, size_t), void *arg)
{
	g_log.sink = sink;
	g_log.sink_arg = arg;
}

const char *log_level_name(enum log_level level)
{
	return g_level_names[level];
}

const char *log_errno_name(int err)
{
	const char *name = strerrorname_np(err < 0 ? -err : err);

	return name ? name : "EUNKNOWN";
}

static void line_put(struct line *l, const char *s, size_t n)
{
	if (l->full || n > sizeof(l->buf) - TAIL_ROOM - l->n) {
		l->full = true;
		return;
	}
	memcpy(l->buf + l->n, s, n);
	l->n += n;
}

static void line_puts(struct line *l, const char *s)
{
	line_put(l, s, strlen(s));
}

/* JSON strings (RFC 8259); bytes >= 0x80 that are not UTF-8 must not reach a reader, so they are escaped as Latin-1. */
static void line_put_string(struct line *l, const char *s)
{
	line_put(l, "\"", 1);
	for (; *s && !l->full; s++) {
		unsigned char c = (unsigned char)*s;
		char esc[8];

		if (c == '"' || c == '\\') {
			snprintf(esc, sizeof(esc), "\\%c", c);
			line_puts(l, esc);
		} else if (c < 0x20 || c >= 0x7f) {
			snprintf(esc, sizeof(esc), "\\u%04x", c);
			line_puts(l, esc);
		} else {
			line_put(l, s, 1);
		}
	}
	line_put(l, "\"", 1);
}

static void line_put_field(struct line *l, const struct log_field *f)
{
	char num[32] = "";
	size_t mark = l->n;

	if (f->kind == LOG_KIND_STR && !f->str)
		return;
	line_puts(l, ",\"");
	line_puts(l, f->key);
	line_puts(l, "\":");
	switch (f->kind) {
	case LOG_KIND_STR:
		line_put_string(l, f->str);
		break;
	case LOG_KIND_U64:
		snprintf(num, sizeof(num), "%" PRIu64, f->u64);
		break;
	case LOG_KIND_ID:
		snprintf(num, sizeof(num), "\"%016" PRIx64 "\"", f->u64);
		break;
	case LOG_KIND_I64:
		snprintf(num, sizeof(num), "%" PRId64, f->i64);
		break;
	case LOG_KIND_BOOL:
		snprintf(num, sizeof(num), "%s", f->b ? "true" : "false");
		break;
	}
	line_puts(l, num);
	if (l->full)
		l->n = mark; /* whole fields only: the line stays JSON */
}

static void line_put_head(struct line *l, enum log_level level, const char *event)
{
	struct timespec ts;
	struct tm tm;
	char stamp[40];
	char head[160];

	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(head, sizeof(head), "{\"ts\":\"%s.%03ldZ\",\"level\":\"%s\",\"role\":\"%s\",\"event\":\"%s\"", stamp,
		 ts.tv_nsec / 1000000, g_level_names[level], g_log.role, event);
	line_puts(l, head);
}

void log_event(enum log_level level, const char *event, const struct log_field *fields, size_t n_fields)
{
	static const char cut[] = ",\"truncated\":true";
	struct line l = { .n = 0 };

	if (level < g_log.min_level)
		return;
	line_put_head(&l, level, event);
	for (size_t i = 0; i < n_fields && !l.full; i++)
		line_put_field(&l, &fields[i]);
	if (l.full) {
		memcpy(l.buf + l.n, cut, sizeof(cut) - 1);
		l.n += sizeof(cut) - 1;
	}
	l.buf[l.n++] = '}';
	l.buf[l.n] = '\0';
	if (g_log.sink)
		g_log.sink(g_log.sink_arg, level, l.buf, l.n);
	l.buf[l.n++] = '\n';
	/* Best effort: a full pipe or a closed terminal must not stop the daemon. */
	if (write(STDERR_FILENO, l.buf, l.n) < 0)
		return;
}
