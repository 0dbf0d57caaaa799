/* The checker in a child process; this file plays the broker. */
#include "base/chan.h"
#include "base/log.h"
#include "daemon/checker.h"
#include "wire/role.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>

struct bed {
	pid_t checker;
	struct chan broker;
};

static int bed_start(void **state)
{
	static struct bed b;
	int fds[2];

	assert_int_equal(chan_pair(fds), 0);
	b.checker = fork();
	assert_true(b.checker >= 0);
	if (b.checker == 0) {
		close(fds[0]);
		_exit(checker_run(fds[1]) == 0 ? 0 : 1);
	}
	close(fds[1]);
	chan_init(&b.broker, fds[0]);
	*state = &b;
	return 0;
}

static int bed_stop(void **state)
{
	struct bed *b = *state;
	int status;

	chan_close(&b->broker);
	assert_int_equal(waitpid(b->checker, &status, 0), b->checker);
	assert_true(WIFEXITED(status));
	return 0;
}

static void ask_words(struct bed *b, uint32_t sid, uint32_t timeout_ms, const char *const *words, uint32_t n)
{
	struct role_msg m = { .type = BC_RUN, .seq = sid + 100, .u.check = { .sid = sid, .timeout_ms = timeout_ms, .n_args = n } };
	size_t at = 0;

	for (uint32_t i = 0; i < n; i++) {
		size_t size = strlen(words[i]) + 1;

		memcpy(m.u.check.args + at, words[i], size);
		at += size;
	}
	assert_int_equal(role_send(&b->broker, &m, -1), 0);
	while (chan_wants_write(&b->broker)) {
		struct pollfd p = { .fd = b->broker.fd, .events = POLLOUT };

		assert_int_equal(poll(&p, 1, 20000), 1);
		assert_int_equal(chan_flush(&b->broker), 0);
	}
}

static void ask(struct bed *b, uint32_t sid, uint32_t timeout_ms, const char *script)
{
	ask_words(b, sid, timeout_ms, (const char *[]){ "sh", "-c", script }, 3);
}

static struct role_check_result answer(struct bed *b)
{
	struct pollfd p = { .fd = b->broker.fd, .events = POLLIN };
	struct role_msg m;
	int fd;

	assert_int_equal(poll(&p, 1, 20000), 1);
	assert_int_equal(role_recv(&b->broker, &m, &fd), 1);
	assert_int_equal(m.type, CB_RESULT);
	assert_int_equal(m.seq, m.u.check_result.sid + 100);
	return m.u.check_result;
}

static void test_statuses(void **state)
{
	struct bed *b = *state;
	struct role_check_result r;

	ask(b, 1, 10000, "echo all well");
	r = answer(b);
	assert_int_equal(r.sid, 1);
	assert_int_equal(r.status, 0);
	assert_string_equal(r.output, "all well\n");
	ask(b, 2, 10000, "echo broken >&2; exit 3");
	r = answer(b);
	assert_int_equal(r.status, 3);
	assert_string_equal(r.output, "broken\n");
	ask(b, 3, 10000, "kill -TERM $$");
	assert_int_equal(answer(b).status, 128 + SIGTERM);
	ask_words(b, 4, 10000, (const char *[]){ "/nowhere/command" }, 1);
	assert_int_equal(answer(b).status, -ENOENT);
	ask_words(b, 5, 10000, (const char *[]){ "/etc/passwd" }, 1);
	assert_int_equal(answer(b).status, -EACCES);
	ask_words(b, 6, 10000, (const char *[]){ "" }, 1);
	assert_int_equal(answer(b).status, -EINVAL);
	ask_words(b, 7, 10000, NULL, 0);
	assert_int_equal(answer(b).status, -EINVAL);
}

/* An environment of PATH alone, an empty input, three descriptors, a process group of its own. */
static void test_surroundings(void **state)
{
	struct bed *b = *state;
	struct role_check_result r;

	ask_words(b, 1, 10000, (const char *[]){ "env" }, 1);
	r = answer(b);
	assert_int_equal(strncmp(r.output, "PATH=/", 6), 0);
	assert_ptr_equal(strchr(r.output, '\n'), r.output + strlen(r.output) - 1);
	ask(b, 2, 10000, "cat; echo end");
	assert_string_equal(answer(b).output, "end\n");
	ask_words(b, 3, 10000, (const char *[]){ "ls", "/proc/self/fd" }, 2);
	assert_string_equal(answer(b).output, "0\n1\n2\n3\n"); /* 3: the directory that it lists */
	ask(b, 4, 10000, "kill -TERM 0; sleep 5");
	assert_int_equal(answer(b).status, 128 + SIGTERM);
}

