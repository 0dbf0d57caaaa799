/*
 * What the measuring programs of bench/ipc.sh share: the same work, the same clock and the same statistics for every peer.
 *
 * One program for each library, so that one that is missing leaves the others alone; one process run for each measurement, so that
 * none inherits another's heap, threads or page tables. A peer gives `open` (before the fork), `attach` (after it, in each of the
 * two processes) and loops made by IPC_LOOPS from its own send and receive, inlined: a call by pointer for each message
 * would be a tenth of what a fast ring takes.
 *
 * The work: a message is copied from the sender's buffer and copied into the receiver's ("copy"), or one cache line of it is written
 * and read where it lies ("place": what the transport itself costs). Nothing is lost: a stream ends with a count of what arrived.
 *
 * C and C++: the control block has no _Atomic; the accesses are builtins.
 */
#ifndef BENCH_IPC_H
#define BENCH_IPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

enum ipc_op { IPC_RTT, IPC_STREAM, IPC_IDLE, IPC_CALL };
enum ipc_mode { IPC_MODE_SPIN, IPC_MODE_ADAPTIVE, IPC_MODE_BLOCK, IPC_N_MODES };

enum {
	IPC_SAMPLES_MAX = 400000,
	IPC_CHUNK_MESSAGES = 64, /* between looks at the clock */
};

struct ipc_run;
typedef void ipc_loop(struct ipc_run *run);

/* What the two processes share besides the transport. 128 bytes apart: neighbouring lines are fetched in pairs. */
struct ipc_control {
	uint32_t ready[2];
	uint8_t pad0_[120];
	uint64_t n_received;
	uint8_t pad1_[120];
	uint32_t ping;
	uint8_t pad2_[124];
	uint32_t pong;
	uint8_t pad3_[124];
	uint64_t cpu_ns[2]; /* IPC_IDLE: what each side used */
	uint64_t n_wakes;   /* wake-ups that the producer paid for, where the peer counts them */
};

struct ipc_run {
	/* asked for */
	enum ipc_op op;
	enum ipc_mode mode;
	size_t size;
	uint32_t batch;
	bool place;	/* zero copy */
	bool one_core;	/* both ends on the same CPU */
	uint32_t ring_log2;
	uint64_t duration_ns;
	/* the harness' */
	int side; /* 0: the one that measures */
	struct ipc_control *control;
	char *buf; /* of this side; page-aligned, `size` bytes and a page */
	uint64_t warm_at, end_at; /* ticks */
	uint64_t *samples;
	uint32_t n_samples;
	uint64_t n_sent;
	uint64_t window_ticks, window_received;
	/* the peer's */
	void *ends[2];
};

struct ipc_peer {
	const char *name;
	bool mode[IPC_N_MODES];
	bool can_place, can_batch, can_call;
	bool threads;	 /* has threads of its own, which are not to be pinned */
	void (*open)(struct ipc_run *run);
	void (*attach)(struct ipc_run *run); /* may be NULL */
	void (*close)(struct ipc_run *run);  /* side 0, when the other is gone; may be NULL */
	/* picks the loops for run->place, run->batch, run->mode */
	void (*loops)(const struct ipc_run *run, ipc_loop **ret_client, ipc_loop **ret_server);
};

/* The program's peers; ends with one that has no name. */
extern const struct ipc_peer g_ipc_peers[];

__attribute__((noreturn, format(printf, 1, 2))) void ipc_die(const char *format, ...);

/* Leaves with 77, which the script takes for "not here": a limit of this machine. */
__attribute__((noreturn, format(printf, 1, 2))) void ipc_skip(const char *format, ...);

static inline uint64_t ipc_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* The cheapest clock there is: a round trip takes little more than a call of clock_gettime(). */
static inline uint64_t ipc_ticks(void)
{
#if defined(__x86_64__)
	return __builtin_ia32_rdtsc();
#else
	return ipc_ns();
#endif
}

/* From now on it counts: first a while to warm up. The harness does this; a loop that has more to set up does it again. */
void ipc_start_clock(struct ipc_run *run);

static inline void ipc_pause(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#endif
}

/* Return: false when enough was measured. */
static inline bool ipc_sample(struct ipc_run *run, uint64_t start, uint64_t end)
{
	if (end < run->warm_at)
		return true;
	run->samples[run->n_samples++] = end - start;
	return run->n_samples < IPC_SAMPLES_MAX && end < run->end_at;
}

/* Return: false when the stream is to end. Called once for a chunk of messages. */
bool ipc_stream_goes_on(struct ipc_run *run, uint64_t n_sent);

static inline void ipc_received(struct ipc_run *run, uint64_t n)
{
	__atomic_store_n(&run->control->n_received, n, __ATOMIC_RELAXED);
}

/*
 * The four loops NAME_ping, NAME_pong, NAME_produce, NAME_consume from put(run) - flush(run) for each batch of them - and get(run).
 * The server's never end: the process is killed.
 */
#define IPC_LOOPS(name, put, flush, get)                                                                                 \
	static void name##_ping(struct ipc_run *run)                                                                     \
	{                                                                                                                \
		uint64_t start, end;                                                                                     \
                                                                                                                         \
		do {                                                                                                     \
			start = ipc_ticks();                                                                             \
			put(run);                                                                                        \
			flush(run);                                                                                      \
			get(run);                                                                                        \
			end = ipc_ticks();                                                                               \
		} while (ipc_sample(run, start, end));                                                                   \
	}                                                                                                                \
	static void name##_pong(struct ipc_run *run)                                                                     \
	{                                                                                                                \
		for (;;) {                                                                                               \
			get(run);                                                                                        \
			put(run);                                                                                        \
			flush(run);                                                                                      \
		}                                                                                                        \
	}                                                                                                                \
	static void name##_produce(struct ipc_run *run)                                                                  \
	{                                                                                                                \
		uint64_t n = 0, n_batches = run->batch >= IPC_CHUNK_MESSAGES ? 1 : IPC_CHUNK_MESSAGES / run->batch;      \
                                                                                                                         \
		do {                                                                                                     \
			for (uint64_t b = 0; b < n_batches; b++) {                                                       \
				for (uint32_t i = 0; i < run->batch; i++)                                                \
					put(run);                                                                        \
				flush(run);                                                                              \
			}                                                                                                \
			n += n_batches * run->batch;                                                                     \
		} while (ipc_stream_goes_on(run, n));                                                                    \
	}                                                                                                                \
	static void name##_consume(struct ipc_run *run)                                                                  \
	{                                                                                                                \
		for (uint64_t n = 1;; n++) {                                                                             \
			get(run);                                                                                        \
			ipc_received(run, n);                                                                            \
		}                                                                                                        \
	}

#define IPC_PICK(name, run, client, server)                                      \
	do {                                                                     \
		*(client) = (run)->op == IPC_STREAM ? name##_produce : name##_ping; \
		*(server) = (run)->op == IPC_STREAM ? name##_consume : name##_pong; \
	} while (0)

static inline void ipc_no_flush(struct ipc_run *run)
{
}

#ifdef __cplusplus
}
#endif

#endif
