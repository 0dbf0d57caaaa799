#!/bin/bash
# What is on the wire between hosts, and who is not let in. Hosts b and a have an authority of ours; c and d certificates that the
# openssl command made, so that wrong ones can be made beside them. x is a machine that no host knows.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib_hosts.sh"
need tshark openssl
hosts_start
PKI=$T/pki
TD=spiffe://sealane.local

# --- certificates of the openssl command line ---

pki_root() { # NAME - a root, and its key
	openssl ecparam -name prime256v1 -genkey -noout -out "$PKI/$1.key" 2>/dev/null
	openssl req -x509 -new -key "$PKI/$1.key" -sha256 -days 30 -subj "/CN=test $1" -out "$PKI/$1.crt" \
		-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
		-addext "subjectAltName=URI:$TD" 2>/dev/null
}

# pki_issue NAME SPIFFE-ID [ROOT [DAYS-FROM-NOW]] - NAME.crt and NAME.key, good for a day from 5 minutes before then on.
pki_issue() {
	local name=$1 id=$2 root=${3:-root} days=${4:-0}
	openssl ecparam -name prime256v1 -genkey -noout -out "$PKI/$name.key" 2>/dev/null
	printf 'subjectAltName=critical,URI:%s\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=critical,CA:FALSE\n' \
		"$id" >"$PKI/$name.ext"
	"$PYTHON" -c 'import struct, sys; sys.stdout.buffer.write(struct.pack("q", int(sys.argv[1]) * 86400 - 300))' "$days" >"$PKI/shift"
	openssl req -new -key "$PKI/$name.key" -subj / -out "$PKI/$name.csr" 2>/dev/null
	CLOCKSHIFT=$PKI/shift LD_PRELOAD=$BUILD/tests/e2e/libclockshift.so openssl x509 -req -in "$PKI/$name.csr" -CA "$PKI/$root.crt" \
		-CAkey "$PKI/$root.key" -set_serial "0x$(openssl rand -hex 15)" -sha256 -days 1 -extfile "$PKI/$name.ext" \
		-out "$PKI/$name.crt" 2>/dev/null
}

pki_directory() { # HOST SERVICE... - what `certificates` wants to find
	local host=$1 service dir=$PKI/for-$1
	shift
	mkdir -p "$dir"
	cp "$PKI/root.crt" "$dir/roots.pem"
	pki_issue "host-$host" "$TD/host/$host"
	cp "$PKI/host-$host.crt" "$dir/host.crt"
	cp "$PKI/host-$host.key" "$dir/host.key"
	for service in "$@"; do
		pki_issue "$service-$host" "$TD/ns/default/svc/$service"
		cp "$PKI/$service-$host.crt" "$dir/default.$service.crt"
		cp "$PKI/$service-$host.key" "$dir/default.$service.key"
	done
}

mkdir "$PKI"
pki_root root
pki_root foreign
pki_directory c web uninvited
pki_directory d redis
pki_issue expired "$TD/ns/default/svc/web" root -3
pki_issue early "$TD/ns/default/svc/web" root 3
pki_issue foreign-web "$TD/ns/default/svc/web" foreign
pki_issue other-domain "spiffe://elsewhere.example/ns/default/svc/web"
pki_issue no-form "$TD/web"
pki_issue good "$TD/ns/default/svc/web"

host_conf b redis <<'CONF'
workload cache { services = [ redis ] }
service redis {}
intention { source = "*"  destination = redis  action = allow }
CONF
host_conf a web victim <<'CONF'
service web { upstream redis {} }
service victim { upstream redis {} }
intention { source = "*"  destination = redis  action = allow }
CONF
host_conf c <<CONF
certificates = "$PKI/for-c"
host phantom { address = "10.99.0.2:7443"  services = [ ghost ] }
service web { upstream redis {} }
service uninvited { upstream redis {} }
intention { source = "*"  destination = redis  action = allow }
CONF
host_conf d <<CONF
certificates = "$PKI/for-d"
links = 2
workload cache { services = [ redis ] }
service redis {}
intention { source = web  destination = redis  action = allow }
CONF
hosts_up c d
hosts_up b a
host_plug x 9
join_all
D=10.99.0.2:7443
for h in b d; do on $h redis_run cache; done
on a ctr_run web sleep 1d
on a ctr_run victim sleep 1d
on c ctr_run web sleep 1d

ping_is_answered() { [ "$(on "$1" redis_in "$2" PING)" = PONG ]; }

# --- what can be read in between ---

