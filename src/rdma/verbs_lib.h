/*
 * libibverbs and librdmacm, as far as verbs.c calls them, loaded when they are first needed. Their inline calls (ibv_post_send() and its like)
 * go through the device's own table and need no loading.
 *
 * Threads: verbs_lib_load() as dlopen(); the table is constant afterwards.
 */
#ifndef RDMA_VERBS_LIB_H
#define RDMA_VERBS_LIB_H

#include "base/util.h"

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#define VERBS_IBV_CALLS(X)  \
	X(ibv_ack_async_event) \
	X(ibv_ack_cq_events) \
	X(ibv_alloc_pd) \
	X(ibv_create_comp_channel) \
	X(ibv_create_cq) \
	X(ibv_dealloc_pd) \
	X(ibv_dereg_mr) \
	X(ibv_destroy_comp_channel) \
	X(ibv_destroy_cq) \
	X(ibv_get_async_event) \
	X(ibv_get_cq_event) \
	X(ibv_get_device_name) \
	X(ibv_modify_qp) \
	X(ibv_query_device) \
	X(ibv_query_qp) \
	X(ibv_reg_mr_iova)
#define VERBS_CM_CALLS(X)  \
	X(rdma_accept) \
	X(rdma_ack_cm_event) \
	X(rdma_bind_addr) \
	X(rdma_connect) \
	X(rdma_create_event_channel) \
	X(rdma_create_id) \
	X(rdma_create_qp) \
	X(rdma_destroy_event_channel) \
	X(rdma_destroy_id) \
	X(rdma_destroy_qp) \
	X(rdma_disconnect) \
	X(rdma_get_cm_event) \
	X(rdma_listen) \
	X(rdma_reject) \
	X(rdma_resolve_addr) \
	X(rdma_resolve_route) \
	X(rdma_set_option)

/* A member for each: lib->p_rdma_accept. The prefix keeps the macros that some of the names are from being taken. */
struct verbs_lib {
#define VERBS_MEMBER(name) __typeof__(name) *p_##name;
	VERBS_IBV_CALLS(VERBS_MEMBER)
	VERBS_CM_CALLS(VERBS_MEMBER)
#undef VERBS_MEMBER
};

/* verbs_lib_load() - Return: the table, the same each time; NULL: *ret_why says what is not there. */
const struct verbs_lib *verbs_lib_load(const char **ret_why);

#endif
