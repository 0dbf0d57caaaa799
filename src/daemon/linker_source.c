/*
 * Theory of operation: whom sessions come from, or go to: everybody at one address is one source, and of IPv6 everybody in one /64, since whoever has
 * an address there has them all. What sessions take before anybody has proven anything (linker_peer.c), and what their lanes
 * keep (linker_kept.c), is counted for their source, so that who takes the most is known when there is too little.
 *
 * A stranger is an inbound session whose other side has shown no certificate that passes: it is in the handshake, or it joins and has no question with
 * the broker. Whoever reaches the port can be one, so there are LIMIT_LINK_STRANGERS, half of them from one source, and when there are more
 * the oldest one of the source that has the most is dropped: a flood drops itself. What they cost in time is bounded as well, since each handshake is a
 * signature: a quarter of it while others have work, otherwise a part of each turn, so that a lane that is quiet is still heard at once. All others
 * have their turn before them. And the broker hears of so many refusals in a second, and of none that just came and went.
 *
 * Whoever joins and has a question with the broker cannot be dropped, since a token has one use. So there are joiners_max of those, of one source no more than are
 * left for all others; the others are strangers still, with their question, until one of those is answered. So a broker that is slow does not fill the table.
 *
 * Whoever has proven whose it is is no stranger any more, and may be hostile all the same. So nobody has more sessions that it began than are left for all
 * others together (proven_add()), counted by its address and, since one host may have many, by whom its certificate was issued to, which a serial of our
 * authority says. All of them leave a quarter of the table: to those that begin here, and to strangers.
 *
 * What waits for a host to read it is bounded for each (source_grants_chunk(), source_is_heard()): by whom its certificate was issued to, else by its address. Of
 * ciphertext each session has a chunk while its socket is full. When a host has chunks_max of them its other sessions wait, in the order in which they
 * came: what they would send waits with the applications, they are still read from, and no lane is harmed, only as slow as its host reads. Answers
 * to what it said (PONG, REFUSED) are another thing, since they grow by what is read from it: beyond answers_max it is not read from any more, on none of its sessions, until
 * half of it is gone. A host that reads never comes near.
 *
 * A source is there as long as a session or a lane refers to it, so there are never more than those. Who connects chooses its address to some
 * degree, so the table's hash has a key that is drawn at the start.
 *
 * What one source can cause as often as it likes is told TOLD_AT_ONCE times, then TOLD_PER_S a second, with how many were not. That is counted in a table
 * of its own, where a source's place does not go with its last session, so coming again gains nothing.
 */
#include "daemon/linker_int.h"

#include "base/address.h"
#include "base/log.h"
#include "core/revoked.h"

#include <arpa/inet.h>

enum { STRANGERS_SHARE = 4, TOLD_AT_ONCE = 10, TOLD_PER_S = 1 };
/* Two handshakes' steps, with their signatures. */
#define STRANGERS_TURN_NS (MS_NS / 2)
#define STRANGERS_CREDIT_NS ((int64_t)(5 * MS_NS))
#define DROPPED_WARN_NS UINT64_C(60000000000)

/* An IPv4 address in the form of the upper half of an IPv6 address that nobody has (0::/8 is reserved). */
#define IPV4 (UINT64_C(1) << 32)

static uint64_t name_of(const struct sockaddr_storage *a)
{
	const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)a;
	const struct sockaddr_in *four = (const struct sockaddr_in *)a;
	uint64_t name = 0;

	if (a->ss_family == AF_INET)
		return IPV4 | ntohl(four->sin_addr.s_addr);
	if (a->ss_family == AF_INET6)
		for (int i = 0; i < 8; i++)
			name = name << 8 | six->sin6_addr.s6_addr[i];
	return name;
}

static unsigned hash_of(const struct linker *k, const struct source_key *key)
{
	uint64_t h = (key->name ^ key->kind << 63 ^ k->source_secret[0]) * (k->source_secret[1] | 1);

	h = (h ^ h >> 32) * (k->source_secret[0] | 1);
	return (unsigned)(h >> 32);
}

static struct source *get(struct linker *k, enum source_kind kind, uint64_t name)
{
	struct source_key key = { .kind = kind, .name = name };
	unsigned hash = hash_of(k, &key);
	struct source *s = NULL;

	HASH_FIND_BYHASHVALUE(hh, k->sources, &key, sizeof(key), hash, s);
	if (s)
		return source_ref(s);
	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->key = key;
	s->refs = 1;
	TAILQ_INIT(&s->waits);
	HASH_ADD_BYHASHVALUE(hh, k->sources, key, sizeof(s->key), hash, s);
	return s;
}

struct source *source_get(struct linker *k, const struct sockaddr_storage *a)
{
	return get(k, SOURCE_ADDRESS, name_of(a));
}

struct source *source_of_text(struct linker *k, const char *address)
{
	struct sockaddr_storage a = {};
	socklen_t size;

