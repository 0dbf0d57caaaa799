#!/bin/sh
# run.sh [-r ROOT] [-f FILE]... PROGRAM [ARG]... - run a program as root on a Linux of its own: Debian's stock kernel in an emulated
# machine, with busybox, cgroup2, securityfs and bpffs mounted, and no network. The program's exit status becomes ours.
#
# PROGRAM is a binary (its shared libraries travel along) or a busybox sh script; it runs in /test under its base name.
# -f FILE also puts FILE there as /test/BASENAME, with its libraries if it is a binary; a FILE without a slash is a program of
# this machine's. Arguments may not hold newlines.
# -r ROOT is another root's archive (cpio), whose /init does what init.sh does for the usual one.
#
#   SEALANE_VM_SUITE    kernel of another Debian suite, see mkimg.sh ("bookworm-backports")
#   SEALANE_VM_FLAVOUR  kernel with more drivers, see mkimg.sh ("amd64")
#   SEALANE_VM_APPEND   more for the kernel command line ("lsm=yama": the last one of each option counts)
#   SEALANE_VM_TIMEOUT  seconds until the machine is taken down (default 300)
#   SEALANE_VM_MEMORY   MiB (default 1024)
#   SEALANE_VM_ACCEL    QEMU's -accel (default tcg,thread=multi: works everywhere, some 20 times slower than a CPU)
#   SEALANE_VM_NET      "on|off,SOCKET,N": a wire to another machine; the one with "on" makes SOCKET; N is its card's number
#   SEALANE_VM_CACHE    where kernel and root are kept (default .cache/vm in the source tree)
#
# Exit status 77: there can be no such machine here; the reason is on standard error.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${SEALANE_VM_CACHE:-$here/../../.cache/vm}

usage() { echo "usage: run.sh [-r ROOT] [-f FILE]... PROGRAM [ARG]..." >&2; exit 2; }

tmp=$(mktemp -d)
qemu=
trap 'rm -rf "$tmp"' EXIT
trap '[ -z "$qemu" ] || kill "$qemu" 2>/dev/null; exit 130' INT TERM HUP

# put FILE - into the overlay's /test, with the libraries it needs where its loader looks for them
put() {
	file=$1
	[ -f "$1" ] || file=$(command -v "$1") || { echo "no $1 here" >&2; exit 77; }
	mkdir -p "$tmp/o/test"
	cp -L "$file" "$tmp/o/test/$(basename "$1")"
	chmod 755 "$tmp/o/test/$(basename "$1")"
	for lib in $(ldd "$file" 2>/dev/null | grep -oE '/[^ ]+\.so[^ ]*' | sort -u); do
		dir=$(dirname "$lib")
		dir=/${dir#/}
		case $dir in /usr/lib*) dir=${dir#/usr} ;; esac # the root's /usr/lib is its /lib
		mkdir -p "$tmp/o$dir"
		cp -L "$lib" "$tmp/o$dir/"
	done
}

root=
while getopts f:r: opt; do
	case $opt in
	r) root=$OPTARG ;;
	f) put "$OPTARG" ;;
	*) usage ;;
	esac
done
shift $((OPTIND - 1))
[ $# -ge 1 ] || usage
command -v qemu-system-x86_64 >/dev/null || { echo "no qemu-system-x86_64 here: install qemu-system-x86" >&2; exit 77; }
"$here/mkimg.sh" "$cache" >"$tmp/image"
kernel=$(sed -n 1p "$tmp/image")
root=${root:-$(sed -n 2p "$tmp/image")}

put "$1"
program=/test/$(basename "$1")
shift
printf '%s\n' "$program" "$@" >"$tmp/o/test/argv"
# The kernel unpacks archives one after the other into the same root (Documentation/driver-api/early-userspace).
cp "$root" "$tmp/initrd"
(cd "$tmp/o" && find . | busybox cpio -o -H newc 2>/dev/null) >>"$tmp/initrd"

# The emulator of Debian 12 (7.2) spoils the flags register in CMPXCHG16B, on which the allocator of 6.12 dies within seconds
# (double fault in kmem_cache_alloc). It can do without; since 6.18 the BPF memory that guard_exempt() needs comes from there alone.
version_at=$(od -An -tu2 -j526 -N2 "$kernel")
version=$(tail -c +$((version_at + 513)) "$kernel" | head -c 64 | tr -d '\0')
case $version in
[1-5].* | 6.[0-9].* | 6.1[0-7].*) cpu=max,-cx16 ;;
*) cpu=max ;;
esac
# no_timer_check: at boot the kernel waits for ten ticks of its timer to see that it is wired; on a busy host the emulator is too late, and it panics
# ("IO-APIC + timer doesn't work").
if [ -n "${SEALANE_VM_NET:-}" ]; then
	socket=${SEALANE_VM_NET#*,}
	set -- -netdev "stream,id=n0,server=${SEALANE_VM_NET%%,*},addr.type=unix,addr.path=${socket%,*}" \
		-device "virtio-net-pci,netdev=n0,romfile=,mac=52:54:00:00:00:0${socket##*,}"
else
	set --
fi
timeout -k 5 "${SEALANE_VM_TIMEOUT:-300}" qemu-system-x86_64 -accel "${SEALANE_VM_ACCEL:-tcg,thread=multi}" -cpu "$cpu" -smp 2 \
	-m "${SEALANE_VM_MEMORY:-1024}" -nodefaults -display none -no-reboot -serial "file:$tmp/console" -serial "file:$tmp/status" -kernel "$kernel" \
	-initrd "$tmp/initrd" -append "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off no_timer_check \
lsm=landlock,lockdown,yama,loadpin,safesetid,integrity,apparmor,selinux,smack,tomoyo,bpf ${SEALANE_VM_APPEND:-}" "$@" </dev/null &
qemu=$!
r=0
wait $qemu || r=$?
qemu=
tr -d '\r' <"$tmp/console" 2>/dev/null || true
status=$(tr -cd 0-9 <"$tmp/status" 2>/dev/null || true)
if [ $r = 124 ] || [ $r = 137 ]; then
	echo "the test machine was taken down after ${SEALANE_VM_TIMEOUT:-300} s" >&2
	exit 1
fi
[ -n "$status" ] || { echo "the test machine ended without a status (qemu: $r)" >&2; exit 1; }
exit "$status"
