/*
 * A peer that is not ours, over real TCP and real TLS: each way to be refused by the table of docs/design/link.md, and each kind of malformed or
 * untimely frame. The linker under test is alive afterwards, and its other lanes are not touched (bed_stop(), bystander).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "daemon/test_linker_lib.h"
#include "link/frame.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

struct rig {
	struct bed bed;
	struct bed_lane bystander;
};

static int rig_start(struct rig *r, void **state)
{
	bed_start(&r->bed);
	r->bystander = bed_lane(&r->bed);
	bed_hear_session(&r->bed, BED_A, SESSION_UP);
	bed_hear_session(&r->bed, BED_B, SESSION_UP);
	*state = r;
	return 0;
}

static int setup(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	bed_init(&r->bed);
	r->bed.handshake_ms = 0; /* whoever is silent is given up */
	return rig_start(r, state);
}

static void echo(struct bed_lane *l)
{
	char buf[4];

	assert_int_equal(send(l->client, "ping", 4, MSG_NOSIGNAL), 4);
	assert_int_equal(recv(l->server, buf, 4, MSG_WAITALL), 4);
	assert_int_equal(send(l->server, "pong", 4, MSG_NOSIGNAL), 4);
	assert_int_equal(recv(l->client, buf, 4, MSG_WAITALL), 4);
}

static int teardown(void **state)
{
	struct rig *r = *state;

	echo(&r->bystander);
	bed_lane_close(&r->bystander);
	bed_stop(&r->bed);
	free(r);
	return 0;
}

/* A client of our own making. */
struct raw {
	int fd;
	SSL_CTX *ctx;
	SSL *ssl;
};

struct raw_options {
	X509 *cert; /* taken */
	EVP_PKEY *key;
	const char *alpn;
	int max_version;
	uint8_t from; /* 127.0.0.@from; 0: 1 */
};

static struct raw raw_open(struct bed *b, const struct raw_options *o)
{
	struct raw r = { .fd = bed_dial_from(b, BED_B, o->from ? o->from : 1), .ctx = SSL_CTX_new(TLS_client_method()) };
	const char *alpn = o->alpn ? o->alpn : "sealane-link/1";
	uint8_t wire[64] = { (uint8_t)strlen(alpn) };
	struct timeval timeout = { .tv_sec = 10 };

	assert_int_equal(setsockopt(r.fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)), 0);
	memcpy(wire + 1, alpn, wire[0]);
	if (o->cert) {
		assert_int_equal(SSL_CTX_use_certificate(r.ctx, o->cert), 1);
		assert_int_equal(SSL_CTX_use_PrivateKey(r.ctx, o->key), 1);
		X509_free(o->cert);
	}
	if (o->max_version)
		SSL_CTX_set_max_proto_version(r.ctx, o->max_version);
	SSL_CTX_set_alpn_protos(r.ctx, wire, wire[0] + 1u);
	r.ssl = SSL_new(r.ctx);
	SSL_set_fd(r.ssl, r.fd);
	(void)!SSL_connect(r.ssl);
	return r;
}

static void raw_close(struct raw *r)
{
	SSL_free(r->ssl);
	SSL_CTX_free(r->ctx);
	close(r->fd);
	ERR_clear_error();
}

static void raw_put(struct raw *r, const void *bytes, size_t size)
{
	(void)!SSL_write(r->ssl, bytes, (int)size); /* it may be gone already */
}

/* What a client showed, and what came of it at b. */

static EVP_PKEY *new_key(void)
{
	EVP_PKEY *key = NULL;

	assert_int_equal(pki_new_key(&key), 0);
	return key;
}

static void expect_refusal(struct bed *b, struct raw_options o, const char *reason)
{
	struct raw r = raw_open(b, &o);
	struct role_session s;
	char byte;

	(void)!SSL_read(r.ssl, &byte, 1); /* TLS 1.3: the client thinks that it is done before the server has judged */
	s = bed_hear_session(b, BED_B, SESSION_REFUSED);
	if (strcmp(session_reason_name(s.reason), reason) != 0)
		print_error("%s: %s\n", session_reason_name(s.reason), s.why);
	assert_string_equal(session_reason_name(s.reason), reason);
	assert_true(s.why[0] != '\0');
	assert_non_null(strstr(s.address, "127.0.0.1:"));
	raw_close(&r);
	EVP_PKEY_free(o.key);
}

static void test_refused_certificates(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed, other = {};
	const char *web = "spiffe://" BED_DOMAIN "/ns/default/svc/web";
	EVP_PKEY *key;
	X509 *x;
	char serial[2 * 20 + 8];
	struct pki_identity who;
	char why[200];

	expect_refusal(b, (struct raw_options){}, "no-certificate");

	other.root_key = new_key();
	assert_int_equal(pki_make_root(&other.root, other.root_key, BED_DOMAIN, time(NULL) - 60, time(NULL) + 86400), 0);
	key = new_key();
	expect_refusal(b, (struct raw_options){ .cert = bed_certificate(&other, key, web, -60, 600), .key = key }, "untrusted");
	X509_free(other.root);
	EVP_PKEY_free(other.root_key);

	key = new_key();
	expect_refusal(b, (struct raw_options){ .cert = bed_certificate(b, key, web, -600, -300), .key = key }, "expired");
	key = new_key();
	expect_refusal(b, (struct raw_options){ .cert = bed_certificate(b, key, web, 300, 600), .key = key }, "not-yet-valid");
	key = new_key();
	expect_refusal(b, (struct raw_options){ .cert = bed_certificate(b, key, "spiffe://example.com/ns/default/svc/web", -60, 600), .key = key },
		       "bad-identity");
	key = new_key();
	expect_refusal(b, (struct raw_options){ .cert = bed_certificate(b, key, "https://" BED_DOMAIN "/", -60, 600), .key = key }, "bad-identity");
	/* A service has nothing to ask of an authority. */
	key = new_key();
	expect_refusal(b, (struct raw_options){ .cert = bed_certificate(b, key, web, -60, 600), .key = key, .alpn = "sealane-ca/1" }, "bad-identity");

	key = new_key();
	x = bed_certificate(b, key, "spiffe://" BED_DOMAIN "/ns/default/svc/other", -60, 600);
	assert_int_equal(pki_identity(&who, x, BED_DOMAIN, why, sizeof(why)), 0);
	snprintf(serial, sizeof(serial), "serial:%s", who.serial);
	bed_revoke(b, BED_B, serial);
	expect_refusal(b, (struct raw_options){ .cert = x, .key = key }, "revoked");
}

static void test_refused_protocols(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed;
	EVP_PKEY *key = new_key();
	const char *web = "spiffe://" BED_DOMAIN "/ns/default/svc/web";
	struct role_session s;
	int fd;

	expect_refusal(b, (struct raw_options){ .cert = bed_certificate(b, key, web, -60, 600), .key = key, .alpn = "h2" }, "protocol");
	key = new_key();
	expect_refusal(b, (struct raw_options){ .cert = bed_certificate(b, key, web, -60, 600), .key = key, .max_version = TLS1_2_VERSION }, "protocol");
	fd = bed_dial(b, BED_B);
	assert_int_equal(send(fd, "GET / HTTP/1.0\r\n\r\n", 18, MSG_NOSIGNAL), 18);
	s = bed_hear_session(b, BED_B, SESSION_REFUSED);
	assert_int_equal(s.reason, SESSION_PROTOCOL);
	close(fd);
	fd = bed_dial(b, BED_B); /* says nothing at all */
	s = bed_hear_session(b, BED_B, SESSION_DOWN);
	assert_int_equal(s.reason, SESSION_TIMEOUT);
	close(fd);
}

