#!/usr/bin/python3
"""docs/links.md tells of each event of links what it means: none is missing there, none is there that no code logs. usage: check_events.py SOURCE-ROOT"""
import pathlib
import re
import sys

AREAS = "link|linker|host|certificate|ca|signer|catalogue"
CALL = re.compile(r"\b(?:log_(?:info|warn|error)|LOG_EVENT|log_session)\(([^;]*);")
EVENT = re.compile(r'"((?:' + AREAS + r')\.[a-z_]+)"')
TOLD = re.compile(r"`((?:" + AREAS + r")\.[a-z_]+)`")
# Files, which look the same.
FILES = {"ca.key", "ca.crt", "host.key", "host.crt"}


def logged(root):
    names = set()
    for path in (root / "src").rglob("*.c"):
        if path.name.startswith(("test_", "fake_")):
            continue
        for call in CALL.finditer(path.read_text()):
            names.update(EVENT.findall(call[1]))
    return names - FILES


def main(root):
    root = pathlib.Path(root)
    told = set(TOLD.findall((root / "docs/links.md").read_text())) - FILES
    code = logged(root)
    bad = [f"docs/links.md does not say what {name} means, and what to do" for name in sorted(code - told)]
    bad += [f"docs/links.md tells of {name}, which nothing logs" for name in sorted(told - code)]
    if not code:
        bad.append("no event was found: the pattern in check_events.py is out of date")
    print("\n".join(bad) if bad else f"{len(code)} events of links are told")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
