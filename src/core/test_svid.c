/* A certificate's own words, read without a library; and that no cut or changed one is read beyond its end. */
#include "core/svid.h"

#include "core/base64.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

/* openssl req -x509 -subj /CN=root -set_serial 0x00c0ffee1234 -addext "subjectAltName=critical,DNS:x,URI:spiffe://..." */
static const char g_web[] =
	"-----BEGIN CERTIFICATE-----\n"
	"MIIBrTCCAVOgAwIBAgIGAMD/7hI0MAoGCCqGSM49BAMCMA8xDTALBgNVBAMMBHJv\n"
	"b3QwHhcNMjYxMTIxMTU1NDQ0WhcNMzYxMTE4MTU1NDQ0WjAPMQ0wCwYDVQQDDARy\n"
	"b290MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEmb1bip2O7vE0T6nTrkHoHCxR\n"
	"/5fAp5O2vSTNyd0JigO2hbCBG4d+f8tpJQrFyfEkt2NStP1aZehtOZFnTXH+jKOB\n"
	"mjCBlzAdBgNVHQ4EFgQUYLoSJXHhsQffAxJwoMI4iOIZHr4wHwYDVR0jBBgwFoAU\n"
	"YLoSJXHhsQffAxJwoMI4iOIZHr4wDwYDVR0TAQH/BAUwAwEB/zA3BgNVHREBAf8E\n"
	"LTArggF4hiZzcGlmZmU6Ly9zZWFsYW5lLmxvY2FsL25zL3Byb2Qvc3ZjL3dlYjAL\n"
	"BgNVHQ8EBAMCB4AwCgYIKoZIzj0EAwIDSAAwRQIhAJ45vhzuJeNREo9GMzs1tui9\n"
	"26fXUx/LzXR6G/Y90Q9GAiANAakKEKYzEhqraH6MsNDjG6rKDzPZRi7mU9Y3NhFs\n"
	"CA==\n"
	"-----END CERTIFICATE-----\n";

/* P-384, until the year 2126 (GeneralizedTime), no subjectAltName. */
static const char g_other[] =
	"-----BEGIN CERTIFICATE-----\n"
	"MIIBrTCCATKgAwIBAgIUUyg+Kiq0WRSxSfCEhOZtSWAmqaowCgYIKoZIzj0EAwIw\n"
	"DDEKMAgGA1UEAwwBeTAgFw0yNjExMjExNTU0MzVaGA8yMTI2MTAyODE1NTQzNVow\n"
	"DDEKMAgGA1UEAwwBeTB2MBAGByqGSM49AgEGBSuBBAAiA2IABFkCjPM4KWTon3zc\n"
	"+IeaZ/PBBTauVrm5742eqyQqIQXKhIJoZAojAXNBBHK7Gt6UUqYq3yVXNdgmLFq9\n"
	"18GJXTSnACEcWqqX05jh3MkGp0FrlkfufiyNx5FKC3UvdlfT2qNTMFEwHQYDVR0O\n"
	"BBYEFONwx8xP7d4+OAaArovBonDxQhfCMB8GA1UdIwQYMBaAFONwx8xP7d4+OAaA\n"
	"rovBonDxQhfCMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDaQAwZgIxAK1C\n"
	"iR+IwyarIsSL91DeScaTTvbIJiUlAgCxUulRkFY9a7oEf6PBCpyCLw0DSDyF4gIx\n"
	"AK35WyZtcPaJSg2W5DWgn/nmNIpRf0FPmFn1qORjATjOA2Yv8ZIPzlSAVZPHdRf8\n"
	"ZA==\n"
	"-----END CERTIFICATE-----\n";

static void test_read(void **unused)
{
	static const uint8_t point[] = { 0x04, 0x99, 0xbd, 0x5b, 0x8a, 0x9d };
	struct svid s;
	uint8_t print[32];
	char hex[65];

	assert_int_equal(svid_read(&s, g_web, sizeof(g_web) - 1), 0);
	assert_string_equal(s.spiffe_id, "spiffe://sealane.local/ns/prod/svc/web");
	assert_string_equal(s.serial, "c0ffee1234");
	assert_int_equal(s.not_before, 1795276484);
	assert_int_equal(s.not_after, 2110636484);
	assert_memory_equal(s.point, point, sizeof(point));
	assert_int_equal(s.point[64], 0x8c);
	assert_int_equal(svid_fingerprint(print, g_web, sizeof(g_web) - 1), 0);
	assert_string_equal(hex_encode(hex, print, 32), "1ef5a9b3138a8898b5ed8a60a272bdda26ed6e8acd6382d5b9efc50934e411a8");
	/* What is signed, from the inner SEQUENCE's tag on, and by what. */
	assert_string_equal(hex_encode(hex, s.digest, 32), "e79d83f6e1d71b66ccef4bd542c99acef7a8b35ceb41fbbc6d60bae6eb0353c9");
	assert_int_equal(s.signature_size, 71);
	assert_memory_equal(s.signature, ((const uint8_t[]){ 0x30, 0x45, 0x02 }), 3);
}

