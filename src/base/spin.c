/*
 * Theory of operation: a wake-up on another core of a virtual machine costs 15 to 20 us, a look at the epoll set under one. So after a turn that
 * carried something a loop may look for SPIN_NS before it sleeps. Whether it does is learnt: it goes on as long as at least half of the
 * tries found something, and while they do not it tries so rarely that it costs nothing to speak of. With several events
 * a turn there is work anyway, and spinning would take a core from those who do it.
 *
 * Measured with redis-benchmark -t get -P 1 through one gate on two cores (medians of 6, all processes real-time so that other work on the
 * machine did not count; thousand requests/s: never spinning -> as here, beside it without a gate): 1 client 10 -> 18, 20; 2
 * clients 19 -> 52, 33; 4 clients 50 -> 73, 87; 10 clients 90 -> 89, 119; 50 clients 126 -> 123, 130. Without SPIN_WIDTH_MAX 50
 * clients lost a fifth. On cores that have other work the two do not differ.
 *
 * What comes from another host comes while this CPU has nothing else to do, so there it also pays with one CPU, if others are let run between
 * two looks. Measured with 64 bytes there and back through two linkers, each with its application on a CPU of its own (linker-speed rtt,
 * medians, never spinning -> as here): 40 us -> 25 to 31 us, at the same CPU time.
 */
#include "base/spin.h"

#include <sched.h>

enum {
	/* How long to look for the next event: two wake-ups. */
	SPIN_NS = 50 * 1000,
	/* Fixed-point one of the averages. */
	SPIN_ONE = 1024,
	/* With more events than that in a turn, throughput is what counts. */
	SPIN_WIDTH_MAX = SPIN_ONE * 3 / 2,
	SPIN_TRY_EVERY = 64,
};

static int n_cpus(void)
{
	cpu_set_t set;

	/* More CPUs than the set has room for are an error, and more than one. */
	return sched_getaffinity(0, sizeof(set), &set) < 0 ? 2 : CPU_COUNT(&set);
}

void spin_init(struct spin *s, bool remote)
{
	bool alone = n_cpus() == 1;

	*s = (struct spin){ .allowed = !alone || remote, .yields = alone };
}

/* Moving averages over about the last 16. */
static uint32_t average(uint32_t old, uint32_t sample)
{
	return old - old / 16 + sample / 16;
}

/* Is another event so likely, and so soon, that looking for it is cheaper than to sleep and be woken? */
static bool spin_is_due(struct spin *s)
{
	bool carried = s->carried > 0;

	if (carried)
		s->width = average(s->width, s->carried * SPIN_ONE);
	s->carried = 0;
	if (!s->allowed || !carried || s->width > SPIN_WIDTH_MAX)
		return false;
	return s->pays >= SPIN_ONE / 2 || ++s->skipped % SPIN_TRY_EVERY == 0;
}

static bool look(const struct spin *s, bool sleeps)
{
	return s->look && s->look(s->look_arg, sleeps);
}

int spin_wait(struct spin *s, int epoll_fd, struct epoll_event *events, int n_events, int timeout_ms)
{
	bool due = spin_is_due(s), found = false;
	uint64_t start;
	int n = 0;

	if (due && timeout_ms != 0) {
		start = clock_ns();
		do {
			n = epoll_wait(epoll_fd, events, n_events, 0);
			found = n != 0 || look(s, false);
			if (!found && s->yields)
				sched_yield();
		} while (!found && clock_ns() - start < SPIN_NS);
		s->pays = average(s->pays, n > 0 || (n == 0 && found) ? SPIN_ONE : 0);
	}
	if (found)
		return n;
	return epoll_wait(epoll_fd, events, n_events, timeout_ms != 0 && look(s, true) ? 0 : timeout_ms);
}
