/* Two ends of a link's TLS over memory: who may come back with a ticket, and what roots and the list have to say of who is there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "link/frame.h"
#include "link/test_pki_util.h"
#include "link/tls.h"

#define HOST_B "spiffe://" TEST_TRUST_DOMAIN "/host/b"
#define WEB "spiffe://" TEST_TRUST_DOMAIN "/ns/default/svc/web"
#define REDIS "spiffe://" TEST_TRUST_DOMAIN "/ns/default/svc/redis"
enum { KID_HOST, KID_SERVICE, KIDS };

/* A linker's TLS with its signer. */
struct side {
	struct tls *tls;
	struct test_svid svids[KIDS];
};

struct end {
	struct tls_conn c;
	uint8_t out[1 << 16];
};

static struct test_root g_root;
static char *g_root_pem;

static int sign(void *arg, uint32_t kid, const uint8_t digest[32], uint8_t ret[SIGNATURE_SIZE])
{
	struct side *s = arg;

	return kid < KIDS && s->svids[kid].key ? pki_sign(ret, s->svids[kid].key, digest) : -ENOKEY;
}

static char *pem_of(X509 *x)
{
	STACK_OF(X509) *stack = sk_X509_new_null();
	char *pem = NULL;

	assert_true(sk_X509_push(stack, x) > 0);
	assert_int_equal(pki_to_pem(&pem, stack), 0);
	sk_X509_free(stack);
	return pem;
}

static void trust(struct side *s, const char *pem)
{
	assert_int_equal(tls_set_trust(s->tls, pem, strlen(pem), TEST_TRUST_DOMAIN, "b"), 0);
}

static void show(struct side *s, uint32_t kid, struct test_svid svid)
{
	AUTO_FREE(char) pem = pem_of(svid.cert);

	test_svid_free(&s->svids[kid]);
	s->svids[kid] = svid;
	assert_int_equal(tls_set_credential(s->tls, kid, pem, strlen(pem)), 0);
}

static void side_open(struct side *s)
{
	*s = (struct side){};
	assert_int_equal(tls_new(&s->tls, sign, s), 0);
	trust(s, g_root_pem);
}

static void side_close(struct side *s)
{
	tls_free(s->tls);
	for (int i = 0; i < KIDS; i++)
		test_svid_free(&s->svids[i]);
}

/* What @from has said goes to @to, which may answer. */
static void give(struct end *to, struct end *from, uint8_t *copy)
{
	memcpy(copy, from->out, from->c.out_size);
	to->c.in = copy;
	to->c.in_size = from->c.out_size;
	from->c.out_size = 0;
	to->c.out = to->out;
	to->c.out_cap = sizeof(to->out);
}

static int step(struct end *to, struct end *from)
{
	static uint8_t copy[1 << 16];
	char byte;

	give(to, from, copy);
	if (!to->c.is_up)
		return tls_handshake(&to->c);
	return (int)tls_read(&to->c, (uint8_t *)&byte, 1);
}

/* Both ends up, and the client's ticket there. */
static void meet(struct end *client, struct end *server, struct side *a, struct side *b, SSL_SESSION *ticket)
{
	memset(client, 0, sizeof(*client));
	memset(server, 0, sizeof(*server));
	assert_int_equal(tls_conn_client(&client->c, a->tls, TLS_LINK, KID_SERVICE, "b", ticket), 0);
	assert_int_equal(tls_conn_server(&server->c, b->tls), 0);
	for (int i = 0; i < 6; i++) {
		assert_true(step(client, server) >= 0);
		assert_true(step(server, client) >= 0);
	}
	assert_true(client->c.is_up && server->c.is_up && client->c.ticket);
	assert_int_equal(client->c.resumed, server->c.resumed);
	assert_string_equal(server->c.peer.spiffe_id, WEB);
	assert_string_equal(client->c.peer.spiffe_id, HOST_B);
}

/* In order: a session that just ends is not resumed. */
static void part(struct end *client, struct end *server)
{
	tls_goodbye(&client->c);
	tls_goodbye(&server->c);
	tls_conn_close(&client->c);
	tls_conn_close(&server->c);
}

/* Return: the next ticket; *ret_resumed: the one that was given was good. */
static SSL_SESSION *visit(struct side *a, struct side *b, SSL_SESSION *ticket, bool *ret_resumed)
{
	static struct end client, server;
	SSL_SESSION *next;

	meet(&client, &server, a, b, ticket);
	*ret_resumed = client.c.resumed;
	next = take_ptr(client.c.ticket);
	part(&client, &server);
	SSL_SESSION_free(ticket);
	return next;
}

