/* Enrolment, resolution by ancestors, and noticing that a cgroup is empty or gone, on real cgroups. */
#include "daemon/test_warden.h"

#include "daemon/identity.h"
#include "daemon/warden_cgroup.h"

#include <sys/prctl.h>

static struct event_base *g_base;
static struct cgroups g_cgroups;
static char g_top[64]; /* name below the mount */
static char g_why[WARDEN_WHY_SIZE];
static bool g_can;
static unsigned g_n_gone;
static uint32_t g_gone_wid;

static void on_gone(void *arg, const struct cgroup *c)
{
	g_n_gone++;
	g_gone_wid = c->wid;
}

static void make(const char *sub)
{
	char path[320];

	snprintf(path, sizeof(path), "%s/%s", g_top, sub);
	assert_int_equal(mkdirat(g_cgroups.mount_fd, path, 0755), 0);
}

static void removes(const char *sub)
{
	char path[320];

	snprintf(path, sizeof(path), "%s/%s", g_top, sub);
	/* who was in it and was killed leaves it a moment later */
	for (int i = 0; i < 500 && unlinkat(g_cgroups.mount_fd, path, AT_REMOVEDIR) < 0 && errno == EBUSY; i++)
		poll(NULL, 0, 10);
}

static int setup(void **state)
{
	g_base = event_base_new();
	g_n_gone = 0;
	snprintf(g_top, sizeof(g_top), "sealane-test-%d", getpid());
	g_can = geteuid() == 0 && cgroups_open(&g_cgroups, g_base) == 0 && mkdirat(g_cgroups.mount_fd, g_top, 0755) == 0;
	if (!g_can)
		return 0;
	g_cgroups.on_gone = on_gone;
	make("a");
	make("a/inner");
	make("b");
	return 0;
}

static int teardown(void **state)
{
	if (!g_can)
		return 0;
	removes("a/inner/deep");
	removes("a/inner");
	removes("a");
	removes("b");
	unlinkat(g_cgroups.mount_fd, g_top, AT_REMOVEDIR);
	cgroups_close(&g_cgroups);
	event_base_free(g_base);
	return 0;
}

#define REQUIRE_CGROUPS()                                                              \
	do {                                                                           \
		if (!g_can) {                                                          \
			print_message("needs root and a cgroup2 mount that it can write\n"); \
			skip();                                                        \
		}                                                                      \
	} while (0)

static int enrol(uint32_t wid, const char *sub, const struct cgroup **ret)
{
	struct role_cgroup m = { .wid = wid };
	const struct cgroup *c;

	snprintf(m.path, sizeof(m.path), "/%s%s%s", g_top, sub[0] ? "/" : "", sub);
	return cgroups_enrol(&g_cgroups, &m, ret ? ret : &c, g_why);
}

static uint64_t id_of(const char *sub)
{
	char path[128];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", g_top, sub);
	assert_int_equal(fstatat(g_cgroups.mount_fd, path, &st, 0), 0);
	return st.st_ino;
}

static pid_t child_in(const char *sub)
{
	char path[160];
	pid_t pid;

	snprintf(path, sizeof(path), "%s/%s/cgroup.procs", g_top, sub);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	AUTO_FD fd = openat(g_cgroups.mount_fd, path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0 && dprintf(fd, "%d", pid) > 0);
	return pid;
}

static void run_for(unsigned ms)
{
	struct timeval tv = { .tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000) * 1000 };

	event_base_loopexit(g_base, &tv);
	event_base_dispatch(g_base);
}

/* Until @n workloads are gone. */
static void run_until_gone(unsigned n)
{
	uint64_t end = clock_ns() + UINT64_C(20000000000);

	while (g_n_gone < n && clock_ns() < end)
		run_for(10);
	assert_int_equal(g_n_gone, n);
}

/* Has so little time passed that an empty cgroup may still come back? */
static bool is_early(uint64_t since_ns)
{
	return clock_ns() - since_ns < UINT64_C(150000000);
}

static void test_enrol_by_path_and_id(void **state)
{
	struct role_cgroup by_id = { .wid = 1 };
	const struct cgroup *c, *again;
	char path[128];

	REQUIRE_CGROUPS();
	assert_int_equal(enrol(1, "a", &c), 0);
	assert_int_equal(c->id, id_of("a"));
	snprintf(path, sizeof(path), "/%s/a", g_top);
	assert_string_equal(c->path, path);
	by_id.cgroup_id = c->id;
	assert_int_equal(cgroups_enrol(&g_cgroups, &by_id, &again, g_why), 0);
	assert_ptr_equal(c, again);
}

