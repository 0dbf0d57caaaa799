# shellcheck shell=bash
# The peers of bench/link.sh: programs that carry a Unix socket of one host to a Unix socket of another. To be sourced there.
#
# Each peer carries two services, bench and redis: its half on host a listens on $PEERS/NAME.SERVICE, its half on host b connects to
# the server's own socket, ${TARGET[SERVICE]}. All that encrypt do so with the same: TLS 1.3, TLS_AES_128_GCM_SHA256 (said in the
# OPENSSL_CONF of all of them, and to stunnel, which has a list of its own), P-256 certificates on both sides, the server's name and both chains verified. Each half is one
# process with one thread for bytes, since each host has one CPU. Buffers of 64 KiB where a buffer can be said; TCP_NODELAY.

# shellcheck disable=SC2034 # for who sources this
PEER_NAMES=(socat-tcp socat-tls stunnel haproxy nginx)
declare -A PEER_PORT=([socat-tcp]=7010 [socat-tls]=7020 [stunnel]=7030 [haproxy]=7040 [nginx]=7050)
declare -A SERVICE_PORT=([bench]=1 [redis]=2) # added to the peer's
# shellcheck disable=SC2034
declare -A PEER_PROGRAM=([socat-tcp]=socat [socat-tls]=socat [stunnel]=stunnel4 [haproxy]=haproxy [nginx]=nginx)
B_NAME=b.bench.test

# peers_certify - an authority, and a certificate for each host
peers_certify() {
	local host
	cat >"$PEERS/openssl.cnf" <<-CONF
	openssl_conf = init
	[init]
	ssl_conf = ssl
	[ssl]
	system_default = tls
	[tls]
	MinProtocol = TLSv1.3
	Ciphersuites = TLS_AES_128_GCM_SHA256
	CONF
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=bench -keyout "$PEERS/ca.key" -out "$PEERS/ca.pem" 2>/dev/null
	for host in a b; do
		openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$host.bench.test" -keyout "$PEERS/$host.key" \
			-out "$PEERS/$host.csr" 2>/dev/null
		openssl x509 -req -in "$PEERS/$host.csr" -CA "$PEERS/ca.pem" -CAkey "$PEERS/ca.key" -CAcreateserial -days 2 -out "$PEERS/$host.pem" \
			-extfile <(echo "subjectAltName=DNS:$host.bench.test") 2>/dev/null
		cat "$PEERS/$host.pem" "$PEERS/$host.key" >"$PEERS/$host.both"
	done
}

port_of() { echo $((${PEER_PORT[$1]} + ${SERVICE_PORT[$2]})); }

# half PEER HOST COMMAND... - one half of it, in the background: on that host's network and CPU, in the peer's cgroup
half() {
	local peer=$1 host=$2
	shift 2
	net_in "$host" setpriv --pdeathsig KILL taskset -c "${CPU[$host]}" sh -c 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"' sh \
		"$(peer_cgroup "$peer")" env "OPENSSL_CONF=$PEERS/openssl.cnf" "$@" </dev/null >>"$PEERS/$peer.log" 2>&1 &
}

peer_up_socat-tcp() { # socat, as the others of that name, has one process a service and one more a connection
	local s
	for s in bench redis; do
		half socat-tcp b socat -b65536 "TCP-LISTEN:$(port_of socat-tcp $s),bind=$B,reuseaddr,fork,backlog=1024,nodelay" "UNIX-CONNECT:${TARGET[$s]}"
		half socat-tcp a socat -b65536 "UNIX-LISTEN:$PEERS/socat-tcp.$s,fork,backlog=1024" "TCP:$B:$(port_of socat-tcp $s),nodelay"
	done
}

peer_up_socat-tls() {
	local s tls="cafile=$PEERS/ca.pem,verify=1,openssl-min-proto-version=TLS1.3,nodelay"
	for s in bench redis; do
		half socat-tls b socat -b65536 "OPENSSL-LISTEN:$(port_of socat-tls $s),bind=$B,reuseaddr,fork,backlog=1024,$tls,cert=$PEERS/b.both" \
			"UNIX-CONNECT:${TARGET[$s]}"
		half socat-tls a socat -b65536 "UNIX-LISTEN:$PEERS/socat-tls.$s,fork,backlog=1024" \
			"OPENSSL:$B:$(port_of socat-tls $s),$tls,cert=$PEERS/a.both,commonname=$B_NAME"
	done
}

