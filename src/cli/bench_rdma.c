/*
 * Theory of operation
 *
 * Two ends (bench_side.h). The server has memory and a ring, and answers; the client measures. On one host the server is a child of ours, which is made
 * before anything of RDMA is touched, since devices do not survive a fork.
 *
 *   READ, WRITE, swap   the server does nothing: its device (or, served, its loop) does
 *   WRITE_IMM           the server answers each immediate with one of as many bytes as it says
 *   WRITE, bounced      after PHASE the server polls the last byte of its memory, and writes back what it was waiting for
 *   ring                the server sends back records with BENCH_TAG_ECHO, and drops others
 *
 * Each cell: round trips, one at a time, of which the median and the 99th percentile are printed; then, where it makes sense, as many as go
 * through in the same time. A rate ends when the last operation has completed, or the ring's last record was answered.
 */
#include "cli/bench_rdma.h"

#include "base/address.h"
#include "cli/bench_meet.h"
#include "cli/bench_serve.h"
#include "cli/table.h"
#include "cli/units.h"

#include <jansson.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#ifdef HAVE_SEAL
#include <openssl/crypto.h>
#endif

enum {
	SAMPLES = 1 << 16,
	SIZES = 4,
	DEPTH_BYTES = 2 << 20, /* under way at a time: some hundred times what the fastest wire holds */
	DEPTH_MAX = 64,
	SIGNAL_EVERY = 8,
	RING_BATCH = 8,
	STUCK_S = 60,
};

struct bench_rdma {
	struct cli *c;
	const struct bench_rdma_options *o;
	struct bench_side s;
	const char *no_device; /* why there is none here; NULL: there is one */
	bool far_has_none;
	char local[BENCH_ADDRESS_SIZE], far[BENCH_ADDRESS_SIZE];
	uint64_t slice_ns, next_id;
	uint8_t count; /* of bounced WRITEs */
	uint8_t *record;
	uint32_t record_max;
	uint32_t *samples; /* ns */
	pid_t child;
};

struct bench_kind {
	const char *name; /* in JSON too */
	enum remote_op_kind op;
	int (*once)(struct bench_rdma *b, const struct bench_kind *k, uint32_t size);
	int (*many)(struct bench_rdma *b, const struct bench_kind *k, uint32_t size, double *ret_per_s); /* NULL: no rate */
	bool (*is_here)(const struct bench_rdma *b);						    /* NULL: always */
	bool bounced;										    /* the server polls its memory */
	uint32_t sizes[SIZES];
	enum bench_ring ring;
};

struct bench_cell {
	double min_ns, p50_ns, p99_ns, per_s;
};

/* --- the client's measurements ------------------------------------------------------------------------------------------------- */

static struct remote_op op_of(struct bench_rdma *b, enum remote_op_kind kind, uint32_t size)
{
	bool reads = kind == REMOTE_READ || kind == REMOTE_SWAP;

	return (struct remote_op){
		.kind = kind,
		.region = b->s.scratch_region,
		.size = size,
		.key = reads ? b->s.keys.u.keys.table : b->s.keys.u.keys.inbox,
		.imm = size,
		.id = ++b->next_id,
	};
}

static int until_done(struct bench_rdma *b, uint64_t id)
{
	int r = 0;

	while (r == 0 && b->s.done_id < id)
		r = bench_side_run(&b->s);
	return r;
}

static int once_op(struct bench_rdma *b, const struct bench_kind *k, uint32_t size)
{
	struct remote_op op = op_of(b, k->op, size);
	int r;

	op.flags = REMOTE_SIGNALLED;
	r = bench_side_post(&b->s, &op);
	return r == 0 ? until_done(b, op.id) : r;
}

static int once_imm(struct bench_rdma *b, const struct bench_kind *k, uint32_t size)
{
	struct remote_op op = op_of(b, k->op, size);
	uint64_t n = b->s.n_imms;
	int r = bench_side_post(&b->s, &op);

	while (r == 0 && b->s.n_imms == n)
		r = bench_side_run(&b->s);
	return r;
}

