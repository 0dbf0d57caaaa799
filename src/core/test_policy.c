/*
 * The policy against a reference that is as naive as the words in core/policy.h: a list, searched from end to end. The
 * names come from a small alphabet, so that every way for two intentions to overlap comes up.
 */
#include "core/policy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static struct intention an_intention(const char *source, const char *destination, enum intention_action action)
{
	struct intention i = { .action = action };

	assert_int_equal(service_pattern_parse(&i.source, source, "default"), 0);
	assert_int_equal(service_pattern_parse(&i.destination, destination, "default"), 0);
	snprintf(i.where, sizeof(i.where), "%s > %s", source, destination);
	return i;
}

static void must_add(struct policy *p, const struct intention *i)
{
	const struct intention *other;

	assert_int_equal(policy_add(p, i, &other), 0);
}

static const struct intention *decide(const struct policy *p, const char *source, const char *destination, int64_t now)
{
	struct service_name s, d;

	assert_int_equal(service_name_parse(&s, source, "default"), 0);
	assert_int_equal(service_name_parse(&d, destination, "default"), 0);
	return policy_decide(p, &s, &d, now);
}

static void test_default_deny(void **unused)
{
	struct policy *p;

	(void)unused;
	assert_int_equal(policy_new(&p), 0);
	assert_null(decide(p, "web", "redis", 0));
	assert_int_equal(policy_count(p), 0);
	assert_int_equal(policy_next_expiry(p, 0), 0);
	assert_int_equal(policy_each(p, NULL, NULL), 0);
	assert_null(policy_free(p));
	assert_null(policy_free(NULL));
}

/* All nine patterns of one pair, taken away one by one: each time the next in order decides. */
static void test_precedence(void **unused)
{
	static const char *const order[][2] = {
		{ "a/web", "b/redis" }, { "a/*", "b/redis" }, { "*", "b/redis" }, { "a/web", "b/*" }, { "a/*", "b/*" },
		{ "*", "b/*" },		{ "a/web", "*" },     { "a/*", "*" },	  { "*", "*" },
	};
	struct policy *p;

	(void)unused;
	assert_int_equal(policy_new(&p), 0);
	for (size_t k = 0; k < ARRAY_SIZE(order); k++) {
		struct intention i = an_intention(order[k][0], order[k][1], k % 2 ? INTENTION_ALLOW : INTENTION_DENY);

		must_add(p, &i);
	}
	for (size_t k = 0; k < ARRAY_SIZE(order); k++) {
		const struct intention *i = decide(p, "a/web", "b/redis", 0);
		struct intention expected = an_intention(order[k][0], order[k][1], k % 2 ? INTENTION_ALLOW : INTENTION_DENY);

		assert_non_null(i);
		assert_string_equal(i->where, expected.where);
		assert_int_equal(policy_remove(p, &expected.source, &expected.destination, INTENTION_FROM_FILE), 0);
		assert_int_equal(policy_remove(p, &expected.source, &expected.destination, INTENTION_FROM_FILE), -ENOENT);
	}
	assert_null(decide(p, "a/web", "b/redis", 0));
	assert_int_equal(policy_count(p), 0);
	policy_free(p);
}

static void test_direction_and_namespace(void **unused)
{
	struct intention i = an_intention("shop/web", "data/redis", INTENTION_ALLOW);
	struct policy *p;

	(void)unused;
	assert_int_equal(policy_new(&p), 0);
	must_add(p, &i);
	assert_non_null(decide(p, "shop/web", "data/redis", 0));
	assert_null(decide(p, "data/redis", "shop/web", 0));
	assert_null(decide(p, "data/web", "data/redis", 0));
	assert_null(decide(p, "shop/web", "shop/redis", 0));
	assert_null(decide(p, "shop/we", "data/redis", 0));
	policy_free(p);
}

static void test_tie(void **unused)
{
	struct intention i = an_intention("web", "redis", INTENTION_ALLOW), same = i;
	const struct intention *other = NULL;
	struct policy *p;

	(void)unused;
	assert_int_equal(policy_new(&p), 0);
	must_add(p, &i);
	same.action = INTENTION_DENY;
	/* What stands behind the NUL, and in parts that a rank does not use, makes no other pair. */
	same.source.service.name[10] = 'x';
	assert_int_equal(policy_add(p, &same, &other), POLICY_E_TIE);
	assert_non_null(other);
	assert_int_equal(other->action, INTENTION_ALLOW);
	assert_ptr_equal(other, policy_find(p, &same.source, &same.destination, INTENTION_FROM_FILE));
	assert_null(policy_find(p, &same.source, &same.destination, INTENTION_FROM_RUNTIME));
	assert_int_equal(policy_count(p), 1);
	policy_free(p);
}

