#include "daemon/fake_broker.h"

#include <stdio.h>

static const char config_text[] =
	"trust_domain = example.org\n"
	"workload cache { services = [ redis ]  cgroup = \"/system.slice/cache.service\" }\n"
	"workload web { services = [ web ] }\n"
	"service redis { socket_path = \"redis.sock\"  check { args = [ \"/usr/bin/redis-cli\", PING ]  interval = 5s } }\n"
	"service web { upstream redis { mode = \"0660\" } }\n"
	"service pg { socket_path = \"/run/postgresql/.s.PGSQL.5432\"  check { socket = true } }\n"
	"intention { source = web  destination = redis  action = allow  limits { open_lanes = 10 } }\n"
	"intention { source = web  destination = pg  action = allow }\n"
	"intention { source = \"*\"  destination = redis  action = deny }\n";

const char *health_name(enum health h)
{
	static const char *const names[] = { "unchecked", "passing", "failing" };

	return names[h];
}

static void copy(char *dst, size_t size, const char *src)
{
	if (!str_copy(dst, size, src))
		abort();
}

static struct service_name name_of(const char *text)
{
	struct service_name n;

	if (service_name_parse(&n, text, "default") < 0)
		abort();
	return n;
}

static void fill_policy(struct fake_broker *f)
{
	const struct intention *other;
	struct intention i = { .action = INTENTION_DENY, .origin = INTENTION_FROM_RUNTIME, .where = "runtime, by uid 0" };

	if (policy_new(&f->b.policy) < 0)
		abort();
	for (size_t k = 0; k < f->b.config->n_intentions; k++)
		if (policy_add(f->b.policy, &f->b.config->intentions[k], &other) != 0)
			abort();
	if (service_pattern_parse(&i.source, "web", "default") < 0 || service_pattern_parse(&i.destination, "pg", "default") < 0 ||
	    policy_add(f->b.policy, &i, &other) != 0)
		abort();
	i.expires_unix_s = 1; /* long ago */
	if (service_pattern_parse(&i.destination, "redis", "default") < 0 || policy_add(f->b.policy, &i, &other) != 0)
		abort();
}

static void fill_workloads(struct fake_broker *f)
{
	struct workload *w = f->workloads;

	w[0] = (struct workload){ .configured = true, .offers = true, .n_services = 1, .services = { name_of("redis") },
				  .match = f->b.config->workloads[0].match, .cgroup_id = 4242, .n_allowed = 3 };
	copy(w[0].name, sizeof(w[0].name), "cache");
	copy(w[0].cgroup_path, sizeof(w[0].cgroup_path), "/system.slice/cache.service");
	copy(w[0].enrolled_by, sizeof(w[0].enrolled_by), "config");
	w[1] = (struct workload){ .wid = 1, .n_services = 1, .services = { name_of("web") }, .cgroup_id = UINT64_C(1) << 62,
				  .n_lanes = 1, .n_allowed = 7, .n_denied = 2, .n_cut = 1, .draining = true };
	copy(w[1].name, sizeof(w[1].name), "web");
	copy(w[1].container_id, sizeof(w[1].container_id), "0123456789abcdef");
	copy(w[1].enrolled_by, sizeof(w[1].enrolled_by), "hook");
	w[2] = (struct workload){ .wid = 2, .removed = true };
	w[3] = (struct workload){ .wid = 3, .configured = true };
	copy(w[3].name, sizeof(w[3].name), "absent");
	f->b.workloads = w;
	f->b.n_workloads = ARRAY_SIZE(f->workloads);
}

static const struct config_check *check_of(const struct config *c, const char *name)
{
	struct service_name n = name_of(name);

	return &c->services[config_find_service(c, &n)].check;
}

