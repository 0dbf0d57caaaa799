/*
 * Theory of operation
 *
 * One device, found by the address that it has; a listener on that address; one epoll set of the four descriptors that tell something:
 * librdmacm's events, completions, the device's own events, and a timer. Everything that has to be opened is opened in remote_verbs_open().
 *
 *   connect  resolve_addr -> ADDR_RESOLVED -> resolve_route -> ROUTE_RESOLVED -> queue pair, connect with the token -> ESTABLISHED
 *   expect   nothing; CONNECT_REQUEST with its token -> queue pair, accept -> ESTABLISHED
 *   post     one chain of work requests, one doorbell. wr_id: the operation's number, or a receive, or an export's pointer
 *   poll     each connection's completion queue, which takes no system call; librdmacm's events and the device's, which take some, after a
 *            sleep and every EVENTS_US, so that who polls without sleeping does not pay for them each time; now and then a look at queue pairs
 *
 * A domain is a protection domain; a connection has one queue pair and one completion queue, whose receives have no buffers. A region is one
 * registration without remote rights; exports are windows of type 2 bound to the connection, or, on devices without them, registrations of
 * their own. Registrations begin at made-up addresses (iova), so that no address of this process travels.
 *
 * A queue pair that is in error though nothing of ours failed and nobody disconnected was put there by an access of the peer that the
 * device refused. Devices differ in how they tell: an event, flushed receives, or nothing; hence look_at().
 *
 * What must never happen: an event of librdmacm that is handled before it was acknowledged (destroying its id would wait for ever);
 * a window freed after its queue pair (rxe's keeps the pair alive); a call here that waits for the peer.
 */
#include "rdma/verbs.h"

#include "base/address.h"
#include "rdma/remote_int.h"
#include "rdma/verbs_lib.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

enum {
	INLINE_MAX = 64,
	/* Windows that may be on their way to be bound or made void, in the same queue as operations. */
	BINDS_MAX = 32,
	CQ_SIZE = LIMIT_RDMA_OPS + BINDS_MAX + LIMIT_RDMA_RECVS,
	POLL_BATCH = 32,
	/* READs and atomics under way at a time, if the device has so many. */
	READS_MAX = 16,
	BACKLOG = 16,
	/* Of librdmacm's events in one turn: whoever asks for connections without end keeps no completion waiting. */
	CM_BATCH = 64,
	/* Of acknowledgements: 4.096 us * 2^14 = 67 ms. 7 retries would be without end on some devices. */
	ACK_TIMEOUT = 14,
	RETRIES = 6,
	RESOLVE_MS = 2000,
	/* Between two looks at events of one who never sleeps: long beside a READ (2 us), short beside anything that an event tells. */
	EVENTS_US = 20,
	/* drivers/infiniband/sw/rxe/rxe_param.h; its windows have no bounds (Linux 6.1, check_rkey() in rxe_resp.c): found by test_remote.c. */
	VENDOR_RXE = 0xffffff,
	HELLO_VERSION = 1,
	HELLO_SIZE = 4 + REMOTE_TOKEN_SIZE, /* version, zeros; RDMA_PS_TCP takes 56 */
};

#define US_NS UINT64_C(1000)
#define MS_NS UINT64_C(1000000)
#define WR_RECV (UINT64_C(1) << 63)
#define WR_EXPORT (UINT64_C(1) << 62)
/* Where made-up addresses begin, and what lies between two: an access past an end meets nothing. */
#define IOVA_FIRST (UINT64_C(1) << 40)
#define IOVA_GAP (UINT64_C(1) << 20)

struct verbs_domain {
	struct remote_domain base;
	struct ibv_pd *pd;
};

struct verbs_region {
	struct remote_region base;
	struct ibv_mr *mr;
	uint64_t iova;
};

struct verbs_conn {
	struct remote_conn base;
	LIST_ENTRY(verbs_conn) of_device; /* while it has an id, or is expected */
	struct rdma_cm_id *id;		  /* owned; NULL: none yet */
	struct ibv_cq *cq;		  /* owned; with the queue pair */
	struct sockaddr_storage to;
	unsigned n_binds; /* in the queue */
};

struct verbs_export {
	struct remote_export base;
	struct ibv_mw *mw; /* owned; on devices with windows */
	struct ibv_mr *mr; /* owned; on others */
};

