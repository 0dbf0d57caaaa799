#include "core/lane.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define S UINT64_C(1000000000)

static const struct intention g_allow = { .action = INTENTION_ALLOW };
static const struct intention g_deny = { .action = INTENTION_DENY };

static void expect(const struct intention *i, struct route_facts f, enum route route, const char *in_why)
{
	struct route_choice c = route_choose(i, &f);

	assert_int_equal(c.route, route);
	assert_ptr_equal(c.intention, i);
	if (!strstr(c.why, in_why))
		fail_msg("\"%s\" does not say \"%s\"", c.why, in_why);
}

/* Each rule alone, with all those after it broken too: so the order is tested as well. */
static void test_rules_in_order(void **unused)
{
	struct intention i = g_allow;
	struct route_facts f = { .direct_disabled = true, .draining = true, .mode_wanted = true };

	(void)unused;
	i.strict = true;
	i.limits = (struct intention_limits){ 1, 1, 1 };
	expect(NULL, f, ROUTE_REFUSE, "no intention allows it (default deny)");
	expect(&g_deny, f, ROUTE_REFUSE, "denies");
	expect(&i, f, ROUTE_REFUSE, "drained");
	f.draining = false;
	expect(&i, f, ROUTE_REFUSE, "no service of this name on this host");
	f.server_known = true;
	expect(&i, f, ROUTE_RELAY, "direct path off");
	f.direct_disabled = false;
	expect(&i, f, ROUTE_RELAY, "strict");
	i.strict = false;
	expect(&i, f, ROUTE_RELAY, "bytes per second");
	i.limits.bytes_per_s = 0;
	expect(&i, f, ROUTE_RELAY, "open lanes");
	i.limits.open_lanes = 0;
	expect(&i, f, ROUTE_RELAY, "connections per second");
	i.limits.connections_per_s = 0;
	expect(&i, f, ROUTE_RELAY, "mode or owner");
	f.mode_wanted = false;
	expect(&i, f, ROUTE_RELAY, "waits for the server");
	f.server_up = true;
	expect(&i, f, ROUTE_RELAY, "another file system");
	f.linkable = true;
	expect(&i, f, ROUTE_DIRECT, "can be linked");
}

/* The nearest server that is up; if none is up, the one here is waited for; without one here, any. */
static void test_nearest_first(void **unused)
{
	struct route_facts f = { .server_known = true, .server_up = true, .linkable = true };

	(void)unused;
	for (f.elsewhere = ELSEWHERE_NONE; f.elsewhere < ELSEWHERE_N; f.elsewhere++)
		expect(&g_allow, f, ROUTE_DIRECT, "can be linked");
	f.server_up = false;
	f.elsewhere = ELSEWHERE_NONE;
	expect(&g_allow, f, ROUTE_RELAY, "waits for the server");
	f.elsewhere = ELSEWHERE_MAYBE;
	expect(&g_allow, f, ROUTE_RELAY, "waits for the server");
	f.elsewhere = ELSEWHERE_UP;
	expect(&g_allow, f, ROUTE_LINK, "another host's is");
	f.server_up = f.server_draining = true;
	expect(&g_allow, f, ROUTE_LINK, "another host has the service");
	f.elsewhere = ELSEWHERE_NONE;
	expect(&g_allow, f, ROUTE_REFUSE, "the service is being drained");
	f = (struct route_facts){ .elsewhere = ELSEWHERE_MAYBE };
	expect(&g_allow, f, ROUTE_LINK, "holds the client while it waits");
	f.elsewhere = ELSEWHERE_UP;
	expect(&g_allow, f, ROUTE_LINK, "another host has the service");
	expect(&g_deny, f, ROUTE_REFUSE, "denies");
	f.draining = true;
	expect(&g_allow, f, ROUTE_REFUSE, "the workload is being drained");
}

static enum route nearest(const struct route_facts *f)
{
	bool here = f->server_known && !f->server_draining;

	if (!here)
		return f->elsewhere == ELSEWHERE_NONE ? ROUTE_REFUSE : ROUTE_LINK;
	return !f->server_up && f->elsewhere == ELSEWHERE_UP ? ROUTE_LINK : ROUTE_N; /* else: this host's ways */
}

