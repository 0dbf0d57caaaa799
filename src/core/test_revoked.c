/* The list of what is revoked: its version. */
#include "core/revoked.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void test_version_text(void **unused)
{
	static const char *const good[] = { "0-0", "1-0", "7-12", "18446744073709551615-18446744073709551615" };
	static const char *const bad[] = { "", "7", "7-", "-7", "7-12 ", " 7-12", "07-12", "7-012", "+7-12", "7--12", "7-+12", "7-12-1", "0x7-1",
					   "18446744073709551616-0", "0-18446744073709551616", "7-12\n",
					   "0000000000000000000000000000000000000000000000000007-12" };
	struct revoked_version v = { .epoch = 99 };
	char text[REVOKED_VERSION_SIZE];

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (revoked_version_parse(&v, bad[i]) == 0)
			fail_msg("%s was taken", bad[i]);
	assert_int_equal(v.epoch, 99);
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(revoked_version_parse(&v, good[i]), 0);
		assert_string_equal(revoked_version_format(text, &v), good[i]);
	}
	assert_int_equal(revoked_version_parse(&v, "7-12"), 0);
	assert_int_equal(v.epoch, 7);
	assert_int_equal(v.counter, 12);
}

static void test_version_order(void **unused)
{
	const struct revoked_version none = {}, first = { 7, 12 }, next = { 7, 13 }, restored = { 6, 2 };

	(void)unused;
	assert_true(revoked_version_supersedes(&first, &none));
	assert_true(revoked_version_supersedes(&next, &first));
	assert_false(revoked_version_supersedes(&first, &first));
	assert_false(revoked_version_supersedes(&first, &next));
	assert_true(revoked_version_supersedes(&restored, &next));
	assert_true(revoked_version_supersedes(&next, &restored));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_version_text),
		cmocka_unit_test(test_version_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