/* Frames. */

struct bytes {
	uint8_t at[3 * FRAME_SIZE_MAX];
	size_t size;
};

static void add(struct bytes *y, uint32_t lane, unsigned type, unsigned flags, const void *payload, size_t size)
{
	frame_put_header(y->at + y->size, lane, type, (uint8_t)flags, size);
	memcpy(y->at + y->size + FRAME_HEADER_SIZE, payload, size);
	y->size += FRAME_HEADER_SIZE + size;
}

static void add_hello(struct bytes *y)
{
	y->size += frame_put_hello(y->at + y->size, 65536, 0);
}

static void add_open(struct bytes *y, uint32_t lane)
{
	y->size += frame_put_open(y->at + y->size, lane, LINK_SOCKET, BED_REDIS);
}

static struct raw raw_client_from(struct bed *b, const char *spiffe_id, const char *alpn, uint8_t from)
{
	EVP_PKEY *key = new_key();
	struct raw_options o = { .cert = spiffe_id ? bed_certificate(b, key, spiffe_id, -60, 600) : NULL, .key = key, .alpn = alpn, .from = from };
	struct raw r = raw_open(b, &o);

	EVP_PKEY_free(key);
	return r;
}

static struct raw raw_client(struct bed *b, const char *spiffe_id, const char *alpn)
{
	return raw_client_from(b, spiffe_id, alpn, 0);
}

/* Somebody with a certificate, from 127.0.0.@from. Return: how long that took, in ms. */
static uint64_t comes_in(struct bed *b, uint8_t from)
{
	uint64_t began_ns = clock_ns();
	struct raw c = raw_client_from(b, "spiffe://" BED_DOMAIN "/ns/default/svc/web", NULL, from);
	struct bytes y = {};
	char byte;

	add_hello(&y);
	raw_put(&c, y.at, y.size);
	assert_true(SSL_read(c.ssl, &byte, 1) == 1); /* its HELLO */
	raw_close(&c);
	return (clock_ns() - began_ns) / 1000000;
}

/* b ends the session for it, with this line. */
static void expect_fault_as(struct bed *b, const char *spiffe_id, const char *alpn, const struct bytes *y, const char *why)
{
	struct raw r = raw_client(b, spiffe_id, alpn);
	struct role_session s;
	struct role_msg m;

	raw_put(&r, y->at, y->size);
	do {
		m = bed_hear(b, BED_B, LB_SESSION, NULL);
		s = m.u.session;
	} while (s.state == SESSION_UP);
	if (strcmp(s.why, why) != 0)
		print_error("expected \"%s\", heard \"%s\"\n", why, s.why);
	assert_string_equal(s.why, why);
	assert_string_equal(session_reason_name(s.reason), "protocol");
	raw_close(&r);
}

static void expect_fault(struct bed *b, const struct bytes *y, const char *why)
{
	expect_fault_as(b, "spiffe://" BED_DOMAIN "/ns/default/svc/web", NULL, y, why);
}

/* HELLO, and then one frame that does not fit in. */
static void expect_frame_fault(struct bed *b, uint32_t lane, unsigned type, unsigned flags, const void *payload, size_t size, const char *why)
{
	struct bytes y = {};

	add_hello(&y);
	add(&y, lane, type, flags, payload, size);
	expect_fault(b, &y, why);
}

static void test_malformed_frames(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed;
	static uint8_t zeros[FRAME_PAYLOAD_MAX];

	expect_frame_fault(b, 0, 77, 0, "", 0, "a frame of an unknown type");
	expect_frame_fault(b, 0, 0, 0, "", 0, "a frame of an unknown type");
	expect_frame_fault(b, 1, FRAME_OPENED, 0, "", 0, "a frame from the wrong side");
	expect_frame_fault(b, 1, FRAME_REFUSED, 0, "\1", 1, "a frame from the wrong side");
	expect_frame_fault(b, 0, FRAME_CA_ASK, 0, "{}", 2, "a frame that this kind of session does not have");
	expect_frame_fault(b, 0, FRAME_ANNOUNCE, 0, "", 0, "a frame from the wrong side");
	expect_frame_fault(b, 0, FRAME_OPEN, 0, "\0\0a/b", 5, "a lane's frame without a lane");
	expect_frame_fault(b, 1, FRAME_PING, 0, zeros, 8, "a session's frame on a lane");
	expect_frame_fault(b, 0, FRAME_PING, FRAME_MORE, zeros, 8, "a frame with flags it cannot have");
	expect_frame_fault(b, 1, FRAME_DATA, 2, "x", 1, "a frame with flags it cannot have");
	expect_frame_fault(b, 1, FRAME_DATA, FRAME_MORE, "", 0, "an empty piece of a message");
	expect_frame_fault(b, 0, FRAME_PING, 0, zeros, 9, "a frame of a size it cannot have");
	expect_frame_fault(b, 1, FRAME_OPEN, 0, "\4\0a/b", 5, "OPEN of an unknown kind");
	expect_frame_fault(b, 1, FRAME_OPEN, 0, "\0\1a/b", 5, "OPEN of an unknown kind");
	expect_frame_fault(b, 1, FRAME_OPEN, 0, "\0\0a/b/c", 7, "OPEN for something that is no service name");
	expect_frame_fault(b, 1, FRAME_OPEN, 0, "\0\0redis", 7, "OPEN for something that is no service name");
	expect_frame_fault(b, 1, FRAME_OPEN, 0, "\0\0a/b\0c", 7, "OPEN for something that is no service name");
	expect_frame_fault(b, 0, FRAME_PROOF, 0, zeros, 100, "PROOF with a signature of a size it cannot have");
	expect_frame_fault(b, 0, FRAME_PROOF, 0, "\10\0xxxxxxxxnot certificates", 26, "PROOF with something else than certificates");
	expect_frame_fault(b, 0, FRAME_HELLO, 0, "\1\0\0\0\0\0\1\0", 8, "HELLO for the second time");
}

static void test_malformed_hello(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed;
	struct bytes y = {};

	add(&y, 0, FRAME_HELLO, 0, "\2\0\0\0\0\0\1\0", 8);
	expect_fault(b, &y, "HELLO of another version");
	y.size = 0;
	add(&y, 0, FRAME_HELLO, 0, "\1\0\0\0\0\0\0\0", 8);
	expect_fault(b, &y, "HELLO with a window out of bounds");
	y.size = 0;
	add(&y, 0, FRAME_HELLO, 0, "\1\0\0\0\1\0\0\1", 8);
	expect_fault(b, &y, "HELLO with a window out of bounds");
	y.size = 0;
	add_open(&y, 1);
	expect_fault(b, &y, "something else before HELLO");
}

