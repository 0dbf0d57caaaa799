/* ZeroMQ: a PAIR socket over ipc://. It has threads of its own. */
#include "ipc.h"

#include <stdio.h>
#include <unistd.h>
#include <zmq.h>

static void *g_socket;
static char g_url[128];

static void check(int r, const char *what)
{
	if (r < 0)
		ipc_die("zmq: %s: %s", what, zmq_strerror(zmq_errno()));
}

static inline void put(struct ipc_run *run)
{
	check(zmq_send(g_socket, run->buf, run->size, 0), "zmq_send");
}

static inline void get(struct ipc_run *run)
{
	check(zmq_recv(g_socket, run->buf, run->size, 0), "zmq_recv");
}

IPC_LOOPS(pair, put, ipc_no_flush, get)

static void pair_open(struct ipc_run *run)
{
	snprintf(g_url, sizeof(g_url), "ipc:///tmp/sealane-bench-zmq-%d", (int)getpid());
}

static void pair_attach(struct ipc_run *run)
{
	void *context = zmq_ctx_new();

	g_socket = context ? zmq_socket(context, ZMQ_PAIR) : NULL;
	if (!g_socket)
		ipc_die("zmq: %s", zmq_strerror(zmq_errno()));
	if (run->side == 0)
		check(zmq_bind(g_socket, g_url), "zmq_bind");
	else
		check(zmq_connect(g_socket, g_url), "zmq_connect");
}

static void pair_close(struct ipc_run *run)
{
	unlink(g_url + sizeof("ipc://") - 1);
}

static void pair_loops(const struct ipc_run *run, ipc_loop **client, ipc_loop **server)
{
	IPC_PICK(pair, run, client, server);
}

const struct ipc_peer g_ipc_peers[] = {
	{ .name = "zmq", .mode = { false, false, true }, .threads = true, .open = pair_open, .attach = pair_attach, .close = pair_close,
	  .loops = pair_loops },
	{ .name = NULL },
};
