/*
 * The admin interface over a real Unix socket and a fake broker. One thread: the client's side waits by turning the
 * server's event loop, so that a sanitizer sees both and every step has its order.
 */
#include "base/log.h"
#include "daemon/broker_admin.h"
#include "daemon/broker_events.h"
#include "daemon/fake_broker.h"

#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cmocka.h>

enum { REPLY_SIZE = 2 << 20 };
#define WAIT_NS UINT64_C(10000000000)

struct test {
	struct event_base *base;
	struct fake_broker *f;
	char dir[64];
	struct sockaddr_un sa;
};

struct reply {
	int status;
	char *headers, *body; /* inside text */
	size_t n_body;
	json_t *json;
	char *text;
	size_t n;
};

static int set_up(void **state)
{
	struct test *t = calloc(1, sizeof(*t));
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_non_null(t);
	t->base = event_base_new();
	t->f = fake_new(t->base);
	snprintf(t->dir, sizeof(t->dir), "/tmp/test-admin-XXXXXX");
	assert_non_null(mkdtemp(t->dir));
	t->sa.sun_family = AF_UNIX;
	snprintf(t->sa.sun_path, sizeof(t->sa.sun_path), "%s/admin.sock", t->dir);
	assert_int_equal(bind(fd, (struct sockaddr *)&t->sa, sizeof(t->sa)), 0);
	assert_int_equal(listen(fd, 128), 0);
	assert_int_equal(chmod(t->dir, 0755) | chmod(t->sa.sun_path, 0666), 0);
	log_set_sink(admin_log_sink, &t->f->b);
	log_info("test.start");
	assert_int_equal(admin_start(&t->f->b, fd), 0);
	*state = t;
	return 0;
}

static int tear_down(void **state)
{
	struct test *t = *state;

	admin_stop(&t->f->b);
	log_set_sink(NULL, NULL);
	fake_free(t->f);
	event_base_free(t->base);
	unlink(t->sa.sun_path);
	rmdir(t->dir);
	free(t);
	return 0;
}

static void turn(struct test *t)
{
	event_base_loop(t->base, EVLOOP_NONBLOCK);
}

static void turn_for_ms(struct test *t, unsigned ms)
{
	for (uint64_t end = clock_ns() + ms * UINT64_C(1000000); clock_ns() < end; usleep(500))
		turn(t);
}

static int dial(struct test *t)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&t->sa, sizeof(t->sa)), 0);
	return fd;
}

static void send_all(struct test *t, int fd, const char *data, size_t n)
{
	for (size_t sent = 0; sent < n; turn(t)) {
		ssize_t r = send(fd, data + sent, n - sent, MSG_NOSIGNAL);

		if (r < 0 && errno != EAGAIN)
			return; /* the server has answered without reading all */
		sent += r > 0 ? (size_t)r : 0;
	}
}

static void send_request(struct test *t, int fd, const char *method, const char *target, const char *body, size_t n_body)
{
	char head[1024];
	int n = snprintf(head, sizeof(head), "%s %s HTTP/1.1\r\nHost: sealane\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n",
			 method, target, n_body);

	assert_true(n > 0 && (size_t)n < sizeof(head));
	send_all(t, fd, head, (size_t)n);
	send_all(t, fd, body, n_body);
}

/* Read until the server closes, or until @until comes by. */
static void read_reply(struct test *t, int fd, struct reply *r, const char *until)
{
	uint64_t end = clock_ns() + WAIT_NS;

	if (!r->text)
		r->text = calloc(1, REPLY_SIZE);
	assert_non_null(r->text);
	while (clock_ns() < end) {
		ssize_t n;

		turn(t);
		n = recv(fd, r->text + r->n, REPLY_SIZE - 1 - r->n, 0);
		if (n == 0 || (n < 0 && errno != EAGAIN))
			return;
		if (n < 0) {
			usleep(500);
			continue;
		}
		r->n += (size_t)n;
		r->text[r->n] = '\0';
		if (until && strstr(r->text, until))
			return;
	}
	fail_msg("no end of the answer within 10 s; got: %s", r->text);
}

static void parse_reply(struct reply *r)
{
	char *end = strstr(r->text, "\r\n\r\n");

	assert_non_null(end);
	r->status = atoi(r->text + strlen("HTTP/1.1 "));
	*end = '\0';
	r->headers = r->text;
	r->body = end + 4;
	r->n_body = r->n - (size_t)(r->body - r->text);
	if (strstr(r->headers, "application/json"))
		r->json = json_loadb(r->body, r->n_body, 0, NULL);
}

static void reply_free(struct reply *r)
{
	json_decref(r->json);
	free(r->text);
}
#define AUTO_REPLY __attribute__((cleanup(reply_free))) struct reply

static struct reply ask_n(struct test *t, const char *method, const char *target, const char *body, size_t n_body)
{
	struct reply r = { .status = 0 };
	AUTO_FD fd = dial(t);

	send_request(t, fd, method, target, body, n_body);
	read_reply(t, fd, &r, NULL);
	parse_reply(&r);
	return r;
}

