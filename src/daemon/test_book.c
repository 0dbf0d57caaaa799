/* The authority's book, alone: how much of it, and how often, one host may have. The state is not asked for anything here. */
#include "daemon/broker_ca.h"
#include "daemon/broker_int.h"

// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

int64_t revoked_before(const char *spiffe_id, const char *host)
{
	return 0;
}

const char *revoked_find(const char *spiffe_id, const char *serial, int64_t not_before)
{
	return NULL;
}

int64_t unix_now_s(void)
{
	return 1800000000;
}

static struct config g_config = { .link.svid_life_s = 3600 };
static struct broker g_broker = { .config = &g_config };

/* Certificates: so many in an hour, for each host. */
static void test_so_many_in_an_hour(void **state)
{
	char why[256] = "";

	for (int i = 0; i < LIMIT_CA_ISSUED_HOUR; i++)
		assert_null(book_refuses(&g_broker, "b", why, sizeof(why)));
	for (int i = 0; i < 2; i++)
		assert_string_equal(book_refuses(&g_broker, "b", why, sizeof(why)), "limit");
	assert_non_null(strstr(why, "within an hour"));
	assert_null(book_refuses(&g_broker, "c", why, sizeof(why)));
}

/* Questions: so many at once, so many at a time. */
static void test_so_many_questions(void **state)
{
	const char *error = NULL;
	char why[256] = "";
	int n = 0;

	for (; n < LIMIT_CA_ASKS_OF_ONE; n++)
		assert_null(book_admits(&g_broker, "d", why, sizeof(why)));
	assert_string_equal(book_admits(&g_broker, "d", why, sizeof(why)), "busy");
	assert_non_null(strstr(why, "wait already"));
	assert_null(book_admits(&g_broker, "e", why, sizeof(why)));
	for (; n > 0; n--)
		book_answered("d");
	book_answered("d"); /* one too many changes nothing */
	for (n = 0; n < 100 * LIMIT_CA_ASKS_AT_ONCE && !error; n++) {
		error = book_admits(&g_broker, "d", why, sizeof(why));
		if (!error)
			book_answered("d");
	}
	assert_non_null(error);
	assert_string_equal(error, "busy");
	assert_non_null(strstr(why, "asks too often"));
	assert_in_range(n, LIMIT_CA_ASKS_AT_ONCE - LIMIT_CA_ASKS_OF_ONE, 99 * LIMIT_CA_ASKS_AT_ONCE);
	assert_null(book_admits(&g_broker, "e", why, sizeof(why)));
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_so_many_in_an_hour), cmocka_unit_test(test_so_many_questions) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