static void test_other_kinds(void **unused)
{
	struct svid s;

	assert_int_equal(svid_read(&s, g_other, sizeof(g_other) - 1), 0);
	assert_string_equal(s.spiffe_id, "");
	assert_string_equal(s.serial, "53283e2a2ab45914b149f08484e66d496026a9aa");
	assert_int_equal(s.not_after, 4948876475);
	assert_int_equal(s.point[0], 0);
	assert_int_equal(s.signature_size, 0); /* too long for P-256 */
}

static void test_text_around(void **unused)
{
	char text[4096];
	struct svid s;
	int n = snprintf(text, sizeof(text), "subject=/CN=root\n\n%s%s", g_web, g_other);

	assert_int_equal(svid_read(&s, text, (size_t)n), 0);
	assert_string_equal(s.serial, "c0ffee1234");
}

/* One after another, until there is none. */
static void test_rest(void **unused)
{
	char text[4096];
	size_t n = (size_t)snprintf(text, sizeof(text), "%s%s", g_web, g_other);
	const char *at = svid_rest(text, n);
	struct svid s;

	assert_non_null(at);
	assert_int_equal(svid_read(&s, at, n - (size_t)(at - text)), 0);
	assert_string_equal(s.serial, "53283e2a2ab45914b149f08484e66d496026a9aa");
	at = svid_rest(at, n - (size_t)(at - text));
	assert_non_null(at);
	assert_null(svid_rest(at, n - (size_t)(at - text)));
	assert_null(svid_rest(text, n / 4));
	assert_null(svid_rest("", 0));
}

static void test_cut(void **unused)
{
	struct svid s = { .serial = "untouched" };

	for (size_t n = 0; n < sizeof(g_web) - 3; n++) {
		AUTO_FREE(char) copy = malloc(n + 1); /* so that a sanitizer sees the end */

		memcpy(copy, g_web, n);
		assert_int_equal(svid_read(&s, copy, n), -EINVAL);
	}
	assert_string_equal(s.serial, "untouched");
	assert_int_equal(svid_read(&s, "", 0), -EINVAL);
}

/* Whatever one bit becomes: an answer, and strings that end. */
static void test_changed(void **unused)
{
	char text[sizeof(g_web)];
	struct svid s;

	for (size_t i = 28; i < sizeof(g_web) - 28; i++) {
		memcpy(text, g_web, sizeof(g_web));
		for (int bit = 0; bit < 6; bit++) {
			text[i] ^= (char)(1 << bit);
			if (svid_read(&s, text, sizeof(text) - 1) == 0) {
				assert_true(strlen(s.spiffe_id) < sizeof(s.spiffe_id));
				assert_true(strlen(s.serial) < sizeof(s.serial));
			}
		}
	}
}

static void test_ids(void **unused)
{
	char id[LIMIT_SPIFFE_ID_SIZE], host[LIMIT_NAME_SIZE];
	struct service_name s;

	assert_string_equal(host_id_format(id, "sealane.local", "b"), "spiffe://sealane.local/host/b");
	assert_int_equal(host_id_parse(host, id, "sealane.local"), 0);
	assert_string_equal(host, "b");
	assert_int_equal(host_id_parse(host, id, "sealane.loca"), -EINVAL);
	assert_int_equal(host_id_parse(host, id, "other"), -EINVAL);
	assert_int_equal(host_id_parse(host, "spiffe://sealane.local/host/", "sealane.local"), -EINVAL);
	assert_int_equal(host_id_parse(host, "spiffe://sealane.local/host/a/b", "sealane.local"), -EINVAL);
	assert_int_equal(host_id_parse(host, "spiffe://sealane.local/ns/a/svc/b", "sealane.local"), -EINVAL);
	assert_int_equal(host_id_parse(host, "https://sealane.local/host/b", "sealane.local"), -EINVAL);
	assert_int_equal(spiffe_id_parse(&s, "spiffe://sealane.local/ns/a/svc/b", "sealane.local"), 0);
	assert_string_equal(s.ns, "a");
	assert_string_equal(s.name, "b");
	assert_int_equal(spiffe_id_parse(&s, "spiffe://sealane.local/ns/a/svc/b/c", "sealane.local"), -EINVAL);
	assert_int_equal(spiffe_id_parse(&s, "spiffe://sealane.local/ns/a", "sealane.local"), -EINVAL);
	assert_int_equal(spiffe_id_parse(&s, "spiffe://sealane.local/ns//svc/b", "sealane.local"), -EINVAL);
	assert_int_equal(spiffe_id_parse(&s, "spiffe://sealane.local/host/b", "sealane.local"), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_read),	cmocka_unit_test(test_other_kinds), cmocka_unit_test(test_text_around),
		cmocka_unit_test(test_cut),	cmocka_unit_test(test_changed),	    cmocka_unit_test(test_ids),
		cmocka_unit_test(test_rest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
