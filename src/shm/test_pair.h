/*
 * For tests: a lane's two ends in one process. Either with the mappings of real life (each end sees the other's region
 * read-only, through a mapping of its own), or on one mapping of each region: TSan sees a race only when both threads use
 * the same address.
 */
#ifndef SHM_TEST_PAIR_H
#define SHM_TEST_PAIR_H

#include "shm/region.h"
#include "shm/ring.h"
#include "shm/wake.h"

#include <stdio.h>
#include <sys/socket.h>

struct pair_end {
	struct region own, peer;
	struct ring_tx tx;
	struct ring_rx rx;
	int bell;
	bool one_mapping;
};

/* In the helpers: what fails here is no finding, so no test framework is asked for it. */
#define PAIR_MUST(what)                                                                     \
	do {                                                                                \
		if (!(what)) {                                                              \
			fprintf(stderr, "test set-up: " #what ": %s\n", strerror(errno)); \
			abort();                                                            \
		}                                                                           \
	} while (0)

static inline void pair_rings(struct pair_end e[2], uint32_t cap_log2, uint64_t start)
{
	for (int i = 0; i < 2; i++) {
		ring_tx_init(&e[i].tx, e[i].own.base, e[i].peer.base, cap_log2, start);
		ring_rx_init(&e[i].rx, e[i].own.base, e[i].peer.base, cap_log2, start);
	}
}

static inline void pair_make(struct pair_end e[2], uint32_t cap_log2, uint64_t start, bool one_mapping)
{
	int fd[2], bell[2];

	PAIR_MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, bell) == 0);
	for (int i = 0; i < 2; i++)
		PAIR_MUST(region_create(&e[i].own, &fd[i], cap_log2, start) == 0);
	for (int i = 0; i < 2; i++) {
		if (one_mapping)
			e[i].peer = e[!i].own;
		else
			PAIR_MUST(region_map_peer(&e[i].peer, fd[!i], cap_log2) == 0);
		e[i].bell = bell[i];
		e[i].one_mapping = one_mapping;
	}
	close(fd[0]);
	close(fd[1]);
	pair_rings(e, cap_log2, start);
}

/* Both directions, nothing sent yet: as if @position bytes had passed before. A multiple of 64. */
static inline void pair_move(struct pair_end e[2], uint64_t position)
{
	for (int i = 0; i < 2; i++) {
		e[i].tx.tail = e[i].tx.head = position;
		e[i].rx.head = e[i].rx.published = e[i].rx.next = position;
		atomic_store(&e[i].own.base->head, position);
	}
}

static inline void pair_drop(struct pair_end e[2])
{
	for (int i = 0; i < 2; i++) {
		if (!e[i].one_mapping)
			region_unmap(&e[i].peer);
		close(e[i].bell);
	}
	region_unmap(&e[0].own);
	region_unmap(&e[1].own);
}

/* What a record with that number carries. */
static inline uint8_t pair_byte(uint64_t number, uint32_t i)
{
	return (uint8_t)(number * 131 + (number >> 8) + i * 7 + (i >> 8));
}

static inline void pair_fill(void *place, uint32_t size, uint64_t number)
{
	for (uint32_t i = 0; i < size; i++)
		((uint8_t *)place)[i] = pair_byte(number, i);
}

static inline bool pair_same(const void *data, uint32_t size, uint64_t number)
{
	for (uint32_t i = 0; i < size; i++)
		if (((const uint8_t *)data)[i] != pair_byte(number, i))
			return false;
	return true;
}

#endif