static void fill_services(struct fake_broker *f)
{
	struct service *s = f->services;

	s[0] = (struct service){ .name = name_of("redis"), .offered = true, .takes_lanes = true, .n_listeners = 2, .up = true, .linkable = true, .health = HEALTH_FAILING,
				 .health_changed_unix_s = 1700000000, .check = *check_of(f->b.config, "redis") };
	copy(s[0].path, sizeof(s[0].path), "redis.sock");
	copy(s[0].health_output, sizeof(s[0].health_output), "not UTF-8: \xff\xfe \"quoted\"\n");
	s[1] = (struct service){ .sid = 1, .name = name_of("web"), .wid = 1 };
	s[2] = (struct service){ .sid = 2, .name = name_of("pg"), .offered = true, .on_host = true, .wid = ROLE_NO_ID,
				 .check = *check_of(f->b.config, "pg"), .health = HEALTH_PASSING };
	copy(s[2].path, sizeof(s[2].path), "/run/postgresql/.s.PGSQL.5432");
	s[3] = (struct service){ .sid = 3, .removed = true };
	f->b.services = s;
	f->b.n_services = ARRAY_SIZE(f->services);
}

static void fill_upstreams(struct fake_broker *f)
{
	struct upstream *u = f->upstreams;

	for (uint32_t i = 0; i < ARRAY_SIZE(f->upstreams); i++)
		u[i] = (struct upstream){ .lid = i, .wid = 1, .source = name_of("web"), .destination = name_of("redis"),
					  .access = { .mode = -1, .uid = -1, .gid = -1 },
					  .choice = { .route = ROUTE_REFUSE, .why = "no intention allows it" } };
	u[0].access.mode = 0660;
	u[0].listening = true;
	u[0].n_allowed = 7;
	u[0].choice = (struct route_choice){ .route = ROUTE_RELAY, .intention = &f->b.config->intentions[0], .why = "allowed" };
	copy(u[0].path, sizeof(u[0].path), "redis.sock");
	u[1].destination = name_of("pg");
	u[1].choice.route = ROUTE_DIRECT;
	copy(u[1].path, sizeof(u[1].path), "/run/host/odd \"name\"\\.sock");
	u[2].removed = true;
	copy(u[3].path, sizeof(u[3].path), "second.sock");
	f->b.upstreams = u;
	f->b.n_upstreams = ARRAY_SIZE(f->upstreams);
}

static void fill_lanes(struct fake_broker *f)
{
	struct broker *b = &f->b;
	struct lane *relay = &f->relay_lane;
	struct pair *pair = &f->pair;

	*pair = (struct pair){ .key = { name_of("web"), name_of("redis") }, .quota = { .n_open = 1 } };
	HASH_ADD(hh, b->pairs, key, sizeof(pair->key), pair);
	*relay = (struct lane){ .id = 7, .path = LANE_PATH_RELAY, .wid = 1, .source = name_of("web"), .destination = name_of("redis"),
				.client_pid = 10, .server_pid = 11, .opened_unix_s = 1700000000, .bytes_up = 100, .bytes_down = 2000,
				.reads_up = 3, .reads_down = 4, .pair = pair };
	HASH_ADD(hh, b->lanes, id, sizeof(relay->id), relay);
	f->shm_lane = (struct lane){ .id = 9, .path = LANE_PATH_SHM, .wid = 1, .lid = ROLE_NO_ID, .source = name_of("web"),
				     .destination = name_of("redis"), .client_pid = 13, .server_pid = 14, .opened_unix_s = 1700000001,
				     .bytes_up = 5, .bytes_down = 6, .pair = pair };
	HASH_ADD(hh, b->lanes, id, sizeof(f->shm_lane.id), &f->shm_lane);
	f->direct_lanes[0] = (struct lane){ .id = UINT64_MAX, .path = LANE_PATH_DIRECT, .wid = 1, .lid = ROLE_NO_ID,
					    .source = name_of("web"), .destination = name_of("redis"), .client_pid = 12 };
	f->direct_lanes[1] = (struct lane){ .id = 1, .path = LANE_PATH_DIRECT, .wid = ROLE_NO_ID, .lid = ROLE_NO_ID,
					    .sid = ROLE_NO_ID, .destination = name_of("pg") };
	b->direct_lanes = f->direct_lanes;
	b->n_direct_lanes = ARRAY_SIZE(f->direct_lanes);
}

