#!/bin/bash
# The main job: a stock Redis and its clients in containers without a network; who may not, may not; changes hold at once.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
e2e_start

host_up <<'CONF'
workload cache { services = [ redis ] }
service redis { socket_path = "redis.sock"  check { socket = true  interval = 1s } }
service web { upstream redis {} }
service intruder { upstream redis {} }
intention { source = web  destination = redis  action = allow }
CONF
redis_run cache
ctr_run web sleep 1d
ctr_run intruder sleep 1d

check_equal "there is only lo in web" "lo" "$(ctr_exec web ls /sys/class/net | xargs)"
check_equal "PING" PONG "$(redis_in web PING)"
check_equal "SET" OK "$(redis_in web SET greeting hello)"
check_equal "GET" hello "$(redis_in web GET greeting)"

head -c 100000000 /dev/urandom >"$T/blob"
redis_in web -x SET blob <"$T/blob" >/dev/null
check_equal "100 MB come back with the same SHA-256" "$(sha256sum <"$T/blob")" \
	"$(redis_in web --raw GET blob | head -c 100000000 | sha256sum)"
redis_in web DEL blob >/dev/null

denied_before=$(n_events lane.deny)
check_not "intruder is refused" redis_in intruder PING
event_is_there() { [ "$(n_events lane.deny)" -gt "$denied_before" ]; }
within 2 event_is_there || true
check_equal "one lane.deny event" $((denied_before + 1)) "$(n_events lane.deny)"
event=$(events lane.deny | tail -1)
check_match "it names the source" '"source":"(default/)?intruder"' "$event"
check_match "it names the destination" '"destination":"(default/)?redis"' "$event"
check_match "it names the rule" 'default deny|no intention' "$event"
check_match "explain says why" 'deny|refuse' "$(sl explain intruder redis 2>&1 || true)"
check_equal "explain, for programs" "deny refuse" \
	"$(api '/v1/explain?source=intruder&destination=redis' | jq -r '"\(.decision) \(.route)"')"

check "allow" sl intention allow intruder redis
check_equal "it works at once" PONG "$(redis_in intruder PING)"

# A connection that waits for messages: how long after `deny` does it end?
ctr_exec intruder redis-cli -s /run/sealane/redis.sock SUBSCRIBE news >"$T/sub" 2>&1 &
sub=$!
within 5 grep -q subscribe "$T/sub" || fail "subscribed"
lane_is_listed() { sl --json ls lanes | jq -e '.lanes[] | select(.client.workload == "intruder" and .server.workload == "cache")' >/dev/null; }
check "ls lanes shows it with both ends' workloads" within 3 lane_is_listed
cuts_before=$(events lane.cut | wc -l)
t0=$(now_ms)
sl intention deny intruder redis >/dev/null
wait "$sub" || true
t1=$(now_ms)
check_below "deny cuts the open connection, in seconds" 1.0 "$(awk -v d=$((t1 - t0)) 'BEGIN { print d / 1000 }')"
cut_is_logged() { [ "$(events lane.cut | wc -l)" -gt "$cuts_before" ]; }
check "the cut is logged" within 2 cut_is_logged
check_not "and new ones are refused" redis_in intruder PING
check_equal "web is not touched" PONG "$(redis_in web PING)"

check "rm takes the run-time intention away" sl intention rm intruder redis
check_not "and the default still denies" redis_in intruder PING
healthy() { [ "$(api /v1/services | jq -r '.services[] | select(.name == "default/redis") | .health')" = passing ]; }
check "the health check passes" within 5 healthy
ctr_kill cache
unhealthy() { ! service_is_up redis; }
check "the daemon sees a server that went" within 5 unhealthy
redis_run cache
check "and one that came back" within 5 healthy
check_equal "web reaches the new one through the same directory" PONG "$(redis_in web PING)"
