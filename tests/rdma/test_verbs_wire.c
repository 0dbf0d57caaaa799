/*
 * Theory of operation
 *
 * Two machines on real verbs, with relay.c as the wire between them: what an attacker there, or a bad wire, can do to the ring and to objects.
 * "a" is machine 1 and leads; "b" is machine 2. For each case both make a connection of its own, in a domain of its own; "a" tells the relay
 * its plan, both send the other numbered records, until all have come or the connection is over; then they tell one another what they saw.
 *
 * Never a wrong byte, whatever the plan: ring_end_receive() aborts at the first. Beyond that a case goes WELL (everything comes, it only takes
 * longer) or BREAKS (both ends are told, within the times of docs/design/rdma.md; who was attacked counts an offence where it can see one). The
 * table that comes of it is printed. Then objects, in the same way; and a peer that is gone, at each stage of a connection.
 */
#include "rdma/object.h"
#include "rdma/test_ring_util.h"
#include "rdma/verbs.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

enum {
	CONTROL_PORT = 7777,
	PLAN_PORT = 4790, /* relay.c */
	PORT = 7444,
	UP_MS = 90000,
	CAP_LOG2 = 14,
	N_RECORDS = 150,
	WAIT_MS = 30000, /* emulated machines are slow, and so is one that loses packets */
	PAGE = 4096,
	OBJECT = 500, /* one packet */
	OBJECT_AT = 128,
};

#define MS_NS UINT64_C(1000000)
#define A "10.8.0.1"
#define B "10.8.0.2"

#define MUST(what)                                                                                       \
	do {                                                                                             \
		if (!(what)) {                                                                           \
			fprintf(stderr, "not ok - line %d: %s: %s\n", __LINE__, #what, strerror(errno)); \
			exit(1);                                                                         \
		}                                                                                        \
	} while (0)

enum outcome { WELL, BREAKS };

struct wire_case {
	const char *name, *plan;
	enum outcome outcome;
	bool offence; /* at a, which is who gets what b's machine sends */
};

/* attack= is relay.c's enum. All attacks are on what comes from b, so on a. */
static const struct wire_case g_cases[] = {
	{ "nothing", "", WELL, false },
	{ "1 of 100 lost", "drop=10 seed=1", WELL, false },
	{ "1 of 30 lost", "drop=33 seed=2", WELL, false },
	{ "late, out of order", "jitter=3000 seed=3", WELL, false },
	{ "1 of 20 twice", "dup=50 seed=4", WELL, false },
	{ "1 of 30 spoilt, checksum wrong", "spoil=30 seed=5", WELL, false },
	{ "all of these", "drop=5 dup=10 spoil=5 jitter=1000 seed=6", WELL, false },
	{ "a WRITE again, as it was", "attack=6 from=2 after=20 times=20", WELL, false },
	{ "a record changed", "attack=1 from=2 after=20", BREAKS, true },
	{ "a descriptor changed", "attack=2 from=2 after=10", BREAKS, true },
	{ "an immediate changed", "attack=3 from=2 after=10", BREAKS, true },
	{ "what was taken changed", "attack=4 from=2", BREAKS, true },
	{ "an old WRITE as the next one", "attack=7 from=2 after=10", BREAKS, true },
	{ "a forged WRITE", "attack=8 from=2 after=20", BREAKS, true },
	{ "a forged immediate", "attack=9 from=2 after=20", BREAKS, true },
	{ "a forged sign of room", "attack=10 from=2 after=20", BREAKS, true },
	{ "a forged READ of a ring", "attack=11 from=2 after=20", BREAKS, true },
	{ "a forged refusal", "attack=12 from=2 after=10", BREAKS, false },
};

/* What an end saw, as it tells the other one. */
struct seen {
	uint64_t n_received, n_offences, ms;
	uint32_t fin, down, why;
	int32_t error;
};

static struct remote *g_r;
static int g_control = -1;
static bool g_is_a;

static void open_here(void)
{
	const char *why = "", *ip = g_is_a ? A : B;
	char address[64];
	const struct verbs_options o = { .address = address };
	int r;

	snprintf(address, sizeof(address), "%s:%d", ip, PORT);
	r = remote_verbs_open(&g_r, &o, &why);
	if (r != 0)
		fprintf(stderr, "not ok - %s: %s\n", address, r > 0 ? why : strerror(-r));
	MUST(r == 0);
}

static struct sockaddr_in address_of(const char *ip, uint16_t port)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(port) };

	MUST(inet_pton(AF_INET, ip, &sa.sin_addr) == 1);
	return sa;
}

