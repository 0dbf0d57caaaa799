/*
 * sealane.h - lanes between containers: shared memory on one host, a link between two, brokered by sealaned under its intentions.
 *
 * A lane is a two-way connection between two workloads, as a byte stream or as messages. Once it is open the daemon is out of the
 * way; it can still cut it. The peer at the other end is verified by the daemon (sealane_peer()), and not trusted: what it writes
 * is checked, and one that breaks the rules ends its lane with SEALANE_E_PROTOCOL, nothing else.
 *
 * Return values: 0 or a count; negative: -errno or -SEALANE_E_*. sealane_strerror() names them; sealane_last_error() says what
 * happened, to what, and what to do, for the last failure in this thread.
 *
 * Time-outs are in nanoseconds: SEALANE_NOWAIT (0) never waits and gives -EAGAIN, SEALANE_FOREVER (-1) has none; a positive one
 * that passes gives -ETIMEDOUT.
 *
 * Threads: a lane may be used by two threads at once, one that sends and one that receives. More than one thread in the same
 * direction need a lock of their own; a lane for each thread is faster. sealane_close() when no other thread is in a call.
 * sealane_connect(), sealane_listen() and everything on different lanes may be called from anywhere at any time. A lane does not
 * survive fork() in the child. No call is safe in a signal handler. Memory is taken when a lane is made, none when it is used.
 */
#ifndef SEALANE_H
#define SEALANE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SEALANE_API __attribute__((visibility("default")))
#define SEALANE_MUST_CHECK __attribute__((warn_unused_result))

#define SEALANE_NOWAIT 0
#define SEALANE_FOREVER (-1)

/* Errors that errno has no name for; returned negative. */
enum sealane_error {
	SEALANE_E_PROTOCOL = 4096, /* the peer broke the format of the ring: the lane is over */
	SEALANE_E_CUT,		   /* the lane was ended: its intention went, an operator said so, or its link was lost */
	SEALANE_E_DENIED,	   /* no intention allows it */
	SEALANE_E_NO_SERVICE,	   /* no such service, or nobody listens for it with this library */
	SEALANE_E_NO_DAEMON,	   /* no control socket: not a workload, or the daemon is away */
	SEALANE_E_VERSION,	   /* library and daemon do not understand each other */
	SEALANE_E_LIMIT,	   /* an intention's or the daemon's limit: lanes, memory */
	SEALANE_E_MISSED,	   /* fan-out: the reader was too slow, and messages are gone */
	SEALANE_E_REMOTE,	   /* the peer answered a call with an error: sealane_call_error() */
};

enum sealane_kind {
	SEALANE_STREAM = 0,   /* bytes: sealane_write(), sealane_read() */
	SEALANE_MESSAGES = 1, /* records: sealane_send(), sealane_recv(), and all that builds on them */
	SEALANE_FANOUT = 2,   /* one publisher, many readers: sealane_publisher_open(), sealane_subscribe() */
};

/* How this side waits. The other side may choose differently. */
enum sealane_wait {
	SEALANE_WAIT_ADAPTIVE = 0, /* spins as long as that pays, then sleeps */
	SEALANE_WAIT_SPIN = 1,	   /* never sleeps: fastest, and takes a core */
	SEALANE_WAIT_BLOCK = 2,	   /* sleeps at once */
};

struct sealane_lane;
struct sealane_listener;

/* Always start from SEALANE_OPTIONS_INIT; all zeros after `size` are the defaults. */
struct sealane_options {
	size_t size;		   /* sizeof(struct sealane_options): what the caller was compiled with */
	enum sealane_kind kind;
	enum sealane_wait wait;
	uint64_t ring_bytes;	   /* what may be under way towards the peer; rounded up to a power of two; 0: 256 KiB */
	int64_t timeout_ns;	   /* for sealane_connect(); 0: 5 s */
	const char *as;		   /* which of the workload's services to speak as; NULL: the one that may */
	const char *dir;	   /* where the control socket is; NULL: $SEALANE_DIR or /run/sealane */
};
#define SEALANE_OPTIONS_INIT { sizeof(struct sealane_options), SEALANE_STREAM, SEALANE_WAIT_ADAPTIVE, 0, 0, NULL, NULL }

