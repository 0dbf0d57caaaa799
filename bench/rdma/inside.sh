#!/bin/sh
# Inside the machine of bench/rdma.sh: inside.sh ROLE ADDRESS PEER ROUNDS. Prints "F ROUND METRIC WHOSE VALUE": microseconds, or megabytes a second.
role=$1 address=$2 peer=$3 rounds=$4
# shellcheck source=bench/rdma/rxe.sh
. /test/rxe.sh
RPINGS=200

# perftest's servers: "TOOL PORT SIZE TIMES", each on a port of its own
runs="ib_read_lat 18601 64 300
ib_read_lat 18602 4096 300
ib_read_lat 18603 65536 60
ib_write_lat 18611 64 300
ib_write_lat 18612 4096 300
ib_write_lat 18613 65536 60
ib_write_bw 18621 4096 1000
ib_write_bw 18622 65536 100"

if [ "$role" != a ]; then
	echo "$runs" | while read -r tool port size times; do
		over "$tool" -d rxe0 -x 1 -F -p "$port" -s "$size" -n "$times" </dev/null &
	done
	over sealane bench rdma --wait block --listen "$address" &
	taskset 2 rping -s -P -a "$address" >/dev/null 2>&1 &
fi
[ "$role" != b ] || { sleep 86400; exit 0; }

# theirs TOOL PORT SIZE TIMES - t_min is the third column of the last line with figures, t_typical the fifth; the average bandwidth the fourth
theirs() {
	again "$1" -d rxe0 -x 1 -F -p "$2" -s "$3" -n "$4" "$peer" || return 1
	awk -v tool="$1" -v size="$3" -v round="$round" '$1 == size { least = $3; v = tool == "ib_write_bw" ? $4 : $5 }
		END {
			if (v == "")
				exit 1
			sub(/^ib_/, "", tool)
			print "F", round, tool "." size, "perftest", v
			if (sub(/lat$/, "min", tool))
				print "F", round, tool "." size, "perftest", least
		}' /tmp/again.log || { echo "failed: $1 says:"; cat /tmp/again.log; return 1; }
}

# ours WAIT - beside perftest we poll, as it does; beside rping we sleep. The far end sleeps, but where it has to poll its memory.
ours() {
	again sealane bench rdma --json --wait "$1" --time 10s --connect "$peer" || return 1
	tr '{' '\n' </tmp/again.log | sed -n 's/"what":"\([^"]*\)","bytes":\([0-9]*\),"min_ns":\([0-9.]*\),"p50_ns":\([0-9.]*\),.*"per_s":\([0-9.]*\)}.*/\1|\2|\4|\5|\3/p' |
		awk -F'|' -v round="$round" -v wait="$1" '
			function put(name, v) { print "F", round, name, "sealane", v }
			wait == "spin" && $1 == "READ" { put("read_lat." $2, $3 / 1000); put("read_min." $2, $5 / 1000) }
			wait == "spin" && $1 == "WRITE, there and back" { put("write_lat." $2, $3 / 2000); put("write_min." $2, $5 / 2000) }
			wait == "spin" && $1 == "WRITE, acknowledged" { put("write_bw." $2, $4 * $2 / 1048576) }
			wait == "block" && $1 == "WRITE with immediate, there and back" && $2 == 64 { put("imm.64", $3 / 1000) }
			wait == "block" && $1 ~ /^ring/ && $1 !~ /plain/ && $2 == 64 { put("ring.64", $3 / 1000) }
			wait == "block" && $1 ~ /^ring/ && $1 ~ /plain/ && $2 == 64 { put("ring_plain.64", $3 / 1000) }'
}

# One connection with two round trips is taken off, so that setting up does not count.
rpings() {
	rping_least 3 2 || return 1
	one=$least
	rping_least 1 $((RPINGS + 2)) || return 1
	echo "F $round rping.64 rping $(((least - one) / RPINGS / 1000))"
}

step() { now; echo "# $up s: round $round: $*"; } # for who looks why it takes so long

round=1
while [ "$round" -le "$rounds" ]; do
	step sealane, polling
	ours spin || exit 1
	echo "$runs" | while read -r tool port size times; do
		step "$tool" "$size"
		theirs "$tool" "$port" "$size" "$times" || exit 1
	done || exit 1
	step sealane, sleeping
	ours block || exit 1
	step rping
	rpings || exit 1
	round=$((round + 1))
done
now
echo "done at $up s"
