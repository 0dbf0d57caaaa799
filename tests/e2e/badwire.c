/*
 * A bad cable between two network interfaces of one network namespace: it carries Ethernet frames from each to the other, and
 * loses, delays, reorders, corrupts them or breaks connections as it is told.
 *
 *   badwire IF1 IF2        commands on standard input, a line each:
 *
 *   loss P          lose P of 10,000 frames
 *   delay MS JITTER keep each frame for MS and up to JITTER milliseconds more, in order
 *   reorder P       let P of 10,000 frames be overtaken by those of the next 3 ms
 *   corrupt P       change one bit of the TCP payload of P of 10,000 frames that have one, so that no checksum tells
 *   reset           end every TCP connection that says something within the next 200 ms, towards both sides
 *   clear           a good cable again
 *   stat            print "frames N lost N corrupted N reset N"
 *
 * Theory of operation: packet sockets with PACKET_VNET_HDR, so that frames of up to 64 KiB that the kernel has neither cut nor
 * checksummed yet pass as they are: whoever checksums them later does so over what we made of them. A frame with its checksum
 * done gets the difference added (RFC 1624). Frames wait in a heap by the time at which they are due; one that is due at once
 * goes at once. What does not fit is lost, as on any cable. It is root's tool for namespaces that a test has made: it checks
 * lengths, and trusts its commands.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FRAME = (64 << 10) + 256, QUEUE = 8192, OVERTAKE_US = 3000, RESET_US = 200000, WHOLE = 10000 };

/* As the packet socket gives it: a struct virtio_net_hdr, then the frame. */
struct frame {
	int64_t due_us;
	uint64_t order; /* among those due at the same time */
	int to;
	size_t size;
	uint8_t data[];
};

static struct {
	unsigned loss, reorder, corrupt, delay_ms, jitter_ms;
	int64_t reset_until_us;
} g_rule;
static struct frame *g_heap[QUEUE];
static size_t g_n;
static uint64_t g_order, g_frames, g_lost, g_corrupted, g_reset;
static int64_t g_last_due_us[2];

