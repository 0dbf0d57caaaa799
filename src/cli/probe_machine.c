/* Limits, file systems, the CPU, and the container engines that are installed. */
#include "cli/cgroup.h"
#include "cli/probe.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

enum {
	NOFILE_WANTED = 20000,	/* two descriptors for each of a gate's LIMIT_GATE_LANES, and its listening sockets */
	SOMAXCONN_WANTED = 4096, /* the kernel's own default since 5.4 */
};

static void probe_somaxconn(struct finding *f)
{
	char text[32];
	long n;

	if (read_small_file("/proc/sys/net/core/somaxconn", text, sizeof(text)) < 0)
		return finding_set(f, FINDING_UNKNOWN, "", "cannot be read");
	n = strtol(text, NULL, 10);
	if (n < SOMAXCONN_WANTED)
		return finding_set(f, FINDING_WARN, "clients wait in the backlog during a restart: sysctl -w net.core.somaxconn=4096", "%ld", n);
	finding_set(f, FINDING_OK, "", "%ld", n);
}

static void probe_nofile(struct finding *f)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) < 0)
		return finding_set(f, FINDING_UNKNOWN, "", "%m");
	if (l.rlim_max < NOFILE_WANTED)
		return finding_set(f, FINDING_WARN, "each gate relays fewer than 9000 lanes; the unit file sets LimitNOFILE=1048576",
				   "hard limit %" PRIu64, (uint64_t)l.rlim_max);
	finding_set(f, FINDING_OK, "", "hard limit %" PRIu64, (uint64_t)l.rlim_max);
}

struct probe_dirs probe_dirs = { .run = "/run/sealane", .cdi = "/run/cdi" };

/* A socket file is made by link(2) and rename(2) below the run directory. Tried with a file that has no name before. */
static void probe_run_dir(struct finding *f)
{
	const char *dir = access(probe_dirs.run, F_OK) == 0 ? probe_dirs.run : "/run";
	char from[sizeof(probe_dirs.run) + 32], to[sizeof(from) + 16];
	int fd, r;

	snprintf(from, sizeof(from), "%s/.doctor-XXXXXX", dir);
	fd = mkstemp(from);
	if (fd < 0)
		return finding_set(f, FINDING_UNKNOWN, "run doctor as root", "%s: %m", dir);
	close(fd);
	snprintf(to, sizeof(to), "%s-link", from);
	r = link(from, to);
	if (r < 0)
		finding_set(f, FINDING_MISSING, "sealane's run directory must be on a file system with hard links (tmpfs has them): sealaned --run-dir",
			    "%s: link: %m", dir);
	else
		finding_set(f, FINDING_OK, "", "%s has hard links", dir);
	unlink(from);
	if (r == 0)
		unlink(to);
}

static void probe_cpus(struct finding *f)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	if (n < 2)
		return finding_set(f, FINDING_WARN, "client, server and relay share one core; nothing spins then", "%ld", n);
	finding_set(f, FINDING_OK, "", "%ld", n);
}

/* What keeps libsealane from using the keys: shm/keys.c looks at the same. */
static void probe_pku(struct finding *f)
{
	const char *less = "lanes of libsealane work unguarded: a stray write of a program is not stopped (docs/design/keys.md)";
#if defined(__x86_64__)
	unsigned a, b, cx = 0, d;
	long key;

	if (!__get_cpuid_count(7, 0, &a, &b, &cx, &d) || !(cx & (1u << 3)))
		return finding_set(f, FINDING_WARN, less, "the CPU has no memory protection keys");
	if (!(cx & (1u << 4)))
		return finding_set(f, FINDING_WARN, less, "the CPU has memory protection keys, the system does not enable them (nopku?)");
	key = syscall(SYS_pkey_alloc, 0, 0);
	if (key < 0)
		return finding_set(f, FINDING_WARN, less, "%s: %m", errno == ENOSPC ? "all keys are taken" : "pkey_alloc is refused");
	syscall(SYS_pkey_free, key); /* no memory has it yet */
	finding_set(f, FINDING_OK, "", "active: lanes of libsealane are guarded");
#else
	finding_set(f, FINDING_WARN, less, "memory protection keys are used on x86-64 only");
#endif
}

