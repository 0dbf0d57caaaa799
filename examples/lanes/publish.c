/*
 * One publisher, many subscribers: a clock that tells everybody the time, and never waits for anybody.
 *
 *   cc publish.c $(pkg-config --cflags --libs sealane) -o publish
 *   ./publish publish ticks          ./publish subscribe ticks
 */
#include <sealane.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static int publish(const char *service)
{
	struct timespec tenth = { .tv_nsec = 100 * 1000 * 1000 };
	struct sealane_publisher *publisher;
	int r = sealane_publisher_open(&publisher, service, NULL);

	if (r < 0)
		return r;
	for (uint64_t tick = 0; r >= 0; tick++) {
		r = sealane_publish(publisher, &tick, sizeof(tick)); /* lets new subscribers in, too */
		nanosleep(&tenth, NULL);
	}
	sealane_publisher_close(publisher);
	return r;
}

static int subscribe(const char *service)
{
	struct sealane_subscriber *subscriber;
	uint64_t tick, missed, n_missed = 0;
	int r = sealane_subscribe(&subscriber, service, NULL);
	ssize_t n = 0;

	if (r < 0)
		return r;
	for (int i = 0; i < 10 && n >= 0; i++) {
		n = sealane_next(subscriber, &tick, sizeof(tick), &missed, SEALANE_FOREVER);
		n_missed += missed;
		if (n == sizeof(tick))
			printf("tick %llu of %s\n", (unsigned long long)tick, sealane_subscriber_peer(subscriber)->service);
	}
	printf("missed: %llu\n", (unsigned long long)n_missed);
	sealane_subscriber_close(subscriber);
	return n < 0 ? (int)n : 0;
}

int main(int argc, char **argv)
{
	int r;

	if (argc != 3) {
		fprintf(stderr, "usage: publish publish|subscribe SERVICE\n");
		return 2;
	}
	r = strcmp(argv[1], "publish") == 0 ? publish(argv[2]) : subscribe(argv[2]);
	if (r < 0)
		fprintf(stderr, "publish: %s: %s\n", sealane_strerror(r), sealane_last_error());
	return r < 0;
}
