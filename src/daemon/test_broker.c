/*
 * What the broker decides about connections to socket files, whom it asks, and what it does when an answer is late, wrong or
 * never comes.
 */
#include "daemon/test_broker.h"

#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>

static void test_routes(void **state)
{
	struct host *h = *state;

	assert_int_equal(h->n_listens, 3);
	assert_string_equal(h->sockets[lid_of(h, "web")], "redis.sock");
	assert_int_equal(h->route[lid_of(h, "web")], ROLE_ROUTE_GATE); /* nobody is enrolled */
	enrol(h, "web", 11);
	enrol(h, "audit", 12);
	assert_int_equal(h->route[lid_of(h, "web")], ROLE_ROUTE_DIRECT);
	assert_int_equal(h->route[lid_of(h, "audit")], ROLE_ROUTE_GATE); /* strict */
	assert_int_equal(h->route[lid_of(h, "intruder")], ROLE_ROUTE_GATE);
	assert_int_equal(http(h, "POST", "/v1/intentions", "{\"source\":\"web\",\"destination\":\"redis\",\"action\":\"deny\"}"), 200);
	assert_int_equal(h->route[lid_of(h, "web")], ROLE_ROUTE_GATE);
	assert_int_equal(h->n_cuts, 1);
	assert_int_equal(h->last_cut.wid, wid_of(h, "web"));
	assert_int_equal(h->last_cut.watch, 1);
	assert_int_equal(http(h, "DELETE", "/v1/intentions?source=web&destination=redis", ""), 200);
	assert_int_equal(h->route[lid_of(h, "web")], ROLE_ROUTE_DIRECT);
}

static void test_identity_and_policy(void **state)
{
	struct host *h = *state;

	enrol(h, "web", 11);
	enrol(h, "audit", 12);
	enrol(h, "intruder", 13);
	h->resolve_wid = wid_of(h, "audit");
	connect_as(h, "audit", 1, 12);
	assert_int_equal(h->n_go, 1);
	assert_int_equal(h->last_go.cid, 1);
	h->resolve_wid = wid_of(h, "web");
	connect_as(h, "audit", 4, 99); /* web's process at audit's socket, while the limits would let it */
	assert_int_equal(h->n_go, 1);
	assert_int_equal(h->n_refuse, 1);
	assert_int_equal(h->last_refused, 4);
	assert_int_equal(h->n_connects, 1);
	connect_as(h, "audit", 2, 12); /* from the cache: the warden would now say otherwise */
	assert_int_equal(h->n_go, 2);
	connect_as(h, "audit", 3, 12); /* open_lanes = 2 */
	assert_int_equal(h->n_refuse, 2);
	assert_int_equal(h->last_refused, 3);
	h->resolve_wid = wid_of(h, "intruder");
	connect_as(h, "intruder", 5, 13);
	assert_int_equal(h->n_refuse, 3);
	assert_int_equal(h->n_go, 2);
	assert_int_equal(h->n_connects, 2);
}

static void test_cut_relayed(void **state)
{
	struct host *h = *state;
	struct role_msg closed = { .type = GB_CLOSED };

	enrol(h, "audit", 12);
	h->resolve_wid = wid_of(h, "audit");
	connect_as(h, "audit", 1, 12);
	connect_as(h, "audit", 2, 12);
	assert_int_equal(h->n_go, 2);
	assert_int_equal(http(h, "POST", "/v1/intentions", "{\"source\":\"audit\",\"destination\":\"redis\",\"action\":\"deny\"}"), 200);
	assert_int_equal(h->n_gate_cut, 2);
	closed.u.stats = (struct role_stats){ .lane_id = h->last_go.lane_id, .end = LANE_END_CUT };
	tell(&h->gate, &closed, -1);
	closed.u.stats.lane_id = 123456; /* a lane that never was */
	tell(&h->gate, &closed, -1);
	connect_as(h, "audit", 3, 12);
	assert_int_equal(h->n_refuse, 1);
}

static void test_client_leaves_first(void **state)
{
	struct host *h = *state;
	struct role_msg gone = { .type = GB_GONE, .u.id.id = 1 };

	enrol(h, "audit", 12);
	h->resolve_wid = wid_of(h, "audit");
	h->hold_connects = true;
	connect_as(h, "audit", 1, 12);
	tell(&h->gate, &gone, -1);
	serve(h, 100);
	answer_connect(h, h->held_connect);
	serve(h, 100);
	assert_int_equal(h->n_go, 0);
	h->hold_connects = false;
	connect_as(h, "audit", 2, 12); /* the quota was given back */
	connect_as(h, "audit", 3, 12);
	assert_int_equal(h->n_go, 2);
}

