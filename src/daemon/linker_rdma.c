/*
 * Theory of operation: a session whose frames go over RDMA.
 */
#include "daemon/linker_int.h"

#include <sys/epoll.h>

int linker_set_remote(struct linker *k, struct remote *r, const char *address)
{
	int fd = remote_fd(r);

	k->remote = r;
	if (!str_copy(k->remote_address, sizeof(k->remote_address), address))
		return -EINVAL;
	return fd < 0 ? 0 : linker_epoll(k, EPOLL_CTL_ADD, fd, EPOLLIN, linker_ref(LINKER_EVENT_REMOTE, 0));
}

void rdma_free(struct linker *k)
{
	remote_free(k->remote);
	k->remote = NULL;
}
