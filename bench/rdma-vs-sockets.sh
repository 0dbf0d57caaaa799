#!/bin/bash
# ping beside rping, and TCP and UDP beside RDMA, in emulated machines with SoftRoCE: the comparison of "Figures 2 to 4" of the paper on RDMA-Redis that
# docs/rdma-cost.md names, done again.
#
#   bench/rdma-vs-sockets.sh [--pair] [--out DIRECTORY]        default: docs/figures; about three minutes
#
#   --pair   two machines with a wire between them, in place of one whose card leads back to itself; about five minutes
#
#   rdma-rtt.tsv, .svg         round trip of ping and of rping, against how many are sent one after the other
#   rdma-bandwidth.tsv, .svg   bytes a second against the size of a message: qperf tcp_bw and udp_bw (as received), rc_rdma_write_bw; ib_read_bw
#   rdma-latency.tsv, .svg     one way against size: qperf tcp_lat, udp_lat and rc_lat; rc_rdma_read_lat there and back
#
# The emulated machine has to compute what a card would do, and its CPU is some twenty times slower than a real one: the shapes are of interest, not
# the figures, and each plot says so. Of several rounds the best is taken. Needs qemu-system-x86, perftest, rdmacm-utils, qperf, gnuplot.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=bench/rdma/vm.sh
. "$here/rdma/vm.sh"
OUT=$here/../docs/figures PAIR=''

while [ $# -gt 0 ]; do
	case $1 in
	--pair) PAIR=1 ;;
	--out)
		[ $# -gt 1 ] || { echo "--out needs a directory" >&2; exit 2; }
		OUT=$2
		shift
		;;
	*)
		sed -n '2,/^# Needs/s/^# \{0,1\}//p' "$0" >&2
		exit 2
		;;
	esac
	shift
done

command -v gnuplot >/dev/null || { echo "$0: there is no gnuplot: run tools/install-deps.sh bench" >&2; exit 1; }
vm_files ib_read_bw rping qperf
export SEALANE_VM_TIMEOUT=540
if [ -n "$PAIR" ]; then
	vm_pair "$here/rdma/vs_sockets_inside.sh"
else
	vm_one "$here/rdma/vs_sockets_inside.sh"
fi
mkdir -p "$OUT"
what="an emulated machine"
[ -z "$PAIR" ] || what="two emulated machines"
where="SoftRoCE in $what (QEMU, $(sed -n 's/^vm: //p' "$VM_TMP/log" | head -1)): shapes, not speeds"

# table FIGURE COLUMN... - lines "F FIGURE X COLUMN VALUE" become one row for each X. Of rounds the best counts: who shares the machine only makes them worse.
table() {
	local figure=$1
	shift
	{
		awk -v figure="$figure" -v columns="$*" '$1 == "F" && $2 == figure {
				if (!(($3, $4) in v) || (figure == "bandwidth") == ($5 > v[$3, $4]))
					v[$3, $4] = $5
				if (!($3 in seen)) {
					seen[$3] = 1
					x[++n] = $3
				}
			}
			END {
				k = split(columns, c, " ")
				printf figure == "rtt" ? "count" : "bytes"
				for (i = 1; i <= k; i++)
					printf "\t%s", c[i]
				print ""
				for (j = 1; j <= n; j++) {
					printf "%s", x[j]
					for (i = 1; i <= k; i++)
						printf "\t%s", ((x[j], c[i]) in v) ? v[x[j], c[i]] : "-"
					print ""
				}
			}' "$VM_TMP/log"
		echo "# $where"
	} >"$OUT/rdma-$figure.tsv"
}
table rtt ping rping
table bandwidth tcp udp read write
table latency tcp udp send read
for figure in rtt bandwidth latency; do
	gnuplot -e "data='$OUT/rdma-$figure.tsv'; where='$where'; figure='$figure'" "$here/rdma/plot.gp" >"$OUT/rdma-$figure.svg"
	echo "$OUT/rdma-$figure.svg"
done
