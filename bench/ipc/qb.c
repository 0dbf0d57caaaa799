/*
 * libqb: its IPC over shared memory, side 1 the server in libqb's main loop, which is the only way it serves: it never spins, the
 * client can. A stream is requests without responses.
 */
#include "ipc.h"

#include <errno.h>
#include <glob.h>
#include <qb/qbdefs.h>
#include <qb/qbipcc.h>
#include <qb/qbipcs.h>
#include <qb/qbloop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MESSAGE_ID = 14, BUFFER_MORE = 65536 };

static char g_name[64];
static qb_loop_t *g_loop;
static qb_ipcc_connection_t *g_connection;
static struct ipc_run *g_run_;
static struct qb_ipc_request_header *g_request;
static struct qb_ipc_response_header *g_response;
static uint64_t g_n_received;

static void check(ssize_t r, const char *what)
{
	if (r < 0)
		ipc_die("libqb: %s: %s", what, strerror((int)-r));
}

/* --- side 1 -------------------------------------------------------------------------------------------------------------------- */

static int32_t on_accept(qb_ipcs_connection_t *c, uid_t uid, gid_t gid)
{
	return 0;
}

static void on_created(qb_ipcs_connection_t *c)
{
}

static int32_t on_closed(qb_ipcs_connection_t *c)
{
	return 0;
}

static int32_t on_message(qb_ipcs_connection_t *c, void *data, size_t size)
{
	struct ipc_run *run = g_run_;

	memcpy(run->buf, (struct qb_ipc_request_header *)data + 1, run->size);
	if (run->op == IPC_STREAM) {
		ipc_received(run, ++g_n_received);
		return 0;
	}
	memcpy(g_response + 1, run->buf, run->size);
	check(qb_ipcs_response_send(c, g_response, (size_t)g_response->size), "qb_ipcs_response_send");
	return 0;
}

static int32_t job_add(enum qb_loop_priority p, void *data, qb_loop_job_dispatch_fn fn)
{
	return qb_loop_job_add(g_loop, p, data, fn);
}

static int32_t dispatch_add(enum qb_loop_priority p, int32_t fd, int32_t events, void *data, qb_ipcs_dispatch_fn_t fn)
{
	return qb_loop_poll_add(g_loop, p, fd, events, data, fn);
}

static int32_t dispatch_mod(enum qb_loop_priority p, int32_t fd, int32_t events, void *data, qb_ipcs_dispatch_fn_t fn)
{
	return qb_loop_poll_mod(g_loop, p, fd, events, data, fn);
}

static int32_t dispatch_del(int32_t fd)
{
	return qb_loop_poll_del(g_loop, fd);
}

static void serve(struct ipc_run *run)
{
	qb_loop_run(g_loop);
}

static void serve_open(struct ipc_run *run)
{
	static struct qb_ipcs_service_handlers handlers = { on_accept, on_created, on_message, on_closed, on_created };
	static struct qb_ipcs_poll_handlers poll = { .job_add = job_add, .dispatch_add = dispatch_add, .dispatch_mod = dispatch_mod,
						     .dispatch_del = dispatch_del };
	qb_ipcs_service_t *s;

	g_loop = qb_loop_create();
	s = qb_ipcs_create(g_name, 0, QB_IPC_SHM, &handlers);
	if (!g_loop || !s)
		ipc_die("libqb: no server");
	qb_ipcs_poll_handlers_set(s, &poll);
	qb_ipcs_enforce_buffer_size(s, (uint32_t)(run->size * 4 + BUFFER_MORE));
	check(qb_ipcs_run(s), "qb_ipcs_run");
}

/* --- side 0 -------------------------------------------------------------------------------------------------------------------- */

static inline void put(struct ipc_run *run)
{
	ssize_t r;

	memcpy(g_request + 1, run->buf, run->size);
	do {
		r = qb_ipcc_send(g_connection, g_request, (size_t)g_request->size);
	} while (r == -EAGAIN);
	check(r, "qb_ipcc_send");
}

static inline void get(struct ipc_run *run)
{
	int32_t wait_ms = run->mode == IPC_MODE_SPIN ? 0 : -1;
	ssize_t r;

	do {
		r = qb_ipcc_recv(g_connection, g_response, sizeof(*g_response) + run->size, wait_ms);
	} while (r == -EAGAIN || r == -ETIMEDOUT);
	check(r, "qb_ipcc_recv");
	memcpy(run->buf, g_response + 1, run->size);
}

IPC_LOOPS(shm, put, ipc_no_flush, get)

static void shm_open_(struct ipc_run *run)
{
	g_run_ = run;
	snprintf(g_name, sizeof(g_name), "sealane-bench-%d", (int)getpid());
	g_request = calloc(1, sizeof(*g_request) + run->size);
	g_response = calloc(1, sizeof(*g_response) + run->size);
	if (!g_request || !g_response)
		ipc_die("out of memory");
	g_request->id = g_response->id = MESSAGE_ID;
	g_request->size = (int32_t)(sizeof(*g_request) + run->size);
	g_response->size = (int32_t)(sizeof(*g_response) + run->size);
}

/* The connection needs the server's loop, which runs when both sides are attached: so it is made by the loop of side 0. */
static void connect_(struct ipc_run *run)
{
	for (int tries = 0; !g_connection && tries < 1000; tries++) {
		g_connection = qb_ipcc_connect(g_name, run->size * 4 + BUFFER_MORE);
		if (!g_connection)
			usleep(1000);
	}
	if (!g_connection)
		ipc_die("libqb: qb_ipcc_connect: %s", strerror(errno));
}

static void shm_attach(struct ipc_run *run)
{
	if (run->side == 1)
		serve_open(run);
}

static void client(struct ipc_run *run)
{
	connect_(run);
	ipc_start_clock(run);
	if (run->op == IPC_STREAM)
		shm_produce(run);
	else
		shm_ping(run);
}

/* Not part of the comparison, and only here so that the macro's other loops are used. */
static void shm_loops(const struct ipc_run *run, ipc_loop **ret_client, ipc_loop **ret_server)
{
	(void)shm_pong;
	(void)shm_consume;
	*ret_client = client;
	*ret_server = serve;
}

static void sweep(const char *rest, int (*drop)(const char *))
{
	char name[128];
	glob_t found;

	snprintf(name, sizeof(name), "/dev/shm/qb-*-%d-*%s", (int)getpid(), rest);
	if (glob(name, 0, NULL, &found) == 0) {
		for (size_t i = 0; i < found.gl_pathc; i++)
			drop(found.gl_pathv[i]);
		globfree(&found);
	}
}

static void shm_close(struct ipc_run *run)
{
	if (g_connection)
		qb_ipcc_disconnect(g_connection);
	/* A server that was killed leaves its files. */
	sweep("/*", unlink);
	sweep("", rmdir);
}

const struct ipc_peer g_ipc_peers[] = {
	{ .name = "libqb", .mode = { true, false, true }, .open = shm_open_, .attach = shm_attach, .close = shm_close, .loops = shm_loops },
	{ .name = NULL },
};
