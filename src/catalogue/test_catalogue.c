/* The pure parts against what etcd 3.4 really answered (recorded), and against what it should not. */
#include "catalogue/entry.h"
#include "catalogue/etcd.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define HEADER "\"header\":{\"cluster_id\":\"324952591200643719\",\"member_id\":\"3319814642761637952\",\"revision\":\"7\",\"raft_term\":\"2\"}"
/* /sealane/hosts/a */
#define KEY_A "L3NlYWxhbmUvaG9zdHMvYQ=="
/* {"address":"10.0.0.1:7443"} */
#define VALUE_A "eyJhZGRyZXNzIjoiMTAuMC4wLjE6NzQ0MyJ9"

/* ------------------------------------------------------------------ entries */

static void test_keys(void **state)
{
	static const struct {
		const char *key;
		enum entry_kind kind;
	} cases[] = {
		{ "epoch", ENTRY_EPOCH }, { "hosts/a", ENTRY_HOST }, { "services/default/redis/a", ENTRY_SERVICE },
		{ "intentions/default.web:default.redis", ENTRY_INTENTION }, { "intentions/*:*", ENTRY_INTENTION },
		{ "", ENTRY_OTHER }, { "epoch/", ENTRY_OTHER }, { "hosts/", ENTRY_OTHER }, { "hosts/A", ENTRY_OTHER }, { "hosts/a/", ENTRY_OTHER },
		{ "hosts/a/b", ENTRY_OTHER }, { "hosts", ENTRY_OTHER }, { "services/default/redis", ENTRY_OTHER },
		{ "services/default//a", ENTRY_OTHER }, { "services/default/redis/a/", ENTRY_OTHER }, { "services/default/redis/a/b", ENTRY_OTHER },
		{ "intentions/", ENTRY_OTHER }, { "intentions/a b", ENTRY_OTHER }, { "intentions/a/b", ENTRY_OTHER }, { "other/x", ENTRY_OTHER },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char again[LIMIT_CATALOGUE_KEY_SIZE];
		struct entry e;

		entry_parse_key(&e, cases[i].key);
		if (e.kind != cases[i].kind)
			fail_msg("%s", cases[i].key);
		if (e.kind != ENTRY_OTHER)
			assert_string_equal(entry_format_key(again, &e), cases[i].key);
	}
}

static void test_values_are_strict(void **state)
{
	static const struct {
		const char *key, *value;
		int result;
	} cases[] = {
		{ "hosts/a", "{\"address\":\"10.0.0.1:7443\"}", 0 },
		{ "hosts/a", "{\"address\":\"\",\"later\":[1,2]}", 0 },
		{ "hosts/a", "{\"address\":\"a.example:1\"}", -EBADMSG },
		{ "hosts/a", "{\"address\":1}", -EBADMSG },
		{ "hosts/a", "{}", -EBADMSG },
		{ "hosts/a", "[]", -EBADMSG },
		{ "hosts/a", "", -EBADMSG },
		{ "hosts/a", "{\"address\":\"\"} x", -EBADMSG },
		{ "hosts/a", "{\"address\":\"\",\"address\":\"\"}", -EBADMSG },
		{ "services/a/b/c", "{\"up\":true,\"lanes\":4294967295}", 0 },
		{ "services/a/b/c", "{\"up\":true,\"lanes\":4294967296}", -EBADMSG },
		{ "services/a/b/c", "{\"up\":true,\"lanes\":-1}", -EBADMSG },
		{ "services/a/b/c", "{\"up\":true,\"lanes\":1.0}", -EBADMSG },
		{ "services/a/b/c", "{\"up\":1,\"lanes\":1}", -EBADMSG },
		{ "services/a/b/c", "{\"lanes\":1}", -EBADMSG },
		{ "services/a/b/c", "{\"up\":true,\"lanes\":1,\"kinds\":\"socket,streams,messages\"}", 0 },
		{ "services/a/b/c", "{\"up\":true,\"lanes\":1,\"kinds\":\"messages,socket\"}", -EBADMSG },
		{ "services/a/b/c", "{\"up\":true,\"lanes\":1,\"kinds\":7}", -EBADMSG },
		{ "services/a/b/c", "{\"up\":false,\"lanes\":1,\"kinds\":\"messages\"}", -EBADMSG },
		{ "epoch", "{\"epoch\":\"00112233445566778899aabbccddeeff\",\"generation\":1}", 0 },
		{ "epoch", "{\"epoch\":\"00112233445566778899AABBCCDDEEFF\",\"generation\":1}", -EBADMSG },
		{ "epoch", "{\"epoch\":\"00112233445566778899aabbccddeeff\",\"generation\":0}", -EBADMSG },
		{ "epoch", "{\"epoch\":\"0011\",\"generation\":1}", -EBADMSG },
		{ "intentions/x", "{\"source\":\"a/web\",\"destination\":\"*\",\"action\":\"deny\"}", 0 },
		{ "intentions/x", "{\"source\":\"web\",\"destination\":\"*\",\"action\":\"deny\"}", -EBADMSG },
		{ "intentions/x", "{\"source\":\"a/web\",\"destination\":\"*\",\"action\":\"Allow\"}", -EBADMSG },
		{ "intentions/x", "{\"source\":\"a/web\",\"destination\":\"*\"}", -EBADMSG },
		{ "intentions/x", "{\"source\":\"a/web\",\"destination\":\"*\",\"action\":\"deny\",\"expires\":-1}", -EBADMSG },
		{ "intentions/x", "{\"source\":\"a/web\",\"destination\":\"*\",\"action\":\"allow\",\"limits\":{\"open_lanes\":\"3\"}}", -EBADMSG },
		{ "intentions/x", "{\"source\":\"a/web\",\"destination\":\"*\",\"action\":\"allow\",\"by\":\"a\\u0007b\"}", -EBADMSG },
		{ "other", "{}", -ENOENT },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct entry e;

		if (entry_parse(&e, cases[i].key, cases[i].value) != cases[i].result)
			fail_msg("%s %s", cases[i].key, cases[i].value);
	}
}

