#!/bin/bash
# Lanes beside everything else that carries messages between two processes of one host: the same work, in turn, pinned, one run.
#
#   bench/ipc.sh [ROUNDS] [--fifo] [--only REGEX] [--out DIR] [--cpus A,B]      default: 5 rounds, about seven minutes
#
#   --fifo        real-time priority for both ends (with a watchdog), on a machine where others work too; needs CAP_SYS_NICE
#   --only REGEX  only measurements that match: "rtt 64 spin", "stream.*block", "^(lane|unix) "
#   --out DIR     where results.tsv, report.txt and ipc.svg go (default: build-bench/ipc)
#   --cpus A,B    which two (default: the first two that we may use)
#
# tools/install-deps.sh bench installs the peers; one whose library is missing is left out. Next to each result stands the bare
# bounce of a cache line between the two CPUs, before and after: see bench/ipc/harness.c for why, bench/ipc/report.py for what is
# done with it. docs/ipc.txt and docs/ipc-keys.txt (with protection keys), and their .svg, are runs of this.
set -euo pipefail
cd "$(dirname "$0")/.."
BUILD=${BUILD:-build-bench}
rounds=5 only=. out='' args=(--ms 200)

usage() {
	sed -n '2,/^# tools/s/^# \{0,1\}//p' "$0" >&2
	exit 2
}

while [ $# -gt 0 ]; do
	case $1 in
	--fifo) args+=(--fifo) ;;
	--only | --out | --cpus)
		[ $# -gt 1 ] || usage
		case $1 in
		--only) only=$2 ;;
		--out) out=$2 ;;
		--cpus) args+=(--cpus "$2") ;;
		esac
		shift
		;;
	[1-9]*) rounds=$1 ;;
	*) usage ;;
	esac
	shift
done
out=${out:-$BUILD/ipc}

[ -e "$BUILD/build.ninja" ] || meson setup "$BUILD" -Dbench=true >/dev/null
mapfile -t targets < <(ninja -C "$BUILD" -t targets all | sed -n 's,^\(bench/ipc/ipc_[a-z]*\):.*,\1,p')
ninja -C "$BUILD" "${targets[@]}" >/dev/null || { echo "bench/ipc.sh: building failed: ninja -C $BUILD says why" >&2; exit 1; }

declare -A PROGRAM=()
for t in "${targets[@]}"; do
	while read -r peer; do
		PROGRAM[$peer]=$BUILD/$t
	done < <("$BUILD/$t" peers)
done

# Everything that is measured: "PEER OP SIZE MODE [OPTIONS]". Those that are compared follow each other.
cases() {
	local size peer mode keys
	for size in 64 1024 4096 65536; do
		for peer in lane ring unix pipe tcp mq boost libqb; do
			echo "$peer rtt $size spin"
		done
		echo "lane rtt $size spin --place"
		echo "lane rtt $size adaptive"
		echo "ring rtt $size adaptive"
		for peer in lane ring unix pipe tcp mq boost libqb nng zmq grpc; do
			echo "$peer rtt $size block"
		done
		for peer in lane ring limit; do
			echo "$peer stream $size spin"
			[ "$peer" != lane ] || for keys in lane-open lane-off; do
				echo "$keys rtt $size spin"
				echo "$keys stream $size spin"
				[ "$size" = 65536 ] || echo "$keys stream $size spin --batch 64"
			done
			echo "$peer stream $size spin --place"
			[ "$size" != 65536 ] || continue
			for batch in 8 64; do
				echo "$peer stream $size spin --batch $batch"
				[ "$size$peer" != 64limit ] || echo "$peer stream $size spin --batch $batch --place"
			done
		done
		for peer in unix pipe tcp mq boost libqb; do
			echo "$peer stream $size spin"
		done
		for mode in adaptive block; do
			echo "lane stream $size $mode"
			[ "$size" = 65536 ] || echo "lane stream $size $mode --batch 64"
			echo "ring stream $size $mode"
		done
		for peer in unix pipe tcp mq boost libqb nng zmq grpc; do
			echo "$peer stream $size block"
		done
	done
	for size in 64 4096; do
		for peer in lane ring unix pipe tcp mq; do
			echo "$peer rtt $size block --one-core"
			echo "$peer stream $size block --one-core"
		done
		echo "lane rtt $size adaptive --one-core"
		echo "lane stream $size adaptive --one-core"
	done
	echo "lane call 64 spin"
	echo "lane idle 64 adaptive"
}

mapfile -t all < <(cases | grep -E -- "$only")
[ ${#all[@]} -gt 0 ] || { echo "bench/ipc.sh: --only '$only' matches nothing" >&2; exit 2; }
mkdir -p "$out"
printf '%s\t' round peer op size mode cores way batch p50_ns p99_ns p999_ns per_s bounce_before_ns bounce_after_ns foreign_percent >"$out/results.tsv"
printf '%s\t%s\n' wakes_per_batch fifo >>"$out/results.tsv"
: >"$out/idle.tsv"

declare -A skipped=()
for ((round = 1; round <= rounds; round++)); do
	echo "# round $round of $rounds, $(date +%T)" >&2
	for c in "${all[@]}"; do
		read -ra words <<<"$c"
		program=${PROGRAM[${words[0]}]:-}
		[ -n "$program" ] || { skipped["${words[0]}"]="not built"; continue; }
		rc=0
		line=$(timeout -k 1 30 "$program" "${words[@]}" "${args[@]}" 2>"$out/stderr") || rc=$?
		if [ $rc != 0 ]; then
			skipped["$c"]="$(tail -1 "$out/stderr") (exit $rc)"
		elif [ "${words[1]}" = idle ]; then
			printf '%s\t%s\n' "$round" "$line" >>"$out/idle.tsv"
		else
			printf '%s\t%s\n' "$round" "$line" >>"$out/results.tsv"
		fi
	done
done
rm -f "$out/stderr"

{
	echo "# $(nproc) CPUs, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), $(uname -sr), $rounds rounds, $(date -u +%F)${args[2]:+, ${args[*]:2}}"
	for c in "${!skipped[@]}"; do
		echo "# left out: $c: ${skipped[$c]}"
	done | sort
	python3 bench/ipc/report.py "$out"
} | tee "$out/report.txt"
if command -v gnuplot >/dev/null; then
	gnuplot -e "dir='$out'" bench/ipc/plot.gp
else
	echo "bench/ipc.sh: no gnuplot, no plot" >&2
fi
