#!/bin/bash
# One-sided memory beside perftest and rping, on SoftRoCE in an emulated machine: the same operations, sizes and way of waiting (beside perftest both
# ends poll, beside rping they sleep), by turns, several rounds. Prints ratios and nothing else: how fast an emulated machine is says nothing about any other.
#
#   bench/rdma.sh [ROUNDS] [--pair] [--keep FILE]        default: 3 rounds, about two minutes
#
#   --pair        two machines with a wire between them, in place of two processes on one device; about four minutes
#   --keep FILE   the figures themselves: ROUND METRIC WHOSE VALUE
#
#   READ latency      ib_read_lat, t_min and t_typical         `sealane bench rdma`: READ, least and median
#   WRITE latency     ib_write_lat, t_min and t_typical        half of "WRITE, there and back": both poll memory
#   WRITE bandwidth   ib_write_bw, average                     WRITE, acknowledged: bytes/s
#   round trip        rping: one of its round trips (two SENDs each way, a READ, a WRITE)     the ring, 64 bytes, sealed, there and back
#
# Where both ends poll, an emulator that has no two CPUs of its own shows how it is scheduled, and not what it emulates: the least times suffer least from that.
# Absolute figures are what `sealane bench rdma` prints on hardware. Needs build/ (BUILD=...), qemu-system-x86, perftest and rdmacm-utils.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=bench/rdma/vm.sh
. "$here/rdma/vm.sh"
ROUNDS=3 PAIR='' KEEP=''

usage() {
	sed -n '2,/^# Absolute/s/^# \{0,1\}//p' "$0" >&2
	exit 2
}
while [ $# -gt 0 ]; do
	case $1 in
	--pair) PAIR=1 ;;
	--keep)
		[ $# -gt 1 ] || usage
		KEEP=$2
		shift
		;;
	[1-9] | [1-9][0-9]) ROUNDS=$1 ;;
	*) usage ;;
	esac
	shift
done

vm_files "$BUILD/src/cli/sealane" ib_read_lat ib_write_lat ib_write_bw rping
export SEALANE_VM_TIMEOUT=$((120 + ROUNDS * (${PAIR:+2} + 1) * 60))
if [ -n "$PAIR" ]; then
	vm_pair "$here/rdma/inside.sh" "$ROUNDS"
else
	vm_one "$here/rdma/inside.sh" "$ROUNDS"
fi
[ -z "$KEEP" ] || sed -n 's/^F //p' "$VM_TMP/log" >"$KEEP"
what="an emulated machine"
[ -z "$PAIR" ] || what="two emulated machines"
echo "SoftRoCE in $what, $(sed -n 's/^vm: //p' "$VM_TMP/log" | head -1); $ROUNDS rounds, medians, spread"
"${PYTHON:-python3}" "$here/rdma/report.py" "$VM_TMP/log"
