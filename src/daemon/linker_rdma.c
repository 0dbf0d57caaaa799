/*
 * Theory of operation: a session whose frames go over RDMA (docs/design/link.md, "Sessions over RDMA"; docs/design/rdma.md).
 *
 *   rdma_greeted()   both HELLOs had the flag: the client says ASK       rdma_on_frame()   the peer's steps, as they come by TLS
 *   rdma_poll()      what the device tells: only noted in the session's way, which gets its turn
 *   rdma_work()      in the session's turn: what was noted leads to the next step, or to the end
 *   session_gather() puts SWITCH behind the last frame on TLS; from then on session_pump() sends by the ring (linker_out.c)
 *   SWITCH came:     session_receive_ring() takes records (linker_in.c)
 *
 * A session works over TLS all the while, and nothing waits for any of this. Until this side has said SWITCH, whatever fails is a NO: the way
 * is closed, and the session stays on TLS. After that the session ends with its way, as a lost one.
 *
 * What must never happen: a connection to an address that only the peer says is its own; a connection closed while what rdma_poll() told is being worked off (so rdma_poll() closes nothing); ring memory freed
 * before its connection is closed; a frame on TLS after our SWITCH; a record taken before the peer's.
 *
 * Domains: one for each source (linker_source.c), so that a key of one peer's is worth nothing to another, and what one pins is bounded. They stay
 * while they have connections, and while something is held against the peer: it may come back in a new session.
 *
 * On a frame's way before this: linker_out.c. After it: the device, and linker_in.c on the other host.
 */
#include "base/address.h"
#include "base/log.h"
#include "core/revoked.h"
#include "daemon/linker_int.h"
#include "rdma/seal.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>

enum {
	DONES_PER_POLL = 64,
	/* Then sessions have their turn: peers may send immediates faster than they are taken. */
	POLL_ROUNDS = 8,
	/* Operations that a flush may need: a head, and a batch in four pieces. */
	FLUSH_OPS = 5,
	/* A quarter of the smaller one holds a record (RDMA_RECORD_SIZE). */
	CAP_LOG2_MIN = 19,
	CAP_LOG2_MAX = 20,
	/* The only connection that a session tries. */
	NUMBER = 1,
	KEEPALIVE_S = 60,
};
/* A NO, or the end of a session in order, goes by TCP, and may be slower than the connection's end. */
#define WORD_NS (200 * MS_NS)
#define PINNED_MAX ((uint64_t)LIMIT_RDMA_PINNED_MIB << 20)
#define PEER_PINNED_MAX ((uint64_t)LIMIT_RDMA_PEER_MIB << 20)
static_assert((int)FRAME_RDMA_KEY_SIZE == (int)REMOTE_KEY_SIZE, "a key travels whole");
static_assert(RDMA_RECORD_SIZE + (int)SEAL_TAG_SIZE <= (1 << CAP_LOG2_MIN) / 4, "a record fits in every ring");

/* A source, and what is held against it. */
struct rdma_peer {
	UT_hash_handle hh;
	struct source_key key;
	struct remote_domain *domain;
	unsigned n_ways, n_failures; /* failures: since one went well */
	uint64_t pinned;	     /* bytes that its ways take, or will */
	uint64_t rest_until_ns;	     /* no new connection before */
};

/*
 * A session's way over RDMA, from ASK on. What was told of it and not worked off yet: up, ready, broken, down, has_data.
 * conn is NULL until HERE, ring until up.
 */
struct rdma_way {
	TAILQ_ENTRY(rdma_way) of_linker;
	struct session *session;
	struct rdma_peer *peer;
	struct remote_conn *conn;
	struct ring_remote *ring;
	void *memory;
	uint64_t memory_size;
	struct seal_crypto crypto;
	uint8_t secret[SEAL_SECRET_SIZE];
	uint8_t peer_key[REMOTE_KEY_SIZE]; /* key_came */
	uint8_t cap_log2;
	bool up, ready, broken, down, started;
	enum remote_status status; /* of down */
	bool has_data;
	bool waits_ops;	    /* there was no place in the connection's queue */
	uint64_t gone_ns;   /* the peer closed it: what it says of that by TCP is waited for until then; 0: it did not */
	uint64_t full_ns;   /* since when nothing can be sent; 0: it can */
};

