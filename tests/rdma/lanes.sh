#!/bin/sh
# lanes.sh RUN FILE... - a daemon in each of two emulated machines with SoftRoCE, one wire between them, and lanes between their containers. RUN: tests/vm/run.sh.
# FILE...: what lanes_inside.sh needs inside. Machine a runs the checks and has b do its part; its status is ours. Takes minutes, so only with FULL=1.
set -eu
[ -n "${FULL:-}" ] || { echo "two emulated machines take minutes: set FULL=1"; exit 77; }
here=$(cd "$(dirname "$0")" && pwd)
run=$1
shift
tmp=$(mktemp -d)
b=
trap '[ -z "$b" ] || kill "$b" 2>/dev/null || true; rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM HUP
for file; do
	set -- "$@" -f "$file"
	shift
done
export SEALANE_VM_FLAVOUR=amd64 SEALANE_VM_MEMORY=1024 SEALANE_VM_TIMEOUT="${SEALANE_VM_TIMEOUT:-600}"
SEALANE_VM_NET="on,$tmp/wire,2" "$run" "$@" "$here/lanes_inside.sh" b >"$tmp/b.log" 2>&1 &
b=$!
for _ in $(seq 600); do
	[ ! -S "$tmp/wire" ] || break
	sleep 0.1
done
r=0
SEALANE_VM_NET="off,$tmp/wire,1" "$run" "$@" "$here/lanes_inside.sh" a || r=$?
[ $r = 0 ] || sed 's/^/b: /' "$tmp/b.log"
exit $r
