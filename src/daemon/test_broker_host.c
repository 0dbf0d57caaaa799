#include "daemon/test_broker.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

const char g_test_config[] = "workload cache { services = [redis] }\n"
			       "service redis {}\n"
			       "service web { upstream redis {} }\n"
			       "service audit { upstream redis {} }\n"
			       "service intruder { upstream redis {} }\n"
			       "connect_wait = 300ms\n"
			       "intention { source = web destination = redis action = allow }\n"
			       "intention { source = audit destination = redis action = allow strict = true limits { open_lanes = 2 } }\n";

static int memfd_of(const char *text)
{
	int fd = memfd_create("config", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	return fd;
}

void tell(struct chan *c, const struct role_msg *m, int fd)
{
	assert_int_equal(role_send(c, m, fd), 0);
}

void send_config(struct host *h, const char *text)
{
	struct role_msg m = { .type = WB_CONFIG, .u.config.name = "test.conf" };
	int fd = memfd_of(text);

	tell(&h->warden, &m, fd);
	close(fd);
	m.u.config.last = 1;
	tell(&h->warden, &m, -1);
}

static int listening_socket(struct host *h, const char *name)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s/%s", h->state_dir, name);
	unlink(a.sun_path);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 64), 0);
	return fd;
}

void server_state(struct host *h, uint32_t sid, bool up)
{
	struct role_msg m = { .type = WB_SERVER_STATE,
			      .u.server_state = { .sid = sid, .up = up, .linkable = 1, .mode = 0666, .dev = 1, .ino = 2 } };

	tell(&h->warden, &m, -1);
}

void answer_connect(struct host *h, uint32_t seq)
{
	struct role_msg r = { .type = WB_REPLY, .seq = seq };
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	tell(&h->warden, &r, pair[0]);
	close(pair[0]);
	close(pair[1]);
}

void answer_enrol(struct host *h, const struct role_msg *m)
{
	struct role_msg r = { .type = WB_REPLY, .seq = m->seq, .u.reply.cgroup_id = m->u.cgroup.cgroup_id };

	snprintf(r.u.reply.path, sizeof(r.u.reply.path), "/test/%u", m->u.cgroup.wid);
	tell(&h->warden, &r, -1);
}

void answer_resolve(struct host *h, uint32_t seq)
{
	struct role_msg r = { .type = WB_REPLY, .seq = seq, .u.reply.wid = h->resolve_wid };

	tell(&h->warden, &r, -1);
}

static struct kept *kept_named(struct host *h, const char *name)
{
	for (size_t i = 0; i < N_KEPT; i++)
		if (strcmp(h->kept[i].name, name) == 0)
			return &h->kept[i];
	return NULL;
}

static void keep(struct host *h, const char *name, int fd)
{
	struct kept *k = kept_named(h, name);

	assert_true(fd >= 0);
	if (k)
		close(k->fd);
	else
		k = kept_named(h, "");
	assert_non_null(k);
	strcpy(k->name, name);
	k->fd = dup(fd);
}

static void unkeep(struct host *h, const char *name)
{
	struct kept *k = kept_named(h, name);

	if (k)
		close(k->fd);
	if (k)
		k->name[0] = '\0';
}

unsigned n_kept(const struct host *h)
{
	unsigned n = 0;

	for (size_t i = 0; i < N_KEPT; i++)
		n += h->kept[i].name[0] != '\0';
	return n;
}

void give_kept(struct host *h)
{
	struct role_msg m = { .type = WB_KEPT };

	for (size_t i = 0; i < N_KEPT; i++) {
		if (!h->kept[i].name[0])
			continue;
		strcpy(m.u.store.name, h->kept[i].name);
		tell(&h->warden, &m, h->kept[i].fd);
	}
}