static void test_an_intention_there_and_back(void **state)
{
	static const char text[] = "{\"source\":\"default/web\",\"destination\":\"prod/*\",\"action\":\"allow\",\"strict\":true,\"limits\":{\"open_lanes\":3,"
				   "\"connections_per_s\":0,\"bytes_per_s\":1000000},\"expires\":1798761600,\"by\":\"uid 0 on a\"}";
	char value[LIMIT_CATALOGUE_VALUE_SIZE], id[ENTRY_ID_SIZE];
	struct entry e;

	assert_int_equal(entry_parse(&e, "intentions/x", text), 0);
	assert_int_equal(e.intention.origin, INTENTION_FROM_CLUSTER);
	assert_int_equal(e.intention.action, INTENTION_ALLOW);
	assert_int_equal(e.intention.limits.open_lanes, 3);
	assert_int_equal(e.intention.expires_unix_s, 1798761600);
	assert_string_equal(e.intention.where, "cluster x, uid 0 on a");
	assert_string_equal(entry_intention_id(id, &e.intention.source, &e.intention.destination), "default.web:prod.*");
	assert_int_equal(entry_format_value(value, &e), 0);
	assert_string_equal(value, text);
}

/* ------------------------------------------------------------------ answers */

struct seen {
	size_t n;
	struct etcd_kv last;
	char key[LIMIT_CATALOGUE_KEY_SIZE], value[LIMIT_CATALOGUE_VALUE_SIZE];
};

static void see(void *arg, const struct etcd_kv *kv)
{
	struct seen *s = arg;

	s->n++;
	s->last = *kv;
	assert_true(str_copy(s->key, sizeof(s->key), kv->key));
	assert_true(str_copy(s->value, sizeof(s->value), kv->value ? kv->value : ""));
}

static int range(struct etcd_page *page, const char *text, struct seen *s)
{
	return etcd_parse_range(page, text, strlen(text), "/sealane", see, s);
}

static void test_range(void **state)
{
	struct etcd_page page = { .next_from = NULL };
	struct seen s = { .n = 0 };

	assert_int_equal(range(&page, "{" HEADER ",\"kvs\":[{\"key\":\"" KEY_A "\",\"create_revision\":\"2\",\"mod_revision\":\"5\",\"version\":\"1\","
				      "\"value\":\"" VALUE_A "\",\"lease\":\"2324035523508658694\"}],\"count\":\"1\"}", &s), 0);
	assert_true(page.header.cluster_id == UINT64_C(324952591200643719) && page.header.revision == 7);
	assert_false(page.more);
	assert_int_equal(s.n, 1);
	assert_string_equal(s.key, "hosts/a");
	assert_string_equal(s.value, "{\"address\":\"10.0.0.1:7443\"}");
	assert_true(s.last.lease == UINT64_C(2324035523508658694) && s.last.mod_revision == 5);
	assert_int_equal(range(&page, "{" HEADER "}", &s), 0);
	assert_int_equal(page.n, 0);
}

