/*
 * What the broker does for links (docs/design/link.md): which hosts there are and what they offer (broker_link.c), the lanes that go
 * out (broker_carry.c) and that come in (broker_welcome.c), and which keys and certificates this host has, and where there is one, the
 * authority (broker_ca.c). Part of broker_int.h.
 *
 * Threads: the broker's one. Trust: what a linker says of another host is hostile: names and numbers are looked up, texts parsed.
 */
#ifndef DAEMON_BROKER_LINK_H
#define DAEMON_BROKER_LINK_H

#include "core/announce.h"
#include "daemon/broker.h"

struct opening; /* broker_lane.c: a client that a gate accepted */

/* --- broker_link.c: hosts, sessions --- */

/* Who says that there is a host. What the configuration says of it counts before the catalogue's. */
enum link_from { LINK_FROM_CONFIG, LINK_FROM_CATALOGUE, LINK_FROM_N };

enum link_host_state { LINK_HOST_UNKNOWN /* not reached yet */, LINK_HOST_UP, LINK_HOST_DOWN, LINK_HOST_STATE_N };

/* Another host. Made by link_host_set(), gone with the last of those who said it. */
struct link_host {
	uint32_t hid; /* never used twice while the daemon runs */
	char name[LIMIT_NAME_SIZE];
	char addresses[LINK_FROM_N][LIMIT_ADDRESS_SIZE]; /* "": that one says nothing of it */
	char address[LIMIT_ADDRESS_SIZE];		 /* the one that counts */
	char rdma[LIMIT_ADDRESS_SIZE];			 /* where its device is, as the configuration says; "": at address */
	enum link_host_state state;			 /* of the session between hosts */
	uint32_t reason;				 /* enum session_reason: why it is not up; SESSION_OK: not tried yet */
	char why[256];
	int64_t since_unix_s;	  /* of state */
	int64_t heard_unix_s;	  /* a sign of life, while the session between hosts does not stand; 0: never */
	int64_t told_unix_s[SESSION_REASON_N]; /* when a failure for that reason was logged last */
	uint64_t n_untold[SESSION_REASON_N];   /* and how many were not since */
	int64_t bad_told_unix_s; /* the same of announcements that do not read */
	uint64_t n_bad_untold;
	uint64_t session;	  /* key of the session between hosts; 0: none */
	bool announced;		  /* `offers` is what it said on a session that still stands, or (not up) on the last one */
	struct announced *offers; /* in order of name */
	size_t n_offers;
	int32_t *since; /* for each of them: lanes from here that came, less those that went, since it counted them */
	struct service_name *said; /* beforehand, in the configuration */
	size_t n_said;
	struct announced *listed; /* what the catalogue says that it offers; in no order */
	size_t n_listed, cap_listed;
	uint32_t n_lanes; /* from here to it, open or opening */
	uint32_t n_lanes_in; /* from it, as broker_link_views.c counted them last */
	UT_hash_handle hh;
};

/* One session of one linker, as it told. */
struct link_session {
	uint64_t key; /* linker << 32 | the linker's number */
	bool inbound, resumed;
	bool told; /* that it is up is in the log: then its end will be */
	bool for_ca;  /* a question to an authority: there are two a minute, and nobody looks for them in a log */
	uint32_t hid; /* ROLE_NO_ID: inbound */
	char local[LIMIT_SPIFFE_ID_SIZE], peer[LIMIT_SPIFFE_ID_SIZE];
	char peer_serial[ROLE_SERIAL_SIZE];
	char address[LIMIT_ADDRESS_SIZE], cipher[40];
	int64_t up_unix_s;
	uint32_t path; /* enum session_path */
	uint32_t tag;  /* the upper half of its lanes' link_id; 0: LB_PATH has not come */
	char device[64], path_why[256]; /* of LB_PATH */
	struct role_session_stats stats; /* as of the last BL_STATS */
	struct link_peer *between;
	UT_hash_handle hh;
};

/* What all sessions between the same two carried, for counters that never go back. At most LIMIT_LINK_PEERS; never removed. */
struct link_peer_key {
	char local[LIMIT_SPIFFE_ID_SIZE], peer[LIMIT_SPIFFE_ID_SIZE];
	uint32_t inbound;
};
struct link_peer {
	struct link_peer_key key; /* unused bytes are zero */
	uint32_t n_sessions;
	uint64_t bytes_in, bytes_out, rdma_in, rdma_out, n_opened, n_refused; /* of sessions that have ended */
	UT_hash_handle hh;
};

/*
 * link_want() - linkers and a signer have to run from now on: this host joins others, or an authority begins here, though the
 * configuration says nothing of links. May be repeated.
 */
