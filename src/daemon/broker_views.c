/*
 * Theory of operation
 *
 * Each view packs one table of the broker into one json_t with json_pack(). json_pack() gives up as a whole, and frees what
 * it was handed, as soon as one part is NULL; so a view that could not be made for want of memory is NULL and never an
 * object with members missing, which docs/openapi.json would forbid and a reader would take for the truth.
 *
 * Slots of the tables that are marked `removed` are holes and are never shown. Ids of other tables (wid, sid) are looked up
 * with their bounds checked: a lane may outlive the workload that opened it.
 *
 * Before it: broker_api.c (which view is asked for). After it: broker_api.c again (json_dumps, answer).
 */
#include "daemon/broker_views.h"

#include "daemon/broker_link.h"

#include <stdio.h>

static json_t *text(const char *s)
{
	json_t *j = json_string(s);
	AUTO_FREE(char) copy = NULL;

	if (j)
		return j;
	/* Not UTF-8: it was printed by a program, so show what can be shown. */
	copy = strdup(s);
	if (!copy)
		return NULL;
	for (char *p = copy; *p; p++)
		if ((unsigned char)*p >= 0x80)
			*p = '?';
	return json_string(copy);
}

json_t *view_text(const char *s)
{
	return text(s);
}

/* null for what is not there, so that "" never stands for "unknown" */
static json_t *text_or_null(const char *s)
{
	return s && s[0] ? text(s) : json_null();
}

static json_t *number(uint64_t n)
{
	return json_integer((json_int_t)n);
}

static json_t *time_or_null(int64_t unix_s)
{
	return unix_s ? json_integer(unix_s) : json_null();
}

static json_t *service_text(const struct service_name *s)
{
	char buf[LIMIT_SERVICE_SIZE];

	return text(service_name_format(buf, s));
}

static json_t *pattern_text(const struct service_pattern *p)
{
	char buf[LIMIT_SERVICE_SIZE];

	return text(service_pattern_format(buf, p));
}

static json_t *spiffe_text(const struct broker *b, const struct service_name *s)
{
	char buf[LIMIT_SPIFFE_ID_SIZE];

	return text(spiffe_id_format(buf, b->config ? b->config->trust_domain : "", s));
}

/* Append @item (taken), or give up the whole list. */
static json_t *list_add(json_t *list, json_t *item)
{
	if (!list || json_array_append_new(list, item) < 0) {
		if (!list)
			json_decref(item);
		json_decref(list);
		return NULL;
	}
	return list;
}

static const struct workload *workload_at(const struct broker *b, uint32_t wid)
{
	return wid < b->n_workloads && !b->workloads[wid].removed ? &b->workloads[wid] : NULL;
}

static const struct service *service_at(const struct broker *b, uint32_t sid)
{
	return sid < b->n_services && !b->services[sid].removed ? &b->services[sid] : NULL;
}

const struct workload *view_find_workload(const struct broker *b, const char *name)
{
	for (size_t i = 0; i < b->n_workloads; i++)
		if (!b->workloads[i].removed && strcmp(b->workloads[i].name, name) == 0)
			return &b->workloads[i];
	return NULL;
}

static json_t *workload_name(const struct broker *b, uint32_t wid)
{
	const struct workload *w = workload_at(b, wid);

	return w ? text(w->name) : json_null();
}

static const char *lane_path_name(enum lane_path p)
{
	static const char *const names[] = { "relay", "direct", "shm", "link" };
	static_assert(ARRAY_SIZE(names) == LANE_PATH_N, "a name for each");

	return names[p];
}

static const struct link_host *host_at(const struct broker *b, uint32_t hid)
{
	for (const struct link_host *h = b->hosts; h; h = h->hh.next)
		if (h->hid == hid)
			return h;
	return NULL;
}

/* "link:b": whoever reads of a lane wants to know where it goes. A host that is not known has an address. */
static json_t *lane_path_text(const struct broker *b, const struct lane *l)
{
	const struct link_host *h = l->path == LANE_PATH_LINK ? host_at(b, l->link.hid) : NULL;
	char buf[LIMIT_ADDRESS_SIZE + LIMIT_NAME_SIZE];

	if (l->path != LANE_PATH_LINK)
		return text(lane_path_name(l->path));
	snprintf(buf, sizeof(buf), "link:%s", h ? h->name : l->link.peer);
	return text(buf);
}

