/*
 * Keys, certificates, joining and the authority, as the broker sees them: the test is its linker and its signer. Certificates are
 * real in form (the broker reads whose they are, until when, and for which key); a signature is a text, "good by KEY over DIGEST".
 */
#include "core/base64.h"
#include "core/hmac.h"
#include "core/revoked.h"
#include "core/svid.h"
#include "daemon/ca_wire.h"
#include "daemon/test_broker.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum { N_NAMES = 32, N_KIDS = 256, N_CREDENTIALS = 64 };
enum { SESSION_BYTE = 0x77 }; /* what sessions to the authority that the test plays export */

static const char g_links[] = "trust_domain = sealane.local\nhost_name = a\nlisten = \"127.0.0.1:7443\"\n"
			      "service redis {}\nservice web { upstream redis {} }\n";

/* What the linker was told, and what the signer has. */
struct bed {
	/* signer: names of keys and which key it is; kids */
	char names[N_NAMES][LIMIT_PATH_SIZE];
	uint32_t points[N_NAMES];
	uint32_t kids[N_KIDS]; /* kid -> key; 0: none */
	bool apart[N_KIDS];    /* no linker may use it */
	uint32_t last_key;
	bool has_root;
	uint32_t second_root; /* its key; 0: there is none */
	unsigned n_issued, n_forgot;
	int issue_error;
	struct role_issue issued;

	/* linker */
	char roots[4096], revoked[4096];
	struct role_trust trust;
	struct role_credential credentials[N_CREDENTIALS];
	unsigned n_credentials, n_bl_forget;
	uint32_t forgotten;
	bool has_signer;
	/* what the authority says to us: the test's own */
	struct role_ca open, answered;
	unsigned n_opens, n_answers;
	char question[8192], answer[65536];
	int open_error;
	char open_why[64]; /* "": refused */
	int (*authority)(struct host *h, struct bed *t, char *answer, size_t size); /* fills the answer to t->question */
	int64_t life_s, born_s; /* of what it gives, and since when, by our clock */
	bool silent;
	char gone[LIMIT_ADDRESS_SIZE]; /* nobody is there */
	/* what it says in its list, if that is not the usual one */
	int64_t list_made_s; /* beside now */
	struct revoked_version list_version;
	const char *list_entry, *list_roots;
	uint32_t list_key; /* who signs it; 0: the root */
	uint32_t join_root; /* whose certificates who joins gets, and who signs lists from then on; 0: the root */
	uint32_t held_req;  /* of a question that is answered later, by this: */
	char held[16384];
	unsigned n_waiting; /* questions at a signer that answers none */
	unsigned n_lists;  /* that this host had signed, as the authority */
};

/* Whose signature it is, and over what: into @ret of SIGNATURE_SIZE. Return: its size. */
static uint8_t sign_text(uint8_t *ret, uint32_t key, const uint8_t digest[32])
{
	char hex[65];
	int n = snprintf((char *)ret, SIGNATURE_SIZE, "good by %u over %.40s", key, hex_encode(hex, digest, 32));

	assert_true(n < SIGNATURE_SIZE);
	return (uint8_t)n;
}

/* ------------------------------------------------------------------ certificates in form */

struct der_out {
	uint8_t bytes[2048];
	size_t n;
};

static void put(struct der_out *d, uint8_t tag, const void *value, size_t n)
{
	assert_true(n < 1000);
	d->bytes[d->n++] = tag;
	if (n >= 0x80) {
		d->bytes[d->n++] = 0x82;
		d->bytes[d->n++] = (uint8_t)(n >> 8);
	}
	d->bytes[d->n++] = (uint8_t)n;
	memcpy(d->bytes + d->n, value, n);
	d->n += n;
}

static void put_time(struct der_out *d, int64_t unix_s)
{
	time_t t = (time_t)unix_s;
	char text[32];
	struct tm tm;

	gmtime_r(&t, &tm);
	strftime(text, sizeof(text), "%Y%m%d%H%M%SZ", &tm);
	put(d, 0x18, text, strlen(text));
}

static void put_key(struct der_out *d, const uint8_t point[KEY_POINT_SIZE])
{
	struct der_out info = {};
	uint8_t bits[1 + KEY_POINT_SIZE] = { 0 };

	memcpy(bits + 1, point, KEY_POINT_SIZE);
	put(&info, 0x30, "", 0);
	put(&info, 0x03, bits, sizeof(bits));
	put(d, 0x30, info.bytes, info.n);
}

static void put_name(struct der_out *d, const char *id)
{
	struct der_out uri = {}, names = {}, one = {}, list = {}, all = {};

	put(&uri, 0x86, id, strlen(id));
	put(&names, 0x30, uri.bytes, uri.n);
	put(&one, 0x06, "\x55\x1d\x11", 3);
	put(&one, 0x04, names.bytes, names.n);
	put(&list, 0x30, one.bytes, one.n);
	put(&all, 0x30, list.bytes, list.n);
	put(d, 0xa3, all.bytes, all.n);
}

static uint32_t g_signs = 1; /* the key that signs certificates: the root's is number 1 */

/* The signature over what @tbs holds. */
static void put_signature(struct der_out *d, const struct der_out *tbs)
{
	struct der_out signed_ = {};
	uint8_t digest[SHA256_SIZE], bits[1 + SIGNATURE_SIZE] = { 0 };

	put(&signed_, 0x30, tbs->bytes, tbs->n);
	sha256(digest, signed_.bytes, signed_.n);
	put(d, 0x30, "", 0);
	put(d, 0x03, bits, 1u + sign_text(bits + 1, g_signs, digest));
}

/* Into @ret of 4096. */
static char *certificate(char *ret, const struct role_issue *i)
{
	struct der_out tbs = {}, validity = {}, body = {}, all = {};
	char text[4096];

	put(&tbs, 0xa0, "\x02\x01\x02", 3);
	put(&tbs, 0x02, i->serial, sizeof(i->serial));
	put(&tbs, 0x30, "", 0);
	put(&tbs, 0x30, "", 0);
	put_time(&validity, i->not_before);
	put_time(&validity, i->not_after);
	put(&tbs, 0x30, validity.bytes, validity.n);
	put(&tbs, 0x30, "", 0);
	put_key(&tbs, i->public_key);
	put_name(&tbs, i->spiffe_id);
	put(&body, 0x30, tbs.bytes, tbs.n);
	put_signature(&body, &tbs);
	put(&all, 0x30, body.bytes, body.n);
	snprintf(ret, 4096, "-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n", base64_encode(text, all.bytes, all.n, BASE64_STD));
	return ret;
}

static uint32_t key_at(const uint8_t point[KEY_POINT_SIZE])
{
	uint32_t key;

	memcpy(&key, point + 1, sizeof(key));
	return key;
}

static void make_point(uint8_t point[KEY_POINT_SIZE], uint32_t key)
{
	memset(point, 0x11, KEY_POINT_SIZE);
	point[0] = 4;
	memcpy(point + 1, &key, sizeof(key));
}

/* Into @pem of 4096; the key's number is the root's, too. */
static char *root_of(char *pem, uint32_t key)
{
	struct role_issue i = { .not_before = 1, .not_after = INT64_C(4000000000), .serial = { 0x40, (uint8_t)key }, .spiffe_id = "spiffe://sealane.local" };
	uint32_t signs = g_signs;

	make_point(i.public_key, key);
	g_signs = key;
	certificate(pem, &i);
	g_signs = signs;
	return pem;
}

/* The root of these tests, whose key is number 1. */
static const char *root_pem(void)
{
	static char pem[4096];

	return root_of(pem, 1);
}

/* ------------------------------------------------------------------ the signer */

static int text_fd(const char *text)
{
	int fd = memfd_create("text", MFD_CLOEXEC);

	assert_int_equal(pwrite(fd, text, strlen(text), 0), strlen(text));
	return fd;
}

static uint32_t *key_called(struct bed *t, const char *name)
{
	for (size_t i = 0; i < N_NAMES; i++) {
		if (!t->names[i][0])
			strcpy(t->names[i], name);
		if (strcmp(t->names[i], name) == 0)
			return &t->points[i];
	}
	fail_msg("too many keys");
	return NULL;
}

static void play_key(struct bed *t, const struct role_key *k, int fd, struct role_msg *r)
{
	uint32_t *key = key_called(t, k->name), foreign = 0;

	assert_true(k->kid < N_KIDS);
	if (fd >= 0) { /* a file of the test's: the number of the key */
		char text[16] = "";

		assert_true(pread(fd, text, sizeof(text) - 1, 0) > 0);
		foreign = (uint32_t)strtoul(text, NULL, 10);
		key = &foreign;
	} else if (k->fresh || !*key) {
		*key = 100 + ++t->last_key;
	}
	t->kids[k->kid] = *key;
	t->apart[k->kid] = k->apart;
	make_point(r->u.signed_.public_key, *key);
}

static void play_sign(const struct bed *t, uint32_t key, const uint8_t digest[32], struct role_msg *r)
{
	assert_int_not_equal(key, 0);
	r->u.signed_.signature_size = sign_text(r->u.signed_.signature, key, digest);
}

static void play_verify(const struct role_verify *v, struct role_msg *r)
{
	uint8_t expected[SIGNATURE_SIZE];
	uint8_t n = sign_text(expected, key_at(v->public_key), v->digest);

	r->u.signed_.error = n == v->signature_size && memcmp(expected, v->signature, n) == 0 ? 0 : -EKEYREJECTED;
}

static int play_issue(struct bed *t, const struct role_issue *i, struct role_msg *r)
{
	char pem[4096];

	assert_true(t->has_root);
	r->u.signed_.error = t->issue_error;
	if (i->proof_size && i->proof[0] != 'g') /* the test's proofs begin so when they are good */
		r->u.signed_.error = -EKEYREJECTED;
	if (r->u.signed_.error)
		return -1;
	t->issued = *i;
	t->n_issued++;
	g_signs = i->slot ? t->second_root : 1;
	certificate(pem, i);
	g_signs = 1;
	return text_fd(pem);
}

static int play_root(struct bed *t, const struct role_ca_key *k, struct role_msg *r)
{
	char pem[4096];

	if (k->slot == 1) {
		if (k->make == CA_MAKE_ANEW)
			t->second_root = t->second_root ? t->second_root + 1 : 2;
		r->u.signed_.error = t->second_root ? 0 : -ENOENT;
		return t->second_root ? text_fd(root_of(pem, t->second_root)) : -1;
	}
	if (!k->make && !t->has_root)
		r->u.signed_.error = -ENOENT;
	else if (k->make && t->has_root)
		r->u.signed_.error = -EEXIST;
	t->has_root |= k->make;
	return r->u.signed_.error ? -1 : text_fd(root_pem());
}

static void play_signer(struct host *h, const struct role_msg *m, int fd)
{
	struct role_msg r = { .type = SB_REPLY, .seq = m->seq };
	struct bed *t = h->test;
	uint8_t labelled[SHA256_SIZE];
	AUTO_FD reply = -1;

	switch (m->type) {
	case BS_LINKER:
		return;
	case BS_FORGET:
		t->kids[m->u.id.id] = 0;
		t->n_forgot++;
		return;
	case BS_KEY:
		play_key(t, &m->u.key, fd, &r);
		break;
	case BS_SIGN:
		play_sign(t, t->kids[m->u.sign.kid], m->u.sign.digest, &r);
		break;
	case BS_SIGN_LIST:
		assert_true(t->has_root);
		t->n_lists++;
		ca_list_signed(labelled, m->u.sign.digest);
		play_sign(t, m->u.sign.kid ? t->second_root : 1, labelled, &r);
		break;
	case BS_VERIFY:
		play_verify(&m->u.verify, &r);
		break;
	case BS_CA:
		reply = play_root(t, &m->u.ca_key, &r);
		break;
	default:
		assert_int_equal(m->type, BS_ISSUE);
		reply = play_issue(t, &m->u.issue, &r);
	}
	tell(&h->signer, &r, reply);
}

/* ------------------------------------------------------------------ the linker */

static void read_text(int fd, char *buf, size_t size)
{
	ssize_t n = pread(fd, buf, size - 1, 0);

	assert_true(n >= 0);
	buf[n] = '\0';
}

static void play_credential(struct bed *t, const struct role_credential *c, int fd)
{
	char pem[4096];
	struct svid s;
	uint8_t point[KEY_POINT_SIZE];

	read_text(fd, pem, sizeof(pem));
	assert_int_equal(svid_read(&s, pem, strlen(pem)), 0);
	assert_string_equal(s.spiffe_id, c->spiffe_id);
	assert_int_equal(s.not_after, c->not_after);
	/* What is shown can be signed for: the signer has the key of this very certificate under this kid. */
	assert_true(c->kid < N_KIDS && !t->apart[c->kid]);
	make_point(point, t->kids[c->kid]);
	assert_memory_equal(point, s.point, sizeof(point));
	t->credentials[t->n_credentials++ % N_CREDENTIALS] = *c;
}