peer_up_stunnel() {
	local host s
	for host in a b; do
		printf 'foreground = yes\ndebug = 3\npid =\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\nsslVersionMin = TLSv1.3\nciphersuites = TLS_AES_128_GCM_SHA256\n' >"$PEERS/stunnel.$host"
		printf 'cert = %s\nCAfile = %s\nverifyChain = yes\n' "$PEERS/$host.both" "$PEERS/ca.pem" >>"$PEERS/stunnel.$host"
		for s in bench redis; do
			if [ $host = a ]; then
				printf '[%s]\nclient = yes\naccept = %s\nconnect = %s:%s\ncheckHost = %s\n' $s "$PEERS/stunnel.$s" "$B" "$(port_of stunnel $s)" "$B_NAME"
			else
				printf '[%s]\naccept = %s:%s\nconnect = %s\nrequireCert = yes\n' $s "$B" "$(port_of stunnel $s)" "${TARGET[$s]}"
			fi >>"$PEERS/stunnel.$host"
		done
		half stunnel $host stunnel4 "$PEERS/stunnel.$host"
	done
}

peer_up_haproxy() {
	local host s tls
	for host in a b; do
		tls="ssl crt $PEERS/$host.both ca-file $PEERS/ca.pem verify required ssl-min-ver TLSv1.3"
		printf 'global\n  nbthread 1\n  maxconn 4000\n  tune.bufsize 65536\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n' \
			>"$PEERS/haproxy.$host"
		for s in bench redis; do
			if [ $host = a ]; then
				printf 'listen %s\n  bind unix@%s mode 777\n  server s %s:%s %s verifyhost %s\n' $s "$PEERS/haproxy.$s" "$B" "$(port_of haproxy $s)" "$tls" "$B_NAME"
			else
				printf 'listen %s\n  bind %s:%s %s\n  server s unix@%s\n' $s "$B" "$(port_of haproxy $s)" "$tls" "${TARGET[$s]}"
			fi >>"$PEERS/haproxy.$host"
		done
		half haproxy $host haproxy -db -f "$PEERS/haproxy.$host"
	done
}

peer_up_nginx() {
	local host s
	for host in a b; do
		{
			printf 'load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off; user root; worker_processes 1;\n'
			printf 'error_log %s warn; pid %s;\nevents { worker_connections 4096; }\nstream {\nproxy_buffer_size 64k;\n' "$PEERS/nginx.log" "$PEERS/nginx.$host.pid"
			for s in bench redis; do
				if [ $host = a ]; then
					printf 'server { listen unix:%s; proxy_pass %s:%s; proxy_ssl on; proxy_ssl_protocols TLSv1.3; proxy_ssl_certificate %s; proxy_ssl_certificate_key %s;
						proxy_ssl_trusted_certificate %s; proxy_ssl_verify on; proxy_ssl_name %s; }\n' \
						"$PEERS/nginx.$s" "$B" "$(port_of nginx $s)" "$PEERS/a.pem" "$PEERS/a.key" "$PEERS/ca.pem" "$B_NAME"
				else
					printf 'server { listen %s:%s ssl; proxy_pass unix:%s; ssl_protocols TLSv1.3; ssl_certificate %s; ssl_certificate_key %s;
						ssl_client_certificate %s; ssl_verify_client on; ssl_session_cache shared:%s:1m; }\n' \
						"$B" "$(port_of nginx $s)" "${TARGET[$s]}" "$PEERS/b.pem" "$PEERS/b.key" "$PEERS/ca.pem" $s
				fi
			done
			echo '}'
		} >"$PEERS/nginx.conf.$host"
		half nginx $host nginx -e "$PEERS/nginx.log" -c "$PEERS/nginx.conf.$host"
	done
}

# peer_speaks PEER [OPTION...] - what openssl s_client says of its half on b, with what the server echoes
peer_speaks() {
	local peer=$1
	shift
	{ printf '\1\0\0\0\0\0\0\0came-through\n'; sleep 0.3; } | net_in a timeout 5 openssl s_client -connect "$B:$(port_of "$peer" bench)" \
		-CAfile "$PEERS/ca.pem" -verify_return_error -verify_hostname "$B_NAME" "$@" 2>&1
}

# peer_is_mutual PEER - it takes the one suite that all take and no other, and nothing from a client without a certificate
peer_is_mutual() {
	local out certificate=(-cert "$PEERS/a.pem" -key "$PEERS/a.key")
	out=$(peer_speaks "$1" "${certificate[@]}") || true
	[[ $out == *"New, TLSv1.3, Cipher is TLS_AES_128_GCM_SHA256"* && $out == *came-through* ]] || return 1
	out=$(peer_speaks "$1") || true
	[[ $out != *came-through* ]] || return 1
	out=$(peer_speaks "$1" "${certificate[@]}" -ciphersuites TLS_AES_256_GCM_SHA384) || true
	[[ $out != *came-through* ]]
}
