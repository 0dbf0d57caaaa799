/*
 * `sealane enrol`: for engines without hooks and for scripts. Which cgroup is said by a pid in it, a container id, or a
 * path; what is sent is the kernel's id of it.
 */
#include "cli/api.h"
#include "cli/cgroup.h"
#include "cli/enrol.h"

#include <limits.h>

struct enrol_options {
	struct enrol_request request;
	const char *cgroup, *container;
	uint32_t pid;
};

static int enrol_by_path(struct cli *c, struct enrol_options *o, const char *mount)
{
	AUTO_FREE(char) path = NULL;
	int r;

	/* Both "/system.slice/web.service", as the configuration has it, and the directory's full path. */
	if (strncmp(o->cgroup, mount, strlen(mount)) == 0)
		path = strdup(o->cgroup);
	else if (asprintf(&path, "%s/%s", mount, o->cgroup) < 0)
		path = NULL;
	r = path ? cgroup_id_of_path(&o->request.cgroup_id, path) : -ENOMEM;
	return r < 0 ? cli_error(c, "--cgroup %s: %s", o->cgroup, strerror(-r)) : CLI_OK;
}

static int enrol_by_container(struct cli *c, struct enrol_options *o, const char *mount)
{
	char path[PATH_MAX];
	int r = cgroup_find_container(path, sizeof(path), mount, o->container);

	if (r == -EINVAL)
		return cli_usage(c, "--container: expected 12 to 64 hex digits (docker inspect -f '{{.Id}}' NAME), not \"%s\"", o->container);
	if (r == -ENOENT)
		return cli_error(c, "no cgroup below %s belongs to container %s: is it running?", mount, o->container);
	if (r == -ENOTUNIQ)
		return cli_error(c, "more than one cgroup belongs to container %s: say more of its id, or --cgroup PATH", o->container);
	if (r == 0)
		r = cgroup_id_of_path(&o->request.cgroup_id, path);
	return r < 0 ? cli_error(c, "--container %s: %s", o->container, strerror(-r)) : CLI_OK;
}

static int enrol_find_cgroup(struct cli *c, struct enrol_options *o)
{
	char mount[LIMIT_PATH_SIZE];
	int r;

	if (o->pid) {
		r = cgroup_of_pid(&o->request.cgroup_id, (pid_t)o->pid);
		return r < 0 ? cli_error(c, "--pid %u: %s", o->pid, strerror(-r)) : CLI_OK;
	}
	r = cgroup_find_mount(mount, sizeof(mount));
	if (r < 0)
		return cli_error(c, "cgroup2 is mounted nowhere; mount -t cgroup2 none /sys/fs/cgroup/unified (or /sys/fs/cgroup)");
	return o->cgroup ? enrol_by_path(c, o, mount) : enrol_by_container(c, o, mount);
}

int verb_enrol(struct cli *c, int argc, char **argv)
{
	struct enrol_options o = { .request.by = "cli" };
	const struct opt opts[] = {
		{ "workload", 0, OPT_STRING, &o.request.workload }, { "service", 0, OPT_STRING, &o.request.service },
		{ "label", 0, OPT_STRING, &o.request.label },	    { "pid", 0, OPT_COUNT, &o.pid },
		{ "cgroup", 0, OPT_STRING, &o.cgroup },		    { "container", 0, OPT_STRING, &o.container },
	};
	struct enrolment e = { 0 };
	int r;

	if (cli_begin(c, opts, ARRAY_SIZE(opts), argc, argv, OPT_OPERANDS_ANYWHERE, 0, 0) < 0)
		return c->exit;
	if ((o.pid != 0) + (o.cgroup != NULL) + (o.container != NULL) != 1)
		return cli_usage(c, "which cgroup is it? one of --container ID, --pid PID, --cgroup PATH");
	if (o.pid > INT_MAX)
		return cli_usage(c, "--pid: %u is no process id", o.pid);
	r = enrol_find_cgroup(c, &o);
	if (r != CLI_OK)
		return r;
	o.request.container_id = o.container;
	r = enrol(c, &o.request, &e);
	if (r != CLI_OK)
		return r;
	if (c->json) {
		json_t *answer = json_pack("{s:s, s:s}", "name", e.name, "dir", e.dir);

		json_dumpf(answer, stdout, JSON_COMPACT);
		putchar('\n');
		json_decref(answer);
	} else {
		printf("%s %s\n", e.name, e.dir);
	}
	return CLI_OK;
}