static void play_answer(struct host *h, struct bed *t, const struct role_ca *ca)
{
	struct role_msg m = { .type = LB_CA_ANSWER, .u.ca = { .req = ca->req } };
	char text[16384];
	AUTO_FD fd = -1;

	if (t->silent)
		return;
	m.u.ca.error = t->authority(h, t, text, sizeof(text));
	if (m.u.ca.error)
		strcpy(m.u.ca.why, "the test broke it");
	else
		fd = text_fd(text);
	tell(&h->linker, &m, fd);
}

static void play_open(struct host *h, struct bed *t, const struct role_ca *ca)
{
	int error = strcmp(ca->address, t->gone) == 0 ? -ECONNREFUSED : t->open_error;
	struct role_msg m = { .type = error ? LB_CA_ANSWER : LB_CA_READY, .u.ca = { .req = ca->req, .error = error } };

	t->open = *ca;
	t->n_opens++;
	if (t->silent)
		return;
	memset(m.u.ca.exporter, SESSION_BYTE, sizeof(m.u.ca.exporter));
	strcpy(m.u.ca.why, !error ? "" : t->open_why[0] ? t->open_why : "connect: ECONNREFUSED");
	tell(&h->linker, &m, -1);
}

static void play_linker(struct host *h, const struct role_msg *m, int fd)
{
	struct bed *t = h->test;

	switch (m->type) {
	case BL_SIGNER:
		t->has_signer = true;
		break;
	case BL_TRUST:
		t->trust = m->u.trust;
		read_text(fd, t->roots, sizeof(t->roots));
		break;
	case BL_REVOKED:
		read_text(fd, t->revoked, sizeof(t->revoked));
		break;
	case BL_CREDENTIAL:
		play_credential(t, &m->u.credential, fd);
		break;
	case BL_FORGET:
		t->n_bl_forget++;
		t->forgotten = m->u.id.id;
		break;
	case BL_CA_OPEN:
		play_open(h, t, &m->u.ca);
		break;
	case BL_CA_ASK:
		read_text(fd, t->question, sizeof(t->question));
		play_answer(h, t, &m->u.ca);
		break;
	case BL_CA_ANSWER:
		t->n_answers++;
		t->answered = m->u.ca;
		read_text(fd, t->answer, sizeof(t->answer));
		break;
	default:
		break;
	}
}

static void start_both(struct host *h)
{
	start_signer(h);
	start_linker(h);
	serve(h, 200);
}

static int setup_links(void **state)
{
	struct host *h;
	struct bed *t = calloc(1, sizeof(*t));
	int r = setup(state);

	h = *state;
	assert_non_null(t);
	h->test = t;
	h->play_linker = play_linker;
	h->play_signer = play_signer;
	t->life_s = 3600;
	send_config(h, g_links);
	serve(h, 200);
	start_both(h);
	return r;
}

static int teardown_links(void **state)
{
	struct host *h = *state;

	free(h->test);
	return teardown(state);
}

static int setup_authority(void **state)
{
	int r = setup_links(state);

	assert_int_equal(http(*state, "POST", "/v1/ca", ""), 200);
	serve(*state, 300);
	return r;
}

static void restart(struct host *h, const char *config)
{
	struct bed *t = h->test;

	host_stop(h);
	memset(t->kids, 0, sizeof(t->kids)); /* the signer has its files, and no kid yet */
	t->n_credentials = 0;
	host_start(h);
	send_config(h, config);
	serve(h, 200);
	start_both(h);
}

static const struct role_credential *shown(const struct bed *t, const char *id)
{
	for (unsigned i = t->n_credentials; i-- > 0;)
		if (strcmp(t->credentials[i % N_CREDENTIALS].spiffe_id, id) == 0)
			return &t->credentials[i % N_CREDENTIALS];
	fail_msg("%s was never shown", id);
	return NULL;
}

/* ------------------------------------------------------------------ the authority */

static void test_before_all(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;

	assert_true(t->has_signer);
	assert_string_equal(t->roots, "");
	assert_string_equal(t->trust.host, "a");
	assert_int_equal(t->n_credentials, 0);
	assert_int_equal(t->n_opens, 0);
	assert_int_equal(http(h, "GET", "/v1/certificates", ""), 200);
	assert_told("\"source\":\"none\"", "\"host\":\"a\"");
	assert_then("default/web", "sealane ca init");
	assert_non_null(strstr(g_answer, "\"spiffe_id\":\"spiffe://sealane.local/host/a\""));
	assert_int_equal(http(h, "POST", "/v1/ca/tokens", "{\"host\":\"b\"}"), 409);
	assert_non_null(strstr(g_answer, "sealane ca init"));
	assert_int_equal(http(h, "POST", "/v1/join", "{\"token\":\"sl2.abc\"}"), 409);
	assert_non_null(strstr(g_answer, "that is no token"));
	assert_int_equal(http(h, "POST", "/v1/join", "{\"token\":\"sl1.abc\"}"), 409);
	assert_non_null(strstr(g_answer, "the token is damaged"));
}

static void test_init(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	uint8_t print[32];
	char hex[65];

	assert_int_equal(svid_fingerprint(print, root_pem(), strlen(root_pem())), 0);
	assert_int_equal(http(h, "POST", "/v1/ca", ""), 200);
	assert_non_null(strstr(g_answer, hex_encode(hex, print, 32)));
	serve(h, 300);
	assert_string_equal(t->roots, root_pem());
	assert_int_equal(t->n_issued, 3);
	assert_int_equal(shown(t, "spiffe://sealane.local/host/a")->kid, 0);
	assert_int_not_equal(shown(t, "spiffe://sealane.local/ns/default/svc/web")->kid, 0);
	assert_int_not_equal(shown(t, "spiffe://sealane.local/ns/default/svc/web")->kid, shown(t, "spiffe://sealane.local/ns/default/svc/redis")->kid);
	assert_int_equal(http(h, "GET", "/v1/certificates", ""), 200);
	assert_told("\"source\":\"self\"", "\"authority\":\"a\"");
	assert_null(strstr(g_answer, "missing"));
	assert_int_equal(http(h, "POST", "/v1/ca", ""), 409);
	assert_non_null(strstr(g_answer, "already"));
	assert_int_equal(http(h, "GET", "/metrics", ""), 200);
	assert_non_null(strstr(g_answer, "sealane_certificate_expiry_seconds{spiffe_id=\"spiffe://sealane.local/host/a\"}"));
	/* The same after a restart: nothing new is made, and the signer has to find its root again before it issues. */
	restart(h, g_links);
	assert_int_equal(t->n_issued, 3);
	assert_int_equal(t->n_credentials, 3);
	assert_string_equal(t->roots, root_pem());
}

static void test_signer_restarts(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;

	memset(t->kids, 0, sizeof(t->kids));
	t->n_credentials = 0;
	t->has_signer = false;
	start_signer(h);
	serve(h, 300);
	assert_true(t->has_signer);
	assert_int_equal(t->n_credentials, 3);
	assert_int_equal(t->n_issued, 3);
	/* Its files are gone: a certificate without a key is none. */
	memset(t->kids, 0, sizeof(t->kids));
	memset(t->names, 0, sizeof(t->names));
	memset(t->points, 0, sizeof(t->points));
	start_signer(h);
	serve(h, 2500);
	assert_int_equal(t->n_issued, 6);
	assert_int_equal(http(h, "GET", "/v1/certificates", ""), 200);
	assert_null(strstr(g_answer, "missing"));
}

static void test_linker_restarts(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;

	t->n_credentials = 0;
	t->has_signer = false;
	memset(t->roots, 0, sizeof(t->roots));
	start_linker(h);
	serve(h, 300);
	assert_true(t->has_signer);
	assert_int_equal(t->n_credentials, 3);
	assert_string_equal(t->roots, root_pem());
}

static void test_services_come_and_go(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	uint32_t web = shown(t, "spiffe://sealane.local/ns/default/svc/web")->kid;

	send_config(h, "trust_domain = sealane.local\nhost_name = a\nlisten = \"127.0.0.1:7443\"\nservice redis {}\nservice api {}\n");
	serve(h, 400);
	assert_int_equal(t->n_issued, 4);
	shown(t, "spiffe://sealane.local/ns/default/svc/api");
	assert_int_equal(t->forgotten, web);
	/* A host that is called otherwise than its certificate says shows none. */
	send_config(h, "trust_domain = sealane.local\nhost_name = z\nlisten = \"127.0.0.1:7443\"\nservice redis {}\n");
	serve(h, 200);
	assert_int_equal(http(h, "GET", "/v1/certificates", ""), 200);
	assert_non_null(strstr(g_answer, "is not what this host joined with"));
}

/* ------------------------------------------------------------------ questions to the authority */

static char g_token[512];

static const char *make_token(struct host *h, const char *body)
{
	const char *at;

	assert_int_equal(http(h, "POST", "/v1/ca/tokens", body), 200);
	at = strstr(g_answer, "\"token\":\"");
	assert_non_null(at);
	snprintf(g_token, sizeof(g_token), "%.*s", (int)strcspn(at + 9, "\""), at + 9);
	return g_token;
}

enum { ASK_KEY = 8888, NEW_KEY = 7777 };

static uint8_t g_session = 0x55;

/* The exporter's value of the session that questions come by. */
static const uint8_t *session_value(void)
{
	static uint8_t value[32];

	memset(value, g_session, sizeof(value));
	return value;
}

static void begin_question(struct host *h, enum ca_mode mode, const char *peer, uint32_t req, const char *text)
{
	struct role_msg m = { .type = LB_CA_ASK, .u.ca = { .req = req, .mode = mode } };
	AUTO_FD fd = text_fd(text);

	strcpy(m.u.ca.peer, peer);
	memcpy(m.u.ca.exporter, session_value(), sizeof(m.u.ca.exporter));
	tell(&h->linker, &m, fd);
}

/* The answer is in bed.answer. */
static void question(struct host *h, enum ca_mode mode, const char *peer, const char *text)
{
	struct bed *t = h->test;
	unsigned before = t->n_answers;
	uint64_t give_up_ns = clock_ns() + UINT64_C(20000000000);

	begin_question(h, mode, peer, 40 + before, text);
	while (t->n_answers == before && clock_ns() < give_up_ns)
		serve(h, 10);
	serve(h, 10); /* what follows an answer needs no timer */
	assert_int_equal(t->n_answers, before + 1);
	assert_int_equal(t->answered.req, 40 + before);
	assert_int_equal(t->answered.error, 0);
}

/* @proof: by the key that is to be certified: "good", or not. @key: signs the question of a host; @mac_key: proves one that joins. */
static char *proven_text(const struct ca_question *from, const char *proof, uint32_t key, const uint8_t *mac_key)
{
	static char text[4096];
	struct ca_question q = *from;
	uint8_t digest[32];

	make_point(q.key, NEW_KEY);
	q.proof_size = (uint8_t)strlen(proof);
	memcpy(q.proof, proof, q.proof_size);
	AUTO_FREE(char) body = ca_question_body(&q);
	if (mac_key)
		ca_join_mac(q.mac, mac_key, session_value(), q.digest);
	ca_question_signed(digest, session_value(), q.digest);
	q.signature_size = sign_text(q.signature, key, digest);
	AUTO_FREE(char) made = ca_question_text(&q, body);
	snprintf(text, sizeof(text), "%s", made);
	return text;
}

static char *ask_text(const struct ca_question *from, const char *proof)
{
	return proven_text(from, proof, ASK_KEY, NULL);
}

static char *join_text(const char *token, const char *host, const char *proof)
{
	struct ca_question q = { .op = CA_OP_JOIN };
	struct token_known known;
	struct token t;

	assert_int_equal(token_parse(&t, token), 0);
	token_known(&known, t.secret);
	memcpy(q.token, known.id, sizeof(q.token));
	strcpy(q.host, host);
	make_point(q.ask, ASK_KEY);
	return proven_text(&q, proof, 0, known.key);
}

static char *service_text(const char *service, const char *proof)
{
	struct ca_question q = { .op = CA_OP_SERVICE };

	assert_int_equal(service_name_parse(&q.service, service, NULL), 0);
	return ask_text(&q, proof);
}

#define HOST_B "spiffe://sealane.local/host/b"

static void assert_refused(const struct bed *t, const char *error, const char *why)
{
	char expected[64];

	snprintf(expected, sizeof(expected), "\"error\":\"%s\"", error);
	if (!strstr(t->answer, expected) || !strstr(t->answer, why))
		fail_msg("not %s, %s: %s", error, why, t->answer);
}

/* The answer to a question to join, proven by the token's key as the question was. End: ca_answer_free(). */
static struct ca_answer joined(const struct bed *t, const char *token, const char *question_text)
{
	struct token_known known;
	struct ca_question q;
	struct ca_answer a;
	struct token parsed;
	uint8_t mac[32];
	char why[256];

