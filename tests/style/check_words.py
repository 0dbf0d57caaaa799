#!/usr/bin/python3
"""What must not stand in a tracked file: things left for later, and paths of somebody's machine. usage: check_words.py SOURCE-ROOT"""
import pathlib
import re
import subprocess
import sys

LATER = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK"]) + r")\b")
MACHINE = re.compile(r"(?<![\w.$}])/(" + "|".join(["home/" + r"\w", "wo" + "rk/", "ro" + "ot/", "Us" + "ers/"]) + ")")
BINARY = {".png", ".gz"}


def main(root):
    root = pathlib.Path(root)
    try:
        listed = subprocess.run(["git", "-C", str(root), "-c", f"safe.directory={root}", "ls-files", "-z"], capture_output=True, check=True).stdout
        files = [root / f for f in listed.decode().split("\0") if f]
    except (OSError, subprocess.CalledProcessError):
        files = [p for p in root.rglob("*") if p.is_file() and not str(p.relative_to(root)).startswith(("build", ".git/", ".cache/"))]
    bad, n = [], 0
    for path in files:
        if not path.is_file() or path.suffix in BINARY or "/corpus_" in str(path):
            continue
        n += 1
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            for what, pattern in (("left for later", LATER), ("a path of one machine", MACHINE)):
                if m := pattern.search(line):
                    bad.append(f"{path.relative_to(root)}:{number}: {what}: {m[0]}")
    print("\n".join(bad) if bad else f"{n} files are clean")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
