#!/bin/bash
# 10,000 open connections on the direct path, 5,000 through the relay; all of them work, all are gone afterwards.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
e2e_start

limit=$(ulimit -Hn)
[ "$limit" = unlimited ] || [ "$limit" -ge 12000 ] || skip "the hard limit of open files is $limit; 12,000 are needed"
ulimit -n "$limit"
host_up <<'CONF'
workload server { services = [ echo ] }
service echo { socket_path = "echo.sock" }
service direct { upstream echo {} }
service relay { upstream echo {} }
intention { source = direct  destination = echo  action = allow }
intention { source = relay   destination = echo  action = allow  strict = true }
CONF
ctr_run server "$PYTHON" /e2e/peer.py echo /run/sealane/serve/echo.sock
within 10 service_is_up echo
ctr_run direct sleep 1d
ctr_run relay sleep 1d
idle_fds() { roles | while read -r pid role; do echo "$role $(fds_of "$pid")"; done | sort | xargs; }
fds_before=$(idle_fds)
for c in "direct 10000" "relay 5000"; do
	# shellcheck disable=SC2086 # two words
	set -- $c
	mkfifo "$T/$1.fifo"
	ctr_peer "$1" many /run/sealane/echo.sock "$2" hold <"$T/$1.fifo" >"$T/$1.out" 2>&1 &
	client=$!
	exec {hold}>"$T/$1.fifo"
	if within 120 grep -q 'open and good' "$T/$1.out"; then
		ok "$1: $(cat "$T/$1.out")"
	else
		fail "$1: $2 connections"
		tail -3 "$T/$1.out"
	fi
	t0=$(now_ms)
	check_equal "$1: ls lanes lists them" "$2" "$(sl --json ls lanes | jq --arg p "$1" '[.lanes[] | select(.path == $p)] | length')"
	note "$1: listing took $(($(now_ms) - t0)) ms; memory $(roles | while read -r pid role; do printf '%s %s KiB  ' "$role" "$(rss_kib "$pid")"; done)"
	check "$1: the daemon still answers" sl status
	exec {hold}>&-
	wait "$client" || true
	lanes_gone() { [ "$(api /v1/lanes | jq '.lanes | length')" = 0 ]; }
	check "$1: all are gone afterwards" within 15 lanes_gone
done
same_fds() { [ "$(idle_fds)" = "$fds_before" ]; }
check "no descriptor is left behind ($fds_before)" within 5 same_fds
note "now: $(idle_fds)"
