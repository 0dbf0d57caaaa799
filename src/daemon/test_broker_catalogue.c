/*
 * What the broker makes of what the catalogue's role tells: the test is that role. The decisions of docs/design/catalogue.md: what a
 * whole range says, what a watch says, and what is never taken away.
 */
#include "daemon/test_broker.h"

#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#define EPOCH_1 "{\"epoch\":\"11111111111111111111111111111111\",\"generation\":1}"
#define EPOCH_OTHER "{\"epoch\":\"22222222222222222222222222222222\",\"generation\":1}"
#define EPOCH_2 "{\"epoch\":\"33333333333333333333333333333333\",\"generation\":2}"
#define ALLOW "{\"source\":\"default/intruder\",\"destination\":\"default/redis\",\"action\":\"allow\"}"
#define DENY "{\"source\":\"default/intruder\",\"destination\":\"default/redis\",\"action\":\"deny\"}"
#define PAIR "/v1/explain?source=intruder&destination=redis"

static const char g_cluster[] = "host_name = a\n"
				"etcd { endpoints = \"http://127.0.0.1:2379\" lease = 6s address = \"10.0.0.1:7443\" }\n";

/* The broker's words to the role, since read_role() was called last. */
static struct {
	struct chan chan;
	unsigned n_own, n_setup;
	struct role_etcd setup;
	char own[4096];
	struct role_msg order; /* the last BE_WRITE or BE_ACCEPT */
} g_role = { .chan = { .fd = -1 } };

static void read_role(struct host *h, int quiet_ms)
{
	struct role_msg m;
	int fd = -1;

	serve(h, quiet_ms);
	while (role_recv(&g_role.chan, &m, &fd) == 1) {
		size_t n = strlen(g_role.own);

		if (m.type == BE_OWN) {
			g_role.n_own++;
			snprintf(g_role.own + n, sizeof(g_role.own) - n, "%s=%s;", m.u.entry.key, m.u.entry.value);
		} else if (m.type == BE_SETUP) {
			g_role.n_setup++;
			g_role.setup = m.u.etcd;
		} else {
			g_role.order = m;
		}
	}
}

static void open_role(struct host *h)
{
	struct role_msg m = { .type = WB_CATALOGUE };
	int fds[2];

	chan_close(&g_role.chan);
	memset(&g_role, 0, sizeof(g_role));
	assert_int_equal(chan_pair(fds), 0);
	tell(&h->warden, &m, fds[0]);
	close(fds[0]);
	chan_init(&g_role.chan, fds[1]);
	for (int i = 0; i < 100 && g_role.n_setup == 0; i++)
		read_role(h, 100);
}

static void say(uint32_t type, uint64_t cluster_id, uint64_t revision)
{
	struct role_msg m = { .type = type, .u.etcd_range = { .cluster_id = cluster_id, .revision = revision } };

	tell(&g_role.chan, &m, -1);
}

/* @value NULL: gone; "?": malformed. */
static void entry(const char *key, const char *value)
{
	struct role_msg m = { .type = EB_ENTRY, .u.entry.revision = 5 };
	bool malformed = value && strcmp(value, "?") == 0;

	m.u.entry.state = malformed ? ETCD_ENTRY_MALFORMED : value ? ETCD_ENTRY_PUT : ETCD_ENTRY_GONE;
	strcpy(m.u.entry.key, key);
	strcpy(m.u.entry.value, malformed || !value ? "" : value);
	tell(&g_role.chan, &m, -1);
}

/* A whole range: an epoch, a host, and perhaps an intention. */
static void range(struct host *h, uint64_t cluster_id, uint64_t revision, const char *epoch, const char *intention)
{
	say(EB_BEGIN, cluster_id, revision);
	entry("epoch", epoch);
	entry("hosts/b", "{\"address\":\"10.0.0.2:7443\"}");
	entry("services/default/far/b", "{\"up\":true,\"lanes\":1}");
	if (intention)
		entry("intentions/x", intention);
	say(EB_END, cluster_id, revision);
	read_role(h, 200);
}

/* What was told takes a moment to be so, longer on a busy machine. What is to stay as it was is so at once. */
enum { PATIENCE = 100 };

static void assert_answer(struct host *h, const char *path, const char *text, bool there)
{
	for (int i = 0; i < PATIENCE; i++) {
		assert_int_equal(http(h, "GET", path, ""), 200);
		if ((strstr(g_answer, text) != NULL) == there)
			return;
		read_role(h, 100);
	}
	fail_msg("%s %s: %s", path, there ? "has no" : "has", text);
}

