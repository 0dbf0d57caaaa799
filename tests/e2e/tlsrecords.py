#!/usr/bin/python3
"""Standard input: what `tshark -z follow,tcp,raw,N` printed, several of them. Is each direction a sequence of TLS records?

In clear text there may be: handshake records (22) before the first encrypted one (23), the one change_cipher_spec (20), alerts (21).
"""
import sys

RECORD_MAX = 16384 + 256


def records(data):
    """Types of the records; a last one that is not whole is left out (the capture ended). ValueError: something else."""
    types = []
    at = 0
    while at + 5 <= len(data):
        kind, version, size = data[at], data[at + 1:at + 3], int.from_bytes(data[at + 3:at + 5], "big")
        if kind not in (20, 21, 22, 23) or version not in (b"\3\1", b"\3\3") or size > RECORD_MAX:
            raise ValueError(f"at byte {at}: {data[at:at + 40]!r}")
        if kind == 22 and 23 in types:
            raise ValueError(f"at byte {at}: a handshake in clear text after encryption began")
        types.append(kind)
        at += 5 + size
    return types


def main():
    streams = n = 0
    halves = [bytearray(), bytearray()]

    def finish():
        nonlocal streams, n
        for half in halves:
            n += len(records(bytes(half)))
        streams += bool(halves[0])

    for line in sys.stdin:
        if line.startswith("Follow:"):
            finish()
            halves = [bytearray(), bytearray()]
        text = line.strip()
        if text and all(c in "0123456789abcdef" for c in text):
            halves[line.startswith("\t")] += bytes.fromhex(text)
    finish()
    print(f"{streams} streams, {n} records, all TLS")


if __name__ == "__main__":
    main()
