/*
 * Lanes in shared memory, as the broker decides about them: who may ask, who listens, what ends a lane, and what becomes of it when
 * the porter or the daemon is started again.
 */
#include "daemon/test_broker.h"

#include <stdio.h>
#include <sys/socket.h>

#define ALLOW_LIMITED(n) "{\"source\":\"web\",\"destination\":\"redis\",\"action\":\"allow\",\"limits\":{\"open_lanes\":" #n "}}"

static void ask(struct host *h, const char *workload, uint32_t cid, unsigned cgroup_id, struct role_ask q, const char *service)
{
	struct role_msg m = { .type = PB_ASK, .u.ask = q };
	uint32_t wid = wid_of(h, workload);

	assert_true(h->porter_listens[wid]);
	m.u.ask.accept = (struct role_accept){ .cid = cid, .lid = h->control_lid[wid], .pid = cid, .cgroup_id = cgroup_id };
	strcpy(m.u.ask.service, service);
	tell(&h->porter, &m, -1);
	serve(h, 100);
}

/* Each workload's container is the cgroup 100 + wid. */
static unsigned cgroup_of(const struct host *h, const char *workload)
{
	return 100 + wid_of(h, workload);
}

static void listen_as(struct host *h, const char *workload, uint32_t cid, uint32_t kind, const char *service)
{
	h->resolve_wid = wid_of(h, workload);
	ask(h, workload, cid, cgroup_of(h, workload), (struct role_ask){ .listens = 1, .kind = kind }, service);
}

static void want(struct host *h, const char *workload, uint32_t cid, const char *service)
{
	h->resolve_wid = wid_of(h, workload);
	ask(h, workload, cid, cgroup_of(h, workload), (struct role_ask){ .cap_log2 = 18 }, service);
}

static void assert_no(const struct host *h, uint32_t cid, int error, const char *why)
{
	assert_int_equal(h->last_no.cid, cid);
	assert_int_equal(h->last_no.error, error);
	if (!strstr(h->last_no.why, why))
		fail_msg("\"%s\" is not in \"%s\"", why, h->last_no.why);
}

static void say_open(struct host *h, uint64_t lane_id)
{
	struct role_msg m = { .type = PB_OPEN, .u.lane_ref.lane_id = lane_id };

	tell(&h->porter, &m, -1);
	for (uint32_t end = 0; end < 2; end++) {
		struct role_msg keep = { .type = PB_KEEP, .u.leash = { .lane_id = lane_id, .is_server = end } };
		int fds[2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
		tell(&h->porter, &keep, fds[0]);
		close(fds[0]);
		close(fds[1]);
	}
	serve(h, 100);
}

static void say_closed(struct host *h, uint64_t lane_id, uint32_t end)
{
	struct role_msg m = { .type = PB_CLOSED, .u.stats = { .lane_id = lane_id, .end = end, .bytes_up = 1234 } };

	tell(&h->porter, &m, -1);
	serve(h, 100);
}

static uint64_t open_lane(struct host *h, uint32_t cid)
{
	unsigned before = h->n_offers;

	want(h, "web", cid, "redis");
	assert_int_equal(h->n_offers, before + 1);
	assert_int_equal(h->last_offer.cid, cid);
	say_open(h, h->last_offer.lane_id);
	return h->last_offer.lane_id;
}

static int setup_enrolled(void **state)
{
	static const char *const names[] = { "cache", "web", "audit", "intruder" };
	int r = setup(state);
	struct host *h = *state;

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(names); i++)
		enrol(h, names[i], cgroup_of(h, names[i]));
	return r;
}

/* With cid 1 listening for redis. */
static int setup_listening(void **state)
{
	int r = setup_enrolled(state);

	listen_as(*state, "cache", 1, CONTROL_STREAM, "redis");
	return r;
}

static void set_intention(struct host *h, const char *json)
{
	assert_int_equal(http(h, "POST", "/v1/intentions", json), 200);
}

static void test_control_sockets(void **state)
{
	struct host *h = *state;
	uint32_t web = wid_of(h, "web");

	assert_int_equal(h->n_controls, 4);
	assert_true(h->porter_listens[web]);
	send_config(h, "workload cache { services = [redis] }\nservice redis {}\n");
	serve(h, CALM_MS);
	assert_int_equal(h->control_lid[web], 0);
	send_config(h, g_test_config);
	serve(h, CALM_MS);
	assert_true(h->porter_listens[web]);
	start_porter(h);
	serve(h, 100);
	assert_true(h->porter_listens[web]);
	/* At run time: with the container it comes, and goes. */
	assert_int_equal(http(h, "POST", "/v1/workloads", "{\"service\":\"web\",\"workload\":\"web2\",\"cgroup_id\":\"77\",\"by\":\"t\"}"), 200);
	assert_true(h->porter_listens[wid_of(h, "web2")]);
	assert_int_equal(http(h, "DELETE", "/v1/workloads/web2", ""), 200);
	assert_int_equal(h->control_lid[wid_of(h, "web2")], 0);
}

