/*
 * Calls: a server with two methods, and a client that has many calls under way on one lane.
 *
 *   cc calls.c $(pkg-config --cflags --libs sealane) -o calls
 *   ./calls serve echo          ./calls call echo
 */
#include <errno.h>
#include <sealane.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define SECOND INT64_C(1000000000)

enum { SQUARE = 1, ROOT = 2, N_CALLS = 100 };

/* Return: 0, or what the library is to answer for us. */
static int read_number(struct sealane_request *request, uint64_t *ret)
{
	return sealane_request_read(request, ret, sizeof(*ret)) == sizeof(*ret) ? 0 : -EINVAL;
}

static int square(struct sealane_request *request, void *arg)
{
	uint64_t x;
	int r = read_number(request, &x);

	(void)arg;
	if (r < 0)
		return r;
	x *= x;
	return sealane_request_reply(request, &x, sizeof(x));
}

static int root(struct sealane_request *request, void *arg)
{
	uint64_t x, y = 0;
	int r = read_number(request, &x);

	(void)arg;
	if (r < 0)
		return r;
	while (y * y < x && sealane_request_time_left(request) != 0)
		y++;
	if (y * y != x)
		return sealane_request_fail(request, 1, "its root is no whole number");
	return sealane_request_reply(request, &y, sizeof(y));
}

static int serve(struct sealane_listener *listener)
{
	static const struct sealane_method methods[] = { { SQUARE, "square", square }, { ROOT, "root", root } };
	struct sealane_lane *lane;
	int r = sealane_accept(listener, &lane, SEALANE_FOREVER);

	if (r < 0)
		return r;
	r = sealane_methods(lane, methods, 2, NULL);
	while (r >= 0)
		r = sealane_serve(lane, SEALANE_FOREVER);
	sealane_close(lane);
	return r == -ENODATA ? 0 : r; /* the end */
}

static int call(struct sealane_lane *lane)
{
	uint64_t numbers[N_CALLS], squares[N_CALLS], ids[N_CALLS], two = 2, answer, sum = 0;
	ssize_t n;
	int status;

	for (uint64_t i = 0; i < N_CALLS; i++) {
		numbers[i] = i;
		n = sealane_call_begin(lane, SQUARE, &numbers[i], sizeof(numbers[i]), &squares[i], sizeof(squares[i]), SECOND, &ids[i]);
		if (n < 0)
			return (int)n;
	}
	for (uint64_t i = 0; i < N_CALLS; i++) { /* in any order; sealane_call_next() takes them as they come */
		n = sealane_call_finish(lane, ids[i], SEALANE_FOREVER);
		if (n != sizeof(squares[i]))
			return n < 0 ? (int)n : -EBADMSG;
		sum += squares[i];
	}
	printf("the sum of the first %d squares is %llu\n", N_CALLS, (unsigned long long)sum);
	n = sealane_call(lane, ROOT, &two, sizeof(two), &answer, sizeof(answer), SECOND);
	if (n == -SEALANE_E_REMOTE) {
		const char *text = sealane_call_error(lane, &status);

		printf("the root of 2: error %d, %s\n", status, text);
		return 0;
	}
	return n < 0 ? (int)n : -EBADMSG;
}

int main(int argc, char **argv)
{
	struct sealane_options options = SEALANE_OPTIONS_INIT;
	struct sealane_listener *listener;
	struct sealane_lane *lane;
	int serves = argc == 3 && strcmp(argv[1], "serve") == 0, r;

	if (argc != 3) {
		fprintf(stderr, "usage: calls serve|call SERVICE\n");
		return 2;
	}
	options.kind = SEALANE_MESSAGES;
	r = serves ? sealane_listen(&listener, argv[2], &options) : sealane_connect(&lane, argv[2], &options);
	if (r < 0) {
		fprintf(stderr, "calls: %s\n", sealane_last_error());
		return 1;
	}
	if (serves) {
		while ((r = serve(listener)) == 0 || r == -SEALANE_E_NO_DAEMON)
			; /* one client after the other */
		sealane_listener_close(listener);
	} else {
		r = call(lane);
		sealane_close(lane);
	}
	if (r < 0)
		fprintf(stderr, "calls: %s\n", sealane_strerror(r));
	return r < 0;
}
