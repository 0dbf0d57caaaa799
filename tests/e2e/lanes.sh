#!/bin/bash
# Lanes in shared memory between programs that link the library, in containers without a network: who is who, who may, what is
# cut, what outlives a daemon, what a death leaves behind.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
e2e_start
TOOL=/tool/lanetool
CTR_OPTIONS=(--ro "$BUILD/tests/e2e:/tool")

host_up <<'CONF'
restart_grace = 20s
workload cache { services = [ echo ] }
workload plain { services = [ files ] }
service echo {}
service files { socket_path = "files.sock" }
service web {}
service intruder {}
service careful {}
intention { source = web  destination = echo  action = allow }
intention { source = web  destination = files  action = allow }
intention { source = careful  destination = echo  action = allow  strict = true }
CONF
ctr_run cache $TOOL serve echo
within 10 grep -q listening "$CTR_DIR/cache/out" || { fail "the server listens"; cat "$CTR_DIR/cache/out"; exit 1; }
ok "the server listens"
for name in web intruder careful; do ctr_run $name sleep 1d; done
tool() { ctr_exec "$1" $TOOL "${@:2}"; }
n_lanes() { sl --json ls lanes | jq '[.lanes[] | select(.path == "shm")] | length'; }
lanes_are() { [ "$(n_lanes)" = "$1" ]; }

note "who may"
out=$(tool web ping echo 1000 64)
check_match "1000 messages there and back" 'ok 1000 messages of 64 bytes' "$out"
check_match "the client knows whom it talks to" 'to default/echo spiffe://[^ ]*/ns/default/svc/echo workload=cache host=[^ ]+ path=shm' "$out"
check_match "the server knows who came" 'from default/web spiffe://[^ ]*/ns/default/svc/web workload=web host=[^ ]+ path=shm' \
	"$(cat "$CTR_DIR/cache/out")"
check_match "a message larger than the ring" 'ok 3 messages of 500000' "$(tool web ping echo 3 500000)"
check "its lanes are gone from the list" within 3 lanes_are 0
check_fails "intruder is refused, and told why" 'no intention allows it.*default/intruder.*default/echo' tool intruder ping echo
check_match "the log names both services and the rule" '"source":"(default/)?intruder".*"destination":"(default/)?echo".*default deny' \
	"$(events lane.deny | tail -1)"
check_match "explain says why" 'deny' "$(sl explain intruder echo 2>&1 || true)"
check_fails "a service nobody knows" 'nosuch' tool web ping nosuch
check_fails "a service without a listener of this library" 'files.*(listen|socket)' tool web ping files
check_fails "a strict intention has no shared memory" 'strict' tool careful ping echo
check_fails "a program that offers what its workload does not" 'echo' tool web serve echo
check_fails "outside of a container there is no daemon" 'control.sock' env SEALANE_DIR=/nonexistent "$BUILD/tests/e2e/lanetool" ping echo
check_fails "a process outside of the workload's cgroup, over its directory" 'echo|cgroup|workload' \
	env SEALANE_DIR="$T/run/w/web" "$BUILD/tests/e2e/lanetool" ping echo

note "changes hold at once"
sl intention allow intruder echo >/dev/null
ctr_exec intruder $TOOL talk echo >"$T/talk" 2>&1 &
talk=$!
check "allowed, it works at once" within 5 grep -q 'to default/echo' "$T/talk"
check "ls lanes shows it" within 3 lanes_are 1
both_are_shown() { [[ $(sl --json ls lanes | jq -c '.lanes[] | "\(.client.workload | tojson) \(.server.workload | tojson) \(.messages_up // .reads_up // .bytes_up)"' -r) =~ ^\"intruder\"\ \"cache\"\ [1-9] ]]; }
check "with both ends and messages" within 5 both_are_shown
prompt_begin
sl intention deny intruder echo >/dev/null
rc=0
wait $talk || rc=$?
check_prompt "deny cuts it" 1000
check_equal "the program learns that it was cut" 3 "$rc"
check_match "and by what" 'cut' "$(cat "$T/talk")"
there_is_a_cut() { [ "$(n_events lane.cut)" -ge 1 ]; }
check "a lane.cut event" within 2 there_is_a_cut
check_fails "and no new one" 'no intention' tool intruder ping echo
check_match "web is not touched" 'ok 10' "$(tool web ping echo 10)"

note "the daemon goes and comes"
ctr_exec web $TOOL talk echo >"$T/talk2" 2>&1 &
talk=$!
check "a lane is open" within 5 lanes_are 1
host_kill KILL
sleep 1
check "the daemon killed: it goes on" kill -0 $talk
check_fails "a new one is refused clearly" 'no daemon|no answer' tool web ping echo
host_start
check "the next daemon has it in its list" within 5 lanes_are 1
check "and it still goes on" kill -0 $talk
back() { tool web ping echo 10 >/dev/null; }
check "the server takes lanes again" within 10 back
sl intention deny web echo >/dev/null
rc=0
wait $talk || rc=$?
check_equal "the next daemon can cut it" 3 "$rc"
sl intention allow web echo >/dev/null

note "death"
ctr_exec web $TOOL talk echo >"$T/talk3" 2>&1 &
talk=$!
within 5 grep -q 'to default/echo' "$T/talk3"
pid=$(own_pid "^$TOOL talk echo")
kill -KILL "$pid"
wait $talk || true
check "a client killed: its lane is gone from the list" within 3 lanes_are 0
check_match "and the server goes on" 'ok 10' "$(tool web ping echo 10)"
ctr_exec web $TOOL talk echo >"$T/talk4" 2>&1 &
talk=$!
within 5 grep -q 'to default/echo' "$T/talk4"
prompt_begin
ctr_kill cache
wait $talk || true
check_prompt "a server killed: its client sees the end" 2000
check_match "as an end, not as an error of its own" 'No data|Broken pipe' "$(cat "$T/talk4")"
check_fails "and new ones are told that nobody listens" 'listen' tool web ping echo
