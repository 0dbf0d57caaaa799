/*
 * Lanes of the library through the two linkers of test_linker_bed.h: both libraries are in this process, and so is what the porters do. The
 * linkers have what was lent them; the other end of that, and of each leash, is held here.
 */
#ifndef DAEMON_TEST_LINKER_LIB_H
#define DAEMON_TEST_LINKER_LIB_H

#include "client/lane.h"
#include "daemon/test_linker_bed.h"

/* One end: what its library has, and what the porter has of it. */
struct lib_end {
	struct lane_parts parts; /* until lib_end_lane() made a lane of them */
	int region_fd;		 /* of parts.own */
	int far_bell;		 /* the linker's end, before it is handed over */
	int lent;		 /* the porter's end of what was lent; on b the leash as well */
	int leash, far_leash;	 /* a's */
	uint64_t id;		 /* the broker's */
};

struct lib_lane {
	struct sealane_lane *client, *server;
	struct lib_end a, b;
};

/* lib_end_new() - a region of @cap_log2, a bell, the sockets. */
void lib_end_new(struct lib_end *e, enum link_kind kind, uint32_t cap_log2);
/* lib_carry() - BL_CARRY to BED_REDIS with the offer, whose ring is said to have @said_log2. */
void lib_carry(struct bed *b, struct lib_end *e, enum link_kind kind, uint32_t said_log2);
/* lib_accepted() - LB_OPENED has come: take CTL_ACCEPT. */
void lib_accepted(struct lib_end *e);
/* lib_asked() - answer the next LB_ASK of b with BL_GO and take the CTL_CONNECT. lib_open() - answer that. lib_refuse() - with CTL_ERROR. */
void lib_asked(struct bed *b, struct lib_end *e);
void lib_open(struct lib_end *e);
void lib_refuse(struct lib_end *e, int error);
/* lib_end_lane() - what a library makes of it. */
struct sealane_lane *lib_end_lane(struct lib_end *e);
void lib_end_close(struct lib_end *e);

/* lib_lane() - all of it. @caps: of the client's and the server's ring. */
struct lib_lane lib_lane(struct bed *b, enum link_kind kind, const uint32_t caps[2]);
/* lib_lane_close() - what is left of both ends. */
void lib_lane_close(struct lib_lane *l);

#endif
