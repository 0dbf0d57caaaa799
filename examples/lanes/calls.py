#!/usr/bin/python3
"""Calls: the server and the client of calls.c in Python; each talks to the other's.

usage: calls.py serve|call SERVICE
"""
import math
import struct
import sys

import sealane

SQUARE, ROOT = 1, 2
NUMBER = struct.Struct("=Q")


def square(request):
    (x,) = NUMBER.unpack(request.data)
    return NUMBER.pack(x * x)


def root(request):
    (x,) = NUMBER.unpack(request.data)
    y = math.isqrt(x)
    if y * y != x:
        raise sealane.Remote(1, "its root is no whole number")
    return NUMBER.pack(y)


def serve(service):
    with sealane.listen(service, kind=sealane.MESSAGES) as listener:
        for lane in listener:  # one client after the other
            with lane:
                lane.methods({SQUARE: square, ROOT: root})
                lane.serve_until_end()


def call(service):
    with sealane.connect(service, kind=sealane.MESSAGES) as lane:
        calls = [lane.call_begin(SQUARE, NUMBER.pack(i), timeout=1) for i in range(100)]
        total = sum(NUMBER.unpack(lane.call_finish(c))[0] for c in calls)
        print(f"the sum of the first {len(calls)} squares is {total}")
        try:
            lane.call(ROOT, NUMBER.pack(2), timeout=1)
        except sealane.Remote as e:
            print(f"the root of 2: error {e.status}, {e.text}")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("serve", "call"):
        sys.exit(__doc__.strip())
    {"serve": serve, "call": call}[sys.argv[1]](sys.argv[2])