/* Who is at the other end, as the daemon says. Strings live as long as the lane. */
struct sealane_peer {
	const char *service;   /* "default/web" */
	const char *spiffe_id; /* "spiffe://td/ns/default/svc/web" */
	const char *workload; /* "" with path "link" */
	const char *host;
	const char *path; /* how the bytes go: "shm"; "link": to another host */
	uint64_t lane_id; /* as in `sealane ls lanes`, which prints it in hex */
};

/* --- lanes ------------------------------------------------------------------------------------------------------------------ */

/*
 * sealane_connect() - a lane to @service ("redis", or "ns/redis"). @options: NULL for the defaults. Waits until it is accepted. If nobody on this host
 * listens for it, other hosts are tried. Return: 0; -SEALANE_E_NO_SERVICE: nobody listens for it; -EHOSTUNREACH: it is not here, and no lane
 * to another host that has it can be had now; -SEALANE_E_DENIED, -SEALANE_E_LIMIT, -SEALANE_E_NO_DAEMON, -ETIMEDOUT; other negative errno.
 */
SEALANE_API SEALANE_MUST_CHECK int sealane_connect(struct sealane_lane **ret, const char *service, const struct sealane_options *options);

/* sealane_listen() - take lanes for @service, which the workload must offer. */
SEALANE_API SEALANE_MUST_CHECK int sealane_listen(struct sealane_listener **ret, const char *service,
						  const struct sealane_options *options);

/* sealane_accept() - the next lane. -SEALANE_E_NO_DAEMON: the daemon is away (and the time is over): it is looked for again with
 * every call, and the descriptor becomes readable when it is time to. */
SEALANE_API SEALANE_MUST_CHECK int sealane_accept(struct sealane_listener *listener, struct sealane_lane **ret, int64_t timeout_ns);

/* sealane_listener_fd() - readable when sealane_accept() has something to do; the same for the listener's life. Owned by it. */
SEALANE_API int sealane_listener_fd(struct sealane_listener *listener);

SEALANE_API void sealane_listener_close(struct sealane_listener *listener);

/* sealane_close() - give the lane up; what was published still reaches the peer, then it sees the end. NULL is allowed. */
SEALANE_API void sealane_close(struct sealane_lane *lane);

SEALANE_API const struct sealane_peer *sealane_peer(const struct sealane_lane *lane);
SEALANE_API enum sealane_kind sealane_kind(const struct sealane_lane *lane);

/*
 * sealane_fd() - one descriptor for poll, epoll, libuv. It becomes readable when a call that gave -EAGAIN can go on, or the
 * lane has ended; so: call until -EAGAIN, then poll for POLLIN (also when waiting to send). From then on one thread makes all
 * calls of this lane, of both directions, with SEALANE_NOWAIT: they share what rings. Owned by the lane. Negative: error.
 */
SEALANE_API int sealane_fd(struct sealane_lane *lane);

/* sealane_shutdown() - nothing more will be sent: the peer reads what was sent, then the end. Receiving goes on. */
SEALANE_API SEALANE_MUST_CHECK int sealane_shutdown(struct sealane_lane *lane);

/* --- streams ---------------------------------------------------------------------------------------------------------------- */

/* sealane_write() - Return: bytes taken, all of @size unless the time is over; -EPIPE: the peer reads no more;
 * -SEALANE_E_CUT: the lane was cut, or its link lost; what was taken before may not have arrived. */
SEALANE_API SEALANE_MUST_CHECK ssize_t sealane_write(struct sealane_lane *lane, const void *buf, size_t size, int64_t timeout_ns);

