/*
 * Theory of operation. Three processes: `sealane run` itself, outside; init, the first process of the pid namespace, which
 * makes the mounts, starts the command, passes signals on and reaps; and the command. An init of our own is needed because
 * the kernel gives a namespace's first process no signal that it has no handler for: `sealane run -- sleep 1d` could not
 * be interrupted.
 *
 * Order inside init, and why:
 *   0. drop the caller's descriptors and its dumpable state: the command has our uid, and a directory of the host that we
 *      still held would be its way out, over /proc/1/fd
 *   1. wait on the pipe             enrolled by now; end of file: the caller died, so do we
 *   2. detach the workload's mounts while the host's paths are still visible; private first, since a clone keeps the peer
 *      group that it has under systemd, and what is mounted on it would appear on the host, where no link(2) passes it
 *   3. cgroup namespace             only now: its root becomes the cgroup we are in
 *   4. lo up, host name
 *   5. root, /proc, /sys, /dev      paths after this are resolved inside the new root, so its symlinks lead nowhere else
 *   6. /run/sealane                 the detached mounts are put in place
 *   7. capabilities away, start the command
 *
 * Everything that fails says what and why, and the command is not started.
 */
#include "cli/jail.h"
#include "base/isolate.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#define WORKLOAD_DIR "/run/sealane"

enum { SAFE_MOUNT = MS_NOSUID | MS_NODEV | MS_NOEXEC };

static int jail_fail(const char *fmt, ...) PRINTF_LIKE(1, 2);

static int jail_fail(const char *fmt, ...)
{
	int error = errno;
	va_list ap;

	fputs("sealane run: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, ": %s\n", strerror(error));
	return -1;
}

static int jail_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)
{
	return mount(source, target, type, flags, data) < 0 ? jail_fail("mount %s", target) : 0;
}

static int jail_mkdir(const char *path)
{
	return mkdir(path, 0755) < 0 && errno != EEXIST ? jail_fail("mkdir %s", path) : 0;
}

/* The workload's mounts, taken off their place on the host: serve is -1 if the workload offers nothing. */
struct jail_trees {
	int dir, serve;
};

