/*
 * Theory of operation: texts that go through a session as they are: what hosts announce, questions to an authority and their answers.
 *
 * They come in frames that MORE ties together and leave for the broker as memfds, unchecked but for their size; it is the one that
 * reads JSON. On the way out a text is shared (struct blob) by all sessions that send it, and each session has one on its way; of announcements
 * the newest waits behind it.
 *
 * An answer that many get, the list of what is revoked, has a number (role_ca.shared): it is read from the broker once, and all sessions send the one text. So
 * those who ask for it and do not read it cost no memory but a session's, however long it is, and they have QUESTION_NS.
 *
 * What a host announces is the broker's work: it reads each text and decides all routes anew. So a host has LIMIT_ANNOUNCE_RATE of it, however many sessions it
 * ends and begins, and where it says more the newest waits and those between are dropped: a list replaces the one before anyway.
 *
 * A session to an authority carries one question: the client's linker tells the broker when it stands (LB_CA_READY, with the exporter's value
 * that the question has to be bound to), and ends it with the answer.
 */
#include "daemon/linker_int.h"

#include "base/log.h"

#include <stdio.h>

/* Coalesced at the other side to one each 50 ms. */
enum { ANNOUNCES_PER_S = 64 };

static void send_text(struct linker *k, struct role_msg *m, const char *text, size_t size)
{
	int fd = linker_text_fd("sealane-link", text, size);

	if (m->type != LB_ANNOUNCE && fd < 0)
		m->u.ca.error = fd;
	if (m->type != LB_ANNOUNCE || fd >= 0)
		linker_send(k, m, fd);
	if (fd >= 0)
		close(fd);
}

static size_t text_max(enum frame_type type)
{
	return type == FRAME_ANNOUNCE ? LIMIT_ANNOUNCE_SIZE : type == FRAME_CA_ASK ? LIMIT_CA_QUESTION_SIZE : LIMIT_CA_ANSWER_SIZE;
}

static int text_add(struct linker *k, struct session *s, const struct frame *f)
{
	size_t cap = s->text_cap ? s->text_cap : FRAME_SIZE_MAX;
	char *grown;

	if (f->size > text_max(f->type) - s->text_size)
		return session_over(k, s, SESSION_PROTOCOL, "a text that is longer than it may be");
	while (cap - s->text_size < f->size)
		cap *= 2;
	if (cap != s->text_cap) {
		grown = realloc(s->text, cap);
		if (!grown)
			return session_over(k, s, SESSION_LOST, "out of memory");
		s->text = grown;
		s->text_cap = cap;
	}
	memcpy(s->text + s->text_size, f->payload, f->size);
	s->text_size += f->size;
	return 0;
}

static enum ca_mode mode_of(const struct session *s)
{
	return s->tls.use == TLS_JOIN ? CA_JOIN : CA_HOST;
}

static int on_question(struct linker *k, struct session *s)
{
	struct role_msg m = { .type = LB_CA_ASK };

	s->asks_later = s->tls.use == TLS_JOIN && !joiner_add(k, s);
	if (s->asks_later)
		return 0;
	m.u.ca.req = session_cid(k, s);
	m.u.ca.mode = mode_of(s);
	snprintf(m.u.ca.peer, sizeof(m.u.ca.peer), "%s", s->tls.peer.spiffe_id);
	snprintf(m.u.ca.address, sizeof(m.u.ca.address), "%s", s->address);
	if (tls_export(&s->tls, TLS_EXPORTER_CA, m.u.ca.exporter) < 0)
		return session_over(k, s, s->tls.reason, s->tls.why);
	s->req = m.u.ca.req;
	send_text(k, &m, s->text, s->text_size);
	return 0;
}

static void text_drop(struct session *s)
{
	free(s->text);
	s->text = NULL;
	s->text_size = s->text_cap = 0;
}

void linker_ca_joiners(struct linker *k)
{
	struct session *s, *next;

	if (!k->joiner_left)
		return;
	k->joiner_left = false;
	for (s = TAILQ_FIRST(&k->strangers); s; s = next) {
		next = TAILQ_NEXT(s, stranger); /* it may leave */
		if (s->asks_later && on_question(k, s) == 0 && !s->asks_later)
			text_drop(s);
	}
}