/* sealane_read() - Return: 1 to @size bytes; 0: the end (the peer shut down, closed, or died; all it had sent was read before);
 * -SEALANE_E_CUT: the lane was cut, or its link lost, before that end came: there may have been more. */
SEALANE_API SEALANE_MUST_CHECK ssize_t sealane_read(struct sealane_lane *lane, void *buf, size_t size, int64_t timeout_ns);

/* --- messages --------------------------------------------------------------------------------------------------------------- */

/* The largest message, whatever the ring: larger than the ring it travels in pieces. */
#define SEALANE_MESSAGE_MAX ((size_t)64 << 20)

/*
 * sealane_send() - one message. Return: 0; -EMSGSIZE; -EPIPE; -SEALANE_E_CUT, as sealane_write(). -EAGAIN, -ETIMEDOUT: nothing of it was
 * sent, unless it is larger than sealane_reserve_max(): then part of it may be gone already, and the lane is ended.
 */
SEALANE_API SEALANE_MUST_CHECK int sealane_send(struct sealane_lane *lane, const void *buf, size_t size, int64_t timeout_ns);

/*
 * sealane_recv() - one whole message, copied. Return: its size; -EMSGSIZE: larger than @size, and dropped;
 * -ENODATA: the end (an empty message is 0); -SEALANE_E_CUT: as sealane_read(). With a message in pieces the time-out is for each piece
 * (SEALANE_NOWAIT: a second), and they have 10 s together, or the time-out if it is longer. A loop that serves peers who may mean harm uses sealane_peek(), which
 * never waits for a piece.
 */
SEALANE_API SEALANE_MUST_CHECK ssize_t sealane_recv(struct sealane_lane *lane, void *buf, size_t size, int64_t timeout_ns);

/* sealane_stage() - as sealane_send(), but the peer sees it only with the next sealane_flush() or sealane_send(): a batch costs one
 * publication and at most one wake-up. */
SEALANE_API SEALANE_MUST_CHECK int sealane_stage(struct sealane_lane *lane, const void *buf, size_t size, int64_t timeout_ns);
SEALANE_API SEALANE_MUST_CHECK int sealane_flush(struct sealane_lane *lane);

/* Zero copy. sealane_reserve() gives room for @size bytes in the ring; write there; sealane_commit() sends the first @size of them.
 * Reserving again without commit gives the same room up. */
SEALANE_API size_t sealane_reserve_max(const struct sealane_lane *lane);
SEALANE_API SEALANE_MUST_CHECK int sealane_reserve(struct sealane_lane *lane, size_t size, void **ret, int64_t timeout_ns);
SEALANE_API SEALANE_MUST_CHECK int sealane_commit(struct sealane_lane *lane, size_t size);

/*
 * sealane_peek() - the next piece where it lies, until sealane_release(). @ret_more: (may be NULL) the message goes on in the next
 * piece. It is the peer's memory: a hostile one can change it while you look, so copy what you check before you use it.
 * Return: 0; -ENODATA: the end.
 */
SEALANE_API SEALANE_MUST_CHECK int sealane_peek(struct sealane_lane *lane, const void **ret, size_t *ret_size, int *ret_more,
						int64_t timeout_ns);
SEALANE_API void sealane_release(struct sealane_lane *lane);

/* --- memory protection keys ------------------------------------------------------------------------------------------------- */

/*
 * Where the CPU has them (x86-64: PKU), the memory of lanes carries a protection key that is closed except inside the calls here: a
 * stray read or write from elsewhere in the process faults (SIGSEGV, si_code SEGV_PKUERR) instead of damaging a lane. That contains
 * bugs of the own process; it is no boundary against code that means harm, nor between containers, and needs none there.
 *
 * It is on where it can be. $SEALANE_KEYS=off: never; $SEALANE_KEYS=require: no lane without. What it does to a program:
 *  - Between sealane_reserve() and sealane_commit() the thread that reserved may read and write the memory of its lanes, between
 *    sealane_peek() and sealane_release() it may read it. Other threads cannot: both calls of such a pair are to be made by one thread.
 *  - A signal handler cannot look at the memory of a lane, nor can a system call be given it outside such a pair (-EFAULT).
 *  - A thread that is created between such a pair of calls can use the memory, too, until its own first call here.
 */

