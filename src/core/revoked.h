/*
 * The list of what is revoked (docs/design/link.md, "Joining, certificates, revocation"): its version, its lines, and which certificates it
 * means. The authority writes it; brokers and linkers look into it. No I/O.
 *
 * Trust: every text may come from another host; fuzzed (tests/fuzz/fuzz_revoked.c).
 */
#ifndef CORE_REVOKED_H
#define CORE_REVOKED_H

#include "core/name.h"

/*
 * Which list it is. The authority draws the epoch at random at each start, and counts the changes within it: so a database that was
 * restored cannot give a version a second time to other content. Between two epochs no order is known: that a list is the authority's
 * own of now is for its signature to say, not for its version.
 */
struct revoked_version {
	uint64_t epoch; /* 0: there is no list yet */
	uint64_t counter;
};

enum {
	REVOKED_VERSION_SIZE = 20 + 1 + 20 + 1,
	REVOKED_SERIAL_SIZE = 2 * 20 + 1, /* hexadecimal, lower case */
	/* The longest line: "before:TIME:ID@HOST" with the NUL. */
	REVOKED_LINE_SIZE = 7 + 20 + 1 + LIMIT_SPIFFE_ID_SIZE + LIMIT_NAME_SIZE,
	/*
	 * A serial that our authority gives: random bytes, nearly the 64 bits that the CA/Browser Forum asks for, then SERIAL_HOST_SIZE
	 * bytes that say to which host. So what was issued to a host is known by its serials, also when the book that lists them is lost.
	 */
	SERIAL_RANDOM_SIZE = 8,
	SERIAL_HOST_SIZE = 8,
	SERIAL_SIZE = SERIAL_RANDOM_SIZE + SERIAL_HOST_SIZE,
};

/* revoked_version_format() - "EPOCH-COUNTER", decimal, into @ret of REVOKED_VERSION_SIZE. Returns @ret. */
char *revoked_version_format(char *ret, const struct revoked_version *v);
/* revoked_version_parse() - back; each version has one spelling. Return: 0 or -EINVAL. */
MUST_CHECK int revoked_version_parse(struct revoked_version *ret, const char *text);
/* revoked_version_supersedes() - does a member that has @have take @offered? Of another epoch always, of the same one if it is higher. */
bool revoked_version_supersedes(const struct revoked_version *offered, const struct revoked_version *have);

/* serial_make() - of a certificate that is issued to @host. @random: as many bytes as SERIAL_RANDOM_SIZE says. */
void serial_make(uint8_t ret[SERIAL_SIZE], const uint8_t random[SERIAL_RANDOM_SIZE], const char *host);
/* serial_is_of_host() - @serial: hexadecimal. */
bool serial_is_of_host(const char *serial, const char *host);
/* serial_host_part() - the digits of @serial that say to which host, the same in all that it was issued; NULL: it has not the form of ours. Borrowed. */
const char *serial_host_part(const char *serial);

enum revoked_kind {
	REVOKED_SERIAL, /* "serial:HEX": one certificate */
	REVOKED_ID,	/* "id:ID": every certificate for this SPIFFE ID; a host's: every one that was issued to the host, its services' too */
	REVOKED_BEFORE, /* "before:TIME:ID@HOST": those for a service's ID, issued to HOST, that are valid from a moment before TIME */
};

struct revocation {
	enum revoked_kind kind;
	int64_t before_unix_s;	       /* REVOKED_BEFORE */
	char host[LIMIT_NAME_SIZE];    /* REVOKED_BEFORE; REVOKED_ID of a host; else "" */
	char what[LIMIT_SPIFFE_ID_SIZE]; /* the serial, or the SPIFFE ID */
};

/* revocation_parse() - one line, without its end; each entry has one spelling. Return: 0 or -EINVAL. */
MUST_CHECK int revocation_parse(struct revocation *ret, const char *line);
/* revocation_format() - into @ret of REVOKED_LINE_SIZE. Returns @ret. */
char *revocation_format(char *ret, const struct revocation *e);

struct revoked_list;

/* revoked_list_new() - an empty one, owned by the caller; NULL: out of memory. */
struct revoked_list *revoked_list_new(void);
struct revoked_list *revoked_list_free(struct revoked_list *l);
/* revoked_list_add() - one line; one that is there already changes nothing. Return: 0; -EINVAL: it is none; -E2BIG: LIMIT_REVOKED; -ENOMEM. */
MUST_CHECK int revoked_list_add(struct revoked_list *l, const char *line);
/* revoked_list_parse() - of @text, a line each; *ret owned by the caller. Return: 0; -EBADMSG; -E2BIG; -ENOMEM. */
MUST_CHECK int revoked_list_parse(struct revoked_list **ret, const char *text, size_t size);
/* revoked_list_n() - its lines; revoked_list_size() - bytes of their text, with the ends of lines. */
size_t revoked_list_n(const struct revoked_list *l);
size_t revoked_list_size(const struct revoked_list *l);
/* revoked_list_each() - every line as it was added, in that order; stops at non-zero, returns it. */
int revoked_list_each(const struct revoked_list *l, int (*fn)(void *arg, const char *line), void *arg);

/*
 * revoked_list_find() - is this certificate revoked? @serial: hexadecimal; @not_before: its own, Unix seconds.
 * Return: the line that says so, valid until the list is freed; NULL: it is not.
 */
const char *revoked_list_find(const struct revoked_list *l, const char *spiffe_id, const char *serial, int64_t not_before);
/* revoked_list_has_id() - is this name on it, whatever its certificate? */
bool revoked_list_has_id(const struct revoked_list *l, const char *spiffe_id);
/* revoked_list_before() - certificates for @spiffe_id that are issued to @host have to be valid from this moment on, or later; 0: any. */
int64_t revoked_list_before(const struct revoked_list *l, const char *spiffe_id, const char *host);

#endif
