/*
 * Theory of operation
 *
 * One block of bytes, written around and around, and a table that says where each kept line stands. Positions count up
 * for ever; the place in the block is the position modulo its size. A line is never split: one that would reach over the
 * end of the block begins at the front again. A line is gone as soon as its bytes are needed (or its place in the table);
 * since lines stand in the order of their numbers, those that have to go are always the oldest.
 *
 * Before it: log.c (through admin_log_sink). After it: broker_admin.c (GET /v1/events and its followers).
 */
#include "daemon/broker_events.h"

enum {
	LINE_MAX_SIZE = 4096,
	/* Lines are 200 to 300 bytes as a rule, so the table and the block fill at about the same time. */
	BLOCK_SIZE = LIMIT_EVENTS_KEPT * 256,
};

struct events {
	uint64_t first, next;	/* numbers of the kept lines: [first, next) */
	uint64_t end;		/* position behind the newest line */
	struct {
		uint64_t at; /* position */
		size_t n;
	} lines[LIMIT_EVENTS_KEPT];
	char block[BLOCK_SIZE];
};

struct events *events_new(void)
{
	return calloc(1, sizeof(struct events));
}

struct events *events_free(struct events *e)
{
	free(e);
	return NULL;
}

void events_put(struct events *e, const char *line, size_t n)
{
	uint64_t at = e->end;

	if (n > LINE_MAX_SIZE)
		return;
	if (at % BLOCK_SIZE > BLOCK_SIZE - n)
		at += BLOCK_SIZE - at % BLOCK_SIZE;
	while (e->first < e->next && (e->next - e->first == LIMIT_EVENTS_KEPT ||
				      e->lines[e->first % LIMIT_EVENTS_KEPT].at + BLOCK_SIZE < at + n))
		e->first++;
	memcpy(e->block + at % BLOCK_SIZE, line, n);
	e->lines[e->next % LIMIT_EVENTS_KEPT].at = at;
	e->lines[e->next % LIMIT_EVENTS_KEPT].n = n;
	e->next++;
	e->end = at + n;
}

uint64_t events_first(const struct events *e)
{
	return e->first;
}

uint64_t events_next(const struct events *e)
{
	return e->next;
}

const char *events_get(const struct events *e, uint64_t seq, size_t *ret_n)
{
	if (seq < e->first || seq >= e->next)
		return NULL;
	*ret_n = e->lines[seq % LIMIT_EVENTS_KEPT].n;
	return e->block + e->lines[seq % LIMIT_EVENTS_KEPT].at % BLOCK_SIZE;
}
