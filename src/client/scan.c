/*
 * Theory of operation: two instructions that a program may execute can open a key: WRPKRU (0f 01 ef) and XRSTOR (0f ae /5 with a
 * memory operand). They count at every byte offset, for a jump may go into the middle of another instruction. This reads all
 * executable memory of the process through /proc/self/mem, so that a mapping that goes away meanwhile is an error and no fault, and
 * lists what it finds. A C library has one of each kind or more (pkey_set(), lazy binding); more than that is for a person to judge.
 *
 * XRSTORS (0f c7 /3) is not looked for: it is the kernel's alone.
 */
#include "client/guard.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

enum { WINDOW = 64 << 10, OVERLAP = 2 };

struct mapping {
	uint64_t start, end, offset;
	char file[sizeof(((struct sealane_gadget *)NULL)->file)];
};

struct scan {
	struct sealane_gadget *ret;
	size_t max, n;
	uint64_t next; /* the address after what was read last */
	uint8_t bytes[OVERLAP + WINDOW];
};

static void found(struct scan *s, const struct mapping *m, uint64_t address, bool is_xrstor)
{
	uint64_t shown = address < m->start ? m->start : address; /* it begins in the mapping before */

	if (s->n < s->max) {
		struct sealane_gadget *g = &s->ret[s->n];

		*g = (struct sealane_gadget){ .address = (const void *)(uintptr_t)address, .offset = m->offset + (shown - m->start),
					      .is_xrstor = is_xrstor };
		g->is_ours = g->address == keys_wrpkru_set || g->address == keys_wrpkru_close;
		memcpy(g->file, m->file, sizeof(g->file));
	}
	s->n++;
}

/* @first: the address of bytes[0]. */
static void look(struct scan *s, const struct mapping *m, size_t n, uint64_t first)
{
	for (size_t i = 0; i + 3 <= n; i++) {
		const uint8_t *b = &s->bytes[i];

		if (b[0] != 0x0f)
			continue;
		if (b[1] == 0x01 && b[2] == 0xef)
			found(s, m, first + i, false);
		else if (b[1] == 0xae && (b[2] >> 3 & 7) == 5 && b[2] >> 6 != 3)
			found(s, m, first + i, true);
	}
}

static int scan_mapping(struct scan *s, int mem, const struct mapping *m)
{
	size_t kept = m->start == s->next ? OVERLAP : 0;
	uint64_t at = m->start;

	while (at < m->end) {
		uint64_t left = m->end - at;
		ssize_t n = pread(mem, s->bytes + kept, left < WINDOW ? left : WINDOW, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		look(s, m, kept + (size_t)n, at - kept);
		at += (uint64_t)n;
		n += (ssize_t)kept;
		kept = n < OVERLAP ? (size_t)n : OVERLAP;
		memmove(s->bytes, s->bytes + n - kept, kept);
	}
	s->next = m->end;
	return 0;
}

/* Return: it is executable, and ordinary memory of the process. */
static bool read_mapping(const char *line, struct mapping *ret)
{
	char rights[5];
	int n = 0;

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %*s %*s %n", &ret->start, &ret->end, rights, &ret->offset, &n) < 4 || n == 0)
		return false;
	snprintf(ret->file, sizeof(ret->file), "%.*s", (int)strcspn(line + n, "\n"), line + n);
	/* Above half of the addresses there is the kernel's [vsyscall] only, which cannot be read. */
	return rights[2] == 'x' && ret->end <= UINT64_C(1) << 63;
}

ssize_t sealane_guard_scan(struct sealane_gadget *ret, size_t n)
{
	AUTO_FREE(struct scan) s = calloc(1, sizeof(*s));
	AUTO_FD mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	FILE *maps = fopen("/proc/self/maps", "re");
	AUTO_FREE(char) line = NULL;
	struct mapping m;
	size_t size = 0;
	int r = 0;

	if (!s || mem < 0 || !maps)
		r = lane_fail(-errno, "the process's memory cannot be read (/proc/self/maps, /proc/self/mem): %s", sealane_strerror(-errno));
	else
		*s = (struct scan){ .ret = ret, .max = n };
	/* On other machines the bytes mean something else. */
	while (KEYS_HAVE_PKU && r == 0 && getline(&line, &size, maps) > 0)
		if (read_mapping(line, &m)) {
			r = scan_mapping(s, mem, &m);
			if (r < 0)
				lane_fail(r, "executable memory at 0x%" PRIx64 " (%s) cannot be read: %s", m.start, m.file, sealane_strerror(r));
		}
	if (maps)
		fclose(maps);
	return r < 0 ? r : (ssize_t)s->n;
}
