#!/usr/bin/python3
"""Takes lanes for a service and sends every message back, with a thread for each lane.

usage: echo_server.py [SERVICE]
"""
import sys
import threading

import sealane


def serve(lane):
    with lane:
        try:
            for message in lane:
                lane.send(message)
        except sealane.BrokenPipe:
            pass  # it has left
        except sealane.Error as e:
            print(f"{lane.peer.service}: {e}", file=sys.stderr)


def main(service="echo"):
    with sealane.listen(service, kind=sealane.MESSAGES) as listener:
        for lane in listener:
            print(f"lane {lane.peer.lane_id:016x} from {lane.peer.service}, {lane.peer.spiffe_id}", flush=True)
            threading.Thread(target=serve, args=[lane], daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
