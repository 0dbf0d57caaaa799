/*
 * Theory of operation: lanes in shared memory, from the offer to their end.
 *
 *   pending    BP_OFFER was sent: the porter asks the server's side, and the broker only waits. PB_OPEN or PB_CLOSED leaves it.
 *   open       both sides have their memory; the daemon holds one leash to each, in the porter, and a copy of each in the keeper
 *              (PB_KEEP -> BW_KEEP). PB_CLOSED leaves it, and takes the copies back (BW_UNKEEP).
 *   unleashed  the porter died: the lane goes on, since its sides see no leash close, but nobody can end it. The warden sends the
 *              keeper's copies again (WB_KEPT) before the next porter (WB_PORTER), and shm_adopt() hands them over. What comes back
 *              with no copy is dropped from the table ("lane.lost"): its sides then see their leashes close, and go on alone.
 *
 * The same way leads over a restart of the daemon. There the table is empty, so a copy's name says all that is needed to make
 * the entry again: id, both services, both workloads and the cgroups of their containers. It is believed, since it was written
 * here and held by root; it is not enough: the lane is decided again under today's configuration, and a lane of a container that
 * is not enrolled again ADOPTED_GRACE_MS later ends.
 *
 * Before it: broker_port.c. After it: porter.c.
 * Must never: let the byte counts, which the two sides say of themselves, decide anything.
 */
#include "daemon/broker_port.h"

#include "shm/layout.h"

#include <inttypes.h>
#include <stdio.h>

/* By then every enrolment that the state database or the configuration knows has been looked at. */
enum { ADOPTED_GRACE_MS = 10000 };

enum { END_CLIENT, END_SERVER, END_N };

/* What a copy's name says. */
struct kept_name {
	uint64_t id, client_cgroup, server_cgroup, opened_unix_s;
	struct service_name source, destination;
	char client[LIMIT_NAME_SIZE], server[LIMIT_NAME_SIZE];
	uint32_t cap_log2, client_pid, server_pid;
	unsigned end;
};

/* What the keeper gave back, until a porter and a configuration are there. */
struct kept_lane {
	uint64_t id;
	struct kept_name of;
	int fds[END_N]; /* owned; -1 */
	UT_hash_handle hh;
};

static struct {
	struct kept_lane *kept;
	size_t n_lanes;
	uint64_t grace_ends_ns;
	bool grace_runs;
} g_shm;

size_t shm_n_lanes(void)
{
	return g_shm.n_lanes;
}

static struct lane *find(struct broker *b, uint64_t id)
{
	struct lane *l;

	HASH_FIND(hh, b->lanes, &id, sizeof(id), l);
	return l && l->path == LANE_PATH_SHM ? l : NULL;
}

/* ------------------------------------------------------------------ the names of what is kept */

static_assert(sizeof("lane/0123456789abcdef/c") + 2 * LIMIT_SERVICE_SIZE + 2 * LIMIT_NAME_SIZE + 3 * 17 + 3 + 2 * 9 <= LIMIT_PATH_SIZE,
	      "the longest name fits");

static void name_format(char buf[LIMIT_PATH_SIZE], const struct kept_name *n)
{
	snprintf(buf, LIMIT_PATH_SIZE, "lane/%016" PRIx64 "/%c/%s~%s/%s~%s/%s/%s/%" PRIx64 "/%" PRIx64 "/%" PRIx64 "/%x/%x/%x", n->id,
		 n->end == END_CLIENT ? 'c' : 's', n->source.ns, n->source.name, n->destination.ns, n->destination.name, n->client,
		 n->server, n->client_cgroup, n->server_cgroup, n->opened_unix_s, n->cap_log2, n->client_pid, n->server_pid);
}

static bool service_is_valid(const struct service_name *s)
{
	return label_is_valid(s->ns) && label_is_valid(s->name);
}

