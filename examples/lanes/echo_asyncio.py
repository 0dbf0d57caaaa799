#!/usr/bin/python3
"""The echo server as coroutines: any number of lanes in one thread, each of them a task.

usage: echo_asyncio.py [SERVICE]
"""
import asyncio
import sys

import sealane


async def when_ready(handle, call):
    """call() as soon as it would not have to wait. Of one lane only one call at a time: it has one descriptor."""
    loop = asyncio.get_running_loop()
    fd = handle.fileno()  # before the call: it is then armed by WouldBlock
    while True:
        try:
            return call()
        except sealane.WouldBlock:
            ready = loop.create_future()
            loop.add_reader(fd, lambda: ready.done() or ready.set_result(None))
            try:
                await ready
            finally:
                loop.remove_reader(fd)


async def serve(lane):
    with lane:
        try:
            while (message := await when_ready(lane, lambda: lane.recv(timeout=0))) is not None:
                await when_ready(lane, lambda: lane.send(message, timeout=0))
        except sealane.BrokenPipe:
            pass
        except sealane.Error as e:
            print(f"{lane.peer.service}: {e}", file=sys.stderr)


async def main(service="echo"):
    tasks = set()
    with sealane.listen(service, kind=sealane.MESSAGES) as listener:
        while True:
            try:
                lane = await when_ready(listener, lambda: listener.accept(timeout=0))
            except sealane.NoDaemon:  # it is away; the call finds it again
                await asyncio.sleep(1)
                continue
            print(f"lane {lane.peer.lane_id:016x} from {lane.peer.service}", flush=True)
            task = asyncio.create_task(serve(lane))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
