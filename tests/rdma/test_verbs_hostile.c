/*
 * A peer that has our token and a queue pair of its own, and does with it what src/rdma never would: SENDs, immediates by wrong keys, a hello that is
 * none. Host b is ours; the peer is written against librdmacm itself. Each has to end in an offence that is counted, with nothing told as an
 * immediate; and what is only a bad way to come in, in nothing.
 */
#include "rdma/verbs.h"
#include "rdma/verbs_lib.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

enum { SIZE = 4096, WAIT_MS = 15000, HELLO_SIZE = 4 + REMOTE_TOKEN_SIZE };

#define MS_NS UINT64_C(1000000)

static const uint8_t g_token[REMOTE_TOKEN_SIZE] = { 4, 5, 6 };

struct scene {
	/* Host b. */
	struct remote *r;
	struct remote_domain *domain;
	struct remote_region *region;
	struct remote_conn *conn;
	struct remote_export *export;
	unsigned n_imms;
	bool up, exported, down;
	enum remote_status why;
	/* The peer. */
	const struct verbs_lib *lib;
	struct rdma_event_channel *events;
	struct rdma_cm_id *id;
	struct ibv_pd *pd;
	struct ibv_cq *cq;
	struct ibv_mr *mr;
	enum rdma_cm_event_type last;
	_Alignas(4096) uint8_t memory[SIZE], peer_memory[SIZE];
};

static unsigned port(void)
{
	const char *base = getenv("SEALANE_RDMA_PORT");

	return base ? (unsigned)atoi(base) : 7444;
}

static const char *ip(void)
{
	const char *address = getenv("SEALANE_RDMA_ADDRESS");

	return address ? address : "127.0.0.1";
}

/* What b is told. */
static void turn(struct scene *s)
{
	struct rdma_cm_event *e;
	struct remote_done d;

	while (remote_poll(s->r, &d, 1) == 1) {
		s->n_imms += d.kind == REMOTE_DONE_IMM;
		s->up |= d.kind == REMOTE_DONE_UP;
		s->exported |= d.kind == REMOTE_DONE_EXPORTED && d.status == REMOTE_OK;
		if (d.kind == REMOTE_DONE_DOWN) {
			s->down = true;
			s->why = d.status;
		}
	}
	if (s->lib->p_rdma_get_cm_event(s->events, &e) == 0) {
		s->last = e->event;
		s->lib->p_rdma_ack_cm_event(e);
	}
	(void)poll(NULL, 0, 1);
}

#define AWAIT(s, what)                                                          \
	for (uint64_t until_ = clock_ns() + WAIT_MS * MS_NS; !(what); turn(s)) \
	assert_true(clock_ns() < until_)

static int set_up(void **state)
{
	struct scene *s = aligned_alloc(4096, (sizeof(*s) + 4095) & ~(size_t)4095);
	const char *why = "";
	char address[64];
	const struct verbs_options o = { .address = address };
	int r;

	assert_non_null(s);
	memset(s, 0, sizeof(*s));
	snprintf(address, sizeof(address), "%s:%u", ip(), port());
	r = remote_verbs_open(&s->r, &o, &why);
	if (r != 0) {
		fprintf(stderr, "%s: %s\n", address, r > 0 ? why : strerror(-r));
		exit(r == VERBS_E_NOT_HERE ? 77 : 1);
	}
	s->lib = verbs_lib_load(&why);
	assert_int_equal(remote_domain_new(&s->domain, s->r, 0), 0);
	assert_int_equal(remote_register(&s->region, s->domain, s->memory, SIZE, REMOTE_MAY_WRITE), 0);
	assert_int_equal(remote_expect(&s->conn, s->domain, g_token), 0);
	s->events = s->lib->p_rdma_create_event_channel();
	assert_non_null(s->events);
	assert_int_equal(fcntl(s->events->fd, F_SETFL, O_NONBLOCK), 0);
	*state = s;
	return 0;
}

