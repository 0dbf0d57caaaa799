/* What can be tested where the hook may be missing: the contract of failure, and the arithmetic. The rest: tests/vm/. */
#include "guard/guard_priv.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cmocka.h>

static void test_kernel_dev(void **state)
{
	assert_int_equal(guard_kernel_dev(makedev(0, 42)), 42);
	assert_int_equal(guard_kernel_dev(makedev(8, 1)), 8u << 20 | 1);
	/* st_dev splits major and minor; the kernel does not: 12 and 20 bits in a row. */
	assert_int_equal(guard_kernel_dev(makedev(0xfff, 0xfffff)), 0xffffffffu);
	assert_int_equal(guard_kernel_dev(makedev(259, 0x12345)), 259u << 20 | 0x12345);
	assert_int_not_equal(makedev(259, 0x12345), guard_kernel_dev(makedev(259, 0x12345)));
}

static void test_fd_names_differ(void **state)
{
	struct guard_options o = GUARD_OPTIONS_INIT;

	for (int i = 0; i < GUARD_FD_N; i++) {
		assert_int_equal(o.inherited[i], -1);
		assert_non_null(guard_fd_name((enum guard_fd)i));
	}
}

static size_t count_fds(void)
{
	size_t n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* Here the kernel may or may not have the hook; either way the answer is whole, and nothing is left behind. */
static void test_open_works_or_says_why(void **state)
{
	char why[GUARD_WHY_SIZE] = "";
	struct guard_options o = GUARD_OPTIONS_INIT;
	struct guard *g = (struct guard *)why;
	size_t n_before = count_fds();
	int r = guard_open(&g, &o, why);

	if (r == 0) {
		print_message("the hook works here\n");
		for (int i = 0; i < GUARD_FD_N; i++)
			assert_true(guard_fd(g, (enum guard_fd)i) >= 0);
		assert_null(guard_close(g));
	} else {
		print_message("no hook here: %s: %s\n", strerrorname_np(-r), why);
		assert_true(r < 0);
		assert_true(strlen(why) > 20 && strlen(why) < GUARD_WHY_SIZE - 1);
		assert_ptr_equal(g, (struct guard *)why); /* outputs stay untouched on failure */
	}
	assert_int_equal(count_fds(), n_before);
	assert_null(guard_close(NULL));
}

/* A predecessor's descriptors that are something else altogether must not be taken for tables. */
static void test_open_with_foreign_fds(void **state)
{
	char why[GUARD_WHY_SIZE] = "";
	struct guard_options o = GUARD_OPTIONS_INIT;
	struct guard *g = NULL;
	AUTO_FD null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	size_t n_before = count_fds();

	assert_true(null_fd >= 0);
	for (int i = 0; i < GUARD_FD_N; i++)
		o.inherited[i] = null_fd;
	if (guard_open(&g, &o, why) == 0)
		guard_close(g);
	assert_int_equal(count_fds(), n_before);
	assert_true(fcntl(null_fd, F_GETFD) >= 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kernel_dev),
		cmocka_unit_test(test_fd_names_differ),
		cmocka_unit_test(test_open_works_or_says_why),
		cmocka_unit_test(test_open_with_foreign_fds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
