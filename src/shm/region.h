/*
 * Regions: shared memory with one writer. The writer makes a memfd, takes all its memory at once, maps it, and seals it, so that
 * nobody else can write, shrink, grow or punch it; the other side, and the daemon between them, check that before they use it.
 *
 * Trust: a descriptor that a peer sent is hostile until region_check() has returned 0. After that the peer can still write what
 * it mapped before it sealed - that is the point - but the memory cannot go away under a reader (no SIGBUS), and reading it
 * charges the reader with nothing (no holes).
 */
#ifndef SHM_REGION_H
#define SHM_REGION_H

#include "base/util.h"
#include "shm/layout.h"

struct region {
	struct ring_control *base; /* owned mapping; NULL: none */
	uint64_t size;
	uint32_t cap_log2;
};

/*
 * region_create() - make, take, map and seal a region for cap_log2 (SHM_CAP_LOG2_MIN..MAX), formatted for @start (ring_format()).
 * @ret_fd: to hand over; owned by the caller, who closes it afterwards.
 * Return: 0; -ENOMEM, -ENOSPC or -EMFILE when something has run out; other negative errno.
 */
MUST_CHECK int region_create(struct region *ret, int *ret_fd, uint32_t cap_log2, uint64_t start);

/*
 * region_check() - is this what region_create() makes with @cap_log2: memory of its own (not huge pages, not a file), sealed against
 * shrinking, growing, new writers and more seals, of that size, without holes?
 * Return: 0; -EPROTO: no (@ret_why, if not NULL, gets one constant line for a person).
 */
MUST_CHECK int region_check(int fd, uint32_t cap_log2, const char **ret_why);

/* region_map_peer() - region_check() and map read-only. @fd: borrowed. Return: 0, -EPROTO, -ENOMEM. */
MUST_CHECK int region_map_peer(struct region *ret, int fd, uint32_t cap_log2);

/*
 * region_map_again() - the same for a region that has passed region_check() in a process that this one trusts: what is sealed cannot have changed
 * since. Seals and size are looked at again, what it holds is not: a large one costs no more than a small one, and pages are mapped as they are touched.
 */
MUST_CHECK int region_map_again(struct region *ret, int fd, uint32_t cap_log2);

/* region_unmap() - safe on an empty one. Pointers into it are gone after that. */
void region_unmap(struct region *r);

/* region_cap_log2() - the smallest allowed ring of at least @bytes; SHM_CAP_LOG2_MAX if it is larger than that. */
uint32_t region_cap_log2(uint64_t bytes);

#endif
