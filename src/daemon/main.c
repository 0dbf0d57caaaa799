/*
 * Theory of operation: the command line becomes a struct daemon_options; with --role the process is one of the daemon's
 * own (docs/design/roles.md), with --check or --stop-keeper it does that one thing, otherwise it is the daemon. Before that a
 * child without rights reads the configuration: what root's processes must not parse is still told before anything is made.
 */
#include "base/log.h"
#include "conf/config.h"
#include "daemon/config_files.h"
#include "daemon/role_user.h"
#include "daemon/roles.h"
#include "daemon/warden_keeper.h"
#include "daemon/warden_spawn.h"

#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <pwd.h>
#include <stdio.h>
#include <sys/wait.h>

enum { OPT_RUN_DIR = 256, OPT_STATE_DIR, OPT_USER, OPT_CHECK, OPT_STOP_KEEPER, OPT_VERSION, OPT_ROLE };

static const struct option g_options[] = {
	{ "config", required_argument, NULL, 'c' },
	{ "run-dir", required_argument, NULL, OPT_RUN_DIR },
	{ "state-dir", required_argument, NULL, OPT_STATE_DIR },
	{ "user", required_argument, NULL, OPT_USER },
	{ "check", no_argument, NULL, OPT_CHECK },
	{ "stop-keeper", no_argument, NULL, OPT_STOP_KEEPER },
	{ "verbose", no_argument, NULL, 'v' },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ "help", no_argument, NULL, 'h' },
	{ "role", required_argument, NULL, OPT_ROLE },
	{ NULL, 0, NULL, 0 },
};

static const char g_usage[] =
	"usage: sealaned [-c PATH]... [--run-dir DIR] [--state-dir DIR] [--user NAME] [-v]\n"
	"       sealaned --check [FILE]...\n"
	"       sealaned --stop-keeper [--run-dir DIR]\n"
	"\n"
	"  -c, --config PATH  configuration file, or directory of *.conf, *.hcl and *.json; may be repeated\n"
	"                     (default /etc/sealane/sealane.conf and /etc/sealane/conf.d)\n"
	"  --run-dir DIR      sockets (default /run/sealane)\n"
	"  --state-dir DIR    what survives a restart (default /var/lib/sealane)\n"
	"  --user NAME        whom the unprivileged processes run as (default sealane, else nobody)\n"
	"  --check [FILE]...  read the configuration, say what is wrong with it, exit 0 or 1\n"
	"  --stop-keeper      end the process that holds the sockets for the next daemon, remove them\n"
	"  -v, --verbose      log more\n"
	"  --version, --help\n";

struct command {
	struct daemon_options o;
	const char *role;
	bool check, stop_keeper;
};

static const struct {
	const char *name;
	int (*run)(const struct daemon_options *o);
} g_roles[] = {
	{ "warden", warden_role_main }, { "broker", broker_main },   { "gate", gate_main },
	{ "porter", porter_main }, { "linker", linker_main },	{ "checker", checker_main }, { "keeper", keeper_main },
	{ "catalogue", catalogue_main },
	{ "signer", signer_main },
};

static bool add_config_path(struct daemon_options *o, const char *path)
{
	if (o->n_config_paths == ARRAY_SIZE(o->config_paths)) {
		fprintf(stderr, "sealaned: more than %zu configuration paths; use a directory\n", ARRAY_SIZE(o->config_paths));
		return false;
	}
	o->config_paths[o->n_config_paths++] = path;
	return true;
}

/* Return: -1: go on; else the exit status. */
static int on_option(struct command *c, int option)
{
	switch (option) {
	case 'c':
		return add_config_path(&c->o, optarg) ? -1 : 2;
	case OPT_RUN_DIR:
		c->o.run_dir = optarg;
		break;
	case OPT_STATE_DIR:
		c->o.state_dir = optarg;
		break;
	case OPT_USER:
		c->o.user = optarg;
		break;
	case OPT_CHECK:
		c->check = true;
		break;
	case OPT_STOP_KEEPER:
		c->stop_keeper = true;
		break;
	case 'v':
		c->o.verbose = true;
		break;
	case OPT_ROLE:
		c->role = optarg;
		break;
	case OPT_VERSION:
		puts("sealaned " SEALANE_VERSION);
		return 0;
	case 'h':
		fputs(g_usage, stdout);
		return 0;
	default:
		fputs(g_usage, stderr);
		return 2;
	}
	return -1;
}

