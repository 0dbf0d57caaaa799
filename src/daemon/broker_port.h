/* What broker_port.c, broker_shm.c and the files that make lanes of libraries to other hosts say to each other; nobody else includes this. */
#ifndef DAEMON_BROKER_PORT_H
#define DAEMON_BROKER_PORT_H

#include "daemon/broker_int.h"

/* A connection that takes lanes for a service. Made by BP_LISTENING; ends with its connection, or when it may not any more. */
struct port_listener {
	uint32_t cid;
	uint64_t serial; /* cids come back, this never */
	uint32_t wid, generation, sid;
	struct service_name service;
	uint32_t kind; /* enum control_kind */
	uint32_t pid;
	uint32_t n_lanes; /* offered and open */
	uint64_t picked;  /* counts choices: who was chosen longest ago is next among equals */
	struct port_listener *prev, *next; /* of service->listeners */
	UT_hash_handle hh;
};

/*
 * port_pick() - the listener that gets the next lane of @kind (enum control_kind; CONTROL_KIND_N: any): that with the fewest, in turn among
 * equals. NULL: *ret_error, and a line for people in @why: -ECONNREFUSED: nobody listens; -EPROTOTYPE: for another kind; -EACCES: drained.
 * port_picked() - it gets it: port_lane_ended() takes it back.
 */
struct port_listener *port_pick(struct broker *b, const struct service *s, uint32_t kind, int *ret_error, char *why, size_t size);
void port_picked(struct port_listener *li);

/* port_identity() - who a workload of this host is, as libraries are told. */
void port_identity(const struct broker *b, struct control_identity *id, const struct service_name *s, const struct workload *w);

/* port_lane_ended() - its listener has one less, if it is still the same. */
void port_lane_ended(const struct lane *l);

/* port_needs_socket() - an allowing intention that only the socket file can hold: the daemon does not see shared memory's bytes. */
bool port_needs_socket(const struct intention *i);

/*
 * shm_offer() - join the asker, who was allowed and admitted (its place in @pair's quota is the lane's from here), and @to.
 * Return: 0 or -ENOMEM, then nothing was done.
 */
MUST_CHECK int shm_offer(struct broker *b, const struct role_ask *q, struct workload *client, const struct service_name *source,
			 struct port_listener *to, const struct intention *i, struct pair *pair);

/* shm_on_porter_lost() - offers are gone; lanes go on, and wait for shm_adopt(). */
void shm_on_porter_lost(struct broker *b);

/* shm_n_lanes() - offered and open. */
size_t shm_n_lanes(void);

#endif
