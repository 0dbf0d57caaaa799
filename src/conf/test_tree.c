#include "conf/tree.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static struct conf_error g_error;

static struct conf_tree *parse(const char *text)
{
	struct conf_tree *t = NULL;
	int r = conf_tree_parse(&t, "f", text, strlen(text), &g_error);

	if (r < 0)
		print_error("%s\n", g_error.text);
	assert_int_equal(r, 0);
	return t;
}

static void refused(const char *text, const char *error)
{
	struct conf_tree *t = NULL;

	assert_int_equal(conf_tree_parse(&t, "f", text, strlen(text), &g_error), -EINVAL);
	assert_null(t);
	assert_string_equal(g_error.text, error);
}

static const struct conf_node *member(const struct conf_node *n, size_t i)
{
	for (n = n->first; n && i > 0; i--)
		n = n->next;
	assert_non_null(n);
	return n;
}

static void three_forms_one_tree(void **state)
{
	static const char *const forms[] = {
		"service web { name = \"x\" list = [ a, 1 ] on = true }",
		"service \"web\" {\n\tname = \"x\"\n\tlist = [\n\t\"a\",\n\t1,\n\t]\n\ton = true\n}\n",
		"service web\n{ name: x; list: [a,1], on: true }",
		"# note\nservice /* a */ web { // b\n\"name\": \"x\", \"list\": [\"a\", 1], \"on\": true }",
		"{ service web { name x; list [ a, 1 ]; on true } }",
	};

	for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
		struct conf_tree *t = parse(forms[i]);
		const struct conf_node *s = member(conf_tree_root(t), 0);

		assert_int_equal(s->kind, CONF_OBJECT);
		assert_string_equal(s->key, "service");
		assert_string_equal(s->label, "web");
		assert_string_equal(member(s, 0)->string, "x");
		assert_int_equal(member(s, 1)->kind, CONF_ARRAY);
		assert_string_equal(member(member(s, 1), 0)->string, "a");
		assert_null(member(member(s, 1), 0)->key);
		assert_true(member(member(s, 1), 1)->number == 1);
		assert_true(member(s, 2)->boolean);
		assert_null(s->next);
		conf_tree_free(t);
	}
}

