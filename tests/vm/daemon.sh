#!/bin/sh
# The whole daemon with the kernel guard, on a kernel that takes LSM programs (Debian 12's is also an old one, SO_PEERCRED): runs
# as root inside the test machine (run.sh), whose /test holds sealaned, sealane, vm_peer, redis-server and redis-cli.
# Prints "ok - ..." or "not ok - ..." for each check.
#
# `web` may reach redis directly, `audit` through the gate only, `intruder` not at all.
export PATH="/test:$PATH"
RUN=/run/sealane
LOG=/test/daemon.log
N_FAILED=0
case $(uname -r) in # PIDFD_GET_INFO tells the cgroup since 6.13
[1-5].* | 6.[0-9].* | 6.1[0-2].*) IDENTITY=peercred ;;
*) IDENTITY=pidfd ;;
esac

ok() { echo "ok - vm daemon: $*"; }
fail() {
	echo "not ok - vm daemon: $*"
	N_FAILED=$((N_FAILED + 1))
}

check() { # WHAT COMMAND...
	what=$1
	shift
	if out=$("$@" 2>&1); then ok "$what"; else fail "$what: $* said: $out"; fi
}

check_equal() { # WHAT EXPECTED GOT
	if [ "$2" = "$3" ]; then ok "$1"; else fail "$1: expected \"$2\", got \"$3\""; fi
}

check_match() { # WHAT REGEX TEXT
	if echo "$3" | grep -qE "$2"; then ok "$1"; else fail "$1: expected \"$2\" in: $3"; fi
}

within() { # SECONDS COMMAND...
	end=$(($(vm_peer now) + $1 * 1000))
	shift
	until "$@" >/dev/null 2>&1; do
		[ "$(vm_peer now)" -lt "$end" ] || return 1
		usleep 50000
	done
}

# as WORKLOAD COMMAND... - a process of the workload that sees the host's files, as root in a container might.
as() {
	cgroup=$(echo /sys/fs/cgroup/sealane/"$1"-*)
	shift
	# shellcheck disable=SC2016 # for the inner shell
	sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$cgroup" "$@"
}

ping_as() { as "$1" vm_peer ping "$2"; }

logged() { sealane logs | grep -E "$1" | grep -E "$2"; }

# pids ROLE... - of the daemon's processes
pids() {
	for role in "$@"; do
		for p in $(pidof sealaned); do
			if tr '\0' ' ' <"/proc/$p/cmdline" | grep -q "^sealaned --role=$role "; then echo "$p"; fi
		done
	done
}

daemon_start() {
	sealaned -c /test/sealane.conf </dev/null >>"$LOG" 2>&1 &
	LAUNCHER=$!
	check "the daemon ($1) answers" within 20 sealane status
}

daemon_kill() {
	# shellcheck disable=SC2046 # words
	kill -9 "$LAUNCHER" $(pids warden broker checker porter gate)
	wait "$LAUNCHER" 2>/dev/null
}

# again - web's process connects once more through the descriptor that it kept.
again() {
	n=$(grep -c '^again' /test/web.out)
	echo >&3
	within 10 more_agains "$n"
	tail -n 1 /test/web.out
}
more_agains() { [ "$(grep -c '^again' /test/web.out)" -gt "$1" ]; }

service_is() { sealane ls services | grep -E "^default/$1 .* $2 "; }
# lanes_of WORKLOAD - "path path ..." of its open lanes
lanes_of() {
	sealane --json ls lanes | tr -d '\n ' | sed 's/{"id"/\n&/g' | grep "\"workload\":\"$1\"" | sed -n 's/.*"path":"\([a-z]*\)".*/\1/p' | xargs
}

# ------------------------------------------------------------------ the host

cat >/test/sealane.conf <<'CONF'
cdi_dir = off
restart_grace = 60s
workload cache { services = [ redis ] }
workload store { services = [ bus ] }
service redis {
  socket_path = "redis.sock"
  check { args = [ "/test/vm_peer", "ping", "/run/check/redis.sock" ]  interval = 1s  timeout = 10s }
}
service bus { socket_path = "bus.sock"  check { socket = true  interval = 1s } }
service web { upstream redis {}  upstream bus {} }
service intruder { upstream redis {} }
service audit { upstream redis {} }
intention { source = web    destination = redis  action = allow }
intention { source = web    destination = bus    action = allow }
intention { source = audit  destination = redis  action = allow  strict = true }
CONF
mkdir -p /run/check
daemon_start "the first"
sealane run --service redis -- redis-server --port 0 --unixsocket $RUN/serve/redis.sock --unixsocketperm 777 --save '' --dir /tmp \
	>/test/redis.log 2>&1 &
