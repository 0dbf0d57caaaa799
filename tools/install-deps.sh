#!/bin/bash
# Installs the Debian packages that sealane needs, and only those that are missing.
#
#   tools/install-deps.sh [--list] [build|run|test|bench]...        default: build run
#
# build  compiler, Meson, libraries, man pages, the kernel guard's tools
# run    what ./quickstart starts: runc, redis, busybox, iproute2
# test   what ./test uses besides
# bench  what bench/*.sh measure sealane against, and gnuplot
#
# It leaves the machine's services alone: nothing that comes along (redis-server, postgresql, nginx, ...) is started, and the
# units of packages that this run installed are disabled again. Quick when there is nothing to do.
set -euo pipefail

declare -A SETS=(
	[build]="gcc libc6-dev meson ninja-build pkg-config libevent-dev libjansson-dev libsqlite3-dev libseccomp-dev libcap-dev
		uthash-dev libcurl4-openssl-dev libssl-dev libipsec-mb-dev scdoc libcmocka-dev clang llvm libbpf-dev bpftool libelf-dev zlib1g-dev
		libibverbs-dev librdmacm-dev"
	[run]="runc redis-server redis-tools busybox-static iproute2 util-linux procps"
	[test]="podman netavark crun docker.io containerd strace jq python3 python3-jsonschema g++ musl-tools prometheus etcd-server etcd-client tshark nftables nginx-light postgresql postgresql-contrib
		mariadb-server mariadb-client wrk socat curl libclang-rt-14-dev shellcheck spin qemu-system-x86 systemd xz-utils ibverbs-providers"
	[bench]="haproxy stunnel4 libnginx-mod-stream g++ python3 libnng-dev libzmq3-dev libboost-dev libqb-dev libgrpc++-dev libprotobuf-dev protobuf-compiler
		protobuf-compiler-grpc gnuplot-nox perftest rdmacm-utils qperf"
)
# What those packages would start at boot: "package unit".
SERVICES="redis-server redis-server.service
postgresql postgresql.service
nginx-common nginx.service
nginx-light nginx.service
mariadb-server mariadb.service
prometheus prometheus.service
podman podman.socket
podman podman.service
podman podman-restart.service
podman podman-auto-update.service
podman podman-auto-update.timer
docker.io docker.service
docker.io docker.socket
containerd containerd.service
etcd-server etcd.service
haproxy haproxy.service
stunnel4 stunnel4.service"

policy=/usr/sbin/policy-rc.d
tmp=

die() { echo "install-deps: $*" >&2; exit 1; }

missing_of() { # set...
	local wanted=() have
	for s in "$@"; do
		# shellcheck disable=SC2206 # words of a list
		wanted+=(${SETS[$s]})
	done
	have=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${wanted[@]}" 2>/dev/null | sed -n 's/ installed$//p') || true
	printf '%s\n' "${wanted[@]}" | sort -u | comm -23 - <(printf '%s\n' "$have" | sort -u)
}

clean_up() {
	if [ -n "$tmp" ]; then
		if [ "$(readlink "$policy" 2>/dev/null)" = "$tmp/policy-rc.d" ]; then
			rm -f "$policy"
		fi
		rm -rf "$tmp"
	fi
}

# Runs a command so that maintainer scripts may start nothing. Our policy is a link into /run, so that even a power cut in
# the middle leaves nothing that works after the next boot.
without_services() {
	tmp=$(mktemp -d /run/sealane-deps.XXXXXX)
	trap clean_up EXIT
	trap 'exit 130' INT TERM HUP
	printf '#!/bin/sh\nexit 101\n' >"$tmp/policy-rc.d"
	chmod 755 "$tmp" "$tmp/policy-rc.d"
	if [ ! -e "$policy" ]; then
		ln -sfn "$tmp/policy-rc.d" "$policy"
		"$@"
	elif rc=0; "$policy" redis-server start >/dev/null 2>&1 || rc=$?; [ "$rc" = 101 ]; then
		"$@" # this machine forbids it already
	else # somebody's own policy: covered, for this command only
		unshare --mount --propagation private sh -c 'mount --bind "$1" "$2" && shift 2 && exec "$@"' sh \
			"$tmp/policy-rc.d" "$policy" "$@"
	fi
}

disable_new() { # newline-separated packages that were installed just now
	local package unit
	while read -r package unit; do
		grep -qxF -- "$package" <<<"$1" || continue
		if command -v deb-systemd-helper >/dev/null; then
			# It does nothing for who does not say which package asks.
			DPKG_MAINTSCRIPT_PACKAGE=$package deb-systemd-helper disable "$unit" >/dev/null 2>&1 || true
		fi
		if [ -e "/etc/init.d/${unit%.service}" ]; then
			update-rc.d "${unit%.service}" disable >/dev/null 2>&1 || true
		fi
	done <<<"$SERVICES"
}

main() {
	local list=false sets=() missing before after
	for a in "$@"; do
		case $a in
		--list) list=true ;;
		build | run | test | bench) sets+=("$a") ;;
		*) die "what is '$a'? usage: tools/install-deps.sh [--list] [build|run|test|bench]..." ;;
		esac
	done
	[ ${#sets[@]} -gt 0 ] || sets=(build run)
	command -v dpkg-query >/dev/null || die "this is not Debian; needed: $(tr -s "[:space:]" " " <<<"${SETS[build]} ${SETS[run]}")"
	missing=$(missing_of "${sets[@]}")
	if $list || [ -z "$missing" ]; then
		[ -z "$missing" ] || echo "$missing"
		return 0
	fi
	[ "$(id -u)" = 0 ] || die "root is needed to install: $(tr '\n' ' ' <<<"$missing")"
	exec 9>/run/lock/sealane-deps.lock
	flock 9
	missing=$(missing_of "${sets[@]}")
	[ -n "$missing" ] || return 0
	echo "install-deps: installing $(tr '\n' ' ' <<<"$missing")"
	export DEBIAN_FRONTEND=noninteractive
	before=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' | sed -n 's/ installed$//p' | sort)
	apt-get -q -o DPkg::Lock::Timeout=300 update 9>&- || die "apt-get update failed"
	# shellcheck disable=SC2086 # words of a list
	without_services apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=600 install $missing 9>&- ||
		die "apt-get install failed"
	after=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' | sed -n 's/ installed$//p' | sort)
	disable_new "$(comm -13 <(echo "$before") <(echo "$after"))"
}
main "$@"
