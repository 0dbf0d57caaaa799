/*
 * The conversation with etcd, against an etcd of the test's own that can lie: a thread on the loopback interface that answers by
 * path, each answer on a connection of its own. On a busy machine requests time out and are made again, so nothing here counts them
 * exactly. What it is to say is in g_fake, under a lock; what it was asked is counted there.
 */
#include "catalogue/session.h"
#include "core/base64.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>

#include <cmocka.h>

#define HEADER "\"header\":{\"cluster_id\":\"3\",\"revision\":\"7\"}"
#define EPOCH "{\"epoch\":\"00112233445566778899aabbccddeeff\",\"generation\":1}"
enum { ANSWER_SIZE = 16 << 10, PATIENCE_MS = 20000 };

enum lie {
	NO_LIE,
	LIE_GARBAGE,
	LIE_FOREIGN_KEY,
	LIE_ENDLESS,
	LIE_REDIRECT,
	LIE_OTHER_CLUSTER_IN_WATCH,
	LIE_NO_EPOCH_ONCE,
	LIE_LEASE_GONE_ONCE,
	LIE_COMPACTED_ONCE,
	LIE_TOKEN_ONCE,
	LIE_TOKEN_EVER,
	LIE_COMMON_NAME,
	LIE_OVERWRITES,
};

static struct {
	pthread_mutex_t lock;
	int fd;
	uint16_t port;
	enum lie lie;
	unsigned n_range, n_watch, n_txn, n_grant, n_auth, n_redirected, n_keepalive;
	char last_txn[ANSWER_SIZE], last_authorization[256];
	bool epoch, watch_end;
} g_fake = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* What the session told. */
static struct {
	enum etcd_state state;
	char why[256], entries[4096], done_why[256];
	unsigned n_begin, n_end, n_taken, n_away, n_refused;
	int done_error;
	uint32_t done_seq;
} g_told;

/* ------------------------------------------------------------------ the fake */

static void say(int fd, const char *text, size_t n)
{
	while (n > 0) {
		ssize_t sent = send(fd, text, n, MSG_NOSIGNAL);

		if (sent <= 0)
			return;
		text += sent;
		n -= (size_t)sent;
	}
}

static void answer(int fd, const char *status, const char *body)
{
	char head[256];
	int n = snprintf(head, sizeof(head), "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", status,
			 strlen(body));

	say(fd, head, (size_t)n);
	say(fd, body, strlen(body));
}

static void kv_text(char *buf, size_t size, const char *key, const char *value, const char *more)
{
	char full[128], k[256], v[1024];

	snprintf(full, sizeof(full), "/t/%s", key);
	snprintf(buf, size, "{\"key\":\"%s\",\"value\":\"%s\",\"mod_revision\":\"5\"%s}", base64_encode(k, full, strlen(full), BASE64_STD),
		 base64_encode(v, value, strlen(value), BASE64_STD), more);
}

static void answer_range(int fd)
{
	char body[ANSWER_SIZE], epoch[1024], host[1024];
	enum lie lie = g_fake.lie;

	g_fake.n_range++;
	kv_text(epoch, sizeof(epoch), "epoch", EPOCH, "");
	kv_text(host, sizeof(host), lie == LIE_FOREIGN_KEY ? "../other" : "hosts/b", "{\"address\":\"10.0.0.2:7443\"}", "");
	if (lie == LIE_FOREIGN_KEY) /* not below /t/ */
		snprintf(host, sizeof(host), "{\"key\":\"L290aGVyL3g=\",\"value\":\"eA==\"}");
	if (lie == LIE_NO_EPOCH_ONCE && !g_fake.epoch)
		snprintf(body, sizeof(body), "{" HEADER ",\"kvs\":[%s]}", host);
	else
		snprintf(body, sizeof(body), "{" HEADER ",\"kvs\":[%s,%s]}", epoch, host);
	answer(fd, "200 OK", body);
}