struct rig {
	struct side a, b, b2; /* b2: another linker of b's host */
	uint8_t secrets[TLS_TICKET_SECRETS][TLS_TICKET_SECRET_SIZE];
};

static int setup(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct test_svid host = test_svid_at(&g_root, HOST_B, -60, 600);

	side_open(&r->a);
	side_open(&r->b);
	side_open(&r->b2);
	show(&r->a, KID_SERVICE, test_svid_at(&g_root, WEB, -60, 600));
	/* One certificate and key for both, as the broker tells it. */
	X509_up_ref(host.cert);
	EVP_PKEY_up_ref(host.key);
	show(&r->b, KID_HOST, host);
	show(&r->b2, KID_HOST, host);
	memset(r->secrets, 1, sizeof(r->secrets));
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	struct rig *r = *state;

	side_close(&r->a);
	side_close(&r->b);
	side_close(&r->b2);
	free(r);
	return 0;
}

static void share(struct rig *r, uint8_t newest)
{
	memmove(r->secrets[1], r->secrets[0], sizeof(r->secrets[0]));
	memset(r->secrets[0], newest, sizeof(r->secrets[0]));
	tls_set_tickets(r->b.tls, r->secrets, 2);
	tls_set_tickets(r->b2.tls, r->secrets, 2);
}

static void test_tickets_are_shared(void **state)
{
	struct rig *r = *state;
	bool resumed;
	SSL_SESSION *t = visit(&r->a, &r->b, NULL, &resumed);

	assert_false(resumed);
	t = visit(&r->a, &r->b, t, &resumed);
	assert_true(resumed);
	t = visit(&r->a, &r->b2, t, &resumed); /* each has a secret of its own as yet */
	assert_false(resumed);
	share(r, 2);
	t = visit(&r->a, &r->b, t, &resumed);
	assert_false(resumed);
	for (int i = 0; i < 4; i++) {
		t = visit(&r->a, i % 2 ? &r->b : &r->b2, t, &resumed);
		assert_true(resumed);
	}
	SSL_SESSION_free(t);
}

static void test_tickets_grow_old(void **state)
{
	struct rig *r = *state;
	SSL_SESSION *t;
	bool resumed;

	share(r, 2);
	t = visit(&r->a, &r->b, NULL, &resumed);
	share(r, 3);
	t = visit(&r->a, &r->b2, t, &resumed); /* and gets one under the newer */
	assert_true(resumed);
	share(r, 4);
	t = visit(&r->a, &r->b, t, &resumed);
	assert_true(resumed);
	share(r, 5);
	share(r, 6);
	t = visit(&r->a, &r->b, t, &resumed);
	assert_false(resumed);
	SSL_SESSION_free(t);
}

static void test_new_roots_and_certificates(void **state)
{
	struct rig *r = *state;
	struct test_root other = test_root_make();
	AUTO_FREE(char) pem = pem_of(other.cert);
	AUTO_FREE(char) both = NULL;
	SSL_SESSION *t;
	bool resumed;

	assert_true(asprintf(&both, "%s%s", g_root_pem, pem) > 0);
	share(r, 2);
	t = visit(&r->a, &r->b, NULL, &resumed);
	trust(&r->b, g_root_pem); /* the same ones again */
	t = visit(&r->a, &r->b, t, &resumed);
	assert_true(resumed);
	trust(&r->b, both);
	t = visit(&r->a, &r->b, t, &resumed);
	assert_false(resumed);
	t = visit(&r->a, &r->b2, t, &resumed); /* which does not know of it yet */
	assert_false(resumed);
	trust(&r->b2, both);
	t = visit(&r->a, &r->b2, visit(&r->a, &r->b, t, &resumed), &resumed);
	assert_true(resumed);
	show(&r->b, KID_HOST, test_svid_at(&g_root, HOST_B, -60, 600));
	t = visit(&r->a, &r->b, t, &resumed);
	assert_false(resumed);
	SSL_SESSION_free(t);
	test_root_free(&other);
}

