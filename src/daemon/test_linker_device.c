/* What a linker is told of its device, what comes of it where there is none, and what its filter leaves it. */
#include "daemon/linker_device.h"

#include "base/chan.h"
#include "rdma/remote.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#if defined(__has_feature) /* clang's way to say it */
#define IS_SANITIZED __has_feature(address_sanitizer)
#elif defined(__SANITIZE_ADDRESS__)
#define IS_SANITIZED 1
#else
#define IS_SANITIZED 0
#endif

static int hear(const struct role_msg *m, struct role_rdma *ret)
{
	struct chan far = {};
	int fds[2], r;

	assert_int_equal(chan_pair(fds), 0);
	chan_init(&far, fds[0]);
	if (m)
		assert_int_equal(role_send(&far, m, -1), 0);
	else
		chan_close(&far);
	r = linker_device_hear(fds[1], ret);
	chan_close(&far);
	close(fds[1]);
	return r;
}

static void is_told(void **state)
{
	struct role_msg m = { .type = BL_RDMA, .u.rdma = { .mode = RDMA_AUTO, .address = "10.0.0.1:7443" } };
	struct role_rdma got;

	assert_int_equal(hear(&m, &got), 1);
	assert_int_equal(got.mode, RDMA_AUTO);
	assert_string_equal(got.address, "10.0.0.1:7443");
	assert_int_equal(hear(NULL, &got), 0); /* the broker has gone */
	m = (struct role_msg){ .type = BL_DRAIN };
	assert_int_equal(hear(&m, &got), -EBADMSG); /* something else came first */
}

static void opens_none(void **state)
{
	struct role_rdma m = { .mode = RDMA_OFF, .address = "10.0.0.1:7443" };
	struct role_device told;
	struct remote *device;

	linker_device_open(&m, &device, &told);
	assert_null(device);
	assert_int_equal(told.error, -ENODEV);
	assert_string_equal(told.why, ""); /* the broker knows */
	/* An address of documentation (RFC 5737), which no machine has, whatever devices it has. */
	m = (struct role_rdma){ .mode = RDMA_AUTO, .address = "192.0.2.1:7443" };
	linker_device_open(&m, &device, &told);
	assert_null(device);
	assert_true(told.error < 0);
	assert_string_not_equal(told.why, "");
	assert_string_equal(told.address, "192.0.2.1:7443");
	/* One that is none: the broker's own check should have seen it. */
	m = (struct role_rdma){ .mode = RDMA_AUTO, .address = "rxe0" };
	linker_device_open(&m, &device, &told);
	assert_null(device);
	assert_true(told.error < 0);
}

/* In a child under the filter. Return: its wait status. */
static int under_filter(bool has_device, void (*fn)(void))
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		if (linker_isolate_paths(has_device) < 0 || linker_isolate_calls(has_device) < 0)
			_exit(99);
		fn();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void opens(void)
{
	if (open("/etc/passwd", O_RDONLY | O_CLOEXEC) >= 0)
		_exit(1);
	if (socket(AF_UNIX, SOCK_STREAM, 0) >= 0)
		_exit(2);
}

static void asks_a_terminal(void)
{
	int n;

	(void)!ioctl(0, FIONREAD, &n);
}

static void orders_a_device(void)
{
	char order[24] = { 0 };

	(void)!ioctl(0, _IOWR(0x1b, 1, order), order); /* RDMA_VERBS_IOCTL, of whatever 0 is */
}

static bool was_killed(int status)
{
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS;
}

static void filter(void **state)
{
	int status = under_filter(true, opens);

	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0); /* told no, and lives */
	status = under_filter(true, orders_a_device);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	assert_true(was_killed(under_filter(true, asks_a_terminal)));
	assert_true(was_killed(under_filter(false, orders_a_device)));
	/* A sanitizer's runtime may open files, so there everybody may. */
	if (!IS_SANITIZED)
		assert_true(was_killed(under_filter(false, opens)));
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(is_told), cmocka_unit_test(opens_none), cmocka_unit_test(filter) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
