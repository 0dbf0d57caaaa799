#!/usr/bin/python3
"""No function over 70 lines, but for those in long-functions.txt, each with its reason. usage: check_functions.py SOURCE-ROOT"""
import pathlib
import re
import sys

CEILING = 70
NAME = re.compile(r"(\w+)\s*\(")


def functions(text):
    """(name, first line, number of lines) of each function whose braces stand in the first column."""
    lines = text.splitlines()
    start = None
    for i, line in enumerate(lines):
        if line == "{":
            head = i - 1
            while head > 0 and lines[head - 1][:1] not in ("", "}", "/", "#", " ") and not lines[head - 1].endswith((";", "}", "*/")):
                head -= 1
            start = (head, i)
        elif line == "}" and start:
            names = NAME.findall(" ".join(lines[start[0]:start[1]]))
            names = [n for n in names if not n.isupper() and n not in ("__attribute__", "format", "cleanup")]
            yield (names[0] if names else "?"), start[0] + 1, i - start[1] + 1
            start = None


def main(root):
    root = pathlib.Path(root)
    allowed = {}
    for line in (root / "tests/style/long-functions.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            path, name, reason = line.split(None, 2)
            allowed[path, name] = reason
    bad, n, used = [], 0, set()
    for top in ("src", "tests", "bpf", "bench"):
        for path in sorted((root / top).rglob("*.c")):
            rel = str(path.relative_to(root))
            for name, line, length in functions(path.read_text()):
                n += 1
                if length <= CEILING:
                    continue
                if (rel, name) in allowed:
                    used.add((rel, name))
                else:
                    bad.append(f"{rel}:{line}: {name}() has {length} lines; the ceiling is {CEILING}")
    bad += [f"tests/style/long-functions.txt: {path} {name} is not long any more" for path, name in allowed.keys() - used]
    print("\n".join(bad) if bad else f"{n} functions, {len(used)} of them long for a reason")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
