/*
 * Theory of operation: the broker's loop and channels.
 *
 * The warden starts us with a channel on descriptor 3 and sends, in this order: the checker's and each gate's channel,
 * then the configuration files as sealed memfds. When the last file has come the configuration is checked and taken
 * (broker_model.c), and from then on everything is a reaction: to a gate that accepted somebody (broker_lane.c), to the
 * warden that saw a server or a cgroup come or go, to a user at the admin socket (broker_admin.c), to a timer.
 *
 * Before this file on a connection's way: gate.c. After it: broker_lane.c.
 * Must never: block, open a path outside the state directory, start a program, connect to anything.
 */
#include "base/foreign.h"
#include "base/isolate.h"
#include "daemon/broker_admin.h"
#include "daemon/broker_ca.h"
#include "daemon/broker_cdi.h"
#include "daemon/broker_int.h"
#include "daemon/identity.h"
#include "daemon/role_user.h"
#include "daemon/roles.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* What a broken start ends with, so that the warden tells it from a crash (sysexits.h: EX_CONFIG). */
enum { EXIT_CONFIG = 78 };
/* Messages taken from one channel per turn of the loop, so that one busy gate cannot starve the rest. */
enum { MSGS_PER_TURN = 64 };
/* After GOAWAY (docs/design/link.md): well below what the warden waits for us to end. */
enum { DRAIN_MS = 1000 };

struct pending {
	uint32_t seq;
	reply_fn fn;
	void *arg;
	UT_hash_handle hh;
};

struct reload_waiter {
	struct reload_waiter *next;
	broker_done_fn done;
	void *arg;
};

/* One channel in the loop. index: of the gate or linker. */
struct peer {
	struct broker *b;
	struct chan *chan;
	size_t index;
	void (*on_msg)(struct broker *b, size_t index, const struct role_msg *m, int *fd);
	struct event *rd, *wr, *dead;
	int error; /* a send failed: `dead` fires in the next turn */
};

struct broker_private {
	struct peer warden, checker, porter, catalogue, gates[LIMIT_GATES], linkers[LIMIT_LINKERS];
	struct pending *pending;
	uint32_t next_seq;
	struct config_source incoming[64]; /* the files of the set that is arriving */
	size_t n_incoming;
	bool incoming_failed;
	char incoming_why[LIMIT_PATH_SIZE + 128];
	struct reload_waiter *waiters;
	bool serving; /* the admin interface */
	bool stopping;
	int exit_status;
};

int64_t unix_now_s(void)
{
	return (int64_t)time(NULL);
}

const char *health_name(enum health h)
{
	static const char *const names[] = { "unchecked", "passing", "failing" };
	static_assert(ARRAY_SIZE(names) == HEALTH_N, "a name for each");

	return names[h];
}

/* ------------------------------------------------------------------ channels */

static void broker_stop(struct broker *b, int status)
{
	if (!b->p->stopping)
		b->p->exit_status = status;
	b->p->stopping = true;
	event_base_loopbreak(b->base);
}

static void peer_close(struct peer *l)
{
	if (l->rd)
		event_free(l->rd);
	if (l->wr)
		event_free(l->wr);
	if (l->dead)
		event_free(l->dead);
	l->rd = l->wr = l->dead = NULL;
	l->error = 0;
	foreign_tick_start(); /* what waits in its queue goes as well */
	chan_close(l->chan);
}

static bool is_linker(const struct peer *l)
{
	return l >= l->b->p->linkers && l < l->b->p->linkers + LIMIT_LINKERS;
}

/* Only from the loop: whoever sends to a peer may be walking over what its loss takes away. */
static void peer_lost(struct peer *l, int err)
{
	struct broker *b = l->b;

	if (l == &b->p->warden) {
		log_error("broker.warden_lost", LOG_STR("error", log_errno_name(err)));
		broker_stop(b, 1);
		return;
	}
	peer_close(l);
	if (l == &b->p->porter)
		port_on_porter_lost(b);
	else if (l == &b->p->catalogue)
		catalogue_on_lost(b);
	else if (is_linker(l))
		link_on_linker_lost(b, (uint32_t)l->index);
	else if (l != &b->p->checker)
		lane_on_gate_lost(b, l->index);
}

