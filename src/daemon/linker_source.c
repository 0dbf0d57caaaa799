/*
 * Theory of operation: whom sessions come from, or go to: everybody at one address is one source, and of IPv6 everybody in one /64, since whoever has
 * an address there has them all. What sessions take before anybody has proven anything (linker_peer.c), and what their lanes
 * keep (linker_kept.c), is counted for their source, so that who takes the most is known when there is too little.
 *
 * A source is there as long as a session or a lane refers to it, so there are never more than those. Who connects chooses its address to some
 * degree, so the table's hash has a key that is drawn at the start.
 */
#include "daemon/linker_int.h"

#include "base/address.h"

#include <arpa/inet.h>

/* An IPv4 address in the form of the upper half of an IPv6 address that nobody has (0::/8 is reserved). */
#define IPV4 (UINT64_C(1) << 32)

static uint64_t key_of(const struct sockaddr_storage *a)
{
	const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)a;
	const struct sockaddr_in *four = (const struct sockaddr_in *)a;
	uint64_t key = 0;

	if (a->ss_family == AF_INET)
		return IPV4 | ntohl(four->sin_addr.s_addr);
	if (a->ss_family == AF_INET6)
		for (int i = 0; i < 8; i++)
			key = key << 8 | six->sin6_addr.s6_addr[i];
	return key;
}

static unsigned hash_of(const struct linker *k, uint64_t key)
{
	uint64_t h = (key ^ k->source_secret[0]) * (k->source_secret[1] | 1);

	h = (h ^ h >> 32) * (k->source_secret[0] | 1);
	return (unsigned)(h >> 32);
}

struct source *source_get(struct linker *k, const struct sockaddr_storage *a)
{
	uint64_t key = key_of(a);
	unsigned hash = hash_of(k, key);
	struct source *s = NULL;

	HASH_FIND_BYHASHVALUE(hh, k->sources, &key, sizeof(key), hash, s);
	if (s)
		return source_ref(s);
	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->key = key;
	s->refs = 1;
	HASH_ADD_BYHASHVALUE(hh, k->sources, key, sizeof(s->key), hash, s);
	return s;
}

struct source *source_of_text(struct linker *k, const char *address)
{
	struct sockaddr_storage a = {};
	socklen_t size;

	if (address_parse(address, &a, &size) < 0)
		a = (struct sockaddr_storage){};
	return source_get(k, &a);
}

struct source *source_ref(struct source *s)
{
	s->refs++;
	return s;
}

void source_unref(struct linker *k, struct source *s)
{
	if (!s || --s->refs > 0)
		return;
	HASH_DEL(k->sources, s);
	free(s);
}

struct source *source_greatest(struct linker *k)
{
	struct source *most = NULL;

	for (struct source *s = k->sources; s; s = s->hh.next)
		if (!most || s->kept_size > most->kept_size)
			most = s;
	return most;
}