/* Until the session or the test has enough. */
static void answer_endless(int fd)
{
	static char junk[64 << 10];
	const char head[] = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";

	memset(junk, ' ', sizeof(junk));
	say(fd, head, sizeof(head) - 1);
	pthread_mutex_unlock(&g_fake.lock);
	for (size_t sent = 0; sent < LIMIT_ETCD_ANSWER_SIZE + sizeof(junk); sent += sizeof(junk))
		if (send(fd, junk, sizeof(junk), MSG_NOSIGNAL) <= 0)
			break;
	pthread_mutex_lock(&g_fake.lock);
}

static void say_line(int fd, const char *line)
{
	say(fd, line, strlen(line));
	say(fd, "\n", 1);
}

static void say_event(int fd)
{
	char event[2048], kv[1024];

	if (g_fake.lie == LIE_OVERWRITES)
		kv_text(kv, sizeof(kv), "hosts/a", "{\"address\":\"10.0.0.66:7443\"}", ",\"lease\":\"5\"");
	else
		kv_text(kv, sizeof(kv), "hosts/c", "{\"address\":\"10.0.0.3:7443\"}", "");
	snprintf(event, sizeof(event), "{\"result\":{\"header\":{\"cluster_id\":\"%s\",\"revision\":\"8\"},\"events\":[{\"kv\":%s}]}}",
		 g_fake.lie == LIE_OTHER_CLUSTER_IN_WATCH ? "4" : "3", kv);
	say_line(fd, event);
}

static void answer_watch(int fd)
{
	const char head[] = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
	struct pollfd p = { .fd = fd, .events = POLLIN };
	bool compacted = g_fake.lie == LIE_COMPACTED_ONCE && g_fake.n_watch == 0;

	g_fake.n_watch++;
	say(fd, head, sizeof(head) - 1);
	say_line(fd, "{\"result\":{" HEADER ",\"created\":true}}");
	if (compacted) {
		say_line(fd, "{\"result\":{\"header\":{\"cluster_id\":\"3\"},\"canceled\":true,\"compact_revision\":\"9\"}}");
		return;
	}
	/* Ours is to be there before somebody else writes it. */
	for (int i = 0; i < 200 && g_fake.lie == LIE_OVERWRITES && g_fake.n_txn == 0; i++) {
		pthread_mutex_unlock(&g_fake.lock);
		poll(NULL, 0, 20);
		pthread_mutex_lock(&g_fake.lock);
	}
	say_event(fd);
	while (!g_fake.watch_end) {
		pthread_mutex_unlock(&g_fake.lock);
		p.revents = 0;
		poll(&p, 1, 20);
		pthread_mutex_lock(&g_fake.lock);
		if (p.revents)
			return;
	}
}

static void answer_txn(int fd, const char *body)
{
	snprintf(g_fake.last_txn, sizeof(g_fake.last_txn), "%s", body);
	if (g_fake.lie == LIE_LEASE_GONE_ONCE && g_fake.n_txn++ == 0) {
		answer(fd, "404 Not Found", "{\"message\":\"etcdserver: requested lease not found\",\"code\":5}");
		return;
	}
	g_fake.n_txn++;
	g_fake.epoch = true;
	answer(fd, "200 OK", "{" HEADER ",\"succeeded\":true}");
}

static const char g_redirect[] = "HTTP/1.1 307 Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

static bool answer_with_lie(int fd, const char *path)
{
	bool range = strcmp(path, "/v3/kv/range") == 0, token = g_fake.lie == LIE_TOKEN_EVER || (g_fake.lie == LIE_TOKEN_ONCE && g_fake.n_auth < 2);

	if (g_fake.lie == LIE_COMMON_NAME)
		answer(fd, "400 Bad Request", "CommonName of client sending a request against gateway will be ignored and not used as expected\n");
	else if (range && g_fake.lie == LIE_GARBAGE)
		answer(fd, "200 OK", "{\"header\":\"\\u0000<html>");
	else if (range && g_fake.lie == LIE_ENDLESS)
		answer_endless(fd);
	else if (range && g_fake.lie == LIE_REDIRECT)
		say(fd, g_redirect, sizeof(g_redirect) - 1);
	else if (range && token)
		answer(fd, "401 Unauthorized", "{\"message\":\"etcdserver: invalid auth token\",\"code\":16}");
	else
		return false;
	g_fake.n_range += range;
	return true;
}

