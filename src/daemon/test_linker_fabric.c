#include "daemon/test_linker_fabric.h"

#include "rdma/remote_int.h"
#include "rdma/served.h"

#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { ROOM_BIT = 1u << 31 /* of an immediate: ring_remote.c */, LARGE = 4096 };

static struct remote_backend g_backend;		/* served's, with what is below in place of its own */
static const struct remote_backend *g_served; /* that */
static struct fabric_faults *g_faults;
static int g_fd, g_epoll_fd;
static bool g_wants_write;

static bool put_out(struct remote *r)
{
	const uint8_t *out;
	size_t n = served_output(r, &out);
	ssize_t done = n > 0 ? send(g_fd, out, n, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;

	if (done > 0)
		served_sent(r, (size_t)done);
	g_wants_write = n > 0 && done <= 0;
	return done > 0;
}

static bool take_in(struct remote *r)
{
	static uint8_t in[256 << 10];
	const char *why;
	ssize_t n = recv(g_fd, in, sizeof(in), MSG_DONTWAIT);

	if (n == 0)
		served_lost(r);
	return n > 0 && served_input(r, in, (size_t)n, &why) == 0;
}

static void pump(struct remote *r)
{
	struct epoll_event ev = { .events = EPOLLIN };
	bool any;

	if (atomic_load(&g_faults->mute))
		return;
	do {
		any = take_in(r);
		any |= put_out(r);
	} while (any);
	ev.events |= g_wants_write ? EPOLLOUT : 0u;
	(void)!epoll_ctl(g_epoll_fd, EPOLL_CTL_MOD, g_fd, &ev);
}

static void break_all(struct remote *r)
{
	struct remote_domain *d;
	struct remote_conn *c;

	LIST_FOREACH(d, &r->domains, of_remote)
		LIST_FOREACH(c, &d->conns, of_domain)
			if (c->state == REMOTE_UP)
				remote_conn_fail(c, REMOTE_PEER_GONE);
}

static int fabric_poll(struct remote *r)
{
	if (atomic_exchange(&g_faults->breaks, false))
		break_all(r);
	pump(r);
	return g_served->poll(r);
}

static int fabric_fd(const struct remote *r)
{
	return g_epoll_fd;
}

/* Whatever the test says is heard of within so long. */
static int fabric_arm(struct remote *r)
{
	remote_due_by(r, remote_now_ns(r) + 20000000);
	pump(r);
	return r->queue_n > 0 ? REMOTE_E_READY : 0;
}

static int fabric_expect(struct remote_conn *c)
{
	return atomic_load(&g_faults->no_connection) ? -EIO : g_served->expect(c);
}

static int fabric_connect(struct remote_conn *c, const char *address)
{
	atomic_fetch_add(&g_faults->n_connects, 1);
	return atomic_load(&g_faults->no_connection) ? -EIO : g_served->connect(c, address);
}

static int fabric_region_begin(struct remote_region *g)
{
	return atomic_load(&g_faults->no_memory) ? -ENOMEM : g_served->region_begin(g);
}

static int fabric_bind(struct remote_export *e)
{
	return atomic_load(&g_faults->no_export) ? -ENOMEM : g_served->bind(e);
}

static void fabric_post(struct remote_conn *c, const struct remote_op *ops, size_t n, uint64_t first)
{
	struct remote_op changed[8];

	for (size_t i = 0; i < n; i++) {
		changed[i] = ops[i];
		if (ops[i].kind == REMOTE_WRITE_IMM && (ops[i].imm & ROOM_BIT) && atomic_load(&g_faults->says_no_room))
			changed[i] = (struct remote_op){ .kind = REMOTE_BEAT };
		if (ops[i].size >= LARGE && atomic_exchange(&g_faults->tampers, false))
			ops[i].region->memory[ops[i].at + LARGE / 2] ^= 1;
		atomic_fetch_add(&g_faults->bytes, ops[i].size);
		if (ops[i].size > 0 && memmem(ops[i].region->memory + ops[i].at, ops[i].size, "clear, clear, clear", 19))
			atomic_fetch_add(&g_faults->n_clear, 1);
	}
	g_served->post(c, changed, n, first);
}

struct remote *fabric_open(int fd, struct fabric_faults *faults)
{
	struct epoll_event ev = { .events = EPOLLIN };
	struct remote *r;

	g_fd = fd;
	g_faults = faults;
	g_epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (g_epoll_fd < 0 || epoll_ctl(g_epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0 || served_open(&r, &(struct served_options){}) < 0)
		abort();
	snprintf(r->caps.device, sizeof(r->caps.device), "fabric0");
	g_served = r->backend;
	g_backend = *r->backend;
	g_backend.fd = fabric_fd;
	g_backend.arm = fabric_arm;
	g_backend.poll = fabric_poll;
	g_backend.expect = fabric_expect;
	g_backend.connect = fabric_connect;
	g_backend.region_begin = fabric_region_begin;
	g_backend.bind = fabric_bind;
	g_backend.post = fabric_post;
	r->backend = &g_backend;
	return r;
}
