/*
 * The porter under its own system call filter in a child process; this file plays the broker, the clients and the servers, well
 * behaved and hostile. Every test ends with bed_stop(), which checks that the porter is alive until then, that it holds no more
 * descriptors than at the start, and that it exits cleanly.
 */
#include "daemon/porter.h"

#include "base/chan.h"
#include "base/foreign.h"
#include "base/log.h"
#include "daemon/identity.h"
#include "daemon/test_linger.h"
#include "shm/region.h"
#include "shm/ring.h"
#include "wire/control.h"
#include "wire/role.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

enum { LID = 7, OTHER_LID = 8, WAIT_MS = 20000, CAP_LOG2 = 12 };

struct address {
	struct sockaddr_un sun;
	socklen_t size;
};

struct bed {
	pid_t porter;
	struct chan broker;
	struct address addr, other;
	uint64_t next_lane;
	size_t n_fds; /* of the porter, before anybody came */
};

/* ------------------------------------------------------------------ the broker */

static void chan_wait(struct chan *c, short events)
{
	struct pollfd p = { .fd = c->fd, .events = events };

	assert_int_equal(poll(&p, 1, WAIT_MS), 1);
}

static void tell(struct bed *b, const struct role_msg *m, int fd)
{
	assert_int_equal(role_send(&b->broker, m, fd), 0);
	while (chan_wants_write(&b->broker)) {
		chan_wait(&b->broker, POLLOUT);
		assert_int_equal(chan_flush(&b->broker), 0);
	}
}

static struct role_msg hear_fd(struct bed *b, uint32_t type, int *ret_fd)
{
	struct role_msg m;

	chan_wait(&b->broker, POLLIN);
	assert_int_equal(role_recv(&b->broker, &m, ret_fd), 1);
	if (m.type != type)
		print_error("expected %s, heard %s\n", role_msg_name(type), role_msg_name(m.type));
	assert_int_equal(m.type, type);
	return m;
}

static struct role_msg hear(struct bed *b, uint32_t type)
{
	AUTO_FD fd = -1;

	return hear_fd(b, type, &fd);
}

static struct role_stats hear_closed(struct bed *b, uint64_t lane_id, enum lane_end end)
{
	struct role_msg m = hear(b, PB_CLOSED);

	assert_int_equal(m.u.stats.lane_id, lane_id);
	assert_string_equal(lane_end_name(m.u.stats.end), lane_end_name(end));
	return m.u.stats;
}

static void hear_nothing(struct bed *b, int ms)
{
	struct pollfd p = { .fd = b->broker.fd, .events = POLLIN };

	assert_int_equal(poll(&p, 1, ms), 0);
}

/* All that was said before has been dealt with when the answer comes. */
static void sync_with(struct bed *b)
{
	struct role_msg m;

	tell(b, &(struct role_msg){ .type = BP_STATS, .seq = 5 }, -1);
	do
		m = hear(b, PB_STATS);
	while (m.u.stats.lane_id != 0);
	assert_int_equal(m.seq, 5);
}

static void tell_listen(struct bed *b, uint32_t lid, struct address *ret)
{
	struct role_msg m = { .type = BP_LISTEN, .u.gate_listen = { .lid = lid, .identity = identity_probe() } };
	AUTO_FD fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	static int n;

	*ret = (struct address){ .sun.sun_family = AF_UNIX };
	ret->size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
				(size_t)snprintf(ret->sun.sun_path + 1, 64, "sealane-test-porter-%d-%d", getpid(), n++));
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&ret->sun, ret->size), 0);
	assert_int_equal(listen(fd, 4096), 0);
	tell(b, &m, fd);
}

static size_t count_fds(pid_t pid)
{
	char path[64];
	size_t n = 0;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	d = opendir(path);
	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static rlim_t g_child_nofile; /* 0: as we are */

static void porter_child(int channel_fd)
{
	struct rlimit few = { .rlim_cur = g_child_nofile, .rlim_max = g_child_nofile };

	/* The porter's own descriptors only: the tests count them. */
	for (int fd = 3; fd < 1024; fd++)
		if (fd != channel_fd)
			close(fd);
	log_init("porter", LOG_LEVEL_ERROR);
	tzset();
	if (g_child_nofile && setrlimit(RLIMIT_NOFILE, &few) < 0)
		_exit(98);
	if (porter_isolate() < 0)
		_exit(99);
	_exit(porter_run(channel_fd) == 0 ? 0 : 1);
}

static struct bed bed_start(void)
{
	struct bed b = { .next_lane = 1000 };
	int fds[2];

	assert_int_equal(chan_pair(fds), 0);
	b.porter = fork();
	assert_true(b.porter >= 0);
	if (b.porter == 0)
		porter_child(fds[1]);
	close(fds[1]);
	chan_init(&b.broker, fds[0]);
	tell_listen(&b, LID, &b.addr);
	tell_listen(&b, OTHER_LID, &b.other);
	sync_with(&b);
	b.n_fds = count_fds(b.porter);
	return b;
}

static int bed_wait(struct bed *b)
{
	int status;

	assert_int_equal(waitpid(b->porter, &status, 0), b->porter);
	return status;
}

static void bed_stop(struct bed *b)
{
	int status;

	sync_with(b);
	assert_int_equal(count_fds(b->porter), b->n_fds);
	chan_close(&b->broker);
	status = bed_wait(b);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* ------------------------------------------------------------------ containers */

static int dial_at(const struct address *a)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)&a->sun, a->size), 0);
	return fd;
}

static int dial(struct bed *b)
{
	return dial_at(&b->addr);
}

/* The next message; fails unless it is of that type. */
static struct control_msg get(int sock, uint32_t type, int ret_fds[CONTROL_FDS])
{
	struct pollfd p = { .fd = sock, .events = POLLIN };
	struct control_msg m = {};

	assert_int_equal(poll(&p, 1, WAIT_MS), 1);
	assert_int_equal(control_recv(sock, &m, ret_fds), 1);
	assert_int_equal(m.type, type);
	return m;
}

static void get_end(int sock)
{
	struct pollfd p = { .fd = sock, .events = POLLIN };
	char byte;
	ssize_t n;

	assert_int_equal(poll(&p, 1, WAIT_MS), 1);
	n = recv(sock, &byte, 1, MSG_DONTWAIT);
	assert_true(n == 0 || (n < 0 && errno == ECONNRESET));
}

static void get_nothing(int sock, int ms)
{
	struct pollfd p = { .fd = sock, .events = POLLIN };

	assert_int_equal(poll(&p, 1, ms), 0);
}

static void get_error(int sock, int error)
{
	int fds[CONTROL_FDS];
	struct control_msg m = get(sock, CTL_ERROR, fds);

	assert_int_equal(m.u.error.error, error);
	assert_true(m.u.error.why[0] != '\0');
	get_end(sock);
}

static int make_region(uint32_t cap_log2, struct region *ret)
{
	int fd = -1;

	assert_int_equal(region_create(ret, &fd, cap_log2, 0), 0);
	return fd;
}

static struct control_msg connect_msg(void)
{
	return (struct control_msg){ .type = CTL_CONNECT,
				     .version = CONTROL_VERSION,
				     .u.ask = { .kind = CONTROL_MESSAGES, .flags = CONTROL_SPINS, .cap_log2 = CAP_LOG2,
						.service = "redis", .as = "web" } };
}

static void put_listen(int sock)
{
	struct control_msg m = { .type = CTL_LISTEN, .version = CONTROL_VERSION, .u.ask = { .kind = CONTROL_MESSAGES } };

	strcpy(m.u.ask.service, "redis");
	assert_int_equal(control_send(sock, &m, NULL), 0);
}

struct lane {
	uint64_t id;
	uint32_t cid, listener_cid;
	int client, listener;	   /* control connections */
	int leash;		   /* the server's */
	int bells[2];		   /* client's, server's */
	int kept[2];		   /* what PB_KEEP brought */
	struct region regions[2];  /* as their makers see them */
};

static struct lane lane_init(struct bed *b)
{
	return (struct lane){ .id = b->next_lane++, .client = -1, .listener = -1, .leash = -1, .bells = { -1, -1 }, .kept = { -1, -1 } };
}

static void lane_close(struct lane *l)
{
	fd_cleanup(&l->client);
	fd_cleanup(&l->listener);
	fd_cleanup(&l->leash);
	for (int i = 0; i < 2; i++) {
		fd_cleanup(&l->bells[i]);
		fd_cleanup(&l->kept[i]);
		region_unmap(&l->regions[i]);
	}
	*l = (struct lane){ .client = -1, .listener = -1, .leash = -1, .bells = { -1, -1 }, .kept = { -1, -1 } };
}