static struct reply ask(struct test *t, const char *method, const char *target, const char *body)
{
	return ask_n(t, method, target, body ? body : "", body ? strlen(body) : 0);
}

static const char *error_of(const struct reply *r, const char *member)
{
	const char *s = json_string_value(json_object_get(json_object_get(r->json, "error"), member));

	return s ? s : "";
}

static void expect_error(struct test *t, const char *method, const char *target, const char *body, int status, const char *code,
			 const char *part)
{
	AUTO_REPLY r = ask(t, method, target, body);

	if (r.status != status || strcmp(error_of(&r, "code"), code) != 0 || !strstr(error_of(&r, "message"), part))
		fail_msg("%s %s: expected %d %s \"%s\", got %d %s", method, target, status, code, part, r.status, r.body);
}

static void expect_ok(struct test *t, const char *method, const char *target, const char *body)
{
	AUTO_REPLY r = ask(t, method, target, body);

	if (r.status != 200 || !json_is_true(json_object_get(r.json, "ok")))
		fail_msg("%s %s: %d %s", method, target, r.status, r.body);
}

/* --- reading --- */

static void test_lists(void **state)
{
	static const struct {
		const char *name;
		size_t n;
	} lists[] = { { "workloads", 3 }, { "services", 3 }, { "intentions", 5 }, { "upstreams", 3 }, { "lanes", 6 }, { "hosts", 2 }, { "links", 2 } };
	struct test *t = *state;

	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		char target[64];

		snprintf(target, sizeof(target), "/v1/%s", lists[i].name);
		AUTO_REPLY r = ask(t, "GET", target, NULL);
		assert_int_equal(r.status, 200);
		assert_int_equal(json_array_size(json_object_get(r.json, lists[i].name)), lists[i].n);
	}
	assert_int_equal(t->f->n_refreshed, 3); /* lanes, hosts and links are counted for the answer */
}

static void test_other_hosts(void **state)
{
	AUTO_REPLY hosts = ask(*state, "GET", "/v1/hosts", NULL);
	AUTO_REPLY links = ask(*state, "GET", "/v1/links", NULL);
	AUTO_REPLY lanes = ask(*state, "GET", "/v1/lanes", NULL);
	const char *own, *name, *service, *said_by, *state_b, *reason, *peer, *path;
	json_int_t lanes_there, rtt;
	json_t *host, *link;

	host = json_array_get(json_object_get(hosts.json, "hosts"), 0);
	assert_int_equal(json_unpack(hosts.json, "{s:s}", "name", &own), 0);
	assert_string_equal(own, "a");
	assert_non_null(strstr(hosts.body, "\"heard\":null")); /* c, never; b has a session that stands */
	assert_int_equal(json_unpack(host, "{s:s,s:s,s:s}", "name", &name, "state", &state_b, "services_said_by", &said_by), 0);
	assert_string_equal(name, "b");
	assert_string_equal(state_b, "up");
	assert_string_equal(said_by, "host");
	assert_int_equal(json_unpack(json_array_get(json_object_get(host, "services"), 0), "{s:s,s:I}", "name", &service, "lanes", &lanes_there), 0);
	assert_string_equal(service, "default/far");
	assert_int_equal(lanes_there, 3);
	host = json_array_get(json_object_get(hosts.json, "hosts"), 1);
	assert_int_equal(json_unpack(host, "{s:s}", "reason", &reason), 0);
	assert_string_equal(reason, "untrusted");
	link = json_array_get(json_object_get(links.json, "links"), 0);
	assert_int_equal(json_unpack(link, "{s:s,s:I}", "peer_id", &peer, "rtt_us", &rtt), 0);
	assert_string_equal(peer, "spiffe://example.org/host/b");
	assert_int_equal(rtt, 137);
	assert_int_equal(json_unpack(link, "{s:s,s:n}", "path", &path, "path_why"), 0);
	assert_string_equal(path, "rdma (rxe0)");
	link = json_array_get(json_object_get(links.json, "links"), 1);
	assert_int_equal(json_unpack(link, "{s:s,s:s}", "path", &path, "path_why", &reason), 0);
	assert_string_equal(path, "tls");
	assert_string_equal(reason, "the other host says no");
	assert_int_equal(json_unpack(json_array_get(json_object_get(lanes.json, "lanes"), 2), "{s:s}", "path", &path), 0);
	assert_string_equal(path, "link:b");
	assert_int_equal(json_unpack(json_array_get(json_object_get(lanes.json, "lanes"), 3), "{s:s}", "path", &path), 0);
	assert_string_equal(path, "link:10.0.0.9:40123");
}

static void test_status(void **state)
{
	AUTO_REPLY r = ask(*state, "GET", "/v1/status", NULL);
	json_int_t running, up, gates;
	const char *domain;

	assert_int_equal(r.status, 200);
	assert_int_equal(json_unpack(r.json, "{s:s,s:{s:I},s:{s:I},s:{s:I}}", "trust_domain", &domain, "counts",
				     "workloads_running", &running, "counters", "bytes_up", &up, "roles", "gates", &gates), 0);
	assert_string_equal(domain, "example.org");
	assert_int_equal(running, 2);
	assert_int_equal(up, 100);
	assert_int_equal(gates, 1);
}