test_capture() {
	local marker=seventeen-whales-in-clear-text n stream
	nsenter --net="/proc/${HOST_NET[switch]}/ns/net" dumpcap -q -i br0 -w "$T/wire.pcapng" >"$T/dumpcap" 2>&1 &
	local capture=$!
	within 10 test -s "$T/wire.pcapng" || fail "the capture starts"
	sleep 0.5
	check "a lane to b" within 20 ping_is_answered a web
	check "a lane to d, with certificates of the openssl command" within 20 ping_is_answered c web
	for n in a c; do
		on $n redis_in web SET key "$marker" >/dev/null
		on $n redis_in web APPEND key "$(head -c 30000 /dev/zero | tr '\0' x)$marker" >/dev/null
		check_match "the payload went there and back, $n" "$marker" "$(on $n redis_in web GET key)"
	done
	sleep 1
	kill -TERM "$capture"
	wait "$capture" || true
	check_below "bytes were captured: 100,000 are fewer than there are" "$(stat -c %s "$T/wire.pcapng")" 100000
	check_not "no byte of it is in the capture" grep -aq "seventeen" "$T/wire.pcapng"
	check_not "nor a service's name" grep -aq 'default/redis' "$T/wire.pcapng"
	check_equal "nothing else was sent than TCP to and from the daemons" "" \
		"$(tshark -n -r "$T/wire.pcapng" -Y 'ip && !(tcp.port == 7443)' 2>/dev/null | head -3)"
	for stream in $(tshark -n -r "$T/wire.pcapng" -Y 'tcp.port == 7443' -T fields -e tcp.stream 2>/dev/null | sort -nu); do
		tshark -n -r "$T/wire.pcapng" -q -z "follow,tcp,raw,$stream" 2>/dev/null
	done >"$T/streams"
	check_match "every stream is a sequence of TLS records" '^[1-9][0-9]* streams, [1-9][0-9]* records, all TLS' \
		"$("$PYTHON" "$E2E_DIR/tlsrecords.py" <"$T/streams" 2>&1)"
}

# --- who is not let in ---

client() { # CERTIFICATE-NAME|- ADDRESS [OPTION...] - a TLS client of a stranger; it says what it was told
	local name=$1 address=$2 cert=()
	shift 2
	[ "$name" = - ] || cert=(-cert "$PKI/$name.crt" -key "$PKI/$name.key")
	{ sleep 0.5; } | net_in x timeout 10 openssl s_client -connect "$address" -CAfile "$PKI/root.crt" -verify_return_error -tls1_3 \
		-alpn sealane-link/1 "${cert[@]}" "$@" 2>&1 | tr -d '\0' || true
}

refused() { # WHAT REASON CERTIFICATE
	local before
	before=$(on d log_lines)
	client "$3" $D >/dev/null
	check "refused: $1" within 5 on d event_after "$before" link.refuse "(.reason == \"$2\")"
}

peer() { # CERTIFICATE-NAME WORD... - tests/e2e/linkpeer.py from x
	local name=$1
	shift
	net_in x timeout 20 "$PYTHON" "$E2E_DIR/linkpeer.py" $D "$PKI/$name.crt" "$PKI/$name.key" "$PKI/root.crt" sealane-link/1 "$@" 2>&1
}

test_certificates() {
	local before
	refused "no certificate" no-certificate -
	refused "one of another authority" untrusted foreign-web
	refused "an expired one" expired expired
	refused "one of the day after tomorrow" not-yet-valid early
	refused "one of another trust domain" bad-identity other-domain
	refused "one that names neither a host nor a service" bad-identity no-form
	before=$(on d log_lines)
	check_match "a good one is taken" 'PONG 0' "$(peer good hello ping)"
	check "and logged" within 3 on d event_after "$before" link.up '(.peer_id | endswith("/svc/web"))'
	check_match "it opens a lane" 'OPENED 1' "$(peer good hello open=1:default/redis)"
	before=$(on d log_lines)
	check_match "a good one of a service without an intention: no lane" 'REFUSED 1 denied' "$(peer uninvited-c hello open=1:default/redis)"
	check "and that is logged with both identities" within 3 on d event_after "$before" lane.deny \
		'(.source_id | endswith("/svc/uninvited")) and (.destination_id | endswith("/svc/redis"))'
	before=$(on d log_lines)
	check_not "a host's own certificate opens none" grep -q OPENED <<<"$(peer host-c hello open=1:default/redis)"
	check "a host that answers for another one is not taken" within 30 on c event_after 0 link.refuse '(.reason == "wrong-host")'
}

