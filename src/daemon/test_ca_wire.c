/* Questions to an authority and its answers: what is said is understood, nothing else is, and what proves it covers every byte. */
#include "daemon/ca_wire.h"

#include "core/base64.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

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
		memset(q.token, 3, sizeof(q.token));
		strcpy(q.host, "b");
		memset(q.ask, 8, sizeof(q.ask));
		q.ask[0] = 4;
		memset(q.mac, 5, sizeof(q.mac));
	} else if (op != CA_OP_REVOKED) {
		memset(q.signature, 6, 70);
		q.signature_size = 70;
	}
	if (op == CA_OP_SERVICE)
		assert_int_equal(service_name_parse(&q.service, "prod/web", NULL), 0);
	return q;
}

static int read_question(struct ca_question *q, const char *text)
{
	g_why[0] = '\0';
	return ca_question_read(q, text, strlen(text), g_why, sizeof(g_why));
}

static void test_questions(void **unused)
{
	for (int op = 0; op < CA_OP_N; op++) {
		struct ca_question q = a_question((enum ca_op)op), back;
		AUTO_FREE(char) body = ca_question_body(&q);
		AUTO_FREE(char) text = body ? ca_question_text(&q, body) : NULL;
		uint8_t digest[SHA256_SIZE];

		assert_non_null(text);
		assert_int_equal(read_question(&back, text), 0);
		assert_memory_equal(&back, &q, sizeof(q));
		sha256(digest, body, strlen(body)); /* of the very bytes */
		assert_memory_equal(back.digest, digest, sizeof(digest));
	}
}

/* An envelope around @body, with @proven as it stands: ",\"mac\":...", or "". */
static char *around(const char *member, const char *body, const char *proven)
{
	json_t *o = json_pack("{s:s}", member, body);
	AUTO_FREE(char) text = json_dumps(o, JSON_COMPACT);
	char *ret = NULL;
	int n;

	json_decref(o);
	assert_non_null(text);
	n = asprintf(&ret, "%.*s%s}", (int)strlen(text) - 1, text, proven);
	assert_true(n > 0);
	return ret;
}

#define POINT "BAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="
#define KEY "\"key\":\"" POINT "\",\"proof\":\"CQkJ\""
#define TOKEN "\"token\":\"00000000000000000000000000000000\""
#define HEX32 "00000000000000000000000000000000000000000000000000000000000000ff"
#define MAC ",\"mac\":\"" HEX32 "\""
#define SIGNATURE ",\"signature\":\"CQkJ\""