/* -- the device */

int linker_set_remote(struct linker *k, struct remote *r, const char *address)
{
	struct sockaddr_storage a;
	socklen_t size;
	int fd = remote_fd(r);

	k->remote = r;
	if (address_parse(address, &a, &size) < 0 || !str_copy(k->remote_address, sizeof(k->remote_address), address))
		return -EINVAL;
	return fd < 0 ? 0 : linker_epoll(k, EPOLL_CTL_ADD, fd, EPOLLIN, linker_ref(LINKER_EVENT_REMOTE, 0));
}

/* What the HELLO of a session for lanes says of it. */
static uint16_t hello_has(const struct linker *k)
{
	if (!k->remote || k->remote_gone || k->rdma_mode == RDMA_OFF)
		return 0;
	return k->rdma_mode == RDMA_PLAIN ? FRAME_HAS_RDMA | FRAME_HAS_PLAIN : FRAME_HAS_RDMA;
}

void linker_set_rdma_mode(struct linker *k, uint32_t mode)
{
	uint16_t before = hello_has(k);

	k->rdma_mode = mode;
	if (hello_has(k) != before)
		session_goaway_all(k);
}

static void device_gone(struct linker *k)
{
	log_error("linker.device_gone", LOG_STR("device", remote_caps(k->remote)->device),
		  LOG_STR("then", "sessions stay on TLS; start the daemon again when the device is back"));
	k->remote_gone = true;
	if (remote_fd(k->remote) >= 0)
		(void)!linker_epoll(k, EPOLL_CTL_DEL, remote_fd(k->remote), 0, 0);
}

/* One thing that was told. Nothing is closed here. */
static void on_done(struct linker *k, const struct remote_done *d)
{
	struct rdma_way *w = remote_conn_user(d->conn);
	int r = 0;

	if (d->kind == REMOTE_DONE_UP) {
		w->up = true;
	} else if (d->kind == REMOTE_DONE_DOWN) {
		w->down = true;
		w->status = d->status;
	} else if (w->ring) {
		r = ring_remote_on_done(w->ring, d);
		w->broken |= r < 0;
		w->ready |= r == RING_REMOTE_READY;
		w->has_data |= r == RING_REMOTE_DATA;
		k->spin.carried += r == RING_REMOTE_DATA;
	}
	session_dirty(k, w->session);
}

/* Those that a full queue held up: are there places again? */
static bool retry(struct linker *k)
{
	struct rdma_way *w;
	bool any = false;

	TAILQ_FOREACH(w, &k->ways, of_linker)
		if (w->waits_ops && remote_room(w->conn) >= FLUSH_OPS) {
			w->waits_ops = false;
			session_dirty(k, w->session);
			any = true;
		}
	return any;
}

bool rdma_poll(struct linker *k)
{
	struct remote_done dones[DONES_PER_POLL];
	unsigned rounds = 0;
	bool any = false;
	int n;

	if (!k->remote || k->remote_gone || (TAILQ_EMPTY(&k->ways) && !k->remote_event))
		return false;
	k->remote_event = false;
	do {
		n = remote_poll(k->remote, dones, DONES_PER_POLL);
		for (int i = 0; i < n; i++)
			on_done(k, &dones[i]);
		any |= n > 0;
	} while (n == DONES_PER_POLL && ++rounds < POLL_ROUNDS);
	k->remote_event = n == DONES_PER_POLL;
	if (n < 0)
		device_gone(k);
	return retry(k) || any;
}

bool rdma_look(struct linker *k, bool sleeps)
{
	if (rdma_poll(k))
		return true;
	return sleeps && k->remote && !k->remote_gone && remote_fd(k->remote) >= 0 && remote_arm(k->remote) == REMOTE_E_READY;
}