static void handle(int fd, const char *path, const char *body)
{
	if (strcmp(path, "/elsewhere") == 0)
		g_fake.n_redirected++;
	if (answer_with_lie(fd, path))
		return;
	if (strcmp(path, "/v3/kv/range") == 0)
		answer_range(fd);
	else if (strcmp(path, "/v3/watch") == 0)
		answer_watch(fd);
	else if (strcmp(path, "/v3/kv/txn") == 0)
		answer_txn(fd, body);
	else if (strcmp(path, "/v3/lease/grant") == 0)
		g_fake.n_grant++, answer(fd, "200 OK", "{" HEADER ",\"ID\":\"77\",\"TTL\":\"3\"}");
	else if (strcmp(path, "/v3/lease/keepalive") == 0)
		g_fake.n_keepalive++, answer(fd, "200 OK", "{\"result\":{" HEADER ",\"ID\":\"77\",\"TTL\":\"3\"}}");
	else if (strcmp(path, "/v3/auth/authenticate") == 0)
		g_fake.n_auth++, answer(fd, "200 OK", "{" HEADER ",\"token\":\"tok.1\"}");
	else
		answer(fd, "404 Not Found", "");
}

static uint16_t port_of(int fd)
{
	struct sockaddr_in a = { .sin_port = 0 };
	socklen_t size = sizeof(a);

	return getsockname(fd, (struct sockaddr *)&a, &size) == 0 ? ntohs(a.sin_port) : 0;
}

/* One request: a head, and as much body as it says. */
static void *serve(void *arg)
{
	int fd = (int)(intptr_t)arg;
	char *text = calloc(1, ANSWER_SIZE), path[64] = "", *body = NULL, *length;
	size_t n = 0, want = SIZE_MAX;

	while (text && n < want && n < ANSWER_SIZE - 1) {
		ssize_t got = recv(fd, text + n, ANSWER_SIZE - 1 - n, 0);

		if (got <= 0)
			break;
		n += (size_t)got;
		body = strstr(text, "\r\n\r\n");
		length = strcasestr(text, "Content-Length: ");
		if (body && length)
			want = (size_t)(body + 4 - text) + strtoul(length + 16, NULL, 10);
	}
	if (text && body && sscanf(text, "POST %63s ", path) == 1) {
		char *authorization = strcasestr(text, "Authorization: ");

		pthread_mutex_lock(&g_fake.lock);
		if (authorization)
			sscanf(authorization + 15, "%255[^\r]", g_fake.last_authorization);
		if (port_of(fd) == g_fake.port)
			handle(fd, path, body + 4);
		pthread_mutex_unlock(&g_fake.lock);
	}
	shutdown(fd, SHUT_RDWR);
	close(fd);
	free(text);
	return NULL;
}

static void *accept_all(void *arg)
{
	int listener = (int)(intptr_t)arg;

	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		pthread_t t;

		if (fd < 0) {
			close(listener);
			return NULL;
		}
		if (pthread_create(&t, NULL, serve, (void *)(intptr_t)fd) == 0)
			pthread_detach(t);
		else
			close(fd);
	}
}

/* A port of its own for each session: what the one before had on its way when it ended is for nobody. */
static void start_fake(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	pthread_t t;

	g_fake.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(g_fake.fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(g_fake.fd, 64), 0);
	g_fake.port = port_of(g_fake.fd);
	assert_int_equal(pthread_create(&t, NULL, accept_all, (void *)(intptr_t)g_fake.fd), 0);
	pthread_detach(t);
}

static int start_all(void **state)
{
	signal(SIGPIPE, SIG_IGN);
	return session_global();
}

/* ------------------------------------------------------------------ the session */

static void on_state(void *arg, enum etcd_state state, const char *endpoint, const char *why)
{
	g_told.state = state;
	g_told.n_away += state == ETCD_AWAY;
	g_told.n_refused += state == ETCD_REFUSED;
	snprintf(g_told.why, sizeof(g_told.why), "%s", why);
}