static int once_bounced(struct bench_rdma *b, const struct bench_kind *k, uint32_t size)
{
	struct remote_op op = op_of(b, k->op, size);
	const volatile uint8_t *last = b->s.inbox + size - 1; /* a device writes it */
	int r;

	b->s.scratch[size - 1] = ++b->count;
	r = bench_side_post(&b->s, &op);
	while (r == 0 && *last != b->count)
		r = bench_side_run(&b->s);
	return r;
}

static int many_ops(struct bench_rdma *b, const struct bench_kind *k, uint32_t size, double *ret_per_s)
{
	uint64_t depth = DEPTH_BYTES / size, warm = clock_ns() + b->slice_ns / 5, now, from = 0, from_id = 0;
	int r = 0;

	depth = depth > DEPTH_MAX ? DEPTH_MAX : depth;
	do {
		while (r == 0 && b->next_id - b->s.done_id < depth) {
			struct remote_op op = op_of(b, k->op, size);

			op.flags = depth < 2 * SIGNAL_EVERY || op.id % SIGNAL_EVERY == 0 ? REMOTE_SIGNALLED : 0;
			r = bench_side_post(&b->s, &op);
		}
		if (r == 0)
			r = bench_side_run(&b->s);
		now = clock_ns();
		if (from == 0 && now >= warm) {
			from = now;
			from_id = b->s.done_id;
		}
	} while (r == 0 && (from == 0 || now < warm + b->slice_ns));
	if (r == 0)
		r = once_op(b, k, size); /* all before it are done then */
	*ret_per_s = (double)(b->s.done_id - from_id) / (double)(clock_ns() - from) * 1e9;
	return r;
}

static bool has_atomics(const struct bench_rdma *b)
{
	return remote_caps(b->s.r)->atomics && (b->s.keys.u.keys.table.rights & REMOTE_MAY_ATOMIC);
}

#ifdef HAVE_SEAL
static int ring_put(struct bench_rdma *b, const struct bench_kind *k, uint8_t tag, uint32_t size)
{
	int r;

	while ((r = ring_remote_send(b->s.ring[k->ring], 0, tag, b->s.scratch, size)) == RING_E_FULL) {
		r = ring_remote_flush(b->s.ring[k->ring]);
		if (r >= 0)
			r = bench_side_run(&b->s);
		if (r < 0)
			return r;
	}
	return r;
}

static int ring_flush(struct bench_rdma *b, const struct bench_kind *k)
{
	int r;

	while ((r = ring_remote_flush(b->s.ring[k->ring])) == RING_E_FULL) {
		r = bench_side_run(&b->s);
		if (r < 0)
			return r;
	}
	return r;
}

static int once_ring(struct bench_rdma *b, const struct bench_kind *k, uint32_t size)
{
	struct ring_remote_record record;
	int r = ring_put(b, k, BENCH_TAG_ECHO, size);

	if (r == 0)
		r = ring_flush(b, k);
	while (r == 0 && (r = ring_remote_receive(b->s.ring[k->ring], b->record, b->record_max, &record)) == RING_E_EMPTY)
		r = bench_side_run(&b->s);
	return r;
}

static int ring_send_for(struct bench_rdma *b, const struct bench_kind *k, uint32_t size, uint64_t ns, uint64_t *ret_n)
{
	uint64_t until = clock_ns() + ns;
	int r = 0;

	for (*ret_n = 0; r == 0 && clock_ns() < until; *ret_n += RING_BATCH) {
		for (unsigned i = 0; r == 0 && i < RING_BATCH; i++)
			r = ring_put(b, k, BENCH_TAG_SINK, size);
		if (r == 0)
			r = ring_flush(b, k);
		if (r == 0)
			r = bench_side_run(&b->s);
	}
	return r == 0 ? once_ring(b, k, 1) : r; /* it has taken all of them */
}

