#!/bin/sh
# test_bench_rdma.sh SEALANE [ring] - `sealane bench rdma` on one host, between two ends, and with what it should refuse. Without a device all of it is
# served. ring: this build has one (OpenSSL).
set -eu
sealane=$1 ring=${2:-}
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM HUP

fail() { echo "test_bench_rdma: $*" >&2; cat "$dir"/* >&2; exit 1; }

refused() { # WHAT-IT-SAYS ARGUMENT...
	says=$1
	shift
	! "$sealane" bench "$@" >"$dir/out" 2>&1 || fail "this went through: $*"
	grep -q -- "$says" "$dir/out" || fail "it does not say '$says': $*"
}

# served or not: every row has figures above zero, and each kind is there
"$sealane" bench rdma --json --time 300ms >"$dir/json" || fail "on one host"
for what in READ WRITE compare-and-swap 'WRITE with immediate' $ring; do
	grep -q "\"what\":\"$what" "$dir/json" || fail "no $what"
done
! grep -qE '"p50_ns":(0|-)' "$dir/json" || fail "a round trip that took no time"
grep -qE '"backend":"(served|verbs)"' "$dir/json" || fail "which backend?"

# listen - a server in the background, at a $port that nobody has, found by trying
listen() {
	for port in $(seq $((20000 + $$ % 10000)) 13 32000); do
		"$sealane" bench rdma --listen "127.0.0.1:$port" --wait block >"$dir/server" 2>&1 &
		server=$!
		for _ in $(seq 200); do
			! grep -q Waiting "$dir/server" || return 0
			kill -0 "$server" 2>/dev/null || break
			sleep 0.05
		done
		server=
		grep -q 'Address already in use' "$dir/server" || fail "it does not listen"
	done
}

# between two
listen
"$sealane" bench rdma --connect "127.0.0.1:$port" --wait block --time 300ms >"$dir/client" 2>&1 || fail "between two ends"
grep -q "^${ring:-WRITE}, " "$dir/client" || fail "no ${ring:-WRITE} between two ends"
wait "$server" || fail "the server did not end well"
server=

# somebody else came
listen
python3 -c 'import socket, sys; socket.create_connection(("127.0.0.1", int(sys.argv[1]))).sendall(b"GET / HTTP/1.1\r\n" * 20)' "$port"
! wait "$server" || fail "the server took it for a client"
server=
grep -q 'it is no `sealane bench`' "$dir/server" || fail "the server does not say who came"

refused 'has to run there' rdma --connect "127.0.0.1:$port"
refused 'is no address' rdma --connect somewhere
refused 'not "tcp"' tcp
refused '--listen on one host' rdma --listen 127.0.0.1 --connect 127.0.0.1
refused 'for `sealane bench rdma`' --listen 127.0.0.1
