/*
 * The life of the kernel program: loaded, attached, proved, handed on.
 *
 * A BPF program lives as long as somebody holds a descriptor of its link. So that direct lanes stay checked while the
 * daemon is away, the keeper holds the link; the next daemon does not go on with the old program, which may be of another
 * version and whose tables are numbered as the old daemon numbered things. It loads its own beside it, tells it everything,
 * and then drops the old link. While both are there, each connect must pass both: never is there a moment unchecked.
 * Three tables move on, whose contents mean the same to every daemon: the records of open lanes, the unread events, and
 * which processes are the daemon's own, so that a new daemon can connect past the old program as well (guard_shared.h).
 *
 * Attaching can succeed and yet have no effect, when the kernel was started without "bpf" in its list of security modules.
 * No interface tells, so guard_open() makes a connect of its own and looks whether the program saw one.
 *
 * Before this file: warden.c. Beside it: guard_tables.c.
 */
#include "guard/guard_priv.h"

#include "guard.skel.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

/* libbpf's words, while guard_open() runs; its callback has no argument of ours. */
static struct {
	bool verbose;
	char last[160]; /* the last warning's first line */
} g_libbpf;

static PRINTF_LIKE(2, 0) int on_libbpf_print(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	if (g_libbpf.verbose) {
		va_list copy;

		va_copy(copy, ap);
		vfprintf(stderr, fmt, copy);
		va_end(copy);
	}
	if (level == LIBBPF_WARN) {
		vsnprintf(g_libbpf.last, sizeof(g_libbpf.last), fmt, ap);
		g_libbpf.last[strcspn(g_libbpf.last, "\n")] = '\0';
	}
	return 0;
}

static PRINTF_LIKE(3, 4) int fail(char *ret_why, int error, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(ret_why, GUARD_WHY_SIZE, fmt, ap);
	va_end(ap);
	return error;
}

static int explain_load(char *ret_why, int error)
{
	if (access("/sys/kernel/btf/vmlinux", R_OK) < 0)
		return fail(ret_why, -ENOSYS,
			    "the kernel does not describe its types (/sys/kernel/btf/vmlinux): it needs CONFIG_DEBUG_INFO_BTF=y");
	if (error == -EPERM || error == -EACCES)
		return fail(ret_why, -EPERM,
			    "not allowed to load BPF LSM programs: that takes CAP_BPF and CAP_PERFMON, and a machine whose kernel permits them");
	if (error == -ESRCH || error == -ENOENT)
		return fail(ret_why, -ENOSYS, "the kernel has no BPF security hooks: it needs CONFIG_BPF_LSM=y");
	return fail(ret_why, error, "the kernel does not take the program: %s (%s)", strerrorname_np(-error), g_libbpf.last);
}

static int explain_attach(char *ret_why, int error)
{
	if (error == -EPERM)
		return explain_load(ret_why, error);
	return fail(ret_why, error, "the program cannot be attached: %s (%s)", strerrorname_np(-error), g_libbpf.last);
}

static int explain_not_asked(char *ret_why)
{
	char list[128] = "";
	AUTO_FD fd = open("/sys/kernel/security/lsm", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, list, sizeof(list) - 1) : -1;

	list[n > 0 ? n : 0] = '\0';
	list[strcspn(list, "\n")] = '\0';
	return fail(ret_why, -EOPNOTSUPP,
		    "the kernel was started without bpf in its lsm= list: add lsm=%s,bpf to the kernel command line",
		    list[0] ? list : "...");
}

/* A table of the predecessor's may be used if it is what ours would be; the name carries the version of its layout. */
static bool table_fits(const struct bpf_map *map, int fd)
{
	struct bpf_map_info info = { 0 };
	uint32_t size = sizeof(info);

	return bpf_obj_get_info_by_fd(fd, &info, &size) == 0 && info.type == (uint32_t)bpf_map__type(map) &&
	       info.key_size == bpf_map__key_size(map) && info.value_size == bpf_map__value_size(map) &&
	       info.max_entries == bpf_map__max_entries(map) && strcmp(info.name, bpf_map__name(map)) == 0;
}

static int inherit_table(struct bpf_map *map, int fd)
{
	if (fd < 0 || !table_fits(map, fd))
		return 0; /* a new one then: old lanes are attributed by who holds them */
	return bpf_map__reuse_fd(map, fd);
}

