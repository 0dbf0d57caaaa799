/*
 * What sealane's own processes say to each other: fixed-size messages, one per datagram on a chan (base/chan.h).
 * This list is the map of who may ask what of whom; docs/design/roles.md tells the story.
 *
 *   broker -> warden   BW_*   hands: make, place, watch, connect, cut        warden -> broker   WB_*
 *   broker -> gate     BG_*   lanes through the relay                        gate   -> broker   GB_*
 *   broker -> porter   BP_*   lanes in shared memory, between libraries      porter -> broker   PB_*
 *   broker -> checker  BC_*   health check commands                          checker -> broker  CB_*
 *   broker -> linker   BL_*   lanes to and from other hosts                  linker -> broker   LB_*
 *   broker -> signer   BS_*   keys and certificates                          signer -> broker   SB_*
 *   linker -> signer   LS_*   the signature of a handshake                   signer -> linker   SL_*
 *   broker -> catalogue  BE_*  what others know of us, through etcd          catalogue -> broker  EB_*
 *   warden -> keeper   WK_*   descriptors that outlive the daemon            keeper -> warden   KW_*
 *
 * Trust: every role treats what it reads as hostile until role_msg_check() has returned 0, and bounds every id by its
 * own tables. Strings are NUL-terminated inside their arrays (role_msg_check() proves it).
 * Layout: native byte order and alignment, since both ends are always the same binary on the same host.
 */
#ifndef WIRE_ROLE_H
#define WIRE_ROLE_H

#include "base/limits.h"
#include "base/util.h"
#include "wire/control.h"

enum role_msg_type {
	ROLE_MSG_NONE,

	/* broker -> warden. Those with a reply get exactly one WB_REPLY with the same seq. */
	BW_WORKLOAD_ADD,   /* make the workload's directory                              reply */
	BW_WORKLOAD_REMOVE, /* take away its directory and all it holds                  reply */
	BW_ENROL,	   /* this cgroup is the workload's; watch it                     reply (u.reply.cgroup_id, path) */
	BW_UNENROL,	   /* forget one cgroup                                           reply */
	BW_IS_EMPTY,	   /* does nothing run in this enrolled cgroup any more?   reply: 0 yes, -EBUSY no */
	BW_RESOLVE,	   /* which workload does this cgroup id lie in?                  reply (u.reply.wid, path) */
	BW_LISTEN,	   /* make (or adopt) a listening socket and place its file       reply + fd */
	BW_UNLISTEN,	   /* close it, remove its file                                   reply */
	BW_SERVER,	   /* watch a service's listening socket                          reply; WB_SERVER_STATE follows */
	BW_SERVER_REMOVE,  /* stop watching                                               reply */
	BW_ROUTE,	   /* what the listener's name leads to: gate or server itself    reply */
	BW_CONNECT,	   /* connect to a server                                         reply + fd */
	BW_SCAN,	   /* list direct lanes of all servers   reply (u.reply.count) + fd: so many struct role_lane */
	BW_CUT,		   /* end direct lanes from a workload to a server                reply (u.reply.count) */
	BW_RELOAD,	   /* read the configuration files again: WB_CONFIG ..., then     reply */
	BW_GATES,	   /* run so many gates (u.id.id); fewer than now: at the next start */
	BW_KEEP,	   /* + fd: hold this under the name u.store.name ("lane/...") over a restart */
	BW_UNKEEP,	   /* no longer */
	BW_CDI,		   /* write sealane.json into the CDI directory u.store.name (fd: its text)  reply */
	BW_LINKERS,	   /* run so many linkers (u.id.id), and a signer; fewer than now: at the next start */
	BW_DIAL,	   /* a TCP socket, non-blocking, that is connecting to u.dial.address           reply + fd */
	BW_LISTEN_TCP,	   /* make (or adopt) a listening TCP socket at u.dial.address                   reply + fd */
	BW_UNLISTEN_TCP,   /* the keeper need not hold it any more                                       reply */
	BW_CERTIFICATES,   /* files of the directory u.store.name, those that a linker needs: WB_FILE ..., then reply */
	BW_CATALOGUE_FILE, /* a file that etcd's TLS or password needs (u.etcd_file; path "": none), for the catalogues started after it  reply */
	BW_CATALOGUE,	   /* u.id.id 1: run a catalogue, anew if one runs; 0: none                    reply (why: a file that cannot be read) */

	/* warden -> broker */
	WB_REPLY,
	WB_CONFIG,	   /* + fd: memfd with one configuration file's text; `last` ends the set */
	WB_GATE,	   /* + fd: the channel to a gate that was (re)started */
	WB_CHECKER,	   /* + fd: the channel to the checker */
	WB_KEPT,	   /* + fd: what BW_KEEP of an earlier daemon left, before anything else at the start */
	WB_PORTER,	   /* + fd: the channel to the porter, when it was (re)started */
	WB_SERVER_STATE,   /* a server's socket came, went, or changed */
	WB_CGROUP_GONE,	   /* a workload's cgroup is empty or removed */
	WB_RELOAD_ASKED,   /* SIGHUP came */
	WB_STOP,	   /* SIGTERM came: end */
	WB_GUARD,	   /* the kernel hook's state, and one decision of it */
	WB_LINKER,	   /* + fd: the channel to a linker that was (re)started */
	WB_SIGNER,	   /* + fd: the channel to the signer, when it was (re)started; before any WB_LINKER of that start */
	WB_FILE,	   /* + fd: one file that BW_CERTIFICATES found (u.store.name: its name), read-only; the broker must not read a .key */
	WB_CATALOGUE,	   /* + fd: the channel to the catalogue, when it was (re)started; none: it has ended and is started again soon */

