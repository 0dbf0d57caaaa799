#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/broker_cdi.h"

#include <jansson.h>

static json_t *make(struct workload *list, size_t n, const char *cli)
{
	struct broker b = { .workloads = list, .n_workloads = n };
	char *text;
	json_t *root;

	strcpy(b.run_dir, "/run/sealane");
	text = cdi_text(&b, cli);
	assert_non_null(text);
	root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
	free(text);
	assert_non_null(root);
	return root;
}

static void test_client_gets_one_read_only_mount(void **state)
{
	struct workload w[] = { { .name = "web", .configured = true } };
	json_t *root = make(w, 1, "/opt/sealane"), *edits, *mounts, *hook;
	const char *path, *container, *mode, *device, *env;

	assert_string_equal(json_string_value(json_object_get(root, "kind")), "sealane.dev/workload");
	assert_string_equal(json_string_value(json_object_get(root, "cdiVersion")), "0.5.0");
	assert_int_equal(json_unpack(root, "{s:[{s:s, s:o}]}", "devices", "name", &device, "containerEdits", &edits), 0);
	assert_string_equal(device, "web");
	mounts = json_object_get(edits, "mounts");
	assert_int_equal(json_array_size(mounts), 1);
	assert_int_equal(json_unpack(mounts, "[{s:s, s:s, s:[s]}]", "hostPath", &path, "containerPath", &container, "options", &mode), 0);
	assert_string_equal(path, "/run/sealane/w/web");
	assert_string_equal(container, "/run/sealane");
	assert_string_equal(mode, "ro");
	assert_int_equal(json_unpack(edits, "{s:[s]}", "env", &env), 0);
	assert_string_equal(env, "SEALANE_DIR=/run/sealane");
	hook = json_array_get(json_object_get(edits, "hooks"), 0);
	assert_string_equal(json_string_value(json_object_get(hook, "path")), "/opt/sealane");
	assert_string_equal(json_string_value(json_array_get(json_object_get(hook, "args"), 4)), "web");
	assert_int_equal(json_array_size(json_object_get(edits, "hooks")), 2);
	json_decref(root);
}

static void test_server_gets_a_writable_serve(void **state)
{
	struct workload w[] = { { .name = "cache", .configured = true, .offers = true } };
	json_t *root = make(w, 1, NULL), *mount;

	mount = json_array_get(json_object_get(json_object_get(json_array_get(json_object_get(root, "devices"), 0), "containerEdits"),
					       "mounts"), 1);
	assert_string_equal(json_string_value(json_object_get(mount, "hostPath")), "/run/sealane/w/cache/serve");
	assert_string_equal(json_string_value(json_object_get(mount, "containerPath")), "/run/sealane/serve");
	assert_string_equal(json_string_value(json_array_get(json_object_get(mount, "options"), 0)), "rw");
	json_decref(root);
}

static void test_only_configured_workloads(void **state)
{
	struct workload w[] = {
		{ .name = "gone", .configured = true, .removed = true },
		{ .name = "runtime" },
		{ .name = "web", .configured = true },
	};
	json_t *root = make(w, 3, "");

	assert_int_equal(json_array_size(json_object_get(root, "devices")), 1);
	json_decref(root);
	root = make(NULL, 0, "");
	assert_int_equal(json_array_size(json_object_get(root, "devices")), 0);
	json_decref(root);
}

static void test_the_path_of_the_command(void **state)
{
	struct workload w[] = { { .name = "web", .configured = true } };
	static const struct {
		const char *environment, *expected;
	} cases[] = { { "/build/sealane", "/build/sealane" }, { "sealane", SEALANE_CLI_PATH }, { NULL, SEALANE_CLI_PATH } };

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		json_t *root;
		const char *path;

		if (cases[i].environment)
			setenv("SEALANE_CLI", cases[i].environment, 1);
		else
			unsetenv("SEALANE_CLI");
		root = make(w, 1, "");
		assert_int_equal(json_unpack(root, "{s:[{s:{s:[{s:s}]}}]}", "devices", "containerEdits", "hooks", "path", &path), 0);
		assert_string_equal(path, cases[i].expected);
		json_decref(root);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_client_gets_one_read_only_mount),
		cmocka_unit_test(test_server_gets_a_writable_serve),
		cmocka_unit_test(test_only_configured_workloads),
		cmocka_unit_test(test_the_path_of_the_command),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
