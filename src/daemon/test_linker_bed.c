#include "daemon/test_linker_bed.h"

#include "base/foreign.h"
#include "base/log.h"
#include "core/revoked.h"
#include "daemon/linker.h"
#include "daemon/test_linker_fabric.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define MUST(x)                                                                                      \
	do {                                                                                         \
		if (!(x)) {                                                                          \
			fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #x, strerror(errno)); \
			abort();                                                                     \
		}                                                                                    \
	} while (0)

const char *bed_host(unsigned side)
{
	return side == BED_A ? "a" : "b";
}

/* The signers. */

static void sign_one(struct bed *b, struct bed_side *s)
{
	struct role_msg m, answer = { .type = SL_SIGNED };
	int fd = -1, n = -ENOKEY;

	if (role_recv(&s->signer, &m, &fd) != 1)
		return;
	MUST(m.type == LS_SIGN && fd < 0);
	if (m.u.sign.kid < BED_KIDS && s->keys[m.u.sign.kid])
		n = pki_sign(answer.u.signed_.signature, s->keys[m.u.sign.kid], m.u.sign.digest);
	answer.seq = m.seq;
	answer.u.signed_.error = n < 0 ? n : 0;
	answer.u.signed_.signature_size = n < 0 ? 0 : (uint32_t)n;
	s->n_signed++;
	if (s->signs)
		(void)!role_send(&s->signer, &answer, -1);
}

static void *signer_thread(void *arg)
{
	struct bed *b = arg;

	for (;;) {
		struct pollfd p[BED_N_SIDES];

		for (unsigned i = 0; i < BED_N_SIDES; i++)
			p[i] = (struct pollfd){ .fd = b->sides[i].signer.fd, .events = POLLIN };
		(void)!poll(p, BED_N_SIDES, 50);
		pthread_mutex_lock(&b->lock);
		bool stop = b->stop;
		for (unsigned i = 0; !stop && i < BED_N_SIDES; i++)
			if (p[i].revents)
				sign_one(b, &b->sides[i]);
		pthread_mutex_unlock(&b->lock);
		if (stop)
			return NULL;
	}
}

/* Certificates. */

/* As the authority makes it for @host. */
static X509 *certificate_for(struct bed *b, const char *host, EVP_PKEY *key, const char *spiffe_id, int64_t before_s, int64_t life_s)
{
	static uint32_t n;
	struct role_issue i = { .not_before = time(NULL) + before_s, .not_after = time(NULL) + life_s };
	uint8_t random[SERIAL_RANDOM_SIZE] = {};
	X509 *x = NULL;

	n++;
	memcpy(random + 4, &n, sizeof(n));
	serial_make(i.serial, random, host);
	snprintf(i.spiffe_id, sizeof(i.spiffe_id), "%s", spiffe_id);
	MUST(pki_point(i.public_key, key) == 0);
	MUST(pki_issue(&x, b->root_key, b->root, &i) == 0);
	return x;
}

X509 *bed_certificate(struct bed *b, EVP_PKEY *key, const char *spiffe_id, int64_t before_s, int64_t life_s)
{
	return certificate_for(b, b->issued_to ? b->issued_to : "somebody", key, spiffe_id, before_s, life_s);
}

static char *pem_of(X509 *x)
{
	STACK_OF(X509) *stack = sk_X509_new_null();
	char *pem = NULL;

	MUST(stack && sk_X509_push(stack, x) > 0 && pki_to_pem(&pem, stack) == 0);
	sk_X509_free(stack);
	return pem;
}