	/* broker -> gate */
	BG_LISTEN,	   /* + fd: accept here */
	BG_UNLISTEN,
	BG_GO,		   /* + fd: the server's end for an accepted connection: relay */
	BG_REFUSE,	   /* close an accepted connection */
	BG_CUT,		   /* end a lane */
	BG_LIMIT,	   /* new byte rate for a lane */
	BG_STATS,	   /* send GB_STATS for each lane, then one with lane_id 0 */
	BG_HAND,	   /* give an accepted connection away: GB_HANDED (u.id: cid) */

	/* gate -> broker */
	GB_ACCEPT,	   /* who connected: ask for a verdict */
	GB_GONE,	   /* the client left before the verdict */
	GB_CLOSED,	   /* a lane ended */
	GB_STATS,
	GB_HANDED,	   /* + fd: it, untouched (u.id: cid); GB_GONE instead if its client has left */

	/* broker -> porter */
	BP_LISTEN,	   /* + fd: a workload's control socket (u.gate_listen) */
	BP_UNLISTEN,	   /* u.id */
	BP_REFUSE,	   /* no, and why: answer with CTL_ERROR and close (u.refuse) */
	BP_LISTENING,	   /* the connection may take lanes: answer with CTL_LISTENING (u.id: cid) */
	BP_OFFER,	   /* join a client and a listener: a lane (u.offer) */
	BP_CUT,		   /* end a lane (u.refuse: its lane_id) */
	BP_ADOPT,	   /* + fd: one end's leash of a lane that an earlier porter made (u.leash); then the other's */
	BP_STATS,	   /* send PB_STATS for each lane, then one with lane_id 0 (u.id: unused; seq is echoed) */
	BP_LEND,	   /* a lane one of whose ends is a linker's (u.lend): PB_LENT or PB_CLOSED; then PB_OPEN, PB_CLOSED as after BP_OFFER, no PB_KEEP */

	/* porter -> broker */
	PB_ASK,		   /* who connected, and what they ask for (u.ask) */
	PB_GONE,	   /* an asker left before its answer, or a listener has gone (u.id: cid) */
	PB_OPEN,	   /* both ends have a lane (u.lane_ref) */
	PB_KEEP,	   /* + fd: one end's leash, to be held over a restart (u.leash) */
	PB_CLOSED,	   /* it ended, or never came to be (u.stats) */
	PB_STATS,
	PB_LENT,	   /* + fd: the control connection of the linker's end (u.lane_ref) */

	/* broker -> linker (docs/design/link.md) */
	BL_RDMA,	   /* whether, and where, to open an RDMA device (u.rdma); before all else: the linker isolates itself after it. Later only the mode counts: for new sessions */
	BL_SIGNER,	   /* + fd: a channel to the signer (LS_*) */
	BL_TRUST,	   /* + fd: the roots (PEM); who we are and how links behave (u.trust); first of all, and on change */
	BL_REVOKED,	   /* + fd: text, a line each: "serial:HEX" or "id:spiffe://..."; replaces the list before; nothing on it may pass */
	BL_TICKETS,	   /* what all linkers of this host make session tickets from (u.tickets); replaces what was told before */
	BL_CREDENTIAL,	   /* + fd: certificates (PEM, leaf first) for the signer's key u.credential.kid; replaces the one before */
	BL_FORGET,	   /* u.id: kid: not ours any more */
	BL_LISTEN,	   /* + fd: accept sessions here */
	BL_UNLISTEN,
	BL_HOST,	   /* another host (u.host), new or changed */
	BL_HOST_GONE,	   /* u.id: hid */
	BL_DIALED,	   /* + fd: the socket that LB_DIAL asked for, connecting (u.dialed) */
	BL_CARRY,	   /* + fd: a client's connection, or by u.carry.kind what PB_LENT gave: a lane to a service at a host. LB_OPENED or LB_FAILED; then LB_CLOSED */
	BL_GO,		   /* + fd: yes to LB_ASK: the server's end, or by LB_ASK's kind what PB_LENT gave (u.link_go). LB_CLOSED follows in any case */
	BL_NO,		   /* no to LB_ASK (u.link_no) */
	BL_CUT,		   /* end a lane */
	BL_RECALL,	   /* a lane that no host has taken yet: LB_FAILED with its client, if not a byte of it was sent; else nothing */
	BL_LIMIT,	   /* new byte rate for a lane */
	BL_STATS,	   /* send LB_STATS for each lane, LB_SESSION_STATS for each session, then LB_STATS with lane_id 0; seq is echoed */
	BL_ANNOUNCE,	   /* + fd: what hosts that ask are told we offer (text of ANNOUNCE); replaces the one before */
	BL_DRAIN,	   /* GOAWAY on every session, no new lanes */
	BL_GOAWAY,	   /* GOAWAY on every service's session: new lanes are to come on new ones. Those whose OPEN crosses it are taken */
	BL_CA_OPEN,	   /* a session to an authority (u.ca: req, mode, root, address, host): LB_CA_READY or LB_CA_ANSWER with its error */
	BL_CA_ASK,	   /* + fd: one question (JSON) on it (u.ca: req): LB_CA_ANSWER, which ends the session */
	BL_CA_ANSWER,	   /* + fd: the answer to LB_CA_ASK (u.ca: req) */

