#include "daemon/config_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

static const char *const g_defaults[] = { "/etc/sealane/sealane.conf", "/etc/sealane/conf.d" };

/* Regular files only: a FIFO or a device in a configuration directory would block the daemon. */
static int read_text(int fd, char **ret_text, size_t *ret_size)
{
	AUTO_FREE(char) text = NULL;
	struct stat st;
	size_t size = 0;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
	if (st.st_size > LIMIT_CONFIG_SIZE)
		return -EFBIG;
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return -ENOMEM;
	while (size < (size_t)st.st_size) {
		ssize_t n = read(fd, text + size, (size_t)st.st_size - size);

		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		size += (size_t)n;
	}
	text[size] = '\0';
	*ret_text = take_ptr(text);
	*ret_size = size;
	return 0;
}

static int add_file(struct config_files *c, int dirfd, const char *dir, const char *name)
{
	struct config_file *f;
	int n, fd;

	if (c->n == CONFIG_FILES_MAX)
		return -E2BIG;
	f = &c->files[c->n++];
	*f = (struct config_file){ 0 };
	n = snprintf(f->path, sizeof(f->path), "%s%s%s", dir, dir[0] ? "/" : "", name);
	fd = openat(dirfd, name, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (n < 0 || (size_t)n >= sizeof(f->path))
		f->error = -ENAMETOOLONG;
	else
		f->error = fd < 0 ? -errno : read_text(fd, &f->text, &f->size);
	fd_cleanup(&fd);
	return 0;
}

/* What was named and holds nothing: told as a file that cannot be read, so that a reload keeps what is in force. */
static int add_missing(struct config_files *c, const char *path, int error)
{
	struct config_file *f;

	if (c->n == CONFIG_FILES_MAX)
		return -E2BIG;
	f = &c->files[c->n++];
	*f = (struct config_file){ .error = error };
	if (!str_copy(f->path, sizeof(f->path), path))
		f->error = -ENAMETOOLONG;
	return 0;
}

static int is_config_name(const struct dirent *e)
{
	static const char *const endings[] = { ".conf", ".hcl", ".json" };
	size_t n = strlen(e->d_name);

	for (size_t i = 0; i < ARRAY_SIZE(endings) && e->d_name[0] != '.'; i++) {
		size_t k = strlen(endings[i]);

		if (n > k && strcmp(e->d_name + n - k, endings[i]) == 0)
			return 1;
	}
	return 0;
}

static int add_dir(struct config_files *c, int dirfd, const char *dir, bool optional)
{
	struct dirent **names = NULL;
	int n = scandirat(dirfd, ".", &names, is_config_name, alphasort);
	int r = n < 0 ? add_missing(c, dir, -errno) : 0;

	if (n == 0 && !optional)
		r = add_missing(c, dir, -ENODATA);
	for (int i = 0; i < n; i++) {
		if (r == 0)
			r = add_file(c, dirfd, dir, names[i]->d_name);
		free(names[i]);
	}
	free(names);
	return r;
}

static int add_path(struct config_files *c, const char *path, bool optional)
{
	AUTO_FD fd = open(path, O_PATH | O_CLOEXEC);
	struct stat st;

	if (fd < 0 && errno == ENOENT && optional)
		return 0;
	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
		return add_dir(c, fd, path, optional);
	return add_file(c, AT_FDCWD, "", path);
}

int config_files_read(struct config_files *c, const struct daemon_options *o)
{
	int r = 0;

	*c = (struct config_files){ .files = calloc(CONFIG_FILES_MAX, sizeof(*c->files)) };
	if (!c->files)
		return -ENOMEM;
	for (size_t i = 0; r == 0 && i < o->n_config_paths; i++)
		r = add_path(c, o->config_paths[i], false);
	for (size_t i = 0; r == 0 && o->n_config_paths == 0 && i < ARRAY_SIZE(g_defaults); i++)
		r = add_path(c, g_defaults[i], true);
	/* Neither: a daemon must not take that for "no workloads" and, at a reload, remove them all. */
	return r == 0 && c->n == 0 ? add_missing(c, g_defaults[0], -ENOENT) : r;
}

void config_files_free(struct config_files *c)
{
	for (size_t i = 0; i < c->n; i++)
		free(c->files[i].text);
	free(c->files);
	*c = (struct config_files){ 0 };
}