static void on_peer_dead(evutil_socket_t fd, short what, void *arg)
{
	struct peer *l = arg;

	if (l->error)
		peer_lost(l, l->error);
}

static void peer_want_write(struct peer *l)
{
	if (l->wr && chan_wants_write(l->chan))
		event_add(l->wr, NULL);
}

static void peer_on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct peer *l = arg;
	int r = chan_flush(l->chan);

	if (r < 0)
		peer_lost(l, r);
	else
		peer_want_write(l);
}

static void peer_on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct peer *l = arg;

	foreign_tick_start();
	for (int i = 0; i < MSGS_PER_TURN && l->chan->fd >= 0 && !l->b->p->stopping; i++) {
		struct role_msg m;
		AUTO_FD msg_fd = -1;
		int r = role_recv(l->chan, &m, &msg_fd);

		if (r == -EAGAIN || r == -EINTR)
			return;
		if (r <= 0) {
			peer_lost(l, r);
			return;
		}
		l->on_msg(l->b, l->index, &m, &msg_fd);
	}
}

static int peer_open(struct peer *l, struct broker *b, struct chan *c, int fd, size_t index,
		     void (*on_msg)(struct broker *, size_t, const struct role_msg *, int *))
{
	chan_init(c, fd);
	*l = (struct peer){ .b = b, .chan = c, .index = index, .on_msg = on_msg };
	l->rd = event_new(b->base, fd, EV_READ | EV_PERSIST, peer_on_readable, l);
	l->wr = event_new(b->base, fd, EV_WRITE, peer_on_writable, l);
	l->dead = event_new(b->base, -1, 0, on_peer_dead, l);
	if (!l->rd || !l->wr || !l->dead || event_add(l->rd, NULL) < 0)
		return -ENOMEM;
	return 0;
}

static void peer_send(struct peer *l, const struct role_msg *m, int fd)
{
	int r;

	if (l->chan->fd < 0 || l->error)
		return;
	r = role_send(l->chan, m, fd);
	if (r == 0) {
		peer_want_write(l);
		return;
	}
	l->error = r;
	event_active(l->dead, EV_TIMEOUT, 1);
}

void broker_tell_gate(struct broker *b, size_t gate, const struct role_msg *m, int fd)
{
	if (gate < b->n_gates)
		peer_send(&b->p->gates[gate], m, fd);
}

void broker_tell_all_gates(struct broker *b, const struct role_msg *m, int fd)
{
	for (size_t i = 0; i < b->n_gates; i++)
		broker_tell_gate(b, i, m, fd);
}

void broker_tell_checker(struct broker *b, const struct role_msg *m)
{
	peer_send(&b->p->checker, m, -1);
}

void broker_tell_porter(struct broker *b, const struct role_msg *m, int fd)
{
	peer_send(&b->p->porter, m, fd);
}

void broker_tell_catalogue(struct broker *b, const struct role_msg *m)
{
	if (b->catalogue.fd >= 0)
		peer_send(&b->p->catalogue, m, -1);
}

void broker_close_catalogue(struct broker *b)
{
	if (b->catalogue.fd >= 0)
		peer_close(&b->p->catalogue);
}

void broker_tell_linker(struct broker *b, size_t linker, const struct role_msg *m, int fd)
{
	if (linker < b->n_linkers)
		peer_send(&b->p->linkers[linker], m, fd);
}

void broker_end_linker(struct broker *b, uint32_t linker)
{
	peer_close(&b->p->linkers[linker]);
	link_on_linker_lost(b, linker);
}

void broker_tell_warden(struct broker *b, const struct role_msg *m, int fd)
{
	peer_send(&b->p->warden, m, fd);
}

void broker_ask(struct broker *b, struct role_msg *m, int fd, reply_fn fn, void *arg)
{
	struct role_reply gone = { .error = -EPIPE, .why = "the warden is gone" };
	struct pending *p = NULL;

	if (b->warden.fd < 0) {
		if (fn)
			fn(b, arg, &gone, -1);
		return;
	}
	do
		m->seq = ++b->p->next_seq;
	while (m->seq == 0);
	if (fn) {
		p = calloc(1, sizeof(*p));
		if (!p) {
			gone.error = -ENOMEM;
			fn(b, arg, &gone, -1);
			return;
		}
		*p = (struct pending){ .seq = m->seq, .fn = fn, .arg = arg };
		HASH_ADD_INT(b->p->pending, seq, p);
	}
	peer_send(&b->p->warden, m, fd);
}

