#!/bin/bash
# The example programs of examples/lanes, with their own configuration, in containers without a network.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
e2e_start
CTR_OPTIONS=(--ro "$BUILD:/build" --ro "$ROOT:/src")
EXAMPLE=/build/tests/client/example
PY=(env PYTHONPATH=/src/python SEALANE_LIBRARY=/build/src/client/libsealane.so.0 PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3)

check_not "its configuration has no warnings" grep -qi warning <("$SEALANED" --check "$ROOT/examples/lanes/lanes.conf" 2>&1)
host_up <"$ROOT/examples/lanes/lanes.conf"
ctr_run client sleep 1d
server() { # PROGRAM... - as the container's only one
	ctr_kill server 2>/dev/null || true
	ctr_run server "$@"
}
client() { ctr_exec client timeout 20 "$@" 2>&1; }
# The same words from each client to each server: one that does not listen yet gives NO_SERVICE.
converse() { # SERVER
	local what client
	for what in "C:${EXAMPLE}_echo_client" "static C:${EXAMPLE}_static" "C++:${EXAMPLE}_echo_client_cpp" "Python:${PY[*]} /src/examples/lanes/echo_client.py"; do
		# shellcheck disable=SC2206 # a command line
		client=(${what#*:})
		if [ "${what%%:*}" = C++ ] && [ ! -e "$BUILD/tests/client/example_echo_client_cpp" ]; then
			note "no C++ compiler: $what is not there"
			continue
		fi
		within 10 client "${client[@]}" echo ready || true
		check_match "a client in ${what%%:*} talks to $1" "connected to default/echo.*workload server.*hello.*world" \
			"$(client "${client[@]}" echo hello world || true)"
	done
}
server ${EXAMPLE}_echo_server echo
converse "echo_server.c"
check_match "the server knows who came" 'lane [0-9a-f]{16} from default/client, spiffe://sealane.local/ns/default/svc/client' "$(cat "$CTR_DIR/server/out")"
server ${EXAMPLE}_epoll_server echo
converse "epoll_server.c"
server "${PY[@]}" /src/examples/lanes/echo_server.py echo
converse "echo_server.py"
server "${PY[@]}" /src/examples/lanes/echo_asyncio.py echo
converse "echo_asyncio.py"
check_equal "no server had anything to complain of" "" "$(grep -v '^lane ' "$CTR_DIR/server/out" || true)"

head -c 20000000 /dev/urandom >"$T/blob"
server sh -c "${EXAMPLE}_stream listen bytes </dev/null | sha256sum; sleep 1d"
sent() { client ${EXAMPLE}_stream connect bytes <"$T/blob" >/dev/null; }
check "stream.c sends 20 MB" within 10 sent
summed() { grep -q "^$(sha256sum <"$T/blob" | cut -d' ' -f1)" "$CTR_DIR/server/out"; }
check "and the same arrive" within 5 summed

server ${EXAMPLE}_zero_copy receive frames
framed() { client ${EXAMPLE}_zero_copy send frames; }
check "zero_copy.c sends its frames" within 10 framed
counted() { grep -qx '1000 frames, sum 12471600000' "$CTR_DIR/server/out"; }
check "and each pixel arrives" within 5 counted

summed_squares() { # PROGRAM...
	within 10 client "$@" call echo || true
	client "$@" call echo || true
}
server ${EXAMPLE}_calls serve echo
answers='the sum of the first 100 squares is 328350.*the root of 2: error 1, its root is no whole number'
check_match "calls.c calls calls.c" "$answers" "$(summed_squares ${EXAMPLE}_calls)"
check_match "calls.py calls calls.c" "$answers" "$(summed_squares "${PY[@]}" /src/examples/lanes/calls.py)"
server "${PY[@]}" /src/examples/lanes/calls.py serve echo
check_match "calls.c calls calls.py" "$answers" "$(summed_squares ${EXAMPLE}_calls)"
check_match "calls.py calls calls.py" "$answers" "$(summed_squares "${PY[@]}" /src/examples/lanes/calls.py)"

ticks() { # PROGRAM...
	within 10 client "$@" subscribe ticks || true
	client "$@" subscribe ticks || true
}
ticked='(tick [0-9]+ of default/ticks.){10}missed: 0'
server ${EXAMPLE}_publish publish ticks
check_match "publish.c subscribes to publish.c" "$ticked" "$(ticks ${EXAMPLE}_publish)"
check_match "publish.py subscribes to publish.c" "$ticked" "$(ticks "${PY[@]}" /src/examples/lanes/publish.py)"
server "${PY[@]}" /src/examples/lanes/publish.py publish ticks
check_match "publish.c subscribes to publish.py" "$ticked" "$(ticks ${EXAMPLE}_publish)"
check_match "publish.py subscribes to publish.py" "$ticked" "$(ticks "${PY[@]}" /src/examples/lanes/publish.py)"
