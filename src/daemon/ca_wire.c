/*
 * Theory of operation: a question or an answer is one JSON object of few members, all known. Members that are missing, doubled, of
 * another kind, too many, or beyond their bounds make the whole text malformed; nothing is guessed. Sizes are bounded by the linker
 * before the text comes here (LIMIT_CA_QUESTION_SIZE, LIMIT_CA_ANSWER_SIZE), depth by jansson itself.
 *
 * What is proven is the text of a member called `body` or `list`, read as JSON a second time. The linkers on the way see and carry all of
 * it; what they cannot do is change it, or say it again where a session's exporter goes in. Each digest begins with a label of its own, so
 * that nothing signed or proven for one end is good for another.
 *
 * Before it: the other host, the linker, broker_member.c and broker_authority.c. After it: those two.
 */
#include "daemon/ca_wire.h"

#include "core/base64.h"
#include "core/name.h"

#include <stdarg.h>
#include <stdio.h>

enum { KEY_TEXT_SIZE = (KEY_POINT_SIZE + 2) / 3 * 4 + 1, PROOF_TEXT_SIZE = (SIGNATURE_SIZE + 2) / 3 * 4 + 1, WHY_MAX = 512, ERROR_MAX = 32 };

static const char *const g_ops[] = { "join", "host", "service", "revoked" };
static_assert(ARRAY_SIZE(g_ops) == CA_OP_N, "a name for each");

const char *ca_op_name(enum ca_op op)
{
	return g_ops[op];
}

/* ------------------------------------------------------------------ what is signed, and what is proven by a code */

void ca_proven(uint8_t ret[32], const uint8_t exporter[32])
{
	sha256_labelled(ret, "sealane ca proof v1", exporter, 32);
}

void ca_question_signed(uint8_t ret[32], const uint8_t exporter[32], const uint8_t digest[32])
{
	uint8_t both[64];

	memcpy(both, exporter, 32);
	memcpy(both + 32, digest, 32);
	sha256_labelled(ret, "sealane ca question v1", both, sizeof(both));
}

static void begin_mac(struct hmac *h, const uint8_t key[TOKEN_KEY_SIZE], const char *label, const uint8_t exporter[32], const uint8_t digest[32])
{
	hmac_init(h, key, TOKEN_KEY_SIZE);
	hmac_add(h, label, strlen(label) + 1);
	hmac_add(h, exporter, 32);
	hmac_add(h, digest, 32);
}

void ca_join_mac(uint8_t ret[32], const uint8_t key[TOKEN_KEY_SIZE], const uint8_t exporter[32], const uint8_t digest[32])
{
	struct hmac h;

	begin_mac(&h, key, "sealane ca join v1", exporter, digest);
	hmac_end(&h, ret);
}

void ca_joined_mac(uint8_t ret[32], const uint8_t key[TOKEN_KEY_SIZE], const uint8_t exporter[32], const uint8_t digest[32], const uint8_t answer[32])
{
	struct hmac h;

	begin_mac(&h, key, "sealane ca joined v1", exporter, digest);
	hmac_add(&h, answer, 32);
	hmac_end(&h, ret);
}

void ca_list_signed(uint8_t ret[32], const uint8_t digest[32])
{
	sha256_labelled(ret, ROLE_LIST_LABEL, digest, 32);
}

void ca_list_entry_add(struct sha256 *s, const char *entry)
{
	sha256_add(s, entry, strlen(entry) + 1); /* with its NUL, which no entry holds */
}

/* ------------------------------------------------------------------ reading, in general */

static int PRINTF_LIKE(3, 4) bad(char *why, size_t size, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, size, fmt, args);
	va_end(args);
	return -EINVAL;
}

static json_t *load(const char *text, size_t size, char *why, size_t why_size)
{
	json_error_t e;
	json_t *o = json_loadb(text, size, JSON_REJECT_DUPLICATES, &e);

	if (o && json_is_object(o))
		return o;
	json_decref(o);
	(void)bad(why, why_size, "it is no JSON object");
	return NULL;
}

