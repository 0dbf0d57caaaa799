/*
 * `sealane top`: who sends how much on which lane, each second. The daemon counts bytes; rates are differences of two of
 * its answers, divided by the time between them, and are made here so that the daemon keeps no history for anybody.
 *
 * Direct lanes are carried by the kernel and not counted: they stand at the end, with "-".
 */
#include "cli/api.h"
#include "cli/table.h"
#include "cli/units.h"

#include <inttypes.h>
#include <signal.h>

struct top_lane {
	const json_t *lane; /* borrowed from the answer */
	bool counted;
	double bytes_per_s, reads_per_s;
};

static double top_sum(const json_t *lane, const char *a, const char *b)
{
	return (double)api_i64(lane, a) + (double)api_i64(lane, b);
}

/* Lanes of the answer before, by id: a JSON object of borrowed lanes, since jansson has the hash table already. */
static json_t *top_index(const json_t *lanes)
{
	json_t *index = json_object(), *lane;
	size_t i;

	json_array_foreach(lanes, i, lane) {
		if (api_str(lane, "id"))
			json_object_set(index, api_str(lane, "id"), lane);
	}
	return index;
}

static int top_compare(const void *a, const void *b)
{
	const struct top_lane *x = a, *y = b;

	if (x->counted != y->counted)
		return x->counted ? -1 : 1;
	return x->bytes_per_s < y->bytes_per_s ? 1 : x->bytes_per_s > y->bytes_per_s ? -1 : 0;
}

static void top_row(struct table *t, const struct top_lane *l)
{
	const json_t *client = json_object_get(l->lane, "client"), *server = json_object_get(l->lane, "server");
	const char *way = api_str(json_object_get(l->lane, "link"), "path");
	bool rdma = way && strncmp(way, "rdma", 4) == 0;
	AUTO_FREE(char) path = api_path("%s%s%s", api_str(l->lane, "path"), rdma ? " " : "", rdma ? way : "");
	char bytes[UNIT_TEXT_SIZE], rate[UNIT_TEXT_SIZE + 4] = "", reads[UNIT_TEXT_SIZE] = "", total[UNIT_TEXT_SIZE] = "";

	if (l->counted) {
		snprintf(rate, sizeof(rate), "%s/s", unit_format_bytes(bytes, l->bytes_per_s));
		snprintf(reads, sizeof(reads), "%.0f", l->reads_per_s);
		unit_format_bytes(total, top_sum(l->lane, "bytes_up", "bytes_down"));
	}
	table_add(t, rate, reads, total, api_str(client, "workload"), api_str(client, "service"), api_str(server, "workload"),
		  api_str(server, "service"), path, api_str(l->lane, "id"));
}

static void top_print(const json_t *lanes, const json_t *before, double seconds)
{
	static const char *const heads[] = { ">BYTES/S", ">READS/S", ">TOTAL", "CLIENT", "AS", "SERVER", "AS", "PATH", "ID", NULL };
	size_t n = json_array_size(lanes);
	AUTO_FREE(struct top_lane) sorted = calloc(n ? n : 1, sizeof(*sorted));
	struct table t;

	if (!sorted)
		abort();
	for (size_t i = 0; i < n; i++) {
		const json_t *lane = json_array_get(lanes, i), *old = json_object_get(before, api_str(lane, "id"));

		sorted[i].lane = lane;
		sorted[i].counted = api_has(lane, "bytes_up");
		if (old && seconds > 0) {
			sorted[i].bytes_per_s = (top_sum(lane, "bytes_up", "bytes_down") - top_sum(old, "bytes_up", "bytes_down")) / seconds;
			sorted[i].reads_per_s = (top_sum(lane, "reads_up", "reads_down") - top_sum(old, "reads_up", "reads_down")) / seconds;
		}
	}
	qsort(sorted, n, sizeof(*sorted), top_compare);
	table_init(&t, heads);
	for (size_t i = 0; i < n; i++)
		top_row(&t, &sorted[i]);
	table_print(&t, stdout);
	table_free(&t);
}

static void top_sleep(double seconds)
{
	struct timespec ts = { .tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9) };

	while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
		;
}

/* One round: fetch, show against @before, which it then replaces. The first fetch has nothing to compare with: not shown. */
static int top_round(struct cli *c, json_t **before, uint64_t *before_ns, bool show)
{
	AUTO_REPLY reply = { 0 };
	uint64_t now;
	int r;

	if (c->json && !show)
		return CLI_OK;
	r = api_call_within(c, "GET", "/v1/lanes", NULL, API_LIST_MS, &reply);
	if (r != CLI_OK || c->json)
		return r;
	now = clock_ns();
	if (show) {
		if (isatty(STDOUT_FILENO))
			fputs("\033[H\033[2J", stdout);
		top_print(json_object_get(reply.json, "lanes"), *before, (double)(now - *before_ns) / 1e9);
		if (!isatty(STDOUT_FILENO))
			putchar('\n');
	}
	json_decref(*before);
	*before = top_index(json_object_get(reply.json, "lanes"));
	*before_ns = now;
	return CLI_OK;
}

int verb_top(struct cli *c, int argc, char **argv)
{
	uint32_t rounds = 0;
	double delay_s = 1;
	const struct opt opts[] = {
		{ "rounds", 'n', OPT_COUNT, &rounds },
		{ "delay", 'd', OPT_DURATION, &delay_s },
	};
	json_t *before = NULL;
	uint64_t before_ns = 0;
	int r;

	if (cli_begin(c, opts, ARRAY_SIZE(opts), argc, argv, OPT_OPERANDS_ANYWHERE, 0, 0) < 0)
		return c->exit;
	if (delay_s < 0.1)
		return cli_usage(c, "-d: at least 100ms, since every round makes the daemon count all lanes");
	r = top_round(c, &before, &before_ns, false);
	for (uint32_t i = 0; r == CLI_OK && (rounds == 0 || i < rounds); i++) {
		top_sleep(delay_s);
		r = top_round(c, &before, &before_ns, true);
		fflush(stdout);
		if (ferror(stdout))
			r = CLI_FAILED;
	}
	json_decref(before);
	return r;
}