static void test_server_is_awaited(void **state)
{
	struct host *h = *state;

	enrol(h, "audit", 12);
	h->resolve_wid = wid_of(h, "audit");
	server_state(h, 0, false);
	for (uint32_t sid = 1; sid < 4; sid++)
		server_state(h, sid, false);
	serve(h, 50);
	connect_as(h, "audit", 1, 12);
	assert_int_equal(h->n_go + h->n_refuse, 0);
	for (uint32_t sid = 0; sid < 4; sid++)
		server_state(h, sid, true);
	serve(h, 100);
	assert_int_equal(h->n_go, 1);
	for (uint32_t sid = 0; sid < 4; sid++)
		server_state(h, sid, false);
	connect_as(h, "audit", 2, 12);
	serve(h, 400); /* connect_wait */
	assert_int_equal(h->n_refuse, 1);
}

static void test_gate_lost(void **state)
{
	struct host *h = *state;

	enrol(h, "audit", 12);
	h->resolve_wid = wid_of(h, "audit");
	connect_as(h, "audit", 1, 12);
	connect_as(h, "audit", 2, 12);
	assert_int_equal(h->n_go, 2);
	start_gate(h); /* the same index: the old one died with its lanes */
	serve(h, 100);
	connect_as(h, "audit", 1, 12);
	assert_int_equal(h->n_go, 3);
}

static void test_reload(void **state)
{
	struct host *h = *state;
	char text[2048];

	enrol(h, "web", 11);
	assert_int_equal(h->route[lid_of(h, "web")], ROLE_ROUTE_DIRECT);
	send_config(h, "service web { upstream redis {} }\nintention { source = web }\n");
	serve(h, 100);
	assert_int_equal(http(h, "GET", "/v1/status", ""), 200);
	assert_int_equal(h->route[lid_of(h, "web")], ROLE_ROUTE_DIRECT);
	snprintf(text, sizeof(text), "%s\nservice extra { upstream redis {} }\nintention { source = extra destination = redis action = deny }\n", g_test_config);
	send_config(h, text);
	serve(h, 100);
	assert_int_equal(h->n_listens, 4);
	assert_int_equal(h->n_cuts, 0);
	wid_of(h, "extra");
}

static void test_survives_restart(void **state)
{
	struct host *h = *state;

	enrol(h, "web", 11);
	assert_int_equal(http(h, "POST", "/v1/intentions", "{\"source\":\"web\",\"destination\":\"redis\",\"action\":\"deny\"}"), 200);
	host_stop(h);
	memset(h->route, 0xff, sizeof(h->route));
	host_start(h);
	send_config(h, g_test_config);
	serve(h, CALM_MS);
	assert_int_equal(http(h, "GET", "/v1/workloads/web", ""), 200);
	assert_int_not_equal(h->route[lid_of(h, "web")], ROLE_ROUTE_DIRECT); /* the run-time deny still holds */
	assert_int_equal(http(h, "DELETE", "/v1/intentions?source=web&destination=redis", ""), 200);
	assert_int_equal(h->route[lid_of(h, "web")], ROLE_ROUTE_DIRECT); /* and so does the enrolment */
}

/* At a start clients wait already: the gate tells of them before the warden has looked at the enrolments again. */
static void test_accepted_before_enrolled_again(void **state)
{
	struct host *h = *state;

	enrol(h, "audit", 12);
	host_stop(h);
	h->hold_enrols = h->hold_resolves = true;
	h->resolve_wid = wid_of(h, "audit");
	host_start(h);
	send_config(h, g_test_config);
	serve(h, CALM_MS);
	connect_as(h, "audit", 1, 12);
	answer_enrol(h, &h->held_enrol);
	answer_resolve(h, h->held_resolve);
	serve(h, 100);
	assert_int_equal(h->n_refuse, 0);
	assert_int_equal(h->n_go, 1);
}

/* A lane that an earlier daemon let be made ends if it would not be made now, and only then. */
static void test_inherited_lanes(void **state)
{
	struct host *h = *state;

	enrol(h, "web", 11);
	h->lane = (struct role_lane){ .sid = sid_of(h, "redis.sock"), .wid = wid_of(h, "web"), .client_pid = 5, .client_ino = 77, .server_ino = 78 };
	host_stop(h);
	host_start(h);
	send_config(h, g_test_config);
	serve(h, CALM_MS);
	assert_int_equal(h->n_cuts, 0);
	host_stop(h);
	host_start(h);
	send_config(h, "workload cache { services = [redis] }\nservice redis {}\nservice web { upstream redis {} }\n"
		       "intention { source = web destination = redis action = allow strict = true }\n");
	serve(h, CALM_MS);
	assert_int_equal(h->n_cuts, 1);
	assert_int_equal(h->last_cut.wid, wid_of(h, "web"));
}

