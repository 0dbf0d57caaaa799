/*
 * Two hosts on one RDMA device, each with a port of its own: $SEALANE_RDMA_ADDRESS is the device's address (10.9.0.1), $SEALANE_RDMA_PORT
 * the first port. The two share the device, and
 * nothing else: protection domains, queue pairs and keys are each one's own. $SEALANE_RDMA_WINDOWS: verbs_options.windows_anyway.
 */
#include "rdma/test_bed.h"
#include "rdma/verbs.h"

#include <poll.h>

static char g_a[64], g_b[64], g_nobody[64];

static struct remote *open_at(char *address, size_t size, unsigned port)
{
	const char *ip = getenv("SEALANE_RDMA_ADDRESS"), *base = getenv("SEALANE_RDMA_PORT"), *why = "";
	const struct verbs_options o = { address, getenv("SEALANE_RDMA_WINDOWS") != NULL };
	struct remote *r = NULL;
	int e;

	snprintf(address, size, "%s:%u", ip ? ip : "127.0.0.1", (base ? (unsigned)atoi(base) : 7444) + port);
	e = remote_verbs_open(&r, &o, &why);
	if (e != 0) {
		fprintf(stderr, "%s: %s\n", address, e > 0 ? why : strerror(-e));
		exit(e == VERBS_E_NOT_HERE ? 77 : 1);
	}
	return r;
}

void bed_open(struct bed *bed)
{
	bed->a = open_at(g_a, sizeof(g_a), 0);
	bed->b = open_at(g_b, sizeof(g_b), 1);
	snprintf(g_nobody, sizeof(g_nobody), "%.*s:7440", (int)(strrchr(g_a, ':') - g_a), g_a);
	bed->b_address = g_b;
	bed->nobody = g_nobody;
}

void bed_close(struct bed *bed)
{
	remote_free(bed->a);
	remote_free(bed->b);
}

/* Sleeps as a daemon would: on the descriptors, armed. So what does not wake it fails the test by its time. */
void bed_idle(struct bed *bed)
{
	struct pollfd p[2] = { { .fd = remote_fd(bed->a), .events = POLLIN }, { .fd = remote_fd(bed->b), .events = POLLIN } };
	int a = remote_arm(bed->a), b = remote_arm(bed->b);

	if (a < 0 || b < 0)
		abort();
	if (a == 0 && b == 0)
		(void)poll(p, 2, 1000);
}

void bed_pass(struct bed *bed, unsigned ms)
{
	(void)poll(NULL, 0, (int)ms);
}

void bed_kill_b(struct bed *bed)
{
	abort(); /* it is in this process: bed->can_kill is false */
}