static void test_untimely_frames(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed;
	static uint8_t zeros[FRAME_PAYLOAD_MAX];
	static struct bytes y;

	expect_frame_fault(b, 5, FRAME_DATA, 0, "x", 1, "a frame for a lane that was never opened");
	expect_frame_fault(b, 5, FRAME_CREDIT, 0, "\1\0\0\0", 4, "a frame for a lane that was never opened");
	expect_frame_fault(b, 5, FRAME_CREDIT, 0, zeros, 4, "CREDIT out of bounds");
	expect_frame_fault(b, 5, FRAME_FIN, 0, "", 0, "a frame for a lane that was never opened");
	expect_frame_fault(b, 5, FRAME_RESET, 0, "\6", 1, "a frame for a lane that was never opened");
	expect_frame_fault(b, 5, FRAME_RESET, 0, "\0", 1, "RESET with an unknown code");
	add_hello(&y);
	add_open(&y, 7);
	add_open(&y, 7);
	expect_fault(b, &y, "OPEN of a lane number that was used before");
	y.size = 0;
	add_hello(&y);
	add_open(&y, 7);
	add_open(&y, 6);
	expect_fault(b, &y, "OPEN of a lane number that was used before");
	y.size = 0;
	add_hello(&y);
	add_open(&y, 1);
	add(&y, 1, FRAME_FIN, 0, "", 0);
	add(&y, 1, FRAME_DATA, 0, "x", 1);
	expect_fault(b, &y, "DATA where it may not be");
	y.size = 0;
	add_hello(&y);
	add_open(&y, 1);
	add(&y, 1, FRAME_FIN, 0, "", 0);
	add(&y, 1, FRAME_FIN, 0, "", 0);
	expect_fault(b, &y, "FIN for the second time");
	y.size = 0;
	add_hello(&y);
	add_open(&y, 1);
	add(&y, 1, FRAME_DATA, FRAME_MORE, "x", 1);
	expect_fault(b, &y, "DATA of messages on a lane of bytes");
	y.size = 0;
	add_hello(&y);
	add_open(&y, 1);
	add(&y, 1, FRAME_DATA, 3 << FRAME_TAG_SHIFT, "x", 1);
	expect_fault(b, &y, "DATA of messages on a lane of bytes");
	y.size = 0;
	add_hello(&y);
	add_open(&y, 1);
	add(&y, 1, FRAME_DATA, 0, "", 0);
	expect_fault(b, &y, "DATA of messages on a lane of bytes");
	/* Of a library's lane nothing goes ahead of OPENED. */
	y.size = 0;
	add_hello(&y);
	y.size += frame_put_open(y.at + y.size, 1, LINK_MESSAGES, BED_REDIS);
	add(&y, 1, FRAME_DATA, 0, "x", 1);
	expect_fault(b, &y, "DATA where it may not be");
	y.size = 0;
	add_hello(&y);
	y.size += frame_put_open(y.at + y.size, 1, LINK_STREAM, BED_REDIS);
	add(&y, 1, FRAME_FIN, 0, "", 0);
	expect_fault(b, &y, "FIN for a lane that was not opened yet");
	y.size = 0;
	add_hello(&y);
	add_open(&y, 1);
	add(&y, 1, FRAME_CREDIT, 0, "\1\0\0\0", 4);
	expect_fault(b, &y, "CREDIT for more than was taken");
}

static void test_data_beyond_credit(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed;
	struct raw c = raw_client(b, "spiffe://" BED_DOMAIN "/ns/default/svc/web", NULL);
	static uint8_t zeros[FRAME_PAYLOAD_MAX];
	static struct bytes y;
	struct role_session s;

	add_hello(&y);
	add_open(&y, 1);
	raw_put(&c, y.at, y.size);
	bed_hear(b, BED_B, LB_ASK, NULL);
	for (size_t sent = 0; sent <= BED_WINDOW; sent += sizeof(zeros)) {
		y.size = 0;
		add(&y, 1, FRAME_DATA, 0, zeros, sizeof(zeros));
		raw_put(&c, y.at, y.size);
	}
	s = bed_hear_session(b, BED_B, SESSION_DOWN);
	assert_string_equal(s.why, "DATA beyond the credit that was given");
	bed_hear(b, BED_B, LB_GONE, NULL);
	raw_close(&c);
}

/* Another host's half of a library's lane. */

/* A session with lane 1 open to a library on b. */
static struct raw library_client(struct bed *b, enum link_kind kind, struct lib_end *server)
{
	struct raw c = raw_client(b, "spiffe://" BED_DOMAIN "/ns/default/svc/web", NULL);
	struct bytes y = {};

	add_hello(&y);
	y.size += frame_put_open(y.at + y.size, 1, kind, BED_REDIS);
	raw_put(&c, y.at, y.size);
	lib_end_new(server, kind, 12);
	lib_asked(b, server);
	lib_open(server);
	return c;
}

static void expect_library_fault(struct bed *b, enum link_kind kind, const struct bytes *y, const char *why)
{
	struct lib_end server;
	struct raw c = library_client(b, kind, &server);

	raw_put(&c, y->at, y->size);
	assert_string_equal(bed_hear_session(b, BED_B, SESSION_DOWN).why, why);
	assert_int_equal(bed_hear(b, BED_B, LB_CLOSED, NULL).u.stats.lane_id, server.id);
	lib_end_close(&server);
	raw_close(&c);
}

static void test_library_lanes(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed;
	static struct bytes y;

	add(&y, 1, FRAME_DATA, frame_data_flags(true, 1), "x", 1);
	add(&y, 1, FRAME_DATA, frame_data_flags(false, 2), "x", 1);
	expect_library_fault(b, LINK_MESSAGES, &y, "DATA of another message before the one before it has ended");
	y.size = 0;
	add(&y, 1, FRAME_DATA, frame_data_flags(true, 0), "x", 1);
	expect_library_fault(b, LINK_STREAM, &y, "DATA of messages on a lane of bytes");
	y.size = 0;
	add(&y, 1, FRAME_DATA, 0, "", 0);
	expect_library_fault(b, LINK_STREAM, &y, "DATA of messages on a lane of bytes");
	y.size = 0;
	add(&y, 1, FRAME_DATA, FRAME_MORE, "", 0);
	expect_library_fault(b, LINK_MESSAGES, &y, "an empty piece of a message");
	y.size = 0;
	add(&y, 1, FRAME_FIN, 0, "", 0);
	add(&y, 1, FRAME_DATA, 0, "x", 1);
	expect_library_fault(b, LINK_MESSAGES, &y, "DATA where it may not be");
}

/* Messages of no bytes at all, and one that never ends, to a library that does not read: their headers count as well. */
static void test_library_that_does_not_read(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed;
	static uint8_t bytes[FRAME_PAYLOAD_MAX];
	static const struct {
		bool more;
		size_t size;
	} tries[] = { { false, 0 }, { true, 1 }, { true, sizeof(bytes) } };

	for (size_t i = 0; i < ARRAY_SIZE(tries); i++) {
		struct lib_end server;
		struct raw c = library_client(b, LINK_MESSAGES, &server);
		struct role_session s;
		static struct bytes y;

		y.size = 0;
		while (y.size < 2 * FRAME_SIZE_MAX)
			add(&y, 1, FRAME_DATA, frame_data_flags(tries[i].more, 0), bytes, tries[i].size);
		/* What its ring takes of empty ones is 64 bytes for 8. */
		for (size_t sent = 0; sent <= 5 * BED_WINDOW; sent += y.size)
			raw_put(&c, y.at, y.size);
		s = bed_hear_session(b, BED_B, SESSION_DOWN);
		assert_string_equal(s.why, "DATA beyond the credit that was given");
		bed_hear(b, BED_B, LB_CLOSED, NULL);
		lib_end_close(&server);
		raw_close(&c);
	}
}