static void die(const char *what)
{
	fprintf(stderr, "badwire: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * INT64_C(1000000) + ts.tv_nsec / 1000;
}

static bool chance(unsigned of_whole)
{
	return (unsigned)(random() % WHOLE) < of_whole;
}

/* --- what is due when --- */

static bool before(const struct frame *a, const struct frame *b)
{
	return a->due_us != b->due_us ? a->due_us < b->due_us : a->order < b->order;
}

static void heap_push(struct frame *f)
{
	size_t i = g_n++;

	while (i > 0 && before(f, g_heap[(i - 1) / 2])) {
		g_heap[i] = g_heap[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	g_heap[i] = f;
}

static struct frame *heap_pop(void)
{
	struct frame *top = g_heap[0], *last = g_heap[--g_n];
	size_t i = 0;

	for (;;) {
		size_t child = 2 * i + 1;

		if (child >= g_n)
			break;
		if (child + 1 < g_n && before(g_heap[child + 1], g_heap[child]))
			child++;
		if (!before(g_heap[child], last))
			break;
		g_heap[i] = g_heap[child];
		i = child;
	}
	g_heap[i] = last;
	return top;
}

/* --- what is in a frame --- */

/* Return: the TCP header in an IPv4 frame, and where its payload is; NULL: none, or cut short. */
static struct tcphdr *tcp_of(uint8_t *frame, size_t size, size_t *ret_payload)
{
	struct iphdr *ip = (struct iphdr *)(frame + ETH_HLEN);
	struct tcphdr *tcp;
	size_t end;

	if (size < ETH_HLEN + sizeof(*ip) + sizeof(*tcp) || frame[12] != 0x08 || frame[13] != 0x00 || ip->protocol != IPPROTO_TCP)
		return NULL;
	end = ETH_HLEN + ntohs(ip->tot_len);
	tcp = (struct tcphdr *)(frame + ETH_HLEN + ip->ihl * 4);
	if (ip->ihl < 5 || ETH_HLEN + ip->ihl * 4 + sizeof(*tcp) > size || tcp->doff < 5)
		return NULL;
	*ret_payload = ETH_HLEN + ip->ihl * 4 + tcp->doff * 4;
	return *ret_payload <= end && end <= size ? tcp : NULL;
}

/* One aligned 16-bit word of the TCP segment changes. */
static void fix_checksum(const struct virtio_net_hdr *v, struct tcphdr *tcp, uint16_t was, uint16_t is)
{
	uint32_t sum;

	if (v->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
		return;
	sum = (uint32_t)(uint16_t)~tcp->check + (uint16_t)~was + is;
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	tcp->check = (uint16_t)~sum;
}

static void change(const struct virtio_net_hdr *v, struct tcphdr *tcp, uint8_t *segment, size_t offset, uint8_t bits)
{
	uint16_t was, is;

	memcpy(&was, segment + offset / 2 * 2, 2);
	segment[offset] ^= bits;
	memcpy(&is, segment + offset / 2 * 2, 2);
	fix_checksum(v, tcp, was, is);
}

/* The payload's last byte may be half a word: left alone. */
static void corrupt(struct frame *f)
{
	struct virtio_net_hdr *v = (struct virtio_net_hdr *)f->data;
	uint8_t *frame = f->data + sizeof(*v);
	size_t size = f->size - sizeof(*v), payload, n;
	struct tcphdr *tcp = tcp_of(frame, size, &payload);

	if (!tcp || size - payload < 2 || !chance(g_rule.corrupt))
		return;
	n = (size - payload) & ~(size_t)1;
	change(v, tcp, (uint8_t *)tcp, payload - (size_t)((uint8_t *)tcp - frame) + (size_t)random() % n, (uint8_t)(1 << random() % 8));
	g_corrupted++;
}

static void reset(struct frame *f)
{
	struct virtio_net_hdr *v = (struct virtio_net_hdr *)f->data;
	size_t payload;
	struct tcphdr *tcp = tcp_of(f->data + sizeof(*v), f->size - sizeof(*v), &payload);

	if (!tcp || tcp->rst || tcp->syn)
		return;
	change(v, tcp, (uint8_t *)tcp, 13, 0x04);
	g_reset++;
}

/* --- the cable --- */

static void carry(struct frame *f, int from)
{
	int64_t now = now_us();

	f->due_us = now + g_rule.delay_ms * 1000;
	if (g_rule.jitter_ms)
		f->due_us += random() % (g_rule.jitter_ms * 1000);
	if (f->due_us < g_last_due_us[from])
		f->due_us = g_last_due_us[from];
	g_last_due_us[from] = f->due_us;
	if (chance(g_rule.reorder))
		f->due_us += OVERTAKE_US;
	f->order = g_order++;
	corrupt(f);
	if (now < g_rule.reset_until_us)
		reset(f);
	g_frames++;
	heap_push(f);
}

static void take(const int fds[2], int from)
{
	static uint8_t buf[FRAME];

	for (int i = 0; i < 64; i++) {
		struct sockaddr_ll a;
		socklen_t a_size = sizeof(a);
		ssize_t n = recvfrom(fds[from], buf, sizeof(buf), MSG_DONTWAIT | MSG_TRUNC, (struct sockaddr *)&a, &a_size);
		struct frame *f;

		if (n < 0)
			return;
		if (a.sll_pkttype == PACKET_OUTGOING)
			continue;
		if ((size_t)n > sizeof(buf) || (size_t)n < sizeof(struct virtio_net_hdr) + ETH_HLEN || g_n == QUEUE || chance(g_rule.loss)) {
			g_lost++;
			continue;
		}
		f = malloc(sizeof(*f) + (size_t)n);
		if (!f)
			die("malloc");
		f->to = fds[!from];
		f->size = (size_t)n;
		memcpy(f->data, buf, (size_t)n);
		carry(f, from);
	}
}

/* Return: milliseconds until the next one is due; -1: none waits. */
static int give(void)
{
	int64_t now = now_us();

	while (g_n && g_heap[0]->due_us <= now) {
		struct frame *f = heap_pop();

		if (send(f->to, f->data, f->size, MSG_DONTWAIT) < 0)
			g_lost++;
		free(f);
	}
	return g_n ? (int)((g_heap[0]->due_us - now + 999) / 1000) : -1;
}

static void command(char *line)
{
	unsigned a = 0, b = 0;
	char word[16] = "";

	sscanf(line, "%15s %u %u", word, &a, &b);
	if (strcmp(word, "loss") == 0)
		g_rule.loss = a;
	else if (strcmp(word, "reorder") == 0)
		g_rule.reorder = a;
	else if (strcmp(word, "corrupt") == 0)
		g_rule.corrupt = a;
	else if (strcmp(word, "delay") == 0)
		g_rule.delay_ms = a, g_rule.jitter_ms = b;
	else if (strcmp(word, "reset") == 0)
		g_rule.reset_until_us = now_us() + RESET_US;
	else if (strcmp(word, "clear") == 0)
		memset(&g_rule, 0, sizeof(g_rule));
	else if (strcmp(word, "stat") == 0)
		printf("frames %llu lost %llu corrupted %llu reset %llu\n", (unsigned long long)g_frames, (unsigned long long)g_lost,
		       (unsigned long long)g_corrupted, (unsigned long long)g_reset);
	else
		fprintf(stderr, "badwire: what is '%s'?\n", word);
	fflush(stdout);
}

static void take_commands(void)
{
	static char buf[4096];
	static size_t n;
	ssize_t r = read(STDIN_FILENO, buf + n, sizeof(buf) - 1 - n);
	char *end;

	if (r <= 0)
		exit(0);
	n += (size_t)r;
	buf[n] = '\0';
	while ((end = strchr(buf, '\n'))) {
		*end = '\0';
		command(buf);
		n -= (size_t)(end + 1 - buf);
		memmove(buf, end + 1, n + 1);
	}
}

static int plug(const char *name)
{
	struct sockaddr_ll a = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)if_nametoindex(name) };
	struct packet_mreq m = { .mr_ifindex = a.sll_ifindex, .mr_type = PACKET_MR_PROMISC };
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0), one = 1, room = 8 << 20;

	if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one)) < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ||
	    setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &m, sizeof(m)) < 0)
		die(name);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room));
	return fd;
}

int main(int argc, char **argv)
{
	int fds[2], wait_ms = -1;

	if (argc != 3) {
		fputs("usage: badwire INTERFACE INTERFACE\n", stderr);
		return 2;
	}
	fds[0] = plug(argv[1]);
	fds[1] = plug(argv[2]);
	for (;;) {
		struct pollfd p[] = { { fds[0], POLLIN, 0 }, { fds[1], POLLIN, 0 }, { STDIN_FILENO, POLLIN, 0 } };

		if (poll(p, 3, wait_ms) < 0)
			die("poll");
		for (int i = 0; i < 2; i++)
			if (p[i].revents)
				take(fds, i);
		if (p[2].revents)
			take_commands();
		wait_ms = give();
	}
}
