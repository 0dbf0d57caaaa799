#!/bin/bash
# The Python module in containers: who is who, refusals and cuts as exceptions, a daemon that goes and comes.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
e2e_start
CTR_OPTIONS=(--ro "$BUILD:/build" --ro "$ROOT:/src")
PY=(env PYTHONPATH=/src/python SEALANE_LIBRARY=/build/src/client/libsealane.so.0 PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3)

host_up <<'CONF'
restart_grace = 20s
workload server { services = [ echo, silent, news ] }
service echo {}
service silent {}
service news {}
service client {}
service intruder {}
intention { source = client  destination = "*"  action = allow }
CONF
ctr_run server "${PY[@]}" /src/examples/lanes/echo_server.py echo
for name in client intruder; do ctr_run $name sleep 1d; done
python_in() { # CONTAINER PROGRAM
	ctr_exec "$1" timeout 30 "${PY[@]}" -c "import sealane
$2" 2>&1
}
# raises CONTAINER STATEMENT - prints the exception's class and line
raises() {
	python_in "$1" "
try:
    $2
    print('nothing')
except sealane.Error as e:
    print(type(e).__name__, e.errno, e.strerror)" || true
}
up() { python_in client 'sealane.connect("echo", kind=sealane.MESSAGES).close()'; }
check "the server listens" within 10 up

check_equal "messages of all sizes come back" "ok" "$(python_in client '
import os, threading
with sealane.connect("echo", kind=sealane.MESSAGES) as lane:
    for size in (0, 1, 100, 65536, 65537, 1000000):
        message = os.urandom(size)
        sender = threading.Thread(target=lane.send, args=[message])
        sender.start()
        assert lane.recv(timeout=10) == message, size
        sender.join()
print("ok")')"
check_match "the peer, as the daemon says" "service='default/echo', spiffe_id='spiffe://[^']*/ns/default/svc/echo', workload='server', host='[^']+', path='shm'" \
	"$(python_in client 'print(sealane.connect("echo", kind=sealane.MESSAGES).peer)')"
check_equal "the end is None, a closed half can still receive" "b'x' None" "$(python_in client '
lane = sealane.connect("echo", kind=sealane.MESSAGES)
lane.send(b"x")
lane.shutdown()
print(lane.recv(timeout=5), lane.recv(timeout=5))')"

ctr_exec server timeout 60 "${PY[@]}" -c '
import sealane, time
with sealane.publisher_open("news") as publisher:
    for i in range(1000000):
        publisher.publish(b"%06d" % i + bytes(1000))
        time.sleep(0.0002)' >"$T/publisher" 2>&1 &
subscribed() { python_in client 'sealane.subscribe("news").close()'; }
check "a publisher is there" within 10 subscribed
check_equal "a slow subscriber knows how many messages it missed, and each other one comes once and in order" "ok" "$(python_in client '
import time
with sealane.subscribe("news") as news:
    last = int(news.next(timeout=5)[:6])
    for i in range(500):
        number = int(news.next(timeout=5)[:6])
        assert number == last + 1 + news.missed, (last, number, news.missed)
        last = number
        if i == 100:
            time.sleep(1)
    assert news.missed_total > 100, news.missed_total
print("ok")')"

check_match "refused" '^Denied 4098 .*echo' "$(raises intruder 'sealane.connect("echo", kind=sealane.MESSAGES)')"
check_match "a service nobody knows" '^NoService 4099 .*nosuch' "$(raises client 'sealane.connect("nosuch")')"
check_match "a service that nobody listens for" '^NoService 4099 .*silent' "$(raises client 'sealane.connect("silent", timeout=1)')"
check_match "one that listens for messages, not streams" '^Error 91 echo: .*takes messages, not stream' "$(raises client 'sealane.connect("echo", timeout=1)')"
check_match "a service of another workload" '^(Denied|NoService) ' "$(raises client 'sealane.listen("echo")')"
check_match "no control socket" '^NoDaemon 4100 /nonexistent/control.sock' "$(raises client 'sealane.connect("echo", dir="/nonexistent")')"

cat >"$T/long.py" <<'PY'
import sealane, sys
lane = sealane.connect("echo", kind=sealane.MESSAGES)
print("open", flush=True)
try:
    while True:
        lane.send(b"tick")
        lane.recv(timeout=5)
        print("tick", flush=True)
        try:
            lane.recv(timeout=0.1)
        except sealane.Timeout:
            pass
except sealane.Error as e:
    print(type(e).__name__, e.strerror, flush=True)
PY
ctr_exec client "${PY[@]}" - <"$T/long.py" >"$T/long" 2>&1 &
long=$!
check "a lane that stays" within 10 grep -q tick "$T/long"
host_kill KILL
check_match "the daemon is away: new ones wait for the next, as long as they may" '^(Timeout|NoDaemon) ' "$(raises client 'sealane.connect("echo", kind=sealane.MESSAGES, timeout=1)')"
before=$(grep -c tick "$T/long")
more() { [ "$(grep -c tick "$T/long")" -gt $((before + 3)) ]; }
check "its lanes go on" within 5 more
host_start
check "the server takes lanes again" within 15 up
sl intention deny client echo >/dev/null
wait $long || true
check_match "a cut is an exception" '^Cut .*was cut: no longer allowed' "$(tail -1 "$T/long")"
