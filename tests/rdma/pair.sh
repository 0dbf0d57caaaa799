#!/bin/sh
# pair.sh RUN PROGRAM FILE... - two machines, one wire between them, SoftRoCE on both: PROGRAM runs as "b" in one, which goes without a word, and as "a" in the
# other, whose status is ours. RUN: tests/vm/run.sh. FILE...: what rdma_pair.sh needs inside. Takes a minute, so only with FULL=1.
set -eu
[ -n "${FULL:-}" ] || { echo "two emulated machines take a minute: set FULL=1"; exit 77; }
here=$(cd "$(dirname "$0")" && pwd)
run=$1
program=$2
shift 2
tmp=$(mktemp -d)
b=
trap '[ -z "$b" ] || kill "$b" 2>/dev/null || true; rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM HUP
for file; do
	set -- "$@" -f "$file"
	shift
done
export SEALANE_VM_FLAVOUR=amd64 SEALANE_VM_MEMORY=512 SEALANE_VM_TIMEOUT=150
SEALANE_VM_NET="on,$tmp/wire,1" "$run" "$@" -f "$program" "$here/rdma_pair.sh" b 10.8.0.2 >"$tmp/b.log" 2>&1 &
b=$!
for _ in $(seq 300); do
	[ ! -S "$tmp/wire" ] || break
	sleep 0.1
done
r=0
SEALANE_VM_NET="off,$tmp/wire,2" "$run" "$@" -f "$program" "$here/rdma_pair.sh" a 10.8.0.1 || r=$?
[ $r = 0 ] || sed 's/^/b: /' "$tmp/b.log"
exit $r