/* Proofs that prove nothing. */
static void test_proofs(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed;
	struct raw c = raw_client(b, "spiffe://" BED_DOMAIN "/ns/default/svc/web", NULL);
	EVP_PKEY *key = new_key();
	X509 *x = bed_certificate(b, key, "spiffe://" BED_DOMAIN "/ns/default/svc/web", -60, 600);
	uint8_t der[4096], *p = der, digest[32] = { 1 }, signature[SIGNATURE_SIZE];
	int n = i2d_X509(x, &p), size = pki_sign(signature, key, digest);
	static struct bytes y;

	assert_true(n > 0 && size > 0);
	add_hello(&y);
	y.size += frame_put_proof(y.at + y.size, signature, (size_t)size, der, (size_t)n);
	raw_put(&c, y.at, y.size);
	assert_string_equal(bed_hear_session(b, BED_B, SESSION_DOWN).why, "PROOF with a signature that is not its certificate's");
	raw_close(&c);
	X509_free(x);
	EVP_PKEY_free(key);
}

/* True ones, again and again: each costs the other side more than it costs to send. */
static void test_proofs_without_end(void **state)
{
	static const char web[] = "spiffe://" BED_DOMAIN "/ns/default/svc/web";
	struct rig *r = *state;
	struct bed *b = &r->bed;
	EVP_PKEY *key = new_key();
	struct raw_options o = { .cert = bed_certificate(b, key, web, -60, 600), .key = key };
	struct raw c;
	uint8_t text[24 + 1 + 32 + sizeof(web) - 1] = "sealane link proof v1", digest[32], der[4096], *p = der, signature[SIGNATURE_SIZE];
	unsigned n_digest;
	int n = i2d_X509(o.cert, &p), size;
	struct bytes y = {};

	c = raw_open(b, &o);
	assert_int_equal(SSL_export_keying_material(c.ssl, text + 25, 32, "EXPORTER-sealane-proof", 22, NULL, 0, 0), 1);
	memcpy(text + 57, web, sizeof(web) - 1);
	assert_int_equal(EVP_Digest(text, sizeof(text), digest, &n_digest, EVP_sha256(), NULL), 1);
	size = pki_sign(signature, key, digest);
	assert_true(n > 0 && size > 0);
	add_hello(&y);
	raw_put(&c, y.at, y.size);
	bed_hear_session(b, BED_B, SESSION_UP);
	y.size = frame_put_proof(y.at, signature, (size_t)size, der, (size_t)n);
	for (int i = 0; i < 100; i++)
		raw_put(&c, y.at, y.size);
	assert_string_equal(bed_hear_session(b, BED_B, SESSION_DOWN).why, "PROOF more often than certificates are renewed");
	raw_close(&c);
	EVP_PKEY_free(key);
}

/* Where there is no authority nobody comes in without a certificate, or asks for one. */
static void test_no_authority(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed;
	struct role_msg m = { .type = BL_TRUST, .u.trust = { .window = b->window, .idle_ms = b->idle_ms, .timeout_ms = b->timeout_ms, .trust_domain = BED_DOMAIN, .host = "b" } };
	EVP_PKEY *key = new_key();

	bed_tell_text(b, BED_B, &m, b->root_pem);
	usleep(200000);
	expect_refusal(b, (struct raw_options){ .alpn = "sealane-join/1" }, "protocol");
	expect_refusal(b, (struct raw_options){ .cert = bed_certificate(b, key, "spiffe://" BED_DOMAIN "/host/a", -60, 600), .key = key, .alpn = "sealane-ca/1" },
		       "protocol");
}

/* Hosts may ask, and hear what is offered; lanes are for services. */
static void test_purposes(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed;
	struct bytes y = {};

	add_hello(&y);
	add_open(&y, 1);
	expect_fault_as(b, "spiffe://" BED_DOMAIN "/host/a", NULL, &y, "a frame that this kind of session does not have");
	expect_fault_as(b, "spiffe://" BED_DOMAIN "/host/a", "sealane-ca/1", &y, "a frame that this kind of session does not have");
	expect_fault_as(b, NULL, "sealane-join/1", &y, "a frame that this kind of session does not have");
	y.size = 0;
	add_hello(&y);
	add(&y, 0, FRAME_CA_ASK, 0, "{}", 2);
	add(&y, 0, FRAME_CA_ASK, 0, "{}", 2);
	expect_fault_as(b, NULL, "sealane-join/1", &y, "a second question before the answer");
	bed_hear(b, BED_B, LB_CA_ASK, NULL);
}

static void test_question_too_long(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed;
	static uint8_t zeros[FRAME_PAYLOAD_MAX];
	static struct bytes y;

	y.size = 0;
	add_hello(&y);
	add(&y, 0, FRAME_CA_ASK, FRAME_MORE, zeros, sizeof(zeros));
	add(&y, 0, FRAME_CA_ASK, FRAME_MORE, zeros, sizeof(zeros));
	expect_fault_as(b, NULL, "sealane-join/1", &y, "a text that is longer than it may be");
}

/* Everybody may ask for a list of 4 MiB. A linker has one text for all who do, also where they do not read it. */
static void test_one_text_for_all(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed;
	enum { SIZE = 4 << 20, N = 20 };
	char *list = malloc(SIZE + 1), *other = strdup("a text that nobody gets, since the other one has this number"), buf[FRAME_SIZE_MAX];
	struct raw asker[N];
	struct bytes y = {};
	size_t got = 0;

	memset(list, 'x', SIZE);
	list[SIZE] = '\0';
	add_hello(&y);
	add(&y, 0, FRAME_CA_ASK, 0, "{}", 2);
	for (int i = 0; i < N; i++) {
		struct role_msg m;

		asker[i] = raw_client(b, "spiffe://" BED_DOMAIN "/host/a", "sealane-ca/1");
		raw_put(&asker[i], y.at, y.size);
		m = bed_hear(b, BED_B, LB_CA_ASK, NULL);
		m.type = BL_CA_ANSWER;
		m.u.ca.shared = 6;
		bed_tell_text(b, BED_B, &m, i == 0 ? list : other);
	}
	for (int n; got < SIZE && (n = SSL_read(asker[N - 1].ssl, buf, sizeof(buf))) > 0;) {
		size_t skip = got == 0 && n == FRAME_HEADER_SIZE + 8 ? (size_t)n : FRAME_HEADER_SIZE; /* a frame is a record; HELLO is the first */

		for (size_t at = skip; at < (size_t)n; at++)
			assert_int_equal(buf[at], 'x');
		got += (size_t)n - skip;
	}
	assert_int_equal(got, SIZE);
	echo(&r->bystander);
	for (int i = 0; i < N; i++)
		raw_close(&asker[i]);
	free(list);
	free(other);
}

/* More of them at a time than a host has. */
static void test_questions_without_end(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed;
	struct raw asker[LIMIT_LINK_QUESTIONS_OF_ONE + 1];
	struct bytes y = {};
	struct role_session s;

	add_hello(&y);
	for (unsigned i = 0; i < ARRAY_SIZE(asker); i++) {
		asker[i] = raw_client(b, "spiffe://" BED_DOMAIN "/host/a", "sealane-ca/1");
		raw_put(&asker[i], y.at, y.size);
	}
	s = bed_hear_session(b, BED_B, SESSION_REFUSED);
	assert_string_equal(session_reason_name(s.reason), "limit");
	assert_non_null(strstr(s.why, "more at a time than a host does"));
	comes_in(b, 1);
	for (unsigned i = 0; i < ARRAY_SIZE(asker); i++)
		raw_close(&asker[i]);
}

/* A server of our own making: a dials it, and is told that it is b. */
struct raw_server {
	int listener;
	SSL_CTX *ctx;
	SSL *ssl;
	int fd;
};

