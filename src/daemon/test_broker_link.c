/*
 * Other hosts, as the broker sees them: what it tells a linker, where a client's lane goes, whom it lets in, and what becomes of it
 * when somebody says no, says nothing, or dies. The linker is the test's; certificates are test_link_ca.c's.
 */
#include "core/revoked.h"
#include "daemon/test_broker.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

static const char g_links[] = "host_name = a\n"
			      "listen = \"127.0.0.1:7443\"\n"
			      "connect_wait = 600ms\n"
			      "host a { address = \"10.0.0.1:7443\" }\n" /* ourselves: the same file on all hosts */
			      "host b { address = \"10.0.0.2:7443\" }\n"
			      "host c { address = \"10.0.0.3:7443\" }\n"
			      "workload cache { services = [redis] }\n"
			      "service redis {}\n"
			      "service nokey { socket_path = \"nokey.sock\" upstream far {} }\n"
			      "service web { upstream far {} }\n"
			      "intention { source = \"*\" destination = far action = allow }\n"
			      "intention { source = stranger destination = \"*\" action = allow }\n"
			      "intention { source = revoked destination = redis action = allow }\n";

#define TD "spiffe://sealane.local"
enum { NO_FD = -1, KIDS = 10 };

/* What the linker was told. */
struct linker {
	struct role_msg told[512];
	size_t n, seen;
	int carried;	   /* the client's connection of the last BL_CARRY, owned */
	char offers[4096]; /* of the last BL_ANNOUNCE */
	bool hold_stats;
	struct role_stats lane;
	struct role_session_stats session;
	uint32_t n_sessions;
};

static struct linker *linker(const struct host *h)
{
	return h->test;
}

static void tell_linker_stats(struct host *h, uint32_t seq)
{
	struct role_msg m = { .type = LB_STATS, .seq = seq, .u.stats = linker(h)->lane };
	struct role_msg s = { .type = LB_SESSION_STATS, .seq = seq, .u.session_stats = linker(h)->session };

	if (m.u.stats.lane_id)
		tell(&h->linker, &m, -1);
	if (s.u.session_stats.session)
		tell(&h->linker, &s, -1);
	m.u.stats = (struct role_stats){};
	tell(&h->linker, &m, -1);
}

static void play_linker(struct host *h, const struct role_msg *m, int fd)
{
	struct linker *k = linker(h);
	ssize_t n;

	assert_true(k->n < ARRAY_SIZE(k->told));
	k->told[k->n++] = *m;
	if (m->type == BL_CARRY) {
		assert_true(fd >= 0);
		fd_cleanup(&k->carried);
		k->carried = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	} else if (m->type == BL_ANNOUNCE) {
		n = pread(fd, k->offers, sizeof(k->offers) - 1, 0);
		assert_true(n >= 0);
		k->offers[n] = '\0';
	} else if (m->type == BL_STATS && !k->hold_stats) {
		tell_linker_stats(h, m->seq);
	} else {
		assert_true(fd >= 0 || (m->type != BL_LISTEN && m->type != BL_GO));
	}
}

/* The next message of this type that was not asked for yet; NULL: none came. */
static const struct role_msg *next_told(struct host *h, uint32_t type)
{
	struct linker *k = linker(h);

	for (size_t i = k->seen; i < k->n; i++)
		if (k->told[i].type == type) {
			k->seen = i + 1;
			return &k->told[i];
		}
	return NULL;
}

static const struct role_msg *want_told(struct host *h, uint32_t type)
{
	const struct role_msg *m = next_told(h, type);
	uint64_t give_up_ns = clock_ns() + UINT64_C(5000000000);

	for (; !m && clock_ns() < give_up_ns; m = next_told(h, type))
		serve(h, CALM_MS); /* a timer of the broker's may have to come first */
	if (!m)
		fail_msg("the linker was not told %s", role_msg_name(type));
	return m;
}

static bool is_told(const struct host *h, uint32_t type)
{
	const struct linker *k = linker(h);

	for (size_t i = k->seen; i < k->n; i++)
		if (k->told[i].type == type)
			return true;
	return false;
}

static void forget_told(struct host *h)
{
	linker(h)->seen = linker(h)->n;
}

static void say(struct host *h, const struct role_msg *m, int fd)
{
	tell(&h->linker, m, fd);
	serve(h, 60);
}

static uint32_t hid_of(struct host *h, const char *name)
{
	const struct linker *k = linker(h);

	for (size_t i = k->n; i-- > 0;)
		if (k->told[i].type == BL_HOST && strcmp(k->told[i].u.host.name, name) == 0)
			return k->told[i].u.host.hid;
	fail_msg("the linker knows no host %s", name);
	return 0;
}

static struct role_msg session_msg(uint32_t session, uint32_t state, uint32_t reason, uint32_t hid)
{
	struct role_msg m = { .type = LB_SESSION };

	m.u.session = (struct role_session){ .session = session, .state = state, .reason = reason, .hid = hid };
	strcpy(m.u.session.local, TD "/host/a");
	strcpy(m.u.session.peer, TD "/host/b");
	strcpy(m.u.session.address, "10.0.0.2:7443");
	return m;
}

static void host_is_up(struct host *h, const char *name)
{
	struct role_msg m = session_msg(++linker(h)->n_sessions, SESSION_UP, SESSION_OK, hid_of(h, name));

	say(h, &m, -1);
}

static void announces(struct host *h, const char *name, const char *text)
{
	struct role_msg m = { .type = LB_ANNOUNCE, .u.id.id = hid_of(h, name) };
	AUTO_FD fd = memfd_create("offers", MFD_CLOEXEC);

	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	say(h, &m, fd);
}

static void has(struct host *h, const char *name, const char *text)
{
	host_is_up(h, name);
	announces(h, name, text);
}

static void event(struct host *h, const char *a, const char *b)
{
	assert_int_equal(http(h, "GET", "/v1/events", ""), 200);
	assert_told(a, b);
}

/* How many lines of the log have @what. */
static unsigned n_events(struct host *h, const char *what)
{
	unsigned n = 0;

	assert_int_equal(http(h, "GET", "/v1/events", ""), 200);
	for (const char *p = g_answer; (p = strstr(p, what)); p++)
		n++;
	return n;
}

static int setup_links(void **state)
{
	int r = setup(state);
	struct host *h = *state;

	if (r < 0)
		return r;
	h->test = calloc(1, sizeof(struct linker));
	assert_non_null(h->test);
	linker(h)->carried = -1;
	h->play_linker = play_linker;
	send_config(h, g_links);
	serve(h, 200);
	start_linker(h);
	serve(h, 200);
	enrol(h, "web", 11);
	enrol(h, "nokey", 12);
	return 0;
}

static int teardown_links(void **state)
{
	struct host *h = *state;

	fd_cleanup(&linker(h)->carried);
	free(h->test);
	return teardown(state);
}

/* Not lid_of(): web has had another socket file, before this configuration. */
static uint32_t lid_of_far(const struct host *h, const char *workload)
{
	for (uint32_t i = 0; i < N_IDS; i++)
		if (strcmp(h->sockets[i], "far.sock") == 0 && h->socket_wid[i] == wid_of(h, workload))
			return i;
	fail_msg("%s has no far.sock", workload);
	return 0;
}

static void client(struct host *h, const char *workload, uint32_t cid)
{
	struct role_msg m = { .type = GB_ACCEPT };

	h->resolve_wid = wid_of(h, workload);
	m.u.accept = (struct role_accept){ .cid = cid, .lid = lid_of_far(h, workload), .pid = 1,
					   .cgroup_id = strcmp(workload, "web") == 0 ? 11 : 12 };
	tell(&h->gate, &m, -1);
	serve(h, 150);
}

/* The client's side sees the end: nobody holds the connection any more. */
static bool client_is_over(const struct host *h)
{
	char byte;

	return poll(&(struct pollfd){ .fd = h->client, .events = POLLIN }, 1, 0) == 1 && read(h->client, &byte, 1) == 0;
}

static void opened(struct host *h, uint64_t lane)
{
	struct role_msg m = { .type = LB_OPENED, .u.lane_ref = { .lane_id = lane, .link_id = UINT64_C(0x5f3a9c0100000011) } };

	say(h, &m, -1);
}

static void closed(struct host *h, uint64_t lane, uint32_t end)
{
	struct role_msg m = { .type = LB_CLOSED, .u.stats = { .lane_id = lane, .end = end, .bytes_up = 123 } };

	say(h, &m, -1);
}

/* @back: the client comes back with it, since nothing was sent. */
static void failed(struct host *h, uint64_t lane, uint32_t code, bool back)
{
	struct role_msg m = { .type = LB_FAILED, .u.link_failed = { .lane_id = lane, .code = code } };
	AUTO_FD fd = take_fd(&linker(h)->carried);

	say(h, &m, back ? fd : -1);
}

/* The linker does not take the certificate of the service there. */
static void disowned(struct host *h, uint64_t lane)
{
	struct role_msg m = { .type = LB_FAILED, .u.link_failed = { .lane_id = lane, .code = LINK_DENIED, .certificate = 1 } };
	AUTO_FD fd = take_fd(&linker(h)->carried);

	say(h, &m, fd);
}

/* ------------------------------------------------------------------ what a linker is told */

static void test_told(void **state)
{
	struct host *h = *state;
	const struct role_msg *m;
	struct role_tickets tickets;

	assert_int_equal(h->n_linkers, 1);
	assert_int_equal(h->n_tcp_listens, 1);
	assert_string_equal(h->last_dial.address, "127.0.0.1:7443");
	assert_int_equal(h->last_dial.timeout_ms, 15000);
	assert_string_equal(h->last_dial.congestion, "cubic");
	assert_int_equal(linker(h)->told[0].type, BL_RDMA); /* before all else, since it isolates itself then */
	assert_int_equal(linker(h)->told[0].u.rdma.mode, RDMA_AUTO);
	assert_string_equal(linker(h)->told[0].u.rdma.address, "127.0.0.1:7443");
	assert_int_equal(linker(h)->told[1].type, BL_TRUST);
	tickets = want_told(h, BL_TICKETS)->u.tickets;
	assert_int_equal(tickets.n, 1);
	want_told(h, BL_LISTEN);
	m = want_told(h, BL_HOST);
	assert_string_equal(m->u.host.name, "b");
	assert_string_equal(m->u.host.address, "10.0.0.2:7443");
	assert_int_equal(m->u.host.keep, 1);
	assert_string_equal(want_told(h, BL_HOST)->u.host.name, "c");
	want_told(h, BL_ANNOUNCE);
	assert_non_null(strstr(linker(h)->offers, "default/redis up 0\n"));
	assert_null(next_told(h, BL_HOST)); /* not itself */
	assert_null(strstr(linker(h)->offers, "web")); /* it offers nothing */
	/* One that is started again is told all of it again. */
	forget_told(h);
	start_linker(h);
	serve(h, 150);
	m = want_told(h, BL_TICKETS);
	want_told(h, BL_LISTEN);
	want_told(h, BL_HOST);
	want_told(h, BL_HOST);
	want_told(h, BL_ANNOUNCE);
	/* But for tickets: who ended the other one may have read its secrets. */
	assert_int_equal(m->u.tickets.n, 1);
	assert_memory_not_equal(m->u.tickets.secrets[0], tickets.secrets[0], ROLE_TICKET_SECRET_SIZE);
	assert_memory_not_equal(m->u.tickets.secrets[0], tickets.secrets[1], ROLE_TICKET_SECRET_SIZE);
	/* But for tickets: who ended the other one may have read its secrets. */
	assert_int_equal(m->u.tickets.n, 1);
	assert_memory_not_equal(m->u.tickets.secrets[0], tickets.secrets[0], ROLE_TICKET_SECRET_SIZE);
}

static void test_announces_changes(void **state)
{
	struct host *h = *state;
	uint32_t redis = sid_of(h, "redis.sock");
	size_t before;

	forget_told(h);
	server_state(h, redis, false);
	serve(h, 200);
	want_told(h, BL_ANNOUNCE);
	assert_non_null(strstr(linker(h)->offers, "default/redis down 0\n"));
	before = linker(h)->n;
	for (int i = 0; i < 5; i++)
		server_state(h, redis, i % 2 == 0);
	serve(h, 200);
	assert_int_equal(linker(h)->n, before + 1); /* once, as it is at the end */
	assert_non_null(strstr(linker(h)->offers, "default/redis up 0\n"));
	assert_int_equal(http(h, "POST", "/v1/workloads/cache/drain", "{\"on\":true}"), 200);
	serve(h, 100);
	assert_non_null(strstr(linker(h)->offers, "default/redis down 0\n"));
}

