/*
 * Frames that are made in the ring and read in the ring: no byte is copied, so the cost does not grow with the size.
 *
 *   cc zero_copy.c $(pkg-config --cflags --libs sealane) -o zero_copy
 *   ./zero_copy receive frames          ./zero_copy send frames
 */
#include <errno.h>
#include <sealane.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { FRAMES = 1000, PIXELS = 100000 };

struct frame {
	uint32_t number, n_pixels;
	uint8_t pixels[];
};

/* Ten frames fit, so that one is made while others are read; one may be a quarter of the ring at most. */
static const struct sealane_options g_options = { .size = sizeof(g_options), .kind = SEALANE_MESSAGES, .ring_bytes = 1 << 20 };

static int send_frames(struct sealane_lane *lane)
{
	for (uint32_t i = 0; i < FRAMES; i++) {
		size_t size = sizeof(struct frame) + PIXELS;
		void *place;
		int r = sealane_reserve(lane, size, &place, SEALANE_FOREVER);
		struct frame *frame = place;

		if (r < 0)
			return r;
		frame->number = i;
		frame->n_pixels = PIXELS;
		memset(frame->pixels, (int)i, PIXELS);
		r = sealane_commit(lane, size);
		if (r < 0)
			return r;
	}
	return 0;
}

/*
 * What is read in place is the sender's memory, and it may change while we look. So what decides about memory is copied (the
 * header) and checked against what the library says (@size); a pixel can do no harm whatever it is.
 */
static uint64_t look_at(const void *piece, size_t size)
{
	const struct frame *frame = piece;
	struct frame header;
	uint64_t sum = 0;

	if (size < sizeof(header))
		return 0;
	memcpy(&header, piece, sizeof(header));
	if (header.n_pixels > size - sizeof(header))
		return 0;
	for (uint32_t i = 0; i < header.n_pixels; i++)
		sum += frame->pixels[i];
	return sum;
}

static int receive_frames(struct sealane_lane *lane)
{
	uint64_t sum = 0, n = 0;
	const void *piece;
	size_t size;
	int more, r;

	while ((r = sealane_peek(lane, &piece, &size, &more, SEALANE_FOREVER)) == 0) {
		if (more)
			return -EMSGSIZE; /* larger than sealane_reserve_max() of its sender: not one of ours */
		sum += look_at(piece, size);
		n++;
		sealane_release(lane);
	}
	printf("%llu frames, sum %llu\n", (unsigned long long)n, (unsigned long long)sum);
	return r == -ENODATA ? 0 : r;
}

static int open_lane(struct sealane_lane **ret, int listens, const char *service)
{
	struct sealane_listener *listener;
	int r;

	if (!listens)
		return sealane_connect(ret, service, &g_options);
	r = sealane_listen(&listener, service, &g_options);
	if (r < 0)
		return r;
	r = sealane_accept(listener, ret, SEALANE_FOREVER);
	sealane_listener_close(listener);
	return r;
}

int main(int argc, char **argv)
{
	int receives = argc == 3 && strcmp(argv[1], "receive") == 0, r;
	struct sealane_lane *lane;

	if (argc != 3) {
		fprintf(stderr, "usage: zero_copy send|receive SERVICE\n");
		return 2;
	}
	if (open_lane(&lane, receives, argv[2]) < 0) {
		fprintf(stderr, "zero_copy: %s\n", sealane_last_error());
		return 1;
	}
	r = receives ? receive_frames(lane) : send_frames(lane);
	if (r < 0)
		fprintf(stderr, "zero_copy: %s\n", sealane_strerror(r));
	sealane_close(lane); /* what was sent is still read by the other side */
	return r < 0;
}