/*
 * sealane_guarded() - do lanes carry a key? @ret_text: (may be NULL) one line that says why or why not; a constant.
 * Takes the key if there is none yet. Return: 1: all of them, now and from now on; 0: no, or not all.
 */
SEALANE_API int sealane_guarded(const char **ret_text);

/*
 * sealane_guard_open(), sealane_guard_close() - keep the lane's memory open for this thread over many calls: the register is then
 * written twice for all of them, not twice for each, which on a server of today saves some 40 ns a call: what a stream of small
 * messages goes at then is two to three times as fast. They nest. Always of one thread, as a pair, and the lane must outlive it.
 * Return: 0; -EACCES: the end of another component.
 */
SEALANE_API SEALANE_MUST_CHECK int sealane_guard_open(struct sealane_lane *lane);
SEALANE_API void sealane_guard_close(struct sealane_lane *lane);

/* Strings are gone when the report returns. */
struct sealane_fault {
	size_t size;	      /* of this struct, as the library knows it */
	const void *address;
	int is_write;	      /* 1: write, 0: read, -1: not known */
	int is_own;	      /* 1: in what this side writes, 0: in what its peer writes */
	uint64_t lane_id;
	const char *service;  /* of the peer */
	const char *component; /* whose end it is; "" */
};

/*
 * sealane_guard_handler() - a SIGSEGV handler that calls @report for accesses that a lane's key stopped, and then does what had been
 * done without it: the handler that was there before, or the end of the process. @report: only what is async-signal-safe; it
 * must return. NULL: one line on standard error. Called again it replaces the report. Return: 0, negative errno.
 */
SEALANE_API SEALANE_MUST_CHECK int sealane_guard_handler(void (*report)(const struct sealane_fault *fault, void *arg), void *arg);

/*
 * Components: parts of one process (plug-ins, threads with a task) that have a key each. A thread joins the component it works
 * for; calls on an end of another component give -EACCES, also where there are no keys. There are 15 keys in a process; a component
 * beyond them works, unguarded. A component is never freed.
 *
 * sealane_component() - the component @name of this process (1 to 31 bytes), made if there is none. Return: 0, negative errno.
 * sealane_component_join() - this thread works for it from now on; NULL: for none. A new thread has none.
 * sealane_component_guarded() - 1: it has a key.
 */
struct sealane_component;
SEALANE_API SEALANE_MUST_CHECK int sealane_component(struct sealane_component **ret, const char *name);
SEALANE_API void sealane_component_join(struct sealane_component *component);
SEALANE_API int sealane_component_guarded(const struct sealane_component *component);

/*
 * sealane_pair() - a lane inside the process, without a daemon: two ends, each the other's peer. @components: whose ends they
 * are; NULL, or NULL in it: of the process itself. Each end's memory carries its component's key. @options: kind, wait, ring_bytes.
 * The peer's service is its component's name, or "self". An end may be closed by any thread.
 */
SEALANE_API SEALANE_MUST_CHECK int sealane_pair(struct sealane_lane *ret[2], struct sealane_component *const components[2],
						const struct sealane_options *options);

/*
 * sealane_harden() - take from the whole process, for good, the system calls that get round the keys: no new executable memory
 * (so no dlopen(), no JIT, no exec), no pkey_alloc/free, mremap, ptrace, process_vm_*, io_uring, userfaultfd, later seccomp
 * filters; other ABIs are fatal. Call it last, when all plug-ins are loaded and components and their pairs made. What remains
 * possible is in docs/design/keys.md (/proc/self/mem, signal frames, code that is there already).
 * SEALANE_HARDEN_NO_DUMP: also no core dumps, and /proc/self/mem is closed to all but root.
 * Return: 0; -ENOTSUP: there are no keys, and nothing was done; negative errno.
 */
