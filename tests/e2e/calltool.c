/*
 * Calls and fan-out in a container, for lanes_calls.sh.
 *
 *   calltool answer SERVICE            serve method 1 (echo) and method 2 (fails)
 *   calltool ask SERVICE N             N calls of each
 *   calltool publish SERVICE N         one message each millisecond, after somebody subscribed
 *   calltool subscribe SERVICE [NAP]   read to the end, with NAP ms between two messages
 */
#include <sealane.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECOND INT64_C(1000000000)

static int failed(const char *what)
{
	printf("%s: %s\n", what, sealane_last_error());
	return 1;
}

static int on_echo(struct sealane_request *q, void *arg)
{
	static char buf[1 << 20];
	ssize_t n = sealane_request_read(q, buf, sizeof(buf));

	(void)arg;
	return n < 0 ? (int)n : sealane_request_reply(q, buf, (size_t)n);
}

static int on_fail(struct sealane_request *q, void *arg)
{
	(void)arg;
	return sealane_request_fail(q, 7, "as it should");
}

static int answer(const char *service)
{
	static const struct sealane_method methods[] = { { 1, "echo", on_echo }, { 2, "fail", on_fail } };
	struct sealane_options o = SEALANE_OPTIONS_INIT;
	struct sealane_listener *listener;
	struct sealane_lane *lane;

	o.kind = SEALANE_MESSAGES;
	if (sealane_listen(&listener, service, &o) < 0)
		return failed("listen");
	puts("listening");
	while (sealane_accept(listener, &lane, SEALANE_FOREVER) == 0) {
		if (sealane_methods(lane, methods, 2, NULL) < 0)
			return failed("methods");
		while (sealane_serve(lane, SEALANE_FOREVER) >= 0)
			;
		sealane_close(lane);
	}
	return failed("accept");
}

static int ask(const char *service, int n)
{
	static char out[500000], in[sizeof(out)];
	struct sealane_options o = SEALANE_OPTIONS_INIT;
	struct sealane_lane *lane;
	int status = 0;

	o.kind = SEALANE_MESSAGES;
	if (sealane_connect(&lane, service, &o) < 0)
		return failed("connect");
	for (int i = 0; i < n; i++) {
		size_t size = i % 100 ? (size_t)i % 1000 : sizeof(out);

		memset(out, i, size);
		if (sealane_call(lane, 1, out, size, in, sizeof(in), 10 * SECOND) != (ssize_t)size || memcmp(out, in, size) != 0)
			return failed("echo");
		if (sealane_call(lane, 2, NULL, 0, NULL, 0, 10 * SECOND) != -SEALANE_E_REMOTE)
			return failed("fail");
	}
	printf("ok %d calls, ", 2 * n);
	printf("and the error is %s", sealane_call_error(lane, &status));
	printf(" (%d)\n", status);
	sealane_close(lane);
	return 0;
}

static int publish(const char *service, int n)
{
	struct sealane_options o = SEALANE_OPTIONS_INIT;
	struct sealane_publisher *p;
	char message[1000];

	o.ring_bytes = 16384;
	if (sealane_publisher_open(&p, service, &o) < 0)
		return failed("publish");
	puts("publishing");
	for (int i = 0; i < n; i++) {
		memset(message, i, sizeof(message));
		memcpy(message, &i, sizeof(i));
		if (sealane_publish(p, message, sizeof(message)) < 0)
			return failed("publish");
		usleep(1000);
	}
	printf("%d subscribers at the end\n", sealane_publisher_poll(p));
	sealane_publisher_close(p);
	return 0;
}

static int subscribe(const char *service, int nap_ms)
{
	struct sealane_subscriber *s;
	unsigned long long n_read = 0, n_missed = 0;
	char message[1000];
	int number, last = -1;

	if (sealane_subscribe(&s, service, NULL) < 0)
		return failed("subscribe");
	printf("from %s\n", sealane_subscriber_peer(s)->service);
	for (;;) {
		uint64_t missed;
		ssize_t n = sealane_next(s, message, sizeof(message), &missed, 30 * SECOND);

		if (n == -ENODATA)
			break;
		if (n != sizeof(message))
			return failed("next");
		memcpy(&number, message, sizeof(number));
		if ((last >= 0 && number != last + 1 + (int)missed) || message[999] != (char)number)
			return printf("%d after %d with %d missed\n", number, last, (int)missed), 1;
		last = number;
		n_read++;
		n_missed += missed;
		usleep((useconds_t)nap_ms * 1000);
	}
	printf("the end after %d: read %llu missed %s\n", last, n_read, n_missed ? "some" : "none");
	sealane_subscriber_close(s);
	return 0;
}

int main(int argc, char **argv)
{
	const char *verb = argc > 2 ? argv[1] : "";
	int n = argc > 3 ? atoi(argv[3]) : 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (strcmp(verb, "answer") == 0)
		return answer(argv[2]);
	if (strcmp(verb, "ask") == 0)
		return ask(argv[2], n);
	if (strcmp(verb, "publish") == 0)
		return publish(argv[2], n);
	if (strcmp(verb, "subscribe") == 0)
		return subscribe(argv[2], n);
	fputs("usage: calltool answer|ask|publish|subscribe SERVICE [N]\n", stderr);
	return 2;
}