static int play_listen(struct host *h, const struct role_listen *l)
{
	if (l->wid == ROLE_NO_ID) {
		if (h->admin < 0)
			h->admin = listening_socket(h, "admin.sock");
		return dup(h->admin);
	}
	if (l->type == SOCK_SEQPACKET) {
		assert_string_equal(l->path, "control.sock");
		assert_int_equal(l->mode, 0666);
		h->n_controls++;
		h->control_lid[l->wid] = l->lid;
		return listening_socket(h, "control");
	}
	h->n_listens++;
	memcpy(h->sockets[l->lid], l->path, LIMIT_PATH_SIZE);
	h->socket_wid[l->lid] = l->wid;
	return listening_socket(h, "upstream");
}

static void play_unlisten(struct host *h, uint32_t lid)
{
	for (uint32_t wid = 0; wid < N_IDS; wid++)
		if (h->control_lid[wid] == lid)
			h->control_lid[wid] = 0;
}

static int scan(const struct host *h)
{
	int fd = memfd_create("lanes", MFD_CLOEXEC);

	assert_int_equal(write(fd, &h->lane, sizeof(h->lane)), sizeof(h->lane));
	return fd;
}

/* Return: the socket that goes with the answer @r, or -1. */
static int play_for_links(struct host *h, const struct role_msg *m, struct role_reply *r)
{
	if (m->type == BW_LINKERS)
		h->n_linkers = m->u.id.id;
	if (m->type == BW_UNLISTEN_TCP)
		h->n_tcp_unlistens++;
	if (m->type == BW_CERTIFICATES && h->play_certificates)
		h->play_certificates(h);
	if (m->type != BW_LISTEN_TCP && m->type != BW_DIAL)
		return -1;
	*(m->type == BW_DIAL ? &h->n_dials : &h->n_tcp_listens) += 1;
	h->last_dial = m->u.dial;
	if (m->type == BW_LISTEN_TCP && h->tcp_error) {
		r->error = h->tcp_error;
		strcpy(r->why, "as the test says");
		return -1;
	}
	return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static void play_warden(struct host *h, const struct role_msg *m, int fd)
{
	struct role_msg r = { .type = WB_REPLY, .seq = m->seq };
	int reply_fd = -1;

	switch (m->type) {
	case BW_WORKLOAD_ADD:
		memcpy(h->workloads[m->u.workload.wid], m->u.workload.name, LIMIT_NAME_SIZE);
		break;
	case BW_LISTEN:
		reply_fd = play_listen(h, &m->u.listen);
		break;
	case BW_UNLISTEN:
		play_unlisten(h, m->u.id.id);
		break;
	case BW_KEEP:
		keep(h, m->u.store.name, fd);
		return;
	case BW_UNKEEP:
		unkeep(h, m->u.store.name);
		return;
	case BW_SERVER:
		memcpy(h->servers[m->u.server.sid], m->u.server.path, LIMIT_PATH_SIZE);
		break;
	case BW_ROUTE:
		h->route[m->u.route.lid] = m->u.route.route;
		break;
	case BW_ENROL:
		h->held_enrol = *m;
		if (!h->hold_enrols)
			answer_enrol(h, m);
		return;
	case BW_IS_EMPTY:
		r.u.reply.error = h->first_is_empty ? 0 : -EBUSY;
		break;
	case BW_RESOLVE:
		h->n_resolves++;
		h->held_resolve = m->seq;
		if (!h->hold_resolves)
			answer_resolve(h, m->seq);
		return;
	case BW_CONNECT:
		h->n_connects++;
		h->held_connect = m->seq;
		if (!h->hold_connects)
			answer_connect(h, m->seq);
		return;
	case BW_SCAN:
		r.u.reply.count = h->lane.client_ino != 0;
		reply_fd = r.u.reply.count ? scan(h) : -1;
		break;
	case BW_WORKLOAD_REMOVE:
		h->n_removed++;
		break;
	case BW_UNENROL:
		h->unenrolled_before_cut = h->n_cuts == 0;
		break;
	case BW_CUT:
		h->n_cuts++;
		h->last_cut = m->u.cut;
		r.u.reply.count = 1;
		break;
	default:
		reply_fd = play_for_links(h, m, &r.u.reply);
		break;
	}
	tell(&h->warden, &r, reply_fd);
	fd_cleanup(&reply_fd);
	if (m->type == BW_SERVER && h->server_up)
		server_state(h, m->u.server.sid, true);
}

static void hand_over(struct host *h, uint32_t cid)
{
	struct role_msg m = { .type = h->client_left ? GB_GONE : GB_HANDED, .u.id.id = cid };
	int pair[2];

	h->n_hands++;
	fd_cleanup(&h->client);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	h->client = pair[0];
	tell(&h->gate, &m, h->client_left ? -1 : pair[1]);
	close(pair[1]);
}

static void play_gate(struct host *h, const struct role_msg *m)
{
	if (m->type == BG_GO) {
		h->n_go++;
		h->last_go = m->u.go;
	} else if (m->type == BG_REFUSE) {
		h->n_refuse++;
		h->last_refused = m->u.id.id;
	} else if (m->type == BG_HAND) {
		hand_over(h, m->u.id.id);
	} else if (m->type == BG_CUT) {
		h->n_gate_cut++;
	} else if (m->type == BG_STATS) {
		struct role_msg end = { .type = GB_STATS };

		tell(&h->gate, &end, -1);
	}
}

static void tell_stats(struct host *h, uint32_t seq)
{
	struct role_msg m = { .type = PB_STATS, .seq = seq, .u.stats = h->porter_stats };

	if (h->porter_stats.lane_id)
		tell(&h->porter, &m, -1);
	m.u.stats = (struct role_stats){};
	tell(&h->porter, &m, -1);
}

void answer_lend(struct host *h)
{
	struct role_msg m = { .type = PB_LENT, .u.lane_ref.lane_id = h->last_lend.lane_id };
	int pair[2];

	fd_cleanup(&h->lent);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	h->lent = pair[0];
	tell(&h->porter, &m, pair[1]);
	close(pair[1]);
}

static void play_lend(struct host *h, const struct role_lend *m)
{
	if (m->cid == ROLE_NO_ID) {
		h->renamed = m->server;
		return;
	}
	h->n_lends++;
	h->last_lend = *m;
	if (!h->hold_lends)
		answer_lend(h);
}

static void play_porter(struct host *h, const struct role_msg *m, int fd)
{
	if (m->type == BP_LISTEN || m->type == BP_UNLISTEN) {
		uint32_t lid = m->type == BP_LISTEN ? m->u.gate_listen.lid : m->u.id.id;

		assert_true(m->type == BP_UNLISTEN || fd >= 0);
		for (uint32_t wid = 0; wid < N_IDS; wid++)
			if (h->control_lid[wid] == lid)
				h->porter_listens[wid] = m->type == BP_LISTEN;
	} else if (m->type == BP_OFFER) {
		h->n_offers++;
		h->last_offer = m->u.offer;
	} else if (m->type == BP_LEND) {
		play_lend(h, &m->u.lend);
	} else if (m->type == BP_LISTENING) {
		h->n_listening++;
		h->last_listening = m->u.id.id;
	} else if (m->type == BP_REFUSE) {
		h->n_porter_refuse++;
		h->last_no = m->u.refuse;
	} else if (m->type == BP_CUT) {
		h->n_porter_cut++;
		h->last_porter_cut = m->u.refuse;
	} else if (m->type == BP_ADOPT) {
		assert_true(fd >= 0);
		h->n_adopts++;
	} else if (m->type == BP_STATS) {
		tell_stats(h, m->seq);
	}
}

static void play(struct host *h, int who, const struct role_msg *m, int fd)
{
	if (who == 0)
		play_warden(h, m, fd);
	else if (who == 1)
		play_gate(h, m);
	else if (who == 2)
		play_porter(h, m, fd);
	else if (who == 3)
		h->play_linker(h, m, fd);
	else
		h->play_signer(h, m, fd);
}

/* What it does is seen from outside, so that a busy machine is not taken for a broker that has nothing to say. */
static bool is_busy(const struct host *h)
{
	const int fds[] = { h->warden.fd, h->gate.fd, h->porter.fd, h->linker.fd, h->signer.fd };
	char path[32], text[128] = "", state = 'Z';
	const char *end;

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		int unread = 0;

		if (fds[i] >= 0 && ioctl(fds[i], SIOCOUTQ, &unread) == 0 && unread > 0)
			return true;
	}
	snprintf(path, sizeof(path), "/proc/%d/stat", h->pid);
	AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 && (end = strrchr(text, ')')))
		state = end[2];
	return state != 'S' && state != 'Z';
}

