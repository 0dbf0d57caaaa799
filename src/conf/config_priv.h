/*
 * What the files of the configuration reader share: config.c (files, globals, order of the passes), config_service.c,
 * config_consul.c (Consul's names for the same things), config_link.c (other hosts), config_etcd.c (the catalogue), config_workload.c, config_intention.c, config_warn.c (what is
 * likely a mistake), config_value.c (single values and the tables of keys). Not for others: they include conf/config.h.
 *
 * Every function that takes a node reports through loader->error with conf_fail() and returns 0, -EINVAL or -ENOMEM.
 */
#ifndef CONF_CONFIG_PRIV_H
#define CONF_CONFIG_PRIV_H

#include "conf/config.h"
#include "conf/guess.h"

/* What was read of a service and is needed until the tables are complete; same index as config->services. */
struct service_draft {
	const struct conf_node *body;	  /* its object */
	const struct conf_node *at;	  /* where its name stands, for messages */
	const struct conf_node *workload; /* `workload = NAME`, or NULL */
	const struct conf_node *offer, *path, *access, *check; /* the key, or NULL */
	bool offer_value;
	bool placed; /* a workload has it */
};

struct workload_draft {
	const struct conf_node *body, *at; /* NULL: made for a service without one */
	const struct conf_node *services;  /* the key, or NULL */
};

struct loader {
	struct config *config;
	struct conf_error *error;
	struct service_draft *services;
	struct workload_draft *workloads;
	const struct conf_node **upstreams, **intentions; /* same index as in the config */
	size_t cap_services, cap_service_drafts, cap_workloads, cap_workload_drafts;
	size_t cap_upstreams, cap_upstream_nodes, cap_intentions, cap_intention_nodes;
	const struct conf_node *globals[32]; /* where each global key was said, over all files */
	size_t n_globals;
	size_t cap_hosts, cap_host_drafts;
	const struct conf_node *etcd;	/* its block, or NULL */
	const struct conf_node **hosts; /* their blocks; same index as config->hosts */
};

/* --- config_value.c: tables of keys --- */

struct config_key {
	const char *name;
	int (*set)(struct loader *l, void *obj, const struct conf_node *n); /* NULL: accepted; ignored or read elsewhere */
	const char *advice; /* not NULL: refused; what to do instead */
	bool repeat;	    /* may be given more than once */
};

struct config_table {
	const struct config_key *keys;
	size_t n_keys;
};
#define CONFIG_TABLE(k) ((struct config_table){ (k), ARRAY_SIZE(k) })

/* A kind of block: "a service", its keys, and which of them can stand for a label. */
struct config_kind {
	const char *what;
	struct config_table tables[2];
	const char *name_keys[2]; /* none: the block has no name */
	bool name_only;		  /* a string instead of a block is the name of an empty one */
	const char *(*belongs)(const char *key); /* the block where an unknown key would be right, or NULL; may be NULL */
};

/* One block with its name, however it was written. */
struct config_item {
	const char *name;	      /* NULL for a kind without names */
	const struct conf_node *body; /* NULL: name only */
	const struct conf_node *at;   /* for messages about the name */
};

typedef int (*config_item_fn)(struct loader *l, void *obj, const struct config_item *item);

/* config_read_block() - call the key's function for each member of the object; unknown, refused and doubled keys fail. */
MUST_CHECK int config_read_block(struct loader *l, const struct config_kind *kind, const struct conf_node *n, void *obj);

/* config_read_items() - `service a {}`, `service { name = a }`, `services = [ {...} ]`, `services { a {} b {} }`. */
MUST_CHECK int config_read_items(struct loader *l, const struct config_kind *kind, const struct conf_node *n,
				 config_item_fn fn, void *obj);

/* config_kind_has() - a key that may be used there. */
bool config_kind_has(const struct config_kind *kind, const char *key);

const struct conf_node *config_find_key(const struct conf_node *object, const char *key);

/* config_each_element() - each member of a list; a single value counts as a list of one. */
#define config_each_element(e, n) \
	for (const struct conf_node *e = (n)->kind == CONF_ARRAY ? (n)->first : (n); e; \
	     e = (n)->kind == CONF_ARRAY ? e->next : NULL)

/* --- config_value.c: single values --- */

