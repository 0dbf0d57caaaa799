#!/bin/sh
# Inside one of lanes.sh's machines: lanes_inside.sh a|b. b has redis and a server of the library, and does what a says over the wire; a has the clients and
# the checks. Prints "ok - ..." or "not ok - ..." for each.
export PATH="/test:$PATH"
ME=$1
A=10.8.0.1 B=10.8.0.2
LOG=/test/daemon.log
ORDERS=9001 # b's port
N_FAILED=0

ok() { echo "ok - rdma lanes: $* (at $(cut -d' ' -f1 /proc/uptime) s)"; }
fail() {
	echo "not ok - rdma lanes: $*"
	N_FAILED=$((N_FAILED + 1))
}
check() { # WHAT COMMAND...
	what=$1
	shift
	if out=$("$@" 2>&1); then ok "$what"; else fail "$what: $* said: $out"; fi
}
check_equal() { # WHAT EXPECTED GOT
	if [ "$2" = "$3" ]; then ok "$1"; else fail "$1: expected \"$2\", got \"$3\""; fi
}
check_match() { # WHAT REGEX TEXT
	if echo "$3" | grep -qE "$2"; then ok "$1"; else fail "$1: expected \"$2\" in: $3"; fi
}
within() { # SECONDS COMMAND...
	end=$(($(cut -d. -f1 /proc/uptime) + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ "$(cut -d. -f1 /proc/uptime)" -lt "$end" ] || return 1
		usleep 200000
	done
}
on_b() { echo "$*" | nc -w 20 $B $ORDERS; }
orders_work() { [ "$(on_b echo here)" = here ]; }

# ------------------------------------------------------------------ each machine

for lib in libibverbs.so.1 librdmacm.so.1; do
	cp /test/$lib /usr/lib/x86_64-linux-gnu/
done
mkdir -p /etc/libibverbs.d /usr/lib/x86_64-linux-gnu/libibverbs
echo "driver rxe" >/etc/libibverbs.d/rxe.driver
cp /test/librxe-rdmav34.so /usr/lib/x86_64-linux-gnu/libibverbs/
[ "$ME" = a ] && address=$A || address=$B
ip addr add "$address/24" dev eth0
ip link set eth0 up
rdma link add rxe0 type rxe netdev eth0 || { echo "no SoftRoCE in this kernel" >&2; exit 77; }

cat >/test/sealane.conf <<CONF
host_name = $ME
listen = "$address:7443"
host a { address = "$A:7443" }
host b { address = "$B:7443" }
rdma = auto
cdi_dir = off
link_timeout = 10s
connect_wait = 20s
intention { source = web  destination = redis  action = allow }
intention { source = web  destination = echo   action = allow }
CONF
if [ "$ME" = a ]; then
	echo 'service web { upstream redis {}  upstream echo {} }' >>/test/sealane.conf
else
	echo 'service redis { socket_path = "redis.sock" }  service echo { socket_path = "echo.sock" }' >>/test/sealane.conf
fi
sealaned -v -c /test/sealane.conf </dev/null >>$LOG 2>&1 &
within 60 sealane status || { cat $LOG; exit 1; }

if [ "$ME" = b ]; then
	sealane run --service redis -- redis-server --port 0 --unixsocket /run/sealane/serve/redis.sock --unixsocketperm 777 --save '' --dir /tmp >/test/redis.log 2>&1 &
	sealane run --service echo -- lanetool serve echo >/test/echo.log 2>&1 &
	nc -ll -p $ORDERS -e /bin/sh
	exit 0
fi

# ------------------------------------------------------------------ a: joining

web() { sealane run --service web -- "$@"; }
# The container's own network namespace has only lo, so what it says goes by lanes or not at all.
ping_redis() { web redis-cli -s /run/sealane/redis.sock PING; }
is_pong() { [ "$(ping_redis 2>&1)" = PONG ]; }
# The path of web's newest session, without its blank.
path_to_b() { sealane --json ls links | tr -d '\n ' | sed 's/{"direction"/\n&/g' | grep '"direction":"out"' | grep '/svc/web"' | sed -n 's/.*"path":"\([^"]*\)".*/\1/p' | tail -n 1; }
path_is() { path_to_b | grep -qx "$1"; }

check "b takes orders" within 120 orders_work
check "this host is the authority" sealane ca init
token=$(sealane ca token b --service '*' 2>&1 | grep -o 'sl1\.[A-Za-z0-9_-]*')
check_match "b joins" joined "$(on_b "sealane join $token 2>&1; echo joined \$?" | tr '\n' ' ')"
has_device() { sealane status | grep -q '^rdma .*rxe0'; }
check "status: a device" within 30 has_device
check_match "doctor: all of it" 'RDMA device +ok.*RDMA nodes +ok.*RDMA addresses +ok.*daemon: RDMA +ok +linker 0 has rxe0' "$(sealane doctor | tr '\n' ' ')"
check "redis answers across the two machines" within 60 is_pong

# ------------------------------------------------------------------ over RDMA

check "the session goes by RDMA" within 30 path_is 'rdma(rxe0)'
check_match "explain says so" 'path +.*rdma \(rxe0\)' "$(sealane explain web redis)"
check_match "so does ls links" 'rdma \(rxe0\)' "$(sealane ls links)"
check_match "and the other host" 'rdma \(rxe0\)' "$(on_b sealane ls links)"
head -c 1000000 /dev/urandom >/test/big
sum=$(sha256sum </test/big)
check_equal "SET of 1 MB" OK "$(web redis-cli -s /run/sealane/redis.sock -x SET big </test/big 2>&1)"
web redis-cli -s /run/sealane/redis.sock --raw GET big | head -c 1000000 >/test/again
check_equal "GET gives the same" "$sum" "$(sha256sum </test/again)"
check_match "a lane of the library" 'b' "$(web lanetool ping echo 50 1000 2>&1)"

# ------------------------------------------------------------------ load

gone() { [ ! -d /proc/$load ] || grep -q "^State:.Z" /proc/$load/status; }
is_cut() { # 3: cut, and no end of stream
	gone || kill $load
	wait $load
	check_equal "its client was told that it was cut" 3 $?
}
start_load() { # talks until something fails
	web lanetool talk echo >/test/load.out 2>&1 &
	load=$!
}

# ------------------------------------------------------------------ another mode: for new sessions, at once; a lane that stands is not cut

set_rdma() { # a|b MODE
	order="sed -i 's/^rdma = .*/rdma = $2/' /test/sealane.conf; sealane reload"
	if [ "$1" = b ]; then on_b "$order"; else sh -c "$order"; fi >/dev/null
}
goes_by() { is_pong && path_is "$1"; }
b_has_none() { on_b sealane status | grep '^rdma ' | grep -qv rxe0; }

# One lane that stands, and others that come and go, all in one container.
web sh -c 'lanetool talk echo >/test/talk.out 2>&1 & while kill -0 $! 2>/dev/null; do redis-cli -s /run/sealane/redis.sock PING; usleep 300000; done' >/test/load.out 2>&1 &
load=$!
usleep 3000000
set_rdma b plain
set_rdma a plain
check "plain, where both say so" within 60 path_is 'rdma(rxe0,plain)'
set_rdma a auto
check "sealed again, where one does not" within 60 path_is 'rdma(rxe0)'
set_rdma b off
check "b does without" within 60 path_is tls
check_match "explain says why" 'tls, not rdma: the other host has no RDMA device' "$(sealane explain web redis)"
if gone; then fail "a lane that stood was cut: $(tail -n 3 /test/talk.out)"; else ok "a lane that stood all the while still does"; fi
check_equal "and each of the others was answered" "" "$(grep -v '^PONG' /test/load.out | head -n 3)"
kill "$(pidof lanetool)"
wait $load
check "b has let go of its device, when the lane had ended" within 60 b_has_none
set_rdma b plain
set_rdma a plain
check "b has it again: by RDMA, plain" within 60 goes_by 'rdma(rxe0,plain)'
set_rdma a auto
set_rdma b auto
check "and sealed" within 60 goes_by 'rdma(rxe0)'
check_equal "no linker was lost" "" "$(grep linker.lost $LOG; on_b "grep linker.lost $LOG")"

# ------------------------------------------------------------------ b's linker dies under load

start_load
usleep 2000000
on_b "kill -9 \$(for p in \$(pidof sealaned); do tr '\\0' ' ' </proc/\$p/cmdline | grep -q role=linker && echo \$p; done)"
check "b's linker is killed: the lane is cut" within 30 gone
is_cut
check "and redis answers again" within 60 is_pong
check "by RDMA" within 60 path_is 'rdma(rxe0)'

# ------------------------------------------------------------------ the wire is cut for longer than link_timeout

start_load
usleep 2000000
on_b "(usleep 500000; ip link set eth0 down; sleep 25; ip link set eth0 up) >/dev/null 2>&1 &"
usleep 3000000
check "the wire is cut: so is the lane" within 40 gone
is_cut
check "the wire is back: redis answers" within 90 is_pong
# SoftRoCE answers no request for a connection any more where its network card was down, so b makes itself another device.
set_rdma b off
check "b does without" within 60 goes_by tls
check "b has let go of the old device" within 60 b_has_none
on_b "rdma link delete rxe0; rdma link add rxe0 type rxe netdev eth0"
set_rdma b auto
check "and has a new one: by RDMA" within 60 goes_by 'rdma(rxe0)'

if [ $N_FAILED != 0 ]; then
	tail -n 80 $LOG | cut -c1-400 | sed 's/^/#   /'
	on_b "tail -n 60 $LOG" | cut -c1-400 | sed 's/^/# b /'
fi
exit $N_FAILED
