/*
 * A history of changes and questions, four bytes a step, played to the policy and to a list that is searched from end to
 * end; they must never disagree.
 *
 *   byte 0  bits 0-1: add, add, remove, decide; bits 2-3: expiry (0: never); bit 4: action; bit 5: origin; bit 6: strict
 *   byte 1  source pattern or name; byte 2: destination's; byte 3: the time of a question
 */
#include "core/policy.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_MODEL = 512, N_LABELS = 4 };

static const char *const g_labels[N_LABELS] = { "a", "b", "ab", "a-b" };

struct model {
	struct intention list[N_MODEL];
	size_t n;
};

static struct service_name name_of(uint8_t b)
{
	struct service_name s;

	memset(&s, 0, sizeof(s));
	strcpy(s.ns, g_labels[b % N_LABELS]);
	strcpy(s.name, g_labels[b / N_LABELS % N_LABELS]);
	return s;
}

/* The two high bits choose the rank. */
static struct service_pattern pattern_of(uint8_t b)
{
	struct service_pattern p;

	memset(&p, 0, sizeof(p));
	p.rank = b >> 6 == 0 ? PATTERN_ANY : b >> 6 == 1 ? PATTERN_NAMESPACE : PATTERN_EXACT;
	if (p.rank == PATTERN_EXACT)
		p.service = name_of(b);
	else if (p.rank == PATTERN_NAMESPACE)
		strcpy(p.service.ns, g_labels[b % N_LABELS]);
	return p;
}

static struct intention intention_of(const uint8_t *step)
{
	struct intention i;

	memset(&i, 0, sizeof(i));
	i.source = pattern_of(step[1]);
	i.destination = pattern_of(step[2]);
	i.expires_unix_s = (step[0] >> 2 & 3) * 50;
	i.action = step[0] & 16 ? INTENTION_ALLOW : INTENTION_DENY;
	i.origin = step[0] & 32 ? INTENTION_FROM_RUNTIME : step[0] & 128 ? INTENTION_FROM_CLUSTER : INTENTION_FROM_FILE;
	i.strict = step[0] & 64;
	return i;
}

static size_t model_find(const struct model *m, const struct intention *i)
{
	size_t k = 0;

	while (k < m->n && (memcmp(&m->list[k].source, &i->source, sizeof(i->source)) != 0 ||
			    memcmp(&m->list[k].destination, &i->destination, sizeof(i->destination)) != 0 ||
			    m->list[k].origin != i->origin))
		k++;
	return k;
}

static bool matches(const struct service_pattern *p, const struct service_name *s)
{
	return p->rank == PATTERN_ANY || (strcmp(p->service.ns, s->ns) == 0 &&
					  (p->rank == PATTERN_NAMESPACE || strcmp(p->service.name, s->name) == 0));
}

static const struct intention *model_decide(const struct model *m, const struct service_name *s,
					    const struct service_name *d, int64_t now)
{
	const struct intention *best = NULL;
	int best_weight = -1;

	for (size_t k = 0; k < m->n; k++) {
		const struct intention *i = &m->list[k];
		int weight = (int)i->destination.rank * 100 + (int)i->source.rank * 10 + (int)i->origin;

		if (!matches(&i->source, s) || !matches(&i->destination, d) || weight < best_weight ||
		    (i->expires_unix_s && i->expires_unix_s <= now))
			continue;
		best = i;
		best_weight = weight;
	}
	return best;
}

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "%s\n", what);
	abort();
}

static void add(struct policy *p, struct model *m, const struct intention *i)
{
	size_t at = model_find(m, i);
	const struct intention *other = NULL;
	int r;

	if (at == m->n && m->n == N_MODEL)
		return;
	r = policy_add(p, i, &other);
	if (at < m->n) {
		must(r == POLICY_E_TIE && memcmp(other, &m->list[at], sizeof(*other)) == 0, "a tie was not told");
		return;
	}
	must(r == 0, "an intention was not added");
	m->list[m->n++] = *i;
}

static void take_away(struct policy *p, struct model *m, const struct intention *i)
{
	size_t at = model_find(m, i);
	const struct intention *found = policy_find(p, &i->source, &i->destination, i->origin);

	must((found != NULL) == (at < m->n), "policy_find() disagrees");
	must(policy_remove(p, &i->source, &i->destination, i->origin) == (at < m->n ? 0 : -ENOENT), "policy_remove() disagrees");
	if (at < m->n)
		m->list[at] = m->list[--m->n];
}

static void decide(const struct policy *p, const struct model *m, const uint8_t *step)
{
	struct service_name s = name_of(step[1]), d = name_of(step[2]);
	const struct intention *got = policy_decide(p, &s, &d, step[3]), *expected = model_decide(m, &s, &d, step[3]);
	int64_t next = 0;

	must((got == NULL) == (expected == NULL), "one of the two denies by default");
	must(!got || memcmp(got, expected, sizeof(*got)) == 0, "another intention decides");
	for (size_t k = 0; k < m->n; k++) {
		int64_t at = m->list[k].expires_unix_s;

		if (at > step[3] && (next == 0 || at < next))
			next = at;
	}
	must(policy_next_expiry(p, step[3]) == next, "policy_next_expiry() disagrees");
}

static int count(void *arg, const struct intention *i)
{
	(void)i;
	++*(size_t *)arg;
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct model m;
	struct policy *p;
	size_t n = 0;

	if (policy_new(&p) < 0)
		return 0;
	m.n = 0;
	for (; size >= 4; data += 4, size -= 4) {
		struct intention i = intention_of(data);

		if ((data[0] & 3) == 3)
			decide(p, &m, data);
		else if ((data[0] & 3) == 2)
			take_away(p, &m, &i);
		else
			add(p, &m, &i);
	}
	must(policy_count(p) == m.n, "policy_count() disagrees");
	must(policy_each(p, count, &n) == 0 && n == m.n, "policy_each() disagrees");
	policy_free(p);
	return 0;
}
