#!/bin/bash
# strict never takes the direct path; limits hold: open lanes, connections per second, bytes per second.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
e2e_start

host_up <<'CONF'
workload server { services = [ echo ] }
service echo { socket_path = "echo.sock" }
service plain { upstream echo {} }
service strict { upstream echo {} }
service few { upstream echo {} }
service slow { upstream echo {} }
service rare { upstream echo {} }
intention { source = plain   destination = echo  action = allow }
intention { source = strict  destination = echo  action = allow  strict = true }
intention { source = few     destination = echo  action = allow  limits { open_lanes = 3 } }
intention { source = slow    destination = echo  action = allow  limits { bytes_per_s = 1mb } }
intention { source = rare    destination = echo  action = allow  limits { connections_per_s = 5 } }
CONF
ctr_run server "$PYTHON" /e2e/peer.py echo /run/sealane/serve/echo.sock
within 10 service_is_up echo
for c in plain strict few slow rare; do
	ctr_run $c sleep 1d
done
S=/run/sealane/echo.sock

check_equal "explain: plain" direct "$(route_of plain echo)"
check_equal "explain: strict" relay "$(route_of strict echo)"
check_equal "explain: bytes_per_s demands the relay" relay "$(route_of slow echo)"
for c in plain strict; do
	mkfifo "$T/$c.fifo"
	ctr_peer $c many "$S" 2 hold <"$T/$c.fifo" >"$T/$c.out" 2>&1 &
	exec {fd}>"$T/$c.fifo"
	eval "${c}_fd=$fd"
	within 5 grep -q 'open and good' "$T/$c.out" || fail "$c has two connections"
	check_equal "ls lanes: $c" "2 $(route_of $c echo)" \
		"$(sl --json ls lanes | jq -r --arg c $c '[.lanes[] | select(.client.workload == $c) | .path] | "\(length) \(unique | join(","))"')"
done
# shellcheck disable=SC2154 # set by eval above
exec {plain_fd}>&- {strict_fd}>&-
wait_lanes_gone() { [ "$(api /v1/lanes | jq '.lanes | length')" = 0 ]; }
check "lanes are gone when their ends are" within 5 wait_lanes_gone

check_match "three lanes are within open_lanes = 3" '3 open and good' "$(ctr_peer few many "$S" 3 2>&1)"
within 5 wait_lanes_gone || true
check_not "a fourth is refused" ctr_peer few many "$S" 4
check_match "with the limit in the log" 'open_lanes' "$(events lane.deny | tail -1)"
within 5 wait_lanes_gone || true
check_match "and there is room again afterwards" '3 open and good' "$(ctr_peer few many "$S" 3 2>&1)"

# 2 MiB up and 2 MiB back at 1 MiB/s for both together: about 4 s less one burst.
prompt_begin
seconds=$(ctr_peer slow slow "$S" 2097152 2>&1)
check_match "a limited lane carries all its bytes" '^[0-9.]+$' "$seconds"
check_below "not faster than bytes_per_s" "$seconds" 2
check_prompt "nor much slower" 8000

out=$(ctr_peer rare churn "$S" 3 2>&1)
good=${out%% good*}
check_below "connections_per_s = 5 over 3 s ($out)" 26 "$good"
check_below "and they are not all refused" "$good" 4
