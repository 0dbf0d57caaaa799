/*
 * What the files about certificates say to each other (broker_signer.c: the channel to the signer; broker_ca.c: keys and certificates
 * of this host; broker_member.c: joining, questions to the authority; broker_roots.c: what a root of ours has signed; broker_authority.c: the authority; broker_ca_files.c: an external
 * one; broker_ca_views.c: what people are shown), and what the admin interface asks of them. What links ask: broker_link.h.
 *
 * Threads: the broker's one.
 */
#ifndef DAEMON_BROKER_CA_H
#define DAEMON_BROKER_CA_H

#include "core/svid.h"
#include "daemon/broker.h"
#include "daemon/ca_wire.h"

#include <jansson.h>

/* --- for the admin interface --- */

/* @json: the answer, borrowed; NULL with an error. Otherwise as broker_done_fn. */
typedef void (*ca_done_fn)(void *arg, int error, const char *why, json_t *json);

struct ca_token_ask {
	char host[LIMIT_NAME_SIZE];
	char services[STATE_SERVICES_SIZE]; /* patterns, with blanks between */
	int64_t for_s;
	char address[LIMIT_ADDRESS_SIZE]; /* "": as configured */
};

/* authority_init() - make (or find again) the root; this host is the authority from now on. Answers {trust_domain, host, root_sha256, ...}. */
void authority_init(struct broker *b, ca_done_fn done, void *arg);
/* How much of a token's name people see and say: its first half is said in the open anyway. */
enum { CA_TOKEN_ID_DIGITS = 8 };
/* authority_token() - answers {token, id, host, address, expires, notes}. */
void authority_token(struct broker *b, const struct ca_token_ask *a, ca_done_fn done, void *arg);
/*
 * authority_token_withdraw() - open tokens of the host @what, or the one whose ID begins so, let nobody in from now on. Answers {withdrawn, hosts}.
 * -ENOENT: there is none.
 */
void authority_token_withdraw(struct broker *b, const char *what, ca_done_fn done, void *arg);
/* authority_grant() answers {ok, notes}. authority_grant(), authority_ungrant() - @host may have certificates for @pattern, or no longer. */
void authority_grant(struct broker *b, const char *host, const struct service_pattern *pattern, ca_done_fn done, void *arg);
void authority_ungrant(struct broker *b, const char *host, const struct service_pattern *pattern, ca_done_fn done, void *arg);
/* authority_revoke(), authority_unrevoke() - @what: "host/b", "ns/name", "ns/name@b", how a serial begins, a SPIFFE ID. -ENOENT: there is no such thing. */
void authority_revoke(struct broker *b, const char *what, ca_done_fn done, void *arg);
void authority_unrevoke(struct broker *b, const char *what, ca_done_fn done, void *arg);
/*
 * authority_rotate_root() - a second root: trusted by members as soon as they have the next list, signing after @after_s (< 0: as long as a host's
 * certificate lives), alone once what the first one signed is over. Answers {root_sha256, signs}.
 * authority_retire_root() - the one that does not sign any more, or not yet, is not trusted from now on. @now: also if certificates by it may be good.
 */
void authority_rotate_root(struct broker *b, int64_t after_s, ca_done_fn done, void *arg);
void authority_retire_root(struct broker *b, bool now, ca_done_fn done, void *arg);
/* member_join() - @again: also if this host has joined already. Answers {trust_domain, host, authority, address, not_after}. */
void member_join(struct broker *b, const char *token, bool again, ca_done_fn done, void *arg);

/* ca_view_certificates(), ca_view_authority(), ca_view_tokens() - new references; NULL: out of memory. */
json_t *ca_view_certificates(struct broker *b);
json_t *ca_view_authority(struct broker *b);
/* ca_view_tokens() - those that are open; without their secrets. */
json_t *ca_view_tokens(struct broker *b);

/* Why a certificate is not there, or was not renewed. */
enum ca_failure {
	CA_OK,
	CA_NOT_JOINED,
	CA_UNREACHABLE, /* no session to the authority */
	CA_DENIED,	/* the authority says no */
	CA_CLOCK,	/* what there is is not valid by our own clock */
	CA_MALFORMED,	/* what came is not what was asked for */
	CA_SIGNER,	/* the signer, or memory */
	CA_STATE,	/* it cannot be kept */
	CA_FILES,	/* an external authority's files are not as they should be */
	CA_FAILURE_N
};
const char *ca_failure_name(enum ca_failure f);

