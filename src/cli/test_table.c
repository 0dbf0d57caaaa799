#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cli/table.h"

static char *printed(const struct table *t)
{
	char *text = NULL;
	size_t n;
	FILE *f = open_memstream(&text, &n);

	table_print(t, f);
	fclose(f);
	return text;
}

static void test_columns_are_aligned_and_nothing_is_cut(void **state)
{
	static const char *const heads[] = { "NAME", ">N", "WHY", NULL };
	struct table t;
	char *text;

	table_init(&t, heads);
	table_add(&t, "a", "1", "short");
	table_add(&t, "a-name-that-is-long", "12345", "a reason that is rather longer than any other cell in this table is");
	table_add(&t, NULL, "", "x");
	text = printed(&t);
	assert_string_equal(text, "NAME                     N  WHY\n"
				  "a                        1  short\n"
				  "a-name-that-is-long  12345  a reason that is rather longer than any other cell in this table is\n"
				  "-                        -  x\n");
	free(text);
	table_free(&t);
}

static void test_many_rows(void **state)
{
	static const char *const heads[] = { "A", NULL };
	struct table t;
	char *text;

	table_init(&t, heads);
	for (int i = 0; i < 1000; i++)
		table_add(&t, "x");
	text = printed(&t);
	assert_int_equal(strlen(text), 2002);
	free(text);
	table_free(&t);
}

static void check_safe(const char *in, const char *out)
{
	char *s = text_safe(in);

	assert_string_equal(s, out);
	free(s);
}

static void test_terminal_is_safe_from_what_containers_write(void **state)
{
	check_safe("plain", "plain");
	check_safe("\033[2Jx", "\\x1b[2Jx");
	check_safe("a\nb\tc\x7f", "a\\x0ab\\x09c\\x7f");
	check_safe("gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f");
	check_safe("\xc2\x9b" "31m", "\\xc2\\x9b31m"); /* C1 CSI */
	check_safe("\xff\xc3", "\\xff\\xc3");
	assert_int_equal(text_columns("gr\xc3\xbc\xc3\x9f"), 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_columns_are_aligned_and_nothing_is_cut),
		cmocka_unit_test(test_many_rows),
		cmocka_unit_test(test_terminal_is_safe_from_what_containers_write),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
