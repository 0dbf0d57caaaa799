/*
 * Waiting for the next event: asleep, or for a bounded time awake, where the event is likely to come sooner than a wake-up takes.
 * For a loop over one epoll set. Threads: one.
 */
#ifndef BASE_SPIN_H
#define BASE_SPIN_H

#include "base/util.h"

#include <sys/epoll.h>

struct spin {
	bool allowed;	  /* whom we wait for can run meanwhile */
	bool yields;	  /* on one CPU: let others run between two looks */
	uint32_t carried; /* events of this turn that a peer's answer may follow: counted by the loop */
	uint32_t width;	  /* average of that, in fixed point */
	uint32_t pays;	  /* average: an event came while it spun, or not */
	uint32_t skipped;
	/*
	 * NULL, or what else there is to look at. @sleeps: it must make itself heard through the epoll set from now on. Return: it has something, so
	 * nobody sleeps.
	 */
	bool (*look)(void *arg, bool sleeps);
	void *look_arg;
};

/* spin_init() - @remote: what is waited for may come from another machine, so spinning can pay even on one CPU. */
void spin_init(struct spin *s, bool remote);

/* spin_wait() - epoll_wait(), after spinning where that pays. Return, errno: as epoll_wait(); 0 also if look() has something. */
int spin_wait(struct spin *s, int epoll_fd, struct epoll_event *events, int n_events, int timeout_ms);

#endif
