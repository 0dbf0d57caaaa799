#!/bin/sh
# check_metrics.sh PROGRAM: start PROGRAM SOCKET (fake-admin), ask it for /metrics, let promtool judge the answer.
set -eu
command -v promtool >/dev/null || { echo "skip: promtool (Debian: prometheus) is not installed"; exit 77; }
command -v curl >/dev/null || { echo "skip: curl is not installed"; exit 77; }
dir=$(mktemp -d)
"$1" "$dir/admin.sock" 2>/dev/null &
pid=$!
trap 'kill $pid; wait $pid || true; rm -rf "$dir"' EXIT
i=0
until curl -sf --unix-socket "$dir/admin.sock" http://sealane/metrics >"$dir/metrics"; do
	i=$((i + 1))
	[ $i -lt 300 ] || { echo "$1 does not answer"; exit 1; }
	sleep 0.1
done
# promtool prints its advice on standard error and may still exit with 0: any line is a failure.
promtool check metrics <"$dir/metrics" >"$dir/advice" 2>&1 || { cat "$dir/advice"; exit 1; }
[ ! -s "$dir/advice" ] || { cat "$dir/advice"; exit 1; }
echo "$(grep -vc '^#' "$dir/metrics") samples, promtool has nothing to say"