static int many_ring(struct bench_rdma *b, const struct bench_kind *k, uint32_t size, double *ret_per_s)
{
	uint64_t n, from;
	int r = ring_send_for(b, k, size, b->slice_ns / 5, &n);

	from = clock_ns();
	if (r == 0)
		r = ring_send_for(b, k, size, b->slice_ns, &n);
	*ret_per_s = (double)n / (double)(clock_ns() - from) * 1e9;
	return r;
}
#endif

static const struct bench_kind g_kinds[] = {
	{ "READ", REMOTE_READ, once_op, many_ops, NULL, false, { 64, 4096, 65536, 1 << 20 } },
	{ "WRITE, acknowledged", REMOTE_WRITE, once_op, many_ops, NULL, false, { 64, 4096, 65536, 1 << 20 } },
	{ "compare-and-swap", REMOTE_SWAP, once_op, NULL, has_atomics, false, { 8 } },
	{ "WRITE, there and back", REMOTE_WRITE, once_bounced, NULL, NULL, true, { 64, 4096, 65536 } },
	{ "WRITE with immediate, there and back", REMOTE_WRITE_IMM, once_imm, NULL, NULL, false, { 64, 4096, 65536 } },
#ifdef HAVE_SEAL
	{ "ring, sealed, there and back", REMOTE_WRITE, once_ring, many_ring, NULL, false, { 64, 1024, 4096, 65536 }, BENCH_SEALED },
	{ "ring, plain, there and back", REMOTE_WRITE, once_ring, many_ring, NULL, false, { 64, 1024, 4096, 65536 }, BENCH_PLAIN },
#endif
};

/* --- rows ---------------------------------------------------------------------------------------------------------------------- */

static int compare_samples(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static int measure_once(struct bench_rdma *b, const struct bench_kind *k, uint32_t size, struct bench_cell *ret)
{
	uint64_t now = clock_ns(), warm = now + b->slice_ns / 5, start;
	size_t n = 0;
	int r = 0;

	while (r == 0 && n < SAMPLES && (n == 0 || now < warm + b->slice_ns)) {
		start = now;
		r = k->once(b, k, size);
		now = clock_ns();
		if (start >= warm)
			b->samples[n++] = now - start > UINT32_MAX ? UINT32_MAX : (uint32_t)(now - start);
	}
	if (r != 0)
		return r;
	qsort(b->samples, n, sizeof(b->samples[0]), compare_samples);
	ret->min_ns = b->samples[0];
	ret->p50_ns = b->samples[(n - 1) / 2];
	ret->p99_ns = b->samples[(size_t)((double)(n - 1) * 0.99)];
	return 0;
}

static int phase(struct bench_rdma *b, uint32_t poll_size)
{
	struct bench_msg m = { .kind = BENCH_PHASE, .u.poll_size = poll_size };
	int r;

	b->count = 0;
	if (poll_size > 0)
		b->s.inbox[poll_size - 1] = 0;
	r = bench_side_put(&b->s, &m);
	return r == 0 ? bench_side_take(&b->s, BENCH_PHASE, &m) : r;
}

/* A bounced WRITE rings no bell, so neither end may sleep. */
static int measure_bounced(struct bench_rdma *b, const struct bench_kind *k, uint32_t size, struct bench_cell *ret)
{
	uint64_t spin_ns = b->s.spin_ns;
	int r = phase(b, size);

	b->s.spin_ns = BENCH_SPIN_FOR_EVER;
	if (r == 0)
		r = measure_once(b, k, size, ret);
	b->s.spin_ns = spin_ns;
	return r == 0 ? phase(b, 0) : r;
}

static int measure(struct bench_rdma *b, const struct bench_kind *k, uint32_t size, struct bench_cell *ret)
{
	int r;

	*ret = (struct bench_cell){ 0 };
	r = k->bounced ? measure_bounced(b, k, size, ret) : measure_once(b, k, size, ret);
	return r == 0 && k->many ? k->many(b, k, size, &ret->per_s) : r;
}

static char *text_us(char *buf, double ns)
{
	snprintf(buf, UNIT_TEXT_SIZE, ns < 9995 ? "%.2f" : "%.1f", ns / 1000);
	return buf;
}

static void add_row(struct table *t, json_t *rows, const struct bench_kind *k, uint32_t bytes, const struct bench_cell *cell)
{
	char size[UNIT_TEXT_SIZE], p50[UNIT_TEXT_SIZE], p99[UNIT_TEXT_SIZE], per_s[UNIT_TEXT_SIZE], text[UNIT_TEXT_SIZE],
		bytes_per_s[UNIT_TEXT_SIZE + 4];

	snprintf(size, sizeof(size), "%u", bytes);
	snprintf(per_s, sizeof(per_s), cell->per_s < 1e6 ? "%.0f" : "%.2fM", cell->per_s < 1e6 ? cell->per_s : cell->per_s / 1e6);
	snprintf(bytes_per_s, sizeof(bytes_per_s), "%s/s", unit_format_bytes(text, cell->per_s * bytes));
	table_add(t, k->name, size, text_us(p50, cell->p50_ns), text_us(p99, cell->p99_ns), k->many ? per_s : NULL, k->many ? bytes_per_s : NULL);
	json_array_append_new(rows, json_pack("{s:s, s:I, s:f, s:f, s:f, s:f}", "what", k->name, "bytes", (json_int_t)bytes, "min_ns", cell->min_ns,
					      "p50_ns", cell->p50_ns, "p99_ns", cell->p99_ns, "per_s", cell->per_s));
}

static unsigned n_cells(void)
{
	unsigned n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(g_kinds); i++)
		for (unsigned s = 0; s < SIZES && g_kinds[i].sizes[s]; s++)
			n += g_kinds[i].many ? 2 : 1;
	return n;
}

