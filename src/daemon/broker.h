/*
 * The broker: the one place where sealane decides. It holds the configuration, the policy, the workloads and the lanes,
 * asks the warden's hands to do things and the gates to carry bytes, serves the admin interface and writes every decision
 * down. It runs without root; of the file system it reaches only its state directory.
 *
 * Before it on a connection's way: gate.c (who connected?). After it: warden (connect), gate.c again (relay).
 * Files: broker.c (loop, channels), broker_model.c (configuration into tables), broker_lane.c (a connection's way),
 * broker_port.c and broker_shm.c (the same for lanes in shared memory), broker_link.c (other hosts), broker_catalogue.c (the cluster), broker_admin.c (HTTP), broker_views.c (JSON),
 * broker_metrics.c, state.c (SQLite).
 *
 * Threads: one. Everything here belongs to the broker's event loop.
 */
#ifndef DAEMON_BROKER_H
#define DAEMON_BROKER_H

#include "base/chan.h"
#include "conf/config.h"
#include "core/lane.h"
#include "daemon/state.h"
#include "wire/role.h"

#include <event2/event.h>
#include <uthash.h>

struct broker;

/* What one linker was told of RDMA, and what came of it (broker_rdma.c). */
struct link_device {
	struct role_rdma asked;
	const char *lacks; /* a constant: why no address could be told; NULL: one was */
	bool known;	   /* LB_DEVICE has come: */
	struct role_device is;
	struct role_rdma_stats stats; /* as of the last BL_STATS */
	char told[256];		      /* what the log said last */
	bool renew;		      /* another linker is to take its place, when it has no lanes */
	enum { RENEW_NOT, RENEW_LEAVING, RENEW_DRAINING } stage; /* and does (broker_rdma.c) */
};

enum health { HEALTH_UNCHECKED, HEALTH_PASSING, HEALTH_FAILING, HEALTH_N };
const char *health_name(enum health h);

/* A workload and, while one runs, its container. Lives as long as the broker knows the name; wid indexes broker->workloads. */
struct workload {
	uint32_t wid;
	char name[LIMIT_NAME_SIZE];
	bool configured; /* else made at run time (`sealane run`, API) and gone with its cgroup */
	bool removed;	 /* slot is free; wids are not used again while the daemon runs */
	bool draining;
	struct service_name services[LIMIT_WORKLOAD_SERVICES];
	size_t n_services;
	bool offers;
	struct config_match match; /* borrowed from the config */

	uint64_t cgroup_id; /* 0: nothing is enrolled now */
	char cgroup_path[LIMIT_PATH_SIZE];
	char container_id[128]; /* as the engine's hook told it, "" otherwise; for people only */
	uint32_t generation; /* counts ends of enrolments: what was asked before one is no answer for what comes after it */
	bool enrolling;	     /* BW_ENROL is under way */
	bool orphaned;	     /* no longer in the configuration, but its container still runs and holds the directory's mount */
	uint32_t n_openings; /* connections that the gates hold for it until the verdict */
	struct bucket log_refusals, log_lanes; /* events of this workload: see broker_lane.c */
	uint64_t n_unlogged_refusals, n_unlogged_lanes;
	bool enrol_retry, enrol_told; /* broker_enrol.c: a timer looks again; the refusal was logged */
	char enrolled_by[64];	/* "config", "hook", "cli", "state" */
	uint32_t n_lanes;	/* open relayed lanes from it */
	uint32_t n_link_lanes;	/* from it to other hosts, open or opening */
	uint32_t n_lent_lanes;	/* of those, a library's */
	/* Its control socket (broker_port.c), and what came by it. */
	int control_fd;		/* owned; -1: none (yet) */
	uint32_t control_seq;	/* of the last BW_LISTEN or BW_UNLISTEN for it: an earlier answer says nothing */
	bool control_wanted;
	uint32_t n_shm_lanes, n_listeners; /* lanes in shared memory that it asked for; services that it listens for */
	uint64_t shm_size;		   /* of its own regions of those lanes, and of a library's to other hosts */
	uint64_t n_allowed, n_denied, n_cut;
};

