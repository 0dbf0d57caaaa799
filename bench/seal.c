/*
 * What sealing costs per record, on one core, all in one run and by turns: copying the bytes once (memcpy), a record through the ring of shared
 * memory (copied in, copied out), sealing and opening with OpenSSL's own AES-128-GCM and with sealane's provider, and the ring between two
 * hosts without a wire: seal, stage, flush, receive, open, over the fake, whose own work (it moves the bytes once more) is in it.
 * Prints nanoseconds of this thread for each record, medians over batches, and ratios to memcpy; then what a card of 100 Gb/s would make of them,
 * with the arithmetic. docs/rdma-cost.md is made of this.
 */
#include "link/gcm.h"
#include "rdma/fake.h"
#include "rdma/test_ring_util.h"

enum { N_BATCHES = 15, BATCH_BYTES = 4 << 20, RECORDS_MAX = 8192, PLACE = 1 << 20, CAP_LOG2 = 18, SIZE_MAX_ = 64 << 10 };

/* Of a card of 100 Gb/s, which nobody here has: docs/rdma-cost.md says where each comes from. */
enum { MTU = 4096, PACKET = 82, FIRST_PACKET = 16, IMMEDIATE = 4, BATCH = 8, DOORBELL_NS = 100, ONE_WAY_NS = 900 };
static const double wire_bytes_ns = 12.5;

static uint8_t *g_from, *g_to;

struct bench { /* of one column */
	const char *name;
	void (*run)(struct bench *b, size_t size, size_t n);
	struct seal_stream *stream;
	struct seal_crypto crypto;
	double ns[N_BATCHES];
};

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* This thread's own time: others on the machine do not count, but for what they do to caches. */
static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Through a megabyte, so that a record is not always in the first cache. */
static size_t step(size_t at, size_t size)
{
	at += (size + 63) & ~(size_t)63;
	return at + SIZE_MAX_ + SEAL_TAG_SIZE < PLACE ? at : 0;
}

static void run_memcpy(struct bench *b, size_t size, size_t n)
{
	for (size_t i = 0, at = 0; i < n; i++, at = step(at, size)) {
		memcpy(g_to + at, g_from + at, size);
		__asm__ volatile("" : : : "memory");
	}
}

static void run_seal(struct bench *b, size_t size, size_t n)
{
	for (size_t i = 0, at = 0; i < n; i++, at = step(at, size))
		RING_MUST(seal_record(b->stream, at, 0, g_from + at, (uint32_t)size, g_to + at) == 0);
}

/*
 * The time of opening as a receiver does it: copied out of the ring, then opened. They are of an equal stream's first records, sealed in
 * advance, and the stream starts anew for each batch.
 */
static uint8_t *g_sealed;

static size_t sealed_step(size_t size)
{
	return (size + SEAL_TAG_SIZE + 63) & ~(size_t)63;
}

static size_t n_sealed(size_t size)
{
	size_t n = PLACE / sealed_step(size);

	return n < RECORDS_MAX ? n : RECORDS_MAX;
}

static void prepare_open(struct bench *b, size_t size)
{
	struct seal_stream *tx = NULL;

	RING_MUST(seal_stream_new(&tx, &b->crypto, ring_test_secret, 1, 0, true) == 0);
	for (size_t i = 0; i < n_sealed(size); i++)
		RING_MUST(seal_record(tx, i, 0, g_from, (uint32_t)size, g_sealed + i * sealed_step(size)) == 0);
	seal_stream_free(tx);
}

static void run_open(struct bench *b, size_t size, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		size_t k = i % n_sealed(size);

		if (k == 0) {
			seal_stream_free(b->stream);
			RING_MUST(seal_stream_new(&b->stream, &b->crypto, ring_test_secret, 1, 0, false) == 0);
		}
		RING_MUST(seal_record_open(b->stream, k, 0, g_sealed + k * sealed_step(size), (uint32_t)(size + SEAL_TAG_SIZE), g_to) == 0);
	}
}

/* -- the ring of shared memory: one thread plays both ends */

static struct ring_control *g_own, *g_peer;
static struct ring_tx g_tx;
static struct ring_rx g_rx;

static void run_ring(struct bench *b, size_t size, size_t n)
{
	struct ring_record record;
	enum ring_waiter how;
	void *place;

	for (size_t i = 0; i < n; i++) {
		RING_MUST(ring_tx_reserve(&g_tx, (uint32_t)size, &place) == 0);
		memcpy(place, g_from, size);
		ring_tx_stage(&g_tx, (uint32_t)size, 0, 0);
		how = ring_tx_publish(&g_tx);
		RING_MUST(ring_rx_peek(&g_rx, &record) == 0);
		memcpy(g_to, record.data, size);
		how |= ring_rx_release(&g_rx);
		RING_MUST(how == RING_AWAKE);
		ring_rx_publish_head(&g_rx);
	}
}