	if (address_parse(address, &a, &size) < 0)
		a = (struct sockaddr_storage){};
	return source_get(k, &a);
}

struct source *source_ref(struct source *s)
{
	s->refs++;
	return s;
}

void source_unref(struct linker *k, struct source *s)
{
	if (!s || --s->refs > 0)
		return;
	HASH_DEL(k->sources, s);
	free(s);
}

struct source *source_greatest(struct linker *k)
{
	struct source *most = NULL;

	for (struct source *s = k->sources; s; s = s->hh.next)
		if (!most || s->kept_size > most->kept_size)
			most = s;
	return most;
}

/* The log. */

bool teller_may(struct linker *k, struct teller *t, uint64_t *ret_more)
{
	if (t->lines.rate_per_s == 0)
		bucket_init(&t->lines, TOLD_PER_S, TOLD_AT_ONCE, k->now_ns);
	*ret_more = 0;
	if (bucket_available(&t->lines, k->now_ns) == 0) {
		t->n_untold++;
		return false;
	}
	bucket_take(&t->lines, 1);
	*ret_more = t->n_untold;
	t->n_untold = 0;
	return true;
}

bool source_may_tell(struct linker *k, const struct source *of, uint64_t *ret_more)
{
	return teller_may(k, &k->tellers[hash_of(k, &of->key) % LINKER_TELLERS], ret_more);
}

/* Those who have proven whose they are. */

static bool fits(const struct linker *k, const struct source *of)
{
	return !of || of->n_sessions < k->proven_max - k->n_proven;
}

static void count(struct linker *k, struct session *s, int change)
{
	struct source *of[] = { s->source, s->host };

	s->counted = change > 0;
	k->n_proven += (unsigned)change;
	for (size_t i = 0; i < ARRAY_SIZE(of); i++)
		if (of[i]) {
			of[i]->n_sessions += (uint32_t)change;
			of[i]->n_questions += s->purpose == FRAME_FOR_CA ? (uint32_t)change : 0;
		}
}

const char *proven_add(struct linker *k, struct session *s)
{
	const char *part = serial_host_part(s->tls.peer.serial);
	const struct source *asks;

	assert(!s->counted && !s->is_stranger);
	if (part && !s->host && !(s->host = get(k, SOURCE_HOST, strtoull(part, NULL, 16))))
		return "out of memory";
	if (k->n_proven >= k->proven_max || !fits(k, s->source) || !fits(k, s->host))
		return "that host has as many sessions here as are left for all others together; with more linkers (`links`) there are more";
	/* Several hosts may ask from one address; whoever has certificates of ours is known by them. */
	asks = s->host ? s->host : s->source;
	if (s->purpose == FRAME_FOR_CA && asks->n_questions >= LIMIT_LINK_QUESTIONS_OF_ONE)
		return "that host asks this one's authority more at a time than a host does";
	count(k, s, 1);
	return NULL;
}

void proven_leave(struct linker *k, struct session *s)
{
	if (s->counted)
		count(k, s, -1);
}

/* What waits for them to read it. */

static struct source *reader_of(const struct session *s)
{
	return s->host ? s->host : s->source;
}

/* Whenever there is a chunk to be had the first of those that wait has its turn: it takes it, or skips. */
static void wake_first(struct linker *k, const struct source *of)
{
	struct session *first = TAILQ_FIRST(&of->waits);

	if (first && of->n_chunks < k->chunks_max)
		session_dirty(k, first);
}

void source_skips(struct linker *k, struct session *s)
{
	struct source *of = reader_of(s);

	if (!s->in_waits)
		return;
	TAILQ_REMOVE(&of->waits, s, waits);
	s->in_waits = false;
	wake_first(k, of);
}

bool source_grants_chunk(struct linker *k, struct session *s)
{
	struct source *of = reader_of(s);
	const struct session *first = TAILQ_FIRST(&of->waits);

	if (s->chunk ? s->chunk_granted || of->n_chunks <= k->chunks_max : of->n_chunks < k->chunks_max && (!first || first == s))
		return true;
	if (!s->in_waits)
		TAILQ_INSERT_TAIL(&of->waits, s, waits);
	s->in_waits = true;
	return false;
}

void source_counts_chunk(struct linker *k, struct session *s, int change)
{
	if (change > 0)
		s->chunk_of = reader_of(s);
	s->chunk_of->n_chunks += (uint32_t)change;
	if (change > 0) {
		source_skips(k, s);
		return;
	}
	wake_first(k, s->chunk_of);
	s->chunk_of = NULL;
	s->chunk_granted = false;
}

static void hear_again(struct linker *k, struct source *of)
{
	of->unheard = false;
	for (uint32_t i = 0; i < LIMIT_LINK_SESSIONS; i++) {
		struct session *s = &k->sessions[i];

		if (s->phase >= PHASE_HANDSHAKE && reader_of(s) == of && (s->readable || rdma_has_data(s)))
			session_dirty(k, s);
	}
}