static void test_status_of_links(void **state)
{
	AUTO_REPLY r = ask(*state, "GET", "/v1/status", NULL);
	AUTO_REPLY metrics = ask(*state, "GET", "/metrics", NULL);
	json_int_t hosts, up, in, out, lanes, usable, ends;
	const char *authority, *why;

	assert_int_equal(json_unpack(r.json, "{s:{s:I,s:I,s:I,s:I,s:I,s:{s:I,s:I,s:{s:s,s:s}}}}", "links", "hosts", &hosts, "hosts_up", &up,
				     "sessions_in", &in, "sessions_out", &out, "lanes_out", &lanes, "certificates", "usable", &usable,
				     "host_not_after", &ends, "authority", "host", &authority, "why", &why), 0);
	assert_int_equal(hosts, 2);
	assert_int_equal(up, 1);
	assert_int_equal(in, 1);
	assert_int_equal(out, 1);
	assert_int_equal(lanes, 1);
	assert_int_equal(usable, 1);
	assert_int_equal(ends, 1800000000);
	assert_string_equal(authority, "a");
	assert_non_null(strstr(why, "ECONNREFUSED"));
	assert_non_null(strstr(metrics.body, "\nsealane_authority_up 0\n"));
	assert_non_null(strstr(metrics.body, "\nsealane_authority_heard_timestamp_seconds 1700000000\n"));
	assert_non_null(strstr(metrics.body, "\nsealane_certificate_expiry_seconds{spiffe_id=\"spiffe://example.org/host/b\"} 1800000000\n"));
}

static void test_workload(void **state)
{
	AUTO_REPLY r = ask(*state, "GET", "/v1/workloads/web", NULL);
	AUTO_REPLY encoded = ask(*state, "GET", "/v1/workloads/w%65b", NULL);

	assert_int_equal(r.status, 200);
	assert_string_equal(json_string_value(json_object_get(r.json, "cgroup_id")), "4611686018427387904");
	assert_string_equal(json_string_value(json_object_get(r.json, "dir")), "/run/sealane/w/web");
	assert_true(json_equal(r.json, encoded.json));
	expect_error(*state, "GET", "/v1/workloads/nobody", NULL, 404, "not_found", "nobody");
	expect_error(*state, "GET", "/v1/workloads/..%2f..", NULL, 404, "not_found", "");
	expect_error(*state, "GET", "/v1/workloads/a%00b", NULL, 404, "not_found", "");
	expect_error(*state, "GET", "/v1/workloads/", NULL, 404, "not_found", "");
	expect_error(*state, "GET", "/v1/workloads/web/", NULL, 404, "not_found", "");
}

static void test_intentions(void **state)
{
	AUTO_REPLY r = ask(*state, "GET", "/v1/intentions", NULL);
	size_t i, n_overridden = 0, n_expired = 0;
	json_t *v;

	json_array_foreach(json_object_get(r.json, "intentions"), i, v) {
		n_overridden += json_is_true(json_object_get(v, "overridden"));
		n_expired += json_is_true(json_object_get(v, "expired"));
	}
	assert_int_equal(n_overridden, 1); /* web -> pg; the one over web -> redis has expired and overrides nothing */
	assert_int_equal(n_expired, 1);
}

static void test_explain(void **state)
{
	AUTO_REPLY r = ask(*state, "GET", "/v1/explain?source=web&destination=default%2Fredis", NULL);
	AUTO_REPLY none = ask(*state, "GET", "/v1/explain?source=a&destination=b", NULL);
	json_int_t open;

	assert_int_equal(r.status, 200);
	assert_string_equal(json_string_value(json_object_get(r.json, "decision")), "allow");
	assert_int_equal(json_unpack(r.json, "{s:{s:I}}", "in_use", "open_lanes", &open), 0);
	assert_int_equal(open, 1);
	assert_int_equal(none.status, 200);
	AUTO_REPLY far = ask(*state, "GET", "/v1/explain?source=web&destination=far", NULL);
	assert_non_null(strstr(far.body, "\"link\":{\"direction\":\"out\",\"hosts\":[{\"name\":\"b\",\"address\":\"10.0.0.2:7443\",\"state\":\"down\","
				   "\"session\":false,\"takes\":\"socket\",\"path\":null,\"path_why\":null}],\"more\":1,\"lacks\":\"a certificate\",\"refused\":{\"host\":\"b\","
				   "\"code\":\"denied\",\"why\":\"not here\",\"at\":1700000000,\"certificate\":false}}"));
	assert_non_null(strstr(far.body, "\"to_allow\":[{\"host\":\"b\",\"command\":\"sealane intention allow default/web default/far\"}]"));
	assert_string_equal(json_string_value(json_object_get(none.json, "decision")), "deny");
	assert_true(json_is_null(json_object_get(none.json, "intention")));
	expect_error(*state, "GET", "/v1/explain?source=web", NULL, 400, "invalid", "destination");
	expect_error(*state, "GET", "/v1/explain?source=We%20b&destination=a", NULL, 400, "invalid", "We b");
	expect_error(*state, "GET", "/v1/explain?source=a&source=b&destination=a", NULL, 400, "invalid", "source");
	expect_error(*state, "GET", "/v1/explain?source=%zz&destination=a", NULL, 400, "invalid", "source");
}

