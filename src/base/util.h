/* Small things every file needs: owning locals, escapes, sizes. */
#ifndef BASE_UTIL_H
#define BASE_UTIL_H

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* Assertions check us, never a peer; they stay on in release builds (b_ndebug=false). */

static inline void fd_cleanup(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void free_cleanup(void *p)
{
	free(*(void **)p);
}

/* An owning descriptor: starts at -1, closed at the end of the scope unless taken. */
#define AUTO_FD __attribute__((cleanup(fd_cleanup))) int
/* An owning heap pointer: AUTO_FREE(char) p = NULL; freed at the end of the scope unless taken. */
#define AUTO_FREE(type) __attribute__((cleanup(free_cleanup))) type *
#define AUTO(fn) __attribute__((cleanup(fn)))

static inline int take_fd(int *fd)
{
	int f = *fd;

	*fd = -1;
	return f;
}

#define take_ptr(p)                  \
	({                           \
		__auto_type taken_ = (p); \
		(p) = NULL;          \
		taken_;              \
	})

/* str_copy() - copy into a fixed array, always terminated. Return: false if it did not fit (then "" is stored). */
static inline MUST_CHECK bool str_copy(char *dst, size_t size, const char *src)
{
	size_t n = strnlen(src, size);

	if (n >= size) {
		dst[0] = '\0';
		return false;
	}
	memcpy(dst, src, n + 1);
	return true;
}

/* str_is_terminated() - a fixed array that came over a socket really holds a C string. */
static inline bool str_is_terminated(const char *s, size_t size)
{
	return memchr(s, '\0', size) != NULL;
}

/* put_le(), get_le() - a number as @size bytes (1 to 8), little-endian: what stands on a wire, or lies in memory that another host reads. */
static inline void put_le(uint8_t *to, uint64_t v, unsigned size)
{
	for (unsigned i = 0; i < size; i++)
		to[i] = (uint8_t)(v >> (8 * i));
}

static inline uint64_t get_le(const uint8_t *from, unsigned size)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < size; i++)
		v |= (uint64_t)from[i] << (8 * i);
	return v;
}

/* clock_ns() - CLOCK_MONOTONIC in nanoseconds. */
static inline uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

#endif