static void test_long_output(void **state)
{
	struct bed *b = *state;
	struct role_check_result r;

	ask(b, 1, 10000, "head -c 3000000 /dev/zero | tr '\\0' x; exit 1");
	r = answer(b);
	assert_int_equal(r.status, 1);
	assert_int_equal(strlen(r.output), sizeof(r.output) - 1);
	ask(b, 2, 10000, "printf 'a\\0b'");
	assert_string_equal(answer(b).output, "a b");
}

/* An orphan that init has not reaped yet is dead enough. */
static bool is_alive(const char *pid)
{
	char path[64], state = 'X';
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", atoi(pid));
	f = fopen(path, "re");
	if (!f)
		return false;
	if (fscanf(f, "%*d %*s %c", &state) != 1)
		state = 'X';
	fclose(f);
	return state != 'Z' && state != 'X';
}

static void expect_gone(const char *pid)
{
	for (int i = 0; i < 2000 && is_alive(pid); i++)
		usleep(10000);
	assert_false(is_alive(pid));
}

static void test_timeout(void **state)
{
	struct bed *b = *state;
	struct role_check_result r;

	for (uint32_t timeout_ms = 200; timeout_ms < 20000; timeout_ms *= 5) { /* a shell on a busy machine says nothing in 200 ms */
		ask(b, 1, timeout_ms, "sleep 60 & echo $!; wait");
		r = answer(b);
		assert_int_equal(r.status, -ETIMEDOUT); /* long before the 60 s are over: answer() does not wait that long */
		if (r.output[0])
			break;
	}
	assert_true(atoi(r.output) > 1);
	expect_gone(r.output); /* not only the shell */
	ask(b, 2, 10000, "sleep 60 & echo $!");
	r = answer(b);
	assert_int_equal(r.status, 0);
	expect_gone(r.output);
}

static void test_many_at_once(void **state)
{
	enum { N = 150 };
	struct bed *b = *state;
	bool seen[N] = { false };
	uint64_t start = clock_ns();

	for (uint32_t i = 0; i < N; i++)
		ask_words(b, i, 60000, (const char *[]){ "sleep", "0.3" }, 2);
	for (uint32_t i = 0; i < N; i++) {
		struct role_check_result r = answer(b);

		assert_true(r.sid < N && !seen[r.sid]);
		seen[r.sid] = true;
		assert_int_equal(r.status, 0);
	}
	/* 64 at once: three rounds, and not 150 */
	assert_true(clock_ns() - start > UINT64_C(850000000));
	assert_true(clock_ns() - start < UINT64_C(30000000000));
}

/* A command that still runs ends with the checker, whether that ends in order or not. */
static void expect_command_ends(struct bed *b, bool in_order)
{
	char dir[] = "/tmp/sealane-test-checker-XXXXXX", path[64], script[128], pid[16] = "";
	int status;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/pid", dir);
	snprintf(script, sizeof(script), "echo $$ > %s; exec sleep 600", path);
	ask(b, 1, 600000, script);
	for (int i = 0; i < 1000 && !strchr(pid, '\n'); i++) {
		FILE *f = fopen(path, "re");

		if (f) {
			(void)!fread(pid, 1, sizeof(pid) - 1, f);
			fclose(f);
		}
		usleep(10000);
	}
	assert_true(is_alive(pid));
	if (in_order)
		chan_close(&b->broker);
	else
		kill(b->checker, SIGKILL);
	assert_int_equal(waitpid(b->checker, &status, 0), b->checker);
	assert_int_equal(WIFEXITED(status), in_order);
	chan_close(&b->broker);
	expect_gone(pid);
	unlink(path);
	rmdir(dir);
}

static void test_ends_with_the_broker(void **state)
{
	expect_command_ends(*state, true);
	bed_start(state);
	expect_command_ends(*state, false);
	bed_start(state);
}

static void test_malformed_message(void **state)
{
	struct bed *b = *state;
	struct role_msg m = { .type = BG_STATS };
	int status;

	assert_int_equal(role_send(&b->broker, &m, -1), 0);
	assert_int_equal(waitpid(b->checker, &status, 0), b->checker);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
	chan_close(&b->broker);
	bed_start(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_statuses, bed_start, bed_stop),
		cmocka_unit_test_setup_teardown(test_surroundings, bed_start, bed_stop),
		cmocka_unit_test_setup_teardown(test_long_output, bed_start, bed_stop),
		cmocka_unit_test_setup_teardown(test_timeout, bed_start, bed_stop),
		cmocka_unit_test_setup_teardown(test_many_at_once, bed_start, bed_stop),
		cmocka_unit_test_setup_teardown(test_ends_with_the_broker, bed_start, bed_stop),
		cmocka_unit_test_setup_teardown(test_malformed_message, bed_start, bed_stop),
	};

	log_init("test", LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
