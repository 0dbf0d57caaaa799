/*
 * The admin interface below HTTP: a method, a path, a query and a body in, an answer out. docs/openapi.json describes it.
 *
 * Trust: all of a request is hostile. Threads: the broker's one.
 */
#ifndef DAEMON_BROKER_API_H
#define DAEMON_BROKER_API_H

#include "daemon/broker.h"

enum api_method { API_GET, API_POST, API_DELETE, API_OTHER, API_METHOD_N };

struct api_request {
	enum api_method method;
	const char *path;  /* as sent: may be percent-encoded */
	const char *query; /* as sent, NULL: none */
	const char *body;
	size_t n_body;
	uid_t uid; /* the client's, from the kernel; (uid_t)-1: not known */
};

struct api_answer {
	int status;
	const char *content_type;
	const char *allow; /* with 405: the methods there are */
	const char *body;
	size_t n_body;
	bool stream;  /* no body: send events (GET /v1/events) */
	bool follow;  /* ... and those to come */
	unsigned n_events;
};

/* Called exactly once per request, perhaps before api_handle() returns. What @a points to is gone afterwards. */
typedef void (*api_answer_fn)(void *arg, const struct api_answer *a);

/* api_handle() - keeps nothing of @r after it returned. @arg must stay good until @fn was called. */
void api_handle(struct broker *b, const struct api_request *r, api_answer_fn fn, void *arg);

/* api_refuse() - an error answer, as api_handle() gives them, for what happens on the HTTP side. */
void api_refuse(int status, const char *code, api_answer_fn fn, void *arg, const char *fmt, ...) PRINTF_LIKE(5, 6);

#endif
