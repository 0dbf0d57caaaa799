/*
 * Theory of operation: the two timers are not real ones; whoever asks brings the time, and the ticks that would have come
 * since are caught up by arithmetic, so a bucket that nobody uses costs nothing. Both timers stay on the grid that
 * bucket_init() set, and 100 fine ticks are one coarse tick; so catching up late gives to the token what ticking on time
 * would have given (test_bucket.c compares the two).
 *
 * A fine tick adds rate / 100; the fraction that is left goes into `remainder`. A coarse tick takes away all above
 * `initial` and adds nothing: DockNet sets the counter to the initial number, which would give a busy sender that number
 * every second on top of its rate. In between, at most one coarse period's worth gathers. So over any time t a sender gets
 * at most rate * t + the larger of one second's worth and `initial`, and one that never stops asking gets the rate exactly.
 */
#include "core/bucket.h"

#define NS_PER_S UINT64_C(1000000000)

static uint64_t ceiling(const struct bucket *b)
{
	return b->initial > b->rate_per_s ? b->initial : b->rate_per_s;
}

static uint64_t initial_of(uint64_t rate_per_s, uint64_t initial)
{
	uint64_t fine_tick = rate_per_s / (NS_PER_S / BUCKET_FINE_NS) + 1;

	if (initial == 0)
		initial = rate_per_s / 10;
	return initial > fine_tick ? initial : fine_tick;
}

/* Let @n fine ticks pass. Products of a rate and a time can need 128 bits. */
static void fine_ticks(struct bucket *b, uint64_t n)
{
	unsigned __int128 fractions = (unsigned __int128)b->rate_per_s * BUCKET_FINE_NS * n + b->remainder;
	unsigned __int128 tokens = fractions / NS_PER_S + b->tokens;

	b->remainder = (uint64_t)(fractions % NS_PER_S);
	b->tokens = tokens > ceiling(b) ? ceiling(b) : (uint64_t)tokens;
	b->fine_at_ns += n * BUCKET_FINE_NS;
}

static void coarse_tick(struct bucket *b, uint64_t at_ns)
{
	b->coarse_at_ns = at_ns;
	if (b->tokens > b->initial)
		b->tokens = b->initial;
}

static void catch_up(struct bucket *b, uint64_t now_ns)
{
	uint64_t coarse_at_ns;

	if (now_ns < b->fine_at_ns + BUCKET_FINE_NS)
		return;
	/*
	 * Of several coarse ticks only the last one matters: all that came before it could only have taken away what it
	 * takes away itself.
	 */
	coarse_at_ns = now_ns - (now_ns - b->coarse_at_ns) % BUCKET_COARSE_NS;
	if (coarse_at_ns > b->coarse_at_ns) {
		fine_ticks(b, (coarse_at_ns - b->fine_at_ns) / BUCKET_FINE_NS);
		coarse_tick(b, coarse_at_ns);
	}
	fine_ticks(b, (now_ns - b->fine_at_ns) / BUCKET_FINE_NS);
}

void bucket_init(struct bucket *b, uint64_t rate_per_s, uint64_t initial, uint64_t now_ns)
{
	initial = initial_of(rate_per_s, initial);
	*b = (struct bucket){
		.rate_per_s = rate_per_s,
		.initial = initial,
		.tokens = initial,
		.fine_at_ns = now_ns,
		.coarse_at_ns = now_ns,
	};
}

void bucket_set_rate(struct bucket *b, uint64_t rate_per_s, uint64_t initial, uint64_t now_ns)
{
	if (b->rate_per_s == 0) {
		bucket_init(b, rate_per_s, initial, now_ns);
		return;
	}
	catch_up(b, now_ns);
	b->rate_per_s = rate_per_s;
	b->initial = initial_of(rate_per_s, initial);
	if (b->tokens > b->initial)
		b->tokens = b->initial;
}

uint64_t bucket_available(struct bucket *b, uint64_t now_ns)
{
	if (b->rate_per_s == 0)
		return UINT64_MAX;
	catch_up(b, now_ns);
	return b->tokens;
}

void bucket_take(struct bucket *b, uint64_t n)
{
	if (b->rate_per_s == 0)
		return;
	assert(n <= b->tokens);
	b->tokens -= n;
}

uint64_t bucket_wait_ns(const struct bucket *b, uint64_t now_ns)
{
	unsigned __int128 per_tick = (unsigned __int128)b->rate_per_s * BUCKET_FINE_NS;
	uint64_t n_ticks, at_ns;

	if (b->rate_per_s == 0 || b->tokens > 0)
		return 0;
	n_ticks = (uint64_t)((NS_PER_S - b->remainder + per_tick - 1) / per_tick);
	at_ns = b->fine_at_ns + n_ticks * BUCKET_FINE_NS;
	return at_ns > now_ns ? at_ns - now_ns : 0;
}
