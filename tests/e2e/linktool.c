/*
 * What the end-to-end tests of links run inside containers: both ends of byte streams, where every byte is checked.
 *
 *   linktool serve SOCKET                      does what its clients ask for, each on a connection of its own
 *   linktool get SOCKET BYTES [raw]            the server sends; checks each byte, or writes them to standard output
 *   linktool put SOCKET BYTES                  sends; the server checks
 *   linktool pattern BYTES                     what `get raw` writes
 *   linktool slow SOCKET BYTES SECONDS         get, at 50 KB/s for so long, then as fast as it comes
 *   linktool rtt SOCKET SECONDS                64 bytes there and back: "p50 P99 MAX" in us
 *   linktool pump SOCKET SECONDS LANES BYTES   LANES connections at a time, each of up to BYTES through echo; one that breaks
 *                                              is made again. Ends with one line of JSON: what came back, and how
 *
 * Theory of operation: byte number n of a stream is a function of its seed and n alone, so that a byte that is lost, doubled,
 * changed, or another stream's, shows at once. A connection begins with 24 bytes (struct order): what the server is to do.
 * `pump` is one epoll loop; a lane that makes no progress for HANG_MS is told and given up, so no test waits for ever.
 *
 * Exit status: 0; 1: it broke, or a wait took over HANG_MS; 4: a wrong byte, or bytes that were never sent.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MAGIC UINT32_C(0x31544c53)

enum { CHUNK = 64 << 10, EVENTS = 256, HANG_MS = 30000, AHEAD = 256 << 10, RTT_MAX = 1 << 20 };
enum op { OP_ECHO = 1, OP_SOURCE, OP_SINK };

struct order {
	uint32_t magic, op;
	uint64_t bytes, seed;
};

/* OP_SINK's answer. */
struct verdict {
	uint64_t bytes, first_wrong; /* UINT64_MAX: none */
};

static uint8_t g_chunk[CHUNK];

static int64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * INT64_C(1000000) + ts.tv_nsec / 1000;
}

