/*
 * libcurl does the HTTP. Each request has its connection and closes it: the daemon admits a limited number, and a
 * `sealane run` that kept one for as long as its command lives would keep others out.
 *
 * While the daemon is away its keeper holds the socket: connecting works then, and nobody answers. So what is bounded is the
 * time until the first byte, for which libcurl has no option: hence the multi interface.
 */
#include "cli/api.h"
#include "cli/table.h"

#include <curl/curl.h>
#include <stdarg.h>
#include <sys/un.h>

enum {
	API_ANSWER_SIZE_MAX = 256 << 20, /* LIMIT_INTENTIONS of the largest objects are about 60 MB */
	API_TIMEOUT_MS = 30000,		 /* a whole answer */
	API_READ_MS = 2000,		 /* its first byte */
	API_CHANGE_MS = 5000,		 /* the same where the daemon writes a file or waits for its roles before */
	API_POLL_MS = 1000,
	API_LINE_SIZE_MAX = 64 << 10,
};

void api_reply_free(struct api_reply *r)
{
	free(r->text);
	json_decref(r->json);
	*r = (struct api_reply){ 0 };
}

static size_t api_collect(char *data, size_t size, size_t n, void *arg)
{
	struct api_reply *r = arg;
	size_t bytes = size * n;

	if (bytes > API_ANSWER_SIZE_MAX - r->size)
		return 0;
	if (r->size + bytes + 1 > r->cap) {
		size_t cap = (r->size + bytes + 1) * 2;
		char *bigger = realloc(r->text, cap);

		if (!bigger)
			return 0;
		r->text = bigger;
		r->cap = cap;
	}
	memcpy(r->text + r->size, data, bytes);
	r->size += bytes;
	r->text[r->size] = '\0';
	return bytes;
}

static CURL *api_handle(void)
{
	static CURL *handle;

	if (!handle && curl_global_init(CURL_GLOBAL_NOTHING) == 0)
		handle = curl_easy_init();
	return handle;
}

static int api_curl_errno(CURL *h, CURLcode code)
{
	long os_errno = 0;

	if (code == CURLE_OK)
		return 0;
	if (code == CURLE_OPERATION_TIMEDOUT)
		return -ETIMEDOUT;
	curl_easy_getinfo(h, CURLINFO_OS_ERRNO, &os_errno);
	if (code == CURLE_COULDNT_CONNECT && os_errno > 0)
		return -(int)os_errno;
	if (code == CURLE_GOT_NOTHING || code == CURLE_RECV_ERROR || code == CURLE_SEND_ERROR)
		return -ECONNRESET;
	return code == CURLE_WRITE_ERROR ? -EMSGSIZE : code == CURLE_OUT_OF_MEMORY ? -ENOMEM : -EIO;
}

static size_t api_begun(char *data, size_t size, size_t n, void *arg)
{
	*(bool *)arg = true;
	return size * n;
}

static CURLcode api_perform_in(CURLM *m, CURL *h, long first_ms)
{
	uint64_t end = clock_ns() + (uint64_t)first_ms * 1000000;
	bool begun = false;
	int running = 1, left;

	curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, api_begun);
	curl_easy_setopt(h, CURLOPT_HEADERDATA, &begun);
	if (curl_multi_add_handle(m, h) != CURLM_OK)
		return CURLE_OUT_OF_MEMORY;
	while (curl_multi_perform(m, &running) == CURLM_OK && running) {
		uint64_t now = clock_ns();

		if (!begun && now >= end)
			return CURLE_OPERATION_TIMEDOUT;
		if (curl_multi_poll(m, NULL, 0, begun ? API_POLL_MS : (int)((end - now) / 1000000) + 1, NULL) != CURLM_OK)
			break;
	}
	for (CURLMsg *msg; (msg = curl_multi_info_read(m, &left));) {
		if (msg->msg == CURLMSG_DONE)
			return msg->data.result;
	}
	return CURLE_OUT_OF_MEMORY;
}

/* Return: 0 or negative errno; -ETIMEDOUT also when no byte has come within @first_ms. */
static int api_perform(CURL *h, long first_ms)
{
	CURLM *m = curl_multi_init();
	int r;

	if (!m)
		return -ENOMEM;
	r = api_curl_errno(h, api_perform_in(m, h, first_ms));
	curl_multi_remove_handle(m, h);
	curl_multi_cleanup(m); /* its connection ends with it */
	return r;
}

