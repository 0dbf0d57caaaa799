#!/bin/bash
# Stock servers other than Redis: PostgreSQL under pgbench, nginx under curl and wrk, MariaDB, each in a container without a
# network, each reached through its socket file on both paths.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
e2e_start

host_up <<'CONF'
workload db { services = [ postgres ] }
service postgres { socket_path = ".s.PGSQL.5432" }
workload site { services = [ http ] }
service http { socket_path = "http.sock" }
workload maria { services = [ mysql ] }
service mysql { socket_path = "mysql.sock" }
service direct { upstream postgres { path = ".s.PGSQL.5432" } upstream http {} upstream mysql {} }
service relay { upstream postgres { path = ".s.PGSQL.5432" } upstream http {} upstream mysql {} }
intention { source = direct  destination = "*"  action = allow }
intention { source = relay  destination = "*"  action = allow  strict = true }
CONF
ctr_run direct sleep 1d
ctr_run relay sleep 1d
missing=

nobody_dir() {
	mkdir "$T/$1"
	chown 65534:65534 "$T/$1"
}

test_postgres() {
	local bin c out
	bin=$(find /usr/lib/postgresql/*/bin/postgres 2>/dev/null | sort -V | tail -1)
	if [ -z "$bin" ] || [ ! -x "${bin%/*}/pgbench" ]; then
		missing+=" PostgreSQL"
		return
	fi
	bin=${bin%/*}
	nobody_dir pg
	# shellcheck disable=SC2034 # read by ctr_run
	CTR_OPTIONS=(--rw "$T/pg:/mnt" --user 65534)
	ctr_run db sh -c "$bin/initdb -D /mnt/data -U app -A trust --locale=C -E UTF8 >/dev/null &&
		exec $bin/postgres -D /mnt/data -c listen_addresses= -c unix_socket_directories=/run/sealane/serve -c fsync=off"
	CTR_OPTIONS=()
	if ! within 60 service_is_up postgres; then
		fail "postgres comes up"
		tail -5 "$CTR_DIR/db/out"
		return
	fi
	within 20 ctr_exec direct "$bin/psql" -h /run/sealane -U app -d postgres -c 'select 1' || fail "postgres answers"
	check "pgbench -i" ctr_exec direct "$bin/pgbench" -h /run/sealane -U app -i -s 1 -q postgres
	for c in direct relay; do
		out=$(ctr_exec $c "$bin/pgbench" -h /run/sealane -U app -c 4 -j 2 -T 3 postgres 2>&1) || true
		check_match "pgbench, $c" 'number of failed transactions: 0 .*tps = ' "$(tr '\n' ' ' <<<"$out")"
		note "postgres, $c: $(grep '^tps' <<<"$out")"
	done
}

test_nginx() {
	local c out
	if ! command -v nginx >/dev/null; then
		missing+=" nginx"
		return
	fi
	mkdir "$T/www"
	head -c 3000000 /dev/urandom >"$T/www/blob"
	echo 'hello from nginx' >"$T/www/index.html"
	cat >"$T/www/nginx.conf" <<-'CONF'
	daemon off; worker_processes 1; pid /tmp/nginx.pid; error_log stderr;
	events { worker_connections 1024; }
	http { access_log off; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f;
	uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
	server { listen unix:/run/sealane/serve/http.sock; root /mnt; } }
	CONF
	CTR_OPTIONS=(--ro "$T/www:/mnt")
	ctr_run site nginx -e stderr -c /mnt/nginx.conf -g 'user root;'
	CTR_OPTIONS=()
	if ! within 10 service_is_up http; then
		fail "nginx comes up"
		tail -5 "$CTR_DIR/site/out"
		return
	fi
	for c in direct relay; do
		check_equal "curl --unix-socket, $c" "hello from nginx" \
			"$(ctr_exec $c curl -sS --max-time 10 --unix-socket /run/sealane/http.sock http://http/ 2>&1)"
		check_equal "3 MB, $c" "$(sha256sum <"$T/www/blob")" \
			"$(ctr_exec $c curl -sS --max-time 10 --unix-socket /run/sealane/http.sock http://http/blob | sha256sum)"
		if ! command -v wrk >/dev/null || ! command -v socat >/dev/null; then
			note "wrk or socat is not on this machine: left out"
			continue
		fi
		ctr_runtime exec --detach $c socat TCP-LISTEN:8080,bind=127.0.0.1,fork,reuseaddr UNIX-CONNECT:/run/sealane/http.sock \
			</dev/null >"$T/socat-$c.out" 2>&1
		within 5 ctr_exec $c curl -sS --max-time 1 http://127.0.0.1:8080/ || fail "socat listens in $c"
		out=$(ctr_exec $c wrk -t 1 -c 8 -d 3s http://127.0.0.1:8080/ 2>&1)
		check_match "wrk through socat, $c" 'Requests/sec' "$out"
		if grep -q 'Socket errors\|Non-2xx' <<<"$out"; then fail "wrk saw errors: $out"; fi
		note "nginx, $c: $(grep Requests/sec <<<"$out")"
	done
}

test_mariadb() {
	local c
	if ! command -v mariadbd >/dev/null || ! command -v mariadb-install-db >/dev/null; then
		missing+=" MariaDB"
		return
	fi
	nobody_dir my
	CTR_OPTIONS=(--rw "$T/my:/mnt" --user 65534)
	ctr_run maria sh -c 'mariadb-install-db --no-defaults --force --auth-root-authentication-method=normal --datadir=/mnt/data --skip-test-db >/dev/null 2>&1
		exec mariadbd --no-defaults --datadir=/mnt/data --skip-networking --socket=/run/sealane/serve/mysql.sock \
			--pid-file=/tmp/pid --innodb-buffer-pool-size=32M --innodb-flush-log-at-trx-commit=0'
	CTR_OPTIONS=()
	if ! within 60 service_is_up mysql; then
		fail "mariadb comes up"
		tail -5 "$CTR_DIR/maria/out"
		return
	fi
	for c in direct relay; do
		within 20 ctr_exec $c mariadb -u root -S /run/sealane/mysql.sock -e 'select 1' || true
		check_equal "mariadb client, $c" 42 "$(ctr_exec $c mariadb -u root -S /run/sealane/mysql.sock -BNe 'select 6 * 7' 2>&1)"
		check "mariadb-slap, $c" ctr_exec $c mariadb-slap --no-defaults -u root -S /run/sealane/mysql.sock --concurrency=4 \
			--iterations=2 --auto-generate-sql --number-of-queries=400
	done
}

test_postgres
test_nginx
test_mariadb
for m in $missing; do
	echo "skip - services: $m is not installed on this machine"
done
