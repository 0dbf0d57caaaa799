services = [
{
id = "mysql"
name = "mysql"
socket_path = "/tmp/mysql/mysqld.sock"
connect {
sidecar_service {}
}
check {
id = "mysql-connect"
name = "mysql-test"
args = ["/usr/bin/mysqladmin", "ping", "-S", "/tmp/mysql/mysqld.sock"]
interval = "5s"
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
local_bind_socket_path = "/tmp/mysql/mysql_local.sock"
}
]
}
}
}
}
]