static void peer_leave(struct scene *s)
{
	if (!s->id)
		return;
	if (s->id->qp) {
		(void)s->lib->p_rdma_disconnect(s->id);
		s->lib->p_rdma_destroy_qp(s->id);
	}
	if (s->mr)
		(void)s->lib->p_ibv_dereg_mr(s->mr);
	if (s->cq)
		(void)s->lib->p_ibv_destroy_cq(s->cq);
	if (s->pd)
		(void)s->lib->p_ibv_dealloc_pd(s->pd);
	(void)s->lib->p_rdma_destroy_id(s->id);
	s->id = NULL;
	s->mr = NULL;
	s->cq = NULL;
	s->pd = NULL;
}

static int tear_down(void **state)
{
	struct scene *s = *state;

	peer_leave(s);
	s->lib->p_rdma_destroy_event_channel(s->events);
	remote_free(s->r);
	free(s);
	return 0;
}

/* The peer comes, with these bytes. What became of it: s->last. */
static void peer_come(struct scene *s, const void *hello, uint8_t size)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port()) };
	struct rdma_conn_param param = { .private_data = hello, .private_data_len = size, .responder_resources = 1, .initiator_depth = 1,
					 .retry_count = 6, .rnr_retry_count = 6 };
	struct ibv_qp_init_attr attr = { .cap = { .max_send_wr = 8, .max_recv_wr = 8, .max_send_sge = 1, .max_recv_sge = 1 }, .qp_type = IBV_QPT_RC,
					 .sq_sig_all = 1 };

	assert_int_equal(inet_pton(AF_INET, ip(), &to.sin_addr), 1);
	assert_int_equal(s->lib->p_rdma_create_id(s->events, &s->id, NULL, RDMA_PS_TCP), 0);
	assert_int_equal(s->lib->p_rdma_resolve_addr(s->id, NULL, (struct sockaddr *)&to, 2000), 0);
	AWAIT(s, s->last == RDMA_CM_EVENT_ADDR_RESOLVED && s->id->verbs);
	assert_int_equal(s->lib->p_rdma_resolve_route(s->id, 2000), 0);
	AWAIT(s, s->last == RDMA_CM_EVENT_ROUTE_RESOLVED);
	s->pd = s->lib->p_ibv_alloc_pd(s->id->verbs);
	s->cq = s->lib->p_ibv_create_cq(s->id->verbs, 64, NULL, NULL, 0);
	assert_non_null(s->pd);
	assert_non_null(s->cq);
	s->mr = s->lib->p_ibv_reg_mr_iova(s->pd, s->peer_memory, SIZE, (uintptr_t)s->peer_memory, IBV_ACCESS_LOCAL_WRITE);
	assert_non_null(s->mr);
	attr.send_cq = attr.recv_cq = s->cq;
	assert_int_equal(s->lib->p_rdma_create_qp(s->id, s->pd, &attr), 0);
	assert_int_equal(s->lib->p_rdma_connect(s->id, &param), 0);
	AWAIT(s, s->last == RDMA_CM_EVENT_ESTABLISHED || s->last == RDMA_CM_EVENT_REJECTED || s->last == RDMA_CM_EVENT_UNREACHABLE);
}

static void hello_make(uint8_t hello[HELLO_SIZE])
{
	memset(hello, 0, HELLO_SIZE);
	hello[0] = 1;
	memcpy(hello + 4, g_token, REMOTE_TOKEN_SIZE);
}

static void peer_join(struct scene *s)
{
	uint8_t hello[HELLO_SIZE];

	hello_make(hello);
	peer_come(s, hello, HELLO_SIZE);
	assert_int_equal(s->last, RDMA_CM_EVENT_ESTABLISHED);
	AWAIT(s, s->up);
	assert_int_equal(remote_export(&s->export, s->conn, s->region, 0, SIZE, REMOTE_MAY_WRITE), 0);
	AWAIT(s, s->exported);
}

static void peer_post(struct scene *s, enum ibv_wr_opcode opcode, uint32_t size, uint32_t rkey)
{
	const struct remote_key *key = remote_export_key(s->export);
	struct ibv_sge sge = { (uintptr_t)s->peer_memory, size, s->mr->lkey };
	struct ibv_send_wr wr = { .sg_list = &sge, .num_sge = size > 0, .opcode = opcode, .imm_data = htonl(77) }, *bad;

	wr.wr.rdma.remote_addr = key->base;
	wr.wr.rdma.rkey = rkey;
	assert_int_equal(ibv_post_send(s->id->qp, &wr, &bad), 0);
}

