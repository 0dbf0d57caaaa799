#include "daemon/signer_files.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <sys/stat.h>

/* Root's in a real daemon; whoever runs it in a test. */
static bool is_ours_alone(const struct stat *st)
{
	return st->st_uid == geteuid() && (st->st_mode & 077) == 0;
}

int signer_dir_open(const char *state_dir)
{
	AUTO_FD state = open(state_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	AUTO_FD dir = -1;
	struct stat st;

	if (state < 0)
		return -errno;
	if (mkdirat(state, "keys", 0700) < 0 && errno != EEXIST)
		return -errno;
	dir = openat(state, "keys", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0)
		return -errno;
	if (fstat(dir, &st) < 0)
		return -errno;
	return is_ours_alone(&st) ? take_fd(&dir) : -EPERM;
}

bool signer_file_exists(int dir_fd, const char *name)
{
	struct stat st;

	return fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* @size bytes, or as many as there are. */
static ssize_t read_all(int fd, char *buf, size_t size)
{
	size_t at = 0;

	while (at < size) {
		ssize_t n = pread(fd, buf + at, size - at, (off_t)at);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			break;
		if (n > 0)
			at += (size_t)n;
	}
	return (ssize_t)at;
}

int signer_text_read(int fd, char **ret, size_t *ret_size)
{
	AUTO_FREE(char) text = NULL;
	struct stat st;
	ssize_t n;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EPERM;
	if (st.st_size > LIMIT_CHAIN_SIZE)
		return -EFBIG;
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return -ENOMEM;
	n = read_all(fd, text, (size_t)st.st_size);
	if (n < 0) {
		OPENSSL_cleanse(text, (size_t)st.st_size);
		return (int)n;
	}
	text[n] = '\0';
	*ret = take_ptr(text);
	*ret_size = (size_t)n;
	return 0;
}

int signer_file_read(int dir_fd, const char *name, char **ret, size_t *ret_size)
{
	/* Not blocking, should somebody have put a FIFO there. */
	AUTO_FD fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0)
		return errno == ELOOP ? -EPERM : -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!is_ours_alone(&st))
		return -EPERM;
	return signer_text_read(fd, ret, ret_size);
}

static int write_all(int fd, const char *text, size_t size)
{
	while (size > 0) {
		ssize_t n = write(fd, text, size);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			text += n;
			size -= (size_t)n;
		}
	}
	return fsync(fd) < 0 ? -errno : 0;
}

int signer_file_write(int dir_fd, const char *name, const char *text, size_t size)
{
	char temporary[LIMIT_PATH_SIZE];
	AUTO_FD fd = -1;
	int r;

	if ((size_t)snprintf(temporary, sizeof(temporary), "%s.new", name) >= sizeof(temporary))
		return -ENAMETOOLONG;
	unlinkat(dir_fd, temporary, 0); /* of one who was killed here */
	fd = openat(dir_fd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	r = write_all(fd, text, size);
	if (r == 0 && renameat(dir_fd, temporary, dir_fd, name) < 0)
		r = -errno;
	if (r < 0)
		unlinkat(dir_fd, temporary, 0);
	else if (fsync(dir_fd) < 0)
		r = -errno;
	return r;
}
