# shellcheck shell=bash
# Plain containers with runc, no engine and no image: what ./quickstart, bench/ and tests/e2e/ share. To be sourced.
#
# A container here has its own root file system, PID, mount, IPC, UTS and network namespace; in the latter there is only `lo`.
# The caller sets:
#   CTR_DIR   a directory of its own, mode 0755: bundles, runc's state, root file systems
#   CTR_TAG   a name for the cgroup parent, unique on this machine
# and calls ctr_all_down when it ends.

# ctr_rootfs DIR PROGRAM... - busybox and the given programs, with the shared libraries they need.
ctr_rootfs() {
	local dir=$1 program path lib
	shift
	mkdir -p "$dir"/{bin,dev,etc,proc,sys,tmp,usr/bin,var,run/sealane}
	chmod 1777 "$dir/tmp" # runc gives a tmpfs the mode of what it covers
	cp "$(command -v busybox)" "$dir/bin/busybox"
	"$dir/bin/busybox" --list | while read -r program; do
		[ "$program" = busybox ] || ln -sf busybox "$dir/bin/$program"
	done
	printf 'root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$dir/etc/passwd"
	printf 'root:x:0:\nnogroup:x:65534:\n' >"$dir/etc/group"
	for program in "$@"; do
		path=$(command -v "$program") || { echo "no program '$program' on this machine" >&2; return 1; }
		cp -L "$path" "$dir/usr/bin/"
		ldd "$path" 2>/dev/null | grep -o '/[^ ]*' | while read -r lib; do
			mkdir -p "$dir$(dirname "$lib")"
			[ -e "$dir$lib" ] || cp -L "$lib" "$dir$lib"
		done
	done
}

# ctr_rootfs_usr DIR - a root file system whose /usr is the machine's own, read-only (for programs with many files): its
# bundles need "${CTR_USR[@]}".
# shellcheck disable=SC2034 # for who sources this
CTR_USR=(--ro /usr:/usr)
ctr_rootfs_usr() {
	local dir=$1
	mkdir -p "$dir"/{dev,etc,proc,sys,tmp,usr,var,run/sealane,mnt,e2e}
	chmod 1777 "$dir/tmp"
	for link in bin sbin lib lib64; do
		ln -sfn "usr/$link" "$dir/$link"
	done
	printf 'root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$dir/etc/passwd"
	printf 'root:x:0:\nnogroup:x:65534:\n' >"$dir/etc/group"
	echo '127.0.0.1 localhost' >"$dir/etc/hosts"
}

ctr__json() { # a JSON string
	local s=${1//\\/\\\\}
	s=${s//\"/\\\"}
	s=${s//$'\n'/\\n}
	printf '"%s"' "${s//$'\t'/\\t}"
}

ctr__list() { # JSON strings, with commas
	local sep=
	for s in "$@"; do
		printf '%s' "$sep"
		ctr__json "$s"
		sep=,
	done
}

ctr__mount() { # SOURCE DESTINATION OPTION...
	local source=$1 destination=$2
	shift 2
	printf ',{"destination":%s,"type":"bind","source":%s,"options":[%s]}' "$(ctr__json "$destination")" \
		"$(ctr__json "$source")" "$(ctr__list bind nosuid nodev "$@")"
}

# ctr_bundle NAME ROOTFS [OPTION...] -- COMMAND... - write $CTR_DIR/NAME/config.json
#   --lane DIR          the workload's directory, read-only at /run/sealane; its serve/, if there, writable
#   --ro SRC:DST        bind mounts
#   --rw SRC:DST
#   --hook WORD...      an OCI createRuntime hook; ends at the next option (first word: absolute path of the program)
#   --user UID          instead of root
#   --label KEY=VALUE   an annotation
ctr_bundle() {
	local name=$1 rootfs=$2 mounts='' hooks='' annotations='' uid=0 nofile hook=()
	shift 2
	mkdir -p "$CTR_DIR/$name"
	nofile=$(ulimit -Hn)
	[ "$nofile" != unlimited ] || nofile=1048576
	while [ "$1" != -- ]; do
		case $1 in
		--lane)
			mounts+=$(ctr__mount "$2" /run/sealane ro)
			[ ! -d "$2/serve" ] || mounts+=$(ctr__mount "$2/serve" /run/sealane/serve rw)
			shift 2
			;;
		--ro | --rw)
			mounts+=$(ctr__mount "${2%%:*}" "${2#*:}" "${1#--}")
			shift 2
			;;
		--user) uid=$2; shift 2 ;;
		--label)
			annotations+="${annotations:+,}$(ctr__json "${2%%=*}"):$(ctr__json "${2#*=}")"
			shift 2
			;;
		--hook)
			shift
			hook=()
			while [ "$1" != -- ] && [[ $1 != --@(lane|ro|rw|user|label|hook) ]]; do
				hook+=("$1")
				shift
			done
			hooks=",\"hooks\":{\"createRuntime\":[{\"path\":$(ctr__json "${hook[0]}"),\"args\":[$(ctr__list "${hook[@]}")]}]}"
			;;
		*) echo "ctr_bundle: what is '$1'?" >&2; return 2 ;;
		esac
	done
	shift
	local caps='"CAP_KILL","CAP_NET_BIND_SERVICE","CAP_SETUID","CAP_SETGID","CAP_CHOWN","CAP_DAC_OVERRIDE","CAP_FOWNER"'
	cat >"$CTR_DIR/$name/config.json" <<-JSON
	{"ociVersion":"1.0.2","hostname":$(ctr__json "$name"),"annotations":{$annotations},
	"root":{"path":$(ctr__json "$rootfs"),"readonly":true},
	"process":{"terminal":false,"user":{"uid":$uid,"gid":$uid},"args":[$(ctr__list "$@")],"cwd":"/","noNewPrivileges":true,
	"env":["PATH=/usr/sbin:/usr/bin:/sbin:/bin","HOME=/tmp","SEALANE_DIR=/run/sealane"],
	"capabilities":{"bounding":[$caps],"effective":[$caps],"permitted":[$caps]},
	"rlimits":[{"type":"RLIMIT_NOFILE","hard":$nofile,"soft":$nofile}]},
	"mounts":[{"destination":"/proc","type":"proc","source":"proc"},
	{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","strictatime","mode=755","size=65536k"]},
	{"destination":"/dev/pts","type":"devpts","source":"devpts","options":["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620"]},
	{"destination":"/dev/shm","type":"tmpfs","source":"shm","options":["nosuid","noexec","nodev","mode=1777","size=262144k"]},
	{"destination":"/tmp","type":"tmpfs","source":"tmpfs","options":["nosuid","nodev","mode=1777"]},
	{"destination":"/sys","type":"sysfs","source":"sysfs","options":["nosuid","noexec","nodev","ro"]}$mounts],
	"linux":{"cgroupsPath":$(ctr__json "/$CTR_TAG/$name"),
	"namespaces":[{"type":"pid"},{"type":"network"},{"type":"ipc"},{"type":"uts"},{"type":"mount"}],
	"maskedPaths":["/proc/kcore","/proc/keys","/proc/timer_list","/sys/firmware"],
	"readonlyPaths":["/proc/bus","/proc/fs","/proc/irq","/proc/sys","/proc/sysrq-trigger"]}$hooks}
	JSON
}