static int take_alpn(SSL *ssl, const unsigned char **ret, unsigned char *ret_size, const unsigned char *in, unsigned size, void *arg)
{
	*ret = in + 1;
	*ret_size = in[0];
	return SSL_TLSEXT_ERR_OK;
}

static struct raw_server server_listen(struct bed *b, X509 *cert, EVP_PKEY *key)
{
	struct raw_server s = { .listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), .ctx = SSL_CTX_new(TLS_server_method()), .fd = -1 };
	struct sockaddr_in *at = &b->sides[BED_A].dials;
	socklen_t size = sizeof(*at);

	*at = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	assert_int_equal(bind(s.listener, (struct sockaddr *)at, size), 0);
	assert_int_equal(listen(s.listener, 8), 0);
	assert_int_equal(getsockname(s.listener, (struct sockaddr *)at, &size), 0);
	assert_int_equal(SSL_CTX_use_certificate(s.ctx, cert), 1);
	assert_int_equal(SSL_CTX_use_PrivateKey(s.ctx, key), 1);
	assert_int_equal(SSL_CTX_set_num_tickets(s.ctx, 0), 1); /* whoever dials again does it anew */
	SSL_CTX_set_alpn_select_cb(s.ctx, take_alpn, NULL);
	SSL_CTX_set_verify(s.ctx, SSL_VERIFY_PEER, NULL);
	X509_STORE_add_cert(SSL_CTX_get_cert_store(s.ctx), b->root);
	return s;
}

static void server_take(struct bed *b, struct raw_server *s)
{
	struct pollfd p = { .fd = s->listener, .events = POLLIN };
	uint64_t until = clock_ns() + UINT64_C(20000000000);
	struct timeval timeout = { .tv_sec = 10 };

	do
		(void)bed_has_heard(b, BED_A, ROLE_MSG_N, 10); /* LB_DIAL is answered on the way */
	while (poll(&p, 1, 0) == 0 && clock_ns() < until);
	s->fd = accept(s->listener, NULL, NULL);
	assert_true(s->fd >= 0);
	assert_int_equal(setsockopt(s->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)), 0);
	s->ssl = SSL_new(s->ctx);
	SSL_set_fd(s->ssl, s->fd);
	(void)!SSL_accept(s->ssl);
}

static void server_drop(struct raw_server *s)
{
	SSL_free(s->ssl);
	if (s->fd >= 0)
		close(s->fd);
	s->ssl = NULL;
	s->fd = -1;
	ERR_clear_error();
}

static void server_close(struct raw_server *s)
{
	server_drop(s);
	close(s->listener);
	SSL_CTX_free(s->ctx);
}

/* From new hosts' numbers, so that each try has a session of its own. */
static int carry_to(struct bed *b, uint32_t hid)
{
	struct role_msg host = { .type = BL_HOST, .u.host = { .hid = hid, .name = "b", .address = "127.0.0.1:1" } };
	struct role_msg m = { .type = BL_CARRY, .u.carry = { .hid = hid, .kid = BED_KID_WEB, .lane_id = ++b->next_lane, .destination = BED_REDIS } };
	int pair[2];

	bed_tell(b, BED_A, &host, -1);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	bed_tell(b, BED_A, &m, pair[1]);
	close(pair[1]);
	return pair[0];
}

static void expect_server_fault(struct bed *b, struct raw_server *s, const struct bytes *y, enum session_reason reason, const char *why)
{
	static uint32_t hid = 100;
	int client = carry_to(b, ++hid);
	struct role_session n;

	server_take(b, s);
	(void)!SSL_write(s->ssl, y->at, (int)y->size);
	do
		n = bed_hear(b, BED_A, LB_SESSION, NULL).u.session;
	while (n.state == SESSION_UP);
	if (strcmp(n.why, why) != 0)
		print_error("expected \"%s\", heard \"%s\"\n", why, n.why);
	assert_string_equal(n.why, why);
	assert_int_equal(n.reason, reason);
	bed_hear(b, BED_A, LB_FAILED, NULL);
	server_drop(s);
	close(client);
}

static void test_hostile_server(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed;
	EVP_PKEY *key = new_key();
	X509 *cert = bed_certificate(b, key, "spiffe://" BED_DOMAIN "/host/b", -60, 600);
	struct raw_server s = server_listen(b, cert, key);
	static struct bytes y;

	add_hello(&y);
	add(&y, 1, FRAME_OPENED, 0, "", 0);
	expect_server_fault(b, &s, &y, SESSION_PROTOCOL, "OPENED for a service that the host did not prove to serve");
	y.size = 0;
	add_hello(&y);
	add(&y, 1, FRAME_DATA, 0, "x", 1);
	expect_server_fault(b, &s, &y, SESSION_PROTOCOL, "DATA where it may not be");
	y.size = 0;
	add_hello(&y);
	add(&y, 1, FRAME_FIN, 0, "", 0);
	expect_server_fault(b, &s, &y, SESSION_PROTOCOL, "a frame for a lane that was not opened yet");
	y.size = 0;
	add_hello(&y);
	add(&y, 2, FRAME_REFUSED, 0, "\1", 1);
	expect_server_fault(b, &s, &y, SESSION_PROTOCOL, "a frame for a lane that was never opened");
	y.size = 0;
	add_hello(&y);
	add_open(&y, 2);
	expect_server_fault(b, &s, &y, SESSION_PROTOCOL, "a frame from the wrong side");
	y.size = 0;
	add_hello(&y);
	add(&y, 1, FRAME_CREDIT, 0, "\0\0\0\1", 4);
	expect_server_fault(b, &s, &y, SESSION_PROTOCOL, "CREDIT for more than was taken");
	y.size = 0;
	add_hello(&y);
	add(&y, 0, FRAME_ANNOUNCE, 0, "a/b up 0\n", 9);
	expect_server_fault(b, &s, &y, SESSION_PROTOCOL, "a frame that this kind of session does not have");
	server_close(&s);
	X509_free(cert);
	EVP_PKEY_free(key);
}

/* A frame's worth at a time. */
static void server_announces(struct raw_server *s, const char *text, size_t size)
{
	static struct bytes y;

	for (size_t at = 0; at < size; at += FRAME_PAYLOAD_MAX) {
		size_t n = size - at < FRAME_PAYLOAD_MAX ? size - at : FRAME_PAYLOAD_MAX;

		y.size = 0;
		add(&y, 0, FRAME_ANNOUNCE, at + n < size ? FRAME_MORE : 0, text + at, n);
		assert_int_equal(SSL_write(s->ssl, y.at, (int)y.size), y.size);
	}
}

/* The next thing that a's broker hears of. */
static char heard_announced(struct bed *b, size_t size)
{
	struct stat st;
	int fd = -1;
	char first;

	bed_hear(b, BED_A, LB_ANNOUNCE, &fd);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, size);
	assert_int_equal(pread(fd, &first, 1, 0), 1);
	close(fd);
	return first;
}

