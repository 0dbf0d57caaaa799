#include "shm/region.h"

#include "shm/kernel.h"
#include "shm/ring.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

enum {
	SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL,
	/* below that a huge page cannot help */
	HUGE_PAGE = 2 << 20,
	/* about a millisecond of clearing pages */
	FILL_PIECE = 4 << 20,
	/* what stays in a core's nearest cache */
	ZEROS = 16 << 10,
};

/* Kernels before 6.3 do not know MFD_NOEXEC_SEAL, and say so with EINVAL. */
static int make_memfd(void)
{
	int fd = memfd_create("sealane", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

	if (fd < 0 && errno == EINVAL)
		fd = memfd_create("sealane", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	return fd < 0 ? -errno : fd;
}

/*
 * All pages now: a reader never meets a hole, and what runs out runs out here, not as SIGBUS later. They have to be written for that: what
 * fallocate() alone has taken still counts as a hole.
 *
 * Written as a file, that is a fifth cheaper than through the mapping, since a lane that ends soon never maps most of them: 148 KiB made and
 * dropped 38 us, 45 us with fallocate() and MADV_POPULATE_WRITE.
 */
static int write_memfd(int fd, uint64_t size)
{
	static const uint8_t zeros[ZEROS];

	for (uint64_t at = 0; at < size;) {
		ssize_t n = write(fd, zeros, size - at < ZEROS ? size - at : ZEROS);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			return -EIO;
		at += n > 0 ? (uint64_t)n : 0;
	}
	return 0;
}

/* A large one, of which the mapping may already have huge pages. */
static int fill_memfd(int fd, uint64_t size)
{
	/*
	 * In pieces, since kernels that let a signal interrupt this give back what the call had taken: a program with a fast timer would
	 * never get through.
	 */
	for (uint64_t at = 0; at < size;) {
		uint64_t n = size - at < FILL_PIECE ? size - at : FILL_PIECE;

		if (fallocate(fd, 0, (off_t)at, (off_t)n) == 0)
			at += n;
		else if (errno != EINTR)
			return -errno;
	}
	return 0;
}

static int populate_memfd(int fd, void *base, uint64_t size)
{
	int r;

	/* Before the pages are there: where the host allows huge ones for shared memory, touching it now takes them. */
	if (madvise(base, size, MADV_HUGEPAGE) == 0)
		(void)!madvise(base, size, MADV_POPULATE_WRITE);
	r = fill_memfd(fd, size);
	if (r == 0)
		(void)!madvise(base, size, MADV_POPULATE_WRITE); /* older kernels do not know it */
	return r;
}

int region_create(struct region *ret, int *ret_fd, uint32_t cap_log2, uint64_t start)
{
	uint64_t size = shm_region_size(cap_log2);
	AUTO_FD fd = make_memfd();
	void *base;
	int r;

	if (fd < 0)
		return fd;
	if (ftruncate(fd, (off_t)size) < 0)
		return -errno;
	base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED)
		return -errno;
	r = size < HUGE_PAGE ? write_memfd(fd, size) : populate_memfd(fd, base, size);
	if (r == 0) {
		ring_format(base, cap_log2, start);
		r = fcntl(fd, F_ADD_SEALS, SEALS) < 0 ? -errno : 0;
	}
	if (r < 0) {
		munmap(base, size);
		return r;
	}
	*ret = (struct region){ .base = base, .size = size, .cap_log2 = cap_log2 };
	*ret_fd = take_fd(&fd);
	return 0;
}

/* What else it may be: nothing that can go away under a reader. */
static const char *seals_fault(int fd)
{
	/* First, since for this no file system is asked: one of the peer's own (FUSE) could let fstat() wait for ever. */
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0)
		return "it is not a memfd of ordinary pages";
	if ((seals & SEALS) != SEALS)
		return "it is not sealed against shrinking, growing, writers and further seals";
	return NULL;
}

static const char *region_fault(int fd, uint64_t size)
{
	const char *why = seals_fault(fd);
	struct statfs fs;
	struct stat st;

	if (why)
		return why;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || fstatfs(fd, &fs) < 0 || fs.f_type != TMPFS_MAGIC)
		return "it is not a memfd of ordinary pages";
	if ((uint64_t)st.st_size != size)
		return "its size is not the one of the ring that was announced";
	/* Not st_blocks: that also counts pages beyond the end (FALLOC_FL_KEEP_SIZE), which can make up for any number of holes. */
	if (lseek(fd, 0, SEEK_HOLE) != (off_t)size)
		return "it has holes";
	if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY)
		return "its descriptor is not open for reading";
	return NULL;
}

int region_check(int fd, uint32_t cap_log2, const char **ret_why)
{
	const char *why = "its size is out of range";

	if (cap_log2 >= SHM_CAP_LOG2_MIN && cap_log2 <= SHM_CAP_LOG2_MAX)
		why = region_fault(fd, shm_region_size(cap_log2));
	if (ret_why)
		*ret_why = why;
	return why ? -EPROTO : 0;
}

static int map_peer(struct region *ret, int fd, uint32_t cap_log2, int flags)
{
	uint64_t size = shm_region_size(cap_log2);
	void *base = mmap(NULL, size, PROT_READ, MAP_SHARED | flags, fd, 0);

	if (base == MAP_FAILED)
		return -errno;
	*ret = (struct region){ .base = base, .size = size, .cap_log2 = cap_log2 };
	return 0;
}

int region_map_peer(struct region *ret, int fd, uint32_t cap_log2)
{
	int r = region_check(fd, cap_log2, NULL);

	return r < 0 ? r : map_peer(ret, fd, cap_log2, MAP_POPULATE);
}

int region_map_again(struct region *ret, int fd, uint32_t cap_log2)
{
	struct stat st;

	if (cap_log2 < SHM_CAP_LOG2_MIN || cap_log2 > SHM_CAP_LOG2_MAX || seals_fault(fd) || fstat(fd, &st) < 0 ||
	    (uint64_t)st.st_size != shm_region_size(cap_log2))
		return -EPROTO;
	return map_peer(ret, fd, cap_log2, 0);
}

void region_unmap(struct region *r)
{
	if (r->base)
		munmap(r->base, r->size);
	*r = (struct region){ .base = NULL };
}

uint32_t region_cap_log2(uint64_t bytes)
{
	uint32_t log2 = SHM_CAP_LOG2_MIN;

	while (log2 < SHM_CAP_LOG2_MAX && shm_cap(log2) < bytes)
		log2++;
	return log2;
}
