/*
 * The admin interface below HTTP (broker_api.c, views, metrics), over the fake broker.
 *
 * An input is a line and a body: METHOD ERROR HOLD TARGET "\n" BODY, the first three one letter each:
 *   G P D O   GET, POST, DELETE, any other method       0 - 9   what the broker answers: an index into `errors`
 *   h -       whether that answer comes at once or after api_handle() has returned
 * Whatever comes in, there must be exactly one answer, with a sensible status, and what says it is JSON must be JSON.
 */
#include "base/log.h"
#include "daemon/broker_api.h"
#include "daemon/fake_broker.h"

#include <jansson.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const int errors[] = { 0, -EINVAL, -ENOENT, -EPERM, -ENOMEM, -ETIMEDOUT, -EIO, -EBUSY, INT32_MIN + 1, 0 };

static void require(bool good)
{
	if (!good)
		abort();
}

static void on_answer(void *arg, const struct api_answer *a)
{
	unsigned *n_answers = arg;
	json_t *json;

	(*n_answers)++;
	require(a->status == 200 || (a->status >= 400 && a->status <= 504));
	require(a->stream ? !a->body : a->body && a->n_body > 0);
	require((a->status == 405) == (a->allow != NULL));
	if (strcmp(a->content_type, "application/json") != 0)
		return;
	json = json_loadb(a->body, a->n_body, JSON_REJECT_DUPLICATES, NULL);
	require(json && (a->status == 200) == !json_object_get(json, "error"));
	json_decref(json);
}

static enum api_method method_of(uint8_t c)
{
	return c == 'G' ? API_GET : c == 'P' ? API_POST : c == 'D' ? API_DELETE : API_OTHER;
}

static void ask(struct fake_broker *f, const uint8_t *data, char *target, const char *body, size_t n_body)
{
	struct api_request r = { .method = method_of(data[0]), .path = target, .body = body, .n_body = n_body };
	char *query = strchr(target, '?');
	unsigned n_answers = 0;

	if (query) {
		*query = '\0';
		r.query = query + 1;
	}
	f->error = data[1] >= '0' && data[1] <= '9' ? errors[data[1] - '0'] : 0;
	f->why = data[1] == '9' ? NULL : "the reason";
	f->hold = data[2] == 'h';
	api_handle(&f->b, &r, on_answer, &n_answers);
	fake_release(f);
	require(n_answers == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct fake_broker *f;
	const uint8_t *end = memchr(data, '\n', size);
	size_t n_head = end ? (size_t)(end - data) : size;
	AUTO_FREE(char) target = NULL;
	AUTO_FREE(char) body = NULL;

	if (!f) {
		log_init("fuzz", LOG_LEVEL_ERROR);
		f = fake_new(NULL);
	}
	if (n_head < 3)
		return 0;
	/* Copies of exact size, so that a sanitizer sees a read beyond either. */
	target = strndup((const char *)data + 3, n_head - 3);
	body = malloc(end ? size - n_head - 1 : 1);
	require(target && body);
	if (end)
		memcpy(body, end + 1, size - n_head - 1);
	ask(f, data, target, body, end ? size - n_head - 1 : 0);
	return 0;
}