/* A service somebody may connect to on this host. sid indexes broker->services. */
struct service {
	uint32_t sid;
	struct service_name name;
	bool removed;
	bool offered;	 /* has a socket; else it only connects to others */
	bool takes_lanes; /* a library may listen for it */
	bool was_listened; /* and has: other hosts are told of the service also while nobody does */
	struct port_listener *listeners; /* those that do: broker_port.c only */
	uint32_t n_listeners;
	uint32_t wid;	 /* the workload that offers it */
	bool on_host;	 /* its socket_path is absolute */
	char path[LIMIT_PATH_SIZE];
	struct config_access access;
	struct config_check check; /* borrowed from the config */
	bool up, linkable;	   /* WB_SERVER_STATE */
	uint32_t mode;
	uint64_t dev, ino;

	enum health health;
	char health_output[256];
	uint64_t health_changed_unix_s;
	struct event *check_timer;
	bool check_running;
};

/* One upstream: a socket file of one workload. lid indexes broker->upstreams. */
struct upstream {
	uint32_t lid;
	bool removed;
	uint32_t wid;
	struct service_name source, destination;
	char path[LIMIT_PATH_SIZE];
	struct config_access access;
	bool listening;		    /* the gate accepts on it */
	int listen_fd;		    /* owned while listening: for gates that are started later */
	uint32_t route_seq;	    /* of the last BW_ROUTE: an answer to an earlier one says nothing */
	bool may_have_direct;	    /* the name led to the server since the last cut: somebody may hold lanes, or the inode */
	struct route_choice choice; /* what its name leads to now; choice.intention is refreshed with the policy */
	uint64_t n_allowed, n_denied;
};

/* An intention's use, per pair of services that talk under it. Key: both names. */
struct pair_key {
	struct service_name source, destination;
};

/* What another host said no with, when it was asked for a lane of the pair last. */
struct pair_refusal {
	uint32_t code; /* enum link_code */
	bool certificate; /* this host said it of the other one's certificate */
	int64_t at_unix_s;
	char host[LIMIT_NAME_SIZE];
	char why[256];
};

struct pair {
	struct pair_key key;
	struct lane_quota quota;
	struct pair_refusal *refusal; /* owned; NULL: none, or a lane was opened since */
	UT_hash_handle hh;
};

enum lane_path { LANE_PATH_RELAY, LANE_PATH_DIRECT, LANE_PATH_SHM, LANE_PATH_LINK, LANE_PATH_N };

/* What only a library's lane has: in shared memory (broker_shm.c), or with one end on another host (broker_lend.c). */
struct lane_shm {
	bool pending;		/* offered, and not taken yet: it is no open lane */
	uint32_t kind;		/* enum control_kind; CONTROL_KIND_N: not known, since it was adopted */
	bool leashed;		/* the porter that runs now holds it */
	bool adopted;		/* an earlier daemon brokered it */
	bool kept[2];		/* the keeper holds the client's, the server's leash */
	uint32_t server_wid;
	uint64_t client_cgroup, server_cgroup; /* the containers it was given to: it ends with either */
	uint32_t listener;	/* cid */
	uint64_t listener_serial;
	uint64_t size;		/* of the client's region, charged to the client's workload */
	uint32_t cap_log2;
};

struct carry;
struct welcome;

enum { SHARE_N = 2 /* by source, by workload here */ };

/* What only a lane between hosts has (broker_cross.c). */
struct lane_link {
	uint32_t kind;	       /* enum link_kind: LINK_SOCKET, or a library's */
	uint64_t lent;	       /* a library's: its number at the porter, which stays the same (broker_lend.c); 0: a socket file's */
	bool lent_given;       /* the porter has lent it: once */
	bool lent_over;	       /* the porter has it no more */
	bool lent_told;	       /* the porter was told to end it */
	struct welcome *welcome; /* inbound, of a library: the linker has not got it yet (broker_welcome.c) */
	struct carry *opening; /* outbound: no host has taken it yet, so it is no open lane (broker_carry.c) */
	bool inbound;	       /* then there is no client here: wid and lid are ROLE_NO_ID */
	uint32_t linker;
	uint32_t hid;			/* inbound: of the host that is proven (link_host_of()); or ROLE_NO_ID */
	char peer[LIMIT_ADDRESS_SIZE];	/* inbound: where it came from */
	uint64_t id;			/* the same at both ends (link_lane_id()); 0: not known (yet) */
	struct share *shares[SHARE_N];	/* inbound: where it is counted (broker_share.c) */
};

