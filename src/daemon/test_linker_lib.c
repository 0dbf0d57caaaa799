#include "daemon/test_linker_lib.h"

#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>

#define MUST(x)                                                                                      \
	do {                                                                                         \
		if (!(x)) {                                                                          \
			fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #x, strerror(errno)); \
			abort();                                                                     \
		}                                                                                    \
	} while (0)

static struct control_lane lane_words(enum link_kind kind, uint32_t cap_log2)
{
	struct control_lane l = { .lane_id = 1, .kind = kind - 1u, .cap_log2 = cap_log2, .path = "link" };

	snprintf(l.peer.service, sizeof(l.peer.service), "%s", BED_REDIS);
	return l;
}

static void pair_of(int type, int *ret_ours, int *ret_theirs)
{
	int pair[2];

	MUST(socketpair(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	*ret_ours = pair[0];
	*ret_theirs = pair[1];
}

void lib_end_new(struct lib_end *e, enum link_kind kind, uint32_t cap_log2)
{
	*e = (struct lib_end){ .lent = -1, .leash = -1, .far_leash = -1, .region_fd = -1 };
	e->parts = (struct lane_parts){ .leash = -1, .kind = (enum sealane_kind)(kind - 1), .wait = SEALANE_WAIT_ADAPTIVE, .path = "link" };
	MUST(region_create(&e->parts.own, &e->region_fd, cap_log2, 0) == 0);
	pair_of(SOCK_STREAM, &e->parts.bell, &e->far_bell);
}

void lib_carry(struct bed *b, struct lib_end *e, enum link_kind kind, uint32_t said_log2)
{
	struct role_msg m = { .type = BL_CARRY, .u.carry = { .hid = BED_HID, .kid = BED_KID_WEB, .kind = kind, .wid = b->wid, .lane_id = ++b->next_lane } };
	struct control_msg offer = { .type = CTL_OFFER, .version = CONTROL_VERSION, .u.lane = lane_words(kind, said_log2) };
	int theirs;

	pair_of(SOCK_SEQPACKET, &e->lent, &theirs);
	pair_of(SOCK_SEQPACKET, &e->leash, &e->far_leash);
	MUST(control_send(e->lent, &offer, (const int[]){ e->region_fd, e->far_bell, e->far_leash }) == 0);
	close(take_fd(&e->far_bell));
	close(take_fd(&e->far_leash));
	snprintf(m.u.carry.destination, sizeof(m.u.carry.destination), "%s", BED_REDIS);
	bed_tell(b, BED_A, &m, theirs);
	close(theirs);
	e->id = m.u.carry.lane_id;
}

/* The linker's region, from its CTL_CONNECT or CTL_ACCEPT. */
static void take_region(struct lib_end *e, int sock, enum control_type type)
{
	struct pollfd p = { .fd = sock, .events = POLLIN };
	int fds[CONTROL_FDS];
	struct control_msg m;

	MUST(poll(&p, 1, BED_WAIT_MS) == 1);
	MUST(control_recv(sock, &m, fds) == 1 && m.type == type);
	MUST(region_map_peer(&e->parts.peer, fds[0], type == CTL_CONNECT ? m.u.ask.cap_log2 : m.u.lane.cap_log2) == 0);
	close(fds[0]);
}

void lib_accepted(struct lib_end *e)
{
	take_region(e, e->leash, CTL_ACCEPT);
}

void lib_asked(struct bed *b, struct lib_end *e)
{
	struct role_msg ask = bed_hear(b, BED_B, LB_ASK, NULL);
	struct role_msg m = { .type = BL_GO, .u.link_go = { .ask = ask.u.link_ask.ask, .kid = BED_KID_REDIS, .wid = b->wid, .lane_id = ++b->next_lane } };
	int theirs;

	MUST(ask.u.link_ask.kind == (uint32_t)e->parts.kind + 1);
	pair_of(SOCK_SEQPACKET, &e->lent, &theirs);
	bed_tell(b, BED_B, &m, theirs);
	close(theirs);
	e->id = m.u.link_go.lane_id;
	take_region(e, e->lent, CTL_CONNECT);
}

void lib_open(struct lib_end *e)
{
	struct control_msg m = { .type = CTL_OPEN, .version = CONTROL_VERSION, .u.lane = lane_words((enum link_kind)(e->parts.kind + 1), e->parts.own.cap_log2) };

	MUST(control_send(e->lent, &m, (const int[]){ e->region_fd, e->far_bell }) == 0);
	close(take_fd(&e->far_bell));
}

void lib_refuse(struct lib_end *e, int error)
{
	struct control_msg m = { .type = CTL_ERROR, .version = CONTROL_VERSION, .u.error.error = error };

	MUST(control_send(e->lent, &m, NULL) == 0);
}

struct sealane_lane *lib_end_lane(struct lib_end *e)
{
	static const struct control_identity who = { .service = "the other host's" };
	struct sealane_lane *lane = NULL;

	e->parts.identity = &who;
	MUST(lane_make(&lane, &e->parts) == 0);
	return lane;
}

void lib_end_close(struct lib_end *e)
{
	lane_parts_drop(&e->parts);
	fd_cleanup(&e->region_fd);
	fd_cleanup(&e->far_bell);
	fd_cleanup(&e->lent);
	fd_cleanup(&e->leash);
	fd_cleanup(&e->far_leash);
}

struct lib_lane lib_lane(struct bed *b, enum link_kind kind, const uint32_t caps[2])
{
	struct lib_lane l = {};

	lib_end_new(&l.a, kind, caps[0]);
	lib_end_new(&l.b, kind, caps[1]);
	lib_carry(b, &l.a, kind, caps[0]);
	lib_asked(b, &l.b);
	lib_open(&l.b);
	MUST(bed_hear(b, BED_A, LB_OPENED, NULL).u.lane_ref.lane_id == l.a.id);
	lib_accepted(&l.a);
	l.client = lib_end_lane(&l.a);
	l.server = lib_end_lane(&l.b);
	return l;
}

void lib_lane_close(struct lib_lane *l)
{
	sealane_close(l->client);
	sealane_close(l->server);
	lib_end_close(&l->a);
	lib_end_close(&l->b);
}
