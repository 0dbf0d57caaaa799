# shellcheck shell=bash
# What the end-to-end tests share. A test is an executable beside this file; it sources this, builds its host and containers
# and says `check WHAT COMMAND...` or `ok`/`fail`. It prints one line "ok - ..." or "not ok - ..." for each thing it checked.
#
# Each test has its own directory, daemon, cgroup parent and network namespaces, and takes away all it made, however it ends.
# Exit status: 0 all checks passed, 77 skipped (the reason is printed), else failed.
#
#   BUILD   build directory (default: build in the repository)
#   KEEP=1  leave the test's directory for a look

E2E_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$E2E_DIR/../.." && pwd)
BUILD=${BUILD:-$ROOT/build}
SEALANED=${SEALANED:-$BUILD/src/daemon/sealaned}
SEALANE=${SEALANE:-$BUILD/src/cli/sealane}
E2E_NAME=$(basename "$0" .sh)
N_FAILED=0
D_PID=
# Words before the daemon's command line, which have to exec it.
D_ENTER=()
# The system's Python: one from a version manager lacks Debian's modules.
PYTHON=/usr/bin/python3

skip() { echo "skip - $E2E_NAME: $*"; exit 77; }

ok() { echo "ok - $E2E_NAME: $*"; }

fail() {
	echo "not ok - $E2E_NAME: $*"
	N_FAILED=$((N_FAILED + 1))
}

note() { echo "# $*"; }

# check WHAT COMMAND... - passes if the command succeeds; its output is shown if it does not.
check() {
	local what=$1 out
	shift
	if out=$("$@" 2>&1); then
		ok "$what"
	else
		fail "$what"
		printf '%s\n' "$*" "$out" | tail -20 | sed 's/^/#   /'
	fi
}

# check_not WHAT COMMAND... - passes if it fails.
check_not() {
	local what=$1 out
	shift
	if out=$("$@" 2>&1); then
		fail "$what"
		printf '%s\n' "$*" "$out" | tail -20 | sed 's/^/#   /'
	else
		ok "$what"
	fi
}

# check_fails WHAT REGEX COMMAND... - passes if it fails, and says what matches.
check_fails() {
	local what=$1 regex=$2 out
	shift 2
	if out=$("$@" 2>&1); then
		fail "$what: it succeeded"
	else
		check_match "$what" "$regex" "$out"
	fi
}

# check_equal WHAT EXPECTED GOT
check_equal() {
	if [ "$2" = "$3" ]; then
		ok "$1"
	else
		fail "$1"
		printf '#   expected: %s\n#   got:      %s\n' "$2" "$3"
	fi
}

# check_match WHAT REGEX GOT
check_match() {
	if [[ $3 =~ $2 ]]; then
		ok "$1"
	else
		fail "$1"
		printf '#   expected: %s\n#   got:      %s\n' "$2" "$3" | head -20
	fi
}

# check_below WHAT LIMIT GOT - numbers, fractions too
check_below() {
	if awk -v a="$3" -v b="$2" 'BEGIN { exit !(a < b) }'; then
		ok "$1 ($3 < $2)"
	else
		fail "$1: $3 is not below $2"
	fi
}

# within SECONDS COMMAND... - until it succeeds. A wait, and no promise: a busy machine gets half a minute more.
within() {
	local end
	end=$(($(now_ms) + (${1%.*} + 30) * 1000))
	shift
	until "$@" >/dev/null 2>&1; do
		[ "$(now_ms)" -lt "$end" ] || return 1
		sleep 0.05
	done
}

