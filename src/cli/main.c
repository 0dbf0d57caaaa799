/* The table of verbs. Each is a file verb_NAME.c; docs/openapi.json is what they talk to. */
#include "cli/cli.h"
#include "cli/oci_runtime.h"

#include <fcntl.h>

static const struct cli_verb g_verbs[] = {
	{ "status", verb_status, "status", "The daemon at a glance", "" },
	{ "ls", verb_ls, "ls workloads|services|intentions|lanes|sockets|hosts|links|certificates", "List what the daemon knows", "", "workloads|services|intentions|lanes|sockets|hosts|links|certificates" },
	{ "explain", verb_explain, "explain SOURCE DESTINATION",
	  "Which intention decides for a pair of services, which way a lane takes, and why",
	  "Exits 0 when the pair is allowed and 1 when it is denied.\n", "SOURCE DESTINATION" },
	{ "intention", verb_intention,
	  "intention allow SOURCE DESTINATION [--strict] [--bytes-per-s N] [--open-lanes N] [--connections-per-s N] [--expires WHEN] [--cluster]\n"
	  "intention deny SOURCE DESTINATION [--expires WHEN] [--cluster]\n"
	  "intention rm SOURCE DESTINATION [--cluster]\n"
	  "intention ls",
	  "Say who may talk to whom, from now on and over restarts",
	  "  --strict               never the direct path: the daemon checks and can count every byte\n"
	  "  --bytes-per-s N        of one lane, both directions together: 4096, 10mb, 1.5g\n"
	  "  --open-lanes N         at the same time\n"
	  "  --connections-per-s N  new lanes a second\n"
	  "  --expires WHEN         2h, 30m, or 2026-01-02T03:04:05Z\n"
	  "  --cluster              in etcd, for all hosts\n"
	  "SOURCE and DESTINATION are NAME, NAMESPACE/NAME, NAMESPACE/* or *. A run-time intention wins over the cluster's and a\n"
	  "file's for the same pair; rm takes it away again.\n", "allow|deny|rm SOURCE DESTINATION" },
	{ "catalogue", verb_catalogue, "catalogue [accept|restore]", "What is known of the cluster, and what to make of an etcd that lost its data",
	  "Without a word: how etcd is, and what is known.\n"
	  "  accept   etcd's data is right as it is now, for all hosts\n"
	  "  restore  write the intentions that are known here into etcd again, for all hosts\n" },
	{ "run", verb_run, "run --service NAME [--workload NAME] [--rootfs DIR] [--net none|host] [--] COMMAND [ARGUMENT ...]",
	  "Run a command as a workload, in namespaces and a cgroup of its own",
	  "  --service NAME   speak as this service (a workload is made if none is configured)\n"
	  "  --workload NAME  be this configured workload; without --service too\n"
	  "  --rootfs DIR     its root directory; without it the command sees the host's files\n"
	  "  --net            none (default): only lo; host: the caller's network\n"
	  "Exits with the command's status; 126 and 127 when it cannot be run or found.\n", "COMMAND" },
	{ "enrol", verb_enrol, "enrol --container ID|--pid PID|--cgroup PATH [--workload NAME] [--service NAME] [--label KEY=VALUE]",
	  "Tell the daemon which cgroup a workload has, where no engine hook does",
	  "Prints the workload's name and its directory on the host, to be mounted at /run/sealane.\n" },
	{ "unenrol", verb_unenrol, "unenrol WORKLOAD", "Forget a workload's cgroup and cut its lanes", "", "WORKLOAD" },
	{ "drain", verb_drain, "drain WORKLOAD [--undo]", "Let no new lanes to or from a workload in; open ones go on", "", "WORKLOAD" },
	{ "reload", verb_reload, "reload", "Read the configuration files again; wrong ones are refused and the old ones stay", "" },
	{ "logs", verb_logs, "logs [-f] [-n LINES]", "The daemon's last events; with -f also those to come",
	  "  -n LINES  of those that were (100; at most 4096; with -f also 0)\n" },
	{ "top", verb_top, "top [-n ROUNDS] [-d TIME]", "Who sends how much on which lane, live",
	  "  -n ROUNDS  stop after so many\n"
	  "  -d TIME    between rounds: 5, 500ms, 1m (default 1s)\n"
	  "With --json: the lanes' counters, one answer each round.\n" },
	{ "doctor", verb_doctor, "doctor", "What this machine gives sealane, and what to change", "Exits 1 when something that sealane needs is missing.\n" },
	{ "bench", verb_bench, "bench [--wait adaptive|spin|block] [--time TIME]\n"
	  "bench rdma [--listen ADDRESS | --connect ADDRESS] [--wait adaptive|spin|block] [--time TIME]",
	  "Measure a lane on this machine, or one-sided memory on RDMA devices",
	  "  --wait  how the two ends wait (default: adaptive)\n"
	  "  --time  for all of it: 10s, 500ms (default: 2s; rdma: 6s)\n"
	  "  --listen ADDRESS   be the far end, on the other host, for one measurement (10.0.0.2, or with a port: 10.0.0.2:7449)\n"
	  "  --connect ADDRESS  measure with who listens there\n"
	  "A lane is measured beside a Unix socket and TCP; two processes, each on a CPU of its own if there are two. No daemon is needed.\n"
	  "rdma without an address: both ends on this host. Without a device it says why, and measures what stands in for one.\n" },
	{ "ca", verb_ca,
	  "ca init\n"
	  "ca token HOST [--service NAME ...] [--for TIME] [--address ADDRESS:PORT]\n"
	  "ca tokens\n"
	  "ca withdraw HOST|ID\n"
	  "ca ls\n"
	  "ca rotate-root [--after TIME]\n"
	  "ca retire-root [--now]\n"
	  "ca grant HOST SERVICE\n"
	  "ca ungrant HOST SERVICE\n"
	  "ca revoke host/NAME|SERVICE|SERVICE@HOST|SERIAL\n"
	  "ca unrevoke host/NAME|SERVICE|SERVICE@HOST|SERIAL",
	  "The authority that gives hosts and services their certificates",
	  "  --service NAME       the host may have certificates for it: NAME, NAMESPACE/NAME, NAMESPACE/* or *; may be repeated\n"
	  "  --for TIME           how long the token is good: 10m (default), 2h, 1d\n"
	  "  --address            where this host is reached; without it as configured\n"
	  "  --after TIME         when the new root begins to sign; without it after the life of a host's certificate\n"
	  "  --now                though certificates by the old root may be good\n"
	  "init makes this host the authority. token lets one host join once; it is printed here and kept nowhere.\n"
	  "tokens lists those that are open; withdraw takes a host's, or the one of that ID, back.\n"
	  "rotate-root makes another root, which takes the old one's place without anybody having to join again; retire-root takes the one back\n"
	  "that does not sign. ungrant: nothing new, and no open token gives it; revoke: what there is ends as well.\n",
	  "init|token|tokens|withdraw|ls|rotate-root|retire-root|grant|ungrant|revoke|unrevoke" },
	{ "join", verb_join, "join TOKEN [--again]", "Join the authority that made the token; this host gets certificates from then on",
	  "  --again  also if this host has joined already: with another authority, or anew\n"
	  "TOKEN is what `sealane ca token` printed on the authority; - reads it from standard input.\n", "TOKEN" },
	{ "cdi", verb_cdi, "cdi [--dir DIR]", "Print the CDI file that container engines read (default DIR: /run/cdi)", "" },
	{ "hook", verb_hook, "hook createRuntime|poststop [--workload NAME]",
	  "The OCI hook: enrol a container that an engine is starting (its state comes on standard input)", "", "createRuntime|poststop" },
};