	/* linker -> broker */
	LB_DIAL,	   /* a session needs a socket to its host, or authority (u.dial_ask) */
	LB_ASK,		   /* a peer's service wants a lane to one of ours (u.link_ask) */
	LB_GONE,	   /* and has gone before the answer (u.id: ask); a BL_GO that crosses it is answered by LB_CLOSED */
	LB_OPENED,	   /* the far host took the lane (u.lane_ref) */
	LB_FAILED,	   /* it did not (u.link_failed). + fd: the client's, if not a byte of it was sent */
	LB_CLOSED,	   /* a lane ended (u.stats) */
	LB_STATS,
	LB_SESSION,	   /* a session came up, went down, or was refused (u.session) */
	LB_SESSION_STATS,  /* u.session_stats */
	LB_PATH,	   /* which way a session's frames go from now on, or why not by RDMA (u.path); until it comes: over TLS, and RDMA was not tried */
	LB_DEVICE,	   /* what came of BL_RDMA (u.device); once, first of all */
	LB_RDMA_STATS,	   /* before the LB_STATS that ends BL_STATS's answer, where there is a device (u.rdma_stats) */
	LB_ANNOUNCE,	   /* + fd: what a host offers (u.id: hid): a text from that host, unchecked but for its size */
	LB_CA_READY,	   /* the session stands (u.ca: req, exporter) */
	LB_CA_ASK,	   /* + fd: a question came from another host (u.ca: req, mode, exporter, peer); unchecked but for its size */
	LB_CA_ANSWER,	   /* + fd: what the authority said (u.ca: req, error, why); unchecked but for its size */

	/* broker -> signer. Each has exactly one SB_REPLY with the same seq, but BS_LINKER and BS_FORGET, which have none. */
	BS_LINKER,	   /* + fd: a linker's channel (LS_*); u.id: its index, whose earlier channel is over */
	BS_KEY,		   /* the key called u.key.name for kid; + fd: it (PEM) instead of one of our own     reply (public_key) */
	BS_FORGET,	   /* u.id: kid */
	BS_SIGN,	   /* u.sign: with a key of ours                                                      reply (signature) */
	BS_SIGN_LIST,	   /* u.sign (kid: the root's slot): what the authority says to its members, by the root: over ROLE_LIST_LABEL and the digest  reply (signature) */
	BS_VERIFY,	   /* u.verify: is it by that key?                                                    reply (error: -EKEYREJECTED: no) */
	BS_CA,		   /* u.ca_key: the authority's root; made if it says so            reply (public_key) + fd: its certificate (PEM) */
	BS_ISSUE,	   /* u.issue: a certificate by the root                                              reply + fd: it (PEM) */

	/* signer -> broker */
	SB_REPLY,	   /* u.signed_ */

	/* linker -> signer -> linker */
	LS_SIGN,	   /* u.sign */
	SL_SIGNED,	   /* u.signed_, same seq */

	/* broker <-> catalogue (docs/design/catalogue.md) */
	WE_FILE,	   /* + fd: by the warden, before the broker has its end: a file of etcd's (u.etcd_file without its path) */
	BE_OWN,		   /* an entry of this host, under its lease; or not any more (u.entry) */
	BE_SETUP,	   /* where etcd is (u.etcd), after the first BE_OWNs: connect. Once */
	BE_WRITE,	   /* put or delete, without a lease (u.entry): EB_DONE with the same seq */
	BE_ACCEPT,	   /* put this epoch (u.entry), if etcd's is the one of the last range: EB_DONE with the same seq */
	EB_STATE,	   /* etcd can be reached, or not, or will not have us (u.etcd_state) */
	EB_BEGIN,	   /* a whole range follows (u.etcd_range); what an earlier one that has no EB_END said is void */
	EB_ENTRY,	   /* u.entry: of the range, or after EB_END a change of it */
	EB_END,		   /* of the range */
	EB_TAKEN,	   /* u.entry: ours, that somebody else wrote: another daemon has our name */
	EB_DONE,	   /* u.etcd_done */

	/* broker -> checker -> broker */
	BC_RUN,
	CB_RESULT,

	/* warden <-> keeper */
	WK_STORE,	   /* + fd: keep this under its name */
	WK_DROP,
	WK_FETCH,	   /* answer: KW_ITEM + fd ..., then KW_END */
	WK_GRACE,	   /* how long to go on without a daemon before cleaning up */
	KW_ITEM,
	KW_END,

	ROLE_MSG_N
};

#define ROLE_NO_ID UINT32_MAX

/* How gate learnt who connected. */
enum identity_method {
	IDENTITY_PIDFD,	   /* SO_PEERPIDFD + PIDFD_GET_INFO: the kernel's cgroup id of the process that connected */
	IDENTITY_PEERCRED, /* older kernels: SO_PEERCRED, pidfd_open, /proc, alive afterwards (docs/design/identity.md) */
	IDENTITY_METHOD_N
};