static void fill_link_lanes(struct fake_broker *f)
{
	f->link_lanes[0] = (struct lane){ .id = 15, .path = LANE_PATH_LINK, .wid = 1, .lid = ROLE_NO_ID, .sid = ROLE_NO_ID,
					  .source = name_of("web"), .destination = name_of("far"), .client_pid = 15,
					  .opened_unix_s = 1700000002, .bytes_up = 50, .bytes_down = 60, .pair = &f->pair, .link = { .hid = 1 } };
	f->link_lanes[1] = (struct lane){ .id = 16, .path = LANE_PATH_LINK, .wid = ROLE_NO_ID, .lid = ROLE_NO_ID, .source = name_of("far"),
					  .destination = name_of("redis"), .server_pid = 14, .opened_unix_s = 1700000003, .pair = &f->pair,
					  .link = { .inbound = true, .hid = ROLE_NO_ID } };
	copy(f->link_lanes[1].link.peer, LIMIT_ADDRESS_SIZE, "10.0.0.9:40123");
	for (size_t i = 0; i < ARRAY_SIZE(f->link_lanes); i++)
		HASH_ADD(hh, f->b.lanes, id, sizeof(f->link_lanes[i].id), &f->link_lanes[i]);
}

static void fill_hosts(struct fake_broker *f)
{
	struct link_host *h = f->hosts;

	f->offers[0] = (struct announced){ .service = name_of("far"), .up = true, .lanes = 3 };
	f->offers[1] = (struct announced){ .service = name_of("other") };
	h[0] = (struct link_host){ .hid = 1, .state = LINK_HOST_UP, .since_unix_s = 1700000000, .announced = true, .offers = f->offers,
				   .n_offers = ARRAY_SIZE(f->offers), .n_lanes = 1 };
	copy(h[0].name, sizeof(h[0].name), "b");
	copy(h[0].address, sizeof(h[0].address), "10.0.0.2:7443");
	copy(h[0].addresses[LINK_FROM_CONFIG], LIMIT_ADDRESS_SIZE, "10.0.0.2:7443");
	h[1] = (struct link_host){ .hid = 2, .state = LINK_HOST_DOWN, .reason = SESSION_UNTRUSTED, .since_unix_s = 1700000001 };
	copy(h[1].name, sizeof(h[1].name), "c");
	copy(h[1].address, sizeof(h[1].address), "[fd00::3]:7443");
	copy(h[1].why, sizeof(h[1].why), "not UTF-8: \xff \"quoted\"");
	for (size_t i = 0; i < ARRAY_SIZE(f->hosts); i++)
		HASH_ADD_INT(f->b.hosts, hid, &h[i]);
	copy(f->b.host, sizeof(f->b.host), "a");
}

static void fill_sessions(struct fake_broker *f)
{
	struct link_session *s = f->sessions;

	s[0] = (struct link_session){ .key = 1, .hid = 1, .up_unix_s = 1700000000, .between = &f->peer,
				      .stats = { .n_lanes = 1, .bytes_in = 1000, .bytes_out = 2000, .n_opened = 5, .rtt_us = 137 } };
	copy(s[0].local, sizeof(s[0].local), "spiffe://example.org/ns/default/svc/web");
	copy(s[0].peer, sizeof(s[0].peer), "spiffe://example.org/host/b");
	copy(s[0].address, sizeof(s[0].address), "10.0.0.2:7443");
	copy(s[0].cipher, sizeof(s[0].cipher), "TLS_AES_128_GCM_SHA256");
	s[1] = (struct link_session){ .key = 2, .hid = ROLE_NO_ID, .inbound = true, .resumed = true, .up_unix_s = 1700000001 };
	copy(s[1].local, sizeof(s[1].local), "spiffe://example.org/host/a");
	copy(s[1].peer, sizeof(s[1].peer), "spiffe://example.org/ns/default/svc/far");
	copy(s[1].address, sizeof(s[1].address), "10.0.0.9:40123");
	s[0].path = SESSION_PATH_RDMA;
	memcpy(s[0].device, "rxe0", sizeof("rxe0"));
	memcpy(s[1].path_why, "the other host says no", sizeof("the other host says no"));
	f->b.devices[0] = (struct link_device){ .asked.mode = RDMA_AUTO, .known = true, .is.device = "rxe0", .stats = { .pinned = 4096, .offences = 2 } };
	for (size_t i = 0; i < ARRAY_SIZE(f->sessions); i++)
		HASH_ADD(hh, f->b.sessions, key, sizeof(s[i].key), &s[i]);
	f->peer = (struct link_peer){ .n_sessions = 1, .bytes_in = 10, .bytes_out = 20 };
	copy(f->peer.key.local, sizeof(f->peer.key.local), s[0].local);
	copy(f->peer.key.peer, sizeof(f->peer.key.peer), s[0].peer);
	HASH_ADD(hh, f->b.link_peers, key, sizeof(f->peer.key), &f->peer);
	f->b.link = (struct link_counters){ .sessions_up = 3, .refused = { [SESSION_EXPIRED] = 2 }, .ended = { [SESSION_OK] = 1 } };
}

