#include "link/flow.h"

void flow_init(struct flow *f, uint32_t send, uint32_t window)
{
	*f = (struct flow){ .send = send, .receive = window, .window = window };
}

void flow_raise(struct flow *f, uint32_t peer_window)
{
	assert(peer_window >= FRAME_WINDOW_MIN);
	f->send += peer_window - FRAME_WINDOW_MIN;
}

void flow_sent(struct flow *f, uint32_t n)
{
	assert(n <= f->send);
	f->send -= n;
}

int flow_granted(struct flow *f, uint32_t n, uint32_t peer_window)
{
	if (f->send > peer_window || n > peer_window - f->send)
		return -EPROTO;
	f->send += n;
	return 0;
}

int flow_received(struct flow *f, uint32_t n)
{
	if (n > f->receive)
		return -EPROTO;
	f->receive -= n;
	return 0;
}

bool flow_taken(struct flow *f, uint32_t n)
{
	assert(n <= f->window - f->receive - f->owed);
	f->owed += n;
	return f->owed >= f->window / 2;
}

uint32_t flow_give(struct flow *f)
{
	uint32_t n = f->owed;

	f->owed = 0;
	f->receive += n;
	return n;
}