#define SEALANE_HARDEN_NO_DUMP 1u
SEALANE_API SEALANE_MUST_CHECK int sealane_harden(unsigned flags);

/* An instruction that can open keys, in executable memory. */
struct sealane_gadget {
	const void *address;
	uint64_t offset; /* in @file */
	int is_xrstor;	 /* 1: XRSTOR, 0: WRPKRU */
	int is_ours;	 /* 1: one of the two that this library uses */
	char file[256];
};

/* sealane_guard_scan() - find them at every byte. Return: how many there are, of which the first @n are in @ret; negative errno. */
SEALANE_API SEALANE_MUST_CHECK ssize_t sealane_guard_scan(struct sealane_gadget *ret, size_t n);

/* --- calls: request and response ------------------------------------------------------------------------------------------ */

/*
 * On a lane of SEALANE_MESSAGES that is used for nothing else; a plain message there ends it. Either side may call the other. While
 * a side waits here it serves the calls that come, if it said how (sealane_methods()); else it answers them with -ENOSYS. All functions
 * of this section, for one lane, from one thread at a time.
 */

/* Calls under way at once on a lane, each way. */
#define SEALANE_CALLS_MAX 1024

/*
 * sealane_call() - call @method of the peer and wait for the reply. @timeout_ns: for all of it; told to the peer; positive or
 * SEALANE_FOREVER.
 * Return: bytes of the reply; -SEALANE_E_REMOTE: it failed there (sealane_call_error() says how); -ETIMEDOUT: and the peer was told to
 * give it up; -EMSGSIZE: the reply is larger than @reply_size; -ENODATA: the peer went away before it answered;
 * -SEALANE_E_CUT: the lane was cut or its link lost before: the peer may have done it.
 */
SEALANE_API SEALANE_MUST_CHECK ssize_t sealane_call(struct sealane_lane *lane, uint32_t method, const void *request, size_t request_size,
						    void *reply, size_t reply_size, int64_t timeout_ns);

/*
 * sealane_call_begin() - the same without waiting for the reply. @reply: written at any time until the call is finished or cancelled.
 * @request may go when this returns. Return: 0; -EAGAIN: no room, or SEALANE_CALLS_MAX are under way: finish one first. A request larger
 * than a quarter of the ring travels in pieces, and begin waits until they are under way.
 */
SEALANE_API SEALANE_MUST_CHECK int sealane_call_begin(struct sealane_lane *lane, uint32_t method, const void *request, size_t request_size,
						      void *reply, size_t reply_size, int64_t timeout_ns, uint64_t *ret_id);

/*
 * sealane_call_finish() - wait for one call; sealane_call_next() - for any that was begun. Each call is finished once, in any order.
 * Return: as sealane_call(); -EAGAIN: not yet, and @wait_ns is over (the call goes on); -ENOENT: there is no such call, or none at all.
 */
SEALANE_API SEALANE_MUST_CHECK ssize_t sealane_call_finish(struct sealane_lane *lane, uint64_t id, int64_t wait_ns);
SEALANE_API SEALANE_MUST_CHECK ssize_t sealane_call_next(struct sealane_lane *lane, uint64_t *ret_id, int64_t wait_ns);

/* sealane_call_cancel() - give a call up: its buffer is the caller's again, a reply that comes is dropped. Return: 0; -ENOENT. */
SEALANE_API SEALANE_MUST_CHECK int sealane_call_cancel(struct sealane_lane *lane, uint64_t id);

/* sealane_call_error() - what the peer said in the last -SEALANE_E_REMOTE on this lane: its status (not 0) and, returned, its text
 * (one line, perhaps ""; until the next one). By convention a status is a negative errno, or the application's own, from 1 on. */
SEALANE_API const char *sealane_call_error(struct sealane_lane *lane, int *ret_status);

