/* What the warden's tests share: a directory and cgroups of their own, sockets, children. Root only. */
#ifndef DAEMON_TEST_WARDEN_H
#define DAEMON_TEST_WARDEN_H

#include <setjmp.h>
#include <stdarg.h>

#include "daemon/warden_path.h"

#include <cmocka.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define REQUIRE_ROOT()                                                       \
	do {                                                                 \
		if (geteuid() != 0) {                                        \
			print_message("needs root: owners, cgroups, /proc\n"); \
			skip();                                              \
		}                                                            \
	} while (0)

static inline void test_dir(char buf[64])
{
	strcpy(buf, "/tmp/test_warden.XXXXXX");
	assert_non_null(mkdtemp(buf));
}

static inline void test_dir_remove(const char *dir)
{
	AUTO_FD tmp = open("/tmp", O_PATH | O_DIRECTORY | O_CLOEXEC);

	assert_int_equal(path_remove_tree(tmp, strrchr(dir, '/') + 1), 0);
}

static inline struct file_id test_id(const char *path)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return (struct file_id){ 0 };
	return (struct file_id){ .dev = st.st_dev, .ino = st.st_ino };
}

/* A listening stream socket at @path, as a server makes it. */
static inline int test_server(const char *path)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(str_copy(sun.sun_path, sizeof(sun.sun_path), path));
	assert_int_equal(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	assert_int_equal(listen(fd, 128), 0);
	return fd;
}

/* Return: a connected socket, or negative errno. */
static inline int test_connect(const char *path)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	AUTO_FD fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(str_copy(sun.sun_path, sizeof(sun.sun_path), path));
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0)
		return -errno;
	return take_fd(&fd);
}

static inline void test_end_child(pid_t pid)
{
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

#endif
