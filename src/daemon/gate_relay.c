/*
 * Theory of operation: bytes of one lane.
 *
 * A direction reads into the one buffer that all lanes of the process share and writes at once to the other side. Only
 * what the other side does not take is copied into memory of the lane's own (kept), and nothing more is read in that
 * direction until it is gone: a slow reader holds back its own writer, as on a direct socket, and costs at most
 * LIMIT_RELAY_BUFFER_SIZE for each direction. So that a slow reader usually costs far less, a direction starts with
 * small reads, doubles after a read that was full and wholly written, and halves after one that was not.
 *
 * Events are edge-triggered. `ready` remembers an edge that could not be used up (other side full, no tokens, turn
 * over). A short read uses it up: whatever the kernel queues after that makes a new edge. The exception is an end of
 * stream that was there already, hence `closing`.
 *
 * Ends are carried as the kernel itself would show them on a direct socket:
 *   read returns 0            what is kept is written, then shutdown(SHUT_WR) of the other side
 *   EPIPE on write            that side reads no more: the source's writes are to fail, so shutdown(SHUT_RD) there
 *   EPOLLHUP from a side      nothing can reach it: its direction is dropped, what it sent before is still carried
 *   ECONNRESET                as hang-up, and the lane's end is put down to that side
 * The lane ends when both directions are done.
 *
 * Descriptors (SCM_RIGHTS) are refused, by the kernel where they are sent (gate.c) or else here: the relay reads without a
 * control buffer, so the kernel drops them before they exist in this process and says MSG_CTRUNC, which ends the lane. To carry on without them would leave the receiver
 * waiting for something that it was promised.
 *
 * On a byte's way before this: gate.c (event), after it: the peer's socket.
 */
#include "daemon/gate_relay.h"

#include <sys/epoll.h>
#include <sys/socket.h>

enum {
	/* The first read of a direction; requests and answers of most protocols fit. */
	READ_SIZE_MIN = 16 << 10,
	/* Reads per direction and turn: at most 1 MiB (some 200 us) before another lane has its turn. */
	READS_PER_TURN = 8,
};

void relay_init(struct relay *r, int client_fd, int server_fd, uint64_t bytes_per_s, uint64_t burst_bytes, uint64_t now_ns)
{
	*r = (struct relay){ .fds = { client_fd, server_fd }, .end = LANE_END_EOF };
	for (unsigned s = 0; s < RELAY_N_SIDES; s++)
		r->dirs[s].read_size = READ_SIZE_MIN;
	bucket_init(&r->bucket, bytes_per_s, burst_bytes, now_ns);
}

static void dir_drop_kept(struct relay_dir *d)
{
	free(d->kept);
	d->kept = NULL;
	d->kept_off = d->kept_size = 0;
}

/* The first fault names the end: later ones are its consequences. */
static void relay_blame(struct relay *r, enum lane_end end, int error)
{
	if (r->end != LANE_END_EOF)
		return;
	r->end = end;
	r->error = error;
}

static void relay_blame_side(struct relay *r, unsigned side, int error)
{
	relay_blame(r, side == RELAY_CLIENT ? LANE_END_CLIENT : LANE_END_SERVER, error);
}

static void dir_finish(struct relay_dir *d)
{
	dir_drop_kept(d);
	d->state = RELAY_DONE;
	d->ready = d->blocked = false;
}

static void relay_abort(struct relay *r, enum lane_end end, int error)
{
	relay_blame(r, end, error);
	dir_finish(&r->dirs[RELAY_CLIENT]);
	dir_finish(&r->dirs[RELAY_SERVER]);
}

void relay_event(struct relay *r, unsigned side, uint32_t events)
{
	struct relay_dir *from = &r->dirs[side], *to = &r->dirs[!side];

	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		from->ready = true;
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		from->closing = true;
	if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
		to->blocked = false;
	if (events & EPOLLHUP)
		r->gone[side] = true;
}

/* Nothing can reach @side any more. Bytes that wait for it are lost, which a direct socket would have told as a reset. */
static void relay_drop_towards(struct relay *r, unsigned side)
{
	struct relay_dir *d = &r->dirs[!side];

	if (d->state == RELAY_DONE)
		return;
	if (d->kept_size > 0)
		relay_blame_side(r, side, -EPIPE);
	dir_finish(d);
}

/* A write to @to failed for good. */
static void relay_write_failed(struct relay *r, unsigned to, int error)
{
	if (error == -ENOMEM || error == -ENOBUFS) {
		relay_abort(r, LANE_END_NOMEM, error);
		return;
	}
	relay_blame_side(r, to, error);
	dir_finish(&r->dirs[!to]);
	shutdown(r->fds[!to], SHUT_RD);
}

/* Return: bytes that the other side took; fewer than @size mean that it is full (blocked) or takes no more (DONE). */
static size_t dir_write(struct relay *r, unsigned from, const uint8_t *bytes, size_t size)
{
	ssize_t n = send(r->fds[!from], bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0 && errno != EAGAIN) {
		relay_write_failed(r, !from, -errno);
		return 0;
	}
	if (n < 0)
		n = 0;
	r->dirs[from].blocked = (size_t)n < size;
	return (size_t)n;
}

