#!/usr/bin/python3
"""One publisher, many subscribers: publish.c in Python; each understands the other's.

usage: publish.py publish|subscribe SERVICE
"""
import itertools
import struct
import sys
import time

import sealane

TICK = struct.Struct("=Q")


def publish(service):
    with sealane.publisher_open(service) as publisher:
        for tick in itertools.count():
            publisher.publish(TICK.pack(tick))  # lets new subscribers in, too
            time.sleep(0.1)


def subscribe(service):
    with sealane.subscribe(service) as subscriber:
        for message in itertools.islice(subscriber, 10):
            print(f"tick {TICK.unpack(message)[0]} of {subscriber.peer.service}")
        print(f"missed: {subscriber.missed_total}")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("publish", "subscribe"):
        sys.exit(__doc__.strip())
    {"publish": publish, "subscribe": subscribe}[sys.argv[1]](sys.argv[2])