uint64_t rdma_due_ns(const struct linker *k)
{
	return !k->remote || k->remote_gone || TAILQ_EMPTY(&k->ways) ? UINT64_MAX : remote_due_ns(k->remote);
}

/* -- peers */

static void rdma_peer_free(struct linker *k, struct rdma_peer *p)
{
	HASH_DEL(k->rdma_peers, p);
	remote_domain_free(p->domain);
	free(p);
}

/* Does nothing keep it? */
static bool rdma_peer_is_done(const struct linker *k, const struct rdma_peer *p)
{
	return p->n_ways == 0 && k->now_ns >= p->rest_until_ns && !remote_domain_quarantine_ns(p->domain);
}

/* Those of old that did something once are kept for as long as there is room. Return: false: nobody's can go. */
static bool rdma_peer_make_room(struct linker *k)
{
	struct rdma_peer *p, *tmp;

	HASH_ITER(hh, k->rdma_peers, p, tmp)
		if (rdma_peer_is_done(k, p)) {
			rdma_peer_free(k, p);
			return true;
		}
	return false;
}

static int rdma_peer_get(struct linker *k, const struct source_key *key, struct rdma_peer **ret)
{
	struct rdma_peer *p = NULL;
	int r;

	HASH_FIND(hh, k->rdma_peers, key, sizeof(*key), p);
	if (!p) {
		p = calloc(1, sizeof(*p));
		if (!p)
			return -ENOMEM;
		p->key = *key;
		do
			r = remote_domain_new(&p->domain, k->remote, PEER_PINNED_MAX);
		while (r == -EMFILE && rdma_peer_make_room(k));
		if (r < 0) {
			free(p);
			return r;
		}
		HASH_ADD(hh, k->rdma_peers, key, sizeof(p->key), p);
	}
	*ret = p;
	return 0;
}

/* A way of its is over. */
static void rdma_peer_put(struct linker *k, struct rdma_peer *p)
{
	p->n_ways--;
	if (p->n_failures == 0 && remote_domain_offences(p->domain, REMOTE_STATUS_N) == 0 && rdma_peer_is_done(k, p))
		rdma_peer_free(k, p);
}

static void rdma_peer_failed(struct linker *k, struct rdma_peer *p)
{
	unsigned n = p->n_failures < LIMIT_RDMA_QUARANTINE_DOUBLED ? p->n_failures : LIMIT_RDMA_QUARANTINE_DOUBLED;

	p->n_failures++;
	p->rest_until_ns = k->now_ns + (LIMIT_RDMA_QUARANTINE_MS * MS_NS << n);
}

/* -- a way's life */

static void tell_path(struct linker *k, const struct session *s, enum session_path path, const char *why)
{
	struct role_msg m = { .type = LB_PATH };
	const struct remote_caps *caps = remote_caps(k->remote);

	m.u.path = (struct role_path){ .session = session_cid(k, s), .path = path, .tag = s->tag };
	if (path == SESSION_PATH_RDMA)
		snprintf(m.u.path.device, sizeof(m.u.path.device), "%.50s%s", caps->device[0] ? caps->device : caps->backend,
			 s->rdma.plain ? ", plain" : "");
	snprintf(m.u.path.why, sizeof(m.u.path.why), "%s", why);
	linker_send(k, &m, -1);
}

void rdma_close(struct linker *k, struct session *s)
{
	struct rdma_way *w = s->rdma.way;

	if (!w)
		return;
	s->rdma.way = NULL;
	TAILQ_REMOVE(&k->ways, w, of_linker);
	remote_close(w->conn);
	ring_remote_free(w->ring);
	if (w->memory)
		munmap(w->memory, w->memory_size);
	k->rdma_pinned -= w->memory_size;
	w->peer->pinned -= w->memory_size;
	if (s->rdma.switched_in && s->rdma.switched_out && !s->rdma.lost)
		w->peer->n_failures = 0;
	rdma_peer_put(k, w->peer);
	explicit_bzero(w->secret, sizeof(w->secret));
	free(w);
}