/* The object that stands as text in @json[@member], and the digest of the text. NULL: there is none, or it is none. */
static json_t *load_inner(const json_t *json, const char *member, uint8_t digest[32], char *why, size_t why_size)
{
	const json_t *text = json_object_get(json, member);

	if (!json_is_string(text)) {
		(void)bad(why, why_size, "`%s` is missing or no text", member);
		return NULL;
	}
	sha256(digest, json_string_value(text), json_string_length(text));
	return load(json_string_value(text), json_string_length(text), why, why_size);
}

/* Return: its size, or -EINVAL. */
static int read_signature(uint8_t ret[SIGNATURE_SIZE], const char *text)
{
	ssize_t n = base64_decode(ret, SIGNATURE_SIZE, text, strlen(text), BASE64_STD);

	return n > 0 ? (int)n : -EINVAL;
}

static bool read_point(uint8_t ret[KEY_POINT_SIZE], const char *text)
{
	return base64_decode(ret, KEY_POINT_SIZE, text, strlen(text), BASE64_STD) == KEY_POINT_SIZE && ret[0] == 4;
}

/* ------------------------------------------------------------------ questions */

static int find_op(const char *name)
{
	for (int i = 0; i < CA_OP_N; i++)
		if (strcmp(name, g_ops[i]) == 0)
			return i;
	return -EINVAL;
}

struct question_texts {
	const char *op, *token, *host, *ask, *service, *key, *proof, *version;
};

static int read_key(struct ca_question *q, const struct question_texts *t, char *why, size_t why_size)
{
	int n;

	if (!read_point(q->key, t->key))
		return bad(why, why_size, "`key` is not the base64 of an uncompressed P-256 point");
	n = read_signature(q->proof, t->proof);
	if (n < 0)
		return bad(why, why_size, "`proof` is not the base64 of a signature");
	q->proof_size = (uint8_t)n;
	return 0;
}

static bool members_fit(const struct question_texts *t, enum ca_op op)
{
	bool joins = op == CA_OP_JOIN, wants_key = op != CA_OP_REVOKED;

	return !t->token == !joins && !t->host == !joins && !t->ask == !joins && !t->service == (op != CA_OP_SERVICE) && !t->key == !wants_key &&
	       !t->proof == !wants_key && !t->version == wants_key;
}

static int check_question(struct ca_question *q, const struct question_texts *t, char *why, size_t why_size)
{
	int op = find_op(t->op);

	if (op < 0)
		return bad(why, why_size, "there is no such question");
	q->op = (enum ca_op)op;
	if (!members_fit(t, q->op))
		return bad(why, why_size, "its members are not those of \"%s\"", g_ops[op]);
	if (t->token && hex_decode(q->token, sizeof(q->token), t->token) < 0)
		return bad(why, why_size, "`token` is not 32 hexadecimal digits");
	if (t->host && (!label_is_valid(t->host) || !str_copy(q->host, sizeof(q->host), t->host)))
		return bad(why, why_size, "`host` is no name: expected a-z, 0-9 and -, at most 63");
	if (t->ask && !read_point(q->ask, t->ask))
		return bad(why, why_size, "`ask` is not the base64 of an uncompressed P-256 point");
	if (t->service && service_name_parse(&q->service, t->service, NULL) < 0)
		return bad(why, why_size, "`service` is not NAMESPACE/NAME");
	if (t->version && revoked_version_parse(&q->version, t->version) < 0)
		return bad(why, why_size, "`version` is not EPOCH-COUNTER");
	return op == CA_OP_REVOKED ? 0 : read_key(q, t, why, why_size);
}

static int read_body(struct ca_question *q, const json_t *body, char *why, size_t why_size)
{
	struct question_texts t = {};

	if (json_unpack((json_t *)(uintptr_t)body, "{s:s,s?s,s?s,s?s,s?s,s?s,s?s,s?s!}", "op", &t.op, "token", &t.token, "host", &t.host, "ask", &t.ask,
			"service", &t.service, "key", &t.key, "proof", &t.proof, "version", &t.version) < 0)
		return bad(why, why_size, "it has members that no question has, or of another kind");
	return check_question(q, &t, why, why_size);
}