static void server_listens(struct bed *b, struct lane *l)
{
	int fds[CONTROL_FDS];
	struct role_ask a;

	l->listener = dial_at(&b->other);
	put_listen(l->listener);
	a = hear(b, PB_ASK).u.ask;
	assert_int_equal(a.accept.lid, OTHER_LID);
	assert_int_equal(a.listens, 1);
	assert_int_equal(a.kind, CONTROL_MESSAGES);
	assert_string_equal(a.service, "redis");
	l->listener_cid = a.accept.cid;
	tell(b, &(struct role_msg){ .type = BP_LISTENING, .u.id.id = a.accept.cid }, -1);
	get(l->listener, CTL_LISTENING, fds);
}

static void client_asks(struct bed *b, struct lane *l)
{
	struct control_msg m = connect_msg();
	AUTO_FD fd = make_region(CAP_LOG2, &l->regions[0]);

	l->client = dial(b);
	assert_int_equal(control_send(l->client, &m, &fd), 0);
	l->cid = hear(b, PB_ASK).u.ask.accept.cid;
}

static void tell_offer(struct bed *b, const struct lane *l)
{
	struct role_msg m = { .type = BP_OFFER, .u.offer = { .cid = l->cid, .listener = l->listener_cid, .lane_id = l->id } };

	strcpy(m.u.offer.client.service, "default/web");
	strcpy(m.u.offer.server.service, "default/redis");
	strcpy(m.u.offer.server.spiffe_id, "spiffe://td/ns/default/svc/redis");
	strcpy(m.u.offer.client.workload, "web");
	strcpy(m.u.offer.server.workload, "cache");
	tell(b, &m, -1);
}

static void server_gets_offer(struct lane *l)
{
	int fds[CONTROL_FDS];
	struct control_msg m = get(l->listener, CTL_OFFER, fds);
	struct region peer = {};

	assert_int_equal(m.u.lane.lane_id, l->id);
	assert_int_equal(m.u.lane.kind, CONTROL_MESSAGES);
	assert_int_equal(m.u.lane.flags, CONTROL_SPINS);
	assert_int_equal(m.u.lane.cap_log2, CAP_LOG2);
	assert_string_equal(m.u.lane.peer.service, "default/web");
	assert_string_equal(m.u.lane.peer.workload, "web");
	assert_string_equal(m.u.lane.path, "shm");
	assert_int_equal(region_map_peer(&peer, fds[0], CAP_LOG2), 0);
	region_unmap(&peer);
	close(fds[0]);
	l->bells[1] = fds[1];
	l->leash = fds[2];
	assert_true(fcntl(l->bells[1], F_GETFL) & O_NONBLOCK);
}

static void put_accept_with(int leash, uint32_t cap_log2, int fd)
{
	struct control_msg m = { .type = CTL_ACCEPT, .version = CONTROL_VERSION, .u.lane.cap_log2 = cap_log2 };

	assert_int_equal(control_send(leash, &m, &fd), 0);
}

static void server_accepts(struct lane *l)
{
	AUTO_FD fd = make_region(CAP_LOG2 + 1, &l->regions[1]);

	put_accept_with(l->leash, CAP_LOG2 + 1, fd);
}

static void client_gets_lane(struct lane *l)
{
	int fds[CONTROL_FDS];
	struct control_msg m = get(l->client, CTL_OPEN, fds);
	struct region peer = {};

	assert_int_equal(m.u.lane.lane_id, l->id);
	assert_int_equal(m.u.lane.cap_log2, CAP_LOG2 + 1);
	assert_int_equal(m.u.lane.flags, 0);
	assert_string_equal(m.u.lane.peer.service, "default/redis");
	assert_string_equal(m.u.lane.peer.spiffe_id, "spiffe://td/ns/default/svc/redis");
	assert_int_equal(region_map_peer(&peer, fds[0], CAP_LOG2 + 1), 0);
	region_unmap(&peer);
	close(fds[0]);
	l->bells[0] = fds[1];
}

static void hear_open(struct bed *b, struct lane *l)
{
	assert_int_equal(hear(b, PB_OPEN).u.lane_ref.lane_id, l->id);
	for (uint32_t i = 0; i < 2; i++) {
		struct role_leash k = hear_fd(b, PB_KEEP, &l->kept[i]).u.leash;

		assert_int_equal(k.lane_id, l->id);
		assert_int_equal(k.is_server, i);
		assert_true(l->kept[i] >= 0);
	}
}

static struct lane lane_offered(struct bed *b)
{
	struct lane l = lane_init(b);

	server_listens(b, &l);
	client_asks(b, &l);
	tell_offer(b, &l);
	server_gets_offer(&l);
	return l;
}

static struct lane lane_open(struct bed *b)
{
	struct lane l = lane_offered(b);

	server_accepts(&l);
	client_gets_lane(&l);
	hear_open(b, &l);
	return l;
}

/* The lane is over and its listener gone too: what the broker hears of the latter. */
static void listener_goes(struct bed *b, struct lane *l)
{
	close(take_fd(&l->listener));
	assert_int_equal(hear(b, PB_GONE).u.id.id, l->listener_cid);
	lane_close(l);
}

/* ------------------------------------------------------------------ as it should be */

static void test_lane(void **state)
{
	struct bed b = bed_start();
	struct lane l = lane_init(&b);
	struct control_msg m = connect_msg();
	struct role_ask a;
	struct role_stats s;
	char byte = 'x';

	server_listens(&b, &l);
	AUTO_FD fd = make_region(CAP_LOG2, &l.regions[0]);
	l.client = dial(&b);
	assert_int_equal(control_send(l.client, &m, &fd), 0);
	a = hear(&b, PB_ASK).u.ask;
	assert_int_equal(a.accept.lid, LID);
	assert_int_equal(a.accept.error, 0);
	assert_int_equal(a.accept.pid, getpid());
	assert_int_equal(a.accept.uid, geteuid());
	assert_true(a.accept.method == IDENTITY_PEERCRED ? a.accept.cgroup_id == 0 : a.accept.cgroup_id != 0);
	assert_int_equal(a.listens, 0);
	assert_int_equal(a.kind, CONTROL_MESSAGES);
	assert_int_equal(a.cap_log2, CAP_LOG2);
	assert_string_equal(a.service, "redis");
	assert_string_equal(a.as, "web");
	l.cid = a.accept.cid;
	tell_offer(&b, &l);
	server_gets_offer(&l);
	server_accepts(&l);
	client_gets_lane(&l);
	hear_open(&b, &l);
	hear_nothing(&b, 50);
	/* the bell leads from one to the other */
	assert_int_equal(send(l.bells[0], &byte, 1, 0), 1);
	assert_int_equal(recv(l.bells[1], &byte, 1, 0), 1);
	/* and carries no descriptors, where the kernel knows how to refuse them */
	for (int i = 0; i < 2; i++)
		assert_in_range(foreign_refuse(l.bells[i]) + 4096, 0, 4096);
	l.regions[0].base->n_bytes = 77;
	l.regions[0].base->n_records = 7;
	l.regions[1].base->n_bytes = UINT64_MAX; /* hostile, and nobody's concern */
	tell(&b, &(struct role_msg){ .type = BP_STATS, .seq = 9 }, -1);
	s = hear(&b, PB_STATS).u.stats;
	assert_int_equal(s.lane_id, l.id);
	assert_int_equal(s.bytes_up, 77);
	assert_int_equal(s.reads_up, 7);
	assert_true(s.bytes_down == UINT64_MAX);
	assert_int_equal(hear(&b, PB_STATS).u.stats.lane_id, 0);
	close(take_fd(&l.client));
	s = hear_closed(&b, l.id, LANE_END_EOF);
	assert_int_equal(s.bytes_up, 77);
	assert_int_equal(s.error, 0);
	get_end(l.leash); /* although somebody keeps the other end open */
	listener_goes(&b, &l);
	bed_stop(&b);
}

static void test_server_gives_up(void **state)
{
	struct bed b = bed_start();
	struct lane l = lane_open(&b);

	close(take_fd(&l.leash));
	hear_closed(&b, l.id, LANE_END_EOF);
	get_end(l.client);
	listener_goes(&b, &l);
	bed_stop(&b);
}

static void get_cut(int sock)
{
	int fds[CONTROL_FDS];
	struct control_msg m = get(sock, CTL_CUT, fds);

	assert_int_equal(m.u.error.error, -ECANCELED);
	assert_string_equal(m.u.error.why, "the intention went");
	get_end(sock);
}

static void tell_cut(struct bed *b, uint64_t lane_id)
{
	struct role_msg m = { .type = BP_CUT, .u.refuse = { .lane_id = lane_id } };

	strcpy(m.u.refuse.why, "the intention went");
	tell(b, &m, -1);
}

static void test_cut(void **state)
{
	struct bed b = bed_start();
	struct lane l = lane_open(&b);

	tell_cut(&b, 4711); /* unknown: ended already, as far as anybody can tell */
	tell_cut(&b, l.id);
	get_cut(l.client);
	get_cut(l.leash);
	hear_closed(&b, l.id, LANE_END_CUT);
	listener_goes(&b, &l);
	l = lane_offered(&b);
	tell_cut(&b, l.id);
	get_cut(l.leash);
	get_error(l.client, -ECANCELED);
	hear_closed(&b, l.id, LANE_END_CUT);
	listener_goes(&b, &l);
	bed_stop(&b);
}