static void test_bad_questions(void **unused)
{
	static const struct {
		const char *body, *proven;
	} bad[] = {
		{ "", "" }, { "[]", "" }, { "1", "" }, { "{", "" }, { "{}", "" }, { "{\"op\":\"nothing\"}", "" }, { "{\"op\":1}", "" },
		{ "{\"op\":\"revoked\"}", "" },
		{ "{\"op\":\"revoked\",\"version\":\"-1-1\"}", "" },
		{ "{\"op\":\"revoked\",\"version\":5}", "" },
		{ "{\"op\":\"revoked\",\"version\":\"1.5-1\"}", "" },
		{ "{\"op\":\"revoked\",\"version\":\"1-1\"," KEY "}", "" },
		{ "{\"op\":\"revoked\",\"version\":\"1-1\",\"version\":\"1-2\"}", "" },
		{ "{\"op\":\"revoked\",\"version\":\"1-1\"}", SIGNATURE },
		{ "{\"op\":\"revoked\",\"version\":\"1-1\"}", ",\"more\":1" },
		{ "{\"op\":\"host\"}", SIGNATURE },
		{ "{\"op\":\"host\"," KEY ",\"host\":\"b\"}", SIGNATURE },
		{ "{\"op\":\"host\"," KEY "}", "" },
		{ "{\"op\":\"host\"," KEY "}", MAC },
		{ "{\"op\":\"host\"," KEY "}", MAC SIGNATURE },
		{ "{\"op\":\"host\"," KEY "}", ",\"signature\":\"\"" },
		{ "{\"op\":\"host\"," KEY "}", ",\"signature\":\"!\"" },
		{ "{\"op\":\"host\"," KEY "}{}", SIGNATURE },
		{ "{\"op\":\"host\",\"key\":\"AAAA\",\"proof\":\"CQkJ\"}", SIGNATURE },
		{ "{\"op\":\"service\"," KEY "}", SIGNATURE },
		{ "{\"op\":\"service\"," KEY ",\"service\":\"web\"}", SIGNATURE },
		{ "{\"op\":\"service\"," KEY ",\"service\":\"*\"}", SIGNATURE },
		{ "{\"op\":\"service\"," KEY ",\"service\":\"a/b\",\"more\":1}", SIGNATURE },
		{ "{\"op\":\"join\"," KEY ",\"host\":\"b\",\"token\":\"00\",\"ask\":\"" POINT "\"}", MAC },
		{ "{\"op\":\"join\"," KEY ",\"host\":\"B\"," TOKEN ",\"ask\":\"" POINT "\"}", MAC },
		{ "{\"op\":\"join\"," KEY ",\"host\":\"b\"," TOKEN ",\"ask\":\"AAAA\"}", MAC },
		{ "{\"op\":\"join\"," KEY ",\"host\":\"b\"," TOKEN "}", MAC },
		{ "{\"op\":\"join\"," KEY ",\"host\":\"b\"," TOKEN ",\"ask\":\"" POINT "\",\"secret\":\"00\"}", MAC },
		{ "{\"op\":\"join\"," KEY ",\"host\":\"b\"," TOKEN ",\"ask\":\"" POINT "\"}", "" },
		{ "{\"op\":\"join\"," KEY ",\"host\":\"b\"," TOKEN ",\"ask\":\"" POINT "\"}", ",\"mac\":\"00\"" },
		{ "{\"op\":\"join\"," KEY ",\"host\":\"b\"," TOKEN ",\"ask\":\"" POINT "\"}", SIGNATURE },
	};
	static const struct {
		const char *body, *proven;
	} good[] = {
		{ "{\"op\":\"revoked\",\"version\":\"1-1\"}", "" },
		{ "{\"op\":\"host\"," KEY "}", SIGNATURE },
		{ "{\"op\":\"join\"," KEY ",\"host\":\"b\"," TOKEN ",\"ask\":\"" POINT "\"}", MAC },
	};
	struct ca_question q = { .host = "untouched" };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		AUTO_FREE(char) text = around("body", bad[i].body, bad[i].proven);

		if (read_question(&q, text) != -EINVAL || !g_why[0])
			fail_msg("%s", text);
	}
	assert_int_equal(read_question(&q, "{\"op\":\"revoked\",\"version\":\"1-1\"}"), -EINVAL);
	assert_int_equal(read_question(&q, "{\"body\":{\"op\":\"revoked\",\"version\":\"1-1\"}}"), -EINVAL);
	assert_string_equal(q.host, "untouched");
	/* The same members, as they should be. */
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		AUTO_FREE(char) text = around("body", good[i].body, good[i].proven);

		if (read_question(&q, text) != 0)
			fail_msg("%s: %s", g_why, text);
	}
}

/* ------------------------------------------------------------------ answers */

static int read_answer(struct ca_answer *a, enum ca_op op, const char *text)
{
	return ca_answer_read(a, op, text, strlen(text), g_why, sizeof(g_why));
}

static void test_answers(void **unused)
{
	static const char joined[] = "{\"certificate\":\"C\\n\",\"roots\":\"R\\n\",\"trust_domain\":\"x.y\"}";
	AUTO_FREE(char) text = around("body", joined, MAC);
	uint8_t digest[SHA256_SIZE];
	struct ca_answer a, held;

	assert_int_equal(read_answer(&a, CA_OP_JOIN, text), 0);
	assert_string_equal(a.certificate, "C\n");
	assert_string_equal(a.roots, "R\n");
	assert_string_equal(a.trust_domain, "x.y");
	assert_int_equal(a.mac[31], 0xff);
	sha256(digest, joined, sizeof(joined) - 1);
	assert_memory_equal(a.digest, digest, sizeof(digest));
	assert_null(a.error);
	held = ca_answer_hold(&a);
	ca_answer_free(&a);
	assert_string_equal(held.certificate, "C\n");
	ca_answer_free(&held);
	assert_int_equal(read_answer(&a, CA_OP_SERVICE, "{\"certificate\":\"C\"}"), 0);
	ca_answer_free(&a);
	assert_int_equal(read_answer(&a, CA_OP_HOST, "{\"error\":\"denied\",\"why\":\"b is revoked\"}"), 0);
	assert_string_equal(a.error, "denied");
	ca_answer_free(&a);
}

static void entries_digest(uint8_t ret[32], const char *const *entries, size_t n)
{
	struct sha256 s;

	sha256_init(&s);
	for (size_t i = 0; i < n; i++)
		ca_list_entry_add(&s, entries[i]);
	sha256_end(&s, ret);
}

