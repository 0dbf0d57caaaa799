/* The keeper, run for real under its own isolation: it holds, gives back, waits, and cleans up. */
#include "daemon/test_warden.h"

#include "daemon/roles.h"
#include "daemon/test_linger.h"
#include "daemon/warden_files.h"
#include "daemon/warden_keeper.h"

#include <poll.h>
#include <sys/prctl.h>

static char g_dir[64];
static int g_run_fd = -1;
static pid_t g_keeper;

static int setup(void **state)
{
	struct files f;
	int sock;

	if (geteuid() != 0)
		return 0;
	test_dir(g_dir);
	assert_int_equal(files_open(&f, g_dir), 0);
	files_close(&f);
	g_run_fd = open(g_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	sock = keeper_listen(g_run_fd);
	assert_true(sock >= 0);
	g_keeper = fork();
	if (g_keeper == 0) {
		struct daemon_options o = { .run_dir = g_dir };

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (dup2(sock, ROLE_CHANNEL_FD) < 0)
			_exit(9);
		_exit(keeper_main(&o));
	}
	if (sock != ROLE_CHANNEL_FD)
		close(sock);
	return 0;
}

static int teardown(void **state)
{
	if (geteuid() != 0)
		return 0;
	if (g_keeper > 0)
		test_end_child(g_keeper);
	close(g_run_fd);
	test_dir_remove(g_dir);
	return 0;
}

static void test_holds_across_daemons(void **state)
{
	struct keeper_link k;
	struct file_id before, after;
	int fds[2];

	REQUIRE_ROOT();
	assert_int_equal(keeper_connect(&k, g_run_fd), 0);
	assert_int_equal(keeper_fetch(&k), 0);
	assert_null(k.kept);
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(path_id(fds[0], &before), 0);
	assert_int_equal(keeper_store(&k, "w/web/redis.sock", fds[0]), 0);
	assert_int_equal(keeper_store(&k, "other", fds[0]), 0);
	assert_int_equal(keeper_drop(&k, "other"), 0);
	keeper_close(&k);
	close(fds[0]);

	assert_int_equal(keeper_connect(&k, g_run_fd), 0);
	assert_int_equal(keeper_fetch(&k), 0);
	assert_int_equal(keeper_take(&k, "other"), -1);
	AUTO_FD again = keeper_take(&k, "w/web/redis.sock");
	assert_true(again >= 0);
	assert_int_equal(path_id(again, &after), 0);
	assert_true(file_id_equal(&before, &after));
	close(fds[1]);
	keeper_close(&k);
}

/* As many as a daemon with all its upstreams has; their order and number come back whole. */
static void test_holds_many(void **state)
{
	enum { N = 3000 };
	struct keeper_link k;
	char name[32];
	AUTO_FD fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	REQUIRE_ROOT();
	assert_int_equal(keeper_connect(&k, g_run_fd), 0);
	for (int i = 0; i < N; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		assert_int_equal(keeper_store(&k, name, fd), 0);
	}
	/* most of it still waits in the channel's own queue: fetching sends that first */
	assert_int_equal(keeper_fetch(&k), 0);
	assert_int_equal(HASH_COUNT(k.kept), N);
	keeper_close(&k);
}

/* Leashes of lanes are moved out of what may be dropped, and those that the warden has already stay as they are. */
static void test_claim(void **state)
{
	struct keeper_link k;
	struct kept *leashes = NULL, *i = NULL, *next;
	AUTO_FD fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int own = dup(fd);

	REQUIRE_ROOT();
	assert_int_equal(keeper_connect(&k, g_run_fd), 0);
	assert_int_equal(keeper_store(&k, "lane/1/client", fd), 0);
	assert_int_equal(keeper_store(&k, "lane/1/server", fd), 0);
	assert_int_equal(keeper_store(&k, "lanes", fd), 0);
	assert_int_equal(kept_put(&leashes, "lane/1/server", own), 0);
	assert_int_equal(keeper_fetch(&k), 0);
	assert_int_equal(keeper_claim(&k, "lane/", &leashes), 0);
	assert_int_equal(HASH_COUNT(leashes), 2);
	assert_int_equal(HASH_COUNT(k.kept), 1);
	HASH_FIND_STR(leashes, "lane/1/server", i);
	assert_non_null(i);
	assert_int_equal(i->fd, own);
	keeper_drop_rest(&k);
	keeper_close(&k);
	HASH_ITER(hh, leashes, i, next) {
		char name[32];

		strcpy(name, i->name);
		kept_remove(&leashes, name);
	}
	kept_remove(&leashes, "lane/1/server"); /* gone: nothing happens */
	assert_null(leashes);

	assert_int_equal(keeper_connect(&k, g_run_fd), 0);
	assert_int_equal(keeper_fetch(&k), 0);
	assert_int_equal(HASH_COUNT(k.kept), 2); /* the keeper still has them, and nothing else */
	keeper_close(&k);
}

/* A leash in whose queue lies what takes a minute to close: the keeper, which has the last copy, answers meanwhile. */
static void test_lingering(void **state)
{
	struct keeper_link k;
	struct chan peer;
	int fds[2], tcp_peer, trap;
	uint64_t t0;

	REQUIRE_ROOT();
	if ((trap = lingering(&tcp_peer)) < 0)
		skip();
	assert_int_equal(keeper_connect(&k, g_run_fd), 0);
	assert_int_equal(chan_pair(fds), 0);
	chan_init(&peer, fds[0]);
	assert_int_equal(chan_send(&peer, "x", 1, trap), 0);
	close(trap);
	kill(g_keeper, SIGSTOP); /* so that the last copy is its own, not ours */
	assert_int_equal(keeper_store(&k, "leash", fds[1]), 0);
	assert_int_equal(keeper_drop(&k, "leash"), 0);
	close(fds[1]);
	t0 = clock_ns();
	kill(g_keeper, SIGCONT);
	assert_int_equal(keeper_fetch(&k), 0);
	assert_in_range((clock_ns() - t0) / 1000000, 0, 20000);
	chan_close(&peer);
	close(tcp_peer);
	keeper_close(&k);
}

static void make_socket(const char *rest)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", g_dir, rest);
	close(test_server(path));
}

