/* Join tokens, and what they are made of: SHA-256, base64, hexadecimal. */
#include "core/token.h"

#include "core/base64.h"
#include "core/sha256.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void assert_sha256(const char *text, size_t n, const char *expected)
{
	uint8_t digest[SHA256_SIZE];
	char hex[65];

	sha256(digest, text, n);
	assert_string_equal(hex_encode(hex, digest, sizeof(digest)), expected);
}

/* The examples of FIPS 180-4's own test vectors (NIST CAVP). */
static void test_sha256(void **unused)
{
	static const char two_blocks[] = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
	struct sha256 s;
	uint8_t digest[SHA256_SIZE];
	char hex[65];

	assert_sha256("", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	assert_sha256("abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	assert_sha256(two_blocks, strlen(two_blocks), "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
	sha256_init(&s);
	for (int i = 0; i < 1000000; i++)
		sha256_add(&s, "a", 1);
	sha256_end(&s, digest);
	assert_string_equal(hex_encode(hex, digest, sizeof(digest)), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

/* RFC 4648, section 10. */
static void test_base64(void **unused)
{
	static const char *const texts[] = { "", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy" };
	static const char *const bad[] = { "Z", "Zg", "Zg=", "Zh==", "Zm9", "Zm9v=", "Zg==Zg==", "Zm 8", "Zm8=\n", "Zm-_", "====" };
	char buf[64];

	for (size_t n = 0; n < ARRAY_SIZE(texts); n++) {
		assert_string_equal(base64_encode(buf, "foobar", n, BASE64_STD), texts[n]);
		assert_int_equal(base64_decode(buf, sizeof(buf), texts[n], strlen(texts[n]), BASE64_STD), n);
		assert_memory_equal(buf, "foobar", n);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(base64_decode(buf, sizeof(buf), bad[i], strlen(bad[i]), BASE64_STD), -EINVAL);
	assert_int_equal(base64_decode(buf, 2, "Zm9v", 4, BASE64_STD), -EMSGSIZE);
	assert_string_equal(base64_encode(buf, "\xfb\xff\xfe", 3, BASE64_URL), "-__-");
	assert_string_equal(base64_encode(buf, "\xfb\xff", 2, BASE64_URL), "-_8");
	assert_int_equal(base64_decode(buf, sizeof(buf), "-_8", 3, BASE64_URL), 2);
	assert_int_equal(base64_decode(buf, sizeof(buf), "-_8=", 4, BASE64_URL), -EINVAL);
}

static void test_hex(void **unused)
{
	uint8_t bytes[3];
	char text[7];

	assert_int_equal(hex_decode(bytes, 3, "00a9ff"), 0);
	assert_string_equal(hex_encode(text, bytes, 3), "00a9ff");
	assert_int_equal(hex_decode(bytes, 3, "00a9f"), -EINVAL);
	assert_int_equal(hex_decode(bytes, 3, "00a9ffff"), -EINVAL);
	assert_int_equal(hex_decode(bytes, 3, "00A9FF"), -EINVAL);
}

static struct token example(void)
{
	struct token t = { .address = "10.0.0.1:7443", .host = "a" };

	memset(t.root, 0xab, sizeof(t.root));
	memset(t.secret, 0x5f, sizeof(t.secret));
	return t;
}

static void test_token(void **unused)
{
	struct token t = example(), back;
	char text[TOKEN_TEXT_SIZE], padded[TOKEN_TEXT_SIZE + 8];

	token_format(text, &t);
	assert_memory_equal(text, "sl1.q6ur", 8);
	assert_int_equal(token_parse(&back, text), 0);
	assert_memory_equal(&back, &t, sizeof(t));
	strcpy(padded, "  ");
	strcat(padded, text);
	strcat(padded, "\r\n");
	assert_int_equal(token_parse(&back, padded), 0);
	/* The longest that can be. */
	strcpy(t.address, "[1111:2222:3333:4444:5555:6666:7777:8888]:65535");
	memset(t.host, 'h', LIMIT_NAME_SIZE - 1);
	assert_int_equal(token_parse(&back, token_format(text, &t)), 0);
	assert_memory_equal(&back, &t, sizeof(t));
}

static void test_bad_tokens(void **unused)
{
	struct token t = example(), back = { .host = "untouched" };
	char text[TOKEN_TEXT_SIZE + 8];
	size_t n = strlen(token_format(text, &t));

	for (size_t i = 0; i < n; i++) {
		char saved = text[i];

		text[i] = '\0';
		assert_int_equal(token_parse(&back, text), -EINVAL);
		text[i] = '!';
		assert_int_equal(token_parse(&back, text), -EINVAL);
		text[i] = saved;
	}
	strcat(text, "A");
	assert_int_equal(token_parse(&back, text), -EINVAL);
	strcpy(t.address, "example.org:7443");
	assert_int_equal(token_parse(&back, token_format(text, &t)), -EINVAL);
	strcpy(t.address, "10.0.0.1:7443");
	strcpy(t.host, "A");
	assert_int_equal(token_parse(&back, token_format(text, &t)), -EINVAL);
	assert_int_equal(token_parse(&back, ""), -EINVAL);
	assert_int_equal(token_parse(&back, "sl2.AAAA"), -EINVAL);
	assert_string_equal(back.host, "untouched");
}

static void test_addresses(void **unused)
{
	static const char *const good[] = { "10.0.0.1:7443", "255.255.255.255:1", "[fd00::1]:65535", "[::]:7443" };
	static const char *const bad[] = { "", ":", "10.0.0.1", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:7443x", "10.0.0:1", "10.0.0.1.2:1",
					   "256.0.0.1:1", "fd00::1:7443", "[fd00::1]", "[]:1", "[10.0.0.1]:1", "a.example:1", "10.0.0.1:+1", "10.0.0.1: 1" };

	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_true(address_is_valid(good[i]));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(address_is_valid(bad[i]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sha256), cmocka_unit_test(test_base64),	  cmocka_unit_test(test_hex),
		cmocka_unit_test(test_token),  cmocka_unit_test(test_bad_tokens), cmocka_unit_test(test_addresses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