static void test_metrics_and_openapi(void **state)
{
	AUTO_REPLY r = ask(*state, "GET", "/metrics", NULL);
	AUTO_REPLY openapi = ask(*state, "GET", "/v1/openapi.json", NULL);

	assert_int_equal(r.status, 200);
	assert_non_null(strstr(r.headers, "text/plain; version=0.0.4"));
	assert_non_null(strstr(r.body, "\nsealane_lanes_open{path=\"direct\"} 2\n"));
	assert_non_null(strstr(r.body, "\nsealane_lanes_open{path=\"shm\"} 1\n"));
	assert_non_null(strstr(r.body, "\nsealane_service_listeners{service=\"default/redis\"} 2\n"));
	assert_non_null(strstr(r.body, "path=\"/run/host/odd \\\"name\\\"\\\\.sock\"} 0\n"));
	assert_int_equal(openapi.status, 200);
	assert_non_null(json_object_get(openapi.json, "paths"));
}

static void test_wrong_requests(void **state)
{
	AUTO_FREE(char) large = malloc(LIMIT_ADMIN_BODY_SIZE + 1);
	struct test *t = *state;

	assert_non_null(large);
	expect_error(t, "GET", "/", NULL, 404, "not_found", "openapi");
	expect_error(t, "GET", "/v1/status/more", NULL, 404, "not_found", "openapi");
	expect_error(t, "POST", "/v1/status", NULL, 405, "method_not_allowed", "GET");
	expect_error(t, "PUT", "/v1/intentions", "{}", 405, "method_not_allowed", "GET, POST, DELETE");
	expect_error(t, "POST", "/v1/intentions", "", 400, "invalid", "no body");
	expect_error(t, "POST", "/v1/intentions", "{\n \"source\" 1}", 400, "invalid", "line 2, column");
	expect_error(t, "POST", "/v1/intentions", "[]", 400, "invalid", "object");
	expect_error(t, "POST", "/v1/intentions", "{\"source\":\"a\",\"source\":\"b\"}", 400, "invalid", "line 1");
	memset(large, ' ', LIMIT_ADMIN_BODY_SIZE + 1);
	AUTO_REPLY r = ask_n(t, "POST", "/v1/intentions", large, LIMIT_ADMIN_BODY_SIZE + 1);
	assert_int_equal(r.status, 413);
	assert_string_equal(error_of(&r, "code"), "too_large");
	AUTO_REPLY put = ask(t, "PUT", "/v1/status", NULL);
	assert_non_null(strstr(put.headers, "Allow: GET"));
}

static void test_body_far_too_large(void **state)
{
	const size_t n = 1 << 20;
	AUTO_FREE(char) large = calloc(1, n);

	assert_non_null(large);
	AUTO_REPLY r = ask_n(*state, "POST", "/v1/intentions", large, n);
	assert_int_equal(r.status, 413);
}

/* Garbage, half requests and pipelined ones: an answer or a close, and the next client is served. */
static void test_broken_http(void **state)
{
	static const char *const broken[] = {
		"\r\n\r\n", "GET\r\n\r\n", "GET /v1/status\r\n\r\n", "BREW /v1/status HTTP/1.1\r\n\r\n",
		"POST /v1/reload HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "POST /v1/reload HTTP/1.1\r\nContent-Length: zz\r\n\r\n",
		"POST /v1/reload HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", "\xff\xfe\x00",
		"GET http://a:b:c/ HTTP/1.1\r\n\r\n", "OPTIONS * HTTP/1.1\r\n\r\n", "GET ?a=b HTTP/1.0\r\n\r\n",
		"HEAD /v1/status HTTP/1.1\r\n\r\n",
		"GET /v1/status HTTP/1.1\r\n\r\nGET /v1/status HTTP/1.1\r\nConnection: close\r\n\r\n",
	};
	struct test *t = *state;

	for (size_t i = 0; i < ARRAY_SIZE(broken); i++) {
		AUTO_FD fd = dial(t);

		send_all(t, fd, broken[i], strlen(broken[i]));
		shutdown(fd, SHUT_WR);
		turn_for_ms(t, 5);
	}
	AUTO_REPLY r = ask(t, "GET", "/v1/status", NULL);
	assert_int_equal(r.status, 200);
}

static void test_keep_alive(void **state)
{
	static const char get[] = "GET /v1/workloads/web HTTP/1.1\r\nHost: x\r\n\r\n";
	struct test *t = *state;
	AUTO_FD fd = dial(t);

	for (int i = 0; i < 3; i++) {
		AUTO_REPLY r = { .status = 0 };

		send_all(t, fd, get, sizeof(get) - 1);
		read_reply(t, fd, &r, "\"cut\":1}");
		parse_reply(&r);
		assert_int_equal(r.status, 200);
	}
}