static void die(const char *what)
{
	fprintf(stderr, "linktool: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* --- the pattern --- */

static uint64_t word_at(uint64_t seed, uint64_t i)
{
	uint64_t z = seed + i * UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

/* The pattern's bytes from @pos on. */
static void pattern_fill(uint8_t *out, size_t n, uint64_t seed, uint64_t pos)
{
	size_t done = 0;

	while (done < n) {
		for (; n - done >= 8 && (pos + done) % 8 == 0; done += 8) {
			uint64_t word = word_at(seed, (pos + done) / 8);

			memcpy(out + done, &word, 8);
		}
		if (done == n)
			break;
		uint64_t word = word_at(seed, (pos + done) / 8);
		size_t skew = (pos + done) % 8, part = 8 - skew;

		if (part > n - done)
			part = n - done;
		memcpy(out + done, (const uint8_t *)&word + skew, part);
		done += part;
	}
}

/* Return: how many of @n bytes are as they have to be, from the first on. */
static size_t pattern_match(const uint8_t *p, size_t n, uint64_t seed, uint64_t pos)
{
	static uint8_t expected[CHUNK];
	size_t i = 0;

	pattern_fill(expected, n, seed, pos);
	if (memcmp(p, expected, n) == 0)
		return n;
	while (p[i] == expected[i])
		i++;
	return i;
}

/* --- sockets --- */

static struct sockaddr_un address_of(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(a.sun_path)) {
		errno = ENAMETOOLONG;
		die(path);
	}
	memcpy(a.sun_path, path, strlen(path) + 1);
	return a;
}

static int dial(const char *path, int flags)
{
	struct sockaddr_un a = address_of(path);
	struct timeval patience = { .tv_sec = HANG_MS / 1000 };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);

	if (fd < 0)
		die("socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0)
		return fd;
	close(fd);
	return -1;
}

static void send_all(int fd, const void *data, size_t n)
{
	for (size_t done = 0; done < n;) {
		ssize_t r = send(fd, (const char *)data + done, n - done, MSG_NOSIGNAL);

		if (r < 0)
			die("send");
		done += (size_t)r;
	}
}

static int ask(const char *path, enum op op, uint64_t bytes, uint64_t seed)
{
	struct order o = { MAGIC, op, bytes, seed };
	int fd = dial(path, 0);

	if (fd < 0)
		die(path);
	send_all(fd, &o, sizeof(o));
	return fd;
}

/* --- serve --- */

struct conn {
	int fd;
	size_t n_order;
	struct order order;
	uint64_t in, out, wrong;
	bool eof, done;
	uint32_t events;
	size_t n_buf, off_buf;
	uint8_t buf[CHUNK];
};

/* Return: false: the connection is over. */
static bool conn_flush(struct conn *c)
{
	while (c->off_buf < c->n_buf) {
		ssize_t r = send(c->fd, c->buf + c->off_buf, c->n_buf - c->off_buf, MSG_NOSIGNAL);

		if (r < 0)
			return errno == EAGAIN;
		c->off_buf += (size_t)r;
	}
	c->n_buf = c->off_buf = 0;
	return true;
}

/* Return: bytes, 0 with c->eof: the end; 0: none now; -1: it broke. */
static ssize_t conn_read(struct conn *c, void *buf, size_t size)
{
	ssize_t r;

	if (c->eof)
		return 0;
	r = recv(c->fd, buf, size, 0);
	c->eof = r == 0;
	return r < 0 && errno == EAGAIN ? 0 : r;
}

static bool step_echo(struct conn *c)
{
	for (int turns = 0; turns < 16; turns++) {
		ssize_t r;

		if (!conn_flush(c))
			return false;
		if (c->n_buf)
			return true;
		r = conn_read(c, c->buf, sizeof(c->buf));
		if (r < 0)
			return false;
		c->n_buf = (size_t)r;
		if (r == 0 && c->eof && !c->done) {
			c->done = true;
			shutdown(c->fd, SHUT_WR);
		}
		if (r == 0)
			return !c->eof;
	}
	return true;
}

static bool step_source(struct conn *c)
{
	ssize_t r;

	for (int turns = 0; turns < 16 && c->out < c->order.bytes; turns++) {
		size_t n = sizeof(c->buf);

		if (!conn_flush(c))
			return false;
		if (c->n_buf)
			break;
		if (n > c->order.bytes - c->out)
			n = (size_t)(c->order.bytes - c->out);
		pattern_fill(c->buf, n, c->order.seed, c->out);
		c->out += n;
		c->n_buf = n;
	}
	if (!conn_flush(c))
		return false;
	if (c->out == c->order.bytes && !c->n_buf && !c->done) {
		c->done = true;
		shutdown(c->fd, SHUT_WR);
	}
	r = conn_read(c, g_chunk, sizeof(g_chunk));
	return r >= 0 && !(c->eof && c->done);
}

static bool step_sink(struct conn *c)
{
	struct verdict v;

	for (int turns = 0; turns < 16; turns++) {
		ssize_t r = conn_read(c, g_chunk, sizeof(g_chunk));
		size_t good;

		if (r < 0)
			return false;
		if (r == 0)
			break;
		good = pattern_match(g_chunk, (size_t)r, c->order.seed, c->in);
		if (good < (size_t)r && c->wrong == UINT64_MAX)
			c->wrong = c->in + good;
		c->in += (uint64_t)r;
	}
	if (!c->eof || c->n_buf)
		return conn_flush(c) && !(c->eof && !c->n_buf);
	v = (struct verdict){ c->in, c->wrong };
	memcpy(c->buf, &v, sizeof(v));
	c->n_buf = sizeof(v);
	return conn_flush(c) && c->n_buf;
}

static bool conn_step(struct conn *c)
{
	while (c->n_order < sizeof(c->order)) {
		ssize_t r = conn_read(c, (char *)&c->order + c->n_order, sizeof(c->order) - c->n_order);

		if (r <= 0)
			return r == 0 && !c->eof;
		c->n_order += (size_t)r;
	}
	if (c->order.magic != MAGIC)
		return false;
	switch ((enum op)c->order.op) {
	case OP_ECHO: return step_echo(c);
	case OP_SOURCE: return step_source(c);
	case OP_SINK: return step_sink(c);
	}
	return false;
}

static void serve_accept(int listener, int epoll_fd)
{
	int fd;

	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		struct conn *c = calloc(1, sizeof(*c));
		struct epoll_event ev = { .events = EPOLLIN, .data.ptr = c };

		if (!c)
			die("calloc");
		c->fd = fd;
		c->wrong = UINT64_MAX;
		c->events = EPOLLIN;
		if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
			die("epoll_ctl");
	}
}

static void serve_turn(struct conn *c, int epoll_fd)
{
	struct epoll_event ev = { .data.ptr = c };

	if (!conn_step(c)) {
		close(c->fd);
		free(c);
		return;
	}
	ev.events = (c->n_buf || (c->order.op == OP_SOURCE && !c->done) ? EPOLLOUT : 0) |
		    (c->eof || (c->n_buf && c->order.op == OP_ECHO) ? 0 : EPOLLIN);
	if (ev.events != c->events && epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &ev) < 0)
		die("epoll_ctl");
	c->events = ev.events;
}

