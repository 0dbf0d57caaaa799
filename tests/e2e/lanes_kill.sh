#!/bin/bash
# SIGKILL in a loop, at moments nobody chose: the client, the server, the porter, the daemon, while a counter runs through a lane.
# What was committed arrives, in order, then the end; nothing is left over.
#
#   ROUNDS  of each kind (default 10; the soak: 250, 1,000 in all)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
e2e_start
TOOL=/tool/lanetool
ROUNDS=${ROUNDS:-${SOAK:+250}}
ROUNDS=${ROUNDS:-10}
CTR_OPTIONS=(--ro "$BUILD/tests/e2e:/tool")

host_up <<'CONF'
restart_grace = 20s
workload cache { services = [ sum ] }
service sum {}
service web {}
intention { source = web  destination = sum  action = allow }
CONF
ctr_run cache sleep 1d
ctr_run web sleep 1d
SERVER=
: >"$T/sum"
server_up() {
	local n
	n=$(n_listened)
	ctr_exec cache $TOOL sum sum >>"$T/sum" 2>&1 &
	SERVER=$!
	within 10 listened_since "$n" || { fail "the server listens"; tail -3 "$T/sum"; exit 1; }
}
n_listened() { grep -c '^listening' "$T/sum" || true; }
listened_since() { [ "$(n_listened)" -gt "$1" ]; }
pid_of() { own_pid "^$TOOL $1 sum"; }
nap() { sleep "0.$(printf '%03d' $((RANDOM % 300)))"; }
is_over() { [ -z "$(pid_of count)" ]; }

server_up
porter_fds() { fds_of "$(role_pid porter)"; }
fds_before=$(porter_fds)
shmem_before=$(awk '/^Shmem:/ { print $2 }' /proc/meminfo)

for kind in client server porter daemon; do
	bad=0
	for ((i = 0; i < ROUNDS; i++)); do
		ends=$(grep -c '^end' "$T/sum" || true)
		rm -f "$T/count" # the shell in the background makes it, when its turn comes
		ctr_exec web $TOOL count sum >"$T/count" 2>&1 &
		counter=$!
		within 10 grep -q counting "$T/count" || { bad=$((bad + 1)); note "round $i: $(tail -1 "$T/count")"; }
		nap
		case $kind in
		client) kill -KILL "$(pid_of count)" 2>/dev/null || true ;;
		server) kill -KILL "$(pid_of sum)" 2>/dev/null || true ;;
		porter) kill -KILL "$(role_pid porter)" 2>/dev/null || true ;;
		daemon) host_kill KILL ;;
		esac
		case $kind in
		server)
			within 5 is_over || { bad=$((bad + 1)); note "round $i: the client does not see the server's death"; }
			wait "$SERVER" 2>/dev/null || true
			server_up
			;;
		porter | daemon)
			nap
			kill -0 $counter 2>/dev/null && [ -n "$(pid_of count)" ] || { bad=$((bad + 1)); note "round $i: the lane did not outlive it: $(tail -1 "$T/count")"; }
			[ $kind != daemon ] || host_start
			kill -KILL "$(pid_of count)" 2>/dev/null || true
			;;
		esac
		wait $counter 2>/dev/null || true
		more_ends() { [ "$(grep -c '^end' "$T/sum" || true)" -gt "$ends" ]; }
		[ $kind = server ] || within 5 more_ends || { bad=$((bad + 1)); note "round $i: the server does not see the end"; }
	done
	check_equal "$kind killed $ROUNDS times: every round in order" 0 $bad
done
check_equal "no counter was ever out of order" "" "$(grep WRONG "$T/sum" || true)"
settled() { [ "$(porter_fds)" -le $((fds_before + 2)) ] && [ "$(sl --json ls lanes | jq '.lanes | length')" = 0 ]; }
check "no descriptor and no lane is left ($fds_before descriptors before)" within 5 settled
check_below "no shared memory is left, in KiB" 4096 "$(($(awk '/^Shmem:/ { print $2 }' /proc/meminfo) - shmem_before))"
