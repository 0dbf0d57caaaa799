/*
 * Inside the linker, one thread:
 *   linker.c          the loop, the broker's channel, the signer's
 *   linker_table.c    slots of sessions and lanes, and what finds them
 *   linker_peer.c     hosts, routes to them, dialling, accepting
 *   linker_session.c  a session's life: handshake, HELLO, time, proofs, its end
 *   linker_in.c       ciphertext -> frames -> lanes
 *   linker_out.c      lanes -> frames -> ciphertext
 *   linker_rdma.c     a session's frames over RDMA instead
 *   linker_lane.c     a lane: between a session and an application, and its ends
 *   linker_socket.c   an application behind a socket
 *   linker_ring.c     an application that has the library: its lane in shared memory
 *   linker_kept.c     what came for an application that does not read
 *   linker_source.c   whom sessions come from, and what each of those takes
 *   linker_ca.c       certificates' questions and answers, and what hosts announce
 *
 * A lane here is a `llane`: the broker, in the same program, has a struct lane of its own.
 */
#ifndef DAEMON_LINKER_INT_H
#define DAEMON_LINKER_INT_H

#include "base/chan.h"
#include "base/spin.h"
#include "core/bucket.h"
#include "daemon/gate_table.h"
#include "daemon/linker.h"
#include "link/flow.h"
#include "link/frame.h"
#include "link/tls.h"
#include "rdma/ring_remote.h"
#include "shm/region.h"
#include "shm/wake.h"

#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <uthash.h>

enum {
	/* One receive, one gathering of plaintext, and the ciphertext that may wait: where throughput stopped growing. */
	LINKER_BATCH_SIZE = 128 << 10,
	LINKER_RECORDS = LINKER_BATCH_SIZE / FRAME_SIZE_MAX,
	/* Room for a batch on top of what waits, with each record's header and tag, and for handshakes and key updates. */
	LINKER_CHUNK_SIZE = 2 * LINKER_BATCH_SIZE + (64 << 10),
	/* Frames of the session itself that may wait before nothing more is read from a peer that does not read. */
	LINKER_CONTROL_SIZE_MAX = 256 << 10,
	/* Services that one session's far host may have proven. */
	LINKER_PROOFS_MAX = 4096,
	LINKER_STATS_ASKERS = 16,
	/* As many addresses as a configuration has (CONFIG_LISTEN_MAX). */
	LINKER_LISTENERS = 8,
	/* Of what one source causes, so many have a count of their own; two that share one are told of less often. */
	LINKER_TELLERS = 256,
	/* Parts of one write to an application: a batch of small messages. */
	RUN_MAX = 64,
	/* Plaintext of a ring's record, at most: four whole frames. Larger ones would be sealed for longer before the first byte leaves. */
	RDMA_RECORD_SIZE = 4 * FRAME_SIZE_MAX,
};

#define MS_NS UINT64_C(1000000)
#define CONNECT_NS (5000 * MS_NS)
#define HANDSHAKE_NS (5000 * MS_NS)
#define SILENCE_NS (5000 * MS_NS)
/* Nothing heard for so long: it is asked before a client's bytes go out. A round trip, after a pause in which nobody counted on speed. */
#define QUIET_NS (2000 * MS_NS)
/* A question to an authority, with its answer. */
#define QUESTION_NS (30000 * MS_NS)

enum linker_event { LINKER_EVENT_CHANNEL, LINKER_EVENT_LISTENER, LINKER_EVENT_SESSION, LINKER_EVENT_LANE, LINKER_EVENT_REMOTE };

/*
 * States of a lane, as permissions:
 *   FREE      nothing may touch it.
 *   WAITING   ours to another host; its session is not up. Nothing is read. Left when the session is (-> OPENING) or is over (-> FREE).
 *   OPENING   OPEN was sent: DATA may be sent. Left by OPENED (-> OPEN) and REFUSED (-> FREE).
 *   ASKED     a peer's; the broker is asked. There is no socket: DATA is kept. Left by BL_GO (-> OPEN, or JOINING) and BL_NO (-> FREE).
 *   JOINING   a peer's, to a library: the porter has our CTL_CONNECT. Nothing may come. Left by its answer (-> OPEN, or FREE), by time.
 *   OPEN      both ways. Left when both directions are done, by RESET or BL_CUT.
 *   DRAINING  its number is done with and it belongs to no session any more: what was kept is still written to the application.
 *   LINGERING a library's; it has ended, and nobody here knows it any more. Its bell stays open until the library was told why. Left when it hangs up,
 *             or by time (-> FREE).
 */
enum lane_state { LANE_FREE, LANE_WAITING, LANE_OPENING, LANE_ASKED, LANE_JOINING, LANE_OPEN, LANE_DRAINING, LANE_LINGERING };

struct session;
struct linker;
struct llane;
struct rdma_way;
struct rdma_peer;
struct lring;

/*
 * What is different for applications behind a socket and those that have the library. What came for a library is whole frames, with their headers,
 * and counts so, also where it is kept: the header says where a message ends.
 */
