#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cli/units.h"

static void test_bytes(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{ "4096", 4096 }, { "1", 1 }, { "10k", 10000 }, { "10kb", 10240 }, { "10mb", 10 << 20 }, { "10MB", 10 << 20 },
		{ "1.5g", 1500000000 }, { "2gb", 2ull << 30 }, { "0.5kb", 512 }, { "7b", 7 },
	};
	static const char *const bad[] = { "", "0", "-1", "x", "10q", "10mbx", "10 mb", "0x10", "inf", "nan", "1e3", ".5", "1.", "99999999999999999999",
					   "9999999g" };
	uint64_t v;

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(unit_parse_bytes(&v, good[i].text), 0);
		assert_int_equal(v, good[i].bytes);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(unit_parse_bytes(&v, bad[i]), -EINVAL);
}

static void test_count(void **state)
{
	uint32_t n;

	assert_int_equal(unit_parse_count(&n, "4294967295"), 0);
	assert_int_equal(n, UINT32_MAX);
	assert_int_equal(unit_parse_count(&n, "4294967296"), -EINVAL);
	assert_int_equal(unit_parse_count(&n, "0"), -EINVAL);
	assert_int_equal(unit_parse_count(&n, ""), -EINVAL);
	assert_int_equal(unit_parse_count(&n, "1k"), -EINVAL);
}

static void test_duration(void **state)
{
	double s;

	assert_int_equal(unit_parse_duration(&s, "90s"), 0);
	assert_int_equal((int)s, 90);
	assert_int_equal(unit_parse_duration(&s, "1h30m"), 0);
	assert_int_equal((int)s, 5400);
	assert_int_equal(unit_parse_duration(&s, "500ms"), 0);
	assert_int_equal((int)(s * 1000), 500);
	assert_int_equal(unit_parse_duration(&s, "2min"), 0);
	assert_int_equal((int)s, 120);
	assert_int_equal(unit_parse_duration(&s, "2d"), 0);
	assert_int_equal((int)s, 172800);
	assert_int_equal(unit_parse_duration(&s, "0.5"), 0);
	assert_int_equal(unit_parse_duration(&s, ""), -EINVAL);
	assert_int_equal(unit_parse_duration(&s, "0s"), -EINVAL);
	assert_int_equal(unit_parse_duration(&s, "2 h"), -EINVAL);
	assert_int_equal(unit_parse_duration(&s, "h"), -EINVAL);
	assert_int_equal(unit_parse_duration(&s, "1000000d"), -EINVAL);
}

static void test_expiry(void **state)
{
	int64_t at;

	assert_int_equal(unit_parse_expiry(&at, "2h", 1000), 0);
	assert_int_equal(at, 1000 + 7200);
	assert_int_equal(unit_parse_expiry(&at, "2026-01-02T03:04:05Z", 1000), 0);
	assert_int_equal(at, 1767323045);
	assert_int_equal(unit_parse_expiry(&at, "2026-01-02T04:04:05+01:00", 1000), 0);
	assert_int_equal(at, 1767323045);
	assert_int_equal(unit_parse_expiry(&at, "2026-01-01T22:04:05-05:00", 1000), 0);
	assert_int_equal(at, 1767323045);
	assert_int_equal(unit_parse_expiry(&at, "2026-01-02T03:04:05Z", 1767323045), -ERANGE);
	assert_int_equal(unit_parse_expiry(&at, "2026-01-02T03:04:05", 1000), -EINVAL);
	assert_int_equal(unit_parse_expiry(&at, "2026-13-02T03:04:05Z", 1000), -EINVAL);
	assert_int_equal(unit_parse_expiry(&at, "2026-01-02", 1000), -EINVAL);
	assert_int_equal(unit_parse_expiry(&at, "2026-01-02T03:04:05+1:00", 1000), -EINVAL);
	assert_int_equal(unit_parse_expiry(&at, "tomorrow", 1000), -EINVAL);
}

static void test_format(void **state)
{
	char buf[UNIT_TEXT_SIZE];

	assert_string_equal(unit_format_bytes(buf, 0), "0 B");
	assert_string_equal(unit_format_bytes(buf, 1023), "1023 B");
	assert_string_equal(unit_format_bytes(buf, 1536), "1.5 KiB");
	assert_string_equal(unit_format_bytes(buf, 1024.0 * 1024 * 1024), "1.0 GiB");
	assert_string_equal(unit_format_age(buf, -5), "0s");
	assert_string_equal(unit_format_age(buf, 61), "1m01s");
	assert_string_equal(unit_format_age(buf, 7500), "2h05m");
	assert_string_equal(unit_format_age(buf, 90000), "1d01h");
	assert_string_equal(unit_format_time(buf, 1767323045), "2026-01-02T03:04:05Z");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bytes),  cmocka_unit_test(test_count),  cmocka_unit_test(test_duration),
		cmocka_unit_test(test_expiry), cmocka_unit_test(test_format),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
