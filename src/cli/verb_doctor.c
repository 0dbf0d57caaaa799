/* `sealane doctor`: asks the daemon how and where it runs, runs the probes (cli/probe.h), and says what to change. */
#include "cli/api.h"
#include "cli/probe.h"
#include "cli/table.h"

#include <inttypes.h>

enum { DOCTOR_TIMEOUT_MS = 3000 };

struct doctor {
	bool json, colour;
	json_t *checks;
	size_t n_missing;
};

static const char *const g_state_names[] = {
	[FINDING_OK] = "ok",
	[FINDING_WARN] = "warn",
	[FINDING_MISSING] = "missing",
	[FINDING_UNKNOWN] = "unknown",
};
static_assert(ARRAY_SIZE(g_state_names) == FINDING_N, "a name for each state");

static void doctor_tell(struct doctor *d, const char *name, const struct finding *f)
{
	static const char *const colours[] = { "\033[32m", "\033[33m", "\033[31m", "" };

	d->n_missing += f->state == FINDING_MISSING;
	if (d->json) {
		json_array_append_new(d->checks, json_pack("{s:s, s:s, s:s, s:s}", "name", name, "state", g_state_names[f->state], "found",
							   f->found, "advice", f->advice));
		return;
	}
	printf("%-20s %s%-8s%s ", name, d->colour ? colours[f->state] : "", g_state_names[f->state], d->colour ? "\033[0m" : "");
	text_put(stdout, f->found);
	putchar('\n');
	if (f->advice[0]) {
		printf("%-29s ", "");
		text_put(stdout, f->advice);
		putchar('\n');
	}
}

static void doctor_run(struct doctor *d, const struct probe *list)
{
	for (; list->name; list++) {
		struct finding f = { 0 };

		list->run(&f);
		doctor_tell(d, list->name, &f);
		fflush(stdout);
	}
}

static void doctor_tell_guard(struct doctor *d, const json_t *status)
{
	const char *guard = api_str(status, "guard"), *why = api_str(status, "guard_why");
	struct finding f = { 0 };

	if (guard && strcmp(guard, "lsm") == 0)
		finding_set(&f, FINDING_OK, "", "lsm: the kernel holds direct lanes to the intentions");
	else
		finding_set(&f, FINDING_WARN, "direct lanes are held by their socket files and by cutting; strict intentions never use them", "%s%s%s",
			    guard ? guard : "not told", why && *why ? ": " : "", why ? why : "");
	doctor_tell(d, "daemon: guard", &f);
}

/* What its linkers found when they started: it may be another machine's view, of a container say. */
static void doctor_tell_rdma(struct doctor *d, const json_t *rdma)
{
	const json_t *linker;
	size_t i;

	if (strcmp(api_str(rdma, "mode") ? api_str(rdma, "mode") : "off", "off") == 0)
		return; /* no linker runs, or none is to have a device */
	json_array_foreach(json_object_get(rdma, "linkers"), i, linker) {
		struct finding f = { 0 };

		if (api_has(linker, "device"))
			finding_set(&f, FINDING_OK, "", "linker %zu has %s at %s; atomics %s, windows %s, %" PRId64 " MiB may be pinned", i, api_str(linker, "device"),
				    api_str(linker, "address"), api_bool(linker, "atomics") ? "yes" : "no", api_bool(linker, "windows") ? "yes" : "no",
				    api_i64(linker, "memlock_bytes") >> 20);
		else
			finding_set(&f, FINDING_WARN, "lanes to other hosts go over TLS; when it is there: sealane reload. Or say rdma = off", "linker %zu has no device: %s", i,
				    api_has(linker, "why") ? api_str(linker, "why") : "not told yet");
		doctor_tell(d, "daemon: RDMA", &f);
	}
}

/* The probes look where this daemon keeps its files. */
static void doctor_learn_dirs(const json_t *status)
{
	const char *run = api_str(status, "run_dir"), *cdi = api_str(status, "cdi_dir");

	if (run && *run)
		snprintf(probe_dirs.run, sizeof(probe_dirs.run), "%s", run);
	if (cdi)
		snprintf(probe_dirs.cdi, sizeof(probe_dirs.cdi), "%s", strcmp(cdi, "off") == 0 ? "" : cdi);
}

static void doctor_tell_daemon(struct doctor *d, const char *socket_path, const struct api_reply *reply, int r)
{
	struct finding f = { 0 };
	const char *identity = api_str(reply->json, "identity");

	if (r < 0 || reply->status != 200) {
		finding_set(&f, FINDING_WARN, "systemctl start sealaned, or: sealaned -c /etc/sealane/sealane.conf", "none answers on %s (%s)", socket_path,
			    r < 0 ? strerror(-r) : "it refuses to tell");
		doctor_tell(d, "daemon", &f);
		return;
	}
	finding_set(&f, FINDING_OK, "", "%s on %s", api_str(reply->json, "version"), socket_path);
	doctor_tell(d, "daemon", &f);
	if (identity && strcmp(identity, "pidfd") == 0)
		finding_set(&f, FINDING_OK, "", "pidfd: the kernel says whose connection it is");
	else
		finding_set(&f, FINDING_WARN, "docs/design/identity.md says what that does not promise", "%s", identity ? identity : "not told");
	doctor_tell(d, "daemon: identity", &f);
	doctor_tell_guard(d, reply->json);
	doctor_tell_rdma(d, json_object_get(reply->json, "rdma"));
}

int verb_doctor(struct cli *c, int argc, char **argv)
{
	AUTO_REPLY reply = { 0 };
	struct doctor d;
	int r;

	if (cli_begin(c, NULL, 0, argc, argv, OPT_OPERANDS_ANYWHERE, 0, 0) < 0)
		return c->exit;
	d = (struct doctor){ .json = c->json, .colour = isatty(STDOUT_FILENO) && !getenv("NO_COLOR"), .checks = json_array() };
	r = api_request(c->socket_path, "GET", "/v1/status", NULL, DOCTOR_TIMEOUT_MS, &reply);
	if (r == 0 && reply.status == 200)
		doctor_learn_dirs(reply.json);
	doctor_run(&d, probe_kernel);
	doctor_run(&d, probe_machine);
	doctor_run(&d, probe_engines);
	doctor_run(&d, probe_rdma);
	doctor_tell_daemon(&d, c->socket_path, &reply, r);
	if (c->json) {
		json_t *answer = json_pack("{s:O, s:b}", "checks", d.checks, "usable", d.n_missing == 0);

		json_dumpf(answer, stdout, JSON_INDENT(2));
		putchar('\n');
		json_decref(answer);
	}
	json_decref(d.checks);
	return d.n_missing ? CLI_FAILED : CLI_OK;
}