static void numbers_keep_their_text(void **state)
{
	static const struct {
		const char *text;
		enum conf_kind kind;
		double number;
	} cases[] = {
		{ "5", CONF_NUMBER, 5 },	  { "-2.5", CONF_NUMBER, -2.5 },    { "1e3", CONF_NUMBER, 1000 },
		{ "10k", CONF_NUMBER, 10000 },	  { "10mb", CONF_NUMBER, 10485760 }, { "250ms", CONF_NUMBER, 0.25 },
		{ "2min", CONF_NUMBER, 120 },	  { "0660", CONF_NUMBER, 660 },	    { "1d", CONF_NUMBER, 86400 },
		{ "0x10", CONF_STRING, 0 },	  { "1e999", CONF_STRING, 0 },	    { "nan", CONF_STRING, 0 },
		{ "inf", CONF_STRING, 0 },	  { "5x", CONF_STRING, 0 },	    { "0123456789ab", CONF_STRING, 0 },
		{ "2027-01-01T00:00:00Z", CONF_STRING, 0 }, { "prod/*", CONF_STRING, 0 }, { "*", CONF_STRING, 0 },
		{ "/run/x.sock", CONF_STRING, 0 }, { "null", CONF_NULL, 0 },	    { "true", CONF_BOOL, 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char text[64];
		struct conf_tree *t;
		const struct conf_node *n;

		snprintf(text, sizeof(text), "a = %s", cases[i].text);
		t = parse(text);
		n = member(conf_tree_root(t), 0);
		assert_int_equal(n->kind, cases[i].kind);
		assert_string_equal(n->string, cases[i].text);
		assert_true(fabs(n->number - cases[i].number) < 1e-9);
		conf_tree_free(t);
	}
}

static void strings_follow_json(void **state)
{
	struct conf_tree *t = parse("a = \"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e9\\u20ac\\ud83d\\ude00\xc3\xa9\"");

	assert_string_equal(member(conf_tree_root(t), 0)->string,
			    "\"\\/\b\f\n\r\tA\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xc3\xa9");
	conf_tree_free(t);
	refused("a = \"\\ud83d\"", "f:1:12: found half of a surrogate pair, expected \\uD8xx\\uDCxx");
	refused("a = \"\\ude00\"", "f:1:12: found half of a surrogate pair, expected \\uD8xx\\uDCxx");
	refused("a = \"\\ud83d\\u0041\"", "f:1:18: found half of a surrogate pair, expected \\uD8xx\\uDCxx");
	refused("a = \"\\u0000\"", "f:1:12: found \\u0000, which no string here can hold");
	refused("a = \"\\u00g0\"", "f:1:10: found 'g', expected four hexadecimal digits after \\u");
	refused("a = \"\\x\"", "f:1:7: found 'x', expected one of \" \\ / b f n r t u after the backslash");
	refused("a = \"\xff\"", "f:1:5: this string is not UTF-8");
	refused("a = \"\xed\xa0\x80\"", "f:1:5: this string is not UTF-8");
	refused("a = \"\xc0\xaf\"", "f:1:5: this string is not UTF-8");
	refused("a = \"x\nb = 1", "f:1:5: this string has no end, expected '\"' on the same line");
}

static void places_are_told(void **state)
{
	struct conf_tree *t = parse("a = 1\n/* two\nlines */  b {\n\tc = [ 1,\n  2 ]\n}");
	const struct conf_node *b = member(conf_tree_root(t), 1);

	assert_int_equal(b->line, 3);
	assert_int_equal(b->column, 11);
	assert_string_equal(b->file, "f");
	assert_int_equal(member(member(b, 0), 1)->line, 5);
	assert_int_equal(member(member(b, 0), 1)->column, 3);
	(void)conf_fail(&g_error, b, "found %s, expected %s", "y", "z");
	assert_string_equal(g_error.text, "f:3:11: key 'b': found y, expected z");
	(void)conf_fail(&g_error, member(member(b, 0), 1), "found \x1b[2J\xff");
	assert_string_equal(g_error.text, "f:5:3: key 'c': found ?[2J?");
	conf_tree_trim(t);
	assert_null(conf_tree_root(t)->first);
	assert_string_equal(conf_tree_root(t)->file, "f");
	conf_tree_free(t);
}

static void mistakes_are_told(void **state)
{
	refused("a =\nb = 1", "f:1:4: found the end of the line after key 'a', expected '=' and a value, or '{'");
	refused("a\nb = 1", "f:1:2: found the end of the line after key 'a', expected '=' and a value, or '{'");
	refused("a = }", "f:1:5: found '}', expected a value");
	refused("a = 'x'", "f:1:5: found a single quote, expected a value (strings stand in double quotes)");
	refused("a {\n b = 1", "f:2:7: found the end of the file, expected '}' for the '{' in line 1");
	refused("a = [ 1 2 ]", "f:1:9: found '2', expected ',' or ']' in this list");
	refused("a = [ 1,", "f:1:9: found the end of the file, expected a value");
	refused("} a = 1", "f:1:1: found '}', expected a key");
	refused("{ a: 1 } b", "f:1:10: found 'b', expected nothing after the '}' that ends the document");
	refused("a = 1 /* b", "f:1:7: this comment has no end, expected '*/'");
	refused("\x01", "f:1:1: found byte 0x01, expected a key");
	refused("a = \xc3\xa9", "f:1:5: found byte 0xc3, expected a value");
	refused("a", "f:1:2: found the end of the file, expected '=' and a value, or '{', after the key");
}

static void bounds_hold(void **state)
{
	size_t n = 0;
	char *text = malloc(4 << 20);
	struct conf_tree *t = NULL;

	assert_non_null(text);
	n = (size_t)sprintf(text, "a = ");
	memset(text + n, '[', 40);
	assert_int_equal(conf_tree_parse(&t, "f", text, n + 40, &g_error), -EINVAL);
	assert_string_equal(g_error.text, "f:1:37: found blocks nested more than 32 deep");

	memset(text + n, 'x', LIMIT_CONFIG_STRING_SIZE + 1);
	assert_int_equal(conf_tree_parse(&t, "f", text, n + LIMIT_CONFIG_STRING_SIZE, &g_error), 0);
	t = conf_tree_free(t);
	assert_int_equal(conf_tree_parse(&t, "f", text, n + LIMIT_CONFIG_STRING_SIZE + 1, &g_error), -EINVAL);
	text[n] = '"';
	assert_int_equal(conf_tree_parse(&t, "f", text, n + LIMIT_CONFIG_STRING_SIZE + 2, &g_error), -EINVAL);

	n = (size_t)sprintf(text, "a=[");
	for (size_t i = 0; i <= CONF_TREE_NODES_MAX; i++)
		n += (size_t)sprintf(text + n, "0,");
	assert_int_equal(conf_tree_parse(&t, "f", text, n, &g_error), -E2BIG);
	assert_int_equal(conf_tree_parse(&t, "f", text, LIMIT_CONFIG_SIZE + 1, &g_error), -E2BIG);
	free(text);
}

/* No NUL is needed at the end of the text, and one inside is no end. */
static void text_has_a_size(void **state)
{
	struct conf_tree *t = NULL;

	assert_int_equal(conf_tree_parse(&t, "f", "a = 1 b = 2", 5, &g_error), 0);
	assert_null(conf_tree_root(t)->first->next);
	t = conf_tree_free(t);
	assert_int_equal(conf_tree_parse(&t, "f", "a = 1\0b", 7, &g_error), -EINVAL);
	assert_string_equal(g_error.text, "f:1:6: found byte 0x00, expected a key");
	assert_int_equal(conf_tree_parse(&t, "f", "", 0, &g_error), 0);
	assert_null(conf_tree_root(t)->first);
	t = conf_tree_free(t);
	t = parse("\xef\xbb\xbf"
		  "a = 1");
	assert_int_equal(conf_tree_root(t)->first->column, 1);
	conf_tree_free(t);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(three_forms_one_tree), cmocka_unit_test(numbers_keep_their_text),
		cmocka_unit_test(strings_follow_json),	cmocka_unit_test(places_are_told),
		cmocka_unit_test(mistakes_are_told),	cmocka_unit_test(bounds_hold),
		cmocka_unit_test(text_has_a_size),
	};

	return cmocka_run_group_tests_name("conf/tree", tests, NULL, NULL);
}
