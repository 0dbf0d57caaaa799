#!/bin/bash
# redis-benchmark -t set,get,lrange,mset, -P 1 and -P 16, against the same Redis on four paths, in turn, medians of ROUNDS rounds:
#
#   own      Redis' own Unix socket, client and server in one container   (what everything is measured against)
#   again    the same once more: how much of a difference is the machine's
#   direct   sealane, client in another container, the kernel connects
#   relay    sealane with `strict = true`: the gate carries the bytes
#   bridge   TCP over veth and a bridge between two containers
#
#   bench/redis.sh [ROUNDS [REQUESTS]]      default: 5 rounds, 20000 requests a test (more of the fast ones: half a second each)
#
# Needs root and build/. It takes about ROUNDS times a minute and a half.
set -euo pipefail
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/../tests/e2e/lib.sh"
# shellcheck source=tools/measure.sh
. "$ROOT/tools/measure.sh"
ROUNDS=${1:-5}
REQUESTS=${2:-20000}
e2e_start

host_up <<'CONF'
workload cache { services = [ redis ] }
service redis { socket_path = "redis.sock" }
service direct { upstream redis {} }
service relay { upstream redis {} }
intention { source = direct  destination = redis  action = allow }
intention { source = relay  destination = redis  action = allow  strict = true }
CONF
redis_run cache
ctr_run direct sleep 1d
ctr_run relay sleep 1d
ctr_bundle bridged "$ROOTFS" "${CTR_USR[@]}" -- redis-server --bind '* -::*' --protected-mode no --save '' --appendonly no --dir /tmp
ctr_bundle bridge "$ROOTFS" "${CTR_USR[@]}" -- sleep 1d
ctr_start bridged
ctr_start bridge
ctr_switch_up
ctr_plug bridged 10.123.46.1/24
ctr_plug bridge 10.123.46.2/24
within 10 ctr_exec bridge redis-cli -h 10.123.46.1 PING

# Each measurement lasts about half a second: shorter ones measure the scheduler.
requests() { # TEST PIPELINE
	case $1.$2 in
	lrange.1) echo "$REQUESTS" ;;
	*.1) echo $((REQUESTS * 3)) ;;
	lrange.*) echo $((REQUESTS * 4)) ;;
	mset.*) echo $((REQUESTS * 15)) ;;
	*) echo $((REQUESTS * 50)) ;;
	esac
}

one() { # PATH TEST PIPELINE
	local container=$1 where=(-s /run/sealane/redis.sock)
	case $1 in
	own | again) container=cache where=(-s /run/sealane/serve/redis.sock) ;;
	bridge) where=(-h 10.123.46.1) ;;
	esac
	measure_redis "$container" "${where[@]}" -t "$2" -c 50 -P "$3" -n "$(requests "$2" "$3")" |
		while read -r t rps p50 p99; do
			echo "$rps" >>"$T/m/$3.$t.$1"
			echo "$p50 $p99" >>"$T/m/$3.$t.$1.latency"
			[ "$1" != own ] || grep -qx "$t" "$T/m/tests" || echo "$t" >>"$T/m/tests"
		done
}

mkdir "$T/m"
: >"$T/m/tests"
order=(own again direct relay bridge)
for ((round = 1; round <= ROUNDS; round++)); do
	echo "# round $round of $ROUNDS" >&2
	for p in 1 16; do
		for t in set get lrange mset; do
			for path in "${order[@]}"; do
				one "$path" "$t" "$p"
			done
		done
	done
	order=("${order[@]:1}" "${order[0]}") # none of them is always the first after the others' load
done

echo "$(nproc) cores, $(uname -r), $(redis-server --version | grep -o 'v=[0-9.]*'), 50 clients, $ROUNDS rounds, medians, spread of \"own\"; shares are medians of each round's own"
printf '%-3s %-12s %11s %-10s %11s %6s %11s %6s %11s %6s %11s %6s\n' -P test "own, req/s" spread again '' direct '' relay '' bridge ''
for p in 1 16; do
	while read -r t; do
		own=$(measure_median <"$T/m/$p.$t.own")
		printf '%-3s %-12s %11.0f %-10s' $p "$t" "$own" "$(measure_spread <"$T/m/$p.$t.own")"
		for path in again direct relay bridge; do
			printf ' %11.0f %5.0f%%' "$(measure_median <"$T/m/$p.$t.$path")" \
				"$(paste "$T/m/$p.$t.$path" "$T/m/$p.$t.own" | awk '{ print $1 / $2 * 100 }' | measure_median)"
		done
		echo
	done <"$T/m/tests"
done
echo
printf '%-3s %-12s %s\n' -P test "p50 / p99 in ms: own, direct, relay, bridge"
for p in 1 16; do
	while read -r t; do
		printf '%-3s %-12s' $p "$t"
		for path in own direct relay bridge; do
			printf '  %s / %s' "$(cut -d' ' -f1 "$T/m/$p.$t.$path.latency" | measure_median)" \
				"$(cut -d' ' -f2 "$T/m/$p.$t.$path.latency" | measure_median)"
		done
		echo
	done <"$T/m/tests"
done