/* ca_failures() - how often since the start, by reason. */
const uint64_t *ca_failures(void);
/* ca_each_expiry() - the certificates that this host has. */
void ca_each_expiry(struct broker *b, void (*fn)(void *arg, const char *spiffe_id, int64_t not_after), void *arg);

/* Certificates at a glance. Times are Unix seconds; 0: none. Texts are borrowed until the next turn of the loop. */
struct ca_status {
	const char *source; /* "none": not joined; "self": this host is the authority; "authority"; "files" */
	size_t n_wanted, n_usable; /* this host's own and its services'; those that linkers may show now */
	int64_t host_not_after, first_not_after; /* this host's own; the one that ends first */
	const char *authority; /* the host that is asked; "": none is */
	int64_t heard_unix_s;  /* when it answered last, yes or no; since the daemon's start */
	const char *why;       /* why it could not be asked since; "": it could */
	int64_t list_made_unix_s; /* what it says of roots and of what is revoked, as of when; 0: not known */
	bool list_stale;	  /* older than LIMIT_CA_LIST_AGE_S */
};
struct ca_status ca_status(struct broker *b);

/* --- broker_signer.c --- */

/* @fd: came with the reply, owned by the callback; -1 without. r->error is -EPIPE if the signer went before it answered. */
typedef void (*signer_fn)(struct broker *b, void *arg, const struct role_signed *r, int fd);
/* signer_open() - @fd: its channel, taken. What was asked of an earlier one gets its -EPIPE now. */
void signer_open(struct broker *b, int *fd);
bool signer_is_up(void);
/* signer_ask() - seq is set here. @fd: goes along, borrowed; -1. Without a signer @fn is called before this returns. */
void signer_ask(struct broker *b, struct role_msg *m, int fd, signer_fn fn, void *arg);
/* signer_tell() - what has no reply. */
void signer_tell(struct broker *b, struct role_msg *m, int fd);

/* --- broker_ca.c --- */

/* A certificate that this host has, and its key at the signer. */
struct ca_pair {
	uint32_t kid;			 /* ROLE_NO_ID: none */
	char key[STATE_KEY_NAME_SIZE];	 /* the signer's name for it */
	char *pem;			 /* owned */
	struct svid svid;
	int64_t issued_unix_s;
	bool loaded; /* the signer has the key under this kid: linkers may use it */
	int key_fd;  /* owned: an external authority's .key file, on its way to the signer; -1 */
};
#define CA_NO_PAIR ((struct ca_pair){ .kid = ROLE_NO_ID, .key_fd = -1 })

/* What this host needs a certificate for: itself, and each of its services. */
struct credential {
	char name[LIMIT_SERVICE_SIZE]; /* "host", or "ns/name" */
	struct service_name service;   /* empty: this host */
	bool wanted;
	struct ca_pair now;
	bool renewing;
	struct ca_pair next; /* renewing: its kid, key and point; no certificate yet */
	int64_t renew_unix_s;
	uint64_t retry_ns; /* not before */
	unsigned n_failed; /* in a row */
	enum ca_failure failure;
	char why[256];
	bool told_expired;
	bool hidden; /* a service's that is revoked: linkers do not have it */
	UT_hash_handle hh;
};

struct ca {
	bool loaded;	   /* the state was read */
	bool member;	   /* .membership is valid */
	bool external;	   /* `certificates` is configured */
	uint32_t generation; /* counted up when this host belongs to another authority: what was asked of the one before, or checked, counts no more */
	bool disagrees;	   /* the configuration names this host, or the trust domain, otherwise than the membership */
	struct state_membership membership; /* .roots is .roots_pem */
	char *roots_pem;   /* owned; also of an external authority; NULL: none */
	char trust_domain[LIMIT_TRUST_DOMAIN_SIZE]; /* in use */
	struct credential *credentials; /* by name */
	bool linkers[LIMIT_LINKERS]; /* which run */
	uint64_t failures[CA_FAILURE_N];
};
extern struct ca g_ca;

struct credential *ca_find(const char *name);
/* ca_new_kid(), ca_key_name() - for a new key: a number of its own, and the slot that the certificate in use does not have. */
uint32_t ca_new_kid(void);
void ca_key_name(const struct credential *c, char ret[STATE_KEY_NAME_SIZE]);
/* ca_id() - its SPIFFE ID into @buf of LIMIT_SPIFFE_ID_SIZE. Returns @buf. */
char *ca_id(char *buf, const struct credential *c);
/*
 * ca_take() - @pem is the certificate for c->next's key: check, keep and use it. Return: CA_OK, or why not with a line in c->why;
 * c->next is over in any case.
 */
