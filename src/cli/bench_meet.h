/*
 * How the two ends of `sealane bench rdma` find each other: a TCP connection, on it HELLO both ways, then the connections of a device, or a second TCP
 * connection for what is served.
 *
 * Threads: one; these calls block, at most BENCH_SETUP_MS for each thing that has to come. Trust: the other end may be anybody.
 * Errors: negative errno; -EPROTO: the other end is no `sealane bench` of this version.
 */
#ifndef CLI_BENCH_MEET_H
#define CLI_BENCH_MEET_H

#include "cli/bench_side.h"

enum { BENCH_PORT = 7449 /* where an address says none */ };

/* bench_meet_parse() - "10.0.0.1:7449", or without the port. Return: 0 or -EINVAL. */
MUST_CHECK int bench_meet_parse(const char *text, struct sockaddr_storage *ret, socklen_t *ret_size);
uint16_t bench_meet_port(const struct sockaddr_storage *a);
void bench_meet_set_port(struct sockaddr_storage *a, uint16_t port);

/* One TCP connection to @to; a listener at @a; the next one that comes there. *ret: owned. */
MUST_CHECK int bench_meet_dial(const struct sockaddr_storage *to, socklen_t size, int *ret);
MUST_CHECK int bench_meet_listen(const struct sockaddr_storage *a, socklen_t size, int *ret);
MUST_CHECK int bench_meet_take(int listener, int *ret);

/* bench_meet_device() - the device that has that address, if one does, with a listener near the port. *ret_port: that listener's; 0: none does, *ret_why says why. */
MUST_CHECK int bench_meet_device(struct bench_side *s, const struct sockaddr_storage *a, uint16_t *ret_port, const char **ret_why);

/* bench_meet_here() - an address of this host that an RDMA device has, port 0; 127.0.0.1 where none has. */
void bench_meet_here(struct sockaddr_storage *ret, socklen_t *ret_size);

/*
 * bench_meet_client(), bench_meet_server() - the rest, on s->control. @port: of the device's listener, 0: there is none. What is measured is served, and
 * s->r given up, unless both have a device.
 */
MUST_CHECK int bench_meet_client(struct bench_side *s, const struct sockaddr_storage *to, socklen_t size, uint16_t port);
MUST_CHECK int bench_meet_server(struct bench_side *s, int listener, uint16_t port);

#endif
