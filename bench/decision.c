/*
 * What one decision costs with 10,000 intentions over 1,000 services, beside the obvious other way, a scan of a list, in the
 * same run on the same questions. Prints the median and the 99th percentile over batches, since a single decision is
 * shorter than the clock is fine. Ends with 1 if the two ways ever disagree.
 */
#include "core/policy.h"

#include <stdio.h>

enum {
	N_SERVICES = 1000,
	N_NAMESPACES = 20,
	N_INTENTIONS = 10000,
	N_QUESTIONS = 4096,
	BATCH = 256, /* questions: some 100 us */
	N_BATCHES = 2000,
	N_SCAN_BATCHES = 8, /* a scan costs a thousand times as much */
	SCAN_BATCH = 64,
};

struct question {
	struct service_name source, destination;
};

static struct intention g_list[N_INTENTIONS];
static struct question g_questions[N_QUESTIONS];
static size_t g_n_found; /* printed, so that no answer is computed in vain */

static void service_at(struct service_name *s, unsigned long n)
{
	memset(s, 0, sizeof(*s));
	snprintf(s->ns, sizeof(s->ns), "team-%lu", n % N_NAMESPACES);
	snprintf(s->name, sizeof(s->name), "service-%lu", n);
}

static void random_pattern(struct service_pattern *p)
{
	unsigned long kind = (unsigned long)random() % 100;

	memset(p, 0, sizeof(*p));
	p->rank = kind < 1 ? PATTERN_ANY : kind < 5 ? PATTERN_NAMESPACE : PATTERN_EXACT;
	if (p->rank == PATTERN_ANY)
		return;
	service_at(&p->service, (unsigned long)random() % N_SERVICES);
	if (p->rank == PATTERN_NAMESPACE)
		memset(p->service.name, 0, sizeof(p->service.name));
}

static int fill(struct policy *p)
{
	for (size_t n = 0; n < N_INTENTIONS;) {
		struct intention *i = &g_list[n];
		const struct intention *other;
		int r;

		memset(i, 0, sizeof(*i));
		random_pattern(&i->source);
		random_pattern(&i->destination);
		i->action = random() % 2 ? INTENTION_ALLOW : INTENTION_DENY;
		r = policy_add(p, i, &other);
		if (r != 0 && r != POLICY_E_TIE)
			return r;
		n += r == 0;
	}
	return 0;
}

/* Half of the questions are pairs that an intention names, half are any two services. */
static void ask(void)
{
	for (size_t n = 0; n < N_QUESTIONS; n++) {
		const struct intention *i = &g_list[(size_t)random() % N_INTENTIONS];
		struct question *q = &g_questions[n];

		service_at(&q->source, (unsigned long)random() % N_SERVICES);
		service_at(&q->destination, (unsigned long)random() % N_SERVICES);
		if (n % 2 && i->source.rank == PATTERN_EXACT)
			q->source = i->source.service;
		if (n % 2 && i->destination.rank == PATTERN_EXACT)
			q->destination = i->destination.service;
	}
}

static bool matches(const struct service_pattern *p, const struct service_name *s)
{
	return p->rank == PATTERN_ANY || (strcmp(p->service.ns, s->ns) == 0 &&
					  (p->rank == PATTERN_NAMESPACE || strcmp(p->service.name, s->name) == 0));
}

static const struct intention *scan(const struct question *q)
{
	const struct intention *best = NULL;
	int best_weight = -1;

	for (size_t n = 0; n < N_INTENTIONS; n++) {
		const struct intention *i = &g_list[n];
		int weight = (int)i->destination.rank * 3 + (int)i->source.rank;

		if (weight > best_weight && matches(&i->destination, &q->destination) && matches(&i->source, &q->source)) {
			best = i;
			best_weight = weight;
		}
	}
	return best;
}

static bool agree(const struct intention *a, const struct intention *b)
{
	return a == b || (a && b && memcmp(a, b, sizeof(*a)) == 0);
}

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void measure(const struct policy *p, double *ret_ns, size_t n_batches, size_t batch)
{
	for (size_t k = 0; k < n_batches; k++) {
		uint64_t start = clock_ns();

		for (size_t n = 0; n < batch; n++) {
			const struct question *q = &g_questions[(k * batch + n) % N_QUESTIONS];
			const struct intention *i = p ? policy_decide(p, &q->source, &q->destination, 0) : scan(q);

			g_n_found += i != NULL;
		}
		ret_ns[k] = (double)(clock_ns() - start) / (double)batch;
	}
	qsort(ret_ns, n_batches, sizeof(*ret_ns), compare_doubles);
}

int main(void)
{
	static double hash_ns[N_BATCHES], scan_ns[N_SCAN_BATCHES];
	struct policy *p;

	srandom(1);
	if (policy_new(&p) < 0 || fill(p) != 0)
		return 1;
	ask();
	for (size_t n = 0; n < N_QUESTIONS; n += 16) {
		const struct question *q = &g_questions[n];

		if (!agree(policy_decide(p, &q->source, &q->destination, 0), scan(q))) {
			fprintf(stderr, "the policy and the scan disagree\n");
			return 1;
		}
	}
	measure(p, hash_ns, N_BATCHES, BATCH);
	measure(NULL, scan_ns, N_SCAN_BATCHES, SCAN_BATCH);
	printf("%d intentions, %d services; an intention decided %zu times\n", N_INTENTIONS, N_SERVICES, g_n_found);
	printf("policy_decide  median %8.0f ns  p99 %8.0f ns\n", hash_ns[N_BATCHES / 2], hash_ns[N_BATCHES * 99 / 100]);
	printf("linear scan    median %8.0f ns\n", scan_ns[N_SCAN_BATCHES / 2]);
	printf("ratio          %.0f\n", scan_ns[N_SCAN_BATCHES / 2] / hash_ns[N_BATCHES / 2]);
	policy_free(p);
	return 0;
}
