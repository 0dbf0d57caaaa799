/* Directories, listening sockets, names, servers: what the warden does on the file system, and what it refuses to do. */
#include "daemon/test_warden.h"

#include "daemon/warden_server.h"

#include <dirent.h>
#include <sys/mount.h>
#include <sys/prctl.h>

static char g_dir[64];
static struct files g_files;
static char g_why[WARDEN_WHY_SIZE];

/* The keeper of these tests: one slot. */
static char g_kept_key[LIMIT_PATH_SIZE];
static int g_kept_fd = -1;

static void keep(void *arg, const char *key, int fd)
{
	if (g_kept_fd >= 0)
		close(g_kept_fd);
	g_kept_fd = dup(fd);
	strcpy(g_kept_key, key);
}

static int take_kept(void *arg, const char *key)
{
	return strcmp(key, g_kept_key) == 0 ? take_fd(&g_kept_fd) : -1;
}

static void drop(void *arg, const char *key)
{
	if (strcmp(key, g_kept_key) == 0 && g_kept_fd >= 0)
		close(take_fd(&g_kept_fd));
}

static void start(void)
{
	assert_int_equal(files_open(&g_files, g_dir), 0);
	g_files.keep = keep;
	g_files.take_kept = take_kept;
	g_files.drop = drop;
}

static int setup(void **state)
{
	if (geteuid() != 0)
		return 0;
	test_dir(g_dir);
	start();
	return 0;
}

static int teardown(void **state)
{
	if (geteuid() != 0)
		return 0;
	files_close(&g_files);
	if (g_kept_fd >= 0)
		close(take_fd(&g_kept_fd));
	test_dir_remove(g_dir);
	return 0;
}

static void add_workload(uint32_t wid, const char *name, bool offers)
{
	struct role_workload w = { .wid = wid, .offers = offers };

	strcpy(w.name, name);
	assert_int_equal(files_add_workload(&g_files, &w, g_why), 0);
}

static int listen_as(uint32_t type, uint32_t lid, uint32_t wid, const char *path, uint32_t mode)
{
	struct role_listen l = { .lid = lid, .wid = wid, .mode = mode, .type = type, .uid = -1, .gid = -1 };
	int fd = -1, r;

	strcpy(l.path, path);
	r = files_listen(&g_files, &l, &fd, g_why);
	return r < 0 ? r : fd;
}

static int listen_at(uint32_t lid, uint32_t wid, const char *path, uint32_t mode)
{
	return listen_as(SOCK_STREAM, lid, wid, path, mode);
}

static char g_only_name[NAME_MAX + 1];

/* The one socket in a directory. */
static const char *test_only_name(int dirfd)
{
	DIR *dir = fdopendir(dup(dirfd));
	struct dirent *e;

	while ((e = readdir(dir)))
		if (e->d_name[0] != '.')
			strcpy(g_only_name, e->d_name);
	closedir(dir);
	return g_only_name;
}

static const char *at(const char *rest)
{
	static char bufs[4][512];
	static unsigned turn;
	char *b = bufs[turn++ % 4];

	snprintf(b, sizeof(bufs[0]), "%s/%s", g_dir, rest);
	return b;
}

static void test_listen_sets_mode_and_owner(void **state)
{
	struct role_listen l = { .lid = 1, .wid = 0, .mode = 0640, .type = SOCK_STREAM, .uid = 65534, .gid = 12 };
	struct stat st;
	int fd;

	REQUIRE_ROOT();
	add_workload(0, "web", false);
	strcpy(l.path, "redis.sock");
	assert_int_equal(files_listen(&g_files, &l, &fd, g_why), 0);
	assert_int_equal(lstat(at("w/web/redis.sock"), &st), 0);
	assert_true(S_ISSOCK(st.st_mode));
	assert_int_equal(st.st_mode & 07777, 0640);
	assert_int_equal(st.st_uid, 65534);
	assert_int_equal(st.st_gid, 12);
	AUTO_FD c = test_connect(at("w/web/redis.sock"));
	assert_true(c >= 0);
	AUTO_FD a = accept(fd, NULL, NULL);
	assert_true(a >= 0);
}

