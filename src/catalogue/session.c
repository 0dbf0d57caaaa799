/*
 * Theory of operation: two transfers. The watch is a POST whose answer never ends, one line of JSON for each thing that happened.
 * Beside it there is one request at a time; which one is next is not remembered but seen from what there is and what there is not
 * (next_request()): no token, no range yet, no lease, an operator's order, something of ours that is not there, a keep-alive that
 * is due. So whatever fails, at whatever point, the way back is to forget what the failure has made doubtful and to look again.
 *
 *   what fails             forgotten                           then
 *   transport, status      the range, the watch                the next endpoint, after a pause that grows
 *   token                  the token                           soon
 *   lease                  the lease, that ours is there       soon
 *   watch                  the range                           after a pause
 *   an answer's form       as transport
 *
 * Must never: follow a redirect, use a proxy of the environment, take an answer or a line over LIMIT_ETCD_ANSWER_SIZE, or go on
 * with a range or a watch of which one part was not understood.
 *
 * Before this file: daemon/catalogue.c (the broker's words). After it: etcd.c (bytes), entry.c (values).
 */
#include "catalogue/session.h"

#include "base/log.h"
#include "catalogue/entry.h"
#include "catalogue/etcd.h"
#include "core/base64.h"

#include <curl/curl.h>
#include <stdio.h>
#include <sys/queue.h>
#include <sys/random.h>
#include <uthash.h>

enum {
	REQUEST_MS = 5000,
	CONNECT_MS = 2000,
	PAUSE_FIRST_MS = 100,
	PAUSE_LAST_MS = 5000,
	/* etcd said no: trying again soon would not change its mind. */
	PAUSE_REFUSED_MS = 5000,
	PAGE_KEYS = 500,
	/* Keys below the prefix that are not ours count too: a range has an end. */
	RANGE_KEYS_MAX = 16 * LIMIT_CATALOGUE_ENTRIES,
	/* Orders that wait for etcd. */
	ORDERS_MAX = LIMIT_CATALOGUE_ENTRIES,
	KEEPALIVE_IDLE_S = 10,
	/* What etcd took, it is not told again sooner; so changes are gathered, and an etcd that lies is not asked without end. */
	OWN_PAUSE_MS = 100,
	/* So long without a fault: the next one starts from the first pause again. */
	STEADY_MS = 10000,
	/* A token that is fresh and not taken. */
	TOKEN_FAULTS_MAX = 3,
	POLL_MS = 1000,
	URL_SIZE = LIMIT_ETCD_ENDPOINT_SIZE + 32,
};

enum request { REQUEST_NONE, REQUEST_AUTH, REQUEST_RANGE, REQUEST_EPOCH, REQUEST_ORDER, REQUEST_GRANT, REQUEST_OWN, REQUEST_KEEPALIVE };

/* An entry of ours. */
struct own {
	char key[LIMIT_CATALOGUE_KEY_SIZE];
	char *value;	 /* owned; NULL: to be deleted, then forgotten */
	bool there;	 /* etcd has exactly this, under our lease */
	bool in_request; /* part of the transaction that runs */
	bool taken;	 /* somebody else wrote it: not again before the next keep-alive */
	UT_hash_handle hh;
};

/* What the broker wants written. */
struct order {
	STAILQ_ENTRY(order) next;
	uint32_t seq;
	bool accept;
	char key[LIMIT_CATALOGUE_KEY_SIZE];
	char *value; /* owned; NULL: delete */
};

struct buffer {
	char *data;
	size_t size, cap;
};

struct session {
	struct session_file files[ETCD_FILE_N];
	struct session_events events;
	struct role_etcd where;
	bool started;
	CURLM *multi;
	size_t endpoint;
	enum etcd_state state;

	/* the request that runs */
	CURL *easy; /* NULL: none */
	enum request request;
	struct curl_slist *headers;
	char *body;
	struct buffer answer;
	char error[CURL_ERROR_SIZE];

	CURL *watch; /* NULL: none */
	struct curl_slist *watch_headers;
	char *watch_body;
	struct buffer line;
	char watch_error[CURL_ERROR_SIZE];

	char token[ETCD_TOKEN_SIZE]; /* "": none */
	unsigned n_token_faults;     /* since one was taken */
	bool synced;		     /* the range was read, and the watch stands or is about to */
	uint64_t synced_ns;
	/* the range that is being read */
	char *from; /* owned; NULL: the first page */
	unsigned page_keys;
	uint64_t range_revision, range_cluster;
	size_t n_range_keys;
	bool epoch_seen, has_epoch;
	uint64_t epoch_revision;
	uint64_t cluster_id, revision; /* of the last range, and what the watch has told since */

