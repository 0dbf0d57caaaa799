#!/bin/bash
# The installed daemon under systemd: runs as root, as a unit, inside the test machine (systemd.sh). What README.md and the man
# pages promise of `systemctl restart`, `reload`, `stop`, and of a daemon that is killed: open direct connections and workloads'
# mounts live on, socket files keep their inodes, new connections wait or are made, and systemd is content.
# Prints "ok - ..." or "not ok - ..." for each check.
#
# Three workloads: cache and careful under `sealane run`, web a unit that mounts its directory and is enrolled by its cgroup; web
# may reach redis directly, careful through the gate only.
set -euo pipefail
RUN=/run/sealane
CONF=/etc/sealane/sealane.conf
T=/test
N_FAILED=0

ok() { echo "ok - vm systemd: $*"; }
fail() {
	echo "not ok - vm systemd: $*"
	N_FAILED=$((N_FAILED + 1))
}

check() { # WHAT COMMAND...
	local what=$1 out
	shift
	if out=$("$@" 2>&1); then ok "$what"; else fail "$what: $* said: $out"; fi
}
check_not() { # WHAT COMMAND...
	local what=$1 out
	shift
	if out=$("$@" 2>&1); then fail "$what: $* said: $out"; else ok "$what"; fi
}
check_equal() { # WHAT EXPECTED GOT
	if [ "$2" = "$3" ]; then ok "$1"; else fail "$1: expected \"$2\", got \"$3\""; fi
}
check_match() { # WHAT REGEX TEXT
	if [[ $3 =~ $2 ]]; then ok "$1"; else fail "$1: expected \"$2\" in: $3"; fi
}
now_ms() { local us=${EPOCHREALTIME/[.,]/}; echo $((us / 1000)); }
# Seconds of a real machine: this one is emulated, on one whose time others want as well.
within() { # SECONDS COMMAND...
	local end
	end=$(($(now_ms) + $1 * 3000))
	shift
	until "$@" >/dev/null 2>&1; do
		[ "$(now_ms)" -lt "$end" ] || return 1
		sleep 0.05
	done
}

unit() { systemctl show -P "$1" sealaned; }
state() { echo "$(unit ActiveState) $(unit SubState) $(unit Result)"; }
is_running_anew() { [ "$(state)" = "active running success" ] && [ "$(unit MainPID)" != "$1" ]; }
members() { # - the roles of the processes in the unit's cgroup; the launcher has none
	while read -r p; do
		tr '\0' '\n' <"/proc/$p/cmdline" | sed -n 's/^--role=//p'
	done </sys/fs/cgroup/system.slice/sealaned.service/cgroup.procs | sort | xargs
}
pid_of() { # ROLE
	while read -r p; do
		if tr '\0' ' ' <"/proc/$p/cmdline" | grep -q -e "--role=$1 "; then echo "$p"; fi
	done </sys/fs/cgroup/system.slice/sealaned.service/cgroup.procs
}
cgroup_of() {
	case $1 in
	web) echo /sys/fs/cgroup/system.slice/web.service ;;
	*) echo /sys/fs/cgroup/sealane/"$1"-* ;;
	esac
}
# as WORKLOAD COMMAND... - one more process in the workload: its cgroup, and its mounts, made when it was started
as() {
	local cgroup pid
	cgroup=$(cgroup_of "$1")
	pid=$(head -n 1 "$cgroup/cgroup.procs")
	shift
	# shellcheck disable=SC2016 # for the inner shell
	timeout "${PATIENCE:-60}" bash -c 'echo $$ >"$0/cgroup.procs" && exec nsenter -m -t "$@"' "$cgroup" "$pid" "$@" 2>&1
}
redis_in() {
	local w=$1
	shift
	as "$w" redis-cli -s $RUN/redis.sock "$@"
}
inodes() { (cd $RUN/w && find . -printf '%p %y %i\n' | sort); }
service_is_up() { sealane ls services | grep -qE "^default/$1 .* up "; }
got() { grep -q "$1" $T/sub; }

