/*
 * Byte and connection rates: DockNet's limiter with two timers (seed "DockNet", section 3.2, "Timer-Based Rate Limiter").
 * The fine timer (10 ms) adds tokens; the coarse one (1 s) clears what has gathered above the initial number, so that
 * whoever was silent for long cannot burst with what it saved. It never adds: the rate is kept exactly by who always asks.
 *
 * Time comes in as an argument (CLOCK_MONOTONIC ns); no I/O, no clock, no locks.
 */
#ifndef CORE_BUCKET_H
#define CORE_BUCKET_H

#include "base/util.h"

#define BUCKET_FINE_NS UINT64_C(10000000)
#define BUCKET_COARSE_NS UINT64_C(1000000000)

struct bucket {
	uint64_t rate_per_s; /* tokens; 0: no limit */
	uint64_t initial;    /* tokens at the start, and the most that a coarse tick leaves; at least one fine tick's worth */
	uint64_t tokens;
	uint64_t fine_at_ns, coarse_at_ns; /* when each timer last fired */
	uint64_t remainder;  /* token fractions (1e-9) that a fine tick left over, so that slow rates add up exactly */
};

/* bucket_init() - full at @now_ns. @initial 0: one tenth of a second's worth, at least 1. */
void bucket_init(struct bucket *b, uint64_t rate_per_s, uint64_t initial, uint64_t now_ns);

/* bucket_set_rate() - a new rate from now on; tokens above the new initial are given up. */
void bucket_set_rate(struct bucket *b, uint64_t rate_per_s, uint64_t initial, uint64_t now_ns);

/* bucket_available() - fire the timers that are due, return the tokens there are (UINT64_MAX: no limit). */
uint64_t bucket_available(struct bucket *b, uint64_t now_ns);

/* bucket_take() - take @n tokens; @n must not exceed bucket_available() at the same @now_ns. */
void bucket_take(struct bucket *b, uint64_t n);

/* bucket_wait_ns() - after bucket_available() returned 0: how long until there is a token. 0: no limit or there is one. */
uint64_t bucket_wait_ns(const struct bucket *b, uint64_t now_ns);

#endif
