/* Two hosts over a socket pair, on a clock that goes on when nothing moves. Bytes are cut at odd places. */
#include "rdma/served.h"
#include "rdma/test_bed.h"

#include <sys/socket.h>

struct channel {
	int fds[2];
	uint64_t now_ns;
	bool b_is_dead;
	unsigned cut;
};

static uint64_t now_ns(void *arg)
{
	return ((struct channel *)arg)->now_ns;
}

void bed_open(struct bed *bed)
{
	struct channel *ch = calloc(1, sizeof(*ch));

	if (!ch || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ch->fds) < 0)
		abort();
	ch->now_ns = 1000000000;
	if (served_open(&bed->a, &(struct served_options){ now_ns, ch }) < 0 ||
	    served_open(&bed->b, &(struct served_options){ now_ns, ch }) < 0)
		abort();
	bed->b_address = "";
	bed->can_kill = true;
	bed->own = ch;
}

void bed_close(struct bed *bed)
{
	struct channel *ch = bed->own;

	remote_free(bed->a);
	remote_free(bed->b);
	close(ch->fds[0]);
	close(ch->fds[1]);
	free(ch);
}

static bool pump(struct channel *ch, struct remote *r, int fd)
{
	const uint8_t *out;
	uint8_t in[4096];
	const char *why;
	size_t n = served_output(r, &out);
	ssize_t done = n > 0 ? send(fd, out, n, MSG_NOSIGNAL) : 0;
	bool any = done > 0;

	if (done > 0)
		served_sent(r, (size_t)done);
	ch->cut = (ch->cut * 7 + 13) % sizeof(in);
	done = recv(fd, in, 1 + ch->cut, 0);
	if (done > 0 && served_input(r, in, (size_t)done, &why) < 0) {
		fprintf(stderr, "served: %s\n", why);
		abort();
	}
	return any || done > 0;
}

static bool pump_both(struct bed *bed)
{
	struct channel *ch = bed->own;
	bool any = pump(ch, bed->a, ch->fds[0]);

	return (!ch->b_is_dead && pump(ch, bed->b, ch->fds[1])) || any;
}

void bed_idle(struct bed *bed)
{
	((struct channel *)bed->own)->now_ns += pump_both(bed) ? 1000 : 1000000;
}

void bed_pass(struct bed *bed, unsigned ms)
{
	while (pump_both(bed)) { /* the channel goes on by itself, as a daemon's loop does */
	}
	((struct channel *)bed->own)->now_ns += ms * UINT64_C(1000000);
}

void bed_kill_b(struct bed *bed)
{
	((struct channel *)bed->own)->b_is_dead = true;
}