/* By what it is proven goes by what it asks. */
static int read_proven(struct ca_question *q, json_t *envelope, char *why, size_t why_size)
{
	const char *body, *mac = NULL, *signature = NULL;
	int n;

	if (json_unpack(envelope, "{s:s,s?s,s?s!}", "body", &body, "mac", &mac, "signature", &signature) < 0)
		return bad(why, why_size, "what is around it has members that no question has, or of another kind");
	if (!mac != (q->op != CA_OP_JOIN) || !signature != (q->op != CA_OP_HOST && q->op != CA_OP_SERVICE))
		return bad(why, why_size, "it is not proven as \"%s\" is", g_ops[q->op]);
	if (mac && hex_decode(q->mac, sizeof(q->mac), mac) < 0)
		return bad(why, why_size, "`mac` is not 64 hexadecimal digits");
	if (!signature)
		return 0;
	n = read_signature(q->signature, signature);
	if (n < 0)
		return bad(why, why_size, "`signature` is not the base64 of one");
	q->signature_size = (uint8_t)n;
	return 0;
}

int ca_question_read(struct ca_question *ret, const char *text, size_t size, char *why, size_t why_size)
{
	json_t *envelope = load(text, size, why, why_size), *body;
	struct ca_question q = {};
	int r = -EINVAL;

	if (!envelope)
		return -EINVAL;
	body = load_inner(envelope, "body", q.digest, why, why_size);
	if (body)
		r = read_body(&q, body, why, why_size);
	if (r == 0)
		r = read_proven(&q, envelope, why, why_size);
	json_decref(body);
	json_decref(envelope);
	if (r == 0)
		*ret = q;
	return r;
}

static char *dump(json_t *o, bool is_whole)
{
	char *text = is_whole ? json_dumps(o, JSON_COMPACT) : NULL;

	json_decref(o);
	return text;
}

static int set_text(json_t *o, const char *member, const char *text)
{
	return json_object_set_new(o, member, json_string(text));
}

static int set_point(json_t *o, const char *member, const uint8_t point[KEY_POINT_SIZE])
{
	char text[KEY_TEXT_SIZE];

	return set_text(o, member, base64_encode(text, point, KEY_POINT_SIZE, BASE64_STD));
}

static int set_signature(json_t *o, const char *member, const uint8_t *signature, size_t size)
{
	char text[PROOF_TEXT_SIZE];

	return set_text(o, member, base64_encode(text, signature, size, BASE64_STD));
}

char *ca_question_body(struct ca_question *q)
{
	char token[2 * TOKEN_ID_SIZE + 1], service[LIMIT_SERVICE_SIZE], version[REVOKED_VERSION_SIZE], *text;
	json_t *o = json_pack("{s:s}", "op", g_ops[q->op]);
	int r = o ? 0 : -1;

	if (q->op == CA_OP_REVOKED) {
		r |= set_text(o, "version", revoked_version_format(version, &q->version));
	} else {
		r |= set_point(o, "key", q->key);
		r |= set_signature(o, "proof", q->proof, q->proof_size);
	}
	if (q->op == CA_OP_JOIN) {
		r |= set_text(o, "token", hex_encode(token, q->token, sizeof(q->token)));
		r |= set_text(o, "host", q->host);
		r |= set_point(o, "ask", q->ask);
	} else if (q->op == CA_OP_SERVICE) {
		r |= set_text(o, "service", service_name_format(service, &q->service));
	}
	text = dump(o, r == 0);
	if (text)
		sha256(q->digest, text, strlen(text));
	return text;
}

