/*
 * Addresses of other hosts: "10.0.0.2:7443", "[fd00::2]:7443". Numbers only: no role resolves names, so that what a host's
 * address is cannot be changed by whoever answers for a name.
 *
 * Pure; no I/O. Trust: any text may be given.
 */
#ifndef BASE_ADDRESS_H
#define BASE_ADDRESS_H

#include "base/util.h"

#include <sys/socket.h>

/* address_parse() - Return: 0, with @ret and its size in *ret_size; -EINVAL: not an address and a port from 1 to 65535. */
MUST_CHECK int address_parse(const char *text, struct sockaddr_storage *ret, socklen_t *ret_size);

/* address_format() - as address_parse() takes it, into @buf of LIMIT_ADDRESS_SIZE; "" for other families. Returns @buf. */
char *address_format(char *buf, const struct sockaddr_storage *a);

/* address_same_host() - do both texts name the same host, whatever the ports? False if one of them is no address. */
bool address_same_host(const char *a, const char *b);

#endif
