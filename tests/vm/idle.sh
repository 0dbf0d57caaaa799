#!/bin/sh
# shellcheck disable=SC3045 # busybox has it
# 10,000 idle lanes between two workloads, and 1,000 busy ones, where descriptors may be had: tests/e2e/lanes_many.sh does the same in
# containers, with as many as the machine allows a process. Runs as root inside the test machine (run.sh); by hand, not in ./test:
#
#   SEALANE_VM_MEMORY=4096 SEALANE_VM_TIMEOUT=1800 tests/vm/run.sh -f BUILD/src/daemon/sealaned -f BUILD/src/cli/sealane \
#     -f BUILD/tests/e2e/lanetool tests/vm/idle.sh [LANES]
#
# With SEALANE_VM_ACCEL=kvm, where there is one, in half a minute. Prints what a lane takes of each process, and of the host.
export PATH="/test:$PATH"
LANES=${1:-10000}
N_FAILED=0
ulimit -n 1048576

ok() { echo "ok - idle: $*"; }
fail() {
	echo "not ok - idle: $*"
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
within() { # SECONDS COMMAND...
	tries=$(($1 * 5))
	shift
	until "$@" >/dev/null 2>&1; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || return 1
		usleep 200000
	done
}

# pid_of ROLE - of the daemon's process; a workload's lanetool is told by its first argument
pid_of() {
	for p in $(pidof sealaned lanetool); do
		case $(tr '\0' ' ' <"/proc/$p/cmdline") in
		"sealaned --role=$1 "* | *"lanetool $1 "*) echo "$p" ;;
		esac
	done | head -n 1
}
cpu_ms() { sed 's/.*) //' "/proc/$1/stat" | awk '{ print ($12 + $13) * 10 }'; }
rss_kib() { awk '/^VmRSS/ { print $2 }' "/proc/$1/status"; }
n_fds() { find "/proc/$1/fd" -type l | wc -l; }
used_kib() { awk '/^MemTotal/ { t = $2 } /^MemFree/ { f = $2 } /^Cached/ { c = $2 } /^Shmem:/ { s = $2 } END { print t - f - c + s }' /proc/meminfo; }
shmem_kib() { awk '/^Shmem:/ { print $2 }' /proc/meminfo; }

cat >/test/sealane.conf <<'CONF'
cdi_dir = off
workload cache { services = [ echo ] }
workload web { services = [ web ] }
service echo {}
service web {}
intention { source = web  destination = echo  action = allow }
CONF
sealaned -c /test/sealane.conf </dev/null >/test/daemon.log 2>&1 &
check "the daemon answers" within 60 sealane status
sealane run --workload cache -- lanetool serve echo >/test/serve.out 2>&1 &
check "the server listens" within 60 grep -q listening /test/serve.out

roles="warden broker porter keeper serve hold"
for r in $roles; do # the client is not there yet
	p=$(pid_of "$r")
	[ -n "$p" ] && n_fds "$p" >"/test/fds.$r" && rss_kib "$p" >"/test/rss.$r"
done
echo 5 >/test/fds.hold
echo 1500 >/test/rss.hold
used=$(used_kib) shmem=$(shmem_kib) began=$(date +%s)
sealane run --workload web -- lanetool hold echo "$LANES" 120 >/test/hold.out 2>&1 &
hold=$!
check "$LANES lanes open" within 1200 grep -q held /test/hold.out
# The rest is to be done in the two minutes for which the client holds them.
echo "# opened in $(($(date +%s) - began)) s"
usleep 3000000
for r in $roles; do
	cpu_ms "$(pid_of "$r")" >"/test/cpu.$r"
done
usleep 5000000
for r in $roles; do # first what must be zero: from here on we ask for things
	used_ms=$(($(cpu_ms "$(pid_of "$r")") - $(cat "/test/cpu.$r")))
	if [ "$r" = hold ] || [ "$r" = serve ] || [ "$r" = porter ]; then
		check_equal "CPU of $r in five idle seconds, in ms" 0 $used_ms
	else
		echo "# $r: $used_ms ms of CPU in five seconds"
	fi
done
check_equal "ls lanes has them all" "$LANES" "$(sealane --json ls lanes | tr -d ' \n' | sed 's/"path":"shm"/\n&/g' | grep -c '^"path":"shm"')"
for r in $roles; do
	p=$(pid_of "$r")
	fds=$(($(n_fds "$p") - $(cat "/test/fds.$r"))) rss=$(($(rss_kib "$p") - $(cat "/test/rss.$r")))
	echo "# $r: $((fds * 100 / LANES)) descriptors for 100 lanes, $((rss * 1024 / LANES)) bytes a lane"
done
echo "# host: $((($(shmem_kib) - shmem) * 1024 / LANES)) bytes of shared memory a lane, $((($(used_kib) - used) * 1024 / LANES)) in all"
rc=0
wait $hold || rc=$?
check_equal "they all answer afterwards" "0 ok all $LANES lanes answer" "$rc $(tail -n 1 /test/hold.out)"

read -r _ least median most <<FAIR
$(sealane run --workload web -- lanetool fair echo 1000 5 2>/test/fair.err || echo "fair 0 1 1000000")
FAIR
echo "# 1,000 busy lanes: round trips of a lane in 5 s: least $least, median $median, most $most"
check "1,000 busy lanes: the least has at least half of the median" test $((least * 2)) -ge "$median"
check "and the most at most four times" test "$most" -le $((median * 4))

if [ $N_FAILED != 0 ]; then
	tail -n 20 /test/daemon.log | cut -c1-300 | sed 's/^/#   /'
	sed 's/^/#   /' /test/hold.out /test/serve.out /test/fair.err | tail -n 20
	exit 1
fi