struct verbs {
	struct remote base;
	const struct verbs_lib *lib;
	struct ibv_context *device; /* librdmacm's, which never closes it */
	struct rdma_event_channel *events;
	struct rdma_cm_id *listener;
	struct ibv_comp_channel *completions;
	int epoll_fd, timer_fd;
	struct sockaddr_storage address; /* ours */
	uint8_t n_reads;
	uint64_t next_iova;
	uint64_t look_ns; /* at queue pairs, next */
	uint64_t events_ns; /* for events, next; 0: at once */
	LIST_HEAD(, verbs_conn) conns;
	/* Of verbs_post() and poll_queue() alone: on the stack the compiler would clear their 20 KiB at every call, which costs more than posting. */
	struct ibv_send_wr wrs[LIMIT_RDMA_OPS];
	struct ibv_sge sges[LIMIT_RDMA_OPS];
	struct ibv_wc wcs[POLL_BATCH];
};

static struct verbs *verbs_of(const struct remote_conn *c)
{
	return (struct verbs *)remote_of(c);
}

static struct verbs_conn *verbs_conn_of(struct remote_conn *c)
{
	return (struct verbs_conn *)c;
}

/* -- queue pairs */

static int post_receives(struct verbs_conn *c, unsigned n)
{
	struct ibv_recv_wr wr = { .wr_id = WR_RECV }, *bad;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < n; i++)
		r = ibv_post_recv(c->id->qp, &wr, &bad);
	return r ? -EIO : 0;
}

/* A queue pair for c->id, with its receives. Return: 0, or -EIO with nothing left behind but what conn_end() takes away. */
static int make_queue_pair(struct verbs_conn *c)
{
	struct verbs *v = verbs_of(&c->base);
	struct ibv_qp_init_attr attr = {
		.qp_context = c,
		.cap = { .max_send_wr = LIMIT_RDMA_OPS + BINDS_MAX, .max_recv_wr = LIMIT_RDMA_RECVS, .max_send_sge = 1, .max_recv_sge = 1,
			 .max_inline_data = INLINE_MAX },
		.qp_type = IBV_QPT_RC,
	};

	if (c->id->verbs != v->device)
		return -EIO; /* the way to the peer is through another device */
	c->cq = v->lib->p_ibv_create_cq(v->device, CQ_SIZE, c, v->completions, 0);
	if (!c->cq)
		return -EIO;
	attr.send_cq = attr.recv_cq = c->cq;
	if (v->lib->p_rdma_create_qp(c->id, ((struct verbs_domain *)c->base.domain)->pd, &attr) != 0)
		return -EIO;
	return post_receives(c, LIMIT_RDMA_RECVS);
}

/* Only a wish: devices that have no such option end a connection later, and remote.c's time holds in any case. */
static void wish_ack_timeout(struct verbs *v, struct rdma_cm_id *id)
{
	uint8_t timeout = ACK_TIMEOUT;

	(void)v->lib->p_rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &timeout, sizeof(timeout));
}

static struct rdma_conn_param conn_param(const struct verbs *v, const void *hello, uint8_t size)
{
	return (struct rdma_conn_param){
		.private_data = hello,
		.private_data_len = size,
		.responder_resources = v->n_reads,
		.initiator_depth = v->n_reads,
		.retry_count = RETRIES,
		.rnr_retry_count = RETRIES,
	};
}

static bool is_in_error(struct verbs_conn *c)
{
	struct ibv_qp_attr attr;
	struct ibv_qp_init_attr init;

	return verbs_of(&c->base)->lib->p_ibv_query_qp(c->id->qp, &attr, IBV_QP_STATE, &init) == 0 && attr.qp_state == IBV_QPS_ERR;
}

/* -- completions */

static enum remote_status status_of(enum ibv_wc_status s)
{
	switch (s) {
	case IBV_WC_SUCCESS:
		return REMOTE_OK;
	case IBV_WC_REM_ACCESS_ERR:
		return REMOTE_ACCESS;
	case IBV_WC_RETRY_EXC_ERR:
		return REMOTE_PEER_GONE;
	case IBV_WC_RNR_RETRY_EXC_ERR:
		return REMOTE_TIMEOUT;
	default:
		return REMOTE_BROKEN;
	}
}

static void on_export(struct verbs_conn *c, struct verbs_export *e, enum remote_status s)
{
	c->n_binds--;
	if (s != REMOTE_OK)
		remote_conn_fail(&c->base, s);
	else if (e->base.state == EXPORT_BINDING)
		remote_export_bound(&e->base, REMOTE_OK);
	else
		remote_export_unbound(&e->base);
}

