#!/bin/bash
# Many lanes between containers: 10,000 idle ones cost no CPU and a known amount of memory; 1,000 busy ones are served evenly.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
e2e_start
TOOL=/tool/lanetool
IDLE=${IDLE:-10000}
CTR_OPTIONS=(--ro "$BUILD/tests/e2e:/tool")
HARD=$(ulimit -Hn)
# The porter holds four descriptors for each lane and one more while it is made; so does a server that watches each lane.
if [ "$HARD" -lt $((IDLE * 5)) ]; then
	IDLE=$(((HARD - 500) / 5))
	note "the hard limit of descriptors here is $HARD: $IDLE lanes instead of more"
fi
ulimit -n "$HARD"

host_up <<'CONF'
workload cache { services = [ echo ] }
service echo {}
service web {}
intention { source = web  destination = echo  action = allow }
CONF
ctr_run cache $TOOL serve echo
ctr_run web sleep 1d
within 10 grep -q listening "$CTR_DIR/cache/out"
server=$(own_pid "^$TOOL serve echo")
porter=$(role_pid porter)
cpu_ms() { awk -v hz="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); print ($12 + $13) * 1000 / hz }' "/proc/$1/stat"; }
shmem_kib() { awk '/^Shmem:/ { print $2 }' /proc/meminfo; }

before_kib=$(shmem_kib)
ctr_exec web $TOOL hold echo "$IDLE" 10 >"$T/hold" 2>&1 &
hold=$!
check "$IDLE lanes open" within 120 grep -q held "$T/hold"
sed 's/^/# /' "$T/hold"
sleep 2
s0=$(cpu_ms "$server") p0=$(cpu_ms "$porter")
sleep 4
check_equal "the server's CPU while they are idle, in ms" 0 "$(($(cpu_ms "$server") - s0))"
check_equal "and the porter's" 0 "$(($(cpu_ms "$porter") - p0))"
note "memory of the host per idle lane: $((($(shmem_kib) - before_kib) / IDLE)) KiB; of the porter: $(($(rss_kib "$porter") * 1024 / IDLE)) bytes"
check_equal "ls lanes has them all" "$IDLE" "$(sl --json ls lanes | jq '[.lanes[] | select(.path == "shm")] | length')"
rc=0
wait $hold || rc=$?
check_equal "they all answer afterwards" "0 ok all $IDLE lanes answer" "$rc $(tail -1 "$T/hold")"
check_match "within next to no CPU of the client" 'idle: [0-9]{1,4} us' "$(cat "$T/hold")"
none_left() { [ "$(sl --json ls lanes | jq '[.lanes[] | select(.path == "shm")] | length')" = 0 ]; }
check "then they are gone" within 20 none_left

read -r _ least median most < <(ctr_exec web $TOOL fair echo 1000 5 2>"$T/fair.err" || { cat "$T/fair.err" >&2; echo "fair 0 1 1000000"; })
note "1,000 busy lanes: round trips of a lane in 5 s: least $least, median $median, most $most"
check "1,000 busy lanes are served evenly: the least has at least half of the median" test $((least * 2)) -ge "$median"
check "and the most at most four times" test "$most" -le $((median * 4))