static _Noreturn void serve(const char *path)
{
	struct sockaddr_un a = address_of(path);
	struct epoll_event ev = { .events = EPOLLIN }, events[EVENTS];
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), epoll_fd = epoll_create1(EPOLL_CLOEXEC);

	unlink(path);
	if (listener < 0 || bind(listener, (struct sockaddr *)&a, sizeof(a)) < 0 || chmod(path, 0777) < 0 || listen(listener, 4096) < 0)
		die(path);
	if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &ev) < 0)
		die("epoll");
	for (;;) {
		int n = epoll_wait(epoll_fd, events, EVENTS, -1);

		for (int i = 0; i < n; i++) {
			if (events[i].data.ptr)
				serve_turn(events[i].data.ptr, epoll_fd);
			else
				serve_accept(listener, epoll_fd);
		}
	}
}

/* --- one stream at a time --- */

static int wrong_at(uint64_t pos)
{
	printf("WRONG at byte %" PRIu64 "\n", pos);
	return 4;
}

static int told(uint64_t bytes, uint64_t got, int64_t started)
{
	int64_t us = now_us() - started;

	if (got > bytes)
		return wrong_at(bytes);
	if (got < bytes) {
		printf("short: %" PRIu64 " of %" PRIu64 " bytes\n", got, bytes);
		return 1;
	}
	printf("good %" PRIu64 " bytes, %" PRIi64 " MB/s\n", got, us ? (int64_t)got / us : 0);
	return 0;
}

static int get(const char *path, uint64_t bytes, bool raw, double slow_s)
{
	int64_t started = now_us(), fast_at = started + (int64_t)(slow_s * 1e6);
	int fd = ask(path, OP_SOURCE, bytes, 1);
	uint64_t got = 0;
	ssize_t r = 0;

	for (;;) {
		bool slow = slow_s > 0 && now_us() < fast_at;

		r = recv(fd, g_chunk, slow ? 1024 : sizeof(g_chunk), 0);
		if (r <= 0)
			break;
		if (raw && fwrite(g_chunk, 1, (size_t)r, stdout) != (size_t)r)
			die("standard output");
		if (!raw && pattern_match(g_chunk, (size_t)r, 1, got) != (size_t)r)
			return wrong_at(got + pattern_match(g_chunk, (size_t)r, 1, got));
		got += (uint64_t)r;
		if (slow)
			usleep(20000);
	}
	if (r < 0)
		die("recv");
	close(fd);
	return raw ? got != bytes : told(bytes, got, started);
}

static int put(const char *path, uint64_t bytes)
{
	int64_t started = now_us();
	int fd = ask(path, OP_SINK, 0, 1);
	struct verdict v;

	for (uint64_t pos = 0; pos < bytes;) {
		size_t n = bytes - pos < CHUNK ? (size_t)(bytes - pos) : CHUNK;

		pattern_fill(g_chunk, n, 1, pos);
		send_all(fd, g_chunk, n);
		pos += n;
	}
	shutdown(fd, SHUT_WR);
	if (recv(fd, &v, sizeof(v), MSG_WAITALL) != sizeof(v))
		die("the verdict");
	return v.first_wrong != UINT64_MAX ? wrong_at(v.first_wrong) : told(bytes, v.bytes, started);
}