static int measure_all(struct bench_rdma *b, struct table *t, json_t *rows)
{
	for (size_t i = 0; i < ARRAY_SIZE(g_kinds); i++) {
		const struct bench_kind *k = &g_kinds[i];

		if (k->is_here && !k->is_here(b))
			continue;
		for (unsigned s = 0; s < SIZES && k->sizes[s]; s++) {
			uint32_t size = k->sizes[s] == 65536 && k->once != once_op && !k->bounced && b->record_max < 65536 ? b->record_max : k->sizes[s];
			struct bench_cell cell;
			int r = measure(b, k, size, &cell);

			if (r < 0)
				return cli_error(b->c, "%s, %u bytes, with %s: %s%s%s", k->name, size, b->far, strerror(-r),
						 b->s.over ? "; the connection ended: " : "", b->s.over ? remote_status_name(b->s.status) : "");
			add_row(t, rows, k, size, &cell);
		}
	}
	return CLI_OK;
}

static void print_all(const struct bench_rdma *b, const struct table *t, json_t *rows)
{
	const struct remote_caps *caps = remote_caps(b->s.r);
	const char *sealed = "";

#ifdef HAVE_SEAL
	sealed = OpenSSL_version(OPENSSL_VERSION);
#endif
	if (b->c->json) {
		json_t *all = json_pack("{s:s, s:s, s:s, s:s, s:s, s:O}", "backend", caps->backend, "device", caps->device, "why_not_verbs",
					b->no_device ? b->no_device : b->far_has_none ? "the other host has no device" : "", "from", b->local, "to", b->far,
					"results", rows);

		json_dumpf(all, stdout, JSON_COMPACT);
		putchar('\n');
		json_decref(all);
		return;
	}
	if (b->no_device)
		printf("No RDMA device has %s: %s.\n", b->local, b->no_device);
	if (b->far_has_none)
		printf("No RDMA device has %s, says the other end; it has printed why.\n", b->far);
	if (b->s.served)
		printf("Measured instead: the same interface served over TCP, which is what hosts without a device have (they add TLS).\n\n");
	else
		printf("Device %s, %s to %s; memory windows: %s\n\n", caps->device, b->local, b->far, caps->windows ? "yes" : "no");
	table_print(t, stdout);
	if (*sealed)
		printf("\nThe ring is sealed with AES-128-GCM of %s; plain, with nothing, is for networks that encrypt below.\n", sealed);
}

/* --- the two roles ------------------------------------------------------------------------------------------------------------- */

