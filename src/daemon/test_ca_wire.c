/* Questions to an authority and its answers: what is said is understood, and nothing else is. */
#include "daemon/ca_wire.h"

#include "core/base64.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static char g_why[256];

static struct ca_question a_question(enum ca_op op)
{
	struct ca_question q = { .op = op, .version = op == CA_OP_REVOKED ? (struct revoked_version){ 7, 12 } : (struct revoked_version){} };

	if (op != CA_OP_REVOKED) {
		memset(q.key, 7, sizeof(q.key));
		q.key[0] = 4;
		memset(q.proof, 9, 71);
		q.proof_size = 71;
	}
	if (op == CA_OP_JOIN) {
		memset(q.secret, 3, sizeof(q.secret));
		strcpy(q.host, "b");
	} else if (op == CA_OP_SERVICE) {
		assert_int_equal(service_name_parse(&q.service, "prod/web", NULL), 0);
	}
	return q;
}

static void test_questions(void **unused)
{
	for (int op = 0; op < CA_OP_N; op++) {
		struct ca_question q = a_question((enum ca_op)op), back;
		AUTO_FREE(char) text = ca_question_text(&q);

		assert_non_null(text);
		assert_int_equal(ca_question_read(&back, text, strlen(text), g_why, sizeof(g_why)), 0);
		assert_memory_equal(&back, &q, sizeof(q));
	}
}

#define KEY "\"key\":\"BAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\",\"proof\":\"CQkJ\""

static void test_bad_questions(void **unused)
{
	static const char *const bad[] = {
		"", "[]", "1", "{", "{}", "{\"op\":\"nothing\"}", "{\"op\":1}", "{\"op\":\"revoked\"}", "{\"op\":\"revoked\",\"version\":\"-1-1\"}",
		"{\"op\":\"revoked\",\"version\":5}", "{\"op\":\"revoked\",\"version\":\"1.5-1\"}", "{\"op\":\"revoked\",\"version\":\"1-1\"," KEY "}",
		"{\"op\":\"revoked\",\"version\":\"1-1\",\"version\":\"1-2\"}", "{\"op\":\"host\"}", "{\"op\":\"host\"," KEY ",\"host\":\"b\"}",
		"{\"op\":\"service\"," KEY "}", "{\"op\":\"service\"," KEY ",\"service\":\"web\"}", "{\"op\":\"service\"," KEY ",\"service\":\"*\"}",
		"{\"op\":\"service\"," KEY ",\"service\":\"a/b\",\"more\":1}", "{\"op\":\"join\"," KEY ",\"host\":\"b\",\"secret\":\"00\"}",
		"{\"op\":\"join\"," KEY ",\"host\":\"B\",\"secret\":\"00000000000000000000000000000000\"}",
		"{\"op\":\"host\",\"key\":\"AAAA\",\"proof\":\"CQkJ\"}", "{\"op\":\"host\"," KEY "}{}",
	};
	struct ca_question q = { .host = "untouched" };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		g_why[0] = '\0';
		if (ca_question_read(&q, bad[i], strlen(bad[i]), g_why, sizeof(g_why)) != -EINVAL || !g_why[0])
			fail_msg("%s", bad[i]);
	}
	assert_string_equal(q.host, "untouched");
	/* The same members, as they should be. */
	assert_int_equal(ca_question_read(&q, "{\"op\":\"host\"," KEY "}", strlen("{\"op\":\"host\"," KEY "}"), g_why, sizeof(g_why)), 0);
}

static int read_answer(struct ca_answer *a, enum ca_op op, const char *text)
{
	return ca_answer_read(a, op, text, strlen(text), g_why, sizeof(g_why));
}