/* sealane_call_dropped() - replies that came for no call under way: too late, or sent by a peer that is wrong. */
SEALANE_API uint64_t sealane_call_dropped(const struct sealane_lane *lane);

struct sealane_request;

/* A handler's return value: I keep sealane_request_id(), and sealane_reply() comes later. */
#define SEALANE_REPLY_LATER 1

/*
 * A method. The handler answers with sealane_request_reply() or sealane_request_fail(). If it did neither: 0 is an empty reply, a
 * negative value that error, with sealane_strerror()'s text.
 */
struct sealane_method {
	uint32_t number;
	const char *name; /* for people */
	int (*handler)(struct sealane_request *request, void *arg);
};

/* sealane_methods() - what this side answers on this lane. @methods: borrowed as long as the lane lives. */
SEALANE_API SEALANE_MUST_CHECK int sealane_methods(struct sealane_lane *lane, const struct sealane_method *methods, size_t n_methods,
						   void *arg);

/*
 * sealane_serve() - take in what comes: one call, or a part of a reply. In a loop until it is negative.
 * Return: 1: a call was handled; 0: something else was; -EAGAIN, -ETIMEDOUT: nothing came; -ENODATA: the peer sends no more.
 * In an event loop, when sealane_fd() is readable: sealane_serve(), and then sealane_call_next() if there are calls, until each gives
 * -EAGAIN (or -ENOENT).
 */
SEALANE_API SEALANE_MUST_CHECK int sealane_serve(struct sealane_lane *lane, int64_t timeout_ns);

/* In a handler: about its call. sealane_request_size() is what the caller told, at most SEALANE_MESSAGE_MAX. */
SEALANE_API uint64_t sealane_request_id(const struct sealane_request *request);
SEALANE_API uint32_t sealane_request_method(const struct sealane_request *request);
SEALANE_API size_t sealane_request_size(const struct sealane_request *request);
SEALANE_API struct sealane_lane *sealane_request_lane(const struct sealane_request *request);

/*
 * sealane_request_read() - the next bytes of the request, copied. Return: how many; 0: the end.
 * sealane_request_peek() - what comes next, where it lies (the peer's memory, as sealane_peek()), until the next peek or read or the
 * handler's end. @ret_size: 0: the end; else read (or skip, with a NULL buffer) what was looked at, and peek again.
 * -ESTALE: a call on the same lane was made before it was read.
 */
SEALANE_API SEALANE_MUST_CHECK ssize_t sealane_request_read(struct sealane_request *request, void *buf, size_t size);
SEALANE_API SEALANE_MUST_CHECK int sealane_request_peek(struct sealane_request *request, const void **ret, size_t *ret_size);

/*
 * sealane_request_time_left() - nanoseconds that the caller still waits; 0: no more (its time is over, it cancelled, the lane ended);
 * SEALANE_FOREVER. The clock runs from the first time that somebody asks.
 */
SEALANE_API int64_t sealane_request_time_left(const struct sealane_request *request);

/* Once for each call. They wait for room at most a second; -EAGAIN, -ETIMEDOUT: not answered yet. @text: one line, or NULL. */
SEALANE_API SEALANE_MUST_CHECK int sealane_request_reply(struct sealane_request *request, const void *buf, size_t size);
SEALANE_API SEALANE_MUST_CHECK int sealane_request_fail(struct sealane_request *request, int status, const char *text);

/* After SEALANE_REPLY_LATER: the same, by the call's id. -ENOENT, -ECANCELED: the caller does not wait any more. */
SEALANE_API SEALANE_MUST_CHECK int sealane_reply(struct sealane_lane *lane, uint64_t id, const void *buf, size_t size, int64_t timeout_ns);
SEALANE_API SEALANE_MUST_CHECK int sealane_reply_error(struct sealane_lane *lane, uint64_t id, int status, const char *text);
SEALANE_API int64_t sealane_reply_time_left(struct sealane_lane *lane, uint64_t id);

/* --- fan-out: one publisher, many subscribers ------------------------------------------------------------------------------ */