static int name_parse(struct kept_name *n, const char *text)
{
	char end;
	int used = 0;

	*n = (struct kept_name){};
	if (sscanf(text, "lane/%16" SCNx64 "/%c/%63[^/~]~%63[^/~]/%63[^/~]~%63[^/~]/%63[^/]/%63[^/]/%16" SCNx64 "/%16" SCNx64 "/%16" SCNx64
		   "/%2x/%8x/%8x%n", &n->id, &end, n->source.ns, n->source.name, n->destination.ns, n->destination.name, n->client, n->server,
		   &n->client_cgroup, &n->server_cgroup, &n->opened_unix_s, &n->cap_log2, &n->client_pid, &n->server_pid, &used) != 14)
		return -EINVAL;
	if (text[used] != '\0' || (end != 'c' && end != 's') || n->id == 0 || n->id >> 53 || n->cap_log2 > SHM_CAP_LOG2_MAX)
		return -EINVAL;
	if (!service_is_valid(&n->source) || !service_is_valid(&n->destination) || !label_is_valid(n->client) || !label_is_valid(n->server))
		return -EINVAL;
	n->end = end == 'c' ? END_CLIENT : END_SERVER;
	return 0;
}

static struct kept_name name_of(const struct broker *b, const struct lane *l, unsigned end)
{
	struct kept_name n = { .id = l->id, .client_cgroup = l->shm.client_cgroup, .server_cgroup = l->shm.server_cgroup,
			       .opened_unix_s = l->opened_unix_s, .source = l->source, .destination = l->destination,
			       .cap_log2 = l->shm.cap_log2, .client_pid = l->client_pid, .server_pid = l->server_pid, .end = end };

	memcpy(n.client, b->workloads[l->wid].name, sizeof(n.client));
	memcpy(n.server, b->workloads[l->shm.server_wid].name, sizeof(n.server));
	return n;
}

static void keep(struct broker *b, const struct kept_name *n, int fd)
{
	struct role_msg m = { .type = BW_KEEP };

	name_format(m.u.store.name, n);
	broker_tell_warden(b, &m, fd);
}

static void unkeep(struct broker *b, const struct kept_name *n)
{
	struct role_msg m = { .type = BW_UNKEEP };

	name_format(m.u.store.name, n);
	broker_tell_warden(b, &m, -1);
}

/* ------------------------------------------------------------------ life */

/* In the table, and charged to its workload. @l->pair has counted it. */
static void lane_add(struct broker *b, struct lane *l)
{
	struct workload *w = &b->workloads[l->wid];

	l->shm.size = shm_region_size(l->shm.cap_log2);
	w->n_shm_lanes++;
	w->shm_size += l->shm.size;
	g_shm.n_lanes++;
	HASH_ADD(hh, b->lanes, id, sizeof(l->id), l);
}

static void lane_end(struct broker *b, struct lane *l)
{
	struct workload *w = &b->workloads[l->wid];

	for (unsigned end = 0; end < END_N; end++) {
		struct kept_name n = name_of(b, l, end);

		if (l->shm.kept[end])
			unkeep(b, &n);
	}
	b->counters.shm_bytes_up += l->bytes_up;
	b->counters.shm_bytes_down += l->bytes_down;
	w->n_shm_lanes--;
	w->shm_size -= l->shm.size;
	g_shm.n_lanes--;
	port_lane_ended(l);
	lane_quota_release(&l->pair->quota);
	HASH_DEL(b->lanes, l);
	free(l);
}

void port_identity(const struct broker *b, struct control_identity *id, const struct service_name *s, const struct workload *w)
{
	service_name_format(id->service, s);
	spiffe_id_format(id->spiffe_id, b->config->trust_domain, s);
	memcpy(id->workload, w->name, sizeof(id->workload));
	memcpy(id->host, b->host, sizeof(id->host));
}

