/*
 * A lane's two ends and a schedule: the input says which end takes which step next, and, if its first bit is set, also what a
 * hostile peer writes into the region it made, between any two steps of ours: arbitrary values at arbitrary words, and values that
 * are nearly right (a descriptor of the next lap, a head just beyond the tail), since random ones would only ever be refused.
 *
 * End 0 is ours. Whatever the peer writes: what it is given to write and to read lies inside the right data ring, no larger than
 * a record may be, its private positions never go back, and nothing is written but its own region. The last is checked by the
 * machine: the peer's region is mapped read-only, each mapping stands between inaccessible pages, and the padding of our own
 * control page holds a pattern.
 *
 * Without hostile writes both ends are honest, and more holds: records arrive whole, in order and with their bytes, a batch at
 * once or not at all; "full" and "empty" are said exactly when they are true; who sleeps is woken once, and nobody else.
 *
 * Steps are whole calls: that a word is loaded only once within one is what tests/hostile, with threads, is for.
 */
#include "shm/region.h"
#include "shm/ring.h"
#include "shm/wake.h"

#include <stdio.h>
#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CAP_LOG2_MAX = 13, GUARD = 2 << 20, N_STEPS_MAX = 4096, CANARY = 0xa5, N_QUEUE = 1024 };

#define CHECK(what)                                                        \
	do {                                                               \
		if (!(what)) {                                             \
			fprintf(stderr, "line %d: " #what "\n", __LINE__); \
			abort();                                           \
		}                                                          \
	} while (0)

struct input {
	const uint8_t *at, *end;
};

static uint8_t byte(struct input *in)
{
	return in->at < in->end ? *in->at++ : 0;
}

static uint64_t number(struct input *in, int n_bytes)
{
	uint64_t v = 0;

	while (n_bytes-- > 0)
		v = v << 8 | byte(in);
	return v;
}

struct expected {
	uint32_t size;
	uint8_t flags, tag;
};

struct end {
	struct ring_control *own;	 /* writable */
	const struct ring_control *peer; /* the other's, read-only */
	uint32_t cap_log2;
	struct ring_tx tx;
	struct ring_rx rx;
	/* what it did, for the oracle */
	void *place;
	uint32_t place_size;
	bool fin, peeked;
	struct expected sent[N_QUEUE]; /* ring of what was staged, by number */
	uint64_t n_staged, n_published, n_received;
	uint32_t rx_how, tx_how, tx_size; /* sleeps so; RING_AWAKE: does not */
	bool rx_woken, tx_woken;
	/* positions at the last look */
	uint64_t was[6];
};

static struct {
	struct ring_control *rw[2];
	const struct ring_control *ro[2];
} g_maps;

static struct end g_end[2];
static bool g_hostile;
static volatile uint8_t g_sink;

/* One memfd, mapped between inaccessible pages. */
static void *map_guarded(int fd, size_t size, int prot)
{
	uint8_t *area = mmap(NULL, size + 2 * (size_t)GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (area == MAP_FAILED || mmap(area + GUARD, size, prot, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		abort();
	return area + GUARD;
}

/* The largest size is mapped; a smaller ring ends inside, and its end is then only checked by arithmetic. */
static void make_maps(void)
{
	size_t size = shm_region_size(CAP_LOG2_MAX);

	for (int i = 0; i < 2; i++) {
		int fd = memfd_create("fuzz", MFD_CLOEXEC);

		if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
			abort();
		g_maps.rw[i] = map_guarded(fd, size, PROT_READ | PROT_WRITE);
		g_maps.ro[i] = map_guarded(fd, size, PROT_READ);
		close(fd);
	}
}

static void fill_pads(struct ring_control *c)
{
	memset(c->pad0_, CANARY, sizeof(c->pad0_));
	memset(c->pad1_, CANARY, sizeof(c->pad1_));
	memset(c->pad2_, CANARY, sizeof(c->pad2_));
	memset(c->pad3_, CANARY, sizeof(c->pad3_));
	memset(c->pad4_, CANARY, sizeof(c->pad4_));
	memset(c->pad5_, CANARY, sizeof(c->pad5_));
}

static void check_pad(const uint8_t *pad, size_t n)
{
	for (size_t i = 0; i < n; i++)
		CHECK(pad[i] == CANARY);
}

static void check_pads(const struct ring_control *c)
{
	check_pad(c->pad0_, sizeof(c->pad0_));
	check_pad(c->pad1_, sizeof(c->pad1_));
	check_pad(c->pad2_, sizeof(c->pad2_));
	check_pad(c->pad3_, sizeof(c->pad3_));
	check_pad(c->pad4_, sizeof(c->pad4_));
	check_pad(c->pad5_, sizeof(c->pad5_));
	CHECK(c->claim == 0 && c->read_shut == 0 && c->magic == SHM_MAGIC);
}

static uint64_t start_index(uint8_t choice, uint32_t cap_log2)
{
	uint64_t n = shm_n_descs(cap_log2);

	switch (choice % 6) {
	case 0:
		return 0;
	case 1:
		return 65534 * n - 3; /* the lap goes 65534, 65535, 0 */
	case 2:
		return 65535 * n - 3;
	case 3:
		return (UINT64_C(1) << 32) - 3;
	case 4:
		return (UINT64_C(1) << 63) - n - 1;
	default:
		return UINT64_MAX - 5;
	}
}

static uint64_t start_position(uint8_t choice)
{
	static const uint64_t positions[] = { 0, (UINT64_C(1) << 32) - 128, UINT64_MAX - 255, (UINT64_C(1) << 63) - 4096 };

	return positions[choice % ARRAY_SIZE(positions)];
}

static void remember(struct end *e)
{
	const uint64_t now[6] = { e->tx.tail, e->tx.index, e->tx.head, e->rx.head, e->rx.index, e->rx.published };

	memcpy(e->was, now, sizeof(now));
}

/* Both directions from the first descriptor and byte that the input says. */
static void set_up(struct input *in)
{
	uint8_t geometry = byte(in), from = byte(in), at = byte(in);
	uint64_t index[2], position[2];

	if (!g_maps.rw[0])
		make_maps();
	g_hostile = geometry & 1;
	for (int i = 0; i < 2; i++) {
		struct end *e = &g_end[i];

		memset(e, 0, sizeof(*e));
		e->own = g_maps.rw[i];
		e->peer = g_maps.ro[!i];
		e->cap_log2 = SHM_CAP_LOG2_MIN + (geometry >> (1 + i) & 1);
		index[i] = start_index(i ? from >> 4 : from & 15, e->cap_log2);
		position[i] = start_position(i ? at >> 4 : at & 15);
		memset(e->own, 0, shm_region_size(CAP_LOG2_MAX));
		ring_format(e->own, e->cap_log2, index[i]);
		fill_pads(e->own);
	}
	for (int i = 0; i < 2; i++) {
		struct end *e = &g_end[i];

		ring_tx_init(&e->tx, e->own, e->peer, e->cap_log2, index[i]);
		ring_rx_init(&e->rx, e->own, e->peer, g_end[!i].cap_log2, index[!i]);
		e->tx.tail = e->tx.head = position[i];
		e->rx.head = e->rx.published = e->rx.next = position[!i];
		e->own->head = position[!i];
		e->tx.peer_sleeps = !(geometry & 0x40);
		e->rx.peer_sleeps = !(geometry & 0x80);
		remember(e);
	}
}

static bool inside(const void *p, uint64_t n, const struct ring_control *base, uint32_t cap_log2)
{
	const uint8_t *data = (const uint8_t *)base + SHM_PAGE + shm_desc_size(cap_log2), *at = p;

	return at >= data && (uint64_t)(at - data) <= shm_cap(cap_log2) && n <= shm_cap(cap_log2) - (uint64_t)(at - data);
}

static void check_end(struct end *e)
{
	const uint64_t now[6] = { e->tx.tail, e->tx.index, e->tx.head, e->rx.head, e->rx.index, e->rx.published };

	for (size_t i = 0; i < ARRAY_SIZE(now); i++)
		CHECK((int64_t)(now[i] - e->was[i]) >= 0);
	CHECK(e->tx.tail - e->tx.head <= e->tx.cap);
	CHECK(e->rx.head - e->rx.published < e->rx.cap / 4);
	memcpy(e->was, now, sizeof(now));
}

static uint8_t pattern(uint64_t number, uint32_t i)
{
	return (uint8_t)(number * 31 + i * 7 + (i >> 8));
}

/* The one who sleeps is the one who is woken, as it sleeps, once for each sleep. */
static void check_wake(enum ring_waiter how, uint32_t sleeps, bool *woken, bool looked, bool wakes)
{
	CHECK(how == RING_AWAKE || how == RING_ON_FUTEX || how == RING_ON_BELL);
	if (g_hostile)
		return;
	CHECK(how == (looked && wakes && !*woken ? (enum ring_waiter)sleeps : RING_AWAKE));
	if (how != RING_AWAKE)
		*woken = true;
}

static bool has_room(const struct end *e, const struct end *other, uint32_t size)
{
	uint64_t step = ring_step(size), at = ring_place(e->tx.tail, step, e->tx.cap);

	return at + step + SHM_LINE - other->own->head <= e->tx.cap;
}

/* What ring.md says of the peer's head: it is looked at when room is short, and lies between the last one and our tail. */
static int expected_of_reserve(const struct end *e, uint32_t size)
{
	uint64_t step = ring_step(size), until = ring_place(e->tx.tail, step, e->tx.cap) + step + SHM_LINE, head = e->peer->head;

	if (size > e->tx.cap / 4)
		return -EMSGSIZE;
	if (until - e->tx.head <= e->tx.cap)
		return 0;
	if (head - e->tx.head > e->tx.tail - e->tx.head)
		return -EPROTO;
	return until - head <= e->tx.cap ? 0 : RING_E_FULL;
}

/* ... and of a descriptor. */
static int expected_of_peek(const struct end *e)
{
	const _Atomic uint64_t *descs = (const _Atomic uint64_t *)((const uint8_t *)e->peer + SHM_PAGE);
	uint64_t n = e->rx.cap / 64, word = descs[e->rx.index % n], lap = e->rx.index / n + 1;
	uint32_t size = (uint32_t)word, flags = word >> 32 & 0xff;

	if (word >> 48 == ((lap - 1) & 0xffff))
		return RING_E_EMPTY;
	if (word >> 48 != (lap & 0xffff) || size > e->rx.cap / 4 || flags > 3 || (flags & 2 && size > 0))
		return -EPROTO;
	return 0;
}

static void do_reserve(struct end *e, struct end *other, struct input *in)
{
	uint32_t size = (uint32_t)number(in, 2) % (ring_record_max(e->tx.cap) + 2);
	int expected = expected_of_reserve(e, size), r;
	void *place = NULL;

	r = ring_tx_reserve(&e->tx, size, &place);
	CHECK(r == expected);
	if (!g_hostile && r != -EMSGSIZE)
		CHECK(r == (has_room(e, other, size) ? 0 : RING_E_FULL));
	e->place = NULL;
	if (r != 0)
		return;
	CHECK(inside(place, ring_step(size), e->own, e->cap_log2) && ((uintptr_t)place & (SHM_LINE - 1)) == 0);
	e->place = place;
	e->place_size = size;
}

static void note_staged(struct end *e, uint32_t size, uint8_t flags, uint8_t tag)
{
	e->sent[e->n_staged++ % N_QUEUE] = (struct expected){ .size = size, .flags = flags, .tag = tag };
}

static void do_stage(struct end *e, struct input *in)
{
	uint8_t how = byte(in), tag = byte(in);
	uint32_t size;

	if (!e->place || e->fin)
		return;
	size = how & 2 ? e->place_size / 2 : e->place_size;
	for (uint32_t i = 0; i < size; i++)
		((uint8_t *)e->place)[i] = pattern(e->n_staged, i);
	ring_tx_stage(&e->tx, size, how & RING_MORE, tag);
	note_staged(e, size, how & RING_MORE, tag);
	e->place = NULL;
}

static void do_fin(struct end *e)
{
	if (e->fin)
		return;
	e->fin = true;
	e->place = NULL;
	ring_tx_stage_fin(&e->tx);
	note_staged(e, 0, RING_FIN, 0);
}

static void do_publish(struct end *e, struct end *other)
{
	bool any = e->n_staged != e->n_published;
	enum ring_waiter how = ring_tx_publish(&e->tx);

	check_wake(how, other->rx_how, &other->rx_woken, any && e->tx.peer_sleeps, other->rx_how != RING_AWAKE);
	e->n_published = e->n_staged;
	ring_wake_data(&e->tx, how, -1);
}

static void do_peek(struct end *e, struct end *other)
{
	struct ring_record record = { .data = NULL };
	const struct expected *x = &other->sent[e->n_received % N_QUEUE];
	int expected = expected_of_peek(e), r = ring_rx_peek(&e->rx, &record);

	CHECK(r == expected);
	e->peeked = r == 0;
	if (!g_hostile)
		CHECK(r == (e->n_received < other->n_published ? 0 : RING_E_EMPTY));
	if (r != 0)
		return;
	CHECK(record.size <= ring_record_max(e->rx.cap) && (record.flags & ~RING_FLAGS_KNOWN) == 0);
	CHECK(!(record.flags & RING_FIN) || record.size == 0);
	CHECK(inside(record.data, ring_step(record.size), e->peer, other->cap_log2));
	if (!g_hostile)
		CHECK(record.size == x->size && record.flags == x->flags && record.tag == x->tag);
	for (uint32_t i = 0; i < record.size; i++) {
		uint8_t b = ((const uint8_t *)record.data)[i];

		g_sink ^= b;
		if (!g_hostile)
			CHECK(b == pattern(e->n_received, i));
	}
}

static void do_release(struct end *e, struct end *other)
{
	uint64_t published = e->rx.published;
	enum ring_waiter how;

	if (!e->peeked)
		return;
	e->peeked = false;
	how = ring_rx_release(&e->rx);
	e->n_received++;
	if (!g_hostile && e->n_received == other->n_staged)
		CHECK(e->rx.head == other->tx.tail);
	check_wake(how, other->tx_how, &other->tx_woken, published != e->rx.published && e->rx.peer_sleeps, other->tx_how != RING_AWAKE);
	ring_wake_space(&e->rx, how, -1);
}

/* What who is about to sleep or spin does: afterwards no producer sleeps that has room and was not woken. */
static void do_check(struct end *e, struct end *other)
{
	bool looked = e->rx.unchecked && e->rx.peer_sleeps;
	enum ring_waiter how = ring_rx_check_producer(&e->rx);

	check_wake(how, other->tx_how, &other->tx_woken, looked, other->tx_how != RING_AWAKE);
	ring_wake_space(&e->rx, how, -1);
	if (!g_hostile && e->rx.peer_sleeps && other->tx_how != RING_AWAKE && !other->tx_woken)
		CHECK(!has_room(other, e, other->tx_size));
}

static enum ring_waiter choose_how(struct input *in)
{
	return byte(in) & 1 ? RING_ON_FUTEX : RING_ON_BELL;
}

static void do_rx_sleep(struct end *e, struct end *other, struct input *in)
{
	enum ring_waiter how = choose_how(in);
	uint32_t seq;
	int r;

	if (e->rx_how != RING_AWAKE)
		return;
	r = ring_rx_sleep(&e->rx, how, &seq);
	CHECK(r == expected_of_peek(e));
	e->peeked = false; /* look again before release */
	if (!g_hostile)
		CHECK(r == (e->n_received < other->n_published ? 0 : RING_E_EMPTY));
	e->rx_how = r == RING_E_EMPTY ? how : RING_AWAKE;
	e->rx_woken = false;
}

static void do_rx_awake(struct end *e)
{
	ring_rx_awake(&e->rx);
	e->rx_how = RING_AWAKE;
}

static void do_tx_sleep(struct end *e, struct end *other, struct input *in)
{
	uint32_t size = (uint32_t)number(in, 2) % (ring_record_max(e->tx.cap) + 1), seq;
	enum ring_waiter how = choose_how(in);
	int expected = expected_of_reserve(e, size), r;

	if (e->tx_how != RING_AWAKE)
		return;
	r = ring_tx_sleep(&e->tx, size, how, &seq);
	CHECK(r == expected);
	if (!g_hostile)
		CHECK(r == (has_room(e, other, size) ? 0 : RING_E_FULL));
	e->place = NULL; /* reserved anew by whoever sleeps */
	e->tx_how = r == RING_E_FULL ? how : RING_AWAKE;
	e->tx_size = size;
	e->tx_woken = false;
}

static void do_tx_awake(struct end *e)
{
	ring_tx_awake(&e->tx);
	e->tx_how = RING_AWAKE;
}

/* Hostile: any word of the control page, mostly those that we read. */
static void do_write_control(struct end *victim, struct input *in)
{
	static const uint16_t read_by_us[] = { 128, 128, 128, 136, 256, 260, 384, 388 };
	struct ring_control *c = g_end[1].own;
	uint8_t where = byte(in), what = byte(in);
	uint64_t v = number(in, what & 8 ? 8 : 2), offset = where & 0x80 ? where % 64 * 64 : read_by_us[where % ARRAY_SIZE(read_by_us)];

	if (what & 1)
		v += victim->tx.tail;
	else if (what & 2)
		v = victim->tx.head - v;
	else if (what & 4)
		v = victim->tx.tail - v;
	if (offset == 128 || (where & 0x80))
		memcpy((uint8_t *)c + offset, &v, sizeof(v));
	else
		memcpy((uint8_t *)c + offset, &v, sizeof(uint32_t));
}

/* Hostile: a descriptor near the one that is read next, nearly right. */
static void do_write_desc(struct end *victim, struct input *in)
{
	_Atomic uint64_t *descs = (_Atomic uint64_t *)((uint8_t *)g_end[1].own + SHM_PAGE);
	uint8_t where = byte(in), what = byte(in);
	uint64_t index = victim->rx.index + (where & 7), word = number(in, what & 1 ? 8 : 2);
	uint64_t lap = ring_lap(index, victim->rx.lap_shift);

	if (!(what & 1)) {
		word &= what & 2 ? 0xffff : ring_record_max(victim->rx.cap) - 1;
		word |= (uint64_t)(what >> 2 & (what & 0x80 ? 7 : 1)) << 32;
		lap += where & 0x10 ? (uint64_t)(where >> 5) - 1 : 0;
		word |= (lap & 0xffff) << 48;
	}
	atomic_store_explicit(&descs[index & victim->rx.desc_mask], word, memory_order_relaxed);
}

static void do_write_payload(struct input *in)
{
	uint8_t *data = (uint8_t *)g_end[1].own + SHM_PAGE + shm_desc_size(g_end[1].cap_log2);

	data[number(in, 2) & (shm_cap(g_end[1].cap_log2) - 1)] = byte(in);
}

static void step(struct input *in)
{
	uint8_t op = byte(in);
	struct end *e = &g_end[op >> 7], *other = &g_end[!(op >> 7)];

	switch (op & 15) {
	case 0:
	case 1:
		do_reserve(e, other, in);
		break;
	case 2:
		do_stage(e, in);
		break;
	case 3:
		do_publish(e, other);
		break;
	case 4:
		do_peek(e, other);
		break;
	case 5:
		do_release(e, other);
		break;
	case 6:
		do_check(e, other);
		break;
	case 7:
		do_rx_sleep(e, other, in);
		break;
	case 8:
		do_rx_awake(e);
		break;
	case 9:
		do_tx_sleep(e, other, in);
		break;
	case 10:
		do_tx_awake(e);
		break;
	case 11:
		do_fin(e);
		break;
	case 12:
	case 13:
		if (g_hostile)
			do_write_desc(&g_end[0], in);
		break;
	case 14:
		if (g_hostile)
			do_write_control(&g_end[0], in);
		break;
	default:
		if (g_hostile)
			do_write_payload(in);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { .at = data, .end = data + size };

	set_up(&in);
	for (int n = 0; in.at < in.end && n < N_STEPS_MAX; n++) {
		step(&in);
		check_end(&g_end[0]);
		if (!g_hostile)
			check_end(&g_end[1]);
	}
	check_pads(g_end[0].own);
	if (!g_hostile)
		check_pads(g_end[1].own);
	return 0;
}