/* Receives have no buffers, so only a WRITE with immediate completes one well, and what fails one is what the peer sent, unless the device broke. */
static void on_receive(struct verbs_conn *c, const struct ibv_wc *wc)
{
	switch (wc->status) {
	case IBV_WC_SUCCESS:
		if (wc->opcode == IBV_WC_RECV_RDMA_WITH_IMM)
			remote_conn_imm(&c->base, ntohl(wc->imm_data));
		else
			remote_conn_offended(&c->base, REMOTE_BROKEN); /* a SEND, which is no operation of ours */
		break;
	case IBV_WC_FATAL_ERR:
	case IBV_WC_GENERAL_ERR:
		remote_conn_fail(&c->base, REMOTE_BROKEN);
		break;
	default:
		remote_conn_offended(&c->base, REMOTE_ACCESS);
	}
}

static void on_completion(struct verbs_conn *c, const struct ibv_wc *wc)
{
	enum remote_status s = status_of(wc->status);

	/* Flushed: something else came first. A look, when the queue is empty, tells what; if it is a disconnect, its event comes. */
	if (wc->status == IBV_WC_WR_FLUSH_ERR)
		verbs_of(&c->base)->look_ns = 0;
	else if (wc->wr_id & WR_RECV)
		on_receive(c, wc);
	else if (wc->wr_id & WR_EXPORT)
		on_export(c, (struct verbs_export *)(uintptr_t)(wc->wr_id & ~WR_EXPORT), s);
	else
		remote_conn_done(&c->base, wc->wr_id, s);
}

/* Return: true: there was something. */
static bool poll_queue(struct verbs_conn *c)
{
	struct ibv_wc *wc = verbs_of(&c->base)->wcs;
	bool any = false;
	int n;

	do {
		if (c->base.state != REMOTE_UP)
			return any;
		n = ibv_poll_cq(c->cq, POLL_BATCH, wc);
		if (n < 0)
			remote_conn_fail(&c->base, REMOTE_BROKEN);
		for (int i = 0; i < n && c->base.state == REMOTE_UP; i++)
			on_completion(c, &wc[i]);
		any |= n != 0;
	} while (n == POLL_BATCH);
	return any;
}

/* If the queue pair is in error and nothing of ours failed, the peer did it. */
static bool look_at(struct verbs_conn *c)
{
	if (c->base.state != REMOTE_UP || !is_in_error(c))
		return false;
	/* What failed may have completed since the queue was looked at: a peer that died is no offender. */
	(void)poll_queue(c);
	if (c->base.state == REMOTE_UP)
		remote_conn_offended(&c->base, REMOTE_ACCESS);
	return true;
}

/* What woke us says only that a queue has something; all are looked at anyway. */
static void drain_notices(struct verbs *v)
{
	struct ibv_cq *cq;
	void *context;

	while (v->lib->p_ibv_get_cq_event(v->completions, &cq, &context) == 0)
		v->lib->p_ibv_ack_cq_events(cq, 1);
}

static void drain_device_events(struct verbs *v, bool *ret_gone)
{
	struct ibv_async_event e;

	while (v->lib->p_ibv_get_async_event(v->device, &e) == 0) {
		enum ibv_event_type type = e.event_type;

		v->lib->p_ibv_ack_async_event(&e);
		if (type == IBV_EVENT_DEVICE_FATAL)
			*ret_gone = true;
		v->look_ns = 0; /* whatever it was about, look at all queue pairs */
	}
}

/* -- librdmacm's events */

static void on_route(struct verbs_conn *c)
{
	struct verbs *v = verbs_of(&c->base);
	uint8_t hello[HELLO_SIZE] = { HELLO_VERSION };
	struct rdma_conn_param param = conn_param(v, hello, sizeof(hello));

	memcpy(hello + 4, c->base.token, REMOTE_TOKEN_SIZE);
	if (make_queue_pair(c) < 0 || v->lib->p_rdma_connect(c->id, &param) != 0)
		remote_conn_fail(&c->base, REMOTE_BROKEN);
	explicit_bzero(hello, sizeof(hello));
}

