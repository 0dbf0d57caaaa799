/*
 * Theory of operation
 *
 * The wire between two emulated machines, and whoever sits on it: relay A B listens on two Unix sockets, to which one QEMU each connects
 * (-netdev stream: 4 bytes of size, big-endian, then an Ethernet frame), and hands frames on. What RoCEv2 carries (UDP to port 4791) goes
 * through a plan; all else is left alone, and so, but for cut=, is what makes connections (queue pair 1).
 *
 * The plan comes from inside, in a datagram to port 4790 of the other machine, which never gets there: words NAME=NUMBER, zeros where
 * nothing is said. The answer, from that address: what was done so far. A plan begins anew.
 *
 *   seed=      of every choice
 *   drop= dup= spoil=   packets in a thousand: lost; twice; with a bit changed, and the checksum left as it was
 *   jitter=    microseconds that a packet is held up, at most, each by itself: so they overtake one another
 *   cut=       so many packets pass, then none at all between the two, those that make connections neither: as if a machine had gone
 *   keep=1     what passed before is remembered, for attacks that need something old
 *   attack=    enum attack, once, or times= times
 *   from=      1, 2: on packets from that machine
 *   after=     packets of the kind that the attack is about, which pass first
 *
 * Attacks are made as the device makes packets: the invariant checksum (ICRC, IBTA annex A17) is right, so the far device takes them. One that is
 * added takes the number (PSN) of the packet that comes next, which the far device then holds for one that came twice: this is how ReDMArk
 * (USENIX Security 2021) injects. Its keys and addresses are those that passed by.
 *
 * Trust: both machines run a test of ours. Sizes are checked all the same: a frame that is none ends the relay.
 */
#include "base/util.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

enum {
	FRAME_MAX = 2048,
	HELD_MAX = 4096,
	PLAN_PORT = 4790,
	ROCE_PORT = 4791,
	/* Where things are in a frame: Ethernet, IPv4 without options, UDP, then InfiniBand's headers. */
	IP = 14,
	UDP = IP + 20,
	BTH = UDP + 8,
	EXT = BTH + 12,
	RETH_SIZE = 16,
	IMM_SIZE = 4,
	AETH_SIZE = 4,
	ICRC_SIZE = 4,
};

/* Opcodes of reliable connections (IBTA 9.2). */
enum {
	WRITE_FIRST = 0x06, WRITE_MIDDLE, WRITE_LAST, WRITE_LAST_IMM, WRITE_ONLY, WRITE_ONLY_IMM, READ_REQUEST,
	READ_FIRST, READ_MIDDLE, READ_LAST, READ_ONLY, ACK,
};
enum { NAK_REMOTE_ACCESS = 0x62 };

enum attack {
	ATTACK_NONE,
	FLIP_WRITE,   /* a bit of a record, or of whatever is written without an immediate */
	FLIP_TABLE,   /* a bit of a descriptor: of what is written with one */
	FLIP_IMM,     /* a bit of an immediate */
	FLIP_HEAD,    /* what was taken: 8 bytes, with the highest bit of the immediate */
	FLIP_READ,    /* a bit of a READ's answer */
	SAME_AGAIN,   /* a WRITE, again as it was */
	OLD_AS_NEW,   /* the first WRITE that passed, as the next packet */
	FORGE_WRITE,  /* junk where the last WRITE went */
	FORGE_IMM,    /* an immediate that nobody sent */
	FORGE_ROOM,   /* the same, one that says what was taken */
	FORGE_READ,   /* a READ by the key of the last WRITE */
	FORGE_NAK,    /* "access refused", in answer to what was not refused */
	OLD_READ,     /* the first answer to a READ that passed, as that of a later one */
	ATTACK_N,
};

struct plan {
	unsigned long seed, drop, dup, spoil, jitter, cut, keep, attack, from, after, times;
};

struct done {
	unsigned long n_roce, n_bad_icrc, n_dropped, n_twice, n_spoilt, n_held, n_attacks;
	uint64_t attacked_ns; /* the first one */
};

struct frame {
	size_t size;
	uint8_t bytes[FRAME_MAX];
};

struct held {
	uint64_t due_ns;
	uint64_t number; /* of two that are due at once the earlier goes first */
	unsigned to;
	struct frame frame;
};

struct side {
	int fd;
	uint8_t in[4 + FRAME_MAX];
	size_t n_in;
	/* What passed by from here. */
	struct frame first_write, first_read;
	uint8_t reth[RETH_SIZE]; /* of the last WRITE */
	bool has_reth;
};

