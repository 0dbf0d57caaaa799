#include "base/address.h"

#include "base/limits.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static int parse(const char *text, char out[LIMIT_ADDRESS_SIZE])
{
	struct sockaddr_storage a;
	socklen_t size = 0;
	int r = address_parse(text, &a, &size);

	out[0] = '\0';
	if (r == 0)
		address_format(out, &a);
	return r;
}

static void numbers_are_taken(void **state)
{
	static const char *const good[] = { "10.0.0.2:7443", "0.0.0.0:1", "[fd00::2]:7443", "[::]:65535", "[::1]:443" };
	char out[LIMIT_ADDRESS_SIZE];

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(parse(good[i], out), 0);
		assert_string_equal(out, good[i]);
	}
}

static void all_else_is_not(void **state)
{
	static const char *const bad[] = {
		"", ":", "10.0.0.2", "10.0.0.2:", "10.0.0.2:0", "10.0.0.2:65536", "10.0.0.2:+1", "10.0.0.2:01", "10.0.0.2: 1",
		"10.0.0.2:1 ", " 10.0.0.2:1", "10.0.0:1", "10.0.0.256:1", "host:7443", "fd00::2:7443", "[fd00::2]", "[fd00::2]7443",
		"[fd00::2:7443", "[]:1", "[10.0.0.2]:1", "[fe80::1%eth0]:1", "10.0.0.2:123456", "10.0.0.2:7443:1",
		"[0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000]:1",
	};
	char out[LIMIT_ADDRESS_SIZE];

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (parse(bad[i], out) != -EINVAL)
			fail_msg("\"%s\" was taken", bad[i]);
}

static void hosts_are_compared_without_ports(void **state)
{
	assert_true(address_same_host("10.0.0.2:7443", "10.0.0.2:50123"));
	assert_false(address_same_host("10.0.0.2:7443", "10.0.0.3:7443"));
	assert_true(address_same_host("[fd00::2]:1", "[fd00:0:0::2]:2"));
	assert_false(address_same_host("[fd00::2]:1", "[fd00::3]:1"));
	assert_false(address_same_host("[::10.0.0.2]:1", "10.0.0.2:1"));
	assert_false(address_same_host("", ""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers_are_taken),
		cmocka_unit_test(all_else_is_not),
		cmocka_unit_test(hosts_are_compared_without_ports),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