void serve(struct host *h, int quiet_ms)
{
	uint64_t give_up_ns = clock_ns() + UINT64_C(20000000000);
	struct chan *chans[] = { &h->warden, &h->gate, &h->porter, &h->linker, &h->signer };
	struct pollfd p[ARRAY_SIZE(chans)];

	for (size_t i = 0; i < ARRAY_SIZE(chans); i++)
		p[i] = (struct pollfd){ .fd = chans[i]->fd, .events = POLLIN };
	/* What it said between our look at the channels and our look at it is there at the second look. */
	while (poll(p, ARRAY_SIZE(p), quiet_ms) > 0 || (is_busy(h) && clock_ns() < give_up_ns) || poll(p, ARRAY_SIZE(p), 0) > 0) {
		for (int i = 0; i < (int)ARRAY_SIZE(chans); i++) {
			struct role_msg m;
			AUTO_FD fd = -1;
			int r = p[i].revents ? role_recv(chans[i], &m, &fd) : -EAGAIN;

			assert_true(r == 1 || r == -EAGAIN);
			if (r == 1)
				play(h, i, &m, fd);
		}
	}
}

static void start_role(struct host *h, uint32_t type, struct chan *c)
{
	struct role_msg m = { .type = type };
	int fds[2];

	assert_int_equal(chan_pair(fds), 0);
	tell(&h->warden, &m, fds[1]);
	close(fds[1]);
	chan_close(c);
	chan_init(c, fds[0]);
}

