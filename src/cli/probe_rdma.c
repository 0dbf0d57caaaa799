/*
 * Theory of operation: what lanes between hosts need to go by RDMA, looked at from the bottom up: the libraries that a linker loads, the kernel's modules, a device,
 * its nodes as the daemon's user meets them, and memory that may be pinned. All of it is optional: without it lanes go over TLS, so nothing here is
 * worse than a warning, and where there is no device at all the rest is not even asked for.
 *
 * Nothing is opened for long, and no device is changed. What the daemon itself found is told by `sealane doctor` beside this (verb_doctor.c).
 */
#include "cli/cgroup.h"
#include "cli/probe.h"

#include <dirent.h>
#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>

static const char g_class[] = "/sys/class/infiniband";

/* The first of a directory's names that begins so. Return: false: there is none. */
static bool first_name(const char *dir, const char *prefix, char *ret, size_t size)
{
	DIR *d = opendir(dir);
	const struct dirent *e;
	bool found = false;

	while (d && !found && (e = readdir(d)))
		if (e->d_name[0] != '.' && strncmp(e->d_name, prefix, strlen(prefix)) == 0)
			found = str_copy(ret, size, e->d_name);
	if (d)
		closedir(d);
	return found;
}

static bool find_device(char *ret, size_t size)
{
	return first_name(g_class, "", ret, size);
}

static void probe_libraries(struct finding *f)
{
	static const char *const names[] = { "libibverbs.so.1", "librdmacm.so.1" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		void *lib = dlopen(names[i], RTLD_LAZY | RTLD_LOCAL);

		if (!lib)
			return finding_set(f, FINDING_WARN, "for lanes by RDMA: apt install libibverbs1 librdmacm1 ibverbs-providers (rdma-core)", "no %s", names[i]);
		dlclose(lib);
	}
	finding_set(f, FINDING_OK, "", "libibverbs and librdmacm");
}

static void probe_device(struct finding *f)
{
	char name[64], path[192], state[64] = "?";

	if (!find_device(name, sizeof(name)))
		return finding_set(f, FINDING_WARN, "lanes to other hosts go over TLS. A driver's module makes devices; over any network card: modprobe rdma_rxe, rdma link add rxe0 type rxe"
						    " netdev eth0",
				   access(g_class, F_OK) == 0 ? "no device" : "none: this kernel has no RDMA loaded");
	snprintf(path, sizeof(path), "%s/%s/ports/1/state", g_class, name);
	if (read_small_file(path, state, sizeof(state)) == 0)
		state[strcspn(state, "\n")] = '\0';
	if (!strstr(state, "ACTIVE"))
		return finding_set(f, FINDING_WARN, "its network is down: ip link, rdma link", "%s, port 1 is \"%s\"", name, state);
	finding_set(f, FINDING_OK, "", "%s, port 1 is \"%s\"", name, state);
}

/* The daemon's linkers open them as its user: 0666, as kernel and rdma-core make them. */
static void probe_nodes(struct finding *f)
{
	static const char dir[] = "/dev/infiniband";
	char device[64], uverbs[64], path[128];
	struct stat st;

	if (!find_device(device, sizeof(device)))
		return finding_set(f, FINDING_UNKNOWN, "", "there is no device");
	if (access("/dev/infiniband/rdma_cm", F_OK) < 0)
		return finding_set(f, FINDING_WARN, "modprobe rdma_ucm, then sealane reload", "no %s/rdma_cm", dir);
	if (!first_name(dir, "uverbs", uverbs, sizeof(uverbs)))
		return finding_set(f, FINDING_WARN, "modprobe ib_uverbs, then sealane reload", "no %s/uverbs*", dir);
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, i == 0 ? "rdma_cm" : uverbs);
		if (stat(path, &st) < 0 || (st.st_mode & 0006) != 0006)
			return finding_set(f, FINDING_WARN, "the daemon's user opens it: chmod 0666, in a udev rule, as rdma-core has it; then sealane reload",
					   "%s has mode %04o", path, (unsigned)st.st_mode & 07777u);
	}
	finding_set(f, FINDING_OK, "", "rdma_cm and %s can be opened by everybody", uverbs);
}

/* RoCE addresses are in the table of GIDs: the one of `listen` has to be there. */
static void probe_gids(struct finding *f)
{
	char device[64], dir[128], path[256], gid[64];
	unsigned n = 0;

	if (!find_device(device, sizeof(device)))
		return finding_set(f, FINDING_UNKNOWN, "", "there is no device");
	snprintf(dir, sizeof(dir), "%s/%s/ports/1/gids", g_class, device);
	for (unsigned i = 0; i < 256; i++) {
		snprintf(path, sizeof(path), "%s/%u", dir, i);
		if (read_small_file(path, gid, sizeof(gid)) < 0)
			break;
		n += strncmp(gid, "0000:0000:0000:0000:0000:0000:0000:0000", 39) != 0;
	}
	if (n == 0)
		return finding_set(f, FINDING_WARN, "give its network interface the address that the other hosts dial: ip address add", "%s has no address (GID)", device);
	finding_set(f, FINDING_OK, "", "%s has %u addresses (GIDs)", device, n);
}

static void probe_memlock(struct finding *f)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_MEMLOCK, &l) < 0)
		return finding_set(f, FINDING_UNKNOWN, "", "%m");
	if (l.rlim_max == RLIM_INFINITY || geteuid() == 0)
		return finding_set(f, FINDING_OK, "", "the daemon raises it for its linkers");
	finding_set(f, FINDING_UNKNOWN, "run doctor as root; a daemon that may not raise it needs LimitMEMLOCK=2G in its unit", "hard limit %" PRIu64 " here", (uint64_t)l.rlim_max);
}

const struct probe probe_rdma[] = {
	{ "RDMA libraries", probe_libraries },
	{ "RDMA device", probe_device },
	{ "RDMA nodes", probe_nodes },
	{ "RDMA addresses", probe_gids },
	{ "RDMA memlock", probe_memlock },
	{ NULL, NULL },
};
