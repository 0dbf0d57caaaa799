/* TCP sockets as the warden makes them for links, what it takes over, and which files it opens. */
#include "daemon/test_warden.h"

#include "base/address.h"
#include "daemon/warden.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

static char g_why[WARDEN_WHY_SIZE];

static struct role_dial dial_to(const char *address)
{
	struct role_dial d = { .timeout_ms = 15000, .congestion = "reno" };

	assert_true(str_copy(d.address, sizeof(d.address), address));
	return d;
}

static int option(int sock, int name)
{
	int value = -1;
	socklen_t n = sizeof(value);

	assert_int_equal(getsockopt(sock, IPPROTO_TCP, name, &value, &n), 0);
	return value;
}

static void assert_options(int sock)
{
	char name[16] = "";
	socklen_t n = sizeof(name);

	assert_int_equal(option(sock, TCP_NODELAY), 1);
	assert_int_equal(option(sock, TCP_USER_TIMEOUT), 15000);
	assert_int_equal(option(sock, TCP_NOTSENT_LOWAT), 128 << 10);
	assert_int_equal(getsockopt(sock, IPPROTO_TCP, TCP_CONGESTION, name, &n), 0);
	assert_string_equal(name, "reno");
	assert_true(fcntl(sock, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(sock, F_GETFD) & FD_CLOEXEC);
}

/*
 * A port that nobody has: bound once, on every address, and let go. Not one that the kernel chooses: those are of the range that it
 * also takes for whoever connects, and another test would have it a moment later.
 */
static void free_address(char buf[LIMIT_ADDRESS_SIZE])
{
	enum { FIRST = 20000, N = 12000 }; /* below net.ipv4.ip_local_port_range as kernels have it */
	static unsigned next;

	if (next == 0)
		next = (unsigned)getpid() * 8; /* tests run side by side */
	for (int i = 0; i < N; i++) {
		unsigned port = FIRST + next++ % N;
		struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
		AUTO_FD sock = socket(AF_INET, SOCK_STREAM, 0);

		if (bind(sock, (struct sockaddr *)&a, sizeof(a)) < 0)
			continue;
		snprintf(buf, LIMIT_ADDRESS_SIZE, "127.0.0.1:%u", port);
		return;
	}
	fail_msg("no port from %d to %d is free", FIRST, FIRST + N);
}

static void forget_all(struct warden_link *l)
{
	struct kept *k, *next;

	HASH_ITER(hh, l->listening, k, next)
		kept_remove(&l->listening, k->name);
}

static void test_listen_and_dial(void **state)
{
	struct warden_link l = { 0 };
	char address[LIMIT_ADDRESS_SIZE];
	struct role_dial d;
	AUTO_FD client = -1;
	AUTO_FD server = -1;
	int sock = -1, again = -1;
	bool is_new = false;

	free_address(address);
	d = dial_to(address);
	assert_int_equal(tcp_listen(&l, &d, -1, &sock, &is_new, g_why), 0);
	assert_true(is_new);
	assert_options(sock);
	assert_int_equal(tcp_dial(&l, &d, &client, g_why), 0);
	assert_options(client);
	assert_int_equal(poll(&(struct pollfd){ .fd = sock, .events = POLLIN }, 1, 10000), 1);
	server = accept4(sock, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	assert_true(server >= 0);
	assert_options(server); /* inherited */
	/* Asked again, as a reload does: the same socket with the options of now. */
	d.timeout_ms = 20000;
	assert_int_equal(tcp_listen(&l, &d, -1, &again, &is_new, g_why), 0);
	assert_int_equal(again, sock);
	assert_false(is_new);
	assert_int_equal(option(sock, TCP_USER_TIMEOUT), 20000);
	forget_all(&l);
}

/* What the keeper held for a daemon before us: whoever dialled meanwhile has waited there. */
static void test_adopted(void **state)
{
	struct warden_link first = { 0 }, next = { 0 };
	char address[LIMIT_ADDRESS_SIZE];
	struct role_dial d;
	AUTO_FD client = -1;
	AUTO_FD server = -1;
	int sock = -1, kept, adopted = -1;
	bool is_new = true;

	free_address(address);
	d = dial_to(address);
	assert_int_equal(tcp_listen(&first, &d, -1, &sock, &is_new, g_why), 0);
	kept = fcntl(sock, F_DUPFD_CLOEXEC, 0);
	forget_all(&first);
	assert_int_equal(tcp_dial(&next, &d, &client, g_why), 0);
	assert_int_equal(tcp_listen(&next, &d, kept, &adopted, &is_new, g_why), 0);
	assert_false(is_new);
	assert_int_equal(adopted, kept);
	assert_int_equal(poll(&(struct pollfd){ .fd = adopted, .events = POLLIN }, 1, 10000), 1);
	server = accept4(adopted, NULL, NULL, SOCK_CLOEXEC);
	assert_true(server >= 0);
	forget_all(&next);
}

/* Something else under that name is closed, and a socket of our own made. */
static void test_not_adopted(void **state)
{
	struct warden_link l = { 0 }, other = { 0 };
	char address[LIMIT_ADDRESS_SIZE], another[LIMIT_ADDRESS_SIZE];
	struct role_dial d, o;
	int sock = -1, kept;
	bool is_new = false;

	free_address(address);
	free_address(another);
	d = dial_to(address);
	o = dial_to(another);
	assert_int_equal(tcp_listen(&other, &o, -1, &sock, &is_new, g_why), 0);
	kept = fcntl(sock, F_DUPFD_CLOEXEC, 0);
	assert_int_equal(tcp_listen(&l, &d, kept, &sock, &is_new, g_why), 0);
	assert_true(is_new);
	forget_all(&l);
	is_new = false;
	assert_int_equal(tcp_listen(&l, &d, memfd_create("no socket", MFD_CLOEXEC), &sock, &is_new, g_why), 0);
	assert_true(is_new);
	forget_all(&l);
	forget_all(&other);
}

static void test_what_cannot_be(void **state)
{
	struct warden_link l = { 0 };
	struct role_dial d = dial_to("host:7443");
	char address[LIMIT_ADDRESS_SIZE];
	AUTO_FD taken = -1;
	int sock = -1;
	bool is_new;

	assert_int_equal(tcp_dial(&l, &d, &sock, g_why), -EINVAL);
	assert_non_null(strstr(g_why, "\"host:7443\" is no address"));
	d = dial_to("192.0.2.1:7443"); /* of a documentation network, so of no machine */
	assert_int_equal(tcp_listen(&l, &d, -1, &sock, &is_new, g_why), -EADDRNOTAVAIL);
	assert_non_null(strstr(g_why, "does not have the address"));
	free_address(address);
	d = dial_to(address);
	struct sockaddr_storage a;
	socklen_t size;
	assert_int_equal(address_parse(address, &a, &size), 0);
	taken = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(taken, (struct sockaddr *)&a, size), 0);
	assert_int_equal(listen(taken, 1), 0);
	assert_int_equal(tcp_listen(&l, &d, -1, &sock, &is_new, g_why), -EADDRINUSE);
	assert_non_null(strstr(g_why, "another program does"));
	assert_null(l.listening);
	/* An unknown congestion control is no reason to have no link. */
	close(take_fd(&taken));
	strcpy(d.congestion, "nosuch");
	assert_int_equal(tcp_listen(&l, &d, -1, &sock, &is_new, g_why), 0);
	forget_all(&l);
}

/* Another address with the same port, while a linker and the keeper still have the socket; and back. */
static void test_port_moves(void **state)
{
	struct warden_link l = { 0 };
	char one[LIMIT_ADDRESS_SIZE], all[LIMIT_ADDRESS_SIZE];
	int sock = -1;
	bool is_new;

	free_address(one);
	snprintf(all, sizeof(all), "0.0.0.0%s", strrchr(one, ':'));
	for (int i = 0; i < 4; i++) {
		const char *from = i % 2 == 0 ? one : all;
		struct role_dial d = dial_to(from);
		int of_linker;

		assert_int_equal(tcp_listen(&l, &d, -1, &sock, &is_new, g_why), 0);
		of_linker = fcntl(sock, F_DUPFD_CLOEXEC, 0);
		tcp_unlisten(&l, from);
		assert_null(l.listening);
		d = dial_to(i % 2 == 0 ? all : one);
		assert_int_equal(tcp_listen(&l, &d, -1, &sock, &is_new, g_why), 0);
		tcp_unlisten(&l, d.address);
		close(of_linker);
	}
	tcp_unlisten(&l, one); /* not there: nothing */
}

/* The configuration says another address than it did to the daemon before, whose socket the keeper has. */
static void test_port_of_the_daemon_before(void **state)
{
	struct warden_link before = { 0 }, l = { 0 };
	struct keeper_link k = { .chan = { .fd = -1 } };
	char one[LIMIT_ADDRESS_SIZE], other[LIMIT_ADDRESS_SIZE], all[LIMIT_ADDRESS_SIZE], key[LIMIT_ADDRESS_SIZE + sizeof(WARDEN_TCP_PREFIX)];
	struct role_dial d;
	int sock = -1, of_keeper;
	bool is_new;

	free_address(one);
	free_address(other);
	snprintf(all, sizeof(all), "0.0.0.0%s", strrchr(one, ':'));
	d = dial_to(one);
	assert_int_equal(tcp_listen(&before, &d, -1, &sock, &is_new, g_why), 0);
	of_keeper = fcntl(sock, F_DUPFD_CLOEXEC, 0);
	assert_int_equal(kept_put(&k.kept, tcp_key(key, one), fcntl(sock, F_DUPFD_CLOEXEC, 0)), 0);
	d = dial_to(other);
	assert_int_equal(tcp_listen(&before, &d, -1, &sock, &is_new, g_why), 0);
	assert_int_equal(kept_put(&k.kept, tcp_key(key, other), fcntl(sock, F_DUPFD_CLOEXEC, 0)), 0);
	forget_all(&before);
	d = dial_to(all);
	assert_int_equal(tcp_listen(&l, &d, -1, &sock, &is_new, g_why), -EADDRINUSE);
	assert_true(tcp_release_port(&k, all));
	assert_int_equal(tcp_listen(&l, &d, -1, &sock, &is_new, g_why), 0);
	assert_false(tcp_release_port(&k, all));
	sock = keeper_take(&k, tcp_key(key, other)); /* another port is not touched */
	assert_true(sock >= 0);
	close(sock);
	close(of_keeper);
	forget_all(&l);
}

static void test_ipv6(void **state)
{
	struct warden_link l = { 0 };
	struct role_dial d = dial_to("[::1]:39743");
	int sock = -1, on = 0;
	socklen_t n = sizeof(on);
	bool is_new;
	int r = tcp_listen(&l, &d, -1, &sock, &is_new, g_why);

	if (r == -EAFNOSUPPORT || r == -EADDRNOTAVAIL)
		skip(); /* a machine without IPv6 */
	assert_int_equal(r, 0);
	assert_int_equal(getsockopt(sock, IPPROTO_IPV6, IPV6_V6ONLY, &on, &n), 0);
	assert_int_equal(on, 1);
	forget_all(&l);
}

/* ------------------------------------------------------------------ certificates */

struct found {
	char names[16][64];
	size_t n;
};

static void found_one(void *arg, const char *name, int fd)
{
	struct found *f = arg;
	char byte;

	assert_true(f->n < ARRAY_SIZE(f->names));
	snprintf(f->names[f->n++], sizeof(f->names[0]), "%s", name);
	assert_int_equal(pread(fd, &byte, 1, 0), 1);
	assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
}

static void put_file(const char *dir, const char *name, size_t size)
{
	char path[256];
	AUTO_FD fd = -1;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, "x", 1), 1);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
}

