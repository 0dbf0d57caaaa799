/*
 * Questions and answers between hosts and their authority, as JSON. The first byte says which: 0-3 an answer to a question of that
 * kind, anything else a question. What was read as a question is written and read again, and must be the same.
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
	AUTO_FREE(char) written = ca_question_text(&q);
	assert(written);
	assert(ca_question_read(&again, written, strlen(written), why, sizeof(why)) == 0);
	assert(memcmp(&q, &again, sizeof(q)) == 0);
}

static void one_answer(enum ca_op op, const char *text, size_t size)
{
	struct ca_answer a = {};
	char why[256] = "";

	if (ca_answer_read(&a, op, text, size, why, sizeof(why)) < 0) {
		assert(why[0]);
		return;
	}
	assert(a.error ? strlen(a.why) > 0 : strlen(a.roots) > 0);
	ca_answer_free(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	if (data[0] < CA_OP_N)
		one_answer((enum ca_op)data[0], (const char *)data + 1, size - 1);
	else
		one_question((const char *)data + 1, size - 1);
	return 0;
}