static void test_reload_of_hosts(void **state)
{
	struct host *h = *state;
	uint32_t b = hid_of(h, "b"), c = hid_of(h, "c");
	char text[2048];

	forget_told(h);
	snprintf(text, sizeof(text), "%s", strstr(g_links, "workload cache"));
	snprintf(text + strlen(text), sizeof(text) - strlen(text),
		 "host_name = a\nconnect_wait = 600ms\nlinks = 2\nhost b { address = \"10.0.0.22:7443\" rdma_listen = \"10.8.0.2:7443\" }\n");
	send_config(h, text);
	serve(h, 200);
	assert_int_equal(h->n_linkers, 2);
	assert_int_equal(h->n_tcp_unlistens, 1);
	assert_int_equal(want_told(h, BL_HOST_GONE)->u.id.id, c);
	assert_string_equal(want_told(h, BL_HOST)->u.host.address, "10.0.0.22:7443");
	assert_string_equal(want_told(h, BL_HOST)->u.host.rdma, "10.8.0.2:7443");
	assert_int_equal(hid_of(h, "b"), b);
	want_told(h, BL_UNLISTEN);
	assert_null(next_told(h, BL_LISTEN));
	assert_int_equal(http(h, "GET", "/v1/hosts", ""), 200);
	assert_null(strstr(g_answer, "10.0.0.3:7443"));
	event(h, "host.gone", "\"address\":\"10.0.0.3:7443\"");
}

/* `sealane status` tells where other hosts come in, and what keeps them out. */
static void test_listeners_are_shown(void **state)
{
	struct host *h = *state;
	char text[2048];

	assert_int_equal(http(h, "GET", "/v1/status", ""), 200);
	assert_then("\"listeners\":[{\"address\":\"127.0.0.1:7443\",\"listens\":true,\"error\":null,\"why\":null}]", "\"linkers\"");
	h->tcp_error = -EADDRINUSE;
	snprintf(text, sizeof(text), "listen = \"127.0.0.1:7444\"\nhost_name = a\nhost b { address = \"10.0.0.2:7443\" }\n%s", strstr(g_links, "workload cache"));
	send_config(h, text);
	serve(h, 200);
	assert_int_equal(http(h, "GET", "/v1/status", ""), 200);
	assert_then("\"address\":\"127.0.0.1:7444\",\"listens\":false,\"error\":\"EADDRINUSE\"", "as the test says");
	event(h, "\"link.listen_failed\"", "EADDRINUSE");
	send_config(h, strstr(text, "host_name"));
	serve(h, 200);
	assert_int_equal(http(h, "GET", "/v1/status", ""), 200);
	assert_then("\"links\":", "\"listeners\":[]");
	event(h, "\"config.warning\"", "no `listen`");
}

static int64_t heard_of(struct host *h, const char *name)
{
	char at[64];
	const char *p;

	snprintf(at, sizeof(at), "\"name\":\"%s\"", name);
	assert_int_equal(http(h, "GET", "/v1/hosts", ""), 200);
	p = strstr(g_answer, at);
	p = p ? strstr(p, "\"heard\":") : NULL;
	assert_non_null(p);
	return strtoll(p + 8, NULL, 10); /* null: 0 */
}

/* When a host was heard last: never, as its session says, and when that ended. */
static void test_heard(void **state)
{
	struct host *h = *state;
	int64_t before = (int64_t)time(NULL), heard;
	struct role_msg m;

	assert_int_equal(heard_of(h, "b"), 0);
	host_is_up(h, "b");
	assert_true(heard_of(h, "b") >= before);
	linker(h)->session = (struct role_session_stats){ .session = linker(h)->n_sessions, .silent_ms = 7000000 };
	heard = heard_of(h, "b");
	assert_true(heard != 0 && heard <= (int64_t)time(NULL) - 7000);
	m = session_msg(linker(h)->n_sessions, SESSION_DOWN, SESSION_TIMEOUT, hid_of(h, "b"));
	linker(h)->session.session = 0;
	say(h, &m, -1);
	heard = heard_of(h, "b");
	assert_true(heard >= before - 15 && heard <= (int64_t)time(NULL) - 15); /* link_timeout ago */
	assert_int_equal(heard_of(h, "c"), 0);
	/* Lanes from it are shown beside those to it. */
	assert_then("\"name\":\"b\"", "\"lanes\":0,\"lanes_in\":0");
}

static void test_dial(void **state)
{
	struct host *h = *state;
	struct role_msg m = { .type = LB_DIAL, .u.dial_ask = { .session = 5, .hid = hid_of(h, "b") } };

	forget_told(h);
	say(h, &m, -1);
	assert_int_equal(h->n_dials, 1);
	assert_string_equal(h->last_dial.address, "10.0.0.2:7443");
	assert_int_equal(want_told(h, BL_DIALED)->u.dialed.session, 5);
	m.u.dial_ask = (struct role_dial_ask){ .session = 6, .hid = ROLE_NO_ID, .req = 77 }; /* an authority */
	say(h, &m, -1);
	assert_string_equal(h->last_dial.address, "10.0.0.77:7443");
	assert_int_equal(want_told(h, BL_DIALED)->u.dialed.error, 0);
	m.u.dial_ask = (struct role_dial_ask){ .session = 7, .hid = 4711 };
	say(h, &m, -1);
	assert_int_equal(want_told(h, BL_DIALED)->u.dialed.error, -ENOENT);
	assert_int_equal(h->n_dials, 2);
}

/* ------------------------------------------------------------------ lanes that go out */

static void test_goes_out(void **state)
{
	struct host *h = *state;
	const struct role_msg *m;
	uint64_t lane;

	assert_int_equal(http(h, "GET", "/v1/explain?source=web&destination=far", ""), 200);
	assert_then("\"route\":\"link\"", "is not reached");
	has(h, "b", "default/far up 0\n");
	client(h, "web", 1);
	assert_int_equal(h->n_hands, 1);
	m = want_told(h, BL_CARRY);
	assert_int_equal(m->u.carry.hid, hid_of(h, "b"));
	assert_string_equal(m->u.carry.destination, "default/far");
	assert_in_range(m->u.carry.kid, KIDS, KIDS + 10);
	lane = m->u.carry.lane_id;
	assert_int_equal(http(h, "GET", "/v1/lanes", ""), 200);
	assert_null(strstr(g_answer, "link:b")); /* no host has taken it yet */
	opened(h, lane);
	linker(h)->lane = (struct role_stats){ .lane_id = lane, .bytes_up = 77 };
	assert_int_equal(http(h, "GET", "/v1/lanes", ""), 200);
	assert_then("\"path\":\"link:b\"", "\"bytes_up\":77");
	assert_then("\"link\":", "{\"id\":\"5f3a9c01-17\",\"direction\":\"out\",\"host\":\"b\",\"address\":\"10.0.0.2:7443\",\"path\":\"tls\"}");
	assert_int_equal(http(h, "GET", "/v1/workloads/web", ""), 200);
	assert_then("\"lanes_open\":1", "\"allowed\":1");
	event(h, "\"lane.allow\"", "\"path\":\"link:b\"");
	assert_told("\"lane.allow\"", "\"source_id\":\"" TD "/ns/default/svc/web\"");
	assert_told("\"lane.allow\"", "\"destination_id\":\"" TD "/ns/default/svc/far\"");
	closed(h, lane, LANE_END_EOF);
	event(h, "\"lane.close\"", "\"bytes_up\":123");
	assert_told("\"lane.allow\"", "\"link_lane\":\"5f3a9c01-17\"");
	assert_told("\"lane.close\"", "\"link_lane\":\"5f3a9c01-17\"");
	assert_int_equal(http(h, "GET", "/v1/lanes", ""), 200);
	assert_null(strstr(g_answer, "link:b"));
	assert_int_equal(http(h, "GET", "/metrics", ""), 200);
	assert_non_null(strstr(g_answer, "sealane_link_lanes_opened_total{direction=\"out\"} 1"));
	assert_non_null(strstr(g_answer, "sealane_link_lane_bytes_total{side=\"out\",direction=\"up\"} 123"));
	closed(h, lane, LANE_END_EOF); /* twice, and one that never was */
	closed(h, 99, LANE_END_EOF);
	opened(h, 99);
	assert_int_equal(http(h, "GET", "/v1/status", ""), 200);
}

/* The gate keeps the client, which it sees leave, until somebody has the service. */
static void test_waits_for_a_host(void **state)
{
	struct host *h = *state;

	client(h, "web", 1);
	assert_int_equal(h->n_hands + h->n_refuse, 0);
	has(h, "b", "default/far down 0\n");
	assert_int_equal(h->n_hands, 0);
	announces(h, "b", "default/far up 0\n");
	assert_int_equal(h->n_hands, 1);
	want_told(h, BL_CARRY);
	/* Nobody, for as long as connect_wait. */
	announces(h, "b", "default/far down 0\n");
	client(h, "web", 2);
	serve(h, 700);
	assert_int_equal(h->n_refuse, 1);
	event(h, "\"lane.fail\"", "host b (10.0.0.2:7443) has the service, but it is down there"); /* not c, which is not reached */
	struct role_msg lost = session_msg(linker(h)->n_sessions, SESSION_DOWN, SESSION_LOST, hid_of(h, "b"));
	say(h, &lost, -1);
	assert_int_equal(http(h, "GET", "/v1/explain?source=web&destination=far", ""), 200);
	assert_non_null(strstr(g_answer, "host b (10.0.0.2:7443), which has it, is not reached: lost"));
	host_is_up(h, "b");
	/* All have told, and none has it. */
	announces(h, "b", "default/other up 0\n");
	has(h, "c", "");
	client(h, "web", 3);
	assert_int_equal(h->n_refuse, 2);
	event(h, "\"lane.deny\"", "nor on another one that is known");
}

static void test_no_certificate(void **state)
{
	struct host *h = *state;

	has(h, "b", "default/far up 0\n");
	client(h, "nokey", 1);
	serve(h, 700);
	assert_int_equal(h->n_hands, 0);
	assert_int_equal(h->n_refuse, 1);
	event(h, "\"lane.fail\"", "default/nokey has no certificate: this host has not joined: see `sealane join`");
	assert_int_equal(http(h, "GET", "/v1/explain?source=nokey&destination=far", ""), 200);
	assert_then("\"link\":", "has no certificate");
}

static void test_next_host(void **state)
{
	struct host *h = *state;
	const struct role_msg *m;
	uint32_t first;
	uint64_t lane;

	has(h, "b", "default/far up 0\n");
	has(h, "c", "default/far up 0\n");
	client(h, "web", 1);
	m = want_told(h, BL_CARRY);
	first = m->u.carry.hid;
	lane = m->u.carry.lane_id;
	failed(h, lane, LINK_DOWN, true);
	m = want_told(h, BL_CARRY);
	assert_int_not_equal(m->u.carry.hid, first);
	assert_int_not_equal(m->u.carry.lane_id, lane);
	failed(h, lane, LINK_DOWN, false); /* a late word about the first attempt */
	opened(h, m->u.carry.lane_id);
	assert_int_equal(http(h, "GET", "/v1/workloads/web", ""), 200);
	assert_then("\"lanes_open\":1", "\"allowed\":1");
	closed(h, m->u.carry.lane_id, LANE_END_EOF);
	/* Both say that it is not allowed: refused, at once, with what was said. */
	client(h, "web", 2);
	failed(h, want_told(h, BL_CARRY)->u.carry.lane_id, LINK_DENIED, true);
	failed(h, want_told(h, BL_CARRY)->u.carry.lane_id, LINK_DENIED, true);
	assert_null(next_told(h, BL_CARRY));
	assert_true(client_is_over(h));
	event(h, "\"lane.deny\"", "\"code\":\"denied\"");
	assert_told("\"lane.deny\"", "\"tried\":2");
	/* A byte was sent: the far end may have it, so there is no other try. */
	client(h, "web", 3);
	failed(h, want_told(h, BL_CARRY)->u.carry.lane_id, LINK_FAILED, false);
	assert_null(next_told(h, BL_CARRY));
	assert_true(client_is_over(h));
	event(h, "\"lane.fail\"", "\"code\":\"failed\"");
}

