/*
 * For tests: two hosts, a and b, over one of the backends. test_remote.c is the same for each; a bed is what differs.
 */
#ifndef RDMA_TEST_BED_H
#define RDMA_TEST_BED_H

#include "rdma/remote.h"

#include <stdio.h>

struct bed {
	struct remote *a, *b;
	const char *b_address;	     /* for a's remote_connect() */
	const char *nobody;	     /* an address where nobody answers; NULL: there are only these two */
	bool can_kill;
	void *own;
};

void bed_open(struct bed *bed);
void bed_close(struct bed *bed);
/* bed_idle() - neither host had anything to tell: let time go on, a little or to the next event. */
void bed_idle(struct bed *bed);
/* bed_pass() - at least @ms pass, with nobody polled. */
void bed_pass(struct bed *bed, unsigned ms);
/* bed_kill_b() - b says nothing any more. */
void bed_kill_b(struct bed *bed);

#endif