static void test_allowed(void **state)
{
	struct host *h = *state;
	uint64_t lane;

	assert_int_equal(h->n_listening, 1);
	assert_int_equal(h->last_listening, 1);
	want(h, "web", 11, "redis");
	assert_int_equal(h->n_offers, 1);
	assert_int_equal(h->last_offer.listener, 1);
	assert_string_equal(h->last_offer.client.service, "default/web");
	assert_string_equal(h->last_offer.client.workload, "web");
	assert_string_equal(h->last_offer.server.spiffe_id, "spiffe://sealane.local/ns/default/svc/redis");
	assert_string_equal(h->last_offer.server.workload, "cache");
	assert_true(h->last_offer.client.host[0]);
	assert_int_equal(http(h, "GET", "/v1/lanes", ""), 200);
	assert_null(strstr(g_answer, "\"shm\"")); /* offered, not open */
	lane = h->last_offer.lane_id;
	say_open(h, lane);
	assert_int_equal(n_kept(h), 2);
	h->porter_stats = (struct role_stats){ .lane_id = lane, .bytes_up = 77, .reads_down = 5 };
	assert_int_equal(http(h, "GET", "/v1/lanes", ""), 200);
	assert_then("\"path\":\"shm\"", "\"bytes_up\":77");
	assert_told("\"workload\":\"cache\"", "default/redis");
	assert_int_equal(http(h, "GET", "/v1/status", ""), 200);
	assert_told("\"lanes_relay\":0", "\"lanes_shm\":1");
	assert_int_equal(http(h, "GET", "/v1/explain?source=web&destination=redis", ""), 200);
	assert_told("\"library\"", "\"allowed\":true");
	say_closed(h, lane, LANE_END_EOF);
	assert_int_equal(n_kept(h), 0);
	assert_int_equal(http(h, "GET", "/v1/events", ""), 200);
	assert_told("lane.allow", "\"path\":\"shm\"");
	assert_told("lane.open", "\"server\":\"cache\"");
	assert_told("lane.close", "\"bytes_up\":1234");
	assert_told("listener.open", "default/redis");
}

static void test_denied(void **state)
{
	struct host *h = *state;

	want(h, "intruder", 11, "redis");
	assert_no(h, 11, -EACCES, "no intention allows default/intruder -> default/redis");
	want(h, "audit", 12, "redis");
	assert_no(h, 12, -EACCES, "test.conf:8 is strict: use the socket file /run/sealane/redis.sock");
	set_intention(h, "{\"source\":\"web\",\"destination\":\"*\",\"action\":\"allow\"}");
	want(h, "web", 13, "nothing");
	assert_no(h, 13, -ENOENT, "no service default/nothing");
	want(h, "web", 14, "No Such Name");
	assert_no(h, 14, -ENOENT, "cannot be the name");
	want(h, "web", 15, "audit");
	assert_no(h, 15, -ECONNREFUSED, "nobody listens for default/audit");
	h->resolve_wid = wid_of(h, "web");
	ask(h, "web", 16, cgroup_of(h, "web"), (struct role_ask){ .kind = CONTROL_MESSAGES }, "redis");
	assert_no(h, 16, -EPROTOTYPE, "takes streams, not messages");
	ask(h, "web", 17, cgroup_of(h, "web"), (struct role_ask){ .as = "audit" }, "redis");
	assert_no(h, 17, -EACCES, "does not speak as");
	set_intention(h, "{\"source\":\"web\",\"destination\":\"redis\",\"action\":\"allow\",\"limits\":{\"bytes_per_s\":1000}}");
	want(h, "web", 18, "redis");
	assert_no(h, 18, -EACCES, "limits bytes");
	assert_int_equal(h->n_offers, 0);
	assert_int_equal(h->n_porter_refuse, 8);
	listen_as(h, "web", 19, CONTROL_STREAM, "redis");
	assert_no(h, 19, -EACCES, "it is none of its services");
	assert_int_equal(http(h, "GET", "/v1/events", ""), 200);
	assert_told("default/intruder", "default deny");
	assert_told("lane.fail", "nobody listens");
	assert_told("listener.deny", "\"workload\":\"web\"");
	assert_int_equal(http(h, "GET", "/v1/explain?source=audit&destination=redis", ""), 200);
	assert_told("\"library\"", "is strict");
}

