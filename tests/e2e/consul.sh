#!/bin/bash
# The Consul service-definition file of the seed article, only with this test's directory for /tmp/mysql: the server runs in a
# container without a network and puts its socket into a shared directory of the host; the client's socket is beside it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
e2e_start

mkdir -m 777 "$T/mysql"
cat >"$T/check" <<CHECK
#!/bin/sh
exec redis-cli -s "\$1" PING
CHECK
chmod 755 "$T/check"
host_up <<CONF
services = [
{
id = "mysql"
name = "mysql"
socket_path = "$T/mysql/mysqld.sock"
connect {
sidecar_service {}
}
check {
id = "mysql-connect"
name = "mysql-test"
args = ["$T/check", "$T/mysql/mysqld.sock"]
interval = "1s"
timeout = "1s"
}
},
{
id = "client"
name = "client"
connect {
sidecar_service {
proxy {
upstreams = [
{
destination_name = "mysql"
local_bind_socket_path = "$T/mysql/mysql_local.sock"
local_bind_socket_mode = "0666"
}
]
}
}
}
}
]
CONF
# Any server does for the paths; Redis starts faster than MariaDB.
ctr_bundle mysql "$ROOTFS" "${CTR_USR[@]}" --rw "$T/mysql:/run/mysqld" \
	--hook "$SEALANE" --socket "$SOCK" hook createRuntime --workload mysql \
	-- redis-server --port 0 --unixsocket /run/mysqld/mysqld.sock --unixsocketperm 777 --save '' --dir /tmp
ctr_start mysql
check "the server's socket on the host is seen" within 10 service_is_up mysql
passing() { [ "$(api /v1/services | jq -r '.services[] | select(.name == "default/mysql") | .health')" = passing ]; }
check "the check's command passes" within 10 passing
check "the client's socket is on the host" within 5 test -S "$T/mysql/mysql_local.sock"
check_equal "with the mode that was asked for" 666 "$(stat -c %a "$T/mysql/mysql_local.sock")"

ctr_bundle client "$ROOTFS" "${CTR_USR[@]}" --ro "$T/mysql:/mnt" --hook "$SEALANE" --socket "$SOCK" hook createRuntime --workload client -- sleep 1d
ctr_start client
ask() { ctr_exec client redis-cli -s /mnt/mysql_local.sock PING; }
check_not "without an intention: refused" ask
sl intention allow client mysql >/dev/null
check_equal "with one: served" PONG "$(ask)"
check_not "a process of the host is not the client" redis-cli -s "$T/mysql/mysql_local.sock" PING
sl intention deny client mysql >/dev/null
check_not "denied again" ask