static void test_refused(void **state)
{
	struct bed b = bed_start();
	struct lane l = lane_init(&b);
	struct role_msg m = { .type = BP_REFUSE, .u.refuse = { .error = -EACCES, .why = "no intention allows it" } };

	client_asks(&b, &l);
	m.u.refuse.cid = l.cid;
	tell(&b, &m, -1);
	get_error(l.client, -EACCES);
	tell(&b, &m, -1); /* and its number is nobody's now */
	lane_close(&l);
	l.client = dial(&b);
	put_listen(l.client);
	m.u.refuse.cid = hear(&b, PB_ASK).u.ask.accept.cid;
	tell(&b, &m, -1);
	get_error(l.client, -EACCES);
	lane_close(&l);
	bed_stop(&b);
}

static void test_server_rejects(void **state)
{
	struct bed b = bed_start();
	struct lane l = lane_offered(&b);
	struct control_msg m = { .type = CTL_REJECT, .version = CONTROL_VERSION, .u.error = { .error = -ENOMEM, .why = "\033[2J" } };
	int fds[CONTROL_FDS];

	assert_int_equal(control_send(l.leash, &m, NULL), 0);
	m = get(l.client, CTL_ERROR, fds);
	assert_int_equal(m.u.error.error, -ENOMEM);
	assert_null(strchr(m.u.error.why, '\033')); /* one container's words do not reach another's terminal */
	hear_closed(&b, l.id, LANE_END_SERVER);
	listener_goes(&b, &l);
	bed_stop(&b);
}

/* Many lanes to one listener, which takes them in order, more than are offered at once. */
static void test_many_to_one(void **state)
{
	enum { N = 100 };
	struct bed b = bed_start();
	struct lane first = lane_init(&b), lanes[N];

	server_listens(&b, &first);
	for (int i = 0; i < N; i++) {
		lanes[i] = lane_init(&b);
		lanes[i].listener_cid = first.listener_cid;
		client_asks(&b, &lanes[i]);
		tell_offer(&b, &lanes[i]);
	}
	for (int i = 0; i < N; i++) {
		lanes[i].listener = first.listener;
		server_gets_offer(&lanes[i]);
		server_accepts(&lanes[i]);
		client_gets_lane(&lanes[i]);
		hear_open(&b, &lanes[i]);
		lanes[i].listener = -1;
	}
	get_nothing(first.listener, 50);
	for (int i = 0; i < N; i++) {
		close(take_fd(&lanes[i].client));
		hear_closed(&b, lanes[i].id, LANE_END_EOF);
		lane_close(&lanes[i]);
	}
	listener_goes(&b, &first);
	bed_stop(&b);
}

/* ------------------------------------------------------------------ over a restart */

static void tell_adopt(struct bed *b, const struct lane *l)
{
	for (uint32_t i = 0; i < 2; i++) {
		struct role_msg m = { .type = BP_ADOPT, .u.leash = { .lane_id = l->id, .is_server = i } };

		tell(b, &m, l->kept[i]);
	}
}

static void test_adopt(void **state)
{
	struct bed b = bed_start();
	struct lane cut = lane_open(&b), left = lane_open(&b), gone = lane_open(&b);
	struct role_stats s;

	kill(b.porter, SIGKILL);
	bed_wait(&b);
	chan_close(&b.broker);
	get_nothing(cut.client, 50); /* a leash that is kept does not show that the porter died */
	get_nothing(cut.leash, 50);
	get_end(cut.listener);
	close(take_fd(&gone.leash)); /* while nobody watches */

	b = bed_start();
	tell_adopt(&b, &cut);
	tell_adopt(&b, &left);
	tell_adopt(&b, &gone);
	hear_closed(&b, gone.id, LANE_END_EOF);
	get_end(gone.client);
	tell(&b, &(struct role_msg){ .type = BP_STATS }, -1);
	for (int i = 0; i < 2; i++) {
		s = hear(&b, PB_STATS).u.stats;
		assert_true(s.lane_id == cut.id || s.lane_id == left.id);
		assert_int_equal(s.bytes_up, 0);
	}
	assert_int_equal(hear(&b, PB_STATS).u.stats.lane_id, 0);
	tell_cut(&b, cut.id);
	get_cut(cut.client);
	get_cut(cut.leash);
	hear_closed(&b, cut.id, LANE_END_CUT);
	close(take_fd(&left.client));
	get_end(left.leash);
	hear_closed(&b, left.id, LANE_END_EOF);
	lane_close(&cut);
	lane_close(&left);
	lane_close(&gone);
	bed_stop(&b);
}

/* ------------------------------------------------------------------ hostile clients */

static void send_raw(int sock, const void *bytes, size_t size, const int *fds, size_t n_fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(253 * sizeof(int))];
	} control = {};
	struct iovec iov = { .iov_base = (void *)(uintptr_t)bytes, .iov_len = size };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (n_fds) {
		mh.msg_control = control.bytes;
		mh.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		struct cmsghdr *cm = CMSG_FIRSTHDR(&mh);
		cm->cmsg_level = SOL_SOCKET;
		cm->cmsg_type = SCM_RIGHTS;
		cm->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(cm), fds, n_fds * sizeof(int));
	}
	assert_int_equal(sendmsg(sock, &mh, MSG_NOSIGNAL), size);
}

struct bad_message {
	const char *what;
	struct control_msg m;
	size_t size, n_fds; /* size 0: the type's own */
	int error;
};

#define ASK { .kind = CONTROL_STREAM, .cap_log2 = CAP_LOG2, .service = "redis" }
#define BAD(t, ...) { .m = { .type = t, .version = CONTROL_VERSION, .u.ask = ASK }, __VA_ARGS__ }
#define LATE(t, ...) { .m = { .type = t, .version = CONTROL_VERSION }, __VA_ARGS__ }
static const struct bad_message g_bad[] = {
	BAD(CTL_CONNECT, .what = "no region", .n_fds = 0, .error = -EBADMSG),
	BAD(CTL_CONNECT, .what = "two", .n_fds = 2, .error = -EBADMSG),
	BAD(CTL_CONNECT, .what = "four", .n_fds = 4, .error = -EBADMSG),
	BAD(CTL_CONNECT, .what = "as many as the kernel takes", .n_fds = 253, .error = -EBADMSG),
	BAD(CTL_LISTEN, .what = "a region nobody asked for", .n_fds = 1, .error = -EBADMSG),
	BAD(CTL_CONNECT, .what = "short", .size = 4, .n_fds = 1, .error = -EBADMSG),
	BAD(CTL_CONNECT, .what = "one byte short", .size = offsetof(struct control_msg, u) + sizeof(struct control_ask) - 1, .n_fds = 1, .error = -EBADMSG),
	BAD(CTL_CONNECT, .what = "long", .size = sizeof(struct control_msg), .n_fds = 1, .error = -EBADMSG),
	BAD(CTL_NONE, .what = "no type", .size = sizeof(struct control_msg), .error = -EBADMSG),
	BAD(CTL_TYPE_N, .what = "an unknown type", .size = sizeof(struct control_msg), .error = -EBADMSG),
	BAD(UINT32_MAX, .what = "the last type", .size = sizeof(struct control_msg), .error = -EBADMSG),
	LATE(CTL_ACCEPT, .what = "an answer to nothing", .n_fds = 1, .error = -EPROTO),
	LATE(CTL_OPEN, .what = "what only the daemon says", .n_fds = 2, .error = -EPROTO),
	LATE(CTL_OFFER, .what = "what only the daemon says", .n_fds = 3, .error = -EPROTO),
	LATE(CTL_CUT, .what = "what only the daemon says", .error = -EPROTO),
};

static void expect_bad(struct bed *b, const struct control_msg *m, size_t size, size_t n_fds, int error)
{
	AUTO_FD sock = dial(b);
	int fds[253];

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = sock;
	send_raw(sock, m, size, fds, n_fds);
	get_error(sock, error);
}

static void test_garbage(void **state)
{
	struct bed b = bed_start();
	char huge[8192] = "";

	for (size_t i = 0; i < ARRAY_SIZE(g_bad); i++) {
		const struct bad_message *t = &g_bad[i];

		print_message("%s\n", t->what);
		expect_bad(&b, &t->m, t->size ? t->size : control_msg_size(t->m.type), t->n_fds, t->error);
	}
	struct control_msg m = connect_msg();
	size_t size = control_msg_size(CTL_CONNECT);
	m.version++;
	expect_bad(&b, &m, size, 1, -EPROTONOSUPPORT);
	m = connect_msg();
	m.u.ask.kind = CONTROL_KIND_N;
	expect_bad(&b, &m, size, 1, -EBADMSG);
	m = connect_msg();
	m.u.ask.flags = 1u << 31;
	expect_bad(&b, &m, size, 1, -EBADMSG);
	m = connect_msg();
	memset(m.u.ask.service, 'x', sizeof(m.u.ask.service));
	expect_bad(&b, &m, size, 1, -EBADMSG);
	m = connect_msg();
	memset(m.u.ask.as, 'x', sizeof(m.u.ask.as));
	expect_bad(&b, &m, size, 1, -EBADMSG);
	expect_bad(&b, (struct control_msg *)huge, sizeof(huge), 0, -EBADMSG);
	/* an empty message looks like an end, and is one */
	AUTO_FD sock = dial(&b);
	send_raw(sock, huge, 0, NULL, 0);
	get_end(sock);
	hear_nothing(&b, 50);
	bed_stop(&b);
}