void bed_credential(struct bed *b, unsigned side, uint32_t kid, const char *service, int64_t life_s)
{
	struct role_msg m = { .type = BL_CREDENTIAL, .u.credential = { .kid = kid, .not_after = time(NULL) + life_s } };
	struct service_name name;
	EVP_PKEY *key = NULL;
	X509 *x;
	char *pem;

	MUST(pki_new_key(&key) == 0);
	if (service) {
		MUST(service_name_parse(&name, service, "default") == 0);
		spiffe_id_format(m.u.credential.spiffe_id, BED_DOMAIN, &name);
	} else {
		pki_host_id(m.u.credential.spiffe_id, BED_DOMAIN, bed_host(side));
	}
	x = certificate_for(b, bed_host(side), key, m.u.credential.spiffe_id, -300, life_s);
	pem = pem_of(x);
	pthread_mutex_lock(&b->lock);
	EVP_PKEY_free(b->sides[side].keys[kid]);
	b->sides[side].keys[kid] = key;
	pthread_mutex_unlock(&b->lock);
	bed_tell_text(b, side, &m, pem);
	free(pem);
	X509_free(x);
}

/* The brokers. */

void bed_tell(struct bed *b, unsigned side, const struct role_msg *m, int fd)
{
	struct chan *c = &b->sides[side].broker;

	MUST(role_send(c, m, fd) == 0);
	while (chan_wants_write(c)) {
		struct pollfd p = { .fd = c->fd, .events = POLLOUT };

		MUST(poll(&p, 1, BED_WAIT_MS) == 1);
		MUST(chan_flush(c) == 0);
	}
}