struct fake_broker *fake_new(struct event_base *base)
{
	struct config_source source = { "fake.conf", config_text, sizeof(config_text) - 1 };
	struct fake_broker *f = calloc(1, sizeof(*f));
	struct conf_error e;

	if (!f)
		abort();
	f->b.base = base;
	if (config_load(&f->b.config, &source, 1, &e) < 0) {
		fprintf(stderr, "%s\n", e.text);
		abort();
	}
	f->b.started_unix_s = 1700000000;
	f->b.identity = IDENTITY_PIDFD;
	f->b.n_gates = 2;
	f->b.gates[1].fd = -1;
	f->b.porter.fd = -1;
	f->b.counters = (struct broker_counters){ .lanes_opened = 8, .lanes_denied = 2, .lanes_cut = 1, .reloads_ok = 1 };
	copy(f->b.run_dir, sizeof(f->b.run_dir), "/run/sealane");
	fill_policy(f);
	fill_workloads(f);
	fill_services(f);
	fill_upstreams(f);
	fill_lanes(f);
	fill_link_lanes(f);
	fill_hosts(f);
	fill_sessions(f);
	return f;
}

void fake_free(struct fake_broker *f)
{
	fake_release(f);
	HASH_CLEAR(hh, f->b.lanes);
	HASH_CLEAR(hh, f->b.pairs);
	HASH_CLEAR(hh, f->b.hosts);
	HASH_CLEAR(hh, f->b.sessions);
	HASH_CLEAR(hh, f->b.link_peers);
	policy_free(f->b.policy);
	config_free(f->b.config);
	free(f);
}

/* --- answers --- */

static void give(struct fake_broker *f, const struct fake_pending *p)
{
	const char *why = f->error ? f->why : "";

	if (p->enrolled)
		p->enrolled(p->arg, f->error, why, "web", "/run/sealane/w/web");
	else
		p->done(p->arg, f->error, why);
}

static void answer(struct broker *b, struct fake_pending p)
{
	struct fake_broker *f = (struct fake_broker *)b;

	if (!f->hold) {
		give(f, &p);
		return;
	}
	if (f->n_pending == ARRAY_SIZE(f->pending))
		abort();
	f->pending[f->n_pending++] = p;
}

void fake_release(struct fake_broker *f)
{
	f->hold = false;
	for (size_t i = 0; i < f->n_pending; i++)
		give(f, &f->pending[i]);
	f->n_pending = 0;
}

void broker_intention_set(struct broker *b, const struct intention *i, broker_done_fn done, void *arg)
{
	((struct fake_broker *)b)->set = *i;
	((struct fake_broker *)b)->n_set++;
	answer(b, (struct fake_pending){ .done = done, .arg = arg });
}

void broker_intention_remove(struct broker *b, const struct service_pattern *source, const struct service_pattern *destination,
			     broker_done_fn done, void *arg)
{
	struct fake_broker *f = (struct fake_broker *)b;

	f->removed_source = *source;
	f->removed_destination = *destination;
	f->n_removed++;
	answer(b, (struct fake_pending){ .done = done, .arg = arg });
}

