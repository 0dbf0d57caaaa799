#!/bin/bash
# What a unit of the test machine starts when systemd is its first process (systemd.sh): as init.sh, run the one program, tell its
# status on the second serial line, power off.
set -euo pipefail
exec </dev/null >/dev/console 2>&1
for m in /modules/*.ko; do
	[ ! -f "$m" ] || /test/busybox insmod "$m" || echo "vm: cannot load $m"
done
echo "vm: Linux $(uname -r), $(systemctl --version | head -n 1)"
mapfile -t argv </test/argv
cd /test
rc=0
"${argv[@]}" || rc=$?
echo "$rc" >/dev/ttyS1
sync
systemctl poweroff 2>/dev/null # logind is not there to be asked