static void count_link_lane(const struct lane *l, struct view_counts *c)
{
	c->lanes_link[l->link.inbound] += !l->link.opening && !l->shm.pending;
	c->link_bytes_up[l->link.inbound] += l->bytes_up;
	c->link_bytes_down[l->link.inbound] += l->bytes_down;
}

static void count_lanes(const struct broker *b, struct view_counts *c)
{
	c->bytes_up = b->counters.bytes_up;
	c->bytes_down = b->counters.bytes_down;
	c->shm_bytes_up = b->counters.shm_bytes_up;
	c->shm_bytes_down = b->counters.shm_bytes_down;
	for (int inbound = 0; inbound < 2; inbound++) {
		c->link_bytes_up[inbound] = b->link.bytes_up[inbound];
		c->link_bytes_down[inbound] = b->link.bytes_down[inbound];
	}
	for (const struct lane *l = b->lanes; l; l = l->hh.next) {
		bool shm = l->path == LANE_PATH_SHM;

		if (l->path == LANE_PATH_LINK) {
			count_link_lane(l, c);
			continue;
		}
		*(shm ? &c->lanes_shm : &c->lanes_relay) += !l->shm.pending;
		*(shm ? &c->shm_bytes_up : &c->bytes_up) += l->bytes_up;
		*(shm ? &c->shm_bytes_down : &c->bytes_down) += l->bytes_down;
	}
	c->lanes_direct = b->n_direct_lanes;
}

struct view_counts view_count(const struct broker *b)
{
	struct view_counts c = { .intentions = b->policy ? policy_count(b->policy) : 0 };

	for (size_t i = 0; i < b->n_workloads; i++) {
		c.workloads += !b->workloads[i].removed;
		c.workloads_running += !b->workloads[i].removed && b->workloads[i].cgroup_id != 0;
	}
	for (size_t i = 0; i < b->n_services; i++) {
		const struct service *s = &b->services[i];

		c.services += !s->removed;
		c.services_offered += !s->removed && s->offered;
		c.services_up += !s->removed && s->offered && s->up;
		c.listeners += s->n_listeners;
	}
	for (size_t i = 0; i < b->n_upstreams; i++)
		c.upstreams += !b->upstreams[i].removed;
	count_lanes(b, &c);
	return c;
}

static const char *guard_name(enum guard_state g)
{
	return g == GUARD_LSM ? "lsm" : "off";
}

static json_t *view_config_files(const struct broker *b)
{
	json_t *list = json_array();

	for (size_t i = 0; b->config && i < b->config->n_trees; i++)
		list = list_add(list, text_or_null(conf_tree_root(b->config->trees[i])->file));
	return list;
}

static json_t *view_counters(const struct broker *b, const struct view_counts *n)
{
	const struct broker_counters *c = &b->counters;

	return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "lanes_opened", number(c->lanes_opened), "lanes_denied",
			 number(c->lanes_denied), "lanes_cut", number(c->lanes_cut), "lanes_refused_identity",
			 number(c->lanes_refused_identity), "lanes_failed", number(c->lanes_failed), "bytes_up",
			 number(n->bytes_up), "bytes_down", number(n->bytes_down), "shm_bytes_up", number(n->shm_bytes_up),
			 "shm_bytes_down", number(n->shm_bytes_down), "reloads_ok", number(c->reloads_ok),
			 "reloads_failed", number(c->reloads_failed));
}

static json_t *view_counts_json(const struct view_counts *n)
{
	return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "workloads", number(n->workloads), "workloads_running",
			 number(n->workloads_running), "services", number(n->services), "services_offered",
			 number(n->services_offered), "services_up", number(n->services_up), "upstreams",
			 number(n->upstreams), "intentions", number(n->intentions), "lanes_relay", number(n->lanes_relay),
			 "lanes_direct", number(n->lanes_direct), "lanes_shm", number(n->lanes_shm), "lanes_link",
			 number(n->lanes_link[0] + n->lanes_link[1]), "listeners", number(n->listeners));
}