void broker_enrol(struct broker *b, const struct broker_enrolment *e, broker_enrol_fn done, void *arg)
{
	((struct fake_broker *)b)->enrolment = *e;
	((struct fake_broker *)b)->n_enrolled++;
	answer(b, (struct fake_pending){ .enrolled = done, .arg = arg });
}

void broker_unenrol(struct broker *b, const char *workload, broker_done_fn done, void *arg)
{
	struct fake_broker *f = (struct fake_broker *)b;

	copy(f->unenrolled, sizeof(f->unenrolled), workload);
	f->n_unenrolled++;
	answer(b, (struct fake_pending){ .done = done, .arg = arg });
}

void broker_reload(struct broker *b, broker_done_fn done, void *arg)
{
	((struct fake_broker *)b)->n_reloads++;
	answer(b, (struct fake_pending){ .done = done, .arg = arg });
}

void broker_drain(struct broker *b, const char *workload, bool on, broker_done_fn done, void *arg)
{
	struct fake_broker *f = (struct fake_broker *)b;

	copy(f->drained, sizeof(f->drained), workload);
	f->drain_on = on;
	f->n_drained++;
	answer(b, (struct fake_pending){ .done = done, .arg = arg });
}

void broker_refresh_lanes(struct broker *b, broker_done_fn done, void *arg)
{
	((struct fake_broker *)b)->n_refreshed++;
	answer(b, (struct fake_pending){ .done = done, .arg = arg });
}

int broker_each_lane(struct broker *b, int (*fn)(void *arg, const struct lane *l), void *arg)
{
	for (const struct lane *l = b->lanes; l; l = l->hh.next) {
		int r = fn(arg, l);

		if (r)
			return r;
	}
	for (size_t i = 0; i < b->n_direct_lanes; i++) {
		int r = fn(arg, &b->direct_lanes[i]);

		if (r)
			return r;
	}
	return 0;
}

bool link_listener(size_t i, const char **ret_address, bool *ret_listens, int *ret_error, const char **ret_why)
{
	*ret_address = i == 0 ? "10.0.0.1:7443" : "10.0.0.9:7443";
	*ret_listens = i == 0;
	*ret_error = i == 0 ? 0 : -EADDRNOTAVAIL;
	*ret_why = i == 0 ? "" : "no such address here";
	return i < 2;
}

static const struct pair_refusal g_refusal = { .code = LINK_DENIED, .at_unix_s = 1700000000, .host = "b", .why = "not here" };

struct broker_explanation broker_explain(struct broker *b, const struct service_name *source,
					 const struct service_name *destination)
{
	struct broker_explanation e = { .choice = { .route = ROUTE_REFUSE, .why = "no intention allows it" }, .lid = ROLE_NO_ID,
					.sid = ROLE_NO_ID, .identity = "pidfd", .guard = "off" };

	copy(e.library_why, sizeof(e.library_why), "no intention allows it");
	if (strcmp(destination->name, "far") == 0) {
		e.choice.route = ROUTE_LINK;
		e.between = true;
		e.lacks = "a certificate";
		e.n_far = e.n_far_more = 1;
		e.far[0] = (struct explained_host){ .name = "b", .address = "10.0.0.2:7443", .state = LINK_HOST_DOWN, .kinds = OFFER_SOCKET };
		e.refusal = &g_refusal;
		e.to_allow[e.n_to_allow++] = (struct explained_command){ .host = "b", .text = "sealane intention allow default/web default/far" };
	}
	e.choice.intention = policy_decide(b->policy, source, destination, 1700000000);
	for (uint32_t i = 0; i < b->n_services; i++)
		if (!b->services[i].removed && service_name_equal(&b->services[i].name, destination))
			e.sid = i;
	for (uint32_t i = 0; i < b->n_upstreams; i++)
		if (!b->upstreams[i].removed && service_name_equal(&b->upstreams[i].source, source) &&
		    service_name_equal(&b->upstreams[i].destination, destination)) {
			e.lid = i;
			e.choice.route = b->upstreams[i].choice.route;
		}
	return e;
}