test_tls() {
	check_match "TLS 1.3, the client's first suite" 'TLSv1.3.*TLS_AES_128_GCM_SHA256' "$(client good $D -ciphersuites TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384 | tr '\n' ' ')"
	check_match "the other one" 'TLSv1.3.*TLS_AES_256_GCM_SHA384' "$(client good $D -ciphersuites TLS_AES_256_GCM_SHA384 | tr '\n' ' ')"
	no_tls "TLS 1.2" -tls1_2 -alpn sealane-link/1
	no_tls "TLS 1.2 with any suite" -tls1_2 -cipher 'ALL:@SECLEVEL=0' -alpn sealane-link/1
	no_tls "TLS 1.1" -tls1_1 -cipher 'ALL:@SECLEVEL=0' -alpn sealane-link/1
	no_tls "a suite that is not on the list" -ciphersuites TLS_CHACHA20_POLY1305_SHA256 -alpn sealane-link/1
	no_tls "one with a short tag" -ciphersuites TLS_AES_128_CCM_8_SHA256 -alpn sealane-link/1
	no_tls "a group that is not on the list" -groups P-521 -alpn sealane-link/1
	no_tls "another application protocol" -alpn h2
	without_alpn "no application protocol"
	check_not "early data is not taken" grep -q 'Early data was accepted' <<<"$(client good $D)"
}

# d has two linkers, and whichever accepts takes the ticket that any of them has made.
test_tickets() {
	local out=
	client good $D -sess_out "$T/ticket" >/dev/null
	for _ in 1 2 3 4 5 6; do
		out+=$(client good $D -sess_in "$T/ticket" -sess_out "$T/ticket" | grep -oE '^(New|Reused),' || echo none,)
	done
	check_equal "a session comes back without signatures, to either linker" "Reused,Reused,Reused,Reused,Reused,Reused," "$out"
}

no_tls() { # WHAT OPTION... - the server ends the handshake before it has shown its certificate
	local what=$1 out
	shift
	out=$({ sleep 0.5; } | net_in x timeout 10 openssl s_client -connect $D -CAfile "$PKI/root.crt" -cert "$PKI/good.crt" \
		-key "$PKI/good.key" "$@" 2>&1 | tr -d '\0') || true
	if grep -q 'New, (NONE), Cipher is (NONE)' <<<"$out" && grep -q 'no peer certificate available' <<<"$out"; then
		ok "not taken: $what"
	else
		fail "not taken: $what"
		grep -E 'Protocol|Cipher|ALPN|error' <<<"$out" | sed 's/^/#   /' || true
	fi
}

without_alpn() { # openssl's server side cannot refuse that before it has shown its certificate
	local before
	before=$(on d log_lines)
	{ sleep 0.5; } | net_in x timeout 10 openssl s_client -connect $D -CAfile "$PKI/root.crt" -cert "$PKI/good.crt" \
		-key "$PKI/good.key" >/dev/null 2>&1 || true
	check "not taken: $1" within 5 on d event_after "$before" link.refuse '(.reason == "protocol")'
}

# --- peers that break the rules ---

breaks() { # WHAT WORD...
	local what=$1 before out
	shift
	before=$(on d log_lines)
	out=$(peer good "$@")
	check_match "ends the session: $what" '(closed|alert)[^[:cntrl:]]*$' "$out"
	check "and the reason is 'protocol': $what" within 3 is_protocol "$before"
}
is_protocol() { # before HELLO it is no session yet
	on d event_after "$1" link.down '(.reason == "protocol")' || on d event_after "$1" link.refuse '(.reason == "protocol")'
}

test_frames() {
	breaks "no HELLO first" open=1:default/redis
	breaks "HELLO twice" hello hello
	breaks "a window that is too small" hello=1
	breaks "an unknown type" hello frame=0:77:0:00
	breaks "an unknown flag" hello frame=0:10:128:3132333435363738
	breaks "a lane's number twice" hello open=1:default/redis open=1:default/redis
	breaks "lane 0" hello open=0:default/redis
	breaks "data for a lane that never was" hello data=7:x
	local redis
	redis=$(on d own_pid '^redis-server')
	kill -STOP "$redis"
	breaks "more data than there is credit" hello open=1:default/redis flood=1:2000000
	kill -CONT "$redis"
	breaks "credit beyond every bound" hello open=1:default/redis credit=1:4294967295 credit=1:4294967295
	breaks "a proof that proves nothing" hello frame=0:9:0:0000
	breaks "an announcement from a client" hello frame=0:13:0:61
	breaks "a question to an authority that is none" hello frame=0:14:0:7b7d
	breaks "a frame beyond the limit" hello raw=01000000ffff0500"$(printf '66%.0s' $(seq 20000))"
	breaks "a destination that is no name" hello open=1:../../etc
	check_match "no such service: the lane is refused, not more" 'REFUSED 1 (denied|unknown).*open' "$(peer good hello open=1:default/nothing | tr '\n' ' ')"
	check "others do not notice" ping_is_answered c web
}