/* Somebody comes. @hello: of librdmacm's private data, at least HELLO_SIZE; hostile. */
static void on_request(struct verbs *v, struct rdma_cm_id *id, const uint8_t *hello)
{
	static const uint8_t version[4] = { HELLO_VERSION };
	struct remote_conn *base = memcmp(hello, version, 4) == 0 ? remote_conn_by_token(&v->base, hello + 4) : NULL;
	struct rdma_conn_param param = conn_param(v, NULL, 0);
	struct verbs_conn *c = base ? verbs_conn_of(base) : NULL;

	if (!c) {
		(void)v->lib->p_rdma_reject(id, NULL, 0);
		(void)v->lib->p_rdma_destroy_id(id);
		return;
	}
	c->id = id;
	id->context = c;
	wish_ack_timeout(v, id);
	if (make_queue_pair(c) < 0 || v->lib->p_rdma_accept(id, &param) != 0)
		remote_conn_fail(base, REMOTE_BROKEN);
}

static void on_conn_event(struct verbs_conn *c, enum rdma_cm_event_type type)
{
	struct verbs *v = verbs_of(&c->base);

	switch (type) {
	case RDMA_CM_EVENT_ADDR_RESOLVED:
		if (v->lib->p_rdma_resolve_route(c->id, RESOLVE_MS) != 0)
			remote_conn_fail(&c->base, REMOTE_PEER_GONE);
		break;
	case RDMA_CM_EVENT_ROUTE_RESOLVED:
		on_route(c);
		break;
	case RDMA_CM_EVENT_ESTABLISHED:
		if (c->base.state == REMOTE_CONNECTING)
			remote_conn_up(&c->base);
		break;
	case RDMA_CM_EVENT_REJECTED:
		remote_conn_fail(&c->base, REMOTE_REFUSED);
		break;
	case RDMA_CM_EVENT_DISCONNECTED:
		/* What completed before it comes first, and so does an offence, after which a peer disconnects. */
		(void)poll_queue(c);
		if (!look_at(c))
			remote_conn_fail(&c->base, REMOTE_PEER_GONE);
		break;
	case RDMA_CM_EVENT_ADDR_ERROR:
	case RDMA_CM_EVENT_ROUTE_ERROR:
	case RDMA_CM_EVENT_CONNECT_ERROR:
	case RDMA_CM_EVENT_UNREACHABLE:
		remote_conn_fail(&c->base, REMOTE_PEER_GONE);
		break;
	case RDMA_CM_EVENT_DEVICE_REMOVAL:
		remote_conn_fail(&c->base, REMOTE_BROKEN);
		break;
	default:
		break;
	}
}

static void drain_cm_events(struct verbs *v)
{
	struct rdma_cm_event *e;

	for (unsigned i = 0; i < CM_BATCH && v->lib->p_rdma_get_cm_event(v->events, &e) == 0; i++) {
		enum rdma_cm_event_type type = e->event;
		uint8_t hello[HELLO_SIZE] = {};
		struct rdma_cm_id *id = e->id;

		if (type == RDMA_CM_EVENT_CONNECT_REQUEST && e->param.conn.private_data_len >= HELLO_SIZE)
			memcpy(hello, e->param.conn.private_data, HELLO_SIZE);
		v->lib->p_rdma_ack_cm_event(e);
		if (type == RDMA_CM_EVENT_CONNECT_REQUEST)
			on_request(v, id, hello);
		else if (id->context)
			on_conn_event(id->context, type);
		explicit_bzero(hello, sizeof(hello));
	}
}

/* -- the backend's calls */

static uint64_t verbs_now_ns(const struct remote *r)
{
	return clock_ns();
}

static int verbs_poll(struct remote *r)
{
	struct verbs *v = (struct verbs *)r;
	uint64_t now = clock_ns();
	bool gone = false, events = now >= v->events_ns;
	struct verbs_conn *c, *next;

	if (events)
		drain_notices(v);
	/* One may take others of its domain out of the list; they stay allocated, and what they point to leads back into it. */
	for (c = LIST_FIRST(&v->conns); c; c = next) {
		next = LIST_NEXT(c, of_device);
		(void)poll_queue(c);
	}
	if (events) {
		drain_cm_events(v);
		drain_device_events(v, &gone);
		v->events_ns = now + EVENTS_US * US_NS;
	}
	if (now >= v->look_ns) {
		v->look_ns = now + LIMIT_RDMA_LOOK_MS * MS_NS;
		for (c = LIST_FIRST(&v->conns); c; c = next) {
			next = LIST_NEXT(c, of_device);
			(void)look_at(c);
		}
	}
	return gone ? -EIO : 0;
}

static int verbs_fd(const struct remote *r)
{
	return ((const struct verbs *)r)->epoll_fd;
}

