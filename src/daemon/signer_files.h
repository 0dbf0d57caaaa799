/*
 * STATE/keys: where the signer keeps private keys. One directory, 0700, with files of 0600, all of root and of nobody else; a file is
 * there whole or not at all, whenever the power goes.
 *
 * STATE itself belongs to the daemon's user, so what is found there is looked at before it is trusted: a directory or a file that
 * is not ours alone is an error that is told, never used and never put right in silence.
 *
 * Names ("host.key") are the caller's, which has checked them: one component, no dot first. Texts are at most LIMIT_CHAIN_SIZE.
 */
#ifndef DAEMON_SIGNER_FILES_H
#define DAEMON_SIGNER_FILES_H

#include "base/limits.h"
#include "base/util.h"

/* signer_dir_open() - open STATE/keys, made if it is not there. Return: a descriptor; -EPERM: it is not ours alone; other negative errno. */
MUST_CHECK int signer_dir_open(const char *state_dir);

/* signer_file_exists() - is there something of that name? */
bool signer_file_exists(int dir_fd, const char *name);

/*
 * signer_file_read() - the whole file. *ret: free() it after OPENSSL_cleanse(*ret, *ret_size).
 * Return: 0; -ENOENT; -EPERM: not a plain file of ours that nobody else may read; -EFBIG; other negative errno.
 */
MUST_CHECK int signer_file_read(int dir_fd, const char *name, char **ret, size_t *ret_size);

/* signer_text_read() - the same from a descriptor that somebody else opened (borrowed); -EPERM: no plain file. */
MUST_CHECK int signer_text_read(int fd, char **ret, size_t *ret_size);

/* signer_file_write() - make or replace it; on the disk when this returns. Failure leaves the old one as it was. Return: 0 or negative errno. */
MUST_CHECK int signer_file_write(int dir_fd, const char *name, const char *text, size_t size);

#endif