/* -- the control connection, which the relay leaves alone */

static void join_control(void)
{
	struct sockaddr_in sa = address_of(B, CONTROL_PORT);

	if (!g_is_a) {
		int listener = socket(AF_INET, SOCK_STREAM, 0);

		MUST(bind(listener, (struct sockaddr *)&sa, sizeof(sa)) == 0 && listen(listener, 1) == 0);
		g_control = accept(listener, NULL, NULL);
		MUST(g_control >= 0);
		return;
	}
	/* The other machine may take longer to come up; if it never does, one attempt would take minutes. */
	for (uint64_t until = clock_ns() + UP_MS * MS_NS;;) {
		int once = 1;

		g_control = socket(AF_INET, SOCK_STREAM, 0);
		MUST(setsockopt(g_control, IPPROTO_TCP, TCP_SYNCNT, &once, sizeof(once)) == 0);
		if (connect(g_control, (struct sockaddr *)&sa, sizeof(sa)) == 0)
			return;
		MUST(clock_ns() < until);
		close(g_control);
		(void)poll(NULL, 0, 200);
	}
}

static void say(const void *bytes, size_t n)
{
	MUST(send(g_control, bytes, n, MSG_NOSIGNAL) == (ssize_t)n);
}

static void hear(void *bytes, size_t n)
{
	MUST(recv(g_control, bytes, n, MSG_WAITALL) == (ssize_t)n);
}

/* Both are as far as this. */
static void meet(void)
{
	char byte = 'm';

	say(&byte, 1);
	hear(&byte, 1);
	MUST(byte == 'm');
}

/* -- the relay */

struct relay_done {
	unsigned long n_roce, n_bad_icrc, n_dropped, n_twice, n_spoilt, n_held, n_attacks, attacked_ms;
};

/* The next plan; what came of the one before. */
static struct relay_done plan(const char *text)
{
	struct sockaddr_in sa = address_of(B, PLAN_PORT);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	struct relay_done d = {};
	char bytes[200] = "";
	unsigned i = 0;

	snprintf(bytes, sizeof(bytes), "%s", text);
	MUST(connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0);
	MUST(send(fd, bytes, sizeof(bytes), 0) == sizeof(bytes));
	while (poll(&p, 1, 5000) != 1)
		MUST(++i < 4);
	MUST(recv(fd, bytes, sizeof(bytes) - 1, 0) > 0);
	MUST(sscanf(bytes, "%lu %lu %lu %lu %lu %lu %lu %lu", &d.n_roce, &d.n_bad_icrc, &d.n_dropped, &d.n_twice, &d.n_spoilt, &d.n_held, &d.n_attacks,
		    &d.attacked_ms) == 8);
	close(fd);
	return d;
}

/* -- one case */

static void doze(void)
{
	struct pollfd p = { .fd = remote_fd(g_r), .events = POLLIN };

	if (remote_arm(g_r) == 0)
		(void)poll(&p, 1, 20);
}

static void connect_both(struct ring_end *e, uint64_t number)
{
	uint8_t token[REMOTE_TOKEN_SIZE] = { 9 };
	uint64_t until = clock_ns() + WAIT_MS * MS_NS;

	put_le(token + 1, number, 8);
	if (!g_is_a)
		MUST(remote_expect(&e->conn, e->domain, token) == 0);
	meet();
	if (g_is_a)
		MUST(remote_connect(&e->conn, e->domain, B ":7444", token) == 0);
	while (!e->up) {
		MUST(clock_ns() < until && !e->down);
		if (!ring_end_look(e))
			doze();
	}
}

static void start(struct ring_end *e, uint64_t number)
{
	uint8_t ours[REMOTE_KEY_SIZE], theirs[REMOTE_KEY_SIZE];
	uint64_t until = clock_ns() + WAIT_MS * MS_NS;

	ring_end_open(e, g_r, CAP_LOG2);
	e->number = number;
	connect_both(e, number);
	ring_end_new(e, CAP_LOG2, g_is_a, false, 0);
	while (!e->ready) {
		MUST(clock_ns() < until);
		if (!ring_end_look(e))
			doze();
	}
	ring_remote_key(e->ring, ours);
	say(ours, sizeof(ours));
	hear(theirs, sizeof(theirs));
	MUST(ring_remote_start(e->ring, theirs) == 0);
}