# What is promised to be quick, on a machine that may be busy:
#   prompt_begin
#   ...
#   check_prompt WHAT LIMIT_MS    or: prompt_end LIMIT_MS, and then TOOK is how many ms it was
# Where it took longer than LIMIT_MS, the time does not count that the daemons and a process that only sleeps waited for a CPU.
declare -A PROMPT_WAITED
prompt_begin() {
	local pid
	if [ -z "${STALLS:-}" ]; then
		STALLS=$T/stalls
		"$PYTHON" "$E2E_DIR/stalls.py" </dev/null >"$STALLS" &
		disown $!
		STALLS_PID=$!
		within 5 test -s "$STALLS"
	fi
	PROMPT_WAITED=()
	for pid in $(daemon_pids); do PROMPT_WAITED[$pid]=$(waited_ms "$pid"); done
	PROMPT_WAITED[0]=$(stalled_ms 0)
	PROMPT_T0=$(now_ms)
}
prompt_end() { # LIMIT_MS
	local now pid
	now=$(now_ms)
	TOOK=$((now - PROMPT_T0)) PROMPT_NOTE=
	[ "$TOOK" -ge "$1" ] || return 0
	local waited=$(($(stalled_ms "$now") - PROMPT_WAITED[0]))
	for pid in $(daemon_pids); do waited=$((waited + $(waited_ms "$pid") - ${PROMPT_WAITED[$pid]:-0})); done
	PROMPT_NOTE=", of $TOOK: the rest was waiting for a CPU"
	TOOK=$((TOOK > waited ? TOOK - waited : 0))
}
check_prompt() { # WHAT LIMIT_MS
	prompt_end "$2"
	if [ "$TOOK" -lt "$2" ]; then
		ok "$1 ($TOOK ms < $2$PROMPT_NOTE)"
	else
		fail "$1: $TOOK ms are not below $2$PROMPT_NOTE"
	fi
}
daemon_pids() { pgrep -f -- "^sealaned --role=.* --run-dir ${HOSTS_DIR:-$T}/" || true; }
waited_ms() { # PID
	local ns
	read -r _ ns _ 2>/dev/null <"/proc/$1/schedstat" || ns=0
	echo $((ns / 1000000))
}
stalled_ms() { # NOT-BEFORE-MS
	local total now
	for _ in $(seq 200); do
		read -r total now <"$STALLS" || true
		[ "${now:-0}" -lt "$1" ] || break
		sleep 0.05
	done
	echo "${total:-0}"
}

now_ms() { local us=${EPOCHREALTIME/[.,]/}; echo $((us / 1000)); }

need() { # program...
	local p
	for p in "$@"; do
		command -v "$p" >/dev/null || skip "no program '$p' on this machine"
	done
}

e2e_start() {
	[ "$(id -u)" = 0 ] || skip "containers and namespaces need root"
	[ -x "$SEALANED" ] || { echo "not ok - $E2E_NAME: there is no $SEALANED: build first"; exit 1; }
	need runc redis-server redis-cli nsenter jq curl
	[ -n "$(awk '$3 == "cgroup2"' /proc/mounts)" ] || skip "no cgroup2 hierarchy is mounted"
	T=$(mktemp -d "/tmp/sl-$E2E_NAME.XXXXXX")
	chmod 755 "$T"
	# shellcheck disable=SC2034 # read by tools/containers.sh
	CTR_DIR=$T/c CTR_TAG=$(basename "$T")
	mkdir "$CTR_DIR"
	# shellcheck source=tools/containers.sh
	. "$ROOT/tools/containers.sh"
	trap e2e_end EXIT
	trap 'exit 130' INT TERM HUP
	ROOTFS=$T/rootfs
	ctr_rootfs_usr "$ROOTFS"
	SOCK=$T/run/admin.sock
}

