#!/bin/bash
# systemd.sh [BUILD] - the installed daemon as a service of a real systemd: what was built in BUILD (default: build) is installed
# into a root of its own, where this machine's systemd is the first process, and systemd_inside.sh is run there as a unit. In an
# emulated machine (run.sh, whose variables hold here too); by itself or as a part of ./test.
#
# The root is this machine's Debian in small: the files of a few installed packages, as dpkg lists them, and the libraries that
# they need; so nothing is downloaded, and nothing here is changed. systemd's own configuration is as packaged, but for units
# that need what is left out (udev, dbus, getty).
#
# Exit status 77: there can be no such machine here; the reason is on standard error.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
BUILD=$(cd "${1:-$HERE/../../build}" && pwd)
CACHE=${SEALANE_VM_CACHE:-$HERE/../../.cache/vm}
PACKAGES="base-files base-passwd bash coreutils dash findutils grep libc-bin mount procps redis-server redis-tools sed systemd
	util-linux"

skip() { echo "$*" >&2; exit 77; }

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM HUP
R=$tmp/root

copy_packages() {
	local p
	for p in $PACKAGES; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || skip "no package $p here: the test machine's root is made of it"
	done
	# shellcheck disable=SC2086 # words of a list
	dpkg -L $PACKAGES | grep -vE '^/(\.|usr/share/(doc|man|locale|zsh|bash-completion|lintian|bug|perl5?)|lib/udev|usr/lib/udev)(/|$)' | sort -u |
		while IFS= read -r f; do
			if [ -f "$f" ] || [ -L "$f" ]; then echo "$f"; fi
		done >"$tmp/files"
	# As on the machine: /bin, /lib, ... lead into /usr there, and a package's list may have either name.
	mkdir -p "$R/usr/bin" "$R/usr/sbin" "$R/usr/lib" "$R/usr/lib64"
	for d in bin sbin lib lib64; do ln -s "usr/$d" "$R/$d"; done
	tar -C / -c --no-recursion -T <(sed 's,^/,,' "$tmp/files") 2>/dev/null | tar -C "$R" -x --keep-directory-symlink --no-same-owner
}

copy_libraries() {
	find "$R" -type f \( -perm -u+x -o -name '*.so*' \) -exec sh -c 'head -c 4 "$1" | grep -q ELF && echo "$1"' sh {} \; >"$tmp/elf"
	# What is not dynamic fails, and has none.
	LD_LIBRARY_PATH=$R/usr/lib/x86_64-linux-gnu/systemd:$R/usr/lib/systemd xargs ldd <"$tmp/elf" >"$tmp/ldd" 2>/dev/null || true
	<"$tmp/ldd" grep -oE '/[^ :()]+\.so[^ :()]*' | grep -v "^$tmp" | sort -u | while IFS= read -r f; do
		[ -e "$R$f" ] || install -D -m 755 "$f" "$R$f"
	done
	ldconfig -r "$R"
}

# What maintainer scripts and an installer would have written.
configure() {
	mkdir -p "$R"/{dev,etc/systemd/system,proc,root,run,sys,tmp,test,var/{lib,log,tmp},modules}
	chmod 1777 "$R/tmp" "$R/var/tmp"
	ln -sfn ../run "$R/var/run"
	cp "$R/usr/share/base-passwd/passwd.master" "$R/etc/passwd"
	cp "$R/usr/share/base-passwd/group.master" "$R/etc/group"
	echo 0123456789abcdef0123456789abcdef >"$R/etc/machine-id"
	echo vm >"$R/etc/hostname"
	for u in systemd-logind.service systemd-random-seed.service getty.target proc-sys-fs-binfmt_misc.automount \
		systemd-binfmt.service apt-daily.timer redis-server.service; do
		ln -s /dev/null "$R/etc/systemd/system/$u"
	done
	cp "$HERE/init_systemd.sh" "$R/test/init"
	chmod 755 "$R/test/init"
	ln -s usr/lib/systemd/systemd "$R/init"
	cat >"$R/etc/systemd/system/sealane-test.service" <<-UNIT
		[Unit]
		Description=The tests
		After=multi-user.target
		[Service]
		ExecStart=/test/init
		Environment=HOME=/root
		Restart=no
	UNIT
	mkdir -p "$R/etc/systemd/system/multi-user.target.wants"
	ln -s ../sealane-test.service "$R/etc/systemd/system/multi-user.target.wants/"
}

command -v qemu-system-x86_64 >/dev/null || skip "no qemu-system-x86_64 here: install qemu-system-x86"
command -v dpkg-query >/dev/null || skip "no dpkg-query here: the test machine's root is made of Debian's packages"
copy_packages
DESTDIR=$R meson install -C "$BUILD" --no-rebuild >"$tmp/install.log" 2>&1 || { tail -5 "$tmp/install.log" >&2; exit 1; }
copy_libraries
configure
"$HERE/mkimg.sh" "$CACHE" >"$tmp/image"
cp "$(dirname "$(sed -n 2p "$tmp/image")")"/modules/*.ko "$R/modules/" 2>/dev/null || true
cp "$(command -v busybox)" "$R/test/" # insmod
(cd "$R" && find . | busybox cpio -o -H newc -R 0:0 2>/dev/null) >"$tmp/root.cpio"
rm -rf "$R"
"$HERE/run.sh" -r "$tmp/root.cpio" "$HERE/systemd_inside.sh"
