/*
 * The kernel's side of `sealane doctor`: each facility is tried, not looked up by version, where trying changes nothing.
 * Numbers that Debian 12's headers lack are written out, with the kernel that brought them.
 */
#include "cli/cgroup.h"
#include "cli/probe.h"

#include <fcntl.h>
#include <linux/landlock.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/vfs.h>

#define SO_PEERPIDFD_NR 77	 /* Linux 6.5 */
#define SYS_LSM_LIST_MODULES 461 /* Linux 6.8 */
#define LSM_ID_BPF_NR 110
enum { CGROUP2_MAGIC = 0x63677270, FILE_HANDLE_KERNFS_SIZE = 8 };

static void probe_release(struct finding *f)
{
	struct utsname u;

	if (uname(&u) < 0)
		return finding_set(f, FINDING_UNKNOWN, "", "uname: %m");
	if (!probe_kernel_at_least(5, 12))
		return finding_set(f, FINDING_MISSING, "sealane needs Linux 5.12 or later", "%s %s", u.release, u.machine);
	if (!probe_kernel_at_least(6, 13))
		return finding_set(f, FINDING_WARN, "works; from 6.13 on the kernel itself says whose connection it is (docs/design/identity.md)",
				   "%s %s", u.release, u.machine);
	finding_set(f, FINDING_OK, "", "%s %s", u.release, u.machine);
}

static void probe_peerpidfd(struct finding *f)
{
	int pair[2], pidfd = -1;
	socklen_t size = sizeof(pidfd);

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return finding_set(f, FINDING_UNKNOWN, "", "socketpair: %m");
	if (getsockopt(pair[0], SOL_SOCKET, SO_PEERPIDFD_NR, &pidfd, &size) == 0)
		finding_set(f, FINDING_OK, "", "works");
	else
		finding_set(f, FINDING_WARN, "needs Linux 6.5; until then the directory tells workloads apart and SO_PEERCRED is the second look", "%m");
	close(pair[0]);
	close(pair[1]);
	if (pidfd >= 0)
		close(pidfd);
}

static void probe_pidfd_info(struct finding *f)
{
	AUTO_FD pidfd = cli_pidfd_open(getpid());
	uint64_t id;
	int r = pidfd < 0 ? pidfd : pidfd_cgroup_id(&id, pidfd);

	if (r == 0)
		return finding_set(f, FINDING_OK, "", "works (our cgroup is %llu)", (unsigned long long)id);
	finding_set(f, FINDING_WARN, "needs Linux 6.13; until then /proc is read and checked against a pidfd", "%s", strerror(-r));
}

static void probe_cgroup2(struct finding *f)
{
	char mount[LIMIT_PATH_SIZE];
	struct statfs s;

	if (cgroup_find_mount(mount, sizeof(mount)) < 0)
		return finding_set(f, FINDING_MISSING,
				   "mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with systemd.unified_cgroup_hierarchy=1", "not mounted");
	if (strcmp(mount, "/sys/fs/cgroup") != 0 && statfs("/sys/fs/cgroup", &s) == 0 && s.f_type != CGROUP2_MAGIC)
		return finding_set(f, FINDING_WARN, "works; crun refuses hybrid hierarchies, runc, podman with runc and docker do not",
				   "%s (hybrid, beside version 1)", mount);
	finding_set(f, FINDING_OK, "", "%s", mount);
}

static void probe_file_handle(struct finding *f)
{
	union {
		struct file_handle handle;
		char space[sizeof(struct file_handle) + FILE_HANDLE_KERNFS_SIZE];
	} u = { .handle.handle_bytes = FILE_HANDLE_KERNFS_SIZE };
	char mount[LIMIT_PATH_SIZE];
	AUTO_FD dir = -1;
	AUTO_FD again = -1;
	int mount_id;

	if (cgroup_find_mount(mount, sizeof(mount)) < 0)
		return finding_set(f, FINDING_UNKNOWN, "", "cgroup2 is not mounted");
	dir = open(mount, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0 || name_to_handle_at(dir, "", &u.handle, &mount_id, AT_EMPTY_PATH) < 0)
		return finding_set(f, FINDING_MISSING, "the kernel needs CONFIG_FHANDLE", "name_to_handle_at: %m");
	again = open_by_handle_at(dir, &u.handle, O_RDONLY | O_CLOEXEC);
	if (again < 0 && errno == EPERM)
		return finding_set(f, FINDING_UNKNOWN, "run doctor as root (the daemon has CAP_DAC_READ_SEARCH)", "not allowed to this user");
	if (again < 0)
		return finding_set(f, FINDING_MISSING, "cgroup ids cannot be turned into paths", "%m");
	finding_set(f, FINDING_OK, "", "works");
}

/* One set of ids from lsm_list_modules(2), or the names in securityfs. Return: 1 active, 0 not, negative: cannot be seen. */
static int bpf_lsm_active(void)
{
	uint64_t ids[32];
	uint32_t size = sizeof(ids);
	long n = syscall(SYS_LSM_LIST_MODULES, ids, &size, 0);
	char names[256];

	if (n >= 0) {
		for (long i = 0; i < n && i < (long)ARRAY_SIZE(ids); i++) {
			if (ids[i] == LSM_ID_BPF_NR)
				return 1;
		}
		return 0;
	}
	if (read_small_file("/sys/kernel/security/lsm", names, sizeof(names)) < 0)
		return -1;
	return strstr(names, "bpf") != NULL;
}