# --- those who say nothing ---

test_silence() {
	local before up
	before=$(on d log_lines)
	net_in x "$PYTHON" -c '
import resource, socket, sys, time
n, where = int(sys.argv[1]), sys.argv[2].split(":")
resource.setrlimit(resource.RLIMIT_NOFILE, (n + 64, n + 64))
socks = [socket.create_connection((where[0], int(where[1]))) for _ in range(n)]
print("there", flush=True)
time.sleep(60)' 2000 $D >"$T/silent" &
	local silent=$!
	within 20 grep -q there "$T/silent" || fail "2,000 connections that say nothing"
	up=$(on d log_lines)
	peer good hello ping >"$T/in" &
	local in=$!
	check "who has a certificate gets in within 2 s" within 2 on d event_after "$up" link.up '(.address | startswith("10.99.0.9:"))'
	wait "$in" || true
	check_match "and is served" 'PONG 0' "$(cat "$T/in")"
	check "lanes go on" ping_is_answered c web
	check "the log says that it is crowded" on d event_after "$before" linker.crowded true
	kill "$silent"
	wait "$silent" || true
}

# --- what a reload changes ---

roots_of_d() { # NAME... - d's roots from now on
	local name
	for name in "$@"; do cat "$PKI/$name.crt"; done >"$PKI/for-d/roots.pem"
	on d sl reload >/dev/null
}

test_trust() {
	local before
	check "before: a lane to d" within 10 ping_is_answered c web
	before=$(on d log_lines)
	roots_of_d root foreign
	sleep 0.5
	check "a root more ends nothing" ping_is_answered c web
	check_not "no session was lost" on d event_after "$before" link.down
	before=$(on d log_lines)
	roots_of_d foreign
	check "a root less ends what stood on it" within 5 on d event_after "$before" link.down '(.reason == "untrusted")'
	roots_of_d root
	check "given back" within 10 ping_is_answered c web
}

test_listen() {
	local before address conf=$HOSTS_DIR/d/sealane.conf
	for address in 0.0.0.0 10.99.0.2; do
		before=$(on d log_lines)
		sed -i "s/^listen = .*/listen = \"$address:7443\"/" "$conf"
		on d sl reload >/dev/null
		check "another address with the same port: $address" within 3 on d event_after "$before" link.listen "(.address == \"$address:7443\")"
		check_not "at once" on d event_after "$before" link.listen_failed
		check_match "it is accepted at" 'TLSv1.3' "$(client good $D | tr '\n' ' ')"
	done
}

# --- tokens, and what is taken back ---

test_tokens() {
	local token before
	token=$(token_for a | grep -o 'sl1\.[A-Za-z0-9_-]*')
	check "a token is good once" on a sl join --again "$token"
	before=$(on b log_lines)
	check_not "not twice" on a sl join --again "$token"
	check "and that is logged" within 3 on b event_after "$before" ca.refuse '(.op == "join")'
	token=$(token_for a --for 1s | grep -o 'sl1\.[A-Za-z0-9_-]*')
	sleep 2
	before=$(on b log_lines)
	check_not "not after its time" on a sl join --again "$token"
	check "and that is logged" within 3 on b event_after "$before" ca.refuse '(.op == "join")'
	token=$(on b sl ca token somebody --service web | grep -o 'sl1\.[A-Za-z0-9_-]*')
	check_not "not for another host" on a sl join --again "$token"
	check_not "not if a byte of it is another" on a sl join --again "${token%?}A"
	check "lanes go on as before" within 10 ping_is_answered a web
}

