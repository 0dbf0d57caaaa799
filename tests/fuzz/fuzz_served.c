/*
 * What a peer says on a channel that serves one-sided memory. The host under test has two connections up, one that it made and one that the
 * peer made, three exports of a region's middle (read, write, read and atomic), and operations of its own under way.
 *
 * The first byte's lowest bit: 0: the rest is fed as it is; 1: each 16 bytes of it become a frame with a proper form, whose key is one of ours
 * if its byte says so (keys are random, so no input could guess them). Whatever comes: what lies beside the exports stays as it was, and nothing
 * is told twice.
 */
#include "rdma/served.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MEMORY = 4096, FROM = 1024, TO = 3072, HEADER = 32, STEP = 16 };

struct host {
	struct remote *r;
	struct remote_domain *domain;
	struct remote_region *region;
	struct remote_conn *conns[2];
	_Alignas(64) uint8_t memory[MEMORY];
};

static void require(bool good)
{
	if (!good)
		abort();
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

static void host_open(struct host *h)
{
	require(served_open(&h->r, &(struct served_options){ NULL, NULL }) == 0);
	require(remote_domain_new(&h->domain, h->r, 0) == 0);
	memset(h->memory, 0x5a, MEMORY);
	require(remote_register(&h->region, h->domain, h->memory, MEMORY, REMOTE_MAY_READ | REMOTE_MAY_WRITE | REMOTE_MAY_ATOMIC) == 0);
}

/* Two connections: 0 made by @h, 1 by @peer. */
static void join(struct host *h, struct host *peer)
{
	static const uint8_t tokens[2][REMOTE_TOKEN_SIZE] = { { 1 }, { 2 } };

	require(remote_expect(&peer->conns[0], peer->domain, tokens[0]) == 0 && remote_connect(&h->conns[0], h->domain, "", tokens[0]) == 0);
	require(remote_expect(&h->conns[1], h->domain, tokens[1]) == 0 && remote_connect(&peer->conns[1], peer->domain, "", tokens[1]) == 0);
	move(h->r, peer->r);
	move(peer->r, h->r);
	move(h->r, peer->r);
}

static void post_some(struct host *h)
{
	static const enum remote_op_kind kinds[] = { REMOTE_WRITE, REMOTE_READ, REMOTE_ADD, REMOTE_WRITE_IMM, REMOTE_READ };

	for (size_t c = 0; c < 2; c++)
		for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
			struct remote_op op = { .kind = kinds[i], .flags = REMOTE_SIGNALLED, .region = h->region, .at = FROM + 64 * i,
						.size = kinds[i] == REMOTE_ADD ? 8 : 64, .id = i };

			require(remote_post(h->conns[c], &op, 1) == 0);
		}
}

static void drain(struct remote *r)
{
	const uint8_t *out;
	size_t n;

	while ((n = served_output(r, &out)) > 0)
		served_sent(r, n);
}

/* One frame of 16 bytes of input. */
static size_t frame_of(uint8_t *to, const uint8_t *from, const uint32_t keys[3])
{
	uint32_t size = from[4] % 65;
	uint32_t key = from[6] % 4 < 3 ? keys[from[6] % 4] : from[6];

	memset(to, 0, HEADER);
	to[0] = from[0] % 9;
	to[1] = from[1] % 16;
	to[2] = from[2] % 4;
	to[4] = from[3] & 1;
	to[7] = from[3] & 2 ? 0x80 : 0;
	to[8] = (uint8_t)size;
	memcpy(to + 12, &key, 4);
	memcpy(to + 16, from + 8, 2);
	memset(to + 18, from[10] & 1 ? 0xff : 0, 6); /* far below 0, too */
	memcpy(to + 24, from + 12, 2);
	memcpy(to + 28, from + 14, 2);
	memset(to + HEADER, from[5], size);
	return HEADER + size;
}

static void feed(struct host *h, const uint8_t *data, size_t size, const uint32_t keys[3], bool framed)
{
	const char *why;

	if (!framed) {
		/* In two parts, of copies that end where the bytes end. */
		for (size_t at = 0, n = size / 3 + 1; at < size; at += n, n = size - at) {
			uint8_t *copy = malloc(n);

			require(copy != NULL);
			memcpy(copy, data + at, n);
			if (served_input(h->r, copy, n, &why) < 0)
				require(why != NULL);
			free(copy);
			drain(h->r);
		}
		return;
	}
	for (; size >= STEP; data += STEP, size -= STEP) {
		uint8_t frame[HEADER + 64];
		size_t n = frame_of(frame, data, keys);

		if (served_input(h->r, frame, n, &why) < 0)
			require(why != NULL);
		if (data[7] & 1)
			drain(h->r);
	}
}

/* Each operation is told once, each connection's end once, and last. */
static void check_told(struct host *h)
{
	struct remote_done d[64];
	unsigned n_ops[2] = {}, n_downs[2] = {};
	int n;

	while ((n = remote_poll(h->r, d, ARRAY_SIZE(d))) > 0)
		for (int i = 0; i < n; i++) {
			unsigned c = d[i].conn == h->conns[1];

			require(n_downs[c] == 0);
			n_ops[c] += d[i].kind == REMOTE_DONE_OP;
			n_downs[c] += d[i].kind == REMOTE_DONE_DOWN;
		}
	require(n_ops[0] <= 5 && n_ops[1] <= 5);
	require(!n_downs[0] || n_ops[0] == 5);
	require(!n_downs[1] || n_ops[1] == 5);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint32_t rights[3] = { REMOTE_MAY_READ, REMOTE_MAY_WRITE, REMOTE_MAY_READ | REMOTE_MAY_ATOMIC };
	static struct host h, peer;
	uint32_t keys[3];

	if (size < 1)
		return 0;
	host_open(&h);
	host_open(&peer);
	join(&h, &peer);
	for (size_t i = 0; i < 3; i++) {
		struct remote_export *e = NULL;

		require(remote_export(&e, h.conns[1], h.region, FROM, TO - FROM, rights[i]) == 0);
		keys[i] = remote_export_key(e)->key;
	}
	post_some(&h);
	drain(h.r);
	feed(&h, data + 1, size - 1, keys, data[0] & 1);
	drain(h.r);
	for (size_t i = 0; i < MEMORY; i++)
		require((i >= FROM && i < TO) || h.memory[i] == 0x5a);
	check_told(&h);
	remote_free(h.r);
	remote_free(peer.r);
	return 0;
}