static void test_identity(void **state)
{
	struct host *h = *state;

	h->resolve_wid = wid_of(h, "intruder");
	ask(h, "web", 11, 999, (struct role_ask){ .cap_log2 = 18 }, "redis"); /* the intruder's process at web's socket */
	assert_no(h, 11, -EACCES, "does not run in this workload's cgroup");
	ask(h, "cache", 12, 999, (struct role_ask){ .listens = 1 }, "redis");
	assert_no(h, 12, -EACCES, "does not run in this workload's cgroup");
	open_lane(h, 13);
	h->resolve_wid = wid_of(h, "intruder");
	ask(h, "web", 14, cgroup_of(h, "web"), (struct role_ask){ .cap_log2 = 18 }, "redis"); /* from the cache */
	assert_int_equal(h->n_offers, 2);
	assert_int_equal(http(h, "DELETE", "/v1/workloads/web", ""), 200);
	want(h, "web", 15, "redis");
	assert_no(h, 15, -EACCES, "no container of this workload is enrolled");
	/* Asked before, answered after the end of the enrolment. */
	enrol(h, "web", cgroup_of(h, "web"));
	h->hold_resolves = true;
	want(h, "web", 16, "redis");
	assert_int_equal(http(h, "DELETE", "/v1/workloads/web", ""), 200);
	assert_no(h, 16, -EACCES, "unenrolled");
	struct role_msg late = { .type = WB_REPLY, .seq = h->held_resolve, .u.reply.wid = wid_of(h, "web") };
	tell(&h->warden, &late, -1);
	serve(h, 100);
	assert_int_equal(h->n_offers, 2);
}

static void test_limits(void **state)
{
	struct host *h = *state;
	uint64_t first;

	set_intention(h, ALLOW_LIMITED(2));
	first = open_lane(h, 11);
	open_lane(h, 12);
	want(h, "web", 13, "redis");
	assert_no(h, 13, -EDQUOT, "open_lanes");
	say_closed(h, first, LANE_END_CLIENT);
	open_lane(h, 14);
	/* 16 GiB: rings of 256 MiB have 288 MiB and a page. */
	set_intention(h, "{\"source\":\"web\",\"destination\":\"redis\",\"action\":\"allow\"}");
	for (uint32_t cid = 20; h->last_no.cid != cid - 1; cid++) {
		assert_true(cid < 90);
		ask(h, "web", cid, cgroup_of(h, "web"), (struct role_ask){ .cap_log2 = 28 }, "redis");
	}
	assert_no(h, h->last_no.cid, -EDQUOT, "MiB");
	assert_in_range(h->last_no.cid, 20 + 55, 20 + 56);
	ask(h, "web", 99, cgroup_of(h, "web"), (struct role_ask){ .cap_log2 = 200 }, "redis");
	assert_no(h, 99, -EINVAL, "ring");
}

/* An offer that nobody takes gives back what it held. */
static void test_offer_that_fails(void **state)
{
	struct host *h = *state;

	set_intention(h, ALLOW_LIMITED(1));
	want(h, "web", 11, "redis");
	say_closed(h, h->last_offer.lane_id, LANE_END_SERVER);
	want(h, "web", 12, "redis");
	assert_int_equal(h->n_offers, 2);
	say_open(h, 123456); /* a lane that never was */
	assert_int_equal(h->last_porter_cut.lane_id, 123456);
	assert_int_equal(n_kept(h), 0);
}

static void test_listeners_share(void **state)
{
	struct host *h = *state;
	struct role_msg gone = { .type = PB_GONE, .u.id.id = 1 };
	unsigned n[3] = {};
	uint64_t lanes[6];

	listen_as(h, "cache", 2, CONTROL_STREAM, "redis");
	for (uint32_t i = 0; i < 6; i++) {
		lanes[i] = open_lane(h, 11 + i);
		n[h->last_offer.listener]++;
	}
	assert_int_equal(n[1], 3);
	assert_int_equal(n[2], 3);
	tell(&h->porter, &gone, -1);
	open_lane(h, 20);
	assert_int_equal(h->last_offer.listener, 2);
	assert_int_equal(h->n_porter_cut, 0); /* its lanes go on */
	for (size_t i = 0; i < 6; i++)
		say_closed(h, lanes[i], LANE_END_EOF);
	gone.u.id.id = 2;
	tell(&h->porter, &gone, -1);
	want(h, "web", 21, "redis");
	assert_no(h, 21, -ECONNREFUSED, "nobody listens");
}

