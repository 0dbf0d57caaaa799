#!/usr/bin/python3
"""Who may include whom in src/, and what the core may not include at all. usage: check_layers.py SOURCE-ROOT"""
import pathlib
import re
import sys

ALL = {"base", "shm", "wire", "core", "conf", "link", "store", "guard", "catalogue", "rdma"}
MAY_USE = {
    "base": set(),
    "shm": {"base"},
    "wire": {"base"},
    "core": {"base"},
    "conf": {"base", "core"},
    "link": {"base", "shm", "wire", "core"},
    "rdma": {"base", "shm"},
    "store": {"base", "shm", "wire", "link"},
    "guard": {"base", "core"},
    "catalogue": {"base", "core", "wire"},
    "daemon": ALL,
    "client": {"base", "shm", "wire"},
    "preload": {"base", "client"},
    "cli": {"base", "wire", "shm", "client", "rdma"},  # the last three: `sealane bench` measures the library and one-sided memory themselves
}
# What a library in a container would do is done by a library in the test.
MAY_TEST_WITH = {"daemon": {"client"}}
# The core does no I/O, asks no clock and takes no lock: events in, decisions out.
CORE_MUST_NOT = re.compile(r"^(unistd|fcntl|poll|pthread|signal|spawn|dirent|sched|sys/(?!types|param|cdefs).*|event2/.*|linux/.*)\.h$|^sys/")
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]')


def main(root):
    src = pathlib.Path(root) / "src"
    bad = []
    seen = 0
    for path in sorted(src.rglob("*.[ch]")):
        folder = path.relative_to(src).parts[0]
        name = path.relative_to(root)
        if folder not in MAY_USE:
            bad.append(f"{name}: folder src/{folder} is not in the table of tests/style/check_layers.py")
            continue
        is_test = path.name.startswith("test_")
        for number, line in enumerate(path.read_text().splitlines(), 1):
            m = INCLUDE.match(line)
            if not m:
                continue
            seen += 1
            kind, header = m.groups()
            if kind == "<":
                if folder == "core" and not is_test and CORE_MUST_NOT.match(header) and header != "sys/types.h":
                    bad.append(f"{name}:{number}: the core does no I/O; <{header}> is for those who do")
                continue
            target = header.split("/")[0] if "/" in header else folder
            allowed = MAY_USE[folder] | (MAY_TEST_WITH.get(folder, set()) if is_test else set())
            if (src / header).exists() and target != folder and target not in allowed:
                bad.append(f"{name}:{number}: src/{folder} may not use src/{target} (\"{header}\")")
            elif "/" not in header and (path.parent / header).exists():
                bad.append(f"{name}:{number}: write \"{folder}/{header}\", so that the direction can be seen")
    print("\n".join(bad) if bad else f"{seen} includes follow the directions")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