static void test_answers(void **unused)
{
	struct ca_answer a;

	assert_int_equal(read_answer(&a, CA_OP_JOIN, "{\"certificate\":\"C\\n\",\"roots\":\"R\\n\",\"trust_domain\":\"x.y\"}"), 0);
	assert_string_equal(a.certificate, "C\n");
	assert_string_equal(a.trust_domain, "x.y");
	assert_null(a.error);
	ca_answer_free(&a);
	assert_int_equal(read_answer(&a, CA_OP_SERVICE, "{\"certificate\":\"C\",\"roots\":\"R\"}"), 0);
	ca_answer_free(&a);
	assert_int_equal(read_answer(&a, CA_OP_REVOKED, "{\"version\":\"7-3\",\"roots\":\"R\",\"revoked\":[\"serial:0a\",\"id:spiffe://x/host/b\"]}"), 0);
	assert_int_equal(json_array_size(a.revoked), 2);
	ca_answer_free(&a);
	assert_int_equal(read_answer(&a, CA_OP_REVOKED, "{\"version\":\"7-3\",\"roots\":\"R\"}"), 0);
	assert_null(a.revoked);
	ca_answer_free(&a);
	assert_int_equal(read_answer(&a, CA_OP_HOST, "{\"error\":\"denied\",\"why\":\"b is revoked\"}"), 0);
	assert_string_equal(a.error, "denied");
	ca_answer_free(&a);
}

static void test_bad_answers(void **unused)
{
	static const struct {
		enum ca_op op;
		const char *text;
	} bad[] = {
		{ CA_OP_HOST, "" },
		{ CA_OP_HOST, "{}" },
		{ CA_OP_HOST, "{\"certificate\":\"C\",\"roots\":\"R\"}" },
		{ CA_OP_HOST, "{\"certificate\":\"C\",\"roots\":\"R\",\"trust_domain\":\"X Y\"}" },
		{ CA_OP_SERVICE, "{\"certificate\":\"\",\"roots\":\"R\"}" },
		{ CA_OP_SERVICE, "{\"certificate\":\"C\\u001b[2J\",\"roots\":\"R\"}" },
		{ CA_OP_SERVICE, "{\"roots\":\"R\"}" },
		{ CA_OP_SERVICE, "{\"error\":\"denied\"}" },
		{ CA_OP_SERVICE, "{\"error\":\"denied\",\"why\":\"a\\nb\"}" },
		{ CA_OP_REVOKED, "{\"roots\":\"R\"}" },
		{ CA_OP_REVOKED, "{\"version\":\"1-1\",\"roots\":\"R\",\"revoked\":{}}" },
		{ CA_OP_REVOKED, "{\"version\":\"1-1\",\"roots\":\"R\",\"revoked\":[1]}" },
		{ CA_OP_REVOKED, "{\"version\":\"1-1\",\"roots\":\"R\",\"revoked\":[\"serial:0a\\nserial:0b\"]}" },
		{ CA_OP_REVOKED, "{\"version\":\"1-1\",\"roots\":\"R\",\"revoked\":[\"serial:0a\\u0000\"]}" },
		{ CA_OP_REVOKED, "{\"version\":\"1-1\",\"roots\":\"R\",\"more\":[]}" },
		{ CA_OP_REVOKED, "{\"version\":\"0-1\",\"roots\":\"R\"}" },
		{ CA_OP_REVOKED, "{\"version\":\"1-01\",\"roots\":\"R\"}" },
		{ CA_OP_REVOKED, "{\"version\":1,\"roots\":\"R\"}" },
	};
	struct ca_answer a;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (read_answer(&a, bad[i].op, bad[i].text) != -EINVAL)
			fail_msg("%s", bad[i].text);
}

/* openssl dgst -sha256 over "sealane ca proof v1\0" and 32 bytes of 0x11. */
static void test_proven(void **unused)
{
	uint8_t exporter[32], digest[32];
	char hex[65];

	memset(exporter, 0x11, sizeof(exporter));
	ca_proven(digest, exporter);
	assert_string_equal(hex_encode(hex, digest, 32), "a413d6be33b807c916de92003b86b2665cb8979af3ddfc47b310b55012cfae09");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_questions),   cmocka_unit_test(test_bad_questions), cmocka_unit_test(test_answers),
		cmocka_unit_test(test_bad_answers), cmocka_unit_test(test_proven),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
