#!/bin/bash
# Links between two hosts beside what else carries a Unix socket of one to a Unix socket of the other under mutual TLS: the same work,
# the same suite and certificates, by turns, pinned, in one run.
#
#   bench/link.sh [ROUNDS] [--only PEER,PEER...] [--ms MS] [--keep FILE]          default: 5 rounds of 600 ms a cell, about ten minutes
#
#   direct       no network: client and server on one host, on the server's own socket   (what it would be without a link)
#   socat-tcp    socat over plain TCP                                                     (what it would be without TLS)
#   socat-tls, stunnel, haproxy, nginx: mutual TLS 1.3                                    (the peers)
#   sealane      two daemons; the applications use socket files
#   sealane-lib  the same daemons; the applications use libsealane (no Redis there)
#
# Two network namespaces are the hosts, with one cable between them. Host a and all clients run on the first CPU that we may use,
# host b and all servers on the second; clients and servers are containers without a network. CPU time is that of the proxies
# (or of our daemons), from their cgroup. bench/link/peers.sh has the peers' configurations, bench/link/load.c the load,
# bench/link/report.py what is made of the figures. A peer that is not installed is left out (tools/install-deps.sh bench).
#
#   --keep FILE   the figures themselves: ROUND PEER METRIC VALUE
#
# Needs root and build/ (BUILD=...).
set -euo pipefail
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "$0")/../tests/e2e/lib.sh"
# shellcheck source=tests/e2e/lib_hosts.sh
. "$E2E_DIR/lib_hosts.sh"
# shellcheck source=tools/measure.sh
. "$ROOT/tools/measure.sh"
# shellcheck source=bench/link/peers.sh
. "$ROOT/bench/link/peers.sh"
ROUNDS=5 MS=600 ONLY='' KEEP_FILE=''

usage() {
	sed -n '2,/^# Needs/s/^# \{0,1\}//p' "$0" >&2
	exit 2
}

while [ $# -gt 0 ]; do
	case $1 in
	--only | --ms | --keep)
		[ $# -gt 1 ] || usage
		case $1 in
		--only) ONLY=$2 ;;
		--ms) MS=$2 ;;
		--keep) KEEP_FILE=$2 ;;
		esac
		shift
		;;
	[1-9]*) ROUNDS=$1 ;;
	*) usage ;;
	esac
	shift
done

declare -A CPU TARGET
read -r 'CPU[a]' 'CPU[b]' _ < <("$PYTHON" -c 'import os; print(*(sorted(os.sched_getaffinity(0)) * 2)[:2], 0)')

# In the place of lib_hosts.sh's: no switch, but one cable from host to host.
host_plug() {
	HOST_ADDRESS[$1]=10.99.0.$2
	net_new "$1"
	[ "$2" = 1 ] || net_in "$1" ip link add eth0 type veth peer name eth0 netns "${HOST_NET[a]}"
}
cable_up() {
	local host
	for host in a b; do
		net_in "$host" sh -ec 'ip addr add "$1/24" dev eth0; ip link set eth0 up' sh "${HOST_ADDRESS[$host]}"
		net_in "$host" sysctl -qw net.ipv4.tcp_congestion_control=cubic 2>/dev/null || true # BBR paces, which would be all that is seen
	done
}

peer_cgroup() { echo "$(ctr_cgroup2)/$CTR_TAG/$1"; }

# cpu_us PEER - what its processes have used since they began; 0 for who has none
cpu_us() {
	local stat
	stat="$(peer_cgroup "${1%-lib}")/cpu.stat"
	[ -f "$stat" ] && awk '$1 == "usage_usec" { print $2 }' "$stat" || echo 0
}