# connections WORKLOAD - one after the other until $T/stop is there; what they said, once each, to $T/WORKLOAD.loop
connections() {
	local n=0
	while [ ! -e $T/stop ]; do
		redis_in "$1" PING 2>&1 || true # what failed is counted like any answer
		n=$((n + 1))
	done | sort | uniq -c >"$T/$1.loop"
}
loops_start() {
	rm -f $T/stop
	connections web &
	loop_web=$!
	connections careful &
	loop_careful=$!
}
loops_end() { # WHAT
	sleep 1
	touch $T/stop
	wait $loop_web $loop_careful
	check_match "$1: every new connection was answered, direct ($(xargs <$T/web.loop))" '^[0-9]+ PONG$' "$(xargs <$T/web.loop)"
	# One that the gate had accepted, or was relaying, when it ended, ends with it: one for each gate that went, and the loop has one
	# under way at a time.
	check_match "$1: ... and through the gate, but for what was under way ($(xargs <$T/careful.loop))" \
		'^([12] Error: [^0-9]* )?[0-9]+ PONG$' "$(xargs <$T/careful.loop)"
}

# unharmed WHAT - what holds after each way in which the daemon went and came
unharmed() {
	check_equal "$1: same files, directories and inodes" "$before" "$(inodes)"
	check_equal "$1: one more direct connection" PONG "$(redis_in web PING)"
	check_equal "$1: one more through the gate" PONG "$(redis_in careful PING)"
	redis_in web PUBLISH news "${1// /-}" >/dev/null
	check "$1: the old direct connection carries messages" within 3 got "${1// /-}"
	check "$1: its client is the same process" kill -0 "$client"
	check_equal "$1: one of each process" "$roles" "$(members)"
}

# ------------------------------------------------------------------ as README.md installs it

check_equal "the system is up" running "$(systemctl is-system-running)"
check "systemd-sysusers" systemd-sysusers
check "systemctl daemon-reload" systemctl daemon-reload
check_not "nothing starts by itself" systemctl is-active sealaned
check "systemctl enable --now" systemctl enable --now sealaned
check_equal "it is" "active running success" "$(state)"
check_equal "the broker's user" sealane "$(ps -o user= -p "$(pid_of broker)")"
cat >$CONF <<'CONF'
cdi_dir = off
restart_grace = 60s
workload cache { services = [ redis ] }
workload web { service = web }
service redis { socket_path = "redis.sock" }
service web { upstream redis {} }
service careful { upstream redis {} }
intention { source = web  destination = redis  action = allow }
intention { source = careful  destination = redis  action = allow  strict = true }
CONF
check "systemctl reload" systemctl reload sealaned
check "takes the new file" within 5 test -d $RUN/w/web

check "cache starts" systemd-run -q --unit=cache -p After=sealaned.service -p SuccessExitStatus=143 sealane run --service redis -- redis-server --port 0 \
	--unixsocket $RUN/serve/redis.sock --unixsocketperm 777 --save '' --dir /tmp
check "redis is up" within 20 service_is_up redis
check "careful starts" systemd-run -q --unit=careful sealane run --service careful -- sleep 1d
check "web starts" systemd-run -q --unit=web -p BindReadOnlyPaths=$RUN/w/web:$RUN sleep 1d
check "web is enrolled" sealane enrol --cgroup /sys/fs/cgroup/system.slice/web.service --workload web
check "careful is there" within 10 compgen -G '/sys/fs/cgroup/sealane/careful-*'
check_match "explain: web's are direct" 'route +direct' "$(sealane explain web redis)"
check_match "explain: careful's are relayed" 'route +relay' "$(sealane explain careful redis)"
PATIENCE=0 redis_in web SUBSCRIBE news >$T/sub & # 0: for ever
check "web has an open direct connection" within 10 got subscribe
client=$(pgrep -x redis-cli)
before=$(inodes)
check_match "which has socket files" 'web/redis.sock s [0-9]+' "$before"
roles=$(members)
check_match "the daemon's processes" '^broker checker gate gate keeper .*porter .*warden$' "$roles"
unharmed "before anything"

# ------------------------------------------------------------------ restart

for round in 1 2; do
	pid=$(unit MainPID)
	loops_start
	check "systemctl restart $round" systemctl restart sealaned
	check "restart $round: another process" is_running_anew "$pid"
	loops_end "restart $round"
	unharmed "restart $round"
done
check "the new daemon knows the old connection" sh -c "sealane --json ls lanes | tr -d '\n ' | grep -q '\"workload\":\"web\"'"

# ------------------------------------------------------------------ reload

