/*
 * A lane within one process, without a test framework: what has to work with every C library and compiler that the library is
 * built with (musl has no cmocka). Everything else is tested elsewhere.
 */
#include "client/lane.h"

#include <poll.h>
#include <stdio.h>

#define EXPECT(what)                                                                            \
	do {                                                                                    \
		if (!(what)) {                                                                  \
			fprintf(stderr, "%s:%d: not so: %s (last error: %s)\n", __FILE__, __LINE__, #what, sealane_last_error()); \
			exit(1);                                                                \
		}                                                                               \
	} while (0)

static const enum sealane_wait g_waits[2] = { SEALANE_WAIT_ADAPTIVE, SEALANE_WAIT_BLOCK };

static void streams(void)
{
	struct sealane_lane *lane[2];
	char buf[16];

	EXPECT(lane_pair(lane, SEALANE_STREAM, g_waits, 16, 0) == 0);
	EXPECT(sealane_read(lane[1], buf, sizeof(buf), SEALANE_NOWAIT) == -EAGAIN);
	EXPECT(sealane_read(lane[1], buf, sizeof(buf), 1000000) == -ETIMEDOUT);
	EXPECT(sealane_write(lane[0], "hello", 5, SEALANE_FOREVER) == 5);
	EXPECT(sealane_read(lane[1], buf, 2, SEALANE_FOREVER) == 2 && memcmp(buf, "he", 2) == 0);
	EXPECT(sealane_read(lane[1], buf, sizeof(buf), SEALANE_FOREVER) == 3 && memcmp(buf, "llo", 3) == 0);
	EXPECT(sealane_shutdown(lane[0]) == 0);
	EXPECT(sealane_read(lane[1], buf, sizeof(buf), SEALANE_FOREVER) == 0);
	EXPECT(sealane_write(lane[1], "back", 4, SEALANE_FOREVER) == 4);
	EXPECT(sealane_read(lane[0], buf, sizeof(buf), SEALANE_FOREVER) == 4);
	sealane_close(lane[0]);
	EXPECT(sealane_write(lane[1], "x", 1, SEALANE_FOREVER) == -EPIPE);
	sealane_close(lane[1]);
}

/* A wake-up for nothing is allowed, one after the other is not. */
static bool goes_quiet(struct sealane_lane *lane, struct pollfd *p)
{
	char buf[16];

	for (int i = 0; i < 3; i++) {
		if (sealane_recv(lane, buf, sizeof(buf), SEALANE_NOWAIT) != -EAGAIN)
			return false;
		if (poll(p, 1, 0) == 0)
			return true;
	}
	return false;
}

static void messages(void)
{
	struct sealane_lane *lane[2];
	struct pollfd p = { .events = POLLIN };
	const void *piece;
	void *place;
	char buf[16];
	size_t size;

	EXPECT(lane_pair(lane, SEALANE_MESSAGES, g_waits, 16, UINT64_MAX - 3) == 0);
	p.fd = sealane_fd(lane[1]);
	EXPECT(p.fd >= 0);
	EXPECT(goes_quiet(lane[1], &p));
	EXPECT(sealane_stage(lane[0], "one", 3, SEALANE_FOREVER) == 0);
	EXPECT(sealane_recv(lane[1], buf, sizeof(buf), SEALANE_NOWAIT) == -EAGAIN);
	EXPECT(sealane_reserve(lane[0], 3, &place, SEALANE_NOWAIT) == 0);
	memcpy(place, "two", 3);
	EXPECT(sealane_commit(lane[0], 3) == 0);
	EXPECT(poll(&p, 1, 1000) == 1);
	EXPECT(sealane_recv(lane[1], buf, sizeof(buf), SEALANE_NOWAIT) == 3 && memcmp(buf, "one", 3) == 0);
	EXPECT(sealane_peek(lane[1], &piece, &size, NULL, SEALANE_NOWAIT) == 0 && size == 3 && memcmp(piece, "two", 3) == 0);
	sealane_release(lane[1]);
	sealane_close(lane[0]);
	EXPECT(sealane_recv(lane[1], buf, sizeof(buf), SEALANE_FOREVER) == -ENODATA);
	sealane_close(lane[1]);
}

static void texts(void)
{
	struct sealane_options options = SEALANE_OPTIONS_INIT;
	struct sealane_lane *lane;

	options.dir = "/nonexistent";
	EXPECT(sealane_connect(&lane, "redis", &options) == -SEALANE_E_NO_DAEMON && lane == NULL);
	EXPECT(strstr(sealane_last_error(), "/nonexistent/control.sock") != NULL);
	EXPECT(strcmp(sealane_strerror(-SEALANE_E_CUT), "the lane was cut: by the daemon, or with its link") == 0);
	EXPECT(strcmp(sealane_strerror(-EPIPE), "Broken pipe") == 0);
	EXPECT(sealane_strerror(-4000) != NULL && sealane_strerror(0) != NULL && sealane_strerror(INT32_MIN) != NULL);
	EXPECT(sealane_version()[0] == '0');
}

int main(void)
{
	streams();
	messages();
	texts();
	puts("streams, messages and texts work");
	return 0;
}
