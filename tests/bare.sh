#!/bin/bash
# Runs a command in a Debian 12 with nothing but its base, made by debootstrap, with a copy of this repository in it: shows that
# ./quickstart and ./test install all that they need. By hand; not a part of ./test.
#
#   tests/bare.sh COMMAND...       e.g.  tests/bare.sh './quickstart && ./quickstart'
#
#   BARE_BASE   where the base is kept between runs (default: .cache/bare-base in the repository)
#
# The kernel, its cgroups and its PID namespace are this machine's; files and mounts are the bare Debian's own.
set -euo pipefail
cd "$(dirname "$0")/.."
ROOT=$PWD
BASE=${BARE_BASE:-$ROOT/.cache/bare-base}
[ $# -gt 0 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2; }
[ "$(id -u)" = 0 ] || { echo "tests/bare.sh: root is needed for debootstrap and mounts" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "tests/bare.sh: apt-get install debootstrap, please" >&2; exit 1; }
if [ ! -e "$BASE/etc/debian_version" ]; then
	mkdir -p "$BASE"
	debootstrap --variant=minbase bookworm "$BASE" >"$BASE.log" 2>&1 || { tail -5 "$BASE.log" >&2; exit 1; }
fi
work=$(mktemp -d /var/tmp/sealane-bare.XXXXXX)
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM
cp -a "$BASE" "$work/root"
# Where packages come from is the machine's affair: its sources, proxy and resolver.
cp -L /etc/resolv.conf "$work/root/etc/" 2>/dev/null || true
cp -a /etc/apt/apt.conf.d/. "$work/root/etc/apt/apt.conf.d/"
rm -f "$work/root/etc/apt/sources.list"
cp -a /etc/apt/sources.list /etc/apt/sources.list.d "$work/root/etc/apt/" 2>/dev/null || true
mkdir -p "$work/root/src"
git -c safe.directory="$ROOT" archive HEAD | tar -x -C "$work/root/src"

unshare --mount --propagation private sh -ec '
	root=$1 command=$2
	mount --bind "$root" "$root"
	for d in proc sys dev; do mount --rbind "/$d" "$root/$d"; done
	mount -t tmpfs tmpfs "$root/run"
	mkdir -p "$root/run/lock" "$root/.old"
	cd "$root"
	pivot_root . .old
	umount -l /.old
	exec env -i HOME=/tmp PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 CI=true \
		bash -c "cd /src && $command"' sh "$work/root" "$*"
