#include "shm/wake.h"

#include "shm/kernel.h"

#include <sys/socket.h>
#include <sys/syscall.h>

/* FUTEX_WAIT and FUTEX_WAKE only: futex_waitv and the newer calls are not in container engines' default seccomp profiles.
 * Not FUTEX_PRIVATE_FLAG: the other process waits through a mapping of its own. */
static void futex_wake(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

void ring_wait_futex(const _Atomic uint32_t *word, uint32_t seq, uint64_t ns)
{
	struct timespec ts = { .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) };

	syscall(SYS_futex, word, FUTEX_WAIT, seq, &ts, NULL, 0);
}

static void wake(_Atomic uint32_t *seq, enum ring_waiter how, int bell)
{
	if (how == RING_AWAKE)
		return;
	if (how == RING_ON_FUTEX) {
		atomic_fetch_add_explicit(seq, 1, memory_order_seq_cst);
		futex_wake(seq);
		return;
	}
	/* Full: it has enough to wake up from. Gone: whoever reads or waits next learns that. */
	if (send(bell, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return;
}

void ring_wake_data(struct ring_tx *tx, enum ring_waiter how, int bell)
{
	wake(&tx->own->data_seq, how, bell);
}

void ring_wake_space(struct ring_rx *rx, enum ring_waiter how, int bell)
{
	wake(&rx->own->space_seq, how, bell);
}

/* A number of its own for each sleep, never 0 with "awake" cut off, so that the other side wakes each sleep once. */
static uint32_t waiter_word(uint32_t *epoch, enum ring_waiter how)
{
	*epoch += 1;
	return *epoch << 2 | how;
}

int ring_rx_sleep(struct ring_rx *rx, enum ring_waiter how, uint32_t *ret_seq)
{
	struct ring_record record;
	int r;

	*ret_seq = atomic_load_explicit(&rx->peer->data_seq, memory_order_seq_cst);
	atomic_store_explicit(&rx->own->data_waiter, waiter_word(&rx->epoch, how), memory_order_seq_cst);
	r = ring_rx_look(rx, &record, memory_order_seq_cst); /* pairs with ring_tx_publish() */
	if (r != RING_E_EMPTY)
		ring_rx_awake(rx);
	return r;
}

void ring_rx_awake(struct ring_rx *rx)
{
	atomic_store_explicit(&rx->own->data_waiter, RING_AWAKE, memory_order_relaxed);
}

int ring_tx_sleep(struct ring_tx *tx, uint32_t size, enum ring_waiter how, uint32_t *ret_seq)
{
	void *place;
	int r;

	*ret_seq = atomic_load_explicit(&tx->peer->space_seq, memory_order_seq_cst);
	atomic_store_explicit(&tx->own->space_waiter, waiter_word(&tx->epoch, how), memory_order_seq_cst);
	/* pairs with ring_rx_check_producer(): a seq_cst load of head, so that one of the two sees the other */
	(void)atomic_load_explicit(&tx->peer->head, memory_order_seq_cst);
	r = ring_tx_reserve(tx, size, &place);
	if (r != RING_E_FULL)
		ring_tx_awake(tx);
	return r;
}

void ring_tx_awake(struct ring_tx *tx)
{
	atomic_store_explicit(&tx->own->space_waiter, RING_AWAKE, memory_order_relaxed);
}

bool ring_drain_bell(int bell)
{
	char bytes[256];
	ssize_t n;

	/* Once, not until it is empty: a peer that rings without end must not hold us here. */
	n = recv(bell, bytes, sizeof(bytes), MSG_DONTWAIT);
	return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}