struct app_ops {
	/*
	 * take() - DATA of what it says, in room for @n_frames at @to, for at most @max bytes of credit. Return: bytes at @to. When there is no
	 * more, ready is false, and epoll will tell; where there is not credit enough, wants says how much is. The lane may have ended.
	 */
	size_t (*take)(struct linker *k, struct llane *l, uint8_t *to, size_t n_frames, size_t max);
	/*
	 * give() - what came for it. Return: how much of @size it took. Less: it is full (blocked), it takes no more (llane_break()), or what is left is
	 * not all of a record.
	 */
	size_t (*give)(struct linker *k, struct llane *l, struct iovec *iov, size_t n_iov, size_t size);
	/* arm() - after give(): is epoll to tell of room? */
	void (*arm)(struct linker *k, struct llane *l);
	/* event() - what epoll told, or 0: note it in ready, closing, blocked. Return: false: nothing is to be done, or the lane has ended. */
	bool (*event)(struct linker *k, struct llane *l, uint32_t events);
	/* shut() - it has all that came, and learns that there is no more. deafen() - what it says is not read any more. */
	void (*shut)(struct llane *l);
	void (*deafen)(struct llane *l);
};

/*
 * Everybody at one address, or in one IPv6 /64; or whoever has certificates that were issued to one host. Made for the first session, gone with the last that
 * refers to it.
 */
enum source_kind { SOURCE_ADDRESS, SOURCE_HOST };
struct source {
	UT_hash_handle hh;
	struct source_key {
		uint64_t kind, name;
	} key;
	uint32_t refs; /* sessions, and lanes that keep something */
	uint32_t n_strangers;
	uint32_t n_sessions;  /* that began there, and have proven whose they are */
	uint32_t n_questions; /* of these, to ask this host's authority */
	uint32_t n_joiners;
	uint64_t kept_size; /* memory of what its lanes keep */
	uint64_t answers_size; /* memory of its sessions' control */
	bool unheard;	       /* some of its sessions are not read from for that */
	uint32_t n_chunks;     /* that its sessions have */
	TAILQ_HEAD(, session) waits; /* those that have none, and wait for one */
};

/* How often something is told in the log, and how often it was not since. */
struct teller {
	struct bucket lines;
	uint64_t n_untold;
};

struct llane {
	enum lane_state state;
	uint32_t generation;
	uint32_t number; /* in its session */
	uint32_t kid;	 /* inbound: whose certificate was shown for it */
	uint32_t wid;	 /* of a library's: its workload, below LIMIT_WORKLOADS */
	uint64_t id;	 /* the broker's; 0: none yet */
	int fd;		 /* owned; what epoll watches: the application's socket; of a library the porter's connection, and then the bell. -1: none (yet) */
	bool outbound;
	uint8_t kind; /* enum link_kind */
	const struct app_ops *app;
	struct lring *ring; /* owned; of a library, from OPEN on, or JOINING */
	struct session *session; /* NULL: DRAINING */
	struct flow flow;
	struct bucket bucket;
	uint64_t debt;	 /* tokens that whole records took beyond what there was */
	uint64_t due_ns; /* paused: when there are tokens; JOINING, LINGERING: until when */

	/* From the application. */
	bool ready;    /* there may be something to read */
	bool closing;  /* it said that it ends: a short read does not mean that nothing else is there */
	bool fin_sent; /* it ended, and we said so */
	uint32_t wants; /* credit without which nothing more can be sent; at least 1 */
	const char *fault; /* how its library broke the format: the lane is over. NULL: not */

	/* To the application. */
	uint8_t *kept; /* owned: a ring of kept_cap bytes that it did not take yet; NULL most of the time */
	uint32_t kept_at, kept_size, kept_cap;
	struct source *holder; /* a reference: whose kept_cap is counted; NULL: nothing is kept */
	bool fin_received;
	bool in_message; /* a message has begun, whose pieces have this tag */
	uint8_t message_tag;
	bool blocked; /* its socket, or ring, is full */
	bool armed;   /* epoll is asked for EPOLLOUT */
	bool broken;  /* it takes no more: what comes is dropped */
	bool ended;   /* it was told that there is no more */

	enum lane_end end; /* the first fault */
	int error;
	uint64_t bytes_in, bytes_out, reads_in, reads_out; /* in: from the far end */
	bool in_ready, in_credits, in_paused, in_joining, in_watched, in_lingering;
	TAILQ_ENTRY(llane) of_session, queue, credits, watched; /* queue: ready, paused, joining or lingering */
	char destination[LIMIT_SERVICE_SIZE];
};
TAILQ_HEAD(llane_list, llane);

/* A text that several sessions send, and a part of it that is on its way. */
struct blob {
	unsigned refs;
	size_t size;
	char bytes[];
};

/*
 * States of a session, as permissions:
 *   FREE       nothing may touch it.
 *   DIALING    the broker was asked for a socket. Left by BL_DIALED.
 *   CONNECTING its socket connects. Left when it can be written to.
 *   HANDSHAKE  bytes are TLS's own. Left by session_established().
 *   GREETED    our HELLO was sent, the peer's is awaited; a client may open lanes and send FRAME_WINDOW_MIN on each.
 *   UP         everything.
 *   OVER       nothing more is read or written; it lies in linker.over until the end of the turn, since lanes may still refer to it.
 */