static void test_cut(void **state)
{
	struct host *h = *state;
	uint64_t lane = open_lane(h, 11);

	set_intention(h, "{\"source\":\"web\",\"destination\":\"redis\",\"action\":\"deny\"}");
	assert_int_equal(h->n_porter_cut, 1);
	assert_int_equal(h->last_porter_cut.lane_id, lane);
	assert_non_null(strstr(h->last_porter_cut.why, "no longer allowed (runtime"));
	assert_int_equal(http(h, "GET", "/v1/events", ""), 200);
	assert_told("lane.cut", "default/web -> default/redis: deny");
	say_closed(h, lane, LANE_END_CUT);
	assert_int_equal(http(h, "DELETE", "/v1/intentions?source=web&destination=redis", ""), 200);
	/* An offer too, and by an intention that shared memory cannot hold. */
	want(h, "web", 12, "redis");
	set_intention(h, "{\"source\":\"web\",\"destination\":\"redis\",\"action\":\"allow\",\"strict\":true}");
	assert_int_equal(h->n_porter_cut, 2);
	say_closed(h, h->last_offer.lane_id, LANE_END_CUT);
	assert_int_equal(http(h, "DELETE", "/v1/intentions?source=web&destination=redis", ""), 200);
	open_lane(h, 13);
	/* Drained: no new lanes, the open one goes on. */
	assert_int_equal(http(h, "POST", "/v1/workloads/cache/drain", "{\"on\":true}"), 200);
	want(h, "web", 14, "redis");
	assert_no(h, 14, -EACCES, "being drained");
	assert_int_equal(h->n_porter_cut, 2);
	assert_int_equal(http(h, "POST", "/v1/workloads/cache/drain", "{\"on\":false}"), 200);
	/* The server's container leaves: its listeners and lanes end with it. */
	assert_int_equal(http(h, "DELETE", "/v1/workloads/cache", ""), 200);
	assert_int_equal(h->n_porter_cut, 3);
	assert_no(h, 1, -EACCES, "unenrolled");
	want(h, "web", 15, "redis");
	assert_no(h, 15, -ECONNREFUSED, "nobody listens");
}

static void test_cut_when_it_expires(void **state)
{
	struct host *h = *state;
	char json[256];

	snprintf(json, sizeof(json), "{\"source\":\"audit\",\"destination\":\"redis\",\"action\":\"allow\",\"expires\":%lld}",
		 (long long)time(NULL) + 2);
	set_intention(h, json);
	want(h, "audit", 11, "redis");
	assert_int_equal(h->n_offers, 1);
	serve(h, 3100);
	assert_int_equal(h->n_porter_cut, 1);
}

static void test_cut_by_reload(void **state)
{
	struct host *h = *state;

	open_lane(h, 11);
	send_config(h, "workload cache { services = [redis] }\nservice redis { offer = false }\nservice web { upstream redis {} }\n"
		       "intention { source = web destination = redis action = allow }\n");
	serve(h, CALM_MS);
	assert_int_equal(h->n_porter_cut, 1);
	assert_no(h, 1, -EACCES, "does not let this workload offer");
	listen_as(h, "cache", 2, CONTROL_STREAM, "redis");
	assert_no(h, 2, -EACCES, "offer = false");
}

static void test_porter_restart(void **state)
{
	struct host *h = *state;
	uint64_t lane = open_lane(h, 11);

	want(h, "web", 12, "redis"); /* an offer: gone with the porter */
	give_kept(h);
	start_porter(h);
	serve(h, CALM_MS);
	assert_int_equal(h->n_adopts, 2);
	assert_int_equal(n_kept(h), 2);
	want(h, "web", 13, "redis");
	assert_no(h, 13, -ECONNREFUSED, "nobody listens"); /* until it comes again */
	listen_as(h, "cache", 1, CONTROL_STREAM, "redis");
	open_lane(h, 14);
	assert_int_equal(http(h, "GET", "/v1/status", ""), 200);
	assert_told("\"lanes_relay\":0", "\"lanes_shm\":2");
	assert_int_equal(http(h, "DELETE", "/v1/workloads/web", ""), 200);
	assert_int_equal(h->n_porter_cut, 2);
	assert_true(h->last_porter_cut.lane_id >= lane);
}

/* What nobody kept, nobody can end: it is not shown as if somebody could. */
static void test_porter_restart_without_copies(void **state)
{
	struct host *h = *state;

	open_lane(h, 11);
	assert_int_equal(n_kept(h), 2);
	start_porter(h);
	serve(h, CALM_MS);
	assert_int_equal(h->n_adopts, 0);
	assert_int_equal(n_kept(h), 0);
	assert_int_equal(http(h, "GET", "/v1/events", ""), 200);
	assert_told("lane.lost", "default/redis");
	assert_int_equal(http(h, "GET", "/v1/status", ""), 200);
	assert_told("\"lanes_relay\":0", "\"lanes_shm\":0");
}