	assert_int_equal(token_parse(&parsed, token), 0);
	token_known(&known, parsed.secret);
	assert_int_equal(ca_question_read(&q, question_text, strlen(question_text), why, sizeof(why)), 0);
	if (ca_answer_read(&a, CA_OP_JOIN, t->answer, strlen(t->answer), why, sizeof(why)) < 0 || a.error)
		fail_msg("%s", t->answer);
	ca_joined_mac(mac, known.key, session_value(), q.digest, a.digest);
	assert_memory_equal(a.mac, mac, sizeof(mac));
	return a;
}

/* @host joins, and may have certificates for @services (JSON). */
static void admit(struct host *h, const char *host, const char *services)
{
	char body[256], token[512];

	snprintf(body, sizeof(body), "{\"host\":\"%s\",\"services\":%s}", host, services);
	strcpy(token, make_token(h, body));
	question(h, CA_JOIN, "", join_text(token, host, "good"));
}

static void test_token_is_used_once(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	struct ca_answer a;
	struct token parsed;
	char token[512], wrong[512];
	uint8_t print[32];

	strcpy(token, make_token(h, "{\"host\":\"b\",\"services\":[\"redis\",\"prod/*\"],\"address\":\"10.0.0.1:7443\"}"));
	assert_int_equal(token_parse(&parsed, token), 0);
	assert_string_equal(parsed.address, "10.0.0.1:7443");
	assert_string_equal(parsed.host, "a");
	assert_int_equal(svid_fingerprint(print, root_pem(), strlen(root_pem())), 0);
	assert_memory_equal(parsed.root, print, sizeof(print));
	/* For another host, and with a secret that nobody made: the same answer, and the token is not used up. */
	question(h, CA_JOIN, "", join_text(token, "c", "good"));
	assert_refused(t, "used", "wrong, used, over, or for another host");
	strcpy(wrong, token);
	parsed.secret[3] ^= 1;
	question(h, CA_JOIN, "", join_text(token_format(wrong, &parsed), "b", "good"));
	assert_refused(t, "used", "wrong, used, over, or for another host");
	question(h, CA_JOIN, "", join_text(token, "b", "good"));
	a = joined(t, token, join_text(token, "b", "good"));
	assert_string_equal(a.trust_domain, "sealane.local");
	assert_string_equal(a.roots, root_pem());
	ca_answer_free(&a);
	assert_string_equal(t->issued.spiffe_id, HOST_B);
	assert_in_range(t->issued.not_after - t->issued.not_before, 30 * 3600, 30 * 3600 + 600);
	/* What it proves is this session. */
	uint8_t proven[32];
	ca_proven(proven, session_value());
	assert_memory_equal(t->issued.proven, proven, sizeof(proven));
	question(h, CA_JOIN, "", join_text(token, "b", "good"));
	assert_refused(t, "used", "wrong, used, over, or for another host");
	/* What the token said it may have. */
	question(h, CA_HOST, HOST_B, service_text("prod/anything", "good"));
	assert_string_equal(t->issued.spiffe_id, "spiffe://sealane.local/ns/prod/svc/anything");
	assert_in_range(t->issued.not_after - t->issued.not_before, 3600, 4200);
	question(h, CA_HOST, HOST_B, service_text("default/web", "good"));
	assert_refused(t, "denied", "may not have certificates for default/web");
	assert_int_equal(http(h, "GET", "/v1/events", ""), 200);
	assert_then("host.join", "\"host\":\"b\"");
	assert_then("ca.refuse", "\"reason\":\"used\"");
	assert_null(strstr(g_answer, token)); /* not in the log, ever */
}

/* Whoever carries the question can change or repeat nothing of it; what he tries costs the token nothing. */
static void test_join_is_proven(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	struct ca_question q = { .op = CA_OP_JOIN, .host = "b" };
	struct token_known known, wrong;
	struct token parsed;
	char token[512], *text, *at;

	strcpy(token, make_token(h, "{\"host\":\"b\"}"));
	assert_int_equal(token_parse(&parsed, token), 0);
	token_known(&known, parsed.secret);
	/* The id is no secret: with it alone, and a key of one's own, nothing is to be had. */
	wrong = known;
	wrong.key[0] ^= 1;
	memcpy(q.token, known.id, sizeof(q.token));
	make_point(q.ask, ASK_KEY);
	question(h, CA_JOIN, "", proven_text(&q, "good", 0, wrong.key));
	assert_refused(t, "used", "");
	/* Another key in the same question: one's own to sign with, or to be certified. */
	text = join_text(token, "b", "good");
	at = strstr(text, "\\\"ask\\\":\\\"BLgi");
	assert_non_null(at);
	at[strlen("\\\"ask\\\":\\\"BL")] = 'h';
	question(h, CA_JOIN, "", text);
	assert_refused(t, "used", "");
	/* Of another session. */
	text = join_text(token, "b", "good");
	g_session = 0x56;
	question(h, CA_JOIN, "", text);
	g_session = 0x55;
	assert_refused(t, "used", "");
	assert_int_equal(t->n_issued, 3);
	question(h, CA_JOIN, "", join_text(token, "b", "good"));
	assert_int_equal(t->n_issued, 4);
}

/* At the same moment, each by itself as it should be. */
static void test_two_with_one_token(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	char token[512];

	strcpy(token, make_token(h, "{\"host\":\"b\"}"));
	for (uint32_t i = 0; i < 4; i++)
		begin_question(h, CA_JOIN, "", 60 + i, join_text(token, "b", "good"));
	serve(h, 300);
	assert_int_equal(t->n_answers, 4);
	assert_int_equal(t->n_issued, 4); /* this host's three, and one */
}

#define HOST_C "spiffe://sealane.local/host/c"

/* A linker's word for it who asks is not enough. */
static void test_who_asks(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	struct ca_question q = { .op = CA_OP_SERVICE };
	char *text, *at;

	assert_int_equal(service_name_parse(&q.service, "default/web", NULL), 0);
	question(h, CA_HOST, HOST_B, service_text("default/web", "good"));
	assert_refused(t, "denied", "does not know by which key this host asks");
	admit(h, "b", "[\"default/web\"]");
	question(h, CA_HOST, HOST_B, service_text("default/web", "good"));
	assert_non_null(strstr(t->answer, "\"certificate\""));
	assert_int_equal(t->n_issued, 5);
	/* Somebody else's signature, in b's name. */
	question(h, CA_HOST, HOST_B, proven_text(&q, "good", 4242, NULL));
	assert_refused(t, "denied", "not signed by the key that this host joined with");
	/* b's own question, with another key to be certified. */
	text = service_text("default/web", "good");
	at = strstr(text, "\\\"key\\\":\\\"BGEe");
	assert_non_null(at);
	at[strlen("\\\"key\\\":\\\"BG")] = 'F';
	question(h, CA_HOST, HOST_B, text);
	assert_refused(t, "denied", "not signed");
	/* In another session, and as another host's. */
	text = service_text("default/web", "good");
	g_session = 0x56;
	question(h, CA_HOST, HOST_B, text);
	g_session = 0x55;
	assert_refused(t, "denied", "not signed");
	question(h, CA_HOST, HOST_C, service_text("default/web", "good"));
	assert_refused(t, "denied", "does not know by which key");
	assert_int_equal(t->n_issued, 5);
	/* It outlives the daemon, and is another one when the host joins again. */
	restart(h, g_links);
	question(h, CA_HOST, HOST_B, service_text("default/web", "good"));
	assert_int_equal(t->n_issued, 6);
}

/* One signature for all who ask within some seconds; another one when something changed. */
static void test_list_is_signed_once(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	struct ca_question q = { .op = CA_OP_REVOKED };
	uint8_t digest[32], expected[SIGNATURE_SIZE];
	uint32_t shared = 0;
	struct ca_answer a;
	char why[256];

	for (int i = 0; i < 3; i++) {
		question(h, CA_HOST, HOST_B, ask_text(&q, "good"));
		if (i == 0)
			shared = t->answered.shared;
		assert_int_equal(t->answered.shared, shared);
	}
	assert_int_not_equal(shared, 0);
	assert_int_equal(t->n_lists, 1);
	assert_int_equal(ca_answer_read(&a, CA_OP_REVOKED, t->answer, strlen(t->answer), why, sizeof(why)), 0);
	assert_string_equal(a.roots, root_pem());
	assert_int_equal(svid_fingerprint(digest, root_pem(), strlen(root_pem())), 0);
	assert_memory_equal(a.signatures[0].root, digest, sizeof(digest));
	ca_list_signed(digest, a.digest);
	assert_int_equal(a.signatures[0].signature_size, sign_text(expected, 1, digest));
	assert_memory_equal(a.signatures[0].signature, expected, a.signatures[0].signature_size);
	assert_in_range(a.made_unix_s, time(NULL) - 60, time(NULL));
	ca_answer_free(&a);
	assert_int_equal(http(h, "POST", "/v1/ca/revoked", "{\"what\":\"web\"}"), 200);
	question(h, CA_HOST, HOST_B, ask_text(&q, "good"));
	assert_int_equal(t->n_lists, 2);
	assert_non_null(strstr(t->answer, "svc/web"));
	assert_true(t->answered.shared > shared);
	/* Without the entries it is another text. */
	shared = t->answered.shared;
	assert_int_equal(ca_answer_read(&a, CA_OP_REVOKED, t->answer, strlen(t->answer), why, sizeof(why)), 0);
	q.version = a.version;
	ca_answer_free(&a);
	question(h, CA_HOST, HOST_B, ask_text(&q, "good"));
	assert_null(strstr(t->answer, "svc/web"));
	assert_int_not_equal(t->answered.shared, shared);
	assert_int_equal(t->n_lists, 2);
}

/* Those who ask while it is being signed all get that one; who asks without end is told to wait, and others are not. */
static void test_lists_without_end(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	struct ca_question q = { .op = CA_OP_REVOKED };
	unsigned before = t->n_answers;

	for (uint32_t i = 0; i < 2 * LIMIT_CA_LISTS_AT_ONCE; i++)
		begin_question(h, CA_HOST, HOST_B, 1000 + i, ask_text(&q, "good"));
	serve(h, 500);
	assert_int_equal(t->n_answers, before + 2 * LIMIT_CA_LISTS_AT_ONCE);
	assert_int_equal(t->n_lists, 1);
	/* One in a second may be the last of a batch. */
	for (uint32_t batch = 2000; batch < 2010 && !strstr(t->answer, "\"busy\""); batch++) {
		before = t->n_answers;
		for (uint32_t i = 0; i < LIMIT_CA_LISTS_AT_ONCE; i++)
			begin_question(h, CA_HOST, HOST_B, batch * 100 + i, ask_text(&q, "good"));
		serve(h, 500);
		assert_int_equal(t->n_answers, before + LIMIT_CA_LISTS_AT_ONCE);
	}
	assert_refused(t, "busy", "was sent the list");
	question(h, CA_HOST, HOST_C, ask_text(&q, "good"));
	assert_non_null(strstr(t->answer, "\"list\""));
}

static void test_token_ends(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	char token[512];

	strcpy(token, make_token(h, "{\"host\":\"b\",\"for_s\":1}"));
	serve(h, 2100);
	question(h, CA_JOIN, "", join_text(token, "b", "good"));
	assert_refused(t, "used", "wrong, used, over");
	assert_int_equal(http(h, "POST", "/v1/ca/tokens", "{\"host\":\"b\",\"for_s\":0}"), 400);
	assert_int_equal(http(h, "POST", "/v1/ca/tokens", "{\"host\":\"B\"}"), 400);
	assert_int_equal(http(h, "POST", "/v1/ca/tokens", "{\"host\":\"a\"}"), 400);
	assert_int_equal(http(h, "POST", "/v1/ca/tokens", "{\"host\":\"b\",\"services\":[\"a/b/c\"]}"), 400);
	assert_int_equal(http(h, "POST", "/v1/ca/tokens", "{\"host\":\"b\",\"address\":\"a.example:7443\"}"), 400);
	send_config(h, "trust_domain = sealane.local\nhost_name = a\nlisten = \"0.0.0.0:7443\"\nservice redis {}\n");
	serve(h, 200);
	assert_int_equal(http(h, "POST", "/v1/ca/tokens", "{\"host\":\"b\"}"), 409);
	assert_non_null(strstr(g_answer, "give --address"));
}

