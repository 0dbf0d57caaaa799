/*
 * Theory of operation
 *
 *   bench_side_device()   a device for the address, or none
 *   HELLO both ways       who has a device, tokens, the ring's secret           -> bench_side_join()
 *   bench_side_ready()    connections up -> regions, exports, ring -> KEYS both ways
 *   bench_side_run()      from then on: one turn of the loop; bench_rdma.c measures (client) or answers (server) between turns
 *
 * A turn asks the device (or moves bytes of the second TCP connection and asks the served backend). The control connection costs a system call, so it is
 * looked at only before sleeping and every CONTROL_TURNS: a phase begins, or the other end has gone.
 *
 * What must never happen: a wait without a bound, since the other end may be anybody; a byte of a message used before it was checked (bench_wire.c).
 */
#include "cli/bench_side.h"

#include "base/address.h"
#include "rdma/served.h"
#include "rdma/verbs.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>

enum { PORTS_TRIED = 16, CONTROL_TURNS = 4096, MEMORIES = 3, PIECE = 128 << 10 };

#define MS_NS UINT64_C(1000000)

void bench_side_init(struct bench_side *s)
{
	*s = (struct bench_side){ .control = -1, .data = -1 };
}

void bench_side_free(struct bench_side *s)
{
	for (unsigned i = 0; i < BENCH_CONNS; i++)
		remote_close(s->conn[i]);
#ifdef HAVE_SEAL
	for (unsigned i = 0; i < BENCH_RINGS; i++)
		ring_remote_free(s->ring[i]);
#endif
	remote_free(s->r);
	if (s->table)
		munmap(s->table, MEMORIES * BENCH_MEMORY_SIZE);
	for (unsigned i = 0; i < BENCH_RINGS; i++)
		free(s->ring_memory[i]);
	fd_cleanup(&s->control);
	fd_cleanup(&s->data);
	bench_side_init(s);
}

int bench_side_device(struct bench_side *s, const struct sockaddr_storage *address, uint16_t *port, const char **ret_why)
{
	struct sockaddr_storage a = *address;
	char text[BENCH_ADDRESS_SIZE];
	int r = -EADDRINUSE;

	for (unsigned i = 0; r == -EADDRINUSE && i < PORTS_TRIED && *port < UINT16_MAX; i++, ++*port) {
		if (a.ss_family == AF_INET6)
			((struct sockaddr_in6 *)&a)->sin6_port = htons(*port);
		else
			((struct sockaddr_in *)&a)->sin_port = htons(*port);
		r = remote_verbs_open(&s->r, &(struct verbs_options){ .address = address_format(text, &a) }, ret_why);
	}
	--*port;
	return r;
}

/* --- the control connection ---------------------------------------------------------------------------------------------------- */

