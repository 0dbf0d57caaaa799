/* nng: a pair0 socket over ipc://. It has threads of its own. */
#include "ipc.h"

#include <nng/nng.h>
#include <nng/protocol/pair0/pair.h>
#include <stdio.h>
#include <unistd.h>

static nng_socket g_socket;
static char g_url[128];

static void check(int r, const char *what)
{
	if (r != 0)
		ipc_die("nng: %s: %s", what, nng_strerror(r));
}

static inline void put(struct ipc_run *run)
{
	check(nng_send(g_socket, run->buf, run->size, 0), "nng_send");
}

static inline void get(struct ipc_run *run)
{
	size_t size = run->size;

	check(nng_recv(g_socket, run->buf, &size, 0), "nng_recv");
}

IPC_LOOPS(pair, put, ipc_no_flush, get)

static void pair_open(struct ipc_run *run)
{
	snprintf(g_url, sizeof(g_url), "ipc:///tmp/sealane-bench-nng-%d", (int)getpid());
}

static void pair_attach(struct ipc_run *run)
{
	int r;

	check(nng_pair0_open(&g_socket), "nng_pair0_open");
	check(nng_socket_set_int(g_socket, NNG_OPT_SENDBUF, 128), "NNG_OPT_SENDBUF");
	check(nng_socket_set_int(g_socket, NNG_OPT_RECVBUF, 128), "NNG_OPT_RECVBUF");
	check(nng_socket_set_size(g_socket, NNG_OPT_RECVMAXSZ, 0), "NNG_OPT_RECVMAXSZ");
	if (run->side == 0) {
		check(nng_listen(g_socket, g_url, NULL, 0), "nng_listen");
		return;
	}
	while ((r = nng_dial(g_socket, g_url, NULL, 0)) != 0) {
		if (r != NNG_ECONNREFUSED && r != NNG_ENOENT)
			check(r, "nng_dial");
		usleep(1000);
	}
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
	{ .name = "nng", .mode = { false, false, true }, .threads = true, .open = pair_open, .attach = pair_attach, .close = pair_close,
	  .loops = pair_loops },
	{ .name = NULL },
};