static int jail_detach(struct jail_trees *ret, const char *dir)
{
	char serve[LIMIT_PATH_SIZE + 8];

	snprintf(serve, sizeof(serve), "%s/serve", dir);
	ret->dir = open_tree(AT_FDCWD, dir, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (ret->dir < 0)
		return jail_fail("the workload's directory %s", dir);
	ret->serve = open_tree(AT_FDCWD, serve, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	return ret->serve < 0 && errno != ENOENT ? jail_fail("%s", serve) : 0;
}

/*
 * Put @tree at @target and close it. Its flags are set while it is nowhere yet: by path they would be set a moment later, on
 * whatever a symlink leads to by then.
 */
static int jail_attach(int tree, const char *target, uint64_t flags)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | flags };
	AUTO_FD fd = tree;

	if (mount_setattr(fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0 ||
	    move_mount(fd, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return jail_fail("mount %s", target);
	return 0;
}

/* The host's run directory holds the admin socket and every workload's directory: not for the command's eyes. */
static int jail_hide_run_dir(const char *workload_dir)
{
	char run[LIMIT_PATH_SIZE];
	char *slash = NULL;

	if (!str_copy(run, sizeof(run), workload_dir))
		return -1;
	for (int i = 0; i < 2; i++) { /* RUN/w/NAME */
		slash = strrchr(run, '/');
		if (!slash || slash == run)
			return 0;
		*slash = '\0';
	}
	if (strcmp(run, WORKLOAD_DIR) == 0)
		return 0; /* the workload's own directory is going to cover it */
	return jail_mount("tmpfs", run, "tmpfs", SAFE_MOUNT | MS_RDONLY, "size=4k,mode=0555");
}

static int jail_place_workload(struct jail_trees *t)
{
	if (jail_mkdir("/run") < 0 || jail_mkdir(WORKLOAD_DIR) < 0 || jail_attach(take_fd(&t->dir), WORKLOAD_DIR, MOUNT_ATTR_RDONLY) < 0)
		return -1;
	return t->serve < 0 ? 0 : jail_attach(take_fd(&t->serve), WORKLOAD_DIR "/serve", 0);
}

static int jail_make_devices(void)
{
	static const struct {
		const char *path;
		unsigned major, minor;
	} devices[] = {
		{ "/dev/null", 1, 3 }, { "/dev/zero", 1, 5 }, { "/dev/full", 1, 7 }, { "/dev/random", 1, 8 },
		{ "/dev/urandom", 1, 9 }, { "/dev/tty", 5, 0 },
	};
	static const char *const links[][2] = {
		{ "/proc/self/fd", "/dev/fd" }, { "/proc/self/fd/0", "/dev/stdin" }, { "/proc/self/fd/1", "/dev/stdout" },
		{ "/proc/self/fd/2", "/dev/stderr" }, { "pts/ptmx", "/dev/ptmx" },
	};

	if (jail_mkdir("/dev") < 0 || jail_mount("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "size=64k,mode=0755") < 0)
		return -1;
	for (size_t i = 0; i < ARRAY_SIZE(devices); i++) {
		/* chmod: whatever the caller's umask, /dev/null is for everyone */
		if (mknod(devices[i].path, S_IFCHR | 0666, makedev(devices[i].major, devices[i].minor)) < 0 ||
		    chmod(devices[i].path, 0666) < 0)
			return jail_fail("%s", devices[i].path);
	}
	for (size_t i = 0; i < ARRAY_SIZE(links); i++) {
		if (symlink(links[i][0], links[i][1]) < 0)
			return jail_fail("%s", links[i][1]);
	}
	if (jail_mkdir("/dev/pts") < 0 || jail_mkdir("/dev/shm") < 0 ||
	    jail_mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620") < 0)
		return -1;
	return jail_mount("shm", "/dev/shm", "tmpfs", SAFE_MOUNT, "mode=1777,size=64m");
}

/* pivot_root(2), not chroot(2): afterwards the host's tree is in no mount of this namespace, so there is no way back to it. */
static int jail_change_root(const char *rootfs)
{
	if (jail_mount(rootfs, rootfs, NULL, MS_BIND | MS_REC, NULL) < 0)
		return -1;
	if (chdir(rootfs) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return jail_fail("change root to %s", rootfs);
	return jail_make_devices();
}

/* What uid 0 may write in /proc even without capabilities, and would change the host by it. Paths are from /proc itself. */
static int jail_protect_proc(void)
{
	static const char *const read_only[] = { "sys", "sysrq-trigger", "irq", "bus", "fs" };

	for (size_t i = 0; i < ARRAY_SIZE(read_only); i++) {
		if (access(read_only[i], F_OK) < 0)
			continue;
		if (jail_mount(read_only[i], read_only[i], NULL, MS_BIND, NULL) < 0 ||
		    jail_mount(NULL, read_only[i], NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | SAFE_MOUNT, NULL) < 0)
			return -1;
	}
	if (access("kcore", F_OK) == 0)
		return jail_mount("/dev/null", "kcore", NULL, MS_BIND, NULL);
	return 0;
}

/*
 * /proc is gone through by its descriptor: another command with the same root file system could make the path lead
 * elsewhere between two steps, and what is to be read-only would stay writable.
 */
static int jail_make_proc(void)
{
	AUTO_FD context = fsopen("proc", FSOPEN_CLOEXEC);
	AUTO_FD proc = -1;
	AUTO_FD cwd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (cwd < 0)
		return jail_fail("the working directory");
	if (context < 0 || fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return jail_fail("a proc file system");
	proc = fsmount(context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
	if (proc < 0 || move_mount(proc, "", AT_FDCWD, "/proc", MOVE_MOUNT_F_EMPTY_PATH) < 0 || fchdir(proc) < 0)
		return jail_fail("mount /proc");
	if (jail_protect_proc() < 0)
		return -1;
	return fchdir(cwd) < 0 ? jail_fail("the working directory") : 0;
}

static int jail_make_mounts(const struct jail_options *o, struct jail_trees *trees, const char *dir)
{
	if (o->rootfs ? jail_change_root(o->rootfs) < 0 : jail_hide_run_dir(dir) < 0)
		return -1;
	if (jail_mkdir("/proc") < 0 || jail_make_proc() < 0)
		return -1;
	/*
	 * A new sysfs shows this network namespace's devices, without the cgroup mounts below it. Read-only in a second step:
	 * with --net host it is the host's own superblock, which is busy for a mount with other flags.
	 */
	if (jail_mkdir("/sys") < 0 || jail_mount("sysfs", "/sys", "sysfs", SAFE_MOUNT, NULL) < 0 ||
	    jail_mount(NULL, "/sys", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | SAFE_MOUNT, NULL) < 0)
		return -1;
	return jail_place_workload(trees);
}

static int jail_raise_lo(void)
{
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	AUTO_FD fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return errno == EAFNOSUPPORT ? 0 : jail_fail("socket for lo");
	return ioctl(fd, SIOCSIFFLAGS, &lo) < 0 ? jail_fail("raise lo") : 0;
}

/* Docker's and podman's default set, less CAP_MKNOD: engines pair it with a device filter, which we have not. */
static int jail_drop_caps(void)
{
	static const int keep[] = {
		CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FSETID, CAP_FOWNER, CAP_SETGID, CAP_SETUID, CAP_SETFCAP, CAP_SETPCAP,
		CAP_NET_BIND_SERVICE, CAP_NET_RAW, CAP_SYS_CHROOT, CAP_KILL, CAP_AUDIT_WRITE,
	};
	int r = isolate_caps(keep, ARRAY_SIZE(keep));

	errno = -r;
	return r < 0 ? jail_fail("drop capabilities") : 0;
}

static _Noreturn void command_main(char **argv)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (syscall(SYS_close_range, STDERR_FILENO + 1u, ~0u, CLOSE_RANGE_CLOEXEC) < 0) {
		jail_fail("close inherited descriptors");
		_exit(JAIL_EXIT_CANNOT_RUN);
	}
	execvp(argv[0], argv);
	jail_fail("%s", argv[0]);
	_exit(errno == ENOENT ? JAIL_EXIT_NOT_FOUND : JAIL_EXIT_CANNOT_RUN);
}

/* Return: the command's exit status when it ended, -1 when only some orphan did. */
static int init_reap(pid_t command)
{
	int status, ret = -1;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid == command)
			ret = WIFSIGNALED(status) ? JAIL_EXIT_SIGNAL + WTERMSIG(status) : WEXITSTATUS(status);
	}
	return ret;
}

static _Noreturn void init_serve(pid_t command)
{
	sigset_t all;
	siginfo_t info;
	int status;

	sigfillset(&all);
	for (;;) {
		if (sigwaitinfo(&all, &info) < 0)
			continue;
		if (info.si_signo == SIGCHLD) {
			status = init_reap(command);
			if (status >= 0)
				_exit(status); /* the kernel kills what is left in the namespace */
		} else if (info.si_code != SI_KERNEL) {
			kill(command, info.si_signo);
		}
	}
}

/* @dir: filled. Return: false when the caller died or gave up before the enrolment. */
static bool init_wait(int gate, char *dir, size_t size)
{
	size_t n = 0;

	while (n < size) {
		ssize_t got = read(gate, dir + n, size - n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		n += (size_t)got;
	}
	return str_is_terminated(dir, size) && dir[0] == '/';
}

/*
 * Keep nothing of the caller's but standard input, output and error, and @gate. Not dumpable: /proc/1/{fd,root,cwd,exe} and
 * ptrace are closed to the command then, which has our uid but not CAP_SYS_PTRACE. Its own exec makes it dumpable again.
 */
static int init_seal(int *gate)
{
	const int kept = STDERR_FILENO + 1;
	struct stat st;

	if (*gate != kept) {
		if (dup3(*gate, kept, O_CLOEXEC) < 0)
			return jail_fail("the pipe");
		*gate = kept;
	}
	if (syscall(SYS_close_range, kept + 1u, ~0u, 0u) < 0)
		return jail_fail("close inherited descriptors");
	for (int fd = 0; fd <= STDERR_FILENO; fd++) {
		if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
			errno = EISDIR; /* it would be a way to the host's files */
			return jail_fail("descriptor %d", fd);
		}
	}
	return prctl(PR_SET_DUMPABLE, 0) < 0 ? jail_fail("PR_SET_DUMPABLE") : 0;
}

static _Noreturn void init_main(const struct jail_options *o, int gate)
{
	struct jail_trees trees = { -1, -1 };
	char dir[LIMIT_PATH_SIZE];
	sigset_t all;
	pid_t command;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	prctl(PR_SET_NAME, "sealane-init");
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* however `sealane run` ends, nothing of it stays */
	if (init_seal(&gate) < 0 || !init_wait(gate, dir, sizeof(dir)))
		_exit(1);
	close(gate);
	if (jail_mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || jail_detach(&trees, dir) < 0)
		_exit(1);
	if (unshare(CLONE_NEWCGROUP) < 0 || sethostname(o->hostname, strlen(o->hostname)) < 0) {
		jail_fail("namespaces");
		_exit(1);
	}
	if ((!o->net_host && jail_raise_lo() < 0) || jail_make_mounts(o, &trees, dir) < 0 || setenv("SEALANE_DIR", WORKLOAD_DIR, 1) < 0 ||
	    jail_drop_caps() < 0)
		_exit(1);
	command = fork();
	if (command < 0) {
		jail_fail("fork");
		_exit(1);
	}
	if (command == 0)
		command_main(o->argv);
	init_serve(command);
}

int jail_start(struct jail *ret, const struct jail_options *o, int cgroup_fd)
{
	int gate[2], pidfd = -1;
	struct clone_args args = {
		.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_PIDFD | CLONE_INTO_CGROUP |
			 (o->net_host ? 0u : (uint64_t)CLONE_NEWNET),
		.pidfd = (uint64_t)(uintptr_t)&pidfd,
		.exit_signal = SIGCHLD,
		.cgroup = (uint64_t)cgroup_fd,
	};
	long pid;

	if (pipe2(gate, O_CLOEXEC) < 0)
		return -errno;
	fflush(NULL);
	pid = syscall(SYS_clone3, &args, sizeof(args));
	if (pid == 0)
		init_main(o, gate[0]);
	close(gate[0]);
	if (pid < 0) {
		int error = errno;

		close(gate[1]);
		return -error;
	}
	*ret = (struct jail){ .pid = (pid_t)pid, .pidfd = pidfd, .gate = gate[1] };
	return 0;
}

int jail_go(struct jail *j, const char *dir)
{
	char buf[LIMIT_PATH_SIZE] = "";
	ssize_t n;

	if (!str_copy(buf, sizeof(buf), dir))
		return -ENAMETOOLONG;
	n = write(j->gate, buf, sizeof(buf)); /* below PIPE_BUF: whole or not at all */
	close(take_fd(&j->gate));
	return n == (ssize_t)sizeof(buf) ? 0 : -EPIPE;
}

void jail_end(struct jail *j)
{
	if (j->pid <= 0)
		return;
	if (j->gate >= 0)
		close(take_fd(&j->gate));
	syscall(SYS_pidfd_send_signal, j->pidfd, SIGKILL, NULL, 0);
	waitid(P_PIDFD, (id_t)j->pidfd, &(siginfo_t){ 0 }, WEXITED);
	close(j->pidfd);
	j->pid = 0;
}

void jail_forward(const struct jail *j, const siginfo_t *info)
{
	if (j->pid > 0 && info->si_code != SI_KERNEL)
		syscall(SYS_pidfd_send_signal, j->pidfd, info->si_signo, NULL, 0);
}
