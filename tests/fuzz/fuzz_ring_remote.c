/*
 * The reader of a ring between two hosts over a hostile copy: what a peer, or somebody on the wire, may do to it between two honest steps. The host
 * under test has a ring whose other end is honest; the input says what happens next: an honest batch, bytes anywhere in the copy, a
 * descriptor or a head that is nearly right, an immediate, a receive, a send of ours. First byte's lowest bit: the ring polls.
 *
 * Whatever comes: a record that is received is the one that the honest end sealed next, whole and once; after the first -EPROTO
 * there is nothing but that, and one offence; no byte beside the copy's region changes.
 */
#include "rdma/ring_remote.h"
#include "rdma/served.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CAP_LOG2 = 12, N_STEPS_MAX = 512, BESIDE = 256, CANARY = 0xa5 };

static const uint8_t g_secret[SEAL_SECRET_SIZE] = { 7 };
static uint64_t g_now_ns;

struct host {
	struct remote *r;
	struct remote_domain *domain;
	struct remote_conn *conn;
	struct ring_remote *ring;
	uint8_t *memory, *copy; /* copy: what the peer writes, with BESIDE bytes behind it */
	bool ready;
};

struct input {
	const uint8_t *at, *end;
};

static struct host g_ours, g_peer;
static uint64_t g_n_sealed, g_n_received, g_n_sent;
static bool g_broken;
static bool g_forged, g_peer_broken; /* something was written that may be a head: then we may send the peer more than it has room for */

static void require(bool good)
{
	if (!good)
		abort();
}

static uint64_t number(struct input *in, unsigned n)
{
	uint64_t v = 0;

	while (n-- > 0)
		v = v << 8 | (in->at < in->end ? *in->at++ : 0);
	return v;
}

static uint64_t now_ns(void *arg)
{
	return g_now_ns;
}

static void move(struct remote *from, struct remote *to)
{
	const uint8_t *out;
	const char *why;
	size_t n;

	while ((n = served_output(from, &out)) > 0) {
		require(served_input(to, out, n, &why) == 0);
		served_sent(from, n);
	}
}

static void give(struct host *h, const struct remote_done *d)
{
	int r = h->ring ? ring_remote_on_done(h->ring, d) : 0;

	h->ready |= r == RING_REMOTE_READY;
	require(r >= 0 || r == -EPROTO);
	if (h == &g_peer) {
		require(r >= 0 || g_forged);
		g_peer_broken |= r < 0;
		return;
	}
	require(!g_broken || r == -EPROTO);
	g_broken |= r < 0;
}

static void settle(void)
{
	struct remote_done d;

	for (unsigned i = 0; i < 3; i++) {
		move(g_ours.r, g_peer.r);
		move(g_peer.r, g_ours.r);
		while (remote_poll(g_ours.r, &d, 1) == 1)
			give(&g_ours, &d);
		while (remote_poll(g_peer.r, &d, 1) == 1)
			if (!g_peer_broken)
				give(&g_peer, &d);
	}
}

static void host_open(struct host *h)
{
	uint64_t size = ring_remote_memory_size(CAP_LOG2);

	require(served_open(&h->r, &(struct served_options){ now_ns, NULL }) == 0);
	require(remote_domain_new(&h->domain, h->r, 0) == 0);
	h->memory = aligned_alloc(4096, size + 4096);
	require(h->memory != NULL);
	memset(h->memory, 0, size);
	memset(h->memory + size, CANARY, BESIDE);
	h->copy = h->memory + size / 2;
}

static void ring_make(struct host *h, bool is_client, bool polls)
{
	const struct ring_remote_options o = { .conn = h->conn, .memory = h->memory, .cap_log2 = CAP_LOG2, .crypto = { NULL, NULL, SEAL_AES_128_GCM },
					       .secret = g_secret, .number = 1, .is_client = is_client, .polls = polls };

	require(ring_remote_new(&h->ring, &o) == 0);
}

static void open_both(bool polls)
{
	static const uint8_t token[REMOTE_TOKEN_SIZE] = { 1 };
	uint8_t key[REMOTE_KEY_SIZE];

	g_ours = g_peer = (struct host){ 0 };
	g_n_sealed = g_n_received = g_n_sent = 0;
	g_broken = g_forged = g_peer_broken = false;
	host_open(&g_ours);
	host_open(&g_peer);
	require(remote_expect(&g_peer.conn, g_peer.domain, token) == 0 && remote_connect(&g_ours.conn, g_ours.domain, "", token) == 0);
	settle();
	ring_make(&g_ours, true, polls);
	ring_make(&g_peer, false, polls);
	settle();
	require(g_ours.ready && g_peer.ready);
	ring_remote_key(g_ours.ring, key);
	require(ring_remote_start(g_peer.ring, key) == 0);
	ring_remote_key(g_peer.ring, key);
	require(ring_remote_start(g_ours.ring, key) == 0);
}