enum ca_failure ca_take(struct broker *b, struct credential *c, const char *pem);
/* ca_failed() - told, counted, tried again later. */
void ca_failed(struct broker *b, struct credential *c, enum ca_failure f, const char *why);
/* ca_become() - @m is what this host belongs to from now on, @m->roots included; kept in the state by the caller. */
int ca_become(struct broker *b, const struct state_membership *m);
/* ca_reload() - this host belongs to another authority now: take all anew from the state. */
void ca_reload(struct broker *b);
/* ca_tell_trust() - BL_TRUST to all linkers. ca_soon() - look at once what is due. */
void ca_tell_trust(struct broker *b);
void ca_soon(struct broker *b);
/* ca_forget_key() - now, everywhere. */
void ca_forget_key(struct broker *b, uint32_t kid);
/* ca_show() - tell all linkers the credential in use. */
void ca_show(struct broker *b, const struct credential *c);
/* ca_on_revoked() - the list is another one: linkers have of this host's services what is not on it. */
void ca_on_revoked(struct broker *b);
/* ca_text_fd() - a memfd with @size bytes; -1: no memory. ca_read_fd(): back, NUL-terminated, owned; NULL: too large, or no memory. */
int ca_text_fd(const char *text, size_t size);
char *ca_read_fd(int fd, size_t max, size_t *ret_size);

/* --- revocations (broker_revoked.c): the authority's own, or as it told us --- */

/* revoked_load() - at the start: the state's list; an authority begins an epoch. revoked_reload() - the state's was changed. */
MUST_CHECK int revoked_load(struct broker *b);
MUST_CHECK int revoked_reload(struct broker *b);
/* revoked_forget() - there is no authority of ours now; the state keeps its list. */
void revoked_forget(void);
/* As revoked_list_has_id(), revoked_list_find(), revoked_list_before(), revoked_list_each() (core/revoked.h). */
bool revoked_has_id(const char *spiffe_id);
const char *revoked_find(const char *spiffe_id, const char *serial, int64_t not_before);
int64_t revoked_before(const char *spiffe_id, const char *host);
int revoked_each(int (*fn)(void *arg, const char *line), void *arg);
/* revoked_word() - a line of it as people say it, "host/b", "prod/web@b", into @ret of REVOKED_LINE_SIZE. Returns @ret. */
char *revoked_word(char *ret, const char *line);
/* revoked_size() - of its text, in bytes. */
size_t revoked_size(void);
/* revoked_replace() - with what the authority told; kept. Return: 0 or negative errno, then nothing changed. */
MUST_CHECK int revoked_replace(struct broker *b, const struct ca_answer *a);
/* revoked_tell() - BL_REVOKED. @linker: ROLE_NO_ID: to all. */
void revoked_tell(struct broker *b, uint32_t linker);

/* --- broker_roots.c: what a root that this host has signed --- */

struct roots_signed {
	uint8_t digest[32];
	uint8_t root[32]; /* SHA-256 of that root's certificate; unless ... */
	bool any_root;
	uint8_t signature[SIGNATURE_SIZE];
	uint8_t signature_size;
};
/* @error: 0; -EKEYREJECTED: no; other negative errno: it cannot be told now. @why: a line for people. */
typedef void (*roots_fn)(struct broker *b, void *arg, int error, const char *why);
/* roots_check(), roots_check_certificate() - @fn is called once, perhaps before this returns. */
void roots_check(struct broker *b, const struct roots_signed *what, roots_fn fn, void *arg);
void roots_check_certificate(struct broker *b, const char *pem, roots_fn fn, void *arg);
/* roots_take_list() - @a: the authority's answer. Checked, and in force if it is news; @fn as above, -EBADMSG: it does not count. */
void roots_take_list(struct broker *b, const struct ca_answer *a, roots_fn fn, void *arg);
/* roots_load() - this host belongs to an authority (anew): from the state. Return: 0 or negative errno. */
MUST_CHECK int roots_load(struct broker *b);
/* roots_tick() - tell it when the list becomes too old, and when that is over. */
void roots_tick(struct broker *b);
bool roots_list_is_stale(void);
/* roots_list_made() - by the authority's clock, Unix seconds, as was last signed; 0: not known. */
int64_t roots_list_made(void);

/* --- broker_member.c --- */