json_t *view_status(const struct broker *b, int64_t now_unix_s)
{
	struct view_counts n = view_count(b);
	int64_t up = now_unix_s - (int64_t)b->started_unix_s;
	size_t n_gates = 0;

	for (size_t i = 0; i < b->n_gates; i++)
		n_gates += b->gates[i].fd >= 0;
	return json_pack("{s:s,s:o,s:o,s:o,s:o,s:o,s:o,s:s,s:s,s:o,s:s,s:{s:o,s:b,s:b},s:o,s:o,s:o}", "version", SEALANE_VERSION, "started",
			 number(b->started_unix_s), "uptime_s", json_integer(up > 0 ? up : 0), "trust_domain",
			 text(b->config ? b->config->trust_domain : ""), "namespace",
			 text(b->config ? b->config->namespace_ : ""), "run_dir", text(b->run_dir), "cdi_dir",
			 text(b->config && b->config->cdi_dir ? b->config->cdi_dir : ""), "identity",
			 identity_method_name(b->identity), "guard", guard_name(b->guard), "guard_why",
			 text(b->guard_why), "direct",
			 b->config && b->config->direct == CONFIG_DIRECT_OFF ? "off" : "auto", "roles", "gates",
			 number(n_gates), "checker", b->checker.fd >= 0, "porter", b->porter.fd >= 0, "counts", view_counts_json(&n), "counters",
			 view_counters(b, &n), "config_files", view_config_files(b));
}

static json_t *view_match(const struct config_match *m)
{
	if (!m->cgroup && !m->container && !m->label)
		return json_null();
	return json_pack("{s:o,s:o,s:o}", "cgroup", text_or_null(m->cgroup), "container", text_or_null(m->container), "label",
			 text_or_null(m->label));
}

static json_t *view_cgroup_id(uint64_t id)
{
	char buf[24];

	if (!id)
		return json_null();
	snprintf(buf, sizeof(buf), "%llu", (unsigned long long)id);
	return text(buf);
}

static json_t *view_workload_services(const struct workload *w)
{
	json_t *list = json_array();

	for (size_t i = 0; i < w->n_services; i++)
		list = list_add(list, service_text(&w->services[i]));
	return list;
}

json_t *view_workload(const struct broker *b, const struct workload *w)
{
	char dir[LIMIT_PATH_SIZE + LIMIT_NAME_SIZE + 4];

	snprintf(dir, sizeof(dir), "%s/w/%s", b->run_dir, w->name);
	return json_pack("{s:o,s:s,s:b,s:b,s:o,s:b,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "name", text(w->name), "state",
			 w->cgroup_id ? "running" : "absent", "draining", w->draining, "configured", w->configured, "services",
			 view_workload_services(w), "offers", w->offers, "dir", text(dir), "match", view_match(&w->match),
			 "cgroup_id", view_cgroup_id(w->cgroup_id), "cgroup_path", text_or_null(w->cgroup_path),
			 "container_id", text_or_null(w->container_id), "enrolled_by",
			 w->cgroup_id ? text_or_null(w->enrolled_by) : json_null(), "lanes_open", number(w->n_lanes + w->n_shm_lanes + w->n_link_lanes),
			 "allowed", number(w->n_allowed), "denied", number(w->n_denied), "cut", number(w->n_cut));
}

json_t *view_workloads(const struct broker *b)
{
	json_t *list = json_array();

	for (size_t i = 0; i < b->n_workloads; i++)
		if (!b->workloads[i].removed)
			list = list_add(list, view_workload(b, &b->workloads[i]));
	return json_pack("{s:o}", "workloads", list);
}

static json_t *view_check(const struct config_check *c)
{
	json_t *args = json_array();

	if (!c->present) {
		json_decref(args);
		return json_null();
	}
	for (size_t i = 0; !c->socket && i < LIMIT_CHECK_ARGS && c->args[i]; i++)
		args = list_add(args, text(c->args[i]));
	return json_pack("{s:s,s:o,s:f,s:f}", "kind", c->socket ? "socket" : "command", "args", args, "interval_s",
			 c->interval_s, "timeout_s", c->timeout_s);
}

static json_t *view_service(const struct broker *b, const struct service *s)
{
	return json_pack("{s:o,s:o,s:b,s:o,s:o,s:b,s:b,s:b,s:o,s:s,s:o,s:o,s:o}", "name", service_text(&s->name), "spiffe_id",
			 spiffe_text(b, &s->name), "offered", s->offered, "workload", workload_name(b, s->wid), "path",
			 text_or_null(s->path), "on_host", s->on_host, "up", s->up, "linkable", s->linkable, "listeners",
			 number(s->n_listeners), "health",
			 health_name(s->health), "health_output", text(s->health_output), "health_changed",
			 time_or_null((int64_t)s->health_changed_unix_s), "check", view_check(&s->check));
}

