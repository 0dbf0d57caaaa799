#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cli/oci_state.h"

#include <stdio.h>

static struct oci_state g_state;
static char g_why[256];

static int parse(const char *text)
{
	memset(&g_state, 0, sizeof(g_state));
	return oci_state_parse(&g_state, text, strlen(text), g_why, sizeof(g_why));
}

static void test_what_runc_sends(void **state)
{
	assert_int_equal(parse("{\"ociVersion\":\"1.0.2-dev\",\"id\":\"3f1c\",\"status\":\"created\",\"pid\":4242,\"bundle\":\"/b\","
			       "\"annotations\":{\"a\":\"1\",\"sealane.dev/workload\":\"web\",\"io.kubernetes.pod\":\"web-7\"}}"), 0);
	assert_string_equal(g_state.id, "3f1c");
	assert_int_equal(g_state.pid, 4242);
	assert_string_equal(g_state.workload, "web");
	assert_int_equal(g_state.n_labels, 3);
	assert_string_equal(g_state.labels[0], "sealane.dev/workload=web");
}

static void test_stopped_without_annotations(void **state)
{
	assert_int_equal(parse("{\"id\":\"a_b.c-1\",\"status\":\"stopped\"}"), 0);
	assert_int_equal(g_state.pid, 0);
	assert_string_equal(g_state.workload, "");
	assert_int_equal(parse("{\"id\":\"x\",\"pid\":1,\"annotations\":null}"), 0);
}

static void test_refused(void **state)
{
	static const char *const bad[] = {
		"", "{", "[]", "null", "{}", "{\"id\":1}", "{\"id\":\"\"}", "{\"id\":\"a/b\"}", "{\"id\":\"a\\u001b[2J\"}", "{\"id\":\"a\\u0000b\"}",
		"{\"id\":\"a\",\"id\":\"b\"}", "{\"id\":\"a\",\"pid\":-1}", "{\"id\":\"a\",\"pid\":\"1\"}", "{\"id\":\"a\",\"pid\":1e3}",
		"{\"id\":\"a\",\"pid\":4294967297}", "{\"id\":\"a\",\"annotations\":[]}", "{\"id\":\"a\",\"annotations\":{\"sealane.dev/workload\":\"../x\"}}",
		"{\"id\":\"a\",\"annotations\":{\"sealane.dev/workload\":7}}", "{\"id\":\"a\",\"annotations\":{\"sealane.dev/workload\":\"\"}}",
		"{\"id\":\"a\"} trailing",
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		g_why[0] = '\0';
		assert_int_equal(parse(bad[i]), -EINVAL);
		assert_true(g_why[0] != '\0');
	}
}

static void test_labels_are_bounded(void **state)
{
	char *text = NULL;
	size_t n;
	FILE *f = open_memstream(&text, &n);

	fputs("{\"id\":\"a\",\"annotations\":{", f);
	for (int i = 0; i < 200; i++)
		fprintf(f, "\"k%d\":\"v\",", i);
	fprintf(f, "\"long\":\"%0*d\",\"control\":\"\\n\",\"sealane.dev/workload\":\"web\"}}", 400, 0);
	fclose(f);
	assert_int_equal(parse(text), 0);
	assert_int_equal(g_state.n_labels, OCI_LABELS_MAX);
	assert_string_equal(g_state.labels[0], "sealane.dev/workload=web");
	free(text);
}

static void test_size_is_bounded(void **state)
{
	char *text = calloc(1, OCI_STATE_SIZE_MAX + 2);

	memset(text, ' ', OCI_STATE_SIZE_MAX + 1);
	assert_int_equal(oci_state_parse(&g_state, text, OCI_STATE_SIZE_MAX + 1, g_why, sizeof(g_why)), -EINVAL);
	free(text);
}

static void test_names(void **state)
{
	assert_true(name_is_label("web"));
	assert_true(name_is_label("a-1"));
	assert_false(name_is_label(""));
	assert_false(name_is_label("-a"));
	assert_false(name_is_label("a-"));
	assert_false(name_is_label("A"));
	assert_false(name_is_label("a/b"));
	assert_false(name_is_label("0123456789012345678901234567890123456789012345678901234567890123"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_runc_sends), cmocka_unit_test(test_stopped_without_annotations),
		cmocka_unit_test(test_refused),		cmocka_unit_test(test_labels_are_bounded),
		cmocka_unit_test(test_size_is_bounded), cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
