/*
 * Theory of operation: the authority's book of what it issues. A host that has joined may ask for as many certificates as it likes, so here
 * stands what keeps that from costing others anything:
 *
 *   each certificate is known to be the host's by its serial   so that revoking the host is one entry, not one for each (core/revoked.h)
 *   LIMIT_CA_ASKS_AT_ONCE, then LIMIT_CA_ASKS_S a second   more is refused before its signature is looked at, and told once an hour as ca.limit
 *   LIMIT_CA_LISTS_AT_ONCE, then LIMIT_CA_LISTS_S a second  lists of what is revoked, which may be 4 MiB; more is refused, and told in the same way
 *   LIMIT_CA_ASKS_OF_ONE at the signer at a time            so that others find room there; they ask again
 *   LIMIT_CA_ISSUED_HOUR in an hour                            more is refused, and told once an hour as ca.limit
 *   LIMIT_CA_ISSUED_HOST rows                                  the oldest of one host leave the book; they stay good, and revoked with the host
 *   what is over leaves the book                               once a minute
 *   when the book is full                                      the older half of what the greatest host has in it goes
 *
 * The hour is counted in memory: a restart begins it anew, which the rows that one host may have make harmless. Where certificates live for
 * less than an hour, as many may be had in one life, since so often they are renewed.
 *
 * A certificate is dated back by CA_BACKDATE_S for clocks that are late; but not to before a time below which it would be revoked at once.
 *
 * Before it: broker_authority.c. After it: the signer (BS_ISSUE), the state.
 */
#include "daemon/broker_ca.h"
#include "daemon/broker_int.h"

#include "core/base64.h"
#include "core/bucket.h"

#include <stdio.h>
#include <sys/random.h>

enum {
	HOUR_S = 3600,
	TIDY_EVERY_S = 60,
	TOKENS_KEEP_S = 86400, /* those that are over are shown for another day */
};

/* A host that asks. */
struct issuer {
	uint64_t since_ns; /* of the hour that is counted */
	unsigned n;	   /* in it */
	bool told;	   /* in it: ca.limit */
	bool told_hurry;   /* in it: the same, for questions */
	bool told_lists;   /* and for the list */
	unsigned n_asks;   /* at the signer now */
	struct bucket asks, lists;
	bool grew;	   /* since the book was tidied */
	char host[LIMIT_NAME_SIZE];
	UT_hash_handle hh;
};

static struct {
	struct issuer *issuers;
	int64_t tidied_unix_s;
} g_book;

/* ------------------------------------------------------------------ how many */

static uint64_t window_ns(const struct broker *b)
{
	double life = b->config->link.svid_life_s;

	return (uint64_t)((life < HOUR_S ? life : HOUR_S) * 1e9);
}

/* Those whose hour is over, and who have nothing that is to be tidied, begin anew when they ask again. */
static void forget_issuers(const struct broker *b)
{
	struct issuer *i, *tmp;
	uint64_t now = clock_ns();

	HASH_ITER(hh, g_book.issuers, i, tmp) {
		if (i->grew || i->n_asks > 0 || now - i->since_ns < window_ns(b))
			continue;
		HASH_DEL(g_book.issuers, i);
		free(i);
	}
}

static struct issuer *issuer_of(const char *host)
{
	struct issuer *i;

	HASH_FIND_STR(g_book.issuers, host, i);
	if (i)
		return i;
	i = HASH_COUNT(g_book.issuers) < LIMIT_CA_ASKERS ? calloc(1, sizeof(*i)) : NULL;
	if (!i || !str_copy(i->host, sizeof(i->host), host)) {
		free(i);
		return NULL;
	}
	i->since_ns = clock_ns();
	bucket_init(&i->asks, LIMIT_CA_ASKS_S, LIMIT_CA_ASKS_AT_ONCE, i->since_ns);
	bucket_init(&i->lists, LIMIT_CA_LISTS_S, LIMIT_CA_LISTS_AT_ONCE, i->since_ns);
	HASH_ADD_STR(g_book.issuers, host, i);
	return i;
}

static void begin_hour(const struct broker *b, struct issuer *i)
{
	uint64_t now = clock_ns();

	if (now - i->since_ns < window_ns(b))
		return;
	i->since_ns = now;
	i->n = 0;
	i->told = i->told_hurry = i->told_lists = false;
}

static const char *no_memory(const char *host, char *why, size_t size)
{
	snprintf(why, size, "the authority has no memory to count what host %.63s asks for", host);
	return "failed";
}

const char *book_admits(struct broker *b, const char *host, char *why, size_t size)
{
	struct issuer *i = issuer_of(host);

	if (!i)
		return no_memory(host, why, size);
	begin_hour(b, i);
	if (i->n_asks >= LIMIT_CA_ASKS_OF_ONE) {
		snprintf(why, size, "%d questions of host %.63s wait already; ask again soon", LIMIT_CA_ASKS_OF_ONE, host);
		return "busy";
	}
	if (bucket_available(&i->asks, clock_ns()) == 0) {
		snprintf(why, size, "host %.63s asks too often: %d questions in a second are answered, and %d at once; ask again soon", host, LIMIT_CA_ASKS_S,
			 LIMIT_CA_ASKS_AT_ONCE);
		if (!i->told_hurry)
			log_warn("ca.limit", LOG_STR("host", host), LOG_U64("issued", i->n), LOG_STR("why", why));
		i->told_hurry = true;
		return "busy";
	}
	bucket_take(&i->asks, 1);
	i->n_asks++;
	return NULL;
}