# peers_kill SIGNAL - all that is in the peers' cgroups, e.g. socat's children. Fails when there was nothing left.
peers_kill() {
	local peer pids=()
	for peer in "${PEER_NAMES[@]}"; do
		mapfile -t -O ${#pids[@]} pids < <(cat "$(peer_cgroup "$peer")/cgroup.procs" 2>/dev/null)
	done
	[ ${#pids[@]} -gt 0 ] && kill "-$1" "${pids[@]}" 2>/dev/null
}
peers_are_gone() { ! peers_kill 0; }

# Politely first, since nginx and socat wait for their own children; then everything else that the libraries made. A second signal, or
# having been in the middle of on(), does not keep it from its work.
bench_end() {
	local rc=$?
	trap '' INT TERM HUP
	set +e
	T=$HOSTS_DIR CTR_TAG=$HOSTS_TAG CTR_DIR=$HOSTS_DIR/c
	peers_kill TERM
	within 2 peers_are_gone || peers_kill KILL
	(exit "$rc")
	e2e_end
}

# pinned HOST COMMAND... - this shell, and so whatever it starts, on that host's CPU meanwhile
pinned() {
	local host=$1
	shift
	taskset -pc "${CPU[$host]}" $$ >/dev/null
	"$@"
	taskset -pc "${CPU[a]}" $$ >/dev/null
}

daemon_up() { # HOST
	mkdir -p "$(peer_cgroup sealane)"
	HOST_ENTER=(taskset -c "${CPU[$1]}" sh -c 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"' sh "$(peer_cgroup sealane)")
	on "$1" host_start
	HOST_ENTER=()
}

hosts_configure() {
	host_conf a web <<-CONF
	workload web { services = [ web ] }
	service web {
		upstream bench {}
		upstream redis {}
	}
	CONF
	host_conf b bench redis <<-CONF
	workload bench { services = [ bench ] }
	workload cache { services = [ redis ] }
	service bench { socket_path = "bench.sock" }
	service redis { socket_path = "redis.sock" }
	CONF
	HOSTS_CONF='intention { source = web  destination = bench  action = allow }
intention { source = web  destination = redis  action = allow }'
	HOSTS=(a b)
	host_plug a 1
	host_plug b 2
	cable_up
	host_write a
	host_write b
	daemon_up a
	daemon_up b
	B=${HOST_ADDRESS[b]}
}

containers_up() {
	cp "$BUILD/bench/link/link_load" "$ROOTFS/load"
	# shellcheck disable=SC2034 # for ctr_run
	CTR_OPTIONS=(--ro "$PEERS:$PEERS" --ro "$HOSTS_DIR/b/run/w/bench/serve:/direct-bench" --ro "$HOSTS_DIR/b/run/w/cache/serve:/direct-redis")
	mkdir -p "$ROOTFS$PEERS" "$ROOTFS/direct-bench" "$ROOTFS/direct-redis"
	on a ctr_run web sleep 1d
	CTR_OPTIONS=()
	pinned b on b redis_run cache
	pinned b on b ctr_run bench /load serve /run/sealane/serve/bench.sock
	pinned b lanes_serve
	within 10 on b service_is_up bench
	TARGET=([bench]=$HOSTS_DIR/b/run/w/bench/serve/bench.sock [redis]=$HOSTS_DIR/b/run/w/cache/serve/redis.sock)
}

lanes_serve() { on b ctr_exec bench /load lanes bench </dev/null >>"$PEERS/lanes.log" 2>&1 & }

where() { # PEER SERVICE -> its socket as the client sees it
	case $1 in
	direct) echo "/direct-$2/$2.sock" ;;
	sealane) echo "/run/sealane/$2.sock" ;;
	sealane-lib) echo "lane:$2" ;;
	*) echo "$PEERS/$1.$2" ;;
	esac
}

client() { on a ctr_exec web "$@"; }
answers() { client /load rtt "$(where "$1" bench)" 64 20 && { [ "$1" = sealane-lib ] || client redis-cli -s "$(where "$1" redis)" PING; }; }

wanted() { [ -z "$ONLY" ] || [[ ,$ONLY, == *,$1,* ]]; }

# The peers that are here, started, and known to do what they are compared for.
peers_up() {
	local peer
	order=()
	! wanted direct || order+=(direct)
	for peer in "${PEER_NAMES[@]}"; do
		wanted "$peer" || continue
		command -v "${PEER_PROGRAM[$peer]}" >/dev/null || { note "$peer is left out: it is not installed"; continue; }
		mkdir -p "$(peer_cgroup "$peer")"
		"peer_up_$peer"
		order+=("$peer")
	done
	for peer in "${order[@]}"; do
		within 10 answers "$peer" || { echo "bench/link.sh: $peer does not carry a byte:" >&2; tail "$PEERS/$peer.log" >&2; exit 1; }
		[[ $peer = direct || $peer = socat-tcp ]] || peer_is_mutual "$peer" || { echo "bench/link.sh: $peer does not do mutual TLS 1.3 with the suite of all" >&2; exit 1; }
	done
}