void bed_tell_text(struct bed *b, unsigned side, const struct role_msg *m, const char *text)
{
	int fd = memfd_create("bed", MFD_CLOEXEC);

	MUST(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	bed_tell(b, side, m, fd);
	close(fd);
}

static void answer_dial(struct bed *b, unsigned side, const struct role_msg *m)
{
	struct role_msg answer = { .type = BL_DIALED, .u.dialed.session = m->u.dial_ask.session };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	MUST(fd >= 0);
	(void)!connect(fd, (struct sockaddr *)&b->sides[side].dials, sizeof(b->sides[side].dials));
	bed_tell(b, side, &answer, fd);
	close(fd);
}

/* Return: false: nothing came in time. */
static bool receive_one(struct bed *b, int wait_ms)
{
	struct pollfd p[BED_N_SIDES];
	bool any = false;

	for (unsigned i = 0; i < BED_N_SIDES; i++)
		p[i] = (struct pollfd){ .fd = b->sides[i].broker.fd, .events = POLLIN };
	if (poll(p, BED_N_SIDES, wait_ms) <= 0)
		return false;
	for (unsigned i = 0; i < BED_N_SIDES; i++) {
		struct bed_side *s = &b->sides[i];
		struct bed_msg *n;

		if (!p[i].revents || s->killed)
			continue;
		n = calloc(1, sizeof(*n));
		MUST(n);
		n->fd = -1;
		if (role_recv(&s->broker, &n->m, &n->fd) != 1) {
			fprintf(stderr, "linker %s is gone\n", bed_host(i));
			abort();
		}
		any = true;
		if (n->m.type == LB_DIAL) {
			answer_dial(b, i, &n->m);
			free(n);
			continue;
		}
		*s->heard_tail = n;
		s->heard_tail = &n->next;
	}
	return any;
}

static struct bed_msg *take_heard(struct bed_side *s, uint32_t type)
{
	for (struct bed_msg **at = &s->heard; *at; at = &(*at)->next) {
		struct bed_msg *n = *at;

		if (n->m.type != type)
			continue;
		*at = n->next;
		if (!*at)
			s->heard_tail = at;
		return n;
	}
	return NULL;
}

struct role_msg bed_hear(struct bed *b, unsigned side, uint32_t type, int *ret_fd)
{
	struct bed_msg *n;
	struct role_msg m;

	while (!(n = take_heard(&b->sides[side], type)))
		if (!receive_one(b, BED_WAIT_MS)) {
			fprintf(stderr, "%s did not come from linker %s; there are:\n", role_msg_name(type), bed_host(side));
			for (unsigned i = 0; i < BED_N_SIDES; i++)
				for (n = b->sides[i].heard; n; n = n->next)
					fprintf(stderr, "  %s %s %s\n", bed_host(i), role_msg_name(n->m.type), n->m.type == LB_SESSION ? n->m.u.session.why : "");
			abort();
		}
	if (ret_fd)
		*ret_fd = n->fd;
	else if (n->fd >= 0)
		close(n->fd);
	m = n->m;
	free(n);
	return m;
}

bool bed_has_heard(struct bed *b, unsigned side, uint32_t type, int wait_ms)
{
	uint64_t until = clock_ns() + (uint64_t)wait_ms * 1000000;

	do {
		for (struct bed_msg *n = b->sides[side].heard; n; n = n->next)
			if (n->m.type == type)
				return true;
		(void)!receive_one(b, 10);
	} while (clock_ns() < until);
	return false;
}

struct role_session bed_hear_session(struct bed *b, unsigned side, enum session_state state)
{
	struct role_msg m;

	do
		m = bed_hear(b, side, LB_SESSION, NULL);
	while (m.u.session.state != state);
	return m.u.session;
}

/* Starting. */

static void linker_child(struct bed *b, unsigned side, int channel_fd)
{
	struct linker *k;
	cpu_set_t set;

	for (int fd = 3; fd < 1024; fd++)
		if (fd != channel_fd && fd != b->fabric[side])
			close(fd);
	if (b->pins[side] >= 0) {
		CPU_ZERO(&set);
		CPU_SET(b->pins[side], &set);
		sched_setaffinity(0, sizeof(set), &set);
	}
	log_init("linker", getenv("BED_VERBOSE") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
	tzset();
	if (linker_new(&k, channel_fd) < 0)
		_exit(98);
	if (b->kept_max)
		linker_set_kept_max(k, b->kept_max);
	if (b->handshake_ms)
		linker_set_handshake_ms(k, b->handshake_ms);
	if (b->joiners_max)
		linker_set_joiners_max(k, b->joiners_max);
	if (b->chunks_max)
		linker_set_waiting_max(k, b->chunks_max, b->answers_max);
	if (b->sessions_max)
		linker_set_sessions_max(k, b->sessions_max);
	if (b->rings_max)
		linker_set_rings_max(k, b->rings_max);
	if (b->fabric[side] >= 0 && (side == BED_B || b->rdma == BED_RDMA_BOTH) && linker_set_remote(k, fabric_open(b->fabric[side], &b->faults[side]), side == BED_B && b->rdma_at ? b->rdma_at : "127.0.0.1:7444") < 0)
		_exit(97);
	linker_set_rdma_mode(k, b->plain[side] ? RDMA_PLAIN : RDMA_AUTO);
	if (!getenv("BED_NO_FILTER") && linker_isolate() < 0)
		_exit(99);
	_exit(linker_run(k) == 0 ? 0 : 1);
}

static void side_fork(struct bed *b, unsigned side)
{
	struct bed_side *s = &b->sides[side];
	int fds[2];

	MUST(chan_pair(fds) == 0);
	s->pid = fork();
	MUST(s->pid >= 0);
	if (s->pid == 0)
		linker_child(b, side, fds[1]);
	close(fds[1]);
	chan_init(&s->broker, fds[0]);
	s->heard_tail = &s->heard;
	s->signs = true;
}

static int listen_loopback(struct sockaddr_in *ret)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t size = sizeof(*ret);

	*ret = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	MUST(fd >= 0 && bind(fd, (struct sockaddr *)ret, size) == 0 && listen(fd, 1024) == 0);
	MUST(getsockname(fd, (struct sockaddr *)ret, &size) == 0);
	return fd;
}

static void side_signer(struct bed *b, unsigned side)
{
	struct role_msg m = { .type = BL_SIGNER };
	int fds[2];

	MUST(chan_pair(fds) == 0);
	chan_init(&b->sides[side].signer, fds[0]);
	bed_tell(b, side, &m, fds[1]);
	close(fds[1]);
}

static void side_tell(struct bed *b, unsigned side)
{
	struct role_msg trust = { .type = BL_TRUST }, listens = { .type = BL_LISTEN }, revoked = { .type = BL_REVOKED };
	int fd = listen_loopback(&b->sides[side].address);

	side_signer(b, side);
	trust.u.trust = (struct role_trust){ .window = b->window, .idle_ms = b->idle_ms, .timeout_ms = b->timeout_ms, .authority = 1, .trust_domain = BED_DOMAIN };
	snprintf(trust.u.trust.host, sizeof(trust.u.trust.host), "%s", bed_host(side));
	bed_tell_text(b, side, &trust, b->root_pem);
	bed_tell_text(b, side, &revoked, "");
	bed_credential(b, side, BED_KID_HOST, NULL, 3600);
	bed_credential(b, side, BED_KID_WEB, BED_WEB, 3600);
	bed_credential(b, side, BED_KID_REDIS, BED_REDIS, 3600);
	bed_tell(b, side, &listens, fd);
	close(fd);
}

static void side_host(struct bed *b, unsigned side)
{
	struct role_msg m = { .type = BL_HOST, .u.host.hid = BED_HID };
	char address[INET_ADDRSTRLEN];

	b->sides[side].dials = b->sides[!side].address;
	snprintf(m.u.host.name, sizeof(m.u.host.name), "%s", bed_host(!side));
	inet_ntop(AF_INET, &b->sides[side].dials.sin_addr, address, sizeof(address));
	snprintf(m.u.host.address, sizeof(m.u.host.address), "%s:%u", address, ntohs(b->sides[side].dials.sin_port));
	snprintf(m.u.host.rdma, sizeof(m.u.host.rdma), "%s", side == BED_A && b->rdma_said ? b->rdma_said : "");
	bed_tell(b, side, &m, -1);
}

void bed_init(struct bed *b)
{
	*b = (struct bed){ .next_lane = 1000, .idle_ms = 60000, .timeout_ms = 15000, .handshake_ms = 60000, .window = BED_WINDOW, .pins = { -1, -1 }, .fabric = { -1, -1 } };
}

static void fabric_start(struct bed *b)
{
	size_t size = BED_N_SIDES * sizeof(*b->faults);

	b->faults = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	MUST(b->faults != MAP_FAILED);
	if (b->rdma != BED_RDMA_NONE)
		MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, b->fabric) == 0);
}

