#!/bin/sh
# pair.sh [-r RELAY] RUN PROGRAM FILE... - two machines, one wire between them, SoftRoCE on both: PROGRAM runs as "b" in one, whose end need not be a good
# one (it may go without a word), and as "a" in the other, whose status is ours. RUN: tests/vm/run.sh. FILE...: what rdma_pair.sh needs inside. -r: the wire
# is that program (relay.c). Takes a minute and more, so only with FULL=1.
set -eu
[ -n "${FULL:-}" ] || { echo "two emulated machines take a minute: set FULL=1"; exit 77; }
here=$(cd "$(dirname "$0")" && pwd)
relay=
[ "$1" != -r ] || { relay=$2; shift 2; }
run=$1
program=$2
shift 2
tmp=$(mktemp -d)
wire=
b=
trap '[ -z "$b$wire" ] || kill $b $wire 2>/dev/null || true; rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM HUP
for file; do
	set -- "$@" -f "$file"
	shift
done
# wait_for SOCKET
wait_for() {
	for _ in $(seq 600); do
		[ ! -S "$1" ] || return 0
		sleep 0.1
	done
	echo "pair.sh: nobody made the wire in a minute" >&2
	return 1
}
export SEALANE_VM_FLAVOUR=amd64 SEALANE_VM_MEMORY=512 SEALANE_VM_TIMEOUT="${SEALANE_VM_TIMEOUT:-330}"
if [ -n "$relay" ]; then
	"$relay" "$tmp/a" "$tmp/b" &
	wire=$!
	wait_for "$tmp/b"
	net_a="off,$tmp/a,1" net_b="off,$tmp/b,2"
else
	net_a="off,$tmp/wire,1" net_b="on,$tmp/wire,2"
fi
name=$(basename "$program")
SEALANE_VM_NET=$net_b "$run" "$@" -f "$program" "$here/rdma_pair.sh" "$name" b 10.8.0.2 >"$tmp/b.log" 2>&1 &
b=$!
[ -n "$relay" ] || wait_for "$tmp/wire" || { cat "$tmp/b.log"; exit 1; }
r=0
SEALANE_VM_NET=$net_a "$run" "$@" -f "$program" "$here/rdma_pair.sh" "$name" a 10.8.0.1 || r=$?
[ $r = 0 ] || sed 's/^/b: /' "$tmp/b.log"
exit $r
