#!/usr/bin/env python3
"""Write a file as a C array: embed.py INPUT OUTPUT NAME. gcc 12 has no #embed, and xxd is not on every build machine."""
import sys


def main():
    source, target, name = sys.argv[1:]
    with open(source, "rb") as f:
        data = f.read()
    rows = [", ".join(str(byte) for byte in data[i : i + 24]) for i in range(0, len(data), 24)]
    with open(target, "w") as f:
        f.write(f"/* Made from {source.rsplit('/', 1)[-1]} by tools/embed.py. */\n")
        f.write(f"static const unsigned char {name}[] = {{\n\t" + ",\n\t".join(rows) + "\n};\n")


main()
