/*
 * A host that vanishes without a word, on real verbs: two machines (pair.sh). "b" serves until it is told to go, and then its whole machine goes;
 * "a" has one connection on which it waits, one that is silent, and tries to make a third. Each has to end in the time that
 * docs/design/rdma.md promises; the layers below would wait much longer, or for ever.
 */
#include "rdma/verbs.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>

enum { SIZE = 4096, N_CONNS = 2, CONTROL_PORT = 7777, PORT = 7444, UP_MS = 90000 };

#define MS_NS UINT64_C(1000000)
/* Beyond what is promised: emulated machines are slow. */
#define SLACK_MS 2000
#define A "10.8.0.1"
#define B "10.8.0.2"

#define MUST(what)                                                                                       \
	do {                                                                                             \
		if (!(what)) {                                                                           \
			fprintf(stderr, "not ok - line %d: %s: %s\n", __LINE__, #what, strerror(errno)); \
			exit(1);                                                                         \
		}                                                                                        \
	} while (0)

static _Alignas(4096) uint8_t g_memory[SIZE];
static struct remote *g_r;
static struct remote_domain *g_domain;
static struct remote_region *g_region;

static void open_here(const char *ip, uint32_t rights)
{
	const char *why = "";
	char address[64];
	const struct verbs_options o = { .address = address };
	int r;

	snprintf(address, sizeof(address), "%s:%d", ip, PORT);
	r = remote_verbs_open(&g_r, &o, &why);
	if (r != 0)
		fprintf(stderr, "not ok - %s: %s\n", address, r > 0 ? why : strerror(-r));
	MUST(r == 0);
	MUST(remote_domain_new(&g_domain, g_r, 0) == 0 && remote_register(&g_region, g_domain, g_memory, SIZE, rights) == 0);
}

static bool next(struct remote_done *ret, uint64_t until_ns)
{
	struct pollfd p = { .fd = remote_fd(g_r), .events = POLLIN };

	while (clock_ns() < until_ns) {
		if (remote_poll(g_r, ret, 1) == 1)
			return true;
		if (remote_arm(g_r) == 0)
			(void)poll(&p, 1, 100);
	}
	return false;
}

static struct remote_done await(enum remote_done_kind kind, const struct remote_conn *c, unsigned ms)
{
	uint64_t until = clock_ns() + ms * MS_NS;
	struct remote_done d = {};

	do
		MUST(next(&d, until));
	while (d.kind != kind || (c && d.conn != c));
	return d;
}

static void token_of(uint8_t *token, uint8_t i)
{
	memset(token, 7, REMOTE_TOKEN_SIZE);
	token[0] = i;
}

static struct sockaddr_in control_address(void)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(CONTROL_PORT) };

	MUST(inet_pton(AF_INET, B, &sa.sin_addr) == 1);
	return sa;
}

static void serve(void)
{
	struct sockaddr_in sa = control_address();
	int listener = socket(AF_INET, SOCK_STREAM, 0), sock, trigger;
	uint8_t token[REMOTE_TOKEN_SIZE], key[REMOTE_KEY_SIZE];
	struct remote_conn *c;
	char byte;

	open_here(B, REMOTE_MAY_READ);
	memset(g_memory, 5, SIZE);
	MUST(bind(listener, (struct sockaddr *)&sa, sizeof(sa)) == 0 && listen(listener, 1) == 0);
	sock = accept(listener, NULL, NULL);
	MUST(sock >= 0);
	for (uint8_t i = 0; i < N_CONNS; i++) {
		struct remote_export *e;

		token_of(token, i);
		MUST(remote_expect(&c, g_domain, token) == 0 && write(sock, "1", 1) == 1);
		(void)await(REMOTE_DONE_UP, c, LIMIT_RDMA_CONNECT_MS);
		MUST(remote_export(&e, c, g_region, 0, SIZE, REMOTE_MAY_READ) == 0);
		(void)await(REMOTE_DONE_EXPORTED, c, 5000);
		remote_key_put(key, remote_export_key(e));
		MUST(write(sock, key, sizeof(key)) == sizeof(key));
	}
	while (recv(sock, &byte, 1, MSG_DONTWAIT) != 1) {
		struct remote_done d;

		(void)next(&d, clock_ns() + 10 * MS_NS);
	}
	trigger = open("/proc/sysrq-trigger", O_WRONLY);
	MUST(write(trigger, "b", 1) == 1); /* no process, no connection is ended: the machine is gone */
}