static bool has(const struct found *f, const char *name)
{
	for (size_t i = 0; i < f->n; i++)
		if (strcmp(f->names[i], name) == 0)
			return true;
	return false;
}

static void test_certificates(void **state)
{
	static const char *const names[] = { "roots.pem", "host.crt", "host.key", "default.web.crt", "default.web.key" };
	char dir[] = "/tmp/sealane-certs.XXXXXX", path[256], cmd[300];
	struct found f = { .n = 0 };

	assert_non_null(mkdtemp(dir));
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		put_file(dir, names[i], 100);
	put_file(dir, "README", 10);
	put_file(dir, ".host.crt", 10); /* as editors and tools leave behind */
	put_file(dir, "other.pem", 10);
	assert_int_equal(certificates_read(dir, found_one, &f, g_why), 0);
	assert_int_equal(f.n, ARRAY_SIZE(names));
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		assert_true(has(&f, names[i]));
	put_file(dir, "large.crt", LIMIT_CHAIN_SIZE + 1);
	assert_int_equal(certificates_read(dir, found_one, &(struct found){ .n = 0 }, g_why), -EFBIG);
	assert_non_null(strstr(g_why, "large.crt"));
	snprintf(path, sizeof(path), "%s/large.crt", dir);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(certificates_read(dir, found_one, &(struct found){ .n = 0 }, g_why), -EINVAL);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	assert_int_equal(system(cmd), 0);
	assert_int_equal(certificates_read(dir, found_one, &f, g_why), -ENOENT);
	assert_int_equal(certificates_read("relative", found_one, &f, g_why), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_listen_and_dial),
		cmocka_unit_test(test_adopted),
		cmocka_unit_test(test_not_adopted),
		cmocka_unit_test(test_what_cannot_be),
		cmocka_unit_test(test_port_moves),
		cmocka_unit_test(test_port_of_the_daemon_before),
		cmocka_unit_test(test_ipv6),
		cmocka_unit_test(test_certificates),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
