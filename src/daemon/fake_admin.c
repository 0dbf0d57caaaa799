/* The admin interface over the fake broker, for tests that talk to it from outside: fake-admin SOCKET. Ends with SIGTERM. */
#include "base/log.h"
#include "daemon/broker_admin.h"
#include "daemon/fake_broker.h"

#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

static int listen_at(const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	AUTO_FD fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || !str_copy(sa.sun_path, sizeof(sa.sun_path), path) || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ||
	    listen(fd, 64) < 0)
		return -1;
	return take_fd(&fd);
}

static void on_term(evutil_socket_t sig, short what, void *arg)
{
	event_base_loopbreak(arg);
}

int main(int argc, char **argv)
{
	struct event_base *base = event_base_new();
	struct event *term = evsignal_new(base, SIGTERM, on_term, base);
	struct fake_broker *f = fake_new(base);
	int fd = argc == 2 ? listen_at(argv[1]) : -1;

	signal(SIGPIPE, SIG_IGN);
	event_add(term, NULL);
	if (fd < 0 || admin_start(&f->b, fd) < 0) {
		fprintf(stderr, "usage: %s SOCKET\n", argv[0]);
		return 1;
	}
	log_init("broker", LOG_LEVEL_INFO);
	log_set_sink(admin_log_sink, &f->b);
	log_info("daemon.start", LOG_STR("version", SEALANE_VERSION));
	log_warn("lane.deny", LOG_STR("source", "default/intruder"), LOG_STR("destination", "default/redis"));
	event_base_dispatch(base);
	admin_stop(&f->b);
	fake_free(f);
	event_free(term);
	event_base_free(base);
	return 0;
}
