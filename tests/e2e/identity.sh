#!/bin/bash
# Connections that come by the right socket from the wrong process are refused wherever the daemon accepts.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
e2e_start

host_up <<'CONF'
workload cache { services = [ redis ] }
service redis { socket_path = "redis.sock" }
service web { upstream redis {} }
service thief { upstream redis {} }
intention { source = web  destination = redis  action = allow  strict = true }
CONF
redis_run cache
ctr_run web sleep 1d
CTR_OPTIONS=(--ro "$T/run/w/web:/mnt")
ctr_run thief sleep 1d
# shellcheck disable=SC2034 # read by ctr_run
CTR_OPTIONS=()
cg=$(ctr_cgroup2)

refused_identity() { api /v1/status | jq .counters.lanes_refused_identity; }
# refused WHAT COMMAND... - fails, and the daemon counts it as somebody who is not who the socket is for
refused() {
	local what=$1 before after
	shift
	before=$(refused_identity)
	check_not "$what is refused" "$@"
	after=$(refused_identity)
	check_equal "$what is counted" $((before + 1)) "$after"
}

check_equal "strict takes the relay" relay "$(route_of web redis)"
check_equal "web itself may" PONG "$(redis_in web PING)"
refused "another container with web's directory" ctr_exec thief redis-cli -s /mnt/redis.sock PING
refused "a process of the host" redis-cli -s "$T/run/w/web/redis.sock" PING

# A process of web that was moved out of its cgroup before it connects.
mkdir "$cg/$CTR_TAG/elsewhere"
ctr_runtime exec --detach --pid-file "$T/later.pid" web "$PYTHON" /e2e/peer.py later 1.5 /run/sealane/redis.sock \
	</dev/null >"$T/later.out" 2>&1
cat "$T/later.pid" >"$cg/$CTR_TAG/elsewhere/cgroup.procs"
within 10 test -s "$T/later.out" || true
check_match "a process that left its cgroup is refused" 'refused|closed' "$(cat "$T/later.out")"

# A process that moves within the workload stays what it is: cgroups below the workload's are its own.
mkdir "$cg/$CTR_TAG/web/below"
ctr_runtime exec --detach --pid-file "$T/below.pid" web "$PYTHON" /e2e/peer.py later 1.5 /run/sealane/redis.sock \
	</dev/null >"$T/below.out" 2>&1
cat "$T/below.pid" >"$cg/$CTR_TAG/web/below/cgroup.procs"
within 10 test -s "$T/below.out" || true
check_match "one in a cgroup below the workload's is accepted" connected "$(cat "$T/below.out")"

# Not enrolled: the directory alone gives nothing.
ctr_bundle stranger "$ROOTFS" "${CTR_USR[@]}" --lane "$T/run/w/web" --ro "$E2E_DIR:/e2e" -- sleep 1d
ctr_start stranger
refused "a container that was never enrolled" ctr_exec stranger redis-cli -s /run/sealane/redis.sock PING

# The root cgroup is nobody's.
check_fails "the root cgroup cannot be enrolled, and why" cgroup sl enrol --workload web --cgroup /
check_equal "web still may" PONG "$(redis_in web PING)"
check_match "the log says who was refused" 'identity|cgroup' "$(grep -h '"lane\.' "$T/daemon.log" | grep -v lane.allow | tail -5)"
