/*
 * Theory of operation: an engine is told to use `sealane-runc` (a link to `sealane`) where it would use runc. When it makes
 * a container that is a workload, we add our two hooks (verb_hook.c) to the bundle's config.json; then, as for every other
 * command and container, we become runc with the same arguments. So the container is enrolled before its program starts,
 * at every start, and the runtime itself reports a hook that fails.
 *
 * Which workload: the one whose directory RUN/w/NAME the container mounts; without such a mount the hook goes by the
 * annotation. A mount is said by whoever starts the container, never by its image (which could set environment variables).
 *
 * config.json is spliced, not written anew: it may hold numbers that jansson cannot (2^64 - 1, a limit that is none).
 *
 * Trust: engines write config.json as root; what their users put there is checked like the hook's state. Fails closed.
 */
#include "cli/oci_runtime.h"
#include "cli/cgroup.h"
#include "cli/oci_state.h"

#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/stat.h>

enum { CONFIG_SIZE_MAX = 8 << 20, HOOK_ENGINE_TIMEOUT_S = 15 };

/*
 * Is argv[*i] the option @option, as "--x VALUE" or "--x=VALUE"? Then @value is what it says, and *i the argument that says it.
 */
static bool option_at(int argc, char **argv, int *i, const char *option, const char **value)
{
	size_t n = strlen(option);

	if (strncmp(argv[*i], option, n) != 0)
		return false;
	if (argv[*i][n] == '=')
		*value = argv[*i] + n + 1;
	else if (argv[*i][n] == '\0' && *i + 1 < argc)
		*value = argv[++*i];
	else
		return false;
	return true;
}

void oci_runtime_parse(struct oci_runtime_args *ret, int argc, char **argv)
{
	static const char *const with_value[] = { "--root", "--log-level", "--criu", "--rootless", "--cgroup-manager" };
	const char *format = "text", *ignored;
	int i = 1;

	*ret = (struct oci_runtime_args){ 0 };
	for (; i < argc && argv[i][0] == '-'; i++) {
		if (option_at(argc, argv, &i, "--log", &ret->log) || option_at(argc, argv, &i, "--log-format", &format))
			continue;
		for (size_t k = 0; k < ARRAY_SIZE(with_value); k++) {
			if (option_at(argc, argv, &i, with_value[k], &ignored))
				break;
		}
	}
	ret->log_is_json = strcmp(format, "json") == 0;
	if (i >= argc || (strcmp(argv[i], "create") != 0 && strcmp(argv[i], "run") != 0 && strcmp(argv[i], "restore") != 0))
		return;
	ret->bundle = ".";
	for (; i < argc; i++) {
		if (!option_at(argc, argv, &i, "--bundle", &ret->bundle))
			option_at(argc, argv, &i, "-b", &ret->bundle);
	}
}

/* @p: at a string's first quote. Return: at its last one. */
static const char *json_string_end(const char *p)
{
	for (p++; *p != '"'; p++)
		p += *p == '\\';
	return p;
}

/* The top-level member "hooks": its value's first byte and the one after its last. @p: one JSON object, known to be sound. */
static bool config_find_hooks(const char *p, const char **ret_start, const char **ret_end)
{
	const char *start = NULL;

	for (int depth = 0; *p; p++) {
		if (start && depth == 1 && (*p == ',' || *p == '}')) {
			*ret_start = start;
			*ret_end = p;
			return true;
		}
		if (*p == '"') {
			bool is_ours = depth == 1 && strncmp(p, "\"hooks\"", 7) == 0;
			const char *after = json_string_end(p) + 1;

			after += strspn(after, " \t\r\n");
			if (is_ours && *after == ':')
				start = after + 1;
			p = after - 1; /* what stands before `after` is the quote or white space */
		}
		depth += (*p == '{' || *p == '[') - (*p == '}' || *p == ']');
	}
	return false;
}

/* Engines make a missing source of a mount, or not; the runtime's own word for it would not name the workload. */
static bool is_missing_workload(const char *source, const char *dir)
{
	size_t n = strlen(dir);

	return errno == ENOENT && strncmp(source, dir, n) == 0 && source[n] == '/' && name_is_label(source + n + 1);
}

