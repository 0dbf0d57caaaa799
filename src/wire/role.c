/*
 * Theory of operation: one table says, for every message type, how long it is and which of its arrays must hold
 * terminated strings. Reading and writing a message are both "copy that many bytes", so nothing else is needed, and
 * the table is what the fuzzer (tests/fuzz/fuzz_role.c) shakes.
 */
#include "wire/role.h"

#include "base/chan.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/socket.h>

#define U_OFFSET offsetof(struct role_msg, u)
#define NO_STR { 0, 0 }
#define STR(member, field)                                                                  \
	{ (uint16_t)(U_OFFSET + offsetof(__typeof__(((struct role_msg *)0)->u.member), field)), \
	  (uint16_t)sizeof(((struct role_msg *)0)->u.member.field) }
#define CA_STRINGS STR(ca, address), STR(ca, host), STR(ca, peer), STR(ca, why)
#define MSG(t, member, ...) \
	[t] = { .name = #t, .size = (uint16_t)(U_OFFSET + sizeof(((struct role_msg *)0)->u.member)), .str = { __VA_ARGS__ } }
#define MSG_EMPTY(t) [t] = { .name = #t, .size = (uint16_t)U_OFFSET }

static const struct role_format {
	const char *name;
	uint16_t size;
	struct {
		uint16_t offset, size;
	} str[5];
} g_formats[ROLE_MSG_N] = {
	MSG(BW_WORKLOAD_ADD, workload, STR(workload, name)),
	MSG(BW_WORKLOAD_REMOVE, id),
	MSG(BW_ENROL, cgroup, STR(cgroup, path)),
	MSG(BW_UNENROL, cgroup, STR(cgroup, path)),
	MSG(BW_IS_EMPTY, cgroup, STR(cgroup, path)),
	MSG(BW_RESOLVE, resolve),
	MSG(BW_LISTEN, listen, STR(listen, path)),
	MSG(BW_UNLISTEN, id),
	MSG(BW_SERVER, server, STR(server, path)),
	MSG(BW_SERVER_REMOVE, id),
	MSG(BW_ROUTE, route),
	MSG(BW_CONNECT, id),
	MSG_EMPTY(BW_SCAN),
	MSG(BW_CUT, cut),
	MSG_EMPTY(BW_RELOAD),
	MSG(BW_GATES, id),
	MSG(BW_KEEP, store, STR(store, name)),
	MSG(BW_UNKEEP, store, STR(store, name)),
	MSG(BW_CDI, store, STR(store, name)),
	MSG(BW_LINKERS, id),
	MSG(BW_DIAL, dial, STR(dial, congestion), STR(dial, address)),
	MSG(BW_LISTEN_TCP, dial, STR(dial, congestion), STR(dial, address)),
	MSG(BW_UNLISTEN_TCP, dial, STR(dial, congestion), STR(dial, address)),
	MSG(BW_CERTIFICATES, store, STR(store, name)),
	MSG(BW_CATALOGUE_FILE, etcd_file, STR(etcd_file, path)),
	MSG(BW_CATALOGUE, id),
	MSG(WB_REPLY, reply, STR(reply, path), STR(reply, why)),
	MSG(WB_CONFIG, config, STR(config, name)),
	MSG(WB_GATE, gate),
	MSG(WB_CHECKER, gate),
	MSG(WB_KEPT, store, STR(store, name)),
	MSG(WB_PORTER, gate),
	MSG(WB_SERVER_STATE, server_state),
	MSG(WB_CGROUP_GONE, cgroup, STR(cgroup, path)),
	MSG_EMPTY(WB_RELOAD_ASKED),
	MSG_EMPTY(WB_STOP),
	MSG(WB_GUARD, guard, STR(guard, why)),
	MSG(WB_LINKER, gate),
	MSG(WB_SIGNER, gate),
	MSG(WB_FILE, store, STR(store, name)),
	MSG(WB_CATALOGUE, gate),
	MSG(BG_LISTEN, gate_listen),
	MSG(BG_UNLISTEN, id),
	MSG(BG_GO, go),
	MSG(BG_REFUSE, id),
	MSG(BG_CUT, lane_ref),
	MSG(BG_LIMIT, lane_ref),
	MSG_EMPTY(BG_STATS),
	MSG(BG_HAND, id),
	MSG(GB_ACCEPT, accept),
	MSG(GB_GONE, id),
	MSG(GB_CLOSED, stats),
	MSG(GB_STATS, stats),
	MSG(GB_HANDED, id),
	MSG(BP_LISTEN, gate_listen),
	MSG(BP_UNLISTEN, id),
	MSG(BP_REFUSE, refuse, STR(refuse, why)),
	MSG(BP_LISTENING, id),
	MSG(BP_OFFER, offer),
	MSG(BP_CUT, refuse, STR(refuse, why)),
	MSG(BP_ADOPT, leash),
	MSG_EMPTY(BP_STATS),
	MSG(BP_LEND, lend, STR(lend, path)),
	MSG(PB_ASK, ask, STR(ask, service), STR(ask, as)),
	MSG(PB_GONE, id),
	MSG(PB_OPEN, lane_ref),
	MSG(PB_KEEP, leash),
	MSG(PB_CLOSED, stats),
	MSG(PB_STATS, stats),
	MSG(PB_LENT, lane_ref),
	MSG(BL_RDMA, rdma, STR(rdma, address)),
	MSG_EMPTY(BL_SIGNER),
	MSG(BL_TRUST, trust, STR(trust, trust_domain), STR(trust, host)),
	MSG_EMPTY(BL_REVOKED),
	MSG(BL_TICKETS, tickets),
	MSG(BL_CREDENTIAL, credential, STR(credential, spiffe_id)),
	MSG(BL_FORGET, id),
	MSG_EMPTY(BL_LISTEN),
	MSG_EMPTY(BL_UNLISTEN),
	MSG(BL_HOST, host, STR(host, name), STR(host, address), STR(host, rdma)),
	MSG(BL_HOST_GONE, id),
	MSG(BL_DIALED, dialed, STR(dialed, why)),
	MSG(BL_CARRY, carry, STR(carry, destination)),
	MSG(BL_GO, link_go),
	MSG(BL_NO, link_no, STR(link_no, why)),
	MSG(BL_CUT, lane_ref),
	MSG(BL_RECALL, lane_ref),
	MSG(BL_LIMIT, lane_ref),
	MSG_EMPTY(BL_STATS),
	MSG_EMPTY(BL_ANNOUNCE),
	MSG_EMPTY(BL_DRAIN),
	MSG_EMPTY(BL_GOAWAY),
	MSG(BL_CA_OPEN, ca, CA_STRINGS),
	MSG(BL_CA_ASK, ca, CA_STRINGS),
	MSG(BL_CA_ANSWER, ca, CA_STRINGS),
	MSG(LB_DIAL, dial_ask),
	MSG(LB_ASK, link_ask, STR(link_ask, source), STR(link_ask, destination), STR(link_ask, peer), STR(link_ask, serial)),
	MSG(LB_GONE, id),
	MSG(LB_OPENED, lane_ref),
	MSG(LB_FAILED, link_failed, STR(link_failed, why)),
	MSG(LB_CLOSED, stats),
	MSG(LB_STATS, stats),
	MSG(LB_SESSION, session, STR(session, local), STR(session, peer), STR(session, address), STR(session, cipher), STR(session, peer_serial)),
	MSG(LB_SESSION_STATS, session_stats),
	MSG(LB_PATH, path, STR(path, device), STR(path, why)),
	MSG(LB_DEVICE, device, STR(device, device), STR(device, address), STR(device, why)),
	MSG(LB_RDMA_STATS, rdma_stats),
	MSG(LB_ANNOUNCE, id),
	MSG(LB_CA_READY, ca, CA_STRINGS),
	MSG(LB_CA_ASK, ca, CA_STRINGS),
	MSG(LB_CA_ANSWER, ca, CA_STRINGS),
	MSG(BS_LINKER, id),
	MSG(BS_KEY, key, STR(key, name)),
	MSG(BS_FORGET, id),
	MSG(BS_SIGN, sign),
	MSG(BS_SIGN_LIST, sign),
	MSG(BS_VERIFY, verify),
	MSG(BS_CA, ca_key, STR(ca_key, trust_domain)),
	MSG(BS_ISSUE, issue, STR(issue, spiffe_id)),
	MSG(SB_REPLY, signed_, STR(signed_, why)),
	MSG(LS_SIGN, sign),
	MSG(SL_SIGNED, signed_, STR(signed_, why)),
	MSG(WE_FILE, etcd_file, STR(etcd_file, path)),
	MSG(BE_OWN, entry, STR(entry, key), STR(entry, value)),
	MSG(BE_SETUP, etcd, STR(etcd, host), STR(etcd, prefix), STR(etcd, user)),
	MSG(BE_WRITE, entry, STR(entry, key), STR(entry, value)),
	MSG(BE_ACCEPT, entry, STR(entry, key), STR(entry, value)),
	MSG(EB_STATE, etcd_state, STR(etcd_state, endpoint), STR(etcd_state, why)),
	MSG(EB_BEGIN, etcd_range),
	MSG(EB_ENTRY, entry, STR(entry, key), STR(entry, value)),
	MSG(EB_END, etcd_range),
	MSG(EB_TAKEN, entry, STR(entry, key), STR(entry, value)),
	MSG(EB_DONE, etcd_done, STR(etcd_done, why)),
	MSG(BC_RUN, check),
	MSG(CB_RESULT, check_result, STR(check_result, output)),
	MSG(WK_STORE, store, STR(store, name)),
	MSG(WK_DROP, store, STR(store, name)),
	MSG_EMPTY(WK_FETCH),
	MSG(WK_GRACE, grace),
	MSG(KW_ITEM, store, STR(store, name)),
	MSG_EMPTY(KW_END),
};

size_t role_msg_size(uint32_t type)
{
	return type < ROLE_MSG_N ? g_formats[type].size : 0;
}

const char *role_msg_name(uint32_t type)
{
	return type < ROLE_MSG_N && g_formats[type].name ? g_formats[type].name : "unknown";
}

static bool identity_is_terminated(const struct control_identity *i)
{
	return str_is_terminated(i->service, sizeof(i->service)) && str_is_terminated(i->spiffe_id, sizeof(i->spiffe_id)) &&
	       str_is_terminated(i->workload, sizeof(i->workload)) && str_is_terminated(i->host, sizeof(i->host));
}

static bool endpoints_are_terminated(const struct role_etcd *e)
{
	bool good = e->n_endpoints > 0 && e->n_endpoints <= LIMIT_ETCD_ENDPOINTS;

	for (size_t i = 0; i < LIMIT_ETCD_ENDPOINTS; i++)
		good &= str_is_terminated(e->endpoints[i], sizeof(e->endpoints[i]));
	return good;
}

static bool is_entry(uint32_t type)
{
	return type == BE_OWN || type == BE_WRITE || type == BE_ACCEPT || type == EB_ENTRY || type == EB_TAKEN;
}

/* What the table cannot say: enums, nested strings, and the words of a command line. */
static bool values_in_range(const struct role_msg *m)
{
	uint32_t type = m->type;

	if (type == BW_ROUTE)
		return m->u.route.route <= ROLE_ROUTE_DIRECT;
	if (type == BW_LISTEN)
		return m->u.listen.type == SOCK_STREAM || m->u.listen.type == SOCK_SEQPACKET;
	if (type == PB_ASK)
		return m->u.ask.accept.method < IDENTITY_METHOD_N && m->u.ask.kind < CONTROL_KIND_N;
	if (type == BP_OFFER)
		return identity_is_terminated(&m->u.offer.client) && identity_is_terminated(&m->u.offer.server);
	if (type == BP_LEND)
		return m->u.lend.end < LEND_N && m->u.lend.kind < CONTROL_KIND_N && identity_is_terminated(&m->u.lend.client) &&
		       identity_is_terminated(&m->u.lend.server);
	if (type == BP_LISTEN)
		return m->u.gate_listen.identity < IDENTITY_METHOD_N;
	if (type == PB_CLOSED || type == LB_CLOSED)
		return m->u.stats.end < LANE_END_N;
	if (type == GB_CLOSED)
		return m->u.stats.end < LANE_END_N;
	if (type == GB_ACCEPT)
		return m->u.accept.method < IDENTITY_METHOD_N;
	if (type == BG_LISTEN)
		return m->u.gate_listen.identity < IDENTITY_METHOD_N;
	if (type == WB_GUARD)
		return m->u.guard.state < GUARD_STATE_N;
	if (type == BL_TICKETS)
		return m->u.tickets.n >= 1 && m->u.tickets.n <= ROLE_TICKET_SECRETS;
	if (type == BL_CARRY)
		return m->u.carry.kind < LINK_KIND_N && m->u.carry.wid < LIMIT_WORKLOADS;
	if (type == BL_GO)
		return m->u.link_go.wid < LIMIT_WORKLOADS;
	if (type == LB_ASK)
		return m->u.link_ask.kind < LINK_KIND_N;
	if (type == BL_NO)
		return m->u.link_no.code < LINK_CODE_N;
	if (type == LB_FAILED)
		return m->u.link_failed.code < LINK_CODE_N;
	if (type == LB_SESSION)
		return m->u.session.state < SESSION_STATE_N && m->u.session.reason < SESSION_REASON_N &&
		       str_is_terminated(m->u.session.why, sizeof(m->u.session.why));
	if (type == BL_RDMA)
		return m->u.rdma.mode < RDMA_MODE_N;
	if (type == LB_PATH)
		return m->u.path.path < SESSION_PATH_N;
	if (type == BL_CA_OPEN || type == LB_CA_ASK)
		return m->u.ca.mode < CA_MODE_N;
	if (type == BS_ISSUE)
		return m->u.issue.proof_size <= SIGNATURE_SIZE && m->u.issue.slot < ROLE_ROOT_SLOTS;
	if (type == BS_CA)
		return m->u.ca_key.make < CA_MAKE_N && m->u.ca_key.slot < ROLE_ROOT_SLOTS;
	if (type == BS_SIGN_LIST)
		return m->u.sign.kid < ROLE_ROOT_SLOTS;
	if (type == BS_VERIFY)
		return m->u.verify.signature_size <= SIGNATURE_SIZE;
	if (type == SB_REPLY || type == SL_SIGNED)
		return m->u.signed_.signature_size <= SIGNATURE_SIZE;
	if (type == BW_CATALOGUE_FILE || type == WE_FILE)
		return m->u.etcd_file.kind < ETCD_FILE_N;
	if (type == BE_SETUP)
		return endpoints_are_terminated(&m->u.etcd);
	if (is_entry(type))
		return m->u.entry.state < ETCD_ENTRY_STATE_N;
	if (type == EB_STATE)
		return m->u.etcd_state.state < ETCD_STATE_N;
	if (type == BC_RUN)
		return m->u.check.n_args <= LIMIT_CHECK_ARGS &&
		       m->u.check.args[sizeof(m->u.check.args) - 1] == '\0';
	return true;
}

int role_msg_check(const struct role_msg *m, size_t size)
{
	const struct role_format *f;

	if (size < U_OFFSET || m->type >= ROLE_MSG_N)
		return -EBADMSG;
	f = &g_formats[m->type];
	if (f->size == 0 || f->size != size)
		return -EBADMSG;
	for (size_t i = 0; i < ARRAY_SIZE(f->str); i++)
		if (f->str[i].size && !str_is_terminated((const char *)m + f->str[i].offset, f->str[i].size))
			return -EBADMSG;
	return values_in_range(m) ? 0 : -EBADMSG;
}

int role_send(struct chan *c, const struct role_msg *m, int fd)
{
	size_t size = role_msg_size(m->type);

	assert(size > 0);
	return chan_send(c, m, size, fd);
}

int role_recv(struct chan *c, struct role_msg *ret_m, int *ret_fd)
{
	ssize_t n = chan_recv(c, ret_m, sizeof(*ret_m), ret_fd);

	if (n <= 0)
		return (int)n;
	if (role_msg_check(ret_m, (size_t)n) < 0) {
		if (*ret_fd >= 0)
			close(take_fd(ret_fd));
		return -EBADMSG;
	}
	return 1;
}

const char *lane_end_name(uint32_t end)
{
	static const char *const names[] = {
		[LANE_END_EOF] = "eof",	  [LANE_END_CLIENT] = "client-reset", [LANE_END_SERVER] = "server-reset",
		[LANE_END_CUT] = "cut",	  [LANE_END_FDS] = "descriptor-passing-refused", [LANE_END_NOMEM] = "out-of-memory",
		[LANE_END_LINK] = "link-lost",
	};
	static_assert(ARRAY_SIZE(names) == LANE_END_N, "a name for each end");

	return end < LANE_END_N ? names[end] : "unknown";
}

char *link_lane_id(char *buf, uint64_t link_id)
{
	buf[0] = '\0';
	if (link_id)
		snprintf(buf, LINK_LANE_ID_SIZE, "%08" PRIx32 "-%" PRIu32, (uint32_t)(link_id >> 32), (uint32_t)link_id);
	return buf;
}

const char *link_code_name(uint32_t code)
{
	static const char *const names[] = {
		[LINK_CODE_NONE] = "none",     [LINK_DENIED] = "denied", [LINK_UNKNOWN] = "unknown", [LINK_DOWN] = "down",	[LINK_LIMIT] = "limit",
		[LINK_DRAINING] = "draining", [LINK_PEER] = "peer",	 [LINK_CUT] = "cut",	     [LINK_FAILED] = "failed",
	};
	static_assert(ARRAY_SIZE(names) == LINK_CODE_N, "a name for each code");

	return code < LINK_CODE_N ? names[code] : "unknown";
}

const char *session_reason_name(uint32_t reason)
{
	static const char *const names[] = {
		[SESSION_OK] = "ok",
		[SESSION_NO_CERTIFICATE] = "no-certificate",
		[SESSION_UNTRUSTED] = "untrusted",
		[SESSION_EXPIRED] = "expired",
		[SESSION_NOT_YET_VALID] = "not-yet-valid",
		[SESSION_BAD_IDENTITY] = "bad-identity",
		[SESSION_WRONG_HOST] = "wrong-host",
		[SESSION_REVOKED] = "revoked",
		[SESSION_PROTOCOL] = "protocol",
		[SESSION_LIMIT] = "limit",
		[SESSION_TIMEOUT] = "timeout",
		[SESSION_LOST] = "lost",
	};
	static_assert(ARRAY_SIZE(names) == SESSION_REASON_N, "a name for each reason");

	return reason < SESSION_REASON_N ? names[reason] : "unknown";
}

const char *identity_method_name(uint32_t method)
{
	static const char *const names[] = { [IDENTITY_PIDFD] = "pidfd", [IDENTITY_PEERCRED] = "peercred" };
	static_assert(ARRAY_SIZE(names) == IDENTITY_METHOD_N, "a name for each method");

	return method < IDENTITY_METHOD_N ? names[method] : "unknown";
}
