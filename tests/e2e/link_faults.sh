#!/bin/bash
# Links when things break: processes are killed, the network loses, delays, corrupts and ends, certificates change, clocks are
# off, descriptors and memory run out. All the while lanes carry bytes and each byte is looked at when it comes back: none may
# be wrong, nothing may hang, and all has to come back by itself.
# ROUNDS: of each kind of kill (default 2; SOAK=1: 50). TESTS="kills partition ...": only those. LINKS: linkers of each host (`links`).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib_hosts.sh"
need prlimit
hosts_start
HOSTS_CONF=${LINKS:+links = $LINKS}
ROUNDS=${ROUNDS:-$([ -n "${SOAK:-}" ] && echo 50 || echo 2)}
S=/run/sealane/stream.sock
# What the daemon promises to notice: link_timeout, 15 s, and 5 s each for connecting and shaking hands.
GIVE_UP_S=30

server_conf() {
	host_conf "$1" stream <<-'CONF'
	workload tools { services = [ stream ] }
	service stream {}
	intention { source = "*"  destination = stream  action = allow }
	CONF
}
client_conf() {
	host_conf "$1" web <<-'CONF'
	service web { upstream stream {} }
	intention { source = web  destination = "*"  action = allow }
	CONF
}
host_conf z </dev/null
client_conf a
server_conf b
CLOCK=$T/clock
set_clock() { "$PYTHON" -c 'import struct, sys; open(sys.argv[1], "r+b" if sys.argv[3:] else "wb").write(struct.pack("q", int(sys.argv[2])))' "$CLOCK" "$@"; }
set_clock 0
HOSTS=(z a b)
HOST_ENTER=()
hosts_up z a b
join_all
wire_up b
on a ctr_run web sleep 1d
on b ctr_run tools /linktool serve /run/sealane/serve/stream.sock
within 10 on b service_is_up stream || fail "the server comes up"

# works HOST - a new lane carries a megabyte, and each byte is right.
works() { [[ $(PATIENCE=15 on "$1" ctr_link web put $S 1000000 2>&1) == good* ]]; }

# load_start HOST SECONDS, load_end WHAT: what came of it is in $T/load. Lanes of up to 2 MB, eight at a time.
load_start() {
	PATIENCE=$(($2 + 60)) on "$1" ctr_link web pump $S "$2" 8 2000000 >"$T/load" 2>"$T/load.err" &
	LOAD=$!
	sleep 0.7
}
load_end() { # WHAT [JQ-CONDITION]
	local rc=0
	wait "$LOAD" || rc=$?
	if jq -e ".wrong == 0 and .hung == 0 and (${2:-.bytes > 0})" "$T/load" >/dev/null 2>&1; then
		ok "$1: no wrong byte, none hung ($(jq -r '"\(.whole) whole, \(.broken) broken, longest gap \(.longest_gap_ms) ms"' "$T/load"))"
	else
		fail "$1: no wrong byte, none hung"
		echo "#   status $rc: $(cat "$T/load" "$T/load.err")"
	fi
}

# under_load WHAT SECONDS COMMAND... - lanes from a to b all the while; afterwards it works.
under_load() {
	local what=$1 seconds=$2 t0
	shift 2
	load_start a "$seconds"
	"$@"
	load_end "$what"
	t0=$(now_ms)
	check "$what: all is back" within $GIVE_UP_S works a
	[ $(($(now_ms) - t0)) -lt 3000 ] || note "$what: it took $(($(now_ms) - t0)) ms after the load had ended"
}

# --- processes ---

kill_daemon() { on "$1" host_kill KILL; on "$1" host_start; }
another() { local now; now=$(on "$1" role_pid "$2"); [ -n "$now" ] && [ "$now" != "$3" ]; }
kill_role() { # HOST ROLE
	local pid
	pid=$(on "$1" role_pid "$2")
	if [ -z "$pid" ]; then
		fail "there is no $2 on $1: $(on "$1" roles | xargs)"
		return
	fi
	kill -KILL "$pid"
	within 10 another "$1" "$2" "$pid" || fail "another $2 is started on $1"
}