static void on_reply(struct broker *b, const struct role_msg *m, int *fd)
{
	struct pending *p;

	HASH_FIND_INT(b->p->pending, &m->seq, p);
	if (!p) {
		if (m->u.reply.error)
			log_error("warden.request_failed", LOG_STR("error", log_errno_name(m->u.reply.error)),
				  LOG_STR("why", m->u.reply.why));
		return;
	}
	HASH_DEL(b->p->pending, p);
	p->fn(b, p->arg, &m->u.reply, take_fd(fd));
	free(p);
}

struct after {
	struct broker *b;
	void (*fn)(struct broker *b, void *arg);
	void *arg;
};

static void after_fire(evutil_socket_t fd, short what, void *arg)
{
	struct after *a = arg;

	a->fn(a->b, a->arg);
	free(a);
}

void broker_after(struct broker *b, unsigned ms, void (*fn)(struct broker *, void *), void *arg)
{
	struct timeval tv = { .tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000) * 1000 };
	struct after *a = calloc(1, sizeof(*a));

	if (!a) {
		fn(b, arg); /* without memory: too early is better than never */
		return;
	}
	*a = (struct after){ .b = b, .fn = fn, .arg = arg };
	if (event_base_once(b->base, -1, EV_TIMEOUT, after_fire, a, &tv) < 0) {
		free(a);
		fn(b, arg);
	}
}

/* ------------------------------------------------------------------ configuration */

static void incoming_drop(struct broker *b)
{
	for (size_t i = 0; i < b->p->n_incoming; i++) {
		munmap((void *)(uintptr_t)b->p->incoming[i].text, b->p->incoming[i].size + 1);
		free((void *)(uintptr_t)b->p->incoming[i].name);
	}
	b->p->n_incoming = 0;
	b->p->incoming_failed = false;
}

/* The warden's memfd; its size is checked and its bytes are mapped privately, so nothing can change under the parser. */
static int incoming_add(struct broker *b, const struct role_config *c, int fd)
{
	struct config_source *s = &b->p->incoming[b->p->n_incoming];
	struct stat st;
	char *text;

	if (c->error)
		return c->error;
	if (b->p->n_incoming == ARRAY_SIZE(b->p->incoming))
		return -E2BIG;
	if (fd < 0 || fstat(fd, &st) < 0)
		return -EBADF;
	if (st.st_size < 0 || st.st_size > LIMIT_CONFIG_SIZE)
		return -EFBIG;
	text = mmap(NULL, (size_t)st.st_size + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (text == MAP_FAILED)
		return -ENOMEM;
	*s = (struct config_source){ .name = strdup(c->name), .text = text, .size = (size_t)st.st_size };
	b->p->n_incoming++;
	if (!s->name)
		return -ENOMEM;
	return pread(fd, text, s->size, 0) == (ssize_t)s->size ? 0 : -EIO;
}

static void answer_waiters(struct broker *b, int error, const char *why)
{
	struct reload_waiter *w = take_ptr(b->p->waiters);

	while (w) {
		struct reload_waiter *next = w->next;

		w->done(w->arg, error, why);
		free(w);
		w = next;
	}
}

static void reload_failed(struct broker *b, const char *why)
{
	log_error("config.rejected", LOG_STR("why", why),
		  LOG_STR("kept", b->config ? "the old configuration stays in force" : NULL));
	b->counters.reloads_failed++;
	answer_waiters(b, -EINVAL, why);
	if (!b->config)
		broker_stop(b, EXIT_CONFIG);
}

static void offer_cdi(struct broker *b)
{
	struct role_msg m = { .type = BW_CDI };
	AUTO_FD fd = -1;
	AUTO_FREE(char) text = NULL;

	if (!b->config->cdi_dir || b->config->cdi_dir[0] != '/')
		return;
	text = cdi_text(b, "");
	fd = memfd_create("sealane-cdi", MFD_CLOEXEC);
	if (!text || fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text) ||
	    !str_copy(m.u.store.name, sizeof(m.u.store.name), b->config->cdi_dir)) {
		log_error("cdi.failed", LOG_STR("dir", b->config->cdi_dir));
		return;
	}
	broker_ask(b, &m, fd, NULL, NULL);
}

