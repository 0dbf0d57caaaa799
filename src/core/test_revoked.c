/* The list of what is revoked: its version, its lines, what they mean. */
#include "core/revoked.h"

#include "core/base64.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <stdio.h>

#define TD "spiffe://sealane.local"
#define REDIS TD "/ns/default/svc/redis"

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

static void test_lines(void **unused)
{
	static const char *const good[] = { "serial:0a", "serial:0123456789abcdef0123456789abcdef01234567", "id:" REDIS, "id:" TD "/host/b",
					    "before:1:" REDIS "@b", "before:9223372036854775807:" REDIS "@b" };
	static const char *const bad[] = { "", "all", "serial:", "serial:0", "serial:0A", "serial:0a\n", "serial:0123456789abcdef0123456789abcdef0123456789",
					   "id:", "id:https://x", "id:" TD, "id:" TD "/host/", "id:" TD "/host/B", "id:" TD "/host/b/c", "id:spiffe:///host/b",
					   "id:" REDIS "@b", "id:" REDIS " ", "ID:" REDIS, "before:", "before:1:", "before:1:" REDIS, "before:1:" REDIS "@",
					   "before:1:" REDIS "@B", "before:1:" REDIS "@b@c", "before:0:" REDIS "@b", "before:-1:" REDIS "@b", "before:01:" REDIS "@b",
					   "before: 1:" REDIS "@b", "before:+1:" REDIS "@b", "before:1 :" REDIS "@b", "before::" REDIS "@b",
					   "before:9223372036854775808:" REDIS "@b", "before:1:" TD "/host/b@b", "before:1@:" REDIS "@b", "before:1:@b" };
	char text[REVOKED_LINE_SIZE];
	struct revocation e;

	(void)unused;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (revocation_parse(&e, bad[i]) == 0)
			fail_msg("%s was taken", bad[i]);
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		if (revocation_parse(&e, good[i]) < 0)
			fail_msg("%s was not taken", good[i]);
		assert_string_equal(revocation_format(text, &e), good[i]);
	}
	assert_int_equal(revocation_parse(&e, "before:17:" REDIS "@b"), 0);
	assert_int_equal(e.kind, REVOKED_BEFORE);
	assert_int_equal(e.before_unix_s, 17);
	assert_string_equal(e.host, "b");
	assert_string_equal(e.what, REDIS);
}

/* A serial of a certificate that was issued to @host; @n tells one from another. */
static const char *serial_of(const char *host, unsigned n)
{
	static char text[2 * SERIAL_SIZE + 1];
	uint8_t bytes[SERIAL_SIZE], random[SERIAL_RANDOM_SIZE] = { 0, (uint8_t)n };

	serial_make(bytes, random, host);
	return hex_encode(text, bytes, sizeof(bytes));
}

static void test_serials(void **unused)
{
	uint8_t bytes[SERIAL_SIZE], random[SERIAL_RANDOM_SIZE] = {};

	(void)unused;
	assert_true(serial_is_of_host(serial_of("b", 1), "b"));
	assert_false(serial_is_of_host(serial_of("b", 1), "c"));
	assert_false(serial_is_of_host("", "b"));
	/* The format is for ever: lists and certificates of one day meet those of another. */
	assert_string_equal(serial_of("b", 1), "40010000000000007b8a725d1b752144");
	for (unsigned i = 0; i < 256; i++) {
		random[0] = (uint8_t)i;
		serial_make(bytes, random, "b");
		assert_in_range(bytes[0], 0x40, 0x7f);
	}
}

/* Return: the list's line by which it is revoked, or "". */
static const char *found(const struct revoked_list *l, const char *id, const char *serial, int64_t not_before)
{
	const char *line = revoked_list_find(l, id, serial, not_before);

	return line ? line : "";
}

static struct revoked_list *list_of(const char *text)
{
	struct revoked_list *l = NULL;

	assert_int_equal(revoked_list_parse(&l, text, strlen(text)), 0);
	return l;
}