/* --- changing --- */

static void test_intention_set(void **state)
{
	struct test *t = *state;
	struct fake_broker *f = t->f;
	char buf[LIMIT_SERVICE_SIZE];

	expect_ok(t, "POST", "/v1/intentions",
		  "{\"source\":\"prod/*\",\"destination\":\"redis\",\"action\":\"allow\",\"strict\":true,\"expires\":4000000000,"
		  "\"limits\":{\"open_lanes\":5,\"connections_per_s\":6,\"bytes_per_s\":7000000000}}");
	assert_int_equal(f->n_set, 1);
	assert_string_equal(service_pattern_format(buf, &f->set.source), "prod/*");
	assert_string_equal(service_pattern_format(buf, &f->set.destination), "default/redis");
	assert_int_equal(f->set.action, INTENTION_ALLOW);
	assert_int_equal(f->set.origin, INTENTION_FROM_RUNTIME);
	assert_true(f->set.strict);
	assert_int_equal(f->set.expires_unix_s, 4000000000);
	assert_int_equal(f->set.limits.open_lanes, 5);
	assert_int_equal(f->set.limits.connections_per_s, 6);
	assert_int_equal(f->set.limits.bytes_per_s, 7000000000);
	assert_non_null(strstr(f->set.where, "by uid 0"));
	expect_ok(t, "POST", "/v1/intentions", "{\"source\":\"*\",\"destination\":\"*\",\"action\":\"deny\",\"expires\":null}");
	assert_int_equal(f->set.action, INTENTION_DENY);
	assert_int_equal(f->set.limits.bytes_per_s, 0);
}

static void test_intention_wrong(void **state)
{
	static const struct {
		const char *body, *part;
	} cases[] = {
		{ "{\"source\":\"a\",\"destination\":\"b\"}", "action" },
		{ "{\"source\":\"a\",\"destination\":\"b\",\"action\":\"maybe\"}", "maybe" },
		{ "{\"source\":1,\"destination\":\"b\",\"action\":\"deny\"}", "string" },
		{ "{\"source\":\"A!\",\"destination\":\"b\",\"action\":\"deny\"}", "A!" },
		{ "{\"source\":\"a\",\"destination\":\"b\",\"action\":\"deny\",\"nonsense\":1}", "nonsense" },
		{ "{\"source\":\"a\",\"destination\":\"b\",\"action\":\"deny\",\"expires\":5}", "expires" },
		{ "{\"source\":\"a\",\"destination\":\"b\",\"action\":\"deny\",\"expires\":\"soon\"}", "expires" },
		{ "{\"source\":\"a\",\"destination\":\"b\",\"action\":\"deny\",\"strict\":1}", "true or false" },
		{ "{\"source\":\"a\",\"destination\":\"b\",\"action\":\"deny\",\"limits\":3}", "limits" },
		{ "{\"source\":\"a\",\"destination\":\"b\",\"action\":\"deny\",\"limits\":{\"open_lanes\":-1}}", "open_lanes" },
		{ "{\"source\":\"a\",\"destination\":\"b\",\"action\":\"deny\",\"limits\":{\"open_lanes\":4294967296}}", "open_lanes" },
		{ "{\"source\":\"a\",\"destination\":\"b\",\"action\":\"deny\",\"limits\":{\"speed\":1}}", "speed" },
		{ "{\"source\":\"a\\u0000\",\"destination\":\"b\",\"action\":\"deny\"}", "JSON" },
	};
	struct test *t = *state;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		expect_error(t, "POST", "/v1/intentions", cases[i].body, 400, "invalid", cases[i].part);
	assert_int_equal(t->f->n_set, 0);
}

static void test_intention_remove(void **state)
{
	struct test *t = *state;
	char buf[LIMIT_SERVICE_SIZE];

	expect_ok(t, "DELETE", "/v1/intentions?source=*&destination=a%2fb", NULL);
	assert_string_equal(service_pattern_format(buf, &t->f->removed_source), "*");
	assert_string_equal(service_pattern_format(buf, &t->f->removed_destination), "a/b");
	t->f->error = -EPERM;
	t->f->why = "it stands in fake.conf:7";
	expect_error(t, "DELETE", "/v1/intentions?source=a&destination=b", NULL, 409, "conflict", "fake.conf:7");
	t->f->error = -ENOENT;
	t->f->why = "no such intention";
	expect_error(t, "DELETE", "/v1/intentions?source=a&destination=b", NULL, 404, "not_found", "no such");
	expect_error(t, "DELETE", "/v1/intentions?source=a", NULL, 400, "invalid", "destination");
}

