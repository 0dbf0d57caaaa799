/*
 * Several hosts with RDMA devices, in one process, on a clock of their own: for tests and simulation. What a device enforces is enforced
 * here, exactly, and what can go wrong between two goes wrong when it is told to, the same way each time for the same seed.
 *
 * Nothing happens by itself: time passes in fake_net_step() and fake_net_advance(), and what is due by then happens there and in every
 * host's remote_poll(). Threads: all hosts of a net are one thread's.
 */
#ifndef RDMA_FAKE_H
#define RDMA_FAKE_H

#include "rdma/remote.h"

struct fake_net;

struct fake_faults {
	uint64_t delay_ns;     /* one way; order is kept */
	uint64_t jitter_ns;    /* up to so much more */
	uint32_t loss_permille; /* of packets, each way together; sent again after 67 ms, 6 times, then the connection is over */
	uint64_t tear_ns;      /* not 0: bytes move in pieces of 64, so far apart */
	bool backwards;	       /* the last piece first: what caps.ordered = false allows */
};

/* What the device of a host says it can do; remote_caps() says it, and the fake holds to it. */
struct fake_device {
	bool atomics, windows, ordered, tells_why;
};

/* fake_net_new() - @seed: of every random choice. Return: 0 or -ENOMEM. Free it after all of its hosts. */
MUST_CHECK int fake_net_new(struct fake_net **ret, uint64_t seed);
void fake_net_free(struct fake_net *net);
void fake_net_set_faults(struct fake_net *net, const struct fake_faults *faults);

/* fake_net_set_tamper() - somebody on the wire: may change the @n bytes of each piece under way, a READ's or a WRITE's. NULL: nobody. */
void fake_net_set_tamper(struct fake_net *net, void (*tamper)(void *arg, uint8_t *bytes, size_t n), void *arg);

uint64_t fake_net_now_ns(const struct fake_net *net);
/* fake_net_step() - on to the next thing that happens. Return: false: nothing will (but time-outs of remote.c). */
bool fake_net_step(struct fake_net *net);
void fake_net_advance(struct fake_net *net, uint64_t ns);

/* fake_open() - a host. @name: for remote_connect(); borrowed. remote_free() takes it down: its peers see that. */
MUST_CHECK int fake_open(struct remote **ret, struct fake_net *net, const char *name, const struct fake_device *device);

/* fake_kill() - the host is silent from now on, for ever. Its remote can only be freed. */
void fake_kill(struct remote *r);

#endif