CTR_RUNTIME=${CTR_RUNTIME:-runc}

ctr_runtime() { "$CTR_RUNTIME" --root "$CTR_DIR/state" "$@"; }

# ctr_start NAME - run the bundle in the background; its output goes to $CTR_DIR/NAME/out
ctr_start() {
	ctr_runtime run --detach --pid-file "$CTR_DIR/$1/pid" --bundle "$CTR_DIR/$1" "$1" </dev/null >"$CTR_DIR/$1/out" 2>&1
}

# ctr_exec NAME COMMAND... - run something in it; standard input and output are the caller's.
ctr_exec() { ctr_runtime exec "$@"; }

ctr_pid() { cat "$CTR_DIR/$1/pid"; }

# ctr_kill NAME [SIGNAL] - end it and forget it.
ctr_kill() {
	ctr_runtime kill "$1" "${2:-KILL}" 2>/dev/null || true
	for _ in $(seq 100); do
		! ctr_runtime delete --force "$1" >/dev/null 2>&1 || break
		sleep 0.05
	done
}

ctr_all_down() {
	local name
	if [ -d "$CTR_DIR/state" ]; then
		for name in "$CTR_DIR/state"/*/; do
			[ ! -d "$name" ] || ctr_kill "$(basename "$name")"
		done
	fi
	if [ -n "${CTR_SWITCH_PID:-}" ]; then
		kill "$CTR_SWITCH_PID" 2>/dev/null || true
		wait "$CTR_SWITCH_PID" 2>/dev/null || true
		CTR_SWITCH_PID=
	fi
	ctr_cgroups_down "$CTR_TAG"
}

# ctr_cgroups_down NAME - remove the empty cgroups below and with NAME, in every hierarchy.
ctr_cgroups_down() {
	local dir
	find /sys/fs/cgroup -maxdepth 8 -type d -name "$1" 2>/dev/null | while read -r dir; do
		for _ in 1 2 3 4 5; do
			find "$dir" -depth -type d -exec rmdir {} + 2>/dev/null || true
			[ -e "$dir" ] || break
			sleep 0.1
		done
	done
}

# ctr_cgroup2 - where cgroup2 is mounted.
ctr_cgroup2() { awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts; }

# ctr_switch_up - a bridge in a network namespace of its own, without a name on this machine.
ctr_switch_up() {
	unshare --net sleep 86400 &
	CTR_SWITCH_PID=$!
	for _ in $(seq 100); do
		[ "$(readlink "/proc/$CTR_SWITCH_PID/ns/net")" = "$(readlink /proc/self/ns/net)" ] || break
		sleep 0.02
	done
	nsenter --net="/proc/$CTR_SWITCH_PID/ns/net" sh -ec 'ip link set lo up; ip link add br0 type bridge; ip link set br0 up'
}

# ctr_plug NAME ADDRESS/PREFIX - a veth from the container to that bridge. Both ends are made inside our namespaces.
ctr_plug() {
	local pid net=${2%.*}.0/24
	pid=$(ctr_pid "$1")
	nsenter --net="/proc/$CTR_SWITCH_PID/ns/net" sh -ec 'ip link add eth0 netns "$1" type veth peer name "p$1"
		ip link set "p$1" master br0 up' sh "$pid"
	nsenter --net="/proc/$pid/ns/net" sh -ec 'ip addr add "$1" dev eth0; ip link set eth0 up' sh "$2"
	# BBR paces: it would make the bridge look slow. Where the kernel has cubic, take that.
	nsenter --net="/proc/$pid/ns/net" ip route replace "$net" dev eth0 congctl cubic 2>/dev/null || true
}