static void ring_make(void)
{
	g_own = aligned_alloc(4096, shm_region_size(CAP_LOG2));
	g_peer = aligned_alloc(4096, shm_region_size(CAP_LOG2));
	RING_MUST(g_own && g_peer);
	memset(g_own, 0, shm_region_size(CAP_LOG2));
	memset(g_peer, 0, shm_region_size(CAP_LOG2));
	ring_tx_init(&g_tx, g_own, g_peer, CAP_LOG2, 0);
	ring_rx_init(&g_rx, g_peer, g_own, CAP_LOG2, 0);
	g_tx.peer_sleeps = g_rx.peer_sleeps = false;
}

/* -- the ring between two hosts, over the fake */

static struct fake_net *g_net;
static struct ring_end g_a, g_b;

static void remote_make(struct seal_crypto crypto)
{
	const struct fake_device device = { .atomics = true, .windows = true, .ordered = true };
	static const uint8_t token[REMOTE_TOKEN_SIZE] = { 3 };
	uint8_t key[REMOTE_KEY_SIZE];

	RING_MUST(fake_net_new(&g_net, 1) == 0);
	RING_MUST(fake_open(&g_a.r, g_net, "a", &device) == 0 && fake_open(&g_b.r, g_net, "b", &device) == 0);
	ring_end_open(&g_a, g_a.r, CAP_LOG2);
	ring_end_open(&g_b, g_b.r, CAP_LOG2);
	RING_MUST(remote_expect(&g_b.conn, g_b.domain, token) == 0 && remote_connect(&g_a.conn, g_a.domain, "b", token) == 0);
	while (!g_a.up || !g_b.up) {
		RING_MUST(fake_net_step(g_net));
		(void)ring_end_look(&g_a);
		(void)ring_end_look(&g_b);
	}
	for (int i = 0; i < 2; i++) {
		struct ring_end *e = i ? &g_b : &g_a;
		struct ring_remote_options o = { .conn = e->conn, .memory = e->memory, .cap_log2 = CAP_LOG2, .crypto = crypto,
						 .secret = ring_test_secret, .number = 1, .is_client = !i };

		RING_MUST(ring_remote_new(&e->ring, &o) == 0);
		(void)ring_end_look(e);
	}
	ring_remote_key(g_a.ring, key);
	RING_MUST(ring_remote_start(g_b.ring, key) == 0);
	ring_remote_key(g_b.ring, key);
	RING_MUST(ring_remote_start(g_a.ring, key) == 0);
}

/* Batches of up to eight records, as they would come together under load. */
static void run_remote(struct bench *b, size_t size, size_t n)
{
	struct ring_remote_record record;
	size_t sent = 0, got = 0;

	while (got < n) {
		for (unsigned k = 0; k < BATCH && sent < n; k++, sent++)
			if (ring_remote_send(g_a.ring, 0, 0, g_from, (uint32_t)size) != 0)
				break;
		RING_MUST(ring_remote_flush(g_a.ring) >= 0);
		(void)fake_net_step(g_net);
		(void)ring_end_look(&g_a);
		(void)ring_end_look(&g_b);
		while (ring_remote_receive(g_b.ring, g_to, SIZE_MAX_, &record) == 0)
			got++;
	}
}

static double median_ns(struct bench *b)
{
	qsort(b->ns, N_BATCHES, sizeof(double), compare);
	return b->ns[N_BATCHES / 2];
}

static void line(struct bench *benches, size_t n_benches, size_t size)
{
	size_t n = BATCH_BYTES / size < RECORDS_MAX ? BATCH_BYTES / size : RECORDS_MAX;
	double base;

	for (int i = -1; i < N_BATCHES; i++) /* the first one warms up */
		for (size_t k = 0; k < n_benches; k++) {
			uint64_t began;

			if (benches[k].run == run_open)
				prepare_open(&benches[k], size);
			began = cpu_ns();
			benches[k].run(&benches[k], size, n);
			if (i >= 0)
				benches[k].ns[i] = (double)(cpu_ns() - began) / (double)n;
		}
	printf("%7zu", size);
	base = median_ns(&benches[0]);
	for (size_t k = 0; k < n_benches; k++)
		printf("  %9.0f %6.1f", median_ns(&benches[k]), median_ns(&benches[k]) / base);
	printf("\n");
}

/* -- what follows for a card */

enum column { MEMCPY, RING, SEAL_OPENSSL, OPEN_OPENSSL, SEAL, OPEN, REMOTE };

static double least(double a, double b)
{
	return a < b ? a : b;
}

/* What a batch of records occupies of the wire: their data in one WRITE, their descriptors in one with an immediate. */
static double batch_wire_bytes(size_t size)
{
	size_t data = BATCH * ((size + SEAL_TAG_SIZE + 7) & ~(size_t)7), packets = (data + MTU - 1) / MTU;

	return (double)(data + packets * PACKET + FIRST_PACKET + BATCH * sizeof(uint64_t) + PACKET + FIRST_PACKET + IMMEDIATE);
}

/* Each end's own work on a record besides sealing: the ring, posting, completions. The fake's move of the bytes is taken off. */
static double keeping_ns(struct bench *benches)
{
	return (median_ns(&benches[REMOTE]) - median_ns(&benches[SEAL]) - median_ns(&benches[OPEN]) - median_ns(&benches[MEMCPY])) / 2;
}