enum session_phase { PHASE_FREE, PHASE_DIALING, PHASE_CONNECTING, PHASE_HANDSHAKE, PHASE_GREETED, PHASE_UP, PHASE_OVER };

struct proof {
	SLIST_ENTRY(proof) next;
	struct pki_identity who;
	bool ended; /* true, but not to be taken: revoked, expired. No lane stands on it until it is proven anew, or it may be taken again */
	char service[LIMIT_SERVICE_SIZE];
};
SLIST_HEAD(proof_list, proof);

struct shown {
	SLIST_ENTRY(shown) next;
	uint32_t kid;
};
SLIST_HEAD(shown_list, shown);

struct route;

/* What was said of RDMA on a session: its steps, each once (linker_rdma.c). */
struct session_rdma {
	struct rdma_way *way; /* owned; NULL: not asked for (yet), or given up: the session is on TLS */
	uint16_t said;	    /* of it in our HELLO: FRAME_HAS_RDMA, FRAME_HAS_PLAIN */
	bool possible;	    /* both HELLOs had FRAME_HAS_RDMA */
	bool plain; /* both hosts' networks encrypt below: nothing is sealed */
	bool asked, no_sent, no_came;
	bool key_sent, key_came;
	bool switched_out, switched_in; /* our frames go by the ring; the peer's come by it */
	bool lost; /* it broke after that */
};

struct session {
	enum session_phase phase;
	uint32_t generation;
	int fd; /* owned; -1: none */
	bool is_client;
	enum frame_purpose purpose; /* from HANDSHAKE's end on */
	struct tls_conn tls;
	struct route *route; /* client: NULL for questions to an authority */
	uint32_t kid, hid;   /* what we show (server: 0); client: where to, or ROLE_NO_ID */
	struct role_ca *ca;  /* owned; client: what BL_CA_OPEN said */
	uint32_t req;	     /* client: of BL_CA_OPEN; server: a question is with the broker; ROLE_NO_ID: none, or answered */
	uint32_t peer_window;
	uint32_t last_number; /* of the newest lane */
	uint32_t tag;	      /* lanes only: what both sides call the session, for people; see link_lane_id() */
	bool goaway_sent, goaway_received, told_up;
	char address[LIMIT_ADDRESS_SIZE];
	struct source *source; /* a reference; the far side's address. NULL: DIALING */
	struct source *host;   /* a reference; server: to whom the far side's certificate was issued. NULL: its serial does not say */
	bool counted;	       /* among those of both, as one that was begun there and has proven whose it is */
	bool is_stranger;      /* in linker.strangers */
	bool is_joiner;	       /* it joins, and its question is with the broker */
	bool asks_later;       /* its question is in `text` until there is room among those */
	bool dropped;	       /* OVER: to make room for a newer stranger */
	TAILQ_ENTRY(session) stranger;

	struct llane_list lanes, ready, credits;
	uint32_t n_lanes;
	uint64_t n_opened, n_refused;

	/* In. */
	bool readable, closing;
	uint8_t *partial; /* owned: the start of a frame whose rest is in the next record; NULL most of the time */
	size_t partial_size;
	struct bucket announcements, new_proofs; /* how many more may come now */
	char *text; /* owned: of ANNOUNCE, CA_ASK, CA_ANSWER, as far as MORE has brought it */
	size_t text_size, text_cap;
	char *news; /* owned: the newest ANNOUNCE, as long as it has to wait; NULL: none does */
	size_t news_size;

	/* Out. */
	bool writable;
	struct chunk *chunk; /* from the pool: ciphertext that waits; NULL: none */
	struct source *chunk_of; /* whose chunks it is counted among: source or host */
	bool chunk_granted;	 /* source_grants_chunk() said so; else it was lent for what TLS itself may have to say */
	size_t chunk_off, chunk_size;
	uint8_t *control; /* owned: frames of the session's own, and short ones of lanes */
	size_t control_off, control_size, control_cap;
	struct source *control_of; /* whose answers control_cap is counted among; NULL: there is none */
	bool in_waits;
	TAILQ_ENTRY(session) waits;
	struct blob *blob; /* ANNOUNCE, CA_ASK, CA_ANSWER that is on its way */
	size_t blob_off;
	enum frame_type blob_type;
	struct blob *next_blob; /* a newer ANNOUNCE */

	/* Who. */
	struct proof_list proofs; /* what the far host serves */
	unsigned n_proofs;
	struct shown_list shown; /* what we proved to it */

	/* Time. */
	uint64_t deadline_ns; /* DIALING to GREETED; UP: of questions to an authority */
	uint64_t up_ns;
	uint64_t heard_ns, ping_ns, idle_ns;
	uint64_t asked_ns, answered_ns; /* PING before its end: sent, and that of the last PONG */

	struct session_rdma rdma;
	enum session_reason reason; /* OVER */
	char why[256];
	uint64_t bytes_in, bytes_out, n_reads, n_writes;
	uint64_t rdma_in, rdma_out; /* of these bytes, by the rings */
	struct session_queue *dirty; /* where it waits for its turn; NULL: it does not */
	TAILQ_ENTRY(session) queue;  /* that; or over */
};
TAILQ_HEAD(session_list, session);