/* The only one says that its server is not up: it may be, in a moment. */
static void test_parked(void **state)
{
	struct host *h = *state;
	const struct role_msg *m;

	has(h, "b", "default/far up 0\n");
	client(h, "web", 1);
	failed(h, want_told(h, BL_CARRY)->u.carry.lane_id, LINK_DOWN, true);
	serve(h, 300);
	m = want_told(h, BL_CARRY);
	assert_int_equal(m->u.carry.hid, hid_of(h, "b"));
	opened(h, m->u.carry.lane_id);
	assert_false(client_is_over(h));
	closed(h, m->u.carry.lane_id, LANE_END_EOF);
	/* Not for longer than connect_wait. */
	client(h, "web", 2);
	for (int i = 0; i < 20 && !client_is_over(h); i++) {
		m = next_told(h, BL_CARRY);
		if (m)
			failed(h, m->u.carry.lane_id, LINK_DOWN, true);
		serve(h, 100);
	}
	assert_true(client_is_over(h));
	event(h, "\"lane.fail\"", "\"code\":\"down\"");
	/* And not when the policy changes meanwhile. */
	client(h, "web", 3);
	failed(h, want_told(h, BL_CARRY)->u.carry.lane_id, LINK_DOWN, true);
	assert_int_equal(http(h, "POST", "/v1/intentions", "{\"source\":\"web\",\"destination\":\"far\",\"action\":\"deny\"}"), 200);
	assert_true(client_is_over(h));
	assert_null(next_told(h, BL_CARRY));
}

static void test_no_answer(void **state)
{
	struct host *h = *state;
	const struct role_msg *m;
	uint64_t lane;

	has(h, "b", "default/far up 0\n");
	has(h, "c", "default/far up 0\n");
	client(h, "web", 1);
	lane = want_told(h, BL_CARRY)->u.carry.lane_id;
	serve(h, 1200);
	assert_int_equal(want_told(h, BL_RECALL)->u.lane_ref.lane_id, lane);
	/* It could not be given back, and then is taken after all. */
	opened(h, lane);
	closed(h, lane, LANE_END_EOF);
	/* With one host alone there is nobody to ask instead. */
	announces(h, "c", "");
	client(h, "web", 2);
	m = want_told(h, BL_CARRY);
	serve(h, 1200);
	assert_null(next_told(h, BL_RECALL));
	opened(h, m->u.carry.lane_id);
}

static void test_fewest_lanes(void **state)
{
	struct host *h = *state;
	uint32_t b, c, n_b = 0;

	has(h, "b", "default/far up 7\n");
	has(h, "c", "default/far up 4\n");
	b = hid_of(h, "b");
	c = hid_of(h, "c");
	for (uint32_t cid = 1; cid <= 3; cid++) { /* 4, 5, 6: below 7 */
		client(h, "web", cid);
		assert_int_equal(want_told(h, BL_CARRY)->u.carry.hid, c);
	}
	for (uint32_t cid = 4; cid <= 9; cid++) { /* then by turns, whoever begins */
		client(h, "web", cid);
		n_b += want_told(h, BL_CARRY)->u.carry.hid == b;
	}
	assert_int_equal(n_b, 3);
	announces(h, "c", "default/far up 1\n"); /* as it counts now */
	client(h, "web", 10);
	assert_int_equal(want_told(h, BL_CARRY)->u.carry.hid, c);
}

static void test_limits_out(void **state)
{
	struct host *h = *state;
	const struct role_msg *m;
	uint64_t first;

	assert_int_equal(http(h, "POST", "/v1/intentions",
			      "{\"source\":\"web\",\"destination\":\"far\",\"action\":\"allow\",\"limits\":{\"open_lanes\":2,\"bytes_per_s\":1000}}"), 200);
	has(h, "b", "default/far up 0\n");
	client(h, "web", 1);
	m = want_told(h, BL_CARRY);
	assert_int_equal(m->u.carry.bytes_per_s, 1000);
	first = m->u.carry.lane_id;
	opened(h, first);
	client(h, "web", 2);
	want_told(h, BL_CARRY);
	client(h, "web", 3);
	assert_null(next_told(h, BL_CARRY));
	assert_int_equal(h->n_refuse, 1);
	closed(h, first, LANE_END_CLIENT);
	client(h, "web", 4);
	want_told(h, BL_CARRY);
	assert_int_equal(http(h, "POST", "/v1/intentions",
			      "{\"source\":\"web\",\"destination\":\"far\",\"action\":\"allow\",\"limits\":{\"bytes_per_s\":50}}"), 200);
	m = want_told(h, BL_LIMIT);
	assert_int_equal(m->u.lane_ref.bytes_per_s, 50);
	assert_int_equal(http(h, "POST", "/v1/intentions", "{\"source\":\"web\",\"destination\":\"far\",\"action\":\"deny\"}"), 200);
	want_told(h, BL_CUT);
	want_told(h, BL_CUT);
	assert_null(next_told(h, BL_CUT));
	event(h, "\"lane.cut\"", "\"path\":\"link:b\"");
}

static void test_ends_with_the_container(void **state)
{
	struct host *h = *state;
	uint64_t lane;

	has(h, "b", "default/far up 0\n");
	client(h, "web", 1);
	lane = want_told(h, BL_CARRY)->u.carry.lane_id;
	opened(h, lane);
	assert_int_equal(http(h, "DELETE", "/v1/workloads/web", ""), 200);
	assert_int_equal(want_told(h, BL_CUT)->u.lane_ref.lane_id, lane);
}

static void test_client_leaves(void **state)
{
	struct host *h = *state;

	has(h, "b", "default/far up 0\n");
	h->client_left = true;
	client(h, "web", 1);
	assert_int_equal(h->n_hands, 1);
	assert_null(next_told(h, BL_CARRY));
	h->client_left = false;
	client(h, "web", 2);
	want_told(h, BL_CARRY);
}

static void test_here_is_nearer(void **state)
{
	struct host *h = *state;
	char text[2048];

	snprintf(text, sizeof(text), "%s workload near { services = [far] } service far {}\n", g_links);
	send_config(h, text);
	serve(h, 200);
	has(h, "b", "default/far up 0\n");
	assert_int_equal(h->route[lid_of_far(h, "web")], ROLE_ROUTE_DIRECT);
	server_state(h, sid_of(h, "far.sock"), false);
	serve(h, 100);
	assert_int_equal(h->route[lid_of_far(h, "web")], ROLE_ROUTE_GATE);
	client(h, "web", 1);
	want_told(h, BL_CARRY);
	server_state(h, sid_of(h, "far.sock"), true);
	serve(h, 100);
	assert_int_equal(h->route[lid_of_far(h, "web")], ROLE_ROUTE_DIRECT);
}

/* ------------------------------------------------------------------ lanes that come in */

/* Of a certificate that was issued to @host. */
static void serial_for(char ret[ROLE_SERIAL_SIZE], const char *host)
{
	uint8_t serial[SERIAL_SIZE];

	serial_make(serial, (const uint8_t[SERIAL_RANDOM_SIZE]){ 0x41 }, host);
	for (size_t i = 0; i < sizeof(serial); i++)
		snprintf(ret + 2 * i, 3, "%02x", serial[i]);
}

static void ask(struct host *h, uint32_t number, const char *source, const char *destination)
{
	struct role_msg m = { .type = LB_ASK, .u.link_ask = { .ask = number, .kind = LINK_SOCKET } };

	strcpy(m.u.link_ask.source, source);
	strcpy(m.u.link_ask.destination, destination);
	strcpy(m.u.link_ask.peer, "10.0.0.2:40123");
	serial_for(m.u.link_ask.serial, "b");
	m.u.link_ask.link_id = UINT64_C(0x5f3a9c0100000012);
	say(h, &m, -1);
}

static void assert_no(struct host *h, uint32_t number, uint32_t code)
{
	const struct role_msg *m = want_told(h, BL_NO);

	assert_int_equal(m->u.link_no.ask, number);
	assert_string_equal(link_code_name(m->u.link_no.code), link_code_name(code));
}

#define STRANGER TD "/ns/default/svc/stranger"

static void test_comes_in(void **state)
{
	struct host *h = *state;
	const struct role_msg *m;
	uint64_t lane;

	ask(h, 1, STRANGER, "default/redis");
	m = want_told(h, BL_GO);
	assert_int_equal(m->u.link_go.ask, 1);
	assert_int_equal(m->u.link_go.kid, KIDS + sid_of(h, "redis.sock"));
	lane = m->u.link_go.lane_id;
	event(h, "\"lane.allow\"", "\"source_id\":\"" STRANGER "\"");
	assert_told("\"lane.allow\"", "\"destination_id\":\"" TD "/ns/default/svc/redis\"");
	assert_told("\"lane.allow\"", "\"address\":\"10.0.0.2:40123\"");
	assert_told("\"lane.allow\"", "\"path\":\"link:b\""); /* known by its address and its certificate */
	assert_int_equal(http(h, "GET", "/v1/lanes", ""), 200);
	assert_then("\"path\":\"link:b\"", "\"workload\":null");
	assert_then("\"link\":", "{\"id\":\"5f3a9c01-18\",\"direction\":\"in\",\"host\":\"b\",\"address\":\"10.0.0.2:40123\",\"path\":\"tls\"}");
	serve(h, 1100);
	assert_non_null(strstr(linker(h)->offers, "default/redis up 1\n")); /* others are told how busy it is */
	closed(h, lane, LANE_END_SERVER);
	event(h, "\"lane.close\"", "server-reset");
	serve(h, 1100);
	assert_non_null(strstr(linker(h)->offers, "default/redis up 0\n"));
}

/* Whoever shares a host's address, or has another one's certificate, is not called by its name. */
static void test_comes_in_unproven(void **state)
{
	struct role_msg m = { .type = LB_ASK, .u.link_ask = { .ask = 1, .kind = LINK_SOCKET } };
	struct host *h = *state;

	strcpy(m.u.link_ask.source, STRANGER);
	strcpy(m.u.link_ask.destination, "default/redis");
	strcpy(m.u.link_ask.peer, "10.0.0.2:40123");
	serial_for(m.u.link_ask.serial, "c");
	say(h, &m, -1);
	want_told(h, BL_GO);
	event(h, "\"lane.allow\"", "\"path\":\"link:10.0.0.2:40123\"");
	assert_int_equal(http(h, "GET", "/v1/lanes", ""), 200);
	assert_then("\"link\":", "\"direction\":\"in\",\"host\":null,\"address\":\"10.0.0.2:40123\",\"path\":\"tls\"}");
	m.u.link_ask.serial[0] = '\0'; /* a certificate of somebody else's making */
	m.u.link_ask.ask = 2;
	say(h, &m, -1);
	want_told(h, BL_GO);
	assert_int_equal(http(h, "GET", "/v1/lanes", ""), 200);
	assert_null(strstr(g_answer, "link:b"));
}

static void test_not_let_in(void **state)
{
	struct host *h = *state;
	struct role_msg m = { .type = LB_ASK, .u.link_ask = { .ask = 9, .kind = LINK_MESSAGES } };

	ask(h, 1, TD "/ns/default/svc/nobody", "default/redis");
	assert_no(h, 1, LINK_DENIED);
	event(h, "\"lane.deny\"", "\"source_id\":\"" TD "/ns/default/svc/nobody\"");
	assert_told("\"lane.deny\"", "default deny");
	ask(h, 2, STRANGER, "default/nothing");
	assert_no(h, 2, LINK_UNKNOWN);
	ask(h, 3, TD "/ns/default/svc/nobody", "default/nothing"); /* who may not, does not learn what there is */
	assert_no(h, 3, LINK_DENIED);
	ask(h, 4, TD "/host/b", "default/redis");
	assert_no(h, 4, LINK_DENIED);
	ask(h, 5, "spiffe://other.domain/ns/default/svc/stranger", "default/redis");
	assert_no(h, 5, LINK_DENIED);
	event(h, "spiffe://other.domain", "not a service's of our trust domain");
	ask(h, 6, STRANGER, "redis"); /* in whose namespace? */
	assert_no(h, 6, LINK_DENIED);
	ask(h, 7, STRANGER, "default/Redis");
	assert_no(h, 7, LINK_DENIED);
	ask(h, 8, TD "/ns/default/svc/revoked", "default/redis");
	assert_no(h, 8, LINK_DENIED);
	event(h, "svc/revoked", "is revoked");
	strcpy(m.u.link_ask.source, STRANGER);
	strcpy(m.u.link_ask.destination, "default/redis");
	say(h, &m, -1);
	assert_no(h, 9, LINK_UNKNOWN);
	assert_int_equal(http(h, "POST", "/v1/workloads/cache/drain", "{\"on\":true}"), 200);
	ask(h, 10, STRANGER, "default/redis");
	assert_no(h, 10, LINK_DRAINING);
	assert_int_equal(h->n_connects, 0);
	ask(h, 11, STRANGER, "default/web"); /* it only connects to others */
	assert_no(h, 11, LINK_UNKNOWN);
	assert_int_equal(http(h, "GET", "/metrics", ""), 200);
	assert_non_null(strstr(g_answer, "sealane_link_lanes_refused_total{direction=\"in\",code=\"denied\"} 7"));
}