void start_gate(struct host *h)
{
	start_role(h, WB_GATE, &h->gate);
}

void start_signer(struct host *h)
{
	start_role(h, WB_SIGNER, &h->signer);
}

void start_linker(struct host *h)
{
	start_role(h, WB_LINKER, &h->linker);
}

void start_porter(struct host *h)
{
	memset(h->porter_listens, 0, sizeof(h->porter_listens));
	start_role(h, WB_PORTER, &h->porter);
}

static void child(struct host *h, int fd)
{
	struct daemon_options o = { .run_dir = "/run/sealane", .state_dir = h->state_dir, .user = "nobody" };
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	if (!getenv("VERBOSE"))
		dup2(null, STDERR_FILENO);
	dup2(fd, ROLE_CHANNEL_FD);
	for (int i = ROLE_CHANNEL_FD + 1; i < 64; i++)
		close(i);
	_exit(broker_main(&o));
}

int host_start(struct host *h)
{
	int fds[2];

	assert_int_equal(chan_pair(fds), 0);
	h->gate.fd = -1;
	h->gate.tail = &h->gate.head;
	h->porter.fd = -1;
	h->porter.tail = &h->porter.head;
	h->linker = h->signer = (struct chan){ .fd = -1 };
	h->pid = fork();
	assert_true(h->pid >= 0);
	if (h->pid == 0)
		child(h, fds[1]);
	close(fds[1]);
	chan_init(&h->warden, fds[0]);
	give_kept(h);
	start_gate(h);
	start_porter(h);
	return 0;
}