struct session_queue {
	struct session_list list;
	unsigned n;
};

struct chunk {
	SLIST_ENTRY(chunk) next;
	uint8_t bytes[LINKER_CHUNK_SIZE];
};
SLIST_HEAD(chunk_list, chunk);

struct host {
	UT_hash_handle hh;
	struct role_host role; /* key: hid */
	struct bucket announced; /* bytes of what it announces that may be handed on now; not begun anew with its session */
};

/* The way from one of our identities to one host. */
struct route {
	UT_hash_handle hh;
	struct {
		uint32_t kid, hid;
	} key;
	struct session *session; /* that takes new lanes; NULL: none */
	SSL_SESSION *ticket;	 /* owned */
	bool keep;
	unsigned n_failures;
	uint64_t dial_at_ns; /* keep: not before */
};

struct linker_stats_job {
	uint32_t askers[LINKER_STATS_ASKERS];
	uint32_t n_askers;
	uint32_t at_lane, at_session;
};

/* DATA of one lane, from one batch, that is written to its application in one call. */
struct run {
	struct llane *lane;
	struct iovec iov[RUN_MAX];
	unsigned n;
	size_t size;
};

struct linker {
	int epoll_fd;
	struct chan broker, signer; /* signer.fd -1: not told of it yet */
	uint32_t signer_seq;
	bool broker_armed;
	int error;
	struct tls *tls;
	struct role_trust trust;
	bool have_trust, draining;
	int listeners[LINKER_LISTENERS]; /* owned; -1: none */
	unsigned n_listeners;
	bool listening; /* epoll has them */
	uint64_t accept_at_ns; /* after a failed accept */
	uint64_t full_warn_at_ns;
	uint64_t fd_limit;

	struct llane *lanes;
	struct session *sessions;
	uint32_t *free_lanes, *free_sessions;
	uint32_t n_lanes, n_sessions; /* in use */
	struct idmap lanes_by_id, lanes_by_number;
	struct host *hosts;
	struct route *routes;
	struct blob *announce;
	struct linker_shared {
		uint32_t number; /* 0: none */
		struct blob *text;
	} shared[2]; /* answers to questions that many get: the newest of even and of odd number */

	struct session_queue dirty, dirty_strangers; /* whoever has something to do */
	struct session_list over;
	struct session_list strangers; /* in the order in which they came */
	unsigned n_strangers;
	unsigned n_proven, proven_max; /* sessions that others began and that have proven whose they are */
	unsigned n_joiners, joiners_max;
	bool joiner_left; /* somebody who waits to be one may be */
	unsigned chunks_max; /* of one source; and bytes of answers */
	uint64_t answers_max;
	uint64_t n_dropped, dropped_warn_at_ns;
	struct bucket refusals; /* how many more of strangers the broker is told of now */
	int64_t strangers_credit_ns; /* time that may be spent on them while others are busy */
	uint64_t strangers_at_ns;    /* when it was counted last */
	uint64_t strangers_spent_ns; /* in this turn */
	bool busy;		     /* somebody else had work when sessions had their turn last */
	bool strangers_wait;	     /* some had work that there was no time for */
	bool accepts_next;	     /* then those who wait to be accepted and those who were take turns */
	struct llane_list paused;
	uint64_t paused_due_ns, tick_due_ns;
	struct llane_list joining, lingering; /* the first is due first */
	struct llane_list watched;   /* whose rings were empty since we slept last: looked at, where others have to ring */
	uint32_t n_watched;
	uint64_t rings_size, rings_max; /* of the regions that we made for libraries */
	uint64_t *rings_of;	     /* the same of each workload, by wid */
	uint32_t n_ring_fds;	     /* lanes' descriptors beyond one */
	uint64_t fault_warn_at_ns;
	uint32_t n_faults_untold;
	struct chunk_list pool;
	uint64_t kept_size, kept_max; /* memory of all lanes' rings */
	uint64_t handshake_ns;	      /* HANDSHAKE_NS, but in tests */
	uint64_t kept_warn_at_ns;
	struct source *sources;
	uint64_t source_secret[2];
	struct teller tellers[LINKER_TELLERS]; /* by the hash of a source: whoever comes again finds what it has used up */
	struct teller signer_teller, accept_teller;
	bool stalled;	    /* a session is not read from, because the broker's queue is long */
	unsigned n_pool;
	struct run run;
	uint8_t *in_cipher, *in_plain, *out_plain;
	uint64_t now_ns;
	struct linker_stats_job stats;
	struct spin spin;
	bool ticks; /* somebody's descriptor may lie in a queue of ours */
	struct remote *remote; /* owned; NULL: no RDMA device */
	char remote_address[LIMIT_ADDRESS_SIZE]; /* where it listens */
	uint32_t rdma_mode; /* linker_set_rdma_mode() */
	bool remote_gone, remote_event; /* the device is; epoll told of it */
	TAILQ_HEAD(, rdma_way) ways;
	struct rdma_peer *rdma_peers;
	uint64_t rdma_pinned; /* bytes of all ways */
};

