/*
 * What a configuration says, checked: the only shape in which the rest of the daemon sees it. Immutable once loaded; a
 * reload makes a new one and either takes it whole or keeps the old one whole.
 *
 * Native form and Consul's `services = [...]` end up in the same structs (docs/config.md, sealane.conf(5)).
 * Strings are owned by the config. Indices between tables are positions in its arrays. No I/O, but for the names of users and
 * groups, see config_set_resolver(). Without `gates` it asks sched_getaffinity() for the number of cores; whether an intention
 * has expired already it asks time(), with `rdma_listen` whether there is RDMA, and without `host_name` gethostname().
 */
#ifndef CONF_CONFIG_H
#define CONF_CONFIG_H

#include "conf/tree.h"
#include "core/policy.h"

#include <sys/types.h>

#define CONFIG_NONE SIZE_MAX
enum { CONFIG_WARNINGS_MAX = 100, CONFIG_LISTEN_MAX = 8 };

/* mode/owner/group of a socket file; -1: not said. Owner and group are numbers or names, resolved at load (getpwnam). */
struct config_access {
	int mode;
	int64_t uid, gid;
};

struct config_check {
	bool present;
	bool socket;			     /* connect to the service's socket; else run args */
	char *args[LIMIT_CHECK_ARGS + 1];    /* NULL-terminated; absolute path first */
	double interval_s, timeout_s;	     /* default 10 s and 1 s */
};

struct config_service {
	struct service_name name;
	size_t workload;	     /* the workload that offers it (index), never CONFIG_NONE: made from the service's own name if need be */
	bool takes_lanes;	     /* a library of its workload may listen for it: unless `offer = false` */
	bool offered;		     /* somebody may connect to it: `offer`; unsaid: socket_path was given, or there are no upstreams */
	char *socket_path;	     /* absolute: on the host; relative: below the workload's serve/. Default NAME.sock */
	struct config_access access; /* of the server's own socket; default mode 0666 for relative paths, untouched for absolute ones */
	struct config_check check;
	const char *file;
	unsigned line;
};

struct config_upstream {
	struct service_name destination;
	size_t source;		     /* the service it speaks as (index) */
	char *path;		     /* relative: in the workload's directory (default NAME.sock); absolute: on the host */
	struct config_access access; /* of the socket file; unsaid: mode 0666 */
	const char *file;
	unsigned line;
};

/* How the daemon recognises a workload's cgroup when no engine hook tells it. All NULL: enrolled by hook, CLI or API only. */
struct config_match {
	char *cgroup;	 /* path below the cgroup2 mount: "/system.slice/web.service" */
	char *container; /* a container id (at least 12 hex digits): any cgroup whose last part holds it */
	char *label;	 /* "key=value": an engine's label or annotation, told by the OCI hook */
};

struct config_workload {
	char name[LIMIT_NAME_SIZE];
	size_t services[LIMIT_WORKLOAD_SERVICES];
	size_t n_services;
	bool offers; /* at least one of its services is offered at a relative path */
	struct config_match match;
	const char *file;
	unsigned line;
};

/* Another host, as its file says it: `host b { address = "10.0.0.2:7443" }`. */
struct config_host {
	char name[LIMIT_NAME_SIZE];
	char address[LIMIT_ADDRESS_SIZE];
	char rdma_listen[LIMIT_ADDRESS_SIZE]; /* of its device; "": at @address, whatever the port */
	struct service_name *services; /* what it offers, said beforehand; else it says so itself when it is reached */
	size_t n_services;
	const char *file;
	unsigned line;
};

/* This host among others (docs/design/link.md). */
struct config_link {
	char host_name[LIMIT_NAME_SIZE]; /* ours; "": not said, and the machine's own name is no label */
	char listen[CONFIG_LISTEN_MAX][LIMIT_ADDRESS_SIZE];
	size_t n_listen;
	unsigned n_linkers;		/* `links`; default 1 */
	char authority[LIMIT_NAME_SIZE]; /* the host that answers for certificates; "": the one that this host joined */
	char *certificates;		/* the directory that others put certificates into; NULL: none, there is an authority */
	double svid_life_s, idle_s, timeout_s; /* default 1 h, 60 s, 15 s */
	enum config_rdma { CONFIG_RDMA_AUTO, CONFIG_RDMA_OFF, CONFIG_RDMA_PLAIN } rdma; /* `rdma = auto | off | plain` */
	char rdma_listen[LIMIT_ADDRESS_SIZE]; /* "": as config_rdma_address() finds it */
	const char *rdma_listen_file; /* where it was said */
	unsigned rdma_listen_line;
	uint32_t window;		/* bytes; default 256 KiB */
	char congestion[20];		/* "": the kernel's own choice; default cubic */
	bool wanted; /* a host, listen, authority or certificates was given: linkers run even before this host has joined */
};

