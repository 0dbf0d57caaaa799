#!/bin/bash
# Lanes of libsealane between hosts: messages, streams, calls; who may, told to the program itself; cuts, deaths, limits.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib_hosts.sh"
hosts_start
TOOL=/build/tests/e2e/lanetool
CALLS=/build/tests/e2e/calltool
# shellcheck disable=SC2034 # read by ctr_run
CTR_OPTIONS=(--ro "$BUILD:/build" --ro "$ROOT:/src")
PY=(env PYTHONPATH=/src/python SEALANE_LIBRARY=/build/src/client/libsealane.so.0 PYTHONDONTWRITEBYTECODE=1 "$PYTHON")

# What is not there is told after this, and not only after a library's longest wait.
HOSTS_CONF='connect_wait = 1s'
host_conf a web intruder stranger both sender <<'CONF'
workload near { services = [ both ] }
service web { upstream plain {} }
service intruder {}
service stranger {}
service both {}
service sender {}
intention { source = web       destination = "*"    action = allow }
intention { source = sender    destination = slow   action = allow }
intention { source = intruder  destination = echo   action = allow }
CONF
host_conf b echo stream rpc plain both slow <<'CONF'
workload cache { services = [ echo ] }
workload tools { services = [ stream, rpc, plain ] }
workload far { services = [ both ] }
workload sipper { services = [ slow ] }
service slow {}
service echo {}
service stream {}
service rpc {}
service plain {}
service both {}
intention { source = web     destination = "*"   action = allow }
intention { source = sender  destination = slow  action = allow }
CONF
hosts_up a b
join_all

tool() { ctr_exec "$1" $TOOL "${@:2}"; }
listens() { api /v1/services | jq -e --arg s "default/$1" '.services[] | select(.name == $s) | .listeners > 0' >/dev/null; }
knows() { # SERVICE - does this host know that another one has it?
	view hosts | jq -e --arg s "default/$1" 'any(.hosts[].services[]; .name == $s and .state == "up")' >/dev/null
}
lanes_of() { view lanes | jq "[.lanes[] | select(.path | startswith(\"link\")) | select(.kind != \"socket\")] | length"; }
lanes_are() { [ "$(on "$1" lanes_of)" = "$2" ]; }
on b ctr_run cache $TOOL serve echo
on b ctr_run tools sh -c "$TOOL mirror stream & exec $CALLS answer rpc"
for c in web intruder stranger; do on a ctr_run $c sleep 1d; done
for s in echo stream rpc; do within 10 on b listens $s || { fail "$s listens"; exit 1; }; done
for s in echo stream rpc; do within 10 on a knows $s || { fail "a hears of $s"; exit 1; }; done
ok "two hosts; servers on the one, clients on the other"

