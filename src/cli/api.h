/*
 * The daemon's admin interface as the verbs see it: HTTP over the Unix socket, JSON in and out (docs/openapi.json).
 *
 * Blocking, one connection for each request; each is bounded in time and the answer in size. Trust: the daemon is trusted to be itself (the socket
 * lies in root's directory), not to send short or well-typed answers: getters give NULL or 0 for what is not there.
 */
#ifndef CLI_API_H
#define CLI_API_H

#include "cli/cli.h"

#include <jansson.h>

struct api_reply {
	long status; /* HTTP */
	char *text;  /* as it came, NUL-terminated */
	size_t size, cap;
	json_t *json; /* NULL if the answer is no JSON */
};

void api_reply_free(struct api_reply *r);
#define AUTO_REPLY __attribute__((cleanup(api_reply_free))) struct api_reply

/*
 * api_request() - one request. @path: with its query, already escaped. @body: taken over, may be NULL. @first_ms: until the answer's
 * first byte.
 * Return: 0: an answer came, whatever its status; negative errno: none did (-ENOENT, -ECONNREFUSED, -EACCES, -ETIMEDOUT ...).
 */
MUST_CHECK int api_request(const char *socket_path, const char *method, const char *path, json_t *body, long first_ms,
			   struct api_reply *ret);

/* api_error_message() - what a refusal said, or the HTTP status in words. Borrowed from @r. */
const char *api_error_message(const struct api_reply *r);

/*
 * api_tell_unreachable() - say on standard error which socket did not answer and how to start the daemon. @waited_ms: what
 * api_request() was given. Returns CLI_UNREACHABLE.
 */
int api_tell_unreachable(const struct cli *c, int error, long waited_ms);

/*
 * api_call() - api_request(), and everything that can go wrong is told to the user. With --json the answer, also an
 * error's, goes to standard output as it came. Return: enum cli_exit; on CLI_OK @ret holds JSON.
 */
MUST_CHECK int api_call(struct cli *c, const char *method, const char *path, json_t *body, struct api_reply *ret);

enum { API_LIST_MS = 8000 }; /* where a list of ten thousand lanes is made before its first byte goes out */

/* api_call_within() - the same with a limit of its own for the answer's first byte; api_call() takes 2 s for GET, else 5 s. */
MUST_CHECK int api_call_within(struct cli *c, const char *method, const char *path, json_t *body, long first_ms, struct api_reply *ret);

/* api_do() - api_call() for requests whose answer is only "done"; prints @done_text then, unless --json. Return: enum cli_exit. */
MUST_CHECK int api_do(struct cli *c, const char *method, const char *path, json_t *body, const char *done_text);

/*
 * api_follow() - GET @path and hand each line of the answer to @line as it comes, until the daemon ends it.
 * Return: enum cli_exit (errors are told).
 */
MUST_CHECK int api_follow(struct cli *c, const char *path, void (*line)(void *arg, const char *text), void *arg);

/* api_path() - printf into a new string; "%s" arguments must be passed through api_escape(). Owned by the caller. */
char *api_path(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* api_escape() - percent-encoded for a path segment or query value. Owned by the caller. */
char *api_escape(const char *s);

const char *api_str(const json_t *o, const char *key); /* NULL if it is not there or null */
int64_t api_i64(const json_t *o, const char *key);     /* 0 likewise */
bool api_bool(const json_t *o, const char *key);
bool api_has(const json_t *o, const char *key); /* there and not null */

#endif