/* The catalogue of a cluster (docs/design/catalogue.md). */
struct config_etcd {
	bool present;
	char endpoints[LIMIT_ETCD_ENDPOINTS][LIMIT_ETCD_ENDPOINT_SIZE];
	size_t n_endpoints;
	char prefix[LIMIT_ETCD_PREFIX_SIZE]; /* default "/sealane" */
	char *ca, *certificate, *key, *password_file; /* absolute paths; NULL: none */
	char user[LIMIT_NAME_SIZE];		      /* "": none */
	char address[LIMIT_ADDRESS_SIZE];	      /* what others are told to dial; "": as `host` or `listen` say */
	double lease_s;				      /* default 10 s */
};

enum config_direct { CONFIG_DIRECT_AUTO, CONFIG_DIRECT_OFF };
enum config_identity { CONFIG_IDENTITY_AUTO, CONFIG_IDENTITY_PIDFD, CONFIG_IDENTITY_PEERCRED };

struct config {
	char trust_domain[LIMIT_TRUST_DOMAIN_SIZE]; /* default "sealane.local" */
	char namespace_[LIMIT_NAME_SIZE];	    /* default "default" */
	enum config_direct direct;		    /* `direct = auto | off` */
	enum config_identity identity;		    /* `identity = auto | pidfd | peercred` */
	double restart_grace_s;			    /* how long sockets wait for the next daemon; default 30 */
	double connect_wait_s;			    /* how long a client waits for a server that is not up; default 5 */
	unsigned n_gates;			    /* default: one per core, at most 4 */
	char *cdi_dir;				    /* default "/run/cdi"; "" or "off": write none */
	struct config_access admin;		    /* of admin.sock; default 0600 root */
	uid_t *admin_uids;			    /* besides root: who may change things */
	size_t n_admin_uids;

	struct config_link link;
	struct config_host *hosts; /* this one may be among them, so that all hosts can have the same file */
	size_t n_hosts;

	struct config_etcd etcd;

	struct config_workload *workloads;
	size_t n_workloads;
	struct config_service *services;
	size_t n_services;
	struct config_upstream *upstreams;
	size_t n_upstreams;
	struct intention *intentions;
	size_t n_intentions;

	char **warnings; /* "FILE:LINE: text": right in form, and likely not what was meant (config_warn.c) */
	size_t n_warnings;
	size_t n_warnings_left_out; /* beyond CONFIG_WARNINGS_MAX: counted only */

	struct conf_tree **trees; /* own the `file` strings above; the values in them are gone (conf_tree_trim()) */
	size_t n_trees;

	size_t *services_by_name, *workloads_by_name; /* indices in order of name, for config_find_*() */
	size_t n_workloads_by_name;
};

struct config_source {
	const char *name;
	const char *text;
	size_t size;
};

/*
 * config_load() - parse, merge and check @n files. Unknown keys, doubled names, ties between intentions, bad values:
 * each is an error that names file, line, key and what was expected; the first one is reported.
 * Return: 0, -EINVAL (see @ret_error), -ENOMEM. *ret_config: owned by the caller, config_free().
 */
MUST_CHECK int config_load(struct config **ret_config, const struct config_source *sources, size_t n,
			   struct conf_error *ret_error);
struct config *config_free(struct config *c);

/*
 * config_set_resolver() - how the names of users and groups become numbers. Each returns 0 or negative errno. NULL: getpwnam()
 * and getgrnam(), which a role that cannot open files must not call. For the whole process; before config_load().
 */
typedef int (*config_resolve_fn)(const char *name, int64_t *ret_id);
void config_set_resolver(config_resolve_fn user, config_resolve_fn group);

/* config_find_*() - index, or CONFIG_NONE. */
size_t config_find_service(const struct config *c, const struct service_name *name);
size_t config_find_workload(const struct config *c, const char *name);

/*
 * config_rdma_address() - where linker number @linker opens its RDMA device: `rdma_listen`, of this host's own block as well; else the first address of `listen`
 * that is one machine's; else what other hosts dial. Its port is that of the address and @linker. Into @ret of LIMIT_ADDRESS_SIZE. Return: NULL; or why there is none, a constant; then @ret is "".
 */
const char *config_rdma_address(const struct config *c, unsigned linker, char *ret);

#endif