sealane run --service bus -- vm_peer serve $RUN/serve/bus.sock &
check "redis is up" within 20 service_is redis up
check "the other server is up" within 20 service_is bus up
ln $RUN/w/cache/serve/redis.sock /run/check/redis.sock # the checker's user cannot come by the workload's directory
check_match "status: guard" 'kernel guard lsm' "$(sealane status)"
check_match "status: identity" "identity +$IDENTITY" "$(sealane status)"
sealane run --service intruder -- sleep 1000 &
sealane run --service audit -- sleep 1000 &
check_equal "redis-cli in web" PONG "$(sealane run --service web -- redis-cli -s $RUN/redis.sock PING 2>&1)"

# ------------------------------------------------------------------ what the roles may

status=$(cat "/proc/$(pids warden)/status")
# CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, SYS_PTRACE, SYS_ADMIN, NET_ADMIN; above all neither BPF nor PERFMON
for set in CapPrm CapEff CapBnd; do
	check_match "warden: $set" "^$set:[[:space:]]+000000000028100f\$" "$status"
done
check_match "warden: nothing to inherit" '^CapInh:[[:space:]]+0+$' "$status"
check_match "warden: under a filter" '^Seccomp:[[:space:]]+2$' "$status"
for role in broker checker porter keeper gate; do
	for p in $(pids $role); do
		check_match "$role: no capabilities" '^CapPrm:[[:space:]]+0+$' "$(cat "/proc/$p/status")"
	done
done

# ------------------------------------------------------------------ who may

mkfifo /test/web.in
sealane run --service web -- vm_peer hold $RUN/redis.sock </test/web.in >/test/web.out &
exec 3>/test/web.in
check "web has a lane" within 10 grep -q '^open +PONG' /test/web.out
check_match "explain: direct, guarded" 'route +direct.*guard +lsm' "$(sealane explain web redis | tr '\n' ' ')"
check_equal "ls lanes: web's is direct" direct "$(lanes_of web)"
check_equal "web connects again by the descriptor it kept" "again +PONG" "$(again)"
check "lane.allow names both services" logged 'lane.allow.* source=default/web destination=default/redis' 'path=direct.*workload=web'

check_match "explain: audit takes the gate" 'route +relay' "$(sealane explain audit redis)"
check_equal "audit through the gate" +PONG "$(ping_as audit $RUN/w/audit/redis.sock)"
check_equal "another workload is turned away by the gate" closed "$(ping_as intruder $RUN/w/audit/redis.sock)"
check "and that is logged" logged lane.refuse "workload=audit.*identity=$IDENTITY"
check_equal "so is the host's own process" closed "$(vm_peer ping $RUN/w/audit/redis.sock)"
check_equal "audit on web's direct name" EACCES "$(ping_as audit $RUN/w/web/redis.sock)"
check "lane.deny says that only the gate leads there" logged 'lane.deny.* source=default/audit destination=default/redis' \
	"path=direct.*the gate's socket"

check_equal "intruder by its own name" closed "$(ping_as intruder $RUN/w/intruder/redis.sock)"
check_equal "intruder on web's name" EACCES "$(ping_as intruder $RUN/w/web/redis.sock)"
check "lane.deny names both services" logged 'lane.deny.* source=default/intruder destination=default/redis' 'path=direct'
check_equal "a process in no workload, on the server's own socket" EACCES "$(vm_peer ping $RUN/w/cache/serve/redis.sock)"
check "is told apart in the log" logged 'lane.deny' 'destination=default/redis path=direct.*no enrolled workload'
check_equal "the server's workload itself" +PONG "$(ping_as redis $RUN/w/cache/serve/redis.sock)"
check "the command that checks redis passes" within 10 service_is redis passing
check "the check that connects passes" within 10 service_is bus passing

# ------------------------------------------------------------------ taking it back

