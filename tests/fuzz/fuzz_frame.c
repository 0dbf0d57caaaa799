/*
 * A stream of frames from a peer. The first byte of the input says who sent it and what for the session is; the second, how much of each
 * frame is there when it is first looked at, as records may cut it: the answer must then be the same, or "not yet". Whatever the bytes,
 * frame_parse() stays in them, and what it lets through has the form that the table promises.
 */
#include "core/name.h"
#include "link/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool good)
{
	if (!good)
		abort();
}

/* What was read is what would be written, but for text that is not printable. */
static void check_rdma(const struct frame *f)
{
	uint8_t again[FRAME_RDMA_SIZE_MAX];
	size_t n = 0;

	require(f->u.rdma.step >= RDMA_ASK && f->u.rdma.step < RDMA_STEP_N);
	if (f->u.rdma.step == RDMA_ASK)
		n = frame_put_rdma_ask(again, f->u.rdma.number, f->u.rdma.cap_log2);
	else if (f->u.rdma.step == RDMA_HERE)
		n = frame_put_rdma_here(again, f->u.rdma.number, f->u.rdma.address);
	else if (f->u.rdma.step == RDMA_KEY)
		n = frame_put_rdma_key(again, f->u.rdma.key);
	else if (f->u.rdma.step == RDMA_SWITCH)
		n = frame_put_rdma_switch(again);
	else
		require(frame_put_rdma_no(again, f->u.rdma.why) == FRAME_HEADER_SIZE + (size_t)f->size);
	require(n == 0 || (n == FRAME_HEADER_SIZE + (size_t)f->size && memcmp(again + FRAME_HEADER_SIZE, f->payload, f->size) == 0));
}

static void check_form(const struct frame *f)
{
	struct service_name name;
	uint8_t again[FRAME_OPEN_SIZE_MAX];

	switch (f->type) {
	case FRAME_HELLO:
		require(f->u.hello.window >= FRAME_WINDOW_MIN && f->u.hello.window <= FRAME_WINDOW_MAX);
		break;
	case FRAME_OPEN:
		require(f->u.open.kind < LINK_KIND_N && service_name_parse(&name, f->u.open.destination, "x") == 0);
		require(frame_put_open(again, f->lane, f->u.open.kind, f->u.open.destination) == FRAME_HEADER_SIZE + (size_t)f->size);
		require(memcmp(again + FRAME_HEADER_SIZE, f->payload, f->size) == 0);
		break;
	case FRAME_REFUSED:
		require(f->u.refused.code > LINK_CODE_NONE && f->u.refused.code < LINK_CODE_N && strlen(f->u.refused.why) == f->size - 1u);
		break;
	case FRAME_CREDIT:
		require(f->u.credit >= 1 && f->u.credit <= FRAME_WINDOW_MAX);
		break;
	case FRAME_RESET:
		require(f->u.code > LINK_CODE_NONE && f->u.code < LINK_CODE_N);
		break;
	case FRAME_PROOF:
		require(f->u.proof.signature_size <= SIGNATURE_SIZE && f->u.proof.certificates_size > 0);
		require(f->u.proof.certificates + f->u.proof.certificates_size == f->payload + f->size);
		break;
	case FRAME_RDMA:
		check_rdma(f);
		break;
	case FRAME_DATA:
		require(!(f->flags & ~frame_data_flags(true, FRAME_TAG_MAX)) && (f->size > 0 || !(f->flags & FRAME_MORE)));
		require(frame_data_size(f->payload - FRAME_HEADER_SIZE) == f->size && frame_data_flags_of(f->payload - FRAME_HEADER_SIZE) == f->flags);
		require(frame_data_flags(f->flags & FRAME_MORE, frame_tag(f->flags)) == f->flags);
		break;
	default:
		break;
	}
	require((f->lane != 0) == (f->type >= FRAME_OPEN && f->type <= FRAME_RESET));
}

/* The first frame, of a copy that ends where the bytes end, so that the sanitizer sees each byte that is read beyond them. */
static ssize_t parse(struct frame *f, const uint8_t *bytes, size_t size, uint8_t mode, uint8_t **copy)
{
	const char *why = NULL;
	ssize_t n;

	*copy = malloc(size ? size : 1);
	require(*copy != NULL);
	memcpy(*copy, bytes, size);
	n = frame_parse(f, *copy, size, mode & 1, (enum frame_purpose)(mode / 2 % FRAME_PURPOSE_N), &why);
	require(n >= 0 ? (size_t)n <= size : n == -EPROTO && why);
	return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t at = 2, cut;

	if (size < 2)
		return 0;
	cut = data[1];
	while (at < size) {
		struct frame f, part;
		uint8_t *copy, *part_copy;
		size_t left = size - at;
		ssize_t n = parse(&f, data + at, left, data[0], &copy), early;

		if (n > 0)
			check_form(&f);
		early = parse(&part, data + at, cut < left ? cut : left, data[0], &part_copy);
		require(early == n || early == 0 || (n < 0 && early < 0)); /* with less of it: the same, or not yet */
		free(copy);
		free(part_copy);
		if (n <= 0)
			break;
		at += (size_t)n;
	}
	return 0;
}