/* --- linker.c --- */
uint64_t linker_ref(enum linker_event kind, uint32_t number);
MUST_CHECK int linker_epoll(struct linker *k, int op, int fd, uint32_t events, uint64_t ref);
void linker_fail(struct linker *k, int error);
void linker_send(struct linker *k, const struct role_msg *m, int fd);
/* linker_wake_at() - a tick not later than this. */
void linker_wake_at(struct linker *k, uint64_t at_ns);
/* linker_sign() - remote_key_sign: ask the signer, wait for it. */
int linker_sign(void *arg, uint32_t kid, const uint8_t digest[32], uint8_t ret[SIGNATURE_SIZE]);
/* linker_refuse_fds() - @sock leads to a container. */
void linker_refuse_fds(struct linker *k, int sock);
/* linker_read_fd() - a memfd's text. *ret: owned, NUL-terminated. Return: 0; -EFBIG: over @max; other negative errno. */
MUST_CHECK int linker_read_fd(int fd, size_t max, char **ret, size_t *ret_size);
/* linker_text_fd() - the other way: a memfd. Return: it, or negative errno. */
MUST_CHECK int linker_text_fd(const char *name, const char *text, size_t size);

/* --- linker_table.c --- */
MUST_CHECK int linker_tables_init(struct linker *k);
void linker_tables_free(struct linker *k);
/* llane_take() - a slot in state @state, or NULL: all are in use. */
struct llane *llane_take(struct linker *k, enum lane_state state);
void llane_give(struct linker *k, struct llane *l);
uint32_t llane_cid(const struct linker *k, const struct llane *l);
struct llane *llane_find(struct linker *k, uint32_t cid);
struct llane *llane_by_id(struct linker *k, uint64_t id);
void llane_set_id(struct linker *k, struct llane *l, uint64_t id);
void llane_unset_id(struct linker *k, struct llane *l); /* idempotent */
struct llane *llane_by_number(struct linker *k, const struct session *s, uint32_t number);
/* llane_set_number(), llane_unset_number() - what the far side calls it. */
void llane_set_number(struct linker *k, struct llane *l, uint32_t number);
void llane_unset_number(struct linker *k, struct llane *l);
struct session *session_take(struct linker *k);
void session_give(struct linker *k, struct session *s);
uint32_t session_cid(const struct linker *k, const struct session *s);
struct session *session_find(struct linker *k, uint32_t cid);
struct chunk *chunk_take(struct linker *k); /* NULL: out of memory */
void chunk_give(struct linker *k, struct chunk *c);
struct blob *blob_new(const char *bytes, size_t size); /* one reference; NULL: out of memory */
void blob_unref(struct blob *b);

/* --- linker_peer.c --- */
void peer_set_host(struct linker *k, const struct role_host *m);
/* peer_is_of_host() - is that one of the addresses of the host that client session @s leads to, as it was dialled or as the broker says? */
bool peer_is_of_host(const struct linker *k, const struct session *s, const char *address);
void peer_host_gone(struct linker *k, uint32_t hid);
/* peer_carry() - BL_CARRY. Taken from @fd if the lane is begun. Return: 0 or -EBADMSG. */
MUST_CHECK int peer_carry(struct linker *k, const struct role_carry *m, int *fd);
void peer_dialed(struct linker *k, const struct role_dialed *m, int *fd);
/* peer_dial_ca() - a session to an authority. */
void peer_dial_ca(struct linker *k, const struct role_ca *m);
/* peer_listen() - here as well. peer_unlisten() - nowhere. peer_accept() - who waits at the @i-th. */
MUST_CHECK int peer_listen(struct linker *k, int *fd);
void peer_unlisten(struct linker *k);
void peer_accept(struct linker *k, uint32_t i);
/* peer_rearm() - listen again, or stop, as there is room. */
void peer_rearm(struct linker *k);
/* peer_tick() - sessions between hosts that are to be there and are not. Return: when it wants the next. */
uint64_t peer_tick(struct linker *k);
/* peer_session_over() - its route takes note: ticket, back-off. */
void peer_session_over(struct linker *k, struct session *s);
/* peer_detach() - no new lane comes onto it. */
void peer_detach(struct session *s);
/* peer_drop_tickets() - of @kid, or of all (ROLE_NO_ID). */
void peer_drop_tickets(struct linker *k, uint32_t kid);
/* peer_forget() - no lane will come by @kid any more. */
void peer_forget(struct linker *k, uint32_t kid);
void peer_free(struct linker *k);

