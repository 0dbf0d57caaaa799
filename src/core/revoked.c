#include "core/revoked.h"

#include <inttypes.h>
#include <stdio.h>

char *revoked_version_format(char *ret, const struct revoked_version *v)
{
	snprintf(ret, REVOKED_VERSION_SIZE, "%" PRIu64 "-%" PRIu64, v->epoch, v->counter);
	return ret;
}

int revoked_version_parse(struct revoked_version *ret, const char *text)
{
	struct revoked_version v = {};
	char again[REVOKED_VERSION_SIZE];

	/* What has another spelling than ours (signs, blanks, zeros in front, too large) is told by writing it again. */
	if (strnlen(text, REVOKED_VERSION_SIZE) >= REVOKED_VERSION_SIZE ||
	    sscanf(text, "%" SCNu64 "-%" SCNu64, &v.epoch, &v.counter) != 2 || strcmp(revoked_version_format(again, &v), text) != 0)
		return -EINVAL;
	*ret = v;
	return 0;
}

bool revoked_version_supersedes(const struct revoked_version *offered, const struct revoked_version *have)
{
	return offered->epoch != have->epoch || offered->counter > have->counter;
}
