#include "base/isolate.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/landlock.h>
#include <seccomp.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#if defined(__has_feature) /* clang's way to say it; gcc defines the two macros */
#define IS_SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SANITIZED 1
#else
#define IS_SANITIZED 0
#endif

/*
 * What libc and the sanitizers' runtimes do behind every program's back: memory, time, signals, threads' ends, and
 * fcntl/ioctl-free I/O on descriptors that it already holds. Nothing here opens, connects or starts anything.
 */
static const char *const g_common_calls[] = {
	"read",		   "write",	   "readv",	   "writev",	      "close",		 "brk",
	"mmap",		   "munmap",	   "mremap",	   "mprotect",	      "madvise",	 "futex",
	"clock_gettime",   "clock_nanosleep", "nanosleep", "gettimeofday",    "getrandom",	 "rt_sigreturn",
	"rt_sigprocmask",  "rt_sigaction", "sigaltstack",  "exit",	      "exit_group",	 "restart_syscall",
	"epoll_ctl",	   "epoll_wait",   "epoll_pwait",  "poll",	      "ppoll",		 "recvmsg",
	"sendmsg",	   "recvfrom",	   "sendto",	   "shutdown",	      "getpid",		 "gettid",
	"tgkill",	   "fcntl",	   "fstat",	   "newfstatat",      "sched_yield",	 "rseq",
	"set_robust_list", "timerfd_settime", "getsockopt", "setsockopt",     "sched_getaffinity", "lseek",
	"dup",		   "getuid",	   "geteuid",	   "getgid",	      "getegid",	 "prlimit64",
	"setitimer",
};

int isolate_user(uid_t uid, gid_t gid)
{
	if (geteuid() == 0) {
		if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
			return -errno;
	} else if (geteuid() != uid) {
		return -EPERM;
	}
	if (uid != 0 && setuid(0) == 0)
		return -EPERM; /* the way back must be closed */
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	return 0;
}

int isolate_caps(const int *caps, size_t n_caps)
{
	cap_t set = cap_init();
	int r = 0;

	if (!set)
		return -errno;
	for (int c = 0; c <= cap_max_bits() - 1; c++) {
		cap_flag_value_t have = CAP_CLEAR;
		bool keep = false;

		for (size_t i = 0; i < n_caps; i++)
			keep |= caps[i] == c;
		if (!keep) {
			if (cap_get_bound(c) > 0 && cap_drop_bound(c) < 0)
				r = -errno;
			continue;
		}
		cap_t now = cap_get_proc();
		if (now && cap_get_flag(now, c, CAP_PERMITTED, &have) == 0 && have == CAP_SET) {
			cap_value_t v = c;

			cap_set_flag(set, CAP_PERMITTED, 1, &v, CAP_SET);
			cap_set_flag(set, CAP_EFFECTIVE, 1, &v, CAP_SET);
		}
		cap_free(now);
	}
	if (r == 0 && cap_set_proc(set) < 0)
		r = -errno;
	cap_free(set);
	return r;
}

static int landlock_allow_dir(int ruleset, const char *dir, uint64_t access)
{
	struct landlock_path_beneath_attr rule = { .allowed_access = access };
	AUTO_FD fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	rule.parent_fd = fd;
	if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
		return -errno;
	return 0;
}

int isolate_paths(const char *const *dirs, size_t n_dirs)
{
	/* The rights of Landlock's first ABI: every way to open, list, run, make or remove a path. */
	struct landlock_ruleset_attr attr = { .handled_access_fs = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1 };
	AUTO_FD ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);

	if (ruleset < 0)
		return errno == ENOSYS || errno == EOPNOTSUPP ? 0 : -errno;
	for (size_t i = 0; i < n_dirs; i++) {
		int r = landlock_allow_dir(ruleset, dirs[i], attr.handled_access_fs & ~(uint64_t)LANDLOCK_ACCESS_FS_EXECUTE);

		if (r < 0)
			return r;
	}
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
		return -errno;
	return 0;
}

static int add_call(scmp_filter_ctx ctx, const struct isolate_call *c)
{
	int nr = seccomp_syscall_resolve_name(c->name);
	uint32_t action = c->error ? SCMP_ACT_ERRNO((uint32_t)c->error) : SCMP_ACT_ALLOW;

	if (nr == __NR_SCMP_ERROR)
		return 0; /* newer or older than this libseccomp: then nobody here can call it by that name either */
	if (c->arg == 0)
		return seccomp_rule_add(ctx, action, nr, 0);
	struct scmp_arg_cmp cmp = { .arg = c->arg - 1, .op = SCMP_CMP_EQ, .datum_a = c->arg_value };
	return seccomp_rule_add_array(ctx, action, nr, 1, &cmp);
}

int isolate_calls(const struct isolate_call *calls)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int r = 0;

	if (!ctx)
		return -ENOMEM;
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(g_common_calls); i++)
		r = add_call(ctx, &(struct isolate_call){ .name = g_common_calls[i] });
	for (; r == 0 && calls->name; calls++)
		r = add_call(ctx, calls);
#if IS_SANITIZED
	/* The sanitizers' runtimes read /proc and ask for their own limits when they report. */
	static const char *const reports[] = { "openat", "readlink", "sysinfo", "getrusage", "clone", "ptrace", "wait4", "prctl", "pipe2" };

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(reports); i++) {
		r = add_call(ctx, &(struct isolate_call){ .name = reports[i] });
		if (r == -EEXIST)
			r = 0; /* the role has said what is to happen */
	}
#endif
	if (r == 0)
		r = seccomp_load(ctx);
	seccomp_release(ctx);
	return r;
}
