/* What the broker's own files say to each other; nobody else includes this. See broker.h for the whole. */
#ifndef DAEMON_BROKER_INT_H
#define DAEMON_BROKER_INT_H

#include "base/log.h"
#include "daemon/broker.h"
#include "daemon/broker_catalogue.h"
#include "daemon/broker_link.h"

/* A request to the warden that waits for its WB_REPLY. @fd: came with the reply, owned by the callback; -1 without. */
typedef void (*reply_fn)(struct broker *b, void *arg, const struct role_reply *reply, int fd);

/*
 * broker_ask() - send @m to the warden (seq is set here) and call @fn with its reply; @fn may be NULL.
 * @fd: goes along, borrowed; -1 for none. If the channel is gone @fn gets error -EPIPE before this returns.
 */
void broker_ask(struct broker *b, struct role_msg *m, int fd, reply_fn fn, void *arg);

/* broker_tell_gate() - send to one gate; a gate that does not read any more is closed (the warden restarts it). */
void broker_tell_gate(struct broker *b, size_t gate, const struct role_msg *m, int fd);
void broker_tell_all_gates(struct broker *b, const struct role_msg *m, int fd);
void broker_tell_checker(struct broker *b, const struct role_msg *m);
void broker_tell_porter(struct broker *b, const struct role_msg *m, int fd);
void broker_tell_linker(struct broker *b, size_t linker, const struct role_msg *m, int fd);
/* broker_end_linker() - one that is there: it ends, and the warden starts another. From the loop only. */
void broker_end_linker(struct broker *b, uint32_t linker);
/* broker_tell_catalogue() - lost if none runs: it is told all when it starts. broker_close_catalogue() - it ends. */
void broker_tell_catalogue(struct broker *b, const struct role_msg *m);
void broker_close_catalogue(struct broker *b);
/* broker_tell_warden() - something that has no reply. */
void broker_tell_warden(struct broker *b, const struct role_msg *m, int fd);

/* broker_after() - call @fn once after @ms milliseconds; the event frees itself. @arg must stay good until then. */
void broker_after(struct broker *b, unsigned ms, void (*fn)(struct broker *b, void *arg), void *arg);

int64_t unix_now_s(void);

/* --- broker_model.c: the configuration in tables, and what every socket file leads to --- */

/* model_apply() - take @c (owned from now on) as the configuration: add, change and remove what differs. */
void model_apply(struct broker *b, struct config *c);
/* model_check() - would model_apply() take it? Return: 0 or -EINVAL with a line for people in @why. */
MUST_CHECK int model_check(struct broker *b, const struct config *c, char *why, size_t size);
/* model_refresh() - policy, server or workload changed: decide every route and every open lane again. */
void model_refresh(struct broker *b);
void model_refresh_workload(struct broker *b, uint32_t wid);
/* model_refresh_routes() - what other hosts offer changed: decide every route again. */
void model_refresh_routes(struct broker *b);
void model_refresh_service(struct broker *b, uint32_t sid);
struct route_choice model_choose(struct broker *b, const struct upstream *u);

struct workload *model_find_workload(struct broker *b, const char *name);
struct service *model_find_service(struct broker *b, const struct service_name *name);
struct workload *model_workload(struct broker *b, uint32_t wid); /* NULL: unknown or removed */
struct service *model_service(struct broker *b, uint32_t sid);
struct upstream *model_upstream(struct broker *b, uint32_t lid);
bool model_speaks_as(const struct workload *w, const struct service_name *s);

/* model_add_workload() - a run-time workload that speaks as @service, with that service's upstreams. NULL: table is full. */
struct workload *model_add_runtime_workload(struct broker *b, const char *name, const struct service_name *service);
void model_remove_workload(struct broker *b, struct workload *w);
void model_hand_listeners_to_gate(struct broker *b, size_t gate);

/* --- broker_lane.c: a connection's way, and the lanes that are open --- */

void lane_on_accept(struct broker *b, size_t gate, const struct role_accept *a);
void lane_on_gone(struct broker *b, size_t gate, uint32_t cid);
/* lane_on_handed() - the gate has given a client away: to another host with it. @fd: borrowed. */
void lane_on_handed(struct broker *b, size_t gate, uint32_t cid, int fd);
/* lane_retry_waiting() - what clients wait for that the gates hold may have come. */
void lane_retry_waiting(struct broker *b);
/* lane_stats_of_linkers_end() - the linkers have told of all their lanes. */
void lane_stats_of_linkers_end(struct broker *b);
void lane_on_closed(struct broker *b, size_t gate, const struct role_stats *s);
void lane_on_stats(struct broker *b, size_t gate, const struct role_stats *s);
void lane_on_gate_lost(struct broker *b, size_t gate);
/* lane_on_guard() - the kernel guard decided about a direct connection. */
void lane_on_guard(struct broker *b, const struct role_guard *g);
void lane_on_server_up(struct broker *b, uint32_t sid);
/* lane_recheck_all() - end the relayed lanes that the policy no longer allows; new byte rates for the others. */
void lane_recheck_all(struct broker *b);
/*
 * lane_cut_workload() - end every lane from the workload, relayed and direct.
 * lane_leave_workload() - the same where nobody is left in its container: what it had sent before its end still arrives. Lanes end by themselves then,
 * or are cut after LIMIT_LANE_LEFT_S.
 */