static void on_begin(void *arg, uint64_t cluster_id, uint64_t revision)
{
	g_told.n_begin++;
}

static void on_entry(void *arg, enum etcd_entry_state state, uint64_t revision, const char *key, const char *value)
{
	size_t n = strlen(g_told.entries);

	snprintf(g_told.entries + n, sizeof(g_told.entries) - n, "%d %s;", state, key);
}

static void on_end(void *arg, uint64_t cluster_id, uint64_t revision)
{
	assert_true(cluster_id == 3 && revision == 7);
	g_told.n_end++;
}

static void on_taken(void *arg, const char *key, const char *value)
{
	assert_string_equal(key, "hosts/a");
	g_told.n_taken++;
}

static void on_done(void *arg, uint32_t seq, int error, const char *why)
{
	g_told.done_seq = seq;
	g_told.done_error = error;
	snprintf(g_told.done_why, sizeof(g_told.done_why), "%s", why);
}

static struct session *open_session(enum lie lie, const char *user)
{
	static char password[] = "pw";
	const struct session_events events = { .state = on_state, .begin = on_begin, .entry = on_entry, .end = on_end, .taken = on_taken, .done = on_done };
	const struct session_file files[ETCD_FILE_N] = { [ETCD_FILE_PASSWORD] = { password, 2 } };
	struct role_etcd where = { .lease_s = 3, .n_endpoints = 1, .host = "a", .prefix = "/t" };
	struct session *s = NULL;

	pthread_mutex_lock(&g_fake.lock);
	start_fake();
	g_fake.lie = lie;
	g_fake.n_range = g_fake.n_watch = g_fake.n_txn = g_fake.n_grant = g_fake.n_auth = g_fake.n_redirected = g_fake.n_keepalive = 0;
	g_fake.epoch = g_fake.watch_end = false;
	g_fake.last_authorization[0] = g_fake.last_txn[0] = '\0';
	pthread_mutex_unlock(&g_fake.lock);
	memset(&g_told, 0, sizeof(g_told));
	snprintf(where.endpoints[0], sizeof(where.endpoints[0]), "http://127.0.0.1:%u", g_fake.port);
	assert_true(str_copy(where.user, sizeof(where.user), user));
	assert_int_equal(session_new(&s, files, &events), 0);
	assert_int_equal(session_own(s, "hosts/a", "{\"address\":\"10.0.0.1:7443\"}"), 0);
	session_start(s, &where);
	return s;
}

static void close_session(struct session *s)
{
	session_free(s);
	pthread_mutex_lock(&g_fake.lock);
	g_fake.watch_end = true;
	shutdown(g_fake.fd, SHUT_RDWR); /* its thread closes it */
	pthread_mutex_unlock(&g_fake.lock);
}

#define POLL_UNTIL(s, condition)                                                              \
	do {                                                                                  \
		uint64_t end_ = clock_ns() + PATIENCE_MS * UINT64_C(1000000);                 \
		while (!(condition) && clock_ns() < end_)                                     \
			assert_int_equal(session_poll((s), NULL, 0), 0);                      \
		if (!(condition))                                                             \
			fail_msg("%s: state %d, %s", #condition, g_told.state, g_told.why);   \
	} while (0)

static unsigned fake_count(const unsigned *counter)
{
	unsigned n;

	pthread_mutex_lock(&g_fake.lock);
	n = *counter;
	pthread_mutex_unlock(&g_fake.lock);
	return n;
}

static void test_all_goes_well(void **state)
{
	struct session *s = open_session(NO_LIE, "");

	POLL_UNTIL(s, strstr(g_told.entries, "hosts/c"));
	assert_true(g_told.n_begin >= 1 && g_told.n_end >= 1);
	assert_int_equal(g_told.state, ETCD_UP);
	assert_ptr_equal(strstr(g_told.entries, "0 epoch;0 hosts/b;"), g_told.entries);
	POLL_UNTIL(s, fake_count(&g_fake.n_txn) > 0);
	assert_non_null(strstr(g_fake.last_txn, "\"lease\":\"77\""));
	POLL_UNTIL(s, fake_count(&g_fake.n_keepalive) > 0);
	session_write(s, 5, "intentions/x", "{}");
	POLL_UNTIL(s, g_told.done_seq == 5);
	assert_int_equal(g_told.done_error, 0);
	assert_non_null(strstr(g_fake.last_txn, "\"lease\":\"0\""));
	close_session(s);
}

/* Whatever it says instead of a range: etcd is away, no range is told to its end, and it is tried again. */
static void test_lies_about_the_range(void **state)
{
	static const enum lie lies[] = { LIE_GARBAGE, LIE_FOREIGN_KEY, LIE_ENDLESS, LIE_REDIRECT };

	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		struct session *s = open_session(lies[i], "");

		POLL_UNTIL(s, g_told.n_away >= 2);
		assert_int_equal(g_told.n_end, 0);
		assert_int_equal(fake_count(&g_fake.n_redirected), 0);
		session_write(s, 9, "intentions/x", NULL);
		assert_int_equal(g_told.done_seq, 9);
		assert_int_equal(g_told.done_error, -EHOSTDOWN);
		close_session(s);
	}
}

