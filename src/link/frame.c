/*
 * Theory of operation: one table says, for every frame type, who may send it, in which kind of session, on lane 0 or on a lane, how
 * many bytes it has and which flags may be set. frame_parse() holds the header against it before it looks at the payload, and so
 * refuses a bad frame without waiting for the rest of it. A reader for each payload that has a form follows.
 *
 * All numbers are little-endian. Sizes are compared, never added to a pointer first.
 */
#include "link/frame.h"

#include "base/address.h"
#include "core/name.h"

#define BY_CLIENT 1u
#define BY_SERVER 2u
#define BY_BOTH 3u
#define IN_LANES (1u << FRAME_FOR_LANES)
#define IN_HOSTS (1u << FRAME_FOR_HOSTS)
#define IN_CA (1u << FRAME_FOR_CA)
#define IN_ALL (IN_LANES | IN_HOSTS | IN_CA)

static const struct frame_rule {
	const char *name;
	unsigned by, in;
	bool on_lane;
	uint8_t flags;
	uint16_t min, max;
} g_rules[FRAME_TYPE_N] = {
	[FRAME_HELLO] = { "HELLO", BY_BOTH, IN_ALL, false, 0, 8, 8 },
	[FRAME_OPEN] = { "OPEN", BY_CLIENT, IN_LANES, true, 0, 2 + 3, 2 + LIMIT_SERVICE_SIZE - 1 },
	[FRAME_OPENED] = { "OPENED", BY_SERVER, IN_LANES, true, 0, 0, 0 },
	[FRAME_REFUSED] = { "REFUSED", BY_SERVER, IN_LANES, true, 0, 1, 1 + FRAME_WHY_MAX },
	[FRAME_DATA] = { "DATA", BY_BOTH, IN_LANES, true, FRAME_MORE | FRAME_TAG_MAX << FRAME_TAG_SHIFT, 0, FRAME_PAYLOAD_MAX },
	[FRAME_CREDIT] = { "CREDIT", BY_BOTH, IN_LANES, true, 0, 4, 4 },
	[FRAME_FIN] = { "FIN", BY_BOTH, IN_LANES, true, 0, 0, 0 },
	[FRAME_RESET] = { "RESET", BY_BOTH, IN_LANES, true, 0, 1, 1 },
	[FRAME_PROOF] = { "PROOF", BY_BOTH, IN_LANES | IN_HOSTS, false, 0, 2 + 8 + 1, FRAME_PAYLOAD_MAX },
	[FRAME_PING] = { "PING", BY_BOTH, IN_ALL, false, 0, 8, 8 },
	[FRAME_PONG] = { "PONG", BY_BOTH, IN_ALL, false, 0, 8, 8 },
	[FRAME_GOAWAY] = { "GOAWAY", BY_BOTH, IN_ALL, false, 0, 0, 0 },
	[FRAME_ANNOUNCE] = { "ANNOUNCE", BY_SERVER, IN_HOSTS, false, FRAME_MORE, 0, FRAME_PAYLOAD_MAX },
	[FRAME_CA_ASK] = { "CA_ASK", BY_CLIENT, IN_CA, false, FRAME_MORE, 1, FRAME_PAYLOAD_MAX },
	[FRAME_CA_ANSWER] = { "CA_ANSWER", BY_SERVER, IN_CA, false, FRAME_MORE, 1, FRAME_PAYLOAD_MAX },
	[FRAME_RDMA] = { "RDMA", BY_BOTH, IN_LANES, false, 0, 1, 1 + FRAME_WHY_MAX },
};

static uint16_t get16(const uint8_t *b)
{
	return (uint16_t)(b[0] | b[1] << 8);
}