/* --- linker_session.c --- */
/* session_watch() - its socket is there: options, epoll. Return: 0 or negative errno. */
MUST_CHECK int session_watch(struct linker *k, struct session *s);
/* session_start_server() - what was accepted lies in its fd. Return: 0 or negative errno. */
MUST_CHECK int session_start_server(struct linker *k, struct session *s);
void session_event(struct linker *k, struct session *s, uint32_t events);
void session_established(struct linker *k, struct session *s);
void session_greeted(struct linker *k, struct session *s, uint32_t window);
/* session_over() - end it, now or at the end of the turn. Only the first reason counts. Return: -EPROTO, for callers in the middle of it. */
int session_over(struct linker *k, struct session *s, enum session_reason reason, const char *why);
void session_reap(struct linker *k);
/* session_dirty() - it has something to do. session_clean() - it has its turn, or never will. */
void session_dirty(struct linker *k, struct session *s);
void session_clean(struct session *s);
/* session_tick() - deadlines, pings, identities. Return: when it wants the next. */
uint64_t session_tick(struct linker *k, struct session *s);
MUST_CHECK int session_on_proof(struct linker *k, struct session *s, const struct frame *f);
bool session_has_proof(const struct session *s, const char *service);
/* session_lacks_proof() - @l was opened without it: the fault of the other side, or of the service's certificate. Return: 0; -EPROTO: the session is over. */
MUST_CHECK int session_lacks_proof(struct linker *k, struct session *s, struct llane *l);
/* session_show() - prove @kid to the far side, if that was not done yet. Return: 0 or negative errno. */
MUST_CHECK int session_show(struct linker *k, struct session *s, uint32_t kid);
/* session_renew() - @kid's certificate is a new one: tell all that stand on it. */
void session_renew(struct linker *k, uint32_t kid);
/* session_forget() - @kid is not ours any more. */
void session_forget(struct linker *k, uint32_t kid);
/* session_judge_all() - time, or the list of what is revoked, has moved on. */
void session_judge_all(struct linker *k);
/* session_work() - what is there to receive and to send. Return: there is more, but others want their turn. */
MUST_CHECK bool session_work(struct linker *k, struct session *s);
/* session_goaway() - once. What crosses it is still taken, but when the linker drains. session_goaway_all(): to those that carry lanes. */
void session_goaway(struct linker *k, struct session *s);
void session_goaway_all(struct linker *k);
/* session_on_pong() - the answer to a PING; else that anything was heard is all that counts. */
void session_on_pong(struct linker *k, struct session *s, uint64_t value);
/* session_lane_gone() - one lane less. */
void session_lane_gone(struct linker *k, struct session *s);

/* --- linker_in.c --- */
void session_receive(struct linker *k, struct session *s);
/* session_receive_ring() - what its ring has. @all: before the end; else a turn's share. */
void session_receive_ring(struct linker *k, struct session *s, bool all);

/* --- linker_out.c --- */
/* session_pump() - encrypt and send what there is. Return: there is more, but others want their turn. */
bool session_pump(struct linker *k, struct session *s);
/* session_flush() - send ciphertext that waits. */
void session_flush(struct linker *k, struct session *s);
/* session_lend_chunk() - give TLS room to write to. Return: false: out of memory. session_drop_chunk() - idempotent. */
bool session_lend_chunk(struct linker *k, struct session *s);
void session_drop_chunk(struct linker *k, struct session *s);
/* session_drop_control() - the memory of session_control(), and what waits there. Idempotent. */
void session_drop_control(struct linker *k, struct session *s);
/* session_control() - room for @size bytes of frames at the end of what waits; session_control_done() says how many it was. NULL: the session is over. */
uint8_t *session_control(struct linker *k, struct session *s, size_t size);
void session_control_done(struct linker *k, struct session *s, size_t size);

/* --- linker_rdma.c --- */
void rdma_free(struct linker *k);
/* rdma_poll() - what the device has to tell: sessions get their turns for it. rdma_look(): the same; @sleeps: and then it is to wake us. Return: there was something. */
bool rdma_poll(struct linker *k);
bool rdma_look(struct linker *k, bool sleeps);
uint64_t rdma_due_ns(const struct linker *k);
/* rdma_hello() - what our HELLO says of it. rdma_greeted() - what the peer's said. */
uint16_t rdma_hello(struct linker *k, struct session *s);
void rdma_greeted(struct linker *k, struct session *s, uint16_t has);
/* rdma_on_frame() - a step of the peer's. Return: 0; -EPROTO: the session is over. */
MUST_CHECK int rdma_on_frame(struct linker *k, struct session *s, const struct frame *f);
/* rdma_work() - in the session's turn, before it sends: what the device told of it. Return: 0; -EPROTO: the session is over. */
MUST_CHECK int rdma_work(struct linker *k, struct session *s);
/* rdma_switch_is_due() - SWITCH is to be the next frame, and the last on TLS; then rdma_switched(). */
bool rdma_switch_is_due(const struct session *s);
void rdma_switched(struct linker *k, struct session *s);
/* rdma_has_data() - there may be records. rdma_receive() - the next one, into room for RDMA_RECORD_SIZE. Return: 0; RING_E_EMPTY; an error for rdma_failed(). */
bool rdma_has_data(const struct session *s);
MUST_CHECK int rdma_receive(struct session *s, uint8_t *to, uint32_t *ret_size);
/* rdma_has_room() - for a record. False: it gets its turn when there is. rdma_send() - then. Return: 0 or an error for rdma_failed(). rdma_flush() - all that was sent, and room. */
bool rdma_has_room(struct linker *k, struct session *s);
MUST_CHECK int rdma_send(struct session *s, const uint8_t *bytes, uint32_t size);
void rdma_flush(struct linker *k, struct session *s);
/* rdma_failed() - its ring did. Return: 0 or -EPROTO, as session_over(). */
int rdma_failed(struct linker *k, struct session *s, int error);
/* rdma_tick() - a ring that stays full. Return: when it wants the next. */
uint64_t rdma_tick(struct linker *k, struct session *s);
/* rdma_drain() - its TCP connection is over: what had come by the ring is still taken. */
void rdma_drain(struct linker *k, struct session *s);
/* rdma_end() - it ends, and not in order: if its RDMA connection broke before, that is the reason. */
void rdma_end(struct linker *k, struct session *s);
/* rdma_close() - the connection and its memory. Idempotent. Not while what rdma_poll() told is worked off. */
void rdma_close(struct linker *k, struct session *s);

