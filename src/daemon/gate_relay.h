/*
 * One relayed lane: two connected stream sockets, bytes carried both ways, nothing known about where they lead. The gate
 * (gate.c) owns the epoll set and tells a relay what it heard; the relay reads, writes and says what it waits for.
 *
 * Threads: one. Blocks: never. Trust: both ends are hostile; whatever they do can end this lane only.
 */
#ifndef DAEMON_GATE_RELAY_H
#define DAEMON_GATE_RELAY_H

#include "core/bucket.h"
#include "wire/role.h"

enum { RELAY_CLIENT, RELAY_SERVER, RELAY_N_SIDES };

/*
 * States of a direction, as permissions:
 *   OPEN   may read from its source and write to its destination. Left by relay_run() when the source ends (-> DRAIN) or
 *          the destination takes no more (-> DONE).
 *   DRAIN  may only write what is kept. Left by relay_run() when all is written: the end of stream is passed on (-> DONE).
 *   DONE   may neither read nor write.
 */
enum relay_state { RELAY_OPEN, RELAY_DRAIN, RELAY_DONE };

struct relay_dir {
	enum relay_state state;
	bool ready;   /* the source may have something to read */
	bool closing; /* the source said that it ends: a short read does not mean that nothing else is there */
	bool blocked; /* the destination's buffer is full */
	uint8_t *kept; /* owned: what was read and did not fit; NULL most of the time */
	size_t kept_off, kept_size;
	size_t read_size; /* how much the next read may take */
	uint64_t bytes, reads;
};

struct relay {
	int fds[RELAY_N_SIDES]; /* owned */
	struct relay_dir dirs[RELAY_N_SIDES]; /* dirs[s]: from side s to the other one */
	bool gone[RELAY_N_SIDES]; /* nothing can be sent to this side any more */
	struct bucket bucket; /* both directions together */
	bool server_first;    /* whose turn it is to take tokens first */
	enum lane_end end;    /* once relay_run() has returned RELAY_ENDED */
	int error;	      /* negative errno behind it, or 0 */
};

enum relay_next {
	RELAY_IDLE,  /* call again after the next event */
	RELAY_MORE,  /* there is more to do, but others want their turn: call again soon */
	RELAY_PAUSE, /* out of tokens: call again after relay_wait_ns() */
	RELAY_ENDED, /* call relay_close() */
};

/* relay_init() - take ownership of both (non-blocking is set here on the calls, not on the descriptors). */
void relay_init(struct relay *r, int client_fd, int server_fd, uint64_t bytes_per_s, uint64_t burst_bytes, uint64_t now_ns);

/* relay_event() - epoll said @events about @side. */
void relay_event(struct relay *r, unsigned side, uint32_t events);

/*
 * relay_run() - carry bytes until nothing is there, the other side is full, tokens are out or the turn is over.
 * @buf: LIMIT_RELAY_BUFFER_SIZE bytes that all lanes of the process share; empty again on return.
 */
MUST_CHECK enum relay_next relay_run(struct relay *r, uint8_t *buf, uint64_t now_ns);

/* relay_wants_write() - must epoll tell when @side can be written to again? */
static inline bool relay_wants_write(const struct relay *r, unsigned side)
{
	return r->dirs[!side].blocked && r->dirs[!side].state != RELAY_DONE;
}

/* relay_wait_ns() - after RELAY_PAUSE. */
uint64_t relay_wait_ns(const struct relay *r, uint64_t now_ns);

/* relay_close() - end both connections at once, whatever is kept. Idempotent. */
void relay_close(struct relay *r);

#endif
