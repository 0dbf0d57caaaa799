/*
 * What protection keys cost: one message of 64 bytes sent and received by one thread (no other core is waited for, so all that is
 * left is the library's own work), with a gate in each call and with one gate around all of them (sealane_guard_open()), by turns
 * in one run. SEALANE_KEYS=off in a second run is the third figure. Prints the median over batches and says whether keys are on:
 * without, the two differ by what the branches cost.
 */
#include "base/util.h"
#include "sealane.h"

#include <stdio.h>

enum { SIZE = 64, BATCH = 10000, N_BATCHES = 201 };

static double g_ns[2][N_BATCHES];

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static int run_batch(struct sealane_lane *ends[2], double *ret_ns)
{
	char message[SIZE] = "x", got[SIZE];
	uint64_t began = clock_ns();

	for (int i = 0; i < BATCH; i++)
		if (sealane_send(ends[0], message, SIZE, SEALANE_NOWAIT) != 0 || sealane_recv(ends[1], got, SIZE, SEALANE_NOWAIT) != SIZE)
			return -1;
	*ret_ns = (double)(clock_ns() - began) / BATCH;
	return 0;
}

static int run_all(struct sealane_lane *ends[2])
{
	for (int i = 0; i < 2 * N_BATCHES; i++) {
		bool open = i % 2;

		if (open && sealane_guard_open(ends[0]) < 0)
			return -1;
		if (run_batch(ends, &g_ns[open][i / 2]) < 0)
			return -1;
		if (open)
			sealane_guard_close(ends[0]);
	}
	return 0;
}

int main(void)
{
	struct sealane_options o = SEALANE_OPTIONS_INIT;
	struct sealane_lane *ends[2];
	const char *text;
	double each, one;

	o.kind = SEALANE_MESSAGES;
	o.wait = SEALANE_WAIT_SPIN;
	if (sealane_pair(ends, NULL, &o) < 0 || run_all(ends) < 0) {
		fprintf(stderr, "bench keys: %s\n", sealane_last_error());
		return 1;
	}
	for (int i = 0; i < 2; i++)
		qsort(g_ns[i], N_BATCHES, sizeof(g_ns[i][0]), compare);
	each = g_ns[0][N_BATCHES / 2];
	one = g_ns[1][N_BATCHES / 2];
	sealane_guarded(&text);
	printf("keys: %s\n", text);
	printf("send + recv of %d bytes in one thread: a gate in each call %.1f ns, one around all %.1f ns, ratio %.2f\n", SIZE, each, one,
	       each / one);
	sealane_close(ends[0]);
	sealane_close(ends[1]);
	return 0;
}
