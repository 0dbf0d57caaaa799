/*
 * What a host tells others that it offers (docs/design/link.md, ANNOUNCE): a line a service, "ns/name up|down LANES\n".
 *
 * Pure; no I/O. Trust: announce_parse() reads what another host sent; fuzzed (tests/fuzz/fuzz_announce.c).
 */
#ifndef CORE_ANNOUNCE_H
#define CORE_ANNOUNCE_H

#include "core/name.h"

struct announced {
	struct service_name service;
	bool up;
	uint32_t lanes; /* open to it, as its host counts them */
};

/*
 * announce_parse() - strictly: every line whole, of that form and no other, each service once.
 * *ret: in order of name, owned by the caller (free()); NULL for none.
 * Return: 0; -EBADMSG; -E2BIG: more than LIMIT_SERVICES; -ENOMEM.
 */
MUST_CHECK int announce_parse(const char *text, size_t size, struct announced **ret, size_t *ret_n);

/* announce_find() - in what announce_parse() returned; NULL: it is not offered. */
const struct announced *announce_find(const struct announced *list, size_t n, const struct service_name *service);

/* announce_format() - one line into @buf of ANNOUNCE_LINE_SIZE. Returns its length. */
enum { ANNOUNCE_LINE_SIZE = LIMIT_SERVICE_SIZE + 24 };
size_t announce_format(char *buf, const struct announced *a);

#endif
