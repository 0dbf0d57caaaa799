/*
 * What sealane's own processes say to each other: fixed-size messages, one per datagram on a chan (base/chan.h).
 * This list is the map of who may ask what of whom; docs/design/roles.md tells the story.
 *
 *   broker -> warden   BW_*   hands: make, place, watch, connect, cut        warden -> broker   WB_*
 *   broker -> gate     BG_*   lanes through the relay                        gate   -> broker   GB_*
 *   broker -> porter   BP_*   lanes in shared memory, between libraries      porter -> broker   PB_*
 *   broker -> checker  BC_*   health check commands                          checker -> broker  CB_*
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

	/* broker -> gate */
	BG_LISTEN,	   /* + fd: accept here */
	BG_UNLISTEN,
	BG_GO,		   /* + fd: the server's end for an accepted connection: relay */
	BG_REFUSE,	   /* close an accepted connection */
	BG_CUT,		   /* end a lane */
	BG_LIMIT,	   /* new byte rate for a lane */
	BG_STATS,	   /* send GB_STATS for each lane, then one with lane_id 0 */

	/* gate -> broker */
	GB_ACCEPT,	   /* who connected: ask for a verdict */
	GB_GONE,	   /* the client left before the verdict */
	GB_CLOSED,	   /* a lane ended */
	GB_STATS,

	/* broker -> porter */
	BP_LISTEN,	   /* + fd: a workload's control socket (u.gate_listen) */
	BP_UNLISTEN,	   /* u.id */
	BP_REFUSE,	   /* no, and why: answer with CTL_ERROR and close (u.refuse) */
	BP_LISTENING,	   /* the connection may take lanes: answer with CTL_LISTENING (u.id: cid) */
	BP_OFFER,	   /* join a client and a listener: a lane (u.offer) */
	BP_CUT,		   /* end a lane (u.refuse: its lane_id) */
	BP_ADOPT,	   /* + fd: one end's leash of a lane that an earlier porter made (u.leash); then the other's */
	BP_STATS,	   /* send PB_STATS for each lane, then one with lane_id 0 (u.id: unused; seq is echoed) */

	/* porter -> broker */
	PB_ASK,		   /* who connected, and what they ask for (u.ask) */
	PB_GONE,	   /* an asker left before its answer, or a listener has gone (u.id: cid) */
	PB_OPEN,	   /* both ends have a lane (u.lane_ref) */
	PB_KEEP,	   /* + fd: one end's leash, to be held over a restart (u.leash) */
	PB_CLOSED,	   /* it ended, or never came to be (u.stats) */
	PB_STATS,

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
		struct role_check check;
		struct role_check_result check_result;
		struct role_store store;
		struct role_grace grace;
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
const char *identity_method_name(uint32_t method);

#endif