enum role_route { ROLE_ROUTE_GATE, ROLE_ROUTE_DIRECT };

/* Why a lane ended (GB_CLOSED). */
enum lane_end {
	LANE_END_EOF,	   /* both sides closed in order */
	LANE_END_CLIENT,   /* the client's side failed (reset, killed) */
	LANE_END_SERVER,
	LANE_END_CUT,	   /* BG_CUT */
	LANE_END_FDS,	   /* an application tried to pass descriptors (SCM_RIGHTS), which the relay refuses */
	LANE_END_NOMEM,
	LANE_END_LINK,	   /* the session to the other host ended */
	LANE_END_N
};

struct role_workload {
	uint32_t wid;
	uint32_t offers; /* it offers services: make its serve/ directory */
	char name[LIMIT_NAME_SIZE];
};

struct role_cgroup {
	uint32_t wid;
	uint32_t pad;
	uint64_t cgroup_id; /* 0: take `path` */
	char path[LIMIT_PATH_SIZE]; /* below the cgroup2 mount, "/machine/web"; "*ID": the one cgroup whose last part holds the
				       container id ID; "" if cgroup_id is given */
};

struct role_listen {
	uint32_t lid;
	uint32_t wid;
	uint32_t mode;
	uint32_t type;	  /* SOCK_STREAM: a socket file; SOCK_SEQPACKET: a control socket */
	int64_t uid, gid; /* -1: root */
	char path[LIMIT_PATH_SIZE]; /* relative: below the workload's directory; absolute: on the host */
};

struct role_server {
	uint32_t sid;
	uint32_t wid;  /* ROLE_NO_ID: the path is on the host and no workload is enrolled for it */
	int32_t mode;  /* chmod the server's socket to this before it is linked; -1: leave it */
	uint32_t pad;
	int64_t uid, gid; /* the same with its owner and group */
	char path[LIMIT_PATH_SIZE]; /* relative: below the workload's serve/; absolute: on the host */
};

struct role_route_to {
	uint32_t lid;
	uint32_t sid;
	uint32_t route; /* enum role_route */
};

struct role_id {
	uint32_t id;
};

struct role_cut {
	uint32_t sid;
	uint32_t wid;	/* whose lanes; ROLE_NO_ID: of everyone */
	uint32_t watch; /* go on cutting lanes that appear later, until BW_ROUTE allows them again */
};

struct role_resolve {
	uint64_t cgroup_id;
	uint32_t pid; /* cgroup_id 0: the pid SO_PEERCRED told (IDENTITY_PEERCRED only) */
	uint32_t pad;
};

struct role_reply {
	int32_t error; /* 0 or negative errno */
	uint32_t wid;
	uint32_t count;
	uint32_t pid; /* BW_CONNECT: the server's pid, as the kernel tells it (0: unknown) */
	uint64_t cgroup_id;
	char path[LIMIT_PATH_SIZE];
	char why[256]; /* one line for a person; "" when error is 0 */
};

struct role_config {
	uint32_t last; /* 1: no more files follow in this set; the message then carries no descriptor */
	uint32_t seq_of_reload;
	int32_t error; /* the file could not be read */
	uint32_t pad;
	char name[LIMIT_PATH_SIZE];
};

struct role_gate {
	uint32_t index;
	uint32_t pid;
};

struct role_server_state {
	uint32_t sid;
	uint32_t up;	   /* a listening socket is there */
	uint32_t linkable; /* its inode may be linked into workloads' directories (same file system) */
	uint32_t mode;
	uint64_t dev, ino;
};

/* One direct lane, in the file that answers BW_SCAN. */
struct role_lane {
	uint32_t sid;
	uint32_t wid; /* the client's workload; ROLE_NO_ID: no enrolled workload holds the client's end */
	uint32_t client_pid, server_pid;
	uint64_t client_ino, server_ino; /* socket inodes: together they name the lane */
};

enum guard_state { GUARD_OFF, GUARD_LSM, GUARD_STATE_N };

struct role_guard {
	uint32_t state;	  /* enum guard_state */
	uint32_t verdict; /* 0: no decision, only the state; 1: allowed; 2: denied */
	uint32_t sid;
	uint32_t wid;
	uint32_t pid;
	uint32_t n_suppressed; /* such decisions before it that were not told one by one */
	uint64_t cgroup_id;
	char why[128];
};

struct role_gate_listen {
	uint32_t lid;
	uint32_t identity; /* enum identity_method to use */
};

struct role_go {
	uint32_t cid; /* the gate's number of the accepted connection, from GB_ACCEPT */
	uint32_t pad;
	uint64_t lane_id;
	uint64_t bytes_per_s; /* 0: no limit; counts both directions together */
	uint64_t burst_bytes;
};

struct role_lane_ref {
	uint64_t lane_id;
	uint64_t bytes_per_s, burst_bytes; /* BG_LIMIT only */
	uint64_t link_id; /* LB_OPENED: see link_lane_id() */
};

