/*
 * What a host tells others that it offers (docs/design/link.md, ANNOUNCE): a line a service, "ns/name up|down LANES[ KINDS]\n". KINDS, of
 * a service that is up: for which lanes, "socket,streams,messages" or a part of it in this order; not there: "socket" alone.
 *
 * Pure; no I/O. Trust: announce_parse() reads what another host sent; fuzzed (tests/fuzz/fuzz_announce.c).
 */
#ifndef CORE_ANNOUNCE_H
#define CORE_ANNOUNCE_H

#include "core/name.h"

/* For which lanes a service is up: bits. Those of libsealane need a program that listens for that kind. */
enum offer_kind { OFFER_SOCKET = 1 << 0, OFFER_STREAMS = 1 << 1, OFFER_MESSAGES = 1 << 2, OFFER_KINDS_ALL = (1 << 3) - 1 };

struct announced {
	struct service_name service;
	bool up;
	unsigned kinds; /* enum offer_kind; not 0 if it is up, else 0 */
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
enum { OFFER_KINDS_SIZE = sizeof("socket,streams,messages"), ANNOUNCE_LINE_SIZE = LIMIT_SERVICE_SIZE + 24 + OFFER_KINDS_SIZE };
size_t announce_format(char *buf, const struct announced *a);

/* offer_kinds_format() - "socket,messages" into @buf of OFFER_KINDS_SIZE. Returns @buf. */
char *offer_kinds_format(char *buf, unsigned kinds);

/* offer_kinds_parse() - exactly what offer_kinds_format() writes of one or more. Return: 0 or -EBADMSG. */
MUST_CHECK int offer_kinds_parse(const char *text, unsigned *ret);

#endif
