/*
 * What the broker's tests share: the broker as a process under its own filter, with the test as its warden, its gate and its
 * porter. Each does what it is asked, and writes down that it was. Root only, since the broker starts as root.
 */
#ifndef DAEMON_TEST_BROKER_H
#define DAEMON_TEST_BROKER_H

#include "base/chan.h"
#include "daemon/roles.h"
#include "wire/role.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { N_IDS = 64, N_KEPT = 256 };

/* What the keeper would hold for the next daemon. */
struct kept {
	char name[LIMIT_PATH_SIZE]; /* "": free */
	int fd;
};

struct host {
	pid_t pid;
	char state_dir[64];
	struct chan warden, gate, porter;
	/* A linker and the signer, where a test plays them: start_linker(), start_signer(). Before that nobody is there. */
	struct chan linker, signer;
	void (*play_linker)(struct host *h, const struct role_msg *m, int fd);
	void (*play_signer)(struct host *h, const struct role_msg *m, int fd);
	void (*play_certificates)(struct host *h); /* WB_FILE ... for BW_CERTIFICATES */
	void *test;				   /* the test's own */
	int admin; /* the admin socket, as the keeper would hold it; -1: not made yet */
	char admin_path[96];
	/* what the broker asked for */
	char workloads[N_IDS][LIMIT_NAME_SIZE], sockets[N_IDS][LIMIT_PATH_SIZE], servers[N_IDS][LIMIT_PATH_SIZE];
	uint32_t socket_wid[N_IDS], route[N_IDS];
	uint32_t control_lid[N_IDS]; /* by wid; 0: none */
	unsigned n_cuts, n_connects, n_listens, n_controls, n_removed, n_resolves;
	bool unenrolled_before_cut;
	struct role_lane lane; /* BW_SCAN finds this one; client_ino 0: none */
	struct role_cut last_cut;
	struct kept kept[N_KEPT];
	uint32_t resolve_wid; /* what BW_RESOLVE is answered with */
	bool server_up, hold_connects, hold_resolves, hold_enrols, first_is_empty;
	uint32_t held_connect, held_resolve; /* the last one's seq */
	struct role_msg held_enrol;
	/* what the gate was told */
	unsigned n_go, n_refuse, n_gate_cut, n_hands;
	int client; /* the other end of the connection that BG_HAND got; -1: none yet */
	bool client_left; /* GB_GONE instead */
	struct role_go last_go;
	uint32_t last_refused;
	/* TCP, for links */
	int tcp_error; /* what BW_LISTEN_TCP ends with */
	unsigned n_linkers, n_tcp_listens, n_tcp_unlistens, n_dials;
	struct role_dial last_dial;
	/* what the porter was told */
	bool porter_listens[N_IDS]; /* by wid */
	unsigned n_offers, n_listening, n_porter_refuse, n_porter_cut, n_adopts;
	struct role_offer last_offer;
	struct role_refuse last_no, last_porter_cut;
	unsigned n_lends;
	struct role_lend last_lend; /* with a cid: what was asked for; `renamed`: without, who the server is now */
	struct control_identity renamed;
	bool hold_lends; /* else PB_LENT at once */
	int lent;	 /* our end of the last one, owned; -1 */
	uint32_t last_listening;
	struct role_stats porter_stats; /* lane_id 0: none; what BP_STATS is answered with */
};

extern const char g_test_config[];
extern char g_answer[32768]; /* of the last http() */

int setup(void **state);
int teardown(void **state);
/* host_start() - host_stop() and host_start() are a hot restart: what was kept is handed over first. */
int host_start(struct host *h);
void host_stop(struct host *h);
void start_gate(struct host *h);
void start_porter(struct host *h);
void start_signer(struct host *h);
void start_linker(struct host *h);
/* give_kept() - WB_KEPT for all that is kept. */
void give_kept(struct host *h);
unsigned n_kept(const struct host *h);

void tell(struct chan *c, const struct role_msg *m, int fd);
void send_config(struct host *h, const char *text);
void server_state(struct host *h, uint32_t sid, bool up);
void answer_connect(struct host *h, uint32_t seq);
void answer_lend(struct host *h);
void answer_enrol(struct host *h, const struct role_msg *m);
void answer_resolve(struct host *h, uint32_t seq);

/*
 * serve() - answer whatever comes until nothing came for @quiet_ms, and the broker sleeps. CALM_MS is enough where no timer of its own
 * is waited for but that of announcements: that it works is seen, however long it takes.
 */
enum { CALM_MS = 70 };
void serve(struct host *h, int quiet_ms);

/* http() - one request at the admin socket while we go on playing the others. Return: the HTTP status. */
int http(struct host *h, const char *method, const char *path, const char *body);
/* assert_told() - the answer has an object with @a and then @b. */
void assert_told(const char *a, const char *b);
/* assert_then() - @b stands anywhere after @a. */
void assert_then(const char *a, const char *b);

uint32_t wid_of(const struct host *h, const char *name);
uint32_t sid_of(const struct host *h, const char *path);
uint32_t lid_of(const struct host *h, const char *workload);
void enrol(struct host *h, const char *workload, unsigned cgroup_id);
void connect_as(struct host *h, const char *workload, uint32_t cid, unsigned cgroup_id);

#endif