static void test_enrol(void **state)
{
	struct test *t = *state;
	struct broker_enrolment *e = &t->f->enrolment;
	AUTO_REPLY r = ask(t, "POST", "/v1/workloads",
			   "{\"service\":\"web\",\"cgroup_id\":\"18446744073709551615\",\"container_id\":\"abc\",\"label\":\"a=b\"}");

	assert_int_equal(r.status, 200);
	assert_string_equal(json_string_value(json_object_get(r.json, "dir")), "/run/sealane/w/web");
	assert_true(e->cgroup_id == UINT64_MAX);
	assert_string_equal(e->service.ns, "default");
	assert_string_equal(e->label, "a=b");
	assert_string_equal(e->by, "api");
	AUTO_REPLY by_path = ask(t, "POST", "/v1/workloads", "{\"workload\":\"web\",\"cgroup_path\":\"/m/web\",\"by\":\"hook\"}");
	assert_int_equal(by_path.status, 200);
	assert_string_equal(e->cgroup_path, "/m/web");
	assert_string_equal(e->by, "hook");
	expect_error(t, "POST", "/v1/workloads", "{\"workload\":\"web\"}", 400, "invalid", "cgroup_id");
	expect_error(t, "POST", "/v1/workloads", "{\"cgroup_id\":5}", 400, "invalid", "workload");
	expect_error(t, "POST", "/v1/workloads", "{\"workload\":\"web\",\"cgroup_id\":0}", 400, "invalid", "cgroup_id");
	expect_error(t, "POST", "/v1/workloads", "{\"workload\":\"web\",\"cgroup_id\":\"18446744073709551616\"}", 400, "invalid", "cgroup_id");
	expect_error(t, "POST", "/v1/workloads", "{\"workload\":\"../x\",\"cgroup_id\":5}", 400, "invalid", "workload");
	expect_error(t, "POST", "/v1/workloads", "{\"workload\":\"web\",\"cgroup_path\":\"m\"}", 400, "invalid", "cgroup_path");
	assert_int_equal(t->f->n_enrolled, 2);
	t->f->error = -ENOSPC;
	t->f->why = "4096 workloads are known";
	expect_error(t, "POST", "/v1/workloads", "{\"workload\":\"web\",\"cgroup_id\":5}", 503, "no_room", "4096");
}

static void test_workload_changes(void **state)
{
	struct test *t = *state;

	expect_ok(t, "POST", "/v1/workloads/web/drain", "{\"on\":true}");
	assert_string_equal(t->f->drained, "web");
	assert_true(t->f->drain_on);
	expect_ok(t, "POST", "/v1/workloads/web/drain", "{\"on\":false}");
	assert_false(t->f->drain_on);
	expect_error(t, "POST", "/v1/workloads/web/drain", "{\"on\":1}", 400, "invalid", "true or false");
	expect_error(t, "POST", "/v1/workloads/nobody/drain", "{\"on\":true}", 404, "not_found", "nobody");
	expect_ok(t, "DELETE", "/v1/workloads/web", NULL);
	assert_string_equal(t->f->unenrolled, "web");
	expect_error(t, "DELETE", "/v1/workloads/nobody", NULL, 404, "not_found", "nobody");
	assert_int_equal(t->f->n_unenrolled, 1);
}

static void test_reload(void **state)
{
	struct test *t = *state;

	expect_ok(t, "POST", "/v1/reload", NULL);
	t->f->error = -EINVAL;
	t->f->why = "sealane.conf:3:1: unknown key";
	expect_error(t, "POST", "/v1/reload", NULL, 422, "bad_config", "sealane.conf:3:1");
	t->f->error = -ETIMEDOUT;
	t->f->why = "the warden did not answer";
	expect_error(t, "POST", "/v1/reload", NULL, 504, "timeout", "warden");
	t->f->error = -EIO;
	expect_error(t, "POST", "/v1/reload", NULL, 500, "internal", "EIO");
}

/* A client without rights, in a process of its own: reads, tries to change. Its exit status says how that went. */
static int as_nobody(const struct sockaddr_un *sa)
{
	static const char *const requests[] = {
		"GET /v1/status HTTP/1.0\r\n\r\n",
		"POST /v1/reload HTTP/1.0\r\nContent-Length: 0\r\n\r\n",
		"DELETE /v1/workloads/web HTTP/1.0\r\n\r\n",
		"POST /v1/status HTTP/1.0\r\n\r\n",
	};
	static const int expected[] = { 200, 403, 403, 405 };

	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);
		char buf[256] = "";

		if (connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) < 0 ||
		    write(fd, requests[i], strlen(requests[i])) < 0 || read(fd, buf, sizeof(buf) - 1) <= 0)
			return 100;
		if (atoi(buf + strlen("HTTP/1.1 ")) != expected[i])
			return 1 + (int)i;
		close(fd);
	}
	return 0;
}

static int run_as(struct test *t, uid_t uid)
{
	pid_t pid = fork();
	int status = 0;

	if (pid == 0) /* _exit: no leak check of the parent's memory */
		_exit(setresgid(uid, uid, uid) == 0 && setresuid(uid, uid, uid) == 0 ? as_nobody(&t->sa) : 101);
	while (waitpid(pid, &status, WNOHANG) == 0)
		turn_for_ms(t, 1);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 102;
}

