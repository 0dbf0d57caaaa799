# shellcheck shell=bash
# Emulated machines with SoftRoCE for the benches of RDMA: sourced by bench/rdma.sh and bench/rdma-vs-sockets.sh. tests/vm/run.sh is what
# runs them; what they say comes into $VM_TMP/log.
VM_RUN=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../tests/vm" && pwd)/run.sh
BUILD=${BUILD:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/build}
export SEALANE_VM_FLAVOUR=amd64 SEALANE_VM_MEMORY=512
# Else Linux takes an emulated clock, and asking it the time costs more than what is measured.
export SEALANE_VM_APPEND="clocksource=tsc tsc=reliable"
VM_TMP=$(mktemp -d)
VM_OTHER=
trap '[ -z "$VM_OTHER" ] || kill "$VM_OTHER" 2>/dev/null || true; rm -rf "$VM_TMP"' EXIT
trap 'exit 130' INT TERM HUP

# vm_files FILE... - what has to be inside, with what RDMA needs there. A program that is not here ends it all.
vm_files() {
	local libs file
	libs=/usr/lib/$(uname -m)-linux-gnu
	VM_FILES=()
	for file in "$@" rdma "$libs/libibverbs.so.1" "$libs/librdmacm.so.1" "$libs/libibverbs/librxe-rdmav34.so" "$libs/libgcc_s.so.1" \
		"$(dirname "${BASH_SOURCE[0]}")/rxe.sh"; do
		[ -e "$file" ] || [ -e "/lib/$(uname -m)-linux-gnu/${file##*/}" ] || command -v "$file" >/dev/null || {
			echo "$0: there is no $file: run tools/install-deps.sh test bench, and build" >&2
			exit 1
		}
		VM_FILES+=(-f "$file")
	done
}

vm_failed() {
	echo "$0: the emulated machine did not do it:" >&2
	tail -20 "$VM_TMP"/*log >&2
	exit 1
}

# vm_one SCRIPT ARGUMENT... - "SCRIPT one 10.9.0.1 10.9.0.1 ARGUMENT..." in one machine
vm_one() {
	local script=$1
	shift
	"$VM_RUN" "${VM_FILES[@]}" "$script" one 10.9.0.1 10.9.0.1 "$@" >"$VM_TMP/log" 2>&1 || vm_failed
}

# vm_pair SCRIPT ARGUMENT... - "SCRIPT b 10.8.0.2 10.8.0.1 ..." in one, which goes on for ever, and "SCRIPT a 10.8.0.1 10.8.0.2 ..." in the other
vm_pair() {
	local script=$1
	shift
	SEALANE_VM_NET="on,$VM_TMP/wire,1" "$VM_RUN" "${VM_FILES[@]}" "$script" b 10.8.0.2 10.8.0.1 "$@" >"$VM_TMP/b.log" 2>&1 &
	VM_OTHER=$!
	for _ in $(seq 600); do
		[ ! -S "$VM_TMP/wire" ] || break
		sleep 0.1
	done
	SEALANE_VM_NET="off,$VM_TMP/wire,2" "$VM_RUN" "${VM_FILES[@]}" "$script" a 10.8.0.1 10.8.0.2 "$@" >"$VM_TMP/log" 2>&1 || vm_failed
}
