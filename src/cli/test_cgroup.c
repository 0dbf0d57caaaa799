#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cli/cgroup.h"

#include <stdio.h>

static const char g_hybrid[] = "31 1 0:33 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
			       "32 31 0:34 / /sys/fs/cgroup/cpu rw - cgroup cpu rw,cpu\n"
			       "90 1 0:99 / /elsewhere rw - cgroup2 cgroup2 rw\n"
			       "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 master:1 - cgroup2 cgroup2 rw\n";

static void test_mountinfo(void **state)
{
	char path[LIMIT_PATH_SIZE];

	assert_int_equal(cgroup_parse_mountinfo(path, sizeof(path), g_hybrid), 0);
	assert_string_equal(path, "/sys/fs/cgroup/unified");
	assert_int_equal(cgroup_parse_mountinfo(path, sizeof(path), "90 1 0:99 / /a\\040b\\134 rw - cgroup2 x rw"), 0);
	assert_string_equal(path, "/a b\\");
	assert_int_equal(cgroup_parse_mountinfo(path, sizeof(path), "1 1 0:1 / /x rw - cgroup2 x rw\n2 1 0:1 / /sys/fs/cgroup rw - cgroup2 x rw\n"), 0);
	assert_string_equal(path, "/sys/fs/cgroup");
	assert_int_equal(cgroup_parse_mountinfo(path, sizeof(path), ""), -ENOENT);
	assert_int_equal(cgroup_parse_mountinfo(path, sizeof(path), "1 2 3\n - cgroup2 \n 1 - cgroup2 x\n\n"), -ENOENT);
}

static void test_container_ids(void **state)
{
	char path[LIMIT_PATH_SIZE];

	assert_int_equal(cgroup_find_container(path, sizeof(path), "/nonexistent", "web"), -EINVAL);
	assert_int_equal(cgroup_find_container(path, sizeof(path), "/nonexistent", "0123456789a"), -EINVAL);
	assert_int_equal(cgroup_find_container(path, sizeof(path), "/nonexistent", "../../../../etc"), -EINVAL);
	assert_int_equal(cgroup_find_container(path, sizeof(path), "/nonexistent", "0123456789ab"), -ENOENT);
}

/* A directory stands for the mount: the search looks at names only. */
static void test_find_container(void **state)
{
	char dir[] = "/tmp/test-cgroup-XXXXXX", path[LIMIT_PATH_SIZE], command[512];

	assert_non_null(mkdtemp(dir));
	snprintf(command, sizeof(command),
		 "cd %s && mkdir -p libpod_parent/libpod-0123456789abcdef/container libpod_parent/libpod-conmon-0123456789abcdef"
		 " a/docker-aaaaaaaaaaaaaaaa.scope b/docker-aaaaaaaaaaaabbbb.scope", dir);
	assert_int_equal(system(command), 0);
	assert_int_equal(cgroup_find_container(path, sizeof(path), dir, "0123456789ab"), 0);
	assert_string_equal(path + strlen(dir), "/libpod_parent/libpod-0123456789abcdef");
	assert_int_equal(cgroup_find_container(path, sizeof(path), dir, "aaaaaaaaaaaa"), -ENOTUNIQ);
	assert_int_equal(cgroup_find_container(path, sizeof(path), dir, "aaaaaaaaaaaaaa"), 0);
	assert_int_equal(cgroup_find_container(path, sizeof(path), dir, "ffffffffffff"), -ENOENT);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	assert_int_equal(system(command), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mountinfo),
		cmocka_unit_test(test_container_ids),
		cmocka_unit_test(test_find_container),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