json_t *view_services(const struct broker *b)
{
	json_t *list = json_array();

	for (size_t i = 0; i < b->n_services; i++)
		if (!b->services[i].removed)
			list = list_add(list, view_service(b, &b->services[i]));
	return json_pack("{s:o}", "services", list);
}

static bool is_expired(const struct intention *i, int64_t now_unix_s)
{
	return i->expires_unix_s && i->expires_unix_s <= now_unix_s;
}

static bool is_overridden(const struct broker *b, const struct intention *i, int64_t now_unix_s)
{
	for (int origin = (int)i->origin + 1; b->policy && origin <= INTENTION_FROM_RUNTIME; origin++) {
		const struct intention *other = policy_find(b->policy, &i->source, &i->destination, (enum intention_origin)origin);

		if (other && !is_expired(other, now_unix_s))
			return true;
	}
	return false;
}

static const char *origin_name(enum intention_origin o)
{
	static const char *const names[] = { "file", "cluster", "runtime" };

	return names[o];
}

static json_t *view_intention(const struct broker *b, const struct intention *i, int64_t now_unix_s)
{
	if (!i)
		return json_null();
	return json_pack("{s:o,s:o,s:s,s:s,s:o,s:b,s:{s:o,s:o,s:o},s:o,s:b,s:b}", "source", pattern_text(&i->source),
			 "destination", pattern_text(&i->destination), "action",
			 i->action == INTENTION_ALLOW ? "allow" : "deny", "origin",
			 origin_name(i->origin), "where", text(i->where), "strict", i->strict,
			 "limits", "open_lanes", number(i->limits.open_lanes), "connections_per_s",
			 number(i->limits.connections_per_s), "bytes_per_s", number(i->limits.bytes_per_s), "expires",
			 time_or_null(i->expires_unix_s), "expired", is_expired(i, now_unix_s), "overridden",
			 is_overridden(b, i, now_unix_s));
}

struct intentions_walk {
	const struct broker *b;
	int64_t now_unix_s;
	json_t *list;
};

static int intentions_add(void *arg, const struct intention *i)
{
	struct intentions_walk *w = arg;

	w->list = list_add(w->list, view_intention(w->b, i, w->now_unix_s));
	return w->list ? 0 : -ENOMEM;
}

json_t *view_intentions(const struct broker *b, int64_t now_unix_s)
{
	struct intentions_walk w = { .b = b, .now_unix_s = now_unix_s, .list = json_array() };

	if (b->policy && policy_each(b->policy, intentions_add, &w) < 0)
		return NULL; /* the list was given up */
	return json_pack("{s:o}", "intentions", w.list);
}

static json_t *view_mode(int mode)
{
	char buf[16];

	if (mode < 0)
		return json_null();
	snprintf(buf, sizeof(buf), "0%03o", (unsigned)mode & 07777);
	return text(buf);
}

static json_t *view_upstream_file(const struct broker *b, const struct upstream *u)
{
	const struct workload *w = workload_at(b, u->wid);
	char buf[2 * LIMIT_PATH_SIZE + LIMIT_NAME_SIZE + 8];

	if (u->path[0] == '/')
		return text(u->path);
	snprintf(buf, sizeof(buf), "%s/w/%s/%s", b->run_dir, w ? w->name : "", u->path);
	return text(buf);
}

static json_t *view_upstream(const struct broker *b, const struct upstream *u, int64_t now_unix_s)
{
	return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:b,s:s,s:s,s:o,s:o,s:o}", "workload", workload_name(b, u->wid), "source",
			 service_text(&u->source), "destination", service_text(&u->destination), "path", text(u->path), "file",
			 view_upstream_file(b, u), "mode", view_mode(u->access.mode), "listening", u->listening, "route",
			 route_name(u->choice.route), "why", u->choice.why ? u->choice.why : "", "intention",
			 view_intention(b, u->choice.intention, now_unix_s), "allowed", number(u->n_allowed), "denied",
			 number(u->n_denied));
}