/*
 * A lane, open now. Relayed ones, those in shared memory and those between hosts live in broker->lanes by id; direct ones are the
 * result of the last scan.
 */
struct lane {
	uint64_t id; /* direct: made from the two socket inodes */
	enum lane_path path;
	uint32_t wid; /* client's workload, ROLE_NO_ID if unknown */
	uint32_t lid; /* ROLE_NO_ID for direct lanes */
	uint32_t sid;
	struct service_name source, destination;
	uint32_t gate;	/* index */
	uint32_t client_pid, server_pid;
	uint64_t opened_unix_s;
	uint64_t bytes_up, bytes_down, reads_up, reads_down; /* as of the last BG_STATS or BP_STATS; not of direct ones */
	uint64_t bytes_per_s; /* the limit it runs under; 0: none */
	bool cut;	      /* the gate (or the porter) was told to end it */
	uint64_t left_ns;     /* since when nobody is left of a workload at its end: broker_lane.c; 0: somebody is */
	struct pair *pair;
	struct lane_shm shm;
	struct lane_link link;
	UT_hash_handle hh, hh_lent;
};

struct broker_counters {
	uint64_t lanes_opened, lanes_denied, lanes_cut, lanes_refused_identity, lanes_failed;
	uint64_t bytes_up, bytes_down; /* of ended relayed lanes; add the open ones' */
	uint64_t shm_bytes_up, shm_bytes_down; /* the same of lanes in shared memory, as the two ends say */
	uint64_t reloads_ok, reloads_failed;
};

struct link_counters {
	uint64_t rdma_offences; /* of linkers that have ended */
	uint64_t sessions_up;			   /* that ever came up */
	uint64_t refused[SESSION_REASON_N];	   /* that did not come up, by reason */
	uint64_t ended[SESSION_REASON_N];	   /* that had come up */
	uint64_t lanes_opened[2], lanes_no[2][LINK_CODE_N]; /* outbound, inbound; refused by code */
	uint64_t bytes_up[2], bytes_down[2];	   /* of ended lanes; add the open ones' */
};

/*
 * What the admin interface calls. Each of those with a callback answers once, perhaps before it returns; @why is a line
 * for people when @error is not 0 (negative errno), and the broker keeps no pointer of the caller after the answer.
 * A request whose HTTP client went away must still be answered: cancel by passing an @arg whose owner checks.
 */
typedef void (*broker_done_fn)(void *arg, int error, const char *why);

/* broker_intention_set() - add or replace a run-time intention: kept in the state database, in force at once. */
void broker_intention_set(struct broker *b, const struct intention *i, broker_done_fn done, void *arg);

/* broker_intention_remove() - take the pair's run-time intention away. -ENOENT; -EPERM if only the file has one (says which line). */
void broker_intention_remove(struct broker *b, const struct service_pattern *source,
			     const struct service_pattern *destination, broker_done_fn done, void *arg);

struct broker_enrolment {
	char workload[LIMIT_NAME_SIZE]; /* "": the one that matches `service` or `container_id` or `labels` */
	struct service_name service;	/* for a workload made at run time; empty name: none */
	uint64_t cgroup_id;		/* or */
	char cgroup_path[LIMIT_PATH_SIZE];
	char container_id[128];
	char label[256]; /* "key=value", matched against config_match.label */
	char by[64];
};

/* On success @name is the workload's and @dir its directory on the host, for the caller's mount. */
typedef void (*broker_enrol_fn)(void *arg, int error, const char *why, const char *name, const char *dir);
void broker_enrol(struct broker *b, const struct broker_enrolment *e, broker_enrol_fn done, void *arg);

/* broker_unenrol() - forget the workload's cgroup, cut its lanes (of a cgroup that is empty: when what was sent has arrived); a run-time workload is removed with its directory. */
void broker_unenrol(struct broker *b, const char *workload, broker_done_fn done, void *arg);

/* broker_reload() - read the files again; old configuration stays if the new one is wrong (@why: the error). */
void broker_reload(struct broker *b, broker_done_fn done, void *arg);