static int sealed(unsigned flags, uint64_t size, bool filled, int seals)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);

	if (fd < 0)
		return -1;
	if (ftruncate(fd, (off_t)size) < 0 || (filled && fallocate(fd, 0, 0, (off_t)size) < 0) || fcntl(fd, F_ADD_SEALS, seals) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

enum { N_WRONG = 14, ALL_SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL };

/* Return: a descriptor that is no region; -1: this machine has none of that kind. */
static int wrong_memory(int which, uint32_t *cap_log2)
{
	uint64_t size = shm_region_size(CAP_LOG2);
	int fds[2] = { -1, -1 };

	*cap_log2 = CAP_LOG2;
	switch (which) {
	case 0:
		assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
		close(fds[1]);
		return fds[0];
	case 1:
		return open("/dev/zero", O_RDWR | O_CLOEXEC);
	case 2:
		return open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	case 3:
		return open("/", O_PATH | O_CLOEXEC);
	case 4:
		return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	case 5:
		return sealed(0, size, true, 0);
	case 6:
		return sealed(0, size, true, ALL_SEALS & ~F_SEAL_SEAL);
	case 7:
		return sealed(0, size, true, ALL_SEALS & ~F_SEAL_FUTURE_WRITE);
	case 8:
		return sealed(0, size, true, ALL_SEALS & ~F_SEAL_SHRINK);
	case 9:
		return sealed(0, size - 4096, true, ALL_SEALS);
	case 10:
		return sealed(0, size, false, ALL_SEALS);
	case 11:
		return sealed(MFD_HUGETLB, 2 << 20, false, ALL_SEALS);
	case 12:
		*cap_log2 = 63;
		return sealed(0, size, true, ALL_SEALS);
	default:
		*cap_log2 = UINT32_MAX;
		return sealed(0, size, true, ALL_SEALS);
	}
}

static void test_wrong_memory(void **state)
{
	struct bed b = bed_start();
	struct lane l;

	for (int i = 0; i < N_WRONG; i++) {
		struct control_msg m = connect_msg();
		AUTO_FD fd = wrong_memory(i, &m.u.ask.cap_log2);
		AUTO_FD sock = dial(&b);

		if (fd < 0)
			continue;
		assert_int_equal(control_send(sock, &m, &fd), 0);
		get_error(sock, -EPROTO);
		/* and the same from the server's side */
		l = lane_offered(&b);
		put_accept_with(l.leash, m.u.ask.cap_log2, fd);
		get_error(l.client, -ECONNREFUSED);
		get_end(l.leash);
		hear_closed(&b, l.id, LANE_END_SERVER);
		listener_goes(&b, &l);
	}
	bed_stop(&b);
}

static void test_server_answers_badly(void **state)
{
	struct bed b = bed_start();
	struct control_msg m = connect_msg();
	struct lane l = lane_offered(&b);

	/* a message that has no place there, with a good region */
	AUTO_FD fd = make_region(CAP_LOG2, &l.regions[1]);
	assert_int_equal(control_send(l.leash, &m, &fd), 0);
	get_error(l.client, -ECONNREFUSED);
	hear_closed(&b, l.id, LANE_END_SERVER);
	listener_goes(&b, &l);
	l = lane_offered(&b);
	send_raw(l.leash, "garbage", 7, NULL, 0);
	get_error(l.client, -ECONNREFUSED);
	hear_closed(&b, l.id, LANE_END_SERVER);
	listener_goes(&b, &l);
	/* an errno of its own invention */
	l = lane_offered(&b);
	m = (struct control_msg){ .type = CTL_REJECT, .version = CONTROL_VERSION, .u.error.error = 1 };
	assert_int_equal(control_send(l.leash, &m, NULL), 0);
	get_error(l.client, -ECONNREFUSED);
	hear_closed(&b, l.id, LANE_END_SERVER);
	listener_goes(&b, &l);
	bed_stop(&b);
}

/* Talking where nothing may be said, with descriptors, which must not pile up. */
static void test_talks(void **state)
{
	struct bed b = bed_start();
	struct lane l = lane_init(&b);
	int fds[8];

	client_asks(&b, &l);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = l.client;
	send_raw(l.client, "more", 4, fds, 8);
	get_error(l.client, -EPROTO);
	assert_int_equal(hear(&b, PB_GONE).u.id.id, l.cid);
	lane_close(&l);

	l = lane_offered(&b);
	send_raw(l.client, "more", 4, fds, 0);
	get_error(l.client, -EPROTO);
	get_end(l.leash);
	hear_closed(&b, l.id, LANE_END_CLIENT);
	listener_goes(&b, &l);

	l = lane_open(&b);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = l.client;
	send_raw(l.client, "more", 4, fds, 8);
	get_end(l.leash);
	get_end(l.client);
	hear_closed(&b, l.id, LANE_END_CLIENT);
	listener_goes(&b, &l);

	l = lane_open(&b);
	send_raw(l.leash, "more", 4, &l.leash, 1);
	get_end(l.client);
	hear_closed(&b, l.id, LANE_END_SERVER);
	send_raw(l.listener, "more", 4, &l.listener, 1);
	get_error(l.listener, -EPROTO);
	assert_int_equal(hear(&b, PB_GONE).u.id.id, l.listener_cid);
	lane_close(&l);
	bed_stop(&b);
}

/* Closing or shutting down, as the one or the other side, at each point of a lane's life. */
static void test_leaves(void **state)
{
	struct bed b = bed_start();
	struct lane l = lane_init(&b);

	close(dial(&b));
	client_asks(&b, &l);
	shutdown(l.client, SHUT_WR);
	assert_int_equal(hear(&b, PB_GONE).u.id.id, l.cid);
	tell_offer(&b, &l); /* which crossed it */
	hear_closed(&b, l.id, LANE_END_CLIENT);
	tell(&b, &(struct role_msg){ .type = BP_LISTENING, .u.id.id = l.cid }, -1);
	lane_close(&l);

	l = lane_offered(&b);
	close(take_fd(&l.client));
	get_end(l.leash);
	hear_closed(&b, l.id, LANE_END_CLIENT);
	listener_goes(&b, &l);

	l = lane_offered(&b);
	close(take_fd(&l.leash));
	get_error(l.client, -ECONNREFUSED);
	hear_closed(&b, l.id, LANE_END_SERVER);
	listener_goes(&b, &l);

	/* the listener goes after the offer: the lane does not need it */
	l = lane_offered(&b);
	close(take_fd(&l.listener));
	assert_int_equal(hear(&b, PB_GONE).u.id.id, l.listener_cid);
	server_accepts(&l);
	client_gets_lane(&l);
	hear_open(&b, &l);
	shutdown(l.leash, SHUT_WR);
	hear_closed(&b, l.id, LANE_END_EOF);
	get_end(l.client);
	lane_close(&l);

	bed_stop(&b);
}

static void test_crossing(void **state)
{
	struct bed b = bed_start();
	struct lane l = lane_init(&b), second;

	/* the offer comes after the listener went */
	server_listens(&b, &l);
	client_asks(&b, &l);
	close(take_fd(&l.listener));
	assert_int_equal(hear(&b, PB_GONE).u.id.id, l.listener_cid);
	tell_offer(&b, &l);
	get_error(l.client, -ECONNREFUSED);
	hear_closed(&b, l.id, LANE_END_SERVER);
	lane_close(&l);

	/* a client that reads no more, when the lane comes to it */
	l = lane_offered(&b);
	shutdown(l.client, SHUT_RD);
	server_accepts(&l);
	hear_open(&b, &l); /* first: see test_killed_at_open() */
	hear_closed(&b, l.id, LANE_END_CLIENT);
	listener_goes(&b, &l);

	/* a server that takes the first of two and goes */
	l = lane_offered(&b);
	second = lane_init(&b);
	second.listener_cid = l.listener_cid;
	client_asks(&b, &second);
	tell_offer(&b, &second);
	sync_with(&b);
	close(take_fd(&l.listener)); /* with the second offer in it, unread */
	hear(&b, PB_GONE);
	hear_closed(&b, second.id, LANE_END_SERVER);
	get_error(second.client, -ECONNREFUSED);
	lane_close(&second);
	close(take_fd(&l.client));
	hear_closed(&b, l.id, LANE_END_CLIENT);
	lane_close(&l);
	bed_stop(&b);
}

/* A porter that is killed at any moment leaves no lane that works and that nobody can cut. */
static void test_killed_at_open(void **state)
{
	struct bed b = bed_start();
	struct lane l = lane_offered(&b);
	struct pollfd client = { .fd = l.client, .events = POLLIN };

	server_accepts(&l);
	assert_int_equal(poll(&client, 1, 5000), 1); /* CTL_OPEN */
	kill(b.porter, SIGKILL);
	bed_wait(&b);
	hear_open(&b, &l);
	client_gets_lane(&l);
	get_nothing(l.client, 50); /* the kept leashes are the lane's, as of now */
	chan_close(&b.broker);
	lane_close(&l);
}

static uint64_t ms_since(uint64_t t0)
{
	return (clock_ns() - t0) / 1000000;
}

/* The porter closes it: received, refused unread, and with the connection in whose queue it lies. Nobody else waits for that. */
static void test_lingering(void **state)
{
	struct bed b = bed_start();
	struct control_msg m = connect_msg();
	struct lane l = lane_open(&b), c;
	int peers[4], traps[4];
	uint64_t t0;

	for (int i = 0; i < 4; i++)
		if ((traps[i] = lingering(&peers[i])) < 0)
			skip();
	AUTO_FD received = dial(&b);
	AUTO_FD unread = dial(&b);
	kill(b.porter, SIGSTOP); /* it finds all of them, the last reference to each */
	assert_int_equal(control_send(received, &m, &traps[0]), 0);
	send_raw(unread, "garbage", 7, NULL, 0);
	send_raw(unread, &m, control_msg_size(m.type), &traps[1], 1);
	send_raw(l.client, "more", 4, &traps[2], 1);
	send_raw(l.leash, "more", 4, &traps[3], 1);
	for (int i = 0; i < 4; i++)
		close(traps[i]);
	c = lane_init(&b);
	t0 = clock_ns();
	kill(b.porter, SIGCONT);
	assert_int_equal(hear(&b, PB_CLOSED).u.stats.lane_id, l.id);
	client_asks(&b, &c);
	close(take_fd(&c.client));
	assert_int_equal(hear(&b, PB_GONE).u.id.id, c.cid);
	assert_in_range(ms_since(t0), 0, WAIT_MS); /* one that waits takes a minute */
	for (int i = 0; i < 4; i++)
		close(peers[i]);
	lane_close(&c);
	listener_goes(&b, &l);
	bed_stop(&b);
}

/* What a listener does not read fills its own socket; then its clients are told at once. */
static void test_listener_does_not_read(void **state)
{
	struct bed b = bed_start();
	struct lane l = lane_init(&b), c;
	int n = 0;

	server_listens(&b, &l);
	for (bool full = false; !full; n++) {
		int fds[CONTROL_FDS];
		struct control_msg m;

		assert_true(n < 2000);
		c = lane_init(&b);
		c.listener_cid = l.listener_cid;
		client_asks(&b, &c);
		tell_offer(&b, &c);
		tell_cut(&b, c.id); /* the broker's patience is shorter than ours */
		m = get(c.client, CTL_ERROR, fds);
		full = m.u.error.error == -EAGAIN;
		hear_closed(&b, c.id, full ? LANE_END_SERVER : LANE_END_CUT);
		lane_close(&c);
	}
	print_message("%d offers fit\n", n);
	listener_goes(&b, &l);
	bed_stop(&b);
}

/* Silence: of a client, and of a server that was offered lanes, some of which wait for their turn. */
static void test_silent(void **state)
{
	enum { N = 40 };
	struct bed b = bed_start();
	struct lane l = lane_init(&b), lanes[N];
	uint64_t t0 = clock_ns();
	AUTO_FD silent = dial(&b);

	server_listens(&b, &l);
	for (int i = 0; i < N; i++) {
		lanes[i] = lane_init(&b);
		lanes[i].listener_cid = l.listener_cid;
		client_asks(&b, &lanes[i]);
		tell_offer(&b, &lanes[i]);
	}
	get_error(silent, -ETIMEDOUT);
	assert_true(ms_since(t0) >= 4900);
	for (int i = 0; i < N; i++) {
		get_error(lanes[i].client, -ETIMEDOUT);
		hear_closed(&b, lanes[i].id, LANE_END_SERVER);
		lane_close(&lanes[i]);
	}
	assert_true(ms_since(t0) >= 9900);
	listener_goes(&b, &l);
	bed_stop(&b);
}

/* One workload connects as often as it can, silent or asking: another one does not notice, and the broker hears of few. */
static void test_flood(void **state)
{
	enum { N = 300, AT_ONCE = 32 };
	struct bed b = bed_start();
	struct control_msg m = connect_msg();
	struct region region;
	AUTO_FD fd = make_region(CAP_LOG2, &region);
	struct lane l = lane_init(&b);
	uint32_t cids[AT_ONCE];
	int flood[N];

	for (int i = 0; i < N; i++) {
		flood[i] = dial(&b);
		assert_int_equal(control_send(flood[i], &m, &fd), 0);
	}
	for (int i = 0; i < AT_ONCE; i++)
		cids[i] = hear(&b, PB_ASK).u.ask.accept.cid;
	hear_nothing(&b, 100);
	server_listens(&b, &l); /* by the other socket */
	for (int i = 0; i < N; i++) {
		struct role_msg no = { .type = BP_REFUSE, .u.refuse = { .cid = cids[i % AT_ONCE], .error = -EACCES, .why = "no" } };

		tell(&b, &no, -1);
		get_error(flood[i], -EACCES);
		close(flood[i]);
		if (i + AT_ONCE < N)
			cids[i % AT_ONCE] = hear(&b, PB_ASK).u.ask.accept.cid;
	}
	region_unmap(&region);
	listener_goes(&b, &l);
	bed_stop(&b);
}

/* ------------------------------------------------------------------ what runs out, what ends */

static void test_few_descriptors(void **state)
{
	enum { N = 60, AT_ONCE = 20, FDS = 64 + 2 + 5 * AT_ONCE };
	struct control_msg m = connect_msg();
	struct region region;
	AUTO_FD fd = make_region(CAP_LOG2, &region);
	int socks[N], n = 0;
	struct bed b;

	g_child_nofile = FDS;
	b = bed_start();
	g_child_nofile = 0;
	for (int i = 0; i < N; i++) {
		socks[i] = dial_at(i % 2 ? &b.other : &b.addr);
		assert_int_equal(control_send(socks[i], &m, &fd), 0);
	}
	while (n < N) {
		uint32_t cids[N];
		int k = 0;

		/* as many as there is room for, and no more */
		for (struct pollfd p = { .fd = b.broker.fd, .events = POLLIN }; poll(&p, 1, k ? 100 : WAIT_MS) > 0; k++)
			cids[k] = hear(&b, PB_ASK).u.ask.accept.cid;
		assert_true(k > 0 && k <= AT_ONCE);
		assert_true(count_fds(b.porter) < FDS);
		for (n += k; k > 0; k--)
			tell(&b, &(struct role_msg){ .type = BP_REFUSE, .u.refuse = { .cid = cids[k - 1], .error = -EACCES, .why = "no" } }, -1);
	}
	for (int i = 0; i < N; i++) {
		get_error(socks[i], -EACCES);
		close(socks[i]);
	}
	region_unmap(&region);
	bed_stop(&b);
}

static void test_unlisten(void **state)
{
	struct bed b = bed_start();
	struct lane l = lane_open(&b);
	AUTO_FD asked = dial(&b);
	struct address old = b.addr;

	put_listen(asked);
	uint32_t cid = hear(&b, PB_ASK).u.ask.accept.cid;
	tell(&b, &(struct role_msg){ .type = BP_UNLISTEN, .u.id.id = LID }, -1);
	tell(&b, &(struct role_msg){ .type = BP_UNLISTEN, .u.id.id = 99 }, -1);
	sync_with(&b);
	int late = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(late, (struct sockaddr *)&old.sun, old.size), -1);
	close(late);
	/* what came by it goes on */
	tell_listen(&b, LID, &b.addr);
	tell(&b, &(struct role_msg){ .type = BP_LISTENING, .u.id.id = cid }, -1);
	int fds[CONTROL_FDS];
	get(asked, CTL_LISTENING, fds);
	tell_listen(&b, LID, &b.addr); /* told anew */
	close(take_fd(&asked));
	hear(&b, PB_GONE);
	close(take_fd(&l.client));
	hear_closed(&b, l.id, LANE_END_EOF);
	l.client = dial(&b);
	close(take_fd(&l.client));
	listener_goes(&b, &l);
	bed_stop(&b);
}

