/* The linker without its process: what linker_main() puts together, and the tests take apart. */
#ifndef DAEMON_LINKER_H
#define DAEMON_LINKER_H

#include "base/util.h"

struct linker;

/* linker_new() - all memory, and whatever TLS has to fetch or read: before linker_isolate(). @channel_fd: owned. Return: 0 or negative errno. */
MUST_CHECK int linker_new(struct linker **ret, int channel_fd);

/* linker_set_kept_max() - bytes instead of LIMIT_LINK_KEPT_MIB, for tests: so that it can be reached in them. */
void linker_set_kept_max(struct linker *k, uint64_t size);

/* linker_set_rings_max() - bytes instead of LIMIT_LINK_RINGS_MIB, for tests. */
void linker_set_rings_max(struct linker *k, uint64_t size);

/* linker_set_sessions_max() - instead of LIMIT_LINK_SESSIONS_IN, for tests. */
void linker_set_sessions_max(struct linker *k, unsigned n);

/* linker_set_joiners_max() - instead of LIMIT_LINK_JOINERS, for tests. */
void linker_set_joiners_max(struct linker *k, unsigned n);

/* linker_set_waiting_max() - instead of LIMIT_LINK_CHUNKS_OF_ONE and (bytes) LIMIT_LINK_ANSWERS_OF_ONE_MIB, for tests. */
void linker_set_waiting_max(struct linker *k, unsigned n_chunks, uint64_t answers_size);

/* linker_set_handshake_ms() - how long a handshake, and then HELLO, may take, for tests: 5 s are short on a machine that is busy with others. */
void linker_set_handshake_ms(struct linker *k, unsigned ms);

struct remote;

/*
 * linker_set_remote() - once, before linker_run(): a device that was opened before linker_isolate(), and the address where it listens, as peers are
 * told it ("10.0.0.1:7444"; copied). @r belongs to the linker from now on, whatever is returned. Without this call there is none.
 * Return: 0; -EINVAL: @address; other negative errno.
 */
MUST_CHECK int linker_set_remote(struct linker *k, struct remote *r, const char *address);

/*
 * linker_set_rdma_mode() - enum rdma_mode: may new sessions use the device, and need their records be sealed? RDMA_PLAIN counts only where the other host says
 * so too. RDMA_AUTO without this call. Sessions that were begun otherwise go on as they are, with GOAWAY: they end with their last lane.
 */
void linker_set_rdma_mode(struct linker *k, uint32_t mode);

/* linker_isolate() - no path, no new socket, no connection, no program from here on. */
MUST_CHECK int linker_isolate(void);

/* linker_run() - serve the broker until it goes away; frees @k. Return: 0 when it closed; negative errno. */
MUST_CHECK int linker_run(struct linker *k);

#endif
