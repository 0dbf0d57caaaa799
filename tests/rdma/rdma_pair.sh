#!/bin/sh
# Inside one of pair.sh's machines: rdma_pair.sh PROGRAM ROLE ADDRESS
export LD_LIBRARY_PATH=/test
mkdir -p /etc/libibverbs.d /usr/lib/x86_64-linux-gnu/libibverbs
echo "driver rxe" >/etc/libibverbs.d/rxe.driver
cp /test/librxe-rdmav34.so /usr/lib/x86_64-linux-gnu/libibverbs/
ip addr add "$3/24" dev eth0
ip link set eth0 up
/test/rdma link add rxe0 type rxe netdev eth0 || { echo "no SoftRoCE in this kernel" >&2; exit 77; }
"/test/$1" "$2"