/* member_renew() - ask for c->next's certificate; ends in ca_take() or ca_failed(). */
void member_renew(struct broker *b, struct credential *c);
/* member_tick() - the list of what is revoked, questions that take too long. Return: when to come again, in ms. */
unsigned member_tick(struct broker *b);
void member_on_ready(struct broker *b, const struct role_ca *m);
void member_on_answer(struct broker *b, const struct role_ca *m, int fd);
void member_on_linker_lost(struct broker *b, uint32_t linker);
/* member_on_signer() - it knows no key yet. */
void member_on_signer(void);
/* member_denied() - why a member's authority does not give it the list, as it said last: it is revoked; "": it does. Borrowed. */
const char *member_denied(void);
/* member_authority() - whom a member asks. @why: borrowed, see ca_status. Return: when that one answered last. */
int64_t member_authority(const struct broker *b, const char **ret_host, const char **ret_why);

/* --- broker_authority_admin.c --- */

/* ca_token_is_open() - may it still be used? */
bool ca_token_is_open(const struct state_token *t);

/* authority_is_here() - is this host the authority? false: no, and @done was called. */
bool authority_is_here(ca_done_fn done, void *arg);
/*
 * authority_withdraw() - open tokens of @host give no @pattern from now on; NULL: they are over. @ret_n: how many were changed; may be NULL.
 * Return: 0 or negative errno; part of the caller's transaction, if there is one.
 */
MUST_CHECK int authority_withdraw(struct broker *b, const char *host, const struct service_pattern *pattern, unsigned *ret_n);

/* --- broker_authority.c --- */

/* authority_took_back() - just this from @host? Then no token gives it again: `ca grant` and `ca unrevoke` do. Return: 0, 1; negative errno. */
MUST_CHECK int authority_took_back(struct broker *b, const char *host, const struct service_pattern *pattern);

void authority_on_ask(struct broker *b, uint32_t linker, const struct role_ca *m, int fd);
void authority_on_linker_lost(struct broker *b, uint32_t linker);
/* authority_renew() - as member_renew(), where the authority is this host. */
void authority_renew(struct broker *b, struct credential *c);
/* authority_host_life_s() - how long a host's certificate lives, in seconds: the longest that there are. */
int64_t authority_host_life_s(const struct broker *b);

/* --- broker_book.c: what the authority issues, and how much of it --- */

/* What is new is valid from so long ago, for clocks that are late. */
enum { CA_BACKDATE_S = 300 };

/*
 * book_admits() - may a question of @host, which has joined, go to the signer? NULL: yes, and book_answered() when nothing of it is there any more; else the
 * answer's error, and a line in @why.
 */
const char *book_admits(struct broker *b, const char *host, char *why, size_t size);
void book_answered(const char *host);
/* book_admits_list() - may @host, as a linker says, be sent the list? NULL: yes, and it is counted; else the answer's error, and a line in @why. */
const char *book_admits_list(const char *host, char *why, size_t size);
/* book_refuses() - may @host be given another certificate now? NULL: yes, and it is counted; else the answer's error, and a line in @why. */
const char *book_refuses(struct broker *b, const char *host, char *why, size_t size);
/* book_begin() - a serial and a notBefore for i->spiffe_id, to be issued to @host. Return: 0; -EIO; -ETIME: it would not be valid yet. */
MUST_CHECK int book_begin(struct role_issue *i, const char *host);
/* book_is_revoked() - is it, as it would be issued? */
bool book_is_revoked(const struct role_issue *i);
/* book_add() - it was issued; kept. Return: 0 or negative errno. */
MUST_CHECK int book_add(struct broker *b, const char *host, const struct role_issue *i);

/* --- broker_authority_roots.c --- */

/* authority_on_signer() - a signer has to find its roots before it issues. */
void authority_on_signer(struct broker *b);
/* authority_root_slot() - of the root that signs certificates now. */
uint8_t authority_root_slot(void);
/* authority_root_slots() - those that lists are signed by: the slot of each, and .root of @ret_signatures. Return: how many. */
size_t authority_root_slots(uint8_t slots[ROLE_ROOT_SLOTS], struct ca_list_signature ret_signatures[ROLE_ROOT_SLOTS]);
/* authority_load_roots() - this host is an authority (anew): from the state. Return: 0 or negative errno. */
MUST_CHECK int authority_load_roots(struct broker *b);
/* authority_tick() - what a change of roots has to do by now. Return: when to come again, in ms. */
unsigned authority_tick(struct broker *b);
/* authority_roots_view() - {other_root_sha256, signs, retires} for people, each or null. New reference; NULL: no memory. */
json_t *authority_roots_view(void);

/* --- broker_ca_files.c --- */

/* files_apply() - begin to read c->link.certificates, or read it again. */
void files_apply(struct broker *b);
unsigned files_tick(struct broker *b);
/* files_on_file() - WB_FILE. @fd: taken if wanted. */
void files_on_file(struct broker *b, const char *name, int *fd);

#endif