const struct probe probe_machine[] = {
	{ "run directory", probe_run_dir },
	{ "somaxconn", probe_somaxconn },
	{ "open files", probe_nofile },
	{ "CPUs", probe_cpus },
	{ "PKU", probe_pku },
	{ NULL, NULL },
};

/* The first number with a dot in it: "podman version 4.3.1", "Docker version 20.10.24+dfsg1, build ...", "crun version 1.8.1". */
static bool version_find(const char *text, unsigned *ret_major, unsigned *ret_minor, char *ret, size_t size)
{
	for (; *text && *text != '\n'; text++) {
		size_t n = strspn(text, "0123456789.");

		if (n >= 3 && sscanf(text, "%u.%u", ret_major, ret_minor) == 2) {
			snprintf(ret, size, "%.*s", (int)n, text);
			return true;
		}
		text += n ? n - 1 : 0;
	}
	return false;
}

struct engine {
	const char *program;
	unsigned cdi_major, cdi_minor; /* first version that reads CDI files; 0: that is its caller's matter */
	const char *cdi_advice;	       /* for those before */
	const char *cdi_note;	       /* for those that do */
};

static void probe_engine(struct finding *f, const struct engine *e)
{
	const char *const argv[] = { e->program, "--version", NULL };
	char text[512], version[32];
	unsigned major, minor;
	int r = probe_capture(text, sizeof(text), argv);

	if (r == -ENOENT)
		return finding_set(f, FINDING_UNKNOWN, "", "not installed");
	if (r < 0 || !version_find(text, &major, &minor, version, sizeof(version)))
		return finding_set(f, FINDING_UNKNOWN, "", "installed, does not tell its version");
	if (e->cdi_major == 0)
		return finding_set(f, FINDING_OK, "", "%s", version);
	if (major > e->cdi_major || (major == e->cdi_major && minor >= e->cdi_minor))
		return finding_set(f, FINDING_OK, e->cdi_note, "%s, reads CDI", version);
	finding_set(f, FINDING_WARN, e->cdi_advice, "%s, reads no CDI", version);
}

static void probe_podman(struct finding *f)
{
	probe_engine(f, &(struct engine){ "podman", 4, 1, "mount by -v and use the hook (docs/containers.md)", "" });
}

static bool docker_has_cdi_on(void)
{
	json_t *config = json_load_file("/etc/docker/daemon.json", 0, NULL);
	bool on = json_is_true(json_object_get(json_object_get(config, "features"), "cdi"));

	json_decref(config);
	return on;
}

/* From 25 on docker knows CDI, and from 28.3 on without being told to. */
static void probe_docker(struct finding *f)
{
	static const char advice[] = "set features.cdi = true in /etc/docker/daemon.json (from 25 on), or use -v and the runtime sealane-runc (docs/containers.md)";
	bool on = docker_has_cdi_on();

	probe_engine(f, &(struct engine){ "docker", on ? 25 : 28, on ? 0 : 3, advice, "" });
}

static void probe_containerd(struct finding *f)
{
	probe_engine(f, &(struct engine){ "containerd", 1, 7, "use mounts and the runtime sealane-runc (docs/containers.md)",
					 "for Kubernetes; ctr and nerdctl take it from 2.0 on" });
}

static void probe_runc(struct finding *f)
{
	probe_engine(f, &(struct engine){ "runc", 0, 0, "", "" });
}

static void probe_crun(struct finding *f)
{
	probe_engine(f, &(struct engine){ "crun", 0, 0, "", "" });
}

static void probe_cdi_file(struct finding *f)
{
	char path[sizeof(probe_dirs.cdi) + 32];
	struct stat st;

	if (!probe_dirs.cdi[0])
		return finding_set(f, FINDING_OK, "", "not wanted: cdi_dir = off");
	snprintf(path, sizeof(path), "%s/sealane.json", probe_dirs.cdi);
	if (stat(path, &st) == 0)
		return finding_set(f, FINDING_OK, "", "%s", path);
	finding_set(f, FINDING_UNKNOWN, "the daemon writes it into cdi_dir when it runs", "not there");
}

const struct probe probe_engines[] = {
	{ "podman", probe_podman },
	{ "docker", probe_docker },
	{ "containerd", probe_containerd },
	{ "runc", probe_runc },
	{ "crun", probe_crun },
	{ "CDI file", probe_cdi_file },
	{ NULL, NULL },
};
