#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cli/oci_runtime.h"

#include <jansson.h>
#include <stdio.h>
#include <sys/stat.h>

static char g_run[] = "/tmp/sealane-runc.XXXXXX", g_why[256];

/* "@" stands for the run directory. */
static char *expand(const char *text)
{
	char *ret = NULL;
	size_t size;
	FILE *f = open_memstream(&ret, &size);

	for (; *text; text++) {
		if (*text == '@')
			fputs(g_run, f);
		else
			fputc(*text, f);
	}
	fclose(f);
	return ret;
}

/* Return: what oci_config_add_hooks() does; *ret_config: the new document. */
static int add(const char *text, json_t **ret_config)
{
	AUTO_FREE(char) in = expand(text);
	AUTO_FREE(char) out = NULL;
	int r;

	r = oci_config_add_hooks(&out, in, strlen(in), g_run, "/usr/bin/sealane", "/run/sealane/admin.sock", g_why, sizeof(g_why));
	if (r == 1) {
		*ret_config = json_loads(out, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, NULL);
		assert_non_null(*ret_config);
	}
	return r;
}

static const char *hook_arg(const json_t *config, const char *stage, size_t hook, size_t arg)
{
	const json_t *h = json_array_get(json_object_get(json_object_get(config, "hooks"), stage), hook);
	const char *s = json_string_value(json_array_get(json_object_get(h, "args"), arg));

	return s ? s : "";
}

static void test_the_mount_names_the_workload(void **state)
{
	json_t *c;

	assert_int_equal(add("{\"ociVersion\":\"1.0.2\",\"mounts\":[{\"destination\":\"/proc\",\"source\":\"proc\"},"
			     "{\"destination\":\"/run/sealane\",\"source\":\"@/w/web\"},"
			     "{\"destination\":\"/run/sealane/serve\",\"source\":\"@/w/web/serve\"}]}", &c), 1);
	assert_string_equal(hook_arg(c, "createRuntime", 0, 2), "/run/sealane/admin.sock");
	assert_string_equal(hook_arg(c, "createRuntime", 0, 4), "createRuntime");
	assert_string_equal(hook_arg(c, "createRuntime", 0, 6), "web");
	assert_string_equal(hook_arg(c, "poststop", 0, 4), "poststop");
	assert_string_equal(hook_arg(c, "poststop", 0, 5), "");
	json_decref(c);
}

static void test_the_annotation_does_too(void **state)
{
	json_t *c;

	assert_int_equal(add("{\"annotations\":{\"sealane.dev/workload\":\"web\"}}", &c), 1);
	assert_string_equal(hook_arg(c, "createRuntime", 0, 5), "");
	json_decref(c);
}

static void test_other_hooks_and_large_numbers_stay(void **state)
{
	AUTO_FREE(char) out = NULL;
	AUTO_FREE(char) in = expand(
		"{ \"process\": {\"rlimits\":[{\"hard\":18446744073709551615}], \"hooks\": {\"prestart\":1}, \"env\":[\"A=\\\"}\\\\\"]},\n"
		" \"hostname\" : \"hooks\", \"mounts\":[{\"source\":\"@/w/web\"}],\n"
		" \"hooks\" : {\"prestart\":[{\"path\":\"/a\",\"timeout\":7}], \"createRuntime\":[{\"path\":\"/b\"}]} , \"root\":{}}");
	json_t *c;

	assert_int_equal(oci_config_add_hooks(&out, in, strlen(in), g_run, "/s", "/a.sock", g_why, sizeof(g_why)), 1);
	assert_non_null(strstr(out, "\"hard\":18446744073709551615}"));
	assert_non_null(strstr(out, "\"timeout\":7}"));
	assert_non_null(strstr(out, "\"hooks\": {\"prestart\":1}"));
	c = json_loads(out, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, NULL);
	assert_int_equal(json_array_size(json_object_get(json_object_get(c, "hooks"), "createRuntime")), 2);
	assert_string_equal(hook_arg(c, "createRuntime", 1, 6), "web");
	assert_true(json_is_object(json_object_get(c, "root")));
	json_decref(c);
}