static void pin(int cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set); /* if it fails, the figures are worse: no reason to give up */
}

static int bad_address(const struct cli *c, const char *text)
{
	return cli_usage(c, "\"%s\" is no address: expected 10.0.0.1, 10.0.0.1:%d or [fd00::1]:%d", text, BENCH_PORT, BENCH_PORT);
}

/* One client. @port: of the device's listener, 0: there is none. */
static int serve_one(const struct bench_rdma_options *o, struct bench_side *s, int listener, uint16_t port)
{
	int r;

	s->spin_ns = o->spin_ns;
	s->yields = !o->listen && o->cpu[0] < 0;
	r = bench_meet_take(listener, &s->control);
	if (r == 0)
		r = bench_meet_server(s, listener, port);
	if (r == 0)
		r = bench_side_ready(s);
	return r == 0 ? bench_serve(s) : r;
}

static int run_server(struct cli *c, const struct bench_rdma_options *o)
{
	struct bench_side s;
	struct sockaddr_storage a;
	socklen_t size;
	const char *why = "";
	AUTO_FD listener = -1;
	uint16_t port;
	int r;

	bench_side_init(&s);
	if (bench_meet_parse(o->listen, &a, &size) < 0)
		return bad_address(c, o->listen);
	r = bench_meet_listen(&a, size, &listener);
	if (r < 0)
		return cli_error(c, "listening on %s: %s%s", o->listen, strerror(-r),
				 r == -EADDRNOTAVAIL ? ": it has to be an address of this host" : r == -EADDRINUSE ? ": give another port" : "");
	r = bench_meet_device(&s, &a, &port, &why);
	if (r < 0)
		return cli_error(c, "the RDMA device with the address %s: %s", o->listen, strerror(-r));
	if (port == 0)
		printf("No RDMA device has %s: %s. What is measured will be served over TCP.\n", o->listen, why);
	else
		printf("Device %s.\n", remote_caps(s.r)->device);
	printf("Waiting for one `sealane bench rdma --connect %s`. Nothing is authenticated: whoever comes first is measured with.\n", o->listen);
	fflush(stdout);
	r = serve_one(o, &s, listener, port);
	if (r < 0)
		cli_error(c, "with the other end: %s%s%s", r == -EPROTO ? "it is no `sealane bench` of this version" : strerror(-r),
			  s.over ? "; the connection ended: " : "", s.over ? remote_status_name(s.status) : "");
	bench_side_free(&s);
	return r < 0 ? CLI_FAILED : CLI_OK;
}

static int prepare(struct bench_rdma *b)
{
	b->slice_ns = (uint64_t)(b->o->seconds * 1e9 / 1.2 / n_cells());
	b->record_max = BENCH_MEMORY_SIZE;
#ifdef HAVE_SEAL
	b->record_max = ring_remote_record_max(b->s.ring[BENCH_SEALED]);
#endif
	b->samples = calloc(SAMPLES, sizeof(b->samples[0]));
	b->record = calloc(1, BENCH_MEMORY_SIZE);
	return b->samples && b->record ? 0 : -ENOMEM;
}

static int measure_and_print(struct bench_rdma *b)
{
	static const char *const heads[] = { "WHAT", ">BYTES", ">P50 us", ">P99 us", ">/S", ">BYTES/S", NULL };
	json_t *rows = json_array();
	struct table t;
	int r;

	table_init(&t, heads);
	r = measure_all(b, &t, rows);
	if (r == CLI_OK)
		print_all(b, &t, rows);
	table_free(&t);
	json_decref(rows);
	return r;
}

