#!/bin/sh
# One-sided memory on real verbs: runs inside the test machine (tests/vm/run.sh), which has SoftRoCE. /test holds the tests, libibverbs and
# librdmacm, rxe's provider, iproute2's rdma. All run at once, on ports of their own: most of their time they wait. Exit status: how many failed.
export LD_LIBRARY_PATH=/test SEALANE_RDMA_ADDRESS=10.9.0.1 SEALANE_RDMA_PORT=7444
mkdir -p /etc/libibverbs.d /usr/lib/x86_64-linux-gnu/libibverbs
echo "driver rxe" >/etc/libibverbs.d/rxe.driver
cp /test/librxe-rdmav34.so /usr/lib/x86_64-linux-gnu/libibverbs/
[ -e /sys/class/net/d0 ] || ip link add d0 type dummy
ip addr add 10.9.0.1/24 dev d0
ip link set d0 up
/test/rdma link add rxe0 type rxe netdev d0 || { echo "no SoftRoCE in this kernel" >&2; exit 77; }

start() { # NAME COMMAND...
	name=$1
	shift
	SEALANE_RDMA_PORT=$((SEALANE_RDMA_PORT + 10))
	("$@" >"/tmp/$name.log" 2>&1; echo $? >"/tmp/$name.status") &
	all="$all $name"
}
all=
for t in "$@"; do
	start "$t" "/test/$t"
done
# rxe's windows have no bounds, so they are not used (src/rdma/verbs.c); binding and revoking them works, and is shown here.
start windows env SEALANE_RDMA_WINDOWS=1 SEALANE_TEST_FILTER='*revok*' /test/test_verbs_remote
start windows_ring env SEALANE_RDMA_WINDOWS=1 /test/test_verbs_ring_remote
# What a user measures a device with: both ends here, each kind of operation, and not by what stands in for a device.
wait
# By itself: beside the others an emulated machine may answer later than a device waits.
start bench sh -c '/test/sealane bench rdma --json --time 3s | tee /tmp/bench.json | cut -c1-200
	for what in "\"backend\":\"verbs\",\"device\":\"rxe0\"" READ WRITE compare-and-swap "WRITE with immediate" ring; do
		grep -q "$what" /tmp/bench.json || { echo "no $what"; exit 1; }
	done'
wait
n_failed=0
for t in $all; do
	echo "== $t"
	grep -v '^\[ RUN' "/tmp/$t.log"
	[ "$(cat "/tmp/$t.status")" = 0 ] || n_failed=$((n_failed + 1))
done
echo "rdma: done at $(cut -d' ' -f1 /proc/uptime) s, $n_failed failed"
exit $n_failed
