/*
 * Theory of operation: a container engine calls this when a container's namespaces and cgroup exist and its program has not
 * started (createRuntime), and when it is gone (poststop). The runtime still holds the container's first process then, so
 * its pid cannot become another's. What we tell the daemon is the kernel's cgroup id; names come from the hook's own
 * arguments (a CDI device) or from annotations.
 *
 * Fails closed: a container that says which workload it is and cannot be enrolled does not start. One that says nothing and
 * that no configured `match` fits is none of ours: it starts, and has no lanes. Whatever happens we end within 10 s, since
 * the engine waits for us.
 *
 * Source: OCI runtime-spec 1.0.2, runtime.md (State) and config.md (POSIX-platform hooks).
 */
#include "cli/api.h"
#include "cli/cgroup.h"
#include "cli/enrol.h"
#include "cli/oci_state.h"
#include "cli/table.h"

#include <signal.h>

enum { HOOK_TIMEOUT_S = 10 };

static void hook_timeout(int signal)
{
	static const char text[] = "sealane hook: gave up after 10 s: the daemon does not answer; see journalctl -u sealaned\n";

	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
		_exit(CLI_UNREACHABLE);
	_exit(CLI_UNREACHABLE);
}

static int hook_read_state(struct cli *c, struct oci_state *ret)
{
	AUTO_FREE(char) text = malloc(OCI_STATE_SIZE_MAX + 1);
	char why[256];
	size_t n = 0;

	if (!text)
		return cli_error(c, "no memory");
	while (n < OCI_STATE_SIZE_MAX + 1) {
		ssize_t got = read(STDIN_FILENO, text + n, OCI_STATE_SIZE_MAX + 1 - n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return cli_error(c, "the container's state on standard input: %m");
		if (got == 0)
			break;
		n += (size_t)got;
	}
	if (oci_state_parse(ret, text, n, why, sizeof(why)) < 0)
		return cli_error(c, "the container's state on standard input: %s", why);
	return CLI_OK;
}

static int hook_tell(struct cli *c, const struct oci_state *s, const char *workload, int error, const char *why)
{
	AUTO_FREE(char) safe = text_safe(why);

	if (*why)
		return cli_error(c, "container %s is not enrolled as %s%s: %s", s->id, *workload ? "workload " : "any workload", workload, safe);
	cli_error(c, "container %s is not started without enrolment:", s->id);
	return api_tell_unreachable(c, error, ENROL_TIMEOUT_MS);
}

/* Nobody said which workload it is: by container id and by each annotation, until one fits a configured `match`. */
static int hook_search(const char *socket_path, struct enrol_request *q, const struct oci_state *s, struct enrolment *e, char *why,
		       size_t why_size)
{
	int r = enrol_ask(socket_path, q, e, why, why_size);

	for (size_t i = 0; r == -ENOENT && *why && i < s->n_labels; i++) {
		q->label = s->labels[i];
		r = enrol_ask(socket_path, q, e, why, why_size);
	}
	return r == -ENOENT && *why ? 0 : r;
}

static int hook_create(struct cli *c, const struct oci_state *s, const char *workload)
{
	struct enrol_request q = { .container_id = s->id, .by = "hook" };
	struct enrolment e = { 0 };
	char why[1024] = "";
	int r;

	if (s->pid == 0)
		return cli_error(c, "container %s has no process yet: this is for createRuntime, where it has one", s->id);
	r = cgroup_of_pid(&q.cgroup_id, s->pid);
	if (r < 0)
		return cli_error(c, "container %s: its process %d has no cgroup2 cgroup that can be seen from here: %s", s->id, (int)s->pid,
				 strerror(-r));
	if (*workload) {
		q.workload = workload;
		r = enrol_ask(c->socket_path, &q, &e, why, sizeof(why));
	} else {
		r = hook_search(c->socket_path, &q, s, &e, why, sizeof(why));
	}
	return r < 0 ? hook_tell(c, s, workload, r, why) : CLI_OK;
}

static int hook_gone(struct cli *c, const struct oci_state *s)
{
	int r = unenrol_container(c->socket_path, s->id);

	if (r == -EACCES)
		return cli_error(c, "container %s: the daemon refuses to unenrol it", s->id);
	return r < 0 ? api_tell_unreachable(c, r, ENROL_TIMEOUT_MS / 2) : CLI_OK;
}

int verb_hook(struct cli *c, int argc, char **argv)
{
	const char *workload = NULL;
	const struct opt opts[] = { { "workload", 0, OPT_STRING, &workload } };
	AUTO_FREE(struct oci_state) s = calloc(1, sizeof(*s));
	int r;

	if (cli_begin(c, opts, ARRAY_SIZE(opts), argc, argv, OPT_OPERANDS_ANYWHERE, 1, 1) < 0)
		return c->exit;
	if (workload && !name_is_label(workload))
		return cli_usage(c, "--workload: \"%s\" is no workload's name", workload);
	signal(SIGALRM, hook_timeout);
	alarm(HOOK_TIMEOUT_S);
	if (!s)
		return cli_error(c, "no memory");
	if (strcmp(argv[0], "createRuntime") != 0 && strcmp(argv[0], "prestart") != 0 && strcmp(argv[0], "poststop") != 0)
		return cli_usage(c, "createRuntime or poststop, not \"%s\"", argv[0]);
	r = hook_read_state(c, s);
	if (r != CLI_OK)
		return r;
	if (strcmp(argv[0], "poststop") == 0)
		return hook_gone(c, s);
	return hook_create(c, s, workload ? workload : s->workload);
}
