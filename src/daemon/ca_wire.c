/*
 * Theory of operation: a question or an answer is one JSON object of few members, all known. Members that are missing, doubled, of
 * another kind, too many, or beyond their bounds make the whole text malformed; nothing is guessed. Sizes are bounded by the linker
 * before the text comes here (LIMIT_CA_QUESTION_SIZE, LIMIT_CA_ANSWER_SIZE), depth by jansson itself.
 *
 * Before it: the other host, the linker, broker_member.c and broker_authority.c. After it: those two.
 */
#include "daemon/ca_wire.h"

#include "core/base64.h"
#include "core/name.h"
#include "core/sha256.h"

#include <stdarg.h>
#include <stdio.h>

enum { KEY_TEXT_SIZE = (KEY_POINT_SIZE + 2) / 3 * 4 + 1, PROOF_TEXT_SIZE = (SIGNATURE_SIZE + 2) / 3 * 4 + 1, WHY_MAX = 512, ERROR_MAX = 32 };

static const char *const g_ops[] = { "join", "host", "service", "revoked" };
static_assert(ARRAY_SIZE(g_ops) == CA_OP_N, "a name for each");

const char *ca_op_name(enum ca_op op)
{
	return g_ops[op];
}

void ca_proven(uint8_t ret[32], const uint8_t exporter[32])
{
	static const char label[] = "sealane ca proof v1";
	struct sha256 s;

	sha256_init(&s);
	sha256_add(&s, label, sizeof(label)); /* with its NUL */
	sha256_add(&s, exporter, 32);
	sha256_end(&s, ret);
}

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

/* ------------------------------------------------------------------ questions */

static int find_op(const char *name)
{
	for (int i = 0; i < CA_OP_N; i++)
		if (strcmp(name, g_ops[i]) == 0)
			return i;
	return -EINVAL;
}

static int read_key(struct ca_question *q, const char *key, const char *proof, char *why, size_t why_size)
{
	ssize_t n;

	if (base64_decode(q->key, sizeof(q->key), key, strlen(key), BASE64_STD) != KEY_POINT_SIZE || q->key[0] != 4)
		return bad(why, why_size, "`key` is not the base64 of an uncompressed P-256 point");
	n = base64_decode(q->proof, sizeof(q->proof), proof, strlen(proof), BASE64_STD);
	if (n <= 0)
		return bad(why, why_size, "`proof` is not the base64 of a signature");
	q->proof_size = (uint8_t)n;
	return 0;
}

struct question_texts {
	const char *op, *secret, *host, *service, *key, *proof, *version;
};

static int check_question(struct ca_question *q, const struct question_texts *t, char *why, size_t why_size)
{
	int op = find_op(t->op);
	bool wants_key = op != CA_OP_REVOKED;

	if (op < 0)
		return bad(why, why_size, "there is no such question");
	q->op = (enum ca_op)op;
	if (!t->secret != (op != CA_OP_JOIN) || !t->host != (op != CA_OP_JOIN) || !t->service != (op != CA_OP_SERVICE) || !t->key != !wants_key ||
	    !t->proof != !wants_key || !t->version != wants_key)
		return bad(why, why_size, "its members are not those of \"%s\"", g_ops[op]);
	if (t->secret && hex_decode(q->secret, sizeof(q->secret), t->secret) < 0)
		return bad(why, why_size, "`secret` is not 32 hexadecimal digits");
	if (t->host && (!label_is_valid(t->host) || !str_copy(q->host, sizeof(q->host), t->host)))
		return bad(why, why_size, "`host` is no name: expected a-z, 0-9 and -, at most 63");
	if (t->service && service_name_parse(&q->service, t->service, NULL) < 0)
		return bad(why, why_size, "`service` is not NAMESPACE/NAME");
	if (t->version && revoked_version_parse(&q->version, t->version) < 0)
		return bad(why, why_size, "`version` is not EPOCH-COUNTER");
	return wants_key ? read_key(q, t->key, t->proof, why, why_size) : 0;
}

