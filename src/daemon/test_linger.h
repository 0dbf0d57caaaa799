/* A trap that a container can send: whoever closes the last copy of it waits, for as long as its owner said. */
#ifndef DAEMON_TEST_LINGER_H
#define DAEMON_TEST_LINGER_H

#include "base/util.h"

#include <netinet/in.h>
#include <sys/socket.h>

/*
 * lingering() - a TCP socket with bytes that nobody reads, and SO_LINGER. Return: that socket, and its other end, which the
 * caller keeps open; -1: there is no loopback interface here.
 */
static inline int lingering(int *ret_peer)
{
	struct sockaddr_in sin = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct linger l = { .l_onoff = 1, .l_linger = 60 };
	socklen_t n = sizeof(sin);
	AUTO_FD listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	AUTO_FD sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char bytes[65536] = "";

	if (bind(listener, (struct sockaddr *)&sin, n) < 0 || listen(listener, 1) < 0 ||
	    getsockname(listener, (struct sockaddr *)&sin, &n) < 0 || connect(sock, (struct sockaddr *)&sin, n) < 0)
		return -1;
	*ret_peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert(*ret_peer >= 0);
	n = setsockopt(sock, SOL_SOCKET, SO_LINGER, &l, sizeof(l)) < 0;
	assert(n == 0);
	while (send(sock, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
	return take_fd(&sock);
}

#endif