static int load(struct guard *g, const struct guard_options *o, char *ret_why)
{
	int r;

	g->skel = guard_bpf__open();
	if (!g->skel)
		return fail(ret_why, -errno, "the program in this build is damaged: %s", strerrorname_np(errno));
	g->skel->rodata->report_allowed = o->report_allowed;
	r = inherit_table(g->skel->maps.sealane_lanes_1, o->inherited[GUARD_FD_LANES]);
	if (r == 0)
		r = inherit_table(g->skel->maps.sealane_event_1, o->inherited[GUARD_FD_EVENTS]);
	if (r == 0)
		r = inherit_table(g->skel->maps.sealane_exmpt_1, o->inherited[GUARD_FD_EXEMPT]);
	if (r < 0)
		return fail(ret_why, r, "the predecessor's tables cannot be taken over: %s", strerrorname_np(-r));
	r = guard_bpf__load(g->skel);
	if (r < 0)
		return explain_load(ret_why, r);
	g->fd = (struct guard_tables){
		.servers = bpf_map__fd(g->skel->maps.servers),
		.members = bpf_map__fd(g->skel->maps.members),
		.grants = bpf_map__fd(g->skel->maps.grants),
		.exempt = bpf_map__fd(g->skel->maps.sealane_exmpt_1),
		.lanes = bpf_map__fd(g->skel->maps.sealane_lanes_1),
		.totals = bpf_map__fd(g->skel->maps.totals),
		.events = bpf_map__fd(g->skel->maps.sealane_event_1),
	};
	return 0;
}

/* A connect to a listener without a name in the file system, which the program lets through and counts. */
static int probe_connect(void)
{
	AUTO_FD listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	AUTO_FD client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	socklen_t len = sizeof(sa.sun_family); /* autobind: the kernel picks a free abstract name */

	if (listener < 0 || client < 0 || bind(listener, (struct sockaddr *)&sa, len) < 0 || listen(listener, 1) < 0)
		return -errno;
	len = sizeof(sa);
	if (getsockname(listener, (struct sockaddr *)&sa, &len) < 0 || connect(client, (struct sockaddr *)&sa, len) < 0)
		return -errno;
	return 0;
}

/* Others' connects may be counted as well; that the number moved at all is the proof. */
static int prove(struct guard *g, char *ret_why)
{
	struct guard_totals before, after;
	int r = guard_read_totals(g, &before);

	if (r == 0)
		r = probe_connect();
	if (r == 0)
		r = guard_read_totals(g, &after);
	if (r < 0)
		return fail(ret_why, r, "cannot find out whether the kernel asks the program: %s", strerrorname_np(-r));
	return after.n_seen == before.n_seen ? explain_not_asked(ret_why) : 0;
}

static int start(struct guard *g, const struct guard_options *o, char *ret_why)
{
	int old_link = o->inherited[GUARD_FD_LINK];
	int r = load(g, o, ret_why);

	if (r < 0)
		return r;
	r = guard_tables_start(g);
	if (r < 0)
		return fail(ret_why, r, "the program's tables cannot be read: %s", strerrorname_np(-r));
	r = guard_bpf__attach(g->skel);
	if (r < 0)
		return explain_attach(ret_why, r);
	r = prove(g, ret_why);
	if (r < 0)
		return r;
	if (old_link >= 0) {
		g->old_link = fcntl(old_link, F_DUPFD_CLOEXEC, 3);
		if (g->old_link < 0)
			return fail(ret_why, -errno, "the predecessor's program cannot be held: %s", strerrorname_np(errno));
	}
	return 0;
}

int guard_open(struct guard **ret_g, const struct guard_options *o, char *ret_why)
{
	struct guard *g = calloc(1, sizeof(*g));
	libbpf_print_fn_t previous;
	int r;

	ret_why[0] = '\0';
	if (!g)
		return fail(ret_why, -ENOMEM, "out of memory");
	g->old_link = -1;
	g_libbpf.verbose = o->verbose;
	g_libbpf.last[0] = '\0';
	previous = libbpf_set_print(on_libbpf_print);
	r = start(g, o, ret_why);
	libbpf_set_print(previous);
	if (r < 0) {
		guard_close(g);
		return r;
	}
	*ret_g = g;
	return 0;
}

void guard_settle(struct guard *g)
{
	int old = take_fd(&g->old_link);

	if (old >= 0)
		close(old);
}

struct guard *guard_close(struct guard *g)
{
	if (!g)
		return NULL;
	guard_settle(g);
	guard_tables_stop(g);
	guard_bpf__destroy(g->skel);
	free(g);
	return NULL;
}

int guard_fd(const struct guard *g, enum guard_fd which)
{
	switch (which) {
	case GUARD_FD_LINK:
		return bpf_link__fd(g->skel->links.guard_connect);
	case GUARD_FD_LANES:
		return g->fd.lanes;
	case GUARD_FD_EVENTS:
		return g->fd.events;
	case GUARD_FD_EXEMPT:
		return g->fd.exempt;
	case GUARD_FD_N:
		break;
	}
	return -EINVAL;
}

const char *guard_fd_name(enum guard_fd which)
{
	static const char *const names[] = {
		[GUARD_FD_LINK] = "guard.link",
		[GUARD_FD_LANES] = "guard.lanes",
		[GUARD_FD_EVENTS] = "guard.events",
		[GUARD_FD_EXEMPT] = "guard.exempt",
	};

	static_assert(ARRAY_SIZE(names) == GUARD_FD_N, "a name for each");
	return names[which];
}
