/*
 * Theory of operation: make a cgroup, start a held process in it (cli/jail.h), enrol the cgroup, let the process go, pass
 * signals on, and at the end, whichever end it is, take everything back: processes, enrolment, cgroup. All signals that
 * could end this process are blocked from before the cgroup is made until after it is gone, so there is one way out.
 * SIGKILL is the exception: the command dies with us then, the daemon sees the cgroup empty and unenrols it, and the next
 * `sealane run` removes the empty directory.
 */
#include "cli/api.h"
#include "cli/cgroup.h"
#include "cli/enrol.h"
#include "cli/jail.h"

#include <sys/wait.h>

struct run_options {
	struct enrol_request request;
	struct jail_options jail;
};

static const int g_run_signals[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGWINCH, SIGCHLD };

static void run_block_signals(sigset_t *ret)
{
	signal(SIGCHLD, SIG_DFL); /* inherited as "ignore" it would take the exit status away */
	sigemptyset(ret);
	for (size_t i = 0; i < ARRAY_SIZE(g_run_signals); i++)
		sigaddset(ret, g_run_signals[i]);
	sigprocmask(SIG_BLOCK, ret, NULL);
}

/* Until init ends. Return: what it says the command's exit status is. */
static int run_wait(struct jail *j, const sigset_t *signals)
{
	siginfo_t info;

	for (;;) {
		siginfo_t ended = { 0 };

		if (waitid(P_PIDFD, (id_t)j->pidfd, &ended, WEXITED | WNOWAIT | WNOHANG) < 0)
			return CLI_FAILED;
		if (ended.si_pid != 0)
			return ended.si_code == CLD_EXITED ? ended.si_status : JAIL_EXIT_SIGNAL + ended.si_status;
		if (sigwaitinfo(signals, &info) > 0 && info.si_signo != SIGCHLD)
			jail_forward(j, &info);
	}
}

static int run_start(struct cli *c, const struct run_options *o, const struct cgroup *g, struct jail *j)
{
	int r = jail_start(j, &o->jail, g->fd);

	if (r == -ENOSYS || r == -E2BIG || r == -EINVAL)
		return cli_error(c, "this kernel cannot start a process in a cgroup (needs Linux 5.7; `sealane doctor` tells more)");
	return r < 0 ? cli_error(c, "start in %s: %s", g->path, strerror(-r)) : CLI_OK;
}

static int run_in_cgroup(struct cli *c, struct run_options *o, const struct cgroup *g, const sigset_t *signals)
{
	struct jail j = { 0 };
	struct enrolment e = { 0 };
	int r = run_start(c, o, g, &j);

	if (r != CLI_OK)
		return r;
	o->request.cgroup_id = g->id;
	o->request.by = "cli";
	r = enrol(c, &o->request, &e);
	if (r == CLI_OK) {
		if (jail_go(&j, e.dir) < 0)
			r = cli_error(c, "the process ended before it was let go");
		else
			r = run_wait(&j, signals);
	}
	jail_end(&j);
	if (e.name[0])
		unenrol_own(c, e.name, g->id);
	return r;
}

/* A cgroup's name: the workload's or service's, without the slash of NAMESPACE/NAME. */
static int run_make_cgroup(struct cli *c, const struct run_options *o, struct cgroup *g)
{
	char mount[LIMIT_PATH_SIZE], name[LIMIT_SERVICE_SIZE];
	const char *said = o->request.workload ? o->request.workload : o->request.service;
	int r;

	if (!str_copy(name, sizeof(name), said) || !*name || *name == '.' ||
	    strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-/") != strlen(name))
		return cli_usage(c, "\"%s\" is no name: a-z, 0-9 and \"-\", at most 63", said);
	for (char *s = name; *s; s++)
		*s = *s == '/' ? '.' : *s;
	r = cgroup_find_mount(mount, sizeof(mount));
	if (r < 0)
		return cli_error(c, "cgroup2 is mounted nowhere; mount -t cgroup2 none /sys/fs/cgroup/unified (or /sys/fs/cgroup)");
	r = cgroup_make(g, mount, name);
	if (r < 0)
		return cli_error(c, "make a cgroup in %s/sealane: %s", mount, strerror(-r));
	return CLI_OK;
}

int verb_run(struct cli *c, int argc, char **argv)
{
	struct run_options o = { 0 };
	const char *net = "none";
	const struct opt opts[] = {
		{ "service", 0, OPT_STRING, &o.request.service }, { "workload", 0, OPT_STRING, &o.request.workload },
		{ "rootfs", 0, OPT_STRING, &o.jail.rootfs },	  { "net", 0, OPT_STRING, &net },
	};
	struct cgroup g = { .fd = -1 };
	sigset_t signals;
	int n = cli_begin(c, opts, ARRAY_SIZE(opts), argc, argv, OPT_OPERANDS_END_OPTIONS, 1, INT32_MAX), r;
	AUTO_FREE(char) hostname = NULL;

	if (n < 0)
		return c->exit;
	if (!o.request.service && !o.request.workload)
		return cli_usage(c, "missing: --service NAME (or --workload NAME)");
	if (strcmp(net, "none") != 0 && strcmp(net, "host") != 0)
		return cli_usage(c, "--net: none or host, not \"%s\"", net);
	if (geteuid() != 0)
		return cli_error(c, "namespaces and cgroups need root: sudo sealane run ...");
	o.jail.net_host = strcmp(net, "host") == 0;
	argv[n] = NULL;
	o.jail.argv = argv;
	run_block_signals(&signals);
	r = run_make_cgroup(c, &o, &g);
	if (r != CLI_OK)
		return r;
	hostname = strdup(o.request.workload ? o.request.workload : o.request.service);
	o.jail.hostname = hostname && strchr(hostname, '/') ? strchr(hostname, '/') + 1 : hostname;
	r = run_in_cgroup(c, &o, &g, &signals);
	cgroup_remove(&g);
	return r;
}