static uint32_t get32(const uint8_t *b)
{
	return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static uint64_t get64(const uint8_t *b)
{
	return get32(b) | (uint64_t)get32(b + 4) << 32;
}

static void put16(uint8_t *to, uint16_t v)
{
	to[0] = (uint8_t)v;
	to[1] = (uint8_t)(v >> 8);
}

static void put32(uint8_t *to, uint32_t v)
{
	put16(to, (uint16_t)v);
	put16(to + 2, (uint16_t)(v >> 16));
}

static void put64(uint8_t *to, uint64_t v)
{
	put32(to, (uint32_t)v);
	put32(to + 4, (uint32_t)(v >> 32));
}

const char *frame_name(unsigned type)
{
	return type < FRAME_TYPE_N && g_rules[type].name ? g_rules[type].name : "unknown";
}

static const char *header_fault(const struct frame *f, bool from_client, enum frame_purpose purpose)
{
	const struct frame_rule *r;

	if (f->type >= FRAME_TYPE_N || !g_rules[f->type].name)
		return "a frame of an unknown type";
	r = &g_rules[f->type];
	if (!(r->by & (from_client ? BY_CLIENT : BY_SERVER)))
		return "a frame from the wrong side";
	if (!(r->in & (1u << purpose)))
		return "a frame that this kind of session does not have";
	if (r->on_lane != (f->lane != 0))
		return r->on_lane ? "a lane's frame without a lane" : "a session's frame on a lane";
	if (f->flags & ~(unsigned)r->flags)
		return "a frame with flags it cannot have";
	if (f->size < r->min || f->size > r->max)
		return "a frame of a size it cannot have";
	/* Empty ones cost next to nothing to send; of a message in pieces there would be no end. */
	if (f->type == FRAME_DATA && f->flags & FRAME_MORE && f->size == 0)
		return "an empty piece of a message";
	return NULL;
}

static const char *read_hello(struct frame *f)
{
	if (get16(f->payload) != FRAME_VERSION)
		return "HELLO of another version";
	f->u.hello.has = get16(f->payload + 2);
	f->u.hello.window = get32(f->payload + 4);
	return f->u.hello.window < FRAME_WINDOW_MIN || f->u.hello.window > FRAME_WINDOW_MAX ? "HELLO with a window out of bounds" : NULL;
}

static const char *read_open(struct frame *f)
{
	struct service_name name;
	size_t n = f->size - 2u;

	f->u.open.kind = f->payload[0];
	if (f->payload[0] >= LINK_KIND_N || f->payload[1] != 0)
		return "OPEN of an unknown kind";
	memcpy(f->u.open.destination, f->payload + 2, n);
	f->u.open.destination[n] = '\0';
	if (strlen(f->u.open.destination) != n || !strchr(f->u.open.destination, '/') ||
	    service_name_parse(&name, f->u.open.destination, "default") < 0)
		return "OPEN for something that is no service name";
	return NULL;
}

/* What a peer wrote for people: printable ASCII, whatever it was. @to has room for @n bytes and a NUL. */
static void read_text(char *to, const uint8_t *from, size_t n)
{
	for (size_t i = 0; i < n; i++)
		to[i] = from[i] >= ' ' && from[i] <= '~' ? (char)from[i] : '?';
	to[n] = '\0';
}

static bool code_is_known(uint8_t code)
{
	return code > LINK_CODE_NONE && code < LINK_CODE_N;
}

static const char *read_refused(struct frame *f)
{
	size_t n = f->size - 1u;

	f->u.refused.code = f->payload[0];
	if (!code_is_known(f->payload[0]))
		return "REFUSED with an unknown code";
	read_text(f->u.refused.why, f->payload + 1, n);
	return NULL;
}

static const char *read_proof(struct frame *f)
{
	uint16_t n = get16(f->payload);

	if (n < 8 || n > SIGNATURE_SIZE || n >= f->size - 2)
		return "PROOF with a signature of a size it cannot have";
	f->u.proof.signature = f->payload + 2;
	f->u.proof.signature_size = n;
	f->u.proof.certificates = f->payload + 2 + n;
	f->u.proof.certificates_size = (uint16_t)(f->size - 2 - n);
	return NULL;
}

/* The step's number of the connection. */
static const char *read_rdma_number(struct frame *f, size_t min, size_t max)
{
	if (f->size < min || f->size > max)
		return "RDMA of a size that its step cannot have";
	f->u.rdma.number = get64(f->payload + 1);
	return f->u.rdma.number == 0 ? "RDMA for connection number 0" : NULL;
}

static const char *read_rdma_here(struct frame *f)
{
	const char *why = read_rdma_number(f, 1 + 8 + 1, 1 + 8 + LIMIT_ADDRESS_SIZE - 1);
	struct sockaddr_storage a;
	socklen_t size;

	if (why)
		return why;
	read_text(f->u.rdma.address, f->payload + 9, f->size - 9u);
	return address_parse(f->u.rdma.address, &a, &size) < 0 ? "RDMA HERE with something that is no address" : NULL;
}

static const char *read_rdma(struct frame *f, bool from_client)
{
	const char *why;

	f->u.rdma.step = f->payload[0];
	switch (f->u.rdma.step) {
	case RDMA_ASK:
		why = from_client ? read_rdma_number(f, 1 + 8 + 1, 1 + 8 + 1) : "RDMA ASK from the server";
		if (!why)
			f->u.rdma.cap_log2 = f->payload[9];
		return why;
	case RDMA_HERE:
		return from_client ? "RDMA HERE from the client" : read_rdma_here(f);
	case RDMA_KEY:
		f->u.rdma.key = f->payload + 1;
		return f->size == 1 + FRAME_RDMA_KEY_SIZE ? NULL : "RDMA KEY of a size that no key has";
	case RDMA_SWITCH:
		return f->size == 1 ? NULL : "RDMA SWITCH with something behind it";
	case RDMA_NO:
		read_text(f->u.rdma.why, f->payload + 1, f->size - 1u);
		return NULL;
	default:
		return "RDMA of an unknown step";
	}
}

static const char *payload_fault(struct frame *f, bool from_client)
{
	switch (f->type) {
	case FRAME_HELLO:
		return read_hello(f);
	case FRAME_OPEN:
		return read_open(f);
	case FRAME_REFUSED:
		return read_refused(f);
	case FRAME_CREDIT:
		f->u.credit = get32(f->payload);
		return f->u.credit == 0 || f->u.credit > FRAME_WINDOW_MAX ? "CREDIT out of bounds" : NULL;
	case FRAME_RESET:
		f->u.code = f->payload[0];
		return code_is_known(f->u.code) ? NULL : "RESET with an unknown code";
	case FRAME_PROOF:
		return read_proof(f);
	case FRAME_PING:
	case FRAME_PONG:
		f->u.ping = get64(f->payload);
		return NULL;
	case FRAME_RDMA:
		return read_rdma(f, from_client);
	default:
		return NULL;
	}
}

ssize_t frame_parse(struct frame *ret, const uint8_t *bytes, size_t size, bool from_client, enum frame_purpose purpose,
		    const char **ret_why)
{
	if (size < FRAME_HEADER_SIZE)
		return 0;
	ret->lane = get32(bytes);
	ret->size = get16(bytes + 4);
	ret->type = bytes[6];
	ret->flags = bytes[7];
	*ret_why = header_fault(ret, from_client, purpose);
	if (*ret_why)
		return -EPROTO;
	if (size - FRAME_HEADER_SIZE < ret->size)
		return 0;
	ret->payload = bytes + FRAME_HEADER_SIZE;
	*ret_why = payload_fault(ret, from_client);
	return *ret_why ? -EPROTO : FRAME_HEADER_SIZE + ret->size;
}

uint16_t frame_data_size(const uint8_t header[FRAME_HEADER_SIZE])
{
	return get16(header + 4);
}

uint8_t frame_data_flags_of(const uint8_t header[FRAME_HEADER_SIZE])
{
	return header[7];
}

void frame_put_header(uint8_t *to, uint32_t lane, enum frame_type type, uint8_t flags, size_t payload_size)
{
	assert(payload_size <= FRAME_PAYLOAD_MAX);
	put32(to, lane);
	put16(to + 4, (uint16_t)payload_size);
	to[6] = (uint8_t)type;
	to[7] = flags;
}

size_t frame_put_hello(uint8_t *to, uint32_t window, uint16_t has)
{
	frame_put_header(to, 0, FRAME_HELLO, 0, 8);
	put16(to + 8, FRAME_VERSION);
	put16(to + 10, has);
	put32(to + 12, window);
	return FRAME_HELLO_SIZE;
}

size_t frame_put_open(uint8_t *to, uint32_t lane, enum link_kind kind, const char *destination)
{
	size_t n = strnlen(destination, LIMIT_SERVICE_SIZE - 1);

	frame_put_header(to, lane, FRAME_OPEN, 0, 2 + n);
	to[8] = (uint8_t)kind;
	to[9] = 0;
	memcpy(to + 10, destination, n);
	return FRAME_HEADER_SIZE + 2 + n;
}

size_t frame_put_refused(uint8_t *to, uint32_t lane, enum link_code code, const char *why)
{
	size_t n = strnlen(why, FRAME_WHY_MAX);

	frame_put_header(to, lane, FRAME_REFUSED, 0, 1 + n);
	to[8] = (uint8_t)code;
	memcpy(to + 9, why, n);
	return FRAME_HEADER_SIZE + 1 + n;
}

size_t frame_put_credit(uint8_t *to, uint32_t lane, uint32_t credit)
{
	frame_put_header(to, lane, FRAME_CREDIT, 0, 4);
	put32(to + 8, credit);
	return FRAME_CREDIT_SIZE;
}

size_t frame_put_code(uint8_t *to, uint32_t lane, enum link_code code)
{
	frame_put_header(to, lane, FRAME_RESET, 0, 1);
	to[8] = (uint8_t)code;
	return FRAME_HEADER_SIZE + 1;
}

size_t frame_put_ping(uint8_t *to, enum frame_type type, uint64_t value)
{
	frame_put_header(to, 0, type, 0, 8);
	put64(to + 8, value);
	return FRAME_PING_SIZE;
}

size_t frame_put_empty(uint8_t *to, uint32_t lane, enum frame_type type)
{
	frame_put_header(to, lane, type, 0, 0);
	return FRAME_HEADER_SIZE;
}

static size_t put_rdma(uint8_t *to, enum rdma_step step, size_t size)
{
	frame_put_header(to, 0, FRAME_RDMA, 0, 1 + size);
	to[8] = (uint8_t)step;
	return FRAME_HEADER_SIZE + 1 + size;
}

size_t frame_put_rdma_ask(uint8_t *to, uint64_t number, uint8_t cap_log2)
{
	put64(to + 9, number);
	to[17] = cap_log2;
	return put_rdma(to, RDMA_ASK, 8 + 1);
}

size_t frame_put_rdma_here(uint8_t *to, uint64_t number, const char *address)
{
	size_t n = strnlen(address, LIMIT_ADDRESS_SIZE - 1);

	put64(to + 9, number);
	memcpy(to + 17, address, n);
	return put_rdma(to, RDMA_HERE, 8 + n);
}

size_t frame_put_rdma_key(uint8_t *to, const uint8_t key[FRAME_RDMA_KEY_SIZE])
{
	memcpy(to + 9, key, FRAME_RDMA_KEY_SIZE);
	return put_rdma(to, RDMA_KEY, FRAME_RDMA_KEY_SIZE);
}

size_t frame_put_rdma_switch(uint8_t *to)
{
	return put_rdma(to, RDMA_SWITCH, 0);
}

size_t frame_put_rdma_no(uint8_t *to, const char *why)
{
	size_t n = strnlen(why, FRAME_WHY_MAX);

	memcpy(to + 9, why, n);
	return put_rdma(to, RDMA_NO, n);
}

size_t frame_put_proof(uint8_t *to, const uint8_t *signature, size_t signature_size, const uint8_t *certificates, size_t certificates_size)
{
	if (signature_size > SIGNATURE_SIZE || certificates_size > FRAME_PAYLOAD_MAX - 2 - signature_size)
		return 0;
	frame_put_header(to, 0, FRAME_PROOF, 0, 2 + signature_size + certificates_size);
	put16(to + 8, (uint16_t)signature_size);
	memcpy(to + 10, signature, signature_size);
	memcpy(to + 10 + signature_size, certificates, certificates_size);
	return FRAME_HEADER_SIZE + 2 + signature_size + certificates_size;
}
