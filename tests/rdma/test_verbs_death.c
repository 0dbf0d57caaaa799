/*
 * A peer that is stopped or killed, on real verbs: host b is a process of its own. What a device promises: a stopped process's memory can be read and
 * written all the same; a dead one's cannot, and who asks or waits is told in a bounded time, at whatever stage it died.
 */
#include "rdma/test_ring_util.h"
#include "rdma/verbs.h"

#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cmocka.h>

enum { SIZE = 64 << 10, WAIT_MS = 15000 };

static const uint8_t g_token[REMOTE_TOKEN_SIZE] = { 9 };

static struct remote *open_port(unsigned port)
{
	const char *ip = getenv("SEALANE_RDMA_ADDRESS"), *base = getenv("SEALANE_RDMA_PORT"), *why = "";
	char address[64];
	const struct verbs_options o = { .address = address };
	struct remote *r = NULL;
	int e;

	snprintf(address, sizeof(address), "%s:%u", ip ? ip : "127.0.0.1", (base ? (unsigned)atoi(base) : 7444) + port);
	e = remote_verbs_open(&r, &o, &why);
	if (e != 0) {
		fprintf(stderr, "%s: %s\n", address, e > 0 ? why : strerror(-e));
		exit(e == VERBS_E_NOT_HERE ? 77 : 1);
	}
	return r;
}

static bool next(struct remote *r, struct remote_done *ret, unsigned ms)
{
	uint64_t until = clock_ns() + ms * UINT64_C(1000000);
	struct pollfd p = { .fd = remote_fd(r), .events = POLLIN };

	while (clock_ns() < until) {
		int n = remote_poll(r, ret, 1);

		if (n == 1)
			return true;
		if (n < 0)
			return false;
		if (remote_arm(r) == 0)
			(void)poll(&p, 1, 100);
	}
	return false;
}

/* -- host b: says "1" when it listens, then the key; lives until it is killed */

static void serve(int sock)
{
	static _Alignas(4096) uint8_t memory[SIZE];
	struct remote *r = open_port(1);
	struct remote_domain *d = NULL;
	struct remote_region *g = NULL;
	struct remote_export *e = NULL;
	struct remote_conn *c = NULL;
	struct remote_done done;
	uint8_t key[REMOTE_KEY_SIZE];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	memset(memory, 5, sizeof(memory));
	if (remote_domain_new(&d, r, 0) != 0 || remote_register(&g, d, memory, SIZE, REMOTE_MAY_READ) != 0 ||
	    remote_expect(&c, d, g_token) != 0 || write(sock, "1", 1) != 1)
		_exit(1);
	for (;;) {
		if (!next(r, &done, 60000))
			_exit(1);
		if (done.kind == REMOTE_DONE_UP && remote_export(&e, c, g, 0, SIZE, REMOTE_MAY_READ) != 0)
			_exit(1);
		if (done.kind == REMOTE_DONE_EXPORTED) {
			remote_key_put(key, remote_export_key(e));
			if (write(sock, key, sizeof(key)) != sizeof(key))
				_exit(1);
		}
	}
}

/* -- host a */

struct near {
	pid_t child;
	int sock;
	struct remote *r;
	struct remote_domain *domain;
	struct remote_region *region;
	struct remote_conn *conn;
	struct remote_key key;
	_Alignas(4096) uint8_t memory[SIZE];
};

static int set_up(void **state)
{
	struct near *h = aligned_alloc(4096, (sizeof(*h) + 4095) & ~(size_t)4095);
	int fds[2];
	char byte;

	assert_non_null(h);
	memset(h, 0, sizeof(*h));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	h->child = fork();
	if (h->child == 0)
		serve(fds[1]);
	close(fds[1]);
	h->sock = fds[0];
	assert_int_equal(read(h->sock, &byte, 1), 1);
	h->r = open_port(0);
	assert_int_equal(remote_domain_new(&h->domain, h->r, 0), 0);
	assert_int_equal(remote_register(&h->region, h->domain, h->memory, SIZE, 0), 0);
	*state = h;
	return 0;
}

static int tear_down(void **state)
{
	struct near *h = *state;

	kill(h->child, SIGKILL);
	waitpid(h->child, NULL, 0);
	remote_free(h->r);
	close(h->sock);
	free(h);
	return 0;
}

static struct remote_done await(struct near *h, enum remote_done_kind kind)
{
	struct remote_done d;

