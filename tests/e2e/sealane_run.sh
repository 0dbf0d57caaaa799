#!/bin/bash
# `sealane run`: a workload without an engine: its own cgroup and namespaces, gone when the command ends.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
e2e_start

host_up <<'CONF'
workload cache { services = [ redis ] }
service redis { socket_path = "redis.sock" }
service web { upstream redis {} }
service intruder { upstream redis {} }
intention { source = web  destination = redis  action = allow }
CONF
# Others on this machine may use sealane too: only what comes in this test counts.
cgroups() { find "$(ctr_cgroup2)/sealane" -mindepth 1 -maxdepth 1 -name '*-*' 2>/dev/null | sort | grep -vxFf "$T/others" || true; }
: >"$T/others"
cgroups >"$T/others.now"
mv "$T/others.now" "$T/others"
cgroups_before=$(cgroups)
"$SEALANE" --socket "$SOCK" run --service redis -- redis-server --port 0 --unixsocket /run/sealane/serve/redis.sock --unixsocketperm 777 --save '' \
	--dir /tmp >"$T/server.out" 2>&1 &
server=$!
check "a server under sealane run" within 10 service_is_up redis
check_equal "a client under sealane run" PONG "$(sl run --service web -- redis-cli -s /run/sealane/redis.sock PING 2>&1)"
check_not "one without an intention is refused" sl run --service intruder -- redis-cli -s /run/sealane/redis.sock PING
check_equal "no network inside" lo "$(sl run --service web -- ls /sys/class/net 2>&1 | xargs)"
check_equal "a PID namespace of its own" yes \
	"$(sl run --service web -- sh -c '[ "$(ls -d /proc/[0-9]* | wc -l)" -lt 6 ] && echo yes' 2>&1)"
rc=0
sl run --service web -- sh -c 'exit 42' >/dev/null 2>&1 || rc=$?
check_equal "the command's exit status" 42 "$rc"
check_fails "a service nobody knows" 'nobody-knows' sl run --service nobody-knows -- true
# With a root file system of its own: nothing of the host may be in reach. The command has init's uid, so what init holds counts.
JAIL=$T/jail
mkdir -p "$JAIL/bin" "$JAIL/tmp"
for program in sh ls cat readlink; do
	cp -L "$(command -v $program)" "$JAIL/bin/$program"
	ldd "$JAIL/bin/$program" | grep -o '/[^ ]*' | while read -r lib; do cp -L --parents "$lib" "$JAIL"; done
done
echo host >"$T/only-on-the-host"
cat >"$JAIL/probe.sh" <<'SH'
up=
for i in 1 2 3 4 5 6 7 8 9 10; do
	up=$up/..
	for start in /proc/1/fd/* /proc/1/root /proc/1/cwd /proc/1/exe /proc/self/fd/*; do
		[ ! -e "$start$up$1" ] || echo "reached over $start$up"
	done
done
for link in /proc/1/fd/* /proc/1/root /proc/1/cwd /proc/1/exe; do
	! readlink "$link" >/dev/null || echo "readable: $link"
done
for file in environ maps mem; do
	! cat "/proc/1/$file" >/dev/null 2>&1 || echo "readable: /proc/1/$file"
done
readlink /proc/self/exe >/dev/null || echo "the command is not its own"
echo 1 2>/dev/null >/proc/sys/kernel/hostname && echo "/proc/sys is writable"
echo probed
SH
jailed() { sl run --service web --rootfs "$JAIL" -- "$@" 2>/dev/null; }
check_equal "--rootfs: the host is out of reach" probed "$(jailed /bin/sh /probe.sh "$T/only-on-the-host")"
check_equal "no descriptors but the three" "0 1 2 3" "$(jailed /bin/ls /proc/self/fd 9</ 8<"$T" | xargs)"
check_equal "nor where the caller has closed one" "0 1 2 3" "$(jailed /bin/ls /proc/self/fd <&- | xargs)"
check_equal "a closed one leads nowhere" /dev/null "$(jailed /bin/readlink /proc/self/fd/0 <&- | xargs)"
check_fails "a directory as standard input" 'descriptor 0' sl run --service web --rootfs "$JAIL" -- /bin/ls <"$T"
check_equal "the workload's directory is read-only" "" "$(jailed /bin/sh -c 'echo 2>/dev/null >/run/sealane/x && echo written')"
check_match "and nothing in it is run" 'ro,nosuid,nodev,noexec' "$(jailed /bin/cat /proc/self/mounts | grep ' /run/sealane ')"
mkfifo "$T/fifo"
"$SEALANE" --socket "$SOCK" run --service web -- redis-cli -s /run/sealane/redis.sock SUBSCRIBE news >"$T/sub" 2>&1 <"$T/fifo" &
client=$!
exec {hold}>"$T/fifo"
within 5 grep -q subscribe "$T/sub" || fail "a long-lived client"
lane() { sl --json ls lanes | jq -e '.lanes[] | select(.client.workload == "web" or .client.service == "default/web")' >/dev/null; }
check "ls lanes shows it" within 3 lane
kill -TERM "$client"
wait "$client" 2>/dev/null || true
exec {hold}>&-
no_lane() { ! lane; }
check "it ends with its sealane run" within 5 no_lane
kill -TERM "$server"
wait "$server" 2>/dev/null || true
down() { ! service_is_up redis; }
check "so does the server" within 5 down
absent() { [ "$(api /v1/workloads | jq '[.workloads[] | select(.state == "running")] | length')" = 0 ]; }
check "no workload is left running" within 5 absent
check_equal "no cgroup is left" "$cgroups_before" "$(cgroups)"
# Where systemd is the first process all mounts are shared.
# shellcheck disable=SC2016 # for the inner shell
left=$(unshare --mount --propagation unchanged sh -ec 'mount --make-rshared /
	"$1" --socket "$2/run/admin.sock" run --service redis -- ls /run/sealane
	grep -F "$2/run/w/" /proc/self/mountinfo || true' sh "$SEALANE" "$T" 2>&1)
check_equal "with shared mounts, too, nothing is mounted on the host" "$(printf "control.sock\nserve")" "$left"
