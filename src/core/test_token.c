/* Join tokens, and what they are made of: SHA-256, HMAC, base64, hexadecimal. */
#include "core/token.h"

#include "core/base64.h"
#include "core/hmac.h"

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

static void assert_hmac(const void *key, size_t key_size, const void *data, size_t size, const char *expected)
{
	uint8_t mac[SHA256_SIZE], other[SHA256_SIZE];
	struct hmac h;
	char hex[65];

	hmac_init(&h, key, key_size);
	hmac_add(&h, data, size / 2); /* in two pieces */
	hmac_add(&h, (const uint8_t *)data + size / 2, size - size / 2);
	hmac_end(&h, mac);
	assert_string_equal(hex_encode(hex, mac, sizeof(mac)), expected);
	memcpy(other, mac, sizeof(mac));
	assert_true(hmac_is_equal(mac, other));
	for (size_t i = 0; i < 8 * sizeof(mac); i++) {
		other[i / 8] ^= (uint8_t)(1 << i % 8);
		assert_false(hmac_is_equal(mac, other));
		other[i / 8] ^= (uint8_t)(1 << i % 8);
	}
}

/* RFC 4231: cases 1, 2, 3 and 6, whose key is longer than a block. */
static void test_hmac(void **unused)
{
	uint8_t key[131], data[50];
	static const char big[] = "Test Using Larger Than Block-Size Key - Hash Key First";

	memset(key, 0x0b, 20);
	assert_hmac(key, 20, "Hi There", 8, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
	assert_hmac("Jefe", 4, "what do ya want for nothing?", 28, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
	memset(key, 0xaa, sizeof(key));
	memset(data, 0xdd, sizeof(data));
	assert_hmac(key, 20, data, sizeof(data), "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe");
	assert_hmac(key, sizeof(key), big, sizeof(big) - 1, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
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
		assert_int_equal(token_parse(&back, text), i < 4 ? -EINVAL : -EBADMSG);
		text[i] = '!';
		assert_int_equal(token_parse(&back, text), i < 4 ? -EINVAL : -EBADMSG);
		text[i] = saved == 'A' ? 'B' : 'A'; /* a letter that is another one */
		assert_int_equal(token_parse(&back, text), i < 4 ? -EINVAL : -EBADMSG);
		text[i] = saved;
	}
	strcat(text, "A");
	assert_int_equal(token_parse(&back, text), -EBADMSG);
	strcpy(t.address, "example.org:7443");
	assert_int_equal(token_parse(&back, token_format(text, &t)), -EINVAL);
	strcpy(t.address, "10.0.0.1:7443");
	strcpy(t.host, "A");
	assert_int_equal(token_parse(&back, token_format(text, &t)), -EINVAL);
	assert_int_equal(token_parse(&back, ""), -EINVAL);
	assert_int_equal(token_parse(&back, "sl2.AAAA"), -EINVAL);
	assert_string_equal(back.host, "untouched");
}

/* printf 'sealane join token v1\0' and 16 bytes of 0x42, through sha256sum. */
static void test_known(void **unused)
{
	uint8_t secret[TOKEN_SECRET_SIZE];
	struct token_known k;
	char hex[65];

	memset(secret, 0x42, sizeof(secret));
	token_known(&k, secret);
	assert_string_equal(hex_encode(hex, &k, sizeof(k)), "10b0a22f5b0bb45033478b53a9f6b22263a00752fc8e753a6b02bb03f42190ac");
	assert_string_equal(hex_encode(hex, k.id, sizeof(k.id)), "10b0a22f5b0bb45033478b53a9f6b222");
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
		cmocka_unit_test(test_sha256), cmocka_unit_test(test_hmac),	  cmocka_unit_test(test_base64), cmocka_unit_test(test_hex),
		cmocka_unit_test(test_token),  cmocka_unit_test(test_bad_tokens), cmocka_unit_test(test_addresses), cmocka_unit_test(test_known),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