static void host_close(struct host *h)
{
	remote_close(h->conn);
	ring_remote_free(h->ring);
	remote_free(h->r);
	free(h->memory);
}

/* What the honest end seals as number @n. */
static uint32_t record_of(uint64_t n, uint8_t *plain)
{
	uint32_t size = (uint32_t)(n * 37 % 300);

	memset(plain, (int)n + 1, size);
	return size;
}

static void honest_batch(unsigned n)
{
	uint8_t plain[300];
	int r = 0;

	for (unsigned i = 0; i < n && r == 0; i++) {
		uint32_t size = record_of(g_n_sealed, plain);

		r = ring_remote_send(g_peer.ring, g_n_sealed & 1, (uint8_t)(g_n_sealed % 100), plain, size);
		g_n_sealed += r == 0;
	}
	r = ring_remote_flush(g_peer.ring);
	require(r == 0 || r == RING_E_FULL || r == -ENOTCONN);
	settle();
}

static void receive(void)
{
	uint8_t plain[1 << CAP_LOG2], expected[300];
	struct ring_remote_record record;
	int r = ring_remote_receive(g_ours.ring, plain, sizeof(plain), &record);

	require(r == 0 || r == RING_E_EMPTY || r == -EPROTO);
	require(!g_broken || r == -EPROTO);
	g_broken |= r == -EPROTO;
	if (r != 0)
		return;
	require(g_n_received < g_n_sealed && !(record.flags & RING_FIN));
	require(record.size == record_of(g_n_received, expected) && memcmp(plain, expected, record.size) == 0);
	require(record.flags == (g_n_received & 1) && record.tag == g_n_received % 100);
	g_n_received++;
}

static void send_ours(void)
{
	int r = ring_remote_send(g_ours.ring, 0, 1, "ours", 4), f;

	g_n_sent += r == 0;
	f = ring_remote_flush(g_ours.ring);
	require(r == 0 || r == RING_E_FULL || r == -EPROTO);
	require(f == 0 || f == RING_E_FULL || f == -ENOTCONN || f == -EPROTO);
	require(!g_broken || (r == -EPROTO && f == -EPROTO));
	g_broken |= r == -EPROTO || f == -EPROTO;
}

static void write_descriptor(struct input *in)
{
	uint64_t index = g_n_received + number(in, 1) % 4, lap = index / shm_n_descs(CAP_LOG2) + 1 + (number(in, 1) % 8 == 7);
	uint64_t word = number(in, 2) | (number(in, 1) & 7) << 32 | number(in, 1) << 40 | lap << 48;

	memcpy(g_ours.copy + SHM_PAGE + index % shm_n_descs(CAP_LOG2) * 8, &word, sizeof(word));
}

static void write_anywhere(struct input *in)
{
	uint64_t at = number(in, 2) % (shm_region_size(CAP_LOG2) - 8), word = number(in, 8);

	memcpy(g_ours.copy + at, &word, sizeof(word));
	g_forged = true;
}

static void write_head(struct input *in)
{
	uint64_t head = g_n_sent * 64 + number(in, 1) * 64 - 128;

	memcpy(g_ours.copy + offsetof(struct ring_control, head), &head, sizeof(head));
	g_forged = true;
}

static void immediate(uint32_t imm)
{
	give(&g_ours, &(struct remote_done){ .kind = REMOTE_DONE_IMM, .conn = g_ours.conn, .imm = imm });
}

static void step(struct input *in)
{
	switch (number(in, 1) % 8) {
	case 0:
		if (!g_broken && !g_peer_broken)
			honest_batch(1 + number(in, 1) % 4);
		break;
	case 1:
		write_anywhere(in);
		break;
	case 2:
		write_descriptor(in);
		break;
	case 3:
		immediate((uint32_t)(g_n_received + number(in, 1) % 72));
		break;
	case 4:
		immediate((uint32_t)number(in, 4));
		break;
	case 5:
		write_head(in);
		break;
	case 6:
		send_ours();
		break;
	default:
		receive();
	}
	g_now_ns += 100000;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, data + size };

	if (size < 2)
		return 0;
	g_now_ns = 1000000000;
	open_both(number(&in, 1) & 1);
	for (unsigned i = 0; i < N_STEPS_MAX && in.at < in.end; i++)
		step(&in);
	receive();
	require(remote_domain_offences(g_ours.domain, REMOTE_STATUS_N) == g_broken);
	require(remote_domain_offences(g_peer.domain, REMOTE_STATUS_N) == g_peer_broken);
	for (unsigned i = 0; i < BESIDE; i++)
		require(g_ours.memory[ring_remote_memory_size(CAP_LOG2) + i] == CANARY);
	host_close(&g_ours);
	host_close(&g_peer);
	return 0;
}