/* What the warden has to know of the configuration. */
static void tell_warden(struct broker *b)
{
	struct role_msg gates = { .type = BW_GATES, .u.id.id = b->config->n_gates };
	struct role_msg grace = { .type = WK_GRACE };

	grace.u.grace.grace_ms = (uint32_t)(b->config->restart_grace_s * 1000);
	peer_send(&b->p->warden, &grace, -1);
	broker_ask(b, &gates, -1, NULL, NULL);
}

static void on_admin_socket(struct broker *b, void *arg, const struct role_reply *reply, int fd)
{
	AUTO_FD sock = fd;
	int r = reply->error;

	if (r == 0 && b->p->serving)
		return; /* a reload: the warden set the file's mode and owner anew */
	if (r == 0 && (r = admin_start(b, take_fd(&sock))) == 0) {
		b->p->serving = true;
		return;
	}
	log_error("admin.failed", LOG_STR("error", log_errno_name(r)), LOG_STR("why", reply->why));
	broker_stop(b, 1);
}

static void ask_for_admin_socket(struct broker *b)
{
	struct role_msg m = { .type = BW_LISTEN };

	m.u.listen = (struct role_listen){ .lid = ROLE_NO_ID, .wid = ROLE_NO_ID, .type = SOCK_STREAM };
	m.u.listen.mode = b->config->admin.mode >= 0 ? (uint32_t)b->config->admin.mode : 0600;
	m.u.listen.uid = b->config->admin.uid;
	m.u.listen.gid = b->config->admin.gid;
	broker_ask(b, &m, -1, on_admin_socket, NULL);
}

static void take_config(struct broker *b)
{
	struct config *c = NULL;
	struct conf_error error = {};
	char why[512];
	bool first = !b->config;
	int r;

	if (b->p->incoming_failed) {
		reload_failed(b, b->p->incoming_why);
		return;
	}
	r = config_load(&c, b->p->incoming, b->p->n_incoming, &error);
	if (r < 0) {
		reload_failed(b, error.text[0] ? error.text : log_errno_name(r));
		return;
	}
	if (model_check(b, c, why, sizeof(why)) < 0) {
		config_free(c);
		reload_failed(b, why);
		return;
	}
	if (c->link.host_name[0])
		memcpy(b->host, c->link.host_name, sizeof(b->host));
	model_apply(b, c);
	ca_apply(b);
	link_apply(b);
	catalogue_apply(b);
	tell_warden(b);
	b->counters.reloads_ok += !first;
	log_info("config.loaded", LOG_U64("files", b->p->n_incoming), LOG_U64("workloads", c->n_workloads),
		 LOG_U64("services", c->n_services), LOG_U64("intentions", c->n_intentions));
	ask_for_admin_socket(b);
	if (first) {
		enrol_from_state(b);
		lane_cut_inherited(b);
		shm_adopt(b);
	}
	for (size_t i = 0; i < b->config->n_warnings; i++)
		log_warn("config.warning", LOG_STR("text", b->config->warnings[i]));
	offer_cdi(b);
	answer_waiters(b, 0, "");
}

static void on_config(struct broker *b, const struct role_config *c, int fd)
{
	int r;

	if (!c->last) {
		r = incoming_add(b, c, fd);
		if (r < 0 && !b->p->incoming_failed) {
			b->p->incoming_failed = true;
			snprintf(b->p->incoming_why, sizeof(b->p->incoming_why), "%s: %s (%s)", c->name,
				 r == -ENODATA ? "no *.conf, *.hcl or *.json in this directory" : "cannot be read", log_errno_name(r));
		}
		return;
	}
	take_config(b);
	incoming_drop(b);
}

static void on_reload_sent(struct broker *b, void *arg, const struct role_reply *reply, int fd)
{
	fd_cleanup(&fd);
	if (reply->error)
		reload_failed(b, reply->why);
}