static int api_prepare(CURL *h, const char *socket_path, const char *method, const char *path, long timeout_ms)
{
	AUTO_FREE(char) url = NULL;

	if (strlen(socket_path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
		return -ENAMETOOLONG;
	curl_easy_reset(h);
	if (asprintf(&url, "http://sealane%s", path) < 0)
		return -ENOMEM;
	/* Whatever http_proxy says: this goes to the daemon and nowhere else. */
	if (curl_easy_setopt(h, CURLOPT_PROXY, "") || curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L) ||
	    curl_easy_setopt(h, CURLOPT_UNIX_SOCKET_PATH, socket_path) || curl_easy_setopt(h, CURLOPT_URL, url) ||
	    curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, method) || curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, timeout_ms))
		return -ENOMEM;
	return 0;
}

int api_request(const char *socket_path, const char *method, const char *path, json_t *body, long first_ms, struct api_reply *ret)
{
	CURL *h = api_handle();
	struct curl_slist *headers = NULL;
	AUTO_FREE(char) text = body ? json_dumps(body, JSON_COMPACT) : NULL;
	int r;

	json_decref(body);
	*ret = (struct api_reply){ 0 };
	if (!h || (body && !text))
		return -ENOMEM;
	r = api_prepare(h, socket_path, method, path, API_TIMEOUT_MS);
	if (r < 0)
		return r;
	if (text) {
		headers = curl_slist_append(NULL, "Content-Type: application/json");
		curl_easy_setopt(h, CURLOPT_HTTPHEADER, headers);
		curl_easy_setopt(h, CURLOPT_POSTFIELDS, text);
	} else if (strcmp(method, "POST") == 0) {
		curl_easy_setopt(h, CURLOPT_POSTFIELDS, "");
	}
	curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, api_collect);
	curl_easy_setopt(h, CURLOPT_WRITEDATA, ret);
	r = api_perform(h, first_ms);
	curl_slist_free_all(headers);
	if (r < 0)
		return r;
	curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &ret->status);
	ret->json = ret->text ? json_loadb(ret->text, ret->size, JSON_ALLOW_NUL, NULL) : NULL;
	return 0;
}

const char *api_error_message(const struct api_reply *r)
{
	const char *message = api_str(json_object_get(r->json, "error"), "message");

	return message ? message : "the daemon gave no reason";
}

int api_tell_unreachable(const struct cli *c, int error, long waited_ms)
{
	if (error == -ETIMEDOUT)
		cli_error(c, "no daemon answers within %ld s on %s; if it was just stopped, its sockets wait for the next one", waited_ms / 1000,
			  c->socket_path);
	else if (error == -ENAMETOOLONG)
		cli_error(c, "the socket's path is too long (at most 107 bytes): %s", c->socket_path);
	else
		cli_error(c, "no daemon answers on %s (%s)", c->socket_path, strerror(-error));
	if (error == -EACCES || error == -EPERM)
		fprintf(stderr, "  the socket is there, but not for this user: it takes root or a user named in admin { users } of sealane.conf(5)\n");
	else if (error == -ETIMEDOUT)
		fprintf(stderr, "  to see whether it runs: systemctl status sealaned; its log: journalctl -u sealaned\n");
	else if (error != -ENAMETOOLONG)
		fprintf(stderr, "  to start it: systemctl start sealaned, or: sealaned -c /etc/sealane/sealane.conf\n");
	fprintf(stderr, "  another socket: --socket PATH, or SEALANE_ADMIN in the environment\n");
	return CLI_UNREACHABLE;
}

static int api_tell_refusal(struct cli *c, const struct api_reply *r)
{
	AUTO_FREE(char) message = NULL;

	if (c->json && r->text) {
		fwrite(r->text, 1, r->size, stdout);
		if (r->size && r->text[r->size - 1] != '\n')
			putchar('\n');
		return CLI_FAILED;
	}
	fprintf(stderr, "sealane %s: ", c->verb->name);
	for (const char *s = api_error_message(r); *s; s += strcspn(s, "\n"), s += *s == '\n') {
		message = strndup(s, strcspn(s, "\n"));
		if (message)
			text_put(stderr, message);
		fputc('\n', stderr);
		free(take_ptr(message));
	}
	return CLI_FAILED;
}

