/* Inside the porter: porter.c (loop, control sockets, connections), porter_lane.c (lanes) and porter_lend.c (those with a linker). One thread. */
#ifndef DAEMON_PORTER_INT_H
#define DAEMON_PORTER_INT_H

#include "base/chan.h"
#include "daemon/porter_table.h"

enum porter_event { PORTER_EVENT_CHANNEL, PORTER_EVENT_SOCKET, PORTER_EVENT_CONN, PORTER_EVENT_LEASH };

/* What is logged once per control socket. */
enum porter_fault {
	PORTER_FAULT_ACCEPT,  /* accept() failed */
	PORTER_FAULT_MESSAGE, /* malformed, or one that has no place there */
	PORTER_FAULT_REGION,
	PORTER_FAULT_SILENT, /* said nothing on its connection */
	PORTER_FAULT_OFFERS, /* does not read or answer what it is offered */
	PORTER_FAULT_N
};

/* A workload's control socket. */
struct porter_socket {
	int fd; /* owned; -1: free */
	uint32_t lid, serial;
	enum identity_method identity;
	uint32_t n_unanswered;
	bool full; /* has as many as it may: not accepted on */
	unsigned warned; /* bits by enum porter_fault */
	uint64_t n_faults;
};

enum { PORTER_STATS_ASKERS = 16 };

struct porter_stats_job {
	uint32_t askers[PORTER_STATS_ASKERS]; /* seq of each */
	uint32_t n_askers;
	uint32_t at; /* next slot to tell of */
};

struct porter {
	int epoll_fd;
	struct chan broker;
	bool broker_armed; /* epoll is asked for EPOLLOUT */
	int error;	   /* why to stop: negative errno or PORTER_BROKER_LEFT */
	struct porter_table table;
	struct porter_socket *sockets;
	uint32_t n_sockets; /* entries in use, free ones among them */
	uint32_t n_open_sockets, n_full, next_serial;
	struct idmap lids;
	uint32_t n_unanswered;
	uint64_t fd_limit;
	bool paused;		  /* no control socket is accepted on */
	uint64_t paused_until_ns; /* after a failed accept */
	uint64_t full_warn_at_ns;
	struct porter_list asking, offering; /* NEW; LENT, QUEUED and OFFERED: the first is due first */
	bool linker_warned; /* a linker's fault was logged */
	uint64_t now_ns;
	struct porter_stats_job stats;
};

/* In porter.c. */
void porter_send(struct porter *p, const struct role_msg *m, int fd);
MUST_CHECK int porter_watch(struct porter *p, enum porter_event kind, uint32_t number, int fd);
/* porter_forget() - stop watching; needed before each close(), since others may hold the same open file. */
void porter_forget(struct porter *p, int fd);
/* porter_fault() - the workload behind @lid did what no library of ours does: count it, log it once. */
void porter_fault(struct porter *p, uint32_t lid, enum porter_fault fault, const char *why);
/* porter_answered() - the connection is not unanswered any more. */
void porter_answered(struct porter *p, struct porter_slot *s);
/* porter_drop() - close all that the slot holds and free it. It must be on no list. */
void porter_drop(struct porter *p, struct porter_slot *s);
/* porter_say() - CTL_ERROR, CTL_CUT or CTL_LISTENING. Whether it arrives is the peer's concern. */
void porter_say(int sock, uint32_t type, int error, const char *why);

/*
 * porter_peer_left() - what an event on a socket on which nothing may be said means.
 * Return: 0: nothing; 1: it closed its end; -EPROTO: it said something.
 */
MUST_CHECK int porter_peer_left(int sock);

/* porter_has_room() - may one more connection be taken, or be made by porter_lend.c? */
bool porter_has_room(const struct porter *p);

/* In porter_lane.c. */

/* porter_lane_offer() - BP_OFFER: begin a lane. Return: 0, also if it came to nothing (PB_CLOSED told so); -EBADMSG. */
MUST_CHECK int porter_lane_offer(struct porter *p, const struct role_offer *m);
/* porter_lane_adopt() - BP_ADOPT; @fd is taken. Return: 0; -EBADMSG. */
MUST_CHECK int porter_lane_adopt(struct porter *p, const struct role_leash *m, int *fd);
void porter_lane_cut(struct porter *p, const struct role_refuse *m);
/* porter_lane_client(), porter_lane_server() - an event on one of its leashes. The slot may be gone afterwards. */
void porter_lane_client(struct porter *p, struct porter_slot *s);
void porter_lane_server(struct porter *p, struct porter_slot *s);
/* porter_lane_refuse_queue() - the listener goes: what waits for it has nowhere to go. */
void porter_lane_refuse_queue(struct porter *p, struct porter_slot *listener);
/* porter_lane_expire() - end those that were not answered in time. */
void porter_lane_expire(struct porter *p);
struct role_stats porter_lane_stats(const struct porter_slot *s);

/* For porter_lend.c, which begins some lanes in another way. */

/* Whoever is offered a lane, or was lent an end of one, has so long. */
#define PORTER_OFFER_NS UINT64_C(10000000000)

/* porter_lane_queue() - a lane with its name, its region and s->pending: offer it, when it is its turn. It is on no list. */
void porter_lane_queue(struct porter *p, struct porter_slot *s, struct porter_slot *listener);
/* porter_lane_offer_on() - bell, leash, and the CTL_OFFER on @sock. Return: 0; negative errno: as if nothing had been done. */
MUST_CHECK int porter_lane_offer_on(struct porter *p, struct porter_slot *s, int sock);
/* porter_lane_end() - off its lists, told to the broker, closed. @why: for the client of a lane that never was open; NULL: it left. */
void porter_lane_end(struct porter *p, struct porter_slot *s, enum lane_end end, int error, const char *why);
/* porter_lane_unborn() - what was asked for came to nothing: PB_CLOSED. */
void porter_lane_unborn(struct porter *p, uint64_t lane_id, enum lane_end end, int error);
/* porter_lane_refuse() - the same, and the asker is told why, and gone. */
void porter_lane_refuse(struct porter *p, struct porter_slot *s, uint64_t lane_id, enum lane_end end, int error, const char *why);

/* In porter_lend.c. */

/* porter_lend() - BP_LEND. Return: 0, also if it came to nothing (PB_CLOSED told so); -EBADMSG. */
MUST_CHECK int porter_lend(struct porter *p, const struct role_lend *m);
/* porter_lend_speaks() - an event on a LENT slot: the linker's first message, or its end. The slot may be gone afterwards. */
void porter_lend_speaks(struct porter *p, struct porter_slot *s);
/* porter_lend_fault() - a linker did what ours never does: logged once. */
void porter_lend_fault(struct porter *p, const char *why);

#endif
