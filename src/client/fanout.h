/* Inside libsealane: fan-out without a daemon, for tests and benchmarks. */
#ifndef CLIENT_FANOUT_H
#define CLIENT_FANOUT_H

#include "client/guard.h"
#include "shm/fan.h"

struct fan_reader {
	struct sealane_lane *lane;
	uint32_t woken; /* the value of its data_waiter that was woken last */
};

struct sealane_publisher {
	struct region region;
	int region_fd; /* handed out again with each subscriber */
	int epoll_fd;  /* the listener's, and each subscriber's bell and leash */
	struct fan_tx tx;
	struct sealane_listener *listener; /* NULL: publisher_make() */
	struct fan_reader *readers;
	size_t n_readers, n_room;
	uint64_t poll_at_ns; /* when publishing looks for new ones again, by the coarse clock */
	uint64_t start;
	bool ended; /* FIN is in the ring */
};

struct sealane_subscriber {
	struct sealane_lane *lane;
	uint64_t missed; /* not yet told */
	uint64_t look_at_ns; /* when the leash is looked at again, by the coarse clock */
};

/*
 * publisher_make() - one that listens nowhere. publisher_join() - both ends of a subscription, in this process.
 * publisher_drop(), subscriber_drop() - give up our handles without a word, as the other process does after fork().
 */
MUST_CHECK int publisher_make(struct sealane_publisher **ret, uint32_t cap_log2, uint64_t start);
MUST_CHECK int publisher_join(struct sealane_publisher *p, struct sealane_subscriber **ret, enum sealane_wait wait);
void publisher_drop(struct sealane_publisher *p);
void subscriber_drop(struct sealane_subscriber *s);

#endif