json_t *view_upstreams(const struct broker *b, int64_t now_unix_s)
{
	json_t *list = json_array();

	for (size_t i = 0; i < b->n_upstreams; i++)
		if (!b->upstreams[i].removed)
			list = list_add(list, view_upstream(b, &b->upstreams[i], now_unix_s));
	return json_pack("{s:o}", "upstreams", list);
}

static json_t *view_lane_end(json_t *workload, const struct service_name *service, uint32_t pid)
{
	return json_pack("{s:o,s:o,s:o}", "workload", workload, "service",
			 service->name[0] ? service_text(service) : json_null(), "pid", pid ? number(pid) : json_null());
}

/* null: not known, of a lane that an earlier daemon made. */
static json_t *lane_kind(const struct lane *l)
{
	static const char *const kinds[CONTROL_KIND_N] = { "stream", "messages", "fan-out" };

	if (l->path != LANE_PATH_SHM && !l->link.lent)
		return text("socket");
	return l->shm.kind < CONTROL_KIND_N ? text(kinds[l->shm.kind]) : json_null();
}

/* What ties the two ends of a lane between hosts together: each host has a number of its own for it, and sees the other one's name. */
static json_t *view_lane_link(const struct broker *b, const struct lane *l)
{
	const struct link_host *h = l->path == LANE_PATH_LINK ? host_at(b, l->link.hid) : NULL;
	const struct link_session *s = l->path == LANE_PATH_LINK ? view_lane_session(b, l->link.id) : NULL;
	char id[LINK_LANE_ID_SIZE], path[VIEW_PATH_SIZE];

	if (l->path != LANE_PATH_LINK)
		return json_null();
	return json_pack("{s:o,s:s,s:o,s:o,s:s}", "id", text_or_null(link_lane_id(id, l->link.id)), "direction", l->link.inbound ? "in" : "out", "host",
			 text_or_null(h ? h->name : NULL), "address", text_or_null(l->link.inbound ? l->link.peer : h ? h->address : NULL), "path",
			 s ? view_session_path(s, path) : "tls");
}

static json_t *view_lane(const struct broker *b, const struct lane *l)
{
	const struct service *s = service_at(b, l->sid);
	bool library = l->path == LANE_PATH_SHM || (l->link.lent && l->link.inbound);
	uint32_t server = library ? l->shm.server_wid : s ? s->wid : ROLE_NO_ID;
	bool relay = l->path == LANE_PATH_RELAY, counted = l->path != LANE_PATH_DIRECT;
	char id[24];

	snprintf(id, sizeof(id), "%016llx", (unsigned long long)(l->link.lent ? l->link.lent : l->id)); /* as libraries know it */
	return json_pack("{s:s,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "id", id, "path", lane_path_text(b, l), "kind", lane_kind(l), "link", view_lane_link(b, l), "client",
			 view_lane_end(workload_name(b, l->wid), &l->source, l->client_pid), "server",
			 view_lane_end(workload_name(b, server), &l->destination, l->server_pid), "gate",
			 relay ? number(l->gate) : json_null(), "bytes_up", counted ? number(l->bytes_up) : json_null(),
			 "bytes_down", counted ? number(l->bytes_down) : json_null(), "reads_up",
			 counted ? number(l->reads_up) : json_null(), "reads_down", counted ? number(l->reads_down) : json_null(),
			 "opened", time_or_null((int64_t)l->opened_unix_s));
}

struct lanes_walk {
	const struct broker *b;
	json_t *list;
};

static int lanes_add(void *arg, const struct lane *l)
{
	struct lanes_walk *w = arg;

	w->list = list_add(w->list, view_lane(w->b, l));
	return w->list ? 0 : -ENOMEM;
}

json_t *view_lanes(struct broker *b)
{
	struct lanes_walk w = { .b = b, .list = json_array() };

	if (broker_each_lane(b, lanes_add, &w) < 0)
		return NULL; /* the list was given up */
	return json_pack("{s:o}", "lanes", w.list);
}

static json_t *view_source_workloads(const struct broker *b, const struct service_name *source)
{
	json_t *list = json_array();

	for (size_t i = 0; i < b->n_workloads; i++) {
		const struct workload *w = &b->workloads[i];

		for (size_t k = 0; !w->removed && k < w->n_services; k++)
			if (service_name_equal(&w->services[k], source))
				list = list_add(list, view_workload(b, w));
	}
	return list;
}

