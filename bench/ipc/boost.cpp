/* boost.interprocess: message_queue, one for each direction. Spinning is try_send() and try_receive() in a loop. */
#include "ipc.h"

#include <boost/interprocess/ipc/message_queue.hpp>
#include <string>
#include <unistd.h>

using boost::interprocess::message_queue;

enum { QUEUE_MESSAGES = 256 };

static message_queue *g_queues[2]; /* 0: from side 0 to side 1 */

static inline void put(struct ipc_run *run)
{
	message_queue *q = g_queues[run->side];

	if (run->mode == IPC_MODE_SPIN)
		while (!q->try_send(run->buf, run->size, 0))
			;
	else
		q->send(run->buf, run->size, 0);
}

static inline void get(struct ipc_run *run)
{
	message_queue *q = g_queues[!run->side];
	message_queue::size_type size;
	unsigned priority;

	if (run->mode == IPC_MODE_SPIN)
		while (!q->try_receive(run->buf, run->size, size, priority))
			;
	else
		q->receive(run->buf, run->size, size, priority);
}

IPC_LOOPS(queue, put, ipc_no_flush, get)

static void queue_open(struct ipc_run *run)
{
	for (int i = 0; i < 2; i++) {
		std::string name = "sealane-bench-" + std::to_string(getpid()) + "-" + std::to_string(i);

		try {
			g_queues[i] = new message_queue(boost::interprocess::create_only, name.c_str(), QUEUE_MESSAGES, run->size);
		} catch (const std::exception &e) {
			ipc_skip("boost: %s", e.what());
		}
		message_queue::remove(name.c_str()); /* both processes have it mapped, or will have by fork() */
	}
}

static void queue_loops(const struct ipc_run *run, ipc_loop **client, ipc_loop **server)
{
	IPC_PICK(queue, run, client, server);
}

static struct ipc_peer queue_peer(void)
{
	struct ipc_peer p = {};

	p.name = "boost";
	p.mode[IPC_MODE_SPIN] = p.mode[IPC_MODE_BLOCK] = true;
	p.open = queue_open;
	p.loops = queue_loops;
	return p;
}

const struct ipc_peer g_ipc_peers[] = { queue_peer(), {} };