char *ca_question_text(const struct ca_question *q, const char *body)
{
	json_t *o = json_pack("{s:s}", "body", body);
	char mac[65];
	int r = o ? 0 : -1;

	if (q->op == CA_OP_JOIN)
		r |= set_text(o, "mac", hex_encode(mac, q->mac, sizeof(q->mac)));
	else if (q->op != CA_OP_REVOKED)
		r |= set_signature(o, "signature", q->signature, q->signature_size);
	return dump(o, r == 0);
}

/* ------------------------------------------------------------------ answers */

/* A line of another host's, to be shown to people. */
static bool is_line(const char *s, size_t max)
{
	size_t n = strnlen(s, max);

	for (size_t i = 0; i < n; i++)
		if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
			return false;
	return n > 0 && n < max;
}

static bool is_pem(const char *s)
{
	size_t n = strnlen(s, LIMIT_CHAIN_SIZE);

	for (size_t i = 0; i < n; i++)
		if (s[i] != '\n' && s[i] != '\r' && ((unsigned char)s[i] < 0x20 || (unsigned char)s[i] > 0x7e))
			return false;
	return n > 0 && n < LIMIT_CHAIN_SIZE;
}

/* Each is one, and all together have the digest that the list says. */
static bool entries_are_sound(const json_t *entries, const uint8_t expected[32])
{
	uint8_t digest[SHA256_SIZE];
	struct sha256 s;
	const json_t *v;
	size_t i;

	if (!json_is_array(entries) || json_array_size(entries) > LIMIT_REVOKED)
		return false;
	sha256_init(&s);
	json_array_foreach(entries, i, v) {
		if (!json_is_string(v) || json_string_length(v) != strlen(json_string_value(v)) || !state_revoked_is_sound(json_string_value(v)))
			return false;
		ca_list_entry_add(&s, json_string_value(v));
	}
	sha256_end(&s, digest);
	return memcmp(digest, expected, sizeof(digest)) == 0;
}

static int read_list_signature(struct ca_list_signature *ret, const json_t *o)
{
	const char *root, *signature;
	int n;

	if (json_unpack((json_t *)(uintptr_t)o, "{s:s,s:s!}", "root", &root, "signature", &signature) < 0 ||
	    hex_decode(ret->root, sizeof(ret->root), root) < 0)
		return -EINVAL;
	n = read_signature(ret->signature, signature);
	ret->signature_size = (uint8_t)(n < 0 ? 0 : n);
	return n < 0 ? n : 0;
}

static int read_list_signatures(struct ca_answer *a, const json_t *list)
{
	const json_t *v;
	size_t i;

	if (!json_is_array(list) || json_array_size(list) == 0 || json_array_size(list) > CA_ROOTS_MAX)
		return -EINVAL;
	json_array_foreach(list, i, v)
		if (read_list_signature(&a->signatures[a->n_signatures++], v) < 0)
			return -EINVAL;
	return 0;
}

static int read_list(struct ca_answer *a, char *why, size_t why_size)
{
	const char *version, *digest, *list;
	uint8_t expected[SHA256_SIZE];
	json_t *signatures, *revoked = NULL;
	json_int_t made;

	if (json_unpack(a->json, "{s:s,s:o,s?o!}", "list", &list, "signatures", &signatures, "revoked", &revoked) < 0 ||
	    read_list_signatures(a, signatures) < 0)
		return bad(why, why_size, "what is around its list is malformed");
	a->body = load_inner(a->json, "list", a->digest, why, why_size);
	if (!a->body)
		return -EINVAL;
	if (json_unpack(a->body, "{s:s,s:I,s:s,s:s!}", "version", &version, "made", &made, "roots", &a->roots, "digest", &digest) < 0 ||
	    revoked_version_parse(&a->version, version) < 0 || !a->version.epoch || made < 0 || !is_pem(a->roots) ||
	    hex_decode(expected, sizeof(expected), digest) < 0)
		return bad(why, why_size, "its list is malformed");
	if (revoked && !entries_are_sound(revoked, expected))
		return bad(why, why_size, "its list of what is revoked is malformed, or not the one that it is said to be");
	a->made_unix_s = made;
	a->revoked = revoked;
	return 0;
}