static void test_refusals_say_why(void **state)
{
	struct role_cgroup m = { .wid = 9, .path = "/" };
	const struct cgroup *c;

	REQUIRE_CGROUPS();
	assert_int_equal(cgroups_enrol(&g_cgroups, &m, &c, g_why), -EPERM);
	assert_non_null(strstr(g_why, "cgroup of its own"));
	strcpy(m.path, "/../etc");
	assert_int_equal(cgroups_enrol(&g_cgroups, &m, &c, g_why), -EINVAL);
	strcpy(m.path, "/no-such-cgroup");
	assert_int_equal(cgroups_enrol(&g_cgroups, &m, &c, g_why), -ENOENT);
	m = (struct role_cgroup){ .wid = 9, .cgroup_id = UINT64_MAX - 5 };
	assert_int_equal(cgroups_enrol(&g_cgroups, &m, &c, g_why), -ENOENT);

	assert_int_equal(enrol(1, "a", NULL), 0);
	assert_int_equal(enrol(2, "a", NULL), -EEXIST);
	assert_int_equal(enrol(2, "a/inner", NULL), -EEXIST);
	assert_non_null(strstr(g_why, "inside"));
	assert_int_equal(enrol(2, "", NULL), -EEXIST);
	assert_non_null(strstr(g_why, "holds"));
	assert_int_equal(enrol(2, "b", NULL), 0);
}

