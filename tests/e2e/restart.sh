#!/bin/bash
# The daemon goes and comes: open direct connections live on, new ones wait, socket files keep their inodes, and bind mounts
# into running containers stay good. SIGHUP takes a new configuration whole or keeps the old one whole.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
e2e_start

conf() {
	cat <<-CONF
	restart_grace = 20s
	workload cache { services = [ redis ] }
	service redis { socket_path = "redis.sock" }
	service web { upstream redis {} }
	service late { upstream redis {} }
	service careful { upstream redis {} }
	intention { source = web  destination = redis  action = allow }
	intention { source = careful  destination = redis  action = allow  strict = true }
	CONF
}
host_up < <(conf)
redis_run cache
ctr_run web sleep 1d
ctr_run careful sleep 1d
ctr_run late sleep 1d
inodes() { (cd "$T/run/w" && find . -name '*.sock' -printf '%p %i\n' | sort); }
route=$(route_of web redis)
sl intention allow late redis >/dev/null

ctr_exec web redis-cli -s /run/sealane/redis.sock SUBSCRIBE news >"$T/sub" 2>&1 &
sub=$!
within 5 grep -q subscribe "$T/sub"
before=$(inodes)
dir_before=$(stat -c %i "$T/run/w/web")

host_kill KILL
check_equal "daemon killed: socket files stay" "$before" "$(inodes)"
if [ "$route" = direct ]; then
	check "the open direct connection lives on" kill -0 "$sub"
	check_equal "and new direct ones are made by the kernel" PONG "$(redis_in web PING)"
fi
# Through the gate a new connection waits for the next daemon.
(redis_in careful PING >"$T/waited" 2>&1 || true) &
waiter=$!
sleep 0.5
check_equal "a new one through the gate waits" "" "$(cat "$T/waited")"
host_start
wait "$waiter" || true
check_equal "until the next daemon serves it" PONG "$(cat "$T/waited")"
check_equal "same inodes of socket files" "$before" "$(inodes)"
check_equal "same directory" "$dir_before" "$(stat -c %i "$T/run/w/web")"
check_equal "bind mounts stay good" PONG "$(redis_in careful PING)"
check_equal "who was enrolled still is" PONG "$(redis_in web PING)"
check_equal "run-time intentions survived" PONG "$(redis_in late PING)"
if [ "$route" = direct ]; then
	redis_in web PUBLISH news extra >/dev/null
	check "the old connection still carries messages" within 3 grep -q extra "$T/sub"
	lane_is_listed() { sl --json ls lanes | jq -e '.lanes[] | select(.path == "direct" and .client.workload == "web")' >/dev/null; }
	check "the new daemon knows it" within 3 lane_is_listed
fi

for round in 1 2; do
	host_kill TERM
	check_equal "SIGTERM $round: socket files stay" "$before" "$(inodes)"
	host_start
	check_equal "after it: a direct and a relayed one" "PONG PONG" "$(redis_in web PING) $(redis_in careful PING)"
done
if [ "$route" = direct ]; then
	check "the old connection outlived three daemons" kill -0 "$sub"
	prompt_begin
	sl intention deny web redis >/dev/null
	wait "$sub" || true
	check_prompt "and the fourth can cut it" 1000
	sl intention rm web redis >/dev/null
fi

# Reload: good, then bad.
{ conf; echo 'service newcomer { upstream redis {} }'; echo 'intention { source = newcomer  destination = redis  action = allow }'; } >"$T/new"
{ echo 'cdi_dir = off'; cat "$T/new"; } >"$T/sealane.conf"
kill -HUP "$D_PID"
newcomer() { test -S "$T/run/w/newcomer/redis.sock"; }
check "SIGHUP takes the new file" within 5 newcomer
ctr_run newcomer sleep 1d
check_equal "and the new workload works" PONG "$(redis_in newcomer PING)"
check_equal "the others' socket files are the same" "$before" "$(inodes | grep -v newcomer)"

{ echo 'cdi_dir = off'; cat "$T/new"; echo 'service web2 { upsteam redis {} }'; } >"$T/sealane.conf"
line=$(wc -l <"$T/sealane.conf")
check_fails "a bad file is refused, with file, line and key" "sealane.conf:$line.*upsteam" sl reload
check_equal "the old configuration holds" PONG "$(redis_in newcomer PING)"
check_not "--check refuses it too" "$SEALANED" --check -c "$T/sealane.conf"
rc=0
said=$("$SEALANED" -c "$T/sealane.conf" --run-dir "$T/never" --state-dir "$T/never-state" --user nobody 2>&1 </dev/null) || rc=$?
check_equal "a daemon does not start with it: exit status" 78 "$rc"
check_match "and says file, line and key" "sealane.conf:$line.*upsteam" "$said"
check_not "and made nothing" test -e "$T/never"
# Taken out for a moment, under a running container: its mount must be good when it comes back.
{ echo 'cdi_dir = off'; conf | grep -v 'service web '; } >"$T/sealane.conf"
check "a file without web is taken" sl reload
check_not "web's socket files are gone" redis_in web PING
{ echo 'cdi_dir = off'; cat "$T/new"; } >"$T/sealane.conf"
check "and with it again" sl reload
check_equal "the running container has its socket again" PONG "$(redis_in web PING)"
{ cat "$T/sealane.conf"; echo 'service web2 { upsteam redis {} }'; } >"$T/bad" && cp "$T/bad" "$T/sealane.conf"
kill -HUP "$D_PID"
sleep 0.5
check_equal "SIGHUP with it changes nothing" PONG "$(redis_in web PING)"
{ echo 'cdi_dir = off'; conf; } >"$T/sealane.conf"
check "back to the first" sl reload
gone() { ! test -e "$T/run/w/newcomer/redis.sock"; }
check "what was taken out is gone" within 5 gone

# The keeper does not wait for ever.
sed -i 's/restart_grace = 20s/restart_grace = 2s/' "$T/sealane.conf"
sl reload >/dev/null
host_kill KILL
cleaned() { ! test -S "$T/run/w/careful/redis.sock"; }
check "without a daemon the keeper removes its sockets after restart_grace" within 8 cleaned
