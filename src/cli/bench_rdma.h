/* `sealane bench rdma`: what one-sided memory and the ring over it do, over a device or served, on one host or between two. */
#ifndef CLI_BENCH_RDMA_H
#define CLI_BENCH_RDMA_H

#include "cli/cli.h"

struct bench_rdma_options {
	const char *listen, *connect; /* at most one of them; none: both ends are on this host */
	uint64_t spin_ns;	      /* how long to look before sleeping; UINT64_MAX: never sleep */
	double seconds;		      /* for all of it */
	int cpu[2];		      /* of the two ends on one host; -1: there is one CPU */
};

/* bench_rdma() - measures, prints. Return: enum cli_exit. */
int bench_rdma(struct cli *c, const struct bench_rdma_options *o);

#endif