static void test_pages(void **state)
{
	struct etcd_page page = { .next_from = NULL };
	struct seen s = { .n = 0 };
	char *next;

	assert_int_equal(range(&page, "{" HEADER ",\"kvs\":[{\"key\":\"" KEY_A "\",\"value\":\"" VALUE_A "\"}],\"more\":true,\"count\":\"9\"}", &s), 0);
	assert_true(page.more);
	assert_string_equal(page.next_from, "L3NlYWxhbmUvaG9zdHMvYQA="); /* the same key and a NUL */
	next = etcd_build_range("/sealane", page.next_from, 500, 7);
	assert_string_equal(next, "{\"key\":\"L3NlYWxhbmUvaG9zdHMvYQA=\",\"range_end\":\"L3NlYWxhbmUw\",\"limit\":\"500\",\"revision\":\"7\"}");
	free(next);
	free(page.next_from);
	assert_int_equal(range(&page, "{" HEADER ",\"more\":true}", &s), -EBADMSG); /* it would never end */
}

static void test_range_lies(void **state)
{
	static const char *const lies[] = {
		"", "{", "[]", "{}", "nonsense", "{\"kvs\":[]}",
		"{\"header\":{\"cluster_id\":\"1\"}}",						/* of no revision */
		"{\"header\":{\"revision\":\"1\"}}",						/* of no cluster */
		"{\"header\":{\"cluster_id\":\"1\",\"revision\":\"9223372036854775808\"}}",
		"{\"header\":{\"cluster_id\":\"-1\",\"revision\":\"1\"}}",
		"{\"header\":{\"cluster_id\":\"18446744073709551616\",\"revision\":\"1\"}}",
		"{" HEADER ",\"kvs\":{}}", "{" HEADER ",\"kvs\":[1]}", "{" HEADER ",\"kvs\":[{\"key\":1}]}",
		"{" HEADER ",\"kvs\":[{\"key\":\"!!!!\"}]}", "{" HEADER ",\"kvs\":[{\"key\":\"" KEY_A "\",\"value\":\"=\"}]}",
		"{" HEADER ",\"kvs\":[{\"key\":\"L290aGVyL3g=\",\"value\":\"eA==\"}]}",	/* /other/x */
		"{" HEADER ",\"kvs\":[{\"key\":\"L3NlYWxhbmV4L2E=\"}]}",			/* /sealanex/a */
		"{" HEADER ",\"kvs\":[{}]}", "{" HEADER ",\"kvs\":[{\"key\":\"" KEY_A "\",\"mod_revision\":\"x\"}]}",
		"{" HEADER ",\"header\":{}}",
	};

	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		struct etcd_page page = { .next_from = NULL };
		struct seen s = { .n = 0 };

		if (range(&page, lies[i], &s) != -EBADMSG)
			fail_msg("%s", lies[i]);
		assert_null(page.next_from);
	}
}

static void test_what_cannot_be_ours(void **state)
{
	struct etcd_page page = { .next_from = NULL };
	struct seen s = { .n = 0 };
	char long_value[4001] = "", *text = NULL;

	/* A value with a NUL inside, and one without a value at all. */
	assert_int_equal(range(&page, "{" HEADER ",\"kvs\":[{\"key\":\"" KEY_A "\",\"value\":\"YQBi\"}]}", &s), 0);
	assert_true(s.n == 1 && s.last.unusable && !s.last.value);
	assert_int_equal(range(&page, "{" HEADER ",\"kvs\":[{\"key\":\"" KEY_A "\"}]}", &s), 0);
	assert_true(s.n == 2 && !s.last.unusable && s.last.size == 0);
	/* A value of 3,000 bytes: told as such. */
	memset(long_value, 'A', sizeof(long_value) - 1);
	assert_true(asprintf(&text, "{" HEADER ",\"kvs\":[{\"key\":\"" KEY_A "\",\"value\":\"%s\"}]}", long_value) > 0);
	assert_int_equal(range(&page, text, &s), 0);
	assert_true(s.n == 3 && s.last.unusable && !s.last.value);
	free(text);
}