void rdma_free(struct linker *k)
{
	struct rdma_peer *p, *tmp;

	HASH_ITER(hh, k->rdma_peers, p, tmp)
		rdma_peer_free(k, p);
	remote_free(k->remote);
	k->remote = NULL;
}

/* It does not come to be: the session stays on TLS. */
static void stay(struct linker *k, struct session *s, const char *why)
{
	uint8_t *to = session_control(k, s, FRAME_RDMA_SIZE_MAX);

	if (to)
		session_control_done(k, s, frame_put_rdma_no(to, why));
	s->rdma.no_sent = true;
	rdma_close(k, s);
	tell_path(k, s, SESSION_PATH_TLS, why);
}

/* It failed: a NO, or after SWITCH the end of the session. Return: 0, or -EPROTO: the session is over. */
static int fail(struct linker *k, struct session *s, const char *why)
{
	if (s->phase == PHASE_OVER)
		return -EPROTO;
	if (s->rdma.way)
		rdma_peer_failed(k, s->rdma.way->peer);
	if (!s->rdma.switched_out && !s->rdma.switched_in) {
		stay(k, s, why);
		return 0;
	}
	s->rdma.lost = true;
	tell_path(k, s, SESSION_PATH_LOST, why);
	return session_over(k, s, SESSION_LOST, why);
}

static const char *error_text(char *buf, size_t size, const char *what, int error)
{
	if (error == -EDQUOT)
		snprintf(buf, size, "%s: this peer's sessions have as many connections as they may, or %d MiB of rings", what, LIMIT_RDMA_PEER_MIB);
	else if (error == -EACCES)
		snprintf(buf, size, "%s: the peer broke the rules of RDMA, and is left alone for a while", what);
	else if (error == -EMFILE)
		snprintf(buf, size, "%s: the device has as many connections or regions as it may", what);
	else if (error == -ENOMEM)
		snprintf(buf, size, "%s: out of memory, or of locked memory (LimitMEMLOCK)", what);
	else
		snprintf(buf, size, "%s: %s", what, log_errno_name(error));
	return buf;
}

/* How large its rings are to be; 0: there is no room for any. */
static uint8_t choose_cap(const struct linker *k)
{
	uint8_t cap = k->rdma_pinned > PINNED_MAX / 2 ? CAP_LOG2_MIN : CAP_LOG2_MAX;

	return ring_remote_memory_size(cap) > PINNED_MAX - k->rdma_pinned ? 0 : cap;
}

static int way_secrets(struct session *s, struct rdma_way *w)
{
	w->crypto = (struct seal_crypto){ .libctx = tls_library(s->tls.tls), .query = TLS_LIBRARY_QUERY,
					  .cipher = strstr(tls_cipher_name(&s->tls), "AES_256") ? SEAL_AES_256_GCM : SEAL_AES_128_GCM };
	return tls_export(&s->tls, TLS_EXPORTER_RDMA, w->secret);
}

/* Whose sessions share a domain: those of one host, by whom its certificate was issued to; several hosts may come from one address. */
static struct source_key peer_key(const struct session *s)
{
	const char *part = serial_host_part(s->tls.peer.serial);

	return part ? (struct source_key){ .kind = SOURCE_HOST, .name = strtoull(part, NULL, 16) } : s->source->key;
}

