/*
 * Names of services: "ns/name", their patterns in intentions, and their SPIFFE IDs.
 *
 * A name or a namespace is one DNS label (RFC 1123: a-z, 0-9, '-', not first or last, at most 63). Text from users:
 * "redis" means "DEFAULT-NAMESPACE/redis". No I/O here.
 */
#ifndef CORE_NAME_H
#define CORE_NAME_H

#include "base/limits.h"
#include "base/util.h"

struct service_name {
	char ns[LIMIT_NAME_SIZE];
	char name[LIMIT_NAME_SIZE];
};

/* How much a pattern says; higher wins. */
enum pattern_rank { PATTERN_ANY, PATTERN_NAMESPACE, PATTERN_EXACT };

// "*" (both empty), "ns/*" (name empty), "ns/name". A line comment, since the block kind would end in the star and slash.
struct service_pattern {
	enum pattern_rank rank;
	struct service_name service; /* unused parts are all zero, so that patterns can be compared and hashed as bytes */
};

/* label_is_valid() - one DNS label? */
bool label_is_valid(const char *s);

/* service_name_parse() - "ns/name" or "name" (then @default_ns). Return: 0 or -EINVAL. */
MUST_CHECK int service_name_parse(struct service_name *ret, const char *text, const char *default_ns);

// service_pattern_parse() - the same, and "*", "ns/*"; "*/*" is "*". Return: 0 or -EINVAL.
MUST_CHECK int service_pattern_parse(struct service_pattern *ret, const char *text, const char *default_ns);

bool service_name_equal(const struct service_name *a, const struct service_name *b);

/* service_name_format() - "ns/name" into @buf of LIMIT_SERVICE_SIZE. Returns @buf. */
char *service_name_format(char *buf, const struct service_name *s);
char *service_pattern_format(char *buf, const struct service_pattern *p);

/* spiffe_id_format() - spiffe://TRUST-DOMAIN/ns/NAMESPACE/svc/NAME into @buf of LIMIT_SPIFFE_ID_SIZE. Returns @buf. */
char *spiffe_id_format(char *buf, const char *trust_domain, const struct service_name *s);

/* trust_domain_is_valid() - SPIFFE-ID section 2.1: lower-case letters, digits, '.', '-', '_', at most 253. */
bool trust_domain_is_valid(const char *s);

#endif