static int verbs_arm(struct remote *r)
{
	struct verbs *v = (struct verbs *)r;
	uint64_t due = v->base.due_ns < v->look_ns ? v->base.due_ns : v->look_ns;
	struct itimerspec at = { .it_value = { (time_t)(due / 1000000000), (long)(due % 1000000000) + 1 } };
	struct verbs_conn *c;

	if (LIST_EMPTY(&v->conns))
		at.it_value = (struct timespec){ 0, 0 };
	if (at.it_value.tv_nsec > 999999999)
		at.it_value.tv_nsec = 999999999;
	if (timerfd_settime(v->timer_fd, TFD_TIMER_ABSTIME, &at, NULL) < 0)
		return -errno;
	v->events_ns = 0;
	LIST_FOREACH(c, &v->conns, of_device)
		if (c->base.state == REMOTE_UP && ibv_req_notify_cq(c->cq, 0) != 0)
			return -EIO;
	/* What came before the queues were told to notify. */
	for (c = LIST_FIRST(&v->conns); c; c = LIST_NEXT(c, of_device))
		if (poll_queue(c))
			return REMOTE_E_READY;
	return 0;
}

static int verbs_domain_begin(struct remote_domain *base)
{
	struct verbs *v = (struct verbs *)base->remote;
	struct verbs_domain *d = (struct verbs_domain *)base;

	d->pd = v->lib->p_ibv_alloc_pd(v->device);
	return d->pd ? 0 : -ENOMEM;
}

static void verbs_domain_end(struct remote_domain *base)
{
	(void)((struct verbs *)base->remote)->lib->p_ibv_dealloc_pd(((struct verbs_domain *)base)->pd);
}

/* A registration of @size bytes at @memory under a made-up address. */
static struct ibv_mr *register_at(struct verbs *v, struct ibv_pd *pd, uint8_t *memory, uint64_t size, int access)
{
	uint64_t iova = v->next_iova + ((uintptr_t)memory & 4095); /* devices want the same place in the page */

	v->next_iova += ((size + 4095) & ~UINT64_C(4095)) + IOVA_GAP;
	return v->lib->p_ibv_reg_mr_iova(pd, memory, size, iova, access);
}

static int verbs_region_begin(struct remote_region *base)
{
	struct verbs *v = (struct verbs *)base->domain->remote;
	struct verbs_region *g = (struct verbs_region *)base;

	g->iova = v->next_iova + ((uintptr_t)base->memory & 4095);
	g->mr = register_at(v, ((struct verbs_domain *)base->domain)->pd, base->memory, base->size,
			    IBV_ACCESS_LOCAL_WRITE | (v->base.caps.windows ? IBV_ACCESS_MW_BIND : 0));
	return g->mr ? 0 : -errno;
}

static void verbs_region_end(struct remote_region *base)
{
	struct verbs *v = (struct verbs *)base->domain->remote;

	(void)v->lib->p_ibv_dereg_mr(((struct verbs_region *)base)->mr);
}

static int verbs_expect(struct remote_conn *base)
{
	LIST_INSERT_HEAD(&verbs_of(base)->conns, verbs_conn_of(base), of_device);
	return 0;
}

static int verbs_connect(struct remote_conn *base, const char *address)
{
	struct verbs *v = verbs_of(base);
	struct verbs_conn *c = verbs_conn_of(base);
	struct sockaddr_storage from = v->address;
	socklen_t size;

	if (address_parse(address, &c->to, &size) < 0 || c->to.ss_family != from.ss_family)
		return -EINVAL;
	if (from.ss_family == AF_INET6)
		((struct sockaddr_in6 *)&from)->sin6_port = 0;
	else
		((struct sockaddr_in *)&from)->sin_port = 0;
	if (v->lib->p_rdma_create_id(v->events, &c->id, c, RDMA_PS_TCP) != 0)
		return -errno;
	wish_ack_timeout(v, c->id);
	if (v->lib->p_rdma_resolve_addr(c->id, (struct sockaddr *)&from, (struct sockaddr *)&c->to, RESOLVE_MS) != 0) {
		int e = errno;

		(void)v->lib->p_rdma_destroy_id(c->id);
		c->id = NULL;
		return -e;
	}
	LIST_INSERT_HEAD(&v->conns, c, of_device);
	return 0;
}

