#!/bin/bash
# Two daemons and a real etcd: they see each other's hosts, services and intentions; go on when etcd is killed, also after a
# restart without it; keep what they know when its data is gone or an old copy of it comes back, until somebody decides. TLS, a
# user, and the certificate with a common name that etcd's gateway does not take.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

declare -A PID
ETCD_PID=
LEASE=3

# on NAME COMMAND... - with what lib.sh's functions look at set for that daemon.
# shellcheck disable=SC2034 # for lib.sh's functions
on() {
	local host=$1 rc=0 T=$BASE/$1 SOCK=$BASE/$1/run/admin.sock D_PID=${PID[$1]:-}
	shift
	"$@" || rc=$?
	PID[$host]=$D_PID
	return "$rc"
}
hosts_down() { # called by lib.sh at the end
	local host
	for host in "${!PID[@]}"; do on "$host" host_down; done
	[ -z "$ETCD_PID" ] || kill -KILL "$ETCD_PID" 2>/dev/null || true
}
need etcd etcdctl openssl socat
e2e_start
BASE=$T
export ETCDCTL_API=3

# Not ports that the kernel chooses: whoever connects may have one before etcd does.
# Not of the range that the kernel takes for whoever connects, and not where another run of this test begins to look.
free_port() { # FROM
	local port
	for port in $(seq "$1" $(($1 + 999))); do
		[ -n "$(ss -Htln "sport = :$port")" ] || { echo "$port"; return; }
	done
}
PORT=$(free_port $((20000 + $$ * 4 % 5000)))
PEER_PORT=$(free_port $((26000 + $$ * 4 % 5000)))
ETCD_OPTIONS=()
SCHEME=http
ETCDCTL_OPTIONS=()

ec() { etcdctl --endpoints "$SCHEME://127.0.0.1:$PORT" "${ETCDCTL_OPTIONS[@]}" "$@"; }

etcd_up() {
	etcd --data-dir "$BASE/etcd" --name n --listen-client-urls "$SCHEME://127.0.0.1:$PORT" --advertise-client-urls "$SCHEME://127.0.0.1:$PORT" \
		--listen-peer-urls "http://127.0.0.1:$PEER_PORT" --initial-advertise-peer-urls "http://127.0.0.1:$PEER_PORT" \
		--initial-cluster "n=http://127.0.0.1:$PEER_PORT" "${ETCD_OPTIONS[@]}" </dev/null >>"$BASE/etcd.log" 2>&1 &
	ETCD_PID=$!
	within 20 etcd_answers || { fail "etcd starts"; tail -5 "$BASE/etcd.log"; exit 1; }
}
etcd_answers() { ec endpoint health; }

etcd_kill() {
	{ kill -KILL "$ETCD_PID"; } 2>/dev/null
	wait "$ETCD_PID" 2>/dev/null || true
	ETCD_PID=
}

