#!/bin/bash
# Four hosts: a service on three of them, its clients on the fourth. Lanes are spread, those that are left take over, and what people are
# shown at the two ends of a lane belongs together.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib_hosts.sh"
hosts_start

host_conf a web <<'CONF'
service web { upstream echo {} }
intention { source = web  destination = echo  action = allow }
CONF
for h in b c d; do
	host_conf $h echo <<-'CONF'
	workload tools { services = [ echo ] }
	service echo {}
	intention { source = web  destination = echo  action = allow }
	CONF
done
hosts_up a b c d
join_all
ECHO=/run/sealane/echo.sock
instance_on() {
	on "$1" ctr_run tools "$PYTHON" /e2e/peer.py echo /run/sealane/serve/echo.sock
	within 10 on "$1" service_is_up echo || fail "the instance on $1 comes up"
}
for h in b c d; do instance_on $h; done
on a ctr_run web sleep 1d

instances() { on a view hosts | jq '[.hosts[] | select(.state == "up" and any(.services[]; .name == "default/echo" and .state == "up"))] | length'; }
there_are() { [ "$(instances)" = "$1" ]; }
lanes_to() { on a view lanes | jq -r '[.lanes[] | select(.link) | .link.host] | group_by(.) | map("\(.[0]) \(length)") | join(" ")'; }
ids_of() { on "$1" view lanes | jq -r --arg d "$2" '.lanes[] | select(.link.direction == $d) | .link.id'; }
many() { on a ctr_peer web many $ECHO "$@"; }

check_match "--check lists what must be on other hosts" 'expected on other hosts: default/echo' \
	"$("$SEALANED" --check -c "$HOSTS_DIR/a/sealane.conf" 2>&1)"
token=$(token_for b | grep -o 'sl1\.[A-Za-z0-9_-]*')
check_match "a token that was not copied whole is told as that" 'the token is damaged' "$(on b sl join "${token%?}" 2>&1 || true)"

check "a learns of three instances" within 20 there_are 3
mkfifo "$T/hold"
exec 9<>"$T/hold" # held open, so that whoever reads from it waits
many 9 hold <"$T/hold" >"$T/many" 2>&1 &
check "nine lanes" within 20 grep -q '^9 open and good' "$T/many"
check_match "spread over the three" '^b [234] c [234] d [234]$' "$(lanes_to)"
check_equal "each lane has one name at both ends" "$(ids_of a out | sort)" "$({ ids_of b in; ids_of c in; ids_of d in; } | sort)"
check_match "status, at the client" 'other hosts: 3 known, 3 up .*lanes: 9 to other hosts, 0 from them .*authority +this host' \
	"$(on a sl status | tr '\n' ' ')"
check_match "status, at a server" 'lanes: 0 to other hosts, [234] from them .*certificates +2 of 2 can be used .*authority +host a, answered' \
	"$(on b sl status | tr '\n' ' ')"
check_match "explain, at the client" 'allowed by this host \(a\); .*to host c at 10\.99\.0\.3:7443, which is up; a session for it stands .*also decides' \
	"$(on a sl explain web echo | tr '\n' ' ')"
check_match "explain, at a server" 'route +link .*from host a at 10\.99\.0\.1:[0-9]+; a session of default/web stands .*source +on another host' \
	"$(on b sl explain web echo | tr '\n' ' ')"

on c ctr_kill tools
# Until a has heard of it, a client that speaks first may have been sent there.
check "one is killed: a learns of it" within 5 there_are 2
check_match "no client after that notices" '^20 open and good' "$(many 20 2>&1)"
before=$(on a log_lines)
on d host_kill KILL
check "a daemon is killed, too: a says that the link went down" within 5 on a event_after "$before" link.down '.host == "d"'
check_match "no client after that notices" '^20 open and good' "$(many 20 2>&1)"
instance_on c
check "the instance is back" within 10 there_are 2
many 10 hold <"$T/hold" >"$T/again" 2>&1 &
check "ten more" within 20 grep -q '^10 open and good' "$T/again"
check_match "most of them go to the one that has fewer: both have as many then" '^b [5-8] c [5-8]$' "$(lanes_to)"

# A link is dead, and nobody knows yet: clients that speak first are not lost to it, since after 2 s of silence it is asked before their bytes go out.
cut_off c
sleep 2.2
bad=0
prompt_begin
for i in 1 2 3; do [ "$(on a ctr_peer web ask $ECHO "words $i" 2>&1)" = "words $i" ] || bad=$((bad + 1)); done
check_equal "a link dies without a word: no client that speaks first notices" 0 "$bad"
check_prompt "nor waits for it to be given up" 9000