static void test_list(void **unused)
{
	static const char *const entries[] = { "serial:0a", "id:spiffe://x/host/b" };
	struct ca_list_signature s = { .root = { 1, 2 }, .signature = { 0x30, 3 }, .signature_size = 70 };
	struct revoked_version v = { 7, 3 };
	uint8_t digest[32];
	struct ca_answer a;
	json_t *o;

	entries_digest(digest, entries, 2);
	AUTO_FREE(char) body = ca_list_body(&v, 1234, "R\n", digest);
	assert_non_null(body);
	o = ca_list_json(body, &s, 1);
	AUTO_FREE(char) same = json_dumps(o, JSON_COMPACT);
	assert_int_equal(read_answer(&a, CA_OP_REVOKED, same), 0);
	assert_null(a.revoked);
	assert_int_equal(a.version.epoch, 7);
	assert_int_equal(a.version.counter, 3);
	assert_int_equal(a.made_unix_s, 1234);
	assert_string_equal(a.roots, "R\n");
	assert_int_equal(a.n_signatures, 1);
	assert_memory_equal(&a.signatures[0], &s, sizeof(s));
	sha256(digest, body, strlen(body));
	assert_memory_equal(a.digest, digest, sizeof(digest));
	ca_answer_free(&a);
	/* With its entries; then with others, in another order, with one more, with none. */
	json_object_set_new(o, "revoked", json_pack("[s,s]", entries[0], entries[1]));
	AUTO_FREE(char) whole = json_dumps(o, JSON_COMPACT);
	assert_int_equal(read_answer(&a, CA_OP_REVOKED, whole), 0);
	assert_int_equal(json_array_size(a.revoked), 2);
	ca_answer_free(&a);
	json_t *others[] = { json_pack("[s,s]", entries[0], "id:spiffe://x/host/c"), json_pack("[s,s]", entries[1], entries[0]),
			     json_pack("[s,s,s]", entries[0], entries[1], entries[1]), json_pack("[s]", entries[0]), json_array() };
	for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
		json_object_set_new(o, "revoked", others[i]);
		AUTO_FREE(char) wrong = json_dumps(o, JSON_COMPACT);
		assert_int_equal(read_answer(&a, CA_OP_REVOKED, wrong), -EINVAL);
	}
	json_decref(o);
}

#define LIST(version, made, roots, digest) "{\"version\":" version ",\"made\":" made ",\"roots\":" roots ",\"digest\":" digest "}"
#define GOOD_LIST LIST("\"1-1\"", "5", "\"R\"", "\"" HEX32 "\"")
#define SIGNED ",\"signatures\":[{\"root\":\"" HEX32 "\",\"signature\":\"CQkJ\"}]"
#define ONE "{\"root\":\"" HEX32 "\",\"signature\":\"CQkJ\"}"