void link_want(struct broker *b);
/* link_apply() - the configuration changed: hosts, where to listen, how many linkers. After model_apply() has its tables. */
void link_apply(struct broker *b);
/* link_host_set() - there is a host (or its address changed). Return: 0; -ENOSPC: LIMIT_HOSTS; -EINVAL: no address, no name. */
MUST_CHECK int link_host_set(struct broker *b, const char *name, const char *address, enum link_from from);
/* link_host_remove() - @from says no longer that there is one. */
void link_host_remove(struct broker *b, const char *name, enum link_from from);
/*
 * link_host_lists(), link_host_unlists() - the catalogue says that a host that it has set offers @a->service, or not any more. What
 * the host announces itself counts before it.
 */
MUST_CHECK int link_host_lists(struct broker *b, const char *name, const struct announced *a);
void link_host_unlists(struct broker *b, const char *name, const struct service_name *service);
/* link_host_count() - one more (or one less, -1) of our own lanes goes to @service there. */
void link_host_count(struct link_host *h, const struct service_name *service, int change);
struct link_host *link_host(struct broker *b, uint32_t hid); /* NULL: none (any more) */
/*
 * link_host_of() - the host that dialled us: one that we know by the same address, whatever the port, and to which the authority issued the
 * certificate that it showed. NULL: none is proven, as where certificates are files. Who shares a host's address is not taken for it.
 */
struct link_host *link_host_of(struct broker *b, const char *address, const char *serial);
/* link_host_has() - what is known of one service at one host, for lanes of one kind. @ret_lanes: open to it there, as far as is known. */
enum route_elsewhere link_host_has(const struct link_host *h, const struct service_name *service, enum link_kind kind, uint32_t *ret_lanes);
/* link_host_knows() - somebody said that the service is there. link_host_has_down() - it says so itself, and that it is down. */
bool link_host_knows(const struct link_host *h, const struct service_name *service);
bool link_host_has_down(const struct link_host *h, const struct service_name *service);
/* link_elsewhere() - the best that link_host_has() says of any host. */
enum route_elsewhere link_elsewhere(struct broker *b, const struct service_name *service, enum link_kind kind);
/* link_offer() - what other hosts are told of a service of ours, but for the number of lanes. Return: false: nothing. */
bool link_offer(const struct broker *b, const struct service *s, struct announced *ret);
/* link_on_linker() - a linker was (re)started and can be told. link_on_linker_lost(): it has gone, with its lanes and sessions. */
void link_on_linker(struct broker *b, uint32_t index);
void link_on_linker_lost(struct broker *b, uint32_t index);
/* link_linker_stays() - one that was told to leave (BL_UNLISTEN) is not replaced now. */
void link_linker_stays(struct broker *b, uint32_t index);
void link_on_msg(struct broker *b, uint32_t linker, const struct role_msg *m, int *fd);
/* link_tell(), link_tell_all() - to a linker; one that does not read any more is closed (the warden restarts it). @fd: borrowed. */
void link_tell(struct broker *b, uint32_t linker, const struct role_msg *m, int fd);
void link_tell_all(struct broker *b, const struct role_msg *m, int fd);
/* --- broker_rdma.c: which linker has which device --- */

/* rdma_on_linker() - before all else that it is told. rdma_on_linker_lost() - it has gone. */
void rdma_on_linker(struct broker *b, uint32_t linker);
void rdma_on_linker_lost(struct broker *b, uint32_t linker);
void rdma_on_device(struct broker *b, uint32_t linker, const struct role_device *m);
void rdma_on_stats(struct broker *b, uint32_t linker, const struct role_rdma_stats *m);
/* rdma_apply() - the configuration was read (again): new sessions keep to it; whoever lacks what there may be now gives its place to another. */
void rdma_apply(struct broker *b);
/* rdma_on_idle() - the last lane of a linker, or the last question whether one may be opened, is over. */
void rdma_on_idle(struct broker *b, uint32_t linker);
/* device_lacks() - why a linker has no device, for people; "" if it has one. */
static inline const char *device_lacks(const struct link_device *d)
{
	return d->lacks ? d->lacks : d->known && d->is.error ? d->is.why : "";
}

