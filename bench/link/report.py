#!/usr/bin/python3
"""Medians, spread and ratios of a run of bench/link.sh. usage: report.py FILE; its lines: ROUND PEER METRIC VALUE

The spread beside a median is the least and the most of the rounds, in percent of it. A ratio is the median of the rounds' own ratios,
since what disturbs one round disturbs both sides of it. "The best" is the best median among those that do the same work: mutual TLS.
"""
import statistics
import sys

PEERS = ["direct", "socat-tcp", "socat-tls", "stunnel", "haproxy", "nginx", "sealane", "sealane-lib"]
SAME_WORK = ["socat-tls", "stunnel", "haproxy", "nginx"]
OURS = ["sealane", "sealane-lib"]
# metric, what it is, digits, whether less is better, what was aimed at: ours / best
METRICS = [
    ("rtt.p50", "64 B round trip, p50, us", 0, True, 0.7),
    ("rtt.p99", "64 B round trip, p99, us", 0, True, None),
    ("rtt.cpu", "  CPU us of it", 0, True, None),
    ("conns.rate", "new connections/s", 0, False, 10),
    ("conns.cpu", "  CPU ms of one", 2, True, None),
    ("s4k.rate", "stream, 4 KiB writes, MB/s", 0, False, 1.5),
    ("s64k.rate", "stream, 64 KiB writes, MB/s", 0, False, 1.5),
    ("s64k.cpu", "  CPU s/GB", 2, True, 0.6),
    ("busy.p50", "64 B beside a stream, p50, us", 0, True, None),
    ("busy.p99", "64 B beside a stream, p99, us", 0, True, None),
    ("busy.rate", "  that stream, MB/s", 0, False, None),
    ("redis.GET.1", "redis GET -P 1, k/s", 1, False, 1.5),
    ("redis.SET.1", "redis SET -P 1, k/s", 1, False, 1.5),
    ("redis.cpu.1", "  CPU us of a request", 1, True, None),
    ("redis.GET.16", "redis GET -P 16, k/s", 0, False, 1.5),
    ("redis.SET.16", "redis SET -P 16, k/s", 0, False, 1.5),
    ("redis.cpu.16", "  CPU us of a request", 2, True, None),
]


def read(path):
    """{(peer, metric): {round: value}}"""
    figures = {}
    with open(path, encoding="ascii") as f:
        for line in f:
            fields = line.split()
            if len(fields) == 4:  # a cell without a result has no value
                figures.setdefault((fields[1], fields[2]), {})[int(fields[0])] = float(fields[3])
    return figures


def cell(rounds, digits):
    if not rounds:
        return "-"
    values = sorted(rounds.values())
    median = statistics.median(values)
    if not median or len(values) == 1:
        return f"{median:.{digits}f}"
    return f"{median:.{digits}f} {100 * (values[0] / median - 1):+.0f}/{100 * (values[-1] / median - 1):+.0f}"


def table(figures):
    here = [p for p in PEERS if any(peer == p for peer, _ in figures)]
    rows = [["median, spread in %"] + here]
    for metric, name, digits, _, _ in METRICS:
        rows.append([name] + [cell(figures.get((p, metric)), digits) for p in here])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print(row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:])), sep="  ")


def ratio(ours, theirs):
    return statistics.median(ours[r] / theirs[r] for r in ours if r in theirs and theirs[r])


def compare(figures, us):
    print(f"\n{us} / the best of {', '.join(SAME_WORK)}")
    for metric, name, _, less, aim in METRICS:
        ours = figures.get((us, metric))
        peers = {p: figures[p, metric] for p in SAME_WORK if (p, metric) in figures}
        if not ours or not peers:
            continue
        best = (min if less else max)(peers, key=lambda p: statistics.median(peers[p].values()))
        try:
            value = ratio(ours, peers[best])
        except statistics.StatisticsError:
            continue
        verdict = ""
        if aim:
            verdict = f"   aim: {'at most' if less else 'at least'} {aim:g}: {'yes' if (value <= aim if less else value >= aim) else 'no'}"
        print(f"{name.strip():32} {value:6.2f}   {best:10}{verdict}".rstrip())


def main(path):
    figures = read(path)
    table(figures)
    for us in OURS:
        if any(peer == us for peer, _ in figures):
            compare(figures, us)


if __name__ == "__main__":
    main(sys.argv[1])
