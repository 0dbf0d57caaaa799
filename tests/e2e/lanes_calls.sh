#!/bin/bash
# Calls and fan-out between containers, through the daemon: one region handed out to several subscribers, an intention that goes.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
e2e_start
TOOL=/tool/calltool
CTR_OPTIONS=(--ro "$BUILD/tests/e2e:/tool")

host_up <<'CONF'
service rpc {}
service feed {}
service a {}
service b {}
service c {}
intention { source = a  destination = rpc  action = allow }
intention { source = a  destination = feed  action = allow }
intention { source = b  destination = feed  action = allow }
intention { source = c  destination = feed  action = allow }
CONF
ctr_run rpc $TOOL answer rpc
ctr_run feed $TOOL publish feed 4000
for name in a b c; do ctr_run $name sleep 1d; done
tool() { ctr_exec "$1" $TOOL "${@:2}"; }
check "the server listens" within 10 grep -q listening "$CTR_DIR/rpc/out"
check "the publisher listens" within 10 grep -q publishing "$CTR_DIR/feed/out"
pids=()
for name in a b c; do
	tool $name subscribe feed "$([ $name = b ] && echo 100)" >"$T/$name.out" 2>&1 &
	pids+=($!)
done
for name in a b c; do check "$name subscribes" within 3 grep -q 'from default/feed' "$T/$name.out"; done
check_match "calls and their errors" 'ok 1000 calls, and the error is as it should \(7\)' "$(tool a ask rpc 500)"
check_fails "who may not call" 'no intention' tool c ask rpc 1
sl intention deny c feed >/dev/null
check "one whose intention goes is cut" within 3 grep -q 'cut' "$T/c.out"
for pid in "${pids[@]}"; do wait "$pid" || true; done # c fails, as it should
check_match "a quick one misses nothing" 'the end after 3999: read [0-9]+ missed none' "$(cat "$T/a.out")"
check_match "a slow one knows that it did" 'the end after 3999: read [0-9]+ missed some' "$(cat "$T/b.out")"
check_match "the publisher forgot the one that was cut" '2 subscribers at the end' "$(cat "$CTR_DIR/feed/out")"