static void test_who_may_ask_what(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	char token[512];

	strcpy(token, make_token(h, "{\"host\":\"b\",\"services\":[\"*\"]}"));
	question(h, CA_JOIN, "", service_text("default/web", "good"));
	assert_refused(t, "denied", "a host without a certificate may join");
	question(h, CA_HOST, HOST_B, join_text(token, "b", "good"));
	assert_refused(t, "denied", "a host without a certificate may join");
	question(h, CA_HOST, "spiffe://sealane.local/ns/default/svc/web", service_text("default/web", "good"));
	assert_refused(t, "denied", "");
	question(h, CA_HOST, "spiffe://other.domain/host/b", service_text("default/web", "good"));
	assert_refused(t, "denied", "");
	question(h, CA_HOST, HOST_B, "{\"op\":\"service\"}");
	assert_refused(t, "malformed", "");
	question(h, CA_JOIN, "", "\xff\xfe");
	assert_refused(t, "malformed", "");
	/* Who does not hold the key gets nothing; the token is used up all the same. */
	question(h, CA_JOIN, "", join_text(token, "b", "bad"));
	assert_refused(t, "malformed", "the proof is not by the key");
	question(h, CA_JOIN, "", join_text(token, "b", "good"));
	assert_refused(t, "used", "");
	assert_int_equal(t->n_issued, 3);
	t->issue_error = -EIO;
	question(h, CA_HOST, HOST_B, service_text("default/web", "good"));
	assert_refused(t, "failed", "could not make it");
}

static void grant(struct host *h, const char *body)
{
	assert_int_equal(http(h, "POST", "/v1/ca/grants", body), 200);
}

static void test_grants(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;

	admit(h, "b", "[]");
	admit(h, "c", "[]");
	question(h, CA_HOST, HOST_B, service_text("default/web", "good"));
	assert_refused(t, "denied", "may not have");
	grant(h, "{\"host\":\"b\",\"service\":\"web\"}");
	question(h, CA_HOST, HOST_B, service_text("default/web", "good"));
	assert_non_null(strstr(t->answer, "\"certificate\""));
	question(h, CA_HOST, HOST_C, service_text("default/web", "good"));
	assert_refused(t, "denied", "may not have");
	assert_int_equal(http(h, "DELETE", "/v1/ca/grants?host=b&service=web", ""), 200);
	question(h, CA_HOST, HOST_B, service_text("default/web", "good"));
	assert_refused(t, "denied", "may not have");
	assert_int_equal(http(h, "DELETE", "/v1/ca/grants?host=b&service=web", ""), 404);
	/* The host's own is renewed without a grant. */
	question(h, CA_HOST, HOST_B, ask_text(&(struct ca_question){ .op = CA_OP_HOST }, "good"));
	assert_string_equal(t->issued.spiffe_id, HOST_B);
	assert_int_equal(http(h, "GET", "/v1/ca", ""), 200);
	assert_told("\"host\":\"b\"", HOST_B);
}

static void take_back(struct host *h, const char *what, int status)
{
	char body[256];

	snprintf(body, sizeof(body), "{\"what\":\"%s\"}", what);
	assert_int_equal(http(h, "POST", "/v1/ca/revoked", body), status);
}

/* A member that has the list @have asks for it. @ret_version: of the one that the authority has. */
static void ask_revoked(struct host *h, const char *have, char ret_version[REVOKED_VERSION_SIZE])
{
	struct bed *t = h->test;
	struct ca_question q = { .op = CA_OP_REVOKED };
	struct ca_answer a;
	char why[256];

	assert_int_equal(revoked_version_parse(&q.version, have), 0);
	question(h, CA_HOST, HOST_C, ask_text(&q, "good"));
	if (ca_answer_read(&a, CA_OP_REVOKED, t->answer, strlen(t->answer), why, sizeof(why)) < 0 || a.error)
		fail_msg("%s", t->answer);
	revoked_version_format(ret_version, &a.version);
	ca_answer_free(&a);
}

/* The serial of the certificate that was issued last. */
static const char *last_serial(const struct bed *t)
{
	static char text[2 * SERIAL_SIZE + 1];

	return hex_encode(text, t->issued.serial, sizeof(t->issued.serial));
}

static void give_back(struct host *h, const char *what, int status)
{
	char path[256];

	snprintf(path, sizeof(path), "/v1/ca/revoked?what=%s", what);
	assert_int_equal(http(h, "DELETE", path, ""), status);
}

/* Is the certificate that was issued last on the list that linkers were told? */
static bool last_is_revoked(const struct bed *t)
{
	struct revoked_list *l = NULL;
	bool found;

	assert_int_equal(revoked_list_parse(&l, t->revoked, strlen(t->revoked)), 0);
	found = revoked_list_find(l, t->issued.spiffe_id, last_serial(t), t->issued.not_before) != NULL;
	revoked_list_free(l);
	return found;
}

static void assert_issued(struct host *h, const char *host_id, const char *service)
{
	struct bed *t = h->test;

	question(h, CA_HOST, host_id, service_text(service, "good"));
	assert_non_null(strstr(t->answer, "\"certificate\""));
}

#define X_REVOKED "id:spiffe://sealane.local/host/x\n"
#define WEB "spiffe://sealane.local/ns/default/svc/web"

static void test_revocation(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	char first[REVOKED_VERSION_SIZE], again[REVOKED_VERSION_SIZE];

	admit(h, "b", "[\"*\"]");
	assert_issued(h, HOST_B, "default/web");
	/* That host's certificates for one service; the wide grant does not give them back. */
	take_back(h, "web@b", 200);
	assert_non_null(strstr(t->revoked, ":" WEB "@b\n"));
	assert_true(last_is_revoked(t));
	question(h, CA_HOST, HOST_B, service_text("default/web", "good"));
	assert_refused(t, "denied", "may not have");
	assert_issued(h, HOST_B, "default/api");
	assert_false(last_is_revoked(t));
	give_back(h, "web@b", 200);
	assert_string_equal(t->revoked, "");
	assert_issued(h, HOST_B, "default/web");
	/* A service, everywhere; here too. */
	take_back(h, "web", 200);
	assert_non_null(strstr(t->revoked, "id:" WEB "\n"));
	assert_true(last_is_revoked(t));
	question(h, CA_HOST, HOST_B, service_text("default/web", "good"));
	assert_refused(t, "denied", "revoked");
	assert_int_equal(http(h, "GET", "/v1/certificates", ""), 200);
	assert_told("\"name\":\"default/web\"", "\"state\":\"revoked\"");
	/* A host, with all that it has; it cannot be let in by a token either. */
	assert_issued(h, HOST_B, "default/api");
	take_back(h, "host/b", 200);
	assert_non_null(strstr(t->revoked, "id:" HOST_B "\n"));
	assert_true(last_is_revoked(t));
	question(h, CA_HOST, HOST_B, service_text("default/api", "good"));
	assert_refused(t, "denied", "revoked");
	assert_int_equal(http(h, "POST", "/v1/ca/tokens", "{\"host\":\"b\"}"), 409);
	assert_non_null(strstr(g_answer, "unrevoke"));
	/* It outlives the daemon. */
	restart(h, g_links);
	assert_non_null(strstr(t->revoked, "id:" HOST_B "\n"));
	ask_revoked(h, "0-0", first);
	assert_non_null(strstr(t->answer, "\"id:" HOST_B "\""));
	ask_revoked(h, first, again);
	assert_null(strstr(t->answer, "revoked\":["));
	assert_string_equal(again, first);
}

/* What was revoked by itself stays so when what it belongs to is given back. */
static void test_each_revocation_stands_for_itself(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	struct role_issue web;
	char serial[2 * SERIAL_SIZE + 1];

	admit(h, "b", "[\"*\"]");
	assert_issued(h, HOST_B, "default/web");
	web = t->issued;
	assert_issued(h, HOST_B, "default/api");
	strcpy(serial, last_serial(t));
	take_back(h, "web@b", 200);
	take_back(h, serial, 200);
	take_back(h, "host/b", 200);
	give_back(h, "host/b", 200);
	assert_null(strstr(t->revoked, HOST_B "\n"));
	assert_true(last_is_revoked(t)); /* api, by its serial */
	t->issued = web;
	assert_true(last_is_revoked(t));
	question(h, CA_HOST, HOST_B, service_text("default/web", "good"));
	assert_refused(t, "denied", "may not have");
	give_back(h, serial, 200);
	assert_null(strstr(t->revoked, serial));
	give_back(h, "web@b", 200);
	assert_string_equal(t->revoked, "");
	/* Nothing is left to be given back. */
	give_back(h, "host/b", 404);
	give_back(h, "web@b", 404);
	give_back(h, "web", 404);
	give_back(h, serial, 404);
	take_back(h, "host/b", 200);
	give_back(h, "host/bb", 404);
	assert_non_null(strstr(g_answer, "did you mean 'host/b'?"));
}

/* A grant of just this name comes back with it; what it has is new from then on, if it was granted again instead. */
static void test_a_grant_comes_back(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;

	admit(h, "b", "[]");
	grant(h, "{\"host\":\"b\",\"service\":\"web\"}");
	assert_issued(h, HOST_B, "default/web");
	take_back(h, "web@b", 200);
	take_back(h, "web@b", 200); /* said twice */
	question(h, CA_HOST, HOST_B, service_text("default/web", "good"));
	assert_refused(t, "denied", "may not have");
	restart(h, g_links);
	give_back(h, "web@b", 200);
	assert_issued(h, HOST_B, "default/web");
	assert_false(last_is_revoked(t));
	take_back(h, "web@b", 200);
	assert_true(last_is_revoked(t));
	/* In the same second: the next one is good, the one before is not. */
	grant(h, "{\"host\":\"b\",\"service\":\"web\"}");
	assert_true(last_is_revoked(t));
	assert_issued(h, HOST_B, "default/web");
	assert_false(last_is_revoked(t));
	assert_true(t->issued.not_before <= (int64_t)time(NULL));
	take_back(h, "web@b", 200);
	assert_true(last_is_revoked(t));
}

/* The authority's own services obey as well; and what was granted again is asked for by itself. */
static void test_revoked_here(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	uint32_t web = shown(t, WEB)->kid;
	unsigned before = t->n_issued;

	take_back(h, "web@a", 200);
	serve(h, 300);
	assert_int_equal(t->forgotten, web); /* so what stands on it here ends */
	assert_int_equal(t->n_bl_forget, 1);
	t->n_credentials = 0;
	start_linker(h); /* one that is new does not get it either */
	serve(h, 300);
	assert_int_equal(t->n_credentials, 2);
	assert_int_equal(http(h, "GET", "/v1/certificates", ""), 200);
	assert_told("\"name\":\"default/web\"", "\"state\":\"revoked\"");
	assert_int_equal(t->n_issued, before);
	grant(h, "{\"host\":\"a\",\"service\":\"web\"}");
	for (int i = 0; i < 300 && t->n_issued == before; i++)
		serve(h, 100);
	assert_int_equal(t->n_issued, before + 1);
	assert_string_equal(t->issued.spiffe_id, WEB);
	assert_false(last_is_revoked(t));
	serve(h, 300);
	assert_int_equal(http(h, "GET", "/v1/certificates", ""), 200);
	assert_null(strstr(g_answer, "\"revoked\""));
	/* Taken back after it was refused: the old one is good again, and the refusal is not shown for ever. */
	shown(t, WEB);
	take_back(h, "redis@a", 200);
	serve(h, 300);
	t->n_credentials = 0;
	give_back(h, "redis@a", 200);
	serve(h, 200);
	shown(t, "spiffe://sealane.local/ns/default/svc/redis");
	for (int i = 0; i < 300 && t->n_issued == before + 1; i++)
		serve(h, 100);
	serve(h, 300);
	assert_int_equal(http(h, "GET", "/v1/certificates", ""), 200);
	assert_null(strstr(g_answer, "\"revoked\""));
	assert_null(strstr(g_answer, "\"renewing\""));
}

/* Tokens that are open when something is taken back do not give it again. */
static void test_old_tokens(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	char spare[512], last[512];

	strcpy(spare, make_token(h, "{\"host\":\"b\",\"services\":[\"web\",\"api\",\"prod/*\"]}"));
	strcpy(last, make_token(h, "{\"host\":\"b\",\"services\":[\"db\"]}"));
	admit(h, "b", "[\"web\",\"prod/*\"]");
	assert_issued(h, HOST_B, "default/web");
	take_back(h, "web@b", 200);
	assert_true(last_is_revoked(t));
	assert_int_equal(http(h, "DELETE", "/v1/ca/grants?host=b&service=prod/*", ""), 200);
	assert_int_equal(http(h, "DELETE", "/v1/ca/grants?host=b&service=db", ""), 200); /* no grant, but a token */
	assert_int_equal(http(h, "DELETE", "/v1/ca/grants?host=b&service=db", ""), 404);
	assert_int_equal(http(h, "GET", "/v1/ca", ""), 200);
	assert_non_null(strstr(g_answer, "\"services\":\"default/api\""));
	question(h, CA_JOIN, "", join_text(spare, "b", "good"));
	assert_issued(h, HOST_B, "default/api");
	question(h, CA_HOST, HOST_B, service_text("default/web", "good"));
	assert_refused(t, "denied", "may not have");
	question(h, CA_HOST, HOST_B, service_text("prod/x", "good"));
	assert_refused(t, "denied", "may not have");
	/* Nor does one that is made now, or a wide grant after the no of before was "ungranted". */
	assert_int_equal(http(h, "POST", "/v1/ca/tokens", "{\"host\":\"b\",\"services\":[\"api\",\"web\"]}"), 409);
	assert_non_null(strstr(g_answer, "sealane ca unrevoke default/web@b"));
	grant(h, "{\"host\":\"b\",\"service\":\"*\"}");
	assert_int_equal(http(h, "DELETE", "/v1/ca/grants?host=b&service=web", ""), 200); /* it stood, and stands no more */
	assert_int_equal(http(h, "DELETE", "/v1/ca/grants?host=b&service=web", ""), 404);
	question(h, CA_HOST, HOST_B, service_text("default/web", "good"));
	assert_refused(t, "denied", "may not have");
	/* Those of a host that is revoked are over, also when it is let in again. */
	take_back(h, "host/b", 200);
	give_back(h, "host/b", 200);
	question(h, CA_JOIN, "", join_text(last, "b", "good"));
	assert_refused(t, "used", "wrong, used, over");
}