static void test_what_a_list_means(void **unused)
{
	struct revoked_list *l = list_of("serial:0aff\nid:" TD "/ns/default/svc/web\nid:" TD "/host/c\nbefore:1000:" REDIS "@b\n");

	(void)unused;
	assert_int_equal(revoked_list_n(l), 4);
	assert_string_equal(found(l, REDIS, "0aff", 0), "serial:0aff");
	assert_string_equal(found(l, REDIS, "0afe", 0), "");
	/* A service, whoever has it. */
	assert_string_equal(found(l, TD "/ns/default/svc/web", "01", 9999), "id:" TD "/ns/default/svc/web");
	/* A host: itself, and all that was issued to it, whenever. */
	assert_string_equal(found(l, TD "/host/c", "01", 9999), "id:" TD "/host/c");
	assert_string_equal(found(l, REDIS, serial_of("c", 7), 9999), "id:" TD "/host/c");
	assert_string_equal(found(l, REDIS, serial_of("d", 7), 0), "");
	assert_string_equal(found(l, TD "/host/d", serial_of("d", 7), 0), "");
	/* A service of one host, until a moment. */
	assert_string_equal(found(l, REDIS, serial_of("b", 7), 999), "before:1000:" REDIS "@b");
	assert_string_equal(found(l, REDIS, serial_of("b", 7), 1000), "");
	assert_string_equal(found(l, REDIS, serial_of("d", 7), 999), "");
	assert_string_equal(found(l, TD "/ns/default/svc/api", serial_of("b", 7), 999), "");
	assert_string_equal(found(l, TD "/host/b", serial_of("b", 7), 999), "");
	assert_int_equal(revoked_list_before(l, REDIS, "b"), 1000);
	assert_int_equal(revoked_list_before(l, REDIS, "c"), 0);
	assert_true(revoked_list_has_id(l, TD "/host/c"));
	assert_false(revoked_list_has_id(l, REDIS));
	revoked_list_free(l);
}

static int append(void *arg, const char *line)
{
	strcat(arg, line);
	strcat(arg, "\n");
	return 0;
}

static void test_lists(void **unused)
{
	static const char text[] = "before:10:" REDIS "@b\nserial:0a\nbefore:30:" REDIS "@b\nbefore:20:" REDIS "@b\n";
	static const char *const bad[] = { "serial:0a\n\n", "\n", "serial:0a\nall\n", "serial:0a serial:0b" };
	struct revoked_list *l = list_of(text), *none = NULL;
	char again[512] = "";

	(void)unused;
	/* Of several times the latest counts; the lines stay as they came. */
	assert_int_equal(revoked_list_before(l, REDIS, "b"), 30);
	assert_int_equal(revoked_list_add(l, "serial:0a"), 0);
	assert_int_equal(revoked_list_n(l), 4);
	assert_int_equal(revoked_list_size(l), strlen(text));
	assert_int_equal(revoked_list_each(l, append, again), 0);
	assert_string_equal(again, text);
	assert_int_equal(revoked_list_add(l, "serial:"), -EINVAL);
	revoked_list_free(l);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(revoked_list_parse(&none, bad[i], strlen(bad[i])), -EBADMSG);
	assert_int_equal(revoked_list_parse(&none, "serial:0a\0", 10), -EBADMSG);
	assert_null(none);
	l = list_of("");
	assert_int_equal(revoked_list_n(l), 0);
	assert_string_equal(found(l, REDIS, serial_of("b", 7), 0), "");
	revoked_list_free(l);
}

static void test_a_full_list(void **unused)
{
	struct revoked_list *l = revoked_list_new();
	char line[64];

	(void)unused;
	for (unsigned i = 0; i < LIMIT_REVOKED; i++) {
		snprintf(line, sizeof(line), "serial:%08x", i);
		assert_int_equal(revoked_list_add(l, line), 0);
	}
	assert_int_equal(revoked_list_add(l, line), 0); /* it is there */
	assert_int_equal(revoked_list_add(l, "serial:0a"), -E2BIG);
	assert_int_equal(revoked_list_n(l), LIMIT_REVOKED);
	revoked_list_free(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_version_text),
		cmocka_unit_test(test_version_order),
		cmocka_unit_test(test_lines),
		cmocka_unit_test(test_serials),
		cmocka_unit_test(test_what_a_list_means),
		cmocka_unit_test(test_lists),
		cmocka_unit_test(test_a_full_list),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
