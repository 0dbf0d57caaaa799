#!/usr/bin/python3
"""Ratios of bench/rdma.sh: ours to theirs within each round, the median of rounds and how far they are apart. usage: report.py LOG"""
import statistics
import sys

NAMES = {
    "read_min": ("READ, least time", "perftest"),
    "read_lat": ("READ, median time", "perftest"),
    "write_min": ("WRITE one way, polled, least time", "perftest"),
    "write_lat": ("WRITE one way, polled, median time", "perftest"),
    "write_bw": ("WRITE, bytes/s", "perftest"),
}


def main(path):
    figures = {}
    with open(path, encoding="utf-8", errors="replace") as log:
        for line in log:
            words = line.split()
            if len(words) == 5 and words[0] == "F":
                figures.setdefault((words[2], words[3]), {})[words[1]] = float(words[4])

    def ratio(what, size, ours, theirs, whose):
        both = sorted(set(figures.get(ours, {})) & set(figures.get(theirs, {})))
        ratios = [figures[ours][r] / figures[theirs][r] for r in both if figures[theirs][r] > 0]
        if not ratios:
            print(f"{what:<36}{size:>7}  no figure: {whose} said 0, or nothing; --keep shows what there is")
            return
        if "least" in what:
            least = min(figures[ours][r] for r in both) / min(figures[theirs][r] for r in both)
            print(f"{what:<36}{size:>7}  {least:5.2f} x {whose:<9} of all rounds")
        else:
            print(f"{what:<36}{size:>7}  {statistics.median(ratios):5.2f} x {whose:<9} {min(ratios):5.2f} .. {max(ratios):.2f}")

    for name, (what, whose) in NAMES.items():
        for metric, owner in sorted(figures, key=lambda k: int(k[0].split(".")[1])):
            if metric.startswith(name + ".") and owner == whose:
                ratio(what, metric.split(".")[1], (metric, "sealane"), (metric, whose), whose)
    ring, imm = ("ring.64", "sealane"), ("imm.64", "sealane")
    ratio("ring, sealed, there and back, time", "64", ring, ("rping.64", "rping"), "rping")
    ratio("ring, sealed, there and back, time", "64", ring, imm, "WRITE_IMM")
    if ("ring_plain.64", "sealane") in figures:
        ratio("ring, sealed, there and back, time", "64", ring, ("ring_plain.64", "sealane"), "plain")


main(sys.argv[1])
