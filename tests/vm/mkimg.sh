#!/bin/sh
# mkimg.sh CACHE - prepare what a test machine boots: a stock Debian kernel and a small root with busybox, from Debian's
# packages. Nothing is installed; what was made before is used again.
#
#   SEALANE_VM_SUITE   take the kernel from another suite of Debian ("bookworm-backports"); default: the one apt is set to
#   SEALANE_VM_MIRROR  where that suite is (default http://deb.debian.org/debian)
#   SEALANE_VM_FLAVOUR  "amd64": the kernel with every driver, three times as large: for RDMA; default "cloud-amd64"
#
# Prints two lines: the kernel's path, the root's path. Exit status 77 and one line on standard error: cannot be had here.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=$1
suite=${SEALANE_VM_SUITE:-}
flavour=${SEALANE_VM_FLAVOUR:-cloud-amd64}
modules="unix_diag" # what tests need and the kernel has not built in
# rdma_rxe asks for crc32 by name, which no dependency says.
[ "$flavour" = cloud-amd64 ] || modules="$modules crc32_generic rdma_rxe rdma_ucm dummy virtio_pci virtio_net"

skip() { echo "$*" >&2; exit 77; }

[ "$(uname -m)" = x86_64 ] || skip "the test machine is made for x86_64 only"
for tool in apt-get apt-cache dpkg flock; do
	command -v $tool >/dev/null || skip "no $tool here: the test machine's kernel comes from Debian's packages"
done
busybox=$(command -v busybox) || skip "no busybox here: install busybox-static"
! ldd "$busybox" >/dev/null 2>&1 || skip "busybox is not static: install busybox-static"

variant=${suite:-default}
[ "$flavour" = cloud-amd64 ] || variant=$variant-$flavour
mkdir -p "$cache/$variant"
cache=$(cd "$cache/$variant" && pwd)
exec 9>"$cache/lock"
flock 9

# A suite of its own gets apt state of its own, so that the machine's package lists stay as they are.
apt_options() {
	printf '%s\n' -o APT::Sandbox::User=root
	[ -n "$suite" ] || return 0
	mkdir -p "$cache/apt/lists/partial" "$cache/apt/archives/partial"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${SEALANE_VM_MIRROR:-http://deb.debian.org/debian} $suite main" \
		>"$cache/apt/sources.list"
	printf '%s\n' -o "Dir::Etc::SourceList=$cache/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o "Dir::State::Lists=$cache/apt/lists" -o "Dir::Cache=$cache/apt"
}

# add_module NAME - with those that it needs before it: numbers in front of the names tell init.sh the order.
n_modules=100
add_module() {
	[ -z "$(find "$tmp/modules" -name "[0-9]*-$1.ko")" ] || return 0
	set -- "$1" "$(find "$tmp/k" -name "$1.ko*" | head -n 1)"
	case $2 in
	*.xz) xz -dc "$2" >"$tmp/$1.ko" ;;
	*.ko) cp "$2" "$tmp/$1.ko" ;;
	*) return 0 ;; # this kernel has it built in
	esac
	for needed in $(tr '\0' '\n' <"$tmp/$1.ko" | sed -n 's/^depends=//p' | tr , ' '); do
		add_module "$needed"
	done
	n_modules=$((n_modules + 1))
	mv "$tmp/$1.ko" "$tmp/modules/$n_modules-$1.ko"
}

fetch_kernel() {
	tmp=$(mktemp -d "$cache/tmp.XXXXXX")
	trap 'rm -rf "$tmp"' EXIT
	opts=$(apt_options)
	# shellcheck disable=SC2086 # one word a line, no blanks in them
	{
		[ -z "$suite" ] || timeout 120 apt-get $opts -qq update >/dev/null 2>&1 || skip "cannot reach Debian's suite $suite"
		package=$(apt-cache $opts depends "linux-image-$flavour" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
		[ -n "$package" ] || skip "apt knows no linux-image-$flavour: run apt-get update"
		# Newer suites split the package.
		parts=$(apt-cache $opts depends "$package" | sed -n 's/^ *Depends: \(linux-\(binary\|modules\)-[0-9].*\)/\1/p')
		(cd "$tmp" && timeout 300 apt-get $opts -qq download "$package" $parts >/dev/null 2>&1) || skip "cannot download $package"
	}
	for deb in "$tmp"/*.deb; do
		dpkg -x "$deb" "$tmp/k"
	done
	mkdir "$tmp/modules"
	for m in $modules; do
		add_module "$m"
	done
	rm -rf "$cache/modules"
	mv "$tmp/modules" "$cache/modules"
	mv "$(find "$tmp/k" -name 'vmlinuz*' -type f | head -n 1)" "$cache/vmlinuz" # last: its presence says that all is there
}

make_root() {
	root=$(mktemp -d "$cache/root.XXXXXX")
	mkdir -p "$root/bin" "$root/sbin" "$root/etc" "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/tmp" "$root/root" \
		"$root/usr" "$root/modules" "$root/test" "$root/var"
	ln -s ../bin "$root/usr/bin"
	ln -s ../sbin "$root/usr/sbin"
	ln -s ../lib "$root/usr/lib"
	cp "$busybox" "$root/bin/busybox"
	for a in $("$busybox" --list); do
		[ "$a" = busybox ] || ln -s busybox "$root/bin/$a"
	done
	echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
	echo 'nobody:x:65534:65534:nobody:/:/bin/false' >>"$root/etc/passwd"
	printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
	cp "$cache"/modules/*.ko "$root/modules/" 2>/dev/null || true
	cp "$here/init.sh" "$root/init"
	chmod 755 "$root" "$root/init"
	(cd "$root" && find . | "$busybox" cpio -o -H newc 2>/dev/null) >"$cache/root.cpio.new"
	mv "$cache/root.cpio.new" "$cache/root.cpio"
	rm -rf "$root"
}

[ -f "$cache/vmlinuz" ] || fetch_kernel
if [ ! -f "$cache/root.cpio" ] || [ -n "$(find "$here/init.sh" "$here/mkimg.sh" -newer "$cache/root.cpio")" ]; then
	make_root
fi
echo "$cache/vmlinuz"
echo "$cache/root.cpio"
