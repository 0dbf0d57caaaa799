#!/usr/bin/python3
"""Tables, ratios and targets from the results of bench/ipc.sh. usage: report.py DIR (results.tsv, idle.tsv; writes plot-*.tsv)

What is compared was measured in the same round with the two CPUs in the same place. Where they are is told by the bounce: "near"
below 200 ns (one core's siblings, one cache), "far" above. A measurement during which they moved, or others took more than 15 % of
the machine, is dropped. Figures are medians over rounds; "-5/+8 %" is least and most beside the median; "~": fewer than
three rounds.
"""
import collections
import csv
import pathlib
import statistics
import sys

NEAR_BELOW_NS = 200
MOVED = 1.4
FOREIGN_MAX = 15
SIZES = (64, 1024, 4096, 65536)
OURS = ("lane", "lane-open", "lane-off")  # as it is; under one gate; without memory protection keys
MODES = ("spin", "adaptive", "block")


class Results:
    def __init__(self, path):
        self.by = collections.defaultdict(dict)  # (peer, op, size, mode, cores, way, batch) -> group -> {round: row}
        self.dropped = self.total = 0
        with open(path, newline="") as f:
            for row in csv.DictReader(f, delimiter="\t"):
                self.add(row)
        self.groups = [g for g in ("near", "far") if any(g in groups for groups in self.by.values())]

    def add(self, row):
        self.total += 1
        row = {k: v if k in ("peer", "op", "mode", "cores", "way") else float(v) for k, v in row.items()}
        before, after = row["bounce_before_ns"], row["bounce_after_ns"]
        group = "one"
        if row["cores"] == "two":
            group = "near" if before < NEAR_BELOW_NS else "far"
            if max(before, after) > MOVED * min(before, after) or group != ("near" if after < NEAR_BELOW_NS else "far"):
                self.dropped += 1
                return
        if row["foreign_percent"] > FOREIGN_MAX and not row["fifo"]:
            self.dropped += 1
            return
        row["bounce"] = (before + after) / 2
        key = (row["peer"], row["op"], int(row["size"]), row["mode"], row["cores"], row["way"], int(row["batch"]))
        self.by[key].setdefault(group, {})[int(row["round"])] = row

    def rows(self, group, peer, op, size, mode, way="copy", batch=1):
        cores = "one" if group == "one" else "two"
        return self.by.get((peer, op, size, mode, cores, way, batch), {}).get(group, {})

    def values(self, field, *key, **more):
        return [r[field] for r in self.rows(*key, **more).values()]

    def ratio(self, field, a, b):
        """Of each round that has both."""
        return [a[n][field] / b[n][field] for n in sorted(a.keys() & b.keys()) if b[n][field] > 0]

    def peers(self):
        order = ["lane", "lane-open", "lane-off", "ring", "limit", "unix", "pipe", "tcp", "mq", "boost", "libqb", "nng", "zmq", "grpc"]
        return [p for p in order if any(k[0] == p for k in self.by)]


def med(values):
    return statistics.median(values) if values else None


def mark(values):
    return "~" if values and len(values) < 3 else ""


def spread(values):
    m = med(values)
    return f"{(min(values) / m - 1) * 100:+.0f}/{(max(values) / m - 1) * 100:+.0f} %" if values and m else ""


def number(x, unit=1.0):
    if x is None:
        return "-"
    x /= unit
    return f"{x:.3f}" if x < 1 else f"{x:.2f}" if x < 10 else f"{x:.1f}" if x < 100 else f"{x:.0f}"


def variants(r, op):
    """(label, peer, way, batch) of what there is, in order."""
    found = {(k[0], k[5], k[6]) for k in r.by if k[1] == op}
    for peer in r.peers():
        for way in ("copy", "place"):
            for batch in (1, 8, 64):
                if (peer, way, batch) in found:
                    label = peer + (", in place" if way == "place" else "") + (f", by {batch}" if batch > 1 else "")
                    yield label, peer, way, batch


def print_rtt(r, group, mode):
    rows = []
    for label, peer, way, batch in variants(r, "rtt"):
        cells, ours = [], []
        for size in SIZES:
            mine = r.rows(group, peer, "rtt", size, mode, way=way)
            p = [med([x[f] for x in mine.values()]) for f in ("p50_ns", "p99_ns", "p999_ns")]
            cells.append("/".join(number(x, 1000) for x in p) + mark(mine) if mine else "-")
            q = med(r.ratio("p50_ns", mine, r.rows(group, "lane", "rtt", size, mode)))
            ours.append(f"{q:.2f}" if q else "-")
        if any(c != "-" for c in cells):
            first = r.rows(group, peer, "rtt", 64, mode, way=way)
            bounce = med([x["p50_ns"] / x["bounce"] for x in first.values() if x["bounce"]])
            rows.append((label, cells, ours, f"{bounce:.2f}" if bounce else "-", spread([x["p50_ns"] for x in first.values()])))
    if not rows:
        return
    print(f"\nRound trip, {mode}, {group}: p50/p99/p99.9 in us; times our lane's p50; 64 B: times the bare bounce, spread of p50")
    print(f"{'':16}" + "".join(f"{s:>20}" for s in SIZES) + "   " + "".join(f"{'x ' + str(s):>8}" for s in SIZES) + "  x bounce")
    for label, cells, ours, bounce, sp in rows:
        print(f"{label:16}" + "".join(f"{c:>20}" for c in cells) + "   " + "".join(f"{o:>8}" for o in ours) + f"{bounce:>10}  {sp}")


