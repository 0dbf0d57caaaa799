/*
 * Standard input goes into a lane, what comes out of the lane goes to standard output: a netcat for lanes. One thread sends, one
 * receives; that is all a lane allows, and all it takes.
 *
 *   cc stream.c $(pkg-config --cflags --libs sealane) -pthread -o stream
 *   ./stream listen bytes >copy          ./stream connect bytes <original
 */
#include <errno.h>
#include <pthread.h>
#include <sealane.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void *send_all(void *arg)
{
	struct sealane_lane *lane = arg;
	static char buf[65536];
	ssize_t n;

	while ((n = read(STDIN_FILENO, buf, sizeof(buf))) > 0) {
		ssize_t sent = sealane_write(lane, buf, (size_t)n, SEALANE_FOREVER); /* all, or an error */

		if (sent < 0) {
			fprintf(stderr, "stream: cannot send: %s\n", sealane_strerror((int)sent));
			return NULL;
		}
	}
	if (sealane_shutdown(lane) < 0) /* the other side reads the rest, then the end */
		fprintf(stderr, "stream: %s\n", sealane_last_error());
	return NULL;
}

static int receive_all(struct sealane_lane *lane)
{
	static char buf[65536];
	ssize_t n;

	while ((n = sealane_read(lane, buf, sizeof(buf), SEALANE_FOREVER)) > 0)
		for (ssize_t done = 0, m; done < n; done += m) {
			m = write(STDOUT_FILENO, buf + done, (size_t)(n - done));
			if (m < 0)
				return -errno;
		}
	return (int)n;
}

static int open_lane(struct sealane_lane **ret, const char *how, const char *service)
{
	struct sealane_listener *listener;
	int r;

	if (strcmp(how, "listen") != 0)
		return sealane_connect(ret, service, NULL); /* NULL: a stream, all defaults */
	r = sealane_listen(&listener, service, NULL);
	if (r < 0)
		return r;
	r = sealane_accept(listener, ret, SEALANE_FOREVER);
	sealane_listener_close(listener); /* the lane stays */
	return r;
}

int main(int argc, char **argv)
{
	struct sealane_lane *lane;
	pthread_t sender;
	int r;

	if (argc != 3) {
		fprintf(stderr, "usage: stream listen|connect SERVICE\n");
		return 2;
	}
	if (open_lane(&lane, argv[1], argv[2]) < 0) {
		fprintf(stderr, "stream: %s\n", sealane_last_error());
		return 1;
	}
	if (pthread_create(&sender, NULL, send_all, lane) != 0)
		return 1;
	r = receive_all(lane);
	if (r < 0)
		fprintf(stderr, "stream: cannot receive: %s\n", sealane_strerror(r));
	pthread_join(sender, NULL);
	sealane_close(lane);
	return r < 0;
}
