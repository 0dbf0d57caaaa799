/* How an unprivileged role leaves root: shared by the roles that run as options->user. */
#ifndef DAEMON_ROLE_USER_H
#define DAEMON_ROLE_USER_H

#include "base/util.h"

/*
 * role_leave_root() - become @user (NULL: "sealane" if there is one, else "nobody"), or, when not root, stay who we are.
 * no_new_privs either way. Reads the user database and the time zone, so it comes before isolate_paths().
 * Return: 0; -ENOENT: no such user; other negative errno.
 */
MUST_CHECK int role_leave_root(const char *user);

#endif
