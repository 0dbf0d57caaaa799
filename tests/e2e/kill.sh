#!/bin/bash
# SIGKILL in a loop, under load, for each kind of process: what lives on is what docs/design/roles.md says, and nothing leaks.
# 10 rounds each; SOAK=1: 200. KINDS="client server daemon": only those.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
e2e_start
ROUNDS=${ROUNDS:-$([ -n "${SOAK:-}" ] && echo 200 || echo 10)}

host_up <<'CONF'
workload server { services = [ echo ] }
service echo { socket_path = "echo.sock" }
workload victim { services = [ mortal ] }
service mortal { socket_path = "mortal.sock" }
service direct { upstream echo {} upstream mortal {} }
service relay { upstream echo {} upstream mortal {} }
intention { source = direct  destination = "*"  action = allow }
intention { source = relay  destination = "*"  action = allow  strict = true }
CONF
S=/run/sealane/echo.sock
ctr_run server "$PYTHON" /e2e/peer.py echo /run/sealane/serve/echo.sock
ctr_run victim sh -c 'while :; do python3 /e2e/peer.py echo /run/sealane/serve/mortal.sock; done'
for s in echo mortal; do within 10 service_is_up $s || fail "$s comes up"; done
ctr_run direct sleep 1d
ctr_run relay sleep 1d

works() { # CONTAINER SOCKET
	[ "$(timeout 20 "$CTR_RUNTIME" --root "$CTR_DIR/state" exec "$1" "$PYTHON" /e2e/peer.py ask "$2" ping 2>/dev/null)" = ping ]
}
# What must not grow. Gates and brokers are new processes after a kill: compared by role.
picture() {
	roles | while read -r pid role; do
		echo "$role fds=$(fds_of "$pid")"
	done | sort | xargs
	echo "cgroups=$(find "$(ctr_cgroup2)/$CTR_TAG" -type d | wc -l) sockets=$(find "$T/run" -type s | wc -l)"
}
calm() { [ "$(api /v1/lanes | jq '.lanes | length')" = "$1" ]; }
total_rss() { roles | while read -r pid _; do rss_kib "$pid"; done | awk '{ s += $1 } END { print s }'; }
same_picture() { [ "$(picture)" = "$1" ]; }

keep_open() { # CONTAINER -> $T/hold.CONTAINER; says "cut" when it ends
	ctr_peer "$1" hold "$S" >"$T/hold.$1" 2>&1 &
	within 10 grep -q open "$T/hold.$1" || fail "a connection from $1 is held"
}
untouched() { ! grep -q cut "$T/hold.$1"; }

# rounds WHAT SURVIVORS KILL-FUNCTION - $1: name; $2: containers whose held connection must live; $3: kills something once
rounds() {
	local what=$1 survivors=$2 kill_one=$3 before rss i slow=0 c
	for c in direct relay; do
		[ -e "$T/hold.$c" ] && untouched $c || keep_open $c
	done
	works relay "$S" && works direct "$S" || fail "$what: all works before"
	within 5 calm 2 || true
	before=$(picture)
	rss=$(total_rss)
	for i in $(seq "$ROUNDS"); do
		ctr_peer relay churn "$S" 0.6 >"$T/churn.relay" 2>&1 &
		local load=$!
		ctr_peer direct churn "$S" 0.6 >"$T/churn.direct" 2>&1 &
		local load2=$!
		sleep 0.15
		$kill_one
		prompt_begin
		if ! works relay "$S" || ! works direct "$S"; then
			fail "$what: round $i: no connection within 20 s after it"
			break
		fi
		prompt_end 5000
		[ $TOOK -lt 5000 ] || slow=$((slow + 1))
		wait "$load" "$load2" || true
		for c in $survivors; do
			if ! untouched "$c"; then
				fail "$what: round $i: the held connection from $c was cut"
				break 2
			fi
		done
	done
	check_equal "$what: $ROUNDS rounds, rounds in which service took over 5 s to come back" 0 "$slow"
	for c in direct relay; do
		untouched $c || keep_open $c
	done
	if within 10 same_picture "$before"; then
		ok "$what: no descriptor, socket or cgroup leaked"
	else
		fail "$what: something leaked"
		printf '#   before: %s\n#   after:  %s\n' "$(tr '\n' ' ' <<<"$before")" "$(picture | tr '\n' ' ')"
	fi
	check_below "$what: growth of memory, KiB" 6144 $(($(total_rss) - rss))
}

kill_client() {
	local pid_file=$T/client.pid
	ctr_runtime exec --detach --pid-file "$pid_file" relay "$PYTHON" /e2e/peer.py many "$S" 50 </dev/null >/dev/null 2>&1
	sleep 0.1
	kill -KILL "$(cat "$pid_file")" 2>/dev/null || true
}
kill_server() {
	local pid
	ctr_peer relay churn /run/sealane/mortal.sock 0.3 >/dev/null 2>&1 &
	sleep 0.1
	for pid in $(pgrep -P "$(ctr_pid victim)"); do kill -KILL "$pid" 2>/dev/null || true; done
	wait $! || true
	works relay /run/sealane/mortal.sock && works direct /run/sealane/mortal.sock || fail "the restarted server is reached"
}
kill_role() {
	local pid
	pid=$(role_pid "$1")
	if [ -z "$pid" ]; then
		fail "there is no role $1: $(roles | xargs)"
		return
	fi
	kill -KILL "$pid"
	another() { local now; now=$(role_pid "$1"); [ -n "$now" ] && [ "$now" != "$2" ]; }
	within 10 another "$1" "$pid" || fail "another $1 is started"
}
kill_gate() { kill_role gate; }
kill_broker() { kill_role broker; within 10 sl status || fail "the new broker answers"; }
kill_porter() { kill_role porter; }
kill_checker() { kill_role checker; }
kill_keeper() { kill_role keeper; }
kill_daemon() { host_kill KILL; host_start; }

# What must live on: connections that the kernel carries always; relayed ones unless their gate ends.
survivors_of() {
	case $1 in
	gate | broker | daemon) echo direct ;;
	*) echo direct relay ;;
	esac
}
for kind in ${KINDS:-client server checker porter keeper gate broker daemon}; do
	rounds "$kind" "$(survivors_of "$kind")" "kill_$kind"
done