static struct side g_sides[2] = { { .fd = -1 }, { .fd = -1 } };
static struct plan g_plan;
static struct done g_done;
static struct held *g_held[HELD_MAX];
static unsigned g_n_held;
static uint64_t g_n_frames, g_random;

static void must(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "relay: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint32_t dice(void)
{
	g_random = g_random * UINT64_C(6364136223846793005) + 1442695040888963407;
	return (uint32_t)(g_random >> 33);
}

static bool chance(unsigned long permille)
{
	return dice() % 1000 < permille;
}

/* -- packets */

static unsigned be16(const uint8_t *p)
{
	return (unsigned)(p[0] << 8 | p[1]);
}

static void put_be(uint8_t *p, uint64_t value, unsigned size)
{
	while (size-- > 0) {
		p[size] = (uint8_t)value;
		value >>= 8;
	}
}

static uint32_t crc32_of(uint32_t crc, const uint8_t *p, size_t n)
{
	while (n-- > 0) {
		crc ^= *p++;
		for (unsigned i = 0; i < 8; i++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
	}
	return crc;
}

/* Where the ICRC lies: the last 4 bytes of the datagram. */
static size_t icrc_at(const struct frame *f)
{
	return IP + be16(f->bytes + IP + 2) - ICRC_SIZE;
}

/* What changes on the way counts as ones: type of service, time to live, checksums, reserved bits. */
static uint32_t icrc_of(const struct frame *f)
{
	uint8_t head[8 + EXT - IP];

	memset(head, 0xff, 8);
	memcpy(head + 8, f->bytes + IP, EXT - IP);
	head[8 + 1] = head[8 + 8] = head[8 + 10] = head[8 + 11] = 0xff;
	head[8 + 20 + 6] = head[8 + 20 + 7] = 0xff;
	head[8 + 28 + 4] = 0xff;
	return ~crc32_of(crc32_of(0xffffffff, head, sizeof(head)), f->bytes + EXT, icrc_at(f) - EXT);
}

static void icrc_make_right(struct frame *f)
{
	put_le(f->bytes + icrc_at(f), icrc_of(f), ICRC_SIZE);
}

static bool is_udp_to(const struct frame *f, unsigned port)
{
	return f->size >= EXT && be16(f->bytes + 12) == 0x0800 && f->bytes[IP] == 0x45 && f->bytes[IP + 9] == 17 && be16(f->bytes + UDP + 2) == port;
}

/* Of a reliable connection that is there. */
static bool is_roce(const struct frame *f)
{
	return is_udp_to(f, ROCE_PORT) && icrc_at(f) >= EXT && icrc_at(f) + ICRC_SIZE <= f->size && f->bytes[BTH] <= ACK;
}

static unsigned opcode_of(const struct frame *f)
{
	return f->bytes[BTH];
}

static bool is_write(const struct frame *f)
{
	return opcode_of(f) >= WRITE_FIRST && opcode_of(f) <= WRITE_ONLY_IMM;
}

static bool has_reth(const struct frame *f)
{
	unsigned op = opcode_of(f);

	return op == WRITE_FIRST || op == WRITE_ONLY || op == WRITE_ONLY_IMM || op == READ_REQUEST;
}

static bool has_imm(const struct frame *f)
{
	return opcode_of(f) == WRITE_LAST_IMM || opcode_of(f) == WRITE_ONLY_IMM;
}

static bool is_answer(const struct frame *f)
{
	return opcode_of(f) >= READ_FIRST && opcode_of(f) <= READ_ONLY;
}

static size_t imm_at(const struct frame *f)
{
	return EXT + (has_reth(f) ? RETH_SIZE : 0);
}

static size_t payload_at(const struct frame *f)
{
	if (is_answer(f))
		return EXT + (opcode_of(f) == READ_MIDDLE ? 0 : AETH_SIZE);
	return imm_at(f) + (has_imm(f) ? IMM_SIZE : 0);
}

static size_t payload_size(const struct frame *f)
{
	return icrc_at(f) > payload_at(f) ? icrc_at(f) - payload_at(f) : 0;
}

static bool is_room(const struct frame *f)
{
	return has_imm(f) && f->bytes[imm_at(f)] & 0x80;
}

/* -- out */

static void send_all(unsigned to, const struct frame *f)
{
	uint8_t out[4 + FRAME_MAX];
	size_t at = 0, n = 4 + f->size;

	put_be(out, f->size, 4);
	memcpy(out + 4, f->bytes, f->size);
	while (at < n) {
		ssize_t done = send(g_sides[to].fd, out + at, n - at, MSG_NOSIGNAL);

		if (done < 0 && (errno == EPIPE || errno == ECONNRESET))
			exit(0); /* the test is over */
		must(done > 0, "send");
		at += (size_t)done;
	}
}

static void send_later(unsigned to, const struct frame *f)
{
	struct held *h = malloc(sizeof(*h));

	must(h && g_n_held < HELD_MAX, "too many packets held");
	h->due_ns = clock_ns() + dice() % g_plan.jitter * 1000;
	h->number = g_n_frames++;
	h->to = to;
	h->frame = *f;
	g_held[g_n_held++] = h;
	g_done.n_held++;
}

static void hand_on(unsigned to, const struct frame *f)
{
	if (g_plan.jitter > 0 && is_roce(f))
		send_later(to, f);
	else
		send_all(to, f);
}

/* Send what is due. Return: milliseconds until the next is. */
static int send_due(void)
{
	for (;;) {
		unsigned first = 0;

		if (g_n_held == 0)
			return -1;
		for (unsigned i = 1; i < g_n_held; i++)
			if (g_held[i]->due_ns < g_held[first]->due_ns ||
			    (g_held[i]->due_ns == g_held[first]->due_ns && g_held[i]->number < g_held[first]->number))
				first = i;
		if (g_held[first]->due_ns > clock_ns())
			return 1;
		send_all(g_held[first]->to, &g_held[first]->frame);
		free(g_held[first]);
		g_held[first] = g_held[--g_n_held];
	}
}

/* -- attacks */

static uint16_t ip_checksum(const uint8_t *p)
{
	uint32_t sum = 0;

	for (unsigned i = 0; i < 20; i += 2)
		sum += be16(p + i);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~(sum + (sum >> 16));
}

/* A packet of that kind with the addresses, queue pair and number of @like; @rest: behind its base header, a multiple of 4. */
static void forge(struct frame *ret, const struct frame *like, uint8_t opcode, const uint8_t *rest, size_t size)
{
	memcpy(ret->bytes, like->bytes, EXT);
	memcpy(ret->bytes + EXT, rest, size);
	ret->size = EXT + size + ICRC_SIZE;
	put_be(ret->bytes + IP + 2, ret->size - IP, 2);
	put_be(ret->bytes + IP + 10, 0, 2);
	put_be(ret->bytes + IP + 10, ip_checksum(ret->bytes + IP), 2);
	put_be(ret->bytes + UDP + 4, ret->size - UDP, 2);
	ret->bytes[BTH] = opcode;
	ret->bytes[BTH + 1] &= 0x4f; /* no padding, no event wanted */
	icrc_make_right(ret);
}

/* An operation by the key of the last WRITE from @from, in the place of @like. */
static void forge_by_key(struct frame *ret, unsigned from, const struct frame *like, uint8_t opcode, uint32_t length, uint32_t imm)
{
	uint8_t rest[RETH_SIZE + IMM_SIZE + 64];
	size_t n = RETH_SIZE;

	memcpy(rest, g_sides[from].reth, RETH_SIZE);
	put_be(rest + 12, length, 4);
	if (opcode == WRITE_ONLY_IMM) {
		put_be(rest + n, imm, IMM_SIZE);
		n += IMM_SIZE;
	}
	if (opcode == WRITE_ONLY) {
		for (uint32_t i = 0; i < length; i++)
			rest[n + i] = (uint8_t)dice();
		n += length;
	}
	forge(ret, like, opcode, rest, n);
}

/* Is @f what the attack is about? */
static bool is_target(const struct frame *f, unsigned from)
{
	switch (g_plan.attack) {
	case FLIP_WRITE:
		return is_write(f) && !has_imm(f) && payload_size(f) > 0;
	case FLIP_TABLE:
		return has_imm(f) && !is_room(f) && payload_size(f) >= 8;
	case FLIP_IMM:
		return has_imm(f) && !is_room(f);
	case FLIP_HEAD:
		return is_room(f) && payload_size(f) == 8;
	case FLIP_READ:
		return is_answer(f) && payload_size(f) > 0;
	case OLD_READ:
		return opcode_of(f) == READ_ONLY && g_sides[from].first_read.size == f->size;
	case FORGE_NAK:
		return opcode_of(f) == ACK;
	case OLD_AS_NEW:
		return opcode_of(f) == WRITE_ONLY && g_sides[from].first_write.size > 0;
	default:
		return is_write(f) && has_reth(f) && payload_size(f) > 0 && !is_room(f) && g_sides[from].has_reth;
	}
}

/* Change @f, or send something before it. */
static void attack(struct frame *f, unsigned from)
{
	struct frame more = { 0 };

	switch (g_plan.attack) {
	case FLIP_WRITE:
	case FLIP_READ:
	case FLIP_TABLE: /* the size of the record */
		f->bytes[payload_at(f)] ^= 4;
		break;
	case FLIP_IMM:
		f->bytes[imm_at(f) + 3] ^= 0x40; /* 64 records more, or fewer than there were */
		break;
	case FLIP_HEAD:
		put_le(f->bytes + payload_at(f), UINT64_C(1) << 40, 8);
		break;
	case SAME_AGAIN:
		more = *f;
		break;
	case OLD_AS_NEW:
		more = g_sides[from].first_write;
		memcpy(more.bytes + BTH + 9, f->bytes + BTH + 9, 3);
		break;
	case FORGE_WRITE:
		forge_by_key(&more, from, f, WRITE_ONLY, 64, 0);
		break;
	case FORGE_IMM:
		forge_by_key(&more, from, f, WRITE_ONLY_IMM, 0, 0x12345);
		break;
	case FORGE_ROOM:
		forge_by_key(&more, from, f, WRITE_ONLY_IMM, 0, 0x80000000);
		break;
	case FORGE_READ:
		forge_by_key(&more, from, f, READ_REQUEST, 64, 0);
		break;
	case FORGE_NAK:
		f->bytes[EXT] = NAK_REMOTE_ACCESS;
		break;
	default:
		memcpy(f->bytes + payload_at(f), g_sides[from].first_read.bytes + payload_at(f), payload_size(f));
	}
	icrc_make_right(f);
	if (more.size > 0) {
		icrc_make_right(&more);
		send_all(1 - from, &more);
	}
	if (g_done.n_attacks++ == 0)
		g_done.attacked_ns = clock_ns();
}

static void remember(const struct frame *f, unsigned from)
{
	struct side *s = &g_sides[from];

	if (is_write(f) && has_reth(f) && payload_size(f) > 0) {
		memcpy(s->reth, f->bytes + EXT, RETH_SIZE);
		s->has_reth = true;
		if (opcode_of(f) == WRITE_ONLY && s->first_write.size == 0)
			s->first_write = *f;
	}
	if (opcode_of(f) == READ_ONLY && s->first_read.size == 0)
		s->first_read = *f;
}

/* -- in */

static void plan_read(char *text)
{
	const struct {
		const char *name;
		unsigned long *to;
	} words[] = {
		{ "seed", &g_plan.seed }, { "drop", &g_plan.drop }, { "dup", &g_plan.dup }, { "spoil", &g_plan.spoil }, { "jitter", &g_plan.jitter },
		{ "cut", &g_plan.cut }, { "keep", &g_plan.keep }, { "attack", &g_plan.attack }, { "from", &g_plan.from }, { "after", &g_plan.after }, { "times", &g_plan.times },
	};

	g_plan = (struct plan){ 0 };
	for (char *rest = NULL, *word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
		for (size_t i = 0; i < ARRAY_SIZE(words); i++)
			if (strncmp(word, words[i].name, strlen(words[i].name)) == 0 && word[strlen(words[i].name)] == '=')
				*words[i].to = strtoul(word + strlen(words[i].name) + 1, NULL, 10);
	g_random = g_plan.seed;
}

/* A new plan, and the answer: what was done by the old one. The datagram keeps its size. */
static void on_plan(struct frame *f, unsigned from)
{
	size_t n = f->size - BTH;
	char text[256] = "";
	uint8_t old[6];

	memcpy(text, f->bytes + BTH, n < sizeof(text) ? n : sizeof(text) - 1);
	snprintf((char *)f->bytes + BTH, n, "%lu %lu %lu %lu %lu %lu %lu %lu", g_done.n_roce, g_done.n_bad_icrc, g_done.n_dropped, g_done.n_twice,
		 g_done.n_spoilt, g_done.n_held, g_done.n_attacks,
		 g_done.n_attacks ? (unsigned long)((clock_ns() - g_done.attacked_ns) / 1000000) : 0);
	memcpy(old, f->bytes, 6);
	memcpy(f->bytes, f->bytes + 6, 6);
	memcpy(f->bytes + 6, old, 6);
	memcpy(old, f->bytes + IP + 12, 4);
	memcpy(f->bytes + IP + 12, f->bytes + IP + 16, 4);
	memcpy(f->bytes + IP + 16, old, 4);
	memcpy(old, f->bytes + UDP, 2);
	memcpy(f->bytes + UDP, f->bytes + UDP + 2, 2);
	memcpy(f->bytes + UDP + 2, old, 2);
	put_be(f->bytes + UDP + 6, 0, 2); /* no checksum */
	send_all(from, f);
	plan_read(text);
	g_done = (struct done){ 0 };
	for (unsigned i = 0; i < 2 && !g_plan.keep; i++) {
		g_sides[i].first_write.size = g_sides[i].first_read.size = 0;
		g_sides[i].has_reth = false;
	}
}

static void on_roce(struct frame *f, unsigned from)
{
	g_done.n_roce++;
	if (get_le(f->bytes + icrc_at(f), ICRC_SIZE) != icrc_of(f))
		g_done.n_bad_icrc++;
	if (g_plan.attack != ATTACK_NONE && g_plan.from == from + 1 && is_target(f, from) && g_done.n_attacks < (g_plan.times ? g_plan.times : 1)) {
		if (g_plan.after == 0)
			attack(f, from);
		else
			g_plan.after--;
	}
	remember(f, from);
	if (chance(g_plan.drop)) {
		g_done.n_dropped++;
		return;
	}
	if (chance(g_plan.dup)) {
		g_done.n_twice++;
		hand_on(1 - from, f);
	}
	if (chance(g_plan.spoil)) {
		g_done.n_spoilt++;
		f->bytes[EXT + dice() % (icrc_at(f) - EXT + ICRC_SIZE)] ^= 0x10;
	}
	hand_on(1 - from, f);
}

static void on_frame(struct frame *f, unsigned from)
{
	if (is_udp_to(f, PLAN_PORT))
		on_plan(f, from);
	else if (is_udp_to(f, ROCE_PORT) && g_plan.cut > 0 && g_done.n_roce >= g_plan.cut - 1)
		g_done.n_dropped++;
	else if (is_roce(f))
		on_roce(f, from);
	else
		hand_on(1 - from, f);
}

static void receive(unsigned from)
{
	struct side *s = &g_sides[from];
	ssize_t n = recv(s->fd, s->in + s->n_in, sizeof(s->in) - s->n_in, 0);
	size_t at = 0;

	if (n <= 0)
		exit(0); /* a machine has gone: the test is over */
	s->n_in += (size_t)n;
	while (s->n_in - at >= 4) {
		size_t size = (size_t)be16(s->in + at) << 16 | be16(s->in + at + 2);
		struct frame f = { .size = size };

		must(size >= IP && size <= FRAME_MAX, "a frame of a size it cannot have");
		if (s->n_in - at - 4 < size)
			break;
		memcpy(f.bytes, s->in + at + 4, size);
		at += 4 + size;
		on_frame(&f, from);
	}
	memmove(s->in, s->in + at, s->n_in - at);
	s->n_in -= at;
}

static int listen_at(const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	must(str_copy(sa.sun_path, sizeof(sa.sun_path), path), "path too long");
	must(fd >= 0 && bind(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0 && listen(fd, 1) == 0, path);
	return fd;
}

int main(int argc, char **argv)
{
	int listeners[2];

	if (argc != 3) {
		fprintf(stderr, "usage: relay SOCKET SOCKET\n");
		return 2;
	}
	for (unsigned i = 0; i < 2; i++)
		listeners[i] = listen_at(argv[1 + i]);
	for (unsigned i = 0; i < 2; i++) {
		g_sides[i].fd = accept(listeners[i], NULL, NULL);
		must(g_sides[i].fd >= 0, "accept");
	}
	for (;;) {
		struct pollfd p[2] = { { .fd = g_sides[0].fd, .events = POLLIN }, { .fd = g_sides[1].fd, .events = POLLIN } };

		if (poll(p, 2, send_due()) < 0 && errno != EINTR)
			must(false, "poll");
		for (unsigned i = 0; i < 2; i++)
			if (p[i].revents)
				receive(i);
	}
}