/* ------------------------------------------------------------------ with a linker at one end */

static void tell_lend(struct bed *b, const struct lane *l, enum lend end, uint32_t cid, uint32_t kind)
{
	struct role_msg m = { .type = BP_LEND, .u.lend = { .lane_id = l->id, .end = end, .cid = cid, .kind = kind, .path = "link" } };

	strcpy(m.u.lend.client.service, "default/web");
	strcpy(m.u.lend.client.workload, end == LEND_SERVER ? "web" : "");
	strcpy(m.u.lend.server.service, "default/redis");
	strcpy(m.u.lend.server.spiffe_id, "spiffe://td/ns/default/svc/redis");
	strcpy(m.u.lend.server.host, end == LEND_SERVER ? "b" : "a");
	tell(b, &m, -1);
}

static int hear_lent(struct bed *b, const struct lane *l)
{
	int fd = -1;

	assert_int_equal(hear_fd(b, PB_LENT, &fd).u.lane_ref.lane_id, l->id);
	assert_true(fd >= 0);
	return fd;
}

/* A client that was allowed, and the linker's end for it: its offer lies in there. */
static struct lane lane_lent(struct bed *b, int *ret_lent)
{
	struct lane l = lane_init(b);

	client_asks(b, &l);
	tell_lend(b, &l, LEND_SERVER, l.cid, CONTROL_MESSAGES);
	*ret_lent = hear_lent(b, &l);
	return l;
}