static int watch(struct etcd_watch *w, const char *text, struct seen *s)
{
	return etcd_parse_watch(w, text, strlen(text), "/sealane", see, s);
}

static void test_watch(void **state)
{
	struct seen s = { .n = 0 };
	struct etcd_watch w;

	assert_int_equal(watch(&w, "{\"result\":{" HEADER ",\"created\":true}}", &s), 0);
	assert_true(w.created && !w.cancelled && s.n == 0);
	assert_int_equal(watch(&w, "{\"result\":{" HEADER ",\"events\":[{\"kv\":{\"key\":\"" KEY_A "\",\"mod_revision\":\"6\",\"value\":\"" VALUE_A
				   "\"}},{\"type\":\"DELETE\",\"kv\":{\"key\":\"" KEY_A "\",\"mod_revision\":\"7\"}}]}}", &s), 0);
	assert_int_equal(s.n, 2);
	assert_true(s.last.gone && s.last.mod_revision == 7 && !s.last.value);
	assert_int_equal(watch(&w, "{\"result\":{\"header\":{\"cluster_id\":\"1\",\"raft_term\":\"2\"},\"canceled\":true,\"compact_revision\":\"3\"}}", &s), 0);
	assert_true(w.cancelled && w.compacted);
	assert_int_equal(watch(&w, "{\"result\":{" HEADER ",\"watch_id\":\"-1\",\"created\":true,\"canceled\":true,\"cancel_reason\":"
				   "\"rpc error: code = Unauthenticated desc = etcdserver: invalid auth token\"}}", &s), 0);
	assert_true(w.cancelled && !w.compacted);
	assert_int_equal(etcd_judge(0, w.why, strlen(w.why), (char[ETCD_WHY_SIZE]){ 0 }), ETCD_FAULT_TOKEN);
	assert_int_equal(watch(&w, "{\"error\":{\"grpc_code\":14,\"http_code\":503,\"message\":\"transport\\u001b is closing\"}}", &s), 0);
	assert_true(w.cancelled);
	assert_string_equal(w.why, "transport  is closing");
	assert_int_equal(watch(&w, "{\"result\":{\"events\":[]}}", &s), -EBADMSG);
	assert_int_equal(watch(&w, "{\"result\":{" HEADER ",\"events\":[{\"type\":3}]}}", &s), -EBADMSG);
	assert_int_equal(watch(&w, "{\"result\":{" HEADER ",\"events\":[{}]}}", &s), -EBADMSG);
	assert_int_equal(watch(&w, "{}", &s), -EBADMSG);
}

#define TEXT(s) (s), strlen(s)

static void test_small_answers(void **state)
{
	char token[ETCD_TOKEN_SIZE] = "";
	uint64_t lease = 0;
	int64_t ttl = -1;
	bool succeeded = false;

	assert_int_equal(etcd_parse_auth(token, TEXT("{" HEADER ",\"token\":\"HRLAaBbHnIUZPLAX.13\"}")), 0);
	assert_string_equal(token, "HRLAaBbHnIUZPLAX.13");
	assert_int_equal(etcd_parse_auth(token, TEXT("{\"token\":\"a\\r\\nHost: evil\"}")), -EBADMSG);
	assert_int_equal(etcd_parse_auth(token, TEXT("{\"token\":\"\"}")), -EBADMSG);
	assert_int_equal(etcd_parse_auth(token, TEXT("{}")), -EBADMSG);
	assert_int_equal(etcd_parse_grant(&lease, TEXT("{" HEADER ",\"ID\":\"2324035523508658694\",\"TTL\":\"10\"}")), 0);
	assert_true(lease == UINT64_C(2324035523508658694));
	assert_int_equal(etcd_parse_grant(&lease, TEXT("{" HEADER "}")), -EBADMSG);
	assert_int_equal(etcd_parse_keepalive(&ttl, TEXT("{\"result\":{" HEADER ",\"ID\":\"123\",\"TTL\":\"10\"}}\n")), 0);
	assert_int_equal(ttl, 10);
	assert_int_equal(etcd_parse_keepalive(&ttl, TEXT("{\"result\":{" HEADER ",\"ID\":\"123\"}}")), 0);
	assert_int_equal(ttl, 0); /* gone */
	assert_int_equal(etcd_parse_txn(&succeeded, TEXT("{" HEADER ",\"succeeded\":true}")), 0);
	assert_true(succeeded);
	assert_int_equal(etcd_parse_txn(&succeeded, TEXT("{" HEADER "}")), 0);
	assert_false(succeeded);
}