static void test_another_cluster_in_the_watch(void **state)
{
	struct session *s = open_session(LIE_OTHER_CLUSTER_IN_WATCH, "");

	POLL_UNTIL(s, g_told.n_away >= 1);
	assert_true(g_told.n_end >= 1);
	close_session(s);
}

static void test_an_epoch_is_made(void **state)
{
	struct session *s = open_session(LIE_NO_EPOCH_ONCE, "");

	POLL_UNTIL(s, g_told.n_end >= 1);
	assert_true(g_told.n_begin >= 2 && fake_count(&g_fake.n_range) >= 2);
	close_session(s);
}

static void test_the_lease_is_lost(void **state)
{
	struct session *s = open_session(LIE_LEASE_GONE_ONCE, "");

	POLL_UNTIL(s, fake_count(&g_fake.n_grant) >= 2 && fake_count(&g_fake.n_txn) >= 2);
	close_session(s);
}

static void test_compaction(void **state)
{
	struct session *s = open_session(LIE_COMPACTED_ONCE, "");

	POLL_UNTIL(s, g_told.n_end >= 2 && strstr(g_told.entries, "hosts/c"));
	close_session(s);
}

static void test_tokens(void **state)
{
	struct session *s = open_session(LIE_TOKEN_ONCE, "u");

	POLL_UNTIL(s, g_told.state == ETCD_UP);
	assert_true(fake_count(&g_fake.n_auth) >= 2);
	assert_string_equal(g_fake.last_authorization, "tok.1");
	close_session(s);
	s = open_session(LIE_TOKEN_EVER, "u");
	POLL_UNTIL(s, g_told.n_refused == 1);
	assert_true(fake_count(&g_fake.n_auth) < 10);
	close_session(s);
}

static void test_the_common_name(void **state)
{
	struct session *s = open_session(LIE_COMMON_NAME, "");

	POLL_UNTIL(s, g_told.n_refused == 1);
	assert_non_null(strstr(g_told.why, "empty subject"));
	close_session(s);
}

static void test_somebody_has_our_name(void **state)
{
	struct session *s = open_session(LIE_OVERWRITES, "");

	POLL_UNTIL(s, g_told.n_taken >= 1);
	POLL_UNTIL(s, fake_count(&g_fake.n_txn) >= 2); /* ours again */
	close_session(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_goes_well),
		cmocka_unit_test(test_lies_about_the_range),
		cmocka_unit_test(test_another_cluster_in_the_watch),
		cmocka_unit_test(test_an_epoch_is_made),
		cmocka_unit_test(test_the_lease_is_lost),
		cmocka_unit_test(test_compaction),
		cmocka_unit_test(test_tokens),
		cmocka_unit_test(test_the_common_name),
		cmocka_unit_test(test_somebody_has_our_name),
	};

	return cmocka_run_group_tests(tests, start_all, NULL);
}