/* --- linker_lane.c --- */
/* llane_open() - WAITING, and its session can carry: say OPEN. */
void llane_open(struct linker *k, struct llane *l);
/* llane_watch() - l->fd is what BL_CARRY or BL_GO brought: tell epoll of it. Return: 0 or negative errno. */
MUST_CHECK int llane_watch(struct linker *k, struct llane *l);
void llane_event(struct linker *k, struct llane *l, uint32_t events);
/* llane_offer() - put it among those that have something to send, if it has. */
void llane_offer(struct linker *k, struct llane *l);
/* llane_fill() - frames of what the application says, at most @n_frames, at @to. Return: bytes written there. */
size_t llane_fill(struct linker *k, struct llane *l, uint8_t *to, size_t n_frames);
/* llane_on_open(), llane_on_data(), llane_on_frame() - what a peer says. Return: 0; -EPROTO: the session is over. @f's payload is valid until llane_deliver(). */
MUST_CHECK int llane_on_open(struct linker *k, struct session *s, const struct frame *f);
MUST_CHECK int llane_on_data(struct linker *k, struct session *s, const struct frame *f);
MUST_CHECK int llane_on_frame(struct linker *k, struct session *s, const struct frame *f);
/* llane_deliver() - write the run to its application, keep what that does not take. Before the bytes go, and before any other frame counts. */
void llane_deliver(struct linker *k);
MUST_CHECK int llane_go(struct linker *k, const struct role_link_go *m, int *fd);
void llane_no(struct linker *k, const struct role_link_no *m);
/*
 * llane_end() - in any state: tell the far side @far (LINK_CODE_NONE: it knows, or cannot be told), tell the broker, free it.
 * The first fault (blame) goes before @end. llane_fail() - one of ours that was not opened: LB_FAILED; the far side is not told.
 * @hand_back: with the client's socket, if not a byte of it was sent.
 */
void llane_end(struct linker *k, struct llane *l, enum lane_end end, int error, enum link_code far);
void llane_fail(struct linker *k, struct llane *l, enum link_code code, const char *why, bool hand_back);
/* llane_session_over() - its session is. */
void llane_session_over(struct linker *k, struct llane *l, enum lane_end end, const char *why);
void llane_cut(struct linker *k, uint64_t id);
/* llane_disown() - what it stands on has ended. One that is not open yet goes back for another host, if not a byte of it was sent. */
void llane_disown(struct linker *k, struct llane *l, const char *why);
/* llane_recall() - the broker would rather try another host: if nothing of the client has gone out, it goes back. */
void llane_recall(struct linker *k, uint64_t id);
void llane_limit(struct linker *k, const struct role_lane_ref *m);
void llane_unpause(struct linker *k);
struct role_stats llane_stats(const struct llane *l);
/* llane_tick() - libraries that were asked and do not answer, and those that have been told long enough. Return: when it wants the next. */
uint64_t llane_tick(struct linker *k);

/* For the two kinds of application. */
/* llane_check() - is anything left to do for it? The lane may have ended. */
void llane_check(struct linker *k, struct llane *l);
enum lane_end llane_here(const struct llane *l);
void llane_blame(struct llane *l, enum lane_end end, int error);
/* llane_spend() - so many bytes went, either way. */
void llane_spend(struct linker *k, struct llane *l, size_t n);
/* llane_break() - nothing can reach the application any more. */
void llane_break(struct linker *k, struct llane *l, int error);
/* llane_finish() - it has said all: FIN at @to. Return: its size. The lane may have ended. */
size_t llane_finish(struct linker *k, struct llane *l, uint8_t *to);
/* llane_joined() - JOINING is over: @error 0: the lane is open; else its program does not have it, and the far side hears @far. */
void llane_joined(struct linker *k, struct llane *l, int error, enum link_code far);

/* --- linker_socket.c --- */
extern const struct app_ops app_socket;
/* socket_watch() - l->fd is the application's. Return: 0 or negative errno. */
MUST_CHECK int socket_watch(struct linker *k, struct llane *l);

/* --- linker_ring.c --- */
extern const struct app_ops app_lent, app_ring;
/* ring_watch_lent() - l->fd is what PB_LENT gave, where an offer waits. Return: 0 or negative errno. */
MUST_CHECK int ring_watch_lent(struct linker *k, struct llane *l);
/* ring_accept() - take that offer. ring_connect() - the other way round: ask the listener; llane_joined() follows, if it is 0. Return: 0 or negative errno. */
MUST_CHECK int ring_accept(struct linker *k, struct llane *l);
MUST_CHECK int ring_connect(struct linker *k, struct llane *l);
/*
 * rings_look() - has something come into the rings that are watched? Then it is offered. @sleeps: of those where nothing has, libraries ring from now on.
 * Return: something has.
 */