static void test_permissions(void **state)
{
	struct test *t = *state;
	uid_t admin = 65533;

	if (geteuid() != 0)
		skip();
	assert_int_equal(run_as(t, 65534), 0);
	assert_int_equal(t->f->n_reloads, 0);
	assert_int_equal(t->f->n_unenrolled, 0);
	free(t->f->b.config->admin_uids);
	t->f->b.config->admin_uids = malloc(sizeof(admin));
	t->f->b.config->admin_uids[0] = admin;
	t->f->b.config->n_admin_uids = 1;
	assert_int_equal(run_as(t, admin), 2); /* the reload is no longer refused */
	assert_int_equal(t->f->n_reloads, 1);
}

/* --- answers that come later --- */

static void test_answer_later(void **state)
{
	struct test *t = *state;
	AUTO_REPLY r = { .status = 0 };
	AUTO_FD fd = dial(t);

	t->f->hold = true;
	send_request(t, fd, "POST", "/v1/reload", "", 0);
	turn_for_ms(t, 20);
	assert_int_equal(t->f->n_pending, 1);
	fake_release(t->f);
	read_reply(t, fd, &r, NULL);
	parse_reply(&r);
	assert_int_equal(r.status, 200);
}

static void test_client_vanishes(void **state)
{
	struct test *t = *state;

	t->f->hold = true;
	for (int i = 0; i < 20; i++) {
		int fd = dial(t);

		send_request(t, fd, i % 2 ? "POST" : "GET", i % 2 ? "/v1/reload" : "/v1/lanes", "", 0);
		turn_for_ms(t, 2);
		close(fd);
		turn_for_ms(t, 2);
	}
	assert_int_equal(t->f->n_pending, 20);
	fake_release(t->f);
	turn_for_ms(t, 20);
	AUTO_REPLY r = ask(t, "GET", "/v1/status", NULL);
	assert_int_equal(r.status, 200);
}

/* The interface ends while an answer is awaited; the answer comes after it. */
static void test_stop_before_answer(void **state)
{
	struct test *t = *state;
	AUTO_FD fd = dial(t);
	AUTO_FD follower = dial(t);

	t->f->hold = true;
	send_request(t, fd, "POST", "/v1/reload", "", 0);
	send_request(t, follower, "GET", "/v1/events?follow=1", "", 0);
	turn_for_ms(t, 10);
	admin_stop(&t->f->b);
	fake_release(t->f);
	turn_for_ms(t, 5);
}

/* --- events --- */

static void test_events(void **state)
{
	struct test *t = *state;
	AUTO_REPLY first = ask(t, "GET", "/v1/events", NULL);

	assert_non_null(strstr(first.body, "test.start")); /* from before there was a socket */
	for (uint64_t i = 0; i < 5; i++)
		log_info("test.event", LOG_U64("i", i));
	AUTO_REPLY r = ask(t, "GET", "/v1/events?n=2", NULL);
	assert_int_equal(r.status, 200);
	assert_non_null(strstr(r.headers, "application/x-ndjson"));
	assert_null(strstr(r.body, "\"i\":2"));
	assert_non_null(strstr(r.body, "\"i\":3}\n"));
	assert_non_null(strstr(r.body, "\"i\":4}\n"));
	AUTO_REPLY none = ask(t, "GET", "/v1/events?n=0", NULL);
	assert_int_equal(none.n_body, 0);
	expect_error(t, "GET", "/v1/events?n=4097", NULL, 400, "invalid", "4096");
	expect_error(t, "GET", "/v1/events?n=-1", NULL, 400, "invalid", "4096");
	expect_error(t, "GET", "/v1/events?follow=2", NULL, 400, "invalid", "follow");
}

static void test_follow(void **state)
{
	struct test *t = *state;
	AUTO_REPLY r = { .status = 0 };
	AUTO_FD fd = dial(t);

	log_info("test.before");
	send_request(t, fd, "GET", "/v1/events?follow=1&n=1", "", 0);
	read_reply(t, fd, &r, "test.before");
	log_info("test.one");
	read_reply(t, fd, &r, "test.one");
	log_info("test.two");
	log_info("test.three");
	read_reply(t, fd, &r, "test.three");
	assert_non_null(strstr(r.text, "test.two"));
}

static void test_slow_follower(void **state)
{
	struct test *t = *state;
	AUTO_REPLY r = { .status = 0 };
	AUTO_FD fd = dial(t);
	char filler[512];

	memset(filler, 'x', sizeof(filler));
	filler[sizeof(filler) - 1] = '\0';
	send_request(t, fd, "GET", "/v1/events?follow=1&n=0", "", 0);
	read_reply(t, fd, &r, "\r\n\r\n");
	for (uint64_t i = 0; i < 3 * LIMIT_EVENTS_KEPT; i++) {
		log_info("test.flood", LOG_U64("i", i), LOG_STR("filler", filler));
		if (i % 64 == 0)
			turn(t);
	}
	read_reply(t, fd, &r, NULL); /* until the server closes */
	assert_non_null(strstr(r.text, "\"event\":\"events.dropped\""));
	assert_true(r.n < 2 * 1024 * 1024 - 1);
	AUTO_REPLY after = ask(t, "GET", "/v1/status", NULL);
	assert_int_equal(after.status, 200);
}

