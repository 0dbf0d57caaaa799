/*
 * Theory of operation: `podman run --device sealane.dev/workload=web` finds this description in /run/cdi (the broker makes
 * its text at each load, the warden writes it) and gives the container what a workload needs and nothing more: its
 * directory, read-only, at /run/sealane; its serve/ directory, writable, if it offers services; SEALANE_DIR; and two hooks
 * that tell the daemon which cgroup the container has. A hook that fails fails the container.
 *
 * Only configured workloads stand here: a run-time one belongs to the process that made it.
 * Source: CNCF container-device-interface SPEC.md 0.5.0. That is what podman 4.3 reads; later ones read it too.
 */
#include "daemon/broker_cdi.h"

#include <jansson.h>
#include <stdio.h>

#ifndef SEALANE_CLI_PATH
#define SEALANE_CLI_PATH "/usr/bin/sealane"
#endif

enum { CDI_HOOK_TIMEOUT_S = 15 }; /* `sealane hook` gives up by itself after 10 */

/* NULL anywhere becomes NULL at the end: jansson's *_new() functions take and free what they are given, and refuse NULL. */
static json_t *cdi_array(json_t *first, json_t *second)
{
	json_t *a = json_array();

	if (!first || json_array_append_new(a, first) < 0 || (second && json_array_append_new(a, second) < 0)) {
		json_decref(a);
		return NULL;
	}
	return a;
}

static json_t *cdi_mount(const char *host_path, const char *container_path, const char *mode, const char *bind)
{
	return json_pack("{s:s, s:s, s:[s, s, s, s, s]}", "hostPath", host_path, "containerPath", container_path, "options", mode,
			 bind, "nosuid", "nodev", "noexec");
}

static json_t *cdi_hook(const struct broker *b, const char *when, const char *name, const char *sealane_path)
{
	char socket[LIMIT_PATH_SIZE + 16];

	snprintf(socket, sizeof(socket), "%s/admin.sock", b->run_dir);
	return json_pack("{s:s, s:s, s:[s, s, s, s, s, s, s], s:i}", "hookName", when, "path", sealane_path, "args", "sealane", "hook",
			 when, "--workload", name, "--socket", socket, "timeout", (int)CDI_HOOK_TIMEOUT_S);
}

static json_t *cdi_device(const struct broker *b, const struct workload *w, const char *sealane_path)
{
	char dir[LIMIT_PATH_SIZE + LIMIT_NAME_SIZE + 16], serve[sizeof(dir) + 8];
	json_t *mounts, *hooks;

	snprintf(dir, sizeof(dir), "%s/w/%s", b->run_dir, w->name);
	snprintf(serve, sizeof(serve), "%s/serve", dir);
	mounts = cdi_array(cdi_mount(dir, "/run/sealane", "ro", "rbind"),
			   w->offers ? cdi_mount(serve, "/run/sealane/serve", "rw", "rbind") : NULL);
	hooks = cdi_array(cdi_hook(b, "createRuntime", w->name, sealane_path), cdi_hook(b, "poststop", w->name, sealane_path));
	return json_pack("{s:s, s:{s:[s], s:o, s:o}}", "name", w->name, "containerEdits", "env", "SEALANE_DIR=/run/sealane", "mounts",
			 mounts, "hooks", hooks);
}

/* SEALANE_CLI in the daemon's environment is for a daemon that runs where it was built. */
static const char *cdi_cli_path(void)
{
	const char *said = getenv("SEALANE_CLI");

	return said && said[0] == '/' ? said : SEALANE_CLI_PATH;
}

char *cdi_text(const struct broker *b, const char *sealane_path)
{
	json_t *devices = json_array(), *root;
	char *text;

	if (!sealane_path || !*sealane_path)
		sealane_path = cdi_cli_path();
	for (size_t i = 0; i < b->n_workloads; i++) {
		const struct workload *w = &b->workloads[i];

		if (!w->configured || w->removed)
			continue;
		if (json_array_append_new(devices, cdi_device(b, w, sealane_path)) < 0) {
			json_decref(devices);
			return NULL;
		}
	}
	root = json_pack("{s:s, s:s, s:o}", "cdiVersion", "0.5.0", "kind", "sealane.dev/workload", "devices", devices);
	text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
	json_decref(root);
	return text;
}