/* link_announce() - what we offer, or how it is, changed. link_announce_soon() - how many lanes there are to it. */
void link_announce(struct broker *b);
void link_announce_soon(struct broker *b);
/* link_on_credential() - a service's certificate came, was renewed or went: lanes that wait for it may go on. */
void link_on_credential(struct broker *b, const struct service_name *service);
/* link_ask_stats() - BL_STATS to all linkers; link_has_stats(): all have answered since. */
void link_ask_stats(struct broker *b);
bool link_has_stats(const struct broker *b);
/* link_drain() - the daemon ends: GOAWAY on every session. Return: is there any? */
bool link_drain(struct broker *b);
const char *link_host_state_name(enum link_host_state s);
/*
 * link_listener() - where this host is to listen, and whether it does; @i from 0. Return: false: there are no more.
 * @why: what keeps it from that, a line for people; "": it listens, or the answer has not come yet. Borrowed until the next turn of the loop.
 */
bool link_listener(size_t i, const char **ret_address, bool *ret_listens, int *ret_error, const char **ret_why);

/* --- broker_carry.c: lanes from here to other hosts --- */

/* A client whose lane goes to another host: all that is known of it when the gate has given it away. */
struct carry_client {
	struct service_name source, destination;
	uint32_t wid, lid, pid, uid;
	uint64_t deadline_ns;
	struct pair *pair; /* its quota is taken already, and goes over to the lane */
	const struct intention *intention; /* borrowed for the call */
};
/* carry_lacks() - may a client be carried now? Return: NULL, or a line for people: what is waited for. Good until the next call. */
const char *carry_lacks(struct broker *b, const struct service_name *source, const struct service_name *destination, enum link_kind kind);
/* carry_has_share() - linkers' lanes are the host's: may the workload have one more? */
bool carry_has_share(struct broker *b, const struct workload *w);
/* carry_begin() - to some host that has the service. @fd: the client's, borrowed. */
void carry_begin(struct broker *b, const struct carry_client *c, int fd);
/* A library is told why not, before it gives up by itself. */
enum { CARRY_LIBRARY_WAIT_MS = 4000 };
/* carry_begin_library() - the same for the library that asked with @q, admitted. Return: 0; -ENOMEM: nothing was done. */
MUST_CHECK int carry_begin_library(struct broker *b, const struct carry_client *c, const struct role_ask *q);
/* carry_on_lent() - the porter lent the far end, @fd: borrowed. carry_on_lane() - its client has the lane. carry_on_client_left(): @why */
void carry_on_lent(struct broker *b, struct lane *l, int fd);
void carry_on_lane(struct broker *b, struct lane *l);
void carry_on_client_left(struct broker *b, struct lane *l, const char *why);
/* carry_is_parked() - no linker has it: carry_refuse() ends it, and frees it. */
bool carry_is_parked(const struct lane *l);
void carry_refuse(struct broker *b, struct lane *l);
void carry_free(struct carry *c);
void carry_on_opened(struct broker *b, uint32_t linker, const struct role_lane_ref *m);
/* carry_on_linker_lost() - its linker has died: refused, with an event, and freed. */
void carry_on_linker_lost(struct broker *b, struct lane *l);
void carry_on_failed(struct broker *b, uint32_t linker, const struct role_link_failed *f, int fd);

/* --- broker_welcome.c: lanes from other hosts to services here --- */

void welcome_on_ask(struct broker *b, uint32_t linker, const struct role_link_ask *q);
void welcome_on_gone(struct broker *b, uint32_t linker, uint32_t ask);
void welcome_on_linker_lost(struct broker *b, uint32_t linker);
/* welcome_waits() - has a linker asked whether a lane may be opened, and was not answered? */
bool welcome_waits(uint32_t linker);
/* welcome_retry() - a server came up, or a certificate: for those who wait. */
void welcome_retry(struct broker *b);
/* welcome_on_lent() - the porter lent the client's end, @fd: borrowed. welcome_on_not_lent() - it did not. The lane may be gone afterwards. */
void welcome_on_lent(struct broker *b, struct lane *l, int fd);
void welcome_on_not_lent(struct broker *b, struct lane *l, const struct role_stats *s);
/* welcome_on_lane() - a library took the lane. */
void welcome_on_lane(struct broker *b, struct lane *l);

/* --- broker_lend.c: lanes between hosts of which the end here is a library's: what the porter does for them --- */

/*
 * lend_begin() - have the porter lend a linker the other end of @l, which is in the table. @cid: of the library, which asked (outbound) or
 * listens. From here on broker_carry.c or broker_welcome.c is told what comes of it.
 */