/* Listed without its secret; taken back by its host, or by its ID. */
static void test_tokens_are_withdrawn(void **state)
{
	struct host *h = *state;
	char first[512], second[512], path[128], id[16];
	const char *at;

	strcpy(first, make_token(h, "{\"host\":\"b\",\"services\":[\"web\"]}"));
	strcpy(second, make_token(h, "{\"host\":\"b\"}"));
	at = strstr(g_answer, "\"id\":\"");
	assert_non_null(at);
	snprintf(id, sizeof(id), "%.*s", (int)strcspn(at + 6, "\""), at + 6);
	assert_int_equal(strlen(id), 8);
	make_token(h, "{\"host\":\"zeta\"}");
	assert_int_equal(http(h, "GET", "/v1/ca/tokens", ""), 200);
	assert_then("\"source\":\"self\"", id);
	assert_then("\"tokens\":", "\"host\":\"b\",\"services\":\"default/web\"");
	assert_null(strstr(g_answer, first + 20));
	assert_null(strstr(g_answer, second + 20));
	/* Nobody's; too short an ID; a host that is nearly one. */
	assert_int_equal(http(h, "DELETE", "/v1/ca/tokens?what=nobody", ""), 404);
	snprintf(path, sizeof(path), "/v1/ca/tokens?what=%.7s", id);
	assert_int_equal(http(h, "DELETE", path, ""), 404);
	assert_int_equal(http(h, "DELETE", "/v1/ca/tokens?what=zetta", ""), 404);
	assert_non_null(strstr(g_answer, "did you mean 'zeta'"));
	/* By its ID: the host's other one stays. */
	snprintf(path, sizeof(path), "/v1/ca/tokens?what=%s", id);
	assert_int_equal(http(h, "DELETE", path, ""), 200);
	assert_then("\"withdrawn\":1", "\"b\"");
	assert_int_equal(http(h, "DELETE", path, ""), 404);
	question(h, CA_JOIN, "", join_text(second, "b", "good"));
	assert_refused(h->test, "used", "wrong, used, over");
	assert_int_equal(http(h, "GET", "/v1/ca/tokens", ""), 200);
	assert_null(strstr(g_answer, id));
	question(h, CA_JOIN, "", join_text(first, "b", "good"));
	assert_issued(h, HOST_B, "default/web");
	/* By its host; one that was used is none. */
	assert_int_equal(http(h, "DELETE", "/v1/ca/tokens?what=b", ""), 404);
	make_token(h, "{\"host\":\"zeta\"}");
	assert_int_equal(http(h, "DELETE", "/v1/ca/tokens?what=zeta", ""), 200);
	assert_then("\"withdrawn\":2", "\"zeta\"");
	assert_int_equal(http(h, "GET", "/v1/ca/tokens", ""), 200);
	assert_then("\"source\":\"self\"", "\"tokens\":[]");
}

/* What is granted need not be known; a slip of the pen is told. */
static void test_notes(void **state)
{
	static const struct {
		const char *path, *body, *note; /* NULL: none */
	} cases[] = {
		{ "/v1/ca/grants", "{\"host\":\"b\",\"service\":\"payments\"}", NULL },
		{ "/v1/ca/grants", "{\"host\":\"b\",\"service\":\"paymants\"}", "Did you mean 'default/payments'? Then `sealane ca ungrant b default/paymants`" },
		{ "/v1/ca/grants", "{\"host\":\"b\",\"service\":\"inventory\"}", NULL }, /* near to nothing */
		{ "/v1/ca/grants", "{\"host\":\"b\",\"service\":\"payments2\"}", NULL }, /* one more of a row */
		{ "/v1/ca/grants", "{\"host\":\"b\",\"service\":\"prod/*\"}", NULL },
		{ "/v1/ca/grants", "{\"host\":\"nobody\",\"service\":\"payments\"}", "no host nobody has joined" },
		{ "/v1/ca/tokens", "{\"host\":\"b\"}", "host b has joined already: whoever joins with this takes its place" },
		{ "/v1/ca/tokens", "{\"host\":\"frontend\"}", NULL }, /* that is what a token is for */
		{ "/v1/ca/tokens", "{\"host\":\"frontent\"}", NULL }, /* of a row, for all that is known */
		{ "/v1/ca/tokens", "{\"host\":\"forntend\"}", "Did you mean 'frontend'? Then `sealane ca withdraw forntend`" },
		{ "/v1/ca/tokens", "{\"host\":\"frontend\",\"services\":[\"pyaments\"]}", "Did you mean 'default/payments'? Then `sealane ca withdraw frontend`" },
	};
	struct host *h = *state;

	admit(h, "b", "[]");
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(http(h, "POST", cases[i].path, cases[i].body), 200);
		if (cases[i].note && !strstr(g_answer, cases[i].note))
			fail_msg("%s: %s", cases[i].body, g_answer);
		if (!cases[i].note && !strstr(g_answer, "\"notes\":[]"))
			fail_msg("%s: %s", cases[i].body, g_answer);
	}
}

static void test_nothing_by_this_name(void **state)
{
	static const struct {
		const char *what;
		int status;
		const char *why;
	} cases[] = {
		{ "host/a", 409, "the authority itself" },
		{ "host/bb", 404, "there is no host bb here" },
		{ "host/bb", 404, "did you mean 'b'?" },
		{ "redsi", 404, "there is no service default/redsi here" },
		{ "redsi", 404, "did you mean 'default/redis'?" },
		{ "b", 404, "the host of this name is host/b" },
		{ "redis@c", 404, "there is no host c here" },
		{ "other@b", 404, "host b has no certificate for default/other" },
		{ "0123456789abcdef0123456789abcdef", 404, "neither a service here nor how the serial" },
		{ "serial:0123456789abcdef", 404, "no certificate that is still good" },
		{ "serial:0123", 400, "is no serial" },
		{ "bad thing", 400, "nothing that can be revoked" },
		{ "spiffe://other.domain/host/b", 400, "nothing that can be revoked" },
	};
	struct host *h = *state;
	struct bed *t = h->test;

	grant(h, "{\"host\":\"b\",\"service\":\"api\"}");
	/* A token that was withdrawn has told nobody of a host of that name. */
	assert_int_equal(http(h, "POST", "/v1/ca/tokens", "{\"host\":\"bb\",\"services\":[\"redsi\"]}"), 200);
	assert_int_equal(http(h, "DELETE", "/v1/ca/tokens?what=bb", ""), 200);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		take_back(h, cases[i].what, cases[i].status);
		if (!strstr(g_answer, cases[i].why))
			fail_msg("%s: %s is not in %s", cases[i].what, cases[i].why, g_answer);
	}
	assert_string_equal(t->revoked, "");
	/* A book that was restored may not know what there is: a whole SPIFFE ID is taken as it stands. */
	take_back(h, "spiffe://sealane.local/host/bb", 200);
	assert_string_equal(t->revoked, "id:spiffe://sealane.local/host/bb\n");
	give_back(h, "host/bb", 200);
}

/* "deadbeef" is a name, and may be how a serial begins. */
static void test_serials_and_names(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	char begin[9], body[128];

	admit(h, "b", "[]");
	grant(h, "{\"host\":\"b\",\"service\":\"deadbeef\"}");
	take_back(h, "deadbeef", 200);
	assert_non_null(strstr(t->revoked, "id:spiffe://sealane.local/ns/default/svc/deadbeef\n"));
	give_back(h, "deadbeef", 200);
	grant(h, "{\"host\":\"b\",\"service\":\"web\"}");
	assert_issued(h, HOST_B, "default/web");
	snprintf(begin, sizeof(begin), "%.8s", last_serial(t));
	take_back(h, begin, 200);
	assert_true(last_is_revoked(t));
	assert_non_null(strstr(t->revoked, last_serial(t)));
	give_back(h, begin, 200);
	assert_false(last_is_revoked(t));
	/* Both. */
	snprintf(body, sizeof(body), "{\"host\":\"b\",\"service\":\"%s\"}", begin);
	grant(h, body);
	take_back(h, begin, 400);
	assert_non_null(strstr(g_answer, "is both a service and the beginning of a serial: say default/"));
	assert_non_null(strstr(g_answer, last_serial(t)));
	assert_string_equal(t->revoked, "");
	snprintf(body, sizeof(body), "serial:%s", begin);
	take_back(h, body, 200);
	assert_true(last_is_revoked(t));
}

/* As question(), many at a time; what the last answer was is not looked at. */
static void ask_often(struct host *h, const char *peer, const char *text, unsigned n)
{
	struct bed *t = h->test;
	unsigned end = t->n_answers + n;
	uint64_t give_up_ns = clock_ns() + UINT64_C(120000000000);

	for (unsigned sent = t->n_answers; sent < end;) {
		for (unsigned i = 0; i < 64 && sent < end; i++, sent++) {
			begin_question(h, CA_HOST, peer, 40 + sent, text);
		}
		while (t->n_answers < sent && clock_ns() < give_up_ns)
			serve(h, 1);
	}
	assert_int_equal(t->n_answers, end);
}

/* A signer that does not come to it. */
static void keep_waiting(struct host *h, const struct role_msg *m, int fd)
{
	struct bed *t = h->test;

	t->n_waiting += m->type == BS_VERIFY;
}

static void test_a_host_that_asks_without_end(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	AUTO_FREE(char) bad = strdup(ask_text(&(struct ca_question){ .op = CA_OP_HOST }, "bad"));

	admit(h, "b", "[]");
	admit(h, "c", "[]");
	/* What is not signed by it costs it no certificate. */
	question(h, CA_HOST, HOST_B, proven_text(&(struct ca_question){ .op = CA_OP_HOST }, "bad", 4242, NULL));
	assert_refused(t, "denied", "not signed");
	/* Whether it gets one or not: each costs the signer the same. */
	ask_often(h, HOST_B, bad, 10);
	assert_refused(t, "malformed", "");
	ask_often(h, HOST_B, bad, LIMIT_CA_ASKS_AT_ONCE + 200);
	for (int i = 0; i < 50 && !strstr(t->answer, "asks too often"); i++) /* five in a second are let through, perhaps the last one */
		ask_often(h, HOST_B, bad, 64);
	assert_refused(t, "busy", "asks too often");
	/* Others are not kept from anything by that, and it may still ask what is revoked. */
	question(h, CA_HOST, HOST_C, ask_text(&(struct ca_question){ .op = CA_OP_HOST }, "good"));
	assert_non_null(strstr(t->answer, "\"certificate\""));
	question(h, CA_HOST, HOST_B, ask_text(&(struct ca_question){ .op = CA_OP_REVOKED }, "good"));
	assert_non_null(strstr(t->answer, "\"revoked\":["));
	assert_int_equal(http(h, "GET", "/v1/events", ""), 200);
	assert_then("ca.limit", "\"host\":\"b\"");
	assert_null(strstr(strstr(g_answer, "\"ca.limit\"") + 1, "\"ca.limit\"")); /* once */
	/* What waits at the signer, of one host; and others still come that far. */
	h->play_signer = keep_waiting;
	t->n_waiting = 0;
	for (unsigned i = 0; i < LIMIT_CA_ASKS_OF_ONE; i++)
		begin_question(h, CA_HOST, HOST_C, 9000 + i, bad);
	serve(h, 500);
	assert_int_equal(t->n_waiting, LIMIT_CA_ASKS_OF_ONE);
	question(h, CA_HOST, HOST_C, bad);
	assert_refused(t, "busy", "wait already");
	serve(h, 1000);
	begin_question(h, CA_HOST, HOST_B, 9999, bad);
	serve(h, 300);
	assert_int_equal(t->n_waiting, LIMIT_CA_ASKS_OF_ONE + 1);
}