static void verbs_export_end(struct remote_export *base)
{
	struct verbs_export *e = (struct verbs_export *)base;

	if (e->mw)
		(void)ibv_dealloc_mw(e->mw);
	if (e->mr)
		(void)verbs_of(base->conn)->lib->p_ibv_dereg_mr(e->mr);
	e->mw = NULL;
	e->mr = NULL;
}

static void verbs_conn_end(struct remote_conn *base)
{
	struct verbs *v = verbs_of(base);
	struct verbs_conn *c = verbs_conn_of(base);
	struct remote_export *e;

	LIST_REMOVE(c, of_device);
	if (!c->id)
		return;
	if (c->id->qp) {
		struct ibv_qp_attr attr = { .qp_state = IBV_QPS_ERR };

		if (base->state != REMOTE_UP || v->lib->p_rdma_disconnect(c->id) != 0)
			(void)v->lib->p_ibv_modify_qp(c->id->qp, &attr, IBV_QP_STATE);
		LIST_FOREACH(e, &base->exports, of_conn)
			verbs_export_end(e);
		v->lib->p_rdma_destroy_qp(c->id);
	}
	(void)v->lib->p_rdma_destroy_id(c->id);
	if (c->cq)
		(void)v->lib->p_ibv_destroy_cq(c->cq);
	c->id = NULL;
	c->cq = NULL;
}

static int access_of(uint32_t rights)
{
	return (rights & REMOTE_MAY_READ ? IBV_ACCESS_REMOTE_READ : 0) | (rights & REMOTE_MAY_WRITE ? IBV_ACCESS_REMOTE_WRITE : 0) |
	       (rights & REMOTE_MAY_ATOMIC ? IBV_ACCESS_REMOTE_ATOMIC : 0);
}

/* Without windows: a registration for each export, there at once. */
static int register_export(struct verbs *v, struct verbs_export *e)
{
	struct remote_region *g = e->base.region;
	int local = e->base.key.rights & (REMOTE_MAY_WRITE | REMOTE_MAY_ATOMIC) ? IBV_ACCESS_LOCAL_WRITE : 0;
	uint64_t iova = v->next_iova + ((uintptr_t)(g->memory + e->base.at) & 4095);

	e->mr = register_at(v, ((struct verbs_domain *)g->domain)->pd, g->memory + e->base.at, e->base.key.size,
			    access_of(e->base.key.rights) | local);
	if (!e->mr)
		return -errno;
	e->base.key.base = iova;
	e->base.key.key = e->mr->rkey;
	remote_export_bound(&e->base, REMOTE_OK);
	return 0;
}

static int verbs_bind(struct remote_export *base)
{
	struct verbs *v = verbs_of(base->conn);
	struct verbs_conn *c = verbs_conn_of(base->conn);
	struct verbs_export *e = (struct verbs_export *)base;
	struct verbs_region *g = (struct verbs_region *)base->region;
	struct ibv_send_wr wr = { .wr_id = WR_EXPORT | (uintptr_t)e, .opcode = IBV_WR_BIND_MW, .send_flags = IBV_SEND_SIGNALED }, *bad;

	if (!v->base.caps.windows)
		return register_export(v, e);
	if (c->n_binds == BINDS_MAX)
		return REMOTE_E_FULL;
	e->mw = ibv_alloc_mw(g->mr->pd, IBV_MW_TYPE_2);
	if (!e->mw)
		return -errno;
	base->key.base = g->iova + base->at;
	base->key.key = ibv_inc_rkey(e->mw->rkey);
	wr.bind_mw.mw = e->mw;
	wr.bind_mw.rkey = base->key.key;
	wr.bind_mw.bind_info = (struct ibv_mw_bind_info){ g->mr, base->key.base, base->key.size, (unsigned)access_of(base->key.rights) };
	if (ibv_post_send(c->id->qp, &wr, &bad) != 0) {
		verbs_export_end(base);
		return -EIO;
	}
	c->n_binds++;
	return 0;
}

static int verbs_unbind(struct remote_export *base)
{
	struct verbs_conn *c = verbs_conn_of(base->conn);
	struct ibv_send_wr wr = { .wr_id = WR_EXPORT | (uintptr_t)base, .opcode = IBV_WR_LOCAL_INV, .send_flags = IBV_SEND_SIGNALED,
				  .invalidate_rkey = base->key.key }, *bad;

	if (!((struct verbs_export *)base)->mw) {
		remote_export_unbound(base);
		return 0;
	}
	if (c->n_binds == BINDS_MAX)
		return REMOTE_E_FULL;
	if (ibv_post_send(c->id->qp, &wr, &bad) != 0)
		return REMOTE_E_FULL;
	c->n_binds++;
	return 0;
}