/* broker_drain() - no new lanes to or from the workload (or undo it); open ones go on. */
void broker_drain(struct broker *b, const char *workload, bool on, broker_done_fn done, void *arg);

/* broker_refresh_lanes() - fetch relay counters and scan direct lanes; when done, broker_each_lane() is fresh. */
void broker_refresh_lanes(struct broker *b, broker_done_fn done, void *arg);
int broker_each_lane(struct broker *b, int (*fn)(void *arg, const struct lane *l), void *arg);

/* Another host that the lane would go to (it has the service up), or come from. */
struct explained_host {
	char name[LIMIT_NAME_SIZE]; /* ""; inbound: no host is known by that address */
	char address[LIMIT_ADDRESS_SIZE];
	uint32_t state; /* enum link_host_state, of the session between the two hosts */
	bool session;	/* the source's own session, which carries the lane, stands; else the first lane opens one */
	char path[96];	/* of that session: "tls", "rdma (rxe0)"; "": there is none */
	char path_why[256]; /* why it is, or would be, not RDMA; "": it is, or nothing is against it on this host */
	unsigned kinds; /* outbound: enum offer_kind, what it takes lanes of the service for; 0: not said */
};

/* What a person runs, and where, so that the pair is allowed. */
struct explained_command {
	char host[LIMIT_NAME_SIZE];
	char text[2 * LIMIT_SERVICE_SIZE + 32];
};

/* broker_explain() - as the next connection from @source to @destination would be decided. */
struct broker_explanation {
	struct route_choice choice;
	uint32_t lid, sid; /* ROLE_NO_ID: no such upstream / service on this host */
	const char *identity; /* how the client is recognised: "pidfd", "peercred" */
	const char *guard;    /* "lsm", "off" */
	bool library;	      /* a program that links the library would be given a lane, if it asked now */
	const char *library_path; /* which way it would go: "shm", "link"; NULL: none would be given */
	char library_why[256]; /* and if not, why: one line for people; "" */
	struct explained_command to_allow[2]; /* this host, the other one: those that are known to say no */
	size_t n_to_allow;
	/* The two ends are on two hosts, as far as is known, so the other one decides as well; always with ROUTE_LINK. */
	bool between;
	const struct pair_refusal *refusal; /* the other host's, outbound; NULL. Good until the next call */
	bool inbound;	       /* the source is on another host, and its lanes come in; else they go out */
	const char *lacks;     /* what is missing, a certificate or a host; NULL: nothing. Good until the next call */
	struct explained_host far[16];
	size_t n_far, n_far_more; /* those that there was no room for */
};
struct broker_explanation broker_explain(struct broker *b, const struct service_name *source,
					 const struct service_name *destination);

struct broker {
	struct event_base *base;
	struct config *config;
	struct policy *policy;
	struct state_db *state;
	struct broker_counters counters;
	uint64_t started_unix_s;
	char run_dir[LIMIT_PATH_SIZE]; /* "/run/sealane": for what is told to people; the broker cannot open it */
	enum identity_method identity;
	enum guard_state guard;
	char guard_why[128]; /* why there is none */
	char host[LIMIT_NAME_SIZE]; /* this host: `host_name`, else the machine's name, as peers on lanes are told */

	struct workload *workloads;
	size_t n_workloads;
	struct service *services;
	size_t n_services;
	struct upstream *upstreams;
	size_t n_upstreams;
	struct pair *pairs;
	struct lane *lanes;
	struct lane *direct_lanes; /* array, of the last scan */
	size_t n_direct_lanes;

	struct chan warden, checker, porter, catalogue;
	struct chan gates[LIMIT_GATES];
	size_t n_gates;
	struct chan linkers[LIMIT_LINKERS];
	size_t n_linkers;

	struct link_device devices[LIMIT_LINKERS]; /* as linkers: broker_rdma.c */
	struct link_host *hosts; /* by hid (broker_link.h) */
	struct link_session *sessions;
	struct link_peer *link_peers;
	struct link_counters link;

	struct broker_private *p; /* loop events, pending requests: broker.c only */
	struct admin *admin;	  /* broker_admin.c only */
};

#endif