status() { on "$1" api /v1/status | jq -r ".catalogue.$2"; }
status_is() { [ "$(status "$1" "$2")" = "$3" ]; }
sees_host() { on "$1" sl --json ls hosts | jq -e --arg h "$2" '.hosts[] | select(.name == $h)' >/dev/null; }
sees_no_host() { ! sees_host "$1" "$2"; }
sees_service() { on "$1" sl --json ls hosts | jq -e --arg h "$2" --arg s "$3" --arg state "$4" '.hosts[] | select(.name == $h) | .services[] | select(.name == $s and .state == $state)' >/dev/null; }
decides() { [ "$(on "$1" api "/v1/explain?source=$2&destination=$3" | jq -r '"\(.decision) \(.intention.origin // "none")"')" = "$4" ]; }
has_event() { [ "$(on "$1" n_events "$2")" -gt "${3:-0}" ]; }
key_is() { ec get --print-value-only "$1" | grep -q "$2"; }

conf() { # NAME ETCD-LINES
	cat <<-CONF
	cdi_dir = off
	host_name = $1
	etcd {
		endpoints = [ $([ "$1" = a ] || echo "\"$SCHEME://127.0.0.1:1\", ")"$SCHEME://127.0.0.1:$PORT" ]
		lease = ${LEASE}s
		address = "127.0.0.1:7$([ "$1" = a ] && echo 001 || echo 002)"
		$2
	}
	service db-$1 { socket_path = "$BASE/$1/db.sock" }
	service web { upstream db-a {} upstream db-b {} }
	intention { source = web  destination = db-b  action = deny }
	CONF
}

for host in a b; do
	mkdir -p "$BASE/$host"
	chmod 755 "$BASE/$host"
	: >"$BASE/$host/daemon.log"
done

# --- together; one of the endpoints that b has is dead

etcd_up
on a host_up < <(conf a "")
on b host_up < <(conf b "")
check "a sees b" within 10 sees_host a b
check "b sees a" within 10 sees_host b a
check_match "where it is from is shown" 'b +127.0.0.1:7002 +(catalogue|etcd)' "$(on a sl ls hosts)"
check "a service that does not listen is down on the other host" within 10 sees_service b a default/db-a down
socat UNIX-LISTEN:"$BASE/a/db.sock",fork,mode=666 /dev/null &
DB=$!
check "and up when it listens" within 10 sees_service b a default/db-a up
kill "$DB"
check "and down again" within 10 sees_service b a default/db-a down

check "an intention for the cluster" on a sl intention allow --cluster web db-a
check "holds on both" within 5 decides b web db-a "allow cluster"
check "holds where it was said" within 5 decides a web db-a "allow cluster"
check_match "where it is from is shown" 'default/web +default/db-a +allow.*cluster default.web:default.db-a, .* by uid 0 on a' "$(on b sl intention ls)"
check "the file's for one pair" decides b web db-b "deny file"
on a sl intention allow --cluster web db-b >/dev/null
check "is overruled by the cluster's" within 5 decides b web db-b "allow cluster"
check "which is told" has_event b intention.conflict
on b sl intention deny web db-b >/dev/null
check "what is said on a host at run time wins there" decides b web db-b "deny runtime"
check "and only there" decides a web db-b "allow cluster"
on b sl intention rm web db-b >/dev/null
check "taken away for the cluster" on b sl intention rm --cluster web db-b
check "the file has its say again" within 5 decides a web db-b "deny file"
check_fails "what is not there is not removed" "the cluster has no intention" on a sl intention rm --cluster web db-b

ec put /sealane/intentions/default.web:default.db-a '{"source":"default/web"}' >/dev/null
check "a malformed value is told" within 5 has_event b catalogue.malformed
check "and what was known stays" decides b web db-a "allow cluster"
check "written anew" on a sl intention allow --cluster web db-a
ec put /sealane/intentions/zz '{"source":"default/web","destination":"default/db-a","action":"deny"}' >/dev/null
check "a second one for the pair is told" within 5 has_event b catalogue.tie
check "and does not decide" decides b web db-a "allow cluster"
ec del /sealane/intentions/zz >/dev/null
ec put /sealane/hosts/a '{"address":"127.0.0.1:9"}' >/dev/null
check "somebody with our name is told" within 10 has_event a catalogue.name_taken
check "and ours is written again" within 10 key_is /sealane/hosts/a 127.0.0.1:7001

# --- etcd away

etcd_kill
check "etcd killed: away" within 10 status_is a state away
check_fails "nothing is changed then, and that is said" "etcd is away" on a sl intention allow --cluster web db-b
on b host_kill KILL
on b host_start
check "a start without etcd uses the disk" within 5 has_event b catalogue.from_disk
check "its intentions are in force" decides b web db-a "allow cluster"
check "its hosts are known" within 3 sees_host b a
sleep $((2 * LEASE + 2))
check "however long it takes" sees_host b a
check_match "its age is shown" 'as it was [0-9]+ ?s' "$(on b sl status)"
etcd_up
check "etcd is back: up" within 15 status_is b state up
check "without a reset" status_is b reset null
check "a host that is gone" on a host_kill KILL
check "is forgotten after two leases" within $((3 * LEASE + 5)) sees_no_host b a
on a host_start
check "and comes back" within 10 sees_host b a

# --- its data gone

ec snapshot save "$BASE/old.db" >/dev/null 2>&1
on a sl intention allow --cluster web db-b >/dev/null
within 5 decides b web db-b "allow cluster"
has_reset() { [[ $(status "$1" reset) =~ ^[0-9]+$ ]]; }
etcd_kill
rm -rf "$BASE/etcd"
etcd_up
for host in a b; do check "data wiped: $host notices" within 15 has_reset "$host"; done
check "it is an event" has_event a catalogue.reset
check "intentions stay" decides b web db-a "allow cluster"
check "our own entries are written again" within 10 key_is /sealane/hosts/b 127.0.0.1:7002
check "hosts stay" sees_host a b
check_fails "no new intention before somebody decides" "catalogue.reset" on a sl intention allow --cluster web db-c
ec put /sealane/intentions/evil '{"source":"*","destination":"*","action":"allow"}' >/dev/null
sleep 1
check "what turns up in the new data does not count" decides b other db-b "deny none"
on b host_kill KILL
on b host_start
check "after a restart it is still a reset" has_reset b
ec del /sealane/intentions/evil >/dev/null
within 10 status_is b state up
check "restore on one host" on a sl catalogue restore
for host in a b; do check "ends it on $host" within 10 status_is "$host" reset null; done
check "what was known is in etcd again" key_is /sealane/intentions/default.web:default.db-b allow
check "and in force" decides b web db-b "allow cluster"
check_fails "there is nothing to decide any more" "nothing to decide" on a sl catalogue accept

etcd_kill
rm -rf "$BASE/etcd"
etcdctl snapshot restore "$BASE/old.db" --data-dir "$BASE/etcd" --name n --initial-cluster "n=http://127.0.0.1:$PEER_PORT" \
	--initial-advertise-peer-urls "http://127.0.0.1:$PEER_PORT" >/dev/null 2>&1
etcd_up
for host in a b; do check "an old copy is back: $host notices" within 15 has_reset "$host"; done
check "what it lacks stays" decides b web db-b "allow cluster"
within 10 status_is b state up
check "accept on one host" on b sl catalogue accept
for host in a b; do check "ends it on $host" within 10 status_is "$host" reset null; done
check "etcd's state holds now: what it has" within 5 decides a web db-a "allow cluster"
check "and what it has not" within 5 decides a web db-b "deny file"
etcd_kill

# --- TLS, a user, a common name

P=$BASE/pki
mkdir "$P"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$P/ca.key" -out "$P/ca.crt" -days 2 -subj /CN=ca 2>/dev/null
certificate() { # NAME SUBJECT EXTENSIONS
	openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$P/$1.key" -out "$P/$1.csr" -subj "$2" 2>/dev/null
	openssl x509 -req -in "$P/$1.csr" -CA "$P/ca.crt" -CAkey "$P/ca.key" -CAcreateserial -out "$P/$1.crt" -days 2 -extfile <(echo "$3") 2>/dev/null
}
certificate server /CN=etcd "subjectAltName=IP:127.0.0.1"
certificate named /CN=a "extendedKeyUsage=clientAuth"
certificate good / "subjectAltName=URI:spiffe://sealane.local/host/a"
rm -rf "$BASE/etcd"
SCHEME=https
ETCD_OPTIONS=(--client-cert-auth --trusted-ca-file "$P/ca.crt" --cert-file "$P/server.crt" --key-file "$P/server.key")
ETCDCTL_OPTIONS=(--cacert "$P/ca.crt" --cert "$P/good.crt" --key "$P/good.key")
etcd_up
ec user add root:secret >/dev/null
ec role add root >/dev/null
ec user grant-role root root >/dev/null
ec user add sealane:pw >/dev/null
ec role add sealane >/dev/null
ec role grant-permission sealane --prefix=true readwrite /sealane/ >/dev/null
ec user grant-role sealane sealane >/dev/null
ec auth enable >/dev/null
ETCDCTL_OPTIONS+=(--user root:secret)
tls() { echo "ca = \"$P/ca.crt\" certificate = \"$P/$1.crt\" key = \"$P/$1.key\" ${2:-}"; }
reload() { # ETCD-LINES
	conf a "$1" >"$BASE/a/sealane.conf"
	on a sl reload >/dev/null
}
why_says() { status_is a state "$1" && [[ $(status a why) =~ $2 ]]; }
printf 'pw\n' >"$P/password"
printf 'no\n' >"$P/wrong"
chmod 600 "$P"/*.key "$P/password" "$P/wrong"
USER_OF="user = sealane password_file = \"$P/password\""
reload "$(tls named "$USER_OF")"
check "a certificate with a common name: what to do is told" within 10 why_says refused "common name.*empty subject"
check "as an event" has_event a catalogue.refused
reload "$(tls good "user = sealane password_file = \"$P/wrong\"")"
check "a wrong password" within 10 why_says refused "password_file"
reload "$(tls good)"
check "no user" within 10 why_says refused "etcd wants a user"
reload "ca = \"$P/ca.crt\" $USER_OF"
check "no certificate" within 10 why_says refused "certificate"
reload "ca = \"$P/ca.crt\" certificate = \"$P/none.crt\" key = \"$P/good.key\" $USER_OF"
check "a file that is not there" within 10 why_says refused "cannot open $P/none.crt"
reload "certificate = \"$P/good.crt\" key = \"$P/good.key\" $USER_OF"
check "an etcd that is not believed" within 10 why_says refused "certificate"
reload "$(tls good "$USER_OF")"
check "with all of it: up" within 15 status_is a state up
check "another etcd's data is no reason to forget" has_reset a
check "its own entry is there" within 10 key_is /sealane/hosts/a 7001
etcd_kill
etcd_up
check "the token of before is not taken any more: a new one" within 20 status_is a state up
key=$(on a role_pid catalogue)
check "the process that talks to etcd is not root" test "$(awk '/^Uid/ { print $2 }' "/proc/$key/status")" != 0
check "and is under a filter" grep -q '^Seccomp:.*2' "/proc/$key/status"
kill -KILL "$key"
check "killed, it comes back" within 15 status_is a state up
conf a "" | sed '/^etcd/,/^}/d' >"$BASE/a/sealane.conf"
on a sl reload >/dev/null
check "etcd taken out of the configuration: nothing of it is left" within 5 decides a web db-a "deny none"