/* @origin "": no intention decides. */
static void assert_decided(struct host *h, const char *decision, const char *origin)
{
	char text[64], from[64];

	snprintf(text, sizeof(text), "\"decision\":\"%s\"", decision);
	snprintf(from, sizeof(from), "\"origin\":\"%s\"", origin);
	for (int i = 0; i < PATIENCE; i++) {
		assert_int_equal(http(h, "GET", PAIR, ""), 200);
		if (strstr(g_answer, text) && strstr(g_answer, origin[0] ? from : "\"intention\":null"))
			return;
		read_role(h, 100);
	}
	fail_msg("not %s %s: %s", decision, origin, g_answer);
}

static void start(struct host *h)
{
	char text[2048];

	snprintf(text, sizeof(text), "%s%s", g_cluster, g_test_config);
	send_config(h, text);
	serve(h, CALM_MS);
	open_role(h);
}

static void done(struct host *h, int error)
{
	struct role_msg m = { .type = EB_DONE, .seq = g_role.order.seq, .u.etcd_done.error = error };

	tell(&g_role.chan, &m, -1);
	read_role(h, 100);
}

static void test_what_is_ours(void **state)
{
	struct host *h = *state;

	start(h);
	assert_int_equal(g_role.n_setup, 1);
	assert_string_equal(g_role.setup.host, "a");
	assert_string_equal(g_role.setup.prefix, "/sealane");
	assert_int_equal(g_role.setup.lease_s, 6);
	assert_string_equal(g_role.own, "hosts/a={\"address\":\"10.0.0.1:7443\"};services/default/redis/a={\"up\":true,\"lanes\":0};");
	g_role.own[0] = '\0';
	server_state(h, 0, false);
	for (int i = 0; i < 100 && g_role.own[0] == '\0'; i++)
		read_role(h, 100);
	assert_string_equal(g_role.own, "services/default/redis/a={\"up\":false,\"lanes\":0};");
	/* Another configuration of etcd: another role, which is told all of it. */
	open_role(h);
	assert_int_equal(g_role.n_setup, 1);
	assert_int_equal(g_role.n_own, 2);
}

static void test_a_range_and_a_watch(void **state)
{
	struct host *h = *state;

	start(h);
	assert_decided(h, "deny", "");
	range(h, 3, 7, EPOCH_1, ALLOW);
	assert_decided(h, "allow", "cluster");
	assert_answer(h, "/v1/hosts", "\"10.0.0.2:7443\"", true);
	assert_non_null(strstr(g_answer, "default/far"));
	entry("intentions/x", "?");
	read_role(h, 100);
	assert_decided(h, "allow", "cluster");
	entry("intentions/x", DENY);
	read_role(h, 100);
	assert_decided(h, "deny", "cluster");
	entry("intentions/x", NULL);
	read_role(h, 100);
	assert_decided(h, "deny", "");
	entry("hosts/b", NULL);
	read_role(h, 100);
	assert_answer(h, "/v1/hosts", "\"10.0.0.2:7443\"", true); /* for a lease more */
	assert_answer(h, "/v1/hosts", "\"10.0.0.2:7443\"", false);
}

/* Two for one pair: the lower key. Run time before cluster before file: `intruder` has none in the file, `web` has. */
static void test_who_wins(void **state)
{
	struct host *h = *state;

	start(h);
	range(h, 3, 7, EPOCH_1, ALLOW);
	entry("intentions/y", DENY);
	entry("intentions/w", DENY);
	read_role(h, 100);
	assert_decided(h, "deny", "cluster");
	assert_non_null(strstr(g_answer, "cluster w"));
	entry("intentions/w", NULL);
	read_role(h, 100);
	assert_decided(h, "allow", "cluster");
	assert_int_equal(http(h, "POST", "/v1/intentions", "{\"source\":\"intruder\",\"destination\":\"redis\",\"action\":\"deny\"}"), 200);
	assert_decided(h, "deny", "runtime");
	entry("intentions/web", "{\"source\":\"default/web\",\"destination\":\"default/redis\",\"action\":\"deny\"}");
	read_role(h, 100);
	assert_answer(h, "/v1/explain?source=web&destination=redis", "\"origin\":\"cluster\"", true);
}