/* A workload that shares the daemon's cgroup could not be told from it. */
static void test_own_cgroup_is_refused(void **state)
{
	char path[160];
	int status;
	pid_t pid;

	REQUIRE_CGROUPS();
	snprintf(path, sizeof(path), "%s/b/cgroup.procs", g_top);
	pid = fork();
	if (pid == 0) {
		AUTO_FD fd = openat(g_cgroups.mount_fd, path, O_WRONLY | O_CLOEXEC);

		if (fd < 0 || dprintf(fd, "0") < 0)
			_exit(9);
		_exit(enrol(1, "b", NULL) == -EPERM && enrol(1, "", NULL) == -EPERM && enrol(1, "a", NULL) == 0 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_resolve_by_ancestor(void **state)
{
	char path[LIMIT_PATH_SIZE];
	struct identity who;
	uint32_t wid = 77;
	uint64_t inner;
	pid_t pid;

	REQUIRE_CGROUPS();
	make("a/inner/deep");
	assert_int_equal(enrol(5, "a", NULL), 0);
	pid = child_in("a/inner/deep");
	assert_int_equal(identity_of_pid(g_cgroups.mount_fd, pid, &who), 0);
	assert_int_equal(who.cgroup_id, id_of("a/inner/deep"));
	assert_int_equal(cgroups_resolve(&g_cgroups, who.cgroup_id, &wid, path, g_why), 0);
	assert_int_equal(wid, 5);
	assert_non_null(strstr(path, "/a/inner/deep"));
	assert_int_equal(cgroups_resolve(&g_cgroups, id_of("b"), &wid, path, g_why), -ENOENT);
	test_end_child(pid);
	inner = id_of("a/inner/deep");
	removes("a/inner/deep");
	assert_int_equal(cgroups_resolve(&g_cgroups, inner, &wid, path, g_why), -ENOENT);
}

static int count(void *arg, pid_t pid)
{
	*(pid_t *)arg += pid;
	return 0;
}

static void test_each_pid(void **state)
{
	const struct cgroup *c;
	pid_t one, two, sum = 0;

	REQUIRE_CGROUPS();
	assert_int_equal(enrol(1, "a", &c), 0);
	one = child_in("a");
	two = child_in("a/inner");
	assert_int_equal(cgroups_each_pid(&g_cgroups, c, count, &sum), 0);
	assert_int_equal(sum, one + two);
	test_end_child(one);
	test_end_child(two);
}

static void test_gone_when_empty(void **state)
{
	uint64_t ended_ns;
	pid_t pid;

	REQUIRE_CGROUPS();
	assert_int_equal(enrol(3, "b", NULL), 0);
	run_for(300);
	assert_int_equal(g_n_gone, 0); /* never populated: the container is yet to come */
	pid = child_in("b");
	run_for(50);
	ended_ns = clock_ns();
	test_end_child(pid);
	run_for(100);
	assert_true(g_n_gone == 0 || !is_early(ended_ns)); /* it may come back */
	run_until_gone(1);
	assert_int_equal(g_gone_wid, 3);
	assert_false(cgroups_has_workload(&g_cgroups, 3));
}

static void test_back_within_the_moment(void **state)
{
	bool is_back = false;
	uint64_t ended_ns;
	pid_t pid;

	REQUIRE_CGROUPS();
	for (int attempt = 0; attempt < 20 && !is_back; attempt++) { /* until the machine lets us be back in time */
		g_n_gone = 0;
		assert_int_equal(enrol(3, "b", NULL), 0);
		pid = child_in("b");
		run_for(20);
		ended_ns = clock_ns();
		test_end_child(pid);
		run_for(60);
		pid = child_in("b");
		is_back = is_early(ended_ns);
		run_for(is_back ? 500 : 0);
		assert_true(g_n_gone == 0 || !is_back);
		test_end_child(pid);
		run_until_gone(1);
	}
	assert_true(is_back);
}

static void test_gone_when_removed(void **state)
{
	pid_t pid;

	REQUIRE_CGROUPS();
	assert_int_equal(enrol(3, "b", NULL), 0);
	pid = child_in("b");
	run_for(20);
	test_end_child(pid);
	removes("b");
	run_until_gone(1);
}

/* A thousand enrolments are a start of the daemon. */
static void test_many(void **state)
{
	enum { N = 1000 };
	uint64_t began;

	REQUIRE_CGROUPS();
	for (int i = 0; i < N; i++) {
		char sub[32];

		snprintf(sub, sizeof(sub), "b/%d", i);
		make(sub);
	}
	began = clock_ns();
	for (uint32_t i = 0; i < N; i++) {
		char sub[32];

		snprintf(sub, sizeof(sub), "b/%u", i);
		assert_int_equal(enrol(i, sub, NULL), 0);
	}
	print_message("%d enrolments: %u ms\n", N, (unsigned)((clock_ns() - began) / 1000000));
	for (int i = 0; i < N; i++) {
		char sub[32];

		snprintf(sub, sizeof(sub), "b/%d", i);
		cgroups_forget_workload(&g_cgroups, (uint32_t)i);
		removes(sub);
	}
}

/* By the container's id, wherever the engine put it, and by nobody's say but the engine's. */
static void test_enrol_by_container_id(void **state)
{
	const char *id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
	struct role_cgroup m = { .wid = 1 };
	const struct cgroup *c;
	char engine[128], monitor[128], inside[240], other[128];

	REQUIRE_CGROUPS();
	snprintf(m.path, sizeof(m.path), "*%s", id);
	assert_int_equal(cgroups_enrol(&g_cgroups, &m, &c, g_why), -ENOENT);
	/* another container makes a cgroup of that name below its own */
	snprintf(other, sizeof(other), "docker-f%.40s.scope", id);
	make(other);
	snprintf(inside, sizeof(inside), "%s/%s", other, id);
	make(inside);
	assert_int_equal(cgroups_enrol(&g_cgroups, &m, &c, g_why), -ENOENT);
	snprintf(monitor, sizeof(monitor), "a/libpod-conmon-%s.scope", id);
	make(monitor);
	snprintf(engine, sizeof(engine), "a/libpod-%s.scope", id);
	make(engine);
	assert_int_equal(cgroups_enrol(&g_cgroups, &m, &c, g_why), 0);
	assert_non_null(strstr(c->path, "/a/libpod-0123"));
	assert_int_equal(cgroups_enrol(&g_cgroups, &m, &c, g_why), 0);
	assert_int_equal(cgroups_unenrol(&g_cgroups, &m, g_why), 0);
	strcpy(m.path, "*0123456789ab");
	assert_int_equal(cgroups_enrol(&g_cgroups, &m, &c, g_why), -ENOTUNIQ);
	assert_non_null(strstr(g_why, "2 cgroups"));
	strcpy(m.path, "*");
	assert_int_equal(cgroups_enrol(&g_cgroups, &m, &c, g_why), -EINVAL);
	removes(monitor);
	removes(engine);
	removes(inside);
	removes(other);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_enrol_by_path_and_id), TEST(test_refusals_say_why),	 TEST(test_own_cgroup_is_refused),
		TEST(test_resolve_by_ancestor),	 TEST(test_each_pid),		 TEST(test_gone_when_empty),
		TEST(test_back_within_the_moment), TEST(test_gone_when_removed), TEST(test_many),
		TEST(test_enrol_by_container_id),
	};

	return cmocka_run_group_tests_name("warden_cgroup", tests, NULL, NULL);
}