	do
		if (!next(h->r, &d, WAIT_MS))
			fail_msg("nothing of kind %d came", kind);
	while (d.kind != kind);
	return d;
}

static void join(struct near *h)
{
	uint8_t key[REMOTE_KEY_SIZE];
	char address[64];

	snprintf(address, sizeof(address), "%s:%u", getenv("SEALANE_RDMA_ADDRESS"), (unsigned)atoi(getenv("SEALANE_RDMA_PORT")) + 1);
	assert_int_equal(remote_connect(&h->conn, h->domain, address, g_token), 0);
	(void)await(h, REMOTE_DONE_UP);
	assert_int_equal(recv(h->sock, key, sizeof(key), MSG_WAITALL), sizeof(key));
	assert_int_equal(remote_key_get(&h->key, key), 0);
}

static int post_read(struct near *h)
{
	struct remote_op op = { .kind = REMOTE_READ, .flags = REMOTE_SIGNALLED, .region = h->region, .size = 4096, .key = h->key };

	return remote_post(h->conn, &op, 1);
}

static void test_a_stopped_process_can_be_read(void **state)
{
	struct near *h = *state;

	join(h);
	assert_int_equal(kill(h->child, SIGSTOP), 0);
	for (unsigned i = 0; i < 10; i++) {
		memset(h->memory, 0, SIZE);
		assert_int_equal(post_read(h), 0);
		assert_int_equal(await(h, REMOTE_DONE_OP).status, REMOTE_OK);
		assert_int_equal(h->memory[4095], 5);
	}
}

static void test_connecting_to_a_stopped_process_ends(void **state)
{
	struct near *h = *state;
	char address[64];

	snprintf(address, sizeof(address), "%s:%u", getenv("SEALANE_RDMA_ADDRESS"), (unsigned)atoi(getenv("SEALANE_RDMA_PORT")) + 1);
	assert_int_equal(kill(h->child, SIGSTOP), 0);
	assert_int_equal(remote_connect(&h->conn, h->domain, address, g_token), 0);
	assert_int_equal(await(h, REMOTE_DONE_DOWN).status, REMOTE_TIMEOUT);
}

static void test_killed_in_silence(void **state)
{
	struct near *h = *state;

	join(h);
	assert_int_equal(kill(h->child, SIGKILL), 0);
	assert_int_equal(await(h, REMOTE_DONE_DOWN).status, REMOTE_PEER_GONE);
}

static void test_killed_under_load(void **state)
{
	struct near *h = *state;
	struct remote_done d = {};
	unsigned n_good = 0;

	join(h);
	while (d.kind != REMOTE_DONE_DOWN) {
		int r = post_read(h);

		assert_true(r == 0 || r == REMOTE_E_FULL || r == -ENOTCONN);
		if (remote_room(h->conn) > 100 && r == 0)
			continue;
		assert_true(next(h->r, &d, WAIT_MS));
		n_good += d.kind == REMOTE_DONE_OP && d.status == REMOTE_OK;
		if (n_good == 100)
			assert_int_equal(kill(h->child, SIGKILL), 0);
		if (d.kind == REMOTE_DONE_OP && d.status != REMOTE_OK)
			assert_true(d.status == REMOTE_PEER_GONE || d.status == REMOTE_FLUSHED || d.status == REMOTE_TIMEOUT || d.status == REMOTE_ACCESS);
	}
	assert_true(n_good >= 100);
}

/* -- b kills itself, at each stage of a connection */

enum stage { BEFORE_EXPECT, EXPECTED, CONNECTED, EXPORTING, REVOKING, UNDER_WAY, STAGE_N };

static const char *const g_stages[STAGE_N] = {
	"before it expects", "expected, before connecting", "connected", "exporting", "revoking", "64 READs under way",
};