static int config_find_workload(char ret[LIMIT_NAME_SIZE], const json_t *config, const char *run_dir, char *why, size_t why_size)
{
	AUTO_FREE(char) dir = NULL;
	const json_t *mount;
	size_t i;

	ret[0] = '\0';
	if (asprintf(&dir, "%s/w", run_dir) < 0)
		return -ENOMEM;
	AUTO_FREE(char) base = realpath(dir, NULL);

	json_array_foreach(json_object_get(config, "mounts"), i, mount) {
		const char *source = json_string_value(json_object_get(mount, "source"));
		AUTO_FREE(char) path = source && source[0] == '/' ? realpath(source, NULL) : NULL;
		size_t n = base ? strlen(base) : 0;

		if (source && !path && is_missing_workload(source, dir)) {
			snprintf(why, why_size, "no workload '%s': %s is not there; name it in the configuration and reload",
				 strrchr(source, '/') + 1, source);
			return -ENOENT;
		}
		if (!base || !path || strncmp(path, base, n) != 0 || path[n] != '/' || !name_is_label(path + n + 1))
			continue;
		if (ret[0] && strcmp(ret, path + n + 1) != 0) {
			snprintf(why, why_size, "it mounts the directories of two workloads, %s and %s", ret, path + n + 1);
			return -EINVAL;
		}
		snprintf(ret, LIMIT_NAME_SIZE, "%s", path + n + 1);
	}
	return 0;
}

static void hooks_add(json_t *hooks, const char *stage, const char *self, const char *socket_path, const char *workload)
{
	json_t *list = json_object_get(hooks, stage), *hook;

	hook = json_pack("{s:s, s:[s,s,s,s,s], s:i}", "path", self, "args", "sealane", "--socket", socket_path, "hook", stage, "timeout",
			 HOOK_ENGINE_TIMEOUT_S);
	if (*workload) {
		json_array_append_new(json_object_get(hook, "args"), json_string("--workload"));
		json_array_append_new(json_object_get(hook, "args"), json_string(workload));
	}
	if (!json_is_array(list)) {
		list = json_array();
		json_object_set_new(hooks, stage, list);
	}
	json_array_append_new(list, hook);
}

/* By a CDI device, or by us when a bundle is run once more: a second enrolment would be refused. */
static bool config_has_our_hook(const json_t *config)
{
	const json_t *hook;
	size_t i;

	json_array_foreach(json_object_get(json_object_get(config, "hooks"), "createRuntime"), i, hook) {
		const char *path = json_string_value(json_object_get(hook, "path")), *slash = path ? strrchr(path, '/') : NULL;

		if (slash && strcmp(slash, "/sealane") == 0)
			return true;
	}
	return false;
}

static bool config_is_ours(const json_t *config, const char *workload)
{
	if (config_has_our_hook(config))
		return false;
	return *workload || json_object_get(json_object_get(config, "annotations"), OCI_WORKLOAD_ANNOTATION);
}

/* @text with our hooks beside those that it has. */
static int config_splice(char **ret, const char *text, bool has_hooks, const char *self, const char *socket_path, const char *workload)
{
	const char *start = text + strcspn(text, "{") + 1, *end = start;
	json_t *hooks = NULL;
	AUTO_FREE(char) value = NULL;
	int n = -1;

	if (has_hooks && config_find_hooks(text, &start, &end))
		hooks = json_loadb(start, (size_t)(end - start), JSON_DECODE_ANY, NULL);
	else if (!has_hooks)
		hooks = json_object();
	if (json_is_object(hooks)) {
		hooks_add(hooks, "createRuntime", self, socket_path, workload);
		hooks_add(hooks, "poststop", self, socket_path, "");
		value = json_dumps(hooks, JSON_COMPACT);
	}
	json_decref(hooks);
	if (value)
		n = asprintf(ret, "%.*s%s%s%s%s", (int)(start - text), text, has_hooks ? "" : "\"hooks\":", value, has_hooks ? "" : ",", end);
	return n < 0 ? -EINVAL : 1;
}