static void linker_gets_offer(struct lane *l, int lent)
{
	int fds[CONTROL_FDS];
	struct control_msg m = get(lent, CTL_OFFER, fds);

	assert_int_equal(m.u.lane.lane_id, l->id);
	assert_int_equal(m.u.lane.cap_log2, CAP_LOG2);
	assert_int_equal(m.u.lane.kind, CONTROL_MESSAGES);
	assert_string_equal(m.u.lane.peer.service, "default/web");
	assert_string_equal(m.u.lane.path, "link");
	close(fds[0]);
	l->bells[1] = fds[1];
	l->leash = fds[2];
}

static struct control_lane client_gets_link(struct lane *l)
{
	int fds[CONTROL_FDS];
	struct control_msg m = get(l->client, CTL_OPEN, fds);

	assert_string_equal(m.u.lane.path, "link");
	close(fds[0]);
	l->bells[0] = fds[1];
	return m.u.lane;
}

static void test_lent_server(void **state)
{
	struct bed b = bed_start();
	int lent;
	struct lane l = lane_lent(&b, &lent), other;
	char byte = 'x';

	hear_nothing(&b, 50);
	/* Another host's now; said once more of a lane that is none (any more), nobody minds. */
	struct role_msg m = { .type = BP_LEND, .u.lend = { .lane_id = l.id, .end = LEND_SERVER, .cid = ROLE_NO_ID } };
	strcpy(m.u.lend.server.service, "default/redis");
	strcpy(m.u.lend.server.host, "c");
	tell(&b, &m, -1);
	m.u.lend.lane_id = 4711;
	tell(&b, &m, -1);
	linker_gets_offer(&l, lent);
	server_accepts(&l);
	assert_string_equal(client_gets_link(&l).peer.host, "c");
	assert_int_equal(hear(&b, PB_OPEN).u.lane_ref.lane_id, l.id);
	hear_nothing(&b, 50); /* nothing is kept of it */
	assert_int_equal(send(l.bells[0], &byte, 1, 0), 1);
	assert_int_equal(recv(l.bells[1], &byte, 1, 0), 1);
	sync_with(&b); /* the linker counts, not we */
	m.u.lend.lane_id = l.id;
	tell(&b, &m, -1); /* too late, and no harm */
	close(take_fd(&l.client));
	hear_closed(&b, l.id, LANE_END_EOF);
	get_end(l.leash);
	get_end(lent);
	lane_close(&l);
	close(lent);
	/* The linker gives it up. */
	other = lane_lent(&b, &lent);
	linker_gets_offer(&other, lent);
	server_accepts(&other);
	client_gets_link(&other);
	hear(&b, PB_OPEN);
	close(take_fd(&other.leash));
	hear_closed(&b, other.id, LANE_END_EOF);
	get_end(other.client);
	lane_close(&other);
	close(lent);
	bed_stop(&b);
}

/* Ends before it was open: the client's, the linker's, and the broker's with its reason. */
static void test_lent_server_ends(void **state)
{
	struct bed b = bed_start();
	struct role_msg cut = { .type = BP_CUT, .u.refuse = { .error = -EACCES, .why = "host b: denied" } };
	struct pollfd p = { .events = 0 };
	int lent;
	struct lane l = lane_lent(&b, &lent);

	close(take_fd(&l.client));
	hear_closed(&b, l.id, LANE_END_CLIENT);
	p.fd = lent;
	assert_int_equal(poll(&p, 1, WAIT_MS), 1); /* although its offer was not read */
	assert_true(p.revents & POLLHUP);
	lane_close(&l);
	close(lent);
	l = lane_lent(&b, &lent);
	close(lent); /* and with it the leash that nobody took */
	get_error(l.client, -EHOSTUNREACH);
	hear_closed(&b, l.id, LANE_END_SERVER);
	lane_close(&l);
	l = lane_lent(&b, &lent);
	cut.u.refuse.lane_id = l.id;
	tell(&b, &cut, -1);
	get_error(l.client, -EACCES);
	hear_closed(&b, l.id, LANE_END_CUT);
	lane_close(&l);
	close(lent);
	/* Open: the library is told why. */
	l = lane_lent(&b, &lent);
	linker_gets_offer(&l, lent);
	server_accepts(&l);
	client_gets_link(&l);
	hear(&b, PB_OPEN);
	tell_cut(&b, l.id);
	get_cut(l.client);
	get_cut(l.leash);
	hear_closed(&b, l.id, LANE_END_CUT);
	lane_close(&l);
	close(lent);
	/* A client that is none any more. */
	l = lane_init(&b);
	tell_lend(&b, &l, LEND_SERVER, 4711, CONTROL_MESSAGES);
	hear_closed(&b, l.id, LANE_END_CLIENT);
	bed_stop(&b);
}

static int lend_client(struct bed *b, const struct lane *l)
{
	tell_lend(b, l, LEND_CLIENT, l->listener_cid, CONTROL_MESSAGES);
	return hear_lent(b, l);
}

static void linker_connects(struct lane *l, int lent)
{
	struct control_msg m = connect_msg();
	AUTO_FD fd = make_region(CAP_LOG2, &l->regions[0]);

	m.u.ask.service[0] = m.u.ask.as[0] = '\0';
	assert_int_equal(control_send(lent, &m, &fd), 0);
}

static void server_gets_link(struct lane *l)
{
	int fds[CONTROL_FDS];
	struct control_msg m = get(l->listener, CTL_OFFER, fds);

	assert_int_equal(m.u.lane.lane_id, l->id);
	assert_int_equal(m.u.lane.flags, CONTROL_SPINS);
	assert_string_equal(m.u.lane.peer.service, "default/web");
	assert_string_equal(m.u.lane.path, "link");
	close(fds[0]);
	l->bells[1] = fds[1];
	l->leash = fds[2];
}

static void test_lent_client(void **state)
{
	struct bed b = bed_start();
	struct lane l = lane_init(&b);
	int fds[CONTROL_FDS];

	server_listens(&b, &l);
	for (int round = 0; round < 4; round++) {
		l.client = lend_client(&b, &l);
		linker_connects(&l, l.client);
		server_gets_link(&l);
		if (round == 3) {
			struct control_msg no = { .type = CTL_REJECT, .version = CONTROL_VERSION, .u.error.error = -ENOMEM };

			assert_int_equal(control_send(l.leash, &no, NULL), 0);
			get_error(l.client, -ENOMEM);
			hear_closed(&b, l.id, LANE_END_SERVER);
			break;
		}
		server_accepts(&l);
		struct control_msg m = get(l.client, CTL_OPEN, fds);
		assert_string_equal(m.u.lane.peer.spiffe_id, "spiffe://td/ns/default/svc/redis");
		close(fds[0]);
		l.bells[0] = fds[1];
		assert_int_equal(hear(&b, PB_OPEN).u.lane_ref.lane_id, l.id);
		if (round == 0) {
			close(take_fd(&l.client));
			get_end(l.leash);
		} else if (round == 1) {
			close(take_fd(&l.leash));
			get_end(l.client);
		} else {
			tell_cut(&b, l.id);
			get_cut(l.leash);
			get_cut(l.client);
		}
		hear_closed(&b, l.id, round == 2 ? LANE_END_CUT : LANE_END_EOF);
		fd_cleanup(&l.client);
		fd_cleanup(&l.leash);
		fd_cleanup(&l.bells[0]);
		fd_cleanup(&l.bells[1]);
		region_unmap(&l.regions[0]);
		region_unmap(&l.regions[1]);
		l.client = l.leash = l.bells[0] = l.bells[1] = -1;
		l.id = b.next_lane++;
	}
	listener_goes(&b, &l);
	bed_stop(&b);
}