static void die_at(int sock, enum stage stage)
{
	static _Alignas(4096) uint8_t memory[SIZE];
	struct remote *r = open_port(1);
	struct remote_domain *d = NULL;
	struct remote_region *g = NULL;
	struct remote_export *e = NULL;
	struct remote_conn *c = NULL;
	struct remote_done done = {};
	uint8_t key[REMOTE_KEY_SIZE];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (remote_domain_new(&d, r, 0) != 0 || remote_register(&g, d, memory, SIZE, REMOTE_MAY_READ) != 0 ||
	    (stage != BEFORE_EXPECT && remote_expect(&c, d, g_token) != 0) || write(sock, "1", 1) != 1)
		_exit(1);
	while (stage > EXPECTED && done.kind != REMOTE_DONE_UP)
		if (!next(r, &done, WAIT_MS))
			_exit(1);
	if (stage > CONNECTED && remote_export(&e, c, g, 0, SIZE, REMOTE_MAY_READ) != 0)
		_exit(1);
	while (stage > EXPORTING && done.kind != REMOTE_DONE_EXPORTED)
		if (!next(r, &done, WAIT_MS))
			_exit(1);
	if (stage == REVOKING && remote_revoke(e) != 0)
		_exit(1);
	if (stage == UNDER_WAY) {
		remote_key_put(key, remote_export_key(e));
		if (write(sock, key, sizeof(key)) != sizeof(key))
			_exit(1);
		while (done.kind != REMOTE_DONE_IMM)
			if (!next(r, &done, WAIT_MS))
				_exit(1);
	}
	raise(SIGKILL);
}

static void post_many(struct near *h)
{
	struct remote_op tell = { .kind = REMOTE_WRITE_IMM };
	uint8_t key[REMOTE_KEY_SIZE];

	assert_int_equal(recv(h->sock, key, sizeof(key), MSG_WAITALL), sizeof(key));
	assert_int_equal(remote_key_get(&h->key, key), 0);
	assert_int_equal(remote_post(h->conn, &tell, 1), 0);
	for (unsigned i = 0; i < 64; i++)
		assert_int_equal(post_read(h), 0);
}

/* What a is told of its connection's end, and how long after b's death (or its own connecting, if that came later), to a tenth of a second. */
static enum remote_status end_of(struct near *h, enum stage stage, uint64_t *ret_ms)
{
	uint64_t began = clock_ns(), since = began;
	bool seen = stage <= EXPECTED;

	while (clock_ns() < began + WAIT_MS * UINT64_C(1000000)) {
		struct remote_done d;

		if (!seen && waitpid(h->child, NULL, WNOHANG) == h->child) {
			since = clock_ns();
			seen = true;
		}
		if (!next(h->r, &d, 1))
			continue;
		if (d.kind == REMOTE_DONE_UP && stage == UNDER_WAY)
			post_many(h);
		if (d.kind != REMOTE_DONE_DOWN)
			continue;
		*ret_ms = (clock_ns() - since) / 1000000;
		return d.status;
	}
	fail_msg("%s: its end was not told", g_stages[stage]);
	return REMOTE_OK;
}

/* A kernel takes a dying process's memory from the device before its connections: what comes in between is refused. */
static bool is_death(enum remote_status s)
{
	return s == REMOTE_PEER_GONE || s == REMOTE_TIMEOUT || s == REMOTE_ACCESS;
}

static void test_killed_at_every_stage(void **state)
{
	for (enum stage stage = 0; stage < STAGE_N; stage++) {
		struct near *h = aligned_alloc(4096, (sizeof(*h) + 4095) & ~(size_t)4095);
		enum remote_status s;
		char address[64], byte;
		uint64_t ms = 0;
		int fds[2];

		assert_non_null(h);
		memset(h, 0, sizeof(*h));
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
		h->child = fork();
		if (h->child == 0)
			die_at(fds[1], stage);
		close(fds[1]);
		h->sock = fds[0];
		assert_int_equal(read(h->sock, &byte, 1), 1);
		h->r = open_port(0);
		assert_int_equal(remote_domain_new(&h->domain, h->r, 0), 0);
		assert_int_equal(remote_register(&h->region, h->domain, h->memory, SIZE, 0), 0);
		if (stage <= EXPECTED)
			assert_int_equal(waitpid(h->child, NULL, 0), h->child);
		snprintf(address, sizeof(address), "%s:%u", getenv("SEALANE_RDMA_ADDRESS"), (unsigned)atoi(getenv("SEALANE_RDMA_PORT")) + 1);
		assert_int_equal(remote_connect(&h->conn, h->domain, address, g_token), 0);
		s = end_of(h, stage, &ms);
		printf("killed: %-28s | %-9s after %llu ms\n", g_stages[stage], remote_status_name(s), (unsigned long long)ms);
		assert_true(is_death(s) || (s == REMOTE_REFUSED && stage <= EXPECTED));
		assert_int_equal(remote_domain_offences(h->domain, REMOTE_STATUS_N), 0);
		remote_free(h->r);
		close(h->sock);
		free(h);
	}
}