static int pattern(uint64_t bytes)
{
	for (uint64_t pos = 0; pos < bytes;) {
		size_t n = bytes - pos < CHUNK ? (size_t)(bytes - pos) : CHUNK;

		pattern_fill(g_chunk, n, 1, pos);
		if (fwrite(g_chunk, 1, n, stdout) != n)
			die("standard output");
		pos += n;
	}
	return 0;
}

static int by_size(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static int rtt(const char *path, double seconds)
{
	uint32_t *us = malloc(RTT_MAX * sizeof(*us)), n = 0;
	int64_t end = now_us() + (int64_t)(seconds * 1e6);
	int fd = ask(path, OP_ECHO, 0, 0);
	uint64_t pos = 0;

	if (!us)
		die("malloc");
	while (n < RTT_MAX && now_us() < end) {
		int64_t started = now_us();

		pattern_fill(g_chunk, 64, 2, pos);
		send_all(fd, g_chunk, 64);
		if (recv(fd, g_chunk, 64, MSG_WAITALL) != 64)
			die("recv");
		us[n++] = (uint32_t)(now_us() - started);
		if (pattern_match(g_chunk, 64, 2, pos) != 64)
			return wrong_at(pos);
		pos += 64;
	}
	qsort(us, n, sizeof(*us), by_size);
	printf("%u %u %u\n", us[n / 2], us[n / 100 * 99], us[n - 1]);
	return 0;
}

/* --- pump --- */

struct lane {
	int fd; /* -1: to be made again */
	uint64_t seed, bytes, sent, got;
	int64_t progress_us;
	uint32_t events;
};

struct pump {
	const char *path;
	uint64_t max_bytes;
	int epoll_fd;
	int64_t end_us, progress_us;
	uint64_t bytes, whole, broken, refused, wrong, hung;
	int64_t longest_us;
};

static uint64_t random64(void)
{
	uint64_t v;

	if (getrandom(&v, sizeof(v), 0) != sizeof(v))
		die("getrandom");
	return v;
}

static void lane_end(struct lane *l, uint64_t *counter)
{
	(*counter)++;
	close(l->fd);
	l->fd = -1;
}

static void lane_begin(struct pump *p, struct lane *l)
{
	struct order o = { MAGIC, OP_ECHO, 0, 0 };
	struct epoll_event ev = { .events = EPOLLIN | EPOLLOUT, .data.ptr = l };

	l->fd = dial(p->path, SOCK_NONBLOCK);
	if (l->fd < 0) {
		p->refused++;
		return;
	}
	l->seed = random64();
	l->bytes = 1 + random64() % p->max_bytes;
	l->sent = l->got = 0;
	l->progress_us = now_us();
	l->events = ev.events;
	if (epoll_ctl(p->epoll_fd, EPOLL_CTL_ADD, l->fd, &ev) < 0)
		die("epoll_ctl");
	if (send(l->fd, &o, sizeof(o), MSG_NOSIGNAL) != sizeof(o))
		lane_end(l, &p->broken);
}

/* Return: false: it broke. */
static bool lane_send(struct lane *l)
{
	while (l->sent < l->bytes && l->sent - l->got < AHEAD) {
		size_t n = l->bytes - l->sent < CHUNK / 4 ? (size_t)(l->bytes - l->sent) : CHUNK / 4;
		ssize_t r;

		pattern_fill(g_chunk, n, l->seed, l->sent);
		r = send(l->fd, g_chunk, n, MSG_NOSIGNAL);
		if (r < 0)
			return errno == EAGAIN;
		l->sent += (uint64_t)r;
		if (l->sent == l->bytes)
			shutdown(l->fd, SHUT_WR);
	}
	return true;
}

static void lane_recv(struct pump *p, struct lane *l)
{
	ssize_t r = recv(l->fd, g_chunk, sizeof(g_chunk), 0);

	if (r < 0) {
		if (errno != EAGAIN)
			lane_end(l, &p->broken);
		return;
	}
	if (r == 0) {
		lane_end(l, l->got == l->bytes ? &p->whole : &p->broken);
		return;
	}
	if (l->got + (uint64_t)r > l->sent || pattern_match(g_chunk, (size_t)r, l->seed, l->got) != (size_t)r) {
		lane_end(l, &p->wrong);
		return;
	}
	l->got += (uint64_t)r;
	p->bytes += (uint64_t)r;
	l->progress_us = now_us();
	if (l->progress_us - p->progress_us > p->longest_us)
		p->longest_us = l->progress_us - p->progress_us;
	p->progress_us = l->progress_us;
}

static void lane_turn(struct pump *p, struct lane *l, uint32_t happened)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = l };

	if (happened & (EPOLLIN | EPOLLHUP | EPOLLERR))
		lane_recv(p, l);
	if (l->fd < 0)
		return;
	if (!lane_send(l)) {
		lane_end(l, &p->broken);
		return;
	}
	if (l->sent < l->bytes && l->sent - l->got < AHEAD)
		ev.events |= EPOLLOUT;
	if (ev.events != l->events && epoll_ctl(p->epoll_fd, EPOLL_CTL_MOD, l->fd, &ev) < 0)
		die("epoll_ctl");
	l->events = ev.events;
}