static void log_allowed(struct broker *b, const struct lane *l, const struct intention *i, uint32_t uid)
{
	struct workload *w = &b->workloads[l->wid];
	char src[LIMIT_SERVICE_SIZE], dst[LIMIT_SERVICE_SIZE], rule[INTENTION_TEXT_SIZE];
	uint64_t more;

	if (lane_may_log(w, &more))
		log_info("lane.allow", LOG_ID("lane", l->id), LOG_STR("source", service_name_format(src, &l->source)),
			 LOG_STR("destination", service_name_format(dst, &l->destination)), LOG_STR("path", "shm"),
			 LOG_STR("intention", intention_text(rule, sizeof(rule), i)), LOG_STR("where", intention_where(i)),
			 LOG_STR("workload", w->name), LOG_U64("pid", l->client_pid), LOG_U64("uid", uid), LOG_U64("more", more));
}

/* lane.open, lane.adopt, lane.lost: what the two sides and their places are. */
static void log_state(struct broker *b, const struct lane *l, enum log_level level, const char *event, const char *why)
{
	struct workload *w = &b->workloads[l->wid];
	char src[LIMIT_SERVICE_SIZE], dst[LIMIT_SERVICE_SIZE];
	uint64_t more;

	if (lane_may_log(w, &more))
		LOG_EVENT(level, event, LOG_ID("lane", l->id), LOG_STR("source", service_name_format(src, &l->source)),
			  LOG_STR("destination", service_name_format(dst, &l->destination)), LOG_STR("path", "shm"), LOG_STR("why", why),
			  LOG_STR("workload", w->name), LOG_STR("server", b->workloads[l->shm.server_wid].name), LOG_U64("more", more));
}

int shm_offer(struct broker *b, const struct role_ask *q, struct workload *client, const struct service_name *source,
	      struct port_listener *to, const struct intention *i, struct pair *pair)
{
	const struct workload *server = &b->workloads[to->wid];
	struct role_msg m = { .type = BP_OFFER };
	struct lane *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	*l = (struct lane){ .id = lane_next_id(b), .path = LANE_PATH_SHM, .wid = client->wid, .lid = ROLE_NO_ID, .sid = to->sid,
			    .source = *source, .destination = to->service, .client_pid = q->accept.pid, .server_pid = to->pid,
			    .opened_unix_s = (uint64_t)unix_now_s(), .pair = pair };
	l->shm = (struct lane_shm){ .pending = true, .kind = q->kind, .leashed = true, .server_wid = to->wid, .client_cgroup = client->cgroup_id,
				    .server_cgroup = server->cgroup_id, .listener = to->cid, .listener_serial = to->serial,
				    .cap_log2 = q->cap_log2 };
	lane_add(b, l);
	m.u.offer.cid = q->accept.cid;
	m.u.offer.listener = to->cid;
	m.u.offer.lane_id = l->id;
	port_identity(b, &m.u.offer.client, source, client);
	port_identity(b, &m.u.offer.server, &to->service, server);
	log_allowed(b, l, i, q->accept.uid);
	broker_tell_porter(b, &m, -1);
	return 0;
}

static void tell_cut(struct broker *b, uint64_t lane_id, const char *why)
{
	struct role_msg m = { .type = BP_CUT, .u.refuse = { .cid = ROLE_NO_ID, .error = -ECONNABORTED, .lane_id = lane_id } };

	snprintf(m.u.refuse.why, sizeof(m.u.refuse.why), "%s", why);
	broker_tell_porter(b, &m, -1);
}

void shm_on_open(struct broker *b, uint64_t lane_id)
{
	struct lane *l = find(b, lane_id);

	if (lend_on_open(b, lane_id))
		return;
	if (!l) {
		tell_cut(b, lane_id, "the daemon does not know this lane");
		return;
	}
	if (!l->shm.pending)
		return;
	l->shm.pending = false;
	b->counters.lanes_opened++;
	b->workloads[l->wid].n_allowed++;
	log_state(b, l, LOG_LEVEL_INFO, "lane.open", NULL);
}

