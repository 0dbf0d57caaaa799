#!/usr/bin/python3
"""Each file and each function that ARCHITECTURE.md and docs/design/ name exists. usage: check_tour.py SOURCE-ROOT"""
import pathlib
import re
import sys

CODE = re.compile(r"`([^`\n]+)`")
FILE = re.compile(r"^(?:[\w.-]+/)*[\w.-]+\.(?:c|h|py|sh|md|json|conf|hcl|scd|build|service)$")
FUNCTION = re.compile(r"^([a-z]\w+)\(\)$")
# Names of the running system, not of the repository; and calls of the kernel and of libraries, which sealane's code names too.
NOT_OURS = re.compile(r"^(/|RUN/|STATE/|~)|^(sealane\.conf|config\.json|sealane\.json|state\.db)$")


def main(root):
    root = pathlib.Path(root)
    sources = {p: p.read_text(errors="replace") for top in ("src", "bpf", "tests", "tools") for p in (root / top).rglob("*")
               if p.suffix in (".c", ".h", ".py", ".sh")}
    everything = "\n".join(sources.values())
    paths = {str(p.relative_to(root)) for p in root.rglob("*") if ".git/" not in str(p) and not str(p.relative_to(root)).startswith("build")}
    bad, n = [], 0
    for page in [root / "ARCHITECTURE.md"] + sorted((root / "docs/design").glob("*.md")):
        for number, line in enumerate(page.read_text().splitlines(), 1):
            for word in CODE.findall(line):
                where = f"{page.relative_to(root)}:{number}"
                if FILE.match(word) and not NOT_OURS.match(word):
                    n += 1
                    if not any(p == word or p.endswith("/" + word) for p in paths):
                        bad.append(f"{where}: there is no file {word}")
                elif m := FUNCTION.match(word):
                    n += 1
                    if not re.search(rf"\b{m[1]}\s*\(", everything):
                        bad.append(f"{where}: nothing is called {word}")
    if n == 0:
        bad.append("ARCHITECTURE.md names nothing: the tour of a connection is missing")
    print("\n".join(bad) if bad else f"{n} names on the tour exist")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