int api_call_within(struct cli *c, const char *method, const char *path, json_t *body, long first_ms, struct api_reply *ret)
{
	int r = api_request(c->socket_path, method, path, body, first_ms, ret);

	if (r < 0)
		return api_tell_unreachable(c, r, first_ms);
	if (ret->status < 200 || ret->status > 299)
		return api_tell_refusal(c, ret);
	if (!ret->json)
		return cli_error(c, "what answers on %s is not sealaned: its answer is no JSON", c->socket_path);
	if (c->json) {
		fwrite(ret->text, 1, ret->size, stdout);
		if (ret->text[ret->size - 1] != '\n')
			putchar('\n');
	}
	return CLI_OK;
}

int api_call(struct cli *c, const char *method, const char *path, json_t *body, struct api_reply *ret)
{
	return api_call_within(c, method, path, body, strcmp(method, "GET") == 0 ? API_READ_MS : API_CHANGE_MS, ret);
}

int api_do(struct cli *c, const char *method, const char *path, json_t *body, const char *done_text)
{
	AUTO_REPLY reply = { 0 };
	int r = api_call(c, method, path, body, &reply);

	if (r == CLI_OK && !c->json && done_text)
		puts(done_text);
	return r;
}

struct api_lines {
	void (*line)(void *arg, const char *text);
	void *arg;
	char buf[API_LINE_SIZE_MAX];
	size_t n;
	CURL *handle;
	struct api_reply *refusal; /* an error's body is collected whole */
};

static size_t api_split(char *data, size_t size, size_t n, void *arg)
{
	struct api_lines *l = arg;
	long status = 0;

	curl_easy_getinfo(l->handle, CURLINFO_RESPONSE_CODE, &status);
	if (status != 200)
		return api_collect(data, size, n, l->refusal);
	for (size_t i = 0; i < size * n; i++) {
		if (data[i] != '\n') {
			if (l->n == sizeof(l->buf) - 1)
				return 0; /* the daemon's lines are shorter than 2 KiB */
			l->buf[l->n++] = data[i];
			continue;
		}
		l->buf[l->n] = '\0';
		l->line(l->arg, l->buf);
		l->n = 0;
	}
	return size * n;
}

int api_follow(struct cli *c, const char *path, void (*line)(void *arg, const char *text), void *arg)
{
	CURL *h = api_handle();
	AUTO_REPLY refusal = { 0 };
	AUTO_FREE(struct api_lines) l = calloc(1, sizeof(*l));
	int r = h && l ? api_prepare(h, c->socket_path, "GET", path, 0L) : -ENOMEM;

	if (r < 0)
		return api_tell_unreachable(c, r, API_READ_MS);
	*l = (struct api_lines){ .line = line, .arg = arg, .handle = h, .refusal = &refusal };
	curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, api_split);
	curl_easy_setopt(h, CURLOPT_WRITEDATA, l);
	r = api_perform(h, API_READ_MS);
	curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &refusal.status);
	if (r < 0 && refusal.status == 0)
		return api_tell_unreachable(c, r, API_READ_MS);
	if (refusal.status != 200) {
		refusal.json = refusal.text ? json_loadb(refusal.text, refusal.size, 0, NULL) : NULL;
		return api_tell_refusal(c, &refusal);
	}
	return r < 0 ? cli_error(c, "the daemon went away (%s)", strerror(-r)) : CLI_OK;
}

char *api_path(const char *fmt, ...)
{
	char *s = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		abort();
	va_end(ap);
	return s;
}

char *api_escape(const char *s)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~";
	char *out = malloc(strlen(s) * 3 + 1), *o = out;

	if (!out)
		abort();
	for (; *s; s++) {
		if (strchr(plain, *s))
			*o++ = *s;
		else
			o += sprintf(o, "%%%02X", (unsigned char)*s);
	}
	*o = '\0';
	return out;
}

const char *api_str(const json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key));
}

int64_t api_i64(const json_t *o, const char *key)
{
	const json_t *v = json_object_get(o, key);

	return json_is_real(v) ? (int64_t)json_real_value(v) : (int64_t)json_integer_value(v);
}

bool api_bool(const json_t *o, const char *key)
{
	return json_is_true(json_object_get(o, key));
}

bool api_has(const json_t *o, const char *key)
{
	const json_t *v = json_object_get(o, key);

	return v && !json_is_null(v);
}