static int read_joined(struct ca_answer *a, char *why, size_t why_size)
{
	const char *body, *mac;

	if (json_unpack(a->json, "{s:s,s:s!}", "body", &body, "mac", &mac) < 0 || hex_decode(a->mac, sizeof(a->mac), mac) < 0)
		return bad(why, why_size, "what is around it is malformed");
	a->body = load_inner(a->json, "body", a->digest, why, why_size);
	if (!a->body)
		return -EINVAL;
	if (json_unpack(a->body, "{s:s,s:s,s:s!}", "certificate", &a->certificate, "roots", &a->roots, "trust_domain", &a->trust_domain) < 0)
		return bad(why, why_size, "it has not the members of an answer to a host that joins");
	if (!is_pem(a->certificate) || !is_pem(a->roots))
		return bad(why, why_size, "`certificate` or `roots` is no PEM text");
	if (!trust_domain_is_valid(a->trust_domain))
		return bad(why, why_size, "`trust_domain` is malformed");
	return 0;
}

static int read_certificate(struct ca_answer *a, char *why, size_t why_size)
{
	if (json_unpack(a->json, "{s:s!}", "certificate", &a->certificate) < 0 || !is_pem(a->certificate))
		return bad(why, why_size, "`certificate` is missing or no PEM text, or something else is there");
	return 0;
}

static int read_refusal(struct ca_answer *a, char *why, size_t why_size)
{
	if (json_unpack(a->json, "{s:s,s:s!}", "error", &a->error, "why", &a->why) < 0 || !is_line(a->error, ERROR_MAX) || !is_line(a->why, WHY_MAX))
		return bad(why, why_size, "its refusal is malformed");
	return 0;
}

int ca_answer_read(struct ca_answer *ret, enum ca_op op, const char *text, size_t size, char *why, size_t why_size)
{
	struct ca_answer a = { .json = load(text, size, why, why_size) };
	int r;

	if (!a.json)
		return -EINVAL;
	if (json_object_get(a.json, "error"))
		r = read_refusal(&a, why, why_size);
	else if (op == CA_OP_REVOKED)
		r = read_list(&a, why, why_size);
	else
		r = op == CA_OP_JOIN ? read_joined(&a, why, why_size) : read_certificate(&a, why, why_size);
	if (r < 0)
		ca_answer_free(&a);
	else
		*ret = a;
	return r;
}

struct ca_answer ca_answer_hold(const struct ca_answer *a)
{
	json_incref(a->json);
	json_incref(a->body);
	return *a;
}

void ca_answer_free(struct ca_answer *a)
{
	json_decref(a->body);
	json_decref(a->json);
	*a = (struct ca_answer){};
}

char *ca_list_body(const struct revoked_version *v, int64_t made_unix_s, const char *roots, const uint8_t entries[32])
{
	char version[REVOKED_VERSION_SIZE], hex[65];
	json_t *o = json_pack("{s:s,s:I,s:s,s:s}", "version", revoked_version_format(version, v), "made", (json_int_t)made_unix_s, "roots", roots, "digest",
			      hex_encode(hex, entries, 32));

	return dump(o, o != NULL);
}

json_t *ca_list_json(const char *body, const struct ca_list_signature *signatures, size_t n)
{
	json_t *list = json_array(), *one;
	char hex[65];

	for (size_t i = 0; i < n && list; i++) {
		one = json_pack("{s:s}", "root", hex_encode(hex, signatures[i].root, sizeof(signatures[i].root)));
		if (!one || set_signature(one, "signature", signatures[i].signature, signatures[i].signature_size) < 0 || json_array_append(list, one) < 0) {
			json_decref(list);
			list = NULL;
		}
		json_decref(one);
	}
	return list ? json_pack("{s:s,s:o}", "list", body, "signatures", list) : NULL;
}

json_t *ca_joined_json(const char *body, const uint8_t mac[32])
{
	char hex[65];

	return json_pack("{s:s,s:s}", "body", body, "mac", hex_encode(hex, mac, 32));
}
