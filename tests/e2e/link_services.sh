#!/bin/bash
# Stock servers across two hosts, each in a container without a network, as is its client: PostgreSQL under pgbench, nginx under
# curl, and MariaDB with the service-definition file of the seed article, word for word, on both hosts.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib_hosts.sh"
hosts_start
missing=

# The article's paths are below /tmp/mysql, on two machines. Here each daemon has a mount namespace in which that is a directory
# of its own host.
MYSQL=/tmp/mysql
made_mysql=
# Removed, it would be gone from the namespaces of another run of this test, too: hence the lock, which each run shares.
end_mysql() { [ -z "$made_mysql" ] || ! flock -xn "$mysql_fd" || rmdir "$MYSQL" 2>/dev/null || true; }
trap 'end_mysql; e2e_end' EXIT
until [ -n "${mysql_fd:-}" ] && [ "$MYSQL" -ef "/proc/$$/fd/$mysql_fd" ]; do
	! mkdir "$MYSQL" 2>/dev/null || made_mysql=1
	exec {mysql_fd}<"$MYSQL"
	flock -s "$mysql_fd"
done

server() {
	cat <<-'CONF'
	workload db { services = [ postgres ] }
	service postgres { socket_path = ".s.PGSQL.5432" }
	workload site { services = [ http ] }
	service http {}
	CONF
}
clients() {
	cat <<-'CONF'
	service app { upstream postgres { path = ".s.PGSQL.5432" } upstream http {} }
	intention { source = app  destination = "*"  action = allow }
	CONF
}
article() { cat "$ROOT/examples/consul-mysql.hcl"; } # word for word
{ article; clients; } >"$T/a.conf"
{ article; server; clients; } >"$T/b.conf"
host_conf a app client mysql <"$T/a.conf"
host_conf b postgres http client mysql <"$T/b.conf"
# shellcheck disable=SC2016 # for the inner shell
HOST_ENTER=(unshare --mount --propagation private sh -c 'mount --bind "$0/$(basename "$(dirname "$3")")/mysql" /tmp/mysql && exec "$@"' "$T")
for h in a b; do
	mkdir "$T/$h/mysql"
	chmod 777 "$T/$h/mysql"
done
hosts_up a b
join_all
on a ctr_run app sleep 1d

nobody_dir() {
	mkdir "$T/$1"
	chown 65534:65534 "$T/$1"
}