static void guard_says(struct host *h, uint32_t verdict, uint32_t wid, uint32_t n_suppressed)
{
	struct role_msg m = { .type = WB_GUARD };

	m.u.guard = (struct role_guard){ .state = GUARD_LSM, .verdict = verdict, .sid = sid_of(h, "redis.sock"), .wid = wid,
					 .pid = 4711, .cgroup_id = 99, .n_suppressed = n_suppressed };
	tell(&h->warden, &m, -1);
}

static void test_guard_decisions(void **state)
{
	struct host *h = *state;

	guard_says(h, 0, ROLE_NO_ID, 0);
	guard_says(h, 1, wid_of(h, "web"), 0);
	guard_says(h, 2, wid_of(h, "intruder"), 3);
	guard_says(h, 2, wid_of(h, "audit"), 0);
	guard_says(h, 2, ROLE_NO_ID, 0);
	serve(h, 100);
	assert_int_equal(http(h, "GET", "/v1/events", ""), 200);
	assert_told("\"source\":\"default/web\"", "\"destination\":\"default/redis\"");
	assert_told("\"source\":\"default/intruder\"", "default deny");
	assert_told("\"source\":\"default/audit\"", "the gate's socket");
	assert_told("no enrolled workload", "\"cgroup_id\":99");
	assert_int_equal(http(h, "GET", "/v1/status", ""), 200);
	assert_told("\"lanes_opened\"", "\"lanes_denied\":6");
}

static void test_one_container_at_a_time(void **state)
{
	struct host *h = *state;

	enrol(h, "web", 11);
	assert_int_equal(http(h, "POST", "/v1/workloads", "{\"workload\":\"web\",\"cgroup_id\":\"12\",\"by\":\"test\"}"), 409);
	h->first_is_empty = true; /* it was started again, and the kernel has not told of its end yet */
	enrol(h, "web", 12);
	assert_int_equal(h->route[lid_of(h, "web")], ROLE_ROUTE_DIRECT);
}

/* What an attacker found: rights that outlived their end. */
static void test_what_was_given_is_taken(void **state)
{
	struct host *h = *state;

	enrol(h, "web", 11);
	assert_int_equal(h->route[lid_of(h, "web")], ROLE_ROUTE_DIRECT);
	/* Drained first, denied later: the name is the gate's already, the lanes are still there. */
	assert_int_equal(http(h, "POST", "/v1/workloads/web/drain", "{\"on\":true}"), 200);
	assert_int_equal(h->n_cuts, 0);
	assert_int_equal(http(h, "POST", "/v1/intentions", "{\"source\":\"web\",\"destination\":\"redis\",\"action\":\"deny\"}"), 200);
	assert_int_equal(h->n_cuts, 1);
	assert_int_equal(h->last_cut.watch, 1);
	assert_int_equal(http(h, "DELETE", "/v1/intentions?source=web&destination=redis", ""), 200);
	assert_int_equal(http(h, "POST", "/v1/workloads/web/drain", "{\"on\":false}"), 200);
	assert_int_equal(h->route[lid_of(h, "web")], ROLE_ROUTE_DIRECT);
	/* Unenrolled: cut, and watched, before the warden forgets the cgroup. */
	assert_int_equal(http(h, "DELETE", "/v1/workloads/web", ""), 200);
	assert_int_equal(h->n_cuts, 2);
	assert_false(h->unenrolled_before_cut);
}

static void test_waiting_ends_with_the_enrolment(void **state)
{
	struct host *h = *state;

	enrol(h, "audit", 12);
	h->resolve_wid = wid_of(h, "audit");
	h->hold_connects = true;
	connect_as(h, "audit", 1, 12);
	assert_int_equal(http(h, "DELETE", "/v1/workloads/audit", ""), 200);
	assert_int_equal(h->n_refuse, 1);
	answer_connect(h, h->held_connect);
	serve(h, 100);
	assert_int_equal(h->n_go, 0);
	h->hold_connects = false;
	connect_as(h, "audit", 2, 12); /* and the cache has forgotten the cgroup */
	assert_int_equal(h->n_go, 0);
	assert_int_equal(h->n_refuse, 2);
}

/* A reload frees the policy and the configuration that routes and lanes pointed into. */
static void test_reload_without_the_workload(void **state)
{
	struct host *h = *state;
	uint32_t wid;

	enrol(h, "web", 11);
	wid = wid_of(h, "web");
	send_config(h, "workload cache { services = [redis] }\nservice redis {}\n");
	serve(h, CALM_MS);
	assert_int_equal(h->n_cuts, 1);
	assert_int_equal(h->n_removed, 2); /* audit and intruder; web's container still holds its directory */
	send_config(h, g_test_config);
	serve(h, CALM_MS);
	assert_int_equal(wid_of(h, "web"), wid);
	assert_int_equal(http(h, "GET", "/v1/workloads/web", ""), 200);
	assert_non_null(strstr(g_answer, "running"));
}

