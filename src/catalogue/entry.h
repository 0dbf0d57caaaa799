/*
 * What stands in the catalogue: keys below the prefix, and their values (docs/design/catalogue.md). The only code that reads or
 * writes either; the role that got them from the network and the broker both use it.
 *
 * Pure; no I/O. Trust: any key and any value may be given; fuzzed (tests/fuzz/fuzz_etcd.c).
 */
#ifndef CATALOGUE_ENTRY_H
#define CATALOGUE_ENTRY_H

#include "core/announce.h"
#include "core/policy.h"

enum { ENTRY_ID_SIZE = 256, ENTRY_EPOCH_SIZE = 33, ENTRY_BY_SIZE = 160 };

enum entry_kind {
	ENTRY_OTHER, /* a key that is none of ours */
	ENTRY_EPOCH,
	ENTRY_HOST,
	ENTRY_SERVICE,
	ENTRY_INTENTION,
	ENTRY_KIND_N
};

/* Which data this is: etcd's own cluster id comes back after its disks were wiped. */
struct entry_epoch {
	char epoch[ENTRY_EPOCH_SIZE]; /* 32 hex digits */
	uint64_t generation;	      /* 1 or more */
};

struct entry {
	enum entry_kind kind;
	/* from the key */
	char host[LIMIT_NAME_SIZE];   /* ENTRY_HOST, ENTRY_SERVICE */
	struct service_name service;  /* ENTRY_SERVICE */
	char id[ENTRY_ID_SIZE];	      /* ENTRY_INTENTION */
	/* from the value */
	char address[LIMIT_ADDRESS_SIZE]; /* ENTRY_HOST; "": it takes no links */
	bool up;
	unsigned kinds; /* ENTRY_SERVICE: enum offer_kind, as in struct announced */
	uint32_t lanes;
	struct intention intention; /* origin and where are filled in when it is read */
	struct entry_epoch epoch;
	char by[ENTRY_BY_SIZE]; /* ENTRY_EPOCH, ENTRY_INTENTION: who and when, for people */
};

const char *entry_kind_name(enum entry_kind k); /* "host" */

/* entry_parse_key() - clears @ret; ret->kind is ENTRY_OTHER for a key that is to be ignored. */
void entry_parse_key(struct entry *ret, const char *key);

/* entry_parse_value() - after entry_parse_key(), not for ENTRY_OTHER. Return: 0; -EBADMSG: no value of such a key; -ENOMEM. */
MUST_CHECK int entry_parse_value(struct entry *e, const char *value, size_t size);

/* entry_parse() - both, of terminated texts. Return: 0; -ENOENT: ENTRY_OTHER; -EBADMSG; -ENOMEM. */
MUST_CHECK int entry_parse(struct entry *ret, const char *key, const char *value);

/* entry_format_key() - into @buf of LIMIT_CATALOGUE_KEY_SIZE. Returns @buf. */
char *entry_format_key(char *buf, const struct entry *e);

/* entry_format_value() - into @buf of LIMIT_CATALOGUE_VALUE_SIZE, what entry_parse_value() reads. Return: 0, -EMSGSIZE or -ENOMEM. */
MUST_CHECK int entry_format_value(char *buf, const struct entry *e);

/* entry_intention_id() - the ID that sealane itself gives an intention: "NS.NAME:NS.NAME". @buf: ENTRY_ID_SIZE. Returns @buf. */
char *entry_intention_id(char *buf, const struct service_pattern *source, const struct service_pattern *destination);

#endif
