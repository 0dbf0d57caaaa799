/*
 * `sealane logs`: the daemon's last events and, with -f, those to come. One line each:
 *
 *   2026-01-02T03:04:05.678Z warning lane.deny source=default/intruder destination=default/redis ...
 *
 * With --json the lines are passed on as they came. Colour only on a terminal, and not if NO_COLOR is set.
 */
#include "cli/api.h"
#include "cli/table.h"

struct logs {
	bool json, colour;
};

static void logs_put_value(const char *key, const json_t *v)
{
	AUTO_FREE(char) text = NULL;

	text = json_is_string(v) ? strdup(json_string_value(v)) : json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
	if (!text)
		return;
	putchar(' ');
	text_put(stdout, key);
	putchar('=');
	if (*text && !strpbrk(text, " \t\"="))
		text_put(stdout, text);
	else if (json_is_string(v)) {
		putchar('"');
		text_put(stdout, text);
		putchar('"');
	}
}

static const char *logs_colour(const char *level)
{
	return strcmp(level, "error") == 0 ? "\033[31m" : strcmp(level, "warning") == 0 ? "\033[33m" : "";
}

static void logs_put_word(const json_t *o, const char *key)
{
	text_put(stdout, api_str(o, key) ? api_str(o, key) : "?");
}

static void logs_line(void *arg, const char *text)
{
	const struct logs *l = arg;
	json_t *o = l->json ? NULL : json_loads(text, 0, NULL);
	const char *key, *level;
	json_t *v;

	if (!json_is_object(o)) {
		if (l->json)
			puts(text);
		else
			text_put(stdout, text), putchar('\n');
		json_decref(o);
		fflush(stdout);
		return;
	}
	level = api_str(o, "level") ? api_str(o, "level") : "";
	logs_put_word(o, "ts");
	fputs(l->colour ? logs_colour(level) : "", stdout);
	putchar(' ');
	logs_put_word(o, "level");
	putchar(' ');
	logs_put_word(o, "event");
	fputs(l->colour && *logs_colour(level) ? "\033[0m" : "", stdout);
	json_object_foreach(o, key, v) {
		if (strcmp(key, "ts") && strcmp(key, "level") && strcmp(key, "event"))
			logs_put_value(key, v);
	}
	putchar('\n');
	fflush(stdout);
	json_decref(o);
}

int verb_logs(struct cli *c, int argc, char **argv)
{
	struct logs l;
	uint32_t n = 100;
	bool follow = false;
	const struct opt opts[] = {
		{ "follow", 'f', OPT_FLAG, &follow },
		{ "lines", 'n', OPT_COUNT_0, &n },
	};
	AUTO_FREE(char) path = NULL;

	if (cli_begin(c, opts, ARRAY_SIZE(opts), argc, argv, OPT_OPERANDS_ANYWHERE, 0, 0) < 0)
		return c->exit;
	if (n == 0 && !follow)
		return cli_usage(c, "-n 0 shows nothing without -f");
	if (n > 4096)
		return cli_usage(c, "-n: the daemon keeps the last 4096 events; older ones are in its own log (journalctl -u sealaned)");
	l = (struct logs){ .json = c->json, .colour = isatty(STDOUT_FILENO) && !getenv("NO_COLOR") };
	path = api_path("/v1/events?follow=%d&n=%u", follow, n);
	return api_follow(c, path, logs_line, &l);
}