/* What stands is judged by the roots of now, resumed or not. */
static void test_a_root_less(void **state)
{
	static struct end client, server;
	struct rig *r = *state;
	struct test_root other = test_root_make();
	AUTO_FREE(char) pem = pem_of(other.cert);
	SSL_SESSION *t = NULL;
	bool resumed;
	char why[256];

	for (int i = 0; i < 2; i++) {
		trust(&r->a, g_root_pem);
		trust(&r->b, g_root_pem);
		t = visit(&r->a, &r->b, t, &resumed);
		meet(&client, &server, &r->a, &r->b, i == 0 ? NULL : t);
		assert_int_equal(client.c.resumed, i);
		assert_int_equal(tls_judge(r->b.tls, &server.c.peer, why, sizeof(why)), SESSION_OK);
		trust(&r->b, pem);
		assert_int_equal(tls_judge(r->b.tls, &server.c.peer, why, sizeof(why)), SESSION_UNTRUSTED);
		assert_non_null(strstr(why, WEB));
		assert_int_equal(tls_judge(r->a.tls, &client.c.peer, why, sizeof(why)), SESSION_OK);
		trust(&r->a, pem);
		assert_int_equal(tls_judge(r->a.tls, &client.c.peer, why, sizeof(why)), SESSION_UNTRUSTED);
		assert_false(tls_ticket_is_good(r->a.tls, client.c.ticket));
		part(&client, &server);
	}
	SSL_SESSION_free(t);
	test_root_free(&other);
}

/* A root that was made anew, with the same name and key, is the same. */
static void test_a_root_made_anew(void **state)
{
	static struct end client, server;
	struct rig *r = *state;
	X509 *anew = NULL;
	AUTO_FREE(char) pem = NULL;
	char why[256];

	assert_int_equal(pki_make_root(&anew, g_root.key, TEST_TRUST_DOMAIN, time(NULL) - 60, time(NULL) + 86400), 0);
	pem = pem_of(anew);
	meet(&client, &server, &r->a, &r->b, NULL);
	trust(&r->b, pem);
	assert_int_equal(tls_judge(r->b.tls, &server.c.peer, why, sizeof(why)), SESSION_OK);
	part(&client, &server);
	X509_free(anew);
}

/* A true proof of what is revoked is not a fault of the session. */
static void test_proof_of_the_revoked(void **state)
{
	static struct end client, server;
	struct rig *r = *state;
	uint8_t frame[FRAME_SIZE_MAX];
	struct pki_identity who;
	enum session_reason reason;
	const char *fault;
	char why[256];
	struct frame f;
	ssize_t n;

	show(&r->b, KID_SERVICE, test_svid_at(&g_root, REDIS, -60, 600));
	meet(&client, &server, &r->a, &r->b, NULL);
	n = tls_prove(&server.c, KID_SERVICE, frame);
	assert_true(n > 0 && frame_parse(&f, frame, (size_t)n, false, FRAME_FOR_LANES, &fault) == n);
	assert_int_equal(tls_check_proof(&client.c, f.u.proof.signature, f.u.proof.signature_size, f.u.proof.certificates, f.u.proof.certificates_size,
					 &who, &reason, why, sizeof(why)), 0);
	assert_string_equal(who.spiffe_id, REDIS);
	assert_int_equal(tls_set_revoked(r->a.tls, "id:" REDIS, strlen("id:" REDIS)), 0);
	assert_int_equal(tls_check_proof(&client.c, f.u.proof.signature, f.u.proof.signature_size, f.u.proof.certificates, f.u.proof.certificates_size,
					 &who, &reason, why, sizeof(why)), -EKEYREVOKED);
	assert_int_equal(reason, SESSION_REVOKED);
	assert_string_equal(who.spiffe_id, REDIS);
	assert_int_equal(client.c.reason, SESSION_OK);
	/* Its signature counts all the same: nobody has another's lanes cut with a certificate alone. */
	frame[FRAME_HEADER_SIZE + 10] ^= 1;
	assert_int_equal(tls_check_proof(&client.c, f.u.proof.signature, f.u.proof.signature_size, f.u.proof.certificates, f.u.proof.certificates_size,
					 &who, &reason, why, sizeof(why)), -EPROTO);
	part(&client, &server);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_tickets_are_shared), TEST(test_tickets_grow_old), TEST(test_new_roots_and_certificates),
		TEST(test_a_root_less),	       TEST(test_a_root_made_anew), TEST(test_proof_of_the_revoked),
	};
	int r;

	g_root = test_root_make();
	g_root_pem = pem_of(g_root.cert);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	free(g_root_pem);
	test_root_free(&g_root);
	return r;
}