void lane_cut_workload(struct broker *b, struct workload *w, const char *why);
void lane_leave_workload(struct broker *b, struct workload *w, const char *why);
/* lane_cut_upstream() - end the relayed lanes that came through one socket file. */
void lane_cut_upstream(struct broker *b, uint32_t lid, const char *why);
/* lane_cut_direct() - end direct lanes of one upstream, because @i (or nothing) decides now. */
void lane_cut_direct(struct broker *b, const struct upstream *u, uint32_t sid, const struct intention *i,
		     const char *why, bool watch);
/* lane_may_be_direct() - allowed, and by an intention that demands nothing of the gate. */
bool lane_may_be_direct(const struct intention *i);
/* lane_cut_inherited() - end direct lanes that an earlier daemon let be made and this one would not. */
void lane_cut_inherited(struct broker *b);
/* lane_forget_workload_cgroups() - the cache must not remember a cgroup that is no longer a workload's. */
void lane_forget_workload_cgroups(struct broker *b, uint32_t wid);
const char *intention_where(const struct intention *i);

/* For lanes in shared memory, which share ids, limits, the bounds on events and what is known of cgroups. */
enum { INTENTION_TEXT_SIZE = 2 * LIMIT_SERVICE_SIZE + 16 };
const char *intention_text(char *buf, size_t size, const struct intention *i);
bool lane_may_log_refusal(struct workload *w, uint64_t *ret_unlogged);
bool lane_may_log(struct workload *w, uint64_t *ret_unlogged);
uint64_t lane_next_id(struct broker *b);
/* lane_id_seen() - a lane of an earlier daemon has this one: no other may get it. */
void lane_id_seen(struct broker *b, uint64_t id);
/* lane_pair() - made if need be, never removed. NULL: no memory. */
struct pair *lane_pair(struct broker *b, const struct service_name *source, const struct service_name *destination);
/* lane_cached_workload() - ROLE_NO_ID: not known. */
uint32_t lane_cached_workload(uint64_t cgroup_id);
void lane_cache_workload(uint64_t cgroup_id, uint32_t wid);
struct upstream *lane_upstream_between(struct broker *b, uint32_t wid, const struct service_name *destination);
/* lane_stats_of_porter_end() - the porter has told of all its lanes. */
void lane_stats_of_porter_end(struct broker *b);

/* --- broker_port.c: control sockets, who asks there for a lane, who listens --- */

/* port_listen() - give the workload its control socket; port_unlisten(): take it away. Both may be repeated. */
void port_listen(struct broker *b, struct workload *w);
void port_unlisten(struct broker *b, struct workload *w);
/* port_on_porter() - a porter was (re)started: hand it everything; port_on_porter_lost(): nobody who asked is there any more. */
void port_on_porter(struct broker *b);
void port_on_porter_lost(struct broker *b);
void port_on_ask(struct broker *b, const struct role_ask *q);
void port_on_gone(struct broker *b, uint32_t cid);
/* port_recheck() - configuration or policy changed: end what is no longer right, listeners and lanes. */
void port_recheck(struct broker *b);
/* port_leave_workload() - its container is nobody's any more: end its asks and listeners (lanes: lane_cut_workload()). */
void port_leave_workload(struct broker *b, struct workload *w, const char *why);
/* port_explain() - which way would a lane go? Return: "shm", "link"; or NULL, and a line for people in @why. */
const char *port_explain(struct broker *b, const struct service_name *source, const struct service_name *destination, char *why, size_t size);
/* port_retry_waiting() - what libraries wait for that want a lane to another host may have come. */
void port_retry_waiting(struct broker *b);
/* port_kinds() - for which kinds of lanes somebody listens: bits of enum offer_kind. */
unsigned port_kinds(const struct broker *b, const struct service *s);

/* --- broker_shm.c: lanes in shared memory that were offered or are open --- */

void shm_on_open(struct broker *b, uint64_t lane_id);
void shm_on_closed(struct broker *b, const struct role_stats *s);
void shm_on_stats(struct broker *b, const struct role_stats *s);
void shm_on_leash(struct broker *b, const struct role_leash *l, int fd);
/* shm_on_kept() - what the keeper held for an earlier porter. @fd: taken from the caller. */
void shm_on_kept(struct broker *b, const char *name, int *fd);
/* shm_adopt() - hand the porter what was kept. Does nothing until there are a porter and a configuration. */
void shm_adopt(struct broker *b);
void shm_cut(struct broker *b, struct lane *l, const struct intention *i, const char *why);
void shm_recheck(struct broker *b);
/* shm_recheck_workload() - another container runs in it now (or none): only adopted lanes can be wrong about that. */
void shm_recheck_workload(struct broker *b, uint32_t wid);

/* --- broker_enrol.c --- */

void enrol_by_config(struct broker *b, struct workload *w);
void enrol_from_state(struct broker *b);
void enrol_cgroup_gone(struct broker *b, const struct role_cgroup *c);

/* --- broker_health.c --- */

void health_start(struct broker *b, struct service *s);
void health_stop(struct service *s);
/* health_on_checker_lost() - results of commands that ran will not come: the next interval asks again. */
void health_on_checker_lost(struct broker *b);
void health_on_result(struct broker *b, const struct role_check_result *r);

#endif
