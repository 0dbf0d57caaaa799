/*
 * The last LIMIT_EVENTS_KEPT log lines, in a block of fixed size. Numbered from 0 as they come; the oldest are overwritten.
 * Nothing is allocated after events_new(), so that a line can be kept at any moment, also when memory is short.
 */
#ifndef DAEMON_BROKER_EVENTS_H
#define DAEMON_BROKER_EVENTS_H

#include "base/limits.h"
#include "base/util.h"

struct events;

/* events_new() - NULL: out of memory. */
struct events *events_new(void);
struct events *events_free(struct events *e);

/* events_put() - keep a copy of @n bytes. A line over 4 KiB (log.h promises 2) is left out. */
void events_put(struct events *e, const char *line, size_t n);

/* events_first() - the number of the oldest line that is kept; events_next() - of the next one to come. */
uint64_t events_first(const struct events *e);
uint64_t events_next(const struct events *e);

/* events_get() - line @seq, borrowed until the next events_put(), not NUL-terminated. NULL: gone, or not there yet. */
const char *events_get(const struct events *e, uint64_t seq, size_t *ret_n);

#endif