def print_stream(r, group, mode):
    rows = []
    for label, peer, way, batch in variants(r, "stream"):
        cells, ours = [], []
        for size in SIZES:
            mine = r.rows(group, peer, "stream", size, mode, way=way, batch=batch)
            m = med([x["per_s"] for x in mine.values()])
            cells.append(f"{number(m, 1e6)} ({number(m * size, 1e9)}){mark(mine)}" if mine else "-")
            q = med(r.ratio("per_s", mine, r.rows(group, "lane", "stream", size, mode)))
            ours.append(f"{q:.2f}" if q else "-")
        if any(c != "-" for c in cells):
            first = r.rows(group, peer, "stream", 64, mode, way=way, batch=batch)
            rows.append((label, cells, ours, spread([x["per_s"] for x in first.values()])))
    if not rows:
        return
    print(f"\nOne way, {mode}, {group}: million messages/s (GB/s); times our lane one by one; spread at 64 B")
    print(f"{'':22}" + "".join(f"{s:>16}" for s in SIZES) + "   " + "".join(f"{'x ' + str(s):>8}" for s in SIZES))
    for label, cells, ours, sp in rows:
        print(f"{label:22}" + "".join(f"{c:>16}" for c in cells) + "   " + "".join(f"{o:>8}" for o in ours) + f"  {sp}")


class Targets:
    def __init__(self):
        self.lines = []

    def add(self, group, what, values, ok, shown, limit):
        """@values: one a round; @ok: of their median."""
        m = med(values)
        verdict = "" if limit.startswith("(") else "-" if m is None else "met" if ok(m) else "MISSED"
        text = shown(m) + mark(values) + f" ({spread(values)})" if m is not None else "not measured"
        self.lines.append((group, what, text, limit, verdict))

    def print(self):
        print("\nTargets (medians of the rounds; ratios within a round)")
        for group, what, text, limit, verdict in self.lines:
            print(f"  {group:5} {what:62} {text:28} {limit:26} {verdict}")


def fastest_peer(r, group, size):
    """The peers' best for each round, whatever their batch: {round: row}."""
    best = {}
    for peer in r.peers():
        for batch in (1, 8, 64):
            for n, row in r.rows(group, peer, "stream", size, "spin", batch=batch).items() if peer not in OURS + ("limit",) else ():
                if n not in best or row["per_s"] > best[n]["per_s"]:
                    best[n] = row
    return best


def best_lane(r, group, size):
    best = {}
    for batch in (1, 8, 64):
        for n, row in r.rows(group, "lane", "stream", size, "spin", batch=batch).items():
            if n not in best or row["per_s"] > best[n]["per_s"]:
                best[n] = row
    return best


def targets_spin(r, t, g):
    times = "{:.2f} x".format
    lane = r.rows(g, "lane", "rtt", 64, "spin")
    t.add(g, "round trip 64 B, spinning, to the bare bounce", [x["p50_ns"] / x["bounce"] for x in lane.values()],
          lambda m: m <= 1.6, times, "<= 1.6 x (aim: 1.25 x)")
    t.add(g, "... to the reference ring", r.ratio("p50_ns", lane, r.rows(g, "ring", "rtt", 64, "spin")), lambda m: m <= 1, times, "<= 1 x")
    for peer, label in (("lane-open", "under one gate"), ("lane-off", "without keys")):
        keyless = r.rows(g, peer, "rtt", 64, "spin")
        if keyless:
            t.add(g, f"... {label}, to the bare bounce", [x["p50_ns"] / x["bounce"] for x in keyless.values()], lambda m: m <= 1.6, times, "<= 1.6 x")
    rate = lambda m: f"{m / 1e6:.1f} M/s"
    for batch, least in ((64, 70e6), (8, 70e6), (1, 35e6)):
        mine = r.rows(g, "lane", "stream", 64, "spin", batch=batch)
        t.add(g, f"one way 64 B, published by {batch}", [x["per_s"] for x in mine.values()], lambda m: m >= least, rate, f">= {least / 1e6:.0f} M/s")
        for peer, label in (("lane-open", "under one gate"), ("lane-off", "without keys")):
            keyless = r.values("per_s", g, peer, "stream", 64, "spin", batch=batch)
            if keyless:
                t.add(g, f"... {label}", keyless, lambda m: m >= least, rate, f">= {least / 1e6:.0f} M/s")
        t.add(g, f"... to the bare limit by {batch}", r.ratio("per_s", mine, r.rows(g, "limit", "stream", 64, "spin", batch=batch)),
              lambda m: True, times, "(for comparison)")
    ours, theirs = best_lane(r, g, 4096), fastest_peer(r, g, 4096)
    t.add(g, "one way 4 KiB, copied, to the fastest peer of this run", r.ratio("per_s", ours, theirs), lambda m: m >= 0.9, times, ">= 0.9 x")
    t.add(g, "... in GB/s", [x["per_s"] * 4096 / 1e9 for x in ours.values()], lambda m: m >= 18, "{:.1f} GB/s".format,
          ">= 18 (0.9 of 20)")
    t.add(g, "one way 64 KiB, copied, to the two-copy limit",
          r.ratio("per_s", r.rows(g, "lane", "stream", 65536, "spin"), r.rows(g, "limit", "stream", 65536, "spin")),
          lambda m: m >= 0.85, times, ">= 0.85 x")
    t.add(g, "in place: round trip of 64 KiB to that of 64 B",
          r.ratio("p50_ns", r.rows(g, "lane", "rtt", 65536, "spin", way="place"), r.rows(g, "lane", "rtt", 64, "spin", way="place")),
          lambda m: m <= 1.25, times, "flat: <= 1.25 x")
    for size in SIZES:
        t.add(g, f"adaptive to spinning, round trip {size} B",
              r.ratio("p50_ns", r.rows(g, "lane", "rtt", size, "adaptive"), r.rows(g, "lane", "rtt", size, "spin")),
              lambda m: m <= 1.3, times, "<= 1.3 x")
    calls = r.rows(g, "lane", "call", 64, "spin")
    t.add(g, "a call to a message, round trip 64 B, more",
          [calls[n]["p50_ns"] - lane[n]["p50_ns"] for n in sorted(calls.keys() & lane.keys())],
          lambda m: m <= 100, "{:.0f} ns".format, "<= 100 ns")


