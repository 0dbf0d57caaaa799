#!/usr/bin/python3
"""Sends each of its arguments as a message and prints what comes back; then how long a round trip takes.

usage: echo_client.py [SERVICE [WORD...]]
"""
import sys
import time

import sealane

ROUNDS = 10000


def main(service="echo", *words):
    with sealane.connect(service, kind=sealane.MESSAGES) as lane:
        peer = lane.peer
        print(f"connected to {peer.service} ({peer.spiffe_id}), workload {peer.workload}, over {peer.path}")
        for word in words:
            lane.send(word.encode())
            print(lane.recv(timeout=1).decode())
        start = time.monotonic_ns()
        for _ in range(ROUNDS):
            lane.send(b"ping")
            lane.recv(timeout=1)
        print(f"{ROUNDS} round trips, {(time.monotonic_ns() - start) // ROUNDS} ns each")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except sealane.Error as e:
        sys.exit(f"echo_client.py: {e.strerror}")
