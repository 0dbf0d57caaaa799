# shellcheck shell=bash
# Several hosts on this machine, for tests of links. To be sourced after lib.sh.
#
#   host_conf NAME [SERVICE...] <<CONF   what is host NAME's own; the SERVICEs are those that it may speak for
#   hosts_up NAME...                     network namespaces, a cable from each to one switch, a daemon in each
#   join_all                             the first one is the authority, the others join it
#   on NAME COMMAND...                   a command or a function of lib.sh, on that host: on a ctr_run web sleep 1d
#
# Host number N has the address 10.99.0.N in a network namespace of its own, its directory $HOSTS_DIR/NAME (run/, state/,
# daemon.log, containers) and a cgroup of its own. The switch is a bridge in one more namespace; nothing on the machine's own
# network is touched. Containers have no network at all, as in lib.sh.

declare -A HOST_PID HOST_NET HOST_ADDRESS HOST_SERVICES WIRE_FD
HOSTS=()
N_PLUGGED=0
LINK_PORT=7443
# More for every host's configuration, before its own part.
HOSTS_CONF=
# Not empty: a host's file does not name the others.
HOSTS_FROM_CATALOGUE=

# on NAME COMMAND... - with what lib.sh's functions look at set for that host. A daemon that it starts or ends is remembered, but
# not out of a subshell.
# shellcheck disable=SC2034 # for lib.sh's functions
on() {
	local host=$1 rc=0
	local T=$HOSTS_DIR/$host SOCK=$HOSTS_DIR/$host/run/admin.sock D_PID=${HOST_PID[$host]:-}
	local CTR_DIR=$HOSTS_DIR/$host/c CTR_TAG=$HOSTS_TAG-$host
	local D_ENTER=(nsenter "--net=/proc/${HOST_NET[$host]}/ns/net" "${HOST_ENTER[@]}")
	shift
	"$@" || rc=$?
	HOST_PID[$host]=$D_PID
	return "$rc"
}
HOST_ENTER=()

# on_all COMMAND... - on each host; fails if it fails on one.
on_all() {
	local host rc=0
	for host in "${HOSTS[@]}"; do
		on "$host" "$@" || rc=$?
	done
	return "$rc"
}

# net_in NAME|switch COMMAND... - as that host sees the network.
net_in() {
	local host=$1
	shift
	nsenter --net="/proc/${HOST_NET[$host]}/ns/net" "$@"
}

log_of() { echo "$HOSTS_DIR/$1/daemon.log"; }

# net_new NAME - a network namespace without a name on this machine; it ends with the test, however that ends.
net_new() {
	setpriv --pdeathsig KILL unshare --net sleep 86400 &
	HOST_NET[$1]=$!
	disown $!
	net_is_there() { [ "$(readlink "/proc/$1/ns/net")" != "$(readlink /proc/self/ns/net)" ] && grep -q '^sleep' "/proc/$1/comm"; }
	within 5 net_is_there "${HOST_NET[$1]}" || { echo "not ok - $E2E_NAME: no network namespace"; exit 1; }
	net_in "$1" ip link set lo up
}

hosts_start() { # once, before the first host_conf
	e2e_start
	"$SEALANE" ca --help >/dev/null 2>&1 || skip "links were left out of this build"
	need nft setpriv unshare ip
	HOSTS_DIR=$T HOSTS_TAG=$CTR_TAG
	cp "$BUILD/tests/e2e/linktool" "$ROOTFS/linktool"
	net_new switch
	net_in switch sh -ec 'ip link add br0 type bridge; ip link set br0 up'
}

host_conf() {
	local host=$1
	shift
	mkdir -p "$HOSTS_DIR/$host/c"
	chmod 755 "$HOSTS_DIR/$host" "$HOSTS_DIR/$host/c"
	HOST_SERVICES[$host]=$*
	cat >"$HOSTS_DIR/$host/own.conf"
}

# host_plug NAME NUMBER - its namespace and its cable.
host_plug() {
	N_PLUGGED=$2
	HOST_ADDRESS[$1]=10.99.0.$2
	net_new "$1"
	net_in switch sh -ec 'ip link add eth0 netns "$1" type veth peer name "p-$2"; ip link set "p-$2" master br0 up' sh "${HOST_NET[$1]}" "$1"
	net_in "$1" sh -ec 'ip addr add "$1/24" dev eth0; ip link set eth0 up' sh "${HOST_ADDRESS[$1]}"
}

# host_write NAME - its configuration file: own name and address, all the other hosts, its own part.
host_write() {
	local host=$1 other
	{
		printf 'cdi_dir = off\nhost_name = %s\nlisten = "%s:%s"\n%s\n' "$host" "${HOST_ADDRESS[$host]}" "$LINK_PORT" "$HOSTS_CONF"
		for other in "${HOSTS[@]}"; do
			[ "$other" = "$host" ] || [ -n "$HOSTS_FROM_CATALOGUE" ] || printf 'host %s { address = "%s:%s" }\n' "$other" "${HOST_ADDRESS[$other]}" "$LINK_PORT"
		done
		cat "$HOSTS_DIR/$host/own.conf"
	} >"$HOSTS_DIR/$host/sealane.conf"
}

# Called again it makes hosts that do not know the earlier ones: from then on HOSTS, on_all and join_all are of the new ones.
hosts_up() {
	local host
	HOSTS=("$@")
	for host in "${HOSTS[@]}"; do
		host_plug "$host" $((N_PLUGGED + 1))
	done
	for host in "${HOSTS[@]}"; do
		host_write "$host"
		on "$host" host_start
	done
}