static int parse(struct command *c, int argc, char **argv)
{
	int option, r = -1;

	while (r < 0 && (option = getopt_long(argc, argv, "c:vh", g_options, NULL)) != -1)
		r = on_option(c, option);
	for (; r < 0 && c->check && optind < argc; optind++)
		r = add_config_path(&c->o, argv[optind]) ? -1 : 2;
	if (r < 0 && optind < argc) {
		fprintf(stderr, "sealaned: unexpected argument \"%s\"\n%s", argv[optind], g_usage);
		return 2;
	}
	if (r < 0 && (c->o.run_dir[0] != '/' || c->o.state_dir[0] != '/')) {
		fputs("sealaned: --run-dir and --state-dir must be absolute paths\n", stderr);
		return 2;
	}
	return r;
}

static int run_role(const struct command *c)
{
	for (size_t i = 0; i < ARRAY_SIZE(g_roles); i++)
		if (strcmp(g_roles[i].name, c->role) == 0)
			return g_roles[i].run(&c->o);
	fprintf(stderr, "sealaned: unknown role \"%s\"\n", c->role);
	return 2;
}

/* ------------------------------------------------------------------ the configuration, before anything is started */

static int fail_unread(const struct daemon_options *o, const struct config_file *f)
{
	if (f->error == -ENODATA)
		fprintf(stderr, "%s: cannot be read: there is no *.conf, *.hcl or *.json file in this directory\n", f->path);
	else
		fprintf(stderr, "%s: cannot be read: %s\n", f->path, strerror(-f->error));
	if (o->n_config_paths == 0 && f->error == -ENOENT)
		fputs("sealaned: write there which services there are and who may talk to whom (man 5 sealane.conf has examples), or\n"
		      "name another file or directory with -c\n",
		      stderr);
	return f->error;
}

/* Return: 0, and the configuration; or negative errno, with one line on standard error. */
static int load_files(const struct daemon_options *o, const struct config_files *files, struct config **ret)
{
	AUTO_FREE(struct config_source) sources = calloc(files->n + 1, sizeof(*sources));
	struct conf_error error = { "" };
	int r;

	for (size_t i = 0; sources && i < files->n; i++) {
		const struct config_file *f = &files->files[i];

		if (f->error < 0)
			return fail_unread(o, f);
		sources[i] = (struct config_source){ .name = f->path, .text = f->text, .size = f->size };
	}
	r = sources ? config_load(ret, sources, files->n, &error) : -ENOMEM;
	if (r < 0)
		fprintf(stderr, "%s\n", error.text[0] ? error.text : strerror(-r));
	return r;
}

static int read_files(const struct daemon_options *o, struct config_files *files)
{
	int r = config_files_read(files, o);

	if (r < 0)
		fprintf(stderr, "sealaned: cannot read the configuration: %s\n",
			r == -E2BIG ? "there are more than 256 files" : strerror(-r));
	return r;
}
static_assert(CONFIG_FILES_MAX == 256, "as the message says");

enum { ELSEWHERE_SHOWN = 20 };

/* Names that are no service of this host, each once, as far as there is room. */
struct elsewhere {
	const struct service_name *names[ELSEWHERE_SHOWN];
	size_t n;
	bool more;
};

static void elsewhere_add(struct elsewhere *e, const struct config *c, const struct service_name *name)
{
	if (config_find_service(c, name) != CONFIG_NONE)
		return;
	for (size_t i = 0; i < e->n; i++)
		if (service_name_equal(e->names[i], name))
			return;
	if (e->n == ELSEWHERE_SHOWN)
		e->more = true;
	else
		e->names[e->n++] = name;
}

/* On a host among others no file says whether a name exists; a person sees it. */
static void tell_elsewhere(const struct config *c)
{
	struct elsewhere e = { .n = 0 };
	char name[LIMIT_SERVICE_SIZE];

	for (size_t i = 0; i < c->n_upstreams; i++)
		elsewhere_add(&e, c, &c->upstreams[i].destination);
	for (size_t i = 0; i < c->n_intentions; i++) {
		const struct intention *n = &c->intentions[i];

		if (n->source.rank == PATTERN_EXACT)
			elsewhere_add(&e, c, &n->source.service);
		if (n->destination.rank == PATTERN_EXACT)
			elsewhere_add(&e, c, &n->destination.service);
	}
	for (size_t i = 0; i < e.n; i++)
		printf("%s%s", i == 0 ? "expected on other hosts: " : ", ", service_name_format(name, e.names[i]));
	if (e.n)
		puts(e.more ? ", ..." : "");
}