test_postgres() {
	local bin out
	bin=$(find /usr/lib/postgresql/*/bin/postgres 2>/dev/null | sort -V | tail -1)
	if [ -z "$bin" ] || [ ! -x "${bin%/*}/pgbench" ]; then
		missing+=" PostgreSQL"
		return
	fi
	bin=${bin%/*}
	nobody_dir pg
	# shellcheck disable=SC2034 # read by ctr_run
	CTR_OPTIONS=(--rw "$T/pg:/mnt" --user 65534)
	on b ctr_run db sh -c "$bin/initdb -D /mnt/data -U app -A trust --locale=C -E UTF8 >/dev/null &&
		exec $bin/postgres -D /mnt/data -c listen_addresses= -c unix_socket_directories=/run/sealane/serve -c fsync=off"
	CTR_OPTIONS=()
	within 60 on b service_is_up postgres || { fail "postgres comes up"; return; }
	select_one() { on a ctr_exec app "$bin/psql" -h /run/sealane -U app -d postgres -c 'select 1'; }
	check "psql, from the other host" within 20 select_one
	check "pgbench -i" on a ctr_exec app "$bin/pgbench" -h /run/sealane -U app -i -s 1 -q postgres
	out=$(on a ctr_exec app "$bin/pgbench" -h /run/sealane -U app -c 4 -j 2 -T 4 postgres 2>&1) || true
	check_match "pgbench" 'number of failed transactions: 0 .*tps = ' "$(tr '\n' ' ' <<<"$out")"
	note "postgres: $(grep '^tps' <<<"$out")"
	out=$(on a ctr_exec app "$bin/pgbench" -h /run/sealane -U app -C -c 4 -j 2 -T 2 -S postgres 2>&1) || true
	check_match "pgbench, a connection for each transaction" 'number of failed transactions: 0 .*tps = ' "$(tr '\n' ' ' <<<"$out")"
	note "postgres, a connection each: $(grep '^tps' <<<"$out")"
}

test_nginx() {
	local bad=0
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
	on b ctr_run site nginx -e stderr -c /mnt/nginx.conf -g 'user root;'
	CTR_OPTIONS=()
	within 10 on b service_is_up http || { fail "nginx comes up"; return; }
	page() { on a ctr_exec app curl -sS --max-time 10 --unix-socket /run/sealane/http.sock "http://http/$1"; }
	check "curl --unix-socket, from the other host" within 20 page ''
	check_equal "its page" "hello from nginx" "$(page '')"
	check_equal "3 MB" "$(sha256sum <"$T/www/blob")" "$(page blob | sha256sum)"
	for _ in $(seq 20); do [ "$(page '')" = "hello from nginx" ] || bad=$((bad + 1)); done
	check_equal "20 more, each on a connection of its own" 0 "$bad"
}

mysql_ask() { on a ctr_exec client mariadb -u root --socket=/tmp/mysql/mysql_local.sock -BNe "$1"; }

test_article() {
	if ! command -v mariadbd >/dev/null || ! command -v mariadb-install-db >/dev/null || [ ! -x /usr/bin/mysqladmin ]; then
		missing+=" MariaDB"
		return
	fi
	nobody_dir my
	run_mysql() {
		ctr_bundle mysql "$ROOTFS" "${CTR_USR[@]}" --rw "$T/mysql:/run/mysqld" --rw "$HOSTS_DIR/my:/mnt" --user 65534 \
			--hook "$SEALANE" --socket "$SOCK" hook createRuntime --workload mysql -- sh -c 'mariadb-install-db --no-defaults --force \
			--auth-root-authentication-method=normal --datadir=/mnt/data --skip-test-db >/dev/null 2>&1
			exec mariadbd --no-defaults --datadir=/mnt/data --skip-networking --socket=/run/mysqld/mysqld.sock \
			--pid-file=/tmp/pid --innodb-buffer-pool-size=32M --innodb-flush-log-at-trx-commit=0'
		ctr_start mysql
	}
	run_client() {
		ctr_bundle client "$ROOTFS" "${CTR_USR[@]}" --ro "$T/mysql:/tmp/mysql" \
			--hook "$SEALANE" --socket "$SOCK" hook createRuntime --workload client -- sleep 1d
		ctr_start client
	}
	on b run_mysql
	on a run_client
	within 60 on b service_is_up mysql || { fail "mariadb comes up"; tail -5 "$T/b/c/mysql/out"; return; }
	passing() { [ "$(api /v1/services | jq -r '.services[] | select(.name == "default/mysql") | .health')" = passing ]; }
	check "the check of the article's file passes" within 25 on b passing
	check "the client's socket is where the file says" within 5 test -S "$T/a/mysql/mysql_local.sock"
	check_equal "for everybody, as nothing else was said" 666 "$(stat -c %a "$T/a/mysql/mysql_local.sock")"
	check_not "without an intention: refused" mysql_ask 'select 1'
	on a sl intention allow client mysql >/dev/null
	check_not "with one on the client's host alone: refused" mysql_ask 'select 1'
	on b sl intention allow client mysql >/dev/null
	check "with one on both: served" within 20 mysql_ask 'select 1'
	check_equal "and it computes" 42 "$(mysql_ask 'select 6 * 7' 2>&1)"
	check "mariadb-slap" on a ctr_exec client mariadb-slap --no-defaults -u root -S /tmp/mysql/mysql_local.sock --concurrency=4 \
		--iterations=2 --auto-generate-sql --number-of-queries=400
	on b sl intention deny client mysql >/dev/null
	check_not "denied again" mysql_ask 'select 1'
}

for t in ${TESTS:-postgres nginx article}; do
	"test_$t"
done
for m in $missing; do
	echo "skip - link_services: $m is not installed on this machine"
done
