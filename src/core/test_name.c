#include "core/name.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define L63 "a23456789012345678901234567890123456789012345678901234567890123"

static void test_labels(void **unused)
{
	static const char *const good[] = { "a", "0", "redis", "a-b", "a--b", "3com", L63 };
	static const char *const bad[] = { "", "-", "-a", "a-", "A", "a.b", "a_b", "a/b", "*", " a", "a\n", "\xc3\xa4", L63 "4" };

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_true(label_is_valid(good[i]));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(label_is_valid(bad[i]));
}

static void test_names(void **unused)
{
	static const char *const bad[] = { "",	"/",   "a/",  "/a",  "a/b/c",  "a//b",	    "*",	   "a/*",
					   "*/a", "A/b", "a/B", "a /b", L63 "4", L63 "4/a", "a/" L63 "4", "../a" };
	struct service_name s, before;

	(void)unused;
	assert_int_equal(service_name_parse(&s, "redis", "default"), 0);
	assert_string_equal(s.ns, "default");
	assert_string_equal(s.name, "redis");
	assert_int_equal(service_name_parse(&s, L63 "/" L63, NULL), 0);
	assert_string_equal(s.ns, L63);
	assert_string_equal(s.name, L63);
	before = s;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(service_name_parse(&s, bad[i], "default"), -EINVAL);
	assert_int_equal(service_name_parse(&s, "redis", NULL), -EINVAL);
	assert_int_equal(service_name_parse(&s, "redis", "-"), -EINVAL);
	assert_int_equal(service_name_parse(&s, "redis", L63 "4"), -EINVAL);
	assert_memory_equal(&s, &before, sizeof(s)); /* outputs stay untouched on failure */
}

static void test_patterns(void **unused)
{
	static const struct {
		const char *text, *again;
		enum pattern_rank rank;
	} good[] = {
		{ "*", "*", PATTERN_ANY },
		{ "*/*", "*", PATTERN_ANY },
		{ "shop/*", "shop/*", PATTERN_NAMESPACE },
		{ "redis", "default/redis", PATTERN_EXACT },
		{ "shop/redis", "shop/redis", PATTERN_EXACT },
		{ L63 "/" L63, L63 "/" L63, PATTERN_EXACT },
	};
	static const char *const bad[] = { "", "*/redis", "shop/", "/*", "shop/*/*", "sh*p/redis", "shop/re*", "**", "-/*" };
	struct service_pattern p;
	char buf[LIMIT_SERVICE_SIZE];

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		memset(&p, 0xff, sizeof(p));
		assert_int_equal(service_pattern_parse(&p, good[i].text, "default"), 0);
		assert_int_equal(p.rank, good[i].rank);
		assert_ptr_equal(service_pattern_format(buf, &p), buf);
		assert_string_equal(buf, good[i].again);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(service_pattern_parse(&p, bad[i], "default"), -EINVAL);
}

/* Equal texts are equal bytes, whatever the memory held before: policy.c hashes them so. */
static void test_patterns_are_bytes(void **unused)
{
	static const char *const texts[] = { "*", "shop/*", "shop/redis", "redis" };

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct service_pattern a, b;

		memset(&a, 0xff, sizeof(a));
		memset(&b, 0x11, sizeof(b));
		assert_int_equal(service_pattern_parse(&a, texts[i], "default"), 0);
		assert_int_equal(service_pattern_parse(&b, texts[i], "default"), 0);
		assert_memory_equal(&a, &b, sizeof(a));
	}
}

static void test_equal(void **unused)
{
	struct service_name a = { "shop", "redis" }, b = { "shop", "redis" };

	(void)unused;
	b.name[20] = 'x'; /* behind the NUL */
	assert_true(service_name_equal(&a, &b));
	strcpy(b.ns, "other");
	assert_false(service_name_equal(&a, &b));
}

static void test_spiffe(void **unused)
{
	struct service_name s = { "shop", "redis" }, longest = { L63, L63 };
	char buf[LIMIT_SPIFFE_ID_SIZE], td[LIMIT_TRUST_DOMAIN_SIZE + 1];

	(void)unused;
	assert_string_equal(spiffe_id_format(buf, "example.org", &s), "spiffe://example.org/ns/shop/svc/redis");
	assert_true(trust_domain_is_valid("a_b.example-1.org"));
	assert_false(trust_domain_is_valid(""));
	assert_false(trust_domain_is_valid("Example.org"));
	assert_false(trust_domain_is_valid("a/b"));
	memset(td, 'x', sizeof(td));
	td[LIMIT_TRUST_DOMAIN_SIZE] = '\0';
	assert_false(trust_domain_is_valid(td));
	td[LIMIT_TRUST_DOMAIN_SIZE - 1] = '\0';
	assert_true(trust_domain_is_valid(td));
	assert_int_equal(strlen(spiffe_id_format(buf, td, &longest)), 9 + 253 + 4 + 63 + 5 + 63);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_labels),	 cmocka_unit_test(test_names), cmocka_unit_test(test_patterns),
		cmocka_unit_test(test_patterns_are_bytes), cmocka_unit_test(test_equal), cmocka_unit_test(test_spiffe),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