/* The linkers have theirs. */
static void fabric_started(struct bed *b)
{
	fd_cleanup(&b->fabric[BED_B]);
	b->fabric[BED_B] = -1;
	if (b->rdma == BED_RDMA_BOTH) {
		fd_cleanup(&b->fabric[BED_A]);
		b->fabric[BED_A] = -1;
	}
}

void bed_start(struct bed *b)
{
	signal(SIGPIPE, SIG_IGN);
	fabric_start(b);
	side_fork(b, BED_A);
	side_fork(b, BED_B);
	fabric_started(b);
	MUST(pthread_mutex_init(&b->lock, NULL) == 0);
	MUST(pki_new_key(&b->root_key) == 0);
	MUST(pki_make_root(&b->root, b->root_key, BED_DOMAIN, time(NULL) - 86400, time(NULL) + 10 * 86400) == 0);
	b->root_pem = pem_of(b->root);
	side_tell(b, BED_A);
	side_tell(b, BED_B);
	side_host(b, BED_A);
	side_host(b, BED_B);
	MUST(pthread_create(&b->signer, NULL, signer_thread, b) == 0);
}

static void side_stop(struct bed *b, unsigned side)
{
	struct bed_side *s = &b->sides[side];
	int status;

	MUST(s->killed || waitpid(s->pid, &status, WNOHANG) == 0); /* alive until now */
	chan_close(&s->broker);
	MUST(waitpid(s->pid, &status, 0) == s->pid);
	if (!s->killed && (!WIFEXITED(status) || WEXITSTATUS(status) != 0)) {
		fprintf(stderr, "linker %s: status %#x\n", bed_host(side), (unsigned)status);
		abort();
	}
	for (struct bed_msg *n = s->heard, *next; n; n = next) {
		next = n->next;
		fd_cleanup(&n->fd);
		free(n);
	}
	for (unsigned i = 0; i < BED_KIDS; i++)
		EVP_PKEY_free(s->keys[i]);
}