static void test_runtime_wins_for_its_pair_only(void **unused)
{
	struct intention file = an_intention("web", "redis", INTENTION_DENY);
	struct intention runtime = an_intention("web", "redis", INTENTION_ALLOW);
	struct intention wide = an_intention("*", "redis", INTENTION_ALLOW);
	struct policy *p;

	(void)unused;
	runtime.origin = wide.origin = INTENTION_FROM_RUNTIME;
	assert_int_equal(policy_new(&p), 0);
	must_add(p, &file);
	must_add(p, &wide);
	assert_int_equal(decide(p, "web", "redis", 0)->action, INTENTION_DENY);
	must_add(p, &runtime);
	assert_int_equal(decide(p, "web", "redis", 0)->action, INTENTION_ALLOW);
	assert_int_equal(decide(p, "web", "redis", 0)->origin, INTENTION_FROM_RUNTIME);
	assert_int_equal(policy_remove(p, &file.source, &file.destination, INTENTION_FROM_RUNTIME), 0);
	assert_int_equal(decide(p, "web", "redis", 0)->action, INTENTION_DENY);
	policy_free(p);
}

static void test_cluster_stands_between(void **unused)
{
	struct intention file = an_intention("web", "redis", INTENTION_DENY);
	struct intention cluster = an_intention("web", "redis", INTENTION_ALLOW);
	struct intention runtime = an_intention("web", "redis", INTENTION_DENY);
	struct policy *p;

	(void)unused;
	cluster.origin = INTENTION_FROM_CLUSTER;
	runtime.origin = INTENTION_FROM_RUNTIME;
	runtime.expires_unix_s = 100;
	assert_int_equal(policy_new(&p), 0);
	must_add(p, &file);
	must_add(p, &runtime);
	must_add(p, &cluster);
	assert_int_equal(policy_count(p), 3);
	assert_int_equal(decide(p, "web", "redis", 99)->origin, INTENTION_FROM_RUNTIME);
	assert_int_equal(decide(p, "web", "redis", 100)->origin, INTENTION_FROM_CLUSTER);
	assert_int_equal(policy_remove(p, &file.source, &file.destination, INTENTION_FROM_CLUSTER), 0);
	assert_int_equal(decide(p, "web", "redis", 100)->origin, INTENTION_FROM_FILE);
	policy_free(p);
}

static void test_expiry(void **unused)
{
	struct intention file = an_intention("web", "redis", INTENTION_DENY);
	struct intention runtime = an_intention("web", "redis", INTENTION_ALLOW);
	struct policy *p;

	(void)unused;
	file.expires_unix_s = 200;
	runtime.expires_unix_s = 100;
	runtime.origin = INTENTION_FROM_RUNTIME;
	assert_int_equal(policy_new(&p), 0);
	must_add(p, &file);
	must_add(p, &runtime);
	assert_int_equal(decide(p, "web", "redis", 99)->origin, INTENTION_FROM_RUNTIME);
	assert_int_equal(decide(p, "web", "redis", 100)->origin, INTENTION_FROM_FILE);
	assert_int_equal(decide(p, "web", "redis", 199)->origin, INTENTION_FROM_FILE);
	assert_null(decide(p, "web", "redis", 200));
	assert_int_equal(policy_next_expiry(p, 0), 100);
	assert_int_equal(policy_next_expiry(p, 100), 200);
	assert_int_equal(policy_next_expiry(p, 200), 0);
	policy_free(p);
}

static void test_full(void **unused)
{
	struct policy *p;
	struct intention i;
	const struct intention *other;
	char text[32];

	(void)unused;
	assert_int_equal(policy_new(&p), 0);
	for (int k = 0; k < LIMIT_INTENTIONS; k++) {
		snprintf(text, sizeof(text), "s%d", k);
		i = an_intention(text, "redis", INTENTION_ALLOW);
		must_add(p, &i);
	}
	i = an_intention("one-more", "redis", INTENTION_ALLOW);
	assert_int_equal(policy_add(p, &i, &other), POLICY_E_FULL);
	assert_string_equal(decide(p, "s65535", "redis", 0)->where, "s65535 > redis");
	policy_free(p);
}

/* The reference. */

struct model {
	struct intention list[256];
	size_t n;
};

static bool matches(const struct service_pattern *p, const struct service_name *s)
{
	if (p->rank == PATTERN_ANY)
		return true;
	if (strcmp(p->service.ns, s->ns) != 0)
		return false;
	return p->rank == PATTERN_NAMESPACE || strcmp(p->service.name, s->name) == 0;
}

static int weight(const struct intention *i)
{
	return (int)i->destination.rank * 100 + (int)i->source.rank * 10 + (int)i->origin;
}

static const struct intention *model_decide(const struct model *m, const struct service_name *s,
					    const struct service_name *d, int64_t now)
{
	const struct intention *best = NULL;

	for (size_t k = 0; k < m->n; k++) {
		const struct intention *i = &m->list[k];

		if (!matches(&i->source, s) || !matches(&i->destination, d))
			continue;
		if (i->expires_unix_s && i->expires_unix_s <= now)
			continue;
		if (!best || weight(i) > weight(best))
			best = i;
	}
	return best;
}