struct role_accept {
	uint32_t cid;
	uint32_t lid;
	uint32_t pid; /* for the log only, never for a decision */
	uint32_t uid, gid;
	int32_t error; /* negative errno: the kernel could not say who it is; then cgroup_id is 0 */
	uint64_t cgroup_id;
	uint32_t method; /* enum identity_method that was used */
	uint32_t pad;
};

struct role_stats {
	uint64_t lane_id; /* 0 ends the answer to BG_STATS */
	uint64_t bytes_up, bytes_down; /* client to server, server to client */
	uint64_t reads_up, reads_down; /* reads that returned bytes: what "messages" are on a stream */
	uint32_t end; /* enum lane_end, in GB_CLOSED */
	int32_t error;
};

/* What a container asked for on its control socket: accept as in GB_ACCEPT, the rest from its CTL_CONNECT or CTL_LISTEN. */
struct role_ask {
	struct role_accept accept;
	uint32_t listens;  /* 1: CTL_LISTEN, 0: CTL_CONNECT */
	uint32_t kind;	   /* enum control_kind */
	uint32_t cap_log2; /* of its region, which porter holds and has checked */
	uint32_t pad;
	char service[LIMIT_SERVICE_SIZE];
	char as[LIMIT_SERVICE_SIZE];
};

struct role_refuse {
	uint32_t cid;
	int32_t error; /* for control_error */
	uint64_t lane_id;
	char why[256];
};

struct role_leash {
	uint64_t lane_id;
	uint32_t is_server; /* 1: the server's end, 0: the client's */
	uint32_t pad;
};

struct role_offer {
	uint32_t cid;	   /* the client's */
	uint32_t listener; /* the server's: a cid that BP_LISTENING answered */
	uint64_t lane_id;
	struct control_identity client, server;
};

enum lend { LEND_SERVER, LEND_CLIENT, LEND_N };

/* A lane between a library and a linker (docs/design/link.md, "Lanes of the library"). */
struct role_lend {
	uint64_t lane_id;
	uint32_t end;  /* enum lend: which one is the linker's */
	uint32_t cid;  /* LEND_SERVER: of the client that asked; LEND_CLIENT: of a listener, that BP_LISTENING answered. ROLE_NO_ID: of a lane
			  that was lent (LEND_SERVER), and goes to another host now: only `server` is taken, and there is no answer */
	uint32_t kind; /* enum control_kind */
	uint32_t pad;
	struct control_identity client, server;
	char path[32]; /* what the library is told: "link" */
};

struct role_dial {
	uint32_t timeout_ms; /* TCP_USER_TIMEOUT */
	char congestion[20]; /* TCP_CONGESTION; "": the kernel's own choice */
	char address[LIMIT_ADDRESS_SIZE]; /* "10.0.0.2:7443", "[fd00::2]:7443": numbers only */
};

struct role_trust {
	uint32_t window;	     /* bytes a lane's far end may send ahead */
	uint32_t idle_ms, timeout_ms; /* link_idle, link_timeout */
	uint32_t authority;	     /* 1: this host issues certificates: sessions that ask for them, or to join, are taken */
	char trust_domain[LIMIT_TRUST_DOMAIN_SIZE];
	char host[LIMIT_NAME_SIZE]; /* ours */
};

enum { ROLE_TICKET_SECRETS = 2, ROLE_TICKET_SECRET_SIZE = 64 };

/* Random numbers: who has them could come back as anybody. */
struct role_tickets {
	uint32_t n; /* of secrets; the first, the newest, makes tickets, and all open them */
	uint32_t pad;
	uint8_t secrets[ROLE_TICKET_SECRETS][ROLE_TICKET_SECRET_SIZE];
};

struct role_credential {
	uint32_t kid; /* 0: this host's own */
	uint32_t pad;
	int64_t not_after; /* Unix seconds */
	char spiffe_id[LIMIT_SPIFFE_ID_SIZE];
};

struct role_host {
	uint32_t hid;
	uint32_t keep; /* 1: this linker holds a session between hosts to it, and dials again when it breaks */
	char name[LIMIT_NAME_SIZE];
	char address[LIMIT_ADDRESS_SIZE];
	char rdma[LIMIT_ADDRESS_SIZE]; /* where its RDMA device may be as well as at @address, whatever the ports; "": nowhere else */
};

struct role_dial_ask {
	uint32_t session; /* the linker's number */
	uint32_t hid;	  /* or ROLE_NO_ID: */
	uint32_t req;	  /* of BL_CA_OPEN */
};

struct role_dialed {
	uint32_t session;
	int32_t error;
	char why[256];
};

/* Codes of REFUSED and RESET (docs/design/link.md). */
enum link_code {
	LINK_CODE_NONE,
	LINK_DENIED,
	LINK_UNKNOWN,
	LINK_DOWN,
	LINK_LIMIT,
	LINK_DRAINING,
	LINK_PEER,
	LINK_CUT,
	LINK_FAILED,
	LINK_CODE_N
};

/* What is carried: OPEN's kind. */
enum link_kind { LINK_SOCKET, LINK_STREAM, LINK_MESSAGES, LINK_KIND_N };

struct role_carry {
	uint32_t hid;
	uint32_t kid;  /* whose certificate the session shows */
	uint32_t kind; /* enum link_kind */
	uint32_t wid;  /* the client's workload: what its lanes take of the linker's is counted */
	uint64_t lane_id;
	uint64_t bytes_per_s; /* 0: no limit; counts both directions together */
	char destination[LIMIT_SERVICE_SIZE];
};