/* It announces as much as it can: the broker hears some of it, and of the last ones the newest. Also on a session that comes again. */
static void test_announces_without_end(void **state)
{
	enum { N = 40, SIZE = 1 << 20 };
	struct rig *r = *state;
	struct bed *b = &r->bed;
	EVP_PKEY *key = new_key();
	X509 *cert = bed_certificate(b, key, "spiffe://" BED_DOMAIN "/host/b", -60, 600);
	struct raw_server s = server_listen(b, cert, key);
	struct role_msg host = { .type = BL_HOST, .u.host = { .hid = 77, .name = "b", .address = "127.0.0.1:1", .keep = 1 } };
	char *text = malloc(SIZE), first = 0;
	unsigned n_heard = 0;
	struct bytes y = {};
	uint64_t began_ns;

	memset(text, 'x', SIZE);
	add_hello(&y);
	bed_tell(b, BED_A, &host, -1);
	began_ns = clock_ns();
	for (char session = 0; session < 2; session++) {
		server_take(b, &s);
		assert_int_equal(SSL_write(s.ssl, y.at, (int)y.size), y.size);
		for (char i = 1; i <= N; i++) {
			text[0] = (char)(i + session * N);
			server_announces(&s, text, SIZE);
		}
		for (first = 0; first != (char)(N + session * N); n_heard++)
			first = heard_announced(b, SIZE);
		server_drop(&s);
	}
	assert_in_range(n_heard, 2, 4 + (clock_ns() - began_ns) / 1000000000);
	host.u.host.keep = 0;
	bed_tell(b, BED_A, &host, -1);
	server_close(&s);
	X509_free(cert);
	EVP_PKEY_free(key);
	free(text);
}

/* A host that has b's place and not b's certificate. */
static void test_server_of_another_name(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed;
	static const struct {
		const char *id;
		enum session_reason reason;
		const char *why;
	} tries[] = {
		{ "spiffe://" BED_DOMAIN "/host/c", SESSION_WRONG_HOST, "host c answered where host b was dialled" },
		{ "spiffe://" BED_DOMAIN "/ns/default/svc/redis", SESSION_BAD_IDENTITY, "a service's certificate where a host's is due" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(tries); i++) {
		EVP_PKEY *key = new_key();
		X509 *cert = bed_certificate(b, key, tries[i].id, -60, 600);
		struct raw_server s = server_listen(b, cert, key);
		struct bytes y = {};

		add_hello(&y);
		expect_server_fault(b, &s, &y, tries[i].reason, tries[i].why);
		server_close(&s);
		X509_free(cert);
		EVP_PKEY_free(key);
	}
}

/* A peer that makes the linker answer and does not read: it is not read from for ever, and nobody else waits. */
static void test_peer_that_does_not_read(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed;
	struct raw c = raw_client(b, "spiffe://" BED_DOMAIN "/ns/default/svc/web", NULL);
	struct timeval timeout = { .tv_sec = 1 };
	static struct bytes y;
	size_t sent = 0;

	assert_int_equal(setsockopt(c.fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)), 0);
	add_hello(&y);
	raw_put(&c, y.at, y.size);
	y.size = 0;
	for (int i = 0; i < 1000; i++)
		y.size += frame_put_ping(y.at + y.size, FRAME_PING, 1);
	while (sent < 64 << 20 && SSL_write(c.ssl, y.at, (int)y.size) > 0)
		sent += y.size;
	assert_in_range(sent, 1, 32 << 20); /* it stood still at some time */
	echo(&r->bystander);
	raw_close(&c);
}

/* KiB that b's linker has of memory, without what sanitizers add. */
static unsigned long rss_kib(const struct bed *b)
{
	char path[64], line[128];
	unsigned long kib = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)b->sides[BED_B].pid);
	f = fopen(path, "re");
	assert_non_null(f);
	while (kib == 0 && fgets(line, sizeof(line), f))
		(void)!sscanf(line, "VmRSS: %lu", &kib);
	fclose(f);
	assert_true(kib > 0);
	return kib;
}

static void assert_grew_little(const struct bed *b, unsigned long before_kib)
{
#ifdef __SANITIZE_ADDRESS__
	(void)before_kib; /* it keeps what was freed */
	assert_true(rss_kib(b) > 0);
#else
	assert_in_range(rss_kib(b), 1, before_kib + (8 << 10));
#endif
}

enum { CHUNKS_MAX = 4, ANSWERS_MAX = 1 << 20, UNREAD = 48 };

static int setup_few_chunks(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	bed_init(&r->bed);
	r->bed.chunks_max = CHUNKS_MAX;
	r->bed.answers_max = ANSWERS_MAX;
	return rig_start(r, state);
}

static int setup_one_chunk(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	bed_init(&r->bed);
	r->bed.chunks_max = 1;
	r->bed.answers_max = ANSWERS_MAX;
	return rig_start(r, state);
}

/* One way, and what of it is through. */
struct stream {
	int client, server;
	size_t sent, got;
};