static bool exists(const char *rest)
{
	return faccessat(g_run_fd, rest, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void test_cleans_up_after_grace(void **state)
{
	struct keeper_link k;
	uint64_t closed_ns;
	bool is_there;
	int status;

	REQUIRE_ROOT();
	assert_int_equal(mkdirat(g_run_fd, "w/web", 0755), 0);
	assert_int_equal(mkdirat(g_run_fd, "w/web/serve", 0777), 0);
	make_socket("w/web/redis.sock");
	make_socket("w/web/serve/own.sock");
	make_socket("l/1.sock");
	make_socket("admin.sock");
	/* a name that leads out of the run directory is neither followed nor removed */
	assert_int_equal(symlinkat("/tmp", g_run_fd, "w/evil"), 0);
	assert_int_equal(keeper_connect(&k, g_run_fd), 0);
	assert_int_equal(keeper_set_grace(&k, 300), 0);
	poll(NULL, 0, 500);
	assert_true(exists("w/web/redis.sock")); /* grace does not run while a daemon is there */
	closed_ns = clock_ns();
	keeper_close(&k);
	poll(NULL, 0, 100);
	is_there = exists("w/web/redis.sock");
	assert_true(is_there || clock_ns() - closed_ns >= UINT64_C(300000000));
	assert_int_equal(waitpid(g_keeper, &status, 0), g_keeper);
	g_keeper = 0;
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	assert_false(exists("w/web/redis.sock"));
	assert_false(exists("l/1.sock"));
	assert_false(exists("admin.sock"));
	assert_false(exists("keeper.sock"));
	assert_true(exists("w/web/serve/own.sock")); /* the server's own */
	assert_true(exists("w/evil"));
}

static void test_bad_message_ends_the_channel(void **state)
{
	struct keeper_link k, other;
	struct role_msg m = { .type = BW_SCAN };
	struct pollfd p;

	REQUIRE_ROOT();
	assert_int_equal(keeper_connect(&other, g_run_fd), 0);
	assert_int_equal(keeper_connect(&k, g_run_fd), 0);
	assert_int_equal(role_send(&k.chan, &m, -1), 0);
	p = (struct pollfd){ .fd = k.chan.fd, .events = POLLIN };
	assert_int_equal(poll(&p, 1, 20000), 1);
	assert_int_equal(keeper_fetch(&k), -EPIPE);
	assert_int_equal(keeper_fetch(&other), 0); /* and nobody else's */
	keeper_close(&k);
	keeper_close(&other);
}

/* An ordinary user who was handed a connection in the making still is not root. */
static void test_only_root_is_heard(void **state)
{
	struct file_id id;
	pid_t child;
	int status;

	REQUIRE_ROOT();
	assert_int_equal(fchmodat(g_run_fd, "keeper.sock", 0666, 0), 0);
	assert_int_equal(chmod(g_dir, 0755), 0);
	child = fork();
	if (child == 0) {
		struct keeper_link k;
		AUTO_FD file = path_open_socket(g_run_fd, "keeper.sock", &id);

		if (file < 0 || setgid(65534) < 0 || setuid(65534) < 0 || keeper_connect(&k, g_run_fd) < 0)
			_exit(1);
		_exit(keeper_fetch(&k) == 0 ? 2 : 0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_holds_across_daemons),	 TEST(test_holds_many), TEST(test_claim), TEST(test_lingering), TEST(test_cleans_up_after_grace),
		TEST(test_bad_message_ends_the_channel), TEST(test_only_root_is_heard),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("keeper", tests, NULL, NULL);
}