/* A certificate's serial, hexadecimal, of at most 20 bytes (RFC 5280); rounded up. */
enum { ROLE_SERIAL_SIZE = 48 };

struct role_link_ask {
	uint32_t ask; /* the linker's number */
	uint32_t kind;
	char source[LIMIT_SPIFFE_ID_SIZE]; /* from the certificate, checked: a service's */
	char destination[LIMIT_SERVICE_SIZE]; /* "ns/name" as the peer said it, checked for form */
	char peer[LIMIT_ADDRESS_SIZE]; /* for people */
	char serial[ROLE_SERIAL_SIZE]; /* of that certificate: says to which host it was issued (serial_is_of_host()) */
	uint64_t link_id;	       /* see link_lane_id() */
};

struct role_link_go {
	uint32_t ask;
	uint32_t kid; /* the destination's: what PROOF shows */
	uint32_t wid; /* of a library's: the workload that listens; else 0 */
	uint32_t pad;
	uint64_t lane_id;
	uint64_t bytes_per_s;
};

struct role_link_no {
	uint32_t ask;
	uint32_t code; /* enum link_code */
	char why[256];
};

struct role_link_failed {
	uint64_t lane_id;
	uint32_t code; /* enum link_code: what the far host said, or LINK_FAILED if none was reached */
	uint32_t certificate; /* 1: DENIED by this host: it does not take the certificate of the service there */
	char why[256];
};

enum session_state { SESSION_UP, SESSION_DOWN, SESSION_REFUSED, SESSION_STATE_N };

/* Why a session was refused or ended (docs/design/link.md, "Who is who"). */
enum session_reason {
	SESSION_OK, /* came up; or ended in order */
	SESSION_NO_CERTIFICATE,
	SESSION_UNTRUSTED,
	SESSION_EXPIRED,
	SESSION_NOT_YET_VALID,
	SESSION_BAD_IDENTITY,
	SESSION_WRONG_HOST,
	SESSION_REVOKED,
	SESSION_PROTOCOL,
	SESSION_LIMIT,	 /* whose it is has as many as are left for all others together */
	SESSION_TIMEOUT, /* connecting, in the handshake, or dead since */
	SESSION_LOST,	 /* the connection broke, or could not be made */
	SESSION_REASON_N
};

struct role_session {
	uint32_t session; /* the linker's number */
	uint32_t state;	  /* enum session_state */
	uint32_t reason;  /* enum session_reason */
	uint32_t hid;	  /* outbound; else ROLE_NO_ID */
	uint32_t inbound, resumed;
	uint32_t for_ca; /* a question to an authority, and its answer: nothing else */
	char local[LIMIT_SPIFFE_ID_SIZE], peer[LIMIT_SPIFFE_ID_SIZE]; /* "" if not known (yet) */
	char address[LIMIT_ADDRESS_SIZE];			      /* the other side's */
	char cipher[40];
	char peer_serial[ROLE_SERIAL_SIZE]; /* of the certificate of `peer`; "" if not known */
	char why[256];
};

struct role_session_stats {
	uint32_t session;
	uint32_t n_lanes;
	uint64_t bytes_in, bytes_out;	/* of TCP, and of its rings' records, unsealed */
	uint64_t rdma_in, rdma_out;	/* of these, the rings' */
	uint64_t reads, writes;		/* system calls on it */
	uint64_t n_opened, n_refused;	/* lanes, since it is up */
	uint32_t rtt_us;		/* the kernel's estimate (TCP_INFO) */
	uint32_t silent_ms;		/* since its last byte came */
};

/* Which way a session's frames go (docs/design/link.md, "Sessions over RDMA"). */
enum session_path {
	SESSION_PATH_TLS,  /* and why not by RDMA, which this host could */
	SESSION_PATH_RDMA, /* in both directions */
	SESSION_PATH_LOST, /* it was RDMA, which broke: LB_SESSION, down, follows */
	SESSION_PATH_N
};

struct role_path {
	uint32_t session; /* the linker's number */
	uint32_t path;	  /* enum session_path */
	uint32_t tag;	  /* the upper half of its lanes' link_id */
	uint32_t pad;
	char device[64]; /* SESSION_PATH_RDMA: "rxe0" */
	char why[256];	 /* a line for people; "" with SESSION_PATH_RDMA */
};

enum rdma_mode { RDMA_OFF, RDMA_AUTO, RDMA_PLAIN /* the fabric encrypts */, RDMA_MODE_N };

struct role_rdma {
	uint32_t mode; /* enum rdma_mode */
	uint32_t pad;
	char address[LIMIT_ADDRESS_SIZE]; /* of the device, and where this linker listens there; "": there is none */
};

struct role_device {
	int32_t error; /* 0; or negative errno: there is no device, or none is wanted */
	uint32_t atomics, windows;
	uint32_t pad;
	uint64_t memlock; /* RLIMIT_MEMLOCK, bytes; UINT64_MAX: none */
	char device[64];  /* "rxe0"; "" if there is none */
	char address[LIMIT_ADDRESS_SIZE];
	char why[256]; /* a line for people; "" with a device */
};