test_kills() {
	local i host role
	check "before: it works" within 20 works a
	for i in $(seq "$ROUNDS"); do
		for host in a b; do
			under_load "SIGKILL of the daemon of $host, $i" 2 kill_daemon $host
		done
	done
	for i in $(seq "$ROUNDS"); do
		for role in linker signer gate; do
			for host in a b; do
				[ "$role $host" = "gate b" ] || under_load "SIGKILL of the $role of $host, $i" 2 kill_role $host $role
			done
		done
	done
	same_fds() { [ "$(fds_by_role)" = "$1" ]; }
	check "before the last round: it works" within 20 works a
	sleep 1
	local before
	before=$(fds_by_role)
	kill_role a linker
	kill_role b linker
	check "after both linkers: it works" within $GIVE_UP_S works a
	# With several linkers it is chance which of them has a session.
	[ -n "${LINKS:-}" ] || check "no role has more descriptors than before" within 10 same_fds "$before"
	for host in a b; do
		check_equal "$host: no process ended by itself" "" "$(on $host events role.exited | jq -r 'select(.signal != 9 and .signal != null and .signal != 0) | .name' | xargs)"
	done
}
fds_by_role() {
	local host
	for host in a b; do
		on $host roles | while read -r pid role; do echo "$host.$role=$(fds_of "$pid")"; done
	done | sort | xargs
}

# --- the network ---

cut_for() { cut_off b; sleep "$1"; heal b; }

test_partition() {
	local before t0
	check "before: it works" within 20 works a
	load_start a 7
	cut_for 3
	load_end "cut off for 3 s" '.bytes > 0 and .broken == 0'
	before=$(on a log_lines)
	load_start a 3
	cut_off b
	t0=$(now_ms)
	check_not "cut off: a new lane is refused" works a
	check_below "and not only after a while, in s" $GIVE_UP_S $((($(now_ms) - t0) / 1000))
	load_end "cut off for good"
	check "the log says so" within $GIVE_UP_S on a event_after "$before" link.down
	b_is_down() { on a view hosts | jq -e '.hosts[] | select(.name == "b") | .state != "up"' >/dev/null; }
	check "and so does ls hosts" within 10 b_is_down
	heal b
	check "healed: it works by itself" within $GIVE_UP_S works a
}

bad_for() { # SECONDS RULE...
	local seconds=$1 rule
	shift
	for rule in "$@"; do wire b "$rule"; done
	sleep "$seconds"
	wire b clear
}
resets() { for _ in 1 2 3; do wire b reset; sleep 0.5; done; }

test_network() {
	local before corrupted
	check "before: it works" within 20 works a
	load_start a 4
	bad_for 3 "loss 50" "delay 4 3" "reorder 100"
	load_end "loss, delay and reordering, which TCP repairs" '.bytes > 0 and .broken == 0'
	before=$(on a log_lines)
	under_load "bits change on the way and no checksum tells" 4 bad_for 3 "corrupt 20"
	corrupted=$(wire_stat b | sed 's/.*corrupted \([0-9]*\).*/\1/')
	check_below "they did change: 0 is less than" "$corrupted" 0
	check "the sessions ended for that reason" on a event_after "$before" link.down '(.reason == "protocol" or .reason == "lost")'
	under_load "connections are reset in the middle" 3 resets
}

# --- hosts that are not there ---

test_authority() {
	on z host_kill KILL
	load_start a 2
	check "the authority is away: new lanes" works a
	load_end "the authority is away" '.bytes > 0 and .broken == 0'
	kill_role a linker
	check "and a new linker has what it needs" within $GIVE_UP_S works a
	on z host_start
	check "it is back" within $GIVE_UP_S on z has_certificates
}

# --- certificates and clocks ---

renewals() { on "$1" events certificate.renewed | wc -l; }

test_rotation() {
	local before_r before_s seconds=${SECONDS_ROTATION:-14}
	HOSTS_CONF='svid_life = 10s'
	server_conf s
	client_conf r
	hosts_up s r
	join_all
	HOSTS_CONF=
	on r ctr_run web sleep 1d
	on s ctr_run tools /linktool serve /run/sealane/serve/stream.sock
	check "certificates that live for 10 s" within 20 works r
	on r ctr_link web slow $S 2000000 "$seconds" >"$T/slow" 2>&1 &
	local slow=$!
	before_r=$(renewals r) before_s=$(renewals s)
	load_start r "$seconds"
	load_end "certificates change every 5 s" '.bytes > 0 and .broken == 0'
	wait "$slow" || true
	check_match "a lane that was open all the time got all of it" '^good' "$(cat "$T/slow")"
	check_below "they did change, r: 1 is less than" $(($(renewals r) - before_r)) 1
	check_below "they did change, s: 1 is less than" $(($(renewals s) - before_s)) 1
	on_all host_down
	HOSTS=(z a b)
}

