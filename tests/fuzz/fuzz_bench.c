/* Messages of `sealane bench rdma`: any bytes are refused, or are what they say, within bounds, and come out the same when they are put again. */
#include "cli/bench_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool good)
{
	if (!good)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t bytes[BENCH_MSG_SIZE] = { 0 };
	struct bench_msg m, again;

	memcpy(bytes, data, size < sizeof(bytes) ? size : sizeof(bytes));
	if (bench_msg_get(&m, bytes) < 0)
		return 0;
	if (m.kind == BENCH_KEYS)
		require(m.u.keys.table.size == BENCH_MEMORY_SIZE && m.u.keys.inbox.size == BENCH_MEMORY_SIZE);
	if (m.kind == BENCH_PHASE)
		require(m.u.poll_size <= BENCH_MEMORY_SIZE);
	bench_msg_put(bytes, &m);
	require(bench_msg_get(&again, bytes) == 0 && again.kind == m.kind);
	return 0;
}
