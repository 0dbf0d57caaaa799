/*
 * Sleeping until the other side has done something, and waking it: the handshake of docs/design/ring.md, "Sleeping and waking".
 *
 * The bell is one end of a Unix socket pair; what arrives there means nothing but "look again". Wake-ups may be lost by a hostile
 * peer, forged or repeated: whoever wakes up looks at the ring, and decides by that alone.
 *
 * Threads: as the ring_tx or ring_rx that is passed. None of these blocks but ring_wait_futex() and ring_wait_bell().
 */
#ifndef SHM_WAKE_H
#define SHM_WAKE_H

#include "shm/ring.h"

/* Longest sleep on the futex, which does not tell of the peer's death; then it is the bell's turn. */
#define RING_FUTEX_NS UINT64_C(10000000)

/* ring_wake_data(), ring_wake_space() - do what ring_tx_publish(), ring_rx_release() or ring_rx_check_producer() said. */
void ring_wake_data(struct ring_tx *tx, enum ring_waiter how, int bell);
void ring_wake_space(struct ring_rx *rx, enum ring_waiter how, int bell);

/*
 * ring_rx_sleep() - say that the consumer is about to sleep, then look once more.
 * @how: RING_ON_FUTEX or RING_ON_BELL. @ret_seq: what to pass to ring_wait_futex().
 * Return: RING_E_EMPTY: go to sleep, and call ring_rx_awake() afterwards; 0 or -EPROTO: do not (there is a record, as
 * ring_rx_peek() will tell); awake already.
 */
MUST_CHECK int ring_rx_sleep(struct ring_rx *rx, enum ring_waiter how, uint32_t *ret_seq);
void ring_rx_awake(struct ring_rx *rx);

/* ring_tx_sleep() - the same for a producer that got RING_E_FULL for @size bytes. Return: RING_E_FULL: go to sleep. */
MUST_CHECK int ring_tx_sleep(struct ring_tx *tx, uint32_t size, enum ring_waiter how, uint32_t *ret_seq);
void ring_tx_awake(struct ring_tx *tx);

/* ring_wait_futex() - until *@word is not @seq, somebody wakes it, or @ns have passed. Spurious returns are usual. */
void ring_wait_futex(const _Atomic uint32_t *word, uint32_t seq, uint64_t ns);

/* ring_drain_bell() - swallow what rang. Return: false: the peer's end is closed (its process is gone, or it closed the lane). */
bool ring_drain_bell(int bell);

#endif