/* The versions of a daemon that started again, perhaps on a restored database, are none that it gave before. */
static void test_versions_of_the_list(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	char first[REVOKED_VERSION_SIZE], next[REVOKED_VERSION_SIZE];
	struct revoked_version a, b;

	take_back(h, "web", 200);
	ask_revoked(h, "0-0", first);
	take_back(h, "redis", 200);
	ask_revoked(h, first, next);
	assert_non_null(strstr(t->answer, "svc/redis"));
	assert_int_equal(revoked_version_parse(&a, first), 0);
	assert_int_equal(revoked_version_parse(&b, next), 0);
	assert_true(a.epoch == b.epoch && b.counter == a.counter + 1);
	ask_revoked(h, next, next);
	assert_null(strstr(t->answer, "revoked\":["));
	restart(h, g_links);
	ask_revoked(h, next, first);
	assert_non_null(strstr(t->answer, "svc/redis"));
	assert_int_equal(revoked_version_parse(&a, first), 0);
	assert_int_not_equal(a.epoch, b.epoch);
}

/* ------------------------------------------------------------------ a new root */

static struct ca_answer list_of(struct host *h)
{
	struct bed *t = h->test;
	struct ca_question q = { .op = CA_OP_REVOKED };
	struct ca_answer a;
	char why[256];

	question(h, CA_HOST, HOST_C, ask_text(&q, "good"));
	if (ca_answer_read(&a, CA_OP_REVOKED, t->answer, strlen(t->answer), why, sizeof(why)) < 0 || a.error)
		fail_msg("%s", t->answer);
	return a;
}

/* Its roots in that order, each of which has signed it. */
static void assert_roots(struct host *h, uint32_t first, uint32_t second)
{
	struct ca_answer a = list_of(h);
	const uint32_t keys[] = { first, second };
	const char *at = a.roots;
	char pem[4096];
	uint8_t print[32], digest[32], expected[SIGNATURE_SIZE];

	assert_int_equal(a.n_signatures, second ? 2 : 1);
	ca_list_signed(digest, a.digest);
	for (size_t i = 0; i < a.n_signatures; i++) {
		assert_non_null(at);
		assert_int_equal(svid_fingerprint(print, at, strlen(at)), 0);
		assert_memory_equal(a.signatures[i].root, print, sizeof(print));
		root_of(pem, keys[i]);
		assert_int_equal(svid_fingerprint(print, pem, strlen(pem)), 0);
		assert_memory_equal(a.signatures[i].root, print, sizeof(print));
		assert_int_equal(a.signatures[i].signature_size, sign_text(expected, keys[i], digest));
		assert_memory_equal(a.signatures[i].signature, expected, a.signatures[i].signature_size);
		at = svid_rest(at, strlen(at));
	}
	ca_answer_free(&a);
}

static void test_root_is_changed(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	char third[4096];
	struct token token;
	uint8_t print[32];
	unsigned before;

	assert_roots(h, 1, 0);
	assert_int_equal(http(h, "DELETE", "/v1/ca/roots", ""), 404);
	/* Announced: it is trusted, signs lists and no certificates; and may be taken back. */
	assert_int_equal(http(h, "POST", "/v1/ca/roots", "{}"), 200);
	assert_int_equal(http(h, "POST", "/v1/ca/roots", "{}"), 409);
	assert_roots(h, 1, 2);
	assert_int_equal(http(h, "GET", "/v1/ca", ""), 200);
	assert_null(strstr(g_answer, "\"signs\":null"));
	admit(h, "b", "[\"default/web\"]");
	assert_int_equal(t->issued.slot, 0);
	assert_int_equal(http(h, "DELETE", "/v1/ca/roots", ""), 200);
	assert_roots(h, 1, 0);
	/* Another one, which signs soon; a restart in between changes nothing of that. */
	assert_int_equal(http(h, "POST", "/v1/ca/roots", "{\"after_s\":4}"), 200);
	assert_roots(h, 1, 3);
	restart(h, g_links);
	assert_roots(h, 1, 3);
	before = t->n_issued;
	for (int i = 0; i < 80 && t->n_issued < before + 3; i++)
		serve(h, 250);
	assert_int_equal(t->n_issued, before + 3); /* this host's own come first */
	assert_int_equal(t->issued.slot, 1);
	assert_roots(h, 3, 1);
	assert_int_equal(strncmp(t->roots, root_of(third, 3), 200), 0); /* linkers trust both */
	assert_non_null(strstr(svid_rest(t->roots, strlen(t->roots)), "BEGIN CERTIFICATE"));
	question(h, CA_HOST, HOST_B, service_text("default/web", "good"));
	assert_int_equal(t->issued.slot, 1);
	make_token(h, "{\"host\":\"d\"}");
	assert_int_equal(token_parse(&token, g_token), 0);
	root_of(third, 3);
	assert_int_equal(svid_fingerprint(print, third, strlen(third)), 0);
	assert_memory_equal(token.root, print, sizeof(print));
	/* The old one is not dropped while certificates by it may be good, unless that is wanted. */
	assert_int_equal(http(h, "DELETE", "/v1/ca/roots", ""), 409);
	assert_non_null(strstr(g_answer, "would have to join again"));
	assert_int_equal(http(h, "DELETE", "/v1/ca/roots?now=1", ""), 200);
	assert_roots(h, 3, 0);
	restart(h, g_links);
	assert_roots(h, 3, 0);
}

/* ------------------------------------------------------------------ a member */

static int write_json(json_t *o, char *answer, size_t size)
{
	AUTO_FREE(char) text = json_dumps(o, JSON_COMPACT);

	assert_non_null(text);
	snprintf(answer, size, "%s", text);
	json_decref(o);
	return 0;
}

static void read_question(const struct bed *t, struct ca_question *q)
{
	char why[200];

	if (ca_question_read(q, t->question, strlen(t->question), why, sizeof(why)) < 0)
		fail_msg("%s: %s", why, t->question);
}

/* A certificate for q->key; to whom joins, with roots and @domain, proven by the token of token_of_root(). */
static int give(const struct bed *t, const struct ca_question *q, const char *id, const char *domain, char *answer, size_t size)
{
	int64_t now = (int64_t)time(NULL) + t->born_s;
	struct role_issue i = { .not_before = now - 300, .not_after = now + t->life_s, .serial = { 0x41, (uint8_t)t->n_opens } };
	uint8_t secret[TOKEN_SECRET_SIZE], exporter[32], digest[32], mac[32];
	struct token_known known;
	char pem[4096], root[4096];
	json_t *o;

	memcpy(i.public_key, q->key, sizeof(i.public_key));
	strcpy(i.spiffe_id, id);
	g_signs = t->join_root ? t->join_root : g_signs;
	certificate(pem, &i);
	g_signs = t->join_root ? 1 : g_signs;
	if (q->op != CA_OP_JOIN)
		return write_json(json_pack("{s:s}", "certificate", pem), answer, size);
	o = json_pack("{s:s,s:s,s:s}", "certificate", pem, "roots", root_of(root, t->join_root ? t->join_root : 1), "trust_domain", domain);
	AUTO_FREE(char) body = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	memset(secret, 0x42, sizeof(secret));
	memset(exporter, SESSION_BYTE, sizeof(exporter));
	token_known(&known, secret);
	sha256(digest, body, strlen(body));
	ca_joined_mac(mac, known.key, exporter, q->digest, digest);
	return write_json(ca_joined_json(body, mac), answer, size);
}

/* Everything that is to be proven is, by what no linker has. */
static void check_proofs(struct bed *t, const struct ca_question *q)
{
	uint8_t exporter[32], digest[32], expected[SIGNATURE_SIZE], mac[32], secret[TOKEN_SECRET_SIZE];
	struct token_known known;

	memset(exporter, SESSION_BYTE, sizeof(exporter));
	ca_proven(digest, exporter);
	assert_int_equal(q->proof_size, sign_text(expected, key_at(q->key), digest));
	assert_memory_equal(q->proof, expected, q->proof_size);
	if (q->op == CA_OP_JOIN) {
		memset(secret, 0x42, sizeof(secret));
		token_known(&known, secret);
		assert_memory_equal(q->token, known.id, sizeof(known.id));
		ca_join_mac(mac, known.key, exporter, q->digest);
		assert_memory_equal(q->mac, mac, sizeof(mac));
		assert_int_equal(key_at(q->ask), *key_called(t, "ask"));
	} else {
		ca_question_signed(digest, exporter, q->digest);
		assert_int_equal(q->signature_size, sign_text(expected, *key_called(t, "ask"), digest));
		assert_memory_equal(q->signature, expected, q->signature_size);
	}
}

/* The list that the bed says, signed; its one entry, unless this host has it. */
static int give_list(const struct bed *t, const struct ca_question *q, char *answer, size_t size)
{
	const struct revoked_version version = t->list_version.epoch ? t->list_version : (struct revoked_version){ 7, 9 };
	const char *entry = t->list_entry ? t->list_entry : "id:spiffe://sealane.local/host/x";
	const uint32_t root = t->join_root ? t->join_root : 1;
	char own[4096];
	const char *roots = t->list_roots ? t->list_roots : root_of(own, root);
	struct ca_list_signature s = {};
	uint8_t digest[32];
	struct sha256 sum;
	json_t *o;

	sha256_init(&sum);
	ca_list_entry_add(&sum, entry);
	sha256_end(&sum, digest);
	AUTO_FREE(char) body = ca_list_body(&version, (int64_t)time(NULL) + t->list_made_s, roots, digest);
	sha256(digest, body, strlen(body));
	ca_list_signed(digest, digest);
	s.signature_size = sign_text(s.signature, t->list_key ? t->list_key : root, digest);
	root_of(own, root);
	assert_int_equal(svid_fingerprint(s.root, own, strlen(own)), 0); /* whoever signs says that */
	o = ca_list_json(body, &s, 1);
	if (revoked_version_supersedes(&version, &q->version))
		json_object_set_new(o, "revoked", json_pack("[s]", entry));
	return write_json(o, answer, size);
}

/* An authority that gives what it is asked for. */
static int good_authority(struct host *h, struct bed *t, char *answer, size_t size)
{
	struct ca_question q;
	char id[LIMIT_SPIFFE_ID_SIZE];

	read_question(t, &q);
	if (q.op == CA_OP_REVOKED)
		return give_list(t, &q, answer, size);
	check_proofs(t, &q);
	if (q.op == CA_OP_SERVICE)
		return give(t, &q, spiffe_id_format(id, "sealane.local", &q.service), "", answer, size);
	return give(t, &q, host_id_format(id, "sealane.local", "a"), "sealane.local", answer, size);
}

static int deny_all(struct host *h, struct bed *t, char *answer, size_t size)
{
	return write_json(json_pack("{s:s,s:s}", "error", "denied", "why", "not today"), answer, size);
}

static int talk_nonsense(struct host *h, struct bed *t, char *answer, size_t size)
{
	snprintf(answer, size, "{\"certificate\":\"x\"}");
	return 0;
}

static int break_off(struct host *h, struct bed *t, char *answer, size_t size)
{
	return -ECONNRESET;
}

static int other_key(struct host *h, struct bed *t, char *answer, size_t size)
{
	struct ca_question q;

	read_question(t, &q);
	make_point(q.key, 4242);
	return give(t, &q, "spiffe://sealane.local/host/a", "sealane.local", answer, size);
}

static int other_domain(struct host *h, struct bed *t, char *answer, size_t size)
{
	struct ca_question q;

	read_question(t, &q);
	return give(t, &q, "spiffe://other.domain/host/a", "other.domain", answer, size);
}

/* Somebody who saw the question, and not the token. */
static int somebody_else(struct host *h, struct bed *t, char *answer, size_t size)
{
	struct ca_question q;

	read_question(t, &q);
	q.digest[0] ^= 1; /* the code is over another question */
	return give(t, &q, "spiffe://sealane.local/host/a", "sealane.local", answer, size);
}

static const char *token_of_root(void)
{
	static char text[TOKEN_TEXT_SIZE];
	struct token t = { .address = "10.0.0.9:7443", .host = "z" };

	assert_int_equal(svid_fingerprint(t.root, root_pem(), strlen(root_pem())), 0);
	memset(t.secret, 0x42, sizeof(t.secret));
	return token_format(text, &t);
}

static int join(struct host *h, const char *token, const char *more)
{
	char body[1024];

	snprintf(body, sizeof(body), "{\"token\":\"%s\"%s}", token, more);
	return http(h, "POST", "/v1/join", body);
}

static int setup_member(void **state)
{
	int r = setup_links(state);
	struct host *h = *state;
	struct bed *t = h->test;

	t->authority = good_authority;
	assert_int_equal(join(h, token_of_root(), ""), 200);
	serve(h, 300);
	return r;
}