	uint64_t lease; /* 0: none */
	uint64_t keepalive_ns; /* when the next one is due */
	uint64_t own_ns;       /* not before */
	struct own *own;
	STAILQ_HEAD(, order) orders;
	size_t n_orders;

	unsigned pause_ms;
	uint64_t pause_until_ns;
};

/* ------------------------------------------------------------------ small parts */

static void buffer_free(struct buffer *b)
{
	free(b->data);
	*b = (struct buffer){ 0 };
}

/* Return: false: too much, or no memory. There is always room for a NUL behind it. */
static bool buffer_add(struct buffer *b, const char *data, size_t n)
{
	if (n >= LIMIT_ETCD_ANSWER_SIZE - b->size)
		return false;
	if (b->size + n >= b->cap) {
		size_t cap = b->cap ? b->cap : 4096;
		char *bigger;

		while (cap <= b->size + n)
			cap *= 2;
		bigger = realloc(b->data, cap);
		if (!bigger)
			return false;
		b->data = bigger;
		b->cap = cap;
	}
	memcpy(b->data + b->size, data, n);
	b->size += n;
	b->data[b->size] = '\0';
	return true;
}

static const char *endpoint_of(const struct session *s)
{
	return s->where.endpoints[s->endpoint];
}

static void set_state(struct session *s, enum etcd_state state, const char *why)
{
	s->state = state;
	s->events.state(s->events.arg, state, endpoint_of(s), why);
}

static unsigned jitter(unsigned ms)
{
	uint16_t r = 0;

	if (getrandom(&r, sizeof(r), 0) != sizeof(r))
		r = 0;
	return ms / 2 + (unsigned)((uint64_t)ms * r / UINT16_MAX);
}

static void pause_for(struct session *s, unsigned ms)
{
	s->pause_until_ns = clock_ns() + jitter(ms) * UINT64_C(1000000);
}

static void pause_more(struct session *s)
{
	if (s->synced_ns && clock_ns() - s->synced_ns > STEADY_MS * UINT64_C(1000000))
		s->pause_ms = 0;
	s->synced_ns = 0;
	s->pause_ms = s->pause_ms == 0 ? PAUSE_FIRST_MS : s->pause_ms * 2 > PAUSE_LAST_MS ? PAUSE_LAST_MS : s->pause_ms * 2;
	pause_for(s, s->pause_ms);
}

/* ------------------------------------------------------------------ transfers */

static void set_blob(CURL *e, CURLoption option, const struct session_file *f)
{
	struct curl_blob blob = { .data = f->text, .len = f->size, .flags = CURL_BLOB_NOCOPY };

	if (f->text)
		curl_easy_setopt(e, option, &blob);
}

static size_t on_answer(char *data, size_t one, size_t n, void *arg)
{
	struct session *s = arg;

	return buffer_add(&s->answer, data, n) ? n : 0;
}