void source_counts_answers(struct linker *k, struct session *s, size_t cap)
{
	struct source *of = s->control_of ? s->control_of : reader_of(s);

	of->answers_size += cap - s->control_cap;
	s->control_cap = cap;
	s->control_of = cap > 0 ? of : NULL;
	if (of->answers_size > k->answers_max)
		of->unheard = true;
	else if (of->unheard && of->answers_size <= k->answers_max / 2)
		hear_again(k, of);
}

bool source_is_heard(const struct session *s)
{
	return !reader_of(s)->unheard;
}

bool source_is_over(const struct linker *k, const struct session *s)
{
	return s->chunk && !s->chunk_granted && s->chunk_size > s->chunk_off && s->chunk_of->n_chunks > k->chunks_max;
}

/* Strangers. */

void stranger_leave(struct linker *k, struct session *s)
{
	if (!s->is_stranger)
		return;
	s->is_stranger = false;
	s->source->n_strangers--;
	k->n_strangers--;
	TAILQ_REMOVE(&k->strangers, s, stranger);
}

static void stranger_drop(struct linker *k, struct session *s)
{
	k->n_dropped++;
	if (k->now_ns >= k->dropped_warn_at_ns) {
		log_warn("linker.crowded", LOG_STR("peer", s->address), LOG_U64("from_there", s->source->n_strangers), LOG_U64("strangers", k->n_strangers),
			 LOG_U64("dropped", k->n_dropped), LOG_STR("why", "more connections than can be served prove nothing; the oldest are dropped"));
		k->dropped_warn_at_ns = k->now_ns + DROPPED_WARN_NS;
		k->n_dropped = 0;
	}
	s->dropped = true;
	session_over(k, s, SESSION_TIMEOUT, "dropped for newer connections: it had proven nothing yet");
}

/* The oldest one of @from, or of the source that has the most. */
static struct session *stranger_victim(struct linker *k, const struct source *from)
{
	struct session *s, *found = NULL;

	TAILQ_FOREACH(s, &k->strangers, stranger)
		if (from ? s->source == from : !found || s->source->n_strangers > found->source->n_strangers) {
			found = s;
			if (from)
				break;
		}
	return found;
}

bool stranger_drop_any(struct linker *k)
{
	struct session *victim = stranger_victim(k, NULL);

	if (victim)
		stranger_drop(k, victim);
	return victim != NULL;
}

void stranger_add(struct linker *k, struct session *s)
{
	assert(!s->is_stranger);
	if (s->source->n_strangers >= LIMIT_LINK_STRANGERS_OF_ONE)
		stranger_drop(k, stranger_victim(k, s->source));
	else if (k->n_strangers >= LIMIT_LINK_STRANGERS)
		stranger_drop(k, stranger_victim(k, NULL));
	s->is_stranger = true;
	s->source->n_strangers++;
	k->n_strangers++;
	TAILQ_INSERT_TAIL(&k->strangers, s, stranger);
}

bool joiner_add(struct linker *k, struct session *s)
{
	assert(!s->is_joiner);
	if (k->n_joiners >= k->joiners_max || s->source->n_joiners >= k->joiners_max - k->n_joiners)
		return false;
	stranger_leave(k, s);
	s->is_joiner = true;
	s->source->n_joiners++;
	k->n_joiners++;
	return true;
}

void joiner_leave(struct linker *k, struct session *s)
{
	if (!s->is_joiner)
		return;
	s->is_joiner = false;
	s->source->n_joiners--;
	k->n_joiners--;
	k->joiner_left = true;
}

static bool strangers_have_time(const struct linker *k)
{
	if (k->busy || k->dirty.n > 0)
		return k->strangers_credit_ns > 0;
	return k->strangers_spent_ns < STRANGERS_TURN_NS;
}

bool stranger_may_work(struct linker *k)
{
	bool may = strangers_have_time(k);

	k->strangers_wait = k->strangers_wait || !may;
	k->accepts_next = k->accepts_next || may;
	return may;
}

bool stranger_may_come(const struct linker *k)
{
	return strangers_have_time(k) && (!k->strangers_wait || k->accepts_next);
}

void stranger_worked(struct linker *k, uint64_t began_ns)
{
	uint64_t spent = clock_ns() - began_ns;

	k->strangers_spent_ns += spent;
	k->strangers_credit_ns -= (int64_t)spent;
}

void strangers_turn(struct linker *k)
{
	uint64_t now = clock_ns();

	k->strangers_credit_ns += (int64_t)((now - k->strangers_at_ns) / STRANGERS_SHARE);
	if (k->strangers_credit_ns > STRANGERS_CREDIT_NS)
		k->strangers_credit_ns = STRANGERS_CREDIT_NS;
	k->strangers_at_ns = now;
	k->strangers_spent_ns = 0;
}