static void test_burst(void **state)
{
	struct host *h = *state;
	struct role_msg m = { .type = GB_ACCEPT };

	enrol(h, "audit", 12);
	h->resolve_wid = wid_of(h, "audit");
	for (uint32_t cid = 1; cid <= 1000; cid++) {
		m.u.accept = (struct role_accept){ .cid = cid, .lid = lid_of(h, "audit"), .pid = 1, .cgroup_id = 12 };
		assert_int_equal(role_send(&h->gate, &m, -1), 0);
		assert_int_equal(chan_flush(&h->gate), 0);
	}
	while (chan_wants_write(&h->gate)) {
		serve(h, 1);
		assert_int_equal(chan_flush(&h->gate), 0);
	}
	serve(h, CALM_MS);
	assert_int_equal(h->n_go, 2); /* open_lanes = 2 */
	assert_int_equal(h->n_refuse, 998);
	assert_in_range(h->n_connects, 2, 64);
}

/* The gate dies while the broker walks over its connections. */
static void test_gate_dies_in_between(void **state)
{
	struct host *h = *state;
	struct role_msg m = { .type = GB_ACCEPT };

	enrol(h, "intruder", 13);
	for (uint32_t cid = 1; cid <= 200; cid++) {
		m.u.accept = (struct role_accept){ .cid = cid, .lid = lid_of(h, "intruder"), .pid = 1, .cgroup_id = 13 };
		assert_int_equal(role_send(&h->gate, &m, -1), 0);
	}
	while (chan_wants_write(&h->gate))
		assert_int_equal(chan_flush(&h->gate), 0);
	h->resolve_wid = wid_of(h, "intruder");
	chan_close(&h->gate);
	serve(h, CALM_MS);
	assert_int_equal(http(h, "GET", "/v1/status", ""), 200);
	start_gate(h);
	serve(h, 100);
	connect_as(h, "intruder", 1, 13);
	assert_int_equal(h->last_refused, 1);
}

static void test_bad_first_config(void **state)
{
	struct host *h = *state;
	int status;

	host_stop(h);
	host_start(h);
	send_config(h, "service web {\n");
	assert_int_equal(waitpid(h->pid, &status, 0), h->pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 78);
	host_start(h);
	send_config(h, g_test_config);
	serve(h, CALM_MS);
}

static void test_malformed_messages(void **state)
{
	struct host *h = *state;
	struct role_msg m = { .type = GB_CLOSED, .u.stats.end = LANE_END_N };
	int status;

	assert_int_equal(chan_send(&h->gate, &m, role_msg_size(GB_CLOSED), -1), 0);
	assert_int_equal(poll(&(struct pollfd){ .fd = h->gate.fd, .events = POLLIN }, 1, 1000), 1);
	assert_int_equal(recv(h->gate.fd, &m, sizeof(m), 0), 0);
	chan_close(&h->gate);
	serve(h, 50);
	assert_int_equal(http(h, "GET", "/v1/status", ""), 200); /* that gate's channel ended, nothing else */
	m.type = 9999;
	assert_int_equal(chan_send(&h->warden, &m, sizeof(m), -1), 0);
	assert_int_equal(waitpid(h->pid, &status, 0), h->pid);
	assert_true(WIFEXITED(status)); /* without a warden it ends, in order */
	host_start(h);
	send_config(h, g_test_config);
	serve(h, CALM_MS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_routes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_identity_and_policy, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cut_relayed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_client_leaves_first, setup, teardown),
		cmocka_unit_test_setup_teardown(test_server_is_awaited, setup, teardown),
		cmocka_unit_test_setup_teardown(test_gate_lost, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reload, setup, teardown),
		cmocka_unit_test_setup_teardown(test_survives_restart, setup, teardown),
		cmocka_unit_test_setup_teardown(test_accepted_before_enrolled_again, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_container_at_a_time, setup, teardown),
		cmocka_unit_test_setup_teardown(test_inherited_lanes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_guard_decisions, setup, teardown),
		cmocka_unit_test_setup_teardown(test_what_was_given_is_taken, setup, teardown),
		cmocka_unit_test_setup_teardown(test_waiting_ends_with_the_enrolment, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reload_without_the_workload, setup, teardown),
		cmocka_unit_test_setup_teardown(test_burst, setup, teardown),
		cmocka_unit_test_setup_teardown(test_gate_dies_in_between, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_first_config, setup, teardown),
		cmocka_unit_test_setup_teardown(test_malformed_messages, setup, teardown),
	};

	if (geteuid() != 0) {
		fprintf(stderr, "skipped: the broker leaves root, so it has to start as root\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
