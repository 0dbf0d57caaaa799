/*
 * What another host announces. What is taken must be found again, stand in order, and say the same when it is written and read once
 * more; so there is one text for one meaning, but for the order of lines.
 */
#include "core/announce.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok)
{
	if (!ok)
		abort();
}

static size_t write_all(const struct announced *list, size_t n, char *text)
{
	size_t used = 0;

	for (size_t i = 0; i < n; i++)
		used += announce_format(text + used, &list[i]);
	return used;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct announced *list = NULL, *again = NULL;
	size_t n = 0, n_again = 0, used;
	char *text;

	if (announce_parse((const char *)data, size, &list, &n) < 0) {
		require(!list);
		return 0;
	}
	require(n <= LIMIT_SERVICES && (n > 0 || size == 0));
	text = malloc(n * ANNOUNCE_LINE_SIZE + 1);
	require(text != NULL);
	used = write_all(list, n, text);
	require(used == size); /* the same lines, in another order at most */
	require(announce_parse(text, used, &again, &n_again) == 0 && n_again == n);
	for (size_t i = 0; i < n; i++) {
		const struct announced *a = announce_find(list, n, &again[i].service);

		require(a && a->up == again[i].up && a->lanes == again[i].lanes && a->kinds == again[i].kinds);
		require(a->up == (a->kinds != 0) && !(a->kinds & ~(unsigned)OFFER_KINDS_ALL));
		require(label_is_valid(a->service.ns) && label_is_valid(a->service.name));
	}
	free(text);
	free(again);
	free(list);
	return 0;
}