/* Of one linker's device. Counters never go back while the linker lives. */
struct role_rdma_stats {
	uint32_t n_conns;	/* sessions that asked for it, and have not given it up */
	uint32_t n_quarantined; /* peers with which no connection is made now */
	uint64_t pinned;	/* bytes */
	uint64_t offences;	/* accesses that were refused, records that did not open */
};

enum ca_mode { CA_HOST, CA_JOIN, CA_MODE_N };

struct role_ca {
	uint32_t req;  /* BL_CA_OPEN: the broker's number; LB_CA_ASK: the linker's */
	int32_t error; /* LB_CA_ANSWER: the session could not be had, or broke: then no descriptor */
	uint32_t mode; /* enum ca_mode */
	uint32_t shared; /* BL_CA_ANSWER: not 0: a text that has this number, the same for all who are answered with it; newer ones have higher numbers */
	uint8_t exporter[32]; /* label EXPORTER-sealane-ca */
	uint8_t root[32];     /* CA_JOIN: SHA-256 of the root's DER that the chain must end at */
	char address[LIMIT_ADDRESS_SIZE];
	char host[LIMIT_NAME_SIZE];	     /* which host must answer */
	char peer[LIMIT_SPIFFE_ID_SIZE]; /* LB_CA_ASK: who asks; "" with CA_JOIN */
	char why[256];
};

/* An uncompressed P-256 point: 4, x, y. */
enum { KEY_POINT_SIZE = 65, SIGNATURE_SIZE = 80 };

struct role_key {
	uint32_t kid;	/* the broker's number, from then on its name for linkers */
	uint32_t fresh; /* 1: a new one in any case; 0: the stored one, if there is one */
	uint32_t apart; /* 1: for BS_SIGN alone: no linker may have anything signed by it */
	char name[LIMIT_PATH_SIZE]; /* a file name: "host", "svc.NS.NAME" */
};

/* An authority has one root, and two while the next one takes its place: each has a slot at the signer. */
enum { ROLE_ROOT_SLOTS = 2 };
enum ca_make {
	CA_MAKE_NOT,  /* it is there */
	CA_MAKE_NEW,  /* it must not be there yet */
	CA_MAKE_ANEW, /* in place of what is there */
	CA_MAKE_N
};

struct role_ca_key {
	uint32_t make; /* enum ca_make */
	uint32_t slot;
	char trust_domain[LIMIT_TRUST_DOMAIN_SIZE];
};

struct role_sign {
	uint32_t kid;
	uint32_t pad;
	uint8_t digest[32]; /* SHA-256: all that is signed is */
};

/* With its NUL before what the root signs and is no certificate (sha256_labelled()). */
#define ROLE_LIST_LABEL "sealane ca list v1"

struct role_verify {
	uint8_t digest[32];
	uint8_t public_key[KEY_POINT_SIZE];
	uint8_t signature_size;
	uint8_t pad[6];
	uint8_t signature[SIGNATURE_SIZE];
};

struct role_issue {
	int64_t not_before, not_after; /* Unix seconds */
	uint8_t serial[16];	       /* positive, random */
	uint8_t public_key[KEY_POINT_SIZE];
	uint8_t proof_size; /* of `proof`: by public_key over `proven`; 0: none is asked for (this host's own) */
	uint8_t slot;	    /* of the root that signs it */
	uint8_t pad[5];
	uint8_t proof[SIGNATURE_SIZE];
	uint8_t proven[32];
	char spiffe_id[LIMIT_SPIFFE_ID_SIZE];
};

struct role_signed {
	int32_t error; /* 0 or negative errno: -ENOKEY no such key, -EKEYREJECTED the proof is wrong */
	uint32_t signature_size;
	uint8_t signature[SIGNATURE_SIZE]; /* ECDSA, DER */
	uint8_t public_key[KEY_POINT_SIZE];
	uint8_t pad[7];
	char why[256];
};

enum etcd_file { ETCD_FILE_CA, ETCD_FILE_CERTIFICATE, ETCD_FILE_KEY, ETCD_FILE_PASSWORD, ETCD_FILE_N };

struct role_etcd_file {
	uint32_t kind; /* enum etcd_file */
	uint32_t pad;
	char path[LIMIT_PATH_SIZE];
};

struct role_etcd {
	uint32_t lease_s;
	uint32_t n_endpoints;
	char host[LIMIT_NAME_SIZE]; /* ours */
	char prefix[LIMIT_ETCD_PREFIX_SIZE]; /* "/sealane" */
	char user[LIMIT_NAME_SIZE]; /* "": none */
	char endpoints[LIMIT_ETCD_ENDPOINTS][LIMIT_ETCD_ENDPOINT_SIZE];
};

enum etcd_entry_state {
	ETCD_ENTRY_PUT,
	ETCD_ENTRY_GONE,      /* deleted, or its lease ended; no value */
	ETCD_ENTRY_MALFORMED, /* something is there that is no value of this key; none here */
	ETCD_ENTRY_STATE_N
};

struct role_etcd_entry {
	uint32_t state; /* enum etcd_entry_state */
	uint32_t pad;
	uint64_t revision; /* EB_ENTRY: of etcd's data when it came to be so; else 0 */
	char key[LIMIT_CATALOGUE_KEY_SIZE]; /* below the prefix: "hosts/a" */
	char value[LIMIT_CATALOGUE_VALUE_SIZE];
	char pad2[7];
};

