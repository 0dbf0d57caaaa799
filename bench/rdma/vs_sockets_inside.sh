#!/bin/sh
# Inside the machine of bench/rdma-vs-sockets.sh: ROLE ADDRESS PEER. Prints "F FIGURE X COLUMN VALUE": microseconds, megabytes a second.
role=$1 address=$2 peer=$3
# shellcheck source=bench/rdma/rxe.sh
. /test/rxe.sh
SIZES="64 256 1024 4096 16384 65536"
COUNTS="1 2 5 10 20 50 100"
DEADLINE=120

# UDP's largest message is shorter.
udp_size() { [ "$1" -lt 65507 ] && echo "$1" || echo 65507; }
times_of() { [ "$1" -le 4096 ] && echo 500 || echo 100; }

if [ "$role" != a ]; then
	port=18600
	for size in $SIZES; do
		over ib_read_bw -e -d rxe0 -x 1 -F -p $port -s "$size" -n "$(times_of "$size")" </dev/null &
		port=$((port + 1))
	done
	taskset 2 qperf &
	taskset 2 rping -s -P -a "$address" >/dev/null 2>&1 &
fi
[ "$role" != b ] || { sleep 86400; exit 0; }
step() { now; echo "# $up s: $*"; } # for who looks why it takes so long

again ping -c 3 -A -q "$peer" # the first one asks for the address
# ping's own average. -A: the next one when the answer is there.
pings() {
	again ping -c "$1" -A -s 64 -q "$peer" || return 1
	awk -F'[ /=]+' -v x="$1" '/^round-trip|^rtt/ { for (i = 1; i <= NF; i++) if ($i ~ /^[0-9.]+$/) { n++; if (n == 2) print "F", "rtt", x, "ping", $i * 1000 } }' /tmp/again.log
}

# rping tells no times: we have the time of the whole program, less that of one with two round trips. The least of many, since connecting varies.
step rping 2
rping_least 10 2 || exit 1
one=$least
for count in $COUNTS; do
	step ping, rping "$count"
	for _ in 1 2 3; do
		pings "$count" || exit 1
	done
	rping_least $((count < 20 ? 10 : 3)) $((count + 2)) || exit 1
	[ "$least" -le "$one" ] || echo "F rtt $count rping $(((least - one) / count / 1000))"
done

# qperf_at FIGURE SIZE COLUMN OPTION... - "latency = 277 us", "recv_bw = 30.3 MB/sec", "bw = 48.1 MB/sec". Like sockets, its RDMA sleeps until something comes.
qperf_at() {
	figure=$1 bytes=$2 column=$3
	x=$bytes
	shift 3
	[ "$column" != udp ] || bytes=$(udp_size "$bytes")
	again qperf -t 1 -m "$bytes" "$peer" "$@" || return 0
	awk -v figure="$figure" -v x="$x" -v column="$column" '
		$1 == "latency" || $1 == "bw" || $1 == "recv_bw" {
			scale["ns"] = .001; scale["us"] = 1; scale["ms"] = 1000; scale["sec"] = 1000000
			scale["bytes/sec"] = .000001; scale["KB/sec"] = .001; scale["MB/sec"] = 1; scale["GB/sec"] = 1000
			print "F", figure, x, column, $3 * scale[$4]
		}' /tmp/again.log
}

# read_bw SIZE PORT - qperf has no READ for bandwidth that works here
read_bw() {
	again ib_read_bw -e -d rxe0 -x 1 -F -p "$2" -s "$1" -n "$(times_of "$1")" "$peer" || return 0
	awk -v x="$1" '$1 == x && NF >= 5 && $4 > 0 { v = $4 * 1.048576 }
		END { if (v != "") print "F", "bandwidth", x, "read", v }' /tmp/again.log
}

for round in 1 2 3; do
	port=18600
	for size in $SIZES; do
		step round "$round, sockets, $size"
		qperf_at bandwidth "$size" tcp tcp_bw
		qperf_at bandwidth "$size" udp udp_bw
		qperf_at latency "$size" tcp tcp_lat
		qperf_at latency "$size" udp udp_lat
		step round "$round, RDMA, $size"
		read_bw "$size" $port
		qperf_at bandwidth "$size" write -cm 1 rc_rdma_write_bw
		qperf_at latency "$size" send -cm 1 rc_lat
		qperf_at latency "$size" read -cm 1 rc_rdma_read_lat
		port=$((port + 1))
	done
	now
	[ "${up%.*}" -lt "$DEADLINE" ] || break # an emulator that others leave little of
done
