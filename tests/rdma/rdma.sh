#!/bin/sh
# One-sided memory on real verbs: runs inside the test machine (tests/vm/run.sh), which has SoftRoCE. /test holds the tests, libibverbs and
# librdmacm, rxe's provider, iproute2's rdma. Exit status: how many programs failed.
export LD_LIBRARY_PATH=/test SEALANE_RDMA_ADDRESS=10.9.0.1
mkdir -p /etc/libibverbs.d /usr/lib/x86_64-linux-gnu/libibverbs
echo "driver rxe" >/etc/libibverbs.d/rxe.driver
cp /test/librxe-rdmav34.so /usr/lib/x86_64-linux-gnu/libibverbs/
[ -e /sys/class/net/d0 ] || ip link add d0 type dummy
ip addr add 10.9.0.1/24 dev d0
ip link set d0 up
/test/rdma link add rxe0 type rxe netdev d0 || { echo "no SoftRoCE in this kernel" >&2; exit 77; }
n_failed=0
for t in "$@"; do
	"/test/$t" || n_failed=$((n_failed + 1))
	echo "rdma: $t done at $(cut -d' ' -f1 /proc/uptime) s"
done
exit $n_failed
