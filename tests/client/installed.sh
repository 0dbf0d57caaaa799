#!/bin/bash
# The library as it is installed: the README's program compiles with what pkg-config says, against the shared and the static one,
# and starts. usage: installed.sh SOURCE-ROOT BUILD; exit status 77: there is no pkg-config.
set -euo pipefail
root=$1 build=$2
command -v pkg-config >/dev/null || { echo "pkg-config is not installed"; exit 77; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
DESTDIR=$tmp/root meson install -C "$build" --no-rebuild --tags runtime,devel >"$tmp/log" 2>&1 || { tail "$tmp/log"; exit 1; }
export PKG_CONFIG_SYSROOT_DIR=$tmp/root
PKG_CONFIG_PATH=$(dirname "$(find "$tmp/root" -name sealane.pc)")
export PKG_CONFIG_PATH
lib=$(dirname "$PKG_CONFIG_PATH")

sed -n '/^\/\* hello.c/,/^```/p' "$root/README.md" | sed '$d' >"$tmp/hello.c"
grep -q sealane_connect "$tmp/hello.c" || { echo "README.md has no hello.c any more"; exit 1; }
# shellcheck disable=SC2046 # words
cc -Wall -Wextra -Werror "$tmp/hello.c" $(pkg-config --cflags --libs sealane) -o "$tmp/hello"
# shellcheck disable=SC2046 # words
cc -Wall -Wextra -Werror "$tmp/hello.c" $(pkg-config --cflags sealane) "$lib/libsealane.a" -o "$tmp/hello_static"
for program in hello hello_static; do
	said=$(SEALANE_DIR=/nonexistent LD_LIBRARY_PATH=$lib "$tmp/$program" 2>&1) && { echo "$program found a lane where there is none"; exit 1; }
	[[ $said = /nonexistent/control.sock:* ]] || { echo "$program: $said"; exit 1; }
done
[ "$(readlink "$lib/libsealane.so")" = libsealane.so.0 ] || { ls -l "$lib"; exit 1; }
echo "hello.c compiles and starts, shared and static"
