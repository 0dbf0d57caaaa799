#!/usr/bin/python3
"""What libsealane shows and needs: exactly the functions of sealane.h, nothing but the C library, and a page for each.

usage: check_library.py SOURCE-ROOT LIBSEALANE.SO LIBSEALANE.A
"""
import pathlib
import re
import subprocess
import sys

# The C library and its loader, by glibc's and by musl's names.
MAY_NEED = re.compile(r"^(libc\.so(\.6)?|ld-linux[-\w]*\.so\.\d|ld-musl-[\w]+\.so\.1|libc\.musl-\w+\.so\.1)$")
DECLARED = re.compile(r"^SEALANE_API\b[^;]*?\b(sealane_\w+)\s*\(", re.MULTILINE)


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def declared(root):
    return set(DECLARED.findall((root / "include/sealane.h").read_text()))


def exported(shared):
    names = re.findall(r" ([TDBRVWiA]) (\S+)", run("nm", "-D", "--defined-only", shared))
    return {n.split("@")[0] for kind, n in names if kind != "A"}, [n for kind, n in names if kind != "A" and "@@SEALANE_" not in n]


def check_symbols(root, shared, static):
    header = declared(root)
    seen, unversioned = exported(shared)
    seen_static = set(re.findall(r" [A-TV-Z] (\S+)", run("nm", "-g", "--defined-only", static)))
    yield from (f"{shared}: shows {n}, which is not in sealane.h" for n in sorted(seen - header))
    yield from (f"{shared}: sealane.h declares {n}, which is not there" for n in sorted(header - seen))
    yield from (f"{shared}: {n} has no version" for n in unversioned)
    yield from (f"{static}: shows {n}, which is not in sealane.h" for n in sorted(seen_static - header))
    yield from (f"{static}: sealane.h declares {n}, which is not there" for n in sorted(header - seen_static))


def check_needed(shared):
    dynamic = run("readelf", "-dW", shared)
    for name in re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic):
        if not MAY_NEED.match(name):
            yield f"{shared}: needs {name}; it may need the C library alone"
    if not re.search(r"\(SONAME\).*\[libsealane\.so\.0\]", dynamic):
        yield f"{shared}: its name (SONAME) is not libsealane.so.0"
    if re.search(r"GNU_STACK.*RWE", run("readelf", "-lW", shared)):
        yield f"{shared}: wants an executable stack"


def check_pages(root):
    """Each function in the NAME of a page, in its SYNOPSIS, and findable under its own name (man/meson.build)."""
    pages = {p.name: p.read_text() for p in (root / "man").glob("*.3.scd")}
    names, synopses = {}, {}
    for page, text in pages.items():
        sections = dict(re.findall(r"^# (.*)\n((?:(?!# ).*\n)*)", text, re.MULTILINE))
        for where, section in ((names, "NAME"), (synopses, "SYNOPSIS")):
            for n in re.findall(r"\bsealane_\w+", sections.get(section, "").replace("\\_", "_")):
                where.setdefault(n, page)
    build = (root / "man/meson.build").read_text()
    for n in sorted(declared(root)):
        if n not in names:
            yield f"man/: no page has {n} in its NAME"
        if n not in synopses:
            yield f"man/: no page has {n} in its SYNOPSIS"
        if f"'{n}'" not in build and f"{n}.3.scd" not in pages:
            yield f"man/meson.build: {n}.3 leads to no page"


def main(root, shared, static):
    root = pathlib.Path(root)
    bad = [*check_symbols(root, shared, static), *check_needed(shared), *check_pages(root)]
    print("\n".join(bad) if bad else f"{len(declared(root))} functions are declared, shown and described")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