static void test_bad_lists(void **unused)
{
	static const struct {
		const char *list, *rest;
	} bad[] = {
		{ "", SIGNED }, { "{}", SIGNED }, { "[]", SIGNED },
		{ LIST("1", "5", "\"R\"", "\"" HEX32 "\""), SIGNED },
		{ LIST("\"0-1\"", "5", "\"R\"", "\"" HEX32 "\""), SIGNED },
		{ LIST("\"1-1\"", "-5", "\"R\"", "\"" HEX32 "\""), SIGNED },
		{ LIST("\"1-1\"", "5.5", "\"R\"", "\"" HEX32 "\""), SIGNED },
		{ LIST("\"1-1\"", "5", "\"\"", "\"" HEX32 "\""), SIGNED },
		{ LIST("\"1-1\"", "5", "\"R\\u001b\"", "\"" HEX32 "\""), SIGNED },
		{ LIST("\"1-1\"", "5", "\"R\"", "\"ff\""), SIGNED },
		{ "{\"version\":\"1-1\",\"made\":5,\"roots\":\"R\"}", SIGNED },
		{ "{\"version\":\"1-1\",\"made\":5,\"roots\":\"R\",\"digest\":\"" HEX32 "\",\"more\":1}", SIGNED },
		{ GOOD_LIST, "" },
		{ GOOD_LIST, ",\"signatures\":[]" },
		{ GOOD_LIST, ",\"signatures\":{}" },
		{ GOOD_LIST, ",\"signatures\":[1]" },
		{ GOOD_LIST, ",\"signatures\":[{\"root\":\"ff\",\"signature\":\"CQkJ\"}]" },
		{ GOOD_LIST, ",\"signatures\":[{\"root\":\"" HEX32 "\",\"signature\":\"\"}]" },
		{ GOOD_LIST, ",\"signatures\":[" ONE "," ONE "," ONE "," ONE "," ONE "]" },
		{ GOOD_LIST, SIGNED ",\"more\":1" },
		{ GOOD_LIST, SIGNED ",\"revoked\":{}" },
		{ GOOD_LIST, SIGNED ",\"revoked\":[1]" },
		{ GOOD_LIST, SIGNED ",\"revoked\":[\"serial:0a\\nserial:0b\"]" },
		{ GOOD_LIST, SIGNED ",\"revoked\":[\"serial:0a\"]" },
	};
	AUTO_FREE(char) good = around("list", GOOD_LIST, SIGNED);
	struct ca_answer a;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		AUTO_FREE(char) text = around("list", bad[i].list, bad[i].rest);

		if (read_answer(&a, CA_OP_REVOKED, text) != -EINVAL)
			fail_msg("%s", text);
	}
	assert_int_equal(read_answer(&a, CA_OP_REVOKED, good), 0);
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
		{ CA_OP_HOST, "{\"certificate\":\"C\",\"roots\":\"R\"}" }, /* roots come with the list, signed */
		{ CA_OP_SERVICE, "{\"certificate\":\"\"}" },
		{ CA_OP_SERVICE, "{\"certificate\":\"C\\u001b[2J\"}" },
		{ CA_OP_SERVICE, "{\"error\":\"denied\"}" },
		{ CA_OP_SERVICE, "{\"error\":\"denied\",\"why\":\"a\\nb\"}" },
		{ CA_OP_SERVICE, "{\"error\":\"denied\",\"why\":\"a\",\"certificate\":\"C\"}" },
		{ CA_OP_JOIN, "{\"certificate\":\"C\",\"roots\":\"R\",\"trust_domain\":\"x.y\"}" },
	};
	static const struct {
		const char *body, *proven;
	} joined[] = {
		{ "{\"certificate\":\"C\",\"roots\":\"R\",\"trust_domain\":\"x.y\"}", "" },
		{ "{\"certificate\":\"C\",\"roots\":\"R\",\"trust_domain\":\"x.y\"}", ",\"mac\":\"ff\"" },
		{ "{\"certificate\":\"C\",\"roots\":\"R\",\"trust_domain\":\"X Y\"}", MAC },
		{ "{\"certificate\":\"C\",\"trust_domain\":\"x.y\"}", MAC },
		{ "{\"roots\":\"R\",\"trust_domain\":\"x.y\"}", MAC },
		{ "{\"certificate\":\"C\",\"roots\":\"\",\"trust_domain\":\"x.y\"}", MAC },
	};
	struct ca_answer a;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (read_answer(&a, bad[i].op, bad[i].text) != -EINVAL)
			fail_msg("%s", bad[i].text);
	for (size_t i = 0; i < ARRAY_SIZE(joined); i++) {
		AUTO_FREE(char) text = around("body", joined[i].body, joined[i].proven);

		if (read_answer(&a, CA_OP_JOIN, text) != -EINVAL)
			fail_msg("%s", text);
	}
}

/* ------------------------------------------------------------------ digests and codes */

/* By openssl, over the label with its NUL, and bytes of 0x11 (exporter), 0x22 (question), 0x33 (answer); the codes' key: 16 of 0x42. */
static void test_proofs(void **unused)
{
	uint8_t exporter[32], question[32], answer[32], key[TOKEN_KEY_SIZE], digest[32];
	char hex[65];

	memset(exporter, 0x11, sizeof(exporter));
	memset(question, 0x22, sizeof(question));
	memset(answer, 0x33, sizeof(answer));
	memset(key, 0x42, sizeof(key));
	ca_proven(digest, exporter);
	assert_string_equal(hex_encode(hex, digest, 32), "a413d6be33b807c916de92003b86b2665cb8979af3ddfc47b310b55012cfae09");
	ca_question_signed(digest, exporter, question);
	assert_string_equal(hex_encode(hex, digest, 32), "b126f68d24cecfa28431b62c0db27871ea64740cb41097065e08d7114edc8600");
	ca_join_mac(digest, key, exporter, question);
	assert_string_equal(hex_encode(hex, digest, 32), "c3edf4f39643e86ef35190150682ccc453d6a7e955ed213b9872ccadd0a92ea1");
	ca_joined_mac(digest, key, exporter, question, answer);
	assert_string_equal(hex_encode(hex, digest, 32), "ebaa3da1cff9b907946f998287310ed2faf1f666adc9a96140b5a330bfab77fb");
	ca_list_signed(digest, question);
	assert_string_equal(hex_encode(hex, digest, 32), "f0f3b1543c99701230201e895b204b0fbb8ddc9031bdcbebf2929ae15dc766c1");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_questions), cmocka_unit_test(test_bad_questions), cmocka_unit_test(test_answers), cmocka_unit_test(test_list),
		cmocka_unit_test(test_bad_lists), cmocka_unit_test(test_bad_answers),	cmocka_unit_test(test_proofs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