static void test_join(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	struct token token;

	t->authority = good_authority;
	assert_int_equal(token_parse(&token, token_of_root()), 0);
	assert_int_equal(join(h, token_of_root(), ""), 200);
	assert_told("\"authority\":\"z\"", "\"address\":\"10.0.0.9:7443\"");
	serve(h, 300);
	assert_string_equal(t->roots, root_pem());
	assert_int_equal(shown(t, "spiffe://sealane.local/host/a")->kid, 0);
	shown(t, "spiffe://sealane.local/ns/default/svc/web");
	shown(t, "spiffe://sealane.local/ns/default/svc/redis");
	/* The list came as well. */
	assert_string_equal(t->revoked, "id:spiffe://sealane.local/host/x\n");
	assert_int_equal(t->open.mode, CA_HOST);
	assert_string_equal(t->open.address, "10.0.0.9:7443");
	assert_string_equal(t->open.host, "z");
	assert_int_equal(join(h, token_of_root(), ""), 409);
	assert_non_null(strstr(g_answer, "joined already"));
	assert_int_equal(http(h, "POST", "/v1/ca/tokens", "{\"host\":\"c\"}"), 409);
	assert_non_null(strstr(g_answer, "that is z, ask there"));
	/* As a host that asks others who have no business here. */
	question(h, CA_JOIN, "", join_text(token_of_root(), "b", "good"));
	assert_refused(t, "denied", "not the authority");
	t->silent = true; /* it can go on without the authority, over a restart */
	restart(h, g_links);
	assert_int_equal(t->n_credentials, 3);
	assert_string_equal(t->revoked, "id:spiffe://sealane.local/host/x\n");
	assert_int_equal(http(h, "GET", "/v1/certificates", ""), 200);
	assert_told("\"name\":\"host\"", "\"state\":\"valid\"");
	assert_null(strstr(g_answer, "missing"));
}

/* `ca init` on the wrong host: the way back, as long as nobody has joined. */
static void test_authority_joins(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	struct token other;
	char text[TOKEN_TEXT_SIZE], second[4096];

	t->authority = good_authority;
	t->join_root = 2;
	root_of(second, 2);
	assert_int_equal(token_parse(&other, token_of_root()), 0);
	assert_int_equal(svid_fingerprint(other.root, second, strlen(second)), 0);
	take_back(h, "web", 200);
	assert_int_equal(join(h, token_format(text, &other), ""), 409);
	assert_non_null(strstr(g_answer, "sealane join --again TOKEN"));
	assert_int_equal(join(h, token_format(text, &other), ",\"again\":true"), 200);
	serve(h, 500);
	assert_string_equal(t->roots, second);
	assert_false(t->trust.authority);
	assert_string_equal(t->revoked, X_REVOKED);
	assert_int_equal(http(h, "GET", "/v1/certificates", ""), 200);
	assert_told("\"source\":\"authority\"", "\"authority\":\"z\"");
	assert_int_equal(http(h, "POST", "/v1/ca/tokens", "{\"host\":\"c\"}"), 409);
	restart(h, g_links);
	assert_string_equal(t->roots, second);
	assert_int_equal(http(h, "GET", "/v1/certificates", ""), 200);
	assert_null(strstr(g_answer, "missing"));
}

static void test_authority_stays(void **state)
{
	struct host *h = *state;

	admit(h, "b", "[]");
	assert_int_equal(join(h, token_of_root(), ",\"again\":true"), 409);
	assert_non_null(strstr(g_answer, "hosts have joined it"));
}

static void test_join_says_no(void **state)
{
	static const struct {
		int (*authority)(struct host *h, struct bed *t, char *answer, size_t size);
		const char *why;
	} cases[] = {
		{ deny_all, "the authority says no: not today (this host asks as 'a')" },
		{ talk_nonsense, "malformed" },
		{ break_off, "the test broke it" },
		{ other_key, "not the one that was asked for" },
		{ other_domain, "set trust_domain" },
		{ somebody_else, "not by the authority that made the token" },
	};
	struct host *h = *state;
	struct bed *t = h->test;
	struct token wrong;
	char text[TOKEN_TEXT_SIZE];

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		t->authority = cases[i].authority;
		assert_int_equal(join(h, token_of_root(), ""), 409);
		if (!strstr(g_answer, cases[i].why))
			fail_msg("%s is not in %s", cases[i].why, g_answer);
	}
	t->authority = good_authority;
	assert_int_equal(token_parse(&wrong, token_of_root()), 0);
	wrong.root[5] ^= 1;
	assert_int_equal(join(h, token_format(text, &wrong), ""), 409);
	assert_non_null(strstr(g_answer, "not those that the token names"));
	t->open_error = -ECONNREFUSED;
	assert_int_equal(join(h, token_of_root(), ""), 409);
	assert_non_null(strstr(g_answer, "ECONNREFUSED; nothing was changed, and the token is good until it is over. See that the daemon there is up"));
	assert_int_equal(t->n_credentials, 0);
	strcpy(t->open_why, "untrusted: the chain ends at none of our roots");
	assert_int_equal(join(h, token_of_root(), ""), 409);
	assert_non_null(strstr(g_answer, "another authority answers at that address"));
	strcpy(t->open_why, "not-yet-valid: its certificate");
	assert_int_equal(join(h, token_of_root(), ""), 409);
	assert_non_null(strstr(g_answer, "compare the clocks"));
	strcpy(t->open_why, "handshake: tlsv1 alert no application protocol");
	assert_int_equal(join(h, token_of_root(), ""), 409);
	assert_non_null(strstr(g_answer, "the daemon there is no authority"));
	assert_null(strstr(g_answer, "firewall"));
	/* Nothing of all that was kept, and the next one works. */
	t->open_error = 0;
	assert_int_equal(join(h, token_of_root(), ""), 200);
}

static void test_join_while_linker_dies(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	unsigned before = t->n_opens;

	t->silent = true;
	t->authority = good_authority;
	/* The certificates of this host are asked for; then nobody answers, and the linker is gone. */
	send_config(h, "trust_domain = sealane.local\nhost_name = a\nlisten = \"127.0.0.1:7443\"\nservice redis {}\nservice web {}\nservice api {}\n");
	serve(h, 300);
	assert_int_equal(t->n_opens, before + 1);
	t->silent = false;
	start_linker(h);
	serve(h, 2500);
	shown(t, "spiffe://sealane.local/ns/default/svc/api");
}

/* ------------------------------------------------------------------ what a linker that was taken over may try */

static const char *told_version(struct host *h)
{
	static char version[REVOKED_VERSION_SIZE];
	const char *at;

	assert_int_equal(http(h, "GET", "/v1/certificates", ""), 200);
	at = strstr(g_answer, "\"revoked_version\":\"");
	assert_non_null(at);
	assert_int_equal(sscanf(at, "\"revoked_version\":\"%41[^\"]", version), 1);
	return version;
}

static void assert_event(struct host *h, const char *event, const char *why)
{
	assert_int_equal(http(h, "GET", "/v1/events", ""), 200);
	assert_told(event, why);
}

/* The list that says so does not reach it. */
static void test_this_host_is_revoked(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;

	t->authority = deny_all;
	restart(h, g_links);
	assert_int_equal(http(h, "GET", "/v1/certificates", ""), 200);
	assert_told("\"name\":\"host\"", "the authority says no: not today");
	t->authority = good_authority;
	restart(h, g_links);
	assert_int_equal(http(h, "GET", "/v1/certificates", ""), 200);
	assert_null(strstr(g_answer, "not today"));
}

/* Each try at a start of the daemon, since the list is asked for then; what was taken before stays. */
static void test_list_must_be_signed(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	char second[4096];

	assert_string_equal(told_version(h), "7-9");
	/* By another key than the root's, with a root of its own. */
	t->list_version = (struct revoked_version){ 7, 10 };
	t->list_entry = "serial:0badcafe";
	t->list_roots = root_of(second, 2);
	t->list_key = 2;
	restart(h, g_links);
	assert_event(h, "ca.list_refused", "signed by no root that this host has");
	assert_string_equal(told_version(h), "7-9");
	assert_string_equal(t->revoked, X_REVOKED);
	assert_string_equal(t->roots, root_pem());
	/* The same by the root: the new root and the new list count. */
	t->list_key = 1;
	restart(h, g_links);
	assert_string_equal(told_version(h), "7-10");
	assert_string_equal(t->revoked, "serial:0badcafe\n");
	assert_string_equal(t->roots, second);
	assert_event(h, "ca.roots", "");
}

static void test_list_must_be_newer(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;

	/* What the authority said once, said again. */
	t->list_version = (struct revoked_version){ 7, 8 };
	t->list_entry = "serial:0badcafe";
	restart(h, g_links);
	assert_event(h, "ca.list_refused", "older than the one that this host has");
	t->list_version = (struct revoked_version){ 6, 80 };
	t->list_made_s = -100;
	restart(h, g_links);
	assert_event(h, "ca.list_refused", "older than the one that this host has");
	t->list_made_s = 1000;
	restart(h, g_links);
	assert_event(h, "ca.list_refused", "of a time that has not come yet");
	assert_string_equal(told_version(h), "7-9");
	assert_string_equal(t->revoked, X_REVOKED);
	/* Another epoch, made later. */
	t->list_made_s = 5;
	restart(h, g_links);
	assert_string_equal(told_version(h), "6-80");
	assert_string_equal(t->revoked, "serial:0badcafe\n");
}

/* Joining again is no way to have this host forget what it knows; a first list is one of now. */
static void test_list_outlives_joining_again(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	struct token other;
	char text[TOKEN_TEXT_SIZE];

	t->list_version = (struct revoked_version){ 6, 1 };
	t->list_entry = "serial:0badcafe";
	t->list_made_s = -LIMIT_CA_LIST_AGE_S - 30;
	assert_int_equal(join(h, token_of_root(), ",\"again\":true"), 200);
	serve(h, 500);
	assert_string_equal(told_version(h), "7-9");
	assert_string_equal(t->revoked, X_REVOKED);
	assert_event(h, "ca.list_refused", "older than the one that this host has");
	restart(h, g_links);
	assert_string_equal(told_version(h), "7-9");
	assert_string_equal(t->revoked, X_REVOKED);
	/* Of another authority nothing is known yet. */
	t->join_root = 2;
	assert_int_equal(token_parse(&other, token_of_root()), 0);
	AUTO_FREE(char) root = strdup(root_of((char[4096]){}, 2));
	assert_int_equal(svid_fingerprint(other.root, root, strlen(root)), 0);
	assert_int_equal(join(h, token_format(text, &other), ",\"again\":true"), 200);
	serve(h, 500);
	assert_string_equal(t->roots, root);
	assert_string_equal(told_version(h), "0-0");
	assert_string_equal(t->revoked, "");
	assert_int_equal(http(h, "GET", "/v1/events", ""), 200);
	assert_non_null(strstr(g_answer, "the first list is an old one"));
	t->list_made_s = -LIMIT_CA_LIST_AGE_S + 60;
	restart(h, g_links);
	assert_string_equal(told_version(h), "6-1");
	assert_string_equal(t->revoked, "serial:0badcafe\n");
}

/* The list of one authority comes, and is being checked, while this host joins another one. */
static void hold_list(struct host *h, const struct role_msg *m, int fd)
{
	struct role_msg list = { .type = LB_CA_ANSWER }, joined_ = { .type = LB_CA_ANSWER, .u.ca.req = m->u.ca.req };
	struct bed *t = h->test;
	struct ca_question q;
	char text[16384];

	if (m->type != BL_CA_ASK) {
		play_linker(h, m, fd);
		return;
	}
	read_text(fd, t->question, sizeof(t->question));
	read_question(t, &q);
	if (q.op == CA_OP_REVOKED && !t->held_req) {
		t->held_req = m->u.ca.req;
		give_list(t, &q, t->held, sizeof(t->held));
	} else if (q.op == CA_OP_JOIN) {
		AUTO_FD a = text_fd(t->held);
		AUTO_FD b = -1;

		t->join_root = 2;
		good_authority(h, t, text, sizeof(text));
		b = text_fd(text);
		list.u.ca.req = t->held_req;
		tell(&h->linker, &list, a);
		tell(&h->linker, &joined_, b);
	}
}

static void test_list_of_the_authority_before(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	struct token k;
	char text[TOKEN_TEXT_SIZE], second[4096];

	root_of(second, 2);
	t->list_version = (struct revoked_version){ 7, 11 };
	h->play_linker = hold_list;
	restart(h, g_links);
	assert_int_not_equal(t->held_req, 0);
	assert_int_equal(token_parse(&k, token_of_root()), 0);
	assert_int_equal(svid_fingerprint(k.root, second, strlen(second)), 0);
	assert_int_equal(join(h, token_format(text, &k), ",\"again\":true"), 200);
	serve(h, 500);
	assert_string_equal(t->roots, second);
	assert_string_equal(told_version(h), "0-0");
	assert_string_equal(t->revoked, "");
	restart(h, g_links);
	assert_string_equal(t->roots, second);
}

/* Who keeps lists back, or says an old one again, is found out by their time. */
static void test_list_gets_old(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;

	t->list_version = (struct revoked_version){ 7, 10 };
	t->list_made_s = -LIMIT_CA_LIST_AGE_S - 5;
	restart(h, g_links);
	assert_string_equal(told_version(h), "7-10");
	assert_event(h, "ca.stale", "no newer list of what is revoked has come");
	assert_int_equal(http(h, "GET", "/v1/certificates", ""), 200);
	assert_told("\"list_made\"", "\"list_stale\":true");
	t->list_made_s = 0;
	t->list_version = (struct revoked_version){ 7, 11 };
	restart(h, g_links);
	assert_int_equal(http(h, "GET", "/v1/certificates", ""), 200);
	assert_told("\"list_made\"", "\"list_stale\":false");
}

