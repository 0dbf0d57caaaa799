#include "rdma/fake.h"
#include "rdma/test_bed.h"

static const struct fake_device g_device = { .atomics = true, .windows = true, .ordered = true, .tells_why = true };

void bed_open(struct bed *bed)
{
	struct fake_net *net = NULL;

	if (fake_net_new(&net, 1) < 0 || fake_open(&bed->a, net, "a", &g_device) < 0 || fake_open(&bed->b, net, "b", &g_device) < 0)
		abort();
	bed->b_address = "b";
	bed->nobody = "nobody";
	bed->can_kill = true;
	bed->own = net;
}

void bed_close(struct bed *bed)
{
	remote_free(bed->a);
	remote_free(bed->b);
	fake_net_free(bed->own);
}

void bed_idle(struct bed *bed)
{
	if (!fake_net_step(bed->own))
		fake_net_advance(bed->own, 10000000);
}

void bed_pass(struct bed *bed, unsigned ms)
{
	fake_net_advance(bed->own, ms * UINT64_C(1000000));
}

void bed_kill_b(struct bed *bed)
{
	fake_kill(bed->b);
}
