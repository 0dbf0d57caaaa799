/*
 * Two hosts, a and b, each with its linker in a child process under its own system call filter; whoever uses this plays both brokers, both
 * signers (a thread), the authority, the applications. Connections are TCP over loopback. For test_linker.c and for measurements.
 */
#ifndef DAEMON_TEST_LINKER_BED_H
#define DAEMON_TEST_LINKER_BED_H

#include "base/chan.h"
#include "link/pki.h"
#include "wire/role.h"

#include <netinet/in.h>
#include <pthread.h>
#include <sys/types.h>

enum { BED_A, BED_B, BED_N_SIDES };
/* Keys of either side. */
enum { BED_KID_HOST, BED_KID_WEB, BED_KID_REDIS, BED_KID_OTHER, BED_KIDS = 8 };
enum { BED_HID = 3, BED_WAIT_MS = 20000, BED_WINDOW = 256 << 10 };
#define BED_DOMAIN "example.org"
#define BED_REDIS "default/redis"
#define BED_WEB "default/web"

struct fabric_faults;

struct bed_msg {
	struct bed_msg *next;
	struct role_msg m;
	int fd;
};

/* Which hosts have an RDMA device: a socket pair leads from a's to b's. BED_RDMA_B: a's end is the test's (bed.fabric). */
enum bed_rdma { BED_RDMA_NONE, BED_RDMA_BOTH, BED_RDMA_B };

struct bed_side {
	pid_t pid;
	struct chan broker, signer;
	struct sockaddr_in address; /* where it listens */
	struct sockaddr_in dials;   /* where LB_DIAL leads; the other side's address */
	EVP_PKEY *keys[BED_KIDS];
	struct bed_msg *heard, **heard_tail;
	bool signs; /* false: its signer does not answer */
	bool killed;
	unsigned n_signed;
};

struct bed {
	EVP_PKEY *root_key;
	X509 *root;
	char *root_pem;
	struct bed_side sides[BED_N_SIDES];
	pthread_t signer;
	pthread_mutex_t lock;
	bool stop;
	uint64_t next_lane;
	uint32_t wid; /* whose lanes of libraries are from now on, on either side */
	unsigned idle_ms, timeout_ms, window;
	unsigned handshake_ms; /* linker_set_handshake_ms(); 0: as it is. From bed_init(): as long as a busy machine needs */
	uint64_t kept_max, rings_max; /* linker_set_kept_max(), linker_set_rings_max(); 0: as it is */
	unsigned joiners_max; /* linker_set_joiners_max(); 0: as it is */
	unsigned chunks_max; /* linker_set_waiting_max(); 0: as it is */
	uint64_t answers_max;
	unsigned sessions_max; /* linker_set_sessions_max(); 0: as it is */
	const char *issued_to; /* bed_certificate(): which host; NULL: somebody */
	int pins[BED_N_SIDES]; /* the CPU of each linker; -1: any */
	enum bed_rdma rdma;
	bool plain[BED_N_SIDES]; /* RDMA_PLAIN, else RDMA_AUTO */
	const char *rdma_at; /* where b says that its device is; NULL: at b's address */
	const char *rdma_said; /* where a's broker says that it is as well; NULL: nowhere */
	int fabric[BED_N_SIDES]; /* owned; -1: the linker's, or none */
	struct fabric_faults *faults; /* of each side; shared with the linkers */
};

/* A lane through both: the application's ends. */
struct bed_lane {
	int client, server; /* the application's; owned */
	uint64_t a, b;	    /* the ids of either broker */
};

/* bed_start() - all is told, no session is there yet. bed_stop() - both linkers are alive until then and end cleanly. */
void bed_init(struct bed *b);
void bed_start(struct bed *b);
void bed_stop(struct bed *b);

void bed_tell(struct bed *b, unsigned side, const struct role_msg *m, int fd);
/* bed_tell_text() - the same with a memfd. */
void bed_tell_text(struct bed *b, unsigned side, const struct role_msg *m, const char *text);
/* bed_hear() - the next message of this type; LB_DIAL is answered on the way, others wait for their turn. *ret_fd: owned, may be NULL. */
struct role_msg bed_hear(struct bed *b, unsigned side, uint32_t type, int *ret_fd);
/* bed_has_heard() - does one wait, after @wait_ms? */
bool bed_has_heard(struct bed *b, unsigned side, uint32_t type, int wait_ms);
/* bed_hear_session() - the next LB_SESSION of that state. */
struct role_session bed_hear_session(struct bed *b, unsigned side, enum session_state state);

/* bed_certificate() - one by the bed's root. @life_s: from now; before: not_before relative to now. *ret: owned. */
X509 *bed_certificate(struct bed *b, EVP_PKEY *key, const char *spiffe_id, int64_t before_s, int64_t life_s);
/* bed_credential() - a new certificate for @kid of @side: for its host, or for "ns/name". */
void bed_credential(struct bed *b, unsigned side, uint32_t kid, const char *service, int64_t life_s);
const char *bed_host(unsigned side); /* "a" */

/* bed_lane() - a lane from web on a to redis on b. bed_carry(): only BL_CARRY; the client's end is returned, *ret_id its lane. */
struct bed_lane bed_lane(struct bed *b);
int bed_carry(struct bed *b, const char *destination, uint64_t *ret_id);
/* bed_go() - answer the next LB_ASK of b with yes. *ret_id: b's lane. Return: the server's end. bed_go_as(): showing @kid. */
int bed_go(struct bed *b, uint64_t *ret_id);
int bed_go_as(struct bed *b, uint32_t kid, uint64_t *ret_id);
void bed_lane_close(struct bed_lane *l);
/* bed_kill() - SIGKILL. bed_revoke() - the whole list. */
void bed_kill(struct bed *b, unsigned side);
void bed_revoke(struct bed *b, unsigned side, const char *text);

/* bed_dial() - a TCP connection to @side's linker, blocking. bed_dial_from(): from 127.0.0.@last. */
int bed_dial(struct bed *b, unsigned side);
int bed_dial_from(struct bed *b, unsigned side, uint8_t last);

#endif