static void test_bad_paths_are_refused(void **state)
{
	static const char *const bad[] = { "../x.sock", "a/../x", "serve/x.sock", "serve", "a//b", "", ".", "a/" };

	REQUIRE_ROOT();
	add_workload(0, "web", true);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(listen_at(1, 0, bad[i], 0666), -EINVAL);
	assert_int_equal(listen_at(1, 7, "x.sock", 0666), -ENOENT);
	assert_true(listen_at(1, 0, "sub/dir/x.sock", 0666) >= 0);
}

static void test_workload_names(void **state)
{
	struct role_workload w = { .wid = 1 };

	REQUIRE_ROOT();
	strcpy(w.name, "../x");
	assert_int_equal(files_add_workload(&g_files, &w, g_why), -EINVAL);
	strcpy(w.name, "..");
	assert_int_equal(files_add_workload(&g_files, &w, g_why), -EINVAL);
	add_workload(2, "web", false);
	strcpy(w.name, "web");
	assert_int_equal(files_add_workload(&g_files, &w, g_why), -EEXIST);
}

/* A long run directory: the names are far beyond sun_path. */
static void test_long_run_dir(void **state)
{
	char deep[300];

	REQUIRE_ROOT();
	files_close(&g_files);
	snprintf(deep, sizeof(deep), "%s/%0100d/%0100d", g_dir, 1, 2);
	assert_int_equal(files_open(&g_files, deep), 0);
	add_workload(0, "web", false);
	assert_true(listen_at(1, 0, "redis.sock", 0666) >= 0);
}

/* The daemon ends and another comes: same directory, same socket inode, and a client in the backlog is still there. */
static void test_restart_keeps_inodes(void **state)
{
	struct file_id dir, name, own;

	REQUIRE_ROOT();
	add_workload(0, "web", false);
	assert_true(listen_at(1, 0, "redis.sock", 0666) >= 0);
	dir = test_id(at("w/web"));
	name = test_id(at("w/web/redis.sock"));
	AUTO_FD waiting = test_connect(at("w/web/redis.sock"));
	assert_true(waiting >= 0);

	files_close(&g_files);
	start();
	add_workload(5, "web", false);
	int fd = listen_at(9, 5, "redis.sock", 0600);
	assert_true(fd >= 0);
	own = test_id(at("w/web"));
	assert_true(file_id_equal(&own, &dir));
	own = test_id(at("w/web/redis.sock"));
	assert_true(file_id_equal(&own, &name));
	AUTO_FD accepted = accept(fd, NULL, NULL);
	assert_true(accepted >= 0);
}

static int socket_type(int fd)
{
	int type = 0;
	socklen_t n = sizeof(type);

	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n), 0);
	return type;
}

static void restart_warden(void)
{
	files_close(&g_files);
	start();
	add_workload(0, "web", false);
}

/* A control socket is of its own type, comes back as that, and what was kept as another is not taken for it. */
static void test_control_socket(void **state)
{
	struct file_id id;
	int fd;

	REQUIRE_ROOT();
	add_workload(0, "web", false);
	fd = listen_as(SOCK_SEQPACKET, 1, 0, "control.sock", 0666);
	assert_true(fd >= 0);
	assert_int_equal(socket_type(fd), SOCK_SEQPACKET);
	assert_int_equal(test_connect(at("w/web/control.sock")), -EPROTOTYPE);
	id = test_id(at("w/web/control.sock"));
	assert_int_equal(listen_as(SOCK_SEQPACKET, 1, 0, "control.sock", 0600), fd); /* the same, with another mode */
	restart_warden();
	fd = listen_as(SOCK_SEQPACKET, 1, 0, "control.sock", 0666);
	assert_int_equal(socket_type(fd), SOCK_SEQPACKET);
	struct file_id again = test_id(at("w/web/control.sock"));
	assert_true(file_id_equal(&id, &again));
	fd = listen_as(SOCK_STREAM, 1, 0, "control.sock", 0666); /* told anew while it runs */
	assert_int_equal(socket_type(fd), SOCK_STREAM);
	restart_warden();
	fd = listen_as(SOCK_SEQPACKET, 1, 0, "control.sock", 0666); /* and over a restart */
	assert_int_equal(socket_type(fd), SOCK_SEQPACKET);
	assert_int_equal(test_connect(at("w/web/control.sock")), -EPROTOTYPE);
}