pid=$(unit MainPID)
echo 'service newcomer { upstream redis {} }' >>$CONF
check "systemctl reload with a new service" systemctl reload sealaned
check "is in force" test -S $RUN/w/newcomer/redis.sock
check_equal "reload: the same process" "$pid" "$(unit MainPID)"
sed -i '/newcomer/d' $CONF
check "systemctl reload without it" systemctl reload sealaned
within 5 test ! -e $RUN/w/newcomer || true
unharmed "reload"
echo 'service web2 { upsteam redis {} }' >>$CONF
check_not "systemctl reload with a mistake fails" systemctl reload sealaned
check_match "and the journal says where" 'sealane.conf:10.*upsteam' "$(journalctl -u sealaned -n 20 -o cat)"
check_equal "the unit still runs" "active running" "$(unit ActiveState) $(unit SubState)"
unharmed "a refused reload"
sed -i '/upsteam/d' $CONF
check "systemctl reload without it" systemctl reload sealaned

# ------------------------------------------------------------------ killed

pid=$(unit MainPID)
loops_start
kill -9 "$pid"
check "kill -9 of the main process: systemd starts another" within 15 is_running_anew "$pid"
check_equal "one restart" 1 "$(unit NRestarts)"
loops_end "kill -9"
unharmed "kill -9"

pid=$(unit MainPID)
kill -9 "$pid" "$(pid_of warden)" "$(pid_of broker)"
check "kill -9 of launcher, warden and broker" within 15 is_running_anew "$pid"
unharmed "kill -9 of three"

# ------------------------------------------------------------------ stop and start

check "systemctl stop" systemctl stop sealaned
check_equal "the state is" "inactive dead success" "$(state)"
check_equal "the keeper alone is left" keeper "$(members)"
check_equal "stopped: same files" "$before" "$(inodes)"
check_equal "stopped: the kernel makes direct connections" PONG "$(redis_in web PING)"
redis_in careful PING >$T/waited &
waiter=$!
sleep 1
check_equal "stopped: through the gate they wait" "" "$(cat $T/waited)"
check "systemctl start" systemctl start sealaned
wait $waiter || true
check_equal "for the start" PONG "$(cat $T/waited)"
unharmed "stop and start"

# ------------------------------------------------------------------ a wrong configuration at the start

systemctl stop sealaned
cp $CONF $T/good
echo 'service web2 { upsteam redis {} }' >>$CONF
check_not "systemctl start with a mistake fails" systemctl start sealaned
sleep 2
check_equal "and is not tried again" "failed failed exit-code 0" "$(state) $(unit NRestarts)"
check_match "status says where" 'sealane.conf:10.*upsteam' "$(systemctl status --no-pager -l sealaned || true)"
cp $T/good $CONF
check "without it the start works, at once" systemctl start sealaned
unharmed "a wrong start"

# ------------------------------------------------------------------ the keeper's end

keeper=$(pid_of keeper)
systemctl stop sealaned
kill "$keeper"
keeper_gone() { [ ! -e "/proc/$keeper" ]; }
check "a shutdown's SIGTERM ends the keeper" within 3 keeper_gone
check "systemctl start" systemctl start sealaned
check_equal "no keeper: direct" PONG "$(redis_in web PING)"
check_equal "no keeper: through the gate, by the old mount" PONG "$(redis_in careful PING)"
check "the old connection's client lives" kill -0 "$client"
sed -i 's/restart_grace = 60s/restart_grace = 2s/' $CONF
systemctl reload sealaned
systemctl stop sealaned
cgroup_gone() { [ ! -e /sys/fs/cgroup/system.slice/sealaned.service ]; }
check "after restart_grace nothing is left of the unit" within 8 cgroup_gone
check "systemctl start" systemctl start sealaned
check_equal "after restart_grace: direct, by the old mount" PONG "$(redis_in web PING)"
check_equal "after restart_grace: through the gate" PONG "$(redis_in careful PING)"

# ------------------------------------------------------------------ what systemd thinks of it

check_equal "the system is" running "$(systemctl is-system-running)"
check_match "systemctl status" 'Active: active \(running\)' "$(systemctl status --no-pager sealaned)"
systemctl stop cache
check "the server's unit stops in order" within 5 sh -c '! pgrep -x redis-server'
check_equal "it is" "inactive success" "$(systemctl show -P ActiveState cache) $(systemctl show -P Result cache)"
check_equal "its cgroup is gone" "" "$(compgen -G '/sys/fs/cgroup/sealane/redis-*' || true)"
check "systemctl stop, once more" systemctl stop sealaned
check_not "no mount is left" grep ' /run/sealane' /proc/self/mountinfo
journalctl -b -u sealaned -p warning -o cat | sort | uniq -c | cut -c1-200 | sed 's/^/# the journal: /'

if [ $N_FAILED != 0 ]; then
	journalctl -b -u sealaned -o short-monotonic --no-pager | tail -n 150 | cut -c1-300 | sed 's/^/#   /'
	exit 1
fi