void shm_on_leash(struct broker *b, const struct role_leash *leash, int fd)
{
	struct lane *l = find(b, leash->lane_id);
	unsigned end = leash->is_server ? END_SERVER : END_CLIENT;

	if (!l || fd < 0)
		return;
	struct kept_name n = name_of(b, l, end);

	keep(b, &n, fd);
	l->shm.kept[end] = true;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* Said by the sides themselves, and from the start again after an adoption: never less than before. */
static void count(struct lane *l, const struct role_stats *s)
{
	l->bytes_up = larger(l->bytes_up, s->bytes_up);
	l->bytes_down = larger(l->bytes_down, s->bytes_down);
	l->reads_up = larger(l->reads_up, s->reads_up);
	l->reads_down = larger(l->reads_down, s->reads_down);
}

void shm_on_stats(struct broker *b, const struct role_stats *s)
{
	struct lane *l = find(b, s->lane_id);

	if (s->lane_id == 0)
		lane_stats_of_porter_end(b);
	else if (l)
		count(l, s);
}

void shm_on_closed(struct broker *b, const struct role_stats *s)
{
	struct lane *l = find(b, s->lane_id);
	char src[LIMIT_SERVICE_SIZE], dst[LIMIT_SERVICE_SIZE];
	uint64_t more;

	if (lend_on_closed(b, s) || !l)
		return;
	count(l, s);
	b->counters.lanes_failed += l->shm.pending && !l->cut;
	if (lane_may_log(&b->workloads[l->wid], &more))
		LOG_EVENT(l->shm.pending ? LOG_LEVEL_WARNING : LOG_LEVEL_INFO, l->shm.pending ? "lane.fail" : "lane.close",
			  LOG_ID("lane", l->id), LOG_STR("source", service_name_format(src, &l->source)),
			  LOG_STR("destination", service_name_format(dst, &l->destination)), LOG_STR("path", "shm"),
			  LOG_STR("why", l->shm.pending ? "it ended before both sides had taken it" : NULL),
			  LOG_STR("end", lane_end_name(s->end)), LOG_STR("error", s->error ? log_errno_name(s->error) : NULL),
			  LOG_U64("bytes_up", l->bytes_up), LOG_U64("bytes_down", l->bytes_down), LOG_U64("more", more));
	lane_end(b, l);
}

/* ------------------------------------------------------------------ cutting */

static void log_cut(struct broker *b, const struct lane *l, const struct intention *i, const char *why)
{
	char src[LIMIT_SERVICE_SIZE], dst[LIMIT_SERVICE_SIZE], rule[INTENTION_TEXT_SIZE];

	log_warn("lane.cut", LOG_ID("lane", l->id), LOG_STR("source", service_name_format(src, &l->source)),
		 LOG_STR("destination", service_name_format(dst, &l->destination)), LOG_STR("path", "shm"),
		 LOG_STR("intention", intention_text(rule, sizeof(rule), i)), LOG_STR("where", intention_where(i)), LOG_STR("why", why));
}

void shm_cut(struct broker *b, struct lane *l, const struct intention *i, const char *why)
{
	char text[256];

	/* Without a leash nobody can be told: shm_adopt() decides about it again. */
	if (l->cut || !l->shm.leashed)
		return;
	l->cut = true;
	b->counters.lanes_cut++;
	b->workloads[l->wid].n_cut++;
	if (!i)
		i = policy_decide(b->policy, &l->source, &l->destination, unix_now_s());
	log_cut(b, l, i, why);
	snprintf(text, sizeof(text), "%.110s (%.130s)", why, intention_where(i));
	tell_cut(b, l->id, text);
}

/* An adopted lane may wait for its workloads to be enrolled again; nothing else may outlive its container. */
static bool is_elsewhere(const struct lane *l, const struct workload *w, uint64_t cgroup_id)
{
	bool waits = l->shm.adopted && w->cgroup_id == 0 && clock_ns() < g_shm.grace_ends_ns;

	return w->cgroup_id != cgroup_id && !waits;
}

/* Return: NULL: it may go on. */
static const char *why_wrong(struct broker *b, const struct lane *l, const struct intention **ret_i)
{
	const struct workload *client = model_workload(b, l->wid), *server = model_workload(b, l->shm.server_wid);
	const struct service *s = model_find_service(b, &l->destination);

	*ret_i = policy_decide(b->policy, &l->source, &l->destination, unix_now_s());
	if (!client || !server || !s || !s->takes_lanes || !model_speaks_as(client, &l->source) || !model_speaks_as(server, &l->destination))
		return "the configuration does not have these services in these workloads any more";
	if (!*ret_i || (*ret_i)->action != INTENTION_ALLOW)
		return "no longer allowed";
	if (port_needs_socket(*ret_i))
		return (*ret_i)->strict ? "the intention is strict now, which needs the socket file" :
					  "the intention limits bytes now, which needs the socket file";
	if (is_elsewhere(l, client, l->shm.client_cgroup))
		return "the client's container is no longer enrolled";
	return is_elsewhere(l, server, l->shm.server_cgroup) ? "the server's container is no longer enrolled" : NULL;
}

static void recheck(struct broker *b, struct lane *l)
{
	const struct intention *i;
	const char *why = why_wrong(b, l, &i);

	if (why)
		shm_cut(b, l, i, why);
}

void shm_recheck(struct broker *b)
{
	struct lane *l, *tmp;

	HASH_ITER(hh, b->lanes, l, tmp)
		if (l->path == LANE_PATH_SHM)
			recheck(b, l);
}

void shm_recheck_workload(struct broker *b, uint32_t wid)
{
	struct lane *l, *tmp;

	if (!g_shm.grace_runs)
		return;
	HASH_ITER(hh, b->lanes, l, tmp)
		if (l->path == LANE_PATH_SHM && (l->wid == wid || l->shm.server_wid == wid))
			recheck(b, l);
}

/* ------------------------------------------------------------------ adoption */

void shm_on_kept(struct broker *b, const char *name, int *fd)
{
	struct role_msg drop = { .type = BW_UNKEEP };
	struct kept_lane *k;
	struct kept_name n;

	if (name_parse(&n, name) < 0 || *fd < 0) {
		log_warn("lane.kept_unknown", LOG_STR("name", name));
		snprintf(drop.u.store.name, sizeof(drop.u.store.name), "%s", name);
		broker_tell_warden(b, &drop, -1);
		return;
	}
	lane_id_seen(b, n.id);
	HASH_FIND(hh, g_shm.kept, &n.id, sizeof(n.id), k);
	if (!k) {
		k = calloc(1, sizeof(*k));
		if (!k)
			return;
		*k = (struct kept_lane){ .id = n.id, .of = n, .fds = { -1, -1 } };
		HASH_ADD(hh, g_shm.kept, id, sizeof(k->id), k);
	}
	fd_cleanup(&k->fds[n.end]);
	k->fds[n.end] = take_fd(fd);
}

static struct lane *lane_from_kept(struct broker *b, const struct kept_name *n)
{
	const struct workload *client = model_find_workload(b, n->client), *server = model_find_workload(b, n->server);
	const struct service *s = model_find_service(b, &n->destination);
	struct pair *pair = client && server && s ? lane_pair(b, &n->source, &n->destination) : NULL;
	struct lane *l = pair ? calloc(1, sizeof(*l)) : NULL;

	if (!l)
		return NULL;
	*l = (struct lane){ .id = n->id, .path = LANE_PATH_SHM, .wid = client->wid, .lid = ROLE_NO_ID, .sid = s->sid, .source = n->source,
			    .destination = n->destination, .client_pid = n->client_pid, .server_pid = n->server_pid,
			    .opened_unix_s = n->opened_unix_s, .pair = pair };
	l->shm = (struct lane_shm){ .adopted = true, .kind = CONTROL_KIND_N, .server_wid = server->wid, .client_cgroup = n->client_cgroup,
				    .server_cgroup = n->server_cgroup, .listener = ROLE_NO_ID, .cap_log2 = n->cap_log2 };
	lane_quota_adopt(&pair->quota);
	lane_add(b, l);
	return l;
}

/* Into the porter, and to the keeper once more, which then holds it whatever became of the first copy. */
static void hand_leashes(struct broker *b, struct kept_lane *k)
{
	for (unsigned end = 0; end < END_N; end++) {
		struct role_msg m = { .type = BP_ADOPT, .u.leash = { .lane_id = k->id, .is_server = end == END_SERVER } };

		if (k->fds[end] < 0)
			continue;
		k->of.end = end;
		broker_tell_porter(b, &m, k->fds[end]);
		keep(b, &k->of, k->fds[end]);
	}
}

/* Nothing here knows its workloads any more: end it, so that nobody's memory stays shared without anybody's word. */
static void cut_unknown(struct broker *b, struct kept_lane *k)
{
	struct lane l = { .id = k->id, .source = k->of.source, .destination = k->of.destination };

	for (unsigned end = 0; end < END_N; end++) {
		k->of.end = end;
		unkeep(b, &k->of);
	}
	b->counters.lanes_cut++;
	log_cut(b, &l, policy_decide(b->policy, &l.source, &l.destination, unix_now_s()),
		"its workloads are not in the configuration any more");
	tell_cut(b, k->id, "its workloads are not in the daemon's configuration any more");
}

static void adopt(struct broker *b, struct kept_lane *k)
{
	struct lane *l = find(b, k->id);

	hand_leashes(b, k);
	if (!l)
		l = lane_from_kept(b, &k->of);
	if (!l) {
		cut_unknown(b, k);
		return;
	}
	l->shm.leashed = true;
	for (unsigned end = 0; end < END_N; end++)
		l->shm.kept[end] = k->fds[end] >= 0;
	if (l->cut) {
		tell_cut(b, l->id, "it was ended before, and the porter was not there");
		return;
	}
	log_state(b, l, LOG_LEVEL_INFO, "lane.adopt", NULL);
	if (k->fds[END_CLIENT] < 0 || k->fds[END_SERVER] < 0)
		shm_cut(b, l, NULL, "the daemon has lost its hold on one of the two sides");
	else
		recheck(b, l);
}

/* Every lane that the porter of now does not hold. */
static void drop_lost(struct broker *b)
{
	struct lane *l, *tmp;

	HASH_ITER(hh, b->lanes, l, tmp) {
		if (l->path != LANE_PATH_SHM || l->shm.leashed)
			continue;
		log_state(b, l, LOG_LEVEL_WARNING, "lane.lost", "the porter died, and the keeper has no copy: the daemon cannot end this lane any more");
		lane_end(b, l);
	}
}

static void on_grace_over(struct broker *b, void *arg)
{
	g_shm.grace_runs = false;
	shm_recheck(b);
}

void shm_adopt(struct broker *b)
{
	struct kept_lane *k, *tmp;

	if (!b->config || b->porter.fd < 0)
		return;
	if (g_shm.kept && !g_shm.grace_runs) {
		g_shm.grace_runs = true;
		g_shm.grace_ends_ns = clock_ns() + ADOPTED_GRACE_MS * UINT64_C(1000000);
		broker_after(b, ADOPTED_GRACE_MS + 1, on_grace_over, NULL);
	}
	HASH_ITER(hh, g_shm.kept, k, tmp) {
		adopt(b, k);
		fd_cleanup(&k->fds[END_CLIENT]);
		fd_cleanup(&k->fds[END_SERVER]);
		HASH_DEL(g_shm.kept, k);
		free(k);
	}
	drop_lost(b);
}

void shm_on_porter_lost(struct broker *b)
{
	struct lane *l, *tmp;

	HASH_ITER(hh, b->lanes, l, tmp) {
		if (l->path != LANE_PATH_SHM)
			continue;
		l->shm.leashed = false;
		if (!l->shm.pending)
			continue;
		b->counters.lanes_failed++;
		log_state(b, l, LOG_LEVEL_WARNING, "lane.fail", "the porter died before both sides had taken it");
		lane_end(b, l);
	}
}