static void test_server_not_up(void **state)
{
	struct host *h = *state;
	const struct role_msg *m;
	uint32_t redis = sid_of(h, "redis.sock");

	server_state(h, redis, false);
	serve(h, 50);
	ask(h, 1, STRANGER, "default/redis");
	assert_null(next_told(h, BL_NO));
	server_state(h, redis, true);
	serve(h, 100);
	assert_int_equal(want_told(h, BL_GO)->u.link_go.ask, 1);
	server_state(h, redis, false);
	serve(h, 50);
	ask(h, 2, STRANGER, "default/redis");
	serve(h, 700);
	assert_no(h, 2, LINK_DOWN);
	event(h, "\"lane.fail\"", "nobody listens on its socket");
	/* One that is offered and has no certificate cannot prove itself. */
	server_state(h, sid_of(h, "nokey.sock"), true);
	ask(h, 3, STRANGER, "default/nokey");
	serve(h, 700);
	m = want_told(h, BL_NO);
	assert_int_equal(m->u.link_no.code, LINK_FAILED);
	assert_non_null(strstr(m->u.link_no.why, "no certificate for the service")); /* the other side's people hear it */
}

static void test_leaves_before_the_answer(void **state)
{
	struct host *h = *state;
	struct role_msg gone = { .type = LB_GONE, .u.id.id = 1 };

	assert_int_equal(http(h, "POST", "/v1/intentions",
			      "{\"source\":\"stranger\",\"destination\":\"redis\",\"action\":\"allow\",\"limits\":{\"open_lanes\":1}}"), 200);
	h->hold_connects = true;
	ask(h, 1, STRANGER, "default/redis");
	say(h, &gone, -1);
	answer_connect(h, h->held_connect);
	serve(h, 100);
	assert_null(next_told(h, BL_GO));
	h->hold_connects = false;
	ask(h, 2, STRANGER, "default/redis"); /* the quota was given back */
	want_told(h, BL_GO);
	ask(h, 3, STRANGER, "default/redis");
	assert_no(h, 3, LINK_LIMIT);
}

static void test_cut_inbound(void **state)
{
	struct host *h = *state;
	uint64_t lane;

	ask(h, 1, STRANGER, "default/redis");
	lane = want_told(h, BL_GO)->u.link_go.lane_id;
	assert_int_equal(http(h, "POST", "/v1/intentions", "{\"source\":\"stranger\",\"destination\":\"redis\",\"action\":\"deny\"}"), 200);
	assert_int_equal(want_told(h, BL_CUT)->u.lane_ref.lane_id, lane);
	closed(h, lane, LANE_END_CUT);
	ask(h, 2, STRANGER, "default/redis");
	assert_no(h, 2, LINK_DENIED);
	/* While the warden connects. */
	assert_int_equal(http(h, "DELETE", "/v1/intentions?source=stranger&destination=redis", ""), 200);
	h->hold_connects = true;
	ask(h, 3, STRANGER, "default/redis");
	assert_int_equal(http(h, "POST", "/v1/intentions", "{\"source\":\"stranger\",\"destination\":\"redis\",\"action\":\"deny\"}"), 200);
	answer_connect(h, h->held_connect);
	serve(h, 100);
	assert_no(h, 3, LINK_DENIED);
}

static void test_many_come_in(void **state)
{
	struct host *h = *state;
	unsigned n_go = 0;

	h->hold_connects = true;
	for (uint32_t i = 1; i <= 200; i++) {
		struct role_msg m = { .type = LB_ASK, .u.link_ask = { .ask = i } };

		strcpy(m.u.link_ask.source, STRANGER);
		strcpy(m.u.link_ask.destination, "default/redis");
		tell(&h->linker, &m, -1);
	}
	while (chan_wants_write(&h->linker)) {
		serve(h, 1);
		assert_int_equal(chan_flush(&h->linker), 0);
	}
	serve(h, 200);
	assert_int_equal(h->n_connects, 64); /* whatever other hosts send, the warden has time for this one's containers */
	h->hold_connects = false;
	answer_connect(h, h->held_connect);
	serve(h, 300);
	while (next_told(h, BL_GO))
		n_go++;
	assert_int_equal(n_go, 200 - 63); /* those that the warden never answered are still asked */
}

/* ------------------------------------------------------------------ lanes of the library */

enum { WEB = 11, NOKEY = 12, CACHE = 13 };

static void lib_ask(struct host *h, const char *workload, uint32_t cid, struct role_ask q, const char *service)
{
	struct role_msg m = { .type = PB_ASK, .u.ask = q };
	unsigned cgroup = strcmp(workload, "web") == 0 ? WEB : strcmp(workload, "cache") == 0 ? CACHE : NOKEY;

	h->resolve_wid = wid_of(h, workload);
	m.u.ask.accept = (struct role_accept){ .cid = cid, .lid = h->control_lid[h->resolve_wid], .pid = cid, .cgroup_id = cgroup };
	m.u.ask.cap_log2 = q.listens ? 0 : 18;
	strcpy(m.u.ask.service, service);
	tell(&h->porter, &m, -1);
	serve(h, 50);
}

static void lib_connect(struct host *h, const char *workload, uint32_t cid)
{
	lib_ask(h, workload, cid, (struct role_ask){ .kind = CONTROL_MESSAGES }, "far");
}

static void lib_listen(struct host *h, uint32_t cid, uint32_t kind)
{
	lib_ask(h, "cache", cid, (struct role_ask){ .listens = 1, .kind = kind }, "redis");
	assert_int_equal(h->last_listening, cid);
}

static void porter_says(struct host *h, uint32_t type, uint64_t lane, uint32_t end)
{
	struct role_msg m = { .type = type };

	if (type == PB_CLOSED)
		m.u.stats = (struct role_stats){ .lane_id = lane, .end = end };
	else
		m.u.lane_ref.lane_id = lane;
	tell(&h->porter, &m, -1);
	serve(h, 60);
}

/* What comes after some time. */
static void serve_until_cut(struct host *h, unsigned n)
{
	for (int i = 0; i < 100 && h->n_porter_cut < n; i++)
		serve(h, 100);
}

static void serve_until_refused(struct host *h, unsigned n)
{
	for (int i = 0; i < 100 && h->n_porter_refuse < n; i++)
		serve(h, 50);
}

static void lib_no(const struct host *h, uint64_t lane, int error, const char *why)
{
	assert_int_equal(h->last_porter_cut.lane_id, lane);
	assert_int_equal(h->last_porter_cut.error, error);
	if (!strstr(h->last_porter_cut.why, why))
		fail_msg("\"%s\" is not in \"%s\"", why, h->last_porter_cut.why);
}

static void lib_refused(const struct host *h, uint32_t cid, int error, const char *why)
{
	assert_int_equal(h->last_no.cid, cid);
	assert_int_equal(h->last_no.error, error);
	if (!strstr(h->last_no.why, why))
		fail_msg("\"%s\" is not in \"%s\"", why, h->last_no.why);
}

/* A library's lane to b that both of its ends have. Return: the linker's number of it; the porter's is last_lend.lane_id. */
static uint64_t lib_open(struct host *h, uint32_t cid)
{
	uint64_t lane;

	lib_connect(h, "web", cid);
	lane = want_told(h, BL_CARRY)->u.carry.lane_id;
	opened(h, lane);
	porter_says(h, PB_OPEN, h->last_lend.lane_id, 0);
	return lane;
}

static void test_library_goes_out(void **state)
{
	struct host *h = *state;
	const struct role_msg *m;
	uint64_t lane;

	has(h, "b", "default/far up 0 messages\n");
	assert_int_equal(http(h, "GET", "/v1/explain?source=web&destination=far", ""), 200);
	assert_told("\"library\"", "\"path\":\"link\"");
	lib_connect(h, "web", 1);
	assert_int_equal(h->n_lends, 1);
	assert_int_equal(h->last_lend.end, LEND_SERVER);
	assert_int_equal(h->last_lend.cid, 1);
	assert_int_equal(h->last_lend.kind, CONTROL_MESSAGES);
	assert_string_equal(h->last_lend.path, "link");
	assert_string_equal(h->last_lend.client.service, "default/web");
	assert_string_equal(h->last_lend.client.workload, "web");
	assert_string_equal(h->last_lend.server.spiffe_id, TD "/ns/default/svc/far");
	assert_string_equal(h->last_lend.server.workload, "");
	m = want_told(h, BL_CARRY);
	assert_int_equal(m->u.carry.kind, LINK_MESSAGES);
	assert_int_equal(m->u.carry.hid, hid_of(h, "b"));
	assert_string_equal(h->renamed.host, "b"); /* told before it can be open */
	assert_int_equal(m->u.carry.wid, wid_of(h, "web"));
	lane = m->u.carry.lane_id;
	/* Both have to say so, in whichever order. */
	opened(h, lane);
	assert_int_equal(http(h, "GET", "/v1/lanes", ""), 200);
	assert_null(strstr(g_answer, "link:b"));
	porter_says(h, PB_OPEN, h->last_lend.lane_id, 0);
	linker(h)->lane = (struct role_stats){ .lane_id = lane, .bytes_up = 77 };
	assert_int_equal(http(h, "GET", "/v1/lanes", ""), 200);
	assert_then("\"path\":\"link:b\"", "\"bytes_up\":77");
	assert_then("\"path\":\"link:b\"", "\"kind\":\"messages\"");
	assert_null(strstr(strstr(g_answer, "link:b") + 1, "link:b")); /* one row */
	event(h, "\"lane.allow\"", "\"kind\":\"messages\"");
	assert_told("\"lane.allow\"", "\"path\":\"link:b\"");
	assert_int_equal(http(h, "GET", "/v1/workloads/web", ""), 200);
	assert_then("\"lanes_open\":1", "\"allowed\":1");
	porter_says(h, PB_CLOSED, h->last_lend.lane_id, LANE_END_EOF); /* the library closed it: the linker has still to say what went */
	closed(h, lane, LANE_END_EOF);
	event(h, "\"lane.close\"", "\"bytes_up\":123");
	assert_int_equal(http(h, "GET", "/v1/lanes", ""), 200);
	assert_null(strstr(g_answer, "link:b"));
	porter_says(h, PB_CLOSED, h->last_lend.lane_id, LANE_END_EOF); /* twice, and of one that never was */
	porter_says(h, PB_LENT, 4711, 0);
	lib_connect(h, "web", 2);
	porter_says(h, PB_OPEN, h->last_lend.lane_id, 0);
	opened(h, want_told(h, BL_CARRY)->u.carry.lane_id);
	assert_int_equal(http(h, "GET", "/v1/lanes", ""), 200);
	assert_non_null(strstr(g_answer, "link:b"));
	assert_int_equal(h->n_porter_cut, 0);
}

/* What comes too late of a lane that was given up makes no lane, and what comes twice no second one. */
static void test_library_late(void **state)
{
	struct host *h = *state;
	uint64_t lane, lent;

	has(h, "b", "default/far up 0 messages\n");
	lib_connect(h, "web", 1);
	lane = want_told(h, BL_CARRY)->u.carry.lane_id;
	lent = h->last_lend.lane_id;
	answer_lend(h); /* the porter lends it a second time */
	serve(h, 60);
	assert_null(next_told(h, BL_CARRY));
	event(h, "\"broker.unexpected_message\"", "\"type\":\"PB_LENT\"");
	porter_says(h, PB_CLOSED, lent, LANE_END_CLIENT);
	assert_int_equal(want_told(h, BL_CUT)->u.lane_ref.lane_id, lane);
	opened(h, lane);
	porter_says(h, PB_OPEN, lent, 0);
	assert_int_equal(http(h, "GET", "/v1/lanes", ""), 200);
	assert_null(strstr(g_answer, "link:b"));
	closed(h, lane, LANE_END_CUT);
	assert_int_equal(http(h, "GET", "/v1/workloads/web", ""), 200);
	assert_then("\"name\":\"web\"", "\"lanes_open\":0");
	assert_then("\"name\":\"web\"", "\"allowed\":0");
}