/* It ends as an offence, counted once, and nothing of it was told as an immediate. */
static void offends(struct scene *s)
{
	AWAIT(s, s->down);
	if (s->why != REMOTE_OFFENCE)
		fail_msg("its end was no offence but %s", remote_status_name(s->why));
	assert_int_equal(remote_domain_offences(s->domain, REMOTE_STATUS_N), 1);
	assert_true(remote_domain_quarantine_ns(s->domain) > 0);
	assert_int_equal(s->n_imms, 0);
}

static void test_an_honest_immediate(void **state)
{
	struct scene *s = *state;

	peer_join(s);
	peer_post(s, IBV_WR_RDMA_WRITE_WITH_IMM, 64, remote_export_key(s->export)->key);
	AWAIT(s, s->n_imms == 1);
	peer_leave(s);
	AWAIT(s, s->down);
	assert_int_equal(s->why, REMOTE_PEER_GONE);
	assert_int_equal(remote_domain_offences(s->domain, REMOTE_STATUS_N), 0);
}

static void test_a_send_of_nothing(void **state)
{
	struct scene *s = *state;

	peer_join(s);
	peer_post(s, IBV_WR_SEND, 0, 0);
	offends(s);
}

static void test_a_send_with_an_immediate(void **state)
{
	struct scene *s = *state;

	peer_join(s);
	peer_post(s, IBV_WR_SEND_WITH_IMM, 0, 0);
	offends(s);
}

static void test_a_send_of_bytes(void **state)
{
	struct scene *s = *state;

	peer_join(s);
	peer_post(s, IBV_WR_SEND, 64, 0);
	offends(s);
}

static void test_an_immediate_by_a_wrong_key(void **state)
{
	struct scene *s = *state;

	peer_join(s);
	peer_post(s, IBV_WR_RDMA_WRITE_WITH_IMM, 64, remote_export_key(s->export)->key + 0x10000);
	offends(s);
	for (unsigned i = 0; i < SIZE; i++)
		assert_int_equal(s->memory[i], 0);
}

static void test_a_peer_that_only_leaves(void **state)
{
	struct scene *s = *state;

	peer_join(s);
	peer_leave(s);
	AWAIT(s, s->down);
	assert_int_equal(s->why, REMOTE_PEER_GONE);
	assert_int_equal(remote_domain_offences(s->domain, REMOTE_STATUS_N), 0);
}

/* None of these gets in, nor uses up what is expected; the right one does then, once. */
static void test_hellos_that_are_none(void **state)
{
	struct scene *s = *state;
	uint8_t hello[HELLO_SIZE];

	hello_make(hello);
	for (unsigned i = 0; i < 5; i++) {
		uint8_t bad[HELLO_SIZE];

		memcpy(bad, hello, HELLO_SIZE);
		if (i == 0)
			bad[0] = 2;
		else if (i == 1)
			bad[3] = 1;
		else if (i == 2)
			bad[HELLO_SIZE - 1] ^= 1;
		else if (i == 3)
			memset(bad + 4, 0, REMOTE_TOKEN_SIZE);
		peer_come(s, bad, i == 4 ? 0 : HELLO_SIZE);
		assert_int_equal(s->last, RDMA_CM_EVENT_REJECTED);
		peer_leave(s);
	}
	assert_false(s->up);
	peer_join(s);
	peer_leave(s);
	AWAIT(s, s->down);
	s->last = RDMA_CM_EVENT_ADDR_ERROR;
	peer_come(s, hello, HELLO_SIZE);
	assert_int_equal(s->last, RDMA_CM_EVENT_REJECTED);
}

int main(void)
{
#define ON_SCENE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		ON_SCENE(test_an_honest_immediate),
		ON_SCENE(test_a_send_of_nothing),
		ON_SCENE(test_a_send_with_an_immediate),
		ON_SCENE(test_a_send_of_bytes),
		ON_SCENE(test_an_immediate_by_a_wrong_key),
		ON_SCENE(test_a_peer_that_only_leaves),
		ON_SCENE(test_hellos_that_are_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