void bed_stop(struct bed *b)
{
	side_stop(b, BED_A);
	side_stop(b, BED_B);
	pthread_mutex_lock(&b->lock);
	b->stop = true;
	pthread_mutex_unlock(&b->lock);
	pthread_join(b->signer, NULL);
	for (unsigned i = 0; i < BED_N_SIDES; i++)
		chan_close(&b->sides[i].signer);
	pthread_mutex_destroy(&b->lock);
	EVP_PKEY_free(b->root_key);
	X509_free(b->root);
	free(b->root_pem);
	munmap(b->faults, BED_N_SIDES * sizeof(*b->faults));
	fd_cleanup(&b->fabric[BED_A]);
}

/* Lanes. */

static void socket_pair(int pair[2])
{
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	(void)!foreign_refuse(pair[1]); /* as the warden and the gate do */
}

int bed_carry(struct bed *b, const char *destination, uint64_t *ret_id)
{
	struct role_msg m = { .type = BL_CARRY, .u.carry = { .hid = BED_HID, .kid = BED_KID_WEB, .lane_id = ++b->next_lane } };
	int pair[2];

	socket_pair(pair);
	snprintf(m.u.carry.destination, sizeof(m.u.carry.destination), "%s", destination);
	bed_tell(b, BED_A, &m, pair[1]);
	close(pair[1]);
	*ret_id = m.u.carry.lane_id;
	return pair[0];
}

int bed_go(struct bed *b, uint64_t *ret_id)
{
	return bed_go_as(b, BED_KID_REDIS, ret_id);
}

int bed_go_as(struct bed *b, uint32_t kid, uint64_t *ret_id)
{
	struct role_msg ask = bed_hear(b, BED_B, LB_ASK, NULL);
	struct role_msg m = { .type = BL_GO, .u.link_go = { .ask = ask.u.link_ask.ask, .kid = kid, .lane_id = ++b->next_lane } };
	int pair[2];

	socket_pair(pair);
	bed_tell(b, BED_B, &m, pair[1]);
	close(pair[1]);
	*ret_id = m.u.link_go.lane_id;
	return pair[0];
}

struct bed_lane bed_lane(struct bed *b)
{
	struct bed_lane l;
	struct role_msg m;

	l.client = bed_carry(b, BED_REDIS, &l.a);
	l.server = bed_go(b, &l.b);
	m = bed_hear(b, BED_A, LB_OPENED, NULL);
	MUST(m.u.lane_ref.lane_id == l.a);
	return l;
}

void bed_kill(struct bed *b, unsigned side)
{
	struct bed_side *s = &b->sides[side];

	s->killed = true;
	kill(s->pid, SIGKILL);
	chan_close(&s->broker);
}

void bed_revoke(struct bed *b, unsigned side, const char *text)
{
	struct role_msg m = { .type = BL_REVOKED };

	bed_tell_text(b, side, &m, text);
}

void bed_lane_close(struct bed_lane *l)
{
	fd_cleanup(&l->client);
	fd_cleanup(&l->server);
	l->client = l->server = -1;
}

int bed_dial(struct bed *b, unsigned side)
{
	return bed_dial_from(b, side, 1);
}

int bed_dial_from(struct bed *b, unsigned side, uint8_t last)
{
	struct sockaddr_in from = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + last) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	MUST(fd >= 0 && bind(fd, (struct sockaddr *)&from, sizeof(from)) == 0);
	MUST(connect(fd, (struct sockaddr *)&b->sides[side].address, sizeof(b->sides[side].address)) == 0);
	return fd;
}
