/*
 * One-sided memory without a device: frames over any byte channel (a TLS session). The far process does what a device would, so it has to run.
 *
 * One struct remote for each channel; connections on it are what the two ends make of it, in either direction. There is no descriptor: the
 * channel's owner moves bytes with the calls below, and calls remote_poll() after served_input(), and by remote_due_ns().
 *
 * Threads: as remote.h. Trust: what comes in is the peer's. Copies nothing but READs' answers and what is on its way out.
 */
#ifndef RDMA_SERVED_H
#define RDMA_SERVED_H

#include "rdma/remote.h"

enum { SERVED_FRAME_MAX = 16376 /* what one frame of a session takes: docs/design/link.md */ };

struct served_options {
	uint64_t (*now_ns)(void *arg); /* NULL: CLOCK_MONOTONIC */
	void *arg;
};

/* served_open() - Return: 0 or -ENOMEM. remote_connect()'s address is ignored. */
MUST_CHECK int served_open(struct remote **ret, const struct served_options *o);

/*
 * served_input() - bytes that came, cut anywhere. Return: 0; -EPROTO: they broke the rules, *ret_why says how (a constant); -ENOMEM. After an error the
 * channel is of no use: every connection is down, and what comes and goes is ignored.
 */
MUST_CHECK int served_input(struct remote *r, const uint8_t *bytes, size_t size, const char **ret_why);

/*
 * served_output() - what is to be sent next, of whole and half frames; more may follow. @ret: borrowed until served_sent(). Return: bytes; 0: nothing.
 * served_sent() - so many of them have gone.
 */
size_t served_output(struct remote *r, const uint8_t **ret);
void served_sent(struct remote *r, size_t n);

/* served_lost() - the channel is over. */
void served_lost(struct remote *r);

#endif
