/*
 * Frames: what two hosts say to each other inside TLS. docs/design/link.md has the tables; this is their only reader and writer.
 * Pure: no I/O, no allocation, no state. Fuzzed (tests/fuzz/fuzz_frame.c).
 *
 * Trust: every byte is a peer's. frame_parse() checks all that a frame alone can show: its type, who sent it and for what the session
 * is, its lane number (zero or not), flags, size and form. What depends on what was said before is session.c's.
 */
#ifndef LINK_FRAME_H
#define LINK_FRAME_H

#include "base/limits.h"
#include "base/util.h"
#include "wire/role.h"

#include <sys/types.h>

enum {
	FRAME_VERSION = 1,
	FRAME_HEADER_SIZE = 8,
	FRAME_SIZE_MAX = 16384, /* with its header: the plaintext of one TLS record */
	FRAME_PAYLOAD_MAX = FRAME_SIZE_MAX - FRAME_HEADER_SIZE,
	FRAME_WINDOW_MIN = 16 << 10, /* also what a lane may send before the other side's HELLO has said more */
	FRAME_WINDOW_MAX = 16 << 20,
	FRAME_WHY_MAX = 255,
	FRAME_HELLO_SIZE = FRAME_HEADER_SIZE + 8,
	FRAME_CREDIT_SIZE = FRAME_HEADER_SIZE + 4,
	FRAME_PING_SIZE = FRAME_HEADER_SIZE + 8,
	FRAME_OPEN_SIZE_MAX = FRAME_HEADER_SIZE + 2 + LIMIT_SERVICE_SIZE,
	FRAME_REFUSED_SIZE_MAX = FRAME_HEADER_SIZE + 1 + FRAME_WHY_MAX,
	FRAME_PROOF_CERTIFICATES = 4,
	FRAME_RDMA_KEY_SIZE = 24, /* of a ring: docs/design/rdma.md */
	FRAME_RDMA_SIZE_MAX = FRAME_HEADER_SIZE + 1 + 8 + FRAME_WHY_MAX,
};

enum frame_type {
	FRAME_HELLO = 1,
	FRAME_OPEN,
	FRAME_OPENED,
	FRAME_REFUSED,
	FRAME_DATA,
	FRAME_CREDIT,
	FRAME_FIN,
	FRAME_RESET,
	FRAME_PROOF,
	FRAME_PING,
	FRAME_PONG,
	FRAME_GOAWAY,
	FRAME_ANNOUNCE,
	FRAME_CA_ASK,
	FRAME_CA_ANSWER,
	FRAME_RDMA,
	FRAME_TYPE_N
};

/* HELLO: what its sender has: a device; one on a network that encrypts below, by its configuration. */
enum { FRAME_HAS_RDMA = 1, FRAME_HAS_PLAIN = 2 };

/* RDMA's first byte: how a session's frames move from TLS to a ring (docs/design/link.md, "Sessions over RDMA"). */
enum rdma_step { RDMA_ASK = 1, RDMA_HERE, RDMA_KEY, RDMA_SWITCH, RDMA_NO, RDMA_STEP_N };

/* DATA: bits 4 to 7 are the record's tag. */
enum { FRAME_MORE = 1, FRAME_TAG_SHIFT = 4, FRAME_TAG_MAX = 15 };

static inline uint8_t frame_data_flags(bool more, uint8_t tag)
{
	return (uint8_t)((more ? FRAME_MORE : 0) | tag << FRAME_TAG_SHIFT);
}

static inline uint8_t frame_tag(uint8_t flags)
{
	return flags >> FRAME_TAG_SHIFT;
}

/* What a session is for: by its ALPN and, on sealane-link/1, by whose the client's certificate is. */
enum frame_purpose {
	FRAME_FOR_LANES, /* a service's */
	FRAME_FOR_HOSTS, /* a host's */
	FRAME_FOR_CA,	 /* sealane-ca/1 and sealane-join/1 */
	FRAME_PURPOSE_N
};