const char *book_admits_list(const char *host, char *why, size_t size)
{
	struct issuer *i = issuer_of(host);

	if (!i)
		return no_memory(host, why, size);
	if (bucket_available(&i->lists, clock_ns()) == 0) {
		snprintf(why, size, "host %.63s was sent the list too often: %d times at once, and %d in a second from then on; ask again soon", host, LIMIT_CA_LISTS_AT_ONCE,
			 LIMIT_CA_LISTS_S);
		if (!i->told_lists)
			log_warn("ca.limit", LOG_STR("host", host), LOG_U64("issued", i->n), LOG_STR("why", why));
		i->told_lists = true;
		return "busy";
	}
	bucket_take(&i->lists, 1);
	return NULL;
}

void book_answered(const char *host)
{
	struct issuer *i;

	HASH_FIND_STR(g_book.issuers, host, i);
	if (i && i->n_asks > 0)
		i->n_asks--;
}

static const char *refuse_more(const struct broker *b, struct issuer *i, char *why, size_t size)
{
	snprintf(why, size, "host %.63s was given %d certificates within %s: no more until that is over; what asks so often there?", i->host,
		 LIMIT_CA_ISSUED_HOUR, window_ns(b) < HOUR_S * UINT64_C(1000000000) ? "a life of one (svid_life)" : "an hour");
	if (!i->told)
		log_warn("ca.limit", LOG_STR("host", i->host), LOG_U64("issued", LIMIT_CA_ISSUED_HOUR), LOG_STR("why", why));
	i->told = true;
	return "limit";
}

const char *book_refuses(struct broker *b, const char *host, char *why, size_t size)
{
	struct issuer *i = issuer_of(host);

	if (!i)
		return no_memory(host, why, size);
	begin_hour(b, i);
	if (i->n >= LIMIT_CA_ISSUED_HOUR)
		return refuse_more(b, i, why, size);
	i->n++;
	i->grew = true;
	return NULL;
}

/* ------------------------------------------------------------------ a certificate's number and time */

int book_begin(struct role_issue *i, const char *host)
{
	uint8_t random[SERIAL_RANDOM_SIZE];
	int64_t now = unix_now_s(), before = revoked_before(i->spiffe_id, host);

	static_assert(SERIAL_SIZE == sizeof(i->serial), "our serials are the signer's");
	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		return -EIO;
	serial_make(i->serial, random, host);
	i->not_before = now - CA_BACKDATE_S > before ? now - CA_BACKDATE_S : before;
	return i->not_before <= now ? 0 : -ETIME;
}

bool book_is_revoked(const struct role_issue *i)
{
	char serial[2 * SERIAL_SIZE + 1];

	return revoked_find(i->spiffe_id, hex_encode(serial, i->serial, sizeof(i->serial)), i->not_before) != NULL;
}

/* ------------------------------------------------------------------ rows */

static int trim(struct broker *b)
{
	struct issuer *i, *tmp;
	int r = 0;

	HASH_ITER(hh, g_book.issuers, i, tmp) {
		if (r == 0 && i->grew)
			r = state_trim_issued(b->state, i->host, LIMIT_CA_ISSUED_HOST);
		i->grew = false;
	}
	return r;
}

static void tidy(struct broker *b)
{
	int64_t now = unix_now_s();

	if (now - g_book.tidied_unix_s < TIDY_EVERY_S && now >= g_book.tidied_unix_s)
		return;
	g_book.tidied_unix_s = now;
	if (state_forget_issued(b->state, now) < 0 || state_forget_tokens(b->state, now - TOKENS_KEEP_S) < 0 || trim(b) < 0)
		log_error("state.failed", LOG_STR("why", "the authority's book could not be tidied"));
	forget_issuers(b);
}

/* Where many hosts have their share, who has the most makes room: nobody is to be kept from a certificate by what others were given. */
static int make_room(struct broker *b)
{
	char host[LIMIT_NAME_SIZE];
	int r = state_halve_issued(b->state, host);

	if (r == 0)
		log_warn("ca.book_full", LOG_STR("host", host), LOG_U64("rows", LIMIT_CA_ISSUED));
	return r;
}

int book_add(struct broker *b, const char *host, const struct role_issue *i)
{
	/* The moment that it was dated back from, so that the row tells its notBefore. */
	struct state_issued s = { .issued_unix_s = i->not_before + CA_BACKDATE_S, .not_after = i->not_after };
	int r;

	hex_encode(s.serial, i->serial, sizeof(i->serial));
	memcpy(s.spiffe_id, i->spiffe_id, sizeof(s.spiffe_id));
	if (!str_copy(s.host, sizeof(s.host), host))
		return -EINVAL;
	tidy(b);
	r = state_put_issued(b->state, &s);
	return r == -ENOSPC && make_room(b) == 0 ? state_put_issued(b->state, &s) : r;
}