/* Return: what a linker said with nothing good in it was refused, and the broker told. */
static void expect_linker_refused(struct bed *b, struct lane *l, const struct control_msg *m, const int *fd)
{
	AUTO_FD lent = -1;

	l->id = b->next_lane++;
	lent = lend_client(b, l);
	if (m)
		assert_int_equal(control_send(lent, m, fd), 0);
	else
		send_raw(lent, "garbage", 7, NULL, 0);
	get_error(lent, -EPROTO);
	hear_closed(b, l->id, LANE_END_CLIENT);
}

static void test_hostile_linker(void **state)
{
	struct bed b = bed_start();
	struct lane l = lane_init(&b);
	struct control_msg m = connect_msg();

	server_listens(&b, &l);
	AUTO_FD good = make_region(CAP_LOG2, &l.regions[0]);
	expect_linker_refused(&b, &l, NULL, NULL);
	m.u.ask.kind = CONTROL_STREAM; /* it was lent for messages */
	expect_linker_refused(&b, &l, &m, &good);
	m = (struct control_msg){ .type = CTL_LISTEN, .version = CONTROL_VERSION };
	expect_linker_refused(&b, &l, &m, NULL);
	for (int i = 0; i < N_WRONG; i++) {
		m = connect_msg();
		AUTO_FD wrong = wrong_memory(i, &m.u.ask.cap_log2);
		if (wrong >= 0)
			expect_linker_refused(&b, &l, &m, &wrong);
	}
	/* It leaves without a word; it goes on talking. */
	l.id = b.next_lane++;
	close(lend_client(&b, &l));
	hear_closed(&b, l.id, LANE_END_CLIENT);
	l.id = b.next_lane++;
	l.client = lend_client(&b, &l);
	region_unmap(&l.regions[0]);
	linker_connects(&l, l.client);
	server_gets_link(&l);
	send_raw(l.client, "more", 4, NULL, 0);
	get_error(l.client, -EPROTO);
	hear_closed(&b, l.id, LANE_END_CLIENT);
	get_end(l.leash);
	listener_goes(&b, &l);
	/* And a listener that has just gone. */
	l = lane_init(&b);
	tell_lend(&b, &l, LEND_CLIENT, 4711, CONTROL_MESSAGES);
	hear_closed(&b, l.id, LANE_END_SERVER);
	bed_stop(&b);
}

/* As the server: an answer that is none, what it may say on an open lane's leash, and what it may not. */
static void test_hostile_linker_serves(void **state)
{
	struct control_msg far = { .type = CTL_CUT, .version = CONTROL_VERSION, .u.error = { .error = -ECANCELED, .why = "\033[2J" } };
	struct bed b = bed_start();
	int fd, fds[CONTROL_FDS];
	struct lane lent;

	lent = lane_lent(&b, &fd);
	linker_gets_offer(&lent, fd);
	send_raw(lent.leash, "garbage", 7, NULL, 0);
	get_error(lent.client, -ECONNREFUSED);
	hear_closed(&b, lent.id, LANE_END_SERVER);
	lane_close(&lent);
	close(fd);
	lent = lane_lent(&b, &fd);
	linker_gets_offer(&lent, fd);
	server_accepts(&lent);
	client_gets_link(&lent);
	hear(&b, PB_OPEN);
	assert_int_equal(control_send(lent.leash, &far, NULL), 0); /* the far host cut it: in our own words */
	far = get(lent.client, CTL_CUT, fds);
	assert_int_equal(far.u.error.error, -ECANCELED);
	assert_non_null(strstr(far.u.error.why, "the other host has cut"));
	hear_closed(&b, lent.id, LANE_END_CUT);
	get_end(lent.client);
	lane_close(&lent);
	close(fd);
	lent = lane_lent(&b, &fd);
	linker_gets_offer(&lent, fd);
	server_accepts(&lent);
	client_gets_link(&lent);
	hear(&b, PB_OPEN);
	far.u.error = (struct control_error){ .error = 12345 };
	assert_int_equal(control_send(lent.leash, &far, NULL), 0);
	far = get(lent.client, CTL_CUT, fds);
	assert_int_equal(far.u.error.error, -ECONNABORTED);
	hear_closed(&b, lent.id, LANE_END_CUT);
	get_end(lent.client);
	lane_close(&lent);
	close(fd);
	lent = lane_lent(&b, &fd);
	linker_gets_offer(&lent, fd);
	server_accepts(&lent);
	client_gets_link(&lent);
	hear(&b, PB_OPEN);
	send_raw(fd, "nobody reads this", 17, NULL, 0);
	send_raw(lent.leash, "garbage", 7, NULL, 0);
	hear_closed(&b, lent.id, LANE_END_SERVER);
	get_end(lent.client);
	lane_close(&lent);
	close(fd);
	bed_stop(&b);
}

/* What was lent and waits goes with its listener. */
static void test_lent_to_one_that_goes(void **state)
{
	struct bed b = bed_start();
	struct lane l = lane_init(&b);

	server_listens(&b, &l);
	l.client = lend_client(&b, &l);
	close(take_fd(&l.listener));
	assert_int_equal(hear(&b, PB_GONE).u.id.id, l.listener_cid);
	linker_connects(&l, l.client);
	get_error(l.client, -ECONNREFUSED);
	hear_closed(&b, l.id, LANE_END_SERVER);
	lane_close(&l);
	bed_stop(&b);
}

/* ------------------------------------------------------------------ a broker that is none of ours */

static void expect_exit(struct bed *b, int status)
{
	int got = bed_wait(b);

	assert_true(WIFEXITED(got));
	assert_int_equal(WEXITSTATUS(got), status);
	chan_close(&b->broker);
}

static void test_broken_broker(void **state)
{
	struct bed b = bed_start();
	struct lane l = lane_open(&b);

	assert_int_equal(send(b.broker.fd, "x", 1, 0), 1);
	expect_exit(&b, 1);
	get_nothing(l.client, 50); /* the lane goes on: its leashes are kept */
	lane_close(&l);

	b = bed_start();
	tell(&b, &(struct role_msg){ .type = BG_STATS }, -1);
	expect_exit(&b, 1);

	b = bed_start();
	l = lane_open(&b);
	tell_offer(&b, &l); /* an id that is in use */
	expect_exit(&b, 1);
	lane_close(&l);

	for (int i = 0; i < 3; i++) { /* a lane without a number, of a kind that stays on one host, of a number that is in use */
		b = bed_start();
		l = lane_open(&b);
		l.id = i == 0 ? 0 : i == 1 ? 4711 : l.id;
		tell_lend(&b, &l, LEND_CLIENT, l.listener_cid, i == 1 ? CONTROL_FANOUT : CONTROL_MESSAGES);
		expect_exit(&b, 1);
		lane_close(&l);
	}

	b = bed_start();
	l = lane_open(&b);
	chan_close(&b.broker);
	assert_int_equal(WEXITSTATUS(bed_wait(&b)), 0);
	get_nothing(l.leash, 50);
	lane_close(&l);
}

/* ------------------------------------------------------------------ all of it at once, at random */

enum { ACTORS = 48, STEPS = 8000 };

struct chaos {
	struct bed *b;
	uint32_t rnd;
	int socks[ACTORS], leashes[ACTORS];
	uint32_t asked[ACTORS], listeners[ACTORS];
	size_t n_asked, n_listeners;
	uint64_t n_offered, n_closed, lanes[ACTORS];
	int region_fd;
	unsigned n_open;
};

static uint32_t roll(struct chaos *c, uint32_t n)
{
	c->rnd = c->rnd * 1664525u + 1013904223u;
	return (c->rnd >> 8) % n;
}

static void chaos_hear(struct chaos *c)
{
	for (;;) {
		struct role_msg m;
		AUTO_FD fd = -1;
		int r = role_recv(&c->b->broker, &m, &fd);

		if (r == -EAGAIN)
			return;
		assert_int_equal(r, 1);
		if (m.type == PB_ASK && c->n_asked < ACTORS)
			c->asked[c->n_asked++] = m.u.ask.accept.cid;
		else if (m.type == PB_CLOSED)
			c->n_closed++;
		else if (m.type == PB_OPEN)
			c->n_open++;
		else if (m.type == PB_ASK)
			tell(c->b, &(struct role_msg){ .type = BP_REFUSE, .u.refuse = { .cid = m.u.ask.accept.cid, .error = -EACCES } }, -1);
		if (m.type == PB_ASK && m.u.ask.listens) {
			/* it is answered at once: an offer for a listener that asks is a broker's fault */
			if (c->n_asked && c->asked[c->n_asked - 1] == m.u.ask.accept.cid)
				c->n_asked--;
			tell(c->b, &(struct role_msg){ .type = BP_LISTENING, .u.id.id = m.u.ask.accept.cid }, -1);
			c->listeners[c->n_listeners++ % ACTORS] = m.u.ask.accept.cid;
		}
	}
}