int oci_config_add_hooks(char **ret, const char *text, size_t size, const char *run_dir, const char *self, const char *socket_path,
			 char *why, size_t why_size)
{
	/* A NUL between two tokens is white space to jansson, and the end of the text to the splicing. */
	json_t *config = memchr(text, '\0', size) ? NULL :
			 json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, NULL);
	char workload[LIMIT_NAME_SIZE];
	int r = -EINVAL;

	snprintf(why, why_size, "its config.json makes no sense");
	if (json_is_object(config))
		r = config_find_workload(workload, config, run_dir, why, why_size);
	if (r == 0 && config_is_ours(config, workload))
		r = config_splice(ret, text, json_object_get(config, "hooks") != NULL, self, socket_path, workload);
	json_decref(config);
	return r;
}

/* Beside the old file and over it, with its owner and mode: a runtime in a user namespace has to read it too. */
static int config_replace(const char *path, const char *text)
{
	AUTO_FREE(char) beside = NULL;
	struct stat st;
	size_t n = strlen(text), done = 0;
	int r;

	if (stat(path, &st) < 0 || asprintf(&beside, "%s.sealane", path) < 0)
		return -errno;
	AUTO_FD fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);

	while (fd >= 0 && done < n) {
		ssize_t put = write(fd, text + done, n - done);

		if (put < 0)
			break;
		done += (size_t)put;
	}
	if (done == n && fchown(fd, st.st_uid, st.st_gid) == 0 && fchmod(fd, st.st_mode & 07777) == 0 && rename(beside, path) == 0)
		return 0;
	r = -errno;
	unlink(beside);
	return r;
}

/*
 * Engines look for a runtime's last words in its log, not on its standard error: that one is the container's and may be
 * gone before it is read (containerd, docker).
 */
static void log_error(const struct oci_runtime_args *args, const char *text)
{
	AUTO_FD fd = args->log ? open(args->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
	json_t *line = json_pack("{s:s, s:s}", "level", "error", "msg", text);
	AUTO_FREE(char) json = line ? json_dumps(line, JSON_COMPACT) : NULL;

	json_decref(line);
	if (fd >= 0 && args->log_is_json && json)
		dprintf(fd, "%s\n", json);
	else if (fd >= 0)
		dprintf(fd, "level=error msg=\"%s\"\n", text);
}

static int runtime_error(const struct oci_runtime_args *args, const char *name, const char *what, const char *why)
{
	AUTO_FREE(char) text = NULL;

	if (asprintf(&text, "sealane-%s: %s: %s", name, what, why) >= 0) {
		log_error(args, text);
		fprintf(stderr, "%s\n", text);
	}
	return CLI_FAILED;
}

static int runtime_prepare(struct cli *c, const char *name, const struct oci_runtime_args *args)
{
	AUTO_FREE(char) path = NULL;
	AUTO_FREE(char) text = malloc(CONFIG_SIZE_MAX + 1);
	AUTO_FREE(char) with_hooks = NULL;
	AUTO_FREE(char) self = realpath("/proc/self/exe", NULL);
	AUTO_FREE(char) run_dir = strdup(c->socket_path);
	char why[256], *slash = run_dir ? strrchr(run_dir, '/') : NULL;
	ssize_t n;
	int r;

	if (!text || !self || !run_dir || asprintf(&path, "%s/config.json", args->bundle) < 0)
		return runtime_error(args, name, args->bundle, "no memory");
	if (!slash)
		return runtime_error(args, name, c->socket_path, "the admin socket's path is not absolute");
	*slash = '\0';
	n = read_small_file(path, text, CONFIG_SIZE_MAX + 1);
	if (n < 0 || n == CONFIG_SIZE_MAX)
		return runtime_error(args, name, path, n < 0 ? strerror((int)-n) : "too large");
	r = oci_config_add_hooks(&with_hooks, text, (size_t)n, run_dir, self, c->socket_path, why, sizeof(why));
	if (r < 0)
		return runtime_error(args, name, "the container is not started", why);
	r = r > 0 ? config_replace(path, with_hooks) : 0;
	return r < 0 ? runtime_error(args, name, path, strerror(-r)) : CLI_OK;
}

int oci_runtime_main(struct cli *c, const char *name, int argc, char **argv)
{
	struct oci_runtime_args args;
	int r;

	oci_runtime_parse(&args, argc, argv);
	r = args.bundle ? runtime_prepare(c, name, &args) : CLI_OK;
	if (r != CLI_OK)
		return r;
	execvp(name, argv);
	return runtime_error(&args, name, "it cannot be started", strerror(errno));
}