static int on_answer(struct linker *k, struct session *s)
{
	struct role_msg m = { .type = LB_CA_ANSWER, .u.ca.req = s->req };

	send_text(k, &m, s->text, s->text_size);
	s->req = ROLE_NO_ID;
	return session_over(k, s, SESSION_OK, "answered");
}

uint64_t announced_tick(struct linker *k, struct session *s)
{
	uint64_t cost = s->news_size > LIMIT_ANNOUNCE_COST ? s->news_size : LIMIT_ANNOUNCE_COST, tokens;
	struct role_msg m = { .type = LB_ANNOUNCE, .u.id.id = s->hid };
	struct host *h = NULL;

	if (s->news)
		HASH_FIND(hh, k->hosts, &s->hid, sizeof(s->hid), h);
	if (!h)
		return UINT64_MAX;
	if (h->announced.rate_per_s == 0)
		bucket_init(&h->announced, LIMIT_ANNOUNCE_RATE, LIMIT_ANNOUNCE_SIZE, k->now_ns);
	tokens = bucket_available(&h->announced, k->now_ns);
	if (tokens < cost)
		return k->now_ns + (cost - tokens) * 1000 * MS_NS / LIMIT_ANNOUNCE_RATE;
	bucket_take(&h->announced, cost);
	send_text(k, &m, s->news, s->news_size);
	free(take_ptr(s->news));
	return UINT64_MAX;
}

static int on_announced(struct linker *k, struct session *s)
{
	/* A host of ours tells of changes twenty times a second at most. */
	if (s->announcements.rate_per_s == 0)
		bucket_init(&s->announcements, ANNOUNCES_PER_S, ANNOUNCES_PER_S, k->now_ns);
	if (bucket_available(&s->announcements, k->now_ns) == 0)
		return session_over(k, s, SESSION_PROTOCOL, "ANNOUNCE more often than a host has news");
	bucket_take(&s->announcements, 1);
	free(s->news);
	s->news = take_ptr(s->text);
	s->news_size = s->text_size;
	linker_wake_at(k, announced_tick(k, s));
	return 0;
}

int linker_ca_on_text(struct linker *k, struct session *s, const struct frame *f)
{
	int r;

	if (f->type == FRAME_CA_ASK && (s->req != ROLE_NO_ID || s->asks_later))
		return session_over(k, s, SESSION_PROTOCOL, "a second question before the answer");
	if (f->type == FRAME_CA_ANSWER && s->req == ROLE_NO_ID)
		return session_over(k, s, SESSION_PROTOCOL, "an answer that nobody asked for");
	r = text_add(k, s, f);
	if (r < 0 || (f->flags & FRAME_MORE))
		return r;
	r = f->type == FRAME_ANNOUNCE ? on_announced(k, s) : f->type == FRAME_CA_ASK ? on_question(k, s) : on_answer(k, s);
	if (!s->asks_later)
		text_drop(s);
	return r;
}

/* Out. */

static void send_blob(struct linker *k, struct session *s, enum frame_type type, struct blob *b)
{
	b->refs++;
	if (s->blob) {
		blob_unref(s->next_blob);
		s->next_blob = b;
		return;
	}
	s->blob = b;
	s->blob_off = 0;
	s->blob_type = type;
	session_dirty(k, s);
}

void linker_ca_ready(struct linker *k, struct session *s)
{
	struct role_msg m = { .type = LB_CA_READY, .u.ca.req = s->req };

	m.u.ca.mode = s->ca->mode;
	if (tls_export(&s->tls, TLS_EXPORTER_CA, m.u.ca.exporter) < 0) {
		session_over(k, s, s->tls.reason, s->tls.why);
		return;
	}
	linker_send(k, &m, -1);
}

static struct session *find_question(struct linker *k, uint32_t req)
{
	for (uint32_t i = 0; i < LIMIT_LINK_SESSIONS; i++)
		if (k->sessions[i].phase == PHASE_UP && k->sessions[i].ca && k->sessions[i].req == req)
			return &k->sessions[i];
	return NULL;
}