static void main_help(FILE *f)
{
	fputs("usage: sealane [--socket PATH] [--json] VERB ...\n\n", f);
	for (size_t i = 0; i < ARRAY_SIZE(g_verbs); i++)
		fprintf(f, "  %-10s %s\n", g_verbs[i].name, g_verbs[i].summary);
	fputs("\nsealane VERB --help tells more of each. The daemon is asked on " CLI_DEFAULT_SOCKET ",\n"
	      "or on what --socket or SEALANE_ADMIN says. Exits 0: done; 1: refused or failed; 2: usage; 3: no daemon answers.\n", f);
}

static const struct cli_verb *main_find_verb(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(g_verbs); i++) {
		if (strcmp(g_verbs[i].name, name) == 0)
			return &g_verbs[i];
	}
	return NULL;
}

static int main_run_verb(struct cli *c, int argc, char **argv)
{
	int r;

	c->verb = main_find_verb(argv[0]);
	if (!c->verb) {
		fprintf(stderr, "sealane: there is no verb \"%s\"; sealane help lists them\n", argv[0]);
		return CLI_USAGE;
	}
	r = c->verb->run(c, argc - 1, argv + 1);
	/* A full disk behind standard output must not look like success. */
	if ((fflush(stdout) != 0 || ferror(stdout)) && r == CLI_OK)
		return cli_error(c, "standard output: %m");
	return r;
}

/* With one of the three closed, the next file that is opened would become it, and `run` hands those three on. */
static bool main_fill_std_fds(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

int main(int argc, char **argv)
{
	const char *socket_path = getenv("SEALANE_ADMIN");
	struct cli c = { .socket_path = socket_path && *socket_path ? socket_path : CLI_DEFAULT_SOCKET };
	bool version = false;
	const struct opt opts[] = { { "version", 'V', OPT_FLAG, &version } };
	int first = 1, n;

	if (!main_fill_std_fds())
		return CLI_FAILED;
	if (strncmp(program_invocation_short_name, "sealane-", 8) == 0)
		return oci_runtime_main(&c, program_invocation_short_name + 8, argc, argv);
	/* Options before the verb are ours; all after it are the verb's. */
	while (first < argc && argv[first][0] == '-')
		first += strcmp(argv[first], "--socket") == 0 && first + 1 < argc ? 2 : 1;
	n = opt_parse(&c, opts, ARRAY_SIZE(opts), first - 1, argv + 1, OPT_OPERANDS_ANYWHERE);
	if (n < 0)
		return CLI_USAGE;
	if (version || (first < argc && strcmp(argv[first], "version") == 0)) {
		puts("sealane " SEALANE_VERSION);
		return CLI_OK;
	}
	if (c.help || (first < argc && strcmp(argv[first], "help") == 0 && first + 1 == argc)) {
		main_help(stdout);
		return CLI_OK;
	}
	if (first < argc && strcmp(argv[first], "help") == 0 && main_find_verb(argv[first + 1])) {
		c.verb = main_find_verb(argv[first + 1]);
		cli_help(&c);
		return CLI_OK;
	}
	if (first >= argc) {
		main_help(stderr);
		return CLI_USAGE;
	}
	return main_run_verb(&c, argc - first, argv + first);
}