void broker_reload(struct broker *b, broker_done_fn done, void *arg)
{
	struct role_msg m = { .type = BW_RELOAD };

	if (done) {
		struct reload_waiter *w = calloc(1, sizeof(*w));

		if (!w) {
			done(arg, -ENOMEM, "no memory");
			return;
		}
		*w = (struct reload_waiter){ .next = b->p->waiters, .done = done, .arg = arg };
		b->p->waiters = w;
	}
	broker_ask(b, &m, -1, on_reload_sent, NULL);
}

/* ------------------------------------------------------------------ messages */

static void on_gate_msg(struct broker *b, size_t gate, const struct role_msg *m, int *fd)
{
	if (m->type == GB_ACCEPT)
		lane_on_accept(b, gate, &m->u.accept);
	else if (m->type == GB_GONE)
		lane_on_gone(b, gate, m->u.id.id);
	else if (m->type == GB_CLOSED)
		lane_on_closed(b, gate, &m->u.stats);
	else if (m->type == GB_STATS)
		lane_on_stats(b, gate, &m->u.stats);
	else if (m->type == GB_HANDED)
		lane_on_handed(b, gate, m->u.id.id, *fd);
	else
		log_error("broker.unexpected_message", LOG_STR("from", "gate"), LOG_STR("type", role_msg_name(m->type)));
}

static void on_checker_msg(struct broker *b, size_t index, const struct role_msg *m, int *fd)
{
	if (m->type == CB_RESULT)
		health_on_result(b, &m->u.check_result);
}

static void on_porter_msg(struct broker *b, size_t index, const struct role_msg *m, int *fd)
{
	if (m->type == PB_ASK)
		port_on_ask(b, &m->u.ask);
	else if (m->type == PB_GONE)
		port_on_gone(b, m->u.id.id);
	else if (m->type == PB_OPEN)
		shm_on_open(b, m->u.lane_ref.lane_id);
	else if (m->type == PB_LENT)
		lend_on_lent(b, m->u.lane_ref.lane_id, *fd);
	else if (m->type == PB_KEEP)
		shm_on_leash(b, &m->u.leash, *fd);
	else if (m->type == PB_CLOSED)
		shm_on_closed(b, &m->u.stats);
	else if (m->type == PB_STATS)
		shm_on_stats(b, &m->u.stats);
	else
		log_error("broker.unexpected_message", LOG_STR("from", "porter"), LOG_STR("type", role_msg_name(m->type)));
}

static void on_linker_msg(struct broker *b, size_t linker, const struct role_msg *m, int *fd)
{
	link_on_msg(b, (uint32_t)linker, m, fd);
}

static void on_porter_started(struct broker *b, int *fd)
{
	if (*fd < 0)
		return;
	if (b->porter.fd >= 0) {
		peer_close(&b->p->porter);
		port_on_porter_lost(b);
	}
	if (peer_open(&b->p->porter, b, &b->porter, take_fd(fd), 0, on_porter_msg) < 0)
		broker_stop(b, 1);
	else
		port_on_porter(b);
}

static void on_gate_started(struct broker *b, uint32_t index, int *fd)
{
	struct peer *l;

	if (index >= LIMIT_GATES || *fd < 0)
		return;
	l = &b->p->gates[index];
	if (index < b->n_gates && l->chan) {
		peer_close(l);
		lane_on_gate_lost(b, index);
	}
	for (; b->n_gates <= index; b->n_gates++)
		b->gates[b->n_gates] = (struct chan){ .fd = -1 };
	if (peer_open(l, b, &b->gates[index], take_fd(fd), index, on_gate_msg) < 0)
		broker_stop(b, 1);
	else
		model_hand_listeners_to_gate(b, index);
}

static void on_linker_started(struct broker *b, uint32_t index, int *fd)
{
	struct peer *l;

	if (index >= LIMIT_LINKERS || *fd < 0)
		return;
	l = &b->p->linkers[index];
	if (index < b->n_linkers && b->linkers[index].fd >= 0) {
		peer_close(l);
		link_on_linker_lost(b, index);
	}
	for (; b->n_linkers <= index; b->n_linkers++)
		b->linkers[b->n_linkers] = (struct chan){ .fd = -1 };
	if (peer_open(l, b, &b->linkers[index], take_fd(fd), index, on_linker_msg) < 0)
		broker_stop(b, 1);
	else
		link_on_linker(b, index);
}

