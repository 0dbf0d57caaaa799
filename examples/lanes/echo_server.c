/*
 * Takes lanes for a service and sends every message back, with a thread for each lane: a lane belongs to one thread at a time, so
 * nothing here needs a lock.
 *
 *   cc echo_server.c $(pkg-config --cflags --libs sealane) -pthread -o echo_server
 *   ./echo_server echo
 */
#include <errno.h>
#include <pthread.h>
#include <sealane.h>
#include <stdio.h>
#include <stdlib.h>

enum { LARGEST = 1 << 20 };

static void *serve(void *arg)
{
	struct sealane_lane *lane = arg;
	char *buf = malloc(LARGEST);
	ssize_t n = -ENOMEM;

	while (buf && (n = sealane_recv(lane, buf, LARGEST, SEALANE_FOREVER)) >= 0) {
		n = sealane_send(lane, buf, (size_t)n, SEALANE_FOREVER);
		if (n < 0)
			break;
	}
	if (n != -ENODATA && n != -EPIPE) /* not just a client that has left */
		fprintf(stderr, "%s: %s\n", sealane_peer(lane)->service, sealane_strerror((int)n));
	sealane_close(lane);
	free(buf);
	return NULL;
}

int main(int argc, char **argv)
{
	struct sealane_options options = SEALANE_OPTIONS_INIT;
	struct sealane_listener *listener;
	struct sealane_lane *lane;
	pthread_t thread;

	options.kind = SEALANE_MESSAGES;
	if (sealane_listen(&listener, argc > 1 ? argv[1] : "echo", &options) < 0) {
		fprintf(stderr, "%s\n", sealane_last_error());
		return 1;
	}
	for (;;) {
		int r = sealane_accept(listener, &lane, SEALANE_FOREVER);

		if (r == -SEALANE_E_NO_DAEMON)
			continue; /* it is away; the call finds it again */
		if (r < 0) {
			fprintf(stderr, "%s\n", sealane_last_error());
			continue;
		}
		printf("lane %016llx from %s, %s\n", (unsigned long long)sealane_peer(lane)->lane_id, sealane_peer(lane)->service,
		       sealane_peer(lane)->spiffe_id);
		fflush(stdout);
		if (pthread_create(&thread, NULL, serve, lane) != 0)
			sealane_close(lane);
		else
			pthread_detach(thread);
	}
}