/* @cap_log2: 0: there is no room. Return: NULL, or why not. */
static const char *way_new(struct linker *k, struct session *s, uint8_t cap_log2, char *buf, size_t size)
{
	struct source_key key = peer_key(s);
	struct rdma_peer *p = NULL;
	struct rdma_way *w;
	int r;

	if (cap_log2 == 0)
		return "this host's rings take as much memory as they may (LIMIT_RDMA_PINNED_MIB)";
	r = rdma_peer_get(k, &key, &p);
	if (r < 0)
		return error_text(buf, size, "a domain for the peer", r);
	if (k->now_ns < p->rest_until_ns)
		return "RDMA to this peer failed a moment ago";
	if (remote_domain_quarantine_ns(p->domain))
		return "the peer broke the rules of RDMA, and is left alone for a while";
	/* Also of what is only asked for: it is held until the connection comes, or does not. */
	if (p->n_ways >= LIMIT_RDMA_CONNS / 4 || ring_remote_memory_size(cap_log2) > PEER_PINNED_MAX - p->pinned)
		return error_text(buf, size, "rings for the peer", -EDQUOT);
	w = calloc(1, sizeof(*w));
	if (!w || way_secrets(s, w) < 0) {
		free(w);
		p->n_ways++;
		rdma_peer_put(k, p);
		return "out of memory";
	}
	w->session = s;
	w->peer = p;
	w->cap_log2 = cap_log2;
	w->memory_size = ring_remote_memory_size(cap_log2); /* counted from now on, so that not all who ask get it */
	k->rdma_pinned += w->memory_size;
	p->pinned += w->memory_size;
	p->n_ways++;
	s->rdma.way = w;
	TAILQ_INSERT_TAIL(&k->ways, w, of_linker);
	return NULL;
}