static void on_server_state(struct broker *b, const struct role_server_state *st)
{
	struct service *s = model_service(b, st->sid);

	if (!s)
		return;
	if (s->up != (st->up != 0))
		log_info(st->up ? "service.up" : "service.down", LOG_STR("service", s->name.name), LOG_STR("ns", s->name.ns),
			 LOG_STR("path", s->path));
	s->up = st->up != 0;
	s->linkable = st->linkable != 0;
	s->mode = st->mode;
	s->dev = st->dev;
	s->ino = st->ino;
	model_refresh_service(b, s->sid);
	link_announce(b);
	if (!s->up)
		return;
	lane_on_server_up(b, s->sid);
	welcome_retry(b);
}

static void on_guard(struct broker *b, const struct role_guard *g)
{
	b->guard = g->state;
	if (g->verdict != 0) {
		lane_on_guard(b, g);
		return;
	}
	memcpy(b->guard_why, g->why, sizeof(g->why));
	log_info("guard.state", LOG_STR("guard", g->state == GUARD_LSM ? "lsm" : "off"), LOG_STR("why", g->why));
}

static void on_catalogue_msg(struct broker *b, size_t index, const struct role_msg *m, int *fd)
{
	catalogue_on_msg(b, m);
}

/* Without a descriptor: it has ended, as its channel tells as well. */
static void on_catalogue_started(struct broker *b, int *fd)
{
	if (*fd < 0)
		return;
	broker_close_catalogue(b);
	if (peer_open(&b->p->catalogue, b, &b->catalogue, take_fd(fd), 0, on_catalogue_msg) < 0)
		broker_stop(b, 1);
	else
		catalogue_on_started(b);
}

static void on_drained(struct broker *b, void *arg)
{
	broker_stop(b, 0);
}

/* The other hosts are told, so that they see an end and no fault; what is on its way has a second. */
static void on_stop(struct broker *b)
{
	if (link_drain(b))
		broker_after(b, DRAIN_MS, on_drained, NULL);
	else
		broker_stop(b, 0);
}

static void on_warden_msg(struct broker *b, size_t index, const struct role_msg *m, int *fd)
{
	switch (m->type) {
	case WB_REPLY:
		on_reply(b, m, fd);
		break;
	case WB_CONFIG:
		on_config(b, &m->u.config, *fd);
		break;
	case WB_GATE:
		on_gate_started(b, m->u.gate.index, fd);
		break;
	case WB_CHECKER:
		peer_close(&b->p->checker);
		health_on_checker_lost(b);
		if (*fd >= 0 && peer_open(&b->p->checker, b, &b->checker, take_fd(fd), 0, on_checker_msg) < 0)
			broker_stop(b, 1);
		break;
	case WB_PORTER:
		on_porter_started(b, fd);
		break;
	case WB_LINKER:
		on_linker_started(b, m->u.gate.index, fd);
		break;
	case WB_CATALOGUE:
		on_catalogue_started(b, fd);
		break;
	case WB_SIGNER:
		ca_on_signer(b, fd);
		break;
	case WB_FILE:
		files_on_file(b, m->u.store.name, fd);
		break;
	case WB_KEPT:
		shm_on_kept(b, m->u.store.name, fd);
		break;
	case WB_SERVER_STATE:
		on_server_state(b, &m->u.server_state);
		break;
	case WB_CGROUP_GONE:
		enrol_cgroup_gone(b, &m->u.cgroup);
		break;
	case WB_RELOAD_ASKED:
		broker_reload(b, NULL, NULL);
		break;
	case WB_GUARD:
		on_guard(b, &m->u.guard);
		break;
	case WB_STOP:
		on_stop(b);
		break;
	default:
		log_error("broker.unexpected_message", LOG_STR("from", "warden"), LOG_STR("type", role_msg_name(m->type)));
	}
}

/* ------------------------------------------------------------------ start and end */