static struct remote_key join(int sock, struct remote_conn **ret, uint8_t i)
{
	uint8_t token[REMOTE_TOKEN_SIZE], bytes[REMOTE_KEY_SIZE];
	struct remote_key key;
	char byte;

	token_of(token, i);
	MUST(recv(sock, &byte, 1, 0) == 1);
	MUST(remote_connect(ret, g_domain, B ":7444", token) == 0);
	(void)await(REMOTE_DONE_UP, *ret, LIMIT_RDMA_CONNECT_MS + SLACK_MS);
	MUST(recv(sock, bytes, sizeof(bytes), MSG_WAITALL) == sizeof(bytes) && remote_key_get(&key, bytes) == 0);
	return key;
}

static int read_from(struct remote_conn *c, struct remote_key key)
{
	struct remote_op op = { .kind = REMOTE_READ, .flags = REMOTE_SIGNALLED, .region = g_region, .size = SIZE, .key = key };

	return remote_post(c, &op, 1);
}

static void ends(const char *what, const struct remote_conn *c, uint64_t since_ns, unsigned ms)
{
	enum remote_status s = await(REMOTE_DONE_DOWN, c, ms + SLACK_MS).status;

	MUST(s == REMOTE_PEER_GONE || s == REMOTE_TIMEOUT);
	printf("ok - %s: %s after %u ms\n", what, remote_status_name(s), (unsigned)((clock_ns() - since_ns) / MS_NS));
}

static void ask(void)
{
	struct sockaddr_in sa = control_address();
	struct remote_conn *conns[N_CONNS], *late;
	struct remote_key keys[N_CONNS];
	uint8_t token[REMOTE_TOKEN_SIZE];
	uint64_t began;
	int sock;

	open_here(A, 0);
	/* The other machine may take longer to come up; if it never does, one attempt would take minutes. */
	for (uint64_t until = clock_ns() + UP_MS * MS_NS;;) {
		int once = 1;

		sock = socket(AF_INET, SOCK_STREAM, 0);
		MUST(setsockopt(sock, IPPROTO_TCP, TCP_SYNCNT, &once, sizeof(once)) == 0);
		if (connect(sock, (struct sockaddr *)&sa, sizeof(sa)) == 0)
			break;
		MUST(clock_ns() < until);
		close(sock);
		(void)poll(NULL, 0, 200);
	}
	for (uint8_t i = 0; i < N_CONNS; i++) {
		keys[i] = join(sock, &conns[i], i);
		memset(g_memory, 0, SIZE);
		MUST(read_from(conns[i], keys[i]) == 0);
		MUST(await(REMOTE_DONE_OP, conns[i], LIMIT_RDMA_DEAD_MS + SLACK_MS).status == REMOTE_OK);
		MUST(g_memory[SIZE - 1] == 5);
	}
	printf("ok - two machines: connected twice, and read\n");
	MUST(write(sock, "x", 1) == 1);
	(void)poll(NULL, 0, 300);
	began = clock_ns();
	MUST(read_from(conns[0], keys[0]) == 0);
	token_of(token, 9);
	MUST(remote_connect(&late, g_domain, B ":7444", token) == 0);
	ends("who waits is told", conns[0], began, LIMIT_RDMA_DEAD_MS);
	ends("silence ends", conns[1], began, LIMIT_RDMA_BEAT_MS + LIMIT_RDMA_DEAD_MS);
	ends("connecting ends", late, began, LIMIT_RDMA_CONNECT_MS);
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	MUST(argc == 2);
	if (strcmp(argv[1], "b") == 0)
		serve();
	else
		ask();
	return 0;
}