/* Return: lanes that are open. After the end no new ones are made. */
static unsigned pump_look(struct pump *p, struct lane *lanes, unsigned n)
{
	unsigned open = 0;
	int64_t now = now_us();

	for (unsigned i = 0; i < n; i++) {
		if (lanes[i].fd >= 0 && now - lanes[i].progress_us > HANG_MS * INT64_C(1000))
			lane_end(&lanes[i], &p->hung);
		if (lanes[i].fd < 0 && now < p->end_us)
			lane_begin(p, &lanes[i]);
		open += lanes[i].fd >= 0;
	}
	return open;
}

static int pump(const char *path, double seconds, unsigned n, uint64_t max_bytes)
{
	struct pump p = { .path = path, .max_bytes = max_bytes, .epoll_fd = epoll_create1(EPOLL_CLOEXEC) };
	struct lane *lanes = calloc(n, sizeof(*lanes));
	struct epoll_event events[EVENTS];
	int64_t started = now_us();

	if (!lanes || p.epoll_fd < 0)
		die("pump");
	for (unsigned i = 0; i < n; i++)
		lanes[i].fd = -1;
	p.progress_us = started;
	p.end_us = started + (int64_t)(seconds * 1e6);
	while (pump_look(&p, lanes, n) || now_us() < p.end_us) {
		int k = epoll_wait(p.epoll_fd, events, EVENTS, 20);

		for (int i = 0; i < k; i++)
			if (((struct lane *)events[i].data.ptr)->fd >= 0)
				lane_turn(&p, events[i].data.ptr, events[i].events);
	}
	printf("{\"bytes\":%" PRIu64 ",\"whole\":%" PRIu64 ",\"broken\":%" PRIu64 ",\"refused\":%" PRIu64 ",\"wrong\":%" PRIu64
	       ",\"hung\":%" PRIu64 ",\"longest_gap_ms\":%" PRIi64 ",\"ms\":%" PRIi64 "}\n",
	       p.bytes, p.whole, p.broken, p.refused, p.wrong, p.hung, p.longest_us / 1000, (now_us() - started) / 1000);
	free(lanes);
	return p.wrong ? 4 : 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "";
	uint64_t bytes = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;

	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	if (strcmp(what, "serve") == 0)
		serve(argv[2]);
	if (strcmp(what, "pattern") == 0)
		return pattern(strtoull(argv[2], NULL, 10));
	if (strcmp(what, "get") == 0 && bytes)
		return get(argv[2], bytes, argc > 4, 0);
	if (strcmp(what, "put") == 0 && bytes)
		return put(argv[2], bytes);
	if (strcmp(what, "slow") == 0 && argc > 4)
		return get(argv[2], bytes, false, atof(argv[4]));
	if (strcmp(what, "rtt") == 0 && argc > 3)
		return rtt(argv[2], atof(argv[3]));
	if (strcmp(what, "pump") == 0 && argc > 5)
		return pump(argv[2], atof(argv[3]), (unsigned)atoi(argv[4]), strtoull(argv[5], NULL, 10));
	fputs("usage: linktool serve|get|put|pattern|slow|rtt|pump ARGUMENT...\n", stderr);
	return 2;
}