static void chaos_decide(struct chaos *c)
{
	struct lane l;
	size_t i;

	if (!c->n_asked)
		return;
	i = roll(c, (uint32_t)c->n_asked);
	l = lane_init(c->b);
	l.cid = c->asked[i];
	c->asked[i] = c->asked[--c->n_asked];
	if (roll(c, 8) == 0) {
		tell(c->b, &(struct role_msg){ .type = BP_REFUSE, .u.refuse = { .cid = l.cid, .error = -EACCES, .why = "no" } }, -1);
		return;
	}
	/* mostly one of the last, which may still be there */
	l.listener_cid = c->n_listeners ? c->listeners[(c->n_listeners - 1 - roll(c, roll(c, 4) ? 3 : ACTORS)) % ACTORS] : 12345;
	tell_offer(c->b, &l);
	c->n_offered++;
	c->lanes[roll(c, ACTORS)] = l.id;
}

static void chaos_take_offer(struct chaos *c, int sock)
{
	struct control_msg m;
	int fds[CONTROL_FDS];

	if (sock < 0 || control_recv(sock, &m, fds) != 1)
		return;
	if (m.type == CTL_OFFER) {
		int *slot = &c->leashes[roll(c, ACTORS)];

		fd_cleanup(slot);
		*slot = take_fd(&fds[2]);
		m = (struct control_msg){ .type = CTL_ACCEPT, .version = CONTROL_VERSION, .u.lane.cap_log2 = CAP_LOG2 };
		if (roll(c, 4) && control_send(*slot, &m, &c->region_fd) < 0 && roll(c, 2))
			close(take_fd(slot)); /* it was cut meanwhile */
	}
	for (size_t i = 0; i < CONTROL_FDS; i++)
		fd_cleanup(&fds[i]);
}

static void chaos_say(struct chaos *c, int sock)
{
	struct control_msg m = connect_msg();

	if (sock < 0)
		return;
	switch (roll(c, 8)) {
	case 0:
		(void)!send(sock, "?", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
		break;
	case 1:
	case 2:
	case 3:
		m.type = CTL_LISTEN;
		(void)!control_send(sock, &m, NULL);
		break;
	default:
		(void)!control_send(sock, &m, &c->region_fd);
	}
}

static void chaos_step(struct chaos *c)
{
	uint32_t i = roll(c, ACTORS);

	switch (roll(c, 12)) {
	case 0:
	case 1:
		if (c->socks[i] < 0) {
			c->socks[i] = dial_at(roll(c, 2) ? &c->b->addr : &c->b->other);
			chaos_say(c, c->socks[i]);
		}
		break;
	case 2:
		if (roll(c, 3) == 0)
			chaos_say(c, c->socks[i]);
		break;
	case 3:
		if (roll(c, 2) == 0 && c->socks[i] >= 0)
			close(take_fd(&c->socks[i]));
		break;
	case 4:
		if (roll(c, 6) == 0 && c->leashes[i] >= 0)
			close(take_fd(&c->leashes[i]));
		break;
	case 5:
		if (roll(c, 10) == 0)
			shutdown(roll(c, 2) ? c->socks[i] : c->leashes[i], (int)roll(c, 3));
		break;
	case 6:
		if (c->lanes[i] && roll(c, 4) == 0)
			tell_cut(c->b, c->lanes[i]);
		break;
	case 7:
	case 8:
		chaos_decide(c);
		break;
	default:
		for (i = 0; i < ACTORS; i++)
			chaos_take_offer(c, c->socks[i]);
	}
	chaos_hear(c);
}

/* Every offer has its end, and nothing stays behind. */
static void test_chaos(void **state)
{
	struct bed b = bed_start();
	struct region region;
	struct chaos c = { .b = &b, .rnd = 20260101 };

	c.region_fd = make_region(CAP_LOG2, &region);
	for (int i = 0; i < ACTORS; i++)
		c.socks[i] = c.leashes[i] = -1;
	for (int i = 0; i < STEPS; i++) {
		chaos_step(&c);
		if (i % 4 == 0)
			poll(NULL, 0, 1); /* it must keep up, or the backlogs fill */
	}
	for (int i = 0; i < ACTORS; i++) {
		fd_cleanup(&c.socks[i]);
		fd_cleanup(&c.leashes[i]);
	}
	for (int i = 0; i < WAIT_MS / 10 && c.n_closed < c.n_offered; i++) {
		poll(NULL, 0, 10);
		chaos_hear(&c);
	}
	print_message("%u of %u lanes opened\n", c.n_open, (unsigned)c.n_offered);
	assert_true(c.n_open > 20);
	assert_int_equal(c.n_closed, c.n_offered);
	poll(NULL, 0, 100);
	chaos_hear(&c);
	close(c.region_fd);
	region_unmap(&region);
	bed_stop(&b);
}

/* ------------------------------------------------------------------ the process */

static int run_filtered(void (*fn)(void))
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		struct rlimit none = {};

		setrlimit(RLIMIT_CORE, &none);
		if (porter_isolate() < 0)
			_exit(99);
		fn();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void try_socket(void)
{
	(void)!socket(AF_UNIX, SOCK_STREAM, 0);
}

static void try_connect(void)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX, .sun_path = "/run/dbus" };

	(void)!connect(0, (struct sockaddr *)&sun, sizeof(sun));
}

static void try_unlink(void)
{
	unlinkat(AT_FDCWD, "/nothing", 0);
}

static void try_execve(void)
{
	char *argv[] = { NULL };

	execve("/nothing", argv, argv);
}

static void try_other_ioctl(void)
{
	int n;

	ioctl(0, 0x541B /* FIONREAD */, &n);
}

static void test_filter(void **state)
{
	void (*const tries[])(void) = { try_socket, try_connect, try_unlink, try_execve, try_other_ioctl };

	for (size_t i = 0; i < ARRAY_SIZE(tries); i++) {
		int status = run_filtered(tries[i]);

		assert_true(WIFSIGNALED(status));
		assert_int_equal(WTERMSIG(status), SIGSYS);
	}
}

static void *porter_thread(void *arg)
{
	return porter_run(*(int *)arg) == 0 ? arg : NULL;
}

/* In this process, so that a leak checker sees what is left when the broker goes away in the middle of everything. */
static void test_nothing_is_left(void **state)
{
	struct bed b = { .next_lane = 1 };
	struct lane open, offered, asks;
	pthread_t thread;
	int fds[2], silent;
	void *ret;
	size_t n_fds = count_fds(getpid());
	sigset_t ticks;

	assert_int_equal(chan_pair(fds), 0);
	assert_int_equal(pthread_create(&thread, NULL, porter_thread, &fds[1]), 0);
	sigemptyset(&ticks);
	sigaddset(&ticks, SIGALRM);
	assert_int_equal(pthread_sigmask(SIG_BLOCK, &ticks, NULL), 0); /* they are for the other thread */
	chan_init(&b.broker, fds[0]);
	tell_listen(&b, LID, &b.addr);
	tell_listen(&b, OTHER_LID, &b.other);
	open = lane_open(&b);
	offered = lane_offered(&b);
	asks = lane_init(&b);
	client_asks(&b, &asks);
	silent = dial(&b);
	sync_with(&b);
	chan_close(&b.broker);
	assert_int_equal(pthread_join(thread, &ret), 0);
	assert_ptr_equal(ret, &fds[1]);
	get_end(silent);
	get_end(offered.client);
	get_nothing(open.client, 0); /* kept */
	close(silent);
	lane_close(&open);
	lane_close(&offered);
	lane_close(&asks);
	assert_int_equal(count_fds(getpid()), n_fds);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lane),	     cmocka_unit_test(test_server_gives_up), cmocka_unit_test(test_cut),
		cmocka_unit_test(test_refused),	     cmocka_unit_test(test_server_rejects),  cmocka_unit_test(test_many_to_one),
		cmocka_unit_test(test_adopt),	     cmocka_unit_test(test_garbage),	     cmocka_unit_test(test_wrong_memory),
		cmocka_unit_test(test_server_answers_badly), cmocka_unit_test(test_talks), cmocka_unit_test(test_leaves),
		cmocka_unit_test(test_crossing),	     cmocka_unit_test(test_killed_at_open),  cmocka_unit_test(test_lingering),
		cmocka_unit_test(test_listener_does_not_read), cmocka_unit_test(test_silent), cmocka_unit_test(test_flood),
		cmocka_unit_test(test_few_descriptors), cmocka_unit_test(test_unlisten), cmocka_unit_test(test_broken_broker),
		cmocka_unit_test(test_lent_server),  cmocka_unit_test(test_lent_server_ends), cmocka_unit_test(test_lent_client),
		cmocka_unit_test(test_hostile_linker), cmocka_unit_test(test_hostile_linker_serves), cmocka_unit_test(test_lent_to_one_that_goes),
		cmocka_unit_test(test_chaos),	     cmocka_unit_test(test_filter),	     cmocka_unit_test(test_nothing_is_left),
	};

	log_init("test", LOG_LEVEL_ERROR);
	signal(SIGPIPE, SIG_IGN);
	cmocka_set_test_filter(getenv("SEALANE_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