/* A certificate that no root of ours has signed is not taken, whatever it says. */
static void test_certificate_must_be_signed(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	unsigned before = t->n_credentials;

	g_signs = 2;
	send_config(h, "trust_domain = sealane.local\nhost_name = a\nlisten = \"127.0.0.1:7443\"\nservice redis {}\nservice web {}\nservice api {}\n");
	serve(h, 300);
	assert_int_equal(t->n_credentials, before);
	assert_int_equal(http(h, "GET", "/v1/certificates", ""), 200);
	assert_told("\"name\":\"default/api\"", "signed by no root that this host has");
	g_signs = 1;
	serve(h, 2500);
	shown(t, "spiffe://sealane.local/ns/default/svc/api");
}

#define EPOCH "{\"epoch\":\"11111111111111111111111111111111\",\"generation\":1}"

static void catalogue_says(struct chan *c, uint32_t type, const char *key, const char *value)
{
	struct role_msg m = { .type = type };

	if (type == EB_ENTRY) {
		m.u.entry = (struct role_etcd_entry){ .state = ETCD_ENTRY_PUT, .revision = 5 };
		strcpy(m.u.entry.key, key);
		strcpy(m.u.entry.value, value);
	} else {
		m.u.etcd_range = (struct role_etcd_range){ .cluster_id = 1, .revision = 5 };
	}
	tell(c, &m, -1);
}

/* Somebody who writes to etcd: the authority's host is elsewhere. */
static void catalogue_moves_authority(struct host *h, struct chan *c)
{
	struct role_msg m = { .type = WB_CATALOGUE };
	int fds[2];

	assert_int_equal(chan_pair(fds), 0);
	tell(&h->warden, &m, fds[0]);
	close(fds[0]);
	chan_init(c, fds[1]);
	serve(h, 200);
	catalogue_says(c, EB_BEGIN, "", "");
	catalogue_says(c, EB_ENTRY, "epoch", EPOCH);
	catalogue_says(c, EB_ENTRY, "hosts/z", "{\"address\":\"10.0.0.7:7443\"}");
	catalogue_says(c, EB_END, "", "");
	serve(h, 300);
	assert_int_equal(http(h, "GET", "/v1/hosts", ""), 200);
	assert_non_null(strstr(g_answer, "10.0.0.7:7443"));
}

/* What the configuration says counts before the token; what the catalogue says is tried when nobody is there. */
static void test_where_the_authority_is(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	char text[512];
	struct chan c;

	assert_string_equal(t->open.address, "10.0.0.9:7443");
	snprintf(text, sizeof(text), "%setcd { endpoints = \"http://127.0.0.1:2379\" address = \"10.0.0.1:7443\" }\n", g_links);
	restart(h, text);
	catalogue_moves_authority(h, &c);
	restart(h, text); /* it is known from the disk */
	assert_int_equal(http(h, "GET", "/v1/hosts", ""), 200);
	assert_non_null(strstr(g_answer, "10.0.0.7:7443"));
	assert_string_equal(t->open.address, "10.0.0.9:7443");
	strcpy(t->gone, "10.0.0.9:7443");
	t->list_version = (struct revoked_version){ 7, 10 };
	restart(h, text);
	assert_string_equal(t->open.address, "10.0.0.7:7443");
	assert_string_equal(t->open.host, "z"); /* whose certificate has to be shown there */
	assert_string_equal(told_version(h), "7-10");
	assert_event(h, "ca.elsewhere", "10.0.0.7:7443");
	snprintf(text, sizeof(text), "%shost z { address = \"10.0.0.8:7443\" }\n", g_links);
	restart(h, text);
	assert_string_equal(t->open.address, "10.0.0.8:7443");
	chan_close(&c);
}

static void test_rotation(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	uint32_t kid, first;

	t->life_s = 6;
	send_config(h, "trust_domain = sealane.local\nhost_name = a\nlisten = \"127.0.0.1:7443\"\nservice redis {}\nservice web {}\nservice api {}\n");
	serve(h, 300);
	kid = shown(t, "spiffe://sealane.local/ns/default/svc/api")->kid;
	first = t->kids[kid];
	for (int i = 0; i < 40 && t->kids[kid] == first; i++)
		serve(h, 500);
	/* Another key, and what the linker knows it by is the same: its sessions stand on that. */
	assert_int_not_equal(t->kids[kid], first);
	assert_int_equal(shown(t, "spiffe://sealane.local/ns/default/svc/api")->kid, kid);
	for (unsigned k = 0; k < N_KIDS; k++)
		assert_true(k == kid || t->kids[k] != t->kids[kid]); /* the number it was asked with is free again */
	/* The authority goes: what there is stays in use, and ends. */
	t->authority = deny_all;
	for (int i = 0; i < 60; i++) {
		serve(h, 500);
		assert_int_equal(http(h, "GET", "/v1/certificates", ""), 200);
		if (strstr(g_answer, "expired"))
			break;
	}
	assert_told("\"name\":\"default/api\"", "not today");
	assert_told("\"name\":\"default/api\"", "\"state\":\"expired\"");
	t->authority = good_authority;
	t->life_s = 3600;
	for (int i = 0; i < 80 && strstr(g_answer, "expired"); i++) {
		serve(h, 500);
		assert_int_equal(http(h, "GET", "/v1/certificates", ""), 200);
	}
	assert_told("\"name\":\"default/api\"", "\"state\":\"valid\"");
}

/* A certificate that our clock does not believe is told, and never shown. */
static void test_clock(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	unsigned before = t->n_credentials;

	t->born_s = 86400;
	send_config(h, "trust_domain = sealane.local\nhost_name = a\nlisten = \"127.0.0.1:7443\"\nservice redis {}\nservice web {}\nservice api {}\n");
	serve(h, 300);
	assert_int_equal(t->n_credentials, before);
	assert_int_equal(http(h, "GET", "/v1/certificates", ""), 200);
	assert_told("\"name\":\"default/api\"", "set the clock");
	assert_int_equal(http(h, "GET", "/v1/events", ""), 200);
	assert_told("certificate.failed", "\"reason\":\"clock\"");
}

/* ------------------------------------------------------------------ an external authority */

static const char g_files[] = "trust_domain = sealane.local\nhost_name = a\nlisten = \"127.0.0.1:7443\"\ncertificates = \"/etc/sealane/certs\"\n"
			      "service redis {}\nservice web { upstream redis {} }\n";
static uint32_t g_web_key = 301, g_web_cert_key = 301;

static void give_file(struct host *h, const char *name, const char *text)
{
	struct role_msg m = { .type = WB_FILE };
	AUTO_FD fd = text_fd(text);

	strcpy(m.u.store.name, name);
	tell(&h->warden, &m, fd);
}

static void give_pair(struct host *h, const char *name, const char *id, uint32_t key, uint32_t cert_key)
{
	struct role_issue i = { .not_before = (int64_t)time(NULL) - 300, .not_after = (int64_t)time(NULL) + 3600, .serial = { 0x42, (uint8_t)cert_key } };
	char pem[4096], file[64], number[16];

	make_point(i.public_key, cert_key);
	strcpy(i.spiffe_id, id);
	snprintf(file, sizeof(file), "%s.crt", name);
	give_file(h, file, certificate(pem, &i));
	snprintf(file, sizeof(file), "%s.key", name);
	snprintf(number, sizeof(number), "%u", key);
	give_file(h, file, number);
}

static void play_certificates(struct host *h)
{
	give_file(h, "roots.pem", root_pem());
	give_file(h, "README", "not ours");
	give_pair(h, "host", "spiffe://sealane.local/host/a", 300, 300);
	give_pair(h, "default.web", "spiffe://sealane.local/ns/default/svc/web", g_web_key, g_web_cert_key);
}

/* The list is the authority's: files have none, and it is in force again when they are given up. */
static void test_files_and_the_list(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;

	take_back(h, "web", 200);
	assert_non_null(strstr(t->revoked, "id:" WEB "\n"));
	h->play_certificates = play_certificates;
	g_web_key = g_web_cert_key = 301;
	send_config(h, g_files);
	serve(h, 300);
	assert_string_equal(t->revoked, "");
	assert_int_equal(http(h, "GET", "/v1/certificates", ""), 200);
	assert_told("\"name\":\"default/web\"", "\"state\":\"valid\"");
	send_config(h, g_links);
	serve(h, 300);
	assert_non_null(strstr(t->revoked, "id:" WEB "\n"));
}

static void test_files(void **state)
{
	struct host *h = *state;
	struct bed *t = h->test;
	uint32_t kid;

	h->play_certificates = play_certificates;
	g_web_key = g_web_cert_key = 301;
	send_config(h, g_files);
	serve(h, 400);
	assert_string_equal(t->roots, root_pem());
	assert_int_equal(shown(t, "spiffe://sealane.local/host/a")->kid, 0);
	kid = shown(t, "spiffe://sealane.local/ns/default/svc/web")->kid;
	assert_int_equal(t->kids[kid], 301);
	assert_int_equal(http(h, "GET", "/v1/certificates", ""), 200);
	assert_told("\"source\":\"files\"", "\"host\":\"a\"");
	assert_told("\"name\":\"default/redis\"", "are not in the directory");
	assert_int_equal(http(h, "POST", "/v1/ca", ""), 409);
	assert_non_null(strstr(g_answer, "come from files"));
	assert_int_equal(join(h, token_of_root(), ""), 409);
	/* Half of a pair was replaced: the old one stays. Then the other half. */
	g_web_cert_key = 302;
	send_config(h, g_files);
	serve(h, 400);
	assert_int_equal(shown(t, "spiffe://sealane.local/ns/default/svc/web")->kid, kid);
	assert_int_equal(http(h, "GET", "/v1/certificates", ""), 200);
	assert_told("\"name\":\"default/web\"", "for another key");
	g_web_key = 302;
	send_config(h, g_files);
	serve(h, 400);
	assert_int_equal(shown(t, "spiffe://sealane.local/ns/default/svc/web")->kid, kid);
	assert_int_equal(t->kids[kid], 302);
}

#define CA_TEST(f, s) cmocka_unit_test_setup_teardown(f, s, teardown_links)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CA_TEST(test_before_all, setup_links),
		CA_TEST(test_init, setup_links),
		CA_TEST(test_signer_restarts, setup_authority),
		CA_TEST(test_linker_restarts, setup_authority),
		CA_TEST(test_services_come_and_go, setup_authority),
		CA_TEST(test_token_is_used_once, setup_authority),
		CA_TEST(test_join_is_proven, setup_authority),
		CA_TEST(test_two_with_one_token, setup_authority),
		CA_TEST(test_who_asks, setup_authority),
		CA_TEST(test_list_is_signed_once, setup_authority), CA_TEST(test_lists_without_end, setup_authority),
		CA_TEST(test_token_ends, setup_authority),
		CA_TEST(test_who_may_ask_what, setup_authority),
		CA_TEST(test_grants, setup_authority),
		CA_TEST(test_revocation, setup_authority),
		CA_TEST(test_versions_of_the_list, setup_authority),
		CA_TEST(test_each_revocation_stands_for_itself, setup_authority),
		CA_TEST(test_a_grant_comes_back, setup_authority),
		CA_TEST(test_revoked_here, setup_authority),
		CA_TEST(test_old_tokens, setup_authority),
		CA_TEST(test_tokens_are_withdrawn, setup_authority),
		CA_TEST(test_notes, setup_authority),
		CA_TEST(test_nothing_by_this_name, setup_authority),
		CA_TEST(test_serials_and_names, setup_authority),
		CA_TEST(test_a_host_that_asks_without_end, setup_authority),
		CA_TEST(test_root_is_changed, setup_authority),
		CA_TEST(test_join, setup_links),
		CA_TEST(test_authority_joins, setup_authority),
		CA_TEST(test_authority_stays, setup_authority),
		CA_TEST(test_join_says_no, setup_links),
		CA_TEST(test_join_while_linker_dies, setup_member),
		CA_TEST(test_list_must_be_signed, setup_member),
		CA_TEST(test_list_must_be_newer, setup_member),
		CA_TEST(test_list_outlives_joining_again, setup_member),
		CA_TEST(test_list_of_the_authority_before, setup_member),
		CA_TEST(test_this_host_is_revoked, setup_member),
		CA_TEST(test_list_gets_old, setup_member),
		CA_TEST(test_certificate_must_be_signed, setup_member),
		CA_TEST(test_where_the_authority_is, setup_member),
		CA_TEST(test_rotation, setup_member),
		CA_TEST(test_clock, setup_member),
		CA_TEST(test_files, setup_links),
		CA_TEST(test_files_and_the_list, setup_authority),
	};

	if (geteuid() != 0) {
		puts("skip: the broker starts as root");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