int ca_question_read(struct ca_question *ret, const char *text, size_t size, char *why, size_t why_size)
{
	json_t *o = load(text, size, why, why_size);
	struct question_texts t = {};
	struct ca_question q = {};
	int r;

	if (!o)
		return -EINVAL;
	r = json_unpack(o, "{s:s,s?s,s?s,s?s,s?s,s?s,s?s!}", "op", &t.op, "secret", &t.secret, "host", &t.host, "service", &t.service, "key", &t.key,
			"proof", &t.proof, "version", &t.version);
	if (r < 0)
		r = bad(why, why_size, "it has members that no question has, or of another kind");
	else
		r = check_question(&q, &t, why, why_size);
	json_decref(o);
	if (r == 0)
		*ret = q;
	return r;
}

char *ca_question_text(const struct ca_question *q)
{
	char key[KEY_TEXT_SIZE], proof[PROOF_TEXT_SIZE], secret[2 * TOKEN_SECRET_SIZE + 1], service[LIMIT_SERVICE_SIZE];
	char version[REVOKED_VERSION_SIZE], *text;
	json_t *o = json_pack("{s:s}", "op", g_ops[q->op]);
	int r = o ? 0 : -1;

	if (q->op == CA_OP_REVOKED) {
		r |= json_object_set_new(o, "version", json_string(revoked_version_format(version, &q->version)));
	} else {
		r |= json_object_set_new(o, "key", json_string(base64_encode(key, q->key, sizeof(q->key), BASE64_STD)));
		r |= json_object_set_new(o, "proof", json_string(base64_encode(proof, q->proof, q->proof_size, BASE64_STD)));
	}
	if (q->op == CA_OP_JOIN) {
		r |= json_object_set_new(o, "secret", json_string(hex_encode(secret, q->secret, sizeof(q->secret))));
		r |= json_object_set_new(o, "host", json_string(q->host));
	} else if (q->op == CA_OP_SERVICE) {
		r |= json_object_set_new(o, "service", json_string(service_name_format(service, &q->service)));
	}
	text = r == 0 ? json_dumps(o, JSON_COMPACT) : NULL;
	json_decref(o);
	return text;
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

static bool list_is_sound(const json_t *list)
{
	const json_t *v;
	size_t i;

	if (!json_is_array(list) || json_array_size(list) > LIMIT_REVOKED)
		return false;
	json_array_foreach(list, i, v)
		if (!json_is_string(v) || json_string_length(v) != strlen(json_string_value(v)) || !state_revoked_is_sound(json_string_value(v)))
			return false;
	return true;
}

static int check_answer(const struct ca_answer *a, enum ca_op op, char *why, size_t why_size)
{
	bool wants_domain = op == CA_OP_JOIN || op == CA_OP_HOST;

	if (a->error)
		return is_line(a->error, ERROR_MAX) && a->why && is_line(a->why, WHY_MAX) ? 0 : bad(why, why_size, "its refusal is malformed");
	if (!a->roots || !is_pem(a->roots))
		return bad(why, why_size, "`roots` is missing or no PEM text");
	if (op == CA_OP_REVOKED) {
		if (!a->version.epoch || (a->revoked && !list_is_sound(a->revoked)))
			return bad(why, why_size, "its list of what is revoked is malformed");
		return 0;
	}
	if (!a->certificate || !is_pem(a->certificate))
		return bad(why, why_size, "`certificate` is missing or no PEM text");
	if (wants_domain && (!a->trust_domain || !trust_domain_is_valid(a->trust_domain)))
		return bad(why, why_size, "`trust_domain` is missing or malformed");
	return 0;
}

int ca_answer_read(struct ca_answer *ret, enum ca_op op, const char *text, size_t size, char *why, size_t why_size)
{
	struct ca_answer a = { .json = load(text, size, why, why_size) };
	const char *version = NULL;
	json_t *revoked = NULL;
	int r;

	if (!a.json)
		return -EINVAL;
	r = json_unpack(a.json, "{s?s,s?s,s?s,s?s,s?s,s?s,s?o!}", "error", &a.error, "why", &a.why, "certificate", &a.certificate, "roots",
			&a.roots, "trust_domain", &a.trust_domain, "version", &version, "revoked", &revoked);
	a.revoked = revoked;
	if (r == 0 && version)
		r = revoked_version_parse(&a.version, version);
	r = r < 0 ? bad(why, why_size, "it has members that no answer has, or of another kind") : check_answer(&a, op, why, why_size);
	if (r < 0)
		json_decref(a.json);
	else
		*ret = a;
	return r;
}

void ca_answer_free(struct ca_answer *a)
{
	json_decref(a->json);
	*a = (struct ca_answer){};
}