/* @to: where a server listens. */
static int run_client(struct bench_rdma *b, const struct sockaddr_storage *to, socklen_t size)
{
	struct sockaddr_storage local;
	socklen_t local_size = sizeof(local);
	uint16_t port = 0;
	int r;

	b->s.is_client = true;
	b->s.spin_ns = b->o->spin_ns;
	b->s.yields = !b->o->connect && b->o->cpu[0] < 0;
	address_format(b->far, to);
	r = bench_meet_dial(to, size, &b->s.control);
	if (r < 0)
		return cli_error(b->c, "%s: %s; `sealane bench rdma --listen ADDRESS` has to run there", b->far, strerror(-r));
	if (getsockname(b->s.control, (struct sockaddr *)&local, &local_size) < 0)
		return cli_error(b->c, "%s: %s", b->far, strerror(errno));
	bench_meet_set_port(&local, bench_meet_port(to));
	r = bench_meet_device(&b->s, &local, &port, &b->no_device);
	address_format(b->local, &local);
	*strrchr(b->local, ':') = '\0';
	if (r < 0)
		return cli_error(b->c, "the RDMA device with the address %s: %s", b->local, strerror(-r));
	if (port > 0)
		b->no_device = NULL;
	r = bench_meet_client(&b->s, to, size, port);
	b->far_has_none = port > 0 && b->s.served;
	if (r == 0)
		r = bench_side_ready(&b->s);
	if (r == 0)
		r = prepare(b);
	if (r < 0)
		return cli_error(b->c, "meeting %s: %s%s%s", b->far, r == -EPROTO ? "it is no `sealane bench` of this version" : strerror(-r),
				 b->s.over ? "; the connection ended: " : "", b->s.over ? remote_status_name(b->s.status) : "");
	return measure_and_print(b);
}

/* --- both on this host --------------------------------------------------------------------------------------------------------- */

/* The child: tells where it listens, and serves its parent. */
static int child_run(const struct bench_rdma_options *o, int tell)
{
	struct bench_side s;
	struct sockaddr_storage a;
	socklen_t size;
	const char *why;
	int listener = -1, r;
	uint16_t port = 0;

	pin(o->cpu[1]);
	bench_side_init(&s);
	bench_meet_here(&a, &size);
	r = bench_meet_listen(&a, size, &listener);
	if (r == 0 && getsockname(listener, (struct sockaddr *)&a, &size) < 0)
		r = -errno;
	if (r == 0)
		r = bench_meet_device(&s, &a, &port, &why);
	if (r == 0 && write(tell, &a, sizeof(a)) != sizeof(a))
		r = -EIO;
	close(tell);
	if (r == 0)
		r = serve_one(o, &s, listener, port);
	return r < 0;
}

static int run_both(struct bench_rdma *b)
{
	struct sockaddr_storage a;
	pid_t parent = getpid();
	int tell[2], r;

	if (pipe(tell) < 0)
		return cli_error(b->c, "a pipe: %s", strerror(errno));
	b->child = fork();
	if (b->child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(tell[0]);
		_exit(getppid() == parent ? child_run(b->o, tell[1]) : 1);
	}
	close(tell[1]);
	if (b->child < 0 || read(tell[0], &a, sizeof(a)) != sizeof(a)) {
		close(tell[0]);
		return cli_error(b->c, "the other end, a second process, did not start%s%s", b->child < 0 ? ": " : "", b->child < 0 ? strerror(errno) : "");
	}
	close(tell[0]);
	pin(b->o->cpu[0]);
	r = run_client(b, &a, a.ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
	return r;
}

static int run_connect(struct bench_rdma *b)
{
	struct sockaddr_storage a;
	socklen_t size;

	return bench_meet_parse(b->o->connect, &a, &size) < 0 ? bad_address(b->c, b->o->connect) : run_client(b, &a, size);
}

int bench_rdma(struct cli *c, const struct bench_rdma_options *o)
{
	struct bench_rdma b = { .c = c, .o = o, .child = -1 };
	int r;

	if (o->listen)
		return run_server(c, o);
	alarm((unsigned)o->seconds * 3 + STUCK_S); /* the other end goes on for ever */
	bench_side_init(&b.s);
	r = o->connect ? run_connect(&b) : run_both(&b);
	bench_side_free(&b.s);
	if (b.child > 0) {
		kill(b.child, SIGKILL);
		while (waitpid(b.child, NULL, 0) < 0 && errno == EINTR)
			;
	}
	free(b.samples);
	free(b.record);
	return r;
}