struct frame {
	uint32_t lane;
	uint16_t size; /* of the payload */
	uint8_t type;  /* enum frame_type */
	uint8_t flags;
	const uint8_t *payload; /* borrowed from what was parsed */
	union {
		struct {
			uint32_t window;
			uint16_t has; /* FRAME_HAS_*, and bits of later versions */
		} hello;
		struct {
			uint8_t kind; /* enum link_kind */
			char destination[LIMIT_SERVICE_SIZE]; /* of the form ns/name */
		} open;
		struct {
			uint8_t code; /* enum link_code */
			char why[FRAME_WHY_MAX + 1]; /* printable ASCII */
		} refused;
		uint32_t credit; /* 1 to FRAME_WINDOW_MAX */
		uint8_t code;	 /* RESET: enum link_code */
		struct {
			const uint8_t *signature, *certificates; /* borrowed */
			uint16_t signature_size, certificates_size;
		} proof;
		uint64_t ping; /* PING, PONG */
		struct {
			uint8_t step;	   /* enum rdma_step */
			uint8_t cap_log2;  /* ASK; not held against any bounds */
			uint64_t number;   /* ASK, HERE: of the connection in this session; not 0 */
			const uint8_t *key; /* KEY: borrowed, FRAME_RDMA_KEY_SIZE bytes */
			char address[LIMIT_ADDRESS_SIZE]; /* HERE: as address_parse() takes it */
			char why[FRAME_WHY_MAX + 1];	  /* NO: printable ASCII */
		} rdma;
	} u;
};

/*
 * frame_parse() - the frame that @bytes begin with.
 * @from_client: who sent it. @purpose: of the session. *ret_why: a line for people, on -EPROTO.
 * Return: its whole size; 0: not all of it is there yet; -EPROTO: a peer that breaks the rules (told as soon as the header shows it).
 */
MUST_CHECK ssize_t frame_parse(struct frame *ret, const uint8_t *bytes, size_t size, bool from_client, enum frame_purpose purpose,
			       const char **ret_why);

/* frame_data_size(), frame_data_flags_of() - of the payload and the flags, in a frame that frame_parse() has let pass before. */
uint16_t frame_data_size(const uint8_t header[FRAME_HEADER_SIZE]);
uint8_t frame_data_flags_of(const uint8_t header[FRAME_HEADER_SIZE]);

/* frame_name() - "DATA"; never NULL. */
const char *frame_name(unsigned type);

/* frame_put_header() - 8 bytes at @to. */
void frame_put_header(uint8_t *to, uint32_t lane, enum frame_type type, uint8_t flags, size_t payload_size);

/* The others write a whole frame at @to and return its size. @to has room for it: the sizes above. */
size_t frame_put_hello(uint8_t *to, uint32_t window, uint16_t has);
size_t frame_put_open(uint8_t *to, uint32_t lane, enum link_kind kind, const char *destination);
size_t frame_put_refused(uint8_t *to, uint32_t lane, enum link_code code, const char *why); /* @why: cut off at FRAME_WHY_MAX */
size_t frame_put_credit(uint8_t *to, uint32_t lane, uint32_t credit);
size_t frame_put_code(uint8_t *to, uint32_t lane, enum link_code code); /* RESET */
size_t frame_put_ping(uint8_t *to, enum frame_type type, uint64_t value); /* PING, PONG */
size_t frame_put_empty(uint8_t *to, uint32_t lane, enum frame_type type); /* OPENED, FIN, GOAWAY */
/* RDMA, step by step; each is at most FRAME_RDMA_SIZE_MAX. @address: shorter than LIMIT_ADDRESS_SIZE. @why: cut off at FRAME_WHY_MAX. */
size_t frame_put_rdma_ask(uint8_t *to, uint64_t number, uint8_t cap_log2);
size_t frame_put_rdma_here(uint8_t *to, uint64_t number, const char *address);
size_t frame_put_rdma_key(uint8_t *to, const uint8_t key[FRAME_RDMA_KEY_SIZE]);
size_t frame_put_rdma_switch(uint8_t *to);
size_t frame_put_rdma_no(uint8_t *to, const char *why);
/* frame_put_proof() - the signature and the certificates, one DER after another. Return: 0 if it is more than a frame takes. */
size_t frame_put_proof(uint8_t *to, const uint8_t *signature, size_t signature_size, const uint8_t *certificates, size_t certificates_size);

#endif