/* Whatever else holds: no permission, no lane; and never the direct path for what only the relay can hold. */
static void test_every_combination(void **unused)
{
	(void)unused;
	for (unsigned bits = 0; bits < 3u << 12; bits++) {
		struct intention i = { .action = bits & 1 ? INTENTION_ALLOW : INTENTION_DENY, .strict = bits & 2 };
		struct route_facts f = { bits & 4, bits & 8, bits & 16, bits & 32, bits & 64, bits & 128, bits & 2048, bits >> 12 };
		struct route_choice c;

		i.limits = (struct intention_limits){ bits >> 8 & 1, bits >> 9 & 1, bits >> 10 & 1 };
		c = route_choose(&i, &f);
		assert_non_null(c.why);
		if (!(bits & 1) || f.draining)
			assert_int_equal(c.route, ROUTE_REFUSE);
		else if (nearest(&f) != ROUTE_N)
			assert_int_equal(c.route, nearest(&f));
		else if (i.strict || (bits >> 8 & 7) || f.direct_disabled || f.mode_wanted || !f.server_up || !f.linkable)
			assert_int_equal(c.route, ROUTE_RELAY);
		else
			assert_int_equal(c.route, ROUTE_DIRECT);
		assert_int_equal(route_choose(NULL, &f).route, ROUTE_REFUSE);
	}
}

static void test_route_names(void **unused)
{
	(void)unused;
	assert_string_equal(route_name(ROUTE_REFUSE), "refuse");
	assert_string_equal(route_name(ROUTE_RELAY), "relay");
	assert_string_equal(route_name(ROUTE_DIRECT), "direct");
	assert_string_equal(route_name(ROUTE_LINK), "link");
	assert_string_equal(route_name((enum route)77), "unknown");
}

static void test_no_limits(void **unused)
{
	struct intention_limits none = { 0 };
	struct lane_quota q = { 0 };

	(void)unused;
	for (int k = 0; k < 1000; k++)
		assert_int_equal(lane_quota_admit(&q, &none, 0), 0);
	for (int k = 0; k < 1000; k++)
		lane_quota_release(&q);
	assert_int_equal(q.n_open, 0);
}

static void test_open_lanes(void **unused)
{
	struct intention_limits l = { .open_lanes = 2 };
	struct lane_quota q = { 0 };

	(void)unused;
	assert_int_equal(lane_quota_admit(&q, &l, 0), 0);
	assert_int_equal(lane_quota_admit(&q, &l, 0), 0);
	assert_int_equal(lane_quota_admit(&q, &l, 0), QUOTA_E_OPEN_LANES);
	lane_quota_release(&q);
	assert_int_equal(lane_quota_admit(&q, &l, 0), 0);
	l.open_lanes = 1; /* a lower limit ends no lane; it only lets none in */
	assert_int_equal(lane_quota_admit(&q, &l, 0), QUOTA_E_OPEN_LANES);
	lane_quota_release(&q);
	assert_int_equal(lane_quota_admit(&q, &l, 0), QUOTA_E_OPEN_LANES);
	lane_quota_release(&q);
	assert_int_equal(lane_quota_admit(&q, &l, 0), 0);
}

static void test_connection_rate(void **unused)
{
	struct intention_limits l = { .connections_per_s = 5 };
	struct lane_quota q = { 0 };
	uint64_t now = 99 * S;
	int n_admitted = 0;

	(void)unused;
	for (int k = 0; k < 5; k++)
		assert_int_equal(lane_quota_admit(&q, &l, now), 0);
	assert_int_equal(lane_quota_admit(&q, &l, now), QUOTA_E_CONNECTIONS);
	for (int ms = 1; ms <= 10000; ms++)
		if (lane_quota_admit(&q, &l, now + (uint64_t)ms * 1000000) == 0)
			n_admitted++;
	assert_int_equal(n_admitted, 50);
	assert_int_equal(q.n_open, 55);
	l.connections_per_s = 0;
	assert_int_equal(lane_quota_admit(&q, &l, now + 10 * S), 0);
	l.connections_per_s = 1;
	assert_int_equal(lane_quota_admit(&q, &l, now + 10 * S), 0);
	assert_int_equal(lane_quota_admit(&q, &l, now + 10 * S), QUOTA_E_CONNECTIONS);
}

/* A lane that is refused for one limit is not counted for the other. */
static void test_refused_is_not_counted(void **unused)
{
	struct intention_limits l = { .open_lanes = 1, .connections_per_s = 2 };
	struct lane_quota q = { 0 };

	(void)unused;
	assert_int_equal(lane_quota_admit(&q, &l, 0), 0);
	assert_int_equal(lane_quota_admit(&q, &l, 0), QUOTA_E_OPEN_LANES);
	lane_quota_release(&q);
	assert_int_equal(lane_quota_admit(&q, &l, 0), 0);
	lane_quota_release(&q);
	assert_int_equal(lane_quota_admit(&q, &l, 0), QUOTA_E_CONNECTIONS);
	assert_int_equal(q.n_open, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rules_in_order), cmocka_unit_test(test_every_combination),
		cmocka_unit_test(test_nearest_first),
		cmocka_unit_test(test_route_names),    cmocka_unit_test(test_no_limits),
		cmocka_unit_test(test_open_lanes),     cmocka_unit_test(test_connection_rate),
		cmocka_unit_test(test_refused_is_not_counted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