struct role_etcd_range {
	uint64_t cluster_id, revision;
};

enum etcd_state {
	ETCD_CONNECTING,
	ETCD_UP,
	ETCD_AWAY,    /* it cannot be reached, or does not make sense */
	ETCD_REFUSED, /* it answers, and will not have us: a person has to do something */
	ETCD_STATE_N
};

struct role_etcd_state {
	uint32_t state; /* enum etcd_state */
	uint32_t pad;
	char endpoint[LIMIT_ETCD_ENDPOINT_SIZE];
	char why[256];
};

struct role_etcd_done {
	int32_t error; /* 0 or negative errno: -EHOSTDOWN etcd is away, -EACCES it forbids, -ESTALE somebody else was first */
	uint32_t pad;
	char why[256];
};

struct role_check {
	uint32_t sid;
	uint32_t timeout_ms;
	uint32_t n_args;
	uint32_t pad;
	char args[1024]; /* n_args NUL-terminated words */
};

struct role_check_result {
	uint32_t sid;
	int32_t status; /* exit status; 128 + signal; -ETIMEDOUT; negative errno when it could not be started */
	char output[256]; /* the start of what it printed, for people */
};

struct role_store {
	char name[LIMIT_PATH_SIZE];
};

struct role_grace {
	uint32_t grace_ms;
};

struct role_msg {
	uint32_t type; /* enum role_msg_type */
	uint32_t seq;  /* chosen by who asks, echoed by the answer; 0: no answer is expected */
	union {
		struct role_workload workload;
		struct role_cgroup cgroup;
		struct role_listen listen;
		struct role_server server;
		struct role_route_to route;
		struct role_id id;
		struct role_cut cut;
		struct role_resolve resolve;
		struct role_reply reply;
		struct role_config config;
		struct role_gate gate;
		struct role_server_state server_state;
		struct role_guard guard;
		struct role_gate_listen gate_listen;
		struct role_go go;
		struct role_lane_ref lane_ref;
		struct role_accept accept;
		struct role_stats stats;
		struct role_ask ask;
		struct role_refuse refuse;
		struct role_offer offer;
		struct role_leash leash;
		struct role_lend lend;
		struct role_check check;
		struct role_check_result check_result;
		struct role_store store;
		struct role_grace grace;
		struct role_dial dial;
		struct role_trust trust;
		struct role_tickets tickets;
		struct role_credential credential;
		struct role_host host;
		struct role_dial_ask dial_ask;
		struct role_dialed dialed;
		struct role_carry carry;
		struct role_link_ask link_ask;
		struct role_link_go link_go;
		struct role_link_no link_no;
		struct role_link_failed link_failed;
		struct role_session session;
		struct role_session_stats session_stats;
		struct role_path path;
		struct role_rdma rdma;
		struct role_device device;
		struct role_rdma_stats rdma_stats;
		struct role_ca ca;
		struct role_key key;
		struct role_ca_key ca_key;
		struct role_sign sign;
		struct role_verify verify;
		struct role_issue issue;
		struct role_signed signed_;
		struct role_etcd_file etcd_file;
		struct role_etcd etcd;
		struct role_etcd_entry entry;
		struct role_etcd_range etcd_range;
		struct role_etcd_state etcd_state;
		struct role_etcd_done etcd_done;
	} u;
};
static_assert(sizeof(struct role_msg) <= LIMIT_ROLE_MSG_SIZE, "a message fits the channel's buffers");

/* role_msg_size() - the exact size a message of this type has on the channel; 0 for an unknown type. */
size_t role_msg_size(uint32_t type);

/* role_msg_name() - "BW_LISTEN"; never NULL. */
const char *role_msg_name(uint32_t type);

/*
 * role_msg_check() - is what was received a well-formed message: known type, exact size, terminated strings, enums in range?
 * Return: 0 or -EBADMSG. A role that gets a bad message from another one ends that channel.
 */
MUST_CHECK int role_msg_check(const struct role_msg *m, size_t size);

struct chan;

/* role_send() - chan_send() with the size that the type has. */
MUST_CHECK int role_send(struct chan *c, const struct role_msg *m, int fd);

/* role_recv() - chan_recv() and role_msg_check(). Return: 1: a message; 0: the peer closed; -EAGAIN; other negative errno. */
MUST_CHECK int role_recv(struct chan *c, struct role_msg *ret_m, int *ret_fd);

const char *lane_end_name(uint32_t end);
const char *link_code_name(uint32_t code);	     /* "denied" */
/*
 * link_lane_id() - what people call a lane between hosts, the same at both ends: "5f3a9c01-17", the session's first 32 bits of the exporter
 * EXPORTER-sealane-lane and the lane's number there, which are the two halves of @link_id. Into @buf of LINK_LANE_ID_SIZE; "" for 0: not known.
 */
enum { LINK_LANE_ID_SIZE = 8 + 1 + 10 + 1 };
char *link_lane_id(char *buf, uint64_t link_id);
const char *session_reason_name(uint32_t reason); /* "no-certificate" */
const char *identity_method_name(uint32_t method);

#endif