static enum ibv_wr_opcode opcode_of(enum remote_op_kind kind)
{
	switch (kind) {
	case REMOTE_READ:
		return IBV_WR_RDMA_READ;
	case REMOTE_WRITE_IMM:
		return IBV_WR_RDMA_WRITE_WITH_IMM;
	case REMOTE_SWAP:
		return IBV_WR_ATOMIC_CMP_AND_SWP;
	case REMOTE_ADD:
		return IBV_WR_ATOMIC_FETCH_AND_ADD;
	default:
		return IBV_WR_RDMA_WRITE;
	}
}

static void work_request(const struct remote_conn *c, const struct remote_op *op, uint64_t seq, struct ibv_send_wr *wr, struct ibv_sge *sge)
{
	struct verbs_region *g = (struct verbs_region *)op->region;
	bool writes = op->kind == REMOTE_WRITE || op->kind == REMOTE_WRITE_IMM, is_inline = writes && op->size > 0 && op->size <= INLINE_MAX;

	*wr = (struct ibv_send_wr){
		.wr_id = seq,
		.opcode = opcode_of(op->kind),
		.send_flags = (remote_op_tells(c, seq) ? (unsigned)IBV_SEND_SIGNALED : 0) | (is_inline ? (unsigned)IBV_SEND_INLINE : 0),
	};
	if (op->size > 0) {
		/* What is inline is copied by this process, so by its own address. */
		sge->addr = is_inline ? (uintptr_t)op->region->memory + op->at : g->iova + op->at;
		sge->length = op->size;
		sge->lkey = g->mr->lkey;
		wr->sg_list = sge;
		wr->num_sge = 1;
	}
	if (op->kind == REMOTE_WRITE_IMM)
		wr->imm_data = htonl(op->imm);
	if (op->kind == REMOTE_SWAP || op->kind == REMOTE_ADD) {
		wr->wr.atomic.remote_addr = op->key.base + op->offset;
		wr->wr.atomic.rkey = op->key.key;
		wr->wr.atomic.compare_add = op->kind == REMOTE_ADD ? op->value : op->compare;
		wr->wr.atomic.swap = op->value;
	} else {
		wr->wr.rdma.remote_addr = op->key.base + op->offset;
		wr->wr.rdma.rkey = op->key.key;
	}
}

static void verbs_post(struct remote_conn *base, const struct remote_op *ops, size_t n, uint64_t first)
{
	struct ibv_send_wr *wrs = verbs_of(base)->wrs, *bad;
	struct ibv_sge *sges = verbs_of(base)->sges;

	if (n == 0)
		return;
	for (size_t i = 0; i < n; i++) {
		work_request(base, &ops[i], first + i, &wrs[i], &sges[i]);
		wrs[i].next = i + 1 < n ? &wrs[i + 1] : NULL;
	}
	if (ibv_post_send(verbs_conn_of(base)->id->qp, wrs, &bad) != 0)
		remote_conn_fail(base, REMOTE_BROKEN);
}

static void verbs_took_imm(struct remote_conn *base)
{
	if (post_receives(verbs_conn_of(base), 1) < 0)
		remote_conn_fail(base, REMOTE_BROKEN);
}

static void verbs_free(struct remote *r)
{
	struct verbs *v = (struct verbs *)r;

	if (v->completions)
		(void)v->lib->p_ibv_destroy_comp_channel(v->completions);
	if (v->listener)
		(void)v->lib->p_rdma_destroy_id(v->listener);
	if (v->events)
		v->lib->p_rdma_destroy_event_channel(v->events);
	fd_cleanup(&v->epoll_fd);
	fd_cleanup(&v->timer_fd);
	free(v);
}

static const struct remote_backend g_verbs = {
	.domain_size = sizeof(struct verbs_domain),
	.region_size = sizeof(struct verbs_region),
	.conn_size = sizeof(struct verbs_conn),
	.export_size = sizeof(struct verbs_export),
	.free = verbs_free,
	.now_ns = verbs_now_ns,
	.domain_begin = verbs_domain_begin,
	.domain_end = verbs_domain_end,
	.region_begin = verbs_region_begin,
	.region_end = verbs_region_end,
	.expect = verbs_expect,
	.connect = verbs_connect,
	.conn_end = verbs_conn_end,
	.bind = verbs_bind,
	.unbind = verbs_unbind,
	.export_end = verbs_export_end,
	.post = verbs_post,
	.poll = verbs_poll,
	.took_imm = verbs_took_imm,
	.fd = verbs_fd,
	.arm = verbs_arm,
};

