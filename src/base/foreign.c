#include "base/foreign.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83 /* asm-generic/socket.h, Linux 6.16 */
#endif

/* What one such descriptor can cost everybody. A usual turn is shorter, and never sees a tick. */
enum { TICK_US = 1000 };

static bool g_has_handler, g_ticks;

int foreign_refuse(int sock)
{
	int on = 1, off = 0;
	socklen_t n = sizeof(on);

	if (getsockopt(sock, SOL_SOCKET, SO_PASSRIGHTS, &on, &n) < 0)
		return -errno;
	if (!on)
		return 0;
	return setsockopt(sock, SOL_SOCKET, SO_PASSRIGHTS, &off, sizeof(off)) < 0 ? -errno : 1;
}

static void on_tick(int signo)
{
}

int foreign_tick_init(void)
{
	struct sigaction sa = { .sa_handler = on_tick, .sa_flags = SA_RESTART };

	if (sigaction(SIGALRM, &sa, NULL) < 0)
		return -errno;
	g_has_handler = true;
	return 0;
}

static void tick_every(suseconds_t us)
{
	const struct itimerval it = { .it_value.tv_usec = us, .it_interval.tv_usec = us };
	int r = setitimer(ITIMER_REAL, &it, NULL);

	assert(r == 0); /* it fails only for a wrong argument */
	g_ticks = us > 0;
}

void foreign_tick_start(void)
{
	if (!g_ticks && g_has_handler)
		tick_every(TICK_US);
}

void foreign_tick_stop(void)
{
	if (g_ticks)
		tick_every(0);
}
