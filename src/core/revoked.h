/*
 * The list of what is revoked (docs/design/link.md, "Joining, certificates, revocation"): its version. No I/O.
 * Trust: every text may come from another host; fuzzed (tests/fuzz/fuzz_revoked.c).
 */
#ifndef CORE_REVOKED_H
#define CORE_REVOKED_H

#include "base/limits.h"
#include "base/util.h"

/*
 * Which list it is. The authority draws the epoch at random at each start, and counts the changes within it: so a database that was
 * restored cannot give a version a second time to other content. Between two epochs no order is known: that a list is the authority's
 * own of now is for its signature to say, not for its version.
 */
struct revoked_version {
	uint64_t epoch; /* 0: there is no list yet */
	uint64_t counter;
};

enum { REVOKED_VERSION_SIZE = 20 + 1 + 20 + 1 };

/* revoked_version_format() - "EPOCH-COUNTER", decimal, into @ret of REVOKED_VERSION_SIZE. Returns @ret. */
char *revoked_version_format(char *ret, const struct revoked_version *v);
/* revoked_version_parse() - back; each version has one spelling. Return: 0 or -EINVAL. */
MUST_CHECK int revoked_version_parse(struct revoked_version *ret, const char *text);
/* revoked_version_supersedes() - does a member that has @have take @offered? Of another epoch always, of the same one if it is higher. */
bool revoked_version_supersedes(const struct revoked_version *offered, const struct revoked_version *have);

#endif