static void test_others_are_left_alone(void **state)
{
	static const char *const others[] = {
		"{}", "{\"mounts\":[{\"source\":\"/nowhere/w/web\"}]}", "{\"mounts\":[{\"source\":\"@/w\"}]}", "{\"mounts\":[{\"source\":\"@\"}]}",
		"{\"mounts\":[{\"source\":\"@/w/web/serve\"}]}", "{\"mounts\":[{\"source\":7},null,3]}", "{\"mounts\":7}",
		"{\"mounts\":[{\"source\":\"@/wide/web\"}]}",
		"{\"mounts\":[{\"source\":\"@/w/web\"}],\"hooks\":{\"createRuntime\":[{\"path\":\"/usr/bin/sealane\"}]}}",
	};

	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		assert_int_equal(add(others[i], NULL), 0);
}

static void test_refused(void **state)
{
	static const char *const bad[] = {
		"", "[]", "{", "{\"a\":1,\"a\":2}", "{\"mounts\":[{\"source\":\"@/w/web\"},{\"source\":\"@/w/cache\"}]}",
		"{\"mounts\":[{\"source\":\"@/w/web\"}],\"hooks\":7}", "{\"mounts\":[{\"source\":\"@/w/web\"}],\"hook\\u0073\":{}}",
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(add(bad[i], NULL), -EINVAL);
		assert_true(g_why[0] != '\0');
	}
	assert_int_equal(add("{\"mounts\":[{\"source\":\"@/w/gone\"}]}", NULL), -ENOENT);
	assert_non_null(strstr(g_why, "no workload 'gone'"));
}

static void test_command_lines(void **state)
{
	char *create[] = { "runc", "--root", "create", "--log=x", "--systemd-cgroup", "create", "--bundle", "/b", "--pid-file", "p", "id" };
	char *other[] = { "runc", "--root", "create", "start", "run" };
	char *here[] = { "runc", "run", "id" };

	char *docker[] = { "runc", "--log", "/l", "--log-format=json", "create", "-b", "/c", "id" };
	struct oci_runtime_args a;

	oci_runtime_parse(&a, ARRAY_SIZE(create), create);
	assert_string_equal(a.bundle, "/b");
	assert_string_equal(a.log, "x");
	assert_false(a.log_is_json);
	oci_runtime_parse(&a, ARRAY_SIZE(other), other);
	assert_null(a.bundle);
	oci_runtime_parse(&a, ARRAY_SIZE(here), here);
	assert_string_equal(a.bundle, ".");
	assert_null(a.log);
	oci_runtime_parse(&a, 1, here);
	assert_null(a.bundle);
	oci_runtime_parse(&a, ARRAY_SIZE(docker), docker);
	assert_string_equal(a.bundle, "/c");
	assert_string_equal(a.log, "/l");
	assert_true(a.log_is_json);
}

static int group_setup(void **state)
{
	static const char *const dirs[] = { "w", "wide", "wide/web", "w/web", "w/web/serve", "w/cache" };
	char path[64];

	if (!mkdtemp(g_run))
		return -1;
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		snprintf(path, sizeof(path), "%s/%s", g_run, dirs[i]);
		if (mkdir(path, 0755) < 0)
			return -1;
	}
	return 0;
}

static int group_teardown(void **state)
{
	static const char *const dirs[] = { "w/cache", "w/web/serve", "w/web", "wide/web", "wide", "w", "" };
	char path[64];

	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		snprintf(path, sizeof(path), "%s/%s", g_run, dirs[i]);
		if (rmdir(path) < 0)
			return -1;
	}
	return 0;
}

/* The words of a refusal stand where the engine looks for them. */
static void test_an_error_is_in_the_engines_log(void **state)
{
	struct cli c = { .socket_path = "/run/sealane/admin.sock" };
	AUTO_FREE(char) log = expand("@/log.json");
	AUTO_FREE(char) bundle = expand("@/no-bundle");
	char *argv[] = { "runc", "--log", log, "--log-format", "json", "create", "--bundle", bundle, "id", NULL };
	json_t *line;

	assert_int_equal(oci_runtime_main(&c, "runc", ARRAY_SIZE(argv) - 1, argv), CLI_FAILED);
	line = json_load_file(log, 0, NULL);
	assert_string_equal(json_string_value(json_object_get(line, "level")), "error");
	assert_non_null(strstr(json_string_value(json_object_get(line, "msg")), "no-bundle/config.json"));
	json_decref(line);
	unlink(log);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_mount_names_the_workload), cmocka_unit_test(test_the_annotation_does_too),
		cmocka_unit_test(test_other_hooks_and_large_numbers_stay), cmocka_unit_test(test_others_are_left_alone),
		cmocka_unit_test(test_refused), cmocka_unit_test(test_command_lines),
		cmocka_unit_test(test_an_error_is_in_the_engines_log),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