def targets_block(r, t, g):
    times = "{:.2f} x".format
    for size in SIZES if g != "one" else (64, 4096):
        t.add(g, f"blocking to the Unix socket, round trip {size} B",
              r.ratio("p50_ns", r.rows(g, "lane", "rtt", size, "block"), r.rows(g, "unix", "rtt", size, "block")), lambda m: m <= 1, times, "<= 1 x")
        t.add(g, f"blocking to the Unix socket, messages/s of {size} B",
              r.ratio("per_s", r.rows(g, "lane", "stream", size, "block"), r.rows(g, "unix", "stream", size, "block")), lambda m: m >= 1, times, ">= 1 x")
    if g != "one":
        for batch in (1, 64):
            t.add(g, f"wake-ups for a batch of {batch}, 64 B, blocking", r.values("wakes_per_batch", g, "lane", "stream", 64, "block", batch=batch),
                  lambda m: m <= 1, "{:.3f}".format, "<= 1")


def targets_idle(t, path):
    used = [max(float(x) for x in line.split("\t")[4:6]) for line in path.read_text().splitlines()] if path.exists() else []
    t.add("-", "idle, adaptive, two seconds: CPU of either end", used, lambda m: m < 0.1, "{:.3f} %".format, "0 % (< 0.1)")


def write_plots(r, out):
    """One file for each plot: size, then a column for each peer; the place most rounds were in."""
    for op, field, unit in (("rtt", "p50_ns", 1e3), ("stream", "per_s", 1e6)):
        for mode in ("spin", "block"):
            group = max(r.groups, key=lambda g: sum(len(v.get(g, {})) for k, v in r.by.items() if k[1] == op and k[3] == mode))
            columns = [v for v in variants(r, op) if v[3] in (1, 64) and not (v[3] == 64 and v[1] != "lane") and not (v[2] == "place" and v[1] != "lane")]
            columns = [v for v in columns if any(r.rows(group, v[1], op, s, mode, way=v[2], batch=v[3]) for s in SIZES)]
            with open(out / f"plot-{op}-{mode}.tsv", "w") as f:
                print("\t".join([f"size ({group})"] + [v[0] for v in columns]), file=f)
                for size in SIZES:
                    ms = [med(r.values(field, group, v[1], op, size, mode, way=v[2], batch=v[3])) for v in columns]
                    print("\t".join([str(size)] + [f"{m / unit:.4f}" if m else "nan" for m in ms]), file=f)


def main(directory):
    out = pathlib.Path(directory)
    r = Results(out / "results.tsv")
    t = Targets()
    print(f"{r.total} measurements, {r.dropped} dropped: the CPUs moved, or others used the machine")
    for g in r.groups:
        b = [row["bounce"] for groups in r.by.values() for row in groups.get(g, {}).values()]
        print(f"bare bounce, {g}: median {med(b):.0f} ns ({spread(b)}), {len(b)} measurements")
    for g in r.groups + ["one"]:
        for mode in MODES:
            print_rtt(r, g, mode)
            print_stream(r, g, mode)
    for g in r.groups:
        targets_spin(r, t, g)
        targets_block(r, t, g)
    targets_block(r, t, "one")
    targets_idle(t, out / "idle.tsv")
    t.print()
    if r.groups:
        write_plots(r, out)


if __name__ == "__main__":
    main(sys.argv[1])