/* The connection is up: memory, registered, and rights for the peer on its half. Return: 0 or negative errno. */
static int make_ring(struct session *s, struct rdma_way *w)
{
	struct ring_remote_options o = { .conn = w->conn, .cap_log2 = w->cap_log2, .crypto = w->crypto, .secret = w->secret, .number = NUMBER,
					 .is_client = s->is_client, .plain = s->rdma.plain };

	w->memory = mmap(NULL, w->memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (w->memory == MAP_FAILED) {
		w->memory = NULL;
		return -ENOMEM;
	}
	o.memory = w->memory;
	return ring_remote_new(&w->ring, &o);
}

/* -- steps */

uint16_t rdma_hello(struct linker *k, struct session *s)
{
	s->rdma.said = s->purpose == FRAME_FOR_LANES ? hello_has(k) : 0;
	return s->rdma.said;
}

static void ask(struct linker *k, struct session *s)
{
	char buf[200];
	uint8_t cap = choose_cap(k), *to;
	const char *why = way_new(k, s, cap, buf, sizeof(buf));

	if (why) {
		tell_path(k, s, SESSION_PATH_TLS, why);
		return;
	}
	to = session_control(k, s, FRAME_RDMA_SIZE_MAX);
	if (!to)
		return;
	s->rdma.asked = true;
	session_control_done(k, s, frame_put_rdma_ask(to, NUMBER, cap));
}

void rdma_greeted(struct linker *k, struct session *s, uint16_t has)
{
	if (!s->rdma.said)
		return;
	s->rdma.possible = has & FRAME_HAS_RDMA;
	s->rdma.plain = s->rdma.said & has & FRAME_HAS_PLAIN;
	if (!s->rdma.possible)
		tell_path(k, s, SESSION_PATH_TLS, "the other host has no RDMA device that it may use");
	else if (s->is_client)
		ask(k, s);
}

static int fault(struct linker *k, struct session *s, const char *why)
{
	return session_over(k, s, SESSION_PROTOCOL, why);
}

static int on_ask(struct linker *k, struct session *s, const struct frame *f)
{
	uint8_t token[REMOTE_TOKEN_SIZE], *to;
	char buf[200];
	const char *why;
	int r;

	if (s->rdma.asked)
		return fault(k, s, "RDMA ASK for the second time");
	s->rdma.asked = true;
	if (f->u.rdma.number != NUMBER)
		return fault(k, s, "RDMA ASK for a number that is not the first");
	if (f->u.rdma.cap_log2 < CAP_LOG2_MIN || f->u.rdma.cap_log2 > CAP_LOG2_MAX) {
		stay(k, s, "rings of a size that this host does not take");
		return 0;
	}
	why = way_new(k, s, ring_remote_memory_size(f->u.rdma.cap_log2) > PINNED_MAX - k->rdma_pinned ? 0 : f->u.rdma.cap_log2, buf, sizeof(buf));
	if (why) {
		stay(k, s, why);
		return 0;
	}
	r = seal_token(token, &s->rdma.way->crypto, s->rdma.way->secret, NUMBER);
	if (r == 0)
		r = remote_expect(&s->rdma.way->conn, s->rdma.way->peer->domain, token);
	explicit_bzero(token, sizeof(token));
	if (r < 0) {
		stay(k, s, error_text(buf, sizeof(buf), "a connection from the peer", r));
		return 0;
	}
	remote_conn_set_user(s->rdma.way->conn, s->rdma.way);
	to = session_control(k, s, FRAME_RDMA_SIZE_MAX);
	if (to)
		session_control_done(k, s, frame_put_rdma_here(to, NUMBER, k->remote_address));
	return 0;
}

static int on_here(struct linker *k, struct session *s, const struct frame *f)
{
	struct rdma_way *w = s->rdma.way;
	uint8_t token[REMOTE_TOKEN_SIZE];
	char buf[200];
	int r;

	if (!w || w->conn)
		return fault(k, s, "RDMA HERE that was not asked for");
	if (f->u.rdma.number != NUMBER)
		return fault(k, s, "RDMA HERE for a number that was not asked for");
	if (!peer_is_of_host(k, s, f->u.rdma.address)) {
		snprintf(buf, sizeof(buf), "%s, where your device is said to be, is no address of yours that this host knows: its host block can have rdma_listen", f->u.rdma.address);
		stay(k, s, buf);
		return 0;
	}
	r = seal_token(token, &w->crypto, w->secret, NUMBER);
	if (r == 0)
		r = remote_connect(&w->conn, w->peer->domain, f->u.rdma.address, token);
	explicit_bzero(token, sizeof(token));
	if (r < 0) {
		const char *why = error_text(buf, sizeof(buf), "a connection to the peer", r);

		if (r != -EMFILE && r != -ENOMEM && r != -EDQUOT)
			return fail(k, s, why);
		stay(k, s, why); /* for want of something here, which is nothing against the peer */
		return 0;
	}
	remote_conn_set_user(w->conn, w);
	return 0;
}

/* Both keys are there: this side may go over. */
static int start(struct linker *k, struct session *s)
{
	struct rdma_way *w = s->rdma.way;

	if (w->started || !s->rdma.key_sent || !s->rdma.key_came)
		return 0;
	if (ring_remote_start(w->ring, w->peer_key) < 0)
		return fault(k, s, "RDMA KEY that is none of such a ring");
	w->started = true;
	session_dirty(k, s);
	return 0;
}

static int on_key(struct linker *k, struct session *s, const struct frame *f)
{
	if (s->rdma.key_came)
		return fault(k, s, "RDMA KEY for the second time");
	s->rdma.key_came = true;
	if (!s->rdma.way && s->rdma.no_sent)
		return 0; /* it crossed our NO */
	if (!s->rdma.way || !s->rdma.way->conn)
		return fault(k, s, "RDMA KEY without a connection");
	memcpy(s->rdma.way->peer_key, f->u.rdma.key, REMOTE_KEY_SIZE);
	return start(k, s);
}

/* Both directions are rings. */
static void both(struct linker *k, struct session *s)
{
	static const struct {
		int name, value;
	} probes[] = { { TCP_KEEPIDLE, KEEPALIVE_S }, { TCP_KEEPINTVL, KEEPALIVE_S / 4 } };
	int on = 1;

	if (!s->rdma.switched_in || !s->rdma.switched_out)
		return;
	/* Nothing is said on it any more, and whoever stands between would forget it. */
	(void)!setsockopt(s->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	for (size_t i = 0; i < ARRAY_SIZE(probes); i++)
		(void)!setsockopt(s->fd, IPPROTO_TCP, probes[i].name, &probes[i].value, sizeof(probes[i].value));
	tell_path(k, s, SESSION_PATH_RDMA, "");
}

static int on_switch(struct linker *k, struct session *s)
{
	if (s->rdma.no_sent)
		return session_over(k, s, SESSION_LOST, "the other side went over to RDMA, which had failed here");
	if (!s->rdma.way || !s->rdma.key_sent || !s->rdma.key_came)
		return fault(k, s, "RDMA SWITCH before both keys");
	s->rdma.switched_in = true;
	s->rdma.way->has_data = true; /* there may be something already */
	both(k, s);
	return 0;
}

static int on_no(struct linker *k, struct session *s, const struct frame *f)
{
	char why[sizeof(((struct role_path *)NULL)->why)];

	if (s->rdma.no_came || !s->rdma.asked)
		return fault(k, s, "RDMA NO to nothing");
	s->rdma.no_came = true;
	if (s->rdma.switched_out)
		return fail(k, s, "RDMA failed at the other side, as this one went over to it");
	if (!s->rdma.way)
		return 0; /* it crossed ours */
	rdma_close(k, s);
	snprintf(why, sizeof(why), "the other host: %.200s", f->u.rdma.why);
	tell_path(k, s, SESSION_PATH_TLS, why);
	return 0;
}

int rdma_on_frame(struct linker *k, struct session *s, const struct frame *f)
{
	if (!s->rdma.possible || s->rdma.switched_in || s->rdma.no_came)
		return fault(k, s, "RDMA where it is not due");
	switch ((enum rdma_step)f->u.rdma.step) {
	case RDMA_ASK:
		return on_ask(k, s, f);
	case RDMA_HERE:
		return on_here(k, s, f);
	case RDMA_KEY:
		return on_key(k, s, f);
	case RDMA_SWITCH:
		return on_switch(k, s);
	default:
		return on_no(k, s, f);
	}
}

/* -- in the session's turn */

bool rdma_switch_is_due(const struct session *s)
{
	const struct rdma_way *w = s->rdma.way;

	return w && w->started && !w->down && !w->broken && !s->rdma.switched_out;
}

void rdma_switched(struct linker *k, struct session *s)
{
	s->rdma.switched_out = true;
	both(k, s);
}

/* The connection is up, or the ring may be told of. */
static int go_on(struct linker *k, struct session *s)
{
	struct rdma_way *w = s->rdma.way;
	uint8_t key[REMOTE_KEY_SIZE], *to;
	char buf[200];
	int r;

	if (w->up && !w->ring) {
		r = make_ring(s, w);
		if (r < 0) {
			stay(k, s, error_text(buf, sizeof(buf), "memory for the rings", r));
			return 0;
		}
	}
	if (!w->ready || s->rdma.key_sent)
		return 0;
	to = session_control(k, s, FRAME_RDMA_SIZE_MAX);
	if (!to)
		return -EPROTO;
	ring_remote_key(w->ring, key);
	session_control_done(k, s, frame_put_rdma_key(to, key));
	s->rdma.key_sent = true;
	return start(k, s);
}

/* The peer may have given it up, or ended the session in order, and is about to say so. */
static bool waits_for_word(struct linker *k, const struct session *s)
{
	struct rdma_way *w = s->rdma.way;

	if (w->status != REMOTE_PEER_GONE)
		return false;
	if (!w->gone_ns) {
		w->gone_ns = k->now_ns + WORD_NS;
		linker_wake_at(k, w->gone_ns);
	}
	return k->now_ns < w->gone_ns;
}

int rdma_work(struct linker *k, struct session *s)
{
	struct rdma_way *w = s->rdma.way;
	char why[200];

	if (!w)
		return 0;
	if (!w->down && !w->broken)
		return go_on(k, s);
	if (!w->broken && waits_for_word(k, s))
		return 0;
	if (s->rdma.switched_in && !w->broken)
		session_receive_ring(k, s, true); /* what had come is still taken */
	if (s->phase == PHASE_OVER)
		return -EPROTO;
	if (w->broken || w->status == REMOTE_OFFENCE)
		return fail(k, s, "the ring was broken: the peer, or somebody on the RDMA network, does not keep to the rules");
	snprintf(why, sizeof(why), w->up ? "the RDMA connection broke: %s" : "no RDMA connection: %s", remote_status_name(w->status));
	return fail(k, s, why);
}

int rdma_failed(struct linker *k, struct session *s, int error)
{
	char why[200];

	if (error == -EPROTO)
		return fail(k, s, "the ring was broken: the peer, or somebody on the RDMA network, does not keep to the rules");
	if (error == -EMSGSIZE)
		return fault(k, s, "a record of the ring that is no part of a stream of frames");
	if (error == -ENOTCONN)
		return 0; /* REMOTE_DONE_DOWN says why */
	snprintf(why, sizeof(why), "the ring: %s", log_errno_name(error));
	return fail(k, s, why);
}

bool rdma_has_data(const struct session *s)
{
	return s->rdma.switched_in && s->rdma.way && s->rdma.way->has_data;
}

int rdma_receive(struct session *s, uint8_t *to, uint32_t *ret_size)
{
	struct rdma_way *w = s->rdma.way;
	struct ring_remote_record record;
	int r = ring_remote_receive(w->ring, to, RDMA_RECORD_SIZE, &record);

	if (r == RING_E_EMPTY)
		w->has_data = false;
	if (r != 0)
		return r;
	*ret_size = record.size;
	return record.flags || record.tag || record.size == 0 ? -EMSGSIZE : 0;
}

bool rdma_has_room(struct linker *k, struct session *s)
{
	int r;

	if (s->rdma.way->down) /* why is about to be known: what is not taken from applications is not lost */
		return false;
	r = ring_remote_has_room(s->rdma.way->ring, RDMA_RECORD_SIZE);
	if (r < 0)
		(void)rdma_failed(k, s, r);
	if (r == 0)
		s->rdma.way->full_ns = 0;
	if (r == RING_E_FULL && !s->rdma.way->full_ns) {
		s->rdma.way->full_ns = k->now_ns;
		linker_wake_at(k, k->now_ns + k->trust.timeout_ms * MS_NS);
	}
	return r == 0;
}

int rdma_send(struct session *s, const uint8_t *bytes, uint32_t size)
{
	return ring_remote_send(s->rdma.way->ring, 0, 0, bytes, size);
}

void rdma_flush(struct linker *k, struct session *s)
{
	struct rdma_way *w = s->rdma.way;
	int r = ring_remote_flush(w->ring);

	w->waits_ops = r == RING_E_FULL && remote_room(w->conn) < FLUSH_OPS;
	if (r < 0)
		(void)rdma_failed(k, s, r);
}

/* -- time */

uint64_t rdma_tick(struct linker *k, struct session *s)
{
	struct rdma_way *w = s->rdma.way;
	uint64_t due;

	if (w && w->gone_ns) {
		session_dirty(k, s);
		return w->gone_ns > k->now_ns ? w->gone_ns : UINT64_MAX;
	}
	if (!w || !w->full_ns)
		return UINT64_MAX;
	due = w->full_ns + k->trust.timeout_ms * MS_NS;
	if (k->now_ns >= due)
		session_over(k, s, SESSION_TIMEOUT, "the other side took nothing from its ring for link_timeout");
	return due;
}

void rdma_drain(struct linker *k, struct session *s)
{
	if (!s->rdma.switched_in || s->phase == PHASE_OVER)
		return;
	(void)rdma_poll(k);
	if (s->rdma.way->ring && !s->rdma.way->broken)
		session_receive_ring(k, s, true);
}

void rdma_end(struct linker *k, struct session *s)
{
	struct rdma_way *w = s->rdma.way;

	if (!w || !w->down || !s->rdma.switched_out || s->phase == PHASE_OVER)
		return;
	w->gone_ns = k->now_ns; /* no word of it comes any more */
	(void)!rdma_work(k, s);
}
