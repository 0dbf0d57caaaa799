/* The warden's own state: shared by warden.c (loop, messages) and warden_start.c (coming up, shutting in). */
#ifndef DAEMON_WARDEN_H
#define DAEMON_WARDEN_H

#include "daemon/warden_catalogue.h"
#include "daemon/warden_cgroup.h"
#include "daemon/warden_files.h"
#include "daemon/warden_guard.h"
#include "daemon/warden_keeper.h"
#include "daemon/warden_lanes.h"
#include "daemon/warden_link.h"
#include "daemon/warden_server.h"
#include "daemon/warden_spawn.h"

struct warden;

/* The names of what the broker may have kept: no other, so that it cannot replace a listening socket in the keeper. */
#define WARDEN_LEASH_PREFIX "lane/"

/* One channel in the event loop. */
struct port {
	struct warden *w;
	struct chan *chan;
	struct event *rd, *wr;
	void (*on_readable)(struct warden *w);
	void (*on_lost)(struct warden *w);
};

struct gate_slot {
	struct warden *w;
	uint32_t index;
	struct event *restart;
	uint64_t started_ns;
	unsigned delay_ms;
};

struct warden {
	const struct daemon_options *o;
	struct event_base *base;
	struct chan launcher, broker;
	struct keeper_link keeper;
	struct port launcher_port, broker_port, keeper_port;
	struct files files;
	struct cgroups cgroups;
	struct servers servers;
	struct lanes lanes;
	struct warden_guard guard;
	struct warden_catalogue catalogue;
	struct warden_link link;
	struct gate_slot gates[LIMIT_GATES];
	size_t n_gates;
	uint64_t porter_started_ns;
	unsigned porter_delay_ms;
	/* By the names that BW_KEEP gave them: for a new keeper, a new porter, and the next broker. */
	struct kept *leashes;
	struct event *sweep, *stop, *keeper_restart, *checker_restart, *porter_restart, *place;
	uint32_t grace_ms;
	bool swept, ready, stopping;
	int exit_status;
};

/* warden_open() - everything that needs rights that are given up afterwards. Return: 0 or negative errno (logged). */
MUST_CHECK int warden_open(struct warden *w);

/* warden_open_admin() - RUN/admin.sock, for root alone until the broker says who else; clients wait in its backlog. */
MUST_CHECK int warden_open_admin(struct warden *w);

/* warden_isolate() - keep the named capabilities and system calls, nothing else. */
MUST_CHECK int warden_isolate(void);

/* warden_keeper_start() - connect to a keeper, or have one started and give it all that we hold. */
MUST_CHECK int warden_keeper_start(struct warden *w);

/* warden_spawn() - ask the launcher for a role, with @channel as its descriptor 3 (borrowed). */
MUST_CHECK int warden_spawn(struct warden *w, uint32_t role, uint32_t index, int channel);

/* warden_spawn_for_broker() - the same with a new channel, whose other end goes to the broker with a message of @type. */
MUST_CHECK int warden_spawn_for_broker(struct warden *w, uint32_t role, uint32_t index, uint32_t type);

/* warden_send_config() - all configuration files as sealed memfds. */
MUST_CHECK int warden_send_config(struct warden *w, uint32_t seq);

/* warden_write_cdi() - the text in @fd becomes DIR/sealane.json. */
MUST_CHECK int warden_write_cdi(const char *dir, int fd, char *why);

/* port_open(), port_send(), ... - in warden.c. */
MUST_CHECK int port_open(struct port *p, struct warden *w, struct chan *c, void (*on_readable)(struct warden *),
			 void (*on_lost)(struct warden *));
void port_close(struct port *p);
/* port_kick() - something was queued on its channel: send it when there is room. */
void port_kick(struct port *p);
void warden_tell_broker(struct warden *w, const struct role_msg *m, int fd);

#endif