/*
 * -- and in the middle of a ring's records: large ones, of many packets each, are on their way when b goes. b is a program of its own: a child of one
 * that has opened the device may not post on it.
 */

enum { RING_CAP_LOG2 = 18 };

static void ring_up(struct ring_end *e, int sock, bool is_client)
{
	uint8_t ours[REMOTE_KEY_SIZE], theirs[REMOTE_KEY_SIZE];

	for (uint64_t until = clock_ns() + WAIT_MS * UINT64_C(1000000); !e->ready;) {
		RING_MUST(clock_ns() < until && !e->down);
		(void)ring_end_look(e);
		if (e->up && !e->ring)
			ring_end_new(e, RING_CAP_LOG2, is_client, false, 0);
		(void)poll(NULL, 0, 1);
	}
	ring_remote_key(e->ring, ours);
	RING_MUST(send(sock, ours, sizeof(ours), 0) == sizeof(ours) && recv(sock, theirs, sizeof(theirs), MSG_WAITALL) == sizeof(theirs));
	RING_MUST(ring_remote_start(e->ring, theirs) == 0);
}

enum { DIES_SOCK = 3 };

static void die_in_a_ring(int sock, unsigned n_looks)
{
	struct ring_end e = {};
	char byte;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	ring_end_open(&e, open_port(1), RING_CAP_LOG2);
	RING_MUST(remote_expect(&e.conn, e.domain, g_token) == 0 && write(sock, "1", 1) == 1);
	ring_up(&e, sock, false);
	RING_MUST(recv(sock, &byte, 1, 0) == 1);
	for (unsigned i = 0; i < n_looks; i++) {
		RING_MUST(ring_end_send(&e, UINT64_MAX) == 0);
		(void)ring_end_look(&e);
	}
	raise(SIGKILL);
}

static void test_killed_in_a_record(void **state)
{
	for (unsigned n_looks = 1; n_looks <= 4; n_looks++) {
		struct ring_end e = {};
		char address[64], byte;
		int fds[2], r;
		pid_t child;

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
		child = fork();
		if (child == 0) {
			char text[8];

			snprintf(text, sizeof(text), "%u", n_looks);
			if (dup2(fds[1], DIES_SOCK) == DIES_SOCK)
				execl("/proc/self/exe", "test_verbs_death", text, NULL);
			_exit(1);
		}
		close(fds[1]);
		assert_int_equal(read(fds[0], &byte, 1), 1);
		ring_end_open(&e, open_port(0), RING_CAP_LOG2);
		snprintf(address, sizeof(address), "%s:%u", getenv("SEALANE_RDMA_ADDRESS"), (unsigned)atoi(getenv("SEALANE_RDMA_PORT")) + 1);
		assert_int_equal(remote_connect(&e.conn, e.domain, address, g_token), 0);
		ring_up(&e, fds[0], true);
		assert_int_equal(write(fds[0], "g", 1), 1);
		for (uint64_t until = clock_ns() + WAIT_MS * UINT64_C(1000000); !e.down;) {
			assert_true(clock_ns() < until);
			(void)ring_end_look(&e);
			assert_int_equal(ring_end_receive(&e), RING_E_EMPTY); /* aborts at a wrong byte */
			r = ring_remote_flush(e.ring);
			assert_true(r == 0 || r == RING_E_FULL || r == -ENOTCONN);
		}
		printf("killed: in a ring's records          | %-9s %llu records came whole\n", remote_status_name(e.why), (unsigned long long)e.n_received);
		assert_true(is_death(e.why));
		assert_false(e.fin);
		assert_int_equal(e.error, 0);
		assert_int_equal(remote_domain_offences(e.domain, REMOTE_STATUS_N), 0);
		assert_int_equal(waitpid(child, NULL, 0), child);
		ring_end_close(&e);
		remote_free(e.r);
		close(fds[0]);
	}
}

int main(int argc, char **argv)
{
#define WITH_B(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		WITH_B(test_a_stopped_process_can_be_read),
		WITH_B(test_connecting_to_a_stopped_process_ends),
		WITH_B(test_killed_in_silence),
		WITH_B(test_killed_under_load),
		cmocka_unit_test(test_killed_at_every_stage),
		cmocka_unit_test(test_killed_in_a_record),
	};

	if (argc == 2)
		die_in_a_ring(DIES_SOCK, (unsigned)atoi(argv[1]));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