static void test_library_kinds(void **state)
{
	struct host *h = *state;
	char text[2048];

	has(h, "b", "default/far up 0 messages\n");
	client(h, "web", 1); /* the socket file: nobody has that up */
	assert_int_equal(h->n_hands, 0);
	lib_ask(h, "web", 2, (struct role_ask){ .kind = CONTROL_STREAM }, "far");
	lib_refused(h, 2, -EPROTOTYPE, "on another host takes messages, not streams");
	lib_ask(h, "web", 3, (struct role_ask){ .kind = CONTROL_FANOUT }, "far");
	lib_refused(h, 3, -EOPNOTSUPP, "stays on one host");
	has(h, "c", "default/far up 0 streams\n");
	lib_ask(h, "web", 4, (struct role_ask){ .kind = CONTROL_STREAM }, "far");
	assert_int_equal(want_told(h, BL_CARRY)->u.carry.hid, hid_of(h, "c"));
	assert_int_equal(h->last_lend.kind, CONTROL_STREAM);
	lib_ask(h, "web", 5, (struct role_ask){ .kind = CONTROL_MESSAGES }, "nothing");
	lib_refused(h, 5, -EACCES, "no intention allows");
	/* Who listens here is nearer, also for another kind. */
	snprintf(text, sizeof(text), "%s workload near { services = [far] } service far {}\n", g_links);
	send_config(h, text);
	serve(h, 200);
	enrol(h, "near", 14);
	lib_connect(h, "web", 6);
	assert_int_equal(want_told(h, BL_CARRY)->u.carry.hid, hid_of(h, "b"));
	h->resolve_wid = wid_of(h, "near");
	struct role_msg m = { .type = PB_ASK, .u.ask = { .listens = 1, .kind = CONTROL_MESSAGES } };
	m.u.ask.accept = (struct role_accept){ .cid = 7, .lid = h->control_lid[h->resolve_wid], .cgroup_id = 14 };
	strcpy(m.u.ask.service, "far");
	tell(&h->porter, &m, -1);
	serve(h, 100);
	lib_connect(h, "web", 8);
	assert_int_equal(h->n_offers, 1);
	assert_null(next_told(h, BL_CARRY));
	lib_ask(h, "web", 9, (struct role_ask){ .kind = CONTROL_STREAM }, "far");
	lib_refused(h, 9, -EPROTOTYPE, "takes messages, not streams");
}

static void test_library_refused(void **state)
{
	struct host *h = *state;
	uint64_t lent, lane;

	has(h, "b", "default/far up 0 messages\n");
	has(h, "c", "default/far up 0 messages\n");
	lib_connect(h, "web", 1);
	lent = h->last_lend.lane_id;
	failed(h, want_told(h, BL_CARRY)->u.carry.lane_id, LINK_UNKNOWN, true);
	assert_int_equal(h->n_porter_cut, 0);
	failed(h, want_told(h, BL_CARRY)->u.carry.lane_id, LINK_DENIED, true);
	lib_no(h, lent, -EACCES, "host ");
	event(h, "\"lane.deny\"", "\"code\":\"denied\"");
	assert_told("\"lane.deny\"", "\"tried\":2");
	/* One whose server may be up again; not for longer than connect_wait. */
	lib_connect(h, "web", 2);
	for (int i = 0; i < 20 && h->n_porter_cut == 1; i++) {
		const struct role_msg *m = next_told(h, BL_CARRY);

		if (m)
			failed(h, m->u.carry.lane_id, LINK_DOWN, true);
		serve(h, 50);
	}
	lib_no(h, h->last_lend.lane_id, -ECONNREFUSED, "down");
	/* The linker died, or could not give it back. */
	lib_connect(h, "web", 3);
	failed(h, want_told(h, BL_CARRY)->u.carry.lane_id, LINK_FAILED, false);
	lib_no(h, h->last_lend.lane_id, -EHOSTUNREACH, "failed");
	/* It had been taken: then there is no other try, whatever comes back. */
	lib_connect(h, "web", 9);
	lane = want_told(h, BL_CARRY)->u.carry.lane_id;
	opened(h, lane);
	opened(h, lane);
	failed(h, lane, LINK_DOWN, true);
	assert_null(next_told(h, BL_CARRY));
	lib_no(h, h->last_lend.lane_id, -ECONNREFUSED, "down");
	/* A host has answered, and is asked again when the time is over: its word, not that it has not answered. */
	announces(h, "c", "");
	lib_connect(h, "web", 10);
	lane = want_told(h, BL_CARRY)->u.carry.lane_id;
	failed(h, lane, LINK_DOWN, true);
	for (int i = 0; i < 100 && !is_told(h, BL_CARRY); i++)
		serve(h, 20);
	lane = want_told(h, BL_CARRY)->u.carry.lane_id; /* silence, this time */
	serve_until_cut(h, h->n_porter_cut + 1);
	lib_no(h, h->last_lend.lane_id, -ECONNREFUSED, "host b: ");
	want_told(h, BL_CUT);
	failed(h, lane, LINK_CUT, false);
	announces(h, "c", "default/far up 0 messages\n");
	/* Nobody says anything: before a library gives up by itself. */
	announces(h, "c", "");
	lib_connect(h, "web", 4);
	lane = want_told(h, BL_CARRY)->u.carry.lane_id;
	serve_until_cut(h, h->n_porter_cut + 1);
	lib_no(h, h->last_lend.lane_id, -EHOSTUNREACH, "host b has not answered");
	assert_int_equal(want_told(h, BL_CUT)->u.lane_ref.lane_id, lane);
	failed(h, lane, LINK_CUT, false);
	assert_int_equal(h->n_porter_cut, 6);
	assert_int_equal(http(h, "GET", "/v1/workloads/web", ""), 200);
	assert_then("\"name\":\"web\"", "\"lanes_open\":0");
}

static void test_library_leaves(void **state)
{
	struct host *h = *state;
	uint64_t lane;

	assert_int_equal(http(h, "POST", "/v1/intentions",
			      "{\"source\":\"web\",\"destination\":\"far\",\"action\":\"allow\",\"strict\":true,\"limits\":{\"open_lanes\":1,\"bytes_per_s\":1000}}"), 200);
	has(h, "b", "default/far up 0 messages\n");
	lib_connect(h, "web", 1);
	lane = want_told(h, BL_CARRY)->u.carry.lane_id;
	lib_connect(h, "web", 2);
	lib_refused(h, 2, -EDQUOT, "open_lanes");
	porter_says(h, PB_CLOSED, h->last_lend.lane_id, LANE_END_CLIENT);
	assert_int_equal(want_told(h, BL_CUT)->u.lane_ref.lane_id, lane);
	failed(h, lane, LINK_CUT, false);
	event(h, "\"lane.fail\"", "the client left");
	/* Before the porter had lent anything. */
	h->hold_lends = true;
	lib_connect(h, "web", 3);
	porter_says(h, PB_CLOSED, h->last_lend.lane_id, LANE_END_CLIENT);
	h->hold_lends = false;
	/* The quota was given back both times; and a link counts bytes. */
	lib_connect(h, "web", 4);
	assert_int_equal(want_told(h, BL_CARRY)->u.carry.bytes_per_s, 1000);
	assert_int_equal(h->n_porter_cut, 0);
}

static void test_library_waits(void **state)
{
	struct host *h = *state;

	lib_connect(h, "web", 1); /* no host has been reached yet */
	assert_int_equal(h->n_porter_refuse + h->n_lends, 0);
	has(h, "b", "default/far down 0\n");
	assert_int_equal(h->n_porter_refuse + h->n_lends, 0);
	announces(h, "b", "default/far up 0 messages\n");
	assert_int_equal(h->n_lends, 1);
	want_told(h, BL_CARRY);
	lib_connect(h, "nokey", 2);
	serve_until_refused(h, 1);
	lib_refused(h, 2, -ECONNREFUSED, "default/nokey has no certificate");
	announces(h, "b", "default/far up 0\n"); /* the socket file alone */
	lib_connect(h, "web", 3);
	serve_until_refused(h, 2);
	lib_refused(h, 3, -ECONNREFUSED, "is not reached");
	struct role_msg gone = { .type = PB_GONE, .u.id.id = 4 };
	lib_connect(h, "web", 4);
	tell(&h->porter, &gone, -1);
	announces(h, "b", "default/far up 0 messages\n");
	assert_int_equal(h->n_lends, 1);
	has(h, "c", "");
	announces(h, "b", "");
	lib_connect(h, "web", 5); /* all have told, and none has it */
	lib_refused(h, 5, -ENOENT, "nor on another one that is known");
}

static void test_library_cut(void **state)
{
	struct host *h = *state;
	uint64_t lane;

	has(h, "b", "default/far up 0 messages\n");
	lane = lib_open(h, 1);
	assert_int_equal(http(h, "POST", "/v1/intentions", "{\"source\":\"web\",\"destination\":\"far\",\"action\":\"deny\"}"), 200);
	lib_no(h, h->last_lend.lane_id, -ECANCELED, "no longer allowed (runtime");
	assert_int_equal(want_told(h, BL_CUT)->u.lane_ref.lane_id, lane); /* also if the porter does not answer */
	porter_says(h, PB_CLOSED, h->last_lend.lane_id, LANE_END_CUT);
	closed(h, lane, LANE_END_CUT);
	event(h, "\"lane.cut\"", "\"path\":\"link:b\"");
	assert_int_equal(http(h, "DELETE", "/v1/intentions?source=web&destination=far", ""), 200);
	/* While no host has taken it, and while it has not been lent. */
	lib_connect(h, "web", 2);
	lane = want_told(h, BL_CARRY)->u.carry.lane_id;
	h->hold_lends = true;
	lib_connect(h, "web", 3);
	assert_int_equal(http(h, "DELETE", "/v1/workloads/web", ""), 200);
	assert_int_equal(h->n_porter_cut, 3);
	assert_int_equal(want_told(h, BL_CUT)->u.lane_ref.lane_id, lane);
	failed(h, lane, LINK_CUT, false);
	assert_int_equal(http(h, "GET", "/v1/lanes", ""), 200);
	assert_null(strstr(g_answer, "link:b"));
}

static void test_library_and_the_dead(void **state)
{
	struct host *h = *state;
	uint64_t lane;

	has(h, "b", "default/far up 0 messages\n");
	lane = lib_open(h, 1);
	lib_connect(h, "web", 2);
	/* The porter: the open lane goes on, and can be cut at the linker; the other one's client has gone. */
	start_porter(h);
	serve(h, 150);
	assert_int_not_equal(want_told(h, BL_CARRY)->u.carry.lane_id, lane);
	assert_int_not_equal(want_told(h, BL_CUT)->u.lane_ref.lane_id, lane);
	assert_int_equal(http(h, "GET", "/v1/lanes", ""), 200);
	assert_non_null(strstr(g_answer, "link:b"));
	assert_int_equal(http(h, "POST", "/v1/intentions", "{\"source\":\"web\",\"destination\":\"far\",\"action\":\"deny\"}"), 200);
	assert_int_equal(want_told(h, BL_CUT)->u.lane_ref.lane_id, lane);
	assert_int_equal(http(h, "DELETE", "/v1/intentions?source=web&destination=far", ""), 200);
	/* The linker, with all that it had. */
	lib_open(h, 3);
	lib_connect(h, "web", 4);
	chan_close(&h->linker);
	h->linker.fd = -1;
	serve(h, 200);
	assert_int_equal(http(h, "GET", "/v1/lanes", ""), 200);
	assert_null(strstr(g_answer, "link:b"));
	assert_int_equal(http(h, "GET", "/v1/workloads/web", ""), 200);
	assert_then("\"name\":\"web\"", "\"lanes_open\":0");
	lib_no(h, h->last_lend.lane_id, -EHOSTUNREACH, "the linker process"); /* of the one that was opening, at once */
	event(h, "\"code\":\"failed\",\"why\":\"the linker process that carried it has ended", "\"tried\":1");
	h->n_porter_cut = 0;
	serve_until_cut(h, 1);
	assert_int_equal(h->n_porter_cut, 1); /* of the open one: should the linker's end be held by somebody */
}

static void lib_comes(struct host *h, uint32_t number, uint32_t kind)
{
	struct role_msg m = { .type = LB_ASK, .u.link_ask = { .ask = number, .kind = kind, .link_id = UINT64_C(0x5f3a9c0100000013) } };

	strcpy(m.u.link_ask.source, STRANGER);
	strcpy(m.u.link_ask.destination, "default/redis");
	strcpy(m.u.link_ask.peer, "10.0.0.2:40123");
	serial_for(m.u.link_ask.serial, "b");
	say(h, &m, -1);
}

