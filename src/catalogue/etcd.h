/*
 * etcd's v3 interface as JSON (its gRPC gateway, etcd 3.4 and later): requests to be posted, answers as they are to be read.
 *
 * Pure; no I/O. Trust: an answer may be anything; fuzzed (tests/fuzz/fuzz_etcd.c). Bytes stand there as base64, 64-bit numbers as
 * texts, members that are zero are missing.
 */
#ifndef CATALOGUE_ETCD_H
#define CATALOGUE_ETCD_H

#include "base/limits.h"
#include "base/util.h"

enum { ETCD_WHY_SIZE = 256, ETCD_TOKEN_SIZE = 1024, ETCD_TXN_OPS = 64 };

struct etcd_header {
	uint64_t cluster_id, revision; /* 0: not told */
};

/* A key below the prefix, without it. Good while the callback runs. */
struct etcd_kv {
	const char *key;
	const char *value; /* terminated; NULL: gone, or (unusable) longer than LIMIT_CATALOGUE_VALUE_SIZE - 1, or with a NUL inside */
	size_t size;
	bool gone, unusable;
	uint64_t mod_revision, lease;
};
typedef void (*etcd_kv_fn)(void *arg, const struct etcd_kv *kv);

/* Requests. Each text is free()d by the caller; NULL: no memory. */

/* etcd_build_range() - @limit keys below @prefix. @from: "" for the first page, else next_from of the one before. @revision 0: now. */
char *etcd_build_range(const char *prefix, const char *from, unsigned limit, uint64_t revision);
char *etcd_build_watch(const char *prefix, uint64_t start_revision);
char *etcd_build_auth(const char *user, const char *password);
char *etcd_build_grant(uint32_t ttl_s);
char *etcd_build_keepalive(uint64_t lease);

struct etcd_op {
	const char *key;   /* below the prefix */
	const char *value; /* NULL: delete */
	uint64_t lease;	   /* 0: none */
};
/* etcd_build_txn() - all of @ops. @if_key not NULL: only if its mod_revision is @if_revision (0: it is not there). */
char *etcd_build_txn(const char *prefix, const struct etcd_op *ops, size_t n, const char *if_key, uint64_t if_revision);

/* Answers with status 200. Return: 0; -EBADMSG: no such answer; -ENOMEM. Outputs are set on success only. */

struct etcd_page {
	struct etcd_header header;
	size_t n;
	bool more;
	char *next_from; /* with `more`: for the next page; owned by the caller */
};
/* etcd_parse_range() - @fn for each key below @prefix that is short enough to be ours. */
MUST_CHECK int etcd_parse_range(struct etcd_page *ret, const char *text, size_t size, const char *prefix, etcd_kv_fn fn, void *arg);

struct etcd_watch {
	struct etcd_header header;
	bool created, cancelled;
	bool compacted;
	char why[ETCD_WHY_SIZE]; /* with cancelled */
};
/* etcd_parse_watch() - one line of a watch. */
MUST_CHECK int etcd_parse_watch(struct etcd_watch *ret, const char *text, size_t size, const char *prefix, etcd_kv_fn fn, void *arg);

MUST_CHECK int etcd_parse_auth(char ret_token[ETCD_TOKEN_SIZE], const char *text, size_t size);
MUST_CHECK int etcd_parse_grant(uint64_t *ret_lease, const char *text, size_t size);
/* etcd_parse_keepalive() - *ret_ttl_s 0: the lease is gone. */
MUST_CHECK int etcd_parse_keepalive(int64_t *ret_ttl_s, const char *text, size_t size);
MUST_CHECK int etcd_parse_txn(bool *ret_succeeded, const char *text, size_t size);

/* What an answer with another status, or a watch's reason to end, asks of us. */
enum etcd_fault {
	ETCD_FAULT_RETRY,   /* here or at another endpoint, later */
	ETCD_FAULT_TOKEN,   /* authenticate again */
	ETCD_FAULT_LEASE,   /* the lease is gone */
	ETCD_FAULT_REFUSED, /* a person has to do something: *ret_why says what */
	ETCD_FAULT_N
};
/* etcd_judge() - @status 0: a reason in words only. @why: one line for people, without control characters. */
enum etcd_fault etcd_judge(long status, const char *text, size_t size, char why[ETCD_WHY_SIZE]);

#endif
