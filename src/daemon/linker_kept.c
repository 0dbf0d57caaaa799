/*
 * Theory of operation: what came for applications that do not read it.
 *
 * A lane keeps it in a ring that grows as it has to, up to its window, and is gone when it is empty; what is counted is the memory that it takes,
 * not what the lane might still be sent. All lanes of a linker together keep at most linker.kept_max; each is counted for the source (linker_source.c)
 * that its session comes from, also when its session has ended.
 *
 * When there is no more room, the greatest lane of the source that keeps the most is reset, and not the lane that happened to need more:
 * so whoever takes much pays for it, and whoever takes little is not touched. Looking for it goes through all lanes, but each
 * reset makes room for as much as the average lane of that source has, and that has to be sent before the next one.
 *
 * On a byte's way before this: linker_lane.c, llane_deliver(). After it: the application's socket.
 */
#include "daemon/linker_int.h"

#include "base/log.h"

enum { KEPT_SIZE_MIN = 1024 };
#define KEPT_WARN_NS UINT64_C(60000000000)

static struct llane *greatest(struct linker *k)
{
	const struct source *most = source_greatest(k);
	struct llane *found = NULL;

	for (uint32_t i = 0; most && i < LIMIT_LINK_LANES; i++) {
		struct llane *l = &k->lanes[i];

		if (l->state != LANE_FREE && l->holder == most && (!found || l->kept_cap > found->kept_cap))
			found = l;
	}
	return found;
}

/* Return: false: @l is the one that has to make room. */
static bool make_room(struct linker *k, const struct llane *l, uint32_t more)
{
	while (k->kept_size + more > k->kept_max) {
		struct llane *victim = greatest(k);

		if (k->now_ns >= k->kept_warn_at_ns) {
			log_warn("linker.kept_full", LOG_U64("kept_bytes", k->kept_size), LOG_STR("destination", victim ? victim->destination : NULL),
				 LOG_STR("why", "applications do not read what comes for them"),
				 LOG_STR("then", "the greatest lane of the host that has the most waiting is reset; `sealane ls lanes` shows which"));
			k->kept_warn_at_ns = k->now_ns + KEPT_WARN_NS;
		}
		if (!victim || victim == l)
			return false;
		llane_end(k, victim, LANE_END_NOMEM, -ENOMEM, LINK_FAILED);
	}
	return true;
}

static void kept_charge(struct linker *k, struct llane *l, uint32_t cap)
{
	if (!l->holder)
		l->holder = source_ref(l->session->source);
	l->holder->kept_size += cap - l->kept_cap;
	k->kept_size += cap - l->kept_cap;
	l->kept_cap = cap;
}

bool kept_reserve(struct linker *k, struct llane *l, size_t size)
{
	uint32_t cap = l->kept_cap ? l->kept_cap : KEPT_SIZE_MIN;
	struct iovec iov[2];
	uint8_t *grown;
	size_t at = 0;

	assert(size <= l->flow.window - l->kept_size); /* flow_received() */
	if (size <= l->kept_cap - l->kept_size)
		return true;
	while (cap - l->kept_size < size)
		cap *= 2;
	if (cap > l->flow.window)
		cap = l->flow.window;
	if (!make_room(k, l, cap - l->kept_cap))
		return false;
	grown = malloc(cap);
	if (!grown)
		return false;
	for (unsigned i = 0, n = kept_parts(l, l->kept_size, iov); i < n; i++) {
		memcpy(grown + at, iov[i].iov_base, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	free(l->kept);
	l->kept = grown;
	l->kept_at = 0;
	kept_charge(k, l, cap);
	return true;
}

bool kept_add(struct linker *k, struct llane *l, const uint8_t *bytes, size_t size)
{
	uint32_t at, first;

	if (size == 0)
		return true;
	if (!kept_reserve(k, l, size))
		return false;
	at = (uint32_t)(((uint64_t)l->kept_at + l->kept_size) % l->kept_cap);
	first = size < l->kept_cap - at ? (uint32_t)size : l->kept_cap - at;
	memcpy(l->kept + at, bytes, first);
	memcpy(l->kept, bytes + first, size - first);
	l->kept_size += (uint32_t)size;
	return true;
}

unsigned kept_parts(const struct llane *l, size_t max, struct iovec iov[2])
{
	size_t size = max < l->kept_size ? max : l->kept_size;
	size_t first = size < l->kept_cap - l->kept_at ? size : l->kept_cap - l->kept_at;

	if (size == 0)
		return 0;
	iov[0] = (struct iovec){ l->kept + l->kept_at, first };
	iov[1] = (struct iovec){ l->kept, size - first };
	return size > first ? 2 : 1;
}

void kept_took(struct linker *k, struct llane *l, size_t n)
{
	assert(n <= l->kept_size);
	l->kept_size -= (uint32_t)n;
	if (l->kept_size == 0)
		kept_drop(k, l);
	else
		l->kept_at = (uint32_t)((l->kept_at + n) % l->kept_cap);
}

void kept_drop(struct linker *k, struct llane *l)
{
	if (l->holder) {
		l->holder->kept_size -= l->kept_cap;
		source_unref(k, l->holder);
	}
	k->kept_size -= l->kept_cap;
	free(l->kept);
	l->kept = NULL;
	l->holder = NULL;
	l->kept_at = l->kept_size = l->kept_cap = 0;
}
