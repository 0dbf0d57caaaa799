#include "daemon/role_user.h"

#include "base/isolate.h"

#include <pwd.h>

static const struct passwd *find_user(const char *user)
{
	const struct passwd *pw;

	if (user)
		return getpwnam(user);
	pw = getpwnam("sealane");
	return pw ? pw : getpwnam("nobody");
}

int role_leave_root(const char *user)
{
	const struct passwd *pw;

	tzset(); /* the first time stamp of a log line would open /etc/localtime */
	if (geteuid() != 0)
		return isolate_user(geteuid(), getegid());
	pw = find_user(user);
	if (!pw)
		return -ENOENT;
	return isolate_user(pw->pw_uid, pw->pw_gid);
}