static size_t model_find(const struct model *m, const struct intention *i)
{
	for (size_t k = 0; k < m->n; k++)
		if (memcmp(&m->list[k].source, &i->source, sizeof(i->source)) == 0 &&
		    memcmp(&m->list[k].destination, &i->destination, sizeof(i->destination)) == 0 &&
		    m->list[k].origin == i->origin)
			return k;
	return m->n;
}

static const char *const g_services[] = { "a/x", "a/y", "b/x", "b/y", "aa/x", "a/xx" };
static const char *const g_patterns[] = { "*", "a/*", "b/*", "aa/*", "a/x", "a/y", "b/x", "b/y", "aa/x", "a/xx" };

static const char *pick(const char *const *from, size_t n)
{
	return from[(size_t)random() % n];
}

static void compare_all(const struct policy *p, const struct model *m)
{
	for (size_t s = 0; s < ARRAY_SIZE(g_services); s++)
		for (size_t d = 0; d < ARRAY_SIZE(g_services); d++)
			for (int64_t now = 0; now < 4; now++) {
				struct service_name sn, dn;
				const struct intention *got, *expected;

				assert_int_equal(service_name_parse(&sn, g_services[s], NULL), 0);
				assert_int_equal(service_name_parse(&dn, g_services[d], NULL), 0);
				got = policy_decide(p, &sn, &dn, now);
				expected = model_decide(m, &sn, &dn, now);
				if (!expected)
					assert_null(got);
				else
					assert_memory_equal(got, expected, sizeof(*got));
			}
}

static void random_change(struct policy *p, struct model *m)
{
	struct intention i = an_intention(pick(g_patterns, ARRAY_SIZE(g_patterns)), pick(g_patterns, ARRAY_SIZE(g_patterns)),
					  random() % 2 ? INTENTION_ALLOW : INTENTION_DENY);
	const struct intention *other;
	size_t at;
	int r;

	i.origin = (enum intention_origin)(random() % 3);
	i.expires_unix_s = random() % 3 ? 0 : 1 + random() % 3;
	at = model_find(m, &i);
	if (random() % 5 < 3) {
		r = policy_add(p, &i, &other);
		assert_int_equal(r, at < m->n ? POLICY_E_TIE : 0);
		if (r == 0)
			m->list[m->n++] = i;
	} else {
		assert_int_equal(policy_remove(p, &i.source, &i.destination, i.origin), at < m->n ? 0 : -ENOENT);
		if (at < m->n)
			m->list[at] = m->list[--m->n];
	}
	assert_int_equal(policy_count(p), m->n);
}

static void test_against_reference(void **unused)
{
	static struct model m;

	(void)unused;
	srandom(7);
	for (int round = 0; round < 60; round++) {
		struct policy *p;

		m.n = 0;
		assert_int_equal(policy_new(&p), 0);
		for (int step = 0; step < 60; step++) {
			random_change(p, &m);
			if (step % 4 == 0)
				compare_all(p, &m);
		}
		policy_free(p);
	}
}

/* policy_each(): in the order in which policy_decide() asks. */

struct walk {
	struct intention last;
	size_t n, stop_at;
};

static int walk_one(void *arg, const struct intention *i)
{
	struct walk *w = arg;

	if (w->n > 0) {
		assert_true(w->last.destination.rank >= i->destination.rank);
		if (memcmp(&w->last.destination, &i->destination, sizeof(i->destination)) == 0) {
			assert_true(w->last.source.rank >= i->source.rank);
			if (memcmp(&w->last.source, &i->source, sizeof(i->source)) == 0)
				assert_true(w->last.origin > i->origin);
		}
	}
	w->last = *i;
	return ++w->n == w->stop_at ? 42 : 0;
}

static void test_each(void **unused)
{
	static struct model m;
	struct walk w = { .stop_at = 0 };
	struct policy *p;

	(void)unused;
	srandom(9);
	m.n = 0;
	assert_int_equal(policy_new(&p), 0);
	for (int k = 0; k < 200; k++)
		random_change(p, &m);
	assert_int_equal(policy_each(p, walk_one, &w), 0);
	assert_int_equal(w.n, m.n);
	w = (struct walk){ .stop_at = 3 };
	assert_int_equal(policy_each(p, walk_one, &w), 42);
	assert_int_equal(w.n, 3);
	policy_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_default_deny),
		cmocka_unit_test(test_precedence),
		cmocka_unit_test(test_direction_and_namespace),
		cmocka_unit_test(test_tie),
		cmocka_unit_test(test_runtime_wins_for_its_pair_only),
		cmocka_unit_test(test_cluster_stands_between),
		cmocka_unit_test(test_expiry),
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_against_reference),
		cmocka_unit_test(test_each),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