void lend_begin(struct broker *b, struct lane *l, uint32_t cid);
/* lend_tell_host() - which host the other side is on, as far as is known now. Outbound lanes. */
void lend_tell_host(struct broker *b, const struct lane *l);
/* lend_end() - the porter is to end it, and to tell the library why. Once. */
void lend_end(struct broker *b, struct lane *l, int error, const char *why);
/* lend_cut() - first the library is told why, then the linker ends the lane. */
void lend_cut(struct broker *b, struct lane *l, const char *why);
/* lend_forget() - the lane leaves the table. */
void lend_forget(struct broker *b, struct lane *l);
/* lend_find() - by its number at the porter; NULL. lend_n_lanes() - that the porter holds, or is asked for. */
struct lane *lend_find(uint64_t lent);
size_t lend_n_lanes(void);
/* From the porter. Return: false: it is none of these lanes. */
void lend_on_lent(struct broker *b, uint64_t lent, int fd);
bool lend_on_open(struct broker *b, uint64_t lent);
bool lend_on_closed(struct broker *b, const struct role_stats *s);
void lend_on_porter_lost(struct broker *b);
/* lend_kind() - enum control_kind of a library's link_kind. link_kind_of(): the other way round; LINK_KIND_N: such lanes stay on one host. */
enum control_kind lend_kind(uint32_t link_kind);
enum link_kind link_kind_of(uint32_t control_kind);
const char *link_kind_name(uint32_t link_kind); /* "socket", "stream", "messages" */

/* --- broker_share.c: how many lanes come from other hosts, of whom and to whom --- */

/* share_has_room() - may one more come from @source to @w (NULL: a service of no workload)? @lent: a library's. */
bool share_has_room(const struct broker *b, const struct service_name *source, const struct workload *w, bool lent);
/* share_take() - @l, inbound, counts from now on. Return: 0; -ENOMEM: it does not. share_give_back() - if it counts. */
MUST_CHECK int share_take(struct lane *l, const struct workload *w);
void share_give_back(struct lane *l);
uint32_t share_n_lanes(void);

/* --- broker_cross.c: what both kinds of lane have in common, once they are in the table --- */

/* cross_open() - into broker->lanes, with @pair's quota, which is taken already. NULL: no memory. */
struct lane *cross_open(struct broker *b, const struct lane *from);
struct lane *cross_find(struct broker *b, uint32_t linker, uint64_t lane_id);
void cross_free(struct broker *b, struct lane *l);
void cross_rename(struct broker *b, struct lane *l);
void cross_set_linker(struct lane *l, uint32_t linker);
uint32_t cross_count(uint32_t linker); /* open lanes and those that are opening */
void cross_on_closed(struct broker *b, uint32_t linker, const struct role_stats *s);
void cross_on_stats(struct broker *b, uint32_t linker, const struct role_stats *s);
void cross_on_linker_lost(struct broker *b, uint32_t linker);
void cross_cut(struct broker *b, struct lane *l, const struct intention *i, const char *why);
/* link_recheck() - policy changed, or what is revoked: end lanes in both directions that are not allowed any more. */
void link_recheck(struct broker *b);
/* cross_path() - "link:b" into @buf of CROSS_PATH_SIZE; of a host whose name is not known, its address. Returns @buf. */
enum { CROSS_PATH_SIZE = LIMIT_ADDRESS_SIZE + LIMIT_NAME_SIZE };
const char *cross_path(struct broker *b, const struct lane *l, char *buf);

/* --- broker_ca.c: keys, certificates, joining, the authority --- */

/* ca_on_signer() - the signer was (re)started: it knows no kid yet. @fd: its channel, taken. */
void ca_on_signer(struct broker *b, int *fd);
/* ca_on_linker() - hand a new linker the signer's channel, then BL_TRUST, BL_REVOKED and each BL_CREDENTIAL. Before all else it is told. */
void ca_on_linker(struct broker *b, uint32_t linker);
/* ca_apply() - the configuration changed: which services of this host need a certificate; `certificates`, `svid_life`, `authority`. */
void ca_apply(struct broker *b);
/* ca_credential() - the kid to show for @service; ROLE_NO_ID: there is no certificate (yet), and @why (a literal) says why. */
uint32_t ca_credential(struct broker *b, const struct service_name *service, const char **why);
/* ca_is_member() - this host has a certificate: links are possible. */
bool ca_is_member(const struct broker *b);
/* ca_is_revoked() - on the list: a SPIFFE ID as of now. */
bool ca_is_revoked(const struct broker *b, const char *spiffe_id);
/* ca_on_msg() - LB_CA_READY, LB_CA_ASK, LB_CA_ANSWER. @fd: taken if wanted. */
void ca_on_msg(struct broker *b, uint32_t linker, const struct role_msg *m, int *fd);
/* ca_on_linker_lost() - its questions will not be answered. */
void ca_on_linker_lost(struct broker *b, uint32_t linker);
/* ca_address() - where BL_CA_OPEN @req wants to go (LB_DIAL). NULL: no such question. */
const char *ca_address(const struct broker *b, uint32_t req);

#endif
