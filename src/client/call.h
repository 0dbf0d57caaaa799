/*
 * Inside libsealane: calls on a lane of messages. docs/design/call.md is what travels; call.c is the caller's half and the way of
 * every record that comes, call_serve.c the half that answers. A lane has both: either side may call the other.
 *
 * Threads: one at a time for all of it, since a caller that waits for room takes what comes in meanwhile.
 * Memory: one table for each lane, when its first call function is called; untouched entries are never paged in.
 */
#ifndef CLIENT_CALL_H
#define CLIENT_CALL_H

#include "client/guard.h"

enum {
	CALL_SLOT_BITS = 10, /* low bits of an id: the caller's slot */
	CALL_SLOTS = 1 << CALL_SLOT_BITS,
	CALL_NO_SLOT = CALL_SLOTS,
	CALL_TEXT = 128,     /* of an error, with its end */
	CALL_DEPTH_MAX = 8,  /* handlers that call back and serve while they wait: on our stack */
};
static_assert(CALL_SLOTS == SEALANE_CALLS_MAX, "sealane.h");

/* For who does not wait: a message whose first piece is there or gone gets its others at once, or its sender is ill. */
#define CALL_PIECE_NS INT64_C(1000000000)
/* And for all pieces of a request together: a hostile caller has one of a byte each second. */
#define CALL_PIECES_NS UINT64_C(10000000000)

/* What every call, reply and cancel begins with. */
struct call_head {
	uint64_t id;
	uint32_t method; /* call */
	int32_t status;	 /* reply: 0, or why it failed; then the payload is text */
	uint64_t left_ns; /* call: how long the caller waits; UINT64_MAX: for ever */
	uint64_t size;	  /* payload bytes in all pieces */
};
static_assert(sizeof(struct call_head) == 32, "fixed: call.md");
static_assert(offsetof(struct call_head, method) == 8 && offsetof(struct call_head, status) == 12, "fixed: call.md");
static_assert(offsetof(struct call_head, left_ns) == 16 && offsetof(struct call_head, size) == 24, "fixed: call.md");

enum call_state {
	CALL_FREE, /* on the free list, or never used */
	CALL_SENT, /* its reply may come, its buffer may be written */
	CALL_DONE, /* what came of it stands in result; ends with finish, next or cancel */
};

/* A call of ours. */
struct call_pending {
	uint64_t id;
	void *reply; /* the application's, until it has finished the call */
	size_t reply_size;
	uint64_t deadline_ns;
	ssize_t result; /* DONE: what finish returns */
	int32_t status;
	uint8_t state;
	bool sync;	     /* sealane_call() waits for it: never on the done list */
	uint16_t prev, next; /* in the done list; next also in the free list */
};

/* A call of the peer's, in the slot that its id names: so a new one there says that the old one is not waited for any more. */
struct call_open {
	uint64_t id;
	uint64_t left_ns;     /* as the caller told; UINT64_MAX: for ever */
	uint64_t deadline_ns; /* 0: nobody has asked yet, so the clock was not looked at */
	int32_t status; /* owed */
	bool open;	/* the peer waits for our reply */
	bool cancelled;
	bool owed; /* answered with `status` and no payload, but there was no room yet */
};

/* The message that comes in pieces, between two of them. */
struct call_in {
	bool more;
	uint8_t tag;
	uint64_t id;   /* whose reply it is; 0: nobody's, it is dropped */
	uint64_t done; /* bytes so far */
	uint64_t size;
};

struct sealane_request {
	struct sealane_lane *lane;
	uint64_t id;
	uint32_t method;
	uint64_t size;	  /* as the caller told */
	uint64_t arrived; /* bytes in the pieces so far */
	uint64_t waited_ns; /* for them */
	const char *data; /* in the peer's region; what is unread of this piece */
	uint32_t left;
	bool more;
	bool held; /* its record is still at the front of the ring */
	bool lost; /* it was given up before all was read */
};

struct lane_calls {
	uint32_t n_used; /* pending[]: slots that were ever used */
	uint16_t free;
	uint16_t done_first, done_last;
	uint32_t n_pending, n_async; /* all; those of sealane_call_begin() */
	uint32_t n_owed;
	uint64_t next_deadline; /* no pending call's is earlier */
	uint64_t n_done; /* counts up for ever */
	uint64_t n_dropped;
	struct call_in in;
	bool amid_pieces; /* of a message that we send: nothing else may be sent */
	/* serving */
	const struct sealane_method *methods;
	size_t n_methods;
	void *arg;
	struct sealane_request *current;
	unsigned depth;
	struct ring_rx scan; /* how far we looked ahead for cancels */
	/* the last call that failed at the peer */
	int32_t last_status;
	char last_text[CALL_TEXT];

	struct call_pending pending[CALL_SLOTS];
	struct call_open open[CALL_SLOTS];
	char text[CALL_SLOTS][CALL_TEXT];
};

/* calls_get() - the lane's table, made if need be. Return: 0; -EPROTOTYPE: not a lane of messages; -ENOMEM. */
MUST_CHECK int calls_get(struct sealane_lane *lane, struct lane_calls **ret);

/*
 * call_send() - one message; @deadline: as lane_deadline() gives it, for the first piece and all others.
 * Return: 0; -EAGAIN, -ETIMEDOUT: nothing was sent, or the lane is ended; why the lane is over.
 */
MUST_CHECK int call_send(struct sealane_lane *lane, uint8_t tag, const struct call_head *head, const void *buf, uint64_t deadline);

/*
 * call_step() - take one record; @serve: also a call. Waits for it at most that long.
 * Return: 1: a call was handled; 0: something else; CALL_HELD: a call is next, and may not be taken; as lane_peek().
 */
enum { CALL_HELD = 2 };
MUST_CHECK int call_step(struct sealane_lane *lane, int64_t timeout_ns, bool serve);

/* call_read_head() - each word loaded once, checked. Return: 0; -SEALANE_E_PROTOCOL: the lane is over. */
MUST_CHECK int call_read_head(struct sealane_lane *lane, const struct ring_record *record, struct call_head *ret);

/* call_serve.c: a call, a cancel at the front of the ring; give the request's record back, if it is still held; pay what is owed. */
MUST_CHECK int call_serve(struct sealane_lane *lane, const struct ring_record *record);
MUST_CHECK int call_refuse(struct sealane_lane *lane, const struct ring_record *record, int status);
MUST_CHECK int call_take_cancel(struct sealane_lane *lane, const struct ring_record *record);
void call_settle(struct lane_calls *calls);
MUST_CHECK int call_pay(struct sealane_lane *lane, uint64_t deadline);

#endif