int bench_side_put(struct bench_side *s, const struct bench_msg *m)
{
	uint8_t bytes[BENCH_MSG_SIZE];

	bench_msg_put(bytes, m);
	for (size_t at = 0; at < sizeof(bytes);) { /* the socket's buffer holds some thousands of them */
		ssize_t n = send(s->control, bytes + at, sizeof(bytes) - at, MSG_NOSIGNAL);

		if (n < 0 && errno != EINTR)
			return -errno;
		at += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

/* What has come. Return: 0, -ECONNRESET, -EPROTO. */
static int control_look(struct bench_side *s)
{
	ssize_t n = s->has_msg ? 0 : recv(s->control, s->in + s->in_size, sizeof(s->in) - s->in_size, MSG_DONTWAIT);

	if (s->has_msg)
		return 0;
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		return -ECONNRESET;
	s->in_size += n > 0 ? (size_t)n : 0;
	if (s->in_size < sizeof(s->in))
		return 0;
	s->in_size = 0;
	s->has_msg = true;
	return bench_msg_get(&s->msg, s->in);
}

int bench_side_take(struct bench_side *s, enum bench_msg_kind kind, struct bench_msg *ret)
{
	uint64_t until = clock_ns() + BENCH_SETUP_MS * MS_NS;
	struct pollfd p = { .fd = s->control, .events = POLLIN };
	int r = control_look(s);

	while (r == 0 && !s->has_msg) {
		/* What is connected already must not be taken for dead meanwhile. */
		if (s->n_up > 0)
			r = bench_side_run(s);
		else if (poll(&p, 1, 100) < 0 && errno != EINTR)
			r = -errno;
		if (r == 0)
			r = clock_ns() < until ? control_look(s) : -ETIMEDOUT;
	}
	s->has_msg = false;
	if (r == 0 && s->msg.kind != kind)
		r = -EPROTO;
	if (r == 0)
		*ret = s->msg;
	return r;
}

/* --- one turn ------------------------------------------------------------------------------------------------------------------ */

static int on_ring_done(struct bench_side *s, const struct remote_done *d)
{
#ifdef HAVE_SEAL
	unsigned i = 0;
	int r;

	while (i < BENCH_RINGS && d->conn != s->conn[BENCH_FIRST_RING + i])
		i++;
	if (i == BENCH_RINGS || !s->ring[i])
		return 0;
	r = ring_remote_on_done(s->ring[i], d);
	s->n_rings_ready += r == RING_REMOTE_READY;
	if (r == RING_REMOTE_ROOM && ring_remote_flush(s->ring[i]) < 0)
		return -EPROTO;
	return r < 0 ? r : 0;
#else
	return 0;
#endif
}

static int on_done(struct bench_side *s, const struct remote_done *d)
{
	switch (d->kind) {
	case REMOTE_DONE_OP:
		if (d->status == REMOTE_OK && d->conn == s->conn[BENCH_OPS])
			s->done_id = d->id;
		break;
	case REMOTE_DONE_IMM:
		if (d->conn == s->conn[BENCH_OPS]) {
			s->n_imms++;
			s->imm = d->imm;
		}
		break;
	case REMOTE_DONE_UP:
		s->n_up++;
		break;
	case REMOTE_DONE_DOWN:
		s->over = true;
		s->status = d->status;
		return -ECONNRESET;
	case REMOTE_DONE_EXPORTED:
		if (d->status != REMOTE_OK)
			return -EIO;
		s->n_exported += d->export == s->table_export || d->export == s->inbox_export;
		break;
	case REMOTE_DONE_REVOKED:
		break;
	}
	return on_ring_done(s, d);
}

/* Bytes of the served backend, in both directions. Return: 1: some; 0; negative errno. */
static int data_move(struct bench_side *s)
{
	static uint8_t in[PIECE];
	const uint8_t *out;
	const char *why;
	size_t n = served_output(s->r, &out);
	ssize_t sent = n > 0 ? send(s->data, out, n, MSG_NOSIGNAL | MSG_DONTWAIT) : 0, got;

	if (sent > 0)
		served_sent(s->r, (size_t)sent);
	if (sent < 0 && errno != EAGAIN && errno != EINTR)
		return -ECONNRESET;
	got = recv(s->data, in, sizeof(in), MSG_DONTWAIT);
	if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
		return -ECONNRESET;
	if (got > 0 && served_input(s->r, in, (size_t)got, &why) < 0)
		return -EPROTO;
	return sent > 0 || got > 0;
}

/* Return: 1: something happened; 0; negative errno. */
static int turn(struct bench_side *s)
{
	struct remote_done dones[16];
	int moved = s->data >= 0 ? data_move(s) : 0, n, r = 0;

	n = moved < 0 ? moved : remote_poll(s->r, dones, ARRAY_SIZE(dones));
	if (n < 0)
		return n;
	for (int i = 0; i < n; i++) {
		int one = on_done(s, &dones[i]);

		r = one < 0 && r == 0 ? one : r;
	}
	return r < 0 ? r : n > 0 || moved > 0;
}

static int sleep_on(struct bench_side *s)
{
	const uint8_t *out;
	uint64_t due = remote_due_ns(s->r), now = clock_ns();
	int ms = due <= now ? 0 : due - now > 100 * MS_NS ? 100 : (int)((due - now) / MS_NS) + 1;
	struct pollfd p[2] = { { .fd = s->control, .events = POLLIN }, { .events = POLLIN } };
	int r = s->served ? 0 : remote_arm(s->r);

	if (r != 0)
		return r < 0 ? r : 0;
	p[0].fd = s->has_msg ? -1 : s->control;
	p[1].fd = s->served ? s->data : remote_fd(s->r);
	if (s->served && served_output(s->r, &out) > 0)
		p[1].events |= POLLOUT;
	return poll(p, 2, ms) < 0 && errno != EINTR ? -errno : 0;
}

/* Nothing came. Return: 0 or negative errno. */
static int idle(struct bench_side *s)
{
	uint64_t now = clock_ns();
	int r;

	if (s->busy_ns == 0)
		s->busy_ns = now;
	if (now - s->busy_ns > BENCH_SETUP_MS * MS_NS)
		return -ETIMEDOUT;
	if (s->yields)
		sched_yield();
	if (now - s->busy_ns < s->spin_ns)
		return 0;
	r = control_look(s);
	return r < 0 || s->has_msg ? r : sleep_on(s);
}

int bench_side_run(struct bench_side *s)
{
	int r = turn(s), c = 0;

	if (r >= 0 && ++s->n_turns % CONTROL_TURNS == 0)
		c = control_look(s);
	if (r < 0 || c < 0)
		return r < 0 ? r : c;
	if (r == 0)
		return idle(s);
	s->busy_ns = 0;
	return 0;
}

int bench_side_post(struct bench_side *s, const struct remote_op *op)
{
	int r;

	while ((r = remote_post(s->conn[BENCH_OPS], op, 1)) == REMOTE_E_FULL) {
		r = bench_side_run(s);
		if (r < 0)
			return r;
	}
	return r == -ENOTCONN ? -ECONNRESET : r;
}

/* --- set-up -------------------------------------------------------------------------------------------------------------------- */

int bench_side_join(struct bench_side *s, const char *address, uint8_t tokens[BENCH_CONNS][REMOTE_TOKEN_SIZE])
{
	int r = 0;

	s->served = s->r == NULL;
	if (s->served)
		r = served_open(&s->r, &(struct served_options){ NULL, NULL });
	if (r == 0)
		r = remote_domain_new(&s->domain, s->r, 0);
	for (unsigned i = 0; r == 0 && i < BENCH_CONNS; i++)
		r = address ? remote_connect(&s->conn[i], s->domain, address, tokens[i]) : remote_expect(&s->conn[i], s->domain, tokens[i]);
	return r;
}

static int export_all(struct bench_side *s)
{
	uint32_t table_rights = REMOTE_MAY_READ | (remote_caps(s->r)->atomics ? REMOTE_MAY_ATOMIC : 0);
	int r;

	s->table = mmap(NULL, MEMORIES * BENCH_MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (s->table == MAP_FAILED) {
		s->table = NULL;
		return -errno;
	}
	s->inbox = s->table + BENCH_MEMORY_SIZE;
	s->scratch = s->inbox + BENCH_MEMORY_SIZE;
	r = remote_register(&s->table_region, s->domain, s->table, BENCH_MEMORY_SIZE, table_rights);
	if (r == 0)
		r = remote_register(&s->inbox_region, s->domain, s->inbox, BENCH_MEMORY_SIZE, REMOTE_MAY_WRITE);
	if (r == 0)
		r = remote_register(&s->scratch_region, s->domain, s->scratch, BENCH_MEMORY_SIZE, 0);
	if (r == 0)
		r = remote_export(&s->table_export, s->conn[BENCH_OPS], s->table_region, 0, BENCH_MEMORY_SIZE, table_rights);
	if (r == 0)
		r = remote_export(&s->inbox_export, s->conn[BENCH_OPS], s->inbox_region, 0, BENCH_MEMORY_SIZE, REMOTE_MAY_WRITE);
	return r;
}

static int ring_make(struct bench_side *s, enum bench_ring which)
{
#ifdef HAVE_SEAL
	struct ring_remote_options o = {
		.conn = s->conn[BENCH_FIRST_RING + which],
		.cap_log2 = BENCH_RING_LOG2,
		.crypto = { NULL, NULL, SEAL_AES_128_GCM },
		.secret = s->secret,
		.number = which + 1,
		.is_client = s->is_client,
		.plain = which == BENCH_PLAIN,
	};

	s->ring_memory[which] = o.memory = aligned_alloc(4096, ring_remote_memory_size(BENCH_RING_LOG2));
	if (!o.memory)
		return -ENOMEM;
	memset(o.memory, 0, ring_remote_memory_size(BENCH_RING_LOG2));
	return ring_remote_new(&s->ring[which], &o);
#else
	s->n_rings_ready++;
	return 0;
#endif
}

static int keys_swap(struct bench_side *s)
{
	struct bench_msg m = { .kind = BENCH_KEYS };
	int r;

	m.u.keys.table = *remote_export_key(s->table_export);
	m.u.keys.inbox = *remote_export_key(s->inbox_export);
#ifdef HAVE_SEAL
	for (unsigned i = 0; i < BENCH_RINGS; i++)
		ring_remote_key(s->ring[i], m.u.keys.ring[i]);
#endif
	r = bench_side_put(s, &m);
	if (r == 0)
		r = bench_side_take(s, BENCH_KEYS, &s->keys);
#ifdef HAVE_SEAL
	for (unsigned i = 0; r == 0 && i < BENCH_RINGS; i++)
		r = ring_remote_start(s->ring[i], s->keys.u.keys.ring[i]);
#endif
	return r;
}

int bench_side_ready(struct bench_side *s)
{
	int r = 0;

	while (r == 0 && s->n_up < BENCH_CONNS)
		r = bench_side_run(s);
	if (r == 0)
		r = export_all(s);
	for (unsigned i = 0; r == 0 && i < BENCH_RINGS; i++)
		r = ring_make(s, (enum bench_ring)i);
	while (r == 0 && (s->n_exported < 2 || s->n_rings_ready < BENCH_RINGS))
		r = bench_side_run(s);
	return r == 0 ? keys_swap(s) : r;
}