sealane_up() {
	local way
	join_all
	for way in sealane sealane-lib; do
		wanted "$way" || continue
		if within 5 answers "$way"; then
			order+=("$way")
		else
			note "$way is left out, it carries no byte: $(answers "$way" 2>&1 | tail -1)"
		fi
	done
}

# put METRIC VALUE
put() { echo "$round $peer $1 $2" >>"$T/figures"; }

# load NAME UNIT=KEY... -- ARGUMENT... - one measurement: of what the load prints, UNIT becomes the metric NAME.KEY; and its CPU time, left in $cpu, $out
load() {
	local name=$1 pairs=() pair before
	shift
	while [ "$1" != -- ]; do
		pairs+=("$1")
		shift
	done
	shift
	before=$(cpu_us "$peer")
	out=$(client /load "$@") || { note "round $round: $peer: $name: no result" >&2; return 0; }
	cpu=$(($(cpu_us "$peer") - before))
	for pair in "${pairs[@]}"; do
		put "$name.${pair#*=}" "$(said "${pair%%=*}")"
	done
}
said() { awk -v k="$1" '$1 == k { print $2 }' <<<"$out"; }

# per METRIC KEY SCALE - the CPU time of what was just measured, divided by what the load said under KEY
per() {
	[ -n "${out:-}" ] && [ "$peer" != direct ] || return 0
	put "$1" "$(awk -v cpu="$cpu" -v n="$(said "$2")" -v scale="$3" 'BEGIN { print cpu / n * scale }')"
}

redis_at() { # PIPELINE REQUESTS
	local before t rps
	before=$(cpu_us "$peer")
	on a measure_redis web -s "$(where "$peer" redis)" -t set,get -c 50 -P "$1" -n "$2" >"$T/redis.out" || true
	while read -r t rps _; do
		put "redis.$t.$1" "$(awk -v r="$rps" 'BEGIN { print r / 1000 }')"
	done <"$T/redis.out"
	[ "$peer" = direct ] || put "redis.cpu.$1" "$(awk -v c=$(($(cpu_us "$peer") - before)) -v n="$2" 'BEGIN { print c / (2 * n) }')"
}

measure() { # one round of one peer
	local out='' cpu=0 s
	s=$(where "$peer" bench)
	load rtt p50_us=p50 p99_us=p99 -- rtt "$s" 64 "$MS"
	per rtt.cpu n 1
	load conns conns_s=rate -- conns "$s" 8 "$MS"
	per conns.cpu n 0.001
	load s4k mb_s=rate -- stream "$s" 4096 "$MS"
	load s64k mb_s=rate -- stream "$s" 65536 "$MS"
	per s64k.cpu bytes 1000
	load busy p50_us=p50 p99_us=p99 mb_s=rate -- busy "$s" "$MS"
	[ "$peer" != sealane-lib ] || return 0
	redis_at 1 $((MS * 25))
	redis_at 16 $((MS * 250))
}

hosts_start
trap bench_end EXIT
PEERS=$T/peers
mkdir "$PEERS"
taskset -pc "${CPU[a]}" $$ >/dev/null
peers_certify
hosts_configure
containers_up
peers_up
{ ! wanted sealane && ! wanted sealane-lib; } || sealane_up

: >"$T/figures"
for ((round = 1; round <= ROUNDS; round++)); do
	note "round $round of $ROUNDS" >&2
	for peer in "${order[@]}"; do
		measure
	done
	order=("${order[@]:1}" "${order[0]}") # none of them is always the first after the others' load
done
[ -z "$KEEP_FILE" ] || cp "$T/figures" "$KEEP_FILE"

echo "$(getconf _NPROCESSORS_ONLN) cores, $(uname -r), $(openssl version | cut -d' ' -f1,2); clients, servers and one host each a CPU; $ROUNDS rounds of $MS ms a cell"
"$PYTHON" "$ROOT/bench/link/report.py" "$T/figures"
echo
echo "The limit: AES-128-GCM on one core"
taskset -c "${CPU[a]}" "$BUILD/bench/bench_gcm" | grep -v AES-256 | sed 's/^/  /'