test_clock() {
	local shift reason before
	on b host_kill TERM
	HOST_ENTER=(env "LD_PRELOAD=$BUILD/tests/e2e/libclockshift.so" "CLOCKSHIFT=$CLOCK")
	on b host_start
	HOST_ENTER=()
	check "the right time: it works" within $GIVE_UP_S works a
	for shift in 86400 -86400; do
		[ $shift -gt 0 ] && reason=expired || reason=not-yet-valid
		before=$(on b log_lines)
		set_clock $shift live
		sleep 1
		kill_role a linker
		check_not "b's clock is off by $shift s: no lane opens" works a
		check "its log says why: $reason" within 10 on b event_after "$before" link.refuse "(.reason == \"$reason\")"
		load_start a 1
		set_clock 0 live
		load_end "the clock goes right under load" true
		check "the clock is right again: it works by itself" within $GIVE_UP_S works a
	done
}

# --- what runs out ---

# limit_linker PID --RESOURCE=SOFT: - as the user it runs as: another's limits take more rights than root has everywhere
limit_linker() { setpriv --reuid 65534 --regid 65534 --clear-groups prlimit --pid "$@"; }

# A lane that was not taken, or one that the broker had allowed already.
is_out_of() { event_after "$1" lane.fail || event_after "$1" lane.close '(.error == "EMFILE")'; }

test_exhaustion() {
	local pid fds vsz before out
	check "before: it works" within 20 works a
	for out in a b; do
		on a ctr_link web slow $S 3000000 6 >"$T/slow" 2>&1 &
		local slow=$!
		sleep 0.5
		pid=$(on $out role_pid linker)
		fds=$(fds_of "$pid")
		before=$(on $out log_lines)
		limit_linker "$pid" "--nofile=$((fds + 4)):"
		PATIENCE=60 on a ctr_link web pump $S 1.5 60 2000000 >"$T/load" 2>&1 || true
		limit_linker "$pid" --nofile=10000: || true # it is gone: told below
		check "$out has no descriptors left: lanes are refused, no byte is wrong ($(jq -r '"\(.whole) whole, \(.broken + .refused) not"' "$T/load"))" jq -e \
			'.wrong == 0 and .hung == 0 and (.broken + .refused) > 0' "$T/load"
		check "$out: the log says what was missing" within 3 on $out is_out_of "$before"
		check_equal "$out: the linker lives" "$pid" "$(on $out role_pid linker)"
		wait "$slow" || true
		check_match "$out: a lane that was open got all of it" '^good' "$(cat "$T/slow")"
		check "$out: with descriptors it works again" within $GIVE_UP_S works a

		on a ctr_link web slow $S 3000000 6 >"$T/slow" 2>&1 &
		slow=$!
		sleep 0.5
		pid=$(on $out role_pid linker)
		vsz=$(awk '/^VmSize/ { print $2 * 1024 }' "/proc/$pid/status")
		limit_linker "$pid" "--as=$((vsz + 65536)):"
		PATIENCE=60 on a ctr_link web pump $S 1.5 200 100000 >"$T/load" 2>&1 || true
		limit_linker "$pid" --as=unlimited: || true
		check "$out has no memory left: no byte is wrong, none hung ($(jq -r '"\(.whole) whole, \(.broken + .refused) not"' "$T/load"))" \
			jq -e '.wrong == 0 and .hung == 0' "$T/load"
		check_equal "$out: the linker lives" "$pid" "$(on $out role_pid linker)"
		wait "$slow" || true
		check_match "$out: a lane that was open got all of it" '^good' "$(cat "$T/slow")"
		check "$out: with memory it works again" within $GIVE_UP_S works a
	done
}

for t in ${TESTS:-kills network partition authority exhaustion clock rotation}; do
	"test_$t"
done