/* Return: nothing is kept any more. */
static bool dir_flush(struct relay *r, unsigned from)
{
	struct relay_dir *d = &r->dirs[from];
	size_t n;

	if (d->kept_size == 0)
		return true;
	n = dir_write(r, from, d->kept + d->kept_off, d->kept_size);
	if (d->state == RELAY_DONE)
		return false;
	d->kept_off += n;
	d->kept_size -= n;
	if (d->kept_size > 0)
		return false;
	dir_drop_kept(d);
	return true;
}

static void dir_keep(struct relay *r, unsigned from, const uint8_t *bytes, size_t size)
{
	struct relay_dir *d = &r->dirs[from];

	d->kept = malloc(size);
	if (!d->kept) {
		relay_abort(r, LANE_END_NOMEM, -ENOMEM);
		return;
	}
	memcpy(d->kept, bytes, size);
	d->kept_size = size;
	if (d->read_size > READ_SIZE_MIN)
		d->read_size /= 2;
}

static void dir_read_failed(struct relay *r, unsigned from, int error)
{
	struct relay_dir *d = &r->dirs[from];

	if (error == -EAGAIN || error == -EINTR) {
		d->ready = error == -EINTR;
		return;
	}
	if (error == -ENOMEM || error == -ENOBUFS) {
		relay_abort(r, LANE_END_NOMEM, error);
		return;
	}
	relay_blame_side(r, from, error);
	relay_drop_towards(r, from);
	d->state = RELAY_DRAIN; /* what it sent before it failed is still the other side's */
}

/* One read and its write. Return: it read bytes. */
static bool dir_carry(struct relay *r, unsigned from, uint8_t *buf, size_t size)
{
	struct relay_dir *d = &r->dirs[from];
	struct iovec iov = { .iov_base = buf, .iov_len = size };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n = recvmsg(r->fds[from], &mh, MSG_DONTWAIT);
	size_t got, taken;

	if (n < 0) {
		dir_read_failed(r, from, -errno);
		return false;
	}
	if (mh.msg_flags & MSG_CTRUNC) {
		relay_abort(r, LANE_END_FDS, -EPERM);
		return false;
	}
	if (n == 0) {
		d->state = RELAY_DRAIN;
		return false;
	}
	got = (size_t)n;
	d->reads++;
	d->bytes += got;
	if (got < size && !d->closing)
		d->ready = false;
	taken = dir_write(r, from, buf, got);
	if (d->state == RELAY_DONE)
		return true;
	if (taken < got)
		dir_keep(r, from, buf + taken, got - taken);
	else if (got == d->read_size && d->read_size < LIMIT_RELAY_BUFFER_SIZE)
		d->read_size *= 2;
	if (r->bucket.rate_per_s)
		bucket_take(&r->bucket, got);
	return true;
}

static void dir_pass_end(struct relay *r, unsigned from)
{
	shutdown(r->fds[!from], SHUT_WR);
	dir_finish(&r->dirs[from]);
}

static enum relay_next dir_run(struct relay *r, unsigned from, uint8_t *buf, uint64_t now_ns)
{
	struct relay_dir *d = &r->dirs[from];

	for (unsigned i = 0; d->state != RELAY_DONE && !d->blocked; i++) {
		uint64_t tokens = r->bucket.rate_per_s ? bucket_available(&r->bucket, now_ns) : UINT64_MAX;

		if (!dir_flush(r, from))
			break;
		if (d->state == RELAY_DRAIN) {
			dir_pass_end(r, from);
			break;
		}
		if (!d->ready)
			break;
		if (i == READS_PER_TURN)
			return RELAY_MORE;
		if (tokens == 0)
			return RELAY_PAUSE;
		dir_carry(r, from, buf, tokens < d->read_size ? (size_t)tokens : d->read_size);
	}
	return RELAY_IDLE;
}

enum relay_next relay_run(struct relay *r, uint8_t *buf, uint64_t now_ns)
{
	unsigned first = r->server_first ? RELAY_SERVER : RELAY_CLIENT;
	enum relay_next a, b;

	for (unsigned s = 0; s < RELAY_N_SIDES; s++)
		if (r->gone[s])
			relay_drop_towards(r, s);
	a = dir_run(r, first, buf, now_ns);
	b = dir_run(r, !first, buf, now_ns);
	if (r->dirs[RELAY_CLIENT].state == RELAY_DONE && r->dirs[RELAY_SERVER].state == RELAY_DONE)
		return RELAY_ENDED;
	if (a == RELAY_PAUSE || b == RELAY_PAUSE)
		r->server_first = !r->server_first; /* or one direction would starve the other of tokens */
	if (a == RELAY_MORE || b == RELAY_MORE)
		return RELAY_MORE;
	return a == RELAY_PAUSE || b == RELAY_PAUSE ? RELAY_PAUSE : RELAY_IDLE;
}

uint64_t relay_wait_ns(const struct relay *r, uint64_t now_ns)
{
	return bucket_wait_ns(&r->bucket, now_ns);
}

void relay_close(struct relay *r)
{
	for (unsigned s = 0; s < RELAY_N_SIDES; s++) {
		dir_finish(&r->dirs[s]);
		if (r->fds[s] < 0)
			continue;
		/* Another process may still hold a copy of the descriptor that was handed to us; the peer must not wait for it. */
		shutdown(r->fds[s], SHUT_RDWR);
		close(take_fd(&r->fds[s]));
	}
}