MUST_CHECK int config_bad_value(struct loader *l, const struct conf_node *n, const char *expected, ...) PRINTF_LIKE(3, 4);
MUST_CHECK int config_read_text(struct loader *l, const struct conf_node *n, const char *expected, const char **ret);
MUST_CHECK int config_read_copy(struct loader *l, const struct conf_node *n, const char *expected, char **ret);
MUST_CHECK int config_read_bool(struct loader *l, const struct conf_node *n, bool *ret);
MUST_CHECK int config_read_duration(struct loader *l, const struct conf_node *n, double min_s, double max_s, double *ret_s);
MUST_CHECK int config_read_amount(struct loader *l, const struct conf_node *n, uint64_t min, uint64_t max, uint64_t *ret);
MUST_CHECK int config_read_mode(struct loader *l, const struct conf_node *n, int *ret);
MUST_CHECK int config_read_user(struct loader *l, const struct conf_node *n, int64_t *ret);
MUST_CHECK int config_read_group(struct loader *l, const struct conf_node *n, int64_t *ret);
/* @dir: what a relative path lies in, in the container. @reserved: a name that cannot be had there, or NULL. */
MUST_CHECK int config_read_socket_path(struct loader *l, const struct conf_node *n, const char *dir, const char *reserved,
				       char **ret);
MUST_CHECK int config_check_absolute(struct loader *l, const struct conf_node *n, const char *path);

/* config_grow() - room for one more in an array of @n with elements of @size bytes. */
MUST_CHECK int config_grow(void *array_ptr, size_t *cap, size_t n, size_t size);

/* --- the passes --- */

struct config_kind config_service_kind(void);
extern const struct config_kind config_workload_kind, config_intention_kind;
extern const struct config_key config_consul_service_keys[], config_consul_check_keys[], config_consul_upstream_keys[];
extern const size_t config_consul_n_service_keys, config_consul_n_check_keys, config_consul_n_upstream_keys;

MUST_CHECK int config_collect_service(struct loader *l, void *obj, const struct config_item *item);
MUST_CHECK int config_collect_workload(struct loader *l, void *obj, const struct config_item *item);
MUST_CHECK int config_collect_intention(struct loader *l, void *obj, const struct config_item *item);

MUST_CHECK int config_read_services(struct loader *l);
MUST_CHECK int config_read_workloads(struct loader *l);
MUST_CHECK int config_check_paths(struct loader *l);
MUST_CHECK int config_read_intentions(struct loader *l);
MUST_CHECK int config_warn(struct loader *l);

/* --- config_link.c --- */

extern const struct config_kind config_host_kind;
MUST_CHECK int config_collect_host(struct loader *l, void *obj, const struct config_item *item);
/* config_read_hosts() - the hosts' values, and what holds for all that was said about links. */
MUST_CHECK int config_read_hosts(struct loader *l);
void config_link_defaults(struct config_link *c);
MUST_CHECK int config_set_host_name(struct loader *l, void *obj, const struct conf_node *n);
MUST_CHECK int config_set_listen(struct loader *l, void *obj, const struct conf_node *n);
MUST_CHECK int config_set_links(struct loader *l, void *obj, const struct conf_node *n);
MUST_CHECK int config_set_authority(struct loader *l, void *obj, const struct conf_node *n);
MUST_CHECK int config_set_certificates(struct loader *l, void *obj, const struct conf_node *n);
MUST_CHECK int config_set_svid_life(struct loader *l, void *obj, const struct conf_node *n);
MUST_CHECK int config_set_link_idle(struct loader *l, void *obj, const struct conf_node *n);
MUST_CHECK int config_set_link_timeout(struct loader *l, void *obj, const struct conf_node *n);
MUST_CHECK int config_set_link_window(struct loader *l, void *obj, const struct conf_node *n);
MUST_CHECK int config_set_link_congestion(struct loader *l, void *obj, const struct conf_node *n);
MUST_CHECK int config_set_rdma(struct loader *l, void *obj, const struct conf_node *n);
MUST_CHECK int config_set_rdma_listen(struct loader *l, void *obj, const struct conf_node *n);

/* --- config_etcd.c --- */

void config_etcd_defaults(struct config_etcd *c);
void config_etcd_free(struct config_etcd *c);
MUST_CHECK int config_set_etcd(struct loader *l, void *obj, const struct conf_node *n);
/* config_read_etcd() - what holds for all of it together; after config_read_hosts(). */
MUST_CHECK int config_read_etcd(struct loader *l);

/* Members of a service, wherever they stand; @obj is its struct service_reading. */
struct service_reading {
	size_t i;
};
MUST_CHECK int config_set_upstreams(struct loader *l, void *obj, const struct conf_node *n);

/* An upstream while it is read. */
struct upstream_reading {
	struct config_upstream u;
	const struct conf_node *path, *mode;
};
MUST_CHECK int config_set_upstream_path(struct loader *l, void *obj, const struct conf_node *n);
MUST_CHECK int config_set_upstream_mode(struct loader *l, void *obj, const struct conf_node *n);

#endif
