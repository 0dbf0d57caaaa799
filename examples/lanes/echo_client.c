/*
 * Sends each of its arguments as a message and prints what comes back; then how long a round trip takes.
 *
 *   cc echo_client.c $(pkg-config --cflags --libs sealane) -o echo_client
 *   ./echo_client echo hello world
 */
#include <sealane.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { ROUNDS = 10000 };

#define SECOND INT64_C(1000000000)

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * SECOND + ts.tv_nsec;
}

/* Return: the size of what came back; negative: an error. */
static ssize_t ask(struct sealane_lane *lane, const char *text, char *answer, size_t size)
{
	int r = sealane_send(lane, text, strlen(text), SECOND);

	return r < 0 ? r : sealane_recv(lane, answer, size, SECOND);
}

static ssize_t converse(struct sealane_lane *lane, int n_words, char **words)
{
	const struct sealane_peer *peer = sealane_peer(lane);
	static char answer[65536];
	ssize_t n = 0;
	int64_t start;

	printf("connected to %s (%s), workload %s, over %s\n", peer->service, peer->spiffe_id, peer->workload, peer->path);
	for (int i = 0; i < n_words; i++) {
		n = ask(lane, words[i], answer, sizeof(answer));
		if (n < 0)
			return n;
		printf("%.*s\n", (int)n, answer);
	}
	start = now_ns();
	for (int i = 0; i < ROUNDS && n >= 0; i++)
		n = ask(lane, "ping", answer, sizeof(answer));
	if (n >= 0)
		printf("%d round trips, %lld ns each\n", ROUNDS, (long long)(now_ns() - start) / ROUNDS);
	return n;
}

int main(int argc, char **argv)
{
	struct sealane_options options = SEALANE_OPTIONS_INIT;
	struct sealane_lane *lane;
	ssize_t r;

	options.kind = SEALANE_MESSAGES;
	if (sealane_connect(&lane, argc > 1 ? argv[1] : "echo", &options) < 0) {
		fprintf(stderr, "%s\n", sealane_last_error());
		return 1;
	}
	r = converse(lane, argc > 2 ? argc - 2 : 0, argv + 2);
	if (r < 0)
		fprintf(stderr, "%s\n", sealane_strerror((int)r));
	sealane_close(lane);
	return r < 0;
}
