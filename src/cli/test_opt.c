#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cli/cli.h"

static const struct cli_verb g_verb = { "try", NULL, "try ONE [TWO]\ntry --more", "A verb for tests", "", "ONE TWO" };

struct values {
	bool strict;
	const char *name;
	uint64_t bytes;
	uint32_t n;
	double seconds;
};

static int parse(struct cli *c, struct values *v, char **argv, enum opt_operands operands)
{
	const struct opt opts[] = {
		{ "strict", 's', OPT_FLAG, &v->strict }, { "name", 0, OPT_STRING, &v->name }, { "bytes-per-s", 0, OPT_BYTES, &v->bytes },
		{ "lines", 'n', OPT_COUNT, &v->n },	 { "delay", 'd', OPT_DURATION, &v->seconds },
	};
	int argc = 0;

	*c = (struct cli){ .verb = &g_verb, .socket_path = CLI_DEFAULT_SOCKET };
	*v = (struct values){ 0 };
	while (argv[argc])
		argc++;
	return opt_parse(c, opts, ARRAY_SIZE(opts), argc, argv, operands);
}

#define PARSE(operands, ...) parse(&c, &v, argv = (char *[]){ __VA_ARGS__, NULL }, operands)

static void test_options_may_stand_anywhere(void **state)
{
	struct cli c;
	struct values v;
	char **argv;

	assert_int_equal(PARSE(OPT_OPERANDS_ANYWHERE, "allow", "--strict", "web", "--bytes-per-s", "10mb", "redis", "-n", "3", "--delay=2m"), 3);
	assert_string_equal(argv[0], "allow");
	assert_string_equal(argv[1], "web");
	assert_string_equal(argv[2], "redis");
	assert_true(v.strict);
	assert_int_equal(v.bytes, 10 << 20);
	assert_int_equal(v.n, 3);
	assert_int_equal((int)v.seconds, 120);
}

static void test_every_verb_knows_json_socket_help(void **state)
{
	struct cli c;
	struct values v;
	char **argv;

	assert_int_equal(PARSE(OPT_OPERANDS_ANYWHERE, "--json", "--socket=/x", "-h"), 0);
	assert_true(c.json && c.help);
	assert_string_equal(c.socket_path, "/x");
	(void)argv;
}

static void test_a_command_keeps_its_options(void **state)
{
	struct cli c;
	struct values v;
	char **argv;

	assert_int_equal(PARSE(OPT_OPERANDS_END_OPTIONS, "--name", "web", "redis-cli", "-s", "--json", "--", "x"), 5);
	assert_string_equal(v.name, "web");
	assert_string_equal(argv[1], "-s");
	assert_string_equal(argv[3], "--");
	assert_false(v.strict || c.json);
	assert_int_equal(PARSE(OPT_OPERANDS_END_OPTIONS, "--name", "web", "--", "--odd", "-n"), 2);
	assert_string_equal(argv[0], "--odd");
}

static void test_dash_alone_is_an_operand(void **state)
{
	struct cli c;
	struct values v;
	char **argv;

	assert_int_equal(PARSE(OPT_OPERANDS_ANYWHERE, "-", ""), 2);
	(void)argv;
}

static void test_mistakes(void **state)
{
	struct cli c;
	struct values v;
	char **argv;

	assert_int_equal(PARSE(OPT_OPERANDS_ANYWHERE, "--nothing"), -EINVAL);
	assert_int_equal(PARSE(OPT_OPERANDS_ANYWHERE, "--name"), -EINVAL);
	assert_int_equal(PARSE(OPT_OPERANDS_ANYWHERE, "--strict=yes"), -EINVAL);
	assert_int_equal(PARSE(OPT_OPERANDS_ANYWHERE, "-n", "0"), -EINVAL);
	assert_int_equal(PARSE(OPT_OPERANDS_ANYWHERE, "--bytes-per-s", "much"), -EINVAL);
	assert_int_equal(PARSE(OPT_OPERANDS_ANYWHERE, "-sn", "3"), -EINVAL);
	assert_int_equal(PARSE(OPT_OPERANDS_ANYWHERE, "--str"), -EINVAL);
	(void)argv;
}

static void test_begin_counts_operands(void **state)
{
	struct cli c = { .verb = &g_verb };
	char *none[] = { NULL }, *three[] = { "a", "b", "c", NULL }, *help[] = { "--help", NULL };

	assert_int_equal(cli_begin(&c, NULL, 0, 0, none, OPT_OPERANDS_ANYWHERE, 1, 2), -1);
	assert_int_equal(c.exit, CLI_USAGE);
	assert_int_equal(cli_begin(&c, NULL, 0, 3, three, OPT_OPERANDS_ANYWHERE, 1, 2), -1);
	assert_int_equal(c.exit, CLI_USAGE);
	assert_int_equal(cli_begin(&c, NULL, 0, 2, three, OPT_OPERANDS_ANYWHERE, 1, 2), 2);
	assert_int_equal(cli_begin(&c, NULL, 0, 1, help, OPT_OPERANDS_ANYWHERE, 1, 2), -1);
	assert_int_equal(c.exit, CLI_OK);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_options_may_stand_anywhere), cmocka_unit_test(test_every_verb_knows_json_socket_help),
		cmocka_unit_test(test_a_command_keeps_its_options), cmocka_unit_test(test_dash_alone_is_an_operand),
		cmocka_unit_test(test_mistakes), cmocka_unit_test(test_begin_counts_operands),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