e2e_end() {
	local rc=$?
	trap - EXIT
	set +e
	local job log
	if [ "$rc" != 0 ] && [ "$rc" != 77 ] || [ "$N_FAILED" != 0 ]; then
		for log in "$T"/daemon.log "$T"/*/daemon.log; do
			[ ! -f "$log" ] || { echo "# the daemon's last words${log#"$T"}:"; tail -25 "$log" | cut -c1-400 | sed 's/^/#   /'; }
		done
	fi
	[ -z "${STALLS_PID:-}" ] || kill "$STALLS_PID" 2>/dev/null
	! declare -F hosts_down >/dev/null || hosts_down
	for job in $(jobs -p); do
		[ "$job" = "$D_PID" ] || kill "$job" 2>/dev/null
	done
	ctr_all_down
	host_down
	if [ -n "${KEEP:-}" ]; then
		echo "# left: $T"
	else
		rm -rf "$T"
	fi
	if [ "$rc" = 0 ] && [ "$N_FAILED" != 0 ]; then
		rc=1
	elif [ "$rc" != 0 ] && [ "$rc" != 77 ] && [ "$N_FAILED" = 0 ]; then
		echo "not ok - $E2E_NAME: the test itself ended with status $rc"
	fi
	exit "$rc"
}

# e2e_unshare DIR... - the test starts again in a mount and a network namespace of its own, with an empty file system on each DIR.
e2e_unshare() {
	[ -z "${E2E_RUN:-}" ] || return 0
	[ "$(id -u)" = 0 ] || skip "containers and namespaces need root"
	E2E_RUN=1 exec unshare --mount --net --propagation private sh -c \
		'for dir; do mount -t tmpfs tmpfs "$dir" || exit 1; done; exec "$0"' "$0" "$@"
}

# containerd_up - a containerd of the test's own on $T/containerd.sock. Its runtimes ask the daemon of this test.
containerd_up() {
	cat >"$T/containerd.toml" <<-TOML
	version = 2
	root = "$T/containerd"
	state = "$T/containerd-run"
	disabled_plugins = ["io.containerd.grpc.v1.cri"]
	[grpc]
	  address = "$T/containerd.sock"
	[plugins."io.containerd.internal.v1.opt"]
	  path = "$T/containerd-opt"
	TOML
	SEALANE_ADMIN=$SOCK containerd --config "$T/containerd.toml" </dev/null >"$T/containerd.log" 2>&1 &
	C8D_PID=$!
	within 30 ctr --address "$T/containerd.sock" version || skip "containerd does not start on this machine: $(tail -1 "$T/containerd.log")"
}

# containerd_down - end it with all that it (and docker on top of it) has left: containers, their shims, mounts.
containerd_down() {
	local pid dir
	if [ -n "${C8D_PID:-}" ]; then
		kill "$C8D_PID" 2>/dev/null
		wait "$C8D_PID" 2>/dev/null
	fi
	find "$(ctr_cgroup2)/$CTR_TAG" -name cgroup.procs -exec cat {} + 2>/dev/null | while read -r pid; do kill -KILL "$pid" 2>/dev/null; done
	pgrep -f -- "^[^ ]*containerd-shim[^ ]* .* -address $T/containerd.sock" | while read -r pid; do kill -KILL "$pid" 2>/dev/null; done
	awk -v t="$T/" 'index($2, t) == 1 { print $2 }' /proc/self/mounts | sort -r | while read -r dir; do umount -l "$dir"; done
}

# engine_log FILE - the last lines of an engine's log that are not mere news, when the test has failed
engine_log() { grep -v level=info "$1" 2>/dev/null | tail -15 | cut -c1-300 | sed 's/^/#   /'; }

# host_up - a daemon with the configuration on standard input (no pipe: this has to run in the test itself). Waits until it answers.
host_up() {
	cat >"$T/sealane.conf"
	grep -q '^cdi_dir' "$T/sealane.conf" || sed -i '1i cdi_dir = off' "$T/sealane.conf"
	host_start
}

host_start() {
	"${D_ENTER[@]}" "$SEALANED" -c "$T/sealane.conf" --run-dir "$T/run" --state-dir "$T/state" --user nobody </dev/null >>"$T/daemon.log" 2>&1 &
	D_PID=$!
	within 20 sl status || {
		fail "the daemon starts and answers"
		sl status || true
		exit 1
	}
}

# host_kill [SIGNAL] - end the daemon (not its keeper) and wait for it.
host_kill() {
	kill "-${1:-KILL}" "$D_PID" 2>/dev/null || true
	wait "$D_PID" 2>/dev/null || true
	D_PID=
}

host_down() {
	[ -z "$D_PID" ] || host_kill TERM
	[ ! -d "$T/run" ] || "$SEALANED" --run-dir "$T/run" --state-dir "$T/state" --stop-keeper >/dev/null 2>&1
}

# sl VERB... - the command line, against this test's daemon.
sl() { "$SEALANE" --socket "$SOCK" "$@"; }

# api PATH [curl options]
api() {
	local path=$1
	shift
	curl -sS --max-time 20 --unix-socket "$SOCK" "$@" "http://sealane$path"
}

# ctr_run NAME COMMAND... - a container without a network, enrolled by the hook as workload NAME.
# CTR_OPTIONS: more options for ctr_bundle.
ctr_run() {
	local name=$1
	shift
	ctr_bundle "$name" "$ROOTFS" "${CTR_USR[@]}" --lane "$T/run/w/$name" --ro "$E2E_DIR:/e2e" "${CTR_OPTIONS[@]}" \
		--hook "$SEALANE" --socket "$SOCK" hook createRuntime --workload "$name" -- "$@"
	ctr_start "$name" || { cat "$CTR_DIR/$name/out"; return 1; }
}
CTR_OPTIONS=()

# ctr_peer NAME ARGUMENT... - tests/e2e/peer.py inside.
ctr_peer() {
	local name=$1
	shift
	ctr_exec "$name" "$PYTHON" /e2e/peer.py "$@"
}

# redis_run NAME - stock Redis as workload NAME, on /run/sealane/serve/redis.sock; waits until the daemon sees it.
redis_run() {
	ctr_run "$1" redis-server --port 0 --unixsocket /run/sealane/serve/redis.sock --unixsocketperm 777 --save '' \
		--appendonly no --maxclients 19000 --dir /tmp "${@:2}"
	within 10 service_is_up redis || { fail "redis comes up"; cat "$CTR_DIR/$1/out"; api /v1/services; exit 1; }
}

service_is_up() { api /v1/services | jq -e --arg s "default/$1" '.services[] | select(.name == $s) | .up' >/dev/null; }

redis_in() { # CONTAINER COMMAND...
	local name=$1
	shift
	ctr_exec "$name" redis-cli -s /run/sealane/redis.sock "$@"
}

route_of() { api "/v1/explain?source=$1&destination=$2" | jq -r .route; }

# events NAME - events of that name in the log, one JSON object a line.
events() { grep '^{' "$T/daemon.log" | jq -c --arg e "$1" 'select(.event == $e)' 2>/dev/null || true; }

n_events() { events "$1" | wc -l; }

# own_pid PATTERN - the newest process in this test's containers whose command line matches; "" if there is none
own_pid() {
	local pid
	for pid in $(pgrep -f -- "$1"); do
		! grep -q "/$CTR_TAG/" "/proc/$pid/cgroup" 2>/dev/null || echo "$pid"
	done | tail -1
}

# rss_kib PID..., fds_of PID - for leak checks
rss_kib() { awk '/^VmRSS/ { print $2 }' "/proc/$1/status" 2>/dev/null || true; }
fds_of() { find "/proc/$1/fd" -mindepth 1 2>/dev/null | wc -l; }

# roles - "pid role" of all processes of this test's daemons: a keeper may be older than its daemon
roles() {
	local pid
	echo "$D_PID launcher"
	for pid in $(pgrep -f -- "^sealaned --role=.* --run-dir $T/run "); do
		echo "$pid $({ tr '\0' '\n' <"/proc/$pid/cmdline"; } 2>/dev/null | sed -n 's/^--role=//p')"
	done
}
role_pid() { roles | awk -v r="$1" '$2 == r && !n++ { print $1 }'; }
