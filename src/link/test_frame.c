#include "link/frame.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static struct frame parse(const uint8_t *bytes, size_t size, bool from_client, enum frame_purpose purpose)
{
	struct frame f;
	const char *why = "";
	ssize_t n;

	/* Not before all of it is there, and never a byte more. */
	for (size_t i = 0; i < size; i++)
		assert_int_equal(frame_parse(&f, bytes, i, from_client, purpose, &why), 0);
	n = frame_parse(&f, bytes, size + 1, from_client, purpose, &why);
	if (n < 0)
		fail_msg("%s", why);
	assert_int_equal(n, size);
	return f;
}

static void test_what_is_put_is_read(void **state)
{
	uint8_t to[FRAME_SIZE_MAX + 1], bytes[FRAME_PAYLOAD_MAX] = { 1, 2, 3 };
	struct frame f;

	f = parse(to, frame_put_hello(to, 0x12345, FRAME_HAS_RDMA | 0x8000), true, FRAME_FOR_CA);
	assert_int_equal(f.u.hello.window, 0x12345);
	assert_int_equal(f.u.hello.has, FRAME_HAS_RDMA | 0x8000); /* bits that nobody knows yet are no fault */
	f = parse(to, frame_put_open(to, 0xfffffffe, LINK_STREAM, "default/redis"), true, FRAME_FOR_LANES);
	assert_int_equal(f.lane, 0xfffffffe);
	assert_int_equal(f.u.open.kind, LINK_STREAM);
	assert_string_equal(f.u.open.destination, "default/redis");
	f = parse(to, frame_put_refused(to, 1, LINK_DOWN, "it does\nnot \xff listen"), false, FRAME_FOR_LANES);
	assert_int_equal(f.u.refused.code, LINK_DOWN);
	assert_string_equal(f.u.refused.why, "it does?not ? listen");
	f = parse(to, frame_put_credit(to, 1, 70000), true, FRAME_FOR_LANES);
	assert_int_equal(f.u.credit, 70000);
	f = parse(to, frame_put_code(to, 1, LINK_CUT), true, FRAME_FOR_LANES);
	assert_int_equal(f.u.code, LINK_CUT);
	f = parse(to, frame_put_ping(to, FRAME_PONG, UINT64_C(0x123456789abcdef0)), false, FRAME_FOR_HOSTS);
	assert_int_equal(f.u.ping, UINT64_C(0x123456789abcdef0));
	f = parse(to, frame_put_empty(to, 0, FRAME_GOAWAY), false, FRAME_FOR_LANES);
	assert_int_equal(f.type, FRAME_GOAWAY);
	f = parse(to, frame_put_proof(to, bytes, 70, bytes, 1000), true, FRAME_FOR_LANES);
	assert_int_equal(f.u.proof.signature_size, 70);
	assert_int_equal(f.u.proof.certificates_size, 1000);
	assert_memory_equal(f.u.proof.certificates, bytes, 1000);
	frame_put_header(to, 9, FRAME_DATA, FRAME_MORE, FRAME_PAYLOAD_MAX);
	f = parse(to, FRAME_SIZE_MAX, false, FRAME_FOR_LANES);
	assert_int_equal(f.size, FRAME_PAYLOAD_MAX);
	assert_int_equal(f.flags, FRAME_MORE);
	for (uint8_t tag = 0; tag <= FRAME_TAG_MAX; tag++) {
		frame_put_header(to, 9, FRAME_DATA, frame_data_flags(tag % 2, tag), tag % 2);
		f = parse(to, FRAME_HEADER_SIZE + tag % 2, true, FRAME_FOR_LANES);
		assert_int_equal(f.flags & FRAME_MORE, tag % 2);
		assert_int_equal(frame_tag(f.flags), tag);
		assert_int_equal(frame_data_size(to), tag % 2);
		assert_int_equal(frame_data_flags_of(to), f.flags);
	}
}

/* docs/design/link.md, byte by byte. */
static void test_layout(void **state)
{
	uint8_t to[64];
	static const uint8_t open[] = { 4, 3, 2, 1, 5, 0, 2, 0, 1, 0, 'a', '/', 'b' };
	static const uint8_t hello[] = { 0, 0, 0, 0, 8, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 0 };

	assert_int_equal(frame_put_open(to, 0x01020304, LINK_STREAM, "a/b"), sizeof(open));
	assert_memory_equal(to, open, sizeof(open));
	assert_int_equal(frame_put_hello(to, 256 << 10, 0), sizeof(hello));
	assert_memory_equal(to, hello, sizeof(hello));
	for (unsigned i = 1; i < FRAME_TYPE_N; i++)
		assert_string_not_equal(frame_name(i), "unknown");
	assert_string_equal(frame_name(0), "unknown");
	assert_string_equal(frame_name(FRAME_TYPE_N), "unknown");
}