# join_all - certificates for all: `sealane ca init` on the first host, a token for each other one.
join_all() {
	local host
	on "${HOSTS[0]}" sl ca init >"$HOSTS_DIR/ca.out" 2>&1 || { fail "ca init"; cat "$HOSTS_DIR/ca.out"; exit 1; }
	for host in "${HOSTS[@]:1}"; do
		join_host "$host" || exit 1
	done
	within 20 on_all has_certificates || { fail "every service has its certificate"; on_all sl ls certificates || true; exit 1; }
}

# token_for HOST [OPTION...] - on the authority, for the services of host_conf.
token_for() {
	local host=$1 service options=()
	shift
	for service in ${HOST_SERVICES[$host]}; do
		options+=(--service "$service")
	done
	on "${HOSTS[0]}" sl ca token "$host" "${options[@]}" "$@"
}

join_host() {
	local out
	out=$(token_for "$1" 2>&1) && out=$(on "$1" sl join "$(grep -o 'sl1\.[A-Za-z0-9_-]*' <<<"$out")" 2>&1) ||
		{ fail "$1 joins"; printf '%s\n' "$out"; return 1; }
}

# hosts_down - all that was made here, whatever of it is there.
hosts_down() {
	local host
	for host in "${!HOST_PID[@]}"; do
		on "$host" ctr_all_down
	done
	for host in "${!HOST_PID[@]}"; do
		on "$host" host_down
	done
	for host in "${!HOST_NET[@]}"; do
		net_down "$host"
	done
}

# net_down NAME - ends all that still runs in its network namespace, what holds it last of all.
net_down() {
	local net dir pid=${HOST_NET[$1]}
	net=$(readlink "/proc/$pid/ns/net")
	for dir in /proc/[0-9]*; do
		[ "$(readlink "$dir/ns/net" 2>/dev/null)" != "$net" ] || [ "${dir#/proc/}" = "$pid" ] || kill -KILL "${dir#/proc/}" 2>/dev/null
	done
	kill -KILL "$pid" 2>/dev/null
}

# --- bad networks ---

# cut_off HOST - from now on the kernel drops all that comes to it or goes from it. heal HOST: no longer.
cut_off() {
	net_in "$1" nft -f - <<-'NFT'
	table inet cut {
		chain in { type filter hook input priority 0; iifname "eth0" drop; }
		chain out { type filter hook output priority 0; oifname "eth0" drop; }
	}
	NFT
}
heal() { net_in "$1" nft delete table inet cut; }

# wire_up HOST - its cable goes through tests/e2e/badwire.c from now on. wire HOST COMMAND...: what that is to do.
wire_up() {
	local host=$1 fd
	net_in switch sh -ec 'ip link add "w-$1" type veth peer name "x-$1"; ip link set "p-$1" nomaster; ip link set "x-$1" master br0 up
		ip link set "w-$1" up' sh "$host"
	mkfifo "$HOSTS_DIR/$host/wire"
	exec {fd}<>"$HOSTS_DIR/$host/wire"
	WIRE_FD[$host]=$fd
	nsenter --net="/proc/${HOST_NET[switch]}/ns/net" "$BUILD/tests/e2e/badwire" "p-$host" "w-$host" \
		<"$HOSTS_DIR/$host/wire" >"$HOSTS_DIR/$host/wire.out" 2>&1 &
	disown $!
}
wire() {
	local host=$1
	shift
	echo "$*" >&"${WIRE_FD[$host]}"
}
wire_stat() { # HOST -> "frames N lost N corrupted N reset N"
	local before
	before=$(wc -l <"$HOSTS_DIR/$1/wire.out")
	wire "$1" stat
	wire_has_said() { [ "$(wc -l <"$HOSTS_DIR/$1/wire.out")" -gt "$2" ]; }
	within 5 wire_has_said "$1" "$before" || true
	tail -1 "$HOSTS_DIR/$1/wire.out"
}

# --- what hosts say ---

# view NAME - hosts, links, lanes, certificates as the admin interface of the host at hand tells them.
view() { api "/v1/$1"; }

# has_certificates - each service that this host may speak for, and the host itself, has a certificate.
has_certificates() {
	local service have
	have=$(view certificates | jq -r '.certificates[].spiffe_id')
	grep -q '/host/' <<<"$have" || return 1
	for service in ${HOST_SERVICES[$(basename "$T")]}; do
		grep -q "/svc/$service\$" <<<"$have" || return 1
	done
}

# In these tests nothing in a container takes longer than PATIENCE seconds.
PATIENCE=60
ctr_exec() { timeout --foreground "$PATIENCE" "$CTR_RUNTIME" --root "$CTR_DIR/state" exec "$@"; }

# ctr_link NAME ARGUMENT... - tests/e2e/linktool.c inside.
ctr_link() {
	local name=$1
	shift
	ctr_exec "$name" /linktool "$@"
}

# event_after N EVENT [JQ-CONDITION] - is there an event of that name, in the log of the host at hand, after its first N lines?
event_after() {
	[ -n "$(tail -n +$(($1 + 1)) "$T/daemon.log" | grep '^{' | jq -c --arg e "$2" "select(.event == \$e) | select(${3:-true})" 2>/dev/null)" ]
}
log_lines() { wc -l <"$T/daemon.log"; }
