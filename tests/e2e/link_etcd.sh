#!/bin/bash
# Hosts, services and intentions of a cluster from a real etcd; what happens when it stops, when its data is gone, and when it is back.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib_hosts.sh"
need etcd etcdctl
hosts_start
"$SEALANE" catalogue --help >/dev/null 2>&1 || skip "the catalogue was left out of this build"

ETCD=http://10.99.0.1:2379
etcd_start() {
	nsenter --net="/proc/${HOST_NET[e]}/ns/net" etcd --name e --data-dir "$T/etcd" --listen-client-urls $ETCD --advertise-client-urls $ETCD \
		--listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
		--initial-cluster e=http://127.0.0.1:2380 --unsafe-no-fsync </dev/null >>"$T/etcd.log" 2>&1 &
	ETCD_PID=$!
	disown "$ETCD_PID" # nobody wants to read that it was killed
	within 20 ctl endpoint health || { fail "etcd starts"; tail -5 "$T/etcd.log"; exit 1; }
}
etcd_stop() {
	kill -KILL "$ETCD_PID"
	within 5 etcd_is_gone
}
etcd_is_gone() { ! kill -0 "$ETCD_PID" 2>/dev/null; }
ctl() { ETCDCTL_API=3 net_in e timeout 10 etcdctl --endpoints "$ETCD" "$@"; }

host_plug e 1
etcd_start
# shellcheck disable=SC2034 # read by host_write
HOSTS_FROM_CATALOGUE=1 HOSTS_CONF="etcd { endpoints = [ \"$ETCD\" ]  lease = 3s }"
host_conf a web <<'CONF'
service web { upstream redis {} }
CONF
host_conf b redis <<'CONF'
workload cache { services = [ redis ] }
service redis {}
CONF
host_conf c redis <<'CONF'
workload cache { services = [ redis ] }
service redis {}
CONF
hosts_up a b c
join_all
on b redis_run cache
on a ctr_run web sleep 1d

sees() { on "$1" view hosts | jq -e --arg h "$2" '.hosts[] | select(.name == $h and .state == "up" and .from == "catalogue")' >/dev/null; }
ping_is_answered() { [ "$(on a redis_in web PING)" = PONG ]; }

check "a learns of b" within 20 sees a b
check "b learns of a" within 20 sees b a
is_written() { ctl get --prefix /sealane --keys-only | grep -q '^/sealane/hosts/b'; }
check "their keys are in etcd" within 5 is_written
check_not "no intention: refused" ping_is_answered
check "an intention of the cluster, said on a" on a sl intention allow web redis --cluster
check "holds on b, too: served" within 10 ping_is_answered
on a ctr_exec web redis-cli -s /run/sealane/redis.sock SUBSCRIBE news >"$T/sub" 2>&1 &
sub=$!
within 10 grep -q subscribe "$T/sub" || fail "subscribed"
t0=$(now_ms)
ctl put /sealane/intentions/default.web:default.redis '{"source":"default/web","destination":"default/redis","action":"deny"}' >/dev/null
wait "$sub" || true
check_below "etcdctl takes it back: the open connection ends, in ms" 2000 $(($(now_ms) - t0))
check_not "and no new one opens" ping_is_answered
ctl put /sealane/intentions/default.web:default.redis '{"source":"default/web","destination":"default/redis","action":"allow"}' >/dev/null
check "and gives it again: served" within 10 ping_is_answered
before=$(on a log_lines)
ctl put /sealane/intentions/nonsense '{"source":' >/dev/null
check "nonsense is told, and nothing else" within 5 on a event_after "$before" catalogue.malformed
check "served" ping_is_answered

on c redis_run cache
on b ctr_kill cache
check "an instance on another host takes over" within 10 ping_is_answered
on b redis_run cache

# etcd is away.
etcd_stop
check "etcd is away: lanes open as before" ping_is_answered
on b ctr_kill cache
check "and to the instance that is left" within 10 ping_is_answered
on b redis_run cache
on c ctr_kill cache
check "and to the one that came back" within 10 ping_is_answered
before=$(on a log_lines)
on a host_kill KILL
on a host_start
check "a daemon that starts now knows what it knew" within 20 ping_is_answered
check "from disk, and says so" on a event_after "$before" catalogue.from_disk
etcd_start
check "etcd is back: a learns of b" within 20 sees a b

# Its data is gone.
etcd_stop
rm -rf "$T/etcd"
before=$(on a log_lines)
etcd_start
check "etcd lost its data: that is an error in the log" within 20 on a event_after "$before" catalogue.reset
check "lanes open as before" ping_is_answered
check "the hosts write themselves again" within 20 is_written
check_match "sealane catalogue restore says what it wrote" '^1 known intentions were written .* 1 intentions \(generation 2\)' \
	"$(on a sl catalogue restore | tr '\n' ' ')"
is_back() { [ -n "$(ctl get --print-value-only /sealane/intentions/default.web:default.redis)" ]; }
check "and it is so when it has ended" is_back
check_match "and etcd's word counts there" '"reset":null' "$(on a api /v1/status)"
check "lanes open as before" ping_is_answered
ctl del /sealane/intentions/default.web:default.redis >/dev/null
refused() { ! ping_is_answered; }
check "and from then on etcd's word counts again" within 10 refused