/* NULL: there is none, or no memory. */
static struct blob *read_blob(enum frame_type type, int fd)
{
	AUTO_FREE(char) text = NULL;
	size_t size = 0;
	int r = fd < 0 ? -EBADF : linker_read_fd(fd, text_max(type), &text, &size);

	return r == 0 && size > 0 ? blob_new(text, size) : NULL;
}

/* Another reference to the text of that number. */
static struct blob *shared_blob(struct linker *k, uint32_t number, enum frame_type type, int fd)
{
	struct linker_shared *at = &k->shared[number % ARRAY_SIZE(k->shared)];
	struct blob *b = at->number == number ? at->text : NULL;

	if (!b) {
		b = read_blob(type, fd);
		if (!b)
			return NULL;
		blob_unref(at->text);
		*at = (struct linker_shared){ .number = number, .text = b };
	}
	b->refs++;
	return b;
}

void linker_ca_free(struct linker *k)
{
	for (size_t i = 0; i < ARRAY_SIZE(k->shared); i++)
		blob_unref(k->shared[i].text);
}

/* @shared: role_ca's. */
static void send_fd(struct linker *k, struct session *s, enum frame_type type, uint32_t shared, int fd)
{
	struct blob *b = shared ? shared_blob(k, shared, type, fd) : read_blob(type, fd);

	if (!b) {
		session_over(k, s, SESSION_LOST, "there was nothing to send");
		return;
	}
	send_blob(k, s, type, b);
	blob_unref(b);
}

void linker_ca_ask(struct linker *k, const struct role_ca *m, int fd)
{
	struct session *s = find_question(k, m->req);

	if (s && !s->blob)
		send_fd(k, s, FRAME_CA_ASK, 0, fd);
}

void linker_ca_answer(struct linker *k, const struct role_ca *m, int fd)
{
	struct session *s = session_find(k, m->req);

	if (!s || s->phase != PHASE_UP || s->is_client || s->req != m->req)
		return;
	s->req = ROLE_NO_ID;
	joiner_leave(k, s);
	send_fd(k, s, FRAME_CA_ANSWER, m->shared, fd);
	if (s->tls.use == TLS_JOIN && s->phase == PHASE_UP)
		stranger_add(k, s);
}

void linker_ca_session_over(struct linker *k, struct session *s)
{
	struct role_msg m = { .type = LB_CA_ANSWER, .u.ca.req = s->req };

	if (!s->is_client || s->req == ROLE_NO_ID)
		return;
	m.u.ca.error = s->reason == SESSION_TIMEOUT ? -ETIMEDOUT : -ECONNABORTED;
	snprintf(m.u.ca.why, sizeof(m.u.ca.why), "%s: %.200s", session_reason_name(s->reason), s->why);
	linker_send(k, &m, -1);
}

void announce_to(struct linker *k, struct session *s)
{
	if (k->announce)
		send_blob(k, s, FRAME_ANNOUNCE, k->announce);
}

int announce_set(struct linker *k, int fd)
{
	AUTO_FREE(char) text = NULL;
	size_t size = 0;
	int r = fd < 0 ? -EBADMSG : linker_read_fd(fd, LIMIT_ANNOUNCE_SIZE, &text, &size);
	struct blob *b = r == 0 ? blob_new(text, size) : NULL;

	/* Without descriptors none comes along. What was announced before goes on to count: that is no reason to end lanes. */
	if (r == -EBADMSG) {
		log_warn("linker.not_announced", LOG_STR("why", "what this host offers could not be received: out of descriptors"));
		return 0;
	}
	if (!b)
		return r < 0 ? r : -ENOMEM;
	blob_unref(k->announce);
	k->announce = b;
	for (uint32_t i = 0; i < LIMIT_LINK_SESSIONS; i++) {
		struct session *s = &k->sessions[i];

		if (s->phase == PHASE_UP && s->purpose == FRAME_FOR_HOSTS && !s->is_client)
			announce_to(k, s);
	}
	return 0;
}
