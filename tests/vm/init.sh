#!/bin/sh
# The test machine's first process: mount what a Linux host has, run the one program, tell its status on the second serial
# line (the first carries its output, which kernel messages may cut through), power off.
export PATH=/bin:/sbin HOME=/root TERM=dumb SEALANE_VM=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
for m in /modules/*.ko; do
	[ ! -f "$m" ] || insmod "$m" || echo "vm: cannot load $m"
done
echo "vm: Linux $(uname -r)"
set --
while IFS= read -r arg; do
	set -- "$@" "$arg"
done </test/argv
cd /test || exit 1
"$@" </dev/null
echo $? >/dev/ttyS1
sync
poweroff -f
sleep 10