static double records_per_us(double seal, double open, double keeping, size_t size)
{
	double ends = least(1000 / (seal + keeping + (double)DOORBELL_NS / BATCH), 1000 / (open + keeping));

	return least(ends, 1000 * BATCH * wire_bytes_ns / batch_wire_bytes(size));
}

static void predict(struct bench *benches, size_t size, double keeping)
{
	double seal = median_ns(&benches[SEAL]), open = median_ns(&benches[OPEN]);
	double wire = 1000 * BATCH * wire_bytes_ns / batch_wire_bytes(size), n = records_per_us(seal, open, keeping, size);
	double openssl = records_per_us(median_ns(&benches[SEAL_OPENSSL]), median_ns(&benches[OPEN_OPENSSL]), keeping, size);
	double travel = ONE_WAY_NS + (double)size / wire_bytes_ns, work = seal + open + 2 * keeping;

	printf("%7zu  %9.2f M  %9.2f  %7.0f %%  %9.2f  %6.1f + %.1f\n", size, n, n * (double)size / 1000, 100 * n / wire,
	       openssl * (double)size / 1000, travel / 1000, work / 1000);
}

static void print_arithmetic(double keeping)
{
	printf("\nA card of 100 Gb/s, computed. Measured above: seal, open; keeping the ring: %.0f ns at each end (64 bytes: remote ring less seal, open and\n"
	       "one memcpy, halved). Assumed: %.1f bytes a ns on the wire, packets of %d with %d bytes of headers, %d records a batch, a doorbell of %d ns for\n"
	       "each batch, %d ns from a small WRITE to polled memory. One core at each end:\n"
	       "  sender = seal + keeping + %d / %d, receiver = open + keeping, wire = a batch's bytes / %d / %.1f; records/s = 1 / the slowest of the three\n"
	       "  one way = %d ns + bytes / %.1f, then seal + open + 2 * keeping\n\n",
	       keeping, wire_bytes_ns, MTU, PACKET, BATCH, DOORBELL_NS, ONE_WAY_NS, DOORBELL_NS, BATCH, BATCH, wire_bytes_ns, ONE_WAY_NS, wire_bytes_ns);
	printf("%7s  %11s  %9s  %9s  %9s  %s\n", "bytes", "records/s", "GB/s", "of wire", "OpenSSL's", "one way, us");
}

int main(void)
{
	static const size_t sizes[] = { 64, 256, 1024, 4096, 16384, 65536 - 64 };
	OSSL_LIB_CTX *ctx = OSSL_LIB_CTX_new();
	struct seal_crypto ours = { ctx, "?provider=sealane", SEAL_AES_128_GCM }, openssl = { NULL, NULL, SEAL_AES_128_GCM };
	struct bench benches[] = {
		{ .name = "memcpy", .run = run_memcpy },
		{ .name = "ring", .run = run_ring },
		{ .name = "seal, OpenSSL", .run = run_seal, .crypto = openssl },
		{ .name = "open, OpenSSL", .run = run_open, .crypto = openssl },
		{ .name = "seal", .run = run_seal, .crypto = ours },
		{ .name = "open", .run = run_open, .crypto = ours },
		{ .name = "remote ring", .run = run_remote },
	};
	struct bench kept[ARRAY_SIZE(sizes)][ARRAY_SIZE(benches)];
	const char *why;

	g_from = calloc(1, PLACE);
	g_to = calloc(1, PLACE);
	g_sealed = calloc(1, PLACE);
	RING_MUST(ctx && g_from && g_to && g_sealed);
	memset(g_from, 1, PLACE);
	memset(g_to, 1, PLACE);
	RING_MUST(link_gcm_load(ctx, &why) >= 0);
	printf("%s; sealane's provider: %s\nnanoseconds a record, and times memcpy\n%7s", OpenSSL_version(OPENSSL_VERSION), why, "bytes");
	ring_make();
	remote_make(ours);
	for (size_t k = 0; k < ARRAY_SIZE(benches); k++) {
		if (benches[k].run == run_seal)
			RING_MUST(seal_stream_new(&benches[k].stream, &benches[k].crypto, ring_test_secret, 1, 0, true) == 0);
		printf("  %16s", benches[k].name);
	}
	printf("\n");
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		line(benches, ARRAY_SIZE(benches), sizes[i]);
		memcpy(kept[i], benches, sizeof(benches));
	}
	print_arithmetic(keeping_ns(kept[0]));
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
		predict(kept[i], sizes[i], keeping_ns(kept[0]));
	for (size_t k = 0; k < ARRAY_SIZE(benches); k++)
		seal_stream_free(benches[k].stream);
	ring_end_close(&g_a);
	ring_end_close(&g_b);
	remote_free(g_a.r);
	remote_free(g_b.r);
	fake_net_free(g_net);
	link_gcm_unload(ctx);
	OSSL_LIB_CTX_free(ctx);
	free(g_from);
	free(g_to);
	free(g_sealed);
	free(g_own);
	free(g_peer);
	return 0;
}