/* Send and receive until all is there, or it is over. */
static struct seen exchange(struct ring_end *e)
{
	uint64_t began = clock_ns(), until = began + WAIT_MS * MS_NS;
	bool all_sent = false;

	while (!e->down && !(e->fin && all_sent)) {
		int r = 0;

		MUST(clock_ns() < until);
		if (!all_sent)
			r = ring_end_send(e, N_RECORDS);
		all_sent = all_sent || (r == 0 && e->n_sent > N_RECORDS);
		if (r >= 0)
			r = ring_end_receive(e);
		if (r < 0 && e->error == 0 && r != -ENOTCONN)
			e->error = r;
		if (!ring_end_look(e))
			doze();
	}
	return (struct seen){ e->n_received, remote_domain_offences(e->domain, REMOTE_STATUS_N), (clock_ns() - began) / MS_NS, e->fin, e->down, e->why,
			      e->error };
}

/* Nothing of it is signalled, so what was sent last may be on its way still. */
static void wait_until_sent(struct ring_end *e)
{
	for (uint64_t until = clock_ns() + WAIT_MS * MS_NS; clock_ns() < until && !e->down;) {
		struct pollfd p = { .fd = g_control, .events = POLLIN };

		(void)ring_end_look(e);
		if (poll(&p, 1, 5) == 1)
			return;
	}
}

static void print_row(const struct wire_case *w, const struct seen *a, const struct seen *b, const struct relay_done *d)
{
	printf("%-32s | %5llu ms | %3llu %-9s %llu | %3llu %-9s %llu | %lu packets, %lu lost, %lu twice, %lu spoilt, %lu held, %lu attacks\n", w->name,
	       (unsigned long long)a->ms, (unsigned long long)a->n_received, a->down ? remote_status_name(a->why) : "all came",
	       (unsigned long long)a->n_offences, (unsigned long long)b->n_received, b->down ? remote_status_name(b->why) : "all came",
	       (unsigned long long)b->n_offences, d->n_roce, d->n_dropped, d->n_twice, d->n_spoilt, d->n_held, d->n_attacks);
}

static bool came_through(const struct seen *s)
{
	return s->fin && !s->down && s->n_received == N_RECORDS && s->n_offences == 0 && s->error == 0;
}

static void check(const struct wire_case *w, const struct seen *a, const struct seen *b, const struct relay_done *d)
{
	MUST(d->n_bad_icrc == 0); /* the relay's sums are the devices' */
	if (w->outcome == WELL) {
		MUST(came_through(a) && came_through(b));
		return;
	}
	MUST(d->n_attacks == 1);
	MUST(a->down && (b->down || b->fin)); /* b may have had all that it was to have */
	MUST(!w->offence || (a->n_offences == 1 && a->why == REMOTE_OFFENCE));
	MUST(w->offence || a->n_offences == 0);
	MUST(a->ms < LIMIT_RDMA_DEAD_MS + 3000 && b->ms < LIMIT_RDMA_DEAD_MS + 6000);
}

static bool gone_or_up(const struct seen *s)
{
	return !s->down || s->why == REMOTE_PEER_GONE || s->why == REMOTE_TIMEOUT;
}

/*
 * An emulated machine may stand still for longer than a device waits for an answer: then an end is a plain one, and nobody is accused, whatever was to
 * come. And what was attacked may have been a packet that a device sent for the second time, which the other one only drops.
 */
static bool says_nothing(const struct wire_case *w, const struct seen *a, const struct seen *b)
{
	if (w->outcome == BREAKS && came_through(a) && came_through(b))
		return true;
	return (a->down || b->down) && gone_or_up(a) && gone_or_up(b) && a->n_offences + b->n_offences == 0;
}

/* Return: true: again, please. */
static bool run_case(const struct wire_case *w, uint64_t number)
{
	struct ring_end e = {};
	struct relay_done d = {};
	struct seen ours, theirs;
	char again = 0;

	start(&e, number);
	if (g_is_a)
		(void)plan(w->plan);
	meet();
	ours = exchange(&e);
	say(&ours, sizeof(ours));
	wait_until_sent(&e);
	hear(&theirs, sizeof(theirs));
	if (g_is_a) {
		d = plan("");
		print_row(w, &ours, &theirs, &d);
		again = says_nothing(w, &ours, &theirs);
		if (!again)
			check(w, &ours, &theirs, &d);
		say(&again, 1);
	} else {
		hear(&again, 1);
	}
	ring_end_close(&e);
	return again;
}

/* -- a machine that is gone, as the other one sees it, at each stage: the wire is cut */

