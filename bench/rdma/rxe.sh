# shellcheck shell=sh
# Inside: a SoftRoCE device with $address, on the wire to the other machine or on a card of its own. Sourced; $role is one, a or b.
# shellcheck disable=SC2154 # who sources it says role, address and peer
export LD_LIBRARY_PATH=/test PATH="/test:$PATH"
mkdir -p /etc/libibverbs.d /usr/lib/x86_64-linux-gnu/libibverbs
echo "driver rxe" >/etc/libibverbs.d/rxe.driver
cp /test/librxe-rdmav34.so /usr/lib/x86_64-linux-gnu/libibverbs/
card=eth0
if [ "$role" = one ]; then
	card=d0
	ip link add d0 type dummy
fi
ip addr add "$address/24" dev $card
ip link set $card up
rdma link add rxe0 type rxe netdev $card || { echo "no SoftRoCE in this kernel" >&2; exit 77; }

echo "# clock: $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"

# again COMMAND... - on the first CPU; until it works, or for half a minute: the other end is a program that is started anew each time
again() {
	for _ in $(seq 60); do
		timeout 60 taskset 1 "$@" >/tmp/again.log 2>&1 && return 0
		sleep 0.5
	done
	echo "failed: $*"
	cat /tmp/again.log
	return 1
}

# over COMMAND... - a server that ends after each client, for ever, on the second CPU
over() {
	while :; do
		taskset 2 "$@" >/dev/null 2>&1
		sleep 0.1
	done
}

# now - $up, seconds since boot; now_ns - $ns of the same clock. Without a process that would take time itself.
# shellcheck disable=SC2034 # for who sources it
now() { read -r up _ </proc/uptime; }
now_ns() {
	while read -r word _ ns _; do
		[ "$word" != now ] || return 0
	done </proc/timer_list
}

# rping_least TIMES COUNT - $least: the least time in ns that rping took for COUNT round trips, of TIMES connections
rping_least() {
	least=
	for _ in $(seq "$1"); do
		now_ns
		from=$ns
		again rping -c -a "$peer" -C "$2" -S 64 || return 1
		now_ns
		if [ -z "$least" ] || [ $((ns - from)) -lt "$least" ]; then
			least=$((ns - from))
		fi
	done
}