static uint32_t open_lanes_of(const struct broker *b, const struct service_name *source,
			      const struct service_name *destination)
{
	/* A walk, not a hash look-up: it needs no key whose unused bytes are zero, and `explain` is asked by people. */
	for (const struct pair *p = b->pairs; p; p = p->hh.next)
		if (service_name_equal(&p->key.source, source) && service_name_equal(&p->key.destination, destination))
			return p->quota.n_open;
	return 0;
}

static json_t *view_refusal(const struct pair_refusal *r)
{
	return !r ? json_null() : json_pack("{s:o,s:s,s:o,s:I,s:b}", "host", text(r->host), "code", link_code_name(r->code), "why", text(r->why), "at",
					    (json_int_t)r->at_unix_s, "certificate", r->certificate);
}

/* Which hosts have it (or want it), and what keeps a lane from going there now. */
static json_t *view_explained_link(const struct broker_explanation *e)
{
	static const char *const states[] = { "unknown", "up", "down" };
	char kinds[OFFER_KINDS_SIZE];
	json_t *hosts;

	static_assert(ARRAY_SIZE(states) == LINK_HOST_STATE_N, "a name for each");
	if (!e->between)
		return json_null();
	hosts = json_array();
	for (size_t i = 0; i < e->n_far; i++)
		hosts = list_add(hosts, json_pack("{s:o,s:o,s:s,s:b,s:o,s:o,s:o}", "name", text_or_null(e->far[i].name), "address",
						  text_or_null(e->far[i].address), "state", states[e->far[i].state], "session",
						  e->far[i].session, "takes", text_or_null(offer_kinds_format(kinds, e->far[i].kinds)), "path",
						  text_or_null(e->far[i].path), "path_why", text_or_null(e->far[i].path_why)));
	return json_pack("{s:s,s:o,s:o,s:o,s:o}", "direction", e->inbound ? "in" : "out", "hosts", hosts, "more", number(e->n_far_more), "lacks",
			 text_or_null(e->lacks), "refused", view_refusal(e->refusal));
}

static json_t *view_to_allow(const struct broker_explanation *e)
{
	json_t *list = json_array();

	for (size_t i = 0; i < e->n_to_allow; i++)
		list = list_add(list, json_pack("{s:o,s:o}", "host", text_or_null(e->to_allow[i].host), "command", text(e->to_allow[i].text)));
	return list;
}

json_t *view_explain(struct broker *b, const struct service_name *source, const struct service_name *destination,
		     int64_t now_unix_s)
{
	struct broker_explanation e = broker_explain(b, source, destination);
	const struct intention *i = e.choice.intention;
	const struct service *s = service_at(b, e.sid);
	const struct workload *w = s ? workload_at(b, s->wid) : NULL;
	const struct upstream *u = e.lid < b->n_upstreams && !b->upstreams[e.lid].removed ? &b->upstreams[e.lid] : NULL;

	return json_pack("{s:o,s:o,s:o,s:o,s:o,s:s,s:s,s:s,s:o,s:{s:b,s:o,s:o},s:o,s:o,s:s,s:s,s:{s:o},s:o,s:o,s:o,s:o}", "host", text_or_null(b->host),
			 "source", service_text(source),
			 "destination", service_text(destination), "source_spiffe_id", spiffe_text(b, source),
			 "destination_spiffe_id", spiffe_text(b, destination), "decision",
			 i && i->action == INTENTION_ALLOW ? "allow" : "deny", "route", route_name(e.choice.route), "why",
			 e.choice.why ? e.choice.why : "", "to_allow", view_to_allow(&e), "library", "allowed", e.library, "path", text_or_null(e.library_path), "why", text(e.library_why), "link", view_explained_link(&e), "intention", view_intention(b, i, now_unix_s), "identity",
			 e.identity ? e.identity : "", "guard", e.guard ? e.guard : "", "in_use", "open_lanes",
			 number(open_lanes_of(b, source, destination)), "upstream",
			 u ? view_upstream(b, u, now_unix_s) : json_null(), "service", s ? view_service(b, s) : json_null(),
			 "source_workloads", view_source_workloads(b, source), "destination_workload",
			 w ? view_workload(b, w) : json_null());
}
