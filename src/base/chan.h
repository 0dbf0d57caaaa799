/*
 * A channel between two of our own processes: a connected SOCK_SEQPACKET socket, one message per datagram, at most one
 * descriptor beside each message. Messages that the kernel does not take at once wait in a bounded queue, so that no
 * role ever blocks on another (two roles that block on each other would be a deadlock).
 *
 * Threads: one. Trust: the bytes of a received message are hostile until wire/role.h has checked them; a role that was
 * taken over may send anything.
 */
#ifndef BASE_CHAN_H
#define BASE_CHAN_H

#include "base/limits.h"
#include "base/util.h"

struct chan_msg;

struct chan {
	int fd; /* owned, non-blocking; -1: closed */
	struct chan_msg *head, **tail;
	size_t n_queued, queued_size;
};

/* chan_pair() - a connected pair, both ends CLOEXEC and non-blocking. Owned by the caller. Return: 0 or negative errno. */
MUST_CHECK int chan_pair(int ret_fds[2]);

/* chan_init() - take ownership of @fd and make it non-blocking. */
void chan_init(struct chan *c, int fd);

/* chan_close() - close and drop what is queued (with its descriptors). Safe on a closed channel. */
void chan_close(struct chan *c);

/*
 * chan_send() - send one message of @size bytes, with a duplicate of @fd if it is >= 0 (borrowed, the caller still closes it).
 * Never blocks: what the kernel does not take is queued; see chan_wants_write().
 * Return: 0; -ENOBUFS when LIMIT_CHAN_QUEUE_SIZE bytes wait (give the peer up); -EPIPE when the peer is gone.
 */
MUST_CHECK int chan_send(struct chan *c, const void *msg, size_t size, int fd);

/* chan_flush() - send what is queued as far as the kernel takes it. Return: 0 or negative errno (the peer is gone). */
MUST_CHECK int chan_flush(struct chan *c);

static inline bool chan_wants_write(const struct chan *c)
{
	return c->head != NULL;
}

/*
 * chan_recv() - receive one message into @buf.
 * @ret_fd: the descriptor that came with it, or -1; owned by the caller, CLOEXEC.
 * Return: its size; 0: the peer closed; -EAGAIN: nothing there; -EMSGSIZE: larger than @cap; other negative errno.
 */
MUST_CHECK ssize_t chan_recv(struct chan *c, void *buf, size_t cap, int *ret_fd);

#endif