ln $RUN/w/web/redis.sock /run/kept.sock
check_equal "web by a hard link" +PONG "$(ping_as web /run/kept.sock)"
# A process that opens a lane as web and leaves its cgroup: the lane stays web's.
mkfifo /test/gone.in
as web vm_peer hold /run/kept.sock </test/gone.in >/test/gone.out &
gone=$!
exec 4>/test/gone.in
check "a process of web has a lane" within 10 grep -q '^open +PONG' /test/gone.out
echo $gone >/sys/fs/cgroup/cgroup.procs
check_equal "it is still web's when the process has left" "direct direct" "$(lanes_of web)"
began=$(vm_peer now)
sealane intention deny web redis
within 5 grep -q '^cut' /test/web.out
within 5 grep -q '^cut' /test/gone.out
for f in web gone; do
	ms=$(($(sed -n 's/^cut //p' /test/$f.out | grep . || echo 999999) - began))
	# A second on a real machine; this one is emulated, on one whose time others want as well.
	check "deny cuts the lane of $f ($ms ms)" test "$ms" -lt 5000
done
check_equal "web by the descriptor it kept" "again EACCES" "$(again)"
check_equal "web by the hard link" EACCES "$(ping_as web /run/kept.sock)"
check_equal "web by its name" closed "$(ping_as web $RUN/w/web/redis.sock)"
check "lane.cut says both" logged lane.cut 'source=default/web destination=default/redis path=direct lanes=2'
exec 4>&-
sealane intention allow web redis
check_equal "allowed again, at once" "again +PONG" "$(again)"

# ------------------------------------------------------------------ without a daemon, and with the next one

mkfifo /test/long.in
as web vm_peer hold /run/kept.sock </test/long.in >/test/long.out &
exec 4>/test/long.in
check "a lane that is to outlive the daemon" within 10 grep -q '^open +PONG' /test/long.out
# shellcheck disable=SC2016 # for the inner shell
as web sh -c 'while [ ! -e /test/stop ]; do vm_peer ping /run/kept.sock; done' >/test/loop.out 2>&1 &
loop=$!
daemon_kill
check_equal "no daemon: web connects" "again +PONG" "$(again)"
check_equal "no daemon: intruder does not" EACCES "$(ping_as intruder $RUN/w/web/redis.sock)"
check_equal "no daemon: nor does the host's process" EACCES "$(vm_peer ping $RUN/w/cache/serve/redis.sock)"
daemon_start "the second"
check_equal "the next daemon: intruder does not connect" EACCES "$(ping_as intruder /run/kept.sock)"
check_equal "the next daemon: audit through the gate" +PONG "$(ping_as audit $RUN/w/audit/redis.sock)"
usleep 2500000
touch /test/stop
wait $loop
check_equal "web was never refused meanwhile ($(grep -c . /test/loop.out) connections)" "+PONG" "$(sort -u /test/loop.out | xargs)"
check_equal "no lane was cut" 0 "$(grep -c '^cut' /test/long.out)"
check_match "it is still known whose it is" '^direct' "$(lanes_of web)"
check "it is told who was refused while no daemon ran" logged 'lane.deny.* source=default/intruder' 'path=direct'
sealane intention allow intruder redis
check_equal "the predecessor refuses nobody: intruder, allowed now" +PONG "$(ping_as intruder $RUN/w/intruder/redis.sock)"
sealane intention deny intruder redis
check_equal "and denied again" EACCES "$(ping_as intruder /run/kept.sock)"
check "checks pass under the new daemon" within 10 service_is redis passing
check "of both kinds" within 10 service_is bus passing

kill -9 "$(pids porter)"
has_porter() { [ -n "$(pids porter)" ]; }
check "another porter" within 10 has_porter
kill -9 "$(pids checker)"
has_checker() { [ -n "$(pids checker)" ]; }
check "another checker" within 10 has_checker
failing=$(logged service.health failing | grep -c redis)
usleep 3000000
check_equal "its commands may connect, too" "passing $failing" \
	"$(service_is redis passing >/dev/null && echo passing) $(logged service.health failing | grep -c redis)"

# ------------------------------------------------------------------ a change that was made while no daemon ran

sealane intention rm web redis # the file's own says the same, until
daemon_kill
sed -i '/source = web .*redis/s/allow/deny/' /test/sealane.conf
daemon_start "the third, with another configuration"
check "a lane that is no longer allowed is cut" within 10 grep -q '^cut' /test/long.out
check_equal "and no new one is made" EACCES "$(ping_as web /run/kept.sock)"

# ------------------------------------------------------------------ the end

kill "$LAUNCHER"
wait "$LAUNCHER"
check_equal "stopped in order: still guarded" EACCES "$(vm_peer ping /run/kept.sock)"
sealaned --stop-keeper
check "without the keeper nobody is refused any more" within 10 vm_peer ping /run/kept.sock

if [ $N_FAILED != 0 ]; then
	tail -n 60 "$LOG" | cut -c1-300 | sed 's/^/#   /'
	exit 1
fi