/* Warden and keeper died together: a new socket is placed over the dead one's name. */
static void test_restart_without_keeper(void **state)
{
	REQUIRE_ROOT();
	add_workload(0, "web", false);
	assert_true(listen_at(1, 0, "redis.sock", 0666) >= 0);
	files_close(&g_files);
	close(take_fd(&g_kept_fd));
	assert_int_equal(test_connect(at("w/web/redis.sock")), -ECONNREFUSED);
	start();
	add_workload(0, "web", false);
	assert_true(listen_at(1, 0, "redis.sock", 0666) >= 0);
	AUTO_FD c = test_connect(at("w/web/redis.sock"));
	assert_true(c >= 0);
}

static void test_route_there_and_back(void **state)
{
	struct file_id gate, server, now;

	REQUIRE_ROOT();
	add_workload(0, "web", false);
	add_workload(1, "redis", true);
	assert_true(listen_at(1, 0, "redis.sock", 0666) >= 0);
	gate = test_id(at("w/web/redis.sock"));
	AUTO_FD s = test_server(at("w/redis/serve/redis.sock"));
	AUTO_FD file = open(at("w/redis/serve/redis.sock"), O_PATH | O_NOFOLLOW | O_CLOEXEC);
	server = test_id(at("w/redis/serve/redis.sock"));
	assert_true(files_can_link(&g_files, file));
	assert_int_equal(files_route(&g_files, 1, file, g_why), 0);
	assert_int_equal(files_route(&g_files, 1, file, g_why), 0); /* twice: rename over itself leaves nothing behind */
	now = test_id(at("w/web/redis.sock"));
	assert_true(file_id_equal(&now, &server));
	AUTO_FD c = test_connect(at("w/web/redis.sock"));
	AUTO_FD a = accept(s, NULL, NULL);
	assert_true(c >= 0 && a >= 0);
	assert_int_equal(files_route(&g_files, 1, -1, g_why), 0);
	now = test_id(at("w/web/redis.sock"));
	assert_true(file_id_equal(&now, &gate));
	assert_int_equal(files_unlisten(&g_files, 1, g_why), 0);
	assert_int_equal(rmdir(at("w/web")), 0); /* empty: no temporary name stayed */
}

