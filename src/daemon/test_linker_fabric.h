/*
 * An RDMA device for linkers in tests: one-sided memory served over a socket pair (rdma/served.h), with a descriptor to sleep on, as a device has. What goes
 * wrong does so when the test says so, in memory that it shares with the linkers' processes.
 */
#ifndef DAEMON_TEST_LINKER_FABRIC_H
#define DAEMON_TEST_LINKER_FABRIC_H

#include "rdma/remote.h"

#include <stdatomic.h>

struct fabric_faults {
	/* Each is of one host: it fails with that, from now on. */
	_Atomic bool no_connection; /* connecting, or being connected to */
	_Atomic bool no_memory;	    /* registering */
	_Atomic bool no_export;
	_Atomic bool says_no_room; /* what it takes is not told: the peer's ring stays full */
	_Atomic bool mute;	   /* nothing comes or goes */
	/* Once. */
	_Atomic bool breaks;  /* all its connections */
	_Atomic bool tampers; /* a byte of the next large record that it sends */
	/* What it did. */
	_Atomic uint64_t bytes; /* of WRITEs */
	_Atomic uint32_t n_connects;
	_Atomic uint32_t n_clear; /* operations whose bytes say "clear, clear, clear" */
};

/* fabric_open() - @fd: one end of a stream socket pair, non-blocking; taken. The other end is the other host's. One in a process. */
struct remote *fabric_open(int fd, struct fabric_faults *faults);

#endif