static void test_nothing_goes_in_a_reset(void **state)
{
	static const struct {
		uint64_t cluster_id, revision;
		const char *epoch;
	} others[] = { { 3, 9, EPOCH_OTHER }, { 3, 6, EPOCH_1 }, { 4, 9, EPOCH_1 } };
	struct host *h = *state;

	start(h);
	for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
		range(h, 3, 7, EPOCH_1, ALLOW);
		assert_answer(h, "/v1/status", "\"reset\":null", true);
		range(h, others[i].cluster_id, others[i].revision, others[i].epoch, NULL);
		assert_answer(h, "/v1/status", "\"reset\":null", false);
		assert_decided(h, "allow", "cluster");
		entry("intentions/x", DENY);
		entry("intentions/evil", "{\"source\":\"*\",\"destination\":\"*\",\"action\":\"allow\"}");
		entry("hosts/c", "{\"address\":\"10.0.0.3:7443\"}");
		read_role(h, 100);
		assert_decided(h, "allow", "cluster");
		assert_answer(h, "/v1/explain?source=nobody&destination=nothing", "\"intention\":null", true);
		assert_answer(h, "/v1/hosts", "\"10.0.0.3:7443\"", true);
		assert_int_equal(http(h, "POST", "/v1/intentions",
				      "{\"source\":\"a\",\"destination\":\"b\",\"action\":\"allow\",\"cluster\":true}"), 409);
	}
}

/* A request that is answered when the role has answered. Return: the connection. */
static int post(struct host *h, const char *path, const char *body)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	char text[1024];
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", h->admin_path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	snprintf(text, sizeof(text), "POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s", path, strlen(body), body);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	g_role.order.type = ROLE_MSG_NONE;
	for (int i = 0; i < 50 && g_role.order.type == ROLE_MSG_NONE; i++)
		read_role(h, 100);
	return fd;
}

static char g_posted[1024]; /* the answer that posted() read */

static bool is_answered(int fd)
{
	return poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 0) == 1;
}

static int posted(int fd)
{
	int status = 0;

	memset(g_posted, 0, sizeof(g_posted));
	assert_int_equal(poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 20000), 1);
	for (size_t n = 0; n < sizeof(g_posted) - 1;) {
		ssize_t r = read(fd, g_posted + n, sizeof(g_posted) - 1 - n);

		assert_true(r >= 0);
		if (r == 0)
			break;
		n += (size_t)r;
	}
	assert_int_equal(sscanf(g_posted, "HTTP/1.1 %d", &status), 1);
	close(fd);
	return status;
}

static void test_somebody_accepts(void **state)
{
	struct host *h = *state;
	int fd;

	start(h);
	range(h, 3, 7, EPOCH_1, ALLOW);
	assert_int_equal(http(h, "POST", "/v1/catalogue/accept", ""), 409);
	range(h, 3, 9, EPOCH_OTHER, NULL);
	fd = post(h, "/v1/catalogue/accept", "");
	assert_int_equal(g_role.order.type, BE_ACCEPT);
	assert_non_null(strstr(g_role.order.u.entry.value, "\"generation\":2"));
	done(h, 0);
	assert_decided(h, "allow", "cluster"); /* until etcd tells it to all */
	assert_false(is_answered(fd));
	range(h, 3, 12, EPOCH_2, NULL);
	assert_int_equal(posted(fd), 200);
	assert_non_null(strstr(g_posted, "\"written\":0,\"intentions\":0,\"generation\":2"));
	assert_answer(h, "/v1/status", "\"reset\":null", true);
	assert_decided(h, "deny", "");
	range(h, 3, 20, EPOCH_1, ALLOW); /* an old copy, of a lower generation */
	assert_answer(h, "/v1/status", "\"reset\":null", false);
	assert_decided(h, "deny", "");
	fd = post(h, "/v1/catalogue/accept", "");
	assert_non_null(strstr(g_role.order.u.entry.value, "\"generation\":3"));
	done(h, -ESTALE);
	assert_int_equal(posted(fd), 409);
}