static void test_library_comes_in(void **state)
{
	struct host *h = *state;
	const struct role_msg *m;
	uint64_t lane;

	enrol(h, "cache", CACHE);
	lib_comes(h, 1, LINK_MESSAGES);
	assert_no(h, 1, LINK_UNKNOWN); /* its socket listens, no program with the library */
	lib_listen(h, 5, CONTROL_MESSAGES);
	serve(h, 100);
	assert_non_null(strstr(linker(h)->offers, "default/redis up 0 socket,messages\n"));
	lib_comes(h, 2, LINK_STREAM);
	assert_no(h, 2, LINK_UNKNOWN);
	lib_comes(h, 3, LINK_MESSAGES);
	assert_int_equal(h->last_lend.end, LEND_CLIENT);
	assert_int_equal(h->last_lend.cid, 5);
	assert_int_equal(h->last_lend.kind, CONTROL_MESSAGES);
	assert_string_equal(h->last_lend.client.service, "default/stranger");
	assert_string_equal(h->last_lend.client.spiffe_id, STRANGER);
	assert_string_equal(h->last_lend.client.host, "b");
	assert_string_equal(h->last_lend.client.workload, "");
	assert_string_equal(h->last_lend.server.workload, "cache");
	assert_int_equal(h->n_connects, 0);
	m = want_told(h, BL_GO);
	assert_int_equal(m->u.link_go.wid, wid_of(h, "cache"));
	lane = m->u.link_go.lane_id;
	assert_int_equal(lane, h->last_lend.lane_id);
	assert_int_equal(http(h, "GET", "/v1/lanes", ""), 200);
	assert_null(strstr(g_answer, "link:b")); /* the listener has not taken it yet */
	porter_says(h, PB_OPEN, lane, 0);
	assert_int_equal(http(h, "GET", "/v1/lanes", ""), 200);
	assert_then("\"path\":\"link:b\"", "\"kind\":\"messages\"");
	assert_then("\"path\":\"link:b\"", "\"workload\":\"cache\"");
	event(h, "\"lane.allow\"", "\"source_id\":\"" STRANGER "\"");
	assert_told("\"lane.allow\"", "\"kind\":\"messages\"");
	assert_told("\"lane.allow\"", "\"workload\":\"cache\"");
	/* A cut tells the server's library why. */
	assert_int_equal(http(h, "POST", "/v1/intentions", "{\"source\":\"stranger\",\"destination\":\"redis\",\"action\":\"deny\"}"), 200);
	lib_no(h, lane, -ECANCELED, "no longer allowed");
	porter_says(h, PB_CLOSED, lane, LANE_END_CUT);
	assert_int_equal(want_told(h, BL_CUT)->u.lane_ref.lane_id, lane);
	closed(h, lane, LANE_END_CUT);
	lib_comes(h, 4, LINK_MESSAGES);
	assert_no(h, 4, LINK_DENIED);
	assert_int_equal(http(h, "DELETE", "/v1/intentions?source=stranger&destination=redis", ""), 200);
	/* With its server's container it ends. */
	lib_comes(h, 5, LINK_MESSAGES);
	lane = want_told(h, BL_GO)->u.link_go.lane_id;
	porter_says(h, PB_OPEN, lane, 0);
	assert_int_equal(http(h, "DELETE", "/v1/workloads/cache", ""), 200);
	lib_no(h, lane, -ECANCELED, "unenrolled");
	want_told(h, BL_CUT);
}

static void hear_nothing(struct host *h, const struct role_msg *m, int fd)
{
}

/* Asks that are all taken; the test's own queue does not hold as many at once. */
static void many_come(struct host *h, uint32_t first, uint32_t n, const char *source)
{
	struct role_msg m = { .type = LB_ASK, .u.link_ask = { .kind = LINK_MESSAGES } };

	strcpy(m.u.link_ask.source, source);
	strcpy(m.u.link_ask.destination, "default/redis");
	strcpy(m.u.link_ask.peer, "10.0.0.2:40123");
	for (uint32_t i = 0; i < n; i++) {
		m.u.link_ask.ask = first + i;
		tell(&h->linker, &m, -1);
		while (i % 256 == 255 && chan_wants_write(&h->linker)) {
			serve(h, 1);
			assert_int_equal(chan_flush(&h->linker), 0);
		}
	}
	while (chan_wants_write(&h->linker)) {
		serve(h, 1);
		assert_int_equal(chan_flush(&h->linker), 0);
	}
	serve(h, 300);
}

static void test_library_shares(void **state)
{
	enum { SHARE = LIMIT_LINK_LANES_IN / 2 };
	struct host *h = *state;

	enrol(h, "cache", CACHE);
	lib_listen(h, 5, CONTROL_MESSAGES);
	assert_int_equal(http(h, "POST", "/v1/intentions", "{\"source\":\"*\",\"destination\":\"redis\",\"action\":\"allow\"}"), 200);
	h->hold_lends = true;
	h->play_linker = hear_nothing;
	many_come(h, 1, SHARE + 500, STRANGER);
	assert_int_equal(h->n_lends, SHARE); /* as many as are left */
	event(h, "\"lane.deny\"", "as are left for all others together");
	/* Another source has no more room in this workload; what begins here does. */
	many_come(h, 20000, 1, TD "/ns/default/svc/other");
	assert_int_equal(h->n_lends, SHARE);
	lib_ask(h, "web", 900, (struct role_ask){ .kind = CONTROL_MESSAGES }, "redis");
	assert_int_equal(h->n_offers, 1);
	/* Each that ends makes room for one. */
	porter_says(h, PB_CLOSED, h->last_lend.lane_id, LANE_END_NOMEM);
	many_come(h, 20001, 2, TD "/ns/default/svc/other");
	assert_int_equal(h->n_lends, SHARE + 1);
	/* All of them go with their linker. */
	chan_close(&h->linker);
	h->linker.fd = -1;
	serve(h, 200);
	h->play_linker = play_linker;
	start_linker(h);
	serve(h, 150);
	lib_comes(h, 1, LINK_MESSAGES);
	assert_int_equal(h->n_lends, SHARE + 2);
}

static void test_library_not_taken(void **state)
{
	struct host *h = *state;
	struct role_msg gone = { .type = LB_GONE, .u.id.id = 2 }, left = { .type = PB_GONE, .u.id.id = 5 };
	uint64_t lane;

	assert_int_equal(http(h, "POST", "/v1/intentions",
			      "{\"source\":\"stranger\",\"destination\":\"redis\",\"action\":\"allow\",\"limits\":{\"open_lanes\":1}}"), 200);
	enrol(h, "cache", CACHE);
	server_state(h, sid_of(h, "redis.sock"), false);
	/* Waited for, as for a server. */
	lib_comes(h, 1, LINK_MESSAGES);
	assert_int_equal(h->n_lends, 0);
	h->hold_lends = true;
	lib_listen(h, 5, CONTROL_MESSAGES);
	assert_int_equal(h->n_lends, 1);
	lane = h->last_lend.lane_id;
	answer_lend(h);
	serve(h, 60);
	want_told(h, BL_GO);
	closed(h, lane, LANE_END_SERVER); /* the listener did not take it */
	event(h, "\"lane.fail\"", "before both sides had taken it");
	porter_says(h, PB_CLOSED, lane, LANE_END_SERVER);
	/* The other side leaves while the porter lends. */
	lib_comes(h, 2, LINK_MESSAGES);
	lane = h->last_lend.lane_id;
	say(h, &gone, -1);
	assert_int_equal(h->last_porter_cut.lane_id, lane);
	answer_lend(h);
	serve(h, 60);
	assert_null(next_told(h, BL_GO));
	/* The policy changes meanwhile. */
	lib_comes(h, 3, LINK_MESSAGES);
	assert_int_equal(http(h, "POST", "/v1/intentions", "{\"source\":\"stranger\",\"destination\":\"redis\",\"action\":\"deny\"}"), 200);
	answer_lend(h);
	serve(h, 60);
	assert_no(h, 3, LINK_DENIED);
	assert_int_equal(http(h, "DELETE", "/v1/intentions?source=stranger&destination=redis", ""), 200);
	/* The listener does; and nobody comes after it. */
	lib_comes(h, 4, LINK_MESSAGES);
	tell(&h->porter, &left, -1);
	porter_says(h, PB_CLOSED, h->last_lend.lane_id, LANE_END_SERVER);
	for (int i = 0; i < 100 && !is_told(h, BL_NO); i++)
		serve(h, 50);
	assert_no(h, 4, LINK_DOWN);
	/* Drained. */
	lib_listen(h, 6, CONTROL_MESSAGES);
	assert_int_equal(http(h, "POST", "/v1/workloads/cache/drain", "{\"on\":true}"), 200);
	assert_non_null(strstr(linker(h)->offers, "default/redis down 0\n"));
	lib_comes(h, 5, LINK_MESSAGES);
	assert_no(h, 5, LINK_DRAINING);
	assert_int_equal(http(h, "POST", "/v1/workloads/cache/drain", "{\"on\":false}"), 200);
	/* A socket file's lane where only the library listens. */
	ask(h, 6, STRANGER, "default/redis");
	assert_no(h, 6, LINK_UNKNOWN);
	/* The porter has no descriptors left. */
	lib_comes(h, 7, LINK_MESSAGES);
	porter_says(h, PB_CLOSED, h->last_lend.lane_id, LANE_END_NOMEM);
	assert_no(h, 7, LINK_FAILED);
}

/* ------------------------------------------------------------------ sessions */

static void device_is(struct host *h, int error, const char *device, const char *why)
{
	struct role_msg m = { .type = LB_DEVICE, .u.device = { .error = error, .address = "127.0.0.1:7443" } };

	snprintf(m.u.device.device, sizeof(m.u.device.device), "%s", device);
	snprintf(m.u.device.why, sizeof(m.u.device.why), "%s", why);
	say(h, &m, -1);
}

/* What linkers told of their devices, and by which way sessions go and why. */
static void test_devices(void **state)
{
	struct host *h = *state;
	struct role_msg path = { .type = LB_PATH, .u.path = { .session = 1, .path = SESSION_PATH_RDMA, .tag = 0x5f3a9c01, .device = "rxe0" } };

	device_is(h, -ENODEV, "", "no RDMA device has that address");
	event(h, "\"rdma.none\"", "no RDMA device has that address");
	assert_int_equal(http(h, "GET", "/v1/status", ""), 200);
	assert_then("\"rdma\":{\"mode\":\"auto\"", "\"device\":null,\"address\":\"127.0.0.1:7443\",\"why\":\"no RDMA device has that address\"");
	device_is(h, 0, "rxe0", "");
	event(h, "\"rdma.device\"", "\"device\":\"rxe0\"");
	host_is_up(h, "b");
	say(h, &path, -1);
	assert_int_equal(http(h, "GET", "/v1/links", ""), 200);
	assert_then("\"links\"", "\"path\":\"rdma (rxe0)\",\"path_why\":null");
	path.u.path = (struct role_path){ .session = 1, .path = SESSION_PATH_TLS, .tag = 0x5f3a9c01, .why = "the other host says no" };
	say(h, &path, -1);
	assert_int_equal(http(h, "GET", "/v1/links", ""), 200);
	assert_then("\"links\"", "\"path\":\"tls\",\"path_why\":\"the other host says no\"");
}

static void reload_with(struct host *h, const char *more)
{
	char text[2048];

	forget_told(h);
	snprintf(text, sizeof(text), "host_name = a\nlisten = \"127.0.0.1:7443\"\nconnect_wait = 20s\n%s%s", strstr(g_links, "host a {"), more);
	send_config(h, text);
	serve(h, 200);
}

/* Whether its device is used, and whether what goes by it is sealed, a linker is told at once: it needs no other one for that, and no lane ends. */
static void test_rdma_mode(void **state)
{
	struct host *h = *state;

	device_is(h, 0, "rxe0", "");
	has(h, "b", "default/far up 0\n");
	client(h, "web", 1);
	opened(h, want_told(h, BL_CARRY)->u.carry.lane_id);
	reload_with(h, "rdma = plain\n");
	assert_int_equal(want_told(h, BL_RDMA)->u.rdma.mode, RDMA_PLAIN);
	assert_int_equal(http(h, "GET", "/v1/status", ""), 200);
	assert_then("\"rdma\":{\"mode\":\"plain\"", "\"device\":\"rxe0\"");
	reload_with(h, "");
	assert_int_equal(want_told(h, BL_RDMA)->u.rdma.mode, RDMA_AUTO);
	reload_with(h, "rdma = off\n"); /* the device goes with the linker, when the lane has ended */
	assert_int_equal(want_told(h, BL_RDMA)->u.rdma.mode, RDMA_OFF);
	reload_with(h, "rdma = plain\n");
	assert_int_equal(want_told(h, BL_RDMA)->u.rdma.mode, RDMA_PLAIN);
	reload_with(h, "rdma = plain\n"); /* the same again */
	assert_false(is_told(h, BL_RDMA) || is_told(h, BL_GOAWAY) || is_told(h, BL_DRAIN) || is_told(h, BL_UNLISTEN));
	assert_false(client_is_over(h));
	assert_int_equal(http(h, "GET", "/v1/events", ""), 200);
	assert_null(strstr(g_answer, "linker.lost"));
}