/* What both transfers have in common. Return: NULL: no memory. */
static CURL *transfer_new(struct session *s, const char *path, const char *body, struct curl_slist **headers, char *error)
{
	CURL *e = curl_easy_init();
	char url[URL_SIZE], authorization[ETCD_TOKEN_SIZE + 32];
	struct curl_slist *more = e ? curl_slist_append(*headers, "Content-Type: application/json") : NULL;

	if (!more) {
		curl_easy_cleanup(e);
		return NULL;
	}
	*headers = more;
	snprintf(authorization, sizeof(authorization), "Authorization: %s", s->token);
	more = s->token[0] ? curl_slist_append(*headers, authorization) : *headers;
	*headers = more ? more : *headers;
	snprintf(url, sizeof(url), "%s%s", endpoint_of(s), path);
	error[0] = '\0';
	curl_easy_setopt(e, CURLOPT_URL, url);
	curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(e, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(e, CURLOPT_PROXY, "");
	curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(e, CURLOPT_ERRORBUFFER, error);
	curl_easy_setopt(e, CURLOPT_HTTPHEADER, *headers);
	curl_easy_setopt(e, CURLOPT_POSTFIELDS, body);
	curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
	curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	curl_easy_setopt(e, CURLOPT_USERAGENT, "sealane/" SEALANE_VERSION);
	curl_easy_setopt(e, CURLOPT_PRIVATE, s);
	set_blob(e, CURLOPT_CAINFO_BLOB, &s->files[ETCD_FILE_CA]);
	set_blob(e, CURLOPT_SSLCERT_BLOB, &s->files[ETCD_FILE_CERTIFICATE]);
	set_blob(e, CURLOPT_SSLKEY_BLOB, &s->files[ETCD_FILE_KEY]);
	return e;
}

static void transfer_free(struct session *s, CURL **e, struct curl_slist **headers, char **body)
{
	if (*e) {
		curl_multi_remove_handle(s->multi, *e);
		curl_easy_cleanup(*e);
	}
	curl_slist_free_all(*headers);
	free(*body);
	*e = NULL;
	*headers = NULL;
	*body = NULL;
}

static void request_drop(struct session *s)
{
	transfer_free(s, &s->easy, &s->headers, &s->body);
	buffer_free(&s->answer);
	s->request = REQUEST_NONE;
	for (struct own *o = s->own; o; o = o->hh.next)
		o->in_request = false;
}

static void watch_drop(struct session *s)
{
	transfer_free(s, &s->watch, &s->watch_headers, &s->watch_body);
	buffer_free(&s->line);
}

/* @body is taken. */
static void request_start(struct session *s, enum request request, const char *path, char *body)
{
	s->body = body;
	s->request = request;
	s->easy = body ? transfer_new(s, path, body, &s->headers, s->error) : NULL;
	if (s->easy) {
		curl_easy_setopt(s->easy, CURLOPT_TIMEOUT_MS, (long)REQUEST_MS);
		curl_easy_setopt(s->easy, CURLOPT_WRITEFUNCTION, on_answer);
		curl_easy_setopt(s->easy, CURLOPT_WRITEDATA, s);
	}
	if (!s->easy || curl_multi_add_handle(s->multi, s->easy) != CURLM_OK) {
		request_drop(s);
		pause_more(s);
	}
}

/* ------------------------------------------------------------------ what goes wrong */

/* Nothing that was read is certain any more; what was known stays known to the broker. */
static void unsync(struct session *s)
{
	watch_drop(s);
	s->synced = false;
	free(s->from);
	s->from = NULL;
}

static void order_free(struct order *o)
{
	free(o->value);
	free(o);
}

/* People wait for orders: they are told at once rather than done at some time. */
static void orders_fail(struct session *s, int error, const char *why)
{
	struct order *o;

	while ((o = STAILQ_FIRST(&s->orders))) {
		STAILQ_REMOVE_HEAD(&s->orders, next);
		s->n_orders--;
		s->events.done(s->events.arg, o->seq, error, why);
		order_free(o);
	}
}

static void on_away(struct session *s, const char *why)
{
	char text[ETCD_WHY_SIZE + 64];

	request_drop(s);
	unsync(s);
	set_state(s, ETCD_AWAY, why);
	snprintf(text, sizeof(text), "etcd is away (%s); nothing was changed", why);
	orders_fail(s, -EHOSTDOWN, text);
	s->endpoint = (s->endpoint + 1) % s->where.n_endpoints;
	pause_more(s);
}

static void on_refused(struct session *s, const char *why)
{
	request_drop(s);
	unsync(s);
	s->token[0] = '\0';
	set_state(s, ETCD_REFUSED, why);
	orders_fail(s, -EACCES, why);
	s->endpoint = (s->endpoint + 1) % s->where.n_endpoints;
	pause_for(s, PAUSE_REFUSED_MS);
}

static void forget_lease(struct session *s)
{
	s->lease = 0;
	for (struct own *o = s->own; o; o = o->hh.next)
		o->there = false;
}

static void on_bad_answer(struct session *s)
{
	on_away(s, "its answer is not one of etcd's v3 interface, or too large");
}

/* The watch goes on with the token it began with. */
static void on_token_fault(struct session *s, const char *why)
{
	if (s->where.user[0] && ++s->n_token_faults <= TOKEN_FAULTS_MAX) {
		request_drop(s);
		s->token[0] = '\0';
		pause_for(s, PAUSE_FIRST_MS);
	} else {
		on_refused(s, why);
	}
}

static void on_fault(struct session *s, enum etcd_fault fault, const char *why)
{
	if (fault == ETCD_FAULT_TOKEN) {
		on_token_fault(s, why);
	} else if (fault == ETCD_FAULT_LEASE) {
		request_drop(s);
		forget_lease(s);
		pause_for(s, PAUSE_FIRST_MS);
	} else if (fault == ETCD_FAULT_REFUSED) {
		on_refused(s, why);
	} else {
		on_away(s, why);
	}
}

/* ------------------------------------------------------------------ entries */

static void tell_entry(struct session *s, const struct etcd_kv *kv)
{
	struct entry e;

	entry_parse_key(&e, kv->key);
	if (e.kind == ENTRY_OTHER)
		return;
	if (kv->gone)
		s->events.entry(s->events.arg, ETCD_ENTRY_GONE, kv->mod_revision, kv->key, "");
	else if (kv->value && strlen(kv->value) == kv->size && entry_parse_value(&e, kv->value, kv->size) == 0)
		s->events.entry(s->events.arg, ETCD_ENTRY_PUT, kv->mod_revision, kv->key, kv->value);
	else
		s->events.entry(s->events.arg, ETCD_ENTRY_MALFORMED, kv->mod_revision, kv->key, "");
}

/* Is what etcd has under one of our keys what we said? */
static void look_at_own(struct session *s, const struct etcd_kv *kv, bool watched)
{
	bool ours = kv->value && kv->lease == s->lease && s->lease != 0;
	struct own *o;

	HASH_FIND_STR(s->own, kv->key, o);
	if (!o)
		return;
	/* A put of ours that is told after a newer one was made is not there, and written once more: no harm. */
	o->there = o->value && ours && strcmp(o->value, kv->value) == 0;
	/* What the watch tells may be newer than the answer to the request that is on its way. */
	o->in_request &= o->there;
	if (watched && kv->value && !ours && !o->taken) {
		o->taken = true;
		s->events.taken(s->events.arg, kv->key, kv->value);
	}
}

static void on_range_kv(void *arg, const struct etcd_kv *kv)
{
	struct session *s = arg;

	if (strcmp(kv->key, "epoch") == 0) {
		s->epoch_seen = true;
		s->epoch_revision = kv->mod_revision;
	}
	look_at_own(s, kv, false);
	tell_entry(s, kv);
}

static void on_watch_kv(void *arg, const struct etcd_kv *kv)
{
	struct session *s = arg;

	if (strcmp(kv->key, "epoch") == 0)
		s->has_epoch = false; /* what it means is for a whole range to say */
	else
		tell_entry(s, kv);
	look_at_own(s, kv, true);
}

/* ------------------------------------------------------------------ the watch */

static void watch_ended(struct session *s, const struct etcd_watch *w)
{
	char why[ETCD_WHY_SIZE];
	enum etcd_fault fault;

	fault = w->compacted ? ETCD_FAULT_RETRY : etcd_judge(0, w->why, strlen(w->why), why);
	if (fault == ETCD_FAULT_RETRY && !w->compacted) {
		on_away(s, why);
		return;
	}
	unsync(s);
	pause_more(s);
	if (fault != ETCD_FAULT_RETRY)
		on_fault(s, fault, why);
}

static void on_line(struct session *s, const char *line, size_t size)
{
	struct etcd_watch w;

	if (etcd_parse_watch(&w, line, size, s->where.prefix, on_watch_kv, s) < 0 || (w.header.cluster_id != s->cluster_id && !w.cancelled)) {
		on_bad_answer(s);
		return;
	}
	if (w.cancelled) {
		watch_ended(s, &w);
	} else if (!s->has_epoch) {
		unsync(s);
		pause_more(s);
	} else if (w.header.revision > s->revision) {
		s->revision = w.header.revision;
	}
}

/* libcurl is told only to go on: a handle must not be removed from within. What came is looked at in watch_turn(). */
static size_t on_watch_data(char *data, size_t one, size_t n, void *arg)
{
	struct session *s = arg;

	return buffer_add(&s->line, data, n) ? n : 0;
}

/* All lines that are whole. A line's handling may end the watch, and with it the buffer. */
static void watch_turn(struct session *s)
{
	size_t at = 0;

	while (s->watch && at < s->line.size) {
		char *start = s->line.data + at, *end = memchr(start, '\n', s->line.size - at);

		if (!end)
			break;
		at += (size_t)(end - start) + 1;
		if (end > start)
			on_line(s, start, (size_t)(end - start));
	}
	if (!s->watch || at == 0)
		return;
	s->line.size -= at;
	memmove(s->line.data, s->line.data + at, s->line.size);
}

static void watch_start(struct session *s)
{
	s->watch_body = etcd_build_watch(s->where.prefix, s->revision + 1);
	s->watch = s->watch_body ? transfer_new(s, "/v3/watch", s->watch_body, &s->watch_headers, s->watch_error) : NULL;
	if (s->watch) {
		curl_easy_setopt(s->watch, CURLOPT_WRITEFUNCTION, on_watch_data);
		curl_easy_setopt(s->watch, CURLOPT_WRITEDATA, s);
		curl_easy_setopt(s->watch, CURLOPT_TCP_KEEPALIVE, 1L);
		curl_easy_setopt(s->watch, CURLOPT_TCP_KEEPIDLE, (long)KEEPALIVE_IDLE_S);
		curl_easy_setopt(s->watch, CURLOPT_TCP_KEEPINTVL, (long)KEEPALIVE_IDLE_S);
	}
	if (!s->watch || curl_multi_add_handle(s->multi, s->watch) != CURLM_OK) {
		unsync(s);
		pause_more(s);
	}
}

static const char *words_of(CURLcode code, const char *error)
{
	return error[0] ? error : curl_easy_strerror(code);
}

static void on_watch_over(struct session *s, CURLcode code)
{
	char why[ETCD_WHY_SIZE], judged[ETCD_WHY_SIZE];
	long status = 0;
	enum etcd_fault fault;

	watch_turn(s);
	if (!s->watch)
		return;
	curl_easy_getinfo(s->watch, CURLINFO_RESPONSE_CODE, &status);
	snprintf(why, sizeof(why), "%.200s", words_of(code, s->watch_error));
	fault = status == 200 || code != CURLE_OK ? ETCD_FAULT_RETRY : etcd_judge(status, s->line.data ? s->line.data : "", s->line.size, judged);
	if (fault == ETCD_FAULT_RETRY) {
		on_away(s, code == CURLE_OK ? "it ended the watch" : why);
		return;
	}
	unsync(s);
	on_fault(s, fault, judged);
}

/* ------------------------------------------------------------------ requests, and their answers */

static void range_begin(struct session *s)
{
	s->epoch_seen = false;
	s->n_range_keys = 0;
	s->range_revision = 0;
	for (struct own *o = s->own; o; o = o->hh.next)
		o->there = false;
}

static void start_range(struct session *s)
{
	if (!s->from)
		range_begin(s);
	request_start(s, REQUEST_RANGE, "/v3/kv/range",
		      etcd_build_range(s->where.prefix, s->from ? s->from : "", s->page_keys, s->from ? s->range_revision : 0));
}

static void range_end(struct session *s)
{
	s->has_epoch = s->epoch_seen;
	if (!s->has_epoch) {
		s->epoch_revision = 0; /* next_request() makes one, and the range begins anew */
		return;
	}
	s->synced = true;
	s->synced_ns = clock_ns();
	s->n_token_faults = 0;
	s->cluster_id = s->range_cluster;
	s->revision = s->range_revision;
	s->events.end(s->events.arg, s->cluster_id, s->revision);
	set_state(s, ETCD_UP, "");
}

/* The first page says of which cluster and revision all of them must be. */
static bool page_fits(struct session *s, const struct etcd_header *h)
{
	return h->cluster_id == s->range_cluster && h->revision >= s->range_revision;
}

/* The first page's header must be known before its keys are told, and they are told while it is read: so it is read twice. */
static void on_no_kv(void *arg, const struct etcd_kv *kv)
{
}

static int read_page(struct session *s, struct etcd_page *page)
{
	int r;

	if (!s->from) {
		r = etcd_parse_range(page, s->answer.data, s->answer.size, s->where.prefix, on_no_kv, NULL);
		if (r < 0)
			return r;
		free(page->next_from);
		s->range_cluster = page->header.cluster_id;
		s->range_revision = page->header.revision;
		s->events.begin(s->events.arg, s->range_cluster, s->range_revision);
	}
	return etcd_parse_range(page, s->answer.data, s->answer.size, s->where.prefix, on_range_kv, s);
}

static void on_range(struct session *s)
{
	struct etcd_page page;

	if (read_page(s, &page) < 0) {
		on_bad_answer(s);
		return;
	}
	s->n_range_keys += page.n;
	free(s->from);
	s->from = page.next_from;
	if (!page_fits(s, &page.header) || s->n_range_keys > RANGE_KEYS_MAX) {
		on_away(s, "the pages of its answer do not fit together, or are too many: is the prefix used by others?");
		return;
	}
	s->page_keys = PAGE_KEYS;
	request_drop(s);
	if (!s->from)
		range_end(s);
}

static void start_epoch(struct session *s)
{
	struct entry e = { .kind = ENTRY_EPOCH, .epoch.generation = 1 };
	char value[LIMIT_CATALOGUE_VALUE_SIZE];
	struct etcd_op op = { .key = "epoch", .value = value };
	uint8_t random[(ENTRY_EPOCH_SIZE - 1) / 2];

	if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
		memset(random, 0, sizeof(random));
	hex_encode(e.epoch.epoch, random, sizeof(random));
	snprintf(e.by, sizeof(e.by), "host %s", s->where.host);
	if (entry_format_value(value, &e) < 0)
		value[0] = '\0';
	request_start(s, REQUEST_EPOCH, "/v3/kv/txn", etcd_build_txn(s->where.prefix, &op, 1, "epoch", 0));
}

static void start_order(struct session *s)
{
	const struct order *o = STAILQ_FIRST(&s->orders);
	struct etcd_op op = { .key = o->key, .value = o->value };

	request_start(s, REQUEST_ORDER, "/v3/kv/txn",
		      etcd_build_txn(s->where.prefix, &op, 1, o->accept ? "epoch" : NULL, s->epoch_revision));
}

static void on_order(struct session *s)
{
	struct order *o = STAILQ_FIRST(&s->orders);
	bool succeeded;

	if (etcd_parse_txn(&succeeded, s->answer.data, s->answer.size) < 0) {
		on_bad_answer(s);
		return;
	}
	STAILQ_REMOVE_HEAD(&s->orders, next);
	s->n_orders--;
	s->events.done(s->events.arg, o->seq, succeeded ? 0 : -ESTALE,
		       succeeded ? "" : "somebody else has decided about the catalogue just now: look again (sealane status)");
	order_free(o);
	request_drop(s);
}

static bool own_is_due(const struct own *o)
{
	return !o->there && !o->taken;
}

static const struct own *own_due(const struct session *s)
{
	for (const struct own *o = s->own; o; o = o->hh.next)
		if (own_is_due(o))
			return o;
	return NULL;
}

static void start_own(struct session *s)
{
	struct etcd_op ops[ETCD_TXN_OPS];
	size_t n = 0;

	for (struct own *o = s->own; o && n < ARRAY_SIZE(ops); o = o->hh.next) {
		if (!own_is_due(o))
			continue;
		ops[n++] = (struct etcd_op){ .key = o->key, .value = o->value, .lease = o->value ? s->lease : 0 };
		o->in_request = true;
	}
	request_start(s, REQUEST_OWN, "/v3/kv/txn", etcd_build_txn(s->where.prefix, ops, n, NULL, 0));
}

static void on_own(struct session *s)
{
	struct own *o, *next;
	bool succeeded;

	if (etcd_parse_txn(&succeeded, s->answer.data, s->answer.size) < 0 || !succeeded) {
		on_bad_answer(s);
		return;
	}
	HASH_ITER(hh, s->own, o, next) {
		if (!o->in_request)
			continue;
		o->there = true;
		if (o->value)
			continue;
		HASH_DEL(s->own, o);
		free(o);
	}
	s->own_ns = clock_ns() + OWN_PAUSE_MS * UINT64_C(1000000);
	request_drop(s);
}

static void keepalive_later(struct session *s)
{
	s->keepalive_ns = clock_ns() + s->where.lease_s * UINT64_C(1000000000) / 3;
}

static void on_grant(struct session *s)
{
	uint64_t lease;

	if (etcd_parse_grant(&lease, s->answer.data, s->answer.size) < 0) {
		on_bad_answer(s);
		return;
	}
	forget_lease(s);
	s->lease = lease;
	keepalive_later(s);
	request_drop(s);
}

static void on_keepalive(struct session *s)
{
	int64_t ttl;

	if (etcd_parse_keepalive(&ttl, s->answer.data, s->answer.size) < 0) {
		on_bad_answer(s);
		return;
	}
	for (struct own *o = s->own; o; o = o->hh.next)
		o->taken = false;
	if (ttl == 0)
		forget_lease(s);
	keepalive_later(s);
	request_drop(s);
}

static void on_auth(struct session *s)
{
	if (etcd_parse_auth(s->token, s->answer.data, s->answer.size) < 0)
		on_bad_answer(s);
	else
		request_drop(s);
}

static void on_epoch(struct session *s)
{
	bool succeeded;

	/* Ours or somebody else's: the range that comes next tells. */
	if (etcd_parse_txn(&succeeded, s->answer.data, s->answer.size) < 0)
		on_bad_answer(s);
	else
		request_drop(s);
	s->has_epoch = true;
}

static void on_answered(struct session *s)
{
	switch (s->request) {
	case REQUEST_AUTH:
		on_auth(s);
		break;
	case REQUEST_RANGE:
		on_range(s);
		break;
	case REQUEST_EPOCH:
		on_epoch(s);
		break;
	case REQUEST_ORDER:
		on_order(s);
		break;
	case REQUEST_GRANT:
		on_grant(s);
		break;
	case REQUEST_OWN:
		on_own(s);
		break;
	case REQUEST_KEEPALIVE:
		on_keepalive(s);
		break;
	case REQUEST_NONE:
		break;
	}
}

/* Somebody's certificate is wrong. Waiting does not help, but it is tried again: certificates are replaced. */
static bool is_refusal(CURLcode code, const char *why)
{
	if (strstr(why, "alert") && (strstr(why, "certificate") || strstr(why, "unknown ca")))
		return true;
	return code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CERTPROBLEM || code == CURLE_SSL_CACERT_BADFILE;
}

static void on_request_over(struct session *s, CURLcode code)
{
	char why[ETCD_WHY_SIZE];
	long status = 0;

	curl_easy_getinfo(s->easy, CURLINFO_RESPONSE_CODE, &status);
	if (code == CURLE_OK && status == 200 && s->answer.data) {
		on_answered(s);
	} else if (code == CURLE_OK) {
		on_fault(s, etcd_judge(status, s->answer.data ? s->answer.data : "", s->answer.size, why), why);
	} else if (code == CURLE_WRITE_ERROR && s->request == REQUEST_RANGE && s->page_keys > 1) {
		s->page_keys /= 2; /* the page was too large */
		request_drop(s);
	} else {
		snprintf(why, sizeof(why), "%.200s", words_of(code, s->error));
		if (is_refusal(code, why))
			on_refused(s, why);
		else
			on_away(s, why);
	}
}

static enum request next_request(const struct session *s)
{
	if (s->where.user[0] && !s->token[0])
		return REQUEST_AUTH;
	if (!s->has_epoch)
		return REQUEST_EPOCH;
	if (!s->synced)
		return REQUEST_RANGE;
	if (!STAILQ_EMPTY(&s->orders))
		return REQUEST_ORDER;
	if (s->lease == 0)
		return s->own ? REQUEST_GRANT : REQUEST_NONE;
	if (clock_ns() >= s->keepalive_ns)
		return REQUEST_KEEPALIVE;
	return own_due(s) && clock_ns() >= s->own_ns ? REQUEST_OWN : REQUEST_NONE;
}

static void start_next(struct session *s)
{
	const struct session_file *password = &s->files[ETCD_FILE_PASSWORD];

	if (s->easy || !s->started || clock_ns() < s->pause_until_ns)
		return;
	switch (next_request(s)) {
	case REQUEST_AUTH:
		request_start(s, REQUEST_AUTH, "/v3/auth/authenticate", etcd_build_auth(s->where.user, password->text ? password->text : ""));
		break;
	case REQUEST_RANGE:
		start_range(s);
		break;
	case REQUEST_EPOCH:
		start_epoch(s);
		break;
	case REQUEST_ORDER:
		start_order(s);
		break;
	case REQUEST_GRANT:
		request_start(s, REQUEST_GRANT, "/v3/lease/grant", etcd_build_grant(s->where.lease_s));
		break;
	case REQUEST_OWN:
		start_own(s);
		break;
	case REQUEST_KEEPALIVE:
		request_start(s, REQUEST_KEEPALIVE, "/v3/lease/keepalive", etcd_build_keepalive(s->lease));
		break;
	case REQUEST_NONE:
		break;
	}
}

/* ------------------------------------------------------------------ from outside */

int session_global(void)
{
	return curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK ? 0 : -ENOMEM;
}

int session_new(struct session **ret, const struct session_file *files, const struct session_events *events)
{
	struct session *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->multi = curl_multi_init();
	if (!s->multi) {
		free(s);
		return -ENOMEM;
	}
	memcpy(s->files, files, sizeof(s->files));
	s->events = *events;
	s->page_keys = PAGE_KEYS;
	s->has_epoch = true; /* as far as is known: a range comes first */
	STAILQ_INIT(&s->orders);
	*ret = s;
	return 0;
}

struct session *session_free(struct session *s)
{
	struct own *o, *next;
	struct order *order;

	if (!s)
		return NULL;
	request_drop(s);
	watch_drop(s);
	free(s->from);
	HASH_ITER(hh, s->own, o, next) {
		HASH_DEL(s->own, o);
		free(o->value);
		free(o);
	}
	while ((order = STAILQ_FIRST(&s->orders))) {
		STAILQ_REMOVE_HEAD(&s->orders, next);
		order_free(order);
	}
	curl_multi_cleanup(s->multi);
	free(s);
	return NULL;
}

int session_own(struct session *s, const char *key, const char *value)
{
	AUTO_FREE(char) copy = value ? strdup(value) : NULL;
	struct own *o;

	if (value && !copy)
		return -ENOMEM;
	HASH_FIND_STR(s->own, key, o);
	if (!o) {
		if (!value)
			return 0;
		if (HASH_COUNT(s->own) >= LIMIT_SERVICES + 1)
			return -ENOSPC;
		o = calloc(1, sizeof(*o));
		if (!o)
			return -ENOMEM;
		if (!str_copy(o->key, sizeof(o->key), key)) {
			free(o);
			return -ENOSPC;
		}
		HASH_ADD_STR(s->own, key, o);
	}
	free(o->value);
	o->value = take_ptr(copy);
	o->there = o->in_request = false;
	return 0;
}

void session_start(struct session *s, const struct role_etcd *where)
{
	uint8_t r = 0;

	s->where = *where;
	/* Not all hosts ask the same member. */
	if (getrandom(&r, sizeof(r), 0) == sizeof(r))
		s->endpoint = r % s->where.n_endpoints;
	s->started = true;
	set_state(s, ETCD_CONNECTING, "");
}

static void order_add(struct session *s, uint32_t seq, bool accept, const char *key, const char *value)
{
	struct order *o = s->n_orders < ORDERS_MAX ? calloc(1, sizeof(*o)) : NULL;

	if (!s->synced) {
		s->events.done(s->events.arg, seq, -EHOSTDOWN, "etcd is away; nothing was changed");
		free(o);
		return;
	}
	if (o && value && !(o->value = strdup(value))) {
		free(o);
		o = NULL;
	}
	if (!o || !str_copy(o->key, sizeof(o->key), key)) {
		s->events.done(s->events.arg, seq, -ENOBUFS, "too much is being written to etcd already; try again");
		if (o)
			order_free(o);
		return;
	}
	o->seq = seq;
	o->accept = accept;
	STAILQ_INSERT_TAIL(&s->orders, o, next);
	s->n_orders++;
}

void session_write(struct session *s, uint32_t seq, const char *key, const char *value)
{
	order_add(s, seq, false, key, value);
}

void session_accept(struct session *s, uint32_t seq, const char *value)
{
	order_add(s, seq, true, "epoch", value);
}

static int wait_ms(const struct session *s)
{
	uint64_t now = clock_ns(), due = now + POLL_MS * UINT64_C(1000000);

	if (!s->started || s->easy)
		return POLL_MS;
	if (s->pause_until_ns > now)
		due = s->pause_until_ns < due ? s->pause_until_ns : due;
	else if (next_request(s) != REQUEST_NONE)
		return 0;
	else if (s->lease && s->keepalive_ns < due)
		due = s->keepalive_ns;
	if (s->synced && s->own_ns > now && s->own_ns < due && own_due(s))
		due = s->own_ns;
	return due <= now ? 0 : (int)((due - now) / 1000000 + 1);
}

static void on_messages(struct session *s)
{
	CURLMsg *m;
	int left;

	while ((m = curl_multi_info_read(s->multi, &left))) {
		CURLcode code = m->data.result;

		if (m->msg != CURLMSG_DONE)
			continue;
		if (m->easy_handle == s->watch)
			on_watch_over(s, code);
		else if (m->easy_handle == s->easy)
			on_request_over(s, code);
	}
}

int session_poll(struct session *s, struct pollfd *fds, size_t n_fds)
{
	struct curl_waitfd extra[4];
	int running;

	assert(n_fds <= ARRAY_SIZE(extra));
	for (size_t i = 0; i < n_fds; i++)
		extra[i] = (struct curl_waitfd){ .fd = fds[i].fd, .events = (short)((fds[i].events & POLLIN ? CURL_WAIT_POLLIN : 0) |
										   (fds[i].events & POLLOUT ? CURL_WAIT_POLLOUT : 0)) };
	start_next(s);
	if (s->synced && !s->watch)
		watch_start(s);
	if (curl_multi_poll(s->multi, extra, (unsigned)n_fds, wait_ms(s), NULL) != CURLM_OK)
		return -EIO;
	for (size_t i = 0; i < n_fds; i++)
		fds[i].revents = (short)((extra[i].revents & CURL_WAIT_POLLIN ? POLLIN : 0) | (extra[i].revents & CURL_WAIT_POLLOUT ? POLLOUT : 0));
	if (curl_multi_perform(s->multi, &running) != CURLM_OK)
		return -EIO;
	watch_turn(s);
	on_messages(s);
	return 0;
}