/*
 * All subscribers read the same memory. The publisher never waits for them: it overwrites the oldest message, and who had not read it
 * learns how many it missed. A publisher belongs to one thread at a time, each subscriber to one.
 */
struct sealane_publisher;
struct sealane_subscriber;

/* sealane_publisher_open() - publish as @service. @options: ring_bytes is how far subscribers may fall behind; kind is not looked at. */
SEALANE_API SEALANE_MUST_CHECK int sealane_publisher_open(struct sealane_publisher **ret, const char *service,
							  const struct sealane_options *options);

/*
 * sealane_publish() - one message to whoever subscribes. Never waits. Return: 0; -EMSGSIZE: larger than sealane_publish_max(), a quarter
 * of the ring. sealane_publish_stage(): the same, but seen with the next flush or publish: a batch costs at most one wake-up for
 * each subscriber. A quarter of the ring is published at the latest.
 */
SEALANE_API SEALANE_MUST_CHECK int sealane_publish(struct sealane_publisher *publisher, const void *buf, size_t size);
SEALANE_API SEALANE_MUST_CHECK int sealane_publish_stage(struct sealane_publisher *publisher, const void *buf, size_t size);
SEALANE_API void sealane_publish_flush(struct sealane_publisher *publisher);
SEALANE_API size_t sealane_publish_max(const struct sealane_publisher *publisher);

/*
 * sealane_publisher_poll() - let new subscribers in and forget those that have gone; never waits. Publishing does that too, every
 * 10 ms; who publishes more rarely calls this when sealane_publisher_fd() is readable. Return: how many subscribers there are;
 * -SEALANE_E_NO_DAEMON: no new ones can come until the daemon is back (it is looked for again).
 */
SEALANE_API SEALANE_MUST_CHECK int sealane_publisher_poll(struct sealane_publisher *publisher);
SEALANE_API int sealane_publisher_fd(struct sealane_publisher *publisher);

/* sealane_publisher_close() - subscribers read what is there, then the end. NULL is allowed. */
SEALANE_API void sealane_publisher_close(struct sealane_publisher *publisher);

/* sealane_subscribe() - to what @service publishes, from its newest message on. @options: ring_bytes and kind are not looked at. */
SEALANE_API SEALANE_MUST_CHECK int sealane_subscribe(struct sealane_subscriber **ret, const char *service,
						     const struct sealane_options *options);

/*
 * sealane_next() - the next message, copied. @ret_missed: how many there were since the last call that were overwritten before they
 * were read; then the newest one is next. NULL: that is -SEALANE_E_MISSED, once, instead of a message.
 * Return: its size; -EMSGSIZE: larger than @size, and skipped; -ENODATA: the publisher closed or died, and all of its messages were
 * read; -SEALANE_E_MISSED: overtaken again and again (the ring is too small, or this thread too slow): call again.
 */
SEALANE_API SEALANE_MUST_CHECK ssize_t sealane_next(struct sealane_subscriber *subscriber, void *buf, size_t size, uint64_t *ret_missed,
						    int64_t timeout_ns);

/* As sealane_fd() and sealane_peer(). */
SEALANE_API int sealane_subscriber_fd(struct sealane_subscriber *subscriber);
SEALANE_API const struct sealane_peer *sealane_subscriber_peer(const struct sealane_subscriber *subscriber);
SEALANE_API void sealane_subscriber_close(struct sealane_subscriber *subscriber);

/* --- about the library ------------------------------------------------------------------------------------------------------ */

/* sealane_strerror() - a short English text for a return value of any function here. Never NULL. */
SEALANE_API const char *sealane_strerror(int error);

/* sealane_last_error() - one line about the last failure in this thread; "" if there was none. */
SEALANE_API const char *sealane_last_error(void);

/* sealane_version() - "0.1.0": of the library that runs, not the one compiled against. */
SEALANE_API const char *sealane_version(void);

#ifdef __cplusplus
}
#endif

#endif
