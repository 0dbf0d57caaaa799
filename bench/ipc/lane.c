/*
 * Ours: lanes through sealane.h, one end in each process. Three ways to send: one by one (sealane_send), in batches (sealane_stage,
 * sealane_flush), and in place (sealane_reserve, sealane_commit; sealane_peek, sealane_release). And calls (sealane_call).
 *
 * "lane-open" is the same under one gate (sealane_guard_open()), "lane-off" without memory protection keys; the former is left out
 * where there are none.
 *
 * Wake-ups are counted where they are paid for: the program is linked with --wrap for the two calls that wake somebody.
 */
#include "client/lane.h"
#include "ipc.h"

#include <linux/futex.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/syscall.h>

static uint64_t *g_n_wakes;

long __real_syscall(long number, ...);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f);
ssize_t __real_send(int fd, const void *buf, size_t size, int flags);
ssize_t __wrap_send(int fd, const void *buf, size_t size, int flags);

long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f)
{
	if (number == SYS_futex && b == FUTEX_WAKE && g_n_wakes)
		++*g_n_wakes;
	return __real_syscall(number, a, b, c, d, e, f);
}

ssize_t __wrap_send(int fd, const void *buf, size_t size, int flags)
{
	if (g_n_wakes)
		++*g_n_wakes;
	return __real_send(fd, buf, size, flags);
}

static inline struct sealane_lane *end_of(struct ipc_run *run)
{
	return run->ends[run->side];
}

static void check(ssize_t r, const char *call)
{
	if (__builtin_expect(r < 0, 0))
		ipc_die("lane: %s: %s (%s)", call, sealane_strerror((int)r), sealane_last_error());
}

static inline void send_one(struct ipc_run *run)
{
	check(sealane_send(end_of(run), run->buf, run->size, SEALANE_FOREVER), "sealane_send");
}

static inline void recv_one(struct ipc_run *run)
{
	check(sealane_recv(end_of(run), run->buf, run->size, SEALANE_FOREVER), "sealane_recv");
}

static inline void stage_one(struct ipc_run *run)
{
	check(sealane_stage(end_of(run), run->buf, run->size, SEALANE_FOREVER), "sealane_stage");
}

static inline void flush(struct ipc_run *run)
{
	check(sealane_flush(end_of(run)), "sealane_flush");
}

/* One line is written; the rest is what the application would have put there itself. */
static inline void place_one(struct ipc_run *run)
{
	size_t size = run->size;
	void *room;

	check(sealane_reserve(end_of(run), size, &room, SEALANE_FOREVER), "sealane_reserve");
	memcpy(room, run->buf, size < 64 ? size : 64);
	check(sealane_commit(end_of(run), size), "sealane_commit");
}

static inline void look_at_one(struct ipc_run *run)
{
	const void *data;
	size_t size;

	check(sealane_peek(end_of(run), &data, &size, NULL, SEALANE_FOREVER), "sealane_peek");
	(void)*(const volatile uint64_t *)data;
	sealane_release(end_of(run));
}

IPC_LOOPS(plain, send_one, ipc_no_flush, recv_one)
IPC_LOOPS(staged, stage_one, flush, recv_one)
IPC_LOOPS(placed, place_one, ipc_no_flush, look_at_one)

/* The same message as a call and its reply; both ends copy as above. */
static void call_ping(struct ipc_run *run)
{
	uint64_t start, end;

	do {
		start = ipc_ticks();
		check(sealane_call(end_of(run), 1, run->buf, run->size, run->buf, run->size, SEALANE_FOREVER), "sealane_call");
		end = ipc_ticks();
	} while (ipc_sample(run, start, end));
}

static int on_call(struct sealane_request *request, void *arg)
{
	struct ipc_run *run = arg;

	check(sealane_request_read(request, run->buf, run->size), "sealane_request_read");
	return sealane_request_reply(request, run->buf, run->size);
}

static void call_serve_all(struct ipc_run *run)
{
	static const struct sealane_method methods[] = { { 1, "echo", on_call } };

	check(sealane_methods(end_of(run), methods, 1, run), "sealane_methods");
	for (;;)
		check(sealane_serve(end_of(run), SEALANE_FOREVER), "sealane_serve");
}

static void lane_open(struct ipc_run *run)
{
	static const enum sealane_wait waits[] = { SEALANE_WAIT_SPIN, SEALANE_WAIT_ADAPTIVE, SEALANE_WAIT_BLOCK };
	const enum sealane_wait wait[2] = { waits[run->mode], waits[run->mode] };
	struct sealane_lane *pair[2];

	check(lane_pair(pair, SEALANE_MESSAGES, wait, run->ring_log2, 0), "lane_pair");
	run->ends[0] = pair[0];
	run->ends[1] = pair[1];
}

static void lane_attach(struct ipc_run *run)
{
	lane_drop(run->ends[!run->side]);
	if (run->side == 0)
		g_n_wakes = &run->control->n_wakes;
}

static void need_keys(void)
{
	const char *why;

	if (keys_start() < 0 || !sealane_guarded(&why))
		ipc_skip("lane: no memory protection keys: %s", why);
}

static void open_open(struct ipc_run *run)
{
	need_keys();
	lane_open(run);
}

static void open_attach(struct ipc_run *run)
{
	lane_attach(run);
	check(sealane_guard_open(end_of(run)), "sealane_guard_open");
}

static void off_open(struct ipc_run *run)
{
	setenv("SEALANE_KEYS", "off", 1);
	lane_open(run);
}

static void lane_loops(const struct ipc_run *run, ipc_loop **client, ipc_loop **server)
{
	if (run->op == IPC_CALL) {
		*client = call_ping;
		*server = call_serve_all;
	} else if (run->place) {
		IPC_PICK(placed, run, client, server);
	} else if (run->batch > 1) {
		IPC_PICK(staged, run, client, server);
	} else {
		IPC_PICK(plain, run, client, server);
	}
}

const struct ipc_peer g_ipc_peers[] = {
	{ .name = "lane", .mode = { true, true, true }, .can_place = true, .can_batch = true, .can_call = true, .open = lane_open, .attach = lane_attach,
	  .loops = lane_loops },
	{ .name = "lane-open", .mode = { true, true, true }, .can_place = true, .can_batch = true, .can_call = true, .open = open_open,
	  .attach = open_attach, .loops = lane_loops },
	{ .name = "lane-off", .mode = { true, true, true }, .can_place = true, .can_batch = true, .can_call = true, .open = off_open,
	  .attach = lane_attach, .loops = lane_loops },
	{ .name = NULL },
};