static void test_followers_leave(void **state)
{
	struct test *t = *state;
	int fds[LIMIT_ADMIN_CONNS];

	for (int round = 0; round < 3; round++) {
		for (size_t i = 0; i < ARRAY_SIZE(fds) / 2; i++) {
			fds[i] = dial(t);
			send_request(t, fds[i], "GET", "/v1/events?follow=1", "", 0);
		}
		turn_for_ms(t, 20);
		expect_error(t, "GET", "/v1/events?follow=1", NULL, 429, "too_many_followers", "32");
		for (size_t i = 0; i < ARRAY_SIZE(fds) / 2; i++)
			close(fds[i]);
		log_info("test.nobody-listens");
		turn_for_ms(t, 20);
	}
}

/* With all places taken a client waits, and is served when one is free. */
static void test_connection_limit(void **state)
{
	struct test *t = *state;
	int fds[LIMIT_ADMIN_CONNS];
	AUTO_REPLY r = { .status = 0 };
	char byte;

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = dial(t);
	turn_for_ms(t, 20);
	AUTO_FD late = dial(t);
	send_request(t, late, "GET", "/v1/status", "", 0);
	turn_for_ms(t, 50);
	assert_int_equal(recv(late, &byte, 1, MSG_PEEK), -1);
	close(fds[0]);
	read_reply(t, late, &r, NULL);
	parse_reply(&r);
	assert_int_equal(r.status, 200);
	for (size_t i = 1; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
	turn_for_ms(t, 20);
}

/* Without a descriptor for accept(): no busy loop over the client that waits, and it is served once there is one. */
static void test_no_descriptors(void **state)
{
	struct test *t = *state;
	AUTO_REPLY r = { .status = 0 };
	AUTO_FD fd = dial(t);
	struct rlimit old, none;
	uint64_t start;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	none = old;
	none.rlim_cur = (rlim_t)fd; /* the next one would be above */
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	turn(t);
	start = clock_ns();
	event_base_loop(t->base, EVLOOP_ONCE); /* nothing is due before the pause is over */
	assert_true(clock_ns() - start > 500 * UINT64_C(1000000));
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	send_request(t, fd, "GET", "/v1/status", "", 0);
	read_reply(t, fd, &r, NULL);
	parse_reply(&r);
	assert_int_equal(r.status, 200);
}

static void test_events_ring(void **state)
{
	struct events *e = events_new();
	char line[4096], first[32];
	uint64_t seed = 1;
	size_t n;

	assert_non_null(e);
	memset(line, 'y', sizeof(line));
	for (uint64_t i = 0; i < 50000; i++) {
		int n_first = snprintf(first, sizeof(first), "%llu ", (unsigned long long)i);

		seed = seed * 6364136223846793005u + 1442695040888963407u;
		memcpy(line, first, (size_t)n_first);
		events_put(e, line, (size_t)n_first + (seed >> 33) % (i % 7 ? 300 : 4000));
		assert_true(events_next(e) - events_first(e) <= LIMIT_EVENTS_KEPT);
	}
	assert_int_equal(events_next(e), 50000);
	assert_true(events_next(e) - events_first(e) > 1000);
	for (uint64_t seq = events_first(e); seq < events_next(e); seq++) {
		const char *got = events_get(e, seq, &n);

		assert_non_null(got);
		assert_int_equal(strtoull(got, NULL, 10), seq);
	}
	assert_null(events_get(e, events_first(e) - 1, &n));
	assert_null(events_get(e, events_next(e), &n));
	events_free(e);
}

#define ADMIN_TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ADMIN_TEST(test_status), ADMIN_TEST(test_status_of_links), ADMIN_TEST(test_lists), ADMIN_TEST(test_other_hosts), ADMIN_TEST(test_workload), ADMIN_TEST(test_intentions),
		ADMIN_TEST(test_explain), ADMIN_TEST(test_metrics_and_openapi), ADMIN_TEST(test_wrong_requests),
		ADMIN_TEST(test_body_far_too_large), ADMIN_TEST(test_broken_http), ADMIN_TEST(test_keep_alive),
		ADMIN_TEST(test_intention_set), ADMIN_TEST(test_intention_wrong), ADMIN_TEST(test_intention_remove),
		ADMIN_TEST(test_enrol), ADMIN_TEST(test_workload_changes), ADMIN_TEST(test_reload), ADMIN_TEST(test_permissions),
		ADMIN_TEST(test_answer_later), ADMIN_TEST(test_client_vanishes), ADMIN_TEST(test_stop_before_answer),
		ADMIN_TEST(test_events), ADMIN_TEST(test_follow), ADMIN_TEST(test_slow_follower),
		ADMIN_TEST(test_followers_leave), ADMIN_TEST(test_connection_limit),
		ADMIN_TEST(test_no_descriptors), cmocka_unit_test(test_events_ring),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("admin", tests, NULL, NULL);
}
