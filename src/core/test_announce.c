#include "core/announce.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static int parse(const char *text, struct announced **ret, size_t *ret_n)
{
	*ret = NULL;
	*ret_n = 0;
	return announce_parse(text, strlen(text), ret, ret_n);
}

static struct service_name name(const char *text)
{
	struct service_name s;

	assert_int_equal(service_name_parse(&s, text, "default"), 0);
	return s;
}

static void a_list_is_read(void **state)
{
	struct service_name redis = name("redis"), db = name("prod/db"), none = name("prod/redis");
	struct announced *list;
	size_t n;

	assert_int_equal(parse("default/redis up 7\nprod/db down 0\ndefault/a up 4294967295\n", &list, &n), 0);
	assert_int_equal(n, 3);
	assert_true(announce_find(list, n, &redis)->up);
	assert_int_equal(announce_find(list, n, &redis)->lanes, 7);
	assert_false(announce_find(list, n, &db)->up);
	assert_null(announce_find(list, n, &none));
	assert_int_equal(announce_find(list, n, &redis)->kinds, OFFER_SOCKET);
	assert_int_equal(announce_find(list, n, &db)->kinds, 0);
	free(list);
	assert_int_equal(parse("default/redis up 7 socket,messages\nprod/db up 0 streams\nprod/redis up 1 socket,streams,messages\n", &list, &n), 0);
	assert_int_equal(announce_find(list, n, &redis)->kinds, OFFER_SOCKET | OFFER_MESSAGES);
	assert_int_equal(announce_find(list, n, &db)->kinds, OFFER_STREAMS);
	assert_int_equal(announce_find(list, n, &none)->kinds, OFFER_KINDS_ALL);
	free(list);
	assert_int_equal(parse("", &list, &n), 0);
	assert_int_equal(n, 0);
	assert_null(announce_find(list, n, &redis));
	free(list);
}

static void what_is_written_is_read(void **state)
{
	struct announced a = { .service = name("a-b/c9"), .up = true, .lanes = 4294967295u, .kinds = OFFER_KINDS_ALL }, *list;
	char line[ANNOUNCE_LINE_SIZE];
	size_t size, n;

	memset(a.service.ns, 'n', LIMIT_NAME_SIZE - 1);
	memset(a.service.name, 's', LIMIT_NAME_SIZE - 1);
	size = announce_format(line, &a);
	assert_true(size < sizeof(line));
	assert_int_equal(announce_parse(line, size, &list, &n), 0);
	assert_int_equal(n, 1);
	assert_true(service_name_equal(&list->service, &a.service) && list->up && list->lanes == a.lanes && list->kinds == a.kinds);
	free(list);
}

static void all_else_is_refused(void **state)
{
	static const char *const bad[] = {
		"default/redis up 7", "\n", "redis up 7\n", "default/redis up\n", "default/redis  up 7\n", " default/redis up 7\n",
		"default/redis up 7 \n", "default/redis up 07\n", "default/redis up -1\n", "default/redis up 4294967296\n",
		"default/redis UP 7\n", "default/redis maybe 7\n", "default/Redis up 7\n", "/redis up 7\n", "default/ up 7\n",
		"default/redis/x up 7\n", "default/* up 7\n", "default/redis up 7\r\n", "default/redis up 7\n\n",
		"default/redis up 7\ndefault/redis down 7\n", "default/redis up 7\ngarbage", "default/redis up \n",
		"default/redis up 7 socket\n", "default/redis up 7 messages,socket\n", "default/redis up 7 \n", "default/redis up 7 socket,\n",
		"default/redis up 7 ,messages\n", "default/redis up 7 fanout\n", "default/redis down 7 messages\n", "default/redis up 7 messages 1\n",
		"default/redis up 7 streams,streams\n", "default/redis up 7  messages\n", "default/redis up 7 messages,\n",
	};
	static const char zero[] = "default/redis\0x up 7\n";
	struct announced *list;
	size_t n;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (parse(bad[i], &list, &n) != -EBADMSG)
			fail_msg("\"%s\" was taken", bad[i]);
	assert_int_equal(announce_parse(zero, sizeof(zero) - 1, &list, &n), -EBADMSG);
}

static void too_many_are_refused(void **state)
{
	enum { LINE = 16 };
	char *text = malloc((LIMIT_SERVICES + 1) * (LINE + 1));
	struct announced *list;
	size_t size = 0, n;

	assert_non_null(text);
	for (int i = 0; i <= LIMIT_SERVICES; i++)
		size += (size_t)sprintf(text + size, "d/s%d up 0\n", i);
	assert_int_equal(announce_parse(text, size, &list, &n), -E2BIG);
	assert_int_equal(announce_parse(text, size - strlen("d/s8192 up 0\n"), &list, &n), 0);
	assert_int_equal(n, LIMIT_SERVICES);
	free(list);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_list_is_read),
		cmocka_unit_test(what_is_written_is_read),
		cmocka_unit_test(all_else_is_refused),
		cmocka_unit_test(too_many_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