enum stage { NOT_EXPECTED, EXPECTED, SILENT, EXPORTING, REVOKING, UNDER_WAY, STAGE_N };

static const char *const g_stages[STAGE_N] = {
	"before it expects", "expected, before connecting", "connected, silent", "exporting", "revoking", "64 READs under way",
};

struct late {
	struct remote_region *region;
	struct remote_export *export;
	struct remote_key key; /* a: of what b exports */
	_Alignas(PAGE) uint8_t memory[PAGE];
};

static struct remote_done await(struct ring_end *e, enum remote_done_kind kind, unsigned ms)
{
	uint64_t until = clock_ns() + ms * MS_NS;
	struct remote_done d = {};

	for (;;) {
		if (remote_poll(g_r, &d, 1) == 1) {
			MUST(d.kind != REMOTE_DONE_OP || d.status != REMOTE_OK);
			if (d.kind == kind && d.conn == e->conn)
				return d;
			continue;
		}
		MUST(clock_ns() < until);
		doze();
	}
}

/* b's memory, exported to a. */
static void late_open(struct late *l, struct ring_end *e)
{
	uint8_t key[REMOTE_KEY_SIZE];

	MUST(remote_register(&l->region, e->domain, l->memory, PAGE, g_is_a ? 0 : REMOTE_MAY_READ) == 0);
	if (g_is_a) {
		hear(key, sizeof(key));
		MUST(remote_key_get(&l->key, key) == 0);
		return;
	}
	MUST(remote_export(&l->export, e->conn, l->region, 0, PAGE, REMOTE_MAY_READ) == 0);
	MUST(await(e, REMOTE_DONE_EXPORTED, WAIT_MS).status == REMOTE_OK);
	remote_key_put(key, remote_export_key(l->export));
	say(key, sizeof(key));
}

/* What each does as the wire is cut. Exports are local, and go on. */
static void act(enum stage stage, struct late *l, struct ring_end *e)
{
	struct remote_export *more = NULL;

	if (stage == UNDER_WAY && g_is_a)
		for (unsigned i = 0; i < 64; i++) {
			struct remote_op op = { .kind = REMOTE_READ, .flags = REMOTE_SIGNALLED, .region = l->region, .size = 64, .key = l->key, .id = i };

			MUST(remote_post(e->conn, &op, 1) == 0);
		}
	if (stage == EXPORTING && !g_is_a) {
		MUST(remote_export(&more, e->conn, l->region, 64, 64, REMOTE_MAY_READ) == 0);
		MUST(await(e, REMOTE_DONE_EXPORTED, WAIT_MS).status == REMOTE_OK);
	}
	if (stage == REVOKING && !g_is_a) {
		MUST(remote_revoke(l->export) == 0);
		(void)await(e, REMOTE_DONE_REVOKED, WAIT_MS);
	}
}

/* The connection ends by itself, and is nobody's offence. Return: after how many milliseconds. */
static struct seen wait_for_end(struct ring_end *e, unsigned ms)
{
	uint64_t began = clock_ns();
	struct remote_done d = await(e, REMOTE_DONE_DOWN, ms + 3000);
	struct seen s = { .ms = (clock_ns() - began) / MS_NS, .down = true, .why = d.status };

	MUST(d.status == REMOTE_PEER_GONE || d.status == REMOTE_TIMEOUT);
	MUST(remote_domain_offences(e->domain, REMOTE_STATUS_N) == 0);
	return s;
}

static void run_stage(enum stage stage, uint64_t number)
{
	bool connects = stage == NOT_EXPECTED || stage == EXPECTED;
	uint8_t token[REMOTE_TOKEN_SIZE] = { 8 };
	static struct late l;
	struct ring_end e = {};
	struct seen ours = {}, theirs;

	l = (struct late){ 0 };
	ring_end_open(&e, g_r, CAP_LOG2);
	if (!connects) {
		connect_both(&e, number);
		late_open(&l, &e);
	}
	meet();
	if (g_is_a)
		(void)plan("cut=1");
	meet();
	if (connects && g_is_a)
		MUST(remote_connect(&e.conn, e.domain, B ":7444", token) == 0);
	else if (stage == EXPECTED)
		MUST(remote_expect(&e.conn, e.domain, token) == 0);
	act(stage, &l, &e);
	if (e.conn)
		ours = wait_for_end(&e, connects ? LIMIT_RDMA_CONNECT_MS : LIMIT_RDMA_BEAT_MS + LIMIT_RDMA_DEAD_MS);
	say(&ours, sizeof(ours));
	hear(&theirs, sizeof(theirs));
	if (g_is_a) {
		printf("gone: %-28s | a: %-9s after %llu ms | b: %-9s after %llu ms\n", g_stages[stage], remote_status_name(ours.why),
		       (unsigned long long)ours.ms, theirs.down ? remote_status_name(theirs.why) : "-", (unsigned long long)theirs.ms);
		(void)plan("");
	}
	meet();
	ring_end_close(&e);
}