/* Until the broker has closed the linker's channel. Return: it said BL_DRAIN before. */
static bool is_drained_and_closed(struct host *h)
{
	uint64_t give_up_ns = clock_ns() + UINT64_C(20000000000);
	bool drained = false;
	int r = -EAGAIN;

	while ((r == 1 || r == -EAGAIN) && clock_ns() < give_up_ns) {
		struct role_msg m;
		AUTO_FD fd = -1;

		(void)!poll(&(struct pollfd){ .fd = h->linker.fd, .events = POLLIN }, 1, 100);
		r = role_recv(&h->linker, &m, &fd);
		drained |= r == 1 && m.type == BL_DRAIN;
	}
	assert_true(r == 0 || r == -ECONNRESET);
	chan_close(&h->linker);
	h->linker.fd = -1;
	return drained;
}

/* Another address: another linker, when the last lane has ended. Nobody is cut for it, nobody is refused, and it is no fault. */
static void test_linker_is_replaced(void **state)
{
	struct host *h = *state;
	uint64_t lane;

	device_is(h, 0, "rxe0", "");
	has(h, "b", "default/far up 0\n");
	client(h, "web", 1);
	lane = want_told(h, BL_CARRY)->u.carry.lane_id;
	opened(h, lane);
	reload_with(h, "rdma_listen = \"127.0.0.1:9000\"\n");
	serve(h, 400);
	assert_false(is_told(h, BL_UNLISTEN) || is_told(h, BL_GOAWAY) || is_told(h, BL_DRAIN));
	closed(h, lane, LANE_END_EOF);
	want_told(h, BL_UNLISTEN);
	want_told(h, BL_GOAWAY);
	ask(h, 1, STRANGER, "default/redis"); /* it crossed GOAWAY: it is taken, and the linker stays */
	lane = want_told(h, BL_GO)->u.link_go.lane_id;
	want_told(h, BL_LISTEN);
	assert_false(is_told(h, BL_DRAIN));
	closed(h, lane, LANE_END_EOF);
	want_told(h, BL_UNLISTEN);
	want_told(h, BL_GOAWAY);
	client(h, "web", 2); /* it waits */
	assert_false(is_told(h, BL_CARRY));
	assert_true(is_drained_and_closed(h));
	serve(h, 100);
	assert_int_equal(http(h, "GET", "/v1/events", ""), 200);
	assert_non_null(strstr(g_answer, "\"level\":\"info\",\"role\":\"broker\",\"event\":\"linker.replaced\""));
	assert_null(strstr(g_answer, "linker.lost"));
	assert_false(client_is_over(h));
	forget_told(h);
	start_linker(h);
	serve(h, 150);
	assert_string_equal(want_told(h, BL_RDMA)->u.rdma.address, "127.0.0.1:9000");
	has(h, "b", "default/far up 0\n");
	want_told(h, BL_CARRY);
}

/* A machine without a device: where others come in is of no interest to RDMA, and the linker stays as it is. */
static void test_reload_without_device(void **state)
{
	struct host *h = *state;
	char text[2048];

	device_is(h, -ENODEV, "", "there are no RDMA devices");
	if (access("/dev/infiniband/rdma_cm", F_OK) == 0)
		skip();
	forget_told(h);
	snprintf(text, sizeof(text), "host_name = a\nlisten = \"127.0.0.1:7444\"\nhost d { address = \"10.0.0.4:7443\" }\n%s", strstr(g_links, "workload cache"));
	send_config(h, text);
	want_told(h, BL_LISTEN);
	serve(h, 500);
	assert_false(is_told(h, BL_GOAWAY) || is_told(h, BL_DRAIN) || is_told(h, BL_RDMA));
	assert_int_equal(http(h, "GET", "/v1/status", ""), 200);
	assert_then("\"rdma\":{\"mode\":\"auto\"", "\"address\":\"127.0.0.1:7444\"");
	assert_int_equal(http(h, "GET", "/v1/events", ""), 200);
	assert_null(strstr(g_answer, "linker.lost"));
}

static void test_sessions(void **state)
{
	struct host *h = *state;
	uint32_t b = hid_of(h, "b");
	struct role_msg m = session_msg(1, SESSION_UP, SESSION_OK, b);

	assert_int_equal(http(h, "GET", "/v1/hosts", ""), 200);
	assert_then("\"name\":\"b\"", "\"state\":\"unknown\"");
	strcpy(m.u.session.cipher, "TLS_AES_128_GCM_SHA256");
	say(h, &m, -1);
	linker(h)->session = (struct role_session_stats){ .session = 1, .n_lanes = 3, .bytes_in = 1000, .rdma_in = 600, .rdma_out = 7, .rtt_us = 99 };
	assert_int_equal(http(h, "GET", "/v1/links", ""), 200);
	assert_then("\"peer_id\":\"" TD "/host/b\"", "\"bytes_in\":1000");
	assert_then("\"bytes_in\":1000", "\"rdma_bytes_in\":600,\"rdma_bytes_out\":7");
	assert_int_equal(http(h, "GET", "/v1/hosts", ""), 200);
	assert_then("\"name\":\"b\"", "\"state\":\"up\"");
	event(h, "\"link.up\"", "\"host\":\"b\"");
	announces(h, "b", "default/far up 2\n");
	assert_int_equal(http(h, "GET", "/v1/hosts", ""), 200);
	assert_then("default/far", "\"services_said_by\":\"host\"");
	m.u.session.state = SESSION_DOWN;
	m.u.session.reason = SESSION_TIMEOUT;
	say(h, &m, -1);
	event(h, "\"link.down\"", "\"reason\":\"timeout\"");
	assert_int_equal(http(h, "GET", "/v1/hosts", ""), 200);
	assert_then("\"name\":\"b\"", "\"state\":\"down\"");
	assert_int_equal(http(h, "GET", "/v1/links", ""), 200);
	assert_non_null(strstr(g_answer, "\"links\":[]"));
	say(h, &m, -1); /* one that is gone already */
	assert_int_equal(http(h, "GET", "/metrics", ""), 200);
	assert_non_null(strstr(g_answer, "sealane_link_ended_total{reason=\"timeout\"} 1\n"));
	assert_non_null(strstr(g_answer, "sealane_link_received_bytes_total{local=\"" TD "/host/a\",peer=\"" TD "/host/b\",direction=\"out\"} 1000"));
	assert_non_null(strstr(g_answer, "sealane_link_rdma_received_bytes_total{local=\"" TD "/host/a\",peer=\"" TD "/host/b\",direction=\"out\"} 600"));
	assert_non_null(strstr(g_answer, "sealane_host_up{host=\"b\"} 0"));
}

/* Which way a session's frames go, and why: what a linker says of it. */
static void test_sessions_over_rdma(void **state)
{
	struct host *h = *state;
	struct role_msg up = session_msg(1, SESSION_UP, SESSION_OK, hid_of(h, "b"));
	struct role_msg m = { .type = LB_PATH, .u.path = { .session = 1, .path = SESSION_PATH_RDMA, .tag = 77, .device = "rxe0" } };

	say(h, &m, -1); /* of a session that nobody knows */
	assert_int_equal(http(h, "GET", "/v1/events", ""), 200);
	assert_null(strstr(g_answer, "link.rdma"));
	say(h, &up, -1);
	say(h, &m, -1);
	event(h, "\"link.rdma_up\"", "\"device\":\"rxe0\"");
	m.u.path = (struct role_path){ .session = 1, .path = SESSION_PATH_LOST, .why = "it broke" };
	say(h, &m, -1);
	event(h, "\"link.rdma_lost\"", "\"why\":\"it broke\"");
	m.u.path = (struct role_path){ .session = 1, .path = SESSION_PATH_TLS, .why = "no device there" };
	say(h, &m, -1);
	event(h, "\"link.rdma_off\"", "\"why\":\"no device there\"");
}

/* Certificates are asked for twice a minute: that goes well without a line, and not well with one. */
static void test_sessions_of_questions(void **state)
{
	struct host *h = *state;
	struct role_msg m = session_msg(70, SESSION_UP, SESSION_OK, ROLE_NO_ID);

	m.u.session.for_ca = 1;
	say(h, &m, -1);
	m.u.session.state = SESSION_DOWN;
	strcpy(m.u.session.why, "answered");
	say(h, &m, -1);
	assert_int_equal(http(h, "GET", "/v1/events", ""), 200);
	assert_null(strstr(g_answer, "\"link.up\""));
	assert_null(strstr(g_answer, "\"link.down\""));
	m = session_msg(71, SESSION_UP, SESSION_OK, ROLE_NO_ID);
	m.u.session.for_ca = 1;
	say(h, &m, -1);
	m.u.session.state = SESSION_DOWN;
	m.u.session.reason = SESSION_TIMEOUT;
	strcpy(m.u.session.why, "a question to an authority took too long");
	say(h, &m, -1);
	event(h, "\"link.down\"", "took too long");
}

/* What `sealane explain` says at either end: the other host decides as well, and which one that is. */
static void test_explained(void **state)
{
	struct host *h = *state;
	struct role_msg m = session_msg(50, SESSION_UP, SESSION_OK, hid_of(h, "b"));

	has(h, "b", "default/far up 0\n");
	assert_int_equal(http(h, "GET", "/v1/explain?source=web&destination=far", ""), 200);
	assert_then("\"direction\":\"out\"", "\"name\":\"b\",\"address\":\"10.0.0.2:7443\",\"state\":\"up\",\"session\":false");
	assert_then("\"more\":0", "\"lacks\":null");
	strcpy(m.u.session.local, TD "/ns/default/svc/web");
	say(h, &m, -1);
	assert_int_equal(http(h, "GET", "/v1/explain?source=web&destination=far", ""), 200);
	assert_then("\"name\":\"b\"", "\"session\":true");
	assert_int_equal(http(h, "GET", "/v1/explain?source=elsewhere&destination=far", ""), 200);
	assert_then("\"direction\":\"out\"", "no workload on this host speaks as it");
	/* The other end. */
	assert_int_equal(http(h, "GET", "/v1/explain?source=stranger&destination=redis", ""), 200);
	assert_then("\"decision\":\"allow\"", "\"route\":\"link\"");
	assert_then("\"direction\":\"in\"", "\"hosts\":[],\"more\":0,\"lacks\":null");
	m = session_msg(51, SESSION_UP, SESSION_OK, ROLE_NO_ID);
	m.u.session.inbound = 1;
	strcpy(m.u.session.peer, TD "/ns/default/svc/stranger");
	strcpy(m.u.session.address, "10.0.0.3:40000");
	serial_for(m.u.session.peer_serial, "c");
	say(h, &m, -1);
	assert_int_equal(http(h, "GET", "/v1/explain?source=stranger&destination=redis", ""), 200);
	assert_then("\"direction\":\"in\"", "\"name\":\"c\",\"address\":\"10.0.0.3:40000\",\"state\":\"up\",\"session\":true");
	server_state(h, sid_of(h, "redis.sock"), false);
	serve(h, 50);
	assert_int_equal(http(h, "GET", "/v1/explain?source=stranger&destination=redis", ""), 200);
	assert_then("\"direction\":\"in\"", "its socket does not listen");
	/* Denied: which end is where, and what to run on which host. */
	assert_int_equal(http(h, "GET", "/v1/explain?source=nobody&destination=redis", ""), 200);
	assert_then("\"route\":\"refuse\"", "\"to_allow\":[{\"host\":\"a\",\"command\":\"sealane intention allow default/nobody default/redis\"}]");
	assert_then("\"direction\":\"in\"", "\"refused\":null");
}