/* Return: something has moved. */
static bool stream_move(struct stream *s, size_t size)
{
	static uint8_t buf[65536];
	size_t left = size - s->sent;
	ssize_t n = left > 0 ? send(s->client, buf, left < sizeof(buf) ? left : sizeof(buf), MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
	ssize_t m = recv(s->server, buf, sizeof(buf), MSG_DONTWAIT);

	s->sent += n > 0 ? (size_t)n : 0;
	s->got += m > 0 ? (size_t)m : 0;
	return n > 0 || m > 0;
}

/* Sessions to a host that does not read for a while, more than may have ciphertext that waits: then all of it comes. */
static void test_sessions_take_turns(void **state)
{
	enum { SESSIONS = 6, LANES = 2, SIZE = 1 << 20 };
	struct rig *r = *state;
	struct bed *b = &r->bed;
	struct stream s[SESSIONS * LANES] = {};
	size_t got = 0;
	uint64_t id;

	for (uint32_t i = 0; i < ARRAY_SIZE(s); i++) {
		s[i].client = carry_to(b, 200 + i % SESSIONS);
		s[i].server = bed_go(b, &id);
		bed_hear(b, BED_A, LB_OPENED, NULL);
	}
	kill(b->sides[BED_B].pid, SIGSTOP);
	for (unsigned round = 0; round < 20; round++) {
		for (size_t i = 0; i < ARRAY_SIZE(s); i++)
			while (stream_move(&s[i], SIZE))
				continue;
		usleep(20000);
	}
	kill(b->sides[BED_B].pid, SIGCONT);
	/* Whoever was forgotten goes on with the next PING, after 5 s: so what is waited is counted in all. */
	for (unsigned idle = 0; got < ARRAY_SIZE(s) * SIZE && idle < 3000;) {
		bool any = false;

		for (size_t i = 0; i < ARRAY_SIZE(s); i++)
			any |= stream_move(&s[i], SIZE);
		got = 0;
		for (size_t i = 0; i < ARRAY_SIZE(s); i++)
			got += s[i].got;
		if (any)
			continue;
		idle++;
		usleep(10000);
	}
	assert_int_equal(got, ARRAY_SIZE(s) * SIZE);
	for (size_t i = 0; i < ARRAY_SIZE(s); i++) {
		close(s[i].client);
		close(s[i].server);
	}
}

/* As much as goes in now. Return: bytes. */
static size_t put_pings(struct raw *c)
{
	static struct bytes y;
	size_t sent = 0;

	for (y.size = 0; y.size < FRAME_SIZE_MAX - FRAME_PING_SIZE;)
		y.size += frame_put_ping(y.at + y.size, FRAME_PING, 1);
	while (sent < 4 << 20 && SSL_write(c->ssl, y.at, (int)y.size) > 0)
		sent += y.size;
	return sent;
}

static struct raw unread_client(struct bed *b, uint8_t from)
{
	int little = 4096;
	struct raw c = raw_client_from(b, "spiffe://" BED_DOMAIN "/ns/default/svc/web", NULL, from);
	struct bytes y = {};

	(void)!setsockopt(c.fd, SOL_SOCKET, SO_RCVBUF, &little, sizeof(little));
	add_hello(&y);
	raw_put(&c, y.at, y.size);
	bed_hear_session(b, BED_B, SESSION_UP);
	assert_int_equal(fcntl(c.fd, F_SETFL, O_NONBLOCK), 0);
	return c;
}

/* The same on many sessions. All of them together make the linker hold little, and others are served. */
static void test_host_that_does_not_read(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed;
	static struct raw c[UNREAD];
	unsigned long before_kib;
	unsigned n_still = 0;

	b->issued_to = "idler";
	for (unsigned i = 0; i < UNREAD; i++)
		c[i] = unread_client(b, 2);
	before_kib = rss_kib(b);
	for (unsigned round = 0; n_still < 3 && round < 100; round++) {
		size_t sent = 0;

		for (unsigned i = 0; i < UNREAD; i++)
			sent += put_pings(&c[i]);
		n_still = sent == 0 ? n_still + 1 : 0;
		usleep(100000);
	}
	assert_grew_little(b, before_kib);
	echo(&r->bystander);
	b->issued_to = "another";
	comes_in(b, 3);
	comes_in(b, 2); /* at its address, and another host by its certificate */
	/* What was kept back goes on when it is read: the last one hears its PONGs. */
	for (unsigned i = 0; i + 1 < UNREAD; i++)
		raw_close(&c[i]);
	assert_int_equal(fcntl(c[UNREAD - 1].fd, F_SETFL, 0), 0);
	for (int i = 0; i < 100; i++) {
		char buf[FRAME_PING_SIZE];

		assert_true(SSL_read(c[UNREAD - 1].ssl, buf, sizeof(buf)) > 0);
	}
	raw_close(&c[UNREAD - 1]);
}

/* Memory. */

enum { KEPT_MAX = 2 << 20, TAKEN = 40 };

static int setup_little_memory(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	bed_init(&r->bed);
	r->bed.kept_max = KEPT_MAX;
	return rig_start(r, state);
}

/* Return: bytes that went in until nothing moved for a while. */
static size_t stuff(int fd)
{
	static uint8_t zeros[65536];
	struct pollfd p = { .fd = fd, .events = POLLOUT };
	size_t total = 0;

	while (poll(&p, 1, 1000) == 1) {
		ssize_t n = send(fd, zeros, sizeof(zeros), MSG_DONTWAIT | MSG_NOSIGNAL);

		assert_true(n > 0 || errno == EAGAIN);
		total += n > 0 ? (size_t)n : 0;
	}
	return total;
}

static void drain(int fd, size_t size)
{
	static uint8_t buf[65536];

	while (size > 0) {
		ssize_t n = recv(fd, buf, size < sizeof(buf) ? size : sizeof(buf), 0);

		assert_true(n > 0);
		size -= (size_t)n;
	}
}

/* A byte for each of many lanes that wait for a verdict takes no memory to speak of, and nobody's lane for it. */
static void test_a_byte_is_not_a_window(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed;
	struct raw c = raw_client_from(b, "spiffe://" BED_DOMAIN "/ns/default/svc/web", NULL, 2);
	static struct bytes y;

	y.size = 0;
	add_hello(&y);
	for (uint32_t i = 1; i <= 500; i++) {
		add_open(&y, i);
		add(&y, i, FRAME_DATA, 0, "x", 1);
	}
	raw_put(&c, y.at, y.size);
	for (int i = 0; i < 500; i++)
		bed_hear(b, BED_B, LB_ASK, NULL);
	echo(&r->bystander);
	assert_false(bed_has_heard(b, BED_B, LB_GONE, 200));
	raw_close(&c);
}

/* Who takes the most pays when there is no more: not the lane whose reader is slow for once. */
static void test_the_greatest_pays(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed;
	struct bed_lane slow = bed_lane(b);
	size_t stuck = stuff(slow.client);
	struct raw c = raw_client_from(b, "spiffe://" BED_DOMAIN "/ns/default/svc/web", NULL, 2);
	static uint8_t zeros[FRAME_PAYLOAD_MAX];
	static struct bytes y;

	y.size = 0;
	add_hello(&y);
	for (uint32_t i = 1; i <= TAKEN; i++)
		add_open(&y, i);
	raw_put(&c, y.at, y.size);
	for (int n = 0; n < 8; n++)
		for (uint32_t i = 1; i <= TAKEN; i++) {
			y.size = 0;
			add(&y, i, FRAME_DATA, 0, zeros, sizeof(zeros));
			raw_put(&c, y.at, y.size);
		}
	for (int i = 0; i < TAKEN; i++)
		bed_hear(b, BED_B, LB_ASK, NULL);
	bed_hear(b, BED_B, LB_GONE, NULL);
	assert_false(bed_has_heard(b, BED_B, LB_CLOSED, 200));
	echo(&r->bystander);
	drain(slow.server, stuck);
	raw_close(&c);
	bed_lane_close(&slow);
}

/* Sessions. */

enum { SESSIONS_MAX = 16 };

static int setup_few_sessions(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	bed_init(&r->bed);
	r->bed.sessions_max = SESSIONS_MAX;
	return rig_start(r, state);
}

/* Somebody with certificates who takes all that there is: others still come in. It is told, and so is its own host. */
static void test_sessions_without_end(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed;
	struct raw taken[SESSIONS_MAX];
	struct bytes y = {};
	struct role_session s;
	unsigned n = 0;

	add_hello(&y);
	do {
		taken[n] = raw_client_from(b, "spiffe://" BED_DOMAIN "/ns/default/svc/web", NULL, 2);
		raw_put(&taken[n++], y.at, y.size);
		s = bed_hear(b, BED_B, LB_SESSION, NULL).u.session;
	} while (s.state == SESSION_UP && n < SESSIONS_MAX);
	assert_int_equal(s.state, SESSION_REFUSED);
	assert_string_equal(session_reason_name(s.reason), "limit");
	assert_non_null(strstr(s.why, "as many sessions here as are left"));
	assert_in_range(n - 1, SESSIONS_MAX / 2 - 1, SESSIONS_MAX / 2); /* the bystander's is one */
	b->issued_to = "another";
	comes_in(b, 4);
	comes_in(b, 3);
	for (unsigned i = 0; i < n; i++)
		raw_close(&taken[i]);
}

/* Strangers. */

enum { SILENT = 2000, JOINERS = 300, COMES_IN_MS = 4000 };

static void raise_fds(void)
{
	struct rlimit lim;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &lim), 0);
	lim.rlim_cur = lim.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &lim), 0);
	if (lim.rlim_cur <= SILENT + 200) {
		print_message("needs %d descriptors\n", SILENT + 200);
		skip();
	}
}

/* Others come in sooner than any of the silent ones is given up by itself: a busy machine gets some attempts at that. */
static void test_silent_connections(void **state)
{
	uint64_t took_ms = COMES_IN_MS + 1;
	struct rig *r = *state;
	struct bed *b = &r->bed;
	static int fds[SILENT];

	raise_fds();
	for (int attempt = 0; attempt < 5 && took_ms > COMES_IN_MS; attempt++) {
		uint64_t own_ms;

		for (int i = 0; i < SILENT; i++)
			fds[i] = bed_dial_from(b, BED_B, 3);
		took_ms = comes_in(b, 1);
		own_ms = comes_in(b, 3); /* also from their own address */
		took_ms = took_ms > own_ms ? took_ms : own_ms;
		echo(&r->bystander);
		for (int i = 0; i < SILENT; i++)
			close(fds[i]);
	}
	assert_in_range(took_ms, 0, COMES_IN_MS);
}