# Whoever holds a host's certificate and has handshakes signed, as a linker that was taken over does, cannot ask in its name for all that.
test_questions() {
	local before key=BAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=
	local body='{\"op\":\"service\",\"service\":\"default/web\",\"key\":\"'$key'\",\"proof\":\"MAA=\"}'
	local list='{\"op\":\"revoked\",\"version\":\"0-0\"}'
	mkdir "$T/taken"
	cp "$HOSTS_DIR/a/state/state.db"* "$T/taken/"
	"$PYTHON" - "$T/taken/state.db" >"$T/taken/host" <<'PY' || fail "a's certificate is in its state"
import sqlite3, sys
print(*sqlite3.connect(sys.argv[1]).execute("SELECT key, pem FROM certificate WHERE name = 'host'").fetchone(), sep="\n")
PY
	sed 1d "$T/taken/host" >"$T/taken/host.crt"
	ask() { net_in x timeout 20 "$PYTHON" "$E2E_DIR/linkpeer.py" "${HOST_ADDRESS[b]}:$LINK_PORT" "$T/taken/host.crt" \
		"$HOSTS_DIR/a/state/keys/$(head -1 "$T/taken/host").key" "$T/taken/roots.pem" sealane-ca/1 hello "ask=$1" 2>&1; }
	"$PYTHON" -c 'import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute("SELECT roots FROM membership").fetchone())' \
		"$T/taken/state.db" >"$T/taken/roots.pem"
	check_match "what is revoked anybody is told, signed by the root" '"signatures"' "$(ask '{"body":"'"$list"'"}')"
	before=$(on b log_lines)
	check_match "a question without a signature: refused" 'CA_ANSWER 0 .*"malformed"' "$(ask '{"body":"'"$body"'"}')"
	check_match "signed by another key than the one that the host joined with: refused" 'CA_ANSWER 0 .*not signed by the key' \
		"$(ask '{"body":"'"$body"'","signature":"MAA="}')"
	check "both are told" on b event_after "$before" ca.refuse '(.reason == "denied" and .host == "a")'
	check "the key of questions is root's alone" test "$(stat -c '%u %a' "$HOSTS_DIR/a/state/keys/ask.key")" = "0 600"
}

test_revocation() {
	local before
	check "before: served" within 10 ping_is_answered a victim
	before=$(on b log_lines)
	on a ctr_exec victim redis-cli -s /run/sealane/redis.sock SUBSCRIBE news >"$T/sub" 2>&1 &
	local sub=$!
	within 10 grep -q subscribe "$T/sub" || fail "subscribed"
	check "sealane ca revoke" on b sl ca revoke "$TD/ns/default/svc/victim"
	gone() { ! kill -0 "$sub" 2>/dev/null; }
	check "its open lane ends" within 5 gone
	check_not "and no new one opens" on a redis_in victim PING
	revoked_is_told() {
		on b event_after "$before" link.refuse '(.reason == "revoked")' || on b event_after "$before" link.down '(.reason == "revoked")'
	}
	check "the log says why" within 5 revoked_is_told
	check "others of that host are served" ping_is_answered a web
	check "sealane ca unrevoke" on b sl ca unrevoke victim
	check "and it is served" within 45 ping_is_answered a victim
	check "of one host only" on b sl ca revoke victim@a
	check_not "it is cut there" ping_is_answered a victim
	check_match "ca ls says what is revoked, in the words that take it back" 'default/victim@a +from before ' "$(on b sl ca ls)"
	check "given back" on b sl ca unrevoke victim@a
	check "it is served" within 45 ping_is_answered a victim
	check_not "a host that does not exist" on b sl ca revoke host/aa
	check_match "what is near" "did you mean 'a'" "$(on b sl ca revoke host/aa 2>&1 || true)"
	check_not "what is not revoked" on b sl ca unrevoke victim
}

# A new root: those who are there learn of it from the old one, and go on.
test_roots() {
	local old
	old=$(on b sl --json ca ls | jq -r .root_sha256)
	check_match "sealane ca rotate-root" 'a second root is there' "$(on b sl ca rotate-root --after 3s 2>&1)"
	check_match "while there are two" 'another root is trusted' "$(on b sl ca ls)"
	on a host_kill KILL
	on a host_start # which asks for the list at once
	check "a member takes it, by the old one's word" within 20 on a event_after 0 ca.roots
	new_signs() { [ "$(on b sl --json ca ls | jq -r .root_sha256)" != "$old" ]; }
	check "the new one signs" within 20 new_signs
	own_is_new() { [ "$(on b events ca.issue | jq -rs '[.[] | select(.host == "b")] | length')" -gt 2 ]; }
	check "this host's own certificates are new" within 20 own_is_new
	on a host_kill KILL
	on a host_start
	check "hosts go on" within 20 ping_is_answered a web
	check_match "the old one is not dropped while it is needed" 'say --now' "$(on b sl ca retire-root 2>&1)"
}

for t in ${TESTS:-capture certificates tls tickets frames silence trust listen tokens questions revocation roots}; do
	"test_$t"
done