bool rings_look(struct linker *k, bool sleeps);
/* ring_tell_why() - it was cut, or it broke: for the porter, which tells the library. */
void ring_tell_why(const struct llane *l);
/* ring_close() - all but l->fd. Idempotent. */
void ring_close(struct linker *k, struct llane *l);


/* --- linker_kept.c --- */
/*
 * kept_add() - bytes behind those that are kept. kept_reserve() - room for them at once, where they come in parts. Lanes of others may end for it.
 * Return: false: there is no memory for it, and this lane has to end.
 */
MUST_CHECK bool kept_add(struct linker *k, struct llane *l, const uint8_t *bytes, size_t size);
MUST_CHECK bool kept_reserve(struct linker *k, struct llane *l, size_t size);
/* kept_parts() - where the first @max bytes lie. Return: how many of @iov are used. kept_took() - the first @n of them are the application's now. */
unsigned kept_parts(const struct llane *l, size_t max, struct iovec iov[2]);
void kept_took(struct linker *k, struct llane *l, size_t n);
void kept_drop(struct linker *k, struct llane *l); /* idempotent */

/* --- linker_source.c --- */
/* source_get() - a reference to whoever is at @a. NULL: out of memory. source_of_text(): of an address in text. */
struct source *source_get(struct linker *k, const struct sockaddr_storage *a);
struct source *source_of_text(struct linker *k, const char *address);
struct source *source_ref(struct source *s);
void source_unref(struct linker *k, struct source *s); /* NULL: nothing */
/*
 * stranger_add() - an inbound session of which nobody has proven anything, behind all others. Another one may be dropped for it.
 * stranger_leave() - not any more, or it is over. stranger_drop_any() - there is no room at all. Return: false: there is none.
 */
void stranger_add(struct linker *k, struct session *s);
void stranger_leave(struct linker *k, struct session *s);
bool stranger_drop_any(struct linker *k);
/*
 * joiner_add() - a stranger's question goes to the broker: it cannot be dropped from now on. Return: false: it goes later, when joiner_left is set.
 * joiner_leave() - it is answered, or over. Idempotent.
 */
bool joiner_add(struct linker *k, struct session *s);
void joiner_leave(struct linker *k, struct session *s);
/* stranger_may_work(), stranger_may_come() - is there time left in this turn, for one that is there, for a new one? stranger_worked() - it began then. */
bool stranger_may_work(struct linker *k);
bool stranger_may_come(const struct linker *k);
void stranger_worked(struct linker *k, uint64_t began_ns);
/* strangers_turn() - a turn is over. */
void strangers_turn(struct linker *k);
/*
 * proven_add() - an inbound session has proven whose it is. Return: NULL; or why there is no room for one more of theirs, for people.
 * proven_leave() - it is over. Idempotent.
 */
const char *proven_add(struct linker *k, struct session *s);
void proven_leave(struct linker *k, struct session *s);
/* teller_may() - may another line go to the log? *ret_more: how many did not since the last one. source_may_tell(): one that @of causes. */
bool teller_may(struct linker *k, struct teller *t, uint64_t *ret_more);
bool source_may_tell(struct linker *k, const struct source *of, uint64_t *ret_more);
/*
 * What waits for one of them to read it. source_grants_chunk() - may @s have a chunk for what it has to send? False: it gets its turn when it may.
 * source_skips() - it needs none; idempotent. source_counts_chunk() - it has one more (1), one less (-1).
 * source_counts_answers() - its control has room for so many bytes now. source_is_heard() - may it be read from? False: it gets its turn when it may.
 * source_is_over() - it has a chunk that nobody granted, with something in it, and there are too many.
 */
bool source_grants_chunk(struct linker *k, struct session *s);
void source_skips(struct linker *k, struct session *s);
void source_counts_chunk(struct linker *k, struct session *s, int change);
void source_counts_answers(struct linker *k, struct session *s, size_t cap);
bool source_is_heard(const struct session *s);
bool source_is_over(const struct linker *k, const struct session *s);
/* source_greatest() - whose lanes keep the most. NULL: there is no session. */
struct source *source_greatest(struct linker *k);

/* --- linker_ca.c --- */
MUST_CHECK int linker_ca_on_text(struct linker *k, struct session *s, const struct frame *f);
void linker_ca_ready(struct linker *k, struct session *s);
/* linker_ca_ask(), linker_ca_answer() - BL_CA_ASK, BL_CA_ANSWER. */
void linker_ca_ask(struct linker *k, const struct role_ca *m, int fd);
void linker_ca_answer(struct linker *k, const struct role_ca *m, int fd);
void linker_ca_free(struct linker *k);
/* linker_ca_joiners() - at the end of a turn: questions of those that had to wait. */
void linker_ca_joiners(struct linker *k);
/* linker_ca_session_over() - a question that will not be answered. */
void linker_ca_session_over(struct linker *k, struct session *s);
MUST_CHECK int announce_set(struct linker *k, int fd);
/* announced_tick() - hand on what the far host announced, if it may be by now. Return: when it wants the next. */
uint64_t announced_tick(struct linker *k, struct session *s);
/* announce_to() - what we offer, to a host that listens. */
void announce_to(struct linker *k, struct session *s);

#endif
