#!/bin/bash
# Streams as applications use them: half-close, the server closing first, large writes, descriptors, on both paths.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
e2e_start

host_up <<'CONF'
workload server { services = [ echo, greet, sink ] }
service echo { socket_path = "echo.sock" }
service greet { socket_path = "greet.sock" }
service sink { socket_path = "sink.sock" }
service direct { upstream echo {} upstream greet {} upstream sink {} }
service relay { upstream echo {} upstream greet {} upstream sink {} }
intention { source = direct  destination = "*"  action = allow }
intention { source = relay   destination = "*"  action = allow  strict = true }
CONF
ctr_run server sh -c '
	python3 /e2e/peer.py echo /run/sealane/serve/echo.sock &
	python3 /e2e/peer.py greet /run/sealane/serve/greet.sock &
	python3 /e2e/peer.py sink /run/sealane/serve/sink.sock &
	wait'
for s in echo greet sink; do
	within 10 service_is_up $s || fail "$s comes up"
done
head -c 20000000 /dev/urandom >"$T/blob"
for c in direct relay; do
	ctr_run $c sleep 1d
	check_equal "$c: the path" $c "$(route_of $c echo)"
	check_equal "$c: half-close, and what follows still comes" "some words" "$(ctr_peer $c ask /run/sealane/echo.sock 'some words')"
	check_equal "$c: 64 MiB, half-close, same bytes" same "$(ctr_peer $c half /run/sealane/echo.sock 67108864 2>&1)"
	check_equal "$c: the server closes first" hello "$(ctr_peer $c ask /run/sealane/greet.sock '')"
	check_equal "$c: only the answer after the whole question" "$(sha256sum <"$T/blob" | cut -d' ' -f1)" \
		"$(ctr_exec $c python3 -c '
import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect("/run/sealane/sink.sock"); s.sendall(sys.stdin.buffer.read())
s.shutdown(socket.SHUT_WR); print(s.recv(100).decode())' <"$T/blob")"
	out=$(ctr_peer $c pass /run/sealane/echo.sock 2>&1)
	note "$c: passing a descriptor: $out"
done
check_match "relay: a passed descriptor is refused" 'closed|refused' "$out"
# Where the kernel refuses it at the sender (Linux 6.16), there is nothing to log.
case $out in
refused*EPERM* | refused*"not permitted"*) ;;
*) check_match "and the log says why" 'fds|SCM_RIGHTS|descriptor' "$(events lane.close | grep -i 'relay\|fds' | tail -1)$(events lane.cut | tail -1)" ;;
esac
lanes_gone() { [ "$(api /v1/lanes | jq '.lanes | length')" = 0 ]; }
check "no lane is left" within 5 lanes_gone