test_main_job() {
	local out before_a before_b sum
	before_a=$(on a log_lines)
	before_b=$(on b log_lines)
	check_equal "there is only lo in web" lo "$(on a ctr_exec web ls /sys/class/net | xargs)"
	out=$(on a tool web ping echo 1000 64 2>&1) || true
	check_match "1000 messages there and back" 'ok 1000 messages of 64 bytes' "$out"
	check_match "the client knows whom it talks to, and how" 'to default/echo spiffe://[^ ]*/ns/default/svc/echo workload= host=b path=link' "$out"
	check_match "the server knows who came" 'from default/web spiffe://[^ ]*/ns/default/svc/web workload= host=a path=link' "$(cat "$HOSTS_DIR/b/c/cache/out")"
	check_match "messages larger than a frame and than the ring" 'ok 3 messages of 500000' "$(on a tool web ping echo 3 500000 2>&1)"
	check_match "empty ones" 'ok 5 messages of 0' "$(on a tool web ping echo 5 0 2>&1)"
	check_match "calls and their errors" 'ok 200 calls, and the error is as it should \(7\)' "$(on a ctr_exec web $CALLS ask rpc 100 2>&1)"
	out=$(on a tool web pour stream 100000000 2>&1) || true
	check_match "a stream of 100 MB both ways at once, the same hash" 'same 100000000 bytes' "$out"
	check "allowed, and logged with the kind, where the client is" on a event_after "$before_a" lane.allow '.kind == "messages" and .path == "link:b"'
	check "and where the server is" on b event_after "$before_b" lane.allow '.kind == "stream" and .path == "link:a" and .workload == "tools"'
	sum=$(on b view lanes | jq '[.lanes[] | select(.kind == "stream")] | length')
	check_equal "its lane is gone from the list" 0 "$sum"
	out=$(on a sl explain web echo 2>&1) || true
	check_match "explain names the library's way" 'library +link: sealane_connect' "$out"
	check_match "and that only the library has one" 'only programs that use libsealane listen for it' "$out"
	check_match "nothing is missing for it" 'lacks +nothing' "$out"
	check_match "on the service's own host, too" 'no server on its socket file; 1 listening with libsealane' "$(on b sl explain web echo 2>&1)"
	out=$(on a ctr_exec web timeout 30 "${PY[@]}" -c '
import sealane
with sealane.connect("echo", kind=sealane.MESSAGES) as lane:
    lane.send(b"x" * 70000)
    assert lane.recv(timeout=10) == b"x" * 70000
    print(lane.peer.path, lane.peer.host)' 2>&1) || true
	check_equal "from Python" "link b" "$out"
}

test_who_may() {
	local before
	before=$(on b log_lines)
	check_fails "refused by the server's host, and the program is told" 'host b: .*does not allow it' on a tool intruder ping echo
	check "its log says why" within 3 on b event_after "$before" lane.deny \
		'(.source_id | endswith("/ns/default/svc/intruder")) and .why == "no intention allows it (default deny)"'
	check_fails "refused by the client's host" 'no intention allows.*default/stranger' on a tool stranger ping echo
	check_fails "a service nobody knows" 'nosuch' on a tool web ping nosuch
	check_fails "one that listens for another kind" 'messages, not streams' on a tool web pour echo 1
	check_fails "one that has only a socket file" 'libsealane' on a tool web ping plain
	on a ctr_exec web timeout 20 $CALLS subscribe rpc >"$T/sub" 2>&1 || true
	check_match "a fan-out stays on one host, and it says so" 'stays on one host' "$(cat "$T/sub")"
}

# ended NAME PID WHAT MS - waits for a client in the background that writes to $T/NAME; RC is its status.
ended() {
	prompt_begin
	RC=0
	wait "$2" || RC=$?
	check_prompt "$3" "$4"
}
talking() { # NAME - a client that talks until its lane ends, in the background
	on a ctr_exec web $TOOL talk echo >"$T/$1" 2>&1 &
	TALK=$!
	within 5 grep -q 'to default/echo' "$T/$1" || fail "$1 talks: $(cat "$T/$1")"
}

back() { on a tool web ping echo 1; }

test_cuts() {
	talking cut
	check "one row in the list, at the client's" on a lanes_is_one
	check "one at the server's" on b lanes_is_one
	on a sl intention deny web echo >/dev/null
	ended cut "$TALK" "deny, at the client's host, ends it" 1000
	check_equal "its program sees a cut" 3 "$RC"
	check_match "and is told why" 'no longer allowed' "$(cat "$T/cut")"
	on a sl intention rm web echo >/dev/null
	talking far
	on b sl intention deny web echo >/dev/null
	ended far "$TALK" "deny, at the server's host, too" 1000
	check_equal "its program sees a cut" 3 "$RC"
	check_match "and where" 'the other host has cut it' "$(cat "$T/far")"
	on b sl intention rm web echo >/dev/null
	check_match "and it goes on when it may again" 'ok 10' "$(on a tool web ping echo 10 2>&1)"
	on b sl intention allow web echo --strict --bytes-per-s 2000000 --open-lanes 2 >/dev/null
	check_match "strict, with limits: a link counts" 'ok 10' "$(on a tool web ping echo 10 2>&1)"
	check_fails "open_lanes of the server's host" 'limit' on a tool web hold echo 3 1
	t0=$(now_ms)
	on a tool web ping echo 4 500000 >/dev/null
	check "and bytes per second: 4 MB at 2 MB/s take their time" test $(($(now_ms) - t0)) -gt 1200
	on b sl intention rm web echo >/dev/null
}
lanes_is_one() { [ "$(lanes_of)" = 1 ] && view lanes | jq -e 'any(.lanes[]; .kind == "messages" and .bytes_up > 0)' >/dev/null; }

test_deaths() {
	local pid
	talking server
	on b ctr_kill cache
	ended server "$TALK" "the server's container killed: its client sees the end" 2000
	check_match "as an end" 'No data|Broken pipe|reset' "$(cat "$T/server")"
	check_fails "and new ones are told that nobody listens" 'listen|host b' on a tool web ping echo
	on b ctr_run cache $TOOL serve echo
	check "it comes again" within 10 back
	talking client
	pid=$(on a own_pid "^$TOOL talk echo")
	kill -KILL "$pid"
	wait "$TALK" || true
	check "a client killed: its lane is gone, at its host" within 3 lanes_are a 0
	check "and at the server's" within 3 lanes_are b 0
	talking linker
	kill -KILL "$(on a role_pid linker)"
	ended linker "$TALK" "a linker killed: the program sees its peer go" 2000
	check "the next one serves" within 10 back
	talking porter
	kill -KILL "$(on a role_pid porter)"
	sleep 0.5
	check "a porter killed: the lane goes on" kill -0 "$TALK"
	on a sl intention deny web echo >/dev/null
	ended porter "$TALK" "and can still be ended" 2500
	on a sl intention rm web echo >/dev/null
	check "a new porter serves" within 10 back
}

# What a container sent before its end arrives, also where the reader is much slower; and then the end.
test_leaving() {
	local sips="$HOSTS_DIR/b/c/sipper/out"
	sipped() { [ "$(grep -c "bytes, then" "$sips")" = "$1" ]; }
	on b ctr_run sipper $TOOL sip slow 50
	within 10 on b listens slow || fail "slow listens"
	within 10 on a knows slow || fail "a hears of slow"
	on a ctr_run sender $TOOL leave slow 1300
	check "a container that sends and ends: its reader is done" within 20 sipped 1
	check_equal "with all of it, and then the end" "1331200 bytes, then the end" "$(grep "bytes, then" "$sips" | tail -1)"
	check "the lane is gone, too" within 10 lanes_are a 0
	on b ctr_kill sipper
}

# Both ends only read a stream. Whatever goes between them, neither may take it for the end; nor the end for anything else.
hearing() { # NAME - as talking()
	N_ENDED=$(grep -c 'stream ended' "$HOSTS_DIR/b/c/tools/out" || true)
	on a ctr_exec web $TOOL hear stream >"$T/$1" 2>&1 &
	TALK=$!
	within 10 grep -q 'to default/stream' "$T/$1" || fail "$1 hears: $(cat "$T/$1")"
}
far_ended() { [ "$(grep -c 'stream ended' "$HOSTS_DIR/b/c/tools/out")" -gt "$N_ENDED" ]; }
both_cut() { # NAME WHAT
	ended "$1" "$TALK" "$2: the reader is told" 5000
	check_equal "no end, but a cut" 3 "$RC"
	check_match "with words about it" 'link|host|daemon' "$(cat "$T/$1")"
	check "so is the one at the far end" within 5 far_ended
	check_match "of a cut as well" 'ended: the lane was cut' "$(grep 'stream ended' "$HOSTS_DIR/b/c/tools/out" | tail -1)"
}
test_broken() {
	hearing dies
	kill -KILL "$(on a own_pid "^$TOOL hear stream")"
	wait "$TALK" || true
	check "a client killed: its server hears an end" within 3 far_ended
	check_match "an end in order, as on one host" 'ended: in order' "$(grep 'stream ended' "$HOSTS_DIR/b/c/tools/out" | tail -1)"
	hearing near_linker
	kill -KILL "$(on a role_pid linker)"
	both_cut near_linker "the linker of its host killed"
	within 10 back || fail "the next linker serves"
	hearing far_linker
	kill -KILL "$(on a role_pid porter)"
	porter_is_back() { [ -n "$(on a role_pid porter)" ] && back; }
	within 10 porter_is_back || fail "the next porter serves"
	kill -KILL "$(on b role_pid linker)"
	both_cut far_linker "a new porter, then the far linker killed"
	within 10 back || fail "the next far linker serves"
	hearing far_daemon
	on b host_kill TERM
	both_cut far_daemon "the far daemon told to stop"
	on b host_start
	within 20 back || fail "the daemon that came back serves"
}

test_many() {
	local out
	out=$(on a tool web hold echo 200 1 2>&1) || true
	check_match "200 lanes at a time" 'ok all 200 lanes answer' "$out"
	check "all are gone afterwards" within 5 lanes_are a 0
	check "and at the other host" within 5 lanes_are b 0
}

test_nearest() {
	on b ctr_run far $TOOL serve both
	within 10 on b listens both || fail "far listens"
	within 10 on a knows both || fail "a hears of it"
	check_match "an instance elsewhere" 'host=b path=link' "$(on a tool web ping both 2>&1)"
	on a ctr_run near $TOOL serve both
	within 10 on a listens both || fail "near listens"
	check_match "one on the own host is nearer" 'host=a path=shm' "$(on a tool web ping both 2>&1)"
}

test_partition() {
	talking apart
	cut_off b
	prompt_begin
	check_fails "the other host cannot be reached: told why, and before the time of the library is over" 'not answered|is not reached|host b' on a tool web ping echo
	check_prompt "in time" 5000
	heal b
	check "it can again: new ones come" within 20 back
	check "and the lane that was open goes on" kill -0 "$TALK"
	kill "$(on a own_pid "^$TOOL talk echo")" 2>/dev/null || true
	wait "$TALK" || true
}

for t in ${TESTS:-main_job who_may cuts deaths leaving broken many nearest partition}; do
	"test_$t"
done