/* Denied while no porter was there: the next one is told. */
static void test_denied_without_porter(void **state)
{
	struct host *h = *state;

	open_lane(h, 11);
	chan_close(&h->porter);
	serve(h, 100);
	set_intention(h, "{\"source\":\"web\",\"destination\":\"redis\",\"action\":\"deny\"}");
	assert_int_equal(h->n_porter_cut, 0);
	give_kept(h);
	start_porter(h);
	serve(h, CALM_MS);
	assert_int_equal(h->n_adopts, 2);
	assert_int_equal(h->n_porter_cut, 1);
}

static void restart(struct host *h, const char *config)
{
	host_stop(h);
	h->n_adopts = h->n_porter_cut = 0;
	host_start(h);
	send_config(h, config);
	serve(h, CALM_MS);
}

static void test_adoption(void **state)
{
	struct host *h = *state;
	uint64_t first = open_lane(h, 11), second;

	restart(h, g_test_config);
	assert_int_equal(h->n_adopts, 2);
	assert_int_equal(h->n_porter_cut, 0);
	assert_int_equal(n_kept(h), 2);
	assert_int_equal(http(h, "GET", "/v1/lanes", ""), 200);
	assert_then("\"path\":\"shm\"", "default/web");
	listen_as(h, "cache", 1, CONTROL_STREAM, "redis");
	second = open_lane(h, 12);
	assert_true(second > first);
	restart(h, "workload cache { services = [redis] }\nservice redis {}\nservice web { upstream redis {} }\n");
	assert_int_equal(h->n_adopts, 4);
	assert_int_equal(h->n_porter_cut, 2); /* no intention any more */
	assert_int_equal(http(h, "GET", "/v1/events", ""), 200);
	assert_told("lane.cut", "default deny");
	say_closed(h, first, LANE_END_CUT);
	say_closed(h, second, LANE_END_CUT);
	assert_int_equal(n_kept(h), 0);
}

static void test_adoption_without_the_workload(void **state)
{
	struct host *h = *state;

	open_lane(h, 11);
	strcpy(h->kept[7].name, "lane/what is this");
	h->kept[7].fd = dup(STDERR_FILENO);
	restart(h, "workload cache { services = [redis] }\nservice redis {}\n");
	assert_int_equal(h->n_adopts, 2);
	assert_int_equal(h->n_porter_cut, 1);
	assert_int_equal(n_kept(h), 0);
	assert_int_equal(http(h, "GET", "/v1/events", ""), 200);
	assert_told("lane.kept_unknown", "what is this");
}

/* The lane was another container's of that name; or nobody's is enrolled again. */
static void test_adoption_by_another_container(void **state)
{
	struct host *h = *state;
	char *cgroup;

	open_lane(h, 11);
	for (size_t i = 0; i < N_KEPT; i++) {
		/* web's is enrolled again as 100 + wid: 0x6X; the copy says 0xee */
		cgroup = h->kept[i].name[0] ? strstr(h->kept[i].name, "/web/cache/") + strlen("/web/cache/") : NULL;
		if (cgroup)
			memcpy(cgroup, "ee", 2);
	}
	restart(h, g_test_config);
	assert_int_equal(h->n_adopts, 2);
	assert_int_equal(h->n_porter_cut, 1);
	assert_non_null(strstr(h->last_porter_cut.why, "the client's container"));
}

#define TEST(name, set) cmocka_unit_test_setup_teardown(name, set, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_control_sockets, setup_enrolled), TEST(test_allowed, setup_listening), TEST(test_denied, setup_listening),
		TEST(test_identity, setup_listening), TEST(test_limits, setup_listening), TEST(test_offer_that_fails, setup_listening),
		TEST(test_listeners_share, setup_listening), TEST(test_cut, setup_listening),
		TEST(test_cut_when_it_expires, setup_listening), TEST(test_cut_by_reload, setup_listening),
		TEST(test_porter_restart, setup_listening), TEST(test_porter_restart_without_copies, setup_listening),
		TEST(test_denied_without_porter, setup_listening), TEST(test_adoption, setup_listening),
		TEST(test_adoption_without_the_workload, setup_listening), TEST(test_adoption_by_another_container, setup_listening),
	};

	if (geteuid() != 0) {
		fprintf(stderr, "skipped: the broker leaves root, so it has to start as root\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
