"""How long this machine keeps a process waiting that wants to run: the sum in ms, rewritten on standard output 100 times a second."""
import os
import time

NAP = 0.01

total = 0.0
while True:
    began = time.monotonic()
    time.sleep(NAP)
    late = time.monotonic() - began - NAP
    if late > NAP / 5:
        total += late
    os.pwrite(1, b"%-12d %d\n" % (total * 1000, time.time() * 1000), 0)
