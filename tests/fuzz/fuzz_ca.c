/*
 * Questions and answers between hosts and their authority, as JSON. The first byte says which: 0-3 an answer to a question of that
 * kind; 'b' the body of a question, 'j' that of an answer to a host that joins, 'l' that of a list, which are put into an envelope here, so that
 * the fuzzer need not write JSON within JSON; anything else a question. What was read as a question is written and read again, and must
 * be the same.
 */
#include "daemon/ca_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void one_question(const char *text, size_t size)
{
	struct ca_question q = {}, again = {};
	char why[256] = "";

	if (ca_question_read(&q, text, size, why, sizeof(why)) < 0) {
		assert(why[0]);
		return;
	}
	AUTO_FREE(char) body = ca_question_body(&q);
	assert(body);
	AUTO_FREE(char) written = ca_question_text(&q, body);
	assert(written);
	assert(ca_question_read(&again, written, strlen(written), why, sizeof(why)) == 0);
	assert(memcmp(&q, &again, sizeof(q)) == 0);
}

static void one_answer(enum ca_op op, const char *text, size_t size)
{
	struct ca_answer a = {}, held;
	char why[256] = "";

	if (ca_answer_read(&a, op, text, size, why, sizeof(why)) < 0) {
		assert(why[0]);
		return;
	}
	assert(a.error ? strlen(a.why) > 0 : op == CA_OP_REVOKED ? strlen(a.roots) > 0 && a.n_signatures > 0 : strlen(a.certificate) > 0);
	held = ca_answer_hold(&a);
	ca_answer_free(&a);
	ca_answer_free(&held);
}

/* @more: with what is around a body of that kind. */
static char *envelope(const char *member, const char *body, size_t size, json_t *more)
{
	json_t *o = json_object();
	char *text = NULL;

	if (json_object_set_new(o, member, json_stringn(body, size)) == 0 && json_object_update(o, more) == 0)
		text = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	json_decref(more);
	return text; /* NULL: it was no text at all */
}

static void one_body(const char *body, size_t size)
{
	static const char mac[] = "00000000000000000000000000000000000000000000000000000000000000ff";

	for (int i = 0; i < 3; i++) {
		json_t *more = i == 0 ? json_object() : i == 1 ? json_pack("{s:s}", "mac", mac) : json_pack("{s:s}", "signature", "CQkJ");
		AUTO_FREE(char) text = envelope("body", body, size, more);

		if (text)
			one_question(text, strlen(text));
	}
}

static void one_answer_body(bool is_list, const char *body, size_t size)
{
	static const char print[] = "00000000000000000000000000000000000000000000000000000000000000ff";
	json_t *more = is_list ? json_pack("{s:[{s:s,s:s}]}", "signatures", "root", print, "signature", "CQkJ") : json_pack("{s:s}", "mac", print);
	AUTO_FREE(char) text = envelope(is_list ? "list" : "body", body, size, more);

	if (text)
		one_answer(is_list ? CA_OP_REVOKED : CA_OP_JOIN, text, strlen(text));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data + 1;

	if (size == 0)
		return 0;
	if (data[0] < CA_OP_N)
		one_answer((enum ca_op)data[0], text, size - 1);
	else if (data[0] == 'b')
		one_body(text, size - 1);
	else if (data[0] == 'j' || data[0] == 'l')
		one_answer_body(data[0] == 'l', text, size - 1);
	else
		one_question(text, size - 1);
	return 0;
}