static const struct isolate_call g_broker_calls[] = {
	/* the admin socket's connections, and who is at their other end */
	{ .name = "accept4" }, { .name = "accept" }, { .name = "getsockname" }, { .name = "getpeername" },
	{ .name = "ioctl" }, { .name = "uname" }, { .name = "memfd_create" }, { .name = "sysinfo" },
	/* a linker's channel to the signer */
	{ .name = "socketpair", .arg = 1, .arg_value = AF_UNIX },
	/* SQLite in the state directory (Landlock leaves nothing else to open) */
	{ .name = "openat" }, { .name = "open" }, { .name = "stat" }, { .name = "lstat" }, { .name = "access" },
	{ .name = "faccessat" }, { .name = "faccessat2" }, { .name = "pread64" }, { .name = "pwrite64" },
	{ .name = "fsync" }, { .name = "fdatasync" }, { .name = "ftruncate" }, { .name = "unlink" },
	{ .name = "unlinkat" }, { .name = "mkdir" }, { .name = "fchmod" }, { .name = "fchown" }, { .name = "readlink" },
	{ .name = "getcwd" }, { .name = "getdents64" }, { .name = "umask" }, { .name = "statx" }, { .name = "fallocate" }, { .name = "getrandom" },
	/* getpwnam() would ask nscd over a socket: it is told no and reads /etc/passwd */
	{ .name = "socket", .error = EACCES },
	{ .name = NULL },
};

static int broker_isolate(const struct daemon_options *o)
{
	/* /etc is for getpwnam() and getgrnam() of a later reload; what is not readable to an ordinary user stays so. */
	const char *dirs[] = { o->state_dir, "/etc" };
	int r = role_leave_root(o->user);

	return r < 0 ? r : isolate_paths(dirs, ARRAY_SIZE(dirs));
}

static int read_boot_id(char *buf, size_t size)
{
	AUTO_FD fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, buf, size - 1);
	if (n < 0)
		return -errno;
	buf[n] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	return 0;
}

static int broker_open(struct broker *b, const struct daemon_options *o)
{
	char boot_id[64], why[256] = "";
	int r = read_boot_id(boot_id, sizeof(boot_id));

	if (r < 0)
		return r;
	b->identity = identity_probe(); /* before the filter; `identity = ...` in the configuration overrides it */
	if (!str_copy(b->run_dir, sizeof(b->run_dir), o->run_dir))
		return -ENAMETOOLONG;
	r = broker_isolate(o);
	if (r < 0)
		return r;
	r = state_open(&b->state, o->state_dir, boot_id, why);
	if (r < 0) {
		log_error("state.failed", LOG_STR("dir", o->state_dir), LOG_STR("why", why),
			  LOG_STR("do", r == -EBUSY ? "another daemon uses it: give this one a --state-dir of its own" : "see to the directory"));
		return r;
	}
	b->base = event_base_new();
	if (!b->base || policy_new(&b->policy) < 0)
		return -ENOMEM;
	b->started_unix_s = (uint64_t)unix_now_s();
	r = peer_open(&b->p->warden, b, &b->warden, ROLE_CHANNEL_FD, 0, on_warden_msg);
	return r < 0 ? r : isolate_calls(g_broker_calls);
}

int broker_main(const struct daemon_options *o)
{
	static struct broker_private private = { .exit_status = 1 };
	static struct broker b = { .p = &private, .warden = { .fd = -1 }, .checker = { .fd = -1 }, .porter = { .fd = -1 }, .catalogue = { .fd = -1 } };
	struct rlimit files;
	int r;

	log_init("broker", o->verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO);
	log_set_sink(admin_log_sink, &b);
	signal(SIGPIPE, SIG_IGN);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max; /* one listening socket per upstream */
		setrlimit(RLIMIT_NOFILE, &files);
	}
	for (size_t i = 0; i < LIMIT_GATES; i++)
		b.gates[i].fd = -1;
	b.p->checker.chan = &b.checker;
	b.p->porter.chan = &b.porter;
	b.p->catalogue.chan = &b.catalogue;
	gethostname(b.host, sizeof(b.host) - 1);
	r = broker_open(&b, o);
	if (r == 0)
		r = foreign_tick_init();
	if (r < 0) {
		log_error("broker.failed", LOG_STR("error", log_errno_name(r)));
		return 1;
	}
	/* A turn at a time: what it took from others, it has closed by its end. */
	while (event_base_loop(b.base, EVLOOP_ONCE) == 0 && !event_base_got_break(b.base))
		foreign_tick_stop();
	catalogue_stop(&b);
	admin_stop(&b);
	b.state = state_close(b.state);
	return b.p->exit_status;
}