/* In the middle of records: of some of them one packet has come, of some two. */
static void run_cut_ring(unsigned cut, uint64_t number)
{
	struct ring_end e = {};
	struct seen ours, theirs;
	char text[32];

	start(&e, number);
	snprintf(text, sizeof(text), "cut=%u", cut);
	if (g_is_a)
		(void)plan(text);
	meet();
	ours = exchange(&e);
	say(&ours, sizeof(ours));
	hear(&theirs, sizeof(theirs));
	if (g_is_a) {
		printf("gone: in a ring, after %2u packets  | a: %3llu %-9s after %llu ms | b: %3llu %-9s after %llu ms\n", cut,
		       (unsigned long long)ours.n_received, remote_status_name(ours.why), (unsigned long long)ours.ms,
		       (unsigned long long)theirs.n_received, remote_status_name(theirs.why), (unsigned long long)theirs.ms);
		(void)plan("");
	}
	MUST(ours.down && !ours.fin && ours.n_offences == 0 && ours.error == 0 && (ours.why == REMOTE_PEER_GONE || ours.why == REMOTE_TIMEOUT));
	MUST(ours.ms < LIMIT_RDMA_BEAT_MS + LIMIT_RDMA_DEAD_MS + 3000);
	meet();
	ring_end_close(&e);
}

/* -- objects: b owns one, a reads it */

struct shelf {
	struct ring_end e; /* its connection; it has no ring */
	struct remote_region *region;
	struct seal_objects *objects;
	_Alignas(PAGE) uint8_t memory[PAGE];
};

static void fill(uint8_t *plain, uint8_t version)
{
	for (unsigned i = 0; i < OBJECT; i++)
		plain[i] = (uint8_t)(version * 17 + i);
}

static const struct seal_crypto g_crypto = { NULL, NULL, SEAL_AES_128_GCM };

/* b: 'w': another version; 'q': the end. */
static void own_object(struct shelf *s)
{
	uint8_t secret[SEAL_SECRET_SIZE], key[REMOTE_KEY_SIZE], plain[OBJECT], version = 0;
	struct remote_export *export = NULL;
	struct remote_done d = {};
	char order = 'w';

	MUST(remote_register(&s->region, s->e.domain, s->memory, PAGE, REMOTE_MAY_READ) == 0);
	MUST(seal_objects_new_writer(&s->objects, &g_crypto, 5, secret) == 0);
	MUST(remote_export(&export, s->e.conn, s->region, 0, PAGE, REMOTE_MAY_READ) == 0);
	for (uint64_t until = clock_ns() + WAIT_MS * MS_NS; remote_poll(g_r, &d, 1) != 1 || d.kind != REMOTE_DONE_EXPORTED;) {
		MUST(clock_ns() < until);
		doze();
	}
	remote_key_put(key, remote_export_key(export));
	say(secret, sizeof(secret));
	say(key, sizeof(key));
	while (order == 'w') {
		fill(plain, ++version);
		MUST(seal_object_write(s->objects, OBJECT_AT, plain, OBJECT, s->memory + OBJECT_AT) == 0);
		say(&order, 1);
		for (struct pollfd p = { .fd = g_control, .events = POLLIN }; poll(&p, 1, 10) != 1;)
			(void)ring_end_look(&s->e);
		hear(&order, 1);
	}
}

static void next_version(void)
{
	char order = 'w';

	say(&order, 1);
	hear(&order, 1);
}

/* One whole read. Return: as object_read_done(); @ret_ops: READs that it took. */
static int read_object(struct object_read *o, struct seal_version *seen, uint8_t version, unsigned *ret_ops)
{
	uint8_t plain[OBJECT], expected[OBJECT];
	struct remote_done d = {};
	uint32_t size = 0;
	int r = object_read_begin(o);

	MUST(r == 0);
	for (*ret_ops = 1;; ++*ret_ops) {
		for (uint64_t until = clock_ns() + WAIT_MS * MS_NS; remote_poll(g_r, &d, 1) != 1 || d.kind != REMOTE_DONE_OP;) {
			MUST(clock_ns() < until);
			doze();
		}
		r = object_read_done(o, &d, seen, plain, sizeof(plain), &size);
		if (r != OBJECT_E_AGAIN)
			break;
	}
	fill(expected, version);
	MUST(r != 0 || (size == OBJECT && memcmp(plain, expected, OBJECT) == 0));
	return r;
}

