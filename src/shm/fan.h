/*
 * A ring with one producer and any number of readers, none of which it waits for: docs/design/ring.md, "Fan-out". The region, the
 * descriptors and the records are those of ring.h; what differs is that the producer overwrites the oldest record when it needs room,
 * says so before it does (`claim`), and says where the newest one lies (`newest`).
 *
 * Producer: fan_tx_stage() messages, fan_tx_publish(). Reader: fan_rx_start(), then fan_rx_next() copies the next message, and finds out
 * afterwards whether it was overwritten meanwhile. A reader's position is a struct ring_rx (index, head), so ring_rx_peek() says
 * whether there is anything to look at, and ring_rx_sleep() sleeps, as in an ordinary ring.
 *
 * Threads: a struct fan_tx belongs to one thread at a time, each reader's struct ring_rx to one.
 * Trust: readers read one region and write none that the producer looks into, but for their waiter words; so they cannot harm it or
 * each other. A hostile producer can lie about everything, and what a reader gets is wrong messages from inside the region.
 */
#ifndef SHM_FAN_H
#define SHM_FAN_H

#include "shm/ring.h"

enum { FAN_E_OVERRUN = 3 };

struct fan_tx {
	struct ring_control *own;
	_Atomic uint64_t *descs;
	uint8_t *data;
	uint64_t cap;
	uint64_t desc_mask;
	uint32_t lap_shift;
	uint32_t n_staged;
	uint64_t tail, index;	    /* after all that was staged */
	uint64_t oldest, oldest_at; /* the first record that is whole, and its data position */
	uint64_t newest, newest_at; /* the last one staged but for FIN */
	uint64_t staged_from;	    /* tail before what is staged */
	uint64_t first_index, first_word;
	uint64_t n_records, n_bytes;
};

/* fan_tx_init() - @own: a region fresh from ring_format(), with the same @cap_log2 and @start. Its readers may come from now on. */
void fan_tx_init(struct fan_tx *tx, struct ring_control *own, uint32_t cap_log2, uint64_t start);

/*
 * fan_tx_stage() - copy one message into the ring, over the oldest ones; seen with the next publish.
 * Return: 0; -EMSGSIZE: larger than ring_record_max(); RING_E_FULL: a quarter of the ring is staged: publish first.
 */
MUST_CHECK int fan_tx_stage(struct fan_tx *tx, const void *buf, size_t size, uint8_t flags);

/* fan_tx_publish() - all that is staged becomes visible. Then look at every reader's data_waiter (seq_cst), and wake. */
void fan_tx_publish(struct fan_tx *tx);

/*
 * fan_rx_start() - place a reader at the newest message that is there, so that it is the next one; where there is none, at the first.
 * Return: 0; -EPROTO: the producer's words make no sense.
 */
MUST_CHECK int fan_rx_start(struct ring_rx *rx);

/* fan_rx_overrun() - look at `claim`: was the record that is next overwritten? Before sleeping: a lap of 16 bits may have come round. */
bool fan_rx_overrun(const struct ring_rx *rx);

/*
 * fan_rx_next() - copy the next message into @buf. @ret_size: of the message.
 * Return: 0; RING_E_EMPTY; FAN_E_OVERRUN: it is gone (fan_rx_start() again: the difference of rx->index is what was missed);
 * -EMSGSIZE: larger than @size, and skipped; -ENODATA: the end; -EPROTO.
 */
MUST_CHECK int fan_rx_next(struct ring_rx *rx, void *buf, size_t size, size_t *ret_size);

#endif