static bool kernel_config_has(const char *line)
{
	static const char *const argv[] = { "gzip", "-dc", "/proc/config.gz", NULL };
	const size_t size = 1 << 20;
	AUTO_FREE(char) text = malloc(size);

	return text && probe_capture(text, size, argv) == 0 && strstr(text, line);
}

static void probe_bpf_lsm(struct finding *f)
{
	int active = bpf_lsm_active();
	const char *advice = "without it a direct lane is policed by its socket file and by cutting; add bpf to the kernel's lsm= list";

	if (active == 1)
		return finding_set(f, FINDING_OK, "", "active");
	if (active == 0)
		return finding_set(f, FINDING_WARN, advice, "not active%s", kernel_config_has("CONFIG_BPF_LSM=y") ? ", but built in" : "");
	finding_set(f, FINDING_UNKNOWN, "mount -t securityfs none /sys/kernel/security shows the list", "the list of security modules cannot be read%s",
		    kernel_config_has("CONFIG_BPF_LSM=y") ? "; the kernel has CONFIG_BPF_LSM" : "");
}

static void probe_connect_unix(struct finding *f)
{
	if (probe_kernel_at_least(6, 7))
		return finding_set(f, FINDING_OK, "", "this kernel has it (by its version)");
	finding_set(f, FINDING_WARN, "needs Linux 6.7; strict intentions do without", "too old");
}

static void probe_btf(struct finding *f)
{
	if (access("/sys/kernel/btf/vmlinux", R_OK) == 0)
		return finding_set(f, FINDING_OK, "", "/sys/kernel/btf/vmlinux");
	finding_set(f, FINDING_WARN, "the guard needs a kernel with CONFIG_DEBUG_INFO_BTF", "none");
}

static void probe_landlock(struct finding *f)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	if (abi > 0)
		return finding_set(f, FINDING_OK, "", "ABI %ld", abi);
	finding_set(f, FINDING_WARN, "the daemon's roles are then held by user and seccomp only; add landlock to the lsm= list (Linux 5.13)", "%m");
}

static void probe_seccomp(struct finding *f)
{
	char actions[256];

	if (prctl(PR_GET_SECCOMP) < 0 && errno == EINVAL)
		return finding_set(f, FINDING_MISSING, "the kernel needs CONFIG_SECCOMP_FILTER", "not there");
	if (read_small_file("/proc/sys/kernel/seccomp/actions_avail", actions, sizeof(actions)) < 0 || !strstr(actions, "kill_process"))
		return finding_set(f, FINDING_MISSING, "the kernel needs CONFIG_SECCOMP_FILTER", "no filters");
	finding_set(f, FINDING_OK, "", "filters, kill_process");
}

/* Asks for a socket of our own by its inode: an answer, whichever, means that the module is there. */
static void probe_sock_diag(struct finding *f)
{
	struct {
		struct nlmsghdr h;
		struct unix_diag_req q;
	} ask = {
		.h = { .nlmsg_len = sizeof(ask), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST },
		.q = { .sdiag_family = AF_UNIX, .udiag_states = ~0u, .udiag_show = UDIAG_SHOW_PEER, .udiag_cookie = { ~0u, ~0u } },
	};
	AUTO_FD own = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	AUTO_FD nl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	const struct timeval limit = { .tv_sec = 2 };
	char answer[4096] = "";
	struct stat st;
	ssize_t n;

	if (own < 0 || nl < 0 || fstat(own, &st) < 0)
		return finding_set(f, FINDING_WARN, "direct lanes cannot be listed or cut: use strict intentions", "netlink: %m");
	setsockopt(nl, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	ask.q.udiag_ino = (uint32_t)st.st_ino;
	n = send(nl, &ask, sizeof(ask), 0) < 0 ? -1 : recv(nl, answer, sizeof(answer), 0);
	if (n >= (ssize_t)sizeof(struct nlmsghdr) && ((struct nlmsghdr *)(void *)answer)->nlmsg_type == SOCK_DIAG_BY_FAMILY)
		return finding_set(f, FINDING_OK, "", "works");
	finding_set(f, FINDING_WARN, "direct lanes cannot be listed or cut (CONFIG_UNIX_DIAG; modprobe unix_diag): use strict intentions", "no answer");
}

static void probe_pidfd_getfd(struct finding *f)
{
	AUTO_FD pidfd = cli_pidfd_open(getpid());
	AUTO_FD copy = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, pidfd, 0);

	if (copy >= 0)
		return finding_set(f, FINDING_OK, "", "works");
	finding_set(f, FINDING_WARN, "a direct lane can then only be cut by ending its client (Linux 5.6)", "%m");
}

static void probe_clone_into_cgroup(struct finding *f)
{
	if (probe_kernel_at_least(5, 12))
		return finding_set(f, FINDING_OK, "", "clone3 into a cgroup, open_tree (by the kernel's version)");
	finding_set(f, FINDING_WARN, "`sealane run` needs Linux 5.12; engines do without", "too old");
}

const struct probe probe_kernel[] = {
	{ "kernel", probe_release },
	{ "SO_PEERPIDFD", probe_peerpidfd },
	{ "PIDFD_GET_INFO", probe_pidfd_info },
	{ "cgroup2", probe_cgroup2 },
	{ "open_by_handle_at", probe_file_handle },
	{ "sealane run", probe_clone_into_cgroup },
	{ "sock_diag", probe_sock_diag },
	{ "pidfd_getfd", probe_pidfd_getfd },
	{ "BPF LSM", probe_bpf_lsm },
	{ "cgroup/connect_unix", probe_connect_unix },
	{ "BTF", probe_btf },
	{ "Landlock", probe_landlock },
	{ "seccomp", probe_seccomp },
	{ NULL, NULL },
};