/* A server that fills the file system must not keep a name that was taken from it. */
static void test_no_room_fails_closed(void **state)
{
	struct file_id now;
	unsigned n;

	REQUIRE_ROOT();
	files_close(&g_files);
	if (mount("tmpfs", g_dir, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,nr_inodes=32") < 0) {
		start();
		print_message("needs to mount a tmpfs\n");
		skip();
	}
	start();
	add_workload(0, "web", false);
	add_workload(1, "redis", true);
	assert_true(listen_at(1, 0, "redis.sock", 0666) >= 0);
	AUTO_FD s = test_server(at("w/redis/serve/redis.sock"));
	AUTO_FD file = open(at("w/redis/serve/redis.sock"), O_PATH | O_NOFOLLOW | O_CLOEXEC);
	assert_true(s >= 0);
	assert_int_equal(files_route(&g_files, 1, file, g_why), 0);
	AUTO_FD serve = open(at("w/redis/serve"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (n = 0; n < 64; n++) {
		char name[16];

		snprintf(name, sizeof(name), "%u", n);
		if (mknodat(serve, name, S_IFREG | 0600, 0) < 0)
			break;
	}
	assert_true(n > 0 && n < 64);
	/* the name's own room is enough; but not when the server takes that at once, or the gate's socket is gone */
	assert_int_equal(files_route(&g_files, 1, -1, g_why), 0);
	assert_false(files_retry(&g_files));
	assert_int_equal(unlink(at("w/redis/serve/0")), 0);
	assert_int_equal(files_route(&g_files, 1, file, g_why), 0);
	AUTO_FD l = open(at("l"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(renameat(l, test_only_name(l), l, "away"), 0);
	assert_true(files_route(&g_files, 1, -1, g_why) < 0);
	now = test_id(at("w/web/redis.sock"));
	assert_int_equal(now.ino, 0);
	assert_true(files_retry(&g_files));
	assert_int_equal(renameat(l, "away", l, g_only_name), 0);
	assert_false(files_retry(&g_files));
	assert_int_equal(test_connect(at("w/web/redis.sock")) >= 0, true);
	files_close(&g_files);
	close(take_fd(&l));
	close(take_fd(&serve));
	close(take_fd(&file));
	assert_int_equal(umount2(g_dir, MNT_DETACH), 0);
	start();
}

static void test_other_mount_is_not_linkable(void **state)
{
	REQUIRE_ROOT();
	add_workload(0, "web", false);
	assert_true(listen_at(1, 0, "redis.sock", 0666) >= 0);
	AUTO_FD elsewhere = open("/proc/self/status", O_PATH | O_CLOEXEC);
	assert_false(files_can_link(&g_files, elsewhere));
	assert_int_equal(files_route(&g_files, 1, elsewhere, g_why), -EXDEV);
	assert_true(strlen(g_why) > 0);
}

static void test_absolute_path(void **state)
{
	REQUIRE_ROOT();
	assert_true(listen_at(3, ROLE_NO_ID, at("app.sock"), 0660) >= 0);
	AUTO_FD c = test_connect(at("app.sock"));
	assert_true(c >= 0);
	assert_int_equal(files_unlisten(&g_files, 3, g_why), 0);
	assert_int_equal(test_connect(at("app.sock")), -ENOENT);

	/* a file, or the socket of somebody who listens, is not ours to replace */
	AUTO_FD file = open(at("file"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(file >= 0);
	assert_int_equal(listen_at(4, ROLE_NO_ID, at("file"), 0660), -EEXIST);
	AUTO_FD s = test_server(at("server.sock"));
	assert_int_equal(listen_at(5, ROLE_NO_ID, at("server.sock"), 0660), -EADDRINUSE);
	close(take_fd(&s));
	assert_true(listen_at(5, ROLE_NO_ID, at("server.sock"), 0660) >= 0);
}

static void test_remove_hostile_tree(void **state)
{
	REQUIRE_ROOT();
	add_workload(1, "redis", true);
	AUTO_FD precious = open(at("precious"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(precious >= 0);
	assert_int_equal(mkdir(at("w/redis/serve/d"), 0700), 0);
	assert_int_equal(symlink(at("precious"), at("w/redis/serve/d/link")), 0);
	assert_int_equal(symlink(g_dir, at("w/redis/serve/up")), 0);
	assert_int_equal(mkfifo(at("w/redis/serve/fifo"), 0666), 0);
	assert_int_equal(files_remove_workload(&g_files, 1, g_why), 0);
	assert_int_equal(access(at("w/redis"), F_OK), -1);
	assert_int_equal(access(at("precious"), F_OK), 0);
}

static void test_sweep(void **state)
{
	REQUIRE_ROOT();
	add_workload(0, "web", false);
	add_workload(1, "old", false);
	assert_true(listen_at(1, 0, "redis.sock", 0666) >= 0);
	assert_true(listen_at(2, 0, "gone.sock", 0666) >= 0);
	files_close(&g_files);
	start();
	add_workload(0, "web", false);
	assert_true(listen_at(1, 0, "redis.sock", 0666) >= 0);
	files_sweep(&g_files);
	assert_int_equal(access(at("w/web/redis.sock"), F_OK), 0);
	assert_int_equal(access(at("w/web/gone.sock"), F_OK), -1);
	assert_int_equal(access(at("w/old"), F_OK), -1);
}

/* ------------------------------------------------------------------ the confused deputy */

static unsigned g_n_up, g_n_down;
static int g_connected_error, g_connected_sock = -1;
static int g_owner_verdict;

static void on_state(void *arg, const struct server *s)
{
	if (s->up)
		g_n_up++;
	else
		g_n_down++;
}

static int check_owner(void *arg, uint32_t wid, struct identity *who, char *why)
{
	return g_owner_verdict ? why_fail(why, g_owner_verdict, "test") : 0;
}

static void on_connected(void *arg, uint32_t seq, const struct server *s, int error, int sock, const char *why)
{
	g_connected_error = error;
	g_connected_sock = sock;
}

static void open_servers(struct servers *v, struct event_base *base)
{
	g_n_up = g_n_down = 0;
	g_owner_verdict = 0;
	assert_int_equal(servers_open(v, base, &g_files), 0);
	v->on_state = on_state;
	v->check_owner = check_owner;
	v->on_connected = on_connected;
}

static void run_for(struct event_base *base, unsigned ms)
{
	struct timeval tv = { .tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000) * 1000 };

	event_base_loopexit(base, &tv);
	event_base_dispatch(base);
}

/* Until *@n has come so far. */
static void run_until(struct event_base *base, const unsigned *n, unsigned wanted)
{
	uint64_t end = clock_ns() + UINT64_C(20000000000);

	while (*n < wanted && clock_ns() < end)
		run_for(base, 5);
	assert_int_equal(*n, wanted);
}

static void watch(struct servers *v, uint32_t sid, uint32_t wid, const char *path)
{
	struct role_server m = { .sid = sid, .wid = wid, .mode = -1 };

	strcpy(m.path, path);
	assert_int_equal(servers_watch(v, &m, g_why), 0);
}

/* redis owns serve/ and points a link there to a socket that it must not reach: nothing is linked or connected to. */
static void test_confused_deputy_symlink(void **state)
{
	struct event_base *base = event_base_new();
	struct servers v;

	REQUIRE_ROOT();
	add_workload(0, "victim", true);
	add_workload(1, "redis", true);
	AUTO_FD secret = test_server(at("w/victim/serve/secret.sock"));
	assert_int_equal(symlink("../../victim/serve/secret.sock", at("w/redis/serve/redis.sock")), 0);
	assert_int_equal(symlink(at("w/victim/serve"), at("w/redis/serve/dir")), 0);
	open_servers(&v, base);
	watch(&v, 1, 1, "redis.sock");
	watch(&v, 2, 1, "dir/secret.sock");
	run_for(base, 30);
	assert_int_equal(g_n_up, 0);
	servers_connect(&v, 1, 1);
	assert_int_equal(g_connected_error, -ECONNREFUSED);
	servers_connect(&v, 1, 2);
	assert_int_equal(g_connected_error, -ECONNREFUSED);
	fcntl(secret, F_SETFL, O_NONBLOCK);
	assert_int_equal(accept(secret, NULL, NULL), -1); /* nobody ever knocked */
	servers_close(&v);
	event_base_free(base);
}

/* Nor a hard link to another service's socket, nor to one of the daemon's own, nor a FIFO. */
static void test_confused_deputy_inodes(void **state)
{
	struct event_base *base = event_base_new();
	struct servers v;

	REQUIRE_ROOT();
	add_workload(0, "victim", true);
	add_workload(1, "redis", true);
	AUTO_FD secret = test_server(at("w/victim/serve/secret.sock"));
	assert_true(secret >= 0);
	assert_true(listen_at(1, 0, "up.sock", 0666) >= 0);
	open_servers(&v, base);
	watch(&v, 0, 0, "secret.sock");
	assert_int_equal(g_n_up, 1);
	assert_int_equal(link(at("w/victim/serve/secret.sock"), at("w/redis/serve/a.sock")), 0);
	assert_int_equal(link(at("w/victim/up.sock"), at("w/redis/serve/b.sock")), 0);
	assert_int_equal(mkfifo(at("w/redis/serve/c.sock"), 0666), 0);
	watch(&v, 1, 1, "a.sock");
	watch(&v, 2, 1, "b.sock");
	watch(&v, 3, 1, "c.sock");
	run_for(base, 20);
	assert_int_equal(g_n_up, 1);
	servers_close(&v);
	event_base_free(base);
}

/* The name is swapped between a socket and a link to another's, as fast as can be: only the own one is ever reached. */
static void test_confused_deputy_race(void **state)
{
	struct event_base *base = event_base_new();
	struct servers v;
	pid_t swapper;

	REQUIRE_ROOT();
	add_workload(0, "victim", true);
	add_workload(1, "redis", true);
	AUTO_FD secret = test_server(at("w/victim/serve/secret.sock"));
	AUTO_FD own = test_server(at("w/redis/serve/own.sock"));
	fcntl(own, F_SETFL, O_NONBLOCK);
	assert_int_equal(symlink("../../victim/serve/secret.sock", at("w/redis/serve/evil")), 0);
	swapper = fork();
	if (swapper == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		AUTO_FD dir = open(at("w/redis/serve"), O_PATH | O_DIRECTORY);

		for (;;) {
			if (linkat(dir, "own.sock", dir, "t", 0) < 0 || renameat(dir, "t", dir, "redis.sock") < 0 ||
			    unlinkat(dir, "redis.sock", 0) < 0)
				continue;
			if (linkat(dir, "evil", dir, "redis.sock", 0) == 0)
				unlinkat(dir, "redis.sock", 0);
		}
	}
	open_servers(&v, base);
	watch(&v, 1, 1, "redis.sock");
	for (int i = 0; i < 200; i++) {
		run_for(base, 2);
		g_connected_sock = -1;
		servers_connect(&v, 1, 1);
		fd_cleanup(&g_connected_sock);
		for (int c; (c = accept(own, NULL, NULL)) >= 0;)
			close(c);
	}
	test_end_child(swapper);
	fcntl(secret, F_SETFL, O_NONBLOCK);
	assert_int_equal(accept(secret, NULL, NULL), -1);
	servers_close(&v);
	event_base_free(base);
}

static void test_server_comes_and_goes(void **state)
{
	struct event_base *base = event_base_new();
	struct servers v;
	struct server *s;

	REQUIRE_ROOT();
	add_workload(1, "redis", true);
	open_servers(&v, base);
	watch(&v, 1, 1, "redis.sock");
	run_for(base, 20);
	assert_int_equal(g_n_up, 0);
	AUTO_FD own = test_server(at("w/redis/serve/redis.sock"));
	run_until(base, &g_n_up, 1);
	s = servers_find(&v, 1);
	assert_true(s->up && s->linkable);
	assert_int_equal(s->pid, getpid());
	servers_connect(&v, 1, 1);
	assert_int_equal(g_connected_error, 0);
	fd_cleanup(&g_connected_sock);
	/* killed: its file stays, inotify is silent */
	close(take_fd(&own));
	run_until(base, &g_n_down, 1);
	/* the next one: a new inode over the old name */
	assert_int_equal(unlink(at("w/redis/serve/redis.sock")), 0);
	AUTO_FD again = test_server(at("w/redis/serve/redis.sock"));
	assert_true(again >= 0);
	run_until(base, &g_n_up, 2);
	servers_close(&v);
	event_base_free(base);
}

static void test_listener_of_another_workload(void **state)
{
	struct event_base *base = event_base_new();
	struct servers v;

	REQUIRE_ROOT();
	add_workload(1, "redis", true);
	AUTO_FD own = test_server(at("w/redis/serve/redis.sock"));
	assert_true(own >= 0);
	open_servers(&v, base);
	g_owner_verdict = -EPERM;
	watch(&v, 1, 1, "redis.sock");
	run_for(base, 20);
	assert_int_equal(g_n_up, 0);
	g_owner_verdict = 0;
	servers_recheck_workload(&v, 1);
	assert_int_equal(g_n_up, 1);
	g_owner_verdict = -EPERM;
	servers_connect(&v, 1, 1);
	assert_int_equal(g_connected_error, -EPERM);
	assert_int_equal(g_n_down, 1);
	servers_close(&v);
	event_base_free(base);
}

/* Its mode is set when it is proved to be the workload's, and not before. */
static void test_mode_after_proof(void **state)
{
	struct event_base *base = event_base_new();
	struct role_server m = { .sid = 1, .wid = 1, .mode = 0666, .uid = 1234, .gid = 1234, .path = "redis.sock" };
	struct servers v;
	struct stat st;

	REQUIRE_ROOT();
	add_workload(1, "redis", true);
	AUTO_FD own = test_server(at("w/redis/serve/redis.sock"));
	assert_int_equal(chmod(at("w/redis/serve/redis.sock"), 0700), 0);
	assert_true(own >= 0);
	open_servers(&v, base);
	g_owner_verdict = -EPERM;
	assert_int_equal(servers_watch(&v, &m, g_why), 0);
	assert_int_equal(stat(at("w/redis/serve/redis.sock"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	assert_int_equal(st.st_uid, 0);
	g_owner_verdict = 0;
	servers_recheck_workload(&v, 1);
	assert_int_equal(g_n_up, 1);
	assert_int_equal(stat(at("w/redis/serve/redis.sock"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0666);
	assert_int_equal(st.st_uid, 1234);
	/* an absolute path: no link on the way */
	assert_int_equal(symlink("redis", at("w/alias")), 0);
	servers_forget(&v, 1);
	watch(&v, 2, ROLE_NO_ID, at("w/alias/serve/redis.sock"));
	assert_int_equal(g_n_up, 1);
	watch(&v, 2, ROLE_NO_ID, at("w/redis/serve/redis.sock"));
	assert_int_equal(g_n_up, 2);
	assert_int_equal(unlink(at("w/alias")), 0);
	servers_close(&v);
	event_base_free(base);
}

static unsigned g_n_connected, g_n_busy;
static uint32_t g_last_seq;

static void count_connected(void *arg, uint32_t seq, const struct server *s, int error, int sock, const char *why)
{
	g_n_connected += error == 0;
	g_n_busy += error == -EAGAIN;
	if (error == 0) {
		assert_true(seq > g_last_seq);
		g_last_seq = seq;
	}
	fd_cleanup(&sock);
}

static void test_queue_for_a_full_server(void **state)
{
	struct event_base *base = event_base_new();
	uint64_t began, taken_ns;
	struct servers v;

	REQUIRE_ROOT();
	add_workload(1, "redis", true);
	AUTO_FD own = test_server(at("w/redis/serve/redis.sock"));
	open_servers(&v, base);
	v.on_connected = count_connected;
	watch(&v, 1, 1, "redis.sock");
	assert_int_equal(listen(own, 0), 0);
	close(accept(own, NULL, NULL));
	AUTO_FD waiting = test_connect(at("w/redis/serve/redis.sock"));
	assert_true(waiting >= 0);
	g_n_connected = g_n_busy = g_last_seq = 0;
	began = clock_ns();
	for (uint32_t i = 1; i <= 300; i++)
		servers_connect(&v, i, 1);
	assert_int_equal(g_n_busy, 300 - 256); /* those at once */
	for (int i = 0; i < 5; i++) {
		close(accept(own, NULL, NULL));
		run_for(base, 60);
	}
	taken_ns = clock_ns() - began;
	assert_true(g_n_connected >= 4 || taken_ns > UINT64_C(900000000)); /* then their second was over */
	while (g_n_connected + g_n_busy < 300 && clock_ns() - began < UINT64_C(20000000000))
		run_for(base, 20);
	assert_int_equal(g_n_connected + g_n_busy, 300);
	assert_int_equal(v.n_connecting, 0);
	servers_close(&v);
	event_base_free(base);
}

static void test_full_backlog(void **state)
{
	struct event_base *base = event_base_new();
	struct servers v;
	uint64_t began;

	REQUIRE_ROOT();
	add_workload(1, "redis", true);
	AUTO_FD own = test_server(at("w/redis/serve/redis.sock"));
	open_servers(&v, base);
	watch(&v, 1, 1, "redis.sock");
	assert_int_equal(listen(own, 0), 0);
	close(accept(own, NULL, NULL)); /* the warden's own look */
	AUTO_FD waiting = test_connect(at("w/redis/serve/redis.sock"));
	assert_true(waiting >= 0);
	g_connected_error = 1;
	began = clock_ns();
	servers_connect(&v, 1, 1);
	while (g_connected_error == 1 && clock_ns() - began < UINT64_C(20000000000))
		run_for(base, 20);
	assert_int_equal(g_connected_error, -EAGAIN);
	assert_true(clock_ns() - began > 900000000u);
	servers_close(&v);
	event_base_free(base);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_listen_sets_mode_and_owner), TEST(test_bad_paths_are_refused), TEST(test_workload_names),
		TEST(test_long_run_dir), TEST(test_restart_keeps_inodes), TEST(test_restart_without_keeper), TEST(test_control_socket),
		TEST(test_route_there_and_back), TEST(test_no_room_fails_closed),
		TEST(test_other_mount_is_not_linkable), TEST(test_absolute_path),
		TEST(test_remove_hostile_tree), TEST(test_sweep), TEST(test_confused_deputy_symlink),
		TEST(test_confused_deputy_inodes), TEST(test_confused_deputy_race), TEST(test_server_comes_and_goes),
		TEST(test_listener_of_another_workload), TEST(test_full_backlog),
		TEST(test_mode_after_proof), TEST(test_queue_for_a_full_server),
	};

	return cmocka_run_group_tests_name("warden_files", tests, NULL, NULL);
}