static void test_somebody_restores(void **state)
{
	struct host *h = *state;
	int fd;

	start(h);
	range(h, 3, 7, EPOCH_1, ALLOW);
	range(h, 3, 2, EPOCH_OTHER, NULL);
	fd = post(h, "/v1/catalogue/restore", "");
	assert_int_equal(g_role.order.type, BE_WRITE);
	assert_string_equal(g_role.order.u.entry.key, "intentions/x");
	assert_string_equal(g_role.order.u.entry.value, ALLOW);
	done(h, 0);
	for (int i = 0; i < 100 && g_role.order.type != BE_ACCEPT; i++)
		read_role(h, 100);
	assert_int_equal(g_role.order.type, BE_ACCEPT);
	done(h, 0);
	assert_false(is_answered(fd));
	range(h, 3, 5, EPOCH_2, ALLOW);
	assert_int_equal(posted(fd), 200);
	assert_non_null(strstr(g_posted, "\"written\":1,\"intentions\":1,\"generation\":2"));
	/* What could not be written is not accepted. */
	range(h, 3, 2, EPOCH_OTHER, NULL);
	fd = post(h, "/v1/catalogue/restore", "");
	g_role.order.type = BE_WRITE;
	done(h, -EACCES);
	assert_int_equal(g_role.order.type, BE_WRITE);
	assert_int_equal(posted(fd), 403);
}

static void test_the_disk(void **state)
{
	struct host *h = *state;
	char text[2048];

	start(h);
	range(h, 3, 7, EPOCH_1, ALLOW);
	read_role(h, 1500); /* it is written within a second */
	chan_close(&g_role.chan);
	host_stop(h);
	assert_int_equal(host_start(h), 0);
	snprintf(text, sizeof(text), "%s%s", g_cluster, g_test_config);
	send_config(h, text);
	serve(h, CALM_MS);
	assert_decided(h, "allow", "cluster");
	assert_answer(h, "/v1/hosts", "\"10.0.0.2:7443\"", true);
	/* What is deleted meanwhile goes when the same data says so. */
	open_role(h);
	range(h, 3, 8, EPOCH_1, NULL);
	assert_decided(h, "deny", "");
	/* Not configured any more: nothing is left. */
	range(h, 3, 9, EPOCH_1, ALLOW);
	send_config(h, g_test_config);
	serve(h, CALM_MS);
	assert_decided(h, "deny", "");
	assert_answer(h, "/v1/status", "\"catalogue\":null", true);
}

/* A role that was taken over may say anything: what has no form is nothing. */
static void test_a_hostile_role(void **state)
{
	struct host *h = *state;

	start(h);
	range(h, 3, 7, EPOCH_1, ALLOW);
	say(EB_END, 3, 1);		     /* without a beginning */
	say(EB_BEGIN, 3, 8);
	say(EB_END, 3, 8);		     /* without an epoch */
	say(EB_BEGIN, 3, UINT64_MAX);
	entry("epoch", EPOCH_1);
	say(EB_END, 3, UINT64_MAX);
	entry("hosts/../../x", "{\"address\":\"10.0.0.9:1\"}");
	entry("hosts/z", "{\"address\":\"evil.example:1\"}");
	entry("intentions/z", "{\"source\":\"web\"}");
	entry("services/default/redis/a", "{\"up\":false,\"lanes\":9}"); /* ourselves */
	entry("", "");
	done(h, 0); /* to nobody */
	read_role(h, 200);
	assert_decided(h, "allow", "cluster");
	assert_answer(h, "/v1/hosts", "10.0.0.9", false);
	assert_answer(h, "/v1/services", "\"up\":true", true);
}

static void test_orders(void **state)
{
	static const char body[] = "{\"source\":\"web\",\"destination\":\"redis\",\"action\":\"allow\",\"cluster\":true,\"limits\":{\"open_lanes\":3}}";
	struct host *h = *state;

	/* Without etcd there is no cluster; without the role nothing can be written. */
	assert_int_equal(http(h, "POST", "/v1/intentions", body), 404);
	start(h);
	chan_close(&g_role.chan);
	serve(h, CALM_MS);
	assert_int_equal(http(h, "POST", "/v1/intentions", body), 503);
	assert_int_equal(http(h, "DELETE", "/v1/intentions?source=web&destination=redis&cluster=1", ""), 404);
	assert_int_equal(http(h, "POST", "/v1/catalogue/restore", ""), 409);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_what_is_ours),     TEST(test_a_range_and_a_watch), TEST(test_who_wins),	TEST(test_nothing_goes_in_a_reset),
		TEST(test_somebody_accepts), TEST(test_somebody_restores),   TEST(test_the_disk),	TEST(test_a_hostile_role),
		TEST(test_orders),
	};

	if (geteuid() != 0) {
		print_message("only root can start the broker\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