static void test_bad_headers_are_told_at_once(void **state)
{
	uint8_t to[FRAME_HEADER_SIZE];
	const char *why;
	struct frame f;

	frame_put_header(to, 1, FRAME_DATA, 0, 1);
	to[5] = 0xff; /* a size that no frame has: its bytes are not waited for */
	assert_int_equal(frame_parse(&f, to, sizeof(to), true, FRAME_FOR_LANES, &why), -EPROTO);
	frame_put_header(to, 0, FRAME_DATA, 0, 1);
	assert_int_equal(frame_parse(&f, to, sizeof(to), true, FRAME_FOR_LANES, &why), -EPROTO);
	frame_put_header(to, 1, FRAME_DATA, 0, 1);
	assert_int_equal(frame_parse(&f, to, sizeof(to), true, FRAME_FOR_HOSTS, &why), -EPROTO);
	frame_put_header(to, 1, FRAME_DATA, FRAME_MORE, 0);
	assert_int_equal(frame_parse(&f, to, sizeof(to), true, FRAME_FOR_LANES, &why), -EPROTO);
	for (unsigned flag = 2; flag <= 8; flag *= 2) {
		frame_put_header(to, 1, FRAME_DATA, (uint8_t)flag, 1);
		assert_int_equal(frame_parse(&f, to, sizeof(to), true, FRAME_FOR_LANES, &why), -EPROTO);
	}
	frame_put_header(to, 0, FRAME_ANNOUNCE, frame_data_flags(false, 1), 1);
	assert_int_equal(frame_parse(&f, to, sizeof(to), false, FRAME_FOR_HOSTS, &why), -EPROTO);
}

static void test_too_large_a_proof(void **state)
{
	uint8_t to[FRAME_SIZE_MAX], bytes[FRAME_PAYLOAD_MAX] = {};

	assert_int_equal(frame_put_proof(to, bytes, 70, bytes, FRAME_PAYLOAD_MAX - 72), FRAME_SIZE_MAX);
	assert_int_equal(frame_put_proof(to, bytes, 70, bytes, FRAME_PAYLOAD_MAX - 71), 0);
	assert_int_equal(frame_put_proof(to, bytes, SIGNATURE_SIZE + 1, bytes, 1), 0);
}

static void test_rdma_steps(void **state)
{
	uint8_t to[FRAME_RDMA_SIZE_MAX + 1], key[FRAME_RDMA_KEY_SIZE] = { 1, 2, 3 };
	static const uint8_t ask[] = { 0, 0, 0, 0, 10, 0, 16, 0, 1, 8, 7, 6, 5, 4, 3, 2, 1, 20 };
	struct frame f;

	assert_int_equal(frame_put_rdma_ask(to, UINT64_C(0x0102030405060708), 20), sizeof(ask));
	assert_memory_equal(to, ask, sizeof(ask));
	f = parse(to, sizeof(ask), true, FRAME_FOR_LANES);
	assert_int_equal(f.u.rdma.step, RDMA_ASK);
	assert_int_equal(f.u.rdma.number, UINT64_C(0x0102030405060708));
	assert_int_equal(f.u.rdma.cap_log2, 20);
	f = parse(to, frame_put_rdma_here(to, 7, "[fd00::2]:7444"), false, FRAME_FOR_LANES);
	assert_int_equal(f.u.rdma.number, 7);
	assert_string_equal(f.u.rdma.address, "[fd00::2]:7444");
	f = parse(to, frame_put_rdma_key(to, key), true, FRAME_FOR_LANES);
	assert_memory_equal(f.u.rdma.key, key, sizeof(key));
	f = parse(to, frame_put_rdma_switch(to), false, FRAME_FOR_LANES);
	assert_int_equal(f.u.rdma.step, RDMA_SWITCH);
	f = parse(to, frame_put_rdma_no(to, "no\ndevice"), true, FRAME_FOR_LANES);
	assert_string_equal(f.u.rdma.why, "no?device");
	f = parse(to, frame_put_rdma_no(to, ""), true, FRAME_FOR_LANES);
	assert_string_equal(f.u.rdma.why, "");
}

static void refuse(const uint8_t *bytes, size_t size, bool from_client, enum frame_purpose purpose)
{
	const char *why = NULL;
	struct frame f;

	assert_int_equal(frame_parse(&f, bytes, size, from_client, purpose, &why), -EPROTO);
	assert_non_null(why);
}

static void test_bad_rdma_steps(void **state)
{
	uint8_t to[FRAME_RDMA_SIZE_MAX + 1] = {}, key[FRAME_RDMA_KEY_SIZE] = {};

	refuse(to, frame_put_rdma_ask(to, 1, 20), false, FRAME_FOR_LANES);
	refuse(to, frame_put_rdma_here(to, 1, "10.0.0.1:7444"), true, FRAME_FOR_LANES);
	refuse(to, frame_put_rdma_ask(to, 0, 20), true, FRAME_FOR_LANES);
	refuse(to, frame_put_rdma_here(to, 1, "somewhere"), false, FRAME_FOR_LANES);
	refuse(to, frame_put_rdma_here(to, 1, ""), false, FRAME_FOR_LANES);
	refuse(to, frame_put_rdma_switch(to), true, FRAME_FOR_HOSTS);
	refuse(to, frame_put_rdma_switch(to), true, FRAME_FOR_CA);
	frame_put_rdma_switch(to);
	for (unsigned step = 0; step < 256; step++) {
		to[8] = (uint8_t)step; /* of one byte, only SWITCH and NO can be */
		if (step != RDMA_SWITCH && step != RDMA_NO)
			refuse(to, FRAME_HEADER_SIZE + 1, true, FRAME_FOR_LANES);
	}
	frame_put_rdma_key(to, key);
	to[4]++; /* a key with a byte behind it */
	refuse(to, FRAME_HEADER_SIZE + 2 + FRAME_RDMA_KEY_SIZE, true, FRAME_FOR_LANES);
	frame_put_rdma_switch(to);
	to[0] = 1; /* on a lane */
	refuse(to, FRAME_HEADER_SIZE + 1, true, FRAME_FOR_LANES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_put_is_read),
		cmocka_unit_test(test_layout),
		cmocka_unit_test(test_bad_headers_are_told_at_once),
		cmocka_unit_test(test_too_large_a_proof),
		cmocka_unit_test(test_rdma_steps),
		cmocka_unit_test(test_bad_rdma_steps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
