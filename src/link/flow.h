/*
 * How much of a lane may be on its way: credits. Pure: no I/O, no clock; numbers in, numbers out.
 *
 * A sender has at most @send bytes of DATA payload left; a receiver counts the same from its side and takes more for a peer that breaks
 * the rules. What the application took is given back when half a window of it has come together, so that credit costs a frame
 * for many, and a lane that is read never stops.
 *
 * Whose turn it is, is a queue's business: session.c goes round the lanes that have bytes and credit, FLOW_QUANTUM of each. As a stream can be
 * cut anywhere, each turn takes exactly its quantum or all there is, and deficit round robin needs to carry no deficit over.
 */
#ifndef LINK_FLOW_H
#define LINK_FLOW_H

#include "link/frame.h"

enum { FLOW_QUANTUM = FRAME_PAYLOAD_MAX };

struct flow {
	uint32_t send;	  /* may be sent */
	uint32_t receive; /* may still come */
	uint32_t owed;	  /* came, was taken by the application, was not given back yet */
	uint32_t window;  /* ours: send + kept at the far end never exceeds theirs, receive + owed + kept here is always this */
};

/* flow_init() - @send: the peer's window (FRAME_WINDOW_MIN while its HELLO is not there). @window: ours. */
void flow_init(struct flow *f, uint32_t send, uint32_t window);

/* flow_raise() - HELLO came after the lane had begun with FRAME_WINDOW_MIN. */
void flow_raise(struct flow *f, uint32_t peer_window);

/* flow_sent() - @n <= send. */
void flow_sent(struct flow *f, uint32_t n);

/* flow_granted() - CREDIT. @peer_window: of its HELLO. Return: 0; -EPROTO: more than it can have room for. */
MUST_CHECK int flow_granted(struct flow *f, uint32_t n, uint32_t peer_window);

/* flow_received() - DATA of @n bytes. Return: 0; -EPROTO: beyond what was granted. */
MUST_CHECK int flow_received(struct flow *f, uint32_t n);

/* flow_taken() - the application has @n bytes of what came. Return: CREDIT is due. */
bool flow_taken(struct flow *f, uint32_t n);

/* flow_give() - CREDIT goes out now. Return: how much; 0: none is owed. */
uint32_t flow_give(struct flow *f);

#endif
