#include "base/address.h"

#include "base/limits.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>

/* Digits only, no sign, no leading zero: one text for one port. */
static int port_parse(const char *s, in_port_t *ret)
{
	size_t n = strlen(s);
	unsigned long v;

	if (n < 1 || n > 5 || strspn(s, "0123456789") != n || s[0] == '0')
		return -EINVAL;
	v = strtoul(s, NULL, 10);
	if (v > UINT16_MAX)
		return -EINVAL;
	*ret = htons((uint16_t)v);
	return 0;
}

/* The last colon parts host and port; an IPv6 address has colons of its own, hence its brackets. */
static int split(const char *text, char host[LIMIT_ADDRESS_SIZE], const char **ret_port, bool *ret_v6)
{
	const char *colon = strrchr(text, ':');
	size_t n = colon ? (size_t)(colon - text) : 0;
	bool v6 = text[0] == '[';

	if (n < 3 || n >= LIMIT_ADDRESS_SIZE || (v6 && text[n - 1] != ']'))
		return -EINVAL;
	n -= v6 ? 2 : 0;
	memcpy(host, text + v6, n);
	host[n] = '\0';
	*ret_port = colon + 1;
	*ret_v6 = v6;
	return 0;
}

int address_parse(const char *text, struct sockaddr_storage *ret, socklen_t *ret_size)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
	char host[LIMIT_ADDRESS_SIZE];
	const char *port;
	bool is_v6;
	int r = split(text, host, &port, &is_v6);

	if (r == 0)
		r = port_parse(port, is_v6 ? &v6.sin6_port : &v4.sin_port);
	if (r < 0)
		return r;
	if (inet_pton(is_v6 ? AF_INET6 : AF_INET, host, is_v6 ? (void *)&v6.sin6_addr : (void *)&v4.sin_addr) != 1)
		return -EINVAL;
	memset(ret, 0, sizeof(*ret));
	*ret_size = is_v6 ? sizeof(v6) : sizeof(v4);
	memcpy(ret, is_v6 ? (void *)&v6 : (void *)&v4, *ret_size);
	return 0;
}

char *address_format(char *buf, const struct sockaddr_storage *a)
{
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)a;
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)a;
	char host[INET6_ADDRSTRLEN];

	buf[0] = '\0';
	if (a->ss_family == AF_INET && inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host)))
		snprintf(buf, LIMIT_ADDRESS_SIZE, "%s:%u", host, ntohs(v4->sin_port));
	if (a->ss_family == AF_INET6 && inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host)))
		snprintf(buf, LIMIT_ADDRESS_SIZE, "[%s]:%u", host, ntohs(v6->sin6_port));
	return buf;
}

bool address_same_host(const char *a, const char *b)
{
	struct sockaddr_storage sa, sb;
	socklen_t na, nb;

	if (address_parse(a, &sa, &na) < 0 || address_parse(b, &sb, &nb) < 0 || sa.ss_family != sb.ss_family)
		return false;
	if (sa.ss_family == AF_INET)
		return memcmp(&((struct sockaddr_in *)&sa)->sin_addr, &((struct sockaddr_in *)&sb)->sin_addr, 4) == 0;
	return memcmp(&((struct sockaddr_in6 *)&sa)->sin6_addr, &((struct sockaddr_in6 *)&sb)->sin6_addr, 16) == 0;
}
