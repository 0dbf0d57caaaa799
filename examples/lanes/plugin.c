/*
 * Two components of one process, a host and a plug-in, that talk over a lane whose two ends have protection keys of their own: the
 * plug-in cannot touch the host's end, by mistake or by pointer, and the other way round. Needs no daemon.
 *
 *   cc plugin.c $(pkg-config --cflags --libs sealane) -pthread -o plugin && ./plugin
 */
#include <sealane.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct sealane_component *g_host, *g_plugin;
static struct sealane_lane *g_ends[2]; /* the host's, the plug-in's */

static void check(long result, const char *what)
{
	if (result >= 0)
		return;
	fprintf(stderr, "%s: %s (%s)\n", what, sealane_strerror((int)result), sealane_last_error());
	exit(1);
}

/* The plug-in: answers in capitals until the host has no more to say. */
static void *plugin(void *arg)
{
	char text[100];
	ssize_t n;

	(void)arg;
	sealane_component_join(g_plugin); /* this thread works for the plug-in from now on */
	while ((n = sealane_recv(g_ends[1], text, sizeof(text), SEALANE_FOREVER)) >= 0) {
		for (ssize_t i = 0; i < n; i++)
			if (text[i] >= 'a' && text[i] <= 'z')
				text[i] = (char)(text[i] - 'a' + 'A');
		check(sealane_send(g_ends[1], text, (size_t)n, SEALANE_FOREVER), "plug-in: send");
	}
	if (sealane_send(g_ends[0], "forged", 6, SEALANE_NOWAIT) != -EACCES)
		return (void *)"the host's end was open to the plug-in";
	puts("the host's end is closed to the plug-in");
	return NULL;
}

int main(void)
{
	struct sealane_options options = SEALANE_OPTIONS_INIT;
	struct sealane_component *components[2];
	const char *text = "made of the same memory";
	void *wrong = NULL;
	pthread_t thread;
	char answer[100];
	ssize_t n;

	check(sealane_component(&g_host, "host"), "host");
	check(sealane_component(&g_plugin, "plugin"), "plug-in");
	components[0] = g_host;
	components[1] = g_plugin;
	options.kind = SEALANE_MESSAGES;
	check(sealane_pair(g_ends, components, &options), "pair");
	puts(sealane_component_guarded(g_host) ? "a key for each component" : "no keys on this machine: calls are checked all the same");
	check(sealane_guard_handler(NULL, NULL), "handler"); /* a stray access is told, with the lane's name, before the process ends */

	check(pthread_create(&thread, NULL, plugin, NULL) ? -1 : 0, "thread");
	sealane_component_join(g_host);
	check(sealane_send(g_ends[0], text, strlen(text), SEALANE_FOREVER), "send");
	n = sealane_recv(g_ends[0], answer, sizeof(answer), SEALANE_FOREVER);
	check(n, "receive");
	printf("%s says: %.*s\n", sealane_peer(g_ends[0])->service, (int)n, answer);
	check(sealane_shutdown(g_ends[0]), "shutdown");
	pthread_join(thread, &wrong);
	if (wrong) {
		fprintf(stderr, "%s\n", (const char *)wrong);
		return 1;
	}
	sealane_close(g_ends[0]);
	sealane_close(g_ends[1]);
	return 0;
}