static void object_row(const char *name, int r, unsigned n_ops, uint64_t began)
{
	printf("object: %-24s | %5llu ms | %s after %u READs\n", name, (unsigned long long)((clock_ns() - began) / MS_NS),
	       r == 0 ? "right" : strerrorname_np(-r), n_ops);
}

static void read_objects(struct shelf *s)
{
	uint8_t secret[SEAL_SECRET_SIZE], key[REMOTE_KEY_SIZE];
	struct object_read o = { .conn = s->e.conn, .offset = OBJECT_AT, .size = OBJECT + SEAL_OBJECT_OVERHEAD };
	struct seal_version seen = {};
	unsigned n_ops, n_all = 0;
	uint64_t began;
	char byte;
	int r;

	MUST(remote_register(&s->region, s->e.domain, s->memory, PAGE, 0) == 0);
	o.region = s->region;
	hear(secret, sizeof(secret));
	hear(key, sizeof(key));
	hear(&byte, 1);
	MUST(remote_key_get(&o.key, key) == 0 && seal_objects_new_reader(&s->objects, &g_crypto, 5, secret) == 0);
	o.objects = s->objects;

	(void)plan("attack=5 from=2 times=1"); /* relay.c: FLIP_READ */
	began = clock_ns();
	r = read_object(&o, &seen, 1, &n_ops);
	object_row("a bit changed, once", r, n_ops, began);
	MUST(r == 0 && n_ops <= 2); /* 1: it was an answer that a device gave twice */

	(void)plan("attack=5 from=2 times=1000");
	began = clock_ns();
	r = read_object(&o, &seen, 1, &n_ops);
	object_row("a bit changed, always", r, n_ops, began);
	MUST(r == -EBADMSG && n_ops == LIMIT_RDMA_READ_TRIES);

	(void)plan("");
	MUST(read_object(&o, &seen, 1, &n_ops) == 0);
	next_version();
	MUST(read_object(&o, &seen, 2, &n_ops) == 0);
	(void)plan("attack=13 from=2 times=1000 keep=1"); /* OLD_READ */
	began = clock_ns();
	r = read_object(&o, &seen, 2, &n_ops);
	object_row("an old answer", r, n_ops, began);
	MUST(r == -ESTALE);

	(void)plan("drop=30 dup=20 spoil=10 seed=8");
	began = clock_ns();
	for (unsigned i = 0; i < 50; i++) {
		MUST(read_object(&o, &seen, 2, &n_ops) == 0);
		n_all += n_ops;
	}
	object_row("50 times on a bad wire", 0, n_all, began);
	MUST(n_all == 50);
	(void)plan("");
	say("q", 1);
	MUST(remote_domain_offences(s->e.domain, REMOTE_STATUS_N) == 0);
}

static void run_objects(uint64_t number)
{
	static struct shelf s;

	ring_end_open(&s.e, g_r, CAP_LOG2);
	connect_both(&s.e, number);
	if (g_is_a)
		read_objects(&s);
	else
		own_object(&s);
	meet();
	ring_end_close(&s.e);
	seal_objects_free(s.objects);
}

int main(int argc, char **argv)
{
	uint64_t number = 1;

	setvbuf(stdout, NULL, _IOLBF, 0);
	MUST(argc == 2);
	g_is_a = strcmp(argv[1], "a") == 0;
	open_here();
	join_control();
	if (g_is_a)
		printf("what the wire does                |  until   | a: came, end, offences | b: the same   | the relay\n");
	for (size_t i = 0; i < ARRAY_SIZE(g_cases); i++)
		for (unsigned n_tries = 1; run_case(&g_cases[i], number++); n_tries++)
			MUST(n_tries < 3);
	run_objects(number++);
	for (enum stage stage = 0; stage < STAGE_N; stage++)
		run_stage(stage, number++);
	for (unsigned cut = 30; cut < 38; cut++)
		run_cut_ring(cut, number++);
	remote_free(g_r);
	if (g_is_a)
		printf("ok - %zu cases, and objects: never a wrong byte, and every end told\n", ARRAY_SIZE(g_cases));
	return 0;
}