/* They come again as soon as they are dropped. */
static void flood(struct bed *b)
{
	int fds[64];

	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = -1;
	for (unsigned i = 0;; i = (i + 1) % ARRAY_SIZE(fds)) {
		if (fds[i] >= 0)
			close(fds[i]);
		fds[i] = bed_dial_from(b, BED_B, 4);
		(void)!send(fds[i], "\x16\x03\x01", 3, MSG_NOSIGNAL);
	}
}

static void test_flood(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed;
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		alarm(30); /* also where an assertion leaves it behind */
		flood(b);
	}
	assert_true(pid > 0);
	for (int i = 0; i < 5; i++) {
		comes_in(b, 1);
		echo(&r->bystander);
		(void)bed_has_heard(b, BED_B, ROLE_MSG_N, 50); /* as a broker does */
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* The next frame that is no PING: a busy machine may take so long that we are asked whether we are there. Return: its size. */
static size_t get_frame(struct raw *r, uint8_t *buf, size_t size)
{
	for (;;) {
		size_t n = FRAME_HEADER_SIZE;

		for (size_t at = 0; at < n; n = at < FRAME_HEADER_SIZE ? n : FRAME_HEADER_SIZE + (size_t)frame_data_size(buf)) {
			int k = SSL_read(r->ssl, buf + at, (int)(n - at));

			assert_true(k > 0);
			at += (size_t)k;
			assert_true(at < FRAME_HEADER_SIZE || frame_data_size(buf) <= size - FRAME_HEADER_SIZE);
		}
		if (buf[6] != FRAME_PING)
			return n;
	}
}

/* Whoever joins needs no certificate. Of those the one that has asked stays until it is answered. */
static void test_joiners(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed;
	static struct raw joiners[JOINERS];
	struct bytes y = {};
	struct role_msg m;
	uint8_t buf[64];

	raise_fds();
	add_hello(&y);
	for (int i = 0; i < JOINERS; i++) {
		joiners[i] = raw_client_from(b, NULL, "sealane-join/1", 5);
		if (i == 1)
			add(&y, 0, FRAME_CA_ASK, 0, "{}", 2);
		raw_put(&joiners[i], y.at, y.size);
		if (i == 1)
			y.size -= FRAME_HEADER_SIZE + 2;
	}
	comes_in(b, 1);
	m = bed_hear(b, BED_B, LB_CA_ASK, NULL);
	m.type = BL_CA_ANSWER;
	bed_tell_text(b, BED_B, &m, "{}");
	/* HELLO, and the answer. */
	assert_int_equal(get_frame(&joiners[1], buf, sizeof(buf)), FRAME_HEADER_SIZE + 8);
	assert_int_equal(get_frame(&joiners[1], buf, sizeof(buf)), FRAME_HEADER_SIZE + 2);
	assert_memory_equal(buf + FRAME_HEADER_SIZE, "{}", 2);
	/* The first one had asked nothing. */
	while (SSL_read(joiners[0].ssl, buf, sizeof(buf)) > 0)
		continue;
	assert_int_equal(recv(joiners[0].fd, buf, 1, 0), 0);
	for (int i = 0; i < JOINERS; i++)
		raw_close(&joiners[i]);
}

static int setup_few_joiners(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	bed_init(&r->bed);
	r->bed.joiners_max = 4;
	return rig_start(r, state);
}

static struct raw joiner(struct bed *b, uint8_t from, const char *question)
{
	struct raw c = raw_client_from(b, NULL, "sealane-join/1", from);
	struct bytes y = {};

	add_hello(&y);
	add(&y, 0, FRAME_CA_ASK, 0, question, strlen(question));
	raw_put(&c, y.at, y.size);
	return c;
}

static void expect_question(struct bed *b, const char *question, struct role_msg *ret)
{
	char buf[16] = {};
	int fd = -1;

	*ret = bed_hear(b, BED_B, LB_CA_ASK, &fd);
	assert_int_equal(pread(fd, buf, sizeof(buf), 0), strlen(question));
	assert_string_equal(buf, question);
	close(fd);
}

/* With a broker that is slow: of one address some ask at a time, others later, and others' meanwhile. */
static void test_joiners_and_a_slow_broker(void **state)
{
	struct rig *r = *state;
	struct bed *b = &r->bed;
	struct raw c[3], other;
	struct role_msg first, m;
	struct bytes y = {};
	uint8_t buf[64];

	c[0] = joiner(b, 5, "{\"n\":0}");
	expect_question(b, "{\"n\":0}", &first);
	c[1] = joiner(b, 5, "{\"n\":1}");
	expect_question(b, "{\"n\":1}", &m);
	c[2] = joiner(b, 5, "{\"n\":2}");
	assert_false(bed_has_heard(b, BED_B, LB_CA_ASK, 300));
	other = joiner(b, 6, "{\"n\":3}");
	expect_question(b, "{\"n\":3}", &m);
	first.type = BL_CA_ANSWER;
	bed_tell_text(b, BED_B, &first, "{}");
	assert_int_equal(get_frame(&c[0], buf, sizeof(buf)), FRAME_HEADER_SIZE + 8);
	assert_int_equal(get_frame(&c[0], buf, sizeof(buf)), FRAME_HEADER_SIZE + 2);
	expect_question(b, "{\"n\":2}", &m);
	/* Nor may who waits ask twice. */
	raw_close(&other);
	other = joiner(b, 5, "{\"n\":4}");
	add(&y, 0, FRAME_CA_ASK, 0, "{}", 2);
	raw_put(&other, y.at, y.size);
	do
		m = bed_hear(b, BED_B, LB_SESSION, NULL);
	while (strcmp(m.u.session.why, "a second question before the answer") != 0);
	raw_close(&other);
	for (unsigned i = 0; i < ARRAY_SIZE(c); i++)
		raw_close(&c[i]);
}

int main(int argc, char **argv)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
#define TEST_FEW(t) cmocka_unit_test_setup_teardown(t, setup_few_sessions, teardown)
#define TEST_UNREAD(t) cmocka_unit_test_setup_teardown(t, setup_few_chunks, teardown)
#define TEST_JOIN(t) cmocka_unit_test_setup_teardown(t, setup_few_joiners, teardown)
#define TEST_ONE_CHUNK(t) cmocka_unit_test_setup_teardown(t, setup_one_chunk, teardown)
#define TEST_LITTLE(t) cmocka_unit_test_setup_teardown(t, setup_little_memory, teardown)
	const struct CMUnitTest tests[] = {
		TEST_LITTLE(test_a_byte_is_not_a_window), TEST_LITTLE(test_the_greatest_pays), TEST_FEW(test_sessions_without_end),
		TEST(test_silent_connections), TEST(test_flood), TEST(test_joiners), TEST_JOIN(test_joiners_and_a_slow_broker),
		TEST(test_refused_certificates), TEST(test_refused_protocols), TEST(test_malformed_frames),
		TEST(test_malformed_hello),	 TEST(test_untimely_frames),   TEST(test_data_beyond_credit),
		TEST(test_proofs),		 TEST(test_proofs_without_end), TEST(test_no_authority), TEST(test_purposes),	       TEST(test_question_too_long), TEST(test_one_text_for_all), TEST(test_questions_without_end),
		TEST(test_hostile_server),	 TEST(test_server_of_another_name), TEST(test_announces_without_end), TEST(test_peer_that_does_not_read), TEST_UNREAD(test_host_that_does_not_read), TEST_ONE_CHUNK(test_sessions_take_turns), TEST(test_library_lanes), TEST(test_library_that_does_not_read),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