/* Denied, of a service that another host has: this host's part; and what the other one said, once it was asked. */
static void test_explained_refusals(void **state)
{
	struct host *h = *state;
	uint64_t lane;

	has(h, "b", "default/far up 0\ndefault/other up 0 messages\n");
	has(h, "c", "");
	assert_int_equal(http(h, "GET", "/v1/explain?source=web&destination=other", ""), 200);
	assert_then("\"host\":\"a\"", "\"decision\":\"deny\"");
	assert_then("\"route\":\"refuse\"", "\"to_allow\":[{\"host\":\"a\",\"command\":\"sealane intention allow default/web default/other\"}]");
	assert_then("\"direction\":\"out\"", "\"hosts\":[{\"name\":\"b\"");
	assert_then("\"takes\":\"messages\"", "\"lacks\":null"); /* for a library, since nobody else can have it */
	assert_int_equal(http(h, "GET", "/v1/explain?source=web&destination=nowhere", ""), 200);
	assert_then("\"route\":\"refuse\"", "\"link\":null"); /* every host has told, and it is not of it */

	client(h, "web", 1);
	failed(h, want_told(h, BL_CARRY)->u.carry.lane_id, LINK_DENIED, true);
	assert_int_equal(http(h, "GET", "/v1/explain?source=web&destination=far", ""), 200);
	assert_then("\"decision\":\"allow\"", "\"to_allow\":[{\"host\":\"b\",\"command\":\"sealane intention allow default/web default/far\"}]");
	assert_then("\"refused\":{\"host\":\"b\"", "\"code\":\"denied\"");
	client(h, "web", 3);
	disowned(h, want_told(h, BL_CARRY)->u.carry.lane_id);
	assert_int_equal(http(h, "GET", "/v1/explain?source=web&destination=far", ""), 200);
	assert_then("\"refused\":{\"host\":\"b\"", "\"certificate\":true");
	assert_then("\"decision\":\"allow\"", "\"to_allow\":[]"); /* no intention changes it */
	client(h, "web", 2);
	lane = want_told(h, BL_CARRY)->u.carry.lane_id;
	opened(h, lane);
	assert_int_equal(http(h, "GET", "/v1/explain?source=web&destination=far", ""), 200);
	assert_then("\"decision\":\"allow\"", "\"to_allow\":[]");
	assert_then("\"direction\":\"out\"", "\"refused\":null");
}

static void test_refused_sessions(void **state)
{
	struct host *h = *state;
	struct role_msg m = session_msg(1, SESSION_REFUSED, SESSION_UNTRUSTED, hid_of(h, "b"));
	struct role_msg other = session_msg(1, SESSION_REFUSED, SESSION_WRONG_HOST, ROLE_NO_ID);
	const char *p;
	unsigned n = 0;

	strcpy(m.u.session.why, "the chain ends at none of our roots");
	for (int i = 0; i < 5; i++) {
		say(h, &m, -1);
		other.u.session.hid = m.u.session.hid;
		say(h, &other, -1); /* another reason in between */
	}
	assert_int_equal(n_events(h, "\"wrong-host\""), 1);
	event(h, "\"link.refuse\"", "\"reason\":\"untrusted\"");
	assert_int_equal(n_events(h, "\"reason\":\"untrusted\""), 1); /* the same host, the same reason: once a minute */
	m.u.session.reason = SESSION_EXPIRED;
	say(h, &m, -1);
	event(h, "\"link.refuse\"", "\"reason\":\"untrusted\"");
	assert_told("\"expired\"", "none of our roots");
	assert_int_equal(http(h, "GET", "/v1/hosts", ""), 200);
	assert_then("\"name\":\"b\"", "\"reason\":\"expired\"");
	/* Strangers: each is told, until they are too many. */
	m = session_msg(2, SESSION_REFUSED, SESSION_NO_CERTIFICATE, ROLE_NO_ID);
	m.u.session.inbound = 1;
	for (int i = 0; i < 40; i++)
		tell(&h->linker, &m, -1);
	serve(h, 100);
	assert_int_equal(http(h, "GET", "/v1/events", ""), 200);
	for (n = 0, p = g_answer; (p = strstr(p, "\"no-certificate\"")); p++)
		n++;
	assert_in_range(n, 5, 20);
	assert_int_equal(http(h, "GET", "/metrics", ""), 200);
	assert_non_null(strstr(g_answer, "sealane_link_refused_total{reason=\"no-certificate\"} 40\n"));
	m.u.session.reason = SESSION_LOST;
	m.u.session.hid = hid_of(h, "c");
	say(h, &m, -1);
	event(h, "\"link.fail\"", "\"reason\":\"lost\"");
	/* A question to an authority is told by what asked it. */
	m = session_msg(3, SESSION_REFUSED, SESSION_TIMEOUT, ROLE_NO_ID);
	m.u.session.for_ca = 1;
	say(h, &m, -1);
	assert_int_equal(http(h, "GET", "/v1/events", ""), 200);
	assert_null(strstr(g_answer, "\"timeout\""));
	/* One that never came up, once a minute: also of a service, while the session between the hosts is up. */
	host_is_up(h, "c");
	m = session_msg(4, SESSION_REFUSED, SESSION_TIMEOUT, hid_of(h, "c"));
	strcpy(m.u.session.local, TD "/ns/default/svc/web");
	for (int i = 0; i < 5; i++)
		say(h, &m, -1);
	assert_int_equal(http(h, "GET", "/v1/events", ""), 200);
	for (n = 0, p = g_answer; (p = strstr(p, "\"timeout\"")); p++)
		n++;
	assert_int_equal(n, 1);
}

/* A host that has joined begins sessions and ends them, from many addresses: the log has some of them, both ends of each, and others' are all there. */
static void test_sessions_without_end(void **state)
{
	enum { N = 400 };
	struct host *h = *state;
	struct role_msg m = session_msg(0, SESSION_UP, SESSION_OK, ROLE_NO_ID);
	unsigned first = 0;
	const char *p;

	m.u.session.inbound = 1;
	strcpy(m.u.session.peer, TD "/ns/default/svc/web");
	for (uint32_t i = 0; i < N; i++) {
		m.u.session.session = 5000 + i;
		snprintf(m.u.session.peer_serial, sizeof(m.u.session.peer_serial), "40%014xbad0bad0bad0bad0", i);
		snprintf(m.u.session.address, sizeof(m.u.session.address), "10.7.%u.1:%u", i % 256, 1000 + i);
		m.u.session.state = SESSION_UP;
		m.u.session.reason = SESSION_OK;
		tell(&h->linker, &m, -1);
		m.u.session.state = SESSION_DOWN;
		m.u.session.reason = SESSION_PROTOCOL;
		tell(&h->linker, &m, -1);
		if (i % 50 == 49)
			serve(h, 20);
	}
	serve(h, 100);
	/* If all were told, these would be of the last 50. */
	assert_int_equal(http(h, "GET", "/v1/events?n=100", ""), 200);
	p = strstr(g_answer, "\"10.7.");
	assert_non_null(p);
	assert_int_equal(sscanf(p, "\"10.7.%*u.1:%u", &first), 1);
	assert_in_range(first, 1000, 1000 + N - 51);
	m.u.session.state = SESSION_UP;
	m.u.session.reason = SESSION_OK;
	m.u.session.session = 9000;
	strcpy(m.u.session.peer_serial, "400000000000000000000000000000ff");
	strcpy(m.u.session.address, "10.8.0.1:1");
	say(h, &m, -1);
	assert_int_equal(http(h, "GET", "/v1/events?n=1", ""), 200);
	assert_non_null(strstr(g_answer, "10.8.0.1:1"));
	m.u.session.state = SESSION_DOWN;
	say(h, &m, -1);
	assert_int_equal(http(h, "GET", "/v1/events?n=1", ""), 200);
	assert_non_null(strstr(g_answer, "\"link.down\""));
	assert_non_null(strstr(g_answer, "10.8.0.1:1"));
}

static void test_bad_announcements(void **state)
{
	struct host *h = *state;

	has(h, "b", "default/far up 0\n");
	announces(h, "b", "default/far up 0\ngarbage\n");
	event(h, "\"host.bad_announcement\"", "\"host\":\"b\"");
	/* Told once a minute, however many there are. */
	for (int i = 0; i < 20; i++)
		announces(h, "b", "garbage\n");
	assert_int_equal(n_events(h, "\"host.bad_announcement\""), 1);
	client(h, "web", 1);
	want_told(h, BL_CARRY); /* what it said before still counts */
	struct role_msg m = { .type = LB_ANNOUNCE, .u.id.id = 4711 };
	AUTO_FD large = memfd_create("large", MFD_CLOEXEC);
	assert_int_equal(ftruncate(large, LIMIT_ANNOUNCE_SIZE + 1), 0);
	say(h, &m, large); /* of nobody */
	m.u.id.id = hid_of(h, "b");
	say(h, &m, large);
	say(h, &m, NO_FD);
	client(h, "web", 2);
	want_told(h, BL_CARRY);
}

static void test_linker_dies(void **state)
{
	struct host *h = *state;
	uint64_t lane;

	assert_int_equal(http(h, "POST", "/v1/intentions",
			      "{\"source\":\"web\",\"destination\":\"far\",\"action\":\"allow\",\"limits\":{\"open_lanes\":1}}"), 200);
	has(h, "b", "default/far up 0\n");
	client(h, "web", 1);
	lane = want_told(h, BL_CARRY)->u.carry.lane_id;
	opened(h, lane);
	ask(h, 1, STRANGER, "default/redis");
	want_told(h, BL_GO);
	linker(h)->hold_stats = true;
	chan_close(&h->linker);
	h->linker.fd = -1;
	serve(h, 200);
	assert_int_equal(http(h, "GET", "/v1/lanes", ""), 200); /* nobody waits for its counters */
	assert_null(strstr(g_answer, "link:b"));
	event(h, "\"linker.lost\"", "\"lanes\":2");
	event(h, "\"destination\":\"default/far\",\"path\":\"link:b\",\"why\":\"the linker process that carried it has ended; it is started again\"", "\"end\":\"link-lost\"");
	assert_int_equal(http(h, "GET", "/v1/hosts", ""), 200);
	assert_then("\"name\":\"b\"", "\"state\":\"down\"");
	linker(h)->hold_stats = false;
	start_linker(h);
	serve(h, 150);
	has(h, "b", "default/far up 0\n");
	client(h, "web", 2); /* the quota was given back */
	want_told(h, BL_CARRY);
}

static void test_malformed(void **state)
{
	struct host *h = *state;
	struct role_msg m = { .type = LB_SESSION, .u.session.state = SESSION_STATE_N };

	assert_int_equal(chan_send(&h->linker, &m, role_msg_size(LB_SESSION), -1), 0);
	assert_int_equal(poll(&(struct pollfd){ .fd = h->linker.fd, .events = POLLIN | POLLHUP }, 1, 20000), 1);
	chan_close(&h->linker);
	h->linker.fd = -1;
	serve(h, 100);
	assert_int_equal(http(h, "GET", "/v1/status", ""), 200); /* that linker's channel ended, nothing else */
	start_linker(h);
	serve(h, 100);
	has(h, "b", "default/far up 0\n");
	client(h, "web", 1);
	want_told(h, BL_CARRY);
}

/* The other hosts are told before it goes; what is on its way has a second. */
static void test_stop(void **state)
{
	struct host *h = *state;
	struct role_msg m = { .type = WB_STOP };
	uint64_t since = clock_ns();

	has(h, "b", "default/far up 0\n");
	tell(&h->warden, &m, -1);
	for (int i = 0; i < 50 && !next_told(h, BL_DRAIN); i++)
		poll(NULL, 0, 10), serve(h, 10);
	assert_int_equal(poll(&(struct pollfd){ .fd = h->warden.fd, .events = POLLIN }, 1, 10000), 1);
	assert_true(clock_ns() - since > UINT64_C(900000000));
	host_stop(h);
	host_start(h);
	send_config(h, g_links);
	serve(h, 200);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, setup_links, teardown_links)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_told), TEST(test_announces_changes), TEST(test_reload_of_hosts), TEST(test_listeners_are_shown), TEST(test_heard), TEST(test_dial), TEST(test_goes_out),
		TEST(test_waits_for_a_host), TEST(test_no_certificate), TEST(test_next_host), TEST(test_parked), TEST(test_no_answer),
		TEST(test_fewest_lanes), TEST(test_limits_out), TEST(test_ends_with_the_container), TEST(test_client_leaves),
		TEST(test_here_is_nearer), TEST(test_comes_in), TEST(test_comes_in_unproven), TEST(test_not_let_in), TEST(test_server_not_up),
		TEST(test_leaves_before_the_answer), TEST(test_cut_inbound), TEST(test_many_come_in), TEST(test_sessions), TEST(test_devices), TEST(test_rdma_mode), TEST(test_linker_is_replaced), TEST(test_reload_without_device), TEST(test_sessions_over_rdma), TEST(test_sessions_of_questions), TEST(test_explained), TEST(test_explained_refusals),
		TEST(test_refused_sessions), TEST(test_sessions_without_end), TEST(test_bad_announcements), TEST(test_linker_dies), TEST(test_malformed), TEST(test_stop),
		TEST(test_library_goes_out), TEST(test_library_late), TEST(test_library_kinds), TEST(test_library_refused), TEST(test_library_leaves), TEST(test_library_waits),
		TEST(test_library_cut), TEST(test_library_and_the_dead), TEST(test_library_comes_in), TEST(test_library_not_taken), TEST(test_library_shares),
	};

	if (geteuid() != 0) {
		fprintf(stderr, "skipped: the broker leaves root, so it has to start as root\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