int setup(void **state)
{
	struct host *h = calloc(1, sizeof(*h));

	assert_non_null(h);
	snprintf(h->state_dir, sizeof(h->state_dir), "/tmp/sealane-broker.XXXXXX");
	assert_non_null(mkdtemp(h->state_dir));
	assert_int_equal(chown(h->state_dir, 65534, 65534), 0);
	snprintf(h->admin_path, sizeof(h->admin_path), "%s/admin.sock", h->state_dir);
	h->server_up = true;
	h->admin = h->client = h->lent = -1;
	*state = h;
	host_start(h);
	send_config(h, g_test_config);
	serve(h, CALM_MS);
	return 0;
}

void host_stop(struct host *h)
{
	int status;

	chan_close(&h->warden);
	chan_close(&h->gate);
	chan_close(&h->porter);
	chan_close(&h->linker);
	chan_close(&h->signer);
	assert_int_equal(waitpid(h->pid, &status, 0), h->pid);
	assert_true(WIFEXITED(status)); /* not killed by its filter, a sanitizer or an assertion */
}

int teardown(void **state)
{
	struct host *h = *state;
	char cmd[128];

	host_stop(h);
	fd_cleanup(&h->admin);
	fd_cleanup(&h->client);
	fd_cleanup(&h->lent);
	for (size_t i = 0; i < N_KEPT; i++)
		if (h->kept[i].name[0])
			close(h->kept[i].fd);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", h->state_dir);
	assert_int_equal(system(cmd), 0);
	free(h);
	return 0;
}

char g_answer[32768];

int http(struct host *h, const char *method, const char *path, const char *body)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	char text[1024];
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), status = 0;
	uint64_t give_up_ns = clock_ns() + UINT64_C(30000000000);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", h->admin_path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	snprintf(text, sizeof(text), "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s", method,
		 path, strlen(body), body);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	do /* what it waits for may be a timer of its own */
		serve(h, CALM_MS);
	while (poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 0) == 0 && clock_ns() < give_up_ns);
	memset(g_answer, 0, sizeof(g_answer));
	assert_true(read(fd, g_answer, sizeof(g_answer) - 1) > 0);
	close(fd);
	assert_int_equal(sscanf(g_answer, "HTTP/1.1 %d", &status), 1);
	return status;
}

uint32_t wid_of(const struct host *h, const char *name)
{
	for (uint32_t i = 0; i < N_IDS; i++)
		if (strcmp(h->workloads[i], name) == 0)
			return i;
	fail_msg("no workload %s", name);
	return 0;
}

uint32_t sid_of(const struct host *h, const char *path)
{
	for (uint32_t i = 0; i < N_IDS; i++)
		if (strcmp(h->servers[i], path) == 0)
			return i;
	fail_msg("no server %s", path);
	return 0;
}

uint32_t lid_of(const struct host *h, const char *workload)
{
	uint32_t wid = wid_of(h, workload);

	for (uint32_t i = 0; i < N_IDS; i++)
		if (h->sockets[i][0] && h->socket_wid[i] == wid)
			return i;
	fail_msg("no socket of %s", workload);
	return 0;
}

void enrol(struct host *h, const char *workload, unsigned cgroup_id)
{
	char body[128];

	snprintf(body, sizeof(body), "{\"workload\":\"%s\",\"cgroup_id\":\"%u\",\"by\":\"test\"}", workload, cgroup_id);
	assert_in_range(http(h, "POST", "/v1/workloads", body), 200, 201);
}

void connect_as(struct host *h, const char *workload, uint32_t cid, unsigned cgroup_id)
{
	struct role_msg m = { .type = GB_ACCEPT };

	m.u.accept = (struct role_accept){ .cid = cid, .lid = lid_of(h, workload), .pid = 1, .cgroup_id = cgroup_id };
	tell(&h->gate, &m, -1);
	serve(h, CALM_MS);
}

void assert_told(const char *a, const char *b)
{
	const char *event = strstr(g_answer, a);
	const char *end = event ? strchr(event, '}') : NULL;
	const char *found = event ? strstr(event, b) : NULL;

	assert_true(found && found < end);
}

void assert_then(const char *a, const char *b)
{
	const char *first = strstr(g_answer, a);

	assert_non_null(first);
	assert_non_null(strstr(first, b));
}