/* -- opening */

/* The device with that address, and a listener on it. Return: 0, VERBS_E_NOT_HERE, negative errno. */
static int open_device(struct verbs *v, const char **ret_why)
{
	v->events = v->lib->p_rdma_create_event_channel();
	if (!v->events) {
		*ret_why = errno == EACCES ? "/dev/infiniband/rdma_cm is not ours to open" :
					     "this kernel has no RDMA connections: load rdma_ucm and the driver of a device";
		return VERBS_E_NOT_HERE;
	}
	if (v->lib->p_rdma_create_id(v->events, &v->listener, NULL, RDMA_PS_TCP) != 0)
		return -errno;
	if (v->lib->p_rdma_bind_addr(v->listener, (struct sockaddr *)&v->address) != 0) {
		if (errno == EADDRINUSE)
			return -errno;
		*ret_why = "no RDMA device has that address";
		return VERBS_E_NOT_HERE;
	}
	if (!v->listener->verbs) {
		*ret_why = "that address is not the address of one RDMA device";
		return VERBS_E_NOT_HERE;
	}
	v->device = v->listener->verbs;
	return v->lib->p_rdma_listen(v->listener, BACKLOG) == 0 ? 0 : -errno;
}

static int learn_caps(struct verbs *v, struct remote_caps *caps, bool windows_anyway)
{
	struct ibv_device_attr attr;
	int most;

	if (v->lib->p_ibv_query_device(v->device, &attr) != 0)
		return -EIO;
	most = attr.max_qp_rd_atom < attr.max_qp_init_rd_atom ? attr.max_qp_rd_atom : attr.max_qp_init_rd_atom;
	v->n_reads = (uint8_t)(most < READS_MAX ? most : READS_MAX);
	*caps = (struct remote_caps){
		.backend = "verbs",
		.atomics = attr.atomic_cap != IBV_ATOMIC_NONE,
		.windows = (attr.device_cap_flags & (IBV_DEVICE_MEM_WINDOW_TYPE_2A | IBV_DEVICE_MEM_WINDOW_TYPE_2B)) &&
			   (attr.vendor_id != VENDOR_RXE || windows_anyway),
		.inline_max = INLINE_MAX,
	};
	if (!str_copy(caps->device, sizeof(caps->device), v->lib->p_ibv_get_device_name(v->device->device)))
		return -EIO;
	return 0;
}

static int watch(struct verbs *v, int fd, bool make_nonblocking)
{
	struct epoll_event e = { .events = EPOLLIN };
	int flags = fcntl(fd, F_GETFL);

	if (make_nonblocking && (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0))
		return -errno;
	return epoll_ctl(v->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0 ? -errno : 0;
}

static int open_rest(struct verbs *v)
{
	int r;

	v->completions = v->lib->p_ibv_create_comp_channel(v->device);
	v->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	v->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (!v->completions || v->epoll_fd < 0 || v->timer_fd < 0)
		return -errno;
	r = watch(v, v->events->fd, true);
	if (r == 0)
		r = watch(v, v->completions->fd, true);
	if (r == 0)
		r = watch(v, v->device->async_fd, true);
	return r == 0 ? watch(v, v->timer_fd, false) : r;
}

int remote_verbs_open(struct remote **ret, const struct verbs_options *o, const char **ret_why)
{
	struct verbs *v = calloc(1, sizeof(*v));
	struct remote_caps caps = {};
	socklen_t size;
	int r;

	*ret_why = "";
	if (!v)
		return -ENOMEM;
	v->epoll_fd = v->timer_fd = -1;
	v->next_iova = IOVA_FIRST;
	LIST_INIT(&v->conns);
	r = address_parse(o->address, &v->address, &size);
	if (r == 0) {
		v->lib = verbs_lib_load(ret_why);
		r = v->lib ? open_device(v, ret_why) : VERBS_E_NOT_HERE;
	}
	if (r == 0)
		r = learn_caps(v, &caps, o->windows_anyway);
	if (r == 0)
		r = open_rest(v);
	if (r != 0) {
		verbs_free(&v->base);
		return r;
	}
	remote_init(&v->base, &g_verbs, &caps);
	*ret = &v->base;
	return 0;
}