static void test_judgements(void **state)
{
	static const struct {
		long status;
		const char *text;
		enum etcd_fault fault;
		const char *says;
	} cases[] = {
		{ 400, "CommonName of client sending a request against gateway will be ignored and not used as expected\n", ETCD_FAULT_REFUSED, "empty subject" },
		{ 401, "{\"error\":\"etcdserver: invalid auth token\",\"message\":\"etcdserver: invalid auth token\",\"code\":16}", ETCD_FAULT_TOKEN, "token" },
		{ 400, "{\"message\":\"etcdserver: revision of auth store is old\"}", ETCD_FAULT_TOKEN, "old" },
		{ 400, "{\"error\":\"etcdserver: user name is empty\",\"code\":3}", ETCD_FAULT_REFUSED, "set `user`" },
		{ 403, "{\"error\":\"etcdserver: permission denied\",\"code\":7}", ETCD_FAULT_REFUSED, "no right" },
		{ 400, "{\"error\":\"etcdserver: authentication failed, invalid user ID or password\"}", ETCD_FAULT_REFUSED, "password_file" },
		{ 412, "{\"error\":\"etcdserver: authentication is not enabled\",\"code\":9}", ETCD_FAULT_REFUSED, "take `user` out" },
		{ 404, "{\"error\":\"etcdserver: requested lease not found\",\"code\":5}", ETCD_FAULT_LEASE, "lease" },
		{ 503, "{\"error\":\"etcdserver: request timed out\",\"code\":14}", ETCD_FAULT_RETRY, "status 503: etcdserver: request timed out" },
		{ 302, "<html>\x1b[2J</html>", ETCD_FAULT_RETRY, "status 302: <html> [2J</html>" },
		{ 500, "", ETCD_FAULT_RETRY, "status 500" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char why[ETCD_WHY_SIZE];

		assert_int_equal(etcd_judge(cases[i].status, TEXT(cases[i].text), why), cases[i].fault);
		if (!strstr(why, cases[i].says))
			fail_msg("%s: %s", cases[i].text, why);
	}
}

static void test_requests(void **state)
{
	const struct etcd_op ops[] = { { .key = "hosts/a", .value = "x", .lease = 7 }, { .key = "hosts/b" } };
	char *text = etcd_build_txn("/s", ops, 2, "epoch", 5);

	assert_string_equal(text, "{\"compare\":[{\"key\":\"L3MvZXBvY2g=\",\"target\":\"MOD\",\"result\":\"EQUAL\",\"mod_revision\":\"5\"}],\"success\":["
				  "{\"request_put\":{\"key\":\"L3MvaG9zdHMvYQ==\",\"value\":\"eA==\",\"lease\":\"7\"}},"
				  "{\"request_delete_range\":{\"key\":\"L3MvaG9zdHMvYg==\"}}]}");
	free(text);
	text = etcd_build_watch("/sealane", 8);
	assert_string_equal(text, "{\"create_request\":{\"key\":\"L3NlYWxhbmUv\",\"range_end\":\"L3NlYWxhbmUw\",\"start_revision\":\"8\"}}");
	free(text);
	text = etcd_build_auth("u", "p\"w");
	assert_string_equal(text, "{\"name\":\"u\",\"password\":\"p\\\"w\"}");
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_keys),
		cmocka_unit_test(test_values_are_strict),
		cmocka_unit_test(test_an_intention_there_and_back),
		cmocka_unit_test(test_range),
		cmocka_unit_test(test_pages),
		cmocka_unit_test(test_range_lies),
		cmocka_unit_test(test_what_cannot_be_ours),
		cmocka_unit_test(test_watch),
		cmocka_unit_test(test_small_answers),
		cmocka_unit_test(test_judgements),
		cmocka_unit_test(test_requests),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