static void tell_good(const struct config_files *files, const struct config *c)
{
	for (size_t i = 0; i < files->n; i++)
		printf("read %s\n", files->files[i].path);
	for (size_t i = 0; i < c->n_warnings; i++)
		printf("warning: %s\n", c->warnings[i]);
	if (c->n_warnings_left_out)
		printf("warning: %zu more warnings are not shown\n", c->n_warnings_left_out);
	if (c->link.wanted)
		tell_elsewhere(c);
	printf("the configuration is good: %zu workloads, %zu services, %zu upstreams, %zu intentions\n", c->n_workloads,
	       c->n_services, c->n_upstreams, c->n_intentions);
}

static int check_config(const struct daemon_options *o)
{
	struct config_files files;
	struct config *c = NULL;
	int r = read_files(o, &files);

	if (r == 0)
		r = load_files(o, &files, &c);
	if (r == 0)
		tell_good(&files, c);
	config_free(c);
	config_files_free(&files);
	return r < 0 ? 1 : 0;
}

/* In a process of its own, which ends here: the files are opened as root, as the warden does, and parsed as nobody special. */
static _Noreturn void check_apart(const struct daemon_options *o)
{
	struct config_files files;
	struct config *c = NULL;
	int r = read_files(o, &files);

	if (r < 0)
		_exit(1);
	r = role_leave_root(o->user);
	if (r < 0)
		fprintf(stderr, "sealaned: cannot become the user \"%s\": %s\n", o->user, strerror(-r));
	else
		r = load_files(o, &files, &c);
	_exit(r < 0 ? 1 : 0);
}

/* A daemon whose configuration is wrong says so in one line and leaves nothing behind. */
static int check_before_start(const struct daemon_options *o)
{
	int status = 0;
	pid_t pid = fork();

	if (pid == 0)
		check_apart(o);
	while (pid > 0 && waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return 1;
	if (pid < 0 || !WIFEXITED(status)) {
		fputs("sealaned: the process that checks the configuration failed\n", stderr);
		return 1;
	}
	return WEXITSTATUS(status) == 0 ? 0 : LAUNCH_EXIT_CONFIG;
}

static int stop_keeper(const struct daemon_options *o)
{
	AUTO_FD run = open(o->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct keeper_link k = { .chan = { .fd = -1 } };
	struct pollfd gone = { .events = 0 };
	pid_t pid = 0;
	AUTO_FD lock = run < 0 ? -ENOENT : launch_lock(o->run_dir, &pid);
	int r;

	if (lock == -EBUSY) {
		fprintf(stderr, "sealaned: the daemon runs (pid %d): stop it first\n", pid);
		return 1;
	}
	r = lock < 0 ? lock : keeper_connect(&k, run);
	if (r == -ENOENT || r == -ECONNREFUSED) {
		fputs("sealaned: no keeper runs\n", stderr);
		return 0;
	}
	if (r == 0)
		r = keeper_set_grace(&k, 0);
	keeper_close(&k);
	/* It has ended when nobody listens there any more. */
	for (int i = 0; r == 0 && i < 200 && keeper_connect(&k, run) == 0; i++) {
		keeper_close(&k);
		poll(&gone, 0, 10);
	}
	if (r < 0)
		fprintf(stderr, "sealaned: cannot stop the keeper: %s\n", strerror(-r));
	return r < 0 ? 1 : 0;
}

/* The name travels on each role's command line, so it is settled once, here. */
static bool choose_user(struct daemon_options *o)
{
	if (!o->user)
		o->user = getpwnam("sealane") ? "sealane" : "nobody";
	else if (!getpwnam(o->user))
		return false;
	return true;
}

int main(int argc, char **argv)
{
	struct command c = { .o = { .run_dir = "/run/sealane", .state_dir = "/var/lib/sealane" } };
	int r = parse(&c, argc, argv);

	if (r >= 0)
		return r;
	if (c.role)
		return run_role(&c);
	if (c.check)
		return check_config(&c.o);
	if (geteuid() != 0) {
		fputs("sealaned: must be started as root: it makes sockets for other users, watches cgroups and starts its\n"
		      "other processes as an ordinary user\n", stderr);
		return 1;
	}
	if (c.stop_keeper)
		return stop_keeper(&c.o);
	if (!choose_user(&c.o)) {
		fprintf(stderr, "sealaned: there is no user \"%s\"\n", c.o.user);
		return 1;
	}
	r = check_before_start(&c.o);
	return r ? r : warden_main(&c.o);
}
